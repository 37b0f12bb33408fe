//! Which key of `rabbitmq.conf` is which key of `broker.toml`.

use std::net::IpAddr;

use toml::Value;

use super::{Fate, draft::Draft};
use crate::cli::rabbitmq::bytes;

/// How the value of a key becomes that of another.
#[derive(Clone, Copy)]
enum Kind {
    /// A number; `infinity` is 0.
    Number,
    /// Milliseconds that become seconds, at least one.
    MsAsSecs,
    /// `true` or `false`.
    Bool,
    /// Text as it is.
    Text,
    /// A number of octets, perhaps with a unit.
    Bytes,
    /// A port.
    Port,
    /// A level of the log.
    Level,
}

use Kind::{Bool, Bytes, Level, MsAsSecs, Number, Port, Text};

/// What has one counterpart: the key, section and key, and how.
const SAME: [(&str, &str, &str, Kind); 44] = [
    ("handshake_timeout", "limits", "handshake_timeout_secs", MsAsSecs),
    ("heartbeat", "limits", "heartbeat_secs", Number),
    ("frame_max", "limits", "frame_max", Number),
    ("channel_max", "limits", "channel_max", Number),
    ("max_channels_per_connection", "limits", "channel_max", Number),
    ("channel_max_per_node", "limits", "channels_max", Number),
    ("consumer_max_per_channel", "limits", "consumers_per_channel_max", Number),
    ("connection_max", "limits", "connections_max", Number),
    ("max_connections", "limits", "connections_max", Number),
    ("cluster_queue_limit", "limits", "queues_max", Number),
    ("max_message_size", "limits", "max_message_bytes", Bytes),
    ("consumer_timeout", "limits", "consumer_timeout_ms", Number),
    ("vm_memory_high_watermark.absolute", "limits", "memory_high_watermark", Bytes),
    ("disk_free_limit.absolute", "limits", "disk_free_limit", Bytes),
    ("tcp_listen_options.backlog", "limits", "tcp_backlog", Number),
    ("cluster_name", "compatibility", "cluster_name", Text),
    ("proxy_protocol", "listeners", "proxy_protocol", Bool),
    ("management.tcp.port", "listeners", "management_port", Port),
    ("management.listener.port", "listeners", "management_port", Port),
    ("management.ssl.port", "listeners", "management_tls_port", Port),
    ("prometheus.tcp.port", "listeners", "prometheus_port", Port),
    ("prometheus.ssl.port", "listeners", "prometheus_tls_port", Port),
    ("ssl_options.certfile", "tls", "certificate", Text),
    ("ssl_options.keyfile", "tls", "key", Text),
    ("ssl_options.cacertfile", "tls", "client_ca", Text),
    ("ssl_options.fail_if_no_peer_cert", "tls", "require_client_certificate", Bool),
    ("ssl_cert_login_from", "tls", "cert_login_from", Text),
    ("ssl_cert_login_san_type", "tls", "cert_login_san_type", Text),
    ("load_definitions", "definitions", "load", Text),
    ("management.load_definitions", "definitions", "load", Text),
    ("definitions.local.path", "definitions", "load", Text),
    ("definitions.skip_if_unchanged", "definitions", "skip_if_unchanged", Bool),
    ("log.exchange", "log", "exchange", Bool),
    ("log.level", "log", "level", Level),
    ("log.default.level", "log", "level", Level),
    ("log.console.level", "log", "level", Level),
    ("log.file.level", "log", "level", Level),
    ("log.console.formatter", "log", "format", Text),
    ("log.file.formatter", "log", "format", Text),
    ("log.connection.level", "log.levels", "connection", Level),
    ("log.channel.level", "log.levels", "session", Level),
    ("log.queue.level", "log.levels", "broker::queue", Level),
    ("management.ssl.certfile", "tls", "certificate", Text),
    ("management.ssl.keyfile", "tls", "key", Text),
];

const ONE_NODE: &str = "there is one node, and no cluster to form";
const NO_PROTOCOL: &str = "only AMQP 0-9-1 is spoken";
const NO_BACKEND: &str = "users and permissions are the broker's own";
const STATISTICS: &str = "figures are counted all the time, at no noticeable cost";
const STORAGE: &str = "storage works otherwise; see [storage] of broker.toml";
const TLS: &str = "rustls chooses among what is safe today";
const SOCKETS: &str = "sockets are set as they are best";
const LOG_FILES: &str =
    "the log goes to standard error or to log.file, which SIGHUP opens again for logrotate";
