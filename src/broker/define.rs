//! Changes to virtual hosts, users and permissions. Each is in the journal, in one order, before it can be seen.

use std::sync::{Arc, PoisonError};

use serde_json::Value;
use tracing::info;

use super::{
    Broker, Now,
    definition::Definition,
    effects::Effects,
    event,
    journal::{Fact, Lsn},
    parameter::{Hidden, Parameter, TooManyParameters, ValueTooLarge, check_value},
    permission::{Permission, TopicPermission},
    policy::{Policy, PolicyKind},
    user::User,
    vhost::VirtualHost,
};

/// There is no virtual host of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("virtual host '{0}' does not exist")]
pub struct NoVirtualHost(pub String);

/// The virtual host may not be deleted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("vhost '{0}' is protected from deletion")]
pub struct Protected(pub String);
/// Why a parameter can't be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// Its virtual host does not exist.
    #[error(transparent)]
    NoVirtualHost(#[from] NoVirtualHost),
    /// There is no room for it.
    #[error(transparent)]
    TooMany(#[from] TooManyParameters),
    /// It says too much.
    #[error(transparent)]
    TooLarge(#[from] ValueTooLarge),
}

/// Each change returns the number of its fact, to be waited for, or `Lsn(0)` if there was nothing to change.
impl Broker {
    /// Adds a virtual host, or changes the limits of the one of that name.
    pub fn add_virtual_host(&self, name: &str, connections_max: Option<u32>, queues_max: Option<u32>) -> Lsn {
        self.define(Definition::VirtualHostPut { name: name.into(), connections_max, queues_max })
    }

    /// Deletes a virtual host with everything in it. Its connections are closed.
    ///
    /// # Errors
    /// If it is protected.
    pub fn delete_virtual_host(
        &self,
        name: &str,
        user: Option<&Arc<str>>,
        now: Now,
    ) -> Result<Lsn, Protected> {
        let Some(host) = self.virtual_host(name) else { return Ok(Lsn(0)) };
        if host.metadata().is_protected {
            return Err(Protected(name.to_owned()));
        }
        let mut effects = Effects { now, user: user.cloned(), ..Effects::default() };
        host.close(&mut effects);
        self.conclude(effects);
        let is_same = |current: Arc<VirtualHost>| Arc::ptr_eq(&current, &host);
        Ok(self.change(user.map(|user| &**user), || {
            let still_there = self.virtual_host(name).is_some_and(is_same);
            still_there.then(|| Definition::VirtualHostDeleted { name: name.into() })
        }))
    }

    /// Adds a user, or replaces the one of that name. Connections that are open go by the new tags.
    pub fn put_user(&self, user: User) -> Lsn {
        self.define(Definition::UserPut(Arc::new(user)))
    }

    /// Deletes a user with all permissions, and closes the user's connections.
    pub fn delete_user(&self, name: &str) -> Lsn {
        self.define(Definition::UserDeleted { name: name.into() })
    }

    /// Gives a user that permission in a virtual host, in place of the one there was.
    pub fn grant(&self, user: &str, virtual_host: &str, permission: Permission) -> Lsn {
        self.define(Definition::PermissionPut {
            user: user.into(),
            virtual_host: virtual_host.into(),
            permission,
        })
    }

    /// Takes the permission of a user in a virtual host away. Topic permissions stay.
    pub fn revoke(&self, user: &str, virtual_host: &str) -> Lsn {
        self.define(Definition::PermissionDeleted { user: user.into(), virtual_host: virtual_host.into() })
    }

    /// Gives a user that topic permission for an exchange, in place of the one there was.
    pub fn grant_topic(
        &self,
        user: &str,
        virtual_host: &str,
        exchange: &str,
        permission: TopicPermission,
    ) -> Lsn {
        self.define(Definition::TopicPermissionPut {
            user: user.into(),
            virtual_host: virtual_host.into(),
            exchange: exchange.into(),
            permission,
        })
    }

    /// Takes the topic permission of a user for an exchange away.
    pub fn revoke_topic(&self, user: &str, virtual_host: &str, exchange: &str) -> Lsn {
        self.define(Definition::TopicPermissionDeleted {
            user: user.into(),
            virtual_host: virtual_host.into(),
            exchange: exchange.into(),
        })
    }

    /// Adds a policy to a virtual host, or replaces the one of its kind and name. It acts at once on what is there.
    ///
    /// # Errors
    /// If there is no such virtual host.
    pub fn put_policy(
        &self,
        virtual_host: &str,
        policy: Policy,
        user: Option<&Arc<str>>,
        now: Now,
    ) -> Result<Lsn, NoVirtualHost> {
        let put = |host: &VirtualHost, effects: &mut Effects| host.put_policy(Arc::new(policy), effects);
        self.change_policies(virtual_host, user, now, put)
    }

    /// Deletes a policy. What it said does not act any more.
    ///
    /// # Errors
    /// If there is no such virtual host.
    pub fn delete_policy(
        &self,
        virtual_host: &str,
        kind: PolicyKind,
        name: &str,
        user: Option<&Arc<str>>,
        now: Now,
    ) -> Result<Lsn, NoVirtualHost> {
        let delete = |host: &VirtualHost, effects: &mut Effects| host.delete_policy(kind, name, effects);
        self.change_policies(virtual_host, user, now, delete)
    }

    /// Adds the policies that the configuration has for a virtual host. They are not recorded, and one that is recorded
    /// under the same name counts.
    ///
    /// # Errors
    /// If there is no such virtual host.
    pub fn configure_policies(
        &self,
        virtual_host: &str,
        policies: Vec<Policy>,
        now: Now,
    ) -> Result<(), NoVirtualHost> {
        let configure = |host: &VirtualHost, effects: &mut Effects| {
            host.configure_policies(policies, effects);
            true
        };
        self.change_policies(virtual_host, None, now, configure).map(drop)
    }

    /// Sets a parameter of a virtual host, in place of the one of its component and name.
    ///
    /// # Errors
    /// If there is no such virtual host, there are too many parameters, or the value is too large.
    pub fn put_parameter(&self, parameter: Parameter) -> Result<Lsn, ParameterError> {
        let Parameter { virtual_host, component, name, value, .. } = &parameter;
        check_value(value)?;
        if self.virtual_host(virtual_host).is_none() {
            return Err(NoVirtualHost(virtual_host.to_string()).into());
        }
        let before = self.parameters.get(virtual_host, component, name);
        if before.is_none() && !self.parameters.has_room() {
            return Err(TooManyParameters.into());
        }
        let parameter = Arc::new(parameter);
        let definition = Definition::ParameterPut(Arc::clone(&parameter));
        // One that is deleted meanwhile takes nothing over to its successor.
        let is_there = || self.virtual_host(&parameter.virtual_host).is_some();
        Ok(self.change(parameter.set_by.as_deref(), || is_there().then_some(definition)))
    }

    /// Deletes a parameter of a virtual host.
    pub fn delete_parameter(&self, virtual_host: &str, component: &str, name: &str) -> Lsn {
        let definition = Definition::ParameterDeleted {
            virtual_host: virtual_host.into(),
            component: component.into(),
            name: name.into(),
        };
        self.define(definition)
    }

    /// Sets a global parameter, in place of the one of its name.
    ///
    /// # Errors
    /// If there are too many parameters, or the value is too large.
    pub fn put_global_parameter(&self, name: &str, value: Value) -> Result<Lsn, ParameterError> {
        check_value(&value)?;
        let before = self.parameters.global(name);
        if before.is_none() && !self.parameters.has_room() {
            return Err(TooManyParameters.into());
        }
        Ok(self.define(Definition::GlobalParameterPut { name: name.into(), value: Hidden(Arc::new(value)) }))
    }

    /// Deletes a global parameter.
    pub fn delete_global_parameter(&self, name: &str) -> Lsn {
        let definition = Definition::GlobalParameterDeleted { name: name.into() };
        self.define(definition)
    }

    fn change_policies(
        &self,
        virtual_host: &str,
        user: Option<&Arc<str>>,
        now: Now,
        change: impl FnOnce(&VirtualHost, &mut Effects) -> bool,
    ) -> Result<Lsn, NoVirtualHost> {
        let host = self.virtual_host(virtual_host).ok_or_else(|| NoVirtualHost(virtual_host.to_owned()))?;
        let mut effects = Effects { now, user: user.cloned(), ..Effects::default() };
        if change(&host, &mut effects) {
            // A queue that did not expire may do so now, or sooner.
            host.queues().iter().for_each(|queue| self.watch_use(queue, now));
        }
        let recorded = effects.recorded;
        self.conclude(effects);
        Ok(recorded)
    }

    /// Records a definition of a virtual host, a user or a permission and applies it, if it changes anything.
    pub fn define(&self, definition: Definition) -> Lsn {
        self.change(None, || Some(definition))
    }

    /// Records what `make` says and applies it, if it changes anything: one at a time, so that the journal has them in
    /// the order in which they took effect, and that `make` can look at what there is.
    pub fn change(&self, user: Option<&str>, make: impl FnOnce() -> Option<Definition>) -> Lsn {
        let _order = self.definitions.lock().expect("invariant: no panic while something is defined");
        let Some(definition) = make().filter(|definition| self.is_change(definition)) else { return Lsn(0) };
        let last = self.journal.append(&mut vec![Fact::Define(definition.clone())]);
        let events = self.events_of(&definition, user);
        if let Some(text) = definition.summary() {
            info!(by = user, "{text}");
        }
        self.apply(definition);
        events.into_iter().for_each(|event| self.tell(|_| event));
        last
    }

    fn is_change(&self, definition: &Definition) -> bool {
        use Definition as D;
        let permissions = &self.permissions;
        match definition {
            D::VirtualHostPut { name, connections_max, queues_max } => {
                let host = self.virtual_host(name);
                let limits =
                    host.and_then(|host| Some((self.counts.virtual_host_max(name)?, host.queues_max())));
                limits != Some((*connections_max, *queues_max))
            }
            D::VirtualHostDescribed { name, metadata } => {
                self.virtual_host(name).is_some_and(|host| host.metadata() != *metadata)
            }
            D::VirtualHostDeleted { name } => self.virtual_host(name).is_some(),
            D::UserPut(user) => self.users.get(&user.name).as_ref() != Some(user),
            D::UserDeleted { name } => self.users.get(name).is_some(),
            D::PermissionPut { user, virtual_host, permission } => {
                permissions.get(user, virtual_host).as_ref() != Some(permission)
            }
            D::PermissionDeleted { user, virtual_host } => permissions.get(user, virtual_host).is_some(),
            D::TopicPermissionPut { user, virtual_host, exchange, permission } => {
                permissions.get_topic(user, virtual_host, exchange).as_ref() != Some(permission)
            }
            D::TopicPermissionDeleted { user, virtual_host, exchange } => {
                permissions.get_topic(user, virtual_host, exchange).is_some()
            }
            D::FileLoaded { digest } => self.loaded_file() != Some(*digest),
            D::ParameterPut(parameter) => {
                let Parameter { virtual_host, component, name, .. } = &**parameter;
                self.parameters.get(virtual_host, component, name).as_ref() != Some(parameter)
            }
            D::ParameterDeleted { virtual_host, component, name } => {
                self.parameters.get(virtual_host, component, name).is_some()
            }
            D::GlobalParameterPut { name, value } => self.parameters.global(name).as_ref() != Some(&value.0),
            D::GlobalParameterDeleted { name } => self.parameters.global(name).is_some(),
            D::QueueDeclared { .. }
            | D::QueueDeleted { .. }
            | D::ExchangeDeclared { .. }
            | D::ExchangeDeleted { .. }
            | D::Bound(_)
            | D::Unbound(_)
            | D::PolicyPut { .. }
            | D::PolicyDeleted { .. } => false,
        }
    }

    /// The SHA-256 of the file of definitions that was loaded at a start, if one was.
    pub fn loaded_file(&self) -> Option<[u8; 32]> {
        *self.loaded_file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a definition of a virtual host, a user or a permission. Others are of a virtual host's own.
    pub(super) fn apply(&self, definition: Definition) {
        use Definition as D;
        match definition {
            D::VirtualHostPut { name, connections_max, queues_max } => {
                self.put_virtual_host(&name, connections_max, queues_max);
            }
            D::VirtualHostDescribed { name, metadata } => {
                if let Some(host) = self.virtual_host(&name) {
                    host.describe(metadata);
                }
            }
            D::FileLoaded { digest } => {
                *self.loaded_file.lock().unwrap_or_else(PoisonError::into_inner) = Some(digest);
            }
            D::VirtualHostDeleted { name } => {
                self.virtual_hosts.remove(&name);
                self.counts.forget_virtual_host(&name);
                let reason = format!("vhost '{name}' is deleted");
                self.connections.close_where(|status| *status.virtual_host == *name, &reason);
                if *name == *event::VIRTUAL_HOST {
                    self.events.set_watched(false);
                }
                self.permissions.remove_vhost(&name);
                self.parameters.remove_virtual_host(&name);
            }
            D::UserPut(user) => {
                self.counts.limit_user(&user);
                self.users.put(user);
            }
            D::UserDeleted { name } => {
                self.users.remove(&name);
                let reason = format!("user '{name}' is deleted");
                self.connections.close_where(|status| *status.user == *name, &reason);
                self.permissions.remove_user(&name);
            }
            D::PermissionPut { user, virtual_host, permission } => {
                self.permissions.grant(&user, &virtual_host, permission);
            }
            D::PermissionDeleted { user, virtual_host } => self.permissions.revoke(&user, &virtual_host),
            D::TopicPermissionPut { user, virtual_host, exchange, permission } => {
                self.permissions.grant_topic(&user, &virtual_host, &exchange, permission);
            }
            D::TopicPermissionDeleted { user, virtual_host, exchange } => {
                self.permissions.revoke_topic(&user, &virtual_host, &exchange);
            }
            D::ParameterPut(parameter) => self.parameters.put(parameter),
            D::ParameterDeleted { virtual_host, component, name } => {
                self.parameters.remove(&virtual_host, &component, &name);
            }
            D::GlobalParameterPut { name, value } => self.parameters.put_global(&name, value),
            D::GlobalParameterDeleted { name } => self.parameters.remove_global(&name),
            D::QueueDeclared { .. }
            | D::QueueDeleted { .. }
            | D::ExchangeDeclared { .. }
            | D::ExchangeDeleted { .. }
            | D::Bound(_)
            | D::Unbound(_)
            | D::PolicyPut { .. }
            | D::PolicyDeleted { .. } => {}
        }
    }

    fn put_virtual_host(&self, name: &str, connections_max: Option<u32>, queues_max: Option<u32>) {
        self.counts.limit_virtual_host(name, connections_max);
        let host = self.virtual_hosts.entry(name.into()).or_insert_with(|| {
            let (ids, journal) = (Arc::clone(&self.ids), Arc::clone(&self.journal));
            let (pager, queue_count) = (Arc::clone(&self.pager), Arc::clone(&self.queue_count));
            let events = Arc::clone(&self.events);
            Arc::new(VirtualHost::new(name, ids, journal, pager, events, queues_max, queue_count))
        });
        host.set_queues_max(queues_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        amqp::Table,
        broker::{
            outbox::ConnectionId,
            queue::QueueKind,
            tests::broker,
            user::{HashingAlgorithm, PasswordHash},
            vhost::{Metadata, QueueSpec},
        },
    };

    fn user(salt: u8, password: &str) -> User {
        User {
            name: "ann".into(),
            password: PasswordHash::new(HashingAlgorithm::Sha256, [salt; 4], password.as_bytes()),
            tags: vec!["monitoring".into()],
            loopback_only: false,
            connections_max: None,
            channels_max: None,
        }
    }

    fn permission(pattern: &str) -> Permission {
        Permission::new(pattern, pattern, pattern).expect("a pattern")
    }

    fn topic(pattern: &str) -> TopicPermission {
        TopicPermission::new("ann", "/", pattern, pattern).expect("a pattern")
    }

    fn described(description: &str) -> Definition {
        let metadata = Metadata { description: description.to_owned(), ..Metadata::default() };
        Definition::VirtualHostDescribed { name: "v".into(), metadata: Arc::new(metadata) }
    }

    #[test]
    fn a_virtual_host_goes_with_all_that_is_in_it_unless_it_is_protected() {
        let broker = broker();
        broker.add_virtual_host("v", None, None);
        let host = broker.virtual_host("v").expect("it was added");
        let (mut effects, arguments) = (Effects::default(), Table::default());
        let spec = QueueSpec { name: "q", durable: true, exclusive: false, auto_delete: false, arguments };
        let queue = host.declare_queue(&spec, false, ConnectionId(1), &mut effects).expect("a sound queue");
        let protected = Metadata { is_protected: true, ..Metadata::default() };
        broker.define(Definition::VirtualHostDescribed { name: "v".into(), metadata: protected.into() });
        assert_eq!(broker.delete_virtual_host("v", None, Now::default()), Err(Protected("v".into())));
        broker.define(described("d"));
        recorded(&broker);
        assert_ne!(broker.delete_virtual_host("v", None, Now::default()), Ok(Lsn(0)));
        assert!(broker.virtual_host("v").is_none() && queue.lock().is_deleted());
        let definitions = recorded(&broker);
        let [first, .., last] = &definitions[..] else { panic!("{definitions:?}") };
        assert!(matches!(first, Definition::QueueDeleted { id } if *id == queue.id), "{definitions:?}");
        assert!(matches!(last, Definition::VirtualHostDeleted { .. }), "{definitions:?}");
        let refused = host.declare_queue(&spec, false, ConnectionId(1), &mut effects);
        assert_eq!(refused.expect_err("it is closed").reply_text(), "NOT_ALLOWED - vhost 'v' is deleted");
        assert_eq!(broker.delete_virtual_host("v", None, Now::default()), Ok(Lsn(0)), "it is gone");
    }

    #[test]
    fn queues_that_say_no_type_get_the_default_one_where_it_fits() {
        let broker = broker();
        broker.add_virtual_host("v", None, None);
        let host = broker.virtual_host("v").expect("it was added");
        let mut effects = Effects::default();
        let mut declare = |name: &str, durable: bool, kind: Option<&str>| {
            let arguments = kind.map(|kind| ("x-queue-type".to_owned(), kind.into()));
            let arguments = arguments.into_iter().collect();
            let spec = QueueSpec { name, durable, exclusive: false, auto_delete: false, arguments };
            let queue = host.declare_queue(&spec, false, ConnectionId(1), &mut effects);
            queue.expect(name).properties.arguments.kind
        };
        assert_eq!(declare("old", true, None), QueueKind::Classic);
        let metadata = Metadata { default_queue_type: Some(QueueKind::Quorum), ..Metadata::default() };
        broker.define(Definition::VirtualHostDescribed { name: "v".into(), metadata: metadata.into() });
        assert_eq!(declare("new", true, None), QueueKind::Quorum);
        assert_eq!(declare("new", true, None), QueueKind::Quorum, "declared again");
        assert_eq!(declare("old", true, None), QueueKind::Classic, "older than the default");
        assert_eq!(declare("transient", false, None), QueueKind::Classic, "no quorum queue is transient");
    }

    fn parameter(virtual_host: &str, value: i32) -> Parameter {
        let (component, name) = ("shovel".into(), "s".into());
        Parameter { virtual_host: virtual_host.into(), component, name, value: value.into(), set_by: None }
    }

    #[test]
    fn parameters_need_a_virtual_host_and_are_bounded() {
        use crate::broker::parameter::{PARAMETERS_MAX, VALUE_BYTES_MAX};
        let broker = broker();
        let none = NoVirtualHost("none".into());
        assert_eq!(broker.put_parameter(parameter("none", 1)), Err(none.into()));
        broker.add_virtual_host("v", None, None);
        assert!(broker.put_parameter(parameter("v", 1)).is_ok());
        for number in 1..PARAMETERS_MAX {
            assert!(broker.put_global_parameter(&number.to_string(), 1.into()).is_ok());
        }
        assert_eq!(broker.put_global_parameter("more", 1.into()), Err(TooManyParameters.into()));
        // Two quotes belong to it.
        let text = |len| Value::String("x".repeat(len));
        assert!(broker.put_global_parameter("1", text(VALUE_BYTES_MAX - 2)).is_ok());
        let refused = broker.put_global_parameter("1", text(VALUE_BYTES_MAX - 1));
        assert!(matches!(refused, Err(ParameterError::TooLarge(_))), "{refused:?}");
        assert!(broker.put_parameter(parameter("v", 2)).is_ok());
    }

    /// What was recorded since the last call.
    fn recorded(broker: &Broker) -> Vec<Definition> {
        let facts = broker.journal.try_take_batch().map(|batch| batch.facts).unwrap_or_default();
        let definitions = facts.into_iter().map(|fact| match fact {
            Fact::Define(definition) => definition,
            fact => panic!("{fact:?}"),
        });
        definitions.collect()
    }

    #[test]
    fn every_change_is_recorded_once() {
        let broker = broker();
        type Change = fn(&Broker) -> Lsn;
        let changes: [(Change, &str); 21] = [
            (|b| b.add_virtual_host("v", None, None), "VirtualHostPut"),
            (|b| b.add_virtual_host("v", Some(3), None), "VirtualHostPut"),
            (|b| b.add_virtual_host("v", Some(3), Some(4)), "VirtualHostPut"),
            (|b| b.define(described("d")), "VirtualHostDescribed"),
            (|b| b.put_user(user(1, "pw")), "UserPut"),
            (|b| b.put_user(User { channels_max: Some(1), ..user(1, "pw") }), "UserPut"),
            (|b| b.put_user(user(2, "pw")), "UserPut"),
            (|b| b.grant("ann", "v", permission("a")), "PermissionPut"),
            (|b| b.grant("ann", "v", permission("b")), "PermissionPut"),
            (|b| b.grant_topic("ann", "v", "x", topic("a")), "TopicPermissionPut"),
            (|b| b.grant_topic("ann", "v", "x", topic("b")), "TopicPermissionPut"),
            (|b| b.revoke_topic("ann", "v", "x"), "TopicPermissionDeleted"),
            (|b| b.revoke("ann", "v"), "PermissionDeleted"),
            (|b| b.delete_user("ann"), "UserDeleted"),
            (|b| b.define(Definition::FileLoaded { digest: [1; 32] }), "FileLoaded"),
            (|b| b.put_parameter(parameter("v", 1)).expect("room"), "ParameterPut"),
            (|b| b.put_parameter(parameter("v", 2)).expect("room"), "ParameterPut"),
            (|b| b.delete_parameter("v", "shovel", "s"), "ParameterDeleted"),
            (|b| b.put_global_parameter("g", 1.into()).expect("room"), "GlobalParameterPut"),
            (|b| b.put_global_parameter("g", 2.into()).expect("room"), "GlobalParameterPut"),
            (|b| b.delete_global_parameter("g"), "GlobalParameterDeleted"),
        ];
        for (number, (change, kind)) in (1..).zip(changes) {
            assert_eq!(change(&broker), Lsn(number), "{kind}");
            let definitions = format!("{:?}", recorded(&broker));
            assert!(definitions.starts_with(&format!("[{kind}")), "{definitions}");
            assert_eq!(change(&broker), Lsn(0), "{kind} again");
            assert_eq!(recorded(&broker).len(), 0, "{kind} again");
        }
        let host = broker.virtual_host("v").expect("it was added");
        assert_eq!((host.queues_max(), broker.counts.virtual_host_max("v")), (Some(4), Some(Some(3))));
    }

    #[test]
    fn limits_change_for_who_is_there() {
        let broker = broker();
        broker.add_virtual_host("v", Some(1), None);
        let user = user(1, "pw");
        let first = broker.counts.open_connection(&user, "v").expect("the first");
        assert!(broker.counts.open_connection(&user, "v").is_err());
        broker.add_virtual_host("v", Some(2), None);
        let second = broker.counts.open_connection(&user, "v").expect("the second");
        broker.put_user(User { connections_max: Some(2), ..user.clone() });
        broker.add_virtual_host("v", None, None);
        assert!(broker.counts.open_connection(&user, "v").is_err());
        drop((first, second));
        assert!(broker.counts.open_connection(&user, "v").is_ok());
    }

    /// RabbitMQ 3.10.8.
    #[test]
    fn the_connections_of_what_is_deleted_are_closed() {
        use crate::{
            amqp::Table,
            broker::{
                connections::{ConnectionStatus, Opening},
                event::Ends,
            },
        };
        let broker = broker();
        let nowhere = ([127, 0, 0, 1], 0).into();
        let open = |user: &str, host: &str| {
            let outbox = broker.open_outbox();
            let ends = Ends { peer: nowhere, local: nowhere };
            let status = Arc::new(ConnectionStatus::new(Opening {
                outbox,
                ends,
                is_internal: false,
                user: user.into(),
                virtual_host: host.into(),
                mechanism: "PLAIN",
                client_properties: &Table::default(),
                channel_max: 0,
                frame_max: 0,
                heartbeat_secs: 0,
                connected_ms: 0,
                tls: None,
            }));
            broker.connections.insert(Arc::clone(&status));
            status
        };
        broker.put_user(user(1, "pw"));
        let (ann, v, other) = (open("ann", "/"), open("bob", "v"), open("bob", "/"));
        broker.delete_user("ann");
        broker.apply(Definition::VirtualHostDeleted { name: "v".into() });
        assert_eq!(ann.take_close_reason().as_deref(), Some("user 'ann' is deleted"));
        assert_eq!(v.take_close_reason().as_deref(), Some("vhost 'v' is deleted"));
        assert_eq!(other.take_close_reason(), None);
    }
}
