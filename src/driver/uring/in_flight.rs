//! The owner of what the kernel reads while it sends: a batch lies here, unmoved, from its submission to the terminal
//! completion of its last send.

use std::fmt;

use super::kernel::{Fd, Sqe};
use crate::driver::Batch;

/// Most slices gathered into one operation; the kernel's own bound is 1024.
const MAX_GATHER: usize = 64;

/// One send: the batch and what describes it to the kernel. Boxed, so that the header stays where it is.
pub(crate) struct SendOp {
    batch: Batch,
    slices: Vec<libc::iovec>,
    header: libc::msghdr,
}

impl SendOp {
    fn new() -> Self {
        // SAFETY: all-zero is a valid msghdr: null pointers and zero lengths.
        let header = unsafe { std::mem::zeroed() };
        Self { batch: Batch::default(), slices: Vec::new(), header }
    }

    pub(crate) fn batch(&mut self) -> &mut Batch {
        &mut self.batch
    }

    /// The operation that sends what is unsent. It points into this box, which must outlive it.
    pub(crate) fn sqe(&mut self, fd: Fd) -> Sqe {
        let Self { batch, slices, header } = self;
        slices.clear();
        slices.extend(
            batch.unsent().take(MAX_GATHER).map(|slice| libc::iovec {
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
}

impl fmt::Debug for SendOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendOp").field("batch", &self.batch).finish_non_exhaustive()
    }
}

/// Send operations that are not in use, so that sending allocates nothing in steady state.
#[derive(Debug, Default)]
#[expect(
    clippy::vec_box,
    reason = "the box goes to the socket and comes back; the header in it must not move"
)]
pub(crate) struct SpareSends(Vec<Box<SendOp>>);

impl SpareSends {
    const MOST: usize = 1024;

    pub(crate) fn take(&mut self, batch: Batch) -> Box<SendOp> {
        let mut op = self.0.pop().unwrap_or_else(|| Box::new(SendOp::new()));
        op.batch = batch;
        op
    }

    /// Takes the batch out of an operation the kernel is done with.
    pub(crate) fn give_back(&mut self, mut op: Box<SendOp>) -> Batch {
        let batch = std::mem::take(&mut op.batch);
        op.slices.clear();
        if self.0.len() < Self::MOST {
            self.0.push(op);
        }
        batch
    }
}
