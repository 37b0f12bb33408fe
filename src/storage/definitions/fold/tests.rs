use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::*;
use crate::{
    amqp::{Table, Value},
    broker::{
        parameter::{Hidden, Parameter},
        permission::{Permission, TopicPermission},
        policy::{ApplyTo, Policy},
        user::{HashingAlgorithm, PasswordHash, User},
        vhost::Metadata,
    },
};

fn host(name: &str) -> Definition {
    Definition::VirtualHostPut { name: name.into(), connections_max: None, queues_max: None }
}

fn described(name: &str, description: &str) -> Definition {
    let metadata = Metadata { description: description.to_owned(), ..Metadata::default() };
    Definition::VirtualHostDescribed { name: name.into(), metadata: Arc::new(metadata) }
}

fn user(name: &str) -> Definition {
    Definition::UserPut(Arc::new(User {
        name: name.into(),
        password: PasswordHash::new(HashingAlgorithm::Sha256, [1; 4], b"secret"),
        tags: Vec::new(),
        loopback_only: false,
        connections_max: None,
        channels_max: None,
    }))
}

fn permission(user: &str, host: &str, pattern: &str) -> Definition {
    let permission = Permission::new(pattern, "", "").unwrap();
    Definition::PermissionPut { user: user.into(), virtual_host: host.into(), permission }
}

fn topic_permission(user: &str, host: &str, exchange: &str) -> Definition {
    Definition::TopicPermissionPut {
        user: user.into(),
        virtual_host: host.into(),
        exchange: exchange.into(),
        permission: TopicPermission::new(user, host, "", "").unwrap(),
    }
}

fn queue(host: &str, id: u64, name: &str) -> Definition {
    Definition::QueueDeclared {
        virtual_host: host.into(),
        id: QueueId(id),
        name: name.into(),
        auto_delete: false,
        arguments: Table::default(),
    }
}

fn exchange(host: &str, name: &str, kind: &'static str) -> Definition {
    Definition::ExchangeDeclared {
        virtual_host: host.into(),
        name: name.into(),
        kind,
        auto_delete: false,
        internal: false,
        arguments: Table::default(),
    }
}

fn exchange_deleted(host: &str, name: &str) -> Definition {
    Definition::ExchangeDeleted { virtual_host: host.into(), name: name.into() }
}

fn host_deleted(name: &str) -> Definition {
    Definition::VirtualHostDeleted { name: name.into() }
}

/// A destination that starts with `x` is an exchange.
fn binding(host: &str, source: &str, destination: &str, key: &str, arguments: &[(&str, i32)]) -> Binding {
    Binding {
        virtual_host: host.into(),
        source: source.into(),
        to_exchange: destination.starts_with('x'),
        destination: destination.into(),
        binding_key: key.into(),
        arguments: arguments.iter().map(|(name, n)| ((*name).to_owned(), Value::I32(*n))).collect(),
    }
}

fn bound(host: &str, source: &str, destination: &str) -> Definition {
    Definition::Bound(binding(host, source, destination, "", &[]))
}

fn unbound(host: &str, source: &str, destination: &str) -> Definition {
    Definition::Unbound(binding(host, source, destination, "", &[]))
}

fn policy(host: &str, kind: PolicyKind, name: &str, priority: i64) -> Definition {
    let policy = Policy::recorded(kind, name, "", ApplyTo::All, priority, Table::default()).unwrap();
    Definition::PolicyPut { virtual_host: host.into(), policy: Arc::new(policy) }
}

fn policy_deleted(host: &str, kind: PolicyKind, name: &str) -> Definition {
    Definition::PolicyDeleted { virtual_host: host.into(), kind, name: name.into() }
}

fn parameter(host: &str, name: &str, value: i32) -> Definition {
    Definition::ParameterPut(Arc::new(Parameter {
        virtual_host: host.into(),
        component: "shovel".into(),
        name: name.into(),
        value: value.into(),
        set_by: None,
    }))
}

fn parameter_deleted(host: &str, name: &str) -> Definition {
    Definition::ParameterDeleted { virtual_host: host.into(), component: "shovel".into(), name: name.into() }
}

fn fold(sequence: &[Definition]) -> Definitions {
    let mut definitions = Definitions::default();
    sequence.iter().cloned().for_each(|definition| definitions.apply(definition));
    definitions
}

fn texts(sequence: &[Definition]) -> Vec<String> {
    sequence.iter().map(|definition| format!("{definition:?}")).collect()
}

