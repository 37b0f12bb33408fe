//! Values as RabbitMQ's tools print them: Erlang's terms for people, and types beside values in JSON.

use serde_json::{Map, Value, json};

use crate::cli::table::printable;

/// A value in a column. An operator's terminal is not to obey what somebody has put into a name.
///
/// Deviation: RabbitMQ's prints control characters as they are.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            format!("[{}]", join(items.iter().map(text), ", "))
        }
        other => term(other),
    }
}

/// A value within another one.
fn term(value: &Value) -> String {
    match value {
        Value::Null => "undefined".to_owned(),
        Value::String(text) => format!("\"{}\"", printable(text)),
        Value::Array(items) => format!("[{}]", join(items.iter().map(term), ",")),
        Value::Object(fields) => {
            let fields =
                fields.iter().map(|(name, value)| format!("{{\"{}\",{}}}", printable(name), term(value)));
            format!("[{}]", join(fields, ","))
        }
        other => other.to_string(),
    }
}

/// A value of a column in JSON: tables as triples of name, type and value.
pub(super) fn typed(value: &Value) -> Value {
    match value {
        Value::Object(fields) => table(fields),
        Value::Null => Value::from(""),
        other => other.clone(),
    }
}

fn table(fields: &Map<String, Value>) -> Value {
    fields.iter().map(|(name, value)| json!([name, kind(value), field(value)])).collect()
}

fn field(value: &Value) -> Value {
    match value {
        Value::Object(fields) => table(fields),
        Value::Array(items) => items.iter().map(|item| json!([kind(item), field(item)])).collect(),
        other => other.clone(),
    }
}

/// The name of an AMQP type, as well as JSON tells.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "void",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "double",
        Value::Number(number) if number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()) => {
            "signedint"
        }
        Value::Number(_) => "long",
        Value::String(_) => "longstr",
        Value::Array(_) => "array",
        Value::Object(_) => "table",
    }
}

fn join(texts: impl Iterator<Item = String>, separator: &str) -> String {
    texts.collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_lists_of_pairs() {
        let arguments =
            json!({"x-max-length": 5, "x-dead-letter-exchange": "dlx", "t": {"a": true, "l": [1, "b"]}});
        let expected =
            r#"[{"t",[{"a",true},{"l",[1,"b"]}]},{"x-dead-letter-exchange","dlx"},{"x-max-length",5}]"#;
        assert_eq!(text(&arguments), expected);
        assert_eq!(text(&json!({})), "[]");
        assert_eq!(text(&json!(["monitoring", "management"])), "[monitoring, management]");
        assert_eq!(text(&Value::Null), "");
    }

    #[test]
    fn json_has_types() {
        let arguments = json!({"a": 1, "b": "x", "c": {"d": true}});
        let expected =
            json!([["a", "signedint", 1], ["b", "longstr", "x"], ["c", "table", [["d", "bool", true]]]]);
        assert_eq!(typed(&arguments), expected);
    }
}
