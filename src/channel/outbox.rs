//! Bytes that wait to be sent on one channel. Small sends are copied together into pooled chunks, large ones ride along
//! by reference; what waits is taken out as one batch whenever no send is out. Who may add to it is the channel's affair.

use bytes::Bytes;

use super::chunks::{ChunkPool, SMALL_CHUNK};
use crate::config::{Limits, Mode};
use crate::driver::Batch;

/// From this length on `Bytes` are sent by reference. Below it the copy costs less than a segment of its own and the
/// atomic counts of the reference.
pub(crate) const SHARED_MIN: usize = 4 << 10;

/// From this length on what many outboxes get goes by reference even behind other segments. Below it a copy costs less than
/// a segment, above it the chunks of many outboxes fall out of the cache.
const COMMON_MIN: usize = 512;

/// How much an outbox takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    max: usize,
    /// Below it one more goes in, whatever its length: half a message is never accepted, so one of `max_message` could
    /// never be sent otherwise. A stream can be sent in parts.
    one_more_below: usize,
}

impl Room {
    #[inline]
    pub(crate) fn new(mode: Mode, limits: &Limits) -> Self {
        let one_more_below = match mode {
            Mode::Message => limits.outbox_high,
            Mode::Stream => 0,
        };
        Self { max: limits.outbox_max, one_more_below }
    }

    /// True when an outbox in which `queued` bytes wait takes `size` more.
    #[inline]
    pub(crate) fn takes(self, queued: usize, size: usize) -> bool {
        queued < self.one_more_below || queued.saturating_add(size) <= self.max
    }

    pub(crate) fn max(self) -> usize {
        self.max
    }
}

/// Invariant: `queued = waiting + in_flight`; what waits is not empty; `in_flight > 0` exactly while a batch is out.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: Option<Box<Batch>>,
    in_flight: usize,
}

impl Outbox {
    /// Bytes accepted and not yet taken by the kernel.
    #[inline]
    pub(crate) fn queued(&self) -> usize {
        self.in_flight + self.waiting.as_ref().map_or(0, |waiting| waiting.len())
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_none() && self.in_flight == 0
    }

    /// True exactly while a batch is out.
    pub(crate) fn is_sending(&self) -> bool {
        self.in_flight > 0
    }

    /// Copies.
    pub(crate) fn push(&mut self, mut bytes: &[u8], pool: &mut ChunkPool) {
        if bytes.is_empty() {
            return;
        }
        let waiting = self.waiting.get_or_insert_with(|| pool.take_batch());
        loop {
            let taken = waiting.extend(bytes);
            bytes = &bytes[taken..];
            if bytes.is_empty() {
                break;
            }
            // Only one that follows a full chunk is large: see SMALL_CHUNK. A header between two payloads that go by
            // reference must not take 64 KiB either.
            let large = waiting.ends_in_chunk() || bytes.len() > SMALL_CHUNK;
            waiting.begin_chunk(if large { pool.take() } else { pool.take_small() });
        }
        self.debug_check();
    }

    /// Copies a header and the parts of its payload, which have `size` bytes together.
    #[inline(always)]
    pub(crate) fn push_frame<const N: usize>(
        &mut self,
        header: [u8; N],
        payload: &[&[u8]],
        size: usize,
        pool: &mut ChunkPool,
    ) {
        debug_assert_eq!(payload.iter().map(|part| part.len()).sum::<usize>(), size);
        // Most of the time there is room for all of it, and so one test.
        if !self.waiting.as_mut().is_some_and(|waiting| waiting.extend_by_frame(header, payload, size)) {
            self.push(&header, pool);
            payload.iter().for_each(|part| self.push(part, pool));
        }
    }

    /// By reference, from [`SHARED_MIN`] on.
    pub(crate) fn push_shared(&mut self, bytes: Bytes, pool: &mut ChunkPool) {
        if bytes.len() < SHARED_MIN {
            return self.push(&bytes, pool);
        }
        self.push_reference(bytes, pool);
    }

    /// For bytes that many outboxes get: by reference, unless they are small and something waits already, to which they
    /// are copied.
    pub(crate) fn push_common(&mut self, bytes: &Bytes, pool: &mut ChunkPool) {
        let is_copied = bytes.len() < COMMON_MIN && self.waiting.is_some();
        if bytes.is_empty() || is_copied {
            return self.push(bytes, pool);
        }
        self.push_reference(bytes.clone(), pool);
    }

    fn push_reference(&mut self, bytes: Bytes, pool: &mut ChunkPool) {
        self.waiting.get_or_insert_with(|| pool.take_batch()).push_shared(bytes);
        self.debug_check();
    }

