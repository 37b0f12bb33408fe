//! When messages leave by themselves, and which level they are in.

use super::{
    super::{
        disk::Disk as _,
        sim_disk::{Crash, SimDisk},
    },
    Opened, load_found, message,
    model::{check_deadlines, survivors},
    open_disk,
};
use crate::{
    amqp::Value,
    broker::{
        NEVER,
        definition::Definition,
        journal::{Fact, Target},
        pager::Load,
        queue::QueueId,
        restore::Backlog,
    },
};

const PLAIN: QueueId = QueueId(1);
const QUORUM: QueueId = QueueId(2);

fn declared(id: QueueId) -> Fact {
    let argument = (id == QUORUM).then(|| ("x-queue-type".to_owned(), Value::LongStr("quorum".into())));
    Fact::Define(Definition::QueueDeclared {
        virtual_host: "/".into(),
        id,
        name: format!("queue-{}", id.0).into(),
        auto_delete: false,
        arguments: argument.into_iter().collect(),
    })
}

fn publish(queue: QueueId, sequence: u64, priority: Option<u8>, deadline_ms: u64) -> Fact {
    let message = message(sequence, 300, true, priority);
    Fact::Publish { message, queues: vec![Target { queue, sequence, survives: true, deadline_ms }] }
}

fn opened() -> (SimDisk, Opened) {
    let disk = SimDisk::new(1);
    let mut opened = open_disk(&disk).expect("a new directory");
    opened.log.write(&[declared(PLAIN), declared(QUORUM)], 0).expect("written");
    (disk, opened)
}

/// The directory as the next start finds it: with everything in a checkpoint, or to be replayed.
fn again(disk: &SimDisk, mut opened: Opened, closed: bool) -> (SimDisk, Opened) {
    if closed {
        opened.log.close().expect("closed");
    } else {
        opened.log.sync().expect("synced");
    }
    let disk = disk.crash(Crash::Lost);
    let opened = open_disk(&disk).expect("it starts");
    (disk, opened)
}

/// A level, and its deadlines in the order in which they come.
type OfLevel = (Option<u8>, Vec<(u64, u64)>);

/// The deadlines of a queue.
fn taken(opened: &mut Opened, queue: QueueId) -> Vec<OfLevel> {
    let queue = opened.recovered.queues.iter_mut().find(|found| found.id == queue).expect("there");
    let levels = queue.deadlines.iter_mut();
    levels
        .map(|(level, deadlines)| {
            let in_order = std::iter::from_fn(|| deadlines.pop_due(NEVER - 1));
            (*level, in_order.collect())
        })
        .collect()
}

#[test]
fn deadlines_come_back_in_their_order_by_level() {
    for closed in [true, false] {
        let (disk, mut opened) = opened();
        for (sequence, deadline_ms) in [(1, 500), (2, NEVER), (3, 300), (4, 400), (5, 300), (6, 0)] {
            let facts = [
                publish(PLAIN, sequence, None, deadline_ms),
                publish(QUORUM, sequence, [None, Some(9), Some(200)][sequence as usize % 3], deadline_ms),
            ];
            opened.log.write(&facts, 0).expect("written");
        }
        let settle = Fact::Settle { queue: PLAIN, sequences: vec![4], body_bytes: 300 };
        opened.log.write(&[settle], 0).expect("written");
        let (_, mut opened) = again(&disk, opened, closed);
        let found: Vec<_> = load_found(&opened, PLAIN, (0, 9), None)
            .iter()
            .map(|found| (found.sequence, found.deadline_ms))
            .collect();
        assert_eq!(found, [(1, 500), (2, NEVER), (3, 300), (5, 300), (6, 0)]);
        assert_eq!(taken(&mut opened, PLAIN), [(None, vec![(0, 6), (300, 3), (300, 5), (500, 1)])]);
        let expected = [
            (Some(4), vec![(0, 6), (300, 3)]),
            (Some(9), vec![(400, 4), (500, 1)]),
            (Some(31), vec![(300, 5)]),
        ];
        assert_eq!(taken(&mut opened, QUORUM), expected);
    }
}

