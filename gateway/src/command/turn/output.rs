//! Shows the events of a turn.
//!
//! On a terminal everything is on stdout as it comes: text, code, what the code prints. Elsewhere stdout holds the answer alone, and
//! the rest goes to stderr, each message of the model's when it can not be taken back any more.
mod message;
mod words;

use std::{collections::BTreeSet, io::IsTerminal as _, path::Path};

use kernelbox_proto::v1::{
    Artifact, ArtifactChange, ExecutionEvent, MessageRestarted, PackageInstalled, Retry, TextDelta, ToolCallRequested,
    ToolCalled, TurnCompleted, TurnEvent, TurnStarted, execution_event::Kind as CodeKind, turn_event::Kind,
};

use self::message::Message;
use crate::command::{
    connect::Client,
    failure::{Exit, Failure, Result, exit_of},
    keep::Keep,
    progress::Progress,
    screen::{Block, Screen, Style, To},
    show::{Show, described, ended_early, is_users},
    table::{print_json, visible, write_stdout},
    terminal::harmless,
};

const WAITING: &str = "waiting for the model";

/// What becomes of the files that a turn made.
#[derive(Debug, Clone)]
pub(crate) enum Files {
    Save,
    /// They stay in the session and are named, with what to type before a path to get it.
    Name(String),
}

pub(crate) struct Output {
    show: Show,
    files: Files,
    /// Where code and what it prints go.
    body: To,
    /// Text is shown as it comes: a person reads it.
    streams: bool,
    message: Message,
    /// Calls that run code; their results have been seen as the code's output.
    code_calls: BTreeSet<String>,
    installed: BTreeSet<String>,
    made: Vec<Artifact>,
    limit: bool,
    /// Why the model was last asked again, so that two events do not say the same.
    reason: String,
}

impl Output {
    /// For the turns of this session, one after the other.
    pub(crate) fn new(
        client: &Client,
        session: &str,
        output_dir: Option<&Path>,
        files: Files,
        json: bool,
        progress: Progress,
    ) -> Self {
        let streams = !json && std::io::stdout().is_terminal();
        let body = if streams { To::Stdout } else { To::Stderr };
        let keep = Keep::new(output_dir, client, session);
        let screen = Screen::tidy(progress);
        Self {
            show: Show::new(keep, output_dir.is_some(), json, screen, (body, Style::Dim)),
            files,
            body,
            streams,
            message: Message::default(),
            code_calls: BTreeSet::new(),
            installed: BTreeSet::new(),
            made: Vec::new(),
            limit: false,
            reason: String::new(),
        }
    }

    /// Shows one event; the last one of a turn is answered with the exit code. Then [`Output::finish`].
    pub(crate) async fn event(&mut self, event: TurnEvent) -> Result<Option<Exit>> {
        if self.show.json {
            self.show.screen.progress.clear();
            print_json("TurnEvent", &event)?;
        }
        match event.kind {
            Some(Kind::Started(started)) => self.started(&started),
            Some(Kind::ModelUsage(_)) => self.waits(),
            Some(Kind::Stage(stage)) => self.show.stage(&stage),
            Some(Kind::Text(delta)) => self.text(&delta)?,
            Some(Kind::Reasoning(delta)) => self.reasoning(&delta)?,
            Some(Kind::MessageRestarted(restarted)) => self.restarted(&restarted),
            Some(Kind::CodeProposed(proposed)) => {
                self.code_calls.insert(proposed.tool_call);
                self.code(&proposed.code)?;
            }
            Some(Kind::Execution(event)) => self.execution(event).await?,
            Some(Kind::PackageInstalled(package)) => self.package(&package),
            Some(Kind::Artifact(artifact)) => self.made(artifact),
            Some(Kind::ToolCallRequested(call)) => self.tool_call(&call)?,
            Some(Kind::ToolCalled(call)) => self.tool_called(&call)?,
            Some(Kind::ToolResult(result)) => {
                if !self.code_calls.contains(&result.tool_call) {
                    self.note(&words::tool_result(&result));
                }
                self.waits();
            }
            Some(Kind::ContextSummarised(summary)) => {
                self.note(&format!("{} older turns were summarised, so that the rest fits the model", summary.turns));
                self.waits();
            }
            Some(Kind::Retry(retry)) => self.retry(&retry),
            Some(Kind::LimitReached(limit)) => {
                self.limit = true;
                self.note(&format!("a limit was reached ({}): {}", visible(&limit.limit), limit.message));
            }
            Some(Kind::Completed(completed)) => return self.completed(completed).map(Some),
            Some(Kind::Cancelled(cancelled)) => {
                return self.broken_off(&words::cancelled(&cancelled), Exit::Failed).map(Some);
            }
            Some(Kind::Failed(failed)) => {
                return self.broken_off(&words::failed(&failed), exit_of(failed.code())).map(Some);
            }
            // Kinds of later versions are not known.
            None => {}
        }
        Ok(None)
    }

