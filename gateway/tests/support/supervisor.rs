//! A supervisor's service without kernels: its code is a few words that say what shall happen.
use std::{
    pin::Pin,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt as _};
use kernelbox_proto::{
    Error,
    sandbox::v1::{
        BindRequest, BindResponse, CheckpointDone, CheckpointRequest, CheckpointResponse, ConfirmCheckpointRequest,
        ConfirmCheckpointResponse, GetStatusRequest, GetStatusResponse, Lifecycle, RestoreRequest, RestoreResponse,
        RetireRequest, RetireResponse, SandboxNotice, WatchSandboxRequest, checkpoint_response, restore_request,
        sandbox_service_server::SandboxService,
    },
    v1::{self, ErrorCode, ExecutionEvent, ExecutionStatus, SessionEvent, StreamText, execution_event::Kind},
};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::World;

type Answer<T> = Result<Response<T>, Status>;
type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Debug)]
pub struct Life {
    retired: bool,
    session: String,
    running: usize,
    last: Instant,
    calls: usize,
    terminating: bool,
    /// Of the checkpoint that was made last, and of the one that was confirmed.
    number: i64,
    saved: i64,
    /// What the checkpoint after which nothing changed would be.
    changed: i64,
}

impl Life {
    /// Retires a sandbox that was used and does nothing now, as its supervisor would.
    pub fn retire_between_calls(&mut self) -> bool {
        let now = !self.retired && self.running == 0 && self.calls > 0;
        self.retired |= now;
        now
    }

    /// Tells the sandbox to end, as the system would.
    pub fn terminate(&mut self) {
        (self.retired, self.terminating) = (true, true);
    }

    /// Retires it at once, as the controller would.
    pub fn retire(&mut self) {
        self.retired = true;
    }

    /// Changes its files behind everybody's back.
    pub fn change(&mut self) {
        self.changed = self.number + 1;
    }

    pub fn unsaved(&self) -> bool {
        self.changed > self.saved
    }

    fn notice(&self) -> SandboxNotice {
        let lifecycle = if self.retired { Lifecycle::Retired } else { Lifecycle::Bound };
        SandboxNotice { lifecycle: lifecycle.into(), terminating: self.terminating, unsaved: self.unsaved() }
    }
}

pub struct Supervisor {
    world: Arc<World>,
    pub life: Arc<Mutex<Life>>,
}

fn retired() -> Status {
    Error::new(ErrorCode::SandboxRetired, "retired").into()
}

fn not_found(path: &str) -> Status {
    Error::new(ErrorCode::FileNotFound, format!("no {path}")).into()
}

fn scope<T>(request: &Request<T>, scope: &str) {
    let sent = request.metadata().get("authorization").expect("no token").to_str().unwrap();
    assert_eq!(sent, format!("Bearer {scope}"));
}

/// Work that keeps a sandbox from retiring.
struct Busy(Arc<Mutex<Life>>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut life = self.0.lock().unwrap();
        life.running -= 1;
        life.last = Instant::now();
    }
}

