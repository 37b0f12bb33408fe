//! Definitions: what clients and operators set up, and what has to be there again after a restart.

use std::sync::Arc;

use super::{
    parameter::{Hidden, Parameter},
    permission::{Permission, TopicPermission},
    policy::{Policy, PolicyKind},
    queue::QueueId,
    user::User,
    vhost::Metadata,
};
use crate::amqp::Table;

/// What is recorded for the digest of a file of definitions by a node that has begun without one. No file is known to have it.
pub const NO_FILE: [u8; 32] = [0; 32];

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
    /// Something else was said about a virtual host.
    VirtualHostDescribed {
        /// Its name.
        name: Arc<str>,
        /// All that is said now.
        metadata: Arc<Metadata>,
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
    /// A file of definitions was imported at a start, or a node has begun without one.
    FileLoaded {
        /// The SHA-256 of its content, by which it is known to be the same at the next start; [`NO_FILE`] if there was none.
        digest: [u8; 32],
    },
    /// A parameter was added or changed.
    ParameterPut(Arc<Parameter>),
    /// A parameter was deleted.
    ParameterDeleted {
        /// The virtual host.
        virtual_host: Arc<str>,
        /// What it was for.
        component: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// A global parameter was added or changed.
    GlobalParameterPut {
        /// Its name.
        name: Arc<str>,
        /// What it says.
        value: Hidden,
    },
    /// A global parameter was deleted.
    GlobalParameterDeleted {
        /// Its name.
        name: Arc<str>,
    },
}

impl Definition {
    /// What it changes, for the log: what operators do, and nothing of what clients declare. Passwords and values are not in
    /// it.
    pub fn summary(&self) -> Option<String> {
        Some(match self {
            Self::VirtualHostPut { name, .. } => {
                format!("virtual host '{name}' added, or its limits changed")
            }
            Self::VirtualHostDescribed { name, .. } => format!("virtual host '{name}' changed"),
            Self::VirtualHostDeleted { name } => format!("virtual host '{name}' deleted"),
            Self::UserPut(user) => format!("user '{}' set, tags [{}]", user.name, user.tags.join(", ")),
            Self::UserDeleted { name } => format!("user '{name}' deleted"),
            Self::PermissionPut { user, virtual_host, permission } => format!(
                "permissions of user '{user}' in virtual host '{virtual_host}' set: configure '{}', write '{}', read '{}'",
                permission.configure(),
                permission.write(),
                permission.read()
            ),
            Self::PermissionDeleted { user, virtual_host } => {
                format!("permissions of user '{user}' in virtual host '{virtual_host}' deleted")
            }
            Self::TopicPermissionPut { user, virtual_host, exchange, .. } => {
                format!(
                    "topic permissions of user '{user}' in virtual host '{virtual_host}' set for '{exchange}'"
                )
            }
            Self::TopicPermissionDeleted { user, virtual_host, exchange } => {
                format!(
                    "topic permissions of user '{user}' in virtual host '{virtual_host}' deleted for '{exchange}'"
                )
            }
            Self::PolicyPut { virtual_host, policy } => {
                format!("policy '{}' of virtual host '{virtual_host}' set", policy.name)
            }
            Self::PolicyDeleted { virtual_host, name, .. } => {
                format!("policy '{name}' of virtual host '{virtual_host}' deleted")
            }
            Self::ParameterPut(parameter) => format!(
                "parameter '{}' of component '{}' in virtual host '{}' set",
                parameter.name, parameter.component, parameter.virtual_host
            ),
            Self::ParameterDeleted { virtual_host, component, name } => {
                format!(
                    "parameter '{name}' of component '{component}' in virtual host '{virtual_host}' deleted"
                )
            }
            Self::GlobalParameterPut { name, .. } => format!("global parameter '{name}' set"),
            Self::GlobalParameterDeleted { name } => format!("global parameter '{name}' deleted"),
            Self::QueueDeclared { .. }
            | Self::QueueDeleted { .. }
            | Self::ExchangeDeclared { .. }
            | Self::ExchangeDeleted { .. }
            | Self::Bound(_)
            | Self::Unbound(_)
            | Self::FileLoaded { .. } => return None,
        })
    }
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
