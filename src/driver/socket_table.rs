//! A driver's sockets, by the slots of their channels, and which of them may have a next operation.

use std::collections::VecDeque;

use crate::id::ChannelId;

#[derive(Debug)]
pub(crate) struct SocketTable<S> {
    first_slot: u32,
    /// From `first_slot` on, as far as slots have been used.
    rows: Vec<Option<S>>,
    /// Slots, perhaps more than once.
    changed: VecDeque<u32>,
}

impl<S> SocketTable<S> {
    pub(crate) fn new(first_slot: u32) -> Self {
        Self { first_slot, rows: Vec::new(), changed: VecDeque::new() }
    }

    fn index(&self, slot: u32) -> usize {
        (slot - self.first_slot) as usize
    }

    pub(crate) fn insert(&mut self, channel: ChannelId, socket: S) {
        let index = self.index(channel.slot());
        if index >= self.rows.len() {
            self.rows.resize_with(index + 1, || None);
        }
        assert!(self.rows[index].is_none(), "a slot is given out again only when its channel is closed");
        self.rows[index] = Some(socket);
        self.changed.push_back(channel.slot());
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<S> {
        let index = self.index(slot);
        self.rows.get_mut(index)?.take()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut S> {
        let index = self.index(slot);
        self.rows.get_mut(index)?.as_mut()
    }

    /// The socket of a channel the loop above still knows, about to be changed.
    pub(crate) fn change(&mut self, channel: ChannelId) -> &mut S {
        self.changed.push_back(channel.slot());
        self.get_mut(channel.slot()).expect("the channel was adopted or dialed, and is not closed")
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &S> {
        self.rows.iter().flatten()
    }

    /// The socket may have a next operation.
    pub(crate) fn mark_changed(&mut self, slot: u32) {
        self.changed.push_back(slot);
    }

    /// The slot whose next operation is to be looked at.
    pub(crate) fn next_changed(&mut self) -> Option<u32> {
        self.changed.pop_front()
    }

    /// There was no room for the operation: it is looked at first the next time.
    pub(crate) fn put_back_changed(&mut self, slot: u32) {
        self.changed.push_front(slot);
    }

    #[cfg(feature = "tokio-uring")]
    pub(crate) fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }
}
