//! `/api/parameters` and `/api/global-parameters`.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde_json::{Value, json};

use super::super::{
    Shared,
    body::Fields,
    caller::{Caller, Policymaker, Tag},
    error::ApiError,
    list::{ListQuery, Row},
};
use crate::{
    broker::{
        define::ParameterError,
        parameter::{Parameter, SHOVEL},
        policy::PolicyKind,
        vhost::VirtualHost,
    },
    json::from_table,
    shovel,
};

/// The largest body of a request, in octets.
const BODY_BYTES_MAX: usize = 1 << 20;
/// The longest name, in octets.
const NAME_BYTES_MAX: usize = 255;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/parameters", get(list_all))
        .route("/parameters/{component}", get(list_component))
        .route("/parameters/{component}/{vhost}", get(list_of_host))
        .route("/parameters/{component}/{vhost}/{name}", get(get_one).put(put_one).delete(delete_one))
        .route("/global-parameters", get(list_globals))
        .route("/global-parameters/{name}", get(get_global).put(put_global).delete(delete_global))
        .route_layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

impl Row for Arc<Parameter> {
    fn virtual_host(&self) -> &str {
        &self.virtual_host
    }

    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.name)
    }
}

/// A global parameter.
struct Global(Arc<str>, Arc<Value>);

impl Row for Global {
    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.0)
    }
}

async fn list_all(
    Policymaker(caller): Policymaker,
    State(api): State<Shared>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let mut rows = rows(&api, &hosts(&caller, &api));
    // They have a path of their own (RabbitMQ).
    rows.retain(|parameter| &*parameter.component != POLICY);
    query.whole_list(rows, |parameter| rendered(parameter)).await
}

async fn list_component(
    Policymaker(caller): Policymaker,
    State(api): State<Shared>,
    Path(component): Path<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let mut rows = rows(&api, &hosts(&caller, &api));
    rows.retain(|parameter| *parameter.component == *component);
    query.whole_list(rows, |parameter| rendered(parameter)).await
}

async fn list_of_host(
    Policymaker(caller): Policymaker,
    State(api): State<Shared>,
    Path((component, vhost)): Path<(String, String)>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let host = caller.own_host(&api, &vhost)?;
    let mut rows = rows(&api, &[host]);
    rows.retain(|parameter| *parameter.component == *component);
    query.whole_list(rows, |parameter| rendered(parameter)).await
}

async fn get_one(
    Policymaker(caller): Policymaker,
    State(api): State<Shared>,
    Path((component, vhost, name)): Path<(String, String, String)>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let host = caller.own_host(&api, &vhost)?;
    let rows = rows(&api, &[host]);
    let is_it = |parameter: &&Arc<Parameter>| *parameter.component == *component && *parameter.name == *name;
    rows.iter().find(is_it).map(|parameter| query.one(rendered(parameter))).ok_or(ApiError::NotFound)
}

async fn put_one(
    Policymaker(caller): Policymaker,
    State(api): State<Shared>,
    Path((component, vhost, name)): Path<(String, String, String)>,
    fields: Fields,
) -> Result<StatusCode, ApiError> {
    caller.own_host(&api, &vhost).map_err(|error| match error {
        ApiError::NotFound => ApiError::NoVirtualHost,
        error => error,
    })?;
    refuse_others(&component)?;
    let value = value_of(&fields, &name)?;
    let errors = match &*component {
        SHOVEL => shovel_errors(&caller, &api, &name, &value),
        _ => vec![format!("component {component} not found")],
    };
    if !errors.is_empty() {
        // RabbitMQ escapes this text, for people may look at it in a browser.
        let text = format!("Validation failed\n\n{}\n", errors.join("\n"));
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        return Err(ApiError::bad_request(text));
    }
    let is_new = api.broker.parameters.get(&vhost, &component, &name).is_none();
    let put = api.broker.put_parameter(Parameter {
        virtual_host: vhost.into(),
        component: component.into(),
        name: name.into(),
        value,
        set_by: Some(Arc::clone(&caller.user.name)),
    });
    put.map_err(|error| match error {
        ParameterError::NoVirtualHost(_) => ApiError::NoVirtualHost,
        refused => ApiError::bad_request(refused.to_string()),
    })?;
    api.all_durable().await;
    Ok(if is_new { StatusCode::CREATED } else { StatusCode::NO_CONTENT })
}

async fn delete_one(
    Policymaker(caller): Policymaker,
    State(api): State<Shared>,
    Path((component, vhost, name)): Path<(String, String, String)>,
) -> Result<StatusCode, ApiError> {
    caller.own_host(&api, &vhost)?;
    refuse_others(&component)?;
    if api.broker.parameters.get(&vhost, &component, &name).is_none() {
        return Err(ApiError::NotFound);
    }
    api.broker.delete_parameter(&vhost, &component, &name);
    api.all_durable().await;
    Ok(StatusCode::NO_CONTENT)
}

async fn list_globals(
    _: Policymaker,
    State(api): State<Shared>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let globals = api.broker.parameters.globals().into_iter().map(|(name, value)| Global(name, value));
    query.whole_list(globals.collect(), |Global(name, value)| json!({"name": **name, "value": **value})).await
}

async fn get_global(
    _: Policymaker,
    State(api): State<Shared>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let value = api.broker.parameters.global(&name).ok_or(ApiError::NotFound)?;
    Ok(Json(json!({"name": name, "value": *value})).into_response())
}

