//! Anything that may happen to the messages of a queue, compared with lists that are looked through from end to end.

use super::*;
use crate::broker::death::Reason::{DeliveryLimit, Expired, Rejected};

/// What may be done.
#[derive(Clone, Debug)]
enum Step {
    Publish {
        priority: Option<u8>,
        ttl_ms: u64,
        persistent: bool,
        body_bytes: usize,
    },
    Get,
    Ack(prop::sample::Index),
    Reject(prop::sample::Index),
    Return(prop::sample::Index, Return),
    Wait(u64),
    Purge,
    Window(u64),
    /// Deadlines of what is gone are forgotten.
    Clean,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ttl_ms = prop_oneof![3 => Just(NEVER), 1 => Just(0), 6 => 1..40_u64];
    let priority = prop_oneof![2 => Just(None), 3 => (0..4_u8).prop_map(Some), 1 => Just(Some(40))];
    let how = prop_oneof![Just(Return::Unseen), Just(Return::Released), Just(Return::Failed)];
    let body_bytes = prop_oneof![0..20_usize, Just(1000)];
    let one = || any::<prop::sample::Index>();
    let publish = (priority, ttl_ms, any::<bool>(), body_bytes);
    let step = prop_oneof![
        8 => publish.prop_map(|(priority, ttl_ms, persistent, body_bytes)| {
            Step::Publish { priority, ttl_ms, persistent, body_bytes }
        }),
        4 => Just(Step::Get),
        1 => one().prop_map(Step::Ack),
        1 => one().prop_map(Step::Reject),
        3 => (one(), how).prop_map(|(index, how)| Step::Return(index, how)),
        4 => (1..12_u64).prop_map(Step::Wait),
        1 => prop_oneof![Just(0), Just(500), Just(1 << 20)].prop_map(Step::Window),
    ];
    let rare = prop_oneof![Just(Step::Purge), Just(Step::Clean)];
    prop::collection::vec(prop_oneof![30 => step, 1 => rare], 1..120)
}

fn arguments() -> impl Strategy<Value = QueueArguments> {
    let retry = |on| Retry { schedule: Schedule::Delays([3, 0, 20].into()), on, jitter: 0.0, limit: Some(4) };
    let retries = prop_oneof![
        3 => Just(None),
        1 => Just(Some(retry(RetryOn::All))),
        1 => Just(Some(retry(RetryOn::Failed))),
        1 => Just(Some(retry(RetryOn::Returned))),
    ];
    let kind = prop_oneof![Just(QueueKind::Classic), Just(QueueKind::Quorum)];
    let ttl_ms = prop::option::weighted(0.3, 5..30_u64);
    let priorities = prop::option::of(1..4_u8);
    let limit = prop::option::of(0..4_u64);
    (kind, priorities, ttl_ms, any::<bool>(), limit, retries).prop_map(
        |(kind, max_priority, message_ttl_ms, has_letters, delivery_limit, retry)| QueueArguments {
            kind,
            max_priority,
            message_ttl_ms,
            dead_letter_exchange: has_letters.then(|| "".into()),
            delivery_limit,
            retry,
            ..QueueArguments::default()
        },
    )
}

#[derive(Clone, Debug)]
struct Known {
    sequence: u64,
    deadline_ms: u64,
    level: u8,
    persistent: bool,
    body_bytes: usize,
    redelivered: bool,
    failed: u16,
    slot: Slot,
    /// Until when it is held.
    until_ms: u64,
}

/// See the module's text.
struct Naive {
    arguments: QueueArguments,
    now_ms: u64,
    published: u64,
    /// In order of arrival, whatever the level.
    arrived: Vec<Known>,
    /// Those that came back to their places.
    returned: Vec<Known>,
    out: Vec<Known>,
    held: Vec<Known>,
    /// What has expired since that was looked at, and what of it was held until now: that has no place in the order.
    expired: Vec<u64>,
    expired_late: Vec<u64>,
    /// What has died otherwise.
    dead: Vec<(u64, Reason)>,
    /// Whether anything has ever expired.
    has_expired: bool,
}

