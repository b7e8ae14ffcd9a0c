//! This user's server on this machine: whether it runs, and how one is started in the background, once.
//!
//! `server.lock` is held by the server while it lives, whatever ends it; so `server.json` can be believed while the lock is held.
//! `start.lock` is held by the one command that starts a server; others wait for it, and then find the server.
use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    connect::local_client,
    failure::{Failure, Result},
    progress::Progress,
    server_file::ServerFile,
};

const POLL: Duration = Duration::from_millis(20);
/// The first start sets up the Python environment.
const START_LIMIT: Duration = Duration::from_secs(15 * 60);
/// How long a server that somebody else starts may take to answer.
const OTHERS_LIMIT: Duration = Duration::from_secs(60);
/// A start of which nothing else can be said.
const STARTING: &str = "starting a server in the background";
/// How long a server that wants the lock waits for one that only looks whether it is held.
const LOOK: Duration = Duration::from_millis(500);
/// A longer log begins anew at the next start.
const LOG_LIMIT: u64 = 1 << 20;

/// The server that runs on this data directory and answers.
pub(crate) async fn running(data_dir: &Path) -> Result<Option<ServerFile>> {
    if !data_dir.exists() || !held(data_dir)? {
        return Ok(None);
    }
    let Some(server) = ServerFile::read(data_dir) else { return Ok(None) };
    let answers = match local_client(&server, data_dir, None) {
        Ok(client) => client.healthy().await,
        Err(_) => false,
    };
    Ok(answers.then_some(server))
}

/// Makes the data directory, for this user alone.
pub(crate) fn make_data_dir(data_dir: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(|e| Failure::local(data_dir.display(), e))
}

/// Takes `server.lock` for the life of this process, or says which server has it.
pub(crate) fn claim(data_dir: &Path) -> Result<File> {
    let lock = open(data_dir, "server.lock")?;
    let since = Instant::now();
    while !try_lock(&lock, data_dir)? {
        if since.elapsed() > LOOK {
            let whose = ServerFile::read(data_dir)
                .map_or_else(String::new, |server| format!(": {} (pid {})", server.endpoint, server.pid));
            return Err(Failure::local("a server runs already", format!("{}{whose}", data_dir.display())));
        }
        std::thread::sleep(POLL);
    }
    // What a killed server left.
    let _ = std::fs::remove_file(ServerFile::path(data_dir));
    Ok(lock)
}

/// Starts a server in the background, or waits for the one that another command is starting.
pub(crate) async fn start(data_dir: &Path, progress: &Progress) -> Result<ServerFile> {
    make_data_dir(data_dir)?;
    progress.say(STARTING);
    let mut deadline = Instant::now() + START_LIMIT;
    let lock = open(data_dir, "start.lock")?;
    while !try_lock(&lock, data_dir)? {
        if let Some(server) = running(data_dir).await? {
            return Ok(server);
        }
        wait(deadline, data_dir).await?;
    }
    if let Some(server) = running(data_dir).await? {
        return Ok(server);
    }
    let mut log = Log::begin(data_dir)?;
    let mut child = spawn(data_dir, &log)?;
    let began = Instant::now();
    loop {
        if let Some(server) = running(data_dir).await? {
            return Ok(server);
        }
        let ended = child.try_wait().map_err(|e| Failure::local("cannot wait for the server", e))?;
        if ended.is_some() {
            let said = log.read();
            if !held(data_dir)? {
                return Err(Failure::no_server(format!(
                    "the server did not start; {} says:
{said}",
                    log.path
                )));
            }
            // A server that was started by hand meanwhile has the lock: it answers soon.
            deadline = deadline.min(began + OTHERS_LIMIT);
        }
        if let Some(line) = log.read().lines().rev().find_map(|line| line.strip_prefix("kernelbox: ")) {
            progress.say(line);
        }
        wait(deadline, data_dir).await?;
    }
}

fn spawn(data_dir: &Path, log: &Log) -> Result<Child> {
    let this = std::env::current_exe().map_err(|e| Failure::local("cannot find this program", e))?;
    let to_log = || log.file.try_clone().map_err(|e| Failure::local(&log.path, e));
    Command::new(this)
        .args(["up", "--background", "--listen", "127.0.0.1:0", "--exit-when-idle", "15m", "--data-dir"])
        .arg(data_dir)
        .current_dir(data_dir)
        .stdin(Stdio::null())
        .stdout(to_log()?)
        .stderr(to_log()?)
        .spawn()
        .map_err(|e| Failure::no_server(format!("cannot start a server: {e}")))
}

async fn wait(deadline: Instant, data_dir: &Path) -> Result<()> {
    if Instant::now() > deadline {
        let log = data_dir.join("server.log");
        return Err(Failure::no_server(format!("the server did not start in time; see {}", log.display())));
    }
    tokio::time::sleep(POLL).await;
    Ok(())
}

fn held(data_dir: &Path) -> Result<bool> {
    let lock = open(data_dir, "server.lock")?;
    match lock.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(e)) => Err(Failure::local(data_dir.display(), e)),
    }
}

fn try_lock(lock: &File, data_dir: &Path) -> Result<bool> {
    match lock.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(Failure::local(data_dir.display(), e)),
    }
}

fn open(data_dir: &Path, name: &str) -> Result<File> {
    let path = data_dir.join(name);
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| Failure::local(path.display(), e))
}

/// The server's log, from this start on.
#[derive(Debug)]
struct Log {
    file: File,
    path: String,
    begin: u64,
}

impl Log {
    fn begin(data_dir: &Path) -> Result<Self> {
        let file = open(data_dir, "server.log")?;
        let path = data_dir.join("server.log").display().to_string();
        let mut begin = file.metadata().map_err(|e| Failure::local(&path, e))?.len();
        if begin > LOG_LIMIT {
            file.set_len(0).map_err(|e| Failure::local(&path, e))?;
            begin = 0;
        }
        Ok(Self { file, path, begin })
    }

    fn read(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = self.file.seek(SeekFrom::Start(self.begin)).and_then(|_| self.file.read_to_end(&mut bytes));
        match read {
            Ok(_) => String::from_utf8_lossy(&bytes).trim_end().to_owned(),
            Err(error) => error.to_string(),
        }
    }
}
