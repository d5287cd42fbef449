//! What every case stands on: the node under test with its recorder, and the checks made at the end of every case, from
//! `stats()` and the journal, whatever the case itself looked at. The variants a case is run in are in `setup.rs`.

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Once};
use std::thread;
use std::time::Duration;

use ringlink::{
    Address, Builder, ChannelId, ChannelInfo, CloseReport, Endpoint, Handle, Node, NodeError, StartError,
    Stats,
};

#[path = "../../shared/descriptors.rs"]
mod descriptor_limit;
pub(crate) mod foreign;
mod process;
pub(crate) mod recorder;
mod setup;
mod tiny;
mod waiting;

pub(crate) use descriptor_limit::raise_descriptor_limit;
pub(crate) use process::{OtherProcess, answer_lines, say};
pub(crate) use recorder::{Call, Event, Journal, Plan, Recorder};
pub(crate) use setup::{Setup, any_port, node_test};
pub(crate) use waiting::{PATIENCE, eventually, pass};

/// Runs what may hang on a thread of its own, and fails if it does.
#[track_caller]
pub(crate) fn within<T: Send + 'static>(what: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || drop(sender.send(f())));
    match receiver.recv_timeout(PATIENCE) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("waited {PATIENCE:?} for {what}"),
        Err(RecvTimeoutError::Disconnected) => panic!("panicked: {what}"),
    }
}

/// How many descriptors this process has open.
pub(crate) fn descriptors() -> usize {
    // One of them is the directory being read.
    std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

/// Panics that a case makes on purpose begin like this and are not printed.
pub(crate) const PLANNED: &str = "planned: ";

pub(crate) fn hide_planned_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
            if !text.is_some_and(|text| text.starts_with(PLANNED)) {
                usual(info);
            }
        }));
    });
}

/// A node whose drop may hang: if a case fails, that must not keep the others waiting.
#[derive(Default)]
struct Leash(Option<Node>);

impl Drop for Leash {
    fn drop(&mut self) {
        if let Some(node) = self.0.take() {
            thread::spawn(move || drop(node));
        }
    }
}

/// A node under test. Dropped at the end of a case it waits for all channels to leave, holds what is left against
/// what there was at the start, ends the node, and checks the journal.
pub(crate) struct Bed {
    pub(crate) handle: Handle,
    pub(crate) journal: Arc<Journal>,
    pub(crate) addresses: Vec<Endpoint>,
    pub(crate) baseline: Stats,
    node: RefCell<Leash>,
    events: Receiver<Event>,
    /// Events that came while another one was waited for.
    seen: RefCell<VecDeque<Event>>,
    loops: usize,
    is_native: bool,
    failed: Cell<bool>,
}

impl Bed {
    #[track_caller]
    pub(crate) fn start(setup: &Setup, builder: Builder, plan: Plan) -> Self {
        Self::try_start(setup, builder, plan).expect("the node starts")
    }

    pub(crate) fn try_start(setup: &Setup, builder: Builder, plan: Plan) -> Result<Self, StartError> {
        hide_planned_panics();
        raise_descriptor_limit();
        let (sender, events) = mpsc::channel();
        let journal = Arc::new(Journal::default());
        let recorded = Arc::clone(&journal);
        let node =
            builder.start(move |_| Recorder::new(plan.clone(), Arc::clone(&recorded), sender.clone()))?;
        let bed = Self {
            handle: node.handle(),
            journal,
            addresses: node.local_addrs().to_vec(),
            baseline: Stats::default(),
            node: RefCell::new(Leash(Some(node))),
            events,
            seen: RefCell::default(),
            loops: setup.loops,
            is_native: setup.is_native(),
            failed: Cell::new(false),
        };
        for _ in 0..setup.loops {
            bed.wait("on_start", |e| matches!(e, Event::Started).then_some(()));
        }
        Ok(bed.with_baseline())
    }

