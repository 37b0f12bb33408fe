//! `/api/nodes`, and what is asked of a node: `/api/reset`, `/api/rebalance/queues`, `/api/config/effective`.

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
    routing::{delete, get, post},
};
use serde_json::{Map, Value, json};

use super::overview::{contexts, exchange_types};
use crate::{
    broker::alarm::Resource,
    config::Config,
    management::{
        Api, Shared,
        caller::{Administrator, Caller, Tag},
        error::ApiError,
        list::{ListQuery, Row},
        process::{self, Process},
        rates::{Object, View},
        sampler::churn,
    },
    server::disk_limit_bytes,
    storage::disk,
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/nodes", get(list))
        .route("/nodes/{node}", get(one))
        .route("/nodes/{node}/memory", get(memory))
        .route("/nodes/{node}/memory/relative", get(relative_memory))
        .route("/reset", delete(reset))
        .route("/reset/{node}", delete(reset_node))
        .route("/rebalance/queues", post(rebalance))
        .route("/config/effective", get(config))
}

/// The only node there is, as a row of a list.
struct Node(Value);

impl Row for Node {
    fn name(&self) -> std::borrow::Cow<'_, str> {
        self.0["name"].as_str().unwrap_or_default().into()
    }
}

async fn list(State(api): State<Shared>, caller: Caller, query: ListQuery) -> Result<Response, ApiError> {
    caller.require(Tag::Monitoring)?;
    let node = Node(node(&api, &query).await);
    query.whole_list(vec![node], |node| node.0.clone()).await
}

async fn one(
    State(api): State<Shared>,
    caller: Caller,
    Path(name): Path<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    caller.require(Tag::Monitoring)?;
    api.expect_node(&name)?;
    let node = node(&api, &query).await;
    Ok(query.one(node))
}

/// What is known of the node. What only Erlang has is 0.
async fn node(api: &Shared, query: &ListQuery) -> Value {
    let (process, disk_free) = measured(api).await;
    let config = &api.config;
    let now = api.now();
    let broker = &api.broker;
    let descriptors_max = process::descriptors_max();
    let mut node = object(json!({
        "name": api.node(),
        "type": "disc",
        "running": true,
        "being_drained": false,
        "uptime": now.monotonic_ms.saturating_sub(api.started.monotonic_ms),
        "os_pid": std::process::id().to_string(),
        "mem_limit": broker.runtime.memory_watermark_bytes(),
        "mem_alarm": broker.alarms.is_raised(Resource::Memory),
        "mem_calculation_strategy": "rss",
        "disk_free_limit": disk_limit(config),
        "disk_free_alarm": broker.alarms.is_raised(Resource::Disk),
        "fd_total": descriptors_max,
        // As RabbitMQ: what is left for clients.
        "sockets_total": descriptors_max / 10 * 9,
        "proc_total": process::threads_max(),
        "run_queue": tokio::runtime::Handle::current().metrics().global_queue_depth(),
        "processors": process::processors(),
        "rates_mode": "basic",
        "net_ticktime": 60,
        "partitions": [],
        "cluster_links": [],
        "applications": applications(api),
        "auth_mechanisms": auth_mechanisms(config),
        "exchange_types": exchange_types(),
        "contexts": contexts(api),
        "log_files": ["<stderr>"],
        "db_dir": config.storage.data_dir.display().to_string(),
        "config_files": [],
        "enabled_plugins": ["rabbitmq_management", "rabbitmq_prometheus", "rabbitmq_shovel", "rabbitmq_shovel_management"],
        "ra_open_file_metrics": {"ra_log_wal": 0, "ra_log_segment_writer": 0},
    }));
    let view = api.rates.of(Object::Node, &query.ranges, now.unix_ms);
    view.put(&mut node, "mem_used", process.resident_bytes());
    view.put(&mut node, "fd_used", process.descriptors);
    view.put(&mut node, "sockets_used", broker.stats.connections.get());
    view.put(&mut node, "proc_used", process.threads);
    view.put(&mut node, "disk_free", disk_free);
    view.put(&mut node, "context_switches", process.context_switches);
    put_nothing(&view, &mut node);
    let totals = api.rates.of(Object::Totals, &query.ranges, now.unix_ms);
    node.append(&mut totals.churn(churn(broker)));
    Value::Object(node)
}

/// What RabbitMQ's garbage collection, file cache and database count, and nothing here does.
fn put_nothing(view: &View, node: &mut Map<String, Value>) {
    const COUNTS: [&str; 15] = [
        "gc_num",
        "gc_bytes_reclaimed",
        "io_read_count",
        "io_read_bytes",
        "io_write_count",
        "io_write_bytes",
        "io_sync_count",
        "io_seek_count",
        "io_reopen_count",
        "mnesia_ram_tx_count",
        "mnesia_disk_tx_count",
        "msg_store_read_count",
        "msg_store_write_count",
        "queue_index_read_count",
        "queue_index_write_count",
    ];
    const TIMES: [&str; 4] =
        ["io_read_avg_time", "io_write_avg_time", "io_sync_avg_time", "io_seek_avg_time"];
    for name in COUNTS.iter().chain(&TIMES) {
        view.put(node, name, 0);
    }
    for name in TIMES {
        node.insert(name.into(), 0.0.into());
    }
}

