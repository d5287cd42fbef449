//! Connections made and closed, over and over: so many dials under way at any time. Connect times are from the dial to the
//! established connection. With `--with-rtt` each also carries a verified request and its answer before it is closed; with
//! `--hello` each is established only when both ends have said hello, by the few lines of `contender/frames.rs`.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use ringlink::service::{Pattern, Word};

use super::{GATE_TICK, Gate, Intervals, Lengths, News, Tally, Times};
use crate::clock;
use crate::contender::frames::{self, Kind};
use crate::engine::{Close, Ended, Io, Lane, Load, Wiring};
use crate::flags::ConnectFlags;
use crate::report::{Report, Workload};
use crate::run::Job;

/// Connects as the flags say.
pub(crate) fn run(flags: &ConnectFlags) -> anyhow::Result<Report> {
    let (common, close) = (&flags.common, Close::from(flags.close));
    let errand = Errand::of(flags);
    let serve = if flags.hello { "msg" } else { "echo" };
    let job = Job {
        common,
        connections: flags.connections,
        with: flags.ends.with,
        // Closed ones linger at the far end: there must be room for both.
        serve: vec![serve.into(), format!("--connections={}", 4 * flags.connections + 1024)],
        concurrency: None,
        are_links: flags.hello,
        ends_by_count: false,
        workload: Workload {
            kind: "connect".into(),
            engine: format!("{}{}", if flags.hello { "hello, " } else { "" }, flags.ends.engine),
            size: if flags.with_rtt { flags.size.to_string() } else { String::new() },
            ..Workload::default()
        },
    };
    let lengths = job.lengths();
    let pattern = Pattern::new(common.seed);
    job.run(|share, wiring| {
        let load = Connect {
            close,
            errand,
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

/// What a connection does before it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errand {
    Nothing,
    /// Sends so many bytes, and hears them again.
    Request(usize),
    /// Says hello as a node of its own, and hears the far end's.
    Hello,
}

impl Errand {
    fn of(flags: &ConnectFlags) -> Self {
        match (flags.hello, flags.with_rtt) {
            (true, _) => Self::Hello,
            (false, true) => Self::Request(flags.size),
            (false, false) => Self::Nothing,
        }
    }

    /// Bytes that are payload.
    fn payload(self) -> u64 {
        match self {
            Self::Request(size) => size as u64,
            Self::Nothing | Self::Hello => 0,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Attempt {
    dialed: u64,
    open: bool,
    /// How many there were on this lane: which request is sent.
    number: u64,
    /// So much of the answer to a request has come and is right.
    at: usize,
    /// The payload of our hello, and what has come of the far end's frame.
    hello: Vec<u8>,
    heard: Vec<u8>,
    done: bool,
}

struct Connect {
    close: Close,
    errand: Errand,
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

    /// Among the lanes of all threads.
    fn number(&self, lane: Lane) -> u32 {
        self.first + u32::try_from(lane).expect("a thread has fewer lanes than a word can tell apart")
    }

    fn word(&self, lane: Lane) -> Word {
        Word::data(self.number(lane), self.lanes[lane].number)
    }

    fn is_measured(&self, time: u64) -> bool {
        self.times.is_some_and(|times| time >= times.from && time < times.until)
    }

    fn established(&mut self, lane: Lane) {
        let dialed = self.lanes[lane].dialed;
        if self.is_measured(dialed) {
            self.tally.service.record(clock::now() - dialed);
        }
    }

    /// Takes a part of what the far end answers; true when that was the last.
    fn hear(&mut self, lane: Lane, data: &[u8]) -> Result<bool, &'static str> {
        let word = self.word(lane);
        let attempt = &mut self.lanes[lane];
        match self.errand {
            Errand::Nothing => Ok(false),
            Errand::Request(size) => {
                let surplus = attempt.at + data.len() > size;
                if surplus || self.pattern.differs(word, attempt.at, data).is_some() {
                    return Err("an answer is wrong");
                }
                attempt.at += data.len();
                self.tally.bytes_rx += data.len() as u64;
                Ok(attempt.at == size)
            }
            Errand::Hello => {
                self.tally.bytes_rx += data.len() as u64;
                attempt.heard.extend_from_slice(data);
                let is_there = frames::is_hello(&attempt.heard, &attempt.hello)?;
                if is_there {
                    self.established(lane);
                }
                Ok(is_there)
            }
        }
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
            self.tally.measured_bytes += self.errand.payload();
            intervals.pass(now);
            intervals.count(self.errand.payload(), now - self.lanes[lane].dialed);
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
        if unexplained > 0 {
            tally.failure.get_or_insert_with(|| "the far end did not answer in time".into());
        }
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
        self.lanes[lane].open = true;
        self.scratch.clear();
        match self.errand {
            Errand::Nothing => {
                self.established(lane);
                return self.complete(io, lane);
            }
            Errand::Request(size) => {
                self.established(lane);
                self.pattern.write(self.word(lane), size, &mut self.scratch);
            }
            Errand::Hello => {
                let hello = frames::hello(self.number(lane));
                frames::write(Kind::Hello, &hello, &mut self.scratch);
                self.lanes[lane].hello = hello;
            }
        }
        io.send(lane, &self.scratch);
        self.tally.bytes_tx += self.scratch.len() as u64;
    }

    fn received(&mut self, io: &mut dyn Io, lane: Lane, data: &[u8]) {
        if self.lanes[lane].done || self.stopped {
            return;
        }
        match self.hear(lane, data) {
            Ok(true) => self.complete(io, lane),
            Ok(false) => {}
            Err(why) => {
                self.tally.errors.corrupt += 1;
                self.tally.failure.get_or_insert_with(|| why.into());
                self.lanes[lane].done = true;
                io.close(lane, Close::Reset);
            }
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
