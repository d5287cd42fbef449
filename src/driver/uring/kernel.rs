//! The few things this driver asks of Linux while it runs: the ring, some plain system calls on sockets and the clock. The
//! real [`Kernel`] is in `host.rs`, one that costs nothing, for benches, in `null.rs`, and one that is simulated in `sim/`.

use std::io;
use std::time::Duration;

use socket2::SockAddr;

use crate::addr::Endpoint;
use crate::clock::Mono;
use crate::config::SocketOptions;
use crate::driver::Waker;

/// A descriptor, owned by whoever the driver's state says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fd(pub(crate) i32);

/// An operation. An own type, since the crate's entries cannot be read back by a simulated kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sqe {
    /// Multishot.
    Accept {
        fd: Fd,
    },
    Connect {
        fd: Fd,
        address: *const SockAddr,
    },
    /// Multishot, into the provided buffers.
    Receive {
        fd: Fd,
    },
    /// All of it, or an error (`MSG_WAITALL`); yet a short count must be expected.
    Send {
        fd: Fd,
        data: *const u8,
        len: usize,
    },
    /// The same, gathered.
    SendGather {
        fd: Fd,
        header: *const libc::msghdr,
    },
    Close {
        fd: Fd,
    },
    /// Asks for an end of the operation with this `user_data`.
    Cancel {
        target: u64,
    },
    /// Multishot: a completion for one wake or several.
    Wake,
}

/// A completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cqe {
    pub(crate) user_data: u64,
    pub(crate) result: i32,
    /// The operation goes on: more completions will come for it.
    pub(crate) more: bool,
    /// The provided buffer that was taken for it, whatever the result.
    pub(crate) buffer: Option<u16>,
}

/// How long [`Kernel::enter`] waits for a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EnterWait {
    Not,
    AtMost(Duration),
    Forever,
}

pub(crate) trait Kernel {
    type Waker: Waker;

    /// Entries of the submission queue that are free.
    fn room(&mut self) -> usize;

    /// Queues an operation; there must be room.
    ///
    /// # Safety
    ///
    /// What the operation points to stays where it is: the address, the header and the list of parts it leads to until the
    /// next `enter` has taken the operation, the data until its terminal completion.
    unsafe fn push(&mut self, user_data: u64, sqe: Sqe);

    /// Submits what is queued and waits for a completion. Ends early without an error when it likes; the errors are
    /// those that nothing can be done about.
    fn enter(&mut self, wait: EnterWait) -> io::Result<()>;

    fn next_cqe(&mut self) -> Option<Cqe>;

    /// After how many calls of `enter` there were completions that did not fit their queue, so far.
    fn overflows(&self) -> u64;

    /// Makes `count` buffers of `size` bytes, one after the other from `base`, the provided buffers. They are handed
    /// over one by one with [`Kernel::provide`].
    ///
    /// # Safety
    ///
    /// The memory is valid until the ring is gone, and nobody touches a provided buffer until a completion names it.
    unsafe fn register_buffers(&mut self, base: *mut u8, size: u32, count: u16) -> io::Result<()>;

    /// Hands a provided buffer (back) to the kernel.
    fn provide(&mut self, buffer: u16);

    fn waker(&self) -> Self::Waker;

    /// A socket that listens at `at`; with the endpoint it got.
    fn open_listener(
        &mut self,
        at: &Endpoint,
        shared: bool,
        options: &SocketOptions,
    ) -> io::Result<(Fd, Endpoint)>;

    /// A socket to connect to `to`, and the address to connect it with.
    fn open_socket(&mut self, to: &Endpoint, options: &SocketOptions) -> io::Result<(Fd, SockAddr)>;

    /// The address of the socket's own end.
    fn local_endpoint(&mut self, fd: Fd) -> io::Result<Endpoint>;

    /// The address of the other end.
    fn peer_endpoint(&mut self, fd: Fd) -> io::Result<Endpoint>;

    /// `shutdown(2)`: the sending half, or both.
    fn shutdown(&mut self, fd: Fd, how: std::net::Shutdown) -> io::Result<()>;

    /// A later close sends RST and drops what is queued.
    fn reset_on_close(&mut self, fd: Fd) -> io::Result<()>;

    /// Closes a descriptor no operation uses, at once; a listener's path is removed.
    fn close(&mut self, fd: Fd, listener: Option<&Endpoint>);

    fn now(&self) -> Mono;
}
