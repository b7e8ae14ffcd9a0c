//! The file calls of `SandboxService`: they read requests, let callers in, and run the workspace's steps on blocking threads.
use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, stream};
use kernelbox_proto::{
    Error,
    v1::{
        Artifact, ArtifactChange, DeleteFileRequest, DeleteFileResponse, DownloadRequest, DownloadResponse, ErrorCode,
        File, FileType, ListFilesRequest, ListFilesResponse, MakeDirectoryRequest, MoveFileRequest, StatFileRequest,
        UploadRequest, download_response, session_event::Kind, upload_request,
    },
};
use tonic::{Request, Response, Status, metadata::MetadataMap};

use crate::{
    access::Access,
    artifacts::Artifacts,
    events::SessionEvents,
    lifecycle::ActivityGuard,
    workspace::{Download, ListRequest, Upload, UploadHeader, Workspace, WorkspacePath},
};

type Result<T, E = Error> = std::result::Result<T, E>;

/// How long an upload waits for its next chunk.
const CHUNK_TIMEOUT: Duration = Duration::from_mins(5);
/// The most bytes of a chunk.
const MAX_CHUNK: usize = 1 << 20;

pub type Downloads = Pin<Box<dyn Stream<Item = Result<DownloadResponse, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

/// The file calls. Clones are the same.
#[derive(Clone)]
pub struct Files(Arc<Parts>);

struct Parts {
    workspace: Workspace,
    access: Arc<Access>,
    artifacts: Arc<Artifacts>,
    events: SessionEvents,
}

impl Files {
    pub fn new(workspace: Workspace, access: Arc<Access>, artifacts: Arc<Artifacts>, events: SessionEvents) -> Self {
        Self(Arc::new(Parts { workspace, access, artifacts, events }))
    }

    /// The header, then chunks; a stream that ends with an error leaves the old file.
    pub async fn upload<S>(&self, request: Request<S>) -> Answer<File>
    where
        S: Stream<Item = Result<UploadRequest, Status>> + Unpin,
    {
        let (metadata, _, mut parts) = request.into_parts();
        let Some(upload_request::Part::Header(header)) = next(&mut parts).await? else {
            return Err(Error::invalid("header", "the first message must be the header").into());
        };
        let _guard = self.admit(&metadata, &header.session)?;
        let path = WorkspacePath::parse_entry("path", &header.path)?;
        let header = UploadHeader {
            path: path.clone(),
            offset: header.offset,
            sha256: header.sha256,
            overwrite: header.overwrite,
            mode: header.mode,
        };
        let existed = {
            let path = path.clone();
            self.run(move |workspace| Ok(workspace.stat(&path).is_ok())).await?
        };
        let mut upload = self.run(move |workspace| workspace.upload(header)).await?;
        while let Some(part) = next(&mut parts).await? {
            let upload_request::Part::Chunk(chunk) = part else {
                return Err(Error::invalid("chunk", "every message after the first must be a chunk").into());
            };
            if chunk.len() > MAX_CHUNK {
                return Err(Error::invalid("chunk", "must be at most 1 MiB").into());
            }
            upload = blocking(move || write(upload, &chunk)).await?;
        }
        let file = blocking(move || upload.finish()).await?;
        let change = if existed { ArtifactChange::Modified } else { ArtifactChange::Created };
        self.changed(&[(&file, change)]).await;
        Ok(Response::new(file))
    }

    /// The file, then chunks of at most 256 KiB.
    pub async fn download(&self, request: Request<DownloadRequest>) -> Answer<Downloads> {
        let guard = self.admit(request.metadata(), &request.get_ref().session)?;
        let request = request.into_inner();
        let path = WorkspacePath::parse_entry("path", &request.path)?;
        let download = self
            .run(move |workspace| workspace.download(&path, request.offset, request.length, &request.sha256))
            .await?;
        let first = DownloadResponse { part: Some(download_response::Part::File(download.file.clone())) };
        let chunks = stream::try_unfold((download, guard), chunk);
        Ok(Response::new(Box::pin(stream::once(async { Ok(first) }).chain(chunks))))
    }

    pub async fn list_files(&self, request: Request<ListFilesRequest>) -> Answer<ListFilesResponse> {
        let _guard = self.admit(request.metadata(), &request.get_ref().parent)?;
        let request = request.into_inner();
        let list = ListRequest {
            path: WorkspacePath::parse("path", &request.path)?,
            recursive: request.recursive,
            page_size: request.page_size,
            page_token: request.page_token,
        };
        let page = self.run(move |workspace| workspace.list(&list)).await?;
        Ok(Response::new(ListFilesResponse { files: page.files, next_page_token: page.next_page_token }))
    }

    pub async fn stat_file(&self, request: Request<StatFileRequest>) -> Answer<File> {
        let _guard = self.admit(request.metadata(), &request.get_ref().session)?;
        let path = WorkspacePath::parse("path", &request.get_ref().path)?;
        let digest = request.get_ref().digest;
        let stat = move |workspace: &Workspace| {
            if digest { workspace.stat_with_digest(&path) } else { workspace.stat(&path) }
        };
        Ok(Response::new(self.run(stat).await?))
    }

