//! The second driver, on tokio-uring, for kernels from 5.11: one operation for each receive, with a buffer of its own.
//!
//! An operation is a task (`tasks.rs`) and a turn one `block_on`, in which all of them move. `socket.rs` decides which
//! operation is next. tokio-uring cancels nothing, so operations are ended through their socket: by `shutdown(2)`, or
//! by disconnecting it; each task is waited for. What the contract loses here: EPIPE comes with a SIGPIPE, which Rust
//! programs ignore unless they chose not to; and an operation whose submission the kernel refuses for good never ends.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio_uring::Runtime;
use tokio_uring::net::TcpStream;

use crate::addr::Endpoint;
use crate::clock::Mono;
use crate::driver::acceptor::{AcceptOp, Acceptors};
use crate::driver::socket_table::SocketTable;
use crate::driver::{Accepted, Completion, Driver, ListenerId, Settings, Submission, Wait, Waker, sockets};
use crate::error::{DriverError, Errno};
use crate::id::ChannelId;
use crate::stats::Counters;

mod completions;
mod nudge;
mod setup;
mod socket;
mod tasks;

use nudge::Nudge;
pub(crate) use setup::try_out;
use socket::{Op, Socket};
use tasks::{End, Ends, Listener};

/// How long a driver that is dropped in a panic waits for its operations.
const DROP_GRACE: Duration = Duration::from_secs(2);
/// Longest turn. tokio-uring does not tell when a submission failed; it is tried again in the next turn.
const LONGEST_TURN: Duration = Duration::from_secs(1);
/// Most bytes of a receive buffer: every channel that is read from holds one.
const MOST_BUFFER: usize = 16 << 10;
/// How soon an accept that was armed after a lack of descriptors is looked at again.
const RECOVERY: Duration = Duration::from_millis(10);

/// The driver of one loop. It is made, used and dropped on the loop's thread.
pub(crate) struct TokioUringDriver {
    /// `None` once it is leaked: dropping it would wait for its operations without end.
    runtime: Option<Rc<Runtime>>,
    ends: Rc<Ends>,
    wake: Wake,
    nudge: Nudge,
    sockets: SocketTable<Socket>,
    acceptors: Acceptors<Rc<Listener>>,
    /// Accepted and not yet adopted or refused.
    accepted: Slab<TcpStream>,
    /// Completions that need no kernel to come about.
    ready: VecDeque<Completion<'static>>,
    /// The buffer lent with the last completion.
    lent: Option<Vec<u8>>,
    spare_buffers: Vec<Vec<u8>>,
    receiving: usize,
    in_flight: usize,
    /// True until a turn has passed over all accepts: one that was just armed may have failed already.
    accepts_are_fresh: bool,
    /// What [`TokioUringDriver::drain`] left over, once it ran.
    drained: Option<usize>,
    settings: Settings,
    counters: Arc<Counters>,
}

impl std::fmt::Debug for TokioUringDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokioUringDriver").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

/// Ends a turn from any thread: by the runtime's own waker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wake(Arc<Notify>);

impl Waker for Wake {
    fn wake(&self) {
        self.0.notify_one();
    }
}

/// A [`Completion`] that borrows nothing yet.
enum Outcome {
    Received { channel: ChannelId, buffer: Vec<u8> },
    Other(Completion<'static>),
}

impl TokioUringDriver {
    /// A driver for the calling thread, tried out.
    pub(crate) fn new(settings: Settings, counters: Arc<Counters>) -> Result<Self, DriverError> {
        let runtime = setup::runtime(&settings.ring)?;
        let nudge = runtime.block_on(async { Nudge::new() });
        let nudge = nudge.map_err(|error| DriverError::Kernel { doing: "making a pipe", error })?;
        Ok(Self {
            runtime: Some(Rc::new(runtime)),
            ends: Rc::default(),
            wake: Wake::default(),
            nudge,
            sockets: SocketTable::new(settings.first_slot),
            acceptors: Acceptors::new(),
            accepted: Slab::new(),
            ready: VecDeque::new(),
            lent: None,
            spare_buffers: Vec::new(),
            receiving: 0,
            in_flight: 0,
            accepts_are_fresh: false,
            drained: None,
            settings,
            counters,
        })
    }

    fn runtime(&self) -> Rc<Runtime> {
        self.runtime.clone().expect("it is there until the drop")
    }

    fn take_accepted(&mut self, Accepted(key): &Accepted) -> TcpStream {
        self.accepted.remove(usize::try_from(*key).expect("this driver made it of a key"))
    }

    fn dial(&mut self, channel: ChannelId, to: &Endpoint) {
        match sockets::dialer(to, &self.settings.socket) {
            Ok((socket, address)) => self.sockets.insert(channel, Socket::dialing(channel, socket, address)),
            Err(error) => {
                self.ready.push_back(Completion::DialFailed { channel, errno: Errno::from(&error) });
            }
        }
    }

