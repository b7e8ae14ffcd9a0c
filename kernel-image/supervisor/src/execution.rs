//! One execution: its state, its numbered events, and those who read them.
//!
//! Writers never wait for readers: an event is in the log when `push` returns, and each reader follows at its own pace.
mod log;
mod store;

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use futures::Stream;
use kernelbox_proto::{
    Error, ExecutionId,
    v1::{
        self, ErrorCode, ExecutionEvent, ExecutionFinished, ExecutionQueued, ExecutionStarted, ExecutionStatus,
        execution_event::Kind,
    },
};
use tokio::sync::watch;

use crate::{convert::Output, lifecycle::WritingGuard, output::Meter, sync::lock};
use log::Log;

pub use store::{Admitted, Executions};

/// Events of a running execution that stay in memory, in bytes.
const KEEP_RUNNING: usize = 1 << 20;
/// Events of a finished one.
const KEEP_FINISHED: usize = 16 << 10;
/// The most bytes that a reader takes at once.
const BATCH: usize = 256 << 10;
/// Code that is kept for GetExecution.
const CODE_KEPT: usize = 64 << 10;

/// What names an execution, and what it shall run.
#[derive(Debug, Clone)]
pub struct Identity {
    pub id: ExecutionId,
    /// sessions/{session}/executions/{execution}.
    pub name: String,
    pub context: String,
    pub kernel: String,
}

/// How an execution ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub status: ExecutionStatus,
    pub code: ErrorCode,
    pub message: String,
    pub execution_count: i32,
}

impl Outcome {
    pub fn new(status: ExecutionStatus) -> Self {
        Self { status, code: ErrorCode::Unspecified, message: String::new(), execution_count: 0 }
    }

    pub fn because(status: ExecutionStatus, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), execution_count: 0 }
    }
}

#[derive(Debug)]
pub struct Execution {
    pub identity: Identity,
    code: String,
    fingerprint: [u8; 32],
    create_time: SystemTime,
    state: Mutex<State>,
    last: watch::Sender<Seen>,
    /// Set when nothing more of a stream's text would be sent or kept.
    full: AtomicBool,
}

#[derive(Debug)]
struct State {
    log: Log,
    meter: Meter,
    status: ExecutionStatus,
    started: bool,
    /// An error of the code was told.
    failed: bool,
    created: Instant,
    began: Option<Instant>,
    /// While it runs, it may change files.
    writing: Option<WritingGuard>,
    stages: Vec<(&'static str, Duration)>,
    start_time: Option<SystemTime>,
    end_time: Option<SystemTime>,
}

/// What readers wait for.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    last: u64,
    finished: bool,
}

impl Execution {
    fn new(identity: Identity, code: &str, fingerprint: [u8; 32], spill: PathBuf, meter: Meter) -> Self {
        let state = State {
            log: Log::new(spill),
            meter,
            status: ExecutionStatus::Queued,
            started: false,
            failed: false,
            created: Instant::now(),
            began: None,
            writing: None,
            stages: Vec::new(),
            start_time: None,
            end_time: None,
        };
        Self {
            identity,
            code: code[..code.floor_char_boundary(CODE_KEPT)].to_owned(),
            fingerprint,
            create_time: SystemTime::now(),
            state: Mutex::new(state),
            last: watch::Sender::new(Seen::default()),
            full: AtomicBool::new(false),
        }
    }

    /// Adds an event; after the last one it is dropped.
    pub fn push(&self, kind: Kind) {
        let mut state = lock(&self.state);
        self.add(&mut state, kind);
    }

    /// Tells how many run before it.
    pub fn queued(&self, position: usize) {
        self.push(Kind::Queued(ExecutionQueued { position: i32::try_from(position).unwrap_or(i32::MAX) }));
    }

    /// The code goes to the kernel now. A stage named "queue" or "install" ended with it.
    pub fn begin(&self, writing: WritingGuard) {
        let mut state = lock(&self.state);
        state.writing = Some(writing);
        state.status = ExecutionStatus::Running;
        state.began = Some(Instant::now());
        state.start_time.get_or_insert_with(SystemTime::now);
    }

    /// Notes how long a stage took.
    pub fn stage(&self, name: &'static str, took: Duration) {
        lock(&self.state).stages.push((name, took));
    }

    /// How long ago it was made.
    pub fn age(&self) -> Duration {
        lock(&self.state).created.elapsed()
    }

    /// The kernel runs it, and says as which number; said once.
    pub fn started(&self, execution_count: i32) {
        let mut state = lock(&self.state);
        self.start(&mut state, execution_count);
    }

    /// Adds what the code put out, within the limits.
    pub fn output(&self, output: Output, origin: impl FnOnce(&str) -> String) {
        let mut state = lock(&self.state);
        self.start(&mut state, 0);
        let State { log, meter, .. } = &mut *state;
        let kinds = meter.take(output, || text_of(log));
        if meter.is_full() {
            self.full.store(true, Ordering::Relaxed);
        }
        let mut origin = Some(origin);
        for mut kind in kinds {
            if let (Kind::DisplayUpdate(update), Some(origin)) = (&mut kind, origin.take()) {
                update.origin = origin(update.bundle.as_ref().map_or("", |bundle| bundle.display_id.as_str()));
            }
            self.add(&mut state, kind);
        }
    }

