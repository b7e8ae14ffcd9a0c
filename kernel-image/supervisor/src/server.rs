//! Wires the supervisor together, serves it, and ends it.
mod ending;

use std::{
    fs,
    future::Future,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use cap_std::{ambient_authority, fs::Dir};
use kernelbox_proto::sandbox::v1::sandbox_service_server::SandboxServiceServer;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
    task::JoinHandle,
};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};
use tonic_health::ServingStatus;
use tracing::{Span, field::Empty};

use self::ending::{Ending, Endings};
use crate::{
    access::Access,
    args::ServeArgs,
    artifacts::Artifacts,
    auth::Verifier,
    checkpoint::{Checkpoints, Roots},
    contexts::Contexts,
    embedded,
    events::SessionEvents,
    execution::Executions,
    interpreter,
    lifecycle::Lifecycle,
    packages::Packages,
    sandbox::{self, Sandbox},
    service::Service,
    spec::{PYTHON, Specs},
    sync::lock,
    watchdog::{self, Limits},
    workspace::{Quota, Workspace},
    zygote::{Begin, Source, Zygote},
};

/// The largest message that is taken.
const MAX_MESSAGE: usize = 4 << 20;
/// How long calls may go on after the first signal to end.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Serves until a signal, or the end of standard input.
pub async fn run(mut args: ServeArgs) -> anyhow::Result<()> {
    let began = Instant::now();
    args.python = interpreter::find(&args.python)?;
    let (breaches, watched) = watch::channel(None);
    let quota = args.disk_limit.map_or_else(Quota::unlimited, Quota::new);
    let (sandbox, workspace) = open(&args, watched, quota.clone())?;
    let sandbox = Arc::new(sandbox);
    let contexts = Arc::new(Contexts::new(Arc::clone(&sandbox)));
    let verifier = Verifier::new(&args.public_keys, &args.uid);
    let access = Arc::new(Access::new(verifier, sandbox.lifecycle.clone()));
    let roots = Roots {
        workspace: Arc::clone(workspace.root()),
        packages: Arc::new(
            Dir::open_ambient_dir(&args.packages, ambient_authority()).context("cannot open the packages")?,
        ),
    };
    let checkpoints = Checkpoints::new(Arc::clone(&access), roots, quota.clone(), Arc::clone(&sandbox.artifacts));
    let service = Service::new(Arc::clone(&sandbox), Arc::clone(&contexts), access, workspace, checkpoints);
    let watchdog = watch_limits(&args, &sandbox, quota, breaches);

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::NotServing).await;
    let code = SandboxServiceServer::new(service).max_decoding_message_size(MAX_MESSAGE);
    let router = Server::builder().trace_fn(span).add_service(health_service).add_service(code);
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let serving: std::pin::Pin<Box<dyn Future<Output = _> + Send>> = match args.listen.strip_prefix("unix:") {
        Some(path) => {
            fs::remove_file(path).ok();
            let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {path}"))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            Box::pin(router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopped))
        }
        None => {
            let listener = TcpListener::bind(&args.listen).await;
            let listener = listener.with_context(|| format!("cannot listen on {}", args.listen))?;
            tracing::info!(address = %listener.local_addr()?, "listening");
            // Else the end of an answer waits for the other side's acknowledgement, which takes its time.
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            Box::pin(router.serve_with_incoming_shutdown(incoming, stopped))
        }
    };
    let mut serving = tokio::spawn(serving);

    let ready = async {
        let context = contexts.create(PYTHON, PYTHON, crate::contexts::Wanted::default())?;
        if let Err(words) = context.ready().await {
            let env = sandbox::environment(&args, &sandbox.run_dir, &sandbox.state_dir);
            // Without one it is of no use to anybody. Most often it is the image that lacks something, which is said best by Python.
            let words = interpreter::fault(&sandbox.python, &env).await.unwrap_or(words);
            anyhow::bail!("no kernel starts: {words}");
        }
        lock(&sandbox.stages).push(("first_answer", began.elapsed()));
        sandbox.lifecycle.ready();
        health.set_service_status("", ServingStatus::Serving).await;
        std::future::pending::<anyhow::Result<()>>().await
    };
    let mut endings = Endings::new(args.exit_with_stdin);
    let result = tokio::select! {
        served = &mut serving => served?.context("cannot serve"),
        failed = ready => failed,
        ending = endings.wait(&sandbox.lifecycle, args.termination_grace) => {
            health.set_service_status("", ServingStatus::NotServing).await;
            stop.cancel();
            sandbox.lifecycle.end();
            if ending == Ending::Drain {
                tokio::select! {
                    _ = &mut serving => {}
                    () = tokio::time::sleep(DRAIN_LIMIT) => {}
                    _ = endings.next() => {}
                }
            }
            Ok(())
        }
    };
    sandbox.lifecycle.end();
    sandbox.events.close();
    serving.abort();
    watchdog.abort();
    contexts.end().await;
    sandbox.zygote.end().await;
    if let Some(path) = args.listen.strip_prefix("unix:") {
        fs::remove_file(path).ok();
    }
    fs::remove_dir_all(sandbox.run_dir.join("tmp")).ok();
    result
}

