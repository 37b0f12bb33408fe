//! The measurements in turn, and the table of their medians.

use std::io::{self, Write};

use anyhow::{Context, Result};

use super::broker::Broker;
use super::options::Options;
use super::resources;
use super::run::run;
use super::topology::Topology;

/// One figure; `None` if it could not be had.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    name: String,
    value: Option<f64>,
    decimals: usize,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>, value: Option<f64>, decimals: usize) -> Row {
        Row { name: name.into(), value, decimals }
    }

    fn text(&self) -> String {
        self.value.map_or("-".into(), |value| format!("{value:.*}", self.decimals))
    }
}

/// The figures of one broker: its name and, of each run, the same rows.
struct Column {
    name: String,
    runs: Vec<Vec<Row>>,
}

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
        columns
            .push(Column { name: format!("{} at {}", topology.server(), broker.address), runs: Vec::new() });
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

/// The middle value of each row; the lower of two in the middle.
fn medians(runs: &[Vec<Row>]) -> Vec<Row> {
    let mut rows = runs[0].clone();
    for (at, row) in rows.iter_mut().enumerate() {
        let mut values: Vec<f64> = runs.iter().filter_map(|run| run[at].value).collect();
        values.sort_by(f64::total_cmp);
        row.value = values.get(values.len().saturating_sub(1) / 2).copied();
    }
    rows
}

fn print(title: &str, columns: &[Column]) -> Result<()> {
    let medians: Vec<Vec<Row>> = columns.iter().map(|column| medians(&column.runs)).collect();
    let runs = columns[0].runs.len();
    let mut out = io::stdout().lock();
    writeln!(out, "{title}")?;
    for (letter, column) in ["A", "B"].iter().zip(columns) {
        writeln!(out, "{letter} = {}", column.name)?;
    }
    write!(out, "{:30}{:>14}", if runs > 1 { format!("median of {runs} runs") } else { String::new() }, "A")?;
    writeln!(
        out,
        "{}",
        if columns.len() > 1 { format!("{:>14}{:>10}", "B", "B / A") } else { String::new() }
    )?;
    for (at, row) in medians[0].iter().enumerate() {
        write!(out, "{:30}", row.name)?;
        for column in &medians {
            write!(out, "{:>14}", column[at].text())?;
        }
        if let [a, b] = &medians[..] {
            let ratio = a[at].value.zip(b[at].value).filter(|(a, _)| *a != 0.0).map(|(a, b)| b / a);
            write!(out, "{:>10}", Row::new("", ratio, 2).text())?;
        }
        writeln!(out)?;
    }
    Ok(())
}
