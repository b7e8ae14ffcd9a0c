//! What a running turn tells: numbered, written down, then sent. Pieces of text wait a moment for each other.
//!
//! Nobody is waited for but the database: who reads slowly reads again from there.
use std::time::Duration;

use kernelbox_proto::{
    TurnName,
    v1::{self, TextDelta, TurnEvent, turn_event::Kind},
};
use tokio::{
    sync::{Mutex, broadcast},
    time::Instant,
};

use crate::{
    model::{Message, Usage},
    store::{Entry, Journal, JournalError, Micros},
};

/// Between two writes of pieces of text, at least.
const PIECES_INTERVAL: Duration = Duration::from_millis(40);

/// Of a piece that others are joined to.
const PIECE_BYTES: usize = 64 << 10;

pub(crate) struct Recorder {
    name: TurnName,
    lease: String,
    journal: Journal,
    live: broadcast::Sender<TurnEvent>,
    state: Mutex<State>,
}

struct State {
    turn: v1::Turn,
    step: i32,
    /// Pieces of text, and what need not be told before the next event: not written yet.
    waiting: Vec<TurnEvent>,
    /// What the model is told from now on: not written yet.
    messages: Vec<Message>,
    /// How many of its messages are written.
    messages_written: i64,
    /// When pieces of text were written last.
    written: Instant,
}

impl Recorder {
    pub(crate) fn new(turn: v1::Turn, name: TurnName, lease: String, journal: Journal) -> Self {
        let state = State {
            step: 0,
            waiting: Vec::new(),
            messages: Vec::new(),
            messages_written: 0,
            // The first piece goes out at once.
            written: Instant::now() - PIECES_INTERVAL,
            turn,
        };
        Self { name, lease, journal, live: broadcast::Sender::new(super::LIVE_EVENTS), state: Mutex::new(state) }
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<TurnEvent> {
        self.live.subscribe()
    }

    /// From now on events belong to this model call.
    pub(crate) async fn set_step(&self, step: i32) {
        self.state.lock().await.step = step;
    }

    pub(crate) async fn tell(&self, kind: Kind) -> Result<(), JournalError> {
        self.write(vec![kind], false).await
    }

    pub(crate) async fn tell_all(&self, kinds: Vec<Kind>) -> Result<(), JournalError> {
        self.write(kinds, false).await
    }

    /// Adds to what the model is told from now on, which is written with [`Self::flush`] or with the next event.
    pub(crate) async fn remember(&self, message: Message) {
        self.state.lock().await.messages.push(message);
    }

    /// Adds a piece of text, which is written with [`Self::flush`] or with the next event.
    pub(crate) async fn add_piece(&self, kind: Kind) {
        let mut state = self.state.lock().await;
        if let Some(last) = state.waiting.last_mut().and_then(|event| event.kind.as_mut())
            && joined(last, &kind)
        {
            return;
        }
        let event = state.number(&self.name, kind);
        state.waiting.push(event);
    }

    /// When pieces that wait are due; None if none does.
    pub(crate) async fn due(&self) -> Option<Instant> {
        let state = self.state.lock().await;
        state.waiting.iter().any(is_piece).then(|| state.written + PIECES_INTERVAL)
    }

    pub(crate) async fn flush(&self) -> Result<(), JournalError> {
        self.write(Vec::new(), false).await
    }

    /// Counts a model call's tokens; told with the next event.
    pub(crate) async fn spend(&self, usage: Usage) {
        let spent = wire_usage(usage);
        let mut state = self.state.lock().await;
        let all = state.turn.usage.get_or_insert_default();
        all.input_tokens += spent.input_tokens;
        all.output_tokens += spent.output_tokens;
        all.cached_input_tokens += spent.cached_input_tokens;
        all.reasoning_tokens += spent.reasoning_tokens;
        let event = state.number(&self.name, Kind::ModelUsage(spent));
        state.waiting.push(event);
    }

    /// Changes how the turn stands; written with the next event.
    pub(crate) async fn change(&self, change: impl FnOnce(&mut v1::Turn)) {
        change(&mut self.state.lock().await.turn);
    }

    pub(crate) async fn turn(&self) -> v1::Turn {
        self.state.lock().await.turn.clone()
    }

    /// The last event. Nothing can be told afterwards.
    pub(crate) async fn end(&self, kind: Kind) -> Result<(), JournalError> {
        self.change(|turn| turn.end_time = Some(Micros::now().timestamp())).await;
        self.write(vec![kind], true).await
    }

    async fn write(&self, kinds: Vec<Kind>, ends: bool) -> Result<(), JournalError> {
        let mut state = self.state.lock().await;
        // First: nothing is awaited between the numbers and the journal, so that none is given and not written.
        let place = self.journal.place().await?;
        let mut events = std::mem::take(&mut state.waiting);
        let messages = std::mem::take(&mut state.messages);
        for kind in kinds {
            events.push(state.number(&self.name, kind));
        }
        if events.is_empty() && messages.is_empty() {
            return Ok(());
        }
        let first = state.messages_written;
        state.messages_written += i64::try_from(messages.len()).unwrap_or(0);
        let entry = Entry {
            name: self.name.clone(),
            lease: self.lease.clone(),
            events: events.clone(),
            messages: (first..).zip(messages).collect(),
            turn: state.turn.clone(),
            ends,
        };
        // With the lock held, so that events are sent in the order of their numbers.
        place.put(entry).await?;
        if events.iter().any(is_piece) {
            state.written = Instant::now();
        }
        for event in events {
            // Nobody need be listening.
            let _ = self.live.send(event);
        }
        Ok(())
    }
}

impl State {
    fn number(&mut self, name: &TurnName, kind: Kind) -> TurnEvent {
        self.turn.last_sequence += 1;
        TurnEvent {
            turn: name.to_string(),
            sequence: self.turn.last_sequence,
            step: self.step,
            time: Some(Micros::now().timestamp()),
            kind: Some(kind),
        }
    }
}

fn is_piece(event: &TurnEvent) -> bool {
    matches!(event.kind, Some(Kind::Text(_) | Kind::Reasoning(_)))
}

/// Puts a piece to the end of the one before, if it goes on there and does not become large.
fn joined(last: &mut Kind, next: &Kind) -> bool {
    let (last, next): (&mut TextDelta, &TextDelta) = match (last, next) {
        (Kind::Text(last), Kind::Text(next)) | (Kind::Reasoning(last), Kind::Reasoning(next)) => (last, next),
        _ => return false,
    };
    let follows = last.message == next.message && last.text.len() < PIECE_BYTES;
    if follows {
        last.text.push_str(&next.text);
    }
    follows
}

fn wire_usage(usage: Usage) -> v1::ModelUsage {
    let number = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
    v1::ModelUsage {
        input_tokens: number(usage.input_tokens),
        output_tokens: number(usage.output_tokens),
        cached_input_tokens: number(usage.cached_input_tokens),
        reasoning_tokens: number(usage.reasoning_tokens),
    }
}

#[cfg(test)]
mod tests;
