//! What happens in a turn beside its text, in words. Nothing is written here.
use std::time::Duration;

use kernelbox_proto::v1::{Retry, ToolCallRequested, ToolResult, TurnCancelled, TurnFailed};

use crate::command::table::{cut, visible};

/// What a tool answered is shown up to here.
const TOOL_RESULT: usize = 120;

pub(super) fn tool_call(call: &ToolCallRequested) -> String {
    let (tool, call) = (visible(&call.tool), visible(&call.tool_call));
    format!("the model calls {tool}, a tool of another client's: the turn waits for its answer (call {call})")
}

pub(super) fn tool_result(result: &ToolResult) -> String {
    let verb = if result.failed { "failed" } else { "answered" };
    let content = visible(&result.content.replace('\n', " "));
    format!("the tool {} {verb}: {}", visible(&result.tool), cut(&content, TOOL_RESULT))
}

/// `why`: unless it has been told.
pub(super) fn restarted(why: Option<&str>) -> String {
    let why = why.map_or_else(String::new, |why| format!(" ({why})"));
    format!("that broke off{why} and does not count; the model begins again")
}

/// `why`: unless it has been told.
pub(super) fn retry(retry: &Retry, why: Option<&str>) -> String {
    let delay = retry.delay.and_then(|delay| Duration::try_from(delay).ok()).unwrap_or_default();
    let when = if delay.is_zero() { "now".to_owned() } else { format!("in {:.1} s", delay.as_secs_f64()) };
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    format!("the model is asked again {when} (try {}){why}", retry.attempt)
}

pub(super) fn cancelled(cancelled: &TurnCancelled) -> String {
    match cancelled.reason.as_str() {
        "" => "cancelled".to_owned(),
        reason => format!("cancelled: {reason}"),
    }
}

pub(super) fn failed(failed: &TurnFailed) -> String {
    match failed.message.as_str() {
        "" => format!("the turn failed ({})", failed.code().reason()),
        message => message.to_owned(),
    }
}
