//! Requests that must come back as they were sent. In a closed loop each answer has the next request sent; in an open
//! loop requests are due on a schedule, and what cannot be sent then waits with the time at which it was due: response
//! times count from there, so a server's stall is seen by all requests that fell into it.

mod start;

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use ringlink::service::{Pattern, Word};

use super::{GATE_TICK, Gate, Intervals, Lengths, News, Tally, Times};
use crate::clock;
use crate::engine::{Close, Ended, Io, Lane, Load};
use crate::pacing::{Random, Schedule, Sizes};

pub(crate) use start::{run, run_idle};

/// What each thread of an echo is given.
#[derive(Clone, Debug)]
struct Plan {
    lanes: usize,
    /// The number of the thread's first connection among those of all threads.
    first: u32,
    /// So many of the lanes send; the others only exist.
    active: usize,
    pipeline: usize,
    sizes: Sizes,
    /// An open loop has one, from its first due time.
    schedule: Option<Schedule>,
    drop_late: bool,
    /// Operations to measure; none for a run that ends by time.
    quota: Option<u64>,
    lengths: Lengths,
    seed: u64,
}

/// Dials under way at once: more would fall out of the far end's backlog, and come back a second later.
const DIALS: usize = 256;
/// Requests that are looked at between two looks at what came.
const BURST: usize = 1024;
/// After the window, for what was due in it: plenty for a generator that stood still, none for one that is too slow.
const CATCH_UP: u64 = 200_000_000;

#[derive(Clone, Copy, Debug)]
struct Flight {
    due: u64,
    sent: u64,
    size: usize,
}

#[derive(Debug, Default)]
struct LaneState {
    open: bool,
    next: u64,
    expected: u64,
    /// So much of the expected answer has come and is right.
    at: usize,
    flying: VecDeque<Flight>,
    /// Due times of requests that wait for their turn.
    waiting: VecDeque<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Sending,
    Draining,
    Done,
}

struct Echo {
    plan: Plan,
    gate: Arc<Gate>,
    news: Sender<News>,
    pattern: Pattern,
    lanes: Vec<LaneState>,
    random: Random,
    /// So many lanes were dialed.
    dialed: usize,
    phase: Phase,
    /// Of what is under way, once nothing more is sent.
    give_up_at: u64,
    times: Option<Times>,
    intervals: Option<Intervals>,
    /// The lane whose turn it is in an open loop.
    turn: Lane,
    flying: u64,
    waiting: u64,
    /// Measured operations sent.
    measured: u64,
    tally: Tally,
    scratch: Vec<u8>,
}

impl Echo {
    fn new(plan: Plan, gate: Arc<Gate>, news: Sender<News>) -> Self {
        let lanes = (0..plan.lanes).map(|_| LaneState::default()).collect();
        let (pattern, random) = (Pattern::new(plan.seed), Random::new(plan.seed ^ u64::from(plan.first)));
        Self {
            plan,
            gate,
            news,
            pattern,
            lanes,
            random,
            dialed: 0,
            phase: Phase::Opening,
            give_up_at: u64::MAX,
            times: None,
            intervals: None,
            turn: 0,
            flying: 0,
            waiting: 0,
            measured: 0,
            tally: Tally::new(),
            scratch: Vec::new(),
        }
    }

    fn word(&self, lane: Lane, sequence: u64) -> Word {
        let lane = u32::try_from(lane).expect("a thread has fewer lanes than a word can tell apart");
        Word::data(self.plan.first + lane, sequence)
    }

    fn send(&mut self, io: &mut dyn Io, lane: Lane, due: u64, now: u64) {
        let size = self.plan.sizes.draw(&mut self.random);
        let word = self.word(lane, self.lanes[lane].next);
        self.scratch.clear();
        self.pattern.write(word, size, &mut self.scratch);
        if !io.send(lane, &self.scratch) {
            return self.fail(io, lane, "the engine's queue is full", |errors| &mut errors.abandoned);
        }
        let state = &mut self.lanes[lane];
        state.next += 1;
        state.flying.push_back(Flight { due, sent: now, size });
        self.flying += 1;
        self.tally.sent += 1;
        self.tally.bytes_tx += size as u64;
        self.measured += u64::from(self.is_measured(due));
    }

