//! Definitions as RabbitMQ's JSON, from 3.8 to 4.x in, and as 4.x out: users, permissions, virtual hosts, parameters,
//! policies, exchanges, queues and bindings.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{
    api::{
        limits::{HOST_LIMITS, USER_LIMITS, limit_of},
        policies::{OfHost, policy_of},
        users::{self, NAME_BYTES_MAX, tags_of},
        vhosts::{metadata_of, shown_metadata},
    },
    body::Fields,
    error::ApiError,
};
use crate::{
    amqp::Table,
    broker::{
        Broker,
        definition::Binding,
        delay,
        exchange::{Destination, ExchangeKind},
        import::{
            Import, ImportedExchange, ImportedHost, ImportedPassword, ImportedQueue, ImportedUser, Refused,
        },
        parameter::Parameter,
        permission::{Permission, TopicPermission},
        policy::PolicyKind,
        user::PasswordHash,
        vhost::{VirtualHost, exchange_kind},
    },
    json::{from_table, to_table},
};

/// The most that is told of what was refused.
const REFUSED_MAX: usize = 1000;
/// The component of operator policies among parameters.
const OPERATOR_POLICY: &str = "operator_policy";
/// The component and the name of the limits of virtual hosts among parameters.
const HOST_LIMITS_PARAMETER: (&str, &str) = ("vhost-limits", "limits");
/// RabbitMQ's name for whether a virtual host may not be deleted.
const PROTECTED: &str = "protected_from_deletion";
/// Parameters of RabbitMQ's that are about the cluster that they come from.
const FOREIGN_GLOBALS: [&str; 2] = ["internal_cluster_id", "cluster_name"];

/// Reads definitions: those of a broker, or with `virtual_host` what is to be in that one, whatever they were in.
///
/// # Errors
/// All that can't be read.
pub(crate) fn read(octets: &[u8], virtual_host: Option<&str>) -> Result<Import, Vec<Refused>> {
    let Ok(Value::Object(sections)) = serde_json::from_slice(octets) else {
        let reason = "failed_to_parse_json".to_owned();
        return Err(vec![Refused { kind: "definitions", name: String::new(), reason }]);
    };
    let mut reading = Reading { import: Import::default(), refused: Vec::new(), virtual_host };
    if virtual_host.is_none() {
        reading.section(&sections, "users", "user", Reading::user);
        reading.section(&sections, "vhosts", "vhost", Reading::host);
        reading.section(&sections, "permissions", "permission", Reading::permission);
        reading.section(&sections, "topic_permissions", "topic_permission", Reading::topic_permission);
        reading.section(&sections, "global_parameters", "global_parameter", Reading::global_parameter);
    }
    reading.section(&sections, "parameters", "parameter", Reading::parameter);
    reading.section(&sections, "policies", "policy", |reading, item| reading.policy(item, PolicyKind::User));
    reading.section(&sections, "exchanges", "exchange", Reading::exchange);
    reading.section(&sections, "queues", "queue", Reading::queue);
    reading.section(&sections, "bindings", "binding", Reading::binding);
    if reading.refused.is_empty() { Ok(reading.import) } else { Err(reading.refused) }
}

/// What is told to who wanted to import what was refused: nothing of it was.
pub(crate) fn report(refused: &[Refused]) -> String {
    let shown: Vec<String> = refused.iter().take(3).map(|refused| format!("- {refused}")).collect();
    let more = match refused.len().saturating_sub(shown.len()) {
        0 => String::new(),
        more => format!("\n- and {more} more"),
    };
    format!("nothing was imported, for this can't be:\n{}{more}", shown.join("\n"))
}

/// All that was refused, as far as it is told.
pub(super) fn shown_refused(refused: &[Refused]) -> Vec<Value> {
    let shown = refused.iter().take(REFUSED_MAX);
    shown
        .map(|refused| json!({"kind": refused.kind, "name": refused.name, "reason": refused.reason}))
        .collect()
}

type Item = Map<String, Value>;

