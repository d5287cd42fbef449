//! All channels of one loop, by slot, and which of them were touched in this turn. The loop alone owns it; what other
//! threads may know of a slot is in `slots.rs`.

use super::Channel;
use crate::id::ChannelId;

#[derive(Debug)]
struct Row {
    channel: Box<Channel>,
    /// True exactly when the id is on a dirty list, or is on the taken one and still to be looked at.
    is_dirty: bool,
}

impl Row {
    #[inline]
    fn touch(&mut self, dirty: &mut Vec<ChannelId>) {
        if !std::mem::replace(&mut self.is_dirty, true) {
            dirty.push(self.channel.id());
        }
    }
}

/// Invariant: a row holds the channel whose id has its slot; `count` rows are filled.
#[derive(Debug)]
pub(crate) struct ChannelTable {
    start: u32,
    size: u32,
    /// Grows only to the highest slot that was used. A pointer each: what is empty costs little.
    rows: Vec<Option<Row>>,
    count: u32,
    dirty: Vec<ChannelId>,
    /// The list that was taken last, empty, for its memory.
    spare: Vec<ChannelId>,
}

impl ChannelTable {
    pub(crate) fn new(start: u32, size: u32) -> Self {
        assert!(start.checked_add(size).is_some(), "the configuration was validated");
        Self { start, size, rows: Vec::new(), count: 0, dirty: Vec::new(), spare: Vec::new() }
    }

    pub(crate) fn start(&self) -> u32 {
        self.start
    }

