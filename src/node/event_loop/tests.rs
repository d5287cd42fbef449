//! A loop turned by hand, on the real kernel, with plain sockets at the other end.

use std::cell::RefCell;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::{Arc, mpsc};

use bytes::Bytes;

use super::*;
use crate::addr::{Address, Endpoint};
use crate::channel::{Phase, Room, Slots};
use crate::config::Config;
use crate::driver::uring::UringDriver;
use crate::driver::{Settings, Submission, Waker};
use crate::error::{DialError, SendError};
use crate::node::command::UNTIMED;
use crate::node::handle::Handle;
use crate::node::mailbox::Mailbox;
use crate::node::shared::{LoopWaker, Port, Shared};
use crate::node::start::event_loop;
use crate::stats::Counters;

const PATIENCE: Duration = Duration::from_secs(30);

/// What callbacks have told.
type Journal<T> = Rc<RefCell<Vec<T>>>;

fn one_channel() -> Config {
    Config { channels: 1, ..Config::default() }
}

/// A loop that listens, its handle, and where it listens.
fn listening<H: Handler>(config: Config, handler: H) -> (EventLoop<UringDriver, H>, Handle, SocketAddr) {
    let at = Endpoint::Tcp(([127, 0, 0, 1], 0).into());
    let config = Config { listen: vec![at.clone().into()], ..config };
    let counters = Arc::<Counters>::default();
    let settings = Settings { first_slot: 0, ring: config.ring.clone(), socket: config.socket.clone() };
    let mut driver = UringDriver::new(settings, Arc::clone(&counters)).unwrap();
    let local = driver.listen(ListenerId(0), &at, false).unwrap();
    let (event_loop, handle) = loop_on(driver, counters, &config, handler);
    (event_loop, handle, local.socket_addr().unwrap())
}

fn loop_on<D: Driver, H: Handler>(
    driver: D,
    counters: Arc<Counters>,
    config: &Config,
    handler: H,
) -> (EventLoop<D, H>, Handle) {
    let port = Port {
        slots: Slots::new(0, config.channels, Room::new(config.mode, &config.limits)).unwrap(),
        mailbox: Mailbox::new(LoopWaker::new(driver.waker()), &config.limits, Arc::clone(&counters)),
        counters: Arc::clone(&counters),
        thread: std::thread::current().id(),
    };
    let handle = Handle::new(Arc::new(Shared::new(vec![port], config.limits.lookups, None, false)));
    let mut event_loop = event_loop(0, driver, handler, handle.clone(), config, counters, 0);
    event_loop.begin();
    (event_loop, handle)
}

/// Turns until it is so.
#[track_caller]
fn turn_until<H: Handler>(
    event_loop: &mut EventLoop<UringDriver, H>,
    mut is_so: impl FnMut(&EventLoop<UringDriver, H>) -> bool,
) {
    let deadline = event_loop.driver.now() + PATIENCE;
    while !is_so(event_loop) {
        assert!(event_loop.driver.now() < deadline, "it never is");
        // A turn ends by waiting, and it may be so before that.
        event_loop.driver.waker().wake();
        assert!(event_loop.turn().unwrap().is_continue(), "nobody shuts it down");
    }
}

