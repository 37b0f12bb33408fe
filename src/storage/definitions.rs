//! Definitions as octets, and what is defined after a sequence of them.
//!
//! A record is one definition. Numbers are little endian.
//!
//! ```text
//! record = kind:u8 fields          string = length:u32 UTF-8          flag = u8, 0 or 1          limit = 0 | 1 max:u32
//!
//! kind                          fields
//!  1  virtual host put          name:string connections:limit queues:limit
//!  2  virtual host deleted      name:string
//!  3  user put                  name:string algorithm:u8 hash:string loopback only:flag connections:limit
//!                               channels:limit tags:u32 tag:string*
//!  4  user deleted              name:string
//!  5  permission put            user:string virtual host:string configure:string write:string read:string
//!  6  permission deleted        user:string virtual host:string
//!  7  topic permission put      user:string virtual host:string exchange:string write:string read:string
//!  8  topic permission deleted  user:string virtual host:string exchange:string
//!  9  queue declared            virtual host:string id:u64 name:string auto-delete:flag arguments:table
//! 10  queue deleted             id:u64
//! 11  exchange declared         virtual host:string name:string type:string auto-delete:flag internal:flag
//!                               arguments:table
//! 12  exchange deleted          virtual host:string name:string
//! 13  bound                     virtual host:string source:string to exchange:flag destination:string key:string
//!                               arguments:table
//! 14  unbound                   as bound
//! 15  policy put                virtual host:string operator:flag name:string pattern:string apply to:u8 priority:i64
//!                               definition:table
//! 16  policy deleted            virtual host:string operator:flag name:string
//! 17  virtual host described    name:string description:string default queue type:u8 protected:flag tags:u32 tag:string*
//! 18  file loaded               digest:u8[32]
//! 19  parameter put             virtual host:string component:string name:string value:string set by a user:flag
//!                               user:string
//! 20  parameter deleted         virtual host:string component:string name:string
//! 21  global parameter put      name:string value:string
//! 22  global parameter deleted  name:string
//! ```
//!
//! A policy applies to all things (0), queues (1), exchanges (2), classic queues (3), quorum queues (4) or streams (5).
//! An algorithm is 1 for SHA-256, 2 for SHA-512 or 3 for MD5, and the hash RabbitMQ's text, the base64 of salt and digest;
//! empty for a user without a password. A default queue type is 0 for none, 1 for classic or 2 for quorum. What format 3
//! has more than those before it are the kinds from 17 on, MD5 and the empty hash.
//! Permissions are the patterns as they were given. The value of a parameter is JSON; where no user has set it, the user's
//! name is empty. A table is as on the wire, with its length big endian in front, and
//! names in it beyond 255 octets are cut.

mod fold;
#[cfg(test)]
mod tests;

use std::{fmt::Display, sync::Arc};

use bytes::BufMut;

pub(super) use self::fold::Definitions;
use crate::{
    amqp::Table,
    broker::{
        definition::{Binding, Definition},
        exchange::ExchangeKind,
        parameter::{Hidden, Parameter},
        permission::{Permission, TopicPermission},
        policy::{ApplyTo, Policy, PolicyKind},
        queue::{QueueId, QueueKind},
        user::{HashingAlgorithm, PasswordHash, User},
        vhost::Metadata,
    },
};

/// Why octets are no definition; the text is for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a definition: {0}")]
pub(super) struct DecodeRecordError(String);

