//! Limits on what is sent of an execution's output: what is left out leaves a visible marker, and the whole text is kept in a file.
use kernelbox_proto::v1::{
    ClearOutput, CodeError, DisplayUpdate, ExecutionResult, MimeBundle, MimePart, OutputLimit, OutputTruncated,
    StreamText, execution_event::Kind, mime_part,
};

use crate::convert::{Bundle, Content, Output};

mod files;

pub use files::OutputFiles;
use files::Whole;

/// Output sent of an execution, where the caller says nothing.
pub const DEFAULT_LIMIT: u64 = 10 << 20;
/// The most bytes of an event's content; with its envelope it stays under 1 MiB.
const EVENT_LIMIT: usize = (1 << 20) - (64 << 10);
/// The largest text of one stream event.
const TEXT_LIMIT: usize = 512 << 10;
/// Errors and small marks pass beyond the limit, but not without end.
const SLACK: u64 = 4 << 20;
/// From here on the whole text is kept, in case it meets the limit.
const KEEP_FROM: u64 = 1 << 20;

/// Counts the output of one execution.
#[derive(Debug)]
pub struct Meter {
    limit: u64,
    sent: u64,
    told: bool,
    files: OutputFiles,
    whole: Whole,
    displays: u32,
}

impl Meter {
    pub fn new(limit: u64, files: OutputFiles) -> Self {
        Self { limit, sent: 0, told: false, files, whole: Whole::default(), displays: 0 }
    }

    /// Whether nothing more of a stream's text would be sent or kept.
    pub fn is_full(&self) -> bool {
        self.told && self.whole.is_full()
    }

    /// The events that an output becomes. `so_far` gives the text that was sent before.
    pub fn take(&mut self, output: Output, so_far: impl FnOnce() -> String) -> Vec<Kind> {
        let mut kinds = Vec::new();
        match output {
            Output::Stdout(text) => self.text(text, so_far, &mut kinds, |text| Kind::Stdout(StreamText { text })),
            Output::Stderr(text) => self.text(text, so_far, &mut kinds, |text| Kind::Stderr(StreamText { text })),
            Output::Display(bundle) => {
                if let Some(bundle) = self.bundle(bundle, so_far, &mut kinds) {
                    kinds.push(Kind::Display(bundle));
                }
            }
            Output::Result { bundle, execution_count } => {
                if let Some(bundle) = self.bundle(bundle, so_far, &mut kinds) {
                    kinds.push(Kind::Result(ExecutionResult { bundle: Some(bundle), execution_count }));
                }
            }
            Output::Update(bundle) => {
                if let Some(bundle) = self.bundle(bundle, so_far, &mut kinds) {
                    kinds.push(Kind::DisplayUpdate(DisplayUpdate { bundle: Some(bundle), origin: String::new() }));
                }
            }
            Output::Clear { wait } => {
                if self.slack(16) {
                    kinds.push(Kind::ClearOutput(ClearOutput { wait }));
                }
            }
            Output::Error(error) => {
                let (error, cut) = fit(error);
                if self.slack(size_of_error(&error)) {
                    kinds.push(Kind::Error(error));
                    kinds.extend(cut.then(|| truncated(OutputLimit::Message, EVENT_LIMIT as u64, String::new())));
                }
            }
        }
        kinds
    }

    /// Removes the file of the whole text if everything was sent.
    pub fn finish(&mut self) {
        if !self.told {
            self.whole.discard(&self.files);
        }
    }