/// What takes the system a moment to tell: the process, and the octets that are free for the data directory.
pub(in crate::management) async fn measured(api: &Shared) -> (Process, u64) {
    let directory = api.config.storage.data_dir.clone();
    let measured =
        tokio::task::spawn_blocking(move || (Process::now(), disk::free_bytes(&directory).unwrap_or(0)));
    measured.await.unwrap_or_default()
}

fn disk_limit(config: &Config) -> u64 {
    let storage = &config.storage;
    disk_limit_bytes(config.limits.disk_free_limit, &storage.data_dir, storage.segment_bytes)
}

/// The parts that tools look for to know what they talk to.
fn applications(api: &Api) -> Value {
    let version = &api.broker.identity.version;
    json!([
        {"name": "leveret", "description": "Leveret", "version": env!("CARGO_PKG_VERSION")},
        {"name": "rabbit", "description": "RabbitMQ", "version": version},
        {"name": "rabbitmq_management", "description": "RabbitMQ Management Console", "version": version},
        {"name": "rabbitmq_prometheus", "description": "", "version": version},
        {"name": "rabbitmq_shovel", "description": "Data Shovel for RabbitMQ", "version": version},
    ])
}

fn auth_mechanisms(config: &Config) -> Value {
    let external = config.tls.client_ca.is_some();
    json!([
        {"name": "PLAIN", "description": "SASL PLAIN authentication mechanism", "enabled": true},
        {"name": "AMQPLAIN", "description": "QPid AMQPLAIN mechanism", "enabled": true},
        {"name": "EXTERNAL", "description": "SASL EXTERNAL authentication mechanism", "enabled": external},
    ])
}

/// Where the memory is, as far as it is known: messages, the program, and the rest.
async fn memory_of(api: &Shared, caller: &Caller, node: &str) -> Result<Map<String, Value>, ApiError> {
    caller.require(Tag::Monitoring)?;
    api.expect_node(node)?;
    let (process, _) = measured(api).await;
    let messages = api.broker.pager.resident_bytes().min(process.anonymous_bytes);
    let mut memory = Map::new();
    for name in MEMORY {
        let bytes = match name {
            "binary" => messages,
            "code" => process.file_bytes,
            "other_proc" => process.anonymous_bytes - messages,
            _ => 0,
        };
        memory.insert(name.into(), bytes.into());
    }
    Ok(memory)
}

/// RabbitMQ's names of what takes memory.
const MEMORY: [&str; 23] = [
    "connection_readers",
    "connection_writers",
    "connection_channels",
    "connection_other",
    "queue_procs",
    "queue_slave_procs",
    "quorum_queue_procs",
    "quorum_queue_dlx_procs",
    "stream_queue_procs",
    "stream_queue_replica_reader_procs",
    "stream_queue_coordinator_procs",
    "plugins",
    "other_proc",
    "metrics",
    "mgmt_db",
    "mnesia",
    "quorum_ets",
    "other_ets",
    "binary",
    "msg_index",
    "code",
    "atom",
    "other_system",
];

async fn memory(
    State(api): State<Shared>,
    caller: Caller,
    Path(node): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let mut memory = memory_of(&api, &caller, &node).await?;
    let total = sum(&memory);
    memory.insert("allocated_unused".into(), 0.into());
    memory.insert("reserved_unallocated".into(), 0.into());
    memory.insert("strategy".into(), "rss".into());
    memory.insert("total".into(), json!({"erlang": total, "rss": total, "allocated": total}));
    Ok(Json(json!({"memory": memory})))
}

/// The same in percent.
async fn relative_memory(
    State(api): State<Shared>,
    caller: Caller,
    Path(node): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let mut memory = memory_of(&api, &caller, &node).await?;
    let total = sum(&memory).max(1);
    for (_, bytes) in &mut memory {
        *bytes = (bytes.as_u64().unwrap_or(0) * 100).div_ceil(total).into();
    }
    memory.insert("allocated_unused".into(), 0.into());
    memory.insert("reserved_unallocated".into(), 0.into());
    memory.insert("total".into(), 100.into());
    Ok(Json(json!({"memory": memory})))
}

fn sum(memory: &Map<String, Value>) -> u64 {
    memory.values().filter_map(Value::as_u64).sum()
}

/// Forgets all samples, so that rates begin anew. Counters go on.
async fn reset(State(api): State<Shared>, _: Administrator) -> Result<StatusCode, ApiError> {
    api.rates.reset();
    Ok(StatusCode::NO_CONTENT)
}

async fn reset_node(
    State(api): State<Shared>,
    _: Administrator,
    Path(node): Path<String>,
) -> Result<StatusCode, ApiError> {
    api.expect_node(&node)?;
    api.rates.reset();
    Ok(StatusCode::NO_CONTENT)
}

/// One node leads all queues already.
async fn rebalance(_: Administrator) -> Result<StatusCode, ApiError> {
    Ok(StatusCode::NO_CONTENT)
}

/// What the broker was started with, without its secrets.
async fn config(State(api): State<Shared>, _: Administrator) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({"config": format!("{:#?}", api.config)})))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}
