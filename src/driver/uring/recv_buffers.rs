//! The memory received bytes land in: one region of equal buffers, each either the kernel's or lent to the loop.
//!
//! Invariant: `kernel_count` buffers are the kernel's, and all others are lent.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;

use super::kernel::Kernel;

const PAGE: usize = 4096;

#[derive(Debug)]
pub(crate) struct RecvBuffers {
    base: NonNull<u8>,
    layout: Layout,
    size: usize,
    /// True exactly while the kernel may write to the buffer.
    kernel_has: Vec<bool>,
    kernel_count: usize,
}

impl RecvBuffers {
    /// Allocates the region, untouched and so without resident memory yet, and hands all of it to the kernel.
    pub(crate) fn register<K: Kernel>(kernel: &mut K, count: u16, size: u32) -> io::Result<Self> {
        let bytes = usize::from(count) * size as usize;
        let layout = Layout::from_size_align(bytes, PAGE).map_err(io::Error::other)?;
        // SAFETY: the layout's size is above zero: both settings are validated to be.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        let mut buffers = Self {
            base,
            layout,
            size: size as usize,
            kernel_has: vec![false; usize::from(count)],
            kernel_count: 0,
        };
        // SAFETY: the region is freed in `drop`, which the driver calls only when the ring is gone; a buffer is touched
        // only between `take` and `give_back`, when `kernel_has` says that the kernel does not have it.
        unsafe { kernel.register_buffers(base.as_ptr(), size, count)? };
        for buffer in 0..count {
            buffers.give_back(kernel, buffer);
        }
        Ok(buffers)
    }

    /// A completion named the buffer: it is the loop's until [`RecvBuffers::give_back`].
    pub(crate) fn take(&mut self, buffer: u16) {
        let kernel_has = &mut self.kernel_has[usize::from(buffer)];
        assert!(*kernel_has, "the kernel named buffer {buffer}, which it did not have");
        *kernel_has = false;
        self.kernel_count -= 1;
    }

    pub(crate) fn give_back<K: Kernel>(&mut self, kernel: &mut K, buffer: u16) {
        let kernel_has = &mut self.kernel_has[usize::from(buffer)];
        assert!(!*kernel_has, "buffer {buffer} is given back twice");
        *kernel_has = true;
        self.kernel_count += 1;
        kernel.provide(buffer);
    }

    /// The first `len` bytes of a taken buffer.
    pub(crate) fn bytes(&self, buffer: u16, len: usize) -> &[u8] {
        assert!(!self.kernel_has[usize::from(buffer)] && len <= self.size);
        // SAFETY: `buffer` is an index of `kernel_has`, so the offset lies in the region.
        let start = unsafe { self.base.add(usize::from(buffer) * self.size) };
        // SAFETY: `len` is at most the buffer's size, the region was zeroed, and the kernel does not write to a buffer
        // it does not have; the borrow of `self` keeps the buffer from being given back.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }

    pub(crate) fn kernel_count(&self) -> usize {
        self.kernel_count
    }

    pub(crate) fn lent_count(&self) -> usize {
        self.kernel_has.len() - self.kernel_count
    }

    /// The buffers that are the kernel's, by number.
    #[cfg(feature = "sim")]
    pub(crate) fn of_kernel(&self) -> Vec<u16> {
        (0..).zip(&self.kernel_has).filter(|(_, has)| **has).map(|(buffer, _)| buffer).collect()
    }

    /// True when at least half of the buffers are the kernel's: time to arm the channels that found none.
    pub(crate) fn is_half_full(&self) -> bool {
        self.kernel_count * 2 >= self.kernel_has.len()
    }
}

impl Drop for RecvBuffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `register` with this layout; the driver drops this only when the ring is gone.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}
