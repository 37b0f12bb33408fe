//! Importing definitions: everything is checked first, and then all of it is put into effect, or nothing.
//!
//! As in RabbitMQ an import only adds. Users, permissions, policies, parameters and what is said about virtual hosts take
//! the place of those of the same name; exchanges and queues that are there stay as they are, whatever the import says
//! about them, and so does everything that the import does not name.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde_json::Value;

use super::{
    Broker, Now,
    definition::{Binding, Definition},
    effects::Effects,
    exchange::{Bindings, Destination, ExchangeArguments, ExchangeKind},
    journal::Lsn,
    outbox::ConnectionId,
    parameter::{Hidden, PARAMETERS_MAX, Parameter, check_value},
    permission::{Permission, TopicPermission},
    policy::Policy,
    queue::QueueArguments,
    refusal::Resource,
    user::{HashingAlgorithm, PasswordHash, User},
    vhost::{BindingSpec, ExchangeSpec, Metadata, QueueSpec, VirtualHost, alternate_exchange},
};
use crate::amqp::Table;

/// What is to be there.
#[derive(Clone, Debug, Default)]
pub struct Import {
    /// Users.
    pub users: Vec<ImportedUser>,
    /// Virtual hosts.
    pub hosts: Vec<ImportedHost>,
    /// Permissions: user, virtual host, and what the user may do there.
    pub permissions: Vec<(Arc<str>, Arc<str>, Permission)>,
    /// Topic permissions: user, virtual host, exchange, and which routing keys the user may use there.
    pub topic_permissions: Vec<ImportedTopicPermission>,
    /// Parameters of virtual hosts.
    pub parameters: Vec<Parameter>,
    /// Global parameters.
    pub global_parameters: Vec<(Arc<str>, Value)>,
    /// Policies, each with its virtual host.
    pub policies: Vec<(Arc<str>, Policy)>,
    /// Exchanges.
    pub exchanges: Vec<ImportedExchange>,
    /// Queues.
    pub queues: Vec<ImportedQueue>,
    /// Bindings.
    pub bindings: Vec<Binding>,
}

/// A user, a virtual host, an exchange, and which routing keys the user may use there.
pub type ImportedTopicPermission = (Arc<str>, Arc<str>, Arc<str>, TopicPermission);

/// A user that is to be there.
#[derive(Clone, Debug)]
pub struct ImportedUser {
    /// The user's name.
    pub name: Arc<str>,
    /// What the user logs in with.
    pub password: ImportedPassword,
    /// Roles.
    pub tags: Vec<String>,
    /// How many connections and channels the user may have; `None` leaves that as it is.
    pub limits: Option<[Option<u32>; 2]>,
    /// Whether the user may connect from this machine only; `None` leaves that as it is, and lets a new user connect from
    /// anywhere unless it is called `guest`.
    pub loopback_only: Option<bool>,
}

/// What a user logs in with.
#[derive(Clone)]
pub enum ImportedPassword {
    /// A hash.
    Hash(PasswordHash),
    /// The password in clear. A user that has it already keeps its hash.
    Clear(String),
    /// Nothing is said: who is there keeps the password, and who is new has none.
    Unsaid(HashingAlgorithm),
}

impl std::fmt::Debug for ImportedPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<hidden>")
    }
}

/// A virtual host that is to be there.
#[derive(Clone, Debug)]
pub struct ImportedHost {
    /// Its name.
    pub name: Arc<str>,
    /// What is said about it, but for whether it is protected; `None` leaves that as it is.
    pub metadata: Option<Metadata>,
    /// Whether it can't be deleted; `None` leaves that as it is.
    pub is_protected: Option<bool>,
    /// How many connections it takes and queues it holds; `None` leaves that as it is.
    pub limits: Option<[Option<u32>; 2]>,
}

/// An exchange that is to be there.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "named as in ExchangeSpec")]
pub struct ImportedExchange {
    pub virtual_host: Arc<str>,
    pub name: Arc<str>,
    pub kind: ExchangeKind,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: Table,
}

/// A queue that is to be there.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "named as in QueueSpec")]
pub struct ImportedQueue {
    pub virtual_host: Arc<str>,
    pub name: Arc<str>,
    pub durable: bool,
    pub auto_delete: bool,
    pub arguments: Table,
}

/// Something that can't be imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} '{name}': {reason}")]
pub struct Refused {
    /// What it is: `user`, `queue` and so on.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Why not.
    pub reason: String,
}

