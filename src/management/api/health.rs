//! `/api/health/checks`, and the older `/api/aliveness-test` and `/api/healthchecks/node`: 200 if all is well, 503 with the
//! reason if not.

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use crate::{
    broker::alarm::Resource,
    management::{Api, Shared, caller::Caller, error::ApiError, time},
};

pub(super) fn routes() -> Router<Shared> {
    const PREFIX: &str = "/health/checks/";
    let mut routes = Router::new()
        .route("/health/checks/alarms", get(alarms))
        .route("/health/checks/local-alarms", get(local_alarms))
        .route("/health/checks/port-listener/{port}", get(port_listener))
        .route("/health/checks/protocol-listener/{protocol}", get(protocol_listener))
        .route("/health/checks/certificate-expiration/{within}/{unit}", get(certificate_expiration))
        .route("/health/checks/below-node-connection-limit", get(below_connection_limit))
        .route("/aliveness-test/{vhost}", get(aliveness))
        .route("/healthchecks/node", get(ok))
        .route("/healthchecks/node/{node}", get(node));
    for check in ALWAYS_WELL {
        routes = routes.route(&format!("{PREFIX}{check}"), get(ok));
    }
    for check in ["node-is-quorum-critical", "node-is-mirror-sync-critical"] {
        routes = routes.route(&format!("{PREFIX}{check}"), get(single_node));
    }
    routes
}

/// What can't fail while there is somebody to answer: a broker that can't serve clients stops.
const ALWAYS_WELL: [&str; 10] = [
    "virtual-hosts",
    "is-in-service",
    "ready-to-serve-clients",
    "reached-target-cluster-size",
    "metadata-store/initialized",
    "metadata-store/initialized/with-data",
    "quorum-queues-without-elected-leaders/all-vhosts",
    "quorum-queues-without-elected-leaders/all-vhosts/pattern/{pattern}",
    "quorum-queues-without-elected-leaders/vhost/{vhost}",
    "quorum-queues-without-elected-leaders/vhost/{vhost}/pattern/{pattern}",
];

async fn ok(_: Caller) -> Json<Value> {
    Json(json!({"status": "ok"}))
}

async fn single_node(_: Caller) -> Json<Value> {
    Json(json!({"status": "ok", "reason": "single node cluster"}))
}

async fn node(
    State(api): State<Shared>,
    _: Caller,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    api.expect_node(&name)?;
    Ok(Json(json!({"status": "ok"})))
}

