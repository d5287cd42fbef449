//! The simulated network: hosts with their descriptors, listeners with their backlogs, and connections as two sockets
//! with bytes on the way between them. Time passes only when somebody says so.
//!
//! It does what TCP may do and nothing else: bytes keep their order, FIN comes after them, and a reset costs what is
//! still on the way. Which ring waits for what is not known here; see `ring.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

mod bytes;

use super::choices::{Choices, Fault, Faults};
use super::trace::Trace;
use crate::addr::Endpoint;
use crate::clock::Mono;
use crate::driver::uring::kernel::Fd;

/// As process limits go, so that numbers come around often.
const FIRST_FD: i32 = 3;
const FIRST_EPHEMERAL: u16 = 40_000;
/// How long a connect without an answer is tried, and how often.
const CONNECT_TIME: Duration = Duration::from_secs(130);
const CONNECT_AGAIN: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostId(pub(crate) usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SocketId(u32);

#[derive(Clone, Copy, Debug)]
pub(super) enum File {
    Listener(SocketAddr),
    Socket(SocketId),
}

#[derive(Debug, Default)]
struct Host {
    files: Vec<Option<File>>,
    /// No descriptors are to be had until then.
    lacking_until: Mono,
    /// How often that began.
    lacks: u64,
}

#[derive(Debug)]
struct Listener {
    host: HostId,
    backlog: VecDeque<SocketId>,
    most: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Fresh,
    Connecting {
        to: SocketAddr,
        try_at: Mono,
        until: Mono,
    },
    Refused(i32),
    Connected,
    /// Reset: there is no connection any more.
    Dead,
}

#[derive(Debug)]
enum Segment {
    Data(Vec<u8>),
    Fin,
    Reset,
}

#[derive(Debug)]
struct Socket {
    host: HostId,
    stage: Stage,
    local: SocketAddr,
    remote: SocketAddr,
    other: Option<SocketId>,
    /// On the way here, in order.
    wire: VecDeque<(Mono, Segment)>,
    wire_bytes: usize,
    /// Here, and not received yet.
    data: VecDeque<u8>,
    fin: bool,
    /// Told once, to whoever asks first.
    error: Option<i32>,
    shut_read: bool,
    shut_write: bool,
    reset_on_close: bool,
    closed: bool,
    /// Most bytes on the way to and waiting at the other end.
    room: usize,
}

/// What a receive finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Readable {
    Data(usize),
    Eof,
    Error(i32),
    Nothing,
}

#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) now: Mono,
    pub(crate) choices: Choices,
    pub(crate) faults: Faults,
    pub(crate) trace: Trace,
    /// The first thing that a node did to its kernel and may not.
    pub(crate) violation: Option<String>,
    /// Bytes that a socket takes before its peer has read some.
    pub(crate) room: usize,
    hosts: Vec<Host>,
    listeners: BTreeMap<SocketAddr, Listener>,
    sockets: BTreeMap<SocketId, Socket>,
    made: u32,
    next_port: u16,
    cut: Vec<(HostId, HostId)>,
}

impl Network {
    pub(crate) fn new(choices: Choices, faults: Faults, room: usize) -> Self {
        Self {
            now: Mono::from_nanos(1_000_000_000),
            choices,
            faults,
            trace: Trace::default(),
            violation: None,
            room,
            hosts: Vec::new(),
            listeners: BTreeMap::new(),
            sockets: BTreeMap::new(),
            made: 0,
            next_port: FIRST_EPHEMERAL,
            cut: Vec::new(),
        }
    }

    pub(crate) fn add_host(&mut self) -> HostId {
        self.hosts.push(Host::default());
        HostId(self.hosts.len() - 1)
    }

