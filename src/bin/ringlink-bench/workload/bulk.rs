//! Streams as fast as they go: up to a sink, which says how much of it has come and was right; down from a source; or both
//! ways through an echo. Goodput is what the receiver verified.

use std::mem;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use ringlink::service::Pattern;

use super::{GATE_TICK, Gate, Intervals, Lengths, News, Tally, Times};
use crate::clock;
use crate::engine::{Ended, Io, Lane, Load};
use crate::flags::{BulkFlags, Direction, Verify};
use crate::report::{Report, Workload};
use crate::run::Job;
use crate::serve::Progress;

/// Runs streams as the flags say.
pub(crate) fn run(flags: &BulkFlags) -> anyhow::Result<Report> {
    let (common, direction) = (&flags.common, flags.dir);
    let service = match direction {
        Direction::Up => "sink",
        Direction::Down => "source",
        Direction::Both => "echo",
    };
    let mut serve = vec![
        service.into(),
        format!("--connections={}", flags.connections + 16),
        format!("--seed={}", common.seed),
    ];
    if direction == Direction::Up {
        serve.push(format!("--verify={}", flags.verify));
    }
    let verified = if flags.verify == Verify::Off { ", not verified" } else { "" };
    let job = Job {
        common,
        connections: flags.connections,
        with: flags.ends.with,
        serve,
        concurrency: None,
        are_links: false,
        ends_by_count: false,
        workload: Workload {
            kind: "bulk".into(),
            engine: format!("{}{verified}", flags.ends.engine),
            size: flags.size.to_string(),
            ..Workload::default()
        },
    };
    let (lengths, pattern) = (job.lengths(), Pattern::new(common.seed));
    let mut report = job.run(|share, wiring| {
        let load = Bulk {
            direction,
            size: flags.size,
            verify: flags.verify == Verify::Full,
            lengths,
            gate: share.gate,
            news: share.news,
            pattern: pattern.clone(),
            lanes: (0..share.lanes).map(|_| Stream::default()).collect(),
            phase: Phase::Opening,
            times: None,
            intervals: None,
            tally: Tally::new(),
        };
        let engine = flags.ends.engine;
        Box::new(move || engine.run(load, &wiring))
    })?;
    report.figures.insert(format!("{direction}_goodput_bits_per_s"), report.rate.goodput_bits_per_s);
    Ok(report)
}

#[derive(Debug, Default)]
struct Stream {
    open: bool,
    sent: u64,
    /// Verified by whoever receives.
    arrived: u64,
    /// A part of what the sink says.
    partial: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Moving,
    Draining,
    Done,
}

struct Bulk {
    direction: Direction,
    /// Bytes that are sent at once, and that count as an operation.
    size: usize,
    /// Whether what comes is looked at.
    verify: bool,
    lengths: Lengths,
    gate: Arc<Gate>,
    news: Sender<News>,
    pattern: Pattern,
    lanes: Vec<Stream>,
    phase: Phase,
    times: Option<Times>,
    intervals: Option<Intervals>,
    tally: Tally,
}

impl Bulk {
    fn pump(&mut self, io: &mut dyn Io, lane: Lane) {
        let stream = &mut self.lanes[lane];
        while self.phase == Phase::Moving && self.direction != Direction::Down && stream.open {
            let piece = self.pattern.stream(stream.sent, self.size);
            if !io.send(lane, piece) {
                return;
            }
            stream.sent += piece.len() as u64;
        }
    }

    fn arrived(&mut self, lane: Lane, bytes: u64) {
        let now = clock::now();
        self.lanes[lane].arrived += bytes;
        if self.times.is_some_and(|times| now >= times.from && now < times.until)
            && let Some(intervals) = &mut self.intervals
        {
            self.tally.measured_bytes += bytes;
            intervals.pass(now);
            intervals.count_bytes(bytes, self.size as u64);
        }
    }

    fn fail(&mut self, lane: Lane, what: &str) {
        self.tally.errors.corrupt += 1;
        self.tally.failure.get_or_insert_with(|| format!("connection {lane}: {what}"));
        self.lanes[lane].open = false;
    }

    /// What the sink says: how much came, and whether all of it was right.
    fn read_progress(&mut self, lane: Lane, data: &[u8]) {
        let mut partial = mem::take(&mut self.lanes[lane].partial);
        partial.extend_from_slice(data);
        while let Some((said, rest)) = partial.split_first_chunk() {
            let Progress { bytes, is_wrong } = Progress::decode(*said);
            let rest = rest.to_vec();
            let stream = &self.lanes[lane];
            if is_wrong || bytes < stream.arrived || bytes > stream.sent {
                self.fail(lane, "the sink received other bytes than were sent");
            } else {
                self.arrived(lane, bytes - stream.arrived);
            }
            partial = rest;
        }
        self.lanes[lane].partial = partial;
    }

