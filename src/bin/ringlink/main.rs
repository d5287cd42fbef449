//! The node binary: `ringlink run`, `demo` and `doctor`. Here: what they share (logs, signals, limits) and the exit codes.
//!
//! `flags.rs` and `units.rs` read the command line, `run.rs` is a node with one of the library's services, `demo.rs`
//! two nodes that verify each other's bytes.
#![forbid(unsafe_code)]

mod demo;
mod doctor;
mod flags;
mod run;
mod units;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::thread;

use anyhow::Context as _;
use ringlink::{ConfigError, DriverError, NodeError, StartError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing_subscriber::EnvFilter;

use crate::doctor::Verdict;
use crate::flags::{Command, Flags, LogFormat};

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const UNAVAILABLE: u8 = 4;
/// `EX_SOFTWARE`: memory was leaked on purpose, since the kernel might still have written to it.
const LEAKED: u8 = 70;

fn main() -> ExitCode {
    let command = Flags::of_process().command;
    let limits_at_start = raise_descriptor_limit();
    let ended = match command {
        Command::Demo(flags) => demo::demo(&flags),
        Command::Run(flags) => run::run(&flags),
        Command::Doctor(flags) => match doctor::doctor(&flags, &limits_at_start) {
            Ok(Verdict::Stops) => return ExitCode::from(UNAVAILABLE),
            ended => ended.map(|verdict| verdict == Verdict::Good),
        },
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            // Nobody may be reading: an error that cannot be told still has its exit code.
            drop(writeln!(io::stderr(), "ringlink: {}", text(&error)));
            ExitCode::from(exit_code(&error))
        }
    }
}

/// A setting is named as its flag is: but for the buffers, of which one flag says both, by the same name.
fn text(error: &anyhow::Error) -> String {
    match error.downcast_ref() {
        Some(StartError::Config(ConfigError { setting, why, .. })) => {
            let flag = if *setting == "receive_buffer_size" { "receive_buffers" } else { setting };
            format!("invalid value for '--{}': {why}", flag.replace('_', "-"))
        }
        _ => format!("{error:#}"),
    }
}

/// Each channel takes a descriptor, and the soft limit of most systems is 1024. Returns what the limits were.
fn raise_descriptor_limit() -> Rlimit {
    let at_start = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: at_start.maximum, maximum: at_start.maximum };
    // A sandbox that refuses it leaves a node with fewer channels.
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        drop(writeln!(io::stderr(), "ringlink: cannot raise the limit of descriptors: {error}"));
    }
    at_start
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match (error.downcast_ref(), error.downcast_ref()) {
        (Some(StartError::Driver(DriverError::Unavailable { .. })), _) => UNAVAILABLE,
        (Some(StartError::Config(_)), _) => USAGE,
        (_, Some(NodeError::Driver { error: DriverError::Unavailable { .. }, .. })) => UNAVAILABLE,
        (_, Some(NodeError::Leaked { .. })) => LEAKED,
        _ => FAILED,
    }
}

/// Sends logs to standard error. `level` holds for ringlink where `RUST_LOG` says nothing.
fn start_logs(format: LogFormat, level: &str) {
    let default = format!("warn,ringlink={level}");
    let (filter, wrong) = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Err(_) => (EnvFilter::new(default), None),
        Ok(text) => match EnvFilter::try_new(&text) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new(default), Some(error)),
        },
    };
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // It would panic in a handler when nobody reads standard error any more.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
    if let Some(error) = wrong {
        tracing::warn!(%error, "RUST_LOG is not understood; using the default");
    }
}

/// SIGTERM and SIGINT, caught from now on.
fn catch_signals() -> anyhow::Result<Signals> {
    Signals::new([SIGTERM, SIGINT]).context("cannot catch signals")
}

/// Calls `on_signal` on a thread of its own, with true for the first signal and false for every later one.
fn on_signals(mut signals: Signals, on_signal: impl Fn(bool) + Send + 'static) -> anyhow::Result<()> {
    let wait = move || {
        for (nth, signal) in signals.forever().enumerate() {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
            tracing::info!("{name}: {}", if nth == 0 { "stopping" } else { "stopping now" });
            on_signal(nth == 0);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).context("cannot start a thread")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_named_as_its_flag_is() {
        let start = |ring: fn(&mut ringlink::RingOptions)| {
            let started = ringlink::Node::builder().ring(ring).start(|_| ringlink::service::Echo);
            text(&started.unwrap_err().into())
        };
        let buffers = start(|ring| ring.receive_buffer_size = 32 << 20);
        assert!(buffers.starts_with("invalid value for '--receive-buffers': 33554432 bytes"), "{buffers}");
        let buffers = start(|ring| (ring.receive_buffers, ring.receive_buffer_size) = (32_768, 16 << 20));
        assert!(buffers.starts_with("invalid value for '--receive-buffers': 32768 of"), "{buffers}");
    }

    #[test]
    fn each_end_has_its_exit_code() {
        let unavailable =
            || DriverError::Unavailable { cause: "", remedy: "", error: io::Error::from_raw_os_error(1) };
        let leaked = NodeError::Leaked { loop_index: 0, operations: 1 };
        assert_eq!(exit_code(&StartError::Driver(unavailable()).into()), 4);
        assert_eq!(exit_code(&anyhow::Error::from(leaked).context("while stopping")), 70);
        assert_eq!(exit_code(&NodeError::Driver { loop_index: 0, error: unavailable() }.into()), 4);
        assert_eq!(exit_code(&StartError::Handler(0).into()), 1);
        assert_eq!(exit_code(&anyhow::anyhow!("other")), 1);
    }
}
