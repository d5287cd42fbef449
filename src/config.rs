//! Every setting of a node, its default and its unit, and the one place where settings are held against each other.

use std::path::PathBuf;
use std::time::Duration;

use crate::addr::Address;
use crate::error::ConfigError;

/// Bytes of the longest agent string there may be.
pub(crate) const MAX_AGENT: usize = 64;

/// Most channels of a node. Each takes 32 bytes from the start on, and a descriptor once it is open, of which a process
/// seldom may have more than a million.
const MAX_CHANNELS: u32 = 1 << 24;
/// Most bytes of a loop's receive buffers.
const MAX_RECEIVE_MEMORY: u64 = 2 << 30;
/// The kernel's bounds.
const MAX_KEEPALIVE: Duration = Duration::from_secs(32_767);
const MAX_USER_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// What travels on a node's channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// Messages between ringlink nodes: framed, with hello and heartbeats.
    #[default]
    Message,
    /// Bytes as they come, to speak with any TCP program.
    Stream,
}

/// The limits of a node. Each is on by default, but `idle_timeout` in message mode; the error or counter of each names the
/// field.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// `on_drained` is called when a channel's outbox falls to this many bytes after it was above. Default 64 KiB.
    pub outbox_low: usize,
    /// From this many bytes in its outbox on a channel counts as backed up (`Context::is_backed_up`). Default 256 KiB.
    pub outbox_high: usize,
    /// A send that would make an outbox larger is refused. Default 4 MiB.
    ///
    /// In message mode an outbox below `outbox_high` takes one message of any length, so the most an outbox holds is the
    /// greater of this and `outbox_high` and `max_message` together.
    pub outbox_max: usize,
    /// How long a dial may take for each address of a name. Default 10 s.
    pub dial_timeout: Duration,
    /// How long a closing channel may take in all: to send what is queued, and then to wait for the peer. Default 5 s.
    pub close_timeout: Duration,
    /// How long a closing channel waits, once everything is sent, for the peer to close too. Default 1 s.
    ///
    /// Closing earlier while the peer still sends would reset the connection, and what is on the way to the peer
    /// would be lost.
    pub linger_timeout: Duration,
    /// A channel on which no message was sent or received for so long, in stream mode no byte, is closed; heartbeats do
    /// not count. `None`, the default, is not off but what suits the mode: 1 hour in stream mode, and never in message mode,
    /// where heartbeats tell that the peer lives. Zero turns it off.
    pub idle_timeout: Option<Duration>,
    /// A channel is closed when a send operation, which has `send_size` bytes at most, is not taken whole in so long.
    /// Default 60 s; zero turns it off.
    pub write_timeout: Duration,
    /// Commands of other threads that may wait for a loop. Default 65,536.
    pub mailbox_commands: usize,
    /// Bytes of sends from other threads that may wait for a loop. Default 16 MiB.
    ///
    /// When none wait, one send of any size is taken.
    pub mailbox_bytes: usize,
    /// Names that may be looked up at once. Default 64.
    pub lookups: usize,
    /// Longest frame accepted, in bytes of payload: 1024 to 16,777,215. Default 1 MiB.
    ///
    /// Peers learn it, and split longer messages. While a frame is being received, what else its sender has to say waits.
    pub max_frame: u32,
    /// Longest message accepted or sent, in bytes: `max_frame` to 65,536 times that, and below 4 GiB. Default 16 MiB.
    ///
    /// It is also the most memory a channel holds for a message that is not complete. Memory grows only with what was
    /// received.
    pub max_message: usize,
    /// Memory that the channels of a loop may hold together for messages that are not complete, in bytes, beyond 64 KiB of
    /// each. The channel that needs more is closed. Default 256 MiB; at least twice `max_message`.
    ///
    /// What is kept for messages to come counts too, and takes half of it at most.
    pub assembly_bytes: usize,
    /// How long after connecting the peer's hello may take. Default 5 s.
    pub handshake_timeout: Duration,
    /// Frames that are no messages (pings and the like) a peer may send in a second, on the average: what it did not use is
    /// saved for an hour, since all it sent during a pause comes at once. Default 100; at least 40.
    pub max_control_frames: u32,
    /// A peer that was silent for so long is asked whether it lives. Default 5 s; 100 ms to 1 hour.
    pub heartbeat: Duration,
    /// A peer that was silent for so long is taken for dead. Default 15 s; more than `heartbeat`.
    pub dead_after: Duration,
    /// Accepted connections that may be without a hello at once, in message mode. When there are more, the oldest is
    /// closed. Default 1024; each loop has its share, and at most three quarters of its channels.
    pub pending_handshakes: usize,
    /// Channels accepted from one IP address (IPv6: from one /64), in message mode; more are refused. Default 256.
    /// Loopback and Unix sockets are exempt.
    pub channels_per_ip: usize,
    /// Dials of [`Builder::peer`](crate::Builder::peer) under way at once; more wait. Default 64.
    pub dials_in_flight: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            outbox_low: 64 << 10,
            outbox_high: 256 << 10,
            outbox_max: 4 << 20,
            dial_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            linger_timeout: Duration::from_secs(1),
            idle_timeout: None,
            write_timeout: Duration::from_secs(60),
            mailbox_commands: 65_536,
            mailbox_bytes: 16 << 20,
            lookups: 64,
            max_frame: 1 << 20,
            max_message: 16 << 20,
            assembly_bytes: 256 << 20,
            handshake_timeout: Duration::from_secs(5),
            max_control_frames: 100,
            heartbeat: Duration::from_secs(5),
            dead_after: Duration::from_secs(15),
            pending_handshakes: 1024,
            channels_per_ip: 256,
            dials_in_flight: 64,
        }
    }
}

