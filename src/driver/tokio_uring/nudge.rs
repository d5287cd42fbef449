//! A wake-up that comes as soon as one parks. tokio does not park while what it runs is awake already, and tokio-uring
//! submits nothing before a park: a turn that must not wait is woken by this instead of by itself.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe;

#[derive(Debug)]
pub(super) struct Nudge {
    sender: pipe::Sender,
    receiver: pipe::Receiver,
}

impl Nudge {
    /// Only within `Runtime::block_on`.
    pub(super) fn new() -> io::Result<Self> {
        let (sender, receiver) = pipe::pipe()?;
        Ok(Self { sender, receiver })
    }

    /// Wakes the task once it has parked.
    pub(super) fn arm(&mut self, cx: &mut Context<'_>) {
        let mut earlier = [0; 16];
        while let Poll::Ready(outcome) =
            Pin::new(&mut self.receiver).poll_read(cx, &mut ReadBuf::new(&mut earlier))
        {
            debug_assert!(outcome.is_ok(), "both ends are ours");
        }
        // Not by tokio, which writes only once the kernel has told it that it may. Never full: it was just read.
        let _written = rustix::io::write(&self.sender, &[0]);
    }
}
