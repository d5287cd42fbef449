//! Nodes in message mode: with each other, with strangers that break every rule, and with peers that come and go.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../shared/descriptors.rs"]
mod descriptors;
mod duplicates;
mod exchange;
mod foreign;
mod hostile;
mod life;
#[path = "../shared/skipped.rs"]
mod skipped;
mod strangers;
mod support;
#[path = "../node/support/tiny.rs"]
mod tiny;
#[path = "../node/support/waiting.rs"]
mod waiting;
