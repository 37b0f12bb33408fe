//! AMQP beside the API: a client that does what only AMQP can do, one call at a time.

use std::time::Instant;

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::broker::{DEADLINE, TestBroker, pause};

/// An open channel, closed when dropped.
pub(crate) struct Client {
    runtime: Runtime,
    _connection: Connection,
    channel: Channel,
}

impl Client {
    /// Connects as guest to a virtual host, which is named as in a URI.
    pub(crate) fn connect(broker: &TestBroker, virtual_host: &str) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let uri = format!("amqp://guest:guest@{}/{virtual_host}", broker.amqp);
        let (connection, channel) = runtime.block_on(async {
            let connection = Connection::connect(&uri, ConnectionProperties::default()).await;
            let connection = connection.expect("connected");
            let channel = connection.create_channel().await.expect("a channel");
            (connection, channel)
        });
        Self { runtime, _connection: connection, channel }
    }

    /// Declares a queue of the connection's own.
    pub(crate) fn declare_exclusive(&self, queue: &str) {
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let declared = self.channel.queue_declare(queue.into(), options, FieldTable::default());
        self.runtime.block_on(declared).expect("declared");
    }

    /// Publishes to an exchange.
    pub(crate) fn publish(&self, exchange: &str, key: &str, payload: &[u8], properties: BasicProperties) {
        let options = BasicPublishOptions::default();
        let published = self.channel.basic_publish(exchange.into(), key.into(), options, payload, properties);
        self.runtime.block_on(async { published.await.expect("published").await.expect("sent") });
    }

    /// Consumes, and never acknowledges, so many messages.
    pub(crate) fn consume(&self, queue: &str, tag: &str, prefetch: u16, exclusive: bool, priority: i32) {
        let options = BasicConsumeOptions { exclusive, ..BasicConsumeOptions::default() };
        let mut arguments = FieldTable::default();
        if priority != 0 {
            arguments.insert("x-priority".into(), AMQPValue::LongInt(priority));
        }
        self.runtime.block_on(async {
            self.channel.basic_qos(prefetch, BasicQosOptions::default()).await.expect("prefetch");
            let consumer = self.channel.basic_consume(queue.into(), tag.into(), options, arguments).await;
            // It is cancelled when it is dropped, and it is not to be.
            std::mem::forget(consumer.expect("consumes"));
        });
    }
}

/// Waits until GET of that path is answered with what is wanted, and returns it.
pub(crate) fn wait_for(broker: &TestBroker, path: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let answer = broker.get(path).json();
        if is_wanted(&answer) {
            return answer;
        }
        assert!(started.elapsed() < DEADLINE, "{path}: {answer}");
        pause();
    }
}
