//! Users, permissions and topic permissions.

use lapin::{Connection, ConnectionProperties, options::QueueDeclareOptions, types::FieldTable};
use serde_json::json;

use crate::{
    broker::TestBroker,
    rows::{check, make_users},
};

const NOT_ADMINISTRATOR: &str = "Not administrator user";

#[test]
fn who_may_see_and_change_users_depends_on_tags() {
    let broker = TestBroker::start("");
    make_users(&broker);
    let permission = r#"{"configure": "", "write": "", "read": ""}"#;
    for user in ["monitoring", "policymaker", "management"] {
        let own = format!("users/{user}");
        check(
            &broker,
            &[
                (user, "GET", "users", "", 401, NOT_ADMINISTRATOR),
                (user, "GET", &own, "", 401, NOT_ADMINISTRATOR),
                (user, "PUT", &own, r#"{"password": "y", "tags": "administrator"}"#, 401, NOT_ADMINISTRATOR),
                (user, "DELETE", &own, "", 401, NOT_ADMINISTRATOR),
                (user, "GET", "permissions", "", 401, NOT_ADMINISTRATOR),
                (user, "PUT", "permissions/%2F/management", permission, 401, NOT_ADMINISTRATOR),
                (user, "GET", "topic-permissions", "", 401, NOT_ADMINISTRATOR),
                (user, "GET", "vhosts/%2F", "", 401, NOT_ADMINISTRATOR),
                (user, "GET", "definitions", "", 401, NOT_ADMINISTRATOR),
            ],
        );
    }
    check(
        &broker,
        &[
            ("administrator", "GET", "users", "", 200, ""),
            ("nobody", "GET", "users", "", 401, "Not management user"),
            ("nobody", "GET", "vhosts", "", 401, "Not management user"),
            ("stranger", "GET", "users", "", 401, "Login failed"),
        ],
    );
}

/// What is not to be done is refused before anybody looks at the body: nobody's memory is filled by who may do nothing.
#[test]
fn a_body_is_not_read_for_who_may_not_send_it() {
    let broker = TestBroker::start("");
    make_users(&broker);
    for (method, path) in [
        ("PUT", "users/a"),
        ("POST", "users/bulk-delete"),
        ("PUT", "permissions/%2F/a"),
        ("PUT", "topic-permissions/%2F/a"),
        ("PUT", "vhosts/a"),
        ("PUT", "vhost-limits/%2F/max-queues"),
        ("PUT", "user-limits/a/max-channels"),
        ("PUT", "policies/%2F/a"),
        ("PUT", "operator-policies/%2F/a"),
        ("PUT", "parameters/shovel/%2F/a"),
        ("PUT", "global-parameters/a"),
        ("POST", "definitions"),
        ("PUT", "cluster-name"),
        ("POST", "auth/hash_password"),
        ("PUT", "leveret/memory-high-watermark"),
        ("PUT", "leveret/amqp"),
    ] {
        let answer = broker.request_as("management", "x", method, path, Some("no JSON"));
        let error = &answer.json()["error"];
        assert_eq!((answer.status, error), (401, &json!("not_authorised")), "{method} {path}: {answer:?}");
    }
}

#[test]
fn users_are_made_and_changed_as_in_rabbitmq() {
    let broker = TestBroker::start("");
    let hash = "Fn3sHpdcoA9mi5OA2/79JHToPuQ66gphsMXbXux4HmDWwBJv";
    let both = format!(r#"{{"password": "a", "password_hash": "{hash}", "tags": ""}}"#);
    let both_reason = "both_password_and_password_hash_are_provided";
    check(
        &broker,
        &[
            ("guest", "PUT", "users/a", "{}", 400, "tags_not_present"),
            ("guest", "PUT", "users/a", "{", 400, "not_json"),
            ("guest", "PUT", "users/a", "[1]", 400, "not_json"),
            ("guest", "PUT", "users/a", &both, 400, both_reason),
            ("guest", "PUT", "users/a", r#"{"password_hash": "zzz", "tags": ""}"#, 400, ""),
            ("guest", "PUT", "users/a", r#"{"password": 1, "tags": ""}"#, 400, ""),
            ("guest", "PUT", "users/a", r#"{"password": "x", "tags": {}}"#, 400, ""),
            ("guest", "GET", "users/a", "", 404, "Not Found"),
            ("guest", "PUT", "users/a", r#"{"tags": "a"}"#, 201, ""),
            ("guest", "PUT", "users/a", r#"{"password": "x", "tags": " management , b"}"#, 204, ""),
            ("a", "GET", "vhosts", "", 200, ""),
            ("guest", "GET", "users/a/permissions", "", 200, ""),
            ("guest", "GET", "users/nope/permissions", "", 404, "Not Found"),
            ("guest", "GET", "users/nope/topic-permissions", "", 404, "Not Found"),
            ("guest", "DELETE", "users/nope", "", 404, "Not Found"),
            ("guest", "PUT", "users/%2F", r#"{"password": "x", "tags": ""}"#, 201, ""),
            ("guest", "POST", "users/bulk-delete", "{}", 400, "[{key_missing,users}]"),
            (
                "guest",
                "POST",
                "users/bulk-delete",
                r#"{"users": ["%2F", "a", "nope"]}"#,
                400,
                r#"["no_such_user", "%2F"]"#,
            ),
            ("guest", "GET", "users/a", "", 200, ""),
            ("guest", "POST", "users/bulk-delete", r#"{"users": ["/", "a"]}"#, 204, ""),
            ("guest", "GET", "users/a", "", 404, ""),
            ("guest", "PUT", "users/p", r#"{"tags": ["protected"]}"#, 201, ""),
            ("guest", "DELETE", "users/p", "", 412, ""),
        ],
    );
    broker.request("PUT", "users/b", Some(json!({"password_hash": hash, "tags": ["x", " y "]})));
    let shown = broker.get("users/b").json();
    let expected = json!({
        "name": "b",
        "password_hash": hash,
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": ["x", "y"],
        "limits": {},
    });
    assert_eq!(shown, expected);
    let names = |path: &str| {
        let list = broker.get(path).json();
        let list = list.as_array().expect("a list").clone();
        list.iter().map(|user| user["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("users"), ["b", "guest", "p"]);
    assert_eq!(names("users/without-permissions"), ["b", "p"]);
}

/// The base64 of the salt 1 2 3 4 and of the MD5 of it and `pw`, as definitions of RabbitMQ before 3.6 have it.
/// Who may not send a body is told so whatever is in it, and a name that is none is told in JSON.
#[test]
fn what_is_wrong_is_told_in_json() {
    let broker = TestBroker::start("");
    make_users(&broker);
    let large = format!(r#"{{"tags": "", "x": "{}"}}"#, "x".repeat(1 << 20));
    check(
        &broker,
        &[
            ("monitoring", "PUT", "users/ann", "{", 401, "Not administrator user"),
            ("monitoring", "POST", "users/bulk-delete", "{", 401, "Not administrator user"),
            ("monitoring", "POST", "definitions", "{", 401, "Not administrator user"),
            ("monitoring", "POST", "definitions/%2F", "{", 401, "Not administrator user"),
            ("guest", "PUT", "users/ann", &large, 413, "The body is larger than this path takes"),
            ("management", "GET", "consumers/%2F", "", 401, "User not authorised to access virtual host"),
        ],
    );
    for path in ["users/%ff", "connections/%ff", "consumers/%ff", "definitions/%ff"] {
        let answer = broker.get(path);
        assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("bad_request")), "{path}");
    }
}

#[test]
fn an_md5_hash_of_old_definitions_lets_its_user_in() {
    let broker = TestBroker::start("");
    let body = json!({
        "password_hash": "AQIDBJR91gt1SAWTmvD+VzA7MFU=",
        "hashing_algorithm": "rabbit_password_hashing_md5",
        "tags": "management",
    });
    assert_eq!(broker.request("PUT", "users/old", Some(body)).status, 201);
    let answer = broker.request_as("old", "pw", "GET", "vhosts", None);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(broker.request_as("old", "pW", "GET", "vhosts", None).status, 401);
}

#[test]
fn permissions_are_as_in_rabbitmq() {
    let broker = TestBroker::start("");
    make_users(&broker);
    let path = "permissions/%2F/management";
    let body = r#"{"configure": "^a", "write": ".*", "read": ""}"#;
    let missing = r#"{"configure": "", "write": ""}"#;
    let nobody = "vhost_or_user_not_found";
    check(
        &broker,
        &[
            ("guest", "GET", path, "", 404, "Not Found"),
            ("guest", "PUT", path, body, 201, ""),
            ("guest", "PUT", path, body, 204, ""),
            ("guest", "PUT", path, missing, 400, "[{key_missing,read}]"),
            ("guest", "PUT", path, r#"{"configure": "(", "write": "", "read": ""}"#, 400, ""),
            ("guest", "PUT", path, r#"{"configure": 1, "write": "", "read": ""}"#, 400, ""),
            ("guest", "PUT", "permissions/nope/management", body, 400, nobody),
            ("guest", "PUT", "permissions/%2F/nope", body, 400, nobody),
            ("guest", "GET", "permissions/nope/guest", "", 404, "Not Found"),
            ("guest", "DELETE", "permissions/%2F/nope", "", 404, "Not Found"),
        ],
    );
    let expected = json!({"user": "management", "vhost": "/", "configure": "^a", "write": ".*", "read": ""});
    assert_eq!(broker.get(path).json(), expected);
    assert_eq!(broker.get("users/management/permissions").json(), json!([expected]));
    check(
        &broker,
        &[("guest", "DELETE", path, "", 204, ""), ("guest", "DELETE", path, "", 404, "Not Found")],
    );
    let path = "topic-permissions/%2F/management";
    let body = r#"{"exchange": "amq.topic", "write": "^{username}", "read": ".*"}"#;
    let other = r#"{"exchange": "x", "write": "", "read": ".*"}"#;
    check(
        &broker,
        &[
            ("guest", "GET", path, "", 404, "Not Found"),
            ("guest", "PUT", path, body, 201, ""),
            ("guest", "PUT", path, body, 204, ""),
            ("guest", "PUT", path, other, 204, ""),
            ("guest", "PUT", path, r#"{"write": "", "read": ""}"#, 400, "[{key_missing,exchange}]"),
            ("guest", "PUT", "topic-permissions/%2F/nope", body, 400, nobody),
        ],
    );
    assert_eq!(broker.get(path).json().as_array().expect("a list").len(), 2);
    check(&broker, &[("guest", "DELETE", &format!("{path}/x"), "", 204, "")]);
    let expected = json!([{
        "user": "management", "vhost": "/", "exchange": "amq.topic", "write": "^{username}", "read": ".*",
    }]);
    assert_eq!(broker.get("vhosts/%2F/topic-permissions").json(), expected);
    check(
        &broker,
        &[("guest", "DELETE", path, "", 204, ""), ("guest", "DELETE", path, "", 404, "Not Found")],
    );
}

/// What was answered is there after the process was killed.
#[test]
fn what_was_changed_over_the_api_survives_a_crash() {
    let mut broker = TestBroker::start("");
    let permission = r#"{"configure": "^a", "write": "", "read": ""}"#;
    check(
        &broker,
        &[
            ("guest", "PUT", "users/ann", r#"{"password": "x", "tags": "management"}"#, 201, ""),
            ("guest", "PUT", "permissions/%2F/ann", permission, 201, ""),
            ("guest", "PUT", "user-limits/ann/max-channels", r#"{"value": 7}"#, 204, ""),
            ("guest", "PUT", "users/gone", r#"{"tags": ""}"#, 201, ""),
            ("guest", "DELETE", "users/gone", "", 204, ""),
        ],
    );
    broker.kill();
    let broker = broker.restart();
    check(
        &broker,
        &[
            ("ann", "GET", "vhosts", "", 200, ""),
            ("guest", "GET", "users/gone", "", 404, ""),
            ("guest", "GET", "permissions/%2F/ann", "", 200, ""),
        ],
    );
    assert_eq!(broker.get("users/ann").json()["limits"], json!({"max-channels": 7}));
}

/// Guest is made on a node without users, and never again once there are others.
#[test]
fn the_default_user_does_not_come_back() {
    let broker = TestBroker::start("");
    let body = r#"{"password": "new", "tags": "administrator"}"#;
    check(&broker, &[("guest", "PUT", "users/guest", body, 204, "")]);
    let broker = broker.restart();
    assert_eq!(broker.get("users").status, 401, "the old password is no more");
    let change =
        |method: &str, path: &str, body| broker.request_as("guest", "new", method, path, body).status;
    assert_eq!(change("PUT", "users/ann", Some(r#"{"password": "x", "tags": "administrator"}"#)), 201);
    check(&broker, &[("ann", "DELETE", "users/guest", "", 204, "")]);
    let broker = broker.restart();
    check(&broker, &[("ann", "GET", "users/guest", "", 404, "")]);
}

/// Nobody and nothing is left: it stays so, also when the log is written anew or read twice.
#[test]
fn what_a_node_begins_with_does_not_come_back_when_nothing_is_left() {
    let broker = TestBroker::start("");
    check(
        &broker,
        &[("guest", "DELETE", "vhosts/%2F", "", 204, ""), ("guest", "DELETE", "users/guest", "", 204, "")],
    );
    let broker = broker.restart().restart();
    check(&broker, &[("guest", "GET", "vhosts", "", 401, "Login failed")]);
    let broker = TestBroker::start("");
    check(&broker, &[("guest", "DELETE", "vhosts/%2F", "", 204, "")]);
    let broker = broker.restart();
    assert_eq!(broker.get("vhosts").json(), json!([]));
}

/// What broker.toml names is there at each start, unless something else was set at run time.
#[test]
fn users_of_the_configuration_yield_to_what_was_set_at_run_time() {
    let configuration = "
        [[users]]
        name = 'root'
        password = 'x'
        tags = ['administrator']
        permissions = [{ vhost = '/', configure = '.*', write = '.*', read = '.*' }]
        [[users]]
        name = 'app'
        password = 'x'
        tags = ['management']
        permissions = [{ vhost = '/', configure = '.*', write = '.*', read = '.*' }]
        [[users]]
        name = 'other'
        password = 'x'
        tags = ['management']
    ";
    let broker = TestBroker::start(configuration);
    let password = r#"{"password": "y", "tags": "management"}"#;
    let permission = r#"{"configure": "", "write": "", "read": "^a"}"#;
    check(
        &broker,
        &[
            ("root", "PUT", "users/app", password, 204, ""),
            ("root", "PUT", "permissions/%2F/app", permission, 204, ""),
            ("root", "DELETE", "users/other", "", 204, ""),
            ("other", "GET", "vhosts", "", 401, "Login failed"),
            ("root", "GET", "users/guest", "", 404, ""),
        ],
    );
    let broker = broker.restart();
    assert_eq!(broker.request_as("app", "y", "GET", "vhosts", None).status, 200);
    assert_eq!(broker.request_as("app", "x", "GET", "vhosts", None).status, 401);
    let shown = broker.request_as("root", "x", "GET", "permissions/%2F/app", None).json();
    assert_eq!(shown["read"], "^a");
    check(&broker, &[("other", "GET", "vhosts", "", 200, "")]);
}

#[tokio::test]
async fn connections_feel_what_changes_about_their_user() {
    let broker = TestBroker::start("");
    let everything = r#"{"configure": ".*", "write": ".*", "read": ".*"}"#;
    let nothing = r#"{"configure": "^other", "write": "", "read": ""}"#;
    check(
        &broker,
        &[
            ("guest", "PUT", "users/ann", r#"{"password": "x", "tags": ""}"#, 201, ""),
            ("guest", "PUT", "permissions/%2F/ann", everything, 201, ""),
        ],
    );
    let uri = format!("amqp://ann:x@{}/%2f", broker.amqp);
    let connection = Connection::connect(&uri, ConnectionProperties::default()).await.expect("connected");
    let declare = async |name: &str| {
        let channel = connection.create_channel().await.map_err(|error| error.to_string())?;
        let declared =
            channel.queue_declare(name.into(), QueueDeclareOptions::default(), FieldTable::default());
        declared.await.map(drop).map_err(|error| error.to_string())
    };
    declare("a").await.expect("allowed");
    check(&broker, &[("guest", "PUT", "permissions/%2F/ann", nothing, 204, "")]);
    let refused = declare("b").await.expect_err("not any more");
    assert!(refused.contains("access to queue 'b' in vhost '/' refused for user 'ann'"), "{refused}");
    declare("other").await.expect("allowed");
    check(&broker, &[("guest", "PUT", "user-limits/ann/max-channels", r#"{"value": 0}"#, 204, "")]);
    let refused = connection.create_channel().await.map(drop).expect_err("none is allowed");
    assert!(refused.to_string().contains("maximum allowed user limit of (0)"), "{refused}");
    let another = Connection::connect(&uri, ConnectionProperties::default()).await.expect("connected");
    check(&broker, &[("guest", "DELETE", "users/ann", "", 204, "")]);
    let closed = tokio::time::timeout(crate::broker::DEADLINE, async {
        while another.status().connected() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    closed.await.expect("the connections of a user who is deleted are closed");
}
