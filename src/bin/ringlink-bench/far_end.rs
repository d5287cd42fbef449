//! The other end of a run when nobody named one: a second process, `ringlink-bench serve` or any command, on a processor of
//! its own. It says `READY address` on standard output; ours ends when its standard input does, so none is left behind.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{clock, environment};

const START: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(5);
const STOP: Duration = Duration::from_secs(3);
const READY: &str = "READY ";
const PROBE: Duration = Duration::from_millis(50);

/// The processes that were started and not awaited.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

fn running() -> MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends all far ends at once, before this process ends at once.
pub(crate) fn kill_all() {
    for &pid in running().iter() {
        let _ = kill_process(pid, Signal::KILL);
    }
}

#[derive(Debug)]
pub(crate) struct FarEnd {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    pub(crate) address: SocketAddr,
}

impl FarEnd {
    /// Starts `ringlink-bench serve` with these words.
    pub(crate) fn serve(words: &[String], processor: Option<usize>) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.arg("serve").args(words).arg("--supervised");
        // A Ctrl-C is for this process, which then tells what it has.
        command.process_group(0);
        Self::start(command, processor, None)
    }

    /// Starts a command and waits until it says a line that begins so; where it listens is known to whoever started it.
    pub(crate) fn start_saying(
        command: Command,
        processor: Option<usize>,
        ready: &'static str,
    ) -> anyhow::Result<Self> {
        let mut far = Self::spawn(command, processor, 0)?;
        far.wait_ready(None, ready)?;
        Ok(far)
    }

    /// Starts a command and waits until it says READY, or until `port` of this machine answers.
    pub(crate) fn start(
        command: Command,
        processor: Option<usize>,
        port: Option<u16>,
    ) -> anyhow::Result<Self> {
        if let Some(port) = port
            && answers(at(port))
        {
            bail!("port {port} is in use: somebody else listens there");
        }
        let mut far = Self::spawn(command, processor, port.unwrap_or(0))?;
        if let Some(line) = far.wait_ready(port, READY)? {
            let address = line.split_whitespace().nth(1).unwrap_or_default();
            far.address = address.parse().with_context(|| format!("the far end said: {line}"))?;
        }
        Ok(far)
    }

    fn spawn(mut command: Command, processor: Option<usize>, port: u16) -> anyhow::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = environment::on_processor(processor, || {
            command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))
        })?;
        let stdout = child.stdout.take().context("its standard output is a pipe")?;
        let (line, lines) = mpsc::channel();
        let forward = move || {
            for text in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.send(text).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("far-end".into()).spawn(forward).context("cannot start a thread")?;
        let stdin = child.stdin.take();
        running().push(Pid::from_child(&child));
        Ok(Self { child, stdin, lines, address: at(port) })
    }

    /// The line that begins with `ready`; none when its port answered first.
    fn wait_ready(&mut self, port: Option<u16>, ready: &str) -> anyhow::Result<Option<String>> {
        let deadline = clock::now() + clock::span(START);
        while clock::now() < deadline {
            match self.lines.recv_timeout(PROBE) {
                Ok(line) if line.starts_with(ready) => return Ok(Some(line)),
                Ok(_) | Err(_) => {}
            }
            // The look at the process comes second: what answers is the one that was started.
            let is_ready = port.is_some() && answers(self.address);
            if self.child.try_wait()?.is_some() {
                bail!("the far end ended before it was ready");
            }
            if is_ready {
                return Ok(None);
            }
        }
        bail!("the far end was not ready in {START:?}")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The named counter of a far end of ours; none of others.
    pub(crate) fn counter(&mut self, name: &str) -> Option<u64> {
        writeln!(self.stdin.as_mut()?, "{name}").ok()?;
        self.lines.recv_timeout(ANSWER).ok()?.parse().ok()
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        self.stdin = None;
        // Its output ends with it.
        let deadline = clock::now() + clock::span(STOP);
        while clock::now() < deadline && self.child.try_wait().is_ok_and(|status| status.is_none()) {
            if self.lines.recv_timeout(PROBE).is_err() && self.child.try_wait().is_ok_and(|s| s.is_none()) {
                break;
            }
        }
        drop(self.child.kill());
        drop(self.child.wait());
        running().retain(|pid| *pid != Pid::from_child(&self.child));
    }
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn answers(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, PROBE).is_ok()
}
