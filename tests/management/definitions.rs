//! Definitions: RabbitMQ's files in, the same out, and all or nothing.

use std::fs;

use serde_json::{Value, json};

use crate::{
    broker::TestBroker,
    rows::{check, make_users},
};

/// What RabbitMQ 3.10.8 exported.
const RABBITMQ: &str = include_str!("rabbitmq-3.10.8.json");

/// The sections that list what is defined.
const SECTIONS: [&str; 9] = [
    "users",
    "permissions",
    "topic_permissions",
    "parameters",
    "global_parameters",
    "policies",
    "queues",
    "exchanges",
    "bindings",
];

fn rabbitmq() -> Value {
    serde_json::from_str(RABBITMQ).expect("JSON")
}

/// A section in an order that does not depend on who wrote it, without what guest has.
fn section(definitions: &Value, section: &str) -> Vec<String> {
    let items = definitions[section].as_array().unwrap_or_else(|| panic!("no {section}"));
    let is_guests = |item: &Value| item["user"] == "guest" || item["name"] == "guest";
    let mut items: Vec<_> = items.iter().filter(|item| !is_guests(item)).map(ToString::to_string).collect();
    items.sort();
    items
}

#[track_caller]
fn assert_same(definitions: &Value, expected: &Value) {
    for name in SECTIONS {
        assert_eq!(section(definitions, name), section(expected, name), "{name}");
    }
}

#[test]
fn what_rabbitmq_exports_is_imported_and_exported_again() {
    let broker = TestBroker::start("");
    check(&broker, &[("guest", "POST", "definitions", RABBITMQ, 204, "")]);
    let exported = broker.get("definitions").json();
    assert_same(&exported, &rabbitmq());
    assert_eq!(exported["rabbitmq_definition_format"], "cluster");
    for field in ["rabbit_version", "rabbitmq_version", "product_name", "product_version", "explanation"] {
        assert!(exported[field].is_string(), "{field}");
    }
    let names: Vec<_> =
        exported["vhosts"].as_array().expect("a list").iter().map(|host| &host["name"]).collect();
    assert_eq!(names, ["/", "shop"]);
    check(&broker, &[("guest", "POST", "definitions", RABBITMQ, 204, "")]);
    assert_eq!(broker.get("definitions").json(), exported, "importing it again changes nothing");
    let mut broker = broker;
    broker.kill();
    let broker = broker.restart();
    let durable = |definitions: &Value| {
        let bindings = definitions["bindings"].as_array().expect("a list").clone();
        bindings.into_iter().filter(|binding| binding["source"] == "orders").collect::<Vec<_>>()
    };
    let found = broker.get("definitions").json();
    assert_eq!((durable(&found), durable(&found).len()), (durable(&exported), 3));
    assert_eq!(found["policies"], exported["policies"]);
    let ann = broker.request_as("ann", "secret", "GET", "policies/shop", None);
    assert_eq!(ann.status, 200, "the hash of the password is the one of RabbitMQ: {ann:?}");
    let other = TestBroker::start("");
    check(&other, &[("guest", "POST", "definitions", &exported.to_string(), 204, "")]);
    assert_same(&other.get("definitions").json(), &rabbitmq());
}

