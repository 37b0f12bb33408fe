//! What a command prints on standard output, by formatter.

use std::io::{self, BufWriter, Write};

use serde_json::{Value, json};

use super::{arguments::Options, term};

/// `--formatter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Formatter {
    /// Values separated by tabs. What other formatters would draw is printed so too.
    Table,
    Json,
    Csv,
}

impl Formatter {
    pub(super) fn parse(name: &str) -> Self {
        match name {
            "json" | "json_stream" => Self::Json,
            "csv" => Self::Csv,
            _ => Self::Table,
        }
    }
}

/// What a command has to say.
#[derive(Debug)]
pub(super) enum Output {
    /// Nothing but that it is done.
    Done,
    /// A sentence or a page.
    Text(String),
    /// The same for people and for programs.
    Both(String, Value),
    /// Rows, each with a value for each column.
    Rows(Vec<String>, Vec<Vec<Value>>),
}

impl Output {
    /// Prints it.
    ///
    /// # Errors
    /// If standard output can't be written.
    pub(super) fn print(&self, options: &Options) -> io::Result<()> {
        let mut out = BufWriter::new(io::stdout().lock());
        match (self, options.formatter) {
            (Self::Done, Formatter::Json) => writeln!(out, "{}", json!({"result": "ok"}))?,
            (Self::Done, _) => {}
            (Self::Text(text), Formatter::Json) => writeln!(out, "{}", json!({"message": text}))?,
            (Self::Both(_, value), Formatter::Json) => writeln!(out, "{value}")?,
            (Self::Text(text) | Self::Both(text, _), _) => writeln!(out, "{text}")?,
            (Self::Rows(columns, rows), Formatter::Table) => {
                // As RabbitMQ's: who gets no rows gets no headings.
                if !options.no_headers && !rows.is_empty() {
                    writeln!(out, "{}", columns.join("\t"))?;
                }
                for row in rows {
                    let cells: Vec<String> = row.iter().map(term::text).collect();
                    writeln!(out, "{}", cells.join("\t"))?;
                }
            }
            (Self::Rows(columns, rows), Formatter::Csv) => {
                if !options.no_headers && !rows.is_empty() {
                    writeln!(out, "{}", quoted(columns.iter().map(String::as_str)))?;
                }
                for row in rows {
                    let cells: Vec<String> = row.iter().map(term::text).collect();
                    writeln!(out, "{}", quoted(cells.iter().map(String::as_str)))?;
                }
            }
            (Self::Rows(columns, rows), Formatter::Json) => {
                writeln!(out, "[")?;
                for (index, row) in rows.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    // In the order of the columns.
                    let fields = columns.iter().zip(row);
                    let fields =
                        fields.map(|(column, value)| format!("{}:{}", json!(column), term::typed(value)));
                    writeln!(out, "{comma}{{{}}}", fields.collect::<Vec<_>>().join(","))?;
                }
                writeln!(out, "]")?;
            }
        }
        out.flush()
    }
}

fn quoted<'a>(cells: impl Iterator<Item = &'a str>) -> String {
    cells.map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect::<Vec<_>>().join(",")
}