struct Reading<'a> {
    import: Import,
    refused: Vec<Refused>,
    virtual_host: Option<&'a str>,
}

impl Reading<'_> {
    fn section(
        &mut self,
        sections: &Item,
        section: &str,
        kind: &'static str,
        read: impl Fn(&mut Self, &Item) -> Result<(), String>,
    ) {
        let items = match sections.get(section) {
            None | Some(Value::Null) => return,
            Some(Value::Array(items)) => items,
            Some(_) => return self.refuse(kind, section, "it should be a list".to_owned()),
        };
        for item in items {
            let fields = item.as_object();
            let name = fields.map(|fields| name_of(kind, fields)).unwrap_or_default();
            let read =
                fields.map_or_else(|| Err("it should be an object".to_owned()), |fields| read(self, fields));
            if let Err(reason) = read {
                self.refuse(kind, &name, reason);
            }
        }
    }

    fn refuse(&mut self, kind: &'static str, name: &str, reason: String) {
        self.refused.push(Refused { kind, name: name.to_owned(), reason });
    }

    /// The virtual host that an item is in.
    fn host_of(&self, item: &Item) -> Result<Arc<str>, String> {
        match self.virtual_host {
            Some(name) => Ok(name.into()),
            None => named(item, "vhost"),
        }
    }

    fn user(&mut self, item: &Item) -> Result<(), String> {
        let fields = Fields(item.clone());
        let tags = tags_of(item.get("tags").ok_or("tags_not_present")?).map_err(|error| reason(&error))?;
        let password = match fields.text("password").map_err(|error| reason(&error))? {
            Some(clear) if fields.get("password_hash").is_none() => ImportedPassword::Clear(clear.to_owned()),
            None if fields.get("password_hash").is_none() => {
                ImportedPassword::Unsaid(hash_of(&fields)?.algorithm())
            }
            _ => ImportedPassword::Hash(hash_of(&fields)?),
        };
        let limits = item.get("limits").map(|limits| limits_of(limits, USER_LIMITS)).transpose()?;
        let loopback_only = fields.flag("loopback_only").map_err(|error| reason(&error))?;
        let name = name(item)?;
        self.import.users.push(ImportedUser { name, password, tags, limits, loopback_only });
        Ok(())
    }

    fn host(&mut self, item: &Item) -> Result<(), String> {
        let says = ["metadata", "description", "tags", "default_queue_type"];
        let metadata = says.iter().any(|field| item.contains_key(*field));
        let metadata = metadata.then(|| metadata_of(&Fields(item.clone())));
        let metadata = metadata.transpose().map_err(|error| reason(&error))?;
        let is_protected = protection(item)?;
        let limits = item.get("limits").map(|limits| limits_of(limits, HOST_LIMITS));
        let limits = limits.transpose()?.filter(|limits| *limits != [None, None]);
        self.import.hosts.push(ImportedHost { name: name(item)?, metadata, is_protected, limits });
        Ok(())
    }

    fn permission(&mut self, item: &Item) -> Result<(), String> {
        let [configure, write, read] = ["configure", "write", "read"].map(|field| text(item, field));
        let permission = Permission::new(configure?, write?, read?).map_err(|error| error.to_string())?;
        self.import.permissions.push((text(item, "user")?.into(), self.host_of(item)?, permission));
        Ok(())
    }

    fn topic_permission(&mut self, item: &Item) -> Result<(), String> {
        let (user, host, exchange) = (text(item, "user")?, self.host_of(item)?, text(item, "exchange")?);
        let permission = TopicPermission::new(user, &host, text(item, "write")?, text(item, "read")?);
        let permission = permission.map_err(|error| error.to_string())?;
        self.import.topic_permissions.push((user.into(), host, exchange.into(), permission));
        Ok(())
    }

    fn parameter(&mut self, item: &Item) -> Result<(), String> {
        let virtual_host = self.host_of(item)?;
        let (component, name) = (text(item, "component")?, name(item)?);
        let value = item.get("value").filter(|value| !value.is_null()).ok_or("it has no value")?;
        let fields = || value.as_object().ok_or_else(|| "value should be an object".to_owned());
        if component == OPERATOR_POLICY {
            let policy = policy_of(PolicyKind::Operator, &name, fields()?)?;
            self.import.policies.push((virtual_host, policy));
        } else if (component, &*name) == HOST_LIMITS_PARAMETER {
            let limits = Some(limits_of(value, HOST_LIMITS)?);
            let (metadata, is_protected) = (None, None);
            self.import.hosts.push(ImportedHost { name: virtual_host, metadata, is_protected, limits });
        } else {
            let (component, value) = (component.into(), value.clone());
            self.import.parameters.push(Parameter { virtual_host, component, name, value, set_by: None });
        }
        Ok(())
    }

    fn global_parameter(&mut self, item: &Item) -> Result<(), String> {
        let (name, value) = (name(item)?, item.get("value").ok_or("it has no value")?);
        if !FOREIGN_GLOBALS.contains(&&*name) {
            self.import.global_parameters.push((name, value.clone()));
        }
        Ok(())
    }

    fn policy(&mut self, item: &Item, kind: PolicyKind) -> Result<(), String> {
        let policy = policy_of(kind, &name(item)?, item)?;
        self.import.policies.push((self.host_of(item)?, policy));
        Ok(())
    }

    fn exchange(&mut self, item: &Item) -> Result<(), String> {
        let (virtual_host, name) = (self.host_of(item)?, name(item)?);
        if VirtualHost::is_predeclared(&name) {
            return Ok(());
        }
        let kind: ExchangeKind = exchange_kind(text(item, "type")?).map_err(|refusal| refusal.text)?;
        self.import.exchanges.push(ImportedExchange {
            virtual_host,
            name,
            kind,
            durable: flag(item, "durable")?,
            auto_delete: flag(item, "auto_delete")?,
            internal: flag(item, "internal")?,
            arguments: arguments(item)?,
        });
        Ok(())
    }

    fn queue(&mut self, item: &Item) -> Result<(), String> {
        let mut arguments = arguments(item)?;
        // RabbitMQ 4 has the type of a queue that got it by default beside the arguments.
        if let Some(kind) = item.get("type").and_then(Value::as_str)
            && kind != "classic"
            && arguments.get("x-queue-type").is_none()
        {
            arguments.0.push(("x-queue-type".to_owned(), kind.into()));
        }
        self.import.queues.push(ImportedQueue {
            virtual_host: self.host_of(item)?,
            name: name(item)?,
            durable: flag(item, "durable")?,
            auto_delete: flag(item, "auto_delete")?,
            arguments,
        });
        Ok(())
    }

    fn binding(&mut self, item: &Item) -> Result<(), String> {
        let to_exchange = match text(item, "destination_type")? {
            "queue" => false,
            "exchange" => true,
            other => return Err(format!("destination_type should be queue or exchange, not '{other}'")),
        };
        let source = text(item, "source")?;
        // Every queue has a binding to the default exchange by itself.
        if source.is_empty() {
            return Ok(());
        }
        let binding_key = text(item, "routing_key")?;
        if binding_key.len() > NAME_BYTES_MAX {
            return Err(format!("routing_key has at most {NAME_BYTES_MAX} bytes"));
        }
        self.import.bindings.push(Binding {
            virtual_host: self.host_of(item)?,
            source: source.into(),
            to_exchange,
            destination: text(item, "destination")?.into(),
            binding_key: binding_key.to_owned(),
            arguments: arguments(item)?,
        });
        Ok(())
    }
}

