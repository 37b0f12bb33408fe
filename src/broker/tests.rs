//! What a broker keeps across a restart.

use super::{
    definition::Definition,
    exchange::Destination,
    exchange::ExchangeKind,
    journal::{Fact, Lsn},
    permission::{Access, Permission},
    queue::QueueId,
    restore::{Backlog, Recovered, RecoveredQueue},
    user::{HashingAlgorithm, PasswordHash, User},
    vhost::{BindingSpec, DeleteIf, ExchangeSpec, QueueSpec},
    *,
};
use crate::amqp::{PropertiesBuilder, Table, Value};

mod policies;

/// A broker without virtual hosts and users, and few limits.
pub(super) fn broker() -> Broker {
    broker_of(Some(3))
}

fn broker_of(queues_max: Option<u32>) -> Broker {
    let limits = Limits {
        frame_max: 131_072,
        channel_max: 2047,
        heartbeat_secs: 60,
        handshake_timeout_ms: 10_000,
        message_bytes_max: 4 << 20,
        connections_max: None,
        channels_max: None,
        consumers_per_channel_max: None,
        queues_max,
        unsent_bytes_per_connection: 64 << 10,
    };
    let identity = Identity {
        product: "RabbitMQ".into(),
        version: "3.13.7".into(),
        cluster_name: "leveret@test".into(),
    };
    Broker::new(Users::new([9; 4]), Permissions::new(), limits, identity)
}

/// Declares things in `/` of a broker.
struct Client {
    broker: Broker,
    host: Arc<VirtualHost>,
    effects: Effects,
}

fn queue_spec<'a>(name: &'a str, durable: bool, arguments: &Table) -> QueueSpec<'a> {
    QueueSpec { name, durable, exclusive: false, auto_delete: false, arguments: arguments.clone() }
}

impl Client {
    fn new(broker: Broker) -> Self {
        broker.add_virtual_host("/", None, None);
        let host = broker.virtual_host("/").expect("it was added");
        Self { broker, host, effects: Effects::default() }
    }

    fn queue(&mut self, name: &str, durable: bool) -> Arc<QueueHandle> {
        let arguments = Table(vec![("x-max-length".into(), Value::I32(9))]);
        let spec = queue_spec(name, durable, &arguments);
        self.host.declare_queue(&spec, false, ConnectionId(0), &mut self.effects).expect("a sound queue")
    }

    fn exchange(&mut self, name: &str, durable: bool, auto_delete: bool) -> Destination {
        let (kind, arguments) = (ExchangeKind::Fanout, Table::default());
        let spec = ExchangeSpec { name, kind, durable, auto_delete, internal: auto_delete, arguments };
        self.host.declare_exchange(&spec, &mut self.effects).expect("a sound exchange");
        Destination::Exchange(self.host.exchange(name).expect("it was declared"))
    }

    fn bind(&mut self, source: &str, destination: &Destination, is_bound: bool) {
        let arguments = Table(vec![("a".into(), Value::I32(1))]);
        let spec = BindingSpec { source, binding_key: "k", arguments: &arguments };
        if is_bound {
            self.host.bind(destination, spec, &mut self.effects).expect("both are there");
        } else {
            self.host.unbind(destination, spec, &mut self.effects);
        }
    }

    /// What the log was told.
    fn definitions(&self) -> Vec<Definition> {
        let facts = std::iter::from_fn(|| self.broker.journal.try_take_batch()).flat_map(|batch| batch.facts);
        let definitions = facts.filter_map(|fact| match fact {
            Fact::Define(definition) => Some(definition),
            _ => None,
        });
        definitions.collect()
    }

    /// Durable queues, durable exchanges and the bindings between them, in words.
    fn topology(&self) -> Vec<String> {
        let mut topology = Vec::new();
        let queues = self.host.queues();
        for queue in queues.iter().filter(|queue| queue.properties.durable) {
            topology.push(format!("queue {} {:?} {:?}", queue.id.0, queue.name, queue.properties));
        }
        for name in ["amq.topic", "x", "y", "z"] {
            let Some(exchange) = self.host.exchange(name) else { continue };
            topology.push(format!("exchange {name} {:?}", exchange.properties));
            for (key, arguments, destination) in exchange.bindings.read().expect("no panic").iter() {
                let is_durable = match destination {
                    Destination::Queue(queue) => queue.properties.durable,
                    Destination::Exchange(exchange) => exchange.properties.durable,
                };
                if is_durable && exchange.properties.durable {
                    topology.push(format!("{name} -{key}-> {destination:?} {arguments:?}"));
                }
            }
        }
        topology.sort();
        topology
    }
}

