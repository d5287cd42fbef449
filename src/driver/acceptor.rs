//! The listeners of a loop: whether each accepts, and what to do when the kernel ends that. Pure, and the same for both
//! drivers: `F` is what a driver has for a descriptor.

use std::time::Duration;

use crate::addr::Endpoint;
use crate::clock::Mono;
use crate::driver::ListenerId;
use crate::error::Errno;

/// The first wait after descriptors ran out; it doubles up to [`LONGEST_PAUSE`].
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The next operation for a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcceptOp {
    Accept,
    CancelAccept,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Armed,
    Cancelling,
    /// Descriptors or memory ran out: arming at once would spin, for the kernel refuses before anybody knocks.
    Waiting {
        until: Mono,
    },
}

/// What an accept completion means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcceptEnd<A> {
    Accepted(A),
    /// The first lack of descriptors or memory of an episode.
    Paused(Errno),
    /// The listener is of no use any more: it is to be closed.
    Failed(Errno),
    Nothing,
}

#[derive(Debug)]
pub(crate) struct Acceptor<F> {
    pub(crate) fd: F,
    pub(crate) local: Endpoint,
    state: State,
    wants_accepting: bool,
    closing: bool,
    in_flight: u8,
    pause: Duration,
    /// True from the first lack of descriptors until an accept has stood a turn.
    lacking: bool,
}

/// The acceptors of a loop, by their listeners.
#[derive(Debug)]
pub(crate) struct Acceptors<F>(Vec<Option<Acceptor<F>>>);

impl<F> Acceptors<F> {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn open(&mut self, listener: ListenerId, fd: F, local: Endpoint) {
        let place = listener.0 as usize;
        if place >= self.0.len() {
            self.0.resize_with(place + 1, || None);
        }
        assert!(self.0[place].is_none(), "a listener is opened once");
        self.0[place] = Some(Acceptor::new(fd, local));
    }

    pub(crate) fn get_mut(&mut self, listener: ListenerId) -> Option<&mut Acceptor<F>> {
        self.0.get_mut(listener.0 as usize)?.as_mut()
    }

    /// All there ever were, for a walk on which they are changed.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = ListenerId> + use<F> {
        (0..self.0.len() as u32).map(ListenerId)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Acceptor<F>> {
        self.0.iter().flatten()
    }

    pub(crate) fn want_accepting(&mut self, accepting: bool) {
        self.0.iter_mut().flatten().for_each(|acceptor| acceptor.want_accepting(accepting));
    }

    /// A descriptor was freed: those that lack one try at once.
    pub(crate) fn descriptor_freed(&mut self) {
        self.0.iter_mut().flatten().for_each(Acceptor::descriptor_freed);
    }

    /// One whose lack is over; each once.
    pub(crate) fn next_recovered(&mut self) -> Option<ListenerId> {
        let all = (0..).map(ListenerId).zip(&mut self.0);
        { all }.find_map(|(listener, acceptor)| acceptor.as_mut()?.has_recovered().then_some(listener))
    }

    /// One that is to be closed, when nothing of it is in flight any more.
    pub(crate) fn take_closable(&mut self, listener: ListenerId) -> Option<Acceptor<F>> {
        self.0.get_mut(listener.0 as usize)?.take_if(|acceptor| acceptor.is_closable())
    }
}

impl<F> Acceptor<F> {
    fn new(fd: F, local: Endpoint) -> Self {
        Self {
            fd,
            local,
            state: State::Idle,
            wants_accepting: true,
            closing: false,
            in_flight: 0,
            pause: SHORTEST_PAUSE,
            lacking: false,
        }
    }

    pub(crate) fn want_accepting(&mut self, accepting: bool) {
        self.wants_accepting = accepting && !self.closing;
    }

    pub(crate) fn close(&mut self) {
        self.closing = true;
        self.wants_accepting = false;
    }

    /// True when the descriptor can be closed.
    pub(crate) fn is_closable(&self) -> bool {
        self.closing && self.in_flight == 0
    }

    /// When to try again.
    pub(crate) fn deadline(&self) -> Option<Mono> {
        match self.state {
            State::Waiting { until } if self.wants_accepting => Some(until),
            State::Waiting { .. } | State::Idle | State::Armed | State::Cancelling => None,
        }
    }

    /// A descriptor was freed: try at once.
    pub(crate) fn descriptor_freed(&mut self) {
        if let State::Waiting { .. } = self.state {
            self.state = State::Idle;
        }
    }

    /// The next operation to submit; it counts as submitted.
    pub(crate) fn next_op(&mut self, now: Mono) -> Option<AcceptOp> {
        let (state, op) = match self.state {
            State::Idle if self.wants_accepting => (State::Armed, AcceptOp::Accept),
            State::Waiting { until } if self.wants_accepting && until <= now => {
                (State::Armed, AcceptOp::Accept)
            }
            State::Armed if !self.wants_accepting => (State::Cancelling, AcceptOp::CancelAccept),
            State::Idle | State::Waiting { .. } | State::Armed | State::Cancelling => return None,
        };
        self.state = state;
        self.in_flight += 1;
        Some(op)
    }

    pub(crate) fn handle_cancelled(&mut self) {
        assert!(self.in_flight > 0, "an operation ended that was not in flight");
        self.in_flight -= 1;
    }

