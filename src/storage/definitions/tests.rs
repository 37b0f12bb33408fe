use proptest::prelude::*;

use super::*;
use crate::amqp::Value;

fn encoded(definition: &Definition) -> Vec<u8> {
    let mut out = Vec::new();
    encode(definition, &mut out);
    out
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn table() -> Table {
    Table(vec![("n".to_owned(), Value::I32(7))])
}

fn binding() -> Binding {
    Binding {
        virtual_host: "/".into(),
        source: "x".into(),
        to_exchange: false,
        destination: "q".into(),
        binding_key: "k".into(),
        arguments: table(),
    }
}

fn metadata() -> Metadata {
    Metadata {
        description: "d".to_owned(),
        tags: vec!["a".to_owned(), "bc".to_owned()],
        default_queue_type: Some(QueueKind::Quorum),
        is_protected: true,
    }
}

/// A user without a password, and one whose password is hashed by MD5.
#[test]
fn the_passwords_of_format_3_are_read_back() {
    let hashes = [
        PasswordHash::none(HashingAlgorithm::Sha512),
        PasswordHash::new(HashingAlgorithm::Md5, [7; 4], b"pw"),
    ];
    for password in hashes {
        let user = User {
            name: "ann".into(),
            password,
            tags: Vec::new(),
            loopback_only: false,
            connections_max: None,
            channels_max: None,
        };
        let user = Arc::new(user);
        let decoded = decode(&encoded(&Definition::UserPut(Arc::clone(&user)))).unwrap();
        let Definition::UserPut(read) = decoded else { panic!("{decoded:?}") };
        assert_eq!(read, user);
    }
}

fn parameter(set_by: Option<Arc<str>>) -> Parameter {
    let value = serde_json::json!({"a": 1});
    Parameter { virtual_host: "/".into(), component: "shovel".into(), name: "s".into(), value, set_by }
}

/// One of each kind, and what it looks like on disk.
fn golden() -> Vec<(Definition, &'static str)> {
    use Definition as D;
    let user = User {
        name: "ann".into(),
        password: PasswordHash::from_base64(
            HashingAlgorithm::Sha256,
            "Fn3sHpdcoA9mi5OA2/79JHToPuQ66gphsMXbXux4HmDWwBJv",
        )
        .unwrap(),
        tags: vec!["a".into(), "bc".into()],
        loopback_only: true,
        connections_max: None,
        channels_max: Some(5),
    };
    let (ann, host): (Arc<str>, Arc<str>) = ("ann".into(), "/".into());
    let permission = Permission::new("", "^w", ".*").unwrap();
    let topic = TopicPermission::new("ann", "/", "{username}", "").unwrap();
    let policy = Policy::recorded(PolicyKind::Operator, "p", "^q", ApplyTo::Queues, -2, table()).unwrap();
    vec![
        (
            D::VirtualHostPut { name: host.clone(), connections_max: Some(258), queues_max: None },
            "01 01000000 2f 01 02010000 00",
        ),
        (D::VirtualHostDeleted { name: host.clone() }, "02 01000000 2f"),
        (
            D::UserPut(Arc::new(user)),
            "03 03000000 616e6e 01 30000000 466e3373487064636f41396d69354f41322f37394a48546f5075513636677068 \
             734d586258757834486d445777424a76 01 00 01 05000000 02000000 \
             01000000 61 02000000 6263",
        ),
        (D::UserDeleted { name: ann.clone() }, "04 03000000 616e6e"),
        (
            D::PermissionPut { user: ann.clone(), virtual_host: host.clone(), permission },
            "05 03000000 616e6e 01000000 2f 00000000 02000000 5e77 02000000 2e2a",
        ),
        (
            D::PermissionDeleted { user: ann.clone(), virtual_host: host.clone() },
            "06 03000000 616e6e 01000000 2f",
        ),
        (
            D::TopicPermissionPut {
                user: ann.clone(),
                virtual_host: host.clone(),
                exchange: "x".into(),
                permission: topic,
            },
            "07 03000000 616e6e 01000000 2f 01000000 78 0a000000 7b757365726e616d657d 00000000",
        ),
        (
            D::TopicPermissionDeleted { user: ann, virtual_host: host.clone(), exchange: "x".into() },
            "08 03000000 616e6e 01000000 2f 01000000 78",
        ),
        (
            D::QueueDeclared {
                virtual_host: host.clone(),
                id: QueueId(0x0102_0304_0506_0708),
                name: "q".into(),
                auto_delete: true,
                arguments: table(),
            },
            "09 01000000 2f 0807060504030201 01000000 71 01 00000007 01 6e 49 00000007",
        ),
        (D::QueueDeleted { id: QueueId(258) }, "0a 0201000000000000"),
        (
            D::ExchangeDeclared {
                virtual_host: host.clone(),
                name: "x".into(),
                kind: "topic",
                auto_delete: false,
                internal: true,
                arguments: table(),
            },
            "0b 01000000 2f 01000000 78 05000000 746f706963 00 01 00000007 01 6e 49 00000007",
        ),
        (D::ExchangeDeleted { virtual_host: host, name: "x".into() }, "0c 01000000 2f 01000000 78"),
        (
            D::Bound(binding()),
            "0d 01000000 2f 01000000 78 00 01000000 71 01000000 6b 00000007 01 6e 49 00000007",
        ),
        (
            D::Unbound(Binding { to_exchange: true, arguments: Table::default(), ..binding() }),
            "0e 01000000 2f 01000000 78 01 01000000 71 01000000 6b 00000000",
        ),
        (
            D::PolicyPut { virtual_host: "/".into(), policy: Arc::new(policy) },
            "0f 01000000 2f 01 01000000 70 02000000 5e71 01 feffffffffffffff 00000007 01 6e 49 00000007",
        ),
        (
            D::PolicyDeleted { virtual_host: "/".into(), kind: PolicyKind::User, name: "p".into() },
            "10 01000000 2f 00 01000000 70",
        ),
        (
            D::VirtualHostDescribed { name: "/".into(), metadata: Arc::new(metadata()) },
            "11 01000000 2f 01000000 64 02 01 02000000 01000000 61 02000000 6263",
        ),
        (
            D::FileLoaded { digest: [0xab; 32] },
            "12 abababababababababababababababababababababababababababababababab",
        ),
        (
            D::ParameterPut(Arc::new(parameter(Some("ann".into())))),
            "13 01000000 2f 06000000 73686f76656c 01000000 73 07000000 7b2261223a317d 01 03000000 616e6e",
        ),
        (
            D::ParameterDeleted { virtual_host: "/".into(), component: "shovel".into(), name: "s".into() },
            "14 01000000 2f 06000000 73686f76656c 01000000 73",
        ),
        (
            D::GlobalParameterPut { name: "g".into(), value: Hidden(Arc::new(serde_json::json!(true))) },
            "15 01000000 67 04000000 74727565",
        ),
        (D::GlobalParameterDeleted { name: "g".into() }, "16 01000000 67"),
    ]
}

#[test]
fn the_format_does_not_change() {
    let all = golden();
    assert!(all.iter().map(|(definition, _)| kind(definition)).eq(1..=22), "one of each kind");
    for (definition, octets) in all {
        assert_eq!(hex(&encoded(&definition)), octets.replace(' ', ""), "{definition:?}");
    }
}

#[test]
fn each_is_read_back() {
    for (definition, _) in golden() {
        let octets = encoded(&definition);
        let decoded = decode(&octets).unwrap();
        assert_eq!(format!("{decoded:?}"), format!("{definition:?}"));
        assert_eq!(encoded(&decoded), octets);
    }
}

#[test]
fn a_record_that_is_cut_or_goes_on_is_refused() {
    for (definition, _) in golden() {
        let octets = encoded(&definition);
        assert!((0..octets.len()).all(|end| decode(&octets[..end]).is_err()), "{definition:?}");
        assert!(decode(&[&octets[..], &[0]].concat()).is_err(), "{definition:?}");
    }
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let cases: [(&[u8], &str); 14] = [
        (&[], "it ends early"),
        (&[0], "kind 0 is unknown"),
        (&[23], "kind 23 is unknown"),
        (b"\x02\xff\xff\xff\xffa", "it ends early"),
        (b"\x02\x01\0\0\0\xff", "utf-8"),
        (b"\x02\0\0\0\0x", "1 octets are left over"),
        (b"\x01\0\0\0\0\x02", "a flag is 2"),
        (b"\x03\0\0\0\0\x04", "hashing algorithm 4 is unknown"),
        (b"\x03\0\0\0\0\x01\x04\0\0\0AQID", "base64 of 36 bytes"),
        (b"\x05\0\0\0\0\0\0\0\0\x01\0\0\0(\0\0\0\0\0\0\0\0", "not a regular expression"),
        (b"\x0b\0\0\0\0\0\0\0\0\x01\0\0\0z", "exchange type 'z' is unknown"),
        (b"\x0f\0\0\0\0\0\0\0\0\0\0\0\0\0\x06", "a policy can't apply to 6"),
        (b"\x0f\0\0\0\0\0\0\0\0\0\x01\0\0\0(\0\0\0\0\0\0\0\0\0\0\0\0\0", "not a regular expression"),
        (b"\x09\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x07\x01aS\xff\xff\xff\xff", "malformed field table"),
    ];
    for (octets, text) in cases {
        let error = decode(octets).unwrap_err().to_string();
        assert!(error.starts_with("not a definition: ") && error.contains(text), "{octets:?}: {error}");
    }
}

fn name() -> impl Strategy<Value = Arc<str>> {
    prop_oneof![4 => "[a-z./]{0,8}", 1 => "\\PC{0,20}"].prop_map(Arc::from)
}

fn limit() -> impl Strategy<Value = Option<u32>> {
    prop::option::of(any::<u32>())
}

fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), Just(".*".to_owned()), "\\^[a-z]{0,5}"]
}

