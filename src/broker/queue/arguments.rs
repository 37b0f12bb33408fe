//! A queue's arguments: the `x-` table of `queue.declare`, checked and parsed once.
//!
//! The checks, their order and their texts are RabbitMQ 3.10's. An argument that RabbitMQ knows for another type of
//! queue only is checked and kept.
//! Deviation: RabbitMQ refuses those with 406.

use std::fmt;

use crate::{
    amqp::{Table, Value},
    broker::{
        refusal::{Refusal, Resource},
        vhost::QueueSpec,
    },
};

/// The type of a queue, `x-queue-type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueKind {
    /// The type of a queue that says nothing.
    #[default]
    Classic,
    /// Durable, never exclusive or auto-delete; what is requeued goes to the tail.
    Quorum,
}

impl QueueKind {
    /// RabbitMQ's name for it in reply texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "rabbit_classic_queue",
            Self::Quorum => "rabbit_quorum_queue",
        }
    }
}

/// The arguments that act.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueArguments {
    /// `x-queue-type`.
    pub kind: QueueKind,
    /// `x-max-priority`: messages leave by priority, highest first; higher ones count as this.
    pub max_priority: Option<u8>,
    /// `x-single-active-consumer`: one consumer at a time gets messages, the others wait in line.
    pub single_active_consumer: bool,
    /// `x-max-length`: how many messages may be ready.
    pub max_length: Option<u64>,
    /// `x-max-length-bytes`: how many octets of bodies may be ready.
    pub max_length_bytes: Option<u64>,
    /// `x-overflow`: whether a full queue rejects what is published, rather than drop its head.
    pub rejects_publish: bool,
    /// `x-delivery-limit` of a quorum queue: how many deliveries of a message may fail and it is still delivered again.
    pub delivery_limit: Option<u64>,
    /// `x-expires`: milliseconds without use after which the queue is deleted.
    pub expires_ms: Option<u64>,
}

/// Milliseconds of ten years: the highest `x-expires` and `x-message-ttl`.
const EXPIRY_MS_MAX: i64 = 315_360_000_000;

type Check = fn(&Value, &Table) -> Result<(), String>;

/// What RabbitMQ checks, in its order. The same names are compared when a queue is declared again.
const CHECKS: [(&str, Check); 22] = [
    ("x-expires", |value, _| expiry(value, 1)),
    ("x-message-ttl", |value, _| expiry(value, 0)),
    ("x-dead-letter-exchange", |value, _| string(value).map(drop)),
    ("x-dead-letter-routing-key", dead_letter_routing_key),
    ("x-dead-letter-strategy", |value, _| {
        one_of(value, &["at-most-once", "at-least-once"], "invalid_dlx_strategy")
    }),
    ("x-max-length", |value, _| at_least(value, 0)),
    ("x-max-length-bytes", |value, _| at_least(value, 0)),
    ("x-max-in-memory-length", |value, _| at_least(value, 0)),
    ("x-max-in-memory-bytes", |value, _| at_least(value, 0)),
    ("x-max-priority", max_priority),
    ("x-overflow", |value, _| {
        one_of(value, &["drop-head", "reject-publish", "reject-publish-dlx"], "invalid_overflow")
    }),
    ("x-queue-mode", queue_mode),
    ("x-queue-version", queue_version),
    ("x-single-active-consumer", |value, _| boolean(value)),
    ("x-queue-type", queue_type),
    ("x-quorum-initial-group-size", |value, _| at_least(value, 1)),
    ("x-max-age", max_age),
    ("x-stream-max-segment-size-bytes", |value, _| at_least(value, 0)),
    ("x-initial-cluster-size", |value, _| at_least(value, 1)),
    ("x-queue-leader-locator", |value, _| {
        one_of(value, &["client-local", "random", "least-leaders", "balanced"], "invalid_queue_locator_arg")
    }),
    ("x-delivery-limit", |value, _| integer(value).map(drop)),
    ("x-consumer-timeout", |value, _| at_least(value, 0)),
];

