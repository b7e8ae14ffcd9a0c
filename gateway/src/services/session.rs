//! SessionService: the sessions themselves. Nothing here starts a sandbox but `CreateSession` with `start`.
mod validate;
mod watch;

use std::time::Duration;

use kernelbox_proto::{
    Error, SessionId,
    v1::{
        CreateSessionRequest, DeleteSessionRequest, DeleteSessionResponse, ErrorCode, GetSessionRequest,
        KeepAliveRequest, KeepAliveResponse, ListSessionsRequest, ListSessionsResponse, Session, SessionEvent,
        UpdateSessionRequest, WatchSessionRequest, session_service_server::SessionService,
    },
};
use tonic::{Request, Response, Status};

use super::{Caller, Events, Services};
use crate::{
    agent::system_prompt,
    limits::Work,
    sandbox::Scope,
    sessions::Verdict,
    store::{Created, Micros, NewSession, PageToken, RequestKey},
    turns::Turns,
};

/// How long a sandbox may take to note that it is still wanted.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(crate) struct Sessions {
    pub services: Services,
    pub turns: Turns,
}

impl Sessions {
    async fn create(&self, caller: &Caller, request: CreateSessionRequest) -> Result<Session, Error> {
        self.services.gate.admits()?;
        let digest = validate::digest(&request);
        let settings = validate::settings(request.session.unwrap_or_default())?;
        self.services.router.check_template(&settings.template)?;
        let id: SessionId = match request.session_id.as_str() {
            "" => self.services.router.new_id()?,
            id => id.parse().map_err(|_| Error::invalid("session_id", "must be 1 to 63 of a-z, 0-9 and \"-\""))?,
        };
        let request_key = match request.request_id.as_str() {
            "" => None,
            id => {
                validate::request_id(id)?;
                Some(RequestKey { id: id.to_owned(), digest })
            }
        };
        let new = NewSession {
            id: id.clone(),
            tenant: caller.tenant.clone(),
            settings,
            request: request_key,
            limit: caller.limits.sessions,
        };
        let record = match self.services.router.store().create(new).await? {
            Created::New(record) => {
                self.services.router.metrics().sessions_created.inc();
                record
            }
            Created::Before(record) => record,
            Created::RequestReused => {
                return Err(Error::new(ErrorCode::RequestIdReused, "request_id was used before for another session"));
            }
            Created::Taken => {
                return Err(Error::new(ErrorCode::AlreadyExists, format!("a session {id} exists already")));
            }
            Created::OverLimit => {
                let limit = caller.limits.sessions;
                return Err(Error::new(
                    ErrorCode::QuotaExceeded,
                    format!("{limit} sessions are open, which is the limit (--max-sessions); delete one"),
                )
                .with("limit", "max-sessions"));
            }
        };
        if request.start {
            let slot = self.services.router.slot(record.clone());
            self.services.router.sandbox(&slot).await?;
            return Ok(self.services.router.public(&slot.record()));
        }
        Ok(self.services.router.public(&record))
    }

