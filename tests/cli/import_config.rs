//! `leveret import-config`: a whole file, and what is said about it.

use std::{fs, path::Path};

use tempfile::TempDir;

use crate::broker::{leveret, leveret_in};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/rabbitmq.conf");

#[test]
fn a_whole_file_becomes_a_valid_one_and_each_key_has_a_line() {
    let directory = TempDir::new().expect("a directory");
    let output = directory.path().join("broker.toml");
    let output = output.to_str().expect("a path of text");
    let run = leveret_in(&[("OPERATOR", "ops")], &["import-config", SAMPLE, "-o", output]);
    assert_eq!(run.code, 1, "a key is unknown and one is wrong: {run:?}");

    let checked = leveret(&["--check-config", "--config", output]);
    assert_eq!(checked.code, 0, "{checked:?}");
    let text = fs::read_to_string(output).expect("what was written");
    let config: toml::Table = toml::from_str(&text).expect("TOML");
    assert_eq!(config["listeners"]["amqp_port"].as_integer(), Some(5673));
    assert_eq!(config["listeners"]["bind"][0].as_str(), Some("127.0.0.1"));
    assert_eq!(config["limits"]["handshake_timeout_secs"].as_integer(), Some(16));
    assert_eq!(config["limits"]["max_message_bytes"].as_integer(), Some(16 << 20));
    assert_eq!(config["limits"]["memory_high_watermark"].as_float(), Some(0.4));
    assert_eq!(config["limits"]["connections_max"].as_integer(), Some(0));
    assert_eq!(config["log"]["levels"]["connection"].as_str(), Some("error"));
    assert_eq!(config["definitions"]["load"].as_str(), Some("/etc/rabbitmq/definitions.json"));
    assert_eq!(config["definitions"]["skip_if_unchanged"].as_bool(), Some(false));
    assert_eq!(config["interceptors"]["timestamp"].as_str(), Some("overwrite"));
    assert_eq!(config["users"][0]["name"].as_str(), Some("ops"));
    assert_eq!(config["users"][0]["password"].as_str(), Some("s3cret#1"));
    assert_eq!(config["users"][1]["password"].as_str(), Some("re\"ad"));
    assert_eq!(config["users"][1]["loopback_only"].as_bool(), Some(true));

    let sample = fs::read_to_string(SAMPLE).expect("the sample");
    let keys =
        sample.lines().filter_map(|line| Some(line.split_once(" =")?.0)).filter(|key| !key.starts_with('#'));
    for key in keys {
        assert!(run.stderr.lines().any(|line| line[16..].starts_with(key)), "{key}\n{}", run.stderr);
    }
    for line in [
        "taken           heartbeat -> limits.heartbeat_secs",
        "no counterpart  cluster_partition_handling: there is one node",
        &format!("unknown         heart_beat ({SAMPLE}:"),
        &format!("wrong           channel_max ({SAMPLE}:"),
        "note            default_user: the user is there at each start",
        "note            definitions.skip_if_unchanged = false: ",
        "note            listeners.bind: all listeners share these addresses",
        "38 keys are taken, 12 have no counterpart, 2 are unknown or wrong",
    ] {
        assert!(run.stderr.contains(line), "{line}\n{}", run.stderr);
    }
    assert!(!run.stderr.contains("s3cret"), "a password is not told");
}

#[test]
fn a_directory_is_read_in_order_and_the_last_word_counts() {
    let directory = TempDir::new().expect("a directory");
    let file = |name: &str, text: &str| fs::write(directory.path().join(name), text).expect("a file");
    file("20-b.conf", "heartbeat = 20\n");
    file("10-a.conf", "heartbeat = 10\nchannel_max = 7\n");
    file("30-c.conf.off", "heartbeat = 30\n");
    let run = leveret(&["import-config", directory.path().to_str().expect("a path of text")]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(
        run.stdout.contains("heartbeat_secs = 20\n") && run.stdout.contains("channel_max = 7\n"),
        "{run:?}"
    );
}

#[test]
fn nothing_is_overwritten_unasked() {
    let directory = TempDir::new().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("a path of text").to_owned();
    fs::write(path("rabbitmq.conf"), "heartbeat = 20\n").expect("a file");
    fs::write(path("broker.toml"), "mine").expect("a file");
    let run = leveret(&["import-config", &path("rabbitmq.conf"), "-o", &path("broker.toml")]);
    assert_eq!(run.code, 2, "{run:?}");
    assert_eq!(fs::read_to_string(path("broker.toml")).expect("the file"), "mine");
    let run = leveret(&["import-config", &path("rabbitmq.conf"), "-o", &path("broker.toml"), "--force"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(fs::read_to_string(path("broker.toml")).expect("the file").contains("heartbeat_secs = 20"));
}

#[test]
fn what_can_not_be_read_is_told_with_its_place() {
    let run = leveret(&["import-config", "/no/such.conf"]);
    assert_eq!((run.code, run.stderr.as_str()), (66, "leveret: there is no file /no/such.conf\n"));
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("a.conf");
    fs::write(&file, "heartbeat = 1\nnonsense\n").expect("a file");
    let run = leveret(&["import-config", Path::to_str(&file).expect("a path of text")]);
    assert_eq!(run.code, 65, "{run:?}");
    assert!(run.stderr.contains("a.conf:2: this is not `key = value`"), "{run:?}");
}