/// Changes whose effects are gathered before they are concluded.
const CONCLUDED_AT_A_TIME: usize = 1024;

impl Broker {
    /// Puts everything into effect, or nothing: then everything that can't be is returned. Those who connect meanwhile
    /// see some of it before all of it is there.
    ///
    /// # Errors
    /// All that can't be imported.
    pub fn import(&self, import: Import, user: Option<&Arc<str>>, now: Now) -> Result<Lsn, Vec<Refused>> {
        let _importing = self.importing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let refused = self.check_import(&import);
        if !refused.is_empty() {
            return Err(refused);
        }
        self.import_users_and_hosts(&import, user);
        self.import_grants(&import, user);
        self.import_parameters(&import, user);
        let mut left_out = Vec::new();
        for (virtual_host, policy) in import.policies {
            let name = policy.name.to_string();
            if let Err(error) = self.put_policy(&virtual_host, policy, user, now) {
                left_out.push(Refused { kind: "policy", name, reason: error.to_string() });
            }
        }
        let mut declaring = Declaring { broker: self, user, now, effects: Effects::default(), count: 0 };
        declaring.restart();
        let exchanges = import.exchanges.iter().filter_map(|exchange| declaring.exchange(exchange).err());
        left_out.extend(exchanges.collect::<Vec<_>>());
        let queues = import.queues.iter().filter_map(|queue| declaring.queue(queue).err());
        left_out.extend(queues.collect::<Vec<_>>());
        let bindings = import.bindings.iter().filter_map(|binding| declaring.binding(binding).err());
        left_out.extend(bindings.collect::<Vec<_>>());
        declaring.conclude();
        // Everything was checked: this is what somebody else has changed since.
        left_out.iter().for_each(|refused| tracing::warn!("left out of an import: {refused}"));
        Ok(self.journal.last())
    }

    fn import_users_and_hosts(&self, import: &Import, by: Option<&Arc<str>>) {
        let by = by.map(|by| &**by);
        for user in &import.users {
            self.change(by, || Some(Definition::UserPut(user.merged(self.users.get(&user.name)).into())));
        }
        for host in &import.hosts {
            self.change(by, || {
                let current = self.virtual_host(&host.name).map(|current| {
                    [self.counts.virtual_host_max(&host.name).flatten(), current.queues_max()]
                });
                let [connections_max, queues_max] = host.limits.or(current).unwrap_or_default();
                Some(Definition::VirtualHostPut { name: Arc::clone(&host.name), connections_max, queues_max })
            });
            if host.metadata.is_some() || host.is_protected.is_some() {
                self.change(by, || {
                    let before = self.virtual_host(&host.name)?.metadata();
                    let is_protected = host.is_protected.unwrap_or(before.is_protected);
                    let said = host.metadata.as_ref().unwrap_or(&before).clone();
                    let metadata = Arc::new(Metadata { is_protected, ..said });
                    Some(Definition::VirtualHostDescribed { name: Arc::clone(&host.name), metadata })
                });
            }
        }
    }

    fn import_grants(&self, import: &Import, by: Option<&Arc<str>>) {
        let by = by.map(|by| &**by);
        for (user, virtual_host, permission) in &import.permissions {
            let (user, virtual_host, permission) =
                (Arc::clone(user), Arc::clone(virtual_host), permission.clone());
            self.change(by, || Some(Definition::PermissionPut { user, virtual_host, permission }));
        }
        for (user, virtual_host, exchange, permission) in &import.topic_permissions {
            let (user, virtual_host) = (Arc::clone(user), Arc::clone(virtual_host));
            let (exchange, permission) = (Arc::clone(exchange), permission.clone());
            self.change(by, || {
                Some(Definition::TopicPermissionPut { user, virtual_host, exchange, permission })
            });
        }
    }

    fn import_parameters(&self, import: &Import, by: Option<&Arc<str>>) {
        for parameter in &import.parameters {
            let parameter = Parameter { set_by: by.cloned(), ..parameter.clone() };
            let before = self.parameters.get(&parameter.virtual_host, &parameter.component, &parameter.name);
            // Who has set it stays the same, if what it says does.
            if before.is_none_or(|before| before.value != parameter.value) {
                self.change(by.map(|by| &**by), || Some(Definition::ParameterPut(parameter.into())));
            }
        }
        for (name, value) in &import.global_parameters {
            let (name, value) = (Arc::clone(name), Hidden(Arc::new(value.clone())));
            self.change(by.map(|by| &**by), || Some(Definition::GlobalParameterPut { name, value }));
        }
    }

