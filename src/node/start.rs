//! From settings to running loops. Each ring has to be made on its loop's thread, and a node must not half start: so
//! the loops are made first, then told where to listen, one by one, and run only when all of that succeeded.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::addr::{Address, Endpoint};
use crate::channel::{Room, Settings as ChannelSettings, Slots};
use crate::config::{Config, DriverKind, Mode};
#[cfg(feature = "tokio-uring")]
use crate::driver::tokio_uring::TokioUringDriver;
use crate::driver::uring::{UringDriver, try_out};
use crate::driver::{Driver, ListenerId, Settings, try_congestion};
use crate::error::{ConfigError, DriverError, NodeError, StartError};
use crate::link::{LocalNode, NodeId};
use crate::node::Node;
use crate::node::core::Core;
use crate::node::dialing::Dialing;
use crate::node::event_loop::{EventLoop, Pace, panic_message};
use crate::node::handle::Handle;
use crate::node::handler::Handler;
use crate::node::identity;
use crate::node::linking::DIALING_LOOP;
use crate::node::mailbox::Mailbox;
use crate::node::shared::{LoopWaker, Port, Shared, split_slots};
use crate::stats::Counters;

type Outcome = Result<(), NodeError>;

/// What a loop is told before it runs. Hanging up means: do not.
enum Order {
    Listen { listener: ListenerId, at: Endpoint, shared: bool },
    Run(Handle),
}

/// A loop that is made and waits for orders.
struct Recruit {
    orders: Sender<Order>,
    /// The answers to `Order::Listen`.
    listening: Receiver<io::Result<Endpoint>>,
    /// Whether the handler was made, after `Order::Run`.
    running: Receiver<()>,
    thread: JoinHandle<Outcome>,
}

pub(crate) fn start<H: Handler>(
    config: Config,
    make: impl Fn(usize) -> H + Send + Sync + 'static,
) -> Result<Node, StartError> {
    if let Some(name) = &config.socket.congestion {
        try_congestion(name).map_err(|error| ConfigError {
            setting: "congestion",
            why: format!(
                "'{name}' cannot be used: {error}; see /proc/sys/net/ipv4/tcp_available_congestion_control"
            ),
        })?;
    }
    match config.driver {
        DriverKind::Uring => start_on(UringDriver::new, config, make),
        #[cfg(feature = "tokio-uring")]
        DriverKind::TokioUring => start_on(TokioUringDriver::new, config, make),
        #[cfg(not(feature = "tokio-uring"))]
        DriverKind::TokioUring => unreachable!("validated: it is built in"),
        DriverKind::Auto => start_on_either(config, make),
    }
}

/// The native driver where it works, else the other one.
fn start_on_either<H: Handler>(
    config: Config,
    make: impl Fn(usize) -> H + Send + Sync + 'static,
) -> Result<Node, StartError> {
    match try_out(&config.ring) {
        #[cfg(feature = "tokio-uring")]
        Err(error) => {
            tracing::warn!(%error, "driver tokio-uring: the native one does not work here");
            start_on(TokioUringDriver::new, config, make)
        }
        #[cfg(not(feature = "tokio-uring"))]
        Err(error) => Err(error.into()),
        Ok(()) => {
            tracing::info!("driver uring");
            start_on(UringDriver::new, config, make)
        }
    }
}

/// Makes a loop's driver on its thread.
type MakeDriver<D> = fn(Settings, Arc<Counters>) -> Result<D, DriverError>;

fn start_on<D: Driver + 'static, H: Handler>(
    make_driver: MakeDriver<D>,
    config: Config,
    make: impl Fn(usize) -> H + Send + Sync + 'static,
) -> Result<Node, StartError> {
    let mut recruits = Vec::new();
    match run_loops(make_driver, config, make, &mut recruits) {
        Ok((handle, local_addrs)) => {
            let threads = recruits.into_iter().map(|recruit| recruit.thread).collect();
            Ok(Node { handle, local_addrs, threads })
        }
        Err(error) => {
            // Of a node that does not start nothing goes on: its addresses are free, and its handlers silent.
            for Recruit { orders, thread, .. } in recruits {
                drop(orders);
                drop(thread.join());
            }
            Err(error)
        }
    }
}

