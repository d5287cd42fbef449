//! The engine that is not ringlink: non-blocking sockets, epoll, one thread.

use std::io::{self, Read as _, Write as _};
use std::mem;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Close, Ended, Io, LOW, Lane, Load, Wiring};
use crate::{clock, environment};

/// A send is refused while so much waits.
const QUEUE: usize = 256 << 10;
const BUFFER: usize = 64 << 10;
const EVENTS: usize = 512;
const IN_PROGRESS: i32 = Errno::INPROGRESS.raw_os_error();

pub(crate) fn run(mut load: impl Load, wiring: &Wiring) -> anyhow::Result<u64> {
    if let Some(processor) = wiring.processor {
        environment::pin_this_thread(processor)?;
    }
    let mut sockets = Sockets::new(wiring)?;
    let mut buffer = vec![0; BUFFER];
    let mut events = Vec::with_capacity(EVENTS);
    load.start(&mut sockets);
    loop {
        sockets.settle(&mut load);
        if sockets.stopped {
            return Ok(sockets.calls);
        }
        let timeout = sockets.timer.map(|at| at.saturating_sub(clock::now()));
        sockets.wait(&mut events, timeout)?;
        for event in &events {
            let lane = usize::try_from(event.data.u64()).expect("it was a lane");
            sockets.handle(&mut load, lane, event.flags, &mut buffer);
        }
        if !sockets.stopped && sockets.timer.is_some_and(|at| at <= clock::now()) {
            sockets.timer = None;
            load.woken(&mut sockets);
        }
    }
}

struct Sockets<'w> {
    wiring: &'w Wiring,
    epoll: OwnedFd,
    lanes: Vec<Option<Wire>>,
    /// Lanes with something to write.
    dirty: Vec<Lane>,
    /// Lanes that ended, and whose load is to be told.
    ended: Vec<(Lane, Ended)>,
    timer: Option<u64>,
    /// Which address is dialed from next.
    source: u8,
    stopped: bool,
    calls: u64,
}

struct Wire {
    socket: Socket,
    open: bool,
    out: Vec<u8>,
    /// So much of `out` is written.
    written: usize,
    /// So much waited that the load is to be told when nothing does.
    laden: bool,
    paused: bool,
    /// The kernel took less than there was: epoll tells when to go on.
    blocked: bool,
}

impl<'w> Sockets<'w> {
    fn new(wiring: &'w Wiring) -> anyhow::Result<Self> {
        Ok(Self {
            wiring,
            epoll: epoll::create(CreateFlags::CLOEXEC).context("epoll")?,
            lanes: (0..wiring.lanes).map(|_| None).collect(),
            dirty: Vec::new(),
            ended: Vec::new(),
            timer: None,
            source: 0,
            stopped: false,
            calls: 0,
        })
    }

    fn wait(&mut self, events: &mut Vec<Event>, timeout: Option<u64>) -> io::Result<()> {
        let timeout = timeout.map(|nanos| Timespec {
            tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: (nanos % 1_000_000_000).cast_signed(),
        });
        events.clear();
        self.calls += 1;
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells of what ended and writes what waits, until neither is left.
    fn settle(&mut self, load: &mut impl Load) {
        while !self.stopped && (!self.ended.is_empty() || !self.dirty.is_empty()) {
            for (lane, why) in mem::take(&mut self.ended) {
                if !self.stopped {
                    load.closed(self, lane, why);
                }
            }
            for lane in mem::take(&mut self.dirty) {
                if self.write(lane) && !self.stopped {
                    load.drained(self, lane);
                }
            }
        }
    }

    fn connect(&mut self, lane: Lane) -> io::Result<Socket> {
        let target = self.wiring.target;
        let socket =
            Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(self.wiring.nodelay)?;
        if let Some(name) = &self.wiring.congestion {
            socket.set_tcp_congestion(name.as_bytes())?;
        }
        if self.wiring.sources > 1 {
            // The port is chosen with the connection: one that is in use elsewhere will do.
            setsockopt(&socket, IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::from(([127, 0, 0, 1 + self.source], 0)).into())?;
            self.source = (self.source + 1) % self.wiring.sources;
            self.calls += 2;
        }
        match socket.connect(&target.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(IN_PROGRESS) => {}
            Err(error) => return Err(error),
        }
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &socket, EventData::new_u64(lane as u64), interest)?;
        self.calls += 4;
        Ok(socket)
    }

    fn handle(&mut self, load: &mut impl Load, lane: Lane, flags: EventFlags, buffer: &mut [u8]) {
        let Some(wire) = &mut self.lanes[lane] else { return };
        if !wire.open {
            match wire.socket.take_error() {
                Ok(None) if flags.contains(EventFlags::OUT) => wire.open = true,
                Ok(None) => return,
                Ok(Some(error)) | Err(error) => return self.end(lane, ended(&error)),
            }
            load.opened(self, lane);
        }
        if flags.contains(EventFlags::OUT)
            && let Some(wire) = &mut self.lanes[lane]
            && mem::take(&mut wire.blocked)
        {
            self.dirty.push(lane);
        }
        let is_end = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        if is_end || flags.contains(EventFlags::IN) {
            self.read(load, lane, buffer, is_end);
        }
    }

