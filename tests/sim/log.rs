//! A log that keeps facts in memory and takes its time, and what a replay of it gives.

#![allow(missing_docs, unreachable_pub, reason = "a part of a test")]

use std::collections::{BTreeMap, HashSet, VecDeque};

use leveret::broker::{
    journal::{Batch, Fact, Journal},
    queue::QueueId,
};

use crate::model::id_of;

/// See the module's text.
#[derive(Default)]
pub struct Log {
    writing: VecDeque<Batch>,
    /// Every durable queue that there ever was.
    pub declared: BTreeMap<QueueId, String>,
    /// Message numbers by queue and sequence number. A settlement may come before its publish.
    content: BTreeMap<(QueueId, u64), u64>,
    /// What purges took. A delivery that was on its way to a consumer without acknowledgements may come back to the
    /// queue after that: a crash would purge it after all.
    pub purged: HashSet<(QueueId, u64)>,
    settled: HashSet<(QueueId, u64)>,
    deleted: HashSet<QueueId>,
}

impl Log {
    /// Takes what there is from the journal.
    pub fn take(&mut self, journal: &Journal) {
        self.writing.extend(journal.try_take_batch());
    }

    /// Makes the oldest batch durable; whether there was one.
    pub fn sync(&mut self, journal: &Journal, durable: &mut HashSet<u64>) -> bool {
        let Some(batch) = self.writing.pop_front() else { return false };
        for fact in &batch.facts {
            if let Fact::Publish { message, .. } = fact {
                durable.insert(id_of(message.body().as_slice()));
            }
            self.replay(fact);
        }
        journal.mark_durable(&batch);
        true
    }

    /// What the queue holds after a restart: sequence numbers and messages.
    pub fn content(&self, queue: QueueId) -> impl Iterator<Item = (u64, u64)> {
        let kept =
            self.content.range((queue, 0)..=(queue, u64::MAX)).filter(|(key, _)| !self.settled.contains(key));
        kept.filter(|((queue, _), _)| !self.deleted.contains(queue))
            .map(|((_, sequence), id)| (*sequence, *id))
    }

    fn replay(&mut self, fact: &Fact) {
        match fact {
            Fact::Publish { message, queues } => {
                for key in queues {
                    let id = id_of(message.body().as_slice());
                    assert_eq!(self.content.insert(*key, id), None, "a sequence number is used once");
                }
            }
            Fact::Settle { queue, sequences } => {
                for sequence in sequences {
                    assert!(
                        self.settled.insert((*queue, *sequence)),
                        "{sequence} of {queue:?} is settled twice"
                    );
                }
            }
            Fact::Return { queue, sequences } => {
                let gone = sequences.iter().find(|sequence| self.settled.contains(&(*queue, **sequence)));
                assert_eq!(gone, None, "what was settled came back to {queue:?}");
            }
            Fact::Purge { queue, before, unsettled } => {
                let is_purged = |(of, sequence): &(QueueId, u64)| {
                    of == queue && sequence < before && !unsettled.contains(sequence)
                };
                self.purged.extend(self.content.keys().copied().filter(is_purged));
                self.content.retain(|key, _| !is_purged(key));
            }
            Fact::QueueDeclared { id, name, .. } => {
                assert_eq!(self.declared.insert(*id, name.to_string()), None, "declared once");
            }
            Fact::QueueDeleted { id } => assert!(self.deleted.insert(*id), "deleted once"),
            _ => {}
        }
    }
}
