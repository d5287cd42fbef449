//! PING and PONG: whether the peer lives, and how far away it is.
//!
//! Whatever is received proves life, so on a busy link the only pings are those that measure the round trip. And each
//! node shows life by itself: who has sent nothing for a while sends a PING, also when it does not read. A peer whose
//! question waits behind what we are slow to read would take us for dead otherwise.

use std::time::Duration;

use crate::clock::Mono;
use crate::error::CloseReason;

use super::LinkError;

/// A token.
pub(super) const PING_LEN: usize = 8;
/// The token, and for how many nanoseconds the PING was held before its answer.
pub(super) const PONG_LEN: usize = 16;

/// The round trip is measured for the first time so long after the hello,
const FIRST_MEASURE_AFTER: Duration = Duration::from_secs(1);
/// and then so often.
const MEASURE_EVERY: Duration = Duration::from_secs(15);

/// We do not show life more often than this, whatever the peer calls silence.
const LEAST_SHOW: Duration = Duration::from_millis(100);

/// How long a message to the peer and back takes. What the peer held the question for is taken off; what waited in
/// outboxes and socket buffers is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rtt {
    /// The average, smoothed as TCP does it (RFC 6298).
    pub smoothed: Duration,
    /// The mean deviation from it.
    pub variation: Duration,
    /// The least ever measured on this channel.
    pub min: Duration,
}

impl Rtt {
    fn first(sample: Duration) -> Self {
        Self { smoothed: sample, variation: sample / 2, min: sample }
    }

    fn with(self, sample: Duration) -> Self {
        Self {
            smoothed: (self.smoothed * 7 + sample) / 8,
            variation: (self.variation * 3 + self.smoothed.abs_diff(sample)) / 4,
            min: self.min.min(sample),
        }
    }
}

/// Times of one established link.
///
/// Nobody is dead who was not asked: a loop that was stopped for a minute first sends a PING.
#[derive(Debug)]
pub(super) struct Heartbeat {
    every: Duration,
    /// After so long without anything sent we show that we live: what we or the peer call silence, whichever is less.
    show_every: Duration,
    sent_at: Mono,
    dead_after: Duration,
    /// True exactly when what the peer sends is being read; without that silence proves nothing.
    listening: bool,
    received_at: Mono,
    /// The last PING.
    pinged_at: Mono,
    /// The first PING since `received_at`, if it is not before that.
    asked_at: Mono,
    measure_at: Mono,
    /// A PING is to be sent.
    ping_due: bool,
    token: u64,
    /// The PING with this token awaits its PONG since.
    unanswered: Option<Mono>,
    rtt: Option<Rtt>,
}

impl Heartbeat {
    /// `peer_every`: after how much silence the peer asks whether we live.
    pub(super) fn new(every: Duration, peer_every: Duration, dead_after: Duration, now: Mono) -> Self {
        Self {
            every,
            show_every: every.min(peer_every.max(LEAST_SHOW)),
            sent_at: now,
            dead_after,
            listening: true,
            received_at: now,
            pinged_at: now,
            asked_at: Mono::default(),
            measure_at: now + FIRST_MEASURE_AFTER,
            ping_due: false,
            token: 0,
            unanswered: None,
            rtt: None,
        }
    }

    pub(super) fn rtt(&self) -> Option<Rtt> {
        self.rtt
    }

    #[inline]
    pub(super) fn handle_received(&mut self, now: Mono) {
        self.received_at = now;
    }

    #[inline]
    pub(super) fn handle_sent(&mut self, now: Mono) {
        self.sent_at = now;
    }

    pub(super) fn set_listening(&mut self, listening: bool, now: Mono) {
        if listening && !self.listening {
            self.received_at = now;
            // Its PONG may have waited for us: not the network's time.
            self.unanswered = None;
        }
        self.listening = listening;
    }

    fn ping_at(&self) -> Mono {
        (self.received_at.max(self.pinged_at) + self.every).min(self.measure_at)
    }

    fn dead_at(&self) -> Option<Mono> {
        // Normally `asked_at` is `every` after `received_at`, and this is `received_at + dead_after`.
        let silent_since = self.received_at + self.asked_at.since(self.received_at + self.every);
        (self.asked_at >= self.received_at).then(|| silent_since + self.dead_after)
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        let show_at = self.sent_at + self.show_every;
        if !self.listening {
            return Some(show_at);
        }
        let asks_at = self.ping_at().min(show_at);
        Some(self.dead_at().map_or(asks_at, |dead_at| dead_at.min(asks_at)))
    }

    pub(super) fn handle_timeout(&mut self, now: Mono) -> Result<(), LinkError> {
        if now >= self.sent_at + self.show_every {
            self.ping_due = true;
            self.sent_at = now;
        }
        if !self.listening {
            return Ok(());
        }
        if self.dead_at().is_some_and(|dead_at| now >= dead_at) {
            let silence = now - self.received_at;
            let detail = format!("nothing received for {} ms; see dead_after", silence.as_millis());
            return Err(LinkError::new(CloseReason::PeerDead, detail));
        }
        if now >= self.ping_at() {
            self.ping_due = true;
            self.pinged_at = now;
            self.measure_at = now + MEASURE_EVERY.max(self.every);
            if self.asked_at < self.received_at {
                self.asked_at = now;
            }
        }
        Ok(())
    }

    /// A PING is to be sent, whatever the times say.
    pub(super) fn ask(&mut self) {
        self.ping_due = true;
    }

    #[inline]
    pub(super) fn is_ping_due(&self) -> bool {
        self.ping_due
    }

