//! The channels that closed last, of all loops together.

use std::collections::VecDeque;
use std::time::SystemTime;

use crate::addr::Endpoint;
use crate::clock::Mono;
use crate::error::{CloseReason, CloseReport};
use crate::id::ChannelId;
use crate::link::NodeId;
use crate::node::info::Direction;

/// So many are kept.
const MAX: usize = 1000;

/// A channel that is gone: who it was, and why and how it closed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClosedChannel {
    /// Its id, which reaches nobody any more.
    pub id: ChannelId,
    /// Who began the connection.
    pub direction: Direction,
    /// The far end, as far as it was known.
    pub peer_addr: Option<Endpoint>,
    /// The node at the far end, if it said hello.
    pub peer_id: Option<NodeId>,
    /// Why it closed, who closed it, and what it carried.
    pub report: CloseReport,
    /// When, by the clock on the wall.
    pub closed_at: SystemTime,
    pub(crate) closed_mono: Mono,
}

#[derive(Debug, Default)]
pub(crate) struct History {
    channels: VecDeque<ClosedChannel>,
}

impl History {
    pub(crate) fn push(&mut self, channel: ClosedChannel) {
        if self.channels.len() == MAX {
            self.channels.pop_front();
        }
        self.channels.push_back(channel);
    }

    /// The oldest first.
    pub(crate) fn to_vec(&self) -> Vec<ClosedChannel> {
        self.channels.iter().cloned().collect()
    }

    /// When the last link to the node was lost that the program knew.
    pub(crate) fn lost_at(&self, node: NodeId) -> Option<Mono> {
        let lost = |channel: &&ClosedChannel| {
            let in_place_of_it =
                matches!(channel.report.reason, CloseReason::Duplicate | CloseReason::Replaced);
            channel.peer_id == Some(node) && channel.report.opened && !in_place_of_it
        };
        self.channels.iter().rev().find(lost).map(|channel| channel.closed_mono)
    }
}
