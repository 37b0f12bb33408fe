//! What operators see of connections and channels, what is counted, and how they end a connection.

use std::sync::atomic::Ordering;

use super::*;
use crate::{
    broker::{
        connections::{ChannelStatus, ConnectionStatus},
        stats::MessageCounts,
    },
    session::Login,
};

fn only_connection(broker: &Broker) -> Arc<ConnectionStatus> {
    let list = broker.connections.list();
    assert_eq!(list.len(), 1);
    Arc::clone(&list[0])
}

fn only_channel(broker: &Broker) -> Arc<ChannelStatus> {
    let channels = only_connection(broker).channels();
    assert_eq!(channels.len(), 1);
    Arc::clone(&channels[0].1)
}

/// A session of the broker with itself, open, with channel 1.
fn internal(broker: &Arc<Broker>) -> Script {
    let mut script = Script::accepted(broker, "127.0.0.1:50000");
    let user = broker.users.get("guest").expect("a user");
    let peer = Peer { login: Login::Internal(user), ..script.session.peer.clone() };
    script.session = Session::new(Arc::clone(broker), peer, script.now());
    script.raw(wire::HEADER);
    script.send(0, wire::start_ok("", "", &[]));
    script.send(0, wire::tune_ok(2047, 131_072, 0));
    script.send(0, wire::open("/"));
    [(10, 10), (10, 30), (10, 41)].into_iter().for_each(|ids| drop(script.expect_ids(0, ids)));
    script.open_channel(1);
    script
}

#[test]
fn a_connection_is_seen_from_its_open_to_its_end() {
    for drops in [false, true] {
        let broker = broker(limits());
        let mut script = Script::accepted(&broker, "127.0.0.1:50000");
        script.raw(wire::HEADER);
        assert_eq!(broker.connections.list().len(), 0, "it is not open yet");
        drop(script);
        let mut script = Script::with_channel(&broker);
        let connection = only_connection(&broker);
        assert_eq!(connection.name(), "127.0.0.1:50000 -> 127.0.0.1:5672");
        assert_eq!(
            (&*connection.user, &*connection.virtual_host, connection.mechanism),
            ("guest", "/", "PLAIN")
        );
        let properties = connection.client_properties();
        assert!(properties.get("capabilities").is_some(), "{properties}");
        assert_eq!(
            (connection.channel_max, connection.frame_max, connection.heartbeat_secs),
            (2047, 131_072, 0)
        );
        assert_eq!(connection.connected_ms, script.now_ms);
        assert_eq!(connection.channels().iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1]);
        script.open_channel(7);
        script.open_channel(3);
        assert_eq!(connection.channels().iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 3, 7]);
        script.send(3, wire::channel_close());
        script.expect_ids(3, (20, 41));
        assert_eq!(connection.channel_count(), 2);
        let stats = &broker.stats;
        assert_eq!((stats.connections.get(), stats.channels.get()), (1, 2));
        assert_eq!((stats.channels_opened.get(), stats.channels_closed.get()), (3, 1));
        if drops {
            drop(script);
        } else {
            script.send(0, wire::connection_close());
        }
        assert_eq!(broker.connections.list().len(), 0);
        assert_eq!((stats.connections.get(), stats.channels.get()), (0, 0));
        assert_eq!((stats.connections_opened.get(), stats.connections_closed.get()), (1, 1));
        assert_eq!(stats.channels_closed.get(), 3);
    }
}

#[test]
fn octets_are_counted_from_the_first_on() {
    let broker = broker(limits());
    let mut script = Script::open(&broker);
    let connection = only_connection(&broker);
    let (received, packets) = (connection.received_bytes.get(), connection.received_packets.get());
    assert!(received > 50 && packets == 4, "{received} {packets}");
    script.session.input().extend_from_slice(&wire::heartbeat()[..3]);
    script.session.handle_input(Now::made_up(1_000_000));
    script.session.input().extend_from_slice(&wire::heartbeat()[3..]);
    script.session.handle_input(Now::made_up(1_000_000));
    assert_eq!(
        (connection.received_bytes.get(), connection.received_packets.get()),
        (received + 8, packets + 2)
    );
    script.feed(&wire::channel_open().on(1));
    let unsent = connection.unsent_bytes.get();
    assert!(unsent > 0);
    script.session.handle_written(usize::try_from(unsent).expect("few"), Now::made_up(1_000_000));
    assert_eq!((connection.unsent_bytes.get(), connection.sent_bytes.get()), (0, unsent));
    assert_eq!(connection.sent_packets.get(), 1);
}