/// What an item is called in a report.
fn name_of(kind: &str, item: &Item) -> String {
    let text = |field| item.get(field).and_then(Value::as_str).unwrap_or_default();
    match kind {
        "permission" | "topic_permission" => text("user").to_owned(),
        "binding" => format!("{} -> {}", text("source"), text("destination")),
        _ => text("name").to_owned(),
    }
}

fn reason(error: &ApiError) -> String {
    match error {
        ApiError::BadRequest(reason) => reason.clone(),
        ApiError::BadTerm(what, value) => format!("{what}: {value}"),
        error => format!("{error:?}"),
    }
}

fn text<'a>(item: &'a Item, field: &str) -> Result<&'a str, String> {
    let value = item.get(field).ok_or_else(|| format!("it has no {field}"))?;
    value.as_str().ok_or_else(|| format!("{field} should be a string"))
}

fn name(item: &Item) -> Result<Arc<str>, String> {
    named(item, "name")
}

/// A field that is the name of something.
fn named(item: &Item, field: &str) -> Result<Arc<str>, String> {
    let name = text(item, field)?;
    match name.len() {
        1..=NAME_BYTES_MAX => Ok(name.into()),
        len => Err(format!("a name has 1 to {NAME_BYTES_MAX} bytes, this has {len}")),
    }
}

