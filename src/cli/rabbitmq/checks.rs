//! Whether the broker is there, and how it is.

use std::{
    fmt::Write as _,
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Call, Refusal, UNAVAILABLE, output::Output};
use crate::cli::{
    api::path,
    failure::Failure,
    node::{Accepting, is_accepting, product},
    options::pause,
};

/// How often a broker that starts is asked.
const POLL: Duration = Duration::from_millis(500);
/// How long it may take to start if nobody says.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a listener may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Whoever answers is alive, whatever the answer is: that a password is wrong is no reason for a restart.
pub(super) fn ping(call: &Call<'_>) -> Result<Output, Refusal> {
    match call.api.answers() {
        Ok(()) => Ok(Output::Text("Ping succeeded".into())),
        Err(failure) => Err(Refusal::new(
            UNAVAILABLE,
            format!(
                "Failed to connect and authenticate to {} in {} ms\n{failure}",
                call.node,
                call.options.timeout_secs * 1000
            ),
        )),
    }
}

/// Deviation: it waits until the broker can be reached, too. RabbitMQ's gives up if there is no node yet.
pub(super) fn await_startup(call: &Call<'_>) -> Result<Output, Refusal> {
    let timeout = match call.options.timeout_secs {
        secs if call.options.has_timeout && secs > 0 => Duration::from_secs(secs),
        _ => STARTUP_TIMEOUT,
    };
    let started = Instant::now();
    loop {
        let failure = match is_accepting(&call.api) {
            Ok(Accepting::Yes | Accepting::Unsaid) => return Ok(Output::Done),
            Ok(Accepting::No(_)) => Refusal::bare(UNAVAILABLE, format!("Error: {}", not_running(call))),
            // Waiting does not help who may not log in.
            Err(failure @ Failure::Denied(_)) => return Err(failure.into()),
            Err(failure) => failure.into(),
        };
        if started.elapsed() + POLL > timeout {
            return Err(failure);
        }
        pause(POLL);
    }
}

pub(super) fn check_running(call: &Call<'_>) -> Result<Output, Refusal> {
    match is_accepting(&call.api)? {
        Accepting::Yes | Accepting::Unsaid => {
            Ok(Output::Text(format!("RabbitMQ on node {} is fully booted and running", call.node)))
        }
        Accepting::No(_) => Err(Refusal::bare(UNAVAILABLE, format!("Error:\n{}", not_running(call)))),
    }
}

fn not_running(call: &Call<'_>) -> String {
    format!(
        "RabbitMQ on node {} is not running or has not fully booted yet (check with is_booting)",
        call.node
    )
}

pub(super) fn is_booting(call: &Call<'_>) -> Result<Output, Refusal> {
    call.api.answers()?;
    let text = "is fully booted (check with is_running), stopped or has not started booting yet";
    Ok(Output::Text(format!("RabbitMQ on node {} {text}", call.node)))
}

pub(super) fn check_local_alarms(call: &Call<'_>) -> Result<Output, Refusal> {
    check_alarms_of(call, "local-alarms", "local alarms")
}

pub(super) fn check_alarms(call: &Call<'_>) -> Result<Output, Refusal> {
    check_alarms_of(call, "alarms", "alarms, local or clusterwide")
}

fn check_alarms_of(call: &Call<'_>, check: &str, none: &str) -> Result<Output, Refusal> {
    match call.api.get(&path(&["health", "checks", check])) {
        Ok(_) => Ok(Output::Both(format!("Node {} reported no {none}", call.node), json!({"result": "ok"}))),
        Err(Failure::Unavailable(reason)) if !reason.starts_with("cannot reach ") => {
            let alarms = alarms_of(call).map_or(reason, |alarms| alarms.join("\n"));
            Err(Refusal::new(UNAVAILABLE, format!("The node has alarms in effect:\n{alarms}")))
        }
        Err(failure) => Err(failure.into()),
    }
}

pub(super) fn alarms(call: &Call<'_>) -> Result<Output, Refusal> {
    let alarms = alarms_of(call)?;
    if alarms.is_empty() {
        let none = format!("Node {} reported no alarms, local or clusterwide", call.node);
        return Ok(Output::Both(none, json!({"local": [], "global": [], "message": "no alarms"})));
    }
    let text = format!("Alarms in effect on node {}:\n\n{}", call.node, alarms.join("\n"));
    Ok(Output::Both(text, json!({"local": alarms, "global": alarms})))
}

