//! What a seed makes of a world: how many nodes, how small everything is, how long it runs.

use std::time::Duration;

use crate::config::{Config, Mode};
use crate::driver::uring::sim::choices::SplitMix;
use crate::driver::uring::sim::network::HostId;

#[derive(Debug)]
pub(super) struct Settings {
    pub(super) nodes: usize,
    /// Steps before the world is healed.
    pub(super) steps: usize,
    /// How often, in a thousand steps, another thread asks something of a node.
    pub(super) commands: u32,
    pub(super) config: Config,
    pub(super) largest_send: usize,
    /// Bytes that a socket takes before its peer has read some.
    pub(super) room: usize,
    /// By node: the nodes it keeps linked, as bits.
    peers: Vec<u32>,
}

impl Settings {
    pub(super) fn new(random: &mut SplitMix, seed: u64) -> Self {
        let nodes = 2 + random.below(4) as usize;
        let mode = if random.below(2) == 0 { Mode::Message } else { Mode::Stream };
        let keeps = random.below(2) == 0;
        let peers = (0..nodes).map(|node| match random.below(1 << nodes) as u32 & !(1 << node) {
            peers if keeps => peers,
            _ => 0,
        });
        Self {
            peers: peers.collect(),
            nodes,
            steps: [200, 500, 1000, 3000][random.below(4) as usize],
            commands: [20, 50, 100, 300][random.below(4) as usize],
            config: Config { loops: 1 + SplitMix(seed).below(2) as usize, ..config(random, mode) },
            largest_send: [300, 3000, 20_000][random.below(3) as usize],
            room: 1 << (8 + random.below(8)),
        }
    }

    pub(super) fn peers_of(&self, host: HostId) -> impl Iterator<Item = usize> {
        let peers = self.peers[host.0];
        (0..self.nodes).filter(move |peer| peers >> peer & 1 == 1)
    }
}

fn config(random: &mut SplitMix, mode: Mode) -> Config {
    let mut config = Config { mode, channels: 2 << random.below(6), ..Config::default() };
    let ring = &mut config.ring;
    ring.submission_entries = 1 << random.below(6);
    ring.completion_entries = ring.submission_entries << (1 + random.below(3));
    ring.receive_buffers = 1 << random.below(6);
    ring.receive_buffer_size = 64 << random.below(5);
    ring.completion_budget = 1 << random.below(8);
    ring.send_size = 128 << random.below(8);
    config.socket.backlog = 1 << random.below(7);
    let limits = &mut config.limits;
    limits.outbox_high = 1024 << random.below(5);
    limits.outbox_low = limits.outbox_high / 4;
    limits.outbox_max = limits.outbox_high << random.below(3);
    limits.max_frame = 1024 << random.below(3);
    limits.max_message = 32 << 10;
    limits.mailbox_commands = 4 << random.below(6);
    limits.pending_handshakes = 1 << random.below(7);
    limits.dials_in_flight = 1 + random.below(8) as usize;
    limits.heartbeat = Duration::from_millis(500 << random.below(4));
    limits.dead_after = limits.heartbeat * 3;
    config
}
