//! Frames and methods that are malformed.

use super::Table;
use crate::wire::{BODY, HEADER, HEARTBEAT, Login, METHOD, frame, method_frame, prefetch, publish};

#[test]
fn frames() {
    let mut rows = Table::default();
    for (kind, channel, payload, text) in [
        (0, 1, "", "type 0, all octets = <<>>: unknown_frame"),
        (4, 0, "", "type 4, all octets = <<>>: unknown_frame"),
        (9, 1, "abc", "type 9, all octets = <<\"abc\">>: unknown_frame"),
        (255, 0, "", "type 255, all octets = <<>>: unknown_frame"),
        (HEARTBEAT, 0, "abc", "type 8, all octets = <<\"abc\">>: unknown_frame"),
        (METHOD, 1, "", "type 1, all octets = <<>>: unknown_frame"),
        (METHOD, 1, "\0\u{14}", "type 1, all octets = <<0,20>>: unknown_frame"),
        (HEADER, 1, "\0<\0\0", "type 2, all octets = <<0,60,0,0>>: unknown_frame"),
    ] {
        let text = format!("FRAME_ERROR - {text}");
        rows.connection(&format!("A1.3 frame of type {kind}: {payload:?}"), (501, &text, 0, 0), move |s| {
            s.wire.frame(kind, channel, payload.as_bytes());
        });
    }
    for (kind, channel, payload, text) in [
        (HEARTBEAT, 1, "", "type 8, all octets = <<>>"),
        (HEARTBEAT, 5, "", "type 8, all octets = <<>>"),
        (BODY, 0, "abc", "type 3, all octets = <<\"abc\">>"),
        (BODY, 5, "abc", "expected method frame, got non method frame instead"),
        (HEADER, 5, "\0<\0\0\0\0\0\0\0\0\0\0\0\0", "expected method frame, got non method frame instead"),
    ] {
        let text = format!("UNEXPECTED_FRAME - {text}");
        let name = format!("A1.5 frame of type {kind} on channel {channel}");
        rows.connection(&name, (505, &text, 0, 0), move |s| s.wire.frame(kind, channel, payload.as_bytes()));
    }
    for (octet, text) in [
        (0, "type 1, all octets = <<0,20,0,20,1>>: {invalid_frame_end_marker,0}"),
        (0xCD, "type 1, all octets = <<0,20,0,20,1>>: {invalid_frame_end_marker,205}"),
    ] {
        let text = format!("FRAME_ERROR - {text}");
        rows.connection(&format!("A1.3 frame that ends in {octet}"), (501, &text, 0, 0), move |s| {
            let mut bytes = frame(METHOD, 1, &[0, 20, 0, 20, 1]);
            *bytes.last_mut().expect("an end octet") = octet;
            s.wire.raw(&bytes);
        });
    }
    rows.check();
}

/// A payload may have frame_max octets, eight more than it should.
#[test]
fn frame_sizes() {
    let mut rows = Table::default();
    for frame_max in [4096, 131_072] {
        let login = Login { frame_max, ..Login::default() };
        let text = format!(
            "FRAME_ERROR - type 3, all octets = <<>>: {{frame_too_large,{},{}}}",
            frame_max + 1,
            frame_max - 8
        );
        rows.connection(&format!("A1.4 payload of {frame_max} + 1 octets"), (501, &text, 0, 0), move |s| {
            body(s, frame_max as usize + 1);
        });
        rows.login(login.clone());
        for size in [frame_max - 8, frame_max] {
            rows.answer(&format!("A1.4 payload of {size} octets"), "Basic.QosOk", move |s| {
                body(s, size as usize);
                s.send(prefetch(0));
            });
            rows.login(login.clone());
        }
    }
    for size in [i32::MAX as u32, u32::MAX] {
        let text = format!("FRAME_ERROR - type 1, all octets = <<>>: {{frame_too_large,{size},131064}}");
        rows.connection(&format!("A1.3 announced size {size}"), (501, &text, 0, 0), move |s| {
            let mut bytes = vec![METHOD, 0, 1];
            bytes.extend(size.to_be_bytes());
            s.wire.raw(&bytes);
        });
    }
    rows.check();
}

