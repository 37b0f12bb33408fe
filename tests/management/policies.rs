//! Policies and operator policies.

use serde_json::json;

use crate::{
    broker::TestBroker,
    rows::{check, make_users},
};

#[test]
fn policies_are_set_and_told_as_in_rabbitmq() {
    let broker = TestBroker::start("");
    let path = "policies/%2F/p";
    let body = r#"{"pattern": "^a", "definition": {"max-length": 6}, "priority": 3, "apply-to": "queues"}"#;
    check(
        &broker,
        &[
            ("guest", "GET", path, "", 404, "Not Found"),
            ("guest", "PUT", path, r#"{"pattern": "^a", "definition": {"max-length": 5}}"#, 201, ""),
            ("guest", "PUT", path, body, 204, ""),
            ("guest", "GET", "policies/nope", "", 404, "Not Found"),
            ("guest", "PUT", "policies/nope/p", body, 404, "vhost_not_found"),
            ("guest", "DELETE", "policies/%2F/nope", "", 404, "Not Found"),
        ],
    );
    let expected = json!({
        "vhost": "/", "name": "p", "pattern": "^a", "apply-to": "queues",
        "definition": {"max-length": 6}, "priority": 3,
    });
    assert_eq!(broker.get(path).json(), expected);
    assert_eq!(broker.get("policies").json(), json!([expected]));
    let broker = broker.restart();
    assert_eq!(broker.get("policies/%2F").json(), json!([expected]));
    check(
        &broker,
        &[("guest", "DELETE", path, "", 204, ""), ("guest", "DELETE", path, "", 404, "Not Found")],
    );
    let broker = broker.restart();
    assert_eq!(broker.get("policies/%2F").json(), json!([]));
}

#[test]
fn what_is_wrong_with_a_policy_is_told_in_rabbitmqs_words() {
    let broker = TestBroker::start("");
    let failed = |text: &str| format!("Validation failed\n\n{text}\n");
    let cases = [
        ("{}", "[{key_missing,pattern},{key_missing,definition}]".to_owned()),
        (r#"{"pattern": "a"}"#, "[{key_missing,definition}]".to_owned()),
        (r#"{"pattern": "a", "definition": {}}"#, failed("no policy provided")),
        (r#"{"pattern": "a", "definition": {"max-length": -1}}"#, failed("-1 is not a valid maximum length")),
        (
            r#"{"pattern": "a", "definition": {"nope": 1}}"#,
            failed("[{<<\"nope\">>,1}] are not recognised policy settings"),
        ),
        (
            r#"{"pattern": "a", "definition": {"max-length": 1}, "priority": "x"}"#,
            failed("priority should be a number, actually was <<\"x\">>"),
        ),
        (
            r#"{"pattern": 1, "definition": {"max-length": 1}}"#,
            failed("pattern should be a binary but was 1"),
        ),
    ];
    for (body, reason) in cases {
        check(&broker, &[("guest", "PUT", "policies/%2F/p", body, 400, &reason)]);
    }
    check(
        &broker,
        &[
            (
                "guest",
                "PUT",
                "policies/%2F/p",
                r#"{"pattern": "(", "definition": {"max-length": 1}}"#,
                400,
                "",
            ),
            ("guest", "PUT", "policies/%2F/p", r#"{"pattern": "a", "definition": "x"}"#, 400, ""),
            ("guest", "GET", "policies/%2F/p", "", 404, ""),
            (
                "guest",
                "PUT",
                "operator-policies/%2F/o",
                r#"{"pattern": "a", "definition": {"dead-letter-exchange": "x"}}"#,
                400,
                &failed("[{<<\"dead-letter-exchange\">>,<<\"x\">>}] are not recognised policy settings"),
            ),
        ],
    );
}

#[test]
fn policies_are_for_policymakers_and_operator_policies_for_administrators() {
    let broker = TestBroker::start("");
    make_users(&broker);
    let body = r#"{"pattern": "", "definition": {"max-length": 1}}"#;
    let (policy, operator) = ("policies/%2F/p", "operator-policies/%2F/o");
    let object = "User not authorised to access object";
    let no_administrator = "Not administrator user";
    check(
        &broker,
        &[
            ("policymaker", "PUT", policy, body, 401, object),
            ("monitoring", "PUT", policy, body, 401, object),
            ("administrator", "PUT", policy, body, 201, ""),
        ],
    );
    for user in ["policymaker", "management"] {
        let permission = r#"{"configure": "", "write": "", "read": ""}"#;
        check(&broker, &[("guest", "PUT", &format!("permissions/%2F/{user}"), permission, 201, "")]);
    }
    check(
        &broker,
        &[
            ("policymaker", "PUT", policy, body, 204, ""),
            ("policymaker", "GET", policy, "", 200, ""),
            ("management", "GET", "policies/%2F", "", 200, ""),
            ("management", "GET", policy, "", 401, object),
            ("management", "PUT", policy, body, 401, object),
            ("management", "GET", "operator-policies/%2F", "", 200, ""),
            ("policymaker", "PUT", operator, body, 401, no_administrator),
            ("policymaker", "GET", operator, "", 401, no_administrator),
            ("administrator", "PUT", operator, body, 201, ""),
            ("administrator", "DELETE", operator, "", 204, ""),
        ],
    );
}