    /// The payload of a PING, when one is due.
    pub(super) fn next_ping(&mut self, now: Mono) -> Option<[u8; PING_LEN]> {
        std::mem::take(&mut self.ping_due).then(|| {
            self.token += 1;
            self.unanswered = Some(now);
            self.token.to_le_bytes()
        })
    }

    /// A PONG to another PING than the last, or one that claims it was held for longer than it took, says nothing but
    /// that the peer lives.
    pub(super) fn handle_pong(&mut self, payload: [u8; PONG_LEN], now: Mono) {
        let word = u128::from_le_bytes(payload);
        let (token, held) = (word as u64, Duration::from_nanos((word >> 64) as u64));
        if token != self.token {
            return;
        }
        if let Some(asked) = self.unanswered.take()
            && let Some(sample) = (now - asked).checked_sub(held)
        {
            self.rtt = Some(self.rtt.map_or(Rtt::first(sample), |rtt| rtt.with(sample)));
        }
    }
}

/// The payload of the answer to a PING that was held for `held`.
pub(super) fn pong(token: u64, held: Duration) -> [u8; PONG_LEN] {
    let held = u64::try_from(held.as_nanos()).unwrap_or(u64::MAX);
    (u128::from(held) << 64 | u128::from(token)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn at(seconds: u32) -> Mono {
        Mono::from_nanos(1_000_000) + S * seconds
    }

    /// Past its first measuring.
    fn heartbeat() -> Heartbeat {
        let mut heartbeat = Heartbeat::new(S * 5, S * 5, S * 15, at(0));
        heartbeat.handle_timeout(at(1)).unwrap();
        heartbeat.next_ping(at(1)).unwrap();
        heartbeat.handle_received(at(2));
        heartbeat.handle_pong(pong(1, S / 2), at(2));
        // These tests are of the peer's silence, not of ours.
        heartbeat.handle_sent(at(1000));
        heartbeat
    }

    #[test]
    fn a_silent_peer_is_asked_and_then_dead() {
        let mut heartbeat = heartbeat();
        let mut pinged = Vec::new();
        let died = (0..10).find_map(|_| {
            let now = heartbeat.deadline().unwrap();
            if heartbeat.handle_timeout(now).is_err() {
                return Some(now);
            }
            heartbeat.next_ping(now).unwrap();
            pinged.push(now);
            None
        });
        assert_eq!((pinged, died), (vec![at(7), at(12)], Some(at(17))));
    }

    #[test]
    fn a_loop_that_was_stopped_asks_before_it_buries() {
        let mut heartbeat = heartbeat();
        heartbeat.handle_timeout(at(60)).unwrap();
        assert!(heartbeat.next_ping(at(60)).is_some());
        heartbeat.handle_timeout(at(69)).unwrap();
        assert_eq!(heartbeat.handle_timeout(at(70)).unwrap_err().reason, CloseReason::PeerDead);
    }

    #[test]
    fn who_does_not_listen_buries_nobody() {
        let mut heartbeat = heartbeat();
        heartbeat.set_listening(false, at(3));
        assert_eq!(heartbeat.deadline(), Some(at(1005)));
        heartbeat.handle_timeout(at(100)).unwrap();
        heartbeat.set_listening(true, at(100));
        heartbeat.handle_timeout(at(110)).unwrap();
        assert!(heartbeat.deadline().unwrap() > at(110));
    }

    #[test]
    fn who_sends_nothing_shows_that_it_lives_also_while_it_does_not_read() {
        for listening in [true, false] {
            let mut heartbeat = Heartbeat::new(S * 5, S * 3, S * 15, at(0));
            heartbeat.handle_timeout(at(1)).unwrap();
            heartbeat.next_ping(at(1)).unwrap();
            heartbeat.handle_sent(at(1));
            heartbeat.handle_received(at(3));
            heartbeat.set_listening(listening, at(3));
            assert_eq!(heartbeat.deadline(), Some(at(4)), "the peer wants to hear of us every three seconds");
            heartbeat.handle_timeout(at(4)).unwrap();
            assert!(heartbeat.next_ping(at(4)).is_some());
            assert!(heartbeat.deadline().unwrap() >= at(7));
        }
    }

    #[test]
    fn an_answer_that_waited_for_us_is_not_measured() {
        let mut heartbeat = heartbeat();
        heartbeat.handle_timeout(at(7)).unwrap();
        heartbeat.next_ping(at(7)).unwrap();
        heartbeat.set_listening(false, at(7));
        heartbeat.set_listening(true, at(99));
        heartbeat.handle_pong(pong(2, Duration::ZERO), at(99));
        assert_eq!(heartbeat.rtt().unwrap().smoothed, S / 2);
    }

    #[test]
    fn the_round_trip_is_smoothed_and_does_not_count_what_was_held() {
        let mut heartbeat = heartbeat();
        assert_eq!(heartbeat.rtt(), Some(Rtt { smoothed: S / 2, variation: S / 4, min: S / 2 }));
        for (token, held) in [(1, Duration::ZERO), (3, Duration::ZERO), (2, S * 9)] {
            heartbeat.handle_received(at(3));
            heartbeat.handle_timeout(at(16)).unwrap();
            heartbeat.next_ping(at(16));
            heartbeat.handle_pong(pong(token, held), at(17));
            assert_eq!(heartbeat.rtt().unwrap().smoothed, S / 2, "token {token} held {held:?}");
        }
        assert_eq!(Rtt::first(S * 8).with(S * 16), Rtt { smoothed: S * 9, variation: S * 5, min: S * 8 });
    }
}
