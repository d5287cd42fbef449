//! The channels that found no receive buffer, and which of them is next.
//!
//! Several are fed at once, and the first may take all buffers there are. The others' turn is not over by that: were they
//! to wait behind all again, some would never be the first.

use std::collections::VecDeque;

use crate::id::ChannelId;

#[derive(Debug, Default)]
pub(super) struct Starved {
    /// Those that were fed in vain, in the order in which they were.
    again: VecDeque<ChannelId>,
    waiting: VecDeque<ChannelId>,
}

impl Starved {
    /// It found no buffer; `in_vain` when it has received nothing since it was fed.
    pub(super) fn push(&mut self, channel: ChannelId, in_vain: bool) {
        if in_vain { self.again.push_back(channel) } else { self.waiting.push_back(channel) }
    }

    /// The next to feed; it may have closed while it waited.
    pub(super) fn pop(&mut self) -> Option<ChannelId> {
        self.again.pop_front().or_else(|| self.waiting.pop_front())
    }

    pub(super) fn len(&self) -> usize {
        self.again.len() + self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn clear(&mut self) {
        self.again.clear();
        self.waiting.clear();
    }

    #[cfg(feature = "sim")]
    pub(super) fn contains(&self, channel: ChannelId) -> bool {
        self.again.contains(&channel) || self.waiting.contains(&channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_once_the_first_to_be_fed() {
        for (channels, buffers) in [(6, 4), (4, 4), (9, 2), (100, 7), (3, 8)] {
            let mut starved = Starved::default();
            (0..channels).for_each(|slot| starved.push(ChannelId::new(slot, 1), false));
            let mut meals = vec![0_u32; channels as usize];
            for _ in 0..10 * channels {
                // The first takes every buffer, and the rest find none.
                let fed: Vec<ChannelId> = (0..buffers).map_while(|_| starved.pop()).collect();
                meals[fed[0].slot() as usize] += 1;
                for &channel in &fed {
                    starved.push(channel, channel != fed[0]);
                }
            }
            assert!(
                meals.iter().all(|&count| count == 10),
                "{channels} channels, {buffers} buffers: {meals:?}"
            );
        }
    }
}
