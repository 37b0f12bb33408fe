//! The layers of the configuration, put one on another: defaults, file, environment, flags.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use toml::{Table, Value};

use super::check::{Fault, check, check_name};
use super::place::Document;
use super::{Config, ConfigError, User, Vhost};

/// The settings that have a flag. Their values are read like those of the environment.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Directory for data [env: LEVERET_DATA_DIR] [default: data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Address to listen on [env: LEVERET_BIND] [default: ::]
    #[arg(long, value_name = "ADDR")]
    pub bind: Option<String>,
    /// Port for AMQP; 0 asks the system for one, -1 turns it off [env: LEVERET_AMQP_PORT] [default: 5672]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub amqp_port: Option<String>,
    /// Port for the HTTP API, likewise [env: LEVERET_MANAGEMENT_PORT] [default: 15672]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub management_port: Option<String>,
    /// Port for metrics, likewise [env: LEVERET_PROMETHEUS_PORT] [default: 15692]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub prometheus_port: Option<String>,
    /// Port for AMQP over TLS, likewise, if there is a certificate [env: LEVERET_AMQP_TLS_PORT] [default: 5671]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub amqp_tls_port: Option<String>,
    /// Port for the HTTP API over TLS, likewise [env: LEVERET_MANAGEMENT_TLS_PORT] [default: 15671]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub management_tls_port: Option<String>,
    /// Port for metrics over TLS, likewise [env: LEVERET_PROMETHEUS_TLS_PORT] [default: 15691]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub prometheus_tls_port: Option<String>,
    /// File with the certificate for TLS, as PEM [env: LEVERET_TLS_CERTIFICATE]
    #[arg(long, value_name = "FILE")]
    pub tls_certificate: Option<String>,
    /// File with the certificate's private key, as PEM [env: LEVERET_TLS_KEY]
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<String>,
    /// Path of a socket for AMQP within this machine [env: LEVERET_UNIX_SOCKET]
    #[arg(long, value_name = "PATH")]
    pub unix_socket: Option<String>,
    /// Least severe level to log: off, error, warn, info or debug [env: LEVERET_LOG_LEVEL] [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// Environment variables. An empty one counts as not set, since Compose files can't leave one out.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

/// A setting that has a flag, and so a variable of that name too.
struct Setting {
    flag: &'static str,
    variable: &'static str,
    section: &'static str,
    key: &'static str,
}

/// The settings of [`Flags`], in its order.
const SETTINGS: [Setting; 12] = [
    Setting { flag: "--data-dir", variable: "LEVERET_DATA_DIR", section: "storage", key: "data_dir" },
    Setting { flag: "--bind", variable: "LEVERET_BIND", section: "listeners", key: "bind" },
    Setting { flag: "--amqp-port", variable: "LEVERET_AMQP_PORT", section: "listeners", key: "amqp_port" },
    Setting {
        flag: "--management-port",
        variable: "LEVERET_MANAGEMENT_PORT",
        section: "listeners",
        key: "management_port",
    },
    Setting {
        flag: "--prometheus-port",
        variable: "LEVERET_PROMETHEUS_PORT",
        section: "listeners",
        key: "prometheus_port",
    },
    Setting {
        flag: "--amqp-tls-port",
        variable: "LEVERET_AMQP_TLS_PORT",
        section: "listeners",
        key: "amqp_tls_port",
    },
    Setting {
        flag: "--management-tls-port",
        variable: "LEVERET_MANAGEMENT_TLS_PORT",
        section: "listeners",
        key: "management_tls_port",
    },
    Setting {
        flag: "--prometheus-tls-port",
        variable: "LEVERET_PROMETHEUS_TLS_PORT",
        section: "listeners",
        key: "prometheus_tls_port",
    },
    Setting {
        flag: "--tls-certificate",
        variable: "LEVERET_TLS_CERTIFICATE",
        section: "tls",
        key: "certificate",
    },
    Setting { flag: "--tls-key", variable: "LEVERET_TLS_KEY", section: "tls", key: "key" },
    Setting {
        flag: "--unix-socket",
        variable: "LEVERET_UNIX_SOCKET",
        section: "listeners",
        key: "unix_socket",
    },
    Setting { flag: "--log-level", variable: "LEVERET_LOG_LEVEL", section: "log", key: "level" },
];

