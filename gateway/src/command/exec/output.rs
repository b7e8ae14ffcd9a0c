//! Shows events: the code's own output as it is, everything else on stderr.
use std::{io::Write as _, path::Path};

use kernelbox_proto::v1::{
    Artifact, ArtifactChange, CodeError, ErrorCode, ExecutionEvent, ExecutionFinished, ExecutionStatus, MimeBundle,
    MimePart, OutputTruncated, PackageInstalled, SandboxStage, Stage, execution_event::Kind, mime_part::Content,
};

use super::{
    ExecArgs,
    keep::{Keep, extension},
};
use crate::command::{
    connect::Client,
    failure::{Exit, Result, exit_of},
    progress::Progress,
    say,
    table::{self, print_json, visible, write_stdout},
    terminal::{self, Graphics},
};

/// Folders of Kernelbox's own in a workspace; their files are named where they matter.
const OWN_FOLDER: &str = ".kernelbox/";
/// Image types, the best first.
const IMAGES: [&str; 6] = ["image/png", "image/jpeg", "image/gif", "image/webp", "image/svg+xml", "application/pdf"];
/// Texts that a terminal can show, the best first.
const TEXTS: [&str; 2] = ["text/markdown", "text/plain"];

/// Where the output of an execution goes.
pub(super) struct Output {
    json: bool,
    /// Everything is saved, not only what cannot be shown.
    keep_all: bool,
    throwaway: bool,
    keep: Keep,
    colours: bool,
    shows_images: bool,
    /// Asked of the terminal at the first image.
    graphics: Option<Option<Graphics>>,
    progress: Progress,
    /// Files that were made and not saved.
    left: Vec<String>,
}

impl Output {
    pub(super) fn new(args: &ExecArgs, client: &Client, progress: Progress) -> Self {
        Self {
            json: args.json,
            keep_all: args.output_dir.is_some(),
            throwaway: args.session.is_none(),
            keep: Keep::new(args.output_dir.as_deref(), client),
            colours: terminal::colours(),
            shows_images: args.shows_images(),
            graphics: None,
            progress,
            left: Vec::new(),
        }
    }

    /// Shows one event; the last one is answered with the exit code.
    pub(super) async fn event(&mut self, event: ExecutionEvent) -> Result<Option<Exit>> {
        self.keep.of_execution(&event.execution);
        if self.json {
            self.progress.clear();
            print_json("ExecutionEvent", &event)?;
        }
        match event.kind {
            Some(Kind::Stage(stage)) => self.stage(&stage),
            Some(Kind::Queued(queued)) => self.progress.say(match queued.position {
                0 | 1 => "queued: next".to_owned(),
                position => format!("queued: {position} run before it"),
            }),
            Some(Kind::Started(_)) => self.progress.say("running"),
            Some(Kind::Stdout(text)) => self.text(&text.text, false)?,
            Some(Kind::Stderr(text)) => self.text(&text.text, true)?,
            Some(Kind::Display(bundle)) => self.bundle(bundle, false).await?,
            Some(Kind::Result(result)) => self.bundle(result.bundle.unwrap_or_default(), true).await?,
            Some(Kind::DisplayUpdate(update)) => self.bundle(update.bundle.unwrap_or_default(), false).await?,
            Some(Kind::Error(error)) => self.traceback(&error)?,
            Some(Kind::InputRequested(question)) if question.password => self.text(&question.prompt, true)?,
            Some(Kind::InputRequested(question)) => self.text(&question.prompt, false)?,
            Some(Kind::Artifact(artifact)) => self.artifact(artifact).await?,
            Some(Kind::PackageInstalled(package)) => self.package(&package),
            Some(Kind::Truncated(truncated)) => self.note(&truncation(&truncated)),
            // The last event says the same of the kernel that ran this code.
            Some(Kind::KernelDied(_)) => {}
            Some(Kind::Finished(finished)) => return Ok(Some(self.finished(&finished))),
            // Output that was shown stays shown; kinds of later versions are not known.
            Some(Kind::ClearOutput(_)) | None => {}
        }
        Ok(None)
    }

    fn stage(&self, stage: &SandboxStage) {
        let message = &stage.message;
        if stage.stage() == Stage::Ready {
            // A new sandbox of an old session says here what is gone.
            if !message.is_empty() {
                self.note(message);
            }
            return;
        }
        let what = match stage.stage() {
            Stage::Queued => format!("waiting for capacity, place {}", stage.position),
            Stage::Scheduling => "waiting for a node".to_owned(),
            Stage::Pulling => "pulling the image".to_owned(),
            Stage::Restoring => "restoring the session".to_owned(),
            _ => "starting the kernel".to_owned(),
        };
        self.progress.say(if message.is_empty() { what } else { format!("{what}: {message}") });
    }

    /// The code's own text, to stdout or stderr, at once.
    fn text(&self, text: &str, to_stderr: bool) -> Result<()> {
        if self.json {
            return Ok(());
        }
        self.progress.clear();
        if to_stderr {
            let mut stderr = std::io::stderr().lock();
            // Nobody may read stderr: that is no error.
            let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
        } else {
            write_stdout(text.as_bytes())?;
        }
        // Not below a line that the code has yet to end.
        if text.ends_with('\n') {
            self.progress.say("running");
        }
        Ok(())
    }

    fn traceback(&self, error: &CodeError) -> Result<()> {
        let mut text = match (error.traceback.as_slice(), error.name.as_str()) {
            // The bash kernel tells an exit code, and has no name for it.
            ([], "") if error.value.parse::<i32>().is_ok() => format!("exit code {}", error.value),
            ([], "") => error.value.clone(),
            ([], name) => format!("{name}: {}", error.value),
            (lines, _) => lines.join("\n"),
        };
        if !self.colours {
            text = terminal::plain(&text);
        }
        self.text(&format!("{}\n", text.trim_end_matches('\n')), true)
    }