    fn close(&mut self, channel: ChannelId, reset: bool) {
        let socket = self.sockets.change(channel);
        if reset {
            tasks::reset(socket.stream());
        } else {
            // An error means that the connection is gone already: nothing is lost by it.
            drop(socket.stream().shutdown(Shutdown::Both));
        }
        if let Some(batch) = socket.close() {
            let error = Some(Errno(libc::ECANCELED));
            self.ready.push_back(Completion::Sent { channel, batch, error });
        }
    }

    /// As `ss --kill` does.
    #[cfg(test)]
    pub(crate) fn kill_listener(&mut self, listener: ListenerId) {
        self.acceptors.get_mut(listener).expect("it listens").fd.shut_down();
    }

    fn stop_listening(&mut self) {
        for listener in self.acceptors.listeners() {
            if let Some(acceptor) = self.acceptors.get_mut(listener) {
                acceptor.close();
                acceptor.fd.shut_down();
            }
            self.close_listener_if_done(listener);
        }
    }

    fn close_listener_if_done(&mut self, listener: ListenerId) {
        if let Some(acceptor) = self.acceptors.take_closable(listener) {
            acceptor.fd.remove_path();
        }
    }

    // Operations to tasks.

    fn start(&mut self, operation: impl Future<Output = End> + 'static) {
        self.ends.start(operation);
        self.in_flight += 1;
        self.counters.submissions.add(1);
    }

    fn start_accepts(&mut self) {
        self.accepts_are_fresh = false;
        let now = self.now();
        for listener in self.acceptors.listeners() {
            let Some(acceptor) = self.acceptors.get_mut(listener) else { continue };
            match acceptor.next_op(now) {
                Some(AcceptOp::Accept) => {
                    let accept = tasks::accept(Rc::clone(&acceptor.fd), acceptor.local.clone());
                    self.accepts_are_fresh = true;
                    self.start(async move { End::Accept { listener, result: accept.await } });
                }
                // It goes on until somebody knocks, or the listener is shut down.
                Some(AcceptOp::CancelAccept) => acceptor.handle_cancelled(),
                None => {}
            }
        }
    }

    fn start_socket_ops(&mut self) {
        while let Some(slot) = self.sockets.next_changed() {
            while let Some(socket) = self.sockets.get_mut(slot) {
                let channel = socket.channel();
                let Some(op) = socket.next_op() else { break };
                match op {
                    Op::Dial(socket, address, cancel) => {
                        let dial = tasks::dial(socket, address, cancel);
                        self.start(async move { End::Dial { channel, result: dial.await } });
                    }
                    Op::Receive(stream) => self.receive(channel, stream),
                    Op::Send(stream, batch) => {
                        let send = tasks::send(stream, batch, Arc::clone(&self.counters));
                        self.start(async move {
                            let (result, batch) = send.await;
                            End::Send { channel, result, batch }
                        });
                    }
                    Op::Close(stream) => self.finish_close(channel, &stream),
                }
            }
        }
    }

    fn receive(&mut self, channel: ChannelId, stream: Rc<TcpStream>) {
        let size = (self.settings.ring.receive_buffer_size as usize).min(MOST_BUFFER);
        let buffer = self.spare_buffers.pop().unwrap_or_else(|| Vec::with_capacity(size));
        self.receiving += 1;
        self.start(async move {
            let (result, buffer) = tasks::receive(stream, buffer).await;
            End::Receive { channel, result, buffer }
        });
    }

    /// The descriptor is closed when the caller drops the stream, its last owner.
    fn finish_close(&mut self, channel: ChannelId, stream: &Rc<TcpStream>) {
        debug_assert_eq!(Rc::strong_count(stream), 1, "a task still has the stream");
        self.sockets.remove(channel.slot());
        self.acceptors.descriptor_freed();
        self.ready.push_back(Completion::Closed { channel });
    }

    /// How long the turn may take.
    fn limit(&self, wait: Wait) -> Duration {
        let now = self.now();
        let longest = match wait {
            Wait::Not => return Duration::ZERO,
            Wait::Until(deadline) => (deadline - now).min(LONGEST_TURN),
            Wait::Forever => LONGEST_TURN,
        };
        if !self.ready.is_empty() {
            return Duration::ZERO;
        }
        let look = self.acceptors.iter().filter_map(|acceptor| match acceptor.deadline() {
            Some(retry) => Some(retry - now),
            None => acceptor.is_recovering().then_some(RECOVERY),
        });
        look.min().map_or(longest, |look| look.min(longest))
    }

    fn spare(&mut self, mut buffer: Vec<u8>) {
        if self.spare_buffers.len() < usize::from(self.settings.ring.receive_buffers) {
            buffer.clear();
            self.spare_buffers.push(buffer);
        }
    }

    /// The loop has asked for the next thing, so it is done with the last.
    fn give_back_lent(&mut self) {
        if let Some(buffer) = self.lent.take() {
            self.spare(buffer);
        }
    }

