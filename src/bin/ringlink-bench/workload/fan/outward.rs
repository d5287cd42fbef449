//! A message of the first peer goes through the hub to all peers, the first included, and is complete when the last of
//! them has it. So many are under way at any time. In the middle of the window the slow peers stop reading; what the
//! others get before and after is told apart.

use std::collections::VecDeque;
use std::mem;

use ringlink::service::{self, Relay};

use crate::clock;
use crate::contender::frames::{self, Kind};
use crate::engine::{Io, Lane};
use crate::histogram::Histogram;
use crate::pacing::Random;
use crate::workload::msg::Plan;
use crate::workload::{Intervals, Tally, Times};

use super::Pattern;

/// The peer that sends.
const SENDER: Lane = 0;

/// A message under way.
#[derive(Debug)]
struct Flight {
    sent: u64,
    size: usize,
    /// So many peers do not have it yet; the slow ones do not count.
    missing: usize,
}

/// What happened before the slow peers stopped reading, or after.
#[derive(Debug)]
struct Half {
    deliveries: u64,
    last: Histogram,
}

impl Half {
    fn new() -> Self {
        Self { deliveries: 0, last: Histogram::new() }
    }
}

pub(super) struct Outward {
    plan: Plan,
    relay: Relay,
    window: usize,
    /// The peers from 1 to this number stop reading.
    slow: usize,
    lanes: usize,
    pattern: service::Pattern,
    random: Random,
    times: Option<Times>,
    intervals: Option<Intervals>,
    /// By number, from `done` on.
    flights: VecDeque<Flight>,
    done: u64,
    /// What each peer is to get next.
    expected: Vec<u64>,
    are_slow: bool,
    is_draining: bool,
    halves: [Half; 2],
    tally: Tally,
    scratch: Vec<u8>,
    message: Vec<u8>,
}

impl Outward {
    pub(super) fn new(plan: &Plan, relay: Relay, lanes: usize, slow: usize, window: usize) -> Self {
        Self {
            plan: plan.clone(),
            relay,
            window,
            slow,
            lanes,
            pattern: service::Pattern::new(plan.seed),
            random: Random::new(plan.seed),
            times: None,
            intervals: None,
            flights: VecDeque::new(),
            done: 0,
            expected: vec![0; lanes],
            are_slow: false,
            is_draining: false,
            halves: [Half::new(), Half::new()],
            tally: Tally::new(),
            scratch: Vec::new(),
            message: Vec::new(),
        }
    }

    fn is_slow(&self, lane: Lane) -> bool {
        (1..=self.slow).contains(&lane)
    }

    /// Keeps so many messages under way.
    fn fill(&mut self, io: &mut dyn Io) {
        self.scratch.clear();
        while !self.is_draining && self.flights.len() < self.window {
            let size = self.plan.sizes.draw(&mut self.random);
            let number = self.done + self.flights.len() as u64;
            self.message.clear();
            self.pattern.write(self.relay.word(number), size, &mut self.message);
            frames::write(Kind::Data, &self.message, &mut self.scratch);
            let missing = self.lanes - self.slow;
            self.flights.push_back(Flight { sent: clock::now(), size, missing });
            self.tally.sent += missing as u64;
            self.tally.bytes_tx += (size * missing) as u64;
        }
        if !self.scratch.is_empty() {
            // There is room: the flags bound what can be under way.
            io.send(SENDER, &self.scratch);
        }
    }

    fn is_measured(&self, now: u64) -> bool {
        self.times.is_some_and(|times| now >= times.from && now < times.until)
    }

    fn middle(times: Times) -> u64 {
        times.from + (times.until - times.from) / 2
    }

    /// All peers have the oldest message.
    fn complete(&mut self, now: u64) {
        let Some(flight) = self.flights.pop_front() else { return };
        self.done += 1;
        if !self.is_measured(now) {
            return;
        }
        let (peers, took) = ((self.lanes - self.slow) as u64, now - flight.sent);
        self.tally.measured_ops += peers;
        self.tally.measured_bytes += peers * flight.size as u64;
        self.tally.service.record(took);
        let half = &mut self.halves[usize::from(self.are_slow)];
        half.deliveries += peers;
        half.last.record(took);
        if let Some(intervals) = &mut self.intervals {
            intervals.pass(now);
            intervals.count_all(peers, peers * flight.size as u64, took);
        }
    }

