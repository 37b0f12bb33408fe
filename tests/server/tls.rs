//! AMQP and HTTP over TLS, and what a certificate is good for.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Instant,
};

use super::{
    authority::{Authority, Pair, TlsClient, VERSION_1_2, VERSION_1_3},
    broker::{Place, TestBroker},
    client::{Client, tcp},
    wire::{self, Event},
};

/// What is in the configuration of most tests here.
const SERVER: &str = "[tls]\ncertificate = 'server.pem'\nkey = 'server.key'\n";
const VERIFY: &str = "verify = 'peer'\nclient_ca = 'ca.pem'\n";
/// A user whose name is the subject of a certificate.
const ANN: &str = "[[users]]\nname = 'CN=ann,O=Example'\npassword = 'unused'\ntags = []\nloopback_only = false\n\
                   permissions = [{ vhost = '/', configure = '.*', write = '.*', read = '.*' }]\n";

/// A broker with a certificate for localhost from that CA.
fn start(authority: &Authority, more: &str) -> TestBroker {
    let place = Place::new(&format!("{SERVER}{more}"));
    authority.server("localhost").install(&place);
    place.write("ca.pem", &authority.pem());
    place.start()
}

/// The mechanisms that a client is offered, or why it is offered none.
fn offered(broker: &TestBroker, client: &TlsClient) -> Result<String, String> {
    let stream = client.connect(tcp(broker.address("amqp_tls"))).map_err(|error| error.to_string())?;
    let mut client = Client::new(stream);
    // In TLS 1.3 a client may write before it learns that it is refused.
    let mut octets = [0; 8];
    client.write(wire::HEADER);
    client.stream.read_exact(&mut octets).map_err(|error| error.to_string())?;
    let mut rest = vec![0; 4096];
    let count = client.stream.read(&mut rest).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&rest[..count]).into_owned())
}

#[test]
fn messages_of_any_size_go_through_either_version() {
    let authority = Authority::new();
    let broker = start(&authority, "");
    for versions in [&VERSION_1_2, &VERSION_1_3] {
        let tls = authority.trusting().only(versions);
        let stream = tls.connect(tcp(broker.address("amqp_tls"))).expect("a handshake");
        let mut client = Client::open(stream, "guest");
        for size in [0, 1, 20_000, 5_000_000] {
            let body: Vec<u8> = (0..size).map(|index: u32| (index % 251) as u8).collect();
            client.round_trip(&body);
        }
        client.close().expect("an end that TLS was told of");
    }
    assert_eq!(broker.list("management_tls").len(), 1);
}

/// One record holds more than the broker reads at first, and nothing comes after it.
#[test]
fn what_is_decrypted_already_is_read_though_the_socket_is_silent() {
    let authority = Authority::new();
    let broker = start(&authority, "");
    let stream = authority.trusting().connect(tcp(broker.address("amqp_tls"))).expect("a handshake");
    let mut client = Client::new(stream);
    client.mechanisms();
    let properties = wire::text_field("information", &"x".repeat(7500));
    client.send(0, &wire::start_ok_with(&properties, "PLAIN", b"\0guest\0guest"));
    client.expect((10, 30));
}

