//! The memory received bytes land in: one region of equal buffers, each the kernel's, spare, or lent to the loop.
//!
//! The kernel fills its buffers in the order in which it got them, so it is given no more than are needed: few, gone
//! through again and again, stay in the processor's cache. When many channels find none it is given more.
//!
//! Invariant: `kernel_count` buffers are the kernel's, those in `spare` nobody's, and all others are lent.
//!
//! Under AddressSanitizer (`--cfg asan`, `ci/asan.sh`) the kernel's are poisoned: whoever touches one of them is told.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::ptr::NonNull;

use super::kernel::Kernel;

const PAGE: usize = 4096;

/// The kernel is given at least this part of all buffers, and `LEAST` of them.
const LEAST_PART: usize = 16;
const LEAST: usize = 4;

/// The kernel has enough buffers when there are so many for each channel that found none.
const FOR_EACH_STARVED: usize = 4;

/// Turns after which it is looked at whether the kernel needs as many.
const PERIOD: u32 = 4096;

/// Whose a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The kernel may write to it at any time.
    Kernel,
    /// It waits in `spare`.
    Nobody,
    /// It is lent to the loop.
    Loop,
}

#[derive(Debug)]
pub(crate) struct RecvBuffers {
    memory: NonNull<u8>,
    layout: Layout,
    /// The first whole page of the memory.
    base: NonNull<u8>,
    size: usize,
    /// By the buffers' numbers.
    owners: Vec<Owner>,
    kernel_count: usize,
    /// Those used last come last, and go first.
    spare: Vec<u16>,
    /// How many the kernel is to have when none is lent.
    wanted: usize,
    /// Most channels that found none, and the turns, since `wanted` was looked at.
    most_starved: usize,
    turns: u32,
}

impl RecvBuffers {
    /// Allocates the region, untouched and so without resident memory yet, and tells the kernel of it.
    pub(crate) fn register<K: Kernel>(kernel: &mut K, count: u16, size: u32) -> io::Result<Self> {
        let bytes = usize::from(count) * size as usize;
        // Aligned by hand: what is to be aligned to more than 16 bytes std zeroes itself, and so touches all of it.
        let layout = Layout::array::<u8>(bytes + PAGE).map_err(io::Error::other)?;
        // SAFETY: the layout's size is above zero.
        let memory = unsafe { alloc_zeroed(layout) };
        let memory = NonNull::new(memory).ok_or(io::ErrorKind::OutOfMemory)?;
        let padding = memory.align_offset(PAGE);
        assert!(padding <= PAGE);
        // SAFETY: there is a page more than the buffers take.
        let base = unsafe { memory.add(padding) };
        let mut buffers = Self {
            memory,
            layout,
            base,
            size: size as usize,
            owners: vec![Owner::Nobody; usize::from(count)],
            kernel_count: 0,
            spare: (0..count).rev().collect(),
            wanted: 0,
            most_starved: 0,
            turns: 0,
        };
        poison::poison(base, bytes);
        // SAFETY: the region is freed in `drop`, which the driver calls only when the ring is gone; a buffer is touched
        // only between `take` and `give_back`, when its owner is the loop.
        unsafe { kernel.register_buffers(base.as_ptr(), size, count)? };
        buffers.wanted = buffers.least();
        buffers.provide_spare(kernel);
        Ok(buffers)
    }

    fn least(&self) -> usize {
        let count = self.owners.len();
        (count / LEAST_PART).max(LEAST).min(count)
    }

    /// Once in a turn: more buffers for the kernel when many channels found none, fewer when that is long ago.
    pub(crate) fn adapt<K: Kernel>(&mut self, kernel: &mut K, starved: usize) {
        self.turns += 1;
        self.most_starved = self.most_starved.max(starved);
        if starved * FOR_EACH_STARVED > self.wanted {
            self.wanted = (starved * FOR_EACH_STARVED).min(self.owners.len());
            self.provide_spare(kernel);
        }
        if self.turns >= PERIOD {
            if self.most_starved * FOR_EACH_STARVED <= self.wanted / 4 {
                self.wanted = (self.wanted / 2).max(self.least());
            }
            (self.turns, self.most_starved) = (0, 0);
        }
    }

    fn provide_spare<K: Kernel>(&mut self, kernel: &mut K) {
        while self.kernel_count < self.wanted
            && let Some(buffer) = self.spare.pop()
        {
            self.provide(kernel, buffer);
        }
    }

