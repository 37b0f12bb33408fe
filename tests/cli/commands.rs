//! `leveret list`, `declare`, `publish` and the other commands to a running broker.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::{Value, json};

use crate::broker::{Broker, leveret};

#[test]
fn messages_go_in_and_out() {
    let broker = Broker::start();
    let declared =
        broker.done(&["declare", "queue", "jobs", "--max-length", "100", "-a", "x-max-priority=5"]);
    assert_eq!(declared, "queue 'jobs' is declared\n");
    broker.done(&["declare", "exchange", "work", "--type", "topic"]);
    broker.done(&["declare", "binding", "work", "jobs", "-k", "job.#"]);

    let published = broker.done(&["publish", "-x", "work", "-k", "job.a", "first", "--header", "n=1"]);
    assert_eq!(published, "published\n");
    let lost = broker.leveret(&["publish", "-x", "work", "-k", "other", "lost"]);
    assert_eq!(lost.code, 1, "no queue takes it: {lost:?}");
    let lines = broker.leveret_with_input(&["publish", "-k", "jobs", "--lines"], "second\nthird\n");
    assert_eq!((lines.code, lines.stdout.as_str()), (0, "2 messages were published\n"), "{lines:?}");

    let seen: Value =
        serde_json::from_str(&broker.done(&["get", "jobs", "-n", "5", "-f", "json"])).expect("JSON");
    let bodies: Vec<&Value> =
        seen.as_array().expect("a list").iter().map(|message| &message["payload"]).collect();
    assert_eq!(bodies, ["first", "second", "third"]);
    assert_eq!(seen[0]["properties"]["headers"], json!({"n": 1}));
    assert_eq!(seen[0]["properties"]["delivery_mode"], 2);

    let raw = broker.leveret(&["get", "jobs", "--raw", "--ack"]);
    assert_eq!((raw.code, raw.stdout.as_str()), (0, "first"));
    let table = broker.done(&["get", "jobs"]);
    assert!(table.starts_with("exchange  key   redelivered") && table.contains("second"), "{table}");

    assert_eq!(broker.done(&["purge", "jobs"]), "queue 'jobs' is purged\n");
    assert_eq!(broker.done(&["get", "jobs"]), "queue 'jobs' is empty\n");
    broker.done(&["delete", "binding", "work", "jobs", "-k", "job.#"]);
    let again = broker.leveret(&["delete", "binding", "work", "jobs", "-k", "job.#"]);
    assert_eq!(again.code, 66, "{again:?}");
    broker.done(&["delete", "exchange", "work"]);
    broker.done(&["delete", "queue", "jobs"]);
}

#[test]
fn lists_have_columns_orders_and_forms() {
    let broker = Broker::start();
    for name in ["b", "a", "c"] {
        broker.done(&["declare", "queue", name]);
    }
    broker.done(&["declare", "queue", "else", "-p", "other"]);
    broker.leveret_with_input(&["publish", "-k", "b", "--lines"], "1\n2\n");
    let columns = ["--columns", "name,messages", "-p", "/"];
    let list = |more: &[&str]| broker.done(&[&["list", "queues"], &columns[..], more].concat());
    assert_eq!(list(&["--sort", "name"]), "name  messages\na            0\nb            2\nc            0\n");
    assert_eq!(list(&["--sort", "messages", "--reverse", "--limit", "1", "-q"]), "b  2\n");
    assert_eq!(list(&["^[ac]$", "--sort", "name", "-f", "tsv"]), "name\tmessages\na\t0\nc\t0\n");
    let all: Value = serde_json::from_str(&broker.done(&["list", "queues", "-f", "json"])).expect("JSON");
    assert_eq!(all.as_array().map(Vec::len), Some(4), "of all virtual hosts");
    let vhosts = broker.done(&["list", "vhosts", "-q", "--columns", "name", "--sort", "name"]);
    assert_eq!(vhosts, "/\nother\n");
    let unknown = broker.leveret(&["list", "queues", "-p", "nowhere"]);
    let expected = "leveret: there is no virtual host 'nowhere'\n";
    assert_eq!((unknown.code, unknown.stderr.as_str()), (66, expected));
}

