//! Policies that act on what is there.

use super::*;
use crate::broker::{
    NEVER,
    exchange::Routing,
    message::{Message, PublishedBody},
    policy::{ApplyTo, Policy, PolicyKind},
    queue::{Overflow, Return},
    route::Route,
};

fn policy_of(kind: PolicyKind, name: &str, pattern: &str, definition: &[(&str, Value)]) -> Policy {
    let definition =
        Table(definition.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect());
    Policy::new(kind, name, pattern, ApplyTo::All, 0, definition).expect("a sound policy")
}

fn policy(name: &str, pattern: &str, definition: &[(&str, Value)]) -> Policy {
    policy_of(PolicyKind::User, name, pattern, definition)
}

fn max_length(length: i64) -> Policy {
    policy("p", "^q", &[("max-length", Value::I64(length))])
}

const NOW: Now = Now { monotonic_ms: 1000, unix_ms: 1000 };

impl Client {
    fn declare(&mut self, name: &str, arguments: &[(&str, Value)]) -> Arc<QueueHandle> {
        let arguments =
            Table(arguments.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect());
        let spec = queue_spec(name, true, &arguments);
        self.host.declare_queue(&spec, false, ConnectionId(0), &mut self.effects).expect("a sound queue")
    }

    fn publish(&mut self, queue: &Arc<QueueHandle>, count: usize) -> Vec<bool> {
        let body = PublishedBody::Small(b"body");
        let message = Message::new(("", "q"), &[0, 0], body, true, None, &mut Vec::new());
        let mut locked = queue.lock();
        let taken = (0..count)
            .map(|_| locked.publish(message.clone(), NEVER, queue, &mut self.effects).is_ok())
            .collect();
        locked.deliver(queue, &mut self.effects);
        taken
    }

    fn put(&self, policy: Policy) {
        assert_ne!(self.broker.put_policy("/", policy, None, NOW).expect("there is a host"), Lsn(0));
    }

    fn delete(&self, name: &str) {
        let deleted = self.broker.delete_policy("/", PolicyKind::User, name, None, NOW);
        assert_ne!(deleted.expect("there is a host"), Lsn(0));
    }

    /// What the log was told since the last time.
    fn facts(&self) -> Vec<Fact> {
        std::iter::from_fn(|| self.broker.journal.try_take_batch()).flat_map(|batch| batch.facts).collect()
    }
}

fn ready(queue: &QueueHandle) -> u32 {
    queue.lock().ready_count()
}

#[test]
fn b3_a_lower_limit_drops_the_head_at_once() {
    let mut client = Client::new(broker());
    let queue = client.declare("q", &[]);
    client.publish(&queue, 6);
    client.facts();
    client.put(max_length(2));
    assert_eq!(ready(&queue), 2);
    let facts = client.facts();
    let dropped = |fact: &Fact| matches!(fact, Fact::Settle { sequences, .. } if *sequences == [1, 2, 3, 4]);
    assert!(matches!(facts[0], Fact::Define(Definition::PolicyPut { .. })), "{facts:?}");
    assert!(facts.len() == 2 && dropped(&facts[1]), "the oldest: {facts:?}");
    client.publish(&queue, 3);
    assert_eq!(ready(&queue), 2);
    client.put(max_length(4));
    client.publish(&queue, 9);
    assert_eq!(ready(&queue), 4);
    client.delete("p");
    client.publish(&queue, 9);
    assert_eq!(ready(&queue), 13);
}

#[test]
fn b3_a_lower_limit_in_octets_drops_too() {
    let mut client = Client::new(broker());
    let queue = client.declare("q", &[]);
    client.publish(&queue, 6);
    client.put(policy("p", "", &[("max-length-bytes", Value::I64(9))]));
    assert_eq!(ready(&queue), 2);
}

#[test]
fn b3_a_lower_limit_drops_nothing_where_publishes_are_rejected() {
    let mut client = Client::new(broker());
    let queue = client.declare("q", &[]);
    client.publish(&queue, 6);
    let rejecting = [("max-length", Value::I64(5)), ("overflow", "reject-publish".into())];
    client.put(policy("p", "", &rejecting));
    assert_eq!((ready(&queue), client.publish(&queue, 1)), (6, vec![false]));
    let got = |queue: &Arc<QueueHandle>| {
        queue.lock().get(true, queue, &mut Effects::default()).expect("it is in memory")
    };
    assert!(got(&queue).is_some() && got(&queue).is_some());
    assert_eq!(client.publish(&queue, 2), [true, false]);
    client.delete("p");
    assert_eq!(client.publish(&queue, 2), [true, true]);
}

