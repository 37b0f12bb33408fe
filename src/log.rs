//! The log: where lines go, in which form, and which there are.
//!
//! A line is one event, whatever clients put into it: control characters are escaped.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::mpsc::{Receiver, Sender};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    Layer, Registry, filter::Targets, fmt::MakeWriter, layer::SubscriberExt as _, registry::LookupSpan,
    reload, util::SubscriberInitExt as _,
};

use crate::{broker::log_exchange::LogLine, config};

/// What `[log.levels]` knows, for the error about what it does not.
pub(crate) const PARTS: &str = "connection, the modules amqp, broker, client, management, server, session, shovel and storage, and what is in \
     them, such as server::tls";

/// The modules at the top, which have levels of their own.
const MODULES: [&str; 8] =
    ["amqp", "broker", "client", "management", "server", "session", "shovel", "storage"];
/// Libraries that log something of interest.
const LIBRARIES: [&str; 3] = ["hyper", "rustls", "tokio_rustls"];
/// The modules that tell of clients and their connections.
const CONNECTION: [&str; 5] =
    ["server::connection", "server::listener", "server::arrival", "server::tls", "session"];

/// The log of this process, once it has started: the way to change it.
#[derive(Clone, Debug)]
pub struct Log {
    targets: reload::Handle<Targets, Registry>,
    output: Arc<Output>,
    /// The lines that are to be published, until somebody takes them on.
    published: Arc<Mutex<Option<Receiver<LogLine>>>>,
}

/// A file for the log that can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the log file {}: {source}; log.file names another", path.display())]
pub struct OpenError {
    path: PathBuf,
    source: io::Error,
}

impl Log {
    /// Starts the log of this process. To be called once.
    ///
    /// # Errors
    /// If its file can't be opened.
    pub fn start(config: &config::Log) -> Result<Self, OpenError> {
        let output = Arc::new(Output::open(config.file.as_deref())?);
        let (filter, targets) = reload::Layer::new(targets(config));
        let lines = tracing_subscriber::fmt::layer().with_writer(Arc::clone(&output));
        let lines = match config.format {
            config::LogFormat::Text => lines.with_ansi(output.is_terminal).boxed(),
            config::LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
        };
        let (published, published_lines) = published(config).unzip();
        tracing_subscriber::registry().with(filter).with(lines).with(published).init();
        Ok(Self { targets, output, published: Arc::new(Mutex::new(published_lines)) })
    }

    /// The lines that are to be published to the log exchange, if any are: for the first who asks.
    pub(crate) fn take_published(&self) -> Option<Receiver<LogLine>> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Takes over the levels, and opens the file again: the one that it had may have been moved away.
    ///
    /// # Errors
    /// If the file can't be opened. Then lines go where they went before.
    pub fn reload(&self, config: &config::Log) -> Result<(), OpenError> {
        // An error would say that the log is gone, and there is no place to tell.
        let _ = self.targets.reload(targets(config));
        self.output.reopen(config.file.as_deref())
    }
}

/// Lines that may wait to be published. While the broker is behind, further ones are in the log only.
const PUBLISHED_MAX: usize = 1024;

/// A second form of each line, for the log exchange, if that is wanted.
fn published<S>(config: &config::Log) -> Option<(Box<dyn Layer<S> + Send + Sync>, Receiver<LogLine>)>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let (sender, receiver) = config.exchange.then(|| tokio::sync::mpsc::channel(PUBLISHED_MAX))?;
    let (lines, content_type) = (tracing_subscriber::fmt::layer(), config.format.content_type());
    let writer = Published { sender, content_type };
    let layer = match config.format {
        config::LogFormat::Text => lines.with_writer(writer).with_ansi(false).boxed(),
        config::LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_writer(writer).boxed()
        }
    };
    Some((layer, receiver))
}

/// Where lines for the log exchange go.
#[derive(Clone, Debug)]
struct Published {
    sender: Sender<LogLine>,
    content_type: &'static str,
}

/// A line for the log exchange of known severity.
struct PublishedLine {
    to: Published,
    severity: &'static str,
}

impl<'a> MakeWriter<'a> for Published {
    type Writer = PublishedLine;

    fn make_writer(&'a self) -> PublishedLine {
        PublishedLine { to: self.clone(), severity: "info" }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> PublishedLine {
        let severity = match *metadata.level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG | Level::TRACE => "debug",
        };
        PublishedLine { to: self.clone(), severity }
    }
}

