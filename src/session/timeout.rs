//! How long the deliveries of a channel may stay unacknowledged (RabbitMQ: consumer timeout).
//!
//! Nothing is kept for each delivery but who holds it. Deliveries are in the order of their times, so a few [`Mark`]s tell
//! when each went out, late by a 64th of the shortest timeout at most. For each length of timeout, a [`Class`] knows a
//! delivery that all before it are settled or of other classes, and when that one is due. Only then it looks for the next
//! one, and from there on: a channel looks at each delivery once for each length of timeout, however often it wakes up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::channel::Unacked;
use crate::broker::NEVER;

/// Who holds a delivery: a number within the channel. All consumers without a timeout are one, and so are all
/// deliveries of basic.get with the same timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Holder(u32);

impl Holder {
    /// A consumer without a timeout.
    pub(super) const CONSUMER: Self = Self(0);
    /// basic.get without a timeout.
    pub(super) const GET: Self = Self(1 << 31);
    /// Nobody any more: the delivery has gone back to its queue, and its acknowledgement will do nothing.
    pub(super) const RETURNED: Self = Self(u32::MAX);

    /// Whether a consumer has it: RabbitMQ does not count basic.get against the limit of a channel.
    pub(super) fn is_consumer(self) -> bool {
        self < Self::GET
    }

    /// Whether it has a timeout.
    pub(super) fn is_timed(self) -> bool {
        !matches!(self, Self::CONSUMER | Self::GET | Self::RETURNED)
    }
}

/// See the module's text. A channel has it once it has a timeout.
#[derive(Debug, Default)]
pub(super) struct Timeouts {
    /// How long each holder's deliveries may take, in milliseconds.
    holders: BTreeMap<Holder, u64>,
    /// How many holders there may be before those that hold nothing are forgotten.
    holders_max: usize,
    last_number: u32,
    /// By timeout.
    classes: BTreeMap<u64, Class>,
    marks: VecDeque<Mark>,
}

/// The deliveries with one timeout.
#[derive(Debug)]
struct Class {
    /// None of this class is before it.
    next_tag: u64,
    /// When to look at the deliveries from there on; [`NEVER`] if there are none.
    deadline_ms: u64,
}

/// Some deliveries that went out shortly one after another.
#[derive(Debug)]
struct Mark {
    first_tag: u64,
    first_ms: u64,
    last_ms: u64,
}

/// A delivery that was not acknowledged in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimedOut {
    pub(super) holder: Holder,
    pub(super) timeout_ms: u64,
}

/// Marks that cover the time of the shortest timeout.
const MARKS: u64 = 64;
/// Holders that are never looked through.
const HOLDERS_MIN: usize = 64;

impl Timeouts {
    /// Adds a consumer whose deliveries may take that long.
    pub(super) fn add_consumer(&mut self, timeout_ms: u64) -> Holder {
        let number = self.next_number();
        self.add(Holder(number), timeout_ms)
    }

    /// Who holds the deliveries of basic.get that may take that long.
    pub(super) fn getter(&mut self, timeout_ms: u64) -> Holder {
        let known = self.holders.range(Holder::GET..).find(|(_, known_ms)| **known_ms == timeout_ms);
        if let Some((holder, _)) = known {
            return *holder;
        }
        let number = self.next_number();
        self.add(Holder(Holder::GET.0 | number), timeout_ms)
    }

    /// From 1 to less than what [`Holder::RETURNED`] has, and then again.
    fn next_number(&mut self) -> u32 {
        self.last_number = self.last_number % (Holder::GET.0 - 2) + 1;
        self.last_number
    }

    fn add(&mut self, holder: Holder, timeout_ms: u64) -> Holder {
        self.holders.insert(holder, timeout_ms);
        self.classes.entry(timeout_ms).or_insert(Class { next_tag: 0, deadline_ms: NEVER });
        holder
    }

    /// Whether there are so many holders that it is worth to forget some.
    pub(super) fn is_full(&self) -> bool {
        self.holders.len() >= self.holders_max.max(HOLDERS_MIN)
    }

    /// Forgets the holders that are not used.
    pub(super) fn keep(&mut self, used: &BTreeSet<Holder>) {
        self.holders.retain(|holder, _| used.contains(holder));
        self.holders_max = 2 * self.holders.len();
        let used: BTreeSet<u64> = self.holders.values().copied().collect();
        self.classes.retain(|timeout_ms, _| used.contains(timeout_ms));
    }

    /// A delivery has gone out; `first_tag` is that of the first one that is not settled. Returns when to look for those
    /// that are due.
    pub(super) fn delivered(&mut self, holder: Holder, tag: u64, first_tag: u64, now_ms: u64) -> u64 {
        self.mark(tag, first_tag, now_ms);
        let Some(timeout_ms) = self.holders.get(&holder).copied() else { return NEVER };
        let class = self.classes.get_mut(&timeout_ms);
        let class = class.expect("invariant: each timeout of a holder has its class");
        if class.deadline_ms == NEVER {
            class.next_tag = tag;
            class.deadline_ms = now_ms.saturating_add(timeout_ms);
        }
        class.deadline_ms
    }

    fn mark(&mut self, tag: u64, first_tag: u64, now_ms: u64) {
        let shortest_ms = self.classes.first_key_value().map_or(0, |(timeout_ms, _)| *timeout_ms);
        match self.marks.back_mut() {
            Some(last) if now_ms - last.first_ms <= shortest_ms / MARKS => last.last_ms = now_ms,
            _ => self.marks.push_back(Mark { first_tag: tag, first_ms: now_ms, last_ms: now_ms }),
        }
        while self.marks.get(1).is_some_and(|second| second.first_tag <= first_tag) {
            self.marks.pop_front();
        }
    }

    /// When a delivery went out, or a little later.
    fn delivered_ms(marks: &VecDeque<Mark>, tag: u64) -> u64 {
        let after = marks.partition_point(|mark| mark.first_tag <= tag);
        marks.get(after.saturating_sub(1)).map_or(0, |mark| mark.last_ms)
    }

    /// Deliveries that were settled are not, after all: a transaction was rolled back.
    pub(super) fn restored(&mut self) -> u64 {
        for class in self.classes.values_mut() {
            (class.next_tag, class.deadline_ms) = (0, 0);
        }
        self.deadline_ms()
    }

    /// When to look for deliveries that are due; [`NEVER`] if there are none.
    pub(super) fn deadline_ms(&self) -> u64 {
        self.classes.values().map(|class| class.deadline_ms).min().unwrap_or(NEVER)
    }

    /// A delivery whose time is up, if there is one.
    pub(super) fn look(&mut self, unacked: &Unacked, now_ms: u64) -> Option<TimedOut> {
        let Self { holders, classes, marks, .. } = self;
        for (&timeout_ms, class) in classes.iter_mut().filter(|(_, class)| class.deadline_ms <= now_ms) {
            let mut of_class = unacked
                .from(class.next_tag)
                .filter(|delivery| holders.get(&delivery.holder) == Some(&timeout_ms));
            class.deadline_ms = NEVER;
            let Some(first) = of_class.next() else { continue };
            class.next_tag = first.tag;
            class.deadline_ms = Self::delivered_ms(marks, first.tag).saturating_add(timeout_ms);
            if class.deadline_ms <= now_ms {
                return Some(TimedOut { holder: first.holder, timeout_ms });
            }
        }
        None
    }
}
