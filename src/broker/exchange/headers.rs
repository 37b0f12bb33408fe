//! Headers exchanges: a binding's arguments are a pattern for the message's headers (AMQP 0-9-1 section 3.1.3.4).
//!
//! `x-match` says whether all terms of the pattern have to match or any of them. `all`, the default, and `any` skip the
//! terms whose name begins with "x-"; `all-with-x` and `any-with-x` skip none but `x-match`.
//!
//! As in RabbitMQ 3.10.8:
//! * a term without a value (void) matches every value;
//! * numbers compare by value, whatever their types: byte, int, long, timestamp, float, double. So do strings and byte
//!   arrays. Inside arrays and tables the types must be the same too, and the order;
//! * where a name comes more than once, the first term of that name goes with the first header, the second with the second;
//! * a pattern without terms always matches if it is `all`, and never if it is `any`.
//!
//! A pattern that matches has some term that matches, so patterns are found by the hash of a term: an `all` pattern is
//! listed under one of its terms, an `any` pattern under each.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};
use std::mem;

use super::destinations::Destinations;
use super::term::Term;
use super::{Arguments, InvalidBinding};
use crate::amqp::{Table, Value};

/// Refuses an `x-match` that is none of the four, in RabbitMQ's words.
pub(super) fn validate(arguments: &Table) -> Result<(), InvalidBinding> {
    Match::parse(arguments).map(drop)
}

/// Destinations by patterns of headers.
#[derive(Debug)]
pub(super) struct Headers<D> {
    by_arguments: HashMap<Arguments, usize>,
    patterns: Vec<Pattern<D>>,
    free: Vec<usize>,
    by_term: HashMap<u64, Vec<usize>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Pattern<D> {
    condition: Match,
    arguments: Arguments,
    /// The keys in `by_term` that it is listed under.
    listed: Box<[u64]>,
    destinations: Destinations<D>,
}

impl<D> Default for Headers<D> {
    fn default() -> Self {
        Self {
            by_arguments: HashMap::new(),
            patterns: Vec::new(),
            free: Vec::new(),
            by_term: HashMap::new(),
            hasher: RandomState::new(),
        }
    }
}

impl<D: Clone + Eq + Hash> Headers<D> {
    pub(super) fn insert(&mut self, arguments: &Arguments, destination: D) {
        let pattern = match self.by_arguments.get(arguments) {
            Some(pattern) => *pattern,
            None => self.add_pattern(arguments),
        };
        self.patterns[pattern].destinations.insert(destination);
    }

    pub(super) fn remove(&mut self, arguments: &Arguments, destination: &D) {
        let Some(&pattern) = self.by_arguments.get(arguments) else { return };
        self.patterns[pattern].destinations.remove(destination);
        if self.patterns[pattern].destinations.is_empty() {
            self.remove_pattern(pattern);
        }
    }

    pub(super) fn route(&self, headers: Option<&[u8]>, visit: &mut impl FnMut(&D)) {
        let headers = headers.and_then(|bytes| Table::decode(bytes).ok()).unwrap_or_default();
        let headers = sorted(&headers);
        self.visit_listed(ALWAYS, &headers, visit);
        for (name, value) in &headers {
            self.visit_listed(self.term_hash(name, value), &headers, visit);
            if !matches!(value, Value::Void) {
                self.visit_listed(self.term_hash(name, &Value::Void), &headers, visit);
            }
        }
    }

