//! Failed logins, over HTTP and AMQP.

use std::time::{Duration, Instant};

use lapin::{Connection, ConnectionProperties};
use serde_json::json;

use crate::{
    broker::{DEADLINE, TestBroker},
    rows::check,
};

#[tokio::test]
async fn who_guesses_is_slowed_down_and_others_are_not() {
    let broker = TestBroker::start("");
    check(&broker, &[("guest", "PUT", "users/ann", r#"{"password": "x", "tags": "management"}"#, 201, "")]);
    let guess = || broker.request_as("ann", "guess", "GET", "vhosts", None);
    let refused = (0..50).map(|_| guess()).find(|answer| answer.status == 429).expect("slowed down");
    let wait = refused.header("retry-after").and_then(|wait| wait.parse::<u64>().ok());
    assert!(wait.is_some_and(|wait| (1..=30).contains(&wait)), "{refused:?}");
    assert_eq!(refused.json()["error"], "too_many_attempts");
    // Whoever has logged in from there before goes on.
    assert_eq!(broker.get("vhosts").status, 200);
    let uri = |user: &str, password: &str| format!("amqp://{user}:{password}@{}/%2f", broker.amqp);
    let connect = async |uri: String| Connection::connect(&uri, ConnectionProperties::default()).await;
    connect(uri("guest", "guest")).await.expect("connected");
    // It is the same over AMQP, where the answer takes a while.
    let asked = Instant::now();
    let error = connect(uri("ann", "guess")).await.map(drop).expect_err("a guess");
    assert!(error.to_string().contains("Login was refused"), "{error}");
    assert!(asked.elapsed() > Duration::from_millis(20), "{:?}", asked.elapsed());
    // And it ends.
    let asked = Instant::now();
    while broker.request_as("ann", "x", "GET", "vhosts", None).status != 200 {
        assert!(asked.elapsed() < DEADLINE, "ann can log in again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn no_password_is_ever_logged() {
    let broker = TestBroker::start("");
    let broker = broker.restart_logging("debug");
    let secret = "hunter2-is-secret";
    let body = json!({"password": secret, "tags": "administrator"});
    assert_eq!(broker.request("PUT", "users/ann", Some(body)).status, 201);
    assert_eq!(broker.request_as("ann", secret, "GET", "vhosts", None).status, 200);
    assert_eq!(broker.request_as("bob", secret, "GET", "vhosts", None).status, 401);
    let definitions = json!({"users": [{"name": "cid", "password": secret, "tags": 7}]});
    assert_eq!(broker.request("POST", "definitions", Some(definitions)).status, 400);
    let definitions = json!({"users": [{"name": "cid", "password": secret, "tags": ""}]});
    assert_eq!(broker.request("POST", "definitions", Some(definitions)).status, 204);
    let uri = |user: &str| format!("amqp://{user}:{secret}@{}/%2f", broker.amqp);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for user in ["ann", "bob"] {
        let uri = uri(user);
        let connected = runtime.block_on(Connection::connect(&uri, ConnectionProperties::default()));
        assert!(connected.is_err(), "nobody may enter");
    }
    let log = broker.stop_and_read_log();
    let refused = log.lines().filter(|line| line.contains("login refused: user 'bob' - invalid credentials"));
    assert_eq!(refused.count(), 2, "one line for each: {log}");
    let hash = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, format!("ann:{secret}"));
    assert!(!log.contains(secret) && !log.contains(&hash), "{log}");
}
