//! `/api/leveret`: what RabbitMQ's tools change in a running node by other ways than its API. For administrators, but for `health`.
//!
//! * `memory-high-watermark`: `{"value": 0.6}`, a part of the memory, or a number of octets; until the next start.
//! * `health`: whether clients are served, for who has no login: containers and load balancers.
//! * `amqp`: `{"accepting": false}` turns new AMQP connections away until it is true again; open ones stay.

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use serde_json::{Value, json};
use tracing::info;

use crate::{
    config::Watermark,
    management::{
        Shared,
        body::Fields,
        caller::{Administrator, Caller},
        error::ApiError,
    },
    server::watermark_bytes,
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/leveret/memory-high-watermark", get(watermark).put(set_watermark))
        .route("/leveret/amqp", get(amqp).put(set_amqp))
        .route("/leveret/health", get(health))
}

/// Whether AMQP connections are accepted. It asks for no login and tells nothing else, so that neither a password nor who
/// guesses passwords decides whether a container is restarted.
async fn health(State(api): State<Shared>) -> (StatusCode, Json<Value>) {
    if api.broker.runtime.turns_away() {
        let reason = "new AMQP connections are turned away, as an administrator wants";
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "failed", "reason": reason})));
    }
    (StatusCode::OK, Json(json!({"status": "ok"})))
}

async fn watermark(_: Administrator, State(api): State<Shared>) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({"bytes": api.broker.runtime.memory_watermark_bytes()})))
}

async fn set_watermark(
    Administrator(caller): Administrator,
    State(api): State<Shared>,
    fields: Fields,
) -> Result<StatusCode, ApiError> {
    let wrong = "\"value\" is a part of the memory, above 0 and at most 1.0, or a number of bytes";
    let watermark = fields.get("value").and_then(parse).ok_or_else(|| ApiError::bad_request(wrong))?;
    let bytes = watermark_bytes(&watermark);
    api.broker.runtime.set_memory_watermark_bytes(bytes);
    info!("the memory high watermark is {} MiB, set by user '{}'", bytes >> 20, caller.user.name);
    Ok(StatusCode::NO_CONTENT)
}

/// A number with a point is a part, one without is octets; `1` and `0` are parts, too: nobody means one octet.
fn parse(value: &Value) -> Option<Watermark> {
    match value.as_u64() {
        Some(bytes @ 2..) => Some(Watermark::Bytes(bytes)),
        // Nothing is let in above 0: a test of clients that are blocked.
        Some(0) => Some(Watermark::Bytes(0)),
        _ => value.as_f64().filter(|part| (0.0..=1.0).contains(part)).map(Watermark::Fraction),
    }
}

async fn amqp(_: Caller, State(api): State<Shared>) -> Json<Value> {
    Json(json!({"accepting": !api.broker.runtime.turns_away()}))
}

async fn set_amqp(
    Administrator(caller): Administrator,
    State(api): State<Shared>,
    fields: Fields,
) -> Result<StatusCode, ApiError> {
    let accepting = fields.get("accepting").and_then(Value::as_bool);
    let accepting = accepting.ok_or_else(|| ApiError::bad_request("\"accepting\" is true or false"))?;
    api.broker.runtime.set_turns_away(!accepting);
    let what = if accepting { "accepted" } else { "turned away" };
    info!("new AMQP connections are {what}, as user '{}' wants", caller.user.name);
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watermark_is_a_part_or_octets() {
        assert_eq!(parse(&json!(0.4)), Some(Watermark::Fraction(0.4)));
        assert_eq!(parse(&json!(1)), Some(Watermark::Fraction(1.0)));
        assert_eq!(parse(&json!(1_000_000)), Some(Watermark::Bytes(1_000_000)));
        assert_eq!(parse(&json!(0)), Some(Watermark::Bytes(0)));
        for wrong in [json!(1.5), json!(-1), json!("0.4"), json!(null)] {
            assert_eq!(parse(&wrong), None, "{wrong}");
        }
    }
}