    /// A display or a result: its image if it has one, and its text where that says something.
    async fn bundle(&mut self, mut bundle: MimeBundle, result: bool) -> Result<()> {
        let image = pick(&mut bundle.parts, &IMAGES);
        if let Some(part) = &image
            && (!self.json || self.keep_all)
        {
            self.image(part, &bundle.display_id).await?;
        }
        // The text of a plot is only its size; a result's is what was asked for.
        if self.json || (image.is_some() && !result) {
            return Ok(());
        }
        match pick(&mut bundle.parts, &TEXTS) {
            Some(MimePart { content: Some(Content::Text(text)), .. }) => self.text(&ended(&text), false),
            Some(MimePart { content: Some(Content::Artifact(artifact)), .. }) => {
                let text = self.keep.fetch(&artifact).await?;
                self.text(&ended(&String::from_utf8_lossy(&text)), false)
            }
            _ if image.is_some() => Ok(()),
            _ => {
                let types: Vec<_> = bundle.parts.iter().map(|part| visible(&part.media_type)).collect();
                self.note(&format!("a display of {} is not shown; --json prints it", types.join(", ")));
                Ok(())
            }
        }
    }

    async fn image(&mut self, part: &MimePart, display: &str) -> Result<()> {
        let fetched;
        let data = match &part.content {
            Some(Content::Data(data)) => &data[..],
            Some(Content::Text(text) | Content::Json(text)) => text.as_bytes(),
            Some(Content::Artifact(artifact)) => {
                fetched = self.keep.fetch(artifact).await?;
                &fetched
            }
            None => return Ok(()),
        };
        let mut shown = false;
        if self.shows_images {
            self.progress.clear();
            let graphics = *self.graphics.get_or_insert_with(terminal::graphics);
            if let Some(bytes) = graphics.and_then(|graphics| terminal::image(graphics, &part.media_type, data)) {
                write_stdout(&bytes)?;
                shown = true;
            }
        }
        if self.keep_all || !shown {
            let path = self.keep.image(display, extension(&part.media_type), data)?;
            self.saved(&path);
        }
        Ok(())
    }

    async fn artifact(&mut self, artifact: Artifact) -> Result<()> {
        let change = match artifact.change() {
            ArtifactChange::Deleted => "deleted",
            ArtifactChange::Modified => "changed",
            _ => "made",
        };
        if artifact.path.starts_with(OWN_FOLDER) {
            return Ok(());
        }
        if self.keep_all && artifact.change() != ArtifactChange::Deleted {
            match self.keep.file(&artifact).await {
                Ok(Some(path)) => {
                    self.saved(&path);
                    return Ok(());
                }
                Ok(None) => {}
                // The file may have changed or gone since; the output is still worth showing.
                Err(failure) => self.note(&format!("{} was not saved: {failure}", visible(&artifact.path))),
            }
        }
        if !self.json {
            self.note(&format!("{change} {} ({})", visible(&artifact.path), table::bytes(artifact.size)));
            if artifact.change() != ArtifactChange::Deleted {
                self.left.push(artifact.path);
            }
        }
        Ok(())
    }

    fn package(&self, package: &PackageInstalled) {
        let name = visible(&package.distribution);
        if package.failure.is_empty() {
            self.note(&format!("installed {name} {}", visible(&package.version)));
            self.progress.say("running");
        } else {
            self.note(&format!("could not install {name}: {}", package.failure));
        }
    }

    fn finished(&self, finished: &ExecutionFinished) -> Exit {
        self.progress.clear();
        let (exit, words) = match finished.status() {
            ExecutionStatus::Ok => (Exit::Ok, ""),
            ExecutionStatus::Error => (Exit::Failed, ""),
            ExecutionStatus::TimedOut => (Exit::Failed, "timed out"),
            ExecutionStatus::Interrupted => (Exit::Failed, "interrupted"),
            ExecutionStatus::KernelDied => (Exit::Failed, "the kernel died"),
            ExecutionStatus::Limit => (Exit::Limit, "a limit was reached"),
            _ => (exit_of(finished.code()), "the code could not be run"),
        };
        match (finished.message.as_str(), finished.code()) {
            ("", _) if words.is_empty() => {}
            ("", ErrorCode::Unspecified) => say(words),
            ("", code) => say(&format!("{words} ({})", code.reason())),
            (message, _) => say(message),
        }
        if self.throwaway && !self.left.is_empty() {
            say("files end with this command's session: --session keeps it, --output-dir saves them");
        }
        exit
    }

    fn saved(&self, path: &Path) {
        self.note(&format!("saved {}", visible(&path.display().to_string())));
    }

    /// A line of the command's own.
    fn note(&self, text: &str) {
        self.progress.clear();
        say(text);
    }
}

fn truncation(truncated: &OutputTruncated) -> String {
    let limit = table::bytes(truncated.limit_bytes);
    match truncated.path.as_str() {
        "" => format!("output over {limit} was left out"),
        path => format!("output over {limit} was left out; the whole is in the session's file {}", visible(path)),
    }
}

/// Takes the best part of these types out of a bundle.
fn pick(parts: &mut Vec<MimePart>, types: &[&str]) -> Option<MimePart> {
    let best = types.iter().find_map(|t| parts.iter().position(|part| part.media_type == *t))?;
    Some(parts.swap_remove(best))
}

fn ended(text: &str) -> String {
    if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}
