//! Hears what the threads of a run tell, and takes the costs at the edges of the window and of its intervals.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::bail;

use crate::clock;
use crate::cost::{self, Machine, Memory, Process};
use crate::far_end::FarEnd;
use crate::histogram::Histogram;
use crate::report::json::{self, Event};
use crate::report::{Cost, Interval, Rate, text};
use crate::tcp_info;
use crate::workload::{Gate, News, Sample, Tally, Times};

use super::{Job, LINKS_AT_FAR_END};

/// Until all connections are open.
const OPENING: Duration = Duration::from_secs(60);
/// From the last connection to the start, so that all threads see it come.
const LEAD: u64 = 5_000_000;
const LOOK: Duration = Duration::from_millis(2);
/// What fewer connections added to the memory of a process says little of each.
const FEW: u64 = 500;

/// Both ends and the machine at one moment.
#[derive(Clone, Debug, Default)]
struct Edge {
    at: u64,
    server: Process,
    client: Process,
    machine: Machine,
    enters: Option<u64>,
}

pub(super) struct Collector<'r> {
    job: &'r Job<'r>,
    target: SocketAddr,
    server: Option<u32>,
    far: Option<&'r mut FarEnd>,
    gate: &'r Gate,
    news: Receiver<News>,
    /// At each interval's end: the server's processor time and the machine's steal.
    edges: Vec<(u64, u64)>,
    /// Each with how many threads told theirs of it, and the latencies until all have: they take far more than a row.
    rows: Vec<(usize, Interval, Option<Histogram>)>,
    tally: Tally,
    left: usize,
}

pub(super) struct Collected {
    pub(super) tally: Tally,
    pub(super) intervals: Vec<Interval>,
    pub(super) netstat: BTreeMap<String, u64>,
    pub(super) tcp_info: tcp_info::Both,
    from: u64,
    edges: [Edge; 2],
    has_server: bool,
}

impl<'r> Collector<'r> {
    pub(super) fn new(
        job: &'r Job<'r>,
        target: SocketAddr,
        server: Option<u32>,
        far: Option<&'r mut FarEnd>,
        gate: &'r Gate,
        news: Receiver<News>,
    ) -> Self {
        let left = usize::from(job.common.threads);
        let (edges, rows) = (Vec::new(), Vec::new());
        Self { job, target, server, far, gate, news, edges, rows, tally: Tally::new(), left }
    }

    pub(super) fn collect(mut self) -> anyhow::Result<Collected> {
        let (before, open) = self.wait_open()?;
        let added = self.job.connections as u64 - open;
        // Of few, pages are told and not connections.
        if self.job.workload.kind == "idle" && added >= FEW {
            self.tally.figures.extend(Memory::now(self.server).of_each(&before, added));
        }
        let times = self.job.lengths().times(clock::now() + LEAD);
        self.gate.start_at(times.start);
        self.stream(&Event::Start { workload: &self.job.workload });
        self.listen_until(times.from, &times)?;
        let (netstat, from) = (cost::netstat(), self.edge());
        self.edges.push((from.server.cpu(), from.machine.steal()));
        for index in 1.. {
            let next = times.from.saturating_add(times.interval.saturating_mul(index)).min(times.until);
            self.listen_until(next, &times)?;
            if self.left == 0 || next == times.until {
                break;
            }
            self.edges.push((self.server.map_or(0, cost::cpu_nanos), Machine::now().steal()));
        }
        let until = self.edge();
        self.edges.push((until.server.cpu(), until.machine.steal()));
        let netstat = cost::netstat_since(&netstat);
        let tcp_info = tcp_info::Both::of(self.target.port(), self.target.is_ipv6());
        self.gate.release();
        self.listen_until(u64::MAX, &times)?;
        let links = self.links_at_far_end(times.patience);
        self.tally.figures.extend(links.map(|links| (LINKS_AT_FAR_END.into(), links as f64)));
        let intervals = self.intervals();
        // One that is not there any more, or never was, has cost nobody knows what.
        let has_server = [&from, &until].iter().all(|edge| edge.server.cpu() > 0);
        Ok(Collected {
            tally: self.tally,
            intervals,
            netstat,
            tcp_info,
            from: times.from,
            edges: [from, until],
            has_server,
        })
    }

