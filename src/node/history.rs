//! The links that closed last, of all loops together.

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
pub struct ClosedLink {
    /// Its id, which reaches nobody any more.
    pub id: ChannelId,
    /// Who began the connection.
    pub direction: Direction,
    /// The far end, as far as it was known.
    pub peer: Option<Endpoint>,
    /// The node at the far end, if it said hello.
    pub node: Option<NodeId>,
    /// Why it closed, who closed it, and what it carried.
    pub report: CloseReport,
    /// When, by the clock on the wall.
    pub closed_at: SystemTime,
    pub(crate) closed_mono: Mono,
}

#[derive(Debug, Default)]
pub(crate) struct History {
    links: VecDeque<ClosedLink>,
}

impl History {
    pub(crate) fn push(&mut self, link: ClosedLink) {
        if self.links.len() == MAX {
            self.links.pop_front();
        }
        self.links.push_back(link);
    }

    /// The oldest first.
    pub(crate) fn to_vec(&self) -> Vec<ClosedLink> {
        self.links.iter().cloned().collect()
    }

    /// When the last link to the node was lost that the program knew.
    pub(crate) fn lost_at(&self, node: NodeId) -> Option<Mono> {
        let lost = |link: &&ClosedLink| {
            let in_place_of_it = matches!(link.report.reason, CloseReason::Duplicate | CloseReason::Replaced);
            link.node == Some(node) && link.report.opened && !in_place_of_it
        };
        self.links.iter().rev().find(lost).map(|link| link.closed_mono)
    }
}
