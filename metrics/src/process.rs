//! What a process uses, read from /proc when it is asked for. The names are those that all Prometheus clients have.
use std::{fs, time::SystemTime};

use prometheus::{
    Counter, Error, Gauge, IntGauge,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// Of the kernel's clock in /proc, in a second. It is so on every machine that Linux runs on.
const TICKS: f64 = 100.0;

pub(crate) struct Process {
    cpu: Counter,
    memory: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    threads: IntGauge,
    started: Gauge,
}

impl Process {
    /// Name, type and help of each.
    pub(crate) const TOLD: [(&'static str, &'static str, &'static str); 6] = [
        ("process_cpu_seconds_total", "counter", "Seconds of processor time that the program has used."),
        ("process_resident_memory_bytes", "gauge", "Memory of the program that is in RAM now."),
        ("process_open_fds", "gauge", "Files and connections that the program has open."),
        ("process_max_fds", "gauge", "Files and connections that the program may have open."),
        ("process_threads", "gauge", "Threads of the program."),
        ("process_start_time_seconds", "gauge", "When the program started, in seconds since 1970."),
    ];

    pub(crate) fn new() -> Result<Self, Error> {
        let [cpu, memory, open_fds, max_fds, threads, started] = Self::TOLD.map(|(name, _, help)| (name, help));
        let gauge = |(name, help): (&str, &str)| IntGauge::new(name, help);
        let this = Self {
            cpu: Counter::new(cpu.0, cpu.1)?,
            memory: gauge(memory)?,
            open_fds: gauge(open_fds)?,
            max_fds: gauge(max_fds)?,
            threads: gauge(threads)?,
            started: Gauge::new(started.0, started.1)?,
        };
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        this.started.set(since.as_secs_f64());
        Ok(this)
    }

    /// What cannot be read stays as it was.
    fn look(&self) -> Option<()> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The name before it may have spaces.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
        self.cpu.inc_by((ticks / TICKS - self.cpu.get()).max(0.0));
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let number = |text: &str, key: &str, at: usize| {
            text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().nth(at)?.parse::<i64>().ok())
        };
        self.memory.set(number(&status, "VmRSS:", 0)? * 1024);
        self.threads.set(number(&status, "Threads:", 0)?);
        self.open_fds.set(i64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()?);
        let limits = fs::read_to_string("/proc/self/limits").ok()?;
        self.max_fds.set(number(&limits, "Max open files", 0)?);
        Some(())
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = [&self.memory, &self.open_fds, &self.max_fds, &self.threads].into_iter().flat_map(Collector::desc);
        self.cpu.desc().into_iter().chain(gauges).chain(self.started.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.look();
        let gauges =
            [&self.memory, &self.open_fds, &self.max_fds, &self.threads].into_iter().flat_map(Collector::collect);
        self.cpu.collect().into_iter().chain(gauges).chain(self.started.collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use super::*;

    #[test]
    fn a_process_knows_what_it_uses() {
        let process = Process::new().unwrap();
        process.look().unwrap();
        assert!(process.memory.get() > 100_000 && process.threads.get() > 0);
        assert!(process.open_fds.get() > 2 && process.max_fds.get() > process.open_fds.get());
        assert!(process.started.get() > 1.7e9);
    }
}
