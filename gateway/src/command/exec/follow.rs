//! The calls that bring the events of an execution.
use kernelbox_proto::v1::{
    CreateSessionRequest, ErrorCode, ExecuteRequest, ExecutionEvent, ResumeExecutionRequest, execution_event::Kind,
};
use tonic::{Status, Streaming};

use crate::command::{connect::Client, failure::is, follow::Call, request_id};

pub(super) struct Execution {
    pub client: Client,
    /// The same request id never runs twice, so this is safe to send again.
    pub request: ExecuteRequest,
    /// `sessions/{session}/executions/{execution}`
    pub name: String,
    /// Make the session first if there is none.
    pub create: bool,
}

impl Call for Execution {
    type Event = ExecutionEvent;

    async fn begin(&mut self, reached: &mut bool) -> Result<Streaming<ExecutionEvent>, Status> {
        match self.client.code().execute(self.request.clone()).await {
            Err(status) if self.create && is(&status, ErrorCode::SessionNotFound) => {
                *reached = true;
                self.create_session().await?;
                Ok(self.client.code().execute(self.request.clone()).await?.into_inner())
            }
            answer => Ok(answer?.into_inner()),
        }
    }

    async fn resume(&mut self, after: i64) -> Result<Streaming<ExecutionEvent>, Status> {
        let resume = ResumeExecutionRequest { name: self.name.clone(), after_sequence: after };
        Ok(self.client.code().resume_execution(resume).await?.into_inner())
    }

    fn sequence(event: &ExecutionEvent) -> i64 {
        event.sequence
    }

    fn is_last(event: &ExecutionEvent) -> bool {
        matches!(event.kind, Some(Kind::Finished(_)))
    }
}

impl Execution {
    async fn create_session(&self) -> Result<(), Status> {
        let session_id = self.request.session.trim_start_matches("sessions/").to_owned();
        let request = CreateSessionRequest { session_id, request_id: request_id(), ..CreateSessionRequest::default() };
        match self.client.sessions().create_session(request).await {
            // Another command was faster.
            Err(status) if !is(&status, ErrorCode::AlreadyExists) => Err(status),
            _ => Ok(()),
        }
    }
}
