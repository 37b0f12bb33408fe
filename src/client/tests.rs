//! The client with the broker's own sessions at the other end of a pipe, and with servers that are made up.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;
use crate::{
    amqp::{PropertiesBuilder, Value},
    broker::{
        Broker, Identity, Now,
        limit::Limits,
        permission::{Permission, Permissions},
        user::{HashingAlgorithm, PasswordHash, User, Users},
    },
    session::{Peer, Session},
};

/// A broker whose facts become durable at once, with guest, who may everything in `/`.
fn broker() -> Arc<Broker> {
    let limits = Limits {
        frame_max: 131_072,
        channel_max: 4,
        heartbeat_secs: 60,
        handshake_timeout_ms: 10_000,
        message_bytes_max: 4 << 20,
        connections_max: None,
        channels_max: None,
        consumers_per_channel_max: None,
        queues_max: None,
        unsent_bytes_per_connection: 64 << 10,
    };
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
    let identity =
        Identity { product: "RabbitMQ".into(), version: "3.13.7".into(), cluster_name: "test".into() };
    let broker = Broker::new(users, permissions, limits, identity);
    broker.add_virtual_host("/", None, None);
    Arc::new(broker)
}

/// Serves one connection as the shell does: octets in, octets out, a look every millisecond.
async fn serve(broker: Arc<Broker>, mut stream: DuplexStream) {
    let started = Instant::now();
    let now = || Now::made_up(1_000_000 + started.elapsed().as_millis() as u64);
    let address = |port| ([127, 0, 0, 1], port).into();
    let mut session = Session::new(Arc::clone(&broker), Peer::new(address(50_000), address(5672)), now());
    loop {
        let read = tokio::time::timeout(Duration::from_millis(1), stream.read_buf(session.input())).await;
        match read {
            Ok(Ok(0) | Err(_)) => return,
            Ok(Ok(_)) => session.handle_input(now()),
            Err(_) => {}
        }
        if let Some(batch) = broker.journal.try_take_batch() {
            broker.journal.mark_written(&batch);
            broker.journal.mark_durable(batch.last);
        }
        session.handle_wake(now());
        let out = take_output(&mut session);
        if !out.is_empty() && stream.write_all(&out).await.is_err() || session.is_closed() {
            return;
        }
    }
}

fn take_output(session: &mut Session) -> Vec<u8> {
    let mut octets = Vec::new();
    while !session.output().is_empty() {
        let mut slices = Vec::new();
        session.output().io_slices(&mut slices);
        let start = octets.len();
        slices.iter().for_each(|slice| octets.extend_from_slice(slice));
        let taken = octets.len() - start;
        session.output().advance(taken);
    }
    octets
}

async fn connect(broker: &Arc<Broker>) -> Connection {
    let (near, far) = tokio::io::duplex(16 << 10);
    tokio::spawn(serve(Arc::clone(broker), far));
    Connection::open(near, &options()).await.expect("a connection")
}

fn options() -> Options {
    Options { heartbeat_secs: 0, timeout: Duration::from_secs(5), ..Options::default() }
}

fn queue(name: &str) -> QueueDeclare<'_> {
    QueueDeclare { queue: name, durable: true, ..QueueDeclare::default() }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

#[test]
fn topology_is_declared_bound_and_deleted() {
    block_on(async {
        let connection = connect(&broker()).await;
        let mut channel = connection.open_channel().await.unwrap();
        let arguments = Table(vec![("x-max-length".into(), Value::I32(5))]);
        let declare = QueueDeclare { arguments, ..queue("q") };
        let status = QueueStatus { queue: "q".into(), message_count: 0, consumer_count: 0 };
        assert_eq!(channel.declare_queue(&declare).await, Ok(status.clone()));
        let passive = QueueDeclare { passive: true, ..queue("q") };
        assert_eq!(channel.declare_queue(&passive).await, Ok(status));
        for name in ["from", "to"] {
            let declare = ExchangeDeclare {
                exchange: name,
                kind: "direct",
                durable: true,
                ..ExchangeDeclare::default()
            };
            channel.declare_exchange(&declare).await.unwrap();
        }
        channel.bind_exchange("to", "from", "key", &Table::default()).await.unwrap();
        channel.bind_queue("q", "to", "key", &Table::default()).await.unwrap();
        let publish = channel.publish_confirmed(b"from", b"key", true, &[0, 0], b"body").await;
        assert_eq!(publish, Ok(Published::Routed));
        assert_eq!(channel.purge_queue("q").await, Ok(1));
        channel.unbind_queue("q", "to", "key", &Table::default()).await.unwrap();
        channel.unbind_exchange("to", "from", "key", &Table::default()).await.unwrap();
        channel.delete_exchange("from", false).await.unwrap();
        assert_eq!(channel.delete_queue("q", true, true).await, Ok(0));
        channel.close().await.unwrap();
        connection.close().await.unwrap();
    });
}