/// Whether a virtual host may not be deleted, if the item says so or says that it may.
fn protection(item: &Item) -> Result<Option<bool>, String> {
    let of = |item: &Item| Fields(item.clone()).flag(PROTECTED).map_err(|error| reason(&error));
    let within = item.get("metadata").and_then(Value::as_object).map(of).transpose()?.flatten();
    Ok(of(item)?.or(within))
}

fn flag(item: &Item, field: &str) -> Result<bool, String> {
    match item.get(field) {
        None | Some(Value::Null) => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| format!("{field} should be true or false")),
    }
}

fn arguments(item: &Item) -> Result<Table, String> {
    match item.get("arguments") {
        None | Some(Value::Null) => Ok(Table::default()),
        Some(Value::Object(fields)) => to_table(fields),
        // Erlang has one form for an empty list and an empty object.
        Some(Value::Array(list)) if list.is_empty() => Ok(Table::default()),
        Some(_) => Err("arguments should be an object".to_owned()),
    }
}

fn hash_of(fields: &Fields) -> Result<PasswordHash, String> {
    users::password_of(fields).map_err(|error| reason(&error))
}

/// Limits, as an object or as a list of names and values.
fn limits_of(limits: &Value, names: [&str; 2]) -> Result<[Option<u32>; 2], String> {
    let pairs: Vec<(String, Value)> = match limits {
        Value::Object(limits) => limits.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        Value::Array(limits) => {
            let pair = |limit: &Value| {
                let name = limit.get("name").and_then(Value::as_str).map(str::to_owned);
                Ok((name.ok_or("a limit has a name")?, limit.get("value").cloned().unwrap_or_default()))
            };
            limits.iter().map(pair).collect::<Result<_, String>>()?
        }
        _ => return Err("limits should be an object".to_owned()),
    };
    let mut found = [None, None];
    for (name, value) in pairs {
        let place = names.iter().position(|known| *known == name);
        let place = place.ok_or_else(|| format!("Unrecognised terms [{name}] in limits"))?;
        if let Some(limit) = found.get_mut(place) {
            *limit = limit_of(&name, &value)?;
        }
    }
    Ok(found)
}

/// All definitions.
pub(super) fn export(broker: &Broker) -> Value {
    let mut hosts = broker.virtual_hosts();
    hosts.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let mut users = broker.users.list();
    users.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let mut permissions = broker.permissions.list();
    permissions.sort_unstable_by(|a, b| (&a.1, &a.0).cmp(&(&b.1, &b.0)));
    let mut topics = broker.permissions.list_topics();
    topics.sort_unstable_by(|a, b| (&a.1, &a.0, &a.2.0).cmp(&(&b.1, &b.0, &b.2.0)));
    let mut exported = head(broker, "cluster");
    exported["original_cluster_name"] = broker.identity.cluster_name.as_str().into();
    exported["users"] = users.iter().map(|user| users::shown(user)).collect();
    exported["vhosts"] = hosts.iter().map(|host| shown_host(host)).collect();
    exported["permissions"] = permissions
        .iter()
        .map(|(user, host, permission)| {
            json!({
                "user": user,
                "vhost": host,
                "configure": permission.configure(),
                "write": permission.write(),
                "read": permission.read(),
            })
        })
        .collect();
    exported["topic_permissions"] = topics
        .iter()
        .map(|(user, host, (exchange, permission))| {
            json!({
                "user": user,
                "vhost": host,
                "exchange": exchange,
                "write": permission.write(),
                "read": permission.read(),
            })
        })
        .collect();
    let globals = broker.parameters.globals();
    exported["global_parameters"] =
        globals.iter().map(|(name, value)| json!({"name": &**name, "value": &**value})).collect();
    export_hosts(broker, &hosts, &mut exported);
    exported
}

