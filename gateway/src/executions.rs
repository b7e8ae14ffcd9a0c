//! One execution of a session, from its start or from any event of it: through the making of its sandbox, over sandboxes that
//! retire before it and connections that break under it, to its last event. Clients and the agent run code through it alike.
//!
//! It runs in a task of its own until the sandbox has the execution: work goes on without its client unless it was asked not to.
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures::{StreamExt as _, stream::BoxStream};
use kernelbox_proto::{
    Error, ExecutionName,
    v1::{
        ErrorCode, ExecuteRequest, ExecutionEvent, ExecutionFinished, ResumeExecutionRequest, SandboxStage, Stage,
        execution_event::Kind, session_event,
    },
};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::{Instrument as _, Span, field::Empty};

use crate::{
    metrics::{Held, Ran, Sandbox},
    sandbox::{Scope, long_ended},
    services::stopped,
    sessions::{Live, SessionRouter, Slot, Verdict, always_retired, broken, ready},
    store::Micros,
};

/// Sandboxes that retire before the call, at most.
const TRIES: usize = 6;
/// How long a sandbox may be unreachable: by then a cluster has given up its node, and says that it is lost.
const UNREACHABLE: Duration = Duration::from_mins(3);
/// Events on their way to a client that is slow; the rest waits in the sandbox.
const BUFFER: usize = 16;
/// How long a client that does not read is waited for with the last word.
const LAST_WORD: Duration = Duration::from_secs(2);

/// What is followed.
pub(crate) enum Start {
    Execute(Box<(ExecutionName, ExecuteRequest)>),
    Resume { name: ExecutionName, after: i64 },
}

impl Start {
    /// Who only follows is no part of what the execution took.
    fn span(&self) -> Span {
        match self {
            Self::Execute(it) => tracing::info_span!(
                "execution",
                session = %it.0.session,
                execution = %it.0.execution,
                status = Empty,
            ),
            Self::Resume { .. } => Span::current(),
        }
    }

    pub(crate) fn name(&self) -> &ExecutionName {
        match self {
            Self::Execute(it) => &it.0,
            Self::Resume { name, .. } => name,
        }
    }
}

pub(crate) struct Follow {
    router: SessionRouter,
    slot: Arc<Slot>,
    start: Start,
    /// The last event that was passed on.
    last: i64,
    /// The sandbox has the execution.
    known: bool,
    /// When the call came, until the kernel began with its code.
    waits: Option<(Instant, Sandbox)>,
    /// Since when connections have been breaking without an event between.
    unreachable: Option<Instant>,
}

/// Spans of where the time went, as the supervisor says: it reaches no collector itself. They are laid end to end, up to now.
fn trace_stages(finished: &ExecutionFinished) {
    let within = kernelbox_telemetry::context();
    let mut end = SystemTime::now();
    for stage in ["artifacts", "kernel", "install", "queue"] {
        let took = finished.stages.get(stage).and_then(|it| Duration::try_from(*it).ok());
        if let Some(begin) = took.and_then(|took| end.checked_sub(took)) {
            kernelbox_telemetry::past(&within, stage, begin, end);
            end = begin;
        }
    }
}

/// Why there is nothing more to follow.
enum End {
    Finished,
    ClientGone,
    Failed(Error),
}

impl Follow {
    pub(crate) fn new(router: SessionRouter, slot: Arc<Slot>, start: Start) -> Self {
        let last = match &start {
            Start::Execute(_) => 0,
            Start::Resume { after, .. } => *after,
        };
        let had = if slot.live().is_some() { Sandbox::Had } else { Sandbox::New };
        let waits = matches!(start, Start::Execute(_)).then(|| (Instant::now(), had));
        Self { router, slot, start, last, known: false, waits, unreachable: None }
    }

