//! A queue by itself: its order, its consumers' turns and credit, and that nothing is lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::{
    amqp::Table,
    broker::{
        Now,
        journal::Target,
        limit::Count,
        message::PublishedBody,
        outbox::Item,
        pager::{Load, Loaded, LoadedMessage, Served, serve},
    },
};

mod anything;
mod dedup;
mod expiry;
mod groups;
mod levels;
mod limits;
mod paging;
mod retries;

/// A queue, the outboxes of its consumers' connections, and the channels' limits.
struct Bench {
    handle: Arc<QueueHandle>,
    pager: Arc<Pager>,
    outboxes: Vec<Arc<Outbox>>,
    credits: Vec<Arc<ChannelCredit>>,
    effects: Effects,
    /// When the queue's timers go off, in milliseconds.
    timers: BTreeSet<u64>,
    /// The body of what is published.
    body: Vec<u8>,
    /// The messages that the log has.
    stored: BTreeMap<u64, LoadedMessage>,
    /// Whether the log is told about how many octets have left, and not exactly.
    is_estimated: bool,
    /// How many messages of each load are damaged.
    damaged: u64,
    /// How many loads there were.
    loads: usize,
}

fn message(persistent: bool, priority: u8) -> Message {
    with_body(b"body", persistent, priority)
}

fn with_body(body: &[u8], persistent: bool, priority: u8) -> Message {
    let body = PublishedBody::Small(body);
    Message::new(("", "q"), &[0, 0], body, persistent, (priority > 0).then_some(priority), &mut Vec::new())
}

/// A consumer that needs acknowledgements.
fn spec(prefetch: u16) -> (u16, i64, bool, bool) {
    (prefetch, 0, false, false)
}

impl Bench {
    fn new(arguments: QueueArguments, connections: u64, outbox_bytes: usize) -> Self {
        Self::of(false, arguments, connections, outbox_bytes)
    }

    fn durable(kind: QueueKind) -> Self {
        Self::of(true, QueueArguments { kind, ..QueueArguments::default() }, 1, 1 << 20)
    }

    fn of(durable: bool, arguments: QueueArguments, connections: u64, outbox_bytes: usize) -> Self {
        let properties = QueueProperties {
            durable,
            auto_delete: false,
            exclusive: None,
            table: Table::default(),
            arguments: Arc::new(arguments),
        };
        let permit = Arc::new(Count::new(None)).take().expect("no limit");
        let pager = Arc::new(Pager::new());
        let handle = Arc::new(QueueHandle::new(
            QueueId(1),
            "q".into(),
            "/".into(),
            properties,
            permit,
            Arc::clone(&pager),
        ));
        let outboxes = (1..=connections).map(|id| Arc::new(Outbox::new(ConnectionId(id), outbox_bytes)));
        let credits = (0..connections).map(|_| Arc::default()).collect();
        let (outboxes, effects, stored) = (outboxes.collect(), Effects::default(), BTreeMap::new());
        let (body, timers) = (b"body".to_vec(), BTreeSet::new());
        let (is_estimated, damaged, loads) = (false, 0, 0);
        Self { handle, pager, outboxes, credits, effects, timers, body, stored, is_estimated, damaged, loads }
    }

    fn now_ms(&self) -> u64 {
        self.effects.now.unix_ms
    }

    /// It is that late, and no timer has gone off.
    fn set_now(&mut self, ms: u64) {
        self.effects.now = Now::made_up(ms);
    }

    /// Lets timers go off up to that time, and returns how many did.
    fn wait_until(&mut self, ms: u64) -> usize {
        let mut count = 0;
        loop {
            self.timers.extend(self.effects.timers.drain(..).map(|timer| timer.at_ms));
            let Some(at_ms) = self.timers.first().copied().filter(|at_ms| *at_ms <= ms) else { break };
            self.timers.remove(&at_ms);
            self.set_now(at_ms.max(self.now_ms()));
            self.handle.lock().timer_is_off();
            self.deliver();
            count += 1;
        }
        self.set_now(ms);
        count
    }

    /// Publishes a message that may wait for so long.
    fn publish_for(&mut self, ttl_ms: u64, message: Message) -> Placed {
        let placed = self.handle.lock().publish(message, ttl_ms, &self.handle, &mut self.effects);
        let placed = placed.expect("there is room").expect("it is not deleted");
        self.deliver();
        placed
    }

    /// Publishes messages that may wait for so long each.
    fn publish_dated(&mut self, ttls_ms: impl IntoIterator<Item = u64>) {
        let body = std::mem::take(&mut self.body);
        for ttl_ms in ttls_ms {
            self.publish_for(ttl_ms, with_body(&body, false, 0));
        }
        self.body = body;
    }

