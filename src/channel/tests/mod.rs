//! Channels against a driver that does what it is told, keeps the contract of `driver/mod.rs`, and sees that the
//! channel keeps it too.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::driver::{Batch, Submission};
use crate::error::{Errno, SendError};

mod close;
mod dialing;
mod flow;
mod message;
mod walk;

fn settings_in(mode: Mode, change: impl FnOnce(&mut Limits)) -> Rc<Settings> {
    let mut limits = Limits::default();
    change(&mut limits);
    Rc::new(Settings { limits, counters: Arc::default(), send_size: 256 << 10, piece: 16 << 10, mode })
}

fn settings(change: impl FnOnce(&mut Limits)) -> Rc<Settings> {
    settings_in(Mode::Stream, change)
}

fn tcp(port: u16) -> Endpoint {
    Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], port)))
}

fn endpoints(local: u16, peer: u16) -> Endpoints {
    Endpoints { local: tcp(local), peer: tcp(peer) }
}

pub(super) fn some_channel(id: ChannelId) -> Channel {
    accepted(id, settings(|_| ()))
}

fn accepted(id: ChannelId, settings: Rc<Settings>) -> Channel {
    Channel::accepted(
        id,
        ListenerId(0),
        Accepted(5),
        endpoints(1, 2),
        Link::stream(),
        settings,
        Mono::default(),
    )
}

/// What the driver has of the channel.
#[derive(Debug, Default)]
struct Kernel {
    exists: bool,
    dialing: bool,
    cancelled: bool,
    reading: bool,
    out: Option<Box<Batch>>,
    fin: bool,
    close: Option<bool>,
    closed: bool,
    /// No EOF and no failure yet.
    inbound_over: bool,
    /// All that was sent and taken.
    sent: Vec<u8>,
    /// What of it the other end has been given last.
    heard: Vec<u8>,
}

/// A channel, its driver, and what the program saw.
struct Rig {
    channel: Channel,
    pool: ChunkPool,
    kernel: Kernel,
    now: Mono,
    events: Vec<String>,
    submitted: Vec<&'static str>,
    settings: Rc<Settings>,
    /// What the program does when it sees an event of this name.
    react: fn(&str, &mut Channel, &mut ChunkPool),
    report: Option<CloseReport>,
    /// Established links are admitted at once.
    admits: bool,
    /// Bytes given to the channel, and those of them the program saw.
    given: Vec<u8>,
    seen: Vec<u8>,
}

impl Rig {
    fn new(make: impl FnOnce(Rc<Settings>) -> Channel, change: impl FnOnce(&mut Limits)) -> Self {
        Self::of(settings(change), make)
    }

    fn of(settings: Rc<Settings>, make: impl FnOnce(Rc<Settings>) -> Channel) -> Self {
        Self {
            channel: make(Rc::clone(&settings)),
            pool: ChunkPool::new(),
            kernel: Kernel::default(),
            now: Mono::default(),
            events: Vec::new(),
            submitted: Vec::new(),
            settings,
            react: |_, _, _| (),
            report: None,
            admits: true,
            given: Vec::new(),
            seen: Vec::new(),
        }
    }

    fn accepted() -> Self {
        Self::new(|settings| accepted(ChannelId::new(0, 1), settings), |_| ())
    }

    fn dialing(address: &str) -> Self {
        let address: Address = address.parse().unwrap();
        let id = ChannelId::new(0, 1);
        Self::new(|s| Channel::dialing(id, address, s, Mono::default()), |_| ())
    }

    fn open() -> Self {
        Self::open_with(|_| ())
    }

    fn open_with(change: impl FnOnce(&mut Limits)) -> Self {
        let mut rig = Self::new(|settings| accepted(ChannelId::new(0, 1), settings), change);
        rig.turn();
        rig.submitted.clear();
        rig.events.clear();
        rig
    }

    /// Events and submissions until there are none; in this order, as in the loop.
    fn turn(&mut self) -> &mut Self {
        self.deliver(&[]);
        while let Some(submission) = self.channel.next_submission(&mut self.pool, self.now) {
            self.submit(submission);
        }
        self.channel.check();
        self.deliver(&[]);
        assert!(!self.channel.has_deliverable());
        self
    }

