//! Processes of the nodes of tests/cluster, which are this machine's, too.
use std::{fs, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

pub struct Process(Pid);

impl Process {
    /// `place`: a word of its command line, or the uid of its pod.
    pub fn running(program: &str, place: &str) -> Self {
        let all = fs::read_dir("/proc").unwrap().filter_map(|it| it.ok()?.file_name().to_str()?.parse().ok());
        let found = all.into_iter().find(|pid| is(*pid, program, place));
        Self(Pid::from_raw(found.unwrap_or_else(|| panic!("no {program} of {place} runs on this machine"))))
    }

    /// Until what this gives is dropped it does nothing.
    #[must_use]
    pub fn stop(&self) -> StandsStill<'_> {
        kill(self.0, Signal::SIGSTOP).unwrap();
        StandsStill(self)
    }
}

fn is(pid: i32, program: &str, place: &str) -> bool {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let (command, groups) = (read("cmdline"), read("cgroup"));
    let (command, groups) = (String::from_utf8_lossy(&command), String::from_utf8_lossy(&groups));
    let first = command.split('\0').next().unwrap_or_default();
    Path::new(first).file_name().is_some_and(|it| it == program) && (command.contains(place) || groups.contains(place))
}

pub struct StandsStill<'a>(&'a Process);

impl Drop for StandsStill<'_> {
    fn drop(&mut self) {
        let _ = kill(self.0.0, Signal::SIGCONT);
    }
}