    /// Waits for every connection; the first that cannot be made ends the run. Says what memory was in use when the first
    /// had opened, since both ends had set up then, and how many had by that time.
    fn wait_open(&mut self) -> anyhow::Result<(Memory, u64)> {
        let mut first = None;
        let deadline = clock::now() + clock::span(OPENING);
        while self.gate.opened() < self.job.connections as u64 {
            match self.news.recv_timeout(LOOK) {
                Ok(News::NoConnection(why)) => {
                    self.gate.stop();
                    bail!("cannot connect to {}: {why}", self.job.workload.target);
                }
                Ok(News::Failed(error)) => return Err(error),
                Ok(News::Sample(_) | News::Done(_)) | Err(RecvTimeoutError::Disconnected) => {
                    bail!("interrupted before all connections were open");
                }
                Err(RecvTimeoutError::Timeout) if clock::now() > deadline => {
                    let (open, all) = (self.gate.opened(), self.job.connections);
                    self.gate.stop();
                    bail!("only {open} of {all} connections opened in {OPENING:?}");
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let open = self.gate.opened();
            if first.is_none() && open > 0 {
                first = Some((Memory::now(self.server), open));
            }
        }
        Ok(first.unwrap_or((Memory::default(), self.gate.opened())))
    }

    /// Listens until that time, or until all threads are done.
    fn listen_until(&mut self, time: u64, times: &Times) -> anyhow::Result<()> {
        while self.left > 0 {
            let left = Duration::from_nanos(time.saturating_sub(clock::now()));
            match self.news.recv_timeout(left.min(Duration::from_secs(3600))) {
                Ok(News::Sample(sample)) => self.take(&sample, times)?,
                Ok(News::Done(tally)) => {
                    self.tally.add(*tally);
                    self.left -= 1;
                }
                Ok(News::Failed(error)) => return Err(error),
                // A dial of a workload that goes on dialing; its tally counts it.
                Ok(News::NoConnection(_)) => {}
                Err(RecvTimeoutError::Timeout) if clock::now() >= time => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("a thread of the generator failed"),
            }
        }
        Ok(())
    }

    fn take(&mut self, sample: &Sample, times: &Times) -> anyhow::Result<()> {
        while self.rows.len() <= sample.index {
            let whole = times.interval.saturating_mul(self.rows.len() as u64 + 1);
            let t_ns = whole.min(times.until - times.from);
            self.rows.push((0, Interval { t_ns, ..Interval::default() }, None));
        }
        let (heard, row, latencies) = &mut self.rows[sample.index];
        *heard += 1;
        row.ops += sample.ops;
        row.bytes += sample.bytes;
        let latency = latencies.get_or_insert_with(Histogram::coarse);
        latency.add(&sample.latency);
        if *heard < usize::from(self.job.common.threads) {
            return Ok(());
        }
        if latency.count() > 0 {
            (row.p50_ns, row.p99_ns, row.max_ns) = (latency.at(50.0), latency.at(99.0), latency.max());
        }
        *latencies = None;
        let row = row.clone();
        self.stream(&Event::Interval { interval: &row });
        if !self.job.common.quiet && io::stderr().is_terminal() {
            let seconds = (row.t_ns - times.interval * sample.index as u64) as f64 / 1e9;
            let (rate, p99) = (text::count(row.ops as f64 / seconds), text::time(row.p99_ns as f64));
            let at = (row.t_ns as f64 / 1e7).round() / 100.0;
            // Nobody may be reading.
            drop(write!(io::stderr(), "\r\x1b[K{at} s  {rate}/s  p99 {p99}"));
            if row.t_ns == times.until - times.from {
                drop(write!(io::stderr(), "\r\x1b[K"));
            }
        }
        Ok(())
    }

    /// That nobody reads is found out at the end; the run goes on.
    fn stream(&self, event: &Event<'_>) {
        if self.job.common.output.json_stream {
            drop(json::stream(event));
        }
    }

    fn edge(&mut self) -> Edge {
        Edge {
            at: clock::now(),
            server: self.server.map(Process::of).unwrap_or_default(),
            client: Process::of(std::process::id()),
            machine: Machine::now(),
            enters: self.far.as_mut().and_then(|far| far.counter("enters")),
        }
    }

    /// How many the far end has opened; it may still be at the last of them.
    fn links_at_far_end(&mut self, patience: u64) -> Option<u64> {
        let far = self.far.as_mut().filter(|_| self.job.are_links)?;
        let deadline = clock::now().saturating_add(patience);
        loop {
            let opened = far.counter("opened")?;
            if opened >= self.tally.verified || clock::now() > deadline {
                return Some(opened);
            }
            thread::park_timeout(LOOK);
        }
    }

    fn intervals(&mut self) -> Vec<Interval> {
        let rows = std::mem::take(&mut self.rows);
        let mut intervals: Vec<Interval> = rows.into_iter().map(|(_, row, _)| row).collect();
        for (row, pair) in intervals.iter_mut().zip(self.edges.windows(2)) {
            row.server_cpu_ns = pair[1].0.saturating_sub(pair[0].0);
            row.steal_ns = pair[1].1.saturating_sub(pair[0].1);
        }
        intervals
    }
}

impl Collected {
    pub(super) fn rate(&self, is_open: bool) -> Rate {
        let tally = &self.tally;
        let window_ns = tally.ended_at.saturating_sub(self.from);
        let seconds = (window_ns as f64 / 1e9).max(1e-9);
        let ops_per_s = tally.measured_ops as f64 / seconds;
        let offered = is_open.then_some(tally.offered as f64 / seconds);
        Rate {
            window_ns,
            ops: tally.measured_ops,
            ops_per_s,
            goodput_bits_per_s: tally.measured_bytes as f64 * 8.0 / seconds,
            offered_ops_per_s: offered,
            achieved_ratio: offered.filter(|offered| *offered > 0.0).map(|offered| ops_per_s / offered),
        }
    }

    pub(super) fn cost(&self, rate: &Rate) -> Cost {
        let [from, until] = &self.edges;
        // The edges are taken a little after the window's; operations are those of the window.
        let (ops, bytes) = (rate.ops, self.tally.measured_bytes);
        let scale = rate.window_ns as f64 / (until.at - from.at).max(1) as f64;
        let enters = until.enters.zip(from.enters).map(|(until, from)| until.saturating_sub(from));
        let enters = enters.map(|enters| (enters as f64 * scale) as u64);
        let server = self.has_server.then(|| until.server.since(&from.server, ops, bytes, enters));
        let client = until.client.since(&from.client, ops, bytes, None);
        let attributed = server.map_or(0, |server| server.cpu_ns) + client.cpu_ns;
        Cost { server, client, system: until.machine.since(&from.machine, ops, attributed) }
    }
}