    /// What has left for an exchange: sequence number and why. The log hears of it as from the broker.
    fn letters(&mut self) -> Vec<(u64, Reason)> {
        let letters =
            std::mem::take(&mut self.effects.letters).into_iter().map(|Letter { entry, cause, .. }| {
                let Cause::Death(reason) = cause else { panic!("it is not delayed") };
                if entry.stored {
                    self.effects.settled(QueueId(1), entry.sequence, entry.body_bytes);
                }
                (entry.sequence, reason)
            });
        letters.collect()
    }

    /// The same if all have left for one reason.
    fn letters_for(&mut self, reason: Reason) -> Vec<u64> {
        let letters = self.letters().into_iter().map(|(sequence, why)| {
            assert_eq!(why, reason, "{sequence}");
            sequence
        });
        letters.collect()
    }

    fn body_bytes(&self) -> u64 {
        self.handle.lock().ready.body_bytes()
    }

    /// How many deadlines it keeps.
    fn deadlines(&self) -> usize {
        self.handle.lock().ready.deadline_count()
    }

    fn reject_at(&mut self, slot: Slot, sequence: u64) -> bool {
        self.handle.lock().reject(slot, sequence, &self.handle, &mut self.effects)
    }

    fn return_as(&mut self, how: Return, got: &Got) {
        let Entry { sequence, .. } = got.entry;
        self.handle.lock().requeue(got.slot, sequence, how, &self.handle, &mut self.effects);
        self.deliver();
    }

    fn classic(connections: u64) -> Self {
        Self::new(QueueArguments::default(), connections, 1 << 20)
    }

    fn publish_with(&mut self, count: u64, priority: u8) {
        let body = std::mem::take(&mut self.body);
        self.publish_all((0..count).map(|_| with_body(&body, false, priority)));
        self.body = body;
    }

    fn publish_all(&mut self, messages: impl IntoIterator<Item = Message>) {
        for message in messages {
            let published = self.handle.lock().publish(message, NEVER, &self.handle, &mut self.effects);
            assert!(published.is_ok(), "a queue without limits takes everything");
        }
        self.deliver();
    }

    /// Lets the log have what it was told.
    fn log(&mut self) {
        for fact in self.effects.facts.drain(..) {
            match fact {
                Fact::Publish { message, queues } => {
                    let Target { sequence, deadline_ms, .. } = queues[0];
                    self.stored.insert(
                        sequence,
                        LoadedMessage { sequence, delivery_count: 0, deadline_ms, message },
                    );
                }
                Fact::Settle { sequences, body_bytes, .. } => {
                    let settled = sequences.iter().map(|sequence| self.stored.remove(sequence));
                    let settled: u64 =
                        settled.map(|it| it.expect("the log has it").message.body().len() as u64).sum();
                    assert!(self.is_estimated || settled == body_bytes, "{settled} instead of {body_bytes}");
                }
                Fact::Return { sequences, .. } => {
                    for sequence in sequences {
                        self.stored.get_mut(&sequence).expect("the log has it").delivery_count += 1;
                    }
                }
                Fact::Purge { before, unsettled, .. } => {
                    self.stored.retain(|sequence, _| *sequence >= before || unsettled.contains(sequence));
                }
                _ => {}
            }
        }
    }

    /// What the log has of a load.
    fn find(&self, load: &Load) -> Loaded {
        let has = |stored: &&LoadedMessage| {
            let is_asked_for = load.only.is_empty() || load.only.contains(&stored.sequence);
            is_asked_for && load.priorities.is_none_or(|priorities| priorities.has(stored.message.priority()))
        };
        let mut bytes = 0;
        let messages = self.stored.range(load.first..=load.last).map(|(_, stored)| stored).filter(has);
        let messages = messages.take(load.count_max).take_while(|stored| {
            let is_within = bytes < load.bytes_max;
            bytes += stored.message.memory_bytes();
            is_within
        });
        Loaded { messages: messages.cloned().collect(), damaged: self.damaged }
    }

    fn serve(&mut self, queue: &Arc<QueueHandle>) -> Served {
        let mut effects = std::mem::take(&mut self.effects);
        let mut loads = 0;
        let load = |load: &Load| {
            loads += 1;
            Ok::<_, std::convert::Infallible>(self.find(load))
        };
        let Ok(served) = serve(queue, load, &mut effects);
        self.loads += loads;
        self.effects = effects;
        served
    }