    fn deliver(&mut self, bytes: &[u8]) {
        let rest = self.deliver_some(bytes);
        self.channel.hold(rest);
        while self.channel.has_deliverable() {
            let held = self.channel.take_held().unwrap_or_default();
            let rest = self.deliver_some(&held).len();
            self.channel.hold_again(held, rest);
        }
    }

    /// Returns what a pause keeps from the program.
    fn deliver_some<'b>(&mut self, mut input: &'b [u8]) -> &'b [u8] {
        while let Some(event) = self.next_event(&mut input) {
            assert!(self.report.is_none(), "{event:?} after closed");
            let text = match event {
                Event::Opened => "opened".to_owned(),
                Event::Established => {
                    if self.admits {
                        self.channel.admit();
                    }
                    continue;
                }
                Event::Confirmed => "confirmed".to_owned(),
                Event::Data(bytes) => {
                    self.seen.extend_from_slice(bytes);
                    format!("data {}", String::from_utf8_lossy(bytes))
                }
                Event::Message(bytes) => format!("message {}", String::from_utf8_lossy(bytes)),
                Event::Assembled(message) => {
                    let text = format!("message {}", String::from_utf8_lossy(&message));
                    self.channel.give_back(message);
                    text
                }
                Event::Eof => "eof".to_owned(),
                Event::Drained => "drained".to_owned(),
                Event::Closed(report) => {
                    let text = format!("closed {} {:?}", report.reason, report.by);
                    self.report = Some(*report);
                    text
                }
            };
            (self.react)(&text, &mut self.channel, &mut self.pool);
            self.events.push(text);
            self.channel.check();
        }
        input
    }

    /// First by the short way, as the loop asks.
    fn next_event<'b>(&mut self, input: &mut &'b [u8]) -> Option<Event<'b>> {
        let flowing = match self.settings.mode {
            Mode::Stream => self.channel.next_data(input, self.now).map(Event::Data),
            Mode::Message => self.channel.next_message(input, self.now).map(Event::Message),
        };
        flowing.or_else(|| self.channel.next_event(input, self.now))
    }

    fn submit(&mut self, submission: Submission) {
        let kernel = &mut self.kernel;
        assert!(kernel.close.is_none(), "{submission:?} after close");
        let name = match submission {
            Submission::Adopt { .. } => {
                assert!(!std::mem::replace(&mut kernel.exists, true));
                "adopt"
            }
            Submission::Dial { .. } => {
                assert!(!kernel.exists && !std::mem::replace(&mut kernel.dialing, true));
                "dial"
            }
            Submission::CancelDial { .. } => {
                assert!(kernel.dialing && !std::mem::replace(&mut kernel.cancelled, true));
                "cancel"
            }
            Submission::Send { batch, .. } => {
                assert!(kernel.exists && kernel.out.is_none() && !kernel.fin && !batch.is_empty());
                kernel.out = Some(batch);
                "send"
            }
            Submission::PauseReading { .. } => {
                assert!(kernel.exists && std::mem::replace(&mut kernel.reading, false));
                "pause"
            }
            Submission::ResumeReading { .. } => {
                assert!(kernel.exists && !std::mem::replace(&mut kernel.reading, true));
                assert!(self.channel.held().is_empty(), "what is held is delivered before reading goes on");
                "resume"
            }
            Submission::ShutdownWrite { .. } => {
                assert!(kernel.exists && kernel.out.is_none() && !std::mem::replace(&mut kernel.fin, true));
                "fin"
            }
            Submission::Close { reset, .. } => {
                assert!(kernel.exists);
                kernel.close = Some(reset);
                if reset { "reset" } else { "close" }
            }
            Submission::Refuse { .. }
            | Submission::PauseAccepting
            | Submission::ResumeAccepting
            | Submission::StopListening => panic!("not a channel's affair"),
        };
        self.submitted.push(name);
    }

    fn receive(&mut self, bytes: &[u8]) -> &mut Self {
        assert!(!self.kernel.inbound_over);
        self.given.extend_from_slice(bytes);
        self.deliver(bytes);
        self.turn()
    }

    fn eof(&mut self) -> &mut Self {
        assert!(!std::mem::replace(&mut self.kernel.inbound_over, true));
        self.channel.handle_eof(self.now);
        self.turn()
    }

    fn receive_failed(&mut self, errno: i32) -> &mut Self {
        assert!(!std::mem::replace(&mut self.kernel.inbound_over, true));
        self.channel.handle_receive_failed(Errno(errno), self.now);
        self.turn()
    }

    /// The batch that is out is sent whole.
    fn sent(&mut self) -> &mut Self {
        let len = self.kernel.out.as_ref().expect("a send is out").len();
        self.sent_part(len, None)
    }

    fn sent_part(&mut self, bytes: usize, errno: Option<i32>) -> &mut Self {
        self.give_back(bytes, errno);
        self.turn()
    }

    /// All of the batch comes back when nothing else is to be done: what follows, follows from it.
    fn sent_alone(&mut self) {
        self.turns();
        let due_before = self.channel.deadline();
        let len = self.kernel.out.as_ref().expect("a send is out").len();
        self.give_back(len, None);
        let is_at_rest = self.channel.is_at_rest();
        if is_at_rest {
            assert!(due_before.is_none_or(|before| self.channel.deadline().is_none_or(|at| at >= before)));
        }
        assert!(self.turns() || !is_at_rest, "at rest nothing is to be done");
    }

    fn give_back(&mut self, bytes: usize, errno: Option<i32>) {
        let mut batch = self.kernel.out.take().expect("a send is out");
        let whole = batch.unsent().collect::<Vec<_>>().concat();
        self.kernel.sent.extend_from_slice(&whole[..bytes]);
        batch.advance(bytes);
        self.channel.handle_sent(batch, errno.map(Errno), &mut self.pool, self.now);
    }

    /// Turns until nothing happens any more. True when nothing did.
    fn turns(&mut self) -> bool {
        let done = |rig: &Self| (rig.events.len(), rig.submitted.len());
        let before = done(self);
        loop {
            let last = done(self);
            self.turn();
            if done(self) == last {
                return last == before;
            }
        }
    }

    /// Answers a close, as the driver must.
    fn closed(&mut self) -> &mut Self {
        assert!(self.kernel.close.is_some(), "close was not submitted: {:?}", self.submitted);
        if self.kernel.out.is_some() {
            self.sent_part(0, Some(libc::ECANCELED));
        }
        assert!(!std::mem::replace(&mut self.kernel.closed, true));
        self.channel.handle_closed(self.now);
        self.turn()
    }

    fn dialed(&mut self) -> &mut Self {
        assert!(std::mem::replace(&mut self.kernel.dialing, false));
        self.kernel.exists = true;
        self.channel.handle_dialed(endpoints(1, 2), Link::stream(), self.now);
        self.turn()
    }

    fn dial_failed(&mut self, errno: i32) -> &mut Self {
        assert!(std::mem::replace(&mut self.kernel.dialing, false));
        self.kernel.cancelled = false;
        self.channel.handle_dial_failed(Errno(errno), self.now);
        self.turn()
    }

    /// Goes to the channel's deadline, which is at most `within` away.
    fn time_out(&mut self, within: Duration) -> &mut Self {
        let deadline = self.channel.deadline().expect("something is to time out");
        assert!(deadline.since(self.now) <= within, "{:?} from now", deadline.since(self.now));
        self.channel.handle_timeout(Mono::from_nanos(deadline.as_nanos() - 1));
        self.now = deadline;
        self.channel.handle_timeout(deadline);
        self.turn()
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        self.channel.send(bytes, &mut self.pool)
    }

    #[track_caller]
    fn saw(&mut self, events: &[&str]) -> &mut Self {
        assert_eq!(self.events, events);
        self.events.clear();
        self
    }

    #[track_caller]
    fn asked(&mut self, submitted: &[&str]) -> &mut Self {
        assert_eq!(self.submitted, submitted);
        self.submitted.clear();
        self
    }

    fn report(&self) -> &CloseReport {
        self.report.as_ref().expect("it closed")
    }
}

#[test]
fn a_channel_is_small() {
    assert!(size_of::<Channel>() <= 400, "{} bytes", size_of::<Channel>());
}
