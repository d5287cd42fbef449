//! What one send operation carries. A batch goes to the driver and comes back, owned by one side at a time, so nobody can
//! touch its memory while the kernel reads it.

use std::collections::VecDeque;

use bytes::Bytes;

/// Most segments a channel puts into a batch, so that it can be one operation; the kernel's own bound is 1024.
pub(crate) const MAX_SEGMENTS: usize = 64;

/// A contiguous piece of a batch.
#[derive(Debug)]
pub(crate) enum Segment {
    /// Small sends, copied together into a pooled chunk.
    Chunk(Vec<u8>),
    /// A large send, by reference.
    Shared(Bytes),
}

impl Segment {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Chunk(chunk) => chunk,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// Segments to be sent in order, and how much of them the kernel has taken. Boxed wherever it goes: it goes far.
///
/// Invariant: no segment is empty; `written <= len`, and `len` is the sum of the lengths of the segments and the tail.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    segments: VecDeque<Segment>,
    /// The last segment, when that is a chunk: most batches are nothing else. Without memory, or else not empty.
    tail: Vec<u8>,
    len: usize,
    written: usize,
}

impl Batch {
    /// Copies what there is room for behind what was copied last, and says how much that was.
    pub(crate) fn extend(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        self.tail.extend_from_slice(&bytes[..taken]);
        self.len += taken;
        taken
    }

    /// The same for a header and the parts of its payload, of `size` bytes together: all of it or nothing.
    #[inline(always)]
    pub(crate) fn extend_by_frame<const N: usize>(
        &mut self,
        header: [u8; N],
        payload: &[&[u8]],
        size: usize,
    ) -> bool {
        let fits = self.room() >= N + size;
        if fits {
            self.tail.extend_from_slice(&header);
            payload.iter().for_each(|part| self.tail.extend_from_slice(part));
            self.len += N + size;
        }
        fits
    }

    #[inline]
    fn room(&self) -> usize {
        debug_assert_eq!(self.written, 0, "a batch grows only before it is sent");
        self.tail.capacity() - self.tail.len()
    }

    /// What is copied from here on goes to this chunk; something is to follow.
    pub(crate) fn begin_chunk(&mut self, chunk: Vec<u8>) {
        debug_assert!(chunk.is_empty() && chunk.capacity() > 0);
        self.end_chunk();
        self.tail = chunk;
    }

    pub(crate) fn push_shared(&mut self, bytes: Bytes) {
        debug_assert!(!bytes.is_empty() && self.written == 0, "a batch grows only before it is sent");
        self.end_chunk();
        self.len += bytes.len();
        self.segments.push_back(Segment::Shared(bytes));
    }

    fn end_chunk(&mut self) {
        if self.ends_in_chunk() {
            self.segments.push_back(Segment::Chunk(std::mem::take(&mut self.tail)));
        }
    }

    pub(crate) fn ends_in_chunk(&self) -> bool {
        !self.tail.is_empty()
    }

    /// Moves segments from the front to an empty batch, at most as many and as many bytes as that. A chunk is never split:
    /// the first may pass the limit.
    pub(crate) fn move_front(&mut self, to: &mut Self, max_bytes: usize, max_segments: usize) {
        debug_assert!(to.is_empty() && max_bytes > 0 && max_segments > 0);
        while to.segment_count() < max_segments {
            let room = max_bytes.saturating_sub(to.len);
            let part = match self.segments.front_mut() {
                Some(Segment::Shared(bytes)) if room > 0 && bytes.len() > room => {
                    Segment::Shared(bytes.split_to(room))
                }
                Some(next) if next.as_slice().len() <= room || to.is_empty() => {
                    self.segments.pop_front().expect("it was looked at")
                }
                None if self.tail.len() <= room || to.is_empty() => {
                    to.tail = std::mem::take(&mut self.tail);
                    to.len += to.tail.len();
                    break;
                }
                Some(_) | None => break,
            };
            to.len += part.as_slice().len();
            to.segments.push_back(part);
        }
        self.len -= to.len;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn segment_count(&self) -> usize {
        self.segments.len() + usize::from(self.ends_in_chunk())
    }

    /// How many segments it takes without more memory.
    pub(crate) fn capacity(&self) -> usize {
        self.segments.capacity()
    }

    /// Bytes in all.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes the kernel has taken.
    pub(crate) fn written(&self) -> usize {
        self.written
    }

    pub(crate) fn is_written(&self) -> bool {
        self.written == self.len
    }

    /// The kernel took `bytes` more.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.written += bytes;
        assert!(self.written <= self.len, "the kernel took more than there was");
    }

    fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.segments.iter().map(Segment::as_slice).chain(std::iter::once(&*self.tail))
    }

    /// What is still to be sent, in order; no slice is empty.
    pub(crate) fn unsent(&self) -> impl Iterator<Item = &[u8]> {
        let mut skip = self.written;
        self.slices().filter_map(move |slice| {
            let from = skip.min(slice.len());
            skip -= from;
            (from < slice.len()).then(|| &slice[from..])
        })
    }

    /// What is still to be sent, when that is of the one chunk the batch is.
    pub(crate) fn unsent_of_lone_chunk(&self) -> Option<&[u8]> {
        if self.segments.is_empty() { self.tail.get(self.written..) } else { None }
    }

    /// Takes the first segment that is not all written out of its place, for an operation that wants to own it: the
    /// place, how much of it is written, and the segment. It goes back by [`Batch::put_back`].
    #[cfg(feature = "tokio-uring")]
    pub(crate) fn take_unsent(&mut self) -> Option<(usize, usize, Segment)> {
        self.end_chunk();
        let mut from = self.written;
        for (place, segment) in self.segments.iter_mut().enumerate() {
            let len = segment.as_slice().len();
            if from < len {
                return Some((place, from, std::mem::replace(segment, Segment::Chunk(Vec::new()))));
            }
            from -= len;
        }
        None
    }

    #[cfg(feature = "tokio-uring")]
    pub(crate) fn put_back(&mut self, place: usize, segment: Segment) {
        debug_assert!(self.segments[place].as_slice().is_empty(), "it was taken out of this place");
        self.segments[place] = segment;
    }

    /// Takes a chunk out of a batch that is done with, until there is none.
    pub(crate) fn pop_chunk(&mut self) -> Option<Vec<u8>> {
        (self.len, self.written) = (0, 0);
        if self.ends_in_chunk() {
            return Some(std::mem::take(&mut self.tail));
        }
        std::iter::from_fn(|| self.segments.pop_front()).find_map(|segment| match segment {
            Segment::Chunk(chunk) => Some(chunk),
            Segment::Shared(_) => None,
        })
    }

    /// Holds the parts of the state against each other.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        assert!(self.segments.iter().all(|segment| !segment.as_slice().is_empty()), "no segment is empty");
        assert!(self.tail.capacity() == 0 || !self.tail.is_empty());
        assert_eq!(self.slices().map(<[u8]>::len).sum::<usize>(), self.len);
        assert!(self.written <= self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_any_partial_write_the_rest_is_unsent_in_order() {
        let whole = b"abcdefgh";
        for written in 0..=whole.len() {
            let mut batch = Batch::default();
            batch.begin_chunk(Vec::with_capacity(3));
            assert_eq!(batch.extend(b"abc"), 3);
            batch.push_shared(Bytes::from_static(b"defg"));
            batch.begin_chunk(Vec::with_capacity(1));
            assert_eq!(batch.extend(b"hi"), 1);
            batch.check();
            batch.advance(written);
            assert_eq!(batch.unsent().collect::<Vec<_>>().concat(), whole[written..]);
            assert!(batch.unsent().all(|slice| !slice.is_empty()));
            assert_eq!(batch.is_written(), written == batch.len());
            #[cfg(feature = "tokio-uring")]
            if let Some((place, from, segment)) = batch.take_unsent() {
                assert_eq!(segment.as_slice()[from], whole[written]);
                batch.put_back(place, segment);
                assert_eq!(batch.unsent().collect::<Vec<_>>().concat(), whole[written..]);
            }
            assert_eq!(std::iter::from_fn(|| batch.pop_chunk()).count(), 2);
            assert!(batch.is_empty());
        }
    }
}
