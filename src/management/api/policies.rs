//! `/api/policies` and `/api/operator-policies`.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use serde_json::{Map, Value, json};

use super::{changed, created_or_changed};
use crate::{
    broker::policy::{ApplyTo, Policy, PolicyError, PolicyKind},
    json::{erlang, from_table, to_table},
    management::{
        Shared,
        body::Fields,
        caller::{Caller, Policymaker, Tag},
        error::ApiError,
        list::{self, ListQuery, Row},
    },
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/policies", get(|api, caller, query| list(api, caller, None, query, PolicyKind::User)))
        .route(
            "/policies/{vhost}",
            get(|api, caller, Path(host), query| list(api, caller, Some(host), query, PolicyKind::User)),
        )
        .route(
            "/policies/{vhost}/{name}",
            get(|api, caller, path, query| one(api, caller, path, query, PolicyKind::User))
                .put(|api, caller, path, fields| put(api, caller, path, fields, PolicyKind::User))
                .delete(|api, caller, path| delete(api, caller, path, PolicyKind::User)),
        )
        .route(
            "/operator-policies",
            get(|api, caller, query| list(api, caller, None, query, PolicyKind::Operator)),
        )
        .route(
            "/operator-policies/{vhost}",
            get(|api, caller, Path(host), query| list(api, caller, Some(host), query, PolicyKind::Operator)),
        )
        .route(
            "/operator-policies/{vhost}/{name}",
            get(|api, caller, path, query| one(api, caller, path, query, PolicyKind::Operator))
                .put(|api, caller, path, fields| put(api, caller, path, fields, PolicyKind::Operator))
                .delete(|api, caller, path| delete(api, caller, path, PolicyKind::Operator)),
        )
}

/// A policy, and where it is.
pub(in crate::management) struct OfHost {
    pub(in crate::management) virtual_host: Arc<str>,
    pub(in crate::management) policy: Arc<Policy>,
}

impl OfHost {
    pub(in crate::management) fn shown(&self) -> Value {
        let policy = &self.policy;
        json!({
            "vhost": &*self.virtual_host,
            "name": &*policy.name,
            "pattern": policy.pattern(),
            "apply-to": policy.apply_to.name(),
            "definition": from_table(&policy.definition),
            "priority": policy.priority,
        })
    }
}

impl Row for OfHost {
    fn virtual_host(&self) -> &str {
        &self.virtual_host
    }

    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.policy.name)
    }
}

async fn list(
    State(api): State<Shared>,
    caller: Caller,
    host: Option<String>,
    query: ListQuery,
    kind: PolicyKind,
) -> Result<Response, ApiError> {
    let hosts = list::virtual_hosts(&api, &caller, host.as_deref())?;
    let policies = hosts.iter().flat_map(|host| {
        let of_host = host.policies(kind).into_iter();
        of_host.map(|policy| OfHost { virtual_host: Arc::clone(&host.name), policy })
    });
    query.list(policies.collect(), OfHost::shown).await
}

async fn one(
    State(api): State<Shared>,
    caller: Caller,
    Path((host, name)): Path<(String, String)>,
    query: ListQuery,
    kind: PolicyKind,
) -> Result<Response, ApiError> {
    check_may_change(&api, &caller, &host, kind)?;
    let virtual_host = api.broker.virtual_host(&host).ok_or(ApiError::NotFound)?;
    let policy = virtual_host.policies(kind).into_iter().find(|policy| *policy.name == *name);
    let policy = policy.ok_or(ApiError::NotFound)?;
    Ok(query.one(OfHost { virtual_host: Arc::clone(&virtual_host.name), policy }.shown()))
}

async fn put(
    State(api): State<Shared>,
    Policymaker(caller): Policymaker,
    Path((host, name)): Path<(String, String)>,
    fields: Fields,
    kind: PolicyKind,
) -> Result<Response, ApiError> {
    check_may_change(&api, &caller, &host, kind)?;
    let virtual_host = api.broker.virtual_host(&host).ok_or(ApiError::NoVirtualHost)?;
    fields.require(&["pattern", "definition"])?;
    let failed = |text: String| ApiError::bad_request(format!("Validation failed\n\n{text}\n"));
    let policy = policy_of(kind, &name, &fields.0).map_err(failed)?;
    let was_there = virtual_host.policies(kind).iter().any(|known| known.name == policy.name);
    let lsn = api.broker.put_policy(&host, policy, Some(&caller.user.name), api.now());
    created_or_changed(&api, lsn.map_err(|_| ApiError::NoVirtualHost)?, was_there).await
}

async fn delete(
    State(api): State<Shared>,
    caller: Caller,
    Path((host, name)): Path<(String, String)>,
    kind: PolicyKind,
) -> Result<Response, ApiError> {
    check_may_change(&api, &caller, &host, kind)?;
    let virtual_host = api.broker.virtual_host(&host).ok_or(ApiError::NotFound)?;
    if virtual_host.policies(kind).iter().all(|policy| *policy.name != *name) {
        return Err(ApiError::NotFound);
    }
    let lsn = api.broker.delete_policy(&host, kind, &name, Some(&caller.user.name), api.now());
    changed(&api, lsn.map_err(|_| ApiError::NotFound)?).await
}

/// RabbitMQ: operator policies are for administrators, others for policymakers of the virtual host, too.
fn check_may_change(api: &Shared, caller: &Caller, host: &str, kind: PolicyKind) -> Result<(), ApiError> {
    if kind == PolicyKind::Operator || caller.has(Tag::Administrator) {
        return caller.require(Tag::Administrator);
    }
    caller.require(Tag::Policymaker)?;
    let is_there = api.broker.virtual_host(host).is_some();
    if is_there && !caller.enters(api, host) {
        return Err(ApiError::not_authorised("User not authorised to access object"));
    }
    Ok(())
}

/// The policy that the fields of a request, of a definition or of a parameter make.
///
/// # Errors
/// RabbitMQ's text for the first that is wrong.
pub(in crate::management) fn policy_of(
    kind: PolicyKind,
    name: &str,
    fields: &Map<String, Value>,
) -> Result<Policy, String> {
    let text = |value: &Value, what: &str| {
        let text = value.as_str().map(str::to_owned);
        text.ok_or_else(|| format!("{what} should be a binary but was {}", erlang(value)))
    };
    let pattern = text(fields.get("pattern").unwrap_or(&Value::Null), "pattern")?;
    let priority = match fields.get("priority") {
        None => 0,
        Some(value) => value
            .as_i64()
            .ok_or_else(|| format!("priority should be a number, actually was {}", erlang(value)))?,
    };
    let apply_to = match fields.get("apply-to") {
        None => ApplyTo::default(),
        Some(value) => ApplyTo::parse(&text(value, "apply-to")?).map_err(|error| error.to_string())?,
    };
    let definition = fields.get("definition").unwrap_or(&Value::Null);
    let definition = definition
        .as_object()
        .ok_or_else(|| format!("definition should be an object, actually was {}", erlang(definition)))?;
    let policy = Policy::new(kind, name, &pattern, apply_to, priority, to_table(definition)?);
    policy.map_err(|error| match error {
        PolicyError::Pattern(error) => {
            format!("pattern should be regular expression but is invalid: {error}")
        }
        error => error.to_string(),
    })
}
