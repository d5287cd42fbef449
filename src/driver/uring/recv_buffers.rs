//! The memory received bytes land in: one region of equal buffers, each either the kernel's or lent to the loop.
//!
//! Invariant: `kernel_count` buffers are the kernel's, and all others are lent.
//!
//! Under AddressSanitizer (`--cfg asan`, `ci/asan.sh`) the kernel's are poisoned: whoever touches one of them is told.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;

use super::kernel::Kernel;

const PAGE: usize = 4096;

#[derive(Debug)]
pub(crate) struct RecvBuffers {
    memory: NonNull<u8>,
    layout: Layout,
    /// The first whole page of the memory.
    base: NonNull<u8>,
    size: usize,
    /// True exactly while the kernel may write to the buffer.
    kernel_has: Vec<bool>,
    kernel_count: usize,
}

impl RecvBuffers {
    /// Allocates the region, untouched and so without resident memory yet, and hands all of it to the kernel.
    pub(crate) fn register<K: Kernel>(kernel: &mut K, count: u16, size: u32) -> io::Result<Self> {
        let bytes = usize::from(count) * size as usize;
        // Aligned by hand: what is to be aligned to more than 16 bytes std zeroes itself, and so touches all of it.
        let layout = Layout::array::<u8>(bytes + PAGE).map_err(io::Error::other)?;
        // SAFETY: the layout's size is above zero.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
        let padding = memory.align_offset(PAGE);
        assert!(padding <= PAGE);
        // SAFETY: there is a page more than the buffers take.
        let base = unsafe { memory.add(padding) };
        let mut buffers = Self {
            memory,
            layout,
            base,
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
        poison::unpoison(self.place(buffer), self.size);
    }

    pub(crate) fn give_back<K: Kernel>(&mut self, kernel: &mut K, buffer: u16) {
        let kernel_has = &mut self.kernel_has[usize::from(buffer)];
        assert!(!*kernel_has, "buffer {buffer} is given back twice");
        *kernel_has = true;
        self.kernel_count += 1;
        poison::poison(self.place(buffer), self.size);
        kernel.provide(buffer);
    }

    /// The first `len` bytes of a taken buffer.
    pub(crate) fn bytes(&self, buffer: u16, len: usize) -> &[u8] {
        assert!(!self.kernel_has[usize::from(buffer)] && len <= self.size);
        let start = self.place(buffer);
        // SAFETY: `len` is at most the buffer's size, the region was zeroed, and the kernel does not write to a buffer
        // it does not have; the borrow of `self` keeps the buffer from being given back.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }

    fn place(&self, buffer: u16) -> NonNull<u8> {
        assert!(usize::from(buffer) < self.kernel_has.len());
        // SAFETY: `buffer` is an index of `kernel_has`, so the offset lies in the region.
        unsafe { self.base.add(usize::from(buffer) * self.size) }
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
        poison::unpoison(self.memory, self.layout.size());
        // SAFETY: allocated in `register` with this layout; the driver drops this only when the ring is gone.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) }
    }
}

#[cfg(not(asan))]
pub(super) mod poison {
    use std::ptr::NonNull;

    pub(in super::super) fn poison(_: NonNull<u8>, _: usize) {}

    pub(in super::super) fn unpoison(_: NonNull<u8>, _: usize) {}
}

/// What AddressSanitizer is told: it sees no write of the kernel, but every touch of ours.
#[cfg(asan)]
pub(super) mod poison {
    use std::ffi::c_void;
    use std::ptr::NonNull;

    unsafe extern "C" {
        // In the sanitizer's runtime. Both only mark addresses; they touch no memory.
        safe fn __asan_poison_memory_region(start: *const c_void, len: usize);
        safe fn __asan_unpoison_memory_region(start: *const c_void, len: usize);
        #[cfg(test)]
        safe fn __asan_address_is_poisoned(address: *const c_void) -> i32;
    }

    pub(in super::super) fn poison(start: NonNull<u8>, len: usize) {
        __asan_poison_memory_region(start.as_ptr().cast(), len);
    }

    pub(in super::super) fn unpoison(start: NonNull<u8>, len: usize) {
        __asan_unpoison_memory_region(start.as_ptr().cast(), len);
    }

    #[cfg(test)]
    pub(super) fn is_poisoned(start: NonNull<u8>) -> bool {
        __asan_address_is_poisoned(start.as_ptr().cast()) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::super::setup::host_kernel;
    use super::*;
    use crate::config::RingOptions;

    fn resident() -> usize {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * PAGE
    }

    #[test]
    fn buffers_that_nothing_was_received_in_take_no_memory() {
        const COUNT: u16 = 4096;
        const SIZE: u32 = 64 << 10;
        let mut kernel = host_kernel(&RingOptions::default()).unwrap();
        let before = resident();
        let buffers = RecvBuffers::register(&mut kernel, COUNT, SIZE).unwrap();
        // Other tests take some meanwhile.
        let taken = resident().saturating_sub(before);
        assert!(taken < usize::from(COUNT) * SIZE as usize / 2, "{taken} bytes");
        assert_eq!(buffers.place(0).align_offset(PAGE), 0);
        drop(kernel);
    }

    #[cfg(asan)]
    #[test]
    fn a_buffer_is_poisoned_exactly_while_the_kernel_has_it() {
        let mut kernel = host_kernel(&RingOptions::default()).unwrap();
        let mut buffers = RecvBuffers::register(&mut kernel, 4, 1024).unwrap();
        let poisoned =
            |buffers: &RecvBuffers| [0, 1, 2, 3].map(|buffer| poison::is_poisoned(buffers.place(buffer)));
        assert_eq!(poisoned(&buffers), [true; 4]);
        buffers.take(2);
        assert_eq!(poisoned(&buffers), [true, true, false, true]);
        assert_eq!(buffers.bytes(2, 1024), [0; 1024]);
        buffers.give_back(&mut kernel, 2);
        assert_eq!(poisoned(&buffers), [true; 4]);
        drop(kernel);
    }
}
