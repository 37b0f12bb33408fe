//! The `leveret` program: flags, subcommands, configuration, logging, and the exit code.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use leveret::config::{self, Config, ConfigError, Environment, Flags};
use leveret::server::{self, Start};
use mimalloc::MiMalloc;

/// A message is allocated by the task that reads it and freed by the one that writes it, on another thread more often
/// than not; mimalloc hands such memory back to its thread in batches, without a lock.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Wrong configuration; clap exits with the same code for wrong usage.
const BAD_CONFIGURATION: u8 = 2;
/// The data is damaged, or storage fails.
const BAD_STORAGE: u8 = 74;

/// An AMQP 0-9-1 broker in one binary: RabbitMQ's clients connect unchanged.
///
/// A flag beats the environment, which beats the file. Exit codes: 0 stopped in good order, 1 stopped by a second
/// signal, 2 bad configuration or usage, 74 storage failure or damage, 75 data directory locked or a port in use.
#[derive(Parser)]
#[command(name = "leveret", version, args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Configuration file [env: LEVERET_CONFIG] [default: broker.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// File to write the bound addresses to, as TOML, once every listener accepts [env: LEVERET_READY_FILE]
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Check the configuration and exit
    #[arg(long)]
    check_config: bool,
    /// Start without what is damaged in the data directory: what can't be read is lost.
    /// `leveret fsck` says what that would be
    #[arg(long)]
    salvage: bool,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Subcommand)]
enum Command {
    /// Check a data directory that no broker uses, and change nothing: exits with 0 if it is sound, 74 if it is damaged
    /// or can't be read, 75 if a broker uses it, 2 if there is none
    Fsck {
        /// Configuration file [env: LEVERET_CONFIG] [default: broker.toml, if there is one]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Directory for data [env: LEVERET_DATA_DIR] [default: data]
        #[arg(long, value_name = "DIR")]
        data_dir: Option<String>,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let environment = Environment::of_process();
    let (config, flags, is_fsck) = match args.command {
        None => (args.config, args.flags, false),
        Some(Command::Fsck { config, data_dir }) => (config, Flags { data_dir, ..Flags::default() }, true),
    };
    let file = Config::find_file(config.or_else(|| environment.get("LEVERET_CONFIG").map(PathBuf::from)));
    let config = match Config::load(&flags, &environment, file.as_deref()) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    if is_fsck {
        return fsck(&config.storage.data_dir);
    }
    if args.check_config {
        return approve(file.as_deref());
    }
    start_log(&config);
    for variable in config::unknown_variables(&environment) {
        tracing::warn!("{variable} is set, but there is no such setting");
    }
    let ready_file = args.ready_file.or_else(|| environment.get("LEVERET_READY_FILE").map(PathBuf::from));
    match server::run(config, Start { ready_file, salvage: args.salvage }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// One line of text to standard error for each event.
fn start_log(config: &Config) {
    let config::LogFormat::Text = config.log.format;
    tracing_subscriber::fmt()
        .with_max_level(config.log.level.filter())
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

fn refuse(error: &ConfigError) -> ExitCode {
    // There is no log yet, and no better place to report that standard error is closed.
    let _ = writeln!(std::io::stderr(), "leveret: {error}");
    ExitCode::from(BAD_CONFIGURATION)
}

/// Tells what a data directory holds, and what of it is damaged.
fn fsck(data_dir: &Path) -> ExitCode {
    let report = match server::fsck(data_dir) {
        Ok(report) => report,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "leveret: {error}");
            return ExitCode::from(error.exit_code());
        }
    };
    let verdict = if report.damage.is_empty() { "sound" } else { "damaged" };
    let damage = report.damage.iter().map(|line| format!("damage: {line}"));
    let lines = report.contents.into_iter().chain(damage);
    let lines: String = lines.map(|line| line + "\n").collect();
    // Whoever closed standard output has the exit code.
    let _ = writeln!(std::io::stdout(), "{lines}{} is {verdict}", data_dir.display());
    if verdict == "sound" { ExitCode::SUCCESS } else { ExitCode::from(BAD_STORAGE) }
}

fn approve(file: Option<&Path>) -> ExitCode {
    let file = file.unwrap_or(Path::new("the default configuration")).display();
    // Whoever closed standard output has the exit code.
    let _ = writeln!(std::io::stdout(), "{file} is valid");
    ExitCode::SUCCESS
}
