//! `broker.toml` as types.
//!
//! Every key has its default in one place, the `Default` of its section; `broker.toml` beside the sources shows them
//! all. What is set in several places is taken from the first of: flag, environment, file, default.
//!
//! The environment sets any key of a section as `LEVERET_<SECTION>_<KEY>`, and what a flag sets as `LEVERET_<FLAG>`
//! too. RabbitMQ's `RABBITMQ_DEFAULT_USER`, `_PASS` and `_VHOST`, and each with `_FILE`, describe the first user.

mod check;
mod layers;
mod place;
mod policies;
mod tls;
mod users;
mod value;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::broker::Interceptors;

pub use layers::{Environment, Flags, unknown_variables};
pub use policies::Policy;
pub use tls::{CertLogin, NamedCertificate, SanType, Tls, TlsVersion, Verify};
pub use users::{Permission, TopicPermission, User, Vhost};
pub use value::{
    ConsumerTimeout, DeliveryLimitCounts, DiskFreeLimit, FileMode, Level, LogFormat, Port, Secret,
    SyncPolicy, Watermark, XDeath,
};

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "sections")]
pub struct Config {
    /// `[listeners]`: where clients connect.
    pub listeners: Listeners,
    /// `[tls]`: certificates, and what is asked of clients.
    pub tls: Tls,
    /// `[storage]`: where data is kept.
    pub storage: Storage,
    /// `[log]`: what is logged, and how.
    pub log: Log,
    /// `[compatibility]`: what clients are told they talk to, and which version of RabbitMQ is followed where they differ.
    pub compatibility: Compatibility,
    /// `[interceptors]`: what is added to messages as they come in.
    pub interceptors: Interceptors,
    /// `[limits]`: the bounds of everything that a client could otherwise make grow.
    pub limits: Limits,
    /// `[definitions]`: a file of definitions to begin with.
    pub definitions: Definitions,
    /// `[[vhosts]]`: the virtual hosts that exist at the start.
    pub vhosts: Vec<Vhost>,
    /// `[[users]]`: the users that exist at the start, and what they may do.
    pub users: Vec<User>,
    /// `[[policies]]`: what acts on queues and exchanges by their names, from the start on.
    pub policies: Vec<Policy>,
    /// `[[operator_policies]]`: the same, to limit what other policies and arguments say.
    pub operator_policies: Vec<Policy>,
    /// The user that `RABBITMQ_DEFAULT_USER` and its like describe, if they are set.
    #[serde(skip)]
    pub(crate) first_user: Option<String>,
}

/// `[definitions]`: a file of definitions to begin with, as RabbitMQ exports them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Definitions {
    /// The file; none if it is empty.
    #[serde(deserialize_with = "value::path")]
    pub load: Option<PathBuf>,
    /// Whether a file that has not changed since it was loaded is left alone, so that what was changed at run time stays.
    pub skip_if_unchanged: bool,
}

/// `[listeners]`: where clients connect.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Listeners {
    /// The addresses to listen on, 1 to 64. `::` serves IPv4 as well, and falls back to `0.0.0.0` without IPv6.
    #[serde(deserialize_with = "value::addresses")]
    pub bind: Vec<IpAddr>,
    /// AMQP 0-9-1.
    pub amqp_port: Port,
    /// The HTTP API and the web page.
    pub management_port: Port,
    /// Metrics.
    pub prometheus_port: Port,
    /// AMQP 0-9-1 over TLS, if there is a certificate.
    pub amqp_tls_port: Port,
    /// The HTTP API and the web page over TLS, likewise.
    pub management_tls_port: Port,
    /// Metrics over TLS, likewise.
    pub prometheus_tls_port: Port,
    /// Where AMQP is spoken within the machine: a socket's path, at most 100 bytes.
    #[serde(deserialize_with = "value::path")]
    pub unix_socket: Option<PathBuf>,
    /// Who may connect to it: those who may write to a file of that mode.
    pub unix_socket_mode: FileMode,
    /// Whether what connects to the AMQP ports is a proxy, which says whom it speaks for: the PROXY protocol, version 1
    /// or 2.
    pub proxy_protocol: bool,
}

/// `[storage]`: where data is kept.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Storage {
    /// The data directory, made if missing; a relative path starts at the working directory.
    pub data_dir: PathBuf,
    /// The length of a segment, the kind of file that the log consists of, in bytes: 64 KiB to 1 GiB, a multiple of
    /// 4096.
    pub segment_bytes: u64,
    /// When what was written is synced, and so what a confirm promises.
    pub sync: SyncPolicy,
}

