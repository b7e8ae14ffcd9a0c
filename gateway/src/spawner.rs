//! Starts children from one thread that never ends, and says how they ended.
//!
//! A child that asks to be killed with its parent is killed when the *thread* that started it ends, and tokio ends its threads as it
//! likes; hence the thread.
use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    process::ExitStatus,
    sync::{LazyLock, mpsc},
    thread,
};

use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

struct Job {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

static THREAD: LazyLock<io::Result<mpsc::SyncSender<Job>>> = LazyLock::new(|| {
    let (sender, jobs) = mpsc::sync_channel::<Job>(64);
    thread::Builder::new().name("spawner".to_owned()).spawn(move || {
        for mut job in jobs {
            let _runtime = job.runtime.enter();
            // Where nobody waits for it any more, the child is dropped: what then becomes of it is the command's to say.
            let _ = job.reply.send(job.command.spawn());
        }
    })?;
    Ok(sender)
});

/// Starts the command as it is.
pub(crate) async fn spawn(command: Command) -> io::Result<Child> {
    let sender = THREAD.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
    let (reply, child) = oneshot::channel();
    let job = Job { command, runtime: Handle::current(), reply };
    let gone = || io::Error::other("the spawning thread is gone");
    let sender = sender.clone();
    tokio::task::spawn_blocking(move || sender.send(job).map_err(|_| gone())).await.map_err(io::Error::other)??;
    child.await.map_err(|_| gone())?
}

/// For a message after the child's name: `exited with code 1`, `was ended by SIGKILL`.
pub(crate) fn how_ended(status: &io::Result<ExitStatus>) -> String {
    let Ok(status) = status else { return "ended".to_owned() };
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let name =
                nix::sys::signal::Signal::try_from(signal).map_or_else(|_| signal.to_string(), |s| s.to_string());
            format!("was ended by {name}")
        }
        (None, Some(code)) => format!("exited with code {code}"),
        (None, None) => "ended".to_owned(),
    }
}
