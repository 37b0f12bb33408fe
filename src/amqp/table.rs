//! Field tables and their values, in RabbitMQ's dialect of AMQP 0-9-1 (section 4.2.5.5 and RabbitMQ's errata).
//!
//! ```text
//! table = size:u32 field*          field = name:shortstr value          array = size:u32 value*
//! value = t bool | b i8 | B u8 | s i16 | u u16 | I i32 | i u32 | l or L i64 | f f32 | d f64 | D scale:u8 u32
//!       | S longstr | A array | T u64 | F table | V | x longstr
//! ```
//!
//! One parser, `field`, reads a name and the extent of a value; [`validate_table`], [`find_raw`] and
//! [`Table::decode`] differ in what they do with it. Tables nest at most [`TABLE_DEPTH_MAX`] deep, so a hostile one
//! cannot exhaust the stack.

use std::fmt;

use bytes::{BufMut, Bytes};
use nom::{
    IResult, Parser,
    bytes::complete::take,
    multi::length_data,
    number::complete::{be_f32, be_f64, be_i16, be_i32, be_i64, be_u8, be_u16, be_u32, be_u64},
};

use crate::amqp::DecodeError;

/// How deep tables and arrays may nest, the outermost table being the first level.
///
/// Deviation: RabbitMQ has no limit but the frame's size.
pub const TABLE_DEPTH_MAX: usize = 100;

/// A field value, with the exact type that the client chose: a redeclaration reports it by name.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are the types")]
pub enum Value {
    Bool(bool),
    I8(i8),
    U8(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    F32(f32),
    F64(f64),
    Decimal {
        scale: u8,
        value: u32,
    },
    /// Not always UTF-8.
    LongStr(Bytes),
    Array(Vec<Value>),
    /// Seconds since 1970.
    Timestamp(u64),
    Table(Table),
    Void,
    ByteArray(Bytes),
}

impl Value {
    /// The number, if it is an integer of any width.
    pub fn as_int(&self) -> Option<i64> {
        match *self {
            Self::I8(n) => Some(n.into()),
            Self::U8(n) => Some(n.into()),
            Self::I16(n) => Some(n.into()),
            Self::U16(n) => Some(n.into()),
            Self::I32(n) => Some(n.into()),
            Self::U32(n) => Some(n.into()),
            Self::I64(n) => Some(n),
            _ => None,
        }
    }

    /// The text, if it is a long string of UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::LongStr(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The name that RabbitMQ gives the type in its error texts.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::I8(_) => "byte",
            Self::U8(_) => "unsignedbyte",
            Self::I16(_) => "short",
            Self::U16(_) => "unsignedshort",
            Self::I32(_) => "signedint",
            Self::U32(_) => "unsignedint",
            Self::I64(_) => "long",
            Self::F32(_) => "float",
            Self::F64(_) => "double",
            Self::Decimal { .. } => "decimal",
            Self::LongStr(_) => "longstr",
            Self::Array(_) => "array",
            Self::Timestamp(_) => "timestamp",
            Self::Table(_) => "table",
            Self::Void => "void",
            Self::ByteArray(_) => "binary",
        }
    }

    /// Appends the type octet and the value.
    ///
    /// # Panics
    /// If a string, array or table takes 4 GiB or more.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(self.kind());
        match self {
            Self::Bool(value) => out.put_u8((*value).into()),
            Self::I8(n) => out.put_i8(*n),
            Self::U8(n) => out.put_u8(*n),
            Self::I16(n) => out.put_i16(*n),
            Self::U16(n) => out.put_u16(*n),
            Self::I32(n) => out.put_i32(*n),
            Self::U32(n) => out.put_u32(*n),
            Self::I64(n) => out.put_i64(*n),
            Self::F32(n) => out.put_f32(*n),
            Self::F64(n) => out.put_f64(*n),
            Self::Decimal { scale, value } => {
                out.put_u8(*scale);
                out.put_u32(*value);
            }
            Self::LongStr(bytes) | Self::ByteArray(bytes) => {
                put_length(bytes.len(), out);
                out.put_slice(bytes);
            }
            Self::Array(values) => {
                put_length(values.iter().map(Self::encoded_len).sum(), out);
                values.iter().for_each(|value| value.encode(out));
            }
            Self::Timestamp(seconds) => out.put_u64(*seconds),
            Self::Table(table) => table.encode(out),
            Self::Void => {}
        }
    }

    /// Bytes that [`Value::encode`] appends.
    fn encoded_len(&self) -> usize {
        1 + match self {
            Self::Void => 0,
            Self::Bool(_) | Self::I8(_) | Self::U8(_) => 1,
            Self::I16(_) | Self::U16(_) => 2,
            Self::I32(_) | Self::U32(_) | Self::F32(_) => 4,
            Self::Decimal { .. } => 5,
            Self::I64(_) | Self::F64(_) | Self::Timestamp(_) => 8,
            Self::LongStr(bytes) | Self::ByteArray(bytes) => 4 + bytes.len(),
            Self::Array(values) => 4 + values.iter().map(Self::encoded_len).sum::<usize>(),
            Self::Table(table) => 4 + table.fields_len(),
        }
    }

    /// The type octet. `l` is written for 64 bits, as RabbitMQ does.
    fn kind(&self) -> u8 {
        match self {
            Self::Bool(_) => b't',
            Self::I8(_) => b'b',
            Self::U8(_) => b'B',
            Self::I16(_) => b's',
            Self::U16(_) => b'u',
            Self::I32(_) => b'I',
            Self::U32(_) => b'i',
            Self::I64(_) => b'l',
            Self::F32(_) => b'f',
            Self::F64(_) => b'd',
            Self::Decimal { .. } => b'D',
            Self::LongStr(_) => b'S',
            Self::Array(_) => b'A',
            Self::Timestamp(_) => b'T',
            Self::Table(_) => b'F',
            Self::Void => b'V',
            Self::ByteArray(_) => b'x',
        }
    }
}

