//! One answer of the model: asked until it comes whole, each piece told as it comes.
//!
//! A try that breaks off is void, and clients are told to drop what they had of it.
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::StreamExt as _;
use kernelbox_proto::{
    Error,
    v1::{ErrorCode, MessageRestarted, Retry, TextDelta, turn_event::Kind},
};
use tokio::time::{Instant, sleep_until};

use super::{Agent, Halt, budget, fenced, tools::Tools};
use crate::{
    model::{Answer, AssistantMessage, Chunk, Failure, Message, ModelError, Part, Prompt, Stop, Usage},
    turns::Recorder,
};

/// What a model is told that goes on running the same code: small ones copy their last message unless they are asked anew.
const ANSWER_NOW: &str = "Now answer my question in plain words. Do not run code any more.";
/// Tries of one model call.
const TRIES: usize = 5;
/// The wait before the second try; it doubles, with jitter.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Bytes of an answer's text, and of its reasoning: what is beyond is not read.
const MOST: usize = 256 << 10;
/// A provider that wants to be left alone for longer is given up.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(120);

impl Agent {
    /// Asks until an answer is whole. Recorder events: pieces, restarts, retries.
    pub(super) async fn ask_model(&mut self) -> Result<Answer, Halt> {
        let mut waits = ExponentialBuilder::default()
            .with_min_delay(FIRST_WAIT)
            .with_max_delay(LONGEST_WAIT)
            .with_max_times(TRIES - 1)
            .with_jitter()
            .build();
        let mut has_shrunk = false;
        let mut attempt = 1;
        loop {
            let mut prompt = self.memory.prompt(self.model.as_ref(), &self.running.recorder).await?;
            if self.must_answer {
                prompt.words_only = true;
                prompt.messages.push(Message::User(vec![Part::Text(ANSWER_NOW.to_owned())]));
            }
            let message = uuid::Uuid::now_v7().simple().to_string();
            let mut telling = Telling::new(&self.running.recorder, message);
            let error = match self.ask_once(&prompt, &mut telling).await? {
                Ok(answer) => {
                    let answer = read_calls(answer, &self.tools, &telling).await?;
                    let words_only = std::mem::take(&mut self.must_answer);
                    if words_only && !answer.message.calls.is_empty() {
                        let message = "the model went on to call tools where words were asked for";
                        return Err(Halt::Limit(budget::limit("repetition", message.to_owned())));
                    }
                    return Ok(answer);
                }
                Err(error) => error,
            };
            tracing::info!(kind = ?error.kind, attempt, "a model call failed");
            tracing::debug!("the model's server says: {error}");
            telling.void(&error.message).await?;
            if error.kind == Failure::TooLong && !has_shrunk {
                has_shrunk = true;
                self.memory.shrink();
                self.router.metrics().model.asked_again(error.kind);
                continue;
            }
            let wait = match (error.kind.is_passing(), waits.next()) {
                (true, Some(wait)) => wait.max(error.retry_after.unwrap_or_default()),
                _ => return Err(given_up(&error, attempt).into()),
            };
            if wait > LONGEST_RETRY_AFTER {
                return Err(given_up(&error, attempt).retry_after(wait).into());
            }
            attempt += 1;
            self.router.metrics().model.asked_again(error.kind);
            let retry = Retry { reason: error.message, attempt, delay: wait.try_into().ok() };
            self.running.recorder.tell(Kind::Retry(retry)).await?;
            tokio::time::sleep(wait).await;
        }
    }

    async fn ask_once(&self, prompt: &Prompt, telling: &mut Telling<'_>) -> Result<Result<Answer, ModelError>, Halt> {
        let (asked, written) = tokio::join!(self.model.ask(prompt), telling.recorder.flush());
        written?;
        let mut chunks = match asked {
            Ok(chunks) => chunks,
            Err(error) => return Ok(Err(error)),
        };
        loop {
            let due = telling.recorder.due().await;
            tokio::select! {
                chunk = chunks.next() => match chunk {
                    Some(Ok(Chunk::Text(text))) => if let Some(all) = telling.text(&text).await? {
                        return Ok(Ok(cut(all)));
                    },
                    Some(Ok(Chunk::Reasoning(text))) => telling.reasoning(&text).await?,
                    Some(Ok(Chunk::Answer(answer))) => return Ok(Ok(answer)),
                    Some(Err(error)) => return Ok(Err(error)),
                    None => return Ok(Err(ModelError::new(Failure::Broken, "the model's answer broke off"))),
                },
                () = at(due) => telling.recorder.flush().await?,
            }
        }
    }
}

/// An answer that is nothing but a call written as text is that call, and no text.
async fn read_calls(mut answer: Answer, tools: &Tools, telling: &Telling<'_>) -> Result<Answer, Halt> {
    if answer.message.calls.is_empty() {
        answer.message.calls = fenced::calls(&answer.message.text, |name| tools.has(name));
        if !answer.message.calls.is_empty() {
            answer.message.text.clear();
            telling.void("the text was a call of a tool").await?;
        }
    }
    Ok(answer)
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// An answer that was not read to its end.
fn cut(text: String) -> Answer {
    Answer { message: AssistantMessage { text, ..Default::default() }, stop: Stop::Length, usage: Usage::default() }
}

/// Tells the pieces of one try.
struct Telling<'a> {
    recorder: &'a Recorder,
    message: String,
    text: String,
    reasoning: usize,
}

impl<'a> Telling<'a> {
    fn new(recorder: &'a Recorder, message: String) -> Self {
        Self { recorder, message, text: String::new(), reasoning: 0 }
    }

    /// All of the text, once that is the most there may be.
    async fn text(&mut self, text: &str) -> Result<Option<String>, Halt> {
        let offset = self.text.len();
        let text = &text[..text.floor_char_boundary(MOST - offset)];
        self.text.push_str(text);
        self.add(Kind::Text(self.delta(text, offset))).await?;
        Ok((self.text.len() + 4 > MOST).then(|| std::mem::take(&mut self.text)))
    }

    async fn reasoning(&mut self, text: &str) -> Result<(), Halt> {
        let offset = self.reasoning;
        let text = &text[..text.floor_char_boundary(MOST - offset)];
        if text.is_empty() {
            return Ok(());
        }
        self.reasoning += text.len();
        self.add(Kind::Reasoning(self.delta(text, offset))).await
    }

    /// Withdraws what was told.
    async fn void(&self, reason: &str) -> Result<(), Halt> {
        if !self.text.is_empty() || self.reasoning > 0 {
            let restarted = MessageRestarted { reason: reason.to_owned(), message: self.message.clone() };
            self.recorder.tell(Kind::MessageRestarted(restarted)).await?;
        }
        Ok(())
    }

    fn delta(&self, text: &str, offset: usize) -> TextDelta {
        TextDelta {
            text: text.to_owned(),
            message: self.message.clone(),
            offset: i64::try_from(offset).unwrap_or(i64::MAX),
        }
    }

    async fn add(&self, kind: Kind) -> Result<(), Halt> {
        self.recorder.add_piece(kind).await;
        if self.recorder.due().await.is_some_and(|due| due <= Instant::now()) {
            self.recorder.flush().await?;
        }
        Ok(())
    }
}

fn given_up(error: &ModelError, attempts: i32) -> Error {
    let code = match error.kind {
        Failure::Denied => ErrorCode::ModelUnavailable,
        Failure::TooLong => ErrorCode::TooLarge,
        _ => ErrorCode::ModelFailed,
    };
    let tries = if attempts > 1 { format!(" (asked {attempts} times)") } else { String::new() };
    Error::new(code, format!("{error}{tries}"))
}
