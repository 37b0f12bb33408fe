//! Field values as RabbitMQ shows them in its error texts: as terms of Erlang (`~p`).

use std::fmt;

use crate::amqp::{Table, Value};

/// Displays a value as Erlang would, all on one line.
pub(super) struct Term<'a>(pub(super) &'a Value);

impl fmt::Display for Term<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::LongStr(bytes) | Value::ByteArray(bytes) => binary(bytes, f),
            Value::Array(values) => {
                list(values, f, |value, f| write!(f, "{{{},{}}}", value.type_name(), Term(value)))
            }
            Value::Table(Table(fields)) => list(fields, f, |(name, value), f| {
                f.write_str("{")?;
                binary(name.as_bytes(), f)?;
                write!(f, ",{},{}}}", value.type_name(), Term(value))
            }),
            scalar => scalar.fmt(f),
        }
    }
}

fn list<T>(
    items: &[T],
    f: &mut fmt::Formatter<'_>,
    item: impl Fn(&T, &mut fmt::Formatter<'_>) -> fmt::Result,
) -> fmt::Result {
    f.write_str("[")?;
    for (index, each) in items.iter().enumerate() {
        f.write_str(if index == 0 { "" } else { "," })?;
        item(each, f)?;
    }
    f.write_str("]")
}

/// In quotes if all of it is printable Latin-1, else as numbers.
fn binary(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if bytes.is_empty() {
        return f.write_str("<<>>");
    }
    if !bytes.iter().all(|byte| escape(*byte).is_some() || matches!(byte, 32..=126 | 160..)) {
        let numbers = bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
        return write!(f, "<<{numbers}>>");
    }
    let mut escaped = Vec::with_capacity(bytes.len());
    for byte in bytes {
        match escape(*byte) {
            Some(letter) => escaped.extend([b'\\', letter]),
            None => escaped.push(*byte),
        }
    }
    write!(f, "<<\"{}\">>", String::from_utf8_lossy(&escaped))
}

/// The letter that follows a backslash for this byte.
fn escape(byte: u8) -> Option<u8> {
    match byte {
        b'"' | b'\\' => Some(byte),
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        b'\t' => Some(b't'),
        0x08 => Some(b'b'),
        0x0b => Some(b'v'),
        0x0c => Some(b'f'),
        0x1b => Some(b'e'),
        _ => None,
    }
}
