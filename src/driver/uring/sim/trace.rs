//! What happened in a simulation, as one number: two runs that differ anywhere differ in it. On request the last
//! events are kept in words, too.

use std::collections::VecDeque;
use std::fmt;

/// Events that are kept.
const KEPT: usize = 2000;

#[derive(Clone, Debug)]
pub(crate) struct Trace {
    hash: u64,
    events: u64,
    last: Option<VecDeque<String>>,
}

impl Default for Trace {
    fn default() -> Self {
        Self { hash: 0xCBF2_9CE4_8422_2325, events: 0, last: None }
    }
}

impl Trace {
    pub(crate) fn keep(&mut self) {
        self.last = Some(VecDeque::new());
    }

    /// An event: numbers that tell it from others, and how it reads.
    pub(crate) fn add(&mut self, numbers: &[u64], text: impl FnOnce() -> String) {
        self.events += 1;
        for number in numbers {
            // FNV-1a, a word at a time.
            self.hash = (self.hash ^ number).wrapping_mul(0x0100_0000_01B3).rotate_left(23);
        }
        if let Some(last) = &mut self.last {
            if last.len() == KEPT {
                last.pop_front();
            }
            last.push_back(text());
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.last.iter().flatten().try_for_each(|event| writeln!(f, "{event}"))
    }
}