    pub(crate) fn len(&self) -> usize {
        self.count as usize
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Puts a channel into its empty slot, dirty.
    pub(crate) fn insert(&mut self, channel: Channel) {
        let id = channel.id();
        let index = self.index(id).expect("an id of this loop");
        if index >= self.rows.len() {
            self.rows.resize_with(index + 1, || None);
        }
        let row = &mut self.rows[index];
        assert!(row.is_none(), "{id}: the slot is in use");
        *row = Some(Row { channel: Box::new(channel), is_dirty: false });
        self.count += 1;
        self.mark_dirty(id);
    }

    #[inline]
    pub(crate) fn get(&self, id: ChannelId) -> Option<&Channel> {
        let row = self.rows.get(self.index(id)?)?.as_ref()?;
        (row.channel.id() == id).then_some(&*row.channel)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: ChannelId) -> Option<&mut Channel> {
        self.row_mut(id).map(|row| &mut *row.channel)
    }

    /// Its id may stay on the dirty list, where it reaches nobody.
    pub(crate) fn remove(&mut self, id: ChannelId) -> Option<Box<Channel>> {
        self.row_mut(id)?;
        let index = self.index(id)?;
        self.count -= 1;
        self.rows[index].take().map(|row| row.channel)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Channel> {
        self.rows.iter().flatten().map(|row| &*row.channel)
    }

    /// The ids of all channels, for a walk on which channels are changed and removed.
    pub(crate) fn ids(&self) -> Vec<ChannelId> {
        self.iter().map(Channel::id).collect()
    }

    /// The channel, whose submissions and deadline are to be looked at, since it is about to be changed.
    #[inline]
    pub(crate) fn touch(&mut self, id: ChannelId) -> Option<&mut Channel> {
        let index = self.index(id)?;
        let row = row_of(&mut self.rows, index, id)?;
        row.touch(&mut self.dirty);
        Some(&mut row.channel)
    }

    /// The same for the channel that has the id's slot now.
    pub(crate) fn touch_slot(&mut self, id: ChannelId) -> Option<&mut Channel> {
        let index = self.index(id)?;
        let row = self.rows.get_mut(index)?.as_mut()?;
        row.touch(&mut self.dirty);
        Some(&mut row.channel)
    }

    /// Walks all channels; those `change` says it changed are touched.
    pub(crate) fn touch_each(&mut self, mut change: impl FnMut(&mut Channel) -> bool) {
        for row in self.rows.iter_mut().flatten() {
            if change(&mut row.channel) {
                row.touch(&mut self.dirty);
            }
        }
    }

    /// The channel was touched. Nothing happens for a stale id.
    pub(crate) fn mark_dirty(&mut self, id: ChannelId) {
        let _touched = self.touch(id);
    }

    pub(crate) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The channels touched since the last call, each once, to be gone through with [`ChannelTable::clean`]. Goes back by
    /// `give_back_dirty`, for its memory.
    pub(crate) fn take_dirty(&mut self) -> Vec<ChannelId> {
        std::mem::replace(&mut self.dirty, std::mem::take(&mut self.spare))
    }

    /// A channel of the taken list, to be looked at now: touched again, it is for the next list.
    #[inline]
    pub(crate) fn clean(&mut self, id: ChannelId) -> Option<&mut Channel> {
        let row = self.row_mut(id)?;
        row.is_dirty = false;
        Some(&mut row.channel)
    }

    /// The last `left` of the taken list were not looked at: they are the first of the next one.
    pub(crate) fn give_back_dirty(&mut self, mut taken: Vec<ChannelId>, left: usize) {
        taken.drain(..taken.len() - left);
        if left > 0 {
            taken.append(&mut self.dirty);
            std::mem::swap(&mut self.dirty, &mut taken);
        }
        self.spare = taken;
    }

    #[cfg(test)]
    pub(crate) fn check(&self) {
        assert_eq!(self.iter().count(), self.len());
        for (index, row) in self.rows.iter().enumerate() {
            let Some(row) = row else { continue };
            assert_eq!(self.index(row.channel.id()), Some(index));
            let listed = self.dirty.iter().filter(|id| **id == row.channel.id()).count();
            assert_eq!(listed, usize::from(row.is_dirty), "{} on the dirty list", row.channel.id());
        }
    }

    #[inline]
    fn index(&self, id: ChannelId) -> Option<usize> {
        let index = id.slot().checked_sub(self.start)?;
        (index < self.size).then_some(index as usize)
    }

    #[inline]
    fn row_mut(&mut self, id: ChannelId) -> Option<&mut Row> {
        let index = self.index(id)?;
        row_of(&mut self.rows, index, id)
    }
}

/// Of the rows alone, so that the dirty list can be changed meanwhile.
#[inline]
fn row_of(rows: &mut [Option<Row>], index: usize, id: ChannelId) -> Option<&mut Row> {
    rows.get_mut(index)?.as_mut().filter(|row| row.channel.id() == id)
}

#[cfg(test)]
mod tests {
    use super::super::tests::some_channel;
    use super::*;

    fn id(slot: u32, generation: u32) -> ChannelId {
        ChannelId::new(slot, generation)
    }

    #[test]
    fn a_stale_id_finds_nobody() {
        let mut table = ChannelTable::new(10, 5);
        table.insert(some_channel(id(12, 1)));
        assert!(table.get(id(12, 1)).is_some() && table.remove(id(12, 1)).is_some());
        table.insert(some_channel(id(12, 2)));
        for stale in [id(12, 1), id(12, 3), id(11, 2), id(9, 2), id(15, 2), id(u32::MAX, 2)] {
            assert!(table.get(stale).is_none() && table.get_mut(stale).is_none());
            assert!(table.remove(stale).is_none());
            table.mark_dirty(stale);
        }
        table.check();
        assert_eq!((table.len(), table.ids()), (1, vec![id(12, 2)]));
        assert_eq!(table.touch_slot(id(12, 1)).map(|channel| channel.id()), Some(id(12, 2)));
        assert!(table.touch_slot(id(11, 1)).is_none() && table.touch_slot(id(15, 1)).is_none());
        table.check();
    }

    #[test]
    fn rows_grow_only_to_the_highest_slot_used() {
        let mut table = ChannelTable::new(0, u32::MAX);
        table.insert(some_channel(id(99, 1)));
        assert_eq!(table.rows.len(), 100);
    }

    #[test]
    fn a_dirty_channel_is_listed_once_and_the_lists_go_round() {
        let mut table = ChannelTable::new(0, 4);
        for slot in 0..4 {
            table.insert(some_channel(id(slot, 1)));
            table.mark_dirty(id(slot, 1));
        }
        table.check();
        let taken = table.take_dirty();
        assert_eq!(taken.len(), 4);
        assert!(!table.has_dirty());
        // Touched while the list is walked, one before its turn and one after it: that one is on the next list.
        table.mark_dirty(id(1, 1));
        for &id in &taken {
            assert!(table.clean(id).is_some());
            if id.slot() == 2 {
                table.mark_dirty(id);
            }
        }
        table.check();
        let place = taken.as_ptr();
        table.give_back_dirty(taken, 0);
        let next = table.take_dirty();
        assert_eq!(next, [id(2, 1)]);
        assert!(table.clean(id(2, 1)).is_some());
        table.give_back_dirty(next, 0);
        table.mark_dirty(id(0, 1));
        let third = table.take_dirty();
        assert_eq!(third.as_ptr(), place, "two lists take turns");
    }

    #[test]
    fn what_was_not_looked_at_comes_first_the_next_time() {
        let mut table = ChannelTable::new(0, 4);
        for slot in 0..4 {
            table.insert(some_channel(id(slot, 1)));
        }
        let taken = table.take_dirty();
        assert!(table.clean(id(0, 1)).is_some() && table.clean(id(1, 1)).is_some());
        table.mark_dirty(id(0, 1));
        table.give_back_dirty(taken, 2);
        table.check();
        assert_eq!(table.take_dirty(), [id(2, 1), id(3, 1), id(0, 1)]);
    }

    #[test]
    fn a_slot_used_again_while_its_old_id_is_listed_is_listed_too() {
        let mut table = ChannelTable::new(0, 1);
        table.insert(some_channel(id(0, 1)));
        table.remove(id(0, 1));
        table.insert(some_channel(id(0, 2)));
        table.check();
        assert_eq!(table.take_dirty(), [id(0, 1), id(0, 2)]);
        assert!(table.clean(id(0, 1)).is_none() && table.clean(id(0, 2)).is_some());
        table.check();
    }
}