/// Variables of RabbitMQ's that set a key, for compose files that have them; Leveret's own ones go before them.
const RABBITMQ_VARIABLES: [(&str, &str, &str); 5] = [
    ("RABBITMQ_NODE_PORT", "listeners", "amqp_port"),
    ("RABBITMQ_NODE_IP_ADDRESS", "listeners", "bind"),
    ("RABBITMQ_MNESIA_BASE", "storage", "data_dir"),
    ("RABBITMQ_MNESIA_DIR", "storage", "data_dir"),
    ("RABBITMQ_LOGS", "log", "file"),
];

/// The sections that `LEVERET_<SECTION>_<KEY>` reaches.
const SECTIONS: [&str; 7] = ["listeners", "tls", "storage", "log", "compatibility", "limits", "definitions"];

/// Variables that set no key: those of the start, and those of the commands to a running broker.
const OTHER_VARIABLES: [&str; 8] = [
    "LEVERET_CONFIG",
    "LEVERET_READY_FILE",
    "LEVERET_URL",
    "LEVERET_USER",
    "LEVERET_PASSWORD",
    "LEVERET_PASSWORD_FILE",
    "LEVERET_VHOST",
    "LEVERET_CACERT",
];

/// A value from the environment or a flag.
struct Override {
    /// The variable or the flag.
    place: String,
    section: String,
    key: String,
    value: String,
}

/// See [`Config::load`].
pub(super) fn load(
    flags: &Flags,
    environment: &Environment,
    file: Option<&Path>,
) -> Result<Config, ConfigError> {
    let document = file.map(Document::read).transpose()?.unwrap_or_default();
    let (mut config, mut table) = document.parse()?;
    let overrides: Vec<_> = environment.overrides().chain(flags.overrides()).collect();
    for change in &overrides {
        config = change.apply(&mut table)?;
    }
    if !table.contains_key("users") {
        config.users = vec![User::guest(config.vhosts.iter().map(|vhost| vhost.name.as_str()))];
    }
    check(&config).map_err(|fault| {
        let changed = overrides.iter().rev().find(|change| change.path() == fault.key);
        let place = changed.map_or_else(|| document.place(&fault.key), |change| change.place.clone());
        fault.at(place)
    })?;
    environment.first_user(&mut config)?;
    let cluster_name = &mut config.compatibility.cluster_name;
    *cluster_name = cluster_name.replace("{hostname}", &hostname(environment));
    Ok(config)
}

/// The variables that look like ours but set nothing, for a warning: a misspelt one would go unnoticed. Not an error,
/// since Kubernetes sets such variables for a service named `leveret`.
pub fn unknown_variables(environment: &Environment) -> Vec<&str> {
    let known = |name: &str| {
        OTHER_VARIABLES.contains(&name)
            || SETTINGS.iter().any(|setting| setting.variable == name)
            || section_and_key(name).is_some()
    };
    let ours = environment.0.keys().filter(|name| name.starts_with("LEVERET_"));
    ours.map(String::as_str).filter(|name| !known(name)).collect()
}

impl Flags {
    fn overrides(&self) -> impl Iterator<Item = Override> {
        let Self { data_dir, bind, amqp_port, management_port, prometheus_port, .. } = self;
        let Self { amqp_tls_port, management_tls_port, prometheus_tls_port, .. } = self;
        let Self { tls_certificate, tls_key, unix_socket, log_level, .. } = self;
        let values = [
            data_dir,
            bind,
            amqp_port,
            management_port,
            prometheus_port,
            amqp_tls_port,
            management_tls_port,
            prometheus_tls_port,
            tls_certificate,
            tls_key,
            unix_socket,
            log_level,
        ];
        SETTINGS
            .iter()
            .zip(values)
            .filter_map(|(setting, value)| Some(setting.to(setting.flag, value.as_ref()?)))
    }
}

