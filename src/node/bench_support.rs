//! What `benches/turn.rs` measures: the loop of a node on a kernel that costs nothing, with peers that send all the time;
//! and what a node with many links does for each that comes and goes.

use std::sync::Arc;

use crate::addr::Endpoint;
use crate::channel::{Room, Slots};
use crate::clock::Mono;
use crate::config::{Config, Mode};
use crate::driver::uring::UringDriver;
use crate::driver::uring::null::{NullKernel, Tape};
use crate::driver::{Driver, ListenerId, Settings};
use crate::id::ChannelId;
use crate::link::{Link, LocalNode, NodeId, whole_frame};
use crate::node::context::Context;
use crate::node::event_loop::EventLoop;
use crate::node::handle::Handle;
use crate::node::handler::Handler;
use crate::node::mailbox::Mailbox;
use crate::node::peers::{Action, Peers};
use crate::node::shared::{LoopWaker, Port, Shared};
use crate::node::start::event_loop;
use crate::stats::Counters;

/// What the handler does with what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing.
    Nothing,
    /// Sends it back.
    Echo,
}

#[derive(Debug)]
struct Program(Answer);

impl Handler for Program {
    fn on_data(&mut self, cx: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        if self.0 == Answer::Echo {
            cx.send(channel, data).expect("what was sent before is gone");
        }
    }

    fn on_message(&mut self, cx: &mut Context<'_>, channel: ChannelId, message: &[u8]) {
        self.on_data(cx, channel, message);
    }
}

/// A loop whose peers send a buffer full in every turn.
#[derive(Debug)]
pub struct BusyLoop {
    event_loop: EventLoop<UringDriver<NullKernel>, Program>,
    handle: Handle,
    counters: Arc<Counters>,
}

impl BusyLoop {
    /// So many channels on which bytes come as they are, `piece` of them in a turn.
    pub fn stream(channels: u32, piece: usize, answer: Answer) -> Self {
        Self::new(Mode::Stream, channels, Tape { head: Vec::new(), body: vec![0x5A; piece] }, answer)
    }

    /// One link on which messages of `len` bytes come, `count` of them again and again.
    ///
    /// # Panics
    ///
    /// When no frame is as long.
    pub fn messages(len: usize, count: usize, answer: Answer) -> Self {
        let now = Mono::from_nanos(1);
        let mut peer = Link::message(Arc::new(node(2, &Config::default())), Arc::default(), now);
        let head = peer.next_output(now).expect("the hello").to_vec();
        let frame = whole_frame(&vec![0x5A; len]).expect("a frame may be as long");
        Self::new(Mode::Message, 1, Tape { head, body: frame.repeat(count) }, answer)
    }

    fn new(mode: Mode, channels: u32, tape: Tape, answer: Answer) -> Self {
        let config = Config { mode, channels, ..Config::default() };
        let counters = Arc::<Counters>::default();
        let settings = Settings { first_slot: 0, ring: config.ring.clone(), socket: config.socket.clone() };
        let kernel = NullKernel::new(channels as usize, tape);
        let mut driver = UringDriver::on(kernel, settings, Arc::clone(&counters)).expect("nothing fails");
        let at = Endpoint::Tcp(([127, 0, 0, 1], 1).into());
        driver.listen(ListenerId(0), &at, false).expect("nothing fails");
        let port = Port {
            slots: Slots::new(0, channels, Room::new(mode, &config.limits))
                .expect("there is memory for a few channels"),
            mailbox: Mailbox::new(LoopWaker::new(driver.waker()), &config.limits, Arc::clone(&counters)),
            counters: Arc::clone(&counters),
            thread: std::thread::current().id(),
        };
        let local = (mode == Mode::Message).then(|| node(1, &config));
        let handle = Handle::new(Arc::new(Shared::new(vec![port], config.limits.lookups, local, false)));
        let program = Program(answer);
        let event_loop = event_loop(0, driver, program, handle.clone(), &config, Arc::clone(&counters), 0);
        Self { event_loop, handle, counters }
    }

    /// What another thread does `count` times: sends the message on the first channel.
    ///
    /// # Panics
    ///
    /// When there is no room: turn in between.
    pub fn post(&self, message: &[u8], count: usize) {
        for _ in 0..count {
            self.handle.send(ChannelId::new(0, 1), message).expect("there is room");
        }
    }

    /// A turn. Returns the bytes and messages received so far.
    ///
    /// # Panics
    ///
    /// When the loop ends, which nobody asked it to.
    pub fn turn(&mut self) -> (u64, u64) {
        let flow = self.event_loop.turn().expect("nothing fails");
        assert!(flow.is_continue(), "nobody shuts it down");
        (self.counters.bytes_in.get(), self.counters.messages_in.get())
    }
}

/// Who is linked to a node that has many links.
#[derive(Debug)]
pub struct Linked {
    peers: Peers,
    next: u32,
}

impl Linked {
    /// Links to so many nodes.
    pub fn new(links: u32) -> Self {
        let mut linked = Self { peers: Peers::new(NodeId::from_bytes([0; 32])), next: 0 };
        for _ in 0..links {
            linked.come();
        }
        linked
    }

    /// One after the other, so many links come and go. Each is to a node of its own.
    ///
    /// # Panics
    ///
    /// When one is not what it should be.
    pub fn round(&mut self, links: usize) {
        for _ in 0..links {
            let channel = self.come();
            self.peers.handle_ended(channel);
            assert!(self.peers.next_action().is_none(), "there was one link to it");
        }
    }

    fn come(&mut self) -> ChannelId {
        self.next += 1;
        let channel = ChannelId::new(self.next, 1);
        let mut node = [self.next as u8; 32]; // all over the map
        node[1..5].copy_from_slice(&self.next.to_le_bytes());
        self.peers.handle_established(channel, (NodeId::from_bytes(node), [0; 16]), false, Mono::default());
        let opened = self.peers.next_action();
        assert!(opened == Some((channel, Action::Open)) && self.peers.next_action().is_none());
        channel
    }
}

fn node(n: u8, config: &Config) -> LocalNode {
    LocalNode {
        node_id: NodeId::from_bytes([n; 32]),
        instance_id: [n; 16],
        network: LocalNode::network_of(""),
        agent: String::new(),
        listen: Vec::new(),
        limits: config.limits.clone(),
    }
}