/// Options of the sockets, set on listeners (accepted sockets inherit them) and on dialed sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketOptions {
    /// Send small segments at once (`TCP_NODELAY`). Default on.
    pub nodelay: bool,
    /// Probe a silent connection after this long (`SO_KEEPALIVE`, `TCP_KEEPIDLE`), 1 s to 32,767 s. Default 60 s; `None`
    /// turns it off.
    pub keepalive: Option<Duration>,
    /// Give a connection up when sent data stays unacknowledged for so long (`TCP_USER_TIMEOUT`), 1 ms to 24 days.
    /// Default 20 s; `None` leaves it to the kernel, about 15 minutes.
    pub user_timeout: Option<Duration>,
    /// The kernel's send buffer in bytes (`SO_SNDBUF`; the kernel doubles it). Default: the kernel tunes it.
    pub send_buffer: Option<usize>,
    /// The kernel's receive buffer in bytes (`SO_RCVBUF`; the kernel doubles it). Default: the kernel tunes it.
    pub receive_buffer: Option<usize>,
    /// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`. Default 4096.
    pub backlog: u32,
    /// The congestion control by name (`TCP_CONGESTION`). Default: the system's.
    pub congestion: Option<String>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            nodelay: true,
            keepalive: Some(Duration::from_secs(60)),
            user_timeout: Some(Duration::from_secs(20)),
            send_buffer: None,
            receive_buffer: None,
            backlog: 4096,
            congestion: None,
        }
    }
}

/// Sizes of a loop's ring and receive buffers. The defaults suit thousands of channels.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RingOptions {
    /// Entries of the submission queue; a power of two. Default 2048.
    pub submission_entries: u32,
    /// Entries of the completion queue; a power of two, at least twice the submission queue's. Default 16,384.
    pub completion_entries: u32,
    /// Receive buffers of a loop; a power of two, at most 32,768, and 2 GiB in all. Default 256.
    pub receive_buffers: u16,
    /// Bytes of each receive buffer; with the driver tokio-uring, where every channel holds one, at most 16 KiB. Default
    /// 64 KiB.
    pub receive_buffer_size: u32,
    /// Completions handled in one turn before the loop sends and looks at commands and timers. Default 1024.
    pub completion_budget: u32,
    /// Most bytes of one send operation. Default 256 KiB.
    pub send_size: usize,
}

impl Default for RingOptions {
    fn default() -> Self {
        Self {
            submission_entries: 2048,
            completion_entries: 16_384,
            receive_buffers: 256,
            receive_buffer_size: 64 << 10,
            completion_budget: 1024,
            send_size: 256 << 10,
        }
    }
}

