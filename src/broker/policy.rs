//! Policies: what operators say about queues and exchanges by their names, and may change while these are in use.
//!
//! A queue or an exchange has at most one policy and one operator policy: of those that are for things like it and
//! whose pattern is found in its name, the one with the highest priority, and of several with that the one whose name
//! comes first in the order of octets (RabbitMQ leaves that open). What they say and the arguments do not always
//! agree: `queue/rules.rs` says which counts.

use std::{
    fmt,
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use regex::Regex;

use super::{
    permission::{self, PatternError},
    queue::{QueueKind, Rule},
};
use crate::amqp::{Table, Value};

/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// The largest definition, in bytes as a table on the wire.
const DEFINITION_BYTES_MAX: usize = 64 << 10;

/// The keys that are none of a queue's arguments, and whether operator policies may have them. But for
/// `alternate-exchange` they have no effect.
const OTHER_KEYS: [(&str, bool); 17] = [
    ("alternate-exchange", false),
    ("delayed-message", false),
    ("federation-upstream", false),
    ("federation-upstream-set", false),
    ("ha-mode", false),
    ("ha-params", false),
    ("ha-promote-on-failure", false),
    ("ha-promote-on-shutdown", false),
    ("ha-sync-batch-size", false),
    ("ha-sync-mode", false),
    ("max-segment-size", false),
    ("member-placement-tag", true),
    ("queue-master-locator", false),
    ("routing-key", false),
    ("shards-per-node", false),
    ("stream-filter-size-bytes", false),
    ("target-group-size", true),
];

/// Whose policy it is. An operator policy has fewer keys, and limits what other policies and arguments say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// Of the users of a virtual host.
    User,
    /// Of who runs the broker.
    Operator,
}

/// What a policy is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ApplyTo {
    /// Queues and exchanges.
    #[default]
    All,
    /// All queues.
    Queues,
    /// Exchanges.
    Exchanges,
    /// Classic queues.
    ClassicQueues,
    /// Quorum queues.
    QuorumQueues,
    /// Streams.
    Streams,
}

/// Names of [`ApplyTo`] as clients write them.
const APPLY_TO: [(ApplyTo, &str); 6] = [
    (ApplyTo::All, "all"),
    (ApplyTo::Queues, "queues"),
    (ApplyTo::Exchanges, "exchanges"),
    (ApplyTo::ClassicQueues, "classic_queues"),
    (ApplyTo::QuorumQueues, "quorum_queues"),
    (ApplyTo::Streams, "streams"),
];

impl ApplyTo {
    /// Reads its name.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(name: &str) -> Result<Self, PolicyError> {
        let known = APPLY_TO.iter().find(|(_, known)| *known == name);
        known.map(|(apply_to, _)| *apply_to).ok_or_else(|| PolicyError::ApplyTo(name.to_owned()))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        APPLY_TO.iter().find(|(known, _)| *known == self).map_or("all", |(_, name)| name)
    }

    fn is_for(self, thing: Thing) -> bool {
        match thing {
            Thing::Exchange => matches!(self, Self::All | Self::Exchanges),
            Thing::Queue(_) if matches!(self, Self::All | Self::Queues) => true,
            Thing::Queue(QueueKind::Classic) => self == Self::ClassicQueues,
            Thing::Queue(QueueKind::Quorum) => self == Self::QuorumQueues,
        }
    }
}

/// What a policy may be for.
#[derive(Clone, Copy, Debug)]
enum Thing {
    Queue(QueueKind),
    Exchange,
}

