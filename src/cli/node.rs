//! `leveret status`, `health`, `close`, `memory-limit` and `api`: the broker as a whole.

use std::io::Write;

use serde_json::{Value, json};
use ureq::http::Method;

use super::{
    Context, Failure, Task,
    api::{Api, path},
    options::{Format, read_input},
    rabbitmq,
    table::{self, Column, value_at},
    topology::in_vhost,
};

/// Show what the broker is, what it holds and how it is.
#[derive(clap::Args)]
pub struct Status {}

/// Check the broker's health: exits with 0 if it is well, 1 if a check fails, 69 if it does not answer.
///
/// Without a check, it is asked whether it serves clients, which is what a container's health check should ask: an alarm
/// blocks publishers, but a restart would not help. That one check needs no login, unless RabbitMQ is asked.
#[derive(clap::Args)]
pub struct Health {
    /// amqp: clients are served; alarms: neither memory nor disk space is low; vhosts: all are there; port N: something
    /// listens there; certificates: none expires within N days
    #[arg(value_enum, default_values = ["amqp"])]
    checks: Vec<Check>,
    /// The port for the check `port`
    #[arg(long, value_name = "N", required_if_eq("checks", "port"))]
    port: Option<u16>,
    /// The days for the check `certificates`
    #[arg(long, value_name = "N", default_value_t = 14)]
    days: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Check {
    Amqp,
    Alarms,
    Vhosts,
    Port,
    Certificates,
}

/// Close connections; their clients are told the reason.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["connections", "of_user", "all"]))]
pub struct Close {
    /// Names, as `leveret list connections` shows them
    #[arg(value_name = "CONNECTION")]
    connections: Vec<String>,
    /// All of this user
    #[arg(long, value_name = "NAME")]
    of_user: Option<String>,
    /// All, or all in the virtual host if --vhost is given
    #[arg(long)]
    all: bool,
    /// Why: the client sees it
    #[arg(long, value_name = "TEXT", default_value = "Closed via leveret")]
    reason: String,
}

/// Change how much memory may be in use before publishers are blocked, until the broker's next start.
#[derive(clap::Args)]
pub struct MemoryLimit {
    /// A part of the memory such as 0.6, or a size of at least 16MiB such as 2GiB, 512MB or a number of bytes
    limit: String,
}

/// Send any request to the management API, and print the answer.
///
/// For example: leveret api GET queues/%2F
#[derive(clap::Args)]
pub struct Request {
    /// GET, PUT, POST or DELETE
    method: String,
    /// Path below /api
    path: String,
    /// Body as JSON; - reads it from standard input
    body: Option<String>,
}

/// Less would block publishers for good: the broker itself needs as much.
const MEMORY_LIMIT_BYTES_MIN: u64 = 16 << 20;

const STATUS: [Column; 21] = [
    Column::of("product", "product"),
    Column::of("version", "version"),
    Column::of("compatible with", "compatible"),
    Column::of("node", "overview.node"),
    Column::of("cluster", "overview.cluster_name"),
    Column::of("up for", "uptime"),
    Column::of("alarms", "alarms"),
    Column::of("memory", "memory"),
    Column::of("disk free", "disk"),
    Column::of("connections", "overview.object_totals.connections"),
    Column::of("channels", "overview.object_totals.channels"),
    Column::of("consumers", "overview.object_totals.consumers"),
    Column::of("exchanges", "overview.object_totals.exchanges"),
    Column::of("queues", "overview.object_totals.queues"),
    Column::of("messages", "overview.queue_totals.messages"),
    Column::of("  ready", "overview.queue_totals.messages_ready"),
    Column::of("  unacked", "overview.queue_totals.messages_unacknowledged"),
    Column::of("published/s", "overview.message_stats.publish_details.rate"),
    Column::of("delivered/s", "overview.message_stats.deliver_get_details.rate"),
    Column::of("acked/s", "overview.message_stats.ack_details.rate"),
    Column::of("listeners", "listeners"),
];

impl Task for Status {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let overview = context.api.get("overview")?;
        // Only for those who may see everything.
        let node = match context.api.list("nodes") {
            Ok(nodes) => nodes.into_iter().find(|node| node["name"] == overview["node"]).unwrap_or_default(),
            Err(Failure::Denied(_)) => Value::Null,
            Err(failure) => return Err(failure),
        };
        let listeners = overview["listeners"].as_array().into_iter().flatten();
        let listeners: Vec<_> = listeners.map(listener).collect();
        let (product, version) = product(&overview);
        let compatible = overview["leveret_version"].as_str().and(overview["rabbitmq_version"].as_str());
        let status = json!({
            "product": product,
            "version": version,
            "compatible": compatible.map(|version| format!("RabbitMQ {version}")),
            "uptime": node["uptime"].as_u64().map(|ms| duration(ms / 1000)),
            "alarms": alarms(&node),
            "memory": used_of(&node["mem_used"], &node["mem_limit"], "of"),
            "disk": used_of(&node["disk_free"], &node["disk_free_limit"], "must be above"),
            "listeners": listeners.join(", "),
            "overview": overview,
            "node": node,
        });
        if context.format == Format::Json {
            return table::print_json(&json!({"overview": status["overview"], "node": status["node"]}));
        }
        let known: Vec<_> =
            STATUS.iter().filter(|column| !value_at(&status, &column.field).is_null()).cloned().collect();
        table::print_one(context, &status, &known)
    }
}

