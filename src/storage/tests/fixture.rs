//! A data directory of each format, kept in the repository: whatever changes, they must stay readable.

use std::{fs, path::Path, sync::Arc};

use super::{
    super::{
        FORMAT_VERSION,
        disk::{Disk as _, FileDisk},
        open,
        sim_disk::{Crash, SimDisk},
    },
    OPTIONS, Opened, load_all, message,
    model::{Survivors, check_deadlines, seen, survivors},
    open_disk,
};
use crate::{
    amqp::{Table, Value},
    broker::{
        NEVER,
        definition::{Binding, Definition},
        journal::{Fact, Target, cache_of_exchange},
        parameter::{Hidden, Parameter},
        permission::{Permission, TopicPermission},
        queue::{QueueId, QueueKind},
        restore::{RecoveredHold, RecoveredQueue},
        user::{HashingAlgorithm, PasswordHash, User},
        vhost::Metadata,
    },
};

const FORMAT_1: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/format-1");
const FORMAT_2: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/format-2");
const FORMAT_3: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/format-3");

const ORDERS: QueueId = QueueId(3);
const URGENT: QueueId = QueueId(4);
/// From format 2 on.
const JOBS: QueueId = QueueId(5);

/// What the fixture of a format defines: the second one has the queue of jobs too, the third one what is said about a
/// virtual host, users with other hashes, and a file that was loaded.
fn definitions(format: u32) -> Vec<Definition> {
    let (user, virtual_host): (Arc<str>, Arc<str>) = ("ann".into(), "shop".into());
    let queue = |id, name: &str, arguments: Table| Definition::QueueDeclared {
        virtual_host: "shop".into(),
        id,
        name: name.into(),
        auto_delete: false,
        arguments,
    };
    let mut definitions = vec![
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
        queue(ORDERS, "orders", Table::default()),
        queue(URGENT, "urgent", [("x-max-priority".to_owned(), Value::I32(2))].into_iter().collect()),
        Definition::Bound(Binding {
            virtual_host,
            source: "events".into(),
            to_exchange: false,
            destination: "orders".into(),
            binding_key: "order.#".into(),
            arguments: Table::default(),
        }),
    ];
    if format >= 2 {
        let quorum = [("x-queue-type".to_owned(), Value::LongStr("quorum".into()))];
        let at = definitions.len() - 1;
        definitions.insert(at, queue(JOBS, "jobs", quorum.into_iter().collect()));
    }
    if format >= 3 {
        definitions.insert(1, described());
        definitions.insert(3, other_user("bob", PasswordHash::none(HashingAlgorithm::Sha512)));
        definitions.insert(4, other_user("cid", PasswordHash::new(HashingAlgorithm::Md5, [2; 4], b"secret")));
        let value = Hidden(Arc::new(serde_json::json!("here")));
        definitions.push(Definition::GlobalParameterPut { name: "place".into(), value });
        definitions.push(Definition::ParameterPut(Arc::new(Parameter {
            virtual_host: "shop".into(),
            component: "shovel".into(),
            name: "move".into(),
            value: serde_json::json!({"src-queue": "orders"}),
            set_by: Some("ann".into()),
        })));
        definitions.push(Definition::FileLoaded { digest: [7; 32] });
    }
    definitions
}

fn described() -> Definition {
    let metadata = Metadata {
        description: "where things are sold".to_owned(),
        tags: vec!["eu".to_owned()],
        default_queue_type: Some(QueueKind::Quorum),
        is_protected: true,
    };
    Definition::VirtualHostDescribed { name: "shop".into(), metadata: Arc::new(metadata) }
}

fn other_user(name: &str, password: PasswordHash) -> Definition {
    Definition::UserPut(Arc::new(User {
        name: name.into(),
        password,
        tags: Vec::new(),
        loopback_only: false,
        connections_max: None,
        channels_max: None,
    }))
}

/// What the fixture of this format was made of: every kind of fact, segments before and behind the checkpoint.
fn fill() -> SimDisk {
    let disk = SimDisk::new(1);
    let mut opened = open_disk(&disk).expect("a new directory");
    let mut facts: Vec<Fact> = definitions(3).into_iter().map(Fact::Define).collect();
    facts.push(Fact::Define(Definition::QueueDeleted { id: QueueId(50) }));
    opened.log.write(&facts, 1_700_000_000_000).expect("written");
    for sequence in 1..=100 {
        let target = |queue, deadline_ms| Target { queue, sequence, survives: true, deadline_ms };
        let len = if sequence == 40 { 5000 } else { 700 };
        let priority = [None, Some(0), Some(2), Some(40)][sequence as usize % 4];
        let message = message(sequence, len, true, priority);
        let queues = vec![target(ORDERS, NEVER), target(URGENT, NEVER), target(JOBS, deadline_of(sequence))];
        opened.log.write(&[Fact::Publish { message, queues }], 1_700_000_000_001).expect("written");
        if sequence == 50 {
            opened.log.write(&aside(ORDERS, 50, 1), 1_700_000_000_002).expect("written");
        }
    }
    opened.log.write(&aside(JOBS, 97, 0), 1_700_000_000_003).expect("written");
    let facts = [
        Fact::Settle { queue: ORDERS, sequences: (1..=30).chain([90]).collect(), body_bytes: 31 * 700 },
        Fact::Settle { queue: JOBS, sequences: (1..=90).collect(), body_bytes: 89 * 700 + 5000 },
        Fact::Return { queue: ORDERS, sequences: vec![31, 32] },
        Fact::Return { queue: ORDERS, sequences: vec![31] },
        Fact::Delivered { queue: ORDERS, up_to: 60 },
        Fact::Purge { queue: URGENT, before: 95, unsettled: vec![2, 3], unsettled_body_bytes: 1400 },
    ];
    opened.log.write(&facts, 1_700_000_000_004).expect("written");
    opened.log.sync().expect("synced");
    opened.log.idle().expect("noted");
    disk
}