/// Why there is no such policy. The texts are RabbitMQ's, where it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A name that is empty or too long.
    #[error("a name has 1 to 255 bytes, this has {0}")]
    Name(usize),
    /// A pattern that is too long, or no regular expression.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// No kind of thing.
    #[error(
        "apply-to '{0}' unrecognised; should be one of: 'queues', 'classic_queues', 'quorum_queues', 'streams', \
         'exchanges', or 'all'"
    )]
    ApplyTo(String),
    /// An empty definition.
    #[error("no policy provided")]
    Empty,
    /// A definition of more than 64 KiB.
    #[error("a definition has at most {DEFINITION_BYTES_MAX} bytes")]
    TooLarge,
    /// A key that is there twice.
    #[error("[<<\"{0}\">>] duplicate keys not allowed")]
    Duplicate(String),
    /// A value that its key does not take.
    #[error("{value} is not {expected}")]
    Value {
        /// The key.
        key: String,
        /// The value, as Erlang writes it.
        value: String,
        /// What it should be.
        expected: String,
    },
    /// Keys that there are not, or not for such a policy.
    #[error("{fields} are not recognised policy settings")]
    Keys {
        /// The first of them.
        key: String,
        /// All of them with their values, as Erlang writes them.
        fields: String,
    },
}

impl PolicyError {
    /// Which part of the policy is wrong: `pattern`, or `definition.max-length`.
    pub fn part(&self) -> String {
        match self {
            Self::Name(_) => "name".to_owned(),
            Self::Pattern(_) => "pattern".to_owned(),
            Self::ApplyTo(_) => "apply_to".to_owned(),
            Self::Empty | Self::TooLarge => "definition".to_owned(),
            Self::Duplicate(key) | Self::Value { key, .. } | Self::Keys { key, .. } => {
                format!("definition.{key}")
            }
        }
    }
}

/// A policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Whose it is.
    pub kind: PolicyKind,
    /// Its name, of which a virtual host has one of each kind.
    pub name: Arc<str>,
    pattern: Regex,
    /// What it is for.
    pub apply_to: ApplyTo,
    /// The highest counts.
    pub priority: i64,
    /// What it says: arguments without their `x-`, and others.
    pub definition: Table,
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        let scalars = |policy: &Self| (policy.kind, policy.apply_to, policy.priority);
        scalars(self) == scalars(other)
            && (&self.name, self.pattern(), &self.definition)
                == (&other.name, other.pattern(), &other.definition)
    }
}

impl Policy {
    /// A policy for what has `pattern` anywhere in its name, and is of that kind.
    ///
    /// Deviation: RabbitMQ takes PCRE. Look-around and back-references are refused here, as in permissions.
    ///
    /// # Errors
    /// The first part that is wrong.
    pub fn new(
        kind: PolicyKind,
        name: &str,
        pattern: &str,
        apply_to: ApplyTo,
        priority: i64,
        definition: Table,
    ) -> Result<Self, PolicyError> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(PolicyError::Name(name.len()));
        }
        check_definition(kind, &definition)?;
        Ok(Self::recorded(kind, name, pattern, apply_to, priority, definition)?)
    }

    /// A policy that was checked when it was made: another version may have known other keys.
    ///
    /// # Errors
    /// If the pattern is none.
    pub(crate) fn recorded(
        kind: PolicyKind,
        name: &str,
        pattern: &str,
        apply_to: ApplyTo,
        priority: i64,
        definition: Table,
    ) -> Result<Self, PatternError> {
        let pattern = permission::compile(pattern)?;
        Ok(Self { kind, name: name.into(), pattern, apply_to, priority, definition })
    }

    /// The regular expression, as it was given.
    pub fn pattern(&self) -> &str {
        self.pattern.as_str()
    }

    /// What it says of `alternate-exchange`.
    pub fn alternate_exchange(&self) -> Option<&str> {
        self.definition.get("alternate-exchange").and_then(Value::as_str)
    }

    fn is_for(&self, thing: Thing, name: &str) -> bool {
        self.apply_to.is_for(thing) && self.pattern.is_match(name)
    }
}

