//! Exchanges' bindings and how each type of exchange routes by them (AMQP 0-9-1 section 3.1.3).
//!
//! [`Bindings`] knows which bindings there are; the table of the exchange's type knows only what routing needs:
//!
//! | type | table | cost of a message |
//! |---|---|---|
//! | direct | destinations by binding key | one look-up |
//! | fanout | the destinations | none |
//! | topic | a trie of the keys' words | the part of the trie that matches |
//! | headers | patterns by one of their headers | the patterns that share a header with the message |
//! | x-consistent-hash | runs of buckets | a few steps for the bucket, a look-up for its run |
//! | x-modulus-hash | the destinations by name | one look-up |
//! | x-random, x-local-random | the destinations | one look-up |
//! | x-recent-history | as fanout, and [`History`] | a lock, to keep the message |
//!
//! `x-delayed-message` routes as another type, `x-message-deduplication` as fanout.
//!
//! Nothing here takes a lock, but for [`History`], or looks at a message's body.

mod arguments;
mod consistent_hash;
mod declared;
mod destinations;
mod direct;
mod fanout;
mod headers;
mod modulus_hash;
mod random;
mod recent_history;
mod routing;
mod term;
mod topic;

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use arguments::{ExchangeArguments, alternate_argument};
pub(in crate::broker) use declared::DestinationId;
pub use declared::{Destination, Exchange, ExchangeProperties};
pub use recent_history::{History, Kept};
pub use routing::{HashOn, Routing};

use crate::amqp::Table;
use consistent_hash::ConsistentHash;
use direct::Direct;
use fanout::Fanout;
use headers::Headers;
use modulus_hash::ModulusHash;
use random::{LocalRandom, Random};
use routing::stirred;
use topic::Topic;

/// How an exchange chooses the bindings that a message follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExchangeKind {
    /// The binding key equals the routing key.
    Direct,
    /// Every binding.
    Fanout,
    /// The binding key is a pattern of words: `*` is any one word, `#` any number of them, none included.
    Topic,
    /// The binding's arguments are compared with the message's headers.
    Headers,
    /// One destination, by a hash of the message: the same ones go to the same one.
    ConsistentHash,
    /// One destination, by a hash of the routing key and the number of bindings.
    ModulusHash,
    /// One destination at random.
    Random,
    /// One queue at random.
    LocalRandom,
    /// Every binding, and new ones get the last messages.
    RecentHistory,
    /// As the type in `x-delayed-type`, after a delay that the message says.
    DelayedMessage,
    /// Every binding, unless it was there before.
    MessageDeduplication,
}

impl ExchangeKind {
    /// Every type.
    pub const ALL: [Self; 11] = [
        Self::Direct,
        Self::Fanout,
        Self::Topic,
        Self::Headers,
        Self::ConsistentHash,
        Self::ModulusHash,
        Self::Random,
        Self::LocalRandom,
        Self::RecentHistory,
        Self::DelayedMessage,
        Self::MessageDeduplication,
    ];

    /// The type named in `exchange.declare`; `None` for a name that we do not know.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
            Self::ConsistentHash => "x-consistent-hash",
            Self::ModulusHash => "x-modulus-hash",
            Self::Random => "x-random",
            Self::LocalRandom => "x-local-random",
            Self::RecentHistory => "x-recent-history",
            Self::DelayedMessage => "x-delayed-message",
            Self::MessageDeduplication => "x-message-deduplication",
        }
    }
}

/// What a binding leads to: a cheap handle that compares and hashes by identity, and whose order is that of the names.
pub trait Endpoint: Clone + Eq + Hash + Ord {
    /// Whether it is a queue, and not another exchange.
    fn is_queue(&self) -> bool;
}

/// Numbers stand for queues in tests and benchmarks.
impl Endpoint for u32 {
    fn is_queue(&self) -> bool {
        true
    }
}

