//! `/api/vhosts`.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::{get, post},
};
use serde_json::{Map, Value, json};

use super::{
    changed, created_or_changed,
    permissions::{granted, granted_topics},
    users::{check_name, tags_of},
};
use crate::{
    broker::{
        definition::Definition,
        queue::QueueKind,
        vhost::{Metadata, VirtualHost},
    },
    management::{
        Shared,
        body::Fields,
        caller::{Administrator, Caller},
        error::ApiError,
        list::{self, ListQuery, Row},
    },
};

/// The longest description, in octets.
const DESCRIPTION_BYTES_MAX: usize = 4096;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/vhosts", get(list_all))
        .route("/vhosts/{vhost}", get(one).put(put).delete(delete))
        .route("/vhosts/{vhost}/permissions", get(list_permissions))
        .route("/vhosts/{vhost}/topic-permissions", get(list_topic_permissions))
        .route("/vhosts/{vhost}/start/{node}", post(start))
        .route("/vhosts/{vhost}/deletion/protection", post(protect).delete(unprotect))
}

impl Row for Arc<VirtualHost> {
    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.name)
    }
}

async fn list_all(State(api): State<Shared>, caller: Caller, query: ListQuery) -> Result<Response, ApiError> {
    let hosts = list::virtual_hosts(&api, &caller, None)?;
    let has_figures = !query.disable_stats;
    let render = move |host: &Arc<VirtualHost>| {
        let mut shown = shown(host, api.node());
        if has_figures {
            add_figures(host, &mut shown);
        }
        shown
    };
    query.list(hosts, render).await
}

async fn one(
    State(api): State<Shared>,
    _: Administrator,
    Path(name): Path<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    Ok(query.one(shown(&*expect(&api, &name)?, api.node())))
}

async fn put(
    State(api): State<Shared>,
    Administrator(caller): Administrator,
    Path(name): Path<String>,
    fields: Fields,
) -> Result<Response, ApiError> {
    check_name(&name)?;
    let mut metadata = metadata_of(&fields)?;
    let tracing = fields.flag("tracing")?;
    let by = Some(&*caller.user.name);
    let mut was_there = false;
    let made = api.broker.change(by, || {
        was_there = api.broker.virtual_host(&name).is_some();
        let new = Definition::VirtualHostPut {
            name: name.as_str().into(),
            connections_max: None,
            queues_max: None,
        };
        (!was_there).then_some(new)
    });
    let described = api.broker.change(by, || {
        metadata.is_protected |= api.broker.virtual_host(&name)?.metadata().is_protected;
        Some(Definition::VirtualHostDescribed { name: name.as_str().into(), metadata: metadata.into() })
    });
    if let Some(is_on) = tracing {
        api.broker.set_tracing(&name, is_on);
    }
    // As in RabbitMQ, who makes a virtual host over the API may use it.
    let everything = || crate::broker::permission::Permission::new(".*", ".*", ".*").ok();
    let granted = api.broker.change(by.filter(|_| !was_there), || {
        if was_there {
            return None;
        }
        Some(Definition::PermissionPut {
            user: Arc::clone(&caller.user.name),
            virtual_host: name.as_str().into(),
            permission: everything()?,
        })
    });
    created_or_changed(&api, made.max(described).max(granted), was_there).await
}

async fn delete(
    State(api): State<Shared>,
    Administrator(caller): Administrator,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    expect(&api, &name)?;
    // Many queues take a while.
    let (shared, user, now) = (Arc::clone(&api), Arc::clone(&caller.user.name), api.now());
    let host = name.clone();
    let deleted =
        tokio::task::spawn_blocking(move || shared.broker.delete_virtual_host(&host, Some(&user), now));
    let deleted = deleted.await.map_err(|_| {
        ApiError::Unavailable(format!("vhost '{name}' could not be deleted as a whole: see the log"))
    })?;
    let lsn = deleted.map_err(|_| {
        ApiError::Protected(format!(
            "Refusing to delete virtual host '{name}' because it is protected from deletion"
        ))
    })?;
    changed(&api, lsn).await
}

async fn list_permissions(
    State(api): State<Shared>,
    _: Administrator,
    Path(name): Path<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    expect(&api, &name)?;
    query.list(granted(&api, |_, host| host == name), |row| row.shown()).await
}

async fn list_topic_permissions(
    State(api): State<Shared>,
    _: Administrator,
    Path(name): Path<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    expect(&api, &name)?;
    query.list(granted_topics(&api, |_, host| host == name), |row| row.shown()).await
}

