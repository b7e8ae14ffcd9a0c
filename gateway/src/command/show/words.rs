//! What happens to code, in words. Nothing is written here.
use kernelbox_proto::v1::{
    Artifact, ArtifactChange, CodeError, ErrorCode, ExecutionFinished, ExecutionStatus, OutputTruncated, SandboxStage,
    Stage,
};

use crate::command::table::{self, visible};

/// Folders of Kernelbox's own in a workspace; their files are named where they matter.
const OWN_FOLDER: &str = ".kernelbox/";

/// Whether a file is one of the user's, rather than Kernelbox's own.
pub(crate) fn is_users(artifact: &Artifact) -> bool {
    !artifact.path.starts_with(OWN_FOLDER)
}

/// For example `made plot.png (12 kB)`.
pub(crate) fn described(artifact: &Artifact) -> String {
    let change = match artifact.change() {
        ArtifactChange::Deleted => "deleted",
        ArtifactChange::Modified => "changed",
        _ => "made",
    };
    format!("{change} {} ({})", visible(&artifact.path), table::bytes(artifact.size))
}

pub(super) fn truncation(truncated: &OutputTruncated) -> String {
    let limit = table::bytes(truncated.limit_bytes);
    match truncated.path.as_str() {
        "" => format!("output over {limit} was left out"),
        path => format!("output over {limit} was left out; the whole is in the session's file {}", visible(path)),
    }
}

/// What a sandbox that is not ready waits for.
pub(super) fn waiting(stage: &SandboxStage) -> String {
    let what = match stage.stage() {
        Stage::Queued => format!("waiting for capacity, place {}", stage.position),
        Stage::Scheduling => "waiting for a node".to_owned(),
        Stage::Pulling => "pulling the image".to_owned(),
        Stage::Unreachable => "the sandbox does not answer, waiting for it".to_owned(),
        Stage::Restoring => "restoring the session".to_owned(),
        _ => "starting the kernel".to_owned(),
    };
    if stage.message.is_empty() { what } else { format!("{what}: {}", stage.message) }
}

/// An exception, as the kernel tells it.
pub(super) fn raised(error: &CodeError) -> String {
    match (error.traceback.as_slice(), error.name.as_str()) {
        // The bash kernel tells an exit code, and has no name for it.
        ([], "") if error.value.parse::<i32>().is_ok() => format!("exit code {}", error.value),
        ([], "") => error.value.clone(),
        ([], name) => format!("{name}: {}", error.value),
        (lines, _) => lines.join("\n"),
    }
}

/// Why code did not run to its end, where its exception has not said so.
pub(crate) fn ended_early(finished: &ExecutionFinished) -> Option<String> {
    let words = match finished.status() {
        ExecutionStatus::Ok | ExecutionStatus::Error => "",
        ExecutionStatus::TimedOut => "timed out",
        ExecutionStatus::Interrupted => "interrupted",
        ExecutionStatus::KernelDied => "the kernel died",
        ExecutionStatus::Limit => "a limit was reached",
        _ => "the code could not be run",
    };
    match (finished.message.as_str(), finished.code()) {
        ("", _) if words.is_empty() => None,
        ("", ErrorCode::Unspecified) => Some(words.to_owned()),
        ("", code) => Some(format!("{words} ({})", code.reason())),
        (message, _) => Some(message.to_owned()),
    }
}
