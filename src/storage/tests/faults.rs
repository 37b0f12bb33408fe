//! Disks that refuse, that are full, and that rot.

use std::io;

use super::{
    super::{
        Options, StorageError, check,
        disk::Disk as _,
        open,
        sim_disk::{Crash, SimDisk},
    },
    OPTIONS,
    crash::{History, follow, reconcile},
    id_of, load_all, message,
    model::{Survivors, survivors},
    open_disk,
    script::Script,
};
use crate::{
    amqp::{Table, Value},
    broker::{
        NEVER,
        definition::Definition,
        journal::{Fact, Target},
        pager::Load,
        queue::QueueId,
        restore::Backlog,
    },
};
use std::sync::Arc;

const QUEUE: QueueId = QueueId(1);

fn declared() -> Fact {
    Fact::Define(Definition::QueueDeclared {
        virtual_host: "/".into(),
        id: QUEUE,
        name: "orders".into(),
        auto_delete: false,
        arguments: Table::default(),
    })
}

fn publish(sequence: u64, body_len: usize) -> Fact {
    publish_until(sequence, body_len, NEVER)
}

fn publish_until(sequence: u64, body_len: usize, deadline_ms: u64) -> Fact {
    let message = message(sequence, body_len, true, None);
    Fact::Publish { message, queues: vec![Target { queue: QUEUE, sequence, survives: true, deadline_ms }] }
}

fn settle(sequences: impl IntoIterator<Item = u64>) -> Fact {
    Fact::Settle { queue: QUEUE, sequences: sequences.into_iter().collect(), body_bytes: 0 }
}

#[test]
fn an_error_of_any_operation_stops_the_log_and_loses_nothing_durable() {
    const STEPS: u64 = 60;
    let (mut failed, seed) = (0, 7);
    let disk = SimDisk::new(seed);
    assert!(follow(&disk, &mut Script::new(seed), STEPS, &mut History::default()));
    for operation in 0..disk.operations() {
        for (error, crash) in [
            (io::ErrorKind::Other, Crash::Lost),
            (io::ErrorKind::Other, Crash::Killed),
            (io::ErrorKind::StorageFull, Crash::Random),
        ] {
            let disk = SimDisk::new(seed);
            if operation % 2 == 0 {
                disk.fail_at(operation, error);
            } else {
                disk.fail_short_at(operation, error, 700);
            }
            let mut history = History::default();
            failed += u64::from(!follow(&disk, &mut Script::new(seed), STEPS, &mut history));
            let disk = disk.crash(crash);
            let mut opened = open_disk(&disk)
                .unwrap_or_else(|found| panic!("{error} at operation {operation}, {crash:?}: {found}"));
            reconcile(&mut opened, &history);
        }
    }
    assert!(failed > disk.operations(), "{failed} runs failed");
}

#[test]
fn after_a_failed_sync_nothing_is_tried_again() {
    let disk = SimDisk::new(1);
    let mut opened = open_disk(&disk).expect("a new directory");
    opened.log.write(&[declared(), publish(1, 100)], 0).expect("written");
    disk.fail_at(disk.operations(), io::ErrorKind::Other);
    let error = opened.log.sync().expect_err("the disk fails").to_string();
    assert!(error.starts_with("cannot sync sim/seg-0000000001.log: "), "{error}");
    let operations = disk.operations();
    assert!(opened.log.sync().is_err() && opened.log.write(&[publish(2, 100)], 0).is_err());
    assert!(opened.log.idle().is_err() && opened.log.close().is_err());
    assert_eq!(disk.operations(), operations, "the disk is left alone");
}

