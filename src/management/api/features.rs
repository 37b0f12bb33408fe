//! `/api/feature-flags`, `/api/deprecated-features`, `/api/extensions` and `/api/federation-links`: what the broker can do, for those who ask
//! before they use it.

use axum::{
    Json, Router,
    extract::Path,
    http::StatusCode,
    routing::{get, put},
};
use serde_json::{Value, json};

use crate::management::{
    Shared,
    caller::{Administrator, Caller, Tag},
    error::ApiError,
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/feature-flags", get(feature_flags))
        .route("/feature-flags/{name}/enable", put(enable_feature))
        .route("/deprecated-features", get(deprecated_features))
        .route("/deprecated-features/used", get(deprecated_features))
        .route("/extensions", get(extensions))
        .route("/federation-links", get(federation_links))
        .route("/federation-links/{vhost}", get(federation_links))
}

/// There is no federation, so there are no links of it; who asks is told so in RabbitMQ's form.
async fn federation_links(caller: Caller) -> Result<Json<Value>, ApiError> {
    caller.require(Tag::Monitoring)?;
    Ok(Json(json!([])))
}

/// RabbitMQ's flags up to 3.13, and what each of them brings. All of them are on.
const FEATURE_FLAGS: [(&str, &str); 17] = [
    ("classic_mirrored_queue_version", "Changes of the storage of mirrored queues"),
    ("classic_queue_type_delivery_support", "Deliveries of classic queues by their type"),
    ("direct_exchange_routing_v2", "Faster routing by direct exchanges"),
    ("drop_unroutable_metric", "Counts of publishes that are dropped"),
    ("empty_basic_get_metric", "Counts of basic.get on empty queues"),
    ("feature_flags_v2", "Feature flags that can be turned on while nodes come and go"),
    ("implicit_default_bindings", "Bindings of the default exchange that are not stored"),
    ("listener_records_in_ets", "Listeners that are not stored"),
    ("maintenance_mode_status", "Nodes that say whether they are being maintained"),
    ("message_containers", "One form of messages for all protocols"),
    ("quorum_queue", "Queues of the type quorum"),
    ("restart_streams", "Restarts of streams"),
    ("stream_queue", "Queues of the type stream"),
    ("stream_single_active_consumer", "Streams with a single active consumer"),
    ("tracking_records_in_ets", "Connections and channels that are not stored"),
    ("user_limits", "Limits of users"),
    ("virtual_host_metadata", "Virtual hosts with a description and tags"),
];

async fn feature_flags(_: Administrator) -> Result<Json<Value>, ApiError> {
    let flag = |(name, description): (&str, &str)| {
        json!({
            "name": name,
            "desc": description,
            "doc_url": "",
            "state": "enabled",
            "stability": "stable",
            "provided_by": "rabbit",
        })
    };
    Ok(Json(FEATURE_FLAGS.map(flag).into_iter().collect()))
}

/// It is on already; one that nobody knows is 400, as in RabbitMQ.
async fn enable_feature(_: Administrator, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    if FEATURE_FLAGS.iter().any(|(known, _)| *known == name) {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(ApiError::bad_request("unsupported"))
}

/// Nothing is going away.
async fn deprecated_features(_: Administrator) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!([])))
}

/// The parts of RabbitMQ's page beyond its core. Tools look here whether there are shovels.
async fn extensions(_: Caller) -> Json<Value> {
    Json(json!([{"javascript": "dispatcher.js"}, {"javascript": "shovel.js"}]))
}