fn restored(definitions: Vec<Definition>, queues: Vec<RecoveredQueue>, next_id: u64) -> Client {
    let broker = broker();
    broker.restore(Recovered { definitions, next_id, queues, ..Recovered::default() }, Now::made_up(1000));
    let host = broker.virtual_host("/").expect("it was there");
    Client { broker, host, effects: Effects::default() }
}

fn ann() -> User {
    User {
        name: "ann".into(),
        password: PasswordHash::new(HashingAlgorithm::Sha256, [1; 4], b"pw"),
        tags: Vec::new(),
        loopback_only: false,
        connections_max: None,
        channels_max: None,
    }
}

#[test]
fn what_was_defined_is_there_again() {
    let mut first = Client::new(broker());
    first.broker.put_user(ann());
    let permission = Permission::new("^a", "", "").expect("patterns");
    first.broker.grant("ann", "/", permission);
    let kept = Destination::Queue(first.queue("kept", true));
    let transient = Destination::Queue(first.queue("transient", false));
    let gone = first.queue("gone", true);
    // Its last durable binding goes before its transient one, so it is still there at the end, as with RabbitMQ.
    first.exchange("x", true, true);
    first.bind("x", &transient, true);
    first.bind("x", &kept, true);
    first.bind("x", &kept, false);
    let y = first.exchange("y", true, false);
    first.bind("amq.topic", &y, true);
    first.bind("amq.topic", &kept, true);
    first.bind("y", &kept, true);
    first.bind("y", &Destination::Queue(Arc::clone(&gone)), true);
    // It goes with its last binding.
    first.exchange("z", true, true);
    first.bind("z", &Destination::Queue(Arc::clone(&gone)), true);
    first.host.delete_queue(&gone, DeleteIf::default(), &mut first.effects).expect("no condition");
    assert!(first.host.exchange("z").is_none());
    first.queue("gone", true);
    let mut second = restored(first.definitions(), Vec::new(), 0);
    assert_eq!(second.topology(), first.topology());
    assert!(first.topology().len() >= 8, "{:?}", first.topology());
    assert!(second.host.queue("transient").is_none());
    assert!(second.broker.users.authenticate("ann", b"pw", false).is_ok());
    assert!(second.broker.permissions.check("ann", "/", "ab", Access::Configure));
    assert!(second.definitions().is_empty(), "nothing is recorded again");
    let ids = first.host.queues().iter().map(|queue| queue.id).max();
    assert!(Some(second.queue("new", true).id) > ids, "identities are not used again");
    second.bind("x", &kept_of(&second), true);
    second.bind("x", &kept_of(&second), false);
    assert!(second.host.exchange("x").is_none(), "it goes with its last binding, as ever");
}

fn kept_of(client: &Client) -> Destination {
    Destination::Queue(client.host.queue("kept").expect("it was restored"))
}

/// A virtual host, and queues with these arguments.
fn definitions(queues: &[(u64, &str, Table)]) -> Vec<Definition> {
    let host = Definition::VirtualHostPut { name: "/".into(), connections_max: None, queues_max: None };
    let queues = queues.iter().map(|(id, name, arguments)| Definition::QueueDeclared {
        virtual_host: "/".into(),
        id: QueueId(*id),
        name: (*name).into(),
        auto_delete: true,
        arguments: arguments.clone(),
    });
    std::iter::once(host).chain(queues).collect()
}

fn backlog(id: u64, count: u64) -> RecoveredQueue {
    RecoveredQueue {
        id: QueueId(id),
        next_sequence: count + 1,
        delivered_up_to: 0,
        body_bytes: 7 * count,
        backlog: vec![Backlog { first: 1, last: count, count, priority: None }],
        deadlines: Vec::new(),
        held: Vec::new(),
    }
}

#[test]
fn messages_are_there_again_and_count() {
    let queues = definitions(&[(5, "a", Table::default()), (6, "b", Table::default())]);
    let mut client = restored(queues, vec![backlog(5, 10_000_000)], 40);
    let ready = |name| client.host.queue(name).expect("it was restored").lock().ready_count();
    assert_eq!((ready("a"), ready("b")), (10_000_000, 0), "without consumers, and auto-delete queues too");
    assert_eq!(client.broker.pager.resident_bytes(), 0);
    assert!(client.queue("c", false).id > QueueId(40));
    let spec = queue_spec("d", false, &Table::default());
    let refused = client.host.declare_queue(&spec, false, ConnectionId(0), &mut client.effects);
    assert!(refused.is_err(), "three queues are all there may be");
}