/// The value for people: strings bare, lists as `[1,2]`, tables as `{name: value}`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::I8(n) => write!(f, "{n}"),
            Self::U8(n) => write!(f, "{n}"),
            Self::I16(n) => write!(f, "{n}"),
            Self::U16(n) => write!(f, "{n}"),
            Self::I32(n) => write!(f, "{n}"),
            Self::U32(n) => write!(f, "{n}"),
            Self::I64(n) => write!(f, "{n}"),
            Self::F32(n) => write!(f, "{n:?}"),
            Self::F64(n) => write!(f, "{n:?}"),
            Self::Decimal { scale, value } => write!(f, "{{{scale},{value}}}"),
            Self::LongStr(bytes) | Self::ByteArray(bytes) => f.write_str(&String::from_utf8_lossy(bytes)),
            Self::Array(values) => {
                f.write_str("[")?;
                for (index, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if index == 0 { "" } else { "," })?;
                }
                f.write_str("]")
            }
            Self::Timestamp(seconds) => write!(f, "{seconds}"),
            Self::Table(table) => write!(f, "{table}"),
            Self::Void => f.write_str("undefined"),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::LongStr(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::LongStr(text.into())
    }
}

/// A field table: named values in the order they came, duplicates kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table(pub Vec<(String, Value)>);

impl Table {
    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Reads the fields of a table, without the length in front.
    ///
    /// Names that are not UTF-8 come out with replacement characters (Deviation: RabbitMQ keeps the bytes; the raw
    /// table of a message is passed on untouched, so only arguments can tell).
    ///
    /// # Errors
    /// As [`validate_table`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_within(bytes, TABLE_DEPTH_MAX)
    }

    /// Appends the table with its length in front. Names beyond 255 bytes are cut at a character.
    ///
    /// # Panics
    /// If the table takes 4 GiB or more.
    pub fn encode(&self, out: &mut impl BufMut) {
        put_length(self.fields_len(), out);
        for (name, value) in &self.0 {
            let name = short(name);
            out.put_u8(name.len() as u8);
            out.put_slice(name.as_bytes());
            value.encode(out);
        }
    }

    fn fields_len(&self) -> usize {
        self.0.iter().map(|(name, value)| 1 + short(name).len() + value.encoded_len()).sum()
    }

    fn decode_within(mut bytes: &[u8], depth: usize) -> Result<Self, DecodeError> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let (rest, (name, value)) = field(bytes).map_err(|_| malformed())?;
            bytes = rest;
            fields.push((String::from_utf8_lossy(name).into_owned(), value.decode_within(depth)?));
        }
        Ok(Self(fields))
    }
}

