//! The storage on a disk that crashes, driven by hand, and what is known of the log: what was synced.

#![allow(missing_docs, unreachable_pub, reason = "a part of a test")]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use leveret::{
    broker::{
        definition::Definition,
        journal::{Batch, Fact, Journal, Lsn, cache_of_exchange},
        pager::{Load, Loaded, LoadedMessage},
        queue::QueueId,
        restore,
    },
    storage::{self, Opened, Options, Reader, StorageError},
};
use rand::{Rng, rngs::StdRng};
use sha2::{Digest as _, Sha256};

use crate::{
    disk::SimDisk,
    model::{
        crash::{Recovered, RecoveredMessage, RecoveredQueue, Synced},
        id_of,
    },
    operation::{FANOUT, KEYS, Kind, UNIQUE},
};

/// See the module's text.
pub struct Log {
    disk: SimDisk,
    log: Option<storage::Log>,
    reader: Reader,
    /// What was written, and may be lost in a crash.
    unsynced: Vec<Batch>,
    ledger: Ledger,
}

impl Log {
    /// Opens what is on the disk, and says what a model and what a broker begins with. The log before it had `declared`
    /// those queues.
    ///
    /// # Errors
    /// If the storage can't go on.
    pub fn open(
        disk: &SimDisk,
        options: Options,
        declared: &[QueueId],
    ) -> Result<(Self, Recovered, restore::Recovered), StorageError> {
        let Opened { log, reader, recovered, .. } = storage::open(Arc::new(disk.clone()), options)?;
        let mut ledger = Ledger::default();
        recovered.definitions.iter().for_each(|definition| ledger.define(definition));
        let mut queues = Recovered::new();
        for (id, name) in &ledger.alive {
            let queue = recovered.queues.iter().find(|queue| queue.id == *id);
            let messages = queue.map_or(Ok(Vec::new()), |queue| messages(&reader, queue, Kind::of(name)))?;
            let is_bound = ledger.bound.contains(name);
            let next = queue.map_or(1, |queue| queue.next_sequence.max(1));
            let number = declared.iter().position(|known| known == id);
            assert!(number.is_some(), "{name} was never declared");
            let known = known(&recovered, *id, Kind::of(name));
            queues.insert(name.clone(), RecoveredQueue { number, is_bound, next, messages, known });
        }
        for queue in &recovered.queues {
            ledger.delivered_up_to.insert(queue.id, queue.delivered_up_to);
        }
        ledger.declared = ledger.alive.keys().copied().collect();
        for (id, name) in &ledger.alive {
            for message in &queues[name].messages {
                ledger.content.insert((*id, message.position));
                ledger.returned.insert((*id, message.position), message.delivery_count);
                ledger.ids.insert((*id, message.position), message.id);
            }
        }
        let log = Self { disk: disk.clone(), log: Some(log), reader, unsynced: Vec::new(), ledger };
        Ok((log, queues, recovered))
    }

    /// The disk, to let it crash.
    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// Every durable queue that there was since it was opened, in order.
    pub fn declared(&self) -> &[QueueId] {
        &self.ledger.declared
    }

    /// Writes what there is in the journal; whether that was anything.
    ///
    /// # Errors
    /// If the disk has crashed.
    pub fn take(&mut self, journal: &Journal, random: &mut StdRng) -> Result<bool, StorageError> {
        let Some(batch) = journal.try_take_batch() else { return Ok(false) };
        self.ledger.wrote(&batch.facts);
        self.log().write(&with_late_publishes(&batch.facts, random), 0)?;
        journal.mark_written(&batch);
        self.unsynced.push(batch);
        Ok(true)
    }

    /// Makes everything durable that was written; whether there was anything.
    ///
    /// # Errors
    /// If the disk has crashed.
    pub fn sync(&mut self, journal: &Journal, durable: &mut HashSet<u64>) -> Result<bool, StorageError> {
        self.log().sync()?;
        Ok(self.synced_all(journal, durable))
    }

    fn synced_all(&mut self, journal: &Journal, durable: &mut HashSet<u64>) -> bool {
        let batches = std::mem::take(&mut self.unsynced);
        let last = batches.last().map(|batch| batch.last);
        for fact in batches.iter().flat_map(|batch| &batch.facts) {
            if fact.is_awaited()
                && let Fact::Publish { message, .. } = fact
            {
                durable.insert(id_of(message.body().as_slice()));
            }
            self.ledger.synced(fact);
        }
        last.into_iter().for_each(|last: Lsn| journal.mark_durable(last));
        last.is_some()
    }

