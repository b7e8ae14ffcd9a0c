//! The kernel of a context: started, replaced, ended; and told of when it ends by itself.
use std::{sync::Arc, time::Duration};

use kernelbox_proto::{
    Error,
    v1::{ErrorCode, KernelDied, session_event},
};
use tokio::sync::{oneshot, watch};

use super::{
    Settings,
    actor::{Actor, Next},
    bind,
};
use crate::{
    execution::Execution,
    kernel::{self, Kernel, Start},
    sync::lock,
    watchdog::Breach,
    zygote::Exit,
};

/// How long a kernel that runs nothing may be over the sandbox's memory, or have too many processes.
pub(super) const HOG_LIMIT: Duration = Duration::from_secs(1);

impl Actor {
    pub(super) async fn died_idle(&mut self, exit: Exit) -> Next {
        self.bury().await;
        self.sandbox.events.send(session_event::Kind::KernelDied(kernel::died(exit)));
        tracing::warn!(?exit, context = self.id, "the kernel died while it ran nothing");
        self.replace().await
    }

    pub(super) async fn end_hog(&mut self, breach: Breach) -> Next {
        self.stop_kernel().await;
        let message = format!("{}; the kernel was killed while it ran nothing, variables are gone", breach.message);
        tracing::warn!(message, context = self.id, "limit of the sandbox");
        self.sandbox.events.send(session_event::Kind::KernelDied(KernelDied {
            exit_code: None,
            signal: Some(9),
            message,
        }));
        self.replace().await
    }

    /// Starts another kernel; where it does not start, the next execution tries again.
    pub(super) async fn replace(&mut self) -> Next {
        self.start_kernel(None).await.unwrap_or_else(|error| {
            tracing::warn!(%error, context = self.id, "the kernel did not start");
            Next::Continue
        })
    }

    pub(super) async fn restart(&mut self, reply: oneshot::Sender<Result<(), Error>>) -> Next {
        self.stop_kernel().await;
        match self.start_kernel(None).await {
            Ok(next) => {
                reply.send(Ok(())).ok();
                next
            }
            Err(error) => {
                reply.send(Err(unavailable(&error))).ok();
                Next::Continue
            }
        }
    }

    /// Starts a kernel if there is none, taking commands meanwhile.
    pub(super) async fn start_kernel(&mut self, current: Option<&Execution>) -> Result<Next, kernel::Error> {
        if self.kernel.is_some() {
            return Ok(Next::Continue);
        }
        let Settings { spec, fresh, cwd, env } = self.settings.clone();
        let mut all = self.sandbox.settings().env;
        all.extend(env);
        let given = all.clone();
        let start = Start { spec, fresh, cwd, env: all };
        let (sandbox, router) = (Arc::clone(&self.sandbox), Arc::clone(&self.router));
        let (told, starting) = oneshot::channel();
        // A task of its own, so that a kernel that nobody waits for any more is still killed.
        tokio::spawn(async move {
            let started = Kernel::start(&sandbox, start, move |message| router.take(message)).await;
            if let Err(Ok(kernel)) = told.send(started) {
                kernel.kill().await;
            }
        });
        match self.meanwhile(starting, current).await {
            Ok(started) => {
                let kernel = started.unwrap_or_else(|_| Err(kernel::Error::Abandoned))?;
                let session = self.sandbox.settings().env;
                if self.settings.spec.is_ours()
                    && session
                        .iter()
                        .any(|(name, value)| given.get(name) != Some(value) && !self.settings.env.contains_key(name))
                    && let Err(error) = bind(kernel.client.control(), &session).await
                {
                    tracing::warn!(%error, context = self.id, "bound while the kernel started");
                }
                lock(&self.sandbox.kernels).insert(kernel.pid());
                let mut shared = lock(&self.shared);
                shared.starts += 1;
                shared.control = Some(kernel.client.control().clone());
                drop(shared);
                self.kernel = Some(kernel);
                self.first.send_replace(Some(Ok(())));
                Ok(Next::Continue)
            }
            Err(next) => Ok(next),
        }
    }

    pub(super) async fn stop_kernel(&mut self) {
        lock(&self.shared).control = None;
        if let Some(kernel) = self.kernel.take() {
            lock(&self.sandbox.kernels).remove(&kernel.pid());
            kernel.kill().await;
        }
    }

    /// Lets a dead kernel go, once its last output was read.
    pub(super) async fn bury(&mut self) {
        lock(&self.shared).control = None;
        if let Some(kernel) = self.kernel.take() {
            lock(&self.sandbox.kernels).remove(&kernel.pid());
            kernel.bury().await;
        }
    }
}

pub(super) fn unavailable(error: &kernel::Error) -> Error {
    Error::new(ErrorCode::KernelUnavailable, format!("the kernel did not start: {error}"))
}

/// Waits until this kernel, which runs nothing, uses more memory or processes than there are, for longer than a cell's end may take.
pub(super) async fn hog(breaches: &mut watch::Receiver<Option<Breach>>, kernel: Option<i32>) -> Breach {
    let is_hog = |breach: &Option<Breach>| {
        let ends = |code| matches!(code, ErrorCode::MemoryLimit | ErrorCode::ProcessLimit);
        breach.as_ref().is_some_and(|b| ends(b.code) && kernel.is_some() && b.process == kernel)
    };
    loop {
        if breaches.wait_for(is_hog).await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(HOG_LIMIT).await;
        let breach = breaches.borrow().clone();
        if is_hog(&breach)
            && let Some(breach) = breach
        {
            return breach;
        }
    }
}