    fn visit_listed(&self, term: u64, headers: &[Header<'_>], visit: &mut impl FnMut(&D)) {
        for pattern in self.by_term.get(&term).into_iter().flatten() {
            let pattern = &self.patterns[*pattern];
            if pattern.condition.holds(pattern.arguments.table(), headers) {
                pattern.destinations.visit(visit);
            }
        }
    }

    fn add_pattern(&mut self, arguments: &Arguments) -> usize {
        let condition = Match::parse(arguments.table()).expect("invariant: the binding was validated");
        let listed = self.lists_for(condition, arguments.table());
        let number = self.free.pop().unwrap_or(self.patterns.len());
        for term in &listed {
            self.by_term.entry(*term).or_default().push(number);
        }
        self.by_arguments.insert(arguments.clone(), number);
        let pattern =
            Pattern { condition, arguments: arguments.clone(), listed, destinations: Destinations::None };
        match self.patterns.get_mut(number) {
            Some(free) => *free = pattern,
            None => self.patterns.push(pattern),
        }
        number
    }

    fn remove_pattern(&mut self, number: usize) {
        let pattern = &mut self.patterns[number];
        self.by_arguments.remove(&mem::replace(&mut pattern.arguments, Arguments(None)));
        for term in mem::take(&mut pattern.listed) {
            let Some(list) = self.by_term.get_mut(&term) else { continue };
            list.retain(|listed| *listed != number);
            if list.is_empty() {
                self.by_term.remove(&term);
            }
        }
        self.free.push(number);
    }

    /// The lists that are looked at for every message that a pattern might match.
    fn lists_for(&self, condition: Match, arguments: &Table) -> Box<[u64]> {
        let terms = condition.terms(arguments).map(|(name, value)| self.term_hash(name, value));
        if condition.is_any() {
            let mut terms: Vec<_> = terms.collect();
            terms.sort_unstable();
            terms.dedup();
            return terms.into();
        }
        // The shortest, so that a term that all patterns share does not gather them in one list.
        let shortest = terms.min_by_key(|term| self.by_term.get(term).map_or(0, Vec::len));
        [shortest.unwrap_or(ALWAYS)].into()
    }

    fn term_hash(&self, name: &str, value: &Value) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        name.hash(&mut hasher);
        hash_value(value, &mut hasher);
        hasher.finish()
    }
}

/// The list of the `all` patterns without terms. A term whose hash is the same does no harm: patterns are still compared.
const ALWAYS: u64 = 0;

/// A header or a term: the name and the value.
type Header<'a> = (&'a str, &'a Value);

/// Sorted by name; those of the same name stay in order.
fn sorted(table: &Table) -> Vec<Header<'_>> {
    let mut headers: Vec<_> = table.0.iter().map(|(name, value)| (name.as_str(), value)).collect();
    headers.sort_by_key(|(name, _)| *name);
    headers
}

/// The argument `x-match`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    All,
    Any,
    AllWithX,
    AnyWithX,
}

impl Match {
    fn parse(arguments: &Table) -> Result<Self, InvalidBinding> {
        let invalid = |text| Err(InvalidBinding { text });
        match arguments.get("x-match") {
            None => Ok(Self::All),
            Some(value @ Value::LongStr(text)) => match &**text {
                b"all" => Ok(Self::All),
                b"any" => Ok(Self::Any),
                b"all-with-x" => Ok(Self::AllWithX),
                b"any-with-x" => Ok(Self::AnyWithX),
                _ => invalid(format!(
                    "Invalid x-match field value {}; expected all, any, all-with-x, or any-with-x",
                    Term(value)
                )),
            },
            Some(value) => invalid(format!(
                "Invalid x-match field type {} (value {}); expected longstr",
                value.type_name(),
                Term(value)
            )),
        }
    }

    fn is_any(self) -> bool {
        matches!(self, Self::Any | Self::AnyWithX)
    }

    /// The arguments that headers are compared with.
    fn terms(self, arguments: &Table) -> impl Iterator<Item = Header<'_>> {
        let skipped = match self {
            Self::All | Self::Any => |name: &str| name.starts_with("x-"),
            Self::AllWithX | Self::AnyWithX => |name: &str| name == "x-match",
        };
        let arguments = arguments.0.iter().map(|(name, value)| (name.as_str(), value));
        arguments.filter(move |(name, _)| !skipped(name))
    }

    /// Whether the headers match the arguments, both sorted by name.
    fn holds(self, arguments: &Table, headers: &[Header<'_>]) -> bool {
        let mut headers = headers;
        let mut matched = self.terms(arguments).map(|(name, value)| {
            let before = headers.partition_point(|(header, _)| *header < name);
            headers = &headers[before..];
            match headers.split_first() {
                Some(((header, found), rest)) if *header == name => {
                    headers = rest;
                    matches!(value, Value::Void) || equal(value, found)
                }
                _ => false,
            }
        });
        if self.is_any() { matched.any(|matched| matched) } else { matched.all(|matched| matched) }
    }
}

