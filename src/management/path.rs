//! The names in the path of a request.

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;

use super::{Shared, error::ApiError};

/// What stands for the default exchange, whose name is empty (RabbitMQ).
const DEFAULT_EXCHANGE: &str = "amq.default";
/// The longest name of a queue or an exchange, in bytes.
const NAME_BYTES_MAX: usize = 255;
/// All but what is never written in another way.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

/// The names in the path, decoded: a tuple of as many strings as the route has, or one string.
///
/// Deviation: RabbitMQ takes names that are not UTF-8.
pub(super) struct Names<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Shared> for Names<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let names = Path::from_request_parts(parts, api).await;
        names.map(|Path(names)| Self(names)).map_err(|error| ApiError::bad_request(error.body_text()))
    }
}

/// The name of an exchange in a path, as the broker knows it.
pub(super) fn exchange_name(name: &str) -> &str {
    if name == DEFAULT_EXCHANGE { "" } else { name }
}

/// # Errors
/// 400 if there can't be a thing of that name.
pub(super) fn check_name(kind: &str, name: &str) -> Result<(), ApiError> {
    if name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    let len = name.len();
    Err(ApiError::bad_request(format!("{kind} should be at most {NAME_BYTES_MAX} bytes, actually was {len}")))
}

/// A name as it is written in a path.
pub(super) fn escaped(name: &str) -> String {
    utf8_percent_encode(name, ESCAPED).to_string()
}
