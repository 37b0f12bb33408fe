//! Field tables as JSON, and back: arguments, headers and policies, as RabbitMQ shows and takes them.
//!
//! | in a table | in JSON |
//! |---|---|
//! | integers of any width, a timestamp | an integer |
//! | floating-point numbers, decimals | a number |
//! | text | text |
//! | octets that are not UTF-8 | the text `Not UTF-8, base64 is: ...` |
//! | table, array | object, list |
//! | void | `null` |
//!
//! Back, an integer becomes one of 64 bits, any other number a double. Deviation: RabbitMQ shows void as the text
//! `undefined` and takes no `null`; a decimal it shows as another number than it is.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Number, Value as Json};

use crate::amqp::{Table, Value, table::TABLE_DEPTH_MAX};

/// The longest name of a field, in octets.
const NAME_BYTES_MAX: usize = 255;

/// A table of JSON's fields, as RabbitMQ reads arguments: integers are `long`, other numbers `double`, strings
/// `longstr`; `null` has no value.
///
/// # Errors
/// What can't be a field of a table, in words.
pub(crate) fn to_table(fields: &Map<String, Json>) -> Result<Table, String> {
    table_at(fields, 1)
}

fn table_at(fields: &Map<String, Json>, depth: usize) -> Result<Table, String> {
    let field = |(name, value): (&String, &Json)| {
        if name.len() > NAME_BYTES_MAX {
            return Err(format!(
                "a field's name has at most {NAME_BYTES_MAX} bytes, this has {}",
                name.len()
            ));
        }
        Ok((name.clone(), value_at(value, depth)?))
    };
    fields.iter().map(field).collect::<Result<_, _>>().map(Table)
}

fn value_at(value: &Json, depth: usize) -> Result<Value, String> {
    if depth > TABLE_DEPTH_MAX {
        return Err(format!("tables and lists nest at most {TABLE_DEPTH_MAX} deep"));
    }
    Ok(match value {
        Json::Null => Value::Void,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Value::I64(number),
            None => Value::F64(number.as_f64().unwrap_or(f64::MAX)),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(values) => {
            Value::Array(values.iter().map(|value| value_at(value, depth + 1)).collect::<Result<_, _>>()?)
        }
        Json::Object(fields) => Value::Table(table_at(fields, depth + 1)?),
    })
}

/// The fields of a table, as RabbitMQ shows them. Of several fields of one name the first is shown, which is the one that
/// counts.
pub(crate) fn from_table(table: &Table) -> Json {
    let mut fields = Map::new();
    for (name, value) in &table.0 {
        fields.entry(name.as_str()).or_insert_with(|| from_value(value));
    }
    Json::Object(fields)
}

/// A value, as RabbitMQ shows it.
pub(crate) fn from_value(value: &Value) -> Json {
    match value {
        Value::Bool(flag) => Json::Bool(*flag),
        Value::LongStr(octets) | Value::ByteArray(octets) => Json::String(text(octets)),
        Value::F32(number) => from_number(f64::from(*number)),
        Value::F64(number) => from_number(*number),
        Value::Decimal { scale, value } => from_number(f64::from(*value) / 10f64.powi(i32::from(*scale))),
        Value::Timestamp(seconds) => Json::from(*seconds),
        Value::Array(values) => Json::Array(values.iter().map(from_value).collect()),
        Value::Table(table) => from_table(table),
        Value::Void => Json::Null,
        value => value.as_int().map_or(Json::Null, Json::from),
    }
}

/// Octets as text; what is not UTF-8 in base64, with RabbitMQ's words in front.
pub(crate) fn text(octets: &[u8]) -> String {
    match std::str::from_utf8(octets) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("Not UTF-8, base64 is: {}", BASE64_STANDARD.encode(octets)),
    }
}

/// JSON has no infinities, and no other number that is none: these are shown by name.
fn from_number(number: f64) -> Json {
    Number::from_f64(number).map_or_else(|| Json::String(number.to_string()), Json::Number)
}