/// Why an exchange refuses a binding: the text of a `406 PRECONDITION_FAILED`, without the code's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct InvalidBinding {
    /// As RabbitMQ words it.
    pub text: String,
}

/// The bindings of one exchange, to destinations of type `D`.
///
/// A binding is (destination, binding key, arguments); as in RabbitMQ the order of the arguments does not matter,
/// their exact types do.
#[derive(Debug)]
pub struct Bindings<D> {
    kind: ExchangeKind,
    hash_on: HashOn,
    routes: Routes<D>,
    by_destination: HashMap<D, Bound>,
    len: usize,
    /// How many times a destination was drawn. It is what the next draw is made of, so that a simulation can repeat it.
    drawn: AtomicU64,
}

impl<D: Endpoint> Bindings<D> {
    /// No bindings yet, of an exchange of that type without arguments.
    pub fn new(kind: ExchangeKind) -> Self {
        Self::with_arguments(&ExchangeArguments::none(kind))
    }

    /// No bindings yet, of an exchange with these arguments.
    pub fn with_arguments(arguments: &ExchangeArguments) -> Self {
        let (kind, hash_on) = (arguments.routes_as, arguments.hash_on.clone());
        let routes = Routes::new(kind);
        Self { kind, hash_on, routes, by_destination: HashMap::new(), len: 0, drawn: AtomicU64::new(0) }
    }

    /// Takes all bindings out and leaves none.
    pub fn take(&mut self) -> Self {
        let (kind, hash_on) = (self.kind, self.hash_on.clone());
        let (routes, drawn) = (Routes::new(kind), AtomicU64::new(self.drawn.load(Ordering::Relaxed)));
        std::mem::replace(self, Self { kind, hash_on, routes, by_destination: HashMap::new(), len: 0, drawn })
    }

    /// Whether there can be such a binding.
    ///
    /// # Errors
    /// What [`Bindings::insert`] refuses.
    pub fn check(&self, key: &str, arguments: &Table) -> Result<(), InvalidBinding> {
        self.routes.validate(key, arguments)
    }

    /// Adds a binding; false if it was there already.
    ///
    /// # Errors
    ///
    /// A topic exchange refuses a key of more than 16 `#`, a headers exchange an `x-match` that it does not know, an
    /// `x-consistent-hash` exchange a key that is no weight, an `x-local-random` exchange any key.
    pub fn insert(&mut self, key: &str, arguments: &Table, destination: D) -> Result<bool, InvalidBinding> {
        self.routes.validate(key, arguments)?;
        let binding = Binding::new(key, arguments);
        if !self.by_destination.entry(destination.clone()).or_default().insert(binding.clone()) {
            return Ok(false);
        }
        self.routes.insert(&binding, destination);
        self.len += 1;
        Ok(true)
    }

    /// Takes a binding away; false if there was none.
    pub fn remove(&mut self, key: &str, arguments: &Table, destination: &D) -> bool {
        let Some(bound) = self.by_destination.get_mut(destination) else { return false };
        let binding = Binding::new(key, arguments);
        if !bound.remove(&binding) {
            return false;
        }
        if bound.is_empty() {
            self.by_destination.remove(destination);
        }
        self.routes.remove(&binding, destination);
        self.removed(1);
        true
    }

    /// Takes away every binding to a destination and says how many there were. The bindings to others cost nothing.
    pub fn remove_destination(&mut self, destination: &D) -> usize {
        let bound = self.by_destination.remove(destination).unwrap_or_default();
        let count = bound.iter().count();
        if let Routes::ConsistentHash(table) = &mut self.routes {
            // Binding by binding, each would have its time to count.
            table.remove_destination(destination);
        } else {
            bound.iter().for_each(|binding| self.routes.remove(binding, destination));
        }
        self.removed(count);
        count
    }