fn topic_pattern() -> impl Strategy<Value = String> {
    prop_oneof![pattern(), Just("^{username}-{vhost}$".to_owned()), Just("{client_id}".to_owned())]
}

fn arguments() -> impl Strategy<Value = Table> {
    let octets = || prop::collection::vec(any::<u8>(), 0..12);
    let scalar = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i8>().prop_map(Value::I8),
        any::<u8>().prop_map(Value::U8),
        any::<i16>().prop_map(Value::I16),
        any::<u16>().prop_map(Value::U16),
        any::<i32>().prop_map(Value::I32),
        any::<u32>().prop_map(Value::U32),
        any::<i64>().prop_map(Value::I64),
        any::<f32>().prop_map(Value::F32),
        any::<f64>().prop_map(Value::F64),
        (any::<u8>(), any::<u32>()).prop_map(|(scale, value)| Value::Decimal { scale, value }),
        octets().prop_map(|octets| Value::LongStr(octets.into())),
        any::<u64>().prop_map(Value::Timestamp),
        Just(Value::Void),
        octets().prop_map(|octets| Value::ByteArray(octets.into())),
    ];
    let field_name = || prop_oneof!["[a-z-]{0,10}", "\\PC{0,10}"];
    let value = scalar.prop_recursive(3, 12, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((field_name(), inner), 0..4).prop_map(|fields| Value::Table(Table(fields))),
        ]
    });
    prop::collection::vec((field_name(), value), 0..4).prop_map(Table)
}

