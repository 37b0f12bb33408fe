//! RabbitMQ's command line tools: what compose files, probes, test suites and operators' hands call, with the order of
//! options, the output and the exit codes of RabbitMQ 3.10.8's, over the management API.
//!
//! `arguments.rs` reads the command line, `commands.rs` knows the commands, `output.rs` prints; what a command does is in
//! the file of its subject.

mod arguments;
mod checks;
mod commands;
mod lists;
mod operations;
mod output;
mod plugins;
mod settings;
mod term;
mod users;

use std::{
    ffi::OsStr,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    time::Duration,
};

pub(super) use self::operations::bytes;
use self::{
    arguments::{Given, Options},
    commands::{COMMANDS, Command},
    output::Output,
};
use super::{api::Api, failure::Failure, options::Login};
use crate::config::{Config, Environment};

/// How long the broker has to say its version: whoever asks may only want to know that the tool is there.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);
/// Wrong usage.
const USAGE: u8 = 64;
/// A value that makes no sense.
const DATA: u8 = 65;
/// No such user.
const NO_USER: u8 = 67;
/// The broker can't be reached, or does not do it.
const UNAVAILABLE: u8 = 69;
/// What should not happen.
const SOFTWARE: u8 = 70;

/// One of RabbitMQ's tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `rabbitmqctl`.
    Ctl,
    /// `rabbitmq-diagnostics`.
    Diagnostics,
    /// `rabbitmq-plugins`.
    Plugins,
}

impl Tool {
    /// The tool that a program is called as, if it is one of them.
    pub fn by_program(program: &OsStr) -> Option<Self> {
        let name = Path::new(program).file_name()?;
        [Self::Ctl, Self::Diagnostics, Self::Plugins].into_iter().find(|tool| name == tool.name())
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ctl => "rabbitmqctl",
            Self::Diagnostics => "rabbitmq-diagnostics",
            Self::Plugins => "rabbitmq-plugins",
        }
    }
}

/// Why a command fails: what is printed, and the exit code.
#[derive(Debug)]
struct Refusal {
    code: u8,
    text: String,
    /// Whether the text is all that is printed, without `Error:` above it.
    is_bare: bool,
}

impl Refusal {
    fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), is_bare: false }
    }

    fn bare(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), is_bare: true }
    }

    /// What this broker does not do, and why.
    fn unsupported(why: impl AsRef<str>) -> Self {
        Self::new(UNAVAILABLE, format!("this is not supported by Leveret: {}", why.as_ref()))
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let code = match &failure {
            Failure::Unexpected(_) => SOFTWARE,
            Failure::Usage(_) => DATA,
            _ => UNAVAILABLE,
        };
        Self::new(code, failure.to_string())
    }
}

/// A command that is being run.
struct Call<'a> {
    arguments: &'a [String],
    options: &'a Options,
    api: Api,
    /// The node that was named, or is there, or would be.
    node: String,
}

impl Call<'_> {
    fn argument(&self, index: usize) -> &str {
        self.arguments.get(index).map_or("", String::as_str)
    }

    fn vhost(&self) -> &str {
        self.options.vhost.as_deref().unwrap_or("/")
    }
}

/// Does what the tool would do with these arguments.
pub fn run(tool: Tool, arguments: &[String], environment: &Environment) -> ExitCode {
    let given = match arguments::parse(arguments) {
        Ok(given) => given,
        Err(wrong) => return refuse_usage(tool, arguments, None, &wrong),
    };
    let Given { command, arguments: positional, options } = &given;
    if options.version || (command.as_deref() == Some("version") && !options.help) {
        return print(&Output::Text(version(environment)), options);
    }
    let Some(name) = command.as_deref() else {
        let help = commands::overview(tool);
        return if options.help { printed(&help) } else { refused(&help, USAGE) };
    };
    if name == "help" {
        return help(tool, positional.first().map(String::as_str));
    }
    let Some(command) = COMMANDS.iter().find(|command| command.name == name && command.is_of(tool)) else {
        return unknown(tool, name);
    };
    if options.help {
        return help(tool, Some(name));
    }
    if let Some(wrong) = command.check(positional, options) {
        return refuse_usage(tool, arguments, Some(command), &wrong);
    }
    match call(command, positional, options, environment) {
        Ok(output) => print(&output, options),
        Err(refusal) => {
            // Whoever closed standard error has the exit code.
            let heading = if refusal.is_bare { "" } else { "Error:\n" };
            refused(&format!("{heading}{}", refusal.text), refusal.code)
        }
    }
}

fn call(
    command: &Command,
    arguments: &[String],
    options: &Options,
    environment: &Environment,
) -> Result<Output, Refusal> {
    let timeout = (options.timeout_secs > 0).then(|| Duration::from_secs(options.timeout_secs));
    let api = Api::new(&Login::of_environment(environment, timeout)?)?;
    let named = options.node.clone().or_else(|| environment.get("RABBITMQ_NODENAME").map(str::to_owned));
    let node = named.unwrap_or_else(|| node(command, &api));
    let call = Call { arguments, options, api, node };
    if !options.quiet && !options.is_for_programs() {
        for line in (command.banner)(&call) {
            // Whoever closed standard output has the exit code.
            _ = writeln!(io::stdout(), "{line}");
        }
    }
    let unreachable = |refusal: Refusal| {
        if refusal.text.starts_with("cannot reach ") {
            return Refusal::bare(UNAVAILABLE, unreachable(&call.node, &refusal.text));
        }
        refusal
    };
    (command.run)(&call).map_err(unreachable)
}

