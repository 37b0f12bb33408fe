//! Damage and confusion that once went unnoticed, or took more along than it had to.

use std::sync::Arc;

use super::{
    super::{
        Options, check,
        disk::Disk as _,
        open,
        sim_disk::{Crash, SimDisk},
    },
    OPTIONS, Opened, load_all, message,
    model::survivors,
    open_disk,
};
use crate::{
    amqp::Table,
    broker::{
        definition::Definition,
        journal::{Fact, Target},
        pager::Load,
        queue::QueueId,
    },
};

const QUEUE: QueueId = QueueId(1);
const FIRST: &str = "seg-0000000001.log";

fn declared(id: QueueId) -> Fact {
    let name = format!("{:->200}", id.0);
    Fact::Define(Definition::QueueDeclared {
        virtual_host: "/".into(),
        id,
        name: name.into(),
        auto_delete: false,
        arguments: Table::default(),
    })
}

fn publish(queue: QueueId, sequence: u64, len: usize, survives: bool) -> Fact {
    let message = message(sequence, len, survives, None);
    Fact::Publish {
        message,
        queues: vec![Target { queue, sequence, survives, deadline_ms: crate::broker::NEVER }],
    }
}

fn purge(queue: QueueId, before: u64) -> Fact {
    Fact::Purge { queue, before, unsettled: vec![], unsettled_body_bytes: 0 }
}

/// A queue with so many messages of 700 octets in several segments, `together` of them in the first batch.
fn filled(count: u64, together: u64) -> (SimDisk, Opened) {
    let disk = SimDisk::new(1);
    let mut opened = open_disk(&disk).expect("a new directory");
    opened.log.write(&[declared(QUEUE)], 0).expect("written");
    let first: Vec<Fact> = (1..=together).map(|sequence| publish(QUEUE, sequence, 700, true)).collect();
    opened.log.write(&first, 0).expect("written");
    for sequence in together + 1..=count {
        opened.log.write(&[publish(QUEUE, sequence, 700, true)], 0).expect("written");
        opened.log.sync().expect("synced");
    }
    (disk, opened)
}

/// How many messages in a range can be read, and how many are reported as damaged.
fn readable(opened: &Opened, first: u64, last: u64) -> (usize, u64) {
    let limits = (1024, usize::MAX);
    let load = Load {
        queue: QUEUE,
        first,
        last,
        priorities: None,
        count_max: limits.0,
        bytes_max: limits.1,
        only: Vec::new(),
    };
    let loaded = opened.reader.load(&load).expect("the disk works");
    (loaded.messages.len(), loaded.damaged)
}

/// Where in the first segment the body of a message lies.
fn body(disk: &SimDisk, sequence: u64) -> u64 {
    let body: Vec<u8> = sequence.to_le_bytes().into_iter().chain([sequence as u8; 300]).collect();
    let content = disk.content(FIRST);
    content.windows(body.len()).position(|octets| octets == body).expect("it is there") as u64
}

#[test]
fn each_damaged_message_of_a_segment_is_reported_whenever_it_is_asked_for() {
    let (disk, opened) = filled(60, 1);
    for sequence in [2, 5] {
        disk.flip_bit(FIRST, body(&disk, sequence) + 100, 1);
    }
    for _ in 0..2 {
        assert_eq!(readable(&opened, 1, 3), (2, 1));
        assert_eq!(readable(&opened, 4, 6), (2, 1));
    }
}

#[test]
fn a_damaged_record_takes_no_other_of_its_batch_along() {
    for with_positions in [true, false] {
        let (disk, opened) = filled(60, 15);
        // The kind of the second record, behind the headers of segment and batch.
        let content = disk.content(FIRST);
        let first = 4096 + 64;
        let len = u32::from_le_bytes(content[first + 4..first + 8].try_into().expect("four octets"));
        let second = first + (16 + len as usize).next_multiple_of(8);
        disk.flip_bit(FIRST, second as u64, 6);
        if !with_positions {
            disk.remove("seg-0000000001.idx").expect("there");
        }
        assert_eq!(readable(&opened, 1, 3), (2, 1));
        assert_eq!(readable(&opened, 4, 15), (12, 0));
    }
}

#[test]
fn a_segment_that_is_cut_short_is_damage_and_the_rest_is_delivered() {
    let (disk, opened) = filled(60, 1);
    opened.log.close().expect("closed");
    let content = disk.content(FIRST);
    let file = disk.create(FIRST).expect("created");
    file.write_all_at(&content[..8192], 0).expect("written");
    let error = open_disk(&disk).expect_err("damaged").to_string();
    assert!(error.starts_with("sim/seg-0000000001.log has 8192 octets of 16384"), "{error}");
    let opened = salvaged(&disk);
    let (found, damaged) = readable(&opened, 1, 60);
    assert_eq!((found as u64 + damaged, found > 40, damaged > 5), (60, true, true));
}