    /// All that can't be imported.
    fn check_import(&self, import: &Import) -> Vec<Refused> {
        let mut check = Check {
            broker: self,
            hosts: import.hosts.iter().map(|host| &*host.name).collect(),
            users: import.users.iter().map(|user| &*user.name).collect(),
            queues: HashSet::new(),
            exchanges: HashMap::new(),
            refused: Vec::new(),
        };
        check.grants(import);
        check.parameters(import);
        for (virtual_host, policy) in &import.policies {
            check.expect_host("policy", &policy.name, virtual_host);
        }
        import.exchanges.iter().for_each(|exchange| check.exchange(exchange));
        import.queues.iter().for_each(|queue| check.queue(queue));
        check.queue_limits(import);
        import.bindings.iter().for_each(|binding| check.binding(binding));
        check.refused
    }
}

impl ImportedUser {
    /// The user as it is to be, if that is what it was.
    fn merged(&self, before: Option<Arc<User>>) -> User {
        let before = before.as_deref();
        let limits = before.map_or([None, None], |before| [before.connections_max, before.channels_max]);
        let [connections_max, channels_max] = self.limits.unwrap_or(limits);
        let loopback_only = before.map_or(*self.name == *"guest", |before| before.loopback_only);
        let password = match &self.password {
            ImportedPassword::Hash(hash) => hash.clone(),
            ImportedPassword::Clear(clear) => {
                let same = before.filter(|before| before.password.verify(clear.as_bytes()));
                let new = || PasswordHash::new(HashingAlgorithm::default(), rand::random(), clear.as_bytes());
                same.map_or_else(new, |before| before.password.clone())
            }
            ImportedPassword::Unsaid(algorithm) => {
                before.map_or_else(|| PasswordHash::none(*algorithm), |before| before.password.clone())
            }
        };
        User {
            name: Arc::clone(&self.name),
            password,
            tags: self.tags.clone(),
            loopback_only: self.loopback_only.unwrap_or(loopback_only),
            connections_max,
            channels_max,
        }
    }
}

/// What is there, or will be.
struct Check<'a> {
    broker: &'a Broker,
    hosts: HashSet<&'a str>,
    users: HashSet<&'a str>,
    /// By virtual host and name: those of the import.
    queues: HashSet<(&'a str, &'a str)>,
    /// By virtual host and name: those of the import, and what they say to bindings.
    exchanges: HashMap<(&'a str, &'a str), Bindings<Destination>>,
    refused: Vec<Refused>,
}

impl<'a> Check<'a> {
    fn refuse(&mut self, kind: &'static str, name: &str, reason: impl Into<String>) {
        self.refused.push(Refused { kind, name: name.to_owned(), reason: reason.into() });
    }

    /// The virtual host, if it is there already; an error if there is none, and will be none.
    fn host(&self, name: &str) -> Result<Option<Arc<VirtualHost>>, String> {
        match self.broker.virtual_host(name) {
            None if !self.hosts.contains(name) => Err(format!("there is no virtual host '{name}'")),
            host => Ok(host),
        }
    }

    fn expect_host(&mut self, kind: &'static str, name: &str, virtual_host: &str) {
        if let Err(reason) = self.host(virtual_host) {
            self.refuse(kind, name, reason);
        }
    }

    fn grants(&mut self, import: &Import) {
        let permissions = import.permissions.iter().map(|(user, host, _)| ("permission", user, host));
        let topics = import.topic_permissions.iter().map(|(user, host, ..)| ("topic_permission", user, host));
        for (kind, user, host) in permissions.chain(topics) {
            self.expect_host(kind, user, host);
            if !self.users.contains(&**user) && self.broker.users.get(user).is_none() {
                self.refuse(kind, user, format!("there is no user '{user}'"));
            }
        }
    }

    fn parameters(&mut self, import: &Import) {
        for parameter in &import.parameters {
            self.expect_host("parameter", &parameter.name, &parameter.virtual_host);
            if let Err(error) = check_value(&parameter.value) {
                self.refuse("parameter", &parameter.name, error.to_string());
            }
        }
        for (name, value) in &import.global_parameters {
            if let Err(error) = check_value(value) {
                self.refuse("global_parameter", name, error.to_string());
            }
        }
        let is_new = |parameter: &&Parameter| {
            let Parameter { virtual_host, component, name, .. } = parameter;
            self.broker.parameters.get(virtual_host, component, name).is_none()
        };
        let new = import.parameters.iter().filter(is_new).count()
            + import
                .global_parameters
                .iter()
                .filter(|(name, _)| self.broker.parameters.global(name).is_none())
                .count();
        let known = self.broker.parameters.list().len() + self.broker.parameters.globals().len();
        if known + new > PARAMETERS_MAX {
            self.refuse("parameters", "", format!("there may be {PARAMETERS_MAX}, not {}", known + new));
        }
    }

