//! A data directory of this format, kept in the repository: whatever changes, it must stay readable.

use std::{fs, path::Path, sync::Arc};

use super::{
    super::{disk::FileDisk, open, sim_disk::SimDisk},
    OPTIONS, message, open_disk,
};
use crate::{
    amqp::{Table, Value},
    broker::{
        definition::{Binding, Definition},
        journal::{Fact, Target},
        permission::{Permission, TopicPermission},
        queue::QueueId,
        user::{HashingAlgorithm, PasswordHash, User},
    },
};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/format-1");

fn definitions() -> Vec<Definition> {
    let (user, virtual_host): (Arc<str>, Arc<str>) = ("ann".into(), "shop".into());
    let queue = |id, name: &str, arguments: Table| Definition::QueueDeclared {
        virtual_host: "shop".into(),
        id: QueueId(id),
        name: name.into(),
        auto_delete: false,
        arguments,
    };
    vec![
        Definition::VirtualHostPut { name: "shop".into(), connections_max: Some(9), queues_max: None },
        Definition::UserPut(Arc::new(User {
            name: "ann".into(),
            password: PasswordHash::new(HashingAlgorithm::Sha256, [1; 4], b"secret"),
            tags: vec!["administrator".into()],
            loopback_only: false,
            connections_max: None,
            channels_max: Some(3),
        })),
        Definition::PermissionPut {
            user: user.clone(),
            virtual_host: virtual_host.clone(),
            permission: Permission::new("^a", ".*", "").expect("patterns"),
        },
        Definition::TopicPermissionPut {
            user,
            virtual_host: virtual_host.clone(),
            exchange: "amq.topic".into(),
            permission: TopicPermission::new("ann", "shop", "^x", "").expect("patterns"),
        },
        Definition::ExchangeDeclared {
            virtual_host: virtual_host.clone(),
            name: "events".into(),
            kind: "topic",
            auto_delete: false,
            internal: true,
            arguments: Table::default(),
        },
        queue(3, "orders", Table::default()),
        queue(4, "urgent", [("x-max-priority".to_owned(), Value::I32(2))].into_iter().collect()),
        Definition::Bound(Binding {
            virtual_host,
            source: "events".into(),
            to_exchange: false,
            destination: "orders".into(),
            binding_key: "order.#".into(),
            arguments: Table::default(),
        }),
    ]
}

/// What the fixture was made of: every kind of fact, segments before and behind the checkpoint.
fn fill() -> SimDisk {
    let disk = SimDisk::new(1);
    let mut opened = open_disk(&disk).expect("a new directory");
    let mut facts: Vec<Fact> = definitions().into_iter().map(Fact::Define).collect();
    facts.push(Fact::Define(Definition::QueueDeleted { id: QueueId(50) }));
    opened.log.write(&facts, 1_700_000_000_000).expect("written");
    for sequence in 1..=100 {
        let target = |queue| Target { queue: QueueId(queue), sequence, survives: true };
        let len = if sequence == 40 { 5000 } else { 700 };
        let message = message(sequence, len, true, (sequence % 4) as u8);
        let queues = vec![target(3), target(4)];
        opened.log.write(&[Fact::Publish { message, queues }], 1_700_000_000_001).expect("written");
    }
    let facts = [
        Fact::Settle { queue: QueueId(3), sequences: (1..=30).chain([90]).collect(), body_bytes: 31 * 700 },
        Fact::Return { queue: QueueId(3), sequences: vec![31, 32] },
        Fact::Return { queue: QueueId(3), sequences: vec![31] },
        Fact::Delivered { queue: QueueId(3), up_to: 60 },
        Fact::Purge { queue: QueueId(4), before: 95, unsettled: vec![2, 3], unsettled_body_bytes: 1400 },
    ];
    opened.log.write(&facts, 1_700_000_000_002).expect("written");
    opened.log.sync().expect("synced");
    opened.log.idle().expect("noted");
    disk
}

#[test]
fn a_directory_of_format_1_is_read() {
    if std::env::var_os("WRITE_FIXTURE").is_some() {
        write(&fill());
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    for entry in fs::read_dir(FIXTURE).expect("the fixture") {
        let entry = entry.expect("readable");
        fs::copy(entry.path(), directory.path().join(entry.file_name())).expect("copied");
    }
    let opened = open(Arc::new(FileDisk::new(directory.path())), OPTIONS).expect("sound");
    let found = format!("{:?}", opened.recovered.definitions);
    assert_eq!(found, format!("{:?}", definitions()));
    assert_eq!(opened.recovered.next_id, 51);
    let queue = |id| opened.recovered.queues.iter().find(|queue| queue.id == QueueId(id)).expect("there");
    assert_eq!((queue(3).next_sequence, queue(3).delivered_up_to), (101, 60));
    assert_eq!(queue(3).body_bytes, 68 * 700 + 5000);
    assert_eq!(queue(4).body_bytes, 1400);
    let by_priority: Vec<_> = queue(4).backlog.iter().map(|range| (range.priority, range.count)).collect();
    assert_eq!(by_priority, [(Some(0), 2), (Some(1), 1), (Some(2), 5)]);
    let orders: Vec<_> = (31..=100).filter(|sequence| *sequence != 90).collect();
    let count = |sequence| if sequence == 31 { 2 } else { u32::from(sequence == 32) };
    let expected: Vec<_> = orders.iter().map(|sequence| (*sequence, *sequence, count(*sequence))).collect();
    assert_eq!(super::load_all(&opened, QueueId(3), 0, u64::MAX), expected);
    drop(opened);
    let again = open(Arc::new(FileDisk::new(directory.path())), OPTIONS).expect("sound");
    assert_eq!(super::load_all(&again, QueueId(3), 0, u64::MAX), expected);
}

/// Writes the fixture anew. Only for a new format: the old one must stay as it is.
fn write(disk: &SimDisk) {
    let path = Path::new(FIXTURE);
    fs::create_dir_all(path).expect("made");
    for name in disk.names().into_iter().filter(|name| !name.starts_with("spare")) {
        fs::write(path.join(&name), disk.content(&name)).expect("written");
    }
}
