//! Waking a loop from another thread: an eventfd the ring polls. When to wake, and when not, is the mailbox's affair.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;

use super::kernel::Fd;
use crate::driver::Waker;

/// Shared by the ring and all who wake it; closed with the last of them.
#[derive(Clone, Debug)]
pub(crate) struct EventFd(Arc<File>);

impl EventFd {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: eventfd(2) takes two numbers and touches no memory of ours.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: eventfd(2) gave this descriptor to us alone.
        Ok(Self(Arc::new(unsafe { File::from_raw_fd(fd) })))
    }

    pub(crate) fn fd(&self) -> Fd {
        Fd(self.0.as_raw_fd())
    }
}

impl Waker for EventFd {
    /// After each write there is a completion, though nobody reads the counter: the poll is told of every write, of several
    /// at once perhaps, and the counter has room for 2^64 - 2 of them.
    fn wake(&self) {
        if let Err(error) = (&*self.0).write(&1u64.to_ne_bytes()) {
            tracing::error!(%error, "cannot wake a loop");
        }
    }
}
