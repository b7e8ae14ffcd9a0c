//! `SandboxService`: who may call, and what each call does. The calls about code are in `code`.
mod code;
mod lifecycle;

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use kernelbox_proto::{
    sandbox::v1::{
        BindRequest, BindResponse, CheckpointRequest, CheckpointResponse, ConfirmCheckpointRequest,
        ConfirmCheckpointResponse, GetStatusRequest, GetStatusResponse, RestoreRequest, RestoreResponse, RetireRequest,
        RetireResponse, SandboxNotice, WatchSandboxRequest, sandbox_service_server::SandboxService,
    },
    v1::*,
};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    access::Access, auth::Scope, checkpoint::Checkpoints, contexts::Contexts, files::Files,
    lifecycle::calls::LifecycleCalls, sandbox::Sandbox, workspace::Workspace,
};

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

#[derive(Clone)]
pub struct Service {
    sandbox: Arc<Sandbox>,
    contexts: Arc<Contexts>,
    access: Arc<Access>,
    life: LifecycleCalls,
    files: Files,
    checkpoints: Checkpoints,
}

impl Service {
    pub fn new(
        sandbox: Arc<Sandbox>,
        contexts: Arc<Contexts>,
        access: Arc<Access>,
        workspace: Workspace,
        checkpoints: Checkpoints,
    ) -> Self {
        let life = LifecycleCalls::new(&sandbox.uid, Arc::clone(&access));
        let (artifacts, events) = (Arc::clone(&sandbox.artifacts), sandbox.events.clone());
        let files = Files::new(workspace, Arc::clone(&access), artifacts, events);
        Self { sandbox, contexts, access, life, files, checkpoints }
    }
}

#[tonic::async_trait]
impl SandboxService for Service {
    type CheckpointStream = Events<CheckpointResponse>;
    type WatchSandboxStream = Events<SandboxNotice>;
    type WatchSessionStream = Events<SessionEvent>;
    type ExecuteStream = Events<ExecutionEvent>;
    type ResumeExecutionStream = Events<ExecutionEvent>;
    type InstallPackagesStream = Events<InstallPackagesEvent>;
    type DownloadStream = Events<DownloadResponse>;

    async fn bind(&self, request: Request<BindRequest>) -> Answer<BindResponse> {
        self.life.bind(request, |request| self.apply(request)).await
    }

    async fn retire(&self, request: Request<RetireRequest>) -> Answer<RetireResponse> {
        self.life.retire(request)
    }

    async fn checkpoint(&self, request: Request<CheckpointRequest>) -> Answer<Self::CheckpointStream> {
        Ok(Response::new(Box::pin(self.checkpoints.checkpoint(request).await?)))
    }

    async fn confirm_checkpoint(
        &self,
        request: Request<ConfirmCheckpointRequest>,
    ) -> Answer<ConfirmCheckpointResponse> {
        Ok(Response::new(self.checkpoints.confirm(&request)?))
    }

    async fn restore(&self, request: Request<Streaming<RestoreRequest>>) -> Answer<RestoreResponse> {
        Ok(Response::new(self.checkpoints.restore(request).await?))
    }

    async fn watch_sandbox(&self, request: Request<WatchSandboxRequest>) -> Answer<Self::WatchSandboxStream> {
        Ok(Response::new(Box::pin(self.life.watch(request.metadata())?)))
    }

    async fn get_status(&self, request: Request<GetStatusRequest>) -> Answer<GetStatusResponse> {
        self.access.check(request.metadata(), &[Scope::Lifecycle, Scope::Session])?;
        self.life.get_status(request.metadata(), self.figures().await)
    }

    async fn keep_alive(&self, request: Request<KeepAliveRequest>) -> Answer<KeepAliveResponse> {
        self.life.keep_alive(&request)
    }

    async fn watch_session(&self, request: Request<WatchSessionRequest>) -> Answer<Self::WatchSessionStream> {
        Ok(Response::new(self.watch(request.metadata(), request.get_ref())?))
    }

    async fn execute(&self, request: Request<ExecuteRequest>) -> Answer<Self::ExecuteStream> {
        let active = self.admit(request.metadata(), &request.get_ref().session)?;
        Ok(Response::new(self.run(request.into_inner(), active).await?))
    }

    async fn resume_execution(&self, request: Request<ResumeExecutionRequest>) -> Answer<Self::ResumeExecutionStream> {
        let active = self.admit(request.metadata(), &request.get_ref().name)?;
        Ok(Response::new(self.resume(request.get_ref(), active)?))
    }

