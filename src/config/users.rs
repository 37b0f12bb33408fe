//! `[[vhosts]]` and `[[users]]`: what exists at the start, and who may use it.

use std::sync::Arc;

use serde::Deserialize;

use super::Config;
use super::value::{self, Secret};
use crate::broker::permission::{self, Permissions};
use crate::broker::user::{self, HashError, HashingAlgorithm, PasswordHash, Users};

/// A virtual host.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct Vhost {
    /// 1 to 255 bytes, unique.
    pub name: String,
    /// How many connections it takes.
    #[serde(default, deserialize_with = "value::limit")]
    pub connections_max: Option<u32>,
    /// How many queues it holds.
    #[serde(default, deserialize_with = "value::limit")]
    pub queues_max: Option<u32>,
    /// Whether what is published and delivered there is told to `amq.rabbitmq.trace`.
    #[serde(default)]
    pub tracing: bool,
}

/// A user, with either `password` or `password_hash`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct User {
    /// 1 to 255 bytes, unique.
    pub name: String,
    /// The password in clear.
    pub password: Option<Secret>,
    /// RabbitMQ's form: base64 of a salt of 4 bytes and the hash of salt and password.
    pub password_hash: Option<Secret>,
    /// The hash function of `password_hash`.
    #[serde(default)]
    pub hashing_algorithm: HashingAlgorithm,
    /// `administrator`, `monitoring`, `policymaker`, `management`, `impersonator`, or of your own.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Whether the user may connect from this machine only.
    #[serde(default)]
    pub loopback_only: bool,
    /// How many connections the user may have.
    #[serde(default, deserialize_with = "value::limit")]
    pub connections_max: Option<u32>,
    /// How many channels the user may have, over all connections.
    #[serde(default, deserialize_with = "value::limit")]
    pub channels_max: Option<u32>,
    /// What the user may do, by virtual host; without an entry the user may not enter it.
    #[serde(default)]
    pub permissions: Vec<Permission>,
    /// Narrower rules for the routing keys of topic exchanges.
    #[serde(default)]
    pub topic_permissions: Vec<TopicPermission>,
}

/// What a user may do in a virtual host: regular expressions over the names of queues and exchanges, found anywhere
/// in a name unless anchored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct Permission {
    /// The virtual host.
    pub vhost: String,
    /// What may be declared and deleted.
    pub configure: String,
    /// What may be published and bound to.
    pub write: String,
    /// What may be consumed and bound from.
    pub read: String,
}

/// Which routing keys a user may use with a topic exchange: regular expressions, in which `{username}` and `{vhost}`
/// stand for the user's.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct TopicPermission {
    /// The virtual host.
    pub vhost: String,
    /// The exchange.
    pub exchange: String,
    /// The routing keys to publish with.
    pub write: String,
    /// The routing keys to bind with.
    pub read: String,
}

impl Vhost {
    /// A virtual host without limits.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), connections_max: None, queues_max: None, tracing: false }
    }
}

impl User {
    /// The first user of every broker: guest, an administrator who may do everything in `vhosts`, from this machine.
    pub fn guest<'a>(vhosts: impl IntoIterator<Item = &'a str>) -> Self {
        Self { loopback_only: true, ..Self::administrator("guest", "guest", vhosts) }
    }

    /// An administrator who may do everything in `vhosts`.
    pub(super) fn administrator<'a>(
        name: &str,
        password: &str,
        vhosts: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        Self {
            name: name.into(),
            password: Some(Secret::from(password.to_owned())),
            password_hash: None,
            hashing_algorithm: HashingAlgorithm::default(),
            tags: vec!["administrator".into()],
            loopback_only: false,
            connections_max: None,
            channels_max: None,
            permissions: vhosts.into_iter().map(Permission::everything).collect(),
            topic_permissions: vec![],
        }
    }

    /// The virtual hosts that the user has permissions in, some perhaps twice.
    pub(super) fn vhosts(&self) -> impl Iterator<Item = &str> {
        let topics = self.topic_permissions.iter().map(|topic| topic.vhost.as_str());
        self.permissions.iter().map(|permission| permission.vhost.as_str()).chain(topics)
    }

    pub(super) fn hash(&self) -> Result<PasswordHash, HashError> {
        if let Some(hash) = &self.password_hash {
            return PasswordHash::from_base64(self.hashing_algorithm, hash.expose());
        }
        let password = self.password.as_ref().map_or("", Secret::expose);
        Ok(PasswordHash::new(self.hashing_algorithm, rand::random(), password.as_bytes()))
    }
}

impl Permission {
    /// Everything in that virtual host.
    fn everything(vhost: &str) -> Self {
        Self { vhost: vhost.into(), configure: ".*".into(), write: ".*".into(), read: ".*".into() }
    }
}

impl Config {
    /// Whether that is the user that a node without users begins with: guest as it is by default, or the one that
    /// `RABBITMQ_DEFAULT_USER` and its like describe.
    pub fn is_first_user(&self, user: &User) -> bool {
        let guest = User::guest([]);
        let is_guest = user.name == guest.name && user.password == guest.password;
        is_guest || self.first_user.as_deref() == Some(&*user.name)
    }

    /// The same configuration with some of the users only.
    pub fn with_users(&self, is_wanted: impl Fn(&User) -> bool) -> Self {
        let users = self.users.iter().filter(|user| is_wanted(user)).cloned().collect();
        Self { users, ..self.clone() }
    }

    /// Whether no virtual host is configured but the one that a node without virtual hosts begins with.
    pub fn has_first_virtual_host_only(&self) -> bool {
        match &self.vhosts[..] {
            [only] => {
                *only == Vhost::named("/")
                    || (self.first_user.is_some() && *only == Vhost::named(&*only.name))
            }
            _ => false,
        }
    }

    /// The users as the broker knows them. Passwords in clear get a salt and are hashed here.
    pub fn users(&self) -> Users {
        let users = Users::new(rand::random());
        for user in &self.users {
            users.put(user::User {
                name: Arc::from(user.name.as_str()),
                password: user.hash().expect("invariant: checked when it was loaded"),
                tags: user.tags.clone(),
                loopback_only: user.loopback_only,
                connections_max: user.connections_max,
                channels_max: user.channels_max,
            });
        }
        users
    }

    /// The permissions of all users as the broker knows them.
    pub fn permissions(&self) -> Permissions {
        let permissions = Permissions::new();
        for user in &self.users {
            for Permission { vhost, configure, write, read } in &user.permissions {
                let permission = permission::Permission::new(configure, write, read);
                permissions.grant(
                    &user.name,
                    vhost,
                    permission.expect("invariant: checked when it was loaded"),
                );
            }
            for TopicPermission { vhost, exchange, write, read } in &user.topic_permissions {
                let permission = permission::TopicPermission::new(&user.name, vhost, write, read);
                permissions.grant_topic(
                    &user.name,
                    vhost,
                    exchange,
                    permission.expect("invariant: checked when it was loaded"),
                );
            }
        }
        permissions
    }
}
