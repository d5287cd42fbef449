//! Why things end or are refused: the one closed list of close reasons, the report of a closed channel, and the
//! typed errors of the library.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::addr::Address;

macro_rules! close_reasons {
    ($($name:ident = $code:literal, $label:literal, $text:literal;)*) => {
        /// Why a channel closed: the same list in the log, the API, the counters and, below 100, on the wire.
        ///
        /// Codes from 100 on are of this node alone and never sent.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum CloseReason {
            $(#[doc = $text] $name = $code,)*
        }

        impl CloseReason {
            /// Every reason there is, in the order of their codes.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The short name in logs and counters, as in `peer-dead`.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label),* }
            }

            /// One sentence for people.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// The reason with this code, if there is one.
            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

close_reasons! {
    Normal = 0, "normal", "closed on request, after everything queued was sent";
    Shutdown = 1, "shutdown", "the node is shutting down";
    Duplicate = 2, "duplicate", "another link to the same node exists";
    SelfDial = 3, "self-dial", "the node dialed itself";
    WrongNetwork = 6, "wrong-network", "the nodes are of different networks";
    VersionMismatch = 7, "version-mismatch", "the nodes have no protocol version or required feature in common";
    Protocol = 8, "protocol", "what was received is not the protocol";
    FrameTooBig = 9, "frame-too-big", "a frame was longer than max_frame";
    Checksum = 10, "checksum", "a frame header's check byte was wrong";
    MessageTooBig = 11, "message-too-big", "a message was longer than max_message";
    Flood = 12, "flood", "more control frames a second than max_control_frames";
    SlowPeer = 13, "slow-peer", "the peer took less than one send within write_timeout";
    IdleTimeout = 14, "idle-timeout", "no message, in stream mode no byte, was sent or received for longer than idle_timeout";
    HandshakeTimeout = 15, "handshake-timeout", "no hello within handshake_timeout";
    Limit = 16, "limit", "a limit on channels, pending handshakes, lookups or memory was reached";
    Internal = 20, "internal", "the handler of this channel panicked, or the node failed";
    PeerDead = 21, "peer-dead", "nothing was received for longer than dead_after";
    Replaced = 22, "replaced", "the peer was restarted and linked anew";

    PeerClosed = 100, "peer-closed", "the peer closed the connection";
    Truncated = 101, "truncated", "the peer closed in the middle of a message";
    Reset = 102, "reset", "the peer reset the connection";
    Aborted = 103, "aborted", "aborted on request; what was queued is dropped";
    CloseTimeout = 104, "close-timeout", "what was queued could not be sent within close_timeout";
    Network = 105, "network", "the network failed the connection";
    NameNotFound = 106, "name-not-found", "the host's name could not be resolved";
    DialRefused = 107, "dial-refused", "nobody listens at the address";
    DialTimeout = 108, "dial-timeout", "the address did not answer within dial_timeout";
    DialFailed = 109, "dial-failed", "the address could not be reached";
}

impl CloseReason {
    /// The number on the wire and in the list above.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// Its place in [`CloseReason::ALL`].
    pub(crate) fn place(self) -> usize {
        Self::ALL.iter().position(|reason| *reason == self).expect("all reasons are in ALL")
    }

    /// The reason for an operation of an established connection that failed with `errno`.
    pub(crate) fn of_errno(errno: Errno) -> Self {
        match errno.0 {
            libc::ECONNRESET | libc::EPIPE => Self::Reset,
            libc::ETIMEDOUT => Self::PeerDead,
            _ => Self::Network,
        }
    }

    /// The reason for a dial that failed with `errno`.
    pub(crate) fn of_dial_errno(errno: Errno) -> Self {
        match errno.0 {
            libc::ECONNREFUSED | libc::ENOENT => Self::DialRefused,
            libc::ETIMEDOUT => Self::DialTimeout,
            _ => Self::DialFailed,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// An error number of the operating system.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Errno {
    /// As in `Connection refused (os error 111)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from(*self).fmt(f)
    }
}

impl From<&io::Error> for Errno {
    /// Errors that are not of the operating system become `EIO`.
    fn from(error: &io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

/// Who decided that a channel closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClosedBy {
    /// This node: its program, or one of its limits.
    Us,
    /// The node at the other end.
    Peer,
    /// Neither: the network or the operating system.
    Network,
}

impl fmt::Display for ClosedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Us => "us",
            Self::Peer => "the peer",
            Self::Network => "the network",
        })
    }
}

/// How a channel ended: given to `on_close`, exactly once for each channel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// The first reason there was; later ones are consequences.
    pub reason: CloseReason,
    /// Who decided it.
    pub by: ClosedBy,
    /// What the operating system said, where it was asked.
    pub errno: Option<Errno>,
    /// More about the reason, where there is more to say: the name not found, the peer's own words.
    pub detail: Option<Box<str>>,
    /// How long the peer asked not to be dialed again.
    pub retry_after: Option<Duration>,
    /// Bytes received, in all.
    pub bytes_in: u64,
    /// Bytes the kernel took for sending, in all. What the peer's program read of them, TCP does not tell.
    pub bytes_out: u64,
    /// Bytes that were accepted for sending and never given to the kernel.
    pub bytes_unsent: u64,
    /// Messages received and given to `on_message`; 0 in stream mode.
    pub messages_in: u64,
    /// Messages accepted for sending; 0 in stream mode.
    pub messages_out: u64,
    /// From the channel's beginning (accept or dial) to its end.
    pub age: Duration,
    /// True when `on_open` was called for this channel.
    pub opened: bool,
}

