//! What the model is told of the session, fitted to its context: this turn and recent ones whole, results of earlier ones shortened,
//! the oldest turns in a summary that the model makes once.
mod fit;

use kernelbox_proto::{
    Error, SessionId,
    v1::{ContextSummarised, ErrorCode, turn_event::Kind},
};

use super::{Halt, text};
use crate::{
    model::{ChatModel, Chunk, Facts, Message, ModelError, Part, Prompt, ToolSpec},
    store::{Store, TurnMessages},
    turns::Recorder,
};

/// An answer may take a quarter of the context, at most this many tokens.
const ANSWER_TOKENS: u32 = 8192;
/// After a summary the turns that are kept whole take at most this part of what there is room for, so that the next is far away.
const KEPT_PERCENT: usize = 40;
/// A summary, in bytes.
const SUMMARY_BYTES: usize = 4 << 10;

const SUMMARISE: &str = "Summarise this conversation between a user and an assistant who runs Python code, for the assistant to go on from. \
Keep: what the user wants, decisions and results with their numbers, names of files, variables and columns, what is still open. Write at \
most 300 words, plain text, no introduction.";

pub(super) struct Memory {
    store: Store,
    session: SessionId,
    /// Of this turn, among the session's.
    number: i64,
    system: String,
    tools: Vec<ToolSpec>,
    facts: Facts,
    /// Stands for the turns up to a number.
    summary: Option<(i64, String)>,
    earlier: Vec<TurnMessages>,
    now: Vec<Message>,
    /// Of the context, in percent: lower once the provider said that a prompt was too long.
    usable: usize,
}

impl Memory {
    pub(super) fn new(store: Store, session: SessionId, number: i64) -> Self {
        Self {
            store,
            session,
            number,
            system: String::new(),
            tools: Vec::new(),
            facts: Facts { name: String::new(), context_tokens: 0, sees_images: false },
            summary: None,
            earlier: Vec::new(),
            now: Vec::new(),
            usable: 95,
        }
    }

    /// Reads what went before this turn.
    pub(super) async fn open(&mut self, system: String, tools: &[ToolSpec], facts: Facts) -> Result<(), Error> {
        self.summary = self.store.summary(&self.session).await?;
        let through = self.summary.as_ref().map_or(0, |(through, _)| *through);
        self.earlier = self.store.messages(&self.session, through).await?;
        self.earlier.retain(|turn| turn.number < self.number);
        for turn in &mut self.earlier {
            fit::mend(turn);
        }
        (self.system, self.tools, self.facts) = (system, tools.to_vec(), facts);
        Ok(())
    }

    pub(super) fn sees_images(&self) -> bool {
        self.facts.sees_images
    }

    /// Whether the model is not told everything that was ever said.
    pub(super) fn has_summary(&self) -> bool {
        self.summary.is_some()
    }

    pub(super) fn is_first_turn(&self) -> bool {
        self.earlier.is_empty() && self.summary.is_none()
    }

    pub(super) fn push(&mut self, message: Message) {
        self.now.push(message);
    }

    /// What the model said last in this turn.
    pub(super) fn last_words(&self) -> String {
        let said = self.now.iter().rev().find_map(|message| match message {
            Message::Assistant(message) if !message.text.trim().is_empty() => Some(message.text.clone()),
            _ => None,
        });
        said.unwrap_or_default()
    }

    /// The provider found the prompt too long, so its tokens are more than we think.
    pub(super) fn shrink(&mut self) {
        self.usable = self.usable * 7 / 10;
    }

