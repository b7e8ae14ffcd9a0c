//! The agent: asks the model, does what it calls for, shows it the result, until it answers.
//!
//! It knows a [`ChatModel`], the session's sandbox through the router, and the turn's recorder. Every step is recorded before the next
//! is told of; the model is asked while its question is being written. Whoever drops [`Agent::run`] ends what it does: code that runs is
//! interrupted.
mod answer;
mod arguments;
mod ask;
mod budget;
mod execute;
mod fenced;
mod json;
mod mcp;
mod memory;
mod notes;
mod picture;
mod prompt;
mod repetition;
mod shown;
mod text;
mod tools;

use std::{sync::Arc, time::Duration};

use kernelbox_proto::{
    Error,
    v1::{ErrorCode, LimitReached, TurnCompleted, TurnStarted, turn_event::Kind},
};

use tracing::Instrument as _;

use self::{budget::Budget, memory::Memory, repetition::Repetition, tools::Tools};
pub(crate) use self::{
    mcp::Connector,
    prompt::{PYTHON, system as system_prompt},
};
use crate::{
    limits::TurnLimits,
    model::{Answer, AssistantMessage, ChatModel, Message, Part, Stop},
    sessions::{SessionRouter, Slot},
    store::JournalError,
    turns::Running,
};

/// The readers of what models write, as [`crate::fuzzing`] calls them.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod readers {
    pub(crate) use super::{
        answer::clean,
        arguments::{code, object},
        fenced::calls,
    };
}

/// What a turn is asked to do.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub message: String,
    /// Paths in the workspace.
    pub attachments: Vec<String>,
    pub limits: TurnLimits,
    /// Of each execution.
    pub execution_timeout: Option<Duration>,
}

/// How a turn ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Completed(TurnCompleted),
    /// Why.
    Cancelled(String),
    Failed(Error),
}

/// What comes next in a turn.
enum Step {
    /// The model is asked.
    Ask,
    /// What it calls for is done, and the result shown to it.
    Act(AssistantMessage),
    /// It answered.
    Answer(String),
}

/// Why a turn ends without the model's answer.
enum Halt {
    Limit(LimitReached),
    Failed(Error),
}

pub(crate) struct Agent {
    router: SessionRouter,
    slot: Arc<Slot>,
    model: Arc<dyn ChatModel>,
    running: Arc<Running>,
    connector: Arc<Connector>,
    task: Task,
    memory: Memory,
    budget: Budget,
    tools: Arc<Tools>,
    repetition: Repetition,
    /// The same code ran too often.
    repeated: Option<LimitReached>,
    /// What was asked for is there already: the next answer is one in words.
    must_answer: bool,
    work: execute::Work,
    /// The model has answered with nothing.
    was_empty: bool,
}

impl Agent {
    pub(crate) fn new(
        router: SessionRouter,
        slot: Arc<Slot>,
        model: Arc<dyn ChatModel>,
        running: Arc<Running>,
        connector: Arc<Connector>,
        task: Task,
        number: i64,
    ) -> Self {
        Self {
            memory: Memory::new(router.store().clone(), slot.id.clone(), number),
            budget: Budget::new(task.limits.clone()),
            tools: Arc::default(),
            repetition: Repetition::default(),
            repeated: None,
            must_answer: false,
            work: execute::Work::default(),
            was_empty: false,
            router,
            slot,
            model,
            running,
            connector,
            task,
        }
    }

    pub(crate) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    pub(crate) async fn run(mut self) -> Ended {
        let ended = self.until_ended().await;
        if let Some(tools) = Arc::into_inner(self.tools) {
            tools.close().await;
        }
        ended
    }

    async fn until_ended(&mut self) -> Ended {
        let (running, stopping, deadline) =
            (Arc::clone(&self.running), self.router.stopping().clone(), self.budget.deadline());
        let halted = tokio::select! {
            ended = self.turn() => match ended {
                Ok(answer) => return Ended::Completed(self.completed(&answer).await),
                Err(halt) => halt,
            },
            reason = running.cancelled() => return Ended::Cancelled(reason),
            () = stopping.cancelled() => return Ended::Failed(crate::services::stopped()),
            () = tokio::time::sleep_until(deadline) => Halt::Limit(self.budget.out_of_time()),
        };
        match halted {
            Halt::Failed(error) => Ended::Failed(error),
            Halt::Limit(limit) => {
                self.router.metrics().turns.limited(&limit.limit);
                match self.running.recorder.tell(Kind::LimitReached(limit.clone())).await {
                    Ok(()) => {
                        let answer = self.budget.stopped(&limit, &self.memory.last_words());
                        Ended::Completed(self.completed(&answer).await)
                    }
                    Err(error) => Ended::Failed(unwritten(&error)),
                }
            }
        }
    }

