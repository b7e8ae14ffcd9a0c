//! The calls about code, contexts and kernels.
use std::{path::PathBuf, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use kernelbox_proto::{
    ContextName, Error, ExecutionId, ExecutionName, Result, SessionId,
    v1::{
        self, ErrorCode, ExecutionEvent, InstallPackagesEvent, InterruptQueue, install_packages_event as install_event,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::Span;

use super::{Events, Service};
use crate::{
    context::{Context, Job},
    contexts::Wanted,
    execution::{Admitted, Execution, Identity},
    lifecycle::ActivityGuard,
    output::DEFAULT_LIMIT,
    packages, variables,
};

/// The longest code.
const MAX_CODE: usize = 1 << 20;
/// The longest timeout.
const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Environment variables of one request, names and values together.
const MAX_ENV: usize = 64 << 10;

impl Service {
    pub(super) async fn run(
        &self,
        request: v1::ExecuteRequest,
        active: ActivityGuard,
    ) -> Result<Events<ExecutionEvent>> {
        let session = SessionId::from_name(&request.session)?;
        if request.code.len() > MAX_CODE {
            return Err(Error::new(
                ErrorCode::TooLarge,
                "code is longer than 1 MiB; upload it as a file and import it",
            ));
        }
        let id: ExecutionId = match request.request_id.as_str() {
            "" => uuid::Uuid::new_v4().to_string().parse()?,
            id => id.parse()?,
        };
        let timeout = timeout(request.timeout)?.unwrap_or(self.sandbox.execution_timeout);
        let limit = match u64::try_from(request.output_limit_bytes) {
            Ok(0) => DEFAULT_LIMIT,
            Ok(limit) => limit,
            Err(_) => return Err(Error::invalid("output_limit_bytes", "must not be negative")),
        };
        check_env("env", &request.env)?;
        let context = self.contexts.for_execution(&request.context, &request.kernel)?;
        if !context.is_ours() && (!request.working_directory.is_empty() || !request.env.is_empty()) {
            let field = if request.working_directory.is_empty() { "env" } else { "working_directory" };
            let problem = format!(
                "is for Python only; with kernel {} set it in the code, or for a whole context with CreateContext",
                context.kernel
            );
            return Err(Error::invalid(field, problem));
        }
        let cwd = self.folder(&request.working_directory)?;
        let name = ExecutionName { session, execution: id.clone() }.to_string();
        let identity = Identity { id, name, context: context.id.clone(), kernel: context.kernel.clone() };
        let execution = match self.sandbox.executions.admit(identity, &request.code, limit)? {
            Admitted::Known(execution) => execution,
            Admitted::New(execution) => {
                let job = Job {
                    execution: Arc::clone(&execution),
                    active,
                    timeout,
                    cwd,
                    env: request.env.clone().into_iter().collect(),
                    allow_input: request.allow_input,
                    auto_install: request.auto_install(),
                    rerun_after_install: request.rerun_after_install,
                    span: Span::current(),
                    code: request.code,
                };
                if let Err(error) = context.run(job).await {
                    execution.finish(crate::execution::Outcome::because(
                        v1::ExecutionStatus::Failed,
                        error.code,
                        error.message.clone(),
                    ));
                    return Err(error);
                }
                execution
            }
        };
        let leave = request.cancel_on_disconnect.then(|| Leave { execution: Arc::clone(&execution), context });
        Ok(events(execution.follow(0), leave))
    }

    pub(super) fn resume(
        &self,
        request: &v1::ResumeExecutionRequest,
        active: ActivityGuard,
    ) -> Result<Events<ExecutionEvent>> {
        let after = u64::try_from(request.after_sequence)
            .map_err(|_| Error::invalid("after_sequence", "must not be negative"))?;
        Ok(events(self.execution(&request.name)?.follow(after), active))
    }

    pub(super) fn execution(&self, name: &str) -> Result<Arc<Execution>> {
        self.sandbox.executions.get(&name.parse::<ExecutionName>()?.execution)
    }

    pub(super) fn executions(&self, request: &v1::ListExecutionsRequest) -> Result<v1::ListExecutionsResponse> {
        let size = match usize::try_from(request.page_size) {
            Ok(0) => 50,
            Ok(size) => size.min(1_000),
            Err(_) => return Err(Error::invalid("page_size", "must not be negative")),
        };
        let before = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|_| Error::invalid("page_token", "is not one of ours"))?),
        };
        let (executions, next) = self.sandbox.executions.list(before, size);
        let next_page_token = next.map(|next| next.to_string()).unwrap_or_default();
        Ok(v1::ListExecutionsResponse { executions, next_page_token })
    }

    pub(super) async fn input(&self, request: v1::SendInputRequest) -> Result<()> {
        let execution = self.execution(&request.name)?;
        let context = self.contexts.get(&execution.identity.context.parse()?)?;
        context.input(execution.identity.id.clone(), request.input, request.value).await
    }

    pub(super) async fn stop(&self, request: &v1::InterruptRequest) -> Result<v1::InterruptResponse> {
        let executions = match request.name.parse::<ExecutionName>() {
            Ok(name) => {
                let execution = self.sandbox.executions.get(&name.execution)?;
                match self.contexts.get(&execution.identity.context.parse()?) {
                    Ok(context) if !execution.is_finished() => context.interrupt(Some(name.execution), false).await?,
                    _ => Vec::new(),
                }
            }
            Err(_) => {
                let name: ContextName = request.name.parse().map_err(|_| {
                    Error::invalid(
                        "name",
                        "must be sessions/{session}/executions/{id} or sessions/{session}/contexts/{id}",
                    )
                })?;
                let clear = request.queue() == InterruptQueue::Clear;
                self.contexts.get(&name.context)?.interrupt(None, clear).await?
            }
        };
        Ok(v1::InterruptResponse { executions })
    }

    pub(super) async fn restart(&self, request: &v1::RestartKernelRequest) -> Result<v1::Context> {
        let name: ContextName = request.name.parse()?;
        let context = self.contexts.get(&name.context)?;
        context.restart(request.fresh).await?;
        Ok(context.describe(&name.session.name()))
    }

    pub(super) fn new_context(&self, request: v1::CreateContextRequest) -> Result<v1::Context> {
        let session = SessionId::from_name(&request.parent)?;
        check_env("env", &request.env)?;
        let id = match request.context_id.as_str() {
            "" => uuid::Uuid::new_v4().to_string(),
            id => id.to_owned(),
        };
        let cwd = self.folder(&request.working_directory)?;
        let wanted = Wanted { cwd, env: request.env.into_iter().collect(), fresh: request.fresh };
        let context = self.contexts.create(&id, &request.kernel, wanted)?;
        Ok(context.describe(&session.name()))
    }

    pub(super) async fn end_context(&self, name: &str) -> Result<()> {
        self.contexts.delete(&name.parse::<ContextName>()?.context).await
    }

    pub(super) fn kernels(&self) -> v1::ListKernelsResponse {
        let kernel = |spec: crate::spec::Spec| v1::Kernel {
            kernel: spec.name,
            display_name: spec.display_name,
            language: spec.language,
        };
        v1::ListKernelsResponse { kernels: self.sandbox.specs.list().into_iter().map(kernel).collect() }
    }

    pub(super) fn install(
        &self,
        request: &v1::InstallPackagesRequest,
        active: ActivityGuard,
    ) -> Result<Events<InstallPackagesEvent>> {
        let wanted = packages::parse(&request.requirements)?;
        let sandbox = Arc::clone(&self.sandbox);
        let (lines, progress) = mpsc::channel(64);
        // Goes on without its caller: half an install would help nobody.
        let outcome = tokio::spawn(async move {
            let _active = active;
            let _writing = sandbox.lifecycle.writing();
            sandbox.packages.install(wanted, Some(&lines)).await
        });
        let progress = ReceiverStream::new(progress).map(install_event::Kind::Progress);
        let packages = futures::stream::once(outcome).flat_map(|outcome| {
            let packages = outcome.unwrap_or_default().into_iter().map(install_event::Kind::Package);
            futures::stream::iter(packages)
        });
        Ok(Box::pin(progress.chain(packages).map(|kind| Ok(InstallPackagesEvent { kind: Some(kind) }))))
    }

    pub(super) async fn variables(&self, parent: &str) -> Result<v1::ListVariablesResponse> {
        let context = self.contexts.get(&parent.parse::<ContextName>()?.context)?;
        if !context.is_ours() {
            return Err(Error::invalid("parent", format!("kernel {} does not tell its variables", context.kernel)));
        }
        variables::list(&context.control()?).await
    }

    /// A folder of the workspace, for code to start in. Code may leave it; this only finds mistakes early.
    fn folder(&self, path: &str) -> Result<Option<PathBuf>> {
        if path.is_empty() {
            return Ok(None);
        }
        let invalid = |problem: &str| {
            let mut error = Error::new(ErrorCode::InvalidPath, format!("working_directory: {problem}"));
            error.field = Some("working_directory".to_owned());
            error
        };
        let workspace = std::fs::canonicalize(&self.sandbox.workspace).map_err(|_| invalid("the workspace is gone"))?;
        let folder =
            std::fs::canonicalize(workspace.join(path)).map_err(|_| invalid("no such folder; make it first"))?;
        if !folder.starts_with(&workspace) {
            return Err(invalid("must be a folder of the workspace"));
        }
        if !folder.is_dir() {
            return Err(invalid("is not a folder"));
        }
        Ok(Some(folder))
    }
}

