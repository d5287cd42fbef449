//! A dial: the address as given, the endpoints it stands for, tried in turn, and the end of each attempt. Names are
//! looked up by the node.

use crate::addr::{Address, Endpoint};
use crate::error::{CloseReason, ClosedBy, Errno};

use super::lifecycle::Ending;

/// What the driver knows of the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// Not of it yet.
    Wanted,
    Submitted,
    /// The attempt is to be cancelled.
    CancelWanted,
    CancelSubmitted,
}

#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) address: Address,
    endpoints: Vec<Endpoint>,
    /// Which of the endpoints is tried now.
    at: usize,
    pub(crate) attempt: Attempt,
    /// True when the attempt is cancelled because it took too long.
    timed_out: bool,
}

impl Dial {
    pub(crate) fn new(address: Address) -> Self {
        let endpoints = address.dial_literal().into_iter().collect();
        Self { address, endpoints, at: 0, attempt: Attempt::Wanted, timed_out: false }
    }

    pub(crate) fn is_resolved(&self) -> bool {
        !self.endpoints.is_empty()
    }

    pub(crate) fn set_endpoints(&mut self, endpoints: Vec<Endpoint>) {
        debug_assert!(!self.is_resolved() && !endpoints.is_empty());
        self.endpoints = endpoints;
    }

    pub(crate) fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoints.get(self.at)
    }

    /// Asks for the end of the attempt, if there is one.
    pub(crate) fn cancel(&mut self) {
        if self.attempt == Attempt::Submitted {
            self.attempt = Attempt::CancelWanted;
        }
    }

    pub(crate) fn time_out(&mut self) {
        self.timed_out = true;
        self.cancel();
    }

    /// The attempt failed. Why, when it was the last.
    pub(crate) fn handle_failed(&mut self, errno: Errno) -> Option<Ending> {
        let timed_out = std::mem::take(&mut self.timed_out);
        if self.at + 1 < self.endpoints.len() {
            self.at += 1;
            self.attempt = Attempt::Wanted;
            return None;
        }
        // The errno of a cancelled attempt says that we cancelled it, no more.
        let reason = if timed_out { CloseReason::DialTimeout } else { CloseReason::of_dial_errno(errno) };
        let which = self.endpoint().map(|endpoint| endpoint.to_string().into_boxed_str());
        let ending = Ending::new(reason, ClosedBy::Network).with_detail(which);
        Some(Ending { errno: (!timed_out).then_some(errno), ..ending })
    }
}
