//! The calls that bring the events of a turn.
use kernelbox_proto::v1::{ResumeTurnRequest, StartTurnRequest, TurnEvent, turn_event::Kind};
use tonic::{Status, Streaming};

use crate::command::{connect::Client, follow::Call};

pub(super) struct Watched {
    pub client: Client,
    /// `sessions/{session}/turns/{turn}`
    pub name: String,
    /// Starts it. The same request id never starts two turns, so this is safe to send again. None: it was started by somebody else.
    pub start: Option<StartTurnRequest>,
}

impl Call for Watched {
    type Event = TurnEvent;

    async fn begin(&mut self, _reached: &mut bool) -> Result<Streaming<TurnEvent>, Status> {
        match &self.start {
            Some(start) => Ok(self.client.turns().start_turn(start.clone()).await?.into_inner()),
            None => self.resume(0).await,
        }
    }

    async fn resume(&mut self, after: i64) -> Result<Streaming<TurnEvent>, Status> {
        let resume = ResumeTurnRequest { name: self.name.clone(), after_sequence: after };
        Ok(self.client.turns().resume_turn(resume).await?.into_inner())
    }

    fn sequence(event: &TurnEvent) -> i64 {
        event.sequence
    }

    fn is_last(event: &TurnEvent) -> bool {
        matches!(event.kind, Some(Kind::Completed(_) | Kind::Cancelled(_) | Kind::Failed(_)))
    }
}
