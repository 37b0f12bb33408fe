//! What the log must hold after a sequence of batches, in the plainest form.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{super::Opened, Found, id_of, load_found};
use crate::broker::{
    NEVER,
    definition::Definition,
    journal::{Fact, cache_of_exchange},
    pager::PriorityLevel,
    queue::{Levels, QueueId, priority_levels},
    restore::RecoveredQueue,
};

/// The state after a sequence of batches.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    pub(super) queues: BTreeMap<QueueId, Queue>,
    pub(super) defined: BTreeSet<QueueId>,
    early: BTreeSet<(QueueId, u64)>,
    /// How often messages came back.
    counts: BTreeMap<(QueueId, u64), u32>,
    /// Until when messages are not ready, and why.
    held: BTreeMap<(QueueId, u64), (u64, u8)>,
    /// The virtual host of each exchange, by its cache.
    pub(super) exchanges: BTreeMap<QueueId, Arc<str>>,
    seen: Seen,
    purged: BTreeMap<QueueId, (u64, BTreeSet<u64>)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Queue {
    /// By sequence number.
    pub(super) live: BTreeMap<u64, Live>,
    pub(super) delivered_up_to: u64,
    pub(super) body_bytes: i64,
}

/// A message in a queue.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Live {
    id: u64,
    priority: Option<u8>,
    deadline_ms: u64,
    survives: bool,
}

impl Model {
    pub(super) fn apply(&mut self, facts: &[Fact]) {
        facts.iter().for_each(|fact| self.apply_one(fact));
    }

    fn apply_one(&mut self, fact: &Fact) {
        match fact {
            Fact::Publish { message, queues } => {
                for target in queues {
                    let key = (target.queue, target.sequence);
                    let is_purged = self.purged.get(&target.queue).is_some_and(|(before, kept)| {
                        target.sequence < *before && !kept.contains(&target.sequence)
                    });
                    let was_settled = self.early.remove(&key);
                    if is_purged && !was_settled {
                        continue;
                    }
                    let queue = self.queues.entry(target.queue).or_default();
                    if target.survives {
                        queue.body_bytes += message.body().len() as i64;
                    }
                    if !was_settled {
                        let live = Live {
                            id: id_of(message),
                            priority: message.priority(),
                            deadline_ms: target.deadline_ms,
                            survives: target.survives,
                        };
                        queue.live.insert(target.sequence, live);
                    }
                }
            }
            Fact::Settle { queue, sequences, body_bytes } => {
                let state = self.queues.entry(*queue).or_default();
                state.body_bytes -= *body_bytes as i64;
                for sequence in sequences {
                    self.counts.remove(&(*queue, *sequence));
                    self.held.remove(&(*queue, *sequence));
                    if state.live.remove(sequence).is_none() {
                        self.early.insert((*queue, *sequence));
                    }
                }
            }
            Fact::Return { queue, sequences } => {
                for sequence in sequences {
                    *self.counts.entry((*queue, *sequence)).or_default() += 1;
                }
            }
            Fact::Hold { queue, sequences, until_ms, death } => {
                let keys = sequences.iter().map(|sequence| (*queue, *sequence));
                self.held.extend(keys.map(|key| (key, (*until_ms, *death))));
            }
            Fact::Delivered { queue, up_to } => {
                let queue = self.queues.entry(*queue).or_default();
                queue.delivered_up_to = queue.delivered_up_to.max(*up_to);
            }
            Fact::Purge { queue, before, unsettled, unsettled_body_bytes } => {
                let kept: BTreeSet<u64> = unsettled.iter().copied().collect();
                let state = self.queues.entry(*queue).or_default();
                state.live.retain(|sequence, _| sequence >= before || kept.contains(sequence));
                state.body_bytes = *unsettled_body_bytes as i64;
                let stays = |(of, sequence): &(QueueId, u64)| {
                    of != queue || sequence >= before || kept.contains(sequence)
                };
                self.counts.retain(|key, _| stays(key));
                self.held.retain(|key, _| stays(key));
                self.purged.insert(*queue, (*before, kept));
            }
            Fact::Forget { queue } => self.forget(*queue),
            Fact::Define(Definition::QueueDeclared { id, .. }) => drop(self.defined.insert(*id)),
            Fact::Define(Definition::QueueDeleted { id }) => {
                self.defined.remove(id);
                self.forget(*id);
            }
            // What comes late, or is not there to last, is not kept.
            Fact::Seen { cache, .. } if !Defined::of(self).has(*cache) => {}
            Fact::Seen { cache, key, until_ms, keep } => {
                let keys = self.seen.entry(*cache).or_default();
                keys.retain(|(known, _)| known != key);
                keys.push((*key, *until_ms));
                keys.drain(..keys.len().saturating_sub(*keep as usize));
            }
            Fact::Define(Definition::ExchangeDeclared { virtual_host, name, .. }) => {
                self.exchanges.insert(cache_of_exchange(virtual_host, name), Arc::clone(virtual_host));
            }
            Fact::Define(Definition::ExchangeDeleted { virtual_host, name }) => {
                let cache = cache_of_exchange(virtual_host, name);
                self.seen.remove(&cache);
                self.exchanges.remove(&cache);
            }
            Fact::Define(Definition::VirtualHostDeleted { name }) => {
                let gone = self.exchanges.extract_if(.., |_, host| host == name);
                gone.for_each(|(cache, _)| drop(self.seen.remove(&cache)));
            }
            Fact::Define(_) => {}
        }
    }

