//! What RabbitMQ 3.10 answers, where it is not what one would expect.

use super::*;

/// Reply code, class and method ids, and text of the last frame, a close of the connection or of a channel.
fn closed(client: &mut Client) -> (u16, (u16, u16), String) {
    let (_, _, payload) = client.frames().pop().expect("a frame");
    let number = |octets: &[u8]| u16::from_be_bytes([octets[0], octets[1]]);
    assert!(matches!((number(&payload), number(&payload[2..])), (10, 50) | (20, 40)));
    let text = &payload[7..7 + usize::from(payload[6])];
    let ids = &payload[7 + text.len()..];
    let text = String::from_utf8(text.to_vec()).expect("text");
    (number(&payload[4..]), (number(ids), number(&ids[2..])), text)
}

#[test]
fn a3_a_channel_too_many_for_the_user() {
    let broker = broker();
    let mut client = Client::open(&broker, 0);
    (2..=4).for_each(|channel| client.open_channel(channel));
    client.send();
    let text = "NOT_ALLOWED - number of channels opened for user 'guest' has reached the maximum allowed user limit of (3)";
    assert_eq!(closed(&mut client), (530, (0, 0), text.to_owned()));
}

#[test]
fn a4_a_system_exchange_stays_and_a_type_must_be_known() {
    let broker = broker();
    broker.permissions.grant("guest", "/", Permission::new("^$", "^$", "^$").expect("patterns"));
    let mut client = Client::open(&broker, 0);
    client.method(1, 40, 20, &[&[0, 0][..], &short("amq.direct"), &[0]].concat());
    client.send();
    let text = "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed";
    assert_eq!(closed(&mut client), (403, (40, 20), text.to_owned()));
    client.open_channel(2);
    client.method(2, 40, 10, &[&[0, 0][..], &short("x"), &short("nope"), &[0, 0, 0, 0, 0]].concat());
    client.send();
    let text = "COMMAND_INVALID - unknown exchange type 'nope'";
    assert_eq!(closed(&mut client), (503, (40, 10), text.to_owned()));
}

#[test]
fn a5_unbinding_what_is_not_bound_from_another_connections_exclusive_queue() {
    let broker = broker();
    let mut owner = Client::open(&broker, 0);
    owner.method(1, 50, 10, &[&[0, 0][..], &short("q"), &[4, 0, 0, 0, 0]].concat());
    owner.method(
        1,
        50,
        20,
        &[&[0, 0][..], &short("q"), &short("amq.direct"), &short("k"), &[0, 0, 0, 0, 0]].concat(),
    );
    owner.send();
    let mut other = Client::open(&broker, 0);
    let unbind = |key| [&[0, 0][..], &short("q"), &short("amq.direct"), &short(key), &[0, 0, 0, 0]].concat();
    other.method(1, 50, 50, &unbind("another"));
    other.send();
    assert_eq!(other.seen(), [(1, 50, 51)]);
    other.method(1, 50, 50, &unbind("k"));
    other.send();
    assert_eq!(closed(&mut other).0, 405);
}

#[test]
fn a5_delete_ok_comes_before_the_cancellation_of_the_channels_own_consumer() {
    for durable in [false, true] {
        let broker = broker();
        let mut client = Client::open_as(&broker, 0, true);
        client.declare("q", durable);
        client.send();
        sync(&broker);
        client.wake();
        client.consume("q", "t", true);
        client.method(1, 50, 40, &[&[0, 0][..], &short("q"), &[0]].concat());
        client.send();
        client.wake();
        sync(&broker);
        client.wake();
        assert_eq!(client.seen(), [(1, 50, 11), (1, 60, 21), (1, 50, 41), (1, 60, 30)]);
    }
}

#[test]
fn a6_basic_get_does_not_count_against_the_limit_of_the_channel() {
    let broker = broker();
    let mut client = Client::open(&broker, 0);
    client.declare("q", false);
    client.method(1, 60, 10, &[0, 0, 0, 0, 0, 1, 1]);
    for _ in 0..4 {
        client.publish("", "q", false);
    }
    let get = [&[0, 0][..], &short("q"), &[0]].concat();
    client.method(1, 60, 70, &get);
    client.method(1, 60, 70, &get);
    client.send();
    client.seen();
    client.consume("q", "t", false);
    client.send();
    assert_eq!(client.seen(), [(1, 60, 21), (1, 60, 60)]);
    // The gets' tags, then the consumer's.
    client.method(1, 60, 80, &[&2u64.to_be_bytes()[..], &[1]].concat());
    client.send();
    assert_eq!(client.seen(), []);
    client.method(1, 60, 80, &[&3u64.to_be_bytes()[..], &[0]].concat());
    client.send();
    assert_eq!(client.seen(), [(1, 60, 60)]);
}