    async fn turn(&mut self) -> Result<String, Halt> {
        self.begin().await?;
        let mut next = Step::Ask;
        loop {
            next = match next {
                Step::Ask => self.ask().await?,
                Step::Act(message) => self.act(message).await?,
                Step::Answer(answer) => return Ok(answer),
            };
        }
    }

    /// Tells that it begins, and makes the model's picture of the session: history, tools, what is asked.
    async fn begin(&mut self) -> Result<(), Halt> {
        let recorder = &self.running.recorder;
        let facts = self.model.facts().await;
        recorder.tell(Kind::Started(TurnStarted { model: facts.name.clone() })).await?;
        let was_restarted = self.slot.live().is_none() && self.slot.record().bound_generation > 0;
        // Most turns run code: its sandbox is made while the model thinks.
        let (router, slot) = (self.router.clone(), Arc::clone(&self.slot));
        self.router.tasks().spawn(async move { router.sandbox(&slot).await.map(drop) }.in_current_span());
        let record = self.slot.record();
        let settings = record.secret_settings();
        self.tools = Arc::new(Tools::connect(settings, &self.connector, facts.sees_images).await?);
        self.memory.open(prompt::system(settings), self.tools.specs(), facts).await?;
        let mut parts = self.notes(was_restarted).await?;
        parts.push(self.task.message.clone());
        self.remember(Message::User(vec![Part::Text(parts.join("\n\n"))])).await;
        Ok(())
    }

    /// What the model has to know before the message.
    async fn notes(&self, was_restarted: bool) -> Result<Vec<String>, Error> {
        let mut notes = Vec::new();
        if was_restarted && !self.memory.is_first_turn() {
            notes.push(notes::after_restart(&self.router, &self.slot).await?);
        } else if self.memory.has_summary() {
            notes.extend(notes::variables(&self.router, &self.slot).await?);
        }
        notes.extend(notes::attachments(&self.router, &self.slot, &self.task.attachments).await?);
        Ok(notes)
    }

    async fn ask(&mut self) -> Result<Step, Halt> {
        let step = self.budget.next_step()?;
        self.running.recorder.set_step(step).await;
        let Answer { message, usage, stop } = self.ask_model().await?;
        self.budget.spend(usage);
        self.running.recorder.spend(usage).await;
        let is_empty = message.calls.is_empty() && message.text.trim().is_empty();
        if is_empty && stop == Stop::Filtered {
            return Err(Error::new(ErrorCode::ModelFailed, "the provider's content filter stopped the answer").into());
        }
        if is_empty && std::mem::replace(&mut self.was_empty, true) {
            return Err(Error::new(ErrorCode::ModelFailed, "the model answered with nothing, twice").into());
        }
        if is_empty {
            let nudge = "Your answer was empty. Answer in words, or call a tool.";
            self.remember(Message::User(vec![Part::Text(nudge.to_owned())])).await;
            return Ok(Step::Ask);
        }
        self.remember(Message::Assistant(message.clone())).await;
        if !message.calls.is_empty() {
            return Ok(Step::Act(message));
        }
        let cut =
            if stop == Stop::Length { "\n\n(cut: the model reached its limit on the answer's tokens)" } else { "" };
        Ok(Step::Answer(answer::clean(&message.text, &self.known_paths()) + cut))
    }

    /// Python runs one call after another, the other tools side by side; the results keep the calls' order.
    async fn act(&mut self, message: AssistantMessage) -> Result<Step, Halt> {
        let results = self.call_tools(&message.calls).await?;
        self.remember(Message::Results(results)).await;
        match self.repeated.take() {
            Some(limit) => Err(Halt::Limit(limit)),
            None => Ok(Step::Ask),
        }
    }

    /// What the model knows from now on.
    async fn remember(&mut self, message: Message) {
        self.running.recorder.remember(message.clone()).await;
        self.memory.push(message);
    }

    /// Files that an answer may speak of.
    fn known_paths(&self) -> Vec<String> {
        self.work.artifacts().into_iter().map(|it| it.path).chain(self.task.attachments.iter().cloned()).collect()
    }

    async fn completed(&self, answer: &str) -> TurnCompleted {
        TurnCompleted {
            answer: answer.to_owned(),
            artifacts: self.work.artifacts(),
            code_log: self.work.code_log(),
            usage: self.running.recorder.turn().await.usage,
        }
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<JournalError> for Halt {
    fn from(error: JournalError) -> Self {
        Self::Failed(unwritten(&error))
    }
}

fn unwritten(error: &JournalError) -> Error {
    crate::services::internal("the database", error)
}
