//! What a message costs in a queue: entering it, reaching an outbox, being settled.

use std::{collections::VecDeque, hint::black_box, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use leveret::{
    amqp::{Table, Value},
    broker::{
        effects::Effects,
        limit::Count,
        message::{Message, PublishedBody},
        outbox::{ConnectionId, ConsumerId, Item, Outbox},
        queue::{ConsumerSpec, QueueArguments, QueueHandle, QueueId, QueueProperties},
        refusal::Resource,
    },
};

/// Messages that enter a queue under one lock.
const BATCH: usize = 256;

struct Bench {
    handle: Arc<QueueHandle>,
    outbox: Arc<Outbox>,
    message: Message,
    effects: Effects,
    items: VecDeque<Item>,
}

impl Bench {
    fn new(arguments: &Table, consumers: u32, no_ack: bool) -> Self {
        let resource = Resource { kind: "queue", name: "q", virtual_host: "/" };
        let properties = QueueProperties {
            durable: false,
            auto_delete: false,
            exclusive: None,
            table: arguments.clone(),
            arguments: QueueArguments::parse(arguments, resource).expect("sound arguments"),
        };
        let permit = Arc::new(Count::new(None)).take().expect("no limit");
        let handle = Arc::new(QueueHandle::new(
            QueueId(1),
            "q".into(),
            "/".into(),
            properties,
            permit,
            Arc::default(),
        ));
        let outbox = Arc::new(Outbox::new(ConnectionId(1), 1 << 30));
        for place in 0..consumers {
            let spec = ConsumerSpec {
                id: ConsumerId { place, generation: 0 },
                tag: "tag".into(),
                channel: 1,
                arguments: Table::default(),
                outbox: Arc::clone(&outbox),
                credit: Arc::default(),
                prefetch: 0,
                priority: 0,
                no_ack,
                exclusive: false,
            };
            handle.lock().add_consumer(spec, handle.resource()).expect("a consumer");
        }
        let body = PublishedBody::Small(&[0; 16]);
        let message = Message::new(("", "q"), &[0, 0], body, false, None, &mut Vec::new());
        Self { handle, outbox, message, effects: Effects::default(), items: VecDeque::new() }
    }

    /// A batch of messages enters, and what is delivered is taken and settled.
    fn pass(&mut self) {
        let mut queue = self.handle.lock();
        for _ in 0..BATCH {
            let message = self.message.clone();
            black_box(queue.publish(message, leveret::broker::NEVER, &self.handle, &mut self.effects))
                .expect("there is room");
        }
        queue.deliver(&self.handle, &mut self.effects);
        drop(queue);
        self.outbox.take(&mut self.items, usize::MAX);
        let mut queue = self.handle.lock();
        for item in self.items.drain(..) {
            if let Item::Delivery(delivery) = item {
                black_box(queue.settle(delivery.slot, delivery.sequence, &mut self.effects));
            }
        }
    }
}

fn queues(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue");
    group.throughput(Throughput::Elements(BATCH as u64));
    let priorities = Table(vec![("x-max-priority".into(), Value::I32(10))]);
    // What the first rows pay nothing for.
    let ttl = Table(vec![("x-message-ttl".into(), Value::I32(60_000))]);
    let keys = Table(vec![("x-group-by".into(), "property:correlation-id".into())]);
    let retries = Table(vec![("x-retry-delays".into(), "1s,10s".into())]);
    let limit = Table(vec![("x-max-length".into(), Value::I32(1_000_000))]);
    for (name, arguments, consumers, no_ack) in [
        ("one consumer, no acks", Table::default(), 1, true),
        ("one consumer, acks", Table::default(), 1, false),
        ("100 consumers, acks", Table::default(), 100, false),
        ("one consumer, acks, 10 priorities", priorities, 1, false),
        ("one consumer, acks, a TTL", ttl, 1, false),
        ("one consumer, acks, keys", keys, 1, false),
        ("one consumer, acks, retries", retries, 1, false),
        ("one consumer, acks, a limit", limit, 1, false),
    ] {
        let mut bench = Bench::new(&arguments, consumers, no_ack);
        group.bench_function(name, |bencher| bencher.iter(|| bench.pass()));
    }
    group.finish();
}

criterion_group!(benches, queues);
criterion_main!(benches);