/// The loops of a node, all running; those that were made when it failed are among the recruits.
fn run_loops<D: Driver + 'static, H: Handler>(
    make_driver: MakeDriver<D>,
    config: Config,
    make: impl Fn(usize) -> H + Send + Sync + 'static,
    recruits: &mut Vec<Recruit>,
) -> Result<(Handle, Vec<Endpoint>), StartError> {
    let identity = Identity::of(&config)?;
    let seed = identity::random().map(u64::from_le_bytes).map_err(StartError::Identity)?;
    let config = Arc::new(config);
    let make = Arc::new(make);
    let mut ports = Vec::new();
    let shares = split_slots(config.first_slot, config.channels, config.loops);
    for (index, (first, count)) in shares.into_iter().enumerate() {
        let slots = Slots::new(first, count, Room::new(config.mode, &config.limits))
            .map_err(|_| no_memory(config.channels))?;
        let (recruit, port) = recruit(index, make_driver, slots, &config, seed, &make)?;
        recruits.push(recruit);
        ports.push(port);
    }
    let local_addrs = listen(&config.listen, recruits)?;
    let local_node = identity.map(|identity| identity.local_node(&config, &local_addrs));
    let has_peers = !config.peers.is_empty();
    let handle = Handle::new(Arc::new(Shared::new(ports, config.limits.lookups, local_node, has_peers)));
    for recruit in &*recruits {
        // A loop that is gone is found out below.
        drop(recruit.orders.send(Order::Run(handle.clone())));
    }
    for (index, recruit) in recruits.iter().enumerate() {
        if recruit.running.recv().is_err() {
            handle.shutdown(Duration::ZERO);
            return Err(StartError::Handler(index));
        }
    }
    Ok((handle, local_addrs))
}

/// Who the node is; in stream mode nobody asks.
struct Identity {
    node_id: NodeId,
    instance_id: [u8; 16],
}

impl Identity {
    fn of(config: &Config) -> Result<Option<Self>, StartError> {
        let Mode::Message = config.mode else { return Ok(None) };
        let node_id = match &config.id_file {
            Some(path) => identity::load_or_create(path),
            None => identity::random().map(NodeId::from_bytes),
        };
        let instance_id = identity::random();
        let made = node_id.and_then(|node_id| Ok(Self { node_id, instance_id: instance_id? }));
        made.map(Some).map_err(StartError::Identity)
    }

    fn local_node(self, config: &Config, local_addrs: &[Endpoint]) -> LocalNode {
        LocalNode {
            node_id: self.node_id,
            instance_id: self.instance_id,
            network: LocalNode::network_of(&config.network),
            agent: config.agent.clone(),
            listen: local_addrs.iter().map(ToString::to_string).collect(),
            limits: config.limits.clone(),
        }
    }
}

