//! What moves a workload's bytes: ringlink itself, or plain epoll as a witness, so that a fault of the library cannot hide
//! in both ends. A workload is a [`Load`], called back by either through the same few words, [`Io`].

pub(crate) mod epoll;
pub(crate) mod uring;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use clap::ValueEnum;

/// From so many waiting bytes on their end is told.
pub(crate) const LOW: usize = 64 << 10;

/// The connections of one thread are numbered from 0.
pub(crate) type Lane = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// ringlink, on io_uring.
    Uring,
    /// Plain sockets on epoll: no line of ringlink.
    Epoll,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "uring",
            Self::Epoll => "epoll",
        })
    }
}

/// Where and how an engine connects.
#[derive(Clone, Debug)]
pub(crate) struct Wiring {
    pub(crate) target: SocketAddr,
    pub(crate) lanes: usize,
    pub(crate) nodelay: bool,
    pub(crate) congestion: Option<String>,
    pub(crate) processor: Option<usize>,
    pub(crate) busy_poll: Duration,
    /// Dials come from so many addresses of the loopback in turn; by epoll only.
    pub(crate) sources: u8,
}

/// Why a connection is no more, or never was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// This side closed it.
    Ours,
    /// The peer closed it.
    Eof,
    Reset,
    Refused,
    Timeout,
    Other(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    Fin,
    Reset,
}

/// What an engine does for a load.
pub(crate) trait Io {
    /// Connects; `opened` or `closed` follows.
    fn dial(&mut self, lane: Lane);
    /// Sends all or nothing; false when too much waits. After more than [`LOW`] waited `drained` tells that little does.
    fn send(&mut self, lane: Lane, bytes: &[u8]) -> bool;
    /// `closed` follows.
    fn close(&mut self, lane: Lane, how: Close);
    /// Reads no more of it.
    fn pause(&mut self, lane: Lane);
    /// Calls `woken` then; the last word counts.
    fn wake_at(&mut self, time: u64);
    /// Nothing more is called back.
    fn stop(&mut self);
}

/// A workload on the connections of one thread.
pub(crate) trait Load: Send + 'static {
    fn start(&mut self, io: &mut dyn Io);
    fn opened(&mut self, io: &mut dyn Io, lane: Lane);
    fn received(&mut self, io: &mut dyn Io, lane: Lane, data: &[u8]);
    fn drained(&mut self, io: &mut dyn Io, lane: Lane);
    fn closed(&mut self, io: &mut dyn Io, lane: Lane, why: Ended);
    fn woken(&mut self, io: &mut dyn Io);
}

impl Engine {
    /// Runs a load to its end on this thread. Says how many system calls its I/O took.
    pub(crate) fn run(self, load: impl Load, wiring: &Wiring) -> anyhow::Result<u64> {
        match self {
            Self::Uring => uring::run(load, wiring),
            Self::Epoll => epoll::run(load, wiring),
        }
    }
}
