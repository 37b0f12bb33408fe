//! Classes connection, channel, access, tx and confirm.

use amq_protocol::protocol::{access, basic, channel, confirm, connection, exchange, queue, tx};

use super::{Scene, Table};
use crate::{
    broker::shared,
    wire::{Close, Login, METHOD, Method, Refusal, Wire, ack, declare, declare_exchange, prefetch, publish},
};

const OPEN_EXPECTED: &str = "CHANNEL_ERROR - expected 'channel.open'";
const UNIMPLEMENTED: &str = "COMMAND_INVALID - unimplemented method";
const RUNNING: &str = "CHANNEL_ERROR - unexpected method in connection state running";

#[test]
fn channels() {
    let mut rows = Table::default();
    rows.connection(
        "A1.11 channel opened twice",
        (504, "CHANNEL_ERROR - second 'channel.open' seen", 20, 10),
        |s| {
            s.send(channel::Open {});
        },
    );
    not_open(&mut rows, (50, 10), |_| declare("q"));
    not_open(&mut rows, (60, 10), |_| prefetch(0));
    not_open(&mut rows, (60, 80), |_| ack(1));
    not_open(&mut rows, (90, 10), |_| tx::Select {});
    not_open(&mut rows, (20, 20), |_| channel::Flow { active: true });
    not_open(&mut rows, (20, 40), |_| channel::Close::default());
    not_open(&mut rows, (20, 41), |_| channel::CloseOk {});
    not_open(&mut rows, (10, 40), |_| connection::Open::default());
    not_open(&mut rows, (10, 50), |_| connection::Close::default());
    rows.connection("A1.11 publish on a channel that is not open", (504, OPEN_EXPECTED, 60, 40), |s| {
        s.wire.publish_with(5, publish("", "k"), &Default::default(), b"m");
    });
    rows.connection("A3 method on a channel after its close", (504, OPEN_EXPECTED, 50, 10), |s| {
        s.done(prefetch(0));
        s.send(channel::Close { reply_code: 200, ..channel::Close::default() });
        s.wire.expect::<channel::CloseOk>(1);
        s.send(declare("q"));
    });
    rows.connection("A3 flow off", (540, "NOT_IMPLEMENTED - active=false", 20, 20), |s| {
        s.send(channel::Flow { active: false });
    });
    rows.answer("A3 flow on", "Channel.FlowOk", |s| s.send(channel::Flow { active: true }));
    rows.answer("A3 access.request", "Access.RequestOk", |s| {
        s.send(access::Request { realm: "/data".into(), active: true, ..access::Request::default() });
    });
    rows.answer("A1.12 a closing channel hears nothing", "Channel.OpenOk", |s| {
        s.send(ack(9));
        assert!(matches!(s.wire.refusal(), Refusal::Channel(1, _)));
        s.send(declare("amq.never"));
        s.send(ack(10));
        s.wire.publish(1, "nowhere", "m");
        s.send(channel::CloseOk {});
        s.send(channel::Open {});
    });
    rows.answer("A1.12 both sides close a channel", "Channel.OpenOk", |s| {
        s.send(ack(9));
        assert!(matches!(s.wire.refusal(), Refusal::Channel(1, _)));
        s.send(channel::Close { reply_code: 200, ..channel::Close::default() });
        s.wire.expect::<channel::CloseOk>(1);
        s.send(channel::CloseOk {});
        s.send(channel::Open {});
    });
    rows.check();
}

#[test]
fn methods_that_only_a_server_sends() {
    let mut rows = Table::default();
    not_for_clients(&mut rows, (20, 11), |_| channel::OpenOk {});
    not_for_clients(&mut rows, (20, 21), |_| channel::FlowOk { active: true });
    not_for_clients(&mut rows, (20, 41), |_| channel::CloseOk {});
    not_for_clients(&mut rows, (30, 11), |_| access::RequestOk::default());
    not_for_clients(&mut rows, (40, 11), |_| exchange::DeclareOk {});
    not_for_clients(&mut rows, (50, 11), |_| queue::DeclareOk::default());
    not_for_clients(&mut rows, (60, 11), |_| basic::QosOk {});
    not_for_clients(&mut rows, (60, 21), |_| basic::ConsumeOk::default());
    not_for_clients(&mut rows, (60, 72), |_| basic::GetEmpty::default());
    not_for_clients(&mut rows, (60, 111), |_| basic::RecoverOk {});
    not_for_clients(&mut rows, (90, 11), |_| tx::SelectOk {});
    not_for_clients(&mut rows, (85, 11), |_| confirm::SelectOk {});
    not_for_clients(&mut rows, (10, 31), |_| connection::TuneOk::default());
    not_for_clients(&mut rows, (10, 40), |_| connection::Open::default());
    not_for_clients(&mut rows, (10, 50), |_| connection::Close::default());
    rows.check();
}

/// Deviation: RabbitMQ ends the stream without a word.
#[test]
fn unknown_methods() {
    let mut rows = Table::default();
    for (class_id, method_id) in [(60_u16, 130_u16), (60, 0), (99, 1), (20, 99), (0, 0), (65_535, 65_535)] {
        for channel in [0, 1] {
            let name = format!("A3 unknown method {class_id}.{method_id} on channel {channel}");
            rows.connection_code(&name, 503, move |s| {
                let payload = [class_id.to_be_bytes(), method_id.to_be_bytes()].concat();
                s.wire.frame(METHOD, channel, &payload);
            });
        }
    }
    rows.check();
}

