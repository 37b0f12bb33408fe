//! A queue's arguments: the `x-` table of `queue.declare`, checked and parsed once.
//!
//! The checks, their order and their texts are RabbitMQ 3.10's. An argument that RabbitMQ knows for another type of
//! queue only is checked and kept.
//! Deviation: RabbitMQ refuses those with 406.

use std::{
    fmt,
    sync::{Arc, LazyLock, Mutex, Weak},
};

use super::{
    Levels, Return,
    checks::{queue_type, string},
    retry::{self, Retry},
    rules::{RULES, Rule},
};
use crate::{
    amqp::{Table, Value},
    broker::{
        dedup::{CACHE_SIZE_MAX, Deduplication, HEADER},
        policy::{Policy, effective_definition},
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
    /// How many kinds there are.
    pub const COUNT: usize = Self::ALL.len();
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Classic, Self::Quorum];

    /// RabbitMQ's name for it in reply texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "rabbit_classic_queue",
            Self::Quorum => "rabbit_quorum_queue",
        }
    }

    /// Its name in arguments.
    pub fn short_name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
        }
    }

    /// Reads either name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| name == kind.name() || name == kind.short_name())
    }
}

/// What gives way when a queue is full (`x-overflow`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The head of the queue.
    #[default]
    DropHead,
    /// What is published.
    RejectPublish,
    /// What is published, which is dead-lettered.
    RejectPublishDlx,
}

/// Whether a message leaves a queue before it has arrived where it is dead-lettered to (`x-dead-letter-strategy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeadLetterStrategy {
    /// It does.
    #[default]
    AtMostOnce,
    /// It does not. As in RabbitMQ, only with `x-overflow` = `reject-publish`.
    AtLeastOnce,
}

/// What says which messages belong together and are handled in order (`x-group-by`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// `header:<name>`: a header.
    Header(Arc<str>),
    /// `routing-key`: the routing key.
    RoutingKey,
    /// `property:correlation-id`: the correlation id.
    CorrelationId,
}

/// The arguments that act.
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// `x-overflow`.
    pub overflow: Overflow,
    /// `x-delivery-limit`: how many deliveries of a message may fail and it is still delivered again. `None` for no
    /// limit, which a quorum queue has to ask for with a negative number.
    pub delivery_limit: Option<u64>,
    /// `x-expires`: milliseconds without use after which the queue is deleted.
    pub expires_ms: Option<u64>,
    /// `x-message-ttl`: milliseconds after which a message expires.
    pub message_ttl_ms: Option<u64>,
    /// `x-dead-letter-exchange`: where messages go that expire, are rejected or dropped; empty for the default
    /// exchange.
    pub dead_letter_exchange: Option<Arc<str>>,
    /// `x-dead-letter-routing-key`: the routing key that they get in place of theirs.
    pub dead_letter_routing_key: Option<Arc<str>>,
    /// `x-dead-letter-strategy`.
    pub dead_letter_strategy: DeadLetterStrategy,
    /// `x-consumer-timeout`: milliseconds in which a delivery has to be acknowledged; 0 for no limit, `None` where the
    /// queue does not say.
    pub consumer_timeout_ms: Option<u64>,
    /// `x-retry-delays` and others: how long a message waits before it comes again.
    pub retry: Option<Retry>,
    /// `x-message-deduplication`: whether duplicates are told, and how.
    pub deduplication: Option<Deduplication>,
    /// `x-group-by`.
    pub group_by: Option<GroupBy>,
}

/// The `x-delivery-limit` of a quorum queue that has none (RabbitMQ 4).
const DELIVERY_LIMIT: u64 = 20;

/// The `x-cache-size` of a queue that has `x-cache-ttl` only (LavinMQ).
const CACHE_SIZE: u32 = 128;
/// How many messages a new one is compared with in a queue that has neither: those that it holds, the last ones of them.
const COMPARED_MAX: u32 = 1 << 16;

/// The priority levels of a queue with these arguments, which were checked when it was declared; `None` if it has none.
pub fn priority_levels(arguments: &Table) -> Option<Levels> {
    Some(QueueArguments::of(arguments).levels()).filter(|levels| levels.highest > 0)
}

impl QueueArguments {
    /// The levels that messages are ordered by: priorities of a classic queue if it asks for them, and always those of a
    /// quorum queue (RabbitMQ 4.3: 0 to 31, of which 4 is that of messages without one).
    pub fn levels(&self) -> Levels {
        match self.kind {
            QueueKind::Classic => Levels { highest: self.max_priority.unwrap_or(0), default: 0 },
            QueueKind::Quorum => Levels { highest: 31, default: 4 },
        }
    }

