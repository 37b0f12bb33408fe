//! Deliveries, settlements, transactions and confirms, as clients see them.

use super::*;

fn consuming(broker: &Arc<Broker>, prefetch: u16, bits: u8) -> Script {
    let mut script = Script::with_channel(broker);
    script.declare("q", 0);
    script.send(1, wire::qos(prefetch, false));
    script.expect(Event::bare(1, 60, 11));
    script.send(1, wire::consume("q", "c", bits));
    script.expect_ids(1, (60, 21));
    script
}

fn publish(script: &mut Script, bodies: &[&str]) {
    for body in bodies {
        script.publish(1, "", "q", 0, wire::TRANSIENT, body.as_bytes());
    }
}

#[test]
fn a6_prefetch_holds_deliveries_back_until_they_are_settled() {
    let mut script = consuming(&broker(limits()), 2, 0);
    publish(&mut script, &["1", "2", "3", "4", "5"]);
    let tags = script.expect_deliveries(&[("1", false), ("2", false)]);
    script.expect_nothing();
    script.send(1, wire::ack(tags[1], false));
    script.expect_deliveries(&[("3", false)]);
    script.expect_nothing();
    script.send(1, wire::ack(0, true));
    script.expect_deliveries(&[("4", false), ("5", false)]);
}

#[test]
fn a6_a_limit_of_the_channel_spans_its_consumers() {
    let mut script = consuming(&broker(limits()), 0, 0);
    script.send(1, wire::declare_queue("r", 0));
    script.next();
    script.send(1, wire::qos(2, true));
    script.expect(Event::bare(1, 60, 11));
    script.send(1, wire::consume("r", "d", 0));
    script.expect_ids(1, (60, 21));
    publish(&mut script, &["q1", "q2"]);
    let tags = script.expect_deliveries(&[("q1", false), ("q2", false)]);
    script.publish(1, "", "r", 0, wire::TRANSIENT, b"r1");
    script.expect_nothing();
    script.send(1, wire::ack(tags[0], false));
    script.expect_deliveries(&[("r1", false)]);
    publish(&mut script, &["q3", "q4"]);
    script.expect_nothing();
    script.send(1, wire::qos(4, true));
    script.expect(Event::bare(1, 60, 11));
    script.expect_deliveries(&[("q3", false), ("q4", false)]);
}

#[test]
fn a6_requeued_messages_come_back_where_they_were() {
    let mut script = consuming(&broker(limits()), 3, 0);
    publish(&mut script, &["1", "2", "3", "4"]);
    script.expect_deliveries(&[("1", false), ("2", false), ("3", false)]);
    script.send(1, wire::cancel("c"));
    script.expect_ids(1, (60, 31));
    script.send(1, wire::reject(2, true));
    script.send(1, wire::nack(1, false, true));
    script.send(1, wire::reject(3, false));
    script.send(1, wire::consume("q", "d", wire::NO_ACK));
    script.expect_ids(1, (60, 21));
    script.expect_deliveries(&[("1", true), ("2", true), ("4", false)]);
    script.expect_nothing();
}

#[test]
fn a6_recover_answers_before_it_delivers_again() {
    let mut script = consuming(&broker(limits()), 0, 0);
    publish(&mut script, &["1", "2"]);
    script.expect_deliveries(&[("1", false), ("2", false)]);
    script.send(1, wire::recover(true));
    script.expect(Event::bare(1, 60, 111));
    assert_eq!(script.expect_deliveries(&[("1", true), ("2", true)]), [3, 4]);
}

#[test]
fn a6_what_was_on_its_way_goes_out_before_cancel_ok() {
    let broker = broker(limits());
    let mut script = consuming(&broker, 0, 0);
    let mut other = Script::with_channel(&broker);
    publish(&mut other, &["1"]);
    script.send(1, wire::cancel("c"));
    script.expect_deliveries(&[("1", false)]);
    script.expect_ids(1, (60, 31));
    publish(&mut other, &["2"]);
    script.wake();
    script.expect_nothing();
    assert_eq!(other.count("q"), 1);
}

