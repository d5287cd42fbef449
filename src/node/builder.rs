//! Settings of a node, one call each, and its start.

use std::path::PathBuf;
use std::time::Duration;

use crate::addr::{Address, ParseAddressError};
use crate::config::{Config, DriverKind, Limits, Mode, RingOptions, SocketOptions};
use crate::error::StartError;
use crate::node::handler::Handler;
use crate::node::{Node, start};

/// Builds a [`Node`]. Nothing is checked before [`Builder::start`], which names the setting that is invalid.
#[derive(Clone, Debug, Default)]
#[must_use = "a node runs from `start` on"]
pub struct Builder {
    config: Config,
}

impl Builder {
    /// What travels on the channels. Default: [`Mode::Message`].
    pub fn mode(mut self, mode: Mode) -> Self {
        self.config.mode = mode;
        self
    }

    /// Channel ids have slots from `start` on, and at most `size` channels exist at once. With several loops each has
    /// its share of them. Default: 16,384 from 0; at most 16,777,216. Each channel takes a descriptor, and
    /// 32 bytes of memory before it exists.
    pub fn channels(mut self, start: u32, size: u32) -> Self {
        (self.config.first_slot, self.config.channels) = (start, size);
        self
    }

    /// Adds an address to listen at. A host name must stand for addresses of this machine, and the first is taken; an
    /// empty host is all of IPv4 and IPv6. Port 0 is any free port: see [`Node::local_addrs`]. An address in use is tried
    /// again for half a second, since the kernel lets go of a killed node's addresses only some time after its end.
    ///
    /// With several loops each listens at every TCP address; a Unix socket is served by the first loop alone, with its share
    /// of the channels.
    pub fn listen(mut self, address: impl Into<Address>) -> Self {
        self.config.listen.push(address.into());
        self
    }

    /// [`Builder::listen`] at an address as people write it.
    ///
    /// # Errors
    ///
    /// The text is not an address.
    pub fn listen_on(self, address: &str) -> Result<Self, ParseAddressError> {
        Ok(self.listen(address.parse::<Address>()?))
    }

    /// Keeps a link to the node at the address: dials it when the node starts, and again whenever the link is lost or
    /// could not be made, until the node ends. The first retry comes within 100 ms, later ones back off to at most
    /// 30 s, at random times, and within `dials_in_flight`. In message mode a link that the other node dialed is as good, and there is
    /// one link for each node, however many addresses lead to it.
    ///
    /// Each attempt is a channel, and ends in an `on_close` like any other.
    pub fn peer(mut self, address: impl Into<Address>) -> Self {
        self.config.peers.push(address.into());
        self
    }

    /// Loops, each on a thread of its own, with its own share of the channels. Default 1.
    pub fn loops(mut self, loops: usize) -> Self {
        self.config.loops = loops;
        self
    }

    /// The driver of all loops. Default: [`DriverKind::Auto`].
    pub fn driver(mut self, driver: DriverKind) -> Self {
        self.config.driver = driver;
        self
    }

    /// The processor each loop runs on, one for each; none leaves it to the system, the default.
    pub fn pin(mut self, processors: Vec<usize>) -> Self {
        self.config.pin = processors;
        self
    }

    /// After something came from a peer or another thread a loop looks again and again, for so long at most, before it
    /// sleeps: answers come faster, and the loop's processor is busy for that time. Where that was in vain it looks for
    /// a shorter time, down to a thirty-second part, until things come quickly again; so it is to be longer than a round
    /// trip without it. Default zero.
    pub fn busy_poll(mut self, spin: Duration) -> Self {
        self.config.busy_poll = spin;
        self
    }

    /// The name of the network, in message mode: nodes of other networks refuse each other. Default: the empty name.
    pub fn network(mut self, name: impl Into<String>) -> Self {
        self.config.network = name.into();
        self
    }

    /// Keeps the node's id in this file, made with mode 0600 when it is missing. Without one each start is a new node.
    pub fn id_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.id_file = Some(path.into());
        self
    }

    /// What the node calls itself to its peers, at most 64 bytes. Default: `ringlink/` and its version.
    pub fn agent(mut self, agent: impl Into<String>) -> Self {
        self.config.agent = agent.into();
        self
    }

    /// Changes limits.
    pub fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.config.limits);
        self
    }

    /// Changes options of the sockets.
    pub fn socket(mut self, change: impl FnOnce(&mut SocketOptions)) -> Self {
        change(&mut self.config.socket);
        self
    }

    /// Changes sizes of the rings and receive buffers.
    pub fn ring(mut self, change: impl FnOnce(&mut RingOptions)) -> Self {
        change(&mut self.config.ring);
        self
    }

    /// Starts the node. When this returns, it listens. `make` makes the handler of each loop, by the loop's number and
    /// on its thread.
    ///
    /// # Errors
    ///
    /// See [`StartError`]; nothing is left running.
    pub fn start<H: Handler>(
        self,
        make: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<Node, StartError> {
        self.config.validate()?;
        start::start(self.config, make)
    }
}
