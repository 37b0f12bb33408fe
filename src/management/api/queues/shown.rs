//! A queue as JSON: RabbitMQ's fields, and those of ours.

use std::{borrow::Cow, sync::Arc};

use serde_json::{Map, Value, json};

use crate::{
    broker::{
        policy::Policy,
        queue::{ConsumerFigures, QueueFigures, QueueHandle, QueueKind},
    },
    json::from_table,
    management::{
        Api, Shared,
        api::{channels::connection_details, consumers},
        list::{ListQuery, Row},
        rates::{Object, Ranges, View},
        time,
    },
};

/// Octets that an idle queue takes, about.
const QUEUE_BYTES: u64 = 1024;

/// A queue in a list.
pub(super) struct QueueRow {
    pub(super) queue: Arc<QueueHandle>,
    pub(super) api: Shared,
}

/// How much of queues a request asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// Not only what does not change.
    stats: bool,
    /// The numbers of messages, even if nothing else that changes.
    totals: bool,
    ranges: Ranges,
}

impl Asked {
    /// What a request asks for.
    pub(super) fn new(query: &ListQuery) -> Self {
        Self { stats: !query.disable_stats, totals: query.enable_queue_totals, ranges: query.ranges }
    }
}

impl Row for QueueRow {
    fn virtual_host(&self) -> &str {
        &self.queue.virtual_host
    }

    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.queue.name)
    }

    fn column(&self, column: &str) -> Option<Value> {
        let queue = &self.queue;
        if let Some(name) = column.strip_suffix("_details.rate") {
            let name = name.strip_prefix("message_stats.").unwrap_or(name);
            return self.view(&Ranges::default()).details(name).get("rate").cloned();
        }
        let figures = || queue.lock().figures(self.api.now());
        Some(match column {
            "messages" => (figures().ready + figures().unacked).into(),
            "messages_ready" => figures().ready.into(),
            "messages_unacknowledged" => figures().unacked.into(),
            "message_bytes" => (figures().ready_bytes + figures().unacked_bytes).into(),
            "message_bytes_ready" => figures().ready_bytes.into(),
            "consumers" => figures().consumers.into(),
            "memory" => memory_bytes(&figures()).into(),
            "type" => kind_name(queue).into(),
            "durable" => queue.properties.durable.into(),
            "auto_delete" => queue.properties.auto_delete.into(),
            "exclusive" => queue.properties.exclusive.is_some().into(),
            "state" => "running".into(),
            "policy" => policy_name(&queue.policies().policy),
            "message_stats.publish" => queue.messages.counts().publish.into(),
            "message_stats.deliver_get" => queue.messages.counts().deliver_get().into(),
            "message_stats.ack" => queue.messages.counts().ack.into(),
            _ => return None,
        })
    }
}

impl QueueRow {
    fn view(&self, ranges: &Ranges) -> View {
        self.api.rates.of(Object::Queue(self.queue.id), ranges, self.api.now().unix_ms)
    }
}

/// A queue in a list.
pub(super) fn shown_in_list(row: &QueueRow, asked: &Asked) -> Value {
    Value::Object(shown(row, asked))
}

/// A queue by itself, with its consumers.
pub(super) fn shown_alone(row: &QueueRow, asked: &Asked) -> Value {
    let mut object = shown(row, asked);
    object.insert("consumer_details".to_owned(), consumers::of_queue(&row.api, &row.queue).into());
    // Which exchanges and channels its messages come from and go to is not counted.
    object.insert("incoming".to_owned(), json!([]));
    object.insert("deliveries".to_owned(), json!([]));
    Value::Object(object)
}

fn shown(row: &QueueRow, asked: &Asked) -> Map<String, Value> {
    let mut object = declared(row);
    if asked.stats {
        put_stats(&mut object, row, asked);
    } else if asked.totals {
        let figures = row.queue.lock().figures(row.api.now());
        object.insert("messages".to_owned(), (figures.ready + figures.unacked).into());
        object.insert("messages_ready".to_owned(), figures.ready.into());
        object.insert("messages_unacknowledged".to_owned(), figures.unacked.into());
    }
    object
}

/// What it was declared as.
fn declared(row: &QueueRow) -> Map<String, Value> {
    let queue = &row.queue;
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| _ = object.insert(name.to_owned(), value);
    put("name", (*queue.name).into());
    put("vhost", (*queue.virtual_host).into());
    put("type", kind_name(queue).into());
    put("durable", queue.properties.durable.into());
    put("auto_delete", queue.properties.auto_delete.into());
    put("exclusive", queue.properties.exclusive.is_some().into());
    put("arguments", from_table(&queue.properties.table));
    put("node", row.api.node().into());
    object
}

fn put_stats(object: &mut Map<String, Value>, row: &QueueRow, asked: &Asked) {
    let (figures, consumers) = {
        // Messages wait meanwhile, so it is not asked for consumers that nobody wants to know.
        let queue = row.queue.lock();
        let figures = queue.figures(row.api.now());
        let is_alone = figures.consumers == 1 || row.queue.arguments().single_active_consumer;
        let consumers = if is_alone && figures.consumers > 0 { queue.consumer_list() } else { Vec::new() };
        (figures, consumers)
    };
    let view = row.view(&asked.ranges);
    view.put_lengths(object, figures.ready, figures.unacked);
    if let Some(stats) = view.queue_stats(&row.queue.messages.counts()) {
        object.insert("message_stats".to_owned(), Value::Object(stats));
    }
    put_messages(object, &figures);
    put_consumers(object, row, &figures, &consumers);
    put_policies(object, &row.queue);
    put_process(object, &row.api, &row.queue, &figures);
    if let Some(idle_ms) = idle_since_ms(row, &figures, &view) {
        object.insert("idle_since".to_owned(), time::text(idle_ms).into());
    }
    if let Some(owner) = row.queue.properties.exclusive.and_then(|id| row.api.broker.connections.get(id)) {
        object.insert("owner_pid_details".to_owned(), connection_details(&owner));
    }
}

