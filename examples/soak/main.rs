//! A soak: a node under churn, slow readers, resets, peers that are killed and stopped, a cable that is cut and loses
//! packets. Every byte and every message is held against what was sent; what the node holds must not grow, and must be
//! nothing in the end. `ci/soak.sh` runs it; as root it has a cable between two network namespaces, else only loopback.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed soak")]
#![expect(clippy::print_stdout, reason = "it reports to a terminal")]

mod hub;
#[path = "../../tests/kernel_faults/namespaces.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod namespaces;
mod peers;
mod random;
mod record;
#[path = "../../tests/shared/skipped.rs"]
mod skipped;
mod streams;

use std::time::{Duration, Instant};

use hub::Hub;
use namespaces::Namespaces;
use peers::Peer;
use random::Random;
use record::Record;
use streams::Streams;

const PEERS: u64 = 3;
/// How long anything may take that is bound to happen once all is well again.
const PATIENCE: Duration = Duration::from_secs(60);

#[expect(clippy::disallowed_methods, reason = "a soak lasts for a time")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the pace of faults and of looking is a matter of time")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Waits until nothing is missing any more.
fn wait_until<T: std::fmt::Debug>(what: &str, mut missing: impl FnMut() -> Vec<T>) {
    let start = now();
    loop {
        let missing = missing();
        if missing.is_empty() {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}: {missing:?}");
        pause(Duration::from_millis(20));
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["hub"] => hub::be_the_hub(),
        ["--seconds", seconds, "--seed", seed, "--csv", csv] => {
            // A thread that finds a fault ends the whole soak.
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                usual(info);
                println!("soak: FAILED");
                std::process::exit(1);
            }));
            soak(Duration::from_secs(seconds.parse().unwrap()), seed.parse().unwrap(), csv);
        }
        _ => {
            eprintln!("usage: soak --seconds N --seed N --csv PATH");
            std::process::exit(2);
        }
    }
}

fn soak(time: Duration, seed: u64, csv: &str) {
    let net = Namespaces::new(&["nft", "tc"]);
    if let Some(net) = &net {
        net.slow_down("400mbit");
    }
    let mut hub = Hub::start(net.as_ref());
    // Each of its three loops waits for connections and for wakes.
    wait_until("the loops", || {
        Some(hub.look()["operations_in_flight"]).filter(|n| *n != 6).into_iter().collect()
    });
    let mut record = Record::new(csv, hub.look());
    let streams = Streams::start(net.as_ref(), &hub, seed);
    let mut peers: Vec<_> = (0..PEERS).map(|n| Peer::start(net.as_ref(), &hub, seed + n)).collect();
    let (mut random, mut faults) = (Random::new(seed), Faults::default());
    let (start, mut next_fault) = (now(), Duration::from_secs(2));
    while start.elapsed() < time {
        pause(Duration::from_secs(1));
        record.add(start.elapsed(), &hub.look(), streams.bytes(), peers::lines(&peers));
        if start.elapsed() >= next_fault {
            faults.make_one(net.as_ref(), &hub, &mut peers, &mut random);
            next_fault = start.elapsed() + Duration::from_millis(random.below(2000));
        }
    }
    // All is well again: everybody is served.
    let before: Vec<u64> = peers.iter().map(Peer::heard).collect();
    wait_until("every peer to be served", || {
        let waiting = peers.iter().zip(&before).filter(|(peer, before)| peer.heard() < *before + 100);
        waiting.map(|(_, before)| *before).collect()
    });
    let (bytes, connections) = streams.end();
    let lines = peers::lines(&peers);
    peers.drain(..).for_each(Peer::kill);
    wait_until("the node to hold nothing", || record.leftovers(&hub.look()));
    let seconds = start.elapsed().as_secs();
    println!(
        "soak: seed {seed}, {seconds} s: {bytes} bytes of {connections} connections and {lines} messages verified"
    );
    println!("soak: {faults:?}");
    assert!(bytes > 0 && lines > 0 && faults.kills > 0, "nothing happened");
    record.judge();
    hub.end();
    println!("soak: ok");
}

/// What was done, and how often.
#[derive(Debug, Default)]
struct Faults {
    kills: u64,
    stops: u64,
    cuts: u64,
    losses: u64,
    packets_lost: u64,
    /// They need root.
    skipped: u64,
    turn: u64,
}

impl Faults {
    /// Each kind in its turn; how long and to whom by the seed.
    fn make_one(&mut self, net: Option<&Namespaces>, hub: &Hub, peers: &mut [Peer], random: &mut Random) {
        let lasting = Duration::from_millis(200 + random.below(3000));
        let one = random.below(PEERS) as usize;
        match (self.turn % 4, net) {
            (0, _) => {
                let next = Peer::start(net, hub, random.below(1 << 32));
                std::mem::replace(&mut peers[one], next).kill();
                self.kills += 1;
            }
            (1, _) => {
                peers[one].stop_for(lasting);
                self.stops += 1;
            }
            (2, Some(net)) => {
                peers.iter().for_each(Peer::disturb);
                net.set_link("down");
                pause(lasting);
                net.set_link("up");
                self.cuts += 1;
            }
            (_, Some(net)) => {
                net.lose(2);
                pause(lasting);
                self.packets_lost += net.lost();
                net.pass();
                self.losses += 1;
            }
            (_, None) => self.skipped += 1,
        }
        self.turn += 1;
    }
}