    fn provide<K: Kernel>(&mut self, kernel: &mut K, buffer: u16) {
        self.owners[usize::from(buffer)] = Owner::Kernel;
        self.kernel_count += 1;
        kernel.provide(buffer);
    }

    /// A completion named the buffer: it is the loop's until [`RecvBuffers::give_back`].
    pub(crate) fn take(&mut self, buffer: u16) {
        let owner = &mut self.owners[usize::from(buffer)];
        assert_eq!(*owner, Owner::Kernel, "the kernel named buffer {buffer}, which it did not have");
        *owner = Owner::Loop;
        self.kernel_count -= 1;
        poison::unpoison(self.place(buffer), self.size);
    }

    pub(crate) fn give_back<K: Kernel>(&mut self, kernel: &mut K, buffer: u16) {
        let owner = &mut self.owners[usize::from(buffer)];
        assert_eq!(*owner, Owner::Loop, "buffer {buffer} is given back twice");
        *owner = Owner::Nobody;
        poison::poison(self.place(buffer), self.size);
        if self.kernel_count < self.wanted {
            self.provide(kernel, buffer);
        } else {
            self.spare.push(buffer);
        }
    }

    /// The first `len` bytes of a taken buffer.
    pub(crate) fn bytes(&self, buffer: u16, len: usize) -> &[u8] {
        assert!(self.owners[usize::from(buffer)] == Owner::Loop && len <= self.size);
        let start = self.place(buffer);
        // SAFETY: `len` is at most the buffer's size, the region was zeroed, and the kernel does not write to a buffer
        // it does not have; the borrow of `self` keeps the buffer from being given back.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }

    fn place(&self, buffer: u16) -> NonNull<u8> {
        assert!(usize::from(buffer) < self.owners.len());
        // SAFETY: `buffer` is an index of `owners`, so the offset lies in the region.
        unsafe { self.base.add(usize::from(buffer) * self.size) }
    }

    pub(crate) fn kernel_count(&self) -> usize {
        self.kernel_count
    }

    /// Those that are not lent.
    pub(crate) fn free_count(&self) -> usize {
        self.kernel_count + self.spare.len()
    }

    pub(crate) fn lent_count(&self) -> usize {
        self.owners.len() - self.free_count()
    }

    /// The buffers that are the kernel's, by number.
    #[cfg(feature = "sim")]
    pub(crate) fn of_kernel(&self) -> Vec<u16> {
        (0..)
            .zip(&self.owners)
            .filter(|(_, owner)| **owner == Owner::Kernel)
            .map(|(buffer, _)| buffer)
            .collect()
    }

    /// True when the kernel has at least half of the buffers it is to have: time to arm the channels that found none.
    pub(crate) fn is_half_full(&self) -> bool {
        self.kernel_count * 2 >= self.wanted
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

    #[test]
    fn the_kernel_has_as_many_buffers_as_channels_need() {
        let mut kernel = host_kernel(&RingOptions::default()).unwrap();
        let mut buffers = RecvBuffers::register(&mut kernel, 256, 1024).unwrap();
        assert_eq!((buffers.kernel_count(), buffers.free_count()), (16, 256));
        buffers.adapt(&mut kernel, 4);
        assert_eq!(buffers.kernel_count(), 16, "four for each");
        buffers.adapt(&mut kernel, 10);
        assert_eq!(buffers.kernel_count(), 40);
        buffers.adapt(&mut kernel, 1000);
        assert_eq!(buffers.kernel_count(), 256);
        for wanted in [256, 128, 64, 32, 16, 16] {
            (0..PERIOD).for_each(|_| buffers.adapt(&mut kernel, 0));
            for buffer in 0..256 {
                if buffers.owners[usize::from(buffer)] == Owner::Kernel {
                    buffers.take(buffer);
                    buffers.give_back(&mut kernel, buffer);
                }
            }
            assert_eq!((buffers.kernel_count(), buffers.free_count()), (wanted, 256));
        }
        drop(kernel);
    }

    #[test]
    #[should_panic(expected = "buffer 0 is given back twice")]
    fn a_spare_buffer_is_not_given_back_again() {
        let mut kernel = host_kernel(&RingOptions::default()).unwrap();
        let mut buffers = RecvBuffers::register(&mut kernel, 256, 1024).unwrap();
        buffers.take(0);
        buffers.wanted = buffers.kernel_count();
        buffers.give_back(&mut kernel, 0);
        assert_eq!(buffers.owners[0], Owner::Nobody);
        buffers.give_back(&mut kernel, 0);
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
