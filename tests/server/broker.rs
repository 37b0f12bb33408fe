//! The broker under test: the real binary in a directory of its own, with its log.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long anything may take before a test gives up on it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A directory with what a broker needs. It is the broker's working directory, so paths in the configuration may be
/// names of its files.
pub(crate) struct Place {
    pub(crate) directory: TempDir,
}

/// A broker of the test's own. It stops when dropped.
pub(crate) struct TestBroker {
    pub(crate) place: Place,
    addresses: toml::Table,
    child: Child,
}

impl Place {
    /// A directory with that configuration.
    pub(crate) fn new(configuration: &str) -> Self {
        let place = Self { directory: TempDir::new().expect("a temporary directory") };
        place.write("broker.toml", configuration);
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("write a file");
    }

    /// The program, ready to run there.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
        command.current_dir(self.directory.path()).stdin(Stdio::null()).env_remove("NOTIFY_SOCKET");
        command.args(["--bind", "127.0.0.1", "--ready-file", "ready.toml"]);
        for kind in ["amqp", "management", "prometheus"] {
            command.args([&format!("--{kind}-port"), "0", &format!("--{kind}-tls-port"), "0"]);
        }
        command
    }

    /// Runs the program, which is to refuse to start.
    pub(crate) fn refused(&self) -> Output {
        self.command().output().expect("run the leveret binary")
    }

    /// Starts a broker there, and waits until it is ready.
    pub(crate) fn start(self) -> TestBroker {
        let command = self.command();
        self.start_as(command)
    }

    /// The same with a command that has more to it.
    pub(crate) fn start_as(self, mut command: Command) -> TestBroker {
        let ready_file = self.path("ready.toml");
        _ = fs::remove_file(&ready_file);
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).expect("a file");
        let mut child = command.stderr(log).spawn().expect("start the leveret binary");
        let addresses = wait_for("the ready file", || {
            let ended = child.try_wait().expect("the state of the broker");
            assert!(ended.is_none(), "{ended:?}: {}", read(&self.path("log")));
            toml::from_str(&fs::read_to_string(&ready_file).ok()?).ok()
        });
        TestBroker { place: self, addresses, child }
    }
}

impl TestBroker {
    /// The first address of that kind in the ready file.
    pub(crate) fn address(&self, kind: &str) -> SocketAddr {
        self.list(kind).first().and_then(|address| address.parse().ok()).expect("an address")
    }

    /// Everything of that kind in the ready file.
    pub(crate) fn list(&self, kind: &str) -> Vec<String> {
        let list = self.addresses[kind].as_array().expect("a list").iter();
        list.map(|item| item.as_str().expect("a text").to_owned()).collect()
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        read(&self.place.path("log"))
    }

    /// Waits for a line of the log with all of these in it.
    pub(crate) fn wait_for_line(&self, parts: &[&str]) -> String {
        wait_for(&format!("a line with {parts:?}"), || {
            let log = self.log();
            log.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
        })
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("send a signal");
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("the end of the broker", || self.child.try_wait().expect("the state of the broker"))
    }

    /// Ends it by that signal, and leaves its directory.
    pub(crate) fn end(mut self, signal: Signal) -> Place {
        self.signal(signal);
        self.wait();
        std::mem::replace(&mut self.place, Place::new(""))
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        // The first asks, the second insists: clients of a finished test may never answer connection.close. An error
        // means that the process has ended already.
        for patience in [Duration::from_millis(500), DEADLINE] {
            _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let asked = Instant::now();
            while asked.elapsed() < patience {
                if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                    return;
                }
                pause();
            }
        }
        _ = self.child.kill();
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Waits until there is something.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "no {what} after {DEADLINE:?}");
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "files and processes can only be polled")]
pub(crate) fn pause() {
    thread::sleep(Duration::from_millis(5));
}