const PAGE: &str = "the API and the page have no such setting";
const BY_API: &str = "set it for the virtual host, over the API or in the definitions";

/// What has no counterpart: the beginning of the keys, and why.
const LEFT_OUT: [(&str, &str); 73] = [
    ("num_acceptors.", "as many as come are accepted"),
    ("initial_frame_max", "the first frames may have 4096 octets, as AMQP says"),
    ("total_memory_available_override_value", "say limits.memory_high_watermark in octets instead"),
    ("vm_memory_high_watermark_paging_ratio", "limits.ready_bytes_in_memory says what stays in memory"),
    ("vm_memory_calculation_strategy", "it is the resident memory"),
    ("memory_monitor_interval", "memory is looked at each second, and more often when it runs low"),
    ("disk_free_limit.relative", "limits.disk_free_limit is \"auto\" or a number of octets"),
    ("disk_monitor_", "the disk is looked at each second"),
    ("vhost_max", "virtual hosts are not limited"),
    ("cluster_exchange_limit", "exchanges are not limited"),
    ("default_policies.", "write it as [[operator_policies]] in broker.toml"),
    ("default_limits.", "write it as connections_max and queues_max of [[vhosts]] in broker.toml"),
    ("default_queue_type", BY_API),
    ("queue_types.", "classic and quorum queues are there"),
    ("queue_leader_locator", ONE_NODE),
    ("queue_master_locator", ONE_NODE),
    ("cluster_formation.", ONE_NODE),
    ("cluster_partition_handling", ONE_NODE),
    ("cluster_keepalive_interval", ONE_NODE),
    ("cluster_tags.", ONE_NODE),
    ("node_tags.", ONE_NODE),
    ("net_ticktime", ONE_NODE),
    ("distribution.", ONE_NODE),
    ("mirroring_", ONE_NODE),
    ("quorum_", ONE_NODE),
    ("raft.", ONE_NODE),
    ("stream.", NO_PROTOCOL),
    ("mqtt.", NO_PROTOCOL),
    ("web_mqtt.", NO_PROTOCOL),
    ("stomp.", NO_PROTOCOL),
    ("web_stomp.", NO_PROTOCOL),
    ("web_amqp.", NO_PROTOCOL),
    ("auth_http.", NO_BACKEND),
    ("auth_ldap.", NO_BACKEND),
    ("auth_oauth2.", NO_BACKEND),
    ("auth_cache.", NO_BACKEND),
    ("anonymous_login_", "who connects has to log in"),
    ("password_hashing_module", "passwords are hashed by SHA-256; SHA-512 of definitions is understood, too"),
    ("definitions.", "definitions are a file: definitions.load"),
    ("consumer_disconnected_timeout", ONE_NODE),
    ("collect_statistics", STATISTICS),
    ("statistics.", STATISTICS),
    ("management.disable_stats", STATISTICS),
    ("management_agent.", STATISTICS),
    ("management.rates_mode", STATISTICS),
    ("management.sample_retention_policies.", STATISTICS),
    ("management.db_cache_multiplier", STATISTICS),
    ("management.tcp.ip", "listeners.bind is the same for all ports"),
    ("management.listener.", "listeners.bind and [tls] are the same for all ports"),
    ("management.ssl.", "[tls] is the same for all ports"),
    ("management.", PAGE),
    ("prometheus.tcp.ip", "listeners.bind is the same for all ports"),
    ("prometheus.ssl.", "[tls] is the same for all ports"),
    ("prometheus.return_per_object_metrics", "/metrics/per-object has them"),
    ("prometheus.", "metrics have no such setting"),
    ("ssl_options.password", "the key must not be encrypted: openssl pkey -in KEY -out PLAIN"),
    ("ssl_options.", TLS),
    ("ssl_handshake_timeout", "limits.handshake_timeout_secs is for all of the handshake"),
    ("tcp_listen_options.", SOCKETS),
    ("reverse_dns_lookups", "names of hosts are not looked up"),
    ("log.", LOG_FILES),
    ("message_interceptors.", "the time and the node can be stamped: [interceptors] of broker.toml"),
    ("product.", "compatibility.product has to be RabbitMQ for clients to behave as they should"),
    ("motd_file", "there is no banner"),
    ("deprecated_features.", "nothing is switched off for being old"),
    ("queue_index_embed_msgs_below", STORAGE),
    ("msg_store_", STORAGE),
    ("lazy_queue_", STORAGE),
    ("classic_queue.", STORAGE),
    ("channel_operation_timeout", "an operation does not wait for another process"),
    ("credit_flow", "back-pressure has bounds in octets"),
    ("default_consumer_prefetch", "clients say their prefetch"),
    ("background_gc_", "there is no garbage"),
];

