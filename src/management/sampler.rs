//! Reads the figures that [`Rates`](super::rates::Rates) compares, every five seconds.

use std::{sync::Arc, time::Duration};

use super::{
    Api,
    process::Process,
    rates::{INTERVAL_MS, Object, message_figures},
};
use crate::{
    broker::{Broker, Now},
    storage::disk,
};

/// Samples for as long as the broker runs, at multiples of the interval, as RabbitMQ does.
pub(crate) async fn sample(api: Arc<Api>) {
    loop {
        let now_ms = api.now().unix_ms;
        tokio::time::sleep(Duration::from_millis(INTERVAL_MS - now_ms % INTERVAL_MS)).await;
        let now = api.now();
        let at_ms = now.unix_ms - now.unix_ms % INTERVAL_MS;
        api.rates.record_node(at_ms, Object::Totals, &totals(&api.broker));
        if !api.rates.is_asked(now.unix_ms) {
            api.rates.rest();
            continue;
        }
        let api = Arc::clone(&api);
        let read = tokio::task::spawn_blocking(move || {
            api.rates.record_node(at_ms, Object::Node, &process(&api));
            api.rates.sweep(at_ms, |each| objects(&api.broker, now, each));
        });
        // A bug of ours in there is in the log; the next turn tries again.
        let _ = read.await.is_ok();
    }
}

/// In the order of [`Object::Totals`].
fn totals(broker: &Broker) -> Vec<u64> {
    let stats = &broker.stats;
    let (ready, unacked) = (stats.ready.get(), stats.unacked.get());
    let mut figures = message_figures(&stats.messages.counts()).to_vec();
    figures.extend([stats.disk_reads.get(), stats.disk_writes.get(), ready + unacked, ready, unacked]);
    figures.extend(churn(broker));
    figures
}

/// What comes and goes, in RabbitMQ's order.
pub(super) fn churn(broker: &Broker) -> [u64; 7] {
    let stats = &broker.stats;
    [
        &stats.connections_opened,
        &stats.connections_closed,
        &stats.channels_opened,
        &stats.channels_closed,
        &stats.queues_declared,
        &stats.queues_created,
        &stats.queues_deleted,
    ]
    .map(|counter| counter.get())
}

/// In the order of [`Object::Node`].
fn process(api: &Api) -> [u64; 6] {
    let process = Process::now();
    let free = disk::free_bytes(&api.config.storage.data_dir).unwrap_or(0);
    let sockets = api.broker.stats.connections.get();
    [process.resident_bytes(), process.descriptors, sockets, process.threads, free, process.context_switches]
}

/// The figures of everything in the broker, each in the order of its [`Object`].
fn objects(broker: &Broker, now: Now, each: &mut dyn FnMut(Object, &[u64])) {
    for host in broker.virtual_hosts() {
        for queue in host.queues() {
            let figures = queue.lock().figures(now);
            let mut sampled = [0; 15];
            sampled[..12].copy_from_slice(&message_figures(&queue.messages.counts()));
            sampled[12..].copy_from_slice(&[figures.ready + figures.unacked, figures.ready, figures.unacked]);
            each(Object::Queue(queue.id), &sampled);
        }
        for exchange in host.exchanges() {
            let routed = [exchange.published_in.get(), exchange.published_out.get()];
            each(Object::Exchange(exchange.id), &routed);
        }
    }
    for connection in broker.connections.list() {
        let octets = [
            &connection.received_bytes,
            &connection.sent_bytes,
            &connection.received_packets,
            &connection.sent_packets,
        ];
        each(Object::Connection(connection.id()), &octets.map(|counter| counter.get()));
        for (number, channel) in connection.channels() {
            each(Object::Channel(connection.id(), number), &message_figures(&channel.messages.counts()));
        }
    }
}
