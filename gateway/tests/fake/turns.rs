//! The turns of the fake: each follows the script of its question.
use kernelbox_proto::{
    Error,
    v1::{turn_service_server::TurnService, *},
};
use tonic::{Request, Response, Status};

use super::{
    Step, TurnStep,
    services::{Answer, Events, Served},
};

impl Served {
    fn turn_events(&self, request: &StartTurnRequest, after: i64) -> Events<TurnEvent> {
        let name = format!("{}/turns/{}", request.session, request.request_id);
        self.play(name, self.script(&request.message), after, |turn, sequence, kind| TurnEvent {
            turn,
            sequence,
            step: 1,
            time: None,
            kind: Some(kind),
        })
    }

    fn script(&self, question: &str) -> Vec<TurnStep> {
        let scripts = self.turn_scripts.lock().unwrap();
        scripts.get(question).cloned().unwrap_or_else(|| vec![TurnStep::completed(&format!("re: {question}"))])
    }

    fn turn(&self, name: &str) -> Result<Turn, Status> {
        let turns = self.turns.lock().unwrap();
        let turn = turns.iter().find(|turn| turn.name == name).cloned();
        turn.ok_or_else(|| Error::new(ErrorCode::TurnNotFound, format!("no turn {name}")).into())
    }
}

#[tonic::async_trait]
impl TurnService for Served {
    type StartTurnStream = Events<TurnEvent>;
    type ResumeTurnStream = Events<TurnEvent>;

    async fn start_turn(&self, request: Request<StartTurnRequest>) -> Answer<Self::StartTurnStream> {
        let request = request.into_inner();
        self.log(format!("StartTurn {} {}", request.session, request.message));
        self.known(&request.session)?;
        self.turn_requests.lock().unwrap().push(request.clone());
        if let Some(Step::Fail(error)) = self.script(&request.message).first() {
            return Err(error.clone().into());
        }
        Ok(Response::new(self.turn_events(&request, 0)))
    }

    async fn resume_turn(&self, request: Request<ResumeTurnRequest>) -> Answer<Self::ResumeTurnStream> {
        let ResumeTurnRequest { name, after_sequence } = request.into_inner();
        self.log(format!("ResumeTurn after {after_sequence}"));
        let requests = self.turn_requests.lock().unwrap();
        let known = requests.iter().find(|r| name == format!("{}/turns/{}", r.session, r.request_id));
        let request = known.ok_or_else(|| Status::from(Error::new(ErrorCode::TurnNotFound, name.clone())))?;
        Ok(Response::new(self.turn_events(request, after_sequence)))
    }

    async fn cancel_turn(&self, request: Request<CancelTurnRequest>) -> Answer<Turn> {
        let name = request.into_inner().name;
        self.log("CancelTurn".into());
        self.interrupted();
        let turn = self.turn(&name).unwrap_or(Turn { name, ..Turn::default() });
        Ok(Response::new(Turn { status: TurnStatus::Cancelled.into(), ..turn }))
    }

    async fn get_turn(&self, request: Request<GetTurnRequest>) -> Answer<Turn> {
        Ok(Response::new(self.turn(&request.into_inner().name)?))
    }

    async fn list_turns(&self, request: Request<ListTurnsRequest>) -> Answer<ListTurnsResponse> {
        let ListTurnsRequest { parent, page_token, .. } = request.into_inner();
        self.known(&parent)?;
        // Two pages, so that a command that reads one only is seen.
        let turns = self.turns.lock().unwrap().clone();
        let half = turns.len() / 2;
        let (turns, next) = if page_token.is_empty() { (&turns[..half], "rest") } else { (&turns[half..], "") };
        Ok(Response::new(ListTurnsResponse { turns: turns.to_vec(), next_page_token: next.into() }))
    }

    async fn submit_tool_result(&self, _: Request<SubmitToolResultRequest>) -> Answer<SubmitToolResultResponse> {
        Err(Status::unimplemented("submit_tool_result"))
    }
}
