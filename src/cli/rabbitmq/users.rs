//! Users, permissions, virtual hosts and their limits.

use std::io::{self, BufRead, Write};

use serde_json::{Map, Value, json};

use super::{Call, DATA, NO_USER, Refusal, SOFTWARE, UNAVAILABLE, output::Output};
use crate::cli::{api::path, failure::Failure};

pub(super) fn add_user(call: &Call<'_>) -> Result<Output, Refusal> {
    let name = call.argument(0);
    let user = path(&["users", name]);
    let password = password(call)?;
    match call.api.get(&user) {
        Ok(_) => return Err(Refusal::new(SOFTWARE, format!("User \"{name}\" already exists"))),
        Err(Failure::Missing(_)) => {}
        Err(failure) => return Err(failure.into()),
    }
    let body = if call.options.has("pre-hashed-password") {
        json!({"password_hash": password, "tags": ""})
    } else {
        json!({"password": password, "tags": ""})
    };
    call.api.put(&user, &body)?;
    if call.options.is_for_programs() || call.options.quiet {
        return Ok(Output::Done);
    }
    Ok(Output::Text(
        "Done. Don't forget to grant the user permissions to some virtual hosts! See 'rabbitmqctl help \
         set_permissions' to learn more."
            .into(),
    ))
}

/// The second argument, or a line of standard input.
fn password(call: &Call<'_>) -> Result<String, Refusal> {
    let missing = || Refusal::new(DATA, "Password is not provided via argument or stdin");
    if let Some(password) = call.arguments.get(1) {
        return if password.is_empty() { Err(missing()) } else { Ok(password.clone()) };
    }
    if !call.options.quiet {
        // Who does not see it can type all the same.
        _ = writeln!(io::stdout(), "Password: ");
    }
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    let line = line.trim_end_matches(['\r', '\n']);
    if read.is_err() || line.is_empty() { Err(missing()) } else { Ok(line.to_owned()) }
}

pub(super) fn change_password(call: &Call<'_>) -> Result<Output, Refusal> {
    let user = user(call, call.argument(0))?;
    let tags = crate::cli::access::tags(&user);
    let body = json!({"password": password(call)?, "tags": tags});
    call.api.put(&path(&["users", call.argument(0)]), &body)?;
    Ok(Output::Done)
}

pub(super) fn clear_password(call: &Call<'_>) -> Result<Output, Refusal> {
    let user = user(call, call.argument(0))?;
    let body = json!({"password_hash": "", "tags": crate::cli::access::tags(&user)});
    call.api.put(&path(&["users", call.argument(0)]), &body)?;
    Ok(Output::Done)
}

pub(super) fn authenticate_user(call: &Call<'_>) -> Result<Output, Refusal> {
    let name = call.argument(0);
    match call.api.as_user(name, &password(call)?).get("whoami") {
        // Who may not use the API has logged in.
        Ok(_) => Ok(Output::Text("Success".into())),
        Err(Failure::Denied(text)) if !text.contains("refuses the login") => {
            Ok(Output::Text("Success".into()))
        }
        Err(Failure::Denied(_)) => Err(Refusal::new(
            DATA,
            format!("Error: failed to authenticate user \"{name}\"\nuser '{name}' - invalid credentials"),
        )),
        Err(failure) => Err(failure.into()),
    }
}

pub(super) fn delete_user(call: &Call<'_>) -> Result<Output, Refusal> {
    let name = call.argument(0);
    call.api.delete(&path(&["users", name])).map_err(|failure| no_user(failure, name))?;
    Ok(Output::Done)
}

pub(super) fn set_user_tags(call: &Call<'_>) -> Result<Output, Refusal> {
    let name = call.argument(0);
    let user = user(call, name)?;
    let body = json!({
        "password_hash": user["password_hash"],
        "hashing_algorithm": user["hashing_algorithm"],
        "tags": call.arguments[1..].join(","),
    });
    call.api.put(&path(&["users", name]), &body)?;
    Ok(Output::Done)
}

fn user(call: &Call<'_>, name: &str) -> Result<Value, Refusal> {
    call.api.get(&path(&["users", name])).map_err(|failure| no_user(failure, name))
}

