//! The measurements in turn: whatever the options ask for, on each broker.

use anyhow::{Context, Result};

use super::broker::Broker;
use super::options::{Options, Target};
use super::table::{Column, Row, print};
use super::topology::Topology;
use super::{backlog, idle_queues, resources, run, sync};

/// Measures what the options ask for and prints the report. An error is a failed check as well; what was measured
/// before it is printed all the same.
pub(crate) fn measure(options: &Options) -> Result<()> {
    if options.start {
        return start(options);
    }
    if let Some(count) = options.backlog {
        return afresh(options, &format!("backlog of {count}, {}", options.describe()), backlog::measure);
    }
    if let Some(count) = options.idle_queues {
        return afresh(options, &format!("{count} durable queues without a message"), idle_queues::measure);
    }
    let mut brokers = Vec::new();
    for (target, pid) in targets(options) {
        brokers.push(Broker::open(options, target, pid)?);
    }
    let measured = match options.idle {
        Some(connections) => idle(options, connections, &brokers),
        None => compare(options, &brokers),
    };
    let closed = brokers.into_iter().try_for_each(Broker::close);
    measured.and(closed)
}

/// The brokers, and their process ids if given.
fn targets(options: &Options) -> impl Iterator<Item = (&Target, Option<u32>)> {
    let against = options.against.as_ref().map(|target| (target, options.against_pid));
    std::iter::once((&options.address, options.pid)).chain(against)
}

fn start(options: &Options) -> Result<()> {
    let mut column = Column::new("leveret");
    for _ in 0..options.runs {
        column.runs.push(resources::start(options)?);
    }
    print(&format!("start, {} runs", options.runs), &[column])
}

fn idle(options: &Options, connections: u32, brokers: &[Broker]) -> Result<()> {
    let mut columns = Vec::new();
    for broker in brokers {
        let mut column = Column::new(&broker.name);
        column.runs.push(resources::idle(options, connections, broker)?);
        columns.push(column);
    }
    print(&format!("{connections} idle connections, one channel each"), &columns)
}

/// A measurement of a broker, which adds its rows as it gets them.
type Measurement = fn(&Options, &mut Broker, &mut Vec<Row>) -> Result<()>;

/// Measures the brokers in turn. One that is started here is started for each run, since memory it has used before is
/// not added any more.
fn afresh(options: &Options, title: &str, measurement: Measurement) -> Result<()> {
    let mut columns = Vec::new();
    let measured = afresh_in(options, measurement, &mut columns);
    print(title, &columns)?;
    measured
}

fn afresh_in(options: &Options, measurement: Measurement, columns: &mut Vec<Column>) -> Result<()> {
    for _ in 0..options.runs {
        for (at, (target, pid)) in targets(options).enumerate() {
            let mut broker = Broker::open(options, target, pid)?;
            if columns.len() == at {
                columns.push(Column::new(&broker.name));
            }
            let mut rows = Vec::new();
            let measured = measurement(options, &mut broker, &mut rows);
            columns[at].runs.push(rows);
            measured.and(broker.close()).with_context(|| columns[at].name.clone())?;
        }
    }
    Ok(())
}

/// Runs the scenario on the brokers in turn: what else the machine does then hits each of them alike.
fn compare(options: &Options, brokers: &[Broker]) -> Result<()> {
    let mut topologies = Vec::new();
    let result = compare_on(options, brokers, &mut topologies);
    // Whatever happened, nothing is left on a broker that others use.
    let deleted = topologies.into_iter().try_for_each(Topology::delete);
    let columns = result?;
    deleted.context("cleaning up")?;
    let title = match options.sync {
        true => format!("one persistent message of {} bytes at a time, without a consumer", options.size),
        false => options.describe(),
    };
    print(&title, &columns)
}

fn compare_on(options: &Options, brokers: &[Broker], topologies: &mut Vec<Topology>) -> Result<Vec<Column>> {
    let mut columns = Vec::new();
    if options.sync {
        columns.push(Column::new(sync::BARE));
    }
    for broker in brokers {
        topologies.push(Topology::declare(options, &broker.address)?);
        columns.push(Column::new(&broker.name));
    }
    for _ in 0..options.runs {
        let runs = match options.sync {
            true => sync::run(options, brokers, topologies)?,
            false => in_turn(options, brokers, topologies)?,
        };
        columns.iter_mut().zip(runs).for_each(|(column, rows)| column.runs.push(rows));
    }
    Ok(columns)
}

fn in_turn(options: &Options, brokers: &[Broker], topologies: &mut [Topology]) -> Result<Vec<Vec<Row>>> {
    let once = |(broker, topology): (&Broker, _)| {
        run::run(options, broker, topology).with_context(|| broker.name.clone())
    };
    brokers.iter().zip(topologies).map(once).collect()
}
