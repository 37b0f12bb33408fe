//! Requests as rows of a table: what is asked for, and what RabbitMQ 3.10.8 answered to it.

use serde_json::Value;

use crate::broker::TestBroker;

/// User (with the password `x`, or guest), method, path, body (`""` for none), status, and `reason` of the answer: a text,
/// JSON that starts with `[`, or `""` where the body is not looked at.
pub(crate) type Row<'a> = (&'a str, &'a str, &'a str, &'a str, u16, &'a str);

#[track_caller]
pub(crate) fn check(broker: &TestBroker, rows: &[Row<'_>]) {
    for (user, method, path, body, status, reason) in rows {
        let password = if *user == "guest" { "guest" } else { "x" };
        let answer = broker.request_as(user, password, method, path, Some(body));
        assert_eq!(answer.status, *status, "{user} {method} {path} {body}: {answer:?}");
        if !reason.is_empty() {
            let json = if reason.starts_with('[') { serde_json::from_str(reason).ok() } else { None };
            let expected = json.unwrap_or_else(|| Value::from(*reason));
            assert_eq!(answer.json()["reason"], expected, "{user} {method} {path} {body}");
        }
    }
}

/// A user for each tag, named as the tag, with the password `x`; `nobody` has none.
pub(crate) fn make_users(broker: &TestBroker) {
    for tag in ["administrator", "monitoring", "policymaker", "management", "nobody"] {
        let tags = if tag == "nobody" { "" } else { tag };
        let body = format!(r#"{{"password": "x", "tags": "{tags}"}}"#);
        check(broker, &[("guest", "PUT", &format!("users/{tag}"), &body, 201, "")]);
    }
}
