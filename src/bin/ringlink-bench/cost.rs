//! What a run costs: processor time, context switches and memory of each end, and what the whole machine did meanwhile.
//! Totals of processor time are exact; how they divide into user and system time the kernel only samples at its tick.

use std::collections::BTreeMap;
use std::fs;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// Ticks of `/proc/stat` and `/proc/PID/stat`: 100 a second on every Linux.
const TICK_NANOS: u64 = 10_000_000;

/// A process at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Process {
    cpu: u64,
    user: u64,
    system: u64,
    voluntary: u64,
    involuntary: u64,
    faults: u64,
    waited: u64,
    rss: u64,
}

/// What an end did in the measured window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) cpu_ns: u64,
    pub(crate) user_ns_sampled: u64,
    pub(crate) system_ns_sampled: u64,
    pub(crate) cpu_ns_per_op: f64,
    pub(crate) cpu_s_per_gb: f64,
    pub(crate) voluntary_switches: u64,
    pub(crate) involuntary_switches: u64,
    pub(crate) minor_faults: u64,
    /// Time in which it could have run and did not get a processor.
    pub(crate) run_queue_wait_ns: u64,
    pub(crate) rss_bytes: u64,
    /// `io_uring_enter` calls, or system calls of the epoll engine, for each operation; only of our own ends.
    pub(crate) enters_per_op: Option<f64>,
}

/// The machine at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Machine {
    busy: u64,
    softirq: u64,
    steal: u64,
}

/// What the machine did in the measured window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct System {
    pub(crate) busy_ns: u64,
    pub(crate) softirq_ns: u64,
    pub(crate) steal_ns: u64,
    pub(crate) cpu_ns_per_op: f64,
    /// Busy, but neither of the two ends: neighbours, and softirqs nobody is charged for.
    pub(crate) unattributed_ns: u64,
}

impl Process {
    /// Zeroes where something cannot be read: the process may be another user's, or gone.
    pub(crate) fn of(pid: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in parentheses, may hold anything.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let field = |n: usize| fields.get(n).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let mut process = Self {
            cpu: cpu_nanos(pid),
            user: field(11) * TICK_NANOS,
            system: field(12) * TICK_NANOS,
            faults: field(7),
            rss: field(21) * rustix::param::page_size() as u64,
            ..Self::default()
        };
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            process.voluntary += line(&status, "voluntary_ctxt_switches:");
            process.involuntary += line(&status, "nonvoluntary_ctxt_switches:");
            let schedstat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let waited = schedstat.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok());
            process.waited += waited.unwrap_or(0);
        }
        process
    }

    pub(crate) fn cpu(&self) -> u64 {
        self.cpu
    }

    /// From `earlier` to this moment, for so many operations and bytes.
    pub(crate) fn since(&self, earlier: &Self, ops: u64, bytes: u64, enters: Option<u64>) -> End {
        let cpu = self.cpu.saturating_sub(earlier.cpu);
        End {
            cpu_ns: cpu,
            user_ns_sampled: self.user.saturating_sub(earlier.user),
            system_ns_sampled: self.system.saturating_sub(earlier.system),
            cpu_ns_per_op: ratio(cpu, ops),
            cpu_s_per_gb: ratio(cpu, bytes), // ns for each byte are s for each GB
            voluntary_switches: self.voluntary.saturating_sub(earlier.voluntary),
            involuntary_switches: self.involuntary.saturating_sub(earlier.involuntary),
            minor_faults: self.faults.saturating_sub(earlier.faults),
            run_queue_wait_ns: self.waited.saturating_sub(earlier.waited),
            rss_bytes: self.rss,
            enters_per_op: enters.map(|enters| ratio(enters, ops)),
        }
    }
}

/// Processor time of all threads of a process, also of those that ended, in nanoseconds.
pub(crate) fn cpu_nanos(pid: u32) -> u64 {
    let clock = i32::try_from(pid).ok().and_then(|pid| ClockId::pid_cpu_clock_id(Pid::from_raw(pid)).ok());
    let time = clock.and_then(|clock| clock_gettime(clock).ok());
    time.map_or(0, |time| {
        u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
    })
}