impl Write for PublishedLine {
    /// Takes a whole event. Whoever logs holds whatever locks, so it is published by somebody else.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let (mut text, content_type) = (line(event, false), self.to.content_type);
        text.pop();
        // What there is no room for is in the log all the same.
        let _ = self.to.sender.try_send(LogLine { severity: self.severity, text, content_type });
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is logged at which level.
fn targets(config: &config::Log) -> Targets {
    let parts = config.levels.iter();
    let levels = parts.flat_map(|(part, level)| {
        targets_of(part).into_iter().map(|target| (target, level.filter())).collect::<Vec<_>>()
    });
    Targets::new().with_default(config.level.filter()).with_targets(levels)
}

/// What a part of the broker is called in log lines; nothing if there is no such part.
pub(crate) fn targets_of(part: &str) -> Vec<String> {
    let crate_name = env!("CARGO_CRATE_NAME");
    let first = part.split("::").next().unwrap_or_default();
    if part == "connection" {
        return CONNECTION.iter().map(|module| format!("{crate_name}::{module}")).collect();
    }
    if MODULES.contains(&first) {
        return vec![format!("{crate_name}::{part}")];
    }
    if first == crate_name || LIBRARIES.contains(&first) { vec![part.to_owned()] } else { Vec::new() }
}

/// Where lines go.
#[derive(Debug)]
struct Output {
    /// Standard error if there is none.
    file: Mutex<Option<File>>,
    /// Whether somebody looks, and so colours are of use.
    is_terminal: bool,
}

impl Output {
    fn open(path: Option<&Path>) -> Result<Self, OpenError> {
        let file = path.map(open).transpose()?;
        let is_terminal = file.is_none() && io::stderr().is_terminal();
        Ok(Self { file: Mutex::new(file), is_terminal })
    }

    fn reopen(&self, path: Option<&Path>) -> Result<(), OpenError> {
        let file = path.map(open).transpose()?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }
}

fn open(path: &Path) -> Result<File, OpenError> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.map_err(|source| OpenError { path: path.to_owned(), source })
}

impl Write for &Output {
    /// Takes a whole event, which is how they come.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = line(event, self.is_terminal);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *file {
            Some(file) => file.write_all(&line)?,
            None => io::stderr().lock().write_all(&line)?,
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An event as one line. Colours stay: the escapes in what clients say are gone before it comes here.
fn line(event: &[u8], has_colours: bool) -> Vec<u8> {
    let text = event.strip_suffix(b"\n").unwrap_or(event);
    let mut line = Vec::with_capacity(event.len());
    for &octet in text {
        match octet {
            0x1B if has_colours => line.push(octet),
            0..0x20 | 0x7F => line.extend(octet.escape_ascii()),
            _ => line.push(octet),
        }
    }
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use tracing::level_filters::LevelFilter;

    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        assert_eq!(
            line(b"user 'a\nINFO forged\r\x00' refused\n", false),
            b"user 'a\\nINFO forged\\r\\x00' refused\n"
        );
        assert_eq!(line(b"\x1b[32mINFO\x1b[0m \xC3\xA4\n", true), b"\x1b[32mINFO\x1b[0m \xC3\xA4\n");
        assert_eq!(line(b"\x1b[2J\n", false), b"\\x1b[2J\n");
    }

    #[test]
    fn parts_have_levels_of_their_own() {
        let config: config::Config = toml::from_str(
            "[log]\nlevel = 'warn'\nlevels = { connection = 'debug', 'server::tls' = 'off', storage = 'error' }",
        )
        .expect("a configuration");
        let targets = targets(&config.log);
        let enabled = |target: &str, level: Level| targets.would_enable(target, &level);
        assert!(enabled("leveret::session::handshake", Level::DEBUG));
        assert!(enabled("leveret::server::connection", Level::DEBUG));
        assert!(!enabled("leveret::server::tls", Level::ERROR));
        assert!(!enabled("leveret::storage::log", Level::WARN));
        assert!(enabled("leveret::broker", Level::WARN) && !enabled("hyper", Level::INFO));
        assert_eq!(targets.default_level(), Some(LevelFilter::WARN));
    }

    #[test]
    fn only_what_there_is_has_a_level() {
        for part in ["connection", "storage", "server::tls", "leveret::broker::queue", "rustls"] {
            assert!(!targets_of(part).is_empty(), "{part}");
        }
        for part in ["", "conection", "serverx", "mqtt::x"] {
            assert!(targets_of(part).is_empty(), "{part}");
        }
    }
}
