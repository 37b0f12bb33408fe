//! Events: what happens in the broker, told to whoever binds to the exchange `amq.rabbitmq.event` of the virtual host `/`
//! (RabbitMQ's plugin `rabbitmq_event_exchange`).
//!
//! Whoever changes something adds an event while it holds the lock of what it changes, so the events of one thing are
//! in order. They are published by [`Broker::publish_events`] once no lock is held, by whoever comes first, one at a
//! time. As long as nothing is bound, all of it is one relaxed load.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    Broker, NEVER, Now, alarm,
    batch::PublishBatch,
    connections::ConnectionStatus,
    definition::Definition,
    effects::Effects,
    exchange::{Destination, Exchange, Routing},
    message::{Message, PublishedBody},
    outbox::ConnectionId,
    permission::{Permission, TopicPermission},
    policy::Policy,
    queue::QueueHandle,
    route::Route,
    user::User,
};
use crate::amqp::{Properties, PropertiesBuilder, Table, Value};

/// The exchange that events are published to.
pub const EXCHANGE: &str = "amq.rabbitmq.event";
/// The virtual host that has it.
pub const VIRTUAL_HOST: &str = "/";
/// Who has done what no user has done.
const NOBODY: &str = "rmq-internal";

/// Something that happened: a routing key and headers, in RabbitMQ's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    key: &'static str,
    headers: Vec<(String, Value)>,
}

/// The events that wait to be published, and whether anybody wants any.
#[derive(Debug, Default)]
pub struct Events {
    node: String,
    is_watched: AtomicBool,
    pending: Mutex<Vec<Event>>,
    /// Held by whoever publishes, so that they come out as they came in.
    publishing: Mutex<()>,
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client's.
    pub peer: SocketAddr,
    /// The broker's.
    pub local: SocketAddr,
}

/// A consumer, as far as events tell of it.
#[derive(Clone, Copy, Debug)]
pub struct ConsumerFields<'a> {
    /// Its tag.
    pub tag: &'a str,
    /// Its queue.
    pub queue: &'a QueueHandle,
    /// Its connection.
    pub connection: ConnectionId,
    /// Its channel.
    pub channel: u16,
}

impl Events {
    /// None yet, of the node of that name.
    pub fn new(node: &str) -> Self {
        Self { node: node.to_owned(), ..Self::default() }
    }

    /// Whether anything is bound to the exchange. An event that is lost or made in vain because this has just changed
    /// would have been as well if it had happened a moment before.
    pub fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    pub(super) fn set_watched(&self, is_watched: bool) {
        self.is_watched.store(is_watched, Ordering::Relaxed);
    }

    /// Adds an event if anybody wants it. It is made from who has done it; whoever concludes the effects publishes it.
    pub fn tell(&self, effects: &mut Effects, event: impl FnOnce(&Self, &str) -> Event) {
        if self.is_watched() && !effects.is_replay {
            let event = event(self, effects.user.as_deref().unwrap_or(NOBODY));
            self.pending().push(event);
            effects.has_events = true;
        }
    }

    fn pending(&self) -> MutexGuard<'_, Vec<Event>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What stands for the process that RabbitMQ has for a connection (channel 0) or a channel.
    pub fn pid(&self, connection: ConnectionId, channel: u16) -> String {
        format!("<{}.{}.{channel}.0>", self.node, connection.0)
    }