/// What is in one virtual host: without its name, so that it can go into another one.
pub(super) fn export_host(broker: &Broker, host: &Arc<VirtualHost>) -> Value {
    let mut exported = head(broker, "single_virtual_host");
    let metadata = host.metadata();
    exported["original_vhost_name"] = (&*host.name).into();
    exported["description"] = metadata.description.as_str().into();
    exported["metadata"] = shown_metadata(&metadata).into();
    export_hosts(broker, std::slice::from_ref(host), &mut exported);
    for section in ["parameters", "policies", "exchanges", "queues", "bindings"] {
        let items = exported.get_mut(section).and_then(Value::as_array_mut);
        for item in items.into_iter().flatten().filter_map(Value::as_object_mut) {
            item.remove("vhost");
        }
    }
    exported
}

fn head(broker: &Broker, format: &str) -> Value {
    let identity = &broker.identity;
    json!({
        "rabbit_version": identity.version,
        "rabbitmq_version": identity.version,
        "product_name": identity.product,
        "product_version": identity.version,
        "rabbitmq_definition_format": format,
        "explanation": "Definitions: what was set up, without messages. Passwords are hashes, but parameters may \
                        have some in clear",
    })
}

fn shown_host(host: &VirtualHost) -> Value {
    let metadata = host.metadata();
    let mut shown = json!({
        "name": &*host.name,
        "description": metadata.description,
        "tags": metadata.tags,
        "metadata": shown_metadata(&metadata),
    });
    if let Some(kind) = metadata.default_queue_type {
        shown["default_queue_type"] = kind.short_name().into();
    }
    shown
}

fn export_hosts(broker: &Broker, hosts: &[Arc<VirtualHost>], exported: &mut Value) {
    exported["parameters"] = hosts.iter().flat_map(|host| parameters(broker, host)).collect();
    exported["policies"] =
        hosts.iter().flat_map(|host| policies(host, PolicyKind::User)).map(|policy| policy.shown()).collect();
    exported["exchanges"] = hosts.iter().flat_map(|host| exchanges(host)).collect();
    exported["queues"] = hosts.iter().flat_map(|host| queues(host)).collect();
    exported["bindings"] = hosts.iter().flat_map(|host| bindings(host)).collect();
}

fn policies(host: &VirtualHost, kind: PolicyKind) -> impl Iterator<Item = OfHost> + '_ {
    let policies = host.policies(kind).into_iter();
    policies.map(|policy| OfHost { virtual_host: Arc::clone(&host.name), policy })
}

/// Operator policies and limits are among the parameters, as in RabbitMQ.
fn parameters(broker: &Broker, host: &VirtualHost) -> Vec<Value> {
    let mut shown: Vec<Value> = Vec::new();
    let connections_max = broker.counts.virtual_host_max(&host.name).flatten();
    let limits: Item = HOST_LIMITS
        .into_iter()
        .zip([connections_max, host.queues_max()])
        .filter_map(|(name, limit)| Some((name.to_owned(), limit?.into())))
        .collect();
    let mut add = |component: &str, name: &str, value: Value| {
        shown.push(json!({"vhost": &*host.name, "component": component, "name": name, "value": value}));
    };
    if !limits.is_empty() {
        add(HOST_LIMITS_PARAMETER.0, HOST_LIMITS_PARAMETER.1, limits.into());
    }
    for policy in policies(host, PolicyKind::Operator) {
        let mut value = policy.shown();
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|field, _| field != "vhost" && field != "name");
        }
        add(OPERATOR_POLICY, &policy.policy.name, value);
    }
    for parameter in broker.parameters.list().iter().filter(|own| own.virtual_host == host.name) {
        add(&parameter.component, &parameter.name, parameter.value.clone());
    }
    shown
}

