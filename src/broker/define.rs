//! Changes to virtual hosts, users and permissions. Each is in the journal, in one order, before it can be seen.

use std::sync::Arc;

use super::{
    Broker, Now,
    definition::Definition,
    effects::Effects,
    event,
    journal::{Fact, Lsn},
    permission::{Permission, TopicPermission},
    policy::{Policy, PolicyKind},
    user::User,
    vhost::VirtualHost,
};

/// There is no virtual host of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("virtual host '{0}' does not exist")]
pub struct NoVirtualHost(pub String);

/// Each change returns the number of its fact, to be waited for, or `Lsn(0)` if there was nothing to change.
impl Broker {
    /// Adds a virtual host, or changes the limits of the one of that name.
    pub fn add_virtual_host(&self, name: &str, connections_max: Option<u32>, queues_max: Option<u32>) -> Lsn {
        let is_same = || {
            let host = self.virtual_host(name)?;
            let connections = self.counts.virtual_host_max(name)?;
            Some((connections, host.queues_max()) == (connections_max, queues_max))
        };
        let definition = Definition::VirtualHostPut { name: name.into(), connections_max, queues_max };
        self.change(definition, || is_same() != Some(true))
    }

    /// Adds a user, or replaces the one of that name. Connections that are open keep what they were given.
    pub fn put_user(&self, user: User) -> Lsn {
        let user = Arc::new(user);
        self.change(Definition::UserPut(Arc::clone(&user)), || self.users.get(&user.name) != Some(user))
    }

    /// Deletes a user with all permissions. Connections that are open stay.
    pub fn delete_user(&self, name: &str) -> Lsn {
        let definition = Definition::UserDeleted { name: name.into() };
        self.change(definition, || self.users.get(name).is_some())
    }

    /// Gives a user that permission in a virtual host, in place of the one there was.
    pub fn grant(&self, user: &str, virtual_host: &str, permission: Permission) -> Lsn {
        let definition = Definition::PermissionPut {
            user: user.into(),
            virtual_host: virtual_host.into(),
            permission: permission.clone(),
        };
        self.change(definition, || self.permissions.get(user, virtual_host) != Some(permission))
    }

    /// Takes the permission of a user in a virtual host away. Topic permissions stay.
    pub fn revoke(&self, user: &str, virtual_host: &str) -> Lsn {
        let definition =
            Definition::PermissionDeleted { user: user.into(), virtual_host: virtual_host.into() };
        self.change(definition, || self.permissions.get(user, virtual_host).is_some())
    }

    /// Gives a user that topic permission for an exchange, in place of the one there was.
    pub fn grant_topic(
        &self,
        user: &str,
        virtual_host: &str,
        exchange: &str,
        permission: TopicPermission,
    ) -> Lsn {
        let definition = Definition::TopicPermissionPut {
            user: user.into(),
            virtual_host: virtual_host.into(),
            exchange: exchange.into(),
            permission: permission.clone(),
        };
        self.change(definition, || {
            self.permissions.get_topic(user, virtual_host, exchange) != Some(permission)
        })
    }

    /// Takes the topic permission of a user for an exchange away.
    pub fn revoke_topic(&self, user: &str, virtual_host: &str, exchange: &str) -> Lsn {
        let definition = Definition::TopicPermissionDeleted {
            user: user.into(),
            virtual_host: virtual_host.into(),
            exchange: exchange.into(),
        };
        self.change(definition, || self.permissions.get_topic(user, virtual_host, exchange).is_some())
    }

    /// Adds a policy to a virtual host, or replaces the one of its kind and name. It acts at once on what is there.
    ///
    /// # Errors
    /// If there is no such virtual host.
    pub fn put_policy(&self, virtual_host: &str, policy: Policy, now: Now) -> Result<Lsn, NoVirtualHost> {
        self.change_policies(virtual_host, now, |host, effects| host.put_policy(Arc::new(policy), effects))
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
        now: Now,
    ) -> Result<Lsn, NoVirtualHost> {
        self.change_policies(virtual_host, now, |host, effects| host.delete_policy(kind, name, effects))
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
        self.change_policies(virtual_host, now, configure).map(drop)
    }

    fn change_policies(
        &self,
        virtual_host: &str,
        now: Now,
        change: impl FnOnce(&VirtualHost, &mut Effects) -> bool,
    ) -> Result<Lsn, NoVirtualHost> {
        let host = self.virtual_host(virtual_host).ok_or_else(|| NoVirtualHost(virtual_host.to_owned()))?;
        let mut effects = Effects { now, ..Effects::default() };
        if change(&host, &mut effects) {
            // A queue that did not expire may do so now, or sooner.
            host.queues().iter().for_each(|queue| self.watch_use(queue, now));
        }
        let recorded = effects.recorded;
        self.conclude(effects);
        Ok(recorded)
    }

    /// Records a definition and applies it, if it changes anything: one at a time, so that the journal has them in the
    /// order in which they took effect.
    fn change(&self, definition: Definition, is_change: impl FnOnce() -> bool) -> Lsn {
        let _order = self.definitions.lock().expect("invariant: no panic while something is defined");
        if !is_change() {
            return Lsn(0);
        }
        let last = self.journal.append(&mut vec![Fact::Define(definition.clone())]);
        let events = self.events_of(&definition);
        self.apply(definition);
        events.into_iter().for_each(|event| self.tell(|_| event));
        last
    }

    /// Applies a definition of a virtual host, a user or a permission. Others are of a virtual host's own.
    pub(super) fn apply(&self, definition: Definition) {
        use Definition as D;
        match definition {
            D::VirtualHostPut { name, connections_max, queues_max } => {
                self.put_virtual_host(&name, connections_max, queues_max);
            }
            D::VirtualHostDeleted { name } => {
                self.virtual_hosts.remove(&name);
                if *name == *event::VIRTUAL_HOST {
                    self.events.set_watched(false);
                }
                self.permissions.remove_vhost(&name);
            }
            D::UserPut(user) => {
                self.counts.limit_user(&user);
                self.users.put(user);
            }
            D::UserDeleted { name } => {
                self.users.remove(&name);
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
    use crate::broker::{
        tests::broker,
        user::{HashingAlgorithm, PasswordHash},
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
        let changes: [(Change, &str); 13] = [
            (|b| b.add_virtual_host("v", None, None), "VirtualHostPut"),
            (|b| b.add_virtual_host("v", Some(3), None), "VirtualHostPut"),
            (|b| b.add_virtual_host("v", Some(3), Some(4)), "VirtualHostPut"),
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
}
