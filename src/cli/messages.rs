//! `leveret publish`, `get` and `purge`: single messages, by hand.

use std::io::{self, BufRead, Write};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};

use super::{
    Context, Failure, Task,
    api::path,
    options::{Format, read_input},
    table::{self, Column},
    topology::{argument, queue},
};

/// Publish a message, or each line of standard input as one.
///
/// With only --key, the message goes to the queue of that name. Exits with 1 if no queue takes it.
#[derive(clap::Args)]
pub struct Publish {
    /// Body of the message [default: standard input]
    #[arg(conflicts_with_all = ["file", "lines"])]
    body: Option<String>,
    /// Exchange to publish to; none is the default exchange
    #[arg(short = 'x', long, value_name = "NAME", default_value = "")]
    exchange: String,
    /// Routing key
    #[arg(short = 'k', long, value_name = "KEY", default_value = "")]
    key: String,
    /// File with the body
    #[arg(long, value_name = "FILE", conflicts_with = "lines")]
    file: Option<String>,
    /// Each line of standard input is a message
    #[arg(long)]
    lines: bool,
    /// Not kept across a restart
    #[arg(long)]
    transient: bool,
    /// A property such as content_type=text/plain, priority=5 or expiration=60000. May be repeated
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = argument)]
    properties: Vec<(String, Value)>,
    /// A header: the value is JSON, or else text. May be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = argument)]
    headers: Vec<(String, Value)>,
}

/// Take messages from a queue and show them.
///
/// They go back into the queue, marked as redelivered, unless --ack says to remove them.
#[derive(clap::Args)]
pub struct Get {
    /// Queue to take from
    queue: String,
    /// How many, at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1)]
    count: u32,
    /// Remove them from the queue
    #[arg(long, conflicts_with = "reject")]
    ack: bool,
    /// Reject them: they go to the dead letter exchange, if the queue has one
    #[arg(long)]
    reject: bool,
    /// Print the body of the first message only, octet by octet
    #[arg(long)]
    raw: bool,
}

/// Remove all ready messages from queues.
#[derive(clap::Args)]
pub struct Purge {
    /// Queues to purge
    #[arg(required = true, value_name = "QUEUE")]
    queues: Vec<String>,
}

impl Task for Publish {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let vhost = context.vhost();
        // In a path, the default exchange has a name.
        let exchange = if self.exchange.is_empty() { "amq.default" } else { &self.exchange };
        let path = path(&["exchanges", vhost, exchange, "publish"]);
        let properties = self.properties();
        let publish = |body: &[u8]| {
            let request = request(&self.key, &properties, body);
            let answer = context.api.post(&path, &request);
            let answer = answer.map_err(|failure| {
                failure.missing(format!("exchange '{exchange}' in virtual host '{vhost}'"))
            })?;
            Ok::<_, Failure>(answer["routed"].as_bool().unwrap_or(true))
        };
        if self.lines {
            return publish_lines(context, publish);
        }
        let body = match (&self.body, &self.file) {
            (Some(body), _) => body.clone().into_bytes(),
            (None, Some(file)) => read_input(file)?,
            (None, None) => read_input("-")?,
        };
        if publish(&body)? {
            context.say("published")
        } else {
            Err(Failure::Failed(format!(
                "the message was published, but no queue takes '{}' from there",
                self.key
            )))
        }
    }
}

fn publish_lines(context: &Context, publish: impl Fn(&[u8]) -> Result<bool, Failure>) -> Result<(), Failure> {
    let mut progress = context.progress();
    let (mut count, mut unrouted) = (0_u64, 0_u64);
    for line in io::stdin().lock().split(b'\n') {
        let line = line.map_err(|error| Failure::Io(format!("standard input: {error}")))?;
        let routed = publish(&line).map_err(|failure| match count {
            0 => failure,
            count => Failure::Failed(format!("{failure}; {count} messages were published before")),
        })?;
        count += 1;
        unrouted += u64::from(!routed);
        progress.show(&format!("{count} messages"));
    }
    drop(progress);
    if unrouted > 0 {
        return Err(Failure::Failed(format!(
            "{count} messages were published, but {unrouted} went to no queue"
        )));
    }
    context.say(format!("{count} messages were published"))
}

impl Publish {
    fn properties(&self) -> Map<String, Value> {
        let mut properties: Map<String, Value> = self.properties.iter().cloned().collect();
        // What is text in AMQP is text in the API, if it looks like a number or not.
        for (name, value) in &mut properties {
            let is_number = ["delivery_mode", "priority", "timestamp"].contains(&name.as_str());
            if !is_number && name != "headers" && !value.is_string() {
                *value = Value::from(value.to_string());
            }
        }
        properties.entry("delivery_mode").or_insert_with(|| Value::from(if self.transient { 1 } else { 2 }));
        if !self.headers.is_empty() {
            properties.insert("headers".into(), Value::Object(self.headers.iter().cloned().collect()));
        }
        properties
    }
}

fn request(key: &str, properties: &Map<String, Value>, body: &[u8]) -> Value {
    let (payload, encoding) = match std::str::from_utf8(body) {
        Ok(text) => (text.to_owned(), "string"),
        Err(_) => (BASE64_STANDARD.encode(body), "base64"),
    };
    json!({"properties": properties, "routing_key": key, "payload": payload, "payload_encoding": encoding})
}

impl Task for Get {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let vhost = context.vhost();
        let mode = match (self.ack, self.reject) {
            (true, _) => "ack_requeue_false",
            (_, true) => "reject_requeue_false",
            _ => "ack_requeue_true",
        };
        let encoding = if self.raw { "base64" } else { "auto" };
        let count = if self.raw { 1 } else { self.count };
        let body = json!({"count": count, "ackmode": mode, "encoding": encoding});
        let path = path(&["queues", vhost, &self.queue, "get"]);
        let messages = context.api.post(&path, &body);
        let messages = messages.map_err(|failure| failure.missing(queue(&self.queue, vhost)))?;
        let messages = messages.as_array().cloned().unwrap_or_default();
        if self.raw {
            let Some(message) = messages.first() else {
                return Err(Failure::Failed(format!("queue '{}' is empty", self.queue)));
            };
            let body = BASE64_STANDARD.decode(message["payload"].as_str().unwrap_or_default());
            let body =
                body.map_err(|error| Failure::Unexpected(format!("the body is not base64: {error}")))?;
            let mut out = io::stdout().lock();
            out.write_all(&body)?;
            return Ok(out.flush()?);
        }
        if messages.is_empty() && context.format == Format::Table {
            return context.say(format!("queue '{}' is empty", self.queue));
        }
        let columns = [
            Column::of("exchange", "exchange"),
            Column::of("key", "routing_key"),
            Column::of("redelivered", "redelivered"),
            Column::of("bytes", "payload_bytes"),
            Column::of("left", "message_count"),
            Column::of("properties", "properties"),
            Column::of("body", "payload"),
        ];
        table::print(context, &messages, &columns)
    }
}

impl Task for Purge {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let vhost = context.vhost();
        let mut progress = context.progress();
        for (index, name) in self.queues.iter().enumerate() {
            progress.show(&format!("{index} of {} queues are purged", self.queues.len()));
            let path = path(&["queues", vhost, name, "contents"]);
            context.api.delete(&path).map_err(|failure| failure.missing(queue(name, vhost)))?;
        }
        drop(progress);
        context.say(match self.queues.as_slice() {
            [name] => format!("queue '{name}' is purged"),
            queues => format!("{} queues are purged", queues.len()),
        })
    }
}
