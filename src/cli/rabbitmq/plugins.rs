//! `rabbitmq-plugins`: what is a plugin of RabbitMQ's and built into Leveret is always enabled.

use std::fmt::Write as _;

use serde_json::json;

use super::{Call, Refusal, output::Output};

/// RabbitMQ's plugins whose work Leveret does.
const BUILT_IN: [&str; 15] = [
    "rabbitmq_auth_mechanism_ssl",
    "rabbitmq_consistent_hash_exchange",
    "rabbitmq_delayed_message_exchange",
    "rabbitmq_event_exchange",
    "rabbitmq_management",
    "rabbitmq_management_agent",
    "rabbitmq_message_deduplication",
    "rabbitmq_prometheus",
    "rabbitmq_random_exchange",
    "rabbitmq_recent_history_exchange",
    "rabbitmq_sharding",
    "rabbitmq_shovel",
    "rabbitmq_shovel_management",
    "rabbitmq_tracing",
    "rabbitmq_web_dispatch",
];

pub(super) fn list(call: &Call<'_>) -> Result<Output, Refusal> {
    let matching = BUILT_IN.iter().filter(|plugin| plugin.contains(call.argument(0)));
    let version = env!("CARGO_PKG_VERSION");
    let mut text = String::new();
    let minimal = call.options.has("minimal") || call.options.no_headers;
    if !minimal && !call.options.quiet {
        // Writing to a String does not fail.
        _ = writeln!(text, " Configured: E = explicitly enabled; e = implicitly enabled");
        _ = writeln!(text, " | Status: * = running on {}\n |/", call.node);
    }
    let width = BUILT_IN.iter().map(|plugin| plugin.len()).max().unwrap_or(0);
    for plugin in matching.clone() {
        _ = if minimal {
            writeln!(text, "{plugin}")
        } else {
            writeln!(text, "[E*] {plugin:<width$} {version}")
        };
    }
    let plugins: Vec<_> = matching
        .map(|plugin| json!({"name": plugin, "version": version, "enabled": "enabled", "running": true}))
        .collect();
    Ok(Output::Both(text.trim_end_matches('\n').to_owned(), json!({"status": "running", "plugins": plugins})))
}

pub(super) fn enable(call: &Call<'_>) -> Result<Output, Refusal> {
    if let Some(missing) = call.arguments.iter().find(|plugin| !BUILT_IN.contains(&plugin.as_str())) {
        return Err(Refusal::unsupported(format!(
            "it has no plugins, and does not do what {missing} does; `rabbitmq-plugins list` shows what it does"
        )));
    }
    Ok(Output::Text("Plugin configuration unchanged.".into()))
}

pub(super) fn disable(_: &Call<'_>) -> Result<Output, Refusal> {
    Err(Refusal::unsupported("what is built in can't be taken out; ports are switched off in broker.toml"))
}

pub(super) fn is_enabled(call: &Call<'_>) -> Result<Output, Refusal> {
    match call.arguments.iter().find(|plugin| !BUILT_IN.contains(&plugin.as_str())) {
        None => {
            Ok(Output::Text(format!("Plugin {} is enabled on node {}", call.arguments.join(", "), call.node)))
        }
        Some(missing) => Err(Refusal::new(
            super::UNAVAILABLE,
            format!("Plugin {missing} is not enabled on node {}", call.node),
        )),
    }
}