#[test]
fn a_refusal_says_what_the_server_says() {
    block_on(async {
        let connection = connect(&broker()).await;
        let mut channel = connection.open_channel().await.unwrap();
        let error = channel.purge_queue("none").await.unwrap_err();
        let text = "NOT_FOUND - no queue 'none' in vhost '/'";
        assert_eq!(error.reply(), Some((404, text)));
        assert_eq!(error.to_string(), text);
        assert!(
            matches!(&error, ClientError::ChannelClosed(closed) if (closed.class_id, closed.method_id) == (50, 30))
        );
        // It goes on saying so, and the connection goes on.
        assert_eq!(channel.ack(1, false).await, Err(error));
        let mut other = connection.open_channel().await.unwrap();
        other.declare_queue(&queue("q")).await.unwrap();
        let too_long = "q".repeat(256);
        let declare = queue(&too_long);
        assert_eq!(other.declare_queue(&declare).await, Err(ClientError::TooLong("queue.declare")));
        // What closes the connection is known on all its channels.
        let mut third = connection.open_channel().await.unwrap();
        let error = third.delete_exchange("amq.direct", false).await.unwrap_err();
        assert_eq!(error.reply().unwrap().0, 403);
    });
}

#[test]
fn what_is_published_is_got_settled_or_returned_octet_by_octet() {
    block_on(async {
        let broker = broker();
        let connection = connect(&broker).await;
        let mut channel = connection.open_channel().await.unwrap();
        channel.declare_queue(&queue("q")).await.unwrap();
        let headers = Some(Table(vec![("n".into(), Value::U16(7))]));
        let properties =
            PropertiesBuilder { headers, delivery_mode: Some(2), ..PropertiesBuilder::default() };
        let properties = properties.encode();
        // More than a frame, and more than the pipe takes at once.
        let body: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        let published = channel.publish_confirmed(b"", b"q", true, &properties, &body).await;
        assert_eq!(published, Ok(Published::Routed));
        let published = channel.publish_confirmed(b"", b"none", true, &properties, b"lost").await.unwrap();
        let Published::Returned(returned) = published else { panic!("{published:?}") };
        assert_eq!(
            (returned.code, returned.text.as_str(), &returned.body[..]),
            (312, "NO_ROUTE", &b"lost"[..])
        );
        assert_eq!(
            channel.publish_confirmed(b"", b"none", false, &properties, b"").await,
            Ok(Published::Routed)
        );
        let got = channel.get("q", false).await.unwrap().unwrap();
        assert_eq!((&got.properties[..], &got.body[..]), (&properties[..], &body[..]));
        assert_eq!((&got.routing_key[..], got.message_count, got.redelivered), (&b"q"[..], 0, false));
        assert_eq!(channel.get("q", false).await, Ok(None));
        channel.nack(got.delivery_tag, false, true).await.unwrap();
        let got = channel.get("q", false).await.unwrap().unwrap();
        assert!(got.redelivered);
        channel.reject(got.delivery_tag, false).await.unwrap();
        assert_eq!(channel.get("q", true).await, Ok(None));
    });
}

