//! `list_queues` and the other lists, from those of the API.

use serde_json::{Value, json};

use super::{Call, DATA, Refusal, UNAVAILABLE, output::Output};
use crate::cli::{access::tags, api::path, failure::Failure, table::value_at};

/// Columns that a list has beside its default ones, and those of all of them.
pub(super) const QUEUE_COLUMNS: &[&str] = &[
    "name",
    "durable",
    "auto_delete",
    "arguments",
    "policy",
    "operator_policy",
    "effective_policy_definition",
    "pid",
    "owner_pid",
    "exclusive",
    "exclusive_consumer_pid",
    "exclusive_consumer_tag",
    "messages_ready",
    "messages_unacknowledged",
    "messages",
    "messages_ready_ram",
    "messages_unacknowledged_ram",
    "messages_ram",
    "messages_persistent",
    "message_bytes",
    "message_bytes_ready",
    "message_bytes_unacknowledged",
    "message_bytes_ram",
    "message_bytes_persistent",
    "head_message_timestamp",
    "disk_reads",
    "disk_writes",
    "consumers",
    "consumer_utilisation",
    "consumer_capacity",
    "memory",
    "slave_pids",
    "synchronised_slave_pids",
    "state",
    "type",
    "leader",
    "members",
    "online",
];
/// See above.
pub(super) const EXCHANGE_COLUMNS: &[&str] =
    &["name", "type", "durable", "auto_delete", "internal", "arguments", "policy"];
/// See above.
pub(super) const BINDING_COLUMNS: &[&str] =
    &["source_name", "source_kind", "destination_name", "destination_kind", "routing_key", "arguments"];
/// See above.
pub(super) const CONNECTION_COLUMNS: &[&str] = &[
    "pid",
    "name",
    "port",
    "host",
    "peer_port",
    "peer_host",
    "ssl",
    "ssl_protocol",
    "ssl_key_exchange",
    "ssl_cipher",
    "ssl_hash",
    "peer_cert_subject",
    "peer_cert_issuer",
    "peer_cert_validity",
    "state",
    "channels",
    "protocol",
    "auth_mechanism",
    "user",
    "vhost",
    "timeout",
    "frame_max",
    "channel_max",
    "client_properties",
    "connected_at",
    "recv_oct",
    "recv_cnt",
    "send_oct",
    "send_cnt",
    "send_pend",
    "user_provided_name",
];
/// See above.
pub(super) const CHANNEL_COLUMNS: &[&str] = &[
    "pid",
    "connection",
    "name",
    "number",
    "user",
    "vhost",
    "transactional",
    "confirm",
    "consumer_count",
    "messages_unacknowledged",
    "messages_uncommitted",
    "acks_uncommitted",
    "messages_unconfirmed",
    "prefetch_count",
    "global_prefetch_count",
];
/// See above.
pub(super) const CONSUMER_COLUMNS: &[&str] = &[
    "queue_name",
    "channel_pid",
    "consumer_tag",
    "exclusive",
    "ack_required",
    "prefetch_count",
    "active",
    "activity_status",
    "arguments",
];
/// See above.
pub(super) const VHOST_COLUMNS: &[&str] =
    &["name", "description", "tags", "default_queue_type", "tracing", "cluster_state"];

/// The columns that were asked for, separated by spaces or commas, or these.
fn columns(call: &Call<'_>, default: &[&str]) -> Vec<String> {
    if call.arguments.is_empty() {
        return default.iter().map(|column| (*column).to_owned()).collect();
    }
    let asked = call.arguments.iter().flat_map(|argument| argument.split(','));
    asked.filter(|column| !column.is_empty()).map(str::to_owned).collect()
}

fn rows(columns: Vec<String>, rows: &[Value], value: impl Fn(&Value, &str) -> Value) -> Output {
    let rows = rows.iter().map(|row| columns.iter().map(|column| value(row, column)).collect()).collect();
    Output::Rows(columns, rows)
}

/// A list of what is in a virtual host. RabbitMQ's tools know no list of a virtual host that is not there, and print an
/// empty one.
fn in_vhost(call: &Call<'_>, things: &str) -> Result<Vec<Value>, Refusal> {
    match call.api.list(&path(&[things, call.vhost()])) {
        Err(Failure::Missing(_)) => Ok(Vec::new()),
        other => Ok(other?),
    }
}

