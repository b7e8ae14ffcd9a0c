//! Sessions, as gateways have them: a generation that is raised before each new sandbox is asked for, and the answer that was taken.
use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use kernelbox_proto::controller::v1::{
    AcquireEvent, AcquireRequest, AcquiredSandbox, ReleaseRequest, acquire_event::Kind,
    allocator_service_server::AllocatorService as _,
};
use tokio::task::JoinHandle;
use tonic::Request;

use super::{
    api::{Api, text},
    holds::is_ended,
};
use crate::allocator::Allocator;

#[derive(Default)]
pub(super) struct Gateways {
    sessions: Vec<Session>,
    asked: Vec<Asked>,
    pub(super) broken: Vec<String>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Session {
    generation: i64,
    /// The first of those before it that no answer came for.
    unanswered: Option<i64>,
    /// The answer of this generation that the session got: what it writes from.
    taken: Option<AcquiredSandbox>,
    is_released: bool,
}

struct Asked {
    session: usize,
    generation: i64,
    existing_only: bool,
    answer: Arc<Mutex<Option<Option<AcquiredSandbox>>>>,
    task: JoinHandle<()>,
    /// The answer does not arrive.
    is_lost: bool,
    is_seen: bool,
}

impl Gateways {
    pub(super) fn new(sessions: usize) -> Self {
        Self { sessions: vec![Session::default(); sessions], ..Self::default() }
    }

    /// A new sandbox is needed. What is left of an earlier one is out of date.
    pub(super) fn ask(&mut self, session: usize, on: &Allocator) {
        self.hang_up(session);
        let generation = self.sessions[session].generation + 1;
        self.sessions[session] = Session { generation, ..Session::default() };
        self.send(session, on, false);
    }

    /// No answer came: it asks again, as a later generation. `is_parted`: the first replica does not know that nobody listens any more.
    pub(super) fn ask_again(&mut self, session: usize, on: &Allocator, is_parted: bool) {
        let known = &mut self.sessions[session];
        if known.generation == 0 || known.is_released || known.taken.is_some() {
            return;
        }
        known.unanswered.get_or_insert(known.generation);
        known.generation += 1;
        if is_parted {
            self.lose(session);
        } else {
            self.hang_up(session);
        }
        self.send(session, on, false);
    }

    /// Another gateway takes the session over.
    pub(super) fn find(&mut self, session: usize, on: &Allocator) {
        if self.sessions[session].taken.is_some() {
            self.send(session, on, true);
        }
    }

    /// The answer to what is asked now will not arrive.
    pub(super) fn lose(&mut self, session: usize) {
        for asked in self.asked.iter_mut().filter(|it| it.session == session && !it.is_seen) {
            asked.is_lost = true;
        }
    }

    /// The streams of its asks are dropped.
    pub(super) fn hang_up(&mut self, session: usize) {
        self.lose(session);
        for asked in self.asked.iter().filter(|it| it.session == session) {
            asked.task.abort();
        }
    }

    /// Its sandbox is needed no more.
    pub(super) fn release(&mut self, session: usize, on: &Allocator) {
        let Some(AcquiredSandbox { sandbox, uid, .. }) = self.sessions[session].taken.take() else { return };
        self.sessions[session].is_released = true;
        let on = on.clone();
        tokio::spawn(async move { on.release(signed(ReleaseRequest { sandbox, uid })).await });
    }

    fn send(&mut self, session: usize, on: &Allocator, existing_only: bool) {
        let Session { generation, unanswered, .. } = self.sessions[session];
        let request = AcquireRequest {
            session: name(session),
            generation,
            tenant: format!("tenant-{}", session % 2),
            template: "t".to_owned(),
            existing_only,
            idle_timeout: None,
            unanswered_generation: unanswered.filter(|_| !existing_only).unwrap_or_default(),
        };
        let (answer, on) = (Arc::<Mutex<Option<Option<AcquiredSandbox>>>>::default(), on.clone());
        let given = Arc::clone(&answer);
        let task = tokio::spawn(async move {
            let acquired = asked(&on, request).await;
            *given.lock().unwrap() = Some(acquired);
        });
        self.asked.push(Asked { session, generation, existing_only, answer, task, is_lost: false, is_seen: false });
    }

    /// Takes the answers that arrived, and looks whether what must hold of them does.
    pub(super) fn take(&mut self, api: &mut Api) {
        for asked in self.asked.iter_mut().filter(|it| !it.is_seen && it.task.is_finished()) {
            asked.is_seen = true;
            let Some(Some(answer)) = asked.answer.lock().unwrap().take() else { continue };
            api.story.given(&name(asked.session), asked.generation, &answer.sandbox, &answer.uid);
            let session = &mut self.sessions[asked.session];
            if asked.is_lost || asked.generation != session.generation {
                continue;
            }
            let is_twice = api.story.more_than_once.contains(&(name(asked.session), asked.generation));
            match &session.taken {
                Some(taken) if taken.uid != answer.uid && !is_twice => {
                    let whose = format!("{} ({})", name(asked.session), asked.generation);
                    self.broken.push(format!("{whose} writes from {} and from {}", taken.sandbox, answer.sandbox));
                }
                // Another gateway finds nothing that the session did not have before.
                None if asked.existing_only => {}
                Some(_) => {}
                None => session.taken = Some(answer),
            }
        }
        let mut broken = Vec::new();
        for (session, taken) in self.taken() {
            let Some(sandbox) = api.get("sandboxes", &taken.sandbox) else { continue };
            let is_that = text(sandbox, "/status/podUid") == taken.uid;
            if is_that && is_ended(sandbox) && text(sandbox, "/status/endReason") == "Superseded" {
                broken.push(format!("{session} writes from {}, which is taken for superseded", taken.sandbox));
            }
        }
        self.broken.extend(broken);
        self.broken.extend(api.story.given_twice());
    }

    /// What each session writes from.
    pub(super) fn taken(&self) -> impl Iterator<Item = (String, &AcquiredSandbox)> {
        let sessions = self.sessions.iter().enumerate();
        sessions.filter_map(|(number, it)| Some((name(number), it.taken.as_ref()?)))
    }

    /// Who still waits for an answer, by its generation.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (String, i64)> {
        self.asked.iter().filter(|it| !it.task.is_finished()).map(|it| (name(it.session), it.generation))
    }
}

pub(super) fn name(session: usize) -> String {
    format!("sessions/s{session}")
}

async fn asked(on: &Allocator, request: AcquireRequest) -> Option<AcquiredSandbox> {
    let mut events = on.acquire(signed(request)).await.ok()?.into_inner();
    while let Some(event) = events.next().await {
        if let Ok(AcquireEvent { kind: Some(Kind::Acquired(acquired)) }) = event {
            return Some(acquired);
        }
    }
    None
}

fn signed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", "Bearer gateway".parse().unwrap());
    request
}