/// The system shows what it failed to write; the disk does not have it.
#[test]
fn what_a_start_finds_is_durable_even_if_the_sync_before_it_failed() {
    let disk = SimDisk::new(1);
    let mut opened = open_disk(&disk).expect("a new directory");
    opened.log.write(&[declared(), publish(1, 100)], 0).expect("written");
    disk.fail_at(disk.operations(), io::ErrorKind::Other);
    assert!(opened.log.sync().is_err());
    drop(opened);
    let disk = disk.crash(Crash::Killed);
    let found = survivors(&open_disk(&disk).expect("it starts"));
    assert!(found.contains_key(&QUEUE), "the page cache still has it");
    let disk = disk.crash(Crash::Lost);
    assert_eq!(survivors(&open_disk(&disk).expect("it starts again")), found, "it had been handed out");
}

/// Its number is the next one, but it was written behind another one than the last.
#[test]
fn a_batch_of_another_history_does_not_follow() {
    let disk = SimDisk::new(1);
    let mut opened = open_disk(&disk).expect("a new directory");
    opened.log.write(&[declared(), publish(1, 100)], 0).expect("written");
    opened.log.sync().expect("synced");
    let histories = [10, 20].map(|first| {
        let disk = disk.crash(Crash::Kept);
        let mut opened = open_disk(&disk).expect("it starts");
        for sequence in [first, first + 1] {
            opened.log.write(&[publish(sequence, 10_000)], 0).expect("written");
        }
        opened.log.sync().expect("synced");
        disk
    });
    let [one, other] = &histories;
    let last = "seg-0000000003.log";
    let file = one.open(last).expect("each batch has a segment");
    file.write_all_at(&other.content(last), 0).expect("put there");
    let opened = open_disk(one).expect("a crash may have taken the last batch");
    let found: Vec<_> = load_all(&opened, QUEUE, 0, u64::MAX).iter().map(|found| found.0).collect();
    assert_eq!(found, [1, 10]);
}

/// Positions are not synced: a crash may leave zeros of them, which look like one of the first message.
#[test]
fn positions_that_were_torn_are_made_again() {
    let disk = SimDisk::new(1);
    let mut opened = open_disk(&disk).expect("a new directory");
    let arguments: Table = [("x-max-priority".to_owned(), Value::I32(2))].into_iter().collect();
    let (virtual_host, name) = ("/".into(), "orders".into());
    let queue = Definition::QueueDeclared { virtual_host, id: QUEUE, name, auto_delete: false, arguments };
    let queues = vec![Target { queue: QUEUE, sequence: 1, survives: true, deadline_ms: NEVER }];
    let publish = Fact::Publish { message: message(1, 100, true, Some(2)), queues };
    opened.log.write(&[Fact::Define(queue), publish], 0).expect("written");
    opened.log.close().expect("closed");
    let disk = disk.crash(Crash::Kept);
    let name = "seg-0000000001.idx";
    let tear = || {
        let len = disk.content(name).len() as u64;
        disk.zero(name, len - 16..len);
    };
    tear();
    let opened = open_disk(&disk).expect("it starts");
    let backlog = &opened.recovered.queues[0].backlog;
    assert_eq!(backlog, &[Backlog { first: 1, last: 1, count: 1, priority: Some(2) }]);
    tear();
    assert_eq!(load_all(&opened, QUEUE, 0, u64::MAX), [(1, 1, 0)]);
}

/// What was purged from a queue that does not survive would be missing from another with its identity.
#[test]
fn the_identity_of_a_queue_that_paged_out_is_not_used_again() {
    let disk = SimDisk::new(1);
    let mut opened = open_disk(&disk).expect("a new directory");
    let queue = QueueId(42);
    let message = message(1, 100, false, None);
    let facts = [
        Fact::Publish {
            message,
            queues: vec![Target { queue, sequence: 1, survives: false, deadline_ms: NEVER }],
        },
        Fact::Purge { queue, before: 9, unsettled: Vec::new(), unsettled_body_bytes: 0 },
    ];
    opened.log.write(&[declared()], 0).expect("written");
    opened.log.write(&facts, 0).expect("written");
    let opened = open_disk(&disk.crash(Crash::Kept)).expect("it starts");
    assert_eq!(opened.recovered.next_id, 43);
}

