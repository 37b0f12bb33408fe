//! The configuration as an operator meets it: flags, variables, a file, messages and exit codes.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::fs;
use std::process::{Command, Output};

use tempfile::TempDir;

/// An empty directory to run the program in, and how it is to be run.
struct Run {
    directory: TempDir,
    command: Command,
}

impl Run {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
        command.current_dir(directory.path()).env_clear();
        Self { directory, command }
    }

    /// Puts a file into the directory.
    fn file(self, name: &str, text: &str) -> Self {
        fs::write(self.directory.path().join(name), text).unwrap();
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    fn output(&mut self, arguments: &[&str]) -> Output {
        self.command.args(arguments).output().unwrap()
    }

    /// The message of a run that refuses its configuration.
    fn refused(self, arguments: &[&str]) -> String {
        self.failed(arguments, 2)
    }

    /// The message of a run that ends with that exit code.
    fn failed(mut self, arguments: &[&str], code: i32) -> String {
        let output = self.output(arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(output.stdout.is_empty());
        message
    }

    /// What `--check-config` says of a valid configuration.
    fn accepted(mut self, arguments: &[&str]) -> String {
        let output = self.output(&[&["--check-config"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn an_unknown_key_is_refused_by_file_line_and_key() {
    let message = Run::new().file("broker.toml", "[listeners]\namqp_prt = 5672\n").refused(&[]);
    assert!(message.starts_with("leveret: broker.toml:2: listeners.amqp_prt: unknown field"), "{message}");
    assert!(message.contains("`amqp_port`"), "{message}");
}

#[test]
fn a_value_of_the_wrong_type_is_refused() {
    let message = Run::new()
        .file("other.toml", "\n\n[limits]\nframe_max = 'big'\n")
        .refused(&["--config", "other.toml"]);
    assert!(
        message.contains(
            "other.toml:4: limits.frame_max: invalid type: string \"big\", expected a whole number"
        ),
        "{message}"
    );
}

#[test]
fn a_file_that_is_named_must_exist() {
    for message in [
        Run::new().refused(&["--config", "no-such.toml"]),
        Run::new().variable("LEVERET_CONFIG", "no-such.toml").refused(&[]),
    ] {
        assert!(message.starts_with("leveret: cannot read no-such.toml: No such file"), "{message}");
    }
}

#[test]
fn a_port_out_of_range_is_refused_wherever_it_is_set() {
    let expected = "listeners.amqp_port: 65536 is not a port: 0 to 65535, or -1 or \"off\" for none";
    for (place, message) in [
        ("--amqp-port", Run::new().refused(&["--amqp-port", "65536"])),
        ("LEVERET_AMQP_PORT", Run::new().variable("LEVERET_AMQP_PORT", "65536").refused(&[])),
        ("broker.toml:1", Run::new().file("broker.toml", "listeners.amqp_port = 65536").refused(&[])),
    ] {
        assert_eq!(message, format!("leveret: {place}: {expected}\n"));
    }
}

#[test]
fn a_bad_regular_expression_is_refused() {
    let user = "[[users]]\nname = 'ann'\npassword = 'hunter2'\n\
                permissions = [{ vhost = '/', configure = '.*', write = '(', read = '.*' }]\n";
    let message = Run::new().file("broker.toml", user).refused(&["--check-config"]);
    assert!(
        message.contains("broker.toml:4: users[0].permissions[0].write: '(' is not a regular"),
        "{message}"
    );
    assert!(!message.contains("hunter2"));
}

#[test]
fn b1_policies_are_refused_by_file_line_and_key() {
    let policy = |section: &str, lines: &str| {
        let text = format!("[[{section}]]\nname = 'p'\n{lines}\n");
        Run::new().file("broker.toml", &text).refused(&["--check-config"])
    };
    for (section, lines, expected) in [
        (
            "policies",
            "pattern = '('\ndefinition = { max-length = 1 }",
            "broker.toml:3: policies[0].pattern: '(' is not a regular expression that is supported: unclosed group",
        ),
        (
            "policies",
            "pattern = ''\ndefinition = { max-length = -1 }",
            "broker.toml:4: policies[0].definition.max-length: -1 is not a valid maximum length",
        ),
        (
            "policies",
            "pattern = ''\n[policies.definition]\nmax-length = 1\nmax-lenght = 1",
            "broker.toml:6: policies[0].definition.max-lenght: [{<<\"max-lenght\">>,1}] are not recognised policy settings",
        ),
        (
            "operator_policies",
            "pattern = ''\ndefinition = { dead-letter-exchange = 'x' }",
            "broker.toml:4: operator_policies[0].definition.dead-letter-exchange: \
             [{<<\"dead-letter-exchange\">>,<<\"x\">>}] are not recognised policy settings",
        ),
        (
            "policies",
            "pattern = ''\ndefinition = {}",
            "broker.toml:4: policies[0].definition: no policy provided",
        ),
        (
            "policies",
            "pattern = ''\napply_to = 'topics'\ndefinition = { max-length = 1 }",
            "broker.toml:4: policies[0].apply_to: apply-to 'topics' unrecognised; should be one of: 'queues', ",
        ),
        (
            "policies",
            "pattern = ''\nvhost = 'v'\ndefinition = { max-length = 1 }",
            "broker.toml:4: policies[0].vhost: there is no virtual host 'v'",
        ),
        (
            "policies",
            "pattern = ''\npriority = 'high'\ndefinition = { max-length = 1 }",
            "broker.toml:4: policies[0].priority: invalid type: string \"high\", expected a whole number",
        ),
        (
            "policies",
            "pattern = ''\ndefinition = { max-length = 1 }\n[[policies]]\nname = 'p'\npattern = ''\n\
             definition = { expires = 1 }",
            "broker.toml:6: policies[1].name: 'p' is there twice",
        ),
        ("policies", "pattern = ''", "broker.toml:1: policies[0]: missing field `definition`"),
        (
            "policies",
            "pattern = ''\ndefinition = { max-length = 2020-01-01 }",
            "broker.toml:4: policies[0].definition.max-length: 2020-01-01 is a time, which no key takes",
        ),
    ] {
        let message = policy(section, lines);
        assert!(message.starts_with(&format!("leveret: {expected}")), "{message}");
    }
}

#[test]
fn b1_policies_are_accepted() {
    let text = "[[vhosts]]\nname = '/'\n[[vhosts]]\nname = 'shop'\n\
                [[policies]]\nname = 'p'\npattern = '^a'\npriority = -3\napply_to = 'quorum_queues'\n\
                definition = { message-ttl = 1, retry-delays = ['1s', 5], retry-jitter = 0.5, dead-letter-exchange = '' }\n\
                [[policies]]\nname = 'p'\nvhost = 'shop'\npattern = ''\ndefinition = { ha-mode = 'all' }\n\
                [[operator_policies]]\nname = 'p'\npattern = ''\ndefinition = { max-length = 1 }\n";
    assert_eq!(Run::new().file("broker.toml", text).accepted(&[]), "broker.toml is valid\n");
}

#[test]
fn check_config_approves_what_is_valid_and_starts_nothing() {
    let run = Run::new().file("broker.toml", "[log]\nlevel = 'debug'\n");
    assert_eq!(run.accepted(&[]), "broker.toml is valid\n");
    assert_eq!(Run::new().accepted(&[]), "the default configuration is valid\n");
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/broker.toml");
    assert_eq!(Run::new().accepted(&["--config", shipped]), format!("{shipped} is valid\n"));
}

#[test]
fn minus_one_is_the_value_of_a_port_flag() {
    Run::new().accepted(&["--amqp-port", "-1", "--management-port", "-1", "--prometheus-port=-1"]);
}

/// Seen by whether a warning is logged, by a broker that can't start because its data directory is a file.
#[test]
fn a_flag_beats_the_environment_beats_the_file() {
    let warns = |file: &str, variable: &str, flag: &[&str]| {
        let run = Run::new().file("broker.toml", &format!("[log]\nlevel = '{file}'"));
        let mut run = run.variable("LEVERET_NO_SUCH_SETTING", "1").variable("LEVERET_LOG_LEVEL", variable);
        let output = run.output(&[&["--data-dir", "broker.toml", "--amqp-port", "0"], flag].concat());
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap().contains("LEVERET_NO_SUCH_SETTING")
    };
    assert!(warns("warn", "", &[]) && !warns("error", "", &[]));
    assert!(warns("error", "warn", &[]) && !warns("warn", "error", &[]));
    assert!(warns("error", "error", &["--log-level", "warn"]));
    assert!(!warns("warn", "warn", &["--log-level", "error"]));
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        &["--no-such-flag"][..],
        &["no-such-command"],
        &["fsck", "--salvage"],
        &["--salvage", "fsck"],
        &["fsck", "--amqp-port", "1"],
        &["--data-dir", "data", "fsck"],
        &["--salvage=yes"],
    ] {
        let output = Run::new().output(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn salvage_is_a_flag_and_not_a_setting() {
    Run::new().accepted(&["--salvage"]);
    let message = Run::new().file("broker.toml", "[storage]\nsalvage = true\n").refused(&[]);
    assert!(message.starts_with("leveret: broker.toml:2: storage.salvage: unknown field"), "{message}");
}

#[test]
fn fsck_does_not_make_what_is_missing() {
    let mut run = Run::new();
    let output = run.output(&["fsck"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let message = "leveret: there is no data directory data; name another with --data-dir\n";
    assert_eq!(String::from_utf8(output.stderr).unwrap(), message);
    assert_eq!(fs::read_dir(run.directory.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn fsck_looks_where_it_is_told_and_leaves_it_as_it_is() {
    for (name, arguments) in [
        ("elsewhere", &["fsck", "--data-dir", "elsewhere"][..]),
        ("configured", &["fsck", "--config", "other.toml"]),
        ("variable", &["fsck"]),
    ] {
        let mut run = Run::new().file("other.toml", "storage.data_dir = 'configured'");
        if name == "variable" {
            run = run.variable("LEVERET_DATA_DIR", name);
        }
        let path = run.directory.path().join(name);
        fs::create_dir(&path).unwrap();
        let output = run.output(arguments);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(String::from_utf8(output.stdout).unwrap().ends_with(&format!("{name} is sound\n")));
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "nothing was made");
    }
}

#[test]
fn a_data_directory_that_is_in_use_exits_with_75() {
    // A broker that starts after all ends at its ready file.
    for arguments in [&["fsck"][..], &["--amqp-port", "0", "--ready-file", "no/such/file"]] {
        let run = Run::new();
        fs::create_dir(run.directory.path().join("data")).unwrap();
        let lock = fs::File::create(run.directory.path().join("data/LOCK")).unwrap();
        lock.lock().unwrap();
        let message = run.failed(arguments, 75);
        assert!(message.contains("data directory data is in use by another broker"), "{message}");
    }
}

#[test]
fn version_is_the_true_one() {
    let output = Run::new().output(&["--version"]);
    assert!(output.status.success());
    assert_eq!(output.stdout, concat!("leveret ", env!("CARGO_PKG_VERSION"), "\n").as_bytes());
}

#[test]
fn which_rabbitmq_is_followed_is_said_in_words() {
    let sound = "[compatibility]\nx_death = '4'\ndelivery_limit_counts = 'returns'\nconsumer_timeout = 'cancel'\n\
                 [limits]\nconsumer_timeout_ms = 1800000\n[[vhosts]]\nname = '/'\ntracing = true\n";
    Run::new().file("broker.toml", sound).accepted(&[]);
    Run::new().variable("LEVERET_COMPATIBILITY_X_DEATH", "4").accepted(&[]);
    for (line, expected) in [
        ("compatibility.x_death = '5'", "unknown variant `5`, expected `3` or `4`"),
        ("compatibility.delivery_limit_counts = 'all'", "expected `failures` or `returns`"),
        ("compatibility.consumer_timeout = 'kill'", "expected `close` or `cancel`"),
        (
            "limits.consumer_timeout_ms = 315360000001",
            "315360000001 is not from 0 to 315360000000 milliseconds",
        ),
    ] {
        let message = Run::new().file("broker.toml", line).refused(&["--check-config"]);
        let key = line.split(' ').next().unwrap();
        assert!(message.starts_with(&format!("leveret: broker.toml:1: {key}: ")), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}
