//! Calls, from their first byte to their last: by service, method and code. Their spans last as long.
use std::{
    collections::HashMap,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http::{Method, Response};
use hyper::body::{Frame, SizeHint};
use kernelbox_metrics::{Book, Error, Histogram, IntCounterVec, IntGauge, REQUEST};
use prost::Message as _;
use tonic::{Code, Status};
use tracing::Span;

use super::Held;

/// Of calls that are none of ours: health, reflection, paths that lead nowhere.
const OTHER: &str = "other";
const HTTP: &str = "http";

/// All of them.
#[derive(Debug)]
pub(crate) struct Requests {
    ours: HashMap<String, Route>,
    http: [(Method, Route); 4],
    other: Route,
}

#[derive(Debug, Clone)]
struct Route {
    service: String,
    method: String,
    open: IntGauge,
    times: Histogram,
    codes: IntCounterVec,
}

impl Requests {
    pub(super) fn new(book: &mut Book) -> Result<Self, Error> {
        let codes = book.counters_by(
            "kernelbox_requests_total",
            "Calls that ended. The service is that of gRPC with a method of it and a code of gRPC, or http with a \
             method and a status of HTTP, or other.",
            &["service", "method", "code"],
        )?;
        let times = book.histograms_by(
            "kernelbox_request_seconds",
            "Time from a call's beginning to the last byte of its answer: a stream takes as long as it is followed.",
            &["service", "method"],
            REQUEST,
        )?;
        let open = book.open_gauges(
            "kernelbox_requests_open",
            "Calls that go on now, streams among them.",
            &["service", "method"],
        )?;
        let route = |service: &str, method: &str| Route {
            open: open.with_label_values(&[service, method]),
            times: times.with_label_values(&[service, method]),
            codes: codes.clone(),
            service: service.to_owned(),
            method: method.to_owned(),
        };
        let methods = [Method::GET, Method::HEAD, Method::PUT, Method::DELETE];
        let ours = methods_of_services()
            .into_iter()
            .map(|(service, method)| (format!("/{service}/{method}"), route(&service, &method)));
        Ok(Self {
            ours: ours.collect(),
            http: methods.map(|method| (method.clone(), route(HTTP, method.as_str()))),
            other: route(OTHER, OTHER),
        })
    }

    /// A call begins. It ends as cancelled if it is dropped before its answer is known.
    pub(crate) fn begin(&self, path: &str, method: &Method, is_grpc: bool) -> Request {
        let http = || self.http.iter().find(|(of, _)| of == method && path.starts_with("/v1/")).map(|(_, route)| route);
        let route = if is_grpc { self.ours.get(path) } else { http() };
        let route = route.unwrap_or(&self.other).clone();
        Request {
            _open: Held::new(&route.open),
            route,
            is_grpc,
            begun: Instant::now(),
            code: Ended::Grpc(Code::Cancelled),
            span: Span::none(),
        }
    }
}

/// Of the public services.
fn methods_of_services() -> Vec<(String, String)> {
    // It is our own, built in: a set that cannot be read has no methods, which a test would see.
    let set = prost_types::FileDescriptorSet::decode(kernelbox_proto::FILE_DESCRIPTOR_SET).unwrap_or_default();
    let public = set.file.iter().filter(|file| file.package() == "kernelbox.v1");
    public
        .flat_map(|file| &file.service)
        .flat_map(|service| {
            let name = format!("kernelbox.v1.{}", service.name());
            service.method.iter().map(move |method| (name.clone(), method.name().to_owned()))
        })
        .collect()
}

#[derive(Debug, Clone, Copy)]
enum Ended {
    Grpc(Code),
    Http(http::StatusCode),
}

impl Ended {
    /// Whether it is the server that failed, not its caller.
    fn is_fault(self) -> bool {
        match self {
            Self::Grpc(code) => {
                use Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
                matches!(code, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
            }
            Self::Http(status) => status.is_server_error(),
        }
    }
}

/// A call that goes on. Its end is counted.
#[derive(Debug)]
pub(crate) struct Request {
    route: Route,
    is_grpc: bool,
    begun: Instant,
    code: Ended,
    span: Span,
    _open: Held,
}

impl Request {
    /// Its service and method.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.route.service, self.route.method)
    }

    /// The answer, which is watched to its end, in the call's span.
    pub(crate) fn answer(mut self, response: Response<Body>, span: Span) -> Response<Body> {
        self.span = span;
        if !self.is_grpc {
            self.code = Ended::Http(response.status());
        } else if let Some(status) = Status::from_header_map(response.headers()) {
            self.code = Ended::Grpc(status.code());
        }
        response.map(|body| Body::new(Watched { body, request: self }))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let code = match &self.code {
            Ended::Grpc(code) => word(*code),
            Ended::Http(status) => status.as_str(),
        };
        self.span.record("code", code);
        if self.code.is_fault() {
            self.span.record("otel.status_code", "ERROR");
        }
        self.route.codes.with_label_values(&[self.route.service.as_str(), &self.route.method, code]).inc();
        self.route.times.observe(self.begun.elapsed().as_secs_f64());
    }
}

struct Watched {
    body: Body,
    request: Request,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let _in_call = self.request.span.clone().entered();
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(status) = frame.trailers_ref().and_then(Status::from_header_map)
        {
            self.request.code = Ended::Grpc(status.code());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// As gRPC's specification spells it.
fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
