//! Every method, both ways, and the texts that refuse a malformed one.

use proptest::prelude::*;

use super::*;

/// A method payload from class, method and arguments.
fn payload(class_id: u16, method_id: u16, arguments: &[u8]) -> Vec<u8> {
    [&class_id.to_be_bytes(), &method_id.to_be_bytes(), arguments].concat()
}

fn refusal(payload: &[u8]) -> (String, (u16, u16)) {
    let error = ClientMethod::decode(payload).unwrap_err();
    (error.to_string(), (error.class_id, error.method_id))
}

/// A payload as amq_protocol writes it.
fn generated(class: AMQPClass) -> Vec<u8> {
    let frame = AMQPFrame::Method(0, class);
    let bytes = gen_frame(&frame)(WriteContext::from(Vec::new())).unwrap().write;
    bytes[7..bytes.len() - 1].to_vec()
}

#[test]
fn publish_is_read() {
    let read = payload(60, 40, b"\0\0\x02ex\x03key\x01");
    let method = ClientMethod::decode(&read).unwrap();
    let expected = Publish { exchange: "ex", routing_key: "key", mandatory: true, immediate: false };
    assert_eq!(method, ClientMethod::BasicPublish(expected));
    let generated = generated(AMQPClass::Basic(amq_basic::AMQPMethod::Publish(amq_basic::Publish {
        exchange: "ex".into(),
        routing_key: "key".into(),
        mandatory: true,
        immediate: false,
    })));
    assert_eq!(read, generated);
}

#[test]
fn settlements_are_read() {
    let arguments = |bits| [0, 0, 0, 0, 0, 0, 1, 2, bits];
    let decode =
        |method_id, bits| format!("{:?}", ClientMethod::decode(&payload(60, method_id, &arguments(bits))));
    let same = |method_id, bits, method: ClientMethod<'_>| {
        assert_eq!(decode(method_id, bits), format!("Ok({method:?})"))
    };
    same(80, 0, ClientMethod::BasicAck { delivery_tag: 258, multiple: false });
    same(80, 1, ClientMethod::BasicAck { delivery_tag: 258, multiple: true });
    same(90, 1, ClientMethod::BasicReject { delivery_tag: 258, requeue: true });
    same(120, 1, ClientMethod::BasicNack { delivery_tag: 258, multiple: true, requeue: false });
    same(120, 2, ClientMethod::BasicNack { delivery_tag: 258, multiple: false, requeue: true });
}

#[test]
fn tables_keep_order_and_duplicates() {
    let read = payload(50, 10, b"\0\0\x01q\x02\0\0\0\x0c\x01bt\x01\x01at\0\x01bt\0");
    let ClientMethod::QueueDeclare { queue, durable, passive, arguments, .. } =
        ClientMethod::decode(&read).unwrap()
    else {
        panic!("not a declare");
    };
    assert_eq!((queue.as_str(), durable, passive), ("q", true, false));
    let field = |name: &str, value| (name.to_owned(), Value::Bool(value));
    assert_eq!(arguments, Table(vec![field("b", true), field("a", false), field("b", false)]));
}

#[test]
fn qos_has_its_prefetch_size() {
    let read = payload(60, 10, &[0, 0, 0, 7, 0, 5, 1]);
    let method = ClientMethod::decode(&read).unwrap();
    assert_eq!(method, ClientMethod::BasicQos { prefetch_size: 7, prefetch_count: 5, global: true });
}

