//! What the node binary can do: plain [`Handler`](crate::Handler)s on the public API, of use as examples too.
//!
//! [`Echo`] sends everything back, [`Sink`] counts and drops it, [`Pipe`] connects standard input and output to all
//! channels; each serves both modes: bytes as they come, and messages. [`Bench`] is the far end of a load test of messages,
//! made of what [`Pattern`] says.

mod bench;
mod echo;
mod payload;
mod pipe;
mod sink;

pub use bench::{Answer, Bench, Count, Relay, ask};
pub use echo::Echo;
pub use payload::{Kind, Pattern, Word};
pub use pipe::Pipe;
pub use sink::{Sink, Tally};