#[test]
fn queues_are_put_back_whatever_the_limit() {
    let names: Vec<String> = (0..5).map(|number| number.to_string()).collect();
    let queues: Vec<_> = (10..).zip(&names).map(|(id, name)| (id, name.as_str(), Table::default())).collect();
    assert_eq!(restored(definitions(&queues), Vec::new(), 0).host.queues().len(), 5);
}

#[test]
fn unused_queues_expire_from_the_start_on() {
    let expires = Table(vec![("x-expires".into(), Value::I32(500))]);
    let client = restored(definitions(&[(5, "a", expires)]), vec![backlog(5, 3)], 0);
    while client.broker.tick(Now::made_up(1499)) {}
    assert_eq!(client.host.queues().len(), 1);
    while client.broker.tick(Now::made_up(1500)) {}
    assert_eq!(client.host.queues().len(), 0);
    let recorded = client.definitions();
    assert!(matches!(recorded[..], [Definition::QueueDeleted { id: QueueId(5) }]), "{recorded:?}");
}

#[test]
fn what_does_not_fit_is_left_out() {
    let mut all = definitions(&[(5, "a", Table::default()), (6, "a", Table::default())]);
    let binding = |virtual_host: &str, source: &str, destination: &str| definition::Binding {
        virtual_host: virtual_host.into(),
        source: source.into(),
        to_exchange: false,
        destination: destination.into(),
        binding_key: String::new(),
        arguments: Table::default(),
    };
    all.push(Definition::QueueDeleted { id: QueueId(9) });
    for (host, source, destination) in [("no", "x", "a"), ("/", "no", "a"), ("/", "amq.topic", "no")] {
        all.push(Definition::Bound(binding(host, source, destination)));
        all.push(Definition::Unbound(binding(host, source, destination)));
    }
    let exchange = |kind| Definition::ExchangeDeclared {
        virtual_host: "/".into(),
        name: "x".into(),
        kind,
        auto_delete: false,
        internal: false,
        arguments: Table::default(),
    };
    all.extend([exchange("no such type"), exchange("fanout"), exchange("topic")]);
    let client = restored(all, vec![backlog(5, 1), backlog(99, 1)], 0);
    let queues = client.host.queues();
    assert_eq!(
        queues.iter().map(|queue| (queue.id, queue.lock().ready_count())).collect::<Vec<_>>(),
        [(QueueId(5), 1)]
    );
    let kind = client.host.exchange("x").expect("the first sound one").properties.kind.name();
    assert_eq!(kind, "fanout");
    assert!(client.effects.facts.is_empty() && client.definitions().is_empty());
}

/// A crash may come between the deletion of an exchange and that of the queue of its delayed messages.
#[test]
fn delayed_messages_go_with_their_exchange_even_if_a_crash_comes_in_between() {
    let name = "amq.delayed.x";
    let queues = [(5, name, Table::default())];
    let client = restored(definitions(&queues), vec![backlog(5, 3)], 0);
    assert!(client.host.queue(name).is_none());
    let recorded = client.definitions();
    assert!(matches!(recorded[..], [Definition::QueueDeleted { id: QueueId(5) }]), "{recorded:?}");
    // And another exchange of that name is none that delays.
    let mut all = definitions(&[]);
    all.push(Definition::ExchangeDeclared {
        virtual_host: "/".into(),
        name: "x".into(),
        kind: "fanout",
        auto_delete: false,
        internal: false,
        arguments: Table::default(),
    });
    all.extend(definitions(&queues).pop());
    let client = restored(all, vec![backlog(5, 3)], 0);
    assert!(client.host.queue(name).is_none());
    assert!(client.host.exchange("x").expect("it was there").delay_queue().is_none());
}

#[test]
fn an_exchange_that_delays_has_its_messages_again() {
    let mut all = definitions(&[]);
    all.push(Definition::ExchangeDeclared {
        virtual_host: "/".into(),
        name: "x".into(),
        kind: "x-delayed-message",
        auto_delete: false,
        internal: false,
        arguments: Table(vec![("x-delayed-type".into(), "fanout".into())]),
    });
    all.extend(definitions(&[(5, "amq.delayed.x", Table::default())]).pop());
    let client = restored(all, vec![backlog(5, 3)], 0);
    let exchange = client.host.exchange("x").expect("it was there");
    let queue = exchange.delay_queue().expect("it delays");
    assert_eq!((queue.id, queue.lock().ready_count()), (QueueId(5), 3));
    assert!(client.definitions().is_empty());
}