/// Among outputs of so many sizes is one that the socket takes but for its end, which is encrypted already.
#[test]
fn what_is_encrypted_already_is_sent_though_nothing_comes_after_it() {
    const STEP: usize = 48 << 10;
    let authority = Authority::new();
    let broker = start(&authority, "");
    let stream = small_window(broker.address("amqp_tls"));
    let stream = authority.trusting().connect(stream).expect("a handshake");
    let mut consumer = Client::open(stream, "guest");
    consumer.send(1, &wire::declare_queue("q", 0));
    assert!(matches!(consumer.next(), Ok(Event::DeclareOk { .. })));
    consumer.send(1, &wire::consume("q", "", wire::NO_ACK));
    consumer.expect((60, 21));
    let mut publisher = Client::open(tcp(broker.address("amqp")), "guest");
    publisher.send(1, &wire::confirm_select());
    publisher.expect((85, 11));
    let mut published = 0;
    for count in 40..=90 {
        publisher.write(&wire::publish(1, "", "q", 0, wire::TRANSIENT, &[7; STEP]).repeat(count));
        let mut confirmed = 0;
        while confirmed < count {
            match publisher.next() {
                Ok(Event::Ack { multiple: false, .. }) => confirmed += 1,
                Ok(Event::Ack { tag, .. }) => confirmed = tag as usize - published,
                other => panic!("{other:?} instead of a confirm"),
            }
        }
        published += count;
        // Time for the socket to fill. Too little would only let the test miss what it is for.
        super::broker::pause();
        for number in 1..=count {
            let delivery = consumer.next();
            assert!(matches!(delivery, Ok(Event::Deliver { .. })), "{number} of {count}: {delivery:?}");
        }
    }
}

/// A connection whose client takes little before it reads.
fn small_window(address: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt::set_socket_recv_buffer_size};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    set_socket_recv_buffer_size(&socket, 8192).expect("a size");
    connect(&socket, &address).expect("connect to the broker");
    socket.into()
}

#[test]
fn a_client_is_told_of_the_stop() {
    let authority = Authority::new();
    let broker = start(&authority, "");
    let stream = authority.trusting().connect(tcp(broker.address("amqp_tls"))).expect("a handshake");
    let mut client = Client::open(stream, "guest");
    broker.signal(rustix::process::Signal::TERM);
    assert!(matches!(client.next(), Ok(Event::ConnectionClose { code: 320, .. })));
    client.send(0, &wire::connection_close_ok());
    // An end that TLS was told of.
    assert_eq!(client.stream.read(&mut [0; 1]).expect("the end"), 0);
}

#[test]
fn without_a_certificate_there_is_no_tls() {
    let broker = Place::new("").start();
    assert_eq!(broker.list("amqp").len(), 1);
    for kind in ["amqp_tls", "management_tls", "prometheus_tls"] {
        assert!(broker.list(kind).is_empty(), "{kind}");
    }
}

#[test]
fn a_client_is_who_its_certificate_says() {
    let authority = Authority::new();
    let broker = start(&authority, &format!("{VERIFY}{ANN}"));
    let ann = authority.trusting().with(&authority.client("ann"));
    assert!(offered(&broker, &ann).expect("an offer").contains("AMQPLAIN PLAIN EXTERNAL"));
    let stream = ann.connect(tcp(broker.address("amqp_tls"))).expect("a handshake");
    Client::open_by(stream, "EXTERNAL", b"").round_trip(b"by certificate");
    broker.wait_for_line(&["connection open", "CN=ann,O=Example"]);

    let bob = authority.trusting().with(&authority.client("bob"));
    let mut client = Client::new(bob.connect(tcp(broker.address("amqp_tls"))).expect("a handshake"));
    client.mechanisms();
    client.log_in("EXTERNAL", b"CN=ann,O=Example");
    assert!(matches!(client.next(), Ok(Event::ConnectionClose { code: 403, .. })));
    broker.wait_for_line(&["WARN", "login refused", "user 'CN=bob,O=Example'", "EXTERNAL"]);

    // Neither without a certificate nor without TLS.
    assert!(!offered(&broker, &authority.trusting()).expect("an offer").contains("EXTERNAL"));
    assert_eq!(Client::new(tcp(broker.address("amqp"))).mechanisms(), "AMQPLAIN PLAIN");
}

#[test]
fn the_common_name_may_be_the_users() {
    let authority = Authority::new();
    let broker = start(&authority, &format!("{VERIFY}cert_login_from = 'common_name'\n"));
    let guest = authority.trusting().with(&authority.client("guest"));
    let stream = guest.connect(tcp(broker.address("amqp_tls"))).expect("a handshake");
    Client::open_by(stream, "EXTERNAL", b"").round_trip(b"as guest");
}