/// After the first sequence, exactly the second is defined.
#[track_caller]
fn check(sequence: &[Definition], left: &[Definition]) {
    assert_eq!(texts(&fold(sequence).into_definitions()), texts(left));
}

#[test]
fn what_was_defined_is_there_in_an_order_that_can_be_replayed() {
    let mut sequence = [
        bound("/", "x1", "x2"),
        host("/"),
        host("v"),
        user("ann"),
        permission("ann", "/", "a"),
        topic_permission("ann", "/", "x1"),
        permission("ann", "v", "b"),
        exchange("/", "x1", "direct"),
        exchange("/", "x2", "topic"),
        queue("v", 2, "a"),
        queue("/", 5, "b"),
    ];
    check(&[&sequence[1..], &sequence[..1]].concat(), &[&sequence[1..], &sequence[..1]].concat());
    sequence.reverse();
    assert_eq!(fold(&sequence).into_definitions().len(), sequence.len());
}

#[test]
fn the_last_word_counts() {
    check(
        &[
            permission("ann", "/", "a"),
            permission("ann", "/", "b"),
            exchange("/", "x", "direct"),
            exchange("/", "x", "fanout"),
        ],
        &[permission("ann", "/", "b"), exchange("/", "x", "fanout")],
    );
    check(&[user("ann"), user("ann"), host("/"), host("/")], &[host("/"), user("ann")]);
    check(&[host("/"), described("/", "a"), described("/", "b")], &[host("/"), described("/", "b")]);
    let loaded = |octet| Definition::FileLoaded { digest: [octet; 32] };
    check(&[loaded(1), host("/"), loaded(2)], &[host("/"), loaded(2)]);
}

#[test]
fn a_queue_goes_with_its_bindings_and_leaves_those_of_others() {
    let deleted = Definition::QueueDeleted { id: QueueId(1) };
    let others = [queue("/", 2, "r"), queue("v", 3, "q"), bound("/", "x", "r"), bound("v", "x", "q")];
    check(
        &[&others[..], &[queue("/", 1, "q"), bound("/", "x", "q"), bound("/", "x", "xq"), deleted]].concat(),
        &[&others[..3], &[bound("/", "x", "xq")], &others[3..]].concat(),
    );
}

#[test]
fn a_queue_of_the_same_name_has_no_bindings_yet() {
    let deleted = Definition::QueueDeleted { id: QueueId(1) };
    let sequence = [queue("/", 1, "q"), bound("/", "x", "q"), deleted, queue("/", 2, "q")];
    check(&sequence, &sequence[3..]);
    check(&[&sequence[..2], &sequence[3..]].concat(), &sequence[3..]);
    check(&[&sequence[..2], &sequence[..1]].concat(), &sequence[..2]);
}

#[test]
fn an_exchange_goes_with_its_bindings_at_both_ends() {
    let kept = [queue("/", 1, "q"), bound("/", "x1", "q")];
    check(
        &[
            &[exchange("/", "x", "direct")],
            &kept[..],
            &[bound("/", "x", "q"), bound("/", "x1", "x"), exchange_deleted("/", "x")],
        ]
        .concat(),
        &kept,
    );
}

#[test]
fn a_virtual_host_goes_with_everything_in_it() {
    let in_host = |name| {
        [
            host(name),
            described(name, "d"),
            permission("ann", name, ""),
            topic_permission("ann", name, "x"),
            policy(name, PolicyKind::User, "p", 0),
            exchange(name, "x", "direct"),
            queue(name, name.len() as u64, "q"),
            bound(name, "x", "q"),
        ]
    };
    check(&[&in_host("v")[..], &in_host("ww"), &[host_deleted("ww")]].concat(), &in_host("v"));
    let folded = fold(&[&in_host("v")[..], &[host_deleted("v"), bound("v", "x", "q")]].concat());
    assert_eq!(folded.next_id(), 2);
    assert!(folded.hosts.is_empty() && folded.queues.is_empty());
}

#[test]
fn b1_a_policy_is_known_by_its_kind_and_name() {
    use PolicyKind::{Operator, User};
    let kept = [policy("/", User, "p", 1), policy("/", User, "q", 0), policy("/", Operator, "p", 0)];
    let sequence = [policy("/", User, "p", 0), policy("/", User, "r", 0), policy_deleted("/", User, "r")];
    check(&[&sequence[..], &kept, &[policy_deleted("/", Operator, "q")]].concat(), &kept);
    let all_gone = [policy("/", User, "p", 0), policy_deleted("/", User, "p")];
    assert!(fold(&all_gone).hosts.is_empty());
}