/// RabbitMQ 3.10.8: the reason of `DELETE /api/connections/{name}` is the text.
#[test]
fn an_operator_closes_a_connection_with_a_reason() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    only_connection(&broker).close("Closed via management plugin");
    script.wake();
    script.expect_connection_close(320, "CONNECTION_FORCED - Closed via management plugin");
    assert_eq!(broker.connections.list().len(), 0);
    script.wake();
    script.expect_nothing();
}

/// RabbitMQ 3.10.8.
#[test]
fn the_connections_of_a_deleted_user_are_closed() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    let mut own = internal(&broker);
    broker.delete_user("ann");
    script.wake();
    script.expect_nothing();
    broker.delete_user("guest");
    script.wake();
    script.expect_connection_close(320, "CONNECTION_FORCED - user 'guest' is deleted");
    own.wake();
    own.expect_connection_close(320, "CONNECTION_FORCED - user 'guest' is deleted");
}

#[test]
fn a_user_who_is_deleted_during_the_handshake_gets_no_connection() {
    let broker = broker(limits());
    let mut script = Script::accepted(&broker, "127.0.0.1:50000");
    script.raw(wire::HEADER);
    script.send(0, wire::start_ok("guest", "guest", &["authentication_failure_close"]));
    script.send(0, wire::tune_ok(2047, 131_072, 0));
    let everything = Permission::new(".*", ".*", ".*").expect("patterns");
    broker.delete_user("guest");
    // As if the permissions had been looked at before.
    broker.permissions.grant("guest", "/", everything);
    script.send(0, wire::open("/"));
    [(10, 10), (10, 30), (10, 41)].into_iter().for_each(|ids| drop(script.expect_ids(0, ids)));
    script.expect_connection_close(320, "CONNECTION_FORCED - user 'guest' is deleted");
}

#[test]
fn permissions_act_on_connections_that_are_open() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    script.declare("q", 0);
    let publish = |script: &mut Script| script.publish(1, "", "q", 0, wire::TRANSIENT, b"x");
    publish(&mut script);
    assert_eq!(script.count("q"), 1);
    broker.grant("guest", "/", Permission::new(".*", "^$", ".*").expect("patterns"));
    publish(&mut script);
    let refused = "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'guest'";
    script.expect_channel_close(1, 403, refused);
    script.send(1, wire::channel_close_ok());
    script.open_channel(1);
    broker.grant("guest", "/", Permission::new(".*", ".*", "^$").expect("patterns"));
    publish(&mut script);
    script.send(1, wire::consume("q", "c", 0));
    let refused = "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'guest'";
    script.expect_channel_close(1, 403, refused);
    script.send(1, wire::channel_close_ok());
    script.open_channel(1);
    broker.revoke("guest", "/");
    publish(&mut script);
    let refused = "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'guest'";
    script.expect_channel_close(1, 403, refused);
}

#[test]
fn tags_act_on_connections_that_are_open() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    script.declare("q", 0);
    let as_ann = [&[0, 0x10, 3], &b"ann"[..]].concat();
    let guest = broker.users.get("guest").expect("a user");
    broker.put_user(User { tags: vec!["impersonator".into()], ..User::clone(&guest) });
    script.publish(1, "", "q", 0, &as_ann, b"x");
    assert_eq!(script.count("q"), 1);
    broker.put_user(User::clone(&guest));
    script.publish(1, "", "q", 0, &as_ann, b"x");
    let refused = "PRECONDITION_FAILED - user_id property set to 'ann' but authenticated user was 'guest'";
    script.expect_channel_close(1, 406, refused);
}

#[test]
fn the_brokers_own_connections_are_not_seen_and_count_against_no_limit() {
    let broker = broker(Limits { connections_max: Some(1), channels_max: Some(1), ..limits() });
    let mut own = internal(&broker);
    let script = Script::with_channel(&broker);
    assert_eq!(only_connection(&broker).user, "guest".into());
    assert_eq!((broker.stats.connections.get(), broker.stats.channels.get()), (1, 1));
    own.declare("q", 0);
    own.publish(1, "", "q", 0, wire::TRANSIENT, b"x");
    assert_eq!(own.count("q"), 1);
    drop((own, script));
    let stats = &broker.stats;
    assert_eq!((stats.connections.get(), stats.channels.get(), stats.publishers.get()), (0, 0, 0));
    assert_eq!((stats.connections_opened.get(), stats.connections_closed.get()), (1, 1));
}