fn is_reset(end: &io::Result<usize>) -> bool {
    end.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

/// Dials whenever something closes.
struct Redialer {
    to: Endpoint,
    closed: Journal<(ChannelId, Result<ChannelId, DialError>)>,
}

impl Handler for Redialer {
    fn on_close(&mut self, cx: &mut Context<'_>, channel: ChannelId, _: &CloseReport) {
        self.closed.borrow_mut().push((channel, cx.dial(self.to.clone())));
    }
}

#[test]
fn a_loop_that_the_kernel_fails_leaves_no_connection_and_no_channel_behind() {
    let closed = Rc::default();
    let to = Endpoint::Tcp(([127, 0, 0, 1], 9).into());
    let (mut event_loop, handle, address) =
        listening(one_channel(), Redialer { to, closed: Rc::clone(&closed) });
    let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    // One has the only channel; the others wait for one.
    turn_until(&mut event_loop, |it| it.core.waiting_count() == 2);
    // One of them gets it in the turn that fails: the driver has not heard of its channel.
    let first = event_loop.core.channels.ids()[0];
    event_loop.core.channels.touch(first).unwrap().abort();
    turn_until(&mut event_loop, |it| it.core.waiting_count() == 1);

    let error = DriverError::Kernel { doing: "test", error: io::Error::other("wanted by the test") };
    let outcome = event_loop.end(Err(error));
    assert!(matches!(outcome, Err(NodeError::Driver { .. })), "{outcome:?}");
    let [(one, ref early), (other, ref late)] = closed.borrow()[..] else { panic!("{closed:?}") };
    assert!(one == first && other != first);
    assert_eq!(*late, Err(DialError::Stopped));
    assert!(matches!(early, Err(DialError::TableFull { .. })), "{early:?}");
    assert_eq!(handle.shared().ports[0].slots.live_count(), 0);
    for mut client in clients {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        // As a whole: a single read may be interrupted by what the ring leaves behind.
        let end = client.read_to_end(&mut Vec::new());
        assert!(end.as_ref().is_ok_and(|len| *len == 0) || is_reset(&end), "{end:?}");
    }
}

/// Writes down what is told of listeners.
struct Doorkeeper(Journal<(usize, &'static str, Option<Errno>)>);

impl Handler for Doorkeeper {
    fn on_accept_paused(&mut self, _: &mut Context<'_>, listener: usize, errno: Option<Errno>) {
        self.0.borrow_mut().push((listener, "paused", errno));
    }

    fn on_accept_resumed(&mut self, _: &mut Context<'_>, listener: usize) {
        self.0.borrow_mut().push((listener, "resumed", None));
    }

    fn on_listener_failed(&mut self, _: &mut Context<'_>, listener: usize, errno: Errno) {
        self.0.borrow_mut().push((listener, "failed", Some(errno)));
    }
}

#[test]
fn nothing_is_told_of_a_listener_after_it_failed() {
    let told = Rc::default();
    let (mut event_loop, _, address) = listening(one_channel(), Doorkeeper(Rc::clone(&told)));
    event_loop.core.listeners.push(ListenerId(1));
    let errno = Errno(libc::EINVAL);
    event_loop.callbacks().complete(Completion::ListenFailed { listener: ListenerId(1), errno });
    let client = TcpStream::connect(address).unwrap();
    turn_until(&mut event_loop, |_| told.borrow().len() == 2);
    drop(client);
    turn_until(&mut event_loop, |_| told.borrow().len() == 3);
    assert_eq!(*told.borrow(), [(1, "failed", Some(errno)), (0, "paused", None), (0, "resumed", None)]);
    event_loop.end(Ok(())).unwrap();
}

#[test]
fn a_dial_that_finds_the_mailbox_full_takes_no_slot() {
    let (mut event_loop, handle, address) = listening(one_channel(), Doorkeeper(Rc::default()));
    while handle.broadcast(&Bytes::new()).is_ok() {}
    let address = Endpoint::Tcp(address);
    assert_eq!(handle.dial(address.clone()), Err(DialError::Busy));
    event_loop.core.run_commands(|| false);
    let channel = handle.dial(address).unwrap();
    assert_eq!(channel.generation(), 1, "its slot was never given out before");
    event_loop.end(Ok(())).unwrap();
}

#[test]
fn what_a_loop_is_too_late_for_is_for_its_next_turn() {
    let config = Config { channels: 2 * UNTIMED as u32, ..Config::default() };
    let (mut event_loop, handle, address) = listening(config, Doorkeeper(Rc::default()));
    let core = &mut event_loop.core;
    for _ in 0..2 * UNTIMED {
        handle.dial(Endpoint::Tcp(address)).unwrap();
    }
    assert!(core.run_commands(|| true) && core.has_mail());
    assert_eq!(core.channels.len(), UNTIMED);
    for _ in 0..2 {
        handle.broadcast(&Bytes::new()).unwrap();
    }
    assert!(core.run_commands(|| false) && !core.has_mail());
    assert_eq!(core.channels.len(), 2 * UNTIMED);
    assert!(core.run_commands(|| true) && core.has_mail(), "a broadcast may take long");
    core.close_mailbox();
    assert!(!core.has_mail() && !core.run_commands(|| false));
    event_loop.end(Ok(())).unwrap();
}

/// Takes longer for each token than a turn has for commands.
struct Slow(Journal<u64>);

impl Handler for Slow {
    fn on_notify(&mut self, _: &mut Context<'_>, token: u64) {
        let (_sender, nothing) = mpsc::channel::<()>();
        assert!(nothing.recv_timeout(3 * PART_TIME).is_err());
        self.0.borrow_mut().push(token);
    }
}

#[test]
fn a_handler_that_is_slow_to_hear_does_not_keep_its_loop() {
    let told = Rc::default();
    let (mut event_loop, handle, _) = listening(one_channel(), Slow(Rc::clone(&told)));
    for token in 0..3 {
        handle.notify(token).unwrap();
    }
    for turns in 1..=3_u64 {
        event_loop.driver.waker().wake();
        assert!(event_loop.turn().unwrap().is_continue());
        assert_eq!(*told.borrow(), (0..turns).collect::<Vec<_>>());
        assert_eq!(event_loop.core.has_mail(), turns < 3);
    }
    // Nor does the end of the loop keep a word from it.
    for token in 3..5 {
        handle.notify(token).unwrap();
    }
    handle.shutdown(Duration::ZERO);
    while event_loop.turn().unwrap().is_continue() {}
    event_loop.end(Ok(())).unwrap();
    assert_eq!(*told.borrow(), [0, 1, 2, 3, 4]);
}

/// Keeps the reports.
struct Registrar(Journal<CloseReport>);

impl Handler for Registrar {
    fn on_close(&mut self, _: &mut Context<'_>, _: ChannelId, report: &CloseReport) {
        self.0.borrow_mut().push(report.clone());
    }
}

#[test]
fn a_name_that_cannot_be_looked_up_for_want_of_lookups_is_not_one_that_was_not_found() {
    let reports = Rc::default();
    let mut config = one_channel();
    config.limits.lookups = 0;
    let (mut event_loop, handle, _) = listening(config, Registrar(Rc::clone(&reports)));
    handle.dial("localhost:9".parse::<Address>().unwrap()).unwrap();
    turn_until(&mut event_loop, |_| !reports.borrow().is_empty());
    let report = reports.borrow()[0].to_string();
    assert_eq!(report, "limit by us: too many names are being looked up; try again, or raise lookups");
    event_loop.end(Ok(())).unwrap();
}

/// Keeps what came.
struct Reader(Journal<(ChannelId, Vec<u8>)>);

impl Handler for Reader {
    fn on_data(&mut self, _: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        self.0.borrow_mut().push((channel, data.to_vec()));
    }
}

#[test]
fn what_was_held_for_many_is_given_out_in_as_many_turns_as_it_takes() {
    let told = Rc::default();
    let config = Config { mode: Mode::Stream, channels: 3, ..Config::default() };
    let (mut event_loop, _, address) = listening(config, Reader(Rc::clone(&told)));
    let _clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    turn_until(&mut event_loop, |it| {
        it.core.channels.iter().filter(|c| c.phase() == Phase::Open).count() == 3
    });
    let ids = event_loop.core.channels.ids();
    event_loop.flush(NEVER);
    for &id in &ids {
        event_loop.core.on_channel(id, channel::Channel::pause);
        event_loop.callbacks().deliver(id, b"held");
        event_loop.core.on_channel(id, channel::Channel::resume);
    }
    for turns in 1..=3 {
        assert!(event_loop.core.channels.has_dirty() && told.borrow().len() == turns - 1);
        let late = event_loop.driver.now();
        event_loop.flush(late);
    }
    assert_eq!(*told.borrow(), ids.iter().map(|&id| (id, b"held".to_vec())).collect::<Vec<_>>());
    event_loop.end(Ok(())).unwrap();
}

#[test]
fn what_is_asked_of_a_dial_that_is_still_in_the_mail_is_not_lost() {
    let reports = Rc::default();
    let (mut event_loop, handle, address) = listening(one_channel(), Registrar(Rc::clone(&reports)));
    let channel = handle.dial(Endpoint::Tcp(address)).unwrap();
    let mut cx = Context::new(&mut event_loop.core);
    assert_eq!(cx.send(channel, b"x"), Err(SendError::NotOpen));
    cx.abort(channel);
    turn_until(&mut event_loop, |_| !reports.borrow().is_empty());
    let report = &reports.borrow()[0];
    assert_eq!((report.reason, report.opened), (CloseReason::Aborted, false));
    assert_eq!(Context::new(&mut event_loop.core).send(channel, b"x"), Err(SendError::Closed));
    event_loop.end(Ok(())).unwrap();
}

/// A kernel that begins everything and ends nothing. Waiting takes no time.
struct Stuck {
    now: Mono,
    in_flight: usize,
}

#[derive(Clone, Debug)]
struct Unheard;

impl Waker for Unheard {
    fn wake(&self) {}
}

impl Driver for Stuck {
    type Waker = Unheard;

    fn now(&self) -> Mono {
        self.now
    }

    fn waker(&self) -> Unheard {
        Unheard
    }

    fn listen(&mut self, _: ListenerId, at: &Endpoint, _: bool) -> io::Result<Endpoint> {
        Ok(at.clone())
    }

    fn submit(&mut self, submission: Submission) {
        self.in_flight += usize::from(matches!(submission, Submission::Dial { .. }));
    }

    fn turn(&mut self, wait: Wait) -> Result<(), DriverError> {
        match wait {
            Wait::Not => {}
            Wait::Until(time) => self.now = self.now.max(time),
            Wait::Forever => panic!("nothing will ever happen"),
        }
        Ok(())
    }

    fn next_completion(&mut self) -> Option<Completion<'_>> {
        None
    }

    fn finish(self, _: Mono) -> usize {
        self.in_flight
    }
}

#[test]
fn a_kernel_that_ends_nothing_does_not_keep_a_loop_from_its_end() {
    let reports = Rc::default();
    let driver = Stuck { now: Mono::from_nanos(1), in_flight: 0 };
    let (mut event_loop, handle) =
        loop_on(driver, Arc::default(), &one_channel(), Registrar(Rc::clone(&reports)));
    handle.dial(Endpoint::Tcp(([127, 0, 0, 1], 9).into())).unwrap();
    assert!(event_loop.turn().unwrap().is_continue());
    let (began, grace) = (event_loop.driver.now, Duration::from_secs(1));
    handle.shutdown(grace);
    while event_loop.turn().unwrap().is_continue() {}
    assert_eq!(event_loop.driver.now - began, grace + CUT_GRACE);
    assert!(matches!(event_loop.end(Ok(())), Err(NodeError::Leaked { operations: 1, .. })));
    assert_eq!(reports.borrow().len(), 1);
}

/// Keeps the ids of whom there was room for again.
struct Drained(Journal<ChannelId>);

impl Handler for Drained {
    fn on_drained(&mut self, _: &mut Context<'_>, channel: ChannelId) {
        self.0.borrow_mut().push(channel);
    }
}

#[test]
fn who_is_refused_for_what_an_earlier_channel_left_in_the_mail_is_called_back() {
    let drained = Rc::default();
    let config = Config { mode: Mode::Stream, ..one_channel() };
    let (outbox_low, outbox_max) = (config.limits.outbox_low, config.limits.outbox_max);
    let (mut event_loop, handle, address) = listening(config, Drained(Rc::clone(&drained)));
    let _clients: Vec<_> = (0..2).map(|_| TcpStream::connect(address).unwrap()).collect();
    turn_until(&mut event_loop, |it| it.core.waiting_count() == 1);
    let first = event_loop.core.channels.ids()[0];
    handle.send(first, &vec![0; outbox_max]).unwrap();
    event_loop.core.channels.touch(first).unwrap().abort();
    // Turns in which the mail is not looked at, as when the handler was slow.
    let deadline = event_loop.driver.now() + PATIENCE;
    while event_loop.core.waiting_count() == 1 {
        assert!(event_loop.driver.now() < deadline, "the second gets no channel");
        event_loop.reap();
        event_loop.flush(NEVER);
        event_loop.driver.turn(Wait::Not).unwrap();
    }
    let second = event_loop.core.channels.ids()[0];
    assert_eq!((second.slot(), handle.queued(second)), (first.slot(), outbox_max));
    assert!(matches!(handle.send(second, &[0]), Err(SendError::WouldBlock { .. })));
    turn_until(&mut event_loop, |_| !drained.borrow().is_empty());
    assert_eq!((drained.borrow()[0], handle.send(second, &vec![0; outbox_low])), (second, Ok(())));
    event_loop.end(Ok(())).unwrap();
}