    /// Whether a message that came back like that has failed once more. Where retries are put off, every return counts.
    pub fn counts(&self, how: Return) -> bool {
        let is_limited = self.kind == QueueKind::Quorum || self.delivery_limit.is_some();
        let retry = self.retry.as_ref();
        (is_limited && how == Return::Failed) || retry.is_some_and(|retry| retry.applies_to(how))
    }

    /// Checks and parses the arguments of a queue that is being created.
    ///
    /// # Errors
    /// 406 `invalid arg '~s' for queue ...` as RabbitMQ words it.
    pub fn parse(table: &Table, resource: Resource<'_>) -> Result<Arc<Self>, Refusal> {
        let invalid = |name: &str, reason: String| {
            Refusal::precondition_failed(format!("invalid arg '{name}' for {resource}: {reason}"))
        };
        if let Some(value) = table.get("x-queue-type") {
            queue_type(value, table).map_err(|reason| invalid("x-queue-type", reason))?;
        }
        check_dead_letter_exchange(table, resource)?;
        for rule in &RULES {
            if let Some(value) = table.get(rule.name) {
                (rule.check)(value, table).map_err(|reason| invalid(rule.name, reason))?;
            }
        }
        Ok(Self::of(table).shared())
    }

    /// What acts on a queue that was declared with these arguments: they, and what its policies add.
    pub fn effective(table: &Table, policy: Option<&Policy>, operator: Option<&Policy>) -> Arc<Self> {
        let kind = kind(table);
        // A retry is said as a whole: half of it from elsewhere would be another one.
        let has_retry = retry::NAMES.iter().any(|name| table.get(name).is_some());
        let mut merged = table.clone();
        for (key, by_policy) in effective_definition(policy, operator).0 {
            let Some(rule) = Rule::of_policy_key(&key, false) else { continue };
            if has_retry && retry::NAMES.contains(&rule.name) {
                continue;
            }
            match merged.0.iter_mut().find(|(name, _)| name == rule.name) {
                Some((_, argument)) => *argument = rule.merge(kind, argument, &by_policy).clone(),
                None => merged.0.push((rule.name.to_owned(), by_policy)),
            }
        }
        Self::of(&merged).shared()
    }

    /// What the arguments of a queue from before the start say. They were checked by the version that took them, which may
    /// not have known all of those that this one checks: what makes no sense does not act.
    pub fn restored(table: &Table) -> Arc<Self> {
        Self::of(table).shared()
    }

    /// What checked arguments say.
    fn of(table: &Table) -> Self {
        let kind = kind(table);
        let text = |name| table.get(name).and_then(Value::as_str);
        let number =
            |name| table.get(name).and_then(Value::as_int).and_then(|number| u64::try_from(number).ok());
        let flag = |name| table.get(name).and_then(Value::as_bool) == Some(true);
        let overflow = overflow(text("x-overflow"), kind);
        Self {
            kind,
            // A quorum queue has no such argument: it is kept, as others that are another type's, and does not act.
            max_priority: number("x-max-priority")
                .filter(|_| kind == QueueKind::Classic)
                .and_then(|priority| u8::try_from(priority).ok()),
            single_active_consumer: flag("x-single-active-consumer"),
            max_length: number("x-max-length"),
            max_length_bytes: number("x-max-length-bytes"),
            overflow,
            delivery_limit: delivery_limit(table, kind),
            expires_ms: number("x-expires"),
            message_ttl_ms: number("x-message-ttl"),
            dead_letter_exchange: text("x-dead-letter-exchange").map(Arc::from),
            dead_letter_routing_key: text("x-dead-letter-routing-key").map(Arc::from),
            dead_letter_strategy: match text("x-dead-letter-strategy") {
                Some("at-least-once") if overflow == Overflow::RejectPublish => {
                    DeadLetterStrategy::AtLeastOnce
                }
                _ => DeadLetterStrategy::AtMostOnce,
            },
            consumer_timeout_ms: number("x-consumer-timeout"),
            retry: Retry::of(table),
            deduplication: flag("x-message-deduplication").then(|| deduplication(table)),
            group_by: table.get("x-group-by").and_then(|value| group_by(value).ok()),
        }
    }