    /// Serves the queue until it wants nothing more, with a log that is never behind.
    fn serve_all(&mut self) -> usize {
        let mut served = 0;
        while let Some(queue) = self.pager.try_take() {
            self.log();
            assert_eq!(self.serve(&queue), Served::Whole);
            served += 1;
        }
        served
    }

    /// The same as [`Bench::get`] when the head may be paged.
    fn get_paged(&mut self) -> Option<Got> {
        self.take_paged(false)
    }

    fn take_paged(&mut self, no_ack: bool) -> Option<Got> {
        loop {
            let mut queue = self.handle.lock();
            match queue.get(no_ack, &self.handle, &mut self.effects) {
                Ok(got) => return got,
                Err(Paged) => queue.await_head(&self.outboxes[0], &self.handle),
            }
            drop(queue);
            assert_eq!(self.serve_all(), 1);
        }
    }

    /// The same as [`Bench::drain`] when there may be chunks. The log hears of it.
    fn drain_paged(&mut self) -> Vec<(u64, bool)> {
        let mut drained = Vec::new();
        while let Some(got) = self.take_paged(true) {
            drained.push((got.entry.sequence, got.entry.redelivered));
        }
        self.log();
        drained
    }

    /// What the log is told of the queue's messages, in short.
    fn facts(&mut self) -> Vec<String> {
        let said = self.effects.facts.drain(..).map(|fact| match fact {
            Fact::Settle { sequences, body_bytes, .. } => format!("settle {sequences:?} {body_bytes}"),
            Fact::Return { sequences, .. } => format!("return {sequences:?}"),
            Fact::Delivered { up_to, .. } => format!("delivered {up_to}"),
            Fact::Purge { before, unsettled, unsettled_body_bytes, .. } => {
                format!("purge {before} but {unsettled:?} {unsettled_body_bytes}")
            }
            fact => format!("{fact:?}"),
        });
        said.collect()
    }

    fn publish(&mut self, count: u64) {
        self.publish_with(count, 0);
    }

    fn deliver(&mut self) {
        self.handle.lock().deliver(&self.handle, &mut self.effects);
    }

    /// Adds a consumer of that connection: prefetch, priority, no_ack, exclusive.
    fn consume(&mut self, connection: usize, of: (u16, i64, bool, bool)) -> Result<(), Refusal> {
        self.consume_as(0, connection, of)
    }

    fn consume_as(&mut self, id: u32, connection: usize, of: (u16, i64, bool, bool)) -> Result<(), Refusal> {
        let (prefetch, priority, no_ack, exclusive) = of;
        let spec = ConsumerSpec {
            tag: "tag".into(),
            channel: 1,
            arguments: Table::default(),
            id: ConsumerId { place: id, generation: 0 },
            outbox: Arc::clone(&self.outboxes[connection]),
            credit: Arc::clone(&self.credits[connection]),
            prefetch,
            priority,
            no_ack,
            exclusive,
        };
        self.handle.lock().add_consumer(spec, self.handle.resource())?;
        self.deliver();
        Ok(())
    }

    fn cancel(&mut self, connection: usize) -> bool {
        let key = ConsumerKey {
            connection: self.outboxes[connection].connection,
            id: ConsumerId { place: 0, generation: 0 },
        };
        self.handle.lock().remove_consumer(key)
    }

    /// What has come for a connection.
    fn taken(&self, connection: usize) -> Vec<Delivery> {
        let mut items = VecDeque::new();
        self.outboxes[connection].take(&mut items, usize::MAX);
        let deliveries = items.into_iter().map(|item| match item {
            Item::Delivery(delivery) => delivery,
            Item::Cancelled(_) => panic!("nobody was cancelled"),
        });
        deliveries.collect()
    }

    /// The sequence numbers of it.
    fn sequences(&self, connection: usize) -> Vec<u64> {
        self.taken(connection).iter().map(|delivery| delivery.sequence).collect()
    }

    fn settle(&mut self, delivery: &Delivery) {
        self.credits[0].give_back(u32::from(delivery.slot != Slot::NONE));
        let settled = self.handle.lock().settle(delivery.slot, delivery.sequence, &mut self.effects);
        assert!(settled);
        self.deliver();
    }

    fn purge(&mut self) -> u32 {
        self.handle.lock().purge(&mut self.effects)
    }

    fn settle_at(&mut self, slot: Slot, sequence: u64) -> bool {
        self.handle.lock().settle(slot, sequence, &mut self.effects)
    }

    fn requeue_at(&mut self, slot: Slot, sequence: u64, seen: bool) {
        let how = if seen { Return::Failed } else { Return::Unseen };
        self.handle.lock().requeue(slot, sequence, how, &self.handle, &mut self.effects);
    }