impl QueueArguments {
    /// Checks and parses the arguments of a queue that is being created.
    ///
    /// # Errors
    /// 406 `invalid arg '~s' for queue ...` as RabbitMQ words it.
    pub fn parse(table: &Table, resource: Resource<'_>) -> Result<Self, Refusal> {
        let invalid = |name: &str, reason: String| {
            Refusal::precondition_failed(format!("invalid arg '{name}' for {resource}: {reason}"))
        };
        if let Some(value) = table.get("x-queue-type") {
            queue_type(value, table).map_err(|reason| invalid("x-queue-type", reason))?;
        }
        check_dead_letter_exchange(table, resource)?;
        for (name, check) in CHECKS {
            if let Some(value) = table.get(name) {
                check(value, table).map_err(|reason| invalid(name, reason))?;
            }
        }
        let kind = match table.get("x-queue-type").and_then(Value::as_str) {
            Some("quorum") => QueueKind::Quorum,
            _ => QueueKind::Classic,
        };
        let number =
            |name| table.get(name).and_then(Value::as_int).and_then(|number| u64::try_from(number).ok());
        let overflow = table.get("x-overflow").and_then(Value::as_str);
        Ok(Self {
            kind,
            // A quorum queue has no such argument: it is kept, as others that are another type's, and does not act.
            max_priority: number("x-max-priority")
                .filter(|_| kind == QueueKind::Classic)
                .and_then(|priority| u8::try_from(priority).ok()),
            single_active_consumer: table.get("x-single-active-consumer").and_then(Value::as_bool)
                == Some(true),
            max_length: number("x-max-length"),
            max_length_bytes: number("x-max-length-bytes"),
            rejects_publish: match overflow {
                Some("reject-publish") => true,
                // RabbitMQ: a quorum queue takes it for the default.
                Some("reject-publish-dlx") => kind == QueueKind::Classic,
                _ => false,
            },
            // RabbitMQ 3.10: a negative one is as good as 0.
            delivery_limit: table
                .get("x-delivery-limit")
                .and_then(Value::as_int)
                .filter(|_| kind == QueueKind::Quorum)
                .map(|limit| u64::try_from(limit).unwrap_or(0)),
            expires_ms: number("x-expires"),
        })
    }

    /// Refuses what the type of queue can't be: a quorum queue is durable, shared, stays, and has a name.
    ///
    /// # Errors
    /// 406 `invalid property '~s' for queue ...`.
    pub fn check_properties(
        &self,
        spec: &QueueSpec<'_>,
        is_generated: bool,
        resource: Resource<'_>,
    ) -> Result<(), Refusal> {
        if self.kind == QueueKind::Classic {
            return Ok(());
        }
        let invalid = [
            (spec.auto_delete, "auto-delete"),
            (spec.exclusive, "exclusive-owner"),
            (!spec.durable, "non-durable"),
        ];
        if let Some((_, property)) = invalid.iter().find(|(is_set, _)| *is_set) {
            let text = format!("invalid property '{property}' for {resource}");
            return Err(Refusal::precondition_failed(text));
        }
        if is_generated {
            let text = "Cannot declare a server-named queue for type rabbit_quorum_queue";
            return Err(Refusal::precondition_failed(text));
        }
        Ok(())
    }

    /// Refuses a redeclaration whose arguments differ in value from the queue's own. Unknown arguments are not
    /// looked at, integers are equal across their widths, and no `x-queue-type` is the same as `classic`.
    ///
    /// # Errors
    /// 406 `inequivalent arg '~s' for queue ...`.
    pub fn check_equivalence(
        current: &Table,
        received: &Table,
        resource: Resource<'_>,
    ) -> Result<(), Refusal> {
        CHECKS.iter().try_for_each(|(name, _)| {
            let is_default = |value: &&Value| *name == "x-queue-type" && value.as_str() == Some("classic");
            let given = |table| Table::get(table, name).filter(|value| !is_default(value));
            if given(current).map(comparable) == given(received).map(comparable) {
                return Ok(());
            }
            Err(inequivalent(name, resource, received.get(name), current.get(name)))
        })
    }
}

/// 406 for an argument of a redeclaration, as RabbitMQ prints the values.
pub(in crate::broker) fn inequivalent(
    name: &str,
    resource: Resource<'_>,
    received: Option<&Value>,
    current: Option<&Value>,
) -> Refusal {
    let typed = |value: &Value| format!("the value '{}' of type '{}'", Printed(value), value.type_name());
    let (received, current) = match (received, current) {
        (Some(received), Some(current)) => {
            (format!("'{}'", Printed(received)), format!("'{}'", Printed(current)))
        }
        (received, current) => (
            received.map_or_else(|| "none".to_owned(), typed),
            current.map_or_else(|| "none".to_owned(), typed),
        ),
    };
    Refusal::precondition_failed(format!(
        "inequivalent arg '{name}' for {resource}: received {received} but current is {current}"
    ))
}

/// A value in a reply text.
struct Printed<'a>(&'a Value);

