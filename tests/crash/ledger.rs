//! The checker: what must, may and must not be there, from what clients did and saw; and what is wrong with what is.
//!
//! A message has a copy in each queue that it was routed to. A ledger takes the events of a run in the order of their
//! times, and knows of each copy whether it was confirmed, delivered, settled. After a restart it is shown everything
//! that is there. Whatever contradicts a promise is a violation, in words.

mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) use self::tests::CHECKS;
use crate::{
    history::{Event, Name, Record, Thing},
    message::MessageId,
    topology,
};

/// An ack that is older than this when the broker is killed, with a confirmed publish since, must not be forgotten.
pub(crate) const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// The same for the knowledge that a message was delivered.
pub(crate) const DELIVERED_AFTER: Duration = Duration::from_secs(1);
/// Violations that are told one by one.
const VIOLATIONS_MAX: usize = 40;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By SIGKILL.
    Killed,
    /// By SIGTERM, with exit code 0.
    Terminated,
}

/// A message that was there after a restart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) message: MessageId,
    pub(crate) redelivered: bool,
}

/// What was there after a restart: the queues and exchanges that exist, and each queue's messages in order.
#[derive(Debug, Default)]
pub(crate) struct Observation {
    pub(crate) exchanges: HashSet<Name>,
    pub(crate) queues: HashMap<Name, Vec<Found>>,
}