fn alarms_of(call: &Call<'_>) -> Result<Vec<String>, Failure> {
    let node = own_node(call)?;
    let raised =
        |field: &str, text: &str| (node[field] == true).then(|| format!("{text} on node {}", call.node));
    let alarms = [raised("mem_alarm", "Memory alarm"), raised("disk_free_alarm", "Free disk space alarm")];
    Ok(alarms.into_iter().flatten().collect())
}

fn own_node(call: &Call<'_>) -> Result<Value, Failure> {
    let name = call.api.get("overview")?["node"].clone();
    let nodes = call.api.list("nodes")?;
    Ok(nodes.into_iter().find(|node| node["name"] == name).unwrap_or_default())
}

pub(super) fn check_virtual_hosts(call: &Call<'_>) -> Result<Output, Refusal> {
    call.api.get("health/checks/virtual-hosts")?;
    let text = format!("Node {} reported all vhosts as running", call.node);
    Ok(Output::Both(text, json!({"result": "ok"})))
}

/// A connection to each listener, on the host that the API is on.
pub(super) fn check_port_connectivity(call: &Call<'_>) -> Result<Output, Refusal> {
    let address = call.options.value("address").map(str::to_owned);
    let host = address.unwrap_or_else(|| host_of(call.api.url()));
    let mut ports = ports(call)?;
    ports.sort_unstable();
    ports.dedup();
    let failed: Vec<String> =
        ports.iter().filter(|port| !accepts(&host, **port)).map(u64::to_string).collect();
    let ports: Vec<String> = ports.iter().map(u64::to_string).collect();
    if !failed.is_empty() {
        let text = format!("Connection attempts failed on node {}, ports {}", call.node, failed.join(", "));
        return Err(Refusal::bare(UNAVAILABLE, format!("Error:\n{text}")));
    }
    Ok(Output::Both(
        format!("Successfully connected to ports {} on node {}.", ports.join(", "), call.node),
        json!({"result": "ok"}),
    ))
}

/// The ports of all listeners. Who may not see them knows that of the API, over which the broker has to say that it is
/// well: a wrong password is no reason for a restart.
fn ports(call: &Call<'_>) -> Result<Vec<u64>, Failure> {
    match listeners_of(call) {
        Ok(listeners) => Ok(listeners.iter().filter_map(|one| one["port"].as_u64()).collect()),
        Err(failure) if failure.is_unreachable() => Err(failure),
        Err(Failure::Denied(_) | Failure::Unavailable(_)) => {
            call.api.health()?;
            Ok(vec![port_of(call.api.url())])
        }
        Err(failure) => Err(failure),
    }
}

fn accepts(host: &str, port: u64) -> bool {
    let Ok(port) = u16::try_from(port) else { return false };
    let addresses = (host, port).to_socket_addrs().map(Iterator::collect::<Vec<SocketAddr>>);
    let connects = |address: &SocketAddr| TcpStream::connect_timeout(address, CONNECT_TIMEOUT).is_ok();
    addresses.unwrap_or_default().iter().any(connects)
}

/// The host of a URL.
fn host_of(url: &str) -> String {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default();
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host.to_owned(),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host).to_owned(),
    }
}

/// The port of a URL.
fn port_of(url: &str) -> u64 {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default();
    let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    port.unwrap_or(if url.starts_with("https:") { 443 } else { 80 })
}

pub(super) fn check_port_listener(call: &Call<'_>) -> Result<Output, Refusal> {
    let (listeners, port) = (listeners_of(call)?, call.argument(0));
    let number: Option<u64> = port.parse().ok();
    if number.is_some() && listeners.iter().any(|listener| listener["port"].as_u64() == number) {
        let text = format!("A listener for port {port} is running on node {}.", call.node);
        return Ok(Output::Both(text, json!({"result": "ok"})));
    }
    let ports: Vec<String> = listeners.iter().map(|listener| listener["port"].to_string()).collect();
    Err(Refusal::bare(
        UNAVAILABLE,
        format!(
            "No listener for port {port} is active on node {}. Found listeners that use the following ports: {}",
            call.node,
            ports.join(", ")
        ),
    ))
}

pub(super) fn check_protocol_listener(call: &Call<'_>) -> Result<Output, Refusal> {
    let (listeners, asked) = (listeners_of(call)?, call.argument(0));
    let protocol = match asked {
        "amqp091" | "amqp0.9.1" | "amqp10" | "amqp1.0" => "amqp",
        "amqps" | "amqp-tls" | "amqp/tls" => "amqp/ssl",
        "management" => "http",
        "prometheus" => "http/prometheus",
        other => other,
    };
    if listeners.iter().any(|listener| listener["protocol"] == protocol) {
        let text = format!("A listener for protocol {asked} is running on node {}.", call.node);
        return Ok(Output::Both(text, json!({"result": "ok"})));
    }
    let protocols: Vec<&str> =
        listeners.iter().filter_map(|listener| listener["protocol"].as_str()).collect();
    Err(Refusal::new(
        UNAVAILABLE,
        format!(
            "No listener for protocol {asked} is active on node {}. Found listeners for the following protocols: {}",
            call.node,
            protocols.join(", ")
        ),
    ))
}

