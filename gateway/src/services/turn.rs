//! TurnService: checks a call, finds its session and model, and hands over to the turns.
mod validate;

use std::sync::Arc;

use futures::StreamExt as _;
use kernelbox_proto::{
    Error, SessionId, TurnName,
    v1::{
        CancelTurnRequest, ErrorCode, GetTurnRequest, ListTurnsRequest, ListTurnsResponse, ResumeTurnRequest,
        StartTurnRequest, SubmitToolResultRequest, SubmitToolResultResponse, Turn, TurnEvent,
        turn_service_server::TurnService as Service,
    },
};
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use super::{Caller, Events, Services, page_size};
use crate::{
    limits::{TurnLimits, Work},
    local_model::Finder,
    model::{ChatModel, Counted, Models},
    turns::{Start, ToolAnswer, Turns, not_waiting},
};

#[derive(Clone)]
pub(crate) struct TurnService {
    pub services: Services,
    pub turns: Turns,
    pub models: Arc<Models>,
    pub local: Option<Arc<Finder>>,
    pub limits: TurnLimits,
}

impl TurnService {
    async fn start(&self, caller: &Caller, request: StartTurnRequest) -> Result<Events<TurnEvent>, Error> {
        let digest = validate::digest(&request);
        let session = SessionId::from_name(&request.session)?;
        let turn = match request.request_id.as_str() {
            "" => uuid::Uuid::now_v7().to_string().parse()?,
            id => id.parse()?,
        };
        let name = TurnName { session, turn };
        let may_be_again = !request.request_id.is_empty();
        let cancel = request.options.as_ref().is_some_and(|options| options.cancel_on_disconnect);
        let asked = request.options.as_ref().map(|options| options.model.clone()).unwrap_or_default();
        let task = validate::task(request, &self.limits)?;
        // Whoever lost the stream of a turn finds it again, also where there is room for no other.
        if may_be_again && self.has_begun(caller, &name, &digest).await? {
            let permit = self.services.gate.begin(&caller.tenant, &caller.limits, Work::Follow)?;
            let guard = cancel.then(|| CancelOnDrop::new(&self.turns, &name));
            return Ok(self.events(caller, name, 0, (guard, permit)));
        }
        let (slot, permit) = self.services.enter(caller, &name.session, Work::Turn).await?;
        let settings = slot.record();
        let asked = if asked.is_empty() { settings.secret_settings().model.clone() } else { asked };
        let model = self.model(&asked).await?;
        // In a task of its own: a client that leaves now must not leave a turn that is written down and runs nowhere. The guard comes
        // back through the task, so that it is dropped after the beginning, whoever is still there.
        let (turns, start) = (self.turns.clone(), Start { name: name.clone(), digest, slot, model, task, permit });
        let begin = async move {
            let name = start.name.clone();
            turns.start(start).await.map(|()| cancel.then(|| CancelOnDrop::new(&turns, &name)))
        };
        let begun = self.services.router.tasks().spawn(begin.in_current_span()).await;
        let guard = begun.map_err(|error| super::internal("the turn's beginning", &error))??;
        Ok(self.events(caller, name, 0, guard))
    }

    /// Whether the same call began this turn before.
    async fn has_begun(&self, caller: &Caller, name: &TurnName, digest: &str) -> Result<bool, Error> {
        self.services.router.read(&caller.tenant, &name.session).await?;
        Ok(self.services.router.store().turn_digest(name).await?.is_some_and(|before| before == digest))
    }

    /// The turn's events for this caller. `held` lives as long as they are followed.
    fn events(&self, caller: &Caller, name: TurnName, after: i64, held: impl Send + 'static) -> Events<TurnEvent> {
        let caller = caller.clone();
        let events = self.turns.follow(name, after).map(move |event| {
            let _ = &held;
            event.map_err(|error| caller.status(error))
        });
        events.boxed()
    }

    async fn model(&self, name: &str) -> Result<Arc<dyn ChatModel>, Error> {
        if let Some(local) = &self.local
            && self.models.means_local(name)
            && let Some(server) = local.find().await?
        {
            let added = self.models.add_local(&server.base_url, Some(&server.model));
            added.map_err(|error| Error::new(ErrorCode::ModelUnavailable, error.to_string()))?;
        }
        let metrics = self.services.router.shared_metrics();
        Ok(Arc::new(Counted::new(self.models.get(name)?, metrics)))
    }