    fn requeue(&mut self, deliveries: &[Delivery]) {
        for delivery in deliveries {
            self.handle.lock().requeue(
                delivery.slot,
                delivery.sequence,
                Return::Failed,
                &self.handle,
                &mut self.effects,
            );
        }
    }

    fn ready(&self) -> u32 {
        self.handle.lock().ready_count()
    }

    fn unacked(&self) -> usize {
        self.handle.lock().unacked_count()
    }

    fn consumers(&self) -> u32 {
        self.handle.lock().consumer_count()
    }

    fn get(&mut self) -> Option<Got> {
        self.handle.lock().get(false, &self.handle, &mut self.effects).expect("it is in memory")
    }

    /// Everything that is ready, in order: sequence number and whether it was delivered before.
    fn drain(&mut self) -> Vec<(u64, bool)> {
        let mut queue = self.handle.lock();
        let effects = &mut self.effects;
        std::iter::from_fn(|| {
            queue
                .get(true, &self.handle, effects)
                .expect("it is in memory")
                .map(|got| (got.entry.sequence, got.entry.redelivered))
        })
        .collect()
    }
}

#[test]
fn messages_leave_in_order() {
    let mut bench = Bench::classic(1);
    bench.publish(3);
    assert_eq!(bench.ready(), 3);
    assert_eq!(bench.handle.lock().ready.body_bytes(), 12);
    assert_eq!(bench.drain(), [(1, false), (2, false), (3, false)]);
    assert_eq!(bench.handle.lock().ready.body_bytes(), 0);
    assert!(bench.get().is_none());
}

#[test]
fn a6_returned_messages_take_their_old_places() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [2, 0, 1]] {
        let mut bench = Bench::classic(1);
        bench.publish(5);
        let got: Vec<_> = (0..3).filter_map(|_| bench.get()).collect();
        bench.publish(1);
        for place in order {
            let entry = &got[place].entry;
            bench.requeue_at(got[place].slot, entry.sequence, true);
        }
        let returned = [(1, true), (2, true), (3, true), (4, false), (5, false), (6, false)];
        assert_eq!(bench.drain(), returned, "{order:?}");
    }
}

#[test]
fn a6_a_message_may_come_back_between_others_that_are_out() {
    let mut bench = Bench::classic(1);
    bench.publish(4);
    let got: Vec<_> = (0..4).filter_map(|_| bench.get()).collect();
    bench.requeue_at(got[2].slot, 3, true);
    bench.publish(1);
    bench.requeue_at(got[0].slot, 1, true);
    assert_eq!(bench.drain(), [(1, true), (3, true), (5, false)]);
    bench.requeue_at(got[3].slot, 4, true);
    bench.requeue_at(got[1].slot, 2, true);
    assert_eq!(bench.drain(), [(2, true), (4, true)]);
}

#[test]
fn a10_a_quorum_queue_takes_returned_messages_at_its_tail() {
    let arguments = QueueArguments { kind: QueueKind::Quorum, ..QueueArguments::default() };
    let mut bench = Bench::new(arguments, 1, 1 << 20);
    bench.publish(3);
    let got = bench.get().expect("a message");
    bench.requeue_at(got.slot, got.entry.sequence, true);
    assert_eq!(bench.drain(), [(2, false), (3, false), (1, true)]);
}

#[test]
fn a_message_that_nobody_saw_is_not_marked() {
    let mut bench = Bench::classic(1);
    bench.publish(1);
    let got = bench.get().expect("a message");
    bench.requeue_at(got.slot, 1, false);
    assert_eq!(bench.drain(), [(1, false)]);
}

#[test]
fn higher_priorities_leave_first_and_come_back_to_their_level() {
    let arguments = QueueArguments { max_priority: Some(5), ..QueueArguments::default() };
    let mut bench = Bench::new(arguments, 1, 1 << 20);
    for priority in [0, 5, 1, 9, 1] {
        bench.publish_with(1, priority);
    }
    let got = bench.get().expect("a message");
    assert_eq!(got.entry.sequence, 2, "9 counts as 5, and came later");
    bench.requeue_at(got.slot, 2, true);
    let order: Vec<_> = bench.drain().into_iter().map(|(sequence, _)| sequence).collect();
    assert_eq!(order, [2, 4, 3, 5, 1]);
}

