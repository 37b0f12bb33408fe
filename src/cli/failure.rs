//! Why a command did not do what it was asked for, and the exit code that says so.

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
};

/// Why a command failed. The text says what, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// A check has found something, or not everything was done.
    Failed(String),
    /// The command was given wrong arguments.
    Usage(String),
    /// The broker refuses it, and says why.
    Refused(String),
    /// There is no such thing, or no such file.
    Missing(String),
    /// Nobody answers, or the broker can't do it now.
    Unavailable(String),
    /// What answers does not speak the management API as it should.
    Unexpected(String),
    /// A file, or standard input or output.
    Io(String),
    /// The login is wrong, or the user may not do that.
    Denied(String),
    /// Nobody reads standard output any more, as in `leveret list queues | head -1`: all is done that anybody wants.
    Closed,
}

impl Failure {
    /// The exit code: those of `sysexits.h` where one fits.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Refused(_) => 65,
            Self::Missing(_) => 66,
            Self::Unavailable(_) => 69,
            Self::Unexpected(_) => 70,
            Self::Io(_) => 74,
            Self::Denied(_) => 77,
        }
    }

    /// Whether nobody answers at all.
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unavailable(reason) if reason.starts_with("cannot reach "))
    }

    /// Tells it in a line on standard error. Says nothing if nobody reads.
    pub(super) fn report(&self) -> ExitCode {
        if *self != Self::Closed {
            // Whoever closed standard error has the exit code.
            _ = writeln!(io::stderr(), "leveret: {self}");
        }
        ExitCode::from(self.exit_code())
    }

    /// The same, but if there is no such thing, with a name for the thing.
    pub(super) fn missing(self, what: impl Into<String>) -> Self {
        match self {
            Self::Missing(_) => Self::Missing(format!("there is no {}", what.into())),
            other => other,
        }
    }

    /// A file that can't be read or written.
    pub(super) fn of_file(path: &str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing(format!("there is no file {path}")),
            _ => Self::Io(format!("{path}: {error}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Failed(text)
        | Self::Usage(text)
        | Self::Refused(text)
        | Self::Missing(text)
        | Self::Unavailable(text)
        | Self::Unexpected(text)
        | Self::Io(text)
        | Self::Denied(text)) = self
        else {
            return formatter.write_str("nobody reads the output");
        };
        formatter.write_str(text)
    }
}

/// Standard output that somebody has closed, or a full disk.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io(format!("cannot write the output: {error}")),
        }
    }
}
