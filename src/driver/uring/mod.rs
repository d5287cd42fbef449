//! The native driver: [`Submission`]s to operations of an io_uring, and completions of the kernel to [`Completion`]s.
//!
//! Read on: `socket.rs` decides which operation is next for a socket, `acceptor.rs`, one folder up, for a listener; `recv_buffers.rs` and
//! `in_flight.rs` own the memory the kernel uses; `kernel.rs` is the seam to Linux, `host.rs` Linux itself. This folder
//! is the one home of `unsafe`.

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::net::Shutdown;
use std::sync::Arc;

use crate::addr::Endpoint;
use crate::clock::Mono;
use crate::config::{RingOptions, SocketOptions};
use crate::driver::acceptor::{AcceptOp, Acceptor, Acceptors};
use crate::driver::socket_table::SocketTable;
use crate::driver::{Accepted, Completion, Driver, ListenerId, Settings, Submission, Wait, refusal};
use crate::error::{DriverError, Errno};
use crate::id::ChannelId;
use crate::stats::Counters;

mod buffer_ring;
mod completions;
mod host;
mod in_flight;
mod kernel;
#[cfg(feature = "internals")]
pub(crate) mod null;
pub(crate) mod probe;
mod recv_buffers;
mod setup;
#[cfg(feature = "sim")]
pub(crate) mod sim;
mod socket;
mod starved;
mod token;
mod wake;

use host::HostKernel;
use in_flight::SpareGathers;
use kernel::{EnterWait, Fd, Kernel, Sqe};
use recv_buffers::RecvBuffers;
use socket::{Op, Socket};
use starved::Starved;
use token::{OpKind, Token};

/// How long a driver that is dropped in a panic waits for its operations.
const DROP_GRACE: std::time::Duration = std::time::Duration::from_secs(2);

/// The driver of one loop. It is made, used and dropped on the loop's thread.
#[derive(Debug)]
pub(crate) struct UringDriver<K: Kernel = HostKernel> {
    // What the kernel may still use is dropped by hand, in this order, and only when nothing is in flight.
    kernel: ManuallyDrop<K>,
    buffers: ManuallyDrop<RecvBuffers>,
    sockets: ManuallyDrop<SocketTable<Socket>>,
    acceptors: Acceptors<Fd>,
    spare_gathers: SpareGathers,
    starved: Starved,
    /// Completions that need no kernel to come about.
    ready: VecDeque<Outcome>,
    /// The buffer lent with the last completion.
    lent: Option<u16>,
    wake_armed: bool,
    finishing: bool,
    in_flight: usize,
    /// What [`UringDriver::drain`] left over, once it ran.
    drained: Option<usize>,
    settings: Settings,
    counters: Arc<Counters>,
}

/// A [`Completion`] that borrows nothing yet.
#[derive(Debug)]
enum Outcome {
    Received { channel: ChannelId, buffer: u16, len: usize },
    Other(Completion<'static>),
}

impl From<Completion<'static>> for Outcome {
    fn from(completion: Completion<'static>) -> Self {
        Self::Other(completion)
    }
}

/// Whether this driver works here, with rings and buffers of the sizes asked for; they are gone when it returns.
pub(crate) fn try_out(ring: &RingOptions) -> Result<(), DriverError> {
    let settings = Settings { first_slot: 0, ring: ring.clone(), socket: SocketOptions::default() };
    UringDriver::new(settings, Arc::default()).map(drop)
}

impl UringDriver<HostKernel> {
    /// A driver on the real kernel, for the calling thread.
    pub(crate) fn new(settings: Settings, counters: Arc<Counters>) -> Result<Self, DriverError> {
        let kernel = setup::host_kernel(&settings.ring)?;
        let mut driver = Self::on(kernel, settings, counters)?;
        driver.self_test()?;
        Ok(driver)
    }
}

impl<K: Kernel> UringDriver<K> {
    pub(crate) fn on(
        mut kernel: K,
        settings: Settings,
        counters: Arc<Counters>,
    ) -> Result<Self, DriverError> {
        let RingOptions { receive_buffers, receive_buffer_size, .. } = settings.ring;
        let buffers = RecvBuffers::register(&mut kernel, receive_buffers, receive_buffer_size)
            .map_err(refusal::unavailable)?;
        Ok(Self {
            kernel: ManuallyDrop::new(kernel),
            buffers: ManuallyDrop::new(buffers),
            sockets: ManuallyDrop::new(SocketTable::new(settings.first_slot)),
            acceptors: Acceptors::new(),
            spare_gathers: SpareGathers::default(),
            starved: Starved::default(),
            ready: VecDeque::new(),
            lent: None,
            wake_armed: false,
            finishing: false,
            in_flight: 0,
            drained: None,
            settings,
            counters,
        })
    }

