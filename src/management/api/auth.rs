//! `/api/whoami`, and what is below `/api/auth`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post, put},
};
use rand::random;
use serde_json::{Value, json};

use crate::{
    broker::user::{HashingAlgorithm, PasswordHash},
    management::{
        Shared,
        body::Fields,
        caller::{Administrator, Caller, Tag},
        error::ApiError,
    },
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/whoami", get(whoami))
        .route("/auth", get(auth))
        .route("/auth/attempts/{node}", get(attempts).delete(forget_attempts))
        .route("/auth/attempts/{node}/source", get(attempts_by_source).delete(forget_attempts))
        .route("/auth/hash_password", post(hash_password))
        .route("/auth/hash_password/{password}", put(hash_path))
}

async fn whoami(caller: Caller) -> Json<Value> {
    Json(json!({"name": caller.user.name.as_ref(), "tags": caller.user.tags}))
}

/// How the page is to log in. Without a login, for it is asked before (RabbitMQ).
async fn auth() -> Json<Value> {
    Json(json!({"oauth_enabled": false, "enable_uaa": false, "uaa_client_id": "", "uaa_location": ""}))
}

/// The logins so far.
async fn attempts(
    State(api): State<Shared>,
    caller: Caller,
    Path(node): Path<String>,
) -> Result<Json<Value>, ApiError> {
    caller.require(Tag::Monitoring)?;
    api.expect_node(&node)?;
    let stats = &api.broker.stats;
    let (succeeded, failed) = (stats.logins_succeeded.get(), stats.logins_failed.get());
    Ok(Json(json!([{
        "protocol": "amqp091",
        "auth_attempts": succeeded + failed,
        "auth_attempts_failed": failed,
        "auth_attempts_succeeded": succeeded,
    }])))
}

/// The logins by user and address: never counted, as in RabbitMQ unless it is configured.
async fn attempts_by_source(
    State(api): State<Shared>,
    caller: Caller,
    Path(node): Path<String>,
) -> Result<Json<Value>, ApiError> {
    caller.require(Tag::Monitoring)?;
    api.expect_node(&node)?;
    Ok(Json(json!([])))
}

/// Deviation: nothing is forgotten, since whoever reads these counters would take it for a restart.
async fn forget_attempts(
    State(api): State<Shared>,
    _: Administrator,
    Path(node): Path<String>,
) -> Result<StatusCode, ApiError> {
    api.expect_node(&node)?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a password is kept as. RabbitMQ 4.3 takes it from the body, since paths end up in logs.
async fn hash_password(_: Administrator, fields: Fields) -> Result<Json<Value>, ApiError> {
    hashed(fields.expect_text("password")?)
}

/// As RabbitMQ up to 4.2 takes it.
async fn hash_path(_: Administrator, Path(password): Path<String>) -> Result<Json<Value>, ApiError> {
    hashed(&password)
}

fn hashed(password: &str) -> Result<Json<Value>, ApiError> {
    let hash = PasswordHash::new(HashingAlgorithm::default(), random(), password.as_bytes());
    Ok(Json(json!({"ok": hash.to_base64()})))
}

impl crate::management::Api {
    /// # Errors
    /// 404 if that is not the name of the node.
    pub(super) fn expect_node(self: &Arc<Self>, name: &str) -> Result<(), ApiError> {
        if name == self.node() { Ok(()) } else { Err(ApiError::NotFound) }
    }
}
