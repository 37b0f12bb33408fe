//! The broker under test: the real binary, on a data directory that outlives it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::power::PowerLoss;

/// How long anything may take before it has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Small segments, so that they are filled, cleaned and used again during a run.
const CONFIGURATION: &str = "[storage]\nsegment_bytes = 1048576\n";

/// What stays when a broker ends: its data, and how its power is cut.
pub(crate) struct Site {
    directory: TempDir,
    power: Option<PowerLoss>,
}

impl Site {
    /// An empty data directory; with `power`, whatever a broker has not synced when it ends is lost.
    pub(crate) fn new(power: Option<&Path>) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        fs::create_dir(directory.path().join("data")).expect("create the data directory");
        fs::write(directory.path().join("broker.toml"), CONFIGURATION).expect("write broker.toml");
        let power = power.map(|library| PowerLoss::new(library, directory.path()));
        Self { directory, power }
    }

    /// Keeps the data for whoever wants to know what went wrong, and says where.
    pub(crate) fn keep(self) -> PathBuf {
        self.directory.keep()
    }

    /// Starts the binary. `seed` is for what reaches the disk unsynced, if anything does.
    pub(crate) fn spawn(&self, seed: u64) -> Process {
        let path = |name| self.directory.path().join(name);
        _ = fs::remove_file(path("ready.toml"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
        command.arg("--config").arg(path("broker.toml")).arg("--data-dir").arg(path("data"));
        command.args(["--bind", "127.0.0.1", "--amqp-port", "0", "--management-port", "off"]);
        command.args(["--prometheus-port", "off", "--log-level", "warn", "--ready-file"]);
        command.arg(path("ready.toml")).stdin(Stdio::null());
        if let Some(power) = &self.power {
            power.prepare(&mut command, seed);
        }
        let child = command.spawn().expect("start the leveret binary");
        Process { child, ready_file: path("ready.toml"), started: Instant::now() }
    }

    /// Fails if power cannot be cut after all.
    pub(crate) fn check_power(&self) -> Result<(), String> {
        let is_missing = self.power.as_ref().is_some_and(|power| !power.is_at_work());
        if is_missing { Err("the broker runs without the power loss library".to_owned()) } else { Ok(()) }
    }

    /// What happens to the disk once a broker has ended.
    pub(crate) fn ended(&self) {
        if let Some(power) = &self.power {
            power.cut();
        }
    }
}

/// A running broker. It is killed when it is let go.
pub(crate) struct Process {
    child: Child,
    ready_file: PathBuf,
    started: Instant,
}

impl Process {
    /// Waits until it is ready: the address of its AMQP listener, and how long it took to start; `None` if that takes
    /// longer than `patience`.
    ///
    /// # Errors
    /// If it ends.
    #[expect(clippy::disallowed_methods, reason = "a file and a process can only be polled")]
    pub(crate) fn wait_until_ready(
        &mut self,
        patience: Duration,
    ) -> Result<Option<(SocketAddr, Duration)>, String> {
        loop {
            if let Some(address) =
                fs::read_to_string(&self.ready_file).ok().and_then(|text| first_address(&text))
            {
                return Ok(Some((address, self.started.elapsed())));
            }
            if let Some(status) = self.child.try_wait().expect("ask for the process") {
                return Err(format!("the broker ended before it was ready: {status}"));
            }
            if self.started.elapsed() > patience {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        _ = self.child.kill();
        self.child.wait().expect("the broker ends when it is killed");
    }

    /// Asks it to end, as an operator would, and waits until it has; false if that takes longer than `patience`.
    ///
    /// # Errors
    /// If it does not end with success.
    #[expect(clippy::disallowed_methods, reason = "a process can only be polled")]
    pub(crate) fn terminate(&mut self, patience: Duration) -> Result<bool, String> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("send SIGTERM");
        let start = Instant::now();
        while start.elapsed() < patience {
            match self.child.try_wait().expect("ask for the process") {
                Some(status) if status.success() => return Ok(true),
                Some(status) => return Err(format!("the broker ended with {status} after SIGTERM")),
                None => thread::sleep(Duration::from_millis(1)),
            }
        }
        Ok(false)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// The first AMQP address of a ready file; nothing while it is only half written.
fn first_address(text: &str) -> Option<SocketAddr> {
    let table: toml::Table = text.parse().ok()?;
    table.get("amqp")?.as_array()?.first()?.as_str()?.parse().ok()
}
