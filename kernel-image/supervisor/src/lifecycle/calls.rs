//! Bind, Retire, GetStatus, KeepAlive and WatchSandbox.
use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use kernelbox_proto::{
    Error, SessionId,
    sandbox::v1::{BindRequest, BindResponse, GetStatusResponse, RetireRequest, RetireResponse, SandboxNotice},
    v1::{KeepAliveRequest, KeepAliveResponse},
};
use tokio::sync::Mutex;
use tokio_stream::{Stream, StreamExt as _, wrappers::WatchStream};
use tonic::{Request, Response, Status, metadata::MetadataMap};

use super::{Lifecycle, Notice};
use crate::{access::Access, auth::Scope};

type Result<T, E = Error> = std::result::Result<T, E>;

/// What GetStatus tells that the sandbox's life does not.
#[derive(Debug, Default)]
pub struct Figures {
    /// How long each step of the start took.
    pub stages: HashMap<String, prost_types::Duration>,
    /// Of all processes, bytes (PSS).
    pub memory: u64,
    pub processes: usize,
}

/// The calls about a sandbox's life. Clones are the same.
#[derive(Clone)]
pub struct LifecycleCalls {
    uid: Arc<str>,
    access: Arc<Access>,
    /// The generation whose env and packages were applied.
    applied: Arc<Mutex<i64>>,
}

impl LifecycleCalls {
    pub fn new(uid: &str, access: Arc<Access>) -> Self {
        Self { uid: uid.into(), access, applied: Arc::default() }
    }

    /// Binds, then has `apply` bring the session's env and packages in, once for each generation: a Bind that is sent again while the
    /// first works waits for it, and one after a failure applies again.
    pub async fn bind<F>(
        &self,
        request: Request<BindRequest>,
        apply: impl FnOnce(BindRequest) -> F,
    ) -> Result<Response<BindResponse>, Status>
    where
        F: Future<Output = Result<()>>,
    {
        let request = self.enter(request)?;
        let session = SessionId::from_name(&request.session)?;
        let lifecycle = self.lifecycle();
        lifecycle.bind(&session, request.generation)?;
        let _guard = lifecycle.prepare(&session)?;
        let mut applied = self.applied.lock().await;
        if *applied > request.generation {
            // A later generation took over while this one waited: its refusal says so.
            lifecycle.bind(&session, request.generation)?;
        }
        if *applied < request.generation {
            let generation = request.generation;
            apply(request).await?;
            *applied = generation;
        }
        Ok(Response::new(BindResponse {}))
    }

    pub fn retire(&self, request: Request<RetireRequest>) -> Result<Response<RetireResponse>, Status> {
        let idle_for = match self.enter(request)?.idle_for.map(Duration::try_from) {
            None => Duration::ZERO,
            Some(Ok(idle_for)) => idle_for,
            Some(Err(_)) => return Err(Error::invalid("idle_for", "must not be negative").into()),
        };
        let answer = self.lifecycle().retire(idle_for);
        Ok(Response::new(RetireResponse {
            retired: answer.retired,
            idle: prost_types::Duration::try_from(answer.idle).ok(),
            unsaved: answer.unsaved,
        }))
    }

    /// No activity: probes must not keep a sandbox alive.
    pub fn get_status(&self, metadata: &MetadataMap, figures: Figures) -> Result<Response<GetStatusResponse>, Status> {
        self.access.check(metadata, &[Scope::Lifecycle, Scope::Session])?;
        let lifecycle = self.lifecycle();
        let phase = lifecycle.phase();
        Ok(Response::new(GetStatusResponse {
            uid: self.uid.to_string(),
            lifecycle: phase.name().into(),
            session: lifecycle.session().map(|session| session.name()).unwrap_or_default(),
            generation: lifecycle.generation(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            stages: figures.stages,
            memory_bytes: i64::try_from(figures.memory).unwrap_or(i64::MAX),
            processes: i32::try_from(figures.processes).unwrap_or(i32::MAX),
        }))
    }

    pub fn keep_alive(&self, request: &Request<KeepAliveRequest>) -> Result<Response<KeepAliveResponse>, Status> {
        // The guard ends at once, and its end is the activity.
        self.access.admit(request.metadata(), &request.get_ref().name)?;
        Ok(Response::new(KeepAliveResponse {}))
    }

    /// How it stands, at once and at each change, until its end. No activity.
    pub fn watch(&self, metadata: &MetadataMap) -> Result<impl Stream<Item = Result<SandboxNotice, Status>> + use<>> {
        self.access.check(metadata, &[Scope::Lifecycle])?;
        let notices = WatchStream::new(self.lifecycle().notices());
        let message = |notice: Notice| SandboxNotice {
            lifecycle: notice.phase.into(),
            terminating: notice.terminating,
            unsaved: notice.unsaved,
        };
        Ok(notices.map_while(move |notice| notice.map(message).map(Ok)))
    }

    fn lifecycle(&self) -> &Lifecycle {
        self.access.lifecycle()
    }

    fn enter<T>(&self, request: Request<T>) -> Result<T> {
        self.access.check(request.metadata(), &[Scope::Lifecycle])?;
        Ok(request.into_inner())
    }
}

#[cfg(test)]
mod tests;