/// Interrupts an execution when its caller leaves before its end.
struct Leave {
    execution: Arc<Execution>,
    context: Arc<Context>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        if !self.execution.is_finished() {
            let (context, id) = (Arc::clone(&self.context), self.execution.identity.id.clone());
            tokio::spawn(async move { context.interrupt(Some(id), false).await.ok() });
        }
    }
}

fn events(
    events: impl Stream<Item = Result<ExecutionEvent>> + Send + 'static,
    held: impl Send + 'static,
) -> Events<ExecutionEvent> {
    Box::pin(events.map(move |event| {
        let _ = &held;
        event.map_err(Status::from)
    }))
}

fn timeout(timeout: Option<prost_types::Duration>) -> Result<Option<Duration>> {
    let Some(timeout) = timeout else { return Ok(None) };
    match Duration::try_from(timeout) {
        Ok(timeout) if timeout.is_zero() => Err(Error::invalid("timeout", "must be more than nothing")),
        Ok(timeout) if timeout > MAX_TIMEOUT => Err(Error::invalid("timeout", "must be at most 30 days")),
        Ok(timeout) => Ok(Some(timeout)),
        Err(_) => Err(Error::invalid("timeout", "must not be negative")),
    }
}

pub(super) fn check_env(field: &str, env: &std::collections::HashMap<String, String>) -> Result<()> {
    if env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_ENV {
        return Err(Error::invalid(field, "is larger than 64 KiB in all"));
    }
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Error::invalid(
                field,
                "names must not be empty or contain \"=\", and nothing may contain a zero byte",
            ));
        }
    }
    Ok(())
}
