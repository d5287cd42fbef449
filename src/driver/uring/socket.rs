//! One socket: what is wanted of it, what the kernel has of it, and the operation that makes up the difference.
//! Pure: it submits nothing and calls nobody.
//!
//! Every ending of an operation leads back to [`Socket::next_op`], so arming again after the kernel ended a multishot,
//! after a lack of buffers, after an unasked cancellation and after a resume is one rule, not four.

use socket2::SockAddr;

use super::in_flight::SendOp;
use super::kernel::Fd;
use crate::driver::Batch;
use crate::error::Errno;
use crate::id::ChannelId;

/// The next operation for a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Connect,
    CancelConnect,
    Receive,
    CancelReceive,
    Send,
    CancelSend,
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Connected,
    /// No new operations but cancels; the descriptor is closed when the last has ended.
    Closing {
        reset: bool,
    },
    CloseSubmitted,
}

/// What the kernel has of an operation that can be cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InKernel {
    No,
    Yes,
    /// It was asked to end it, and has not said that it did.
    Cancelling,
}

/// What a receive completion means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Data(usize),
    Eof,
    Failed(Errno),
    /// There was no buffer: the socket waits until [`Socket::feed`].
    Starved {
        /// It had been fed, and got nothing.
        in_vain: bool,
    },
    /// Nothing for the channel: cancelled, or the kernel let go of it.
    Nothing,
}

/// What a send completion means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendEnd {
    Done,
    /// A part was taken; the rest is submitted again.
    Short,
    Failed(Errno),
}

/// What is left to say when the descriptor is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Closed,
    DialFailed(Errno),
}

/// Invariant: `in_flight` operations, cancels included, have a completion to come, and none when `Close` is submitted.
#[derive(Debug)]
pub(crate) struct Socket {
    channel: ChannelId,
    fd: Fd,
    phase: Phase,
    in_flight: u8,
    connect: InKernel,
    receive: InKernel,
    send: InKernel,
    cancel_dial: bool,
    wants_reading: bool,
    starved: bool,
    /// True from [`Socket::feed`] until something is received.
    fed: bool,
    /// True after end of file or an error: nothing is received any more.
    receive_ended: bool,
    dial_errno: Option<Errno>,
    address: Option<Box<SockAddr>>,
    send_op: Option<SendOp>,
}

impl Socket {
    fn new(channel: ChannelId, fd: Fd, phase: Phase, address: Option<Box<SockAddr>>) -> Self {
        Self {
            channel,
            fd,
            phase,
            in_flight: 0,
            connect: InKernel::No,
            receive: InKernel::No,
            send: InKernel::No,
            cancel_dial: false,
            wants_reading: false,
            starved: false,
            fed: false,
            receive_ended: false,
            dial_errno: None,
            address,
            send_op: None,
        }
    }

    pub(crate) fn connected(channel: ChannelId, fd: Fd) -> Self {
        Self::new(channel, fd, Phase::Connected, None)
    }

    pub(crate) fn dialing(channel: ChannelId, fd: Fd, address: SockAddr) -> Self {
        Self::new(channel, fd, Phase::Connecting, Some(Box::new(address)))
    }

    pub(crate) fn channel(&self) -> ChannelId {
        self.channel
    }

    pub(crate) fn fd(&self) -> Fd {
        self.fd
    }

    pub(crate) fn address(&self) -> Option<&SockAddr> {
        self.address.as_deref()
    }

    pub(crate) fn send_op(&mut self) -> Option<&mut SendOp> {
        self.send_op.as_mut()
    }

