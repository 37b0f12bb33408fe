//! The wire's share of a message: what it costs to read a publish and to write a delivery.

use std::{hint::black_box, io::IoSlice};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use leveret::amqp::{
    Body, ClientMethod, Content, ContentHeader, Encoder, Frames, Properties, PropertiesBuilder, Table, Value,
    frame::{FRAME_END, split},
};

const FRAME_MAX: u32 = 131_072;

/// Messages in one read: about what a busy publisher of small messages fills a receive buffer with.
const BATCH: usize = 64;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 0, 1], &(payload.len() as u32).to_be_bytes()[..], payload, &[FRAME_END]].concat()
}

fn content_header(properties: &PropertiesBuilder, body_bytes: usize) -> Vec<u8> {
    [&[0, 60, 0, 0], &(body_bytes as u64).to_be_bytes()[..], &properties.encode()].concat()
}

fn persistent() -> PropertiesBuilder {
    PropertiesBuilder { delivery_mode: Some(2), ..PropertiesBuilder::default() }
}

fn with_headers() -> PropertiesBuilder {
    let fields = (0..10).map(|index| (format!("header-{index}"), Value::from(format!("value {index}"))));
    PropertiesBuilder { headers: Some(fields.collect::<Table>()), ..persistent() }
}

fn publishes(body_bytes: usize) -> Vec<u8> {
    let message = [
        frame(1, b"\0\x3c\0\x28\0\0\x06events\x0dorders.create\0"),
        frame(2, &content_header(&persistent(), body_bytes)),
        frame(3, &vec![b'x'; body_bytes]),
    ];
    message.concat().repeat(BATCH)
}

fn read_publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("read publish");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, body_bytes) in [("16 B", 16), ("1 KiB", 1024)] {
        let chunk = publishes(body_bytes);
        assert!(
            Frames::new(&chunk).all(|frame| frame.kind != 1 || ClientMethod::decode(frame.payload).is_ok())
        );
        group.bench_function(name, |b| {
            b.iter(|| {
                let whole = split(black_box(&chunk), FRAME_MAX).len;
                for frame in Frames::new(&chunk[..whole]) {
                    match frame.kind {
                        1 => _ = black_box(ClientMethod::decode(frame.payload)),
                        2 => {
                            _ = black_box(
                                ContentHeader::parse(frame.payload)
                                    .and_then(|header| Properties::parse(header.properties)),
                            )
                        }
                        _ => _ = black_box(frame.payload),
                    }
                }
            });
        });
    }
}

fn read_header(c: &mut Criterion) {
    let mut group = c.benchmark_group("read content header");
    for (name, properties) in [
        ("no properties", PropertiesBuilder::default()),
        ("delivery mode", persistent()),
        ("10 headers", with_headers()),
    ] {
        let payload = content_header(&properties, 16);
        group.bench_function(name, |b| {
            b.iter(|| {
                ContentHeader::parse(black_box(&payload))
                    .and_then(|header| Properties::parse(header.properties))
            })
        });
    }
    let raw = with_headers().encode();
    let properties = Properties::parse(&raw).expect("just written");
    group.bench_function("find one of 10 headers", |b| {
        b.iter(|| leveret::amqp::table::find_raw(black_box(properties.headers.unwrap_or(&[])), "header-9"));
    });
}

fn write_deliver(c: &mut Criterion) {
    let mut group = c.benchmark_group("write deliver");
    group.throughput(Throughput::Elements(BATCH as u64));
    let properties = persistent().encode();
    for (name, body_bytes) in [("16 B", 16), ("1 KiB", 1024), ("64 KiB", 65_536)] {
        let body = Bytes::from(vec![b'x'; body_bytes]);
        let content = Content {
            exchange: b"events",
            routing_key: b"orders.create",
            properties: &properties,
            body: Body::Large(&body),
        };
        group.bench_function(name, |b| {
            let mut encoder = Encoder::new();
            b.iter(|| {
                for tag in 0..BATCH as u64 {
                    encoder.deliver(1, "ctag1.5a3f", tag, false, black_box(&content), FRAME_MAX);
                }
                while !encoder.is_empty() {
                    let mut slices = Vec::new();
                    encoder.io_slices(&mut slices);
                    let taken = slices.iter().map(|slice: &IoSlice<'_>| slice.len()).sum();
                    encoder.advance(taken);
                }
            });
        });
    }
}

criterion_group!(benches, read_publish, read_header, write_deliver);
criterion_main!(benches);
