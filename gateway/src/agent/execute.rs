//! Runs the model's code in the session's kernel: tells what happens, and gathers what the model is shown of it.
use std::sync::Arc;

use futures::StreamExt as _;
use kernelbox_proto::{
    Error, ExecutionName,
    v1::{
        Artifact, ArtifactChange, CodeProposed, ErrorCode, ExecuteRequest, ExecutionEvent, InterruptRequest,
        execution_event, turn_event::Kind,
    },
};
use prost::Message as _;

use super::{Agent, Halt, arguments, budget, repetition::Advice, shown::Shown};
use crate::{
    executions::{Follow, Start},
    model::{CallResult, Part, ToolCall},
    sandbox::Scope,
    sessions::{SessionRouter, Slot},
};

/// What the model is shown of an execution's output, in bytes.
const SHOWN_BYTES: usize = 8 << 10;
/// What an execution may put out; the whole is kept in a file of the sandbox.
const OUTPUT_BYTES: u64 = 10 << 20;
/// Code of a call, in bytes: data belongs into files.
const CODE_BYTES: usize = 128 << 10;
/// The code log of a turn, in bytes; what came later is not in it.
const LOG_BYTES: usize = 256 << 10;
/// Files that a turn tells of, at most; ListFiles has all.
const ARTIFACTS: usize = 1000;
/// Events that are written down together.
const BATCH: usize = 64;
/// Where the sandbox keeps what was cut off: no work of the code's.
const KEPT: &str = ".kernelbox/";

/// What a turn's code came to.
#[derive(Debug, Default)]
pub(super) struct Work {
    code_log: Vec<String>,
    artifacts: Vec<Artifact>,
}

impl Work {
    pub(super) fn code_log(&self) -> Vec<String> {
        self.code_log.clone()
    }

    pub(super) fn artifacts(&self) -> Vec<Artifact> {
        self.artifacts.clone()
    }

    fn log(&mut self, code: &str) {
        let size: usize = self.code_log.iter().map(String::len).sum();
        if size + code.len() <= LOG_BYTES {
            self.code_log.push(code.to_owned());
        }
    }

    /// The newest state of each file counts.
    fn note(&mut self, artifact: &Artifact) {
        self.artifacts.retain(|before| before.path != artifact.path);
        let counts = artifact.change() != ArtifactChange::Deleted && !artifact.path.starts_with(KEPT);
        if counts && self.artifacts.len() < ARTIFACTS {
            self.artifacts.push(artifact.clone());
        }
    }
}

impl Agent {
    /// Runs one call of the python tool. A sandbox that is lost under it is a result, too: the next call gets another.
    pub(super) async fn run_python(&mut self, call: &ToolCall) -> Result<CallResult, Halt> {
        let code = match arguments::code(&call.arguments) {
            Ok(code) => code,
            Err(words) => return Ok(self.result(call, &call.arguments, Some("arguments"), vec![Part::Text(words)])),
        };
        if code.len() > CODE_BYTES {
            let words =
                format!("The code has {} bytes; at most {CODE_BYTES} are run. Put data into files.", code.len());
            return Ok(self.result(call, &code, Some("too long"), vec![Part::Text(words)]));
        }
        let execution = uuid::Uuid::now_v7().to_string().parse()?;
        let name = ExecutionName { session: self.slot.id.clone(), execution };
        let proposed = CodeProposed { tool_call: call.id.clone(), code: code.clone(), execution: name.to_string() };
        self.running.recorder.tell(Kind::CodeProposed(proposed)).await?;
        self.work.log(&code);
        let request = ExecuteRequest {
            session: self.slot.id.name(),
            code: code.clone(),
            timeout: self.task.execution_timeout.and_then(|timeout| timeout.try_into().ok()),
            request_id: name.execution.to_string(),
            output_limit_bytes: i64::try_from(self.budget.output_left().clamp(1, OUTPUT_BYTES)).unwrap_or(i64::MAX),
            ..Default::default()
        };
        let (shown, lost) = self.follow(name, request).await?;
        let mut outcome = shown.finish();
        if let Some(lost) = lost {
            outcome.parts.push(Part::Text(lost.message));
            outcome.error = Some("sandbox lost".to_owned());
        }
        Ok(self.result(call, &code, outcome.error.as_deref(), outcome.parts))
    }