/// As RabbitMQ: first the values of known keys, then the unknown keys all together.
fn check_definition(kind: PolicyKind, definition: &Table) -> Result<(), PolicyError> {
    if definition.0.is_empty() {
        return Err(PolicyError::Empty);
    }
    let mut octets = Vec::new();
    definition.encode(&mut octets);
    if octets.len() > DEFINITION_BYTES_MAX {
        return Err(PolicyError::TooLarge);
    }
    let mut names: Vec<&str> = definition.0.iter().map(|(key, _)| key.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) =
        names.windows(2).find(|pair| pair.first() == pair.last()).and_then(|pair| pair.first())
    {
        return Err(PolicyError::Duplicate((*twice).to_owned()));
    }
    let arguments = as_arguments(definition);
    let mut unknown = Vec::new();
    for (key, value) in &definition.0 {
        match check_field(kind, key, value, &arguments) {
            Some(Ok(())) => {}
            Some(Err(expected)) => {
                let value = Erlang(value).to_string();
                return Err(PolicyError::Value { key: key.clone(), value, expected });
            }
            None => unknown.push((key, value)),
        }
    }
    let Some((key, _)) = unknown.first() else { return Ok(()) };
    let fields: Vec<_> =
        unknown.iter().map(|(key, value)| format!("{{<<\"{key}\">>,{}}}", Erlang(value))).collect();
    Err(PolicyError::Keys { key: (*key).clone(), fields: format!("[{}]", fields.join(",")) })
}

/// Whether that is a value of that key, or `None` if there is no such key.
fn check_field(kind: PolicyKind, key: &str, value: &Value, arguments: &Table) -> Option<Result<(), String>> {
    let is_operator = kind == PolicyKind::Operator;
    if let Some(rule) = Rule::of_policy_key(key, is_operator) {
        return Some(rule.check_in_policy(value, arguments));
    }
    let (_, by_operator) = OTHER_KEYS.iter().find(|(known, _)| *known == key)?;
    if is_operator && !by_operator {
        return None;
    }
    let is_name = key != "alternate-exchange" || value.as_str().is_some();
    Some(if is_name { Ok(()) } else { Err("a valid alternate exchange name".to_owned()) })
}

/// A definition under the names of arguments. The key of a dead letter may be in another policy than its exchange, or
/// in none.
fn as_arguments(definition: &Table) -> Table {
    let mut arguments =
        Table(definition.0.iter().map(|(key, value)| (format!("x-{key}"), value.clone())).collect());
    if arguments.get("x-dead-letter-exchange").is_none() {
        arguments.0.push(("x-dead-letter-exchange".to_owned(), "".into()));
    }
    arguments
}

/// What a policy and an operator policy say together.
pub fn effective_definition(policy: Option<&Policy>, operator: Option<&Policy>) -> Table {
    let mut merged = policy.map_or_else(Table::default, |policy| policy.definition.clone());
    for (key, value) in operator.into_iter().flat_map(|operator| &operator.definition.0) {
        match merged.0.iter_mut().find(|(known, _)| known == key) {
            Some((_, by_policy)) => {
                let counts = Rule::of_policy_key(key, true)
                    .map_or(value, |rule| rule.merge_policies(by_policy, value));
                *by_policy = counts.clone();
            }
            None => merged.0.push((key.clone(), value.clone())),
        }
    }
    merged
}

/// The policies of one thing.
#[derive(Clone, Debug, Default)]
pub struct Matched {
    /// Its policy.
    pub policy: Option<Arc<Policy>>,
    /// Its operator policy.
    pub operator: Option<Arc<Policy>>,
}

impl Matched {
    /// What they say together.
    pub fn definition(&self) -> Table {
        effective_definition(self.policy.as_deref(), self.operator.as_deref())
    }

    /// Whether these are the same policies, not only equal ones.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let is_same = |one: &Option<Arc<Policy>>, other: &Option<Arc<Policy>>| match (one, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        is_same(&self.policy, &other.policy) && is_same(&self.operator, &other.operator)
    }
}

/// The policies of a virtual host.
#[derive(Debug, Default)]
pub struct Policies {
    /// The one that counts most first.
    all: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    policy: Arc<Policy>,
    /// Whether the configuration has it, and the log does not.
    is_configured: bool,
}

