//! What a broker begins with: the definitions and backlogs that the last one left.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use tracing::warn;

use super::{
    Broker, Now,
    definition::{Binding, Definition},
    effects::Effects,
    exchange::{Destination, Exchange, ExchangeKind},
    journal::cache_of_exchange,
    pager::{Load, Loaded},
    queue::{Deadlines, QueueHandle, QueueId},
    timers::{Timer, TimerKind},
    vhost::{BindingSpec, DeleteIf, ExchangeSpec, VirtualHost},
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
    /// The keys by which duplicates are known.
    pub seen: Vec<RecoveredCache>,
}

/// The keys of a cache, oldest first, as [`Fact::Seen`](super::journal::Fact::Seen) left them.
#[derive(Debug)]
pub struct RecoveredCache {
    /// Whose they are.
    pub cache: QueueId,
    /// Each key, and when it is forgotten.
    pub keys: Vec<(u128, u64)>,
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
    /// Its messages: ranges in the order of their first sequence numbers, which may overlap. They count those that are
    /// ready; those that are held lie among them and are not counted.
    pub backlog: Vec<Backlog>,
    /// When messages leave it by themselves: those of the backlog, for each priority if the queue has priorities.
    pub deadlines: Vec<(Option<u8>, Deadlines)>,
    /// Messages that are not ready, by sequence number.
    pub held: Vec<RecoveredHold>,
}

/// A message that is in a queue and not ready: see [`Fact::Hold`](super::journal::Fact::Hold).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveredHold {
    /// Its sequence number.
    pub sequence: u64,
    /// When it is looked at again.
    pub until_ms: u64,
    /// Why it is dead; 0 if it comes back.
    pub death: u8,
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
    /// Their priority if the queue has priorities: then each one has ranges of its own. None if all have the queue's
    /// default.
    pub priority: Option<u8>,
}

/// Messages that are read at once for their keys.
const KEYS_AT_ONCE: usize = 1024;
/// Octets of them.
const KEYS_BYTES_AT_ONCE: usize = 1 << 20;

impl Broker {
    /// Lets the queues that compare with what they hold know the keys of their backlogs, which are nowhere but in the messages:
    /// all of these are read, by `load`, before anybody connects. To be called after [`Broker::restore`].
    ///
    /// # Errors
    /// What `load` fails with.
    pub fn learn_keys<E>(&self, now: Now, load: impl Fn(&Load) -> Result<Loaded, E>) -> Result<(), E> {
        let queues = self.virtual_hosts.iter().flat_map(|host| host.queues()).collect::<Vec<_>>();
        for queue in queues.iter().filter(|queue| queue.lock().lacks_keys()) {
            let mut next = Load {
                queue: queue.id,
                first: 0,
                last: u64::MAX,
                priorities: None,
                count_max: KEYS_AT_ONCE,
                bytes_max: KEYS_BYTES_AT_ONCE,
                only: Vec::new(),
            };
            loop {
                let loaded = load(&next)?;
                let Some(last) = loaded.messages.last() else { break };
                next.first = last.sequence + 1;
                let mut queue = queue.lock();
                loaded
                    .messages
                    .iter()
                    .for_each(|loaded| queue.learn_key(loaded.sequence, &loaded.message, now));
            }
        }
        Ok(())
    }

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
        for queue in recovered.queues {
            restoring.fill(queue);
        }
        let hosts: Vec<_> = self.virtual_hosts.iter().map(|host| Arc::clone(&host)).collect();
        restoring.know(&hosts, &recovered.seen, now);
        for (host, queue) in restoring.queues.values().filter(|(host, queue)| host.is_left_over(queue)) {
            // Without conditions nothing can be refused, and nobody is there to be told.
            let _ = host.delete_queue(queue, DeleteIf::default(), &mut Effects::default());
        }
        hosts.iter().for_each(|host| host.add_missing_delay_queues(&mut Effects::default()));
        for (_, queue) in restoring.queues.values() {
            queue.used(now);
            self.watch_use(queue, now);
            self.timers.add(&mut vec![Timer {
                queue: Arc::clone(queue),
                at_ms: 0,
                what: TimerKind::Messages,
            }]);
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
            D::PolicyPut { virtual_host, policy } => {
                self.host(virtual_host)?.put_policy(Arc::clone(policy), &mut self.effects);
            }
            D::PolicyDeleted { virtual_host, kind, name } => {
                self.host(virtual_host)?.delete_policy(*kind, name, &mut self.effects);
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

    /// Puts the keys back by which duplicates are known, where they are looked for.
    fn know(&self, hosts: &[Arc<VirtualHost>], seen: &[RecoveredCache], now: Now) {
        if seen.is_empty() {
            return;
        }
        let exchanges = hosts.iter().flat_map(|host| host.exchanges());
        let telling = exchanges.filter(|exchange| exchange.deduplication().is_some());
        let telling: HashMap<QueueId, Arc<Exchange>> = telling
            .map(|exchange| (cache_of_exchange(&exchange.virtual_host, &exchange.name), exchange))
            .collect();
        for recovered in seen {
            if let Some((_, queue)) = self.queues.get(&recovered.cache) {
                queue.lock().restore_keys(recovered, now.unix_ms);
            } else if let Some((deduplication, keys)) =
                telling.get(&recovered.cache).and_then(|exchange| exchange.deduplication())
            {
                keys.restore(recovered, deduplication.cache_size, now.unix_ms);
            }
        }
    }

    fn fill(&self, recovered: RecoveredQueue) {
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
