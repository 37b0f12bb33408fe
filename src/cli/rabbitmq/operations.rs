//! What acts on connections, queues and the broker as a whole.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Call, DATA, Refusal, UNAVAILABLE, USAGE, Wrong, lists::connection_pid, output::Output};
use crate::cli::{api::path, failure::Failure, options::pause};

pub(super) fn close_connection(call: &Call<'_>) -> Result<Output, Refusal> {
    let (pid, reason) = (call.argument(0), call.argument(1));
    let name = match call.api.list("connections")?.iter().find(|connection| is_meant(call, connection, pid)) {
        Some(connection) => connection["name"].as_str().unwrap_or_default().to_owned(),
        // It has ended, as far as RabbitMQ's tool can tell.
        None if is_pid(pid) => return Ok(Output::Done),
        None => {
            return Err(Refusal::new(
                UNAVAILABLE,
                format!("Error:\n{{:invalid_pid_syntax, {}}}", json!(pid)),
            ));
        }
    };
    ended(call.api.close_connection(&name, reason))?;
    Ok(Output::Done)
}

/// Whether that is the connection's process, or its name.
fn is_meant(call: &Call<'_>, connection: &Value, pid: &str) -> bool {
    let name = connection["name"].as_str().unwrap_or_default();
    name == pid || connection_pid(call, name, &connection["peer_port"]) == pid
}

/// Whether it looks like `<node.number.number.number>`.
fn is_pid(text: &str) -> bool {
    let inner = text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or_default();
    let mut parts = inner.rsplitn(4, '.');
    let numbers = parts.by_ref().take(3).filter(|part| part.parse::<u64>().is_ok()).count();
    numbers == 3 && parts.next().is_some_and(|node| node.contains('@'))
}

