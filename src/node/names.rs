//! Host names looked up off the loop: getaddrinfo blocks, for half a minute when a name server is away.
//!
//! A few helper threads do it, started when there is something to look up and ended when there is not. Which address of
//! the answer is tried when is for the dial to decide.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// More would not help: what is slow is one name server, and it is slow for all of them.
const MAX_HELPERS: usize = 4;
const HELPER_IDLE: Duration = Duration::from_secs(10);

type Answer = io::Result<Vec<SocketAddr>>;
type Resolve = dyn Fn(&str, u16) -> Answer + Send + Sync;

/// `lookups` names are being looked up already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many names are being looked up; try again, or raise lookups")]
pub(crate) struct Busy;

/// Looks host names up, for any thread, until it is closed.
pub(crate) struct Names {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    limit: usize,
    helper_idle: Duration,
    resolve: Box<Resolve>,
}

struct Lookup {
    host: String,
    port: u16,
    reply: Box<dyn FnOnce(Answer) + Send>,
}

/// Invariant: `idle <= helpers <= MAX_HELPERS`. A helper is idle from its start on, except while it looks a name up.
#[derive(Default)]
struct State {
    waiting: VecDeque<Lookup>,
    helpers: usize,
    idle: usize,
    closed: bool,
}

impl State {
    fn check(&self) {
        debug_assert!(self.idle <= self.helpers && self.helpers <= MAX_HELPERS);
    }

    /// Names waiting or being looked up.
    fn unanswered(&self) -> usize {
        self.waiting.len() + self.helpers - self.idle
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").field("limit", &self.shared.limit).finish_non_exhaustive()
    }
}

impl Names {
    /// Up to `limit` names at once, waiting ones included.
    pub(crate) fn new(limit: usize) -> Self {
        Self::with(limit, HELPER_IDLE, |host, port| (host, port).to_socket_addrs().map(Iterator::collect))
    }

    fn with(
        limit: usize,
        helper_idle: Duration,
        resolve: impl Fn(&str, u16) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let (state, work) = (Mutex::default(), Condvar::new());
        Self { shared: Arc::new(Shared { state, work, limit, helper_idle, resolve: Box::new(resolve) }) }
    }

    /// Looks `host` up; `reply` gets at least one address or an error, once, on a helper's thread (on the caller's when
    /// no thread could be started); never once this is closed.
    pub(crate) fn lookup(
        &self,
        host: String,
        port: u16,
        reply: impl FnOnce(Answer) + Send + 'static,
    ) -> Result<(), Busy> {
        let mut state = self.shared.lock();
        if state.closed {
            return Ok(());
        }
        if state.unanswered() >= self.shared.limit {
            return Err(Busy);
        }
        state.waiting.push_back(Lookup { host, port, reply: Box::new(reply) });
        if state.waiting.len() <= state.idle || state.helpers == MAX_HELPERS {
            self.shared.work.notify_one();
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        // Under the lock, so that nobody counts on a helper that does not come.
        match thread::Builder::new().name("ringlink-names".into()).spawn(move || shared.help()) {
            Ok(_detached) => {
                state.helpers += 1;
                state.idle += 1;
            }
            Err(error) if state.helpers == 0 => {
                let lookup = state.waiting.pop_back().expect("it was pushed above");
                drop(state);
                (lookup.reply)(Err(error));
            }
            Err(_) => self.shared.work.notify_one(), // the others will get to it
        }
        Ok(())
    }

    /// Waits for nobody: look-ups not begun are forgotten, one under way ends in silence. Neither is answered.
    pub(crate) fn close(&self) {
        let mut state = self.shared.lock();
        state.closed = true;
        let forgotten = std::mem::take(&mut state.waiting);
        drop(state);
        self.shared.work.notify_all();
        drop(forgotten); // not under the lock: a reply may own anything
    }
}

impl Shared {
    /// A helper's life.
    fn help(&self) {
        while let Some(Lookup { host, port, reply }) = self.next_lookup() {
            let answer = (self.resolve)(&host, port).and_then(|addresses| match addresses.is_empty() {
                true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
                false => Ok(addresses),
            });
            if !self.lock().closed {
                // A panic was reported by its hook; a helper less would hold other names up.
                let _panicked = catch_unwind(AssertUnwindSafe(|| reply(answer)));
            }
            self.lock().idle += 1;
        }
    }