/// Since when nobody has used it, if so: nobody consumes, and no messages come.
fn idle_since_ms(row: &QueueRow, figures: &QueueFigures, view: &View) -> Option<u64> {
    let rate = view.details("publish").get("rate").and_then(Value::as_f64);
    let is_idle = figures.consumers == 0 && figures.unacked == 0 && rate == Some(0.0);
    is_idle.then(|| row.queue.used_ms()).filter(|used_ms| *used_ms > 0)
}

/// How many messages, of how many octets, and where.
fn put_messages(object: &mut Map<String, Value>, figures: &QueueFigures) {
    let paged = figures.ready.saturating_sub(figures.ready_in_memory);
    // How large those in memory are is not counted apart.
    let in_memory_bytes = if paged == 0 { figures.ready_bytes } else { figures.memory_bytes };
    let in_memory_bytes = in_memory_bytes.min(figures.ready_bytes);
    for (name, figure) in [
        ("messages_ram", figures.ready_in_memory + figures.unacked),
        ("messages_ready_ram", figures.ready_in_memory),
        ("messages_unacknowledged_ram", figures.unacked),
        ("messages_persistent", figures.persistent),
        ("messages_paged_out", paged),
        ("message_bytes", figures.ready_bytes + figures.unacked_bytes),
        ("message_bytes_ready", figures.ready_bytes),
        ("message_bytes_unacknowledged", figures.unacked_bytes),
        ("message_bytes_ram", in_memory_bytes + figures.unacked_bytes),
        ("message_bytes_persistent", figures.persistent_bytes),
        ("message_bytes_paged_out", figures.ready_bytes - in_memory_bytes),
    ] {
        object.insert(name.to_owned(), figure.into());
    }
    object.insert("head_message_timestamp".to_owned(), figures.head_timestamp.into());
    object.insert("oldest_ready_age_ms".to_owned(), figures.oldest_ready_age_ms.into());
}

/// Deviation: how well consumers are used is what it is at this moment: 1 if one could take a message, else 0. RabbitMQ
/// tells the part of the time in which that was so.
fn put_consumers(
    object: &mut Map<String, Value>,
    row: &QueueRow,
    figures: &QueueFigures,
    consumers: &[ConsumerFigures],
) {
    let capacity =
        if figures.consumers == 0 { json!(0) } else { json!(f64::from(u8::from(figures.has_free_consumer))) };
    let tag = |consumer: Option<&ConsumerFigures>| consumer.map(|consumer| &*consumer.tag).into();
    let exclusive = tag(consumers.iter().find(|consumer| consumer.exclusive));
    let single_active = row.queue.arguments().single_active_consumer;
    let active = tag(consumers.iter().find(|consumer| single_active && consumer.is_active));
    object.insert("consumers".to_owned(), figures.consumers.into());
    object.insert("consumer_capacity".to_owned(), capacity.clone());
    object.insert("consumer_utilisation".to_owned(), capacity);
    object.insert("exclusive_consumer_tag".to_owned(), exclusive);
    object.insert("single_active_consumer_tag".to_owned(), active);
}

fn put_policies(object: &mut Map<String, Value>, queue: &QueueHandle) {
    let policies = queue.policies();
    object.insert("policy".to_owned(), policy_name(&policies.policy));
    object.insert("operator_policy".to_owned(), policy_name(&policies.operator));
    object.insert("effective_policy_definition".to_owned(), from_table(&policies.definition()));
}

/// What there is because in RabbitMQ a queue is a process, perhaps with replicas; tools and scripts read some of it.
fn put_process(object: &mut Map<String, Value>, api: &Api, queue: &QueueHandle, figures: &QueueFigures) {
    let mut put = |name: &str, value: Value| _ = object.insert(name.to_owned(), value);
    put("state", "running".into());
    put("memory", memory_bytes(figures).into());
    put("reductions", 0.into());
    put("reductions_details", json!({"rate": 0.0}));
    put(
        "garbage_collection",
        json!({
            "fullsweep_after": 0, "max_heap_size": 0, "min_bin_vheap_size": 0, "min_heap_size": 0, "minor_gcs": 0,
        }),
    );
    match queue.arguments().kind {
        QueueKind::Classic => {
            put("backing_queue_status", json!({"len": figures.ready, "mode": "default", "version": 2}));
            put("recoverable_slaves", Value::Null);
        }
        QueueKind::Quorum => {
            put("leader", api.node().into());
            put("members", json!([api.node()]));
            put("online", json!([api.node()]));
            put("delivery_limit", queue.arguments().delivery_limit.into());
            put("messages_dlx", 0.into());
            put("message_bytes_dlx", 0.into());
            put("open_files", json!({api.node(): 0}));
        }
    }
}

/// Octets that a queue takes in memory.
fn memory_bytes(figures: &QueueFigures) -> u64 {
    QUEUE_BYTES + figures.memory_bytes + figures.unacked_bytes
}

fn kind_name(queue: &QueueHandle) -> &'static str {
    match queue.arguments().kind {
        QueueKind::Classic => "classic",
        QueueKind::Quorum => "quorum",
    }
}

fn policy_name(policy: &Option<Arc<Policy>>) -> Value {
    policy.as_ref().map(|policy| &*policy.name).into()
}
