//! What a scripted execution, or a scripted turn, does.
use kernelbox_proto::{
    Error,
    v1::{
        Artifact, ArtifactChange, CodeError, CodeProposed, ErrorCode, ExecutionEvent, ExecutionFinished,
        ExecutionResult, ExecutionStatus, InputRequested, MessageRestarted, MimeBundle, MimePart, StreamText,
        TextDelta, TurnCancelled, TurnCompleted, TurnFailed, TurnStarted, execution_event::Kind, mime_part::Content,
        turn_event,
    },
};

#[derive(Debug, Clone)]
pub enum Step<K = Kind> {
    Event(K),
    /// The connection breaks here, once.
    Cut,
    /// Goes on when the test says so.
    WaitForTest,
    WaitForInput,
    /// An execution is interrupted, a turn is cancelled.
    WaitForInterrupt,
    /// The stream's end is on its way for longer than its last event.
    EndLate,
    /// The call fails.
    Fail(Error),
}

/// A step of a turn.
pub type TurnStep = Step<turn_event::Kind>;

impl<K> Step<K> {
    pub fn fail(code: ErrorCode, message: &str) -> Self {
        Self::Fail(Error::new(code, message))
    }
}

impl Step {
    pub fn stdout(text: &str) -> Self {
        Self::Event(Kind::Stdout(StreamText { text: text.into() }))
    }

    pub fn stderr(text: &str) -> Self {
        Self::Event(Kind::Stderr(StreamText { text: text.into() }))
    }

    pub fn ask(input: &str) -> Self {
        Self::Event(Kind::InputRequested(InputRequested {
            prompt: "name? ".into(),
            input: input.into(),
            password: false,
        }))
    }

    pub fn error() -> Self {
        Self::Event(Kind::Error(CodeError {
            name: "ZeroDivisionError".into(),
            value: "division by zero".into(),
            traceback: vec!["\x1b[0;31mZeroDivisionError\x1b[0m: division by zero".into()],
        }))
    }

    pub fn bundle(display_id: &str, parts: &[(&str, &str)]) -> MimeBundle {
        let part = |(media_type, text): &(&str, &str)| MimePart {
            media_type: (*media_type).into(),
            content: Some(match media_type.starts_with("image/") {
                true => Content::Data(text.as_bytes().to_vec().into()),
                false => Content::Text((*text).into()),
            }),
        };
        MimeBundle { parts: parts.iter().map(part).collect(), metadata: None, display_id: display_id.into() }
    }

    pub fn display(display_id: &str, parts: &[(&str, &str)]) -> Self {
        Self::Event(Kind::Display(Self::bundle(display_id, parts)))
    }

    pub fn result(parts: &[(&str, &str)]) -> Self {
        Self::Event(Kind::Result(ExecutionResult { bundle: Some(Self::bundle("", parts)), execution_count: 1 }))
    }

    pub fn made(path: &str) -> Self {
        Self::Event(Kind::Artifact(Artifact {
            path: path.into(),
            size: 3,
            change: ArtifactChange::Created.into(),
            ..Artifact::default()
        }))
    }

    pub fn finished(status: ExecutionStatus) -> Self {
        Self::Event(Kind::Finished(ExecutionFinished { status: status.into(), ..ExecutionFinished::default() }))
    }

    pub fn ok() -> Self {
        Self::finished(ExecutionStatus::Ok)
    }
}

impl TurnStep {
    pub fn started() -> Self {
        Self::Event(turn_event::Kind::Started(TurnStarted { model: "scripted".into() }))
    }

    /// A piece of a message of the model's.
    pub fn text(message: &str, offset: i64, text: &str) -> Self {
        Self::Event(turn_event::Kind::Text(TextDelta { text: text.into(), message: message.into(), offset }))
    }

    pub fn reasoning(message: &str, text: &str) -> Self {
        Self::Event(turn_event::Kind::Reasoning(TextDelta { text: text.into(), message: message.into(), offset: 0 }))
    }

    pub fn restarted(message: &str, reason: &str) -> Self {
        let restarted = MessageRestarted { reason: reason.into(), message: message.into() };
        Self::Event(turn_event::Kind::MessageRestarted(restarted))
    }

    pub fn code(call: &str, code: &str) -> Self {
        let execution = format!("sessions/s/executions/{call}");
        Self::Event(turn_event::Kind::CodeProposed(CodeProposed {
            tool_call: call.into(),
            code: code.into(),
            execution,
        }))
    }

    /// An event of an execution, as a script of one has it.
    pub fn execution(step: Step) -> Self {
        let Step::Event(kind) = step else { unreachable!("{step:?} is no event") };
        Self::Event(turn_event::Kind::Execution(ExecutionEvent { kind: Some(kind), ..ExecutionEvent::default() }))
    }

    pub fn completed(answer: &str) -> Self {
        Self::completed_with(answer, &[])
    }

    /// Answered, with files of three bytes.
    pub fn completed_with(answer: &str, files: &[&str]) -> Self {
        let artifact = |path: &&str| Artifact {
            path: (*path).into(),
            size: 3,
            change: ArtifactChange::Created.into(),
            ..Artifact::default()
        };
        Self::Event(turn_event::Kind::Completed(TurnCompleted {
            answer: answer.into(),
            artifacts: files.iter().map(artifact).collect(),
            ..TurnCompleted::default()
        }))
    }

    pub fn cancelled(reason: &str) -> Self {
        Self::Event(turn_event::Kind::Cancelled(TurnCancelled { reason: reason.into() }))
    }

    pub fn failed(code: ErrorCode, message: &str) -> Self {
        Self::Event(turn_event::Kind::Failed(TurnFailed { code: code.into(), message: message.into() }))
    }
}