#[test]
fn what_happens_to_messages_is_counted_everywhere() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    script.declare("q", 0);
    script.send(1, wire::confirm_select());
    script.expect_ids(1, (85, 11));
    (0..4).for_each(|_| script.publish(1, "", "q", 0, wire::TRANSIENT, b"body"));
    script.publish(1, "", "nowhere", wire::MANDATORY, wire::TRANSIENT, b"");
    script.publish(1, "", "nowhere", 0, wire::TRANSIENT, b"");
    script.send(1, wire::qos(2, false));
    script.send(1, wire::consume("q", "c", 0));
    script.send(1, wire::ack(1, false));
    script.send(1, wire::nack(2, false, true));
    script.send(1, wire::get("q", true));
    script.send(1, wire::get("q", false));
    let counts = only_channel(&broker).messages.counts();
    let expected = MessageCounts {
        publish: 6,
        confirm: 6,
        return_unroutable: 1,
        drop_unroutable: 1,
        deliver: 4,
        redeliver: 1,
        ack: 1,
        get_no_ack: 1,
        get_empty: 1,
        ..MessageCounts::default()
    };
    assert_eq!(counts, expected);
    assert_eq!(broker.stats.messages.counts(), expected, "the only channel is all there is");
    let host = broker.virtual_host("/").expect("it is there");
    let queue = host.queue("q").expect("it is there");
    let of_queue =
        MessageCounts { publish: 4, confirm: 0, return_unroutable: 0, drop_unroutable: 0, ..expected };
    assert_eq!(queue.messages.counts(), of_queue);
    let exchange = host.exchange("").expect("it is there");
    assert_eq!((exchange.published_in.get(), exchange.published_out.get()), (6, 4));
    let stats = &broker.stats;
    assert_eq!((stats.publish_confirm.get(), stats.routed.get()), (6, 4));
    let delivered = &stats.delivered[0];
    assert_eq!((delivered.consume_manual_ack.get(), delivered.consume_auto_ack.get()), (4, 0));
    assert_eq!((delivered.get_auto_ack.get(), delivered.get_empty.get()), (1, 1));
    assert_eq!((delivered.redelivered.get(), delivered.acknowledged.get()), (1, 1));
    assert_eq!((stats.message_bytes.count(), stats.message_bytes.sum()), (6, 16));
    assert_eq!(stats.dwell_ms.count(), 5);
    assert_eq!((stats.publishers.get(), stats.consumers.get()), (1, 1));
    assert_eq!((stats.ready.get(), stats.unacked.get()), (0, 2));
    script.send(1, wire::channel_close());
    assert_eq!((stats.publishers.get(), stats.consumers.get()), (0, 0));
    assert_eq!((stats.ready.get(), stats.unacked.get()), (2, 0));
    let host = broker.virtual_host("/").expect("it is there");
    drop((script, queue));
    let mut script = Script::with_channel(&broker);
    script.send(1, wire::delete_queue("q"));
    drop(host);
    assert_eq!((stats.ready.get(), stats.unacked.get()), (0, 0));
    assert_eq!(
        (stats.queues_declared.get(), stats.queues_created.get(), stats.queues_deleted.get()),
        (1, 1, 1)
    );
}

