//! The flags of what is no workload: serve, compare, diff, report.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::backend::Backend;
use super::workloads::Verify;
use super::{Pin, parse_connections, parse_time};
use crate::compare::BuiltIn;
use crate::report::diff::Change;
use crate::report::files;
use crate::serve::Fault;

#[derive(Clone, Debug, Args)]
pub(crate) struct CompareFlags {
    /// TOML files with loads and contenders.
    pub(crate) suites: Vec<PathBuf>,
    /// A load, as in 'echo -c 64 -s 64' or 'msg -s 16'; may be given more than once [default: echo].
    #[arg(long, value_name = "LOAD")]
    pub(crate) run: Vec<String>,
    /// Contenders that are built in; the first is the baseline. A suite's own come instead. Beside those of --with there
    /// is iperf3, for bulk, where it is installed.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "ringlink,ringlink-tokio-uring,tokio,tokio-uring,threads"
    )]
    pub(crate) against: Vec<BuiltIn>,
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
    /// Fail with 4 when a contender was not measured, or a run failed.
    #[arg(long)]
    pub(crate) strict: bool,
    /// No line for each run.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Write the comparison as JSON; `-` is standard output, instead of the text.
    #[arg(short = 'J', long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write its ratios as a Markdown table, perhaps to `-`.
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
}

impl CompareFlags {
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        [self.json.as_deref(), self.markdown.as_deref()].into_iter().flatten()
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.files().filter(|path| files::is_stdout(path)).count() > 1 {
            return Err("only one of '--json' and '--markdown' can be standard output".into());
        }
        Ok(())
    }
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
    /// Loops; ringlink only.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) loops: u16,
    /// Look for work so long before sleeping; ringlink only.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_time)]
    pub(crate) busy_poll: Duration,
    /// Whether a sink looks at what it gets.
    #[arg(long, value_enum, default_value_t = Verify::Full)]
    pub(crate) verify: Verify,
    /// Let small segments wait to be joined (Nagle).
    #[arg(long)]
    pub(crate) delay: bool,
    /// Makes the stream of sink and source.
    #[arg(long, default_value = "1")]
    pub(crate) seed: u64,
    /// Connections there may be.
    #[arg(short, long, default_value = "16384", value_parser = parse_connections)]
    pub(crate) connections: usize,
    /// The congestion control of the connections [default: the system's].
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

impl ServeFlags {
    pub(super) fn check(&self) -> Result<(), String> {
        let is_node = self.with.driver().is_some();
        if self.faulty.is_some() && !(is_node && self.service == Service::Echo) {
            return Err("'--faulty' is for an echo on ringlink".into());
        }
        if self.service == Service::Msg && self.with == Backend::TokioUring {
            return Err("'serve msg' is not made of tokio-uring".into());
        }
        if !is_node && (self.loops != 1 || !self.busy_poll.is_zero()) {
            return Err("'--loops' and '--busy-poll' are for ringlink".into());
        }
        if self.verify == Verify::Off && self.service != Service::Sink {
            return Err("'--verify' is for a sink".into());
        }
        Ok(())
    }
}
