//! What a crash may take and what it may not: the broker is gone, and another one has begun with what the log brought
//! back.
//!
//! What a client was told holds: a queue is there or gone, bound or not, purged. What it was not told may have become
//! durable or not, as far as it was done. Of messages the log knows more than clients: what it had synced must be
//! there or gone, and of the rest all may be there, but for what was in the way of a restart anyway.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Connection, Message, Model, Queue, State, Taken};
use crate::operation::{KEYS_MAX, key_of};

/// Whether the log keeps deadlines, and which messages are held.
pub const TIME_SURVIVES: bool = true;

/// What the log had synced when the broker crashed. Queues are told by their numbers among the durable ones that the
/// broker ever had, from 0 and in order of declaration.
#[derive(Debug, Default)]
pub struct Synced {
    /// Messages that left their queue for good: queue and position.
    pub settled: HashSet<(usize, u64)>,
    /// The highest position that was delivered, by queue.
    pub delivered_up_to: HashMap<usize, u64>,
    /// How many deliveries have failed, by queue and position.
    pub returned: HashMap<(usize, u64), u32>,
    /// Until when messages are held, by queue and place.
    pub held: HashMap<(usize, u64), u64>,
}

/// The queues that came back, by name.
pub type Recovered = BTreeMap<String, RecoveredQueue>;

/// A queue that came back.
#[derive(Clone, Debug, Default)]
pub struct RecoveredQueue {
    /// Which of the durable queues it is, if that is known.
    pub number: Option<usize>,
    /// Whether it is bound to the fanout exchange.
    pub is_bound: bool,
    /// The position that its next message gets.
    pub next: u64,
    /// In the queue's order.
    pub messages: Vec<RecoveredMessage>,
    /// By which keys duplicates are known, oldest first.
    pub known: Vec<u64>,
}

/// A message that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveredMessage {
    pub position: u64,
    /// The position, or the number where nobody knows the order.
    pub place: u64,
    pub id: u64,
    pub redelivered: bool,
    /// How many deliveries of it have failed.
    pub delivery_count: u32,
    /// Until when it is held, and whether it is dead.
    pub held: Option<(u64, bool)>,
}

/// What a transaction did: a crash leaves all of it or nothing.
#[derive(Debug, Default)]
pub struct Commit {
    /// Messages that the log gets.
    pub published: Vec<u64>,
    /// Deliveries that were settled for good: queue and position.
    pub settled: HashSet<(usize, u64)>,
}

/// The values that something had, numbered, back to the last that was promised: a crash may bring back any of them.
#[derive(Debug)]
pub struct History<T> {
    values: Vec<(u64, T)>,
}

/// What an answer says about a crash after it.
#[derive(Debug)]
pub enum Promise {
    /// That the name has the queue, or none, that it had then, or one of later.
    Exists { queue: String, number: u64 },
    /// The same for whether a queue is bound.
    Bound { queue: usize, number: u64 },
    /// That what was purged is gone.
    Purged { queue: usize, purge: u64 },
}

impl<T: Default> Default for History<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> History<T> {
    fn new(value: T) -> Self {
        Self { values: vec![(0, value)] }
    }

    pub fn push(&mut self, value: T) {
        self.values.push((self.number() + 1, value));
    }

    /// The number of the current value.
    pub fn number(&self) -> u64 {
        self.values.last().expect("there is a current value").0
    }

    /// Nothing before that one comes back.
    fn promise(&mut self, first: u64) {
        self.values.retain(|(number, _)| *number >= first);
    }

    fn possible(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.values.iter().map(|(_, value)| value)
    }
}

/// Whether a message comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Goes,
    Either,
}

impl Model {
    /// The answer that makes a promise was read.
    pub(super) fn promised(&mut self, promise: Promise) {
        match promise {
            Promise::Exists { queue, number } => self.names.entry(queue).or_default().promise(number),
            Promise::Bound { queue, number } => self.queues[queue].bound.promise(number),
            Promise::Purged { queue, purge } => {
                let answered = &mut self.queues[queue].purges_answered;
                *answered = purge.max(*answered);
            }
        }
    }

