//! How long one message at a time waits until it is on the disk, beside the least that any program would wait.

use std::fs::File;
use std::io::Write;
use std::time::Instant;

use anyhow::{Result, bail};
use hdrhistogram::Histogram;

use super::broker::Broker;
use super::directory::Directory;
use super::options::Options;
use super::process::{Cpu, Process};
use super::run::{self, Shared, latencies};
use super::table::Row;
use super::topology::Topology;

/// What is appended before each bare sync.
const BLOCK_BYTES: usize = 4096;
/// The name of what both do.
pub(crate) const BARE: &str = "append of 4 KiB and fdatasync";

/// Appends to a file and syncs it, over and over, where the brokers started here have their data.
pub(crate) fn bare(options: &Options) -> Result<Vec<Row>> {
    let directory = Directory::create(&options.directory)?;
    let mut file = File::create(directory.path().join("bare"))?;
    append(&mut file, options.warmup)?;
    let before = Process::own().cpu()?;
    let latency = append(&mut file, options.seconds)?;
    Ok(rows(options, &latency, Some(Process::own().cpu()?.since(before))))
}

fn append(file: &mut File, seconds: f64) -> Result<Histogram<u64>> {
    let block = [0x5A; BLOCK_BYTES];
    let mut latency = latencies();
    let begun = Instant::now();
    while begun.elapsed().as_secs_f64() < seconds {
        let written = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        latency.saturating_record(written.elapsed().as_nanos() as u64);
    }
    Ok(latency)
}

/// Publishes without a consumer, each message once the one before is confirmed. The rows are those of [`bare`].
pub(crate) fn confirmed(options: &Options, broker: &Broker, topology: &mut Topology) -> Result<Vec<Row>> {
    let publishers = run::publishers(options, broker, topology)?;
    let shared = Shared::new(options);
    let outcome = run::conduct(options, &shared, broker.process, publishers, Vec::new())?;
    let spent = outcome.to.broker_cpu(&outcome.from);
    let (sent, _) = outcome.close(options)?;
    let (count, purged) = (sent.sequences.iter().flatten().sum::<u64>(), topology.purge()?);
    if count != purged {
        bail!("the queues held {purged} messages, {count} were confirmed");
    }
    Ok(rows(options, &sent.confirms, spent))
}

fn rows(options: &Options, latency: &Histogram<u64>, cpu: Option<Cpu>) -> Vec<Row> {
    let count = latency.len() as f64;
    let mut rows = run::quantiles("on disk", latency, true);
    rows.push(Row::new("one after another/s", Some(count / options.seconds), 0));
    rows.push(Row::new("CPU, us each", cpu.map(|cpu| cpu.total() * 1e6 / count), 1));
    rows
}