/// What the broker is, whatever it tells its clients.
pub(super) fn product(overview: &Value) -> (&str, &str) {
    let text = |field: &str| overview[field].as_str();
    match text("leveret_version") {
        Some(version) => ("Leveret", version),
        None => (
            text("product_name").unwrap_or("RabbitMQ"),
            text("product_version").or(text("rabbitmq_version")).unwrap_or_default(),
        ),
    }
}

fn listener(listener: &Value) -> String {
    let address = listener["ip_address"].as_str().unwrap_or_default();
    let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    format!("{} on {address}:{}", listener["protocol"].as_str().unwrap_or_default(), listener["port"])
}

fn alarms(node: &Value) -> Option<&'static str> {
    match (node["mem_alarm"].as_bool()?, node["disk_free_alarm"].as_bool()?) {
        (false, false) => Some("none"),
        (true, false) => Some("memory: publishers are blocked"),
        (false, true) => Some("disk space: publishers are blocked"),
        (true, true) => Some("memory and disk space: publishers are blocked"),
    }
}

fn used_of(value: &Value, limit: &Value, relation: &str) -> Option<String> {
    Some(format!("{} ({relation} {})", bytes(value.as_u64()?), bytes(limit.as_u64()?)))
}

/// A number of bytes for people.
fn bytes(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, size)| bytes >= *size) {
        // A tenth more or less says nothing.
        #[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
        Some((unit, size)) => format!("{:.1} {unit}", bytes as f64 / size as f64),
        None => format!("{bytes} B"),
    }
}

/// Seconds for people.
fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

impl Task for Health {
    fn run(self, context: &Context) -> Result<(), Failure> {
        for check in &self.checks {
            let path = match check {
                Check::Amqp => match is_accepting(&context.api)? {
                    Accepting::Yes => continue,
                    Accepting::No(reason) => return Err(Failure::Failed(reason)),
                    Accepting::Unsaid => path(&["health", "checks", "protocol-listener", "amqp"]),
                },
                Check::Alarms => path(&["health", "checks", "alarms"]),
                Check::Vhosts => path(&["health", "checks", "virtual-hosts"]),
                Check::Port => {
                    path(&["health", "checks", "port-listener", &self.port.unwrap_or_default().to_string()])
                }
                Check::Certificates => {
                    path(&["health", "checks", "certificate-expiration", &self.days.to_string(), "days"])
                }
            };
            // 503 with a reason is the answer of a check that has failed.
            context.api.get(&path).map_err(|failure| match failure {
                Failure::Unavailable(reason) if !reason.starts_with("cannot reach") => {
                    Failure::Failed(reason)
                }
                failure => failure,
            })?;
        }
        context.say("ok")
    }
}

/// Whether a broker takes new AMQP connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Accepting {
    Yes,
    /// It says why not.
    No(String),
    /// RabbitMQ's API does not tell, and is there only if it does.
    Unsaid,
}

/// Asks without a login, and with it those that tell nothing without one.
pub(super) fn is_accepting(api: &Api) -> Result<Accepting, Failure> {
    match api.health() {
        Ok(()) => return Ok(Accepting::Yes),
        Err(Failure::Failed(reason)) => return Ok(Accepting::No(reason)),
        Err(Failure::Missing(_)) => {}
        Err(failure) => return Err(failure),
    }
    match api.get("leveret/amqp") {
        Ok(answer) if answer["accepting"] == false => {
            Ok(Accepting::No("new AMQP connections are turned away, as an operator wants".to_owned()))
        }
        Ok(_) => Ok(Accepting::Yes),
        Err(Failure::Missing(_)) => Ok(Accepting::Unsaid),
        Err(failure) => Err(failure),
    }
}