    fn forget(&mut self, id: QueueId) {
        self.queues.remove(&id);
        self.seen.remove(&id);
        self.counts.retain(|(queue, _), _| *queue != id);
        self.held.retain(|(queue, _), _| *queue != id);
        self.early.retain(|(queue, _)| *queue != id);
        self.purged.remove(&id);
    }

    /// The definitions of one sequence of batches with the messages of another: those of queues that are there and that
    /// survive.
    pub(super) fn after_restart(&self, defined: &Defined) -> Survivors {
        let queues = self.queues.iter().filter(|(id, _)| defined.queues.contains(id));
        let held = |id, found: &Found| self.held.get(&(id, found.sequence)).copied();
        let with_held = |id: QueueId| {
            self.live(id, true).into_iter().map(move |found| {
                let held = held(id, &found);
                (found, held)
            })
        };
        queues
            .map(|(id, _)| (*id, with_held(*id).collect::<Vec<_>>()))
            .filter(|(_, live)| !live.is_empty())
            .collect()
    }

    /// The keys of the queues and exchanges that there are.
    pub(super) fn seen(&self, defined: &Defined) -> Seen {
        let seen = self.seen.iter().filter(|(cache, keys)| defined.has(**cache) && !keys.is_empty());
        seen.map(|(cache, keys)| (*cache, keys.clone())).collect()
    }

    /// The live messages of a queue, those that survive only or all.
    pub(super) fn live(&self, id: QueueId, surviving: bool) -> Vec<Found> {
        let live = self.queues.get(&id).into_iter().flat_map(|queue| &queue.live);
        live.filter(|(_, live)| live.survives || !surviving)
            .map(|(sequence, live)| Found {
                sequence: *sequence,
                id: live.id,
                delivery_count: self.counts.get(&(id, *sequence)).copied().unwrap_or(0),
                priority: live.priority,
                deadline_ms: live.deadline_ms,
            })
            .collect()
    }

    /// The next life begins with what survived.
    pub(super) fn restart(&mut self, defined: &Defined) {
        self.seen = self.seen(defined);
        self.early.clear();
        self.purged.clear();
        self.defined = defined.queues.clone();
        self.exchanges = defined.exchanges.clone();
        self.queues.retain(|id, _| self.defined.contains(id));
        for queue in self.queues.values_mut() {
            queue.live.retain(|_, live| live.survives);
        }
        let queues = &self.queues;
        let is_live = |(id, sequence): &(QueueId, u64)| {
            queues.get(id).is_some_and(|queue| queue.live.contains_key(sequence))
        };
        self.counts.retain(|key, _| is_live(key));
        self.held.retain(|key, _| is_live(key));
    }
}

/// The messages of each queue that has any, and until when those are held that are.
pub(super) type Survivors = BTreeMap<QueueId, Vec<(Found, Option<(u64, u8)>)>>;

/// Takes the deadlines that a start has found, which must be those of the messages that it found ready, by level.
pub(super) fn check_deadlines(opened: &mut Opened, survivors: &Survivors) {
    let levels = levels(opened);
    let mut expected = BTreeMap::<_, BTreeSet<(u64, u64)>>::new();
    for (id, all) in survivors {
        let ready = all.iter().filter(|(_, held)| held.is_none()).map(|(found, _)| found);
        for found in ready.filter(|found| found.deadline_ms != NEVER) {
            let level = levels.get(id);
            let level = level.map(|levels| found.priority.unwrap_or(levels.default).min(levels.highest));
            expected.entry((*id, level)).or_default().insert((found.deadline_ms, found.sequence));
        }
    }
    let mut taken = BTreeMap::<_, BTreeSet<(u64, u64)>>::new();
    for queue in &mut opened.recovered.queues {
        for (level, deadlines) in &mut queue.deadlines {
            let of_level = taken.entry((queue.id, *level)).or_default();
            while let Some(deadline) = deadlines.pop_due(NEVER - 1) {
                assert!(of_level.last() < Some(&deadline), "{deadline:?} of {:?} comes late", queue.id);
                of_level.insert(deadline);
            }
        }
    }
    assert_eq!(taken, expected, "the deadlines");
}

