//! The command line: what can be written, and which flags contradict each other. Letters are those of wrk, oha and
//! iperf3, where these agree.

mod backend;
mod tools;
mod workloads;

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use ringlink::units::{parse_duration, parse_size};

use crate::report::files;
use crate::report::threshold::Threshold;
pub(crate) use backend::Backend;
pub(crate) use tools::{CompareFlags, DiffFlags, ReportFlags, ServeFlags, Service};
pub(crate) use workloads::{
    BulkFlags, ConnectFlags, Direction, EchoFlags, FanFlags, FanMode, IdleFlags, MsgFlags, OnLate, SendFrom,
    Verify,
};

const NOTES: &str = "\
Without TARGET (host:port) a workload starts its own far end as a second process, on another processor.
Sizes take k, M or KiB, MiB (powers of two); counts and rates k, M (powers of ten); durations ms, s, m, or seconds.

Exit codes: 0 good, 1 cannot run, 2 usage, 3 not every byte came back right, 4 the measurement is invalid (--strict),
99 a threshold was missed, 130 interrupted (the report is printed all the same).";

/// Load tests for TCP servers and peers: every payload verified, latency from the intended send time, and what both ends
/// cost.
#[derive(Debug, Parser)]
#[command(name = "ringlink-bench", version, after_help = NOTES, max_term_width = 110)]
pub(crate) struct Flags {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Requests that come back: closed loop, or open loop with -R.
    Echo(Box<EchoFlags>),
    /// Messages one way between two nodes, counted and verified by the far end.
    Msg(Box<MsgFlags>),
    /// Streams up, down or both ways; goodput counted at the receiver.
    Bulk(Box<BulkFlags>),
    /// Connections made and closed, over and over.
    Connect(Box<ConnectFlags>),
    /// Connections that do nothing, what each costs, and how the few fare that do something.
    Idle(Box<IdleFlags>),
    /// One hub and many peers: all to one, one to all, and a peer that stops reading.
    Fan(Box<FanFlags>),
    /// Contenders under the same load, in shuffled blocks: median ratios with intervals, and a verdict in words.
    Compare(CompareFlags),
    /// What changed from one result to another.
    Diff(DiffFlags),
    /// One HTML page of results and comparisons.
    Report(ReportFlags),
    /// Serve: a reference, a contender, or a faulty server.
    Serve(ServeFlags),
    /// Check this tester: known stalls and delays found again, faulty servers found out, counts that add up.
    Selftest,
    /// Print the machine and its limits as JSON.
    Env,
}

/// What all workloads have.
#[derive(Clone, Debug, Args)]
pub(crate) struct CommonFlags {
    /// Whom to load: host:port.
    pub(crate) target: Option<String>,
    /// How long to measure.
    #[arg(short, long, default_value = "10s", value_parser = parse_time)]
    pub(crate) duration: Duration,
    /// How long to run before that [default: 2s, 0s with a count].
    #[arg(short, long, value_parser = parse_time)]
    warmup: Option<Duration>,
    /// Threads of the generator.
    #[arg(short, long, default_value = "1", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: u16,
    /// Length of the intervals of the report, at least 1ms.
    #[arg(short, long, default_value = "1s", value_parser = parse_interval)]
    pub(crate) interval: Duration,
    /// How long what is under way at the end may take to arrive.
    #[arg(long, default_value = "5s", value_parser = parse_time)]
    pub(crate) timeout: Duration,
    /// Processors: cli=1,srv=0, each optional [default: apart, where the far end is ours and there are two].
    #[arg(long, value_name = "END=CPU,…", default_value = "auto")]
    pub(crate) pin: Pin,
    /// Loops of the far end, if it is ours and made of ringlink.
    #[arg(long, value_name = "N", default_value = "1", conflicts_with = "target", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) loops: u16,
    /// Loops of ringlink, at either end, look for work so long before they sleep.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_time)]
    pub(crate) busy_poll: Duration,
    /// Makes payloads, sizes and arrivals.
    #[arg(long, default_value = "1")]
    pub(crate) seed: u64,
    /// The process of TARGET, if it is on this machine: what it costs is reported.
    #[arg(long, value_name = "PID", requires = "target")]
    pub(crate) target_pid: Option<u32>,
    /// Let small segments wait to be joined (Nagle).
    #[arg(long)]
    pub(crate) delay: bool,
    /// The congestion control of the connections, as in cubic [default: the system's].
    #[arg(short = 'C', long, value_name = "NAME")]
    pub(crate) congestion: Option<String>,
    /// Fail with 99 unless it holds: p99<2ms, rate>50k, max<10ms, cpu<5us (of the server, for each operation).
    #[arg(long, value_name = "TEST")]
    pub(crate) threshold: Vec<Threshold>,
    /// Fail with 4 when the measurement is invalid.
    #[arg(long)]
    pub(crate) strict: bool,
    /// No progress on standard error.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputFlags {
    /// Write the result as JSON, also when it failed. For this and the other files `-` is standard output, instead of
    /// the text.
    #[arg(short = 'J', long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// One JSON object for each line on standard output while it runs, instead of the text: start, interval, end.
    #[arg(long)]
    pub(crate) json_stream: bool,
    /// Write the intervals as CSV.
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Write the latency's percentiles in HdrHistogram's format.
    #[arg(long, value_name = "FILE")]
    pub(crate) hgrm: Option<PathBuf>,
}