/// Those that are not there by themselves, by name.
fn exchanges(host: &VirtualHost) -> Vec<Value> {
    let mut exchanges = host.exchanges();
    exchanges.retain(|exchange| is_own(&exchange.name));
    exchanges.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let shown = exchanges.iter().map(|exchange| {
        let properties = &exchange.properties;
        json!({
            "name": &*exchange.name,
            "vhost": &*host.name,
            "type": properties.kind.name(),
            "durable": properties.durable,
            "auto_delete": properties.auto_delete,
            "internal": properties.internal,
            "arguments": from_table(&properties.table),
        })
    });
    shown.collect()
}

fn is_own(exchange: &str) -> bool {
    !exchange.is_empty() && !exchange.starts_with("amq.")
}

/// Those that belong to no connection and to no exchange, by name.
fn queues(host: &VirtualHost) -> Vec<Value> {
    let mut queues = host.queues();
    queues.retain(|queue| is_exported(&queue.name, queue.properties.exclusive.is_some()));
    queues.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let shown = queues.iter().map(|queue| {
        json!({
            "name": &*queue.name,
            "vhost": &*host.name,
            "durable": queue.properties.durable,
            "auto_delete": queue.properties.auto_delete,
            "arguments": from_table(&queue.properties.table),
        })
    });
    shown.collect()
}

fn is_exported(queue: &str, is_exclusive: bool) -> bool {
    !is_exclusive && delay::exchange_of(queue).is_none()
}

