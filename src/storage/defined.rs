//! What is defined while the log is written, as far as facts about messages depend on it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::definitions::Definitions;
use crate::broker::{definition::Definition, journal::cache_of_exchange, queue::QueueId};

/// The durable queues and exchanges that there are.
#[derive(Debug, Default)]
pub(super) struct Defined {
    queues: HashSet<QueueId>,
    /// The virtual host of each exchange, by the cache that its keys are in.
    exchanges: HashMap<QueueId, Arc<str>>,
}

impl Defined {
    /// What these definitions make.
    pub(super) fn new(definitions: &Definitions) -> Self {
        let queues = definitions.queues().map(|(id, _)| id).collect();
        let exchanges = definitions.exchanges();
        let exchanges =
            exchanges.map(|(host, name)| (cache_of_exchange(host, name), Arc::clone(host))).collect();
        Self { queues, exchanges }
    }

    /// Does what the definition says, and returns the caches of exchanges that have ended with it.
    pub(super) fn apply(&mut self, definition: &Definition) -> Vec<QueueId> {
        match definition {
            Definition::QueueDeclared { id, .. } => {
                self.queues.insert(*id);
            }
            Definition::QueueDeleted { id } => {
                self.queues.remove(id);
            }
            Definition::ExchangeDeclared { virtual_host, name, .. } => {
                self.exchanges.insert(cache_of_exchange(virtual_host, name), Arc::clone(virtual_host));
            }
            Definition::ExchangeDeleted { virtual_host, name } => {
                let cache = cache_of_exchange(virtual_host, name);
                return self.exchanges.remove(&cache).map(|_| cache).into_iter().collect();
            }
            Definition::VirtualHostDeleted { name } => {
                let of_host = self.exchanges.extract_if(|_, host| host == name);
                return of_host.map(|(cache, _)| cache).collect();
            }
            _ => {}
        }
        Vec::new()
    }

    /// Whether there is that queue.
    pub(super) fn has_queue(&self, id: QueueId) -> bool {
        self.queues.contains(&id)
    }

    /// Whether there is anything whose keys are in that cache.
    pub(super) fn has_cache(&self, cache: QueueId) -> bool {
        self.queues.contains(&cache) || self.exchanges.contains_key(&cache)
    }
}
