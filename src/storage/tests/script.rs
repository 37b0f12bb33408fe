//! A client of the storage that does anything, from a seed.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IteratorRandom};

use super::{message, model::Model};
use crate::{
    amqp::{Table, Value},
    broker::{
        NEVER,
        definition::Definition,
        journal::{Fact, Target, cache_of_exchange},
        queue::QueueId,
    },
};

/// What to do next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Write these as one batch.
    Write(Vec<Fact>),
    Sync,
    Idle,
    Tidy,
    /// Stop in good order and start again.
    Restart,
    /// Read the live messages of a queue back.
    Read(QueueId),
}

/// See the module's text. It follows what it has done with a model, as if nothing ever went wrong.
#[derive(Debug)]
pub(super) struct Script {
    random: StdRng,
    pub(super) model: Model,
    next_id: u64,
    next_message: u64,
    next_sequence: std::collections::BTreeMap<QueueId, u64>,
    /// Publishes that other facts may come before.
    late: Vec<Fact>,
    transient: [QueueId; 2],
}

/// Queues that are never defined: what enters them is paged out.
const TRANSIENT_QUEUES: [QueueId; 2] = [QueueId(1_000_001), QueueId(1_000_002)];
/// Identities from here on are those of transient queues.
const TRANSIENT: QueueId = QueueId(1_000_000);

const OTHER_HOST: &str = "other";
/// Exchanges that are there now and then.
const EXCHANGES: [(&str, &str); 2] = [("/", "one"), (OTHER_HOST, "one")];

