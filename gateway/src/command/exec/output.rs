//! Shows the events of an execution: the code's own output as it is, everything else on stderr.
use kernelbox_proto::v1::{
    Artifact, ArtifactChange, ExecutionEvent, ExecutionFinished, ExecutionStatus, execution_event::Kind,
};

use super::ExecArgs;
use crate::command::{
    connect::Client,
    failure::{Exit, Result, exit_of},
    keep::Keep,
    progress::Progress,
    say,
    screen::{Screen, Style, To},
    show::{Show, described, ended_early, is_users},
    table::print_json,
};

/// Where the output of an execution goes.
pub(super) struct Output {
    show: Show,
    throwaway: bool,
    /// Files that were made and not saved.
    left: Vec<String>,
}

impl Output {
    pub(super) fn new(args: &ExecArgs, client: &Client, session: &str, progress: Progress) -> Self {
        let keep = Keep::new(args.output_dir.as_deref(), client, session);
        let output = (To::Stdout, Style::Plain);
        let show = Show::new(keep, args.output_dir.is_some(), args.json, Screen::raw(progress), output);
        Self { show, throwaway: args.session.is_none(), left: Vec::new() }
    }

    /// Shows one event; the last one is answered with the exit code.
    pub(super) async fn event(&mut self, event: ExecutionEvent) -> Result<Option<Exit>> {
        if self.show.json {
            self.show.screen.progress.clear();
            print_json("ExecutionEvent", &event)?;
        }
        match event.kind {
            Some(Kind::Artifact(artifact)) => self.artifact(artifact).await?,
            Some(Kind::Finished(finished)) => return Ok(Some(self.finished(&finished))),
            Some(kind) => self.show.event(kind).await?,
            // Kinds of later versions are not known.
            None => {}
        }
        Ok(None)
    }

    async fn artifact(&mut self, artifact: Artifact) -> Result<()> {
        let deleted = artifact.change() == ArtifactChange::Deleted;
        if !is_users(&artifact) || (self.show.keep_all && !deleted && self.show.save(&artifact).await?) {
            return Ok(());
        }
        if !self.show.json {
            self.show.screen.note(&described(&artifact));
            if !deleted {
                self.left.push(artifact.path);
            }
        }
        Ok(())
    }

    fn finished(&self, finished: &ExecutionFinished) -> Exit {
        self.show.screen.progress.clear();
        if let Some(words) = ended_early(finished) {
            say(&words);
        }
        if self.throwaway && !self.left.is_empty() {
            say("files end with this command's session: --session keeps it, --output-dir saves them");
        }
        match finished.status() {
            ExecutionStatus::Ok => Exit::Ok,
            ExecutionStatus::Limit => Exit::Limit,
            ExecutionStatus::Error
            | ExecutionStatus::TimedOut
            | ExecutionStatus::Interrupted
            | ExecutionStatus::KernelDied => Exit::Failed,
            _ => exit_of(finished.code()),
        }
    }
}