fn user() -> impl Strategy<Value = Definition> {
    let algorithms = [HashingAlgorithm::Sha256, HashingAlgorithm::Sha512, HashingAlgorithm::Md5];
    let algorithm = prop::sample::select(algorithms.to_vec());
    let password = (algorithm, any::<[u8; 4]>(), "[a-z]{0,5}")
        .prop_map(|(algorithm, salt, password)| PasswordHash::new(algorithm, salt, password.as_bytes()));
    let tags = prop::collection::vec("\\PC{0,10}", 0..4);
    (name(), password, tags, any::<bool>(), limit(), limit()).prop_map(
        |(name, password, tags, loopback_only, connections_max, channels_max)| {
            let user = User { name, password, tags, loopback_only, connections_max, channels_max };
            Definition::UserPut(Arc::new(user))
        },
    )
}

fn any_binding() -> impl Strategy<Value = Binding> {
    (name(), name(), any::<bool>(), name(), "\\PC{0,20}", arguments()).prop_map(
        |(virtual_host, source, to_exchange, destination, binding_key, arguments)| Binding {
            virtual_host,
            source,
            to_exchange,
            destination,
            binding_key,
            arguments,
        },
    )
}

fn permission() -> impl Strategy<Value = Definition> {
    (name(), name(), pattern(), pattern(), pattern()).prop_map(
        |(user, virtual_host, configure, write, read)| {
            let permission = Permission::new(&configure, &write, &read);
            Definition::PermissionPut { user, virtual_host, permission: permission.expect("patterns") }
        },
    )
}

fn topic_permission() -> impl Strategy<Value = Definition> {
    (name(), name(), name(), topic_pattern(), topic_pattern()).prop_map(
        |(user, virtual_host, exchange, write, read)| {
            let permission = TopicPermission::new(&user, &virtual_host, &write, &read).expect("patterns");
            Definition::TopicPermissionPut { user, virtual_host, exchange, permission }
        },
    )
}

fn queue() -> impl Strategy<Value = Definition> {
    (name(), any::<u64>().prop_map(QueueId), name(), any::<bool>(), arguments()).prop_map(
        |(virtual_host, id, name, auto_delete, arguments)| Definition::QueueDeclared {
            virtual_host,
            id,
            name,
            auto_delete,
            arguments,
        },
    )
}

