//! The node that is watched, in a process of its own: an echo of streams and an echo of messages.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use ringlink::service::Echo;
use ringlink::{Mode, Node};

use super::namespaces::Namespaces;

/// Of the hub and of its peers: a cut or a stop of more than this is the end of a link.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(2);

/// What the node holds and has done, by name: all its counters, `descriptors`, and `rss` in KiB.
pub(crate) type Look = BTreeMap<String, u64>;

/// The other end of this pipe tells when to look, and by its end when to end.
pub(crate) fn be_the_hub() {
    let start = |mode, loops| {
        let node = Node::builder().mode(mode).loops(loops).listen_on("0.0.0.0:0").unwrap();
        let node = node.limits(|l| (l.heartbeat, l.dead_after) = (DEAD_AFTER / 4, DEAD_AFTER));
        node.start(|_| Echo).unwrap()
    };
    let nodes = [start(Mode::Stream, 2), start(Mode::Message, 1)];
    let ports = nodes.each_ref().map(|node| node.local_addrs()[0].socket_addr().unwrap().port());
    println!("{} {}", ports[0], ports[1]);
    for line in std::io::stdin().lines() {
        assert_eq!(line.unwrap(), "look");
        let mut look = Look::new();
        for node in &nodes {
            for (name, value) in node.handle().stats().iter() {
                *look.entry(name.to_owned()).or_default() += value;
            }
        }
        look.insert("descriptors".to_owned(), std::fs::read_dir("/proc/self/fd").unwrap().count() as u64);
        look.insert("rss".to_owned(), resident());
        println!("{}", look.iter().map(|(name, value)| format!("{name} {value} ")).collect::<String>());
    }
    for node in nodes {
        node.shutdown(Duration::from_secs(10));
        node.join().unwrap();
    }
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The hub, from outside.
pub(crate) struct Hub {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub(crate) streams: SocketAddr,
    pub(crate) messages: SocketAddr,
}

impl Hub {
    pub(crate) fn start(net: Option<&Namespaces>) -> Self {
        let before = net.map_or(String::new(), Namespaces::in_a);
        let line = format!("{before} {} hub", std::env::current_exe().unwrap().display());
        let mut child = spawn(&line, Stdio::inherit());
        let (input, mut output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let ip = if net.is_some() { [10, 200, 1, 1] } else { [127, 0, 0, 1] };
        let ports: Vec<u16> = line.split_whitespace().map(|port| port.parse().unwrap()).collect();
        let [streams, messages] = [0, 1].map(|n| SocketAddr::from((ip, ports[n])));
        Self { child, input, output, streams, messages }
    }

    pub(crate) fn look(&mut self) -> Look {
        writeln!(self.input, "look").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert!(!words.is_empty(), "the hub has ended");
        words.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].parse().unwrap())).collect()
    }

    pub(crate) fn end(self) {
        let Self { mut child, input, .. } = self;
        drop(input);
        let status = child.wait().unwrap();
        assert!(status.success(), "the hub: {status}");
    }
}

/// Words separated by blanks, with pipes for input and output.
pub(crate) fn spawn(line: &str, errors: Stdio) -> Child {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).spawn().unwrap()
}