    fn is_measured(&self, time: u64) -> bool {
        self.times.is_some_and(|times| time >= times.from && time < times.until)
    }

    fn is_through(&self) -> bool {
        self.plan.quota.is_some_and(|quota| self.measured >= quota)
    }

    /// Begins the phases once every connection of the run is open.
    fn begin(&mut self, io: &mut dyn Io, start: u64) {
        let times = self.plan.lengths.times(start);
        self.times = Some(times);
        self.intervals = Some(Intervals::new(times, self.news.clone()));
        self.phase = Phase::Sending;
        if self.plan.schedule.is_none() {
            for lane in 0..self.plan.active {
                for _ in 0..self.plan.pipeline {
                    self.send_next(io, lane);
                }
            }
        }
    }

    /// The next request of a closed loop.
    fn send_next(&mut self, io: &mut dyn Io, lane: Lane) {
        if self.phase == Phase::Sending && self.lanes[lane].open && !self.is_through() {
            let now = clock::now();
            self.send(io, lane, now, now);
        }
    }

    /// Everything due by now: sent, or put behind what its connection is busy with.
    fn send_due(&mut self, io: &mut dyn Io, times: Times) {
        // No more than so many at once: what comes must be read, too.
        for _ in 0..BURST {
            let now = clock::now();
            if self.is_through() {
                return;
            }
            let Some(due) = self.take_due(times, now) else { return };
            if self.is_measured(due) {
                self.tally.lag.record(now - due);
            }
            let Some(lane) = self.next_lane() else { return };
            if self.lanes[lane].flying.len() < self.plan.pipeline {
                self.send(io, lane, due, now);
            } else if self.plan.drop_late {
                self.tally.late_dropped += 1;
            } else {
                self.lanes[lane].waiting.push_back(due);
                self.waiting += 1;
            }
        }
    }

    /// True when something is still due in the window.
    fn is_due(&self, times: Times) -> bool {
        self.plan.schedule.as_ref().is_some_and(|schedule| times.start + schedule.peek() < times.until)
    }

    /// The next request of an open loop, if it is due by then and in the window; it counts as offered.
    fn take_due(&mut self, times: Times, by: u64) -> Option<u64> {
        let schedule = self.plan.schedule.as_mut()?;
        let due = times.start + schedule.peek();
        if due > by || due >= times.until {
            return None;
        }
        schedule.advance();
        self.tally.offered += u64::from(self.is_measured(due));
        Some(due)
    }

    /// What is too late is counted and not sent.
    fn drop_due(&mut self, times: Times) {
        while self.take_due(times, times.until).is_some() {
            self.tally.late_dropped += 1;
        }
    }

    fn next_lane(&mut self) -> Option<Lane> {
        let active = self.plan.active;
        let found = (0..active).map(|i| (self.turn + i) % active).find(|lane| self.lanes[*lane].open)?;
        self.turn = (found + 1) % active;
        Some(found)
    }

    /// Verifies what came, and counts what is complete. Says how many answers that was.
    fn verify(&mut self, io: &mut dyn Io, lane: Lane, mut data: &[u8]) -> usize {
        let (mut complete, now) = (0, clock::now());
        while let Some(flight) = self.lanes[lane].flying.front().copied() {
            let (at, sequence) = (self.lanes[lane].at, self.lanes[lane].expected);
            let (piece, rest) = data.split_at(data.len().min(flight.size - at));
            if let Some(place) = self.pattern.differs(self.word(lane, sequence), at, piece) {
                self.fail_differing(io, lane, place, at, piece);
                return complete;
            }
            data = rest;
            if at + piece.len() < flight.size {
                self.lanes[lane].at += piece.len();
                return complete;
            }
            self.complete(lane, flight, now);
            complete += 1;
        }
        complete
    }

