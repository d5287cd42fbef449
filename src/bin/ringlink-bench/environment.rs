//! The machine a result was measured on, and what is set up before measuring: descriptors, processors.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

use crate::clock;

/// Descriptors a process needs beside its connections.
const SPARE: u64 = 64;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Environment {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) processors: usize,
    /// True under a hypervisor.
    pub(crate) is_virtual: bool,
    pub(crate) clocksource: String,
    pub(crate) clock_cost_ns: u64,
    pub(crate) loadavg: String,
    pub(crate) nofile: u64,
    pub(crate) congestion_control: String,
    pub(crate) loopback_mtu: String,
    pub(crate) sysctls: BTreeMap<String, String>,
}

const SYSCTLS: [&str; 9] = [
    "net/core/somaxconn",
    "net/core/rmem_max",
    "net/core/wmem_max",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_wmem",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_tw_reuse",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/tcp_slow_start_after_idle",
];

impl Environment {
    pub(crate) fn congestion_control() -> String {
        read("/proc/sys/net/ipv4/tcp_congestion_control")
    }

    pub(crate) fn capture() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
        let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let sysctl = |name: &&str| (name.replace('/', "."), read(&format!("/proc/sys/{name}")));
        Self {
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: model.trim_start_matches(['\t', ' ', ':']).to_owned(),
            processors: processors(),
            is_virtual: flags.split_whitespace().any(|flag| flag == "hypervisor"),
            clocksource: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            clock_cost_ns: clock::cost(),
            loadavg: read("/proc/loadavg"),
            nofile: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            congestion_control: Self::congestion_control(),
            loopback_mtu: read("/sys/class/net/lo/mtu"),
            sysctls: SYSCTLS.iter().map(sysctl).collect(),
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".into(), |text| text.trim().replace('\t', " "))
}

pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Raises the limit of descriptors as far as it goes, and refuses early what would fail late.
pub(crate) fn raise_nofile(connections: usize) -> anyhow::Result<()> {
    let wanted = connections as u64 + SPARE;
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX).max(wanted);
    // Only root gets past the hard limit.
    let raised = [hard, limit.maximum.unwrap_or(u64::MAX)]
        .into_iter()
        .any(|most| setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: Some(most) }).is_ok());
    let now = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if now < wanted {
        let tried = if raised { "" } else { ", and it cannot be raised" };
        bail!(
            "{connections} connections need {wanted} descriptors, and the limit is {now}{tried}; \
             raise it with: ulimit -n {wanted}"
        );
    }
    Ok(())
}

/// Keeps this thread, and what it starts, on one processor.
pub(crate) fn pin_this_thread(processor: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    if processor >= CpuSet::MAX_CPU {
        bail!("there is no processor {processor}");
    }
    set.set(processor);
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on processor {processor}"))
}

/// Runs `start` with this thread on a processor, which its children inherit, and puts the thread back.
pub(crate) fn on_processor<T>(
    processor: Option<usize>,
    start: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let Some(processor) = processor else { return start() };
    let before = sched_getaffinity(None).context("cannot ask for this thread's processors")?;
    pin_this_thread(processor)?;
    let started = start();
    sched_setaffinity(None, &before).context("cannot give this thread its processors back")?;
    started
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_known() {
        let environment = Environment::capture();
        assert!(environment.processors >= 1 && environment.nofile > 0);
        assert!(!environment.kernel.is_empty());
    }

    #[test]
    fn more_connections_than_descriptors_are_refused_with_the_numbers() {
        let refused = raise_nofile(1 << 40).unwrap_err().to_string();
        assert!(refused.contains("1099511627776 connections") && refused.contains("ulimit"), "{refused}");
    }
}
