//! All listeners of a broker: which there are by the configuration, and how it is said where they are.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::info;

use super::{
    RunError,
    arrival::Gate,
    listener::Listener,
    tls::{Protocol, Tls},
    unix_socket::UnixSocket,
};
use crate::{
    config::{Config, Port},
    management::Listening,
};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Ports {
    /// AMQP, with TLS and without.
    pub(super) amqp: Vec<Listener>,
    /// The API and the page, likewise.
    pub(super) management: Vec<Listener>,
    /// Metrics, likewise.
    pub(super) prometheus: Vec<Listener>,
    /// AMQP within the machine.
    pub(super) unix: Option<UnixSocket>,
    /// Where all of them are.
    pub(super) addresses: Addresses,
}

/// Where listeners are.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    /// Those with an address.
    pub(super) listening: Vec<Listening>,
    unix: Option<PathBuf>,
}

/// A kind of listener: RabbitMQ's name of what is spoken, its key in the ready file, and its name for people.
type Kind = (&'static str, &'static str, &'static str);

const AMQP: Kind = ("amqp", "amqp", "AMQP");
const AMQP_TLS: Kind = ("amqp/ssl", "amqp_tls", "AMQP over TLS");
const MANAGEMENT: Kind = ("http", "management", "management");
const MANAGEMENT_TLS: Kind = ("https", "management_tls", "management over TLS");
const PROMETHEUS: Kind = ("http/prometheus", "prometheus", "metrics");
const PROMETHEUS_TLS: Kind = ("https/prometheus", "prometheus_tls", "metrics over TLS");

impl Ports {
    /// Listens wherever the configuration says; with TLS only if there is a certificate.
    ///
    /// # Errors
    /// If an address is taken, or the system refuses.
    pub(super) fn bind(config: &Config, tls: Option<&Arc<Tls>>) -> Result<Self, RunError> {
        let keys = &config.listeners;
        let mut addresses = Addresses::default();
        let mut bind = |kind, port, flag, gate| bind(config, kind, port, flag, &gate, &mut addresses);
        let open = || Gate::new(false, None);
        let mut amqp = bind(AMQP, keys.amqp_port, "--amqp-port", Gate::new(keys.proxy_protocol, None))?;
        let mut management = bind(MANAGEMENT, keys.management_port, "--management-port", open())?;
        let mut prometheus = bind(PROMETHEUS, keys.prometheus_port, "--prometheus-port", open())?;
        if let Some(tls) = tls {
            let over_tls = |is_proxied, protocol| Gate::new(is_proxied, Some((Arc::clone(tls), protocol)));
            let gate = over_tls(keys.proxy_protocol, Protocol::Amqp);
            amqp.extend(bind(AMQP_TLS, keys.amqp_tls_port, "--amqp-tls-port", gate)?);
            let gate = || over_tls(false, Protocol::Http);
            let (port, flag) = (keys.management_tls_port, "--management-tls-port");
            management.extend(bind(MANAGEMENT_TLS, port, flag, gate())?);
            let (port, flag) = (keys.prometheus_tls_port, "--prometheus-tls-port");
            prometheus.extend(bind(PROMETHEUS_TLS, port, flag, gate())?);
        }
        let unix = keys.unix_socket.as_deref().map(|path| UnixSocket::bind(path, keys.unix_socket_mode));
        let unix = unix.transpose()?;
        addresses.unix = unix.as_ref().map(|socket| socket.path().to_owned());
        Ok(Self { amqp, management, prometheus, unix, addresses })
    }
}

/// Listens on that port of every configured address.
fn bind(
    config: &Config,
    (protocol, ..): Kind,
    port: Port,
    flag: &'static str,
    gate: &Gate,
    addresses: &mut Addresses,
) -> Result<Vec<Listener>, RunError> {
    let Some(port) = port.number() else { return Ok(Vec::new()) };
    let to_bind = config.listeners.bind.iter().map(|address| SocketAddr::from((*address, port)));
    let bound = to_bind.map(|address| Listener::bind(address, config.limits.tcp_backlog, flag, gate.clone()));
    let bound: Vec<Listener> = bound.collect::<Result<_, _>>()?;
    let listening = bound.iter().map(|listener| Listening { protocol, address: listener.address() });
    addresses.listening.extend(listening);
    Ok(bound)
}

impl Addresses {
    /// Says that the broker is ready, in the log and in the ready file. The file appears whole or not at all.
    pub(super) fn announce(&self, ready_file: Option<&Path>) -> Result<(), RunError> {
        let kinds = [AMQP, AMQP_TLS, MANAGEMENT, MANAGEMENT_TLS, PROMETHEUS, PROMETHEUS_TLS];
        let mut lists = kinds.map(|(protocol, key, title)| (key, title, self.of(protocol))).to_vec();
        let unix = self.unix.iter().map(|path| path.display().to_string());
        lists.push(("unix_socket", "AMQP", unix.collect()));
        if let Some(path) = ready_file {
            let lines = lists.iter().map(|(key, _, list)| format!("{key} = {list:?}\n"));
            let written = std::fs::write(path.with_extension("new"), lines.collect::<String>())
                .and_then(|()| std::fs::rename(path.with_extension("new"), path));
            written.map_err(|source| RunError::ReadyFile { path: path.to_owned(), source })?;
        }
        let there = lists.iter().filter(|(_, _, list)| !list.is_empty());
        let there: Vec<String> =
            there.map(|(_, title, list)| format!("{title} on {}", list.join(", "))).collect();
        info!("Server startup complete: {}", there.join("; "));
        Ok(())
    }

    fn of(&self, protocol: &str) -> Vec<String> {
        let listening = self.listening.iter().filter(|listener| listener.protocol == protocol);
        listening.map(|listener| listener.address.to_string()).collect()
    }
}