    fn complete(&mut self, lane: Lane, flight: Flight, now: u64) {
        let state = &mut self.lanes[lane];
        state.flying.pop_front();
        (state.expected, state.at) = (state.expected + 1, 0);
        self.flying -= 1;
        self.tally.verified += 1;
        self.tally.bytes_rx += flight.size as u64;
        if self.is_measured(flight.due) {
            self.tally.response.record(now - flight.due);
            self.tally.service.record(now - flight.sent);
        }
        if self.is_measured(now)
            && let Some(intervals) = &mut self.intervals
        {
            self.tally.measured_ops += 1;
            self.tally.measured_bytes += flight.size as u64;
            intervals.pass(now);
            intervals.count(flight.size as u64, now - flight.due);
        }
    }

    /// Names what is wrong with an answer by the word it begins with, where there is one.
    fn fail_differing(&mut self, io: &mut dyn Io, lane: Lane, place: usize, at: usize, piece: &[u8]) {
        let state = &self.lanes[lane];
        let expected = self.word(lane, state.expected);
        let got = (at == 0).then(|| Word::of(piece)).flatten().filter(|word| word.lane == expected.lane);
        let number = state.expected;
        match got {
            Some(word) if word.sequence < number => {
                let what = format!("answer {} came again", word.sequence);
                self.fail(io, lane, &what, |errors| &mut errors.duplicate);
            }
            Some(word) if word.sequence > number && word.sequence < state.next => {
                let what = format!("answer {} came before {number}", word.sequence);
                self.fail(io, lane, &what, |errors| &mut errors.reorder);
            }
            Some(_) | None => {
                let what = format!("byte {place} of answer {number} is wrong");
                self.fail(io, lane, &what, |errors| &mut errors.corrupt);
            }
        }
    }

    /// Gives a connection up: one operation to the kind of error, the others on it are abandoned.
    fn fail(
        &mut self,
        io: &mut dyn Io,
        lane: Lane,
        what: &str,
        kind: impl FnOnce(&mut super::Errors) -> &mut u64,
    ) {
        let lost = self.give_up(lane);
        *kind(&mut self.tally.errors) += 1;
        self.tally.errors.abandoned += lost.saturating_sub(1);
        let number = self.plan.first as usize + lane;
        self.tally.failure.get_or_insert_with(|| format!("connection {number}: {what}"));
        io.close(lane, Close::Reset);
    }

    /// Forgets what is under way on a lane; says how much that was.
    fn give_up(&mut self, lane: Lane) -> u64 {
        let state = &mut self.lanes[lane];
        let lost = mem::take(&mut state.flying).len() as u64;
        let waiting = mem::take(&mut state.waiting).len() as u64;
        state.open = false;
        self.waiting -= waiting;
        self.tally.late_dropped += waiting;
        self.flying -= lost;
        self.tally.lost += lost;
        lost
    }

    /// What is to be done at this moment, and when the next is.
    fn proceed(&mut self, io: &mut dyn Io) {
        let now = clock::now();
        if self.phase == Phase::Opening {
            match self.gate.start() {
                _ if self.gate.is_stopped() => return self.finish(io),
                Some(start) if start <= now => self.begin(io, start),
                Some(start) => return io.wake_at(start),
                None => return io.wake_at(now + GATE_TICK),
            }
        }
        let Some(times) = self.times else { return };
        if self.phase == Phase::Sending {
            self.send_due(io, times);
            let catch_up = if self.plan.drop_late { 0 } else { CATCH_UP };
            if now >= times.until.saturating_add(catch_up) {
                self.drop_due(times);
            }
            let is_over = now >= times.until && !self.is_due(times);
            if is_over || self.is_through() || self.gate.is_stopped() || !self.any_open() {
                self.phase = Phase::Draining;
                self.give_up_at = now.saturating_add(times.patience);
                self.tally.ended_at = now.min(times.until);
            }
        }
        if let Some(intervals) = &mut self.intervals {
            intervals.pass(now.min(times.until));
        }
        self.drain_or_wait(io, times, now);
    }

