//! Rows of JSON as a table that fits the terminal, as JSON, or as values separated by tabs.

use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write},
};

use serde_json::Value;

use super::{
    failure::Failure,
    options::{Context, Format},
};

/// A column: its title, and where in a row its value is (`message_stats.publish_details.rate`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) title: Cow<'static, str>,
    pub(super) field: Cow<'static, str>,
}

/// Between two columns.
const GAP: &str = "  ";
/// A column is not cut below that.
const WIDTH_MIN: usize = 8;

impl Column {
    /// A column that is known beforehand.
    pub(super) const fn of(title: &'static str, field: &'static str) -> Self {
        Self { title: Cow::Borrowed(title), field: Cow::Borrowed(field) }
    }

    /// A column that somebody asks for, titled as its field.
    pub(super) fn named(field: &str) -> Self {
        Self { title: Cow::Owned(field.to_owned()), field: Cow::Owned(field.to_owned()) }
    }
}

/// The value at a dotted path of a row; a key that has dots itself is found as well.
pub(super) fn value_at<'a>(row: &'a Value, field: &str) -> &'a Value {
    if let Some(value) = row.get(field) {
        return value;
    }
    match field.split_once('.') {
        Some((first, rest)) => row.get(first).map_or(&Value::Null, |inner| value_at(inner, rest)),
        None => &Value::Null,
    }
}

/// Prints rows in the form that was asked for.
///
/// # Errors
/// If standard output can't be written.
pub(super) fn print(context: &Context, rows: &[Value], columns: &[Column]) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match context.format {
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, rows).map_err(io::Error::from)?;
            writeln!(out)?;
        }
        Format::Tsv => {
            if !context.quiet {
                writeln!(
                    out,
                    "{}",
                    join(columns.iter().map(|column| column.title.clone().into_owned()), "\t")
                )?;
            }
            for row in rows {
                let cells = columns.iter().map(|column| text(value_at(row, &column.field)));
                writeln!(out, "{}", join(cells, "\t"))?;
            }
        }
        Format::Table => out.write_all(render(rows, columns, !context.quiet, width()).as_bytes())?,
    }
    out.flush()?;
    Ok(())
}

/// One thing: a line for each of its fields, or JSON.
///
/// # Errors
/// If standard output can't be written.
pub(super) fn print_one(context: &Context, one: &Value, fields: &[Column]) -> Result<(), Failure> {
    if context.format == Format::Json {
        return print_json(one);
    }
    let width = fields.iter().map(|field| field.title.chars().count()).max().unwrap_or(0);
    let mut out = io::stdout().lock();
    for field in fields {
        let value = text(value_at(one, &field.field));
        match context.format {
            Format::Tsv => writeln!(out, "{}\t{value}", field.title)?,
            _ => writeln!(out, "{:<width$}{GAP}{value}", field.title)?,
        }
    }
    Ok(())
}

/// JSON for people and programs.
///
/// # Errors
/// If standard output can't be written.
pub(super) fn print_json(value: &Value) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from)?;
    writeln!(out).map_err(Failure::from)
}

/// A table; cut to that many characters a line, if there is a limit.
fn render(rows: &[Value], columns: &[Column], headings: bool, width: Option<usize>) -> String {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| columns.iter().map(|column| text(value_at(row, &column.field))).collect())
        .collect();
    let numeric: Vec<bool> = columns
        .iter()
        .map(|column| {
            let mut values =
                rows.iter().map(|row| value_at(row, &column.field)).filter(|value| !value.is_null());
            values.clone().next().is_some() && values.all(Value::is_number)
        })
        .collect();
    let mut widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let title = if headings { column.title.chars().count() } else { 0 };
            cells.iter().map(|row| row[index].chars().count()).chain([title]).max().unwrap_or(0)
        })
        .collect();
    if let Some(width) = width {
        fit(&mut widths, &numeric, width);
    }
    let mut text = String::new();
    if headings {
        line(&mut text, columns.iter().map(|column| column.title.as_ref()), &widths, &numeric);
    }
    for row in &cells {
        line(&mut text, row.iter().map(String::as_str), &widths, &numeric);
    }
    text
}

