//! What happened to a channel: completions of the driver, what its link made of the bytes, and time.

use std::time::Duration;

use super::lifecycle::Ending;
use super::{Channel, ChunkPool, Facts, Inbound, Phase};
use crate::addr::{Endpoint, Endpoints};
use crate::clock::Mono;
use crate::driver::Batch;
use crate::error::{CloseReason, ClosedBy, Errno};
use crate::link::{Link, LinkError};

impl Channel {
    /// The lookup of [`Channel::name`] is done: its addresses, or what went wrong.
    pub(crate) fn resolved(&mut self, outcome: Result<Vec<Endpoint>, String>) {
        if self.phase != Phase::Resolving {
            return; // closed meanwhile
        }
        match outcome {
            Ok(endpoints) => {
                assert!(!endpoints.is_empty(), "a name that is found has an address");
                self.dial.as_mut().expect("a name is looked up for a dial").set_endpoints(endpoints);
                self.enter(Phase::Dialing);
            }
            Err(why) => {
                let ending = Ending::new(CloseReason::NameNotFound, ClosedBy::Network);
                self.latch(ending.with_detail(Some(why.into_boxed_str())));
                self.enter(Phase::Closed);
            }
        }
    }

    /// The link is made now: its handshake has a deadline that does not count the dial.
    pub(crate) fn handle_dialed(&mut self, endpoints: Endpoints, link: Link, now: Mono) {
        debug_assert_eq!(self.phase, Phase::Dialing);
        // TCP connects a socket to itself when it dials a free port of its own machine and is given that very port.
        // (Both ends of a Unix socket may be nameless.)
        let Endpoints { local, peer } = &endpoints;
        let to_itself = local.socket_addr().is_some() && local == peer;
        self.endpoints = Some(endpoints);
        self.link = link;
        self.moved_at = now;
        self.dial = None;
        if to_itself {
            self.latch(Ending::new(CloseReason::SelfDial, ClosedBy::Us));
        }
        if self.ending.is_some() {
            self.discard_received();
            self.enter_closing(true);
        } else {
            self.enter(Phase::Opening);
        }
    }

    pub(crate) fn handle_dial_failed(&mut self, errno: Errno, now: Mono) {
        debug_assert_eq!(self.phase, Phase::Dialing);
        self.moved_at = now;
        self.until = None;
        let dial = self.dial.as_mut().expect("what is being dialed has a dial");
        if self.ending.is_none() {
            match dial.handle_failed(errno) {
                Some(ending) => self.latch(ending),
                None => return,
            }
        }
        self.enter(Phase::Closed);
    }

    /// The peer sent FIN. The program is told when everything before it is delivered.
    pub(crate) fn handle_eof(&mut self, now: Mono) {
        debug_assert_eq!(self.inbound, Inbound::Flowing);
        self.moved_at = now;
        self.inbound = if self.is_lost() { Inbound::Failed } else { Inbound::Eof };
        match self.phase {
            Phase::Lingering => self.enter_closing(false),
            Phase::Broken => self.enter_closing(true),
            // Flushing goes on; it will not linger.
            Phase::Opening | Phase::Open | Phase::Flushing | Phase::Closing | Phase::Closed => {}
            Phase::Resolving | Phase::Dialing => debug_assert!(false, "EOF without a socket"),
        }
    }

    /// The connection failed, and a send was told. The kernel tells an error once, and then says end of file, though
    /// what the peer sent may be lost. (A broken pipe is different: the peer's FIN had come before.)
    fn is_lost(&self) -> bool {
        let errno = self.ending.as_ref().and_then(|ending| ending.errno);
        self.phase == Phase::Broken && errno != Some(Errno(libc::EPIPE)) && !planted!(EofAfterReset)
    }

