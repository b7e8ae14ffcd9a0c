//! Images and files that code made, saved where the user can see them.
use std::{
    collections::HashMap,
    fs::File,
    io::{ErrorKind, Write as _},
    path::{Component, Path, PathBuf},
};

use kernelbox_proto::v1::{Artifact, DownloadRequest, download_response::Part};

use super::{
    connect::Client,
    failure::{Failure, Result},
};

/// Where images go that the terminal cannot show, when no folder was said.
const DEFAULT_DIR: &str = "kernelbox-output";

/// A folder that is made when the first file needs it. No file that was there before is ever written over.
#[derive(Debug)]
pub(crate) struct Keep {
    dir: PathBuf,
    client: Client,
    session: String,
    /// The files of displays that the code may update.
    displays: HashMap<String, PathBuf>,
}

impl Keep {
    /// `session`: whose files are meant, `sessions/{session}`.
    pub(crate) fn new(dir: Option<&Path>, client: &Client, session: &str) -> Self {
        let dir = dir.map_or_else(|| PathBuf::from(DEFAULT_DIR), Path::to_owned);
        Self { dir, client: client.clone(), session: session.to_owned(), displays: HashMap::new() }
    }

    /// Saves an image and says where. An update of a display takes the place of what it shows.
    pub(crate) fn image(&mut self, display: &str, extension: &str, data: &[u8]) -> Result<PathBuf> {
        if let Some(path) = self.displays.get(display).filter(|path| path.extension().is_some_and(|e| e == extension)) {
            std::fs::write(path, data).map_err(|e| Failure::local(path.display(), e))?;
            return Ok(path.clone());
        }
        let (mut file, path) = self.create(Path::new(&format!("image-1.{extension}")))?;
        file.write_all(data).map_err(|e| Failure::local(path.display(), e))?;
        if !display.is_empty() {
            self.displays.insert(display.to_owned(), path.clone());
        }
        Ok(path)
    }

    /// The bytes of an artifact.
    pub(crate) async fn fetch(&self, artifact: &Artifact) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.download(artifact, &mut bytes).await?;
        Ok(bytes)
    }

    /// Saves a file of the workspace under the same path. None where the path cannot be one below the folder.
    pub(crate) async fn file(&self, artifact: &Artifact) -> Result<Option<PathBuf>> {
        let Some(relative) = relative(&artifact.path) else { return Ok(None) };
        let (mut file, path) = self.create(&relative)?;
        let cannot = |e: &dyn std::fmt::Display| Failure::local(path.display(), e);
        // Half a file helps nobody: it goes when the download fails or is given up.
        let half = tempfile::TempPath::try_from_path(&path).map_err(|e| cannot(&e))?;
        self.download(artifact, &mut file).await?;
        half.keep().map_err(|e| cannot(&e))?;
        Ok(Some(path))
    }

    async fn download(&self, artifact: &Artifact, to: &mut (impl std::io::Write + Send)) -> Result<()> {
        let request = DownloadRequest {
            session: self.session.clone(),
            path: artifact.path.clone(),
            sha256: artifact.sha256.clone(),
            ..DownloadRequest::default()
        };
        let mut stream = self.client.files().download(request).await?.into_inner();
        while let Some(message) = stream.message().await? {
            if let Some(Part::Chunk(chunk)) = message.part {
                to.write_all(&chunk).map_err(|e| Failure::local(self.dir.display(), e))?;
            }
        }
        Ok(())
    }

    /// A new file: with the name, or with the first number that is free.
    fn create(&self, relative: &Path) -> Result<(File, PathBuf)> {
        let wanted = self.dir.join(relative);
        let parent = wanted.parent().unwrap_or(&self.dir);
        std::fs::create_dir_all(parent).map_err(|e| Failure::local(parent.display(), e))?;
        for number in 1..u32::MAX {
            let path = numbered(&wanted, number);
            match File::create_new(&path) {
                Ok(file) => return Ok((file, path)),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Failure::local(path.display(), e)),
            }
        }
        Err(Failure::local(wanted.display(), "no name is free"))
    }
}

/// `a.png`, `a-2.png`, `a-3.png`; `image-1.png`, `image-2.png`.
fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 1 {
        return path.to_owned();
    }
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = stem.strip_suffix("-1").unwrap_or(&stem);
    let name = match path.extension() {
        Some(extension) => format!("{stem}-{number}.{}", extension.to_string_lossy()),
        None => format!("{stem}-{number}"),
    };
    path.with_file_name(name)
}

/// A path that the code chose, as one that stays below a folder.
fn relative(path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    let below = path.components().all(|part| matches!(part, Component::Normal(_)));
    (below && path.file_name().is_some()).then(|| path.to_owned())
}

/// The ending of a file of this type.
pub(crate) fn extension(media_type: &str) -> &'static str {
    match media_type {
        "image/png" => "png",
        "image/jpeg" => "jpg",
        "image/gif" => "gif",
        "image/webp" => "webp",
        "image/svg+xml" => "svg",
        "application/pdf" => "pdf",
        _ => "bin",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_the_codes_stays_below_the_folder() {
        assert_eq!(relative("a/b.csv"), Some(PathBuf::from("a/b.csv")));
        for path in ["../a", "/etc/passwd", "a/../../b", "", "."] {
            assert_eq!(relative(path), None, "{path:?}");
        }
    }

    #[test]
    fn the_next_free_name_is_counted_up() {
        assert_eq!(numbered(Path::new("d/image-1.png"), 2), Path::new("d/image-2.png"));
        assert_eq!(numbered(Path::new("plot.png"), 3), Path::new("plot-3.png"));
        assert_eq!(numbered(Path::new("data"), 2), Path::new("data-2"));
    }
}