/// What was found by a start, read back as a broker would.
pub(super) fn survivors(opened: &Opened) -> Survivors {
    let levels = levels(opened);
    let mut survivors = Survivors::new();
    for queue in &opened.recovered.queues {
        let all = load_found(opened, queue.id, (0, u64::MAX), None);
        assert!(all.is_sorted_by_key(|found| found.sequence));
        assert!(all.last().is_none_or(|last| last.sequence < queue.next_sequence));
        let held: BTreeMap<u64, (u64, u8)> =
            queue.held.iter().map(|held| (held.sequence, (held.until_ms, held.death))).collect();
        assert!(queue.held.is_sorted_by_key(|held| held.sequence));
        let sequences: BTreeSet<u64> = all.iter().map(|found| found.sequence).collect();
        assert!(held.keys().all(|held| sequences.contains(held)), "{held:?} of {:?}", queue.id);
        check_backlog(opened, queue, levels.get(&queue.id).copied(), all.len());
        let with_held = |found: Found| {
            let held = held.get(&found.sequence).copied();
            (found, held)
        };
        if !all.is_empty() {
            survivors.insert(queue.id, all.into_iter().map(with_held).collect());
        }
    }
    survivors
}

/// Each range counts what of it is ready, and all together count everything that is.
fn check_backlog(opened: &Opened, queue: &RecoveredQueue, levels: Option<Levels>, live: usize) {
    let is_held = |found: &Found| queue.held.iter().any(|held| held.sequence == found.sequence);
    for (at, range) in queue.backlog.iter().enumerate() {
        let priorities = levels.map(|Levels { highest, default }| PriorityLevel {
            level: range.priority.unwrap_or(default),
            highest,
            default,
        });
        let loaded = load_found(opened, queue.id, (range.first, range.last), priorities);
        let ready = loaded.iter().filter(|found| !is_held(found)).count() as u64;
        assert_eq!(ready, range.count, "{range:?} of {:?}", queue.id);
        let mut before = queue.backlog[..at].iter().filter(|other| other.priority == range.priority);
        assert!(before.all(|other| other.last < range.first), "ranges overlap: {:?}", queue.backlog);
    }
    assert!(queue.backlog.is_sorted_by_key(|range| range.first), "{:?}", queue.backlog);
    let count: u64 = queue.backlog.iter().map(|range| range.count).sum();
    assert_eq!(count + queue.held.len() as u64, live as u64, "the backlog of {:?}", queue.id);
}

/// The levels of queues that have them.
fn levels(opened: &Opened) -> BTreeMap<QueueId, Levels> {
    let of_queue = |definition: &Definition| match definition {
        Definition::QueueDeclared { id, arguments, .. } => Some((*id, priority_levels(arguments)?)),
        _ => None,
    };
    opened.recovered.definitions.iter().filter_map(of_queue).collect()
}

/// The keys of each cache that has any, in the order in which they were seen.
pub(super) type Seen = BTreeMap<QueueId, Vec<(u128, u64)>>;

/// The keys that a start has found.
pub(super) fn seen(opened: &Opened) -> Seen {
    opened.recovered.seen.iter().map(|cache| (cache.cache, cache.keys.clone())).collect()
}

/// Queues, and exchanges as the model has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Defined {
    pub(super) queues: BTreeSet<QueueId>,
    exchanges: BTreeMap<QueueId, Arc<str>>,
}

impl Defined {
    /// Whether there is anything whose keys are in that cache.
    fn has(&self, cache: QueueId) -> bool {
        self.queues.contains(&cache) || self.exchanges.contains_key(&cache)
    }

    /// What there is in the model.
    pub(super) fn of(model: &Model) -> Self {
        Self { queues: model.defined.clone(), exchanges: model.exchanges.clone() }
    }
}

/// What a start has found.
pub(super) fn defined(opened: &Opened) -> Defined {
    let mut model = Model::default();
    let definitions = opened.recovered.definitions.iter();
    definitions.for_each(|definition| model.apply(&[Fact::Define(definition.clone())]));
    Defined::of(&model)
}