#[test]
fn a_channel_says_what_it_has_under_way() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    script.declare("q", wire::DURABLE);
    let channel = only_channel(&broker);
    assert_eq!(channel.used_ms.load(Ordering::Relaxed), script.now_ms);
    script.now_ms += 5_000;
    script.send(1, wire::qos(7, false));
    script.send(1, wire::consume("q", "c", 0));
    assert_eq!(channel.used_ms.load(Ordering::Relaxed), script.now_ms);
    (0..3).for_each(|_| script.publish(1, "", "q", 0, wire::TRANSIENT, b"x"));
    assert_eq!((channel.prefetch.get(), channel.global_prefetch.get(), channel.consumers.get()), (7, 0, 1));
    assert_eq!(channel.unacked.get(), 3);
    script.send(1, wire::tx_select());
    assert!(channel.is_transactional.load(Ordering::Relaxed));
    script.publish(1, "", "q", 0, wire::TRANSIENT, b"x");
    script.send(1, wire::ack(2, true));
    assert_eq!((channel.uncommitted.get(), channel.uncommitted_acks.get(), channel.unacked.get()), (1, 2, 1));
    assert_eq!(channel.messages.counts().publish, 3, "nothing is published before the commit");
    script.send(1, wire::tx_rollback());
    assert_eq!((channel.uncommitted.get(), channel.uncommitted_acks.get(), channel.unacked.get()), (0, 0, 3));
    script.publish(1, "", "q", 0, wire::TRANSIENT, b"x");
    script.send(1, wire::ack(2, true));
    script.send(1, wire::tx_commit());
    assert_eq!((channel.uncommitted.get(), channel.uncommitted_acks.get(), channel.unacked.get()), (0, 0, 2));
    assert_eq!((channel.messages.counts().publish, channel.messages.counts().ack), (4, 2));
    script.send(1, wire::cancel("c"));
    script.send(1, wire::recover(true));
    assert_eq!((channel.consumers.get(), channel.unacked.get()), (0, 0));
    script.send(1, wire::qos(9, true));
    assert_eq!(channel.global_prefetch.get(), 9);

    script.send(1, wire::channel_close());
    script.events.clear();
    script.open_channel(1);
    let channel = only_channel(&broker);
    script.syncs = false;
    script.send(1, wire::confirm_select());
    (0..2).for_each(|_| script.publish(1, "", "q", 0, wire::PERSISTENT, b"x"));
    assert!(channel.confirms.load(Ordering::Relaxed));
    assert_eq!((channel.unconfirmed.get(), channel.messages.counts().confirm), (2, 0));
    script.sync();
    script.wake();
    assert_eq!((channel.unconfirmed.get(), channel.messages.counts().confirm), (0, 2));
}

#[test]
fn who_is_blocked_is_seen() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    let connection = only_connection(&broker);
    broker.alarms.set(crate::broker::alarm::Resource::Memory, true);
    script.wake();
    assert!(!connection.is_blocked.load(Ordering::Relaxed), "it has not published");
    script.publish(1, "", "q", 0, wire::TRANSIENT, b"x");
    assert!(connection.is_blocked.load(Ordering::Relaxed));
    assert_eq!(connection.last_blocked_ms.load(Ordering::Relaxed), script.now_ms);
    broker.alarms.set(crate::broker::alarm::Resource::Memory, false);
    script.wake();
    assert!(!connection.is_blocked.load(Ordering::Relaxed));
}

#[test]
fn logins_are_counted() {
    let broker = broker(limits());
    for (password, succeeded, failed) in [("guest", 1, 0), ("wrong", 1, 1)] {
        let mut script = Script::accepted(&broker, "127.0.0.1:50000");
        script.raw(wire::HEADER);
        script.send(0, wire::start_ok("guest", password, &[]));
        assert_eq!(
            (broker.stats.logins_succeeded.get(), broker.stats.logins_failed.get()),
            (succeeded, failed)
        );
    }
}

#[test]
fn dead_letters_are_counted_by_reason() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    script.declare("plain", 0);
    let letters = wire::text_field("x-dead-letter-exchange", "");
    let key = wire::text_field("x-dead-letter-routing-key", "plain");
    script.send(1, wire::declare_queue_with("dying", 0, &[letters, key].concat()));
    script.next();
    for queue in ["dying", "plain"] {
        script.publish(1, "", queue, 0, wire::TRANSIENT, b"x");
        script.send(1, wire::get(queue, false));
        let Some(Event::GetOk { tag, .. }) = script.next() else { panic!("nothing in {queue}") };
        script.send(1, wire::reject(tag, false));
    }
    let dead = &broker.stats.dead[0];
    let reason = crate::broker::death::Reason::Rejected;
    assert_eq!(
        (dead.of(reason, false).get(), dead.of(reason, true).get(), dead.disabled(reason).get()),
        (1, 0, 1)
    );
}

#[test]
fn the_consumers_of_a_queue_are_listed() {
    let broker = broker(limits());
    let mut script = Script::with_channel(&broker);
    script.declare("q", 0);
    script.send(1, wire::qos(3, false));
    script.send(1, wire::consume("q", "c", 0));
    let queue = broker.virtual_host("/").and_then(|host| host.queue("q")).expect("it is there");
    let list = queue.lock().consumer_list();
    let consumer = &list[0];
    assert_eq!((&*consumer.tag, consumer.channel, consumer.prefetch), ("c", 1, 3));
    assert_eq!(consumer.connection, only_connection(&broker).id());
    assert!(consumer.ack_required && consumer.is_active && !consumer.exclusive && list.len() == 1);
    assert!(queue.lock().figures(script.now()).has_free_consumer);
}
