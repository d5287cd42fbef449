//! Nine thousand connections at once, in two processes beside this one: one is the node, the other all the clients.
//! The node says what it holds, and the kernel how much memory that is; both are back where they were afterwards. With
//! `RINGLINK_TEST_DRIVER=tokio-uring` on that driver, where each channel has a receive buffer of its own.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::print_stdout, reason = "the processes talk in lines")]

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use ringlink::{ChannelId, Context, DriverKind, Handler, Mode, Node};

#[path = "shared/skipped.rs"]
mod skipped;
#[path = "node/support/waiting.rs"]
mod waiting;

use skipped::skipped;
use waiting::PATIENCE;

const CHANNELS: usize = 9_000;
/// Descriptors each process needs, with some to spare.
const DESCRIPTORS: u64 = 10_000;
/// Tells a process that this test started what it is to be.
const ROLE: &str = "RINGLINK_MANY";

/// One at a time: together they would need twice the memory and the ports.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn nine_thousand_channels_cost_little_and_leave_nothing_on_one_loop() {
    play("nine_thousand_channels_cost_little_and_leave_nothing_on_one_loop", 1);
}

#[test]
fn nine_thousand_channels_cost_little_and_leave_nothing_on_two_loops() {
    play("nine_thousand_channels_cost_little_and_leave_nothing_on_two_loops", 2);
}

fn play(name: &str, loops: usize) {
    match env::var(ROLE).as_deref() {
        Ok("node") => be_the_node(loops),
        Ok(_) => be_the_clients(name),
        Err(_) => {
            let _alone = ALONE.lock();
            start_the_clients(name);
        }
    }
}

/// This executable again, with this test alone and enough descriptors.
fn myself(name: &str, role: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("ulimit -n {DESCRIPTORS} && exec \"$0\" \"$@\""))
        .arg(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(ROLE, role);
    command
}

fn start_the_clients(name: &str) {
    let hard = Command::new("sh").args(["-c", "ulimit -Hn"]).output().unwrap();
    let hard = String::from_utf8(hard.stdout).unwrap();
    if hard.trim().parse::<u64>().is_ok_and(|hard| hard < DESCRIPTORS) {
        let hard = hard.trim();
        return skipped(&format!("{name}: the hard limit of descriptors is {hard}, not {DESCRIPTORS}"));
    }
    let output = myself(name, "clients").stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    for line in said.lines().filter(|line| line.contains("bytes for each")) {
        println!("{line}");
    }
}

/// Echoes, and keeps nothing of its own for a channel.
struct Echo;

impl Handler for Echo {
    fn on_data(&mut self, cx: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        cx.send(channel, data).expect("a ping fits any outbox");
    }
}

/// What to run on, and the memory a channel may take there.
fn driver() -> (DriverKind, u64) {
    match env::var("RINGLINK_TEST_DRIVER").as_deref() {
        Err(_) | Ok("uring") => (DriverKind::Uring, 1024),
        // A receive buffer of its own, of 16 KiB, and what its tasks take.
        Ok("tokio-uring") => (DriverKind::TokioUring, 24 << 10),
        Ok(other) => panic!("RINGLINK_TEST_DRIVER={other}: it can be uring or tokio-uring"),
    }
}

fn be_the_node(loops: usize) {
    let builder = Node::builder().mode(Mode::Stream).loops(loops).driver(driver().0);
    let builder = builder.listen_on("127.0.0.1:0").unwrap();
    let node = builder.start(|_| Echo).unwrap();
    let say = |line: String| {
        println!("@{line}");
        io::stdout().flush().unwrap();
    };
    say(node.local_addrs()[0].to_string());
    for line in io::stdin().lines() {
        assert_eq!(line.unwrap(), "look");
        let stats = node.handle().stats();
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
        let numbers = [
            stats.channels,
            descriptors as u64,
            stats.operations_in_flight,
            stats.buffers_free,
            stats.buffers_lent,
            stats.bytes_queued,
            stats.bytes_held,
            stats.starved,
            stats.stale_completions,
            stats.accepts_refused,
        ];
        say(numbers.map(|n| n.to_string()).join(" "));
    }
    node.shutdown(PATIENCE);
    node.join().unwrap();
}

/// The node's process, as the clients' sees it.
struct NodeProcess {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
}

/// What the node answers, in its order; channels first.
type Look = Vec<u64>;

impl NodeProcess {
    fn start(name: &str) -> Self {
        let mut child = myself(name, "node").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut node = Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            address: "0.0.0.0:0".parse().unwrap(),
            child,
        };
        node.address = node.hear().parse().unwrap();
        node
    }

    /// libtest writes its own lines, and begins one without ending it.
    fn hear(&mut self) -> String {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if let Some((_, answer)) = line.split_once('@') {
                return answer.trim().to_owned();
            }
            line.clear();
        }
        panic!("the node's process has ended");
    }

    fn look(&mut self) -> Look {
        writeln!(self.input, "look").unwrap();
        self.hear().split(' ').map(|n| n.parse().unwrap()).collect()
    }

    /// Waits until the node has no more channels and holds what it held when it was told so last.
    fn wait_for(&mut self, what: &str, wanted: impl Fn(&Look) -> bool) -> Look {
        let mut look = self.look();
        waiting::eventually(what, || {
            let before = std::mem::replace(&mut look, self.look());
            look == before && wanted(&look)
        });
        look
    }

    /// Resident memory in bytes.
    fn memory(&self) -> u64 {
        // `sh` has become the test by exec: the id is the node's.
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    fn end(self) {
        let Self { mut child, input, output, .. } = self;
        drop(input);
        io::copy(&mut { output }, &mut io::sink()).unwrap();
        assert!(child.wait().unwrap().success());
    }
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Everybody sends, then everybody gets it back.
fn ping(clients: &mut [TcpStream], round: u8) {
    for (i, client) in clients.iter_mut().enumerate() {
        client.write_all(&[round ^ i as u8; 64]).unwrap();
    }
    for (i, client) in clients.iter_mut().enumerate() {
        let mut got = [0; 64];
        client.read_exact(&mut got).unwrap();
        assert_eq!(got, [round ^ i as u8; 64]);
    }
}

fn be_the_clients(name: &str) {
    let mut node = NodeProcess::start(name);
    // Every receive buffer and what the allocator keeps has been touched once after this.
    let mut few: Vec<TcpStream> = (0..200).map(|_| connect(node.address)).collect();
    for round in 0..20 {
        ping(&mut few, round);
    }
    drop(few);
    let start = node.wait_for("the first ones to leave", |look| look[0] == 0);
    let memory = node.memory();

    for round in 0..2 {
        let mut clients: Vec<TcpStream> = (0..CHANNELS).map(|_| connect(node.address)).collect();
        ping(&mut clients, round);
        ping(&mut clients, round + 1);
        let full = node.wait_for("all of them", |look| look[0] as usize == CHANNELS);
        let each = node.memory().saturating_sub(memory) / CHANNELS as u64;
        println!("{CHANNELS} channels, time {round}: {each} bytes for each; {full:?}");
        assert!(each < driver().1, "{each} bytes of memory for each channel");
        drop(clients);
        let end = node.wait_for("all of them to leave", |look| look[0] == 0);
        assert_eq!(end, start, "what was left behind, and what there was before");
    }
    node.end();
}
