//! What the log must hold after a sequence of batches, in the plainest form.

use std::collections::{BTreeMap, BTreeSet};

use super::{super::Opened, id_of, load_all};
use crate::broker::{definition::Definition, journal::Fact, queue::QueueId};

/// The state after a sequence of batches.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    pub(super) queues: BTreeMap<QueueId, Queue>,
    pub(super) defined: BTreeSet<QueueId>,
    early: BTreeSet<(QueueId, u64)>,
    /// How often messages came back.
    counts: BTreeMap<(QueueId, u64), u32>,
    purged: BTreeMap<QueueId, (u64, BTreeSet<u64>)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Queue {
    /// By sequence number: which message, and whether it survives.
    pub(super) live: BTreeMap<u64, (u64, bool)>,
    pub(super) delivered_up_to: u64,
    pub(super) body_bytes: i64,
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
                        queue.live.insert(target.sequence, (id_of(message), target.survives));
                    }
                }
            }
            Fact::Settle { queue, sequences, body_bytes } => {
                let state = self.queues.entry(*queue).or_default();
                state.body_bytes -= *body_bytes as i64;
                for sequence in sequences {
                    self.counts.remove(&(*queue, *sequence));
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
            Fact::Delivered { queue, up_to } => {
                let queue = self.queues.entry(*queue).or_default();
                queue.delivered_up_to = queue.delivered_up_to.max(*up_to);
            }
            Fact::Purge { queue, before, unsettled, unsettled_body_bytes } => {
                let kept: BTreeSet<u64> = unsettled.iter().copied().collect();
                let state = self.queues.entry(*queue).or_default();
                state.live.retain(|sequence, _| sequence >= before || kept.contains(sequence));
                state.body_bytes = *unsettled_body_bytes as i64;
                let stays = |sequence: &u64| state.live.contains_key(sequence) || kept.contains(sequence);
                self.counts.retain(|(of, sequence), _| of != queue || stays(sequence));
                self.purged.insert(*queue, (*before, kept));
            }
            Fact::Forget { queue } => self.forget(*queue),
            Fact::Define(Definition::QueueDeclared { id, .. }) => drop(self.defined.insert(*id)),
            Fact::Define(Definition::QueueDeleted { id }) => {
                self.defined.remove(id);
                self.forget(*id);
            }
            Fact::Define(_) => {}
        }
    }

    fn forget(&mut self, id: QueueId) {
        self.queues.remove(&id);
        self.counts.retain(|(queue, _), _| *queue != id);
        self.early.retain(|(queue, _)| *queue != id);
        self.purged.remove(&id);
    }

    /// The definitions of one sequence of batches with the messages of another: those of queues that are there and that
    /// survive.
    pub(super) fn after_restart(&self, defined: &BTreeSet<QueueId>) -> Survivors {
        let queues = self.queues.iter().filter(|(id, _)| defined.contains(id));
        queues.map(|(id, _)| (*id, self.live(*id, true))).filter(|(_, live)| !live.is_empty()).collect()
    }

    /// The live messages of a queue, those that survive only or all.
    pub(super) fn live(&self, id: QueueId, surviving: bool) -> Vec<(u64, u64, u32)> {
        let live = self.queues.get(&id).into_iter().flat_map(|queue| &queue.live);
        live.filter(|(_, (_, survives))| *survives || !surviving)
            .map(|(sequence, (message, _))| {
                (*sequence, *message, self.counts.get(&(id, *sequence)).copied().unwrap_or(0))
            })
            .collect()
    }

    /// The next life begins with what survived.
    pub(super) fn restart(&mut self, defined: &BTreeSet<QueueId>) {
        self.early.clear();
        self.purged.clear();
        self.defined = defined.clone();
        self.queues.retain(|id, _| defined.contains(id));
        for queue in self.queues.values_mut() {
            queue.live.retain(|_, (_, survives)| *survives);
        }
        let queues = &self.queues;
        self.counts.retain(|(id, sequence), _| {
            queues.get(id).is_some_and(|queue| queue.live.contains_key(sequence))
        });
    }
}

/// By queue: sequence numbers, messages, and how often they came back.
pub(super) type Survivors = BTreeMap<QueueId, Vec<(u64, u64, u32)>>;

/// What was found by a start, read back as a broker would.
pub(super) fn survivors(opened: &Opened) -> Survivors {
    let mut survivors = Survivors::new();
    for queue in &opened.recovered.queues {
        let mut all = Vec::new();
        for range in &queue.backlog {
            let loaded = load_all(opened, queue.id, range.first, range.last);
            assert_eq!(loaded.len() as u64, range.count, "{range:?} of {:?}", queue.id);
            all.extend(loaded);
        }
        assert!(all.is_sorted(), "ranges overlap: {:?}", queue.backlog);
        assert!(all.last().is_none_or(|(sequence, ..)| *sequence < queue.next_sequence));
        if !all.is_empty() {
            survivors.insert(queue.id, all);
        }
    }
    survivors
}

/// The queues that a start has found.
pub(super) fn defined(opened: &Opened) -> BTreeSet<QueueId> {
    let ids = opened.recovered.definitions.iter().filter_map(|definition| match definition {
        Definition::QueueDeclared { id, .. } => Some(*id),
        _ => None,
    });
    ids.collect()
}
