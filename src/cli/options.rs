//! Which broker a command asks, as whom, and in what form it answers.

use std::{
    fs,
    io::{self, IsTerminal, Read, Write},
    time::Duration,
};

use clap::ValueEnum;

use super::{api::Api, failure::Failure};
use crate::config::{Environment, Secret};

// The options that every command to a broker takes. Their fields' names are known to clap, so that no command may have
// an argument of the same name. A docstring would be taken for the command's.
#[derive(Clone, Debug, Default, clap::Args)]
#[expect(missing_docs, reason = "see above")]
#[command(next_help_heading = "Broker and output")]
pub struct Options {
    /// Address of the management API, http or https [env: LEVERET_URL] [default: http://127.0.0.1:15672]
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// User to log in as [env: LEVERET_USER, RABBITMQ_DEFAULT_USER] [default: guest]
    #[arg(short, long, global = true, value_name = "NAME")]
    user: Option<String>,
    /// Password. Others on this machine can see what is given here: better use the environment or a file [env:
    /// LEVERET_PASSWORD, RABBITMQ_DEFAULT_PASS] [default: guest]
    #[arg(long, global = true, value_name = "TEXT", conflicts_with = "password_file")]
    password: Option<String>,
    /// File whose first line is the password; - reads it from standard input [env: LEVERET_PASSWORD_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    password_file: Option<String>,
    /// Virtual host; lists show all if it is not given [env: LEVERET_VHOST] [default: /]
    #[arg(short = 'p', long, global = true, value_name = "NAME")]
    vhost: Option<String>,
    /// Form of what is printed: a table for people, JSON as the broker answers, or values separated by tabs
    #[arg(short, long, global = true, value_enum, default_value_t)]
    format: Format,
    /// Print what was asked for and nothing else: no headings, no word of success
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Seconds to wait for an answer; 0 waits for ever
    #[arg(long, global = true, value_name = "N", default_value_t = 60)]
    timeout: u64,
    /// File with the certificates to trust for https, instead of the system's [env: LEVERET_CACERT]
    #[arg(long, global = true, value_name = "FILE")]
    cacert: Option<String>,
    /// File with a client certificate to show
    #[arg(long, global = true, value_name = "FILE")]
    client_cert: Option<String>,
    /// File with the key of the client certificate, if it is not in the same file
    #[arg(long, global = true, value_name = "FILE", requires = "client_cert")]
    client_key: Option<String>,
    /// Trust whatever answers: for trying things out
    #[arg(long, global = true)]
    insecure: bool,
}

/// The form of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// What the broker answers.
    Json,
    /// Values separated by tabs, for scripts.
    Tsv,
}

/// Who asks which broker.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) url: String,
    pub(super) user: String,
    pub(super) password: Secret,
    /// `None` waits for ever.
    pub(super) timeout: Option<Duration>,
    pub(super) ca_certificate: Option<String>,
    pub(super) certificate: Option<String>,
    pub(super) key: Option<String>,
    pub(super) insecure: bool,
}

/// What a command works with: a broker, and somewhere to print to.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) api: Api,
    pub(super) format: Format,
    pub(super) quiet: bool,
    vhost: Option<String>,
}

impl Options {
    /// Takes what is not given from the environment, and else the default.
    ///
    /// # Errors
    /// A file that can't be read.
    pub(super) fn context(&self, environment: &Environment) -> Result<Context, Failure> {
        let vhost = self.vhost.clone().or_else(|| environment.get("LEVERET_VHOST").map(str::to_owned));
        let api = Api::new(&self.login(environment)?)?;
        Ok(Context { api, format: self.format, quiet: self.quiet, vhost })
    }

    fn login(&self, environment: &Environment) -> Result<Login, Failure> {
        let variable = |name: &str| environment.get(name).map(str::to_owned);
        let user = self.user.clone().or_else(|| variable("LEVERET_USER"));
        let ca_certificate = self.cacert.clone().or_else(|| variable("LEVERET_CACERT"));
        Ok(Login {
            url: self
                .url
                .clone()
                .or_else(|| variable("LEVERET_URL"))
                .unwrap_or_else(|| default_url(environment)),
            user: match user {
                Some(user) => user,
                None => default_of(environment, "RABBITMQ_DEFAULT_USER")?,
            },
            password: self.password(environment)?,
            timeout: (self.timeout > 0).then(|| Duration::from_secs(self.timeout)),
            ca_certificate,
            certificate: self.client_cert.clone(),
            key: self.client_key.clone(),
            insecure: self.insecure,
        })
    }

