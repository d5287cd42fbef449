//! Busy polling: for how long a loop looks again, without sleeping, after something came from outside. A wake-up costs
//! the kernel, and the peer, more than a short look; so it pays where the next thing comes soon, and only there.

use std::time::Duration;

use crate::clock::Mono;

/// A vain look halves the next ones down to this part of the whole: enough to notice that things come quickly again.
const LEAST_PART: u32 = 32;

#[derive(Debug)]
pub(crate) struct Spin {
    /// `busy_poll`.
    most: Duration,
    /// How long it is looked for now: `most`, unless that was in vain lately.
    length: Duration,
    /// When something last came from outside.
    since: Mono,
}

impl Spin {
    pub(crate) fn new(most: Duration, now: Mono) -> Self {
        Self { most, length: most, since: now }
    }

    /// Something came from outside: bytes, a connection, a command. What ends by itself, as a send, says nothing of when
    /// the next thing will come.
    #[inline]
    pub(crate) fn something_came(&mut self, now: Mono) {
        if now == self.since {
            return;
        }
        let soon = now - self.since <= self.most;
        self.length = if soon { self.most } else { (self.length / 2).max(self.most / LEAST_PART) };
        self.since = now;
    }

    /// True while it is better to look again than to sleep.
    #[inline]
    pub(crate) fn goes_on(&self, now: Mono) -> bool {
        now - self.since < self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_micros(64);

    fn at(micros: u64) -> Mono {
        Mono::from_nanos(micros * 1000)
    }

    /// For how long it is looked after what came last.
    fn length(spin: &Spin, last: u64) -> u64 {
        (0..).find(|after| !spin.goes_on(at(last + after))).expect("it ends")
    }

    #[test]
    fn a_look_lasts_as_long_as_it_was_asked_for_where_things_come_quickly() {
        let mut spin = Spin::new(MOST, at(0));
        for round in 1..10 {
            spin.something_came(at(round * 64));
            assert_eq!(length(&spin, round * 64), 64);
        }
    }

    #[test]
    fn looking_in_vain_becomes_rare_and_is_made_up_for_at_once() {
        let mut spin = Spin::new(MOST, at(0));
        for (round, expected) in [(1, 32), (2, 16), (3, 8), (4, 4), (5, 2), (6, 2)] {
            spin.something_came(at(round * 1000));
            spin.something_came(at(round * 1000)); // of the same turn
            assert_eq!(length(&spin, round * 1000), expected);
        }
        spin.something_came(at(6010));
        assert_eq!(length(&spin, 6010), 64);
    }

    #[test]
    fn without_busy_poll_there_is_no_look() {
        let mut spin = Spin::new(Duration::ZERO, at(0));
        assert!(!spin.goes_on(at(0)));
        spin.something_came(at(1));
        assert!(!spin.goes_on(at(1)));
    }
}