#[test]
fn a_user_goes_with_all_permissions() {
    let kept = [host("/"), user("bob"), permission("bob", "/", "")];
    let gone = [user("ann"), permission("ann", "/", ""), topic_permission("ann", "v", "x")];
    check(&[&gone[..], &kept, &[Definition::UserDeleted { name: "ann".into() }]].concat(), &kept);
}

#[test]
fn permissions_are_taken_away_one_by_one() {
    let revoked = Definition::PermissionDeleted { user: "ann".into(), virtual_host: "/".into() };
    let topic_revoked = Definition::TopicPermissionDeleted {
        user: "ann".into(),
        virtual_host: "/".into(),
        exchange: "x".into(),
    };
    let granted =
        [permission("ann", "/", ""), topic_permission("ann", "/", "x"), topic_permission("ann", "/", "y")];
    check(&[&granted[..], &[topic_revoked]].concat(), &[granted[0].clone(), granted[2].clone()]);
    check(&[&granted[..], &[revoked]].concat(), &granted[1..]);
}

#[test]
fn a_binding_is_known_by_its_arguments_in_any_order() {
    let with = |arguments: &[(&str, i32)]| binding("/", "x", "xd", "k", arguments);
    let both = Definition::Bound(with(&[("a", 1), ("b", 2)]));
    let other = Definition::Bound(with(&[("a", 1)]));
    let again = Definition::Bound(with(&[("b", 2), ("a", 1)]));
    check(&[both.clone(), other.clone(), again], &[both.clone(), other.clone()]);
    check(&[both, other.clone(), Definition::Unbound(with(&[("b", 2), ("a", 1)]))], &[other]);
}

#[test]
fn what_is_not_there_is_not_taken_away() {
    let kept = [host("/"), queue("/", 1, "q"), bound("/", "x", "q")];
    let gone = [
        unbound("/", "y", "q"),
        unbound("v", "x", "q"),
        exchange_deleted("v", "x"),
        Definition::QueueDeleted { id: QueueId(9) },
        host_deleted("v"),
        Definition::UserDeleted { name: "ann".into() },
        bound("/", "x", "no queue"),
    ];
    check(&[&kept[..], &gone].concat(), &kept);
}

#[test]
fn identities_are_above_all_that_were_ever_named() {
    let mut definitions = Definitions::default();
    assert_eq!(definitions.next_id(), 0);
    definitions.apply(queue("/", 6, "q"));
    definitions.apply(Definition::QueueDeleted { id: QueueId(6) });
    assert_eq!(definitions.next_id(), 7);
    definitions.raise_next_id(5);
    assert_eq!(definitions.next_id(), 7);
    definitions.raise_next_id(50);
    definitions.apply(Definition::QueueDeleted { id: QueueId(9) });
    assert_eq!(definitions.next_id(), 50);
    definitions.apply(queue("/", u64::MAX, "q"));
    assert_eq!(definitions.next_id(), u64::MAX);
}

/// What is defined as a list, in which a deletion looks at everything.
#[derive(Default)]
struct Model(Vec<Definition>);

impl Model {
    fn apply(&mut self, definition: &Definition) {
        use Definition as D;
        let keeps = match definition {
            D::Bound(new) => self.has_destination(new) && !self.has_binding(new),
            D::VirtualHostPut { .. } | D::UserPut(_) | D::PermissionPut { .. } => true,
            D::TopicPermissionPut { .. } | D::QueueDeclared { .. } | D::ExchangeDeclared { .. } => true,
            D::PolicyPut { .. } | D::ParameterPut(_) | D::GlobalParameterPut { .. } => true,
            _ => false,
        };
        let queue = self.0.iter().find_map(|other| match (definition, other) {
            (D::QueueDeleted { id }, D::QueueDeclared { virtual_host, id: of, name, .. }) if id == of => {
                Some((Arc::clone(virtual_host), Arc::clone(name)))
            }
            _ => None,
        });
        self.0.retain(|other| !takes(definition, other, queue.as_ref()));
        self.0.extend(keeps.then(|| definition.clone()));
    }

    fn has_destination(&self, binding: &Binding) -> bool {
        binding.to_exchange
            || self.0.iter().any(|other| match other {
                Definition::QueueDeclared { virtual_host, name, .. } => {
                    (virtual_host, name) == (&binding.virtual_host, &binding.destination)
                }
                _ => false,
            })
    }