/// Appends the record of a definition.
///
/// # Panics
/// If a string takes 4 GiB or more.
pub(super) fn encode(definition: &Definition, out: &mut Vec<u8>) {
    use Definition as D;
    out.push(kind(definition));
    match definition {
        D::VirtualHostPut { name, connections_max, queues_max } => {
            put_string(name, out);
            put_limit(*connections_max, out);
            put_limit(*queues_max, out);
        }
        D::UserPut(user) => put_user(user, out),
        D::VirtualHostDeleted { name } | D::UserDeleted { name } => put_string(name, out),
        D::PermissionPut { user, virtual_host, permission } => {
            put_strings([user, virtual_host], out);
            put_strings([permission.configure(), permission.write(), permission.read()], out);
        }
        D::PermissionDeleted { user, virtual_host } => put_strings([user, virtual_host], out),
        D::TopicPermissionPut { user, virtual_host, exchange, permission } => {
            put_strings([user, virtual_host, exchange], out);
            put_strings([permission.write(), permission.read()], out);
        }
        D::TopicPermissionDeleted { user, virtual_host, exchange } => {
            put_strings([user, virtual_host, exchange], out);
        }
        D::QueueDeclared { virtual_host, id, name, auto_delete, arguments } => {
            put_string(virtual_host, out);
            out.put_u64_le(id.0);
            put_string(name, out);
            out.put_u8((*auto_delete).into());
            arguments.encode(out);
        }
        D::QueueDeleted { id } => out.put_u64_le(id.0),
        D::ExchangeDeclared { virtual_host, name, kind, auto_delete, internal, arguments } => {
            put_strings([virtual_host, name, kind], out);
            out.put_slice(&[(*auto_delete).into(), (*internal).into()]);
            arguments.encode(out);
        }
        D::ExchangeDeleted { virtual_host, name } => put_strings([virtual_host, name], out),
        D::Bound(binding) | D::Unbound(binding) => put_binding(binding, out),
        D::PolicyPut { virtual_host, policy } => put_policy(virtual_host, policy, out),
        D::PolicyDeleted { virtual_host, kind, name } => put_policy_name(virtual_host, *kind, name, out),
        D::VirtualHostDescribed { name, metadata } => put_metadata(name, metadata, out),
        D::FileLoaded { digest } => out.put_slice(digest),
        D::ParameterPut(parameter) => {
            let Parameter { virtual_host, component, name, value, set_by } = &**parameter;
            put_strings([virtual_host, component, name, &value.to_string()], out);
            out.put_u8(set_by.is_some().into());
            put_string(set_by.as_deref().unwrap_or_default(), out);
        }
        D::ParameterDeleted { virtual_host, component, name } => {
            put_strings([virtual_host, component, name], out);
        }
        D::GlobalParameterPut { name, value } => put_strings([name, &value.0.to_string()], out),
        D::GlobalParameterDeleted { name } => put_string(name, out),
    }
}

/// Reads a record back.
///
/// # Errors
/// If it is none: of another kind, too short or too long, or with values that make no sense.
pub(super) fn decode(bytes: &[u8]) -> Result<Definition, DecodeRecordError> {
    use Definition as D;
    let mut input = Input(bytes);
    let definition = match input.u8()? {
        1 => D::VirtualHostPut {
            name: input.name()?,
            connections_max: input.limit()?,
            queues_max: input.limit()?,
        },
        2 => D::VirtualHostDeleted { name: input.name()? },
        3 => D::UserPut(Arc::new(input.user()?)),
        4 => D::UserDeleted { name: input.name()? },
        5 => D::PermissionPut {
            user: input.name()?,
            virtual_host: input.name()?,
            permission: input.permission()?,
        },
        6 => D::PermissionDeleted { user: input.name()?, virtual_host: input.name()? },
        7 => input.topic_permission()?,
        8 => D::TopicPermissionDeleted {
            user: input.name()?,
            virtual_host: input.name()?,
            exchange: input.name()?,
        },
        9 => D::QueueDeclared {
            virtual_host: input.name()?,
            id: QueueId(input.u64()?),
            name: input.name()?,
            auto_delete: input.flag()?,
            arguments: input.table()?,
        },
        10 => D::QueueDeleted { id: QueueId(input.u64()?) },
        11 => D::ExchangeDeclared {
            virtual_host: input.name()?,
            name: input.name()?,
            kind: input.exchange_kind()?,
            auto_delete: input.flag()?,
            internal: input.flag()?,
            arguments: input.table()?,
        },
        12 => D::ExchangeDeleted { virtual_host: input.name()?, name: input.name()? },
        13 => D::Bound(input.binding()?),
        14 => D::Unbound(input.binding()?),
        15 => D::PolicyPut { virtual_host: input.name()?, policy: Arc::new(input.policy()?) },
        16 => {
            D::PolicyDeleted { virtual_host: input.name()?, kind: input.policy_kind()?, name: input.name()? }
        }
        17 => D::VirtualHostDescribed { name: input.name()?, metadata: Arc::new(input.metadata()?) },
        18 => D::FileLoaded { digest: input.array()? },
        19 => D::ParameterPut(Arc::new(input.parameter()?)),
        20 => {
            D::ParameterDeleted { virtual_host: input.name()?, component: input.name()?, name: input.name()? }
        }
        21 => D::GlobalParameterPut { name: input.name()?, value: Hidden(Arc::new(input.json()?)) },
        22 => D::GlobalParameterDeleted { name: input.name()? },
        kind => return Err(error(format_args!("kind {kind} is unknown"))),
    };
    if input.0.is_empty() {
        Ok(definition)
    } else {
        Err(error(format_args!("{} octets are left over", input.0.len())))
    }
}