impl Setting {
    fn to(&self, place: &str, value: &str) -> Override {
        Override {
            place: place.into(),
            section: self.section.into(),
            key: self.key.into(),
            value: value.into(),
        }
    }
}

impl Environment {
    /// The variables of this process that are UTF-8.
    pub fn of_process() -> Self {
        let texts = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        std::env::vars_os().filter_map(texts).collect()
    }

    /// The value of a variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// RabbitMQ's first, then the general form, so that the short one wins if several are set.
    fn overrides(&self) -> impl Iterator<Item = Override> {
        let rabbitmqs = RABBITMQ_VARIABLES.iter().filter_map(|(variable, section, key)| {
            // What RabbitMQ's scripts take for the default: all addresses, and standard output.
            let value = self.get(variable).filter(|value| !["auto", "-"].contains(value))?;
            let (section, key) = ((*section).into(), (*key).into());
            Some(Override { place: (*variable).into(), section, key, value: value.into() })
        });
        let general = self.0.iter().filter_map(|(name, value)| {
            let (section, key) = section_and_key(name)?;
            Some(Override { place: name.clone(), section, key, value: value.clone() })
        });
        let short = SETTINGS
            .iter()
            .filter_map(|setting| Some(setting.to(setting.variable, self.get(setting.variable)?)));
        rabbitmqs.chain(general).chain(short)
    }

    /// Puts the user that RabbitMQ's variables describe in place of guest, and of a user of the same name. As in
    /// RabbitMQ's image, a user whose name or password was chosen may connect from anywhere.
    fn first_user(&self, config: &mut Config) -> Result<(), ConfigError> {
        let name = self.text_or_file("RABBITMQ_DEFAULT_USER")?;
        let password = self.text_or_file("RABBITMQ_DEFAULT_PASS")?;
        let vhost = self.text_or_file("RABBITMQ_DEFAULT_VHOST")?;
        if name.is_none() && password.is_none() && vhost.is_none() {
            return Ok(());
        }
        let (chosen, own_vhost) = (name.is_some() || password.is_some(), vhost.is_some());
        let name = name.unwrap_or_else(|| "guest".into());
        let vhost = vhost.unwrap_or_else(|| "/".into());
        for (variable, value) in [("RABBITMQ_DEFAULT_USER", &name), ("RABBITMQ_DEFAULT_VHOST", &vhost)] {
            check_name(value).map_err(|problem| Fault::new("", problem).at(variable.into()))?;
        }
        config.users.retain(|user| user.name != "guest" && user.name != name);
        if own_vhost {
            let by_users = config.users.iter().flat_map(|user| user.vhosts());
            let policies = config.policies_by_kind().into_iter().flat_map(|(_, _, policies)| policies);
            let needed = by_users.chain(policies.map(|policy| policy.vhost.as_str())).any(|name| name == "/");
            config.vhosts.retain(|vhost| vhost.name != "/" || needed);
        }
        if config.vhosts.iter().all(|known| known.name != vhost) {
            config.vhosts.push(Vhost::named(&vhost));
        }
        let password = password.as_deref().unwrap_or("guest");
        let user = User::administrator(&name, password, [vhost.as_str()]);
        config.users.push(User { loopback_only: !chosen, ..user });
        config.first_user = Some(name);
        Ok(())
    }

    /// The value of a variable, or the contents of the file that the variable with `_FILE` names.
    fn text_or_file(&self, name: &str) -> Result<Option<String>, ConfigError> {
        let file_variable = format!("{name}_FILE");
        match (self.get(name), self.get(&file_variable)) {
            (Some(_), Some(_)) => {
                Err(Fault::new("", format!("set together with {name}; one of them must go"))
                    .at(file_variable))
            }
            (value, None) => Ok(value.map(str::to_owned)),
            (None, Some(path)) => {
                let text = fs::read_to_string(path)
                    .map_err(|reason| ConfigError::Unreadable { path: path.into(), reason })?;
                Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
            }
        }
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let texts = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self(texts.filter(|(_, value): &(String, String)| !value.is_empty()).collect())
    }
}

impl Override {
    fn path(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }

