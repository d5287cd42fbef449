//! Nodes and peers that are ended at any moment, by SIGTERM and by SIGKILL. The moments are counts of bytes: nothing here
//! waits for a time.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::thread;

use rustix::process::Signal;

use super::load::{End, Load, Random};
use super::process::{LINKED, Process};

const ROUNDS: u64 = 16;
const CLIENTS: u64 = 6;
/// The latest moment.
const BYTES: u64 = 1 << 20;

/// Streams are logged as they come and go.
const DEBUG_LOG: &str = "/usr/bin/env RUST_LOG=ringlink=debug";

/// What is different in each round.
fn variant(round: u64) -> String {
    let driver = ["uring", "uring", "tokio-uring"][round as usize % 3];
    let tiny = ["", "--receive-buffers 4x1KiB --outbox-low 1KiB --outbox-high 4KiB --outbox-max 8KiB"];
    format!("--mode stream --driver {driver} --loops {} {}", 1 + round % 2, tiny[round as usize / 2 % 2])
}

/// A node at full load, and its clients; at least one of them has had back a number of bytes that the seed says.
fn loaded(round: u64, listen: &str, more: &str) -> (Process, SocketAddr, Vec<Load>) {
    let node = Process::start("", &format!("--listen {listen} {} {more}", variant(round)));
    let address: SocketAddr = node.address().parse().unwrap();
    let clients: Vec<_> = (0..CLIENTS).map(|n| Load::start(address, 100 * round + n)).collect();
    let mut random = Random::new(round + 1);
    let one = random.below(CLIENTS) as usize;
    clients[one].wait_for(random.below(BYTES) >> random.below(16));
    (node, address, clients)
}

#[test]
fn a_node_stopped_at_any_moment_of_full_load_flushes_and_ends_well() {
    for round in 0..ROUNDS {
        let (mut node, _, clients) = loaded(round, "127.0.0.1:0", "--grace 100s --linger-timeout 20s");
        node.signal(Signal::TERM);
        for client in clients {
            // One that nobody had accepted yet is reset by the kernel.
            let End { bytes, orderly } = client.end();
            assert!(orderly || bytes == 0, "round {round}: reset after {bytes} bytes; {:#?}", node.seen);
        }
        assert_eq!(node.ended(), Some(0), "round {round}: {:#?}", node.seen);
        assert_eq!(node.count(r#""level":"ERROR""#), 0, "round {round}: {:#?}", node.seen);
    }
}

#[test]
fn few_buffers_are_shared_by_all_channels() {
    for clients in [3, 6, 9] {
        let tiny = "--receive-buffers 4x1KiB --outbox-low 1KiB --outbox-high 4KiB --outbox-max 8KiB";
        let node = Process::start("", &format!("--listen 127.0.0.1:0 --mode stream --driver uring {tiny}"));
        let address: SocketAddr = node.address().parse().unwrap();
        let clients: Vec<_> = (0..clients).map(|n| Load::start(address, n)).collect();
        for client in clients {
            client.wait_for(BYTES);
            client.stop();
        }
    }
}

#[test]
fn a_node_stopped_twice_ends_at_once_and_what_it_had_sent_is_right() {
    for round in 0..ROUNDS {
        let (mut node, _, clients) = loaded(round, "127.0.0.1:0", "--grace 100s --close-timeout 100s");
        node.signal(Signal::TERM);
        node.logs("stopping");
        node.signal(Signal::TERM);
        assert_eq!(node.ended(), Some(0), "round {round}: {:#?}", node.seen);
        for client in clients {
            client.end();
        }
    }
}

#[test]
fn a_node_killed_at_any_moment_is_started_again_where_it_was() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for round in 0..ROUNDS {
        let (mut node, ..) = loaded(round, &address, "");
        node.signal(Signal::KILL);
        assert_eq!(node.ended(), None);
    }
}

#[test]
fn a_node_outlives_peers_that_are_killed_at_any_moment() {
    let mut node = Process::start(DEBUG_LOG, "--mode stream --listen 127.0.0.1:0 --loops 2");
    let address: SocketAddr = node.address().parse().unwrap();
    let bystander = Load::start(address, 1);
    for round in 0..ROUNDS {
        let mut peer = Process::start(
            DEBUG_LOG,
            &format!("{} --service pipe --listen none --dial {address}", variant(round)),
        );
        let mut input = peer.input.take().unwrap();
        // Ends when its reader is killed.
        let writer = thread::spawn(move || while input.write_all(&[b'x'; 4096]).is_ok() {});
        let before = bystander.bytes();
        peer.logs("opened");
        bystander.wait_for(before + Random::new(round).below(BYTES));
        peer.signal(Signal::KILL);
        writer.join().unwrap();
        node.logs("closed");
    }
    assert!(bystander.stop().bytes > 0);
    node.signal(Signal::TERM);
    assert_eq!(node.ended(), Some(0), "{:#?}", node.seen);
}

#[test]
fn messages_arrive_in_order_though_the_other_node_is_killed_again_and_again() {
    let mut pipe = Process::start("", "--service pipe --listen 127.0.0.1:0");
    let address = pipe.address();
    let mut input = pipe.input.take().unwrap();
    let line = |number: u64| format!("{number} {}", "x".repeat((number % 1000) as usize));
    let writer = thread::spawn(move || (0..).take_while(|n| writeln!(input, "{}", line(*n)).is_ok()).count());
    let mut next = 0;
    for round in 0..ROUNDS {
        let mut echo = Process::start("", &format!("--listen none --dial {address}"));
        pipe.logs(LINKED);
        // What was under way when the node was killed is lost; what comes is whole, in order, and comes once.
        for _ in 0..=Random::new(round).below(2000) {
            let got = pipe.line();
            let number: u64 = got.split(' ').next().unwrap().parse().unwrap();
            assert!(number >= next && got == line(number), "round {round}: {got:?} after {next}");
            next = number + 1;
        }
        echo.signal(Signal::KILL);
        assert_eq!(echo.ended(), None);
        pipe.logs(r#""message":"closed"#);
    }
    drop(pipe);
    assert!(writer.join().unwrap() as u64 >= next);
}
