//! Nodes on a simulated kernel and network, in one thread, from one seed: the tool that makes rare things happen all
//! day, and again. For `tests/simulate.rs` and `examples/simulate.rs`; not for programs, it changes with any version.
//!
//! `world.rs` is the course of a run, `node.rs` a node in it, `program.rs` what its callbacks do, `ledger.rs` what must
//! hold of every byte. The kernel is `crate::driver::uring::sim`.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;

mod ledger;
mod node;
mod program;
mod settings;
mod shrink;
mod sim_loop;
mod world;

pub use shrink::shrink;

pub use crate::planted::{Planted, plant};

use crate::driver::uring::sim::choices::Fault;
use crate::node::event_loop::panic_message;
use world::World;

/// All kinds of faults.
const ALL_FAULTS: u64 = u64::MAX;

/// A run to be made: a seed, and what of it is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What everything follows from.
    pub seed: u64,
    /// The kinds of faults that may happen, as bits.
    pub faults: u64,
    /// From this choice on, nothing unusual is chosen.
    pub end: usize,
    /// Pieces of the choices in which nothing unusual is chosen, either.
    pub calm: Vec<Range<usize>>,
}

impl Case {
    /// The whole of a seed.
    pub fn of_seed(seed: u64) -> Self {
        Self { seed, faults: ALL_FAULTS, end: usize::MAX, calm: Vec::new() }
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What went wrong.
    pub failure: Option<String>,
    /// Stands for everything that happened, in its order.
    pub trace: u64,
    /// How often each kind of fault happened.
    pub faults: Vec<(&'static str, u64)>,
    /// Choices made.
    pub choices: usize,
    /// Turns of all loops, completions and callbacks.
    pub turns: u64,
    /// Completions and callbacks.
    pub events: u64,
    /// Simulated time, in seconds.
    pub seconds: f64,
    /// The last events in words, if they were asked for.
    pub last_events: String,
}

thread_local! {
    /// Where the last panic of this thread was.
    static PANICKED_AT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Has panics, of which a simulation means many, noted and not printed. For the whole process.
pub fn silence_panics() {
    std::panic::set_hook(Box::new(|info| {
        let at = info.location().map(ToString::to_string).unwrap_or_default();
        PANICKED_AT.with_borrow_mut(|last| *last = at);
    }));
}

/// Runs a case.
pub fn run(case: &Case) -> Outcome {
    run_world(case, false)
}

/// Runs a case and keeps its last events in words.
pub fn run_in_words(case: &Case) -> Outcome {
    run_world(case, true)
}

fn run_world(case: &Case, keep_trace: bool) -> Outcome {
    let mut world = match World::new(case, keep_trace) {
        Ok(world) => world,
        Err(failure) => unreachable!("a simulated node starts: {failure}"),
    };
    let result = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|payload| {
        let message = panic_message(&*payload).to_owned();
        Err(format!("panicked at {}: {message}", PANICKED_AT.with_borrow(Clone::clone)))
    });
    let outcome = world.outcome(result.err());
    if outcome.failure.is_some() {
        world.kill();
    }
    outcome
}

impl fmt::Display for Case {
    /// What [`Case::from_str`] reads: `seed=7 faults=0x1f end=420 calm=10..20,30..31`, without what is not restricted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed={}", self.seed)?;
        if self.faults != ALL_FAULTS {
            write!(f, " faults={:#x}", self.faults)?;
        }
        if self.end != usize::MAX {
            write!(f, " end={}", self.end)?;
        }
        for (place, Range { start, end }) in self.calm.iter().enumerate() {
            write!(f, "{}{start}..{end}", if place == 0 { " calm=" } else { "," })?;
        }
        Ok(())
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut case = Self::of_seed(0);
        let mut seeded = false;
        for word in text.split_whitespace() {
            let unfit = || format!("'{word}' is not seed=N, faults=0xN, end=N or calm=N..N,…");
            let (name, value) = word.split_once('=').ok_or_else(unfit)?;
            match name {
                "seed" => {
                    case.seed = value.parse().map_err(|_| unfit())?;
                    seeded = true;
                }
                "faults" => {
                    let digits = value.strip_prefix("0x").ok_or_else(unfit)?;
                    case.faults = u64::from_str_radix(digits, 16).map_err(|_| unfit())?;
                }
                "end" => case.end = value.parse().map_err(|_| unfit())?,
                "calm" => {
                    let piece = |piece: &str| {
                        let (start, end) = piece.split_once("..")?;
                        Some(start.parse().ok()?..end.parse().ok()?)
                    };
                    let pieces: Option<Vec<_>> = value.split(',').map(piece).collect();
                    case.calm = pieces.ok_or_else(unfit)?;
                }
                _ => return Err(unfit()),
            }
        }
        if seeded { Ok(case) } else { Err("a case has a seed".to_owned()) }
    }
}

/// The kinds of faults, in the order of their bits in [`Case::faults`].
pub fn fault_names() -> impl Iterator<Item = &'static str> {
    Fault::ALL.iter().map(|fault| fault.label())
}