impl Naive {
    fn new(arguments: QueueArguments) -> Self {
        let (now_ms, published) = (1000, 0);
        let (arrived, returned, out, held) = Default::default();
        let (expired, expired_late, dead) = Default::default();
        Self {
            arguments,
            now_ms,
            published,
            arrived,
            returned,
            out,
            held,
            expired,
            expired_late,
            dead,
            has_expired: false,
        }
    }

    fn ready(&self) -> usize {
        self.arrived.len() + self.returned.len()
    }

    fn publish(&mut self, priority: Option<u8>, ttl_ms: u64, persistent: bool, body_bytes: usize) {
        self.published += 1;
        let ttl_ms = ttl_ms.min(self.arguments.message_ttl_ms.unwrap_or(NEVER));
        let (highest, default) = match self.arguments.kind {
            QueueKind::Quorum => (31, 4),
            QueueKind::Classic => (self.arguments.max_priority.unwrap_or(0), 0),
        };
        self.arrived.push(Known {
            sequence: self.published,
            deadline_ms: if ttl_ms == NEVER { NEVER } else { self.now_ms + ttl_ms },
            level: priority.unwrap_or(default).min(highest),
            persistent,
            body_bytes,
            redelivered: false,
            failed: 0,
            slot: Slot::NONE,
            until_ms: 0,
        });
        self.expire(&[]);
    }

    /// Lets what is due expire, in order; those that were held until now may come at any place.
    fn expire(&mut self, late: &[u64]) {
        let is_due = |known: &Known| known.deadline_ms <= self.now_ms;
        let ready = self.arrived.iter().chain(&self.returned);
        let mut due: Vec<_> =
            ready.filter(|known| is_due(known)).map(|it| (it.deadline_ms, it.level, it.sequence)).collect();
        due.sort_unstable();
        let now_ms = self.now_ms;
        self.arrived.retain(|known| known.deadline_ms > now_ms);
        self.returned.retain(|known| known.deadline_ms > now_ms);
        for (.., sequence) in due {
            self.has_expired = true;
            let list = if late.contains(&sequence) { &mut self.expired_late } else { &mut self.expired };
            list.push(sequence);
        }
    }