    /// What is to be sent next; `None` while a batch is out, or when nothing waits.
    ///
    /// At most `max_bytes`, but a chunk is never split: the first may pass the limit.
    pub(crate) fn take_batch(
        &mut self,
        max_bytes: usize,
        max_segments: usize,
        pool: &mut ChunkPool,
    ) -> Option<Box<Batch>> {
        if self.is_sending() {
            return None;
        }
        let fits =
            |waiting: &mut Box<Batch>| waiting.len() <= max_bytes && waiting.segment_count() <= max_segments;
        let batch = match self.waiting.take_if(fits) {
            Some(whole) => whole,
            None => self.take_front(max_bytes, max_segments, pool)?,
        };
        self.in_flight = batch.len();
        self.debug_check();
        Some(batch)
    }

    fn take_front(
        &mut self,
        max_bytes: usize,
        max_segments: usize,
        pool: &mut ChunkPool,
    ) -> Option<Box<Batch>> {
        let waiting = self.waiting.as_mut()?;
        let mut batch = pool.take_batch();
        waiting.move_front(&mut batch, max_bytes, max_segments);
        if let Some(emptied) = self.waiting.take_if(|waiting| waiting.is_empty()) {
            pool.give_back_batch(emptied);
        }
        Some(batch)
    }

    /// The batch is back, sent or failed. True when the outbox fell from above `low` to `low` or below.
    pub(crate) fn handle_sent(&mut self, batch: Box<Batch>, low: usize, pool: &mut ChunkPool) -> bool {
        assert_eq!(self.in_flight, batch.len(), "the batch that went out comes back");
        let before = self.queued();
        self.in_flight = 0;
        pool.give_back_batch(batch);
        self.debug_check();
        before > low && self.queued() <= low
    }

    /// Drops what waits, and says how much it was; a batch that is out stays out.
    pub(crate) fn discard(&mut self, pool: &mut ChunkPool) -> usize {
        let Some(waiting) = self.waiting.take() else { return 0 };
        let dropped = waiting.len();
        pool.give_back_batch(waiting);
        dropped
    }

