//! Models behind OpenAI's chat completions: OpenAI, Azure, Ollama, llama.cpp, vLLM, LM Studio, OpenRouter and others.
//!
//! Servers differ in what they take; what one refuses is learned from its error and not sent to it again.
mod answer;
mod calls;
mod request;
mod think;

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::OnceCell;
use url::Url;

use self::{answer::Reader, request::Manner};
use super::{
    Answering, ChatModel, Facts, Failure, ModelError, Prompt,
    config::{Endpoint, Known, ModelsError, Provider, Timing},
    facts,
    http::{Refusal, Server},
};

/// A model behind a server that speaks this format.
#[derive(Debug)]
pub(super) struct OpenAi {
    server: Server,
    /// Where everything is below: `https://api.openai.com/v1`
    base: Url,
    /// None: whatever the server has.
    model: Option<String>,
    api_version: Option<String>,
    known: Known,
    listed: OnceCell<String>,
    facts: OnceCell<Facts>,
    no_usage: AtomicBool,
    other_limit: AtomicBool,
    no_effort: AtomicBool,
}

impl OpenAi {
    pub(super) fn new(
        endpoint: &Endpoint,
        model: Option<String>,
        known: Known,
        timing: Timing,
    ) -> Result<Self, ModelsError> {
        let base = endpoint.base()?;
        Ok(Self {
            server: Server::new(endpoint, &base, timing)?,
            base,
            model,
            api_version: endpoint.api_version.clone(),
            known,
            listed: OnceCell::new(),
            facts: OnceCell::new(),
            no_usage: AtomicBool::new(false),
            other_limit: AtomicBool::new(false),
            no_effort: AtomicBool::new(false),
        })
    }

    /// The model's name; asks the server for one if none was given.
    async fn model(&self) -> Result<&str, ModelError> {
        match &self.model {
            Some(model) => Ok(model),
            None => self.listed.get_or_try_init(|| self.first_listed()).await.map(String::as_str),
        }
    }

    async fn first_listed(&self) -> Result<String, ModelError> {
        let url = facts::below(&self.base, "models");
        let page = tokio::time::timeout(facts::PATIENCE, self.server.page(&url, None)).await;
        let page = page.map_err(|_| ModelError::new(Failure::Silent, "the server does not list its models"))??;
        let listed = page.as_ref().and_then(facts::first_listed);
        listed.ok_or_else(|| {
            let none = match self.server.provider {
                Provider::Ollama => "Ollama has no model: get one, for example with `ollama pull qwen3`",
                _ => "the model server lists no model: name one with KERNELBOX_MODEL",
            };
            ModelError::new(Failure::Refused, none)
        })
    }

    fn url(&self, model: &str) -> Url {
        if self.server.provider != Provider::Azure {
            return facts::below(&self.base, "chat/completions");
        }
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["openai", "deployments", model, "chat", "completions"]);
        }
        let version = self.api_version.as_deref().unwrap_or(super::config::AZURE_API_VERSION);
        url.query_pairs_mut().append_pair("api-version", version);
        url
    }

    fn is_openai(&self) -> bool {
        self.base.host_str() == Some("api.openai.com") || self.server.provider == Provider::Azure
    }

    fn manner(&self) -> Manner {
        Manner {
            usage: !self.no_usage.load(Ordering::Relaxed),
            completion_tokens: self.is_openai() != self.other_limit.load(Ordering::Relaxed),
            no_effort: self.no_effort.load(Ordering::Relaxed),
        }
    }

    /// Whether the refusal says what to leave out, and it was not left out already.
    fn learn(&self, refusal: &Refusal, manner: Manner, body: &Value) -> bool {
        if !matches!(refusal.status, Some(400 | 422)) || refusal.error.kind != Failure::Refused {
            return false;
        }
        let said = |words: &str| refusal.said.contains(words);
        let limit = if manner.completion_tokens { "max_completion_tokens" } else { "max_tokens" };
        let is_first = manner.completion_tokens == self.is_openai();
        if manner.usage && said("stream_options") {
            self.no_usage.store(true, Ordering::Relaxed);
        } else if body.get(limit).is_some() && said(limit) && is_first {
            self.other_limit.store(true, Ordering::Relaxed);
        } else if body.get("tools").is_some() && !manner.no_effort && said("reasoning_effort") {
            self.no_effort.store(true, Ordering::Relaxed);
        } else {
            return false;
        }
        tracing::debug!(server = %self.base.origin().ascii_serialization(), said = refusal.error.message, "asking another way");
        true
    }
}

/// What a stream in these pieces comes to.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read(pieces: Vec<bytes::Bytes>) -> Option<(std::collections::VecDeque<super::Chunk>, super::Answer)> {
    super::http::read(pieces, Reader::new("m"))
}

#[async_trait]
impl ChatModel for OpenAi {
    async fn facts(&self) -> Facts {
        if let Some(facts) = self.facts.get() {
            return facts.clone();
        }
        let Ok(name) = self.model().await else {
            return facts::guess(self.server.provider, "", self.known);
        };
        let asked = facts::ask(&self.server, &self.base, name, self.known).await;
        facts::remember(&self.facts, asked)
    }

    async fn ask(&self, request: &Prompt) -> Result<Answering, ModelError> {
        let model = self.model().await?;
        let url = self.url(model);
        loop {
            let manner = self.manner();
            let body = request::body(model, request, manner);
            match self.server.post(&url, &body).await {
                Ok(response) => return Ok(self.server.answering(response, Reader::new(model))),
                // Each thing is learned once, so this ends.
                Err(refusal) if self.learn(&refusal, manner, &body) => {}
                Err(refusal) => return Err(refusal.error),
            }
        }
    }
}