impl OutputFlags {
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        [self.json.as_deref(), self.csv.as_deref(), self.hgrm.as_deref()].into_iter().flatten()
    }

    /// True when the text is what goes to standard output.
    pub(crate) fn is_text_shown(&self) -> bool {
        !self.json_stream && !self.files().any(files::is_stdout)
    }
}

/// Which processor each end runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pin {
    pub(crate) is_auto: bool,
    pub(crate) client: Option<usize>,
    pub(crate) server: Option<usize>,
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut pin = Self::default();
        match text {
            "auto" => pin.is_auto = true,
            "none" => {}
            _ => {
                for part in text.split(',') {
                    let (end, processor) =
                        part.split_once('=').ok_or("it is written cli=1,srv=0, or none")?;
                    let processor = processor.parse().map_err(|_| "a processor is a number")?;
                    match end {
                        "cli" => pin.client = Some(processor),
                        "srv" => pin.server = Some(processor),
                        _ => return Err("the ends are cli and srv".into()),
                    }
                }
            }
        }
        Ok(pin)
    }
}

impl Flags {
    /// The flags of this process; help, and what is wrong with them, end it.
    pub(crate) fn of_process() -> Self {
        let flags = Self::try_parse().and_then(Self::checked);
        flags.unwrap_or_else(|error| error.exit())
    }

    fn checked(self) -> Result<Self, clap::Error> {
        let contradiction = match &self.command {
            Command::Echo(echo) => echo.check(),
            Command::Msg(msg) => msg.check(),
            Command::Bulk(bulk) => bulk.check(),
            Command::Connect(connect) => connect.check(),
            Command::Idle(idle) => idle.check(),
            Command::Fan(fan) => fan.check(),
            Command::Serve(serve) => serve.check(),
            Command::Compare(compare) => compare.check(),
            Command::Diff(_) | Command::Report(_) | Command::Selftest | Command::Env => Ok(()),
        };
        match contradiction {
            Ok(()) => Ok(self),
            Err(why) => Err(Self::command().error(ErrorKind::ArgumentConflict, why)),
        }
    }
}

impl CommonFlags {
    /// So many operations are so many operations: none are before them unless that is asked for.
    pub(crate) fn warmup(&self, ends_by_count: bool) -> Duration {
        let default = if ends_by_count { Duration::ZERO } else { Duration::from_secs(2) };
        self.warmup.unwrap_or(default)
    }

    /// What contradicts what, for a generator that is ringlink or not, and a far end if it is ours.
    fn check(&self, connections: usize, on_ringlink: bool, with: Backend) -> Result<(), String> {
        let far_is_node = self.target.is_none() && with.driver().is_some();
        if self.loops > 1 && !far_is_node {
            return Err(format!("'--loops' is for a far end of ringlink, not of {with}"));
        }
        if !self.busy_poll.is_zero() && !on_ringlink && !far_is_node {
            return Err("'--busy-poll' needs ringlink at one end: neither is".into());
        }
        let threads = usize::from(self.threads);
        if connections < threads {
            return Err(format!("'--threads {threads}' are more than the {connections} connections"));
        }
        if self.pin.client.is_some() && threads > 1 {
            return Err("'--pin cli=' is for one thread".into());
        }
        if self.pin.server.is_some() && self.target.is_some() {
            return Err("'--pin srv=' is for a far end of ours: TARGET runs already".into());
        }
        let to_stdout = self.output.files().filter(|path| files::is_stdout(path)).count();
        if to_stdout + usize::from(self.output.json_stream) > 1 {
            return Err(
                "only one of '--json-stream', '--json', '--csv' and '--hgrm' can be standard output".into()
            );
        }
        Ok(())
    }

    /// For loads that tell no latency.
    fn check_without_latency(&self) -> Result<(), String> {
        if self.output.hgrm.is_some() {
            return Err("'--hgrm' is for loads that tell latencies: this one does not".into());
        }
        if let Some(threshold) = self.threshold.iter().find(|threshold| threshold.is_of_latency()) {
            return Err(format!("'--threshold {threshold}' is of a latency, and this load tells none"));
        }
        Ok(())
    }

    /// The address of TARGET.
    pub(crate) fn resolve(&self) -> anyhow::Result<Option<SocketAddr>> {
        use anyhow::Context as _;
        let Some(target) = &self.target else { return Ok(None) };
        let mut found = target.to_socket_addrs().with_context(|| format!("cannot find {target}"))?;
        found.next().with_context(|| format!("{target} has no address")).map(Some)
    }
}

