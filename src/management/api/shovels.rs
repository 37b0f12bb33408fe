//! `/api/shovels`: how shovels are. They are set as parameters.

use std::{borrow::Cow, sync::Arc, sync::atomic::Ordering};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{delete, get},
};
use serde_json::{Map, Value, json};

use super::super::{
    Shared,
    caller::{Caller, Policymaker, Tag},
    error::ApiError,
    list::{ListQuery, Row},
};
use crate::{
    broker::parameter::{Parameter, SHOVEL},
    shovel::{State as ShovelState, Status},
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/shovels", get(list_all))
        .route("/shovels/{vhost}", get(list_of_host))
        .route("/shovels/vhost/{vhost}/{name}", get(get_one).delete(delete_one))
        .route("/shovels/vhost/{vhost}/{name}/restart", delete(restart))
}

/// A shovel, and how it is.
struct Shovel {
    parameter: Arc<Parameter>,
    /// `None` if it was set just now.
    status: Option<Arc<Status>>,
}

impl Row for Shovel {
    fn virtual_host(&self) -> &str {
        &self.parameter.virtual_host
    }

    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.parameter.name)
    }
}

async fn list_all(caller: Caller, State(api): State<Shared>, query: ListQuery) -> Result<Response, ApiError> {
    require_view(&caller)?;
    list(&caller, &api, query, None).await
}

async fn list_of_host(
    caller: Caller,
    State(api): State<Shared>,
    Path(vhost): Path<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    require_view(&caller)?;
    caller.visible_host(&api, &vhost)?;
    list(&caller, &api, query, Some(&vhost)).await
}

/// Who sets shovels sees how they are, in the virtual hosts that the user may enter; `monitoring` sees all.
///
/// Deviation: RabbitMQ shows them only to `monitoring`, so that who sets one can't see whether it works.
fn require_view(caller: &Caller) -> Result<(), ApiError> {
    if caller.has(Tag::Policymaker) { Ok(()) } else { caller.require(Tag::Monitoring) }
}

async fn list(
    caller: &Caller,
    api: &Shared,
    query: ListQuery,
    vhost: Option<&str>,
) -> Result<Response, ApiError> {
    let mut parameters = api.broker.parameters.of_component(SHOVEL);
    parameters.retain(|parameter| {
        let host = &*parameter.virtual_host;
        vhost.is_none_or(|vhost| *host == *vhost) && caller.sees(api, host)
    });
    let shovels = parameters.into_iter().map(|parameter| with_status(api, parameter)).collect();
    let api = Arc::clone(api);
    query.whole_list(shovels, move |shovel| rendered(&api, shovel)).await
}

/// RabbitMQ answers with a list of one.
async fn get_one(
    caller: Caller,
    State(api): State<Shared>,
    Path((vhost, name)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    require_view(&caller)?;
    caller.visible_host(&api, &vhost)?;
    let parameter = find(&api, &vhost, &name)?;
    Ok(Json(json!([rendered(&api, &with_status(&api, parameter))])).into_response())
}

/// Deviation: RabbitMQ lets whoever may look delete and restart shovels.
async fn delete_one(
    Policymaker(caller): Policymaker,
    State(api): State<Shared>,
    Path((vhost, name)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    caller.own_host(&api, &vhost)?;
    find(&api, &vhost, &name)?;
    api.broker.delete_parameter(&vhost, SHOVEL, &name);
    api.all_durable().await;
    Ok(StatusCode::NO_CONTENT)
}

async fn restart(
    Policymaker(caller): Policymaker,
    State(api): State<Shared>,
    Path((vhost, name)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    caller.own_host(&api, &vhost)?;
    find(&api, &vhost, &name)?;
    if let Some(status) = api.shovels.get(&vhost, &name) {
        status.restart();
    }
    Ok(StatusCode::NO_CONTENT)
}

fn find(api: &Shared, vhost: &str, name: &str) -> Result<Arc<Parameter>, ApiError> {
    api.broker.parameters.get(vhost, SHOVEL, name).ok_or(ApiError::NotFound)
}

fn with_status(api: &Shared, parameter: Arc<Parameter>) -> Shovel {
    let status = api.shovels.get(&parameter.virtual_host, &parameter.name);
    Shovel { parameter, status }
}

fn rendered(api: &Shared, Shovel { parameter, status }: &Shovel) -> Value {
    let (state, since_ms) = match status {
        Some(status) => status.state(),
        None => (ShovelState::Starting, api.now().unix_ms),
    };
    let mut fields = Map::from_iter([
        ("node".to_owned(), json!(api.node())),
        ("timestamp".to_owned(), json!(date_time(since_ms / 1000))),
        ("name".to_owned(), json!(*parameter.name)),
        ("vhost".to_owned(), json!(*parameter.virtual_host)),
        ("type".to_owned(), json!("dynamic")),
        ("state".to_owned(), json!(state.name())),
    ]);
    match state {
        ShovelState::Starting => {}
        ShovelState::Running { ends } => {
            fields.extend(ends.into_iter().map(|(name, end)| (name.replace('-', "_"), json!(end))));
        }
        ShovelState::Terminated { reason } => {
            fields.insert("reason".to_owned(), json!(reason));
        }
    }
    if let Some(status) = status {
        // As RabbitMQ 4.1 names them.
        let pending = status.pending.load(Ordering::Relaxed);
        let remaining = match status.remaining.load(Ordering::Relaxed) {
            u64::MAX => json!("unlimited"),
            remaining => json!(remaining),
        };
        fields.insert("forwarded".to_owned(), json!(status.forwarded.load(Ordering::Relaxed)));
        fields.insert("pending".to_owned(), json!(pending));
        fields.insert("remaining".to_owned(), remaining);
    }
    Value::Object(fields)
}

/// Seconds since 1970 as RabbitMQ shows a time here: `2026-11-24 17:48:45`. In UTC.
fn date_time(unix_secs: u64) -> String {
    let (days, second) = (unix_secs / 86_400, unix_secs % 86_400);
    // Counted from March 1st of the year 0, so that a leap day ends a year; 400 years have 146,097 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, january) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + january;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_as_rabbitmq_does() {
        for (unix_secs, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (951_868_800, "2000-03-01 00:00:00"),
            (1_795_542_525, "2026-11-24 17:48:45"),
        ] {
            assert_eq!(date_time(unix_secs), text);
        }
    }
}