/// `[log]`: what is logged, where to, and how.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Log {
    /// The least severe level that is logged.
    pub level: Level,
    /// The same for parts of the broker: `connection`, or a module such as `storage` or `server::tls`.
    pub levels: BTreeMap<String, Level>,
    /// The form of a line.
    pub format: LogFormat,
    /// The file that lines are added to; standard error if there is none.
    #[serde(deserialize_with = "value::path")]
    pub file: Option<PathBuf>,
    /// Whether lines are published, too: to the exchange `amq.rabbitmq.log` of the virtual host `/`, by severity.
    pub exchange: bool,
}

/// `[compatibility]`: what clients are told they talk to, and which version of RabbitMQ is followed where they differ.
/// Clients branch on product and version: kombu, for one, picks its prefetch semantics by them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Compatibility {
    /// `product` of the server properties.
    pub product: String,
    /// `version` of the server properties.
    pub version: String,
    /// `cluster_name` of the server properties. [`Config::load`] replaces `{hostname}` by the name of this machine.
    pub cluster_name: String,
    /// What a client's own `x-death` header means.
    pub x_death: XDeath,
    /// What counts against the delivery limit of a queue.
    pub delivery_limit_counts: DeliveryLimitCounts,
    /// What happens to a consumer that does not acknowledge in time.
    pub consumer_timeout: ConsumerTimeout,
}

/// `[limits]`: the bounds of everything that a client could otherwise make grow. Where `None` is possible it is
/// written as 0 in the file, and means no limit.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section")]
pub struct Limits {
    /// The largest frame offered to clients, in bytes with its 8 bytes of framing: 4096 to 16 MiB.
    pub frame_max: u32,
    /// How many channels of one connection may be open at a time; 0 offers 65535.
    pub channel_max: u16,
    /// The heartbeat interval offered to clients, in seconds; 0 asks for none.
    pub heartbeat_secs: u16,
    /// How long a client may take from its first byte to `connection.open`, in seconds: 1 to 3600.
    pub handshake_timeout_secs: u16,
    /// The largest message body, in bytes: 1 to 512 MiB.
    pub max_message_bytes: u64,
    /// How many connections the node takes.
    #[serde(deserialize_with = "value::limit")]
    pub connections_max: Option<u32>,
    /// How many channels may be open on the node, over all connections.
    #[serde(deserialize_with = "value::limit")]
    pub channels_max: Option<u32>,
    /// How many consumers one channel may have.
    #[serde(deserialize_with = "value::limit")]
    pub consumers_per_channel_max: Option<u32>,
    /// How many queues the node holds, over all virtual hosts.
    #[serde(deserialize_with = "value::limit")]
    pub queues_max: Option<u32>,
    /// How long a delivery may stay unacknowledged where neither its consumer nor its queue says, in milliseconds: up to
    /// ten years, 0 for no limit.
    pub consumer_timeout_ms: u64,
    /// The high-water mark of what waits to be written to one connection, in bytes: 4096 to 1 GiB. Deliveries to a
    /// connection pause above it.
    pub unsent_bytes_per_connection: u32,
    /// How many bytes of ready messages the queues keep in memory, all together. What is more than that they have on
    /// disk only.
    pub ready_bytes_in_memory: u64,
    /// How much memory may be in use before publishers are blocked.
    pub memory_high_watermark: Watermark,
    /// How much space must be free on the file system of the data directory, lest publishers are blocked.
    pub disk_free_limit: DiskFreeLimit,
    /// How many connections the system may hold ready for the broker to accept: 1 to 65535.
    pub tcp_backlog: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listeners: Listeners::default(),
            tls: Tls::default(),
            storage: Storage::default(),
            log: Log::default(),
            compatibility: Compatibility::default(),
            interceptors: Interceptors::default(),
            limits: Limits::default(),
            definitions: Definitions::default(),
            vhosts: vec![Vhost::named("/")],
            users: vec![User::guest(["/"])],
            policies: Vec::new(),
            operator_policies: Vec::new(),
            first_user: None,
        }
    }
}

impl Default for Definitions {
    fn default() -> Self {
        Self { load: None, skip_if_unchanged: true }
    }
}

impl Default for Listeners {
    fn default() -> Self {
        Self {
            bind: vec![Ipv6Addr::UNSPECIFIED.into()],
            amqp_port: Port::Number(5672),
            management_port: Port::Number(15672),
            prometheus_port: Port::Number(15692),
            amqp_tls_port: Port::Number(5671),
            management_tls_port: Port::Number(15671),
            prometheus_tls_port: Port::Number(15691),
            unix_socket: None,
            unix_socket_mode: FileMode(0o660),
            proxy_protocol: false,
        }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self { data_dir: "data".into(), segment_bytes: 64 << 20, sync: SyncPolicy::Always }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: Level::Info,
            levels: BTreeMap::new(),
            format: LogFormat::Text,
            file: None,
            exchange: false,
        }
    }
}

