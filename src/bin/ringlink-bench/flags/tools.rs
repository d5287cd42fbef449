//! The flags of what is no workload: serve, compare, diff, report.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ringlink::DriverKind;

use super::{Pin, parse_connections, parse_time};
use crate::report::diff::Change;
use crate::serve::Fault;

#[derive(Clone, Debug, Args)]
pub(crate) struct CompareFlags {
    /// A TOML file with loads and contenders.
    pub(crate) suite: Option<PathBuf>,
    /// A load, as in 'echo -c 64 -s 64' or 'msg -s 16'; may be given more than once [default: echo].
    #[arg(long, value_name = "LOAD")]
    pub(crate) run: Vec<String>,
    /// Contenders that are built in; the first is the baseline. A suite's own come instead.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "ringlink,ringlink-tokio-uring,tokio,threads"
    )]
    pub(crate) against: Vec<Backend>,
    /// Blocks; each contender runs once in each, the baseline twice [default: the suite's, or 9].
    #[arg(long, value_name = "N")]
    pub(crate) blocks: Option<usize>,
    /// How long each run is measured.
    #[arg(short, long, default_value = "4s", value_parser = parse_time)]
    pub(crate) duration: Duration,
    /// How long it runs before that.
    #[arg(short, long, default_value = "1s", value_parser = parse_time)]
    pub(crate) warmup: Duration,
    /// Shuffles the blocks, and makes the payloads.
    #[arg(long, default_value = "1")]
    pub(crate) seed: u64,
    /// Processors: cli=1,srv=0 [default: apart, where there are two].
    #[arg(long, value_name = "END=CPU,…", default_value = "auto")]
    pub(crate) pin: Pin,
    /// No line for each run.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Write the comparison as JSON.
    #[arg(short = 'J', long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DiffFlags {
    /// The result of --json before.
    pub(crate) old: PathBuf,
    /// The result of --json after.
    pub(crate) new: PathBuf,
    /// Fail with 99 when a figure grew by more: cpu_ns_per_op>+5%; with < and a negative share, when it fell.
    #[arg(long, value_name = "TEST")]
    pub(crate) fail: Vec<Change>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ReportFlags {
    /// What --json wrote: results, comparisons.
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Where the page goes.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ServeFlags {
    /// What is served.
    #[arg(value_enum, default_value_t = Service::Echo)]
    pub(crate) service: Service,
    /// Where to listen.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    /// What serves.
    #[arg(long, value_enum, default_value_t = Backend::Ringlink)]
    pub(crate) with: Backend,
    /// Be wrong: pad, corrupt, dup, short, reorder, stall:1s, delay:1ms, close or mute. Echo on ringlink only.
    #[arg(long, value_name = "HOW")]
    pub(crate) faulty: Option<Fault>,
    /// Threads; ringlink only.
    #[arg(short, long, default_value = "1")]
    pub(crate) threads: usize,
    /// Makes the stream of sink and source.
    #[arg(long, default_value = "1")]
    pub(crate) seed: u64,
    /// Connections there may be.
    #[arg(short, long, default_value = "16384", value_parser = parse_connections)]
    pub(crate) connections: usize,
    /// The congestion control of the connections; ringlink only.
    #[arg(short = 'C', long, value_name = "NAME")]
    pub(crate) congestion: Option<String>,
    /// End with standard input, and answer names of counters there.
    #[arg(long)]
    pub(crate) supervised: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Service {
    /// Send everything back.
    Echo,
    /// Verify and count messages, and say how many there were when asked.
    Msg,
    /// Verify a stream, and say how far it is.
    Sink,
    /// Send a stream.
    Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// ringlink, on its own driver.
    Ringlink,
    /// ringlink, on its driver that is tokio-uring's.
    RinglinkTokioUring,
    /// tokio, on one thread.
    Tokio,
    /// A blocking thread for each connection.
    Threads,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ringlink => "ringlink",
            Self::RinglinkTokioUring => "ringlink-tokio-uring",
            Self::Tokio => "tokio",
            Self::Threads => "threads",
        })
    }
}

impl Backend {
    /// The driver of a node; none for what is no node.
    pub(crate) fn driver(self) -> Option<DriverKind> {
        match self {
            Self::Ringlink => Some(DriverKind::Uring),
            Self::RinglinkTokioUring => Some(DriverKind::TokioUring),
            Self::Tokio | Self::Threads => None,
        }
    }
}

impl ServeFlags {
    pub(super) fn check(&self) -> Result<(), String> {
        let is_ringlink = self.with.driver().is_some();
        if self.faulty.is_some() && !(is_ringlink && self.service == Service::Echo) {
            return Err("'--faulty' is for an echo on ringlink".into());
        }
        if !is_ringlink && matches!(self.service, Service::Sink | Service::Source) {
            return Err("sink and source are on ringlink".into());
        }
        if !is_ringlink && (self.threads != 1 || self.congestion.is_some()) {
            return Err("'--threads' and '--congestion' are for ringlink".into());
        }
        Ok(())
    }
}