/// The next process sees names that no sync has made durable yet, a checkpoint's among them.
#[test]
fn a_power_loss_after_a_kill_takes_no_segment_that_is_needed() {
    let fill = |disk: &SimDisk| {
        let mut opened = open_disk(disk).expect("a new directory");
        opened.log.write(&[declared()], 0).expect("written");
        for sequence in 1..=30 {
            opened.log.write(&[publish(sequence, 1000)], 0).expect("written");
        }
        opened.log.write(&[settle(1..=25)], 0).expect("written");
        opened.log.sync().expect("synced");
        opened.log
    };
    let disk = SimDisk::new(1);
    let log = fill(&disk);
    let first = disk.operations();
    log.close().expect("closed");
    for killed_at in first..disk.operations() {
        let disk = SimDisk::new(killed_at);
        let log = fill(&disk);
        disk.crash_at(killed_at);
        assert!(log.close().is_err());
        for lost_at in 0..20 {
            let disk = disk.crash(Crash::Killed);
            disk.crash_at(lost_at);
            drop(open_disk(&disk));
            for mode in [Crash::Random, Crash::Random, Crash::Torn, Crash::Lost] {
                let opened = open_disk(&disk.crash(mode));
                let opened =
                    opened.unwrap_or_else(|error| panic!("{killed_at}, {lost_at}, {mode:?}: {error}"));
                let found = load_all(&opened, QUEUE, 0, u64::MAX);
                assert!(found.iter().map(|found| found.0).eq(26..=30), "{killed_at}, {lost_at}, {mode:?}");
            }
        }
    }
}

#[test]
fn a_full_disk_is_drained_by_consuming() {
    let disk = SimDisk::new(1);
    let mut opened = open_disk(&disk).expect("a new directory");
    opened.log.write(&[declared()], 0).expect("written");
    for sequence in 1..=200 {
        opened.log.write(&[publish(sequence, 1000)], 0).expect("there is room");
        opened.log.sync().expect("synced");
    }
    let used = |disk: &SimDisk| (1_u64 << 40) - super::super::disk::Disk::free_bytes(disk).expect("told");
    disk.set_capacity(used(&disk));
    let before = disk.names().len();
    for sequence in 1..=200 {
        assert_eq!(load_all(&opened, QUEUE, sequence, sequence).len(), 1);
        opened.log.write(&[settle([sequence])], 0).expect("settlements go on");
        opened.log.sync().expect("synced");
    }
    opened.log.close().expect("a checkpoint finds room");
    assert!(disk.names().len() < before, "{:?}", disk.names());
    let opened = open_disk(&disk).expect("it starts on a full disk");
    assert_eq!(survivors(&opened), Survivors::new());
}

/// Every second message of a directory leaves by itself, the last ones first.
fn deadline_of(sequence: u64) -> u64 {
    if sequence.is_multiple_of(2) { 1000 - sequence } else { NEVER }
}

/// A directory with sealed segments, one being written, definitions, and a checkpoint if it was closed.
fn filled(closed: bool) -> (SimDisk, Survivors) {
    let disk = SimDisk::new(3);
    let mut opened = open_disk(&disk).expect("a new directory");
    opened.log.write(&[declared()], 0).expect("written");
    for sequence in 1..=120 {
        opened.log.write(&[publish_until(sequence, 700, deadline_of(sequence))], 0).expect("written");
        opened.log.sync().expect("synced");
    }
    opened.log.write(&[settle((1..=120).step_by(3))], 0).expect("written");
    opened.log.sync().expect("synced");
    opened.log.idle().expect("noted");
    if closed {
        opened.log.close().expect("closed");
    }
    let disk = disk.crash(Crash::Kept);
    let found = survivors(&open_disk(&disk.crash(Crash::Kept)).expect("sound"));
    assert_eq!(found[&QUEUE].len(), 80);
    (disk.crash(Crash::Kept), found)
}

