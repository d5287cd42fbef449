//! A node whose callbacks become events.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, Sender};

use ringlink::{
    Address, Builder, ChannelId, ChannelInfo, CloseReport, Context, DriverKind, Handle, Handler, Limits, Node,
};

use super::tiny;
pub(crate) use super::waiting::{PATIENCE, eventually, pass};

#[derive(Debug)]
pub(crate) enum Event {
    Opened(ChannelId, Box<ChannelInfo>),
    Message(ChannelId, Vec<u8>),
    Drained,
    Closed(ChannelId, Box<CloseReport>),
}

/// What the next node runs on: as `RINGLINK_TEST_DRIVER` says, `mixed` being each in turn.
fn driver() -> DriverKind {
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    match std::env::var("RINGLINK_TEST_DRIVER").as_deref() {
        Err(_) | Ok("uring") => DriverKind::Uring,
        Ok("tokio-uring") => DriverKind::TokioUring,
        Ok("mixed") if STARTED.fetch_add(1, SeqCst).is_multiple_of(2) => DriverKind::Uring,
        Ok("mixed") => DriverKind::TokioUring,
        Ok(other) => panic!("RINGLINK_TEST_DRIVER={other}: it can be uring, tokio-uring or mixed"),
    }
}

/// The sizes of every node, unless its test sets them: as `RINGLINK_TEST_PROFILE` says.
fn sized(builder: Builder) -> Builder {
    match std::env::var("RINGLINK_TEST_PROFILE").as_deref() {
        Err(_) => builder,
        Ok("tiny") => tiny::everything(builder),
        Ok(other) => panic!("RINGLINK_TEST_PROFILE={other}: it can be tiny"),
    }
}

struct Recorder(Sender<Event>);

impl Recorder {
    fn tell(&self, event: Event) {
        // The test may be over.
        drop(self.0.send(event));
    }
}

impl Handler for Recorder {
    fn on_open(&mut self, _: &mut Context<'_>, channel: ChannelId, info: &ChannelInfo) {
        self.tell(Event::Opened(channel, Box::new(info.clone())));
    }

    fn on_message(&mut self, _: &mut Context<'_>, channel: ChannelId, message: &[u8]) {
        self.tell(Event::Message(channel, message.to_vec()));
    }

    fn on_drained(&mut self, _: &mut Context<'_>, _: ChannelId) {
        self.tell(Event::Drained);
    }

    fn on_close(&mut self, _: &mut Context<'_>, channel: ChannelId, report: &CloseReport) {
        self.tell(Event::Closed(channel, Box::new(report.clone())));
    }
}

/// A node under test.
pub(crate) struct Bed {
    pub(crate) handle: Handle,
    pub(crate) events: Receiver<Event>,
    pub(crate) node: Node,
}

impl Bed {
    /// Listens on any free port.
    #[track_caller]
    pub(crate) fn start(change: impl FnOnce(Builder) -> Builder) -> Self {
        Self::start_at("127.0.0.1:0", change)
    }

    #[track_caller]
    pub(crate) fn start_at(address: &str, change: impl FnOnce(Builder) -> Builder) -> Self {
        let (sender, events) = mpsc::channel();
        let builder = sized(Node::builder().driver(driver())).listen_on(address).unwrap();
        let builder = change(builder);
        let node = builder.start(move |_| Recorder(sender.clone())).expect("the node starts");
        Self { handle: node.handle(), events, node }
    }

    #[track_caller]
    pub(crate) fn with_limits(change: impl FnOnce(&mut Limits)) -> Self {
        Self::start(|builder| builder.limits(change))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.node.local_addrs()[0].socket_addr().unwrap()
    }

    #[track_caller]
    pub(crate) fn dial(&self, to: SocketAddr) -> ChannelId {
        self.handle.dial(Address::from(to)).unwrap()
    }

    #[track_caller]
    pub(crate) fn next(&self, what: &str) -> Event {
        self.events.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            panic!(
                "{error}, waiting for {what}; {:?} {:?}",
                self.handle.stats(),
                self.handle.closed_channels()
            )
        })
    }

    /// The next event, which must be an `on_open`.
    #[track_caller]
    pub(crate) fn opened(&self) -> (ChannelId, ChannelInfo) {
        match self.next("on_open") {
            Event::Opened(channel, info) => (channel, *info),
            other @ (Event::Message(..) | Event::Closed(..) | Event::Drained) => panic!("{other:?}"),
        }
    }

    /// The next event, which must be an `on_close`.
    #[track_caller]
    pub(crate) fn closed(&self) -> (ChannelId, CloseReport) {
        match self.next("on_close") {
            Event::Closed(channel, report) => (channel, *report),
            other @ (Event::Message(..) | Event::Opened(..) | Event::Drained) => panic!("{other:?}"),
        }
    }

    /// Two nodes with one link: the second has dialed the first.
    #[track_caller]
    pub(crate) fn pair(first: Self, second: Self) -> [(Self, ChannelId); 2] {
        second.dial(first.address());
        let (there, here) = (first.opened().0, second.opened().0);
        [(first, there), (second, here)]
    }
}

/// The same numbers for the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}
