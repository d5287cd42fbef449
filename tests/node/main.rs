//! The node in stream mode, against peers that are not ringlink. Each case runs in every variant: `one_loop`,
//! `two_loops`, and `tiny`, where all sizes are the smallest there are.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a script looks at the callbacks it is about")]

mod addresses;
mod backpressure;
mod close;
mod faults;
mod limits;
mod many;
mod shutdown;
mod stream;
mod support;
mod threads;
mod timers;