#[test]
fn b1_a_policy_acts_on_what_is_declared_later() {
    let mut client = Client::new(broker());
    client.put(max_length(2));
    let (queue, other) = (client.declare("q", &[]), client.declare("other", &[]));
    client.publish(&queue, 3);
    client.publish(&other, 3);
    assert_eq!((ready(&queue), ready(&other)), (2, 3));
    assert_eq!(queue.policies().policy.map(|policy| Arc::clone(&policy.name)).as_deref(), Some("p"));
    assert!(other.policies().policy.is_none() && other.policies().operator.is_none());
}

#[test]
fn b1_an_operator_policy_limits_the_others_and_the_arguments() {
    let mut client = Client::new(broker());
    let queue = client.declare("q", &[("x-max-length", Value::I32(9))]);
    client.publish(&queue, 9);
    client.put(max_length(7));
    assert_eq!(ready(&queue), 7);
    client.put(policy_of(PolicyKind::Operator, "p", "", &[("max-length", Value::I64(5))]));
    assert_eq!((ready(&queue), queue.arguments().max_length), (5, Some(5)));
    assert_eq!(queue.properties.arguments.max_length, Some(9), "what was declared stays");
    assert_eq!(queue.policies().definition().get("max-length"), Some(&Value::I64(5)));
    client.delete("p");
    assert_eq!(queue.arguments().max_length, Some(5));
}

#[test]
fn b1_redeclaring_is_compared_with_the_arguments_and_not_with_policies() {
    let mut client = Client::new(broker());
    client.declare("q", &[]);
    client.put(max_length(2));
    client.declare("q", &[]);
    let spec = queue_spec("q", true, &Table(vec![("x-max-length".into(), Value::I32(2))]));
    let refused = client.host.declare_queue(&spec, false, ConnectionId(0), &mut client.effects);
    assert!(refused.is_err());
}

#[test]
fn b1_a_delivery_limit_acts_on_messages_that_were_delivered_before() {
    let mut client = Client::new(broker());
    let queue = client.declare("q", &[("x-queue-type", "quorum".into())]);
    client.publish(&queue, 1);
    let fail = || {
        let mut locked = queue.lock();
        let got = locked.get(false, &queue, &mut Effects::default()).expect("it is in memory")?;
        locked.requeue(got.slot, got.entry.sequence, Return::Failed, &queue, &mut Effects::default());
        Some(got.entry.delivery_count)
    };
    assert_eq!([fail(), fail(), fail()], [Some(0), Some(1), Some(2)]);
    client.put(policy("p", "", &[("delivery-limit", Value::I64(3))]));
    assert_eq!([fail(), fail()], [Some(3), None]);
}

#[test]
fn b1_an_expiry_acts_on_a_queue_that_had_none_or_another() {
    let mut client = Client::new(broker());
    client.declare("q", &[]);
    let expire = |ms| policy("p", "", &[("expires", Value::I64(ms))]);
    client.put(expire(60_000));
    client.put(expire(500));
    while client.broker.tick(Now::made_up(1499)) {}
    assert!(client.host.queue("q").is_some());
    while client.broker.tick(Now::made_up(1500)) {}
    assert!(client.host.queue("q").is_none());
    client.declare("r", &[("x-expires", Value::I32(500))]);
    client.delete("p");
    client.put(expire(60_000));
    client.delete("p");
    while client.broker.tick(Now::made_up(1500)) {}
    assert!(client.host.queue("r").is_none(), "as it was declared");
    client.put(expire(500));
    client.declare("s", &[]);
    client.delete("p");
    while client.broker.tick(Now::made_up(99_999)) {}
    assert!(client.host.queue("s").is_some(), "it does not expire any more");
}