    fn text(
        &mut self,
        text: String,
        so_far: impl FnOnce() -> String,
        kinds: &mut Vec<Kind>,
        kind: impl Fn(String) -> Kind,
    ) {
        let left = usize::try_from(self.limit.saturating_sub(self.sent)).unwrap_or(usize::MAX);
        self.keep(&text, so_far, kinds);
        let sent = if text.len() <= left { text.len() } else { text.floor_char_boundary(left) };
        self.sent += sent as u64;
        if sent == text.len() && sent <= TEXT_LIMIT {
            kinds.insert(0, kind(text));
            return;
        }
        let mut pieces = Vec::new();
        let mut rest = &text[..sent];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(TEXT_LIMIT));
            pieces.push(kind(piece.to_owned()));
            rest = after;
        }
        if sent < text.len() && !self.told {
            self.told = true;
            pieces.push(truncated(OutputLimit::Execution, self.limit, self.whole.path()));
        }
        pieces.append(kinds);
        *kinds = pieces;
    }

    fn bundle(&mut self, bundle: Bundle, so_far: impl FnOnce() -> String, kinds: &mut Vec<Kind>) -> Option<MimeBundle> {
        let Bundle { parts, metadata, display_id } = bundle;
        let mut sizes: Vec<_> = parts.iter().map(|(_, content)| content.size()).collect();
        let mut apart = vec![false; parts.len()];
        while sizes.iter().sum::<usize>() > EVENT_LIMIT {
            let Some(largest) = (0..sizes.len()).max_by_key(|&n| sizes[n]) else { break };
            apart[largest] = true;
            sizes[largest] = 0;
        }
        let size = sizes.iter().sum::<usize>() as u64 + 64;
        if self.sent + size > self.limit {
            let plain = parts.iter().find(|(media_type, _)| media_type == "text/plain");
            let plain =
                plain.map(|(_, content)| String::from_utf8_lossy(content.as_bytes()) + "\n").unwrap_or_default();
            self.keep(&plain, so_far, kinds);
            if !self.told {
                self.told = true;
                // Text would still fit, but nothing may be sent after the marker.
                self.sent = self.limit;
                kinds.insert(0, truncated(OutputLimit::Execution, self.limit, self.whole.path()));
            }
            return None;
        }
        self.sent += size;
        let mut bundle = MimeBundle { parts: Vec::with_capacity(parts.len()), metadata, display_id };
        if bundle.metadata.as_ref().is_some_and(|metadata| prost::Message::encoded_len(metadata) > 32 << 10) {
            bundle.metadata = None;
            kinds.push(truncated(OutputLimit::Message, 32 << 10, String::new()));
        }
        for ((media_type, content), apart) in parts.into_iter().zip(apart) {
            let content = if apart {
                self.displays += 1;
                match self.files.part(self.displays, &media_type, content.as_bytes()) {
                    Ok(artifact) => mime_part::Content::Artifact(artifact),
                    Err(error) => {
                        tracing::warn!(%error, media_type, "cannot keep a part of a display");
                        kinds.push(truncated(OutputLimit::Message, EVENT_LIMIT as u64, String::new()));
                        continue;
                    }
                }
            } else {
                match content {
                    Content::Text(text) => mime_part::Content::Text(text),
                    Content::Json(json) => mime_part::Content::Json(json),
                    Content::Data(data) => mime_part::Content::Data(data),
                }
            };
            bundle.parts.push(MimePart { media_type, content: Some(content) });
        }
        Some(bundle)
    }

    /// Adds text to the file of the whole text, which is begun when output grows large.
    fn keep(&mut self, text: &str, so_far: impl FnOnce() -> String, kinds: &mut Vec<Kind>) {
        if self.sent + text.len() as u64 <= self.limit.min(KEEP_FROM) {
            return;
        }
        if let Some(limit) = self.whole.add(&self.files, text, so_far) {
            kinds.push(truncated(OutputLimit::Log, limit, self.whole.path()));
        }
    }

    fn slack(&mut self, size: usize) -> bool {
        self.sent += size as u64;
        self.sent <= self.limit + SLACK
    }
}

fn truncated(limit: OutputLimit, limit_bytes: u64, path: String) -> Kind {
    let limit_bytes = i64::try_from(limit_bytes).unwrap_or(i64::MAX);
    Kind::Truncated(OutputTruncated { limit: limit.into(), limit_bytes, path })
}

fn size_of_error(error: &CodeError) -> usize {
    error.name.len() + error.value.len() + error.traceback.iter().map(|line| line.len() + 4).sum::<usize>()
}

/// Cuts an error to the size of an event; the end of a traceback says the most.
fn fit(mut error: CodeError) -> (CodeError, bool) {
    if size_of_error(&error) <= EVENT_LIMIT {
        return (error, false);
    }
    for text in [&mut error.name, &mut error.value] {
        text.truncate(text.floor_char_boundary(64 << 10));
    }
    let mut room = EVENT_LIMIT - error.name.len() - error.value.len();
    let lines = std::mem::take(&mut error.traceback);
    for line in lines.into_iter().rev() {
        if line.len() + 4 > room {
            break;
        }
        room -= line.len() + 4;
        error.traceback.insert(0, line);
    }
    (error, true)
}

#[cfg(test)]
mod tests;
