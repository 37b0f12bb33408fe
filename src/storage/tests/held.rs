//! Messages that are held, and keys by which duplicates are known.

use super::{
    super::{
        index::Queue,
        sim_disk::{Crash, SimDisk},
    },
    Opened, load_all, message, open_disk,
};
use crate::{
    amqp::Table,
    broker::{
        NEVER,
        definition::Definition,
        journal::{Fact, Target, cache_of_exchange},
        queue::QueueId,
        restore::{Backlog, RecoveredCache, RecoveredHold},
    },
};

const QUEUE: QueueId = QueueId(1);

fn declared(id: QueueId) -> Fact {
    Fact::Define(Definition::QueueDeclared {
        virtual_host: "/".into(),
        id,
        name: format!("queue-{}", id.0).into(),
        auto_delete: false,
        arguments: Table::default(),
    })
}

fn publish(sequence: u64) -> Fact {
    let target = Target { queue: QUEUE, sequence, survives: true, deadline_ms: NEVER };
    Fact::Publish { message: message(sequence, 100, true, None), queues: vec![target] }
}

fn hold(sequences: impl IntoIterator<Item = u64>, until_ms: u64, death: u8) -> Fact {
    Fact::Hold { queue: QUEUE, sequences: sequences.into_iter().collect(), until_ms, death }
}

fn settle(sequences: impl IntoIterator<Item = u64>) -> Fact {
    Fact::Settle { queue: QUEUE, sequences: sequences.into_iter().collect(), body_bytes: 0 }
}

fn opened() -> (SimDisk, Opened) {
    let disk = SimDisk::new(1);
    let mut opened = open_disk(&disk).expect("a new directory");
    opened.log.write(&[declared(QUEUE)], 0).expect("written");
    (disk, opened)
}

/// What the next start finds, with everything in a checkpoint or to be replayed: which must be the same.
fn again(disk: &SimDisk, mut opened: Opened) -> Opened {
    opened.log.sync().expect("synced");
    let replayed = open_disk(&disk.crash(Crash::Lost)).expect("it starts");
    opened.log.close().expect("closed");
    let read = open_disk(&disk.crash(Crash::Lost)).expect("it starts");
    let told = |opened: &Opened| {
        let queues: Vec<_> =
            opened.recovered.queues.iter().map(|queue| (queue.held.clone(), queue.backlog.clone())).collect();
        format!("{queues:?} {:?}", keys(opened))
    };
    assert_eq!(told(&replayed), told(&read));
    read
}

/// The backlog of the queue, and who of it is held until when.
fn told(opened: &Opened) -> (&[Backlog], Vec<(u64, u64, u8)>) {
    let queue = opened.recovered.queues.iter().find(|queue| queue.id == QUEUE).expect("there");
    let held = |held: &RecoveredHold| (held.sequence, held.until_ms, held.death);
    (&queue.backlog, queue.held.iter().map(held).collect())
}

fn has_rare(opened: &Opened) -> bool {
    let index = opened.log.shared.index();
    !index.queues[&QUEUE].rare().is_empty()
}

#[test]
fn what_is_held_is_no_part_of_the_backlog() {
    let (disk, mut opened) = opened();
    let mut facts: Vec<Fact> = (1..=10).map(publish).collect();
    facts.extend([hold(2..=6, 500, 0), hold([4], 300, 2), hold([9], 700, 1), settle([3])]);
    opened.log.write(&facts, 0).expect("written");
    let opened = again(&disk, opened);
    let backlog = [Backlog { first: 1, last: 10, count: 4, priority: None }];
    let held = vec![(2, 500, 0), (4, 300, 2), (5, 500, 0), (6, 500, 0), (9, 700, 1)];
    assert_eq!(told(&opened), (&backlog[..], held));
    assert_eq!(load_all(&opened, QUEUE, 4, 4), [(4, 4, 0)], "they can be loaded");
}

#[test]
fn a_queue_of_which_all_is_held_has_no_backlog() {
    let (disk, mut opened) = opened();
    opened.log.write(&[publish(1), publish(2), hold([1, 2], 500, 0)], 0).expect("written");
    assert_eq!(told(&again(&disk, opened)), (&[][..], vec![(1, 500, 0), (2, 500, 0)]));
}

