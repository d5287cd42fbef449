//! A link's share of what its loop may hold of messages that are not complete: `assembly_bytes`.

use std::sync::Arc;

use crate::config::Limits;
use crate::error::CloseReason;
use crate::stats::Counters;

use super::LinkError;

/// What every link may hold, in bytes, however many there are: short messages are received whatever others hold.
pub(super) const FREE: usize = 64 << 10;

/// The bytes that memory of this capacity counts for.
fn counted(capacity: usize) -> u64 {
    capacity.saturating_sub(FREE) as u64
}

/// Invariant: `taken` is this link's part of the loop's `bytes_assembling`, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    /// The loop's, whose thread the link lives on.
    counters: Arc<Counters>,
    most: u64,
    taken: u64,
}

impl Share {
    pub(super) fn new(limits: &Limits, counters: Arc<Counters>) -> Self {
        Self { counters, most: limits.assembly_bytes as u64, taken: 0 }
    }

    /// What the loop would hold if this link held `capacity` bytes.
    fn total(&self, capacity: usize) -> u64 {
        let total = self.counters.bytes_assembling.get();
        debug_assert!(self.taken <= total, "a part is no more than the whole");
        total - self.taken + counted(capacity)
    }

    /// The link is about to hold `capacity` bytes.
    pub(super) fn grow(&mut self, capacity: usize) -> Result<(), LinkError> {
        if counted(capacity) > self.taken && self.total(capacity) > self.most {
            self.counters.assemblies_refused.add(1);
            let detail = format!("no memory for a message; assembly_bytes is {}", self.most);
            return Err(LinkError::new(CloseReason::Limit, detail));
        }
        self.set(capacity);
        Ok(())
    }

    /// Whether so much may be kept for messages to come: what is begun has at least half of all.
    pub(super) fn may_keep(&self, capacity: usize) -> bool {
        counted(capacity) == 0 || self.total(capacity) <= self.most / 2
    }

    /// The link holds `capacity` bytes.
    pub(super) fn set(&mut self, capacity: usize) {
        let taken = counted(capacity);
        if taken != self.taken {
            self.counters.bytes_assembling.sub(self.taken);
            self.counters.bytes_assembling.add(taken);
            self.taken = taken;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}
