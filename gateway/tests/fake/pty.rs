//! A command in a terminal of its own: what a person would see, and type.
use std::{
    fs::File,
    io::{Read as _, Write as _},
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nix::{
    pty::{Winsize, openpty},
    sys::termios::{LocalFlags, tcgetattr},
};
use tokio::{
    process::{Child, Command},
    task::JoinHandle,
};

/// Longer than anything here takes, so that a hang is a failure.
const LIMIT: Duration = Duration::from_secs(30);

pub struct Pty {
    master: File,
    child: Child,
    seen: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
    /// How much of it earlier waits have used up.
    read: usize,
}

impl Pty {
    /// Starts the command in a terminal of 80 columns. `setsid --ctty` makes that the terminal whose Ctrl-C it gets.
    pub fn start(command: &Command) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let command = command.as_std();
        let mut inside = Command::new("setsid");
        inside.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        let slave = || Stdio::from(pty.slave.try_clone().unwrap());
        inside.current_dir(command.get_current_dir().unwrap()).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        inside.env_remove("TMUX").env_remove("TERM_PROGRAM").env_remove("LC_TERMINAL");
        let child = inside.stdin(slave()).stdout(slave()).stderr(slave()).kill_on_drop(true).spawn().unwrap();
        let master = File::from(pty.master);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut from, into) = (master.try_clone().unwrap(), Arc::clone(&seen));
        // The read ends when the last process has left the terminal.
        let reader = tokio::task::spawn_blocking(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                into.lock().unwrap().extend_from_slice(&bytes[..n]);
            }
        });
        Self { master, child, seen, reader, read: 0 }
    }

    pub fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this has appeared after what was waited for before, and answers what came up to its end.
    pub async fn until(&mut self, text: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            {
                let seen = self.seen.lock().unwrap();
                let new = &seen[self.read..];
                if let Some(at) = new.windows(text.len()).position(|window| window == text.as_bytes()) {
                    let shown = String::from_utf8_lossy(&new[..at + text.len()]).into_owned();
                    self.read += at + text.len();
                    return shown;
                }
                assert!(Instant::now() < deadline, "no {text:?} in {:?}", String::from_utf8_lossy(new));
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits for the end; answers the exit code and what came after what was waited for.
    pub async fn ended(mut self) -> (i32, String) {
        let status = tokio::time::timeout(LIMIT, self.child.wait()).await.expect("the command hangs").unwrap();
        tokio::time::timeout(LIMIT, self.reader).await.expect("somebody stays in the terminal").unwrap();
        let seen = self.seen.lock().unwrap();
        (status.code().unwrap_or(-1), String::from_utf8_lossy(&seen[self.read..]).into_owned())
    }

    /// The terminal's settings now.
    pub fn settings(&self) -> LocalFlags {
        tcgetattr(&self.master).unwrap().local_flags
    }

    /// `setsid` has become the command.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id().unwrap()).unwrap()
    }
}