    fn has_binding(&self, binding: &Binding) -> bool {
        self.0.iter().any(|other| matches!(other, Definition::Bound(of) if of == binding))
    }
}

/// Whether a definition replaces another one or takes it away. `queue` is the one that it deletes.
fn takes(definition: &Definition, other: &Definition, queue: Option<&(Arc<str>, Arc<str>)>) -> bool {
    use Definition as D;
    let host_of = |other: &D| match other {
        D::VirtualHostPut { name, .. } => Some(Arc::clone(name)),
        D::Bound(binding) => Some(Arc::clone(&binding.virtual_host)),
        D::ParameterPut(parameter) => Some(Arc::clone(&parameter.virtual_host)),
        D::PermissionPut { virtual_host, .. }
        | D::PolicyPut { virtual_host, .. }
        | D::TopicPermissionPut { virtual_host, .. }
        | D::QueueDeclared { virtual_host, .. }
        | D::ExchangeDeclared { virtual_host, .. } => Some(Arc::clone(virtual_host)),
        _ => None,
    };
    match (definition, other) {
        (D::VirtualHostDeleted { name }, other) => host_of(other).as_ref() == Some(name),
        (D::VirtualHostPut { name, .. }, D::VirtualHostPut { name: of, .. }) => name == of,
        (D::UserPut(user), D::UserPut(of)) => user.name == of.name,
        (D::UserDeleted { name }, D::UserPut(of)) => *name == of.name,
        (D::UserDeleted { name }, D::PermissionPut { user, .. } | D::TopicPermissionPut { user, .. }) => {
            name == user
        }
        (
            D::PermissionPut { user, virtual_host, .. } | D::PermissionDeleted { user, virtual_host },
            D::PermissionPut { user: of, virtual_host: host, .. },
        ) => (user, virtual_host) == (of, host),
        (
            D::TopicPermissionPut { user, virtual_host, exchange, .. }
            | D::TopicPermissionDeleted { user, virtual_host, exchange },
            D::TopicPermissionPut { user: of, virtual_host: host, exchange: on, .. },
        ) => (user, virtual_host, exchange) == (of, host, on),
        (D::PolicyPut { virtual_host, policy }, D::PolicyPut { virtual_host: host, policy: of }) => {
            (virtual_host, policy.kind, &policy.name) == (host, of.kind, &of.name)
        }
        (D::PolicyDeleted { virtual_host, kind, name }, D::PolicyPut { virtual_host: host, policy: of }) => {
            (virtual_host, *kind, name) == (host, of.kind, &of.name)
        }
        (D::ParameterPut(parameter), D::ParameterPut(of)) => {
            (&parameter.virtual_host, &parameter.name) == (&of.virtual_host, &of.name)
        }
        (D::ParameterDeleted { virtual_host, name, .. }, D::ParameterPut(of)) => {
            (virtual_host, name) == (&of.virtual_host, &of.name)
        }
        (
            D::GlobalParameterPut { name, .. } | D::GlobalParameterDeleted { name },
            D::GlobalParameterPut { name: of, .. },
        ) => name == of,
        (D::QueueDeleted { id }, D::QueueDeclared { id: of, .. }) => id == of,
        (D::QueueDeleted { .. }, D::Bound(of)) => queue.is_some_and(|(host, name)| {
            !of.to_exchange && (host, name) == (&of.virtual_host, &of.destination)
        }),
        (
            D::ExchangeDeclared { virtual_host, name, .. } | D::ExchangeDeleted { virtual_host, name },
            D::ExchangeDeclared { virtual_host: host, name: of, .. },
        ) => (virtual_host, name) == (host, of),
        (D::ExchangeDeleted { virtual_host, name }, D::Bound(of)) => {
            *virtual_host == of.virtual_host
                && (*name == of.source || (of.to_exchange && *name == of.destination))
        }
        (D::Unbound(binding), D::Bound(of)) => binding == of,
        _ => false,
    }
}