/// The deadline of a message in the queue of jobs: every third has none, the others come in no order.
fn deadline_of(sequence: u64) -> u64 {
    if sequence.is_multiple_of(3) { NEVER } else { 1_700_000_100_000 - sequence % 7 }
}

/// A message is held, and keys are seen by the queue and by the exchange.
fn aside(queue: QueueId, sequence: u64, death: u8) -> [Fact; 3] {
    let until_ms = 1_700_000_200_000 + sequence;
    let seen = |cache| Fact::Seen { cache, key: u128::from(sequence) << 100 | 1, until_ms, keep: 10 };
    let hold = Fact::Hold { queue, sequences: vec![sequence], until_ms, death };
    [hold, seen(queue), seen(cache_of_exchange("shop", "events"))]
}

/// A copy of a fixture in a temporary directory.
fn copied(fixture: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for entry in fs::read_dir(fixture).expect("the fixture") {
        let entry = entry.expect("readable");
        fs::copy(entry.path(), directory.path().join(entry.file_name())).expect("copied");
    }
    directory
}

fn open_copy(directory: &tempfile::TempDir) -> Opened {
    open(Arc::new(FileDisk::new(directory.path())), OPTIONS).expect("sound")
}

fn recovered(opened: &Opened, id: QueueId) -> &RecoveredQueue {
    opened.recovered.queues.iter().find(|queue| queue.id == id).expect("there")
}

fn by_priority(queue: &RecoveredQueue) -> Vec<(Option<u8>, u64)> {
    let mut by_priority: Vec<_> = queue.backlog.iter().map(|range| (range.priority, range.count)).collect();
    by_priority.sort_unstable();
    by_priority
}

/// What the queues of both fixtures hold.
fn check_orders_and_urgent(opened: &Opened) {
    assert_eq!(opened.recovered.next_id, 51);
    let (orders, urgent) = (recovered(opened, ORDERS), recovered(opened, URGENT));
    assert_eq!((orders.next_sequence, orders.delivered_up_to), (101, 60));
    assert_eq!(orders.body_bytes, 68 * 700 + 5000);
    assert_eq!(urgent.body_bytes, 1400);
    let left: Vec<_> = (31..=100).filter(|sequence| *sequence != 90).collect();
    let count = |sequence| if sequence == 31 { 2 } else { u32::from(sequence == 32) };
    let expected: Vec<_> = left.iter().map(|sequence| (*sequence, *sequence, count(*sequence))).collect();
    assert_eq!(load_all(opened, ORDERS, 0, u64::MAX), expected);
}

/// And it goes on, with what only the new format has.
#[test]
fn a_directory_of_format_1_is_read() {
    let directory = copied(FORMAT_1);
    let mut opened = open_copy(&directory);
    let found = format!("{:?}", opened.recovered.definitions);
    assert_eq!(found, format!("{:?}", definitions(1)));
    check_orders_and_urgent(&opened);
    assert_eq!(by_priority(recovered(&opened, URGENT)), [(Some(0), 2), (Some(1), 1), (Some(2), 5)]);
    let is_plain = |queue: &RecoveredQueue| queue.deadlines.is_empty() && queue.held.is_empty();
    assert!(opened.recovered.queues.iter().all(is_plain) && opened.recovered.seen.is_empty());
    let target = Target { queue: ORDERS, sequence: 101, survives: true, deadline_ms: 7 };
    let publish = Fact::Publish { message: message(101, 700, true, Some(0)), queues: vec![target] };
    opened.log.write(&[publish], 0).expect("written");
    opened.log.write(&aside(ORDERS, 50, 1), 0).expect("written");
    opened.log.close().expect("closed");
    let mut opened = open_copy(&directory);
    let orders = load_all(&opened, ORDERS, 0, u64::MAX);
    assert!(orders.iter().map(|found| found.0).eq((31..=101).filter(|sequence| *sequence != 90)));
    assert_eq!(recovered(&opened, ORDERS).held.len(), 1);
    assert_eq!(opened.recovered.seen.len(), 2);
    let found = survivors(&opened);
    check_deadlines(&mut opened, &found);
    assert_eq!(found[&ORDERS].iter().filter(|(found, _)| found.deadline_ms == 7).count(), 1);
}

