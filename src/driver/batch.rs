//! What one send operation carries. A batch goes to the driver by value and comes back by value, so nobody can touch
//! its memory while the kernel reads it.

use bytes::Bytes;

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

/// Segments to be sent in order, and how much of them the kernel has taken.
///
/// Invariant: `written <= len`, and `len` is the sum of the segments' lengths.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    segments: Vec<Segment>,
    len: usize,
    written: usize,
}

impl Batch {
    pub(crate) fn push(&mut self, segment: Segment) {
        debug_assert_eq!(self.written, 0, "a batch grows only before it is sent");
        self.len += segment.as_slice().len();
        self.segments.push(segment);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn segment_count(&self) -> usize {
        self.segments.len()
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

    /// What is still to be sent, in order; no slice is empty.
    pub(crate) fn unsent(&self) -> impl Iterator<Item = &[u8]> {
        let mut skip = self.written;
        self.segments.iter().filter_map(move |segment| {
            let slice = segment.as_slice();
            let from = skip.min(slice.len());
            skip -= from;
            (from < slice.len()).then(|| &slice[from..])
        })
    }

    /// Takes the first segment that is not all written out of its place, for an operation that wants to own it: the
    /// place, how much of it is written, and the segment. It goes back by [`Batch::put_back`].
    #[cfg(feature = "tokio-uring")]
    pub(crate) fn take_unsent(&mut self) -> Option<(usize, usize, Segment)> {
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

    /// Takes the segments out and leaves the batch empty, for the next use of its memory.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Segment> {
        (self.len, self.written) = (0, 0);
        self.segments.drain(..)
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
            batch.push(Segment::Chunk(b"abc".to_vec()));
            batch.push(Segment::Shared(Bytes::from_static(b"defg")));
            batch.push(Segment::Chunk(b"h".to_vec()));
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
            assert_eq!(batch.drain().count(), 3);
            assert!(batch.is_empty());
        }
    }
}