    /// `connection.created`.
    pub fn connection_created(&self, fields: &ConnectionStatus) -> Event {
        let Ends { peer, local } = fields.ends;
        let client_properties = fields.client_properties();
        let mut event = Event::by("connection.created", &fields.user)
            .text("node", &self.node)
            .number("connected_at", fields.connected_ms)
            .with("client_properties", printed_fields(&client_properties))
            .number("channel_max", fields.channel_max)
            .number("frame_max", fields.frame_max)
            .number("timeout", fields.heartbeat_secs)
            .text("vhost", &fields.virtual_host)
            .text("user", &fields.user)
            .text("protocol", "{0,9,1}");
        // The cipher suite has hash and key exchange in its name.
        let tls = fields.tls.as_deref();
        for (name, text) in [
            ("ssl_hash", None),
            ("ssl_cipher", tls.map(|tls| tls.cipher.as_str())),
            ("ssl_key_exchange", None),
            ("ssl_protocol", tls.map(|tls| tls.protocol.as_str())),
        ] {
            event = event.text(name, text.unwrap_or_default());
        }
        event = event.text("auth_mechanism", fields.mechanism);
        for (name, text) in [
            ("peer_cert_validity", tls.and_then(|tls| tls.peer_validity.as_deref())),
            ("peer_cert_issuer", tls.and_then(|tls| tls.peer_issuer.as_deref())),
            ("peer_cert_subject", tls.and_then(|tls| tls.peer_subject.as_deref())),
        ] {
            event = event.text(name, text.unwrap_or_default());
        }
        event
            .flag("ssl", tls.is_some())
            .text("peer_host", &printed_address(peer.ip()))
            .text("host", &printed_address(local.ip()))
            .number("peer_port", peer.port())
            .number("port", local.port())
            .text("name", &fields.ends.to_string())
            .text("pid", &self.pid(fields.id(), 0))
            .text("type", "network")
            .user_provided_name(&client_properties)
    }

    /// `connection.closed`.
    pub fn connection_closed(&self, status: &ConnectionStatus) -> Event {
        let client_properties = status.client_properties();
        Event::new("connection.closed")
            .with("client_properties", printed_fields(&client_properties))
            .text("node", &self.node)
            .text("pid", &self.pid(status.id(), 0))
            .text("name", &status.ends.to_string())
            .user_provided_name(&client_properties)
    }

    /// `channel.created`.
    pub fn channel_created(&self, user: &str, connection: &ConnectionStatus, number: u16) -> Event {
        let (id, ends) = (connection.id(), connection.ends);
        Event::by("channel.created", user)
            .text("vhost", &connection.virtual_host)
            .text("user", user)
            .number("number", number)
            .text("connection", &self.pid(id, 0))
            .text("name", &format!("{ends} ({number})"))
            .text("pid", &self.pid(id, number))
    }

    /// `channel.closed`.
    pub fn channel_closed(&self, user: &str, id: ConnectionId, number: u16) -> Event {
        Event::by("channel.closed", user).text("pid", &self.pid(id, number))
    }

    /// `consumer.created`.
    pub fn consumer_created(
        &self,
        user: &str,
        consumer: ConsumerFields<'_>,
        arguments: &Table,
        prefetch: u16,
        (needs_ack, exclusive): (bool, bool),
    ) -> Event {
        let event = Event::by("consumer.created", user)
            .with("arguments", printed_fields(arguments))
            .number("prefetch_count", prefetch);
        self.place_of(consumer, event)
            .flag("ack_required", needs_ack)
            .flag("exclusive", exclusive)
            .text("consumer_tag", consumer.tag)
    }

    /// `consumer.deleted`.
    pub fn consumer_deleted(&self, user: &str, consumer: ConsumerFields<'_>) -> Event {
        let event = Event::by("consumer.deleted", user);
        self.place_of(consumer, event).text("consumer_tag", consumer.tag)
    }

    fn place_of(&self, consumer: ConsumerFields<'_>, event: Event) -> Event {
        event
            .text("queue", &consumer.queue.name)
            .text("vhost", &consumer.queue.virtual_host)
            .text("channel", &self.pid(consumer.connection, consumer.channel))
    }

    /// `queue.created`.
    pub fn queue_created(&self, user: &str, queue: &QueueHandle) -> Event {
        let properties = &queue.properties;
        let owner = properties.exclusive.map_or_else(String::new, |owner| self.pid(owner, 0));
        Event::by("queue.created", user)
            .flag("exclusive", properties.exclusive.is_some())
            .text("owner_pid", &owner)
            .with("arguments", printed_fields(&properties.table))
            .flag("auto_delete", properties.auto_delete)
            .flag("durable", properties.durable)
            .text("name", &queue.name)
            .text("vhost", &queue.virtual_host)
    }