#[test]
fn deliveries_stop_at_the_prefetch_and_confirms_come_by_number() {
    block_on(async {
        let broker = broker();
        let connection = connect(&broker).await;
        let mut publisher = connection.open_channel().await.unwrap();
        publisher.declare_queue(&queue("q")).await.unwrap();
        publisher.confirm_select().await.unwrap();
        let mut unconfirmed: std::collections::BTreeSet<u64> = (1..=500).collect();
        for number in 1..=500_u64 {
            let sent = publisher.publish(b"", b"q", true, &[0, 0], &number.to_be_bytes()).await;
            assert_eq!(sent, Ok(number));
        }
        while !unconfirmed.is_empty() {
            match publisher.next().await.unwrap() {
                Event::Confirm { tag, multiple: true, is_ack: true } => {
                    unconfirmed = unconfirmed.split_off(&(tag + 1))
                }
                Event::Confirm { tag, is_ack: true, .. } => assert!(unconfirmed.remove(&tag)),
                event => panic!("{event:?}"),
            }
        }
        let mut consumer = connection.open_channel().await.unwrap();
        let consume = Consume { queue: "q", consumer_tag: "c", prefetch: 10, ..Consume::default() };
        assert_eq!(consumer.consume(&consume).await.unwrap(), "c");
        for number in 1..=500_u64 {
            let Event::Delivery(delivery) = consumer.next().await.unwrap() else { panic!("no delivery") };
            assert_eq!((delivery.delivery_tag, &delivery.body[..]), (number, &number.to_be_bytes()[..]));
            if number % 10 == 0 {
                let more = tokio::time::timeout(Duration::from_millis(5), consumer.next()).await;
                assert!(more.is_err(), "{more:?}");
                consumer.ack(number, true).await.unwrap();
            }
        }
        publisher.delete_queue("q", false, false).await.unwrap();
        assert_eq!(consumer.next().await, Ok(Event::Cancelled { consumer_tag: "c".into() }));
    });
}

#[test]
fn channels_are_bounded_and_used_again() {
    block_on(async {
        let connection = connect(&broker()).await;
        let mut channels = Vec::new();
        for _ in 0..4 {
            channels.push(connection.open_channel().await.unwrap());
        }
        assert_eq!(connection.open_channel().await.unwrap_err(), ClientError::NoChannel);
        channels.remove(1).close().await.unwrap();
        let mut again = connection.open_channel().await.unwrap();
        again.declare_queue(&queue("q")).await.unwrap();
    });
}

#[test]
fn a_channel_that_the_server_has_closed_is_followed_by_another() {
    block_on(async {
        let connection = connect(&broker()).await;
        for _ in 0..100 {
            let mut channel = connection.open_channel().await.unwrap();
            assert_eq!(channel.purge_queue("none").await.unwrap_err().reply().unwrap().0, 404);
            let mut channel = connection.open_channel().await.unwrap();
            channel.declare_queue(&queue("q")).await.unwrap();
            channel.close().await.unwrap();
        }
    });
}

#[test]
fn the_end_of_a_connection_is_told() {
    block_on(async {
        let broker = broker();
        let (near, far) = tokio::io::duplex(1 << 10);
        let session = tokio::spawn(serve(Arc::clone(&broker), far));
        let connection = Connection::open(near, &options()).await.unwrap();
        let mut channel = connection.open_channel().await.unwrap();
        session.abort();
        let lost = ClientError::Lost("closed by the server".into());
        assert_eq!(channel.next().await, Err(lost.clone()));
        assert_eq!(channel.get("q", true).await, Err(lost.clone()));
        assert_eq!(connection.end(), Some(&lost));
        assert_eq!(connection.open_channel().await.unwrap_err(), lost);
        // A session without a client ends too.
        let (near, far) = tokio::io::duplex(1 << 10);
        let session = tokio::spawn(serve(broker, far));
        drop(Connection::open(near, &options()).await.unwrap());
        session.await.unwrap();
    });
}

#[test]
fn a_wrong_login_and_a_wrong_virtual_host_are_refused() {
    block_on(async {
        let open = async |change: fn(&mut Options)| {
            let (near, far) = tokio::io::duplex(1 << 10);
            tokio::spawn(serve(broker(), far));
            let mut options = options();
            change(&mut options);
            Connection::open(near, &options).await.unwrap_err()
        };
        let error = open(|options| options.password = "wrong".into()).await;
        assert_eq!(error.reply().map(|(code, _)| code), Some(403), "{error}");
        let error = open(|options| options.virtual_host = "none".into()).await;
        assert_eq!(error.reply().map(|(code, _)| code), Some(530), "{error}");
    });
}

