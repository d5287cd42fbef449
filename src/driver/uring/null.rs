//! A kernel in which everything succeeds at once, for benches: what remains is what a turn of a loop costs itself.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::ptr;
use std::time::Duration;

use socket2::SockAddr;

use super::kernel::{Cqe, EnterWait, Fd, Kernel, Sqe};
use crate::addr::Endpoint;
use crate::clock::Mono;
use crate::config::SocketOptions;
use crate::driver::Waker;

const LISTENER: Fd = Fd(0);

/// Nobody waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NullWaker;

impl Waker for NullWaker {
    fn wake(&self) {}
}

/// What a connection receives.
#[derive(Clone, Debug)]
pub(crate) struct Tape {
    /// Once, at first.
    pub(crate) head: Vec<u8>,
    /// Then, whenever the loop enters, so much of this as fits into a buffer, from where it was left; without an end.
    pub(crate) body: Vec<u8>,
}

#[derive(Debug)]
struct Taped {
    /// The receive that is armed, by its `user_data`.
    receive: Option<u64>,
    /// Where on the tape it is; `None` before its head.
    at: Option<usize>,
}

#[derive(Debug)]
pub(crate) struct NullKernel {
    tape: Tape,
    /// Taped `n` has the descriptor `n + 1`.
    connections: Vec<Taped>,
    base: *mut u8,
    size: usize,
    free: VecDeque<u16>,
    completions: VecDeque<Cqe>,
    now: Mono,
}

impl NullKernel {
    /// A kernel to whose listener so many connections come.
    pub(crate) fn new(connections: usize, tape: Tape) -> Self {
        let connections = (0..connections).map(|_| Taped { receive: None, at: None }).collect();
        Self {
            tape,
            connections,
            base: ptr::null_mut(),
            size: 0,
            free: VecDeque::new(),
            completions: VecDeque::new(),
            now: Mono::from_nanos(1),
        }
    }

    fn complete(&mut self, user_data: u64, result: usize) {
        let result = i32::try_from(result).expect("no operation is as large");
        self.completions.push_back(Cqe { user_data, result, more: false, buffer: None });
    }

    fn accept_all(&mut self, user_data: u64) {
        for fd in 1..=self.connections.len() as i32 {
            self.completions.push_back(Cqe { user_data, result: fd, more: true, buffer: None });
        }
    }

    fn connection(&mut self, Fd(fd): Fd) -> &mut Taped {
        &mut self.connections[fd as usize - 1]
    }

    /// Ends the operation, if it is a receive; accepts and the waker's poll end with the kernel.
    fn cancel(&mut self, target: u64) {
        let armed = self.connections.iter_mut().find(|connection| connection.receive == Some(target));
        if let Some(connection) = armed {
            connection.receive = None;
        }
        self.completions.push_back(failed(target, libc::ECANCELED));
    }

    /// Gives every connection that receives the next piece of the tape.
    fn receive_all(&mut self) {
        for connection in &mut self.connections {
            let Some(user_data) = connection.receive else { continue };
            let (source, next) = match connection.at {
                None => (&self.tape.head[..], 0),
                Some(at) => (&self.tape.body[at..], at),
            };
            let len = source.len().min(self.size);
            if len == 0 {
                connection.at = Some(0);
                continue;
            }
            let Some(buffer) = self.free.pop_front() else {
                connection.receive = None;
                self.completions.push_back(failed(user_data, libc::ENOBUFS));
                continue;
            };
            let is_head = connection.at.is_none();
            let end = next + len;
            connection.at = Some(if is_head || end == self.tape.body.len() { 0 } else { end });
            debug_assert!(!is_head || len == self.tape.head.len(), "a head fits into a buffer");
            // SAFETY: the buffer is the kernel's, so its `size` bytes at this offset are nobody else's.
            let place = unsafe { self.base.add(usize::from(buffer) * self.size) };
            // SAFETY: `len` is at most `size`, and the tape is no buffer.
            unsafe { ptr::copy_nonoverlapping(source.as_ptr(), place, len) };
            let result = i32::try_from(len).expect("no buffer is as large");
            self.completions.push_back(Cqe { user_data, result, more: true, buffer: Some(buffer) });
        }
    }
}

/// The end of an operation that failed.
fn failed(user_data: u64, errno: i32) -> Cqe {
    Cqe { user_data, result: -errno, more: false, buffer: None }
}

impl Kernel for NullKernel {
    type Waker = NullWaker;

    fn room(&mut self) -> usize {
        usize::MAX
    }

    unsafe fn push(&mut self, user_data: u64, sqe: Sqe) {
        match sqe {
            Sqe::Accept { .. } => self.accept_all(user_data),
            Sqe::Receive { fd } => self.connection(fd).receive = Some(user_data),
            Sqe::Send { len, .. } => self.complete(user_data, len),
            Sqe::SendGather { header, .. } => {
                // SAFETY: the caller keeps the header alive until `enter`, and so now.
                let header = unsafe { &*header };
                // SAFETY: as above, with what it points to.
                let slices = unsafe { std::slice::from_raw_parts(header.msg_iov, header.msg_iovlen) };
                self.complete(user_data, slices.iter().map(|slice| slice.iov_len).sum());
            }
            Sqe::Close { .. } | Sqe::Connect { .. } => self.complete(user_data, 0),
            Sqe::Cancel { target } => {
                self.cancel(target);
                self.complete(user_data, 0);
            }
            Sqe::Wake => {}
        }
    }

    fn enter(&mut self, _: EnterWait) -> io::Result<()> {
        self.now = self.now + Duration::from_nanos(1);
        self.receive_all();
        Ok(())
    }

    fn next_cqe(&mut self) -> Option<Cqe> {
        self.completions.pop_front()
    }

    fn overflows(&self) -> u64 {
        0
    }

    unsafe fn register_buffers(&mut self, base: *mut u8, size: u32, _: u16) -> io::Result<()> {
        (self.base, self.size) = (base, size as usize);
        Ok(())
    }

    fn provide(&mut self, buffer: u16) {
        self.free.push_back(buffer);
    }

    fn waker(&self) -> NullWaker {
        NullWaker
    }

    fn open_listener(&mut self, at: &Endpoint, _: bool, _: &SocketOptions) -> io::Result<(Fd, Endpoint)> {
        Ok((LISTENER, at.clone()))
    }

    fn open_socket(&mut self, _: &Endpoint, _: &SocketOptions) -> io::Result<(Fd, SockAddr)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn local_endpoint(&mut self, fd: Fd) -> io::Result<Endpoint> {
        self.peer_endpoint(fd)
    }

    fn peer_endpoint(&mut self, Fd(fd): Fd) -> io::Result<Endpoint> {
        Ok(Endpoint::Tcp(([127, 0, 0, 1], fd as u16).into()))
    }

    fn shutdown(&mut self, fd: Fd, _: Shutdown) -> io::Result<()> {
        // As the real one: what is armed ends.
        if let Some(user_data) = self.connection(fd).receive.take() {
            self.complete(user_data, 0);
        }
        Ok(())
    }

    fn reset_on_close(&mut self, _: Fd) -> io::Result<()> {
        Ok(())
    }

    fn close(&mut self, _: Fd, _: Option<&Endpoint>) {}

    fn now(&self) -> Mono {
        self.now
    }
}
