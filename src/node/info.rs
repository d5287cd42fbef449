//! What a program is told of a channel.

use std::time::Duration;

use crate::addr::Endpoint;
use crate::channel::{self, Channel, Phase};
use crate::clock::Mono;
use crate::id::ChannelId;
use crate::link::{PeerInfo, Rtt};

/// Who began a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Direction {
    /// The peer dialed one of this node's listeners.
    Accepted,
    /// This node dialed.
    Dialed,
}

/// How far a channel has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChannelState {
    /// Not reported to `on_open` yet.
    Opening,
    /// Open.
    Open,
    /// Ending: nothing can be sent any more, and `on_close` is still to come.
    Closing,
}

/// A channel at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelInfo {
    /// Its id.
    pub id: ChannelId,
    /// Who began the connection.
    pub direction: Direction,
    /// The listener it came by, as a place in [`Node::local_addrs`](crate::Node::local_addrs); `None` for a dialed one.
    pub listener: Option<usize>,
    /// The far end; while dialing, the endpoint that is tried. `None` while a name is looked up.
    pub peer_addr: Option<Endpoint>,
    /// This end; `None` while dialing.
    pub local_addr: Option<Endpoint>,
    /// How far it has come.
    pub state: ChannelState,
    /// Since the accept or the dial.
    pub age: Duration,
    /// Since a message, or a part of one, was last sent or received; in stream mode a byte. Heartbeats do not count.
    pub idle: Duration,
    /// Bytes received: given to the program or discarded, in message mode with all headers and control frames. What a
    /// pause holds back is not among them yet.
    pub bytes_in: u64,
    /// Bytes the kernel took for sending.
    pub bytes_out: u64,
    /// Bytes that wait to be sent.
    pub bytes_queued: usize,
    /// True when reading is paused by the program.
    pub paused: bool,
    /// What the node at the other end said of itself, in message mode from `on_open` on.
    pub peer: Option<PeerInfo>,
    /// Round trips to the other end, in message mode once one was measured.
    pub rtt: Option<Rtt>,
}

impl ChannelInfo {
    pub(crate) fn of(channel: &Channel, now: Mono) -> Self {
        let (direction, listener) = match channel.direction() {
            channel::Direction::Accepted(listener) => (Direction::Accepted, Some(listener.0 as usize)),
            channel::Direction::Dialed => (Direction::Dialed, None),
        };
        let state = match channel.phase() {
            _ if channel.is_ending() => ChannelState::Closing,
            Phase::Resolving | Phase::Dialing | Phase::Opening => ChannelState::Opening,
            Phase::Open => ChannelState::Open,
            Phase::Broken | Phase::Flushing | Phase::Lingering | Phase::Closing | Phase::Closed => {
                ChannelState::Closing
            }
        };
        Self {
            id: channel.id(),
            direction,
            listener,
            peer_addr: channel.peer().cloned(),
            local_addr: channel.local().cloned(),
            state,
            age: now - channel.began_at(),
            idle: now - channel.moved_at(),
            bytes_in: channel.bytes_in(),
            bytes_out: channel.bytes_out(),
            bytes_queued: channel.queued(),
            paused: channel.is_paused(),
            peer: channel.link().peer().cloned(),
            rtt: channel.link().rtt(),
        }
    }
}
