//! Where a shovel connects to: an AMQP URI with RabbitMQ's query options.

use std::{fmt, path::PathBuf, time::Duration};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The longest URI, in octets.
const URI_BYTES_MAX: usize = 4096;
/// What of the name of a virtual host is escaped when a URI is shown.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An AMQP URI. Printed, it shows neither the user nor the password, nor options (RabbitMQ).
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Uri {
    /// Whether it is `amqps`.
    pub(crate) is_tls: bool,
    /// `None` for this broker itself.
    pub(crate) host: Option<String>,
    /// If it is not the protocol's.
    pub(crate) port: Option<u16>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) virtual_host: String,
    /// Whether a virtual host is named at all.
    names_virtual_host: bool,
    pub(crate) options: UriOptions,
}

/// What comes after `?`. What this client does not know has no effect, as in RabbitMQ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UriOptions {
    /// In seconds.
    pub(crate) heartbeat_secs: Option<u16>,
    pub(crate) connection_timeout: Option<Duration>,
    pub(crate) channel_max: Option<u16>,
    /// Whether the mechanism is EXTERNAL.
    pub(crate) external: bool,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) certificate_file: Option<PathBuf>,
    pub(crate) key_file: Option<PathBuf>,
    /// Whether any certificate of the server will do.
    ///
    /// Deviation: RabbitMQ 3 verifies only with `verify=verify_peer`.
    pub(crate) verify_none: bool,
    pub(crate) server_name: Option<String>,
}

impl Uri {
    /// Reads a URI.
    ///
    /// # Errors
    /// What is wrong with it, as Erlang would print that.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let unable = |reason: &str| format!("{{unable_to_parse_uri,{reason}}}");
        if text.len() > URI_BYTES_MAX {
            return Err(unable("too_long"));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| unable("no_scheme"))?;
        let is_tls = match scheme {
            "amqp" => false,
            "amqps" => true,
            _ => return Err(format!("{{unexpected_uri_scheme,\"{scheme}\"}}")),
        };
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, Some(path)),
            None => (rest, None),
        };
        let (login, place) = match authority.rsplit_once('@') {
            Some((login, place)) => (Some(login), place),
            None => (None, authority),
        };
        let decoded = |part: &str| {
            percent_decode_str(part).decode_utf8().map(String::from).map_err(|_| unable("not_utf8"))
        };
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, "")) => (Some(decoded(user)?), None),
            Some((user, password)) => (Some(decoded(user)?), Some(decoded(password)?)),
            None => (None, None),
        };
        let (host, port) = place_of(place).ok_or_else(|| unable("invalid_host_or_port"))?;
        if path.is_some_and(|path| path.contains('/')) {
            return Err(unable("invalid_vhost"));
        }
        let virtual_host = path.map_or_else(|| Ok("/".to_owned()), decoded)?;
        Ok(Self {
            is_tls,
            host: (!host.is_empty()).then_some(host),
            port,
            user: user.filter(|user| !user.is_empty()),
            password,
            virtual_host,
            names_virtual_host: path.is_some(),
            options: UriOptions::parse(query).map_err(|name| format!("{{invalid_option,\"{name}\"}}"))?,
        })
    }

    /// The port to connect to.
    pub(crate) fn port(&self) -> u16 {
        self.port.unwrap_or(if self.is_tls { 5671 } else { 5672 })
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_tls { "amqps://" } else { "amqp://" })?;
        match self.host.as_deref() {
            Some(host) if host.contains(':') => write!(f, "[{host}]")?,
            Some(host) => f.write_str(host)?,
            None => {}
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        if self.names_virtual_host {
            let name = utf8_percent_encode(&self.virtual_host, ESCAPED);
            write!(f, "/{name}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Host and port.
fn place_of(place: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, rest.strip_prefix(':').or(rest.is_empty().then_some("")))
        }
        None => place.split_once(':').map_or((place, Some("")), |(host, port)| (host, Some(port))),
    };
    let port = match port? {
        "" => None,
        port => Some(port.parse().ok()?),
    };
    Some((host.to_owned(), port))
}

