//! What is said of a server's failures: in its own words as far as they are fit to be shown, and with advice.
use std::{sync::Arc, time::Duration};

use super::{Failure, ModelError, Provider, Said};

/// Characters of a server's own words.
const WORDS_LIMIT: usize = 600;

/// A server, as messages call it.
#[derive(Debug, Clone)]
pub(super) struct Named(Arc<str>);

impl Named {
    pub(super) fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn broken(&self, how: &str) -> ModelError {
        ModelError::new(Failure::Broken, format!("{}: {how}", self.0))
    }

    pub(super) fn too_large(&self, limit: usize) -> ModelError {
        ModelError::new(Failure::Refused, format!("the answer of {} is over {limit} bytes", self.0))
    }

    pub(super) fn silent(&self, limit: Duration) -> ModelError {
        let limit = humantime::format_duration(limit);
        ModelError::new(Failure::Silent, format!("{} said nothing for {limit}", self.0))
    }
}

/// A server's words on one line, not too long, and without keys.
pub(super) fn presentable(words: &str, key: Option<&str>) -> String {
    let words = match key {
        Some(key) if !key.is_empty() => words.replace(key, "[key]"),
        _ => words.to_owned(),
    };
    // OpenAI repeats parts of a wrong key: sk-ab********yz.
    let is_key = |word: &&str| word.contains("sk-") || word.contains("***");
    let words: Vec<_> = words.split_whitespace().map(|word| if is_key(&word) { "[key]" } else { word }).collect();
    let mut words: String = words.join(" ").chars().filter(|c| !c.is_control()).collect();
    if let Some((end, _)) = words.char_indices().nth(WORDS_LIMIT) {
        words.truncate(end);
        words.push_str(" ...");
    }
    words
}

/// What to do about it, where that can be told.
pub(super) fn advice(provider: Provider, failure: Failure, said: &Said, has_key: bool) -> Option<String> {
    let words = said.all().to_lowercase();
    let has = |part: &str| words.contains(part);
    if has("--enable-auto-tool-choice") || has("--tool-call-parser") {
        let flags = "--enable-auto-tool-choice and --tool-call-parser";
        return Some(format!("start vLLM with {flags}, for example `--tool-call-parser hermes` for Qwen models"));
    }
    if has("--jinja") {
        return Some("start llama-server with --jinja, or the model cannot call tools".to_owned());
    }
    if has("does not support tools") {
        return Some("choose a model that can call tools".to_owned());
    }
    match failure {
        Failure::Denied if has_key => Some(format!("is the key right? It is read from {}", provider.key_variables())),
        Failure::Denied => Some(format!("it wants a key: set {}", provider.key_variables())),
        Failure::Refused if has("not found") || has("does not exist") => Some(match provider {
            Provider::Ollama => "get the model with `ollama pull MODEL`, or choose one of `ollama list`".to_owned(),
            _ => "are the model's name and the base URL right?".to_owned(),
        }),
        _ => None,
    }
}