/// What a check says that fails.
fn failed(reason: &str, details: Value) -> Response {
    let mut body = json!({"status": "failed", "reason": reason});
    if let (Value::Object(body), Value::Object(mut details)) = (&mut body, details) {
        body.append(&mut details);
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

fn well(details: Value) -> Response {
    Json(details).into_response()
}

async fn alarms(State(api): State<Shared>, _: Caller) -> Response {
    alarms_in_effect(&api, "There are alarms in effect in the cluster")
}

async fn local_alarms(State(api): State<Shared>, _: Caller) -> Response {
    alarms_in_effect(&api, "There are alarms in effect on the node")
}

fn alarms_in_effect(api: &Api, reason: &str) -> Response {
    let resources = [(Resource::Memory, "memory"), (Resource::Disk, "disk")];
    let raised = resources.into_iter().filter(|(resource, _)| api.broker.alarms.is_raised(*resource));
    let alarms: Vec<_> = raised.map(|(_, name)| json!({"node": api.node(), "resource": name})).collect();
    if alarms.is_empty() {
        return well(json!({"status": "ok"}));
    }
    failed(reason, json!({"alarms": alarms}))
}

async fn port_listener(
    State(api): State<Shared>,
    _: Caller,
    Path(port): Path<String>,
) -> Result<Response, ApiError> {
    let port: u16 = port.parse().map_err(|_| ApiError::bad_request("Invalid port"))?;
    let ports: Vec<u16> = api.listeners.iter().map(|listener| listener.address.port()).collect();
    if ports.contains(&port) {
        return Ok(well(json!({"status": "ok", "port": port})));
    }
    Ok(failed("No active listener", json!({"missing": port, "ports": ports})))
}

async fn protocol_listener(State(api): State<Shared>, _: Caller, Path(name): Path<String>) -> Response {
    let protocol = protocol(&name);
    let mut protocols: Vec<&str> = api.listeners.iter().map(|listener| listener.protocol).collect();
    if protocols.contains(&protocol.as_str()) {
        return well(json!({"status": "ok", "protocol": protocol}));
    }
    protocols.sort_unstable();
    protocols.dedup();
    failed("No active listener", json!({"missing": protocol, "protocols": protocols}))
}

/// A protocol as listeners are named: RabbitMQ takes it by several names.
fn protocol(name: &str) -> String {
    let name = name.to_lowercase();
    match name.as_str() {
        "amqp091" | "amqp0.9.1" | "amqp0-9-1" | "amqp10" | "amqp1.0" => "amqp",
        "amqps" | "amqp/tls" => "amqp/ssl",
        "http/ssl" | "http/tls" => "https",
        name => name,
    }
    .to_owned()
}

/// Whether no certificate of the broker ends within that time.
async fn certificate_expiration(
    State(api): State<Shared>,
    _: Caller,
    Path((within, unit)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    const DAY_SECS: i64 = 86_400;
    let within: i64 = within.parse().map_err(|_| ApiError::bad_request("Invalid expiration value."))?;
    let unit_secs = match unit.to_lowercase().as_str() {
        "days" => DAY_SECS,
        "weeks" => 7 * DAY_SECS,
        "months" => 365 * DAY_SECS / 12,
        "years" => 365 * DAY_SECS,
        _ => {
            let reason = "Time unit not recognised. Supported units: days, weeks, months, years.";
            return Err(ApiError::bad_request(reason));
        }
    };
    let now_secs = i64::try_from(api.clock.unix_ms() / 1000).unwrap_or(i64::MAX);
    let until_secs = now_secs.saturating_add(within.saturating_mul(unit_secs));
    let certificates = api.tls.as_ref().map(|tls| tls.certificates()).unwrap_or_default();
    let ending = certificates.iter().filter(|certificate| certificate.expires_unix_secs < until_secs);
    let ending: Vec<Value> = ending
        .map(|certificate| {
            let expires_ms = u64::try_from(certificate.expires_unix_secs).unwrap_or(0).saturating_mul(1000);
            json!({
                "node": api.node(),
                "certfile": certificate.path.display().to_string(),
                "subject": certificate.subject,
                "certfile_expires_on": [time::text(expires_ms)],
            })
        })
        .collect();
    if ending.is_empty() {
        return Ok(well(json!({"status": "ok"})));
    }
    Ok(failed("Certificates expiring", json!({"expired": ending})))
}

async fn below_connection_limit(State(api): State<Shared>, _: Caller) -> Response {
    let connections = api.broker.stats.connections.get();
    let limit = api.broker.limits.connections_max;
    let said_limit = limit.map_or(json!("infinity"), |limit| json!(limit));
    if limit.is_none_or(|limit| connections < u64::from(limit)) {
        return well(json!({"status": "ok", "limit": said_limit, "connections": connections}));
    }
    let details = json!({"limit": said_limit, "connections": connections});
    failed("node connection limit is reached", details)
}

/// RabbitMQ 3 publishes and gets a message for it; RabbitMQ 4 and this say that they are there.
async fn aliveness(
    State(api): State<Shared>,
    caller: Caller,
    Path(host): Path<String>,
) -> Result<Json<Value>, ApiError> {
    caller.visible_host(&api, &host)?;
    Ok(Json(json!({"status": "ok"})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_have_several_names() {
        assert_eq!(protocol("AMQP091"), "amqp");
        assert_eq!(protocol("amqps"), "amqp/ssl");
        assert_eq!(protocol("http/prometheus"), "http/prometheus");
        assert_eq!(protocol("mqtt"), "mqtt");
    }
}
