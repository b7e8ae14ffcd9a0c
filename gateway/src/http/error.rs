//! Errors over HTTP: the same table as over gRPC, as JSON.
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use kernelbox_proto::Error;
use serde_json::json;

/// `{"code": 404, "reason": "FILE_NOT_FOUND", "message": "...", "request_id": "..."}`
pub(crate) fn response(error: &Error, request_id: &str) -> Response {
    with_status(error.code.http(), error, request_id)
}

/// The same with a status of HTTP's own.
pub(crate) fn with_status(status: StatusCode, error: &Error, request_id: &str) -> Response {
    let body = json!({
        "code": status.as_u16(),
        "reason": error.reason(),
        "message": error.message,
        "request_id": request_id,
    });
    let mut response = (status, Json(body)).into_response();
    if let Some(wait) = error.retry_after {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
