//! A model whose calls are counted and traced: each try, also those that only summarise.
use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use futures::StreamExt as _;
use kernelbox_metrics::Observe as _;
use tracing::{Span, field::Empty};

use super::{Answer, Answering, ChatModel, Chunk, Facts, Failure, ModelError, Prompt};
use crate::metrics::Metrics;

pub(crate) struct Counted {
    model: Arc<dyn ChatModel>,
    metrics: Arc<Metrics>,
}

impl Counted {
    pub(crate) fn new(model: Arc<dyn ChatModel>, metrics: Arc<Metrics>) -> Self {
        Self { model, metrics }
    }
}

#[async_trait]
impl ChatModel for Counted {
    async fn facts(&self) -> Facts {
        self.model.facts().await
    }

    async fn ask(&self, request: &Prompt) -> Result<Answering, ModelError> {
        let call = Call::new(self.facts().await.name, Arc::clone(&self.metrics));
        let mut answering = self.model.ask(request).await.inspect_err(|error| call.failed(error.kind))?;
        let counted = async_stream::stream! {
            let mut is_first = true;
            while let Some(chunk) = answering.next().await {
                if is_first && chunk.is_ok() {
                    is_first = false;
                    call.metrics.model.first_token.took(call.begun.elapsed());
                }
                let is_end = match &chunk {
                    Ok(Chunk::Answer(answer)) => {
                        call.answered(answer);
                        true
                    }
                    Ok(_) => false,
                    Err(error) => {
                        call.failed(error.kind);
                        true
                    }
                };
                yield chunk;
                if is_end {
                    return;
                }
            }
            // Whoever asked takes it for this.
            call.failed(Failure::Broken);
        };
        Ok(counted.boxed())
    }
}

/// One call. Its span has the names of OpenTelemetry's conventions for models.
struct Call {
    metrics: Arc<Metrics>,
    span: Span,
    begun: Instant,
}

impl Call {
    fn new(model: String, metrics: Arc<Metrics>) -> Self {
        let span = tracing::info_span!(
            "chat",
            otel.kind = "client",
            otel.status_code = Empty,
            gen_ai.operation.name = "chat",
            gen_ai.request.model = model,
            gen_ai.usage.input_tokens = Empty,
            gen_ai.usage.output_tokens = Empty,
            error.type = Empty,
        );
        Self { metrics, span, begun: Instant::now() }
    }

    fn answered(&self, answer: &Answer) {
        let usage = answer.usage;
        self.metrics.model.times.took(self.begun.elapsed());
        self.metrics.model.spent(usage);
        self.span
            .record("gen_ai.usage.input_tokens", usage.input_tokens)
            .record("gen_ai.usage.output_tokens", usage.output_tokens);
    }

    fn failed(&self, failure: Failure) {
        self.metrics.model.failed(failure);
        self.span.record("error.type", tracing::field::debug(failure)).record("otel.status_code", "ERROR");
    }
}
