//! Connections made and closed, over and over: so many dials under way at any time. Connect times are from the dial to the
//! established connection; with `--with-rtt` each also carries a verified request and its answer before it is closed.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use ringlink::service::{Pattern, Word};

use super::{GATE_TICK, Gate, Intervals, Lengths, News, Tally, Times};
use crate::clock;
use crate::engine::{Close, Ended, Io, Lane, Load, Wiring};
use crate::flags::ConnectFlags;
use crate::report::{Report, Workload};
use crate::run::Job;

/// Connects as the flags say.
pub(crate) fn run(flags: &ConnectFlags) -> anyhow::Result<Report> {
    let (common, close) = (&flags.common, Close::from(flags.close));
    let request = if flags.with_rtt { flags.size } else { 0 };
    let job = Job {
        common,
        connections: flags.connections,
        with: flags.ends.with,
        // Closed ones linger at the far end: there must be room for both.
        serve: vec!["echo".into(), format!("--connections={}", 4 * flags.connections + 1024)],
        concurrency: None,
        ends_by_count: false,
        workload: Workload {
            kind: "connect".into(),
            engine: flags.ends.engine.to_string(),
            size: if flags.with_rtt { flags.size.to_string() } else { String::new() },
            ..Workload::default()
        },
    };
    let lengths = job.lengths();
    let pattern = Pattern::new(common.seed);
    job.run(|share, wiring| {
        let load = Connect {
            close,
            request,
            lengths,
            first: share.first,
            gate: share.gate,
            news: share.news,
            pattern: pattern.clone(),
            lanes: vec![Attempt::default(); share.lanes],
            times: None,
            intervals: None,
            busy: 0,
            ending: false,
            stopped: false,
            tally: Tally::new(),
            scratch: Vec::new(),
        };
        let (engine, wiring) = (flags.ends.engine, Wiring { sources: flags.sources, ..wiring });
        Box::new(move || engine.run(load, &wiring))
    })
}

#[derive(Clone, Debug, Default)]
struct Attempt {
    dialed: u64,
    open: bool,
    /// How many there were on this lane: which request is sent.
    number: u64,
    /// So much of the answer has come and is right.
    at: usize,
    done: bool,
}

struct Connect {
    close: Close,
    /// Bytes of the request on each connection; 0 for none.
    request: usize,
    lengths: Lengths,
    first: u32,
    gate: Arc<Gate>,
    news: Sender<News>,
    pattern: Pattern,
    lanes: Vec<Attempt>,
    times: Option<Times>,
    intervals: Option<Intervals>,
    busy: usize,
    /// No more dials.
    ending: bool,
    stopped: bool,
    tally: Tally,
    scratch: Vec<u8>,
}

impl Connect {
    fn dial(&mut self, io: &mut dyn Io, lane: Lane) {
        let number = self.lanes[lane].number + 1;
        self.lanes[lane] = Attempt { dialed: clock::now(), number, ..Attempt::default() };
        self.busy += 1;
        self.tally.sent += 1;
        io.dial(lane);
    }

    fn word(&self, lane: Lane) -> Word {
        let number = u32::try_from(lane).expect("a thread has fewer lanes than a word can tell apart");
        Word::data(self.first + number, self.lanes[lane].number)
    }

    fn is_measured(&self, time: u64) -> bool {
        self.times.is_some_and(|times| time >= times.from && time < times.until)
    }

    /// The connection did what it was for.
    fn complete(&mut self, io: &mut dyn Io, lane: Lane) {
        self.lanes[lane].done = true;
        self.tally.verified += 1;
        let now = clock::now();
        if self.is_measured(now)
            && let Some(intervals) = &mut self.intervals
        {
            self.tally.measured_ops += 1;
            self.tally.measured_bytes += self.request as u64;
            intervals.pass(now);
            intervals.count(self.request as u64, now - self.lanes[lane].dialed);
        }
        io.close(lane, self.close);
    }

