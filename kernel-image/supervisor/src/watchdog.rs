//! Watches what a sandbox uses, so that a hog is ended by name and with figures before the machine or the container ends everything.
//!
//! It finds and reports; whoever runs the code ends it.
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use kernelbox_proto::v1::ErrorCode;
use tokio::sync::watch;

use crate::workspace::Quota;

/// How often it looks.
const INTERVAL: Duration = Duration::from_millis(250);
/// How often it adds up files, at most, and the part of the time that it does: many files take longer.
const DISK_INTERVAL: Duration = Duration::from_secs(1);
const DISK_SHARE: u32 = 100;
/// A sandbox may use this part of its memory, in percent: at the limit itself it would be too late.
const MEMORY_PERCENT: u64 = 95;

/// What a sandbox may use; what is absent is not watched.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Memory of all its processes, in bytes.
    pub memory: Option<u64>,
    /// How many processes.
    pub processes: Option<usize>,
    /// Files of its folders, in bytes.
    pub disk: Option<u64>,
}

/// A limit was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    pub code: ErrorCode,
    /// For the user, with figures.
    pub message: String,
    /// The process directly below the zygote that uses most, where one is to blame.
    pub process: Option<i32>,
}

/// What one process below the zygote uses, its own descendants included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Use {
    process: i32,
    memory: u64,
    processes: usize,
}

/// Reports breaches until nobody listens, and keeps `quota` at what is left of the disk limit. `zygote` tells the zygote's pid while it
/// runs.
pub async fn run(
    limits: Limits,
    folders: Vec<PathBuf>,
    quota: Quota,
    zygote: impl Fn() -> Option<i32> + Send,
    breaches: watch::Sender<Option<Breach>>,
) {
    let (mut disk_due_at, mut disk_before) = (Instant::now(), 0);
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !breaches.is_closed() {
        ticks.tick().await;
        let disk_due = limits.disk.is_some() && Instant::now() >= disk_due_at;
        let (folders, root) = (if disk_due { folders.clone() } else { Vec::new() }, zygote());
        let looked = tokio::task::spawn_blocking(move || {
            let uses = root.map(|root| uses(root, limits.memory)).unwrap_or_default();
            let began = Instant::now();
            let disk: u64 = folders.iter().map(|folder| disk_use(folder)).sum();
            // Who only tidies up, or leaves it at that, is let be.
            let grown = if disk > disk_before { disk } else { 0 };
            (breach(&limits, &uses, grown), disk, began.elapsed())
        });
        let Ok((found, disk, took)) = looked.await else { return };
        if let Some(limit) = limits.disk.filter(|_| disk_due) {
            disk_due_at = Instant::now() + DISK_INTERVAL.max(took * DISK_SHARE);
            disk_before = disk;
            quota.set_left(limit.saturating_sub(disk));
        }
        breaches.send_if_modified(|last| {
            let changed = *last != found;
            *last = found;
            changed
        });
    }
}

/// How often the kernel of the machine ended a process of this container because the container's memory was used up.
#[derive(Debug)]
pub struct OomKills(AtomicU64);

impl OomKills {
    /// Counts from now on.
    pub fn from_now() -> Self {
        Self(AtomicU64::new(oom_kills()))
    }

    /// Whether there was another since it was asked last.
    pub fn rose(&self) -> bool {
        let now = oom_kills();
        self.0.swap(now, Ordering::Relaxed) < now
    }
}

/// Zero where it cannot be known.
fn oom_kills() -> u64 {
    // Version 2 of cgroups, then 1.
    let files = ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"];
    files.iter().find_map(|file| oom_kills_in(&fs::read_to_string(file).ok()?)).unwrap_or_default()
}

fn oom_kills_in(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// The memory of all processes below `zygote` in bytes (PSS), and their number.
pub fn usage(zygote: i32) -> (u64, usize) {
    let uses = uses(zygote, Some(0));
    (uses.iter().map(|one| one.memory).sum(), uses.iter().map(|one| one.processes).sum())
}

fn breach(limits: &Limits, uses: &[Use], disk: u64) -> Option<Breach> {
    let memory: u64 = uses.iter().map(|one| one.memory).sum();
    if let Some(limit) = limits.memory.filter(|limit| memory > limit / 100 * MEMORY_PERCENT) {
        return Some(Breach {
            code: ErrorCode::MemoryLimit,
            message: format!("the code uses {} of the sandbox's {} of memory", size(memory), size(limit)),
            process: uses.iter().max_by_key(|one| one.memory).map(|one| one.process),
        });
    }
    let processes: usize = uses.iter().map(|one| one.processes).sum();
    if let Some(limit) = limits.processes.filter(|limit| processes > *limit) {
        return Some(Breach {
            code: ErrorCode::ProcessLimit,
            message: format!("the code has {processes} processes; the sandbox may have {limit}"),
            process: uses.iter().max_by_key(|one| one.processes).map(|one| one.process),
        });
    }
    limits.disk.filter(|limit| disk > *limit).map(|limit| Breach {
        code: ErrorCode::DiskLimit,
        message: format!("files take {} of the session's {}; delete some", size(disk), size(limit)),
        process: None,
    })
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    if bytes < 10 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) }
}

