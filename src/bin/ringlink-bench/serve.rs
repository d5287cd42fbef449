//! `ringlink-bench serve`: reference servers to be measured against, and faulty ones to be found out.
//!
//! Each says `READY ADDRESS PID` when it listens. With `--supervised` it ends with its standard input, and answers each
//! line there, the name of a counter, with its value.

mod faulty;
mod streams;

use std::io::{self, BufRead as _, Write as _};
use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use ringlink::service::{Bench, Echo};
use ringlink::{Endpoint, Handler, Mode, Node, Stats};

pub(crate) use faulty::Fault;
use faulty::Faulty;
pub(crate) use streams::{Arrivals, PIECE, Progress, TICK};
use streams::{Sink, Source};

use crate::contender;
use crate::environment;
use crate::flags::{Backend, ServeFlags, Service, Verify};

/// Serves until standard input ends (`--supervised`) or a signal ends the process.
pub(crate) fn serve(flags: &ServeFlags) -> anyhow::Result<()> {
    environment::raise_nofile(flags.connections)?;
    match flags.with {
        Backend::Ringlink | Backend::RinglinkTokioUring => serve_node(flags),
        Backend::Tokio => contender::tokio::serve(flags),
        Backend::TokioUring => contender::tokio_uring::serve(flags),
        Backend::Threads => contender::threads::serve(flags),
    }
}

fn serve_node(flags: &ServeFlags) -> anyhow::Result<()> {
    let (seed, verify) = (flags.seed, flags.verify == Verify::Full);
    match (flags.service, flags.faulty) {
        (Service::Echo, None) => node(flags, Mode::Stream, |_| Echo),
        (Service::Echo, Some(fault)) => node(flags, Mode::Stream, move |_| Faulty::new(fault)),
        (Service::Msg, _) => node(flags, Mode::Message, |_| Bench::default()),
        (Service::Sink, _) => node(flags, Mode::Stream, move |_| Sink::new(seed, verify)),
        (Service::Source, _) => node(flags, Mode::Stream, move |_| Source::new(seed)),
    }
}

fn node<H: Handler>(
    flags: &ServeFlags,
    mode: Mode,
    make: impl Fn(usize) -> H + Send + Sync + 'static,
) -> anyhow::Result<()> {
    // All may come before the first has said hello, and a quarter of the channels is never for such.
    let channels = flags.connections + flags.connections.div_ceil(3);
    let channels = u32::try_from(channels).context("too many connections")?;
    let node = Node::builder()
        .mode(mode)
        .driver(flags.with.driver().unwrap_or_default())
        .channels(0, channels)
        .listen(flags.listen)
        .loops(usize::from(flags.loops))
        .busy_poll(flags.busy_poll)
        .limits(|limits| {
            // It is shared out among the loops, and one of them may get all connections.
            let strangers = flags.connections.saturating_mul(usize::from(flags.loops));
            limits.pending_handshakes = limits.pending_handshakes.max(strangers);
            limits.channels_per_ip = limits.channels_per_ip.max(flags.connections);
        })
        .socket(|socket| {
            socket.nodelay = !flags.delay;
            socket.congestion.clone_from(&flags.congestion);
        })
        .start(make)?;
    let Some(Endpoint::Tcp(address)) = node.local_addrs().first() else { bail!("it listens nowhere") };
    ready(*address)?;
    let handle = node.handle();
    if flags.supervised {
        answer(|name| counter(&handle.stats(), name))?;
        node.shutdown(std::time::Duration::ZERO);
    }
    node.join()?;
    Ok(())
}

fn counter(stats: &Stats, name: &str) -> Option<u64> {
    stats.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// Tells whoever waits that the server listens.
pub(crate) fn ready(address: SocketAddr) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "READY {address} {}", std::process::id())?;
    stdout.flush().context("cannot say that the server is ready")
}

/// Answers names of counters with their values until standard input ends; unknown ones with `none`.
pub(crate) fn answer(counter: impl Fn(&str) -> Option<u64>) -> anyhow::Result<()> {
    for name in io::stdin().lock().lines() {
        let value = counter(name?.trim()).map_or_else(|| "none".to_owned(), |value| value.to_string());
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{value}")?;
        stdout.flush()?;
    }
    Ok(())
}
