//! Who is who: a node's id, what it says of itself, and what it was told by a peer.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::config::Limits;

/// Names a node across restarts, if it keeps its id in a file: 32 random bytes.
///
/// Written as 64 hexadecimal digits. A node says its id itself and nothing proves it: it tells nodes apart that mean
/// well, and keeps out nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId([u8; 32]);

impl NodeId {
    /// The id of these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 8 digits, enough for a log line.
    pub fn short(&self) -> String {
        let [a, b, c, d, ..] = self.0;
        format!("{:08x}", u32::from_be_bytes([a, b, c, d]))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", self.short())
    }
}

/// A text that is not a node id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a node id; one is 64 hexadecimal digits")]
pub struct ParseNodeIdError;

impl FromStr for NodeId {
    type Err = ParseNodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(ParseNodeIdError) };
        let pairs: &[[u8; 2]; 32] = pairs.try_into().map_err(|_| ParseNodeIdError)?;
        let digit = |c: u8| char::from(c).to_digit(16).ok_or(ParseNodeIdError);
        let mut bytes = [0; 32];
        for (byte, [high, low]) in bytes.iter_mut().zip(*pairs) {
            *byte = (digit(high)? << 4 | digit(low)?) as u8;
        }
        Ok(Self(bytes))
    }
}

/// What a node says of itself in every hello; one for all links.
#[derive(Debug)]
pub(crate) struct LocalNode {
    pub(crate) node_id: NodeId,
    /// Random for each start of the process: tells a restarted node from a second link.
    pub(crate) instance_id: [u8; 16],
    /// See [`LocalNode::network_of`].
    pub(crate) network: [u8; 16],
    /// Program and version, at most 64 bytes.
    pub(crate) agent: String,
    /// Where the node may be dialed. Those that do not fit into a hello are left out.
    pub(crate) listen: Vec<String>,
    pub(crate) limits: Limits,
}

impl LocalNode {
    /// What stands for a network's name in a hello: nodes of other networks need not learn the name.
    pub(crate) fn network_of(name: &str) -> [u8; 16] {
        let hash = Sha256::new().chain_update(b"ringlink network\0").chain_update(name).finalize();
        *hash.first_chunk().expect("SHA-256 has 32 bytes")
    }
}

/// What a peer said of itself in its hello. Texts are cut to their limits and hold no control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerInfo {
    /// The peer's id; it says so itself.
    pub node_id: NodeId,
    /// Random for each start of the peer's process.
    pub instance_id: [u8; 16],
    /// The peer's program and version; empty if it did not say.
    pub agent: String,
    /// The protocol version both nodes use on this channel.
    pub version: u16,
    /// Features both nodes use on this channel, as bits. None is defined yet.
    pub features: u64,
    /// The longest frame the peer accepts, in bytes of payload.
    pub max_frame: u32,
    /// The longest message the peer accepts, in bytes.
    pub max_message: usize,
    /// After how much silence the peer asks whether we live.
    pub heartbeat: Duration,
    /// Where the peer says it may be dialed; at most 8, and not to be trusted.
    pub addresses: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_is_read_back_from_its_text() {
        let id = NodeId::from_bytes(std::array::from_fn(|i| (i * 37) as u8));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        assert!(id.to_string().starts_with(&id.short()));
        assert_eq!(id.short(), "00254a6f");
    }

    #[test]
    fn other_texts_are_no_node_ids() {
        for text in ["", "00", &"0".repeat(63), &"0".repeat(66), &"g".repeat(64), &"+1".repeat(32)] {
            assert_eq!(text.parse::<NodeId>(), Err(ParseNodeIdError), "{text}");
        }
    }

    #[test]
    fn networks_of_other_names_differ() {
        assert_ne!(LocalNode::network_of("a"), LocalNode::network_of("b"));
        assert_eq!(LocalNode::network_of(""), LocalNode::network_of(""));
    }
}
