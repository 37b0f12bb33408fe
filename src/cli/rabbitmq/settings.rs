//! Policies, parameters and definitions.

use std::path::Path;

use serde_json::{Value, json};

use super::{Call, Refusal, UNAVAILABLE, output::Output};
use crate::cli::{api::path, failure::Failure, file::write_private, options::read_input};

pub(super) fn set_policy(call: &Call<'_>) -> Result<Output, Refusal> {
    set(call, "policies")
}

pub(super) fn set_operator_policy(call: &Call<'_>) -> Result<Output, Refusal> {
    set(call, "operator-policies")
}

fn set(call: &Call<'_>, things: &str) -> Result<Output, Refusal> {
    let body = json!({
        "pattern": call.argument(1),
        "definition": json_of(call.argument(2))?,
        "priority": priority(call),
        "apply-to": call.options.value("apply-to").unwrap_or("all"),
    });
    call.api.put(&path(&[things, call.vhost(), call.argument(0)]), &body)?;
    Ok(Output::Done)
}

/// As it was given: the broker says what is wrong with it.
fn priority(call: &Call<'_>) -> Value {
    let given = call.options.value("priority").unwrap_or("0");
    given.parse::<i64>().map_or_else(|_| Value::from(given), Value::from)
}

pub(super) fn clear_policy(call: &Call<'_>) -> Result<Output, Refusal> {
    clear(call, &["policies", call.vhost(), call.argument(0)])
}

pub(super) fn clear_operator_policy(call: &Call<'_>) -> Result<Output, Refusal> {
    clear(call, &["operator-policies", call.vhost(), call.argument(0)])
}

fn clear(call: &Call<'_>, segments: &[&str]) -> Result<Output, Refusal> {
    call.api.delete(&path(segments)).map_err(|failure| match failure {
        Failure::Missing(_) => Refusal::new(UNAVAILABLE, "Parameter does not exist"),
        failure => failure.into(),
    })?;
    Ok(Output::Done)
}

pub(super) fn set_parameter(call: &Call<'_>) -> Result<Output, Refusal> {
    let (component, name) = (call.argument(0), call.argument(1));
    let value = json_of(call.argument(2))?;
    let body = json!({"component": component, "vhost": call.vhost(), "name": name, "value": value});
    call.api.put(&path(&["parameters", component, call.vhost(), name]), &body)?;
    Ok(Output::Done)
}

pub(super) fn clear_parameter(call: &Call<'_>) -> Result<Output, Refusal> {
    clear(call, &["parameters", call.argument(0), call.vhost(), call.argument(1)])
}

pub(super) fn set_global_parameter(call: &Call<'_>) -> Result<Output, Refusal> {
    let name = call.argument(0);
    let body = json!({"name": name, "value": json_of(call.argument(1))?});
    call.api.put(&path(&["global-parameters", name]), &body)?;
    Ok(Output::Done)
}

pub(super) fn clear_global_parameter(call: &Call<'_>) -> Result<Output, Refusal> {
    clear(call, &["global-parameters", call.argument(0)])
}

pub(super) fn set_cluster_name(call: &Call<'_>) -> Result<Output, Refusal> {
    call.api.put("cluster-name", &json!({"name": call.argument(0)}))?;
    Ok(Output::Done)
}

pub(super) fn export_definitions(call: &Call<'_>) -> Result<Output, Refusal> {
    let definitions = call.api.get("definitions")?;
    let file = call.arguments.first().map_or("-", String::as_str);
    if file == "-" {
        return Ok(Output::Both(definitions.to_string(), definitions));
    }
    let written = write_private(Path::new(file), &definitions.to_string());
    written.map_err(|error| Failure::of_file(file, &error))?;
    Ok(Output::Done)
}

pub(super) fn import_definitions(call: &Call<'_>) -> Result<Output, Refusal> {
    let file = call.arguments.first().map_or("-", String::as_str);
    let definitions: Value = serde_json::from_slice(&read_input(file)?)
        .map_err(|error| Refusal::new(super::DATA, format!("{file}: this is not JSON: {error}")))?;
    let import = match &call.options.vhost {
        Some(vhost) => path(&["definitions", vhost]),
        None => path(&["definitions"]),
    };
    call.api.post(&import, &definitions)?;
    Ok(Output::Done)
}

fn json_of(text: &str) -> Result<Value, Refusal> {
    serde_json::from_str(text).map_err(|_| Refusal::new(UNAVAILABLE, "JSON decoding error. Reason: badarg"))
}
