//! ringlink: a TCP peer node for Linux on io_uring.
//!
//! A [`Node`] listens and dials. Each connection is a *channel* with a [`ChannelId`]; a loop, one thread with one ring,
//! owns it and tells a [`Handler`] what happens on it. Callbacks answer through their [`Context`], other threads through
//! a [`Handle`].
//!
//! ```
//! use ringlink::{ChannelId, Context, Handler, Mode, Node};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     fn on_data(&mut self, cx: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
//!         if cx.send(channel, data).is_err() {
//!             cx.abort(channel); // it sends, and never reads
//!         }
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::builder().mode(Mode::Stream).listen_on("127.0.0.1:0")?.start(|_loop| Echo)?;
//! println!("listening on {}", node.local_addrs()[0]);
//! node.shutdown(std::time::Duration::from_secs(1));
//! node.join()?;
//! # Ok(())
//! # }
//! ```
//!
//! The modules, in the order in which a message meets them; `ARCHITECTURE.md` tells the rest:
//! `driver` (the kernel, seen from above) → `node::event_loop` → `channel` → `link` (the protocol) → [`Handler`] → the
//! channel's outbox → `driver`. Only `driver::uring` may be `unsafe`.

#[macro_use]
#[forbid(unsafe_code)]
mod planted;

#[forbid(unsafe_code)]
mod addr;
#[forbid(unsafe_code)]
mod channel;
#[forbid(unsafe_code)]
mod clock;
#[forbid(unsafe_code)]
mod config;
mod driver;
#[forbid(unsafe_code)]
mod error;
#[forbid(unsafe_code)]
mod id;
#[forbid(unsafe_code)]
mod link;
#[forbid(unsafe_code)]
mod node;
#[forbid(unsafe_code)]
pub mod service;
#[cfg(feature = "sim")]
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod simulation;
#[forbid(unsafe_code)]
mod stats;
#[cfg(feature = "cli")]
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod units;

/// What this machine allows: the kernel's abilities and the drivers that work, found by trying.
pub mod doctor {
    pub use crate::driver::examine::{Ability, Need, Report, examine};
}

/// What `benches/` measures of the inside.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod bench_support {
    pub use crate::channel::bench_support::{Sends, Table};
    pub use crate::link::bench_support::Pair;
    pub use crate::node::bench_support::{Answer, BusyLoop, Linked};
}

pub use addr::{Address, DEFAULT_PORT, Endpoint, ParseAddressError};
pub use clock::Mono;
pub use config::{DriverKind, Limits, Mode, RingOptions, SocketOptions};
pub use error::{
    CloseReason, CloseReport, ClosedBy, CommandError, ConfigError, DialError, DriverError, Errno, NodeError,
    SendError, StartError,
};
pub use id::{ChannelId, ParseChannelIdError};
#[cfg(fuzzing)]
#[doc(hidden)]
pub use link::fuzz;
pub use link::{NodeId, ParseNodeIdError, PeerInfo, Rtt};
pub use node::Node;
pub use node::builder::Builder;
pub use node::context::Context;
pub use node::handle::Handle;
pub use node::handler::Handler;
pub use node::history::ClosedChannel;
pub use node::info::{ChannelInfo, ChannelState, Direction};
pub use node::timers::TimerId;
pub use stats::Stats;

/// The code of README.md, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[expect(dead_code, reason = "its docs are what it is for")]
struct Readme;