/// Takes a key into the draft, if it has a counterpart.
pub(super) fn apply(key: &str, value: &str, draft: &mut Draft) -> Fate {
    if value.starts_with("encrypted:") {
        return Fate::Wrong("it is encrypted: rabbitmqctl decode shows what it is".to_owned());
    }
    if let Some((_, section, target, kind)) = SAME.iter().find(|(known, ..)| *known == key) {
        return same(value, section, target, *kind, draft);
    }
    if let Some(fate) = special(key, value, draft) {
        return fate;
    }
    let left_out = LEFT_OUT.iter().find(|(start, _)| key.starts_with(start));
    left_out.map_or(Fate::Unknown, |(_, why)| Fate::LeftOut(why))
}

fn same(value: &str, section: &str, target: &str, kind: Kind, draft: &mut Draft) -> Fate {
    let number = |text: &str| text.parse::<i64>().map(Value::from).map_err(|_| "a number".to_owned());
    let converted = match kind {
        Number if value == "infinity" => Ok(Value::from(0)),
        Number => number(value),
        MsAsSecs => value
            .parse::<i64>()
            .map(|ms| Value::from((ms.max(1) + 999) / 1000))
            .map_err(|_| "a number of milliseconds".to_owned()),
        Bool => value.parse::<bool>().map(Value::from).map_err(|_| "true or false".to_owned()),
        Text => Ok(Value::from(value)),
        Bytes => bytes(value)
            .and_then(|bytes| i64::try_from(bytes).ok())
            .map(Value::from)
            .ok_or_else(|| "a number of bytes such as 2GiB".to_owned()),
        Port => {
            value.parse::<u16>().map(|port| Value::from(i64::from(port))).map_err(|_| "a port".to_owned())
        }
        Level => level(value).map(Value::from).ok_or_else(|| "a level of the log".to_owned()),
    };
    let value = match converted {
        Ok(value) => value,
        Err(expected) => return Fate::Wrong(format!("this is not {expected}")),
    };
    if let Some((outer, inner)) = section.split_once('.') {
        let mut levels = draft.get(outer, inner).and_then(Value::as_table).cloned().unwrap_or_default();
        levels.insert(target.to_owned(), value);
        draft.set(outer, inner, levels);
        return Fate::Taken(format!("{section}.{target}"));
    }
    if section == "log" && target == "format" {
        draft.set(section, target, if value.as_str() == Some("json") { "json" } else { "text" });
        return Fate::Taken("log.format".to_owned());
    }
    // Several keys of RabbitMQ's are one here: that of a listener may not contradict that of another.
    match draft.get(section, target) {
        Some(there) if section == "tls" && *there != value => {
            Fate::LeftOut("[tls] is the same for all ports")
        }
        _ => {
            draft.set(section, target, value);
            Fate::Taken(format!("{section}.{target}"))
        }
    }
}

/// A level of RabbitMQ's log.
fn level(name: &str) -> Option<&'static str> {
    Some(match name {
        "debug" => "debug",
        "info" => "info",
        "notice" | "warning" => "warn",
        "error" | "critical" | "alert" | "emergency" => "error",
        "none" => "off",
        _ => return None,
    })
}

