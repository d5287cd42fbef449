//! From received bytes to the program's events, in their order: opened, data, end of data, closed. Nothing received
//! is lost by a pause: what cannot be delivered is held.

use bytes::{Buf, BytesMut};

use super::lifecycle::{Ending, PauseReasons};
use super::{Channel, Event, Facts, Inbound, Phase};
use crate::clock::Mono;
use crate::config::Mode;
use crate::error::{CloseReason, CloseReport, ClosedBy};
use crate::link::LinkEvent;

impl Channel {
    /// The next thing the program is to be told; to be called until `None`, with the bytes just received, or none.
    ///
    /// Bytes that are left then cannot be delivered now, and go to [`Channel::hold`].
    pub(crate) fn next_event<'b>(&mut self, input: &mut &'b [u8], now: Mono) -> Option<Event<'b>> {
        if self.settings.mode == Mode::Stream && !input.is_empty() {
            self.moved_at = now;
        }
        if let Some(event) = self.next_opening(now) {
            return Some(event);
        }
        if std::mem::take(&mut self.facts.drained) {
            return Some(Event::Drained);
        }
        if self.is_confirmation_due() {
            self.facts.watched = false;
            return Some(Event::Confirmed);
        }
        self.next_received(input, now).or_else(|| self.next_end(input.is_empty(), now))
    }

    /// The next message, where the program is to be told of nothing before it and it lies whole in the input: the hot path
    /// of `next_event`, which is to be called when this gives none, also when nothing is left of the input.
    #[inline]
    pub(crate) fn next_message<'b>(&mut self, input: &mut &'b [u8], now: Mono) -> Option<&'b [u8]> {
        if !self.is_flowing() {
            return None;
        }
        let before = input.len();
        let message = self.link.next_message(input)?;
        self.facts.fed = true;
        self.count_received(before - input.len());
        self.count_message(now);
        Some(message)
    }

    /// The same for the bytes of a stream.
    #[inline]
    pub(crate) fn next_data<'b>(&mut self, input: &mut &'b [u8], now: Mono) -> Option<&'b [u8]> {
        if input.is_empty() || !self.is_flowing() {
            return None;
        }
        let data = input.split_off(..input.len().min(self.settings.piece))?;
        self.moved_at = now;
        self.count_received(data.len());
        Some(data)
    }

    /// What is received goes straight to the program.
    #[inline]
    fn is_flowing(&self) -> bool {
        let Facts { drained, watched, discarding, .. } = self.facts;
        let is_kept = self.held.is_some() || self.early.is_some();
        self.phase == Phase::Open && self.pauses.is_empty() && !drained && !watched && !discarding && !is_kept
    }

    /// Keeps what `next_event` left of its input. What a resumed channel reads later comes after it.
    pub(crate) fn hold(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            return;
        }
        debug_assert!(!self.facts.discarding && (!self.may_deliver() || self.held.is_some()));
        self.held.get_or_insert_default().extend_from_slice(rest);
        self.settings.counters.bytes_held.add(rest.len() as u64);
    }

    /// Keeps the last `rest` bytes of what was held, where they lie: a program may pause after each message of many.
    pub(crate) fn hold_again(&mut self, mut held: Box<BytesMut>, rest: usize) {
        if rest == 0 {
            return;
        }
        debug_assert!(!self.facts.discarding && !self.may_deliver() && self.held.is_none());
        held.advance(held.len() - rest);
        self.held = Some(held);
        self.settings.counters.bytes_held.add(rest as u64);
    }

    /// What is held, when it may be delivered now: give it to `next_event`, and what that leaves to `hold_again`.
    pub(crate) fn take_held(&mut self) -> Option<Box<BytesMut>> {
        if !self.may_deliver() {
            return None;
        }
        let held = self.held.take()?;
        self.settings.counters.bytes_held.sub(held.len() as u64);
        Some(held)
    }

    /// True when `take_held`, or `next_event` without new bytes, would give something.
    pub(crate) fn has_deliverable(&self) -> bool {
        let establishes = self.phase == Phase::Opening && self.link.is_established();
        let opens = establishes && (self.facts.admitted || !self.facts.announced);
        let ends = self.phase == Phase::Closed && !self.facts.reported;
        let waits = self.held.is_some() || self.early.is_some() || self.inbound == Inbound::Eof;
        opens
            || self.is_confirmation_due()
            || self.facts.drained
            || (waits && self.may_deliver())
            || (ends && self.held.is_none() && self.early.is_none())
    }

    /// Not for a channel that is going: the others of its peer are not to be closed in favor of it.
    fn is_confirmation_due(&self) -> bool {
        self.facts.watched && self.ending.is_none() && self.is_confirmed()
    }

    /// False while reading is paused. A connection that ended by itself lifts the pause: nothing more will come, and
    /// what has come would keep it from being reported.
    fn may_deliver(&self) -> bool {
        match self.phase {
            Phase::Resolving | Phase::Dialing => false,
            Phase::Opening => !self.pauses.contains(PauseReasons::UNOPENED),
            Phase::Open => self.pauses.is_empty(),
            Phase::Broken | Phase::Flushing | Phase::Lingering | Phase::Closing | Phase::Closed => true,
        }
    }

    /// What comes between the hellos and the program's first message.
    fn next_opening(&mut self, now: Mono) -> Option<Event<'static>> {
        if self.phase == Phase::Opening && self.link.is_established() {
            if !std::mem::replace(&mut self.facts.announced, true) {
                self.facts.is_peer = true;
                return Some(Event::Established);
            }
            if self.facts.admitted {
                return Some(self.open(now));
            }
        }
        if self.early.is_some() && self.may_deliver() {
            self.count_message(now);
            return self.early.take().map(|message| Event::Assembled(*message));
        }
        None
    }

    /// The first message on a link that is not admitted: the peer uses it, so the program has to hear of it. On a
    /// retired link, too: a message is not lost because two links met.
    fn open_for(&mut self, message: Vec<u8>, now: Mono) -> Option<Event<'static>> {
        if self.phase != Phase::Opening && !self.is_retired() {
            // It broke before it opened: whoever has not heard of a channel cannot be given its data.
            self.link.give_back(message);
            return None;
        }
        self.early = Some(Box::new(message));
        Some(self.open(now))
    }

    /// True while a channel that is ending still delivers.
    fn is_retired(&self) -> bool {
        matches!(self.phase, Phase::Flushing | Phase::Lingering) && !self.facts.discarding
    }

    fn open(&mut self, now: Mono) -> Event<'static> {
        if self.phase == Phase::Opening {
            self.enter(Phase::Open);
        }
        self.pauses.remove(PauseReasons::UNOPENED);
        self.facts.opened = true;
        self.moved_at = now;
        self.settings.counters.opened.add(1);
        Event::Opened
    }

    fn next_received<'b>(&mut self, input: &mut &'b [u8], now: Mono) -> Option<Event<'b>> {
        loop {
            if self.facts.discarding {
                self.count_received(std::mem::take(input).len());
                return None;
            }
            // The link takes every call for a sign of life of the peer, so it is called for received bytes alone.
            self.facts.fed |= !input.is_empty();
            if !self.may_deliver() || self.held.is_some() || self.early.is_some() || !self.facts.fed {
                return None;
            }
            let piece = match self.settings.mode {
                Mode::Stream => input.len().min(self.settings.piece),
                Mode::Message => input.len(),
            };
            let (mut rest, begun) = (&input[..piece], self.link.begun());
            let outcome = self.link.next_event(&mut rest, now);
            if self.link.begun() != begun {
                self.moved_at = now;
            }
            let consumed = piece - rest.len();
            *input = &input[consumed..];
            self.count_received(consumed);
            match outcome {
                Ok(None) => {
                    self.facts.fed = false;
                    return None;
                }
                Ok(Some(event)) => {
                    if let Some(event) = self.handle_link_event(event, now) {
                        return Some(event);
                    }
                }
                Err(error) => self.handle_link_error(error),
            }
        }
    }

    /// What the program is told of it.
    fn handle_link_event<'b>(&mut self, event: LinkEvent<'b>, now: Mono) -> Option<Event<'b>> {
        match event {
            LinkEvent::Established => self.next_opening(now),
            LinkEvent::GoneAway { reason, code, retry_after, text } => {
                self.handle_gone_away(reason, code, retry_after, text);
                None
            }
            LinkEvent::Assembled(message) if !self.facts.opened => self.open_for(message, now),
            LinkEvent::Message(message) if !self.facts.opened => self.open_for(message.to_vec(), now),
            LinkEvent::Data(_) if !self.facts.opened => None,
            LinkEvent::Data(bytes) => Some(Event::Data(bytes)),
            LinkEvent::Message(message) => {
                self.count_message(now);
                Some(Event::Message(message))
            }
            LinkEvent::Assembled(message) => {
                self.count_message(now);
                Some(Event::Assembled(message))
            }
        }
    }

    #[inline]
    fn count_message(&mut self, now: Mono) {
        self.moved_at = now;
        self.totals.messages_in += 1;
        self.settings.counters.messages_in.add(1);
    }

    /// What comes after all data.
    fn next_end(&mut self, is_all_delivered: bool, now: Mono) -> Option<Event<'static>> {
        if !is_all_delivered || self.held.is_some() || self.early.is_some() {
            return None;
        }
        if self.inbound == Inbound::Eof && self.may_deliver() {
            self.inbound = Inbound::EofDone;
            if self.handle_eof_delivered(now) {
                return Some(Event::Eof);
            }
        }
        if self.phase == Phase::Closed && !self.facts.reported {
            return Some(Event::Closed(Box::new(self.report(now))));
        }
        None
    }

    /// True when the program is to be told.
    fn handle_eof_delivered(&mut self, now: Mono) -> bool {
        if self.facts.discarding {
            return false;
        }
        if let Err(error) = self.link.handle_eof(now) {
            self.handle_link_error(error);
            return false;
        }
        if self.phase == Phase::Opening {
            self.latch(Ending::new(CloseReason::PeerClosed, ClosedBy::Peer));
            self.enter_closing(false);
        }
        self.facts.opened
    }

    /// The loop ends before the channel did: its report, in place of the `Closed` event that will not come.
    pub(crate) fn give_up(&mut self, reason: CloseReason, now: Mono) -> CloseReport {
        self.latch(Ending::new(reason, ClosedBy::Us));
        self.discard_received();
        // What is out does not come back, and what waits is not sent.
        self.settings.counters.bytes_queued.sub(self.outbox.queued() as u64);
        self.report(now)
    }

    /// The last that is told of the channel.
    fn report(&mut self, now: Mono) -> CloseReport {
        self.facts.reported = true;
        self.settings.counters.closed.add(1);
        debug_assert!(self.ending.is_some(), "a channel ends for a reason");
        let (reason, by) = self.reason().unwrap_or((CloseReason::Internal, ClosedBy::Us));
        let ending = self.ending.as_ref();
        let (errno, detail) = ending.map_or((None, None), |ending| (ending.errno, ending.detail.clone()));
        let retry_after = ending.filter(|_| by == ClosedBy::Peer).and_then(|ending| ending.retry_after);
        CloseReport {
            reason,
            by,
            errno,
            detail,
            retry_after,
            bytes_in: self.totals.received,
            bytes_out: self.totals.written,
            bytes_unsent: self.totals.accepted - self.totals.written,
            messages_in: self.totals.messages_in,
            messages_out: self.totals.messages_out,
            age: now - self.began_at,
            opened: self.facts.opened,
        }
    }
}
