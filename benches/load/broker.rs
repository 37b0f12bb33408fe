//! The broker under test: one that runs, or one that is started for it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tempfile::TempDir;

use super::options::Target;
use super::process::{Process, pause};

/// How long a broker may take to be ready, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often its ready file is looked for: the precision of the start time.
const LOOK: Duration = Duration::from_micros(200);

/// A broker to measure.
pub(crate) struct Broker {
    /// `HOST:PORT` of its AMQP listener.
    pub(crate) address: String,
    /// Its process, if known.
    pub(crate) process: Option<Process>,
    program: Option<Program>,
}

impl Broker {
    /// Starts the target if it is a program.
    pub(crate) fn open(target: &Target, pid: Option<u32>) -> Result<Broker> {
        Ok(match target {
            Target::Running(address) => {
                Broker { address: address.clone(), process: pid.map(Process), program: None }
            }
            Target::Program(path) => {
                let program = Program::start(path)?;
                let process = Some(program.process());
                Broker { address: program.address.clone(), process, program: Some(program) }
            }
        })
    }

    /// Stops the broker if it was started here.
    pub(crate) fn close(self) -> Result<()> {
        self.program.map_or(Ok(()), |program| program.stop().map(drop))
    }
}

/// What a leveret program writes into its ready file, as far as it is needed here.
#[derive(Deserialize)]
struct Ready {
    amqp: Vec<String>,
}

/// A leveret process, with a data directory of its own. Dropping it kills it.
pub(crate) struct Program {
    child: Child,
    pub(crate) address: String,
    /// From exec to the ready file.
    pub(crate) ready_after: Duration,
    /// Holds the data, the ready file and the log as long as the process lives.
    _directory: TempDir,
}

impl Program {
    /// Starts the program on a free port of the loopback interface and waits until it is ready.
    pub(crate) fn start(path: &Path) -> Result<Program> {
        // It is started in a directory of its own, from where a relative path leads elsewhere.
        let path = &path.canonicalize().with_context(|| format!("cannot start {}", path.display()))?;
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let (ready, log) = (directory.path().join("ready.toml"), directory.path().join("log"));
        let output = File::create(&log)?;
        let mut command = Command::new(path);
        command
            .args(["--bind", "127.0.0.1", "--amqp-port", "0"])
            .args(["--management-port", "off", "--prometheus-port", "off"])
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .arg("--ready-file")
            .arg(&ready)
            // A broker.toml of the caller's directory is none of the measurement's business.
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let begun = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start {}", path.display()))?;
        let mut program =
            Program { child, address: String::new(), ready_after: Duration::ZERO, _directory: directory };
        program.address = program.wait_until_ready(&ready, begun).with_context(|| {
            format!("{} says: {}", path.display(), fs::read_to_string(&log).unwrap_or_default().trim_end())
        })?;
        program.ready_after = begun.elapsed();
        Ok(program)
    }

    pub(crate) fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// Asks the program to stop, as an operator would; returns how long it took.
    pub(crate) fn stop(mut self) -> Result<Duration> {
        let begun = Instant::now();
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        while begun.elapsed() < PATIENCE {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(begun.elapsed()),
                Some(status) => bail!("the broker ended with {status}"),
                None => pause(LOOK),
            }
        }
        bail!("the broker did not stop on SIGTERM")
    }

    fn wait_until_ready(&mut self, ready: &Path, begun: Instant) -> Result<String> {
        while begun.elapsed() < PATIENCE {
            // A file that is not complete yet does not parse.
            let written = fs::read_to_string(ready).ok().and_then(|text| toml::from_str::<Ready>(&text).ok());
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
