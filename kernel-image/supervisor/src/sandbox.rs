//! What the kernels of one sandbox share.
use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kernelbox_proto::v1::AutoInstall;
use tokio::sync::watch;

use crate::{
    args::ServeArgs,
    artifacts::Artifacts,
    events::SessionEvents,
    execution::Executions,
    lifecycle::Lifecycle,
    packages::Packages,
    spec::Specs,
    sync::lock,
    watchdog::{Breach, OomKills},
    zygote::Zygote,
};

#[derive(Debug)]
pub struct Sandbox {
    pub uid: String,
    pub lifecycle: Lifecycle,
    pub artifacts: Arc<Artifacts>,
    /// The limit of the sandbox that is exceeded now.
    pub breaches: watch::Receiver<Option<Breach>>,
    /// The processes of the live kernels.
    pub kernels: Mutex<HashSet<i32>>,
    /// How long each step of the start took.
    pub stages: Mutex<Vec<(&'static str, Duration)>>,
    pub zygote: Arc<Zygote>,
    pub executions: Executions,
    pub packages: Packages,
    pub events: SessionEvents,
    pub specs: Specs,
    /// The Python interpreter, and the program that makes a kernel of it.
    pub python: PathBuf,
    pub program: PathBuf,
    pub workspace: PathBuf,
    pub run_dir: PathBuf,
    pub state_dir: PathBuf,
    pub execution_timeout: Duration,
    pub max_contexts: usize,
    pub session: Mutex<SessionSettings>,
    pub next_kernel: AtomicU64,
    pub oom_kills: OomKills,
}

/// What the session that the sandbox is bound to brings along.
#[derive(Debug, Clone, Default)]
pub struct SessionSettings {
    /// Environment of every kernel.
    pub env: BTreeMap<String, String>,
    pub auto_install: AutoInstall,
}

impl Sandbox {
    pub fn next_kernel(&self) -> u64 {
        self.next_kernel.fetch_add(1, Ordering::Relaxed)
    }

    pub fn settings(&self) -> SessionSettings {
        lock(&self.session).clone()
    }
}

/// What kernels have of the supervisor's own environment though nobody names it: time zone, and where a graphics driver's libraries are.
const ALWAYS: [&str; 2] = ["TZ", "LD_LIBRARY_PATH"];

/// The environment that kernels have: of the supervisor's own only what is named, nothing that is meant for the supervisor.
pub fn environment(args: &ServeArgs, run_dir: &Path, state_dir: &Path) -> BTreeMap<String, String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let home = state_dir.join("home");
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("HOME".to_owned(), text(&home)),
        ("TMPDIR".to_owned(), text(&run_dir.join("tmp"))),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("TERM".to_owned(), "xterm-256color".to_owned()),
        ("KERNELBOX_SANDBOX".to_owned(), args.uid.clone()),
    ]);
    let is_named = |name: &str| args.kernel_env.iter().any(|it| it == name);
    let has_all = is_named("*");
    let own =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    env.extend(own.filter(|(name, _)| match name.as_str() {
        name if name.starts_with("KERNELBOX_") => false,
        name if is_named(name) || ALWAYS.contains(&name) => true,
        // Where the supervisor is at home, and what a cluster tells its pods of itself.
        name => has_all && name != "HOME" && !name.starts_with("KUBERNETES_"),
    }));
    let bin = args.python.parent().filter(|bin| bin.is_absolute() && !is_named("PATH"));
    if let (Some(bin), Some(path)) = (bin, env.get_mut("PATH")) {
        *path = format!("{}:{path}", bin.display());
    }
    env
}