/// Counts an upload that did not come to its last byte.
struct Unfinished(Option<Arc<World>>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(world) = &self.0 {
            world.cut_off.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// What code does. The first words of `work`, `raise` and `eat` have a kernel that begins, and a story of their own.
fn played(code: &str, word: &str) -> Vec<Kind> {
    let finished = |status: ExecutionStatus, code: ErrorCode| {
        let half = prost_types::Duration { seconds: 0, nanos: 500_000_000 };
        let stages = [("queue".to_owned(), half), ("kernel".to_owned(), half)].into();
        let wall_time = Some(half);
        Kind::Finished(v1::ExecutionFinished {
            status: status.into(),
            wall_time,
            stages,
            code: code.into(),
            ..Default::default()
        })
    };
    let started = || Kind::Started(v1::ExecutionStarted::default());
    match word {
        "work" => {
            let package =
                v1::PackageInstalled { distribution: "humanize".into(), version: "4".into(), ..Default::default() };
            vec![started(), Kind::PackageInstalled(package), finished(ExecutionStatus::Ok, ErrorCode::Unspecified)]
        }
        "raise" => {
            let error = v1::CodeError { name: "ZeroDivisionError".into(), ..Default::default() };
            vec![started(), Kind::Error(error), finished(ExecutionStatus::Error, ErrorCode::Unspecified)]
        }
        "eat" => {
            let died = Kind::KernelDied(v1::KernelDied::default());
            vec![started(), died, finished(ExecutionStatus::Limit, ErrorCode::MemoryLimit)]
        }
        _ => {
            let kinds = (1..=4).map(|n| Kind::Stdout(StreamText { text: format!("{code} {n}") }));
            kinds.chain([Kind::Finished(v1::ExecutionFinished::default())]).collect()
        }
    }
}

impl Supervisor {
    pub fn new(world: Arc<World>) -> Self {
        let life = Life {
            retired: false,
            session: String::new(),
            running: 0,
            last: Instant::now(),
            calls: 0,
            terminating: false,
            number: 0,
            saved: 0,
            changed: 0,
        };
        Self { world, life: Arc::new(Mutex::new(life)) }
    }

    fn admit<T>(&self, request: &Request<T>) -> Result<Busy, Status> {
        scope(request, "Session");
        let mut life = self.life.lock().unwrap();
        if life.retired {
            return Err(retired());
        }
        assert!(!life.session.is_empty(), "a call before Bind");
        life.running += 1;
        life.calls += 1;
        Ok(Busy(Arc::clone(&self.life)))
    }

    fn events(&self, name: String, code: &str, after: i64, busy: Busy) -> Events<ExecutionEvent> {
        let (send, events) = mpsc::channel(1);
        let (code, word) = (code.to_owned(), code.split(' ').next().unwrap_or_default().to_owned());
        tokio::spawn(async move {
            let _busy = busy;
            for (sequence, kind) in (1..).zip(played(&code, &word)).skip(usize::try_from(after).unwrap()) {
                let event = ExecutionEvent { execution: name.clone(), sequence, time: None, kind: Some(kind) };
                if send.send(Ok(event)).await.is_err() {
                    return;
                }
                if word == "break" && after == 0 && sequence == 2 {
                    let _ = send.send(Err(Status::unavailable("the connection broke"))).await;
                    return;
                }
                if word == "hang" && sequence == 2 {
                    send.closed().await;
                    return;
                }
                if word == "slow" {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        });
        ReceiverStream::new(events).boxed()
    }

    fn file(&self, session: &str, path: &str, digest: bool) -> Result<v1::File, Status> {
        let files = self.world.files.lock().unwrap();
        let bytes = files.get(session).and_then(|it| it.get(path)).ok_or_else(|| not_found(path))?;
        Ok(v1::File {
            path: path.to_owned(),
            r#type: v1::FileType::File.into(),
            size: bytes.len() as i64,
            media_type: "text/plain".into(),
            sha256: if digest { hex::encode(Sha256::digest(bytes)) } else { String::new() },
            ..Default::default()
        })
    }
}

#[tonic::async_trait]
impl SandboxService for Supervisor {
    type CheckpointStream = Events<CheckpointResponse>;
    type WatchSandboxStream = Events<SandboxNotice>;
    type WatchSessionStream = Events<SessionEvent>;
    type ExecuteStream = Events<ExecutionEvent>;
    type ResumeExecutionStream = Events<ExecutionEvent>;
    type InstallPackagesStream = Events<v1::InstallPackagesEvent>;
    type DownloadStream = Events<v1::DownloadResponse>;

    async fn bind(&self, request: Request<BindRequest>) -> Answer<BindResponse> {
        scope(&request, "Lifecycle");
        let request = request.into_inner();
        {
            let mut life = self.life.lock().unwrap();
            if life.retired {
                return Err(retired());
            }
            life.session.clone_from(&request.session);
        }
        self.world.binds.lock().unwrap().push(request);
        Ok(Response::new(BindResponse {}))
    }

    async fn retire(&self, request: Request<RetireRequest>) -> Answer<RetireResponse> {
        scope(&request, "Lifecycle");
        let idle_for = Duration::try_from(request.into_inner().idle_for.unwrap()).unwrap();
        let mut life = self.life.lock().unwrap();
        let idle = if life.running > 0 { Duration::ZERO } else { life.last.elapsed() };
        life.retired |= idle >= idle_for;
        Ok(Response::new(RetireResponse { retired: life.retired, idle: idle.try_into().ok(), unsaved: life.unsaved() }))
    }

    async fn checkpoint(&self, request: Request<CheckpointRequest>) -> Answer<Self::CheckpointStream> {
        use checkpoint_response::Part;
        scope(&request, "Lifecycle");
        let (session, number) = {
            let mut life = self.life.lock().unwrap();
            life.number += 1;
            (life.session.clone(), life.number)
        };
        let files = self.world.files.lock().unwrap().get(&session).cloned().unwrap_or_default();
        let stream = serde_json::to_vec(&files).unwrap();
        let mark = hex::encode(Sha256::digest(&stream));
        let unchanged = mark == request.get_ref().unless_mark;
        let done = CheckpointDone {
            mark,
            unchanged,
            number,
            files: files.len() as i64,
            bytes: stream.len() as i64,
            skipped: self.world.skipped.lock().unwrap().clone(),
        };
        self.world.checkpoints.fetch_add(1, Ordering::SeqCst);
        if self.world.cut_checkpoints.load(Ordering::SeqCst) {
            return Err(Status::unavailable("as told"));
        }
        let chunks = stream.chunks(10_000).map(|chunk| Part::Chunk(chunk.to_vec().into())).filter(|_| !unchanged);
        let parts: Vec<_> = chunks.chain([Part::Done(done)]).collect();
        let parts = parts.into_iter().map(|part| Ok(CheckpointResponse { part: Some(part) }));
        Ok(Response::new(futures::stream::iter(parts).boxed()))
    }

    async fn confirm_checkpoint(
        &self,
        request: Request<ConfirmCheckpointRequest>,
    ) -> Answer<ConfirmCheckpointResponse> {
        scope(&request, "Lifecycle");
        self.life.lock().unwrap().saved = request.get_ref().number;
        Ok(Response::new(ConfirmCheckpointResponse {}))
    }

    async fn restore(&self, request: Request<Streaming<RestoreRequest>>) -> Answer<RestoreResponse> {
        use restore_request::Part;
        scope(&request, "Lifecycle");
        let mut parts = request.into_inner();
        let mut stream = Vec::new();
        let mut session = String::new();
        while let Some(message) = parts.message().await? {
            match message.part.unwrap() {
                Part::Header(header) => session = header.session,
                Part::Chunk(chunk) => stream.extend(chunk),
            }
        }
        let life = self.life.lock().unwrap();
        assert_eq!(
            (life.session.as_str(), life.calls),
            (session.as_str(), 0),
            "a restore comes after Bind, before calls"
        );
        let files = serde_json::from_slice(&stream).map_err(|_| Status::invalid_argument("damaged"))?;
        self.world.files.lock().unwrap().insert(session, files);
        Ok(Response::new(RestoreResponse::default()))
    }

    async fn watch_sandbox(&self, request: Request<WatchSandboxRequest>) -> Answer<Self::WatchSandboxStream> {
        scope(&request, "Lifecycle");
        let life = Arc::clone(&self.life);
        let notices = futures::stream::unfold(None, move |told| {
            let life = Arc::clone(&life);
            async move {
                loop {
                    let notice = life.lock().unwrap().notice();
                    if told != Some(notice) {
                        return Some((Ok(notice), Some(notice)));
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
        Ok(Response::new(notices.boxed()))
    }

    async fn get_status(&self, request: Request<GetStatusRequest>) -> Answer<GetStatusResponse> {
        scope(&request, "Lifecycle");
        let took = prost_types::Duration { seconds: 1, nanos: 0 };
        let stages = [("zygote".to_owned(), took), ("first_answer".to_owned(), took)].into();
        Ok(Response::new(GetStatusResponse { stages, memory_bytes: 5000, ..Default::default() }))
    }

    async fn keep_alive(&self, request: Request<v1::KeepAliveRequest>) -> Answer<v1::KeepAliveResponse> {
        self.admit(&request)?;
        Ok(Response::new(v1::KeepAliveResponse {}))
    }

    async fn watch_session(&self, request: Request<v1::WatchSessionRequest>) -> Answer<Self::WatchSessionStream> {
        drop(self.admit(&request)?);
        let late = v1::LateOutput { context: "python3".into(), ..Default::default() };
        let event = SessionEvent { time: None, kind: Some(v1::session_event::Kind::LateOutput(late)) };
        let events = futures::stream::iter([Ok(event)]).chain(futures::stream::pending());
        Ok(Response::new(events.boxed()))
    }

    async fn execute(&self, request: Request<v1::ExecuteRequest>) -> Answer<Self::ExecuteStream> {
        let busy = self.admit(&request)?;
        let request = request.into_inner();
        *self.world.runs.lock().unwrap().entry(request.request_id.clone()).or_default() += 1;
        let name = format!("{}/executions/{}", request.session, request.request_id);
        Ok(Response::new(self.events(name, &request.code, 0, busy)))
    }

    async fn resume_execution(
        &self,
        request: Request<v1::ResumeExecutionRequest>,
    ) -> Answer<Self::ResumeExecutionStream> {
        let busy = self.admit(&request)?;
        let request = request.into_inner();
        Ok(Response::new(self.events(request.name, "resumed", request.after_sequence, busy)))
    }

    async fn upload(&self, request: Request<Streaming<v1::UploadRequest>>) -> Answer<v1::File> {
        let _busy = self.admit(&request)?;
        let mut stream = request.into_inner();
        let Some(v1::upload_request::Part::Header(header)) = stream.message().await?.and_then(|it| it.part) else {
            return Err(Status::invalid_argument("no header"));
        };
        // A call that is broken off ends with an error or is dropped as it stands.
        let mut unfinished = Unfinished(Some(Arc::clone(&self.world)));
        let mut bytes = Vec::new();
        while let Some(message) = stream.message().await? {
            match message.part {
                Some(v1::upload_request::Part::Chunk(chunk)) => bytes.extend(chunk),
                _ => return Err(Status::invalid_argument("no chunk")),
            }
        }
        unfinished.0 = None;
        let session = header.session.clone();
        let mut files = self.world.files.lock().unwrap();
        let files_of = files.entry(header.session).or_default();
        if files_of.contains_key(&header.path) && !header.overwrite {
            return Err(Error::new(ErrorCode::AlreadyExists, "exists").into());
        }
        files_of.insert(header.path.clone(), bytes);
        drop(files);
        self.life.lock().unwrap().change();
        self.file(&session, &header.path, true).map(Response::new)
    }

    async fn download(&self, request: Request<v1::DownloadRequest>) -> Answer<Self::DownloadStream> {
        use v1::download_response::Part;
        let busy = self.admit(&request)?;
        let request = request.into_inner();
        let file = self.file(&request.session, &request.path, false)?;
        let bytes = self.world.files.lock().unwrap()[&request.session][&request.path].clone();
        let from = usize::try_from(request.offset).unwrap();
        let length = if request.length == 0 { usize::MAX } else { usize::try_from(request.length).unwrap() };
        let wanted: Vec<u8> = bytes.into_iter().skip(from).take(length).collect();
        let chunks: Vec<_> = wanted.chunks(64 << 10).map(|it| Part::Chunk(it.to_vec().into())).collect();
        let parts = [Part::File(file)].into_iter().chain(chunks);
        let answers = parts.map(move |part| {
            let _ = &busy;
            Ok(v1::DownloadResponse { part: Some(part) })
        });
        Ok(Response::new(futures::stream::iter(answers.collect::<Vec<_>>()).boxed()))
    }

    async fn stat_file(&self, request: Request<v1::StatFileRequest>) -> Answer<v1::File> {
        let _busy = self.admit(&request)?;
        let request = request.into_inner();
        self.file(&request.session, &request.path, request.digest).map(Response::new)
    }

    async fn delete_file(&self, request: Request<v1::DeleteFileRequest>) -> Answer<v1::DeleteFileResponse> {
        let _busy = self.admit(&request)?;
        let request = request.into_inner();
        let mut files = self.world.files.lock().unwrap();
        let gone = files.get_mut(&request.session).and_then(|it| it.remove(&request.path));
        gone.map(|_| Response::new(v1::DeleteFileResponse {})).ok_or_else(|| not_found(&request.path))
    }

    async fn list_kernels(&self, request: Request<v1::ListKernelsRequest>) -> Answer<v1::ListKernelsResponse> {
        let _busy = self.admit(&request)?;
        let kernel = v1::Kernel { kernel: "python3".into(), ..Default::default() };
        Ok(Response::new(v1::ListKernelsResponse { kernels: vec![kernel] }))
    }

    async fn install_packages(&self, _: Request<v1::InstallPackagesRequest>) -> Answer<Self::InstallPackagesStream> {
        Err(Status::unimplemented("not played"))
    }

    async fn get_execution(&self, _: Request<v1::GetExecutionRequest>) -> Answer<v1::Execution> {
        Err(Status::unimplemented("not played"))
    }

    async fn list_executions(&self, _: Request<v1::ListExecutionsRequest>) -> Answer<v1::ListExecutionsResponse> {
        Err(Status::unimplemented("not played"))
    }

    async fn send_input(&self, _: Request<v1::SendInputRequest>) -> Answer<v1::SendInputResponse> {
        Err(Status::unimplemented("not played"))
    }

    async fn interrupt(&self, _: Request<v1::InterruptRequest>) -> Answer<v1::InterruptResponse> {
        Err(Status::unimplemented("not played"))
    }

    async fn restart_kernel(&self, _: Request<v1::RestartKernelRequest>) -> Answer<v1::Context> {
        Err(Status::unimplemented("not played"))
    }

    async fn create_context(&self, _: Request<v1::CreateContextRequest>) -> Answer<v1::Context> {
        Err(Status::unimplemented("not played"))
    }

    async fn list_contexts(&self, _: Request<v1::ListContextsRequest>) -> Answer<v1::ListContextsResponse> {
        Err(Status::unimplemented("not played"))
    }

    async fn delete_context(&self, _: Request<v1::DeleteContextRequest>) -> Answer<v1::DeleteContextResponse> {
        Err(Status::unimplemented("not played"))
    }

    async fn list_packages(&self, _: Request<v1::ListPackagesRequest>) -> Answer<v1::ListPackagesResponse> {
        Err(Status::unimplemented("not played"))
    }

    async fn list_variables(&self, _: Request<v1::ListVariablesRequest>) -> Answer<v1::ListVariablesResponse> {
        Err(Status::unimplemented("not played"))
    }

    async fn list_files(&self, _: Request<v1::ListFilesRequest>) -> Answer<v1::ListFilesResponse> {
        Err(Status::unimplemented("not played"))
    }

    async fn move_file(&self, _: Request<v1::MoveFileRequest>) -> Answer<v1::File> {
        Err(Status::unimplemented("not played"))
    }

    async fn make_directory(&self, _: Request<v1::MakeDirectoryRequest>) -> Answer<v1::File> {
        Err(Status::unimplemented("not played"))
    }
}