    /// Holds the parts of the state against each other.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        if let Some(waiting) = &self.waiting {
            waiting.check();
        }
        self.debug_check();
    }

    /// All but the sum over all segments, which would make a long queue quadratic even in tests.
    fn debug_check(&self) {
        debug_assert!(self.waiting.as_ref().is_none_or(|waiting| !waiting.is_empty()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::super::chunks::CHUNK;
    use super::*;
    use crate::driver::batch::MAX_SEGMENTS;

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Frame(usize),
        Shared(usize),
        Common(usize),
        Take {
            max_bytes: usize,
            max_segments: usize,
        },
        Sent,
        /// The batch fails after so many thousandths of it.
        Failed(usize),
        Discard,
    }

    fn step() -> impl Strategy<Value = Step> {
        let size = || prop_oneof![0..40_usize, 0..10_000_usize, 60_000..140_000_usize];
        prop_oneof![
            4 => size().prop_map(Step::Push),
            2 => size().prop_map(Step::Frame),
            3 => size().prop_map(Step::Shared),
            2 => size().prop_map(Step::Common),
            4 => (1..300_000_usize, 1..=MAX_SEGMENTS)
                .prop_map(|(max_bytes, max_segments)| Step::Take { max_bytes, max_segments }),
            4 => Just(Step::Sent),
            1 => (0..=1000_usize).prop_map(Step::Failed),
            1 => Just(Step::Discard),
        ]
    }

    /// The outbox beside its model: what waits, and what is out.
    #[derive(Default)]
    struct Pair {
        outbox: Outbox,
        pool: ChunkPool,
        waiting: VecDeque<u8>,
        out: Option<Box<Batch>>,
        next: u8,
    }

    impl Pair {
        fn bytes(&mut self, len: usize) -> Vec<u8> {
            let bytes: Vec<u8> = (0..len)
                .map(|_| {
                    self.next = self.next.wrapping_mul(31).wrapping_add(7);
                    self.next
                })
                .collect();
            self.waiting.extend(&bytes);
            bytes
        }

        fn step(&mut self, step: &Step) {
            match *step {
                Step::Push(len) => {
                    let bytes = self.bytes(len);
                    self.outbox.push(&bytes, &mut self.pool);
                }
                Step::Frame(len) => {
                    let header: [u8; 8] = self.bytes(8).try_into().unwrap();
                    let payload = self.bytes(len);
                    let (front, back) = payload.split_at(len / 3);
                    self.outbox.push_frame(header, &[front, back], len, &mut self.pool);
                }
                Step::Shared(len) => {
                    let bytes = self.bytes(len);
                    self.outbox.push_shared(bytes.into(), &mut self.pool);
                }
                Step::Common(len) => {
                    let bytes = self.bytes(len);
                    self.outbox.push_common(&bytes.into(), &mut self.pool);
                }
                Step::Take { max_bytes, max_segments } => self.take(max_bytes, max_segments),
                Step::Sent => self.sent(usize::MAX),
                Step::Failed(thousandths) => self.sent(thousandths),
                Step::Discard => {
                    assert_eq!(self.outbox.discard(&mut self.pool), self.waiting.len());
                    self.waiting.clear();
                }
            }
            let in_flight = self.out.as_ref().map_or(0, |batch| batch.len());
            assert_eq!(self.outbox.queued(), self.waiting.len() + in_flight);
            assert_eq!(self.outbox.is_sending(), self.out.is_some());
            self.outbox.check();
        }

        fn take(&mut self, max_bytes: usize, max_segments: usize) {
            let batch = self.outbox.take_batch(max_bytes, max_segments, &mut self.pool);
            assert_eq!(batch.is_some(), self.out.is_none() && !self.waiting.is_empty());
            let Some(batch) = batch else { return };
            assert!(batch.len() <= max_bytes.max(CHUNK) && batch.segment_count() <= max_segments);
            let expected: Vec<u8> = self.waiting.drain(..batch.len()).collect();
            assert!(batch.unsent().collect::<Vec<_>>().concat() == expected, "in order and complete");
            self.out = Some(batch);
        }

        fn sent(&mut self, thousandths: usize) {
            let Some(mut batch) = self.out.take() else { return };
            let before = self.outbox.queued();
            batch.advance(if thousandths > 1000 { batch.len() } else { batch.len() * thousandths / 1000 });
            let drained = self.outbox.handle_sent(batch, 10_000, &mut self.pool);
            assert_eq!(drained, before > 10_000 && self.outbox.queued() <= 10_000);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]
        #[test]
        fn whatever_is_sent_goes_out_once_and_in_order(steps in prop::collection::vec(step(), 0..60)) {
            let mut pair = Pair::default();
            for step in &steps {
                pair.step(step);
            }
            // At most 60 steps of some 280,000 bytes in batches of 64 segments: far fewer than 1000.
            for _ in 0..1000 {
                pair.step(&Step::Sent);
                pair.step(&Step::Take { max_bytes: 256 << 10, max_segments: MAX_SEGMENTS });
                if pair.outbox.is_empty() {
                    break;
                }
            }
            prop_assert!(pair.outbox.is_empty());
        }
    }

    #[test]
    fn many_small_sends_are_one_segment() {
        let (mut outbox, mut pool) = (Outbox::default(), ChunkPool::new());
        for _ in 0..100 {
            outbox.push(b"0123456789", &mut pool);
        }
        let batch = outbox.take_batch(1 << 20, MAX_SEGMENTS, &mut pool).unwrap();
        assert_eq!((batch.segment_count(), batch.len()), (1, 1000));
        assert!(outbox.take_batch(1 << 20, MAX_SEGMENTS, &mut pool).is_none(), "one send at a time");
    }

    #[test]
    fn in_steady_state_memory_goes_round() {
        let (mut outbox, mut pool) = (Outbox::default(), ChunkPool::new());
        let mut places = Vec::new();
        for _ in 0..4 {
            outbox.push(&[1; 100], &mut pool);
            let mut batch = outbox.take_batch(1 << 20, MAX_SEGMENTS, &mut pool).unwrap();
            places.push(batch.unsent().next().unwrap().as_ptr());
            batch.advance(100);
            outbox.handle_sent(batch, 0, &mut pool);
        }
        assert!(places.iter().all(|place| *place == places[0]), "the same chunk each time");
        assert_eq!(pool.bytes(), SMALL_CHUNK, "a lone message takes a small one");
    }

    #[test]
    fn a_long_shared_send_goes_in_parts_of_the_send_size() {
        let (mut outbox, mut pool) = (Outbox::default(), ChunkPool::new());
        outbox.push(b"head", &mut pool);
        outbox.push_shared(Bytes::from(vec![7; 100_000]), &mut pool);
        let mut sizes = Vec::new();
        while let Some(mut batch) = outbox.take_batch(40_000, MAX_SEGMENTS, &mut pool) {
            batch.advance(batch.len());
            sizes.push(batch.len());
            outbox.handle_sent(batch, 0, &mut pool);
        }
        assert_eq!(sizes, [40_000, 40_000, 20_004]);
    }
}
