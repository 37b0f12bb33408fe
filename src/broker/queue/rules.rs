//! Every argument of a queue: what its value must be, and what a policy may say in its place.

use super::{
    arguments::group_by,
    checks::{
        at_least, boolean, cache_size, dead_letter_routing_key, expiry, integer, max_age, max_priority,
        one_of, queue_mode, queue_type, queue_version, string,
    },
    retry,
};
use crate::{
    amqp::{Table, Value},
    broker::queue::QueueKind,
};

/// What an argument's value must be, given all arguments.
///
/// # Errors
/// The reason in RabbitMQ's reply text.
pub(super) type Check = fn(&Value, &Table) -> Result<(), String>;

/// An argument.
#[derive(Debug)]
pub(in crate::broker) struct Rule {
    /// Its name, with `x-` in front.
    pub(super) name: &'static str,
    pub(super) check: Check,
    /// What policies may say about it.
    pub(super) policy: Option<PolicyRule>,
}

/// An argument that policies may give, under its name without `x-`.
#[derive(Clone, Copy, Debug)]
pub(super) struct PolicyRule {
    merge: Merge,
    /// Whether operator policies may.
    by_operator: bool,
    /// What RabbitMQ calls the value in its error text.
    what: &'static str,
}

/// What counts if an argument has a value and policies give it another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Merge {
    /// The argument.
    Argument,
    /// The policy.
    Policy,
    /// The smaller.
    Min,
    /// The smaller, but the larger if one is negative, which turns the limit off (RabbitMQ 4).
    DeliveryLimit,
    /// The argument for a classic queue, the policy for a quorum queue (RabbitMQ 3.10).
    Overflow,
}

impl Rule {
    const fn new(name: &'static str, check: Check) -> Self {
        Self { name, check, policy: None }
    }

    const fn policy(mut self, merge: Merge, what: &'static str) -> Self {
        self.policy = Some(PolicyRule { merge, by_operator: false, what });
        self
    }

    const fn operator(mut self, merge: Merge, what: &'static str) -> Self {
        self.policy = Some(PolicyRule { merge, by_operator: true, what });
        self
    }

    /// The rule for a key of a policy, if policies, or operator policies, may have that key.
    pub(in crate::broker) fn of_policy_key(key: &str, is_operator: bool) -> Option<&'static Self> {
        let rule = RULES.iter().find(|rule| rule.key() == key)?;
        rule.policy.filter(|policy| policy.by_operator || !is_operator).map(|_| rule)
    }

    /// Its name in a policy.
    pub(super) fn key(&self) -> &'static str {
        self.name.strip_prefix("x-").unwrap_or(self.name)
    }

    /// Checks the value of a policy, given all of its definition under the names of arguments. RabbitMQ does not say
    /// why a value is none; where it does not know the key, the reason is added.
    ///
    /// # Errors
    /// What it is not: `a valid message TTL`.
    pub(in crate::broker) fn check_in_policy(&self, value: &Value, table: &Table) -> Result<(), String> {
        let what = self.policy.map_or("", |policy| policy.what);
        (self.check)(value, table).map_err(|reason| match what {
            "" => format!("a valid {}: {reason}", self.key()),
            _ => format!("a valid {what}"),
        })
    }

    /// What counts of what a policy and an operator policy say.
    pub(in crate::broker) fn merge_policies<'a>(&self, policy: &'a Value, operator: &'a Value) -> &'a Value {
        match self.policy.map(|policy| policy.merge) {
            Some(merge @ (Merge::Min | Merge::DeliveryLimit)) => {
                merge.resolve(QueueKind::Classic, policy, operator)
            }
            _ => operator,
        }
    }

    /// What counts of what the queue and its policies say.
    pub(super) fn merge<'a>(&self, kind: QueueKind, argument: &'a Value, policy: &'a Value) -> &'a Value {
        self.policy.map_or(argument, |rule| rule.merge.resolve(kind, argument, policy))
    }
}

impl Merge {
    fn resolve<'a>(self, kind: QueueKind, argument: &'a Value, policy: &'a Value) -> &'a Value {
        let (Some(of_argument), Some(of_policy)) = (argument.as_int(), policy.as_int()) else {
            let policy_wins = self == Self::Policy || (self == Self::Overflow && kind == QueueKind::Quorum);
            return if policy_wins { policy } else { argument };
        };
        let is_off = of_argument < 0 || of_policy < 0;
        let policy_wins = match self {
            Self::Argument | Self::Overflow => false,
            Self::Policy => true,
            Self::DeliveryLimit if is_off => of_policy > of_argument,
            Self::Min | Self::DeliveryLimit => of_policy < of_argument,
        };
        if policy_wins { policy } else { argument }
    }
}

