//! What a broker begins with: the definitions and backlogs that the last one left.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use tracing::warn;

use super::{
    Broker, Now,
    definition::{Binding, Definition},
    exchange::ExchangeKind,
    queue::{QueueHandle, QueueId},
    vhost::{BindingSpec, DeleteIf, Destination, Effects, ExchangeSpec, VirtualHost},
};

/// What storage has found, in the order in which it is to be put back.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Replayed in order, they make what was defined.
    pub definitions: Vec<Definition>,
    /// Every identity of a queue that there ever was is below it.
    pub next_id: u64,
    /// The queues that hold messages, or did.
    pub queues: Vec<RecoveredQueue>,
}

/// The messages of a durable queue.
#[derive(Debug)]
pub struct RecoveredQueue {
    /// The queue.
    pub id: QueueId,
    /// The sequence number that its next message gets: above all that the log has ever named.
    pub next_sequence: u64,
    /// Messages up to this sequence number may have been delivered: they come back marked as redelivered.
    pub delivered_up_to: u64,
    /// Octets of the bodies of its messages.
    pub body_bytes: u64,
    /// Its messages: ranges in the order of their first sequence numbers, which may overlap.
    pub backlog: Vec<Backlog>,
}

/// Messages of a queue that are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// The first sequence number.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// How many messages there are in that range, of this priority.
    pub count: u64,
    /// Their priority if the queue has priorities: then each one has ranges of its own.
    pub priority: Option<u8>,
}

impl Broker {
    /// Puts back what storage has found, before anybody connects. The log has all of it, so nothing is recorded. What
    /// does not fit is left out, with a warning. Limits do not count: what was there is there again.
    pub fn restore(&self, recovered: Recovered, now: Now) {
        self.ids.fetch_max(ids_above(&recovered), Ordering::Relaxed);
        let mut restoring = Restoring {
            broker: self,
            queues: HashMap::new(),
            effects: Effects { is_replay: true, ..Effects::default() },
        };
        for definition in &recovered.definitions {
            if let Err(reason) = restoring.define(definition) {
                warn!("left out: {reason}: {definition:?}");
            }
        }
        for queue in &recovered.queues {
            restoring.fill(queue);
        }
        for (host, queue) in restoring.queues.values() {
            queue.used(now);
            self.expiry.watch(host, queue, now);
        }
    }
}

/// A number above every identity that is named.
fn ids_above(recovered: &Recovered) -> u64 {
    let defined = recovered.definitions.iter().filter_map(|definition| match definition {
        Definition::QueueDeclared { id, .. } | Definition::QueueDeleted { id } => Some(id.0 + 1),
        _ => None,
    });
    let filled = recovered.queues.iter().map(|queue| queue.id.0 + 1);
    defined.chain(filled).max().unwrap_or(0).max(recovered.next_id)
}

/// A broker that is being put back.
struct Restoring<'a> {
    broker: &'a Broker,
    queues: HashMap<QueueId, (Arc<VirtualHost>, Arc<QueueHandle>)>,
    effects: Effects,
}

impl Restoring<'_> {
    /// Does what was done then.
    ///
    /// # Errors
    /// Why that is not possible.
    fn define(&mut self, definition: &Definition) -> Result<(), String> {
        use Definition as D;
        match definition {
            D::QueueDeclared { virtual_host, id, name, auto_delete, arguments } => {
                let host = self.host(virtual_host)?;
                let queue = host.restore_queue(*id, name, *auto_delete, arguments.clone());
                self.queues.insert(*id, (host, queue.map_err(|refusal| refusal.reply_text())?));
            }
            D::QueueDeleted { id } => {
                let (host, queue) = self.queues.remove(id).ok_or("no such queue")?;
                // Without conditions nothing can be refused.
                let _ = host.delete_queue(&queue, DeleteIf::default(), &mut self.effects);
            }
            D::ExchangeDeclared { virtual_host, name, kind, auto_delete, internal, arguments } => {
                let host = self.host(virtual_host)?;
                let (auto_delete, internal, arguments) = (*auto_delete, *internal, arguments.clone());
                let kind = ExchangeKind::parse(kind).ok_or("no such type of exchange")?;
                let spec = ExchangeSpec { name, kind, durable: true, auto_delete, internal, arguments };
                host.declare_exchange(&spec, &mut self.effects).map_err(|refusal| refusal.reply_text())?;
            }
            D::ExchangeDeleted { virtual_host, name } => {
                let host = self.host(virtual_host)?;
                host.delete_exchange(name, false, &mut self.effects)
                    .map_err(|refusal| refusal.reply_text())?;
            }
            D::Bound(binding) => {
                let (host, destination) = self.ends(binding)?;
                host.bind(&destination, spec(binding), &mut self.effects)
                    .map_err(|refusal| refusal.reply_text())?;
            }
            D::Unbound(binding) => {
                let (host, destination) = self.ends(binding)?;
                host.unbind(&destination, spec(binding), &mut self.effects);
            }
            D::VirtualHostDeleted { name } => {
                self.queues.retain(|_, (host, _)| host.name != *name);
                self.broker.apply(definition.clone());
            }
            _ => self.broker.apply(definition.clone()),
        }
        Ok(())
    }

    fn host(&self, name: &str) -> Result<Arc<VirtualHost>, String> {
        self.broker.virtual_host(name).ok_or_else(|| format!("no virtual host '{name}'"))
    }

    /// Where a binding is, and where it leads.
    fn ends(&self, binding: &Binding) -> Result<(Arc<VirtualHost>, Destination), String> {
        let host = self.host(&binding.virtual_host)?;
        let name = &binding.destination;
        let destination = if binding.to_exchange {
            host.exchange(name).map(Destination::Exchange)
        } else {
            host.queue(name).map(Destination::Queue)
        };
        let destination = destination.ok_or_else(|| format!("no destination '{name}'"))?;
        Ok((host, destination))
    }

    fn fill(&self, recovered: &RecoveredQueue) {
        match self.queues.get(&recovered.id) {
            Some((_, queue)) => queue.lock().restore(recovered),
            None => {
                let count: u64 = recovered.backlog.iter().map(|range| range.count).sum();
                warn!("left out: no queue has the identity {}: {count} messages", recovered.id.0);
            }
        }
    }
}

fn spec(binding: &Binding) -> BindingSpec<'_> {
    BindingSpec { source: &binding.source, binding_key: &binding.binding_key, arguments: &binding.arguments }
}