#[test]
fn what_is_not_to_be_exported_is_not() {
    let broker = TestBroker::start("");
    let delayed = json!({
        "exchanges": [{
            "name": "later", "vhost": "/", "type": "x-delayed-message", "durable": true, "auto_delete": false,
            "internal": false, "arguments": {"x-delayed-type": "direct"},
        }],
        "queues": [{"name": "q", "vhost": "/", "durable": true, "auto_delete": false, "arguments": {}}],
    });
    assert_eq!(broker.request("POST", "definitions", Some(delayed)).status, 204);
    let exported = broker.get("definitions").json();
    let names = |section: &str| {
        let items = exported[section].as_array().expect("a list").clone();
        items.iter().map(|item| item["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("exchanges"), ["later"]);
    assert_eq!(names("queues"), ["q"], "not the one in which messages wait for their time");
    assert_eq!(exported["bindings"], json!([]));
}

#[test]
fn one_virtual_host_goes_into_another() {
    let broker = TestBroker::start("");
    check(
        &broker,
        &[
            ("guest", "POST", "definitions", RABBITMQ, 204, ""),
            ("guest", "GET", "definitions/nope", "", 404, "vhost_not_found"),
            ("guest", "POST", "definitions/nope", "{}", 404, "vhost_not_found"),
            ("guest", "PUT", "vhosts/copy", "", 201, ""),
        ],
    );
    let exported = broker.get("definitions/shop").json();
    assert_eq!(exported["rabbitmq_definition_format"], "single_virtual_host");
    assert_eq!(exported["original_vhost_name"], "shop");
    assert!(exported["queues"][0].get("vhost").is_none() && exported.get("users").is_none());
    check(&broker, &[("guest", "POST", "definitions/copy", &exported.to_string(), 204, "")]);
    let copied = broker.get("definitions/copy").json();
    for section in ["parameters", "policies", "exchanges", "queues", "bindings"] {
        assert_eq!(copied[section], exported[section], "{section}");
    }
}

#[test]
fn other_versions_forms_are_read() {
    let broker = TestBroker::start("");
    let definitions = json!({
        "users": [{"name": "old", "password_hash": "", "tags": "management, b"}],
        "vhosts": [{
            "name": "new", "metadata": {"description": "m", "tags": ["t"], "default_queue_type": "quorum"},
            "limits": [{"name": "max-queues", "value": 5}],
        }],
        "queues": [{
            "name": "q", "vhost": "new", "durable": true, "auto_delete": false, "type": "quorum", "arguments": [],
        }],
        "topic_permissions": null,
        "something_new": [1],
    });
    assert_eq!(broker.request("POST", "definitions", Some(definitions)).status, 204);
    assert_eq!(broker.get("users/old").json()["tags"], json!(["management", "b"]));
    let host = broker.get("vhosts/new").json();
    assert_eq!((&host["description"], &host["default_queue_type"]), (&json!("m"), &json!("quorum")));
    assert_eq!(broker.get("vhost-limits/new").json()[0]["value"], json!({"max-queues": 5}));
    let exported = broker.get("definitions/new").json();
    assert_eq!(exported["queues"][0]["arguments"], json!({"x-queue-type": "quorum"}));
}

#[test]
fn an_import_in_which_anything_is_wrong_changes_nothing_and_says_what() {
    let broker = TestBroker::start("");
    let before = broker.get("definitions").json();
    let queue = |name: &str, arguments: Value| json!({"name": name, "vhost": "/", "durable": true, "auto_delete": false, "arguments": arguments});
    let binding = |source: &str, destination: &str, arguments: Value| {
        json!({
            "source": source, "vhost": "/", "destination": destination, "destination_type": "queue",
            "routing_key": "", "arguments": arguments,
        })
    };
    let definitions = json!({
        "users": [{"name": "fine", "tags": []}, {"name": "bad"}],
        "vhosts": [{"name": ""}],
        "permissions": [{"user": "nobody", "vhost": "/", "configure": "", "write": "", "read": ""}],
        "policies": [{"vhost": "/", "name": "p", "pattern": "(", "definition": {"max-length": 1}}],
        "parameters": "x",
        "queues": [
            queue("good", json!({})), queue("bad", json!({"x-max-length": -1})), {"name": "nowhere"}, 7,
        ],
        "exchanges": [{"name": "x", "vhost": "/", "type": "nope"}],
    });
    let answer = broker.request("POST", "definitions", Some(definitions));
    assert_eq!(answer.status, 400, "{answer:?}");
    let refused = answer.json()["refused"].as_array().expect("a list").clone();
    let told: Vec<_> = refused
        .iter()
        .map(|refused| (refused["kind"].as_str().unwrap_or(""), refused["name"].as_str().unwrap_or("")))
        .collect();
    let expected = [
        ("user", "bad"),
        ("vhost", ""),
        ("parameter", "parameters"),
        ("policy", "p"),
        ("exchange", "x"),
        ("queue", "nowhere"),
        ("queue", ""),
    ];
    assert_eq!(told, expected, "{answer:?}");
    assert!(answer.json()["reason"].as_str().expect("a text").starts_with("nothing was imported"));
    // What only the broker can tell comes once all of it can be read.
    let definitions = json!({
        "users": [{"name": "fine", "tags": []}],
        "permissions": [{"user": "nobody", "vhost": "/", "configure": "", "write": "", "read": ""}],
        "queues": [queue("good", json!({})), queue("bad", json!({"x-max-length": -1}))],
        "bindings": [
            binding("amq.direct", "good", json!({})),
            binding("nope", "good", json!({})),
            binding("amq.direct", "nope", json!({})),
            binding("amq.headers", "good", json!({"x-match": "some"})),
        ],
    });
    let answer = broker.request("POST", "definitions", Some(definitions));
    let refused = answer.json()["refused"].as_array().expect("a list").clone();
    let told: Vec<_> = refused.iter().map(|refused| refused["name"].as_str().unwrap_or("")).collect();
    let expected = ["nobody", "bad", "nope -> good", "amq.direct -> nope", "amq.headers -> good"];
    assert_eq!(told, expected, "{answer:?}");
    assert_eq!(broker.get("definitions").json(), before);
    let many = json!({
        "vhosts": [{"name": "small", "limits": {"max-queues": 1}}],
        "queues": [
            {"name": "a", "vhost": "small", "durable": true}, {"name": "b", "vhost": "small", "durable": true},
        ],
    });
    let answer = broker.request("POST", "definitions", Some(many));
    assert_eq!(answer.json()["refused"][0]["reason"], "it may have 1 queues, not 2");
    check(
        &broker,
        &[
            ("guest", "POST", "definitions", "{", 400, "failed_to_parse_json"),
            ("guest", "POST", "definitions", "[1]", 400, "failed_to_parse_json"),
            ("guest", "POST", "definitions", "{}", 204, ""),
            ("guest", "GET", "vhosts/small", "", 404, ""),
        ],
    );
}

/// As in RabbitMQ, queues and exchanges that are there stay as they are, and the rest of the file is imported.
#[test]
fn what_is_there_stays_as_it_is() {
    let broker = TestBroker::start("");
    let queue = |max: u32| {
        json!({"queues": [{
            "name": "q", "vhost": "/", "durable": true, "auto_delete": false, "arguments": {"x-max-length": max},
        }]})
    };
    assert_eq!(broker.request("POST", "definitions", Some(queue(1))).status, 204);
    assert_eq!(broker.request("POST", "definitions", Some(queue(2))).status, 204);
    assert_eq!(broker.get("definitions").json()["queues"][0]["arguments"]["x-max-length"], 1);
}

/// Neither a password nor the protection of a virtual host is lost to a file that says nothing about it.
#[test]
fn what_a_file_does_not_say_stays_as_it_is() {
    let broker = TestBroker::start("");
    make_users(&broker);
    let import = |body: Value| assert_eq!(broker.request("POST", "definitions", Some(body)).status, 204);
    let users = |user: Value| json!({"users": [user]});
    import(users(json!({"name": "nobody", "tags": ["management"]})));
    check(&broker, &[("nobody", "GET", "whoami", "", 200, "")]);
    import(users(json!({"name": "nobody", "tags": ["management"], "password_hash": ""})));
    check(&broker, &[("nobody", "GET", "whoami", "", 401, "Login failed")]);
    let host = |field: &str| broker.get("vhosts/%2F").json()[field].clone();
    import(json!({"vhosts": [{"name": "/", "metadata": {"protected_from_deletion": true}}]}));
    import(json!({"vhosts": [{"name": "/", "description": "d", "tags": ["t"]}]}));
    assert_eq!((host("protected_from_deletion"), host("description")), (json!(true), json!("d")));
    import(json!({"vhosts": [{"name": "/", "protected_from_deletion": false}]}));
    assert_eq!((host("protected_from_deletion"), host("description")), (json!(false), json!("d")));
}

#[test]
fn files_are_uploaded_and_downloaded_by_browsers() {
    let broker = TestBroker::start("");
    make_users(&broker);
    let form = |part: &str| {
        format!(
            "--X\r\nContent-Disposition: form-data; name=\"{part}\"; filename=\"a.json\"\r\n\
             Content-Type: application/json\r\n\r\n{RABBITMQ}\r\n--X--\r\n"
        )
    };
    let kind = "multipart/form-data; boundary=X";
    assert_eq!(broker.post_as(("guest", "guest"), "definitions", kind, &form("other")).status, 400);
    assert_eq!(broker.post_as(("management", "x"), "definitions", kind, &form("file")).status, 401);
    assert_eq!(broker.post_as(("guest", "guest"), "definitions", kind, &form("file")).status, 204);
    assert_same_queues(&broker);
    let answer = broker.get("definitions?download=my%0A%20file.json");
    assert_eq!(answer.header("content-disposition"), Some("attachment; filename=myfile.json"));
}

#[track_caller]
fn assert_same_queues(broker: &TestBroker) {
    let exported = broker.get("definitions").json();
    assert_eq!(section(&exported, "queues"), section(&rabbitmq(), "queues"));
}

/// A file that was loaded is loaded again once it changes; what was changed at run time stays until then.
#[test]
fn a_file_is_loaded_at_the_start_once() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("definitions.json");
    let mut definitions = rabbitmq();
    let root = json!({"name": "root", "password": "x", "tags": ["administrator"]});
    let permission = json!({"user": "root", "vhost": "shop", "configure": "", "write": "", "read": ""});
    definitions["users"].as_array_mut().expect("a list").push(root);
    // Guest is not in the file, and so not there.
    definitions["permissions"] = json!([permission]);
    fs::write(&file, definitions.to_string()).expect("written");
    let broker = TestBroker::start(&format!("[definitions]\nload = {:?}", file.display().to_string()));
    let shown = |broker: &TestBroker| broker.request_as("root", "x", "GET", "definitions", None).json();
    let names = |definitions: &Value, section: &str| {
        let items = definitions[section].as_array().expect("a list").clone();
        items.iter().map(|item| item["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&shown(&broker), "users"), ["ann", "bob", "root"]);
    assert_eq!(names(&shown(&broker), "vhosts"), ["shop"]);
    assert_eq!(section(&shown(&broker), "bindings"), section(&definitions, "bindings"));
    check(
        &broker,
        &[("guest", "GET", "vhosts", "", 401, "Login failed"), ("root", "DELETE", "users/bob", "", 204, "")],
    );
    let broker = broker.restart();
    assert_eq!(names(&shown(&broker), "users"), ["ann", "root"], "it has not changed");
    definitions["users"].as_array_mut().expect("a list").push(json!({"name": "new", "tags": []}));
    fs::write(&file, definitions.to_string()).expect("written");
    let broker = broker.restart();
    assert_eq!(names(&shown(&broker), "users"), ["ann", "bob", "new", "root"]);
}