impl Default for Compatibility {
    fn default() -> Self {
        Self {
            product: "RabbitMQ".into(),
            version: "3.13.7".into(),
            cluster_name: "leveret@{hostname}".into(),
            x_death: XDeath::Continued,
            delivery_limit_counts: DeliveryLimitCounts::Failures,
            consumer_timeout: ConsumerTimeout::Close,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_max: 131_072,
            channel_max: 2047,
            heartbeat_secs: 60,
            handshake_timeout_secs: 10,
            max_message_bytes: 128 * 1024 * 1024,
            connections_max: Some(100_000),
            channels_max: None,
            consumers_per_channel_max: Some(65_535),
            queues_max: None,
            consumer_timeout_ms: 0,
            unsent_bytes_per_connection: 524_288,
            ready_bytes_in_memory: 16 << 20,
            memory_high_watermark: Watermark::Fraction(0.6),
            disk_free_limit: DiskFreeLimit::Auto,
            tcp_backlog: 1024,
        }
    }
}

impl Config {
    /// The file that is read when none is named, if it is there.
    pub const FILE: &str = "broker.toml";

    /// The configuration from flags, environment, file and defaults, checked as a whole.
    ///
    /// # Errors
    /// The first thing that is wrong, with the place to mend it.
    pub fn load(flags: &Flags, environment: &Environment, file: Option<&Path>) -> Result<Self, ConfigError> {
        layers::load(flags, environment, file)
    }

    /// The file to read: the one that was named, or else `./broker.toml` if there is one.
    pub fn find_file(named: Option<PathBuf>) -> Option<PathBuf> {
        named.or_else(|| Path::new(Self::FILE).exists().then(|| Self::FILE.into()))
    }
}

/// Where a configuration comes from, so that it can be read again.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The flags.
    pub flags: Flags,
    /// The environment.
    pub environment: Environment,
    /// The file, if there is one.
    pub file: Option<PathBuf>,
}

impl Source {
    /// Reads it.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.flags, &self.environment, self.file.as_deref())
    }
}

/// Why there is no valid configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file could not be read.
    #[error("cannot read {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said, or that the file is not UTF-8.
        reason: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{place}: {key}{}{problem}", if key.is_empty() { "" } else { ": " })]
    Invalid {
        /// Where to mend it: `broker.toml:12`, `--amqp-port` or the name of a variable.
        place: String,
        /// The key, such as `limits.frame_max`; empty when the file is not TOML.
        key: String,
        /// What was found and what was expected.
        problem: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../broker.toml");

    #[test]
    fn the_shipped_file_says_the_defaults() {
        let shipped: Config = toml::from_str(SHIPPED).unwrap();
        assert_eq!(shipped, Config::default());
    }

    /// The keys come from what serde expects in place of one that does not exist.
    #[test]
    fn the_shipped_file_shows_every_key() {
        let places = [
            ("[listeners]", "[listeners]"),
            ("[tls]", "[tls]"),
            ("[tls]\n[[tls.sni]]", "[tls]"),
            ("[storage]", "[storage]"),
            ("[log]", "[log]"),
            ("[compatibility]", "[compatibility]"),
            ("[interceptors]", "[interceptors]"),
            ("[limits]", "[limits]"),
            ("[definitions]", "[definitions]"),
            ("[[vhosts]]", "[[vhosts]]"),
            ("[[users]]", "[[users]]"),
            ("[[users]]\n[[users.permissions]]", "[[users]]"),
            ("[[users]]\n[[users.topic_permissions]]", "[[users]]"),
            ("[[policies]]", "# [[policies]]"),
            ("[[operator_policies]]", "# [[operator_policies]]"),
        ];
        for section in expected_keys("") {
            assert!(
                places.iter().any(|(_, header)| header.trim_matches(['#', ' ', '[', ']']) == section),
                "{section}"
            );
        }
        for (path, header) in places {
            let (_, text) = SHIPPED.split_once(&format!("\n{header}\n")).expect(header);
            let text = text.split("\n[").next().unwrap().replace("\n# ", "\n");
            for key in expected_keys(path) {
                let shown = text.contains(&format!("\n{key} = ")) || text.contains(&format!(" {key} = "));
                assert!(shown || text.starts_with(&format!("{key} = ")), "{path} {key}");
            }
        }
    }

    fn expected_keys(header: &str) -> Vec<String> {
        let error = toml::from_str::<Config>(&format!("{header}\nno_such_key = 1")).unwrap_err();
        let (_, keys) = error.message().split_once("unknown field `no_such_key`, expected ").expect(header);
        keys.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn passwords_are_hidden_when_shown_for_debugging() {
        let text = "[[users]]\nname = 'ann'\npassword = 'hunter2'";
        let config: Config = toml::from_str(text).unwrap();
        let shown = format!("{config:?}");
        assert!(shown.contains("ann") && !shown.contains("hunter2"), "{shown}");
    }
}