    /// The same, in one place for all queues that say nothing but their type, and for those that say the same one after
    /// the other: there may be many of them, and one policy for all.
    fn shared(self) -> Arc<Self> {
        static PLAIN: LazyLock<[Arc<QueueArguments>; 2]> = LazyLock::new(|| {
            let quorum = QueueArguments {
                kind: QueueKind::Quorum,
                delivery_limit: Some(DELIVERY_LIMIT),
                ..QueueArguments::default()
            };
            [Arc::new(QueueArguments::default()), Arc::new(quorum)]
        });
        static LAST: Mutex<Weak<QueueArguments>> = Mutex::new(Weak::new());
        if let Some(plain) = PLAIN.iter().find(|plain| ***plain == self) {
            return Arc::clone(plain);
        }
        let mut last = LAST.lock().expect("invariant: no panic under the lock of the last arguments");
        if let Some(same) = last.upgrade().filter(|last| **last == self) {
            return same;
        }
        let shared = Arc::new(self);
        *last = Arc::downgrade(&shared);
        shared
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
        RULES.iter().map(|rule| rule.name).try_for_each(|name| {
            let is_default = |value: &&Value| name == "x-queue-type" && value.as_str() == Some("classic");
            let given = |table| Table::get(table, name).filter(|value| !is_default(value));
            if given(current).map(comparable) == given(received).map(comparable) {
                return Ok(());
            }
            Err(inequivalent(name, resource, received.get(name), current.get(name)))
        })
    }
}