    fn dial(&mut self, channel: ChannelId, to: &Endpoint) {
        match self.kernel.open_socket(to, &self.settings.socket) {
            Ok((fd, address)) => self.sockets.insert(channel, Socket::dialing(channel, fd, address)),
            Err(error) => {
                self.ready.push_back(Completion::DialFailed { channel, errno: Errno::from(&error) }.into());
            }
        }
    }

    fn close(&mut self, channel: ChannelId, reset: bool) {
        let socket = self.sockets.change(channel);
        let fd = socket.fd();
        let unsent = socket.close(reset);
        // An error means that the connection is gone already: nothing is lost by it.
        drop(if reset { self.kernel.reset_on_close(fd) } else { self.kernel.shutdown(fd, Shutdown::Both) });
        if let Some(op) = unsent {
            let batch = op.into_batch(&mut self.spare_gathers);
            self.ready
                .push_back(Completion::Sent { channel, batch, error: Some(Errno(libc::ECANCELED)) }.into());
        }
    }

    /// Whoever found no buffer goes first: one that pauses and resumes again and again would always be before them.
    fn resume_reading(&mut self, channel: ChannelId) {
        let socket = self.sockets.change(channel);
        socket.want_reading(true);
        if !self.starved.is_empty() && socket.starve() {
            self.starved.push(channel, false);
        }
    }

    // Operations to the kernel.

    fn enter_wait(&self, wait: Wait) -> EnterWait {
        let retry_accept = self.acceptors.iter().filter_map(Acceptor::deadline).min();
        let deadline = match wait {
            Wait::Not => return EnterWait::Not,
            Wait::Until(deadline) => Some(retry_accept.map_or(deadline, |retry| retry.min(deadline))),
            Wait::Forever => retry_accept,
        };
        deadline.map_or(EnterWait::Forever, |deadline| EnterWait::AtMost(deadline - self.kernel.now()))
    }

    fn publish_gauges(&self) {
        self.counters.operations_in_flight.set(self.in_flight as u64);
        self.counters.buffers_free.set(self.buffers.free_count() as u64);
        self.counters.buffers_lent.set(self.buffers.lent_count() as u64);
        self.counters.starved.set(self.starved.len() as u64);
        self.counters.completion_queue_overflows.set(self.kernel.overflows());
    }

    /// Pushes what every changed socket and listener wants next. False when the queue was too full for all of it.
    fn push_changed(&mut self) -> bool {
        let now = self.kernel.now();
        self.push_wake_and_accepts(now) && self.push_socket_ops()
    }

    fn push_socket_ops(&mut self) -> bool {
        while let Some(slot) = self.sockets.next_changed() {
            if !self.push_ops_of(slot) {
                return false;
            }
        }
        true
    }

    fn push_ops_of(&mut self, slot: u32) -> bool {
        loop {
            if !self.has_room() {
                if !planted!(LostOperation) {
                    self.sockets.put_back_changed(slot);
                }
                return false;
            }
            let Some(socket) = self.sockets.get_mut(slot) else { return true };
            let Some(op) = socket.next_op() else { return true };
            let (user_data, sqe) = describe(socket, op, &mut self.spare_gathers);
            self.push(user_data, sqe);
        }
    }

    fn push_wake_and_accepts(&mut self, now: Mono) -> bool {
        if !self.wake_armed && !self.finishing {
            if !self.has_room() {
                return false;
            }
            self.wake_armed = true;
            self.push(Token::of_listener(OpKind::Wake, 0).user_data(), Sqe::Wake);
        }
        for listener in self.acceptors.listeners() {
            if !self.has_room() {
                return false;
            }
            let Some(acceptor) = self.acceptors.get_mut(listener) else { continue };
            let Some(op) = acceptor.next_op(now) else { continue };
            let token = |kind| Token::of_listener(kind, listener.0).user_data();
            match op {
                AcceptOp::Accept => {
                    let fd = acceptor.fd;
                    self.push(token(OpKind::Accept), Sqe::Accept { fd });
                }
                AcceptOp::CancelAccept => {
                    self.push(token(OpKind::CancelAccept), Sqe::Cancel { target: token(OpKind::Accept) });
                }
            }
        }
        true
    }