#[test]
fn a9_consumers_take_turns() {
    let mut bench = Bench::classic(3);
    for connection in 0..3 {
        bench.consume(connection, spec(0)).expect("a consumer");
    }
    bench.publish(7);
    assert_eq!([0, 1, 2].map(|of| bench.sequences(of)), [vec![1, 4, 7], vec![2, 5], vec![3, 6]]);
}

#[test]
fn a9_a_consumer_of_higher_priority_gets_everything_until_it_is_full() {
    let mut bench = Bench::classic(3);
    bench.consume(0, (2, 0, false, false)).expect("a consumer");
    bench.consume(1, (2, 10, false, false)).expect("a consumer");
    bench.consume(2, (0, -1, false, false)).expect("a consumer");
    bench.publish(5);
    let first = bench.taken(1);
    assert_eq!(first.iter().map(|delivery| delivery.sequence).collect::<Vec<_>>(), [1, 2]);
    assert_eq!([0, 2].map(|of| bench.sequences(of)), [vec![3, 4], vec![5]]);
    bench.settle_at(first[0].slot, 1);
    bench.publish(1);
    assert_eq!(bench.sequences(1), [6]);
}

#[test]
fn prefetch_is_given_back_by_settling_and_requeueing() {
    let mut bench = Bench::classic(1);
    bench.consume(0, spec(2)).expect("a consumer");
    bench.publish(4);
    let first = bench.taken(0);
    assert_eq!((first.len(), bench.unacked()), (2, 2));
    bench.settle(&first[1]);
    assert_eq!(bench.sequences(0), [3]);
    bench.requeue(&first[..1]);
    bench.deliver();
    assert_eq!(bench.sequences(0), [1], "it comes again, before 4");
    assert!(!bench.settle_at(first[0].slot, 2), "another message is there now");
}

#[test]
fn a_consumer_without_acks_has_no_limit() {
    let mut bench = Bench::classic(1);
    bench.credits[0].set_limit(1);
    bench.consume(0, (1, 0, true, false)).expect("a consumer");
    bench.publish(5);
    assert!(bench.taken(0).iter().all(|delivery| delivery.slot == Slot::NONE));
    assert_eq!((bench.ready(), bench.unacked()), (0, 0));
}

#[test]
fn a_limit_of_a_channel_spans_its_consumers() {
    let mut bench = Bench::classic(1);
    bench.credits[0].set_limit(3);
    bench.consume_as(0, 0, spec(2)).expect("a consumer");
    bench.consume_as(1, 0, spec(2)).expect("a consumer");
    bench.publish(9);
    let first = bench.taken(0);
    assert_eq!(first.len(), 3);
    bench.credits[0].give_back(1);
    bench.settle_at(first[0].slot, first[0].sequence);
    bench.handle.lock().resume(ConnectionId(1));
    bench.deliver();
    assert_eq!(bench.sequences(0), [4]);
    bench.credits[0].set_limit(0);
    bench.handle.lock().resume(ConnectionId(1));
    bench.deliver();
    assert_eq!(bench.sequences(0), [5], "now the prefetches hold: 2 and 2");
}

#[test]
fn a_full_outbox_stalls_its_consumer_and_nobody_else() {
    let mut bench = Bench::new(QueueArguments::default(), 2, 2000);
    bench.consume(0, spec(0)).expect("a consumer");
    bench.publish(100);
    let ready = bench.ready();
    assert!(ready > 50, "{ready}");
    bench.consume(1, spec(0)).expect("a consumer");
    let before: u32 = bench.ready();
    assert!(before < ready, "the other one takes its share");
    assert!(bench.outboxes[0].take_stalled().is_empty(), "there is no room yet");
    let first = bench.taken(0);
    assert!(!first.is_empty());
    let stalled = bench.outboxes[0].take_stalled();
    assert_eq!(stalled.len(), 1);
    bench.deliver();
    assert_eq!(bench.ready(), before, "until it is told");
    bench.handle.lock().resume(ConnectionId(1));
    bench.deliver();
    assert!(bench.ready() < before);
    assert!(bench.outboxes[0].take_stalled().is_empty(), "full again");
    let mut sequences: Vec<_> = first.iter().map(|delivery| delivery.sequence).collect();
    sequences.extend(bench.sequences(0));
    sequences.extend(bench.sequences(1));
    sequences.extend(bench.drain().into_iter().map(|(sequence, _)| sequence));
    sequences.sort_unstable();
    assert!(sequences.into_iter().eq(1..=100));
}

