//! What the threads of a run share, and what each hands back. A run has four phases: all connections open, a warm-up
//! that is not measured, the measured window, and the drain, in which what is under way may still arrive.

pub(crate) mod bulk;
pub(crate) mod connect;
pub(crate) mod echo;
pub(crate) mod fan;
pub(crate) mod msg;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::Sender;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::histogram::Histogram;

/// When the phases of a run begin. What does not end by time has `until` in the far future.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) start: u64,
    pub(crate) from: u64,
    pub(crate) until: u64,
    pub(crate) interval: u64,
    /// How long the drain may take.
    pub(crate) patience: u64,
}

/// Holds all threads until every connection of all of them is open, and stops them all at once.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    opened: AtomicU64,
    start: AtomicU64,
    stop: AtomicBool,
    released: Mutex<bool>,
    release: Condvar,
}

/// How often a thread looks at the gate.
pub(crate) const GATE_TICK: u64 = 1_000_000;

impl Gate {
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(SeqCst)
    }

    pub(crate) fn one_opened(&self) {
        self.opened.fetch_add(1, SeqCst);
    }

    pub(crate) fn start_at(&self, time: u64) {
        self.start.store(time, SeqCst);
    }

    /// When the run starts, once that is known.
    pub(crate) fn start(&self) -> Option<u64> {
        Some(self.start.load(SeqCst)).filter(|start| *start != 0)
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, SeqCst);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(SeqCst)
    }

    /// Hands a thread's tally over, and holds the thread, with its connections open, until they were looked at.
    pub(crate) fn done(&self, news: &Sender<News>, tally: Tally) {
        if news.send(News::Done(Box::new(tally))).is_err() {
            return; // after an error nobody listens any more: the run is over
        }
        let released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.release.wait_while(released, |released| !*released));
    }

    /// Lets the threads close their connections.
    pub(crate) fn release(&self) {
        *self.released.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.release.notify_all();
    }
}

/// The lengths of the phases.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lengths {
    pub(crate) warmup: Duration,
    pub(crate) duration: Duration,
    pub(crate) interval: Duration,
    pub(crate) patience: Duration,
}

impl Lengths {
    pub(crate) fn times(&self, start: u64) -> Times {
        let from = start + clock::span(self.warmup);
        Times {
            start,
            from,
            until: from.saturating_add(clock::span(self.duration)),
            interval: clock::span(self.interval),
            patience: clock::span(self.patience),
        }
    }
}

/// What went wrong, by kind: a connection that could not be made, an operation whose answer was wrong or never came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Errors {
    /// Connections that could not be made.
    pub(crate) connect: u64,
    /// Lost with a connection that was reset; one for a connection that had nothing under way.
    pub(crate) reset: u64,
    /// Lost with a connection the peer closed; one for a connection that had nothing under way.
    pub(crate) eof: u64,
    /// Not answered before the end.
    pub(crate) timeout: u64,
    /// Answered with other bytes.
    pub(crate) corrupt: u64,
    /// Answered before one sent earlier.
    pub(crate) reorder: u64,
    /// Answered twice.
    pub(crate) duplicate: u64,
    /// Bytes came that answer nothing.
    pub(crate) surplus: u64,
    /// Sent behind one of the above on its connection, so that its answer proves nothing.
    pub(crate) abandoned: u64,
}

impl Errors {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("connect", self.connect),
            ("reset", self.reset),
            ("eof", self.eof),
            ("timeout", self.timeout),
            ("corrupt", self.corrupt),
            ("reorder", self.reorder),
            ("duplicate", self.duplicate),
            ("surplus", self.surplus),
            ("abandoned", self.abandoned),
        ]
        .into_iter()
    }

    pub(crate) fn sum(&self) -> u64 {
        self.iter().map(|(_, count)| count).sum()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.connect += other.connect;
        self.reset += other.reset;
        self.eof += other.eof;
        self.timeout += other.timeout;
        self.corrupt += other.corrupt;
        self.reorder += other.reorder;
        self.duplicate += other.duplicate;
        self.surplus += other.surplus;
        self.abandoned += other.abandoned;
    }
}

