//! The broker as a whole: everything here is read from counters, and no queue is looked at.

use super::text::{Exposition, Kind, labels};
use crate::{
    broker::{
        alarm::Resource,
        death::Reason,
        queue::QueueKind,
        stats::{Counter, DeliveryCounters, Stats},
    },
    management::{Shared, api::nodes, process},
    server::{disk_limit_bytes, watermark_bytes},
};

use Kind::{Counter as COUNTER, Gauge as GAUGE};

/// The protocol that everything here goes over.
const PROTOCOL: (&str, &str) = ("protocol", "amqp091");

/// What dashboards join everything else with. `endpoint` is which of the paths this is.
pub(super) fn identity(text: &mut Exposition, api: &Shared, endpoint: &str) {
    let identity = &api.broker.identity;
    text.family("build_info", GAUGE, "Version of the broker, and of RabbitMQ as clients are told");
    let build = labels(&[
        ("rabbitmq_version", &identity.version),
        ("prometheus_plugin_version", &identity.version),
        ("prometheus_client_version", env!("CARGO_PKG_VERSION")),
        ("erlang_version", "none"),
        ("product_name", "Leveret"),
        ("product_version", env!("CARGO_PKG_VERSION")),
    ]);
    text.sample("build_info", &build, 1);
    text.family("identity_info", GAUGE, "Name of the node and its cluster");
    let name = &identity.cluster_name;
    let identity = labels(&[
        ("rabbitmq_node", name),
        ("rabbitmq_cluster", name),
        ("rabbitmq_cluster_permanent_id", name),
        ("rabbitmq_endpoint", endpoint),
    ]);
    text.sample("identity_info", &identity, 1);
}

/// What comes and goes.
pub(super) fn churn(text: &mut Exposition, api: &Shared) {
    let stats = &api.broker.stats;
    let counters = [
        ("connections_opened_total", "Connections opened", &stats.connections_opened),
        ("connections_closed_total", "Connections closed", &stats.connections_closed),
        ("channels_opened_total", "Channels opened", &stats.channels_opened),
        ("channels_closed_total", "Channels closed", &stats.channels_closed),
        ("queues_declared_total", "Times that a queue was declared", &stats.queues_declared),
        ("queues_created_total", "Queues made", &stats.queues_created),
        ("queues_deleted_total", "Queues deleted", &stats.queues_deleted),
        ("auth_attempts_succeeded_total", "Logins that succeeded", &stats.logins_succeeded),
        ("auth_attempts_failed_total", "Logins that were refused", &stats.logins_failed),
    ];
    for (name, help, counter) in counters {
        text.single(name, COUNTER, help, counter.get());
    }
    let logins = stats.logins_succeeded.get() + stats.logins_failed.get();
    text.single("auth_attempts_total", COUNTER, "Logins", logins);
    let gauges = [
        ("connections", "Connections open", stats.connections.get()),
        ("channels", "Channels open", stats.channels.get()),
        ("consumers", "Consumers", stats.consumers.get()),
        ("queues", "Queues", u64::from(api.broker.queue_count())),
    ];
    for (name, help, value) in gauges {
        text.single(name, GAUGE, help, value);
    }
}