    /// Shows `visit` the destination of every binding that a message follows. A destination that several bindings
    /// lead to may be shown more than once. The order depends only on the inserts and removes so far, and what is drawn on
    /// the draws before too.
    ///
    /// A header table that can't be decoded counts as empty: it was checked when the message arrived.
    pub fn route(&self, routing: &Routing<'_>, visit: &mut impl FnMut(&D)) {
        match &self.routes {
            Routes::Direct(direct) => routing.keys.iter().for_each(|key| direct.route(key, visit)),
            Routes::Fanout(fanout) => fanout.route(visit),
            Routes::Topic(topic) => routing.keys.iter().for_each(|key| topic.route(key, visit)),
            Routes::Headers(table) => table.route(routing.properties.headers, visit),
            Routes::ConsistentHash(table) => table.route(self.hash_on.hash(routing), visit),
            Routes::ModulusHash(table) => table.route(routing, visit),
            Routes::Random(random) => random.route(self.draw(), visit),
            Routes::LocalRandom(random) => random.route(self.draw(), visit),
        }
    }

    fn draw(&self) -> u64 {
        stirred(self.drawn.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether the routing keys are not all that [`route`](Self::route) looks at, so that a caller who keeps routes by key
    /// must not keep these.
    pub fn depends_on_message(&self) -> bool {
        match self.kind {
            ExchangeKind::Headers | ExchangeKind::Random | ExchangeKind::LocalRandom => true,
            ExchangeKind::ConsistentHash => self.hash_on != HashOn::RoutingKey,
            _ => false,
        }
    }

    /// Every binding as (key, arguments sorted by name, destination), in no stated order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Table, &D)> {
        self.by_destination.iter().flat_map(|(destination, bound)| {
            bound.iter().map(move |binding| (&*binding.key, binding.arguments.table(), destination))
        })
    }

    /// The bindings to one destination as (key, arguments sorted by name), in no stated order.
    pub fn to(&self, destination: &D) -> impl Iterator<Item = (&str, &Table)> {
        let bound = self.by_destination.get(destination);
        bound
            .into_iter()
            .flat_map(|bound| bound.iter())
            .map(|binding| (&*binding.key, binding.arguments.table()))
    }

    /// Every destination, once.
    pub fn destinations(&self) -> impl Iterator<Item = &D> {
        self.by_destination.keys()
    }

    /// The number of bindings.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no binding.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The tables do not shrink as they empty, so the last removal gives their memory back.
    fn removed(&mut self, bindings: usize) {
        self.len -= bindings;
        if self.is_empty() {
            self.take();
        }
    }
}

/// The table of each type of exchange.
#[derive(Debug)]
enum Routes<D> {
    Direct(Direct<D>),
    Fanout(Fanout<D>),
    Topic(Topic<D>),
    Headers(Headers<D>),
    ConsistentHash(ConsistentHash<D>),
    ModulusHash(ModulusHash<D>),
    Random(Random<D>),
    LocalRandom(LocalRandom<D>),
}

impl<D: Endpoint> Routes<D> {
    /// `x-delayed-message` is another type where it routes: see [`ExchangeArguments::routes_as`].
    fn new(kind: ExchangeKind) -> Self {
        match kind {
            ExchangeKind::Direct => Self::Direct(Direct::default()),
            ExchangeKind::Fanout
            | ExchangeKind::RecentHistory
            | ExchangeKind::DelayedMessage
            | ExchangeKind::MessageDeduplication => Self::Fanout(Fanout::default()),
            ExchangeKind::Topic => Self::Topic(Topic::default()),
            ExchangeKind::Headers => Self::Headers(Headers::default()),
            ExchangeKind::ConsistentHash => Self::ConsistentHash(ConsistentHash::default()),
            ExchangeKind::ModulusHash => Self::ModulusHash(ModulusHash::default()),
            ExchangeKind::Random => Self::Random(Random::default()),
            ExchangeKind::LocalRandom => Self::LocalRandom(LocalRandom::default()),
        }
    }