pub(super) fn close_all_connections(call: &Call<'_>) -> Result<Output, Refusal> {
    let open = if call.options.has("global") {
        call.api.list("connections")?
    } else {
        match call.api.list(&path(&["vhosts", call.vhost(), "connections"])) {
            Err(Failure::Missing(_)) => Vec::new(),
            other => other?,
        }
    };
    let limit = call.options.value("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
    close(call, &open, limit.unwrap_or(usize::MAX), call.argument(0))
}

pub(super) fn close_all_user_connections(call: &Call<'_>) -> Result<Output, Refusal> {
    let open = match call.api.list(&path(&["connections", "username", call.argument(0)])) {
        Err(Failure::Missing(_)) => Vec::new(),
        other => other?,
    };
    close(call, &open, usize::MAX, call.argument(1))
}

fn close(call: &Call<'_>, open: &[Value], limit: usize, reason: &str) -> Result<Output, Refusal> {
    let delay = call.options.value("per-connection-delay").and_then(|ms| ms.parse().ok()).unwrap_or(0);
    let mut closed = 0;
    for connection in open.iter().take(limit) {
        ended(call.api.close_connection(connection["name"].as_str().unwrap_or_default(), reason))?;
        closed += 1;
        pause(Duration::from_millis(delay));
    }
    Ok(Output::Text(format!("Closed {closed} connections")))
}

/// A connection that has ended by itself is closed as well.
fn ended(closed: Result<(), Failure>) -> Result<(), Refusal> {
    match closed {
        Ok(()) | Err(Failure::Missing(_)) => Ok(()),
        Err(failure) => Err(failure.into()),
    }
}

pub(super) fn delete_queue(call: &Call<'_>) -> Result<Output, Refusal> {
    let queue = path(&["queues", call.vhost(), call.argument(0)]);
    let found = call.api.get(&queue).map_err(|failure| match failure {
        Failure::Missing(_) => Refusal::new(USAGE, "Queue not found"),
        failure => failure.into(),
    })?;
    let (if_empty, if_unused) = (call.options.has("if-empty"), call.options.has("if-unused"));
    let query = format!("?if-empty={if_empty}&if-unused={if_unused}");
    let query = if if_empty || if_unused { query.as_str() } else { "" };
    call.api.delete(&format!("{queue}{query}")).map_err(|failure| match failure {
        Failure::Refused(text) if text.contains("not empty") => Refusal::new(USAGE, "Queue is not empty"),
        Failure::Refused(text) if text.contains("in use") => Refusal::new(USAGE, "Queue is in use"),
        failure => failure.into(),
    })?;
    let ready = found["messages_ready"].as_u64().unwrap_or_default();
    Ok(Output::Text(format!("Queue was successfully deleted with {ready} ready messages")))
}

pub(super) fn purge_queue(call: &Call<'_>) -> Result<Output, Refusal> {
    let contents = path(&["queues", call.vhost(), call.argument(0), "contents"]);
    call.api.delete(&contents).map_err(|failure| match failure {
        Failure::Missing(_) => Refusal::new(UNAVAILABLE, "not_found"),
        failure => failure.into(),
    })?;
    Ok(Output::Done)
}

/// RabbitMQ's application within the Erlang VM: everything that serves clients. The management port stays, or nothing
/// could start it again.
///
/// Deviation: what is not durable stays too.
pub(super) fn stop_app(call: &Call<'_>) -> Result<Output, Refusal> {
    accept(call, false)?;
    for connection in call.api.list("connections")? {
        let name = connection["name"].as_str().unwrap_or_default();
        ended(call.api.close_connection(name, "broker forced connection closure with reason 'shutdown'"))?;
    }
    Ok(Output::Done)
}

pub(super) fn start_app(call: &Call<'_>) -> Result<Output, Refusal> {
    accept(call, true)?;
    Ok(Output::Done)
}

pub(super) fn suspend_listeners(call: &Call<'_>) -> Result<Output, Refusal> {
    accept(call, false)?;
    Ok(Output::Done)
}

fn accept(call: &Call<'_>, accepting: bool) -> Result<(), Refusal> {
    call.api.put("leveret/amqp", &json!({"accepting": accepting})).map(drop).map_err(needs_leveret)
}

/// `0.4`, or `absolute 2GiB`.
pub(super) fn check_watermark(arguments: &[String]) -> Option<Wrong> {
    let problem = match watermark(arguments) {
        Some(Value::Number(number)) if number.as_f64().is_some_and(|part| !(0.0..=1.0).contains(&part)) => {
            let is_part = arguments.first().is_some_and(|first| first != "absolute");
            is_part.then_some("Bad argument: The threshold should be a fraction between 0.0 and 1.0")
        }
        Some(_) => None,
        None => Some("Bad argument."),
    };
    problem.map(|problem| Wrong { problem: problem.into(), code: DATA })
}

pub(super) fn set_watermark(call: &Call<'_>) -> Result<Output, Refusal> {
    let value = watermark(call.arguments).unwrap_or_default();
    call.api.put("leveret/memory-high-watermark", &json!({"value": value})).map_err(needs_leveret)?;
    Ok(Output::Done)
}

fn watermark(arguments: &[String]) -> Option<Value> {
    match arguments {
        [absolute, value] if absolute == "absolute" => bytes(value).map(Value::from),
        [part] => part.parse::<f64>().ok().map(Value::from),
        _ => None,
    }
}

/// A number of bytes with RabbitMQ's units.
pub(in crate::cli) fn bytes(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" | "b" => 1,
        "k" | "kiB" | "Ki" | "KiB" => 1 << 10,
        "M" | "MiB" | "Mi" => 1 << 20,
        "G" | "GiB" | "Gi" => 1 << 30,
        "TiB" | "Ti" | "T" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn needs_leveret(failure: Failure) -> Refusal {
    match failure {
        Failure::Missing(_) => {
            Refusal::new(UNAVAILABLE, "the broker that answers is not Leveret, and can't do this")
        }
        failure => failure.into(),
    }
}

pub(super) fn nothing(_: &Call<'_>) -> Result<Output, Refusal> {
    Ok(Output::Done)
}

pub(super) fn refuse_eval(_: &Call<'_>) -> Result<Output, Refusal> {
    Err(Refusal::unsupported(
        "there is no Erlang in it; `leveret api` reaches all that can be asked or changed",
    ))
}

pub(super) fn refuse_cluster(_: &Call<'_>) -> Result<Output, Refusal> {
    Err(Refusal::unsupported("it is a cluster of one node"))
}

pub(super) fn refuse_reset(_: &Call<'_>) -> Result<Output, Refusal> {
    Err(Refusal::unsupported("stop the broker and remove its data directory to begin anew"))
}

pub(super) fn refuse_stop(_: &Call<'_>) -> Result<Output, Refusal> {
    Err(Refusal::unsupported(
        "end the process with SIGTERM, or by systemd or Docker, and it stops in good order",
    ))
}

pub(super) fn refuse_config(_: &Call<'_>) -> Result<Output, Refusal> {
    Err(Refusal::unsupported("this is set in broker.toml; see `leveret --help`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_has_a_node_and_three_numbers() {
        assert!(is_pid("<leveret@my.host.123.45.0>"));
        for other in ["<0.1.0>", "leveret@a.1.2.3", "<leveret@a.1.2>", "<a.1.2.3>", ""] {
            assert!(!is_pid(other), "{other}");
        }
    }

    #[test]
    fn sizes_have_rabbitmqs_units() {
        let sizes = ["1", "2kB", "2KiB", "8GiB", "1 MB", "x", "1x", "99999999999999TiB", ""].map(bytes);
        let gib8 = Some(8 << 30);
        assert_eq!(sizes, [Some(1), Some(2000), Some(2048), gib8, Some(1_000_000), None, None, None, None]);
    }

    #[test]
    fn a_watermark_is_a_part_or_absolute() {
        let wrong = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            check_watermark(&words).map(|wrong| wrong.problem)
        };
        assert_eq!(wrong(&["0.4"]), None);
        assert_eq!(wrong(&["absolute", "2GiB"]), None);
        assert!(wrong(&["2"]).is_some_and(|text| text.contains("between 0.0 and 1.0")));
        assert_eq!(wrong(&["abc"]).as_deref(), Some("Bad argument."));
        assert_eq!(wrong(&["absolute", "xx"]).as_deref(), Some("Bad argument."));
    }
}