#[test]
fn messages_that_are_moved_keep_their_deadlines() {
    let (disk, mut opened) = opened();
    for sequence in 1..=3000 {
        let settle = Fact::Settle { queue: PLAIN, sequences: vec![sequence], body_bytes: 300 };
        let mut facts = vec![publish(PLAIN, sequence, None, sequence), settle];
        facts.extend((sequence % 40 == 0).then(|| publish(QUORUM, sequence / 40, Some(7), 9_000 - sequence)));
        opened.log.write(&facts, 0).expect("written");
        opened.log.tidy().expect("tidied");
    }
    assert!(!disk.names().contains(&"seg-0000000001.log".to_owned()), "the first ones were moved");
    let expected = |sequence| (9_000 - sequence * 40, sequence);
    for found in load_found(&opened, QUORUM, (0, u64::MAX), None) {
        assert_eq!((found.deadline_ms, found.sequence), expected(found.sequence));
    }
    let (_, mut opened) = again(&disk, opened, false);
    let by_time = (1..=75).rev().map(expected).collect();
    assert_eq!(taken(&mut opened, QUORUM), [(Some(7), by_time)]);
}

#[test]
fn what_is_named_is_loaded_and_nothing_else() {
    let (disk, mut opened) = opened();
    for sequence in 1..=100 {
        opened.log.write(&[publish(PLAIN, sequence, None, NEVER)], 0).expect("written");
    }
    let settle = Fact::Settle { queue: PLAIN, sequences: (30..40).collect(), body_bytes: 3000 };
    opened.log.write(&[settle], 0).expect("written");
    let only = vec![2, 3, 7, 35, 36, 50, 99, 1000];
    let load = |first, last, count_max, bytes_max| Load {
        queue: PLAIN,
        first,
        last,
        priorities: None,
        count_max,
        bytes_max,
        only: only.clone(),
    };
    let check = |opened: &Opened| {
        let found = |load| {
            let loaded = opened.reader.load(&load).expect("the disk works");
            assert_eq!(loaded.damaged, 0, "what is not there is not damaged");
            loaded.messages.iter().map(|message| message.sequence).collect::<Vec<_>>()
        };
        assert_eq!(found(load(0, u64::MAX, 100, usize::MAX)), [2, 3, 7, 50, 99]);
        assert_eq!(found(load(3, 98, 100, usize::MAX)), [3, 7, 50]);
        assert_eq!(found(load(3, 98, 2, usize::MAX)), [3, 7]);
        assert_eq!(found(load(0, u64::MAX, 100, 1)), [2]);
    };
    check(&opened);
    let (disk, opened) = again(&disk, opened, false);
    check(&opened);
    check(&again(&disk, opened, true).1);
}

#[test]
fn a_queue_pays_for_deadlines_and_levels_only_if_its_messages_have_them() {
    const COUNT: u64 = 10;
    let name = "seg-0000000001.idx";
    for (priority, deadline_ms) in [(None, NEVER), (Some(9), NEVER), (None, 7), (Some(0), 7)] {
        let (disk, mut opened) = opened();
        for sequence in 1..=COUNT {
            opened.log.write(&[publish(QUORUM, sequence, priority, deadline_ms)], 0).expect("written");
        }
        opened.log.close().expect("closed");
        let is_dated = deadline_ms != NEVER;
        let len = 48 + 32 + COUNT as usize * if is_dated { 24 } else { 16 };
        assert_eq!(disk.content(name).len(), len);
        disk.remove(name).expect("there");
        let mut opened = open_disk(&disk).expect("it starts");
        let is_read = disk.names().contains(&name.to_owned());
        assert_eq!(is_read, is_dated || priority.is_some(), "{priority:?}, {deadline_ms}");
        let queue = opened.recovered.queues.iter().find(|queue| queue.id == QUORUM).expect("there");
        assert_eq!(queue.backlog, [Backlog { first: 1, last: COUNT, count: COUNT, priority }]);
        let found = survivors(&opened);
        check_deadlines(&mut opened, &found);
    }
}