    fn validate(&self, key: &str, arguments: &Table) -> Result<(), InvalidBinding> {
        match self {
            Self::Direct(_) | Self::Fanout(_) | Self::ModulusHash(_) | Self::Random(_) => Ok(()),
            Self::Topic(_) => topic::validate(key),
            Self::Headers(_) => headers::validate(arguments),
            Self::ConsistentHash(_) => consistent_hash::validate(key),
            Self::LocalRandom(_) => random::validate_local(key),
        }
    }

    fn insert(&mut self, binding: &Binding, destination: D) {
        match self {
            Self::Direct(direct) => direct.insert(&binding.key, destination),
            Self::Fanout(fanout) => fanout.insert(destination),
            Self::Topic(topic) => topic.insert(&binding.key, destination),
            Self::Headers(headers) => headers.insert(&binding.arguments, destination),
            Self::ConsistentHash(table) => table.insert(binding, destination),
            Self::ModulusHash(table) => table.insert(destination),
            Self::Random(random) => random.insert(destination),
            Self::LocalRandom(random) => random.insert(destination),
        }
    }

    fn remove(&mut self, binding: &Binding, destination: &D) {
        match self {
            Self::Direct(direct) => direct.remove(&binding.key, destination),
            Self::Fanout(fanout) => fanout.remove(destination),
            Self::Topic(topic) => topic.remove(&binding.key, destination),
            Self::Headers(headers) => headers.remove(&binding.arguments, destination),
            Self::ConsistentHash(table) => table.remove(binding, destination),
            Self::ModulusHash(table) => table.remove(destination),
            Self::Random(random) => random.remove(destination),
            Self::LocalRandom(random) => random.remove(destination),
        }
    }
}

/// The bindings to one destination. Most queues are bound once, which costs no set.
#[derive(Debug, Default)]
enum Bound {
    #[default]
    None,
    One(Binding),
    #[allow(clippy::box_collection, reason = "a set in place would double what a single binding takes")]
    Many(Box<HashSet<Binding>>),
}

impl Bound {
    /// False if it was there already.
    fn insert(&mut self, binding: Binding) -> bool {
        match self {
            Self::None => *self = Self::One(binding),
            Self::One(only) if *only == binding => return false,
            Self::One(only) => *self = Self::Many(Box::new(HashSet::from([only.clone(), binding]))),
            Self::Many(bindings) => return bindings.insert(binding),
        }
        true
    }

    /// False if there was none.
    fn remove(&mut self, binding: &Binding) -> bool {
        match self {
            Self::One(only) if only == binding => *self = Self::None,
            Self::None | Self::One(_) => return false,
            Self::Many(bindings) => {
                let found = bindings.remove(binding);
                // Rarely enough to cost little for each removal, soon enough not to keep what a peak took.
                if bindings.len() < bindings.capacity() / 8 {
                    bindings.shrink_to_fit();
                }
                return found;
            }
        }
        true
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::None => true,
            Self::One(_) => false,
            Self::Many(bindings) => bindings.is_empty(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Binding> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(only) => (Some(only), None),
            Self::Many(bindings) => (None, Some(bindings)),
        };
        one.into_iter().chain(many.into_iter().flat_map(|bindings| bindings.iter()))
    }
}

/// A binding of a known destination. The key is shared with the direct table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Binding {
    key: Arc<str>,
    arguments: Arguments,
}

impl Binding {
    fn new(key: &str, arguments: &Table) -> Self {
        Self { key: key.into(), arguments: Arguments::new(arguments) }
    }
}

/// A binding's arguments, sorted by name. They are the same as others if they are the same on the wire: that is exact,
/// and holds for NaN too. Most bindings have none, so these take a word and no memory.
#[derive(Clone, Debug)]
struct Arguments(Option<Arc<Table>>);

