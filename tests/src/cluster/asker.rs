//! Asks the controller for sandboxes as a gateway does, and speaks to them, for tests and benches that are about nothing else.
use kernelbox_proto::{
    controller::v1::{
        AcquireRequest, AcquiredSandbox, ReleaseRequest, acquire_event::Kind,
        allocator_service_client::AllocatorServiceClient,
    },
    sandbox::v1::{BindRequest, sandbox_service_client::SandboxServiceClient},
    v1::{ExecuteRequest, execution_event},
};
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

use super::{OWN, kubectl};

pub struct Asker {
    channel: Channel,
    token: String,
}

impl Asker {
    /// At the controller's address.
    pub async fn connect(endpoint: &str) -> Self {
        let channel = Endpoint::from_shared(endpoint.to_owned()).unwrap().connect().await.unwrap();
        let token = kubectl(&["create", "token", "-n", OWN, "kernelbox-gateway", "--audience=kernelbox-controller"]);
        Self { channel, token: token.trim().to_owned() }
    }

    /// Of the session's first generation.
    pub async fn acquire(&self, session: &str, template: &str) -> AcquiredSandbox {
        self.ask(session, template, 1).await.unwrap()
    }

    /// As no answer came.
    pub async fn acquire_again(&self, session: &str, template: &str) -> AcquiredSandbox {
        self.ask(session, template, 2).await.unwrap()
    }

    /// Of a generation, if the session has no later one already.
    pub async fn ask(&self, session: &str, template: &str, generation: i64) -> Result<AcquiredSandbox, tonic::Status> {
        let request = AcquireRequest {
            session: session.into(),
            generation,
            tenant: "bench".into(),
            template: template.into(),
            existing_only: false,
            idle_timeout: None,
            unanswered_generation: generation - 1,
        };
        let mut client = AllocatorServiceClient::new(self.channel.clone());
        let mut events = client.acquire(signed(&self.token, request)).await?.into_inner();
        loop {
            if let Some(Kind::Acquired(sandbox)) = events.message().await?.expect("a sandbox").kind {
                return Ok(sandbox);
            }
        }
    }

    pub async fn release(&self, sandbox: AcquiredSandbox) {
        let request = ReleaseRequest { sandbox: sandbox.sandbox, uid: sandbox.uid };
        AllocatorServiceClient::new(self.channel.clone()).release(signed(&self.token, request)).await.unwrap();
    }
}

/// Binds the sandbox at this address to its session and runs code there, until its first result or its end.
pub async fn first_answer(endpoint: &str, sandbox: &AcquiredSandbox, session: &str, code: &str) {
    let channel = Endpoint::from_shared(endpoint.to_owned()).unwrap().connect().await.unwrap();
    let mut client = SandboxServiceClient::new(channel);
    let bind = BindRequest { session: session.into(), generation: 1, ..Default::default() };
    client.bind(signed(&sandbox.token, bind)).await.unwrap();
    let code = ExecuteRequest { session: session.into(), code: code.into(), ..Default::default() };
    let mut events = client.execute(signed(&sandbox.token, code)).await.unwrap().into_inner();
    while let Some(event) = events.message().await.unwrap() {
        if matches!(event.kind, Some(execution_event::Kind::Result(_) | execution_event::Kind::Finished(_))) {
            return;
        }
    }
    panic!("no answer");
}

fn signed<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}