impl Task for Close {
    fn run(self, context: &Context) -> Result<(), Failure> {
        if !self.connections.is_empty() {
            for name in &self.connections {
                let closed = context.api.close_connection(name, &self.reason);
                closed.map_err(|failure| failure.missing(format!("connection '{name}'")))?;
            }
            return context.say(format!("{} connections are closed", self.connections.len()));
        }
        let list = match (&self.of_user, context.chosen_vhost()) {
            (Some(user), _) => path(&["connections", "username", user]),
            (None, Some(vhost)) => path(&["vhosts", vhost, "connections"]),
            (None, None) => path(&["connections"]),
        };
        let open = context.api.list(&list).map_err(|failure| match &self.of_user {
            Some(user) => failure.missing(format!("user '{user}'")),
            None => in_vhost(failure, context.vhost()),
        })?;
        let closed = close_all(context, &open, &self.reason)?;
        context.say(format!("{closed} connections are closed"))
    }
}

/// Closes these connections; one that has ended by itself meanwhile does not count.
fn close_all(context: &Context, connections: &[Value], reason: &str) -> Result<usize, Failure> {
    let mut progress = context.progress();
    let mut closed = 0;
    for connection in connections {
        match context.api.close_connection(connection["name"].as_str().unwrap_or_default(), reason) {
            Ok(()) => closed += 1,
            Err(Failure::Missing(_)) => {}
            Err(failure) => return Err(failure),
        }
        progress.show(&format!("{closed} of {} connections are closed", connections.len()));
    }
    Ok(closed)
}

impl Task for MemoryLimit {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let limit = memory_limit(&self.limit)?;
        let watermark = "leveret/memory-high-watermark";
        let done = context.api.put(watermark, &json!({"value": limit}));
        done.map_err(|failure| match failure {
            Failure::Missing(_) => Failure::Refused("this broker can't change it while it runs".to_owned()),
            failure => failure,
        })?;
        let set = context.api.get(watermark)?["bytes"].as_u64().or(limit.as_u64()).unwrap_or_default();
        context.say(format!("publishers are blocked above {}", bytes(set)))
    }
}

/// A part of the memory, which has a point or is 0 or 1, or a size with one of RabbitMQ's units.
fn memory_limit(text: &str) -> Result<Value, Failure> {
    let part = text.parse::<f64>().ok().filter(|_| text.contains('.') || ["0", "1"].contains(&text));
    if let Some(part) = part {
        return Ok(Value::from(part));
    }
    match rabbitmq::bytes(text) {
        Some(bytes) if bytes < MEMORY_LIMIT_BYTES_MIN => Err(Failure::Usage(format!(
            "{bytes} bytes are less than the 16 MiB that the broker needs at least; give a part of the memory such as \
             0.6, or a size such as 2GiB"
        ))),
        Some(bytes) => Ok(Value::from(bytes)),
        None => Err(Failure::Usage(format!(
            "'{text}' is neither a part of the memory such as 0.6 nor a size such as 2GiB"
        ))),
    }
}

impl Task for Request {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let method = Method::from_bytes(self.method.to_ascii_uppercase().as_bytes())
            .map_err(|_| Failure::Usage(format!("'{}' is not a method", self.method)))?;
        let body = match self.body.as_deref() {
            Some("-") => Some(String::from_utf8_lossy(&read_input("-")?).into_owned()),
            body => body.map(str::to_owned),
        };
        let body = body.map(|body| serde_json::from_str::<Value>(&body)).transpose();
        let body = body.map_err(|error| Failure::Usage(format!("the body is not JSON: {error}")))?;
        let below = self.path.trim_start_matches('/');
        let below = below.strip_prefix("api/").unwrap_or(below);
        let answer = context.api.send(method, below, body.as_ref())?;
        if answer.is_null() {
            return Ok(());
        }
        if context.quiet {
            return writeln!(std::io::stdout(), "{answer}").map_err(Failure::from);
        }
        table::print_json(&answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(3 << 20), "3.0 MiB");
        assert_eq!(bytes(u64::MAX), "17179869184.0 GiB");
        let shown = [59, 60, 3660, 90_000].map(duration);
        assert_eq!(shown, ["59 s", "1 min", "1 h 1 min", "1 d 1 h"]);
    }

    #[test]
    fn a_memory_limit_is_a_part_or_a_size() {
        assert_eq!(memory_limit("0.6"), Ok(json!(0.6)));
        assert_eq!(memory_limit("1"), Ok(json!(1.0)));
        assert_eq!(memory_limit("512MiB"), Ok(json!(512 << 20)));
        assert_eq!(memory_limit("1GB"), Ok(json!(1_000_000_000)));
        assert!(memory_limit("2").unwrap_err().to_string().starts_with("2 bytes are less than the 16 MiB"));
        assert!(memory_limit("much").is_err() && memory_limit("1.5GB").is_err());
    }
}