    fn vhost_created(&self, name: &str, by: &str) -> Event {
        let state = Table(vec![(self.node.clone(), "running".into())]);
        Event::new("vhost.created")
            .text("tags", "")
            .text("description", "")
            .text("user_who_performed_action", by)
            .with("cluster_state", Value::Table(state))
            .flag("tracing", false)
            .text("metadata", "#{description => <<>>,tags => <<>>}")
            .text("default_queue_type", "undefined")
            .text("name", name)
    }

    fn alarm(&self, resource: alarm::Resource, is_raised: bool) -> Event {
        let source = match resource {
            alarm::Resource::Memory => "memory",
            alarm::Resource::Disk => "disk",
        };
        let key = if is_raised { "alarm.set" } else { "alarm.cleared" };
        Event::new(key).text("node", &self.node).text("source", source)
    }
}

impl Event {
    fn new(key: &'static str) -> Self {
        Self { key, headers: Vec::with_capacity(12) }
    }

    fn by(key: &'static str, user: &str) -> Self {
        Self::new(key).text("user_who_performed_action", user)
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        self.headers.push((name.to_owned(), value));
        self
    }

    fn text(self, name: &str, text: &str) -> Self {
        self.with(name, text.into())
    }

    fn flag(self, name: &str, flag: bool) -> Self {
        self.with(name, Value::Bool(flag))
    }

    fn number(self, name: &str, number: impl TryInto<i64>) -> Self {
        self.with(name, Value::I64(number.try_into().unwrap_or(i64::MAX)))
    }

    fn user_provided_name(self, client_properties: &Table) -> Self {
        match client_properties.get("connection_name").and_then(Value::as_str) {
            Some(name) => self.text("user_provided_name", name),
            None => self,
        }
    }

    /// `queue.deleted`.
    pub fn queue_deleted(user: &str, queue: &QueueHandle) -> Self {
        Self::by("queue.deleted", user).text("name", &queue.name).text("vhost", &queue.virtual_host)
    }

    /// `exchange.created`.
    pub fn exchange_created(user: &str, exchange: &Exchange) -> Self {
        let properties = &exchange.properties;
        Self::by("exchange.created", user)
            .text("policy", "")
            .with("arguments", printed_fields(&properties.table))
            .flag("internal", properties.internal)
            .flag("auto_delete", properties.auto_delete)
            .flag("durable", properties.durable)
            .text("type", properties.kind.name())
            .text("name", &exchange.name)
            .text("vhost", &exchange.virtual_host)
    }

    /// `exchange.deleted`.
    pub fn exchange_deleted(user: &str, exchange: &Exchange) -> Self {
        Self::by("exchange.deleted", user).text("name", &exchange.name).text("vhost", &exchange.virtual_host)
    }

    /// `binding.created`, or `binding.deleted`.
    pub fn binding(
        is_created: bool,
        user: &str,
        source: &Exchange,
        destination: &Destination,
        (key, arguments): (&str, &Table),
    ) -> Self {
        let (kind, name) = match destination {
            Destination::Queue(queue) => ("queue", &queue.name),
            Destination::Exchange(exchange) => ("exchange", &exchange.name),
        };
        Self::by(if is_created { "binding.created" } else { "binding.deleted" }, user)
            .text("vhost", &source.virtual_host)
            .with("arguments", printed_fields(arguments))
            .text("routing_key", key)
            .text("destination_kind", kind)
            .text("destination_name", name)
            .text("source_kind", "exchange")
            .text("source_name", &source.name)
    }

    /// `user.authentication.success`, or `user.authentication.failure` with the reason.
    pub fn authentication(
        user: &str,
        mechanism: &str,
        ends: Ends,
        is_over_tls: bool,
        failure: Option<&str>,
    ) -> Self {
        let Ends { peer, local } = ends;
        let event = match failure {
            None => Self::new("user.authentication.success"),
            Some(reason) => {
                // RabbitMQ sends a list of characters, as Erlang has strings.
                let characters = reason.chars().map(|character| Value::I64(u32::from(character).into()));
                Self::new("user.authentication.failure").with("error", Value::Array(characters.collect()))
            }
        };
        event
            .flag("ssl", is_over_tls)
            .text("auth_mechanism", mechanism)
            .text("protocol", "{0,9,1}")
            .number("peer_port", peer.port())
            .text("peer_host", &printed_address(peer.ip()))
            .text("connection_name", &ends.to_string())
            .text("host", &printed_address(local.ip()))
            .text("name", user)
            .text("connection_type", "network")
    }