/// Which driver a node's loops run on; both keep the same promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DriverKind {
    /// The native one where it works, else tokio-uring; the log says which.
    #[default]
    Auto,
    /// The native one: multishot receives into shared buffers, one system call in a turn. Linux 6.0 or later.
    Uring,
    /// On the `tokio-uring` crate, for Linux from 5.11 on: each receive has a buffer of its own, and a turn takes at least
    /// two system calls. Needs the feature `tokio-uring`, which is on by default.
    TokioUring,
}

/// Everything a node is started with; [`Builder`](crate::Builder) fills it in.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) mode: Mode,
    pub(crate) first_slot: u32,
    pub(crate) channels: u32,
    pub(crate) loops: usize,
    pub(crate) listen: Vec<Address>,
    /// Dialed again for as long as the node lives.
    pub(crate) peers: Vec<Address>,
    pub(crate) limits: Limits,
    pub(crate) socket: SocketOptions,
    pub(crate) ring: RingOptions,
    pub(crate) driver: DriverKind,
    pub(crate) busy_poll: Duration,
    pub(crate) pin: Vec<usize>,
    /// Nodes of other networks are refused at the hello. Default: the empty name.
    pub(crate) network: String,
    /// Keeps the node's id across restarts. Without it each start is a new node.
    pub(crate) id_file: Option<PathBuf>,
    /// What the node calls itself in its hello, at most 64 bytes. Default: ringlink and its version.
    pub(crate) agent: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            first_slot: 0,
            channels: 16_384,
            loops: 1,
            listen: Vec::new(),
            peers: Vec::new(),
            limits: Limits::default(),
            socket: SocketOptions::default(),
            ring: RingOptions::default(),
            driver: DriverKind::default(),
            busy_poll: Duration::ZERO,
            pin: Vec::new(),
            network: String::new(),
            id_file: None,
            agent: concat!("ringlink/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl Config {
    /// Holds every setting against its bounds and against the others.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        self.validate_node()?;
        self.limits.validate()?;
        self.socket.validate()?;
        self.ring.validate()
    }

    fn validate_node(&self) -> Result<(), ConfigError> {
        check(self.loops >= 1 && self.loops <= 1024, "loops", || {
            format!("{} loops; there can be 1 to 1024", self.loops)
        })?;
        check(self.channels as usize >= self.loops, "channels", || {
            format!("{} channels for {} loops; each loop needs at least one", self.channels, self.loops)
        })?;
        check(self.channels <= MAX_CHANNELS, "channels", || {
            format!("{} channels; there can be {MAX_CHANNELS}", self.channels)
        })?;
        check(self.first_slot.checked_add(self.channels).is_some(), "channels", || {
            format!("{} channels from {} on pass the largest id, 4294967295", self.channels, self.first_slot)
        })?;
        check(self.agent.len() <= MAX_AGENT, "agent", || {
            format!("{} bytes; there can be {MAX_AGENT}", self.agent.len())
        })?;
        let built_in = self.driver != DriverKind::TokioUring || cfg!(feature = "tokio-uring");
        check(built_in, "driver", || "this build has no tokio-uring; build it with that feature".into())?;
        check(self.pin.is_empty() || self.pin.len() == self.loops, "pin", || {
            format!("{} processors for {} loops; name one for each loop, or none", self.pin.len(), self.loops)
        })
    }
}

impl Limits {
    /// Zero: none.
    pub(crate) fn idle_timeout_in(&self, mode: Mode) -> Duration {
        self.idle_timeout.unwrap_or(match mode {
            Mode::Stream => Duration::from_secs(3600),
            Mode::Message => Duration::ZERO,
        })
    }

    fn validate(&self) -> Result<(), ConfigError> {
        // Whoever pauses at the one and goes on at the other must have to pass both.
        check(self.outbox_low < self.outbox_high, "outbox_low", || {
            format!("{} is not below outbox_high {}", self.outbox_low, self.outbox_high)
        })?;
        check(self.outbox_high <= self.outbox_max, "outbox_high", || {
            format!("{} is above outbox_max {}", self.outbox_high, self.outbox_max)
        })?;
        check((1..=u32::MAX as usize).contains(&self.outbox_max), "outbox_max", || {
            format!("{} bytes; it can be 1 to {}", self.outbox_max, u32::MAX)
        })?;
        for (setting, value) in [
            ("dial_timeout", self.dial_timeout),
            ("close_timeout", self.close_timeout),
            ("linger_timeout", self.linger_timeout),
            ("handshake_timeout", self.handshake_timeout),
        ] {
            check(!value.is_zero(), setting, || "it must be above zero".into())?;
        }
        for (setting, value) in [
            ("mailbox_commands", self.mailbox_commands),
            ("mailbox_bytes", self.mailbox_bytes),
            ("lookups", self.lookups),
            ("pending_handshakes", self.pending_handshakes),
            ("channels_per_ip", self.channels_per_ip),
            ("dials_in_flight", self.dials_in_flight),
        ] {
            check(value >= 1, setting, || "it must be at least 1".into())?;
        }
        self.validate_link()
    }