    async fn get_execution(&self, request: Request<GetExecutionRequest>) -> Answer<Execution> {
        let _active = self.admit(request.metadata(), &request.get_ref().name)?;
        Ok(Response::new(self.execution(&request.get_ref().name)?.describe()))
    }

    async fn list_executions(&self, request: Request<ListExecutionsRequest>) -> Answer<ListExecutionsResponse> {
        let _active = self.admit(request.metadata(), &request.get_ref().parent)?;
        Ok(Response::new(self.executions(request.get_ref())?))
    }

    async fn send_input(&self, request: Request<SendInputRequest>) -> Answer<SendInputResponse> {
        let _active = self.admit(request.metadata(), &request.get_ref().name)?;
        self.input(request.into_inner()).await?;
        Ok(Response::new(SendInputResponse {}))
    }

    async fn interrupt(&self, request: Request<InterruptRequest>) -> Answer<InterruptResponse> {
        let _active = self.admit(request.metadata(), &request.get_ref().name)?;
        Ok(Response::new(self.stop(request.get_ref()).await?))
    }

    async fn restart_kernel(&self, request: Request<RestartKernelRequest>) -> Answer<Context> {
        let _active = self.admit(request.metadata(), &request.get_ref().name)?;
        Ok(Response::new(self.restart(request.get_ref()).await?))
    }

    async fn create_context(&self, request: Request<CreateContextRequest>) -> Answer<Context> {
        let _active = self.admit(request.metadata(), &request.get_ref().parent)?;
        Ok(Response::new(self.new_context(request.into_inner())?))
    }

    async fn list_contexts(&self, request: Request<ListContextsRequest>) -> Answer<ListContextsResponse> {
        let _active = self.admit(request.metadata(), &request.get_ref().parent)?;
        let contexts = self.contexts.describe(&request.get_ref().parent);
        Ok(Response::new(ListContextsResponse { contexts }))
    }

    async fn delete_context(&self, request: Request<DeleteContextRequest>) -> Answer<DeleteContextResponse> {
        let _active = self.admit(request.metadata(), &request.get_ref().name)?;
        self.end_context(&request.get_ref().name).await?;
        Ok(Response::new(DeleteContextResponse {}))
    }

    async fn list_kernels(&self, request: Request<ListKernelsRequest>) -> Answer<ListKernelsResponse> {
        let _active = self.admit(request.metadata(), &request.get_ref().parent)?;
        Ok(Response::new(self.kernels()))
    }

    async fn install_packages(&self, request: Request<InstallPackagesRequest>) -> Answer<Self::InstallPackagesStream> {
        let active = self.admit(request.metadata(), &request.get_ref().session)?;
        Ok(Response::new(self.install(request.get_ref(), active)?))
    }

    async fn list_packages(&self, request: Request<ListPackagesRequest>) -> Answer<ListPackagesResponse> {
        let _active = self.admit(request.metadata(), &request.get_ref().parent)?;
        Ok(Response::new(ListPackagesResponse { packages: self.sandbox.packages.list().await? }))
    }

    async fn list_variables(&self, request: Request<ListVariablesRequest>) -> Answer<ListVariablesResponse> {
        let _active = self.admit(request.metadata(), &request.get_ref().parent)?;
        Ok(Response::new(self.variables(&request.get_ref().parent).await?))
    }

    async fn upload(&self, request: Request<Streaming<UploadRequest>>) -> Answer<File> {
        self.files.upload(request).await
    }

    async fn download(&self, request: Request<DownloadRequest>) -> Answer<Self::DownloadStream> {
        self.files.download(request).await
    }

    async fn list_files(&self, request: Request<ListFilesRequest>) -> Answer<ListFilesResponse> {
        self.files.list_files(request).await
    }

    async fn stat_file(&self, request: Request<StatFileRequest>) -> Answer<File> {
        self.files.stat_file(request).await
    }

    async fn delete_file(&self, request: Request<DeleteFileRequest>) -> Answer<DeleteFileResponse> {
        self.files.delete_file(request).await
    }

    async fn move_file(&self, request: Request<MoveFileRequest>) -> Answer<File> {
        self.files.move_file(request).await
    }

    async fn make_directory(&self, request: Request<MakeDirectoryRequest>) -> Answer<File> {
        self.files.make_directory(request).await
    }
}
