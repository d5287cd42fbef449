//! The command line: what can be written (clap's derive), what it means for a node, and which flags contradict each
//! other. The flags that are fields of the library's settings are in `flags/settings.rs`, what ranges and buffers are in
//! `units.rs`; `run.rs` and `demo.rs` get only what makes sense.

mod settings;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use ringlink::units::parse_duration;
use ringlink::{Address, DriverKind, Mode, RingOptions};

use crate::units::{Buffers, Channels, parse_seconds};
use settings::{LimitFlags, SocketFlags};

const EXAMPLES: &str = "\
Examples:
  ringlink demo
      Two nodes in one process exchange verified bytes for three seconds.
  ringlink run --listen 0.0.0.0:7000 --service pipe
  ringlink run --listen none --dial HOST:7000 --service pipe
      Two nodes, linked again whenever one was away: each line typed on either side is printed on the other.
  ringlink run --listen 0.0.0.0:7000 --mode stream --service echo --loops 2
      Echo bytes on every interface, on two threads. Try it with: nc HOST 7000";

const NOTES: &str = "\
ADDR is host:port, :port, host or unix:/path; no port means 10000, port 0 any free one.
Sizes take k, M, G or KiB, MiB, GiB (powers of two). Durations need a unit: 50us, 5s, 1m.

Standard output has one line `listening tcp 127.0.0.1:10000` for each listener, and what the service prints;
logs go to standard error, filtered by RUST_LOG (as in RUST_LOG=ringlink=debug).
SIGTERM or SIGINT stops the node after what is queued is sent; a second one stops it now.

Exit codes: 0 clean, 1 failed, 2 usage, 4 io_uring is not to be had here, 70 stopped with memory leaked on purpose.";

/// A TCP peer node on io_uring.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{NOTES}"), max_term_width = 110)]
pub(crate) struct Flags {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Link two nodes on loopback, exchange verified messages both ways, and print what happened.
    Demo(DemoFlags),
    /// Run a node: listen, dial, and serve every channel.
    #[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{NOTES}"))]
    Run(Box<RunFlags>),
    /// Look at what this machine allows a node, and how to mend what is missing. Exits with 0 when a node runs well, 1
    /// when it runs with less, 4 when it cannot run.
    Doctor(DoctorFlags),
}

#[derive(Debug, Args)]
pub(crate) struct DoctorFlags {
    /// For programs.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoFlags {
    /// How long both nodes send.
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = parse_seconds)]
    pub(crate) seconds: Duration,
    /// What travels between the nodes.
    #[arg(long, value_enum, default_value_t = ModeFlag::Message)]
    mode: ModeFlag,
    /// What the nodes run on. `auto`: the native driver where it works, else tokio-uring.
    #[arg(long, value_enum, default_value_t = DriverFlag::Auto)]
    driver: DriverFlag,
}