pub(super) fn listeners(call: &Call<'_>) -> Result<Output, Refusal> {
    let listeners = listeners_of(call)?;
    let lines: Vec<String> = listeners.iter().map(listener).collect();
    let json: Vec<Value> = listeners
        .iter()
        .map(|listener| {
            json!({
                "interface": interface(listener),
                "node": call.node,
                "port": listener["port"],
                "protocol": listener["protocol"],
                "purpose": purpose(listener["protocol"].as_str().unwrap_or_default()),
            })
        })
        .collect();
    let json = json!({"listeners": json, "node": call.node, "result": "ok"});
    Ok(Output::Both(lines.join("\n"), json))
}

fn listeners_of(call: &Call<'_>) -> Result<Vec<Value>, Failure> {
    Ok(call.api.get("overview")?["listeners"].as_array().cloned().unwrap_or_default())
}

fn listener(listener: &Value) -> String {
    let protocol = listener["protocol"].as_str().unwrap_or_default();
    format!(
        "Interface: {}, port: {}, protocol: {protocol}, purpose: {}",
        interface(listener),
        listener["port"],
        purpose(protocol)
    )
}

fn interface(listener: &Value) -> String {
    let address = listener["ip_address"].as_str().unwrap_or_default();
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

fn purpose(protocol: &str) -> &str {
    match protocol {
        "amqp" => "AMQP 0-9-1",
        "amqp/ssl" => "AMQP 0-9-1 over TLS",
        "http" => "HTTP API",
        "https" => "HTTP API over TLS (HTTPS)",
        "http/prometheus" => "Prometheus exporter API over HTTP",
        "https/prometheus" => "Prometheus exporter API over TLS (HTTPS)",
        other => other,
    }
}

pub(super) fn server_version(call: &Call<'_>) -> Result<Output, Refusal> {
    let overview = call.api.get("overview")?;
    Ok(Output::Text(overview["rabbitmq_version"].as_str().unwrap_or_default().to_owned()))
}

pub(super) fn node_health_check(call: &Call<'_>) -> Result<Output, Refusal> {
    check_local_alarms(call)?;
    Ok(Output::Text("Health check passed".into()))
}

pub(super) fn one_node(call: &Call<'_>) -> Result<Output, Refusal> {
    let text = "seems to be the only one in a single node cluster, the check does not apply";
    Ok(Output::Both(format!("Node {} {text}", call.node), json!({"result": "ok"})))
}

pub(super) fn status(call: &Call<'_>) -> Result<Output, Refusal> {
    let overview = call.api.get("overview")?;
    let node = own_node(call)?;
    let vhosts = call.api.list("vhosts")?.len();
    let alarms = alarms_of(call)?;
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let gb = |value: &Value| gigabytes(value.as_u64().unwrap_or_default());
    let listeners = overview["listeners"].as_array().into_iter().flatten().map(listener);
    let sections = [
        (
            "Runtime",
            vec![
                format!("OS PID: {}", text(&node["os_pid"])),
                format!("OS: {}", std::env::consts::OS),
                format!("Uptime (seconds): {}", node["uptime"].as_u64().unwrap_or_default() / 1000),
                "Is under maintenance?: false".to_owned(),
                format!("RabbitMQ version: {}", text(&overview["rabbitmq_version"])),
                format!("Node name: {}", text(&overview["node"])),
                format!("Product: {} {}", product(&overview).0, product(&overview).1),
            ],
        ),
        ("Data directory", vec![format!("Node data directory: {}", text(&node["db_dir"]))]),
        ("Alarms", if alarms.is_empty() { vec!["(none)".to_owned()] } else { alarms.clone() }),
        (
            "Memory",
            vec![
                format!("Total memory used: {} gb", gb(&node["mem_used"])),
                format!("Memory high watermark setting: computed to: {} gb", gb(&node["mem_limit"])),
            ],
        ),
        (
            "File Descriptors",
            vec![
                format!("Total: {}, limit: {}", node["fd_used"], node["fd_total"]),
                format!("Sockets: {}, limit: {}", node["sockets_used"], node["sockets_total"]),
            ],
        ),
        (
            "Free Disk Space",
            vec![
                format!("Low free disk space watermark: {} gb", gb(&node["disk_free_limit"])),
                format!("Free disk space: {} gb", gb(&node["disk_free"])),
            ],
        ),
        (
            "Totals",
            vec![
                format!("Connection count: {}", overview["object_totals"]["connections"]),
                format!("Queue count: {}", overview["object_totals"]["queues"]),
                format!("Virtual host count: {vhosts}"),
            ],
        ),
        ("Listeners", listeners.collect()),
    ];
    let json = json!({
        "os": std::env::consts::OS,
        "pid": node["os_pid"].as_str().and_then(|pid| pid.parse::<u64>().ok()),
        "uptime": node["uptime"].as_u64().map(|ms| ms / 1000),
        "rabbitmq_version": overview["rabbitmq_version"],
        "product_name": product(&overview).0,
        "product_version": product(&overview).1,
        "node_name": overview["node"],
        "alarms": alarms,
        "data_directory": node["db_dir"],
        "disk_free": node["disk_free"],
        "disk_free_limit": node["disk_free_limit"],
        "memory": {"total": node["mem_used"]},
        "vm_memory_high_watermark_limit": node["mem_limit"],
        "file_descriptors": {
            "total_used": node["fd_used"], "total_limit": node["fd_total"],
            "sockets_used": node["sockets_used"], "sockets_limit": node["sockets_total"],
        },
        "listeners": overview["listeners"],
        "totals": {
            "connection_count": overview["object_totals"]["connections"],
            "queue_count": overview["object_totals"]["queues"],
            "virtual_host_count": vhosts,
        },
        "is_under_maintenance": false,
    });
    Ok(Output::Both(pages(&sections), json))
}

pub(super) fn cluster_status(call: &Call<'_>) -> Result<Output, Refusal> {
    let overview = call.api.get("overview")?;
    let text = |field: &str| overview[field].as_str().unwrap_or_default().to_owned();
    let node = text("node");
    let alarms = alarms_of(call)?;
    let listeners = overview["listeners"].as_array().into_iter().flatten();
    let listeners = listeners.map(|one| format!("Node: {node}, {}", listener(one).replacen('I', "i", 1)));
    let sections = [
        ("Basics", vec![format!("Cluster name: {}", text("cluster_name"))]),
        ("Disk Nodes", vec![node.clone()]),
        ("Running Nodes", vec![node.clone()]),
        ("Versions", vec![format!("{node}: {} {}", text("product_name"), text("product_version"))]),
        ("Maintenance status", vec![format!("Node: {node}, status: not under maintenance")]),
        ("Alarms", if alarms.is_empty() { vec!["(none)".to_owned()] } else { alarms.clone() }),
        ("Network Partitions", vec!["(none)".to_owned()]),
        ("Listeners", listeners.collect()),
    ];
    let json = json!({
        "cluster_name": overview["cluster_name"],
        "disk_nodes": [node], "running_nodes": [node], "ram_nodes": [],
        "versions": {&node: {"rabbitmq_version": overview["rabbitmq_version"]}},
        "alarms": alarms,
        "partitions": {},
        "listeners": {&node: overview["listeners"]},
    });
    Ok(Output::Both(pages(&sections), json))
}

/// Headings with lines below them.
fn pages(sections: &[(&str, Vec<String>)]) -> String {
    let mut text = String::new();
    for (index, (heading, lines)) in sections.iter().enumerate() {
        let gap = if index > 0 { "\n\n" } else { "" };
        // Writing to a String does not fail.
        _ = write!(text, "{gap}{heading}\n\n{}", lines.join("\n"));
    }
    text
}

/// Gigabytes with four digits after the point, without its last zeros.
#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
fn gigabytes(bytes: u64) -> String {
    let text = format!("{:.4}", bytes as f64 / 1e9);
    let short = text.trim_end_matches('0');
    if short.ends_with('.') { format!("{short}0") } else { short.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_url() {
        let hosts =
            ["http://127.0.0.1:15672", "https://rabbit.example:1/x", "http://[::1]:15672", "http://a"];
        assert_eq!(hosts.map(host_of), ["127.0.0.1", "rabbit.example", "::1", "a"]);
        assert_eq!(hosts.map(port_of), [15672, 1, 15672, 80]);
    }

    #[test]
    fn gigabytes_are_short() {
        assert_eq!([50_000_000, 0, 41_163_800_000].map(gigabytes), ["0.05", "0.0", "41.1638"]);
    }
}
