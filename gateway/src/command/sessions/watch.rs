//! `kernelbox sessions watch`: what happens in a session outside its executions.
use kernelbox_proto::v1::{SessionEvent, Stage, WatchSessionRequest, late_output::Output, session_event::Kind};

use super::Common;
use crate::command::{
    failure::{Failure, Result},
    table::{self, print_json, visible, write_stdout},
};

pub(super) async fn watch(name: &str, common: &Common) -> Result<()> {
    let client = common.client().await?;
    let request = WatchSessionRequest { name: name.to_owned() };
    let mut events = client.sessions().watch_session(request).await?.into_inner();
    loop {
        let event = tokio::select! {
            event = events.message() => event?,
            interrupted = tokio::signal::ctrl_c() => {
                return interrupted.map_err(|e| Failure::local("cannot wait for signals", e));
            }
        };
        match event {
            None => return Ok(()),
            Some(event) if common.json => print_json("SessionEvent", &event)?,
            Some(event) => write_stdout(line(&event).as_bytes())?,
        }
    }
}

/// What happened, on one line.
fn line(event: &SessionEvent) -> String {
    let what = match &event.kind {
        Some(Kind::Stage(stage)) => {
            format!("{} {}", table::word(Stage::as_str_name(&stage.stage()), "STAGE_"), visible(&stage.message))
        }
        Some(Kind::LateOutput(late)) => match &late.output {
            Some(Output::Stdout(text)) => format!("{} stdout {}", late.context, visible(&text.text)),
            Some(Output::Stderr(text)) => format!("{} stderr {}", late.context, visible(&text.text)),
            Some(Output::Display(_)) | None => format!("{} display", late.context),
        },
        Some(Kind::Artifact(artifact)) => {
            let change = table::word(artifact.change().as_str_name(), "ARTIFACT_CHANGE_");
            format!("{change} {} ({})", visible(&artifact.path), table::bytes(artifact.size))
        }
        Some(Kind::SandboxEnded(ended)) => format!("ended {}: {}", ended.reason, visible(&ended.message)),
        Some(Kind::KernelDied(died)) => format!("kernel died: {}", visible(&died.message)),
        None => String::new(),
    };
    format!("{}  {}\n", table::time(event.time.as_ref()), what.trim_end())
}
