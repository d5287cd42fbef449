//! What the program asks of a channel. All of it may be asked at any time, in any order, again and again; it takes
//! effect with the channel's next submissions.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;

use super::dial::Attempt;
use super::lifecycle::{Ending, PauseReasons};
use super::{Channel, ChunkPool, Phase};
use crate::clock::Mono;
use crate::config::Mode;
use crate::error::{CloseReason, ClosedBy, SendError};
use crate::link;

/// What many channels are sent, made once for all of them.
#[derive(Debug)]
pub(crate) struct Common {
    bytes: Bytes,
    /// In message mode: header and message in one piece, for peers that take it in one frame.
    frame: Option<Bytes>,
}

impl Common {
    pub(crate) fn new(bytes: &Bytes, mode: Mode) -> Self {
        let frame = match mode {
            Mode::Message => link::whole_frame(bytes),
            Mode::Stream => None,
        };
        Self { bytes: bytes.clone(), frame }
    }
}

/// Whether a send is held against `outbox_max`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cap {
    Holds,
    /// It was held against it when it was posted: see `Slots::charge`.
    Passed,
}

impl Channel {
    /// Queues bytes, in message mode one message; copies them. All or nothing.
    pub(crate) fn send(&mut self, bytes: &[u8], pool: &mut ChunkPool) -> Result<(), SendError> {
        self.send_copied(&[bytes], Cap::Holds, pool)
    }

    /// As [`Channel::send`], for bytes that do not lie in one piece.
    pub(crate) fn send_parts(&mut self, parts: &[&[u8]], pool: &mut ChunkPool) -> Result<(), SendError> {
        self.send_copied(parts, Cap::Holds, pool)
    }

    /// Queues what other threads posted after `Slots::charge` found room for it: so many messages, framed already.
    pub(crate) fn send_posted(
        &mut self,
        framed: &[u8],
        messages: usize,
        pool: &mut ChunkPool,
    ) -> Result<(), SendError> {
        if !self.takes_sends() {
            return Err(self.refuse_send(framed.len()));
        }
        self.outbox.push(framed, pool);
        self.count_sent(framed.len(), messages);
        Ok(())
    }

    // With what it calls one function, always: a call each costs a small message a tenth (benches/instructions.txt).
    #[inline(always)]
    fn send_copied(&mut self, parts: &[&[u8]], cap: Cap, pool: &mut ChunkPool) -> Result<(), SendError> {
        let len = parts.iter().map(|part| part.len()).sum();
        let size = self.admit_message(len, cap)?;
        match self.settings.mode {
            Mode::Stream => parts.iter().for_each(|part| self.outbox.push(part, pool)),
            Mode::Message => match self.link.framing().whole_header(len) {
                Some(header) => self.outbox.push_frame(header, parts, len, pool),
                None => self.push_frames(parts, pool),
            },
        }
        self.count_sent(size, 1);
        Ok(())
    }

    #[cold]
    fn push_frames(&mut self, parts: &[&[u8]], pool: &mut ChunkPool) {
        let bytes = if let [whole] = parts { Cow::Borrowed(*whole) } else { Cow::Owned(parts.concat()) };
        for (header, range) in self.link.framing().frames(bytes.len()) {
            self.outbox.push_frame(header, &[&bytes[range.clone()]], range.len(), pool);
        }
    }

    /// As [`Channel::send`], but large bytes go by reference.
    pub(crate) fn send_bytes(&mut self, bytes: Bytes, pool: &mut ChunkPool) -> Result<(), SendError> {
        self.send_shared(bytes, Cap::Holds, pool)
    }

    /// As [`Channel::send_bytes`], for what another thread posted.
    pub(crate) fn send_bytes_posted(&mut self, bytes: Bytes, pool: &mut ChunkPool) -> Result<(), SendError> {
        self.send_shared(bytes, Cap::Passed, pool)
    }

    /// Another thread's send was accepted when it was posted, and came when nothing could be sent any more: it is
    /// reported as unsent.
    pub(crate) fn count_too_late(&mut self, size: usize) {
        self.totals.accepted += size as u64;
    }

    /// As [`Channel::send_bytes`], for what many channels get: it is copied for none of them.
    pub(crate) fn send_common(&mut self, common: &Common, pool: &mut ChunkPool) -> Result<(), SendError> {
        let piece = match &common.frame {
            Some(frame) if self.link.framing().whole_header(common.bytes.len()).is_some() => frame,
            None if self.settings.mode == Mode::Stream => &common.bytes,
            Some(_) | None => return self.send_bytes(common.bytes.clone(), pool),
        };
        let size = self.admit_message(common.bytes.len(), Cap::Holds)?;
        self.outbox.push_common(piece, pool);
        self.count_sent(size, 1);
        Ok(())
    }