    /// `policy.set`, of an operator policy too.
    pub fn policy_set(user: &str, virtual_host: &str, policy: &Policy) -> Self {
        Self::new("policy.set")
            .text("apply-to", policy.apply_to.name())
            .number("priority", policy.priority)
            .with("definition", Value::Table(policy.definition.clone()))
            .text("pattern", policy.pattern())
            .text("user_who_performed_action", user)
            .text("vhost", virtual_host)
            .text("name", &policy.name)
    }

    /// `policy.cleared`.
    pub fn policy_cleared(user: &str, virtual_host: &str, name: &str) -> Self {
        Self::by("policy.cleared", user).text("vhost", virtual_host).text("name", name)
    }

    /// `shovel.worker.status`: what has become of a shovel.
    ///
    /// Deviation: RabbitMQ adds to `running` where it moves messages from and to.
    pub fn shovel_status(virtual_host: &str, name: &str, status: &str, reason: Option<&str>) -> Self {
        let event = Self::new("shovel.worker.status").text("vhost", virtual_host).text("name", name);
        let event = event.text("status", status);
        match reason {
            Some(reason) => event.text("reason", reason),
            None => event,
        }
    }

    /// `shovel.worker.removed`: a shovel is no more.
    pub fn shovel_removed(virtual_host: &str, name: &str) -> Self {
        Self::new("shovel.worker.removed").text("vhost", virtual_host).text("name", name)
    }

    fn permission(by: &str, user: &str, virtual_host: &str, permission: &Permission) -> Self {
        Self::by("permission.created", by)
            .text("read", permission.read())
            .text("write", permission.write())
            .text("configure", permission.configure())
            .text("vhost", virtual_host)
            .text("user", user)
    }

    fn topic_permission(
        by: &str,
        user: &str,
        virtual_host: &str,
        exchange: &str,
        permission: &TopicPermission,
    ) -> Self {
        Self::by("topic.permission.created", by)
            .text("read", permission.read())
            .text("write", permission.write())
            .text("exchange", exchange)
            .text("vhost", virtual_host)
            .text("user", user)
    }

    fn permission_deleted(key: &'static str, by: &str, user: &str, virtual_host: &str) -> Self {
        Self::by(key, by).text("vhost", virtual_host).text("user", user)
    }

    fn name(key: &'static str, by: &str, name: &str) -> Self {
        Self::by(key, by).text("name", name)
    }

