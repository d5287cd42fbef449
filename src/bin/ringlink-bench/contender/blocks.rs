//! What the senders of contenders have in common: blocks full of messages, questions between them at the marks, and the
//! tally of all connections.

use ringlink::service::Answer;

use crate::clock;
use crate::workload::Times;
use crate::workload::msg::{Marks, Plan, Sent, Source, conclude, tell_intervals};

use super::frames::{self, Kind};

/// The blocks of one connection.
pub(super) struct Blocks {
    pub(super) times: Times,
    marks: Marks,
    ended: bool,
}

impl Blocks {
    pub(super) fn new(plan: &Plan, start: u64) -> Self {
        let times = plan.lengths.times(start);
        Self { times, marks: Marks::new(times), ended: false }
    }

    /// Fills the block with what is to be written next; false when that was all.
    pub(super) fn next(&mut self, source: &mut Source, block: &mut Vec<u8>, plan: &Plan) -> bool {
        block.clear();
        if self.ended {
            return false;
        }
        let is_stopped = plan.share.gate.is_stopped();
        if self.marks.pass(clock::now(), is_stopped) {
            frames::write(Kind::Data, &source.ask(), block);
            self.ended = is_stopped || self.marks.next().is_none();
            return true;
        }
        while block.len() < frames::BLOCK {
            let size = source.next_size();
            block.extend_from_slice(&frames::header(size));
            source.write(size, block);
            source.count(size);
        }
        true
    }

    /// Answers that follow, the first included.
    pub(super) fn answers(&self) -> usize {
        self.marks.answers()
    }
}

/// How a connection ended. It is open as long as this lives.
pub(super) struct LaneEnd<C> {
    pub(super) _connection: C,
    pub(super) sent: Sent,
    pub(super) answers: Vec<Answer>,
    pub(super) times: Times,
    pub(super) expected: usize,
    pub(super) calls: u64,
}

impl<C> LaneEnd<C> {
    /// Tells the run what all connections of a thread came to.
    pub(super) fn conclude(ends: &[Self], plan: &Plan) {
        let Some((times, expected)) = ends.first().map(|end| (end.times, end.expected)) else { return };
        let lanes: Vec<_> = ends.iter().map(|end| (end.sent, end.answers.clone())).collect();
        let answers: Vec<_> = lanes.iter().map(|(_, answers)| answers.clone()).collect();
        tell_intervals(&answers, &mut 0, &plan.share);
        plan.share.gate.done(&plan.share.news, conclude(&lanes, times, expected));
    }
}
