//! `[[policies]]` and `[[operator_policies]]`: what acts on queues and exchanges by their names, from the start on.

use serde::Deserialize;

use super::Config;
use super::check::Fault;
use crate::amqp::{Table, Value};
use crate::broker::policy::{self, ApplyTo, PolicyKind};

/// A policy, or an operator policy.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct Policy {
    /// 1 to 255 bytes, unique among those of its kind in its virtual host.
    pub name: String,
    /// The virtual host.
    #[serde(default = "default_vhost")]
    pub vhost: String,
    /// A regular expression, found anywhere in a name unless anchored.
    pub pattern: String,
    /// `all`, `queues`, `exchanges`, `classic_queues`, `quorum_queues` or `streams`.
    #[serde(default = "default_apply_to")]
    pub apply_to: String,
    /// Of several for the same thing, the one with the highest counts.
    #[serde(default)]
    pub priority: i64,
    /// What it says.
    pub definition: toml::Table,
}

fn default_vhost() -> String {
    "/".into()
}

fn default_apply_to() -> String {
    ApplyTo::default().name().into()
}

impl Policy {
    /// The policy as the broker knows it. `key` is where the configuration has it.
    pub(super) fn build(&self, kind: PolicyKind, key: &str) -> Result<policy::Policy, Fault> {
        let Self { name, pattern, priority, .. } = self;
        let fault =
            |error: policy::PolicyError| Fault::new(format!("{key}.{}", error.part()), error.to_string());
        let apply_to = ApplyTo::parse(&self.apply_to).map_err(fault)?;
        let definition = table(&self.definition, &format!("{key}.definition"))?;
        policy::Policy::new(kind, name, pattern, apply_to, *priority, definition).map_err(fault)
    }
}

fn table(table: &toml::Table, key: &str) -> Result<Table, Fault> {
    let fields = table.iter().map(|(name, value)| {
        let value = self::value(value, &format!("{key}.{name}"))?;
        Ok((name.clone(), value))
    });
    fields.collect::<Result<_, _>>().map(Table)
}

fn value(value: &toml::Value, key: &str) -> Result<Value, Fault> {
    Ok(match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => Value::I64(*number),
        toml::Value::Float(number) => Value::F64(*number),
        toml::Value::Boolean(value) => Value::Bool(*value),
        toml::Value::Array(values) => {
            Value::Array(values.iter().map(|item| self::value(item, key)).collect::<Result<_, _>>()?)
        }
        toml::Value::Table(fields) => Value::Table(table(fields, key)?),
        toml::Value::Datetime(time) => {
            return Err(Fault::new(key, format!("{time} is a time, which no key takes")));
        }
    })
}

impl Config {
    /// The policies of a virtual host as the broker knows them.
    pub fn policies_of(&self, vhost: &str) -> Vec<policy::Policy> {
        let of_kind = |(kind, _, policies): (PolicyKind, _, &'_ [Policy])| {
            let policies = policies.iter().filter(|policy| policy.vhost == vhost);
            let built =
                policies.map(|policy| policy.build(kind, "").expect("invariant: checked when it was loaded"));
            built.collect::<Vec<_>>()
        };
        self.policies_by_kind().into_iter().flat_map(of_kind).collect()
    }

    /// The policies of each kind, and the section that has them.
    pub(super) fn policies_by_kind(&self) -> [(PolicyKind, &'static str, &[Policy]); 2] {
        [
            (PolicyKind::User, "policies", &self.policies),
            (PolicyKind::Operator, "operator_policies", &self.operator_policies),
        ]
    }
}
