use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::broker::queue::{Overflow, QueueArguments, RetryOn, Schedule};

fn table(fields: &[(&str, Value)]) -> Table {
    Table(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

fn policy(kind: PolicyKind, fields: &[(&str, Value)]) -> Result<Policy, String> {
    Policy::new(kind, "p", ".*", ApplyTo::All, 0, table(fields)).map_err(|error| error.to_string())
}

fn named(name: &str, pattern: &str, apply_to: ApplyTo, priority: i64) -> Arc<Policy> {
    let definition = table(&[("max-length", Value::I64(1))]);
    let policy = Policy::new(PolicyKind::User, name, pattern, apply_to, priority, definition);
    Arc::new(policy.expect("a sound policy"))
}

/// The names of the policies of a queue and of an exchange.
fn matched(policies: &Policies, name: &str) -> [Option<String>; 3] {
    let name_of = |matched: Matched| matched.policy.map(|policy| policy.name.to_string());
    let of_queue = |kind| name_of(policies.of_queue(name, kind));
    [of_queue(QueueKind::Classic), of_queue(QueueKind::Quorum), name_of(policies.of_exchange(name))]
}

#[test]
fn b1_the_highest_priority_counts_and_then_the_first_name() {
    let mut policies = Policies::default();
    for (name, pattern, priority) in [
        ("c", "^orders", 5),
        ("b", "^orders", 5),
        ("low", "", -1),
        ("high", "urgent$", 9),
        ("other", "x", 99),
    ] {
        policies.put(named(name, pattern, ApplyTo::All, priority), false);
    }
    let of = |name| matched(&policies, name)[0].clone();
    assert_eq!(of("orders").as_deref(), Some("b"));
    assert_eq!(of("orders.urgent").as_deref(), Some("high"));
    assert_eq!(of("my orders").as_deref(), Some("low"), "anchored; and the empty pattern is in every name");
    let names: Vec<_> = policies.iter(PolicyKind::User).map(|policy| policy.name.to_string()).collect();
    assert_eq!(names, ["other", "high", "b", "c", "low"]);
}

#[test]
fn b1_a_policy_is_replaced_and_deleted_by_kind_and_name() {
    let mut policies = Policies::default();
    policies.put(named("p", "a", ApplyTo::All, 0), false);
    policies.put(named("p", "b", ApplyTo::All, 7), false);
    assert_eq!(policies.iter(PolicyKind::User).count(), 1);
    assert_eq!(matched(&policies, "a"), [None, None, None]);
    assert!(!policies.delete(PolicyKind::Operator, "p"));
    assert!(policies.delete(PolicyKind::User, "p") && !policies.delete(PolicyKind::User, "p"));
    assert_eq!(matched(&policies, "b"), [None, None, None]);
}

#[test]
fn b1_a_policy_is_for_its_kind_of_thing() {
    for (apply_to, name, expected) in [
        (ApplyTo::All, "all", [true, true, true]),
        (ApplyTo::Queues, "queues", [true, true, false]),
        (ApplyTo::Exchanges, "exchanges", [false, false, true]),
        (ApplyTo::ClassicQueues, "classic_queues", [true, false, false]),
        (ApplyTo::QuorumQueues, "quorum_queues", [false, true, false]),
        (ApplyTo::Streams, "streams", [false, false, false]),
    ] {
        let mut policies = Policies::default();
        policies.put(named("p", "", apply_to, 0), false);
        assert_eq!(matched(&policies, "x").map(|policy| policy.is_some()), expected, "{name}");
        assert_eq!(ApplyTo::parse(name), Ok(apply_to));
        assert_eq!(apply_to.name(), name);
    }
    let error = ApplyTo::parse("topics").expect_err("no such kind").to_string();
    assert!(error.starts_with("apply-to 'topics' unrecognised; should be one of: 'queues', "), "{error}");
}

#[test]
fn b1_definitions_are_refused_in_rabbitmqs_words() {
    let number = Value::I64;
    let cases: &[(&[(&str, Value)], &str)] = &[
        (&[], "no policy provided"),
        (&[("foo", "bar".into())], "[{<<\"foo\">>,<<\"bar\">>}] are not recognised policy settings"),
        (
            &[("max-priority", number(5)), ("max-length", number(1)), ("queue-type", "quorum".into())],
            "[{<<\"max-priority\">>,5},{<<\"queue-type\">>,<<\"quorum\">>}] are not recognised policy settings",
        ),
        (&[("foo", number(1)), ("max-length", number(-1))], "-1 is not a valid maximum length"),
        (&[("message-ttl", "1".into())], "<<\"1\">> is not a valid message TTL"),
        (&[("message-ttl", number(1 << 50))], "1125899906842624 is not a valid message TTL"),
        (&[("expires", number(0))], "0 is not a valid queue expiry"),
        (&[("max-length-bytes", Value::Bool(true))], "true is not a valid maximum length in bytes"),
        (&[("overflow", "drop".into())], "<<\"drop\">> is not a valid overflow value"),
        (&[("delivery-limit", Value::F64(1.0))], "1.0 is not a valid delivery limit"),
        (&[("dead-letter-exchange", number(1))], "1 is not a valid dead letter exchange name"),
        (&[("dead-letter-routing-key", Value::Void)], "null is not a valid dead letter routing key"),
        (&[("dead-letter-strategy", "no".into())], "<<\"no\">> is not a valid dead letter strategy"),
        (
            &[("alternate-exchange", Value::Array(vec![number(1), "a".into()]))],
            "[1,<<\"a\">>] is not a valid alternate exchange name",
        ),
        (&[("max-age", "5".into())], "<<\"5\">> is not a valid max age"),
        (&[("queue-mode", "x".into())], "<<\"x\">> is not a valid queue-mode value"),
        (&[("queue-leader-locator", "x".into())], "<<\"x\">> is not a valid queue leader locator value"),
        (
            &[("max-length", number(1)), ("max-length", number(2))],
            "[<<\"max-length\">>] duplicate keys not allowed",
        ),
        (
            &[("retry-delays", "1".into())],
            "<<\"1\">> is not a valid retry-delays: \"'1' is not a duration: a number and ms, s, m, h or d\"",
        ),
        (&[("retry-limit", number(1))], "1 is not a valid retry-limit: retry_limit_but_no_retry_defined"),
        (&[("group-by", "x".into())], "<<\"x\">> is not a valid group-by: invalid_group_by"),
    ];
    for (fields, text) in cases {
        assert_eq!(policy(PolicyKind::User, fields).err().as_deref(), Some(*text));
    }
}

#[test]
fn b1_keys_of_policies_and_operator_policies() {
    let number = Value::I64;
    let both = [
        ("message-ttl", number(0)),
        ("expires", number(1)),
        ("max-length", number(0)),
        ("max-length-bytes", number(0)),
        ("max-in-memory-length", number(0)),
        ("max-in-memory-bytes", number(0)),
        ("overflow", "reject-publish-dlx".into()),
        ("delivery-limit", number(-1)),
        ("delayed-retry-type", "failed".into()),
        ("delayed-retry-min", number(1)),
        ("delayed-retry-max", number(1)),
        ("queue-version", number(2)),
        ("target-group-size", number(3)),
        ("member-placement-tag", "a".into()),
    ];
    let users_only = [
        ("dead-letter-exchange", "".into()),
        ("dead-letter-routing-key", "k".into()),
        ("dead-letter-strategy", "at-least-once".into()),
        ("consumer-timeout", number(0)),
        ("consumer-disconnected-timeout", number(0)),
        ("queue-leader-locator", "balanced".into()),
        ("queue-master-locator", "min-masters".into()),
        ("queue-mode", "lazy".into()),
        ("max-age", "1h".into()),
        ("initial-cluster-size", number(3)),
        ("stream-max-segment-size-bytes", number(1)),
        ("alternate-exchange", "ae".into()),
        ("federation-upstream", "u".into()),
        ("federation-upstream-set", "all".into()),
        ("ha-mode", "all".into()),
        ("ha-params", number(2)),
        ("ha-sync-mode", "automatic".into()),
        ("ha-sync-batch-size", number(1)),
        ("ha-promote-on-shutdown", "always".into()),
        ("ha-promote-on-failure", "always".into()),
        ("shards-per-node", number(2)),
        ("routing-key", "1234".into()),
        ("delayed-message", Value::Bool(true)),
        ("retry-delays", "1s,10s".into()),
        ("group-by", "routing-key".into()),
    ];
    for field in both {
        assert!(policy(PolicyKind::User, std::slice::from_ref(&field)).is_ok(), "{field:?}");
        assert!(policy(PolicyKind::Operator, std::slice::from_ref(&field)).is_ok(), "{field:?}");
    }
    for field in users_only {
        assert!(policy(PolicyKind::User, std::slice::from_ref(&field)).is_ok(), "{field:?}");
        let refused =
            policy(PolicyKind::Operator, std::slice::from_ref(&field)).expect_err("not of an operator");
        assert!(refused.ends_with("are not recognised policy settings"), "{refused}");
    }
    let exponential = [
        ("retry-min", Value::I64(1)),
        ("retry-max", Value::I64(5)),
        ("retry-factor", Value::F64(1.5)),
        ("retry-jitter", Value::F64(0.1)),
        ("retry-limit", Value::I64(9)),
    ];
    assert!(policy(PolicyKind::User, &exponential).is_ok());
}

#[test]
fn b1_names_and_patterns_are_checked() {
    let make = |name: &str, pattern: &str| {
        let definition = table(&[("max-length", Value::I64(1))]);
        let policy = Policy::new(PolicyKind::User, name, pattern, ApplyTo::All, 0, definition);
        policy.map_err(|error| (error.part(), error.to_string()))
    };
    let (part, text) = make("", "a").expect_err("no name");
    assert_eq!((part.as_str(), text.as_str()), ("name", "a name has 1 to 255 bytes, this has 0"));
    assert!(make(&"n".repeat(255), "a").is_ok() && make(&"n".repeat(256), "a").is_err());
    let (part, text) = make("p", "(").expect_err("no pattern");
    assert_eq!(part, "pattern");
    assert!(text.starts_with("'(' is not a regular expression that is supported: "), "{text}");
    assert!(make("p", "a(?=b)").is_err(), "look-around is not supported");
    assert!(
        make("p", "(a{1000}){1000}").is_err() && make("p", &"a".repeat(5000)).is_err(),
        "they are bounded"
    );
    let large = policy(PolicyKind::User, &[("ha-params", "x".repeat(70_000).into())]);
    assert_eq!(large.err().as_deref(), Some("a definition has at most 65536 bytes"));
}

fn effective(
    arguments: &[(&str, Value)],
    policy: &[(&str, Value)],
    operator: &[(&str, Value)],
) -> Arc<QueueArguments> {
    let of = |kind, fields: &[(&str, Value)]| {
        (!fields.is_empty()).then(|| self::policy(kind, fields).expect("sound"))
    };
    let (policy, operator) = (of(PolicyKind::User, policy), of(PolicyKind::Operator, operator));
    QueueArguments::effective(&table(arguments), policy.as_ref(), operator.as_ref())
}

#[test]
fn b1_a_retry_is_taken_as_a_whole() {
    let policy = [("retry-delays", "1s".into())];
    let schedule = |arguments: &[(&str, Value)]| {
        effective(arguments, &policy, &[]).retry.clone().map(|retry| (retry.schedule, retry.limit))
    };
    assert_eq!(schedule(&[]), Some((Schedule::Delays([1000].into()), None)));
    let own =
        [("x-retry-min", Value::I32(5)), ("x-retry-max", Value::I32(6)), ("x-retry-limit", Value::I32(7))];
    let expected = Schedule::Exponential { min_ms: 5, max_ms: 6, factor: 2.0 };
    assert_eq!(schedule(&own), Some((expected, Some(7))));
}

#[test]
fn b1_delayed_retries_take_the_policys_type_and_the_smaller_delay() {
    let fields = |kind: &str, min, max| {
        [("type", kind.into()), ("min", Value::I64(min)), ("max", Value::I64(max))]
            .map(|(name, value): (_, Value)| (format!("delayed-retry-{name}"), value))
    };
    let arguments = fields("all", 5, 100).map(|(name, value)| (format!("x-{name}"), value));
    let arguments: Vec<_> = arguments.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let policy = fields("failed", 9, 50);
    let policy: Vec<_> = policy.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let retry = effective(&arguments, &policy, &[]).retry.clone().expect("a retry");
    assert_eq!((retry.on, retry.schedule), (RetryOn::Failed, Schedule::Linear { min_ms: 5, max_ms: 50 }));
}

#[test]
fn b1_what_has_no_effect_leaves_the_shared_arguments() {
    let plain = effective(&[], &[], &[]);
    let mirrored = effective(&[], &[("ha-mode", "all".into()), ("queue-mode", "lazy".into())], &[]);
    assert!(Arc::ptr_eq(&plain, &mirrored));
}

/// What counts of the argument's, the policy's and the operator policy's value, each as it is said or not.
type Counts<T> = fn(Option<T>, Option<T>, Option<T>) -> Option<T>;

fn smallest(argument: Option<i64>, policy: Option<i64>, operator: Option<i64>) -> Option<i64> {
    [argument, policy, operator].into_iter().flatten().min()
}

/// B.1: the smaller of two, but the larger if one turns the limit off; first of the policies, then with the argument.
fn delivery_limit(argument: Option<i64>, policy: Option<i64>, operator: Option<i64>) -> Option<i64> {
    let of_two = |one: Option<i64>, other: Option<i64>| match (one, other) {
        (Some(one), Some(other)) if one < 0 || other < 0 => Some(one.max(other)),
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    of_two(argument, of_two(policy, operator))
}

fn fields(name: &str, value: Option<impl Into<Value>>) -> Vec<(&str, Value)> {
    value.map(|value| (name, value.into())).into_iter().collect()
}

proptest! {
    #[test]
    fn b1_numbers_merge_by_the_table(
        argument in prop::option::of(-2..6_i64),
        policy in prop::option::of(-2..6_i64),
        operator in prop::option::of(-2..6_i64),
        key in 0..6_usize,
        is_quorum in any::<bool>(),
    ) {
        type Get = fn(&QueueArguments) -> Option<u64>;
        let rules: [(&str, i64, bool, Counts<i64>, Get); 6] = [
            ("max-length", 0, true, smallest, |arguments| arguments.max_length),
            ("max-length-bytes", 0, true, smallest, |arguments| arguments.max_length_bytes),
            ("message-ttl", 0, true, smallest, |arguments| arguments.message_ttl_ms),
            ("expires", 1, true, smallest, |arguments| arguments.expires_ms),
            ("consumer-timeout", 0, false, smallest, |arguments| arguments.consumer_timeout_ms),
            ("delivery-limit", -2, true, delivery_limit, |arguments| arguments.delivery_limit),
        ];
        let (key, least, by_operator, counts, get) = rules[key];
        let valid = |value: Option<i64>| value.filter(|value| *value >= least);
        let (argument, policy) = (valid(argument), valid(policy));
        let operator = valid(operator).filter(|_| by_operator);
        let name = format!("x-{key}");
        let mut arguments = fields(&name, argument.map(Value::I64));
        if is_quorum {
            arguments.push(("x-queue-type", "quorum".into()));
        }
        let value = Value::I64;
        let effective = effective(&arguments, &fields(key, policy.map(value)), &fields(key, operator.map(value)));
        let default = (key == "delivery-limit" && is_quorum).then_some(20);
        let expected = counts(argument, policy, operator).or(default);
        prop_assert_eq!(get(&effective), expected.and_then(|value| u64::try_from(value).ok()));
    }

    #[test]
    fn b1_texts_merge_by_the_table(
        argument in prop::option::of(0..3_usize),
        policy in prop::option::of(0..3_usize),
        operator in prop::option::of(0..3_usize),
        is_quorum in any::<bool>(),
    ) {
        let texts = ["drop-head", "reject-publish", "reject-publish-dlx"];
        let text = |index: Option<usize>| index.map(|index| texts[index]);
        let (argument, policy, operator) = (text(argument), text(policy), text(operator));
        let mut arguments = fields("x-overflow", argument);
        arguments.extend(fields("x-dead-letter-exchange", argument));
        if is_quorum {
            arguments.push(("x-queue-type", "quorum".into()));
        }
        let mut by_policy = fields("overflow", policy);
        by_policy.extend(fields("dead-letter-exchange", policy));
        let effective = effective(&arguments, &by_policy, &fields("overflow", operator));
        // RabbitMQ 3.10.8, as observed: a classic queue keeps what it was declared with.
        let by_policies = operator.or(policy);
        let counts = if is_quorum { by_policies.or(argument) } else { argument.or(by_policies) };
        let expected = match counts {
            Some("reject-publish") => Overflow::RejectPublish,
            Some("reject-publish-dlx") if !is_quorum => Overflow::RejectPublishDlx,
            _ => Overflow::DropHead,
        };
        prop_assert_eq!(effective.overflow, expected);
        prop_assert_eq!(effective.dead_letter_exchange.as_deref(), argument.or(policy));
    }
}
