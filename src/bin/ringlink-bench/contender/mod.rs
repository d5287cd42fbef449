//! What ringlink is compared with, written as its own documentation would have it written: the same buffers, the same
//! socket options, one thread. Each verifies what ringlink verifies. Not built in are iperf3 and the pairs of a suite.

mod blocks;
pub(crate) mod frames;
pub(crate) mod iperf3;
pub(crate) mod pair;
pub(crate) mod threads;
pub(crate) mod tokio;
pub(crate) mod tokio_uring;

use std::io;
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};

use crate::flags::ServeFlags;
use crate::serve;

/// How often a sender looks whether the run has started.
const GATE: Duration = Duration::from_millis(1);
const ECHO_BUFFER: usize = 16 << 10;
/// What sinks read at once.
const SINK_BUFFER: usize = 128 << 10;
/// That of a ringlink node.
const BACKLOG: i32 = 4096;

/// A socket that listens, with options that accepted ones inherit.
fn listen(flags: &ServeFlags) -> anyhow::Result<TcpListener> {
    let bind = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(flags.listen), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(!flags.delay)?;
        if let Some(name) = &flags.congestion {
            socket.set_tcp_congestion(name.as_bytes())?;
        }
        socket.bind(&flags.listen.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    let socket = bind().with_context(|| format!("cannot listen on {}", flags.listen))?;
    Ok(socket.into())
}

/// A command line of a suite as the program it names and its words.
pub(crate) fn program(line: &str) -> anyhow::Result<Command> {
    let mut words = line.split_whitespace();
    let mut program = Command::new(words.next().context("the command is empty")?);
    program.args(words);
    Ok(program)
}

/// Runs a server until its standard input ends, where it is supervised, or for good.
fn supervise(
    flags: &ServeFlags,
    run: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    if !flags.supervised {
        return run();
    }
    let served = thread::Builder::new().spawn(run).context("cannot start a thread")?;
    serve::answer(|_| None)?;
    if served.is_finished() { served.join().unwrap_or(Ok(())) } else { Ok(()) }
}