/// The process, its machine, and the alarms.
pub(super) async fn node(text: &mut Exposition, api: &Shared) {
    let (process, disk_free_bytes) = nodes::measured(api).await;
    let (stats, alarms, config) = (&api.broker.stats, &api.broker.alarms, &api.config);
    let storage = &config.storage;
    let disk_limit_bytes =
        disk_limit_bytes(config.limits.disk_free_limit, &storage.data_dir, storage.segment_bytes);
    let gauges = [
        ("process_open_fds", "Open file descriptors", process.descriptors),
        ("process_max_fds", "Limit on open file descriptors", process::descriptors_max()),
        ("process_open_tcp_sockets", "Connections of clients", stats.connections.get()),
        ("process_resident_memory_bytes", "Memory that the process has", process.resident_bytes()),
        (
            "resident_memory_limit_bytes",
            "Memory above which publishers are blocked",
            watermark_bytes(&config.limits.memory_high_watermark),
        ),
        ("disk_space_available_bytes", "Free space for the data directory", disk_free_bytes),
        (
            "disk_space_available_limit_bytes",
            "Free space below which publishers are blocked",
            disk_limit_bytes,
        ),
        (
            "alarms_memory_used_watermark",
            "1 while publishers are blocked for want of memory",
            alarms.is_raised(Resource::Memory).into(),
        ),
        (
            "alarms_free_disk_space_watermark",
            "1 while publishers are blocked for want of disk space",
            alarms.is_raised(Resource::Disk).into(),
        ),
        ("alarms_file_descriptor_limit", "1 while there are no file descriptors left", 0),
    ];
    for (name, help, value) in gauges {
        text.single(name, GAUGE, help, value);
    }
    let uptime_ms = api.now().monotonic_ms - api.started.monotonic_ms;
    let uptime_seconds = uptime_ms as f64 / 1000.0;
    text.single(
        "erlang_uptime_seconds",
        GAUGE,
        "Time since the start, under the name that dashboards read",
        uptime_seconds,
    );
    text.single("io_read_ops_total", COUNTER, "Reads of messages from disk", stats.disk_reads.get());
    text.single("io_write_ops_total", COUNTER, "Messages written to disk", stats.disk_writes.get());
}

/// Messages, of all queues and channels together.
pub(super) fn messages(text: &mut Exposition, api: &Shared) {
    messages_of_all(text, api);
    let stats = &api.broker.stats;
    let (ready, unacked) = (stats.ready.get(), stats.unacked.get());
    text.single("queue_messages_ready", GAUGE, "Messages that wait for a consumer", ready);
    text.single("queue_messages_unacked", GAUGE, "Messages that are delivered and not settled", unacked);
    text.single("queue_messages", GAUGE, "Messages ready or unacked", ready + unacked);
    text.single("queue_consumers", GAUGE, "Consumers of queues", stats.consumers.get());
    let messages = &stats.messages;
    let counters: [(&str, &str, &Counter); 11] = [
        ("queue_messages_published_total", "Messages published to queues", &stats.routed),
        ("channel_messages_published_total", "Messages published", &messages.publish),
        ("channel_messages_confirmed_total", "Messages confirmed to publishers", &messages.confirm),
        (
            "channel_messages_unroutable_returned_total",
            "Messages returned as unroutable",
            &messages.return_unroutable,
        ),
        (
            "channel_messages_unroutable_dropped_total",
            "Messages dropped as unroutable",
            &messages.drop_unroutable,
        ),
        ("channel_get_ack_total", "Messages got, to be acknowledged", &messages.get),
        ("channel_get_total", "Messages got without acknowledgement", &messages.get_no_ack),
        ("channel_messages_delivered_ack_total", "Messages delivered, to be acknowledged", &messages.deliver),
        (
            "channel_messages_delivered_total",
            "Messages delivered without acknowledgement",
            &messages.deliver_no_ack,
        ),
        ("channel_messages_redelivered_total", "Messages delivered again", &messages.redeliver),
        ("channel_messages_acked_total", "Messages acknowledged", &messages.ack),
    ];
    for (name, help, counter) in counters {
        text.single(name, COUNTER, help, counter.get());
    }
}

/// What RabbitMQ counts for the broker as a whole only, beside what there is of each object.
pub(super) fn messages_of_all(text: &mut Exposition, api: &Shared) {
    let stats = &api.broker.stats;
    by_protocol(text, stats);
    by_kind_of_queue(text, stats);
    dead_lettered(text, stats);
    let protocol = labels(&[PROTOCOL]);
    text.histogram(
        "message_size_bytes",
        "Sizes of the bodies of published messages",
        &protocol,
        &stats.message_bytes,
        1.0,
    );
    let help = "How long messages were in their queues when they were delivered, from samples";
    text.histogram("queue_dwell_time_seconds", help, "", &stats.dwell_ms, 1000.0);
}

