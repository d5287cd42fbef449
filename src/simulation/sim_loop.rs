//! A loop of a simulated node: the real loop and driver on a simulated kernel, turned by hand, and what must hold after
//! each of its turns.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::program::Program;
use crate::driver::uring::UringDriver;
use crate::driver::uring::sim::network::{HostId, Network};
use crate::driver::uring::sim::{Outside, SimKernel};
use crate::node::event_loop::EventLoop;
use crate::simulation::node::Surroundings;
use crate::stats::Counters;

/// Turns in which nothing was submitted and nothing completed, one after the other, that are too many.
const IDLE_TURNS: u32 = 1000;

pub(super) struct SimLoop {
    host: HostId,
    life: u8,
    pub(super) outside: Outside,
    /// `None` when it has ended.
    event_loop: Option<EventLoop<UringDriver<SimKernel>, Program>>,
    counters: Arc<Counters>,
    idle_turns: u32,
    idle_at: (u64, u64),
    began_at: u64,
}

impl SimLoop {
    pub(super) fn new(
        (host, life): (HostId, u8),
        outside: Outside,
        event_loop: EventLoop<UringDriver<SimKernel>, Program>,
        counters: Arc<Counters>,
        began_at: u64,
    ) -> Self {
        let event_loop = Some(event_loop);
        Self { host, life, outside, event_loop, counters, idle_turns: 0, idle_at: (0, 0), began_at }
    }

    /// Ends it whatever its state is.
    pub(super) fn kill(mut self) {
        self.outside.kill();
        self.drop_dead();
    }

    pub(super) fn is_up(&self) -> bool {
        self.event_loop.is_some()
    }

    pub(super) fn is_runnable(&self) -> bool {
        self.is_up() && self.outside.is_runnable()
    }

    /// One turn, and what must hold after it.
    pub(super) fn turn(&mut self, around: &Surroundings) -> Result<(), String> {
        let event_loop = self.event_loop.as_mut().expect("only who is up is turned");
        let flow = event_loop.turn().map_err(|error| error.to_string())?;
        event_loop.driver().check().map_err(|what| format!("n{}: {what}", self.host.0))?;
        self.check_work(&around.network.borrow())?;
        if flow == ControlFlow::Continue(()) { Ok(()) } else { self.end(around) }
    }

    /// A loop that has nothing to do does nothing, and what is refused is asked again in good time.
    fn check_work(&mut self, network: &Network) -> Result<(), String> {
        let stats = self.counters.snapshot();
        let work = (stats.submissions, stats.completions);
        self.idle_turns = if work == self.idle_at { self.idle_turns + 1 } else { 0 };
        self.idle_at = work;
        if self.idle_turns > IDLE_TURNS {
            return Err(format!("n{}: turns and turns, and does nothing", self.host.0));
        }
        let milliseconds = (network.now.as_nanos() - self.began_at) / 1_000_000;
        let asked = self.outside.lacks();
        // Each channel that closes gives a descriptor back, so it is worth a try; and each lack is found out anew.
        let closes = stats.dialed + stats.accepted + stats.accepts_refused;
        if asked > 20 + milliseconds / 5 + 2 * (closes + network.lacks(self.host)) {
            return Err(format!(
                "n{}: without descriptors it asked for connections {asked} times",
                self.host.0
            ));
        }
        if stats.stale_completions > 0 {
            return Err(format!("n{}: a completion of nobody", self.host.0));
        }
        Ok(())
    }

    fn end(&mut self, around: &Surroundings) -> Result<(), String> {
        let event_loop = self.event_loop.take().expect("it is up");
        self.outside.run_alone();
        if self.counters.channels.get() > 0 {
            around.ledger.borrow_mut().cut(self.host.0, self.life);
        }
        event_loop.end(Ok(())).map_err(|error| error.to_string())?;
        let stats = self.counters.snapshot();
        let left = [
            ("operations", stats.operations_in_flight),
            ("buffers free", stats.buffers_free),
            ("buffers lent", stats.buffers_lent),
            ("starved", stats.starved),
            ("channels", stats.channels),
            ("bytes queued", stats.bytes_queued),
            ("bytes held", stats.bytes_held),
            ("bytes for messages", stats.bytes_assembling),
        ];
        match left.iter().find(|(_, count)| *count > 0) {
            Some((what, count)) => Err(format!("n{}: ended with {count} {what} left", self.host.0)),
            None => Ok(()),
        }
    }

    /// The process was killed: nothing of it runs any more.
    pub(super) fn drop_dead(&mut self) {
        self.event_loop = None;
    }
}
