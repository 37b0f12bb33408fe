//! `/api/vhost-limits` and `/api/user-limits`.

use std::borrow::Cow;

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::{get, put},
};
use serde_json::{Map, Value, json};

use super::{changed, users};
use crate::{
    broker::{definition::Definition, user::User, vhost::VirtualHost},
    json::erlang,
    management::{
        Shared,
        body::Fields,
        caller::{Administrator, Caller, Tag},
        error::ApiError,
        list::{self, ListQuery, Row},
    },
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/vhost-limits", get(list_of_hosts))
        .route("/vhost-limits/{vhost}", get(of_host))
        .route("/vhost-limits/{vhost}/{name}", put(put_of_host).delete(delete_of_host))
        .route("/user-limits", get(list_of_users))
        .route("/user-limits/{user}", get(of_user))
        .route("/user-limits/{user}/{name}", put(put_of_user).delete(delete_of_user))
}

/// The limits of a virtual host or a user.
struct Limits {
    /// `vhost` or `user`.
    kind: &'static str,
    name: String,
    value: Map<String, Value>,
}

impl Row for Limits {
    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.name)
    }
}

impl Limits {
    fn shown(&self) -> Value {
        json!({self.kind: self.name, "value": self.value})
    }

    fn of_host(api: &Shared, host: &VirtualHost) -> Option<Self> {
        let value = limits_of_host(api, host);
        (!value.is_empty()).then(|| Self { kind: "vhost", name: host.name.to_string(), value })
    }

    fn of_user(user: &User) -> Option<Self> {
        let value = users::limits(user);
        (!value.is_empty()).then(|| Self { kind: "user", name: user.name.to_string(), value })
    }
}

/// The limits that a virtual host has.
pub(in crate::management) fn limits_of_host(api: &Shared, host: &VirtualHost) -> Map<String, Value> {
    let connections_max = api.broker.counts.virtual_host_max(&host.name).flatten();
    let limits = [("max-connections", connections_max), ("max-queues", host.queues_max())];
    limits.into_iter().filter_map(|(name, limit)| Some((name.to_owned(), limit?.into()))).collect()
}

async fn list_of_hosts(
    State(api): State<Shared>,
    caller: Caller,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let hosts = list::virtual_hosts(&api, &caller, None)?;
    let limits = hosts.iter().filter_map(|host| Limits::of_host(&api, host)).collect();
    query.whole_list(limits, Limits::shown).await
}

async fn of_host(
    State(api): State<Shared>,
    caller: Caller,
    Path(name): Path<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let host = list::virtual_host(&api, &caller, &name)?;
    query.whole_list(Limits::of_host(&api, &host).into_iter().collect(), Limits::shown).await
}

async fn put_of_host(
    State(api): State<Shared>,
    Administrator(caller): Administrator,
    Path((name, limit)): Path<(String, String)>,
    fields: Fields,
) -> Result<Response, ApiError> {
    let max = value(&fields, &limit).map_err(|reason| match reason {
        Reason::Missing(error) => error,
        Reason::Wrong(text) => ApiError::bad_request(format!("Validation failed\n\n{text}\n")),
    })?;
    if !HOST_LIMITS.contains(&&*limit) {
        let text = format!("Validation failed\n\n{} in limits\n", unrecognised(&limit, &fields));
        return Err(ApiError::bad_request(text));
    }
    change_host(&api, &caller, &name, &limit, max).await
}