    fn proceed(&mut self, io: &mut dyn Io) {
        let now = clock::now();
        if self.phase == Phase::Opening {
            match self.gate.start() {
                _ if self.gate.is_stopped() => return self.finish(io),
                Some(start) if start <= now => {
                    let times = self.lengths.times(start);
                    self.times = Some(times);
                    self.intervals = Some(Intervals::new(times, self.news.clone()));
                    self.phase = Phase::Moving;
                    (0..self.lanes.len()).for_each(|lane| self.pump(io, lane));
                }
                Some(_) | None => return io.wake_at(now + GATE_TICK),
            }
        }
        let Some(times) = self.times else { return };
        if let Some(intervals) = &mut self.intervals {
            intervals.pass(now.min(times.until));
        }
        let any_open = self.lanes.iter().any(|stream| stream.open);
        if self.phase == Phase::Moving && (now >= times.until || self.gate.is_stopped() || !any_open) {
            self.phase = Phase::Draining;
            self.tally.ended_at = now.min(times.until);
        }
        if self.phase == Phase::Draining {
            let patience = self.tally.ended_at.saturating_add(times.patience);
            if self.all_arrived() || now >= patience {
                return self.finish(io);
            }
        }
        io.wake_at(now + 10 * GATE_TICK);
    }

    fn all_arrived(&self) -> bool {
        let has_all = |stream: &Stream| !stream.open || stream.arrived == stream.sent;
        self.direction == Direction::Down || self.lanes.iter().all(has_all)
    }

    fn finish(&mut self, io: &mut dyn Io) {
        if mem::replace(&mut self.phase, Phase::Done) == Phase::Done {
            return;
        }
        let mut tally = mem::replace(&mut self.tally, Tally::new());
        let size = self.size as u64;
        for stream in &self.lanes {
            let sent = if self.direction == Direction::Down { stream.arrived } else { stream.sent };
            tally.bytes_tx += sent;
            tally.bytes_rx += stream.arrived;
        }
        let missing = tally.bytes_tx - tally.bytes_rx;
        (tally.sent, tally.lost) = (tally.bytes_tx.div_ceil(size), missing.div_ceil(size));
        tally.verified = tally.sent - tally.lost;
        tally.measured_ops = tally.measured_bytes / size;
        if missing > 0 {
            tally.errors.timeout += tally.lost;
            tally.failure.get_or_insert(format!("{missing} bytes never arrived"));
        }
        self.gate.done(&self.news, tally);
        io.stop();
    }
}

impl Load for Bulk {
    fn start(&mut self, io: &mut dyn Io) {
        (0..self.lanes.len()).for_each(|lane| io.dial(lane));
        io.wake_at(clock::now() + GATE_TICK);
    }

    fn opened(&mut self, _: &mut dyn Io, lane: Lane) {
        self.lanes[lane].open = true;
        self.gate.one_opened();
    }

    fn received(&mut self, _: &mut dyn Io, lane: Lane, data: &[u8]) {
        if self.phase == Phase::Done || !self.lanes[lane].open {
            return;
        }
        if self.direction == Direction::Up {
            return self.read_progress(lane, data);
        }
        let differs = || self.pattern.stream_differs(self.lanes[lane].arrived, data);
        match self.verify.then(differs).flatten() {
            None => self.arrived(lane, data.len() as u64),
            Some(place) => {
                let what = format!("byte {} is wrong", self.lanes[lane].arrived + place as u64);
                self.fail(lane, &what);
            }
        }
    }

    fn drained(&mut self, io: &mut dyn Io, lane: Lane) {
        self.pump(io, lane);
    }

    fn closed(&mut self, _: &mut dyn Io, lane: Lane, why: Ended) {
        if self.phase == Phase::Opening {
            drop(self.news.send(News::NoConnection(format!("{why:?}"))));
        } else if mem::take(&mut self.lanes[lane].open) {
            self.tally.errors.eof += 1;
            self.tally.failure.get_or_insert_with(|| format!("connection {lane} closed: {why:?}"));
        }
    }

    fn woken(&mut self, io: &mut dyn Io) {
        if self.phase != Phase::Done {
            self.proceed(io);
        }
    }
}
