//! The way up: completions of the kernel to what they mean for a channel.

use super::kernel::{Cqe, Fd, Kernel};
use super::socket::{Ending, Received, SendEnd, Socket};
use super::token::{OpKind, Token};
use super::{Outcome, UringDriver};
use crate::addr::{Endpoint, Endpoints};
use crate::driver::acceptor::AcceptEnd;
use crate::driver::{Accepted, Completion, ListenerId, sockets};
use crate::error::Errno;
use crate::id::ChannelId;

impl<K: Kernel> UringDriver<K> {
    pub(super) fn next_outcome(&mut self) -> Option<Outcome> {
        loop {
            if let Some(outcome) = self.ready.pop_front() {
                return Some(outcome);
            }
            let Some(cqe) = self.kernel.next_cqe() else {
                self.note_recovered_acceptors();
                return self.ready.pop_front();
            };
            self.counters.completions.add(1);
            if let Some(outcome) = self.handle_cqe(cqe) {
                return Some(outcome);
            }
        }
    }

    /// The order is the rule: first the buffer, then whether the operation goes on, then the result.
    fn handle_cqe(&mut self, cqe: Cqe) -> Option<Outcome> {
        if let Some(buffer) = cqe.buffer {
            self.buffers.take(buffer);
        }
        if !cqe.more {
            self.in_flight -= 1;
        }
        let outcome = self.dispatch(cqe);
        match (&outcome, cqe.buffer) {
            (Some(Outcome::Received { .. }), _) | (_, None) => {}
            (Some(Outcome::Other(_)) | None, Some(_)) if planted!(LostBuffer) => {}
            (Some(Outcome::Other(_)) | None, Some(buffer)) => self.give_back(buffer),
        }
        outcome
    }

    fn dispatch(&mut self, cqe: Cqe) -> Option<Outcome> {
        let Some(token) = Token::from_user_data(cqe.user_data) else {
            self.counters.stale_completions.add(1);
            return None;
        };
        match token.kind {
            OpKind::Wake => {
                self.wake_armed = cqe.more || planted!(LostWake);
                (cqe.result >= 0).then(|| Completion::Woken.into())
            }
            OpKind::CancelWake => None,
            OpKind::Accept => self.handle_accept(ListenerId(token.slot), cqe),
            OpKind::CancelAccept => {
                let listener = ListenerId(token.slot);
                if let Some(acceptor) = self.acceptors.get_mut(listener) {
                    acceptor.handle_cancelled();
                }
                self.close_listener_if_done(listener);
                None
            }
            OpKind::Connect
            | OpKind::Receive
            | OpKind::Send
            | OpKind::Close
            | OpKind::CancelConnect
            | OpKind::CancelReceive
            | OpKind::CancelSend => self.dispatch_to_socket(token, cqe),
        }
    }

    fn dispatch_to_socket(&mut self, token: Token, cqe: Cqe) -> Option<Outcome> {
        let slot = token.slot;
        let socket = self.sockets.get_mut(slot);
        let Some(socket) = socket.filter(|socket| socket.channel().generation() == token.generation) else {
            debug_assert!(false, "a completion for a channel that is gone: {token:?}");
            self.counters.stale_completions.add(1);
            return None;
        };
        let channel = socket.channel();
        match token.kind {
            OpKind::Receive => {
                let received = socket.handle_receive(cqe.result, cqe.more);
                // One that goes on makes no other operation due.
                if !cqe.more {
                    self.sockets.mark_changed(slot);
                }
                self.received(channel, received, cqe)
            }
            OpKind::Send => {
                let end = socket.handle_send(cqe.result);
                // One that is done makes another due only where the close waits for it.
                if end != SendEnd::Done || socket.is_closing() {
                    self.sockets.mark_changed(slot);
                }
                self.sent(channel, end)
            }
            OpKind::Connect => {
                self.sockets.mark_changed(slot);
                self.handle_connect(slot, cqe.result)
            }
            OpKind::Close => Some(self.handle_closed(slot)),
            OpKind::CancelConnect | OpKind::CancelReceive | OpKind::CancelSend => {
                socket.handle_cancelled();
                self.sockets.mark_changed(slot);
                None
            }
            OpKind::Accept | OpKind::CancelAccept | OpKind::Wake | OpKind::CancelWake => {
                unreachable!("not an operation of a socket")
            }
        }
    }

    fn received(&mut self, channel: ChannelId, received: Received, cqe: Cqe) -> Option<Outcome> {
        match received {
            Received::Data(len) => {
                if !cqe.more {
                    self.counters.receives_rearmed.add(1);
                }
                let buffer = cqe.buffer.expect("bytes are received into provided buffers alone");
                Some(Outcome::Received { channel, buffer, len })
            }
            Received::Eof => Some(Completion::PeerEof { channel }.into()),
            Received::Failed(errno) => Some(Completion::ReceiveFailed { channel, errno }.into()),
            Received::Starved { in_vain } => {
                self.counters.starvations.add(1);
                if !planted!(ForgetStarved) {
                    self.starved.push(channel, in_vain);
                }
                None
            }
            Received::Nothing => None,
        }
    }

