//! The servers ringlink is compared with, written as their own documentation would have them written: the same buffers,
//! nodelay, one processor. Each verifies what ringlink verifies.

mod blocks;
mod frames;
pub(crate) mod threads;
pub(crate) mod tokio;

use std::time::Duration;

/// How often a sender looks whether the run has started.
const GATE: Duration = Duration::from_millis(1);