/// Whether RabbitMQ holds two values for equal: Erlang's `==` on what it decodes them to, types left out.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Void, Value::Void) => true,
        (Value::Decimal { scale: a, value: x }, Value::Decimal { scale: b, value: y }) => (a, x) == (b, y),
        (Value::LongStr(a) | Value::ByteArray(a), Value::LongStr(b) | Value::ByteArray(b)) => a == b,
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal_with_type(a, b))
        }
        (Value::Table(Table(a)), Value::Table(Table(b))) => {
            let same =
                |((a, x), (b, y)): (&(String, Value), &(String, Value))| a == b && equal_with_type(x, y);
            a.len() == b.len() && a.iter().zip(b).all(same)
        }
        (Value::Array(array), Value::Table(Table(table)))
        | (Value::Table(Table(table)), Value::Array(array)) => array.is_empty() && table.is_empty(),
        _ => Number::of(a).zip(Number::of(b)).is_some_and(|(a, b)| a == b),
    }
}

fn equal_with_type(a: &Value, b: &Value) -> bool {
    mem::discriminant(a) == mem::discriminant(b) && equal(a, b)
}

/// Equal values have equal hashes; most others have not.
fn hash_value(value: &Value, hasher: &mut impl Hasher) {
    match value {
        Value::Void => 0_u8.hash(hasher),
        Value::Bool(value) => (1_u8, value).hash(hasher),
        Value::LongStr(bytes) | Value::ByteArray(bytes) => (2_u8, &**bytes).hash(hasher),
        Value::Decimal { .. } | Value::Array(_) | Value::Table(_) => 3_u8.hash(hasher),
        _ => match Number::of(value) {
            Some(Number::Whole(value)) => (4_u8, value).hash(hasher),
            Some(Number::Fraction(value)) => (5_u8, value.to_bits()).hash(hasher),
            None => {}
        },
    }
}

/// A number of any type, in the one way it can be written: equal numbers are the same variant.
#[derive(PartialEq)]
enum Number {
    Whole(i128),
    /// Also infinities, what is not a number, and what is larger than any integer of AMQP.
    Fraction(f64),
}

