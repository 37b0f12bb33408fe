//! How the broker ends.

use crate::{
    broker::{TestBroker, is_external},
    wire::{Close, Incoming, Login, Refusal, Wire},
};

use amq_protocol::protocol::connection::CloseOk;

#[test]
fn sigterm_closes_clients_and_exits_cleanly() {
    if is_external() {
        return;
    }
    let broker = TestBroker::start("");
    let mut clients: Vec<Wire> = (0..3).map(|_| Wire::open(&broker)).collect();
    broker.terminate();
    let text = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'".to_owned();
    let close = Close { code: 320, text, class_id: 0, method_id: 0 };
    for wire in &mut clients {
        assert_eq!(wire.refusal(), Refusal::Connection(close.clone()));
        wire.send(0, CloseOk {});
        assert_eq!(wire.next(), Incoming::End);
    }
    assert_eq!(broker.wait().code(), Some(0));
}

#[test]
fn clients_that_do_not_answer_do_not_keep_it() {
    if is_external() {
        return;
    }
    let broker = TestBroker::start("");
    let _silent = Wire::open(&broker);
    let _halfway = Wire::tuned(&broker, &Login::default());
    let _unknown = Wire::tcp(&broker);
    broker.terminate();
    assert_eq!(broker.wait().code(), Some(0));
}