    fn publish_gauges(&self) {
        self.counters.operations_in_flight.set(self.in_flight as u64);
        self.counters.buffers_free.set(self.receiving as u64);
        self.counters.buffers_lent.set(u64::from(self.lent.is_some()));
    }

    // Ends.

    /// Ends every operation, and waits for their ends until `deadline`. Returns how many there still are.
    fn drain(&mut self, deadline: Mono) -> usize {
        self.stop_listening();
        let live: Vec<_> = self.sockets.iter().map(Socket::channel).collect();
        for channel in live {
            self.end(channel);
        }
        loop {
            while let Some(outcome) = self.next_outcome() {
                self.discard(outcome);
            }
            let is_done = self.in_flight == 0 && !self.sockets.has_changed();
            if is_done || self.now() >= deadline || self.turn(Wait::Until(deadline)).is_err() {
                self.publish_gauges();
                return self.in_flight;
            }
        }
    }

    fn end(&mut self, channel: ChannelId) {
        let socket = self.sockets.change(channel);
        if socket.is_open() {
            self.close(channel, true);
        } else {
            socket.cancel_dial();
        }
    }

    fn discard(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Received { buffer, .. } => self.spare(buffer),
            Outcome::Other(Completion::Accepted { socket, .. }) => self.submit(Submission::Refuse { socket }),
            Outcome::Other(Completion::Dialed { channel, .. }) => self.end(channel),
            Outcome::Other(_) => {}
        }
    }
}

impl Driver for TokioUringDriver {
    type Waker = Wake;

    fn now(&self) -> Mono {
        sockets::now()
    }

    fn waker(&self) -> Wake {
        self.wake.clone()
    }

    fn listen(&mut self, listener: ListenerId, at: &Endpoint, shared: bool) -> io::Result<Endpoint> {
        let listening = sockets::listener(at, shared, &self.settings.socket)?;
        let local = listening.local.clone();
        let socket = self.runtime().block_on(async { Listener::new(listening) })?;
        self.acceptors.open(listener, Rc::new(socket), local.clone());
        Ok(local)
    }

    fn submit(&mut self, submission: Submission) {
        match submission {
            Submission::Adopt { channel, socket } => {
                let stream = self.take_accepted(&socket);
                self.sockets.insert(channel, Socket::open(channel, stream));
            }
            Submission::Refuse { socket } => {
                self.counters.accepts_refused.add(1);
                tasks::reset(&self.take_accepted(&socket));
            }
            Submission::Dial { channel, address } => self.dial(channel, &address),
            // A dial that failed while this was on its way has no socket any more.
            Submission::CancelDial { channel } => {
                if let Some(socket) = self.sockets.get_mut(channel.slot()) {
                    socket.cancel_dial();
                }
            }
            Submission::Send { channel, batch } => self.sockets.change(channel).queue_send(batch),
            Submission::PauseReading { channel } => self.sockets.change(channel).want_reading(false),
            Submission::ResumeReading { channel } => self.sockets.change(channel).want_reading(true),
            Submission::ShutdownWrite { channel } => {
                // It fails when the connection is gone, which the receive tells too.
                drop(self.sockets.change(channel).stream().shutdown(Shutdown::Write));
            }
            Submission::Close { channel, reset } => self.close(channel, reset),
            Submission::PauseAccepting => self.acceptors.want_accepting(false),
            Submission::ResumeAccepting => self.acceptors.want_accepting(true),
            Submission::StopListening => self.stop_listening(),
        }
    }

    fn turn(&mut self, wait: Wait) -> Result<(), DriverError> {
        self.give_back_lent();
        self.counters.turns.add(1);
        self.counters.enters.add(1);
        let (runtime, ends) = (self.runtime(), Rc::clone(&self.ends));
        let wake = Arc::clone(&self.wake.0);
        runtime.block_on(async {
            self.start_accepts();
            self.start_socket_ops();
            self.publish_gauges();
            let limit = self.limit(wait);
            ends.turn(&wake, &mut self.nudge, limit).await;
        });
        Ok(())
    }

    fn next_completion(&mut self) -> Option<Completion<'_>> {
        self.give_back_lent();
        Some(match self.next_outcome()? {
            Outcome::Other(completion) => completion,
            Outcome::Received { channel, buffer } => {
                Completion::Received { channel, bytes: self.lent.insert(buffer) }
            }
        })
    }

    fn finish(mut self, deadline: Mono) -> usize {
        let left = self.drain(deadline);
        self.drained = Some(left);
        left
    }
}

impl Drop for TokioUringDriver {
    #[expect(clippy::mem_forget, reason = "the kernel may still write to what the runtime owns")]
    fn drop(&mut self) {
        let left = match self.drained {
            Some(left) => left,
            None => self.drain(self.now() + DROP_GRACE),
        };
        if left > 0 {
            tracing::error!(operations = left, "operations did not end; their memory stays allocated");
            std::mem::forget(self.runtime.take());
        }
    }
}
