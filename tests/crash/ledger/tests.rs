//! The checker on histories made by hand.

use super::*;
use crate::Check;

/// Run by `main`.
pub(crate) const CHECKS: &[Check] = &[
    ("ledger::what_was_confirmed_must_be_there", what_was_confirmed_must_be_there),
    ("ledger::what_was_not_confirmed_may_be_there", what_was_not_confirmed_may_be_there),
    ("ledger::a_clean_restart_keeps_what_was_accepted", a_clean_restart_keeps_what_was_accepted),
    ("ledger::nothing_is_invented_or_twice", nothing_is_invented_or_twice),
    ("ledger::transient_messages_are_gone", transient_messages_are_gone),
    ("ledger::a_late_ack_may_be_forgotten", a_late_ack_may_be_forgotten),
    ("ledger::what_was_removed_stays_removed", what_was_removed_stays_removed),
    ("ledger::a_get_without_answer_may_remove_one", a_get_without_answer_may_remove_one),
    ("ledger::redelivery_is_marked", redelivery_is_marked),
    ("ledger::deliveries_follow_the_rules", deliveries_follow_the_rules),
    ("ledger::order_is_kept", order_is_kept),
    ("ledger::a_transaction_is_done_or_not", a_transaction_is_done_or_not),
    ("ledger::a_purge_leaves_nothing", a_purge_leaves_nothing),
    ("ledger::what_moves_by_itself_is_in_one_place", what_moves_by_itself_is_in_one_place),
    ("ledger::definitions_are_kept_and_deleted", definitions_are_kept_and_deleted),
];

/// A ledger with the durable queues `q` and `r`, and time that is counted in milliseconds.
struct Story {
    start: Instant,
    ledger: Ledger,
}