    /// The next prompt. May ask the model for a summary, which is told to `recorder`.
    pub(super) async fn prompt(&mut self, model: &dyn ChatModel, recorder: &Recorder) -> Result<Prompt, Halt> {
        let answer_tokens = (self.facts.context_tokens / 4).min(ANSWER_TOKENS);
        let room = (self.facts.context_tokens - answer_tokens) as usize * self.usable / 100;
        let fixed = fit::tokens_of_text(&self.system) + self.tools.iter().map(fit::tokens_of_tool).sum::<usize>();
        let room = room.saturating_sub(fixed);
        if self.tokens() > room {
            self.earlier.iter_mut().for_each(|turn| fit::shorten(&mut turn.messages));
        }
        if self.tokens() > room {
            self.summarise(room, model, recorder).await?;
        }
        if self.tokens() > room {
            fit::shorten_all_but_last(&mut self.now);
        }
        if self.tokens() > room {
            fit::shorten(&mut self.now);
        }
        if self.tokens() > room {
            let context = self.facts.context_tokens;
            return Err(Error::new(
                ErrorCode::TooLarge,
                format!("what the turn is about does not fit the model's context of {context} tokens; ask in smaller parts, or put data into a file"),
            )
            .into());
        }
        Ok(Prompt {
            system: self.system.clone(),
            messages: self.messages(),
            tools: self.tools.clone(),
            words_only: false,
            max_output_tokens: Some(answer_tokens),
        })
    }

    fn messages(&self) -> Vec<Message> {
        let summary = self.summary.iter().map(|(_, text)| fit::summary_message(text));
        let earlier = self.earlier.iter().flat_map(|turn| turn.messages.iter().cloned());
        fit::joined(summary.chain(earlier).chain(self.now.iter().cloned()))
    }

    fn tokens(&self) -> usize {
        let summary = self.summary.as_ref().map_or(0, |(_, text)| fit::tokens_of_text(text));
        let earlier: usize = self.earlier.iter().map(|turn| fit::tokens(&turn.messages)).sum();
        summary + earlier + fit::tokens(&self.now)
    }

    /// Puts the oldest turns into a summary. If the model does not make one, they are left out.
    async fn summarise(&mut self, room: usize, model: &dyn ChatModel, recorder: &Recorder) -> Result<(), Halt> {
        let kept = (room * KEPT_PERCENT / 100).saturating_sub(fit::tokens(&self.now));
        let count = fit::oldest_beyond(&self.earlier, kept);
        let Some(last) = count.checked_sub(1).and_then(|at| self.earlier.get(at)) else { return Ok(()) };
        let through = last.number;
        let told: Vec<_> = self.summary.iter().map(|(_, text)| format!("Earlier: {text}")).collect();
        let told = fit::transcript(&told, &self.earlier[..count]);
        // A third of the room: bytes are about three to a token.
        let told = text::middle_cut(&told, room.max(1024));
        let summary = match ask(model, told).await {
            Ok(text) if !text.trim().is_empty() => text::end_cut(text.trim(), SUMMARY_BYTES),
            Ok(_) => left_out(count, &self.summary),
            Err(error) => {
                tracing::warn!(kind = ?error.kind, "no summary");
                tracing::debug!("the model's server says: {error}");
                left_out(count, &self.summary)
            }
        };
        self.store.put_summary(&self.session, through, &summary).await.map_err(Error::from)?;
        self.earlier.drain(..count);
        self.summary = Some((through, summary));
        let turns = i32::try_from(through).unwrap_or(i32::MAX);
        recorder.tell(Kind::ContextSummarised(ContextSummarised { turns })).await?;
        Ok(())
    }
}

async fn ask(model: &dyn ChatModel, told: String) -> Result<String, ModelError> {
    use futures::StreamExt as _;
    let prompt = Prompt {
        system: SUMMARISE.to_owned(),
        messages: vec![Message::User(vec![Part::Text(told)])],
        max_output_tokens: Some(1024),
        ..Prompt::default()
    };
    let mut chunks = model.ask(&prompt).await?;
    while let Some(chunk) = chunks.next().await {
        if let Chunk::Answer(answer) = chunk? {
            return Ok(answer.message.text);
        }
    }
    Ok(String::new())
}

fn left_out(count: usize, before: &Option<(i64, String)>) -> String {
    let before = before.as_ref().map(|(_, text)| format!("{text}\n")).unwrap_or_default();
    format!("{before}({count} earlier turns are not shown.)")
}
