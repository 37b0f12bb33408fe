//! Delayed messages: an exchange of type `x-delayed-message` keeps a message with an `x-delay` header for that long, in a
//! queue of its own, and routes it then.

use super::message::Message;
use crate::amqp::{Properties, Value, table::find_raw};

/// The header that says the delay in milliseconds; on a delivery it is negative.
const HEADER: &str = "x-delay";
/// What the name of the queue of an exchange's delayed messages begins with.
const QUEUE_PREFIX: &str = "amq.delayed.";

/// The name of the queue that keeps an exchange's delayed messages. No client can declare it.
pub fn queue_name(exchange: &str) -> String {
    format!("{QUEUE_PREFIX}{exchange}")
}

/// The exchange whose delayed messages the queue of that name keeps.
pub fn exchange_of(queue: &str) -> Option<&str> {
    queue.strip_prefix(QUEUE_PREFIX)
}

/// How long a message is to be delayed, in milliseconds; `None` if it is not. The header is an integer of any width, or a
/// string of one. There is no upper bound but that of its type.
pub fn delay_ms(properties: &Properties<'_>) -> Option<u64> {
    let value = find_raw(properties.headers?, HEADER)?.decode();
    let ms = value.as_int().or_else(|| value.as_str()?.trim().parse().ok())?;
    u64::try_from(ms).ok().filter(|ms| *ms > 0)
}

/// The message as it is routed once its delay is over, and the keys to route it by.
pub fn released(message: &Message) -> (Message, Vec<String>) {
    let properties = Properties::parse(message.properties()).unwrap_or_default();
    let delay_ms = delay_ms(&properties).and_then(|ms| i64::try_from(ms).ok()).unwrap_or(0);
    let raw = properties.with_number_header(HEADER, -delay_ms);
    (message.with_properties(&raw), routing_keys(message, &properties))
}

/// The keys that a message is routed by: its own and those of the CC and BCC headers (RabbitMQ: sender-selected
/// distribution).
fn routing_keys(message: &Message, properties: &Properties<'_>) -> Vec<String> {
    let own = String::from_utf8_lossy(message.routing_key()).into_owned();
    let headers = properties.headers.unwrap_or_default();
    let copies = ["CC", "BCC"].into_iter().filter_map(|name| match find_raw(headers, name)?.decode() {
        Value::Array(keys) => Some(keys),
        _ => None,
    });
    let copies = copies.flatten().filter_map(|key| key.as_str().map(str::to_owned));
    std::iter::once(own).chain(copies).collect()
}
