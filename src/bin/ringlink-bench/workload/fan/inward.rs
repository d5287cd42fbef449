//! All peers send to the hub as fast as it takes it; the hub is asked what arrived, as in `workload/msg.rs`.

use std::mem;

use ringlink::service::Answer;

use crate::clock;
use crate::contender::frames::{self, Kind};
use crate::engine::{Io, LOW, Lane};
use crate::workload::Tally;
use crate::workload::msg::{Marks, Plan, Source, conclude, tell_intervals};

use super::Pattern;

/// A lane is given so much more when little waits: enough that its end is told again.
const FILL: usize = 2 * LOW;
/// Messages are sent in pieces of about so many bytes.
const PIECE: usize = 16 << 10;

pub(super) struct Inward {
    plan: Plan,
    sources: Vec<Source>,
    answers: Vec<Vec<Answer>>,
    told: usize,
    marks: Option<Marks>,
    is_draining: bool,
    scratch: Vec<u8>,
}

impl Inward {
    pub(super) fn new(plan: Plan, lanes: usize) -> Self {
        let first = plan.share.first;
        let sources = (first..).take(lanes).map(|lane| Source::new(&plan, lane)).collect();
        let answers = vec![Vec::new(); lanes];
        Self { plan, sources, answers, told: 0, marks: None, is_draining: false, scratch: Vec::new() }
    }

    fn fill(&mut self, io: &mut dyn Io, lane: Lane) {
        let mut filled = 0;
        while !self.is_draining && filled < FILL {
            let source = &mut self.sources[lane];
            let before = source.sent;
            self.scratch.clear();
            while self.scratch.len() < PIECE {
                let size = source.next_size();
                self.scratch.extend_from_slice(&frames::header(size));
                source.write(size, &mut self.scratch);
                source.count(size);
            }
            if !io.send(lane, &self.scratch) {
                source.sent = before; // it goes on when it has drained
                return;
            }
            filled += self.scratch.len();
        }
    }

    fn ask(&mut self, io: &mut dyn Io, lane: Lane) {
        self.scratch.clear();
        frames::write(Kind::Data, &self.sources[lane].ask(), &mut self.scratch);
        // What cannot be asked is an answer that does not come.
        io.send(lane, &self.scratch);
    }

    fn conclude(&mut self) -> Tally {
        let answers = mem::take(&mut self.answers);
        let lanes: Vec<_> = self.sources.iter().map(|source| source.sent).zip(answers).collect();
        match &self.marks {
            Some(marks) => conclude(&lanes, marks.times(), marks.answers()),
            None => conclude(&lanes, self.plan.lengths.times(0), 1),
        }
    }
}

impl Pattern for Inward {
    fn begin(&mut self, io: &mut dyn Io, start: u64) {
        self.marks = Some(Marks::new(self.plan.lengths.times(start)));
        (0..self.sources.len()).for_each(|lane| self.fill(io, lane));
    }

    fn opened(&mut self, io: &mut dyn Io, lane: Lane) {
        self.ask(io, lane);
    }

    fn message(&mut self, _: &mut dyn Io, lane: Lane, message: &[u8]) -> Result<(), String> {
        let answer = Answer::decode(message).ok_or("the hub said what is no answer")?;
        self.answers[lane].push(answer);
        tell_intervals(&self.answers, &mut self.told, &self.plan.share);
        Ok(())
    }

    fn drained(&mut self, io: &mut dyn Io, lane: Lane) {
        self.fill(io, lane);
    }

    fn may_end(&self, _: Lane) -> bool {
        false
    }

    fn proceed(&mut self, io: &mut dyn Io, now: u64, is_stopped: bool) -> Option<Tally> {
        let marks = self.marks.as_mut()?;
        if !self.is_draining {
            let is_due = marks.pass(now, is_stopped);
            self.is_draining = is_stopped || marks.next().is_none();
            if is_due {
                (0..self.sources.len()).for_each(|lane| self.ask(io, lane));
            }
            return None;
        }
        let (times, expected) = (marks.times(), marks.answers());
        let ended = times.until.min(clock::now());
        let is_late = now > ended.saturating_add(times.patience);
        (is_late || self.answers.iter().all(|lane| lane.len() >= expected)).then(|| self.conclude())
    }

    fn fail(&mut self, why: String) -> Tally {
        let mut tally = self.conclude();
        tally.errors.eof += 1;
        tally.failure = Some(why);
        tally
    }
}
