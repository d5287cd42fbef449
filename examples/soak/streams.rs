//! Plain connections that come and go: most want back all they sent, some are slow, some reset in the middle.

use std::io::ErrorKind::{AddrNotAvailable, HostUnreachable, NetworkUnreachable};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::Socket;

use super::hub::Hub;
use super::namespaces::Namespaces;
use super::{PATIENCE, Random, pause};

const WORKERS: u64 = 6;

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    bytes: AtomicU64,
    connections: AtomicU64,
}

pub(crate) struct Streams {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Streams {
    /// Half of the workers are at the hub's end of the cable, and half at the other.
    pub(crate) fn start(net: Option<&Namespaces>, hub: &Hub, seed: u64) -> Self {
        let shared = Arc::new(Shared::default());
        let workers = (0..WORKERS).map(|worker| {
            let (shared, to, random) = (Arc::clone(&shared), hub.streams, Random::new(seed ^ worker << 32));
            let work = move || work(&shared, to, random);
            match net {
                Some(net) if worker % 2 == 0 => net.spawn_in_a(work),
                Some(net) => net.spawn_in_b(work),
                None => thread::spawn(work),
            }
        });
        Self { workers: workers.collect(), shared }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Relaxed)
    }

    /// Bytes and connections.
    pub(crate) fn end(self) -> (u64, u64) {
        self.shared.stop.store(true, Relaxed);
        for worker in self.workers {
            worker.join().unwrap();
        }
        (self.shared.bytes.load(Relaxed), self.shared.connections.load(Relaxed))
    }
}

fn work(shared: &Shared, to: SocketAddr, mut random: Random) {
    while !shared.stop.load(Relaxed) {
        // Small ones are as frequent as large ones.
        let bits = 4 + random.below(16);
        let length = 1 + random.below(1 << bits);
        let data = random.bytes(length as usize);
        let mut stream = match TcpStream::connect(to) {
            Ok(stream) => stream,
            // The cable is cut; or all ports of this end wait for the minute after their last connection.
            Err(error) if matches!(error.kind(), NetworkUnreachable | HostUnreachable | AddrNotAvailable) => {
                pause(Duration::from_millis(50));
                continue;
            }
            Err(error) => panic!("{error}: the hub listens"),
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut half, sent) = (stream.try_clone().unwrap(), data.clone());
        let writer = thread::spawn(move || {
            // A reset of ours ends it early.
            if half.write_all(&sent).is_ok() {
                drop(half.shutdown(Shutdown::Write));
            }
        });
        let fate = random.below(8);
        let (wanted, piece) = match fate {
            0 => (random.below(length) as usize, 64 << 10),
            1 => (data.len(), 512),
            _ => (data.len(), 64 << 10),
        };
        let mut got = vec![0; data.len()];
        for (place, piece) in got[..wanted].chunks_mut(piece).enumerate() {
            stream.read_exact(piece).expect("what was sent comes back");
            if fate == 1 && place % 16 == 0 {
                pause(Duration::from_millis(1));
            }
        }
        assert!(got[..wanted] == data[..wanted], "wrong bytes in a stream");
        if fate == 0 {
            Socket::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
        } else {
            assert_eq!(stream.read(&mut [0]).expect("an end of file"), 0, "more than was sent");
        }
        writer.join().unwrap();
        shared.bytes.fetch_add(wanted as u64, Relaxed);
        shared.connections.fetch_add(1, Relaxed);
    }
}
