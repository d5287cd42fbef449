//! A node of a simulated world: the real loop, driver, links and channels, on a simulated kernel, turned by hand.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::ledger::Ledger;
use super::program::Program;
use super::settings::Settings;
use crate::addr::{Address, Endpoint};
use crate::channel::{Room, Slots};
use crate::config::Mode;
use crate::driver::uring::UringDriver;
use crate::driver::uring::sim::network::{HostId, Network};
use crate::driver::uring::sim::{Outside, SimKernel};
use crate::driver::{Driver, ListenerId, Settings as DriverSettings};
use crate::error::DriverError;
use crate::link::{LocalNode, NodeId};
use crate::node::event_loop::EventLoop;
use crate::node::handle::Handle;
use crate::node::linking::lock;
use crate::node::mailbox::Mailbox;
use crate::node::shared::{LoopWaker, Port, Shared};
use crate::node::start::event_loop;
use crate::stats::Counters;

pub(super) const PORT: u16 = 10_000;

/// Turns in which nothing was submitted and nothing completed, one after the other, that are too many.
const IDLE_TURNS: u32 = 1000;

pub(super) struct Node {
    pub(super) host: HostId,
    pub(super) life: u8,
    pub(super) handle: Handle,
    pub(super) outside: Outside,
    /// `None` when it is down.
    event_loop: Option<EventLoop<UringDriver<SimKernel>, Program>>,
    counters: Arc<Counters>,
    idle_turns: u32,
    idle_at: (u64, u64),
    began_at: u64,
}

/// What all nodes of a world share.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) settings: Rc<Settings>,
    pub(super) network: Rc<RefCell<Network>>,
    pub(super) ledger: Rc<RefCell<Ledger>>,
    pub(super) addresses: Rc<Vec<Address>>,
}

pub(super) fn node_id(host: HostId) -> NodeId {
    NodeId::from_bytes([host.0 as u8 + 1; 32])
}

impl Node {
    pub(super) fn start(around: &Surroundings, host: HostId, life: u8) -> Result<Self, DriverError> {
        let mut config = around.settings.config.clone();
        config.first_slot = host.0 as u32 * 1000;
        config.peers = around.settings.peers_of(host).map(|peer| around.addresses[peer].clone()).collect();
        let counters = Arc::<Counters>::default();
        let (kernel, outside) = SimKernel::new(&around.network, host, &config.ring);
        let driver_settings = DriverSettings {
            first_slot: config.first_slot,
            ring: config.ring.clone(),
            socket: config.socket.clone(),
        };
        let mut driver = kernel.driver(driver_settings, Arc::clone(&counters))?;
        let at = Endpoint::Tcp(SocketAddr::new(Network::address_of(host), PORT));
        driver
            .listen(ListenerId(0), &at, false)
            .map_err(|error| DriverError::Kernel { doing: "listening", error })?;
        let port = Port {
            slots: Slots::new(config.first_slot, config.channels, Room::new(config.mode, &config.limits))
                .expect("there is memory for a few channels"),
            mailbox: Mailbox::new(LoopWaker::new(driver.waker()), &config.limits, Arc::clone(&counters)),
            counters: Arc::clone(&counters),
            thread: std::thread::current().id(),
        };
        let local_node = (config.mode == Mode::Message).then(|| LocalNode {
            node_id: node_id(host),
            instance_id: [life; 16],
            network: LocalNode::network_of(&config.network),
            agent: config.agent.clone(),
            listen: vec![at.to_string()],
            limits: config.limits.clone(),
        });
        let has_peers = !config.peers.is_empty();
        let handle =
            Handle::new(Arc::new(Shared::new(vec![port], config.limits.lookups, local_node, has_peers)));
        let program = Program {
            node: host.0,
            life,
            ledger: Rc::clone(&around.ledger),
            network: Rc::clone(&around.network),
            addresses: Rc::clone(&around.addresses),
            largest: around.settings.largest_send,
        };
        config.listen = vec![Address::from(at)];
        let seed = (host.0 as u64) << 8 | u64::from(life);
        let began_at = driver.now().as_nanos();
        let mut event_loop =
            event_loop(0, driver, program, handle.clone(), &config, Arc::clone(&counters), seed);
        event_loop.begin();
        let event_loop = Some(event_loop);
        Ok(Self {
            host,
            life,
            handle,
            outside,
            event_loop,
            counters,
            idle_turns: 0,
            idle_at: (0, 0),
            began_at,
        })
    }