/// Else each consumer would ask to be told once for each that was told.
#[test]
fn a_full_outbox_notes_a_queue_once_however_many_of_its_consumers_stall() {
    let mut bench = Bench::new(QueueArguments::default(), 1, 2000);
    for id in 0..3 {
        bench.consume_as(id, 0, spec(0)).expect("a consumer");
    }
    bench.publish(1000);
    for _ in 0..5 {
        bench.taken(0);
        assert_eq!(bench.outboxes[0].take_stalled().len(), 1);
        bench.handle.lock().resume(ConnectionId(1));
        bench.deliver();
    }
    assert!(bench.ready() > 0, "they were stalled each time");
}

#[test]
fn an_exclusive_consumer_is_alone() {
    let mut bench = Bench::classic(2);
    bench.consume(0, (0, 0, false, true)).expect("the first");
    let refusal = bench.consume(1, spec(0)).expect_err("not with an exclusive one");
    assert_eq!(refusal.reply_text(), "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use");
    assert!(bench.cancel(0), "it was the last");
    bench.consume(1, spec(0)).expect("now it may");
    assert!(bench.consume(0, (0, 0, false, true)).is_err());
    assert_eq!(bench.consumers(), 1);
}

#[test]
fn a_cancelled_consumer_gets_nothing_and_its_deliveries_stay_out() {
    let mut bench = Bench::classic(2);
    bench.consume(0, spec(0)).expect("a consumer");
    bench.consume(1, spec(1)).expect("a consumer");
    bench.publish(2);
    let first = bench.taken(0);
    assert!(!bench.cancel(0), "there is another");
    assert!(!bench.cancel(0), "it is gone already");
    bench.publish(2);
    assert!(bench.taken(0).is_empty());
    assert_eq!(bench.sequences(1), [2]);
    // Its place is taken by another, whom its settlements do not concern.
    bench.consume(0, spec(1)).expect("a consumer");
    assert_eq!(bench.sequences(0), [3]);
    bench.settle_at(first[0].slot, 1);
    bench.deliver();
    assert!(bench.taken(0).is_empty());
}

#[test]
fn purge_takes_what_is_ready_and_nothing_else() {
    let mut bench = Bench::classic(1);
    bench.publish(3);
    let got = bench.get().expect("a message");
    assert_eq!(bench.purge(), 2);
    assert_eq!((bench.ready(), bench.unacked()), (0, 1));
    bench.requeue_at(got.slot, 1, true);
    bench.publish(1);
    assert_eq!(bench.drain(), [(1, true), (4, false)]);
}

#[test]
fn a_deleted_queue_takes_and_gives_nothing() {
    let mut bench = Bench::classic(2);
    bench.consume(0, spec(1)).expect("a consumer");
    bench.publish(3);
    let taken = bench.taken(0);
    let (count, cancelled) = bench.handle.lock().delete(&mut bench.effects);
    assert_eq!((count, cancelled.len(), bench.consumers()), (2, 1, 0));
    let is_deleted = bench.handle.lock().is_deleted();
    assert!(is_deleted);
    bench.publish(1);
    bench.requeue(&taken);
    assert_eq!(bench.ready(), 0);
    let refusal = bench.consume(1, spec(0)).expect_err("it is gone");
    assert_eq!(refusal.reply_text(), "NOT_FOUND - no queue 'q' in vhost '/'");
}

#[test]
fn get_says_what_is_left() {
    let mut bench = Bench::classic(1);
    bench.publish(2);
    let got = bench.get().expect("a message");
    assert_eq!((got.entry.sequence, got.ready_count), (1, 1));
    assert!(bench.settle_at(got.slot, 1));
    assert!(!bench.settle_at(got.slot, 1), "once");
}

#[test]
fn the_log_hears_of_the_end_of_what_it_has() {
    let mut bench = Bench::durable(QueueKind::Classic);
    bench.publish_all([true, false, true, true, true].map(|persistent| message(persistent, 0)));
    assert_eq!(bench.facts(), [] as [&str; 0], "publishes are told by who publishes");
    let got: Vec<_> = (0..3).filter_map(|_| bench.get()).collect();
    assert_eq!(bench.facts(), ["delivered 3"]);
    bench.requeue_at(got[0].slot, 1, true);
    assert_eq!(bench.facts(), [] as [&str; 0], "a classic queue counts no deliveries");
    bench.settle_at(got[1].slot, 2);
    assert_eq!(bench.facts(), [] as [&str; 0], "the log does not have that one");
    let taken = bench
        .handle
        .lock()
        .get(true, &Arc::clone(&bench.handle), &mut bench.effects)
        .expect("in memory")
        .expect("a message");
    assert_eq!(taken.entry.sequence, 1);
    assert_eq!(bench.purge(), 2);
    bench.settle_at(got[2].slot, 3);
    assert_eq!(bench.facts(), ["settle [1] 4", "purge 6 but [3] 4", "settle [3] 4"]);
}