    /// The broker has crashed, and another one has begun with what came back. Its queues are numbered anew, in the
    /// same order; nobody is connected.
    ///
    /// # Panics
    /// If a promise was broken.
    pub fn crash(&mut self, synced: &Synced, recovered: &Recovered) {
        if let Err(broken) = self.try_crash(synced, recovered) {
            panic!("after a crash {broken}");
        }
    }

    fn try_crash(&mut self, synced: &Synced, recovered: &Recovered) -> Result<(), String> {
        if let Some(name) = recovered.keys().find(|name| !self.names.contains_key(*name)) {
            return Err(format!("there is {name}, which was never declared"));
        }
        // A message is there in all its queues or in none, and so is all that was committed together.
        let back = recovered.values().flat_map(|queue| &queue.messages);
        self.durable.extend(back.map(|message| message.id));
        let Self { commits, durable, .. } = self;
        commits.retain(|commit| commit.published.iter().any(|id| durable.contains(id)));
        durable.extend(commits.iter().flat_map(|commit| &commit.published));
        self.check_letters(recovered)?;
        for queue in self.live.values().copied() {
            let queue = &mut self.queues[queue];
            if let Some(recovered) = recovered.get(&queue.name).filter(|_| queue.kind.is_unique()) {
                queue.taken = queue.known_after_crash(&self.durable, &recovered.known)?;
                self.durable.extend(queue.taken.iter().map(|taken| taken.id));
            }
        }
        let mut survivors = BTreeMap::new();
        for name in self.names.keys() {
            let recovered = recovered.get(name);
            survivors.extend(self.survivor(name, synced, recovered)?.zip(recovered));
        }
        self.restart(survivors, synced);
        Ok(())
    }

    /// Which of the queues that had the name is the one that came back.
    fn survivor(
        &self,
        name: &str,
        synced: &Synced,
        recovered: Option<&RecoveredQueue>,
    ) -> Result<Option<usize>, String> {
        let possible =
            self.names[name].possible().map(|queue| queue.filter(|queue| self.queues[*queue].durable));
        let Some(recovered) = recovered else {
            let may_be_gone = possible.into_iter().any(|queue| queue.is_none());
            return if may_be_gone { Ok(None) } else { Err(format!("{name} is gone")) };
        };
        let mut broken = None;
        let is_it =
            |queue: &usize| recovered.number.is_none_or(|number| number == self.durable_number(*queue));
        for queue in possible.flatten().rev().filter(is_it) {
            match self.check_queue(queue, synced, recovered) {
                Ok(()) => return Ok(Some(queue)),
                Err(reason) => broken = broken.or(Some(reason)),
            }
        }
        Err(broken.unwrap_or_else(|| format!("{name} is back")))
    }

    fn check_queue(&self, index: usize, synced: &Synced, recovered: &RecoveredQueue) -> Result<(), String> {
        let queue = &self.queues[index];
        let number = self.durable_number(index);
        let name = &queue.name;
        if !queue.bound.possible().any(|is_bound| *is_bound == recovered.is_bound) {
            let state = if recovered.is_bound { "bound" } else { "not bound" };
            return Err(format!("{name} is {state}"));
        }
        check_order(name, recovered)?;
        let back: HashSet<u64> = recovered.messages.iter().map(|message| message.place).collect();
        for found in &recovered.messages {
            self.check_message(index, number, synced, *found)?;
        }
        for (position, message) in &queue.messages {
            let is_synced = message.persistent && self.durable.contains(&message.id);
            let is_settled = self.is_settled(synced, (index, number), *position);
            if !back.contains(position) && self.fate(queue, message, is_settled) == Fate::Stays {
                return Err(format!("{} is missing from {name}", message.id));
            }
            if is_synced && !queue.kind.is_unordered() && *position >= recovered.next {
                return Err(format!("{name} uses position {position} twice"));
            }
        }
        Ok(())
    }

