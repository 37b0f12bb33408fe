//! The command line as RabbitMQ's tools read it: options before and after the command, in any order.

use super::{Wrong, output::Formatter};

/// A command line.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) command: Option<String>,
    pub(super) arguments: Vec<String>,
    pub(super) options: Options,
}

/// The options of all commands.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) node: Option<String>,
    pub(super) vhost: Option<String>,
    pub(super) timeout_secs: u64,
    /// Whether somebody said how long.
    pub(super) has_timeout: bool,
    /// No word but what was asked for.
    pub(super) quiet: bool,
    pub(super) no_headers: bool,
    pub(super) formatter: Formatter,
    pub(super) help: bool,
    pub(super) version: bool,
    /// Those that only some commands have, by their long names; one without a value has an empty one.
    pub(super) own: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node: None,
            vhost: None,
            timeout_secs: 60,
            has_timeout: false,
            quiet: false,
            no_headers: false,
            formatter: Formatter::Table,
            help: false,
            version: false,
            own: Vec::new(),
        }
    }
}

impl Options {
    /// The value of an option of the command's own.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.own.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether an option of the command's own is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// Whether the output is read by a program.
    pub(super) fn is_for_programs(&self) -> bool {
        self.formatter != Formatter::Table
    }
}

/// The options that take a value; `-p` and the like stand for them.
const WITH_VALUE: [&str; 19] = [
    "node",
    "vhost",
    "timeout",
    "formatter",
    "printer",
    "script-name",
    "erlang-cookie",
    "priority",
    "apply-to",
    "user",
    "limit",
    "per-connection-delay",
    "description",
    "tags",
    "default-queue-type",
    "hashing-algorithm",
    "address",
    "pid",
    "format",
];

/// What a letter stands for. `-e` and `-u` are of `delete_queue`, the others of all commands.
const SHORT: [(char, &str); 12] = [
    ('n', "node"),
    ('p', "vhost"),
    ('t', "timeout"),
    ('q', "quiet"),
    ('s', "silent"),
    ('l', "longnames"),
    ('e', "if-empty"),
    ('u', "if-unused"),
    ('E', "enabled"),
    ('m', "minimal"),
    ('v', "verbose"),
    ('?', "help"),
];

/// Reads a command line.
///
/// # Errors
/// An option without its value, or a value that is none.
pub(super) fn parse(arguments: &[String]) -> Result<Given, Wrong> {
    let mut given = Given::default();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            for rest in arguments.by_ref() {
                given.positional(rest);
            }
            break;
        }
        let Some((name, inline)) = option(argument) else {
            given.positional(argument);
            continue;
        };
        let value = match inline {
            Some(value) => value,
            None if WITH_VALUE.contains(&name.as_str()) => {
                let value = arguments.next().cloned();
                value.ok_or_else(|| {
                    Wrong::usage(format!("Invalid options for this command:\n{argument} : "))
                })?
            }
            None => String::new(),
        };
        given.options.set(name, value)?;
    }
    Ok(given)
}

/// The long name of an option, and the value after `=`; `None` for what is no option, such as `-` or `-1`.
fn option(argument: &str) -> Option<(String, Option<String>)> {
    let with_value = |text: &str| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (text.to_owned(), None),
    };
    if let Some(long) = argument.strip_prefix("--") {
        let (name, value) = with_value(long);
        return Some((name.replace('_', "-"), value));
    }
    let short = argument.strip_prefix('-').filter(|text| !text.is_empty())?;
    if short.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let (name, value) = with_value(short);
    let mut letters = name.chars();
    let letter = letters.next().filter(|_| letters.next().is_none());
    let long = letter.and_then(|letter| SHORT.iter().find(|(known, _)| *known == letter));
    Some((long.map_or(format!("-{name}"), |(_, long)| (*long).to_owned()), value))
}

impl Given {
    fn positional(&mut self, argument: &str) {
        if self.command.is_none() {
            self.command = Some(argument.to_owned());
        } else {
            self.arguments.push(argument.to_owned());
        }
    }
}

impl Options {
    fn set(&mut self, name: String, value: String) -> Result<(), Wrong> {
        match name.as_str() {
            "node" => self.node = Some(value),
            "vhost" => self.vhost = Some(value),
            "timeout" => {
                self.timeout_secs = match value.as_str() {
                    "infinity" => 0,
                    // A part of a second counts as one; a negative number is none.
                    text => text.parse::<f64>().ok().filter(|secs| *secs >= 0.0).map(seconds).ok_or_else(
                        || Wrong::usage(format!("Invalid options for this command:\n-t : {value}")),
                    )?,
                };
                self.has_timeout = true;
            }
            "quiet" => self.quiet = true,
            "silent" => (self.quiet, self.no_headers) = (true, true),
            "no-table-headers" => self.no_headers = true,
            "help" => self.help = true,
            "version" => self.version = true,
            "formatter" => self.formatter = Formatter::parse(&value),
            // They say nothing to this broker.
            "longnames" | "printer" | "script-name" | "erlang-cookie" | "dry-run" => {}
            _ => self.own.push((name, value)),
        }
        Ok(())
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float is cut to what fits")]
fn seconds(seconds: f64) -> u64 {
    seconds.ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Given {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        parse(&words).unwrap_or_else(|wrong| panic!("{line}: {}", wrong.problem))
    }

    #[test]
    fn options_stand_before_or_after_the_command() {
        for line in [
            "-q -n a@b list_queues -p v name messages -t 5",
            "list_queues name -q --vhost=v messages --node a@b --timeout 5",
            "--quiet --timeout=5 --vhost v -n a@b list_queues name messages",
        ] {
            let given = parsed(line);
            assert_eq!(given.command.as_deref(), Some("list_queues"), "{line}");
            assert_eq!(given.arguments, ["name", "messages"], "{line}");
            assert_eq!(given.options.vhost.as_deref(), Some("v"), "{line}");
            assert_eq!(given.options.node.as_deref(), Some("a@b"), "{line}");
            assert!(given.options.quiet && given.options.timeout_secs == 5, "{line}");
        }
    }

    #[test]
    fn what_is_no_option_is_an_argument() {
        let given = parsed("set_permissions -p v user .* -1 -");
        assert_eq!(given.arguments, ["user", ".*", "-1", "-"]);
        let given = parsed("add_user -- -u --password");
        assert_eq!(given.arguments, ["-u", "--password"]);
    }

    #[test]
    fn an_option_without_its_value_is_refused() {
        assert!(parse(&["-n".to_owned()]).is_err());
        assert!(parse(&["-t".to_owned(), "soon".to_owned()]).is_err());
    }

    #[test]
    fn options_of_commands_keep_their_values() {
        let given = parsed("set_policy --priority -3 --apply-to queues a b c");
        assert_eq!(given.options.value("priority"), Some("-3"));
        assert_eq!(given.options.value("apply-to"), Some("queues"));
        assert!(parsed("list_queues -pv").options.has("-pv"), "RabbitMQ does not take this for -p v");
    }
}