    /// True when an operation can be pushed, if need be after what is queued was submitted.
    fn has_room(&mut self) -> bool {
        if self.kernel.room() > 0 {
            return true;
        }
        self.counters.submission_queue_full.add(1);
        self.counters.enters.add(1);
        // An error will show again in the turn's own enter.
        self.kernel.enter(EnterWait::Not).is_ok() && self.kernel.room() > 0
    }

    fn push(&mut self, user_data: u64, sqe: Sqe) {
        // SAFETY: an address, a batch and its gather lie boxed in their socket, which keeps them until their terminal
        // completion; sockets are dropped at in-flight zero alone.
        unsafe { self.kernel.push(user_data, sqe) };
        self.in_flight += 1;
        self.counters.submissions.add(1);
    }

    // Ends.

    /// Closes the descriptor of a listener that accepts no more.
    fn close_listener_if_done(&mut self, listener: ListenerId) {
        if let Some(acceptor) = self.acceptors.take_closable(listener) {
            self.kernel.close(acceptor.fd, Some(&acceptor.local));
        }
    }

    /// As `ss --kill` does.
    #[cfg(test)]
    pub(crate) fn kill_listener(&mut self, listener: ListenerId) {
        let fd = self.acceptors.get_mut(listener).expect("it listens").fd;
        self.kernel.shutdown(fd, Shutdown::Both).expect("it listens");
    }

    fn stop_listening(&mut self) {
        for listener in self.acceptors.listeners() {
            if let Some(acceptor) = self.acceptors.get_mut(listener) {
                acceptor.close();
            }
            self.close_listener_if_done(listener);
        }
    }

    /// Ends every operation, and waits for their ends until `deadline`. Returns how many there still are.
    fn drain(&mut self, deadline: Mono) -> usize {
        // One that panics is not tried again: nothing is freed.
        self.drained = Some(self.in_flight.max(1));
        self.give_back_lent();
        self.starved.clear();
        let left = self.end_all(deadline);
        self.publish_gauges();
        self.drained = Some(left);
        left
    }

    fn end_all(&mut self, deadline: Mono) -> usize {
        self.finishing = true;
        self.stop_listening();
        let live: Vec<_> = self.sockets.iter().map(Socket::channel).collect();
        for channel in live {
            self.end(channel);
        }
        let mut wake_cancelled = !self.wake_armed;
        loop {
            while let Some(outcome) = self.next_outcome() {
                self.discard(outcome);
            }
            if !wake_cancelled && self.has_room() {
                wake_cancelled = true;
                let target = Token::of_listener(OpKind::Wake, 0).user_data();
                self.push(Token::of_listener(OpKind::CancelWake, 0).user_data(), Sqe::Cancel { target });
            }
            let all_pushed = self.push_changed();
            let now = self.kernel.now();
            if self.in_flight == 0 && all_pushed || now >= deadline {
                return self.in_flight;
            }
            if let Err(error) = self.kernel.enter(EnterWait::AtMost(deadline - now)) {
                tracing::error!(%error, operations = self.in_flight, "cannot end the ring's operations");
                return self.in_flight;
            }
        }
    }

    fn end(&mut self, channel: ChannelId) {
        let socket = self.sockets.change(channel);
        if socket.is_connecting() {
            socket.cancel_dial();
        } else if !socket.is_closing() {
            self.close(channel, true);
        }
    }

    fn discard(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Received { buffer, .. } => self.give_back(buffer),
            Outcome::Other(Completion::Accepted { socket, .. }) => self.submit(Submission::Refuse { socket }),
            Outcome::Other(Completion::Dialed { channel, .. }) => self.end(channel),
            Outcome::Other(_) => {}
        }
    }
}

impl<K: Kernel> Driver for UringDriver<K> {
    type Waker = K::Waker;

    fn now(&self) -> Mono {
        self.kernel.now()
    }

    fn waker(&self) -> K::Waker {
        self.kernel.waker()
    }

    fn listen(&mut self, listener: ListenerId, at: &Endpoint, shared: bool) -> io::Result<Endpoint> {
        let (fd, local) = self.kernel.open_listener(at, shared, &self.settings.socket)?;
        self.acceptors.open(listener, fd, local.clone());
        Ok(local)
    }

