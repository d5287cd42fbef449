//! `ringlink run`: a node with one of the library's services, from its flags to its exit.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ringlink::service::{Bench, Echo, Pipe, Sink, Tally};
use ringlink::{Endpoint, Handler, Limits, Node};

use crate::flags::{RunFlags, Service};
use crate::{catch_signals, on_signals, start_logs};

/// Runs the node until it ends; true when it ended well.
pub(crate) fn run(flags: &RunFlags) -> anyhow::Result<bool> {
    start_logs(flags.log_format, "info");
    match flags.service {
        Service::Echo => serve(flags, |_| Echo, |_| Ok(()), |_| {}),
        Service::Sink => sink(flags),
        Service::Pipe => pipe(flags),
        Service::Bench => serve(flags, |_| Bench::default(), |_| Ok(()), |_| {}),
    }
}

fn sink(flags: &RunFlags) -> anyhow::Result<bool> {
    let tally = Arc::new(Tally::default());
    let (counted, print) = (Arc::clone(&tally), io::stderr().is_terminal());
    let make = move |loop_index| Sink::new(Arc::clone(&counted), print && loop_index == 0);
    let ended = serve(flags, make, |_| Ok(()), |_| {});
    let (bytes, messages, channels) = (tally.bytes(), tally.messages(), tally.channels());
    tracing::info!(bytes, messages, channels, "received in all");
    ended
}

fn pipe(flags: &RunFlags) -> anyhow::Result<bool> {
    let mut limits = Limits::default();
    flags.limits.set(&mut limits);
    let pipe = if flags.from { Pipe::new(&limits).with_names() } else { Pipe::new(&limits) };
    let (handler, connected, stopped) = (pipe.clone(), pipe.clone(), pipe.clone());
    let mode = flags.mode();
    let connect = move |node: &Node| {
        // Files, not std's handles: their buffers would hold back what is a line only in part.
        let input = io::stdin().as_fd().try_clone_to_owned().context("cannot use standard input")?;
        let output = io::stdout().as_fd().try_clone_to_owned().context("cannot use standard output")?;
        let input = BufReader::with_capacity(64 << 10, File::from(input));
        connected.connect(&node.handle(), mode, input, File::from(output)).context("cannot start a thread")
    };
    let ended = serve(flags, move |_| handler.clone(), connect, move |grace| stopped.hurry(grace))?;
    pipe.flush()?;
    Ok(ended)
}

/// Starts a node, announces its listeners, calls `on_ready`, and waits for its end. `on_signal` hears how much time
/// is left when a signal stops the node.
fn serve<H: Handler>(
    flags: &RunFlags,
    make: impl Fn(usize) -> H + Send + Sync + 'static,
    on_ready: impl FnOnce(&Node) -> anyhow::Result<()>,
    on_signal: impl Fn(Duration) + Send + 'static,
) -> anyhow::Result<bool> {
    let mut builder = Node::builder()
        .mode(flags.mode())
        .channels(flags.channels.start, flags.channels.size)
        .loops(usize::from(flags.loops.loops))
        .driver(flags.loops.driver())
        .pin(flags.loops.pin.clone())
        .busy_poll(flags.loops.busy_poll)
        .limits(|limits| flags.limits.set(limits))
        .socket(|socket| flags.socket.set(socket))
        .ring(|ring| flags.loops.set_ring(ring));
    for address in flags.listen() {
        builder = builder.listen(address);
    }
    for address in &flags.dial {
        builder = builder.peer(address.clone());
    }
    if let Some(path) = &flags.id_file {
        builder = builder.id_file(path);
    }
    if let Some(agent) = &flags.agent {
        builder = builder.agent(agent);
    }
    let node = builder.network(&flags.network).start(make)?;
    let signals = catch_signals()?; // before that they end the process: looking up a listener's name may take long
    let (handle, grace) = (node.handle(), flags.grace);
    on_signals(signals, move |first| {
        let grace = if first { grace } else { Duration::ZERO };
        handle.shutdown(grace);
        on_signal(grace);
    })?;
    announce(node.local_addrs());
    on_ready(&node)?;
    node.join()?;
    tracing::info!("the node has ended");
    Ok(true)
}

/// Prints where the node listens, for whoever started it.
fn announce(listeners: &[Endpoint]) {
    let mut lines = String::new();
    for listener in listeners {
        match listener {
            Endpoint::Tcp(address) => lines += &format!("listening tcp {address}\n"),
            Endpoint::Unix(path) => lines += &format!("listening unix {}\n", path.display()),
            other => lines += &format!("listening {other}\n"),
        }
    }
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush()) {
        // The node is of use without a reader of its first lines.
        tracing::warn!(%error, "cannot print where the node listens");
    }
}
