//! The phases of a channel's life and the legal steps between them, why reading is paused, and the first reason to
//! end. What happens in a phase is in the other files of this folder.

use std::time::Duration;

use crate::error::{CloseReason, ClosedBy, Errno};

/// Where a channel is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Its name is being looked up.
    Resolving,
    /// It is being connected, or the end of that is awaited.
    Dialing,
    /// There is a socket, and the program has not heard of it yet.
    Opening,
    Open,
    /// Sending failed. What the peer sent before is still received, for a while.
    Broken,
    /// Ending: what is queued is sent, for a while. What is received is discarded.
    Flushing,
    /// FIN is sent; waits for the peer's, for a while. What is received is discarded.
    Lingering,
    /// `Close` is, or is about to be, submitted.
    Closing,
    /// The kernel has nothing of it left. What was received before may still have to be delivered.
    Closed,
}

impl Phase {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 9] = [
        Self::Resolving,
        Self::Dialing,
        Self::Opening,
        Self::Open,
        Self::Broken,
        Self::Flushing,
        Self::Lingering,
        Self::Closing,
        Self::Closed,
    ];

    pub(crate) fn may_become(self, next: Self) -> bool {
        match self {
            Self::Resolving => matches!(next, Self::Dialing | Self::Closed),
            Self::Dialing => matches!(next, Self::Opening | Self::Closing | Self::Closed),
            Self::Opening => matches!(next, Self::Open | Self::Broken | Self::Flushing | Self::Closing),
            Self::Open => matches!(next, Self::Broken | Self::Flushing | Self::Closing),
            Self::Flushing => matches!(next, Self::Lingering | Self::Closing),
            Self::Broken | Self::Lingering => next == Self::Closing,
            Self::Closing => next == Self::Closed,
            Self::Closed => false,
        }
    }

    /// Takes a legal step.
    pub(crate) fn step(&mut self, next: Self) {
        assert!(self.may_become(next), "{self:?} does not become {next:?}");
        *self = next;
    }
}

/// Why reading is paused; it goes on when the set is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PauseReasons(u8);

impl PauseReasons {
    /// The program asked for it.
    pub(crate) const USER: Self = Self(1);
    /// The program has not heard of the channel yet, so it could not say where the bytes should go.
    pub(crate) const UNOPENED: Self = Self(2);

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn contains(self, reason: Self) -> bool {
        self.0 & reason.0 == reason.0
    }

    pub(crate) fn insert(&mut self, reason: Self) {
        self.0 |= reason.0;
    }

    pub(crate) fn remove(&mut self, reason: Self) {
        self.0 &= !reason.0;
    }
}

/// Why a channel ends.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) reason: CloseReason,
    pub(crate) by: ClosedBy,
    pub(crate) errno: Option<Errno>,
    pub(crate) detail: Option<Box<str>>,
    /// How long the peer asked not to be dialed again, or is asked by us.
    pub(crate) retry_after: Option<Duration>,
}

impl Ending {
    pub(crate) fn new(reason: CloseReason, by: ClosedBy) -> Self {
        Self { reason, by, errno: None, detail: None, retry_after: None }
    }

    /// An operation of an established connection failed.
    pub(crate) fn of_errno(errno: Errno) -> Self {
        let reason = CloseReason::of_errno(errno);
        let by = if reason == CloseReason::Reset { ClosedBy::Peer } else { ClosedBy::Network };
        Self { errno: Some(errno), ..Self::new(reason, by) }
    }

    pub(crate) fn with_detail(mut self, detail: Option<Box<str>>) -> Self {
        self.detail = detail;
        self
    }

    /// True while the reason would claim more than has come true: that everything queued was sent.
    pub(crate) fn is_promise(&self) -> bool {
        self.reason == CloseReason::Normal && self.by == ClosedBy::Us
    }

    /// True when the connection failed and nobody has said why.
    pub(crate) fn is_failure(&self) -> bool {
        self.errno.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn life_goes_one_way_and_every_phase_but_the_last_goes_on() {
        for (place, from) in Phase::ALL.into_iter().enumerate() {
            for (to_place, to) in Phase::ALL.into_iter().enumerate() {
                assert!(!from.may_become(to) || place < to_place, "{from:?} -> {to:?}");
            }
            let ends = Phase::ALL.into_iter().all(|to| !from.may_become(to));
            assert_eq!(ends, from == Phase::Closed);
        }
    }

    #[test]
    fn reading_goes_on_when_no_reason_is_left() {
        let mut reasons = PauseReasons::default();
        reasons.insert(PauseReasons::USER);
        reasons.insert(PauseReasons::UNOPENED);
        reasons.insert(PauseReasons::USER);
        reasons.remove(PauseReasons::USER);
        assert!(!reasons.is_empty() && !reasons.contains(PauseReasons::USER));
        reasons.remove(PauseReasons::UNOPENED);
        assert!(reasons.is_empty());
    }
}
