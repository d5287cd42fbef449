//! A simulated ring: its queues, the table of operations, the provided buffers. It writes and reads through the
//! pointers it was given, when the kernel would and not before, so that a sanitizer, and the patterns it leaves, see
//! what a real kernel would do to memory that was freed too soon.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ptr::NonNull;

use super::network::{HostId, Network, SocketId};
use crate::driver::uring::kernel::{Cqe, Fd, Sqe};
use crate::driver::uring::recv_buffers::poison;

/// What a provided buffer is filled with: who reads one that he gave back reads this.
pub(super) const GARBAGE: u8 = 0xDD;

/// Bytes of an operation's own memory, with what they were when it was submitted.
#[derive(Debug)]
pub(super) struct Slice {
    at: *const u8,
    bytes: Vec<u8>,
}

impl Slice {
    /// # Safety
    ///
    /// As of [`Kernel::push`](crate::driver::uring::kernel::Kernel::push).
    unsafe fn new(at: *const u8, len: usize) -> Self {
        // SAFETY: the caller's promise.
        let bytes = unsafe { std::slice::from_raw_parts(at, len) };
        Self { at, bytes: bytes.to_vec() }
    }

    /// What lies there now.
    fn read(&self) -> Vec<u8> {
        // SAFETY: whoever pushed the operation keeps its data until the terminal completion, which is not told yet.
        let now = unsafe { std::slice::from_raw_parts(self.at, self.bytes.len()) };
        now.to_vec()
    }
}

#[derive(Debug)]
pub(super) enum Kind {
    Accept { at: SocketAddr },
    Connect { socket: SocketId },
    Receive { socket: SocketId },
    Send { socket: SocketId, data: Vec<Slice>, len: usize, done: usize },
    Wake,
}

#[derive(Debug)]
pub(super) struct Op {
    pub(super) kind: Kind,
    pub(super) fd: Option<Fd>,
    /// It was cancelled, and the end of that comes later.
    pub(super) dying: bool,
}

#[derive(Debug)]
struct Buffers {
    base: *mut u8,
    size: usize,
    /// In the order in which they were provided.
    free: VecDeque<u16>,
}

#[derive(Debug)]
pub(super) struct Ring {
    pub(super) host: HostId,
    pub(super) submitted: VecDeque<(u64, Sqe)>,
    pub(super) submission_entries: usize,
    pub(super) ops: BTreeMap<u64, Op>,
    completions: VecDeque<Cqe>,
    completion_entries: usize,
    overflow: VecDeque<Cqe>,
    buffers: Option<Buffers>,
}

impl Ring {
    pub(super) fn new(host: HostId, submission_entries: usize, completion_entries: usize) -> Self {
        Self {
            host,
            submitted: VecDeque::new(),
            submission_entries,
            ops: BTreeMap::new(),
            completions: VecDeque::new(),
            completion_entries,
            overflow: VecDeque::new(),
            buffers: None,
        }
    }

    // Operations.

    /// Takes the operation apart; the network is asked nothing yet.
    ///
    /// # Safety
    ///
    /// As of [`Kernel::push`](crate::driver::uring::kernel::Kernel::push).
    pub(super) unsafe fn kind_of(network: &Network, host: HostId, sqe: Sqe) -> Option<Kind> {
        let socket = |fd| network.socket_of(host, fd);
        Some(match sqe {
            Sqe::Accept { fd } => match network.file(host, fd)? {
                super::network::File::Listener(at) => Kind::Accept { at },
                super::network::File::Socket(_) => return None,
            },
            Sqe::Connect { fd, .. } => Kind::Connect { socket: socket(fd)? },
            Sqe::Receive { fd } => Kind::Receive { socket: socket(fd)? },
            Sqe::Send { fd, data, len } => {
                // SAFETY: the caller's promise.
                let data = vec![unsafe { Slice::new(data, len) }];
                Kind::Send { socket: socket(fd)?, data, len, done: 0 }
            }
            Sqe::SendGather { fd, header } => {
                // SAFETY: the header stays until `enter` has taken the operation, which it is about to.
                let header = unsafe { &*header };
                // SAFETY: it describes as many slices as it says.
                let slices = unsafe { std::slice::from_raw_parts(header.msg_iov, header.msg_iovlen) };
                // SAFETY: and each of them is data of the operation.
                let slice =
                    |s: &libc::iovec| unsafe { Slice::new(s.iov_base.cast_const().cast(), s.iov_len) };
                let data: Vec<_> = slices.iter().map(slice).collect();
                let len = data.iter().map(|slice| slice.bytes.len()).sum();
                Kind::Send { socket: socket(fd)?, data, len, done: 0 }
            }
            Sqe::Wake => Kind::Wake,
            Sqe::Close { .. } | Sqe::Cancel { .. } => unreachable!("done at once"),
        })
    }

