//! The API: paths below `/api`, one file for each kind of resource.

mod auth;
mod bindings;
mod channels;
mod connections;
mod consumers;
mod definitions;
mod exchanges;
mod features;
mod health;
pub(super) mod limits;
pub(super) mod nodes;
mod overview;
mod parameters;
mod permissions;
pub(super) mod policies;
mod queues;
mod runtime;
mod shovels;
pub(super) mod users;
pub(super) mod vhosts;

use axum::{
    Router,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{Shared, error::ApiError};
use crate::broker::journal::Lsn;

/// All of it.
pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .merge(auth::routes())
        .merge(bindings::routes())
        .merge(channels::routes())
        .merge(connections::routes())
        .merge(consumers::routes())
        .merge(definitions::routes())
        .merge(exchanges::routes())
        .merge(features::routes())
        .merge(health::routes())
        .merge(limits::routes())
        .merge(nodes::routes())
        .merge(overview::routes())
        .merge(parameters::routes())
        .merge(permissions::routes())
        .merge(policies::routes())
        .merge(queues::routes())
        .merge(runtime::routes())
        .merge(shovels::routes())
        .merge(users::routes())
        .merge(vhosts::routes())
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
}

/// What is answered to a change once it is durable: 204. One that had nothing to change waits for all that is on its way,
/// so that nobody is told of it sooner than who made it.
async fn changed(api: &Shared, lsn: Lsn) -> Result<Response, ApiError> {
    created_or_changed(api, lsn, true).await
}

/// The same, with 201 for what was not there before.
async fn created_or_changed(api: &Shared, lsn: Lsn, was_there: bool) -> Result<Response, ApiError> {
    if lsn == Lsn(0) {
        api.all_durable().await;
    } else {
        api.durable(lsn).await;
    }
    Ok(if was_there { StatusCode::NO_CONTENT } else { StatusCode::CREATED }.into_response())
}
