//! The body of a request: a JSON object, and its fields with RabbitMQ's errors.

use axum::{
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Request, rejection::BytesRejection},
    http::StatusCode,
};
use serde_json::{Map, Value};

use super::{Shared, error::ApiError};
use crate::amqp::Table;
use crate::json::{erlang, to_table};

/// The largest body, in octets, of a request that brings no message.
const FIELDS_BYTES_MAX: usize = 1 << 20;
/// The largest one of a request that does, as in RabbitMQ.
const MESSAGE_BYTES_MAX: usize = 20_000_000;

/// The fields of a request's body. As in RabbitMQ no body, and `null`, are an object without fields, the content type is
/// not looked at, and fields that nobody knows are left alone.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(pub(super) Map<String, Value>);

impl FromRequest<Shared> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &Shared) -> Result<Self, ApiError> {
        Self::parse(&octets_of(request, FIELDS_BYTES_MAX).await?)
    }
}

/// The fields of a body that brings a message, and so may be large.
#[derive(Clone, Debug, Default)]
pub(super) struct MessageFields(pub(super) Fields);

impl FromRequest<Shared> for MessageFields {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &Shared) -> Result<Self, ApiError> {
        Fields::parse(&octets_of(request, MESSAGE_BYTES_MAX).await?).map(Self)
    }
}

/// The body, if it is not larger than that.
async fn octets_of(mut request: Request, bytes_max: usize) -> Result<Bytes, ApiError> {
    DefaultBodyLimit::max(bytes_max).apply(&mut request);
    Bytes::from_request(request, &()).await.map_err(|error| unreadable(&error))
}

/// Why a body could not be taken.
pub(super) fn unreadable(error: &BytesRejection) -> ApiError {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::TooLarge("The body is larger than this path takes".into()),
        _ => ApiError::bad_request(error.body_text()),
    }
}

impl Fields {
    /// # Errors
    /// 400 `not_json`.
    pub(super) fn parse(octets: &[u8]) -> Result<Self, ApiError> {
        if octets.is_empty() {
            return Ok(Self::default());
        }
        match serde_json::from_slice(octets) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(Value::Null) => Ok(Self::default()),
            Ok(Value::String(_)) => Err(ApiError::bad_request(
                "invalid payload: the request body JSON-decoded to a string. Is the input doubly-JSON-encoded?",
            )),
            _ => Err(ApiError::bad_request("not_json")),
        }
    }

    /// # Errors
    /// 400 with the names of those that are not there.
    pub(super) fn require(&self, names: &[&str]) -> Result<(), ApiError> {
        let missing: Vec<String> = names
            .iter()
            .filter(|name| !self.0.contains_key(**name))
            .map(|name| format!("{{key_missing,{name}}}"))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(ApiError::bad_request(format!("[{}]", missing.join(","))))
    }

    /// A field that is there and not `null`.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A text, if the field is there.
    ///
    /// # Errors
    /// 400 if it is something else.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, ApiError> {
        self.get(name).map(|value| value.as_str().ok_or_else(|| wrong(name, "a string", value))).transpose()
    }

    /// A text that has to be there.
    ///
    /// # Errors
    /// 400 if it is not, or is something else.
    pub(super) fn expect_text(&self, name: &str) -> Result<&str, ApiError> {
        self.require(&[name])?;
        self.text(name)?.ok_or_else(|| wrong(name, "a string", &Value::Null))
    }

    /// A flag, if the field is there. RabbitMQ takes the words too.
    ///
    /// # Errors
    /// 400 if it is something else.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(Value::String(text)) if text == "true" || text == "false" => Ok(Some(text == "true")),
            Some(value) => Err(ApiError::bad_request_of("not_boolean", value)),
        }
    }

    /// A number, or text that is one, if the field is there. What is behind the point does not count.
    ///
    /// # Errors
    /// 400 if it is something else.
    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let integer = match value {
            Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(|number| number as i64)),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        integer.map(Some).ok_or_else(|| ApiError::bad_request_of("not_integer", value))
    }

    /// An object; without fields if the field is not there, or is an empty list, as PHP writes it.
    ///
    /// # Errors
    /// 400 if it is something else.
    pub(super) fn object(&self, name: &str) -> Result<Self, ApiError> {
        match self.get(name) {
            None => Ok(Self::default()),
            Some(Value::Array(list)) if list.is_empty() => Ok(Self::default()),
            Some(Value::Object(fields)) => Ok(Self(fields.clone())),
            Some(value) => Err(wrong(name, "an object", value)),
        }
    }

    /// The same, as a table.
    ///
    /// # Errors
    /// 400 if it is something else, or no table that AMQP knows.
    pub(super) fn table(&self, name: &str) -> Result<Table, ApiError> {
        let fields = self.object(name)?;
        to_table(&fields.0).map_err(|reason| ApiError::bad_request(format!("{name}: {reason}")))
    }
}

fn wrong(name: &str, expected: &str, value: &Value) -> ApiError {
    ApiError::bad_request(format!("{name} should be {expected}, actually was {}", erlang(value)))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[tokio::test]
    async fn a_body_has_a_bound() {
        let take = async |len: usize| {
            let request = Request::new(Body::from(vec![b' '; len]));
            octets_of(request, 1000).await.map(|octets| octets.len())
        };
        assert_eq!(take(1000).await, Ok(1000));
        assert_eq!(
            take(1001).await,
            Err(ApiError::TooLarge("The body is larger than this path takes".into()))
        );
    }
}