#[test]
fn a9_consumers_take_turns() {
    let broker = broker(limits());
    let mut first = consuming(&broker, 0, wire::NO_ACK);
    let mut second = Script::with_channel(&broker);
    second.send(1, wire::consume("q", "c", wire::NO_ACK));
    second.expect_ids(1, (60, 21));
    let mut publisher = Script::with_channel(&broker);
    publish(&mut publisher, &["1", "2", "3", "4"]);
    first.wake();
    second.wake();
    first.expect_deliveries(&[("1", false), ("3", false)]);
    second.expect_deliveries(&[("2", false), ("4", false)]);
}

#[test]
fn a6_an_exclusive_consumer_is_alone() {
    let broker = broker(limits());
    let mut first = consuming(&broker, 0, wire::EXCLUSIVE_CONSUMER);
    let mut second = Script::with_channel(&broker);
    let refusal = "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use";
    second.send(1, wire::consume("q", "c", 0));
    second.expect_channel_close(1, 403, refusal);
    second.send(1, wire::channel_close_ok());
    second.open_channel(1);
    first.send(1, wire::cancel("c"));
    second.send(1, wire::consume("q", "c", 0));
    second.expect_ids(1, (60, 21));
    first.expect_ids(1, (60, 31));
    first.send(1, wire::consume("q", "c", wire::EXCLUSIVE_CONSUMER));
    first.expect_channel_close(1, 403, refusal);
}

#[test]
fn a6_a_return_comes_before_the_confirm() {
    let mut script = Script::with_channel(&broker(limits()));
    script.send(1, wire::confirm_select());
    script.expect(Event::bare(1, 85, 11));
    script.publish(1, "", "nowhere", wire::MANDATORY, wire::TRANSIENT, b"x");
    let (text, key, body) = ("NO_ROUTE".to_owned(), "nowhere".to_owned(), b"x".to_vec());
    script.expect(Event::Return { channel: 1, code: 312, text, key, body });
    script.expect(Event::Ack { channel: 1, tag: 1, multiple: false });
}

#[test]
fn a7_a_transaction_takes_effect_at_commit() {
    let broker = broker(limits());
    let mut script = consuming(&broker, 0, 0);
    publish(&mut script, &["1", "2"]);
    script.expect_deliveries(&[("1", false), ("2", false)]);
    script.send(1, wire::tx_select());
    script.expect(Event::bare(1, 90, 11));
    publish(&mut script, &["3"]);
    script.publish(1, "", "nowhere", wire::MANDATORY, wire::TRANSIENT, b"back");
    script.send(1, wire::ack(1, false));
    script.expect_nothing();
    let mut other = Script::with_channel(&broker);
    assert_eq!(other.count("q"), 0);
    script.send(1, wire::tx_commit());
    assert!(matches!(script.next(), Some(Event::Return { body, .. }) if body == b"back"));
    script.expect_deliveries(&[("3", false)]);
    script.expect(Event::bare(1, 90, 21));
    script.send(1, wire::channel_close());
    assert_eq!(other.count("q"), 2, "the acked one is gone");
}

#[test]
fn a7_a_rollback_forgets_publishes_and_leaves_deliveries_unacked() {
    let broker = broker(limits());
    let mut script = consuming(&broker, 0, 0);
    publish(&mut script, &["1", "2"]);
    script.expect_deliveries(&[("1", false), ("2", false)]);
    script.send(1, wire::tx_select());
    script.expect(Event::bare(1, 90, 11));
    publish(&mut script, &["3"]);
    script.send(1, wire::ack(1, false));
    script.send(1, wire::nack(2, false, true));
    script.send(1, wire::tx_rollback());
    script.expect(Event::bare(1, 90, 31));
    script.send(1, wire::ack(2, true));
    script.send(1, wire::tx_commit());
    script.expect(Event::bare(1, 90, 21));
    script.send(1, wire::channel_close());
    let mut other = Script::with_channel(&broker);
    assert_eq!(other.count("q"), 0);
}

#[test]
fn a7_an_open_transaction_is_undone_by_the_end_of_its_channel() {
    let broker = broker(limits());
    let mut script = consuming(&broker, 0, 0);
    publish(&mut script, &["1"]);
    script.expect_deliveries(&[("1", false)]);
    script.send(1, wire::tx_select());
    script.send(1, wire::ack(1, false));
    publish(&mut script, &["2"]);
    let now = script.now();
    script.session.handle_disconnect(now);
    let mut other = Script::with_channel(&broker);
    assert_eq!(other.count("q"), 1);
}
