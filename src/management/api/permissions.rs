//! `/api/permissions` and `/api/topic-permissions`.

use std::borrow::Cow;

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::{delete as deleting, get},
};
use serde_json::{Value, json};

use super::{changed, created_or_changed};
use crate::{
    broker::{
        definition::Definition,
        permission::{PatternError, Permission, TopicPermission},
    },
    management::{
        Shared,
        body::Fields,
        caller::{Administrator, Caller},
        error::ApiError,
        list::{ListQuery, Row},
    },
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/permissions", get(list))
        .route("/permissions/{vhost}/{user}", get(one).put(put).delete(delete))
        .route("/topic-permissions", get(list_topics))
        .route("/topic-permissions/{vhost}/{user}", get(one_topic).put(put_topic).delete(delete_topics))
        .route(
            "/topic-permissions/{vhost}/{user}/{exchange}",
            deleting(delete_topic).get(one_topic_of_exchange),
        )
}

/// A permission, and whose it is.
pub(in crate::management) struct Granted {
    pub(in crate::management) user: String,
    pub(in crate::management) virtual_host: String,
    pub(in crate::management) permission: Permission,
}

/// A topic permission, and whose it is.
pub(in crate::management) struct GrantedTopic {
    pub(in crate::management) user: String,
    pub(in crate::management) virtual_host: String,
    pub(in crate::management) exchange: String,
    pub(in crate::management) permission: TopicPermission,
}

impl Granted {
    pub(in crate::management) fn shown(&self) -> Value {
        json!({
            "user": self.user,
            "vhost": self.virtual_host,
            "configure": self.permission.configure(),
            "write": self.permission.write(),
            "read": self.permission.read(),
        })
    }
}

impl GrantedTopic {
    pub(in crate::management) fn shown(&self) -> Value {
        json!({
            "user": self.user,
            "vhost": self.virtual_host,
            "exchange": self.exchange,
            "write": self.permission.write(),
            "read": self.permission.read(),
        })
    }
}

impl Row for Granted {
    fn virtual_host(&self) -> &str {
        &self.virtual_host
    }

    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.user)
    }
}

impl Row for GrantedTopic {
    fn virtual_host(&self) -> &str {
        &self.virtual_host
    }

    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.user)
    }
}

/// The permissions of those users in those virtual hosts.
pub(in crate::management) fn granted(api: &Shared, is_asked: impl Fn(&str, &str) -> bool) -> Vec<Granted> {
    let all = api.broker.permissions.list().into_iter();
    let all = all.filter(|(user, virtual_host, _)| is_asked(user, virtual_host));
    all.map(|(user, virtual_host, permission)| Granted { user, virtual_host, permission }).collect()
}

/// The topic permissions of those users in those virtual hosts.
pub(in crate::management) fn granted_topics(
    api: &Shared,
    is_asked: impl Fn(&str, &str) -> bool,
) -> Vec<GrantedTopic> {
    let all = api.broker.permissions.list_topics().into_iter();
    let all = all.filter(|(user, virtual_host, _)| is_asked(user, virtual_host));
    let mut all: Vec<_> = all
        .map(|(user, virtual_host, (exchange, permission))| GrantedTopic {
            user,
            virtual_host,
            exchange,
            permission,
        })
        .collect();
    all.sort_unstable_by(|a, b| a.exchange.cmp(&b.exchange));
    all
}

async fn list(State(api): State<Shared>, _: Administrator, query: ListQuery) -> Result<Response, ApiError> {
    query.list(granted(&api, |_, _| true), Granted::shown).await
}

async fn one(
    State(api): State<Shared>,
    _: Administrator,
    Path((virtual_host, user)): Path<(String, String)>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let permission = api.broker.permissions.get(&user, &virtual_host).ok_or(ApiError::NotFound)?;
    Ok(query.one(Granted { user, virtual_host, permission }.shown()))
}

async fn put(
    State(api): State<Shared>,
    Administrator(caller): Administrator,
    Path((virtual_host, user)): Path<(String, String)>,
    fields: Fields,
) -> Result<Response, ApiError> {
    fields.require(&["configure", "write", "read"])?;
    let [configure, write, read] = ["configure", "write", "read"].map(|name| fields.expect_text(name));
    let (configure, write, read) = (configure?, write?, read?);
    let permission = Permission::new(configure, write, read).map_err(invalid)?;
    let (mut was_there, mut exist) = (false, false);
    let lsn = api.broker.change(Some(&caller.user.name), || {
        was_there = api.broker.permissions.get(&user, &virtual_host).is_some();
        exist = both_exist(&api, &user, &virtual_host);
        let (user, virtual_host) = (user.as_str().into(), virtual_host.as_str().into());
        exist.then_some(Definition::PermissionPut { user, virtual_host, permission })
    });
    if !exist {
        return Err(ApiError::bad_request("vhost_or_user_not_found"));
    }
    created_or_changed(&api, lsn, was_there).await
}