#[test]
fn a4_an_alternate_exchange_by_policy() {
    let mut client = Client::new(broker());
    client.exchange("x", true, false);
    client.exchange("ae", true, false);
    let queue = client.declare("q", &[]);
    let other = client.declare("other", &[]);
    client.bind("ae", &Destination::Queue(Arc::clone(&queue)), true);
    client.bind("amq.fanout", &Destination::Queue(Arc::clone(&other)), true);
    let routed = |client: &Client, name: &str| {
        let exchange = client.host.exchange(name).expect("it was declared");
        let route = Route::find(&client.host, &exchange, &Routing::by_keys(&["k"]), None);
        route.queues.iter().map(|queue| queue.name.to_string()).collect::<Vec<_>>()
    };
    let generation = client.host.generation();
    client.put(policy("p", "^(x|with)$", &[("alternate-exchange", "ae".into())]));
    assert!(client.host.generation() > generation, "routes that were found before do not hold");
    assert_eq!(routed(&client, "x"), ["q"]);
    let arguments = Table(vec![("alternate-exchange".into(), "amq.fanout".into())]);
    let kind = ExchangeKind::Direct;
    let spec =
        ExchangeSpec { name: "with", kind, durable: true, auto_delete: false, internal: false, arguments };
    client.host.declare_exchange(&spec, &mut client.effects).expect("a sound exchange");
    assert_eq!(routed(&client, "with"), ["other"], "the argument counts");
    client.delete("p");
    assert_eq!(routed(&client, "x"), [] as [&str; 0]);
    let x = client.host.exchange("x").expect("it is there");
    assert!(x.policies().policy.is_none());
}

#[test]
fn b1_policies_are_there_again_whatever_the_order() {
    let mut client = Client::new(broker());
    client.declare("q", &[]);
    client.put(max_length(2));
    client.put(policy_of(PolicyKind::Operator, "o", "", &[("overflow", "reject-publish".into())]));
    client.put(policy("gone", "", &[("expires", Value::I64(5))]));
    client.delete("gone");
    client.exchange("x", true, false);
    client.put(policy("ae", "^x$", &[("alternate-exchange", "amq.topic".into())]));
    let recorded = client.definitions();
    let check = |definitions: Vec<Definition>| {
        let client = restored(definitions, Vec::new(), 0);
        let queue = client.host.queue("q").expect("it was restored");
        let arguments = queue.arguments();
        assert_eq!((arguments.max_length, arguments.expires_ms), (Some(2), None));
        // RabbitMQ 3.10.8: what a classic queue says itself would count, but it says nothing.
        assert_eq!(arguments.overflow, Overflow::RejectPublish);
        let alternate = client.host.exchange("x").expect("it was restored").alternate();
        assert_eq!(alternate.as_deref(), Some("amq.topic"));
        assert_eq!(client.host.policies(PolicyKind::User).len(), 2);
        assert_eq!(client.host.policies(PolicyKind::Operator).len(), 1);
        assert_eq!(client.facts().len(), 0, "nothing is recorded again");
    };
    check(recorded.clone());
    let is_policy = |definition: &Definition| {
        matches!(definition, Definition::PolicyPut { .. } | Definition::PolicyDeleted { .. })
    };
    let (policies, others): (Vec<_>, Vec<_>) = recorded.into_iter().partition(is_policy);
    let (host, things) = others.split_first().expect("the virtual host");
    check([std::slice::from_ref(host), &policies, things].concat());
    check([std::slice::from_ref(host), things, &policies].concat());
}

#[test]
fn b1_an_expiry_by_policy_counts_from_the_start_on() {
    let mut client = Client::new(broker());
    client.declare("q", &[]);
    client.put(policy("p", "", &[("expires", Value::I64(500))]));
    let client = restored(client.definitions(), Vec::new(), 0);
    while client.broker.tick(Now::made_up(1499)) {}
    assert!(client.host.queue("q").is_some());
    while client.broker.tick(Now::made_up(1500)) {}
    assert!(client.host.queue("q").is_none());
}

