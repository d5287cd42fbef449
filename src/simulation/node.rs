//! A node of a simulated world: its loops, and what they share.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::ledger::Ledger;
use super::program::Program;
use super::settings::Settings;
use super::sim_loop::SimLoop;
use crate::addr::{Address, Endpoint};
use crate::channel::{Room, Slots};
use crate::clock::Mono;
use crate::config::{Config, Mode};
use crate::driver::uring::UringDriver;
use crate::driver::uring::sim::network::{HostId, Network};
use crate::driver::uring::sim::{Outside, SimKernel};
use crate::driver::{Driver, ListenerId, Settings as DriverSettings};
use crate::error::DriverError;
use crate::link::{LocalNode, NodeId};
use crate::node::handle::Handle;
use crate::node::linking::lock;
use crate::node::mailbox::Mailbox;
use crate::node::shared::{LoopWaker, Port, Shared, split_slots};
use crate::node::start::event_loop;
use crate::stats::Counters;

pub(super) const PORT: u16 = 10_000;

pub(super) struct Node {
    pub(super) host: HostId,
    pub(super) life: u8,
    pub(super) handle: Handle,
    loops: Vec<SimLoop>,
    /// The loop that was turned last, so that each has its turn.
    last: usize,
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

/// What a loop is made of, before there is a handle.
struct Parts {
    driver: UringDriver<SimKernel>,
    outside: Outside,
    counters: Arc<Counters>,
}

impl Parts {
    fn new(
        around: &Surroundings,
        host: HostId,
        config: &Config,
        slots: Slots,
    ) -> Result<(Self, Port), DriverError> {
        let counters = Arc::<Counters>::default();
        let (kernel, outside) = SimKernel::new(&around.network, host, &config.ring);
        let settings = DriverSettings {
            first_slot: slots.first(),
            ring: config.ring.clone(),
            socket: config.socket.clone(),
        };
        let driver = kernel.driver(settings, Arc::clone(&counters))?;
        let port = Port {
            slots,
            mailbox: Mailbox::new(LoopWaker::new(driver.waker()), &config.limits, Arc::clone(&counters)),
            counters: Arc::clone(&counters),
            thread: std::thread::current().id(),
        };
        Ok((Self { driver, outside, counters }, port))
    }
}

impl Node {
    pub(super) fn start(around: &Surroundings, host: HostId, life: u8) -> Result<Self, DriverError> {
        let mut config = around.settings.config.clone();
        config.first_slot = host.0 as u32 * 1000;
        config.peers = around.settings.peers_of(host).map(|peer| around.addresses[peer].clone()).collect();
        let room = Room::new(config.mode, &config.limits);
        let (mut parts, mut ports) = (Vec::new(), Vec::new());
        for (first, count) in split_slots(config.first_slot, config.channels, config.loops) {
            let slots = Slots::new(first, count, room).expect("there is memory for a few channels");
            let (part, port) = Parts::new(around, host, &config, slots)?;
            parts.push(part);
            ports.push(port);
        }
        // One of them listens: what comes there and what the others dial makes the same links.
        let at = Endpoint::Tcp(SocketAddr::new(Network::address_of(host), PORT));
        let listens = host.0 % config.loops;
        parts[listens]
            .driver
            .listen(ListenerId(0), &at, false)
            .map_err(|error| DriverError::Kernel { doing: "listening", error })?;
        let local_node = (config.mode == Mode::Message).then(|| LocalNode {
            node_id: node_id(host),
            instance_id: [life; 16],
            network: LocalNode::network_of(&config.network),
            agent: config.agent.clone(),
            listen: vec![at.to_string()],
            limits: config.limits.clone(),
        });
        let has_peers = !config.peers.is_empty();
        let handle = Handle::new(Arc::new(Shared::new(ports, config.limits.lookups, local_node, has_peers)));
        let seed = (host.0 as u64) << 8 | u64::from(life);
        let start = |(index, Parts { driver, outside, counters }): (usize, Parts)| {
            let program = Program {
                node: host.0,
                life,
                ledger: Rc::clone(&around.ledger),
                network: Rc::clone(&around.network),
                addresses: Rc::clone(&around.addresses),
                largest: around.settings.largest_send,
            };
            let listen = if index == listens { vec![Address::from(at.clone())] } else { Vec::new() };
            let config = Config { listen, ..config.clone() };
            let began_at = driver.now().as_nanos();
            let mut event_loop =
                event_loop(index, driver, program, handle.clone(), &config, Arc::clone(&counters), seed);
            event_loop.begin();
            SimLoop::new((host, life), outside, event_loop, counters, began_at)
        };
        let loops = parts.into_iter().enumerate().map(start).collect();
        Ok(Self { host, life, handle, loops, last: 0 })
    }

    pub(super) fn is_up(&self) -> bool {
        self.loops.iter().any(SimLoop::is_up)
    }

    pub(super) fn is_runnable(&self) -> bool {
        self.loops.iter().any(SimLoop::is_runnable)
    }

    /// When the next of its waits ends.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.loops.iter().filter(|one| one.is_up()).filter_map(|one| one.outside.deadline()).min()
    }

    /// A turn of some loop that can run. True when it was the last of the node.
    pub(super) fn turn(&mut self, around: &Surroundings) -> Result<bool, String> {
        let count = self.loops.len();
        let runnable =
            (1..=count).map(|after| (self.last + after) % count).filter(|&one| self.loops[one].is_runnable());
        let runnable: Vec<_> = runnable.collect();
        let chosen =
            if runnable.len() > 1 { around.network.borrow_mut().choices.below(runnable.len()) } else { 0 };
        self.last = runnable[chosen];
        self.loops[self.last].turn(around)?;
        if self.is_up() {
            return Ok(false);
        }
        let open = around.network.borrow().open_count(self.host);
        let slots: u32 = self.handle.shared().ports.iter().map(|port| port.slots.live_count()).sum();
        match (open, slots) {
            (0, 0) => Ok(true),
            _ => Err(format!("n{}: ended with {open} descriptors and {slots} slots left", self.host.0)),
        }
    }

    /// The process is killed.
    pub(super) fn crash(&mut self, around: &Surroundings) {
        self.loops.iter().for_each(|one| one.outside.kill());
        around.ledger.borrow_mut().crashed(self.host.0, self.life);
        self.loops.iter_mut().for_each(SimLoop::drop_dead);
    }

    pub(super) fn into_loops(self) -> Vec<SimLoop> {
        self.loops
    }

    pub(super) fn shutdown(&self, grace: Duration) {
        self.handle.shutdown(grace);
    }

    /// True when a loop of it has no channel left: who dials it waits in the backlog, or is refused.
    pub(super) fn is_any_full(&self) -> bool {
        self.handle.shared().ports.iter().any(|port| port.slots.is_full())
    }

    pub(super) fn is_linked(&self, host: HostId) -> bool {
        let peers = self.handle.shared().peers.as_ref();
        peers.is_none_or(|peers| lock(peers).is_linked(node_id(host)))
    }
}
