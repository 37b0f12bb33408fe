//! The command line: our own flags, and those that `cargo test` and `cargo nextest` pass to every test binary.

use std::{env, str::FromStr};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Cycles to run instead of the default number.
    pub(crate) cycles: Option<u32>,
    /// Where random choices come from.
    pub(crate) seed: Option<u64>,
    /// Only cycles of power loss.
    pub(crate) power_loss: bool,
    /// Name the tests instead of running them.
    pub(crate) list: bool,
    /// Only tests that are ignored by default, of which there are none.
    pub(crate) ignored: bool,
    exact: bool,
    filters: Vec<String>,
    skipped: Vec<String>,
}

impl Options {
    /// From the command line and the environment.
    ///
    /// # Errors
    /// A value that is missing or not a number, or a flag that nobody knows.
    pub(crate) fn parse() -> Result<Self, String> {
        let mut options = Self {
            cycles: number("CRASH_CYCLES", env::var("CRASH_CYCLES").ok())?,
            seed: number("CRASH_SEED", env::var("CRASH_SEED").ok())?,
            ..Self::default()
        };
        let mut arguments = env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let (flag, mut value) = match argument.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag.to_owned(), Some(value.to_owned())),
                _ => (argument, None),
            };
            let mut value =
                || value.take().or_else(|| arguments.next()).ok_or(format!("{flag} needs a value"));
            match flag.as_str() {
                "--cycles" => options.cycles = number(&flag, Some(value()?))?,
                "--seed" => options.seed = number(&flag, Some(value()?))?,
                "--power-loss" => options.power_loss = true,
                "--list" => options.list = true,
                "--ignored" => options.ignored = true,
                "--exact" => options.exact = true,
                "--skip" => options.skipped.push(value()?),
                "--format" | "--color" | "--test-threads" | "--logfile" | "--shuffle-seed" | "-Z" => {
                    value()?;
                }
                "--nocapture" | "--no-capture" | "--show-output" | "--quiet" | "-q" | "--include-ignored"
                | "--test" | "--bench" | "--shuffle" => {}
                flag if flag.starts_with('-') => return Err(format!("{flag} is none of the flags here")),
                _ => options.filters.push(flag),
            }
        }
        Ok(options)
    }

    /// Whether the test of that name is to be run.
    pub(crate) fn selects(&self, name: &str) -> bool {
        let matches =
            |filter: &String| if self.exact { name == filter } else { name.contains(filter.as_str()) };
        (self.filters.is_empty() || self.filters.iter().any(matches)) && !self.skipped.iter().any(matches)
    }
}

fn number<T: FromStr>(name: &str, value: Option<String>) -> Result<Option<T>, String> {
    let parse = |value: String| value.parse().map_err(|_| format!("{name}: {value} is not a number"));
    value.map(parse).transpose()
}
