//! The end of a broker and its new start, in good order and by force, and what it still knows.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::broker::{Broker, Restart};
use super::connection::Connection;
use super::options::Options;
use super::process::Process;
use super::table::Row;
use super::topology::Topology;
use super::wire::id;

/// The two ways.
const SIGNALS: [(&str, Signal); 2] = [("SIGTERM", Signal::TERM), ("SIGKILL", Signal::KILL)];

/// Restarts the broker in both ways and checks that all queues are there, with `due` messages. The rows are the same,
/// without values, for a broker that was not started here, which is left alone.
pub(crate) fn restarts(
    options: &Options,
    broker: &mut Broker,
    topology: &mut Topology,
    due: u64,
    rows: &mut Vec<Row>,
) -> Result<()> {
    for (name, signal) in SIGNALS {
        topology.disconnect()?;
        let restart = broker.restart(signal).with_context(|| format!("after {name}"))?;
        topology.reconnect(&broker.address)?;
        let mut row = |row: Row| rows.push(row.of(name));
        recover(options, broker, topology, restart.as_ref(), due, &mut row)
            .with_context(|| format!("after {name} and a new start"))?;
    }
    Ok(())
}

fn recover(
    options: &Options,
    broker: &Broker,
    topology: &mut Topology,
    restart: Option<&Restart>,
    due: u64,
    row: &mut impl FnMut(Row),
) -> Result<()> {
    row(Row::milliseconds("signal to exit", restart.map(|restart| restart.stopped_after)));
    row(Row::milliseconds("exec to ready", restart.map(|restart| restart.ready_after)));
    check_messages(topology, due)?;
    row(Row::milliseconds("exec to all shown", restart.map(|restart| restart.begun.elapsed())));
    let cpu = restart.and(broker.process).map(Process::cpu).transpose()?;
    row(Row::new("CPU until then, ms", cpu.map(|cpu| cpu.total() * 1e3), 0));
    if due > 0 {
        row(Row::milliseconds("exec to first delivery", first_delivery(options, broker, topology, restart)?));
    }
    let memory = restart.and(broker.process).map(Process::settled_memory).transpose()?;
    row(Row::new("memory, MiB", memory.map(|memory| memory.resident / 1024.0), 1));
    row(Row::new("memory at most, MiB", memory.map(|memory| memory.peak / 1024.0), 1));
    Ok(())
}

fn check_messages(topology: &mut Topology, due: u64) -> Result<()> {
    let messages = topology.messages().with_context(|| match due {
        0 => "a queue is missing".into(),
        due => format!("all {due} messages are missing, and their queue too"),
    })?;
    if messages < due {
        bail!("{} of {due} messages are missing", due - messages);
    }
    if messages > due {
        bail!("{messages} messages where {due} were");
    }
    Ok(())
}

/// From exec to the first message that a consumer gets, which goes back to its queue.
fn first_delivery(
    options: &Options,
    broker: &Broker,
    topology: &Topology,
    restart: Option<&Restart>,
) -> Result<Option<Duration>> {
    let Some(restart) = restart else { return Ok(None) };
    let mut connection = Connection::open(options, &broker.address, 1 << 16)?;
    connection.call(id::BASIC_QOS, id::BASIC_QOS_OK, |a| {
        a.u32(0).u16(1).u8(0);
    })?;
    connection.call(id::BASIC_CONSUME, id::BASIC_CONSUME_OK, |a| {
        a.u16(0).short(&topology.queue(0)).short("first").u8(0).empty_table();
    })?;
    connection.wait_for(id::BASIC_DELIVER).context("nothing was delivered")?;
    let after = restart.begun.elapsed();
    connection.close(|_| Ok(()))?;
    Ok(Some(after))
}