#[test]
fn channel_zero() {
    let mut rows = Table::default();
    on_channel_zero(&mut rows, (20, 10), |_| channel::Open {});
    on_channel_zero(&mut rows, (20, 40), |_| channel::Close::default());
    on_channel_zero(&mut rows, (20, 41), |_| channel::CloseOk {});
    on_channel_zero(&mut rows, (50, 10), |_| declare("q"));
    on_channel_zero(&mut rows, (60, 40), |_| publish("", "k"));
    on_channel_zero(&mut rows, (60, 80), |_| ack(1));
    on_channel_zero(&mut rows, (40, 10), |_| declare_exchange("x", "direct"));
    on_channel_zero(&mut rows, (90, 10), |_| tx::Select {});
    on_channel_zero(&mut rows, (10, 11), |_| connection::StartOk::default());
    on_channel_zero(&mut rows, (10, 21), |_| connection::SecureOk::default());
    on_channel_zero(&mut rows, (10, 31), |_| connection::TuneOk::default());
    on_channel_zero(&mut rows, (10, 40), |_| connection::Open::default());
    on_channel_zero(&mut rows, (10, 51), |_| connection::CloseOk {});
    rows.check();
}

#[test]
fn transactions_and_confirms() {
    let mut rows = Table::default();
    let not_tx = "PRECONDITION_FAILED - channel is not transactional";
    rows.channel("A7 commit without select", (406, not_tx, 90, 20), |s| s.send(tx::Commit {}));
    rows.channel("A7 rollback without select", (406, not_tx, 90, 30), |s| s.send(tx::Rollback {}));
    for nowait in [false, true] {
        rows.channel(
            "A7 confirm.select after tx.select",
            (406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode", 85, 10),
            move |s| {
                s.done(tx::Select {});
                s.send(confirm::Select { nowait });
            },
        );
    }
    rows.channel(
        "A7 tx.select after confirm.select",
        (406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode", 90, 10),
        |s| {
            s.done(confirm::Select { nowait: false });
            s.send(tx::Select {});
        },
    );
    rows.channel("A7 commit after confirm.select", (406, not_tx, 90, 20), |s| {
        s.done(confirm::Select { nowait: false });
        s.send(tx::Commit {});
    });
    rows.answer("A7 tx.select twice", "Tx.SelectOk", |s| {
        s.done(tx::Select {});
        s.send(tx::Select {});
    });
    rows.answer("A7 confirm.select twice", "Confirm.SelectOk", |s| {
        s.done(confirm::Select { nowait: false });
        s.send(confirm::Select { nowait: false });
    });
    rows.channel(
        "A7 an unknown tag is refused before the commit",
        (406, "PRECONDITION_FAILED - unknown delivery tag 5", 60, 80),
        |s| {
            s.done(tx::Select {});
            s.send(ack(5));
        },
    );
    rows.channel(
        "A7 a publish to a missing exchange is refused before the commit",
        (404, "NOT_FOUND - no exchange '{n}' in vhost '/'", 60, 40),
        |s| {
            s.done(tx::Select {});
            s.wire.publish_with(1, publish(&s.name, "k"), &Default::default(), b"m");
        },
    );
    rows.check();
}

#[test]
fn channel_max_counts_open_channels() {
    let mut wire = Wire::login(&shared(), &Login { channel_max: 2, ..Login::default() });
    wire.open_channel(7);
    wire.open_channel(9);
    wire.send(9, channel::Close { reply_code: 200, ..channel::Close::default() });
    wire.expect::<channel::CloseOk>(9);
    wire.open_channel(65_535);
    wire.send(11, channel::Open {});
    let text = "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)";
    let close = Close { code: 530, text: text.to_owned(), class_id: 0, method_id: 0 };
    assert_eq!(wire.refusal(), Refusal::Connection(close));
}

/// A row: a method on channel 5, which nobody opened.
fn not_open<M: Method + 'static>(
    rows: &mut Table,
    (class_id, method_id): (u16, u16),
    method: fn(&Scene) -> M,
) {
    let name = format!("A1.11 {class_id}.{method_id} on a channel that is not open");
    rows.connection(&name, (504, OPEN_EXPECTED, class_id, method_id), move |s| {
        let method = method(s);
        s.wire.send(5, method);
    });
}

/// A row: a method that a client has no business sending.
fn not_for_clients<M: Method + 'static>(
    rows: &mut Table,
    (class_id, method_id): (u16, u16),
    method: fn(&Scene) -> M,
) {
    let name = format!("A3 client sends {class_id}.{method_id} on a channel");
    rows.connection(&name, (503, UNIMPLEMENTED, class_id, method_id), move |s| s.send(method(s)));
}

/// A row: a method on channel 0 of a connection that is open.
fn on_channel_zero<M: Method + 'static>(
    rows: &mut Table,
    (class_id, method_id): (u16, u16),
    method: fn(&Scene) -> M,
) {
    let name = format!("A2 {class_id}.{method_id} on channel 0");
    rows.connection(&name, (504, RUNNING, class_id, method_id), move |s| {
        let method = method(s);
        s.wire.send(0, method);
    });
}