    /// A line of the command's own.
    pub(crate) fn note(&mut self, text: &str) {
        self.show.screen.note(text);
    }

    /// Saves a file of the session, and says where.
    pub(crate) async fn save(&mut self, path: &str) -> Result<()> {
        self.show.screen.progress.say(format!("saving {}", visible(path)));
        let artifact = Artifact { path: path.to_owned(), ..Artifact::default() };
        let failure = match self.show.keep.file(&artifact).await {
            Ok(Some(saved)) => {
                self.show.saved(&saved);
                return self.show.screen.end(self.body);
            }
            Ok(None) => Failure::usage("not a path below the workspace"),
            Err(failure) => failure,
        };
        Err(Failure::new(failure.exit, format!("{} was not saved: {failure}", visible(path))))
    }

    fn started(&mut self, started: &TurnStarted) {
        if self.streams && !started.model.is_empty() {
            self.note(&format!("asking {}", visible(&started.model)));
        }
        self.waits();
    }

    fn waits(&self) {
        self.show.screen.progress.say(WAITING);
    }

    fn text(&mut self, delta: &TextDelta) -> Result<()> {
        self.message_of(&delta.message)?;
        let shown = self.message.add(delta);
        self.stream(Block::Text, &shown, Style::Plain)
    }

    fn reasoning(&mut self, delta: &TextDelta) -> Result<()> {
        self.message_of(&delta.message)?;
        let shown = self.message.think(delta);
        self.stream(Block::Reasoning, &shown, Style::Dim)
    }

    fn stream(&mut self, block: Block, text: &str, style: Style) -> Result<()> {
        if !self.streams {
            self.show.screen.progress.say("the model is answering");
        } else if !text.is_empty() {
            self.show.screen.begin(block, self.body)?;
            self.show.screen.write(self.body, text, style)?;
            // Not below a line that the model has yet to end.
            if text.ends_with('\n') {
                self.waits();
            }
        }
        Ok(())
    }

    /// What comes now belongs to this message; one before it is complete.
    fn message_of(&mut self, id: &str) -> Result<()> {
        if self.message.id != id {
            self.message_is_complete()?;
            self.message = Message::new(id);
        }
        Ok(())
    }

    /// The message will not be taken back, and is not the answer.
    fn message_is_complete(&mut self) -> Result<()> {
        let text = std::mem::take(&mut self.message).text;
        let text = text.trim();
        if !self.streams && !self.show.json && !text.is_empty() {
            self.show.screen.begin(Block::Text, self.body)?;
            self.show.screen.write(self.body, &format!("{text}\n"), Style::Plain)?;
        }
        Ok(())
    }

    fn restarted(&mut self, restarted: &MessageRestarted) {
        if restarted.message == self.message.id && self.streams && self.message.was_shown() {
            let why = self.news(&restarted.reason);
            self.note(&words::restarted(why.as_deref()));
        }
        if restarted.message == self.message.id {
            self.message = Message::default();
        }
        self.waits();
    }

    /// Code as a Python prompt shows it.
    fn code(&mut self, code: &str) -> Result<()> {
        self.message_is_complete()?;
        if !self.show.json {
            self.show.screen.begin(Block::Code, self.body)?;
            for (i, line) in code.trim_end().lines().enumerate() {
                self.show.screen.write(self.body, if i == 0 { ">>> " } else { "... " }, Style::Dim)?;
                self.show.screen.write(self.body, &format!("{}\n", harmless(line)), Style::Code)?;
            }
        }
        self.show.screen.progress.say("running");
        Ok(())
    }