    /// Sets the key: to what the text means as a TOML value, or else to the text itself.
    fn apply(&self, table: &mut Table) -> Result<Config, ConfigError> {
        let meant = self.value.parse::<Value>().unwrap_or_else(|_| Value::String(self.value.clone()));
        self.set(table, meant).or_else(|error| {
            let text = self.set(table, Value::String(self.value.clone()));
            text.map_err(|_| Fault::of_value(self.path(), &error).at(self.place.clone()))
        })
    }

    fn set(&self, table: &mut Table, value: Value) -> Result<Config, toml::de::Error> {
        let section = table.entry(&self.section).or_insert_with(|| Value::Table(Table::new()));
        section
            .as_table_mut()
            .expect("invariant: the file has the right types")
            .insert(self.key.clone(), value);
        table.clone().try_into()
    }
}

/// What `LEVERET_<SECTION>_<KEY>` sets.
fn section_and_key(variable: &str) -> Option<(String, String)> {
    let rest = variable.strip_prefix("LEVERET_")?.to_ascii_lowercase();
    SECTIONS.iter().find_map(|section| {
        let key = rest.strip_prefix(section)?.strip_prefix('_')?;
        Some(((*section).to_owned(), key.to_owned()))
    })
}

/// The name of this machine, as well as it can be told without a call to the system's library.
fn hostname(environment: &Environment) -> String {
    let kernel: io::Result<String> = fs::read_to_string("/proc/sys/kernel/hostname");
    let name = kernel.ok().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    name.or_else(|| environment.get("HOSTNAME").map(str::to_owned)).unwrap_or_else(|| "localhost".into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tempfile::NamedTempFile;

    use super::*;
    use crate::broker::permission::Access;
    use crate::config::{DiskFreeLimit, Port, SyncPolicy};

    fn load(flags: &Flags, environment: &[(&str, &str)], file: &str) -> Result<Config, String> {
        let mut written = NamedTempFile::new().unwrap();
        written.write_all(file.as_bytes()).unwrap();
        let path = written.path().display().to_string();
        let loaded = Config::load(flags, &environment.iter().copied().collect(), Some(written.path()));
        loaded.map_err(|error| error.to_string().replace(&path, "FILE"))
    }

    fn load_environment(environment: &[(&str, &str)]) -> Result<Config, String> {
        load(&Flags::default(), environment, "")
    }

    fn load_file(file: &str) -> Result<Config, String> {
        load(&Flags::default(), &[], file)
    }

    #[test]
    fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
        let file = "[listeners]\namqp_port = 1\nmanagement_port = 1\nprometheus_port = 1";
        let environment = [("LEVERET_AMQP_PORT", "2"), ("LEVERET_MANAGEMENT_PORT", "2")];
        let flags = Flags { amqp_port: Some("3".into()), ..Flags::default() };
        let config = load(&flags, &environment, file).unwrap();
        assert_eq!(config.listeners.amqp_port, Port::Number(3));
        assert_eq!(config.listeners.management_port, Port::Number(2));
        assert_eq!(config.listeners.prometheus_port, Port::Number(1));
        assert_eq!(config.storage, Config::default().storage);
    }

    #[test]
    fn every_flag_and_every_key_has_a_variable() {
        let config = load_environment(&[
            ("LEVERET_DATA_DIR", "/d"),
            ("LEVERET_BIND", "['127.0.0.1', '::1']"),
            ("LEVERET_PROMETHEUS_PORT", "off"),
            ("LEVERET_LOG_LEVEL", "warning"),
            ("LEVERET_COMPATIBILITY_VERSION", "4.0"),
            ("LEVERET_LIMITS_MEMORY_HIGH_WATERMARK", "0.5"),
            ("LEVERET_LIMITS_QUEUES_MAX", "5"),
            ("LEVERET_LIMITS_DISK_FREE_LIMIT", "0"),
            ("LEVERET_STORAGE_SYNC", "interval:50"),
        ])
        .unwrap();
        assert_eq!(config.storage.data_dir, Path::new("/d"));
        assert_eq!(config.listeners.bind.len(), 2);
        assert_eq!(config.listeners.prometheus_port, Port::Off);
        assert_eq!(config.log.level, crate::config::Level::Warn);
        assert_eq!(config.compatibility.version, "4.0");
        assert_eq!(config.limits.memory_high_watermark.in_bytes(10), 5);
        assert_eq!(config.limits.queues_max, Some(5));
        assert_eq!(config.limits.disk_free_limit, DiskFreeLimit::Bytes(0));
        assert_eq!(config.storage.sync, SyncPolicy::IntervalMs(50));
    }

    #[test]
    fn rabbitmqs_variables_set_keys_too() {
        let variables = [
            ("RABBITMQ_NODE_PORT", "5673"),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1"),
            ("RABBITMQ_MNESIA_BASE", "/var/lib/rabbitmq"),
            ("RABBITMQ_LOGS", "-"),
        ];
        let config = load_environment(&variables).unwrap();
        assert_eq!(config.listeners.amqp_port, Port::Number(5673));
        assert_eq!(config.listeners.bind, ["127.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(config.storage.data_dir, Path::new("/var/lib/rabbitmq"));
        assert_eq!(config.log.file, None);
        let both = [("RABBITMQ_NODE_PORT", "1"), ("LEVERET_AMQP_PORT", "2")];
        assert_eq!(load_environment(&both).unwrap().listeners.amqp_port, Port::Number(2));
        let error = load_environment(&[("RABBITMQ_NODE_PORT", "x")]).unwrap_err();
        assert!(error.starts_with("RABBITMQ_NODE_PORT: listeners.amqp_port: "), "{error}");
    }

    #[test]
    fn an_empty_variable_is_not_set() {
        let config = load_environment(&[("LEVERET_AMQP_PORT", ""), ("RABBITMQ_DEFAULT_USER", "")]).unwrap();
        assert_eq!(config.listeners.amqp_port, Port::Number(5672));
        assert_eq!(config.users[0].name, "guest");
    }

    #[test]
    fn variables_that_set_nothing_are_told() {
        let environment: Environment = [
            ("LEVERET_AMQP_PROT", "1"),
            ("LEVERET_AMQP_PORT", "1"),
            ("LEVERET_CONFIG", "f"),
            ("LEVERET_LIMITS_QUEUES_MAX", "1"),
            ("OTHER", "1"),
        ]
        .into_iter()
        .collect();
        assert_eq!(unknown_variables(&environment), ["LEVERET_AMQP_PROT"]);
    }

    #[test]
    fn an_error_names_flag_or_variable_and_key() {
        let flags = Flags { log_level: Some("loud".into()), ..Flags::default() };
        let error = load(&flags, &[], "").unwrap_err();
        assert!(
            error.starts_with("--log-level: log.level: unknown variant `loud`, expected one of"),
            "{error}"
        );
        let error = load_environment(&[("LEVERET_LIMITS_FRAME_MAX", "17")]).unwrap_err();
        let expected = "LEVERET_LIMITS_FRAME_MAX: limits.frame_max: 17 is not from 4096 to 16777216 bytes";
        assert_eq!(error, expected);
        let error = load_environment(&[("LEVERET_LIMITS_FOO", "1")]).unwrap_err();
        assert!(error.starts_with("LEVERET_LIMITS_FOO: limits.foo: unknown field `foo`"), "{error}");
    }

    #[test]
    fn an_error_names_line_and_key() {
        let user = "[[users]]\nname = 'ann'\npassword = 'x'\n";
        let cases = [
            ("[listeners]\n\namqp_prt = 1", "FILE:3: listeners.amqp_prt: unknown field"),
            ("[listener]", "FILE:1: listener: unknown field"),
            ("[limits]\nframe_max = 'big'", "FILE:2: limits.frame_max: invalid type: string \"big\""),
            ("[limits]\nframe_max = 17", "FILE:2: limits.frame_max: 17 is not from 4096"),
            (
                "[limits]\nheartbeat_secs = 70000",
                "FILE:2: limits.heartbeat_secs: invalid value: integer `70000`, expected a whole number from 0 to 65535",
            ),
            ("[log]\nlevel = info", "FILE:2: this is not TOML: "),
            ("log = 1", "FILE:1: log: invalid type: integer `1`, expected a section"),
            ("users = [1]", "FILE:1: users[0]: invalid type: integer `1`, expected a table"),
            ("storage.data_dir = ''", "FILE:1: storage.data_dir: the path is empty"),
            (
                "storage.segment_bytes = 4096",
                "FILE:1: storage.segment_bytes: 4096 is not from 65536 to 1073741824",
            ),
            (
                "storage.segment_bytes = 65537",
                "FILE:1: storage.segment_bytes: 65537 is not a multiple of 4096",
            ),
            ("[storage]\nsync = 'often'", "FILE:2: storage.sync: \"often\" is not \"always\", \"never\" or"),
            (
                "limits.ready_bytes_in_memory = -1",
                "FILE:1: limits.ready_bytes_in_memory: invalid value: integer `-1`, expected a whole number from 0",
            ),
            ("limits.disk_free_limit = -1", "FILE:1: limits.disk_free_limit: -1 is not a number of bytes"),
            (
                "[tls]\ncertificate = 'a'",
                "FILE:1: tls.key: the file with the private key of tls.certificate is missing",
            ),
            (
                "[tls]\nkey = 'a'",
                "FILE:1: tls.certificate: the file with the certificate of tls.key is missing",
            ),
            ("[tls]\nverify = 'peer'", "FILE:1: tls.client_ca: the file with the CAs of clients is missing"),
            (
                "[tls]\nrequire_client_certificate = true",
                "FILE:1: tls.verify: a certificate can only be required",
            ),
            (
                "[tls]\nsni = [{ host = 'x', certificate = 'a', key = 'b' }]",
                "FILE:1: tls.certificate: clients that name no host",
            ),
            (
                "[tls]\ncertificate = 'a'\nkey = 'b'\nsni = [{ host = 'x', certificate = 'a', key = 'b' },\n\
                 { host = 'x', certificate = 'a', key = 'b' }]",
                "FILE:5: tls.sni[1].host: 'x' is there twice",
            ),
            ("[tls]\nmin_version = '1.1'", "FILE:2: tls.min_version: unknown variant `1.1`, expected"),
            (
                "[listeners]\nunix_socket_mode = 660",
                "FILE:2: listeners.unix_socket_mode: 660 is not a file mode",
            ),
            (
                &format!("[listeners]\nunix_socket = '{}'", "x".repeat(101)),
                "FILE:2: listeners.unix_socket: a socket's path has at most 100 bytes, this has 101",
            ),
            (
                "[log]\nlevels = { no_such_part = 'debug' }",
                "FILE:2: log.levels.no_such_part: there is no such part of the broker; there are connection, ",
            ),
            ("[log]\nlevels = { storage = 'loud' }", "FILE:2: log.levels.storage: unknown variant `loud`"),
            ("[compatibility]\nproduct = ''", "FILE:2: compatibility.product: a name has 1 to 255 bytes"),
            ("[[vhosts]]\nname = '/'\n[[vhosts]]\nname = '/'", "FILE:4: vhosts[1].name: '/' is there twice"),
            ("[[users]]\npassword = 'x'", "FILE:1: users[0]: missing field `name`"),
            ("[[users]]\nname = 'ann'", "FILE:1: users[0].password: a user has either"),
            (&format!("{user}{user}"), "FILE:5: users[1].name: 'ann' is there twice"),
            (&format!("{user}tags = 'administrator'"), "FILE:4: users[0].tags: invalid type"),
            (&format!("{user}password_hash = 'x'"), "FILE:3: users[0].password: a user has either"),
            (
                "[[users]]\nname = 'ann'\npassword_hash = 'abc'",
                "FILE:3: users[0].password_hash: a password hash is the base64 of 36 bytes",
            ),
            (
                &format!("{user}permissions = [\n{{ vhost = 'x', configure = '', write = '', read = '' }}]"),
                "FILE:5: users[0].permissions[0].vhost: there is no virtual host 'x'",
            ),
            (
                &format!("{user}permissions = [\n{{ vhost = '/', configure = '', write = '(', read = '' }}]"),
                "FILE:5: users[0].permissions[0].write: '(' is not a regular expression that is supported: unclosed",
            ),
            (
                &format!(
                    "{user}[[users.topic_permissions]]\nvhost = '/'\nexchange = 'x'\nwrite = ''\nread = '(?=a)'"
                ),
                "FILE:8: users[0].topic_permissions[0].read: '(?=a)' is not a regular expression that is supported: \
                 look-around",
            ),
        ];
        for (file, expected) in cases {
            let error = load_file(file).unwrap_err();
            assert!(error.starts_with(expected), "{file}\n{error}");
        }
    }

    #[test]
    fn guest_has_the_virtual_hosts_there_are() {
        let config = load_file("[[vhosts]]\nname = 'a'\n[[vhosts]]\nname = 'b'").unwrap();
        let permissions = config.permissions();
        assert!(permissions.vhost_access("guest", "a") && permissions.vhost_access("guest", "b"));
        assert!(!permissions.vhost_access("guest", "/"));
    }

    #[test]
    fn the_cluster_name_holds_the_name_of_the_machine() {
        let name = load_file("").unwrap().compatibility.cluster_name;
        assert!(name.starts_with("leveret@") && name.len() > 8 && !name.contains('{'), "{name}");
    }

    #[test]
    fn rabbitmqs_variables_take_the_place_of_guest() {
        let file = "[[users]]\nname = 'guest'\npassword = 'x'\n[[users]]\nname = 'ann'\npassword = 'y'";
        let environment = [
            ("RABBITMQ_DEFAULT_USER", "bob"),
            ("RABBITMQ_DEFAULT_PASS", "z"),
            ("RABBITMQ_DEFAULT_VHOST", "v"),
        ];
        let config = load(&Flags::default(), &environment, file).unwrap();
        let users = config.users();
        assert!(users.get("guest").is_none() && users.get("ann").is_some());
        let bob = users.authenticate("bob", b"z", false).unwrap();
        assert!(bob.has_tag("administrator"));
        assert!(config.permissions().check("bob", "v", "q", Access::Configure));
        let vhosts: Vec<_> = config.vhosts.iter().map(|vhost| vhost.name.as_str()).collect();
        assert_eq!(vhosts, ["v"]);
    }

    #[test]
    fn the_root_virtual_host_stays_if_another_user_needs_it() {
        let file = "[[users]]\nname = 'ann'\npassword = 'y'\n\
                    permissions = [{ vhost = '/', configure = '', write = '', read = '' }]";
        let config = load(&Flags::default(), &[("RABBITMQ_DEFAULT_VHOST", "v")], file).unwrap();
        let vhosts: Vec<_> = config.vhosts.iter().map(|vhost| vhost.name.as_str()).collect();
        assert_eq!(vhosts, ["/", "v"]);
    }

    #[test]
    fn only_a_user_who_was_chosen_connects_from_anywhere() {
        let afar = |variable| {
            let config = load_environment(&[(variable, "guest")]).unwrap();
            config.users().authenticate("guest", b"guest", false).is_ok()
        };
        assert!(afar("RABBITMQ_DEFAULT_USER") && afar("RABBITMQ_DEFAULT_PASS"));
        assert!(!afar("RABBITMQ_DEFAULT_VHOST"));
    }

    #[test]
    fn a_password_comes_from_a_file_without_its_line_end() {
        let mut secret = NamedTempFile::new().unwrap();
        secret.write_all(b"s3cret\n").unwrap();
        let path = secret.path().to_str().unwrap();
        let config = load_environment(&[("RABBITMQ_DEFAULT_PASS_FILE", path)]).unwrap();
        assert!(config.users().authenticate("guest", b"s3cret", true).is_ok());

        let both = [("RABBITMQ_DEFAULT_PASS", "x"), ("RABBITMQ_DEFAULT_PASS_FILE", path)];
        let error = load_environment(&both).unwrap_err();
        assert!(error.starts_with("RABBITMQ_DEFAULT_PASS_FILE: set together with"), "{error}");
        let error = load_environment(&[("RABBITMQ_DEFAULT_USER_FILE", "/no/such")]).unwrap_err();
        assert!(error.starts_with("cannot read /no/such: "), "{error}");
    }
}
