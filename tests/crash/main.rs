//! Crashes: the real binary under load is killed at a random time and started again on its data, many times over, and
//! every message, definition and transaction must be as clients were told.
//!
//! ```sh
//! cargo test --test crash                                    # 20 kills, 3 power losses, from a random seed
//! cargo test --test crash -- --cycles 1000                   # so many kills, and 3 power losses
//! cargo test --test crash -- --cycles 300 --power-loss       # so many power losses only
//! cargo test --test crash -- --seed 42                       # the random choices of that seed again
//! ```
//!
//! `CRASH_CYCLES` and `CRASH_SEED` do the same from the environment. Threads and disks have their own time, so a seed
//! repeats the choices, not the run. A run that fails keeps its data directory and says where.

mod broker;
mod client;
mod consumer;
mod crew;
mod definer;
mod getter;
mod history;
mod ledger;
mod message;
mod options;
mod power;
mod publisher;
mod run;
mod survey;
mod topology;
mod transaction;
#[path = "../wire/mod.rs"]
mod wire;

use std::{
    io::{Write, stdout},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::ExitCode,
};

use crate::{options::Options, run::Run};

const CYCLES: u32 = 20;
const POWER_LOSS_CYCLES: u32 = 3;

type Test = (&'static str, fn(&Options) -> Result<(), String>);

/// A test of the tests, which panics when it fails.
pub(crate) type Check = (&'static str, fn());

/// The first kills the process only.
const TESTS: [Test; 2] = [
    ("a_killed_broker_keeps_its_promises", killed),
    ("a_broker_keeps_its_promises_without_power", without_power),
];

/// The target has no test harness, so that it may have flags of its own. This is as much of one as it needs.
fn main() -> ExitCode {
    let options = match Options::parse() {
        Ok(options) => options,
        Err(wrong) => {
            eprintln!("{wrong}");
            return ExitCode::from(2);
        }
    };
    if let Some(directory) = std::env::var_os(power::PROBE) {
        power::probe(Path::new(&directory));
        return ExitCode::SUCCESS;
    }
    let checks = || ledger::CHECKS.iter().chain(power::CHECKS).filter(|(name, _)| options.selects(name));
    let tests = || TESTS[usize::from(options.power_loss)..].iter().filter(|(name, _)| options.selects(name));
    let names = || checks().map(|(name, _)| *name).chain(tests().map(|(name, _)| *name));
    if options.list || options.ignored {
        names().filter(|_| options.list && !options.ignored).for_each(|name| say(&format!("{name}: test")));
        return ExitCode::SUCCESS;
    }
    let mut failed = Vec::new();
    let mut report = |name: &'static str, outcome: Result<(), String>| match outcome {
        Ok(()) => say(&format!("test {name} ... ok")),
        Err(wrong) => {
            say(&format!("test {name} ... FAILED\n{wrong}"));
            failed.push(name);
        }
    };
    for (name, check) in checks() {
        report(name, catch_unwind(check).map_err(|_| "it panicked, see above".to_owned()));
    }
    for (name, test) in tests() {
        let outcome = catch_unwind(AssertUnwindSafe(|| test(&options)));
        report(name, outcome.unwrap_or_else(|_| Err("it panicked, see above".to_owned())));
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    say(&format!("failed: {}", failed.join(", ")));
    ExitCode::FAILURE
}

fn killed(options: &Options) -> Result<(), String> {
    Run::new(options.seed, None).cycles(options.cycles.unwrap_or(CYCLES))
}

fn without_power(options: &Options) -> Result<(), String> {
    let library = power::compile()?;
    let cycles = if options.power_loss { options.cycles } else { None };
    let outcome = Run::new(options.seed, Some(&library)).cycles(cycles.unwrap_or(POWER_LOSS_CYCLES));
    _ = std::fs::remove_file(&library);
    outcome
}

/// On standard output, where `cargo nextest` wants the list.
fn say(text: &str) {
    _ = writeln!(stdout(), "{text}");
}