/// Every method that a client may send, as amq_protocol writes it, comes out under its own ids.
#[test]
fn every_client_method_is_read() {
    use AMQPClass as Class;
    let classes = [
        Class::Connection(connection::AMQPMethod::StartOk(connection::StartOk::default())),
        Class::Connection(connection::AMQPMethod::SecureOk(connection::SecureOk::default())),
        Class::Connection(connection::AMQPMethod::TuneOk(connection::TuneOk::default())),
        Class::Connection(connection::AMQPMethod::Open(connection::Open::default())),
        Class::Connection(connection::AMQPMethod::Close(connection::Close::default())),
        Class::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk::default())),
        Class::Connection(connection::AMQPMethod::UpdateSecret(connection::UpdateSecret::default())),
        Class::Channel(channel::AMQPMethod::Open(channel::Open::default())),
        Class::Channel(channel::AMQPMethod::Flow(channel::Flow::default())),
        Class::Channel(channel::AMQPMethod::FlowOk(channel::FlowOk::default())),
        Class::Channel(channel::AMQPMethod::Close(channel::Close::default())),
        Class::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk::default())),
        Class::Access(access::AMQPMethod::Request(access::Request::default())),
        Class::Exchange(exchange::AMQPMethod::Declare(exchange::Declare::default())),
        Class::Exchange(exchange::AMQPMethod::Delete(exchange::Delete::default())),
        Class::Exchange(exchange::AMQPMethod::Bind(exchange::Bind::default())),
        Class::Exchange(exchange::AMQPMethod::Unbind(exchange::Unbind::default())),
        Class::Queue(queue::AMQPMethod::Declare(queue::Declare::default())),
        Class::Queue(queue::AMQPMethod::Bind(queue::Bind::default())),
        Class::Queue(queue::AMQPMethod::Unbind(queue::Unbind::default())),
        Class::Queue(queue::AMQPMethod::Purge(queue::Purge::default())),
        Class::Queue(queue::AMQPMethod::Delete(queue::Delete::default())),
        Class::Basic(amq_basic::AMQPMethod::Qos(amq_basic::Qos::default())),
        Class::Basic(amq_basic::AMQPMethod::Consume(amq_basic::Consume::default())),
        Class::Basic(amq_basic::AMQPMethod::Cancel(amq_basic::Cancel::default())),
        Class::Basic(amq_basic::AMQPMethod::CancelOk(amq_basic::CancelOk::default())),
        Class::Basic(amq_basic::AMQPMethod::Publish(amq_basic::Publish::default())),
        Class::Basic(amq_basic::AMQPMethod::Get(amq_basic::Get::default())),
        Class::Basic(amq_basic::AMQPMethod::Ack(amq_basic::Ack::default())),
        Class::Basic(amq_basic::AMQPMethod::Nack(amq_basic::Nack::default())),
        Class::Basic(amq_basic::AMQPMethod::Reject(amq_basic::Reject::default())),
        Class::Basic(amq_basic::AMQPMethod::Recover(amq_basic::Recover::default())),
        Class::Basic(amq_basic::AMQPMethod::RecoverAsync(amq_basic::RecoverAsync::default())),
        Class::Tx(tx::AMQPMethod::Select(tx::Select::default())),
        Class::Tx(tx::AMQPMethod::Commit(tx::Commit::default())),
        Class::Tx(tx::AMQPMethod::Rollback(tx::Rollback::default())),
        Class::Confirm(confirm::AMQPMethod::Select(confirm::Select::default())),
    ];
    for class in classes {
        let ids = (class.get_amqp_class_id(), class.get_amqp_method_id());
        let payload = generated(class);
        assert_eq!(ClientMethod::decode(&payload).map(|method| method.ids()), Ok(ids));
        for end in 4..payload.len() {
            let text = format!("FRAME_ERROR - cannot decode {}", octets(&payload[4..end], 255));
            assert_eq!(refusal(&payload[..end]), (text, ids));
        }
    }
}

#[test]
fn too_long_arguments_are_refused_with_their_octets() {
    let text = |octets| format!("FRAME_ERROR - cannot decode <<{octets}>>");
    assert_eq!(refusal(&payload(90, 10, b"x")), (text("120"), (90, 10)));
    assert_eq!(refusal(&payload(60, 110, b"")), (text(""), (60, 110)));
    let ack = payload(60, 80, b"\0\0\0\0\0\0\0\0\0zz");
    assert_eq!(refusal(&ack), (text("0,0,0,0,0,0,0,0,0,122,122"), (60, 80)));
    let declare = payload(50, 10, b"\0\0\x03wq5\x10\0\0\0\x64ab");
    assert_eq!(refusal(&declare), (text("0,0,3,119,113,53,16,0,0,0,100,97,98"), (50, 10)));
}

#[test]
fn a_name_that_is_not_utf8_is_refused() {
    let text = "FRAME_ERROR - Malformed UTF-8 in shortstr".to_owned();
    assert_eq!(refusal(&payload(50, 10, b"\0\0\x02\xff\xfe\0\0\0\0\0")), (text.clone(), (0, 0)));
    assert_eq!(refusal(&payload(60, 40, b"\0\0\0\x01\xff\0")), (text, (0, 0)));
}

#[test]
fn what_a_server_sends_and_what_does_not_exist_is_unimplemented() {
    for ids in
        [(60, 60), (60, 11), (50, 11), (10, 10), (20, 11), (30, 11), (85, 11), (90, 11), (60, 99), (99, 10)]
    {
        let text = "COMMAND_INVALID - unimplemented method".to_owned();
        assert_eq!(refusal(&payload(ids.0, ids.1, &[0; 40])), (text, ids));
    }
}

/// A table nested 2,000 deep, which overflows the stack of a recursive parser, before anybody has logged in.
#[test]
fn a_deeply_nested_table_is_refused() {
    let mut fields = Vec::new();
    for _ in 0..2000 {
        fields = [b"\x01aF", &(fields.len() as u32).to_be_bytes()[..], &fields].concat();
    }
    let table = [&(fields.len() as u32).to_be_bytes()[..], &fields].concat();
    let start_ok = payload(10, 11, &[&table[..], b"\x05PLAIN\0\0\0\0\x05en_US"].concat());
    let text = "SYNTAX_ERROR - field table nested more than 100 deep".to_owned();
    assert_eq!(refusal(&start_ok), (text, (10, 11)));
}