fn by_protocol(text: &mut Exposition, stats: &Stats) {
    let protocol = labels(&[PROTOCOL]);
    for (name, help, value) in [
        ("global_publishers", "Channels that something was published on", stats.publishers.get()),
        ("global_consumers", "Consumers", stats.consumers.get()),
    ] {
        text.family(name, GAUGE, help);
        text.sample(name, &protocol, value);
    }
    let messages = &stats.messages;
    let counters = [
        ("received", "Messages from publishers", &messages.publish),
        ("received_confirm", "Messages from publishers that want a confirm", &stats.publish_confirm),
        ("confirmed", "Messages confirmed to publishers", &messages.confirm),
        ("routed", "Messages that a queue was found for", &stats.routed),
        ("unroutable_dropped", "Messages dropped for want of a queue", &messages.drop_unroutable),
        ("unroutable_returned", "Messages returned for want of a queue", &messages.return_unroutable),
    ];
    for (name, help, counter) in counters {
        let name = format!("global_messages_{name}_total");
        text.family(&name, COUNTER, help);
        text.sample(&name, &protocol, counter.get());
    }
}

fn by_kind_of_queue(text: &mut Exposition, stats: &Stats) {
    type Read = fn(&DeliveryCounters) -> u64;
    let counters: [(&str, &str, Read); 8] = [
        ("delivered", "Messages delivered, in whichever way", |of| {
            let ways = [&of.consume_auto_ack, &of.consume_manual_ack, &of.get_auto_ack, &of.get_manual_ack];
            ways.into_iter().map(Counter::get).sum()
        }),
        ("delivered_consume_auto_ack", "Messages delivered to consumers that do not acknowledge", |of| {
            of.consume_auto_ack.get()
        }),
        ("delivered_consume_manual_ack", "Messages delivered to consumers that acknowledge", |of| {
            of.consume_manual_ack.get()
        }),
        ("delivered_get_auto_ack", "Messages got without acknowledgement", |of| of.get_auto_ack.get()),
        ("delivered_get_manual_ack", "Messages got, to be acknowledged", |of| of.get_manual_ack.get()),
        ("get_empty", "Times that basic.get found nothing", |of| of.get_empty.get()),
        ("redelivered", "Messages delivered again", |of| of.redelivered.get()),
        ("acknowledged", "Messages acknowledged", |of| of.acknowledged.get()),
    ];
    for (name, help, read) in counters {
        let name = format!("global_messages_{name}_total");
        text.family(&name, COUNTER, help);
        for kind in QueueKind::ALL {
            let labels = labels(&[PROTOCOL, ("queue_type", kind.name())]);
            text.sample(&name, &labels, read(&stats.delivered[kind as usize]));
        }
    }
}

/// RabbitMQ's third strategy, `disabled`, counts what is dropped because no exchange is named: nothing is told of that here.
fn dead_lettered(text: &mut Exposition, stats: &Stats) {
    const STRATEGIES: [(&str, bool); 2] = [("at_most_once", false), ("at_least_once", true)];
    for reason in Reason::ALL {
        let name = format!("global_messages_dead_lettered_{}_total", reason.name());
        text.family(&name, COUNTER, "Messages dead-lettered for this reason");
        for kind in QueueKind::ALL {
            for (strategy, at_least_once) in STRATEGIES {
                let labels = labels(&[("queue_type", kind.name()), ("dead_letter_strategy", strategy)]);
                text.sample(&name, &labels, stats.dead[kind as usize].of(reason, at_least_once).get());
            }
        }
    }
    let name = "global_messages_dead_lettered_confirmed_total";
    text.family(name, COUNTER, "Dead letters that may not be lost, and that their new queues have taken");
    for kind in QueueKind::ALL {
        let labels = labels(&[("queue_type", kind.name()), ("dead_letter_strategy", "at_least_once")]);
        text.sample(name, &labels, stats.dead_confirmed[kind as usize].get());
    }
}