    /// Its events. `held` is let go when nothing is left to do for it, which can be after the stream was dropped.
    pub(crate) fn stream(self, held: impl Send + 'static) -> BoxStream<'static, Result<ExecutionEvent, Error>> {
        let (out, events) = mpsc::channel(BUFFER);
        let tasks = self.router.tasks().clone();
        let span = self.start.span();
        let task = async move {
            let mut this = self;
            let _running = Held::new(&this.router.metrics().executions.running);
            let stopping = this.router.stopping().clone();
            let end = tokio::select! {
                end = this.run(&out) => end,
                () = stopping.cancelled() => End::Failed(stopped()),
            };
            if let End::Failed(error) = end {
                this.count_failure(&error);
                // Elapsed or closed: there is nobody to tell.
                let _ = tokio::time::timeout(LAST_WORD, out.send(Err(error))).await;
            }
            drop(held);
        };
        tasks.spawn(task.instrument(span));
        ReceiverStream::new(events).boxed()
    }

    async fn run(&mut self, out: &mpsc::Sender<Result<ExecutionEvent, Error>>) -> End {
        let mut retired = 0;
        while retired < TRIES {
            let live = match self.sandbox(out).await {
                Ok(live) => live,
                Err(end) => return end,
            };
            if out.is_closed() && self.may_stop() {
                return End::ClientGone;
            }
            let Some(call) = live.begin_call() else {
                self.slot.leave(&live);
                retired += 1;
                continue;
            };
            let opened = match self.open(&live).await {
                Ok(stream) => self.pass_on(stream, &live, out).await,
                Err(status) => Err(status),
            };
            drop(call);
            let status = match opened {
                Ok(end) => return end,
                Err(status) => status,
            };
            let has_run = self.known || matches!(self.start, Start::Resume { .. });
            match self.router.verdict(&self.slot, &live, &status, has_run).await {
                Verdict::NotRun => retired += 1,
                Verdict::Broken => match self.unreachable {
                    Some(since) if since.elapsed() >= UNREACHABLE => return End::Failed(broken()),
                    Some(_) => {}
                    None => {
                        self.unreachable = Some(Instant::now());
                        let stage = SandboxStage { stage: Stage::Unreachable.into(), ..Default::default() };
                        if out.send(Ok(self.stage(stage))).await.is_err() && self.may_stop() {
                            return End::ClientGone;
                        }
                    }
                },
                Verdict::Refused(error) | Verdict::Lost(error) => return End::Failed(error),
            }
        }
        End::Failed(if self.known { broken() } else { always_retired() })
    }

    /// The sandbox; what it waits for is told meanwhile. These events are not the execution's own and have sequence 0.
    async fn sandbox(&self, out: &mpsc::Sender<Result<ExecutionEvent, Error>>) -> Result<Arc<Live>, End> {
        if let Some(live) = self.slot.live() {
            return Ok(live);
        }
        let mut told = self.slot.subscribe();
        let acquiring = self.router.sandbox(&self.slot);
        tokio::pin!(acquiring);
        loop {
            tokio::select! {
                live = &mut acquiring => return live.map_err(End::Failed),
                event = told.recv() => {
                    let stage = match event {
                        Ok(event) => event.kind,
                        // Some were missed; what matters is the end.
                        Err(broadcast::error::RecvError::Lagged(_)) => continue,
                        Err(broadcast::error::RecvError::Closed) => None,
                    };
                    if let Some(session_event::Kind::Stage(stage)) = stage
                        && stage.stage() != Stage::Ready
                        && out.send(Ok(self.stage(stage))).await.is_err()
                        && self.may_stop()
                    {
                        return Err(End::ClientGone);
                    }
                }
            }
        }
    }

    async fn open(&self, live: &Live) -> Result<Streaming<ExecutionEvent>, Status> {
        self.slot.touch();
        let mut client = live.sandbox.client(Scope::Session);
        let answer = match &self.start {
            // The same id never runs twice, so that this may be sent again.
            Start::Execute(it) if self.last == 0 => client.execute(it.1.clone()).await,
            start => {
                let name = start.name().to_string();
                client.resume_execution(ResumeExecutionRequest { name, after_sequence: self.last }).await
            }
        };
        answer.map(tonic::Response::into_inner)
    }

    async fn pass_on(
        &mut self,
        mut stream: Streaming<ExecutionEvent>,
        live: &Live,
        out: &mpsc::Sender<Result<ExecutionEvent, Error>>,
    ) -> Result<End, Status> {
        let ended = long_ended(Arc::clone(&live.sandbox));
        tokio::pin!(ended);
        loop {
            let event = tokio::select! {
                biased;
                event = stream.message() => event?,
                () = &mut ended => None,
                () = out.closed(), if self.may_stop() => return Ok(End::ClientGone),
            };
            // A stream that ends without its last event was cut off.
            let Some(event) = event else { return Err(Status::unavailable("the stream was cut off")) };
            if !self.known {
                self.known = true;
                let first = matches!(self.start, Start::Execute(_));
                if first
                    && let Some(news) = live.take_news()
                    && out.send(Ok(self.stage(ready(&news)))).await.is_err()
                {
                    return Ok(End::ClientGone);
                }
            }
            self.unreachable = None;
            self.last = event.sequence;
            self.count(&event, live);
            let finished = matches!(event.kind, Some(Kind::Finished(_)));
            // The sandbox has it: it goes on, or was asked to end with its client, whose stream ends here.
            if out.send(Ok(event)).await.is_err() {
                return Ok(End::ClientGone);
            }
            if finished {
                return Ok(End::Finished);
            }
        }
    }

    /// Counts what an event tells, unless it passed before.
    fn count(&mut self, event: &ExecutionEvent, live: &Live) {
        if !live.counted.is_new(event) {
            return;
        }
        let executions = &self.router.metrics().executions;
        if let Some(Kind::Started(_)) = event.kind
            && let Some((since, had)) = self.waits.take()
        {
            executions.waits.took(had, since.elapsed());
        }
        executions.take(event);
        if let (Start::Execute(_), Some(Kind::Finished(finished))) = (&self.start, &event.kind) {
            Span::current().record("status", finished.status().as_str_name());
            trace_stages(finished);
        }
    }

    /// An execution that ends without an event that says so. Whoever only followed it had no part in that.
    fn count_failure(&self, error: &Error) {
        if let Start::Execute(_) = self.start {
            let lost = error.code == ErrorCode::SandboxLost || self.known;
            self.router.metrics().executions.ended.inc(if lost { Ran::Lost } else { Ran::NotRun });
            Span::current().record("status", error.code.reason());
        }
    }

    /// Whether the client may be forgotten once it is gone: not before the sandbox has work that shall go on without it.
    fn may_stop(&self) -> bool {
        match &self.start {
            Start::Execute(it) => self.known || it.1.cancel_on_disconnect,
            Start::Resume { .. } => true,
        }
    }

    fn stage(&self, stage: SandboxStage) -> ExecutionEvent {
        ExecutionEvent {
            execution: self.start.name().to_string(),
            sequence: 0,
            time: Some(Micros::now().timestamp()),
            kind: Some(Kind::Stage(stage)),
        }
    }
}