    fn exchange(&mut self, exchange: &'a ImportedExchange) {
        let host = match self.host(&exchange.virtual_host) {
            Ok(host) => host,
            Err(reason) => return self.refuse("exchange", &exchange.name, reason),
        };
        if host.is_some_and(|host| host.exchange(&exchange.name).is_some()) {
            return;
        }
        if exchange.name.starts_with("amq.") {
            let reason = "its name has the reserved prefix 'amq.'";
            return self.refuse("exchange", &exchange.name, reason);
        }
        let resource =
            Resource { kind: "exchange", name: &exchange.name, virtual_host: &exchange.virtual_host };
        let checked = alternate_exchange(&exchange.arguments, resource)
            .and_then(|_| ExchangeArguments::parse(exchange.kind, &exchange.arguments, resource));
        match checked {
            Err(refusal) => self.refuse("exchange", &exchange.name, refusal.text),
            Ok(arguments) => {
                let key = (&*exchange.virtual_host, &*exchange.name);
                self.exchanges.insert(key, Bindings::with_arguments(&arguments));
            }
        }
    }

    fn queue(&mut self, queue: &'a ImportedQueue) {
        let host = match self.host(&queue.virtual_host) {
            Ok(host) => host,
            Err(reason) => return self.refuse("queue", &queue.name, reason),
        };
        if host.is_some_and(|host| host.queue(&queue.name).is_some()) {
            return;
        }
        let resource = Resource { kind: "queue", name: &queue.name, virtual_host: &queue.virtual_host };
        let checked = QueueArguments::parse(&queue.arguments, resource)
            .and_then(|arguments| arguments.check_properties(&queue.spec(), queue.is_generated(), resource));
        match checked {
            Err(refusal) => self.refuse("queue", &queue.name, refusal.text),
            Ok(()) => drop(self.queues.insert((&queue.virtual_host, &queue.name))),
        }
    }

    /// Whether all new queues have room.
    fn queue_limits(&mut self, import: &Import) {
        let mut by_host: HashMap<&str, u64> = HashMap::new();
        for (host, _) in &self.queues {
            *by_host.entry(host).or_default() += 1;
        }
        let imported: HashMap<&str, Option<u32>> =
            import.hosts.iter().filter_map(|host| Some((&*host.name, host.limits?[1]))).collect();
        let mut over = Vec::new();
        for (name, new) in by_host {
            let host = self.broker.virtual_host(name);
            let current = host.as_ref().and_then(|host| host.queues_max());
            let max = imported.get(name).copied().unwrap_or(current);
            let count = host.map_or(0, |host| host.queue_count()) + new;
            if let Some(max) = max.filter(|max| count > u64::from(*max)) {
                over.push((name.to_owned(), format!("it may have {max} queues, not {count}")));
            }
        }
        for (name, reason) in over {
            self.refuse("vhost", &name, reason);
        }
        if let Some(max) = self.broker.limits.queues_max {
            let hosts = self.broker.virtual_hosts();
            let count = hosts.iter().map(|host| host.queue_count()).sum::<u64>() + self.queues.len() as u64;
            if count > u64::from(max) {
                self.refuse("queues", "", format!("the node may have {max}, not {count}"));
            }
        }
    }

    fn binding(&mut self, binding: &Binding) {
        let name = format!("{} -> {}", binding.source, binding.destination);
        if let Err(reason) = self.check_binding(binding) {
            self.refuse("binding", &name, reason);
        }
    }

