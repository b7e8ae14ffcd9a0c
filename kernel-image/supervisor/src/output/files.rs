//! Output that is kept as files, under `.kernelbox` in the workspace. Code owns that folder too, so nothing there is trusted: files
//! are made new, through a handle that cannot leave the workspace.
use std::{
    io::{self, Write as _},
    sync::Arc,
};

use cap_std::fs::{Dir, File, OpenOptions};
use kernelbox_proto::v1::{Artifact, ArtifactChange};
use sha2::{Digest as _, Sha256};

/// The most that is kept of the whole text of an execution.
const WHOLE_LIMIT: u64 = 256 << 20;

/// Where one execution's output is kept.
#[derive(Debug, Clone)]
pub struct OutputFiles {
    workspace: Arc<Dir>,
    execution: String,
}

impl OutputFiles {
    pub fn new(workspace: Arc<Dir>, execution: &str) -> Self {
        Self { workspace, execution: execution.to_owned() }
    }

    /// Keeps a part of a display.
    pub(super) fn part(&self, number: u32, media_type: &str, content: &[u8]) -> io::Result<Artifact> {
        let essence = media_type.split(';').next().unwrap_or_default();
        let extension = match essence {
            "text/plain" => "txt",
            "image/jpeg" => "jpg",
            _ if essence.ends_with("+json") => "json",
            _ => mime_guess::get_mime_extensions_str(essence).and_then(|all| all.first()).copied().unwrap_or("bin"),
        };
        let path = format!(".kernelbox/display/{}-{number}.{extension}", self.execution);
        self.create(".kernelbox/display", &path)?.write_all(content)?;
        Ok(Artifact {
            path,
            size: i64::try_from(content.len()).unwrap_or(i64::MAX),
            media_type: media_type.to_owned(),
            sha256: hex::encode(Sha256::digest(content)),
            change: ArtifactChange::Created.into(),
        })
    }

    fn create(&self, folder: &str, path: &str) -> io::Result<File> {
        self.workspace.create_dir_all(folder)?;
        match self.workspace.remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.workspace.open_with(path, OpenOptions::new().write(true).create_new(true))
    }
}

/// The file of the whole text.
#[derive(Debug, Default)]
pub(super) enum Whole {
    #[default]
    None,
    Open {
        file: File,
        len: u64,
        path: String,
    },
    Full {
        path: String,
    },
    /// It could not be written.
    Failed,
}

impl Whole {
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Failed)
    }

    /// Its path in the workspace; empty where nothing is kept.
    pub(super) fn path(&self) -> String {
        match self {
            Self::Open { path, .. } | Self::Full { path } => path.clone(),
            Self::None | Self::Failed => String::new(),
        }
    }

    /// Appends. Answers the limit when the text meets it.
    pub(super) fn add(&mut self, files: &OutputFiles, text: &str, so_far: impl FnOnce() -> String) -> Option<u64> {
        match self.try_add(files, text, so_far) {
            Ok(true) => {
                *self = Self::Full { path: self.path() };
                Some(WHOLE_LIMIT)
            }
            Ok(false) => None,
            Err(error) => {
                tracing::warn!(%error, execution = files.execution, "cannot keep the whole output");
                *self = Self::Failed;
                None
            }
        }
    }

    fn try_add(&mut self, files: &OutputFiles, text: &str, so_far: impl FnOnce() -> String) -> io::Result<bool> {
        if matches!(self, Self::None) {
            let path = format!(".kernelbox/output/{}.txt", files.execution);
            let mut file = files.create(".kernelbox/output", &path)?;
            let before = so_far();
            file.write_all(before.as_bytes())?;
            *self = Self::Open { file, len: before.len() as u64, path };
        }
        let Self::Open { file, len, .. } = self else { return Ok(false) };
        let room = usize::try_from(WHOLE_LIMIT - *len).unwrap_or(usize::MAX);
        let kept = if text.len() <= room { text.len() } else { text.floor_char_boundary(room) };
        file.write_all(&text.as_bytes()[..kept])?;
        *len += kept as u64;
        Ok(kept < text.len())
    }

    /// Removes the file.
    pub(super) fn discard(&mut self, files: &OutputFiles) {
        let path = self.path();
        if !path.is_empty() {
            files.workspace.remove_file(path).ok();
        }
        *self = Self::None;
    }
}