/// The table for people: `{name: value, name: value}`.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, (name, value)) in self.0.iter().enumerate() {
            write!(f, "{}{name}: {value}", if index == 0 { "" } else { ", " })?;
        }
        f.write_str("}")
    }
}

impl FromIterator<(String, Value)> for Table {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(fields: I) -> Self {
        Self(fields.into_iter().collect())
    }
}

/// A value as it stands in a table: its type octet and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawValue<'a> {
    /// The type octet, one of the dialect's.
    pub kind: u8,
    /// The value; of a string, array or table what follows the length.
    pub bytes: &'a [u8],
}

impl<'a> RawValue<'a> {
    /// The value. What is inside an array or table that does not pass [`validate_table`] comes out void.
    pub fn decode(&self) -> Value {
        self.decode_within(TABLE_DEPTH_MAX).unwrap_or(Value::Void)
    }

    /// The text, if it is a long string of UTF-8.
    pub fn as_str(&self) -> Option<&'a str> {
        if self.kind == b'S' { std::str::from_utf8(self.bytes).ok() } else { None }
    }

    /// The elements of an array, none for any other type; ends at what is no value.
    pub fn elements(&self) -> impl Iterator<Item = RawValue<'a>> + use<'a> {
        let mut rest = if self.kind == b'A' { self.bytes } else { &[] };
        std::iter::from_fn(move || {
            let (after, element) = value(rest).ok()?;
            rest = after;
            Some(element)
        })
    }

    /// Reads the value, which stands in a table `TABLE_DEPTH_MAX - depth + 1` levels down.
    fn decode_within(&self, depth: usize) -> Result<Value, DecodeError> {
        match self.kind {
            b'S' => return Ok(Value::LongStr(Bytes::copy_from_slice(self.bytes))),
            b'x' => return Ok(Value::ByteArray(Bytes::copy_from_slice(self.bytes))),
            b'F' => return Table::decode_within(self.bytes, deeper(depth)?).map(Value::Table),
            b'A' => return decode_array(self.bytes, deeper(depth)?).map(Value::Array),
            _ => {}
        }
        scalar(self.kind, self.bytes).map(|(_, value)| value).map_err(|_| malformed())
    }
}

/// Checks the fields of a table (without the length in front) down to the last nested value, without allocating.
///
/// # Errors
/// An unknown type, a value that ends early, or more than [`TABLE_DEPTH_MAX`] levels.
pub fn validate_table(bytes: &[u8]) -> Result<(), DecodeError> {
    validate_fields(bytes, TABLE_DEPTH_MAX)
}

/// Finds the first field of that name in a table (without the length in front); nested tables are not searched.
pub fn find_raw<'a>(table: &'a [u8], name: &str) -> Option<RawValue<'a>> {
    raw_fields(table).find(|(key, ..)| *key == name.as_bytes()).map(|(_, value, _)| value)
}

/// Walks over the fields of a table (without the length in front): name, value, and the bytes of both as they
/// stand. Ends at what is no field.
pub fn raw_fields(table: &[u8]) -> impl Iterator<Item = (&[u8], RawValue<'_>, &[u8])> {
    let mut rest = table;
    std::iter::from_fn(move || {
        let (after, (name, value)) = field(rest).ok()?;
        let whole = &rest[..rest.len() - after.len()];
        rest = after;
        Some((name, value, whole))
    })
}

/// The longest prefix of `text` that a short string holds: 255 bytes, cut at a character.
pub(crate) fn short(text: &str) -> &str {
    let mut end = text.len().min(u8::MAX.into());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn put_length(length: usize, out: &mut impl BufMut) {
    out.put_u32(u32::try_from(length).expect("invariant: a table is far smaller than 4 GiB"));
}

/// A name and a value.
#[inline]
fn field(input: &[u8]) -> IResult<&[u8], (&[u8], RawValue<'_>)> {
    (length_data(be_u8), value).parse(input)
}

/// The extent of a value; what is inside a table or array is not looked at.
#[inline]
fn value(input: &[u8]) -> IResult<&[u8], RawValue<'_>> {
    let (input, kind) = be_u8(input)?;
    let (input, bytes) = match kind {
        b'S' | b'F' | b'A' | b'x' => length_data(be_u32).parse(input)?,
        b't' | b'b' | b'B' => take(1usize)(input)?,
        b's' | b'u' => take(2usize)(input)?,
        b'I' | b'i' | b'f' => take(4usize)(input)?,
        b'D' => take(5usize)(input)?,
        b'l' | b'L' | b'd' | b'T' => take(8usize)(input)?,
        b'V' => take(0usize)(input)?,
        _ => return Err(nom::Err::Failure(nom::error::Error::new(input, nom::error::ErrorKind::Switch))),
    };
    Ok((input, RawValue { kind, bytes }))
}

