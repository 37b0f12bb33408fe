//! The values of keys that TOML has no type for.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, Error};
use toml::Value;

/// The port of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// No listener: -1 or `off`.
    Off,
    /// That port, or, if 0, one that the system picks.
    Number(u16),
}

/// Something that must not be shown: its `Debug` hides it and its parse errors don't quote it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// How much memory may be in use before publishers are blocked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Watermark {
    /// A part of the memory that the process may use, above 0 and at most 1: a number with a decimal point.
    Fraction(f64),
    /// That many bytes: a whole number.
    Bytes(u64),
}

/// How much disk space must be free, lest publishers are blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFreeLimit {
    /// 1 GiB, or room for eight segments if that is more; but at most a tenth of the file system, so that a small one is
    /// not too small from the start. In the file, `"auto"`.
    Auto,
    /// That many bytes; 0 if nothing is to be blocked.
    Bytes(u64),
}

/// When what was written is synced: passed on to the disk and kept there whatever happens to the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Before it is confirmed: what was confirmed survives a power loss.
    Always,
    /// At most so many milliseconds after it was written, 1 to 60000. What was confirmed survives a crash of the broker;
    /// a power loss, or a crash of the system, may take what was confirmed in that time before it. In the file,
    /// `"interval:<ms>"`.
    IntervalMs(u64),
    /// Only when the broker stops in good order. What was confirmed survives a crash of the broker; a power loss, or a
    /// crash of the system, may take whatever the system had not written by itself.
    Never,
}

/// Who may do what with a file, as `chmod` takes it: in the file, octal digits in quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

/// The severity of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing is logged.
    #[serde(alias = "none")]
    Off,
    /// The broker can't do what it should.
    Error,
    /// Someone should look.
    #[serde(alias = "warning")]
    Warn,
    /// Connections, starts and stops.
    Info,
    /// Everything.
    Debug,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// JSON objects, one a line.
    Json,
}

impl LogFormat {
    /// The media type of a line.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain",
            Self::Json => "application/json",
        }
    }
}

/// What a client's own `x-death` header means when its message is dead-lettered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum XDeath {
    /// It is continued, as RabbitMQ 3 does: it counts deaths and ends circles. In the file, `"3"`.
    #[serde(rename = "3")]
    Continued,
    /// It says nothing, as in RabbitMQ 4. In the file, `"4"`.
    #[serde(rename = "4")]
    Ignored,
}

/// What counts against `x-delivery-limit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryLimitCounts {
    /// Deliveries that failed: rejected with requeue, or their channel or connection has ended (RabbitMQ 4.3).
    Failures,
    /// Those, and what was put back with `basic.nack` or `basic.recover` (RabbitMQ up to 4.2).
    Returns,
}

/// What happens when a delivery is not acknowledged in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsumerTimeout {
    /// Its channel is closed with 406 (RabbitMQ up to 4.2).
    Close,
    /// Its consumer is cancelled if the client can be told so, else the channel is closed (RabbitMQ 4.3).
    Cancel,
}

impl Port {
    /// The number to bind, 0 for one that the system picks; `None` if there is to be no listener.
    pub fn number(self) -> Option<u16> {
        match self {
            Self::Off => None,
            Self::Number(number) => Some(number),
        }
    }
}