impl fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Bool(value) => write!(f, "{value}"),
            Value::LongStr(value) | Value::ByteArray(value) => f.write_str(&String::from_utf8_lossy(value)),
            Value::F32(value) => write!(f, "{value:?}"),
            Value::F64(value) => write!(f, "{value:?}"),
            Value::Timestamp(value) => write!(f, "{value}"),
            value => match value.as_int() {
                Some(value) => write!(f, "{value}"),
                None => write!(f, "{value:?}"),
            },
        }
    }
}

/// A value without the width of its type.
#[derive(PartialEq)]
enum Comparable<'a> {
    Number(i128),
    Text(&'a [u8]),
    Other(&'a Value),
}

/// What two values are compared by: RabbitMQ compares integers across their widths, and octets whatever their type.
pub(in crate::broker) fn comparable(value: &Value) -> impl PartialEq + '_ {
    match value {
        Value::Timestamp(seconds) => Comparable::Number(i128::from(*seconds)),
        Value::LongStr(octets) | Value::ByteArray(octets) => Comparable::Text(octets),
        value => match value.as_int() {
            Some(value) => Comparable::Number(i128::from(value)),
            None => Comparable::Other(value),
        },
    }
}

/// RabbitMQ looks at this one first, and words it in another way.
fn check_dead_letter_exchange(table: &Table, resource: Resource<'_>) -> Result<(), Refusal> {
    match table.get("x-dead-letter-exchange") {
        Some(value) if value.as_str().is_none() => Err(Refusal::precondition_failed(format!(
            "invalid type '{}' for arg 'x-dead-letter-exchange' in {resource}",
            value.type_name()
        ))),
        _ => Ok(()),
    }
}

fn integer(value: &Value) -> Result<i64, String> {
    value.as_int().ok_or_else(|| format!("\"expected integer, got {}\"", value.type_name()))
}

fn unacceptable(value: &Value) -> String {
    format!("{{unacceptable_type,{}}}", value.type_name())
}

fn string(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| unacceptable(value))
}

fn boolean(value: &Value) -> Result<(), String> {
    matches!(value, Value::Bool(_)).then_some(()).ok_or_else(|| unacceptable(value))
}

fn at_least(value: &Value, least: i64) -> Result<(), String> {
    match integer(value)? {
        value if value < 0 => Err(format!("{{value_negative,{value}}}")),
        value if value < least => Err(format!("{{value_zero,{value}}}")),
        _ => Ok(()),
    }
}

fn expiry(value: &Value, least: i64) -> Result<(), String> {
    at_least(value, least)?;
    match integer(value)? {
        value if value > EXPIRY_MS_MAX => Err(format!("{{value_too_large,{value}}}")),
        _ => Ok(()),
    }
}

fn one_of(value: &Value, allowed: &[&str], otherwise: &str) -> Result<(), String> {
    if allowed.contains(&string(value)?) { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn dead_letter_routing_key(value: &Value, table: &Table) -> Result<(), String> {
    string(value)?;
    match table.get("x-dead-letter-exchange") {
        Some(_) => Ok(()),
        None => Err("routing_key_but_no_dlx_defined".to_owned()),
    }
}

fn max_priority(value: &Value, _: &Table) -> Result<(), String> {
    at_least(value, 0)?;
    match integer(value)? {
        value if value > 255 => Err(format!("{{max_value_exceeded,{value}}}")),
        _ => Ok(()),
    }
}

fn queue_mode(value: &Value, _: &Table) -> Result<(), String> {
    match string(value)? {
        "lazy" | "default" => Ok(()),
        mode => Err(format!("\"unsupported queue mode '{mode}'\"")),
    }
}

fn queue_version(value: &Value, _: &Table) -> Result<(), String> {
    match integer(value)? {
        1 | 2 => Ok(()),
        version => Err(format!("\"unsupported queue version '{version}'\"")),
    }
}

fn queue_type(value: &Value, _: &Table) -> Result<(), String> {
    match string(value)? {
        "classic" | "quorum" => Ok(()),
        "stream" => Err("\"queue type 'stream' is not supported yet\"".to_owned()),
        kind => Err(format!("\"unsupported queue type '{kind}'\"")),
    }
}

fn max_age(value: &Value, _: &Table) -> Result<(), String> {
    let age = string(value)?;
    let (number, unit) = age.split_at(age.len().saturating_sub(1));
    let valid = matches!(unit, "Y" | "M" | "D" | "h" | "m" | "s")
        && number.bytes().all(|digit| digit.is_ascii_digit())
        && number.parse::<u64>().is_ok_and(|number| number > 0);
    if valid { Ok(()) } else { Err("invalid_max_age".to_owned()) }
}