async fn put_global(
    _: Policymaker,
    State(api): State<Shared>,
    Path(name): Path<String>,
    fields: Fields,
) -> Result<StatusCode, ApiError> {
    let value = value_of(&fields, &name)?;
    let is_new = api.broker.parameters.global(&name).is_none();
    let put = api.broker.put_global_parameter(&name, value);
    put.map_err(|error| ApiError::bad_request(error.to_string()))?;
    api.all_durable().await;
    Ok(if is_new { StatusCode::CREATED } else { StatusCode::NO_CONTENT })
}

async fn delete_global(
    _: Policymaker,
    State(api): State<Shared>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    if api.broker.parameters.global(&name).is_none() {
        return Err(ApiError::NotFound);
    }
    api.broker.delete_global_parameter(&name);
    api.all_durable().await;
    Ok(StatusCode::NO_CONTENT)
}

/// RabbitMQ's component of policies.
const POLICY: &str = "policy";
/// RabbitMQ's component of operator policies.
const OPERATOR_POLICY: &str = "operator_policy";
/// RabbitMQ's component of the limits of virtual hosts.
const VHOST_LIMITS: &str = "vhost-limits";

/// Policies and limits are shown as the parameters that they are in RabbitMQ.
///
/// Deviation: RabbitMQ lets operator policies and limits be set here, too.
fn refuse_others(component: &str) -> Result<(), ApiError> {
    let (things, path) = match component {
        POLICY => return Err(ApiError::bad_request("policies may not be set using this method")),
        OPERATOR_POLICY => ("operator policies", "operator-policies"),
        VHOST_LIMITS => ("limits of virtual hosts", "vhost-limits"),
        _ => return Ok(()),
    };
    Err(ApiError::bad_request(format!("{things} may not be set using this method; use /api/{path}")))
}

/// The virtual hosts whose parameters a user is shown.
fn hosts(caller: &Caller, api: &Shared) -> Vec<Arc<VirtualHost>> {
    let mut hosts = api.broker.virtual_hosts();
    hosts.retain(|host| caller.has(Tag::Administrator) || caller.enters(api, &host.name));
    hosts
}

/// The parameters of these virtual hosts.
fn rows(api: &Shared, hosts: &[Arc<VirtualHost>]) -> Vec<Arc<Parameter>> {
    let mut rows = api.broker.parameters.list();
    rows.retain(|parameter| hosts.iter().any(|host| *host.name == *parameter.virtual_host));
    for host in hosts {
        rows.extend(policies(host));
        rows.extend(limits(api, host));
    }
    rows
}

fn policies(host: &VirtualHost) -> Vec<Arc<Parameter>> {
    let both = [PolicyKind::User, PolicyKind::Operator];
    let shown = both.into_iter().flat_map(|kind| host.policies(kind)).map(|policy| {
        let component = if policy.kind == PolicyKind::Operator { OPERATOR_POLICY } else { POLICY };
        let value = json!({
            "pattern": policy.pattern(),
            "definition": from_table(&policy.definition),
            "priority": policy.priority,
            "apply-to": policy.apply_to.name(),
        });
        shown(host, component, &policy.name, value)
    });
    shown.collect()
}

fn limits(api: &Shared, host: &VirtualHost) -> Option<Arc<Parameter>> {
    let connections = api.broker.counts.virtual_host_max(&host.name).flatten();
    let limits = [("max-connections", connections), ("max-queues", host.queues_max())];
    let limits = limits.into_iter().filter_map(|(name, max)| Some((name.to_owned(), json!(max?))));
    let limits: serde_json::Map<String, Value> = limits.collect();
    (!limits.is_empty()).then(|| shown(host, VHOST_LIMITS, "limits", Value::Object(limits)))
}

fn shown(host: &VirtualHost, component: &str, name: &str, value: Value) -> Arc<Parameter> {
    Arc::new(Parameter {
        virtual_host: host.name.as_ref().into(),
        component: component.into(),
        name: name.into(),
        value,
        set_by: None,
    })
}

fn rendered(parameter: &Parameter) -> Value {
    json!({
        "value": parameter.value,
        "vhost": *parameter.virtual_host,
        "component": *parameter.component,
        "name": *parameter.name,
    })
}

/// The value that is to be set, under a name that there may be.
fn value_of(fields: &Fields, name: &str) -> Result<Value, ApiError> {
    fields.require(&["value"])?;
    if name.len() > NAME_BYTES_MAX {
        return Err(ApiError::bad_request(format!("a name may have {NAME_BYTES_MAX} bytes at most")));
    }
    Ok(fields.0.get("value").cloned().unwrap_or_default())
}

/// What is wrong with a shovel that a user wants to set.
fn shovel_errors(caller: &Caller, api: &Shared, name: &str, value: &Value) -> Vec<String> {
    let definition = match shovel::Definition::parse(name, value) {
        Ok(definition) => definition,
        Err(errors) => return errors,
    };
    let may_enter = |host: &str| api.broker.virtual_host(host).is_some() && caller.enters(api, host);
    let refused = definition.virtual_hosts_within().filter(|host| !may_enter(host));
    let user = &caller.user.name;
    refused.map(|host| format!("user \"{user}\" may not connect to vhost \"{host}\"")).collect()
}