    pub(crate) fn handle_accept<A>(
        &mut self,
        result: Result<A, Errno>,
        more: bool,
        now: Mono,
    ) -> AcceptEnd<A> {
        assert!(
            matches!(self.state, State::Armed | State::Cancelling),
            "an accept completed that was not armed"
        );
        if !more {
            self.handle_cancelled();
            self.state = State::Idle;
        }
        let errno = match result {
            Ok(accepted) => return AcceptEnd::Accepted(accepted),
            Err(errno) => errno,
        };
        match errno.0 {
            libc::EINVAL | libc::EBADF | libc::ENOTSOCK if self.closing => AcceptEnd::Nothing,
            libc::EINVAL | libc::EBADF | libc::ENOTSOCK => {
                self.close();
                AcceptEnd::Failed(errno)
            }
            // The one who knocked is gone, or the network had a fault on his way: not the listener's affair.
            libc::ECANCELED
            | libc::ECONNABORTED
            | libc::ECONNRESET
            | libc::EPROTO
            | libc::EINTR
            | libc::EAGAIN
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::ENOPROTOOPT
            | libc::ENONET
            | libc::ETIMEDOUT => AcceptEnd::Nothing,
            // EMFILE, ENFILE, ENOMEM, ENOBUFS; and an error nobody foresaw must not spin either.
            _ => self.lack(errno, now),
        }
    }

    fn lack<A>(&mut self, errno: Errno, now: Mono) -> AcceptEnd<A> {
        if planted!(SpinOnEmfile) {
            return AcceptEnd::Nothing;
        }
        self.state = State::Waiting { until: now + self.pause };
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        if std::mem::replace(&mut self.lacking, true) { AcceptEnd::Nothing } else { AcceptEnd::Paused(errno) }
    }

    /// True when it accepts, or should not, or will again at a time to come.
    #[cfg(feature = "sim")]
    pub(crate) fn is_waiting(&self) -> bool {
        self.state != State::Idle || !self.wants_accepting
    }

    /// There was a lack, and it is tried again just now.
    pub(crate) fn is_recovering(&self) -> bool {
        self.lacking && self.state == State::Armed
    }

    /// Everything the last turn brought has been handled. True when a lack is over: the accept still stands, and a
    /// lack would have ended it at once.
    pub(crate) fn has_recovered(&mut self) -> bool {
        let recovered = self.is_recovering();
        if recovered {
            self.lacking = false;
            self.pause = SHORTEST_PAUSE;
        }
        recovered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Mono = Mono::from_nanos(1_000);

    fn refused(errno: i32) -> Result<i32, Errno> {
        Err(Errno(errno))
    }

    fn armed() -> Acceptor<i32> {
        let mut acceptor = Acceptor::new(3, Endpoint::Tcp(([127, 0, 0, 1], 1).into()));
        assert_eq!(acceptor.next_op(NOW), Some(AcceptOp::Accept));
        assert_eq!(acceptor.next_op(NOW), None);
        acceptor
    }

    #[test]
    fn a_lack_of_descriptors_waits_longer_each_time_and_is_told_once() {
        let mut acceptor = armed();
        let mut now = NOW;
        assert_eq!(
            acceptor.handle_accept(refused(libc::EMFILE), false, now),
            AcceptEnd::Paused(Errno(libc::EMFILE))
        );
        for pause in [10, 20, 40, 80, 160, 320, 640, 1000, 1000] {
            assert_eq!(acceptor.next_op(now), None, "no spin");
            assert_eq!(acceptor.deadline(), Some(now + Duration::from_millis(pause)));
            now = now + Duration::from_millis(pause);
            assert_eq!(acceptor.next_op(now), Some(AcceptOp::Accept));
            assert_eq!(acceptor.handle_accept(refused(libc::EMFILE), false, now), AcceptEnd::Nothing);
            assert!(!acceptor.has_recovered());
        }
        acceptor.descriptor_freed();
        assert_eq!(acceptor.next_op(now), Some(AcceptOp::Accept));
        assert!(acceptor.has_recovered());
        assert!(!acceptor.has_recovered());
    }

    #[test]
    fn one_who_left_before_he_was_accepted_costs_nothing() {
        for errno in [libc::ECONNABORTED, libc::EPROTO, libc::ENETDOWN, libc::ECANCELED] {
            let mut acceptor = armed();
            assert_eq!(acceptor.handle_accept(refused(errno), false, NOW), AcceptEnd::Nothing);
            assert_eq!(acceptor.next_op(NOW), Some(AcceptOp::Accept));
        }
    }

    #[test]
    fn a_dead_listener_is_closed_and_never_armed_again() {
        let mut acceptor = armed();
        assert_eq!(
            acceptor.handle_accept(refused(libc::ENOTSOCK), false, NOW),
            AcceptEnd::Failed(Errno(libc::ENOTSOCK))
        );
        assert!(acceptor.is_closable());
        acceptor.want_accepting(true);
        assert_eq!(acceptor.next_op(NOW), None);
    }

    #[test]
    fn pausing_cancels_and_closing_waits_for_the_cancel() {
        let mut acceptor = armed();
        acceptor.close();
        assert_eq!(acceptor.next_op(NOW), Some(AcceptOp::CancelAccept));
        assert_eq!(acceptor.handle_accept(Ok(9), true, NOW), AcceptEnd::Accepted(9));
        acceptor.handle_cancelled();
        assert!(!acceptor.is_closable());
        assert_eq!(acceptor.handle_accept(refused(libc::ECANCELED), false, NOW), AcceptEnd::Nothing);
        assert!(acceptor.is_closable());
        assert_eq!(acceptor.next_op(NOW), None);
    }
}
