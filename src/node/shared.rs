//! What a node's loops and all handles to it have in common: one [`Port`] for each loop, and the way from a channel's id
//! to its loop.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::channel::Slots;
use crate::driver::Waker;
use crate::error::SendError;
use crate::id::ChannelId;
use crate::link::LocalNode;
use crate::node::admission::PerIp;
use crate::node::history::History;
use crate::node::mailbox::Mailbox;
use crate::node::names::Names;
use crate::node::peers::Peers;
use crate::node::sought::Sought;
use crate::stats::Counters;

/// Wakes a loop, whatever its driver: called once for a burst of commands at most, so the indirection costs nothing.
#[derive(Clone)]
pub(crate) struct LoopWaker(Arc<dyn Fn() + Send + Sync>);

impl LoopWaker {
    pub(crate) fn new(waker: impl Waker) -> Self {
        Self(Arc::new(move || waker.wake()))
    }
}

impl std::fmt::Debug for LoopWaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LoopWaker")
    }
}

impl Waker for LoopWaker {
    fn wake(&self) {
        self.0();
    }
}

/// The side of a loop that other threads may touch.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) slots: Slots,
    pub(crate) mailbox: Mailbox<LoopWaker>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) thread: std::thread::ThreadId,
}

impl Port {
    /// A send was refused, perhaps for want of room.
    #[cold]
    pub(crate) fn count_refusal(&self, error: &SendError) {
        if matches!(error, SendError::WouldBlock { .. }) {
            self.counters.posts_refused.add_from_any_thread(1);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) ports: Box<[Port]>,
    /// Who this node is, in message mode.
    pub(crate) local_node: Option<Arc<LocalNode>>,
    pub(crate) names: Names,
    /// Who is linked, in message mode. This and the next two are locked only when channels come and go.
    pub(crate) peers: Option<Mutex<Peers>>,
    pub(crate) per_ip: Mutex<PerIp>,
    pub(crate) history: Mutex<History>,
    /// Where there are persistent peers: who they are.
    pub(crate) sought: Option<Arc<Mutex<Sought>>>,
    /// True from the first request to shut down.
    stopping: AtomicBool,
    next_dial: AtomicUsize,
}

impl Shared {
    pub(crate) fn new(
        ports: Vec<Port>,
        lookups: usize,
        local_node: Option<LocalNode>,
        has_peers: bool,
    ) -> Self {
        let names = Names::new(lookups);
        Self {
            ports: ports.into(),
            peers: local_node.as_ref().map(|local| Mutex::new(Peers::new(local.node_id))),
            per_ip: Mutex::default(),
            history: Mutex::default(),
            sought: has_peers.then(Arc::default),
            local_node: local_node.map(Arc::new),
            names,
            stopping: AtomicBool::new(false),
            next_dial: AtomicUsize::new(0),
        }
    }

    /// The loop that owns the channel's slot; `None` for an id of another node.
    pub(crate) fn loop_of(&self, channel: ChannelId) -> Option<usize> {
        let after = self.ports.partition_point(|port| port.slots.first() <= channel.slot());
        let index = after.checked_sub(1)?;
        let slots = &self.ports[index].slots;
        (channel.slot() - slots.first() < slots.count()).then_some(index)
    }

    /// The side of that loop that other threads may touch.
    pub(crate) fn port_of(&self, channel: ChannelId) -> Option<&Port> {
        self.loop_of(channel).map(|index| &self.ports[index])
    }

    /// The loop of the next dial: each in turn.
    pub(crate) fn next_dial(&self) -> usize {
        self.next_dial.fetch_add(1, Ordering::Relaxed) % self.ports.len()
    }

    /// From here on nothing is dialed, and no name is looked up: who waits for one would keep all of this alive.
    pub(crate) fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
        self.names.close();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// The slots of each loop: first and count. The first loops get one more where it does not divide.
pub(crate) fn split_slots(first: u32, count: u32, loops: usize) -> Vec<(u32, u32)> {
    let loops = u32::try_from(loops).expect("validated to be at most 1024");
    let mut from = first;
    (0..loops)
        .map(|index| {
            let size = count / loops + u32::from(index < count % loops);
            from += size;
            (from - size, size)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_stops_looks_up_no_name() {
        let shared = Shared::new(Vec::new(), 1, None, false);
        shared.set_stopping();
        let (sender, answer) = std::sync::mpsc::channel();
        shared.names.lookup("localhost".into(), 7, move |found| drop(sender.send(found))).unwrap();
        assert!(answer.recv().is_err(), "the reply is dropped, not called");
    }

    #[test]
    fn slots_are_split_without_gap_or_overlap() {
        assert_eq!(split_slots(100, 10, 3), [(100, 4), (104, 3), (107, 3)]);
        assert_eq!(split_slots(0, 1, 1), [(0, 1)]);
    }
}
