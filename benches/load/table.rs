//! The table of figures: a column for each broker, with the medians of its runs.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Result;

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

    /// A time, in milliseconds.
    pub(crate) fn milliseconds(name: impl AsRef<str>, time: Option<Duration>) -> Row {
        Row::new(format!("{}, ms", name.as_ref()), time.map(|time| time.as_secs_f64() * 1e3), 1)
    }

    /// The same figure of another part of the measurement.
    pub(crate) fn of(mut self, part: &str) -> Row {
        self.name = format!("{part}: {}", self.name);
        self
    }

    fn text(&self) -> String {
        self.value.map_or("-".into(), |value| format!("{value:.*}", self.decimals))
    }
}

/// The figures of one broker: its name and, of each run, the same rows. A run that failed has the first of them.
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) runs: Vec<Vec<Row>>,
}

impl Column {
    pub(crate) fn new(name: impl Into<String>) -> Column {
        Column { name: name.into(), runs: Vec::new() }
    }

    /// The middle value of each row; the lower of two in the middle.
    fn medians(&self) -> Vec<Row> {
        let Some(mut rows) = self.runs.iter().max_by_key(|rows| rows.len()).cloned() else {
            return Vec::new();
        };
        for (at, row) in rows.iter_mut().enumerate() {
            let mut values: Vec<f64> = self.runs.iter().filter_map(|run| run.get(at)?.value).collect();
            values.sort_by(f64::total_cmp);
            row.value = values.get(values.len().saturating_sub(1) / 2).copied();
        }
        rows
    }
}

/// Prints the columns side by side, each after the first with its ratio to the first.
pub(crate) fn print(title: &str, columns: &[Column]) -> Result<()> {
    let medians: Vec<Vec<Row>> = columns.iter().map(Column::medians).collect();
    let longest = medians.iter().max_by_key(|rows| rows.len()).map_or(&[][..], |rows| rows);
    let runs = columns.first().map_or(0, |column| column.runs.len());
    let width = longest.iter().map(|row| row.name.len()).max().unwrap_or(0).max(30);

    let mut out = io::stdout().lock();
    writeln!(out, "{title}")?;
    for (letter, column) in ('A'..).zip(columns) {
        writeln!(out, "{letter} = {}", column.name)?;
    }
    write!(out, "{:width$}", if runs > 1 { format!("median of {runs} runs") } else { String::new() })?;
    for (letter, _) in ('A'..).zip(columns) {
        let ratio = if letter == 'A' { String::new() } else { format!("{:>10}", format!("{letter} / A")) };
        write!(out, "{letter:>14}{ratio}")?;
    }
    writeln!(out)?;
    for (at, row) in longest.iter().enumerate() {
        writeln!(out, "{:width$}{}", row.name, figures(&medians, at))?;
    }
    Ok(())
}

/// One line's figures and ratios.
fn figures(medians: &[Vec<Row>], at: usize) -> String {
    let value = |rows: &Vec<Row>| rows.get(at)?.value;
    let first = medians.first().and_then(value).filter(|first| *first != 0.0);
    let mut line = String::new();
    for (column, rows) in medians.iter().enumerate() {
        line += &format!("{:>14}", rows.get(at).map_or("-".into(), Row::text));
        if column > 0 {
            let ratio = first.zip(value(rows)).map(|(first, value)| value / first);
            line += &format!("{:>10}", Row::new("", ratio, 2).text());
        }
    }
    line
}