    /// `vhost.limits.set` or `user.limits.set` with the limits that there are, or `.cleared` if there are none any more.
    fn limits(
        [set, cleared]: [&'static str; 2],
        by: &str,
        (whose, name): (&str, &str),
        limits: [(&str, Option<u32>); 2],
    ) -> Self {
        let is_cleared = limits.iter().all(|(_, limit)| limit.is_none());
        let event = Self::name(if is_cleared { cleared } else { set }, by, "limits").text(whose, name);
        let limits = limits.into_iter().filter_map(|(key, limit)| Some((key, limit?)));
        limits.fold(event, |event, (key, limit)| event.number(key, limit))
    }

    /// What a user that is put is told as: another password, other tags and other limits are events of their own.
    fn of_user(by: &str, before: Option<&User>, user: &User) -> Vec<Self> {
        let mut events = Vec::new();
        match before {
            None => events.push(Self::name("user.created", by, &user.name)),
            Some(before) => {
                if before.password != user.password {
                    let is_cleared = user.password.is_none();
                    let key = if is_cleared { "user.password.cleared" } else { "user.password.changed" };
                    events.push(Self::name(key, by, &user.name));
                }
                if before.tags != user.tags {
                    let tags = user.tags.iter().map(|tag| tag.as_str().into()).collect();
                    let event = Self::by("user.tags.set", by).with("tags", Value::Array(tags));
                    events.push(event.text("name", &user.name));
                }
            }
        }
        let limits = |user: &User| [user.connections_max, user.channels_max];
        if before.map_or([None, None], limits) != limits(user) {
            let limits = [("max-connections", user.connections_max), ("max-channels", user.channels_max)];
            let keys = ["user.limits.set", "user.limits.cleared"];
            events.push(Self::limits(keys, by, ("username", &user.name), limits));
        }
        events
    }

    /// The event as a message: persistent, without a body.
    fn into_message(mut self, now: Now, scratch: &mut Vec<u8>) -> Message {
        self = self.number("timestamp_in_ms", now.unix_ms);
        let properties = PropertiesBuilder {
            headers: Some(Table(self.headers)),
            delivery_mode: Some(2),
            timestamp: Some(now.unix_ms / 1000),
            ..PropertiesBuilder::default()
        };
        let (names, body) = ((EXCHANGE, self.key), PublishedBody::Small(b""));
        Message::new(names, &properties.encode(), body, true, None, scratch)
    }
}

impl Broker {
    /// Publishes the events that have gathered. No lock may be held.
    pub fn publish_events(&self, effects: &mut Effects) {
        effects.has_events = false;
        let _publishing = self.events.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let events = std::mem::take(&mut *self.events.pending());
        let Some(host) = self.virtual_host(VIRTUAL_HOST) else { return };
        let Some(exchange) = host.exchange(EXCHANGE) else { return };
        let (mut publishes, mut scratch) = (PublishBatch::default(), Vec::new());
        for event in events {
            let key = event.key;
            let message = event.into_message(effects.now, &mut scratch);
            let properties = Properties::parse(message.properties()).unwrap_or_default();
            let routing = Routing { keys: &[key], properties, now_ms: effects.now.unix_ms };
            let Route { queues, claims, .. } = Route::find(&host, &exchange, &routing, Some(&message));
            let any_durable = queues.iter().any(|queue| queue.properties.durable);
            if queues.is_empty() || !self.limits.fits_header(message.properties()) {
                continue;
            }
            let claims = publishes.claim(claims);
            if publishes.push(message, NEVER, None, &queues, any_durable, claims) {
                publishes.flush(effects);
            }
        }
        publishes.flush(effects);
    }

    /// Adds an event that nobody's effects bring along: the task of the timers publishes it.
    pub fn tell(&self, event: impl FnOnce(&Events) -> Event) {
        if self.events.is_watched() {
            let event = event(&self.events);
            self.events.pending().push(event);
            self.timers.call();
        }
    }

    /// Raises or clears an alarm; true if that changed anything. The caller wakes the connections.
    pub fn set_alarm(&self, resource: alarm::Resource, is_raised: bool) -> bool {
        let is_change = self.alarms.set(resource, is_raised);
        if is_change {
            self.tell(|events| events.alarm(resource, is_raised));
        }
        is_change
    }

    /// What a definition that is about to be applied is told as, if it is not of a virtual host's own. `user` has made it.
    pub(super) fn events_of(&self, definition: &Definition, user: Option<&str>) -> Vec<Event> {
        use Definition as D;
        if !self.events.is_watched() {
            return Vec::new();
        }
        let by = user.unwrap_or(NOBODY);
        let deleted = Event::permission_deleted;
        match definition {
            D::VirtualHostPut { name, connections_max, queues_max } => {
                let host = self.virtual_host(name);
                let before = host.as_ref().map_or((None, None), |host| {
                    (self.counts.virtual_host_max(name).flatten(), host.queues_max())
                });
                let mut events = Vec::new();
                if host.is_none() {
                    events.push(self.events.vhost_created(name, by));
                }
                if before != (*connections_max, *queues_max) {
                    let limits = [("max-connections", *connections_max), ("max-queues", *queues_max)];
                    let keys = ["vhost.limits.set", "vhost.limits.cleared"];
                    events.push(Event::limits(keys, by, ("vhost", name), limits));
                }
                events
            }
            D::VirtualHostDeleted { name } => vec![Event::name("vhost.deleted", by, name)],
            D::UserPut(user) => Event::of_user(by, self.users.get(&user.name).as_deref(), user),
            D::UserDeleted { name } => vec![Event::name("user.deleted", by, name)],
            D::PermissionPut { user, virtual_host, permission } => {
                vec![Event::permission(by, user, virtual_host, permission)]
            }
            D::PermissionDeleted { user, virtual_host } => {
                vec![deleted("permission.deleted", by, user, virtual_host)]
            }
            D::TopicPermissionPut { user, virtual_host, exchange, permission } => {
                vec![Event::topic_permission(by, user, virtual_host, exchange, permission)]
            }
            D::TopicPermissionDeleted { user, virtual_host, .. } => {
                vec![deleted("topic.permission.deleted", by, user, virtual_host)]
            }
            D::ParameterPut(parameter) => {
                let event = Event::by("parameter.set", by).text("vhost", &parameter.virtual_host);
                vec![event.text("component", &parameter.component).text("name", &parameter.name)]
            }
            D::ParameterDeleted { virtual_host, component, name } => {
                let event = Event::by("parameter.cleared", by).text("vhost", virtual_host);
                vec![event.text("component", component).text("name", name)]
            }
            D::GlobalParameterPut { name, .. } => {
                vec![Event::name("parameter.set", by, name).text("component", "global")]
            }
            D::GlobalParameterDeleted { name } => {
                vec![Event::name("parameter.cleared", by, name).text("component", "global")]
            }
            _ => Vec::new(),
        }
    }
}

impl std::fmt::Display for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [peer, local] =
            [self.peer, self.local].map(|end| SocketAddr::new(end.ip().to_canonical(), end.port()));
        write!(f, "{peer} -> {local}")
    }
}

