//! `amq_protocol` as a second opinion on what is read and written by hand.

use amq_protocol::{
    frame::{AMQPFrame, parse_frame},
    protocol::{AMQPClass, basic::AMQPMethod},
    types::{FieldTable, generation::gen_field_table, parsing::parse_field_table},
};
use bytes::Bytes;
use proptest::prelude::*;

use crate::amqp::{
    Body, Content, Encoder, Frames, Properties, PropertiesBuilder, Table, Value,
    frame::FRAME_OVERHEAD,
    table::{find_raw, validate_table},
};

/// Tables as amq_protocol keeps them: sorted by name, without duplicates.
fn table() -> impl Strategy<Value = Table> {
    let scalar = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i8>().prop_map(Value::I8),
        any::<u8>().prop_map(Value::U8),
        any::<i16>().prop_map(Value::I16),
        any::<u16>().prop_map(Value::U16),
        any::<i32>().prop_map(Value::I32),
        any::<u32>().prop_map(Value::U32),
        any::<i64>().prop_map(Value::I64),
        any::<f32>().prop_map(Value::F32),
        any::<f64>().prop_map(Value::F64),
        any::<(u8, u32)>().prop_map(|(scale, value)| Value::Decimal { scale, value }),
        any::<Vec<u8>>().prop_map(|bytes| Value::LongStr(bytes.into())),
        any::<Vec<u8>>().prop_map(|bytes| Value::ByteArray(bytes.into())),
        any::<u64>().prop_map(Value::Timestamp),
        Just(Value::Void),
    ];
    let value = scalar.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            fields(inner).prop_map(Value::Table),
        ]
    });
    fields(value)
}

fn fields(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Table> {
    prop::collection::btree_map(".{0,20}", value, 0..5).prop_map(|fields| fields.into_iter().collect())
}

fn short() -> impl Strategy<Value = Option<String>> {
    prop::option::of(".{0,40}")
}

fn properties() -> impl Strategy<Value = PropertiesBuilder> {
    let strings = (short(), short(), short(), short(), short(), short(), short(), short(), short(), short());
    let others = (prop::option::of(table()), any::<Option<u8>>(), any::<Option<u8>>(), any::<Option<u64>>());
    (strings, others).prop_map(|(strings, (headers, delivery_mode, priority, timestamp))| PropertiesBuilder {
        content_type: strings.0,
        content_encoding: strings.1,
        headers,
        delivery_mode,
        priority,
        correlation_id: strings.2,
        reply_to: strings.3,
        expiration: strings.4,
        message_id: strings.5,
        timestamp,
        type_: strings.6,
        user_id: strings.7,
        app_id: strings.8,
        cluster_id: strings.9,
    })
}

/// The bytes of a table without its length.
fn encoded(table: &Table) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.encode(&mut bytes);
    bytes.split_off(4)
}

/// The same, written by amq_protocol.
fn generated(table: &FieldTable) -> Vec<u8> {
    let written = gen_field_table(table)(Vec::new().into()).unwrap();
    written.write[4..].to_vec()
}

fn text(bytes: Option<&[u8]>) -> Option<&str> {
    bytes.map(|bytes| std::str::from_utf8(bytes).unwrap())
}