    /// The log has nothing to do.
    ///
    /// # Errors
    /// If the disk has crashed.
    pub fn idle(&mut self) -> Result<(), StorageError> {
        self.log().idle()
    }

    /// Loads messages for a queue.
    ///
    /// # Errors
    /// If the disk has crashed.
    pub fn load(&self, load: &Load) -> Result<Loaded, StorageError> {
        let loaded = self.reader.load(load)?;
        assert_eq!(loaded.damaged, 0, "nothing rots");
        Ok(loaded)
    }

    /// A clean end: everything that was written is durable after it. Nothing may be written any more.
    ///
    /// # Errors
    /// If the disk has crashed.
    pub fn close(&mut self, journal: &Journal, durable: &mut HashSet<u64>) -> Result<(), StorageError> {
        self.log.take().expect("a log ends once").close()?;
        self.synced_all(journal, durable);
        Ok(())
    }

    /// What of the log is durable for sure.
    pub fn synced(&self) -> Synced {
        let Ledger { declared, settled, purged, delivered_up_to, returned, held, .. } = &self.ledger;
        let numbers = declared.iter().enumerate().map(|(number, queue)| (*queue, number));
        let numbers: HashMap<QueueId, usize> = numbers.collect();
        // Those of queues that do not survive have no number.
        let place = |(queue, sequence): &(QueueId, u64)| {
            let number = *numbers.get(queue)?;
            let is_unordered = self.ledger.unordered.contains(queue);
            let place = if is_unordered { self.ledger.ids.get(&(*queue, *sequence))? } else { sequence };
            Some((number, *place))
        };
        let up_to = delivered_up_to.iter().map(|(queue, up_to)| (*queue, *up_to));
        Synced {
            settled: settled.iter().chain(purged).filter_map(place).collect(),
            delivered_up_to: up_to
                .filter_map(|(queue, up_to)| Some((*numbers.get(&queue)?, up_to)))
                .collect(),
            held: held.iter().filter_map(|(key, until_ms)| Some((place(key)?, *until_ms))).collect(),
            returned: returned.iter().filter_map(|(key, count)| Some((place(key)?, *count))).collect(),
        }
    }

    fn log(&mut self) -> &mut storage::Log {
        self.log.as_mut().expect("a log that has not ended")
    }
}

/// The keys by which duplicates are known, where they are.
fn known(recovered: &restore::Recovered, queue: QueueId, kind: Kind) -> Vec<u64> {
    let cache = match kind {
        Kind::Unique => queue,
        Kind::Deduped => cache_of_exchange("/", UNIQUE),
        _ => return Vec::new(),
    };
    let key_of = |hash: u128| {
        let is_it = |key: &u64| {
            let digest = Sha256::digest(format!("S{key}"));
            digest[..16] == hash.to_le_bytes()
        };
        KEYS.clone().find(is_it).expect("a key that there is")
    };
    let seen = recovered.seen.iter().find(|seen| seen.cache == cache);
    seen.map_or_else(Vec::new, |seen| seen.keys.iter().map(|(hash, _)| key_of(*hash)).collect())
}

/// The messages of a queue as the storage has them.
fn messages(
    reader: &Reader,
    queue: &restore::RecoveredQueue,
    kind: Kind,
) -> Result<Vec<RecoveredMessage>, StorageError> {
    let all = Load {
        queue: queue.id,
        first: 0,
        last: u64::MAX,
        priorities: None,
        count_max: usize::MAX,
        bytes_max: usize::MAX,
        only: Vec::new(),
    };
    let loaded = reader.load(&all)?;
    let ready: u64 = queue.backlog.iter().map(|range| range.count).sum();
    let count = ready + queue.held.len() as u64;
    let held = |sequence| {
        let hold = queue.held.iter().find(|hold| hold.sequence == sequence)?;
        Some((hold.until_ms, hold.death != 0))
    };
    assert_eq!((loaded.messages.len() as u64, loaded.damaged), (count, 0), "the backlog of {:?}", queue.id);
    let message = |loaded: &LoadedMessage| {
        let id = id_of(loaded.message.body().as_slice());
        RecoveredMessage {
            position: loaded.sequence,
            place: if kind.is_unordered() { id } else { loaded.sequence },
            id,
            redelivered: loaded.sequence <= queue.delivered_up_to || loaded.delivery_count > 0,
            delivery_count: loaded.delivery_count,
            held: held(loaded.sequence),
        }
    };
    Ok(loaded.messages.iter().map(message).collect())
}

