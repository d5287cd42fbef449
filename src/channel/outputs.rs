//! What the kernel is to be asked: the difference between what the channel wants and what the driver was told.

use super::dial::Attempt;
use super::lifecycle::{Ending, PauseReasons};
use super::{Channel, ChunkPool, Inbound, Phase};
use crate::clock::Mono;
use crate::driver::Submission;
use crate::driver::batch::MAX_SEGMENTS;
use crate::error::{CloseReason, ClosedBy};

/// Bytes of control frames that may wait in an outbox; one is the last that passes it. What is not taken stays with the
/// link, where later frames take the place of earlier ones.
const CONTROL_MAX: u32 = 256;

impl Channel {
    /// The next operation; to be called until `None`.
    pub(crate) fn next_submission(&mut self, pool: &mut ChunkPool, now: Mono) -> Option<Submission> {
        match self.phase {
            Phase::Resolving | Phase::Closed => None,
            Phase::Dialing => self.next_dial(now),
            Phase::Opening | Phase::Open | Phase::Broken | Phase::Flushing | Phase::Lingering => self
                .next_adopt()
                .or_else(|| self.next_reading(now))
                .or_else(|| self.next_send(pool, now))
                .or_else(|| self.next_ending(pool, now)),
            Phase::Closing => self.next_adopt().or_else(|| self.next_close(pool)),
        }
    }

    fn next_dial(&mut self, now: Mono) -> Option<Submission> {
        let dial = self.dial.as_mut().expect("what is being dialed has a dial");
        match dial.attempt {
            Attempt::Wanted => {
                dial.attempt = Attempt::Submitted;
                self.until = Some(now + self.settings.limits.dial_timeout);
                let address = dial.endpoint().expect("there is an endpoint to try").clone();
                Some(Submission::Dial { channel: self.id, address })
            }
            Attempt::CancelWanted => {
                dial.attempt = Attempt::CancelSubmitted;
                self.until = None;
                Some(Submission::CancelDial { channel: self.id })
            }
            Attempt::Submitted | Attempt::CancelSubmitted => None,
        }
    }

    fn next_adopt(&mut self) -> Option<Submission> {
        let socket = self.socket.take()?;
        Some(Submission::Adopt { channel: self.id, socket })
    }

    fn next_reading(&mut self, now: Mono) -> Option<Submission> {
        let wanted = self.wants_reading();
        if wanted == self.facts.reading || self.inbound != Inbound::Flowing {
            return None;
        }
        self.facts.reading = wanted;
        self.link.set_reading(wanted, now);
        let channel = self.id;
        Some(if wanted {
            Submission::ResumeReading { channel }
        } else {
            Submission::PauseReading { channel }
        })
    }

    fn wants_reading(&self) -> bool {
        let wanted = match self.phase {
            // The peer's hello must be read, whatever the program wants later.
            Phase::Opening => !self.pauses.contains(PauseReasons::UNOPENED),
            Phase::Open => self.pauses.is_empty(),
            // For the peer's FIN, and so that what it still sends does not make our close a reset.
            Phase::Broken | Phase::Flushing | Phase::Lingering => true,
            Phase::Resolving | Phase::Dialing | Phase::Closing | Phase::Closed => false,
        };
        // What is held comes before what is read.
        wanted && self.held.is_none()
    }

    fn next_send(&mut self, pool: &mut ChunkPool, now: Mono) -> Option<Submission> {
        self.take_control(pool, now);
        let batch = self.outbox.take_batch(self.settings.send_size, MAX_SEGMENTS, pool)?;
        debug_assert!(!self.facts.fin_submitted, "nothing is sent after FIN");
        self.facts.only_control = batch.len() == std::mem::take(&mut self.control) as usize;
        self.sent_at = now;
        self.link.handle_sent(now);
        Some(Submission::Send { channel: self.id, batch })
    }

    /// Puts the link's control frames into the outbox. They bypass its limit: there are few, and without them the
    /// peer would take the link for dead.
    fn take_control(&mut self, pool: &mut ChunkPool, now: Mono) {
        if self.link.has_output() && self.control <= CONTROL_MAX {
            self.take_outputs(pool, now);
        }
    }

    fn take_outputs(&mut self, pool: &mut ChunkPool, now: Mono) {
        let sendable =
            matches!(self.phase, Phase::Opening | Phase::Open | Phase::Flushing) && !self.facts.fin_submitted;
        while let Some(frame) = self.link.next_output(now) {
            if sendable {
                self.outbox.push(&frame, pool);
                self.control += frame.len() as u32;
                self.count_accepted(frame.len());
            }
        }
    }

    /// Once everything is sent: FIN where it is wanted, and the end where both sides have sent theirs.
    fn next_ending(&mut self, pool: &mut ChunkPool, now: Mono) -> Option<Submission> {
        match self.phase {
            Phase::Open => {
                if self.facts.fin_submitted && self.inbound == Inbound::EofDone {
                    self.latch(Ending::new(CloseReason::PeerClosed, ClosedBy::Peer));
                    self.enter_closing(false);
                    return self.next_close(pool);
                }
                self.facts.fin_wanted.then(|| self.next_fin())?
            }
            Phase::Flushing => {
                let limits = &self.settings.limits;
                // It bounds the linger, too.
                self.close_until.get_or_insert(now + limits.close_timeout);
                if !self.outbox.is_empty() {
                    return None;
                }
                if self.inbound != Inbound::Flowing {
                    // Nothing can come that a close would answer with a reset, so there is no need to linger.
                    self.enter_closing(false);
                    return self.next_close(pool);
                }
                let until = now + limits.linger_timeout;
                let fin = self.next_fin();
                self.enter(Phase::Lingering);
                self.until = Some(until);
                fin
            }
            Phase::Resolving
            | Phase::Dialing
            | Phase::Opening
            | Phase::Broken
            | Phase::Lingering
            | Phase::Closing
            | Phase::Closed => None,
        }
    }

    fn next_fin(&mut self) -> Option<Submission> {
        if self.facts.fin_submitted || !self.outbox.is_empty() {
            return None;
        }
        self.facts.fin_submitted = true;
        Some(Submission::ShutdownWrite { channel: self.id })
    }

    fn next_close(&mut self, pool: &mut ChunkPool) -> Option<Submission> {
        if self.facts.close_submitted {
            return None;
        }
        self.discard_outbox(pool);
        self.facts.close_submitted = true;
        Some(Submission::Close { channel: self.id, reset: self.facts.reset })
    }

    /// Drops what waits. It stays in the account as accepted and not written.
    pub(super) fn discard_outbox(&mut self, pool: &mut ChunkPool) {
        let dropped = self.outbox.discard(pool);
        self.settings.counters.bytes_queued.sub(dropped as u64);
    }

    #[inline]
    pub(super) fn count_accepted(&mut self, bytes: usize) {
        self.totals.accepted += bytes as u64;
        self.settings.counters.bytes_queued.add(bytes as u64);
    }
}