/// What one thread counted, from its first operation to its last.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) verified: u64,
    /// Sent and never verified. `sent` is `verified` and this together, once a run has ended.
    pub(crate) lost: u64,
    pub(crate) bytes_tx: u64,
    pub(crate) bytes_rx: u64,
    pub(crate) errors: Errors,
    /// Due and not sent: its connection was busy (`--on-late drop`) or closed, or the generator far too slow.
    pub(crate) late_dropped: u64,
    /// Completed in the measured window.
    pub(crate) measured_ops: u64,
    pub(crate) measured_bytes: u64,
    /// Due in the measured window.
    pub(crate) offered: u64,
    pub(crate) response: Histogram,
    pub(crate) service: Histogram,
    pub(crate) lag: Histogram,
    /// When the measured window ended on this thread.
    pub(crate) ended_at: u64,
    /// What only this workload tells.
    pub(crate) figures: BTreeMap<String, f64>,
    /// What the first failure was, in words.
    pub(crate) failure: Option<String>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            sent: 0,
            verified: 0,
            lost: 0,
            bytes_tx: 0,
            bytes_rx: 0,
            errors: Errors::default(),
            late_dropped: 0,
            measured_ops: 0,
            measured_bytes: 0,
            offered: 0,
            response: Histogram::new(),
            service: Histogram::new(),
            lag: Histogram::new(),
            ended_at: 0,
            figures: BTreeMap::new(),
            failure: None,
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.verified += other.verified;
        self.lost += other.lost;
        self.bytes_tx += other.bytes_tx;
        self.bytes_rx += other.bytes_rx;
        self.errors.add(&other.errors);
        self.late_dropped += other.late_dropped;
        self.measured_ops += other.measured_ops;
        self.measured_bytes += other.measured_bytes;
        self.offered += other.offered;
        self.response.add(&other.response);
        self.service.add(&other.service);
        self.lag.add(&other.lag);
        self.ended_at = self.ended_at.max(other.ended_at);
        for (name, value) in other.figures {
            *self.figures.entry(name).or_default() += value;
        }
        self.failure = self.failure.take().or(other.failure);
    }
}

/// What one thread did in one interval of the window.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) index: usize,
    pub(crate) ops: u64,
    pub(crate) bytes: u64,
    pub(crate) latency: Histogram,
}

/// What threads tell while they run.
#[derive(Debug)]
pub(crate) enum News {
    /// A connection could not be made.
    NoConnection(String),
    Sample(Sample),
    /// The thread cannot go on.
    Failed(anyhow::Error),
    /// The thread is done.
    Done(Box<Tally>),
}

/// Cuts the window in intervals.
#[derive(Debug)]
pub(crate) struct Intervals {
    times: Times,
    sample: Sample,
    news: Sender<News>,
}

impl Intervals {
    pub(crate) fn new(times: Times, news: Sender<News>) -> Self {
        let sample = Sample { index: 0, ops: 0, bytes: 0, latency: Histogram::coarse() };
        Self { times, sample, news }
    }

    /// When the current interval ends; the last may be shorter. Never, after that.
    pub(crate) fn next(&self) -> u64 {
        let Times { from, until, interval, .. } = self.times;
        let after = |intervals: u64| from.saturating_add(interval.saturating_mul(intervals));
        let index = self.sample.index as u64;
        if after(index) < until { after(index + 1).min(until) } else { u64::MAX }
    }

    /// To be called with every passing moment of the window.
    pub(crate) fn pass(&mut self, now: u64) {
        while now >= self.next() {
            self.flush();
        }
    }

    pub(crate) fn count(&mut self, bytes: u64, latency: u64) {
        self.count_all(1, bytes, latency);
    }

    /// Counts operations that took the same time.
    pub(crate) fn count_all(&mut self, ops: u64, bytes: u64, latency: u64) {
        self.sample.ops += ops;
        self.sample.bytes += bytes;
        self.sample.latency.record(latency);
    }

    /// Counts bytes of a stream, so many for an operation.
    pub(crate) fn count_bytes(&mut self, bytes: u64, each: u64) {
        self.sample.bytes += bytes;
        self.sample.ops = self.sample.bytes / each;
    }

    fn flush(&mut self) {
        // Nobody listens any more after an error; the run is over then.
        drop(self.news.send(News::Sample(self.sample.clone())));
        self.sample.index += 1;
        (self.sample.ops, self.sample.bytes) = (0, 0);
        self.sample.latency.reset();
    }
}