#[derive(Debug, Args)]
pub(crate) struct RunFlags {
    /// Listen here; may be given more than once [default: 127.0.0.1:10000]. `none`: only dial.
    #[arg(long, value_name = "ADDR")]
    listen: Vec<Listen>,
    /// Keep a link to the node at this address: dial it again whenever it is away. May be given more than once.
    #[arg(long, value_name = "ADDR")]
    pub(crate) dial: Vec<Address>,
    /// What is done with the channels.
    #[arg(long, value_enum, default_value_t = Service::Echo)]
    pub(crate) service: Service,
    /// What travels on the channels.
    #[arg(long, value_enum, default_value_t = ModeFlag::Message)]
    mode: ModeFlag,
    /// The network's name: nodes of different networks refuse each other.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(crate) network: String,
    /// Keep the node's id here, in a file made with mode 0600 when it is missing [default: a new id for each start].
    #[arg(long, value_name = "PATH")]
    pub(crate) id_file: Option<PathBuf>,
    /// What the node calls itself to its peers [default: ringlink and its version].
    #[arg(long, value_name = "TEXT")]
    pub(crate) agent: Option<String>,
    /// With --service pipe, begin each printed message with the first 8 digits of its sender's id.
    #[arg(long)]
    pub(crate) from: bool,
    /// The range of channel ids: the first, and how many there may be.
    #[arg(long, value_name = "START:SIZE", default_value = "0:16384")]
    pub(crate) channels: Channels,
    /// How long what is queued may take to be sent when the node is stopped.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub(crate) grace: Duration,
    /// How logs are written to standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    #[command(flatten)]
    pub(crate) loops: LoopFlags,
    #[command(flatten)]
    pub(crate) limits: LimitFlags,
    #[command(flatten)]
    pub(crate) socket: SocketFlags,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Loops")]
pub(crate) struct LoopFlags {
    /// Threads, each with its own ring and its share of the channels.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) loops: u16,
    /// What the loops run on. `auto`: the native driver where it works, else tokio-uring.
    #[arg(long, value_enum, default_value_t = DriverFlag::Auto)]
    driver: DriverFlag,
    /// Bind each loop to a processor: one number for each, in the order of the loops.
    #[arg(long, value_name = "CPU,…", value_delimiter = ',')]
    pub(crate) pin: Vec<usize>,
    /// Look for work this long before sleeping, as 200us: more than a round trip takes without. Costs processor time,
    /// saves microseconds.
    #[arg(long, value_name = "DURATION", default_value = "0us", value_parser = parse_duration)]
    pub(crate) busy_poll: Duration,
    /// Receive buffers of each loop, and the size of each [default: 256x64KiB].
    #[arg(long, value_name = "COUNTxSIZE")]
    receive_buffers: Option<Buffers>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Service {
    /// Send everything back.
    Echo,
    /// Count and drop it.
    Sink,
    /// Standard input to every channel, every channel to standard output.
    Pipe,
    /// Verify and count the messages of `ringlink-bench msg`, and tell it how many there were.
    Bench,
}

/// The modes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeFlag {
    /// Messages between ringlink nodes.
    Message,
    /// Bytes as they come, to speak with any TCP program.
    Stream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object for each line.
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DriverFlag {
    Auto,
    Uring,
    TokioUring,
}

#[derive(Clone, Debug, PartialEq)]
enum Listen {
    None,
    At(Address),
}

impl Flags {
    /// The flags of this process; help, and what is wrong with them, end it.
    pub(crate) fn of_process() -> Self {
        let flags = Self::try_parse().and_then(Self::checked);
        flags.unwrap_or_else(|error| error.exit())
    }

    fn checked(self) -> Result<Self, clap::Error> {
        if let Command::Run(run) = &self.command
            && let Err(contradiction) = run.check()
        {
            let mut command = Self::command();
            command.build();
            let command = command.find_subcommand_mut("run").expect("derived from Command::Run");
            return Err(command.error(ErrorKind::ArgumentConflict, contradiction));
        }
        Ok(self)
    }
}

impl RunFlags {
    /// Where to listen; nowhere for `--listen none`.
    pub(crate) fn listen(&self) -> Vec<Address> {
        if self.listen.is_empty() {
            return vec![Address::Host("127.0.0.1".to_owned(), ringlink::DEFAULT_PORT)];
        }
        let at = |listen: &Listen| match listen {
            Listen::None => None,
            Listen::At(address) => Some(address.clone()),
        };
        self.listen.iter().filter_map(at).collect()
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode.into()
    }

