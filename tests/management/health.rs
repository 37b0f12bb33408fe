//! Health checks: 200 while all is well, 503 with the reason when not.

use serde_json::{Value, json};

use super::broker::TestBroker;

#[test]
fn all_is_well() {
    let broker = TestBroker::start("");
    let node = broker.get("nodes").json()[0]["name"].as_str().expect("a name").to_owned();
    for path in [
        "health/checks/alarms",
        "health/checks/local-alarms",
        "health/checks/virtual-hosts",
        "health/checks/is-in-service",
        "health/checks/ready-to-serve-clients",
        "health/checks/node-is-quorum-critical",
        "health/checks/node-is-mirror-sync-critical",
        "health/checks/reached-target-cluster-size",
        "health/checks/below-node-connection-limit",
        "health/checks/metadata-store/initialized",
        "health/checks/metadata-store/initialized/with-data",
        "health/checks/quorum-queues-without-elected-leaders/all-vhosts",
        "health/checks/quorum-queues-without-elected-leaders/vhost/%2F/pattern/.*",
        "health/checks/certificate-expiration/1/months",
        "aliveness-test/%2F",
        "healthchecks/node",
        &format!("healthchecks/node/{node}"),
    ] {
        let answer = broker.get(path);
        assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("ok")), "{path}");
    }
    for missing in ["health/checks/nosuch", "aliveness-test/nosuch", "healthchecks/node/nosuch"] {
        assert_eq!(broker.get(missing).status, 404, "{missing}");
    }
}

#[test]
fn listeners_are_checked_by_port_and_protocol() {
    let broker = TestBroker::start("");
    let amqp = broker.amqp.port();
    let check = |path: &str| {
        let answer = broker.get(&format!("health/checks/{path}"));
        (answer.status, answer.json())
    };
    assert_eq!(check(&format!("port-listener/{amqp}")), (200, json!({"status": "ok", "port": amqp})));
    let ports = [amqp, broker.management.port(), broker.metrics.port()];
    let missing = json!({"status": "failed", "reason": "No active listener", "missing": 1, "ports": ports});
    assert_eq!(check("port-listener/1"), (503, missing));
    assert_eq!(check("port-listener/x"), (400, json!({"error": "bad_request", "reason": "Invalid port"})));
    for name in ["amqp", "AMQP091", "amqp0.9.1"] {
        let expected = json!({"status": "ok", "protocol": "amqp"});
        assert_eq!(check(&format!("protocol-listener/{name}")), (200, expected));
    }
    let protocols = ["amqp", "http", "http/prometheus"];
    let missing = json!({"status": "failed", "reason": "No active listener", "missing": "mqtt", "protocols": protocols});
    assert_eq!(check("protocol-listener/mqtt"), (503, missing));
}

#[test]
fn alarms_fail_their_checks() {
    let broker = TestBroker::start("[limits]\ndisk_free_limit = 1000000000000000\n");
    let node = broker.get("nodes").json()[0].clone();
    assert_eq!((&node["disk_free_alarm"], &node["mem_alarm"]), (&json!(true), &json!(false)));
    assert_eq!(node["disk_free_limit"], 1_000_000_000_000_000_u64);
    for (path, place) in [("alarms", "in the cluster"), ("local-alarms", "on the node")] {
        let answer = broker.get(&format!("health/checks/{path}"));
        let expected = json!({
            "status": "failed",
            "reason": format!("There are alarms in effect {place}"),
            "alarms": [{"node": node["name"], "resource": "disk"}],
        });
        assert_eq!((answer.status, answer.json()), (503, expected));
    }
}

#[test]
fn a_certificate_that_ends_soon_is_told_of() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    let (certificate, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&certificate, certified.cert.pem()).expect("written");
    std::fs::write(&key, certified.signing_key.serialize_pem()).expect("written");
    let tls = format!("[tls]\ncertificate = {certificate:?}\nkey = {key:?}\n");
    let broker = TestBroker::start(&format!(
        "[listeners]\namqp_tls_port = 0\nmanagement_tls_port = 0\nprometheus_tls_port = 0\n{tls}"
    ));
    let check = |within: &str| {
        let answer = broker.get(&format!("health/checks/certificate-expiration/{within}"));
        (answer.status, answer.json())
    };
    // It ends in the year 4096.
    assert_eq!(check("100/years"), (200, json!({"status": "ok"})));
    let (status, body) = check("3000/years");
    assert_eq!((status, &body["reason"]), (503, &json!("Certificates expiring")));
    assert_eq!(body["expired"][0]["certfile"], Value::from(certificate.display().to_string()));
    let invalid = |reason: &str| (400, json!({"error": "bad_request", "reason": reason}));
    assert_eq!(check("x/days"), invalid("Invalid expiration value."));
    let reason = "Time unit not recognised. Supported units: days, weeks, months, years.";
    assert_eq!(check("1/fortnights"), invalid(reason));
}
