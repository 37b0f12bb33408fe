//! The measurements in turn: whatever the options ask for, on each broker.

use anyhow::{Context, Result};

use super::broker::Broker;
use super::options::Options;
use super::resources;
use super::run::run;
use super::table::{Column, Row, print};
use super::topology::Topology;

/// Measures what the options ask for and prints the report. An error is a failed check as well.
pub(crate) fn measure(options: &Options) -> Result<()> {
    if options.start {
        let runs = repeat(options, || resources::start(options))?;
        return print(&format!("start, {} runs", options.runs), &[Column { name: "leveret".into(), runs }]);
    }
    let mut brokers = vec![Broker::open(&options.address, options.pid)?];
    if let Some(target) = &options.against {
        brokers.push(Broker::open(target, options.against_pid)?);
    }
    let measured = match options.idle {
        Some(connections) => idle(options, connections, &brokers),
        None => compare(options, &brokers),
    };
    let closed = brokers.into_iter().try_for_each(Broker::close);
    measured.and(closed)
}

fn repeat(options: &Options, mut once: impl FnMut() -> Result<Vec<Row>>) -> Result<Vec<Vec<Row>>> {
    (0..options.runs).map(|_| once()).collect()
}

fn idle(options: &Options, connections: u32, brokers: &[Broker]) -> Result<()> {
    let mut columns = Vec::new();
    for broker in brokers {
        let (name, rows) = resources::idle(options, connections, broker)?;
        columns.push(Column { name: format!("{name} at {}", broker.address), runs: vec![rows] });
    }
    print(&format!("{connections} idle connections, one channel each"), &columns)
}

/// Runs the scenario on the brokers in turn: what else the machine does then hits each of them alike.
fn compare(options: &Options, brokers: &[Broker]) -> Result<()> {
    let mut topologies = Vec::new();
    let result = compare_on(options, brokers, &mut topologies);
    // Whatever happened, nothing is left on a broker that others use.
    let deleted = topologies.into_iter().try_for_each(Topology::delete);
    let columns = result?;
    deleted.context("cleaning up")?;
    print(&options.describe(), &columns)
}

fn compare_on(options: &Options, brokers: &[Broker], topologies: &mut Vec<Topology>) -> Result<Vec<Column>> {
    let mut columns = Vec::new();
    for broker in brokers {
        let topology = Topology::declare(options, &broker.address)?;
        columns.push(Column::new(format!("{} at {}", topology.server(), broker.address)));
        topologies.push(topology);
    }
    for _ in 0..options.runs {
        for ((broker, topology), column) in brokers.iter().zip(&mut *topologies).zip(&mut columns) {
            let rows = run(options, broker, topology).with_context(|| column.name.clone())?;
            column.runs.push(rows);
        }
    }
    Ok(columns)
}
