//! `/api/definitions`.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Multipart, Query, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use tracing::info;

use super::changed;
use crate::{
    broker::import::Refused,
    management::{
        Shared,
        body::unreadable,
        caller::{Administrator, Caller},
        definitions::{export, export_host, read, report, shown_refused},
        error::ApiError,
        path::Names,
    },
};

/// The largest file of definitions, in octets: those of some hundred thousand queues.
const BYTES_MAX: usize = 64 << 20;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/definitions", get(export_all).post(import_all))
        .route("/definitions/{vhost}", get(export_one).post(import_one))
        .layer(DefaultBodyLimit::max(BYTES_MAX))
}

/// The parameters of a request for definitions.
#[derive(Debug, serde::Deserialize)]
struct Download {
    /// Under which name a browser is to save them.
    download: Option<String>,
}

async fn export_all(
    State(api): State<Shared>,
    _: Administrator,
    Query(query): Query<Download>,
) -> Result<Response, ApiError> {
    exported(query, move || export(&api.broker)).await
}

async fn export_one(
    State(api): State<Shared>,
    _: Administrator,
    Names(name): Names<String>,
    Query(query): Query<Download>,
) -> Result<Response, ApiError> {
    let host = api.broker.virtual_host(&name).ok_or(ApiError::NoVirtualHost)?;
    exported(query, move || export_host(&api.broker, &host)).await
}

/// Much of it takes a while.
async fn exported(
    query: Download,
    export: impl FnOnce() -> Value + Send + 'static,
) -> Result<Response, ApiError> {
    let exported = tokio::task::spawn_blocking(move || export().to_string()).await;
    let exported =
        exported.map_err(|_| ApiError::Unavailable("they can't be exported: see the log".into()))?;
    let mut response = ([(header::CONTENT_TYPE, "application/json")], exported).into_response();
    if let Some(name) = query.download {
        let plain = name.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c));
        let value = format!("attachment; filename={}", plain.collect::<String>());
        let value = HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static("attachment"));
        response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

async fn import_all(
    State(api): State<Shared>,
    Administrator(caller): Administrator,
    upload: Upload,
) -> Result<Response, ApiError> {
    import(api, caller, None, upload).await
}

async fn import_one(
    State(api): State<Shared>,
    Administrator(caller): Administrator,
    Names(name): Names<String>,
    upload: Upload,
) -> Result<Response, ApiError> {
    api.broker.virtual_host(&name).ok_or(ApiError::NoVirtualHost)?;
    import(api, caller, Some(name), upload).await
}

async fn import(
    api: Shared,
    caller: Caller,
    host: Option<String>,
    Upload(octets): Upload,
) -> Result<Response, ApiError> {
    let (shared, user, now) = (Arc::clone(&api), Arc::clone(&caller.user.name), api.now());
    let imported = tokio::task::spawn_blocking(move || {
        let import = read(&octets, host.as_deref())?;
        shared.broker.import(import, Some(&user), now)
    });
    let imported = imported.await.map_err(|_| {
        ApiError::Unavailable("the import has failed, and a part of it may be there: see the log".into())
    })?;
    match imported {
        Ok(lsn) => {
            info!(user = %caller.user.name, "definitions imported");
            changed(&api, lsn).await
        }
        Err(refused) => Ok(refusal(&refused)),
    }
}

fn refusal(refused: &[Refused]) -> Response {
    let is_json = refused.iter().all(|refused| refused.kind != "definitions");
    let reason = if is_json { report(refused) } else { "failed_to_parse_json".to_owned() };
    let mut body = json!({"error": "bad_request", "reason": reason});
    if is_json {
        body["refused"] = shown_refused(refused).into();
    }
    (StatusCode::BAD_REQUEST, Json(body)).into_response()
}

/// A file of definitions: the body, or the part `file` of a form.
struct Upload(Bytes);

impl FromRequest<Shared> for Upload {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Shared) -> Result<Self, ApiError> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("multipart/form-data")) {
            let octets = Bytes::from_request(request, api).await;
            return octets.map(Self).map_err(|error| unreadable(&error));
        }
        let failed = |error: String| ApiError::bad_request(error);
        let form = Multipart::from_request(request, api).await;
        let mut form = form.map_err(|error| failed(error.body_text()))?;
        while let Some(part) = form.next_field().await.map_err(|error| failed(error.body_text()))? {
            if part.name() == Some("file") {
                return part.bytes().await.map(Self).map_err(|error| match error.status() {
                    StatusCode::PAYLOAD_TOO_LARGE => ApiError::TooLarge("The file is too large".into()),
                    _ => failed(error.body_text()),
                });
            }
        }
        Err(failed("the form has no file".to_owned()))
    }
}
