//! `/api/users`.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Map, Value, json};
use tracing::info;

use super::{
    changed, created_or_changed,
    permissions::{granted, granted_topics},
};
use crate::{
    broker::{
        definition::Definition,
        journal::Lsn,
        user::{HashingAlgorithm, PasswordHash, User},
    },
    management::{
        Shared,
        body::Fields,
        caller::{Administrator, Caller, Tag},
        error::ApiError,
        list::{ListQuery, Row},
        path::Names,
    },
};

/// The longest name, in octets: it must fit into a short string.
pub(in crate::management) const NAME_BYTES_MAX: usize = 255;
/// The most tags of a user or a virtual host.
const TAGS_MAX: usize = 100;
/// The user whom RabbitMQ takes for loopback-only by name.
pub(in crate::management) const GUEST: &str = "guest";

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/users", get(list))
        .route("/users/", get(list))
        .route("/users/without-permissions", get(list_without_permissions))
        .route("/users/bulk-delete", post(delete_all))
        .route("/users/{user}", get(one).put(put).delete(delete))
        .route("/users/{user}/permissions", get(list_permissions))
        .route("/users/{user}/topic-permissions", get(list_topic_permissions))
        .route("/auth/hash_password/{password}", get(hash))
}

impl Row for Arc<User> {
    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.name)
    }
}

async fn list(State(api): State<Shared>, _: Administrator, query: ListQuery) -> Result<Response, ApiError> {
    query.list(api.broker.users.list(), |user| shown(user)).await
}

/// Those who may not enter any virtual host.
async fn list_without_permissions(
    State(api): State<Shared>,
    _: Administrator,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let with: Vec<String> = api.broker.permissions.list().into_iter().map(|(user, ..)| user).collect();
    let mut users = api.broker.users.list();
    users.retain(|user| with.iter().all(|with| **with != *user.name));
    query.list(users, |user| shown(user)).await
}

async fn one(
    State(api): State<Shared>,
    _: Administrator,
    Names(name): Names<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    Ok(query.one(shown(&*expect(&api, &name)?)))
}

async fn list_permissions(
    State(api): State<Shared>,
    _: Administrator,
    Names(name): Names<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    expect(&api, &name)?;
    query.list(granted(&api, |user, _| user == name), |row| row.shown()).await
}

async fn list_topic_permissions(
    State(api): State<Shared>,
    _: Administrator,
    Names(name): Names<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    expect(&api, &name)?;
    query.list(granted_topics(&api, |user, _| user == name), |row| row.shown()).await
}

async fn put(
    State(api): State<Shared>,
    Administrator(caller): Administrator,
    Names(name): Names<String>,
    fields: Fields,
) -> Result<Response, ApiError> {
    check_name(&name)?;
    let tags = tags_of(fields.0.get("tags").ok_or_else(|| ApiError::bad_request("tags_not_present"))?)?;
    let password = password_of(&fields)?;
    let loopback_only = fields.flag("loopback_only")?;
    let mut was_there = false;
    let lsn = api.broker.change(Some(&caller.user.name), || {
        let before = api.broker.users.get(&name);
        was_there = before.is_some();
        Some(Definition::UserPut(Arc::new(User {
            name: name.as_str().into(),
            password,
            tags,
            loopback_only: loopback_only
                .unwrap_or_else(|| before.as_ref().map_or(name == GUEST, |before| before.loopback_only)),
            connections_max: before.as_ref().and_then(|before| before.connections_max),
            channels_max: before.as_ref().and_then(|before| before.channels_max),
        })))
    });
    created_or_changed(&api, lsn, was_there).await
}

async fn delete(
    State(api): State<Shared>,
    Administrator(caller): Administrator,
    Names(name): Names<String>,
) -> Result<Response, ApiError> {
    let lsn = delete_one(&api, &caller, &name)?;
    changed(&api, lsn).await
}

/// Deletes the users that a list names: all of them, or none if one of them is not there or is protected.
async fn delete_all(
    State(api): State<Shared>,
    Administrator(caller): Administrator,
    fields: Fields,
) -> Result<Response, ApiError> {
    fields.require(&["users"])?;
    let names = fields.0.get("users").and_then(Value::as_array);
    let names: Option<Vec<&str>> = names.and_then(|names| names.iter().map(Value::as_str).collect());
    let names = names.ok_or_else(|| ApiError::bad_request("users should be a list of names"))?;
    for name in &names {
        let user = api.broker.users.get(name);
        let user = user.ok_or_else(|| ApiError::bad_request_of("no_such_user", &json!(name)))?;
        check_unprotected(&user)?;
    }
    let mut last = Lsn(0);
    for name in names {
        last = last.max(delete_one(&api, &caller, name)?);
    }
    changed(&api, last).await
}