    async fn execution(&mut self, event: ExecutionEvent) -> Result<()> {
        match event.kind {
            Some(CodeKind::Artifact(artifact)) => self.made(artifact),
            Some(CodeKind::PackageInstalled(package)) => self.package(&package),
            Some(CodeKind::Finished(finished)) => {
                if let Some(words) = ended_early(&finished) {
                    self.note(&words);
                }
                self.show.screen.fresh_line(self.body)?;
                self.waits();
            }
            Some(kind) => self.show.event(kind).await?,
            None => {}
        }
        Ok(())
    }

    /// The turn and its execution may both tell of it.
    fn package(&mut self, package: &PackageInstalled) {
        if self.installed.insert(package.distribution.clone()) {
            self.show.package(package);
        }
    }

    fn made(&mut self, artifact: Artifact) {
        self.made.retain(|earlier| earlier.path != artifact.path);
        if artifact.change() != ArtifactChange::Deleted {
            self.made.push(artifact);
        }
    }

    fn tool_call(&mut self, call: &ToolCallRequested) -> Result<()> {
        self.message_is_complete()?;
        self.note(&words::tool_call(call));
        self.show.screen.progress.say(format!("waiting for an answer of the tool {}", visible(&call.tool)));
        Ok(())
    }

    fn tool_called(&mut self, call: &ToolCalled) -> Result<()> {
        self.message_is_complete()?;
        self.show.screen.progress.say(format!("the model uses {}", visible(&call.tool)));
        Ok(())
    }

    fn retry(&mut self, retry: &Retry) {
        let why = self.news(&retry.reason);
        self.note(&words::retry(retry, why.as_deref()));
        self.waits();
    }

    /// A reason, unless it was the last that was told.
    fn news(&mut self, reason: &str) -> Option<String> {
        if reason.is_empty() || reason == self.reason {
            return None;
        }
        reason.clone_into(&mut self.reason);
        Some(self.reason.clone())
    }

    fn completed(&mut self, completed: TurnCompleted) -> Result<Exit> {
        if !self.show.json {
            self.answer(&completed.answer)?;
        }
        // The server has sorted out what is no file of the turn's.
        self.made = completed.artifacts;
        Ok(if self.limit { Exit::Limit } else { Exit::Ok })
    }

    /// The final text is the authority, whatever was shown on the way.
    fn answer(&mut self, answer: &str) -> Result<()> {
        let streamed = std::mem::take(&mut self.message);
        let answer = answer.trim_end();
        if !self.streams {
            self.show.screen.end(self.body)?;
            return if answer.is_empty() { Ok(()) } else { write_stdout(format!("{answer}\n").as_bytes()) };
        }
        match streamed.rest_of(answer) {
            Some(rest) => self.stream(Block::Text, &harmless(rest), Style::Plain)?,
            None => {
                self.note("the answer in its final words:");
                self.stream(Block::Text, &harmless(answer), Style::Plain)?;
            }
        }
        self.show.screen.end(self.body)
    }

    fn broken_off(&mut self, why: &str, exit: Exit) -> Result<Exit> {
        self.message_is_complete()?;
        self.note(why);
        Ok(exit)
    }

    /// Saves or names the files of a turn that is over. What it leaves undone when it is given up is no half file.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        for artifact in std::mem::take(&mut self.made).iter().filter(|artifact| is_users(artifact)) {
            match &self.files {
                Files::Save if self.show.json && !self.show.keep_all => {}
                Files::Save => {
                    self.show.screen.progress.say(format!("saving {}", visible(&artifact.path)));
                    if !self.show.save(artifact).await? {
                        self.note(&described(artifact));
                    }
                }
                Files::Name(_) if self.show.json => {}
                Files::Name(get) => {
                    let named = format!("{}: {get}{}", described(artifact), visible(&artifact.path));
                    self.note(&named);
                }
            }
        }
        self.show.screen.end(self.body)
    }

    /// Makes this ready for another turn; a person's next question is kept apart from what came before.
    pub(crate) fn next_turn(&mut self) -> Result<()> {
        self.show.screen.end(self.body)?;
        self.message = Message::default();
        self.code_calls.clear();
        self.installed.clear();
        self.made.clear();
        self.reason.clear();
        self.limit = false;
        if self.streams { self.show.screen.write(self.body, "\n", Style::Plain) } else { Ok(()) }
    }
}
