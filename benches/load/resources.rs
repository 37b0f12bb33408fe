//! What a broker needs before any message: time to start, memory, and memory of connections that do nothing.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::broker::{Broker, Program};
use super::connection::Connection;
use super::options::{Options, Target};
use super::process::{Cpu, Process, pause};
use super::table::Row;

/// How long its idle CPU time is measured.
const WATCH: Duration = Duration::from_secs(2);
/// The receive buffer of a connection that receives nothing.
const SMALL_BUFFER: usize = 1 << 10;

/// Starts and stops the program once.
pub(crate) fn start(options: &Options) -> Result<Vec<Row>> {
    let Target::Program(path) = &options.address else { bail!("--start needs a program to start") };
    let program = Program::start(path, &options.directory)?;
    let ready_after = program.ready_after;
    let process = program.process();
    let cpu = process.cpu()?;
    let memory = process.settled_memory()?;
    let stopped_after = program.stop()?;
    Ok(vec![
        Row::milliseconds("exec to ready", Some(ready_after)),
        Row::new("CPU until ready, ms", Some(cpu.total() * 1e3), 0),
        Row::new("idle memory, MiB", Some(memory.resident / 1024.0), 1),
        Row::new("memory at most, MiB", Some(memory.peak / 1024.0), 1),
        Row::milliseconds("SIGTERM to exit", Some(stopped_after)),
    ])
}

/// Opens connections and leaves them alone.
pub(crate) fn idle(options: &Options, connections: u32, broker: &Broker) -> Result<Vec<Row>> {
    allow_files(connections)?;
    let memory = || broker.process.map(Process::memory).transpose();
    let cpu = || broker.process.map(Process::cpu).transpose();
    let (memory_before, cpu_before) = (memory()?, cpu()?);

    let begun = Instant::now();
    let open: Vec<Connection> = (0..connections)
        .map(|_| Connection::open(options, &broker.address, SMALL_BUFFER))
        .collect::<Result<_>>()?;
    let seconds = begun.elapsed().as_secs_f64();
    let cpu_open = cpu()?;
    let memory_after = broker.process.map(Process::settled_memory).transpose()?;
    let cpu_idle = cpu()?;
    pause(WATCH);
    let cpu_end = cpu()?;
    open.into_iter().try_for_each(|connection| connection.close(|_| Ok(())))?;

    let count = f64::from(connections);
    let spent = |from: Option<Cpu>, to: Option<Cpu>| from.zip(to).map(|(from, to)| to.since(from).total());
    let grown = memory_before.zip(memory_after).map(|(before, after)| after.resident - before.resident);
    let idle_share = spent(cpu_idle, cpu_end).map(|cpu| cpu / WATCH.as_secs_f64() * 100.0);
    Ok(vec![
        Row::new("memory, KiB/connection", grown.map(|kib| kib / count), 2),
        Row::new("broker memory before, MiB", memory_before.map(|memory| memory.resident / 1024.0), 1),
        Row::new("broker memory with them, MiB", memory_after.map(|memory| memory.resident / 1024.0), 1),
        Row::new("opened/s, one after another", Some(count / seconds), 0),
        Row::new("broker CPU, us/opening", spent(cpu_before, cpu_open).map(|cpu| cpu * 1e6 / count), 0),
        Row::new("broker CPU when idle, %", idle_share, 1),
    ])
}

/// Raises this process's limit of open files as far as allowed. A broker that was started before keeps its own.
fn allow_files(connections: u32) -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    match limit.maximum {
        Some(maximum) if maximum < u64::from(connections) + 50 => {
            bail!("{connections} connections, but only {maximum} files may be open (ulimit -n)")
        }
        _ => Ok(()),
    }
}