impl Policies {
    /// The policy of that kind and name.
    pub fn get(&self, kind: PolicyKind, name: &str) -> Option<&Arc<Policy>> {
        self.kept(kind, name).map(|kept| &kept.policy)
    }

    /// The policies of that kind, the one that counts most first.
    pub fn iter(&self, kind: PolicyKind) -> impl Iterator<Item = &Arc<Policy>> {
        self.all.iter().map(|kept| &kept.policy).filter(move |policy| policy.kind == kind)
    }

    fn kept(&self, kind: PolicyKind, name: &str) -> Option<&Kept> {
        self.all.iter().find(|kept| kept.policy.kind == kind && *kept.policy.name == *name)
    }

    /// Whether the log has exactly that policy.
    pub(super) fn has_recorded(&self, policy: &Policy) -> bool {
        self.kept(policy.kind, &policy.name)
            .is_some_and(|kept| !kept.is_configured && *kept.policy == *policy)
    }

    /// Adds a policy, or replaces the one of its kind and name.
    pub(super) fn put(&mut self, policy: Arc<Policy>, is_configured: bool) {
        self.delete(policy.kind, &policy.name);
        let rank = |policy: &Policy| (std::cmp::Reverse(policy.priority), Arc::clone(&policy.name));
        let at = self.all.partition_point(|kept| rank(&kept.policy) < rank(&policy));
        self.all.insert(at, Kept { policy, is_configured });
    }

    /// Removes a policy. Whether there was one.
    pub(super) fn delete(&mut self, kind: PolicyKind, name: &str) -> bool {
        let before = self.all.len();
        self.all.retain(|kept| kept.policy.kind != kind || *kept.policy.name != *name);
        self.all.len() < before
    }

    /// The policies of a queue.
    pub fn of_queue(&self, name: &str, kind: QueueKind) -> Matched {
        self.of(Thing::Queue(kind), name)
    }

    /// The policies of an exchange.
    pub fn of_exchange(&self, name: &str) -> Matched {
        self.of(Thing::Exchange, name)
    }

    fn of(&self, thing: Thing, name: &str) -> Matched {
        let best = |kind| self.iter(kind).find(|policy| policy.is_for(thing, name)).map(Arc::clone);
        Matched { policy: best(PolicyKind::User), operator: best(PolicyKind::Operator) }
    }
}

/// Looks at the policies of a virtual host.
///
/// # Locking
/// After the topology's lock and a queue's. Nothing else is locked under it.
pub(super) fn read_policies(policies: &RwLock<Policies>) -> RwLockReadGuard<'_, Policies> {
    policies.read().expect("invariant: no panic under the lock of policies")
}

/// Changes the policies of a virtual host.
///
/// # Locking
/// As [`read_policies`].
pub(super) fn write_policies(policies: &RwLock<Policies>) -> RwLockWriteGuard<'_, Policies> {
    policies.write().expect("invariant: no panic under the lock of policies")
}

/// A value as Erlang's `~p` writes what was read from JSON.
struct Erlang<'a>(&'a Value);

impl fmt::Display for Erlang<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = |index| if index == 0 { "" } else { "," };
        match self.0 {
            Value::LongStr(octets) | Value::ByteArray(octets) => {
                write!(f, "<<\"{}\">>", String::from_utf8_lossy(octets))
            }
            Value::Array(values) => {
                f.write_str("[")?;
                for (index, value) in values.iter().enumerate() {
                    write!(f, "{}{}", separator(index), Self(value))?;
                }
                f.write_str("]")
            }
            Value::Table(Table(fields)) => {
                f.write_str("#{")?;
                for (index, (name, value)) in fields.iter().enumerate() {
                    write!(f, "{}<<\"{name}\">> => {}", separator(index), Self(value))?;
                }
                f.write_str("}")
            }
            Value::Void => f.write_str("null"),
            value => write!(f, "{value}"),
        }
    }
}

#[cfg(test)]
mod tests;
