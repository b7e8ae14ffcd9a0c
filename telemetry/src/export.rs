//! Where spans go: to a collector, by OTLP over gRPC, if `OTEL_EXPORTER_OTLP_ENDPOINT` says where it is.
use opentelemetry::KeyValue;
use opentelemetry_sdk::{Resource, resource::EnvResourceDetector, trace::SdkTracerProvider};

/// Of spans, then of all signals.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("{0} is {1:?}, but spans are sent by grpc alone: unset it, and give the collector's port for gRPC (4317)")]
    Protocol(&'static str, String),
    #[error("spans cannot be sent to OTEL_EXPORTER_OTLP_ENDPOINT")]
    Endpoint(#[from] opentelemetry_otlp::ExporterBuildError),
}

pub(crate) fn provider(program: &'static str, version: &'static str) -> Result<SdkTracerProvider, ExportError> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    // What the environment says of the service has precedence.
    let own = [KeyValue::new("service.name", program), KeyValue::new("service.version", version)];
    let resource = Resource::builder_empty().with_attributes(own).with_detector(Box::new(EnvResourceDetector::new()));
    let resource = match set("OTEL_SERVICE_NAME") {
        Some(name) => resource.with_service_name(name),
        None => resource,
    };
    let provider = SdkTracerProvider::builder().with_resource(resource.build());
    if !ENDPOINTS.iter().any(|name| set(name).is_some()) || set("OTEL_SDK_DISABLED").as_deref() == Some("true") {
        return Ok(provider.build());
    }
    let protocol = PROTOCOLS.iter().find_map(|name| Some((*name, set(name)?)));
    if let Some((name, protocol)) = protocol
        && protocol != "grpc"
    {
        return Err(ExportError::Protocol(name, protocol));
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().build()?;
    Ok(provider.with_batch_exporter(exporter).build())
}
