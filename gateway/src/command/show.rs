//! Shows what code does: text where the caller wants it, images in the terminal or in a file, everything else as notes on stderr.
//!
//! It knows no kind of command: what becomes of artifacts, and of the end, is the caller's.
mod words;

use std::{io::IsTerminal as _, path::Path};

use kernelbox_proto::v1::{
    Artifact, CodeError, MimeBundle, MimePart, PackageInstalled, SandboxStage, Stage, execution_event::Kind,
    mime_part::Content,
};

pub(crate) use self::words::{described, ended_early, is_users};
use self::words::{raised, truncation, waiting};
use super::{
    failure::Result,
    keep::{Keep, extension},
    screen::{Block, Screen, Style, To},
    table::visible,
    terminal::{self, Graphics},
};

/// Image types, the best first.
const IMAGES: [&str; 6] = ["image/png", "image/jpeg", "image/gif", "image/webp", "image/svg+xml", "application/pdf"];
/// Texts that a terminal can show, the best first.
const TEXTS: [&str; 2] = ["text/markdown", "text/plain"];

pub(crate) struct Show {
    /// Stdout is for JSON alone.
    pub json: bool,
    /// Everything is saved, not only what cannot be shown.
    pub keep_all: bool,
    pub keep: Keep,
    pub screen: Screen,
    /// Where goes what code writes to its stdout, and its style.
    output: (To, Style),
    /// Asked of the terminal at the first image.
    graphics: Option<Option<Graphics>>,
}

impl Show {
    /// `output_dir`: where everything is saved; without it, what cannot be shown is saved in a folder of ours.
    pub(crate) fn new(keep: Keep, keep_all: bool, json: bool, screen: Screen, output: (To, Style)) -> Self {
        Self { json, keep_all, keep, screen, output, graphics: None }
    }

    /// Shows what needs no decision; artifacts and the end do.
    pub(crate) async fn event(&mut self, kind: Kind) -> Result<()> {
        match kind {
            Kind::Stage(stage) => self.stage(&stage),
            Kind::Queued(queued) => self.screen.progress.say(match queued.position {
                0 | 1 => "queued: next".to_owned(),
                position => format!("queued: {position} run before it"),
            }),
            Kind::Started(_) => self.screen.progress.say("running"),
            Kind::Stdout(text) => self.text(&text.text, false)?,
            Kind::Stderr(text) => self.text(&text.text, true)?,
            Kind::Display(bundle) => self.bundle(bundle, false).await?,
            Kind::Result(result) => self.bundle(result.bundle.unwrap_or_default(), true).await?,
            Kind::DisplayUpdate(update) => self.bundle(update.bundle.unwrap_or_default(), false).await?,
            Kind::Error(error) => self.traceback(&error)?,
            Kind::InputRequested(question) => self.text(&question.prompt, question.password)?,
            Kind::PackageInstalled(package) => self.package(&package),
            Kind::Truncated(truncated) => self.screen.note(&truncation(&truncated)),
            // The last event says the same of the kernel that ran this code. Output that was shown stays shown.
            Kind::KernelDied(_) | Kind::ClearOutput(_) | Kind::Artifact(_) | Kind::Finished(_) => {}
        }
        Ok(())
    }

    pub(crate) fn stage(&mut self, stage: &SandboxStage) {
        match stage.stage() {
            // A new sandbox of an old session says here what is gone.
            Stage::Ready if !stage.message.is_empty() => self.screen.note(&stage.message),
            Stage::Ready => {}
            _ => self.screen.progress.say(waiting(stage)),
        }
    }

    /// The code's own text, at once.
    fn text(&mut self, text: &str, to_stderr: bool) -> Result<()> {
        if self.json {
            return Ok(());
        }
        let (to, style) = self.output;
        let to = if to_stderr { To::Stderr } else { to };
        self.screen.begin(Block::Output, to)?;
        self.screen.write(to, text, style)?;
        // Not below a line that the code has yet to end.
        if text.ends_with('\n') {
            self.screen.progress.say("running");
        }
        Ok(())
    }

    fn traceback(&mut self, error: &CodeError) -> Result<()> {
        let mut text = raised(error);
        if !self.screen.colours(To::Stderr) {
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
                self.screen.note(&format!("a display of {} is not shown; --json prints it", types.join(", ")));
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
        // Only a person sees images in stdout.
        if !self.json && std::io::stdout().is_terminal() {
            self.screen.progress.clear();
            let graphics = *self.graphics.get_or_insert_with(terminal::graphics);
            if let Some(bytes) = graphics.and_then(|graphics| terminal::image(graphics, &part.media_type, data)) {
                self.screen.begin(Block::Output, To::Stdout)?;
                self.screen.escape(&bytes)?;
                shown = true;
            }
        }
        if self.keep_all || !shown {
            let path = self.keep.image(display, extension(&part.media_type), data)?;
            self.saved(&path);
        }
        Ok(())
    }

    pub(crate) fn package(&mut self, package: &PackageInstalled) {
        let name = visible(&package.distribution);
        if package.failure.is_empty() {
            self.screen.note(&format!("installed {name} {}", visible(&package.version)));
            self.screen.progress.say("running");
        } else {
            self.screen.note(&format!("could not install {name}: {}", package.failure));
        }
    }

    /// Saves a file that code made, and says where. False where it was not saved: its name allows it not, or it is gone, which is told.
    pub(crate) async fn save(&mut self, artifact: &Artifact) -> Result<bool> {
        match self.keep.file(artifact).await {
            Ok(Some(path)) => {
                self.saved(&path);
                Ok(true)
            }
            Ok(None) => Ok(false),
            // The file may have changed or gone since; the rest is still worth showing.
            Err(failure) => {
                self.screen.note(&format!("{} was not saved: {failure}", visible(&artifact.path)));
                Ok(false)
            }
        }
    }

    pub(crate) fn saved(&mut self, path: &Path) {
        self.screen.note(&format!("saved {}", visible(&path.display().to_string())));
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