impl Secret {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self(secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

impl Watermark {
    /// The watermark in bytes, on a machine or in a container with `total` bytes of memory.
    pub fn in_bytes(self, total: u64) -> u64 {
        match self {
            Self::Fraction(fraction) => (total as f64 * fraction) as u64,
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl DiskFreeLimit {
    /// The limit in bytes, on a file system of `total` bytes with segments of `segment` bytes.
    pub fn in_bytes(self, total: u64, segment: u64) -> u64 {
        match self {
            Self::Auto => (8 * segment).max(1 << 30).min(total / 10),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl Level {
    /// The level as [`tracing`] names it.
    pub fn filter(self) -> tracing::level_filters::LevelFilter {
        use tracing::level_filters::LevelFilter;
        match self {
            Self::Off => LevelFilter::OFF,
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let port = match &value {
            Value::Integer(-1) => Some(Self::Off),
            Value::String(text) if text == "off" => Some(Self::Off),
            Value::Integer(number) => u16::try_from(*number).ok().map(Self::Number),
            _ => None,
        };
        port.ok_or_else(|| unexpected(&value, "a port: 0 to 65535, or -1 or \"off\" for none"))
    }
}

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let octal = value.as_str().filter(|text| text.bytes().all(|digit| digit.is_ascii_digit()));
        let mode = octal.and_then(|text| u32::from_str_radix(text, 8).ok()).filter(|mode| *mode <= 0o777);
        mode.map(Self).ok_or_else(|| unexpected(&value, "a file mode such as \"0660\", in quotes"))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text)),
            // Not quoted: a password of digits that lacks its quotes is a password still.
            _ => Err(Error::custom("expected a string in quotes")),
        }
    }
}

impl<'de> Deserialize<'de> for Watermark {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        match value {
            Value::Float(fraction) if fraction > 0.0 && fraction <= 1.0 => Ok(Self::Fraction(fraction)),
            Value::Integer(bytes @ 1..) => Ok(Self::Bytes(bytes.unsigned_abs())),
            _ => {
                Err(unexpected(&value, "a part of the memory such as 0.6, at most 1.0, or a number of bytes"))
            }
        }
    }
}

impl<'de> Deserialize<'de> for DiskFreeLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        match &value {
            Value::Integer(bytes @ 0..) => Ok(Self::Bytes(bytes.unsigned_abs())),
            Value::String(text) if text == "auto" => Ok(Self::Auto),
            _ => Err(unexpected(&value, "a number of bytes, 0 for no limit, or \"auto\"")),
        }
    }
}

impl<'de> Deserialize<'de> for SyncPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let policy = match value.as_str() {
            Some("always") => Some(Self::Always),
            Some("never") => Some(Self::Never),
            Some(text) => {
                let ms = text.strip_prefix("interval:").and_then(|ms| ms.parse().ok());
                ms.filter(|ms| (1..=60_000).contains(ms)).map(Self::IntervalMs)
            }
            None => None,
        };
        policy.ok_or_else(|| {
            unexpected(&value, "\"always\", \"never\" or \"interval:<ms>\" with 1 to 60000 milliseconds")
        })
    }
}

/// A path, written as `""` when there is none.
pub(super) fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    match value.as_str() {
        Some("") => Ok(None),
        Some(path) => Ok(Some(path.into())),
        None => Err(unexpected(&value, "the path of a file, in quotes")),
    }
}

/// An address, or a list of 1 to 64.
pub(super) fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let addresses: Option<Vec<IpAddr>> = match &value {
        Value::Array(list) if (1..=64).contains(&list.len()) => list.iter().map(address).collect(),
        one => address(one).map(|address| vec![address]),
    };
    addresses.ok_or_else(|| {
        unexpected(&value, "an IP address such as \"::\" or \"127.0.0.1\", or a list of 1 to 64")
    })
}

/// A limit, written as 0 when there is none.
pub(super) fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    match value.as_integer().and_then(|number| u32::try_from(number).ok()) {
        Some(0) => Ok(None),
        Some(limit) => Ok(Some(limit)),
        None => Err(unexpected(&value, "a whole number up to 4294967295, 0 for no limit")),
    }
}

fn address(value: &Value) -> Option<IpAddr> {
    IpAddr::from_str(value.as_str()?).ok()
}