    /// Reads until there is no more, with `to_end` until the end that is behind it: events are told once.
    fn read(&mut self, load: &mut impl Load, lane: Lane, buffer: &mut [u8], to_end: bool) {
        while !self.stopped
            && let Some(wire) = &mut self.lanes[lane]
            && !wire.paused
        {
            self.calls += 1;
            match wire.socket.read(buffer) {
                Ok(0) => self.end(lane, Ended::Eof),
                Ok(len) => {
                    load.received(self, lane, &buffer[..len]);
                    if len < buffer.len() && !to_end {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.end(lane, ended(&error)),
            }
        }
    }

    /// Writes what waits; true when nothing does any more, and much did.
    fn write(&mut self, lane: Lane) -> bool {
        let Some(wire) = &mut self.lanes[lane] else { return false };
        while wire.written < wire.out.len() && !wire.blocked {
            self.calls += 1;
            match wire.socket.write(&wire.out[wire.written..]) {
                Ok(len) => wire.written += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wire.blocked = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.end(lane, ended(&error));
                    return false;
                }
            }
        }
        if wire.blocked {
            return false;
        }
        wire.out.clear();
        wire.written = 0;
        mem::take(&mut wire.laden)
    }

    fn end(&mut self, lane: Lane, why: Ended) {
        self.lanes[lane] = None;
        self.ended.push((lane, why));
    }
}

impl Io for Sockets<'_> {
    fn dial(&mut self, lane: Lane) {
        match self.connect(lane) {
            Ok(socket) => {
                self.lanes[lane] = Some(Wire {
                    socket,
                    open: false,
                    out: Vec::new(),
                    written: 0,
                    laden: false,
                    paused: false,
                    blocked: false,
                });
            }
            Err(error) => self.ended.push((lane, ended(&error))),
        }
    }

    fn send(&mut self, lane: Lane, bytes: &[u8]) -> bool {
        let Some(wire) = &mut self.lanes[lane] else { return false };
        if wire.out.len() - wire.written >= QUEUE {
            return false;
        }
        if wire.out.is_empty() {
            self.dirty.push(lane);
        }
        wire.out.extend_from_slice(bytes);
        wire.laden |= wire.out.len() - wire.written > LOW;
        true
    }

    fn close(&mut self, lane: Lane, how: Close) {
        // What waits is written as far as the kernel takes it: the loads close only what they are through with.
        if how == Close::Fin {
            self.write(lane);
        }
        if let Some(wire) = &self.lanes[lane] {
            if how == Close::Reset {
                drop(wire.socket.set_linger(Some(std::time::Duration::ZERO)));
            }
            self.calls += 1;
            self.end(lane, Ended::Ours);
        }
    }

    fn pause(&mut self, lane: Lane) {
        if let Some(wire) = &mut self.lanes[lane] {
            wire.paused = true;
        }
    }

    fn wake_at(&mut self, time: u64) {
        self.timer = Some(time);
    }

    fn stop(&mut self) {
        self.stopped = true;
    }
}

fn ended(error: &io::Error) -> Ended {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::CONNREFUSED) => Ended::Refused,
        Some(Errno::CONNRESET | Errno::PIPE) => Ended::Reset,
        Some(Errno::TIMEDOUT) => Ended::Timeout,
        _ => Ended::Other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener};
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    /// Notes how many bytes it got.
    struct Counting(usize);

    impl Load for Counting {
        fn start(&mut self, _: &mut dyn Io) {}
        fn opened(&mut self, _: &mut dyn Io, _: Lane) {}
        fn received(&mut self, _: &mut dyn Io, _: Lane, data: &[u8]) {
            self.0 += data.len();
        }
        fn drained(&mut self, _: &mut dyn Io, _: Lane) {}
        fn closed(&mut self, _: &mut dyn Io, _: Lane, _: Ended) {}
        fn woken(&mut self, _: &mut dyn Io) {}
    }

    #[test]
    fn an_end_that_comes_with_the_last_bytes_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wiring = Wiring {
            target: listener.local_addr().unwrap(),
            lanes: 1,
            nodelay: true,
            congestion: None,
            processor: None,
            busy_poll: Duration::ZERO,
            sources: 1,
        };
        let mut sockets = Sockets::new(&wiring).unwrap();
        sockets.dial(0);
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(b"last").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let wire = sockets.lanes[0].as_ref().unwrap();
        poll(&mut [PollFd::new(&wire.socket, PollFlags::RDHUP)], None).unwrap();
        let (mut load, mut events) = (Counting(0), Vec::with_capacity(EVENTS));
        sockets.wait(&mut events, None).unwrap();
        for event in &events {
            sockets.handle(&mut load, 0, event.flags, &mut [0; 64]);
        }
        assert_eq!((load.0, sockets.ended), (4, vec![(0, Ended::Eof)]));
    }
}
