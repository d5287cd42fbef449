//! The state machine of a link in message mode: hello first, then messages and control frames, and one end.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Mono;
use crate::error::CloseReason;
use crate::stats::Counters;

use super::assembly::{Assembly, Budget, Piece};
use super::frame::{self, ControlFrame, Framing, Header, Kind};
use super::goaway::GoAway;
use super::heartbeat::{self, Heartbeat, Rtt};
use super::hello;
use super::identity::{LocalNode, PeerInfo};
use super::secure::Secure;
use super::{LinkError, LinkEvent};

/// A PING to be answered.
#[derive(Clone, Copy, Debug)]
struct Question {
    token: u64,
    received_at: Mono,
}

/// Our own GOAWAY: one at most.
#[derive(Debug)]
enum Farewell {
    Unsaid,
    Pending(GoAway),
    Said,
}

#[derive(Debug)]
pub(crate) struct MessageLink {
    /// True exactly when the link is established, has no error, and the next byte begins a frame that begins a message.
    at_boundary: bool,
    secure: Secure,
    max_frame: u32,
    /// The peer's, once known.
    framing: Framing,
    /// For sending: the lesser of both nodes'.
    max_message: usize,
    /// From the peer's hello on.
    heartbeat: Option<Heartbeat>,
    assembly: Assembly,
    control_budget: Budget,
    local: Arc<LocalNode>,
    peer: Option<Box<PeerInfo>>,
    error: Option<LinkError>,
    handshake_until: Mono,
    reading: bool,
    /// The peer sends nothing more.
    ended: bool,
    /// The peer has said GOAWAY.
    gone_away: bool,
    /// A frame came after the peer's hello that was read frame by frame, and was no GOAWAY.
    confirmed: bool,
    hello_pending: bool,
    /// The peer's last question, until it is answered: who asks anew does not wait for older answers.
    question: Option<Question>,
    farewell: Farewell,
}

impl MessageLink {
    pub(super) fn new(local: Arc<LocalNode>, counters: Arc<Counters>, now: Mono) -> Self {
        let limits = &local.limits;
        Self {
            at_boundary: false,
            secure: Secure::Off,
            max_frame: limits.max_frame,
            framing: Framing::by_frames_of(hello::MIN_MAX_FRAME),
            max_message: limits.max_message,
            heartbeat: None,
            assembly: Assembly::new(limits, counters),
            control_budget: Budget::new(limits.max_control_frames, now),
            peer: None,
            error: None,
            handshake_until: now + limits.handshake_timeout,
            reading: true,
            ended: false,
            gone_away: false,
            confirmed: false,
            hello_pending: true,
            question: None,
            farewell: Farewell::Unsaid,
            local,
        }
    }