/// A server that says this after the handshake, and what becomes of the connection.
async fn after_the_handshake(octets: &'static [u8]) -> ClientError {
    let (near, mut far) = tokio::io::duplex(64 << 10);
    tokio::spawn(async move {
        let start = Method::new(10, 10).u16(9).long(b"").long(b"PLAIN").long(b"en_US");
        let tune = Method::new(10, 30).u16(0).u32(4096).u16(0);
        let open_ok = Method::new(10, 41).short("");
        let channel_open_ok = Method::new(20, 11).long(b"");
        for method in [start.frame(0), tune.frame(0), open_ok.frame(0), channel_open_ok.frame(1)] {
            far.write_all(&method).await.unwrap();
        }
        far.write_all(octets).await.unwrap();
        // Reads until the client has had enough.
        while far.read_buf(&mut bytes::BytesMut::with_capacity(1024)).await.is_ok_and(|count| count > 0) {}
    });
    let connection = Connection::open(near, &options()).await.unwrap();
    // If it fails in its opening already, it is for the same reason.
    if let Ok(mut channel) = connection.open_channel().await {
        while channel.next().await.is_ok() {}
    }
    connection.end().expect("an end").clone()
}

#[test]
fn a_server_that_breaks_the_protocol_is_left() {
    block_on(async {
        let deliver = b"\x01\0\x01\0\0\0\x11\0\x3c\0\x3c\x01c\0\0\0\0\0\0\0\x01\0\0\0\xce";
        let header = b"\x02\0\x01\0\0\0\x0e\0\x3c\0\0\0\0\0\0\0\0\0\x01\0\0\xce";
        let huge = b"\x02\0\x01\0\0\0\x0e\0\x3c\0\0\xff\0\0\0\0\0\0\0\0\0\xce";
        let body = b"\x03\0\x01\0\0\0\x02ab\xce";
        let cases: [(&str, Vec<u8>); 9] = [
            ("a frame without end", b"\x01\0\0\0\0\0\x04\0\x0a\0\x3d\0".to_vec()),
            ("a frame that is too large", b"\x03\0\x01\xff\xff\xff\xff".to_vec()),
            ("a method that ends early", b"\x01\0\x01\0\0\0\x05\0\x32\0\x0b\x09\xce".to_vec()),
            ("a body without method", body.to_vec()),
            ("a header without method", header.to_vec()),
            ("a body without header", [&deliver[..], body].concat()),
            ("too much body", [&deliver[..], header, body].concat()),
            ("a body that is too large", [&deliver[..], huge].concat()),
            ("a content in a content", [&deliver[..], deliver].concat()),
        ];
        for (name, octets) in cases {
            let error = after_the_handshake(octets.leak()).await;
            assert!(matches!(error, ClientError::Protocol(_)), "{name}: {error:?}");
        }
    });
}

proptest::proptest! {
    #[test]
    fn any_method_is_read_or_refused(ids in 0..2_usize, payload: Vec<u8>) {
        let known = [[0, 60, 0, 60], [0, 10, 0, 50]][ids];
        let _ = wire::decode(&payload);
        let _ = wire::decode(&[&known[..], &payload].concat());
    }
}

#[test]
fn what_is_sent_while_a_channel_closes_takes_no_room() {
    block_on(async {
        let connection = connect(&broker()).await;
        let mut channel = connection.open_channel().await.unwrap();
        channel.declare_queue(&queue("q")).await.unwrap();
        for _ in 0..300 {
            channel.publish(b"", b"q", false, &[0, 0], &[0; 10_000]).await.unwrap();
        }
        channel.consume(&Consume { queue: "q", prefetch: 300, ..Consume::default() }).await.unwrap();
        channel.close().await.unwrap();
        let mut channel = connection.open_channel().await.unwrap();
        let passive = QueueDeclare { passive: true, ..queue("q") };
        assert_eq!(channel.declare_queue(&passive).await.unwrap().message_count, 300);
    });
}

#[test]
fn a_silent_server_is_given_up() {
    block_on(async {
        let (near, _far) = tokio::io::duplex(1 << 10);
        let options = Options { timeout: Duration::from_millis(10), ..options() };
        let error = Connection::open(near, &options).await.unwrap_err();
        assert!(matches!(error, ClientError::Timeout { what: "connection.open", .. }), "{error:?}");
    });
}
