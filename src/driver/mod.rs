//! The kernel, seen from above: what a loop asks of it ([`Submission`]), what comes back ([`Completion`]), and the
//! contract of everything that stands between ([`Driver`]). How it is done is in `uring/` and, for older
//! kernels, in `tokio_uring/`; what both have in common lies beside them.
//!
//! The channel decides *that* and *when*, the driver decides *how*. The rules between them:
//!
//! - A channel comes to be by [`Submission::Adopt`] or [`Submission::Dial`]. A dial ends in exactly one
//!   [`Completion::Dialed`] or [`Completion::DialFailed`]; after the latter the driver has nothing of the channel left.
//! - Reading is off until [`Submission::ResumeReading`], and after [`Submission::PauseReading`] what the kernel had
//!   already received still arrives. The two only state what is wanted; saying the same twice is harmless.
//! - At most one [`Submission::Send`] is out for a channel. Its batch comes back in exactly one
//!   [`Completion::Sent`], whole unless there is an error.
//! - [`Completion::PeerEof`] and [`Completion::ReceiveFailed`] come after everything received before them, at most one
//!   of them, and nothing is received after.
//! - [`Submission::Close`] may be given once, at any time after `Adopt` or `Dialed`, also with a send out. Its
//!   [`Completion::Closed`] is the last that is heard of the channel: no operation is left, the descriptor is closed.
//! - `submit` cannot fail: what can fail comes back as a completion.

use crate::addr::{Endpoint, Endpoints};
use crate::clock::Mono;
use crate::config::{RingOptions, SocketOptions};
use crate::error::{DriverError, Errno};
use crate::id::ChannelId;

#[forbid(unsafe_code)]
mod acceptor;
#[forbid(unsafe_code)]
pub(crate) mod batch;
#[cfg(test)]
mod contract;
#[forbid(unsafe_code)]
pub(crate) mod examine;
#[forbid(unsafe_code)]
mod refusal;
#[forbid(unsafe_code)]
mod socket_table;
#[forbid(unsafe_code)]
mod sockets;
#[cfg(feature = "tokio-uring")]
#[forbid(unsafe_code)]
pub(crate) mod tokio_uring;
#[expect(unsafe_code, reason = "the one home of unsafe")]
pub(crate) mod uring;

pub(crate) use batch::Batch;
pub(crate) use sockets::try_congestion;

/// What a driver is made with.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) first_slot: u32,
    pub(crate) ring: RingOptions,
    pub(crate) socket: SocketOptions,
}

/// One of the node's listeners, by its place among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListenerId(pub(crate) u32);

/// An accepted connection that no channel has adopted yet, by a number that means something to its driver alone.
///
/// It must go back by [`Submission::Adopt`] or [`Submission::Refuse`], or its descriptor leaks.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an accepted socket is adopted or refused"]
pub(crate) struct Accepted(pub(crate) u64);

/// What the loop asks of the kernel.
#[derive(Debug)]
pub(crate) enum Submission {
    /// Make an accepted connection a channel.
    Adopt {
        channel: ChannelId,
        socket: Accepted,
    },
    /// Close an accepted connection that gets no channel.
    Refuse {
        socket: Accepted,
    },
    /// Connect a new channel.
    Dial {
        channel: ChannelId,
        address: Endpoint,
    },
    /// Ask for an end of the dial; it may still succeed.
    CancelDial {
        channel: ChannelId,
    },
    /// Send all of the batch.
    Send {
        channel: ChannelId,
        batch: Box<Batch>,
    },
    PauseReading {
        channel: ChannelId,
    },
    ResumeReading {
        channel: ChannelId,
    },
    /// Send FIN: nothing more will be sent. Never with a send out.
    ShutdownWrite {
        channel: ChannelId,
    },
    /// Close the connection; with `reset` by RST, and what the kernel has queued is dropped.
    Close {
        channel: ChannelId,
        reset: bool,
    },
    /// Stop accepting on all listeners, for a while. Connections wait in the backlog; a few may still be accepted.
    PauseAccepting,
    ResumeAccepting,
    /// Close all listeners, for good.
    StopListening,
}

/// What comes back. Small, for it goes through many hands.
#[derive(Debug)]
pub(crate) enum Completion<'a> {
    Accepted {
        listener: ListenerId,
        socket: Accepted,
        endpoints: Box<Endpoints>,
    },
    Dialed {
        channel: ChannelId,
        endpoints: Box<Endpoints>,
    },
    DialFailed {
        channel: ChannelId,
        errno: Errno,
    },
    /// Bytes in the driver's own buffer, lent until the driver is asked for the next completion.
    Received {
        channel: ChannelId,
        bytes: &'a [u8],
    },
    PeerEof {
        channel: ChannelId,
    },
    ReceiveFailed {
        channel: ChannelId,
        errno: Errno,
    },
    /// The batch is sent; with an error only `batch.written()` bytes of it, and no more can be.
    Sent {
        channel: ChannelId,
        batch: Box<Batch>,
        error: Option<Errno>,
    },
    Closed {
        channel: ChannelId,
    },
    /// Descriptors or memory ran out; accepting goes on by itself when there are some again.
    AcceptPaused {
        listener: ListenerId,
        errno: Errno,
    },
    AcceptResumed {
        listener: ListenerId,
    },
    /// A listener failed for good and is closed: nothing more is heard of it.
    ListenFailed {
        listener: ListenerId,
        errno: Errno,
    },
    /// Another thread woke the loop.
    Woken,
}

impl Completion<'_> {
    /// True for what peers and other threads bring about, false for what ends because this node asked for it.
    pub(crate) fn is_from_outside(&self) -> bool {
        match self {
            Self::Accepted { .. }
            | Self::Dialed { .. }
            | Self::Received { .. }
            | Self::PeerEof { .. }
            | Self::ReceiveFailed { .. }
            | Self::Woken => true,
            Self::DialFailed { .. }
            | Self::Sent { .. }
            | Self::Closed { .. }
            | Self::AcceptPaused { .. }
            | Self::AcceptResumed { .. }
            | Self::ListenFailed { .. } => false,
        }
    }
}

/// How long a turn may wait for something to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Not at all: there is work to do.
    Not,
    Until(Mono),
    Forever,
}

/// Wakes a loop that waits in [`Driver::turn`], from any thread.
pub(crate) trait Waker: Clone + Send + Sync + std::fmt::Debug + 'static {
    fn wake(&self);
}

/// The kernel as one loop sees it; see the module's head for the rules.
pub(crate) trait Driver {
    type Waker: Waker;

    /// The time; monotonic.
    fn now(&self) -> Mono;

    fn waker(&self) -> Self::Waker;

    /// Opens a listener and says where it listens. With `shared` other loops of this process may listen there too.
    fn listen(&mut self, listener: ListenerId, at: &Endpoint, shared: bool) -> std::io::Result<Endpoint>;

    /// Queues an operation; it reaches the kernel in the next `turn` at the latest.
    fn submit(&mut self, submission: Submission);

    /// Hands everything submitted to the kernel and waits for something to happen.
    ///
    /// Returns early without an error whenever it likes: the caller looks at the clock and at the completions.
    fn turn(&mut self, wait: Wait) -> Result<(), DriverError>;

    /// What has happened, one at a time, until `None`.
    fn next_completion(&mut self) -> Option<Completion<'_>>;

    /// Ends every operation and frees what they held. Returns how many had not ended at `deadline`: their memory is
    /// leaked, since the kernel may still write to it.
    fn finish(self, deadline: Mono) -> usize;
}