    /// Whether an error of the code was told.
    pub fn has_failed(&self) -> bool {
        lock(&self.state).failed
    }

    /// Whether text of a stream is of no use any more.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Ends it, once.
    pub fn finish(&self, outcome: Outcome) {
        let mut state = lock(&self.state);
        if state.end_time.is_some() {
            return;
        }
        let Outcome { status, code, message, execution_count } = outcome;
        let wall_time = state.began.map(|began| began.elapsed()).unwrap_or_default();
        let stages = state.stages.iter().map(|(name, took)| ((*name).to_owned(), duration(*took))).collect();
        let finished = ExecutionFinished {
            status: status.into(),
            wall_time: Some(duration(wall_time)),
            stages,
            code: code.into(),
            message,
            execution_count,
        };
        if state.began.is_some() {
            self.start(&mut state, execution_count);
        }
        state.meter.finish();
        // Before it is told: whoever saves the files then has them all.
        state.writing = None;
        self.add(&mut state, Kind::Finished(finished));
        state.status = status;
        state.end_time = Some(SystemTime::now());
        state.log.spill(KEEP_FINISHED);
    }

    pub fn is_finished(&self) -> bool {
        self.last.borrow().finished
    }

    /// How it stands.
    pub fn describe(&self) -> v1::Execution {
        let state = lock(&self.state);
        v1::Execution {
            name: self.identity.name.clone(),
            status: state.status.into(),
            context: self.identity.context.clone(),
            kernel: self.identity.kernel.clone(),
            code: self.code.clone(),
            create_time: Some(self.create_time.into()),
            start_time: state.start_time.map(Into::into),
            end_time: state.end_time.map(Into::into),
            last_sequence: i64::try_from(state.log.last()).unwrap_or(i64::MAX),
        }
    }

    /// Its events after number `after`, to the last.
    pub fn follow(self: &Arc<Self>, after: u64) -> impl Stream<Item = Result<ExecutionEvent, Error>> + Send + use<> {
        let reader = Reader {
            execution: Arc::clone(self),
            seen: self.last.subscribe(),
            after,
            batch: VecDeque::new(),
            failed: false,
        };
        futures::stream::unfold(reader, |mut reader| async {
            let event = reader.next().await?;
            Some((event, reader))
        })
    }

    /// Memory and disk that it takes.
    fn cost(&self) -> (usize, u64) {
        let state = lock(&self.state);
        (state.log.memory_bytes() + self.code.len() + 512, state.log.file_bytes())
    }

    fn start(&self, state: &mut State, execution_count: i32) {
        if !state.started {
            state.started = true;
            let Identity { context, kernel, .. } = &self.identity;
            let started = ExecutionStarted { context: context.clone(), kernel: kernel.clone(), execution_count };
            self.add(state, Kind::Started(started));
        }
    }

    fn add(&self, state: &mut State, kind: Kind) {
        if state.end_time.is_some() {
            return;
        }
        let finished = matches!(kind, Kind::Finished(_));
        state.failed |= matches!(kind, Kind::Error(_));
        state.log.push(kind, KEEP_RUNNING);
        self.last.send_replace(Seen { last: state.log.last(), finished });
    }
}

struct Reader {
    execution: Arc<Execution>,
    seen: watch::Receiver<Seen>,
    after: u64,
    batch: VecDeque<ExecutionEvent>,
    failed: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<ExecutionEvent, Error>> {
        if self.failed {
            return None;
        }
        if self.batch.is_empty() {
            let after = self.after;
            let seen = *self.seen.wait_for(|seen| seen.last > after || seen.finished).await.ok()?;
            if seen.last <= after {
                return None;
            }
            match lock(&self.execution.state).log.read(after, BATCH) {
                Ok(events) => self.batch.extend(events),
                Err(error) => {
                    tracing::error!(%error, execution = self.execution.identity.name, "cannot read spilled events");
                    self.failed = true;
                    return Some(Err(Error::new(ErrorCode::Internal, "the events of this execution cannot be read")));
                }
            }
        }
        let mut event = self.batch.pop_front()?;
        event.execution.clone_from(&self.execution.identity.name);
        self.after += 1;
        Some(Ok(event))
    }
}

/// The text that was put out so far.
fn text_of(log: &Log) -> String {
    let (mut text, mut after) = (String::new(), 0);
    while let Ok(events) = log.read(after, BATCH) {
        if events.is_empty() {
            break;
        }
        after += events.len() as u64;
        for event in events {
            if let Some(Kind::Stdout(stream) | Kind::Stderr(stream)) = event.kind {
                text.push_str(&stream.text);
            }
        }
    }
    text
}

/// A duration of at most centuries as protobuf has it.
pub(crate) fn duration(duration: Duration) -> prost_types::Duration {
    duration.try_into().unwrap_or_default()
}
