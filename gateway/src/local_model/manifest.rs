//! The manifest that `deploy/local-model/get` writes last: where the server, the model and its chat template are.
use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// The only version there has been.
const VERSION: u32 = 1;

/// Why what was installed cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the local model's {} cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the local model's {} is not understood; run deploy/local-model/get again", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("the local model's {} is of version {version}, and not {VERSION}; run this version's deploy/local-model/get", path.display())]
    Version { path: PathBuf, version: u32 },
    #[error("the local model lacks {}; run deploy/local-model/get again", path.display())]
    Missing { path: PathBuf },
}

/// What is needed to run the model. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    pub name: String,
    /// llama.cpp's server.
    pub server: PathBuf,
    /// The weights, GGUF.
    pub model: PathBuf,
    pub chat_template: PathBuf,
    pub context_tokens: u32,
}

impl Manifest {
    /// None where there is no manifest. The sum was checked when it was written; here only presence is.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, ManifestError> {
        let path = dir.join("manifest.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ManifestError::Read { path, source }),
        };
        let mut manifest: Self = match serde_json::from_slice(&bytes) {
            Ok(manifest) => manifest,
            Err(source) => return Err(ManifestError::Parse { path, source }),
        };
        if manifest.version != VERSION {
            return Err(ManifestError::Version { path, version: manifest.version });
        }
        // Those inside the folder are relative to it.
        for file in [&mut manifest.server, &mut manifest.model, &mut manifest.chat_template] {
            *file = dir.join(&*file);
            if !file.is_file() {
                return Err(ManifestError::Missing { path: file.clone() });
            }
        }
        Ok(Some(manifest))
    }
}
