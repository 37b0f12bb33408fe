//! What a request is answered that is not served, in RabbitMQ's words.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

/// Why a request is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ApiError {
    /// 401: no credentials, or wrong ones. The texts are RabbitMQ's: `Login failed`, or `Not_Authorized` for a user
    /// without any of the tags of the management.
    Unauthorized(&'static str),
    /// 401, as RabbitMQ says it: the user may not do this, for want of a tag or a permission.
    NotAuthorised(String),
    /// 404: no such thing.
    NotFound,
    /// 400: what the request says is wrong, or the broker refuses it; the text says what and why.
    BadRequest(String),
    /// 400 with another `error` than `bad_request`.
    Refused {
        /// RabbitMQ's name of what is wrong.
        error: &'static str,
        /// What and why.
        reason: String,
    },
    /// 400 with a reason that is a list, as RabbitMQ shows a term: what is wrong, and with what.
    BadTerm(&'static str, serde_json::Value),
    /// 404: something that the request names is not there; the text says what.
    Missing(String),
    /// 412: it is protected from that.
    Protected(String),
    /// 404 for a virtual host in which something is to be changed.
    NoVirtualHost,
    /// 405: not with this method.
    MethodNotAllowed,
    /// 413: the body is larger than this path takes.
    TooLarge(String),
    /// 429: too many failed logins from there.
    TooManyAttempts {
        /// For how long, in seconds.
        wait_secs: u64,
    },
    /// 503: it can't be done now.
    Unavailable(String),
}

impl ApiError {
    /// 400 with that text.
    pub(super) fn bad_request(reason: impl Into<String>) -> Self {
        Self::BadRequest(reason.into())
    }

    /// 400 with a reason that is a list, as RabbitMQ shows a term: what is wrong, and with what.
    pub(super) fn bad_request_of(what: &'static str, value: &serde_json::Value) -> Self {
        Self::BadTerm(what, value.clone())
    }

    /// 401 because the user is not allowed to.
    pub(super) fn not_authorised(reason: impl Into<String>) -> Self {
        Self::NotAuthorised(reason.into())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let retry_after = match &self {
            Self::TooManyAttempts { wait_secs } => Some(HeaderValue::from(*wait_secs)),
            _ => None,
        };
        let (status, error, reason) = match self {
            Self::BadTerm(what, value) => {
                let body = json!({"error": "bad_request", "reason": [what, value]});
                return (StatusCode::BAD_REQUEST, Json(body)).into_response();
            }
            Self::Missing(reason) => (StatusCode::NOT_FOUND, "not_found", reason),
            Self::Protected(reason) => (StatusCode::PRECONDITION_FAILED, "precondition_failed", reason),
            Self::NoVirtualHost => (StatusCode::NOT_FOUND, "not_found", "vhost_not_found".to_owned()),
            Self::Unauthorized(reason) => (StatusCode::UNAUTHORIZED, "not_authorized", reason.to_owned()),
            Self::NotAuthorised(reason) => (StatusCode::UNAUTHORIZED, "not_authorised", reason),
            Self::NotFound => (StatusCode::NOT_FOUND, "Object Not Found", "Not Found".to_owned()),
            Self::BadRequest(reason) => (StatusCode::BAD_REQUEST, "bad_request", reason),
            Self::Refused { error, reason } => (StatusCode::BAD_REQUEST, error, reason),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed", "Method Not Allowed".to_owned())
            }
            Self::TooLarge(reason) => (StatusCode::PAYLOAD_TOO_LARGE, "too_large", reason),
            Self::TooManyAttempts { .. } => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_attempts",
                "Too many failed logins: wait a moment".to_owned(),
            ),
            Self::Unavailable(reason) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", reason),
        };
        let mut response = (status, Json(json!({"error": error, "reason": reason}))).into_response();
        if error == "not_authorized" {
            let challenge = HeaderValue::from_static("basic realm=\"RabbitMQ Management\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(wait) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, wait);
        }
        response
    }
}
