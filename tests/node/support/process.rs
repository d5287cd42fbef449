//! A case in two processes, and what they say to each other.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use super::{PATIENCE, within};

/// The other half of a case in two processes: it is told lines, and answers in lines that begin with `@`.
#[derive(Debug)]
pub(crate) struct OtherProcess {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl OtherProcess {
    pub(super) fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the test starts itself");
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // libtest writes `test name ... ` in front of the first one, without an end of line.
                if let Some((_, answer)) = line.split_once('@') {
                    drop(sender.send(answer.to_owned()));
                }
            }
        });
        Self { input: child.stdin.take(), child, lines }
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.input.as_mut().expect("not ended"), "{line}").expect("the other process reads");
    }

    pub(crate) fn hear(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("the other process answers")
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.hear()
    }

    /// The process ends when its input does; it must have been content.
    pub(super) fn end(mut self) {
        drop(self.input.take());
        let mut child = self.child;
        let status = within("the other process to end", move || child.wait().unwrap());
        assert!(status.success(), "the other process: {status}");
    }
}

/// What [`OtherProcess`] calls on the far side: `answer` gets each line told.
pub(crate) fn answer_lines(mut answer: impl FnMut(&str) -> String) {
    for line in std::io::stdin().lines() {
        say(&answer(&line.unwrap()));
    }
}

pub(crate) fn say(answer: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "@{answer}").unwrap();
    out.flush().unwrap();
}