    fn check(&self) -> Result<(), String> {
        if self.listen.contains(&Listen::None) {
            if self.listen.len() > 1 {
                return Err("'--listen none' cannot be used with another '--listen'".into());
            }
            if self.dial.is_empty() {
                return Err("'--listen none' needs a '--dial ADDR': this node would have no channel".into());
            }
        }
        let (loops, pins) = (usize::from(self.loops.loops), self.loops.pin.len());
        if pins != 0 && pins != loops {
            return Err(format!(
                "'--pin' names {pins} processors for '--loops {loops}'; name one for each loop"
            ));
        }
        if (self.channels.size as usize) < loops {
            return Err(format!(
                "'--channels {}' has too few for '--loops {loops}'; each loop needs one",
                self.channels
            ));
        }
        if self.mode == ModeFlag::Stream
            && let Some(flag) = self.message_flag()
        {
            return Err(format!("'{flag}' is about messages: it cannot be used with '--mode stream'"));
        }
        if self.from && (self.service, self.mode) != (Service::Pipe, ModeFlag::Message) {
            return Err("'--from' needs '--service pipe' and messages: bytes have no sender's id".into());
        }
        if (self.service, self.mode) == (Service::Bench, ModeFlag::Stream) {
            return Err("'--service bench' counts messages: it cannot be used with '--mode stream'".into());
        }
        let dials = self.dial.len();
        if (self.channels.size as usize) < dials {
            return Err(format!("'--channels {}' has too few for {dials} times '--dial'", self.channels));
        }
        Ok(())
    }

    /// A flag that was given and means nothing in stream mode.
    fn message_flag(&self) -> Option<&'static str> {
        let own = [
            (!self.network.is_empty(), "--network"),
            (self.id_file.is_some(), "--id-file"),
            (self.agent.is_some(), "--agent"),
        ];
        own.into_iter().chain(self.limits.of_messages()).find_map(|(is_given, flag)| is_given.then_some(flag))
    }
}

impl DemoFlags {
    pub(crate) fn mode(&self) -> Mode {
        self.mode.into()
    }

    pub(crate) fn driver(&self) -> DriverKind {
        self.driver.into()
    }
}

impl From<DriverFlag> for DriverKind {
    fn from(flag: DriverFlag) -> Self {
        match flag {
            DriverFlag::Auto => Self::Auto,
            DriverFlag::Uring => Self::Uring,
            DriverFlag::TokioUring => Self::TokioUring,
        }
    }
}

impl From<ModeFlag> for Mode {
    fn from(flag: ModeFlag) -> Self {
        match flag {
            ModeFlag::Message => Self::Message,
            ModeFlag::Stream => Self::Stream,
        }
    }
}

impl LoopFlags {
    pub(crate) fn driver(&self) -> DriverKind {
        self.driver.into()
    }

    pub(crate) fn set_ring(&self, ring: &mut RingOptions) {
        if let Some(Buffers { count, size }) = self.receive_buffers {
            (ring.receive_buffers, ring.receive_buffer_size) = (count, size);
        }
    }
}

impl FromStr for Listen {
    type Err = ringlink::ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" { Ok(Self::None) } else { text.parse().map(Self::At) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringlink::{Limits, SocketOptions};

    fn flags(line: &str) -> Result<RunFlags, clap::Error> {
        let words = ["ringlink", "run"].into_iter().chain(line.split_whitespace());
        match Flags::try_parse_from(words).and_then(Flags::checked)?.command {
            Command::Run(flags) => Ok(*flags),
            Command::Demo(_) | Command::Doctor(_) => unreachable!("the line begins with run"),
        }
    }

    /// The line is a usage error which names the flag and says `why`.
    #[track_caller]
    fn refused(line: &str, flag: &str, why: &str) {
        let error = flags(line).map(|_| ()).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.exit_code(), 2, "{line}: {text}");
        assert!(text.contains(flag) && text.contains(why), "{line}: {text}");
    }

    #[test]
    fn clap_finds_nothing_wrong_with_the_flags() {
        Flags::command().debug_assert();
    }

