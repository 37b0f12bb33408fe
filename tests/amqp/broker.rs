//! The broker under test: the real binary on ports of its own, or the one that `LEVERET_TEST_ADDRESS` names.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long anything may take before a test gives up on it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// The users and virtual hosts that the tests expect. A broker named by `LEVERET_TEST_ADDRESS` needs the same.
const CONFIGURATION: &str = r#"
[[vhosts]]
name = "/"
[[vhosts]]
name = "limited"

[[users]]
name = "guest"
password = "guest"
tags = ["administrator"]
permissions = [{ vhost = "/", configure = ".*", write = ".*", read = ".*" }]

[[users]]
name = "bob"
password = "bob"
tags = []
permissions = [
    { vhost = "/", configure = "^bob-", write = '^(bob-.*|amq\.topic)$', read = '^(bob-.*|amq\.topic)$' },
]
topic_permissions = [{ vhost = "/", exchange = "amq.topic", write = "^ok", read = "^ok" }]
"#;

/// A broker to talk to. Ours is stopped when the last holder lets go of it, and every connection holds it.
pub(crate) struct TestBroker {
    address: SocketAddr,
    process: Option<Mutex<Process>>,
}

struct Process {
    child: Child,
    // The data directory lies in it.
    directory: Arc<TempDir>,
}

/// The broker that the tests of this binary share while any of them runs.
pub(crate) fn shared() -> Arc<TestBroker> {
    static SHARED: Mutex<Weak<TestBroker>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(broker) = shared.upgrade() {
        return broker;
    }
    let broker = match external() {
        Some(address) => Arc::new(TestBroker { address, process: None }),
        None => TestBroker::start(""),
    };
    *shared = Arc::downgrade(&broker);
    broker
}

/// The broker to test in place of our own binary.
fn external() -> Option<SocketAddr> {
    let address = std::env::var("LEVERET_TEST_ADDRESS").ok()?;
    Some(address.parse().expect("LEVERET_TEST_ADDRESS is an address like 127.0.0.1:5672"))
}

/// Whether the tests run against another broker: what only our binary does is not asked of it.
pub(crate) fn is_external() -> bool {
    std::env::var_os("LEVERET_TEST_ADDRESS").is_some()
}

impl TestBroker {
    /// Starts the binary with the tests' users and these lines of configuration, and waits until it is ready.
    pub(crate) fn start(configuration: &str) -> Arc<Self> {
        let directory = TempDir::new().expect("a temporary directory");
        configure(&directory, configuration);
        Self::start_in(Arc::new(directory))
    }

    /// Stops our process and starts another one on its data.
    pub(crate) fn restart(&self) -> Arc<Self> {
        self.terminate();
        self.wait();
        self.start_again()
    }

    /// Starts another process on the data of ours, which has ended.
    pub(crate) fn start_again(&self) -> Arc<Self> {
        Self::start_in(Arc::clone(&self.process().directory))
    }

    /// The same with other lines of configuration.
    pub(crate) fn start_again_with(&self, configuration: &str) -> Arc<Self> {
        let directory = Arc::clone(&self.process().directory);
        configure(&directory, configuration);
        Self::start_in(directory)
    }

    fn start_in(directory: Arc<TempDir>) -> Arc<Self> {
        let ready_file = directory.path().join("ready.toml");
        _ = fs::remove_file(&ready_file);
        let config_file = directory.path().join("broker.toml");
        let mut child = Command::new(env!("CARGO_BIN_EXE_leveret"))
            .arg("--config")
            .arg(&config_file)
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .args(["--bind", "127.0.0.1", "--amqp-port", "0", "--management-port", "off"])
            .args(["--prometheus-port", "off", "--log-level", "warn", "--ready-file"])
            .arg(&ready_file)
            .stdin(Stdio::null())
            .spawn()
            .expect("start the leveret binary");
        let address = wait_for_address(&mut child, &ready_file);
        Arc::new(Self { address, process: Some(Mutex::new(Process { child, directory })) })
    }

    /// A TCP connection to its AMQP listener.
    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).expect("connect to the broker")
    }

    /// The URI of vhost `/` for guest.
    pub(crate) fn uri(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.address)
    }

    /// Asks our process to end, as an operator would.
    pub(crate) fn terminate(&self) {
        kill_process(Pid::from_child(&self.process().child), Signal::TERM).expect("send SIGTERM");
    }

    /// Waits until our process has ended.
    pub(crate) fn wait(&self) -> ExitStatus {
        wait_for_exit(&mut self.process().child, DEADLINE).expect("the broker ends after SIGTERM")
    }

    /// The data directory of our process.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.process().directory.path().join("data")
    }

    /// Bytes of memory that our process occupies.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process().child.id()));
        let status = status.expect("the status of our process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kibibytes = line.trim().strip_suffix(" kB").and_then(|number| number.trim().parse::<u64>().ok());
        kibibytes.expect("a number of kB") * 1024
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        let process = self.process.as_ref().expect("our own process");
        process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        let Some(process) = self.process.take() else { return };
        let mut process = process.into_inner().unwrap_or_else(PoisonError::into_inner);
        // The first asks, the second insists: clients of a finished test may never answer connection.close. An error
        // means that the process has ended already.
        for patience in [Duration::from_millis(500), DEADLINE] {
            _ = kill_process(Pid::from_child(&process.child), Signal::TERM);
            if wait_for_exit(&mut process.child, patience).is_some() {
                return;
            }
        }
        _ = process.child.kill();
        _ = process.child.wait();
    }
}

fn configure(directory: &TempDir, configuration: &str) {
    let config_file = directory.path().join("broker.toml");
    fs::write(config_file, format!("{configuration}\n{CONFIGURATION}")).expect("write broker.toml");
}

#[expect(clippy::disallowed_methods, reason = "a file and a process can only be polled")]
fn wait_for_address(child: &mut Child, ready_file: &Path) -> SocketAddr {
    let start = Instant::now();
    loop {
        if let Some(address) = fs::read_to_string(ready_file).ok().and_then(|text| first_address(&text)) {
            return address;
        }
        if let Some(status) = child.try_wait().expect("ask for the process") {
            panic!("the broker ended before it was ready: {status}");
        }
        assert!(start.elapsed() < DEADLINE, "the broker is not ready after {DEADLINE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The first AMQP address of a ready file; nothing while it is only half written.
fn first_address(text: &str) -> Option<SocketAddr> {
    let table: toml::Table = text.parse().ok()?;
    table.get("amqp")?.as_array()?.first()?.as_str()?.parse().ok()
}

#[expect(clippy::disallowed_methods, reason = "a process can only be polled")]
fn wait_for_exit(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < patience {
        if let Some(status) = child.try_wait().expect("ask for the process") {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}
