//! Streams a file to or from a session, with a bar on a terminal.
use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use indicatif::ProgressBar;
use kernelbox_proto::v1::{
    DownloadRequest, File, UploadHeader, UploadRequest, download_response::Part as DownloadPart,
    upload_request::Part as UploadPart,
};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::Remote;
use crate::command::{
    connect::Client,
    failure::{Failure, Result},
    progress::transfer,
    table::{visible, write_stdout},
};

/// Bytes a message; at most 1 MiB by contract.
const CHUNK: usize = 256 << 10;

/// Copies a file of this machine, or stdin, into a session.
pub(super) async fn put(client: &Client, from: &str, to: Remote, overwrite: bool) -> Result<File> {
    let name = Path::new(from).file_name().map(|name| name.to_string_lossy().into_owned());
    let path = match (to.path.is_empty() || to.path.ends_with('/'), name) {
        (false, _) => to.path,
        (true, Some(name)) if from != "-" => format!("{}{name}", to.path),
        (true, _) => return Err(Failure::usage("say the file's name in the session: SESSION:PATH")),
    };
    let (source, size, mode): (Box<dyn AsyncRead + Send + Unpin>, _, _) = if from == "-" {
        (Box::new(tokio::io::stdin()), None, 0)
    } else {
        let cannot = |e| Failure::usage(format!("{from}: {e}"));
        let file = tokio::fs::File::open(from).await.map_err(cannot)?;
        let metadata = file.metadata().await.map_err(cannot)?;
        if metadata.is_dir() {
            return Err(Failure::usage(format!("{from} is a folder: put its files one by one, or an archive of it")));
        }
        (Box::new(file), Some(metadata.len()), mode_of(&metadata))
    };
    let header = UploadHeader { session: to.session, path, overwrite, mode, ..UploadHeader::default() };
    let bar = transfer(size, from);
    let (failed, mut failure) = tokio::sync::oneshot::channel();
    let answer = client.files().upload(messages(header, source, bar.clone(), failed)).await;
    bar.finish_and_clear();
    // A file that could not be read ends the stream early; the server's answer to that says nothing of why.
    if let Ok(error) = failure.try_recv() {
        return Err(Failure::local(from, error));
    }
    Ok(answer?.into_inner())
}

/// The messages of an upload. A source that cannot be read is told through `failed`, and the last message spoils the upload: the
/// server must not take a part for the whole.
fn messages(
    header: UploadHeader,
    source: Box<dyn AsyncRead + Send + Unpin>,
    bar: ProgressBar,
    failed: tokio::sync::oneshot::Sender<std::io::Error>,
) -> impl futures::Stream<Item = UploadRequest> + Send {
    let spoil = UploadRequest { part: Some(UploadPart::Header(header.clone())) };
    let first = UploadRequest { part: Some(UploadPart::Header(header)) };
    let chunks = futures::stream::unfold(Some((source, failed)), move |state| {
        let (bar, spoil) = (bar.clone(), spoil.clone());
        async move {
            let (mut source, failed) = state?;
            let mut chunk = vec![0; CHUNK];
            match source.read(&mut chunk).await {
                Ok(0) => None,
                Ok(n) => {
                    chunk.truncate(n);
                    bar.inc(n as u64);
                    Some((UploadRequest { part: Some(UploadPart::Chunk(chunk.into())) }, Some((source, failed))))
                }
                Err(error) => {
                    let _ = failed.send(error);
                    Some((spoil, None))
                }
            }
        }
    });
    futures::StreamExt::chain(futures::stream::iter([first]), chunks)
}

/// Copies a file of a session to this machine, or to stdout. It takes its name when it is whole.
pub(super) async fn get(client: &Client, from: Remote, to: Option<String>) -> Result<()> {
    let request = DownloadRequest { session: from.session, path: from.path.clone(), ..DownloadRequest::default() };
    let target = match to.as_deref() {
        Some("-") => None,
        to => Some(target(&from.path, to)?),
    };
    let mut stream = client.files().download(request).await?.into_inner();
    let mut file = target.as_deref().map(Target::new).transpose()?;
    let mut bar = ProgressBar::hidden();
    while let Some(message) = stream.message().await.inspect_err(|_| bar.finish_and_clear())? {
        match message.part {
            Some(DownloadPart::File(found)) => {
                bar = transfer(u64::try_from(found.size).ok(), &visible(&from.path));
            }
            Some(DownloadPart::Chunk(chunk)) => {
                bar.inc(chunk.len() as u64);
                match &mut file {
                    Some(file) => file.write(&chunk)?,
                    None => write_stdout(&chunk)?,
                }
            }
            None => {}
        }
    }
    bar.finish_and_clear();
    file.map_or(Ok(()), Target::finish)
}

/// Where a download goes: into a folder under its own name, or to the file that was said.
fn target(from: &str, to: Option<&str>) -> Result<PathBuf> {
    let name = || {
        let name = Path::new(from).file_name();
        name.map(PathBuf::from).ok_or_else(|| Failure::usage("say which file: SESSION:PATH"))
    };
    match to {
        None => name(),
        Some(to) if to.ends_with('/') || Path::new(to).is_dir() => Ok(Path::new(to).join(name()?)),
        Some(to) => Ok(PathBuf::from(to)),
    }
}

/// A file that is written beside its name; devices and pipes are written to as they are.
enum Target {
    Beside(tempfile::NamedTempFile, PathBuf),
    Straight(std::fs::File, PathBuf),
}

impl Target {
    fn new(path: &Path) -> Result<Self> {
        let cannot = |e| Failure::usage(format!("{}: {e}", path.display()));
        if path.exists() && !path.is_file() {
            let file = std::fs::File::options().write(true).open(path).map_err(cannot)?;
            return Ok(Self::Straight(file, path.to_owned()));
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).map_err(cannot)?;
        // The permissions that any new file gets, rather than a temporary one's.
        let mut builder = tempfile::Builder::new();
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        let file = builder.prefix(".kernelbox-").permissions(permissions).tempfile_in(parent).map_err(cannot)?;
        Ok(Self::Beside(file, path.to_owned()))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let (written, path) = match self {
            Self::Beside(file, path) => (file.write_all(bytes), path),
            Self::Straight(file, path) => (file.write_all(bytes), path),
        };
        written.map_err(|e| Failure::local(path.display(), e))
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Beside(file, path) => {
                file.persist(&path).map(|_| ()).map_err(|e| Failure::local(path.display(), e.error))
            }
            Self::Straight(..) => Ok(()),
        }
    }
}

fn mode_of(metadata: &std::fs::Metadata) -> i32 {
    use std::os::unix::fs::PermissionsExt as _;
    i32::try_from(metadata.permissions().mode() & 0o777).unwrap_or(0)
}