    /// The receiving half failed, and with it the connection. What came before is still delivered.
    pub(crate) fn handle_receive_failed(&mut self, errno: Errno, now: Mono) {
        debug_assert_eq!(self.inbound, Inbound::Flowing);
        self.moved_at = now;
        self.inbound = Inbound::Failed;
        match self.phase {
            Phase::Opening | Phase::Open | Phase::Broken => {
                self.latch(Ending::of_errno(errno));
                self.enter_closing(true);
            }
            Phase::Flushing => {
                if !self.outbox.is_empty() {
                    self.overrule(Ending::of_errno(errno));
                }
                self.enter_closing(true);
            }
            // All was sent; that the peer resets instead of closing changes nothing for us.
            Phase::Lingering => self.enter_closing(true),
            Phase::Closing | Phase::Closed => {}
            Phase::Resolving | Phase::Dialing => debug_assert!(false, "a failed receive without a socket"),
        }
    }

    pub(crate) fn handle_sent(
        &mut self,
        batch: Box<Batch>,
        error: Option<Errno>,
        pool: &mut ChunkPool,
        now: Mono,
    ) {
        debug_assert!(batch.is_written() || error.is_some(), "a batch comes back whole or with an error");
        if !self.facts.only_control {
            self.moved_at = now;
        }
        let (len, written) = (batch.len() as u64, batch.written() as u64);
        self.totals.written += written;
        let counters = &self.settings.counters;
        counters.bytes_out.add(written);
        counters.bytes_queued.sub(len);
        let low = self.settings.limits.outbox_low;
        let drained = self.outbox.handle_sent(batch, low, pool);
        if let Some(errno) = error {
            return self.handle_send_failed(errno, pool, now);
        }
        self.note_drained(drained);
    }

    /// Who was refused above `outbox_low` waits for the fall below it; who was refused below it would wait for ever.
    pub(super) fn note_drained(&mut self, fell: bool) {
        let relieved = fell || self.facts.refused && self.outbox.is_empty();
        if relieved && self.phase == Phase::Open && !self.facts.fin_wanted {
            self.facts.drained = true;
            self.facts.refused = false;
        }
    }

    /// True when a batch that came back leaves nothing to be sent, told or done, and no deadline is nearer than it was.
    pub(crate) fn is_at_rest(&self) -> bool {
        let Facts { drained, fin_wanted, posted_to, .. } = self.facts;
        self.phase == Phase::Open && self.outbox.is_empty() && !drained && !fin_wanted && !posted_to
    }

    fn handle_send_failed(&mut self, errno: Errno, pool: &mut ChunkPool, now: Mono) {
        self.discard_outbox(pool);
        match self.phase {
            Phase::Opening | Phase::Open => {
                self.latch(Ending::of_errno(errno));
                self.facts.drained = false;
                if self.inbound == Inbound::Flowing {
                    self.enter(Phase::Broken);
                    self.until = Some(now + self.settings.limits.linger_timeout);
                } else {
                    self.enter_closing(true);
                }
            }
            Phase::Flushing => {
                self.overrule(Ending::of_errno(errno));
                self.enter_closing(true);
            }
            Phase::Closing => {}
            Phase::Resolving | Phase::Dialing | Phase::Broken | Phase::Lingering | Phase::Closed => {
                debug_assert!(false, "no send is out while {:?}", self.phase);
            }
        }
    }

    /// The last that is heard of the driver.
    pub(crate) fn handle_closed(&mut self, now: Mono) {
        debug_assert!(self.facts.close_submitted && !self.outbox.is_sending());
        self.moved_at = now;
        self.enter(Phase::Closed);
    }

    /// The link cannot go on.
    pub(super) fn handle_link_error(&mut self, error: LinkError) {
        let LinkError { reason, detail } = error;
        if reason == CloseReason::PeerDead && matches!(self.phase, Phase::Opening | Phase::Open) {
            // Nobody is there to be told, nor to take what is queued.
            self.latch(Ending::new(reason, ClosedBy::Us).with_detail(detail));
            self.discard_received();
            return self.enter_closing(true);
        }
        let by = if reason == CloseReason::Truncated { ClosedBy::Peer } else { ClosedBy::Us };
        self.fail(reason, by, detail);
    }

