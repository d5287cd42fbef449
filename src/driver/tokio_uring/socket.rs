//! One socket: what is wanted of it, what runs for it, and what is to be started next. Pure, as its native counterpart,
//! and shorter: a task hides what an operation takes, and none can be cancelled.

use std::rc::Rc;

use socket2::SockAddr;
use tokio::sync::Notify;
use tokio_uring::net::TcpStream;

use crate::driver::Batch;
use crate::id::ChannelId;

/// The next operation for a socket.
pub(super) enum Op {
    Dial(socket2::Socket, SockAddr, Rc<Notify>),
    Receive(Rc<TcpStream>),
    Send(Rc<TcpStream>, Box<Batch>),
    /// Nothing runs any more: the descriptor is closed by dropping it.
    Close(Rc<TcpStream>),
}

enum Phase {
    Dialing {
        /// Until the dial is started.
        prepared: Option<(socket2::Socket, SockAddr)>,
        cancel: Rc<Notify>,
    },
    Open(Rc<TcpStream>),
    /// Nothing is started any more; the descriptor is closed when what runs has ended.
    Closing(Rc<TcpStream>),
    Closed,
}

/// Invariant: `receiving` and `sending` exactly while such a task runs, and at most one of each.
pub(super) struct Socket {
    channel: ChannelId,
    phase: Phase,
    wants_reading: bool,
    receiving: bool,
    /// True after end of file or an error: nothing is received any more.
    receive_ended: bool,
    /// Waits for its task to be started.
    batch: Option<Box<Batch>>,
    sending: bool,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("channel", &self.channel).finish_non_exhaustive()
    }
}

impl Socket {
    fn new(channel: ChannelId, phase: Phase) -> Self {
        Self {
            channel,
            phase,
            wants_reading: false,
            receiving: false,
            receive_ended: false,
            batch: None,
            sending: false,
        }
    }

    pub(super) fn open(channel: ChannelId, stream: TcpStream) -> Self {
        Self::new(channel, Phase::Open(Rc::new(stream)))
    }

    pub(super) fn dialing(channel: ChannelId, socket: socket2::Socket, address: SockAddr) -> Self {
        Self::new(channel, Phase::Dialing { prepared: Some((socket, address)), cancel: Rc::default() })
    }

    pub(super) fn channel(&self) -> ChannelId {
        self.channel
    }

    /// The stream of an open socket.
    pub(super) fn stream(&self) -> &TcpStream {
        let Phase::Open(stream) = &self.phase else { unreachable!("the channel is open") };
        stream
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    pub(super) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing(_) | Phase::Closed)
    }

    // What is wanted.

    pub(super) fn want_reading(&mut self, reading: bool) {
        self.wants_reading = reading;
    }

    /// Does nothing once the dial has succeeded.
    pub(super) fn cancel_dial(&self) {
        if let Phase::Dialing { cancel, .. } = &self.phase {
            cancel.notify_one();
        }
    }

    pub(super) fn queue_send(&mut self, batch: Box<Batch>) {
        assert!(self.batch.is_none() && !self.sending, "one send at a time for a channel");
        self.batch = Some(batch);
    }

    /// Returns the batch whose task is not started and never will be.
    pub(super) fn close(&mut self) -> Option<Box<Batch>> {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Open(stream) => Phase::Closing(stream),
            Phase::Dialing { .. } | Phase::Closing(_) | Phase::Closed => {
                unreachable!("a channel is closed once, and a dial is cancelled")
            }
        };
        self.batch.take()
    }

    /// The next operation to start; it counts as started.
    pub(super) fn next_op(&mut self) -> Option<Op> {
        match &mut self.phase {
            Phase::Dialing { prepared, cancel } => {
                let (socket, address) = prepared.take()?;
                Some(Op::Dial(socket, address, Rc::clone(cancel)))
            }
            Phase::Open(stream) => {
                if self.wants_reading && !self.receiving && !self.receive_ended {
                    self.receiving = true;
                    return Some(Op::Receive(Rc::clone(stream)));
                }
                let batch = self.batch.take()?;
                self.sending = true;
                Some(Op::Send(Rc::clone(stream), batch))
            }
            Phase::Closing(_) if self.receiving || self.sending => None,
            Phase::Closing(_) => match std::mem::replace(&mut self.phase, Phase::Closed) {
                Phase::Closing(stream) => Some(Op::Close(stream)),
                Phase::Dialing { .. } | Phase::Open(_) | Phase::Closed => unreachable!("it was closing"),
            },
            Phase::Closed => None,
        }
    }

    // What came of it.

    pub(super) fn handle_dialed(&mut self, stream: TcpStream) {
        assert!(matches!(self.phase, Phase::Dialing { prepared: None, .. }), "the dial was started");
        self.phase = Phase::Open(Rc::new(stream));
    }

    pub(super) fn handle_receive_end(&mut self, is_last: bool) {
        assert!(self.receiving, "a receive ended that did not run");
        self.receiving = false;
        self.receive_ended = is_last;
    }

    pub(super) fn handle_send_end(&mut self) {
        assert!(self.sending, "a send ended that did not run");
        self.sending = false;
    }
}
