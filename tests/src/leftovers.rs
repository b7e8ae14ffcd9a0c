//! Finds what a server left: processes, by what they carry of its folder's path.
use std::{
    fs,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again until the answer is `Ok`; fails with the last `Err` after 20 s.
pub async fn eventually<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let begin = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(problem) => assert!(begin.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}: {problem}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The processes that have `mark` in their environment, command line, working directory or open files: "PID COMMAND".
pub fn mentions(mark: &Path) -> Vec<String> {
    let mark = mark.as_os_str().as_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        let process = entry.path();
        let has = |bytes: &[u8]| bytes.windows(mark.len()).any(|window| window == mark);
        let reads = |file: &str| fs::read(process.join(file)).is_ok_and(|bytes| has(&bytes));
        let links = |link: &Path| fs::read_link(link).is_ok_and(|to| has(to.as_os_str().as_bytes()));
        let opens = || fs::read_dir(process.join("fd")).into_iter().flatten().flatten().any(|fd| links(&fd.path()));
        if reads("environ") || reads("cmdline") || links(&process.join("cwd")) || opens() {
            let command = fs::read(process.join("cmdline")).unwrap_or_default();
            found.push(format!("{pid} {}", String::from_utf8_lossy(&command).replace('\0', " ")));
        }
    }
    found
}

/// Whether a process is there and no zombie.
pub fn process_runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Resident memory of a process, bytes.
pub fn memory_of(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