impl UriOptions {
    /// # Errors
    /// The name of an option whose value makes no sense.
    fn parse(query: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for (name, value) in query.split('&').filter_map(|option| option.split_once('=')) {
            let value = percent_decode_str(value).decode_utf8().map_err(|_| name.to_owned())?.into_owned();
            let number = || value.parse::<u32>().map_err(|_| name.to_owned());
            let small = || number().and_then(|number| u16::try_from(number).map_err(|_| name.to_owned()));
            match name {
                "heartbeat" => options.heartbeat_secs = Some(small()?),
                "connection_timeout" => {
                    options.connection_timeout = Some(Duration::from_millis(number()?.into()));
                }
                "channel_max" => options.channel_max = Some(small()?),
                "auth_mechanism" => options.external |= value.eq_ignore_ascii_case("external"),
                "cacertfile" => options.ca_file = Some(value.into()),
                "certfile" => options.certificate_file = Some(value.into()),
                "keyfile" => options.key_file = Some(value.into()),
                "verify" => options.verify_none = value == "verify_none",
                "server_name_indication" => options.server_name = Some(value),
                _ => {}
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_read_and_shown_without_its_secrets() {
        let uri = Uri::parse("amqps://ann:s%2Fcret@[::1]:5/a%20b?heartbeat=7&verify=verify_none").unwrap();
        assert_eq!((uri.is_tls, uri.host.as_deref(), uri.port()), (true, Some("::1"), 5));
        assert_eq!((uri.user.as_deref(), uri.password.as_deref()), (Some("ann"), Some("s/cret")));
        assert_eq!((uri.virtual_host.as_str(), uri.options.heartbeat_secs), ("a b", Some(7)));
        assert!(uri.options.verify_none);
        assert_eq!(uri.to_string(), "amqps://[::1]:5/a%20b");
        assert_eq!(format!("{uri:?}"), "amqps://[::1]:5/a%20b");
    }

    #[test]
    fn what_is_left_out_has_the_usual_value() {
        for (text, host, port, virtual_host) in [
            ("amqp://", None, 5672, "/"),
            ("amqp:///v", None, 5672, "v"),
            ("amqp:///", None, 5672, ""),
            ("amqp://h", Some("h"), 5672, "/"),
            ("amqps://h/%2f", Some("h"), 5671, "/"),
        ] {
            let uri = Uri::parse(text).unwrap();
            let found = (uri.host.as_deref(), uri.port(), uri.virtual_host.as_str());
            assert_eq!(found, (host, port, virtual_host), "{text}");
        }
        assert_eq!(Uri::parse("amqp:///shovel-v").unwrap().to_string(), "amqp:///shovel-v");
        assert_eq!(Uri::parse("amqp://u:p@/%2f").unwrap().to_string(), "amqp:///%2F");
        assert_eq!(Uri::parse("amqp://").unwrap().to_string(), "amqp://");
    }

    /// The first two texts are RabbitMQ's.
    #[test]
    fn what_is_no_uri_is_refused() {
        for (text, reason) in [
            ("http://x", "{unexpected_uri_scheme,\"http\"}"),
            ("bad", "{unable_to_parse_uri,no_scheme}"),
            ("amqp://h:x", "{unable_to_parse_uri,invalid_host_or_port}"),
            ("amqp://h:65536", "{unable_to_parse_uri,invalid_host_or_port}"),
            ("amqp://[::1", "{unable_to_parse_uri,invalid_host_or_port}"),
            ("amqp://h/a/b", "{unable_to_parse_uri,invalid_vhost}"),
            ("amqp://h/%ff", "{unable_to_parse_uri,not_utf8}"),
            ("amqp://h?heartbeat=x", "{invalid_option,\"heartbeat\"}"),
        ] {
            assert_eq!(Uri::parse(text), Err(reason.to_owned()), "{text}");
        }
        assert!(Uri::parse(&format!("amqp://{}", "h".repeat(5000))).is_err());
    }
}
