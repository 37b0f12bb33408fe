//! Messages that wait for a consumer: what they cost while they wait, whether they survive, and how they go.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::broker::Broker;
use super::options::Options;
use super::process::Process;
use super::restart::restarts;
use super::run::{self, Mark, Shared};
use super::table::Row;
use super::topology::Topology;

/// Publishes a backlog, restarts a broker that was started here, drains it and checks every message; then publishes
/// it twice more, to be purged and to be deleted.
pub(crate) fn measure(options: &Options, broker: &mut Broker, rows: &mut Vec<Row>) -> Result<()> {
    let mut topology = Topology::declare(options, &broker.address)?;
    let measured = measure_in(options, broker, &mut topology, rows);
    // Whatever happened, nothing is left on a broker that others use.
    let deleted = topology.delete();
    measured?;
    deleted.context("cleaning up")
}

fn measure_in(
    options: &Options,
    broker: &mut Broker,
    topology: &mut Topology,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let due = u64::from(options.backlog.context("--backlog is not given")?);
    let sequences = store(options, broker, topology, rows)?;
    restarts(options, broker, topology, due, rows)?;
    drain(options, broker, topology, &sequences, rows).context("draining")?;

    publish(options, broker, topology)?;
    rows.push(emptied("purge", due, || topology.purge())?);
    topology.check_empty()?;
    publish(options, broker, topology)?;
    rows.push(emptied("delete", due, || topology.delete_queues())?);
    // They must not come back with their messages.
    topology.declare_queues()?;
    topology.check_empty()
}

/// Publishes the backlog and looks at the broker with it; returns the messages sent, by publisher and queue.
fn store(
    options: &Options,
    broker: &Broker,
    topology: &mut Topology,
    rows: &mut Vec<Row>,
) -> Result<Vec<Vec<u64>>> {
    let mebibytes = |kib: f64| kib / 1024.0;
    let before = broker.process.map(Process::settled_memory).transpose()?;
    if let Some(process) = broker.process {
        process.forget_peak();
    }
    let (sequences, published) = publish(options, broker, topology)?;
    let after = broker.process.map(Process::settled_memory).transpose()?;
    let added = before.zip(after).map(|(before, after)| after.resident - before.resident);

    rows.extend(published.into_iter().map(|row| row.of("publish")));
    rows.push(Row::new("memory before, MiB", before.map(|memory| mebibytes(memory.resident)), 1));
    rows.push(Row::new("memory added, MiB", added.map(mebibytes), 1));
    rows.push(Row::new("memory at most, MiB", after.map(|memory| mebibytes(memory.peak)), 1));
    rows.push(disk("disk, MiB", broker)?);
    Ok(sequences)
}

/// Publishes the backlog; returns the messages sent, by publisher and queue, and what they cost.
fn publish(options: &Options, broker: &Broker, topology: &mut Topology) -> Result<(Vec<Vec<u64>>, Vec<Row>)> {
    let publishers = run::publishers(options, broker, topology)?;
    let shared = Shared::new(options);
    let outcome = run::conduct(options, &shared, broker.process, publishers, Vec::new())?;
    let (from, to) = (outcome.from, outcome.to);
    let (sent, _) = outcome.close(options)?;
    let count: u64 = sent.sequences.iter().flatten().sum();
    let messages = topology.messages()?;
    if messages != count {
        bail!("the queues hold {messages} messages, {count} were published and confirmed");
    }
    let mut rows = vec![Row::new("messages/s", Some(count as f64 / (to.at - from.at)), 0)];
    rows.extend(to.cost(&from, count as f64));
    rows.extend(run::quantiles("confirm", &sent.confirms, true));
    Ok((sent.sequences, rows))
}

/// Consumes the backlog and checks that it comes complete, once and in order.
fn drain(
    options: &Options,
    broker: &Broker,
    topology: &mut Topology,
    sequences: &[Vec<u64>],
    rows: &mut Vec<Row>,
) -> Result<()> {
    let count: u64 = sequences.iter().flatten().sum();
    let shared = Shared::new(options);
    shared.published.store(count, Relaxed);
    if let Some(process) = broker.process {
        process.forget_peak();
    }
    // The first deliveries come with the subscription.
    let from = Mark::take(&shared, broker.process)?;
    let consumers = run::consumers(options, broker, topology)?;
    let outcome = run::conduct(options, &shared, broker.process, Vec::new(), consumers)?;
    let to = outcome.to;
    let memory = broker.process.map(Process::memory).transpose()?;
    let (_, seen) = outcome.close(options)?;
    run::check_streams(options, sequences, &seen)?;
    topology.check_empty()?;

    let mut drained = vec![Row::new("messages/s", Some(count as f64 / (to.at - from.at)), 0)];
    drained.extend(to.cost(&from, count as f64));
    drained.push(Row::new("memory at most, MiB", memory.map(|memory| memory.peak / 1024.0), 1));
    drained.push(disk("disk afterwards, MiB", broker)?);
    rows.extend(drained.into_iter().map(|row| row.of("drain")));
    Ok(())
}

/// How long it takes to throw the whole backlog away.
fn emptied(what: &str, due: u64, empty: impl FnOnce() -> Result<u64>) -> Result<Row> {
    let begun = Instant::now();
    let messages = empty()?;
    let row = Row::milliseconds(format!("{what} to {what}-ok"), Some(begun.elapsed()));
    if messages != due {
        bail!("{what}-ok counts {messages} messages of {due}");
    }
    Ok(row)
}

fn disk(name: &str, broker: &Broker) -> Result<Row> {
    Ok(Row::new(name, broker.disk_bytes()?.map(|bytes| bytes as f64 / 1048576.0), 1))
}
