//! CodeService: every call goes to the session's sandbox; the streams of executions outlive a broken connection to it.
use futures::{StreamExt as _, TryStreamExt as _};
use kernelbox_proto::{
    ContextName, Error, ExecutionId, ExecutionName, SessionId,
    v1::{
        Context, CreateContextRequest, DeleteContextRequest, DeleteContextResponse, ExecuteRequest, Execution,
        ExecutionEvent, GetExecutionRequest, InstallPackagesEvent, InstallPackagesRequest, InterruptRequest,
        InterruptResponse, ListContextsRequest, ListContextsResponse, ListExecutionsRequest, ListExecutionsResponse,
        ListKernelsRequest, ListKernelsResponse, ListPackagesRequest, ListPackagesResponse, ListVariablesRequest,
        ListVariablesResponse, RestartKernelRequest, ResumeExecutionRequest, SendInputRequest, SendInputResponse,
        code_service_server::CodeService, install_packages_event,
    },
};
use tonic::{Request, Response, Status};

use super::{Caller, Events, Services};
use crate::{
    executions::{Follow, Start},
    limits::Work,
    sandbox::SandboxClient,
};

#[derive(Clone)]
pub(crate) struct Code(pub Services);

fn of_execution(name: &str) -> Result<SessionId, Error> {
    Ok(name.parse::<ExecutionName>()?.session)
}

fn of_context(name: &str) -> Result<SessionId, Error> {
    Ok(name.parse::<ContextName>()?.session)
}

fn of_either(name: &str) -> Result<SessionId, Error> {
    of_execution(name).or_else(|_| of_context(name)).map_err(|_| {
        Error::invalid(
            "name",
            "must be sessions/{session}/executions/{execution} or sessions/{session}/contexts/{context}",
        )
    })
}

impl Code {
    async fn follow(&self, caller: Caller, start: Start) -> Result<Response<Events<ExecutionEvent>>, Status> {
        let work = match start {
            Start::Execute(_) => Work::Execution,
            Start::Resume { .. } => Work::Follow,
        };
        let entered = self.0.enter(&caller, &start.name().session, work).await;
        let (slot, permit) = entered.map_err(|error| caller.status(error))?;
        let events = Follow::new(self.0.router.clone(), slot, start).stream(permit);
        Ok(Response::new(events.map(move |event| event.map_err(|error| caller.status(error))).boxed()))
    }
}

#[tonic::async_trait]
impl CodeService for Code {
    type ExecuteStream = Events<ExecutionEvent>;
    type ResumeExecutionStream = Events<ExecutionEvent>;
    type InstallPackagesStream = Events<InstallPackagesEvent>;

    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<Self::ExecuteStream>, Status> {
        let caller = Caller::of(&request)?;
        let mut message = request.into_inner();
        let start = || {
            let session = SessionId::from_name(&message.session)?;
            // Named here, so that the same execution is found again if the connection to the sandbox breaks.
            if message.request_id.is_empty() {
                message.request_id = uuid::Uuid::new_v4().to_string();
            }
            let execution: ExecutionId = message.request_id.parse()?;
            Ok((ExecutionName { session, execution }, message))
        };
        let (name, message) = start().map_err(|error: Error| caller.status(error))?;
        self.follow(caller, Start::Execute(Box::new((name, message)))).await
    }

    async fn resume_execution(
        &self,
        request: Request<ResumeExecutionRequest>,
    ) -> Result<Response<Self::ResumeExecutionStream>, Status> {
        let caller = Caller::of(&request)?;
        let message = request.into_inner();
        let name = message.name.parse().map_err(|error| caller.status(error))?;
        self.follow(caller, Start::Resume { name, after: message.after_sequence }).await
    }

    async fn get_execution(&self, request: Request<GetExecutionRequest>) -> Result<Response<Execution>, Status> {
        let send = |mut client: SandboxClient, m| async move { client.get_execution(m).await };
        self.0.unary(request, |m| of_execution(&m.name), send).await
    }

    async fn list_executions(
        &self,
        request: Request<ListExecutionsRequest>,
    ) -> Result<Response<ListExecutionsResponse>, Status> {
        let send = |mut client: SandboxClient, m| async move { client.list_executions(m).await };
        self.0.unary(request, |m| SessionId::from_name(&m.parent), send).await
    }

    async fn send_input(&self, request: Request<SendInputRequest>) -> Result<Response<SendInputResponse>, Status> {
        let send = |mut client: SandboxClient, m| async move { client.send_input(m).await };
        self.0.unary(request, |m| of_execution(&m.name), send).await
    }

    async fn interrupt(&self, request: Request<InterruptRequest>) -> Result<Response<InterruptResponse>, Status> {
        let send = |mut client: SandboxClient, m| async move { client.interrupt(m).await };
        self.0.unary(request, |m| of_either(&m.name), send).await
    }

    async fn restart_kernel(&self, request: Request<RestartKernelRequest>) -> Result<Response<Context>, Status> {
        let send = |mut client: SandboxClient, m| async move { client.restart_kernel(m).await };
        self.0.unary(request, |m| of_context(&m.name), send).await
    }

    async fn create_context(&self, request: Request<CreateContextRequest>) -> Result<Response<Context>, Status> {
        let send = |mut client: SandboxClient, m| async move { client.create_context(m).await };
        self.0.unary(request, |m| SessionId::from_name(&m.parent), send).await
    }

    async fn list_contexts(
        &self,
        request: Request<ListContextsRequest>,
    ) -> Result<Response<ListContextsResponse>, Status> {
        let send = |mut client: SandboxClient, m| async move { client.list_contexts(m).await };
        self.0.unary(request, |m| SessionId::from_name(&m.parent), send).await
    }

    async fn delete_context(
        &self,
        request: Request<DeleteContextRequest>,
    ) -> Result<Response<DeleteContextResponse>, Status> {
        let send = |mut client: SandboxClient, m| async move { client.delete_context(m).await };
        self.0.unary(request, |m| of_context(&m.name), send).await
    }

    async fn list_kernels(
        &self,
        request: Request<ListKernelsRequest>,
    ) -> Result<Response<ListKernelsResponse>, Status> {
        let send = |mut client: SandboxClient, m| async move { client.list_kernels(m).await };
        self.0.unary(request, |m| SessionId::from_name(&m.parent), send).await
    }

    async fn install_packages(
        &self,
        request: Request<InstallPackagesRequest>,
    ) -> Result<Response<Self::InstallPackagesStream>, Status> {
        let send = |mut client: SandboxClient, m| async move { client.install_packages(m).await };
        let events = self.0.streaming(request, Work::Execution, |m| SessionId::from_name(&m.session), send).await?;
        let executions = self.0.router.metrics().executions.clone();
        let counted = events.into_inner().inspect_ok(move |event| {
            if let Some(install_packages_event::Kind::Package(package)) = &event.kind {
                executions.installed(package);
            }
        });
        Ok(Response::new(counted.boxed()))
    }

    async fn list_packages(
        &self,
        request: Request<ListPackagesRequest>,
    ) -> Result<Response<ListPackagesResponse>, Status> {
        let send = |mut client: SandboxClient, m| async move { client.list_packages(m).await };
        self.0.unary(request, |m| SessionId::from_name(&m.parent), send).await
    }

    async fn list_variables(
        &self,
        request: Request<ListVariablesRequest>,
    ) -> Result<Response<ListVariablesResponse>, Status> {
        let send = |mut client: SandboxClient, m| async move { client.list_variables(m).await };
        self.0.unary(request, |m| of_context(&m.parent), send).await
    }
}
