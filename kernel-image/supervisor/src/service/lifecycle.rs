//! What the calls about the sandbox's life do to its kernels and packages.
use std::collections::HashMap;

use futures::StreamExt as _;
use kernelbox_proto::{
    Result,
    sandbox::v1::BindRequest,
    v1::{self, SessionEvent},
};
use tonic::metadata::MetadataMap;

use super::{Events, Service};
use crate::{
    execution::duration,
    lifecycle::{ActivityGuard, calls::Figures},
    packages,
    sandbox::SessionSettings,
    sync::lock,
    watchdog,
};

impl Service {
    /// Lets a call on any resource of the session in. While the guard lives the sandbox is not idle.
    pub(super) fn admit(&self, metadata: &MetadataMap, name: &str) -> Result<ActivityGuard> {
        let end = name.match_indices('/').nth(1).map_or(name.len(), |(at, _)| at);
        self.access.admit(metadata, &name[..end])
    }

    /// Brings the session's environment and packages in.
    pub(super) async fn apply(&self, request: BindRequest) -> Result<()> {
        super::code::check_env("env", &request.env)?;
        let auto_install = request.auto_install();
        let wanted = if request.packages.is_empty() { Vec::new() } else { packages::parse(&request.packages)? };
        let settings = SessionSettings { env: request.env.into_iter().collect(), auto_install };
        let env = settings.env.clone();
        *lock(&self.sandbox.session) = settings;
        for context in self.contexts.list() {
            context.bind(&env).await?;
        }
        if wanted.is_empty() {
            return Ok(());
        }
        for package in self.sandbox.packages.install(wanted, None).await {
            if !package.failure.is_empty() {
                tracing::warn!(package.distribution, package.failure, "a package of the session cannot be installed");
            }
        }
        Ok(())
    }

    pub(super) async fn figures(&self) -> Figures {
        let (memory, processes) = match self.sandbox.zygote.pid() {
            Some(pid) => tokio::task::spawn_blocking(move || watchdog::usage(pid)).await.unwrap_or_default(),
            None => (0, 0),
        };
        let stages = lock(&self.sandbox.stages).clone();
        let stages: HashMap<_, _> = stages.into_iter().map(|(name, took)| (name.to_owned(), duration(took))).collect();
        Figures { stages, memory, processes }
    }

    pub(super) fn watch(
        &self,
        metadata: &MetadataMap,
        request: &v1::WatchSessionRequest,
    ) -> Result<Events<SessionEvent>> {
        // A watcher is no activity: only its coming is.
        drop(self.admit(metadata, &request.name)?);
        Ok(Box::pin(self.sandbox.events.watch().map(Ok)))
    }
}