async fn delete_of_host(
    State(api): State<Shared>,
    Administrator(caller): Administrator,
    Path((name, limit)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    change_host(&api, &caller, &name, &limit, None).await
}

async fn change_host(
    api: &Shared,
    caller: &Caller,
    name: &str,
    limit: &str,
    max: Option<u32>,
) -> Result<Response, ApiError> {
    api.broker.virtual_host(name).ok_or(ApiError::NoVirtualHost)?;
    let lsn = api.broker.change(Some(&caller.user.name), || {
        let host = api.broker.virtual_host(name)?;
        let mut connections_max = api.broker.counts.virtual_host_max(name).flatten();
        let mut queues_max = host.queues_max();
        match limit {
            "max-connections" => connections_max = max,
            "max-queues" => queues_max = max,
            _ => {}
        }
        Some(Definition::VirtualHostPut { name: name.into(), connections_max, queues_max })
    });
    changed(api, lsn).await
}

/// Who is no administrator is shown what concerns itself.
///
/// Deviation: RabbitMQ shows everybody the limits of all users.
async fn list_of_users(
    State(api): State<Shared>,
    caller: Caller,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let mut users = api.broker.users.list();
    users.retain(|user| may_see(&caller, &user.name));
    query.whole_list(users.iter().filter_map(|user| Limits::of_user(user)).collect(), Limits::shown).await
}

async fn of_user(
    State(api): State<Shared>,
    caller: Caller,
    Path(name): Path<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    if !may_see(&caller, &name) {
        caller.require(Tag::Administrator)?;
    }
    let user = api.broker.users.get(&name).ok_or(ApiError::NotFound)?;
    query.whole_list(Limits::of_user(&user).into_iter().collect(), Limits::shown).await
}

fn may_see(caller: &Caller, user: &str) -> bool {
    *caller.user.name == *user || caller.has(Tag::Monitoring)
}

async fn put_of_user(
    State(api): State<Shared>,
    Administrator(caller): Administrator,
    Path((name, limit)): Path<(String, String)>,
    fields: Fields,
) -> Result<Response, ApiError> {
    let max = value(&fields, &limit).map_err(|reason| match reason {
        Reason::Missing(error) => error,
        Reason::Wrong(text) => ApiError::bad_request(text),
    })?;
    if !USER_LIMITS.contains(&&*limit) {
        return Err(ApiError::bad_request(format!("{} in user-limits", unrecognised(&limit, &fields))));
    }
    change_user(&api, &caller, &name, &limit, max).await
}

async fn delete_of_user(
    State(api): State<Shared>,
    Administrator(caller): Administrator,
    Path((name, limit)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    change_user(&api, &caller, &name, &limit, None).await
}

async fn change_user(
    api: &Shared,
    caller: &Caller,
    name: &str,
    limit: &str,
    max: Option<u32>,
) -> Result<Response, ApiError> {
    let known = api.broker.users.get(name).is_some();
    known.then_some(()).ok_or_else(|| ApiError::bad_request_of("no_such_user", &json!(name)))?;
    let lsn = api.broker.change(Some(&caller.user.name), || {
        let mut user = User::clone(&*api.broker.users.get(name)?);
        match limit {
            "max-connections" => user.connections_max = max,
            "max-channels" => user.channels_max = max,
            _ => {}
        }
        Some(Definition::UserPut(user.into()))
    });
    changed(api, lsn).await
}

/// The limits of a virtual host.
pub(in crate::management) const HOST_LIMITS: [&str; 2] = ["max-connections", "max-queues"];
/// The limits of a user.
pub(in crate::management) const USER_LIMITS: [&str; 2] = ["max-connections", "max-channels"];

enum Reason {
    Missing(ApiError),
    Wrong(String),
}

fn value(fields: &Fields, limit: &str) -> Result<Option<u32>, Reason> {
    fields.require(&["value"]).map_err(Reason::Missing)?;
    limit_of(limit, fields.0.get("value").unwrap_or(&Value::Null)).map_err(Reason::Wrong)
}

/// A limit: as in RabbitMQ a negative number is none. One that is larger than can be counted is none either.
///
/// # Errors
/// RabbitMQ's text if it is no whole number.
pub(in crate::management) fn limit_of(name: &str, value: &Value) -> Result<Option<u32>, String> {
    match value.as_i64() {
        Some(number) => Ok(u32::try_from(number).ok().filter(|max| *max != u32::MAX)),
        None => Err(format!("{name} should be a number, actually was {}", erlang(value))),
    }
}

fn unrecognised(limit: &str, fields: &Fields) -> String {
    let value = fields.0.get("value").unwrap_or(&Value::Null);
    format!("Unrecognised terms [{{<<\"{limit}\">>,{}}}]", erlang(value))
}
