//! What `driver/mod.rs` promises, held against each driver on the real kernel, with plain sockets at the other end.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;

#[cfg(feature = "tokio-uring")]
use super::tokio_uring::TokioUringDriver;
use super::uring::UringDriver;
use super::*;
use crate::driver::Batch;
use crate::stats::Counters;

const ID: u32 = 100;

type Make<D> = fn(Settings, Arc<Counters>) -> Result<D, DriverError>;

/// One promise, held against every driver.
macro_rules! promise {
    ($name:ident, |$make:ident| $body:block) => {
        mod $name {
            use super::*;

            fn case<D: Driver>($make: Make<D>) $body

            #[test]
            fn uring() {
                case(UringDriver::new);
            }

            #[cfg(feature = "tokio-uring")]
            #[test]
            fn tokio_uring() {
                case(TokioUringDriver::new);
            }
        }
    };
}

struct Rig<D> {
    driver: D,
    counters: Arc<Counters>,
    adopted: u32,
    received: Vec<u8>,
    log: Vec<String>,
}

fn rig<D: Driver>(make: Make<D>, change: impl FnOnce(&mut RingOptions)) -> Rig<D> {
    let mut ring = RingOptions { submission_entries: 64, completion_entries: 128, ..RingOptions::default() };
    change(&mut ring);
    let settings = Settings { first_slot: ID, ring, socket: SocketOptions::default() };
    let counters = Arc::<Counters>::default();
    let driver = make(settings, Arc::clone(&counters)).unwrap();
    Rig { driver, counters, adopted: 0, received: Vec::new(), log: Vec::new() }
}

fn channel(n: u32) -> ChannelId {
    ChannelId::new(ID + n, 1)
}

fn batch(bytes: &[u8]) -> Box<Batch> {
    let mut batch = Box::<Batch>::default();
    batch.begin_chunk(Vec::with_capacity(bytes.len()));
    assert_eq!(batch.extend(bytes), bytes.len());
    batch
}

impl<D: Driver> Rig<D> {
    /// Turns until the log has the entry; adopts what is accepted as the channels 0, 1, ….
    fn until(&mut self, entry: &str) {
        let deadline = self.driver.now() + Duration::from_secs(30);
        while !self.log.iter().any(|line| line == entry) {
            assert!(self.driver.now() < deadline, "no '{entry}' in {:?}", self.log);
            self.driver.turn(Wait::Until(deadline)).unwrap();
            self.reap();
        }
    }

    fn reap(&mut self) {
        let mut adopt = Vec::new();
        while let Some(completion) = self.driver.next_completion() {
            let line = match completion {
                Completion::Received { bytes, .. } => {
                    self.received.extend_from_slice(bytes);
                    format!("received {}", self.received.len())
                }
                Completion::Accepted { socket, .. } => {
                    adopt.push(socket);
                    "accepted".to_owned()
                }
                Completion::Sent { batch, error, .. } => format!("sent {} {error:?}", batch.written()),
                Completion::Closed { .. } => "closed".to_owned(),
                Completion::PeerEof { .. } => "eof".to_owned(),
                Completion::ReceiveFailed { errno, .. } => format!("failed {}", errno.0),
                Completion::DialFailed { errno, .. } => format!("dial failed {}", errno.0),
                Completion::Dialed { endpoints, .. } => format!("dialed {}", endpoints.peer),
                Completion::Woken => "woken".to_owned(),
                Completion::AcceptPaused { .. } => "accept paused".to_owned(),
                Completion::AcceptResumed { .. } => "accept resumed".to_owned(),
                Completion::ListenFailed { .. } => "listen failed".to_owned(),
            };
            self.log.push(line);
        }
        for socket in adopt {
            let channel = channel(self.adopted);
            self.adopted += 1;
            self.driver.submit(Submission::Adopt { channel, socket });
            self.driver.submit(Submission::ResumeReading { channel });
        }
    }

    fn listen(&mut self) -> std::net::SocketAddr {
        let at = Endpoint::Tcp(([127, 0, 0, 1], 0).into());
        let local = self.driver.listen(ListenerId(0), &at, false).unwrap();
        local.socket_addr().unwrap()
    }

    fn accept(&mut self) -> TcpStream {
        let to = self.listen();
        let peer = TcpStream::connect(to).unwrap();
        self.until("accepted");
        peer
    }