fn kind(definition: &Definition) -> u8 {
    match definition {
        Definition::VirtualHostPut { .. } => 1,
        Definition::VirtualHostDeleted { .. } => 2,
        Definition::UserPut(_) => 3,
        Definition::UserDeleted { .. } => 4,
        Definition::PermissionPut { .. } => 5,
        Definition::PermissionDeleted { .. } => 6,
        Definition::TopicPermissionPut { .. } => 7,
        Definition::TopicPermissionDeleted { .. } => 8,
        Definition::QueueDeclared { .. } => 9,
        Definition::QueueDeleted { .. } => 10,
        Definition::ExchangeDeclared { .. } => 11,
        Definition::ExchangeDeleted { .. } => 12,
        Definition::Bound(_) => 13,
        Definition::Unbound(_) => 14,
        Definition::PolicyPut { .. } => 15,
        Definition::PolicyDeleted { .. } => 16,
        Definition::VirtualHostDescribed { .. } => 17,
        Definition::FileLoaded { .. } => 18,
        Definition::ParameterPut(_) => 19,
        Definition::ParameterDeleted { .. } => 20,
        Definition::GlobalParameterPut { .. } => 21,
        Definition::GlobalParameterDeleted { .. } => 22,
    }
}

fn put_string(text: &str, out: &mut Vec<u8>) {
    out.put_u32_le(u32::try_from(text.len()).expect("invariant: a name is far smaller than 4 GiB"));
    out.put_slice(text.as_bytes());
}

fn put_strings<const N: usize>(texts: [&str; N], out: &mut Vec<u8>) {
    texts.into_iter().for_each(|text| put_string(text, out));
}

fn put_limit(limit: Option<u32>, out: &mut Vec<u8>) {
    match limit {
        None => out.put_u8(0),
        Some(max) => {
            out.put_u8(1);
            out.put_u32_le(max);
        }
    }
}

fn put_user(user: &User, out: &mut Vec<u8>) {
    put_string(&user.name, out);
    out.put_u8(match user.password.algorithm() {
        HashingAlgorithm::Sha256 => 1,
        HashingAlgorithm::Sha512 => 2,
        HashingAlgorithm::Md5 => 3,
    });
    put_string(&user.password.to_base64(), out);
    out.put_u8(user.loopback_only.into());
    put_limit(user.connections_max, out);
    put_limit(user.channels_max, out);
    put_tags(&user.tags, out);
}

fn put_tags(tags: &[String], out: &mut Vec<u8>) {
    out.put_u32_le(u32::try_from(tags.len()).expect("invariant: there are few tags"));
    tags.iter().for_each(|tag| put_string(tag, out));
}

fn put_metadata(name: &str, metadata: &Metadata, out: &mut Vec<u8>) {
    put_strings([name, &metadata.description], out);
    out.put_u8(match metadata.default_queue_type {
        None => 0,
        Some(QueueKind::Classic) => 1,
        Some(QueueKind::Quorum) => 2,
    });
    out.put_u8(metadata.is_protected.into());
    put_tags(&metadata.tags, out);
}

fn put_binding(binding: &Binding, out: &mut Vec<u8>) {
    put_strings([&binding.virtual_host, &binding.source], out);
    out.put_u8(binding.to_exchange.into());
    put_strings([&binding.destination, &binding.binding_key], out);
    binding.arguments.encode(out);
}

/// By the number of each.
const APPLY_TO: [ApplyTo; 6] = [
    ApplyTo::All,
    ApplyTo::Queues,
    ApplyTo::Exchanges,
    ApplyTo::ClassicQueues,
    ApplyTo::QuorumQueues,
    ApplyTo::Streams,
];

fn put_policy(virtual_host: &str, policy: &Policy, out: &mut Vec<u8>) {
    put_policy_name(virtual_host, policy.kind, &policy.name, out);
    put_string(policy.pattern(), out);
    let number = (0..).zip(APPLY_TO).find(|(_, apply_to)| *apply_to == policy.apply_to);
    out.put_u8(number.map_or(0, |(number, _)| number));
    out.put_i64_le(policy.priority);
    policy.definition.encode(out);
}

fn put_policy_name(virtual_host: &str, kind: PolicyKind, name: &str, out: &mut Vec<u8>) {
    put_string(virtual_host, out);
    out.put_u8((kind == PolicyKind::Operator).into());
    put_string(name, out);
}

#[cold]
fn error(text: impl Display) -> DecodeRecordError {
    DecodeRecordError(text.to_string())
}

