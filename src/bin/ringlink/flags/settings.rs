//! The flags that are fields of the library's settings: limits and options of the sockets.

use std::time::Duration;

use clap::{Args, ValueEnum};
use ringlink::units::{parse_duration, parse_size};
use ringlink::{Limits, SocketOptions};

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitFlags {
    /// A channel that was above goes on when so much or less is queued [default: 64KiB].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    outbox_low: Option<usize>,
    /// A channel with so much queued is backed up; echo stops reading it [default: 256KiB].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    outbox_high: Option<usize>,
    /// The most that may be queued on a channel [default: 4MiB].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    outbox_max: Option<usize>,
    /// Give up a dial after this long, for each address of a name [default: 10s].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    dial_timeout: Option<Duration>,
    /// How long a closing channel goes on sending what is queued [default: 5s].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    close_timeout: Option<Duration>,
    /// How long a closing channel then waits for its peer to close too [default: 1s].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    linger_timeout: Option<Duration>,
    /// Close a channel without a message, in stream mode a byte, for so long; 0s: never [default: never, in stream mode
    /// 1h].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    idle_timeout: Option<Duration>,
    /// Close a channel whose peer does not take a whole send (256 KiB at most) for so long; 0s: never [default: 1m].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    write_timeout: Option<Duration>,
    /// Commands of other threads that may wait for a loop [default: 65536].
    #[arg(long, value_name = "N")]
    mailbox_commands: Option<usize>,
    /// Bytes sent by other threads that may wait for a loop [default: 16MiB].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    mailbox_bytes: Option<usize>,
    /// Names that may be looked up at once [default: 64].
    #[arg(long, value_name = "N")]
    lookups: Option<usize>,
    /// The longest frame accepted [default: 1MiB].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_frame: Option<usize>,
    /// The longest message accepted or sent [default: 16MiB].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_message: Option<usize>,
    /// The most a loop's channels may hold of messages that are not complete [default: 256MiB].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    assembly_bytes: Option<usize>,
    /// How long a peer's hello may take [default: 5s].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    handshake_timeout: Option<Duration>,
    /// Pings and the like a peer may send in a second, on the average [default: 100].
    #[arg(long, value_name = "N")]
    max_control_frames: Option<u32>,
    /// Ask a peer that was silent for so long whether it lives [default: 5s].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    heartbeat: Option<Duration>,
    /// Take a peer that was silent for so long for dead [default: 15s].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    dead_after: Option<Duration>,
    /// Accepted connections that may be without a hello at once [default: 1024].
    #[arg(long, value_name = "N")]
    pending_handshakes: Option<usize>,
    /// Channels accepted from one IP address; those of this machine do not count [default: 256].
    #[arg(long, value_name = "N")]
    channels_per_ip: Option<usize>,
    /// Dials under way at once [default: 64].
    #[arg(long, value_name = "N")]
    dials_in_flight: Option<usize>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Sockets")]
pub(crate) struct SocketFlags {
    /// Send small segments at once.
    #[arg(long, value_enum, value_name = "SWITCH", default_value_t = Switch::On)]
    nodelay: Switch,
    /// Probe a silent connection after this long; 0s: never [default: 1m].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    keepalive: Option<Duration>,
    /// Give up a connection whose data stays unacknowledged so long; 0s: as the kernel does [default: 20s].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    user_timeout: Option<Duration>,
    /// The kernel's send buffer of each channel [default: tuned by the kernel].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    send_buffer: Option<usize>,
    /// The kernel's receive buffer of each channel [default: tuned by the kernel].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    receive_buffer: Option<usize>,
    /// Connections that may wait to be accepted [default: 4096].
    #[arg(long, value_name = "N")]
    backlog: Option<u32>,
    /// The congestion control, as in bbr [default: the system's].
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

impl LimitFlags {
    /// Whether each of the flags was given that mean nothing in stream mode.
    pub(super) fn of_messages(&self) -> [(bool, &'static str); 9] {
        [
            (self.max_frame.is_some(), "--max-frame"),
            (self.max_message.is_some(), "--max-message"),
            (self.assembly_bytes.is_some(), "--assembly-bytes"),
            (self.handshake_timeout.is_some(), "--handshake-timeout"),
            (self.max_control_frames.is_some(), "--max-control-frames"),
            (self.heartbeat.is_some(), "--heartbeat"),
            (self.dead_after.is_some(), "--dead-after"),
            (self.pending_handshakes.is_some(), "--pending-handshakes"),
            (self.channels_per_ip.is_some(), "--channels-per-ip"),
        ]
    }

    pub(crate) fn set(&self, limits: &mut Limits) {
        set(&mut limits.outbox_max, self.outbox_max);
        // Watermarks that nobody named follow a smaller cap down.
        limits.outbox_high = self.outbox_high.unwrap_or(limits.outbox_high.min(limits.outbox_max / 4).max(1));
        limits.outbox_low = self.outbox_low.unwrap_or(limits.outbox_low.min(limits.outbox_high / 4));
        set(&mut limits.dial_timeout, self.dial_timeout);
        set(&mut limits.close_timeout, self.close_timeout);
        set(&mut limits.linger_timeout, self.linger_timeout);
        limits.idle_timeout = self.idle_timeout.or(limits.idle_timeout);
        set(&mut limits.write_timeout, self.write_timeout);
        set(&mut limits.mailbox_commands, self.mailbox_commands);
        set(&mut limits.mailbox_bytes, self.mailbox_bytes);
        set(&mut limits.lookups, self.lookups);
        set(&mut limits.max_frame, self.max_frame.map(|size| u32::try_from(size).unwrap_or(u32::MAX)));
        set(&mut limits.max_message, self.max_message);
        // What nobody named has room for two of a larger message.
        let room = limits.assembly_bytes.max(limits.max_message.saturating_mul(2));
        limits.assembly_bytes = self.assembly_bytes.unwrap_or(room);
        set(&mut limits.handshake_timeout, self.handshake_timeout);
        set(&mut limits.max_control_frames, self.max_control_frames);
        set(&mut limits.heartbeat, self.heartbeat);
        set(&mut limits.dead_after, self.dead_after);
        set(&mut limits.pending_handshakes, self.pending_handshakes);
        set(&mut limits.channels_per_ip, self.channels_per_ip);
        set(&mut limits.dials_in_flight, self.dials_in_flight);
    }
}

impl SocketFlags {
    pub(crate) fn set(&self, socket: &mut SocketOptions) {
        socket.nodelay = self.nodelay == Switch::On;
        let unless_zero = |duration: Duration| (!duration.is_zero()).then_some(duration);
        set(&mut socket.keepalive, self.keepalive.map(unless_zero));
        set(&mut socket.user_timeout, self.user_timeout.map(unless_zero));
        socket.send_buffer = self.send_buffer;
        socket.receive_buffer = self.receive_buffer;
        set(&mut socket.backlog, self.backlog);
        socket.congestion.clone_from(&self.congestion);
    }
}

fn set<T>(setting: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *setting = value;
    }
}