    /// The peer said goodbye, and why.
    pub(super) fn handle_gone_away(
        &mut self,
        reason: Option<CloseReason>,
        code: u16,
        retry_after: Duration,
        text: String,
    ) {
        let detail = match (reason, text.is_empty()) {
            (Some(_), true) => None,
            (Some(_), false) => Some(text),
            (None, _) => Some(format!("code {code} {text}").trim_end().to_owned()),
        };
        let mut ending = Ending::new(reason.unwrap_or(CloseReason::PeerClosed), ClosedBy::Peer)
            .with_detail(detail.map(String::into_boxed_str));
        ending.retry_after = (!retry_after.is_zero()).then_some(retry_after);
        // It was said before the connection failed, and explains it.
        if self.ending.as_ref().is_some_and(|first| first.is_failure()) {
            ending.errno = self.ending.take().and_then(|first| first.errno);
            self.latch(ending);
            self.discard_received();
            if self.phase == Phase::Broken {
                self.enter_closing(true);
            }
            return;
        }
        self.end(ending);
    }

    /// When [`Channel::handle_timeout`] wants to be called, earlier calls do no harm. Look again after each time the
    /// channel was touched; that it moved further away may be noticed late.
    pub(crate) fn deadline(&self) -> Option<Mono> {
        let of_phase = match self.phase {
            Phase::Opening | Phase::Open => earlier(self.link.deadline(), self.idle_deadline()),
            Phase::Flushing | Phase::Lingering => self.close_until,
            Phase::Resolving | Phase::Dialing | Phase::Broken | Phase::Closing | Phase::Closed => None,
        };
        earlier(earlier(self.until, of_phase), self.stall_deadline())
    }

    /// Does what is due at `now`; nothing when it is too early.
    pub(crate) fn handle_timeout(&mut self, now: Mono) {
        let due = |at: Option<Mono>| at.is_some_and(|at| at <= now);
        if due(self.stall_deadline()) {
            self.overrule(Ending::new(CloseReason::SlowPeer, ClosedBy::Us));
            self.discard_received();
            return self.enter_closing(true);
        }
        match self.phase {
            Phase::Dialing if due(self.until) => {
                self.until = None;
                self.dial.as_mut().expect("what is being dialed has a dial").time_out();
            }
            Phase::Opening | Phase::Open => {
                if due(self.link.deadline()) {
                    let outcome = self.link.handle_timeout(now);
                    if let Err(error) = outcome {
                        return self.handle_link_error(error);
                    }
                }
                if due(self.idle_deadline()) {
                    self.fail(CloseReason::IdleTimeout, ClosedBy::Us, None);
                }
            }
            Phase::Flushing if due(self.close_until) => {
                self.overrule(Ending::new(CloseReason::CloseTimeout, ClosedBy::Us));
                self.enter_closing(true);
            }
            Phase::Lingering if due(self.until) || due(self.close_until) => self.enter_closing(false),
            Phase::Broken if due(self.until) => self.enter_closing(true),
            Phase::Resolving
            | Phase::Dialing
            | Phase::Flushing
            | Phase::Lingering
            | Phase::Broken
            | Phase::Closing
            | Phase::Closed => {}
        }
    }

    /// A batch is out and has not come back. Its parts are not seen from here: a peer that takes less than a batch in
    /// `write_timeout` is slow, too.
    fn stall_deadline(&self) -> Option<Mono> {
        let timeout = self.settings.limits.write_timeout;
        let sending = self.outbox.is_sending() && self.phase < Phase::Closing;
        (sending && !timeout.is_zero()).then(|| self.sent_at + timeout)
    }

    fn idle_deadline(&self) -> Option<Mono> {
        let timeout = self.settings.limits.idle_timeout_in(self.settings.mode);
        (self.phase == Phase::Open && !timeout.is_zero()).then(|| self.moved_at + timeout)
    }
}

fn earlier(a: Option<Mono>, b: Option<Mono>) -> Option<Mono> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}
