//! What a killed server left behind: found by what it had written down, ended and removed by the next.
use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// A process, told apart from a later one with the same number by when it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pid: i32,
    /// In clock ticks since the machine's start.
    start_time: u64,
}

/// `sandbox.json`, or `zygote.json` of the host zygote.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// Every process of the sandbox has it in its environment as KERNELBOX_SANDBOX.
    pub uid: String,
    pub pids: Vec<Process>,
}

impl Process {
    pub(super) fn of(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok()?;
        Some(Self { pid, start_time: start_time(pid)? })
    }

    fn end(&self) {
        if start_time(self.pid) == Some(self.start_time) {
            // It may have ended by itself meanwhile.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }

    fn lives(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }
}

impl Record {
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let part = path.with_extension("part");
        fs::write(&part, serde_json::to_vec(self)?)?;
        fs::rename(part, path)
    }
}

/// The 22nd field of /proc/PID/stat; None for a process that is gone or only waits to be reaped.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let rest = stat.get(stat.rfind(')')? + 1..)?;
    let mut fields = rest.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The processes that carry the uid in their environment.
fn of_sandbox(uid: &str) -> Vec<Process> {
    let mark = format!("KERNELBOX_SANDBOX={uid}");
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            // Not readable: it is another user's, or closed itself; then its parent ends it.
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        })
        .filter_map(|pid| Some(Process { pid, start_time: start_time(pid)? }))
        .collect()
}

/// Ends all of a sandbox's processes and waits until they are gone, at most `limit`. Blocks.
pub(super) fn end_all(record: &Record, limit: Duration) {
    let until = Instant::now() + limit;
    loop {
        let mut living = of_sandbox(&record.uid);
        living.extend(record.pids.iter().filter(|it| it.lives()).cloned());
        if living.is_empty() {
            return;
        }
        if Instant::now() > until {
            tracing::error!(uid = record.uid, ?living, "processes of an ended sandbox do not end");
            return;
        }
        living.iter().for_each(Process::end);
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ends and removes what an earlier server left in the run dir, which nobody else uses now. Blocks.
pub(super) fn clear(run_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(run_dir)? {
        let entry = entry?;
        let path = entry.path();
        let folder = entry.file_type()?.is_dir();
        let json = if folder { path.join("sandbox.json") } else { path.clone() };
        if json.extension().is_some_and(|it| it == "json") {
            match fs::read(&json).map(|bytes| serde_json::from_slice::<Record>(&bytes)) {
                Ok(Ok(record)) => {
                    tracing::warn!(uid = record.uid, "ending what an earlier server left behind");
                    end_all(&record, Duration::from_secs(10));
                }
                _ => tracing::warn!(path = %json.display(), "an earlier server left a folder without a record"),
            }
        }
        if folder {
            super::dirs::remove(&path)?;
        } else if entry.file_name() != "lock" {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn recorded_and_marked_processes_are_ended_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorded = Command::new("sleep").arg("600").spawn().unwrap();
        let mut marked = Command::new("sleep").arg("600").env("KERNELBOX_SANDBOX", "left-over-1").spawn().unwrap();
        let mut other = Command::new("sleep").arg("600").env("KERNELBOX_SANDBOX", "left-over-10").spawn().unwrap();
        let sandbox = dir.path().join("01234567");
        fs::create_dir(&sandbox).unwrap();
        let reused = Process { pid: i32::try_from(other.id()).unwrap(), start_time: 1 };
        let pids = vec![Process::of(recorded.id()).unwrap(), reused];
        Record { uid: "left-over-1".into(), pids }.write(&sandbox.join("sandbox.json")).unwrap();
        fs::write(dir.path().join("zygote.sock"), "").unwrap();

        clear(dir.path()).unwrap();
        assert!(!recorded.wait().unwrap().success());
        assert!(!marked.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none(), "a process of another sandbox was ended");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