    /// Ends the driver; nothing may be left in flight, and no buffer anywhere but with the kernel.
    fn finish(mut self) {
        self.reap();
        assert_eq!(self.counters.stale_completions.get(), 0);
        let deadline = self.driver.now() + Duration::from_secs(30);
        assert_eq!(self.driver.finish(deadline), 0);
        let counters = self.counters.snapshot();
        assert_eq!((counters.operations_in_flight, counters.buffers_free, counters.buffers_lent), (0, 0, 0));
    }
}

promise!(bytes_go_both_ways_and_a_close_is_seen, |make| {
    let mut rig = rig(make, |_| {});
    let mut peer = rig.accept();
    peer.write_all(b"hello").unwrap();
    rig.until("received 5");
    rig.driver.submit(Submission::Send { channel: channel(0), batch: batch(b"world") });
    rig.until("sent 5 None");
    let mut answer = [0; 5];
    peer.read_exact(&mut answer).unwrap();
    assert_eq!((&answer, &*rig.received), (b"world", &b"hello"[..]));
    rig.driver.submit(Submission::Close { channel: channel(0), reset: false });
    rig.until("closed");
    assert_eq!(peer.read(&mut answer).unwrap(), 0);
    rig.finish();
});

promise!(a_flood_through_one_small_buffer_arrives_whole, |make| {
    let mut rig = rig(make, |ring| (ring.receive_buffers, ring.receive_buffer_size) = (1, 1000));
    let mut peer = rig.accept();
    let sender = std::thread::spawn(move || {
        let bytes: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        peer.write_all(&bytes).unwrap();
        (peer, bytes)
    });
    rig.until("received 1000000");
    let (peer, bytes) = sender.join().unwrap();
    assert!(rig.received == bytes);
    drop(peer);
    rig.until("eof");
    rig.finish();
});

promise!(a_queue_of_two_completions_loses_nothing, |make| {
    let mut rig = rig(make, |ring| {
        (ring.submission_entries, ring.completion_entries) = (1, 2);
        (ring.receive_buffers, ring.receive_buffer_size) = (16, 64);
    });
    let to = rig.listen();
    let mut peers: Vec<_> = (0..20).map(|_| TcpStream::connect(to).unwrap()).collect();
    while (rig.adopted as usize) < peers.len() {
        rig.driver.turn(Wait::Until(rig.driver.now() + Duration::from_secs(1))).unwrap();
        rig.reap();
    }
    for peer in &mut peers {
        peer.write_all(&[7; 1000]).unwrap();
    }
    rig.until("received 20000");
    rig.finish();
});

