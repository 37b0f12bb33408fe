//! `leveret import-config`: a `broker.toml` from RabbitMQ's `rabbitmq.conf`, and a line about each key.
//!
//! `conf.rs` reads the files, `keys.rs` knows the keys, `draft.rs` has what is written.

mod conf;
mod draft;
mod keys;
mod notes;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use self::{conf::Setting, draft::Draft};
use super::{failure::Failure, file::write_private};
use crate::config::{Config, Environment, Flags};

/// Where RabbitMQ's packages have it.
const DEFAULT_FILES: [&str; 2] = ["/etc/rabbitmq/rabbitmq.conf", "/etc/rabbitmq/conf.d"];

/// Write a broker.toml from RabbitMQ's rabbitmq.conf, and say what became of each key.
///
/// The lines about the keys go to standard error: what was taken, what has no counterpart and why, what is unknown or
/// wrong, and what works otherwise than with RabbitMQ. Exits with 0, or with 1 if keys were unknown or wrong. Users and topology are not in rabbitmq.conf: `rabbitmqctl
/// export_definitions` writes them, `leveret definitions import` reads them.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Files, and directories of *.conf, the later over the earlier [default: /etc/rabbitmq/rabbitmq.conf and conf.d]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write it even if it is there already
    #[arg(long, requires = "output")]
    force: bool,
}

/// What became of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    /// It is that key of `broker.toml` now.
    Taken(String),
    /// There is nothing like it, for a reason.
    LeftOut(&'static str),
    /// It is no key of RabbitMQ's that this version knows of.
    Unknown,
    /// Its value makes no sense.
    Wrong(String),
}

/// Reads the files and writes the other one.
pub fn run(arguments: &Arguments, environment: &Environment) -> ExitCode {
    match import(arguments, environment) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => failure.report(),
    }
}

/// Whether all keys made sense.
fn import(arguments: &Arguments, environment: &Environment) -> Result<bool, Failure> {
    let settings = conf::read(&files(arguments)?, environment)?;
    let mut draft = Draft::default();
    let mut fates = Vec::new();
    for setting in &settings {
        let fate = keys::apply(&setting.key, &setting.value, &mut draft);
        fates.push((setting, fate));
    }
    let notes = notes::complete(&settings, &mut draft);
    let text = draft.text();
    write(arguments, &text)?;
    for (setting, fate) in &fates {
        // Whoever closed standard error has the file.
        _ = writeln!(io::stderr(), "{}", line(setting, fate));
    }
    for note in notes {
        _ = writeln!(io::stderr(), "note            {note}");
    }
    let taken = fates.iter().filter(|(_, fate)| matches!(fate, Fate::Taken(_))).count();
    let left_out = fates.iter().filter(|(_, fate)| matches!(fate, Fate::LeftOut(_))).count();
    let bad = fates.len() - taken - left_out;
    _ = writeln!(
        io::stderr(),
        "{taken} keys are taken, {left_out} have no counterpart, {bad} are unknown or wrong"
    );
    check(&text)?;
    Ok(bad == 0)
}

/// What to read, in order.
fn files(arguments: &Arguments) -> Result<Vec<PathBuf>, Failure> {
    if !arguments.files.is_empty() {
        return Ok(arguments.files.clone());
    }
    let found = DEFAULT_FILES.iter().map(PathBuf::from).filter(|path| path.exists());
    let found: Vec<PathBuf> = found.collect();
    if found.is_empty() {
        return Err(Failure::Missing(format!("there is no {}: name the file to read", DEFAULT_FILES[0])));
    }
    Ok(found)
}

fn write(arguments: &Arguments, text: &str) -> Result<(), Failure> {
    let Some(path) = &arguments.output else {
        return Ok(io::stdout().write_all(text.as_bytes())?);
    };
    let name = path.display().to_string();
    if path.exists() && !arguments.force {
        return Err(Failure::Usage(format!("{name} is there already; --force writes over it")));
    }
    // There may be passwords in it.
    write_private(path, text).map_err(|error| Failure::of_file(&name, &error))
}

/// A line about a key. Its value is not told: it may be a password.
fn line(setting: &Setting, fate: &Fate) -> String {
    let Setting { key, place, .. } = setting;
    match fate {
        Fate::Taken(target) => format!("taken           {key} -> {target}"),
        Fate::LeftOut(why) => format!("no counterpart  {key}: {why}"),
        Fate::Unknown => format!("unknown         {key} ({place})"),
        Fate::Wrong(why) => format!("wrong           {key} ({place}): {why}"),
    }
}

/// Whether the broker takes what was written; its files may be on another machine.
fn check(text: &str) -> Result<(), Failure> {
    let directory = std::env::temp_dir().join(format!("leveret-import-{}", std::process::id()));
    let path = directory.join("broker.toml");
    let write = fs::create_dir(&directory).and_then(|()| fs::write(&path, text));
    let loaded =
        write.map(|()| Config::load(&Flags::default(), &Environment::default(), Some(Path::new(&path))));
    // A leftover in the directory for such things does no harm.
    _ = fs::remove_dir_all(&directory);
    match loaded {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Failure::Failed(format!(
            "the broker would refuse what was written: {}",
            error.to_string().replace(&directory.display().to_string(), "").trim_start_matches('/')
        ))),
        Err(error) => {
            Err(Failure::Io(format!("cannot check what was written: {}: {error}", directory.display())))
        }
    }
}
