//! Metrics in Prometheus's text format, under RabbitMQ's names, so that its dashboards work.
//!
//! `/metrics` tells of the broker as a whole and reads counters only: it takes as long for one queue as for a hundred thousand.
//! `/metrics/per-object` adds every queue, connection, channel and exchange, and `/metrics/detailed` those families that are
//! asked for, of the virtual hosts and queues that are asked for; both are written while they are read, a piece at a time.

mod objects;
mod rows;
mod text;
mod whole;

use axum::{
    Router,
    body::Body,
    extract::{RawQuery, State},
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};

use self::{
    objects::{Asked, Objects},
    text::Exposition,
};
use super::{Shared, error::ApiError};

/// The media type of the text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/metrics", get(whole))
        .route("/metrics/per-object", get(per_object))
        .route("/metrics/detailed", get(detailed))
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
}

async fn whole(State(api): State<Shared>) -> Response {
    let mut text = Exposition::new("rabbitmq_");
    whole::identity(&mut text, &api, "aggregated");
    whole::churn(&mut text, &api);
    whole::node(&mut text, &api).await;
    whole::messages(&mut text, &api);
    respond(Body::from(text.into_string()))
}

async fn per_object(State(api): State<Shared>) -> Response {
    let mut text = Exposition::new("rabbitmq_");
    whole::identity(&mut text, &api, "per-object");
    whole::churn(&mut text, &api);
    whole::node(&mut text, &api).await;
    whole::messages_of_all(&mut text, &api);
    let asked = Asked::everything();
    let objects = Objects::gather(&api, asked, "rabbitmq_", text).await;
    respond(Body::from_stream(objects))
}

/// `?family=<name>`, any number of times, `&vhost=` and `&queue=` likewise; families that do not exist are left out.
async fn detailed(State(api): State<Shared>, RawQuery(query): RawQuery) -> Response {
    let asked = Asked::parse(query.as_deref().unwrap_or_default());
    let mut text = Exposition::new("rabbitmq_");
    whole::identity(&mut text, &api, "detailed");
    let mut text = text.with_prefix("rabbitmq_detailed_");
    if asked.churn {
        whole::churn(&mut text, &api);
    }
    if asked.node {
        whole::node(&mut text, &api).await;
    }
    let objects = Objects::gather(&api, asked, "rabbitmq_detailed_", text).await;
    respond(Body::from_stream(objects))
}

fn respond(body: Body) -> Response {
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], body).into_response()
}
