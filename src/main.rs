//! The `leveret` program: flags, subcommands, configuration, logging, and the exit code.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use leveret::cli::{self, import_config, rabbitmq};
use leveret::config::{self, Config, Environment, Flags, Source};
use leveret::log::Log;
use leveret::server::{self, Reload, Start};
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
/// Without a command it serves. A flag beats the environment, which beats the file. Exit codes: 0 stopped in good order, 1
/// stopped by a second signal, 2 bad configuration or usage, 74 storage failure or damage, 75 data directory locked or a
/// port in use.
///
/// The commands ask a running broker over its management API, RabbitMQ's as well. Exit codes: 0 done, 1 a check has failed
/// or not all was done, 2 usage, 65 the broker refuses it, 66 there is no such thing, 69 the broker can't be reached, 70 it
/// answers nonsense, 74 a file or the output, 77 wrong login or not allowed. As rabbitmqctl or rabbitmq-diagnostics, also
/// by a link of that name, it takes their commands and has their exit codes.
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
#[expect(clippy::large_enum_variant, reason = "there is one, and for the whole run")]
enum Command {
    #[command(flatten)]
    Remote(cli::Command),
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
    ImportConfig(import_config::Arguments),
    /// Print a script that completes commands and options; for example: leveret completions bash >
    /// /usr/share/bash-completion/completions/leveret
    Completions {
        /// The shell that it is for
        shell: clap_complete::Shell,
    },
    /// Do what rabbitmqctl does, with its options and output; `leveret rabbitmqctl help` lists the commands
    #[command(disable_help_flag = true)]
    Rabbitmqctl(Foreign),
    /// Do what rabbitmq-diagnostics does
    #[command(disable_help_flag = true)]
    RabbitmqDiagnostics(Foreign),
    /// Answer as rabbitmq-plugins: all there is, is enabled
    #[command(disable_help_flag = true)]
    RabbitmqPlugins(Foreign),
}

/// Arguments that are RabbitMQ's.
#[derive(clap::Args)]
struct Foreign {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<String>,
}

fn main() -> ExitCode {
    let environment = Environment::of_process();
    if let Some(tool) = std::env::args_os().next().as_deref().and_then(rabbitmq::Tool::by_program) {
        let arguments = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
        return rabbitmq::run(tool, &arguments.collect::<Vec<_>>(), &environment);
    }
    let mut args = Args::parse();
    match args.command.take() {
        None => serve(args, environment),
        Some(Command::Fsck { config, data_dir }) => {
            let flags = Flags { data_dir, ..Flags::default() };
            match source(config, flags, environment).load() {
                Ok(config) => fsck(&config.storage.data_dir),
                Err(error) => refuse(&error),
            }
        }
        Some(Command::Remote(command)) => command.run(&environment),
        Some(Command::ImportConfig(arguments)) => import_config::run(&arguments, &environment),
        Some(Command::Completions { shell }) => cli::completions(shell, &mut Args::command()),
        Some(Command::Rabbitmqctl(foreign)) => {
            rabbitmq::run(rabbitmq::Tool::Ctl, &foreign.arguments, &environment)
        }
        Some(Command::RabbitmqDiagnostics(foreign)) => {
            rabbitmq::run(rabbitmq::Tool::Diagnostics, &foreign.arguments, &environment)
        }
        Some(Command::RabbitmqPlugins(foreign)) => {
            rabbitmq::run(rabbitmq::Tool::Plugins, &foreign.arguments, &environment)
        }
    }
}

/// Where the configuration comes from.
fn source(file: Option<PathBuf>, flags: Flags, environment: Environment) -> Source {
    let file = Config::find_file(file.or_else(|| environment.get("LEVERET_CONFIG").map(PathBuf::from)));
    Source { flags, environment, file }
}

/// Runs the broker.
fn serve(args: Args, environment: Environment) -> ExitCode {
    let source = source(args.config, args.flags, environment);
    let config = match source.load() {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    if args.check_config {
        if let Err(error) = server::check(&config) {
            return refuse(&error);
        }
        return approve(source.file.as_deref());
    }
    let log = match Log::start(&config.log) {
        Ok(log) => log,
        Err(error) => return refuse(&error),
    };
    for variable in config::unknown_variables(&source.environment) {
        tracing::warn!("{variable} is set, but there is no such setting");
    }
    let ready_file = source.environment.get("LEVERET_READY_FILE").map(PathBuf::from);
    let ready_file = args.ready_file.or(ready_file);
    let start = Start { ready_file, salvage: args.salvage, reload: Some(Reload { source, log }) };
    match server::run(config, start) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn refuse(error: &dyn Error) -> ExitCode {
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
