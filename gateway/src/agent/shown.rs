//! What a model is shown of an execution: its output in order and in a bounded size, what became of its files, and how it ended.
//!
//! Folds the events as they come, whatever their number and size. Pure: what is to be told of a turn besides is the loop's.
use kernelbox_proto::v1::{Artifact, CodeError, ExecutionFinished, ExecutionStatus, MimeBundle, execution_event::Kind};

use super::{
    picture::Album,
    text::{middle_cut, one_line},
};
use crate::model::Part;

mod bundle;
mod escapes;
mod html;
mod notes;
mod screen;
mod traceback;

use bundle::Seen;
use screen::{Screen, Stream};

/// Displays that the code may still change; more than these are shown as they come.
const MAX_CHANGING: usize = 8;
const MAX_FILES: usize = 20;
/// Packages, and marks of left-out output.
const MAX_NOTES: usize = 20;
/// The installer's words, a path.
const MAX_NOTE: usize = 500;
/// The part of the limit that errors and notes may take, in percent.
const NOTES_PERCENT: usize = 60;

/// What came of an execution.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    /// Text first, then the images that it numbers.
    pub(crate) parts: Vec<Part>,
    /// Anything but the code's running to its end.
    pub(crate) failed: bool,
    /// Where it failed: the error's name, or a word for how the code ended.
    pub(crate) error: Option<String>,
}

/// An execution as far as it has come.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    limit: usize,
    screen: Screen,
    album: Album,
    /// By display id, in the order of their first appearance; shown last, as they are then.
    changing: Vec<(String, Seen)>,
    /// The next output replaces all before it.
    is_cleared: bool,
    notes: Vec<String>,
    files: Vec<Artifact>,
    more_files: usize,
    error: Option<(String, String)>,
    died: Option<String>,
    finished: Option<ExecutionFinished>,
}

impl Shown {
    /// Text of at most `limit` bytes; images for models that see them.
    pub(crate) fn new(limit: usize, sees_images: bool) -> Self {
        Self {
            limit,
            screen: Screen::new(limit),
            album: Album::new(sees_images),
            changing: Vec::new(),
            is_cleared: false,
            notes: Vec::new(),
            files: Vec::new(),
            more_files: 0,
            error: None,
            died: None,
            finished: None,
        }
    }

    pub(crate) fn take(&mut self, kind: &Kind) {
        match kind {
            Kind::Stdout(text) => self.stream(Stream::Stdout, &text.text),
            Kind::Stderr(text) => self.stream(Stream::Stderr, &text.text),
            Kind::Display(bundle) => self.display(bundle),
            Kind::Result(result) => {
                if let Some(bundle) = &result.bundle {
                    self.display(bundle);
                }
            }
            Kind::DisplayUpdate(update) => {
                if let Some(bundle) = &update.bundle {
                    self.display(bundle);
                }
            }
            Kind::ClearOutput(clear) if clear.wait => self.is_cleared = true,
            Kind::ClearOutput(_) => self.clear(),
            Kind::Error(error) => self.fail(error),
            Kind::Artifact(artifact) => self.file(artifact),
            Kind::PackageInstalled(package) => self.note(notes::installed(package)),
            Kind::Truncated(truncated) => self.note(notes::left_out(truncated)),
            Kind::KernelDied(died) => self.died = Some(one_line(&died.message, MAX_NOTE)),
            Kind::Finished(finished) => self.finished = Some(finished.clone()),
            Kind::Queued(_) | Kind::Started(_) | Kind::InputRequested(_) | Kind::Stage(_) => {}
        }
    }

    /// What the model is shown. Without a `finished` event nobody knows how the code ended, and that is said.
    pub(crate) fn finish(mut self) -> Outcome {
        for (_, seen) in std::mem::take(&mut self.changing) {
            self.show(seen);
        }
        let (failed, error, ending) = self.ending();
        let mut after: Vec<String> = self.error.take().map(|(_, text)| text).into_iter().collect();
        after.append(&mut self.notes);
        after.extend(notes::files(&self.files, self.more_files));
        after.extend(ending);
        let after = middle_cut(&after.join("\n"), self.limit * NOTES_PERCENT / 100);
        let room = self.limit.saturating_sub(after.len() + 1);
        let mut text = self.screen.within(room).trim_end().to_owned();
        if !after.is_empty() {
            text.push_str(if text.is_empty() { "" } else { "\n" });
            text.push_str(&after);
        }
        if text.is_empty() {
            text.push_str(match failed {
                false => "The code ran and printed nothing. Use print() to see values.",
                true => "The code failed with an error that has no name and no message.",
            });
        }
        let parts = std::iter::once(Part::Text(text)).chain(self.album.into_parts()).collect();
        Outcome { parts, failed, error }
    }

