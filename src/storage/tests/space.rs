//! What the log takes on the disk.

use super::{super::sim_disk::SimDisk, load_all, message, model::survivors, open_disk};
use crate::{
    amqp::Table,
    broker::{
        definition::Definition,
        journal::{Fact, Target},
        queue::QueueId,
    },
};

const FAST: QueueId = QueueId(1);
const SLOW: QueueId = QueueId(2);

fn declared(id: QueueId) -> Fact {
    Fact::Define(Definition::QueueDeclared {
        virtual_host: "/".into(),
        id,
        name: format!("queue-{}", id.0).into(),
        auto_delete: false,
        arguments: Table::default(),
    })
}

fn publish(queue: QueueId, sequence: u64, survives: bool) -> Fact {
    let message = message(sequence, 500, survives, None);
    Fact::Publish {
        message,
        queues: vec![Target { queue, sequence, survives, deadline_ms: crate::broker::NEVER }],
    }
}

fn settle(queue: QueueId, sequence: u64) -> Fact {
    Fact::Settle { queue, sequences: vec![sequence], body_bytes: 500 }
}

fn segments(disk: &SimDisk) -> usize {
    disk.names().iter().filter(|name| name.starts_with("seg-") && name.ends_with(".log")).count()
}

#[test]
fn a_queue_that_is_consumed_takes_no_more_space_however_much_goes_through() {
    let disk = SimDisk::new(1);
    let mut opened = open_disk(&disk).expect("a new directory");
    opened.log.write(&[declared(FAST)], 0).expect("written");
    let mut most = 0;
    for sequence in 1..=3000 {
        let mut facts = vec![publish(FAST, sequence, true)];
        facts.extend((sequence > 10).then(|| settle(FAST, sequence - 10)));
        opened.log.write(&facts, 0).expect("written");
        opened.log.tidy().expect("tidied");
        most = most.max(segments(&disk));
    }
    // About 120 segments were written.
    assert!(most <= 7, "{most} segments");
}

#[test]
fn a_slow_queue_does_not_pin_what_lies_beside_its_messages() {
    for survives in [true, false] {
        let disk = SimDisk::new(1);
        let mut opened = open_disk(&disk).expect("a new directory");
        opened.log.write(&[declared(FAST), declared(SLOW)], 0).expect("written");
        let mut most = 0;
        for sequence in 1..=6000 {
            let mut facts = vec![publish(FAST, sequence, true), settle(FAST, sequence)];
            facts.extend((sequence % 40 == 0).then(|| publish(SLOW, sequence / 40, survives)));
            opened.log.write(&facts, 0).expect("written");
            opened.log.tidy().expect("tidied");
            most = most.max(segments(&disk));
        }
        // 150 messages of 600 octets are live: 6 segments. About 250 were written, each with some of them.
        assert!(most <= 6 * 4 + 7, "{most} segments");
        let live: Vec<u64> =
            load_all(&opened, SLOW, 0, u64::MAX).iter().map(|(sequence, ..)| *sequence).collect();
        assert_eq!(live, (1..=150).collect::<Vec<_>>(), "they are still read, in order");
        drop(opened);
        let again = open_disk(&disk.crash(super::super::sim_disk::Crash::Kept)).expect("sound");
        assert_eq!(survivors(&again).get(&SLOW).map_or(0, Vec::len), if survives { 150 } else { 0 });
    }
}

#[test]
fn draining_gives_space_back_as_it_goes() {
    let disk = SimDisk::new(1);
    let mut opened = open_disk(&disk).expect("a new directory");
    opened.log.write(&[declared(FAST)], 0).expect("written");
    for sequence in 1..=1000 {
        opened.log.write(&[publish(FAST, sequence, true)], 0).expect("written");
    }
    let before = segments(&disk);
    opened
        .log
        .write(&[Fact::Settle { queue: FAST, sequences: (1..=500).collect(), body_bytes: 0 }], 0)
        .expect("written");
    while opened.log.tidy().expect("tidied") {}
    assert!(segments(&disk) < before * 3 / 5, "{} of {before} are left", segments(&disk));
}

#[test]
fn purging_and_deleting_lets_go_of_everything() {
    for fact in [
        Fact::Purge { queue: FAST, before: 1001, unsettled: vec![], unsettled_body_bytes: 0 },
        Fact::Define(Definition::QueueDeleted { id: FAST }),
    ] {
        let disk = SimDisk::new(1);
        let mut opened = open_disk(&disk).expect("a new directory");
        opened.log.write(&[declared(FAST)], 0).expect("written");
        for sequence in 1..=1000 {
            opened.log.write(&[publish(FAST, sequence, true)], 0).expect("written");
        }
        assert!(segments(&disk) > 30);
        opened.log.write(&[fact], 0).expect("written");
        opened.log.close().expect("closed");
        let mut opened = open_disk(&disk).expect("sound");
        assert!(survivors(&opened).is_empty());
        while opened.log.tidy().expect("tidied") {}
        assert_eq!(segments(&disk), 1, "the one that is written");
    }
}

#[test]
fn definitions_that_come_and_go_do_not_pile_up() {
    let disk = SimDisk::new(1);
    let mut opened = open_disk(&disk).expect("a new directory");
    let name = "x".repeat(200);
    for round in 0..500_u64 {
        let facts: Vec<Fact> = (0..100)
            .flat_map(|number| {
                let id = QueueId(round * 100 + number);
                let declared = Fact::Define(Definition::QueueDeclared {
                    virtual_host: "/".into(),
                    id,
                    name: format!("{name}{number}").into(),
                    auto_delete: false,
                    arguments: Table::default(),
                });
                [declared, Fact::Define(Definition::QueueDeleted { id })]
            })
            .collect();
        opened.log.write(&facts, 0).expect("written");
    }
    let len = disk.content("definitions.log").len();
    assert!(len < 17 << 20, "{len} octets");
    opened.log.write(&[declared(QueueId(1_000_000))], 0).expect("written");
    drop(opened);
    let opened = open_disk(&disk.crash(super::super::sim_disk::Crash::Lost)).expect("sound");
    assert_eq!(super::model::defined(&opened).queues.len(), 1);
    assert_eq!(opened.recovered.next_id, 1_000_001);
}