impl Machine {
    pub(crate) fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let ticks: Vec<u64> = stat
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .map(|text| text.parse().unwrap_or(0))
            .collect();
        let tick = |n: usize| ticks.get(n).copied().unwrap_or(0) * TICK_NANOS;
        let (user, nice, system, irq, softirq) = (tick(0), tick(1), tick(2), tick(5), tick(6));
        Self { busy: user + nice + system + irq + softirq, softirq, steal: tick(7) }
    }

    pub(crate) fn steal(&self) -> u64 {
        self.steal
    }

    pub(crate) fn since(&self, earlier: &Self, ops: u64, attributed: u64) -> System {
        let busy = self.busy.saturating_sub(earlier.busy);
        System {
            busy_ns: busy,
            softirq_ns: self.softirq.saturating_sub(earlier.softirq),
            steal_ns: self.steal.saturating_sub(earlier.steal),
            cpu_ns_per_op: ratio(busy, ops),
            unattributed_ns: busy.saturating_sub(attributed),
        }
    }
}

fn ratio(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

fn line(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Memory at one moment, to tell what connections cost. A kernel's socket is in no process's RSS.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    server_rss: u64,
    client_rss: u64,
    slab: u64,
}

impl Memory {
    pub(crate) fn now(server: Option<u32>) -> Self {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            server_rss: server.map_or(0, |pid| Process::of(pid).rss),
            client_rss: Process::of(std::process::id()).rss,
            slab: line(&meminfo, "Slab:") * 1024,
        }
    }

    /// What each of so many connections added. Both ends of each are on this machine where the far end is.
    pub(crate) fn of_each(&self, before: &Self, connections: u64) -> BTreeMap<String, f64> {
        let each = |now: u64, before: u64| now.saturating_sub(before) as f64 / connections.max(1) as f64;
        BTreeMap::from([
            ("server_rss_of_each_connection_bytes".into(), each(self.server_rss, before.server_rss)),
            ("client_rss_of_each_connection_bytes".into(), each(self.client_rss, before.client_rss)),
            ("kernel_slab_of_each_connection_bytes".into(), each(self.slab, before.slab)),
        ])
    }
}

/// The kernel's TCP counters that tell of trouble.
const COUNTERS: [&str; 10] = [
    "RetransSegs",
    "TCPLostRetransmit",
    "TCPTimeouts",
    "TCPSynRetrans",
    "ListenOverflows",
    "ListenDrops",
    "TCPBacklogDrop",
    "TCPRcvQDrop",
    "TCPMemoryPressures",
    "TCPAbortOnMemory",
];

/// The counters of the whole machine, or of this network namespace.
pub(crate) fn netstat() -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for file in ["/proc/net/snmp", "/proc/net/netstat"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        // Pairs of lines: names, and values in the same places.
        for pair in lines.chunks_exact(2) {
            for (name, value) in pair[0].split_whitespace().zip(pair[1].split_whitespace()).skip(1) {
                if COUNTERS.contains(&name) {
                    found.insert(name.to_owned(), value.parse().unwrap_or(0));
                }
            }
        }
    }
    found
}

/// How far the counters went, those that did not move left out.
pub(crate) fn netstat_since(earlier: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let moved = netstat().into_iter().filter_map(|(name, value)| {
        let delta = value.saturating_sub(earlier.get(&name).copied().unwrap_or(0));
        (delta > 0).then_some((name, delta))
    });
    moved.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_to_work() {
        let before = Process::of(std::process::id());
        let mut sum = 0_u64;
        while cpu_nanos(std::process::id()) - before.cpu < 20_000_000 {
            (0..1000).for_each(|n| sum = std::hint::black_box(sum + n));
        }
        let end = Process::of(std::process::id()).since(&before, 10, 20_000_000, Some(5));
        assert!(end.cpu_ns >= 20_000_000 && end.rss_bytes > 100_000);
        assert!(end.cpu_ns_per_op >= 2_000_000.0 && end.cpu_s_per_gb >= 1.0);
        assert_eq!(end.enters_per_op, Some(0.5));
    }

    #[test]
    fn what_is_not_there_costs_nothing() {
        assert_eq!(cpu_nanos(u32::MAX), 0);
        assert_eq!(ratio(5, 0), 0.0);
    }
}
