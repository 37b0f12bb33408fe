//! What it costs to find the bindings that a message follows, by type of exchange and number of bindings.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use leveret::amqp::{Properties, Table, Value};
use leveret::broker::exchange::{Bindings, ExchangeKind, Routing};

/// Bindings of destination 0, 1, 2 and so on, from what makes the key and the arguments of each.
fn bindings(kind: ExchangeKind, count: u32, binding: impl Fn(u32) -> (String, Table)) -> Bindings<u32> {
    let mut bindings = Bindings::new(kind);
    for number in 0..count {
        let (key, arguments) = binding(number);
        bindings.insert(&key, &arguments, number).expect("the binding is valid");
    }
    bindings
}

/// Sensors in sites: most bindings name one sensor, some all sensors of a site or one measure of a sensor anywhere.
fn topic_key(number: u32) -> String {
    let site = number % 100;
    match number % 10 {
        0 => format!("site-{site}.sensor-{number}.#"),
        1 => format!("*.sensor-{number}.temperature"),
        2 => format!("#.sensor-{number}.alarm"),
        _ => format!("site-{site}.sensor-{number}.temperature"),
    }
}

fn fields(fields: &[(&str, Value)]) -> Table {
    fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn route(bindings: &Bindings<u32>, key: &str, headers: Option<&[u8]>) -> u32 {
    let mut found = 0;
    let properties = Properties { headers, ..Properties::default() };
    bindings.route(&Routing { keys: &[black_box(key)], properties, now_ms: 0 }, &mut |_| found += 1);
    found
}

fn direct(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("direct");
    for count in [1_000, 100_000] {
        let bindings =
            bindings(ExchangeKind::Direct, count, |number| (format!("orders.{number}"), Table::default()));
        assert_eq!(route(&bindings, "orders.77", None), 1);
        group.bench_function(format!("{count} bindings"), |bench| {
            bench.iter(|| route(&bindings, "orders.77", None));
        });
    }
}

fn topic(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("topic");
    for count in [1_000, 100_000] {
        let bindings = bindings(ExchangeKind::Topic, count, |number| (topic_key(number), Table::default()));
        let keys = [
            ("literal", "site-77.sensor-77.temperature", 1),
            ("any one word", "elsewhere.sensor-71.temperature", 1),
            ("any words", "a.b.c.d.sensor-72.alarm", 1),
            ("none", "site-1.other.pressure", 0),
        ];
        for (name, key, matching) in keys {
            assert_eq!(route(&bindings, key, None), matching, "{key}");
            group.bench_function(format!("{count} bindings, {name}"), |bench| {
                bench.iter(|| route(&bindings, key, None));
            });
        }
    }
}

fn headers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("headers");
    for x_match in ["all", "any"] {
        let bindings = bindings(ExchangeKind::Headers, 100, |number| {
            let customer = Value::I32(number.cast_signed());
            let arguments = [("x-match", x_match.into()), ("format", "pdf".into()), ("customer", customer)];
            (String::new(), fields(&arguments))
        });
        let mut message = Vec::new();
        let format = if x_match == "all" { "pdf" } else { "html" };
        fields(&[("format", format.into()), ("customer", Value::I64(77)), ("attempt", Value::I32(1))])
            .encode(&mut message);
        // A message's properties hold the table without its length.
        let message = &message[4..];
        assert_eq!(route(&bindings, "", Some(message)), 1);
        group.bench_function(format!("100 bindings, {x_match}"), |bench| {
            bench.iter(|| route(&bindings, "", Some(black_box(message))));
        });
    }
}

/// The types that choose one of many destinations.
fn choice(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("choice");
    let kinds = [ExchangeKind::ConsistentHash, ExchangeKind::ModulusHash, ExchangeKind::Random];
    for kind in kinds {
        for count in [10, 1_000] {
            let mut bindings = bindings(kind, count, |_| ("10".to_owned(), Table::default()));
            // Holes among the buckets.
            (0..count / 4).for_each(|number| _ = bindings.remove_destination(&(number * 4)));
            assert_eq!(route(&bindings, "orders.77", None), 1);
            group.bench_function(format!("{}, {count} bindings", kind.name()), |bench| {
                bench.iter(|| route(&bindings, "orders.77", None));
            });
        }
    }
}

fn binding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bind and unbind");
    let mut bindings = bindings(ExchangeKind::Topic, 100_000, |number| (topic_key(number), Table::default()));
    group.bench_function("topic, 100000 bindings", |bench| {
        bench.iter(|| {
            bindings.insert(black_box("site-1.new.#"), &Table::default(), 1).expect("the binding is valid");
            bindings.remove("site-1.new.#", &Table::default(), &1)
        });
    });
    group.bench_function("topic, 100000 bindings, a destination", |bench| {
        bench.iter(|| {
            bindings
                .insert(black_box("site-1.new.#"), &Table::default(), u32::MAX)
                .expect("the binding is valid");
            bindings.remove_destination(&u32::MAX)
        });
    });
}

criterion_group!(routing, direct, topic, headers, choice, binding);
criterion_main!(routing);
