//! The real kernel: the ring on the `io-uring` crate, and the plain system calls on `socket2`.

use std::io;
use std::mem::ManuallyDrop;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::time::Duration;

use io_uring::types::{self, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use socket2::{SockAddr, Socket};

use super::buffer_ring::BufferRing;
use super::kernel::{Cqe, EnterWait, Fd, Kernel, Sqe};
use super::wake::EventFd;
use crate::addr::Endpoint;
use crate::clock::Mono;
use crate::config::SocketOptions;
use crate::driver::sockets::{self, BoundPath, Listening};

/// The one group of provided buffers of a ring.
pub(crate) const BUFFER_GROUP: u16 = 0;

#[derive(Debug)]
pub(crate) struct HostKernel {
    /// Before the buffers: it is dropped first.
    ring: Ring,
    buffers: Option<BufferRing>,
    wake: EventFd,
    overflows: u64,
    /// Those of the listeners on Unix sockets.
    paths: Vec<(Fd, BoundPath)>,
}

struct Ring(IoUring);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ring").field(&self.0.as_raw_fd()).finish()
    }
}

impl HostKernel {
    pub(crate) fn new(ring: IoUring) -> io::Result<Self> {
        Ok(Self { ring: Ring(ring), buffers: None, wake: EventFd::new()?, overflows: 0, paths: Vec::new() })
    }

    fn entry(&self, sqe: Sqe) -> squeue::Entry {
        let fd = |Fd(fd)| types::Fd(fd);
        // Non-blocking, so that a send the kernel moves to its worker threads fails with EAGAIN and is tried again; on
        // a blocking socket it would hold a worker thread for as long as the peer does not read.
        let accepted = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        match sqe {
            Sqe::Accept { fd: listener } => opcode::AcceptMulti::new(fd(listener)).flags(accepted).build(),
            Sqe::Connect { fd: socket, address } => {
                // SAFETY: the caller of `push` keeps the address alive until `enter` took the operation.
                let address = unsafe { &*address };
                opcode::Connect::new(fd(socket), address.as_ptr().cast(), address.len()).build()
            }
            Sqe::Receive { fd: socket } => opcode::RecvMulti::new(fd(socket), BUFFER_GROUP).build(),
            Sqe::Send { fd: socket, data, len } => {
                let len = u32::try_from(len).unwrap_or(u32::MAX);
                opcode::Send::new(fd(socket), data, len).flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL).build()
            }
            Sqe::SendGather { fd: socket, header } => {
                let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
                opcode::SendMsg::new(fd(socket), header).flags(flags as u32).build()
            }
            Sqe::Close { fd: socket } => opcode::Close::new(fd(socket)).build(),
            Sqe::Cancel { target } => opcode::AsyncCancel::new(target).build(),
            Sqe::Wake => opcode::PollAdd::new(fd(self.wake.fd()), libc::POLLIN as u32).multi(true).build(),
        }
    }

    /// One `io_uring_enter` that runs what the kernel has deferred, submits, and does not wait.
    fn enter_without_waiting(&mut self) -> io::Result<usize> {
        let queued = self.ring.0.submission().len();
        let queued = u32::try_from(queued).expect("a queue has at most 32768 entries");
        // GETEVENTS, or the kernel would leave its deferred work, the completions, undone.
        let flags = EnterFlags::GETEVENTS.bits();
        // SAFETY: no argument is passed by address, and the entries were vouched for when they were pushed.
        unsafe { self.ring.0.submitter().enter::<libc::sigset_t>(queued, 0, flags, None) }
    }
}

impl Kernel for HostKernel {
    type Waker = EventFd;

    fn room(&mut self) -> usize {
        let queue = self.ring.0.submission();
        queue.capacity() - queue.len()
    }

    unsafe fn push(&mut self, user_data: u64, sqe: Sqe) {
        let entry = self.entry(sqe).user_data(user_data);
        let mut queue = self.ring.0.submission();
        // SAFETY: the caller keeps what the operation points to where it is.
        let pushed = unsafe { queue.push(&entry) };
        pushed.expect("the caller saw room in the queue");
    }

