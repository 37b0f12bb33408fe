//! What types can't say: ranges, and whether the parts agree.

use std::collections::HashSet;
use std::fmt::Display;
use std::ops::RangeInclusive;

use super::{Config, ConfigError, Limits, Log, Storage, Tls, User, Verify};
use crate::broker::permission;

/// Milliseconds of ten years.
const TIMEOUT_MS_MAX: u64 = 315_360_000_000;

/// Something wrong with a key, before it is known where the key was set.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) key: String,
    problem: String,
}

impl Fault {
    pub(super) fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }

    /// A value that is not of the type of its key.
    pub(super) fn of_value(key: impl Into<String>, error: &toml::de::Error) -> Self {
        let number = |max: u64| format!("expected a whole number from 0 to {max}");
        let problem = error.message().replace("expected u16", &number(u16::MAX.into()));
        let problem = problem.replace("expected u32", &number(u32::MAX.into()));
        let problem = problem.replace("expected i64", "expected a whole number");
        Self::new(key, problem.replace("expected u64", "expected a whole number from 0"))
    }

    pub(super) fn at(self, place: String) -> ConfigError {
        ConfigError::Invalid { place, key: self.key, problem: self.problem }
    }
}

/// Checks everything that parsing did not.
pub(super) fn check(config: &Config) -> Result<(), Fault> {
    check_limits(&config.limits)?;
    check_compatibility(config)?;
    check_storage(&config.storage)?;
    check_tls(&config.tls)?;
    check_unix_socket(config)?;
    check_log(&config.log)?;
    let mut vhosts = HashSet::new();
    for (index, vhost) in config.vhosts.iter().enumerate() {
        let key = format!("vhosts[{index}].name");
        check_name(&vhost.name).map_err(|problem| Fault::new(&key, problem))?;
        unique(&mut vhosts, &vhost.name, key)?;
    }
    let mut users = HashSet::new();
    for (index, user) in config.users.iter().enumerate() {
        let key = format!("users[{index}]");
        unique(&mut users, &user.name, format!("{key}.name"))?;
        check_user(user, &vhosts, &key)?;
    }
    check_policies(config, &vhosts)
}

fn check_policies(config: &Config, vhosts: &HashSet<&str>) -> Result<(), Fault> {
    for (kind, section, policies) in config.policies_by_kind() {
        let mut names = HashSet::new();
        for (index, policy) in policies.iter().enumerate() {
            let key = format!("{section}[{index}]");
            known_vhost(vhosts, &policy.vhost, &key)?;
            if !names.insert((&policy.vhost, &policy.name)) {
                return Err(Fault::new(format!("{key}.name"), format!("'{}' is there twice", policy.name)));
            }
            policy.build(kind, &key)?;
        }
    }
    Ok(())
}

/// A name of a user or a virtual host, which must fit into a short string.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    match name.len() {
        1..=255 => Ok(()),
        length => Err(format!("a name has 1 to 255 bytes, this has {length}")),
    }
}

fn check_limits(limits: &Limits) -> Result<(), Fault> {
    in_range("limits.frame_max", limits.frame_max, 4096..=16 << 20, "bytes")?;
    in_range("limits.handshake_timeout_secs", limits.handshake_timeout_secs, 1..=3600, "seconds")?;
    in_range("limits.max_message_bytes", limits.max_message_bytes, 1..=512 << 20, "bytes")?;
    in_range("limits.consumer_timeout_ms", limits.consumer_timeout_ms, 0..=TIMEOUT_MS_MAX, "milliseconds")?;
    let unsent = limits.unsent_bytes_per_connection;
    in_range("limits.unsent_bytes_per_connection", unsent, 4096..=1 << 30, "bytes")?;
    in_range("limits.tcp_backlog", limits.tcp_backlog, 1..=65_535, "connections")
}

fn check_storage(storage: &Storage) -> Result<(), Fault> {
    if storage.data_dir.as_os_str().is_empty() {
        return Err(Fault::new("storage.data_dir", "the path is empty"));
    }
    let (key, bytes) = ("storage.segment_bytes", storage.segment_bytes);
    in_range(key, bytes, 64 << 10..=1 << 30, "bytes")?;
    if bytes % 4096 == 0 {
        Ok(())
    } else {
        Err(Fault::new(key, format!("{bytes} is not a multiple of 4096")))
    }
}

/// What is missing. Whether the files are good is seen when they are read.
fn check_tls(tls: &Tls) -> Result<(), Fault> {
    let missing = |key: &str, problem: &str| Err(Fault::new(format!("tls.{key}"), problem));
    match (&tls.certificate, &tls.key) {
        (Some(_), None) => {
            return missing("key", "the file with the private key of tls.certificate is missing");
        }
        (None, Some(_)) => {
            return missing("certificate", "the file with the certificate of tls.key is missing");
        }
        (None, None) if !tls.sni.is_empty() => {
            return missing("certificate", "clients that name no host, or another, need a certificate too");
        }
        _ => {}
    }
    let mut hosts = HashSet::new();
    for (index, named) in tls.sni.iter().enumerate() {
        let key = format!("tls.sni[{index}].host");
        check_name(&named.host).map_err(|problem| Fault::new(&key, problem))?;
        unique(&mut hosts, &named.host, key)?;
    }
    if tls.verify == Verify::Peer && tls.client_ca.is_none() {
        return missing("client_ca", "the file with the CAs of clients is missing, which tls.verify needs");
    }
    if tls.verify == Verify::None && tls.require_client_certificate {
        return missing("verify", "a certificate can only be required of clients with \"peer\"");
    }
    Ok(())
}