    fn validate_link(&self) -> Result<(), ConfigError> {
        // A hello must fit, and the length has 24 bits.
        check((1024..1 << 24).contains(&self.max_frame), "max_frame", || {
            format!("{} bytes; it can be 1024 to 16777215", self.max_frame)
        })?;
        // A message has at most 65,536 frames; its length travels in 32 bits.
        let least = self.max_frame as usize;
        let most = least.saturating_mul(65_536).min(u32::MAX as usize);
        check((least..=most).contains(&self.max_message), "max_message", || {
            format!("{} bytes; with max_frame {least} it can be {least} to {most}", self.max_message)
        })?;
        check(self.assembly_bytes / 2 >= self.max_message, "assembly_bytes", || {
            format!("{} is below twice max_message {}", self.assembly_bytes, self.max_message)
        })?;
        // With heartbeats of 100 ms, the least, an honest peer needs almost as many.
        check((40..=1_000_000).contains(&self.max_control_frames), "max_control_frames", || {
            format!("{} a second; it can be 40 to 1000000", self.max_control_frames)
        })?;
        let heartbeats = Duration::from_millis(100)..=Duration::from_secs(3600);
        check(heartbeats.contains(&self.heartbeat), "heartbeat", || {
            format!("{:?}; it can be 100 ms to 1 hour", self.heartbeat)
        })?;
        check(self.dead_after > self.heartbeat, "dead_after", || {
            format!("{:?} is not above heartbeat {:?}", self.dead_after, self.heartbeat)
        })
    }
}

impl SocketOptions {
    fn validate(&self) -> Result<(), ConfigError> {
        let seconds = Duration::from_secs(1)..=MAX_KEEPALIVE;
        check(self.keepalive.is_none_or(|idle| seconds.contains(&idle)), "keepalive", || {
            let idle = self.keepalive.unwrap_or_default();
            format!("{idle:?}; it can be 1 s to {MAX_KEEPALIVE:?}, or off")
        })?;
        let milliseconds = Duration::from_millis(1)..=MAX_USER_TIMEOUT;
        check(self.user_timeout.is_none_or(|time| milliseconds.contains(&time)), "user_timeout", || {
            let time = self.user_timeout.unwrap_or_default();
            format!("{time:?}; it can be 1 ms to {MAX_USER_TIMEOUT:?}, or off")
        })?;
        for (setting, bytes) in [("send_buffer", self.send_buffer), ("receive_buffer", self.receive_buffer)] {
            check(bytes.is_none_or(|bytes| i32::try_from(bytes).is_ok()), setting, || {
                format!("{} bytes; it can be at most {}", bytes.unwrap_or_default(), i32::MAX)
            })?;
        }
        Ok(())
    }
}

