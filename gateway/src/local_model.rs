//! Models on this machine: servers that run already, and the one that `deploy/local-model/get` installed, run as a child.
//!
//! It says where a model is reached. How it is spoken to is not its matter: all of them take OpenAI's chat completions below
//! `{base_url}/v1`.
mod child;
mod discover;
mod finder;
mod handle;
mod log;
mod manifest;

use std::{
    fmt,
    path::{Path, PathBuf},
};

pub(crate) use self::finder::Finder;
pub use self::{
    discover::{Places, running},
    handle::{Installed, StartError},
    manifest::ManifestError,
};
use self::{handle::Settings, manifest::Manifest};

/// A model that is served on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalServer {
    /// `http://127.0.0.1:8080`
    pub base_url: String,
    /// As the server calls it.
    pub model: String,
    pub provider: Provider,
}

/// What serves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    Ollama,
    LlamaCpp,
    LmStudio,
    /// A child of this process.
    Installed,
}

impl Provider {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::LlamaCpp => "llama.cpp",
            Self::LmStudio => "lm-studio",
            Self::Installed => "installed",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The model that is installed, not running yet.
#[derive(Debug, Clone)]
pub struct LocalModel {
    manifest: Manifest,
}

impl LocalModel {
    /// Looks for it in `local-model/` of a data directory. None: nothing was ever installed there.
    ///
    /// An error says what is wrong with what was, and how it is mended.
    pub fn find(data_dir: &Path) -> Result<Option<Self>, ManifestError> {
        Ok(Manifest::read(&data_dir.join("local-model"))?.map(|manifest| Self { manifest }))
    }

    /// `qwen2.5-coder-1.5b-instruct`
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// Tokens of a prompt and its answer together.
    pub fn context_tokens(&self) -> u32 {
        self.manifest.context_tokens
    }

    /// Takes it under the care of this process. Nothing runs until the first [`Installed::base_url`]: a server that is only asked to
    /// run code shall not hold a model's 2 GB of memory, and it is ready within seconds.
    ///
    /// `log` is the file that the child's own words go to. Needs a tokio runtime.
    pub fn start(self, log: PathBuf) -> Installed {
        Installed::new(self.manifest, log, Settings::default())
    }
}

#[cfg(test)]
mod tests;
