//! The logs and traces of Kernelbox's programs: set up once by each `main`, and what ties the calls between them into one trace.
//!
//! Spans are those of the crate tracing. Which there are is said where the work is done; nothing secret and nothing of a user's (code, files,
//! words) is in a span, or in a log line of level info and above.
#[cfg(feature = "export")]
mod export;
mod lines;
mod trace;

use std::io::IsTerminal as _;

use clap::ValueEnum;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::filter_fn, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

#[cfg(feature = "export")]
pub use self::export::ExportError;
pub use self::trace::{context, join, pass_on, past};

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line, for machines
    Json,
}

/// What a program wants of its logs.
#[derive(Debug, Clone, Copy)]
pub struct Logs<'a> {
    pub format: LogFormat,
    /// As `RUST_LOG`, which has precedence.
    pub filter: &'a str,
}

/// Logs and spans of this program, until it is dropped: then what is on its way to a collector still gets there.
#[derive(Debug)]
#[must_use = "spans are sent until it is dropped"]
pub struct Telemetry(SdkTracerProvider);

/// Logs to standard error. Spans get ids, and are sent nowhere.
pub fn start(program: &'static str, logs: Logs<'_>) -> Telemetry {
    set_up(program, logs, SdkTracerProvider::builder().build())
}

/// The same, but spans are sent where the usual variables of OpenTelemetry (`OTEL_*`) say, if they do. Needs a Tokio runtime.
#[cfg(feature = "export")]
pub fn start_and_export(
    program: &'static str,
    version: &'static str,
    logs: Logs<'_>,
) -> Result<Telemetry, ExportError> {
    Ok(set_up(program, logs, export::provider(program, version)?))
}

fn set_up(program: &'static str, logs: Logs<'_>, provider: SdkTracerProvider) -> Telemetry {
    // What else is said of a collector that is away is said by the SDK, too, with its reason.
    let filter = || EnvFilter::new(format!("{},opentelemetry-otlp=off", logs.filter));
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| filter());
    let layer = fmt::layer().with_writer(std::io::stderr);
    let written = match logs.format {
        LogFormat::Text => layer.with_ansi(std::io::stderr().is_terminal()).log_internal_errors(false).boxed(),
        // Whoever reads the log may be gone, and to say so on the same stream would panic.
        LogFormat::Json => layer.json().event_format(lines::Lines).log_internal_errors(false).boxed(),
    };
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(program))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(is_traced));
    opentelemetry::global::set_tracer_provider(provider.clone());
    // An error only says that logs are set up already.
    let _ = tracing_subscriber::registry().with(written.with_filter(filter)).with(spans).try_init();
    Telemetry(provider)
}

/// Spans of our own. Log lines are none of a trace's business: they name it.
fn is_traced(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && *metadata.level() <= Level::INFO && metadata.target().starts_with("kernelbox")
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        // A collector that is away is not waited for.
        let _ = self.0.shutdown();
    }
}