    fn send_shared(&mut self, bytes: Bytes, cap: Cap, pool: &mut ChunkPool) -> Result<(), SendError> {
        let size = self.admit_message(bytes.len(), cap)?;
        match self.settings.mode {
            Mode::Stream => self.outbox.push_shared(bytes, pool),
            Mode::Message => {
                for (header, range) in self.link.framing().frames(bytes.len()) {
                    self.outbox.push(&header, pool);
                    self.outbox.push_shared(bytes.slice(range), pool);
                }
            }
        }
        self.count_sent(size, 1);
        Ok(())
    }

    /// The bytes a message of `len` takes in the outbox, if it may go there.
    #[inline(always)]
    fn admit_message(&mut self, len: usize, cap: Cap) -> Result<usize, SendError> {
        let mut size = len;
        if self.settings.mode == Mode::Message && self.phase == Phase::Open {
            let max = self.link.max_message();
            if len > max {
                return Err(SendError::TooBig { size: len, max });
            }
            size = self.link.framing().framed_len(len);
        }
        let has_room = || cap == Cap::Passed || self.settings.room().takes(self.outbox.queued(), size);
        if self.takes_sends() && has_room() {
            return Ok(size);
        }
        Err(self.refuse_send(size))
    }

    /// Only an open channel takes anything.
    #[inline]
    fn takes_sends(&self) -> bool {
        self.phase == Phase::Open && !self.is_sending_over()
    }

    #[cold]
    fn refuse_send(&mut self, size: usize) -> SendError {
        let (queued, max) = (self.outbox.queued(), self.settings.room().max());
        match self.phase {
            _ if self.is_sending_over() => SendError::Closed,
            Phase::Resolving | Phase::Dialing | Phase::Opening => SendError::NotOpen,
            Phase::Open if !self.settings.room().takes(0, size) => SendError::TooBig { size, max },
            Phase::Open => {
                self.facts.refused = true;
                self.settings.counters.sends_refused.add(1);
                SendError::WouldBlock { queued, size, max }
            }
            Phase::Broken | Phase::Flushing | Phase::Lingering | Phase::Closing | Phase::Closed => {
                SendError::Closed
            }
        }
    }

    /// Another thread has sent, or tried to, and is to know how much is queued.
    pub(crate) fn note_posted(&mut self) {
        self.facts.posted_to = true;
    }

    /// Another thread was refused for want of room, and waits to be called back.
    pub(crate) fn note_refused(&mut self) {
        self.facts.refused = true;
        self.note_drained(false);
    }

    #[inline]
    fn count_sent(&mut self, size: usize, messages: usize) {
        self.count_accepted(size);
        if self.settings.mode == Mode::Message {
            self.totals.messages_out += messages as u64;
            self.settings.counters.messages_out.add(messages as u64);
        }
    }

    /// A callback is done with the message of [`Event::Assembled`](super::Event::Assembled).
    pub(crate) fn give_back(&mut self, message: Vec<u8>) {
        if !self.facts.discarding {
            self.link.give_back(message);
        }
    }

    /// Stops delivering and reading. What is on the way from the kernel is held.
    pub(crate) fn pause(&mut self) {
        self.pauses.insert(PauseReasons::USER);
    }

    /// Goes on delivering, what is held first, and then reading.
    pub(crate) fn resume(&mut self) {
        self.pauses.remove(PauseReasons::USER);
    }

    /// Sends FIN after everything queued. What the peer sends is still received; when it has sent its FIN too, the
    /// channel closes.
    pub(crate) fn shutdown_write(&mut self) {
        self.facts.fin_wanted = true;
        self.facts.drained = false;
    }

    /// Ends the channel in good order: what is queued is sent, then FIN, and the peer's FIN is awaited, each for a
    /// while. What is received from now on, and what is held, is discarded.
    ///
    /// Where links end by GOAWAY, a peer that just closed the connection has ended it, whoever closes after it.
    pub(crate) fn close(&mut self) {
        self.end(match self.settings.mode {
            Mode::Message if self.is_at_eof() => Ending::new(CloseReason::PeerClosed, ClosedBy::Peer),
            Mode::Message | Mode::Stream => Ending::new(CloseReason::Normal, ClosedBy::Us),
        });
    }

