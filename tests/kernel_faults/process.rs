//! A `ringlink run` as a process, whose log and output become events.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take that is bound to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) const LINKED: &str = r#""message":"linked","#;
pub(crate) const PEER_DEAD: &str = r#""reason":"peer-dead""#;
/// The kernel's own ways to find a peer dead are off: what finds it is the heartbeat.
pub(crate) const HEARTBEAT: &str =
    "--heartbeat 200ms --dead-after 1s --user-timeout 0s --keepalive 0s --dial-timeout 2s";

/// Killed at the end, also when it is stopped.
pub(crate) struct Process {
    child: Child,
    pub(crate) input: Option<ChildStdin>,
    pub(crate) output: Receiver<String>,
    log: Receiver<String>,
    pub(crate) seen: Vec<String>,
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            // The test may be over; whoever does not read the log would stop the node.
            drop(sender.send(line));
        }
    });
    receiver
}

impl Process {
    /// `before` is what runs it, such as `ip netns exec NAME`; all arguments are separated by blanks.
    #[track_caller]
    pub(crate) fn start(before: &str, args: &str) -> Self {
        let all = format!("{before} {} run --log-format json {args}", env!("CARGO_BIN_EXE_ringlink"));
        let mut words = all.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env_remove("RUST_LOG");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (output, log) = (lines(child.stdout.take().unwrap()), lines(child.stderr.take().unwrap()));
        Self { input: child.stdin.take(), child, output, log, seen: Vec::new() }
    }

    /// The next log line that has `word` in it.
    #[track_caller]
    pub(crate) fn logs(&mut self, word: &str) {
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) => self.seen.push(line),
                Err(error) => panic!("{error}, waiting for {word}; logged {:#?}", self.seen),
            }
            if self.seen.last().is_some_and(|line| line.contains(word)) {
                return;
            }
        }
    }

    /// How many lines had it, of all there are by now.
    pub(crate) fn count(&mut self, word: &str) -> usize {
        self.seen.extend(self.log.try_iter());
        self.seen.iter().filter(|line| line.contains(word)).count()
    }

    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.output.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            panic!("{error}, waiting for a line; logged {:#?}", self.log.try_iter().collect::<Vec<_>>())
        })
    }

    /// The address of its only listener.
    #[track_caller]
    pub(crate) fn address(&self) -> String {
        let line = self.line();
        line.strip_prefix("listening tcp ").unwrap_or_else(|| panic!("{line:?}")).to_owned()
    }

    /// Waits for its end; its exit code, unless a signal ended it.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> Option<i32> {
        drop(self.input.take());
        // Its outputs end with it.
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().unwrap().code(),
                Err(RecvTimeoutError::Timeout) => panic!("it does not end; logged {:#?}", self.seen),
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