#[test]
fn users_are_made_and_use_what_they_may() {
    let broker = Broker::start();
    let add = ["user", "add", "ann", "--new-password-file", "-", "--tags", "management", "--full-access"];
    let added = broker.leveret_with_input(&add, "s3cret\n");
    assert_eq!((added.code, added.stdout.as_str()), (0, "user 'ann' is there\n"), "{added:?}");
    let as_ann =
        |arguments: &[&str]| broker.leveret(&[arguments, &["-u", "ann", "--password", "s3cret"]].concat());
    assert_eq!(as_ann(&["list", "queues"]).code, 0);
    assert_eq!(as_ann(&["list", "users"]).code, 77, "only administrators see users");
    let wrong = broker.leveret(&["list", "queues", "-u", "ann", "--password", "guess"]);
    assert_eq!(wrong.code, 77);
    assert!(wrong.stderr.contains("refuses the login of user 'ann'"), "{wrong:?}");
    assert!(!wrong.stderr.contains("guess"), "a password is not told");

    let again = broker.leveret(&["user", "add", "ann", "--new-password", "other"]);
    let there =
        "leveret: user 'ann' is there already; `leveret user password` and `leveret user tags` change it\n";
    assert_eq!((again.code, again.stderr.as_str()), (65, there));
    assert_eq!(as_ann(&["list", "queues"]).code, 0, "the password is still the same");

    broker.done(&["permission", "set", "ann", "^a", "^b", "^c", "-p", "other"]);
    let permissions = broker.done(&["list", "permissions", "-p", "other", "ann", "-q"]);
    assert_eq!(permissions, "ann  ^a  ^b  ^c\n");
    broker.done(&["permission", "clear", "ann", "-p", "other"]);
    broker.done(&["user", "tags", "ann", "administrator"]);
    assert_eq!(as_ann(&["list", "users"]).code, 0, "the password is still the same");
    broker.done(&["user", "delete", "ann"]);
    let gone = broker.leveret(&["user", "delete", "ann"]);
    assert_eq!((gone.code, gone.stderr.as_str()), (66, "leveret: there is no user 'ann'\n"));
}

#[test]
fn virtual_hosts_policies_and_limits_are_set_and_cleared() {
    let broker = Broker::start();
    broker.done(&["vhost", "add", "new", "--description", "what is new"]);
    assert_eq!(broker.done(&["vhost", "add", "new"]), "virtual host 'new' is there already\n");
    assert!(broker.done(&["list", "vhosts", "new"]).contains("what is new"), "it keeps its description");
    broker.done(&["policy", "set", "short", "^q", "max-length=5", "--priority", "-1", "-p", "new"]);
    let policies = broker.done(&["list", "policies", "-p", "new", "-q"]);
    assert_eq!(policies, "short  ^q  all  -1  {\"max-length\":5}\n");
    let bad = broker.leveret(&["policy", "set", "bad", "^q", "no-such-key=5", "-p", "new"]);
    assert_eq!(bad.code, 65, "{bad:?}");
    broker.done(&["policy", "clear", "short", "-p", "new"]);
    broker.done(&["limit", "set", "max-queues", "1", "-p", "new"]);
    assert!(broker.done(&["list", "vhost-limits"]).contains("{\"max-queues\":1}"));
    broker.done(&["limit", "clear", "max-queues", "-p", "new"]);
    broker.done(&["limit", "set", "max-channels", "7", "--of-user", "guest"]);
    assert_eq!(broker.done(&["list", "user-limits", "-q"]), "guest  {\"max-channels\":7}\n");
    broker.done(&["vhost", "delete", "new"]);
    assert_eq!(broker.leveret(&["vhost", "delete", "new"]).code, 66);
}

#[test]
fn what_the_broker_is_can_be_asked() {
    let broker = Broker::start();
    let status = broker.done(&["status"]);
    let version = env!("CARGO_PKG_VERSION");
    for word in ["Leveret\n", version, "  RabbitMQ 3.", "node ", "memory ", "alarms ", "listeners ", "none\n"]
    {
        assert!(status.contains(word), "{word}: {status}");
    }
    assert_eq!(broker.done(&["health"]), "ok\n");
    let wrong = ["-u", "nobody", "--password", "wrong"];
    assert_eq!(broker.done(&[&["health"], &wrong[..]].concat()), "ok\n", "it needs no login");
    assert_eq!(broker.leveret(&[&["health", "alarms"], &wrong[..]].concat()).code, 77);
    assert_eq!(broker.done(&["health", "alarms", "vhosts", "-q"]), "");
    let port = broker.amqp.rsplit_once(':').expect("a port").1.to_owned();
    assert_eq!(broker.done(&["health", "port", "--port", &port]), "ok\n");
    let closed = broker.leveret(&["health", "port", "--port", "1"]);
    assert_eq!(closed.code, 1, "{closed:?}");
    let whoami = broker.done(&["api", "get", "/whoami", "-q"]);
    assert!(whoami.starts_with("{") && whoami.contains("\"name\":\"guest\""), "{whoami}");
}