    fn sent(&mut self, channel: ChannelId, end: SendEnd) -> Option<Outcome> {
        let error = match end {
            SendEnd::Done => None,
            SendEnd::Failed(errno) => Some(errno),
            SendEnd::Short => {
                self.counters.short_sends.add(1);
                return None;
            }
        };
        let send = self.sockets.get_mut(channel.slot())?.take_send();
        let batch = send.into_batch(&mut self.spare_gathers);
        Some(Completion::Sent { channel, batch, error }.into())
    }

    fn handle_connect(&mut self, slot: u32, result: i32) -> Option<Outcome> {
        let socket = self.sockets.get_mut(slot)?;
        let (channel, fd) = (socket.channel(), socket.fd());
        let address = socket.handle_connect(result)?;
        // A peer that is gone again already has no address any more; the receive will tell of it.
        let local = self.kernel.local_endpoint(fd).unwrap_or_else(|_| sockets::no_endpoint());
        let peer = self.kernel.peer_endpoint(fd).unwrap_or_else(|_| sockets::dialed_endpoint(&address));
        Some(Completion::Dialed { channel, endpoints: Box::new(Endpoints { local, peer }) }.into())
    }

    fn handle_closed(&mut self, slot: u32) -> Outcome {
        let mut socket = self.sockets.remove(slot).expect("its close was in flight");
        self.acceptors.descriptor_freed();
        let channel = socket.channel();
        match socket.handle_closed() {
            Ending::Closed => Completion::Closed { channel }.into(),
            Ending::DialFailed(errno) => Completion::DialFailed { channel, errno }.into(),
        }
    }

    fn handle_accept(&mut self, listener: ListenerId, cqe: Cqe) -> Option<Outcome> {
        let now = self.kernel.now();
        let acceptor = self.acceptors.get_mut(listener).expect("its accept was in flight");
        let result = if cqe.result < 0 { Err(Errno(-cqe.result)) } else { Ok(Fd(cqe.result)) };
        let end = acceptor.handle_accept(result, cqe.more, now);
        let local = acceptor.local.clone();
        let outcome = match end {
            AcceptEnd::Accepted(fd) => self.accepted(listener, fd, local),
            AcceptEnd::Paused(errno) => {
                self.counters.accepts_paused.add(1);
                Some(Completion::AcceptPaused { listener, errno }.into())
            }
            AcceptEnd::Failed(errno) => Some(Completion::ListenFailed { listener, errno }.into()),
            AcceptEnd::Nothing => None,
        };
        self.close_listener_if_done(listener);
        outcome
    }

    fn accepted(&mut self, listener: ListenerId, fd: Fd, listening: Endpoint) -> Option<Outcome> {
        // One that reset before it was accepted has no address any more, and is no connection.
        let Ok(peer) = self.kernel.peer_endpoint(fd) else {
            self.kernel.close(fd, None);
            return None;
        };
        // A listener on every address has to ask which one was dialed.
        let local = match listening.ip() {
            Some(ip) if ip.is_unspecified() => self.kernel.local_endpoint(fd).unwrap_or(listening),
            Some(_) | None => listening,
        };
        let socket = Accepted(u64::try_from(fd.0).expect("an accepted descriptor is not negative"));
        let endpoints = Box::new(Endpoints { local, peer });
        Some(Completion::Accepted { listener, socket, endpoints }.into())
    }

    fn note_recovered_acceptors(&mut self) {
        while let Some(listener) = self.acceptors.next_recovered() {
            self.ready.push_back(Completion::AcceptResumed { listener }.into());
        }
    }

    // Buffers.

    /// The loop has asked for the next thing, so it is done with the last.
    pub(super) fn give_back_lent(&mut self) {
        if let Some(buffer) = self.lent.take() {
            self.give_back(buffer);
        }
    }

    pub(super) fn give_back(&mut self, buffer: u16) {
        self.buffers.give_back(&mut *self.kernel, buffer);
    }

    /// True when a channel waits for a buffer and may have one; those that were fed may not need theirs.
    pub(super) fn can_feed(&self) -> bool {
        !self.starved.is_empty() && self.buffers.is_half_full()
    }

    /// Arms the longest waiting again when at least half of the buffers are back, and no more than there are buffers:
    /// the kernel picks a buffer before it looks for data, so arming without one fails at once. Their receives are pushed
    /// here, before all other operations, since the first that is submitted may take all buffers.
    pub(super) fn feed_starved(&mut self) {
        self.buffers.adapt(&mut *self.kernel, self.starved.len());
        if !self.can_feed() {
            return;
        }
        let mut left = self.buffers.kernel_count();
        while left > 0
            && let Some(channel) = self.starved.pop()
        {
            let socket = self.sockets.get_mut(channel.slot());
            // Its slot may be another's by now.
            let is_fed = socket.filter(|socket| socket.channel() == channel).is_some_and(Socket::feed);
            if is_fed && !self.push_ops_of(channel.slot()) {
                return;
            }
            left -= usize::from(is_fed);
        }
    }
}