    fn check_message(
        &self,
        index: usize,
        number: usize,
        synced: &Synced,
        found: RecoveredMessage,
    ) -> Result<(), String> {
        let queue = &self.queues[index];
        let (name, RecoveredMessage { position, place, id, redelivered, delivery_count, .. }) =
            (&queue.name, found);
        let Some(message) = queue.messages.get(&place).filter(|message| message.id == id) else {
            return Err(format!("{id} at {position} of {name} was never there"));
        };
        let is_settled = self.is_settled(synced, (index, number), place);
        if self.fate(queue, message, is_settled) == Fate::Goes {
            return Err(format!("{id} is back in {name}"));
        }
        let delivered_up_to = synced.delivered_up_to.get(&number).copied().unwrap_or(0);
        if !redelivered && position <= delivered_up_to.max(queue.delivered_up_to) {
            return Err(format!("{id} of {name} is not marked as redelivered"));
        }
        if redelivered && !queue.was_delivered {
            return Err(format!("{id} of {name} is marked as redelivered"));
        }
        let held_until_ms = synced.held.get(&(number, place)).copied();
        if TIME_SURVIVES && held_until_ms > found.held.map(|(until_ms, _)| until_ms) {
            return Err(format!("{id} of {name} is not held until {held_until_ms:?}: {:?}", found.held));
        }
        let least = synced.returned.get(&(number, place)).copied().unwrap_or(0);
        if !(least..=message.failed).contains(&delivery_count) {
            let most = message.failed;
            return Err(format!("{id} of {name} has failed {delivery_count} times, not {least} to {most}"));
        }
        Ok(())
    }

    fn is_settled(&self, synced: &Synced, (index, number): (usize, usize), position: u64) -> bool {
        synced.settled.contains(&(number, position))
            || self.commits.iter().any(|commit| commit.settled.contains(&(index, position)))
    }

    /// A client learns of a settlement without acknowledgement when it reads the delivery, and the broker makes it no
    /// sooner. So what the model has in the queue, no settlement has taken.
    fn fate(&self, queue: &Queue, message: &Message, is_settled: bool) -> Fate {
        let is_gone = message.state == State::Gone;
        let is_known_purged = is_gone && (1..=queue.purges_answered).contains(&message.purge);
        if !message.persistent || is_settled || is_known_purged {
            Fate::Goes
        } else if is_gone || message.met_purge || !self.durable.contains(&message.id) {
            Fate::Either
        } else {
            Fate::Stays
        }
    }

    fn durable_number(&self, index: usize) -> usize {
        self.queues[..index].iter().filter(|queue| queue.durable).count()
    }

    fn restart(&mut self, survivors: BTreeMap<usize, &RecoveredQueue>, synced: &Synced) {
        let mut queues = Vec::new();
        for (index, recovered) in &survivors {
            let delivered_up_to = synced.delivered_up_to.get(&self.durable_number(*index)).copied();
            let mut queue = self.queues[*index].restarted(recovered);
            queue.delivered_up_to = queue.delivered_up_to.max(delivered_up_to.unwrap_or(0));
            queues.push(queue);
        }
        self.live = queues.iter().enumerate().map(|(index, queue)| (queue.name.clone(), index)).collect();
        for (name, history) in &mut self.names {
            *history = History::new(self.live.get(name).copied());
        }
        let bound = survivors.values().enumerate().filter(|(_, recovered)| recovered.is_bound);
        self.bindings = bound.map(|(index, _)| index).collect();
        let messages = queues.iter().flat_map(|queue| queue.messages.values());
        let known = queues.iter().flat_map(|queue| &queue.taken).map(|taken| taken.id);
        self.durable = messages.map(|message| message.id).chain(known).collect();
        self.commits.clear();
        self.queues = queues;
        self.unsure.clear();
        self.refused.clear();
        self.dated.clear();
        for queue in 0..self.queues.len() {
            self.bound(queue);
            let places: Vec<u64> = self.queues[queue].messages.keys().copied().collect();
            for place in places {
                self.restored(queue, place);
            }
        }
        self.consumers.clear();
        self.connections.fill_with(|| Connection { is_closed: true, ..Connection::default() });
    }
}

