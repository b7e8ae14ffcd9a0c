//! Models behind Anthropic's messages API.
mod answer;
mod request;

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::sync::OnceCell;
use url::Url;

use self::{answer::Reader, request::Manner};
use super::{
    Answering, ChatModel, Facts, ModelError, Prompt,
    config::{Endpoint, Known, ModelsError, Timing},
    facts,
    http::{Refusal, Server},
};

const VERSION: &str = "2023-06-01";

#[derive(Debug)]
pub(super) struct Anthropic {
    server: Server,
    /// `https://api.anthropic.com/v1`
    base: Url,
    model: String,
    known: Known,
    facts: OnceCell<Facts>,
    /// It knows nothing of adaptive thinking.
    no_thinking: AtomicBool,
}

impl Anthropic {
    pub(super) fn new(endpoint: &Endpoint, model: String, known: Known, timing: Timing) -> Result<Self, ModelsError> {
        let base = endpoint.base()?;
        Ok(Self {
            server: Server::new(endpoint, &base, timing)?.with_header("anthropic-version", VERSION),
            base,
            no_thinking: AtomicBool::new(!thinks_by_itself(&model)),
            model,
            known,
            facts: OnceCell::new(),
        })
    }

    /// What to try instead, where the refusal says so.
    fn learn(&self, refusal: &Refusal, manner: Manner) -> Option<Manner> {
        if refusal.status != Some(400) {
            return None;
        }
        let said = |words: &str| refusal.said.contains(words);
        // Thinking is bound to all that was before it; a history that was shortened since has to do without.
        // https://platform.claude.com/docs/en/build-with-claude/preserved-thinking
        if manner.thoughts && said("signature") {
            return Some(Manner { thoughts: false, ..manner });
        }
        if manner.thinking && said("thinking") {
            self.no_thinking.store(true, Ordering::Relaxed);
            return Some(Manner { thinking: false, ..manner });
        }
        None
    }
}

/// What a stream in these pieces comes to.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read(pieces: Vec<bytes::Bytes>) -> Option<(std::collections::VecDeque<super::Chunk>, super::Answer)> {
    super::http::read(pieces, Reader::new("m"))
}

#[async_trait]
impl ChatModel for Anthropic {
    async fn facts(&self) -> Facts {
        if let Some(facts) = self.facts.get() {
            return facts.clone();
        }
        let asked = facts::ask(&self.server, &self.base, &self.model, self.known).await;
        facts::remember(&self.facts, asked)
    }

    async fn ask(&self, request: &Prompt) -> Result<Answering, ModelError> {
        let url = facts::below(&self.base, "messages");
        let mut manner = Manner { thinking: !self.no_thinking.load(Ordering::Relaxed), thoughts: true };
        loop {
            let body = request::body(&self.model, request, manner);
            let refusal = match self.server.post(&url, &body).await {
                Ok(response) => return Ok(self.server.answering(response, Reader::new(&self.model))),
                Err(refusal) => refusal,
            };
            match self.learn(&refusal, manner) {
                Some(other) => {
                    tracing::debug!(said = refusal.error.message, "asking another way");
                    manner = other;
                }
                None => return Err(refusal.error),
            }
        }
    }
}

/// Claude 5 and later think unless told otherwise, and hide it unless asked to show it.
/// <https://platform.claude.com/docs/en/build-with-claude/thinking>
fn thinks_by_itself(model: &str) -> bool {
    // claude-FAMILY-MAJOR...; earlier ones were called claude-MAJOR...
    let mut parts = model.strip_prefix("claude-").unwrap_or_default().split('-');
    let has_family = parts.next().is_some_and(|family| family.starts_with(|c: char| c.is_ascii_alphabetic()));
    let major = parts.next().and_then(|major| major.parse::<u32>().ok());
    has_family && major.is_some_and(|major| (5..100).contains(&major))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_models_that_think_by_themselves_are_asked_to_show_it() {
        for (model, thinks) in [
            ("claude-sonnet-5-5", true),
            ("claude-opus-5", true),
            ("claude-haiku-4-5-20251001", false),
            ("claude-3-5-haiku-20241022", false),
            ("claude-sonnet-20250514", false),
            ("deepseek-chat", false),
        ] {
            assert_eq!(thinks_by_itself(model), thinks, "{model}");
        }
    }
}
