//! A simulated kernel: the same [`Kernel`] as Linux, on a simulated network, in one thread, from one seed. What it may
//! do, it does: end a multishot, lose the race with a cancel, send a part, run out of descriptors.
//!
//! Here is the kernel of one node; `ring.rs` is its memory, `work.rs` what it does with an operation, `network.rs` what
//! lies between nodes, `choices.rs` where chance comes from. The nodes that run on it are in `crate::simulation`.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::SockAddr;

use super::UringDriver;
use super::kernel::{Cqe, EnterWait, Fd, Kernel, Sqe};
use crate::addr::Endpoint;
use crate::clock::Mono;
use crate::config::{RingOptions, SocketOptions};
use crate::driver::{Settings, Waker};
use crate::error::DriverError;
use crate::stats::Counters;

mod check;
pub(crate) mod choices;
#[cfg(test)]
mod conformance;
pub(crate) mod network;
mod ring;
mod trace;
mod work;

use choices::Fault;
use network::{HostId, Network, errno};
use ring::Ring;

/// What a system call costs, so that time passes for who does nothing else.
const ENTER_TIME: Duration = Duration::from_micros(1);

/// Counts wakes, as an eventfd does.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimWaker(Arc<AtomicU64>);

impl Waker for SimWaker {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// What the owner of a kernel can do from outside, while a driver uses it.
#[derive(Clone, Debug)]
pub(crate) struct Outside(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    network: Rc<RefCell<Network>>,
    ring: Ring,
    wakes: SimWaker,
    wakes_seen: u64,
    /// Until when the node waits in `enter`, if it does.
    parked: Option<EnterWait>,
    parked_at: Mono,
    /// True while nobody else runs: then waiting makes time pass.
    alone: bool,
    /// The process was killed: everything it had is gone.
    dead: bool,
    /// After how many calls of `enter` completions were kept that did not fit their queue.
    overflows: u64,
    /// How often an accept was refused for a lack of descriptors.
    lacks: u64,
}

#[derive(Debug)]
pub(crate) struct SimKernel(Rc<RefCell<State>>);

impl SimKernel {
    pub(crate) fn new(
        network: &Rc<RefCell<Network>>,
        host: HostId,
        options: &RingOptions,
    ) -> (Self, Outside) {
        let ring = Ring::new(host, options.submission_entries as usize, options.completion_entries as usize);
        let state = Rc::new(RefCell::new(State {
            network: Rc::clone(network),
            ring,
            wakes: SimWaker::default(),
            wakes_seen: 0,
            parked: None,
            parked_at: Mono::default(),
            alone: false,
            dead: false,
            overflows: 0,
            lacks: 0,
        }));
        (Self(Rc::clone(&state)), Outside(state))
    }

    /// A driver on a simulated kernel.
    pub(crate) fn driver(
        self,
        settings: Settings,
        counters: Arc<Counters>,
    ) -> Result<UringDriver<Self>, DriverError> {
        UringDriver::on(self, settings, counters)
    }

    fn with<R>(&self, ask: impl FnOnce(&mut Network, HostId) -> R) -> R {
        let state = self.0.borrow();
        let host = state.ring.host;
        let mut network = state.network.borrow_mut();
        ask(&mut network, host)
    }
}

impl Outside {
    /// True when the node would return from its system call now.
    pub(crate) fn is_runnable(&self) -> bool {
        let state = &*self.0.borrow();
        let network = state.network.borrow();
        let now = network.now;
        let due = match state.parked {
            None | Some(EnterWait::Not) => true,
            Some(EnterWait::AtMost(time)) => now >= state.parked_at + time,
            Some(EnterWait::Forever) => false,
        };
        due || state.ring.has_completions() || state.has_work(&network)
    }

    /// When the node's wait ends.
    pub(crate) fn deadline(&self) -> Option<Mono> {
        let state = self.0.borrow();
        match state.parked {
            Some(EnterWait::AtMost(time)) => Some(state.parked_at + time),
            None | Some(EnterWait::Not | EnterWait::Forever) => None,
        }
    }