#[test]
fn a_certificate_from_elsewhere_is_refused() {
    let authority = Authority::new();
    let broker = start(&authority, VERIFY);
    let stranger = authority.trusting().with(&Authority::new().client("ann"));
    let refusal = offered(&broker, &stranger).expect_err("a refusal");
    assert!(refusal.contains("UnknownCA") || refusal.contains("DecryptError"), "{refusal}");
    broker.wait_for_line(&["closed: TLS handshake failed", "127.0.0.1"]);

    let expired = authority.trusting().with(&authority.expired("ann"));
    assert!(offered(&broker, &expired).expect_err("a refusal").contains("Expired"));
}

#[test]
fn a_certificate_may_be_required() {
    let authority = Authority::new();
    let broker = start(&authority, &format!("{VERIFY}require_client_certificate = true\n"));
    assert!(offered(&broker, &authority.trusting()).is_err());
    assert!(offered(&broker, &authority.trusting().with(&authority.client("ann"))).is_ok());
    // Browsers have none.
    assert!(get(&broker, &authority.trusting(), "management_tls", "/api/x").contains(" 404 "));
}

#[test]
fn an_old_version_may_be_refused() {
    let authority = Authority::new();
    let broker = start(&authority, "min_version = '1.3'\n");
    assert!(offered(&broker, &authority.trusting().only(&VERSION_1_2)).is_err());
    assert!(offered(&broker, &authority.trusting().only(&VERSION_1_3)).is_ok());
}

#[test]
fn the_host_that_a_client_names_chooses_the_certificate() {
    let authority = Authority::new();
    let more = "sni = [{ host = 'a.example.org', certificate = 'a.pem', key = 'a.key' },\n\
                { host = '*.example.org', certificate = 'any.pem', key = 'any.key' }]\n";
    let place = Place::new(&format!("{SERVER}{more}"));
    let pairs = ["localhost", "a.example.org", "*.example.org"].map(|host| authority.server(host));
    for (pair, name) in pairs.iter().zip(["server", "a", "any"]) {
        place.write(&format!("{name}.pem"), &pair.certificate);
        place.write(&format!("{name}.key"), &pair.key);
    }
    let broker = place.start();
    let shown = |host| {
        let client = authority.trusting().asking_for(host);
        let stream = client.connect(tcp(broker.address("amqp_tls"))).expect("a handshake");
        stream.conn.peer_certificates().expect("a certificate")[0].clone()
    };
    assert_eq!(shown("localhost"), pairs[0].der());
    assert_eq!(shown("A.example.org"), pairs[1].der());
    assert_eq!(shown("b.example.org"), pairs[2].der());
    let other = authority.trusting().asking_for("a.b.example.org");
    let refusal = other.connect(tcp(broker.address("amqp_tls"))).expect_err("the default's is for localhost");
    assert!(refusal.to_string().contains("not valid for name"), "{refusal}");
}

#[test]
fn http_is_spoken_over_tls_too() {
    let authority = Authority::new();
    let broker = start(&authority, "");
    let answer = get(&broker, &authority.trusting(), "management_tls", "/api/no-such-thing");
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("Object Not Found"), "{answer}");
    let answer = get(&broker, &authority.trusting(), "prometheus_tls", "/no-such-thing");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

/// What is answered to GET.
fn get(broker: &TestBroker, client: &TlsClient, kind: &str, path: &str) -> String {
    let mut stream = client.connect(tcp(broker.address(kind))).expect("a handshake");
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer, and an end that TLS was told of");
    answer
}