    fn wait(&mut self) {
        self.now_ms += 1;
        let (due, held): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.held).into_iter().partition(|known| known.until_ms <= self.now_ms);
        self.held = held;
        let late: Vec<u64> = due.iter().map(|known| known.sequence).collect();
        self.returned.extend(due);
        self.expire(&late);
    }

    /// Which one comes next, as its list and its place there.
    fn next(&self) -> Option<(bool, usize)> {
        let level = self.arrived.iter().chain(&self.returned).map(|known| known.level).max()?;
        let mut returned = self.returned.iter().enumerate().filter(|(_, known)| known.level == level);
        let first = returned.by_ref().min_by_key(|(_, known)| known.sequence);
        if let Some((place, _)) = first {
            return Some((true, place));
        }
        Some((false, self.arrived.iter().position(|known| known.level == level)?))
    }

    fn take(&mut self) -> Option<Known> {
        let (is_returned, place) = self.next()?;
        Some(if is_returned { self.returned.remove(place) } else { self.arrived.remove(place) })
    }

    fn put_back(&mut self, mut known: Known, how: Return) {
        if how == Return::Unseen {
            self.returned.push(known);
            return;
        }
        if known.deadline_ms <= self.now_ms {
            self.has_expired = true;
            self.expired.push(known.sequence);
            return;
        }
        known.redelivered = true;
        let retry = self.arguments.retry.as_ref().filter(|retry| match retry.on {
            RetryOn::All => true,
            RetryOn::Failed => how == Return::Failed,
            RetryOn::Returned => how == Return::Released,
        });
        let is_limited = self.arguments.kind == QueueKind::Quorum || self.arguments.delivery_limit.is_some();
        if retry.is_some() || (how == Return::Failed && is_limited) {
            known.failed += 1;
            if self.arguments.delivery_limit.is_some_and(|limit| u64::from(known.failed) > limit) {
                self.dead.push((known.sequence, DeliveryLimit));
                return;
            }
        }
        match retry.map(|_| [3, 0, 20, 20].get(usize::from(known.failed.max(1)) - 1)) {
            None if self.arguments.kind == QueueKind::Quorum => self.arrived.push(known),
            None | Some(Some(0)) => self.returned.push(known),
            Some(None) => self.dead.push((known.sequence, DeliveryLimit)),
            Some(Some(delay_ms)) => {
                known.until_ms = self.now_ms + delay_ms;
                self.held.push(known);
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &Known> {
        self.arrived.iter().chain(&self.returned).chain(&self.out).chain(&self.held)
    }
}

fn step(bench: &mut Bench, naive: &mut Naive, step: &Step) {
    let chosen = |index: &prop::sample::Index, naive: &mut Naive| {
        (!naive.out.is_empty()).then(|| naive.out.remove(index.index(naive.out.len())))
    };
    match step {
        Step::Publish { priority, ttl_ms, persistent, body_bytes } => {
            let body = vec![7; *body_bytes];
            let body = PublishedBody::Small(&body);
            let message = Message::new(("", "q"), &[0, 0], body, *persistent, *priority, &mut Vec::new());
            let Placed { sequence, deadline_ms } = bench.publish_for(*ttl_ms, message.clone());
            if *persistent {
                bench
                    .stored
                    .insert(sequence, LoadedMessage { sequence, delivery_count: 0, deadline_ms, message });
            }
            naive.publish(*priority, *ttl_ms, *persistent, *body_bytes);
        }
        Step::Get => {
            let got = bench.get_paged();
            let known = naive.take();
            assert_eq!(
                got.as_ref().map(|got| got.entry.sequence),
                known.as_ref().map(|known| known.sequence)
            );
            if let (Some(got), Some(known)) = (got, known) {
                let entry = &got.entry;
                assert_eq!((entry.redelivered, entry.delivery_count), (known.redelivered, known.failed));
                assert_eq!(entry.deadline_ms, known.deadline_ms);
                naive.out.push(Known { slot: got.slot, ..known });
            }
        }
        Step::Ack(index) => {
            if let Some(known) = chosen(index, naive) {
                assert!(bench.settle_at(known.slot, known.sequence));
                bench.deliver();
            }
        }
        Step::Reject(index) => {
            if let Some(known) = chosen(index, naive) {
                assert!(bench.reject_at(known.slot, known.sequence));
                bench.deliver();
                naive.dead.push((known.sequence, Rejected));
            }
        }
        Step::Return(index, how) => {
            if let Some(known) = chosen(index, naive) {
                let queue = Arc::clone(&bench.handle);
                queue.lock().requeue(known.slot, known.sequence, *how, &queue, &mut bench.effects);
                bench.deliver();
                naive.put_back(known, *how);
                naive.expire(&[]);
            }
        }
        Step::Wait(ms) => {
            for _ in 0..*ms {
                naive.wait();
                bench.wait_until(naive.now_ms);
                settle_down(bench, naive);
            }
        }
        Step::Purge => {
            assert_eq!(bench.purge() as usize, naive.ready());
            naive.arrived.clear();
            naive.returned.clear();
        }
        Step::Window(bytes) => {
            bench.pager.set_window_bytes(*bytes);
            bench.deliver();
        }
        Step::Clean => bench.handle.lock().timer_is_off(),
    }
    settle_down(bench, naive);
}

/// Whatever is due is done and whatever has to be loaded is loaded, and what has died since then is compared.
fn settle_down(bench: &mut Bench, naive: &mut Naive) {
    while bench.serve_all() + bench.wait_until(naive.now_ms) > 0 {}
    let (expired, dead): (Vec<_>, Vec<_>) =
        bench.letters().into_iter().partition(|(_, reason)| *reason == Expired);
    let (late, expired): (Vec<u64>, Vec<u64>) =
        expired.into_iter().map(|(sequence, _)| sequence).partition(|it| naive.expired_late.contains(it));
    let (expected, expected_late) =
        (std::mem::take(&mut naive.expired), std::mem::take(&mut naive.expired_late));
    let expected_dead = std::mem::take(&mut naive.dead);
    if naive.arguments.dead_letter_exchange.is_some() {
        assert_eq!((expired, late.len(), dead), (expected, expected_late.len(), expected_dead));
    } else {
        assert_eq!((expired.len(), late.len(), dead.len()), (0, 0, 0));
    }
    bench.log();
    assert_eq!(bench.ready() as usize, naive.ready(), "how many are ready");
    assert_eq!(bench.unacked(), naive.out.len());
    check_figures(bench, naive);
    check_log(bench, naive);
}

/// What operators are told is what there is, and the broker's totals are the sum of its queues.
fn check_figures(bench: &Bench, naive: &Naive) {
    let figures = bench.handle.lock().figures(bench.effects.now);
    assert_eq!((figures.ready, figures.unacked), (naive.ready() as u64, naive.out.len() as u64));
    let stats = &bench.pager.stats;
    assert_eq!((stats.ready.get(), stats.unacked.get()), (figures.ready, figures.unacked));
    let body_bytes = |known: &Known| known.body_bytes as u64;
    assert_eq!(figures.unacked_bytes, naive.out.iter().map(body_bytes).sum::<u64>());
    assert!(figures.ready_in_memory <= figures.ready);
    // What expires while only the log has it may have been any of them.
    if !naive.has_expired {
        let here = naive.arrived.iter().chain(&naive.returned).chain(&naive.out);
        let persistent: Vec<&Known> = here.filter(|known| known.persistent).collect();
        let bytes: u64 = persistent.iter().map(|known| body_bytes(known)).sum();
        assert_eq!((figures.persistent, figures.persistent_bytes), (persistent.len() as u64, bytes));
    }
    assert_eq!(figures.oldest_ready_age_ms.is_some(), figures.ready > 0);
}

/// The log has what survives, and nothing that has left.
fn check_log(bench: &Bench, naive: &Naive) {
    let alive: BTreeMap<u64, &Known> = naive.all().map(|known| (known.sequence, known)).collect();
    let dead = bench.stored.keys().find(|sequence| !alive.contains_key(sequence));
    assert_eq!(dead, None, "the log did not hear of its end");
    for known in alive.values().filter(|known| known.persistent) {
        let stored = &bench.stored[&known.sequence];
        assert_eq!(stored.delivery_count, u32::from(known.failed), "failures of {}", known.sequence);
        assert_eq!(stored.deadline_ms, known.deadline_ms);
    }
}

proptest! {
    #[test]
    fn a_queue_does_what_lists_do(arguments in arguments(), steps in steps(), window_bytes in prop::sample::select(vec![0, 300, 1 << 20])) {
        let mut bench = Bench::of(true, arguments.clone(), 1, 1 << 20);
        bench.pager.set_resident_bytes_max(0);
        bench.pager.set_window_bytes(window_bytes);
        bench.is_estimated = true;
        let mut naive = Naive::new(arguments);
        bench.set_now(naive.now_ms);
        for next in &steps {
            step(&mut bench, &mut naive, next);
        }
        while naive.ready() > 0 {
            step(&mut bench, &mut naive, &Step::Get);
        }
        prop_assert_eq!(bench.body_bytes(), 0);
    }
}