/// The node that answers, for those commands that speak of it.
fn node(command: &Command, api: &Api) -> String {
    let overview = if command.names_node { api.get("overview").ok() } else { None };
    let answered = overview.and_then(|overview| overview["node"].as_str().map(str::to_owned));
    answered.unwrap_or_else(|| {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        format!("rabbit@{}", if host.trim().is_empty() { "localhost" } else { host.trim() })
    })
}

/// What is said if nobody answers. The first words are RabbitMQ's, which scripts look for.
fn unreachable(node: &str, why: &str) -> String {
    format!(
        "Error: unable to perform an operation on node '{node}'. Please see diagnostics information and suggestions \
         below.\n\n{why}\n\n * Leveret's tools use the management API: LEVERET_URL, LEVERET_USER and LEVERET_PASSWORD \
         in the environment\n   say where it is and who asks. The default is guest on http://127.0.0.1:15672.\n * Is \
         the broker running, and is its management port on? Its log says so.\n"
    )
}

/// The version of RabbitMQ that the broker says it is compatible with, as `server_version` tells it. If it says none, the
/// one that it would say if nobody has configured another.
fn version(environment: &Environment) -> String {
    let login = Login::of_environment(environment, Some(VERSION_TIMEOUT));
    let overview = login.and_then(|login| Api::new(&login)?.get("overview"));
    let version = overview.ok().and_then(|overview| overview["rabbitmq_version"].as_str().map(str::to_owned));
    version.unwrap_or_else(|| Config::default().compatibility.version)
}

fn help(tool: Tool, command: Option<&str>) -> ExitCode {
    match command {
        None => printed(&commands::overview(tool)),
        Some(name) => match COMMANDS.iter().find(|command| command.name == name && command.is_of(tool)) {
            Some(command) => printed(&command.help(tool)),
            None => unknown(tool, name),
        },
    }
}

fn unknown(tool: Tool, name: &str) -> ExitCode {
    let of_tool = COMMANDS.iter().filter(|command| command.is_of(tool));
    let nearest = of_tool.map(|command| (distance(command.name, name), command.name)).min();
    let text = match nearest {
        Some((distance, nearest)) if distance <= 3 => {
            format!("\nCommand '{name}' not found. \nDid you mean '{nearest}'? \n")
        }
        _ => format!("\nCommand '{name}' not found. \n{}", commands::overview(tool)),
    };
    refused(&text, USAGE)
}

/// How many letters have to change to make one word of another (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut before = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let changed = before + usize::from(x != y);
            before = row[j + 1];
            row[j + 1] = changed.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn refuse_usage(tool: Tool, arguments: &[String], command: Option<&Command>, wrong: &Wrong) -> ExitCode {
    let usage = match command {
        Some(command) => command.usage(tool),
        None => format!("{} [--node <node>] [--quiet] <command> [<command options>]", tool.name()),
    };
    let given = arguments.join(" ");
    let text = format!(
        "Error (argument validation): {}\nArguments given:\n\t{given}\n\nUsage\n\n{usage}",
        wrong.problem
    );
    refused(&text, wrong.code)
}

/// What is wrong with the arguments.
#[derive(Debug)]
struct Wrong {
    problem: String,
    code: u8,
}

impl Wrong {
    fn usage(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), code: USAGE }
    }
}

fn print(output: &Output, options: &Options) -> ExitCode {
    match output.print(options) {
        Ok(()) => ExitCode::SUCCESS,
        // Who stops reading has what it wants.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => refused(&format!("Error:\ncannot write the output: {error}"), SOFTWARE),
    }
}

fn printed(text: &str) -> ExitCode {
    // Whoever closed standard output has the exit code.
    _ = writeln!(io::stdout(), "{text}");
    ExitCode::SUCCESS
}

fn refused(text: &str, code: u8) -> ExitCode {
    // Whoever closed standard error has the exit code.
    _ = writeln!(io::stderr(), "{text}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_known_by_the_name_of_the_program() {
        assert_eq!(Tool::by_program(OsStr::new("/usr/bin/rabbitmqctl")), Some(Tool::Ctl));
        assert_eq!(Tool::by_program(OsStr::new("rabbitmq-diagnostics")), Some(Tool::Diagnostics));
        assert_eq!(Tool::by_program(OsStr::new("rabbitmqctl/leveret")), None);
    }

    #[test]
    fn words_that_differ_little_are_near() {
        assert_eq!(distance("list_queues", "list_queuez"), 1);
        assert_eq!(distance("ping", "pnig"), 2);
        assert_eq!(distance("", "abc"), 3);
    }
}