    /// The turn's name, if the caller has its session.
    async fn find(&self, caller: &Caller, name: &str) -> Result<TurnName, Error> {
        let name: TurnName = name.parse()?;
        self.services.router.read(&caller.tenant, &name.session).await?;
        Ok(name)
    }

    async fn resume(&self, caller: &Caller, request: ResumeTurnRequest) -> Result<Events<TurnEvent>, Error> {
        let name = self.find(caller, &request.name).await?;
        let after = validate::sequence(request.after_sequence)?;
        self.turns.get(&name).await?;
        let permit = self.services.gate.begin(&caller.tenant, &caller.limits, Work::Follow)?;
        Ok(self.events(caller, name, after, permit))
    }

    async fn list(&self, caller: &Caller, request: ListTurnsRequest) -> Result<ListTurnsResponse, Error> {
        let session = SessionId::from_name(&request.parent)?;
        self.services.router.read(&caller.tenant, &session).await?;
        let below = validate::page_token(&request.page_token)?;
        let (turns, next) = self.services.router.store().turns(&session, page_size(request.page_size)?, below).await?;
        Ok(ListTurnsResponse { turns, next_page_token: next.map(|number| number.to_string()).unwrap_or_default() })
    }

    async fn submit(&self, caller: &Caller, request: SubmitToolResultRequest) -> Result<(), Error> {
        let name = self.find(caller, &request.name).await?;
        validate::tool_content(&request.content)?;
        let answer = ToolAnswer { content: request.content, failed: request.failed };
        match self.turns.running(&name) {
            Some(running) => running.answer_tool(&request.tool_call, answer),
            None => {
                self.turns.get(&name).await?;
                Err(not_waiting(&request.tool_call))
            }
        }
    }
}

#[tonic::async_trait]
impl Service for TurnService {
    type StartTurnStream = Events<TurnEvent>;
    type ResumeTurnStream = Events<TurnEvent>;

    async fn start_turn(&self, request: Request<StartTurnRequest>) -> Result<Response<Self::StartTurnStream>, Status> {
        let caller = Caller::of(&request)?;
        let started = self.start(&caller, request.into_inner()).await;
        started.map(Response::new).map_err(|error| caller.status(error))
    }

    async fn resume_turn(
        &self,
        request: Request<ResumeTurnRequest>,
    ) -> Result<Response<Self::ResumeTurnStream>, Status> {
        let caller = Caller::of(&request)?;
        let resumed = self.resume(&caller, request.into_inner()).await;
        resumed.map(Response::new).map_err(|error| caller.status(error))
    }

    async fn cancel_turn(&self, request: Request<CancelTurnRequest>) -> Result<Response<Turn>, Status> {
        let caller = Caller::of(&request)?;
        let cancelled = async {
            let name = self.find(&caller, &request.get_ref().name).await?;
            self.turns.cancel(&name, "CancelTurn was called").await
        };
        cancelled.await.map(Response::new).map_err(|error| caller.status(error))
    }

    async fn get_turn(&self, request: Request<GetTurnRequest>) -> Result<Response<Turn>, Status> {
        let caller = Caller::of(&request)?;
        let turn = async {
            let name = self.find(&caller, &request.get_ref().name).await?;
            self.turns.get(&name).await
        };
        turn.await.map(Response::new).map_err(|error| caller.status(error))
    }

    async fn list_turns(&self, request: Request<ListTurnsRequest>) -> Result<Response<ListTurnsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let listed = self.list(&caller, request.into_inner()).await;
        listed.map(Response::new).map_err(|error| caller.status(error))
    }

    async fn submit_tool_result(
        &self,
        request: Request<SubmitToolResultRequest>,
    ) -> Result<Response<SubmitToolResultResponse>, Status> {
        let caller = Caller::of(&request)?;
        let submitted = self.submit(&caller, request.into_inner()).await;
        submitted.map(|()| Response::new(SubmitToolResultResponse {})).map_err(|error| caller.status(error))
    }
}

/// For turns that shall not go on without their client.
struct CancelOnDrop {
    turns: Turns,
    name: TurnName,
}

impl CancelOnDrop {
    fn new(turns: &Turns, name: &TurnName) -> Self {
        Self { turns: turns.clone(), name: name.clone() }
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(running) = self.turns.running(&self.name) {
            running.cancel("its client went away");
        }
    }
}