/// What the broker says instead of starting.
fn refusal(change: impl Fn(&Place, &Pair)) -> String {
    let authority = Authority::new();
    let pair = authority.server("localhost");
    let place = Place::new(&format!("{SERVER}{VERIFY}"));
    pair.install(&place);
    place.write("ca.pem", &authority.pem());
    change(&place, &pair);
    let output = place.refused();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_file_that_is_no_good_is_named_at_the_start() {
    type Change = fn(&Place, &Pair);
    let cases: [(Change, &str); 9] = [
        (
            |place, _| std::fs::remove_file(place.path("server.key")).expect("removed"),
            "server.key: cannot be read: No such file",
        ),
        (|place, _| place.write("server.key", "nothing"), "server.key: there is no private key in it"),
        (
            |place, pair| place.write("server.key", &pair.certificate),
            "server.key: there is no private key in it",
        ),
        (|place, pair| place.write("server.pem", &pair.key), "server.pem: there is no certificate in it"),
        (
            |place, _| {
                place.write("server.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
            },
            "server.pem: the first certificate can't be read",
        ),
        (
            |place, _| place.write("server.key", &Authority::new().server("x").key),
            "server.key: is not the private key of the certificate in server.pem",
        ),
        (
            |place, pair| {
                place.write("server.key", &pair.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"))
            },
            "server.key: the private key is encrypted",
        ),
        (
            |place, _| {
                let text = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n\
                            -----END RSA PRIVATE KEY-----\n";
                place.write("server.key", text);
            },
            "server.key: the private key is encrypted",
        ),
        (|place, _| place.write("ca.pem", ""), "ca.pem: there is no certificate in it"),
    ];
    for (change, expected) in cases {
        let refusal = refusal(change);
        assert!(refusal.contains(expected), "{refusal}\ninstead of {expected}");
    }
}

#[test]
fn check_config_reads_the_files_too() {
    let place = Place::new(SERVER);
    let pair = Authority::new().server("localhost");
    pair.install(&place);
    let checked = || place.command().arg("--check-config").output().expect("run the leveret binary");
    assert!(checked().status.success());
    place.write("server.key", "");
    let output = checked();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("server.key: there is no private key"),
        "{output:?}"
    );
}

#[test]
fn an_end_that_tls_was_not_told_of_is_an_end() {
    let authority = Authority::new();
    let broker = start(&authority, "");
    let stream = authority.trusting().connect(tcp(broker.address("amqp_tls"))).expect("a handshake");
    // Dropped without close_notify.
    drop(Client::open(stream, "guest"));
    broker.wait_for_line(&["connection closed: the client is gone without connection.close", "guest"]);
}

#[test]
fn an_expired_certificate_is_warned_of() {
    let authority = Authority::new();
    let place = Place::new(SERVER);
    authority.expired("localhost").install(&place);
    let broker = place.start();
    broker.wait_for_line(&["WARN", "server.pem", "has expired", "2020-01-02T00:00:00Z"]);
}

#[test]
fn whoever_comes_to_the_wrong_port_is_told_of_in_the_log() {
    let authority = Authority::new();
    let broker = start(&authority, "");
    let plain = broker.address("amqp");
    assert!(authority.trusting().connect(tcp(plain)).is_err());
    broker.wait_for_line(&["TLS, which has a port of its own", "listeners.amqp_tls_port"]);
    tcp(plain).write_all(b"GET / HTTP/1.1\r\n\r\n").expect("written");
    broker.wait_for_line(&["HTTP, which has a port of its own"]);
    let mut client = Client::new(tcp(broker.address("amqp_tls")));
    client.write(wire::HEADER);
    broker.wait_for_line(&["closed: TLS handshake failed", "InvalidContentType"]);
}

#[test]
fn a_handshake_has_five_seconds() {
    let authority = Authority::new();
    let broker = start(&authority, "");
    let start = Instant::now();
    let mut stream = tcp(broker.address("amqp_tls"));
    assert_eq!(stream.read(&mut [0; 1]).expect("the end"), 0);
    let seconds = start.elapsed().as_secs_f64();
    assert!((4.9..15.0).contains(&seconds), "{seconds}");
    broker.wait_for_line(&["no complete TLS handshake within 5 s"]);
}