/// What needs more than a name and a number.
fn special(key: &str, value: &str, draft: &mut Draft) -> Option<Fate> {
    let parts: Vec<&str> = key.split('.').collect();
    let taken = |target: &str| Some(Fate::Taken(target.to_owned()));
    match parts.as_slice() {
        ["listeners", "tcp"] | ["listeners", "ssl"] if value == "none" => {
            let key = if parts[1] == "tcp" { "amqp_port" } else { "amqp_tls_port" };
            draft.set("listeners", key, "off");
            Some(Fate::Taken(format!("listeners.{key}")))
        }
        ["listeners", "tcp", ..] => Some(listener(value, draft)),
        ["listeners", "ssl", ..] => Some(match address(value) {
            Some((_, port)) => {
                draft.set("listeners", "amqp_tls_port", i64::from(port));
                Fate::Taken("listeners.amqp_tls_port".to_owned())
            }
            None => Fate::Wrong("this is neither a port nor an address with a port".to_owned()),
        }),
        ["ssl_options", "verify"] => {
            let verify = match value {
                "verify_peer" => "peer",
                "verify_none" => "none",
                _ => return Some(Fate::Wrong("this is neither verify_peer nor verify_none".to_owned())),
            };
            draft.set("tls", "verify", verify);
            taken("tls.verify")
        }
        ["ssl_options", "versions", _] => Some(match value {
            "tlsv1.2" => {
                draft.set("tls", "min_version", "1.2");
                Fate::Taken("tls.min_version".to_owned())
            }
            "tlsv1.3" => {
                if draft.get("tls", "min_version").is_none() {
                    draft.set("tls", "min_version", "1.3");
                }
                Fate::Taken("tls.min_version".to_owned())
            }
            _ => Fate::LeftOut("versions before 1.2 are not spoken"),
        }),
        ["vm_memory_high_watermark", "relative"] => Some(match value.parse::<f64>() {
            Ok(part) if part > 0.0 && part <= 1.0 => {
                draft.set("limits", "memory_high_watermark", part);
                Fate::Taken("limits.memory_high_watermark".to_owned())
            }
            _ => Fate::Wrong("this is not a part such as 0.6".to_owned()),
        }),
        ["log", "file"] => {
            if value == "false" {
                return taken("log.file, which has no file by default");
            }
            draft.set("log", "file", value);
            taken("log.file")
        }
        ["log", "console"] => taken("standard error, unless log.file is set"),
        ["auth_backends", ..] => Some(match value {
            "internal" | "rabbit_auth_backend_internal" => Fate::Taken("users and permissions".to_owned()),
            _ => Fate::LeftOut(NO_BACKEND),
        }),
        ["auth_mechanisms", _] => Some(match value {
            "PLAIN" | "AMQPLAIN" | "EXTERNAL" => {
                Fate::Taken("all of PLAIN, AMQPLAIN and EXTERNAL".to_owned())
            }
            _ => Fate::LeftOut("there are PLAIN, AMQPLAIN and EXTERNAL"),
        }),
        ["message_interceptors", "incoming", what, "overwrite"] => {
            let target = match *what {
                "set_header_timestamp" => "timestamp",
                "set_header_routing_node" => "routed_by",
                _ => return None,
            };
            draft.set("interceptors", target, if value == "true" { "overwrite" } else { "keep" });
            Some(Fate::Taken(format!("interceptors.{target}")))
        }
        ["definitions", "import_backend"] => taken("definitions.load"),
        _ => user(&parts, value, draft),
    }
}

/// What is said about users.
fn user(parts: &[&str], value: &str, draft: &mut Draft) -> Option<Fate> {
    let text = Some(value.to_owned());
    let target = match parts {
        ["default_user"] => {
            draft.first_user().name = text;
            "users[].name"
        }
        ["default_pass"] => {
            draft.first_user().password = text;
            "users[].password"
        }
        ["default_vhost"] => {
            draft.vhost = text;
            "vhosts[].name"
        }
        ["default_user_tags", tag] => {
            if value == "true" {
                draft.first_user().tags.push((*tag).to_owned());
            }
            "users[].tags"
        }
        ["default_permissions", what] | ["default_users", _, what @ ("configure" | "write" | "read")] => {
            let user =
                if let ["default_users", name, _] = parts { draft.user(name) } else { draft.first_user() };
            match *what {
                "configure" => user.configure = text,
                "write" => user.write = text,
                "read" => user.read = text,
                _ => return None,
            }
            "users[].permissions"
        }
        ["default_users", name, "password"] => {
            draft.user(name).password = text;
            "users[].password"
        }
        ["default_users", name, "vhost_pattern"] => {
            let is_name = value.chars().all(|letter| letter.is_alphanumeric() || "/-_".contains(letter));
            if !is_name {
                return Some(Fate::LeftOut(
                    "permissions name a virtual host: write them for each that is meant",
                ));
            }
            draft.user(name).vhost = text;
            "users[].permissions"
        }
        ["default_users", name, "tags"] => {
            draft.user(name).tags = value.split(',').map(|tag| tag.trim().to_owned()).collect();
            "users[].tags"
        }
        ["loopback_users"] if value == "none" => {
            draft.no_loopback = true;
            "users[].loopback_only"
        }
        ["loopback_users", name] => {
            draft.loopback.insert((*name).to_owned(), value == "true");
            "users[].loopback_only"
        }
        _ => return None,
    };
    Some(Fate::Taken(target.to_owned()))
}

