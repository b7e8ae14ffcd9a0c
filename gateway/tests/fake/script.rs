//! What a scripted execution does.
use kernelbox_proto::{
    Error,
    v1::{
        Artifact, ArtifactChange, CodeError, ErrorCode, ExecutionFinished, ExecutionResult, ExecutionStatus,
        InputRequested, MimeBundle, MimePart, StreamText, execution_event::Kind, mime_part::Content,
    },
};

#[derive(Debug, Clone)]
pub enum Step {
    Event(Kind),
    /// The connection breaks here, once.
    Cut,
    /// Goes on when the test says so.
    WaitForTest,
    WaitForInput,
    WaitForInterrupt,
    /// The call fails.
    Fail(Error),
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

    pub fn fail(code: ErrorCode, message: &str) -> Self {
        Self::Fail(Error::new(code, message))
    }
}