fn recruit<D: Driver + 'static, H: Handler>(
    index: usize,
    make_driver: MakeDriver<D>,
    slots: Slots,
    config: &Arc<Config>,
    seed: u64,
    make: &Arc<impl Fn(usize) -> H + Send + Sync + 'static>,
) -> Result<(Recruit, Port), StartError> {
    let (orders, for_loop) = mpsc::channel();
    let (to_listening, listening) = mpsc::channel();
    let (to_running, running) = mpsc::channel();
    let (to_made, made) = mpsc::channel();
    let counters = Arc::new(Counters::default());
    let settings =
        Settings { first_slot: slots.first(), ring: config.ring.clone(), socket: config.socket.clone() };
    let (loop_config, make, loop_counters) = (Arc::clone(config), Arc::clone(make), Arc::clone(&counters));
    let body = move || {
        let pinned = pin_loop(index, &loop_config).map_err(StartError::from);
        let mut driver = match pinned.and_then(|()| Ok(make_driver(settings, Arc::clone(&loop_counters))?)) {
            Ok(driver) => driver,
            Err(error) => {
                drop(to_made.send(Err(error)));
                return Ok(());
            }
        };
        drop(to_made.send(Ok(LoopWaker::new(driver.waker()))));
        let Some(handle) = take_orders(&mut driver, &for_loop, &to_listening) else { return Ok(()) };
        run_to_the_end(index, &handle.clone(), || {
            let handler = make(index);
            to_running.send(()).ok();
            event_loop(index, driver, handler, handle, &loop_config, loop_counters, seed).run()
        })
    };
    let thread =
        thread::Builder::new().name(format!("ringlink-{index}")).spawn(body).map_err(StartError::Thread)?;
    let Ok(waker) = made.recv() else {
        let payload = thread.join().expect_err("only a panic hangs up without a word");
        let message = panic_message(&*payload).to_owned();
        return Err(StartError::Panicked { loop_index: index, message });
    };
    let waker = waker?;
    let mailbox = Mailbox::new(waker, &config.limits, Arc::clone(&counters));
    let port = Port { slots, mailbox, counters, thread: thread.thread().id() };
    Ok((Recruit { orders, listening, running, thread }, port))
}

fn pin_loop(index: usize, config: &Config) -> Result<(), ConfigError> {
    let Some(&processor) = config.pin.get(index) else { return Ok(()) };
    pin(processor).map_err(|error| ConfigError {
        setting: "pin",
        why: format!("processor {processor} cannot be used: {error}"),
    })
}

fn pin(processor: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    if processor >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    set.set(processor);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Listens as told, until it is told to run; `None` when the node does not start.
fn take_orders(
    driver: &mut impl Driver,
    orders: &Receiver<Order>,
    listening: &Sender<io::Result<Endpoint>>,
) -> Option<Handle> {
    loop {
        match orders.recv().ok()? {
            Order::Listen { listener, at, shared } => {
                drop(listening.send(driver.listen(listener, &at, shared)));
            }
            Order::Run(handle) => return Some(handle),
        }
    }
}

pub(crate) fn event_loop<D: Driver, H: Handler>(
    index: usize,
    driver: D,
    handler: H,
    handle: Handle,
    config: &Config,
    counters: Arc<Counters>,
    seed: u64,
) -> EventLoop<D, H> {
    let settings = ChannelSettings {
        limits: config.limits.clone(),
        counters,
        send_size: config.ring.send_size,
        piece: config.ring.receive_buffer_size as usize,
        mode: config.mode,
    };
    let pace = Pace { completion_budget: config.ring.completion_budget, busy_poll: config.busy_poll };
    let now = driver.now();
    let mut core = Core::new(index, handle, settings, now);
    // Those of Unix sockets are the first loop's alone.
    let is_ours = |address: &Address| index == 0 || !matches!(address, Address::Unix(_));
    let listeners = (0..).map(ListenerId).zip(&config.listen);
    core.listeners =
        listeners.filter(|(_, address)| is_ours(address)).map(|(listener, _)| listener).collect();
    if index == DIALING_LOOP
        && let Some(sought) = core.handle.shared().sought.clone()
    {
        let max_in_flight = config.limits.dials_in_flight;
        core.dialing = Some(Dialing::new(config.peers.clone(), max_in_flight, sought, seed, now));
    }
    EventLoop::new(driver, handler, core, pace)
}

/// Runs a loop; a panic becomes its outcome. A loop that fails takes the others with it: half a node is none.
fn run_to_the_end(index: usize, handle: &Handle, run: impl FnOnce() -> Outcome) -> Outcome {
    let outcome = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| {
        let message = panic_message(&*payload).to_owned();
        Err(NodeError::Panicked { loop_index: index, message })
    });
    if let Err(error) = &outcome {
        tracing::error!(%error, "a loop ended; the node ends");
        handle.shutdown(Duration::ZERO);
    }
    // A loop that panicked has not done it, and whoever waits for its answer would wait for ever.
    drop(handle.shared().ports[index].mailbox.close());
    outcome
}