    pub(super) fn is_up(&self) -> bool {
        self.event_loop.is_some()
    }

    pub(super) fn is_runnable(&self) -> bool {
        self.is_up() && self.outside.is_runnable()
    }

    /// One turn, and what must hold after it. True when it was the last.
    pub(super) fn turn(&mut self, around: &Surroundings) -> Result<bool, String> {
        let event_loop = self.event_loop.as_mut().expect("only who is up is turned");
        let flow = event_loop.turn().map_err(|error| error.to_string())?;
        event_loop.driver().check().map_err(|what| format!("n{}: {what}", self.host.0))?;
        self.check_work(&around.network.borrow())?;
        if flow == ControlFlow::Continue(()) {
            return Ok(false);
        }
        self.end(around)?;
        Ok(true)
    }

    /// A loop that has nothing to do does nothing, and what is refused is asked again in good time.
    fn check_work(&mut self, network: &Network) -> Result<(), String> {
        let stats = self.counters.snapshot();
        let work = (stats.submissions, stats.completions);
        self.idle_turns = if work == self.idle_at { self.idle_turns + 1 } else { 0 };
        self.idle_at = work;
        if self.idle_turns > IDLE_TURNS {
            return Err(format!("n{}: turns and turns, and does nothing", self.host.0));
        }
        let milliseconds = (network.now.as_nanos() - self.began_at) / 1_000_000;
        let asked = self.outside.lacks();
        // Each channel that closes gives a descriptor back, so it is worth a try; and each lack is found out anew.
        let closes = stats.dialed + stats.accepted + stats.accepts_refused;
        if asked > 20 + milliseconds / 5 + 2 * (closes + network.lacks(self.host)) {
            return Err(format!(
                "n{}: without descriptors it asked for connections {asked} times",
                self.host.0
            ));
        }
        if stats.stale_completions > 0 {
            return Err(format!("n{}: a completion of nobody", self.host.0));
        }
        Ok(())
    }

    fn end(&mut self, around: &Surroundings) -> Result<(), String> {
        let event_loop = self.event_loop.take().expect("it is up");
        self.outside.run_alone();
        if self.counters.channels.get() > 0 {
            around.ledger.borrow_mut().cut(self.host.0, self.life);
        }
        event_loop.end(Ok(())).map_err(|error| error.to_string())?;
        let stats = self.counters.snapshot();
        let open = around.network.borrow().open_count(self.host);
        let left = [
            ("operations", stats.operations_in_flight),
            ("buffers with the kernel", stats.buffers_kernel),
            ("buffers lent", stats.buffers_lent),
            ("starved", stats.starved),
            ("channels", stats.channels),
            ("bytes queued", stats.bytes_queued),
            ("bytes held", stats.bytes_held),
            ("bytes for messages", stats.bytes_assembling),
            ("descriptors", open as u64),
            ("slots", u64::from(self.handle.shared().ports[0].slots.live_count())),
        ];
        match left.iter().find(|(_, count)| *count > 0) {
            Some((what, count)) => Err(format!("n{}: ended with {count} {what} left", self.host.0)),
            None => Ok(()),
        }
    }

    /// The process is killed.
    pub(super) fn crash(&mut self, around: &Surroundings) {
        self.outside.kill();
        around.ledger.borrow_mut().crashed(self.host.0, self.life);
        self.event_loop = None;
    }

    pub(super) fn shutdown(&self, grace: Duration) {
        self.handle.shutdown(grace);
    }

    pub(super) fn is_linked(&self, host: HostId) -> bool {
        let peers = self.handle.shared().peers.as_ref();
        peers.is_none_or(|peers| lock(peers).is_linked(node_id(host)))
    }
}
