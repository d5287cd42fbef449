//! A run: far end, threads, the common start, what is measured at the window's edges, and the report of it all.

mod checks;
mod collect;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};

use crate::engine::Wiring;
use crate::environment::{self, Environment};
use crate::far_end::FarEnd;
use crate::flags::{Backend, CommonFlags, Pin};
use crate::report::{self, Report, Tool, Totals, Workload};
use crate::workload::{Gate, Lengths, News, Tally};
use crate::{clock, cost, signals};
use collect::{Collected, Collector};

/// The figure of what the far end says of [`Job::are_links`].
const LINKS_AT_FAR_END: &str = "links_opened_at_far_end";

/// What a workload is to a run.
pub(crate) struct Job<'f> {
    pub(crate) common: &'f CommonFlags,
    pub(crate) connections: usize,
    /// What the far end is made of, and what it is told, where it is ours.
    pub(crate) with: Backend,
    pub(crate) serve: Vec<String>,
    /// Operations under way at any time in a closed loop.
    pub(crate) concurrency: Option<usize>,
    /// What is verified are links: the far end, where it is ours, has opened as many.
    pub(crate) are_links: bool,
    /// True when the run ends by itself, not by time.
    pub(crate) ends_by_count: bool,
    pub(crate) workload: Workload,
}

/// What a thread of a run does; it hands back the number of its system calls.
pub(crate) type Body = Box<dyn FnOnce() -> anyhow::Result<u64> + Send>;

/// A thread's share of a run.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    pub(crate) thread: usize,
    pub(crate) threads: usize,
    pub(crate) lanes: usize,
    /// The number of its first connection.
    pub(crate) first: u32,
    pub(crate) gate: Arc<Gate>,
    pub(crate) news: Sender<News>,
}

