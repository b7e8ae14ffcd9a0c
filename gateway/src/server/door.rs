//! What every call passes first: its request id, who makes it, how often; and last: errors in the shape that the client reads.
use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::Response,
};
use kernelbox_proto::{DOMAIN, Error, v1::ErrorCode};
use tonic::Status;
use tonic_types::StatusExt as _;
use tracing::{Instrument as _, Span, field::Empty};

use crate::{
    auth::Keys,
    http::error,
    limits::{Gate, TenantLimits},
    metrics::Metrics,
    services::Caller,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Calls to these need no key.
const OPEN: [&str; 3] = ["/grpc.health.v1.Health/", "/grpc.reflection.v1.", "/grpc.reflection.v1alpha."];

#[derive(Clone)]
pub(super) struct Door {
    pub keys: Arc<Keys>,
    pub gate: Arc<Gate>,
    pub limits: TenantLimits,
    pub metrics: Arc<Metrics>,
}

pub(super) async fn pass(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    let request_id = request_id(&request);
    let grpc = is_grpc(&request);
    let counted = door.metrics.requests.begin(request.uri().path(), request.method(), grpc);
    let path = request.uri().path().to_owned();
    // None of a call that says nothing of who makes it: probes, and whoever knocks.
    let mut span = Span::none();
    let response = if OPEN.iter().any(|open| path.starts_with(open)) {
        next.run(request).await
    } else {
        match door.caller(&request, &request_id) {
            Err(error) => {
                tracing::debug!(request_id, path, reason = error.reason(), "refused");
                refusal(&error, grpc, &request_id)
            }
            Ok((caller, key)) => {
                // Paths of HTTP have names of files in them: the call's name has not.
                span = tracing::info_span!(
                    "call",
                    otel.name = counted.name(),
                    otel.kind = "server",
                    otel.status_code = Empty,
                    request_id,
                    trace_id = Empty,
                    tenant = caller.tenant,
                    key,
                    session = Empty,
                    code = Empty,
                );
                kernelbox_telemetry::join(&span, request.headers());
                request.extensions_mut().insert(caller);
                let response = next.run(request).instrument(span.clone()).await;
                span.in_scope(|| tracing::debug!(status = response.status().as_u16(), "answered"));
                response
            }
        }
    };
    let mut response = if grpc { named(response, &request_id) } else { response };
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    counted.answer(response, span)
}

/// For paths that lead nowhere.
pub(super) async fn nowhere(request: Request) -> Response {
    let error = Error::new(ErrorCode::Unimplemented, format!("nothing is served at {}", request.uri().path()));
    let (grpc, id) = (is_grpc(&request), request_id(&request));
    if grpc { refusal(&error, grpc, &id) } else { error::with_status(StatusCode::NOT_FOUND, &error, &id) }
}

impl Door {
    fn caller(&self, request: &Request, request_id: &str) -> Result<(Caller, String), Error> {
        let key = self.keys.authenticate(request.headers())?;
        let limits = key.limits.over(&self.limits);
        self.gate.call(&key.tenant, &limits)?;
        let caller = Caller { tenant: key.tenant.clone(), limits, request_id: request_id.to_owned() };
        Ok((caller, key.id.clone()))
    }
}

fn is_grpc(request: &Request) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok());
    kind.is_some_and(|it| it.starts_with("application/grpc"))
}

/// The client's own, if it is one that fits into a log line; else a new one.
fn request_id(request: &Request) -> String {
    let sent = request.headers().get(&REQUEST_ID).and_then(|it| it.to_str().ok());
    let fits = |id: &&str| !id.is_empty() && id.len() <= 128 && id.bytes().all(|b| b.is_ascii_graphic());
    sent.filter(fits).map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

fn refusal(error: &Error, grpc: bool, request_id: &str) -> Response {
    if grpc {
        Status::from(error.clone().with("request_id", request_id)).into_http()
    } else {
        error::response(error, request_id)
    }
}

/// Errors that tonic itself answers with know neither our codes nor the request id.
fn named(response: Response, request_id: &str) -> Response {
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    let ours = status.get_error_details().error_info().is_some_and(|info| info.domain == DOMAIN);
    if ours || status.code() == tonic::Code::Ok {
        return response;
    }
    let mut error = Error::from_status(&status);
    if status.message().contains("message length too large") {
        error.code = ErrorCode::TooLarge;
        error.message = "the message is larger than the server takes (limit --max-message-bytes)".to_owned();
    }
    Status::from(error.with("request_id", request_id)).into_http()
}
