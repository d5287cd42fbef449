//! The owner of what the kernel reads while it sends: a batch lies here, unmoved, from its submission to the terminal
//! completion of its last send.

use std::fmt;

use super::kernel::{Fd, Sqe};
use crate::driver::Batch;
use crate::driver::batch::MAX_SEGMENTS;

/// One send: the batch, and what describes it to the kernel when it is in several places.
#[derive(Debug)]
pub(crate) struct SendOp {
    batch: Box<Batch>,
    gather: Option<Box<Gather>>,
}

/// Boxed, so that the header stays where it is.
struct Gather {
    slices: Vec<libc::iovec>,
    header: libc::msghdr,
}

impl SendOp {
    pub(crate) fn new(batch: Box<Batch>) -> Self {
        Self { batch, gather: None }
    }

    pub(crate) fn batch(&mut self) -> &mut Batch {
        &mut self.batch
    }

    /// The operation that sends what is unsent. It points to what this owns, which must outlive it.
    #[inline]
    pub(crate) fn sqe(&mut self, fd: Fd, spare: &mut SpareGathers) -> Sqe {
        // Most batches are one chunk.
        if let Some(slice) = self.batch.unsent_of_lone_chunk() {
            return Sqe::Send { fd, data: slice.as_ptr(), len: slice.len() };
        }
        let gather = self.gather.get_or_insert_with(|| spare.take());
        let Gather { slices, header } = &mut **gather;
        slices.clear();
        slices.extend(
            self.batch.unsent().take(MAX_SEGMENTS).map(|slice| libc::iovec {
                iov_base: slice.as_ptr().cast_mut().cast(),
                iov_len: slice.len(),
            }),
        );
        match slices.as_mut_slice() {
            [one] => Sqe::Send { fd, data: one.iov_base.cast_const().cast(), len: one.iov_len },
            many => {
                header.msg_iov = many.as_mut_ptr();
                header.msg_iovlen = many.len();
                Sqe::SendGather { fd, header }
            }
        }
    }

    /// The batch, when the kernel is done with it.
    pub(crate) fn into_batch(self, spare: &mut SpareGathers) -> Box<Batch> {
        if let Some(gather) = self.gather {
            spare.give_back(gather);
        }
        self.batch
    }
}

impl fmt::Debug for Gather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gather").field("slices", &self.slices.len()).finish_non_exhaustive()
    }
}

/// Gathers that are not in use, so that sending allocates nothing in steady state.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "the box goes to the send and comes back; the header in it must not move")]
pub(crate) struct SpareGathers(Vec<Box<Gather>>);

impl SpareGathers {
    const MOST: usize = 1024;

    fn take(&mut self) -> Box<Gather> {
        self.0.pop().unwrap_or_else(|| {
            // SAFETY: all-zero is a valid msghdr: null pointers and zero lengths.
            let header = unsafe { std::mem::zeroed() };
            Box::new(Gather { slices: Vec::new(), header })
        })
    }

    fn give_back(&mut self, gather: Box<Gather>) {
        if self.0.len() < Self::MOST {
            self.0.push(gather);
        }
    }
}
