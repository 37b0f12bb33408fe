//! A program on lapin, for what queues do by themselves: it declares, publishes with confirms, and waits for messages.

use std::{sync::Arc, time::Duration};

use futures_lite::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ExchangeKind,
    message::Delivery,
    options::*,
    types::{AMQPValue, FieldTable},
};
use tokio::time::{sleep, timeout};

use crate::{
    broker::{DEADLINE, TestBroker, is_external, shared},
    wire::table,
};

/// How long nothing may come where nothing is expected.
const SILENCE: Duration = Duration::from_millis(150);

/// The arguments of a queue, a consumer or an exchange; headers of a message.
pub(crate) type Fields<'a> = &'a [(&'a str, AMQPValue)];

/// The shared broker, unless it is another one: what is asked of it here is ours alone.
pub(crate) fn ours() -> Option<Arc<TestBroker>> {
    (!is_external()).then(shared)
}

/// A broker for one test, which restarts it; with these lines of configuration.
pub(crate) fn restartable(configuration: &str) -> Option<Arc<TestBroker>> {
    (!is_external()).then(|| TestBroker::start(configuration))
}

/// Stops a broker and starts another one on its data, while programs answer to the end of the first.
pub(crate) async fn restart(broker: Arc<TestBroker>) -> Arc<TestBroker> {
    tokio::task::spawn_blocking(move || broker.restart()).await.expect("a restart")
}

/// See the module.
pub(crate) struct Program {
    pub(crate) connection: Connection,
    pub(crate) channel: Channel,
    // Held for its life: the broker stays as long as somebody is connected.
    _broker: Arc<TestBroker>,
}

impl Program {
    /// Connected, with a channel that confirms publishes.
    pub(crate) async fn open(broker: &Arc<TestBroker>) -> Self {
        let uri = broker.uri();
        let connecting = Connection::connect(&uri, ConnectionProperties::default());
        let connection = timeout(DEADLINE, connecting).await.expect("in time").expect("connect");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirm.select");
        Self { connection, channel, _broker: Arc::clone(broker) }
    }

    /// Declares a durable queue.
    pub(crate) async fn queue(&self, name: &str, arguments: Fields<'_>) {
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        self.channel.queue_declare(name.into(), options, fields(arguments)).await.expect("queue.declare");
    }

    /// Declares a durable exchange.
    pub(crate) async fn exchange(&self, name: &str, kind: &str, arguments: Fields<'_>) {
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let kind = ExchangeKind::Custom(kind.to_owned());
        let declared = self.channel.exchange_declare(name.into(), kind, options, fields(arguments)).await;
        declared.expect("exchange.declare");
    }

    /// Binds a queue to an exchange.
    pub(crate) async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        let options = QueueBindOptions::default();
        let bound = self
            .channel
            .queue_bind(queue.into(), exchange.into(), key.into(), options, FieldTable::default())
            .await;
        bound.expect("queue.bind");
    }

    /// Publishes a mandatory message and waits for its confirm.
    pub(crate) async fn confirmed(
        &self,
        exchange: &str,
        key: &str,
        properties: BasicProperties,
        body: &str,
    ) -> Confirmation {
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let (exchange, key) = (exchange.into(), key.into());
        let publish = self.channel.basic_publish(exchange, key, options, body.as_bytes(), properties);
        publish.await.expect("basic.publish").await.expect("a confirm")
    }

    /// The same for a message that must be taken.
    pub(crate) async fn publish(&self, exchange: &str, key: &str, properties: BasicProperties, body: &str) {
        let confirmation = self.confirmed(exchange, key, properties, body).await;
        assert_eq!(confirmation, Confirmation::Ack(None), "{body} is taken and routed");
    }

    /// Publishes persistent messages to a queue and waits for their confirms.
    pub(crate) async fn fill(&self, queue: &str, bodies: &[&str]) {
        for body in bodies {
            self.publish("", queue, persistent(), body).await;
        }
    }

    /// Consumes on a channel of its own.
    pub(crate) async fn consume(&self, queue: &str, prefetch: u16) -> Consumer {
        let channel = self.connection.create_channel().await.expect("a channel");
        channel.basic_qos(prefetch, BasicQosOptions::default()).await.expect("basic.qos");
        let options = BasicConsumeOptions::default();
        let consuming = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
        consuming.await.expect("basic.consume")
    }

    /// How many messages of a queue are ready; 404 is an error.
    pub(crate) async fn try_count(&self, queue: &str) -> Result<u32, lapin::Error> {
        let channel = self.connection.create_channel().await.expect("a channel");
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
        channel.close(200, "bye".into()).await.expect("channel.close");
        Ok(declared.message_count())
    }

    /// How many messages of a queue are ready.
    pub(crate) async fn count(&self, queue: &str) -> u32 {
        self.try_count(queue).await.expect("the queue is there")
    }

    /// Waits until so many messages of a queue are ready.
    pub(crate) async fn wait_for_count(&self, queue: &str, count: u32) {
        let poll = async {
            while self.count(queue).await != count {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(DEADLINE, poll).await.unwrap_or_else(|_| panic!("{queue} never has {count} messages"));
    }

    /// The next message of a queue, which leaves it.
    pub(crate) async fn take(&self, queue: &str) -> Delivery {
        let poll = async {
            loop {
                let options = BasicGetOptions { no_ack: true };
                match self.channel.basic_get(queue.into(), options).await.expect("basic.get") {
                    Some(message) => break message.delivery,
                    None => sleep(Duration::from_millis(5)).await,
                }
            }
        };
        timeout(DEADLINE, poll).await.unwrap_or_else(|_| panic!("{queue} never has a message"))
    }

    /// The bodies of the next messages of a queue, which leave it.
    pub(crate) async fn take_bodies(&self, queue: &str, count: usize) -> Vec<String> {
        let mut bodies = Vec::new();
        for _ in 0..count {
            bodies.push(body(&self.take(queue).await));
        }
        bodies
    }
}

/// The next delivery.
pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    timeout(DEADLINE, consumer.next()).await.expect("in time").expect("a delivery").expect("no error")
}

/// Nothing is delivered.
pub(crate) async fn silent(consumer: &mut Consumer) {
    let delivery = timeout(SILENCE, consumer.next()).await;
    assert!(delivery.is_err(), "nothing is expected: {delivery:?}");
}

/// Acknowledges a delivery.
pub(crate) async fn ack(delivery: &Delivery) {
    delivery.ack(BasicAckOptions::default()).await.expect("basic.ack");
}

/// Gives a delivery back.
pub(crate) async fn nack(delivery: &Delivery) {
    let options = BasicNackOptions { requeue: true, ..Default::default() };
    delivery.nack(options).await.expect("basic.nack");
}

/// Rejects a delivery.
pub(crate) async fn reject(delivery: &Delivery, requeue: bool) {
    delivery.reject(BasicRejectOptions { requeue }).await.expect("basic.reject");
}

/// Its body.
pub(crate) fn body(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.data).into_owned()
}

/// One of its headers.
pub(crate) fn header<'a>(delivery: &'a Delivery, name: &str) -> Option<&'a AMQPValue> {
    delivery.properties.headers().as_ref()?.inner().get(name)
}

/// Its deaths, the last one first: queue, reason and count of each.
pub(crate) fn deaths(delivery: &Delivery) -> Vec<(String, String, i64)> {
    let Some(AMQPValue::FieldArray(deaths)) = header(delivery, "x-death") else { return Vec::new() };
    let death = |death: &AMQPValue| {
        let AMQPValue::FieldTable(death) = death else { panic!("a death is a table: {death:?}") };
        let text = |name: &str| match death.inner().get(name) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            other => panic!("{name} is a text: {other:?}"),
        };
        let Some(AMQPValue::LongLongInt(count)) = death.inner().get("count") else { panic!("a count") };
        (text("queue"), text("reason"), *count)
    };
    deaths.as_slice().iter().map(death).collect()
}

/// The properties of a message that survives.
pub(crate) fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

/// A field table.
pub(crate) fn fields(fields: Fields<'_>) -> FieldTable {
    table(fields.iter().map(|(name, value)| (*name, value.clone())))
}

/// An array, as an argument.
pub(crate) fn array(values: &[AMQPValue]) -> AMQPValue {
    AMQPValue::FieldArray(values.to_vec().into())
}