fn bindings(host: &VirtualHost) -> Vec<Value> {
    let mut shown = Vec::new();
    for source in host.exchanges() {
        source.each_binding(|key, arguments, destination| {
            let (kind, name, is_shown) = match destination {
                Destination::Queue(queue) => {
                    let is_exclusive = queue.properties.exclusive.is_some();
                    ("queue", &queue.name, is_exported(&queue.name, is_exclusive))
                }
                Destination::Exchange(exchange) => ("exchange", &exchange.name, true),
            };
            if is_shown {
                shown.push(json!({
                    "source": &*source.name,
                    "vhost": &*host.name,
                    "destination": &**name,
                    "destination_type": kind,
                    "routing_key": key,
                    "arguments": from_table(arguments),
                }));
            }
        });
    }
    // By itself the order of bindings is a new one at each start.
    shown.sort_by_cached_key(|binding: &Value| binding.to_string());
    shown
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    use super::*;
    use crate::broker::{Identity, Now, journal::Lsn, limit::Limits, permission::Permissions, user::Users};

    /// What RabbitMQ 3.10.8 exported.
    const RABBITMQ: &str = include_str!("../../tests/management/rabbitmq-3.10.8.json");

    fn broker() -> Broker {
        let limits = Limits {
            frame_max: 131_072,
            channel_max: 10,
            heartbeat_secs: 60,
            handshake_timeout_ms: 10_000,
            message_bytes_max: 4 << 20,
            connections_max: None,
            channels_max: None,
            consumers_per_channel_max: None,
            queues_max: None,
            unsent_bytes_per_connection: 64 << 10,
        };
        let identity =
            Identity { product: "RabbitMQ".into(), version: "3.13.7".into(), cluster_name: "test".into() };
        let broker = Broker::new(Users::new([9; 4]), Permissions::new(), limits, identity);
        broker.add_virtual_host("/", None, None);
        broker
    }

    fn rabbitmq_with_guest() -> Value {
        let mut definitions: Value = serde_json::from_str(RABBITMQ).expect("JSON");
        definitions["users"].as_array_mut().expect("a list").push(json!({"name": "guest", "tags": []}));
        definitions
    }

    fn import(broker: &Broker, octets: &[u8]) -> Result<Lsn, Vec<Refused>> {
        let import = read(octets, None)?;
        broker.import(import, None, Now::made_up(1000))
    }

    fn replacement() -> impl Strategy<Value = Option<Value>> {
        let value = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            prop_oneof![
                Just("("),
                Just(""),
                Just("/"),
                Just("amq.x"),
                Just("shop"),
                Just("orders"),
                Just("any")
            ]
            .prop_map(Value::from),
            "\\PC{0,300}".prop_map(Value::from),
            Just(json!([])),
            Just(json!([1, {"a": []}])),
            Just(json!({"x-max-length": -1})),
            Just(json!({"x-dead-letter-exchange": 7, "k": {"deep": [[[[]]]]}})),
        ];
        prop::option::weighted(0.8, value)
    }

    /// How many values there are in a value.
    fn count(value: &Value) -> usize {
        1 + match value {
            Value::Array(values) => values.iter().map(count).sum(),
            Value::Object(fields) => fields.values().map(count).sum::<usize>(),
            _ => 0,
        }
    }

    /// Replaces the value of that number, or takes it away.
    fn mutate(value: &mut Value, number: &mut usize, by: &Option<Value>) -> bool {
        if *number == 0 {
            if let Some(by) = by {
                *value = by.clone();
            }
            return by.is_none();
        }
        *number -= 1;
        let mut removed = None;
        match value {
            Value::Array(values) => {
                for (index, value) in values.iter_mut().enumerate() {
                    let size = count(value);
                    if *number < size {
                        removed = mutate(value, number, by).then_some(index);
                        break;
                    }
                    *number -= size;
                }
                removed.map(|index| values.remove(index));
            }
            Value::Object(fields) => {
                let mut removed = None;
                for (name, value) in fields.iter_mut() {
                    let size = count(value);
                    if *number < size {
                        removed = mutate(value, number, by).then(|| name.clone());
                        break;
                    }
                    *number -= size;
                }
                removed.map(|name| fields.remove(&name));
            }
            _ => {}
        }
        false
    }

    proptest! {
        #[test]
        fn a_file_that_was_changed_anywhere_is_imported_as_a_whole_or_not_at_all(
            changes in prop::collection::vec((any::<Index>(), replacement()), 1..4),
        ) {
            let mut definitions = rabbitmq_with_guest();
            for (index, by) in changes {
                let mut number = index.index(count(&definitions));
                mutate(&mut definitions, &mut number, &by);
            }
            let broker = broker();
            let before = (export(&broker), broker.journal.last());
            match import(&broker, definitions.to_string().as_bytes()) {
                Err(refused) => {
                    prop_assert!(!refused.is_empty() && !report(&refused).is_empty());
                    prop_assert_eq!((export(&broker), broker.journal.last()), before);
                }
                Ok(_) => {
                    let exported = export(&broker);
                    let again = import(&broker, exported.to_string().as_bytes());
                    prop_assert!(again.is_ok(), "what was exported is imported: {:?}", again);
                    prop_assert_eq!(export(&broker), exported);
                }
            }
        }

        #[test]
        fn whatever_octets_come_nothing_breaks(octets in prop::collection::vec(any::<u8>(), 0..200)) {
            let may_be_object = octets.contains(&b'{');
            prop_assert!(read(&octets, None).is_err() || may_be_object);
        }
    }

    #[test]
    fn rabbitmqs_file_is_imported_as_a_whole() {
        let broker = broker();
        let refused = import(&broker, RABBITMQ.as_bytes()).expect_err("there is no guest");
        assert_eq!(
            report(&refused),
            "nothing was imported, for this can't be:\n- permission 'guest': there is no user 'guest'"
        );
        import(&broker, rabbitmq_with_guest().to_string().as_bytes()).expect("sound");
        assert_eq!(export(&broker)["queues"].as_array().map(Vec::len), Some(4));
    }
}