#[test]
fn a_batch_of_deliveries_is_one_fact() {
    let mut bench = Bench::durable(QueueKind::Classic);
    bench.consume(0, spec(0)).expect("a consumer");
    bench.publish_all((0..3).map(|_| message(true, 0)));
    assert_eq!(bench.facts(), ["delivered 3"]);
    let taken = bench.taken(0);
    bench.requeue(&taken);
    bench.deliver();
    assert_eq!(bench.sequences(0), [1, 2, 3]);
    assert_eq!(bench.facts(), [] as [&str; 0], "the log knows that already");
    bench.publish(1);
    assert_eq!(bench.facts(), [] as [&str; 0], "transient messages are gone with a restart");
    assert!(bench.cancel(0));
    bench.consume(0, (0, 0, true, false)).expect("a consumer");
    bench.publish_all([message(true, 0)]);
    assert_eq!(bench.facts(), [] as [&str; 0], "nobody will acknowledge it");
    assert!(bench.taken(0)[1].stored, "its settlement is told when it is sent");
}

#[test]
fn what_a_limit_drops_is_settled() {
    let arguments = QueueArguments { max_length: Some(1), ..QueueArguments::default() };
    let mut bench = Bench::of(true, arguments, 1, 1 << 20);
    bench.publish_all([true, false, true, true].map(|persistent| message(persistent, 0)));
    assert_eq!(bench.facts(), ["settle [1, 3] 8"]);
}

#[test]
fn a_quorum_queue_counts_returned_deliveries() {
    let mut bench = Bench::durable(QueueKind::Quorum);
    bench.publish_all([true, false, true].map(|persistent| message(persistent, 0)));
    let got: Vec<_> = (0..3).filter_map(|_| bench.get()).collect();
    for got in &got[..2] {
        bench.requeue_at(got.slot, got.entry.sequence, true);
    }
    bench.requeue_at(got[2].slot, 3, false);
    assert_eq!(bench.facts(), ["delivered 3", "return [1]"]);
    let counts: Vec<_> = (0..3).filter_map(|_| bench.get()).collect();
    let counts = counts.iter().map(|got| (got.entry.sequence, got.entry.delivery_count));
    assert!(counts.eq([(3, 0), (1, 1), (2, 1)]), "the one that nobody saw is where it was");
}

#[test]
fn a_message_is_dropped_when_too_many_deliveries_have_failed() {
    let arguments =
        QueueArguments { kind: QueueKind::Quorum, delivery_limit: Some(1), ..QueueArguments::default() };
    let mut bench = Bench::of(true, arguments, 1, 1 << 20);
    bench.publish_all([message(true, 0)]);
    for (seen, facts) in [(true, "return [1]"), (false, ""), (true, "settle [1] 4")] {
        let got = bench.get().expect("within the limit");
        bench.facts();
        bench.requeue_at(got.slot, 1, seen);
        assert_eq!(bench.facts().join(""), facts);
    }
    assert!(bench.get().is_none(), "the second failure was too many");
    assert_eq!(bench.ready(), 0);
}

#[test]
fn b1_a_classic_queue_with_a_delivery_limit_counts_and_keeps_its_order() {
    let arguments = QueueArguments { delivery_limit: Some(1), ..QueueArguments::default() };
    let mut bench = Bench::of(true, arguments, 1, 1 << 20);
    bench.publish_all([true, true].map(|persistent| message(persistent, 0)));
    for (sequence, facts) in [(1, "return [1]"), (1, "settle [1] 4"), (2, "return [2]")] {
        let got = bench.get().expect("within the limit");
        assert_eq!(got.entry.sequence, sequence);
        bench.facts();
        bench.requeue_at(got.slot, sequence, true);
        assert_eq!(bench.facts().join(""), facts);
    }
}

/// What may be done to a queue, on one of three connections.
#[derive(Clone, Debug)]
enum Step {
    Publish(u64),
    Get,
    Consume(usize, u16, bool),
    Cancel(usize),
    Take(usize),
    Settle(prop::sample::Index),
    Requeue(prop::sample::Index),
    Purge,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..4_u64).prop_map(Step::Publish),
        1 => Just(Step::Get),
        2 => (0..3_usize, 0..4_u16, any::<bool>()).prop_map(|(of, prefetch, no_ack)| Step::Consume(of, prefetch, no_ack)),
        1 => (0..3_usize).prop_map(Step::Cancel),
        4 => (0..3_usize).prop_map(Step::Take),
        3 => any::<prop::sample::Index>().prop_map(Step::Settle),
        3 => any::<prop::sample::Index>().prop_map(Step::Requeue),
        1 => Just(Step::Purge),
    ];
    prop::collection::vec(step, 1..60)
}

