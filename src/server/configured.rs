//! What the configuration says is there, and what was recorded: which of the two counts.
//!
//! - Virtual hosts are made at the start if they are not there, and recorded: what is in them is durable. One that is there
//!   stays as it is, limits included.
//! - Users, their permissions and policies of broker.toml are there from each start on, and are not recorded. One that was
//!   set at run time counts instead. One that was deleted at run time is back at the next start, for broker.toml says so.
//! - The first user, guest or the one of `RABBITMQ_DEFAULT_USER`, and the first virtual host are made and recorded when a
//!   node begins, unless there are others: neither comes back once it was deleted. With a file of definitions neither is
//!   made. That a node has begun is recorded after them, as the file that it has loaded or that there was none; after a
//!   crash before that it begins again.

use std::{fs, path::Path, sync::Arc};

use sha2::{Digest as _, Sha256};
use tracing::{info, warn};

use super::RunError;
use crate::{
    broker::{
        Broker, Now,
        definition::{Definition, NO_FILE},
        permission::Permissions,
        restore::Recovered,
        user::Users,
    },
    config::{Config, Definitions},
    management::definitions,
};

/// The users and permissions that are there from each start on.
pub(super) fn standing(config: &Config) -> (Users, Permissions) {
    let standing = config.with_users(|user| !config.is_first_user(user));
    (standing.users(), standing.permissions())
}

/// Puts back what was recorded, and adds what the configuration has and what was not.
///
/// # Errors
/// If there is a file of definitions that can't be read or imported.
pub(super) fn set_up(
    config: &Config,
    broker: &Broker,
    recovered: Recovered,
    now: Now,
) -> Result<(), RunError> {
    let recorded: Vec<Arc<str>> = recovered
        .definitions
        .iter()
        .filter_map(|definition| match definition {
            Definition::UserPut(user) => Some(Arc::clone(&user.name)),
            _ => None,
        })
        .collect();
    let is_file = |definition: &Definition| matches!(definition, Definition::FileLoaded { .. });
    let has_begun = recovered.definitions.iter().any(is_file);
    broker.restore(recovered, now);
    for user in config.users.iter().filter(|user| recorded.iter().any(|name| **name == *user.name)) {
        if !config.is_first_user(user) {
            info!(user = user.name, "this user is as it was set at run time, not as the configuration says");
        }
    }
    let loads = config.definitions.load.is_some();
    if !config.has_first_virtual_host_only() || !(has_begun || loads) && broker.virtual_hosts().is_empty() {
        add_virtual_hosts(config, broker);
    }
    if let Some(path) = &config.definitions.load {
        load(path, &config.definitions, broker, now)?;
    }
    if recorded.is_empty() && !has_begun && !loads {
        add_first_user(config, broker);
    }
    if broker.loaded_file().is_none() {
        broker.define(Definition::FileLoaded { digest: NO_FILE });
    }
    if broker.users.list().is_empty() {
        warn!("there are no users: nobody can log in");
    }
    for host in broker.virtual_hosts() {
        let policies = config.policies_of(&host.name);
        broker.configure_policies(&host.name, policies, now).expect("invariant: the virtual host is there");
    }
    for host in &config.vhosts {
        broker.set_tracing(&host.name, host.tracing);
    }
    Ok(())
}

fn add_virtual_hosts(config: &Config, broker: &Broker) {
    for host in &config.vhosts {
        match broker.virtual_host(&host.name) {
            None => drop(broker.add_virtual_host(&host.name, host.connections_max, host.queues_max)),
            Some(current) => {
                let limits = (broker.counts.virtual_host_max(&host.name).flatten(), current.queues_max());
                if limits != (host.connections_max, host.queues_max) {
                    info!(
                        vhost = host.name,
                        "this virtual host keeps the limits it has, not those of the configuration"
                    );
                }
            }
        }
    }
}

fn add_first_user(config: &Config, broker: &Broker) {
    let first = config.with_users(|user| config.is_first_user(user));
    for user in first.users().list() {
        info!(user = &*user.name, "the first user is made, for there are no others");
        broker.define(Definition::UserPut(user));
    }
    let is_there = |name: &str| broker.virtual_host(name).is_some();
    for (user, host, permission) in first.permissions().list() {
        if is_there(&host) {
            broker.grant(&user, &host, permission);
        }
    }
}

/// Imports a file of definitions, unless it is the one that was imported last.
fn load(path: &Path, options: &Definitions, broker: &Broker, now: Now) -> Result<(), RunError> {
    let failed = |reason: String| RunError::Definitions { path: path.to_owned(), reason };
    let octets = fs::read(path).map_err(|error| failed(error.to_string()))?;
    let digest: [u8; 32] = Sha256::digest(&octets).into();
    if options.skip_if_unchanged && broker.loaded_file() == Some(digest) {
        info!(file = %path.display(), "the file of definitions has not changed since it was loaded");
        return Ok(());
    }
    let imported = definitions::read(&octets, None).and_then(|import| broker.import(import, None, now));
    imported.map_err(|refused| failed(definitions::report(&refused)))?;
    // After all of it: if a crash comes between, it is loaded again.
    broker.define(Definition::FileLoaded { digest });
    info!(file = %path.display(), "definitions loaded");
    Ok(())
}