    /// From now on nobody else runs.
    pub(crate) fn run_alone(&self) {
        self.0.borrow_mut().alone = true;
    }

    /// The process is gone, at once; its descriptors are closed by the kernel.
    pub(crate) fn kill(&self) {
        let mut state = self.0.borrow_mut();
        state.dead = true;
        let host = state.ring.host;
        state.network.borrow_mut().close_all(host);
    }

    pub(crate) fn lacks(&self) -> u64 {
        self.0.borrow().lacks
    }
}

impl Kernel for SimKernel {
    type Waker = SimWaker;

    fn room(&mut self) -> usize {
        let state = self.0.borrow();
        state.ring.submission_entries - state.ring.submitted.len()
    }

    unsafe fn push(&mut self, user_data: u64, sqe: Sqe) {
        self.0.borrow_mut().ring.submitted.push_back((user_data, sqe));
    }

    fn enter(&mut self, wait: EnterWait) -> io::Result<()> {
        self.0.borrow_mut().enter(wait);
        Ok(())
    }

    fn next_cqe(&mut self) -> Option<Cqe> {
        self.0.borrow_mut().ring.next_cqe()
    }

    fn overflows(&self) -> u64 {
        self.0.borrow().overflows
    }

    unsafe fn register_buffers(&mut self, base: *mut u8, size: u32, _count: u16) -> io::Result<()> {
        self.0.borrow_mut().ring.register(base, size as usize);
        Ok(())
    }

    fn provide(&mut self, buffer: u16) {
        self.0.borrow_mut().ring.provide(buffer);
    }

    fn waker(&self) -> SimWaker {
        self.0.borrow().wakes.clone()
    }

    fn open_listener(
        &mut self,
        at: &Endpoint,
        _shared: bool,
        options: &SocketOptions,
    ) -> io::Result<(Fd, Endpoint)> {
        self.with(|network, host| network.listen(host, at, options.backlog as usize))
    }

    fn open_socket(&mut self, to: &Endpoint, _options: &SocketOptions) -> io::Result<(Fd, SockAddr)> {
        let address = to.socket_addr().ok_or_else(|| errno(libc::EAFNOSUPPORT))?;
        self.with(|network, host| {
            if network.fires(Fault::NoSocket) {
                return Err(errno(libc::EMFILE));
            }
            Ok((network.new_socket(host), SockAddr::from(address)))
        })
    }

    fn local_endpoint(&mut self, fd: Fd) -> io::Result<Endpoint> {
        self.with(|network, host| {
            let socket = network.socket_of(host, fd).ok_or_else(|| errno(libc::EBADF))?;
            Ok(Endpoint::Tcp(network.ends_of(socket).0))
        })
    }

    fn peer_endpoint(&mut self, fd: Fd) -> io::Result<Endpoint> {
        self.with(|network, host| {
            let socket = network.socket_of(host, fd).ok_or_else(|| errno(libc::EBADF))?;
            if network.is_connected(socket) {
                Ok(Endpoint::Tcp(network.ends_of(socket).1))
            } else {
                Err(errno(libc::ENOTCONN))
            }
        })
    }

    fn shutdown(&mut self, fd: Fd, how: Shutdown) -> io::Result<()> {
        self.with(|network, host| {
            let socket = network.socket_of(host, fd).ok_or_else(|| errno(libc::EBADF))?;
            network.shutdown(socket, how)
        })
    }

    fn reset_on_close(&mut self, fd: Fd) -> io::Result<()> {
        self.with(|network, host| {
            let socket = network.socket_of(host, fd).ok_or_else(|| errno(libc::EBADF))?;
            network.reset_on_close(socket);
            Ok(())
        })
    }

    fn close(&mut self, fd: Fd, _listener: Option<&Endpoint>) {
        self.0.borrow_mut().close(fd);
    }

    fn now(&self) -> Mono {
        self.with(|network, _| network.now)
    }
}