#[test]
fn a_damaged_header_that_the_checkpoint_has_too_loses_nothing() {
    let (disk, opened) = filled(60, 1);
    opened.log.close().expect("closed");
    disk.flip_bit(FIRST, 20, 1);
    assert!(open_disk(&disk).is_err());
    assert_eq!(load_all(&salvaged(&disk), QUEUE, 0, 100).len(), 60);
    assert!(open_disk(&disk).is_ok(), "it was put right");
}

fn salvaged(disk: &SimDisk) -> Opened {
    open(Arc::new(disk.clone()), Options { salvage: true, ..OPTIONS }).expect("salvaged")
}

#[test]
fn salvaging_a_batch_loses_its_damaged_record_only() {
    let (disk, mut opened) = filled(10, 10);
    opened.log.sync().expect("synced");
    opened.log.idle().expect("noted");
    drop(opened);
    let disk = disk.crash(Crash::Kept);
    disk.flip_bit(FIRST, body(&disk, 4) + 100, 1);
    let found: Vec<u64> =
        survivors(&salvaged(&disk))[&QUEUE].iter().map(|(found, _)| found.sequence).collect();
    assert_eq!(found, [1, 2, 3, 5, 6, 7, 8, 9, 10]);
}

#[test]
fn a_directory_without_its_definitions_is_damaged() {
    let (disk, opened) = filled(10, 1);
    opened.log.close().expect("closed");
    disk.remove("definitions.log").expect("there");
    let names = disk.names();
    assert_eq!(check(Arc::new(disk.clone())).expect("readable").damage.len(), 1);
    let error = open_disk(&disk).expect_err("damaged").to_string();
    assert!(error.starts_with("sim/definitions.log is missing: all definitions are lost"), "{error}");
    assert_eq!(disk.names(), names);
}

#[test]
fn writing_definitions_anew_hides_no_damage() {
    let (disk, mut opened) = filled(1, 1);
    let content = disk.content("definitions.log");
    let at = content.windows(3).position(|octets| octets == b"---").expect("a name");
    disk.flip_bit("definitions.log", at as u64, 1);
    // More than four times what the file is written anew for.
    for round in 1..400 {
        let ids = (0..100).map(|number| QueueId(round * 100 + number));
        let facts: Vec<Fact> =
            ids.flat_map(|id| [declared(id), Fact::Define(Definition::QueueDeleted { id })]).collect();
        opened.log.write(&facts, 0).expect("written");
    }
    drop(opened);
    assert!(open_disk(&disk.crash(Crash::Kept)).is_err(), "the damage is still there");
}

#[test]
fn what_is_known_of_a_transient_queue_is_not_taken_for_a_durable_one() {
    let disk = SimDisk::new(1);
    let mut opened = open_disk(&disk).expect("a new directory");
    let id = QueueId(7);
    let facts = [publish(id, 1, 100, false), purge(id, 1000), publish(id, 1000, 100, false)];
    opened.log.write(&facts, 0).expect("written");
    opened.log.close().expect("closed");
    let mut opened = open_disk(&disk).expect("sound");
    opened.log.write(&[declared(id), publish(id, 1, 100, true)], 0).expect("written");
    opened.log.sync().expect("synced");
    drop(opened);
    let opened = open_disk(&disk.crash(Crash::Kept)).expect("sound");
    assert_eq!(survivors(&opened)[&id].len(), 1);
}

#[test]
fn settling_what_was_purged_leaves_nothing_behind() {
    let (_, mut opened) = filled(1, 1);
    for sequence in 2..300 {
        let settle = Fact::Settle { queue: QUEUE, sequences: vec![sequence], body_bytes: 10 };
        let facts = [publish(QUEUE, sequence, 10, true), purge(QUEUE, sequence + 1), settle];
        opened.log.write(&facts, 0).expect("written");
    }
    assert!(opened.log.shared.index().queues[&QUEUE].rare().settled_early.is_empty());
}

#[test]
fn the_cleaner_is_not_starved_by_segments_that_die_by_themselves() {
    const SLOW: QueueId = QueueId(2);
    for (lag, every) in [(5, 100), (60, 200), (200, 400)] {
        let disk = SimDisk::new(1);
        let mut opened = open_disk(&disk).expect("a new directory");
        opened.log.write(&[declared(QUEUE), declared(SLOW)], 0).expect("written");
        let mut most = 0;
        for sequence in 1..=8000_u64 {
            let mut facts = vec![publish(QUEUE, sequence, 500, true)];
            if sequence > lag {
                let sequences = vec![sequence - lag];
                facts.push(Fact::Settle { queue: QUEUE, sequences, body_bytes: 500 });
            }
            facts.extend((sequence % every == 0).then(|| publish(SLOW, sequence / every, 500, true)));
            opened.log.write(&facts, 0).expect("written");
            while opened.log.tidy().expect("tidied") {}
            let segments = disk.names().into_iter().filter(|name| name.ends_with(".log")).count();
            most = most.max(segments);
        }
        // At most 80 slow messages and the lag are live: 14 segments, a quarter full at least, and what dies meanwhile.
        assert!(most <= 40, "lag {lag}, every {every}: {most} files");
    }
}