/// The same facts, as if those who published had been slow to append theirs: a message is in its queue before that,
/// and others may have taken it out meanwhile.
fn with_late_publishes(facts: &[Fact], random: &mut StdRng) -> Vec<Fact> {
    let mut facts = facts.to_vec();
    if random.random_bool(0.5) {
        for at in (0..facts.len()).rev() {
            if matches!(facts[at], Fact::Publish { .. }) && random.random_bool(0.3) {
                let late = random.random_range(at..facts.len());
                facts[at..=late].rotate_left(1);
            }
        }
    }
    facts
}

/// What the facts say that were synced, since the storage was opened.
#[derive(Default)]
struct Ledger {
    /// Every durable queue that there was, in order.
    declared: Vec<QueueId>,
    /// Those that there are, by what was defined.
    alive: BTreeMap<QueueId, String>,
    /// Queues that are bound to the fanout exchange, by name.
    bound: HashSet<String>,
    /// Messages that survive.
    content: BTreeSet<(QueueId, u64)>,
    settled: HashSet<(QueueId, u64)>,
    purged: HashSet<(QueueId, u64)>,
    delivered_up_to: HashMap<QueueId, u64>,
    /// How many deliveries have failed.
    returned: HashMap<(QueueId, u64), u32>,
    /// Until when messages are held.
    held: HashMap<(QueueId, u64), u64>,
    /// Which message has a number in a queue.
    ids: HashMap<(QueueId, u64), u64>,
    /// Queues whose order nobody knows.
    unordered: HashSet<QueueId>,
}

impl Ledger {
    fn define(&mut self, definition: &Definition) {
        match definition {
            Definition::QueueDeclared { id, name, .. } => {
                if Kind::of(name).is_unordered() {
                    self.unordered.insert(*id);
                }
                assert_eq!(self.alive.insert(*id, name.to_string()), None, "declared once");
            }
            Definition::QueueDeleted { id } => {
                let name = self.alive.remove(id).expect("deleted once");
                self.bound.remove(&name);
            }
            Definition::Bound(binding) if *binding.source == *FANOUT => {
                self.bound.insert(binding.destination.to_string());
            }
            Definition::Unbound(binding) => {
                self.bound.remove(&*binding.destination);
            }
            _ => {}
        }
    }

    /// Facts were written: queues are numbered in their order, whether they are durable or not.
    fn wrote(&mut self, facts: &[Fact]) {
        for fact in facts {
            if let Fact::Define(definition) = fact {
                self.define(definition);
                if let Definition::QueueDeclared { id, .. } = definition {
                    self.declared.push(*id);
                }
            }
        }
    }

    fn synced(&mut self, fact: &Fact) {
        match fact {
            Fact::Publish { queues, message } => {
                for target in queues.iter().filter(|target| target.survives) {
                    let id = id_of(message.body().as_slice());
                    self.ids.insert((target.queue, target.sequence), id);
                    assert!(self.content.insert((target.queue, target.sequence)), "a number is used once");
                }
            }
            Fact::Settle { queue, sequences, .. } => {
                for sequence in sequences {
                    let is_new = self.settled.insert((*queue, *sequence));
                    assert!(is_new, "{sequence} of {queue:?} is settled twice");
                }
            }
            Fact::Return { queue, sequences } => {
                for sequence in sequences {
                    let place = (*queue, *sequence);
                    assert!(!self.settled.contains(&place), "what was settled came back to {queue:?}");
                    *self.returned.entry(place).or_default() += 1;
                }
            }
            Fact::Delivered { queue, up_to } => {
                let highest = self.delivered_up_to.entry(*queue).or_default();
                *highest = (*highest).max(*up_to);
            }
            Fact::Purge { queue, before, unsettled, .. } => {
                let before = self.content.range((*queue, 0)..(*queue, *before));
                self.purged.extend(before.filter(|(_, sequence)| !unsettled.contains(sequence)));
            }
            Fact::Hold { queue, sequences, until_ms, .. } => {
                self.held.extend(sequences.iter().map(|sequence| ((*queue, *sequence), *until_ms)));
            }
            Fact::Define(_) | Fact::Forget { .. } | Fact::Seen { .. } => {}
        }
    }
}
