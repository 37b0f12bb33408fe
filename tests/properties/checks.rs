//! What must hold for any octets. Property tests and fuzz targets call these.

#![allow(missing_docs, unreachable_pub, reason = "a part of a test")]

use std::sync::Arc;

use leveret::{
    amqp::{
        Frames, Table,
        frame::{self, FRAME_OVERHEAD},
        table::{find_raw, raw_fields, validate_table},
    },
    broker::{
        Broker, Identity, Now,
        limit::Limits,
        permission::{Permission, Permissions},
        user::{HashingAlgorithm, PasswordHash, User, Users},
    },
    session::{Peer, Session},
};

use crate::wire;

/// Frames are found wherever the octets are cut, and account for every octet.
pub fn check_frames(octets: &[u8]) {
    let whole = frame::split(octets, 4096);
    assert!(whole.len <= octets.len());
    let sizes = Frames::new(&octets[..whole.len]).map(|frame| frame.payload.len() + FRAME_OVERHEAD);
    assert_eq!(sizes.sum::<usize>(), whole.len);
    let cut = octets.len() / 2;
    let first = frame::split(&octets[..cut], 4096).len;
    assert_eq!(first + frame::split(&octets[first..], 4096).len, whole.len);
}

/// A table that is valid is read, written and read again as the same.
pub fn check_table(octets: &[u8]) {
    let Ok(table) = Table::decode(octets) else {
        assert!(validate_table(octets).is_err(), "valid, and not to be read");
        return;
    };
    assert!(validate_table(octets).is_ok(), "read, and not valid");
    assert_eq!(raw_fields(octets).count(), table.0.len());
    // A name that is not UTF-8 is read with replacement characters.
    for (name, _) in table.0.iter().filter(|(name, _)| !name.contains('\u{FFFD}')) {
        assert!(find_raw(octets, name).is_some());
    }
    let mut written = Vec::new();
    table.encode(&mut written);
    let mut again = Vec::new();
    Table::decode(&written[4..]).expect("what was written").encode(&mut again);
    assert_eq!(again, written);
}

/// What a client sends before it has logged in.
pub fn check_stranger(octets: &[u8]) {
    let (broker, mut session) = connect();
    feed(&broker, &mut session, octets);
}

/// What a client sends after a proper handshake, on a broker with a queue and an open channel.
pub fn check_client(octets: &[u8]) {
    let (broker, mut session) = connect();
    let handshake = [wire::start_ok("guest", "guest", &[]), wire::tune_ok(20, 4096, 0), wire::open("/")];
    session.input().extend_from_slice(wire::HEADER);
    handshake.iter().for_each(|method| session.input().extend_from_slice(&method.on(0)));
    session.input().extend_from_slice(&wire::channel_open().on(1));
    session.input().extend_from_slice(&wire::declare_queue("q", wire::DURABLE).on(1));
    feed(&broker, &mut session, octets);
}

/// Feeds octets as a shell does, whose client does not read, and then lets it go.
fn feed(broker: &Broker, session: &mut Session, octets: &[u8]) {
    for (turn, piece) in octets.chunks(1000).enumerate() {
        if !session.wants_input() {
            break;
        }
        session.input().extend_from_slice(piece);
        let now = Now::made_up(turn as u64);
        session.handle_input(now);
        sync(broker);
        session.handle_wake(now);
        assert!(session.input().len() <= 2 * 8192, "{} octets are kept", session.input().len());
        assert!(
            session.output().len() <= (1 << 20) + (64 << 10),
            "{} octets to write",
            session.output().len()
        );
    }
    // Whatever it was, the end is orderly.
    for ms in [20_000, 40_000] {
        session.handle_deadline(Now::made_up(ms));
    }
    session.handle_disconnect(Now::made_up(40_000));
    sync(broker);
    let host = broker.virtual_host("/").expect("the virtual host");
    for queue in host.queues() {
        let locked = queue.lock();
        assert_eq!((locked.unacked_count(), locked.consumer_count()), (0, 0), "{queue:?} is still held");
        assert!(queue.properties.exclusive.is_none(), "{queue:?} outlives its connection");
    }
}

fn sync(broker: &Broker) {
    if let Some(batch) = broker.journal.try_take_batch() {
        broker.journal.mark_written(&batch);
        broker.journal.mark_durable(batch.last);
    }
}

/// A broker with small limits, and a connection to it.
fn connect() -> (Arc<Broker>, Session) {
    let (users, permissions) = (Users::new([9; 4]), Permissions::new());
    users.put(User {
        name: "guest".into(),
        password: PasswordHash::new(HashingAlgorithm::Sha256, [1; 4], b"guest"),
        tags: Vec::new(),
        loopback_only: true,
        connections_max: None,
        channels_max: None,
    });
    permissions.grant("guest", "/", Permission::new(".*", ".*", ".*").expect("patterns"));
    let limits = Limits {
        frame_max: 4096,
        channel_max: 20,
        heartbeat_secs: 0,
        handshake_timeout_ms: 10_000,
        message_bytes_max: 1 << 16,
        connections_max: None,
        channels_max: None,
        consumers_per_channel_max: None,
        queues_max: None,
        unsent_bytes_per_connection: 8192,
    };
    let identity = Identity {
        product: "RabbitMQ".into(),
        version: "3.13.7".into(),
        cluster_name: "leveret@fuzz".into(),
    };
    let broker = Arc::new(Broker::new(users, permissions, limits, identity));
    broker.add_virtual_host("/", None, None);
    let peer = Peer::new(([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into());
    let session = Session::new(Arc::clone(&broker), peer, Now::default());
    (broker, session)
}