/// The first segment that the checkpoint knows nothing of.
fn behind_checkpoint(disk: &SimDisk) -> String {
    let names = disk.names();
    let checkpoint = names.iter().find_map(|name| name.strip_prefix("checkpoint-")?.strip_suffix(".ck"));
    format!("seg-{}.log", checkpoint.expect("there is one"))
}

/// What can be read of the queue, and how many messages are reported as damaged.
fn readable(opened: &super::Opened) -> (Vec<u64>, u64) {
    let (mut ids, mut damaged) = (Vec::new(), 0);
    for range in
        opened.recovered.queues.iter().filter(|queue| queue.id == QUEUE).flat_map(|queue| &queue.backlog)
    {
        let load = Load {
            queue: QUEUE,
            first: range.first,
            last: range.last,
            priorities: None,
            count_max: 1000,
            bytes_max: 1 << 20,
            only: Vec::new(),
        };
        let loaded = opened.reader.load(&load).expect("the disk works");
        ids.extend(loaded.messages.iter().map(|loaded| id_of(&loaded.message)));
        damaged += loaded.damaged;
    }
    (ids, damaged)
}

/// How many deadlines a start has found; none is made up.
fn deadlines(opened: &mut super::Opened) -> usize {
    let mut count = 0;
    for (_, deadlines) in opened.recovered.queues.iter_mut().flat_map(|queue| &mut queue.deadlines) {
        while let Some((deadline_ms, sequence)) = deadlines.pop_due(NEVER - 1) {
            assert_eq!(deadline_ms, deadline_of(sequence));
            count += 1;
        }
    }
    count
}

#[test]
fn rot_anywhere_is_noticed_and_takes_nothing_else_along() {
    const EVERY: usize = 97;
    for closed in [false, true] {
        let (disk, expected) = filled(closed);
        let expected: Vec<u64> = expected[&QUEUE].iter().map(|(found, _)| found.id).collect();
        let (mut refused, mut reported, mut harmless) = (0, 0, 0);
        for name in disk.names().into_iter().filter(|name| !name.starts_with("spare")) {
            let len = disk.content(&name).len();
            for offset in (0..len).step_by(EVERY) {
                let disk = disk.crash(Crash::Kept);
                disk.flip_bit(&name, offset as u64, (offset % 8) as u8);
                let mut found = open_disk(&disk);
                let (ids, damaged) = match &mut found {
                    Err(StorageError::Damaged { damage }) => {
                        refused += 1;
                        let found = check(Arc::new(disk.clone())).expect("it can be read");
                        assert!(!found.damage.is_empty(), "fsck finds it too: {damage}");
                        salvaged(&disk, &expected, &name, offset);
                        continue;
                    }
                    Err(StorageError::Version { .. }) => {
                        refused += 1;
                        continue;
                    }
                    Err(error) if name == "NODE" => {
                        assert!(error.to_string().contains("NODE"), "{error}");
                        refused += 1;
                        continue;
                    }
                    Err(error) => panic!("{name} at {offset}: {error}"),
                    Ok(opened) => {
                        let count = deadlines(opened);
                        assert!(
                            count == 40 || name.ends_with(".log"),
                            "{name} at {offset}: {count} deadlines"
                        );
                        readable(opened)
                    }
                };
                assert_eq!(ids.len() as u64 + damaged, 80, "{name} at {offset}: {ids:?}");
                assert!(ids.iter().all(|id| expected.contains(id)), "{name} at {offset}: {ids:?}");
                if damaged == 0 { harmless += 1 } else { reported += 1 }
            }
        }
        eprintln!("closed {closed}: {refused} refused, {reported} reported, {harmless} without effect");
        assert!(refused > 0 && (reported > 0 || !closed));
    }
}

