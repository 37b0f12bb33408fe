//! What there is to tell of each queue, connection, channel and exchange.

use std::sync::Arc;

use super::{
    objects::Asked,
    text::{Kind, labels},
};
use crate::{
    broker::{
        connections::{ChannelStatus, ConnectionStatus},
        exchange::Exchange,
        queue::QueueFigures,
        stats::MessageCounts,
    },
    management::Shared,
};

use Kind::{Counter as COUNTER, Gauge as GAUGE};

/// One number of each object.
pub(super) struct Column<R> {
    /// Its name without prefix.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    /// The number; `None` where there is none.
    pub(super) value: fn(&R) -> Option<f64>,
}

/// A short way to write a column.
const fn column<R>(
    name: &'static str,
    kind: Kind,
    help: &'static str,
    value: fn(&R) -> Option<f64>,
) -> Column<R> {
    Column { name, kind, help, value }
}

fn some(value: u64) -> Option<f64> {
    Some(value as f64)
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// A queue at one time.
pub(super) struct QueueRow {
    figures: QueueFigures,
    messages: MessageCounts,
}

pub(super) const QUEUE_COARSE: &[Column<QueueRow>] = &[
    column("queue_messages_ready", GAUGE, "Messages that wait for a consumer", |q| some(q.figures.ready)),
    column("queue_messages_unacked", GAUGE, "Messages that are delivered and not settled", |q| {
        some(q.figures.unacked)
    }),
    column("queue_messages", GAUGE, "Messages ready or unacked", |q| {
        some(q.figures.ready + q.figures.unacked)
    }),
];

pub(super) const QUEUE_CONSUMERS: &[Column<QueueRow>] =
    &[column("queue_consumers", GAUGE, "Consumers of a queue", |q| some(q.figures.consumers))];

pub(super) const QUEUE: &[Column<QueueRow>] = &[
    column("queue_messages_ready_bytes", GAUGE, "Octets of bodies of messages that are ready", |q| {
        some(q.figures.ready_bytes)
    }),
    column("queue_messages_unacked_bytes", GAUGE, "Octets of bodies of messages that are unacked", |q| {
        some(q.figures.unacked_bytes)
    }),
    column("queue_messages_bytes", GAUGE, "Octets of bodies of all messages", |q| {
        some(q.figures.ready_bytes + q.figures.unacked_bytes)
    }),
    column("queue_messages_ready_ram", GAUGE, "Messages ready that are in memory", |q| {
        some(q.figures.ready_in_memory)
    }),
    column("queue_messages_paged_out", GAUGE, "Messages ready that are on disk only", |q| {
        some(q.figures.ready.saturating_sub(q.figures.ready_in_memory))
    }),
    column("queue_messages_persistent", GAUGE, "Persistent messages", |q| some(q.figures.persistent)),
    column("queue_head_message_timestamp", GAUGE, "The timestamp property of the first message", |q| {
        q.figures.head_timestamp.and_then(some)
    }),
    column("queue_oldest_message_age_seconds", GAUGE, "How long the oldest message has been ready", |q| {
        q.figures.oldest_ready_age_ms.map(seconds)
    }),
    column("queue_messages_published_total", COUNTER, "Messages published to a queue", |q| {
        some(q.messages.publish)
    }),
];

pub(super) const QUEUE_DELIVERY: &[Column<QueueRow>] = &[
    column("queue_get_ack_total", COUNTER, "Messages got, to be acknowledged", |q| some(q.messages.get)),
    column("queue_get_total", COUNTER, "Messages got without acknowledgement", |q| {
        some(q.messages.get_no_ack)
    }),
    column("queue_messages_delivered_ack_total", COUNTER, "Messages delivered, to be acknowledged", |q| {
        some(q.messages.deliver)
    }),
    column("queue_messages_delivered_total", COUNTER, "Messages delivered without acknowledgement", |q| {
        some(q.messages.deliver_no_ack)
    }),
    column("queue_messages_redelivered_total", COUNTER, "Messages delivered again", |q| {
        some(q.messages.redeliver)
    }),
    column("queue_messages_acked_total", COUNTER, "Messages acknowledged", |q| some(q.messages.ack)),
    column("queue_get_empty_total", COUNTER, "Times that basic.get found nothing", |q| {
        some(q.messages.get_empty)
    }),
];

type Connection = Arc<ConnectionStatus>;

pub(super) const CONNECTION_COARSE: &[Column<Connection>] = &[
    column("connection_incoming_bytes_total", COUNTER, "Octets received", |c| some(c.received_bytes.get())),
    column("connection_outgoing_bytes_total", COUNTER, "Octets sent", |c| some(c.sent_bytes.get())),
];

pub(super) const CONNECTION: &[Column<Connection>] = &[
    column("connection_incoming_packets_total", COUNTER, "Times that something was received", |c| {
        some(c.received_packets.get())
    }),
    column("connection_outgoing_packets_total", COUNTER, "Times that something was sent", |c| {
        some(c.sent_packets.get())
    }),
    column("connection_pending_bytes", GAUGE, "Octets that wait to be sent", |c| some(c.unsent_bytes.get())),
    column("connection_channels", GAUGE, "Channels of a connection", |c| some(c.channel_count() as u64)),
];

type Channel = Arc<ChannelStatus>;

pub(super) const CHANNEL: &[Column<Channel>] = &[
    column("channel_consumers", GAUGE, "Consumers of a channel", |c| some(c.consumers.get())),
    column("channel_messages_unacked", GAUGE, "Deliveries that are not acknowledged", |c| {
        some(c.unacked.get())
    }),
    column("channel_messages_unconfirmed", GAUGE, "Publishes that are not confirmed", |c| {
        some(c.unconfirmed.get())
    }),
    column("channel_messages_uncommitted", GAUGE, "Publishes of an open transaction", |c| {
        some(c.uncommitted.get())
    }),
    column("channel_acks_uncommitted", GAUGE, "Acknowledgements of an open transaction", |c| {
        some(c.uncommitted_acks.get())
    }),
    column("consumer_prefetch", GAUGE, "Prefetch of consumers to come", |c| some(c.prefetch.get())),
    column("channel_prefetch", GAUGE, "Prefetch of the channel as a whole", |c| {
        some(c.global_prefetch.get())
    }),
    column("channel_messages_published_total", COUNTER, "Messages published", |c| {
        some(c.messages.publish.get())
    }),
    column("channel_messages_confirmed_total", COUNTER, "Messages confirmed", |c| {
        some(c.messages.confirm.get())
    }),
    column("channel_messages_unroutable_returned_total", COUNTER, "Messages returned as unroutable", |c| {
        some(c.messages.return_unroutable.get())
    }),
    column("channel_messages_unroutable_dropped_total", COUNTER, "Messages dropped as unroutable", |c| {
        some(c.messages.drop_unroutable.get())
    }),
    column("channel_get_ack_total", COUNTER, "Messages got, to be acknowledged", |c| {
        some(c.messages.get.get())
    }),
    column("channel_get_total", COUNTER, "Messages got without acknowledgement", |c| {
        some(c.messages.get_no_ack.get())
    }),
    column("channel_messages_delivered_ack_total", COUNTER, "Messages delivered, to be acknowledged", |c| {
        some(c.messages.deliver.get())
    }),
    column("channel_messages_delivered_total", COUNTER, "Messages delivered without acknowledgement", |c| {
        some(c.messages.deliver_no_ack.get())
    }),
    column("channel_messages_redelivered_total", COUNTER, "Messages delivered again", |c| {
        some(c.messages.redeliver.get())
    }),
    column("channel_messages_acked_total", COUNTER, "Messages acknowledged", |c| some(c.messages.ack.get())),
    column("channel_get_empty_total", COUNTER, "Times that basic.get found nothing", |c| {
        some(c.messages.get_empty.get())
    }),
];

pub(super) const EXCHANGE: &[Column<Arc<Exchange>>] = &[
    column("exchange_messages_published_in_total", COUNTER, "Messages published to an exchange", |x| {
        some(x.published_in.get())
    }),
    column(
        "exchange_messages_published_out_total",
        COUNTER,
        "Messages that an exchange gave to queues",
        |x| some(x.published_out.get()),
    ),
];

pub(super) const EXCHANGE_BINDINGS: &[Column<Arc<Exchange>>] =
    &[column("exchange_bindings", GAUGE, "Bindings from an exchange", |x| {
        x.bindings.read().ok().and_then(|bindings| some(bindings.len() as u64))
    })];

/// Queues that are looked at before others get their turn.
const QUEUES_AT_A_TIME: usize = 1000;

/// The queues that are asked for.
pub(super) async fn queues(api: &Shared, asked: &Asked) -> Vec<(String, QueueRow)> {
    let mut rows = Vec::new();
    let hosts = api.broker.virtual_hosts().into_iter().filter(|host| asked.has_virtual_host(&host.name));
    for queues in hosts.map(|host| host.queues()) {
        for some_queues in queues.chunks(QUEUES_AT_A_TIME) {
            let now = api.now();
            for queue in some_queues.iter().filter(|queue| !queue.delays && asked.has_queue(&queue.name)) {
                let figures = queue.lock().figures(now);
                let labels = labels(&[("vhost", &queue.virtual_host), ("queue", &queue.name)]);
                rows.push((labels, QueueRow { figures, messages: queue.messages.counts() }));
            }
            tokio::task::yield_now().await;
        }
    }
    rows
}

fn asked_connections(api: &Shared, asked: &Asked) -> Vec<Connection> {
    let mut connections = api.broker.connections.list();
    connections.retain(|connection| asked.has_virtual_host(&connection.virtual_host));
    connections
}

/// The connections that are asked for.
pub(super) fn connections(api: &Shared, asked: &Asked) -> Vec<(String, Connection)> {
    let connections = asked_connections(api, asked).into_iter();
    connections.map(|connection| (labels(&[("connection", &connection.name())]), connection)).collect()
}

/// Their channels.
pub(super) fn channels(api: &Shared, asked: &Asked) -> Vec<(String, Channel)> {
    let channels = asked_connections(api, asked).into_iter().flat_map(|connection| {
        let name = connection.name();
        let channels = connection.channels().into_iter();
        channels
            .map(move |(number, channel)| (labels(&[("channel", &format!("{name} ({number})"))]), channel))
    });
    channels.collect()
}

/// The exchanges that are asked for.
pub(super) fn exchanges(api: &Shared, asked: &Asked) -> Vec<(String, Arc<Exchange>)> {
    let hosts = api.broker.virtual_hosts().into_iter().filter(|host| asked.has_virtual_host(&host.name));
    let exchanges = hosts.flat_map(|host| {
        let exchanges = host.exchanges().into_iter();
        exchanges
            .map(move |exchange| (labels(&[("vhost", &host.name), ("exchange", &exchange.name)]), exchange))
            .collect::<Vec<_>>()
    });
    exchanges.collect()
}
