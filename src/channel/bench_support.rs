//! What `benches/turn.rs` measures of a channel: its outbox, and the table it is found in.

use std::rc::Rc;
use std::sync::Arc;

use super::outbox::Outbox;
use super::{Channel, ChannelTable, ChunkPool, Settings};
use crate::addr::{Endpoint, Endpoints};
use crate::clock::Mono;
use crate::config::{Limits, Mode};
use crate::driver::batch::MAX_SEGMENTS;
use crate::driver::{Accepted, ListenerId};
use crate::id::ChannelId;
use crate::link::Link;

/// An outbox that is filled and sent.
#[derive(Debug, Default)]
pub struct Sends {
    outbox: Outbox,
    pool: ChunkPool,
}

impl Sends {
    /// Queues a message `count` times, and sends all of it. Returns the operations that took.
    pub fn round(&mut self, header: [u8; 8], message: &[u8], count: usize) -> usize {
        for _ in 0..count {
            self.outbox.push_frame(header, &[message], message.len(), &mut self.pool);
        }
        let mut operations = 0;
        while let Some(mut batch) = self.outbox.take_batch(256 << 10, MAX_SEGMENTS, &mut self.pool) {
            batch.advance(batch.len());
            self.outbox.handle_sent(batch, 0, &mut self.pool);
            operations += 1;
        }
        operations
    }
}

/// A table full of channels.
#[derive(Debug)]
pub struct Table {
    channels: ChannelTable,
    ids: Vec<ChannelId>,
}

impl Table {
    /// With so many channels.
    pub fn new(count: u32) -> Self {
        let limits = Limits::default();
        let settings =
            Settings { limits, counters: Arc::default(), send_size: 1, piece: 1, mode: Mode::Stream };
        let settings = Rc::new(settings);
        let end = || Endpoint::Tcp(([127, 0, 0, 1], 1).into());
        let mut channels = ChannelTable::new(0, count);
        let ids: Vec<_> = (0..count).map(|slot| ChannelId::new(slot, 1)).collect();
        for &id in &ids {
            let (socket, settings) = (Accepted(u64::from(id.slot())), Rc::clone(&settings));
            let (link, now) = (Link::stream(), Mono::default());
            channels.insert(Channel::accepted(
                id,
                ListenerId(0),
                socket,
                Endpoints { local: end(), peer: end() },
                link,
                settings,
                now,
            ));
        }
        Self { channels, ids }
    }

    /// Touches every channel once, far apart from the one before, and walks the list of those touched. Returns how long
    /// that was.
    pub fn round(&mut self) -> usize {
        let count = self.ids.len();
        for n in 0..count {
            // A prime step: every one comes once, unless the count is a multiple of it.
            let id = self.ids[n * 7919 % count];
            let found = self.channels.touch(id);
            debug_assert!(found.is_some());
        }
        let touched = self.channels.take_dirty();
        let found = touched.iter().filter(|id| self.channels.clean(**id).is_some()).count();
        self.channels.give_back_dirty(touched, 0);
        found
    }
}