    fn enter(&mut self, wait: EnterWait) -> io::Result<()> {
        let entered = match wait {
            EnterWait::Not => self.enter_without_waiting(),
            EnterWait::Forever => self.ring.0.submitter().submit_and_wait(1),
            EnterWait::AtMost(duration) => {
                let timeout = Timespec::from(duration);
                self.ring.0.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
            }
        };
        // The kernel keeps what did not fit, until the next call; it counts only what it lost.
        self.overflows += u64::from(self.ring.0.submission().cq_overflow());
        match entered {
            Ok(_) => Ok(()),
            // The time is over, a signal came, completions have to be reaped first, or memory was short for a moment:
            // what is queued stays queued, and the next turn goes on.
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                Some(_) | None => Err(error),
            },
        }
    }

    fn next_cqe(&mut self) -> Option<Cqe> {
        self.ring.0.completion().next().map(|cqe| Cqe {
            user_data: cqe.user_data(),
            result: cqe.result(),
            more: cqueue::more(cqe.flags()),
            buffer: cqueue::buffer_select(cqe.flags()),
        })
    }

    fn overflows(&self) -> u64 {
        self.overflows
    }

    unsafe fn register_buffers(&mut self, base: *mut u8, size: u32, count: u16) -> io::Result<()> {
        // SAFETY: the caller's promise is the one asked for.
        let buffers =
            unsafe { BufferRing::register(&self.ring.0.submitter(), BUFFER_GROUP, base, size, count)? };
        self.buffers = Some(buffers);
        Ok(())
    }

    fn provide(&mut self, buffer: u16) {
        self.buffers.as_mut().expect("buffers are registered before they are provided").provide(buffer);
    }

    fn waker(&self) -> EventFd {
        self.wake.clone()
    }

    fn open_listener(
        &mut self,
        at: &Endpoint,
        shared: bool,
        options: &SocketOptions,
    ) -> io::Result<(Fd, Endpoint)> {
        let Listening { socket, local, path } = sockets::listener(at, shared, options)?;
        let fd = Fd(socket.into_raw_fd());
        self.paths.extend(path.map(|path| (fd, path)));
        Ok((fd, local))
    }

    fn open_socket(&mut self, to: &Endpoint, options: &SocketOptions) -> io::Result<(Fd, SockAddr)> {
        let (socket, address) = sockets::dialer(to, options)?;
        Ok((Fd(socket.into_raw_fd()), address))
    }

    fn local_endpoint(&mut self, fd: Fd) -> io::Result<Endpoint> {
        sockets::endpoint(&borrow(fd).local_addr()?)
    }

    fn peer_endpoint(&mut self, fd: Fd) -> io::Result<Endpoint> {
        sockets::endpoint(&borrow(fd).peer_addr()?)
    }

    fn shutdown(&mut self, fd: Fd, how: Shutdown) -> io::Result<()> {
        borrow(fd).shutdown(how)
    }

    fn reset_on_close(&mut self, fd: Fd) -> io::Result<()> {
        borrow(fd).set_linger(Some(Duration::ZERO))
    }

    fn close(&mut self, fd: Fd, listener: Option<&Endpoint>) {
        if let Some(Endpoint::Unix(_)) = listener {
            let at = self.paths.iter().position(|(of, _)| *of == fd).expect("it was bound to a path");
            self.paths.swap_remove(at).1.remove();
        }
        drop(ManuallyDrop::into_inner(borrow(fd)));
    }

    fn now(&self) -> Mono {
        sockets::now()
    }
}

/// The descriptor as a socket that is not closed when it is dropped.
fn borrow(Fd(fd): Fd) -> ManuallyDrop<Socket> {
    // SAFETY: the driver's state owns the descriptor, which is open until the state closes it.
    ManuallyDrop::new(unsafe { Socket::from_raw_fd(fd) })
}