fn no_user(failure: Failure, name: &str) -> Refusal {
    match failure {
        Failure::Missing(_) => Refusal::new(NO_USER, format!("User \"{name}\" does not exist")),
        failure => failure.into(),
    }
}

pub(super) fn set_permissions(call: &Call<'_>) -> Result<Output, Refusal> {
    let permission = permission(call, "permissions", call.argument(0))?;
    let body = json!({"configure": call.argument(1), "write": call.argument(2), "read": call.argument(3)});
    call.api.put(&permission, &body)?;
    Ok(Output::Done)
}

pub(super) fn clear_permissions(call: &Call<'_>) -> Result<Output, Refusal> {
    let permission = permission(call, "permissions", call.argument(0))?;
    gone(call.api.delete(&permission))
}

pub(super) fn set_topic_permissions(call: &Call<'_>) -> Result<Output, Refusal> {
    let permission = permission(call, "topic-permissions", call.argument(0))?;
    let body = json!({"exchange": call.argument(1), "write": call.argument(2), "read": call.argument(3)});
    call.api.put(&permission, &body)?;
    Ok(Output::Done)
}

/// The API clears those for all exchanges, so what is for others is set again.
pub(super) fn clear_topic_permissions(call: &Call<'_>) -> Result<Output, Refusal> {
    let permission = permission(call, "topic-permissions", call.argument(0))?;
    let mut kept = Vec::new();
    if let Some(exchange) = call.arguments.get(1) {
        kept = match call.api.list(&permission) {
            Err(Failure::Missing(_)) => return Ok(Output::Done),
            other => other?,
        };
        let all = kept.len();
        kept.retain(|permission| permission["exchange"] != exchange.as_str());
        if kept.len() == all {
            return Ok(Output::Done);
        }
    }
    gone(call.api.delete(&permission))?;
    for other in kept {
        call.api.put(&permission, &other)?;
    }
    Ok(Output::Done)
}

/// The path of a permission of a user and a virtual host that are there.
fn permission(call: &Call<'_>, things: &str, user: &str) -> Result<String, Refusal> {
    call.api.get(&path(&["users", user])).map_err(|failure| match failure {
        Failure::Missing(_) => Refusal::new(NO_USER, format!("User {user} does not exist")),
        failure => failure.into(),
    })?;
    vhost(call)?;
    Ok(path(&[things, call.vhost(), user]))
}

/// The virtual host, which has to be there.
fn vhost(call: &Call<'_>) -> Result<Value, Refusal> {
    call.api.get(&path(&["vhosts", call.vhost()])).map_err(|failure| match failure {
        Failure::Missing(_) => {
            Refusal::new(UNAVAILABLE, format!("Virtual host {} does not exist", call.vhost()))
        }
        failure => failure.into(),
    })
}

/// What was not there is gone as well.
fn gone(deleted: Result<(), Failure>) -> Result<Output, Refusal> {
    match deleted {
        Ok(()) | Err(Failure::Missing(_)) => Ok(Output::Done),
        Err(failure) => Err(failure.into()),
    }
}

pub(super) fn add_vhost(call: &Call<'_>) -> Result<Output, Refusal> {
    let options = ["description", "tags", "default-queue-type"];
    let given = options.iter().filter_map(|name| {
        let value = call.options.value(name)?;
        Some((name.replace('-', "_"), Value::from(value)))
    });
    let body: Map<String, Value> = given.collect();
    let vhost = path(&["vhosts", call.argument(0)]);
    if body.is_empty() && call.api.get(&vhost).is_ok() {
        return Ok(Output::Done);
    }
    call.api.put(&vhost, &Value::Object(body))?;
    Ok(Output::Done)
}

pub(super) fn delete_vhost(call: &Call<'_>) -> Result<Output, Refusal> {
    let name = call.argument(0);
    call.api.delete(&path(&["vhosts", name])).map_err(|failure| no_vhost(failure, name))?;
    Ok(Output::Done)
}

fn no_vhost(failure: Failure, name: &str) -> Refusal {
    match failure {
        Failure::Missing(_) => Refusal::bare(DATA, format!("Virtual host '{name}' does not exist")),
        failure => failure.into(),
    }
}