/// First what RabbitMQ knows, in the order in which it checks. All are compared when a queue is declared again.
pub(super) const RULES: [Rule; 37] = [
    Rule::new("x-expires", |value, _| expiry(value, 1)).operator(Merge::Min, "queue expiry"),
    Rule::new("x-message-ttl", |value, _| expiry(value, 0)).operator(Merge::Min, "message TTL"),
    Rule::new("x-dead-letter-exchange", |value, _| string(value).map(drop))
        .policy(Merge::Argument, "dead letter exchange name"),
    Rule::new("x-dead-letter-routing-key", dead_letter_routing_key)
        .policy(Merge::Argument, "dead letter routing key"),
    Rule::new("x-dead-letter-strategy", |value, _| {
        one_of(value, &["at-most-once", "at-least-once"], "invalid_dlx_strategy")
    })
    .policy(Merge::Argument, "dead letter strategy"),
    Rule::new("x-max-length", |value, _| at_least(value, 0)).operator(Merge::Min, "maximum length"),
    Rule::new("x-max-length-bytes", |value, _| at_least(value, 0))
        .operator(Merge::Min, "maximum length in bytes"),
    Rule::new("x-max-in-memory-length", |value, _| at_least(value, 0))
        .operator(Merge::Min, "maximum memory in bytes"),
    Rule::new("x-max-in-memory-bytes", |value, _| at_least(value, 0))
        .operator(Merge::Min, "maximum memory in bytes"),
    Rule::new("x-max-priority", max_priority),
    Rule::new("x-overflow", |value, _| {
        one_of(value, &["drop-head", "reject-publish", "reject-publish-dlx"], "invalid_overflow")
    })
    .operator(Merge::Overflow, "overflow value"),
    Rule::new("x-queue-mode", queue_mode).policy(Merge::Argument, "queue-mode value"),
    Rule::new("x-queue-version", queue_version).operator(Merge::Policy, "queue-version value"),
    Rule::new("x-single-active-consumer", |value, _| boolean(value)),
    Rule::new("x-queue-type", queue_type),
    Rule::new("x-quorum-initial-group-size", |value, _| at_least(value, 1)),
    Rule::new("x-max-age", max_age).policy(Merge::Policy, "max age"),
    Rule::new("x-stream-max-segment-size-bytes", |value, _| at_least(value, 0))
        .policy(Merge::Policy, "segment size"),
    Rule::new("x-initial-cluster-size", |value, _| at_least(value, 1))
        .policy(Merge::Argument, "cluster size"),
    Rule::new("x-queue-leader-locator", |value, _| {
        one_of(value, &["client-local", "random", "least-leaders", "balanced"], "invalid_queue_locator_arg")
    })
    .policy(Merge::Argument, "queue leader locator value"),
    Rule::new("x-delivery-limit", |value, _| integer(value).map(drop))
        .operator(Merge::DeliveryLimit, "delivery limit"),
    Rule::new("x-consumer-timeout", |value, _| at_least(value, 0)).policy(Merge::Min, "consumer timeout"),
    Rule::new("x-consumer-disconnected-timeout", |value, _| at_least(value, 0))
        .policy(Merge::Min, "consumer disconnected timeout"),
    Rule::new("x-delayed-retry-type", retry::check_delayed_type)
        .operator(Merge::Policy, "delayed retry type"),
    Rule::new("x-delayed-retry-min", retry::check_delayed_ms).operator(Merge::Min, "delayed retry minimum"),
    Rule::new("x-delayed-retry-max", retry::check_delayed_ms).operator(Merge::Min, "delayed retry maximum"),
    Rule::new("x-retry-delays", retry::check_delays).policy(Merge::Argument, ""),
    Rule::new("x-retry-min", retry::check_min).policy(Merge::Argument, ""),
    Rule::new("x-retry-max", retry::check_max).policy(Merge::Argument, ""),
    Rule::new("x-retry-factor", retry::check_factor).policy(Merge::Argument, ""),
    Rule::new("x-retry-jitter", retry::check_jitter).policy(Merge::Argument, ""),
    Rule::new("x-retry-limit", retry::check_limit).policy(Merge::Argument, ""),
    Rule::new("x-message-deduplication", |value, _| boolean(value)),
    Rule::new("x-cache-size", cache_size),
    Rule::new("x-cache-ttl", |value, _| expiry(value, 1)),
    Rule::new("x-deduplication-header", |value, _| string(value).map(drop)),
    Rule::new("x-group-by", |value, _| group_by(value).map(drop)).policy(Merge::Argument, ""),
];