    async fn follow(&mut self, name: ExecutionName, request: ExecuteRequest) -> Result<(Shown, Option<Error>), Halt> {
        let mut interrupt = InterruptOnDrop::new(self.router.clone(), Arc::clone(&self.slot), name.to_string());
        let start = Start::Execute(Box::new((name, request)));
        let events = Follow::new(self.router.clone(), Arc::clone(&self.slot), start).stream(());
        let mut events = events.ready_chunks(BATCH);
        let mut shown = Shown::new(SHOWN_BYTES, self.memory.sees_images());
        let mut lost = None;
        while let Some(batch) = events.next().await {
            let mut kinds = Vec::with_capacity(batch.len());
            for event in batch {
                match event {
                    Ok(event) => {
                        self.note_event(&event, &mut shown);
                        kinds.extend(told(event));
                    }
                    Err(error) if error.code == ErrorCode::SandboxLost => lost = Some(error),
                    Err(error) => return Err(error.into()),
                }
            }
            self.running.recorder.tell_all(kinds).await?;
        }
        interrupt.disarm();
        Ok((shown, lost))
    }

    fn note_event(&mut self, event: &ExecutionEvent, shown: &mut Shown) {
        use execution_event::Kind;
        let Some(kind) = &event.kind else { return };
        let size = match kind {
            Kind::Stdout(text) | Kind::Stderr(text) => text.text.len(),
            Kind::Display(bundle) => bundle.encoded_len(),
            Kind::Result(result) => result.encoded_len(),
            Kind::DisplayUpdate(update) => update.encoded_len(),
            _ => 0,
        };
        self.budget.put_out(size as u64);
        if let Kind::Artifact(artifact) = kind {
            self.work.note(artifact);
        }
        shown.take(kind);
    }

    /// A call's result, which says so if the same comes again and again.
    fn result(&mut self, call: &ToolCall, code: &str, error: Option<&str>, mut parts: Vec<Part>) -> CallResult {
        match self.repetition.ran(code, error) {
            Advice::Go => {}
            Advice::Warn(words) => {
                parts.push(Part::Text(words.to_owned()));
                self.must_answer = error.is_none();
            }
            Advice::Stop => {
                let message = match error {
                    Some(error) => format!("the same code failed again and again ({error})"),
                    None => "the same code ran again and again".to_owned(),
                };
                self.repeated = Some(budget::limit("repetition", message));
            }
        }
        CallResult { call: call.id.clone(), parts, failed: error.is_some() }
    }
}

/// An execution's event as the turn's: those that have a kind of their own there are told as such.
fn told(event: ExecutionEvent) -> Option<Kind> {
    use execution_event::Kind as Of;
    Some(match event.kind? {
        Of::Stage(stage) => Kind::Stage(stage),
        Of::PackageInstalled(package) => Kind::PackageInstalled(package),
        Of::Artifact(artifact) => Kind::Artifact(artifact),
        kind => Kind::Execution(ExecutionEvent { kind: Some(kind), ..event }),
    })
}

/// Interrupts an execution that nobody follows to its end.
struct InterruptOnDrop {
    router: SessionRouter,
    slot: Arc<Slot>,
    name: Option<String>,
}

impl InterruptOnDrop {
    fn new(router: SessionRouter, slot: Arc<Slot>, name: String) -> Self {
        Self { router, slot, name: Some(name) }
    }

    fn disarm(&mut self) {
        self.name = None;
    }
}

impl Drop for InterruptOnDrop {
    fn drop(&mut self) {
        let Some(name) = self.name.take() else { return };
        let Some(live) = self.slot.live() else { return };
        let interrupt = async move {
            let request = InterruptRequest { name, ..Default::default() };
            if let Err(status) = live.sandbox.client(Scope::Session).interrupt(request).await {
                tracing::debug!(error = &status as &dyn std::error::Error, "cannot interrupt a turn's code");
            }
        };
        self.router.tasks().spawn(interrupt);
    }
}
