//! Durable queues that hold nothing: what each of them costs, and whether they survive.

use std::time::Instant;

use anyhow::Result;

use super::broker::Broker;
use super::options::Options;
use super::process::{Cpu, Process};
use super::restart::restarts;
use super::table::Row;
use super::topology::Topology;

/// Declares the queues, many before each wait for answers, restarts a broker that was started here, and deletes them.
pub(crate) fn measure(options: &Options, broker: &mut Broker, rows: &mut Vec<Row>) -> Result<()> {
    let mut topology = declare(options, broker, rows)?;
    if let Err(error) = restarts(options, broker, &mut topology, 0, rows) {
        // The first error is the one to tell.
        let _ = topology.delete();
        return Err(error);
    }
    delete(options, broker, topology, rows)
}

fn declare(options: &Options, broker: &Broker, rows: &mut Vec<Row>) -> Result<Topology> {
    let queues = f64::from(options.queues);
    let state = || -> Result<(Option<f64>, Option<f64>, Option<Cpu>)> {
        let memory = broker.process.map(Process::settled_memory).transpose()?;
        let files = broker.process.and_then(Process::open_files);
        let cpu = broker.process.map(Process::cpu).transpose()?;
        Ok((memory.map(|memory| memory.resident / 1024.0), files.map(|files| files as f64), cpu))
    };
    let (memory_before, files_before, cpu_before) = state()?;
    let begun = Instant::now();
    let topology = Topology::declare(options, &broker.address)?;
    let seconds = begun.elapsed().as_secs_f64();
    let (memory, files, cpu) = state()?;
    let disk = broker.disk_bytes()?;

    let added = |from: Option<f64>, to: Option<f64>| from.zip(to).map(|(from, to)| to - from);
    let grown = added(memory_before, memory);
    let spent = cpu_before.zip(cpu).map(|(from, to)| to.since(from).total() * 1e6 / queues);
    rows.extend([
        Row::new("declared/s", Some(queues / seconds), 0),
        Row::new("broker CPU, us/declare", spent, 1),
        Row::new("memory before, MiB", memory_before, 1),
        Row::new("memory added, MiB", grown, 1),
        Row::new("memory, bytes/queue", grown.map(|mib| mib * 1048576.0 / queues), 0),
        Row::new("open files before", files_before, 0),
        // The connection that declares is one of them.
        Row::new("open files added", added(files_before, files), 0),
        Row::new("disk, MiB", disk.map(|bytes| bytes as f64 / 1048576.0), 1),
    ]);
    Ok(topology)
}

fn delete(options: &Options, broker: &Broker, topology: Topology, rows: &mut Vec<Row>) -> Result<()> {
    let before = broker.process.map(Process::cpu).transpose()?;
    let begun = Instant::now();
    topology.delete()?;
    let seconds = begun.elapsed().as_secs_f64();
    let after = broker.process.map(Process::cpu).transpose()?;
    let queues = f64::from(options.queues);
    let spent = before.zip(after).map(|(from, to)| to.since(from).total() * 1e6 / queues);
    rows.push(Row::new("deleted/s", Some(queues / seconds), 0));
    rows.push(Row::new("broker CPU, us/delete", spent, 1));
    Ok(())
}