pub(super) fn queues(call: &Call<'_>) -> Result<Output, Refusal> {
    let queues = in_vhost(call, "queues")?;
    Ok(rows(columns(call, &["name", "messages"]), &queues, |queue, column| match column {
        "pid" => pid(call, &[text(queue, "vhost"), text(queue, "name")].concat(), 0),
        "owner_pid" => match queue["owner_pid_details"]["name"].as_str() {
            Some(name) => connection_pid(call, name, &queue["owner_pid_details"]["peer_port"]),
            None => Value::Null,
        },
        column => queue[column].clone(),
    }))
}

pub(super) fn exchanges(call: &Call<'_>) -> Result<Output, Refusal> {
    let exchanges = in_vhost(call, "exchanges")?;
    Ok(rows(columns(call, &["name", "type"]), &exchanges, |exchange, column| exchange[column].clone()))
}

pub(super) fn bindings(call: &Call<'_>) -> Result<Output, Refusal> {
    let bindings = in_vhost(call, "bindings")?;
    Ok(rows(columns(call, BINDING_COLUMNS), &bindings, |binding, column| match column {
        "source_name" => binding["source"].clone(),
        "source_kind" => Value::from("exchange"),
        "destination_name" => binding["destination"].clone(),
        "destination_kind" => binding["destination_type"].clone(),
        column => binding[column].clone(),
    }))
}

pub(super) fn connections(call: &Call<'_>) -> Result<Output, Refusal> {
    let connections = call.api.list("connections")?;
    let default = ["user", "peer_host", "peer_port", "state"];
    Ok(rows(columns(call, &default), &connections, |connection, column| match column {
        "pid" => connection_pid(call, text(connection, "name"), &connection["peer_port"]),
        "protocol" => protocol(&connection["protocol"]),
        column => connection[column].clone(),
    }))
}

pub(super) fn channels(call: &Call<'_>) -> Result<Output, Refusal> {
    let channels = call.api.list("channels")?;
    let default = ["pid", "user", "consumer_count", "messages_unacknowledged"];
    Ok(rows(columns(call, &default), &channels, |channel, column| match column {
        "pid" => channel_pid(call, channel, text(channel, "name")),
        "connection" => {
            let details = &channel["connection_details"];
            connection_pid(call, text(details, "name"), &details["peer_port"])
        }
        column => channel[column].clone(),
    }))
}

pub(super) fn consumers(call: &Call<'_>) -> Result<Output, Refusal> {
    let consumers = in_vhost(call, "consumers")?;
    let default = [
        "queue_name",
        "channel_pid",
        "consumer_tag",
        "ack_required",
        "prefetch_count",
        "active",
        "arguments",
    ];
    Ok(rows(columns(call, &default), &consumers, |consumer, column| match column {
        "queue_name" => value_at(consumer, "queue.name").clone(),
        "channel_pid" => {
            let channel = &consumer["channel_details"];
            channel_pid(call, channel, text(channel, "name"))
        }
        column => consumer[column].clone(),
    }))
}

pub(super) fn vhosts(call: &Call<'_>) -> Result<Output, Refusal> {
    let vhosts = call.api.list("vhosts")?;
    Ok(rows(columns(call, &["name"]), &vhosts, |vhost, column| vhost[column].clone()))
}

pub(super) fn users(call: &Call<'_>) -> Result<Output, Refusal> {
    let users = call.api.list("users")?;
    Ok(rows(names(&["user", "tags"]), &users, |user, column| match column {
        "user" => user["name"].clone(),
        _ => tags(user).split(',').filter(|tag| !tag.is_empty()).collect(),
    }))
}

pub(super) fn permissions(call: &Call<'_>) -> Result<Output, Refusal> {
    let permissions = call.api.list(&path(&["vhosts", call.vhost(), "permissions"]));
    let permissions = permissions.map_err(|failure| no_vhost(call, failure))?;
    Ok(rows(names(&["user", "configure", "write", "read"]), &permissions, |row, column| row[column].clone()))
}

pub(super) fn user_permissions(call: &Call<'_>) -> Result<Output, Refusal> {
    let permissions = call.api.list(&path(&["users", call.argument(0), "permissions"]));
    let permissions = permissions.map_err(|failure| no_user(call, failure))?;
    Ok(rows(names(&["vhost", "configure", "write", "read"]), &permissions, |row, column| row[column].clone()))
}

