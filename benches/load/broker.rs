//! The broker under test: one that runs, or one that is started for it.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use super::connection::Connection;
use super::directory::Directory;
use super::options::{Options, Target};
use super::process::{Process, pause};

/// How long a broker may take to be ready, and to stop: with a backlog that is more than a moment.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often its ready file is looked for: the precision of the start time.
const LOOK: Duration = Duration::from_micros(200);
/// Names in the directory of a program.
const DATA: &str = "data";
const READY: &str = "ready.toml";
const LOG: &str = "log";

/// A broker to measure.
pub(crate) struct Broker {
    /// What it calls itself, and where.
    pub(crate) name: String,
    /// `HOST:PORT` of its AMQP listener.
    pub(crate) address: String,
    /// Its process, if known.
    pub(crate) process: Option<Process>,
    program: Option<Program>,
}

impl Broker {
    /// Starts the target if it is a program.
    pub(crate) fn open(options: &Options, target: &Target, pid: Option<u32>) -> Result<Broker> {
        let mut broker = match target {
            Target::Running(address) => Broker {
                name: String::new(),
                address: address.clone(),
                process: pid.map(Process),
                program: None,
            },
            Target::Program(path) => {
                let program = Program::start(path, &options.directory)?;
                let process = Some(program.process());
                let address = program.address.clone();
                Broker { name: String::new(), address, process, program: Some(program) }
            }
        };
        let probe = Connection::open(options, &broker.address, 1 << 10)?;
        broker.name = format!("{} at {}", probe.server, broker.address);
        probe.close(|_| Ok(()))?;
        Ok(broker)
    }

    /// Ends the broker with a signal and starts it on the same data, at another port; `None` if it was not started
    /// here.
    pub(crate) fn restart(&mut self, signal: Signal) -> Result<Option<Restart>> {
        let Some(program) = &mut self.program else { return Ok(None) };
        let restart = program.restart(signal)?;
        self.address = program.address.clone();
        self.process = Some(program.process());
        Ok(Some(restart))
    }

    /// Bytes that its data take on the disk; `None` if it was not started here.
    pub(crate) fn disk_bytes(&self) -> Result<Option<u64>> {
        self.program.as_ref().map(|program| program.directory.used_bytes(DATA)).transpose()
    }

    /// Stops the broker if it was started here.
    pub(crate) fn close(self) -> Result<()> {
        self.program.map_or(Ok(()), |program| program.stop().map(drop))
    }
}

/// The times of an end and a new start.
pub(crate) struct Restart {
    /// From the signal to the end of the process.
    pub(crate) stopped_after: Duration,
    /// When the new process was started.
    pub(crate) begun: Instant,
    /// From then to the ready file.
    pub(crate) ready_after: Duration,
}

/// What a leveret program writes into its ready file, as far as it is needed here.
#[derive(Deserialize)]
struct Ready {
    amqp: Vec<String>,
}

/// A leveret process, with a data directory of its own. Dropping it kills it, and then removes the directory.
pub(crate) struct Program {
    path: PathBuf,
    child: Child,
    pub(crate) address: String,
    begun: Instant,
    /// From exec to the ready file.
    pub(crate) ready_after: Duration,
    /// Holds the data, the ready file and the log.
    directory: Directory,
}

impl Program {
    /// Starts the program on a free port of the loopback interface and waits until it is ready. Its data go to a
    /// new directory in `parent`.
    pub(crate) fn start(path: &Path, parent: &Path) -> Result<Program> {
        // It is started in a directory of its own, from where a relative path leads elsewhere.
        let path = path.canonicalize().with_context(|| format!("cannot start {}", path.display()))?;
        let directory = Directory::create(parent)?;
        let begun = Instant::now();
        let child = spawn(&path, directory.path())?;
        let (address, ready_after) = (String::new(), Duration::ZERO);
        let mut program = Program { path, child, address, begun, ready_after, directory };
        program.wait_until_ready()?;
        Ok(program)
    }

    pub(crate) fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// Asks the program to stop, as an operator would; returns how long it took.
    pub(crate) fn stop(mut self) -> Result<Duration> {
        self.end(Signal::TERM)
    }

    fn restart(&mut self, signal: Signal) -> Result<Restart> {
        let stopped_after = self.end(signal)?;
        // One that was killed leaves it behind, and it would be taken for that of the next.
        let _ = fs::remove_file(self.directory.path().join(READY));
        self.begun = Instant::now();
        self.child = spawn(&self.path, self.directory.path())?;
        self.wait_until_ready()?;
        Ok(Restart { stopped_after, begun: self.begun, ready_after: self.ready_after })
    }

    fn end(&mut self, signal: Signal) -> Result<Duration> {
        let begun = Instant::now();
        kill_process(Pid::from_child(&self.child), signal)?;
        while begun.elapsed() < PATIENCE {
            match self.child.try_wait()? {
                Some(status) if status.success() || signal == Signal::KILL => return Ok(begun.elapsed()),
                Some(status) => bail!("the broker ended with {status}"),
                None => pause(LOOK),
            }
        }
        bail!("the broker did not stop in {} s", PATIENCE.as_secs())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        self.address = self.ready_address().with_context(|| {
            let log = fs::read_to_string(self.directory.path().join(LOG)).unwrap_or_default();
            format!("{} says: {}", self.path.display(), log.trim_end())
        })?;
        self.ready_after = self.begun.elapsed();
        Ok(())
    }

    fn ready_address(&mut self) -> Result<String> {
        let file = self.directory.path().join(READY);
        while self.begun.elapsed() < PATIENCE {
            // A file that is not complete yet does not parse.
            let written = fs::read_to_string(&file).ok().and_then(|text| toml::from_str::<Ready>(&text).ok());
            if let Some(address) = written.and_then(|ready| ready.amqp.into_iter().next()) {
                return Ok(address);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the broker ended before it was ready: {status}");
            }
            pause(LOOK);
        }
        bail!("the broker was not ready in {} s", PATIENCE.as_secs())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended already if it was stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Executes the program, with all of its files in `directory`.
fn spawn(path: &Path, directory: &Path) -> Result<Child> {
    let output = OpenOptions::new().create(true).append(true).open(directory.join(LOG))?;
    let mut command = Command::new(path);
    command
        .args(["--bind", "127.0.0.1", "--amqp-port", "0"])
        .args(["--management-port", "off", "--prometheus-port", "off"])
        .arg("--data-dir")
        .arg(directory.join(DATA))
        .arg("--ready-file")
        .arg(directory.join(READY))
        // A broker.toml of the caller's directory is none of the measurement's business.
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    command.spawn().with_context(|| format!("cannot start {}", path.display()))
}
