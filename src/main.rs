//! The `leveret` program: flags, configuration, logging, and the exit code.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use leveret::config::{self, Config, ConfigError, Environment, Flags};
use leveret::server;
use mimalloc::MiMalloc;

/// A message is allocated by the task that reads it and freed by the one that writes it, on another thread more often
/// than not; mimalloc hands such memory back to its thread in batches, without a lock.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Wrong configuration; clap exits with the same code for wrong usage.
const BAD_CONFIGURATION: u8 = 2;

/// An AMQP 0-9-1 broker in one binary: RabbitMQ's clients connect unchanged.
///
/// A flag beats the environment, which beats the file. Exit codes: 0 stopped in good order, 1 stopped by a second
/// signal, 2 bad configuration or usage, 74 storage failure, 75 data directory locked or a port in use.
#[derive(Parser)]
#[command(name = "leveret", version)]
struct Args {
    /// Configuration file [env: LEVERET_CONFIG] [default: broker.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// File to write the bound addresses to, as TOML, once every listener accepts [env: LEVERET_READY_FILE]
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Check the configuration and exit
    #[arg(long)]
    check_config: bool,
    #[command(flatten)]
    flags: Flags,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let environment = Environment::of_process();
    let file =
        Config::find_file(args.config.or_else(|| environment.get("LEVERET_CONFIG").map(PathBuf::from)));
    let config = match Config::load(&args.flags, &environment, file.as_deref()) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    if args.check_config {
        return approve(file.as_deref());
    }
    start_log(&config);
    for variable in config::unknown_variables(&environment) {
        tracing::warn!("{variable} is set, but there is no such setting");
    }
    let ready_file = args.ready_file.or_else(|| environment.get("LEVERET_READY_FILE").map(PathBuf::from));
    match server::run(config, ready_file) {
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

fn approve(file: Option<&Path>) -> ExitCode {
    let file = file.unwrap_or(Path::new("the default configuration")).display();
    // Whoever closed standard output has the exit code.
    let _ = writeln!(std::io::stdout(), "{file} is valid");
    ExitCode::SUCCESS
}