fn no_memory(channels: u32) -> ConfigError {
    ConfigError {
        setting: "channels",
        why: format!("there is no memory for a table of {channels}; ask for fewer"),
    }
}

/// Has every loop listen at every address, and says where that is.
fn listen(addresses: &[Address], recruits: &[Recruit]) -> Result<Vec<Endpoint>, StartError> {
    (0..)
        .map(ListenerId)
        .zip(addresses)
        .map(|(listener, address)| {
            listen_at(listener, address, recruits)
                .map_err(|error| StartError::Listen { address: address.clone(), error })
        })
        .collect()
}

/// An address in use is tried again for half a second: the listeners of a process that was killed live on in its rings,
/// which the kernel takes apart some time after the process is gone.
const TRIES: u32 = 25;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

fn listen_at(listener: ListenerId, address: &Address, recruits: &[Recruit]) -> io::Result<Endpoint> {
    let at = resolve(address)?;
    let mut listening = listen_on_all(listener, &at, recruits);
    for _ in 0..TRIES {
        if !listening.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse) {
            break;
        }
        thread::park_timeout(BETWEEN_TRIES);
        listening = listen_on_all(listener, &at, recruits);
    }
    match listening {
        // Every address, and the kernel has no IPv6.
        Err(error) if address.has_no_host() && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            listen_on_all(listener, &address.literal(any).expect("it has no name"), recruits)
        }
        listening => listening,
    }
}

fn listen_on_all(listener: ListenerId, at: &Endpoint, recruits: &[Recruit]) -> io::Result<Endpoint> {
    let listen = |recruit: &Recruit, at: &Endpoint, shared| {
        // A loop that is gone hangs up both ways.
        drop(recruit.orders.send(Order::Listen { listener, at: at.clone(), shared }));
        recruit.listening.recv().unwrap_or_else(|_| Err(io::Error::other("the loop has ended")))
    };
    match (at, recruits) {
        (_, []) => unreachable!("validated: there is a loop"),
        // The kernel spreads what comes over the loops' listeners; a Unix socket has one listener alone.
        (Endpoint::Tcp(_), [first, others @ ..]) if !others.is_empty() => {
            let at = free_port(at)?;
            let local = listen(first, &at, true)?;
            for other in others {
                listen(other, &local, true)?;
            }
            Ok(local)
        }
        (Endpoint::Tcp(_) | Endpoint::Unix(_), [first, ..]) => listen(first, at, false),
    }
}

/// Sharing a port would silently share it with another process of this user that does, too: so it is taken alone first.
fn free_port(at: &Endpoint) -> io::Result<Endpoint> {
    match at {
        Endpoint::Tcp(ip) => Ok(Endpoint::Tcp(std::net::TcpListener::bind(ip)?.local_addr()?)),
        Endpoint::Unix(_) => Ok(at.clone()),
    }
}

fn resolve(address: &Address) -> io::Result<Endpoint> {
    if let Some(endpoint) = address.literal(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) {
        return Ok(endpoint);
    }
    let Address::Host(host, port) = address else { unreachable!("a path needs no look-up") };
    let first = (host.as_str(), *port).to_socket_addrs()?.next();
    first.map(Endpoint::Tcp).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Deaf;

    impl Handler for Deaf {}

    #[test]
    fn a_panic_that_makes_no_driver_is_not_blamed_on_the_handler() {
        let make: MakeDriver<UringDriver> = |_, _| panic!("wanted by the test");
        let error = start_on(make, Config::default(), |_| Deaf).unwrap_err();
        assert_eq!(error.to_string(), "making the driver of loop 0 panicked: wanted by the test");
    }
}
