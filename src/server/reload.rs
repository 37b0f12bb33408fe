//! SIGHUP: the configuration is read again, for what can change while connections go on.

use std::sync::Arc;

use tokio::signal::unix::Signal;
use tracing::{error, info, warn};

use super::tls::Tls;
use crate::{
    config::{self, Config, Source},
    log::Log,
};

/// What SIGHUP needs.
#[derive(Clone, Debug)]
pub struct Reload {
    /// Where the configuration comes from.
    pub source: Source,
    /// The log, whose levels and file may change.
    pub log: Log,
}

impl Reload {
    /// Does so at each SIGHUP for as long as the broker runs.
    pub(super) async fn watch(self, mut hangup: Signal, started_with: Arc<Config>, tls: Option<Arc<Tls>>) {
        while hangup.recv().await.is_some() {
            match self.source.load() {
                Ok(config) => self.apply(&config, &started_with, tls.as_deref()),
                Err(error) => error!("SIGHUP: nothing changes: {error}"),
            }
        }
    }

    fn apply(&self, config: &Config, started_with: &Config, tls: Option<&Tls>) {
        if let Err(error) = self.log.reload(&config.log) {
            error!("SIGHUP: {error}");
        }
        match tls.map(|tls| tls.reload(&config.tls)) {
            Some(Ok(())) => info!("SIGHUP: read the certificates and the levels of the log again"),
            Some(Err(error)) => error!("SIGHUP: the certificates stay as they were: {error}"),
            None => info!("SIGHUP: read the levels of the log again"),
        }
        if needs_restart(config, started_with) {
            warn!("SIGHUP: what else is new in the configuration counts from the next start");
        }
    }
}

/// Whether more differs than what can change at once.
fn needs_restart(config: &Config, started_with: &Config) -> bool {
    let mut same = started_with.clone();
    if started_with.tls.certificate.is_some() && config.tls.certificate.is_some() {
        same.tls = config.tls.clone();
    }
    same.log = config::Log {
        format: started_with.log.format,
        exchange: started_with.log.exchange,
        ..config.log.clone()
    };
    same != *config
}
