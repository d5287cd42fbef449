//! Peers in message mode: `ringlink run --service pipe` as a process, whose lines the hub sends back. Each line that comes
//! is whole, comes once and in order; some may be missing only after the link was disturbed.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::hub::{DEAD_AFTER, Hub, spawn};
use super::namespaces::Namespaces;
use super::{Random, pause};

#[derive(Default)]
struct Counts {
    heard: AtomicU64,
    disturbances: AtomicU64,
}

/// Lines of peers that were killed.
static EARLIER: AtomicU64 = AtomicU64::new(0);

/// How many lines all peers there ever were have heard.
pub(crate) fn lines(peers: &[Peer]) -> u64 {
    EARLIER.load(Relaxed) + peers.iter().map(Peer::heard).sum::<u64>()
}

pub(crate) struct Peer {
    child: Child,
    threads: [JoinHandle<()>; 2],
    counts: Arc<Counts>,
}

fn line(seed: u64, number: u64) -> String {
    let mut random = Random::new(seed ^ number << 20);
    let length = random.below(600) as usize;
    let hex: String = random.bytes(length / 2).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{number} {hex}")
}

impl Peer {
    pub(crate) fn start(net: Option<&Namespaces>, hub: &Hub, seed: u64) -> Self {
        let before = net.map_or(String::new(), Namespaces::in_b);
        // Beside the folder of this example.
        let example = std::env::current_exe().unwrap();
        let ringlink = example.parent().and_then(|folder| folder.parent()).unwrap().join("ringlink");
        let mut child = spawn(
            &format!(
                "{before} {} run --service pipe --listen none --dial {} --heartbeat {}ms --dead-after {}ms \
                 --dial-timeout 1s",
                ringlink.display(),
                hub.messages,
                DEAD_AFTER.as_millis() / 4,
                DEAD_AFTER.as_millis(),
            ),
            Stdio::null(),
        );
        let (mut input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let writer = thread::spawn(move || {
            let mut numbers = 0..;
            let mut burst = || (&mut numbers).take(50).map(|n| line(seed, n) + "\n").collect::<String>();
            while input.write_all(burst().as_bytes()).is_ok() {
                pause(Duration::from_millis(10));
            }
        });
        let counts = Arc::<Counts>::default();
        let counted = Arc::clone(&counts);
        let reader = thread::spawn(move || {
            let (mut next, mut excused) = (0, 0);
            for got in output.lines().map_while(Result::ok) {
                // The last one may be cut off where the process was killed.
                let Some(number) = got.split_once(' ').and_then(|(number, _)| number.parse().ok()) else {
                    break;
                };
                let disturbances = counted.disturbances.load(Relaxed);
                if got != line(seed, number) {
                    assert!(disturbances == u64::MAX, "a wrong line: {got:?}");
                    break;
                }
                assert!(number >= next, "line {number} came after line {}", next - 1);
                assert!(number == next || disturbances > excused, "lines {next} to {number} are missing");
                if number > next {
                    excused += 1;
                }
                next = number + 1;
                counted.heard.fetch_add(1, Relaxed);
            }
        });
        Self { child, threads: [writer, reader], counts }
    }

    /// How many lines came back.
    pub(crate) fn heard(&self) -> u64 {
        self.counts.heard.load(Relaxed)
    }

    /// Its link may be lost now, and with it what is under way.
    pub(crate) fn disturb(&self) {
        self.counts.disturbances.fetch_add(1, Relaxed);
    }

    pub(crate) fn stop_for(&self, time: Duration) {
        self.disturb();
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
        pause(time);
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    pub(crate) fn kill(mut self) {
        self.counts.disturbances.store(u64::MAX, Relaxed);
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        for thread in self.threads {
            thread.join().unwrap();
        }
        EARLIER.fetch_add(self.counts.heard.load(Relaxed), Relaxed);
    }
}
