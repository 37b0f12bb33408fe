//! The broker under test, and the program as an operator runs it beside it.

use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_leveret");
/// How long anything may take before a test gives up on it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A broker of the test's own, with virtual hosts `/` and `other`. It stops when dropped.
pub(crate) struct Broker {
    /// Where AMQP is spoken.
    pub(crate) amqp: String,
    /// Where the API is.
    pub(crate) url: String,
    /// Where metrics are.
    pub(crate) metrics: String,
    child: Child,
    pub(crate) directory: TempDir,
}

/// What a run of the program has printed, and its exit code.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Broker {
    pub(crate) fn start() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let configuration = "[[vhosts]]\nname = '/'\n[[vhosts]]\nname = 'other'\n";
        fs::write(directory.path().join("broker.toml"), configuration).expect("write broker.toml");
        let ready_file = directory.path().join("ready.toml");
        let mut child = Command::new(PROGRAM)
            .current_dir(directory.path())
            .env_clear()
            .args(["--bind", "127.0.0.1", "--amqp-port", "0", "--management-port", "0"])
            .args(["--prometheus-port", "0", "--log-level", "warn", "--ready-file", "ready.toml"])
            .stdin(Stdio::null())
            .spawn()
            .expect("start the leveret binary");
        let started = Instant::now();
        let addresses = loop {
            if let Ok(text) = fs::read_to_string(&ready_file) {
                break toml::from_str::<toml::Table>(&text).expect("the ready file is TOML");
            }
            let ended = child.try_wait().expect("the state of the broker");
            assert!(ended.is_none() && started.elapsed() < DEADLINE, "not ready: {ended:?}");
            pause(2);
        };
        let address = |key: &str| addresses[key][0].as_str().expect("an address").to_owned();
        let (amqp, metrics) = (address("amqp"), address("prometheus"));
        let url = format!("http://{}", address("management"));
        Self { amqp, url, metrics, child, directory }
    }

    /// What `leveret` answers to these arguments.
    pub(crate) fn leveret(&self, arguments: &[&str]) -> Run {
        run(&mut self.command(arguments), "")
    }

    /// The same, with something on standard input.
    pub(crate) fn leveret_with_input(&self, arguments: &[&str], input: &str) -> Run {
        run(&mut self.command(arguments), input)
    }

    /// What `leveret` prints, which has to succeed.
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let run = self.leveret(arguments);
        assert_eq!(run.code, 0, "{arguments:?}: {run:?}");
        run.stdout
    }

    /// What a tool of RabbitMQ's answers, by a link of its name.
    pub(crate) fn tool(&self, name: &str, arguments: &[&str]) -> Run {
        let link = self.link(name);
        run(Command::new(link).args(arguments).env_clear().env("LEVERET_URL", &self.url), "")
    }

    /// What `rabbitmqctl` answers: exit code and standard output, and the other if it fails.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Run {
        self.tool("rabbitmqctl", arguments)
    }

    /// What `rabbitmqctl` prints, which has to succeed.
    pub(crate) fn ctl_done(&self, arguments: &[&str]) -> String {
        let run = self.ctl(arguments);
        assert_eq!(run.code, 0, "{arguments:?}: {run:?}");
        run.stdout
    }

    /// The exit code of the program under this name, and what it says on standard error, when it prints into that.
    pub(crate) fn run_into(&self, name: &str, arguments: &[&str], stdout: Stdio) -> (i32, String) {
        let mut command = Command::new(self.link(name));
        let command = command.args(arguments).env_clear().env("LEVERET_URL", &self.url);
        let output = command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).spawn();
        let output = output.and_then(Child::wait_with_output).expect("run the program");
        let stderr = String::from_utf8(output.stderr).expect("the output is text");
        (output.status.code().expect("an exit code"), stderr)
    }

    /// What a tool of RabbitMQ's answers to who logs in with a wrong password.
    pub(crate) fn tool_with_wrong_password(&self, name: &str, arguments: &[&str]) -> Run {
        let mut command = Command::new(self.link(name));
        command.args(arguments).env_clear().env("LEVERET_URL", &self.url).env("LEVERET_PASSWORD", "wrong");
        run(&mut command, "")
    }

    fn link(&self, name: &str) -> PathBuf {
        let link = self.directory.path().join(name);
        if !link.exists() {
            symlink(PROGRAM, &link).expect("a link");
        }
        link
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.current_dir(self.directory.path()).env_clear().env("LEVERET_URL", &self.url).args(arguments);
        command
    }

    /// The URI of a virtual host for guest.
    pub(crate) fn uri(&self, vhost: &str) -> String {
        format!("amqp://guest:guest@{}/{vhost}", self.amqp)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // An error means that the process has ended already.
        _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let asked = Instant::now();
        while self.child.try_wait().expect("the state of the broker").is_none() {
            if asked.elapsed() > DEADLINE {
                _ = self.child.kill();
            }
            pause(2);
        }
    }
}

/// The program without a broker.
pub(crate) fn leveret(arguments: &[&str]) -> Run {
    run(Command::new(PROGRAM).env_clear().args(arguments), "")
}

/// The program with variables in its environment.
pub(crate) fn leveret_in(environment: &[(&str, &str)], arguments: &[&str]) -> Run {
    run(Command::new(PROGRAM).env_clear().envs(environment.iter().copied()).args(arguments), "")
}

fn run(command: &mut Command, input: &str) -> Run {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("run the program");
    // Who does not read it has what it needs.
    _ = child.stdin.take().expect("its standard input").write_all(input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().expect("its output");
    let text = |octets: Vec<u8>| String::from_utf8(octets).expect("the output is text");
    Run { code: status.code().expect("an exit code"), stdout: text(stdout), stderr: text(stderr) }
}

/// Waits until that is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < DEADLINE, "{what} does not happen");
        pause(20);
    }
}

#[expect(clippy::disallowed_methods, reason = "files, processes and programs can only be polled")]
fn pause(ms: u64) {
    thread::sleep(Duration::from_millis(ms));
}
