//! Definitions: what clients and operators set up, and what has to be there again after a restart.

use std::sync::Arc;

use super::{
    permission::{Permission, TopicPermission},
    policy::{Policy, PolicyKind},
    queue::QueueId,
    user::User,
};
use crate::amqp::Table;

/// A change to what is defined. Replayed in order into a broker without definitions, they make the same broker.
#[derive(Clone, Debug)]
pub enum Definition {
    /// A virtual host was added, or its limits were changed.
    VirtualHostPut {
        /// Its name.
        name: Arc<str>,
        /// How many connections it takes; `None` for no limit.
        connections_max: Option<u32>,
        /// How many queues it holds; `None` for no limit.
        queues_max: Option<u32>,
    },
    /// A virtual host was deleted, with everything in it.
    VirtualHostDeleted {
        /// Its name.
        name: Arc<str>,
    },
    /// A user was added or changed.
    UserPut(Arc<User>),
    /// A user was deleted, with all permissions.
    UserDeleted {
        /// The user's name.
        name: Arc<str>,
    },
    /// A user got permissions in a virtual host, in place of those before.
    PermissionPut {
        /// The user's name.
        user: Arc<str>,
        /// The virtual host.
        virtual_host: Arc<str>,
        /// What the user may do there.
        permission: Permission,
    },
    /// A user lost the permissions in a virtual host.
    PermissionDeleted {
        /// The user's name.
        user: Arc<str>,
        /// The virtual host.
        virtual_host: Arc<str>,
    },
    /// A user got topic permissions for an exchange, in place of those before.
    TopicPermissionPut {
        /// The user's name.
        user: Arc<str>,
        /// The virtual host.
        virtual_host: Arc<str>,
        /// The exchange.
        exchange: Arc<str>,
        /// Which routing keys the user may use there.
        permission: TopicPermission,
    },
    /// A user lost the topic permissions for an exchange.
    TopicPermissionDeleted {
        /// The user's name.
        user: Arc<str>,
        /// The virtual host.
        virtual_host: Arc<str>,
        /// The exchange.
        exchange: Arc<str>,
    },
    /// A durable queue was declared.
    QueueDeclared {
        /// The virtual host.
        virtual_host: Arc<str>,
        /// Its identity in the facts about its messages.
        id: QueueId,
        /// Its name.
        name: Arc<str>,
        /// Whether it goes with its last consumer.
        auto_delete: bool,
        /// Its arguments.
        arguments: Table,
    },
    /// A durable queue was deleted, with its messages and bindings.
    QueueDeleted {
        /// The queue.
        id: QueueId,
    },
    /// A durable exchange was declared.
    ExchangeDeclared {
        /// The virtual host.
        virtual_host: Arc<str>,
        /// Its name.
        name: Arc<str>,
        /// The name of its type.
        kind: &'static str,
        /// Whether it goes with its last binding.
        auto_delete: bool,
        /// Whether clients may not publish to it.
        internal: bool,
        /// Its arguments.
        arguments: Table,
    },
    /// A durable exchange was deleted, with its bindings.
    ExchangeDeleted {
        /// The virtual host.
        virtual_host: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// A binding between durable things was made.
    Bound(Binding),
    /// A binding between durable things was removed.
    Unbound(Binding),
    /// A policy was added or changed.
    PolicyPut {
        /// The virtual host.
        virtual_host: Arc<str>,
        /// The policy.
        policy: Arc<Policy>,
    },
    /// A policy was deleted.
    PolicyDeleted {
        /// The virtual host.
        virtual_host: Arc<str>,
        /// Whose it was.
        kind: PolicyKind,
        /// Its name.
        name: Arc<str>,
    },
}

/// A binding, by names.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// The virtual host.
    pub virtual_host: Arc<str>,
    /// The exchange that messages come from.
    pub source: Arc<str>,
    /// Whether `destination` names an exchange rather than a queue.
    pub to_exchange: bool,
    /// The queue or exchange that they go to.
    pub destination: Arc<str>,
    /// The binding key.
    pub binding_key: String,
    /// The arguments.
    pub arguments: Table,
}