    pub(crate) fn is_connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. } | Phase::CloseSubmitted)
    }

    // What is wanted.

    pub(crate) fn want_reading(&mut self, reading: bool) {
        self.wants_reading = reading;
    }

    pub(crate) fn cancel_dial(&mut self) {
        self.cancel_dial = true;
    }

    pub(crate) fn queue_send(&mut self, batch: Box<Batch>) {
        assert!(self.send_op.is_none(), "one send at a time for a channel");
        self.send_op = Some(SendOp::new(batch));
    }

    /// Returns the batch when the kernel does not have it and never will.
    pub(crate) fn close(&mut self, reset: bool) -> Option<SendOp> {
        assert_eq!(self.phase, Phase::Connected, "a channel is closed once, and a dial is cancelled");
        self.phase = Phase::Closing { reset };
        self.starved = false;
        if self.send == InKernel::No { self.send_op.take() } else { None }
    }

    /// Lets it wait for [`Socket::feed`]. False when it does already, or the kernel has a receive.
    pub(crate) fn starve(&mut self) -> bool {
        self.receive == InKernel::No && !std::mem::replace(&mut self.starved, true)
    }

    /// There are buffers again. True when it waited for them.
    pub(crate) fn feed(&mut self) -> bool {
        let is_fed = std::mem::take(&mut self.starved);
        self.fed |= is_fed && self.wants_reading;
        is_fed
    }

    // The difference between what is wanted and what the kernel has.

    /// The next operation to submit; it counts as submitted.
    pub(crate) fn next_op(&mut self) -> Option<Op> {
        let op = match self.phase {
            Phase::Connecting => self.next_connect_op(),
            Phase::Connected => self.next_receive_op().or_else(|| self.next_send_op()),
            Phase::Closing { reset } => self.next_close_op(reset),
            Phase::CloseSubmitted => None,
        }?;
        self.in_flight += 1;
        Some(op)
    }

    fn next_connect_op(&mut self) -> Option<Op> {
        match self.connect {
            InKernel::No => {
                self.connect = InKernel::Yes;
                Some(Op::Connect)
            }
            InKernel::Yes if self.cancel_dial => {
                self.connect = InKernel::Cancelling;
                Some(Op::CancelConnect)
            }
            InKernel::Yes | InKernel::Cancelling => None,
        }
    }

    fn next_receive_op(&mut self) -> Option<Op> {
        match self.receive {
            InKernel::No if self.wants_reading && !self.starved && !self.receive_ended => {
                self.receive = InKernel::Yes;
                Some(Op::Receive)
            }
            InKernel::Yes if !self.wants_reading => {
                self.receive = InKernel::Cancelling;
                Some(Op::CancelReceive)
            }
            InKernel::No | InKernel::Yes | InKernel::Cancelling => None,
        }
    }

    fn next_send_op(&mut self) -> Option<Op> {
        (self.send == InKernel::No && self.send_op.is_some()).then(|| {
            self.send = InKernel::Yes;
            Op::Send
        })
    }

    /// An orderly close has been announced by `shutdown(2)`, which ends what is in flight; a reset has to cancel it.
    fn next_close_op(&mut self, reset: bool) -> Option<Op> {
        if reset && self.receive == InKernel::Yes {
            self.receive = InKernel::Cancelling;
            return Some(Op::CancelReceive);
        }
        if reset && self.send == InKernel::Yes {
            self.send = InKernel::Cancelling;
            if planted!(FreeOnCancel) {
                self.send_op = None;
            }
            return Some(Op::CancelSend);
        }
        (self.in_flight == 0 || planted!(EarlyClose)).then(|| {
            self.phase = Phase::CloseSubmitted;
            Op::Close
        })
    }

    // What came of it.

    fn ended(&mut self) {
        assert!(self.in_flight > 0, "an operation ended that was not in flight");
        self.in_flight -= 1;
    }

    pub(crate) fn handle_cancelled(&mut self) {
        self.ended();
        if planted!(CancelIsEnd) {
            self.receive = InKernel::No;
        }
    }

    /// What was dialed, when that succeeded; else the socket closes, and [`Socket::handle_closed`] tells why.
    pub(crate) fn handle_connect(&mut self, result: i32) -> Option<Box<SockAddr>> {
        self.ended();
        self.connect = InKernel::No;
        let address = self.address.take();
        self.phase = if result < 0 {
            self.dial_errno = Some(Errno(-result));
            Phase::Closing { reset: false }
        } else {
            Phase::Connected
        };
        address.filter(|_| result >= 0)
    }

    pub(crate) fn handle_receive(&mut self, result: i32, more: bool) -> Received {
        assert!(self.receive != InKernel::No, "a receive completed that was not armed");
        let cancelling = self.receive == InKernel::Cancelling;
        if !more {
            self.ended();
            self.receive = if planted!(NoRearm) && result > 0 { InKernel::Yes } else { InKernel::No };
        }
        if self.is_closing() || cancelling && planted!(DropOnPause) {
            return Received::Nothing;
        }
        match usize::try_from(result) {
            Ok(0) => {
                self.receive_ended = true;
                Received::Eof
            }
            Ok(len) => {
                self.fed = false;
                Received::Data(len)
            }
            Err(_) => match -result {
                libc::ENOBUFS => {
                    self.starved = !cancelling;
                    if self.starved { Received::Starved { in_vain: self.fed } } else { Received::Nothing }
                }
                // ECANCELED comes unasked when the kernel could not wait for the socket again.
                libc::ECANCELED | libc::EAGAIN | libc::EINTR => Received::Nothing,
                errno => {
                    self.receive_ended = true;
                    Received::Failed(Errno(errno))
                }
            },
        }
    }

    pub(crate) fn handle_send(&mut self, result: i32) -> SendEnd {
        assert!(self.send != InKernel::No, "a send completed that was not submitted");
        self.ended();
        self.send = InKernel::No;
        let closing = self.is_closing();
        let batch = self.send_op.as_mut().expect("the batch stays until its send ended").batch();
        match usize::try_from(result) {
            // The kernel takes something of what is not empty, or says why not.
            Ok(0) => SendEnd::Failed(Errno(libc::EPIPE)),
            Ok(taken) if planted!(DoubleSend) && !closing && taken < batch.len() => SendEnd::Short,
            Ok(taken) if planted!(DropPartialCancel) && closing && taken < batch.len() => {
                SendEnd::Failed(Errno(libc::ECANCELED))
            }
            Ok(taken) => {
                batch.advance(taken);
                match (batch.is_written() || planted!(ShortIsDone), closing) {
                    (true, _) => SendEnd::Done,
                    (false, false) => SendEnd::Short,
                    (false, true) => SendEnd::Failed(Errno(libc::ECANCELED)),
                }
            }
            Err(_) => match -result {
                libc::ECANCELED | libc::EAGAIN | libc::EINTR if !closing => SendEnd::Short,
                errno => SendEnd::Failed(Errno(errno)),
            },
        }
    }

    /// The send that is done or failed.
    pub(crate) fn take_send(&mut self) -> SendOp {
        assert_eq!(self.send, InKernel::No, "the kernel still reads the batch");
        self.send_op.take().expect("a send has a batch")
    }

    /// True when a receive ought to be armed, and is not: only a lack of buffers excuses it, or a push to come.
    #[cfg(feature = "sim")]
    pub(crate) fn is_deaf(&self) -> bool {
        let wants = self.phase == Phase::Connected && self.wants_reading && !self.receive_ended;
        wants && self.receive == InKernel::No
    }

    #[cfg(feature = "sim")]
    pub(crate) fn is_starved(&self) -> bool {
        self.starved
    }

    /// The descriptor is closed: the last there is to say of this socket.
    pub(crate) fn handle_closed(&mut self) -> Ending {
        self.ended();
        assert_eq!((self.phase, self.in_flight), (Phase::CloseSubmitted, 0));
        debug_assert!(self.send_op.is_none(), "a batch goes back before its channel is closed");
        self.dial_errno.map_or(Ending::Closed, Ending::DialFailed)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn socket() -> Socket {
        Socket::connected(ChannelId::new(1, 1), Fd(7))
    }

    fn reading() -> Socket {
        let mut socket = socket();
        socket.want_reading(true);
        assert_eq!(socket.next_op(), Some(Op::Receive));
        assert_eq!(socket.next_op(), None);
        socket
    }

    fn sending() -> Socket {
        let mut socket = socket();
        let mut batch = Box::<Batch>::default();
        batch.push_shared(Bytes::from_static(b"hello"));
        socket.queue_send(batch);
        assert_eq!(socket.next_op(), Some(Op::Send));
        socket
    }

    #[test]
    fn a_receive_that_ended_is_armed_again_whatever_ended_it() {
        for (result, expected) in [
            (5, Received::Data(5)),
            (-libc::ECANCELED, Received::Nothing),
            (-libc::EAGAIN, Received::Nothing),
            (-libc::EINTR, Received::Nothing),
        ] {
            let mut socket = reading();
            assert_eq!(socket.handle_receive(result, false), expected);
            assert_eq!(socket.next_op(), Some(Op::Receive), "{result}");
        }
    }

    #[test]
    fn a_receive_that_goes_on_is_not_armed_twice() {
        let mut socket = reading();
        assert_eq!(socket.handle_receive(5, true), Received::Data(5));
        assert_eq!(socket.next_op(), None);
    }

    #[test]
    fn after_eof_or_an_error_nothing_is_armed() {
        for (result, expected) in [(0, Received::Eof), (-104, Received::Failed(Errno(104)))] {
            let mut socket = reading();
            assert_eq!(socket.handle_receive(result, false), expected);
            assert_eq!(socket.next_op(), None);
        }
    }

    #[test]
    fn a_starved_socket_waits_until_it_is_fed() {
        let mut socket = reading();
        for in_vain in [false, true] {
            assert_eq!(socket.handle_receive(-libc::ENOBUFS, false), Received::Starved { in_vain });
            assert_eq!(socket.next_op(), None);
            assert!(socket.feed());
            assert_eq!(socket.next_op(), Some(Op::Receive));
        }
        assert_eq!(socket.handle_receive(1, true), Received::Data(1));
        assert_eq!(socket.handle_receive(-libc::ENOBUFS, false), Received::Starved { in_vain: false });
        socket.close(false);
        assert!(!socket.feed(), "one that closes needs no buffer");
    }

    #[test]
    fn a_resume_during_the_cancel_arms_again_when_the_cancel_is_through() {
        let mut socket = reading();
        socket.want_reading(false);
        assert_eq!(socket.next_op(), Some(Op::CancelReceive));
        socket.want_reading(true);
        assert_eq!(socket.next_op(), None);
        assert_eq!(socket.handle_receive(9, true), Received::Data(9));
        assert_eq!(socket.handle_receive(-libc::ECANCELED, false), Received::Nothing);
        assert_eq!(socket.next_op(), Some(Op::Receive));
        socket.handle_cancelled();
        assert_eq!(socket.next_op(), None);
    }

    #[test]
    fn a_short_send_goes_on_and_an_unasked_cancel_does_too() {
        for result in [2, -libc::EAGAIN, -libc::ECANCELED] {
            let mut socket = sending();
            assert_eq!(socket.handle_send(result), SendEnd::Short);
            assert_eq!(socket.next_op(), Some(Op::Send), "{result}");
        }
    }

    #[test]
    fn a_reset_cancels_counts_what_went_out_and_closes_last() {
        let mut socket = sending();
        socket.want_reading(true);
        assert_eq!(socket.next_op(), Some(Op::Receive));
        assert!(socket.close(true).is_none(), "the kernel has the batch");
        assert_eq!(socket.next_op(), Some(Op::CancelReceive));
        assert_eq!(socket.next_op(), Some(Op::CancelSend));
        socket.handle_cancelled();
        assert_eq!(socket.handle_send(3), SendEnd::Failed(Errno(libc::ECANCELED)));
        assert_eq!(socket.take_send().batch().written(), 3);
        assert_eq!(socket.next_op(), None);
        socket.handle_cancelled();
        assert_eq!(socket.handle_receive(4, true), Received::Nothing);
        assert_eq!(socket.handle_receive(-libc::ECANCELED, false), Received::Nothing);
        assert_eq!(socket.next_op(), Some(Op::Close));
        assert_eq!(socket.next_op(), None);
        assert_eq!(socket.handle_closed(), Ending::Closed);
    }

    #[test]
    fn a_batch_the_kernel_never_had_comes_back_at_the_close() {
        let mut socket = socket();
        let mut batch = Box::<Batch>::default();
        batch.push_shared(Bytes::from_static(b"1"));
        socket.queue_send(batch);
        assert!(socket.close(false).is_some());
        assert_eq!(socket.next_op(), Some(Op::Close));
    }

    #[test]
    fn a_failed_dial_is_told_when_its_descriptor_is_closed() {
        let address = SockAddr::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
        let mut socket = Socket::dialing(ChannelId::new(1, 1), Fd(7), address);
        assert_eq!(socket.next_op(), Some(Op::Connect));
        socket.cancel_dial();
        assert_eq!(socket.next_op(), Some(Op::CancelConnect));
        assert_eq!(socket.next_op(), None);
        assert!(socket.handle_connect(-libc::ECANCELED).is_none());
        assert_eq!(socket.next_op(), None, "the cancel has not ended");
        socket.handle_cancelled();
        assert_eq!(socket.next_op(), Some(Op::Close));
        assert_eq!(socket.handle_closed(), Ending::DialFailed(Errno(libc::ECANCELED)));
    }
}
