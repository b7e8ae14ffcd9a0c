//! Which models there are: plain data, from settings and from the environment. Nothing here asks a server.
//!
//! A key is shown by nothing here, and goes to no other place than the one that it was given for.
mod endpoint;
mod environment;

use std::{fmt, time::Duration};

pub use self::{endpoint::Endpoint, environment::ModelSettings};
pub(super) use environment::split;

/// The last version of Azure's dated API.
pub(super) const AZURE_API_VERSION: &str = "2024-10-21";

/// What is known of the models of a server.
#[derive(Debug, Clone, Default)]
pub struct ModelsConfig {
    /// At most one for each provider; the first is the one that names without a provider mean.
    pub endpoints: Vec<Endpoint>,
    /// What is used where no model is named. None: the first endpoint's model.
    pub default: Option<Choice>,
    /// What the user knows of the default model.
    pub known: Known,
    pub timing: Timing,
}

/// A model of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub provider: Provider,
    /// None: the endpoint's own.
    pub model: Option<String>,
}

/// What need not be asked of a model's server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    pub context_tokens: Option<u32>,
    pub sees_images: Option<bool>,
}

/// How long a model's server is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub connect: Duration,
    /// Until the first byte of an answer: a local model reads the whole prompt first.
    pub first: Duration,
    /// Between two bytes after it.
    pub silence: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), first: Duration::from_secs(300), silence: Duration::from_secs(120) }
    }
}

/// Whose models they are. Its name is what stands before the colon in `openai:gpt-6-luna`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Provider {
    /// OpenAI, and every server that speaks its format and is none of the others.
    OpenAi,
    Azure,
    Anthropic,
    Ollama,
    /// A server that Kernelbox found or started on this machine.
    Local,
}

/// Name, where it is, its default model, and where its key is read from. Without a default model, it is the first that the server lists.
type Row = (Provider, &'static str, Option<&'static str>, Option<&'static str>, &'static str);
const PROVIDERS: [Row; 5] = [
    (
        Provider::OpenAi,
        "openai",
        Some("https://api.openai.com/v1"),
        Some("gpt-6.1-terra"),
        "OPENAI_API_KEY, or KERNELBOX_MODEL_KEY for a server of KERNELBOX_MODEL_URL",
    ),
    (Provider::Azure, "azure", None, None, "AZURE_OPENAI_API_KEY"),
    (
        Provider::Anthropic,
        "anthropic",
        Some("https://api.anthropic.com/v1"),
        Some("claude-sonnet-5-5"),
        "ANTHROPIC_API_KEY, or KERNELBOX_MODEL_KEY for a server of KERNELBOX_MODEL_URL",
    ),
    (Provider::Ollama, "ollama", Some("http://127.0.0.1:11434/v1"), None, "KERNELBOX_MODEL_KEY"),
    (Provider::Local, "local", None, None, "KERNELBOX_MODEL_KEY"),
];

impl Provider {
    fn row(self) -> &'static Row {
        let at = PROVIDERS.iter().position(|row| row.0 == self).unwrap_or_default();
        &PROVIDERS[at]
    }

    pub fn name(self) -> &'static str {
        self.row().1
    }

    pub fn named(name: &str) -> Option<Self> {
        PROVIDERS.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    pub(super) fn usual_url(self) -> Option<&'static str> {
        self.row().2
    }

    pub(super) fn usual_model(self) -> Option<&'static str> {
        self.row().3
    }

    pub(super) fn key_variables(self) -> &'static str {
        self.row().4
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A key to a provider's API. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// None: there is nothing in it.
    pub fn new(key: &str) -> Option<Self> {
        let key = key.trim();
        (!key.is_empty()).then(|| Self(key.to_owned()))
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(not shown)")
    }
}

/// Settings that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    #[error("{setting}: {problem}")]
    Setting { setting: &'static str, problem: String },
    #[error("{0:?} is no address of a model's server: it must be like http://127.0.0.1:8080/v1")]
    Url(String),
    #[error("the key for {provider} has characters that no key has; it is read from {}", .provider.key_variables())]
    Key { provider: Provider },
    #[error("cannot make an HTTP client")]
    Client(#[source] reqwest::Error),
}

impl ModelsError {
    pub(super) fn setting(setting: &'static str, problem: impl Into<String>) -> Self {
        Self::Setting { setting, problem: problem.into() }
    }
}