    fn check_binding(&self, binding: &Binding) -> Result<(), String> {
        let host = self.host(&binding.virtual_host)?;
        let (source, destination) = (&*binding.source, &*binding.destination);
        let key = (&*binding.virtual_host, destination);
        let is_there = if binding.to_exchange {
            let known = host.as_ref().is_some_and(|host| host.exchange(destination).is_some());
            known || VirtualHost::is_predeclared(destination) || self.exchanges.contains_key(&key)
        } else {
            host.as_ref().is_some_and(|host| host.queue(destination).is_some()) || self.queues.contains(&key)
        };
        if !is_there {
            let kind = if binding.to_exchange { "exchange" } else { "queue" };
            return Err(format!("there is no {kind} '{destination}'"));
        }
        let (binding_key, arguments) = (&binding.binding_key, &binding.arguments);
        let checked = if let Some(exchange) = host.and_then(|host| host.exchange(source)) {
            exchange.check_binding(binding_key, arguments)
        } else if let Some(bindings) = self.exchanges.get(&(&*binding.virtual_host, source)) {
            bindings.check(binding_key, arguments)
        } else if let Some(kind) = VirtualHost::predeclared(source) {
            Bindings::<Destination>::new(kind).check(binding_key, arguments)
        } else {
            return Err(format!("there is no exchange '{source}'"));
        };
        checked.map_err(|invalid| invalid.to_string())
    }
}

impl ImportedQueue {
    fn spec(&self) -> QueueSpec<'_> {
        QueueSpec {
            name: &self.name,
            durable: self.durable,
            exclusive: false,
            auto_delete: self.auto_delete,
            arguments: self.arguments.clone(),
        }
    }

    /// Whether a broker has made up the name.
    fn is_generated(&self) -> bool {
        self.name.starts_with("amq.")
    }
}

/// Exchanges, queues and bindings on their way into the broker.
struct Declaring<'a> {
    broker: &'a Broker,
    user: Option<&'a Arc<str>>,
    now: Now,
    effects: Effects,
    count: usize,
}

impl Declaring<'_> {
    fn restart(&mut self) {
        self.effects = Effects { now: self.now, user: self.user.cloned(), ..Effects::default() };
    }

    fn conclude(&mut self) {
        self.broker.conclude(std::mem::take(&mut self.effects));
        self.restart();
    }

    fn host(&mut self, name: &str) -> Result<Arc<VirtualHost>, String> {
        self.count += 1;
        if self.count.is_multiple_of(CONCLUDED_AT_A_TIME) {
            self.conclude();
        }
        self.broker.virtual_host(name).ok_or_else(|| format!("there is no virtual host '{name}'"))
    }

    fn exchange(&mut self, exchange: &ImportedExchange) -> Result<(), Refused> {
        let refused = |reason| Refused { kind: "exchange", name: exchange.name.to_string(), reason };
        let host = self.host(&exchange.virtual_host).map_err(refused)?;
        if host.exchange(&exchange.name).is_some() {
            return Ok(());
        }
        let spec = ExchangeSpec {
            name: &exchange.name,
            kind: exchange.kind,
            durable: exchange.durable,
            auto_delete: exchange.auto_delete,
            internal: exchange.internal,
            arguments: exchange.arguments.clone(),
        };
        host.declare_exchange(&spec, &mut self.effects).map_err(|refusal| refused(refusal.text))
    }

    fn queue(&mut self, queue: &ImportedQueue) -> Result<(), Refused> {
        let refused = |reason| Refused { kind: "queue", name: queue.name.to_string(), reason };
        let host = self.host(&queue.virtual_host).map_err(refused)?;
        if host.queue(&queue.name).is_some() {
            return Ok(());
        }
        // No connection has that identity.
        let nobody = ConnectionId(0);
        let made = host.declare_queue(&queue.spec(), queue.is_generated(), nobody, &mut self.effects);
        let made = made.map_err(|refusal| refused(refusal.text))?;
        made.used(self.now);
        self.broker.watch_use(&made, self.now);
        Ok(())
    }

    fn binding(&mut self, binding: &Binding) -> Result<(), Refused> {
        let name = format!("{} -> {}", binding.source, binding.destination);
        let refused = |reason| Refused { kind: "binding", name, reason };
        let host = match self.host(&binding.virtual_host) {
            Ok(host) => host,
            Err(reason) => return Err(refused(reason)),
        };
        let destination = if binding.to_exchange {
            host.exchange(&binding.destination).map(Destination::Exchange)
        } else {
            host.queue(&binding.destination).map(Destination::Queue)
        };
        let Some(destination) = destination else {
            return Err(refused("its destination is gone".to_owned()));
        };
        let (source, binding_key, arguments) = (&*binding.source, &*binding.binding_key, &binding.arguments);
        let spec = BindingSpec { source, binding_key, arguments };
        // What the source keeps for whoever is bound goes to those who bind, not to those who import.
        host.bind(&destination, spec, &mut self.effects).map(drop).map_err(|refusal| refused(refusal.text))
    }
}
