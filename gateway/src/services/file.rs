//! FileService: files go to and from the session's sandbox; FetchUrl is the one call with work of its own (`fetch.rs`).
use futures::{StreamExt as _, TryStreamExt as _};
use kernelbox_proto::{
    Error, SessionId,
    v1::{
        DeleteFileRequest, DeleteFileResponse, DownloadRequest, DownloadResponse, ErrorCode, FetchUrlRequest,
        File as FileMessage, ListFilesRequest, ListFilesResponse, MakeDirectoryRequest, MoveFileRequest,
        StatFileRequest, UploadHeader, UploadRequest, download_response, file_service_server::FileService,
        upload_request::Part,
    },
};
use tonic::{Request, Response, Status, Streaming};

use super::{Caller, Events, Services, limited};
use crate::{limits::Work, metrics::Way, sandbox::SandboxClient};

#[derive(Clone)]
pub(crate) struct File(pub Services);

impl File {
    async fn write(&self, caller: &Caller, mut stream: Streaming<UploadRequest>) -> Result<FileMessage, Error> {
        let first = stream.message().await.map_err(|status| cut_off(&status))?;
        let Some(Part::Header(header)) = first.and_then(|it| it.part) else {
            return Err(Error::invalid("header", "must be the first message"));
        };
        let session = SessionId::from_name(&header.session)?;
        let (slot, _permit) = self.0.enter(caller, &session, Work::Transfer).await?;
        let parts = stream.map(|message| match message.map_err(|status| cut_off(&status))?.part {
            Some(Part::Chunk(chunk)) => Ok(chunk),
            _ => Err(Error::invalid("chunk", "every message after the first must have one")),
        });
        self.0.upload(&slot, header, Box::pin(parts)).await
    }

    async fn fetch(&self, caller: &Caller, request: FetchUrlRequest) -> Result<FileMessage, Error> {
        let session = SessionId::from_name(&request.session)?;
        let (slot, _permit) = self.0.enter(caller, &session, Work::Transfer).await?;
        let fetched = self.0.fetcher.open(&request.url, self.0.file_bytes).await?;
        let path = match request.path.as_str() {
            path if path.is_empty() || path.ends_with('/') => format!("{path}{}", fetched.name),
            path => path.to_owned(),
        };
        let header = UploadHeader {
            session: request.session,
            path,
            offset: 0,
            sha256: request.sha256,
            overwrite: request.overwrite,
            mode: 0,
        };
        self.0.upload(&slot, header, limited(fetched.parts, self.0.file_bytes)).await
    }
}

fn cut_off(status: &Status) -> Error {
    match status.code() {
        tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => {
            Error::new(ErrorCode::TooLarge, "a message is larger than the server takes (limit --max-message-bytes)")
        }
        _ => Error::new(ErrorCode::Cancelled, "the upload was cut off; nothing was written"),
    }
}

#[tonic::async_trait]
impl FileService for File {
    type DownloadStream = Events<DownloadResponse>;

    async fn upload(&self, request: Request<Streaming<UploadRequest>>) -> Result<Response<FileMessage>, Status> {
        let caller = Caller::of(&request)?;
        let written = self.write(&caller, request.into_inner()).await;
        written.map(Response::new).map_err(|error| caller.status(error))
    }

    async fn download(&self, request: Request<DownloadRequest>) -> Result<Response<Self::DownloadStream>, Status> {
        let send = |mut client: SandboxClient, m| async move { client.download(m).await };
        let parts = self.0.streaming(request, Work::Follow, |m| SessionId::from_name(&m.session), send).await?;
        let bytes = self.0.router.metrics().file_bytes.clone();
        let counted = parts.into_inner().inspect_ok(move |part| {
            if let Some(download_response::Part::Chunk(chunk)) = &part.part {
                bytes.add(Way::Out, chunk.len() as u64);
            }
        });
        Ok(Response::new(counted.boxed()))
    }

    async fn fetch_url(&self, request: Request<FetchUrlRequest>) -> Result<Response<FileMessage>, Status> {
        let caller = Caller::of(&request)?;
        let fetched = self.fetch(&caller, request.into_inner()).await;
        fetched.map(Response::new).map_err(|error| caller.status(error))
    }

    async fn list_files(&self, request: Request<ListFilesRequest>) -> Result<Response<ListFilesResponse>, Status> {
        let send = |mut client: SandboxClient, m| async move { client.list_files(m).await };
        self.0.unary(request, |m| SessionId::from_name(&m.parent), send).await
    }

    async fn stat_file(&self, request: Request<StatFileRequest>) -> Result<Response<FileMessage>, Status> {
        let send = |mut client: SandboxClient, m| async move { client.stat_file(m).await };
        self.0.unary(request, |m| SessionId::from_name(&m.session), send).await
    }

    async fn delete_file(&self, request: Request<DeleteFileRequest>) -> Result<Response<DeleteFileResponse>, Status> {
        let send = |mut client: SandboxClient, m| async move { client.delete_file(m).await };
        self.0.unary(request, |m| SessionId::from_name(&m.session), send).await
    }

    async fn move_file(&self, request: Request<MoveFileRequest>) -> Result<Response<FileMessage>, Status> {
        let send = |mut client: SandboxClient, m| async move { client.move_file(m).await };
        self.0.unary(request, |m| SessionId::from_name(&m.session), send).await
    }

    async fn make_directory(&self, request: Request<MakeDirectoryRequest>) -> Result<Response<FileMessage>, Status> {
        let send = |mut client: SandboxClient, m| async move { client.make_directory(m).await };
        self.0.unary(request, |m| SessionId::from_name(&m.session), send).await
    }
}
