//! The ring through which provided buffers go to the kernel, as the kernel lays it out in memory.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// One entry for each buffer, so that all fit at once.
#[derive(Debug)]
pub(crate) struct BufferRing {
    entries: NonNull<BufRingEntry>,
    count: u16,
    base: *mut u8,
    size: u32,
    tail: u16,
}

impl BufferRing {
    /// # Safety
    ///
    /// As of [`Kernel::register_buffers`](super::kernel::Kernel::register_buffers), and the ring outlives neither the
    /// memory at `base` nor this value.
    pub(crate) unsafe fn register(
        submitter: &Submitter<'_>,
        group: u16,
        base: *mut u8,
        size: u32,
        count: u16,
    ) -> io::Result<Self> {
        let bytes = usize::from(count) * size_of::<BufRingEntry>();
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_ANONYMOUS | libc::MAP_PRIVATE);
        // SAFETY: an anonymous mapping at an address of the kernel's choice.
        let memory = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let entries = NonNull::new(memory.cast()).expect("a mapping is not at address zero");
        let ring = Self { entries, count, base, size, tail: 0 };
        // A forked child must not get a copy in the kernel's place.
        // SAFETY: the range is the mapping made above.
        if unsafe { libc::madvise(memory, bytes, libc::MADV_DONTFORK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping is zeroed, has an entry for each buffer and lives until the ring is gone.
        unsafe { submitter.register_buf_ring_with_flags(memory as u64, count, group, 0)? };
        Ok(ring)
    }

    /// Appends the buffer and publishes it.
    pub(crate) fn provide(&mut self, buffer: u16) {
        assert!(buffer < self.count);
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: `count` is a power of two, so the index is below it.
        let mut entry = unsafe { self.entries.add(index) };
        // SAFETY: the kernel reads entries up to the tail alone, and this one is past it.
        let entry = unsafe { entry.as_mut() };
        // Field by field: the last of the first entry is the tail.
        let offset = usize::from(buffer) * self.size as usize;
        entry.set_addr(self.base.wrapping_add(offset) as u64);
        entry.set_len(self.size);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `entries` is the address of the ring's first entry.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail is aligned, and both sides use it atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        let bytes = usize::from(self.count) * size_of::<BufRingEntry>();
        // SAFETY: the mapping of `register`; the kernel holds its own reference to the pages until the ring is gone.
        let unmapped = unsafe { libc::munmap(self.entries.as_ptr().cast(), bytes) };
        debug_assert_eq!(unmapped, 0);
    }
}