/// A virtual host is never down here: there is nothing to start.
async fn start(
    State(api): State<Shared>,
    _: Administrator,
    Path((name, node)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let failed =
        |reason: String| ApiError::bad_request(format!("Request to node {node} failed with {reason}"));
    if node != api.node() {
        return Err(failed("nodedown".to_owned()));
    }
    if api.broker.virtual_host(&name).is_none() {
        return Err(failed(format!("{{no_such_vhost,<<\"{name}\">>}}")));
    }
    changed(&api, crate::broker::journal::Lsn(0)).await
}

async fn protect(
    api: State<Shared>,
    caller: Administrator,
    path: Path<String>,
) -> Result<Response, ApiError> {
    set_protected(api, caller, path, true).await
}

async fn unprotect(
    api: State<Shared>,
    caller: Administrator,
    path: Path<String>,
) -> Result<Response, ApiError> {
    set_protected(api, caller, path, false).await
}

async fn set_protected(
    State(api): State<Shared>,
    Administrator(caller): Administrator,
    Path(name): Path<String>,
    is_protected: bool,
) -> Result<Response, ApiError> {
    expect(&api, &name)?;
    let lsn = api.broker.change(Some(&caller.user.name), || {
        let metadata = api.broker.virtual_host(&name)?.metadata();
        let metadata = Metadata { is_protected, ..Metadata::clone(&metadata) };
        Some(Definition::VirtualHostDescribed { name: name.as_str().into(), metadata: metadata.into() })
    });
    changed(&api, lsn).await
}

fn expect(api: &Shared, name: &str) -> Result<Arc<VirtualHost>, ApiError> {
    api.broker.virtual_host(name).ok_or(ApiError::NotFound)
}

/// What a request or a definition says about a virtual host.
///
/// # Errors
/// 400 for the first field that is wrong.
pub(in crate::management) fn metadata_of(fields: &Fields) -> Result<Metadata, ApiError> {
    let within = Fields(fields.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default());
    let text =
        |name| Ok::<_, ApiError>(fields.text(name)?.or(within.text(name)?).unwrap_or_default().to_owned());
    let description = text("description")?;
    if description.len() > DESCRIPTION_BYTES_MAX {
        let text = format!("a description has at most {DESCRIPTION_BYTES_MAX} bytes");
        return Err(ApiError::bad_request(text));
    }
    let kind = text("default_queue_type")?;
    let default_queue_type = match kind.as_str() {
        "" | "undefined" => None,
        name => Some(QueueKind::parse(name).ok_or_else(|| {
            ApiError::bad_request(format!(
                "default_queue_type should be classic or quorum, actually was {name}"
            ))
        })?),
    };
    let tags = fields.get("tags").or_else(|| within.get("tags")).map(tags_of);
    let is_protected = fields.flag(PROTECTED)?.or(within.flag(PROTECTED)?).unwrap_or(false);
    Ok(Metadata {
        description,
        tags: tags.transpose()?.unwrap_or_default(),
        default_queue_type,
        is_protected,
    })
}

/// RabbitMQ's name for whether a virtual host may not be deleted.
const PROTECTED: &str = "protected_from_deletion";

/// What is said about a virtual host, as RabbitMQ shows it.
pub(in crate::management) fn shown_metadata(metadata: &Metadata) -> Map<String, Value> {
    let mut shown = Map::new();
    shown.insert("description".to_owned(), metadata.description.as_str().into());
    shown.insert("tags".to_owned(), json!(metadata.tags));
    if let Some(kind) = metadata.default_queue_type {
        shown.insert("default_queue_type".to_owned(), kind.short_name().into());
    }
    if metadata.is_protected {
        shown.insert(PROTECTED.to_owned(), true.into());
    }
    shown
}

/// How many messages there are in all queues.
fn add_figures(host: &VirtualHost, shown: &mut Value) {
    let (mut ready, mut unacked) = (0, 0);
    for queue in host.queues() {
        let queue = queue.lock();
        ready += u64::from(queue.ready_count());
        unacked += queue.unacked_count() as u64;
    }
    shown["messages"] = (ready + unacked).into();
    shown["messages_ready"] = ready.into();
    shown["messages_unacknowledged"] = unacked.into();
}

fn shown(host: &VirtualHost, node: &str) -> Value {
    let metadata = host.metadata();
    let default_queue_type = metadata.default_queue_type.map_or("undefined", QueueKind::short_name);
    json!({
        "name": &*host.name,
        "description": metadata.description,
        "tags": metadata.tags,
        "default_queue_type": default_queue_type,
        "protected_from_deletion": metadata.is_protected,
        "metadata": shown_metadata(&metadata),
        "tracing": host.is_tracing(),
        "cluster_state": {node: "running"},
    })
}