promise!(a_reset_close_tells_what_of_the_send_went_out, |make| {
    let mut rig = rig(make, |_| {});
    let mut peer = rig.accept();
    rig.driver.submit(Submission::Send { channel: channel(0), batch: batch(&vec![1; 64 << 20]) });
    rig.driver.turn(Wait::Not).unwrap();
    rig.driver.submit(Submission::Close { channel: channel(0), reset: true });
    rig.until("closed");
    let sent = rig.log.iter().position(|line| line.starts_with("sent")).unwrap();
    assert!(sent < rig.log.iter().position(|line| line == "closed").unwrap());
    let mut sink = Vec::new();
    assert_eq!(peer.read_to_end(&mut sink).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    rig.finish();
});

promise!(dials_end_in_one_way_or_the_other, |make| {
    let mut rig = rig(make, |_| {});
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Endpoint::Tcp(listener.local_addr().unwrap());
    rig.driver.submit(Submission::Dial { channel: channel(0), address: address.clone() });
    rig.until(&format!("dialed {address}"));
    drop(listener);
    rig.driver.submit(Submission::Dial { channel: channel(1), address });
    rig.until(&format!("dial failed {}", libc::ECONNREFUSED));
    rig.finish();
});

promise!(a_peer_that_resets_at_once_has_the_address_that_was_dialed, |make| {
    let mut rig = rig(make, |_| {});
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = Endpoint::Tcp(listener.local_addr().unwrap());
    rig.driver.submit(Submission::Dial { channel: channel(0), address: address.clone() });
    let peer = loop {
        rig.driver.turn(Wait::Not).unwrap();
        match listener.accept() {
            Ok((peer, _)) => break peer,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    };
    SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    while rig.log.is_empty() {
        rig.driver.turn(Wait::Until(rig.driver.now() + Duration::from_secs(1))).unwrap();
        rig.reap();
    }
    // A driver may be slow enough to see no more than the reset.
    let ends = [format!("dialed {address}"), format!("dial failed {}", libc::ECONNRESET)];
    assert!(ends.contains(&rig.log[0]), "{:?}", rig.log);
    rig.finish();
});

promise!(a_driver_ends_with_everything_in_flight, |make| {
    let mut rig = rig(make, |_| {});
    let _peer = rig.accept();
    rig.driver.submit(Submission::Send { channel: channel(0), batch: batch(&vec![1; 64 << 20]) });
    rig.driver.turn(Wait::Not).unwrap();
    rig.finish();
});

promise!(another_thread_wakes_the_loop_each_time, |make| {
    let mut rig = rig(make, |_| {});
    for _ in 0..100 {
        let waker = rig.driver.waker();
        let thread = std::thread::spawn(move || waker.wake());
        rig.until("woken");
        rig.log.clear();
        thread.join().unwrap();
    }
    rig.finish();
});

promise!(a_dial_that_is_cancelled_ends_once, |make| {
    let mut rig = rig(make, |_| {});
    // An address that answers nobody: the dial is under way until it is cancelled.
    let address = Endpoint::Tcp(([192, 0, 2, 1], 9).into());
    rig.driver.submit(Submission::Dial { channel: channel(0), address });
    rig.driver.turn(Wait::Not).unwrap();
    rig.driver.submit(Submission::CancelDial { channel: channel(0) });
    while rig.log.is_empty() {
        rig.driver.turn(Wait::Until(rig.driver.now() + Duration::from_secs(1))).unwrap();
        rig.reap();
    }
    assert!(rig.log[0].starts_with("dial failed"), "{:?}", rig.log);
    rig.driver.turn(Wait::Not).unwrap();
    rig.reap();
    assert_eq!(rig.log.len(), 1, "{:?}", rig.log);
    rig.finish();
});

promise!(who_knocks_while_accepting_is_paused_or_stopped_is_accepted_later_or_never, |make| {
    let mut rig = rig(make, |_| {});
    let to = rig.listen();
    rig.driver.submit(Submission::PauseAccepting);
    rig.driver.turn(Wait::Not).unwrap();
    let _peers: Vec<_> = (0..4).map(|_| TcpStream::connect(to).unwrap()).collect();
    for _ in 0..10 {
        rig.driver.turn(Wait::Until(rig.driver.now() + Duration::from_millis(5))).unwrap();
        rig.reap();
    }
    assert!(rig.adopted <= 1, "an accept under way may still take one: {:?}", rig.log);
    rig.driver.submit(Submission::ResumeAccepting);
    while rig.adopted < 4 {
        rig.driver.turn(Wait::Until(rig.driver.now() + Duration::from_secs(1))).unwrap();
        rig.reap();
    }
    rig.driver.submit(Submission::StopListening);
    for _ in 0..10 {
        rig.driver.turn(Wait::Until(rig.driver.now() + Duration::from_millis(5))).unwrap();
        rig.reap();
    }
    assert_eq!(TcpStream::connect(to).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    rig.finish();
});

fn a_listener_that_fails_is_closed_for_good<D: Driver>(make: Make<D>, kill: fn(&mut D, ListenerId)) {
    let mut rig = rig(make, |_| {});
    rig.listen();
    rig.driver.turn(Wait::Not).unwrap();
    kill(&mut rig.driver, ListenerId(0));
    rig.until("listen failed");
    rig.driver.submit(Submission::PauseAccepting);
    rig.driver.submit(Submission::ResumeAccepting);
    // Its place is free, and who comes to the next is accepted before it could fail again.
    let to = rig.listen();
    let _peer = TcpStream::connect(to).unwrap();
    rig.until("accepted");
    assert_eq!(rig.log.iter().filter(|line| *line == "listen failed").count(), 1, "{:?}", rig.log);
    rig.finish();
}

#[test]
fn a_listener_of_uring_that_fails_is_closed_for_good() {
    a_listener_that_fails_is_closed_for_good(UringDriver::new, UringDriver::kill_listener);
}

#[cfg(feature = "tokio-uring")]
#[test]
fn a_listener_of_tokio_uring_that_fails_is_closed_for_good() {
    a_listener_that_fails_is_closed_for_good(TokioUringDriver::new, TokioUringDriver::kill_listener);
}