/// Figures for the summary.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Copies of persistent messages in durable queues that were confirmed.
    pub(crate) confirmed: u64,
    /// Copies that were there after a restart.
    pub(crate) recovered: u64,
    /// Copies whose ack was sent so late that they may come back, and did.
    pub(crate) settled_again: u64,
    /// Copies without a confirm that were there nevertheless.
    pub(crate) unconfirmed: u64,
    /// Copies that came back marked as redelivered.
    pub(crate) redelivered: u64,
    /// Transactions that were undecided at the end, and done.
    pub(crate) undecided_done: u64,
    /// Transactions that were undecided at the end, and not done.
    pub(crate) undecided_undone: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Certainty {
    Present,
    Absent,
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Status {
    durable: bool,
    state: Certainty,
}

/// A message in a queue.
#[derive(Clone, Debug)]
struct Copy {
    /// Whether it is a persistent message in a durable queue.
    is_durable: bool,
    invoked: Instant,
    /// `Present` when it was confirmed, `Absent` while its transaction is not committed.
    published: Certainty,
    /// Whether the broker had taken it.
    accepted: bool,
    delivered: Option<Instant>,
    /// Whether somebody has it.
    is_out: bool,
    settled: Option<Settlement>,
}

#[derive(Clone, Copy, Debug)]
struct Settlement {
    sent: Instant,
    /// When an answer showed that the broker had taken it.
    processed: Option<Instant>,
    /// Whether it was part of a transaction with a commit-ok.
    committed: bool,
}

#[derive(Clone, Debug)]
struct Transaction {
    state: TransactionState,
    published: Vec<(Name, MessageId)>,
    settled: Vec<(Name, MessageId)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TransactionState {
    Open,
    Undecided,
    Done,
}

#[derive(Debug, Default)]
struct Contents {
    copies: HashMap<MessageId, Copy>,
    /// Deliveries that may have been on their way to a client.
    unread: u64,
    /// Messages that may have gone to a client that never read them.
    vanished: u64,
    /// A purge that was not answered yet: when it was asked for, and what it must remove.
    purge: Option<(Instant, HashSet<MessageId>)>,
}

/// What is known. See the module.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    things: BTreeMap<Thing, Status>,
    queues: HashMap<Name, Contents>,
    transactions: HashMap<u64, Transaction>,
    /// By reader, publisher and queue: the last sequence of a first delivery.
    last_delivered: HashMap<(u32, u32, Name), u64>,
    /// The latest time of a publish that was confirmed: what came before it is durable.
    synced: Option<Instant>,
    /// When the broker was told to stop.
    ending: Option<Instant>,
    violations: Vec<String>,
    pub(crate) counts: Counts,
}

impl Ledger {
    /// What is declared, or may be, and how sure that is.
    pub(crate) fn things(&self) -> impl Iterator<Item = (&Thing, Certainty)> {
        self.things.iter().map(|(thing, status)| (thing, status.state))
    }

    /// What was wrong so far.
    pub(crate) fn take_violations(&mut self) -> Vec<String> {
        std::mem::take(&mut self.violations)
    }

    /// Takes events that happened without a restart between them. Once the broker has been told to stop, at `ending`,
    /// it closes one connection after the other: what one had goes back, and may go to others.
    pub(crate) fn take(&mut self, mut records: Vec<Record>, ending: Option<Instant>) {
        self.ending = ending;
        records.sort_by_key(|record| record.at);
        for record in records {
            self.event(record.at, record.event);
        }
    }

    fn event(&mut self, at: Instant, event: Event) {
        match event {
            Event::Publish { message, queues, persistent, transaction } => {
                for queue in &*queues {
                    self.publish(at, message, queue, persistent, transaction);
                }
            }
            Event::Confirmed { message, queues } => self.confirmed(message, &queues),
            Event::Accepted { message, queues } => {
                self.each_copy(message, &queues, |copy| copy.accepted = true);
            }
            Event::Unroutable { message, queues } => {
                for queue in &*queues {
                    self.contents(queue).copies.remove(&message);
                }
            }
            Event::Consume { queue, prefetch } => self.contents(&queue).unread += u64::from(prefetch),
            Event::Left { queue, prefetch } => self.contents(&queue).unread -= u64::from(prefetch),
            Event::Deliver { queue, message, redelivered, reader } => {
                self.deliver(at, &queue, message, redelivered, reader);
            }
            Event::Settle { queue, message, transaction: None } => {
                let settlement = Settlement { sent: at, processed: None, committed: false };
                self.settle(&queue, message, settlement);
            }
            Event::Settle { queue, message, transaction: Some(transaction) } => {
                self.transaction(transaction).settled.push((queue, message));
            }
            Event::Processed { queue, message } => {
                if let Some(copy) = self.contents(&queue).copies.get_mut(&message)
                    && let Some(settlement) = &mut copy.settled
                {
                    settlement.processed = Some(at);
                }
            }
            Event::Return { queue, message } => {
                if let Some(copy) = self.contents(&queue).copies.get_mut(&message) {
                    copy.is_out = false;
                }
            }
            Event::Unanswered { queue, removes } => {
                let contents = self.contents(&queue);
                contents.unread += 1;
                contents.vanished += u64::from(removes);
            }
            Event::Purge { queue } => self.purge(at, &queue),
            Event::Purged { queue } => self.purged(at, &queue),
            Event::Commit(number) => self.commit(at, number),
            Event::Committed(number) => self.committed(number),
            Event::RolledBack(number) => {
                self.transactions.remove(&number);
            }
            Event::Declare { thing, durable } => {
                let unknown = Status { durable, state: Certainty::Unknown };
                let status = self.things.entry(thing).or_insert(unknown);
                if status.state == Certainty::Absent {
                    *status = unknown;
                }
            }
            Event::Declared(thing) => self.set_state(&thing, Certainty::Present),
            Event::Delete(thing) => self.gone(&thing, Certainty::Unknown),
            Event::Deleted(thing) => self.gone(&thing, Certainty::Absent),
            Event::Wrong(what) => self.wrong(what),
        }
    }

    fn publish(
        &mut self,
        at: Instant,
        message: MessageId,
        queue: &Name,
        persistent: bool,
        transaction: Option<u64>,
    ) {
        let is_durable = persistent
            && self.things.get(&Thing::Queue(Arc::clone(queue))).is_some_and(|status| status.durable);
        let published = if transaction.is_some() { Certainty::Absent } else { Certainty::Unknown };
        let copy = Copy {
            is_durable,
            invoked: at,
            published,
            accepted: false,
            delivered: None,
            is_out: false,
            settled: None,
        };
        self.contents(queue).copies.insert(message, copy);
        if let Some(number) = transaction {
            self.transaction(number).published.push((Arc::clone(queue), message));
        }
    }

    fn confirmed(&mut self, message: MessageId, queues: &[Name]) {
        let mut confirmed = 0;
        let mut invoked = None;
        self.each_copy(message, queues, |copy| {
            copy.published = Certainty::Present;
            copy.accepted = true;
            invoked = Some(copy.invoked);
            confirmed += u64::from(copy.is_durable);
        });
        self.counts.confirmed += confirmed;
        // Nothing waits for the disk if no copy is durable.
        if confirmed > 0 {
            self.synced = self.synced.max(invoked);
        }
    }

    fn each_copy(&mut self, message: MessageId, queues: &[Name], mut change: impl FnMut(&mut Copy)) {
        for queue in queues {
            if let Some(copy) = self.contents(queue).copies.get_mut(&message) {
                change(copy);
            }
        }
    }

    fn deliver(&mut self, at: Instant, queue: &Name, message: MessageId, redelivered: bool, reader: u32) {
        let is_ending = self.ending.is_some_and(|ending| ending <= at);
        let Some(copy) = self.contents(queue).copies.get_mut(&message) else {
            return self.wrong(format!("{queue} delivered {message}, which must not be there"));
        };
        let wrong = if copy.published == Certainty::Absent {
            Some("which was never committed")
        } else if copy
            .settled
            .is_some_and(|settlement| settlement.processed.is_some() || settlement.committed)
        {
            Some("which had been settled")
        } else if is_ending {
            None
        } else if copy.settled.is_some() {
            Some("which had been settled")
        } else if copy.is_out {
            Some("which somebody has already")
        } else if topology::moves(queue) {
            None
        } else if redelivered && copy.delivered.is_none() {
            Some("redelivered, but it is the first time")
        } else if !redelivered && copy.delivered.is_some() {
            Some("not marked as redelivered, but it is")
        } else {
            None
        };
        copy.delivered = Some(copy.delivered.unwrap_or(at));
        copy.is_out = true;
        if let Some(wrong) = wrong {
            self.wrong(format!("{queue} delivered {message}, {wrong}"));
        }
        if !redelivered && !topology::moves(queue) {
            let key = (reader, message.publisher, Arc::clone(queue));
            let last = self.last_delivered.insert(key, message.sequence);
            if let Some(last) = last.filter(|last| *last >= message.sequence) {
                self.wrong(format!("{queue} delivered {message} after {last} of that publisher"));
            }
        }
    }

    fn settle(&mut self, queue: &Name, message: MessageId, settlement: Settlement) {
        if let Some(copy) = self.contents(queue).copies.get_mut(&message) {
            copy.settled = Some(settlement);
        }
    }

    fn purge(&mut self, at: Instant, queue: &Name) {
        let contents = self.contents(queue);
        let is_ready = |copy: &Copy| copy.published == Certainty::Present && copy.delivered.is_none();
        let ready = contents.copies.iter().filter(|(_, copy)| is_ready(copy));
        contents.purge = Some((at, ready.map(|(message, _)| *message).collect()));
    }

    /// What was ready before is gone; what came between request and answer may be.
    fn purged(&mut self, at: Instant, queue: &Name) {
        let contents = self.contents(queue);
        let Some((sent, ready)) = contents.purge.take() else { return };
        for (message, copy) in contents.copies.iter_mut().filter(|(_, copy)| copy.settled.is_none()) {
            let processed = ready.contains(message).then_some(at);
            copy.settled = Some(Settlement { sent, processed, committed: false });
        }
    }

    fn transaction(&mut self, number: u64) -> &mut Transaction {
        let new =
            || Transaction { state: TransactionState::Open, published: Vec::new(), settled: Vec::new() };
        self.transactions.entry(number).or_insert_with(new)
    }

    fn commit(&mut self, at: Instant, number: u64) {
        let transaction = self.transaction(number);
        transaction.state = TransactionState::Undecided;
        let (published, settled) = (transaction.published.clone(), transaction.settled.clone());
        for (queue, message) in published {
            self.each_copy(message, &[queue], |copy| copy.published = Certainty::Unknown);
        }
        for (queue, message) in settled {
            self.settle(&queue, message, Settlement { sent: at, processed: None, committed: false });
        }
    }

    fn committed(&mut self, number: u64) {
        let transaction = self.transaction(number);
        transaction.state = TransactionState::Done;
        let (published, settled) = (transaction.published.clone(), transaction.settled.clone());
        for (queue, message) in published {
            self.confirmed(message, &[queue]);
        }
        for (queue, message) in settled {
            self.each_copy(message, &[queue], |copy| {
                if let Some(settlement) = &mut copy.settled {
                    settlement.committed = true;
                }
            });
        }
    }

    fn set_state(&mut self, thing: &Thing, state: Certainty) {
        if let Some(status) = self.things.get_mut(thing) {
            status.state = state;
        }
    }

    /// Something goes, and with it what depends on it.
    fn gone(&mut self, thing: &Thing, state: Certainty) {
        self.set_state(thing, state);
        let dependent: Vec<Thing> = self
            .things
            .iter()
            .filter(|(other, status)| {
                status.state != Certainty::Absent && status.state != state && depends_on(other, thing)
            })
            .map(|(other, _)| other.clone())
            .collect();
        for other in dependent {
            self.gone(&other, state);
        }
        if let (Thing::Queue(name), Certainty::Absent) = (thing, state) {
            self.queues.remove(name);
        }
    }

    /// Compares what is there with what must be, and knows afterwards what is there. `at` is when the run ended, and
    /// everything that the observation found counts as delivered now, and given to somebody.
    pub(crate) fn restart(&mut self, end: End, at: Instant, observation: &Observation) {
        self.check_things(observation);
        let mut present = HashSet::new();
        for (queue, found) in &observation.queues {
            for one in found {
                if !present.insert((Arc::clone(queue), one.message)) {
                    self.wrong(format!("{queue} has {} twice", one.message));
                }
            }
            if !topology::moves(queue) {
                self.check_order(queue, found);
            }
            self.check_found(end, at, queue, found);
        }
        self.check_missing(end, &present);
        self.check_transactions(&present);
        self.keep(observation);
    }

    /// Which bindings to prove by publishing: those whose ends are there, with what is known of each.
    pub(crate) fn bindings(&self) -> Vec<(Thing, Certainty)> {
        let is_present =
            |thing: Thing| self.things.get(&thing).is_some_and(|status| status.state == Certainty::Present);
        let ends_are_present = |thing: &Thing| {
            let Thing::Binding { exchange, queue, .. } = thing else { return false };
            let exchange = |auto_delete| Thing::Exchange { name: Arc::clone(exchange), auto_delete };
            is_present(Thing::Queue(Arc::clone(queue)))
                && (is_present(exchange(true)) || is_present(exchange(false)))
        };
        let bindings = self.things.iter().filter(|(thing, _)| ends_are_present(thing));
        bindings.map(|(thing, status)| (thing.clone(), status.state)).collect()
    }

    /// Takes note of whether a binding is there.
    pub(crate) fn proven(&mut self, binding: &Thing, is_present: bool) {
        let state = self.things.get(binding).map(|status| status.state);
        match (state, is_present) {
            (Some(Certainty::Present), false) => self.wrong(format!("{binding:?} is lost")),
            (Some(Certainty::Absent), true) => self.wrong(format!("{binding:?} is back")),
            _ => {}
        }
        if is_present {
            self.set_state(binding, Certainty::Present);
        } else {
            // An exchange that goes with it was there just now: then the binding never was.
            self.things.remove(binding);
        }
    }

    fn check_things(&mut self, observation: &Observation) {
        let mut wrong = Vec::new();
        let mut absent = Vec::new();
        for (thing, status) in &mut self.things {
            let is_present = match thing {
                Thing::Queue(name) => observation.queues.contains_key(name),
                Thing::Exchange { name, .. } => observation.exchanges.contains(name),
                // Proven later.
                Thing::Binding { .. } => {
                    if !status.durable {
                        status.state = Certainty::Absent;
                    }
                    continue;
                }
            };
            let expected = if status.durable { status.state } else { Certainty::Absent };
            match (expected, is_present) {
                (Certainty::Present, false) => wrong.push(format!("{thing:?} is lost")),
                (Certainty::Absent, true) if !status.durable => {
                    wrong.push(format!("{thing:?} is not durable, but there"));
                }
                (Certainty::Absent, true) => wrong.push(format!("{thing:?} is back")),
                _ => {}
            }
            if is_present {
                status.state = Certainty::Present;
            } else {
                absent.push(thing.clone());
            }
        }
        wrong.into_iter().for_each(|what| self.wrong(what));
        for thing in &absent {
            self.gone(thing, Certainty::Absent);
        }
        // Names and keys are never used again, but for those of what is not durable. A binding is still to be proven.
        let bindings: HashSet<Thing> = self.bindings().into_iter().map(|(binding, _)| binding).collect();
        self.things.retain(|thing, status| status.state != Certainty::Absent || bindings.contains(thing));
    }

    fn check_order(&mut self, queue: &Name, found: &[Found]) {
        let mut last = HashMap::new();
        for one in found {
            let MessageId { publisher, sequence } = one.message;
            if let Some(before) = last.insert(publisher, sequence).filter(|before| *before > sequence) {
                self.wrong(format!("{queue} has {} after {before} of that publisher", one.message));
            }
        }
    }

    fn check_found(&mut self, end: End, at: Instant, queue: &Name, found: &[Found]) {
        let synced = self.synced;
        let is_durable = |since: Instant, age: Duration| {
            end == End::Terminated || (since + age <= at && synced.is_some_and(|synced| since <= synced))
        };
        let mut wrong = Vec::new();
        let mut counts = self.counts;
        let contents = self.contents(queue);
        let mut unread = contents.unread;
        for Found { message, redelivered } in found {
            counts.recovered += 1;
            counts.redelivered += u64::from(*redelivered);
            let Some(copy) = contents.copies.get(message) else {
                wrong.push(format!("{queue} has {message}, which must not be there"));
                continue;
            };
            if !copy.is_durable {
                wrong.push(format!("{queue} has {message}, which is transient or in a queue that is"));
            }
            match copy.published {
                Certainty::Absent => wrong.push(format!("{queue} has {message}, which was never committed")),
                Certainty::Unknown => counts.unconfirmed += 1,
                Certainty::Present => {}
            }
            if let Some(settlement) = copy.settled {
                counts.settled_again += 1;
                let is_long_ago = settlement.processed.is_some_and(|processed| {
                    is_durable(processed, SETTLED_AFTER.saturating_sub(processed - settlement.sent))
                });
                if settlement.committed {
                    wrong.push(format!("{queue} has {message}, which a committed transaction settled"));
                } else if is_long_ago {
                    wrong.push(format!("{queue} has {message}, which was settled long ago"));
                }
            }
            match (copy.delivered, redelivered) {
                _ if topology::moves(queue) => {}
                (Some(delivered), false) if is_durable(delivered, DELIVERED_AFTER) => {
                    wrong.push(format!("{queue} has {message} not marked as redelivered, but it is"));
                }
                (None, true) if unread > 0 => unread -= 1,
                (None, true) => {
                    wrong.push(format!("{queue} has {message} redelivered, but it is the first time"));
                }
                _ => {}
            }
        }
        self.counts = counts;
        wrong.into_iter().for_each(|what| self.wrong(what));
    }

    fn check_missing(&mut self, end: End, present: &HashSet<(Name, MessageId)>) {
        let mut wrong = Vec::new();
        for (queue, contents) in &mut self.queues {
            for (message, copy) in &contents.copies {
                let is_known = copy.published == Certainty::Present
                    || (end == End::Terminated && copy.accepted && copy.published == Certainty::Unknown);
                let must_be_there =
                    copy.is_durable && is_known && copy.settled.is_none() && contents.purge.is_none();
                if !must_be_there || present.contains(&(Arc::clone(queue), *message)) {
                    continue;
                }
                if contents.vanished > 0 {
                    contents.vanished -= 1;
                } else {
                    let word = if copy.published == Certainty::Present { "confirmed" } else { "accepted" };
                    wrong.push(format!("{queue} lost {message}, which was {word}"));
                }
            }
        }
        wrong.into_iter().for_each(|what| self.wrong(what));
    }

    /// A transaction that was not answered is done in all its parts, or in none.
    fn check_transactions(&mut self, present: &HashSet<(Name, MessageId)>) {
        for (number, transaction) in std::mem::take(&mut self.transactions) {
            if transaction.state != TransactionState::Undecided {
                continue;
            }
            let copy_of = |(queue, message): &(Name, MessageId)| {
                let copy = self.queues.get(queue)?.copies.get(message)?;
                let is_present = present.contains(&(Arc::clone(queue), *message));
                Some((copy, is_present))
            };
            let published = transaction.published.iter().filter_map(copy_of);
            let published = published.filter(|(copy, _)| copy.is_durable && copy.settled.is_none());
            let published: Vec<bool> = published.map(|(_, is_present)| is_present).collect();
            let settled = transaction.settled.iter().filter_map(copy_of);
            let settled = settled.filter(|(copy, _)| copy.is_durable && copy.published == Certainty::Present);
            let settled: Vec<bool> = settled.map(|(_, is_present)| !is_present).collect();
            let done = published.iter().chain(&settled).filter(|done| **done).count();
            if done == 0 {
                self.counts.undecided_undone += 1;
            } else if done == published.len() + settled.len() {
                self.counts.undecided_done += 1;
            } else {
                self.wrong(format!(
                    "transaction {number} is half done: publishes {published:?}, acks {settled:?}"
                ));
            }
        }
    }

    /// Forgets what is not there.
    fn keep(&mut self, observation: &Observation) {
        let now = Instant::now();
        self.last_delivered.clear();
        self.queues.retain(|queue, _| observation.queues.contains_key(queue));
        for (queue, found) in &observation.queues {
            let contents = self.contents(queue);
            let mut before = std::mem::take(contents);
            for one in found {
                // What was wrong has been told; from now on it is like any other.
                let copy = before.copies.remove(&one.message);
                let delivered = copy.and_then(|copy| copy.delivered).unwrap_or(now);
                let copy = Copy {
                    is_durable: true,
                    invoked: delivered,
                    published: Certainty::Present,
                    accepted: true,
                    delivered: Some(if one.redelivered { delivered } else { now }),
                    is_out: true,
                    settled: None,
                };
                contents.copies.insert(one.message, copy);
            }
        }
    }

    fn contents(&mut self, queue: &Name) -> &mut Contents {
        self.queues.entry(Arc::clone(queue)).or_default()
    }

    fn wrong(&mut self, what: String) {
        match self.violations.len() {
            VIOLATIONS_MAX.. => {}
            length if length + 1 == VIOLATIONS_MAX => self.violations.push("and more".to_owned()),
            _ => self.violations.push(what),
        }
    }
}

/// Whether `thing` goes when `gone` does.
fn depends_on(thing: &Thing, gone: &Thing) -> bool {
    match (thing, gone) {
        (Thing::Binding { queue, .. }, Thing::Queue(name)) => queue == name,
        (Thing::Binding { exchange, .. }, Thing::Exchange { name, .. }) => exchange == name,
        (Thing::Exchange { name, auto_delete: true }, Thing::Binding { exchange, .. }) => name == exchange,
        _ => false,
    }
}