fn delete_one(api: &Shared, caller: &Caller, name: &str) -> Result<Lsn, ApiError> {
    check_unprotected(&*expect(api, name)?)?;
    let configured = api.config.users.iter().filter(|user| !api.config.is_first_user(user));
    if configured.into_iter().any(|user| user.name == name) {
        info!(user = name, "deleted, but the configuration has this user: it is back after the next start");
    }
    let deleted = || Some(Definition::UserDeleted { name: name.into() });
    Ok(api.broker.change(Some(&caller.user.name), deleted))
}

fn check_unprotected(user: &User) -> Result<(), ApiError> {
    if user.has_tag("protected") {
        let text = format!("Refusing to delete user '{}' because it is protected from deletion", user.name);
        return Err(ApiError::Protected(text));
    }
    Ok(())
}

fn expect(api: &Shared, name: &str) -> Result<Arc<User>, ApiError> {
    api.broker.users.get(name).ok_or(ApiError::NotFound)
}

/// The hash that a password has, to be put into definitions.
async fn hash(caller: Caller, Names(password): Names<String>) -> Result<Response, ApiError> {
    caller.require(Tag::Management)?;
    let hash = PasswordHash::new(HashingAlgorithm::default(), rand::random(), password.as_bytes());
    Ok((StatusCode::OK, axum::Json(json!({"ok": hash.to_base64()}))).into_response())
}

/// # Errors
/// 400 if a name of a user or a virtual host is too long or empty.
pub(in crate::management) fn check_name(name: &str) -> Result<(), ApiError> {
    match name.len() {
        1..=NAME_BYTES_MAX => Ok(()),
        len => Err(ApiError::bad_request(format!("a name has 1 to {NAME_BYTES_MAX} bytes, this has {len}"))),
    }
}

/// Tags: a list of texts, or a text with commas (RabbitMQ up to 3.8).
///
/// # Errors
/// 400 if it is neither.
pub(in crate::management) fn tags_of(tags: &Value) -> Result<Vec<String>, ApiError> {
    let wrong = || ApiError::bad_request("tags should be a list of strings, or one string with commas");
    let tags: Vec<&str> = match tags {
        Value::String(text) => text.split(',').collect(),
        Value::Array(tags) => tags.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(wrong)?,
        Value::Null => Vec::new(),
        _ => return Err(wrong()),
    };
    let tags = tags.into_iter().map(str::trim).filter(|tag| !tag.is_empty());
    let tags: Vec<String> = tags.map(str::to_owned).collect();
    if tags.len() > TAGS_MAX || tags.iter().any(|tag| tag.len() > NAME_BYTES_MAX) {
        let text = format!("there may be {TAGS_MAX} tags of at most {NAME_BYTES_MAX} bytes");
        return Err(ApiError::bad_request(text));
    }
    Ok(tags)
}

/// The password that a user is to have: given in clear, as a hash, or none.
///
/// # Errors
/// 400 if both are given, or the hash is none.
pub(in crate::management) fn password_of(fields: &Fields) -> Result<PasswordHash, ApiError> {
    let algorithm = match fields.text("hashing_algorithm")? {
        None => HashingAlgorithm::default(),
        Some(name) => HashingAlgorithm::parse(name)
            .ok_or_else(|| ApiError::bad_request_of("unknown_hashing_algorithm", &json!(name)))?,
    };
    match (fields.text("password")?, fields.text("password_hash")?) {
        (Some(_), Some(_)) => Err(ApiError::bad_request("both_password_and_password_hash_are_provided")),
        (Some(password), None) => {
            // RabbitMQ hashes by what the node is configured to, whatever the request says.
            Ok(PasswordHash::new(HashingAlgorithm::default(), rand::random(), password.as_bytes()))
        }
        (None, None | Some("")) => Ok(PasswordHash::none(algorithm)),
        (None, Some(hash)) => PasswordHash::from_base64(algorithm, hash)
            .map_err(|error| ApiError::bad_request(format!("password_hash: {error}"))),
    }
}

/// A user, as RabbitMQ shows one.
pub(in crate::management) fn shown(user: &User) -> Value {
    let mut shown = json!({
        "name": &*user.name,
        "password_hash": user.password.to_base64(),
        "hashing_algorithm": user.password.algorithm().name(),
        "tags": user.tags,
        "limits": limits(user),
    });
    // RabbitMQ knows guest only for such a user, and has it in its configuration.
    if user.loopback_only != (*user.name == *GUEST) {
        shown["loopback_only"] = user.loopback_only.into();
    }
    shown
}

/// The limits that a user has.
pub(in crate::management) fn limits(user: &User) -> Map<String, Value> {
    let limits = [("max-connections", user.connections_max), ("max-channels", user.channels_max)];
    limits.into_iter().filter_map(|(name, limit)| Some((name.to_owned(), limit?.into()))).collect()
}