/// A value of fixed size.
fn scalar(kind: u8, input: &[u8]) -> IResult<&[u8], Value> {
    match kind {
        b't' => be_u8.map(|octet| Value::Bool(octet != 0)).parse(input),
        b'b' => be_u8.map(|octet| Value::I8(octet as i8)).parse(input),
        b'B' => be_u8.map(Value::U8).parse(input),
        b's' => be_i16.map(Value::I16).parse(input),
        b'u' => be_u16.map(Value::U16).parse(input),
        b'I' => be_i32.map(Value::I32).parse(input),
        b'i' => be_u32.map(Value::U32).parse(input),
        b'l' | b'L' => be_i64.map(Value::I64).parse(input),
        b'f' => be_f32.map(Value::F32).parse(input),
        b'd' => be_f64.map(Value::F64).parse(input),
        b'D' => (be_u8, be_u32).map(|(scale, value)| Value::Decimal { scale, value }).parse(input),
        b'T' => be_u64.map(Value::Timestamp).parse(input),
        _ => Ok((input, Value::Void)),
    }
}

fn decode_array(mut bytes: &[u8], depth: usize) -> Result<Vec<Value>, DecodeError> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        let (rest, element) = value(bytes).map_err(|_| malformed())?;
        bytes = rest;
        values.push(element.decode_within(depth)?);
    }
    Ok(values)
}

fn validate_fields(mut bytes: &[u8], depth: usize) -> Result<(), DecodeError> {
    while !bytes.is_empty() {
        let (rest, (_, value)) = field(bytes).map_err(|_| malformed())?;
        bytes = rest;
        validate_value(value, depth)?;
    }
    Ok(())
}