/// So many queues that drop all they get to the next one, in a circle, and a message with headers of so many octets.
/// Returns whether that ends.
fn circle_ends(interprets_x_death: bool, queues: usize, header_bytes: usize) -> bool {
    let mut broker = broker_of(None);
    broker.interprets_x_death = interprets_x_death;
    let mut client = Client::new(broker);
    let name = |number: usize| format!("{number:0250}");
    for number in 0..queues {
        let arguments = Table(vec![
            ("x-max-length".into(), Value::I32(0)),
            ("x-dead-letter-exchange".into(), "".into()),
            ("x-dead-letter-routing-key".into(), name((number + 1) % queues).as_str().into()),
        ]);
        let name = name(number);
        let spec = queue_spec(&name, false, &arguments);
        client.host.declare_queue(&spec, false, ConnectionId(0), &mut client.effects).expect("a sound queue");
    }
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let queue = client.host.queue(&name(0)).expect("it was declared");
        let body = message::PublishedBody::Small(b"m");
        let text = Value::LongStr(vec![b'x'; header_bytes].into());
        let headers = Some(Table(vec![("large".into(), text)]));
        let properties = PropertiesBuilder { headers, ..PropertiesBuilder::default() }.encode();
        let message = message::Message::new(("", "a"), &properties, body, false, None, &mut Vec::new());
        let mut effects = Effects::default();
        queue.lock().publish(message, NEVER, &queue, &mut effects).expect("room").expect("there");
        queue.lock().deliver(&queue, &mut effects);
        client.broker.conclude(effects);
        let _ = done.send(());
    });
    is_done.recv_timeout(std::time::Duration::from_secs(10)).is_ok()
}

#[test]
fn dead_letters_do_not_go_round_for_ever() {
    assert!(circle_ends(true, 2, 0));
    assert!(circle_ends(false, 2, 0), "what the broker has written is continued, whatever a client sent");
    assert!(circle_ends(true, 20, 119 << 10), "its history is cut short");
    assert!(circle_ends(true, 150, 0), "its history is cut short");
}

#[test]
fn a_queue_and_an_exchange_whose_arguments_are_not_taken_any_more_are_there_again() {
    let odd = || {
        Table(vec![
            ("x-message-deduplication".into(), "yes".into()),
            ("x-retry-delays".into(), Value::Bool(true)),
        ])
    };
    let mut definitions = definitions(&[(5, "a", odd())]);
    definitions.push(Definition::ExchangeDeclared {
        virtual_host: "/".into(),
        name: "x".into(),
        kind: "fanout",
        auto_delete: false,
        internal: false,
        arguments: odd(),
    });
    let client = restored(definitions, vec![backlog(5, 3)], 0);
    assert_eq!(client.host.queue("a").map(|queue| queue.lock().ready_count()), Some(3));
    assert!(client.host.exchange("x").is_some());
}

/// Levels of two queues each that drop all they get to both queues of the next level. Returns whether a message ends.
fn tree_ends(levels: usize) -> bool {
    let mut client = Client::new(broker_of(None));
    for level in 0..levels {
        let (exchange, next) = (format!("x{level}"), format!("x{}", level + 1));
        let spec = ExchangeSpec {
            name: &exchange,
            kind: ExchangeKind::Fanout,
            durable: false,
            auto_delete: false,
            internal: false,
            arguments: Table::default(),
        };
        client.host.declare_exchange(&spec, &mut client.effects).expect("a sound exchange");
        let arguments = Table(vec![
            ("x-max-length".into(), Value::I32(0)),
            ("x-dead-letter-exchange".into(), next.as_str().into()),
        ]);
        for name in [format!("a{level}"), format!("b{level}")] {
            let spec = queue_spec(&name, false, &arguments);
            let queue = client.host.declare_queue(&spec, false, ConnectionId(0), &mut client.effects);
            let destination = Destination::Queue(queue.expect("a sound queue"));
            let none = Table::default();
            let binding = BindingSpec { source: &exchange, binding_key: "", arguments: &none };
            client.host.bind(&destination, binding, &mut client.effects).expect("both are there");
        }
    }
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let queue = client.host.queue("a0").expect("it was declared");
        let body = message::PublishedBody::Small(b"m");
        let message = message::Message::new(("", "a0"), &[0, 0], body, false, None, &mut Vec::new());
        let mut effects = Effects::default();
        queue.lock().publish(message, NEVER, &queue, &mut effects).expect("room").expect("there");
        queue.lock().deliver(&queue, &mut effects);
        client.broker.conclude(effects);
        let _ = done.send(());
    });
    is_done.recv_timeout(std::time::Duration::from_secs(60)).is_ok()
}

#[test]
fn dead_letters_do_not_become_more_and_more() {
    assert!(tree_ends(24), "2^24 letters would be more than the memory holds");
}
