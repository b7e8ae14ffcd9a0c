//! The way to the API server: requests as the real client makes them, and what can happen to them on the way.
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{Method, StatusCode, Uri},
    response::Response,
};
use kube::Client;
use serde_json::{Value, json};

use super::api::{Api, Refusal, text};

pub(super) const NAMESPACE: &str = "kernelbox-sandboxes";
/// The gateways' account, and ours.
pub(super) const ACCOUNT: &str = "system:serviceaccount:kernelbox:kernelbox-gateway";
/// A write that nobody waits for any more is done after so long.
const LATE: Duration = Duration::from_secs(8);

/// What happens to the next write of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is not done, and that is said.
    Fails,
    /// It is not done, and nothing is said.
    Silence,
    /// It is done, and the answer is an error.
    AnswerLost,
    /// It is done, and nothing is said.
    SilenceAfter,
    /// It is done, and the watch may be faster than the answer.
    Slow,
    /// It is done when its caller has given it up.
    Late,
    /// A pod is refused: quota.
    Refused,
}

pub(super) struct Server {
    api: Mutex<Api>,
    faults: Mutex<[VecDeque<Fault>; 2]>,
}

/// A request, understood.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) replica: usize,
    pub(super) verb: Method,
    pub(super) kind: String,
    name: String,
    pub(super) is_status: bool,
    query: String,
    body: Value,
    /// Its caller has given it up.
    pub(super) is_late: bool,
}

impl Server {
    pub(super) fn new(api: Api) -> Arc<Self> {
        Arc::new(Self { api: Mutex::new(api), faults: Mutex::default() })
    }

    pub(super) fn api(&self) -> MutexGuard<'_, Api> {
        self.api.lock().unwrap()
    }

    pub(super) fn client(self: &Arc<Self>, replica: usize) -> Client {
        let server = Arc::clone(self);
        let answer = move |request: Request| {
            let server = Arc::clone(&server);
            async move { server.answer(replica, request).await }
        };
        Client::new(Router::new().fallback(answer), NAMESPACE)
    }

    pub(super) fn next_fault(&self, replica: usize, fault: Fault) {
        self.faults.lock().unwrap()[replica].push_back(fault);
    }

    pub(super) fn no_more_faults(&self) {
        *self.faults.lock().unwrap() = Default::default();
    }

    async fn answer(self: Arc<Self>, replica: usize, request: Request) -> Response {
        let (head, body) = request.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        let mut call = Call::new(replica, head.method, &head.uri, body);
        let fault = if call.may_fail() { self.faults.lock().unwrap()[replica].pop_front() } else { None };
        call.is_late = fault == Some(Fault::Late);
        match fault {
            Some(Fault::Fails) => failure(StatusCode::INTERNAL_SERVER_ERROR, "etcd is away"),
            Some(Fault::Silence) => std::future::pending().await,
            Some(Fault::AnswerLost) => {
                self.carry_out(call);
                failure(StatusCode::INTERNAL_SERVER_ERROR, "the answer is lost")
            }
            Some(Fault::SilenceAfter) => {
                self.carry_out(call);
                std::future::pending().await
            }
            Some(Fault::Slow) => {
                let answer = self.carry_out(call);
                tokio::time::sleep(Duration::from_millis(20)).await;
                answer
            }
            Some(Fault::Late) => {
                tokio::spawn(async move {
                    tokio::time::sleep(LATE).await;
                    self.carry_out(call);
                });
                std::future::pending().await
            }
            Some(Fault::Refused) if call.kind == "pods" && call.verb == Method::POST => {
                failure(StatusCode::FORBIDDEN, "exceeded quota")
            }
            Some(Fault::Refused) | None => self.carry_out(call),
        }
    }

    fn carry_out(&self, call: Call) -> Response {
        let mut api = self.api();
        let before = api.get(&call.kind, &call.name).cloned();
        let answer = match call.verb.as_str() {
            "GET" if call.name.is_empty() => Ok(list(&api, &call)),
            "GET" => before.clone().ok_or(Refusal::NotFound),
            "POST" if call.kind == "events" => Ok(call.body.clone()),
            "POST" if call.kind == "tokenreviews" => Ok(reviewed(call.body.clone())),
            "POST" => api.create(&call.kind, call.body.clone()),
            "PUT" => api.replace(&call.kind, call.is_status, &call.body),
            "PATCH" => api.patch(&call.kind, &call.name, call.body.clone()),
            "DELETE" => {
                let answer = api.delete(&call.kind, &call.name, &call.body["preconditions"]);
                answer.map(|left| left.unwrap_or_else(|| json!({"kind": "Status", "status": "Success"})))
            }
            other => unreachable!("{other}"),
        };
        match answer {
            Ok(answer) => {
                if call.may_fail() {
                    let about = if text(&answer, "/kind") == "Status" { before.as_ref() } else { Some(&answer) };
                    api.wrote(&call, about.unwrap(), before.as_ref());
                }
                response(StatusCode::OK, &answer)
            }
            Err(Refusal::NotFound) => failure(StatusCode::NOT_FOUND, "NotFound"),
            Err(Refusal::Conflict) => failure(StatusCode::CONFLICT, "Conflict"),
            Err(Refusal::AlreadyExists) => failure(StatusCode::CONFLICT, "AlreadyExists"),
        }
    }
}

impl Call {
    fn new(replica: usize, verb: Method, uri: &Uri, body: Value) -> Self {
        let parts: Vec<&str> = uri.path().split('/').collect();
        let rest = match parts.iter().position(|it| *it == "namespaces") {
            Some(at) => &parts[at + 2..],
            None => &parts[parts.len() - 1..],
        };
        let part = |at: usize| rest.get(at).copied().unwrap_or_default().to_owned();
        let (is_status, query) = (part(2) == "status", uri.query().unwrap_or_default().to_owned());
        Self { replica, verb, kind: part(0), name: part(1), is_status, query, body, is_late: false }
    }

    /// The rest is no part of what is looked at here: keys, events, who asks.
    fn may_fail(&self) -> bool {
        self.verb != Method::GET
            && ["sandboxes", "pods", "networkpolicies", "sandboxpools", "sandboxtemplates"]
                .contains(&self.kind.as_str())
    }
}

/// Those with the one label that is asked for.
fn list(api: &Api, call: &Call) -> Value {
    let value = call.query.rsplit("%3D").next().unwrap_or_default();
    let has_it =
        |it: &&Value| it["metadata"]["labels"].as_object().is_some_and(|all| all.values().any(|it| it == value));
    let items: Vec<&Value> = api.all(&call.kind).filter(has_it).collect();
    json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})
}

fn reviewed(mut review: Value) -> Value {
    review["status"] =
        json!({"authenticated": true, "audiences": [crate::auth::AUDIENCE], "user": {"username": ACCOUNT}});
    review
}

fn failure(status: StatusCode, reason: &str) -> Response {
    let code = status.as_u16();
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code});
    response(status, &body)
}

fn response(status: StatusCode, body: &Value) -> Response {
    Response::builder().status(status).body(Body::from(serde_json::to_vec(body).unwrap())).unwrap()
}