async fn delete(
    State(api): State<Shared>,
    Administrator(caller): Administrator,
    Path((virtual_host, user)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    api.broker.permissions.get(&user, &virtual_host).ok_or(ApiError::NotFound)?;
    let definition = Definition::PermissionDeleted { user: user.into(), virtual_host: virtual_host.into() };
    let lsn = api.broker.change(Some(&caller.user.name), || Some(definition));
    changed(&api, lsn).await
}

async fn list_topics(
    State(api): State<Shared>,
    _: Administrator,
    query: ListQuery,
) -> Result<Response, ApiError> {
    query.list(granted_topics(&api, |_, _| true), GrantedTopic::shown).await
}

/// All topic permissions that a user has in a virtual host.
async fn one_topic(
    State(api): State<Shared>,
    _: Administrator,
    Path((virtual_host, user)): Path<(String, String)>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    query.list(expect_topics(&api, &user, &virtual_host)?, GrantedTopic::shown).await
}

/// Deviation: RabbitMQ does not look at the exchange, and shows those of the others too.
async fn one_topic_of_exchange(
    State(api): State<Shared>,
    _: Administrator,
    Path((virtual_host, user, exchange)): Path<(String, String, String)>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let mut topics = expect_topics(&api, &user, &virtual_host)?;
    topics.retain(|topic| topic.exchange == exchange);
    query.list(topics, GrantedTopic::shown).await
}

fn expect_topics(api: &Shared, user: &str, virtual_host: &str) -> Result<Vec<GrantedTopic>, ApiError> {
    let topics = granted_topics(api, |known, host| known == user && host == virtual_host);
    if topics.is_empty() { Err(ApiError::NotFound) } else { Ok(topics) }
}

async fn put_topic(
    State(api): State<Shared>,
    Administrator(caller): Administrator,
    Path((virtual_host, user)): Path<(String, String)>,
    fields: Fields,
) -> Result<Response, ApiError> {
    fields.require(&["exchange", "write", "read"])?;
    let [exchange, write, read] = ["exchange", "write", "read"].map(|name| fields.expect_text(name));
    let (exchange, write, read) = (exchange?, write?, read?);
    let permission = TopicPermission::new(&user, &virtual_host, write, read).map_err(invalid)?;
    let (mut was_there, mut exist) = (false, false);
    let lsn = api.broker.change(Some(&caller.user.name), || {
        was_there = !granted_topics(&api, |known, host| known == user && host == virtual_host).is_empty();
        exist = both_exist(&api, &user, &virtual_host);
        let (user, virtual_host) = (user.as_str().into(), virtual_host.as_str().into());
        let exchange = exchange.into();
        exist.then_some(Definition::TopicPermissionPut { user, virtual_host, exchange, permission })
    });
    if !exist {
        return Err(ApiError::bad_request("vhost_or_user_not_found"));
    }
    created_or_changed(&api, lsn, was_there).await
}

async fn delete_topics(
    State(api): State<Shared>,
    Administrator(caller): Administrator,
    Path((virtual_host, user)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let mut last = crate::broker::journal::Lsn(0);
    for topic in expect_topics(&api, &user, &virtual_host)? {
        last = last.max(revoke_topic(&api, &caller, &user, &virtual_host, &topic.exchange));
    }
    changed(&api, last).await
}

/// As in RabbitMQ, one that is not there counts as deleted.
async fn delete_topic(
    State(api): State<Shared>,
    Administrator(caller): Administrator,
    Path((virtual_host, user, exchange)): Path<(String, String, String)>,
) -> Result<Response, ApiError> {
    if !both_exist(&api, &user, &virtual_host) {
        return Err(ApiError::NotFound);
    }
    let lsn = revoke_topic(&api, &caller, &user, &virtual_host, &exchange);
    changed(&api, lsn).await
}

fn revoke_topic(
    api: &Shared,
    caller: &Caller,
    user: &str,
    virtual_host: &str,
    exchange: &str,
) -> crate::broker::journal::Lsn {
    let definition = Definition::TopicPermissionDeleted {
        user: user.into(),
        virtual_host: virtual_host.into(),
        exchange: exchange.into(),
    };
    api.broker.change(Some(&caller.user.name), || Some(definition))
}

fn both_exist(api: &Shared, user: &str, virtual_host: &str) -> bool {
    api.broker.users.get(user).is_some() && api.broker.virtual_host(virtual_host).is_some()
}

fn invalid(error: PatternError) -> ApiError {
    match error {
        PatternError::Syntax { pattern, reason } => {
            ApiError::bad_request_of("invalid_regexp", &json!([pattern, reason]))
        }
        PatternError::TooLong => ApiError::bad_request(error.to_string()),
    }
}