/// A number of things: `k` is a thousand.
pub(crate) fn parse_count(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1e3),
        None => text.strip_suffix('M').map_or((text, 1.0), |digits| (digits, 1e6)),
    };
    let is_plain = digits.chars().all(|c| c.is_ascii_digit() || c == '.');
    let number = digits.parse::<f64>().ok().filter(|_| is_plain).map(|number| (number * factor).round());
    let counted = number.filter(|n| (1.0..=1e15).contains(n)).map(|n| n as u64);
    counted.ok_or_else(|| "it is a number above zero, as in 500, 50k or 1.5M".into())
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match parse_count(text)? {
        rate @ 1..=100_000_000 => Ok(rate as f64),
        _ => Err("a rate is at most 100M".into()),
    }
}

fn parse_piece(text: &str) -> Result<usize, String> {
    match parse_size(text)? {
        size @ 1..=65_520 => Ok(size),
        _ => Err("it is 1 byte to 65520".into()),
    }
}

fn parse_connections(text: &str) -> Result<usize, String> {
    match parse_count(text)? {
        count @ 1..=1_000_000 => Ok(usize::try_from(count).expect("it is at most a million")),
        _ => Err("there can be a million connections".into()),
    }
}

/// Plain numbers are seconds, as load testers have it.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=1e6).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        Ok(_) => Err("it is 0 to 1000000 seconds".into()),
        Err(_) => parse_duration(text),
    }
}

/// Each interval is a row of the report, and a look at both ends.
fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_time(text)?;
    if interval < Duration::from_millis(1) { Err("it is at least 1ms".into()) } else { Ok(interval) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(line: &str, why: &str) {
        let words = ["ringlink-bench"].into_iter().chain(line.split_whitespace());
        let error = Flags::try_parse_from(words).and_then(Flags::checked).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}: {error}");
        assert!(error.to_string().contains(why), "{line}: {error}");
    }

    #[test]
    fn clap_finds_nothing_wrong_with_the_flags() {
        Flags::command().debug_assert();
    }

    #[test]
    fn contradictions_are_usage_errors() {
        refused("echo -d 5s -n 100", "--count");
        refused("echo --arrival poisson", "--rate");
        refused("echo -c 2 -t 3", "--threads 3");
        refused("echo --target-pid 5", "TARGET");
        refused("echo h:1 --pin srv=0", "TARGET runs already");
        refused("echo -s 1M -P 16", "2 MiB");
        refused("echo --json - --json-stream", "standard output");
        refused("echo --csv - --hgrm -", "standard output");
        refused("compare --json - --markdown -", "standard output");
        refused("serve --with tokio --faulty pad", "--faulty");
        refused("serve msg --with tokio-uring", "tokio-uring");
        refused("echo h:1 --with tokio", "--with");
        refused("echo h:1 --loops 2", "--loops");
        refused("echo --with tokio --loops 2", "--loops");
        refused("echo h:1 --engine epoll --busy-poll 50us", "--busy-poll");
        refused("msg --with threads --from thread", "--from");
        refused("msg --with tokio --busy-poll 50us", "--busy-poll");
        refused("bulk --dir both --verify off", "--verify");
        refused("connect --sources 4", "--engine epoll");
        refused("connect --hello --with tokio", "--hello");
        refused("connect --hello --with-rtt", "--hello");
        refused("connect --hello --close rst", "--close rst");
        refused("connect --hello -s 9", "--size");
        refused("connect --sources 255 --engine epoll", "--sources");
        refused("msg --hgrm x", "--hgrm");
        refused("bulk --threshold p99<1ms", "p99<1ms");
        refused("fan --mode in --threshold max<1ms", "max<1ms");
        refused("fan -c 2 --slow 1", "--slow");
        refused("fan --mode in --slow 1", "--slow");
        refused("fan --mode in --window 4", "--window");
        refused("bulk h:1 --verify off", "TARGET runs already");
        refused("fan --with tokio", "--with");
        refused("idle -c 5 --active 6", "--active");
        refused("fan --slow 18446744073709551615", "--slow");
        refused("echo -i 0", "at least 1ms");
        refused("echo -i 999us", "at least 1ms");
        refused("echo --threshold p99", "p99<2ms");
    }

    #[test]
    fn counts_and_times_are_read_as_load_testers_write_them() {
        assert_eq!(parse_count("50k"), Ok(50_000));
        assert_eq!(parse_count("2M"), Ok(2_000_000));
        assert_eq!(parse_count("1.5k"), Ok(1500));
        assert_eq!(parse_time("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_time("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_time("20ms"), Ok(Duration::from_millis(20)));
        for text in ["", "0", "-1", "k", "1G", "1e5", "inf"] {
            assert!(parse_count(text).is_err(), "{text}");
        }
        let pin = Pin { is_auto: false, client: Some(1), server: Some(0) };
        assert_eq!("cli=1,srv=0".parse(), Ok(pin));
    }
}