/// Of a call that says which trace it belongs to.
fn span<B>(request: &http::Request<B>) -> Span {
    if !request.headers().contains_key("traceparent") {
        return Span::none();
    }
    let span = tracing::info_span!("call", method = request.uri().path(), trace_id = Empty);
    kernelbox_telemetry::join(&span, request.headers());
    span
}

/// Makes the folders and what works in them; starts no process.
fn open(
    args: &ServeArgs,
    breaches: watch::Receiver<Option<watchdog::Breach>>,
    quota: Quota,
) -> anyhow::Result<(Sandbox, Workspace)> {
    let state_dir = absolute(&args.state_dir)?;
    let run_dir = absolute(&args.run_dir)?;
    let workspace = absolute(&args.workspace)?;
    let packages = absolute(&args.packages)?;
    for dir in [run_dir.join("tmp"), state_dir.join("home")] {
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let program = embedded::write(&state_dir).context("cannot write the kernel's files")?;
    let handle = Arc::new(Dir::open_ambient_dir(&workspace, ambient_authority()).context("cannot open the workspace")?);
    let source = match &args.zygote_socket {
        Some(socket) => Source::Host(socket.clone()),
        None => Source::Own { python: args.python.clone(), program: program.clone(), warm_up: args.warm_up.clone() },
    };
    let begin = Begin {
        sandbox: args.uid.clone(),
        env: sandbox::environment(args, &run_dir, &state_dir),
        cwd: workspace.clone(),
        packages: packages.clone(),
        log: state_dir.join("zygote.log"),
    };
    let artifacts = Artifacts::new(Arc::clone(&handle)).context("cannot read the workspace")?;
    let zygote = Arc::new(Zygote::new(source, begin));
    let files = Workspace::new(Arc::clone(&handle), quota);
    let sandbox = Sandbox {
        uid: args.uid.clone(),
        lifecycle: Lifecycle::new(),
        artifacts: Arc::new(artifacts),
        breaches,
        kernels: Mutex::default(),
        stages: Mutex::default(),
        zygote: Arc::clone(&zygote),
        executions: Executions::open(&state_dir, handle).context("cannot open the journal of executions")?,
        packages: Packages::new(zygote, &args.python, args.uv.as_deref(), packages),
        events: SessionEvents::new(),
        specs: Specs::new(&args.python),
        python: args.python.clone(),
        program,
        workspace,
        run_dir,
        state_dir,
        execution_timeout: args.execution_timeout,
        max_contexts: args.max_contexts,
        session: Mutex::default(),
        next_kernel: 1.into(),
        oom_kills: watchdog::OomKills::from_now(),
    };
    Ok((sandbox, files))
}

/// Watches what the sandbox uses, if there are limits.
fn watch_limits(
    args: &ServeArgs,
    sandbox: &Arc<Sandbox>,
    quota: Quota,
    breaches: watch::Sender<Option<watchdog::Breach>>,
) -> JoinHandle<()> {
    let limits = Limits {
        memory: args.memory_limit,
        processes: args.process_limit.and_then(|limit| usize::try_from(limit).ok()),
        disk: args.disk_limit,
    };
    let folders = vec![sandbox.workspace.clone(), args.packages.clone()];
    let zygote = Arc::clone(&sandbox.zygote);
    tokio::spawn(async move {
        if limits.memory.is_some() || limits.processes.is_some() || limits.disk.is_some() {
            watchdog::run(limits, folders, quota, move || zygote.pid(), breaches).await;
        }
    })
}

fn absolute(dir: &Path) -> anyhow::Result<std::path::PathBuf> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    fs::canonicalize(dir).with_context(|| format!("cannot find {}", dir.display()))
}