    /// [`Channel::close`] for another reason, which the peer is told where there is a way to.
    pub(crate) fn fail(&mut self, reason: CloseReason, by: ClosedBy, detail: Option<Box<str>>) {
        self.end(Ending::new(reason, by).with_detail(detail));
    }

    /// The node is shut down: [`Channel::fail`], with what is queued sent until then.
    pub(crate) fn stop(&mut self, until: Mono) {
        self.close_until.get_or_insert(until);
        self.fail(CloseReason::Shutdown, ClosedBy::Us, None);
    }

    fn latch_and_tell(&mut self, ending: Ending) {
        if ending.by == ClosedBy::Us {
            let retry_after = ending.retry_after.unwrap_or_default();
            self.link.go_away(ending.reason, retry_after, ending.detail.as_deref().unwrap_or_default());
        }
        self.latch(ending);
    }

    /// The program may hear of the channel: it is the link to its peer.
    pub(crate) fn admit(&mut self) {
        self.facts.admitted = true;
    }

    pub(crate) fn is_admitted(&self) -> bool {
        self.facts.admitted
    }

    /// [`Event::Confirmed`](super::Event::Confirmed) is to come as soon as any frame proves that the peer has
    /// established this link; the peer is asked for one.
    pub(crate) fn watch(&mut self) {
        self.facts.watched = true;
        if !self.is_confirmed() {
            self.link.ask();
        }
    }

    /// True when a frame came after the peer's hello.
    pub(super) fn is_confirmed(&self) -> bool {
        self.totals.messages_in > 0 || self.early.is_some() || self.link.is_confirmed()
    }

    /// Ends a channel in whose place there is another to the same peer. What is queued is sent, as by
    /// [`Channel::close`]; and what the peer sends until it has heard of it is still delivered.
    pub(crate) fn retire(&mut self, reason: CloseReason) {
        debug_assert!(self.link.is_established(), "two links were compared");
        if matches!(self.phase, Phase::Opening | Phase::Open) {
            self.latch_and_tell(Ending::new(reason, ClosedBy::Us));
            self.facts.drained = false;
            self.enter(Phase::Flushing);
        }
    }

    /// [`Channel::fail`], with the time for which the peer should not dial again.
    pub(crate) fn refuse(&mut self, reason: CloseReason, retry_after: Duration, detail: Option<Box<str>>) {
        let retry_after = (!retry_after.is_zero()).then_some(retry_after);
        self.end(Ending { retry_after, ..Ending::new(reason, ClosedBy::Us).with_detail(detail) });
    }

    /// Ends the channel at once, by RST. What is queued or held is dropped.
    pub(crate) fn abort(&mut self) {
        self.cut(CloseReason::Aborted);
    }

    /// [`Channel::abort`] for another reason, which the peer is not told.
    pub(crate) fn cut(&mut self, reason: CloseReason) {
        let ending = Ending::new(reason, ClosedBy::Us);
        match self.phase {
            Phase::Resolving | Phase::Dialing => self.end_dial(ending),
            Phase::Opening | Phase::Open => {
                self.latch(ending);
                self.discard_received();
                self.enter_closing(true);
            }
            Phase::Flushing | Phase::Broken | Phase::Lingering => {
                if !self.outbox.is_empty() {
                    self.overrule(ending);
                }
                self.discard_received();
                self.enter_closing(true);
            }
            Phase::Closing | Phase::Closed => {
                self.facts.reset |= !self.facts.close_submitted;
                self.discard_received();
            }
        }
    }

    pub(super) fn end(&mut self, ending: Ending) {
        match self.phase {
            Phase::Resolving | Phase::Dialing => self.end_dial(ending),
            Phase::Opening | Phase::Open => {
                self.latch_and_tell(ending);
                self.enter_flushing();
            }
            Phase::Broken => {
                self.discard_received();
                self.enter_closing(true);
            }
            Phase::Flushing | Phase::Lingering | Phase::Closing | Phase::Closed => self.discard_received(),
        }
    }

    fn end_dial(&mut self, ending: Ending) {
        self.latch(ending);
        let dial = self.dial.as_mut().expect("what is being dialed has a dial");
        if self.phase == Phase::Resolving || dial.attempt == Attempt::Wanted {
            // The driver has not heard of it.
            return self.enter(Phase::Closed);
        }
        dial.cancel();
    }
}
