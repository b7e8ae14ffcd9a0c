//! TurnService: part of the contract, not served by this version.
use kernelbox_proto::{
    Error,
    v1::{
        CancelTurnRequest, ErrorCode, GetTurnRequest, ListTurnsRequest, ListTurnsResponse, ResumeTurnRequest,
        StartTurnRequest, SubmitToolResultRequest, SubmitToolResultResponse, Turn, TurnEvent,
        turn_service_server::TurnService,
    },
};
use tonic::{Request, Response, Status};

use super::{Caller, Events};

pub(crate) struct Turns;

fn unserved<M, T>(request: &Request<M>) -> Result<Response<T>, Status> {
    let error = Error::new(
        ErrorCode::Unimplemented,
        "this version of the server has no agent; run code with CodeService, for example CodeService.Execute",
    );
    Err(Caller::of(request)?.status(error))
}

#[tonic::async_trait]
impl TurnService for Turns {
    type StartTurnStream = Events<TurnEvent>;
    type ResumeTurnStream = Events<TurnEvent>;

    async fn start_turn(&self, request: Request<StartTurnRequest>) -> Result<Response<Self::StartTurnStream>, Status> {
        unserved(&request)
    }

    async fn resume_turn(
        &self,
        request: Request<ResumeTurnRequest>,
    ) -> Result<Response<Self::ResumeTurnStream>, Status> {
        unserved(&request)
    }

    async fn cancel_turn(&self, request: Request<CancelTurnRequest>) -> Result<Response<Turn>, Status> {
        unserved(&request)
    }

    async fn get_turn(&self, request: Request<GetTurnRequest>) -> Result<Response<Turn>, Status> {
        unserved(&request)
    }

    async fn list_turns(&self, request: Request<ListTurnsRequest>) -> Result<Response<ListTurnsResponse>, Status> {
        unserved(&request)
    }

    async fn submit_tool_result(
        &self,
        request: Request<SubmitToolResultRequest>,
    ) -> Result<Response<SubmitToolResultResponse>, Status> {
        unserved(&request)
    }
}