impl RingOptions {
    fn validate(&self) -> Result<(), ConfigError> {
        let power = |n: u32, least: u32, most: u32| n.is_power_of_two() && (least..=most).contains(&n);
        check(power(self.submission_entries, 1, 32_768), "submission_entries", || {
            format!("{} is not a power of two from 1 to 32768", self.submission_entries)
        })?;
        check(power(self.completion_entries, 2, 65_536), "completion_entries", || {
            format!("{} is not a power of two from 2 to 65536", self.completion_entries)
        })?;
        check(self.completion_entries >= 2 * self.submission_entries, "completion_entries", || {
            format!(
                "{} is less than twice submission_entries {}",
                self.completion_entries, self.submission_entries
            )
        })?;
        check(power(u32::from(self.receive_buffers), 1, 32_768), "receive_buffers", || {
            format!("{} is not a power of two from 1 to 32768", self.receive_buffers)
        })?;
        check((64..=16 << 20).contains(&self.receive_buffer_size), "receive_buffer_size", || {
            format!("{} bytes; it can be 64 to 16777216", self.receive_buffer_size)
        })?;
        let memory = u64::from(self.receive_buffers) * u64::from(self.receive_buffer_size);
        check(memory <= MAX_RECEIVE_MEMORY, "receive_buffers", || {
            let (count, size) = (self.receive_buffers, self.receive_buffer_size);
            format!("{count} of {size} bytes take {memory}; they can take {MAX_RECEIVE_MEMORY} for each loop")
        })?;
        check(self.completion_budget >= 1, "completion_budget", || "it must be at least 1".into())?;
        check((1..=1 << 30).contains(&self.send_size), "send_size", || {
            format!("{} bytes; it can be 1 to 1073741824", self.send_size)
        })
    }
}

fn check(holds: bool, setting: &'static str, why: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError { setting, why: why() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(setting: &str, change: impl FnOnce(&mut Config)) {
        let mut config = Config::default();
        change(&mut config);
        assert_eq!(config.validate().unwrap_err().setting, setting);
    }

    #[test]
    fn the_defaults_are_valid() {
        Config::default().validate().unwrap();
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        refused("loops", |c| c.loops = 0);
        refused("channels", |c| c.channels = 0);
        refused("channels", |c| c.first_slot = u32::MAX);
        refused("channels", |c| c.channels = MAX_CHANNELS + 1);
        refused("pin", |c| c.pin = vec![0, 1]);
        refused("agent", |c| c.agent = "é".repeat(33));
        refused("outbox_low", |c| c.limits.outbox_low = c.limits.outbox_high);
        refused("outbox_high", |c| c.limits.outbox_high = c.limits.outbox_max + 1);
        refused("mailbox_commands", |c| c.limits.mailbox_commands = 0);
        refused("mailbox_bytes", |c| c.limits.mailbox_bytes = 0);
        refused("dial_timeout", |c| c.limits.dial_timeout = Duration::ZERO);
        refused("max_frame", |c| c.limits.max_frame = 1023);
        refused("max_frame", |c| c.limits.max_frame = 1 << 24);
        refused("max_message", |c| c.limits.max_message = c.limits.max_frame as usize - 1);
        refused("max_message", |c| (c.limits.max_frame, c.limits.max_message) = (1024, (64 << 20) + 1));
        refused("assembly_bytes", |c| c.limits.assembly_bytes = 2 * c.limits.max_message - 1);
        refused("handshake_timeout", |c| c.limits.handshake_timeout = Duration::ZERO);
        refused("max_control_frames", |c| c.limits.max_control_frames = 39);
        refused("heartbeat", |c| c.limits.heartbeat = Duration::ZERO);
        refused("dead_after", |c| c.limits.dead_after = c.limits.heartbeat);
        refused("pending_handshakes", |c| c.limits.pending_handshakes = 0);
        refused("channels_per_ip", |c| c.limits.channels_per_ip = 0);
        refused("dials_in_flight", |c| c.limits.dials_in_flight = 0);
        refused("keepalive", |c| c.socket.keepalive = Some(Duration::from_millis(999)));
        refused("keepalive", |c| c.socket.keepalive = Some(Duration::from_secs(32_768)));
        refused("user_timeout", |c| c.socket.user_timeout = Some(Duration::from_micros(999)));
        refused("user_timeout", |c| c.socket.user_timeout = Some(Duration::from_millis(1 << 31)));
        refused("send_buffer", |c| c.socket.send_buffer = Some(1 << 31));
        refused("receive_buffer", |c| c.socket.receive_buffer = Some(1 << 31));
        refused("submission_entries", |c| c.ring.submission_entries = 3);
        refused("completion_entries", |c| c.ring.completion_entries = c.ring.submission_entries);
        refused("receive_buffers", |c| c.ring.receive_buffers = 0);
        refused("receive_buffer_size", |c| c.ring.receive_buffer_size = 0);
        refused("receive_buffers", |c| {
            (c.ring.receive_buffers, c.ring.receive_buffer_size) = (256, 16 << 20);
        });
    }
}