/// A value as Erlang's `~p` writes it, which is how RabbitMQ's errors show what they were given.
pub(crate) fn erlang(value: &Json) -> String {
    match value {
        Json::String(text) => format!("<<\"{text}\">>"),
        Json::Array(values) => format!("[{}]", values.iter().map(erlang).collect::<Vec<_>>().join(",")),
        Json::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("<<\"{name}\">> => {}", erlang(value)));
            format!("#{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(json: Json) -> Map<String, Json> {
        match json {
            Json::Object(object) => object,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn what_the_log_could_not_read_back_is_refused() {
        let mut deep = json!(1);
        for _ in 0..TABLE_DEPTH_MAX - 1 {
            deep = json!([deep]);
        }
        let fields = |value: &Json| Map::from_iter([("a".to_owned(), value.clone())]);
        let table = to_table(&fields(&deep)).expect("just not too deep");
        let mut octets = Vec::new();
        table.encode(&mut octets);
        assert_eq!(Table::decode(&octets[4..]).expect("read back"), table);
        assert!(to_table(&fields(&json!([deep]))).is_err());
        assert!(to_table(&Map::from_iter([("n".repeat(256), json!(1))])).is_err());
    }

    #[test]
    fn every_type_is_shown() {
        let fields = [
            ("bool", Value::Bool(true), json!(true)),
            ("i8", Value::I8(-1), json!(-1)),
            ("u8", Value::U8(255), json!(255)),
            ("i16", Value::I16(-2), json!(-2)),
            ("u16", Value::U16(65_535), json!(65_535)),
            ("i32", Value::I32(i32::MIN), json!(i32::MIN)),
            ("u32", Value::U32(u32::MAX), json!(u32::MAX)),
            ("i64", Value::I64(i64::MIN), json!(i64::MIN)),
            ("f32", Value::F32(1.5), json!(1.5)),
            ("f64", Value::F64(0.1), json!(0.1)),
            ("nan", Value::F64(f64::NAN), json!("NaN")),
            ("decimal", Value::Decimal { scale: 2, value: 125 }, json!(1.25)),
            ("text", "hé".into(), json!("hé")),
            ("octets", Value::LongStr(Bytes::from_static(&[255, 0])), json!("Not UTF-8, base64 is: /wA=")),
            ("binary", Value::ByteArray(Bytes::from_static(b"x")), json!("x")),
            ("timestamp", Value::Timestamp(u64::MAX), json!(u64::MAX)),
            ("void", Value::Void, json!(null)),
            ("list", Value::Array(vec![Value::I64(1), "a".into()]), json!([1, "a"])),
            ("table", Value::Table(Table(vec![("a".to_owned(), Value::Void)])), json!({"a": null})),
        ];
        for (name, value, json) in fields {
            assert_eq!(from_value(&value), json, "{name}");
        }
    }

    #[test]
    fn of_two_fields_of_a_name_the_first_is_shown() {
        let table = Table(vec![("a".to_owned(), Value::I64(1)), ("a".to_owned(), Value::I64(2))]);
        assert_eq!(from_table(&table), json!({"a": 1}));
    }

    #[test]
    fn numbers_become_integers_or_doubles() {
        let table = to_table(&object(json!({"i": 5, "f": 1.5, "big": u64::MAX, "min": i64::MIN})));
        let table = table.expect("a table");
        assert_eq!(table.get("i"), Some(&Value::I64(5)));
        assert_eq!(table.get("f"), Some(&Value::F64(1.5)));
        assert_eq!(table.get("big"), Some(&Value::F64(u64::MAX as f64)));
        assert_eq!(table.get("min"), Some(&Value::I64(i64::MIN)));
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<u64>().prop_map(Json::from),
            any::<f64>().prop_map(from_number),
            ".{0,300}".prop_map(Json::from),
        ];
        leaf.prop_recursive(6, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Json::from),
                prop::collection::btree_map(".{0,300}", inner, 0..8)
                    .prop_map(|fields| Json::Object(fields.into_iter().collect())),
            ]
        })
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Void),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::I64),
            // A double that is whole comes back as what it is: JSON keeps its point.
            prop::num::f64::NORMAL.prop_map(Value::F64),
            ".{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
                prop::collection::btree_map(".{0,20}", inner, 0..8)
                    .prop_map(|fields| Value::Table(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_is_a_table_that_the_wire_takes_or_is_refused(
            fields in prop::collection::btree_map(".{0,300}", any_json(), 0..8),
        ) {
            if let Ok(table) = to_table(&fields.into_iter().collect()) {
                let mut octets = Vec::new();
                table.encode(&mut octets);
                prop_assert_eq!(Table::decode(&octets[4..]).expect("what was written"), table);
            }
        }

        #[test]
        fn what_json_can_say_comes_back_as_it_was(
            fields in prop::collection::btree_map(".{0,20}", any_value(), 0..8),
        ) {
            let table: Table = fields.into_iter().collect();
            let text = from_table(&table).to_string();
            let json = object(serde_json::from_str(&text).expect("JSON"));
            prop_assert_eq!(to_table(&json), Ok(table));
        }
    }
}
