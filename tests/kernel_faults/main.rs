//! What only the kernel can do to a link: processes stopped, links cut, packets lost.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod ends;
mod load;
mod namespaces;
mod network;
mod process;
mod silence;
#[path = "../shared/skipped.rs"]
mod skipped;