/// An address as Erlang has it.
fn printed_address(address: IpAddr) -> String {
    let parts: Vec<String> = match address.to_canonical() {
        IpAddr::V4(address) => address.octets().iter().map(ToString::to_string).collect(),
        IpAddr::V6(address) => address.segments().iter().map(ToString::to_string).collect(),
    };
    format!("{{{}}}", parts.join(","))
}

/// A table as RabbitMQ puts it into an event: a list of fields as Erlang prints them.
fn printed_fields(table: &Table) -> Value {
    Value::Array(table.0.iter().map(|(name, value)| printed_field(name, value).into()).collect())
}

fn printed_field(name: &str, value: &Value) -> String {
    let mut out = "{".to_owned();
    print_binary(name.as_bytes(), &mut out);
    out.push(',');
    print_typed(value, &mut out);
    out.push('}');
    out
}

/// The type and the value, as Erlang prints them.
fn print_typed(value: &Value, out: &mut String) {
    out.push_str(value.type_name());
    out.push(',');
    match value {
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::LongStr(octets) | Value::ByteArray(octets) => print_binary(octets, out),
        Value::Timestamp(seconds) => out.push_str(&seconds.to_string()),
        Value::Void => out.push_str("undefined"),
        Value::F32(number) => out.push_str(&format!("{number:?}")),
        Value::F64(number) => out.push_str(&format!("{number:?}")),
        Value::Decimal { scale, value } => out.push_str(&format!("{{{scale},{value}}}")),
        Value::Array(values) => print_list(values, out, print_element),
        Value::Table(table) => {
            print_list(&table.0, out, |(name, value), out| out.push_str(&printed_field(name, value)));
        }
        value => out.push_str(&value.as_int().unwrap_or_default().to_string()),
    }
}

fn print_element(value: &Value, out: &mut String) {
    out.push('{');
    print_typed(value, out);
    out.push('}');
}

fn print_list<T>(values: &[T], out: &mut String, print: impl Fn(&T, &mut String)) {
    out.push('[');
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        print(value, out);
    }
    out.push(']');
}

/// A binary as Erlang's `~tp` prints it: as a text if it is one, else as octets.
fn print_binary(octets: &[u8], out: &mut String) {
    let is_printable = |character: char| !character.is_control() || ('\u{8}'..='\r').contains(&character);
    match std::str::from_utf8(octets) {
        Ok("") => out.push_str("<<>>"),
        Ok(text) if text.chars().all(is_printable) => {
            let end = if text.is_ascii() { ">>" } else { "/utf8>>" };
            out.push_str("<<\"");
            text.chars().for_each(|character| print_character(character, out));
            out.push('"');
            out.push_str(end);
        }
        _ => {
            let octets: Vec<String> = octets.iter().map(ToString::to_string).collect();
            // Writing to a string can't fail.
            let _ = write!(out, "<<{}>>", octets.join(","));
        }
    }
}

