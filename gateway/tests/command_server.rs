//! How commands find this user's server on this machine, start one when there is none, and how `up` and `serve` say what is wrong.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, reason = "helpers of tests are tests, too")]
mod fake;

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fake::{Ran, ended, kernelbox};
use nix::{sys::signal::Signal, unistd::Pid};
use tokio::process::Command;

/// A home whose server needs no Python environment: nothing here runs code.
struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let python = dir.path().join("python");
        std::fs::write(&python, "#!/bin/sh\nexit 0\n").unwrap();
        std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join(".local/share/kernelbox")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = kernelbox(self.dir.path(), args);
        command.env("KERNELBOX_PYTHON", self.dir.path().join("python")).env("XDG_RUNTIME_DIR", self.dir.path());
        command
    }

    async fn run(&self, args: &[&str]) -> Ran {
        ended(self.command(args).spawn().unwrap()).await
    }

    fn server(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&std::fs::read(self.data().join("server.json")).ok()?).ok()
    }

    fn pid(&self) -> Option<i32> {
        self.server()?["pid"].as_i64()?.try_into().ok()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

async fn until(what: &str, mut true_yet: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !true_yet() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn gone(pid: i32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
        || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[tokio::test]
async fn commands_that_race_start_one_server() {
    let home = Home::new();
    let racers: Vec<_> = (0..6).map(|_| home.command(&["sessions", "list"]).spawn().unwrap()).collect();
    for racer in racers {
        let ran = ended(racer).await;
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    let log = std::fs::read_to_string(home.data().join("server.log")).unwrap();
    assert_eq!(log.matches("kernelbox: ready at").count(), 1, "{log}");
    assert!(log.contains("code is not confined"), "{log}");
    let mode = |name: &str| std::fs::metadata(home.data().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("key"), mode("server.json")), (0o700, 0o600, 0o600));
    // It outlives the commands, in a process session of its own, and says when it ends.
    let pid = home.pid().unwrap();
    assert_eq!(nix::unistd::getsid(Some(Pid::from_raw(pid))).unwrap().as_raw(), pid);
    nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    until("the server ends and takes its address away", || gone(pid) && home.server().is_none()).await;
}

#[tokio::test]
async fn a_server_that_was_killed_is_replaced() {
    let home = Home::new();
    assert_eq!(home.run(&["sessions", "create", "s1"]).await.code, 0);
    let first = home.pid().unwrap();
    nix::sys::signal::kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    until("the server is gone", || gone(first)).await;
    assert!(home.server().is_some(), "a kill leaves the address behind");
    let listed = home.run(&["sessions", "list"]).await;
    assert!(listed.stdout.contains("s1"), "{listed:?}");
    assert_ne!(home.pid().unwrap(), first);
}

#[tokio::test]
async fn a_second_server_on_the_same_data_is_refused() {
    let home = Home::new();
    assert_eq!(home.run(&["sessions", "list"]).await.code, 0);
    let second = home.run(&["up", "--listen", "127.0.0.1:0"]).await;
    assert_eq!(second.code, 1);
    assert!(second.stderr.contains("a server runs already"), "{second:?}");
    assert!(second.stderr.contains(&format!("pid {}", home.pid().unwrap())), "{second:?}");
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why_to_the_command_that_wanted_it() {
    let home = Home::new();
    std::fs::write(home.dir.path().join("python"), "#!/bin/sh\necho No module named ipykernel >&2\nexit 1\n").unwrap();
    let ran = home.run(&["exec", "1"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (3, ""));
    assert!(ran.stderr.contains("No module named ipykernel"), "{ran:?}");
    assert!(ran.stderr.contains("pip install ipykernel"), "{ran:?}");
}

#[tokio::test]
async fn serve_wants_to_be_told_the_interpreter() {
    let home = Home::new();
    let ran = ended(home.command(&["serve"]).env_remove("KERNELBOX_PYTHON").spawn().unwrap()).await;
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("--python") && ran.stderr.contains("kernelbox up"), "{ran:?}");
}

#[tokio::test]
async fn without_python_up_names_the_fix() {
    let home = Home::new();
    let up = |path: &Path| {
        let mut command = home.command(&["up", "--listen", "127.0.0.1:0"]);
        command.env_remove("KERNELBOX_PYTHON").env("PATH", path);
        command.spawn().unwrap()
    };
    let empty = tempfile::tempdir().unwrap();
    let ran = ended(up(empty.path())).await;
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (3, "kernelbox: Python 3 is missing: apt install python3 python3-venv\n")
    );

    let bin = empty.path().join("python3");
    let script = "#!/bin/sh\ncase \"$2\" in *version_info*) echo 3 12 3.12.1 $0;; *) exit 1;; esac\n";
    std::fs::write(&bin, script).unwrap();
    std::fs::set_permissions(&bin, std::fs::Permissions::from_mode(0o755)).unwrap();
    let ran = ended(up(empty.path())).await;
    assert!(ran.code == 3 && ran.stderr.contains("has no venv: apt install python3-venv"), "{ran:?}");

    std::fs::write(&bin, "#!/bin/sh\necho 3 8 3.8.1 $0\n").unwrap();
    let ran = ended(up(empty.path())).await;
    assert!(ran.code == 3 && ran.stderr.contains("Python 3.8.1 is too old"), "{ran:?}");
}
