//! The nodes that were found at the addresses which are dialed again, for all loops. Of links that came by themselves only
//! those to them matter to the loop that dials; and of each node only the last news, however many links come and go.

use std::collections::BTreeMap;

use crate::link::NodeId;
use crate::node::dialing::Note;

#[derive(Debug, Default)]
pub(crate) struct Sought {
    /// With what the loop that dials has not heard yet.
    nodes: BTreeMap<NodeId, Option<Note>>,
    /// True from the first news until they are taken.
    has_news: bool,
}

impl Sought {
    pub(crate) fn contains(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    /// These from now on. News of others are of no use any more.
    pub(crate) fn set(&mut self, nodes: impl Iterator<Item = NodeId>) {
        let mut before = std::mem::take(&mut self.nodes);
        self.nodes = nodes.map(|node| (node, before.remove(&node).flatten())).collect();
    }

    /// Takes the place of what was not heard yet of the node. True when the loop that dials is to be told of news.
    pub(crate) fn tell(&mut self, node: NodeId, note: Note) -> bool {
        let Some(news) = self.nodes.get_mut(&node) else { return false };
        *news = Some(note);
        !std::mem::replace(&mut self.has_news, true)
    }

    pub(crate) fn take_news(&mut self) -> Vec<Note> {
        self.has_news = false;
        self.nodes.values_mut().filter_map(Option::take).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ChannelId;

    const ONE: NodeId = NodeId::from_bytes([1; 32]);
    const OTHER: NodeId = NodeId::from_bytes([2; 32]);

    fn opened(slot: u32) -> Note {
        Note::Opened { channel: ChannelId::new(slot, 1), node: None }
    }

    fn slots(notes: &[Note]) -> Vec<u32> {
        let slot = |note: &Note| match note {
            Note::Opened { channel, .. } | Note::Closed { channel, .. } => channel.slot(),
        };
        notes.iter().map(slot).collect()
    }

    #[test]
    fn of_each_node_the_last_news_is_heard_and_the_loop_is_told_once() {
        let mut sought = Sought::default();
        sought.set([ONE, OTHER].into_iter());
        assert!(sought.contains(ONE) && !sought.contains(NodeId::from_bytes([3; 32])));
        assert!(sought.tell(ONE, opened(1)));
        for slot in 2..1000 {
            assert!(!sought.tell(ONE, opened(slot)));
        }
        assert!(!sought.tell(OTHER, opened(7)));
        assert!(!sought.tell(NodeId::from_bytes([3; 32]), opened(8)), "nobody seeks it");
        assert_eq!(slots(&sought.take_news()), [999, 7]);
        assert!(sought.take_news().is_empty() && sought.tell(OTHER, opened(9)));
        sought.set([ONE].into_iter());
        assert!(sought.take_news().is_empty() && !sought.contains(OTHER));
    }
}