    fn drain_or_wait(&mut self, io: &mut dyn Io, times: Times, now: u64) {
        match self.phase {
            Phase::Draining if self.flying + self.waiting == 0 => self.finish(io),
            Phase::Draining if now >= self.give_up_at => {
                self.tally.errors.timeout += self.flying;
                self.tally.lost += self.flying;
                self.tally.late_dropped += self.waiting;
                if self.flying > 0 {
                    let what = format!("{} requests were not answered in time", self.flying);
                    self.tally.failure.get_or_insert(what);
                }
                self.finish(io);
            }
            Phase::Draining => io.wake_at(self.give_up_at),
            Phase::Sending => io.wake_at(self.next_moment(times)),
            Phase::Opening | Phase::Done => {}
        }
    }

    fn next_moment(&self, times: Times) -> u64 {
        let due = self.plan.schedule.as_ref().map_or(u64::MAX, |schedule| times.start + schedule.peek());
        let interval = self.intervals.as_ref().map_or(u64::MAX, Intervals::next);
        due.min(interval).min(times.until).min(clock::now() + 100 * GATE_TICK)
    }

    fn any_open(&self) -> bool {
        self.lanes[..self.plan.active].iter().any(|lane| lane.open)
    }

    fn finish(&mut self, io: &mut dyn Io) {
        self.phase = Phase::Done;
        if self.plan.quota.is_some() {
            self.tally.ended_at = clock::now();
        }
        let tally = mem::replace(&mut self.tally, Tally::new());
        self.gate.done(&self.news, tally);
        io.stop();
    }
}

impl Load for Echo {
    fn start(&mut self, io: &mut dyn Io) {
        self.dialed = self.plan.lanes.min(DIALS);
        (0..self.dialed).for_each(|lane| io.dial(lane));
        io.wake_at(clock::now() + GATE_TICK);
    }

    fn opened(&mut self, io: &mut dyn Io, lane: Lane) {
        self.lanes[lane].open = true;
        self.gate.one_opened();
        if self.dialed < self.plan.lanes {
            self.dialed += 1;
            io.dial(self.dialed - 1);
        }
    }

    fn received(&mut self, io: &mut dyn Io, lane: Lane, data: &[u8]) {
        if self.phase == Phase::Done || !self.lanes[lane].open {
            return;
        }
        let state = &self.lanes[lane];
        let due: usize = state.flying.iter().map(|flight| flight.size).sum::<usize>() - state.at;
        if data.len() > due {
            let what = format!("{} bytes came that answer nothing", data.len() - due);
            return self.fail(io, lane, &what, |errors| &mut errors.surplus);
        }
        for _ in 0..self.verify(io, lane, data) {
            if self.plan.schedule.is_none() {
                self.send_next(io, lane);
            } else if let Some(due) = self.lanes[lane].waiting.pop_front() {
                self.waiting -= 1;
                self.send(io, lane, due, clock::now());
            }
        }
        if self.phase == Phase::Draining && self.flying + self.waiting == 0 {
            self.finish(io);
        } else if self.phase == Phase::Sending && self.is_through() {
            self.proceed(io);
        }
    }

    fn drained(&mut self, _: &mut dyn Io, _: Lane) {}

    fn closed(&mut self, io: &mut dyn Io, lane: Lane, why: Ended) {
        if self.phase == Phase::Opening {
            self.tally.errors.connect += 1;
            drop(self.news.send(News::NoConnection(format!("{why:?}"))));
            return;
        }
        if !self.lanes[lane].open {
            return; // it was given up before
        }
        let partly = self.lanes[lane].at > 0;
        // A connection that was to stay is an error although nothing was under way.
        let lost = self.give_up(lane).max(u64::from(self.phase == Phase::Sending));
        let errors = &mut self.tally.errors;
        match why {
            Ended::Eof | Ended::Ours => errors.eof += lost,
            Ended::Reset | Ended::Refused | Ended::Timeout | Ended::Other(_) => errors.reset += lost,
        }
        let cut = if partly { ", in the middle of an answer" } else { "" };
        let number = self.plan.first as usize + lane;
        self.tally.failure.get_or_insert_with(|| format!("connection {number} closed: {why:?}{cut}"));
        if self.phase == Phase::Sending && !self.any_open() {
            self.proceed(io);
        }
    }

    fn woken(&mut self, io: &mut dyn Io) {
        self.proceed(io);
    }
}