fn validate_value(outer: RawValue<'_>, depth: usize) -> Result<(), DecodeError> {
    match outer.kind {
        b'F' => validate_fields(outer.bytes, deeper(depth)?),
        b'A' => {
            let depth = deeper(depth)?;
            let mut bytes = outer.bytes;
            while !bytes.is_empty() {
                let (rest, element) = value(bytes).map_err(|_| malformed())?;
                bytes = rest;
                validate_value(element, depth)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The levels left inside a table or array that stands where `depth` levels are left.
fn deeper(depth: usize) -> Result<usize, DecodeError> {
    if depth > 1 { Ok(depth - 1) } else { Err(too_deep()) }
}

#[cold]
fn malformed() -> DecodeError {
    DecodeError::syntax("malformed field table")
}

#[cold]
fn too_deep() -> DecodeError {
    DecodeError::syntax(format!("field table nested more than {TABLE_DEPTH_MAX} deep"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every type of the dialect, one field each.
    const EVERY_TYPE: &[u8] = b"\
        \x01tt\x01\
        \x01bb\xff\
        \x01BB\xff\
        \x01ss\xff\xfe\
        \x01uu\xff\xfe\
        \x01II\xff\xff\xff\xfe\
        \x01ii\xff\xff\xff\xfe\
        \x01ll\xff\xff\xff\xff\xff\xff\xff\xfe\
        \x01ff\x3f\xc0\0\0\
        \x01dd\x3f\xf8\0\0\0\0\0\0\
        \x01DD\x02\0\0\x01\0\
        \x01SS\0\0\0\x02hi\
        \x01AA\0\0\0\x04t\x01V\x56\
        \x01TT\0\0\0\0\0\0\0\x07\
        \x01FF\0\0\0\x04\x01nt\0\
        \x01VV\
        \x01xx\0\0\0\x01\0";

    fn every_type() -> Table {
        let fields = [
            ("t", Value::Bool(true)),
            ("b", Value::I8(-1)),
            ("B", Value::U8(255)),
            ("s", Value::I16(-2)),
            ("u", Value::U16(65_534)),
            ("I", Value::I32(-2)),
            ("i", Value::U32(4_294_967_294)),
            ("l", Value::I64(-2)),
            ("f", Value::F32(1.5)),
            ("d", Value::F64(1.5)),
            ("D", Value::Decimal { scale: 2, value: 256 }),
            ("S", "hi".into()),
            ("A", Value::Array(vec![Value::Bool(true), Value::Void, Value::Void])),
            ("T", Value::Timestamp(7)),
            ("F", Value::Table(Table(vec![("n".into(), Value::Bool(false))]))),
            ("V", Value::Void),
            ("x", Value::ByteArray(Bytes::from_static(&[0]))),
        ];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Tables, or arrays in a table, so many levels deep.
    fn nested(kind: u8, depth: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for level in (1..depth).rev() {
            let name = if kind == b'F' || level == 1 { &b"\x01a"[..] } else { b"" };
            bytes = [name, &[kind], &(bytes.len() as u32).to_be_bytes(), &bytes].concat();
        }
        bytes
    }

    /// A1.8.
    #[test]
    fn every_type_is_read_and_written() {
        assert_eq!(Table::decode(EVERY_TYPE).unwrap(), every_type());
        assert!(validate_table(EVERY_TYPE).is_ok());
        let mut written = Vec::new();
        every_type().encode(&mut written);
        assert_eq!(written[4..], *EVERY_TYPE);
        assert_eq!(written[..4], (EVERY_TYPE.len() as u32).to_be_bytes());
    }

    /// A1.8: `L` is signed, as `l`; `U` does not exist.
    #[test]
    fn the_dialect_is_rabbitmqs() {
        assert_eq!(Table::decode(b"\x01aL\xff\xff\xff\xff\xff\xff\xff\xff").unwrap().0[0].1, Value::I64(-1));
        assert!(Table::decode(b"\x01aU\0\0").is_err());
        assert_eq!(Table::decode(b"\x01at\x02").unwrap().0[0].1, Value::Bool(true));
    }

    #[test]
    fn a_table_cut_anywhere_but_between_fields_is_refused() {
        let mut borders = vec![0];
        borders.extend(raw_fields(EVERY_TYPE).scan(0, |end, (.., whole)| {
            *end += whole.len();
            Some(*end)
        }));
        for end in 0..EVERY_TYPE.len() {
            let sound = borders.contains(&end);
            assert_eq!(validate_table(&EVERY_TYPE[..end]).is_ok(), sound, "{end}");
            assert_eq!(Table::decode(&EVERY_TYPE[..end]).is_ok(), sound, "{end}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        for kind in [b'F', b'A'] {
            for (depth, allowed) in [(99, true), (100, true), (101, false), (2000, false)] {
                let bytes = nested(kind, depth);
                assert_eq!(validate_table(&bytes).is_ok(), allowed, "{depth}");
                assert_eq!(Table::decode(&bytes).is_ok(), allowed, "{depth}");
            }
        }
    }

    #[test]
    fn a_forged_length_takes_no_memory() {
        assert!(Table::decode(b"\x01aS\xff\xff\xff\xff").is_err());
        assert!(Table::decode(b"\x01aA\xff\xff\xff\xff").is_err());
        assert!(Table::decode(b"\xffa").is_err());
    }

    #[test]
    fn a_field_is_found_without_reading_the_table() {
        assert_eq!(find_raw(EVERY_TYPE, "S").unwrap().as_str(), Some("hi"));
        assert_eq!(find_raw(EVERY_TYPE, "n"), None);
        for (name, value) in every_type().0 {
            assert_eq!(find_raw(EVERY_TYPE, &name).unwrap().decode(), value);
        }
        let elements: Vec<_> =
            find_raw(EVERY_TYPE, "A").unwrap().elements().map(|raw| raw.decode()).collect();
        assert_eq!(elements, [Value::Bool(true), Value::Void, Value::Void]);
    }

    #[test]
    fn integers_compare_by_value() {
        let integers = every_type().0.into_iter().filter_map(|(name, value)| Some((name, value.as_int()?)));
        let values: Vec<_> = integers.map(|(_, n)| n).collect();
        assert_eq!(values, [-1, 255, -2, 65_534, -2, 4_294_967_294, -2]);
    }

    #[test]
    fn short_strings_are_cut_at_a_character() {
        assert_eq!(short(&"é".repeat(128)).len(), 254);
        assert_eq!(short("abc"), "abc");
    }
}
