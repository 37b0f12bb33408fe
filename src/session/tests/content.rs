//! How contents are put together, however the octets come.

use super::*;

/// A conversation that uses most of the protocol. Nothing in it depends on when something is delivered.
fn conversation() -> Vec<Vec<u8>> {
    let body = |text: &[u8]| wire::publish(1, "", "q", 0, wire::TRANSIENT, text);
    let mut in_pieces = wire::publish_method("", "q", 0).on(1);
    in_pieces.extend(wire::frame(2, 1, &wire::content_header(6, wire::PERSISTENT)));
    in_pieces.extend([&b"ab"[..], b"", b"cdef"].iter().flat_map(|piece| wire::frame(3, 1, piece)));
    vec![
        wire::HEADER.to_vec(),
        wire::start_ok("guest", "guest", &["consumer_cancel_notify"]).on(0),
        wire::tune_ok(10, 4096, 0).on(0),
        wire::open("/").on(0),
        wire::channel_open().on(1),
        wire::heartbeat(),
        wire::declare_queue("q", wire::DURABLE).on(1),
        wire::confirm_select().on(1),
        wire::qos(2, false).on(1),
        body(b"one"),
        body(b""),
        in_pieces,
        wire::get("q", false).on(1),
        wire::get("q", false).on(1),
        wire::ack(1, false).on(1),
        wire::publish(1, "", "nowhere", wire::MANDATORY, wire::TRANSIENT, &[9; 4000]),
        wire::nack(2, false, true).on(1),
        wire::get("q", true).on(1),
        wire::get("q", true).on(1),
        wire::get("q", true).on(1),
        wire::cancel("unknown").on(1),
        wire::purge("missing").on(1),
        body(b"discarded"),
        wire::channel_close_ok().on(1),
        wire::channel_open().on(1),
        wire::delete_queue("q").on(1),
        wire::connection_close().on(0),
    ]
}

fn run(pieces: impl IntoIterator<Item = Vec<u8>>) -> Vec<Event> {
    let mut script = Script::accepted(&broker(limits()), "127.0.0.1:1");
    for piece in pieces {
        script.raw(&piece);
    }
    assert!(script.session.is_closed());
    script.events.into_iter().collect()
}

/// What the client sees, without what may be told at once or bit by bit.
fn without_confirms(events: &[Event]) -> Vec<Event> {
    events.iter().filter(|event| !matches!(event, Event::Ack { .. })).cloned().collect()
}

#[test]
fn octets_may_come_one_by_one() {
    let frame_by_frame = run(conversation());
    assert!(frame_by_frame.len() > 15, "{frame_by_frame:?}");
    assert_eq!(run(conversation().concat().chunks(1).map(<[u8]>::to_vec)), frame_by_frame);
}

#[test]
fn octets_may_come_in_two_pieces_cut_anywhere() {
    let octets = conversation().concat();
    let whole = without_confirms(&run([octets.clone()]));
    for cut in (1..octets.len()).filter(|cut| cut % 7 == 0 || *cut < 1200) {
        let (first, second) = octets.split_at(cut);
        assert_eq!(without_confirms(&run([first.to_vec(), second.to_vec()])), whole, "cut at {cut}");
    }
}

#[test]
fn a_body_in_frames_of_any_size_arrives_whole() {
    let mut script = Script::with_channel(&broker(limits()));
    script.declare("q", 0);
    let body: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    for size in [1 << 16, 4097, 131_072, 100_000] {
        let mut octets = wire::publish_method("", "q", 0).on(1);
        octets.extend(wire::frame(2, 1, &wire::content_header(body.len() as u64, wire::TRANSIENT)));
        octets.extend(body.chunks(size).flat_map(|piece| wire::frame(3, 1, piece)));
        script.raw(&octets);
        script.send(1, wire::get("q", true));
        assert!(matches!(script.next(), Some(Event::GetOk { body: got, .. }) if got == body), "{size}");
    }
}

#[test]
fn contents_of_different_channels_may_mix() {
    let mut script = Script::with_channel(&broker(limits()));
    script.open_channel(2);
    script.declare("q", 0);
    let frames = |channel, body: &[u8]| {
        [
            wire::publish_method("", "q", 0).on(channel),
            wire::frame(2, channel, &wire::content_header(body.len() as u64, wire::TRANSIENT)),
            wire::frame(3, channel, body),
        ]
    };
    let (one, two) = (frames(1, b"one"), frames(2, b"two"));
    let mixed = [&one[0], &two[0], &two[1], &one[1], &two[2], &wire::heartbeat(), &one[2]];
    script.raw(&mixed.map(|frame| frame.as_slice()).concat());
    for expected in [&b"two"[..], b"one"] {
        script.send(1, wire::get("q", true));
        assert!(matches!(script.next(), Some(Event::GetOk { body, .. }) if body == expected));
    }
}

#[test]
fn properties_come_back_octet_by_octet() {
    let mut script = Script::with_channel(&broker(limits()));
    script.declare("q", 0);
    // content-type, headers with the same name twice and out of order, timestamp.
    let headers =
        [wire::text_field("z", "1"), wire::text_field("a", "2"), wire::text_field("z", "3")].concat();
    let properties = [
        &[0xA0, 0x40, 4][..],
        b"text",
        &(headers.len() as u32).to_be_bytes(),
        &headers,
        &[0, 0, 0, 0, 0, 0, 0, 9],
    ]
    .concat();
    script.publish(1, "", "q", 0, &properties, b"x");
    script.send(1, wire::consume("q", "c", wire::NO_ACK));
    script.expect_ids(1, (60, 21));
    assert!(matches!(script.next(), Some(Event::Deliver { properties: got, .. }) if got == properties));
}