    #[test]
    fn without_flags_a_node_echoes_messages_on_the_default_port() {
        let run = flags("").unwrap();
        assert_eq!(run.listen(), ["127.0.0.1:10000".parse().unwrap()]);
        assert_eq!((run.service, run.mode()), (Service::Echo, Mode::Message));
        assert_eq!(run.channels, Channels { start: 0, size: 16_384 });
        let (mut limits, mut socket, mut ring) =
            (Limits::default(), SocketOptions::default(), RingOptions::default());
        run.limits.set(&mut limits);
        run.socket.set(&mut socket);
        run.loops.set_ring(&mut ring);
        assert_eq!((limits, socket, ring), Default::default());
    }

    #[test]
    fn flags_given_more_than_once_add_up() {
        let run = flags("--listen :1 --listen unix:/x --dial a --dial b:2 --loops 2 --pin 3,5").unwrap();
        assert_eq!(run.listen(), [":1".parse().unwrap(), "unix:/x".parse().unwrap()]);
        assert_eq!(run.dial, ["a:10000".parse().unwrap(), "b:2".parse().unwrap()]);
        assert_eq!(run.loops.pin, [3, 5]);
    }

    #[test]
    fn listen_none_only_dials() {
        assert_eq!(flags("--listen none --dial a").unwrap().listen(), []);
        refused("--listen none", "--listen none", "--dial");
        refused("--listen none --dial a --listen :1", "--listen none", "another");
        refused("--listen none --dial a --listen none", "--listen none", "another");
    }

    #[test]
    fn contradictions_and_nonsense_are_usage_errors_that_name_the_flag() {
        refused("--pin 0,1", "--pin", "one for each loop");
        refused("--loops 2 --pin 0", "--pin", "--loops 2");
        refused("--loops 0", "--loops", "0");
        refused("--loops 4 --channels 0:3", "--channels 0:3", "--loops 4");
        refused("--channels 0:1 --dial a --dial b", "--channels 0:1", "--dial");
        refused("--service bench --mode stream", "--service bench", "messages");
        refused("--channels 5", "--channels", "START:SIZE");
        refused("--listen a:b", "--listen", "the port is not a number");
        refused("--dial unix:", "--dial", "the path is empty");
        refused("--grace 5", "--grace", "it needs a unit");
        refused("--outbox-max 4X", "--outbox-max", "no unit of size");
        refused("--receive-buffers 3x16KiB", "--receive-buffers", "power of two");
        refused("--mode carrier-pigeon", "--mode", "stream");
        refused("--nodelay maybe", "--nodelay", "off");
        for flag in ["--network a", "--id-file a", "--agent a", "--max-message 2M", "--heartbeat 1s"] {
            refused(&format!("--mode stream {flag}"), flag.split(' ').next().unwrap(), "--mode stream");
        }
        refused("--from", "--from", "--service pipe");
        refused("--from --service pipe --mode stream", "--from", "messages");
        refused("--no-such-flag", "--no-such-flag", "unexpected");
    }

    #[test]
    fn limits_and_options_arrive_where_they_belong() {
        let line = "--outbox-max 64k --max-message 1GiB --idle-timeout 0s --nodelay off --keepalive 0s --send-buffer 4k \
            --congestion bbr --receive-buffers 64x4KiB";
        let run = flags(line).unwrap();
        let (mut limits, mut socket, mut ring) =
            (Limits::default(), SocketOptions::default(), RingOptions::default());
        run.limits.set(&mut limits);
        run.socket.set(&mut socket);
        run.loops.set_ring(&mut ring);
        assert_eq!((limits.outbox_max, limits.outbox_high, limits.outbox_low), (65_536, 16_384, 4096));
        assert_eq!((limits.max_message, limits.assembly_bytes), (1 << 30, 2 << 30));
        assert_eq!(limits.idle_timeout, Some(Duration::ZERO));
        assert_eq!((socket.nodelay, socket.keepalive, socket.send_buffer), (false, None, Some(4096)));
        assert_eq!(socket.user_timeout, SocketOptions::default().user_timeout);
        assert_eq!(socket.congestion.as_deref(), Some("bbr"));
        assert_eq!((ring.receive_buffers, ring.receive_buffer_size), (64, 4096));
    }
}