#[test]
fn server_methods_are_written_as_amq_protocol_reads_them() {
    let close = ServerMethod::ChannelClose {
        reply_code: 404,
        reply_text: "é".repeat(200),
        class_id: 50,
        method_id: 10,
    };
    let mut out = BytesMut::new();
    close.encode(7, &mut out);
    ServerMethod::AccessRequestOk { ticket: 258 }.encode(7, &mut out);
    let (rest, frame) = amq_protocol::frame::parse_frame(&out[..]).unwrap();
    let AMQPFrame::Method(7, AMQPClass::Channel(channel::AMQPMethod::Close(close))) = frame else {
        panic!("not a close on channel 7");
    };
    assert_eq!((close.reply_code, close.class_id, close.method_id), (404, 50, 10));
    assert_eq!(close.reply_text.as_str(), "é".repeat(127));
    assert_eq!(rest, [1, 0, 7, 0, 0, 0, 6, 0, 30, 0, 11, 1, 2, 0xCE]);
}

#[test]
fn every_server_method_has_its_ids() {
    let text = String::new;
    let (reply_code, class_id, method_id, message_count, active) = (0, 0, 0, 0, true);
    for (method, ids) in [
        (
            ServerMethod::ConnectionStart {
                server_properties: Table::default(),
                mechanisms: text(),
                locales: text(),
                version: (0, 9),
            },
            [10, 10],
        ),
        (ServerMethod::ConnectionSecure { challenge: vec![] }, [10, 20]),
        (ServerMethod::ConnectionTune { channel_max: 0, frame_max: 0, heartbeat: 0 }, [10, 30]),
        (ServerMethod::ConnectionOpenOk, [10, 41]),
        (ServerMethod::ConnectionClose { reply_code, reply_text: text(), class_id, method_id }, [10, 50]),
        (ServerMethod::ConnectionCloseOk, [10, 51]),
        (ServerMethod::ConnectionBlocked { reason: text() }, [10, 60]),
        (ServerMethod::ConnectionUnblocked, [10, 61]),
        (ServerMethod::ConnectionUpdateSecretOk, [10, 71]),
        (ServerMethod::ChannelOpenOk, [20, 11]),
        (ServerMethod::ChannelFlow { active }, [20, 20]),
        (ServerMethod::ChannelFlowOk { active }, [20, 21]),
        (ServerMethod::ChannelClose { reply_code, reply_text: text(), class_id, method_id }, [20, 40]),
        (ServerMethod::ChannelCloseOk, [20, 41]),
        (ServerMethod::AccessRequestOk { ticket: 1 }, [30, 11]),
        (ServerMethod::ExchangeDeclareOk, [40, 11]),
        (ServerMethod::ExchangeDeleteOk, [40, 21]),
        (ServerMethod::ExchangeBindOk, [40, 31]),
        (ServerMethod::ExchangeUnbindOk, [40, 51]),
        (ServerMethod::QueueDeclareOk { queue: text(), message_count, consumer_count: 0 }, [50, 11]),
        (ServerMethod::QueueBindOk, [50, 21]),
        (ServerMethod::QueuePurgeOk { message_count }, [50, 31]),
        (ServerMethod::QueueDeleteOk { message_count }, [50, 41]),
        (ServerMethod::QueueUnbindOk, [50, 51]),
        (ServerMethod::BasicQosOk, [60, 11]),
        (ServerMethod::BasicConsumeOk { consumer_tag: text() }, [60, 21]),
        (ServerMethod::BasicCancel { consumer_tag: text(), nowait: true }, [60, 30]),
        (ServerMethod::BasicCancelOk { consumer_tag: text() }, [60, 31]),
        (ServerMethod::BasicGetEmpty, [60, 72]),
        (ServerMethod::BasicRecoverOk, [60, 111]),
        (ServerMethod::ConfirmSelectOk, [85, 11]),
        (ServerMethod::TxSelectOk, [90, 11]),
        (ServerMethod::TxCommitOk, [90, 21]),
        (ServerMethod::TxRollbackOk, [90, 31]),
    ] {
        let mut out = BytesMut::new();
        method.encode(1, &mut out);
        assert_eq!(out[7..11], [0, ids[0], 0, ids[1]], "{method:?}");
        assert_eq!(crate::amqp::frame::split(&out, 4096).len, out.len(), "{method:?}");
    }
}

proptest! {
    /// Whatever arrives, decoding answers; what amq_protocol would read of it, we read too.
    #[test]
    fn decode_never_panics(ids in prop::sample::select(&[(10, 11), (40, 10), (50, 10), (50, 20), (60, 20), (60, 40), (60, 120), (60, 10)][..]), arguments: Vec<u8>) {
        let payload = payload(ids.0, ids.1, &arguments);
        let ours = ClientMethod::decode(&payload);
        let theirs = parse_class(&payload[..]);
        if let (Err(error), Ok(([], _))) = (&ours, &theirs) {
            // RabbitMQ's dialect has no `U`; amq_protocol reads it as `s`.
            prop_assert!(arguments.contains(&b'U'), "{error}");
        }
    }
}