/// A queue as a set of numbers: what is ready, and what is out with whom.
#[derive(Default)]
struct Naive {
    published: u64,
    ready: BTreeSet<u64>,
    unacked: BTreeMap<u64, Slot>,
    /// By connection: prefetch, and what it holds of it.
    consumers: BTreeMap<usize, (u16, bool, BTreeSet<u64>)>,
}

impl Naive {
    fn release(&mut self, sequence: u64) {
        self.unacked.remove(&sequence);
        self.consumers.values_mut().for_each(|(.., held)| _ = held.remove(&sequence));
    }

    fn take(&mut self, connection: usize, delivery: &Delivery) {
        assert!(self.ready.remove(&delivery.sequence), "{} is not there", delivery.sequence);
        if delivery.slot != Slot::NONE {
            self.unacked.insert(delivery.sequence, delivery.slot);
            if let Some((prefetch, _, held)) = self.consumers.get_mut(&connection) {
                held.insert(delivery.sequence);
                assert!(*prefetch == 0 || held.len() <= usize::from(*prefetch), "more than the prefetch");
            }
        }
    }
}

proptest! {
    /// Nothing is lost or doubled, prefetch holds, and credit is never left unused.
    #[test]
    fn nothing_is_lost(steps in steps(), paging in any::<bool>()) {
        let mut bench = Bench::classic(3);
        if paging {
            // A few of them fill the window.
            bench.body = vec![7; 3000];
            bench.pager.set_resident_bytes_max(0);
        }
        let mut naive = Naive::default();
        for step in steps {
            let chosen = |index: prop::sample::Index, naive: &Naive| {
                let unacked: Vec<_> = naive.unacked.iter().map(|(sequence, slot)| (*sequence, *slot)).collect();
                (!unacked.is_empty()).then(|| unacked[index.index(unacked.len())])
            };
            match step {
                Step::Publish(count) => {
                    bench.publish(count);
                    naive.ready.extend(naive.published + 1..=naive.published + count);
                    naive.published += count;
                }
                Step::Get => {
                    if let Some(got) = bench.get_paged() {
                        naive.ready.remove(&got.entry.sequence);
                        naive.unacked.insert(got.entry.sequence, got.slot);
                    }
                }
                Step::Consume(of, prefetch, no_ack) if !naive.consumers.contains_key(&of) => {
                    bench.consume(of, (prefetch, 0, no_ack, false)).expect("a consumer");
                    naive.consumers.insert(of, (prefetch, no_ack, BTreeSet::new()));
                }
                Step::Cancel(of) => {
                    for delivery in bench.taken(of) {
                        naive.take(of, &delivery);
                    }
                    prop_assert_eq!(bench.cancel(of), naive.consumers.remove(&of).is_some() && naive.consumers.is_empty());
                }
                Step::Consume(of, ..) | Step::Take(of) => {
                    for delivery in bench.taken(of) {
                        naive.take(of, &delivery);
                    }
                }
                Step::Settle(index) => if let Some((sequence, slot)) = chosen(index, &naive) {
                    prop_assert!(bench.settle_at(slot, sequence));
                    bench.deliver();
                    naive.release(sequence);
                },
                Step::Requeue(index) => if let Some((sequence, slot)) = chosen(index, &naive) {
                    bench.requeue_at(slot, sequence, true);
                    bench.deliver();
                    naive.release(sequence);
                    naive.ready.insert(sequence);
                },
                Step::Purge => {
                    for of in 0..3 {
                        bench.taken(of).iter().for_each(|delivery| naive.take(of, delivery));
                    }
                    prop_assert_eq!(bench.purge() as usize, naive.ready.len());
                    naive.ready.clear();
                }
            }
            bench.serve_all();
        }
        for of in 0..3 {
            bench.taken(of).iter().for_each(|delivery| naive.take(of, delivery));
        }
        let idle = naive.consumers.values().any(|(prefetch, no_ack, held)| {
            *no_ack || *prefetch == 0 || held.len() < usize::from(*prefetch)
        });
        prop_assert!(!idle || naive.ready.is_empty(), "a consumer with credit gets nothing");
        prop_assert_eq!(bench.unacked(), naive.unacked.len());
        let left = bench.drain_paged().into_iter().map(|(sequence, _)| sequence);
        prop_assert!(left.eq(naive.ready));
    }
}