fn unexpected<E: Error>(value: &Value, expected: &str) -> E {
    E::custom(format_args!("{value} is not {expected}"))
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn config(text: &str) -> Result<Config, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    fn port(value: &str) -> Result<Port, String> {
        Ok(config(&format!("[listeners]\namqp_port = {value}"))?.listeners.amqp_port)
    }

    #[test]
    fn a_port_is_a_number_or_off() {
        assert_eq!(port("0"), Ok(Port::Number(0)));
        assert_eq!(port("65535"), Ok(Port::Number(65535)));
        assert_eq!(port("-1"), Ok(Port::Off));
        assert_eq!(port("'off'"), Ok(Port::Off));
        for wrong in ["65536", "-2", "'on'", "1.5", "true"] {
            assert!(port(wrong).unwrap_err().contains("is not a port"), "{wrong}");
        }
    }

    #[test]
    fn bind_is_an_address_or_a_list_of_them() {
        let bind =
            |value: &str| config(&format!("[listeners]\nbind = {value}")).map(|config| config.listeners.bind);
        assert_eq!(bind("'::1'").unwrap(), ["::1".parse::<IpAddr>().unwrap()]);
        assert_eq!(bind("['127.0.0.1', '::1']").unwrap().len(), 2);
        for wrong in ["[]", "'localhost:1'", "7", "['::1', 1]"] {
            assert!(bind(wrong).unwrap_err().contains("is not an IP address"), "{wrong}");
        }
    }

    #[test]
    fn a_file_mode_is_octal() {
        let mode = |value: &str| {
            let config = config(&format!("[listeners]\nunix_socket_mode = {value}"))?;
            Ok::<_, String>(config.listeners.unix_socket_mode)
        };
        assert_eq!(mode("'0660'"), Ok(FileMode(0o660)));
        assert_eq!(mode("'777'"), Ok(FileMode(0o777)));
        for wrong in ["660", "'0668'", "'1777'", "'+7'", "'rw'", "''"] {
            assert!(mode(wrong).unwrap_err().contains("is not a file mode"), "{wrong}");
        }
    }

    #[test]
    fn an_empty_path_is_none() {
        let file = |value: &str| config(&format!("[log]\nfile = {value}")).map(|config| config.log.file);
        assert_eq!(file("''"), Ok(None));
        assert_eq!(file("'a/b'"), Ok(Some("a/b".into())));
        assert!(file("7").unwrap_err().contains("is not the path of a file"));
    }

    #[test]
    fn a_limit_of_zero_is_none() {
        let limit =
            |value: &str| config(&format!("[limits]\nqueues_max = {value}")).map(|c| c.limits.queues_max);
        assert_eq!(limit("0"), Ok(None));
        assert_eq!(limit("7"), Ok(Some(7)));
        for wrong in ["-1", "4294967296", "'many'"] {
            assert!(limit(wrong).unwrap_err().contains("is not a whole number"), "{wrong}");
        }
    }

    #[test]
    fn a_watermark_is_a_part_of_the_memory_or_bytes() {
        let watermark = |value: &str| {
            let config = config(&format!("[limits]\nmemory_high_watermark = {value}"))?;
            Ok::<_, String>(config.limits.memory_high_watermark.in_bytes(1000))
        };
        assert_eq!(watermark("0.6"), Ok(600));
        assert_eq!(watermark("1.0"), Ok(1000));
        assert_eq!(watermark("1"), Ok(1));
        for wrong in ["0.0", "1.1", "-0.5", "nan", "0", "-1", "'60%'"] {
            assert!(watermark(wrong).unwrap_err().contains("is not a part of the memory"), "{wrong}");
        }
    }

    #[test]
    fn a_disk_limit_is_bytes_or_follows_from_the_disk() {
        let limit = |value: &str| {
            let config = config(&format!("[limits]\ndisk_free_limit = {value}"))?;
            Ok::<_, String>(config.limits.disk_free_limit)
        };
        assert_eq!(limit("0"), Ok(DiskFreeLimit::Bytes(0)));
        assert_eq!(limit("50000000"), Ok(DiskFreeLimit::Bytes(50_000_000)));
        assert_eq!(limit("'auto'"), Ok(DiskFreeLimit::Auto));
        for wrong in ["-1", "0.5", "'1 GB'", "true"] {
            assert!(limit(wrong).unwrap_err().contains("is not a number of bytes"), "{wrong}");
        }
        let auto = |total, segment| DiskFreeLimit::Auto.in_bytes(total, segment);
        assert_eq!(auto(100 << 30, 64 << 20), 1 << 30);
        assert_eq!(auto(5 << 30, 64 << 20), 512 << 20, "a small disk");
        assert_eq!(auto(100 << 30, 1 << 30), 8 << 30, "large segments");
        assert_eq!(DiskFreeLimit::Bytes(1 << 40).in_bytes(1 << 30, 1), 1 << 40, "what was asked for");
    }

    #[test]
    fn a_sync_policy_is_a_word_or_an_interval() {
        let sync =
            |value: &str| config(&format!("[storage]\nsync = {value}")).map(|config| config.storage.sync);
        assert_eq!(sync("'always'"), Ok(SyncPolicy::Always));
        assert_eq!(sync("'never'"), Ok(SyncPolicy::Never));
        assert_eq!(sync("'interval:1'"), Ok(SyncPolicy::IntervalMs(1)));
        assert_eq!(sync("'interval:60000'"), Ok(SyncPolicy::IntervalMs(60_000)));
        for wrong in ["'interval'", "'interval:0'", "'interval:60001'", "'interval:1s'", "100", "'Always'"] {
            assert!(sync(wrong).unwrap_err().contains("is not \"always\", \"never\" or"), "{wrong}");
        }
    }

    #[test]
    fn a_password_without_quotes_is_not_quoted_in_the_error() {
        let error = config("[[users]]\nname = 'ann'\npassword = 271828").unwrap_err();
        assert_eq!(error, "expected a string in quotes");
    }
}