impl Arguments {
    fn new(table: &Table) -> Self {
        if table.0.is_empty() {
            return Self(None);
        }
        let mut sorted = table.clone();
        sorted.0.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self(Some(Arc::new(sorted)))
    }

    fn table(&self) -> &Table {
        static NONE: Table = Table(Vec::new());
        self.0.as_deref().unwrap_or(&NONE)
    }

    fn encoded(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(table) = &self.0 {
            table.encode(&mut bytes);
        }
        bytes
    }
}

impl PartialEq for Arguments {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(_), Some(_)) => self.encoded() == other.encoded(),
            _ => false,
        }
    }
}

impl Eq for Arguments {}

impl Hash for Arguments {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.encoded().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::{Properties, Value};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const KINDS: [ExchangeKind; 4] =
        [ExchangeKind::Direct, ExchangeKind::Fanout, ExchangeKind::Topic, ExchangeKind::Headers];

    #[derive(Clone, Debug)]
    enum Step {
        Insert(String, Table, u32),
        Remove(String, Table, u32),
        RemoveOne(prop::sample::Index),
        RemoveDestination(u32),
        Route(String, Option<Table>),
    }

    /// Few words and values, so that most things happen to most bindings.
    fn step() -> impl Strategy<Value = Step> {
        let word = || prop::sample::select(vec!["a", "b", "", "*", "#", "#"]);
        let key = move || prop::collection::vec(word(), 0..5).prop_map(|words| words.join("."));
        let routing_key = prop::collection::vec(prop::sample::select(vec!["a", "b", "", "c"]), 0..6);
        let destination = || 0..6_u32;
        prop_oneof![
            6 => (key(), arguments(), destination()).prop_map(|(key, table, to)| Step::Insert(key, table, to)),
            1 => (key(), arguments(), destination()).prop_map(|(key, table, to)| Step::Remove(key, table, to)),
            3 => any::<prop::sample::Index>().prop_map(Step::RemoveOne),
            1 => destination().prop_map(Step::RemoveDestination),
            8 => (routing_key, prop::option::of(fields(&["a", "b", "x-a"], 5)))
                .prop_map(|(words, headers)| Step::Route(words.join("."), headers)),
        ]
    }

    fn arguments() -> impl Strategy<Value = Table> {
        let x_match = prop::sample::select(vec![
            None,
            Some("all"),
            Some("any"),
            Some("all-with-x"),
            Some("any-with-x"),
        ]);
        (x_match, fields(&["a", "b", "x-a"], 4)).prop_map(|(x_match, mut table)| {
            table.0.extend(x_match.map(|text| ("x-match".to_owned(), text.into())));
            table
        })
    }