#[test]
fn memory_that_is_short_fails_the_check_until_the_limit_is_raised() {
    let broker = Broker::start();
    broker.done(&["memory-limit", "0.0000001"]);
    crate::broker::until("the alarm", || broker.leveret(&["health", "alarms"]).code == 1);
    assert_eq!(broker.leveret(&["health"]).code, 0, "it still takes clients");
    assert_eq!(broker.done(&["memory-limit", "64GiB"]), "publishers are blocked above 64.0 GiB\n");
    crate::broker::until("the end of the alarm", || broker.leveret(&["health", "alarms"]).code == 0);
    assert_eq!(broker.leveret(&["memory-limit", "much"]).code, 2);
    assert_eq!(broker.leveret(&["memory-limit", "1.5"]).code, 65);
    let few = broker.leveret(&["memory-limit", "2"]);
    assert!(few.code == 2 && few.stderr.contains(" 2 bytes are less than the 16 MiB"), "{few:?}");
}

#[test]
fn what_is_no_management_api_is_told_apart() {
    let broker = Broker::start();
    let amqp = leveret(&["status", "--url", &format!("http://{}", broker.amqp)]);
    assert!(amqp.code == 70 && amqp.stderr.contains("which is 15672 if nobody has changed it"), "{amqp:?}");
    let metrics = leveret(&["status", "--url", &format!("http://{}", broker.metrics)]);
    assert!(metrics.code == 70 && metrics.stderr.contains("is not a broker's management API"), "{metrics:?}");
    let bare = leveret(&["status", "--url", "localhost:15672"]);
    assert!(bare.code == 2 && bare.stderr.contains("as in http://localhost:15672"), "{bare:?}");
}

#[test]
fn slips_of_names_are_told() {
    let broker = Broker::start();
    for arguments in [
        &["declare", "queue", ""][..],
        &["delete", "queue", ""],
        &["user", "delete", ""],
        &["user", "add", "", "--new-password", "x"],
    ] {
        let run = broker.leveret(arguments);
        assert!(
            run.code == 2 && run.stderr.starts_with("leveret: a name is empty"),
            "{arguments:?}: {run:?}"
        );
    }
    let run = broker.leveret(&["list", "vhosts", "--columns", "name,traced", "--sort", "name"]);
    assert!(run.stderr.starts_with("leveret: nothing here has a field 'traced', but: "), "{run:?}");
    assert!(run.code == 0 && run.stderr.contains("tracing") && run.stderr.lines().count() == 1, "{run:?}");
}

#[test]
fn definitions_are_for_their_owner() {
    let broker = Broker::start();
    let path = |name: &str| broker.directory.path().join(name);
    let mode = |name: &str| path(name).metadata().expect("the file").permissions().mode() & 0o777;
    fs::write(path("old.json"), "").expect("a file that others may read");
    for name in ["old.json", "new.json"] {
        broker.done(&["definitions", "export", name]);
        assert_eq!(mode(name), 0o600, "{name}");
    }
    broker.ctl_done(&["export_definitions", path("ctl.json").to_str().expect("text")]);
    assert_eq!(mode("ctl.json"), 0o600);
}

#[test]
fn who_stops_reading_is_no_failure_and_a_full_disk_is() {
    let broker = Broker::start();
    for (tool, arguments) in [
        ("leveret", &["list", "exchanges"][..]),
        ("leveret", &["status"]),
        ("leveret", &["definitions", "export"]),
        ("rabbitmqctl", &["list_exchanges"]),
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        assert_eq!(broker.run_into(tool, arguments, writer.into()), (0, String::new()), "{arguments:?}");
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
        let (code, stderr) = broker.run_into(tool, arguments, full.into());
        assert!(code == if tool == "leveret" { 74 } else { 70 }, "{arguments:?}: {code} {stderr}");
    }
}

#[test]
fn who_can_not_be_reached_is_told_so() {
    let run = leveret(&["status", "--url", "http://127.0.0.1:1"]);
    assert_eq!(run.code, 69);
    assert!(
        run.stderr.starts_with("leveret: cannot reach http://127.0.0.1:1: connection refused"),
        "{run:?}"
    );
    let run = leveret(&["status", "--url", "not a url"]);
    assert_eq!(run.code, 2, "{run:?}");
}

#[test]
fn shells_get_completions_and_people_help() {
    for shell in ["bash", "zsh", "fish"] {
        let script = leveret(&["completions", shell]);
        assert!(script.code == 0 && script.stdout.contains("definitions"), "{shell}");
    }
    let help = leveret(&["--help"]).stdout;
    for line in ["list ", "publish ", "Show what the broker is", "--amqp-port"] {
        assert!(help.contains(line), "{line}: {help}");
    }
    // Each help is made at least once: clap finds what contradicts itself only then.
    let commands = "status health list declare delete publish get purge move shovel close user permission vhost limit \
                    policy parameter definitions memory-limit api fsck import-config completions";
    for command in commands.split_whitespace() {
        let run = leveret(&[command, "--help"]);
        assert!(run.code == 0 && run.stdout.contains("Usage: leveret"), "{command}: {run:?}");
    }
}
