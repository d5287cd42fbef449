//! What `benches/link.rs` measures: two nodes with default limits and one link between them, in memory.

use std::sync::Arc;

use crate::clock::Mono;
use crate::config::Limits;

use super::identity::{LocalNode, NodeId};
use super::{Link, LinkEvent};

const NOW: Mono = Mono::from_nanos(1);

/// A link seen from both ends.
#[derive(Debug)]
pub struct Pair {
    nodes: [Arc<LocalNode>; 2],
    sender: Link,
    receiver: Link,
}

impl Pair {
    /// Two nodes that have shaken hands.
    #[expect(clippy::new_without_default, reason = "a pair is nobody's default")]
    pub fn new() -> Self {
        let nodes = [1, 2].map(|n| {
            Arc::new(LocalNode {
                node_id: NodeId::from_bytes([n; 32]),
                instance_id: [n; 16],
                network: LocalNode::network_of("bench"),
                agent: format!("bench/{n}"),
                listen: vec!["127.0.0.1:10000".to_owned(), "[::1]:10000".to_owned()],
                limits: Limits::default(),
            })
        });
        let [sender, receiver] = shake_hands(&nodes);
        Self { nodes, sender, receiver }
    }

    /// Makes two new links of the nodes and lets each say and hear a hello. True: both are established.
    pub fn hello(&self) -> bool {
        shake_hands(&self.nodes).iter().all(Link::is_established)
    }

    /// Appends `message` to `wire`, `count` times, as it is sent.
    pub fn encode(&self, message: &[u8], count: usize, wire: &mut Vec<u8>) {
        for _ in 0..count {
            for (header, part) in self.sender.framing().frames(message.len()) {
                wire.extend_from_slice(&header);
                wire.extend_from_slice(&message[part]);
            }
        }
    }

    /// Receives `wire` in pieces of `buffer` bytes: how many messages came, and their bytes in all.
    ///
    /// # Panics
    ///
    /// When `wire` is not whole messages.
    pub fn decode(&mut self, wire: &[u8], buffer: usize) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        for mut input in wire.chunks(buffer) {
            while let Some(event) = self.receiver.next_event(&mut input, NOW).expect("valid frames") {
                count += 1;
                match event {
                    LinkEvent::Message(message) => bytes += message.len(),
                    LinkEvent::Assembled(message) => {
                        bytes += message.len();
                        self.receiver.give_back(message);
                    }
                    LinkEvent::Established | LinkEvent::Data(_) | LinkEvent::GoneAway { .. } => {
                        panic!("only messages were sent: {event:?}")
                    }
                }
            }
        }
        (count, bytes)
    }
}

fn shake_hands(nodes: &[Arc<LocalNode>; 2]) -> [Link; 2] {
    let mut links = [0, 1].map(|n| Link::message(Arc::clone(&nodes[n]), Arc::default(), NOW));
    for (from, to) in [(0, 1), (1, 0)] {
        let hello = links[from].next_output(NOW).expect("the hello");
        let event = links[to].next_event(&mut &hello[..], NOW).expect("a valid hello");
        assert_eq!(event, Some(LinkEvent::Established));
    }
    links
}