    fn with_baseline(mut self) -> Self {
        if !self.is_scripted_to_end() {
            self.baseline = self.settle();
            // What stands for as long as the node does; a dial of on_start may have been in flight just now.
            let listening = |end: &Endpoint| if end.ip().is_some() { self.loops } else { 1 };
            let wakers = if self.is_native { self.loops } else { 0 };
            let standing = wakers + self.addresses.iter().map(listening).sum::<usize>();
            self.baseline.operations_in_flight = standing as u64;
            if !self.is_native {
                self.baseline.buffers_free = 0;
            }
        }
        self
    }

    /// True when the script ended the node before there was a baseline.
    fn is_scripted_to_end(&self) -> bool {
        self.journal.has_stopped()
    }

    /// A node with the echo service.
    #[track_caller]
    pub(crate) fn echo(setup: &Setup) -> Self {
        Self::start(setup, setup.listener(), Plan::echo())
    }

    /// Where the node's first TCP listener is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses.iter().find_map(Endpoint::socket_addr).expect("a TCP listener")
    }

    /// The first event, of those not yet waited for, that `pick` takes.
    #[track_caller]
    pub(crate) fn wait<T>(&self, what: &str, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        let mut seen = self.seen.borrow_mut();
        for i in 0..seen.len() {
            if let Some(picked) = pick(&seen[i]) {
                seen.remove(i);
                return picked;
            }
        }
        loop {
            match self.events.recv_timeout(PATIENCE) {
                Ok(event) => match pick(&event) {
                    Some(picked) => return picked,
                    None => seen.push_back(event),
                },
                Err(error) => {
                    self.failed.set(true);
                    panic!("{error}, waiting for {what}; came instead: {seen:?}; {:?}", self.handle.stats());
                }
            }
        }
    }

    /// How many events have come, waited for or not yet, that `pick` takes; they stay.
    pub(crate) fn count(&self, pick: impl Fn(&Event) -> bool) -> usize {
        let mut seen = self.seen.borrow_mut();
        seen.extend(self.events.try_iter());
        seen.iter().filter(|event| pick(event)).count()
    }

    /// The next channel that opened.
    #[track_caller]
    pub(crate) fn opened(&self) -> (ChannelId, ChannelInfo) {
        self.wait("on_open", |e| match e {
            Event::Opened { channel, info, .. } => Some((*channel, ChannelInfo::clone(info))),
            _ => None,
        })
    }

    /// The channel of the client whose own address is `local`.
    #[track_caller]
    pub(crate) fn opened_by(&self, local: SocketAddr) -> ChannelId {
        self.wait("on_open of a client", |e| match e {
            Event::Opened { channel, info, .. } if info.peer_addr == Some(Endpoint::Tcp(local)) => {
                Some(*channel)
            }
            _ => None,
        })
    }

    #[track_caller]
    pub(crate) fn closed(&self, id: ChannelId) -> CloseReport {
        self.wait(&format!("on_close of {id}"), |e| match e {
            Event::Closed { channel, report } if *channel == id => Some(report.clone()),
            _ => None,
        })
    }

    /// The next `length` bytes of a channel; its plan must report data.
    #[track_caller]
    pub(crate) fn received(&self, id: ChannelId, length: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < length {
            self.wait(&format!("{length} bytes of {id}, after {}", all.len()), |e| match e {
                Event::Data { channel, bytes } if *channel == id => {
                    all.extend_from_slice(bytes);
                    Some(())
                }
                _ => None,
            });
        }
        all
    }

    #[track_caller]
    pub(crate) fn eof(&self, id: ChannelId) {
        self.wait(&format!("on_eof of {id}"), |e| {
            matches!(e, Event::Eof { channel } if *channel == id).then_some(())
        });
    }

    #[track_caller]
    pub(crate) fn drained(&self, id: ChannelId) {
        let picks = |e: &Event| matches!(e, Event::Drained { channel } if *channel == id).then_some(());
        self.wait(&format!("on_drained of {id}"), picks);
    }

    /// Dials from this thread; the channel's one `on_close` is then owed.
    #[track_caller]
    pub(crate) fn dial(&self, to: impl Into<Address>) -> ChannelId {
        let channel = self.handle.dial(to).expect("the dial begins");
        self.journal.owe(channel);
        channel
    }

    /// One client at least on every loop, and the channel of each.
    #[track_caller]
    pub(crate) fn clients_on_every_loop(&self) -> Vec<(TcpStream, ChannelId)> {
        let mut clients = Vec::new();
        let mut with_one = HashSet::new();
        // The kernel spreads connections over the loops' listeners by hash.
        while with_one.len() < self.loops {
            assert!(clients.len() < 500, "only the loops {with_one:?} get connections");
            let client = foreign::connect(self.address());
            let (id, loop_index) = self.wait("on_open", |e| match e {
                Event::Opened { channel, loop_index, .. } => Some((*channel, *loop_index)),
                _ => None,
            });
            with_one.insert(loop_index);
            clients.push((client, id));
        }
        clients
    }

    /// What `channels()` says about one channel.
    #[track_caller]
    pub(crate) fn info(&self, id: ChannelId) -> Option<ChannelInfo> {
        self.handle.channels().expect("the node lives").into_iter().find(|info| info.id == id)
    }

    /// Waits until nothing happens in the node any more, and says what it has then. A loop that spins never gets
    /// there.
    #[track_caller]
    pub(crate) fn settle(&self) -> Stats {
        // Each answer comes from the loop itself: what was asked of it before is done, and after the second it has
        // gone to the kernel since.
        for _ in 0..2 {
            if self.handle.channels().is_err() {
                break;
            }
        }
        let mut last = self.handle.stats();
        let mut still = 0;
        eventually("the node to come to rest", || {
            pass(Duration::from_millis(4));
            let now = self.handle.stats();
            still = if now == last { still + 1 } else { 0 };
            last = now;
            still == 3
        });
        last
    }

    /// Waits for the node to end; the case has asked it to.
    #[track_caller]
    pub(crate) fn join(&self) -> Result<(), NodeError> {
        let node = self.node.borrow_mut().0.take().expect("joined once");
        within("Node::join", move || node.join())
    }

    /// Ends the node by dropping it.
    #[track_caller]
    pub(crate) fn drop_node(&self) {
        let node = self.node.borrow_mut().0.take().expect("dropped once");
        within("the drop of Node", move || drop(node));
    }

    #[track_caller]
    pub(crate) fn shut_down(&self) {
        self.handle.shutdown(PATIENCE);
        self.join().expect("the node ends without an error");
    }

    #[track_caller]
    fn check_at_rest(&self) {
        eventually("all channels to close", || self.handle.stats().channels == 0);
        let now = self.settle();
        let mut wrong = leftovers(&now);
        let mut same = |what: &str, now: u64, before: u64| {
            if now != before {
                wrong.push(format!("{what}: {now}, {before} at the start"));
            }
        };
        same("operations_in_flight", now.operations_in_flight, self.baseline.operations_in_flight);
        same("buffers_free", now.buffers_free, self.baseline.buffers_free);
        assert!(wrong.is_empty(), "left behind: {wrong:#?}\n{now:#?}");
    }

    /// Operations are not among it: that none is left is what `join` says.
    #[track_caller]
    fn check_at_end(&self) {
        let now = self.handle.stats();
        let mut wrong = leftovers(&now);
        wrong.extend(self.journal.faults(self.loops, &now));
        assert!(wrong.is_empty(), "after the end: {wrong:#?}\n{now:#?}");
    }
}

/// What must be nought whenever there is no channel.
fn leftovers(stats: &Stats) -> Vec<String> {
    let nought = [
        ("channels", stats.channels),
        ("buffers_lent", stats.buffers_lent),
        ("bytes_queued", stats.bytes_queued),
        ("bytes_held", stats.bytes_held),
        ("bytes_assembling", stats.bytes_assembling),
        ("stale_completions", stats.stale_completions),
        ("starved", stats.starved),
    ];
    nought.iter().filter(|(_, n)| *n != 0).map(|(what, n)| format!("{what}: {n}")).collect()
}

impl Drop for Bed {
    fn drop(&mut self) {
        if thread::panicking() || self.failed.get() {
            return;
        }
        if self.node.borrow().0.is_some() {
            self.check_at_rest();
            self.shut_down();
        }
        self.check_at_end();
    }
}