fn exchange() -> impl Strategy<Value = Definition> {
    let kind = prop::sample::select(vec!["direct", "fanout", "topic", "headers"]);
    (name(), name(), kind, any::<bool>(), any::<bool>(), arguments()).prop_map(
        |(virtual_host, name, kind, auto_delete, internal, arguments)| Definition::ExchangeDeclared {
            virtual_host,
            name,
            kind,
            auto_delete,
            internal,
            arguments,
        },
    )
}

fn policy_kind() -> impl Strategy<Value = PolicyKind> {
    prop_oneof![Just(PolicyKind::User), Just(PolicyKind::Operator)]
}

fn policy() -> impl Strategy<Value = Definition> {
    let apply_to = prop::sample::select(APPLY_TO.to_vec());
    (name(), policy_kind(), name(), pattern(), apply_to, any::<i64>(), arguments()).prop_map(
        |(virtual_host, kind, name, pattern, apply_to, priority, definition)| {
            let policy = Policy::recorded(kind, &name, &pattern, apply_to, priority, definition);
            Definition::PolicyPut { virtual_host, policy: Arc::new(policy.expect("a pattern")) }
        },
    )
}

fn described() -> impl Strategy<Value = Definition> {
    let kind = prop::option::of(prop::sample::select(QueueKind::ALL.to_vec()));
    let tags = prop::collection::vec("\\PC{0,10}", 0..4);
    (name(), "\\PC{0,20}", tags, kind, any::<bool>()).prop_map(
        |(name, description, tags, default_queue_type, is_protected)| {
            let metadata = Metadata { description, tags, default_queue_type, is_protected };
            Definition::VirtualHostDescribed { name, metadata: Arc::new(metadata) }
        },
    )
}

fn parameter_put() -> impl Strategy<Value = Definition> {
    (name(), name(), name(), ".*", prop::option::of(name())).prop_map(
        |(virtual_host, component, name, text, set_by)| {
            let value = serde_json::json!({"text": text});
            Definition::ParameterPut(Arc::new(Parameter { virtual_host, component, name, value, set_by }))
        },
    )
}

fn definition() -> impl Strategy<Value = Definition> {
    use Definition as D;
    prop_oneof![
        (name(), limit(), limit()).prop_map(|(name, connections_max, queues_max)| D::VirtualHostPut {
            name,
            connections_max,
            queues_max
        }),
        name().prop_map(|name| D::VirtualHostDeleted { name }),
        user(),
        name().prop_map(|name| D::UserDeleted { name }),
        permission(),
        (name(), name()).prop_map(|(user, virtual_host)| D::PermissionDeleted { user, virtual_host }),
        topic_permission(),
        (name(), name(), name()).prop_map(|(user, virtual_host, exchange)| D::TopicPermissionDeleted {
            user,
            virtual_host,
            exchange
        }),
        queue(),
        any::<u64>().prop_map(|id| D::QueueDeleted { id: QueueId(id) }),
        exchange(),
        (name(), name()).prop_map(|(virtual_host, name)| D::ExchangeDeleted { virtual_host, name }),
        policy(),
        (name(), policy_kind(), name()).prop_map(|(virtual_host, kind, name)| D::PolicyDeleted {
            virtual_host,
            kind,
            name
        }),
        parameter_put(),
        (name(), name(), name()).prop_map(|(virtual_host, component, name)| D::ParameterDeleted {
            virtual_host,
            component,
            name
        }),
        (name(), ".*").prop_map(|(name, text)| D::GlobalParameterPut {
            name,
            value: Hidden(Arc::new(serde_json::json!([text, 1.5, null])))
        }),
        name().prop_map(|name| D::GlobalParameterDeleted { name }),
        any_binding().prop_map(D::Bound),
        any_binding().prop_map(D::Unbound),
        described(),
        any::<[u8; 32]>().prop_map(|digest| D::FileLoaded { digest }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(definition in definition()) {
        let octets = encoded(&definition);
        let decoded = decode(&octets).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(format!("{decoded:?}"), format!("{definition:?}"));
        prop_assert_eq!(encoded(&decoded), octets);
    }

    #[test]
    fn whatever_octets_come_nothing_breaks(octets in prop::collection::vec(any::<u8>(), 0..200), kind in 0..24_u8) {
        let _ = decode(&octets);
        let _ = decode(&[&[kind], &octets[..]].concat());
    }

    #[test]
    fn damaged_records_break_nothing(
        definition in definition(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut octets = encoded(&definition);
        for (index, octet) in damage {
            let index = index.index(octets.len());
            octets[index] = octet;
        }
        if let Ok(other) = decode(&octets) {
            prop_assert!(decode(&encoded(&other)).is_ok());
        }
    }
}