    fn stream(&mut self, stream: Stream, text: &str) {
        self.uncover();
        self.screen.write(stream, text);
    }

    fn display(&mut self, bundle: &MimeBundle) {
        self.uncover();
        let seen = Seen::of(bundle, self.limit);
        let id = &bundle.display_id;
        if id.is_empty() {
            self.show(seen);
        } else if let Some((_, last)) = self.changing.iter_mut().find(|(known, _)| known == id) {
            *last = seen;
        } else if self.changing.len() < MAX_CHANGING {
            self.changing.push((id.clone(), seen));
        } else {
            self.show(seen);
        }
    }

    fn show(&mut self, seen: Seen) {
        if let Some(picture) = seen.picture {
            let words = picture.words();
            self.screen.block(&match self.album.add(picture) {
                Some(number) => format!("[image {number}, below: {words}; the user sees it too]"),
                None => format!("[image: {words}; the user sees it, so do not draw it again]"),
            });
        }
        if !seen.text.is_empty() {
            self.screen.block(&escapes::plain(&seen.text));
        }
    }

    /// New output comes.
    fn uncover(&mut self) {
        if std::mem::take(&mut self.is_cleared) {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.is_cleared = false;
        self.screen.clear();
        self.album.clear();
        self.changing.clear();
    }

    fn fail(&mut self, error: &CodeError) {
        let mut text = traceback::trimmed(error, self.limit / 2);
        if let Some(import) = notes::missing_import(error) {
            text.push_str(&format!("\n[put this line first: {import}]"));
        }
        self.error = Some((one_line(&error.name, MAX_NOTE), text));
    }

    fn file(&mut self, artifact: &Artifact) {
        // Kernelbox's own folder: what is in it is told where it belongs.
        if artifact.path.starts_with(".kernelbox/") {
            return;
        }
        if let Some(file) = self.files.iter_mut().find(|file| file.path == artifact.path) {
            *file = artifact.clone();
        } else if self.files.len() < MAX_FILES {
            self.files.push(artifact.clone());
        } else {
            self.more_files += 1;
        }
    }

    fn note(&mut self, note: String) {
        if self.notes.len() < MAX_NOTES && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Whether it failed, the word for that, and words.
    fn ending(&self) -> (bool, Option<String>, Option<String>) {
        let named = |word: &str| self.error.as_ref().map_or_else(|| word.to_owned(), |(name, _)| name.clone());
        let Some(finished) = &self.finished else {
            let words = "It is not known how the code ended, nor whether it ran to its end.";
            return (true, Some(named("lost")), Some(words.to_owned()));
        };
        let why = match finished.message.as_str() {
            "" => "no reason is known".to_owned(),
            why => one_line(why, MAX_NOTE),
        };
        let variables = match &self.died {
            Some(_) => "All variables and imports are gone; files are kept.",
            None => "Variables are kept.",
        };
        let (word, words) = match finished.status() {
            ExecutionStatus::Ok => return (false, None, self.died.as_ref().map(|died| format!("{died}. {variables}"))),
            ExecutionStatus::Error if self.error.is_some() => return (true, Some(named("error")), None),
            ExecutionStatus::Error => ("error", format!("The code failed. {why}")),
            ExecutionStatus::TimedOut => ("timeout", format!("Stopped: {why}. {variables}")),
            ExecutionStatus::Interrupted => ("interrupted", format!("Interrupted ({why}). {variables}")),
            ExecutionStatus::KernelDied => ("kernel died", format!("Stopped: {why}. {variables}")),
            ExecutionStatus::Limit => ("limit", format!("Stopped at a limit: {why}. {variables}")),
            ExecutionStatus::Failed
            | ExecutionStatus::Unspecified
            | ExecutionStatus::Queued
            | ExecutionStatus::Running => ("failed", format!("The code could not be run: {why}")),
        };
        // Where the kernel was killed for it, that matters more than the error that it still raised.
        let word = if self.died.is_some() { word.to_owned() } else { named(word) };
        (true, Some(word), Some(words))
    }
}

#[cfg(test)]
mod tests;
