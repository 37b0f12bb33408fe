//! Messages as JSON, as they are published and got over HTTP.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};

use super::{body::Fields, error::ApiError, path::check_name};
use crate::amqp::{Properties, PropertiesBuilder, Table};
use crate::json::{from_table, text};

/// Reads properties from a request. What is none of them is left alone.
///
/// # Errors
/// 400 if one has a value that it can't have.
pub(super) fn properties_from(fields: &Fields) -> Result<Vec<u8>, ApiError> {
    let string = |name: &'static str| match fields.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => check_name(name, text).map(|()| Some(text.clone())),
        Some(_) => Err(ApiError::bad_request_of("not_string", &name.into())),
    };
    let octet = |name: &'static str| match number(fields, name)? {
        None => Ok(None),
        Some(number) => match u8::try_from(number) {
            Ok(octet) => Ok(Some(octet)),
            Err(_) => Err(ApiError::bad_request(format!("{name}: {number} is not in 0 to 255"))),
        },
    };
    let properties = PropertiesBuilder {
        content_type: string("content_type")?,
        content_encoding: string("content_encoding")?,
        headers: fields.get("headers").map(|_| fields.table("headers")).transpose()?,
        delivery_mode: octet("delivery_mode")?,
        priority: octet("priority")?,
        correlation_id: string("correlation_id")?,
        reply_to: string("reply_to")?,
        expiration: string("expiration")?,
        message_id: string("message_id")?,
        timestamp: number(fields, "timestamp")?,
        type_: string("type")?,
        user_id: string("user_id")?,
        app_id: string("app_id")?,
        cluster_id: string("cluster_id")?,
    };
    Ok(properties.encode())
}

fn number(fields: &Fields, name: &'static str) -> Result<Option<u64>, ApiError> {
    let not_a_number = || ApiError::bad_request_of("not_int", &name.into());
    fields.get(name).map(|value| value.as_u64().ok_or_else(not_a_number)).transpose()
}

/// Properties as RabbitMQ shows them: an empty list if there are none.
pub(super) fn properties_to(octets: &[u8]) -> Value {
    // They were checked when the message came.
    let properties = Properties::parse(octets).unwrap_or_default();
    let mut shown = Map::new();
    let strings = [
        ("content_type", properties.content_type),
        ("content_encoding", properties.content_encoding),
        ("correlation_id", properties.correlation_id),
        ("reply_to", properties.reply_to),
        ("expiration", properties.expiration),
        ("message_id", properties.message_id),
        ("type", properties.type_),
        ("user_id", properties.user_id),
        ("app_id", properties.app_id),
        ("cluster_id", properties.cluster_id),
    ];
    for (name, octets) in strings {
        shown.extend(octets.map(|octets| (name.to_owned(), text(octets).into())));
    }
    let numbers = [
        ("delivery_mode", properties.delivery_mode.map(u64::from)),
        ("priority", properties.priority.map(u64::from)),
        ("timestamp", properties.timestamp),
    ];
    for (name, number) in numbers {
        shown.extend(number.map(|number| (name.to_owned(), number.into())));
    }
    if let Some(headers) = properties.headers {
        let headers = Table::decode(headers).unwrap_or_default();
        shown.insert("headers".to_owned(), from_table(&headers));
    }
    if shown.is_empty() { json!([]) } else { Value::Object(shown) }
}

/// Reads a payload from a request.
///
/// # Errors
/// 400 if it is not text, or not what its encoding says.
pub(super) fn payload_from(fields: &Fields) -> Result<Vec<u8>, ApiError> {
    let Some(Value::String(payload)) = fields.get("payload") else {
        return Err(ApiError::bad_request("payload_not_string"));
    };
    match fields.get("payload_encoding") {
        Some(Value::String(encoding)) if encoding == "string" => Ok(payload.clone().into_bytes()),
        Some(Value::String(encoding)) if encoding == "base64" => {
            let octets = BASE64_STANDARD.decode(payload);
            octets.map_err(|_| ApiError::bad_request_of("not_base64", &shortened(payload).into()))
        }
        other => Err(ApiError::bad_request_of("unsupported_encoding", other.unwrap_or(&Value::Null))),
    }
}

/// Enough of a text to tell which it is.
fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(256)]
}

/// How a payload is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PayloadEncoding {
    /// As text if it is UTF-8, else as base64.
    Auto,
    /// Always as base64.
    Base64,
}

impl PayloadEncoding {
    /// # Errors
    /// 400 if it is none.
    pub(super) fn parse(value: Option<&Value>) -> Result<Self, ApiError> {
        match value.and_then(Value::as_str) {
            Some("auto") => Ok(Self::Auto),
            Some("base64") => Ok(Self::Base64),
            _ => Err(ApiError::bad_request("Unsupported encoding. Please use auto or base64.")),
        }
    }

    /// A payload, of which no more than so many octets, and the name of the encoding that it is shown in.
    pub(super) fn show(self, payload: &[u8], truncate: usize) -> (String, &'static str) {
        match std::str::from_utf8(payload) {
            // RabbitMQ cuts within a character, and then shows base64.
            Ok(text) if self == Self::Auto => {
                (text[..text.floor_char_boundary(truncate)].to_owned(), "string")
            }
            _ => (BASE64_STANDARD.encode(&payload[..truncate.min(payload.len())]), "base64"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: Value) -> Fields {
        Fields::parse(json.to_string().as_bytes()).expect("an object")
    }

    #[test]
    fn all_properties_come_back_as_they_were() {
        let json = json!({
            "content_type": "a", "content_encoding": "b", "headers": {"h": [1, {"x": null}]}, "delivery_mode": 2,
            "priority": 255, "correlation_id": "c", "reply_to": "d", "expiration": "5", "message_id": "e",
            "timestamp": u64::MAX, "type": "f", "user_id": "g", "app_id": "h", "cluster_id": "",
        });
        assert_eq!(properties_to(&properties_from(&fields(json.clone())).expect("properties")), json);
        assert_eq!(properties_to(&properties_from(&fields(json!({"else": 1}))).expect("none")), json!([]));
    }

    #[test]
    fn values_that_a_property_cannot_have_are_refused() {
        for wrong in [
            json!({"delivery_mode": "2"}),
            json!({"delivery_mode": 1.5}),
            json!({"priority": 256}),
            json!({"timestamp": -1}),
            json!({"type": 1}),
            json!({"type": "x".repeat(256)}),
            json!({"headers": 1}),
        ] {
            assert!(properties_from(&fields(wrong.clone())).is_err(), "{wrong}");
        }
    }
}