impl Model {
    fn restored(&mut self, queue: usize, place: u64) {
        if self.queues[queue].messages[&place].is_kept() {
            self.is_dead(queue, place);
        }
        self.look_again(queue, place);
    }
}

impl Message {
    /// Whether it is dead and waits for another queue.
    fn is_kept(&self) -> bool {
        self.state == State::Held && self.until_ms == 0
    }
}

impl Queue {
    /// Keys come back with their messages: of what came, all up to some moment.
    fn known_after_crash(&self, durable: &HashSet<u64>, known: &[u64]) -> Result<Vec<Taken>, String> {
        let taken: Vec<Taken> = self.taken.iter().filter(|taken| taken.persistent).copied().collect();
        let least = taken.iter().rposition(|taken| durable.contains(&taken.id)).map_or(0, |last| last + 1);
        let is_it = |up_to: &usize| last_keys(&taken[..*up_to]) == known;
        match (least..=taken.len()).find(is_it) {
            Some(up_to) => Ok(taken[..up_to].to_vec()),
            None => {
                let keys = last_keys(&taken[..least]);
                Err(format!("{} knows {known:?}, and not {keys:?} or more", self.name))
            }
        }
    }

    fn restarted(&self, recovered: &RecoveredQueue) -> Self {
        let mut queue = Self {
            name: self.name.clone(),
            kind: self.kind,
            durable: true,
            is_live: true,
            // Once before all that is marked and not for the others, so that each comes as it must.
            returns: 1,
            last: recovered.next - 1,
            bound: History::new(recovered.is_bound),
            had_held: recovered.messages.iter().any(|message| message.held.is_some()),
            was_delivered: self.was_delivered,
            delivered_up_to: self.delivered_up_to,
            taken: self.taken.clone(),
            ..Self::default()
        };
        for found in &recovered.messages {
            let RecoveredMessage { place, id, redelivered, delivery_count, held, .. } = *found;
            let known = &self.messages[&place];
            let message = Message {
                priority: known.priority,
                state: if held.is_some() { State::Held } else { State::Available },
                failed: delivery_count,
                seen: redelivered,
                returns_before: u64::from(!redelivered),
                deadline_ms: Model::deadline_after_crash(known),
                until_ms: held.filter(|(_, is_dead)| !is_dead).map_or(0, |(until_ms, _)| until_ms),
                ..Message::new(id, true)
            };
            queue.positions.insert(id, place);
            queue.messages.insert(place, message);
        }
        queue
    }
}

/// The keys of what came last, oldest first.
fn last_keys(taken: &[Taken]) -> Vec<u64> {
    let mut keys = Vec::new();
    for key in taken.iter().rev().map(|taken| key_of(taken.id)) {
        if keys.len() < KEYS_MAX && !keys.contains(&key) {
            keys.insert(0, key);
        }
    }
    keys
}

/// Positions grow, and those that may have been delivered come first.
fn check_order(name: &str, recovered: &RecoveredQueue) -> Result<(), String> {
    let mut last: Option<RecoveredMessage> = None;
    for message in recovered.messages.iter().copied() {
        if last.is_some_and(|last| last.position >= message.position) {
            return Err(format!("{} of {name} is out of order", message.id));
        }
        if message.redelivered && last.is_some_and(|last| !last.redelivered) {
            return Err(format!("{} of {name} is marked as redelivered, and not the one before", message.id));
        }
        last = Some(message);
    }
    if last.is_some_and(|last| last.position >= recovered.next) {
        return Err(format!("{name} will use a position twice"));
    }
    Ok(())
}
