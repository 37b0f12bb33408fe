//! What is published and delivered, told to `amq.rabbitmq.trace` (RabbitMQ: the firehose), as RabbitMQ 3.10 words it.
//!
//! Whether a virtual host is traced is looked at once for each batch. What comes through the exchange of the trace
//! is not traced itself.

use super::{publish::copies, shared::Shared};
use crate::{
    amqp::{Properties, PropertiesBuilder, Table, Value},
    broker::{
        NEVER,
        exchange::Routing,
        message::{Message, PublishedBody},
        queue::QueueHandle,
        route::Route,
        vhost::TRACE_EXCHANGE,
    },
};

/// The longest routing key, in octets.
const KEY_BYTES_MAX: usize = 255;

impl Shared {
    /// A message is about to enter these queues. `None` stands for the queues that its routing keys name.
    pub(super) fn trace_publish(&mut self, channel: u16, message: &Message, queues: Option<Vec<Value>>) {
        let exchange = String::from_utf8_lossy(message.exchange());
        let keys = routing_keys(message);
        let routed = queues.unwrap_or_else(|| keys.clone());
        let mut fields = self.traced(message, keys);
        fields.extend(self.place(channel));
        fields.push(("routed_queues".into(), Value::Array(routed)));
        self.trace(&format!("publish.{exchange}"), message, fields);
    }

    /// A message goes to a client.
    pub(super) fn trace_deliver(
        &mut self,
        channel: u16,
        queue: &QueueHandle,
        message: &Message,
        redelivered: bool,
    ) {
        if message.exchange() == TRACE_EXCHANGE.as_bytes() {
            return;
        }
        let mut fields = self.traced(message, routing_keys(message));
        fields.push(("redelivered".into(), Value::I32(redelivered.into())));
        fields.extend(self.place(channel));
        self.trace(&format!("deliver.{}", queue.name), message, fields);
    }

    /// What is said of the message itself.
    fn traced(&self, message: &Message, keys: Vec<Value>) -> Vec<(String, Value)> {
        let exchange = String::from_utf8_lossy(message.exchange()).into_owned();
        vec![
            ("exchange_name".into(), exchange.into()),
            ("routing_keys".into(), Value::Array(keys)),
            ("properties".into(), Value::Table(properties_table(message))),
            ("node".into(), self.broker.identity.cluster_name.as_str().into()),
        ]
    }

    /// Who publishes or gets it, and where.
    fn place(&self, channel: u16) -> [(String, Value); 4] {
        [
            ("vhost".into(), (*self.host.name).into()),
            ("connection".into(), self.status.name().into()),
            ("channel".into(), Value::I32(channel.into())),
            ("user".into(), (*self.user.name).into()),
        ]
    }

    fn trace(&mut self, key: &str, message: &Message, fields: Vec<(String, Value)>) {
        let Some(exchange) = self.host.exchange(TRACE_EXCHANGE) else { return };
        let key = &key[..key.floor_char_boundary(KEY_BYTES_MAX)];
        let headers = PropertiesBuilder { headers: Some(Table(fields)), ..PropertiesBuilder::default() };
        let encoded = headers.encode();
        // Headers of the message that nest as deep or are as long as they may be would be too much here.
        let Ok(properties) = Properties::parse(&encoded) else { return };
        let body = message.large_body().map_or_else(
            || PublishedBody::Small(message.body().as_slice()),
            |body| PublishedBody::Large(body.clone()),
        );
        let names = (TRACE_EXCHANGE, key);
        let trace = Message::new(names, &encoded, body, false, None, &mut self.scratch);
        let routing = Routing { keys: &[key], properties, now_ms: self.now.unix_ms };
        let Route { queues, claims, .. } = Route::find(&self.host, &exchange, &routing, Some(&trace));
        if queues.is_empty() || !self.broker.limits.fits_header(&encoded) {
            return;
        }
        let claims = self.publishes.claim(claims);
        if self.publishes.push(trace, NEVER, None, &queues, false, claims) {
            self.apply();
        }
    }
}

/// The routing keys of a message, those of its CC and BCC headers included.
fn routing_keys(message: &Message) -> Vec<Value> {
    let first = String::from_utf8_lossy(message.routing_key()).into_owned();
    let copies = Properties::parse(message.properties()).ok().and_then(|properties| copies(&properties).ok());
    let copies = copies.map(|copies| copies.keys).unwrap_or_default();
    std::iter::once(first).chain(copies).map(Value::from).collect()
}

/// The properties that a message has, the last one first, and without BCC.
fn properties_table(message: &Message) -> Table {
    let Ok(properties) = Properties::parse(message.properties()) else { return Table::default() };
    let text = |octets: Option<&[u8]>| octets.map(|octets| Value::LongStr(octets.to_vec().into()));
    let number = |number: Option<u8>| number.map(|number| Value::I32(number.into()));
    let headers = properties.headers.and_then(|headers| Table::decode(headers).ok()).map(|mut headers| {
        headers.0.retain(|(name, _)| name != "BCC");
        Value::Table(headers)
    });
    let seconds = |seconds: u64| i32::try_from(seconds).map_or(Value::Timestamp(seconds), Value::I32);
    let fields = [
        ("cluster_id", text(properties.cluster_id)),
        ("app_id", text(properties.app_id)),
        ("user_id", text(properties.user_id)),
        ("type", text(properties.type_)),
        ("timestamp", properties.timestamp.map(seconds)),
        ("message_id", text(properties.message_id)),
        ("expiration", text(properties.expiration)),
        ("reply_to", text(properties.reply_to)),
        ("correlation_id", text(properties.correlation_id)),
        ("priority", number(properties.priority)),
        ("delivery_mode", number(properties.delivery_mode)),
        ("headers", headers),
        ("content_encoding", text(properties.content_encoding)),
        ("content_type", text(properties.content_type)),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