/// The system takes 107 bytes.
fn check_unix_socket(config: &Config) -> Result<(), Fault> {
    match config.listeners.unix_socket.as_ref().map(|path| path.as_os_str().len()) {
        Some(length @ 101..) => {
            let problem = format!("a socket's path has at most 100 bytes, this has {length}");
            Err(Fault::new("listeners.unix_socket", problem))
        }
        _ => Ok(()),
    }
}

fn check_log(log: &Log) -> Result<(), Fault> {
    for part in log.levels.keys() {
        if crate::log::targets_of(part).is_empty() {
            let problem = format!("there is no such part of the broker; there are {}", crate::log::PARTS);
            return Err(Fault::new(format!("log.levels.{part}"), problem));
        }
    }
    Ok(())
}

/// They travel as strings in a frame that every client must accept, so they stay short.
fn check_compatibility(config: &Config) -> Result<(), Fault> {
    let compatibility = &config.compatibility;
    let names = [
        ("product", &compatibility.product),
        ("version", &compatibility.version),
        ("cluster_name", &compatibility.cluster_name),
    ];
    names.into_iter().try_for_each(|(key, value)| {
        check_name(value).map_err(|problem| Fault::new(format!("compatibility.{key}"), problem))
    })
}

fn check_user(user: &User, vhosts: &HashSet<&str>, key: &str) -> Result<(), Fault> {
    check_name(&user.name).map_err(|problem| Fault::new(format!("{key}.name"), problem))?;
    if user.password.is_some() == user.password_hash.is_some() {
        return Err(Fault::new(format!("{key}.password"), "a user has either a password or a password_hash"));
    }
    if user.password.as_ref().is_some_and(|password| password.expose().is_empty()) {
        return Err(Fault::new(format!("{key}.password"), "an empty password can't be used to log in"));
    }
    user.hash().map_err(|error| Fault::new(format!("{key}.password_hash"), error.to_string()))?;
    check_permissions(user, vhosts, key)?;
    check_topic_permissions(user, vhosts, key)
}

fn check_permissions(user: &User, vhosts: &HashSet<&str>, key: &str) -> Result<(), Fault> {
    let mut seen = HashSet::new();
    for (index, permission) in user.permissions.iter().enumerate() {
        let key = format!("{key}.permissions[{index}]");
        known_vhost(vhosts, &permission.vhost, &key)?;
        unique(&mut seen, &permission.vhost, format!("{key}.vhost"))?;
        for (name, pattern) in
            [("configure", &permission.configure), ("write", &permission.write), ("read", &permission.read)]
        {
            let checked = permission::Permission::new(pattern, "", "");
            checked.map_err(|error| Fault::new(format!("{key}.{name}"), error.to_string()))?;
        }
    }
    Ok(())
}

fn check_topic_permissions(user: &User, vhosts: &HashSet<&str>, key: &str) -> Result<(), Fault> {
    let mut seen = HashSet::new();
    for (index, topic) in user.topic_permissions.iter().enumerate() {
        let key = format!("{key}.topic_permissions[{index}]");
        known_vhost(vhosts, &topic.vhost, &key)?;
        check_name(&topic.exchange).map_err(|problem| Fault::new(format!("{key}.exchange"), problem))?;
        if !seen.insert((&topic.vhost, &topic.exchange)) {
            return Err(Fault::new(
                format!("{key}.exchange"),
                format!("'{}' is there twice", topic.exchange),
            ));
        }
        for (name, pattern) in [("write", &topic.write), ("read", &topic.read)] {
            let checked = permission::TopicPermission::new(&user.name, &topic.vhost, pattern, "");
            checked.map_err(|error| Fault::new(format!("{key}.{name}"), error.to_string()))?;
        }
    }
    Ok(())
}

fn known_vhost(vhosts: &HashSet<&str>, name: &str, key: &str) -> Result<(), Fault> {
    let problem = || format!("there is no virtual host '{name}'; [[vhosts]] names those that exist");
    if vhosts.contains(name) { Ok(()) } else { Err(Fault::new(format!("{key}.vhost"), problem())) }
}

fn unique<'a>(seen: &mut HashSet<&'a str>, name: &'a str, key: String) -> Result<(), Fault> {
    if seen.insert(name) { Ok(()) } else { Err(Fault::new(key, format!("'{name}' is there twice"))) }
}

fn in_range<T: PartialOrd + Display>(
    key: &str,
    value: T,
    range: RangeInclusive<T>,
    unit: &str,
) -> Result<(), Fault> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(Fault::new(key, format!("{value} is not from {} to {} {unit}", range.start(), range.end())))
}