impl Number {
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Timestamp(value) => Some(Self::Whole(i128::from(*value))),
            Value::F32(value) => Some(Self::of_float(f64::from(*value))),
            Value::F64(value) => Some(Self::of_float(*value)),
            _ => value.as_int().map(|value| Self::Whole(i128::from(value))),
        }
    }

    fn of_float(value: f64) -> Self {
        // 2^64 is above every integer of AMQP, and below it the conversion is exact.
        if value.fract() == 0.0 && value.abs() <= 2_f64.powi(64) {
            return Self::Whole(value as i128);
        }
        Self::Fraction(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Value::{
        Array, Bool, ByteArray, Decimal, F32, F64, I8, I16, I32, I64, LongStr, Timestamp, U8, U16, U32, Void,
    };
    use bytes::Bytes;

    type Fields<'a> = &'a [(&'a str, Value)];

    fn table(fields: Fields<'_>) -> Table {
        fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn matches(arguments: &Table, headers: Option<Fields<'_>>) -> bool {
        let mut table_of_one = Headers::default();
        table_of_one.insert(&Arguments::new(arguments), ());
        let bytes = headers.map(|headers| {
            let mut bytes = Vec::new();
            table(headers).encode(&mut bytes);
            bytes.split_off(4)
        });
        let mut found = false;
        table_of_one.route(bytes.as_deref(), &mut |()| found = true);
        found
    }

    fn with_x_match(x_match: Option<&str>, terms: Fields<'_>) -> Table {
        let x_match = x_match.map(|text| ("x-match".to_owned(), Value::from(text)));
        x_match.into_iter().chain(table(terms).0).collect()
    }

    /// As RabbitMQ 3.10.8 routes, for each of the types of match.
    #[test]
    fn a8_headers_x_match_chooses_terms_as_in_rabbitmq() {
        let (a, b, xa, xb) = (|n| ("a", I32(n)), |n| ("b", I32(n)), |n| ("x-a", I32(n)), |n| ("x-b", I32(n)));
        // Pattern, headers; does it match: (all, any, all-with-x, any-with-x).
        type Case<'a> = (Fields<'a>, Option<Fields<'a>>, [bool; 4]);
        let cases: &[Case<'_>] = &[
            (&[], None, [true, false, true, false]),
            (&[], Some(&[]), [true, false, true, false]),
            (&[], Some(&[a(1)]), [true, false, true, false]),
            (&[a(1)], None, [false; 4]),
            (&[xa(1)], None, [true, false, false, false]),
            (&[xa(1)], Some(&[]), [true, false, false, false]),
            (&[xa(1)], Some(&[xa(1)]), [true, false, true, true]),
            (&[("x-", I32(1))], Some(&[]), [true, false, false, false]),
            (&[("X-a", I32(1))], Some(&[]), [false; 4]),
            (&[("x", I32(1))], Some(&[]), [false; 4]),
            (&[("A", I32(1))], Some(&[a(1)]), [false; 4]),
            (&[a(1), xb(1)], Some(&[a(1)]), [true, true, false, true]),
            (&[a(1), xb(1)], Some(&[a(1), xb(2)]), [true, true, false, true]),
            (&[a(1), xb(1)], Some(&[xb(1)]), [false, false, false, true]),
            (&[a(1), b(1)], Some(&[a(1), b(2)]), [false, true, false, true]),
            (&[a(1), b(1)], Some(&[a(1)]), [false, true, false, true]),
            (&[b(1), a(1)], Some(&[("z", I32(1)), b(1), a(1)]), [true; 4]),
            (&[("a", Void)], Some(&[]), [false; 4]),
            (&[("a", Void)], Some(&[a(1)]), [true; 4]),
            // The same name more than once: first with first, second with second.
            (&[a(1), a(1)], Some(&[a(1)]), [false, true, false, true]),
            (&[a(1), a(2)], Some(&[a(1)]), [false, true, false, true]),
            (&[a(1), a(2)], Some(&[a(2)]), [false; 4]),
            (&[a(1), a(2)], Some(&[a(1), a(2)]), [true; 4]),
            (&[a(1), a(2)], Some(&[a(2), a(1)]), [false; 4]),
            (&[a(1)], Some(&[a(2), a(1)]), [false; 4]),
            (&[a(1)], Some(&[a(1), a(2)]), [true; 4]),
            (&[a(1), b(1)], Some(&[a(2), a(1), b(1)]), [false, true, false, true]),
        ];
        for (terms, headers, expected) in cases {
            let x_matches = ["all", "any", "all-with-x", "any-with-x"];
            let found = x_matches.map(|x_match| matches(&with_x_match(Some(x_match), terms), *headers));
            assert_eq!(found, *expected, "{terms:?} with {headers:?}");
            assert_eq!(matches(&with_x_match(None, terms), *headers), expected[0], "all is the default");
        }
    }

    #[test]
    fn a8_headers_values_compare_across_types_as_in_rabbitmq() {
        let text = |text: &str| Value::from(text);
        let bytes = |text: &str| ByteArray(Bytes::copy_from_slice(text.as_bytes()));
        let numbers =
            [I8(1), U8(1), I16(1), U16(1), I32(1), U32(1), I64(1), Timestamp(1), F32(1.0), F64(1.0)];
        let strings = [text("1"), bytes("1")];
        let others = [
            Bool(true),
            Decimal { scale: 0, value: 1 },
            Void,
            Array(vec![I32(1)]),
            Value::Table(table(&[("a", I32(1))])),
        ];
        let mut values = Vec::new();
        values.extend(numbers.iter().map(|value| (0, value)));
        values.extend(strings.iter().map(|value| (1, value)));
        values.extend(others.iter().zip(2..).map(|(value, class)| (class, value)));
        for (class, pattern) in &values {
            for (other, header) in &values {
                let expected = class == other || matches!(pattern, Void);
                let found = matches(&table(&[("k", (*pattern).clone())]), Some(&[("k", (*header).clone())]));
                assert_eq!(found, expected, "{pattern:?} with {header:?}");
            }
        }

        let nested = |fields: Fields<'_>| Value::Table(table(fields));
        let cases = [
            (F64(1.5), F32(1.5), true),
            (F64(0.1), F32(0.1), false),
            (F64(0.0), F64(-0.0), true),
            (I32(0), F64(-0.0), true),
            (I64((1 << 53) + 1), F64(2_f64.powi(53)), false),
            (I64(1 << 53), F64(2_f64.powi(53)), true),
            (I64(i64::MIN), F64(-(2_f64.powi(63))), true),
            (Timestamp(1 << 63), Timestamp(1 << 63), true),
            (Timestamp(u64::MAX), I64(-1), false),
            (F64(1e300), F64(1e300), true),
            (F64(f64::NAN), F64(f64::NAN), false),
            (Decimal { scale: 1, value: 10 }, Decimal { scale: 1, value: 10 }, true),
            (Decimal { scale: 1, value: 10 }, Decimal { scale: 0, value: 1 }, false),
            (Array(vec![]), nested(&[]), true),
            (Array(vec![]), text(""), false),
            (bytes(""), text(""), true),
            (text("A"), text("a"), false),
            (Array(vec![I32(1), text("x")]), Array(vec![I32(1), text("x")]), true),
            (Array(vec![I32(1), I32(2)]), Array(vec![I32(2), I32(1)]), false),
            (Array(vec![I32(1)]), Array(vec![I32(1), I32(1)]), false),
            (Array(vec![I32(1)]), Array(vec![I64(1)]), false),
            (Array(vec![F32(1.0)]), Array(vec![F64(1.0)]), false),
            (nested(&[("a", I32(1)), ("b", I32(2))]), nested(&[("a", I32(1)), ("b", I32(2))]), true),
            (nested(&[("a", I32(1)), ("b", I32(2))]), nested(&[("b", I32(2)), ("a", I32(1))]), false),
            (nested(&[("a", I32(1))]), nested(&[("a", I64(1))]), false),
            (nested(&[("a", Void)]), nested(&[("a", I64(1))]), false),
            (nested(&[("a", Void)]), nested(&[("a", Void)]), true),
            (nested(&[("a", F64(-0.0))]), nested(&[("a", F64(0.0))]), true),
        ];
        for (pattern, header, expected) in cases {
            let found = matches(&table(&[("k", pattern.clone())]), Some(&[("k", header.clone())]));
            assert_eq!(found, expected, "{pattern:?} with {header:?}");
        }
    }

    #[test]
    fn a8_headers_bad_x_match_is_refused_in_rabbitmqs_words() {
        let text = |x_match: Value| validate(&table(&[("x-match", x_match)])).map_err(|refused| refused.text);
        let value = |shown: &str| {
            Err(format!("Invalid x-match field value {shown}; expected all, any, all-with-x, or any-with-x"))
        };
        let kind = |shown: &str| Err(format!("Invalid x-match field type {shown}; expected longstr"));
        assert_eq!(text("any-with-x".into()), Ok(()));
        assert_eq!(text("some".into()), value(r#"<<"some">>"#));
        assert_eq!(text("ALL".into()), value(r#"<<"ALL">>"#));
        assert_eq!(text("".into()), value("<<>>"));
        assert_eq!(text("é".into()), value(r#"<<"é">>"#));
        assert_eq!(text("a\"b\\\n".into()), value(r#"<<"a\"b\\\n">>"#));
        assert_eq!(text(LongStr(Bytes::from_static(&[0, 255]))), value("<<0,255>>"));
        assert_eq!(text(I32(5)), kind("signedint (value 5)"));
        assert_eq!(text(Bool(true)), kind("bool (value true)"));
        assert_eq!(text(Void), kind("void (value undefined)"));
        assert_eq!(text(F64(1.5)), kind("double (value 1.5)"));
        assert_eq!(text(Decimal { scale: 1, value: 2 }), kind("decimal (value {1,2})"));
        assert_eq!(text(ByteArray(Bytes::from_static(b"all"))), kind(r#"binary (value <<"all">>)"#));
        assert_eq!(
            text(Value::Table(table(&[("a", I32(1))]))),
            kind(r#"table (value [{<<"a">>,signedint,1}])"#)
        );
        let array = Array(vec!["all".into(), I32(5)]);
        assert_eq!(text(array), kind(r#"array (value [{longstr,<<"all">>},{signedint,5}])"#));
        // The first of two counts.
        assert_eq!(validate(&table(&[("x-match", "all".into()), ("x-match", "some".into())])), Ok(()));
    }

    #[test]
    fn removal_leaves_no_pattern_behind() {
        let mut headers = Headers::default();
        let arguments = |x_match, number| {
            Arguments::new(&with_x_match(
                Some(x_match),
                &[("format", "pdf".into()), ("customer", I32(number))],
            ))
        };
        for number in 0..100 {
            headers.insert(&arguments("all", number), 1);
            headers.insert(&arguments("any", number), 2);
            headers.insert(&arguments("any", number), 3);
        }
        let lists = headers.by_term.values().filter(|list| list.len() > 50).count();
        assert_eq!(lists, 1, "only `any` patterns that share a term share its list");
        for number in 0..100 {
            headers.remove(&arguments("all", number), &1);
            headers.remove(&arguments("any", number), &2);
            headers.remove(&arguments("any", number), &3);
        }
        assert!(headers.by_arguments.is_empty() && headers.by_term.is_empty());
        assert_eq!(headers.free.len(), headers.patterns.len());
    }
}