pub(super) fn topic_permissions(call: &Call<'_>) -> Result<Output, Refusal> {
    let permissions = call.api.list(&path(&["vhosts", call.vhost(), "topic-permissions"]));
    let permissions = permissions.map_err(|failure| no_vhost(call, failure))?;
    Ok(rows(names(&["user", "exchange", "write", "read"]), &permissions, |row, column| row[column].clone()))
}

pub(super) fn user_topic_permissions(call: &Call<'_>) -> Result<Output, Refusal> {
    let permissions = call.api.list(&path(&["users", call.argument(0), "topic-permissions"]));
    let permissions = permissions.map_err(|failure| no_user(call, failure))?;
    Ok(rows(names(&["vhost", "exchange", "write", "read"]), &permissions, |row, column| row[column].clone()))
}

pub(super) fn policies(call: &Call<'_>) -> Result<Output, Refusal> {
    policies_of(call, "policies")
}

pub(super) fn operator_policies(call: &Call<'_>) -> Result<Output, Refusal> {
    policies_of(call, "operator-policies")
}

fn policies_of(call: &Call<'_>, things: &str) -> Result<Output, Refusal> {
    let policies = call.api.list(&path(&[things, call.vhost()]));
    let policies = policies.map_err(|failure| no_vhost(call, failure))?;
    let columns = names(&["vhost", "name", "pattern", "apply-to", "definition", "priority"]);
    Ok(rows(columns, &policies, |policy, column| as_text(column == "definition", &policy[column])))
}

pub(super) fn parameters(call: &Call<'_>) -> Result<Output, Refusal> {
    let mut parameters = call.api.list("parameters")?;
    parameters.retain(|parameter| parameter["vhost"] == call.vhost());
    let columns = names(&["component", "name", "value"]);
    Ok(rows(columns, &parameters, |parameter, column| as_text(column == "value", &parameter[column])))
}

pub(super) fn global_parameters(call: &Call<'_>) -> Result<Output, Refusal> {
    let parameters = call.api.list("global-parameters")?;
    Ok(rows(names(&["name", "value"]), &parameters, |row, column| as_text(column == "value", &row[column])))
}

pub(super) fn feature_flags(call: &Call<'_>) -> Result<Output, Refusal> {
    let flags = call.api.list("feature-flags")?;
    Ok(rows(columns(call, &["name", "state"]), &flags, |flag, column| flag[column].clone()))
}

fn names(columns: &[&str]) -> Vec<String> {
    columns.iter().map(|column| (*column).to_owned()).collect()
}

/// JSON as it was written, for a column that holds JSON.
fn as_text(is_json: bool, value: &Value) -> Value {
    if is_json { Value::from(value.to_string()) } else { value.clone() }
}

fn no_vhost(call: &Call<'_>, failure: Failure) -> Refusal {
    match failure {
        Failure::Missing(_) => Refusal::bare(DATA, format!("Virtual host '{}' does not exist", call.vhost())),
        failure => failure.into(),
    }
}

fn no_user(call: &Call<'_>, failure: Failure) -> Refusal {
    match failure {
        Failure::Missing(_) => {
            Refusal::new(UNAVAILABLE, format!("{{:no_such_user, {}}}", json!(call.argument(0))))
        }
        failure => failure.into(),
    }
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_default()
}

/// A version of AMQP as Erlang has it.
fn protocol(value: &Value) -> Value {
    match value.as_str().and_then(|text| text.strip_prefix("AMQP ")) {
        Some(version) => Value::from(format!("{{{}}}", version.replace('-', ","))),
        None => value.clone(),
    }
}

/// What stands for an Erlang process: scripts take it from a list and hand it to `close_connection`. It follows from a
/// name, so that the name can be found again.
fn pid(call: &Call<'_>, name: &str, number: u64) -> Value {
    Value::from(format!("<{}.{}.{number}.0>", call.node, crc32fast::hash(name.as_bytes())))
}

/// That of a connection.
pub(super) fn connection_pid(call: &Call<'_>, name: &str, peer_port: &Value) -> Value {
    pid(call, name, peer_port.as_u64().unwrap_or_default())
}

fn channel_pid(call: &Call<'_>, channel: &Value, name: &str) -> Value {
    pid(call, name, channel["number"].as_u64().unwrap_or_default())
}