/// A broker's definitions: no two queues at a time have the same name.
fn random_definition(
    random: &mut StdRng,
    queues: &mut BTreeMap<(String, String), u64>,
    next: u64,
) -> Definition {
    let host_name = *["/", "v"].choose(random).unwrap();
    let name = *["a", "b", "c", "x", "x1"].choose(random).unwrap();
    let source = *["x", "x1", "amq.fanout"].choose(random).unwrap();
    let person = *["ann", "bob"].choose(random).unwrap();
    let (user_name, virtual_host): (Arc<str>, Arc<str>) = (person.into(), host_name.into());
    let on = *["k", "l"].choose(random).unwrap();
    let policy_kind = *[PolicyKind::User, PolicyKind::Operator].choose(random).unwrap();
    let of_queue = (host_name.to_owned(), name.to_owned());
    match random.random_range(0..100) {
        0..3 => {
            queues.retain(|(host, _), _| host != host_name);
            host_deleted(host_name)
        }
        3..6 => host(host_name),
        6..8 => user(person),
        8..10 => Definition::UserDeleted { name: user_name },
        10..14 => permission(person, host_name, name),
        14..16 => Definition::PermissionDeleted { user: user_name, virtual_host },
        16..20 => topic_permission(person, host_name, source),
        20..22 => {
            Definition::TopicPermissionDeleted { user: user_name, virtual_host, exchange: source.into() }
        }
        22..30 => exchange(host_name, source, ["direct", "topic"].choose(random).unwrap()),
        30..34 => exchange_deleted(host_name, source),
        34..45 => match queues.remove(&of_queue) {
            Some(id) => Definition::QueueDeleted { id: QueueId(id) },
            None => {
                queues.insert(of_queue, next);
                queue(host_name, next, name)
            }
        },
        45..48 => policy(host_name, policy_kind, name, random.random_range(0..3)),
        48..50 => policy_deleted(host_name, policy_kind, name),
        50..53 => parameter(host_name, name, random.random_range(0..3)),
        53..55 => parameter_deleted(host_name, name),
        55..57 => Definition::GlobalParameterPut {
            name: name.into(),
            value: Hidden(Arc::new(random.random_range(0..3).into())),
        },
        57..58 => Definition::GlobalParameterDeleted { name: name.into() },
        58..85 => Definition::Bound(binding(host_name, source, name, on, &[])),
        _ => Definition::Unbound(binding(host_name, source, name, on, &[])),
    }
}

#[test]
fn any_sequence_leaves_what_a_list_of_definitions_would_hold() {
    for seed in 0..300 {
        let (mut random, mut queues) = (StdRng::seed_from_u64(seed), BTreeMap::new());
        let (mut definitions, mut model) = (Definitions::default(), Model::default());
        for next in 0..200 {
            let definition = random_definition(&mut random, &mut queues, next);
            model.apply(&definition);
            definitions.apply(definition);
        }
        let left = definitions.into_definitions();
        let (mut found, mut expected) = (texts(&left), texts(&model.0));
        let again = texts(&fold(&left).into_definitions());
        assert_eq!(found, again, "seed {seed}: it makes the same");
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "seed {seed}");
    }
}

#[test]
fn what_was_deleted_takes_no_memory() {
    let mut definitions = Definitions::default();
    let (mut random, mut queues) = (StdRng::seed_from_u64(1), BTreeMap::new());
    (0..2000).for_each(|next| definitions.apply(random_definition(&mut random, &mut queues, next)));
    for name in ["/", "v"] {
        definitions.apply(host_deleted(name));
    }
    for name in ["ann", "bob"] {
        definitions.apply(Definition::UserDeleted { name: name.into() });
    }
    assert!(definitions.hosts.is_empty() && definitions.users.is_empty() && definitions.queues.is_empty());
}

/// Bindings to every queue from one exchange; with optimisation a million of them.
fn many(queues: u64) -> Definitions {
    let mut definitions = Definitions::default();
    for id in 0..queues {
        definitions.apply(queue("/", id, &format!("queue-{id}")));
    }
    for key in 0..10 {
        let key = format!("key-{key}");
        for id in 0..queues {
            let made = binding("/", "amq.direct", &format!("queue-{id}"), &key, &[]);
            definitions.apply(Definition::Bound(made));
        }
    }
    definitions
}

#[test]
fn many_bindings_and_their_deletion_cost_what_they_are() {
    let queues = if cfg!(debug_assertions) { 10_000 } else { 100_000 };
    let start = Instant::now();
    let listed = many(queues);
    eprintln!("made after {:?}", start.elapsed());
    assert_eq!(listed.into_definitions().len() as u64, 11 * queues);
    eprintln!("listed after {:?}", start.elapsed());
    let mut deleted = many(queues);
    let made_again = start.elapsed();
    (0..queues).for_each(|id| deleted.apply(Definition::QueueDeleted { id: QueueId(id) }));
    eprintln!("deleted in {:?}", start.elapsed() - made_again);
    assert!(deleted.hosts.is_empty());
    assert!(start.elapsed() < Duration::from_secs(20), "it took {:?}", start.elapsed());
}