impl fmt::Display for CloseReport {
    /// As in `reset by peer: Connection reset by peer (os error 104)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.reason, self.by)?;
        if let Some(errno) = self.errno {
            write!(f, ": {errno}")?;
        }
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        Ok(())
    }
}

/// Why a send was not accepted. Nothing of it was kept: all or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The channel's outbox is full. `on_drained` says when to go on.
    #[error("the outbox is full: {queued} bytes wait, {size} more would pass outbox_max {max}")]
    WouldBlock {
        /// Bytes that wait to be sent.
        queued: usize,
        /// Bytes that were to be added.
        size: usize,
        /// The limit that would have been passed.
        max: usize,
    },
    /// Longer than one send can ever be: than a message that the peer and this node allow; in stream mode, than an empty
    /// outbox.
    #[error("{size} bytes are more than one send takes, {max} (max_message; in stream mode outbox_max)")]
    TooBig {
        /// The bytes that were to be sent.
        size: usize,
        /// The lower of both nodes' `max_message`; in stream mode `outbox_max`.
        max: usize,
    },
    /// The mailbox of the channel's loop is full, from other threads alone: they send more than the loop keeps up with.
    #[error("the mailbox is full; try again, or raise mailbox_bytes or mailbox_commands")]
    Busy,
    /// The channel is still being dialed, or has not shaken hands: wait for `on_open`.
    #[error("the channel is not open yet")]
    NotOpen,
    /// The channel is closing or closed, its sending half is shut down, or the id never was one.
    #[error("the channel is closed")]
    Closed,
}

/// Why a dial could not begin. What goes wrong later comes as `on_close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// All channels of the range are in use; in a callback, all of the loop's share of it.
    #[error("all {size} channels are in use; raise channels(start, size)")]
    TableFull {
        /// How many there are.
        size: u32,
    },
    /// The loop's mailbox is full: other threads ask for more than it keeps up with.
    #[error("the mailbox is full; try again, or raise mailbox_commands")]
    Busy,
    /// The node is shutting down or has ended.
    #[error("the node is shutting down")]
    Stopped,
}

/// Why a command from another thread was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The loop's mailbox is full: other threads ask for more than it keeps up with.
    #[error("the mailbox is full; try again, or raise mailbox_bytes or mailbox_commands")]
    Busy,
    /// The channel is closed, or the id never was one.
    #[error("the channel is closed")]
    Closed,
    /// The node has ended.
    #[error("the node has ended")]
    Stopped,
    /// The answer would have to come from the thread that asks; inside callbacks use the `Context`.
    #[error("called on a loop's own thread, which cannot wait for itself; use the Context of the callback")]
    OnLoopThread,
}

/// An invalid setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {why}")]
#[non_exhaustive]
pub struct ConfigError {
    /// The setting's name.
    pub setting: &'static str,
    /// What is wrong with its value, and what would be right.
    pub why: String,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address as it was given.
        address: Address,
        /// What the operating system, or the name service, said.
        error: io::Error,
    },
    /// The driver could not be set up: io_uring is missing or refused.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The node's id could not be read, kept or made.
    #[error("{0}")]
    Identity(io::Error),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The caller's closure that makes a loop's handler panicked.
    #[error("making the handler of loop {0} panicked")]
    Handler(usize),
    /// Making a loop's driver panicked: a fault of ringlink.
    #[error("making the driver of loop {loop_index} panicked: {message}")]
    Panicked {
        /// Which loop.
        loop_index: usize,
        /// The panic's message.
        message: String,
    },
}

/// What the driver cannot get over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// io_uring is not to be had here.
    #[error("io_uring is not to be had here: {cause} ({error}); {remedy}")]
    Unavailable {
        /// Why, as far as can be told.
        cause: &'static str,
        /// How to mend it.
        remedy: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// The kernel refused to go on.
    #[error("{doing}: {error}")]
    Kernel {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

/// Why a node's loops ended, from [`Node::join`](crate::Node::join).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The kernel failed a loop.
    #[error("loop {loop_index} failed: {error}")]
    Driver {
        /// Which loop.
        loop_index: usize,
        /// What failed it.
        error: DriverError,
    },
    /// Operations had not ended when the shutdown's time was over. Their memory is leaked on purpose: the kernel may
    /// still write to it.
    #[error("loop {loop_index}: {operations} operations did not end in time; their memory stays allocated")]
    Leaked {
        /// Which loop.
        loop_index: usize,
        /// How many operations.
        operations: usize,
    },
    /// A loop's thread panicked: a fault of ringlink, or a panic in `on_start` or `on_stop`.
    #[error("loop {loop_index} panicked: {message}")]
    Panicked {
        /// Which loop.
        loop_index: usize,
        /// The panic's message.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_found_by_its_code_and_has_a_name_of_its_own() {
        let mut labels: Vec<_> = CloseReason::ALL.iter().map(|r| r.label()).collect();
        for &reason in CloseReason::ALL {
            assert_eq!(CloseReason::from_code(reason.code()), Some(reason));
        }
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), CloseReason::ALL.len());
    }
}