fn line<'a>(out: &mut String, cells: impl Iterator<Item = &'a str>, widths: &[usize], numeric: &[bool]) {
    let start = out.len();
    for (index, cell) in cells.enumerate() {
        if index > 0 {
            out.push_str(GAP);
        }
        let width = widths[index];
        let length = cell.chars().count();
        let padding = std::iter::repeat_n(' ', width.saturating_sub(length));
        if length > width {
            out.extend(cell.chars().take(width.saturating_sub(1)));
            out.push('…');
        } else if numeric[index] {
            out.extend(padding);
            out.push_str(cell);
        } else {
            out.push_str(cell);
            out.extend(padding);
        }
    }
    let length = out.trim_end_matches(' ').len().max(start);
    out.truncate(length);
    out.push('\n');
}

/// Takes from the widest column of text until all fit, or none can give any more.
fn fit(widths: &mut [usize], numeric: &[bool], width: usize) {
    let gaps = GAP.len() * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > width {
        let widest = (0..widths.len()).filter(|index| !numeric[*index] && widths[*index] > WIDTH_MIN);
        let Some(widest) = widest.max_by_key(|index| widths[*index]) else { return };
        widths[widest] -= 1;
    }
}

/// How wide the terminal is, if standard output is one.
fn width() -> Option<usize> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let columns = rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col));
    columns.filter(|columns| *columns > 0)
}

/// A value as text on one line. What a terminal could take for a command is shown by its escape.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(number) => format!("{number:.1}"),
            None => number.to_string(),
        },
        Value::Array(items) if items.iter().all(|item| item.is_string() || item.is_number()) => {
            join(items.iter().map(text), ", ")
        }
        Value::Object(fields) if fields.is_empty() => String::new(),
        other => printable(&other.to_string()),
    }
}

/// The text without control characters.
pub(super) fn printable(text: &str) -> String {
    let escaped = |character: char| match character {
        character if character.is_control() => character.escape_default().to_string(),
        character => character.to_string(),
    };
    if text.contains(char::is_control) { text.chars().map(escaped).collect() } else { text.to_owned() }
}

fn join(texts: impl Iterator<Item = String>, separator: &str) -> String {
    texts.collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COLUMNS: [Column; 2] = [Column::of("name", "name"), Column::of("rate", "stats.rate")];

    #[test]
    fn numbers_are_right_aligned_and_titles_stand_above() {
        let rows = [
            json!({"name": "a", "stats": {"rate": 5}}),
            json!({"name": "long name", "stats": {"rate": 1234}}),
        ];
        let expected = "name       rate\na             5\nlong name  1234\n";
        assert_eq!(render(&rows, &COLUMNS, true, None), expected);
        assert_eq!(render(&rows, &COLUMNS, false, None), "a             5\nlong name  1234\n");
    }

    #[test]
    fn a_table_fits_its_terminal() {
        let rows = [json!({"name": "a name that is far too long", "stats": {"rate": 123_456}})];
        let table = render(&rows, &COLUMNS, true, Some(20));
        assert_eq!(table, "name            rate\na name that…  123456\n");
    }

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        assert_eq!(text(&json!("a\u{1b}[2Jb\tc\n")), "a\\u{1b}[2Jb\\tc\\n");
        assert_eq!(text(&json!({"a": "\u{7f}"})), "{\"a\":\"\\u{7f}\"}");
    }

    #[test]
    fn values_are_found_by_their_path() {
        let row = json!({"a": {"b.c": 1, "d": {"e": 2}}, "a.b": 3});
        assert_eq!(value_at(&row, "a.d.e"), 2);
        assert_eq!(value_at(&row, "a.b"), 3);
        assert_eq!(value_at(&row, "a.b.c"), 1);
        assert!(value_at(&row, "a.x.y").is_null());
    }
}