/// RabbitMQ's plugin knows `x-message-deduplication` only, and compares with what the queue holds; LavinMQ remembers the
/// last keys, whatever has become of their messages. Both have no name for which of them is meant: who says how many or
/// how long wants them remembered.
fn deduplication(table: &Table) -> Deduplication {
    let number = |name| table.get(name).and_then(Value::as_int).and_then(|number| u64::try_from(number).ok());
    let (size, ttl_ms) = (number("x-cache-size"), number("x-cache-ttl"));
    let remembers = size.is_some() || ttl_ms.is_some();
    let size = size.map(|size| u32::try_from(size).unwrap_or(CACHE_SIZE_MAX));
    let cache_size = size.unwrap_or(if remembers { CACHE_SIZE } else { COMPARED_MAX });
    let header = table.get("x-deduplication-header").and_then(Value::as_str).unwrap_or(HEADER).into();
    Deduplication { cache_size, ttl_ms, header, remembers }
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

fn kind(table: &Table) -> QueueKind {
    match table.get("x-queue-type").and_then(Value::as_str) {
        Some("quorum") => QueueKind::Quorum,
        _ => QueueKind::Classic,
    }
}

fn overflow(text: Option<&str>, kind: QueueKind) -> Overflow {
    match text {
        Some("reject-publish") => Overflow::RejectPublish,
        // RabbitMQ: a quorum queue takes it for the default.
        Some("reject-publish-dlx") if kind == QueueKind::Classic => Overflow::RejectPublishDlx,
        _ => Overflow::DropHead,
    }
}

/// As RabbitMQ 4 has it for a quorum queue: 20, and a negative number turns it off.
///
/// Deviation: a classic queue, which has none there, may ask for one.
fn delivery_limit(table: &Table, kind: QueueKind) -> Option<u64> {
    match table.get("x-delivery-limit").and_then(Value::as_int) {
        Some(limit) => u64::try_from(limit).ok(),
        None => (kind == QueueKind::Quorum).then_some(DELIVERY_LIMIT),
    }
}

pub(super) fn group_by(value: &Value) -> Result<GroupBy, String> {
    let text = string(value)?;
    match text.strip_prefix("header:") {
        Some(header) if !header.is_empty() => Ok(GroupBy::Header(header.into())),
        None if text == "routing-key" => Ok(GroupBy::RoutingKey),
        None if text == "property:correlation-id" => Ok(GroupBy::CorrelationId),
        _ => Err("invalid_group_by".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{RetryOn, Schedule},
        *,
    };

    fn table(fields: &[(&str, Value)]) -> Table {
        Table(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    }

    fn parsed(fields: &[(&str, Value)]) -> Result<Arc<QueueArguments>, String> {
        let resource = Resource { kind: "queue", name: "q", virtual_host: "/" };
        QueueArguments::parse(&table(fields), resource).map_err(|refusal| refusal.text)
    }

    #[test]
    fn b1_every_argument_that_acts_is_parsed() {
        let fields = [
            ("x-max-priority", Value::I32(9)),
            ("x-single-active-consumer", Value::Bool(true)),
            ("x-max-length", Value::I64(1)),
            ("x-max-length-bytes", Value::I8(2)),
            ("x-overflow", "reject-publish".into()),
            ("x-delivery-limit", Value::U8(3)),
            ("x-expires", Value::I32(4)),
            ("x-message-ttl", Value::I32(0)),
            ("x-dead-letter-exchange", "".into()),
            ("x-dead-letter-routing-key", "k".into()),
            ("x-dead-letter-strategy", "at-least-once".into()),
            ("x-consumer-timeout", Value::I32(0)),
            ("x-retry-delays", "1s".into()),
            ("x-message-deduplication", Value::Bool(true)),
            ("x-cache-size", Value::I32(5)),
            ("x-cache-ttl", Value::I32(6)),
            ("x-deduplication-header", "id".into()),
            ("x-group-by", "header:customer".into()),
        ];
        let retry =
            Retry { schedule: Schedule::Delays([1000].into()), on: RetryOn::All, jitter: 0.0, limit: None };
        let expected = QueueArguments {
            kind: QueueKind::Classic,
            max_priority: Some(9),
            single_active_consumer: true,
            max_length: Some(1),
            max_length_bytes: Some(2),
            overflow: Overflow::RejectPublish,
            delivery_limit: Some(3),
            expires_ms: Some(4),
            message_ttl_ms: Some(0),
            dead_letter_exchange: Some("".into()),
            dead_letter_routing_key: Some("k".into()),
            dead_letter_strategy: DeadLetterStrategy::AtLeastOnce,
            consumer_timeout_ms: Some(0),
            retry: Some(retry),
            deduplication: Some(Deduplication {
                cache_size: 5,
                ttl_ms: Some(6),
                header: "id".into(),
                remembers: true,
            }),
            group_by: Some(GroupBy::Header("customer".into())),
        };
        assert_eq!(parsed(&fields).as_deref(), Ok(&expected));
    }

    #[test]
    fn b1_what_is_left_out_has_its_default() {
        let plain = ("x-message-deduplication", Value::Bool(true));
        let deduplication = |fields: &[(&str, Value)]| parsed(fields).expect("sound").deduplication.clone();
        let held =
            Deduplication { cache_size: 65_536, ttl_ms: None, header: HEADER.into(), remembers: false };
        assert_eq!(deduplication(std::slice::from_ref(&plain)), Some(held.clone()));
        let last = Deduplication { cache_size: 128, ttl_ms: Some(9), remembers: true, ..held };
        assert_eq!(deduplication(&[plain, ("x-cache-ttl", Value::I32(9))]), Some(last));
        let disabled = [("x-message-deduplication", Value::Bool(false)), ("x-cache-size", Value::I32(5))];
        assert_eq!(parsed(&disabled).expect("sound").deduplication, None);
        let by = |text: &str| parsed(&[("x-group-by", text.into())]).expect("sound").group_by.clone();
        assert_eq!(by("routing-key"), Some(GroupBy::RoutingKey));
        assert_eq!(by("property:correlation-id"), Some(GroupBy::CorrelationId));
    }

    #[test]
    fn b1_a_delivery_limit_is_20_on_a_quorum_queue_and_off_when_negative() {
        let limit = |kind: &str, limit: Option<i32>| {
            let mut fields = vec![("x-queue-type", kind.into())];
            fields.extend(limit.map(|limit| ("x-delivery-limit", Value::I32(limit))));
            parsed(&fields).expect("sound").delivery_limit
        };
        assert_eq!(limit("quorum", None), Some(20));
        assert_eq!(limit("quorum", Some(0)), Some(0));
        assert_eq!(limit("quorum", Some(-1)), None);
        assert_eq!(limit("classic", None), None);
        assert_eq!(limit("classic", Some(3)), Some(3));
        assert_eq!(limit("classic", Some(-3)), None);
    }

    #[test]
    fn b1_an_overflow_and_a_strategy_fall_back() {
        let fields = |kind: &str, overflow: &str| {
            let strategy = ("x-dead-letter-strategy", "at-least-once".into());
            let arguments =
                parsed(&[("x-queue-type", kind.into()), ("x-overflow", overflow.into()), strategy]);
            let arguments = arguments.expect("sound");
            (arguments.overflow, arguments.dead_letter_strategy)
        };
        use DeadLetterStrategy::{AtLeastOnce, AtMostOnce};
        assert_eq!(fields("classic", "reject-publish-dlx"), (Overflow::RejectPublishDlx, AtMostOnce));
        assert_eq!(fields("quorum", "reject-publish-dlx"), (Overflow::DropHead, AtMostOnce));
        assert_eq!(fields("quorum", "reject-publish"), (Overflow::RejectPublish, AtLeastOnce));
        assert_eq!(fields("quorum", "drop-head"), (Overflow::DropHead, AtMostOnce));
    }

    #[test]
    fn b1_our_own_arguments_are_refused_in_rabbitmqs_words() {
        let unacceptable = |kind| format!("{{unacceptable_type,{kind}}}");
        let min = ("x-retry-min", Value::I32(1000));
        type Case<'a> = (&'a [(&'a str, Value)], &'a str, String);
        let cases: &[Case<'_>] = &[
            (&[("x-retry-delays", Value::Bool(true))], "x-retry-delays", unacceptable("bool")),
            (
                &[("x-retry-delays", "1s".into()), min.clone()],
                "x-retry-min",
                "retry_min_but_retry_delays_defined".into(),
            ),
            (&[("x-retry-min", Value::I32(0))], "x-retry-min", "{value_zero,0}".into()),
            (&[("x-retry-max", Value::I32(1))], "x-retry-max", "retry_max_but_no_retry_min_defined".into()),
            (
                &[min.clone(), ("x-retry-max", "1ms".into())],
                "x-retry-max",
                "{retry_max_below_retry_min,1,1000}".into(),
            ),
            (
                &[min.clone(), ("x-retry-factor", Value::F64(0.9))],
                "x-retry-factor",
                "{value_below_one,0.9}".into(),
            ),
            (
                &[min.clone(), ("x-retry-factor", Value::F64(f64::NAN))],
                "x-retry-factor",
                "{value_below_one,NaN}".into(),
            ),
            (
                &[min.clone(), ("x-retry-jitter", Value::F64(1.1))],
                "x-retry-jitter",
                "{not_from_zero_to_one,1.1}".into(),
            ),
            (&[min, ("x-retry-limit", Value::I32(-1))], "x-retry-limit", "{value_negative,-1}".into()),
            (&[("x-retry-limit", Value::I32(1))], "x-retry-limit", "retry_limit_but_no_retry_defined".into()),
            (
                &[("x-delayed-retry-type", "some".into())],
                "x-delayed-retry-type",
                "invalid_delayed_retry_type".into(),
            ),
            (&[("x-delayed-retry-min", Value::I32(0))], "x-delayed-retry-min", "{value_zero,0}".into()),
            (
                &[("x-message-deduplication", "true".into())],
                "x-message-deduplication",
                unacceptable("longstr"),
            ),
            (&[("x-cache-size", Value::I32(0))], "x-cache-size", "{value_zero,0}".into()),
            (
                &[("x-cache-size", Value::I32(1_000_001))],
                "x-cache-size",
                "{max_value_exceeded,1000001}".into(),
            ),
            (&[("x-cache-ttl", "1".into())], "x-cache-ttl", "\"expected integer, got longstr\"".into()),
            (&[("x-deduplication-header", Value::Void)], "x-deduplication-header", unacceptable("void")),
            (&[("x-group-by", "header:".into())], "x-group-by", "invalid_group_by".into()),
            (&[("x-group-by", "message-id".into())], "x-group-by", "invalid_group_by".into()),
        ];
        for (fields, name, reason) in cases {
            let expected = format!("invalid arg '{name}' for queue 'q' in vhost '/': {reason}");
            assert_eq!(parsed(fields), Err(expected));
        }
    }

    #[test]
    fn b1_our_own_arguments_are_compared_when_a_queue_is_declared_again() {
        let resource = Resource { kind: "queue", name: "q", virtual_host: "/" };
        let (current, received) = (table(&[("x-retry-delays", "1s".into())]), Table::default());
        assert!(QueueArguments::check_equivalence(&current, &received, resource).is_err());
        assert!(QueueArguments::check_equivalence(&current, &current, resource).is_ok());
    }

    #[test]
    fn b1_queues_that_say_nothing_share_their_arguments() {
        let shared = |fields: &[(&str, Value)]| {
            let (one, other) = (parsed(fields).expect("sound"), parsed(fields).expect("sound"));
            Arc::ptr_eq(&one, &other)
        };
        assert!(shared(&[]) && shared(&[("x-unknown", Value::Void)]));
        assert!(shared(&[("x-queue-type", "quorum".into())]));
        let length = |length| parsed(&[("x-max-length", Value::I32(length))]).expect("sound");
        assert!(!Arc::ptr_eq(&length(1), &length(2)), "what differs is not shared");
    }
}