/// An AMQP listener. All have the same port here.
fn listener(value: &str, draft: &mut Draft) -> Fate {
    let Some((address, port)) = address(value) else {
        return Fate::Wrong("this is neither a port nor an address with a port".to_owned());
    };
    let listeners = &mut draft.listeners;
    if listeners.port.is_some_and(|known| known != port) {
        return Fate::LeftOut("all addresses have the same AMQP port, and another one is taken already");
    }
    listeners.port = Some(port);
    if let Some(address) = address
        && !listeners.addresses.contains(&address)
    {
        listeners.addresses.push(address);
    }
    draft.set("listeners", "amqp_port", i64::from(port));
    Fate::Taken(
        if address.is_some() { "listeners.bind, amqp_port" } else { "listeners.amqp_port" }.to_owned(),
    )
}

/// `5672`, `127.0.0.1:5672`, `[::1]:5672` or `::1:5672`.
fn address(value: &str) -> Option<(Option<IpAddr>, u16)> {
    if let Ok(port) = value.parse() {
        return Some((None, port));
    }
    let (address, port) = value.rsplit_once(':')?;
    let address = address.trim_matches(['[', ']']);
    let address = if address == "localhost" { "127.0.0.1" } else { address };
    Some((Some(address.parse().ok()?), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(lines: &[(&str, &str)]) -> String {
        let mut draft = Draft::default();
        for (key, value) in lines {
            let fate = apply(key, value, &mut draft);
            assert!(matches!(fate, Fate::Taken(_)), "{key}: {fate:?}");
        }
        draft.text()
    }

    #[test]
    fn listeners_have_addresses_and_one_port() {
        let text = taken(&[
            ("listeners.tcp.1", "127.0.0.1:5673"),
            ("listeners.tcp.2", "::1:5673"),
            ("listeners.ssl.default", "5674"),
            ("management.tcp.port", "15673"),
        ]);
        assert!(text.contains("amqp_port = 5673\n") && text.contains("amqp_tls_port = 5674\n"), "{text}");
        assert!(text.contains("bind = [\"127.0.0.1\", \"::1\"]"), "{text}");
        let mut draft = Draft::default();
        assert!(matches!(apply("listeners.tcp.1", "1", &mut draft), Fate::Taken(_)));
        assert!(matches!(apply("listeners.tcp.2", "2", &mut draft), Fate::LeftOut(_)));
    }

    #[test]
    fn the_oldest_version_of_tls_counts() {
        let text = taken(&[("ssl_options.versions.1", "tlsv1.3"), ("ssl_options.versions.2", "tlsv1.2")]);
        assert!(text.contains("min_version = \"1.2\""), "{text}");
        assert!(taken(&[("ssl_options.versions.1", "tlsv1.3")]).contains("min_version = \"1.3\""));
    }

    #[test]
    fn guest_from_anywhere_is_written_out() {
        assert!(!taken(&[("heartbeat", "30")]).contains("[[users]]"));
        let text = taken(&[("loopback_users.guest", "false")]);
        assert!(text.contains("name = \"guest\"") && text.contains("loopback_only = false"), "{text}");
        assert!(taken(&[("loopback_users", "none")]).contains("loopback_only = false"));
    }

    #[test]
    fn wrong_values_and_unknown_keys_are_told() {
        let mut draft = Draft::default();
        for (key, value) in [
            ("heartbeat", "often"),
            ("listeners.tcp.1", "here:x"),
            ("vm_memory_high_watermark.relative", "40%"),
            ("disk_free_limit.absolute", "much"),
            ("log.level", "loud"),
            ("default_pass", "encrypted:abc"),
        ] {
            assert!(matches!(apply(key, value, &mut draft), Fate::Wrong(_)), "{key}");
        }
        assert_eq!(apply("heartbeats", "1", &mut draft), Fate::Unknown);
        assert!(matches!(
            apply("cluster_formation.peer_discovery_backend", "k8s", &mut draft),
            Fate::LeftOut(_)
        ));
    }
}