    /// What the halves of the window come to, where there are slow peers.
    fn compare_halves(&mut self, times: Times) {
        let (middle, ended) = (Self::middle(times), self.tally.ended_at);
        if self.slow == 0 || ended <= middle {
            return;
        }
        let [before, after] = &self.halves;
        let rate = |half: &Half, span: u64| half.deliveries as f64 * 1e9 / span.max(1) as f64;
        let rates = [rate(before, middle - times.from), rate(after, ended - middle)];
        let figures = [
            ("delivered_while_all_read_per_s", rates[0]),
            ("delivered_beside_slow_peers_per_s", rates[1]),
            ("isolation_ratio", rates[1] / rates[0].max(1e-9)),
            ("last_receiver_p99_while_all_read_ns", before.last.at(99.0) as f64),
            ("last_receiver_p99_beside_slow_peers_ns", after.last.at(99.0) as f64),
        ];
        self.tally.figures.extend(figures.map(|(name, value)| (name.to_owned(), value)));
    }

    fn conclude(&mut self) -> Tally {
        if let Some(times) = self.times {
            self.compare_halves(times);
        }
        let mut tally = mem::replace(&mut self.tally, Tally::new());
        tally.lost = tally.sent - tally.verified;
        if tally.lost > tally.errors.sum() {
            tally.errors.timeout += tally.lost - tally.errors.sum();
            tally.failure.get_or_insert_with(|| format!("{} deliveries never came", tally.lost));
        }
        tally
    }
}

impl Pattern for Outward {
    fn begin(&mut self, io: &mut dyn Io, start: u64) {
        let times = self.plan.lengths.times(start);
        self.times = Some(times);
        self.intervals = Some(Intervals::new(times, self.plan.share.news.clone()));
        self.fill(io);
    }

    fn opened(&mut self, _: &mut dyn Io, _: Lane) {}

    fn message(&mut self, io: &mut dyn Io, lane: Lane, message: &[u8]) -> Result<(), String> {
        let number = self.expected[lane];
        // A slow peer may be behind everything that is under way.
        let place = number.checked_sub(self.done).and_then(|place| usize::try_from(place).ok());
        let size = match place.and_then(|place| self.flights.get(place)) {
            Some(flight) => flight.size,
            None if self.is_slow(lane) => message.len(),
            None => {
                self.tally.errors.surplus += 1;
                return Err("a message came that nobody sent".into());
            }
        };
        if message.len() != size || self.pattern.differs(self.relay.word(number), 0, message).is_some() {
            self.tally.errors.corrupt += 1;
            return Err(format!("message {number} is wrong, or not the one whose turn it was"));
        }
        self.expected[lane] += 1;
        if self.is_slow(lane) {
            return Ok(());
        }
        self.tally.verified += 1;
        self.tally.bytes_rx += size as u64;
        let flight = place.and_then(|place| self.flights.get_mut(place));
        let flight = flight.expect("it is under way: this peer did not have it yet");
        flight.missing -= 1;
        if flight.missing == 0 {
            self.complete(clock::now());
            self.fill(io);
        }
        Ok(())
    }

    fn drained(&mut self, _: &mut dyn Io, _: Lane) {}

    fn may_end(&self, lane: Lane) -> bool {
        self.are_slow && self.is_slow(lane)
    }

    fn proceed(&mut self, io: &mut dyn Io, now: u64, is_stopped: bool) -> Option<Tally> {
        let times = self.times?;
        if let Some(intervals) = &mut self.intervals {
            intervals.pass(now.min(times.until));
        }
        if self.slow > 0 && !self.are_slow && now >= Self::middle(times) {
            self.are_slow = true;
            (1..=self.slow).for_each(|lane| io.pause(lane));
        }
        if !self.is_draining && (now >= times.until || is_stopped) {
            self.is_draining = true;
            self.tally.ended_at = now.min(times.until);
        }
        let is_late = now > self.tally.ended_at.saturating_add(times.patience);
        (self.is_draining && (self.flights.is_empty() || is_late)).then(|| self.conclude())
    }

    fn fail(&mut self, why: String) -> Tally {
        if self.tally.errors.sum() == 0 {
            self.tally.errors.eof += 1;
        }
        self.tally.failure = Some(why);
        if !self.is_draining {
            self.tally.ended_at = self.times.map_or(0, |times| clock::now().min(times.until));
        }
        // What was under way when it failed proves nothing.
        let known = self.tally.errors.sum();
        self.tally.errors.abandoned += (self.tally.sent - self.tally.verified).saturating_sub(known);
        self.conclude()
    }
}
