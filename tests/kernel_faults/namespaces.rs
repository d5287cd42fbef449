//! Two network namespaces with a cable between them.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::skipped::skipped;

/// Namespaces `a` and `b`: `va` in `a` is 10.200.1.1 and 10.200.2.1, `vb` in `b` is 10.200.1.2 and 10.200.2.2.
pub(crate) struct Namespaces {
    a: String,
    b: String,
}

/// Says what failed.
fn run(line: &str) -> Result<String, String> {
    let output = Command::new("sh").args(["-c", &format!("PATH=$PATH:/usr/sbin:/sbin; {line}")]).output();
    let output = output.map_err(|error| error.to_string())?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(said) } else { Err(format!("{line}: {said}")) }
}

fn missing(tool: &str) -> bool {
    // Root in a container may not.
    let may = run("unshare --net true").is_ok();
    let missing = !may || run(&format!("command -v {tool}")).is_err();
    if missing {
        skipped(&format!("needs network namespaces (allowed: {may}) and {tool} (ci/install.sh)"));
    }
    missing
}

/// What a killed test left.
fn sweep() {
    for line in run("ip netns list").unwrap_or_default().lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let owner = name.strip_prefix("ringlink-").and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            drop(run(&format!("ip netns delete {name}")));
        }
    }
}

/// What becomes of TCP packets that arrive, in the words of nft.
fn filter(name: &str, rule: &str) {
    let script = format!(
        "set -e; in='ip netns exec {name}'; $in nft add table inet faults
        $in nft 'add chain inet faults in {{ type filter hook input priority 0; }}'
        $in nft 'add rule inet faults in meta l4proto tcp {rule}'"
    );
    run(&script).unwrap();
}

/// Threads that it starts are there, too.
fn spawn_in<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let namespace = File::open(format!("/run/netns/{name}")).unwrap();
    thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    })
}

impl Namespaces {
    /// `None`, loudly, where there can be none.
    pub(crate) fn new(tools: &[&str]) -> Option<Self> {
        if missing("ip") || tools.iter().any(|tool| missing(tool)) {
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sweep();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("ringlink-{}-{number}-{side}", process::id());
        let both = Self { a: name("a"), b: name("b") };
        let (a, b) = (&both.a, &both.b);
        let script = format!(
            "set -e; ip netns add {a}; ip netns add {b}
            ip link add va netns {a} type veth peer name vb netns {b}
            for net in 1 2; do
                ip -n {a} address add 10.200.$net.1/24 dev va; ip -n {b} address add 10.200.$net.2/24 dev vb
            done
            ip -n {a} link set lo up; ip -n {a} link set va up; ip -n {b} link set lo up; ip -n {b} link set vb up"
        );
        run(&script).unwrap();
        Some(both)
    }

    /// The cable's end in `b`: `up` or `down`.
    pub(crate) fn set_link(&self, state: &str) {
        run(&format!("ip -n {} link set vb {state}", self.b)).unwrap();
    }

    /// Of each hundred packets that arrive at either end, so many are lost.
    pub(crate) fn lose(&self, percent: u32) {
        for name in [&self.a, &self.b] {
            filter(name, &format!("numgen random mod 100 < {percent} counter drop"));
        }
    }

    /// Whatever arrives in `a` is answered by RST.
    pub(crate) fn reset_in_a(&self) {
        filter(&self.a, "reject with tcp reset");
    }

    /// The end of [`Namespaces::lose`] and [`Namespaces::reset_in_a`].
    pub(crate) fn pass(&self) {
        for name in [&self.a, &self.b] {
            run(&format!("ip netns exec {name} nft flush ruleset")).unwrap();
        }
    }

    /// From now on the cable carries no more than `rate`, in the words of tc, each way.
    pub(crate) fn slow_down(&self, rate: &str) {
        for (name, end) in [(&self.a, "va"), (&self.b, "vb")] {
            let shape = format!("root tbf rate {rate} burst 32kbit latency 50ms");
            run(&format!("tc -n {name} qdisc add dev {end} {shape}")).unwrap();
        }
    }

    /// A thread in `a`.
    pub(crate) fn spawn_in_a<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        spawn_in(&self.a, work)
    }

    /// A thread in `b`.
    pub(crate) fn spawn_in_b<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        spawn_in(&self.b, work)
    }

    /// How many packets were lost.
    pub(crate) fn lost(&self) -> u64 {
        let count = |name| {
            let said = run(&format!("ip netns exec {name} nft list table inet faults")).unwrap();
            let packets = said.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
            packets.and_then(|count| count.parse::<u64>().ok()).unwrap_or_else(|| panic!("{said}"))
        };
        count(&self.a) + count(&self.b)
    }

    pub(crate) fn in_a(&self) -> String {
        format!("/usr/bin/env PATH=/usr/sbin:/sbin:/usr/bin:/bin ip netns exec {}", self.a)
    }

    pub(crate) fn in_b(&self) -> String {
        format!("/usr/bin/env PATH=/usr/sbin:/sbin:/usr/bin:/bin ip netns exec {}", self.b)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [&self.a, &self.b] {
            drop(run(&format!("ip netns delete {name}")));
        }
    }
}
