//! The trace that a call belongs to, in the W3C's header `traceparent`, and spans of what is over when it is told.
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context, TraceId,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::{Span as _, TraceContextExt as _, Tracer as _},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Makes a new span a part of the caller's trace, if its call names one, and tells it the trace's id, in its field `trace_id`.
pub fn join(span: &Span, headers: &HeaderMap) {
    // It fails only for a span that nobody traces.
    let _ = span.set_parent(TraceContextPropagator::new().extract(&Incoming(headers)));
    let context = span.context();
    let id = context.span().span_context().trace_id();
    if id != TraceId::INVALID {
        span.record("trace_id", tracing::field::display(id));
    }
}

/// Makes a call a part of the current span's trace.
pub fn pass_on(headers: &mut HeaderMap) {
    TraceContextPropagator::new().inject_context(&context(), &mut Outgoing(headers));
}

/// The current span, for spans of what others did within it.
pub fn context() -> Context {
    Span::current().context()
}

/// A span of what is over.
pub fn past(within: &Context, name: &'static str, from: SystemTime, to: SystemTime) {
    let tracer = opentelemetry::global::tracer("kernelbox");
    tracer.span_builder(name).with_start_time(from).start_with_context(&tracer, within).end_with_timestamp(to);
}

struct Incoming<'a>(&'a HeaderMap);

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct Outgoing<'a>(&'a mut HeaderMap);

impl Injector for Outgoing<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}