    /// Waits for the next name, as an idle helper; `None` ends the helper.
    fn next_lookup(&self) -> Option<Lookup> {
        let (mut state, _timeout) = self
            .work
            .wait_timeout_while(self.lock(), self.helper_idle, |state| {
                state.waiting.is_empty() && !state.closed
            })
            .expect("nothing panics while it holds the names");
        state.idle -= 1;
        let lookup = state.waiting.pop_front();
        if lookup.is_none() {
            state.helpers -= 1;
        }
        state.check();
        lookup
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let state = self.state.lock().expect("nothing panics while it holds the names");
        state.check();
        state
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn ask(names: &Names, host: &str) -> Receiver<Answer> {
        let (sender, receiver) = channel();
        names.lookup(host.into(), 7, move |answer| sender.send(answer).unwrap()).unwrap();
        receiver
    }

    /// Names whose look-ups say that they have begun and hang until the returned sender is used or dropped.
    fn hanging(limit: usize) -> (Names, Receiver<()>, std::sync::mpsc::Sender<()>) {
        let ((began, begun), (release, released)) = (channel(), channel::<()>());
        let released = Mutex::new(released);
        let names = Names::with(limit, Duration::from_millis(1), move |_, port| {
            began.send(()).unwrap();
            let _released_or_dropped = released.lock().unwrap().recv();
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
        });
        (names, begun, release)
    }

    #[test]
    fn localhost_is_found_with_its_port() {
        let names = Names::new(1);
        let addresses = ask(&names, "localhost").recv_timeout(LONG).unwrap().unwrap();
        assert!(!addresses.is_empty());
        assert!(addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 7));
    }

    #[test]
    fn a_name_that_cannot_be_is_an_error() {
        let names = Names::new(2);
        assert!(ask(&names, "no such host").recv_timeout(LONG).unwrap().is_err());
        let nothing = Names::with(1, LONG, |_, _| Ok(Vec::new()));
        assert!(ask(&nothing, "x").recv_timeout(LONG).unwrap().is_err());
    }

    #[test]
    fn the_limit_counts_waiting_and_running_look_ups() {
        let (names, begun, release) = hanging(6);
        let answers: Vec<_> = (0..6).map(|_| ask(&names, "x")).collect();
        assert_eq!(names.lookup("x".into(), 7, |_| ()), Err(Busy));
        begun.recv_timeout(LONG).unwrap();
        assert!(names.shared.lock().helpers <= MAX_HELPERS);
        drop(release);
        for answer in answers {
            answer.recv_timeout(LONG).unwrap().unwrap();
        }
    }

    #[test]
    fn helpers_end_when_idle_and_come_back_when_needed() {
        let (names, _begun, release) = hanging(6);
        drop(release);
        for _ in 0..3 {
            ask(&names, "x").recv_timeout(LONG).unwrap().unwrap();
            while names.shared.lock().helpers > 0 {
                thread::yield_now();
            }
        }
    }

    #[test]
    fn closing_does_not_wait_for_a_look_up_that_hangs_and_looks_no_other_up() {
        let (names, begun, release) = hanging(6);
        let answers: Vec<_> = (0..6).map(|_| ask(&names, "x")).collect();
        begun.recv_timeout(LONG).unwrap();
        names.close();
        let late = ask(&names, "x");
        drop(release);
        for answer in answers.into_iter().chain([late]) {
            assert!(answer.recv_timeout(LONG).is_err(), "the reply is dropped, not called");
        }
        while names.shared.lock().helpers > 0 {
            thread::yield_now();
        }
        assert!(begun.try_iter().count() < MAX_HELPERS, "who waits is forgotten");
    }

    #[test]
    fn a_reply_that_panics_costs_no_helper() {
        let names = Names::with(1, LONG, |_, port| Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]));
        let (sender, receiver) = channel::<()>();
        names
            .lookup("x".into(), 7, move |_| {
                let _dropped_by_the_panic = sender;
                panic!("wanted by the test");
            })
            .unwrap();
        assert!(receiver.recv_timeout(LONG).is_err());
        let again = loop {
            let (sender, receiver) = channel();
            match names.lookup("y".into(), 7, move |answer| sender.send(answer).unwrap()) {
                Ok(()) => break receiver,
                Err(Busy) => thread::yield_now(),
            }
        };
        again.recv_timeout(LONG).unwrap().unwrap();
        assert_eq!(names.shared.lock().helpers, 1);
    }
}
