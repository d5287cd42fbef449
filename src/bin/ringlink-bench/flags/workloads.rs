//! The flags of each workload, beside those that all have.

use std::fmt;

use clap::{Args, ValueEnum};
use ringlink::service::Word;

use super::backend::Backend;
use super::{CommonFlags, parse_connections, parse_count, parse_piece, parse_rate};
use crate::engine::{Close, Engine};
use crate::pacing::{Arrival, Sizes};

/// What both ends are made of.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct EndFlags {
    /// What the far end is made of, where it is ours; of fan ringlink or ringlink-tokio-uring.
    #[arg(long, value_enum, default_value_t = Backend::Ringlink, conflicts_with = "target")]
    pub(crate) with: Backend,
    /// What generates the load.
    #[arg(long, value_enum, default_value_t = Engine::Uring)]
    pub(crate) engine: Engine,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct EchoFlags {
    /// Connections.
    #[arg(short, long, default_value = "64", value_parser = parse_connections)]
    pub(crate) connections: usize,
    /// Requests under way on each connection.
    #[arg(short = 'P', long, value_name = "DEPTH", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) pipeline: u16,
    /// Bytes of a request: 64, 64..4096, or mix:64=90,64k=10.
    #[arg(short, long, default_value = "64")]
    pub(crate) size: Sizes,
    /// Open loop: requests due each second, over all connections.
    #[arg(short = 'R', long, value_parser = parse_rate)]
    pub(crate) rate: Option<f64>,
    /// How they are spread: uniform, poisson or burst:N.
    #[arg(long, default_value = "uniform", requires = "rate")]
    pub(crate) arrival: Arrival,
    /// What becomes of a request whose connection is busy.
    #[arg(long, value_enum, default_value_t = OnLate::Queue, requires = "rate")]
    pub(crate) on_late: OnLate,
    /// End after so many requests instead of a time.
    #[arg(short = 'n', long, value_parser = parse_count, conflicts_with = "duration")]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) ends: EndFlags,
    #[command(flatten)]
    pub(crate) common: CommonFlags,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct MsgFlags {
    /// Connections; of ringlink one for each thread, since two nodes have one link.
    #[arg(short, long, default_value = "1", value_parser = parse_connections)]
    pub(crate) connections: usize,
    /// Bytes of a message, at least 8: 64, 64..4096, or mix:64=90,64k=10.
    #[arg(short, long, default_value = "16")]
    pub(crate) size: Sizes,
    /// What both ends are made of. Others than ringlink carry the same frames; `threads` with -c 1 is the limit: blocking
    /// sockets, no loop.
    #[arg(long, value_enum, default_value_t = Backend::Ringlink)]
    pub(crate) with: Backend,
    /// What sends: callbacks of the node, or another thread through its handle.
    #[arg(long, value_enum, default_value_t = SendFrom::Handler)]
    pub(crate) from: SendFrom,
    #[command(flatten)]
    pub(crate) common: CommonFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SendFrom {
    /// The node's own callbacks.
    Handler,
    /// A thread beside the loop, through a handle.
    Thread,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BulkFlags {
    /// Streams, each a connection.
    #[arg(short, long, default_value = "1", value_parser = parse_connections)]
    pub(crate) connections: usize,
    /// Up to `serve sink`, down from `serve source`, or both ways through any echo server.
    #[arg(long, value_enum, default_value_t = Direction::Up)]
    pub(crate) dir: Direction,
    /// Bytes sent at once, at most 64 KiB less 16.
    #[arg(short, long, default_value = "32k", value_parser = parse_piece)]
    pub(crate) size: usize,
    /// Whether the receiver looks at what it gets, or only counts it, as other tools do. What comes back is always
    /// looked at.
    #[arg(long, value_enum, default_value_t = Verify::Full)]
    pub(crate) verify: Verify,
    #[command(flatten)]
    pub(crate) ends: EndFlags,
    #[command(flatten)]
    pub(crate) common: CommonFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Verify {
    /// Every byte.
    Full,
    /// Nothing.
    Off,
}

impl fmt::Display for Verify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Off => "off",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Direction {
    /// To the far end.
    Up,
    /// From it.
    Down,
    /// To it and back.
    Both,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Both => "both",
        })
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ConnectFlags {
    /// Connections under way at any time.
    #[arg(short, long, default_value = "16", value_parser = parse_connections)]
    pub(crate) connections: usize,
    /// How each is closed. FIN leaves a TIME_WAIT here, for which a port is needed; RST leaves nothing.
    #[arg(long, value_enum, default_value_t = CloseBy::Fin)]
    pub(crate) close: CloseBy,
    /// Send a request on each, and verify its answer, before it is closed.
    #[arg(long)]
    pub(crate) with_rtt: bool,
    /// Say hello on each, as a ringlink node in message mode does: it is made once the far end's hello has come.
    #[arg(long, conflicts_with_all = ["with_rtt", "size"])]
    pub(crate) hello: bool,
    /// Bytes of the request of --with-rtt.
    #[arg(short, long, default_value = "64", value_parser = parse_piece, requires = "with_rtt")]
    pub(crate) size: usize,
    /// Dial from so many addresses in turn, 127.0.0.1 to 127.0.0.N: each has its own ports to use up.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u8).range(1..=250))]
    pub(crate) sources: u8,
    #[command(flatten)]
    pub(crate) ends: EndFlags,
    #[command(flatten)]
    pub(crate) common: CommonFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CloseBy {
    /// In good order.
    Fin,
    /// At once.
    Rst,
}

impl From<CloseBy> for Close {
    fn from(close: CloseBy) -> Self {
        match close {
            CloseBy::Fin => Self::Fin,
            CloseBy::Rst => Self::Reset,
        }
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct IdleFlags {
    /// Connections.
    #[arg(short, long, default_value = "5k", value_parser = parse_connections)]
    pub(crate) connections: usize,
    /// So many of them carry the requests.
    #[arg(long, default_value = "100", value_parser = parse_connections)]
    pub(crate) active: usize,
    /// Requests due each second, over all active connections.
    #[arg(short = 'R', long, default_value = "1k", value_parser = parse_rate)]
    pub(crate) rate: f64,
    /// Bytes of a request.
    #[arg(short, long, default_value = "64")]
    pub(crate) size: Sizes,
    #[command(flatten)]
    pub(crate) ends: EndFlags,
    #[command(flatten)]
    pub(crate) common: CommonFlags,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct FanFlags {
    /// Peers of the hub, each a connection that says hello as a node of its own.
    #[arg(short, long, default_value = "32", value_parser = parse_connections)]
    pub(crate) connections: usize,
    /// Who sends to whom.
    #[arg(long, value_enum, default_value_t = FanMode::Broadcast)]
    pub(crate) mode: FanMode,
    /// Bytes of a message, at least 8.
    #[arg(short, long, default_value = "64")]
    pub(crate) size: Sizes,
    /// Messages under way to all peers at any time [default: 16]; not for --mode in.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    window: Option<u16>,
    /// So many peers stop reading in the middle of the window: what do the others notice of it? Not for --mode in.
    #[arg(long, value_name = "N", default_value = "0")]
    pub(crate) slow: usize,
    #[command(flatten)]
    pub(crate) ends: EndFlags,
    #[command(flatten)]
    pub(crate) common: CommonFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FanMode {
    /// All peers send to the hub, as fast as they can; counted where they arrive.
    In,
    /// A peer's message goes to all by a send to each.
    Out,
    /// A peer's message goes to all by one broadcast.
    Broadcast,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnLate {
    /// It waits, and its response time counts from when it was due.
    Queue,
    /// It is counted, and not sent.
    Drop,
}

impl EchoFlags {
    pub(super) fn check(&self) -> Result<(), String> {
        self.common.check(self.connections, self.ends.engine == Engine::Uring, self.ends.with)?;
        if self.size.most() * usize::from(self.pipeline) > 2 << 20 && self.pipeline > 1 {
            return Err("'--pipeline' times '--size' is more than 2 MiB on a connection".into());
        }
        Ok(())
    }
}

impl IdleFlags {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.active > self.connections {
            return Err(format!("'--active {}' of {} connections cannot be", self.active, self.connections));
        }
        if self.common.threads > 1 {
            return Err("'--threads' of idle is 1".into());
        }
        self.common.check(self.connections, self.ends.engine == Engine::Uring, self.ends.with)
    }
}

impl BulkFlags {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.verify == Verify::Off && self.dir == Direction::Both {
            return Err("'--verify off' with '--dir both' cannot be: an echo is told by its bytes".into());
        }
        if self.verify == Verify::Off && self.dir == Direction::Up && self.common.target.is_some() {
            return Err("'--verify off' is told to 'serve sink': TARGET runs already".into());
        }
        self.common.check_without_latency()?;
        self.common.check(self.connections, self.ends.engine == Engine::Uring, self.ends.with)
    }
}

impl ConnectFlags {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.hello && self.ends.with.driver().is_none() {
            return Err(format!("'--hello' is for nodes, which '--with {}' is not", self.ends.with));
        }
        // A node says hello at once, so its hello does not tell that it has read ours.
        if self.hello && self.close == CloseBy::Rst {
            return Err(
                "'--hello' with '--close rst' cannot be: a reset takes back what is not read yet".into()
            );
        }
        if self.sources > 1 && self.ends.engine != Engine::Epoll {
            return Err(
                "'--sources' needs '--engine epoll': a node does not choose where it dials from".into()
            );
        }
        self.common.check(self.connections, self.ends.engine == Engine::Uring, self.ends.with)
    }
}

impl FanFlags {
    pub(crate) fn window(&self) -> usize {
        usize::from(self.window.unwrap_or(16))
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.ends.with.driver().is_none() {
            let with = self.ends.with;
            return Err(format!("'--with {with}' makes no hub: messages are relayed by ringlink"));
        }
        if self.common.threads > 1 || self.common.loops > 1 {
            return Err("'--threads' and '--loops' of fan are 1".into());
        }
        if self.mode == FanMode::In && (self.slow > 0 || self.window.is_some()) {
            return Err("'--slow' and '--window' are for peers that receive: not with '--mode in'".into());
        }
        if self.mode == FanMode::In {
            self.common.check_without_latency()?;
        }
        // The first peer sends, and one of the others must go on reading.
        if self.slow > 0 && self.slow.saturating_add(2) > self.connections {
            return Err(format!(
                "'--slow {}' of {} peers leaves none to look at",
                self.slow, self.connections
            ));
        }
        if self.size.least() < Word::LEN {
            return Err("'--size' of a message is 8 bytes or more: it says which one it is".into());
        }
        if self.size.most() > 1 << 20 {
            return Err("'--size' of a message is at most 1 MiB: the peers send each in one frame".into());
        }
        if self.mode != FanMode::In && self.size.most() * self.window() > 1 << 20 {
            return Err("'--window' times '--size' is more than 1 MiB on a connection".into());
        }
        self.common.check(self.connections, self.ends.engine == Engine::Uring, self.ends.with)
    }
}

impl MsgFlags {
    pub(super) fn check(&self) -> Result<(), String> {
        let is_node = self.with.driver().is_some();
        if self.from == SendFrom::Thread && !is_node {
            return Err(format!("'--from thread' is for nodes, which '{}' is not", self.with));
        }
        if self.with == Backend::TokioUring {
            return Err("'--with tokio-uring' carries no messages".into());
        }
        self.common.check_without_latency()?;
        self.common.check(self.connections, is_node, self.with)?;
        let (connections, threads) = (self.connections, usize::from(self.common.threads));
        if is_node && connections != threads {
            return Err(format!(
                "two nodes have one link: '--connections {connections}' needs as many '--threads', each a node"
            ));
        }
        if self.size.least() < Word::LEN {
            return Err("'--size' of a message is 8 bytes or more: it says which one it is".into());
        }
        if self.size.most() >= 1 << 24 {
            return Err("'--size' of a message is below 16 MiB".into());
        }
        Ok(())
    }
}