    fn password(&self, environment: &Environment) -> Result<Secret, Failure> {
        if let Some(password) = &self.password {
            return Ok(Secret::from(password.clone()));
        }
        if let Some(path) = &self.password_file {
            return first_line(path);
        }
        if let Some(password) = environment.get("LEVERET_PASSWORD") {
            return Ok(Secret::from(password.to_owned()));
        }
        if let Some(path) = environment.get("LEVERET_PASSWORD_FILE") {
            return first_line(path);
        }
        default_of(environment, "RABBITMQ_DEFAULT_PASS").map(Secret::from)
    }
}

impl Login {
    /// Who `rabbitmqctl` logs in as: it has no options for that, so all of it comes from the environment.
    ///
    /// # Errors
    /// A file that can't be read.
    pub(super) fn of_environment(
        environment: &Environment,
        timeout: Option<Duration>,
    ) -> Result<Self, Failure> {
        let login = Options::default().login(environment)?;
        Ok(Self { timeout, ..login })
    }
}

impl Context {
    /// The virtual host that a command acts in.
    pub(super) fn vhost(&self) -> &str {
        self.vhost.as_deref().unwrap_or("/")
    }

    /// The virtual host that was named, if one was.
    pub(super) fn chosen_vhost(&self) -> Option<&str> {
        self.vhost.as_deref()
    }

    /// Tells people what was done.
    pub(super) fn say(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        if self.quiet || self.format != Format::Table {
            return Ok(());
        }
        writeln!(io::stdout(), "{}", text.as_ref()).map_err(Failure::from)
    }

    /// A line about work that takes long, on standard error if that is a terminal.
    pub(super) fn progress(&self) -> Progress {
        Progress { visible: !self.quiet && io::stderr().is_terminal(), length: 0 }
    }
}

/// A line that is written again and again, and gone in the end.
#[derive(Debug)]
pub(super) struct Progress {
    visible: bool,
    length: usize,
}

impl Progress {
    /// Shows how far it is.
    pub(super) fn show(&mut self, text: &str) {
        if self.visible {
            // Who can't see it has lost nothing.
            _ = write!(io::stderr(), "\r{text:<width$}", width = self.length);
            self.length = text.chars().count();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.show("");
        if self.visible {
            _ = write!(io::stderr(), "\r");
        }
    }
}

/// Lets some time go by before something is looked at again.
#[expect(
    clippy::disallowed_methods,
    reason = "another program's state has nothing to wait for but its next answer"
)]
pub(super) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// All of a file, or of standard input if it is `-`.
///
/// # Errors
/// If it can't be read.
pub(super) fn read_input(path: &str) -> Result<Vec<u8>, Failure> {
    let mut octets = Vec::new();
    if path == "-" {
        let read = io::stdin().lock().read_to_end(&mut octets);
        read.map_err(|error| Failure::Io(format!("standard input: {error}")))?;
        return Ok(octets);
    }
    fs::read(path).map_err(|error| Failure::of_file(path, &error))
}

/// The first line of a file, or of standard input if it is `-`: a password.
///
/// # Errors
/// If it can't be read, or is not text.
pub(super) fn first_line(path: &str) -> Result<Secret, Failure> {
    let text = String::from_utf8(read_input(path)?);
    let text = text.map_err(|_| Failure::Io(format!("{path}: the password is not UTF-8")))?;
    Ok(Secret::from(text.lines().next().unwrap_or_default().to_owned()))
}

/// The broker of this machine, on the port that the environment gives a broker, as it does in a container.
fn default_url(environment: &Environment) -> String {
    let port = environment.get("LEVERET_MANAGEMENT_PORT").and_then(|port| port.parse::<u16>().ok());
    format!("http://127.0.0.1:{}", port.filter(|port| *port > 0).unwrap_or(15672))
}

/// What the environment gives the first user of a broker, as it does in a container, or a file that it names.
fn default_of(environment: &Environment, variable: &str) -> Result<String, Failure> {
    if let Some(value) = environment.get(variable) {
        return Ok(value.to_owned());
    }
    match environment.get(&format!("{variable}_FILE")) {
        Some(path) => first_line(path).map(|secret| secret.expose().to_owned()),
        None => Ok("guest".to_owned()),
    }
}
