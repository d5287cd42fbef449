//! Who is linked, and what becomes of a second link to the same node: sans-IO, one for all loops of a node, looked at
//! only when links come and go.
//!
//! Two nodes that dial each other at once have two links, and must come to keep the same one. It is the one that the
//! node with the lower id dialed; of links dialed by the same node, the one that was first in the eyes of the node with
//! the lower id. That node closes the others, once a frame on the one to stay proves that the peer has it, too. The
//! node with the higher id waits for that, and decides by itself only after [`PATIENCE`].
//!
//! The program hears of one link to a node at a time: a further one is held back until it takes the place of the
//! first, or a message comes on it. So there is never a moment without a link, nor one in which everything goes twice.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::clock::Mono;
use crate::id::ChannelId;
use crate::link::NodeId;

/// How long the node with the higher id waits for the other to close what is too many.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// A node's links may be taken over by another instance of it so often: two processes with one id would otherwise
/// throw each other out for ever.
const TAKEOVER_EVERY: Duration = Duration::from_secs(10);

/// What is to be done with a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The program is to hear of it.
    Open,
    /// [`Peers::handle_confirmed`] wants to know of the first frame on it.
    Watch,
    /// It is one too many.
    Retire,
    /// It is of an instance of the node that is gone.
    Replace,
    /// It leads back to this node.
    RefuseSelf,
    /// It would take over from an instance that took over just now; it may be tried again after this time.
    RefuseTakeover(Duration),
}

#[derive(Debug)]
struct Linked {
    channel: ChannelId,
    dialed: bool,
    /// True exactly when the program was told of it, or is about to be.
    open: bool,
}

/// The links to one node, in the order in which they came; at least one.
#[derive(Debug)]
struct Peer {
    instance: [u8; 16],
    links: Vec<Linked>,
    taken_over_at: Option<Mono>,
    /// The link that was last asked to be watched, until it is confirmed.
    watched: Option<ChannelId>,
}

/// Invariant: each peer has a link and at least one is open; `channels` has exactly the links of `peers`, and `contests`
/// the peers that have several.
#[derive(Debug)]
pub(crate) struct Peers {
    me: NodeId,
    peers: BTreeMap<NodeId, Peer>,
    channels: BTreeMap<ChannelId, NodeId>,
    /// Since when there is more than one link.
    contests: BTreeMap<NodeId, Mono>,
    actions: VecDeque<(ChannelId, Action)>,
}

impl Peer {
    /// The link to keep, of those there are.
    fn preferred(&self, we_are_lower: bool) -> &Linked {
        let right = self.links.iter().find(|link| link.dialed == we_are_lower);
        right.or(self.links.first()).expect("a peer has a link")
    }

    /// The link to keep, unless it is watched already: who makes link after link does not fill other loops' mail.
    fn next_to_watch(&mut self) -> Option<ChannelId> {
        let channel = self.preferred(true).channel;
        (self.watched.replace(channel) != Some(channel)).then_some(channel)
    }

    fn find(&mut self, channel: ChannelId) -> &mut Linked {
        self.links.iter_mut().find(|link| link.channel == channel).expect("a channel of this peer")
    }
}

impl Peers {
    pub(crate) fn new(me: NodeId) -> Self {
        Self {
            me,
            peers: BTreeMap::new(),
            channels: BTreeMap::new(),
            contests: BTreeMap::new(),
            actions: VecDeque::new(),
        }
    }

    pub(crate) fn is_linked(&self, node: NodeId) -> bool {
        self.peers.contains_key(&node)
    }

    /// What is to be done now; to be called until `None` after every other call.
    pub(crate) fn next_action(&mut self) -> Option<(ChannelId, Action)> {
        if cfg!(debug_assertions) {
            self.check();
        }
        self.actions.pop_front()
    }

    /// A channel has shaken hands with an instance of `node`. True when [`Peers::handle_timeout`] is to be called after
    /// [`PATIENCE`].
    pub(crate) fn handle_established(
        &mut self,
        channel: ChannelId,
        (node, instance): (NodeId, [u8; 16]),
        dialed: bool,
        now: Mono,
    ) -> bool {
        if node == self.me {
            self.actions.push_back((channel, Action::RefuseSelf));
            return false;
        }
        let peer = self.peers.entry(node).or_insert_with(|| Peer {
            instance,
            links: Vec::with_capacity(1), // most have no other
            taken_over_at: None,
            watched: None,
        });
        if peer.instance != instance {
            self.take_over(node, instance, Linked { channel, dialed, open: true }, now);
            return false;
        }
        let open = peer.links.is_empty();
        peer.links.push(Linked { channel, dialed, open });
        self.channels.insert(channel, node);
        if open {
            self.actions.push_back((channel, Action::Open));
            return false;
        }
        self.contests.entry(node).or_insert(now);
        if self.me < node {
            self.actions.extend(peer.next_to_watch().map(|channel| (channel, Action::Watch)));
        }
        self.me > node
    }