    pub(crate) fn address_of(host: HostId) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1 + host.0 as u8))
    }

    pub(crate) fn fires(&mut self, fault: Fault) -> bool {
        self.faults.fires(fault, &mut self.choices)
    }

    pub(crate) fn violated(&mut self, what: impl FnOnce() -> String) {
        self.violation.get_or_insert_with(what);
    }

    // Descriptors.

    /// The lowest number that is free, as POSIX has it.
    pub(super) fn open(&mut self, host: HostId, file: File) -> Fd {
        let files = &mut self.hosts[host.0].files;
        let place = files.iter().position(Option::is_none).unwrap_or(files.len());
        if place == files.len() {
            files.push(None);
        }
        files[place] = Some(file);
        Fd(FIRST_FD + place as i32)
    }

    pub(super) fn file(&self, host: HostId, Fd(fd): Fd) -> Option<File> {
        let place = usize::try_from(fd - FIRST_FD).ok()?;
        self.hosts[host.0].files.get(place).copied().flatten()
    }

    pub(super) fn socket_of(&self, host: HostId, fd: Fd) -> Option<SocketId> {
        match self.file(host, fd)? {
            File::Socket(socket) => Some(socket),
            File::Listener(_) => None,
        }
    }

    pub(crate) fn open_count(&self, host: HostId) -> usize {
        self.hosts[host.0].files.iter().flatten().count()
    }

    pub(crate) fn lack_descriptors(&mut self, host: HostId, until: Mono) {
        self.hosts[host.0].lacking_until = until;
        self.hosts[host.0].lacks += 1;
    }

    pub(crate) fn lacks(&self, host: HostId) -> u64 {
        self.hosts[host.0].lacks
    }

    pub(super) fn lacks_descriptors(&self, host: HostId) -> bool {
        self.faults.active && self.now < self.hosts[host.0].lacking_until
    }

    /// As `close(2)`: what was not read is answered by a reset.
    pub(super) fn close(&mut self, host: HostId, fd: Fd) {
        let Some(file) = self.file(host, fd) else {
            return self.violated(|| format!("{fd:?} is closed and is not open"));
        };
        self.hosts[host.0].files[(fd.0 - FIRST_FD) as usize] = None;
        match file {
            File::Listener(at) => {
                let listener = self.listeners.remove(&at).expect("its descriptor was open");
                for socket in listener.backlog {
                    self.close_socket(socket, true);
                }
            }
            File::Socket(socket) => self.close_socket(socket, false),
        }
    }

    pub(crate) fn close_all(&mut self, host: HostId) {
        for place in 0..self.hosts[host.0].files.len() {
            if self.hosts[host.0].files[place].is_some() {
                self.close(host, Fd(FIRST_FD + place as i32));
            }
        }
    }

    fn close_socket(&mut self, id: SocketId, reset: bool) {
        let socket = self.sockets.get_mut(&id).expect("it was open");
        socket.closed = true;
        let rude = reset || socket.reset_on_close || !socket.data.is_empty();
        let (other, shut) = (socket.other, std::mem::replace(&mut socket.shut_write, true));
        if rude {
            self.send_reset(id);
        } else if !shut && self.is_connected(id) {
            self.transmit(id, Segment::Fin);
        }
        // Both ends are gone: so is the connection.
        if other.is_none_or(|other| self.sockets.get(&other).is_none_or(|other| other.closed)) {
            self.sockets.remove(&id);
            other.and_then(|other| self.sockets.remove(&other));
        }
    }

    // Connections come.

    pub(super) fn listen(
        &mut self,
        host: HostId,
        at: &Endpoint,
        most: usize,
    ) -> std::io::Result<(Fd, Endpoint)> {
        let mut at = at.socket_addr().ok_or_else(|| errno(libc::EAFNOSUPPORT))?;
        if at.port() == 0 {
            at.set_port(self.free_port());
        }
        if self.listeners.contains_key(&at) {
            return Err(errno(libc::EADDRINUSE));
        }
        self.listeners.insert(at, Listener { host, backlog: VecDeque::new(), most });
        Ok((self.open(host, File::Listener(at)), Endpoint::Tcp(at)))
    }

    fn free_port(&mut self) -> u16 {
        self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_EPHEMERAL);
        self.next_port
    }

    fn add_socket(&mut self, host: HostId, stage: Stage, local: SocketAddr, remote: SocketAddr) -> SocketId {
        self.made += 1;
        let id = SocketId(self.made);
        let socket = Socket {
            host,
            stage,
            local,
            remote,
            other: None,
            wire: VecDeque::new(),
            wire_bytes: 0,
            data: VecDeque::new(),
            fin: false,
            error: None,
            shut_read: false,
            shut_write: false,
            reset_on_close: false,
            closed: false,
            room: self.room,
        };
        self.sockets.insert(id, socket);
        id
    }

    pub(super) fn new_socket(&mut self, host: HostId) -> Fd {
        let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let socket = self.add_socket(host, Stage::Fresh, nowhere, nowhere);
        self.open(host, File::Socket(socket))
    }

    pub(super) fn connect(&mut self, id: SocketId, to: SocketAddr) {
        let port = self.free_port();
        let (try_at, until) = (self.now + self.latency(), self.now + CONNECT_TIME);
        let fails = self.fires(Fault::DialFails);
        let errno = [libc::ECONNREFUSED, libc::ETIMEDOUT, libc::ENETUNREACH][self.choices.below(3)];
        let socket = self.sockets.get_mut(&id).expect("it is open");
        socket.local = SocketAddr::new(Self::address_of(socket.host), port);
        socket.remote = to;
        socket.stage = if fails { Stage::Refused(errno) } else { Stage::Connecting { to, try_at, until } };
    }

    /// The connect's result once there is one.
    pub(super) fn connected(&self, id: SocketId) -> Option<i32> {
        match self.sockets[&id].stage {
            Stage::Fresh | Stage::Connecting { .. } => None,
            Stage::Refused(errno) => Some(-errno),
            Stage::Connected | Stage::Dead => Some(0),
        }
    }

    fn try_connect(&mut self, id: SocketId, to: SocketAddr, until: Mono) {
        let from = self.sockets[&id].host;
        let (local, now) = (self.sockets[&id].local, self.now);
        let reaches = self.listeners.get(&to).map(|listener| listener.host);
        let stage = match reaches {
            // Who cannot be reached does not answer; and a full backlog does not either.
            _ if now >= until => Stage::Refused(libc::ETIMEDOUT),
            Some(host) if self.is_cut(from, host) => {
                Stage::Connecting { to, try_at: now + CONNECT_AGAIN, until }
            }
            Some(host) if self.listeners[&to].backlog.len() < self.listeners[&to].most => {
                let accepted = self.add_socket(host, Stage::Connected, to, local);
                self.sockets.get_mut(&accepted).expect("just made").other = Some(id);
                self.sockets.get_mut(&id).expect("it connects").other = Some(accepted);
                self.listeners.get_mut(&to).expect("found above").backlog.push_back(accepted);
                Stage::Connected
            }
            Some(_) => Stage::Connecting { to, try_at: now + CONNECT_AGAIN, until },
            None => Stage::Refused(libc::ECONNREFUSED),
        };
        self.sockets.get_mut(&id).expect("it connects").stage = stage;
    }

    pub(super) fn has_backlog(&self, at: SocketAddr) -> bool {
        self.listeners.get(&at).is_some_and(|listener| !listener.backlog.is_empty())
    }

    pub(super) fn accept(&mut self, at: SocketAddr) -> Option<SocketId> {
        self.listeners.get_mut(&at)?.backlog.pop_front()
    }

    /// The socket that waits first is gone before it is accepted.
    pub(super) fn drop_first(&mut self, at: SocketAddr) {
        if let Some(socket) = self.accept(at) {
            self.close_socket(socket, true);
        }
    }

    pub(super) fn is_connected(&self, id: SocketId) -> bool {
        self.sockets[&id].stage == Stage::Connected
    }

    pub(super) fn ends_of(&self, id: SocketId) -> (SocketAddr, SocketAddr) {
        (self.sockets[&id].local, self.sockets[&id].remote)
    }

    // Time.

    /// When something next happens by itself.
    pub(crate) fn next_event(&self) -> Option<Mono> {
        let due = self.sockets.values().filter_map(|socket| {
            let connects = match socket.stage {
                Stage::Connecting { try_at, .. } => Some(try_at),
                Stage::Fresh | Stage::Refused(_) | Stage::Connected | Stage::Dead => None,
            };
            let arrives = socket.wire.front().filter(|_| !self.is_wire_cut(socket)).map(|&(at, _)| at);
            connects.into_iter().chain(arrives).min()
        });
        due.min()
    }

    /// Lets everything happen that is due by now.
    pub(crate) fn deliver(&mut self) {
        loop {
            let due =
                self.sockets.iter().find_map(|(&id, socket)| match (socket.stage, socket.wire.front()) {
                    (Stage::Connecting { to, try_at, until }, _) if try_at <= self.now => {
                        Some((id, Some((to, until))))
                    }
                    (_, Some(&(at, _))) if at <= self.now && !self.is_wire_cut(socket) => Some((id, None)),
                    _ => None,
                });
            match due {
                Some((id, Some((to, until)))) => self.try_connect(id, to, until),
                Some((id, None)) => self.arrive(id),
                None => return,
            }
        }
    }

    fn arrive(&mut self, id: SocketId) {
        let socket = self.sockets.get_mut(&id).expect("found by its wire");
        let (_, segment) = socket.wire.pop_front().expect("found by its wire");
        socket.wire_bytes -= segment.len();
        match segment {
            Segment::Data(_) if socket.closed || socket.stage == Stage::Dead => self.send_reset(id),
            Segment::Data(bytes) => socket.data.extend(bytes),
            // A connection that is gone hears of nothing more.
            Segment::Fin => socket.fin |= socket.stage == Stage::Connected,
            Segment::Reset => self.break_off(id, libc::ECONNRESET),
        }
    }

    pub(crate) fn advance(&mut self, to: Mono) {
        self.now = self.now.max(to);
        self.deliver();
    }

    // Links.

    pub(crate) fn cut(&mut self, a: HostId, b: HostId) {
        self.cut.push((a.min(b), a.max(b)));
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
        self.faults.active = false;
        self.deliver();
    }

    pub(crate) fn mend_one(&mut self) {
        if !self.cut.is_empty() {
            let place = self.choices.below(self.cut.len());
            self.cut.swap_remove(place);
            self.deliver();
        }
    }

    fn is_cut(&self, a: HostId, b: HostId) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    fn is_wire_cut(&self, to: &Socket) -> bool {
        let from = to.other.and_then(|other| self.sockets.get(&other));
        from.is_some_and(|from| self.is_cut(from.host, to.host))
    }
}

impl Segment {
    fn len(&self) -> usize {
        match self {
            Self::Data(bytes) => bytes.len(),
            Self::Fin | Self::Reset => 0,
        }
    }
}

pub(super) fn errno(errno: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno)
}
