//! Other people's clients and tools against the real binary: runs the pytest suite in `interop/` (pika, aio-pika, py-amqp,
//! kombu, Celery, rabbitmqadmin, Flower, Prometheus, Chromium) in a Python virtual environment under `target/`, made on the first run and kept for the next.
//!
//! To work on one Python test: `target/interop-venv/bin/pytest interop -k NAME`. It takes `target/debug/leveret`, or
//! the binary that `LEVERET_BINARY` names by an absolute path, for the broker starts in a directory of its own.

use std::fs::{self, File};
use std::io::{Write, stdout};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

/// The oldest Python that the pinned packages run on.
const PYTHON_MIN: (u8, u8) = (3, 11);
/// Exits with 0 if this is a Python of at least `argv[1].argv[2]` that can make virtual environments.
const PYTHON_CHECK: &str =
    "import sys, venv, ensurepip; sys.exit(sys.version_info < tuple(map(int, sys.argv[1:])))";
/// Making the environment downloads some ten megabytes, perhaps over a slow line.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(600);
/// The suite takes about three minutes; a busy machine gets fifteen.
const SUITE_TIMEOUT: Duration = Duration::from_secs(900);

#[test]
fn python_clients_work_unchanged() -> Result<(), String> {
    require_python()?;
    let pytest = environment()?.join("bin/pytest");
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop");
    let log = target_dir().join("interop.log");
    let mut command = Command::new(pytest);
    command
        .arg(suite)
        .env("LEVERET_BINARY", env!("CARGO_BIN_EXE_leveret"))
        .env_remove("LEVERET_INTEROP_ADDRESS");
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let outcome = run(&mut command, &log, SUITE_TIMEOUT);
    let output = fs::read_to_string(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    report(if outcome.is_ok() { summary(&output) } else { &output });
    outcome
}

/// Fails with one line that says what to install.
fn require_python() -> Result<(), String> {
    let (major, minor) = PYTHON_MIN;
    let fit = Command::new("python3")
        .args(["-c", PYTHON_CHECK, &major.to_string(), &minor.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    let missing = || {
        format!(
            "install python3 ({major}.{minor} or newer, with venv: Debian's python3-venv) for the interop tests"
        )
    };
    fit.then_some(()).ok_or_else(missing)
}

/// The virtual environment with exactly `interop/requirements.txt` in it, made anew whenever that file has changed.
fn environment() -> Result<PathBuf, String> {
    let directory = target_dir().join("interop-venv");
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/requirements.txt");
    let wanted = fs::read(&requirements).map_err(|error| format!("{}: {error}", requirements.display()))?;
    let _guard =
        lock(&directory.with_extension("lock")).map_err(|error| format!("interop-venv.lock: {error}"))?;
    // Written last: an environment without it is one that was never finished.
    let installed = directory.join("installed-requirements.txt");
    if fs::read(&installed).is_ok_and(|found| found == wanted) {
        return Ok(directory);
    }
    install(&directory, &requirements)?;
    fs::write(&installed, wanted).map_err(|error| format!("{}: {error}", installed.display()))?;
    Ok(directory)
}

fn install(directory: &Path, requirements: &Path) -> Result<(), String> {
    let log = target_dir().join("interop-install.log");
    let mut create = Command::new("python3");
    create.args(["-m", "venv", "--clear"]).arg(directory);
    let mut install = Command::new(directory.join("bin/python"));
    install.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--requirement"]);
    install.arg(requirements);
    [create, install].iter_mut().try_for_each(|command| run(command, &log, INSTALL_TIMEOUT)).inspect_err(
        |_| {
            report(&fs::read_to_string(&log).unwrap_or_default());
        },
    )
}

/// Held until dropped: two test runs must not install into one environment at once.
fn lock(path: &Path) -> std::io::Result<File> {
    let file = File::create(path)?;
    file.lock()?;
    Ok(file)
}

/// Runs `command` with its output in `log`; whatever it started is killed with it when `timeout` has passed.
fn run(command: &mut Command, log: &Path, timeout: Duration) -> Result<(), String> {
    let said = |error: &dyn std::fmt::Display| format!("{}: {error}", command_name(command));
    let output = File::create(log).map_err(|error| said(&error))?;
    let errors = output.try_clone().map_err(|error| said(&error))?;
    let spawned = command.process_group(0).stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
    let name = command_name(command);
    let mut child = spawned.map_err(|error| format!("{name}: {error}"))?;
    let group = Pid::from_child(&child);
    let (ended, end) = mpsc::channel();
    let waiter = thread::spawn(move || ended.send(child.wait()));
    let Ok(status) = end.recv_timeout(timeout) else {
        let _ = kill_process_group(group, Signal::KILL);
        let _ = waiter.join();
        return Err(format!("{name}: not done within {} s, see {}", timeout.as_secs(), log.display()));
    };
    status.map_err(|error| format!("{name}: {error}")).and_then(|status| expect_success(&name, status, log))
}

fn expect_success(name: &str, status: ExitStatus, log: &Path) -> Result<(), String> {
    let failure = || format!("{name}: {status}, see {}", log.display());
    status.success().then_some(()).ok_or_else(failure)
}

fn command_name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// Past the test harness, which would keep it back when the test passes.
fn report(text: &str) {
    let _ = writeln!(stdout(), "{}", text.trim_end());
}

/// pytest's last line, with the counts.
fn summary(output: &str) -> &str {
    output.trim_end().lines().next_back().unwrap_or_default()
}

/// Cargo's target directory, wherever it is.
fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("invariant: the tmp directory is in target")
        .to_path_buf()
}