pub(super) fn trace_on(call: &Call<'_>) -> Result<Output, Refusal> {
    trace(call, true)?;
    Ok(Output::Text(format!("Trace enabled for vhost {}", call.vhost())))
}

pub(super) fn trace_off(call: &Call<'_>) -> Result<Output, Refusal> {
    trace(call, false)?;
    Ok(Output::Text(format!("Trace disabled for vhost {}", call.vhost())))
}

fn trace(call: &Call<'_>, on: bool) -> Result<(), Refusal> {
    // The API would make it.
    vhost(call)?;
    call.api.put(&path(&["vhosts", call.vhost()]), &json!({"tracing": on}))?;
    Ok(())
}

pub(super) fn set_vhost_limits(call: &Call<'_>) -> Result<Output, Refusal> {
    let there = call.api.get(&path(&["vhosts", call.vhost()]));
    there.map_err(|failure| no_vhost(failure, call.vhost()))?;
    set_limits(call, &["vhost-limits", call.vhost()], call.argument(0))
}

pub(super) fn set_user_limits(call: &Call<'_>) -> Result<Output, Refusal> {
    let name = call.argument(0);
    call.api.get(&path(&["users", name])).map_err(|failure| match failure {
        Failure::Missing(_) => Refusal::new(UNAVAILABLE, format!("{{:no_such_user, {}}}", json!(name))),
        failure => failure.into(),
    })?;
    set_limits(call, &["user-limits", name], call.argument(1))
}

fn set_limits(call: &Call<'_>, owner: &[&str], limits: &str) -> Result<Output, Refusal> {
    let limits: Map<String, Value> = serde_json::from_str(limits)
        .map_err(|_| Refusal::new(UNAVAILABLE, "JSON decoding error. Reason: badarg"))?;
    for (name, value) in limits {
        call.api.put(&path(&[owner, &[name.as_str()]].concat()), &json!({"value": value}))?;
    }
    Ok(Output::Done)
}

pub(super) fn clear_vhost_limits(call: &Call<'_>) -> Result<Output, Refusal> {
    clear_limits(call, &["vhost-limits", call.vhost()], &["max-connections", "max-queues"])
}

pub(super) fn clear_user_limits(call: &Call<'_>) -> Result<Output, Refusal> {
    let limit = [call.argument(1)];
    let limits: &[&str] = if limit == ["all"] { &["max-connections", "max-channels"] } else { &limit };
    clear_limits(call, &["user-limits", call.argument(0)], limits)
}

fn clear_limits(call: &Call<'_>, owner: &[&str], limits: &[&str]) -> Result<Output, Refusal> {
    for limit in limits {
        gone(call.api.delete(&path(&[owner, &[*limit]].concat())))?;
    }
    Ok(Output::Done)
}

pub(super) fn list_vhost_limits(call: &Call<'_>) -> Result<Output, Refusal> {
    let all = call.api.list("vhost-limits")?;
    if call.options.has("global") {
        let rows = all.into_iter().map(|mut row| vec![row["vhost"].take(), text(&row["value"])]);
        return Ok(Output::Rows(vec!["vhost".into(), "limits".into()], rows.collect()));
    }
    Ok(limits(all.iter().find(|row| row["vhost"] == call.vhost())))
}

pub(super) fn list_user_limits(call: &Call<'_>) -> Result<Output, Refusal> {
    let all = call.api.list("user-limits")?;
    if call.options.has("global") {
        let rows = all.into_iter().map(|mut row| vec![row["user"].take(), text(&row["value"])]);
        return Ok(Output::Rows(vec!["user".into(), "limits".into()], rows.collect()));
    }
    let user = call.options.value("user").unwrap_or("guest");
    Ok(limits(all.iter().find(|row| row["user"] == user)))
}

fn limits(row: Option<&Value>) -> Output {
    let limits = row.map_or_else(|| json!({}), |row| row["value"].clone());
    Output::Both(limits.to_string(), limits)
}

fn text(value: &Value) -> Value {
    Value::from(value.to_string())
}
