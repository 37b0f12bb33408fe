//! The log exchange `amq.rabbitmq.log` (RabbitMQ: `log.exchange`): the lines of the broker's log as messages, by severity.

use super::{
    Broker, NEVER, Now,
    batch::PublishBatch,
    effects::Effects,
    event::VIRTUAL_HOST,
    exchange::Routing,
    message::{Message, PublishedBody},
    route::Route,
};
use crate::amqp::{Properties, PropertiesBuilder, Table};

/// The exchange that lines of the log are published to, in the virtual host `/`.
pub const EXCHANGE: &str = "amq.rabbitmq.log";

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// The routing key, RabbitMQ's: `debug`, `info`, `warning` or `error`.
    pub severity: &'static str,
    /// The line as it is in the log, without its end.
    pub text: Vec<u8>,
    /// The media type of it: `text/plain` or `application/json`.
    pub content_type: &'static str,
}

impl Broker {
    /// Declares the exchange, which is not there unless the log is to be published.
    pub fn declare_log_exchange(&self) {
        if let Some(host) = self.virtual_host(VIRTUAL_HOST) {
            host.predeclare_topic(EXCHANGE);
        }
    }

    /// Publishes a line. Nobody hears of it if nothing is bound. No lock may be held.
    pub fn publish_log(&self, line: &LogLine, now: Now) {
        let Some(host) = self.virtual_host(VIRTUAL_HOST) else { return };
        let Some(exchange) = host.exchange(EXCHANGE) else { return };
        let node: Table =
            [("node".to_owned(), self.identity.cluster_name.as_str().into())].into_iter().collect();
        let properties = PropertiesBuilder {
            content_type: Some(line.content_type.to_owned()),
            headers: Some(node),
            timestamp: Some(now.unix_ms / 1000),
            ..PropertiesBuilder::default()
        };
        let (names, body) = ((EXCHANGE, line.severity), PublishedBody::Small(&line.text));
        let message = Message::new(names, &properties.encode(), body, false, None, &mut Vec::new());
        let keys = [line.severity];
        let properties = Properties::parse(message.properties()).unwrap_or_default();
        let routing = Routing { keys: &keys, properties, now_ms: now.unix_ms };
        let Route { queues, claims, .. } = Route::find(&host, &exchange, &routing, Some(&message));
        if queues.is_empty() {
            return;
        }
        let mut effects = Effects { now, ..Effects::default() };
        let (mut publishes, any_durable) =
            (PublishBatch::default(), queues.iter().any(|queue| queue.properties.durable));
        let claims = publishes.claim(claims);
        publishes.push(message, NEVER, None, &queues, any_durable, claims);
        publishes.flush(&mut effects);
        self.conclude(effects);
    }
}