    async fn list(&self, caller: &Caller, request: ListSessionsRequest) -> Result<ListSessionsResponse, Error> {
        let size = super::page_size(request.page_size)?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(PageToken::decode(token)?),
        };
        let (records, next) = self.services.router.store().list(&caller.tenant, &request.labels, size, after).await?;
        Ok(ListSessionsResponse {
            sessions: records.iter().map(|record| self.services.router.public(record)).collect(),
            next_page_token: next.map(|it| it.encode()).unwrap_or_default(),
        })
    }

    async fn update(&self, caller: &Caller, request: UpdateSessionRequest) -> Result<Session, Error> {
        let session = request.session.ok_or_else(|| Error::invalid("session", "must be set"))?;
        let slot = self.services.router.find(&caller.tenant, &SessionId::from_name(&session.name)?).await?;
        loop {
            let record = self.services.router.read(&caller.tenant, &slot.id).await?;
            if !session.etag.is_empty() && session.etag != record.etag() {
                return Err(Error::new(
                    ErrorCode::Conflict,
                    "the session was changed since it was read (etag); read it again",
                ));
            }
            let mask = request.update_mask.as_ref().map(|mask| mask.paths.as_slice());
            let merged = validate::merge(record.secret_settings(), &session, mask)?;
            let settings = validate::settings(merged)?;
            self.services.router.check_template(&settings.template)?;
            // None: another update came between; without an etag this one goes on top of it.
            if let Some(record) = self.services.router.store().update(&slot.id, record.revision, &settings).await? {
                slot.renew(record.clone());
                // So that the next call finds what it was changed to.
                if let Some(live) = slot.live().filter(|live| live.is_outdated(&slot)) {
                    self.services.router.leave_outdated(&slot, &live).await;
                }
                return Ok(self.services.router.public(&record));
            }
        }
    }

    async fn delete(&self, caller: &Caller, name: &str) -> Result<(), Error> {
        let record = self.services.router.read(&caller.tenant, &SessionId::from_name(name)?).await?;
        self.turns.cancel_of(&record.id, "the session was deleted").await;
        let (router, slot) = (self.services.router.clone(), self.services.router.slot(record));
        // In a task of its own: an end that has begun goes on, whether its caller waits or not.
        let task = self.services.router.tasks().spawn(async move { router.delete(&slot).await });
        task.await.map_err(|error| super::internal("the end of a session", &error))?
    }

    async fn keep_alive(&self, caller: &Caller, request: KeepAliveRequest) -> Result<(), Error> {
        let slot = self.services.router.find(&caller.tenant, &SessionId::from_name(&request.name)?).await?;
        slot.touch();
        if let Some(live) = slot.live() {
            let mut client = live.sandbox.client(Scope::Session);
            match tokio::time::timeout(KEEP_ALIVE, client.keep_alive(request)).await {
                Ok(Ok(_)) => {}
                Ok(Err(status)) => match self.services.router.verdict(&slot, &live, &status, false).await {
                    // A sandbox that is gone need not be kept.
                    Verdict::NotRun | Verdict::Lost(_) | Verdict::Broken => {}
                    Verdict::Refused(error) => return Err(error),
                },
                Err(_) => {
                    return Err(Error::new(ErrorCode::DeadlineExceeded, "the session's sandbox does not answer"));
                }
            }
        }
        self.services.router.store().active(&slot.id, Micros::now()).await?;
        Ok(())
    }
}

#[tonic::async_trait]
impl SessionService for Sessions {
    type WatchSessionStream = Events<SessionEvent>;

    async fn create_session(&self, request: Request<CreateSessionRequest>) -> Result<Response<Session>, Status> {
        let caller = Caller::of(&request)?;
        let created = self.create(&caller, request.into_inner()).await;
        created.map(Response::new).map_err(|error| caller.status(error))
    }

    async fn get_session(&self, request: Request<GetSessionRequest>) -> Result<Response<Session>, Status> {
        let caller = Caller::of(&request)?;
        let read = async {
            let id = SessionId::from_name(&request.get_ref().name)?;
            let record = self.services.router.read(&caller.tenant, &id).await?;
            let mut session = self.services.router.public(&record);
            session.effective_system_prompt = system_prompt(&session);
            Ok(session)
        };
        read.await.map(Response::new).map_err(|error: Error| caller.status(error))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let listed = self.list(&caller, request.into_inner()).await;
        listed.map(Response::new).map_err(|error| caller.status(error))
    }

    async fn update_session(&self, request: Request<UpdateSessionRequest>) -> Result<Response<Session>, Status> {
        let caller = Caller::of(&request)?;
        let updated = self.update(&caller, request.into_inner()).await;
        updated.map(Response::new).map_err(|error| caller.status(error))
    }

    async fn delete_session(
        &self,
        request: Request<DeleteSessionRequest>,
    ) -> Result<Response<DeleteSessionResponse>, Status> {
        let caller = Caller::of(&request)?;
        let deleted = self.delete(&caller, &request.get_ref().name).await;
        deleted.map(|()| Response::new(DeleteSessionResponse {})).map_err(|error| caller.status(error))
    }

    async fn keep_alive(&self, request: Request<KeepAliveRequest>) -> Result<Response<KeepAliveResponse>, Status> {
        let caller = Caller::of(&request)?;
        let kept = self.keep_alive(&caller, request.into_inner()).await;
        kept.map(|()| Response::new(KeepAliveResponse {})).map_err(|error| caller.status(error))
    }

    async fn watch_session(
        &self,
        request: Request<WatchSessionRequest>,
    ) -> Result<Response<Self::WatchSessionStream>, Status> {
        let caller = Caller::of(&request)?;
        let open = async {
            let id = SessionId::from_name(&request.get_ref().name)?;
            let permit = self.services.gate.begin(&caller.tenant, &caller.limits, Work::Watch)?;
            let slot = self.services.router.find(&caller.tenant, &id).await?;
            Ok(watch::stream(self.services.router.clone(), slot, caller.clone(), permit))
        };
        open.await.map(Response::new).map_err(|error: Error| caller.status(error))
    }
}