fn print_character(character: char, out: &mut String) {
    let escaped = match character {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\n' => "\\n",
        '\t' => "\\t",
        '\r' => "\\r",
        '\u{8}' => "\\b",
        '\u{b}' => "\\v",
        '\u{c}' => "\\f",
        character => return out.push(character),
    };
    out.push_str(escaped);
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;
    use crate::broker::{
        tests::broker,
        vhost::{BindingSpec, DeleteIf, QueueSpec, VirtualHost},
    };

    fn declare(host: &VirtualHost, name: &str, effects: &mut Effects) -> Arc<QueueHandle> {
        let (durable, exclusive, auto_delete, arguments) = (false, false, false, Table::default());
        let spec = QueueSpec { name, durable, exclusive, auto_delete, arguments };
        host.declare_queue(&spec, false, ConnectionId(1), effects).expect("a sound queue")
    }

    /// Many declare and delete the same queue: whoever publishes, each creation comes before the deletion that ends it.
    #[test]
    fn a8_the_events_of_one_thing_are_in_order_whoever_publishes_them() {
        let broker = broker();
        broker.add_virtual_host("/", None, None);
        let host = broker.virtual_host("/").expect("it was added");
        let mut effects = Effects::default();
        let watch = declare(&host, "watch", &mut effects);
        let spec = BindingSpec { source: EXCHANGE, binding_key: "queue.*", arguments: &Table::default() };
        host.bind(&Destination::Queue(Arc::clone(&watch)), spec, &mut effects).expect("both are there");
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut effects = Effects::default();
                    for _ in 0..200 {
                        let queue = declare(&host, "q", &mut effects);
                        broker.publish_events(&mut effects);
                        host.delete_queue(&queue, DeleteIf::default(), &mut effects).expect("no condition");
                        broker.publish_events(&mut effects);
                    }
                });
            }
        });
        let mut keys = Vec::new();
        while let Some(got) = watch.lock().get(true, &watch, &mut effects).expect("it is in memory") {
            keys.push(got.entry.message.routing_key().to_vec());
        }
        assert!(keys.len() >= 400, "{} events", keys.len());
        for pair in keys.chunks(2) {
            assert_eq!(pair, [&b"queue.created"[..], b"queue.deleted"]);
        }
    }

    #[test]
    fn a8_tables_are_printed_as_erlang_does() {
        let inner = Table(vec![("basic.nack".into(), Value::Bool(true)), ("n".into(), Value::I64(-3))]);
        let table = Table(vec![
            ("x-max-length".into(), Value::I32(5)),
            ("product".into(), "a \"b\" \\ \u{e9}".into()),
            ("empty".into(), "".into()),
            ("raw".into(), Value::LongStr(vec![0, 255].into())),
            ("list".into(), Value::Array(vec!["x".into(), Value::Void, Value::F64(1.5)])),
            ("capabilities".into(), Value::Table(inner)),
        ]);
        let expected = [
            r#"{<<"x-max-length">>,signedint,5}"#,
            r#"{<<"product">>,longstr,<<"a \"b\" \\ é"/utf8>>}"#,
            r#"{<<"empty">>,longstr,<<>>}"#,
            r#"{<<"raw">>,longstr,<<0,255>>}"#,
            r#"{<<"list">>,array,[{longstr,<<"x">>},{void,undefined},{double,1.5}]}"#,
            r#"{<<"capabilities">>,table,[{<<"basic.nack">>,bool,true},{<<"n">>,long,-3}]}"#,
        ];
        assert_eq!(printed_fields(&table), Value::Array(expected.map(Value::from).to_vec()));
    }

    #[test]
    fn a8_addresses_are_printed_as_erlang_does() {
        let end = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let ends = Ends { peer: end("[::ffff:10.0.0.1]:7"), local: end("[::1]:5672") };
        assert_eq!(ends.to_string(), "10.0.0.1:7 -> [::1]:5672");
        assert_eq!(printed_address(ends.peer.ip()), "{10,0,0,1}");
        assert_eq!(printed_address(ends.local.ip()), "{0,0,0,0,0,0,0,1}");
    }
}