    pub async fn delete_file(&self, request: Request<DeleteFileRequest>) -> Answer<DeleteFileResponse> {
        let _guard = self.admit(request.metadata(), &request.get_ref().session)?;
        let path = WorkspacePath::parse_entry("path", &request.get_ref().path)?;
        let recursive = request.get_ref().recursive;
        // Also one that fails may have deleted something.
        let _writing = recursive.then(|| self.0.access.lifecycle().writing());
        let file = self
            .run(move |workspace| {
                let file = workspace.stat(&path)?;
                workspace.delete(&path, recursive)?;
                Ok(file)
            })
            .await?;
        self.changed(&[(&file, ArtifactChange::Deleted)]).await;
        Ok(Response::new(DeleteFileResponse {}))
    }

    pub async fn move_file(&self, request: Request<MoveFileRequest>) -> Answer<File> {
        let _guard = self.admit(request.metadata(), &request.get_ref().session)?;
        let request = request.into_inner();
        let path = WorkspacePath::parse_entry("path", &request.path)?;
        let new_path = WorkspacePath::parse_entry("new_path", &request.new_path)?;
        let (old, file, existed) = self
            .run(move |workspace| {
                let old = workspace.stat(&path)?;
                let existed = workspace.stat(&new_path).is_ok();
                Ok((old, workspace.move_file(&path, &new_path, request.overwrite)?, existed))
            })
            .await?;
        let change = if existed { ArtifactChange::Modified } else { ArtifactChange::Created };
        self.changed(&[(&old, ArtifactChange::Deleted), (&file, change)]).await;
        Ok(Response::new(file))
    }

    pub async fn make_directory(&self, request: Request<MakeDirectoryRequest>) -> Answer<File> {
        let _guard = self.admit(request.metadata(), &request.get_ref().session)?;
        let path = WorkspacePath::parse("path", &request.get_ref().path)?;
        let file = self.run(move |workspace| workspace.make_directory(&path)).await?;
        self.0.access.lifecycle().mark_unsaved();
        Ok(Response::new(file))
    }

    fn admit(&self, metadata: &MetadataMap, session: &str) -> Result<ActivityGuard> {
        self.0.access.admit(metadata, session)
    }

    async fn run<T: Send + 'static>(&self, step: impl FnOnce(&Workspace) -> Result<T> + Send + 'static) -> Result<T> {
        let workspace = self.0.workspace.clone();
        blocking(move || step(&workspace)).await
    }

    /// Tells watchers what a call changed, and that no execution did.
    async fn changed(&self, files: &[(&File, ArtifactChange)]) {
        self.0.access.lifecycle().mark_unsaved();
        let paths: Vec<_> = files.iter().map(|(file, _)| file.path.clone()).collect();
        let artifacts = Arc::clone(&self.0.artifacts);
        let absorbed = blocking(move || {
            let paths: Vec<_> = paths.iter().map(String::as_str).collect();
            if let Err(error) = artifacts.absorb(&paths) {
                tracing::warn!(%error, "a file that a call changed may be told as an execution's");
            }
            Ok(())
        });
        absorbed.await.ok();
        for (file, change) in files.iter().filter(|(file, _)| file.r#type() == FileType::File) {
            self.0.events.send(Kind::Artifact(Artifact {
                path: file.path.clone(),
                size: file.size,
                media_type: file.media_type.clone(),
                sha256: file.sha256.clone(),
                change: (*change).into(),
            }));
        }
    }
}

fn write(mut upload: Upload, chunk: &[u8]) -> Result<Upload> {
    upload.write(chunk)?;
    Ok(upload)
}

type Reading = (Download, ActivityGuard);

async fn chunk((mut download, guard): Reading) -> Result<Option<(DownloadResponse, Reading)>, Status> {
    let read = blocking(move || Ok((download.next_chunk()?, download))).await?;
    let (Some(bytes), download) = read else { return Ok(None) };
    Ok(Some((DownloadResponse { part: Some(download_response::Part::Chunk(bytes)) }, (download, guard))))
}

/// The next part of an upload; none at its end.
async fn next<S>(parts: &mut S) -> Result<Option<upload_request::Part>, Status>
where
    S: Stream<Item = Result<UploadRequest, Status>> + Unpin,
{
    match tokio::time::timeout(CHUNK_TIMEOUT, parts.next()).await {
        Err(_) => Err(Error::new(ErrorCode::DeadlineExceeded, "no chunk came for 5 minutes; upload again").into()),
        Ok(None) => Ok(None),
        Ok(Some(part)) => match part?.part {
            Some(part) => Ok(Some(part)),
            None => Err(Error::invalid("part", "must be the header or a chunk").into()),
        },
    }
}

fn blocking<T: Send + 'static>(
    step: impl FnOnce() -> Result<T> + Send + 'static,
) -> impl Future<Output = Result<T>> + Send {
    let step = tokio::task::spawn_blocking(step);
    async move {
        step.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a file call failed");
            Err(Error::new(ErrorCode::Internal, "the file call failed"))
        })
    }
}

#[cfg(test)]
mod tests;