impl Story {
    fn new() -> Self {
        let mut story = Self { start: Instant::now(), ledger: Ledger::default() };
        for queue in ["q", "r"] {
            let thing = Thing::Queue(queue.into());
            story.event(0, Event::Declare { thing: thing.clone(), durable: true });
            story.event(0, Event::Declared(thing));
        }
        story
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn event(&mut self, ms: u64, event: Event) {
        self.ledger.take(vec![Record { at: self.at(ms), event }], None);
    }

    fn publish(&mut self, ms: u64, sequence: u64) {
        let event = Event::Publish {
            message: id(sequence),
            queues: [Name::from("q")].into(),
            persistent: true,
            transaction: None,
        };
        self.event(ms, event);
    }

    /// Publishes with a confirm.
    fn publish_safely(&mut self, ms: u64, sequence: u64) {
        self.publish(ms, sequence);
        self.event(ms + 1, Event::Confirmed { message: id(sequence), queues: [Name::from("q")].into() });
    }

    fn publish_in(&mut self, transaction: u64, queue: &str, sequence: u64) {
        let (message, queues) = (id(sequence), [Name::from(queue)].into());
        let event = Event::Publish { message, queues, persistent: true, transaction: Some(transaction) };
        self.event(1, event);
    }

    fn deliver(&mut self, ms: u64, sequence: u64, redelivered: bool) {
        let (queue, message) = ("q".into(), id(sequence));
        self.event(ms, Event::Deliver { queue, message, redelivered, reader: 7 });
    }

    fn settle(&mut self, ms: u64, sequence: u64) {
        let (queue, message) = (Name::from("q"), id(sequence));
        self.event(ms, Event::Settle { queue: queue.clone(), message, transaction: None });
        self.event(ms + 1, Event::Processed { queue, message });
    }

    fn give_back(&mut self, ms: u64, sequence: u64) {
        self.event(ms, Event::Return { queue: "q".into(), message: id(sequence) });
    }

    /// The violations after an end at `ms`, with these messages in `q` and no others.
    fn end(self, end: End, ms: u64, found: &[(u64, bool)]) -> Vec<String> {
        self.end_with(end, ms, found, &[])
    }

    fn end_with(mut self, end: End, ms: u64, q: &[(u64, bool)], r: &[(u64, bool)]) -> Vec<String> {
        let found = |found: &[(u64, bool)]| {
            let one = |(sequence, redelivered): &(u64, bool)| Found {
                message: id(*sequence),
                redelivered: *redelivered,
            };
            found.iter().map(one).collect()
        };
        let mut observation = Observation::default();
        observation.queues.insert("q".into(), found(q));
        observation.queues.insert("r".into(), found(r));
        self.ledger.restart(end, self.at(ms), &observation);
        self.ledger.take_violations()
    }

    /// The violations so far.
    fn wrong(mut self) -> Vec<String> {
        self.ledger.take_violations()
    }
}

fn id(sequence: u64) -> MessageId {
    MessageId { publisher: 1, sequence }
}

#[track_caller]
fn right(violations: Vec<String>) {
    assert!(violations.is_empty(), "{violations:?}");
}

#[track_caller]
fn wrong(violations: Vec<String>, text: &str) {
    assert!(violations.len() == 1 && violations[0].contains(text), "{violations:?}");
}

fn what_was_confirmed_must_be_there() {
    let confirmed = || {
        let mut story = Story::new();
        story.publish_safely(1, 1);
        story
    };
    right(confirmed().end(End::Killed, 10, &[(1, false)]));
    wrong(confirmed().end(End::Killed, 10, &[]), "q lost 1/1, which was confirmed");
    wrong(confirmed().end(End::Terminated, 10, &[]), "q lost 1/1");
    let mut story = confirmed();
    story.deliver(5, 1, false);
    wrong(story.end(End::Killed, 10, &[]), "q lost 1/1");
}

fn what_was_not_confirmed_may_be_there() {
    for found in [&[][..], &[(1, false)]] {
        let mut story = Story::new();
        story.publish(1, 1);
        right(story.end(End::Killed, 10, found));
    }
}

fn a_clean_restart_keeps_what_was_accepted() {
    let accepted = || {
        let mut story = Story::new();
        story.publish(1, 1);
        story.event(2, Event::Accepted { message: id(1), queues: [Name::from("q")].into() });
        story
    };
    right(accepted().end(End::Killed, 10, &[]));
    wrong(accepted().end(End::Terminated, 10, &[]), "q lost 1/1, which was accepted");
}

fn nothing_is_invented_or_twice() {
    wrong(Story::new().end(End::Killed, 10, &[(1, false)]), "must not be there");
    let mut story = Story::new();
    story.publish_safely(1, 1);
    wrong(story.end(End::Killed, 10, &[(1, false), (1, false)]), "twice");
    let mut story = Story::new();
    story.publish_safely(1, 1);
    wrong(story.end_with(End::Killed, 10, &[(1, false)], &[(1, false)]), "r has 1/1");
}

fn transient_messages_are_gone() {
    for found in [&[][..], &[(1, false)]] {
        let mut story = Story::new();
        let (message, queues) = (id(1), [Name::from("q")].into());
        story.event(1, Event::Publish { message, queues, persistent: false, transaction: None });
        story.event(2, Event::Confirmed { message, queues: [Name::from("q")].into() });
        let violations = story.end(End::Terminated, 10, found);
        if found.is_empty() { right(violations) } else { wrong(violations, "transient") }
    }
}

fn a_late_ack_may_be_forgotten() {
    let acked = |ms| {
        let mut story = Story::new();
        story.publish_safely(1, 1);
        story.deliver(5, 1, false);
        story.settle(ms, 1);
        story
    };
    right(acked(9000).end(End::Killed, 10_000, &[(1, true)]));
    right(acked(9000).end(End::Killed, 10_000, &[]));
    right(acked(10).end(End::Killed, 10_000, &[]));
    // Nothing was synced after it.
    right(acked(10).end(End::Killed, 10_000, &[(1, true)]));
    let mut story = acked(10);
    story.publish_safely(100, 2);
    wrong(story.end(End::Killed, 10_000, &[(1, true), (2, false)]), "settled long ago");
    wrong(acked(9000).end(End::Terminated, 10_000, &[(1, true)]), "settled long ago");
}

fn what_was_removed_stays_removed() {
    let mut story = Story::new();
    story.publish_safely(1, 1);
    story.deliver(5, 1, false);
    story.settle(9, 1);
    let mut observation = Observation::default();
    observation.queues.insert("q".into(), Vec::new());
    observation.queues.insert("r".into(), Vec::new());
    let at = story.at(10);
    story.ledger.restart(End::Killed, at, &observation);
    right(story.ledger.take_violations());
    wrong(story.end(End::Killed, 20, &[(1, true)]), "must not be there");
}

fn a_get_without_answer_may_remove_one() {
    let story = |removes| {
        let mut story = Story::new();
        story.publish_safely(1, 1);
        story.publish_safely(2, 2);
        story.event(9, Event::Unanswered { queue: "q".into(), removes });
        story
    };
    right(story(true).end(End::Killed, 10, &[(2, false)]));
    right(story(false).end(End::Killed, 10, &[(1, true), (2, false)]));
    wrong(story(false).end(End::Killed, 10, &[(2, false)]), "lost 1/1");
    wrong(story(true).end(End::Killed, 10, &[]), "lost");
    wrong(story(false).end(End::Killed, 10, &[(1, true), (2, true)]), "it is the first time");
}

fn redelivery_is_marked() {
    let delivered = || {
        let mut story = Story::new();
        story.publish_safely(1, 1);
        story.deliver(5, 1, false);
        story
    };
    right(delivered().end(End::Killed, 5000, &[(1, true)]));
    right(delivered().end(End::Killed, 500, &[(1, false)]));
    wrong(delivered().end(End::Terminated, 500, &[(1, false)]), "not marked");
    let mut story = delivered();
    story.publish_safely(100, 2);
    wrong(story.end(End::Killed, 5000, &[(1, false), (2, false)]), "not marked");
    let mut story = Story::new();
    story.publish_safely(1, 1);
    wrong(story.end(End::Killed, 10, &[(1, true)]), "it is the first time");
    let mut story = Story::new();
    story.event(0, Event::Consume { queue: "q".into(), prefetch: 1 });
    story.publish_safely(1, 1);
    right(story.end(End::Killed, 10, &[(1, true)]));
}

fn deliveries_follow_the_rules() {
    let delivered = || {
        let mut story = Story::new();
        story.publish_safely(1, 1);
        story.deliver(5, 1, false);
        story
    };
    let mut story = delivered();
    story.give_back(6, 1);
    story.deliver(7, 1, true);
    right(story.wrong());
    let mut story = delivered();
    story.deliver(7, 1, true);
    wrong(story.wrong(), "somebody has already");
    let mut story = delivered();
    story.settle(6, 1);
    story.deliver(8, 1, true);
    wrong(story.wrong(), "had been settled");
    let mut story = Story::new();
    story.publish_safely(1, 1);
    story.deliver(5, 1, true);
    wrong(story.wrong(), "it is the first time");
    let mut story = Story::new();
    story.deliver(5, 1, false);
    wrong(story.wrong(), "must not be there");
}

fn order_is_kept() {
    let published = || {
        let mut story = Story::new();
        story.publish_safely(1, 1);
        story.publish_safely(2, 2);
        story
    };
    wrong(published().end(End::Killed, 10, &[(2, false), (1, false)]), "after 2");
    let mut story = published();
    story.deliver(5, 2, false);
    story.deliver(6, 1, false);
    wrong(story.wrong(), "after 2");
}

fn a_transaction_is_done_or_not() {
    // It publishes 2 to q and 3 to r, and acks 1.
    let story = |state| {
        let mut story = Story::new();
        story.publish_safely(1, 1);
        story.deliver(1, 1, false);
        story.publish_in(5, "q", 2);
        story.publish_in(5, "r", 3);
        let (queue, message) = ("q".into(), id(1));
        story.event(2, Event::Settle { queue, message, transaction: Some(5) });
        if state != Open {
            story.event(3, Event::Commit(5));
        }
        if state == Done {
            story.event(4, Event::Committed(5));
        }
        story
    };
    use TransactionState::{Done, Open, Undecided};
    right(story(Done).end_with(End::Killed, 9, &[(2, false)], &[(3, false)]));
    wrong(story(Done).end_with(End::Killed, 9, &[(2, false)], &[]), "r lost 1/3");
    let violations = story(Done).end_with(End::Killed, 9, &[(1, true), (2, false)], &[(3, false)]);
    wrong(violations, "a committed transaction settled");
    right(story(Undecided).end_with(End::Killed, 9, &[(2, false)], &[(3, false)]));
    right(story(Undecided).end_with(End::Killed, 9, &[(1, true)], &[]));
    wrong(story(Undecided).end_with(End::Killed, 9, &[(1, true)], &[(3, false)]), "half done");
    wrong(story(Undecided).end_with(End::Killed, 9, &[], &[]), "half done");
    right(story(Open).end_with(End::Killed, 9, &[(1, true)], &[]));
    wrong(story(Open).end_with(End::Killed, 9, &[(1, true)], &[(3, false)]), "never committed");
    wrong(story(Open).end_with(End::Killed, 9, &[], &[]), "lost 1/1");
    let mut rolled_back = story(Open);
    rolled_back.event(3, Event::RolledBack(5));
    wrong(rolled_back.end_with(End::Killed, 9, &[(1, true), (2, false)], &[]), "never committed");
}

fn a_purge_leaves_nothing() {
    let purged = || {
        let mut story = Story::new();
        story.publish_safely(1, 1);
        story.event(5, Event::Purge { queue: "q".into() });
        story.event(6, Event::Purged { queue: "q".into() });
        story.publish_safely(7, 2);
        story
    };
    right(purged().end(End::Terminated, 10, &[(2, false)]));
    wrong(purged().end(End::Terminated, 10, &[(1, false), (2, false)]), "settled long ago");
    wrong(purged().end(End::Killed, 5000, &[(1, false), (2, false)]), "settled long ago");
    right(purged().end(End::Killed, 10, &[(1, false), (2, false)]));
    wrong(purged().end(End::Killed, 10, &[]), "lost 1/2");
}

fn definitions_are_kept_and_deleted() {
    let exchange = || Thing::Exchange { name: "x".into(), auto_delete: true };
    let binding = || Thing::Binding { exchange: "x".into(), queue: "q".into(), key: "k".into() };
    let story = || {
        let mut story = Story::new();
        for thing in [exchange(), binding()] {
            story.event(1, Event::Declare { thing: thing.clone(), durable: true });
            story.event(2, Event::Declared(thing));
        }
        story
    };
    let end = |mut story: Story, exchanges: &[&str]| {
        let mut observation = Observation::default();
        observation.queues.insert("q".into(), Vec::new());
        observation.queues.insert("r".into(), Vec::new());
        observation.exchanges.extend(exchanges.iter().map(|name| Name::from(*name)));
        let at = story.at(10);
        story.ledger.restart(End::Killed, at, &observation);
        story
    };
    right(end(story(), &["x"]).wrong());
    wrong(end(story(), &[]).wrong(), "is lost");
    let mut lost = end(story(), &["x"]);
    assert_eq!(lost.ledger.bindings(), [(binding(), Certainty::Present)]);
    lost.ledger.proven(&binding(), false);
    wrong(lost.wrong(), "is lost");
    let unbound = || {
        let mut story = story();
        story.event(3, Event::Delete(binding()));
        story
    };
    right(end(unbound(), &["x"]).wrong());
    right(end(unbound(), &[]).wrong());
    let mut gone = unbound();
    gone.event(4, Event::Deleted(binding()));
    wrong(end(gone, &["x"]).wrong(), "is back");
    let mut story = Story::new();
    let thing = Thing::Exchange { name: "x".into(), auto_delete: false };
    story.event(1, Event::Declare { thing: thing.clone(), durable: false });
    story.event(2, Event::Declared(thing));
    wrong(end(story, &["x"]).wrong(), "is not durable");
}

fn what_moves_by_itself_is_in_one_place() {
    let place = Name::from(topology::EXPIRING[0]);
    let end = |found: &[(u64, bool)]| {
        let mut story = Story::new();
        let thing = Thing::Queue(Arc::clone(&place));
        story.event(0, Event::Declare { thing: thing.clone(), durable: true });
        story.event(0, Event::Declared(thing));
        for sequence in [1, 2] {
            let (message, queues) = (id(sequence), Arc::from([Arc::clone(&place)]));
            let persistent = true;
            story.event(1, Event::Publish { message, queues, persistent, transaction: None });
            story.event(2, Event::Confirmed { message, queues: [Arc::clone(&place)].into() });
        }
        let (queue, message) = (Arc::clone(&place), id(1));
        story.event(3, Event::Deliver { queue, message, redelivered: false, reader: 7 });
        story.event(4, Event::Return { queue: Arc::clone(&place), message: id(1) });
        let mut observation = Observation::default();
        for queue in ["q", "r", topology::EXPIRING[1]] {
            observation.queues.insert(queue.into(), Vec::new());
        }
        let one = |(sequence, redelivered): &(u64, bool)| Found {
            message: id(*sequence),
            redelivered: *redelivered,
        };
        observation.queues.insert(Arc::clone(&place), found.iter().map(one).collect());
        let at = story.at(9000);
        story.ledger.restart(End::Terminated, at, &observation);
        story.ledger.take_violations()
    };
    // Neither order nor redelivery says anything.
    right(end(&[(2, false), (1, false)]));
    right(end(&[(1, true), (2, true)]));
    wrong(end(&[(2, false)]), "expiring lost 1/1");
    wrong(end(&[(1, false), (2, false), (1, false)]), "expiring has 1/1 twice");
}