/// Salvaging gives what is still sound, and invents nothing.
fn salvaged(disk: &SimDisk, expected: &[u64], name: &str, offset: usize) {
    let opened = open(Arc::new(disk.clone()), Options { salvage: true, ..OPTIONS });
    let opened = opened.unwrap_or_else(|error| panic!("{name} at {offset}: {error}"));
    assert!(!opened.salvaged.is_empty());
    let (ids, _) = readable(&opened);
    // Without a checkpoint what was settled may come back.
    let is_known = |id: &u64| (1..=120).contains(id);
    assert!(ids.iter().all(is_known), "{name} at {offset}: {ids:?}");
    let lost = expected.iter().filter(|id| !ids.contains(id)).count();
    let most = if name.starts_with("definitions") { 80 } else { 20 };
    assert!(lost <= most, "{name} at {offset}: {lost} of 80 lost");
    // What was gone on without once is not reported again.
    drop(opened);
    open_disk(disk).unwrap_or_else(|error| panic!("{name} at {offset}, after salvaging: {error}"));
}

#[test]
fn damage_is_told_with_file_place_and_queue() {
    let (disk, _) = filled(false);
    let name = behind_checkpoint(&disk);
    // In the body of the first message: header of segment, batch and record, and 16 octets of targets, come before.
    disk.flip_bit(&name, 4096 + 64 + 16 + 20 + 100, 1);
    let error = open_disk(&disk).expect_err("damaged").to_string();
    assert!(error.starts_with(&format!("sim/{name} at offset ")), "{error}");
    assert!(error.contains("is damaged: 1 of its 1 records, of queues 'orders' in vhost '/'"), "{error}");
    assert!(error.ends_with("; start with --salvage to go on without it"), "{error}");
    let names = disk.names();
    let contents: Vec<_> = names.iter().map(|name| disk.content(name)).collect();
    assert_eq!(check(Arc::new(disk.clone())).expect("readable").damage.len(), 1);
    assert_eq!(disk.names(), names, "a check changes nothing");
    assert_eq!(names.iter().map(|name| disk.content(name)).collect::<Vec<_>>(), contents);
}

#[test]
fn a_cold_message_that_rots_is_reported_and_the_others_are_delivered() {
    let (disk, _) = filled(true);
    disk.flip_bit("seg-0000000002.log", 4500, 1);
    let opened = open_disk(&disk).expect("nothing says so before it is read");
    let (ids, damaged) = readable(&opened);
    assert_eq!((ids.len(), damaged), (79, 1));
    let report = check(Arc::new(disk)).expect("readable");
    assert_eq!(
        report.damage,
        ["sim/seg-0000000002.log: 1 messages of queues 'orders' in vhost '/' can't be read"]
    );
}

#[test]
fn a_missing_segment_is_damage() {
    let (disk, _) = filled(false);
    let behind = behind_checkpoint(&disk);
    for name in ["seg-0000000002.log", behind.as_str()] {
        let disk = disk.crash(Crash::Kept);
        super::super::disk::Disk::remove(&disk, name).expect("there");
        let error = open_disk(&disk).expect_err("damaged").to_string();
        let is_counted = error.starts_with("sim/seg-0000000002.log is missing or damaged: 1");
        assert!(is_counted || error.contains("but batches up to"), "{error}");
    }
}

#[test]
fn a_directory_of_a_later_version_is_refused_by_name() {
    let disk = SimDisk::new(1);
    drop(open_disk(&disk).expect("a new directory"));
    let disk = disk.crash(Crash::Kept);
    let node = String::from_utf8(disk.content("NODE")).expect("text");
    let at = node.find("= 3").expect("the version") + 2;
    // '3' and '7' differ in one bit.
    disk.flip_bit("NODE", at as u64, 2);
    let error = open_disk(&disk).expect_err("of another version").to_string();
    assert_eq!(
        error,
        "sim/NODE has format version 7, this is leveret for format version 3; use the version of leveret that wrote it"
    );
}
