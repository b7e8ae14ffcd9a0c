//! A model whose calls are counted: each try, also those that only summarise.
use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use futures::StreamExt as _;
use kernelbox_metrics::Observe as _;

use super::{Answering, ChatModel, Chunk, Facts, Failure, ModelError, Prompt};
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
        let (metrics, begun) = (Arc::clone(&self.metrics), Instant::now());
        let mut answering = self.model.ask(request).await.inspect_err(|error| metrics.model.failed(error.kind))?;
        let counted = async_stream::stream! {
            let mut is_first = true;
            while let Some(chunk) = answering.next().await {
                if is_first && chunk.is_ok() {
                    is_first = false;
                    metrics.model.first_token.took(begun.elapsed());
                }
                let is_end = match &chunk {
                    Ok(Chunk::Answer(answer)) => {
                        metrics.model.times.took(begun.elapsed());
                        metrics.model.spent(answer.usage);
                        true
                    }
                    Ok(_) => false,
                    Err(error) => {
                        metrics.model.failed(error.kind);
                        true
                    }
                };
                yield chunk;
                if is_end {
                    return;
                }
            }
            // Whoever asked takes it for this.
            metrics.model.failed(Failure::Broken);
        };
        Ok(counted.boxed())
    }
}