impl Script {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            model: Model::default(),
            next_id: 1,
            next_message: 1,
            next_sequence: std::collections::BTreeMap::new(),
            late: Vec::new(),
            transient: TRANSIENT_QUEUES,
        }
    }

    pub(super) fn step(&mut self) -> Step {
        match self.random.random_range(0..100) {
            0..75 => self.write(),
            75..88 => Step::Sync,
            88..90 => Step::Idle,
            90..94 => Step::Tidy,
            94..98 => match self.model.queues.keys().copied().choose(&mut self.random) {
                Some(queue) => Step::Read(queue),
                None => Step::Sync,
            },
            98 => Step::Restart,
            _ => Step::Sync,
        }
    }

    fn write(&mut self) -> Step {
        let count = if self.random.random_bool(0.2) { self.random.random_range(2..12) } else { 1 };
        let mut facts: Vec<Fact> = Vec::new();
        for _ in 0..count {
            let fact = self.fact();
            self.model.apply(std::slice::from_ref(&fact));
            // Now and then what is settled or purged is written before it was published.
            if matches!(fact, Fact::Publish { .. }) && self.random.random_bool(0.02) {
                self.late.push(fact);
            } else {
                facts.push(fact);
            }
        }
        if self.random.random_bool(0.3) {
            facts.append(&mut self.late);
        }
        Step::Write(facts)
    }

    fn fact(&mut self) -> Fact {
        let defined = self.model.defined.len();
        match self.random.random_range(0..100) {
            _ if defined < 2 => self.declare(),
            0..3 if defined < 6 => self.declare(),
            3 => self.delete(),
            4..55 => self.publish(),
            55..80 => self.settle(),
            80..83 => self.purge(),
            83..86 => self.count_return(),
            86..89 => self.hold(),
            89..91 => self.deliver(),
            91..95 => self.seen(),
            95..99 => self.exchange(),
            _ => {
                // Its identity is not used again in this life.
                let queue = self.transient[0];
                self.transient[0] = QueueId(queue.0 + 2);
                Fact::Forget { queue }
            }
        }
    }

    fn declare(&mut self) -> Fact {
        let id = QueueId(self.next_id);
        self.next_id += 1;
        // Without levels, with some, and with those that a message without a priority is in the middle of.
        let argument = match self.random.random_range(0..3) {
            0 => None,
            1 => Some(("x-max-priority".to_owned(), Value::I32(2))),
            _ => Some(("x-queue-type".to_owned(), Value::LongStr("quorum".into()))),
        };
        Fact::Define(Definition::QueueDeclared {
            virtual_host: "/".into(),
            id,
            name: format!("queue-{}", id.0).into(),
            auto_delete: false,
            arguments: argument.into_iter().collect(),
        })
    }

    fn delete(&mut self) -> Fact {
        let id = self.model.defined.iter().copied().choose(&mut self.random).expect("some are defined");
        Fact::Define(Definition::QueueDeleted { id })
    }

    fn publish(&mut self) -> Fact {
        let persistent = self.random.random_bool(0.8);
        let queues = self.model.defined.iter().copied().chain(self.transient);
        let count = if self.random.random_bool(0.2) { 3 } else { 1 };
        let chosen = queues.choose_multiple(&mut self.random, count);
        let next = &mut self.next_sequence;
        let leaves = self.random.random_bool(0.3);
        let targets = chosen.into_iter().map(|queue| {
            let sequence = next.entry(queue).or_insert(1);
            *sequence += 1;
            let survives = persistent && queue < TRANSIENT;
            Target { queue, sequence: *sequence - 1, survives, deadline_ms: NEVER }
        });
        let mut targets: Vec<Target> = targets.collect();
        // Each queue may have a time of its own, and they come in no order.
        for target in targets.iter_mut().filter(|_| leaves) {
            if self.random.random_bool(0.8) {
                target.deadline_ms = 1_700_000_000_000 + self.random.random_range(0..1000);
            }
        }
        let len = match self.random.random_range(0..100) {
            0..80 => self.random.random_range(8..300),
            80..97 => self.random.random_range(300..6000),
            97..99 => self.random.random_range(6000..20_000),
            _ => self.random.random_range(20_000..70_000),
        };
        self.next_message += 1;
        let priority = self.random.random_bool(0.3).then(|| self.random.random_range(0..7));
        Fact::Publish { message: message(self.next_message, len, persistent, priority), queues: targets }
    }

    /// A queue that holds something, and some of it.
    fn some(&mut self, most: usize) -> Option<(QueueId, Vec<u64>, u64)> {
        let filled = self.model.queues.iter().filter(|(_, queue)| !queue.live.is_empty());
        let (id, queue) = filled.choose(&mut self.random)?;
        let count = self.random.random_range(1..=most);
        let sequences: Vec<u64> = if self.random.random_bool(0.7) {
            queue.live.keys().copied().take(count).collect()
        } else {
            queue.live.keys().copied().choose_multiple(&mut self.random, count)
        };
        Some((*id, sequences, 0))
    }

    fn settle(&mut self) -> Fact {
        match self.some(8) {
            Some((queue, sequences, body_bytes)) => Fact::Settle { queue, sequences, body_bytes },
            None => self.publish(),
        }
    }

    fn count_return(&mut self) -> Fact {
        match self.some(3) {
            Some((queue, sequences, _)) => Fact::Return { queue, sequences },
            None => self.publish(),
        }
    }

    fn hold(&mut self) -> Fact {
        let until_ms = 1_700_000_000_000 + self.random.random_range(0..1000);
        let death = self.random.random_range(0..3);
        match self.some(5) {
            Some((queue, sequences, _)) => Fact::Hold { queue, sequences, until_ms, death },
            None => self.publish(),
        }
    }

    /// A key, few enough for some to come again, of a queue or an exchange that is there, or was.
    fn seen(&mut self) -> Fact {
        let (host, name) = *EXCHANGES.iter().choose(&mut self.random).expect("there are some");
        let queue = self.model.defined.iter().copied().choose(&mut self.random);
        let queue = queue.filter(|_| self.random.random_bool(0.4));
        Fact::Seen {
            cache: queue.unwrap_or_else(|| cache_of_exchange(host, name)),
            key: self.random.random_range(0..6),
            until_ms: 1_700_000_000_000 + self.random.random_range(0..1000),
            keep: self.random.random_range(2..5),
        }
    }

    /// Exchanges and their virtual host come and go.
    fn exchange(&mut self) -> Fact {
        let (host, name) = *EXCHANGES.iter().choose(&mut self.random).expect("there are some");
        let (virtual_host, is_there) =
            (host.into(), self.model.exchanges.contains_key(&cache_of_exchange(host, name)));
        Fact::Define(match self.random.random_range(0..4) {
            0 if host == OTHER_HOST => Definition::VirtualHostDeleted { name: virtual_host },
            _ if is_there => Definition::ExchangeDeleted { virtual_host, name: name.into() },
            _ => Definition::ExchangeDeclared {
                virtual_host,
                name: name.into(),
                kind: "fanout",
                auto_delete: false,
                internal: false,
                arguments: Table::default(),
            },
        })
    }

    fn deliver(&mut self) -> Fact {
        match self.some(3) {
            Some((queue, sequences, _)) => {
                Fact::Delivered { queue, up_to: sequences.iter().copied().max().unwrap_or(0) }
            }
            None => self.publish(),
        }
    }

    fn purge(&mut self) -> Fact {
        let unsettled = self.some(2);
        match unsettled {
            Some((queue, unsettled, _)) => {
                let before = self.next_sequence.get(&queue).copied().unwrap_or(1);
                Fact::Purge { queue, before, unsettled, unsettled_body_bytes: 0 }
            }
            None => self.publish(),
        }
    }

    /// Goes on where another script was cut off: what it names must be new.
    pub(super) fn continue_from(&mut self, found: &Model, next_id: u64) {
        self.next_id = next_id;
        self.next_message = next_id * 1_000_000;
        let next = next_id * 1_000_000;
        self.next_sequence = found.defined.iter().map(|id| (*id, next)).collect();
    }

    /// The storage was started again and found this: what is only here is gone.
    pub(super) fn restarted(&mut self, model: &Model) {
        self.model = model.clone();
        self.late.clear();
    }
}