    fn fields(names: &'static [&'static str], most: usize) -> impl Strategy<Value = Table> {
        let scalar = prop::sample::select(vec![
            Value::I32(1),
            Value::I32(1),
            Value::I64(1),
            Value::I64(2),
            Value::F64(1.0),
            Value::F64(1.5),
            Value::Timestamp(2),
            Value::Bool(true),
            Value::from("1"),
            Value::ByteArray("1".into()),
            Value::Void,
        ]);
        let value = scalar.prop_recursive(2, 6, 2, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..2).prop_map(Value::Array),
                prop::collection::vec(inner, 0..2).prop_map(|values| {
                    Value::Table(values.into_iter().map(|value| ("n".to_owned(), value)).collect())
                }),
            ]
        });
        let field = (prop::sample::select(names), value).prop_map(|(name, value)| (name.to_owned(), value));
        prop::collection::vec(field, 0..most).prop_map(Table)
    }

    /// The bindings as a list, and what each means in as few words as possible.
    #[derive(Default)]
    struct Model(Vec<(String, Table, u32)>);

    impl Model {
        fn position(&self, key: &str, arguments: &Table, destination: u32) -> Option<usize> {
            let wanted = (key.to_owned(), by_name(arguments), destination);
            self.0.iter().position(|binding| *binding == wanted)
        }

        fn route(&self, kind: ExchangeKind, routing_key: &str, headers: &Table) -> BTreeSet<u32> {
            let follows = |key: &str, arguments: &Table| match kind {
                ExchangeKind::Direct => key == routing_key,
                ExchangeKind::Fanout => true,
                ExchangeKind::Topic => topic_matches(&words(key), &words(routing_key)),
                ExchangeKind::Headers => headers_match(arguments, headers),
                _ => unreachable!("their tests are beside them"),
            };
            let followed = self.0.iter().filter(|(key, arguments, _)| follows(key, arguments));
            followed.map(|(.., destination)| *destination).collect()
        }
    }

    fn by_name(table: &Table) -> Table {
        let mut sorted = table.clone();
        sorted.0.sort_by(|(a, _), (b, _)| a.cmp(b));
        sorted
    }

    fn words(key: &str) -> Vec<&str> {
        if key.is_empty() { Vec::new() } else { key.split('.').collect() }
    }

    fn topic_matches(pattern: &[&str], words: &[&str]) -> bool {
        match (pattern, words) {
            ([], _) => words.is_empty(),
            (["#", rest @ ..], _) => (0..=words.len()).any(|taken| topic_matches(rest, &words[taken..])),
            (["*", rest @ ..], [_, words @ ..]) => topic_matches(rest, words),
            ([literal, rest @ ..], [word, words @ ..]) => literal == word && topic_matches(rest, words),
            (_, []) => false,
        }
    }

    fn headers_match(arguments: &Table, headers: &Table) -> bool {
        let x_match = arguments.get("x-match").and_then(Value::as_str).unwrap_or("all");
        let skipped = |name: &str| {
            if x_match.ends_with("-with-x") { name == "x-match" } else { name.starts_with("x-") }
        };
        let mut terms = arguments.0.iter().enumerate().filter(|(_, (name, _))| !skipped(name));
        let mut term_matches = |(index, (name, value)): (usize, &(String, Value))| {
            let earlier = arguments.0[..index].iter().filter(|(other, _)| other == name).count();
            let header = headers.0.iter().filter(|(other, _)| other == name).nth(earlier);
            header.is_some_and(|(_, header)| *value == Value::Void || shown(value) == shown(header))
        };
        if x_match.starts_with("any") { terms.any(&mut term_matches) } else { terms.all(&mut term_matches) }
    }

    /// Equal values look the same.
    fn shown(value: &Value) -> String {
        let typed = |value: &Value| format!("{}={}", value.type_name(), shown(value));
        match value {
            Value::LongStr(text) | Value::ByteArray(text) => format!("{text:?}"),
            Value::Timestamp(number) => format!("{:?}", *number as f64),
            Value::F64(number) => format!("{number:?}"),
            Value::Array(values) => values.iter().map(typed).collect::<Vec<_>>().join(","),
            Value::Table(Table(fields)) => fields
                .iter()
                .map(|(name, value)| format!("{name}:{}", typed(value)))
                .collect::<Vec<_>>()
                .join(","),
            Value::Bool(_) | Value::Void => format!("{value:?}"),
            _ => format!("{:?}", value.as_int().expect("the others are integers") as f64),
        }
    }

    fn run(kind: ExchangeKind, steps: Vec<Step>) -> Result<(), TestCaseError> {
        let mut bindings = Bindings::new(kind);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Insert(key, arguments, destination) => {
                    let new = model.position(&key, &arguments, destination).is_none();
                    prop_assert_eq!(bindings.insert(&key, &arguments, destination), Ok(new));
                    if new {
                        model.0.push((key, by_name(&arguments), destination));
                    }
                }
                Step::Remove(key, arguments, destination) => {
                    let position = model.position(&key, &arguments, destination);
                    prop_assert_eq!(bindings.remove(&key, &arguments, &destination), position.is_some());
                    position.map(|position| model.0.remove(position));
                }
                Step::RemoveOne(index) if !model.0.is_empty() => {
                    let (key, arguments, destination) = model.0.remove(index.index(model.0.len()));
                    prop_assert!(bindings.remove(&key, &arguments, &destination));
                }
                Step::RemoveOne(_) => {}
                Step::RemoveDestination(destination) => {
                    let before = model.0.len();
                    model.0.retain(|(.., other)| *other != destination);
                    prop_assert_eq!(bindings.remove_destination(&destination), before - model.0.len());
                }
                Step::Route(routing_key, headers) => {
                    let bytes = headers.as_ref().map(encoded);
                    let mut found = BTreeSet::new();
                    let properties = Properties { headers: bytes.as_deref(), ..Properties::default() };
                    let routing = Routing { keys: &[&routing_key], properties, now_ms: 0 };
                    bindings.route(&routing, &mut |to| _ = found.insert(*to));
                    prop_assert_eq!(found, model.route(kind, &routing_key, &headers.unwrap_or_default()));
                }
            }
            prop_assert_eq!(bindings.len(), model.0.len());
            prop_assert_eq!(bindings.is_empty(), model.0.is_empty());
        }
        for (key, arguments, destination) in bindings.iter() {
            let position = model.position(key, arguments, *destination);
            prop_assert!(position.map(|position| model.0.swap_remove(position)).is_some());
        }
        prop_assert!(model.0.is_empty(), "iter leaves none out");
        Ok(())
    }

    /// As a message's properties hold it: without the length.
    fn encoded(table: &Table) -> Vec<u8> {
        let mut bytes = Vec::new();
        table.encode(&mut bytes);
        bytes.split_off(4)
    }

    proptest! {
        #[test]
        fn direct_routes_as_a_list_of_bindings_would(steps in prop::collection::vec(step(), 0..80)) {
            run(ExchangeKind::Direct, steps)?;
        }

        #[test]
        fn fanout_routes_as_a_list_of_bindings_would(steps in prop::collection::vec(step(), 0..80)) {
            run(ExchangeKind::Fanout, steps)?;
        }

        #[test]
        fn topic_routes_as_a_list_of_bindings_would(steps in prop::collection::vec(step(), 0..80)) {
            run(ExchangeKind::Topic, steps)?;
        }

        #[test]
        fn headers_route_as_a_list_of_bindings_would(steps in prop::collection::vec(step(), 0..80)) {
            run(ExchangeKind::Headers, steps)?;
        }
    }

    #[test]
    fn kinds_are_known_by_their_names() {
        for kind in ExchangeKind::ALL {
            assert_eq!(ExchangeKind::parse(kind.name()), Some(kind));
        }
        assert_eq!(ExchangeKind::parse("Direct"), None);
        assert_eq!(ExchangeKind::parse(""), None);
    }

    /// As RabbitMQ 3.10.8 answers an unbind: which arguments name the binding that was made with others.
    #[test]
    fn a5_a_binding_is_known_by_the_exact_types_of_its_arguments_in_any_order() {
        let table = |fields: &[(&str, Value)]| -> Table {
            fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
        };
        let (one, two) = (Value::I32(1), Value::I32(2));
        let nested = |names: [&str; 2]| Value::Table(table(&names.map(|name| (name, Value::I32(1)))));
        let cases = [
            (table(&[]), table(&[]), true),
            (
                table(&[("a", one.clone()), ("b", two.clone())]),
                table(&[("b", two.clone()), ("a", one.clone())]),
                true,
            ),
            (table(&[("a", Value::Void)]), table(&[("a", Value::Void)]), true),
            (table(&[("a", Value::F64(f64::NAN))]), table(&[("a", Value::F64(f64::NAN))]), true),
            (table(&[("a", one.clone())]), table(&[]), false),
            (table(&[("a", one.clone())]), table(&[("a", Value::I64(1))]), false),
            (table(&[("a", one.clone())]), table(&[("a", Value::I8(1))]), false),
            (table(&[("a", "1".into())]), table(&[("a", Value::ByteArray("1".into()))]), false),
            (table(&[("a", one.clone()), ("a", one.clone())]), table(&[("a", one.clone())]), false),
            (table(&[("a", one.clone()), ("a", two.clone())]), table(&[("a", two), ("a", one)]), false),
            (table(&[("a", nested(["p", "q"]))]), table(&[("a", nested(["q", "p"]))]), false),
        ];
        for kind in KINDS {
            for (bound, unbound, same) in &cases {
                let mut bindings = Bindings::new(kind);
                assert_eq!(bindings.insert("key", bound, 1), Ok(true));
                assert_eq!(bindings.insert("key", unbound, 1), Ok(!same), "{bound:?} then {unbound:?}");
                assert!(!bindings.remove("other", bound, &1), "the key counts on every kind of exchange");
                assert!(!bindings.remove("key", bound, &2));
                assert!(bindings.remove("key", unbound, &1));
                assert_eq!(bindings.remove("key", bound, &1), !same);
                assert!(bindings.is_empty());
            }
        }
    }

    #[test]
    fn invalid_bindings_are_refused_and_change_nothing() {
        let bad_x_match: Table = [("x-match".to_owned(), "some".into())].into_iter().collect();
        let hashes = ["#"; 17].join(".a.");
        for kind in KINDS {
            let mut bindings = Bindings::new(kind);
            let x_match = bindings.insert("key", &bad_x_match, 1).is_ok();
            assert_eq!(x_match, kind != ExchangeKind::Headers);
            let key = bindings.insert(&hashes, &Table::default(), 1).is_ok();
            assert_eq!(key, kind != ExchangeKind::Topic);
            assert_eq!(bindings.len(), usize::from(x_match) + usize::from(key));
        }
    }

    #[test]
    fn routes_that_the_key_does_not_decide_are_told() {
        let dependent: Vec<_> = ExchangeKind::ALL
            .into_iter()
            .filter(|kind| Bindings::<u32>::new(*kind).depends_on_message())
            .collect();
        assert_eq!(dependent, [ExchangeKind::Headers, ExchangeKind::Random, ExchangeKind::LocalRandom]);
        let mut arguments = ExchangeArguments::none(ExchangeKind::ConsistentHash);
        arguments.hash_on = HashOn::MessageId;
        assert!(Bindings::<u32>::with_arguments(&arguments).depends_on_message());
    }

    /// RabbitMQ: a message with CC is one message.
    #[test]
    fn b4_types_that_choose_one_destination_choose_one_for_all_routing_keys() {
        use ExchangeKind as Kind;
        for kind in [Kind::ConsistentHash, Kind::ModulusHash, Kind::Random, Kind::LocalRandom] {
            let mut bindings = Bindings::new(kind);
            let key = if kind == Kind::LocalRandom { "" } else { "1" };
            for to in 0..10 {
                assert_eq!(bindings.insert(key, &Table::default(), to), Ok(true));
            }
            let mut found = BTreeSet::new();
            for number in 0..200 {
                let mut count = 0;
                let keys = [&*number.to_string(), "cc", "bcc"];
                bindings.route(&Routing::by_keys(&keys), &mut |to| {
                    count += 1;
                    found.insert(*to);
                });
                assert_eq!(count, 1, "{kind:?}");
            }
            assert_eq!(found.len(), 10, "{kind:?}");
            (0..9).for_each(|to| assert_eq!(bindings.remove_destination(&to), 1));
            bindings.route(&Routing::by_keys(&["k"]), &mut |to| assert_eq!(*to, 9));
            assert!(bindings.remove(key, &Table::default(), &9) && bindings.is_empty());
            bindings.route(&Routing::by_keys(&["k"]), &mut |_| panic!("nothing is bound"));
        }
    }
}