proptest! {
    #[test]
    fn tables_mean_the_same_to_both(table in table()) {
        let mut bytes = Vec::new();
        table.encode(&mut bytes);
        let (rest, theirs) = parse_field_table(&bytes[..]).unwrap();
        prop_assert!(rest.is_empty());
        prop_assert_eq!(generated(&theirs), &bytes[4..]);
        let ours = Table::decode(&bytes[4..]).unwrap();
        // Compared as bytes: a float may be NaN.
        prop_assert_eq!(encoded(&ours), &bytes[4..]);
        prop_assert!(validate_table(&bytes[4..]).is_ok());
        for (name, value) in &table.0 {
            let found = Table(vec![(name.clone(), find_raw(&bytes[4..], name).unwrap().decode())]);
            prop_assert_eq!(encoded(&found), encoded(&Table(vec![(name.clone(), value.clone())])));
        }
    }

    /// On any bytes: the two readers agree with each other, and read whatever amq_protocol reads.
    #[test]
    fn any_table_is_answered(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0..4u8, Just(b'F'), Just(b'S')], 0..60)) {
        let sound = validate_table(&bytes).is_ok();
        prop_assert_eq!(sound, Table::decode(&bytes).is_ok());
        let table = [&(bytes.len() as u32).to_be_bytes()[..], &bytes].concat();
        if let Ok(([], _)) = parse_field_table(&table[..]) {
            // RabbitMQ's dialect has no `U`; amq_protocol reads it as `s`.
            prop_assert!(sound || bytes.contains(&b'U'));
        }
    }

    #[test]
    fn messages_mean_the_same_to_both(
        properties in properties(),
        exchange in ".{0,40}",
        routing_key in ".{0,40}",
        consumer_tag in ".{0,40}",
        delivery_tag: u64,
        redelivered: bool,
        body: Vec<u8>,
    ) {
        let raw = properties.encode();
        let body = Bytes::from(body);
        let mut encoder = Encoder::new();
        let content =
            Content { exchange: exchange.as_bytes(), routing_key: routing_key.as_bytes(), properties: &raw, body: Body::Large(&body) };
        encoder.deliver(9, &consumer_tag, delivery_tag, redelivered, &content, 131_072);
        let mut slices = Vec::new();
        encoder.io_slices(&mut slices);
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter()).copied().collect();

        let (rest, method) = parse_frame(&bytes[..]).unwrap();
        let AMQPFrame::Method(9, AMQPClass::Basic(AMQPMethod::Deliver(deliver))) = method else {
            panic!("not a delivery on channel 9: {method:?}");
        };
        prop_assert_eq!(deliver.exchange.as_str(), &exchange);
        prop_assert_eq!(deliver.routing_key.as_str(), &routing_key);
        prop_assert_eq!(deliver.consumer_tag.as_str(), &consumer_tag);
        prop_assert_eq!((deliver.delivery_tag, deliver.redelivered), (delivery_tag, redelivered));

        let (rest, header) = parse_frame(rest).unwrap();
        let AMQPFrame::Header(9, header) = header else { panic!("not a header on channel 9: {header:?}") };
        prop_assert_eq!((header.class_id, header.body_size), (60, body.len() as u64));
        let ours = Properties::parse(&raw).unwrap();
        let theirs = &header.properties;
        let same = [
            (ours.content_type, theirs.content_type()),
            (ours.content_encoding, theirs.content_encoding()),
            (ours.correlation_id, theirs.correlation_id()),
            (ours.reply_to, theirs.reply_to()),
            (ours.expiration, theirs.expiration()),
            (ours.message_id, theirs.message_id()),
            (ours.type_, theirs.kind()),
            (ours.user_id, theirs.user_id()),
            (ours.app_id, theirs.app_id()),
            (ours.cluster_id, theirs.cluster_id()),
        ];
        for (ours, theirs) in same {
            prop_assert_eq!(text(ours), theirs.as_ref().map(|string| string.as_str()));
        }
        prop_assert_eq!(ours.delivery_mode, *theirs.delivery_mode());
        prop_assert_eq!(ours.priority, *theirs.priority());
        prop_assert_eq!(ours.timestamp, *theirs.timestamp());
        prop_assert_eq!(ours.headers.map(<[u8]>::to_vec), theirs.headers().as_ref().map(generated));
        prop_assert_eq!(ours.encode(), raw.clone());

        if body.is_empty() {
            prop_assert!(rest.is_empty());
        } else {
            let (rest, frame) = parse_frame(rest).unwrap();
            prop_assert!(rest.is_empty());
            prop_assert_eq!(frame, AMQPFrame::Body(9, body.to_vec()));
        }
        prop_assert_eq!(Frames::new(&bytes).map(|frame| frame.payload.len() + FRAME_OVERHEAD).sum::<usize>(), bytes.len());
    }
}