#[test]
fn a_directory_of_format_2_is_read() {
    check_directory(FORMAT_2, 2);
}

#[test]
fn a_directory_of_format_3_is_read() {
    if std::env::var_os("WRITE_FIXTURE").is_some() {
        write(&fill());
    }
    check_directory(FORMAT_3, 3);
}

/// The directory holds what [`fill`] has put in, and opening it changes nothing.
fn check_directory(fixture: &str, format: u32) {
    let directory = copied(fixture);
    for _ in 0..2 {
        let mut opened = open_copy(&directory);
        let found = format!("{:?}", opened.recovered.definitions);
        assert_eq!(found, format!("{:?}", definitions(format)));
        check_orders_and_urgent(&opened);
        assert_eq!(by_priority(recovered(&opened, URGENT)), [(Some(0), 3), (Some(2), 5)]);
        assert_eq!(
            by_priority(recovered(&opened, JOBS)),
            [(Some(0), 1), (Some(2), 2), (Some(4), 3), (Some(31), 3)]
        );
        let held =
            |sequence, death| RecoveredHold { sequence, until_ms: 1_700_000_200_000 + sequence, death };
        assert_eq!(recovered(&opened, ORDERS).held, [held(50, 1)]);
        assert_eq!(recovered(&opened, JOBS).held, [held(97, 0)]);
        let key = |sequence: u64| (u128::from(sequence) << 100 | 1, 1_700_000_200_000 + sequence);
        let events = cache_of_exchange("shop", "events");
        let expected = [(ORDERS, vec![key(50)]), (JOBS, vec![key(97)]), (events, vec![key(50), key(97)])];
        assert_eq!(seen(&opened), expected.into_iter().collect());
        let found = survivors(&opened);
        assert!(found[&JOBS].iter().all(|(found, _)| found.deadline_ms == deadline_of(found.sequence)));
        check_deadlines(&mut opened, &found);
    }
}

/// Writes the fixture of this format anew. Only for a new format: an old one must stay as it is.
fn write(disk: &SimDisk) {
    let path = Path::new(FORMAT_3);
    fs::create_dir_all(path).expect("made");
    for name in disk.names().into_iter().filter(|name| !name.starts_with("spare")) {
        fs::write(path.join(&name), disk.content(&name)).expect("written");
    }
}

/// The fixture on a disk that can crash.
fn on_disk(directory: &str) -> SimDisk {
    let disk = SimDisk::new(1);
    for entry in fs::read_dir(directory).expect("the fixture") {
        let entry = entry.expect("readable");
        let name = entry.file_name().into_string().expect("a name");
        let file = disk.create(&name).expect("created");
        file.write_all_at(&fs::read(entry.path()).expect("readable"), 0).expect("written");
        file.sync().expect("synced");
    }
    disk.sync_directory().expect("synced");
    disk.crash(Crash::Kept)
}

/// The version that each file says it has.
fn versions(disk: &SimDisk) -> Vec<(String, u32)> {
    let version = |octets: &[u8]| {
        let says = octets.starts_with(b"LEVERET") && octets.len() > 12;
        says.then(|| u32::from_le_bytes(octets[8..12].try_into().expect("four octets")))
    };
    let names = disk.names().into_iter();
    names.filter_map(|name| version(&disk.content(&name)).map(|version| (name, version))).collect()
}

/// An earlier program refuses what it does not know, and never takes it for damage.
#[test]
fn a_directory_of_format_1_becomes_one_of_this_format_whenever_it_crashes() {
    let content = |disk: &SimDisk| -> Survivors { survivors(&open_disk(disk).expect("sound")) };
    let expected = content(&on_disk(FORMAT_1));
    let whole = on_disk(FORMAT_1);
    drop(open_disk(&whole));
    let operations = whole.operations();
    let says = format!("format_version = {FORMAT_VERSION}\n");
    assert!(
        versions(&whole).iter().any(|(_, version)| *version == FORMAT_VERSION),
        "something new was written"
    );
    for operation in 0..operations {
        for mode in Crash::ALL {
            let disk = on_disk(FORMAT_1);
            disk.crash_at(operation);
            drop(open_disk(&disk));
            let disk = disk.crash(mode);
            let is_old = disk.content("NODE").ends_with(b"format_version = 1\n");
            let new = versions(&disk).into_iter().find(|(_, version)| *version > 1);
            assert!(new.is_none() || !is_old, "{mode:?} at operation {operation}: {new:?} in format 1");
            assert_eq!(content(&disk), expected, "{mode:?} at operation {operation}");
            assert!(disk.content("NODE").ends_with(says.as_bytes()));
        }
    }
}
