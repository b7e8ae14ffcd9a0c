//! A turn as a client sees it: started, followed to its end, and looked at.
use kernelbox_proto::v1::{
    ErrorCode, ExecutionEvent, ResumeTurnRequest, StartTurnRequest, TurnCompleted, TurnEvent, execution_event,
    turn_event::Kind,
};
use tonic::{Status, Streaming};

use crate::{Client, ModelServer, Stack, StackBuilder};

impl Stack {
    /// A server whose turns ask this model.
    pub fn with_model(model: &ModelServer) -> StackBuilder {
        Self::builder().flag(format!("--model-url={}/v1", model.url())).flag("--model=scripted")
    }
}

impl Client {
    /// One turn, to its end.
    pub async fn turn(&mut self, session: &str, message: &str) -> Turned {
        self.try_turn(ask(session, message)).await.unwrap()
    }

    pub async fn try_turn(&mut self, request: StartTurnRequest) -> Result<Turned, Status> {
        Turned::read(self.turns.start_turn(request).await?.into_inner()).await
    }

    /// The events of a turn after a number, to its end.
    pub async fn resume(&mut self, turn: &str, after_sequence: i64) -> Result<Turned, Status> {
        let request = ResumeTurnRequest { name: turn.into(), after_sequence };
        Turned::read(self.turns.resume_turn(request).await?.into_inner()).await
    }
}

/// A message to the agent.
pub fn ask(session: &str, message: &str) -> StartTurnRequest {
    StartTurnRequest { session: session.into(), message: message.into(), ..Default::default() }
}

/// The events of a turn, from some one to the last.
#[derive(Debug, Clone, PartialEq)]
pub struct Turned {
    pub events: Vec<TurnEvent>,
}

impl Turned {
    pub async fn read(mut stream: Streaming<TurnEvent>) -> Result<Self, Status> {
        let mut events = Vec::new();
        while let Some(event) = stream.message().await? {
            events.push(event);
        }
        Ok(Self { events })
    }

    pub fn name(&self) -> &str {
        &self.events.last().expect("an event").turn
    }

    pub fn kinds(&self) -> impl Iterator<Item = &Kind> {
        self.events.iter().filter_map(|event| event.kind.as_ref())
    }

    pub fn has(&self, is: impl Fn(&Kind) -> bool) -> bool {
        self.kinds().any(is)
    }

    /// The streamed text that no restart made void.
    pub fn text(&self) -> String {
        let void: Vec<_> = self
            .kinds()
            .filter_map(|kind| if let Kind::MessageRestarted(it) = kind { Some(it.message.as_str()) } else { None })
            .collect();
        self.kinds()
            .filter_map(|kind| match kind {
                Kind::Text(delta) if !void.contains(&delta.message.as_str()) => Some(delta.text.as_str()),
                _ => None,
            })
            .collect()
    }

    pub fn executions(&self) -> impl Iterator<Item = &ExecutionEvent> {
        self.kinds().filter_map(|kind| if let Kind::Execution(event) = kind { Some(event) } else { None })
    }

    /// What its code printed.
    pub fn stdout(&self) -> String {
        self.executions()
            .filter_map(|event| match &event.kind {
                Some(execution_event::Kind::Stdout(out)) => Some(out.text.as_str()),
                _ => None,
            })
            .collect()
    }

    #[track_caller]
    pub fn completed(&self) -> &TurnCompleted {
        match self.kinds().last() {
            Some(Kind::Completed(completed)) => completed,
            other => panic!("the last event is {other:?} of {:#?}", self.events),
        }
    }

    #[track_caller]
    pub fn answer(&self) -> &str {
        &self.completed().answer
    }

    /// The limit that ended it.
    pub fn limit(&self) -> Option<&str> {
        self.kinds().find_map(|kind| if let Kind::LimitReached(it) = kind { Some(it.limit.as_str()) } else { None })
    }

    #[track_caller]
    pub fn failure(&self) -> (ErrorCode, &str) {
        match self.kinds().last() {
            Some(Kind::Failed(failed)) => (failed.code(), &failed.message),
            other => panic!("the last event is {other:?} of {:#?}", self.events),
        }
    }
}