impl Job<'_> {
    pub(crate) fn lengths(&self) -> Lengths {
        let common = self.common;
        let duration = if self.ends_by_count { Duration::from_secs(86_400) } else { common.duration };
        Lengths {
            warmup: common.warmup(self.ends_by_count),
            duration,
            interval: common.interval,
            patience: common.timeout,
        }
    }

    /// Runs it. An error is one of the machine or the far end; what the load itself found is in the report.
    pub(crate) fn run(mut self, make: impl Fn(Share, Wiring) -> Body) -> anyhow::Result<Report> {
        let started = clock::unix();
        environment::raise_nofile(self.connections)?;
        let common = self.common;
        let pin = processors(common.pin, common.target.is_none(), common.threads.max(common.loops));
        let (target, mut far) = match self.common.resolve()? {
            Some(target) => (target, None),
            None => {
                let far = FarEnd::serve(&self.far_words(), pin.server)?;
                (far.address, Some(far))
            }
        };
        self.describe(target, pin);
        if let Some(pid) = common.target_pid
            && cost::cpu_nanos(pid) == 0
        {
            bail!("--target-pid: the processor time of {pid} cannot be read; is there such a process?");
        }
        let server = far.as_ref().map(FarEnd::pid).or(common.target_pid);
        let (gate, (news, heard)) = (Arc::new(Gate::default()), mpsc::channel());
        let threads = self.start_threads(target, pin, &gate, &news, make)?;
        drop(news);
        signals::on_signal({
            let gate = Arc::clone(&gate);
            move || gate.stop()
        });
        let collector = Collector::new(&self, target, server, far.as_mut(), &gate, heard);
        let collected = collector.collect().inspect_err(|_| gate.stop());
        gate.release();
        let collected = collected?;
        let mut calls = 0;
        for thread in threads {
            calls += thread.join().map_err(|_| anyhow!("a thread of the generator panicked"))?;
        }
        Ok(self.report(started, &collected, calls, gate.is_stopped()))
    }

    /// What a far end of ours is started with.
    fn far_words(&self) -> Vec<String> {
        let common = self.common;
        let mut words = self.serve.clone();
        words.push(format!("--with={}", self.with));
        words.extend((common.loops > 1).then(|| format!("--loops={}", common.loops)));
        let spins = self.with.driver().is_some() && !common.busy_poll.is_zero();
        words.extend(spins.then(|| format!("--busy-poll={}ns", common.busy_poll.as_nanos())));
        words.extend(common.congestion.as_ref().map(|name| format!("--congestion={name}")));
        words.extend(common.delay.then(|| "--delay".to_owned()));
        words
    }

    fn describe(&mut self, target: SocketAddr, pin: Pin) {
        let common = self.common;
        let workload = &mut self.workload;
        workload.target = common.target.clone().unwrap_or_else(|| target.to_string());
        workload.own_far_end = common.target.is_none();
        if workload.own_far_end {
            (workload.with, workload.loops) = (self.with.to_string(), usize::from(common.loops));
        }
        workload.busy_poll_ns = clock::span(common.busy_poll);
        workload.connections = self.connections;
        workload.threads = usize::from(common.threads);
        workload.duration_ns = if self.ends_by_count { 0 } else { clock::span(common.duration) };
        workload.warmup_ns = clock::span(common.warmup(self.ends_by_count));
        workload.seed = common.seed;
        workload.nodelay = !common.delay;
        let system = || Environment::congestion_control();
        workload.congestion = common.congestion.clone().unwrap_or_else(system);
        workload.processors = told(pin);
    }

    fn start_threads(
        &self,
        target: SocketAddr,
        pin: Pin,
        gate: &Arc<Gate>,
        news: &Sender<News>,
        make: impl Fn(Share, Wiring) -> Body,
    ) -> anyhow::Result<Vec<JoinHandle<u64>>> {
        let threads = usize::from(self.common.threads);
        let mut first = 0;
        let mut started = Vec::new();
        for thread in 0..threads {
            let lanes = self.connections / threads + usize::from(thread < self.connections % threads);
            let share = Share { thread, threads, lanes, first, gate: Arc::clone(gate), news: news.clone() };
            first += u32::try_from(lanes).context("too many connections")?;
            let wiring = Wiring {
                target,
                lanes,
                nodelay: !self.common.delay,
                congestion: self.common.congestion.clone(),
                processor: pin.client,
                busy_poll: self.common.busy_poll,
                sources: 1,
            };
            let (body, news) = (make(share, wiring), news.clone());
            let told = move || {
                body().unwrap_or_else(|error| {
                    // Only after another's error nobody listens.
                    drop(news.send(News::Failed(error)));
                    0
                })
            };
            let spawned = thread::Builder::new().name(format!("load-{thread}")).spawn(told);
            started.push(spawned.context("cannot start a thread")?);
        }
        Ok(started)
    }

    fn report(&self, started: u64, collected: &Collected, calls: u64, interrupted: bool) -> Report {
        let tally = &collected.tally;
        let rate = collected.rate(self.workload.pace == "open");
        let enters = tally.sent.max(1);
        let mut cost = collected.cost(&rate);
        cost.client.enters_per_op = Some(calls as f64 / enters as f64);
        let mut report = Report {
            schema: report::SCHEMA.into(),
            status: report::Status::Ok,
            error: tally.failure.clone(),
            started_unix_ns: started,
            tool: Tool::this(),
            workload: self.workload.clone(),
            environment: Environment::capture(),
            totals: totals(tally),
            rate,
            latency_ns: report::Latencies {
                response: (self.workload.pace == "open").then(|| tally.response.latency()).flatten(),
                service: tally.service.latency(),
                send_lag: tally.lag.latency(),
            },
            figures: tally.figures.clone(),
            intervals: collected.intervals.clone(),
            cost,
            tcp_info: collected.tcp_info.clone(),
            netstat_delta: collected.netstat.clone(),
            checks: Vec::new(),
            thresholds: Vec::new(),
            hgrm: String::new(),
        };
        report.checks = checks::checks(&report, self.concurrency, &tally.service);
        report.thresholds = self.common.threshold.iter().map(|t| t.check(&report)).collect();
        report.status = match () {
            () if report.is_unsound() => report::Status::Error,
            () if interrupted => report::Status::Partial,
            () if self.common.strict && report.failed_checks().next().is_some() => report::Status::Invalid,
            () => report::Status::Ok,
        };
        if self.common.output.hgrm.is_some() {
            let histogram = if self.workload.pace == "open" { &tally.response } else { &tally.service };
            report.hgrm = histogram.hgrm();
        }
        report
    }
}

fn totals(tally: &Tally) -> Totals {
    Totals {
        sent: tally.sent,
        verified: tally.verified,
        lost: tally.lost,
        late_dropped: tally.late_dropped,
        bytes_tx: tally.bytes_tx,
        bytes_rx: tally.bytes_rx,
        errors: tally.errors,
    }
}

/// Where the ends run, in words.
pub(crate) fn told(pin: Pin) -> String {
    let end = |name: &str, processor: Option<usize>| processor.map(|n| format!("{name} on cpu {n}"));
    let ends = [end("client", pin.client), end("server", pin.server)];
    let told = ends.into_iter().flatten().collect::<Vec<_>>().join(" ");
    if told.is_empty() { "not pinned".into() } else { told }
}

/// Where the ends run unless it was said: apart, if the far end is ours and there is a processor for each.
pub(crate) fn processors(pin: Pin, own_far_end: bool, threads: u16) -> Pin {
    if !pin.is_auto {
        return pin;
    }
    let apart = own_far_end && threads == 1 && environment::processors() >= 2;
    Pin { is_auto: false, client: apart.then_some(1), server: apart.then_some(0) }
}