    fn proceed(&mut self, io: &mut dyn Io) {
        let now = clock::now();
        let Some(times) = self.times else {
            match self.gate.start() {
                _ if self.gate.is_stopped() => self.finish(io),
                Some(start) if start <= now => {
                    let times = self.lengths.times(start);
                    self.times = Some(times);
                    self.intervals = Some(Intervals::new(times, self.news.clone()));
                    (0..self.lanes.len()).for_each(|lane| self.dial(io, lane));
                    io.wake_at(now + GATE_TICK);
                }
                Some(_) | None => io.wake_at(now + GATE_TICK),
            }
            return;
        };
        if let Some(intervals) = &mut self.intervals {
            intervals.pass(now.min(times.until));
        }
        if !self.ending && (now >= times.until || self.gate.is_stopped()) {
            self.ending = true;
            self.tally.ended_at = now.min(times.until);
        }
        if self.ending && (self.busy == 0 || now > self.tally.ended_at.saturating_add(times.patience)) {
            return self.finish(io);
        }
        io.wake_at(now + 10 * GATE_TICK);
    }

    fn finish(&mut self, io: &mut dyn Io) {
        self.stopped = true;
        let mut tally = std::mem::replace(&mut self.tally, Tally::new());
        tally.lost = tally.sent - tally.verified;
        let unexplained = tally.lost.saturating_sub(tally.errors.sum());
        tally.errors.timeout += unexplained;
        self.gate.done(&self.news, tally);
        io.stop();
    }
}

impl Load for Connect {
    fn start(&mut self, io: &mut dyn Io) {
        // There is nothing to wait for: connecting is what is measured.
        (0..self.lanes.len()).for_each(|_| self.gate.one_opened());
        io.wake_at(clock::now() + GATE_TICK);
    }

    fn opened(&mut self, io: &mut dyn Io, lane: Lane) {
        let now = clock::now();
        let attempt = &mut self.lanes[lane];
        attempt.open = true;
        let took = now - attempt.dialed;
        if self.is_measured(self.lanes[lane].dialed) {
            self.tally.service.record(took);
        }
        if self.request == 0 {
            return self.complete(io, lane);
        }
        self.scratch.clear();
        self.pattern.write(self.word(lane), self.request, &mut self.scratch);
        io.send(lane, &self.scratch);
        self.tally.bytes_tx += self.request as u64;
    }

    fn received(&mut self, io: &mut dyn Io, lane: Lane, data: &[u8]) {
        let attempt = &self.lanes[lane];
        if attempt.done || self.stopped {
            return;
        }
        let surplus = attempt.at + data.len() > self.request;
        if surplus || self.pattern.differs(self.word(lane), attempt.at, data).is_some() {
            self.tally.errors.corrupt += 1;
            self.tally.failure.get_or_insert_with(|| "an answer is wrong".into());
            self.lanes[lane].done = true;
            return io.close(lane, Close::Reset);
        }
        self.lanes[lane].at += data.len();
        self.tally.bytes_rx += data.len() as u64;
        if self.lanes[lane].at == self.request {
            self.complete(io, lane);
        }
    }

    fn drained(&mut self, _: &mut dyn Io, _: Lane) {}

    fn closed(&mut self, io: &mut dyn Io, lane: Lane, why: Ended) {
        self.busy -= 1;
        let attempt = &self.lanes[lane];
        if !attempt.done {
            let errors = &mut self.tally.errors;
            match (attempt.open, &why) {
                (false, _) => errors.connect += 1,
                (true, Ended::Eof | Ended::Ours) => errors.eof += 1,
                (true, Ended::Reset | Ended::Refused | Ended::Timeout | Ended::Other(_)) => errors.reset += 1,
            }
            self.tally.failure.get_or_insert_with(|| format!("a connection failed: {why:?}"));
        }
        if !self.ending && self.tally.errors.connect < 1000 {
            self.dial(io, lane);
        } else if self.busy == 0 {
            self.proceed(io);
        }
    }

    fn woken(&mut self, io: &mut dyn Io) {
        if !self.stopped {
            self.proceed(io);
        }
    }
}
