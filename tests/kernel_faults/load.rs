//! A plain client that keeps an echo of streams at full load, and holds every byte that comes back against what it sent.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};

use super::process::PATIENCE;

/// The same numbers for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// How a connection ended, and how much of what was sent had come back by then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) bytes: u64,
    /// By FIN, not by RST.
    pub(crate) orderly: bool,
}

pub(crate) struct Load {
    stream: TcpStream,
    verified: Arc<AtomicU64>,
    reader: JoinHandle<End>,
}

impl Load {
    #[track_caller]
    pub(crate) fn start(to: SocketAddr, seed: u64) -> Self {
        Self::on(TcpStream::connect(to).expect("the node listens"), seed)
    }

    pub(crate) fn on(stream: TcpStream, seed: u64) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut random = Random::new(seed);
        // No power of two, so that no piece that was lost or came twice goes unnoticed.
        let data: Arc<[u8]> = (0..99_991).map(|_| random.below(256) as u8).collect();
        let (sent, mut writer) = (Arc::clone(&data), stream.try_clone().unwrap());
        let writer = thread::spawn(move || while writer.write_all(&sent).is_ok() {});
        let verified = Arc::new(AtomicU64::new(0));
        let (count, mut from) = (Arc::clone(&verified), stream.try_clone().unwrap());
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            let orderly = loop {
                match from.read(&mut buffer) {
                    Ok(0) => break true,
                    Ok(n) => count.store(verify(&data, count.load(Relaxed), &buffer[..n]), Relaxed),
                    Err(error) => {
                        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                        break false;
                    }
                }
            };
            // Ends the writer too.
            drop(from.shutdown(Shutdown::Both));
            writer.join().unwrap();
            End { bytes: count.load(Relaxed), orderly }
        });
        Self { stream, verified, reader }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.verified.load(Relaxed)
    }

    /// Waits until so many bytes have come back, or the connection has ended.
    pub(crate) fn wait_for(&self, bytes: u64) {
        while self.bytes() < bytes && !self.reader.is_finished() {
            thread::yield_now();
        }
    }

    /// Waits for the other side to end it.
    #[track_caller]
    pub(crate) fn end(self) -> End {
        self.reader.join().expect("what comes back is what was sent")
    }

    /// Ends it from this side.
    pub(crate) fn stop(self) -> End {
        drop(self.stream.shutdown(Shutdown::Both));
        self.end()
    }
}

/// The bytes are what `data`, over and over, has at this place; where the next ones are.
fn verify(data: &[u8], place: u64, mut bytes: &[u8]) -> u64 {
    let length = bytes.len() as u64;
    let mut at = (place % data.len() as u64) as usize;
    while !bytes.is_empty() {
        let piece = bytes.len().min(data.len() - at);
        assert!(bytes[..piece] == data[at..at + piece], "a wrong byte after {place}");
        (bytes, at) = (&bytes[piece..], (at + piece) % data.len());
    }
    place + length
}