    pub(super) fn is_used(&self, fd: Fd) -> bool {
        self.ops.values().any(|op| op.fd == Some(fd))
    }

    /// Operations whose terminal completion is not taken yet.
    pub(super) fn outstanding(&self) -> usize {
        let told = self.completions.iter().chain(&self.overflow).filter(|cqe| !cqe.more).count();
        self.submitted.len() + self.ops.len() + told
    }

    // Completions.

    /// False when a completion that goes on has no room: then it must be the last.
    pub(super) fn has_room(&self) -> bool {
        self.overflow.is_empty() && self.completions.len() < self.completion_entries
    }

    pub(super) fn complete(&mut self, cqe: Cqe) {
        let queue = if self.has_room() { &mut self.completions } else { &mut self.overflow };
        queue.push_back(cqe);
    }

    pub(super) fn overflows(&self) -> bool {
        !self.overflow.is_empty()
    }

    pub(super) fn flush_overflow(&mut self) {
        while self.completions.len() < self.completion_entries
            && let Some(cqe) = self.overflow.pop_front()
        {
            self.completions.push_back(cqe);
        }
    }

    pub(super) fn next_cqe(&mut self) -> Option<Cqe> {
        self.completions.pop_front()
    }

    pub(super) fn has_completions(&self) -> bool {
        !self.completions.is_empty() || !self.overflow.is_empty()
    }

    // Buffers.

    pub(super) fn register(&mut self, base: *mut u8, size: usize) {
        self.buffers = Some(Buffers { base, size, free: VecDeque::new() });
    }

    pub(super) fn provide(&mut self, buffer: u16) {
        self.fill(buffer, |bytes| bytes.fill(GARBAGE));
        self.buffers.as_mut().expect("buffers are registered first").free.push_back(buffer);
    }

    /// Gives the memory of a buffer that the kernel has.
    fn fill<R>(&mut self, buffer: u16, write: impl FnOnce(&mut [u8]) -> R) -> R {
        let Buffers { base, size, .. } = *self.buffers.as_ref().expect("buffers are registered first");
        // SAFETY: the buffers lie one after the other from `base`.
        let start = unsafe { base.add(usize::from(buffer) * size) };
        let place = NonNull::new(start).expect("the region is somewhere");
        poison::unpoison(place, size);
        // SAFETY: the memory is valid until the ring is gone, and nobody else touches a buffer the kernel has.
        let written = write(unsafe { std::slice::from_raw_parts_mut(start, size) });
        poison::poison(place, size);
        written
    }

    /// The next buffer, and whether somebody wrote to it while it was the kernel's.
    pub(super) fn take_buffer(&mut self) -> Option<(u16, bool)> {
        let buffer = self.buffers.as_mut().expect("buffers are registered first").free.pop_front()?;
        let untouched = self.fill(buffer, |bytes| bytes.iter().all(|byte| *byte == GARBAGE));
        Some((buffer, untouched))
    }

    pub(super) fn has_buffer(&self) -> bool {
        self.buffers.as_ref().is_some_and(|buffers| !buffers.free.is_empty())
    }

    pub(super) fn buffer_size(&self) -> usize {
        self.buffers.as_ref().expect("buffers are registered first").size
    }

    pub(super) fn receive(&mut self, buffer: u16, len: usize, network: &mut Network, socket: SocketId) {
        self.fill(buffer, |bytes| network.read(socket, &mut bytes[..len]));
    }

    /// The buffers that are the kernel's: free, or named by a completion that was not taken.
    pub(super) fn kernel_buffers(&self) -> Vec<u16> {
        let told = self.completions.iter().chain(&self.overflow).filter_map(|cqe| cqe.buffer);
        let free = self.buffers.iter().flat_map(|buffers| buffers.free.iter().copied());
        let mut all: Vec<_> = free.chain(told).collect();
        all.sort_unstable();
        all
    }
}

/// The next `len` bytes from `done` on, and whether they are what they were at submission.
pub(super) fn gather(data: &[Slice], done: usize, len: usize) -> (Vec<u8>, bool) {
    let now: Vec<u8> = data.iter().flat_map(Slice::read).skip(done).take(len).collect();
    let then = data.iter().flat_map(|slice| slice.bytes.iter().copied()).skip(done).take(len);
    let unchanged = then.eq(now.iter().copied());
    (now, unchanged)
}