fn uses(zygote: i32, memory_limit: Option<u64>) -> Vec<Use> {
    children(zygote).into_iter().map(|process| subtree(process, memory_limit)).collect()
}

fn subtree(process: i32, memory_limit: Option<u64>) -> Use {
    let (mut memory, mut processes) = (0, 0);
    let mut waiting = vec![process];
    while let Some(pid) = waiting.pop() {
        processes += 1;
        // PSS takes milliseconds to add up, so it is asked for only where the resident size might matter.
        let resident = resident(pid);
        memory += match memory_limit {
            Some(limit) if resident > limit / 8 => proportional(pid).unwrap_or(resident),
            _ => resident,
        };
        waiting.extend(children(pid));
    }
    Use { process, memory, processes }
}

/// The children of all threads of a process.
fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    kibibytes(&status, "VmRSS:").unwrap_or(0)
}

fn proportional(pid: i32) -> Option<u64> {
    kibibytes(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?, "Pss:")
}

/// A line such as `Pss:   1234 kB`, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|number| number << 10)
}

/// What the files below a folder take on disk. Links are not followed.
fn disk_use(folder: &Path) -> u64 {
    let mut total = 0;
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if let Ok(metadata) = entry.metadata() {
                total += std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
                if metadata.is_dir() {
                    waiting.push(entry.path());
                }
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    const MIB: u64 = 1 << 20;

    fn used(process: i32, memory: u64, processes: usize) -> Use {
        Use { process, memory, processes }
    }

    #[test]
    fn both_versions_of_cgroups_tell_who_was_killed() {
        assert_eq!(oom_kills_in("low 0\nhigh 0\nmax 31\noom 2\noom_kill 2\noom_group_kill 0\n"), Some(2));
        assert_eq!(oom_kills_in("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        assert_eq!(oom_kills_in("oom_kill_disable 0\nunder_oom 0\n"), None);
    }

    #[test]
    fn the_heaviest_process_is_to_blame() {
        let limits = Limits { memory: Some(100 * MIB), processes: Some(10), disk: Some(MIB) };
        assert_eq!(breach(&limits, &[used(1, 50 * MIB, 4), used(2, 44 * MIB, 6)], MIB), None);
        let memory = breach(&limits, &[used(1, 30 * MIB, 4), used(2, 66 * MIB, 1)], 0).unwrap();
        assert_eq!((memory.code, memory.process), (ErrorCode::MemoryLimit, Some(2)));
        assert_eq!(memory.message, "the code uses 96 MiB of the sandbox's 100 MiB of memory");
        let processes = breach(&limits, &[used(1, 0, 9), used(2, 0, 2)], 0).unwrap();
        assert_eq!((processes.code, processes.process), (ErrorCode::ProcessLimit, Some(1)));
        let disk = breach(&limits, &[], 2 * MIB).unwrap();
        assert_eq!((disk.code, disk.process), (ErrorCode::DiskLimit, None));
    }

    #[test]
    fn without_limits_nothing_is_a_breach() {
        assert_eq!(breach(&Limits::default(), &[used(1, u64::MAX >> 8, 9999)], u64::MAX), None);
    }

    #[test]
    fn lines_of_proc_are_read() {
        assert_eq!(kibibytes("Rss:  2 kB\nPss:     1234 kB\n", "Pss:"), Some(1234 << 10));
        assert_eq!(kibibytes("Pss: many\n", "Pss:"), None);
    }

    #[test]
    fn files_count_by_what_they_take() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/b"), vec![1; MIB as usize]).unwrap();
        fs::File::create(folder.path().join("sparse")).unwrap().set_len(1 << 40).unwrap();
        std::os::unix::fs::symlink("/usr", folder.path().join("link")).unwrap();
        assert!((MIB..2 * MIB).contains(&disk_use(folder.path())));
    }

    #[tokio::test]
    async fn a_process_that_eats_memory_is_reported() {
        // A shell stands for the zygote; below it `tail` holds 64 MiB until the standard input ends.
        let mut shell = Command::new("sh")
            .args(["-c", "{ head -c 67108864 /dev/zero; cat; } | tail -c 67108864 >/dev/null; true"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let zygote = i32::try_from(shell.id()).unwrap();
        let (sender, mut receiver) = watch::channel(None);
        let limits = Limits { memory: Some(16 * MIB), ..Limits::default() };
        let watching = tokio::spawn(run(limits, Vec::new(), Quota::unlimited(), move || Some(zygote), sender));
        let found = tokio::time::timeout(Duration::from_secs(60), receiver.wait_for(Option::is_some)).await;
        let breach = found.unwrap().unwrap().clone().unwrap();
        assert_eq!(breach.code, ErrorCode::MemoryLimit);
        assert!(breach.process.is_some_and(|pid| pid != zygote));
        drop(receiver);
        watching.await.unwrap();
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }
}
