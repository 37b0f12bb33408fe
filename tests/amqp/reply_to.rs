//! Direct reply-to: an answer without a queue (A8).

use amq_protocol::protocol::{
    BasicProperties,
    basic::{Cancel, CancelOk, Consume, ConsumeOk, Deliver, Get, GetOk, Publish, Return},
    channel,
    queue::{Declare, DeclareOk, DeleteOk},
};

use crate::{
    broker::shared,
    wire::{Refusal, Wire, consume, declare, delete, get, publish, unique},
};

const REPLY_TO: &str = "amq.rabbitmq.reply-to";

#[test]
fn an_answer_reaches_the_asker() {
    let mut call = Call::new();
    assert!(call.reply_to.starts_with("amq.rabbitmq.reply-to."), "{}", call.reply_to);
    let properties = BasicProperties::default().with_correlation_id("1".into());
    call.server.publish_with(1, publish("", &call.reply_to), &properties, b"answer");
    let answer = call.client.expect_content::<Deliver>(1);
    assert_eq!((answer.method.consumer_tag.as_str(), answer.body.as_slice()), ("replies", &b"answer"[..]));
    assert_eq!(
        (answer.method.exchange.as_str(), answer.method.routing_key.as_str()),
        ("", call.reply_to.as_str())
    );
    assert_eq!(answer.properties, properties);
}

#[test]
fn the_address_looks_like_a_queue_while_it_lives() {
    let mut call = Call::new();
    for passive in [true, false] {
        let declared: DeclareOk = call.server.call(1, Declare { passive, ..declare(&call.reply_to) });
        assert_eq!((declared.message_count, declared.consumer_count), (0, 1));
    }
    // Nobody else can take it away.
    assert_eq!(call.server.call::<DeleteOk>(1, delete(&call.reply_to)).message_count, 0);
    call.server.publish(1, &call.reply_to, "answer");
    assert_eq!(call.client.next_events(1), ["deliver replies answer"]);
    call.client.call::<CancelOk>(1, Cancel { consumer_tag: "replies".into(), nowait: false });
    call.client.send(1, channel::Close { reply_code: 200, ..channel::Close::default() });
    call.client.expect::<channel::CloseOk>(1);
    call.server.send(1, Declare { passive: true, ..declare(&call.reply_to) });
    let Refusal::Channel(1, close) = call.server.refusal() else { panic!("a closed channel") };
    assert_eq!((close.code, close.method_id), (404, 10));
}

#[test]
fn an_answer_to_nobody_returns() {
    let mut call = Call::new();
    call.client.close();
    let mandatory = Publish { mandatory: true, ..publish("", &call.reply_to) };
    call.server.publish_with(1, mandatory, &BasicProperties::default(), b"late");
    assert_eq!(call.server.next_events(1), ["return late"]);
}

#[test]
fn only_the_default_exchange_leads_there() {
    let mut call = Call::new();
    let mandatory = Publish { mandatory: true, ..publish("amq.direct", &call.reply_to) };
    call.server.publish_with(1, mandatory, &BasicProperties::default(), b"strayed");
    assert_eq!(call.server.next_events(1), ["return strayed"]);
}

#[test]
fn the_consumer_may_be_cancelled_and_made_again() {
    let mut wire = Wire::open(&shared());
    for _ in 0..2 {
        wire.call::<ConsumeOk>(1, replies());
        wire.call::<CancelOk>(1, Cancel { consumer_tag: "replies".into(), nowait: false });
    }
    let asking = BasicProperties::default().with_reply_to(REPLY_TO.into());
    wire.publish_with(1, publish("", "nowhere"), &asking, b"question");
    let Refusal::Channel(1, close) = wire.refusal() else { panic!("a closed channel") };
    assert_eq!(close.text, "PRECONDITION_FAILED - fast reply consumer does not exist");
}

#[test]
fn the_bare_name_answers_to_a_declaration() {
    let mut wire = Wire::open(&shared());
    for passive in [true, false] {
        let declared: DeclareOk = wire.call(1, Declare { passive, ..declare(REPLY_TO) });
        assert_eq!(
            (declared.queue.as_str(), declared.message_count, declared.consumer_count),
            (REPLY_TO, 0, 1)
        );
    }
}

#[test]
fn a_question_that_returns_has_its_address() {
    let mut wire = Wire::open(&shared());
    wire.call::<ConsumeOk>(1, replies());
    let asking = BasicProperties::default().with_reply_to(REPLY_TO.into());
    wire.publish_with(1, Publish { mandatory: true, ..publish("", "nowhere") }, &asking, b"question");
    let returned = wire.expect_content::<Return>(1);
    let reply_to = returned.properties.reply_to().as_ref().expect("a reply_to").to_string();
    assert!(reply_to.starts_with("amq.rabbitmq.reply-to."), "{reply_to}");
}

/// A question on its way: who asked, who got it, and where the answer goes.
struct Call {
    client: Wire,
    server: Wire,
    reply_to: String,
}

impl Call {
    fn new() -> Self {
        let broker = shared();
        let (mut client, mut server) = (Wire::open(&broker), Wire::open(&broker));
        let queue = unique("reply-to");
        server.call::<DeclareOk>(1, Declare { exclusive: true, ..declare(&queue) });
        client.call::<ConsumeOk>(1, replies());
        let asking = BasicProperties::default().with_reply_to(REPLY_TO.into());
        client.publish_with(1, publish("", &queue), &asking, b"question");
        // Published on another connection: it is there when the asker's next call is answered.
        client.call::<amq_protocol::protocol::basic::QosOk>(1, crate::wire::prefetch(0));
        let question = loop {
            server.send(1, Get { no_ack: true, ..get(&queue) });
            if let Some(question) = got(&mut server) {
                break question;
            }
        };
        let reply_to = question.reply_to().as_ref().expect("a reply_to").to_string();
        Self { client, server, reply_to }
    }
}

/// The properties of what a get brought.
fn got(wire: &mut Wire) -> Option<BasicProperties> {
    use amq_protocol::protocol::{AMQPClass, basic::AMQPMethod};

    match wire.next() {
        crate::wire::Incoming::Method(1, AMQPClass::Basic(AMQPMethod::GetOk(method))) => {
            Some(wire.content::<GetOk>(1, method).properties)
        }
        crate::wire::Incoming::Method(1, AMQPClass::Basic(AMQPMethod::GetEmpty(_))) => None,
        other => panic!("expected an answer to basic.get, got {other:?}"),
    }
}

fn replies() -> Consume {
    Consume { no_ack: true, ..consume(REPLY_TO, "replies") }
}