#[test]
fn b1_every_change_of_policies_is_recorded_once() {
    let client = Client::new(broker());
    client.facts();
    client.put(max_length(1));
    assert_eq!(client.broker.put_policy("/", max_length(1), None, NOW), Ok(Lsn(0)), "it is there");
    client.put(max_length(2));
    client.delete("p");
    assert_eq!(client.broker.delete_policy("/", PolicyKind::User, "p", None, NOW), Ok(Lsn(0)), "it is gone");
    let recorded: Vec<_> = client.facts().iter().map(|fact| format!("{fact:?}")).collect();
    let kinds = ["PolicyPut", "PolicyPut", "PolicyDeleted"].map(|kind| format!("Define({kind}"));
    assert_eq!(recorded.len(), 3);
    assert!(recorded.iter().zip(&kinds).all(|(fact, kind)| fact.starts_with(kind.as_str())), "{recorded:?}");
    let refused = client.broker.put_policy("no", max_length(1), None, NOW).expect_err("no such host");
    assert_eq!(refused.to_string(), "virtual host 'no' does not exist");
}

#[test]
fn b1_what_is_recorded_counts_more_than_what_is_configured() {
    let mut client = Client::new(broker());
    client.put(max_length(2));
    client.facts();
    let other = || policy("other", "^r", &[("max-length", Value::I64(3))]);
    client.broker.configure_policies("/", vec![max_length(9), other()], NOW).expect("there is a host");
    assert_eq!(client.facts().len(), 0, "the configuration has them");
    let (q, r) = (client.declare("q", &[]), client.declare("r", &[]));
    assert_eq!((q.arguments().max_length, r.arguments().max_length), (Some(2), Some(3)));
    client.facts();
    client.put(other());
    assert_eq!(client.facts().len(), 1, "now the log has it too");
}

#[test]
fn b1_a_deep_queue_is_cut_to_a_lower_limit() {
    let queues = definitions(&[(5, "q", Table::default())]);
    let client = restored(queues, vec![backlog(5, 10_000_000)], 0);
    client.put(max_length(2));
    let queue = client.host.queue("q").expect("it was restored");
    assert_eq!(ready(&queue), 10_000_000, "its messages have to be loaded first");
    let asked = queue.lock().next_load();
    assert!(asked.is_some_and(|load| load.first == 1), "to be dropped");
}

#[test]
fn b1_a_hundred_changes_leave_one_deadline() {
    let mut client = Client::new(broker());
    client.declare("q", &[]);
    for round in 0..100 {
        client.put(policy("p", "", &[("expires", Value::I64(5000 - round))]));
    }
    assert_eq!(client.broker.timers.len(), 1);
}

#[test]
fn b1_queues_that_are_gone_leave_few_deadlines() {
    let mut client = Client::new(broker());
    let expires = [("x-expires", Value::I64(86_400_000))];
    let kept = client.declare("kept", &expires);
    client.broker.watch_use(&kept, NOW);
    for number in 0..5000 {
        let queue = client.declare(&format!("q{number}"), &expires);
        client.broker.watch_use(&queue, NOW);
        client.host.delete_queue(&queue, DeleteIf::default(), &mut client.effects).expect("it is there");
        client.effects = Effects { now: NOW, ..Effects::default() };
    }
    let count = client.broker.timers.len();
    assert!(count <= 1025, "{count}");
    client.broker.tick(Now::made_up(90_000_000));
    assert!(client.host.queue("kept").is_none(), "its own is among them");
}

#[test]
fn a_letter_enters_and_leaves_in_facts_that_are_appended_together() {
    let mut client = Client::new(broker());
    let letters = [("x-dead-letter-exchange", "".into()), ("x-dead-letter-routing-key", "target".into())];
    let (queue, target) = (client.declare("source", &letters), client.declare("target", &[]));
    client.publish(&queue, 1);
    let got = queue.lock().get(false, &queue, &mut client.effects).expect("in memory").expect("a message");
    client.facts();
    client.effects.facts.clear();
    queue.lock().reject(got.slot, got.entry.sequence, &queue, &mut client.effects);
    client.broker.forward(&mut client.effects);
    assert!(client.facts().is_empty(), "who forwards appends, once");
    let facts = std::mem::take(&mut client.effects.facts);
    let is_entry = |fact: &Fact| matches!(fact, Fact::Publish { queues, .. } if queues.iter().any(|to| to.queue == target.id));
    let is_end = |fact: &Fact| matches!(fact, Fact::Settle { queue: of, .. } if *of == queue.id);
    assert!(facts.iter().any(is_entry) && facts.iter().any(is_end), "{facts:?}");
}