    /// The node was restarted: its new link takes the place of those to the instance that is gone.
    fn take_over(&mut self, node: NodeId, instance: [u8; 16], link: Linked, now: Mono) {
        let (channel, peer) = (link.channel, self.peers.get_mut(&node).expect("there is a link to it"));
        if let Some(wait) = peer.taken_over_at.and_then(|at| TAKEOVER_EVERY.checked_sub(now - at))
            && !wait.is_zero()
        {
            self.actions.push_back((channel, Action::RefuseTakeover(wait)));
            return;
        }
        let renewed = Peer { instance, links: vec![link], taken_over_at: Some(now), watched: None };
        let ghosts = std::mem::replace(peer, renewed).links;
        self.contests.remove(&node);
        // The new link first: the program is never without one.
        self.actions.push_back((channel, Action::Open));
        for ghost in ghosts {
            self.channels.remove(&ghost.channel);
            self.actions.push_back((ghost.channel, Action::Replace));
        }
        self.channels.insert(channel, node);
    }

    /// A frame came on a watched link.
    pub(crate) fn handle_confirmed(&mut self, channel: ChannelId) {
        let Some(&node) = self.channels.get(&channel) else { return };
        let peer = self.peers.get_mut(&node).expect("its channel is known");
        peer.watched.take_if(|watched| *watched == channel);
        // Else one that is better came after it, and is watched.
        if self.me < node && peer.preferred(true).channel == channel {
            self.settle(node);
        }
    }

    /// A message came on a link that was held back: its peer uses it, and the program has heard of it.
    pub(crate) fn handle_opened(&mut self, channel: ChannelId) {
        let Some(&node) = self.channels.get(&channel) else { return };
        let lower = self.me < node;
        let peer = self.peers.get_mut(&node).expect("its channel is known");
        peer.find(channel).open = true;
        // The peer with the lower id uses the link it dialed: so will it tomorrow. Of several, it may mean another.
        let right = peer.links.iter().filter(|link| !link.dialed).count();
        if !lower && right == 1 && peer.preferred(false).channel == channel {
            self.settle(node);
        }
    }

    /// The end of a channel has begun.
    pub(crate) fn handle_ended(&mut self, channel: ChannelId) {
        let Some(node) = self.channels.remove(&channel) else { return };
        let peer = self.peers.get_mut(&node).expect("its channel is known");
        peer.links.retain(|link| link.channel != channel);
        if peer.links.is_empty() {
            self.peers.remove(&node);
            return;
        }
        let is_contested = peer.links.len() > 1;
        if !is_contested {
            self.contests.remove(&node);
        }
        if !peer.links.iter().any(|link| link.open) {
            let next = peer.preferred(self.me < node).channel;
            peer.find(next).open = true;
            self.actions.push_back((next, Action::Open));
        }
        if is_contested && self.me < node {
            self.actions.extend(peer.next_to_watch().map(|channel| (channel, Action::Watch)));
        }
    }

    /// Settles what the peer with the lower id has left unsettled for too long.
    pub(crate) fn handle_timeout(&mut self, now: Mono) {
        let lower = self.contests.range(..self.me);
        let due: Vec<_> = lower.filter(|(_, at)| now - **at >= PATIENCE).map(|(node, _)| *node).collect();
        for node in due {
            self.settle(node);
        }
    }

    /// Keeps the preferred link alone.
    fn settle(&mut self, node: NodeId) {
        let lower = self.me < node;
        let peer = self.peers.get_mut(&node).expect("there is a link to it");
        let keep = peer.preferred(lower).channel;
        if !std::mem::replace(&mut peer.find(keep).open, true) {
            self.actions.push_back((keep, Action::Open));
        }
        for link in peer.links.extract_if(.., |link| link.channel != keep) {
            self.channels.remove(&link.channel);
            self.actions.push_back((link.channel, Action::Retire));
        }
        peer.watched = None;
        self.contests.remove(&node);
    }

    /// Walks over all links.
    fn check(&self) {
        let links = self.peers.values().map(|peer| peer.links.len()).sum::<usize>();
        assert_eq!(links, self.channels.len());
        assert!(self.peers.values().all(|peer| peer.links.iter().any(|link| link.open)));
        let contested = self.peers.iter().filter(|(_, peer)| peer.links.len() > 1).map(|(node, _)| node);
        assert!(contested.eq(self.contests.keys()));
    }
}

#[cfg(test)]
mod tests;
