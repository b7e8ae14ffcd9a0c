//! A collector of spans, by OTLP over gRPC, as operators have one.
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use hex::encode;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
};
use tokio::{net::TcpListener, task::AbortHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::{eventually, root};

/// The tree of a turn's spans as `docs/tracing.md` has it, without those that are not wanted.
pub fn documented_trace(wanted: impl Fn(&str) -> bool) -> String {
    let page = std::fs::read_to_string(root().join("docs/tracing.md")).unwrap();
    let tree = page.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    let names = tree.lines().map(|line| line.split('#').next().unwrap().trim_end());
    names.filter(|line| wanted(line.trim())).map(|line| format!("{line}\n")).collect()
}

/// It ends when it is dropped.
pub struct Collector {
    pub address: SocketAddr,
    spans: Spans,
    running: AbortHandle,
}

/// One span, in hexadecimal ids.
#[derive(Debug, Clone)]
pub struct Traced {
    pub name: String,
    /// Which program sent it.
    pub service: String,
    pub trace: String,
    pub id: String,
    /// Empty if it has none.
    pub parent: String,
    pub attributes: HashMap<String, String>,
    pub nanos: (u64, u64),
}

#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Traced>>>);

impl Collector {
    pub async fn start() -> Self {
        Self::listen(([127, 0, 0, 1], 0)).await
    }

    pub async fn listen(address: impl Into<SocketAddr>) -> Self {
        let listener = TcpListener::bind(address.into()).await.unwrap();
        let (address, spans) = (listener.local_addr().unwrap(), Spans::default());
        let service = TraceServiceServer::new(spans.clone());
        let serving = Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
        Self { address, spans, running: tokio::spawn(serving).abort_handle() }
    }

    pub fn spans(&self) -> Vec<Traced> {
        self.spans.0.lock().unwrap().clone()
    }

    /// Waits until a trace is there as it should be. It is drawn as a tree: two blanks a level, siblings by their names.
    pub async fn trace(&self, trace: &str, tree: &str) {
        eventually("the trace is whole", || {
            let drawn = self.draw(trace);
            if drawn == tree { Ok(()) } else { Err(format!("{drawn}\nbut should be\n{tree}")) }
        })
        .await;
    }

    fn draw(&self, trace: &str) -> String {
        let spans: Vec<_> = self.spans().into_iter().filter(|span| span.trace == trace).collect();
        let is_here = |id: &str| spans.iter().any(|span| span.id == id);
        let mut drawn = String::new();
        let mut tops: Vec<_> = spans.iter().filter(|span| !is_here(&span.parent)).collect();
        tops.sort_by(|a, b| a.name.cmp(&b.name));
        tops.iter().for_each(|top| draw_below(&spans, top, 0, &mut drawn));
        drawn
    }
}

fn draw_below(spans: &[Traced], span: &Traced, depth: usize, drawn: &mut String) {
    drawn.push_str(&format!("{:depth$}{}\n", "", span.name, depth = depth * 2));
    let mut below: Vec<_> = spans.iter().filter(|other| other.parent == span.id).collect();
    below.sort_by(|a, b| (&a.name, a.nanos).cmp(&(&b.name, b.nanos)));
    below.iter().for_each(|span| draw_below(spans, span, depth + 1, drawn));
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.running.abort();
    }
}

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_service in request.into_inner().resource_spans {
            let service = attributes(of_service.resource.unwrap().attributes).remove("service.name").unwrap();
            let spans = of_service.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().unwrap().extend(spans.map(|span| Traced {
                name: span.name,
                service: service.clone(),
                trace: encode(span.trace_id),
                id: encode(span.span_id),
                parent: encode(span.parent_span_id),
                attributes: attributes(span.attributes),
                nanos: (span.start_time_unix_nano, span.end_time_unix_nano),
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn attributes(attributes: Vec<KeyValue>) -> HashMap<String, String> {
    let text = |value: Value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let text = |it: KeyValue| (it.key, it.value.and_then(|it| it.value).map(text).unwrap_or_default());
    attributes.into_iter().map(text).collect()
}