#[test]
fn what_leaves_the_queue_is_held_no_more_whatever_the_order() {
    let purge = |before, unsettled| Fact::Purge { queue: QUEUE, before, unsettled, unsettled_body_bytes: 0 };
    for (facts, expected) in [
        (vec![publish(1), hold([1], 500, 0), settle([1])], vec![]),
        (vec![hold([1], 500, 0), settle([1]), publish(1)], vec![]),
        (vec![settle([1]), hold([1], 500, 0), publish(1)], vec![]),
        (vec![hold([1], 500, 0), publish(1)], vec![(1, 500, 0)]),
        (vec![publish(1), publish(2), hold([1, 2], 500, 0), purge(3, vec![2])], vec![(2, 500, 0)]),
        (vec![publish(1), purge(2, vec![]), hold([1], 500, 0)], vec![]),
        (vec![purge(2, vec![1]), hold([1], 500, 0), publish(1)], vec![(1, 500, 0)]),
        (vec![purge(2, vec![1]), settle([1]), hold([1], 500, 0), publish(1)], vec![]),
        (vec![hold([5], 500, 0), purge(5, vec![]), publish(5)], vec![(5, 500, 0)]),
    ] {
        let (disk, mut opened) = opened();
        for fact in &facts {
            opened.log.write(std::slice::from_ref(fact), 0).expect("written");
        }
        assert_eq!(has_rare(&opened), !expected.is_empty(), "nothing is left of {facts:?}");
        assert_eq!(told(&again(&disk, opened)).1, expected, "{facts:?}");
    }
}

/// There may be 100,000 queues that are empty.
#[test]
fn a_queue_takes_little_of_the_index() {
    assert!(size_of::<Queue>() <= 64, "{} octets", size_of::<Queue>());
}

fn seen(cache: QueueId, key: u128, keep: u32) -> Fact {
    Fact::Seen { cache, key, until_ms: 500 + key as u64, keep }
}

fn exchange(virtual_host: &str) -> Fact {
    Fact::Define(Definition::ExchangeDeclared {
        virtual_host: virtual_host.into(),
        name: "x".into(),
        kind: "fanout",
        auto_delete: false,
        internal: false,
        arguments: Table::default(),
    })
}

/// The keys of each cache that a start has found, oldest first.
fn keys(opened: &Opened) -> Vec<(QueueId, Vec<u128>)> {
    let of_cache = |cache: &RecoveredCache| {
        assert!(cache.keys.iter().all(|(key, until_ms)| *until_ms == 500 + *key as u64));
        (cache.cache, cache.keys.iter().map(|(key, _)| *key).collect())
    };
    let mut keys: Vec<_> = opened.recovered.seen.iter().map(of_cache).collect();
    keys.sort_unstable_by_key(|(cache, _)| *cache);
    keys
}

#[test]
fn the_newest_keys_of_each_cache_come_back_in_order() {
    let (disk, mut opened) = opened();
    let of_exchange = cache_of_exchange("/", "x");
    let mut facts = vec![exchange("/")];
    facts.extend([1, 2, 3, 1, 4].map(|key| seen(QUEUE, key, 3)));
    facts.extend([9, 8].map(|key| seen(of_exchange, key, 3)));
    facts.extend([7, 6].map(|key| seen(QueueId(77), key, 3)));
    opened.log.write(&facts, 0).expect("written");
    let opened = again(&disk, opened);
    let expected = [(QUEUE, vec![3, 1, 4]), (of_exchange, vec![9, 8])];
    assert_eq!(keys(&opened), expected, "what is not there has no keys");
}

#[test]
fn keys_go_with_whose_they_were_and_are_none_of_a_successor() {
    let deleted = Definition::ExchangeDeleted { virtual_host: "h".into(), name: "x".into() };
    let host_deleted = Definition::VirtualHostDeleted { name: "h".into() };
    let cache = cache_of_exchange("h", "x");
    for deleted in [deleted, host_deleted].map(Fact::Define) {
        let late = seen(cache, 2, 9);
        let facts = [exchange("h"), seen(cache, 1, 9), deleted, late, exchange("h"), seen(cache, 3, 9)];
        for together in [true, false] {
            let (disk, mut opened) = opened();
            facts.chunks(if together { 9 } else { 1 }).for_each(|facts| {
                opened.log.write(facts, 0).expect("written");
            });
            assert_eq!(keys(&again(&disk, opened)), [(cache, vec![3])], "{facts:?}");
        }
    }
    let (disk, mut opened) = opened();
    let deleted = Fact::Define(Definition::QueueDeleted { id: QUEUE });
    opened.log.write(&[seen(QUEUE, 1, 9), deleted, seen(QUEUE, 2, 9)], 0).expect("written");
    assert_eq!(keys(&again(&disk, opened)), []);
}

/// Whoever was told that an exchange is deleted does not find its keys again, however soon there is another one.
#[test]
fn a_deletion_that_is_durable_has_taken_the_keys() {
    let (disk, mut opened) = opened();
    let (virtual_host, name) = ("h".into(), "x".into());
    let cache = cache_of_exchange("h", "x");
    let deleted = Fact::Define(Definition::ExchangeDeleted { virtual_host, name });
    opened.log.write(&[exchange("h"), seen(cache, 1, 9)], 0).expect("written");
    opened.log.write(&[deleted], 0).expect("written");
    opened.log.sync().expect("synced");
    // Definitions are durable when they are written, and what comes with them is not.
    opened.log.write(&[exchange("h"), seen(cache, 2, 9)], 0).expect("written");
    let opened = open_disk(&disk.crash(Crash::Lost)).expect("it starts");
    assert_eq!(keys(&opened), []);
}
