//! The memory of sends: buffers of two sizes for small ones, and the batches that list them, kept by the loop for all
//! its channels. An idle channel holds none.

use crate::driver::Batch;

/// Bytes of a chunk. Large enough that four of them make a full send operation of 256 KiB, small enough that what a
/// burst leaves behind in the pool is little.
pub(crate) const CHUNK: usize = 64 << 10;

/// Bytes of the first chunk of a queue: a channel that sends one small message now and then must not take 64 KiB for
/// it while ten thousand others do the same.
pub(crate) const SMALL_CHUNK: usize = 4 << 10;

/// Chunks kept of each size; 4 MiB each. Above that the allocator does as well.
const KEPT: usize = (4 << 20) / CHUNK;
const KEPT_SMALL: usize = (4 << 20) / SMALL_CHUNK;

/// Segments that a batch which is kept has room for, at most.
const KEPT_SEGMENTS: usize = 128;
/// Batches kept: as many as channels may well be sending at once.
const KEPT_BATCHES: usize = 1024;

/// Empty chunks and batches, ready for use.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "the boxes go out and come back")]
pub(crate) struct ChunkPool {
    large: Vec<Vec<u8>>,
    small: Vec<Vec<u8>>,
    batches: Vec<Box<Batch>>,
}

impl ChunkPool {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.large.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK))
    }

    pub(crate) fn take_small(&mut self) -> Vec<u8> {
        self.small.pop().unwrap_or_else(|| Vec::with_capacity(SMALL_CHUNK))
    }

    pub(crate) fn give_back(&mut self, mut chunk: Vec<u8>) {
        chunk.clear();
        if chunk.capacity() >= CHUNK && self.large.len() < KEPT {
            self.large.push(chunk);
        } else if (SMALL_CHUNK..CHUNK).contains(&chunk.capacity()) && self.small.len() < KEPT_SMALL {
            self.small.push(chunk);
        }
    }

    pub(crate) fn take_batch(&mut self) -> Box<Batch> {
        self.batches.pop().unwrap_or_default()
    }

    /// Takes the batch apart: its chunks and its own memory are for the next.
    pub(crate) fn give_back_batch(&mut self, mut batch: Box<Batch>) {
        while let Some(chunk) = batch.pop_chunk() {
            self.give_back(chunk);
        }
        if self.batches.len() < KEPT_BATCHES && batch.capacity() <= KEPT_SEGMENTS {
            self.batches.push(batch);
        }
    }

    /// Bytes kept in chunks.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.large.len() * CHUNK + self.small.len() * SMALL_CHUNK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_used_again_and_the_pool_is_bounded() {
        let mut pool = ChunkPool::new();
        let mut chunk = pool.take();
        chunk.push(1);
        let place = chunk.as_ptr();
        pool.give_back(chunk);
        let again = pool.take();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        for _ in 0..2 * KEPT_SMALL {
            pool.give_back(Vec::with_capacity(CHUNK));
            pool.give_back(Vec::with_capacity(SMALL_CHUNK));
            pool.give_back(Vec::new());
        }
        assert_eq!(pool.bytes(), 8 << 20);
    }
}