/// What is left of a record.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeRecordError> {
        let (octets, rest) = self.0.split_first_chunk().ok_or_else(|| error("it ends early"))?;
        self.0 = rest;
        Ok(*octets)
    }

    fn u8(&mut self) -> Result<u8, DecodeRecordError> {
        self.array().map(u8::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeRecordError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeRecordError> {
        self.array().map(u64::from_le_bytes)
    }

    fn flag(&mut self) -> Result<bool, DecodeRecordError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(error(format_args!("a flag is {other}"))),
        }
    }

    fn limit(&mut self) -> Result<Option<u32>, DecodeRecordError> {
        if self.flag()? { self.u32().map(Some) } else { Ok(None) }
    }

    fn take(&mut self, len: u32) -> Result<&'a [u8], DecodeRecordError> {
        let (octets, rest) = self.0.split_at_checked(len as usize).ok_or_else(|| error("it ends early"))?;
        self.0 = rest;
        Ok(octets)
    }

    fn string(&mut self) -> Result<&'a str, DecodeRecordError> {
        let len = self.u32()?;
        str::from_utf8(self.take(len)?).map_err(error)
    }

    fn name(&mut self) -> Result<Arc<str>, DecodeRecordError> {
        self.string().map(Arc::from)
    }

    fn table(&mut self) -> Result<Table, DecodeRecordError> {
        let len = self.array().map(u32::from_be_bytes)?;
        Table::decode(self.take(len)?).map_err(error)
    }

    fn user(&mut self) -> Result<User, DecodeRecordError> {
        Ok(User {
            name: self.name()?,
            password: self.password()?,
            loopback_only: self.flag()?,
            connections_max: self.limit()?,
            channels_max: self.limit()?,
            tags: self.tags()?,
        })
    }

    fn password(&mut self) -> Result<PasswordHash, DecodeRecordError> {
        let algorithm = match self.u8()? {
            1 => HashingAlgorithm::Sha256,
            2 => HashingAlgorithm::Sha512,
            3 => HashingAlgorithm::Md5,
            other => return Err(error(format_args!("hashing algorithm {other} is unknown"))),
        };
        match self.string()? {
            "" => Ok(PasswordHash::none(algorithm)),
            hash => PasswordHash::from_base64(algorithm, hash).map_err(error),
        }
    }

    fn tags(&mut self) -> Result<Vec<String>, DecodeRecordError> {
        let count = self.u32()?;
        (0..count).map(|_| self.string().map(str::to_owned)).collect()
    }

    fn metadata(&mut self) -> Result<Metadata, DecodeRecordError> {
        Ok(Metadata {
            description: self.string()?.to_owned(),
            default_queue_type: match self.u8()? {
                0 => None,
                1 => Some(QueueKind::Classic),
                2 => Some(QueueKind::Quorum),
                other => return Err(error(format_args!("queue type {other} is unknown"))),
            },
            is_protected: self.flag()?,
            tags: self.tags()?,
        })
    }

    fn permission(&mut self) -> Result<Permission, DecodeRecordError> {
        Permission::new(self.string()?, self.string()?, self.string()?).map_err(error)
    }

    fn topic_permission(&mut self) -> Result<Definition, DecodeRecordError> {
        let (user, virtual_host, exchange) = (self.name()?, self.name()?, self.name()?);
        let permission = TopicPermission::new(&user, &virtual_host, self.string()?, self.string()?);
        let permission = permission.map_err(error)?;
        Ok(Definition::TopicPermissionPut { user, virtual_host, exchange, permission })
    }

    fn policy_kind(&mut self) -> Result<PolicyKind, DecodeRecordError> {
        Ok(if self.flag()? { PolicyKind::Operator } else { PolicyKind::User })
    }

    fn policy(&mut self) -> Result<Policy, DecodeRecordError> {
        let (kind, name, pattern) = (self.policy_kind()?, self.string()?, self.string()?);
        let number = self.u8()?;
        let apply_to = APPLY_TO.get(usize::from(number)).copied();
        let apply_to = apply_to.ok_or_else(|| error(format_args!("a policy can't apply to {number}")))?;
        let priority = self.array().map(i64::from_le_bytes)?;
        Policy::recorded(kind, name, pattern, apply_to, priority, self.table()?).map_err(error)
    }

    fn json(&mut self) -> Result<serde_json::Value, DecodeRecordError> {
        serde_json::from_str(self.string()?).map_err(error)
    }

    fn parameter(&mut self) -> Result<Parameter, DecodeRecordError> {
        let (virtual_host, component, name) = (self.name()?, self.name()?, self.name()?);
        let value = self.json()?;
        let (is_set_by_user, user) = (self.flag()?, self.name()?);
        let set_by = is_set_by_user.then_some(user);
        Ok(Parameter { virtual_host, component, name, value, set_by })
    }

    fn exchange_kind(&mut self) -> Result<&'static str, DecodeRecordError> {
        let name = self.string()?;
        let kind = ExchangeKind::parse(name).map(ExchangeKind::name);
        kind.ok_or_else(|| error(format_args!("exchange type '{name}' is unknown")))
    }

    fn binding(&mut self) -> Result<Binding, DecodeRecordError> {
        Ok(Binding {
            virtual_host: self.name()?,
            source: self.name()?,
            to_exchange: self.flag()?,
            destination: self.name()?,
            binding_key: self.string()?.to_owned(),
            arguments: self.table()?,
        })
    }
}