    fn submit(&mut self, submission: Submission) {
        match submission {
            Submission::Adopt { channel, socket } => {
                self.sockets.insert(channel, Socket::connected(channel, fd_of(&socket)));
            }
            Submission::Refuse { socket } => {
                self.counters.accepts_refused.add(1);
                let fd = fd_of(&socket);
                // Without the option the peer learns of it by an orderly end, which is as good.
                drop(self.kernel.reset_on_close(fd));
                self.kernel.close(fd, None);
            }
            Submission::Dial { channel, address } => self.dial(channel, &address),
            // A dial that failed while this was on its way has no socket any more.
            Submission::CancelDial { channel } => {
                if self.sockets.get_mut(channel.slot()).is_some() {
                    self.sockets.change(channel).cancel_dial();
                }
            }
            Submission::Send { channel, batch } => self.sockets.change(channel).queue_send(batch),
            Submission::PauseReading { channel } => self.sockets.change(channel).want_reading(false),
            Submission::ResumeReading { channel } => self.resume_reading(channel),
            Submission::ShutdownWrite { channel } => {
                let fd = self.sockets.change(channel).fd();
                // It fails when the connection is gone, which the receive tells too.
                drop(self.kernel.shutdown(fd, Shutdown::Write));
            }
            Submission::Close { channel, reset } => self.close(channel, reset),
            Submission::PauseAccepting => self.acceptors.want_accepting(false),
            Submission::ResumeAccepting => self.acceptors.want_accepting(true),
            Submission::StopListening => self.stop_listening(),
        }
    }

    fn turn(&mut self, wait: Wait) -> Result<(), DriverError> {
        self.give_back_lent();
        self.feed_starved();
        let all_pushed = self.push_changed();
        let is_done = all_pushed && self.ready.is_empty() && !self.can_feed();
        let wait = if is_done { self.enter_wait(wait) } else { EnterWait::Not };
        self.publish_gauges();
        self.counters.turns.add(1);
        self.counters.enters.add(1);
        self.kernel.enter(wait).map_err(|error| DriverError::Kernel { doing: "io_uring_enter", error })
    }

    fn next_completion(&mut self) -> Option<Completion<'_>> {
        self.give_back_lent();
        Some(match self.next_outcome()? {
            Outcome::Other(completion) => completion,
            Outcome::Received { channel, buffer, len } => {
                self.lent = Some(buffer);
                Completion::Received { channel, bytes: self.buffers.bytes(buffer, len) }
            }
        })
    }

    fn finish(mut self, deadline: Mono) -> usize {
        self.drain(deadline)
    }
}

impl<K: Kernel> Drop for UringDriver<K> {
    fn drop(&mut self) {
        let left = match self.drained {
            Some(left) => left,
            None => self.drain(self.kernel.now() + DROP_GRACE),
        };
        if left > 0 {
            tracing::error!(operations = left, "operations did not end; their memory stays allocated");
            return;
        }
        // The ring first: while it exists the kernel knows the buffers.
        self.counters.buffers_free.set(0);
        // SAFETY: dropped here alone, and not used after.
        unsafe { ManuallyDrop::drop(&mut self.kernel) };
        // SAFETY: as above; no operation is in flight, so nothing is written to the buffers any more.
        unsafe { ManuallyDrop::drop(&mut self.buffers) };
        // SAFETY: as above; no operation is in flight, so no batch or address is read any more.
        unsafe { ManuallyDrop::drop(&mut self.sockets) };
    }
}

fn fd_of(socket: &Accepted) -> Fd {
    Fd(i32::try_from(socket.0).expect("this driver made it of a descriptor"))
}

/// The operation as the kernel is to see it, and the name under which it comes back.
#[inline]
fn describe(socket: &mut Socket, op: Op, spare: &mut SpareGathers) -> (u64, Sqe) {
    let (fd, channel) = (socket.fd(), socket.channel());
    let name = |kind| Token::of_channel(kind, channel).user_data();
    match op {
        Op::Connect => {
            let address = socket.address().expect("a dial has an address");
            (name(OpKind::Connect), Sqe::Connect { fd, address })
        }
        Op::Receive => (name(OpKind::Receive), Sqe::Receive { fd }),
        Op::Send => (name(OpKind::Send), socket.send_op().expect("a send has a batch").sqe(fd, spare)),
        Op::Close => (name(OpKind::Close), Sqe::Close { fd }),
        Op::CancelConnect => (name(OpKind::CancelConnect), Sqe::Cancel { target: name(OpKind::Connect) }),
        Op::CancelReceive => (name(OpKind::CancelReceive), Sqe::Cancel { target: name(OpKind::Receive) }),
        Op::CancelSend => (name(OpKind::CancelSend), Sqe::Cancel { target: name(OpKind::Send) }),
    }
}