    #[inline]
    pub(super) fn next_event<'b>(
        &mut self,
        input: &mut &'b [u8],
        now: Mono,
    ) -> Result<Option<LinkEvent<'b>>, LinkError> {
        let input = self.secure.open(input);
        match self.take_message(input) {
            Some(message) => Ok(Some(LinkEvent::Message(message))),
            None => self.next_event_of_any_kind(input, now),
        }
    }

    #[inline]
    pub(super) fn next_message<'b>(&mut self, input: &mut &'b [u8]) -> Option<&'b [u8]> {
        let input = self.secure.open(input);
        self.take_message(input)
    }

    #[inline]
    fn take_message<'b>(&self, input: &mut &'b [u8]) -> Option<&'b [u8]> {
        if self.at_boundary { frame::take_message(input, self.max_frame) } else { None }
    }

    /// Not the hot path; but every input ends here, so this is where life is noticed.
    #[inline(never)]
    fn next_event_of_any_kind<'b>(
        &mut self,
        input: &mut &'b [u8],
        now: Mono,
    ) -> Result<Option<LinkEvent<'b>>, LinkError> {
        self.error.clone().map_or(Ok(()), Err)?;
        debug_assert!(!self.ended || input.is_empty(), "bytes after the end");
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.handle_received(now);
        }
        let event = self.read(input, now);
        self.at_boundary = event.is_ok() && self.peer.is_some() && self.assembly.is_at_boundary();
        event.map_err(|error| self.latch(error))
    }

    fn read<'b>(&mut self, input: &mut &'b [u8], now: Mono) -> Result<Option<LinkEvent<'b>>, LinkError> {
        while let Some(piece) = self.assembly.next_piece(input)? {
            match piece {
                Piece::Header(header) => self.handle_header(header, now)?,
                Piece::Message(message) => return Ok(Some(LinkEvent::Message(message))),
                Piece::Assembled(message) => return Ok(Some(LinkEvent::Assembled(message))),
                Piece::Control(kind, payload) => {
                    if let Some(event) = self.handle_control(kind, &payload, now)? {
                        return Ok(Some(event));
                    }
                }
                Piece::Nothing => {}
            }
        }
        Ok(None)
    }

    /// Whether this frame may come now; its length is looked at last.
    fn handle_header(&mut self, header: Header, now: Mono) -> Result<(), LinkError> {
        let may_come = match header.kind {
            Kind::Hello => self.peer.is_none() && !self.gone_away,
            Kind::GoAway => !self.gone_away,
            Kind::Data | Kind::Ping | Kind::Pong | Kind::Ignorable(_) => self.peer.is_some(),
        };
        if !may_come {
            let detail = match (&self.peer, self.gone_away) {
                (_, true) => format!("a {:?} frame after GoAway", header.kind),
                (Some(_), false) => format!("a second {:?} frame", header.kind),
                (None, false) => format!("a {:?} frame before Hello", header.kind),
            };
            return Err(LinkError::new(CloseReason::Protocol, detail));
        }
        self.confirmed |= self.peer.is_some() && header.kind != Kind::GoAway;
        if header.kind != Kind::Data {
            self.control_budget.spend(now)?;
        }
        self.assembly.begin(header)
    }

    fn handle_control<'b>(
        &mut self,
        kind: Kind,
        payload: &[u8],
        now: Mono,
    ) -> Result<Option<LinkEvent<'b>>, LinkError> {
        match kind {
            Kind::Hello => {
                let peer = hello::accept(payload, &self.local)?;
                self.establish(peer, now);
                return Ok(Some(LinkEvent::Established));
            }
            Kind::GoAway => {
                let goaway = GoAway::decode(payload).expect("its length was tested");
                self.gone_away = true;
                let reason = goaway.reason();
                let GoAway { code, retry_after, text } = goaway;
                return Ok(Some(LinkEvent::GoneAway { reason, code, retry_after, text }));
            }
            Kind::Ping => {
                let token = u64::from_le_bytes(payload.try_into().expect("its length was tested"));
                self.question = Some(Question { token, received_at: now });
            }
            Kind::Pong => {
                if let Some(heartbeat) = &mut self.heartbeat {
                    heartbeat.handle_pong(payload.try_into().expect("its length was tested"), now);
                }
            }
            Kind::Data | Kind::Ignorable(_) => unreachable!("not a control frame"),
        }
        Ok(None)
    }

    fn establish(&mut self, peer: PeerInfo, now: Mono) {
        assert!(self.peer.is_none(), "hello comes once");
        let limits = &self.local.limits;
        self.framing = Framing::by_frames_of(peer.max_frame);
        self.max_message = limits.max_message.min(peer.max_message);
        let mut heartbeat = Heartbeat::new(limits.heartbeat, peer.heartbeat, limits.dead_after, now);
        heartbeat.set_listening(self.reading, now);
        self.heartbeat = Some(heartbeat);
        self.peer = Some(Box::new(peer));
    }

    /// Keeps the first error, and tells the peer why where it can be told.
    #[cold]
    fn latch(&mut self, mut error: LinkError) -> LinkError {
        assert!(self.error.is_none(), "the first error stays");
        if self.peer.is_none() && error.reason == CloseReason::Checksum {
            error.detail = Some(hello::NO_HELLO.into());
        }
        self.at_boundary = false;
        self.assembly.free();
        self.go_away(error.reason, Duration::ZERO, error.detail.as_deref().unwrap_or_default());
        self.error = Some(error.clone());
        error
    }

    #[inline]
    pub(super) fn begun(&self) -> usize {
        self.assembly.begun()
    }

    pub(super) fn give_back(&mut self, message: Vec<u8>) {
        self.assembly.give_back(message);
    }

    pub(super) fn discard(&mut self) {
        self.at_boundary = false;
        self.assembly.free();
    }

    pub(super) fn handle_eof(&mut self, now: Mono) -> Result<(), LinkError> {
        self.error.clone().map_or(Ok(()), Err)?;
        self.ended = true;
        // The peer may go on listening, and cannot ask any more: we still show that we live.
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.set_listening(false, now);
        }
        let detail = if !self.assembly.is_at_boundary() {
            "the peer closed in the middle of a frame or message"
        } else if self.peer.is_none() && !self.gone_away {
            "the peer closed before its hello"
        } else {
            return Ok(());
        };
        Err(self.latch(LinkError::new(CloseReason::Truncated, detail)))
    }

    #[inline]
    pub(super) fn has_output(&self) -> bool {
        self.hello_pending
            || self.question.is_some()
            || matches!(self.farewell, Farewell::Pending(_))
            || self.heartbeat.as_ref().is_some_and(Heartbeat::is_ping_due)
    }

    pub(super) fn next_output(&mut self, now: Mono) -> Option<ControlFrame> {
        if std::mem::take(&mut self.hello_pending) {
            return Some(frame::control(Kind::Hello, &hello::encode(&self.local)));
        }
        match std::mem::replace(&mut self.farewell, Farewell::Said) {
            Farewell::Pending(goaway) => return Some(frame::control(Kind::GoAway, &goaway.encode())),
            Farewell::Said => {}
            Farewell::Unsaid => self.farewell = Farewell::Unsaid,
        }
        if self.error.is_some() {
            return None;
        }
        if let Some(Question { token, received_at }) = self.question.take() {
            return Some(frame::control(Kind::Pong, &heartbeat::pong(token, now - received_at)));
        }
        let ping = self.heartbeat.as_mut()?.next_ping(now)?;
        Some(frame::control(Kind::Ping, &ping))
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        if self.error.is_some() {
            return None;
        }
        match &self.heartbeat {
            Some(heartbeat) => heartbeat.deadline(),
            None => Some(self.handshake_until),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Mono) -> Result<(), LinkError> {
        self.error.clone().map_or(Ok(()), Err)?;
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        self.assembly.trim();
        let outcome = match &mut self.heartbeat {
            Some(heartbeat) => heartbeat.handle_timeout(now),
            None => Err(LinkError::of(CloseReason::HandshakeTimeout)),
        };
        outcome.map_err(|error| self.latch(error))
    }

    #[inline]
    pub(super) fn handle_sent(&mut self, now: Mono) {
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.handle_sent(now);
        }
    }

    pub(super) fn set_reading(&mut self, reading: bool, now: Mono) {
        self.reading = reading;
        if let Some(heartbeat) = &mut self.heartbeat
            && !self.ended
        {
            heartbeat.set_listening(reading, now);
        }
    }

    pub(super) fn peer(&self) -> Option<&PeerInfo> {
        self.peer.as_deref()
    }

    pub(super) fn ask(&mut self) {
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.ask();
        }
    }

    pub(super) fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    pub(super) fn rtt(&self) -> Option<Rtt> {
        self.heartbeat.as_ref()?.rtt()
    }

    pub(super) fn go_away(&mut self, reason: CloseReason, retry_after: Duration, text: &str) {
        // Who has not said hello yet learns nothing of what we found wrong.
        let text = if self.peer.is_some() { text } else { "" };
        if matches!(self.farewell, Farewell::Unsaid)
            && let Some(goaway) = GoAway::new(reason, retry_after, text)
        {
            self.farewell = Farewell::Pending(goaway);
        }
    }

    #[inline]
    pub(super) fn max_message(&self) -> usize {
        self.max_message
    }

    #[inline]
    pub(super) fn framing(&self) -> Framing {
        self.framing
    }

    /// Bytes allocated for what is not complete.
    #[cfg(any(test, fuzzing))]
    pub(super) fn memory(&self) -> usize {
        self.assembly.memory()
    }
}