#[test]
fn methods_that_end_early_or_late() {
    let mut rows = Table::default();
    for (name, arguments, printed) in [
        ("queue name cut off", &b"\0\0\x05ab"[..], "0,0,5,97,98"),
        ("no arguments", b"\0\0\x01a\0", "0,0,1,97,0"),
        ("octets left over", b"\0\0\x01a\0\0\0\0\0xx", "0,0,1,97,0,0,0,0,0,120,120"),
        ("table longer than the frame", b"\0\0\x01a\0\0\0\0\x10abc", "0,0,1,97,0,0,0,0,16,97,98,99"),
        ("table of 2 GiB", b"\0\0\x01a\0\x80\0\0\0", "0,0,1,97,0,128,0,0,0"),
    ] {
        let text = format!("FRAME_ERROR - cannot decode <<{printed}>>");
        rows.connection(&format!("A1.7 queue.declare, {name}"), (501, &text, 50, 10), move |s| {
            s.wire.frame(METHOD, 1, &[b"\0\x32\0\x0A", arguments].concat());
        });
    }
    rows.check();
}

/// Deviation: RabbitMQ ends the stream without a word, or says 541 to a wrong property list.
#[test]
fn tables_and_property_lists() {
    let mut rows = Table::default();
    for (name, table) in [
        ("key beyond the table", &b"\x50a"[..]),
        ("unknown type", b"\x01aZ\0"),
        ("short value", b"\x01aI\0"),
        ("key without a value", b"\x01a"),
        ("string beyond the table", b"\x01aS\0\0\0\x20ab"),
        ("string of 4 GiB", b"\x01aS\xFF\xFF\xFF\xFFab"),
        ("array beyond the table", b"\x01aA\0\0\0\x20ab"),
        ("unknown type in an array", b"\x01aA\0\0\0\x01Z"),
        ("table beyond the table", b"\x01aF\0\0\0\x20ab"),
    ] {
        let sized = [&(table.len() as u32).to_be_bytes()[..], table].concat();
        let arguments = [b"\0\x32\0\x0A\0\0\x01a\x10", &sized[..]].concat();
        rows.connection_code(&format!("A1.8 argument table, {name}"), 502, move |s| {
            s.wire.frame(METHOD, 1, &arguments);
        });
        let header = [b"\0\x3C\0\0\0\0\0\0\0\0\0\0\x20\0", &sized[..]].concat();
        rows.connection_code(&format!("A1.8 headers table, {name}"), 502, move |s| {
            s.send(publish("", "nowhere"));
            s.wire.frame(HEADER, 1, &header);
        });
    }
    for (name, properties) in [
        ("no flags", &b""[..]),
        ("flags without values", b"\x80\0"),
        ("value cut off", b"\x80\0\x05ab"),
        ("octets left over", b"\0\0abc"),
        ("timestamp cut off", b"\0\x40\0\0"),
        ("table longer than the frame", b"\x20\0\0\0\0\x09abc"),
        ("table of 4 GiB", b"\x20\0\xFF\xFF\xFF\xFF"),
    ] {
        let payload = [b"\0\x3C\0\0\0\0\0\0\0\0\0\0", properties].concat();
        rows.connection_code(&format!("A1.6 property list, {name}"), 502, move |s| {
            s.send(publish("", "nowhere"));
            s.wire.frame(HEADER, 1, &payload);
        });
    }
    rows.check();
}

/// Deviation: RabbitMQ takes any depth.
#[test]
fn tables_nested_without_end() {
    let mut rows = Table::default();
    for depth in [1_000, 10_000] {
        let nested = (0..depth).fold(Vec::new(), |inner, _| {
            let size = u32::try_from(inner.len()).expect("below 4 GiB").to_be_bytes();
            [b"\x01aF", &size[..], &inner[..]].concat()
        });
        let sized = [&(nested.len() as u32).to_be_bytes()[..], &nested[..]].concat();
        let arguments = [b"\0\x32\0\x0A\0\0\x01a\x10", &sized[..]].concat();
        rows.connection_code(&format!("A1.8 arguments nested {depth} deep"), 502, move |s| {
            s.wire.frame(METHOD, 1, &arguments);
        });
        let header = [b"\0\x3C\0\0\0\0\0\0\0\0\0\0\x20\0", &sized[..]].concat();
        rows.connection_code(&format!("A1.8 headers nested {depth} deep"), 502, move |s| {
            s.send(publish("", "nowhere"));
            s.wire.frame(HEADER, 1, &header);
        });
    }
    rows.check();
}

fn body(s: &mut super::Scene, size: usize) {
    let mut bytes = method_frame(1, publish("", "nowhere"));
    bytes.extend(frame(HEADER, 1, &[b"\0\x3C\0\0", &(size as u64).to_be_bytes()[..], b"\0\0"].concat()));
    bytes.extend(frame(BODY, 1, &vec![b'm'; size]));
    s.wire.raw(&bytes);
}
