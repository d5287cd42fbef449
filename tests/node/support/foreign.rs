//! Peers that are not ringlink: plain sockets of the standard library, so that a fault of our own cannot cancel
//! itself out.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use socket2::{Domain, Socket, Type};

use super::PATIENCE;

/// What a case wants of a stream, TCP or Unix.
pub(crate) trait Stream: Read + Write + Send + Sized + 'static {
    fn another(&self) -> Self;
    fn end_writing(&self);
}

impl Stream for TcpStream {
    fn another(&self) -> Self {
        self.try_clone().unwrap()
    }

    fn end_writing(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

impl Stream for UnixStream {
    fn another(&self) -> Self {
        self.try_clone().unwrap()
    }

    fn end_writing(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Not every container has it.
pub(crate) fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

#[track_caller]
pub(crate) fn connect(to: SocketAddr) -> TcpStream {
    patient(TcpStream::connect(to).expect("the node listens"))
}

fn patient_unix(stream: UnixStream) -> UnixStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[track_caller]
pub(crate) fn connect_unix(to: &Path) -> UnixStream {
    patient_unix(UnixStream::connect(to).expect("the node listens"))
}

#[track_caller]
pub(crate) fn accept_unix(listener: UnixListener) -> UnixStream {
    patient_unix(super::within("the node's dial", move || listener.accept().unwrap().0))
}

/// Connects with kernel buffers of this size, which must be set before.
#[track_caller]
pub(crate) fn connect_with_buffers(to: SocketAddr, size: usize) -> TcpStream {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.set_send_buffer_size(size).unwrap();
    socket.set_recv_buffer_size(size).unwrap();
    socket.connect(&to.into()).expect("the node listens");
    patient(socket.into())
}

#[track_caller]
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    let listener = listener.try_clone().unwrap();
    patient(super::within("the node's dial", move || listener.accept().unwrap().0))
}

/// A listener of ours that the node may dial.
pub(crate) fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address where nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    listen().1
}

/// Closes by RST.
pub(crate) fn reset(stream: TcpStream) {
    Socket::from(stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
}

/// A listener that answers no further SYN: its backlog is full, and nobody accepts. Lives as long as this does.
#[derive(Debug)]
pub(crate) struct Blackhole {
    pub(crate) address: SocketAddr,
    _sockets: Vec<Socket>,
}

impl Blackhole {
    pub(crate) fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut sockets = vec![listener];
        // A backlog of 0 takes one connection; the others hang.
        for _ in 0..4 {
            let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            filler.set_nonblocking(true).unwrap();
            drop(filler.connect(&address));
            sockets.push(filler);
        }
        Self { address: address.as_socket().unwrap(), _sockets: sockets }
    }
}

/// The same bytes for the same seed; no two seeds, and no two places in one, look alike.
pub(crate) fn random(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// `assert_eq!` without printing megabytes.
#[track_caller]
pub(crate) fn assert_same(got: &[u8], expected: &[u8]) {
    let differs = got.iter().zip(expected).position(|(a, b)| a != b);
    assert!(
        differs.is_none() && got.len() == expected.len(),
        "{} bytes instead of {}, the first wrong one at {differs:?}",
        got.len(),
        expected.len(),
    );
}

/// `got` must be the beginning of `expected`.
#[track_caller]
pub(crate) fn assert_prefix(got: &[u8], expected: &[u8]) {
    assert!(got.len() <= expected.len(), "{} bytes of {}", got.len(), expected.len());
    assert_same(got, &expected[..got.len()]);
}

#[track_caller]
pub(crate) fn read_exactly(stream: &mut impl Read, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).expect("the bytes arrive");
    bytes
}

/// Everything up to the end of the stream, which must be a FIN.
#[track_caller]
pub(crate) fn read_to_eof(stream: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        panic!("{error} after {} bytes, and no end of file", bytes.len());
    }
    bytes
}

/// Everything up to the end, by FIN or by RST, and whether it was a FIN.
#[track_caller]
pub(crate) fn read_to_end(stream: &mut impl Read) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => (bytes, true),
        Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => (bytes, false),
        Err(error) => panic!("{error}: the connection does not end"),
    }
}

/// Writes on a thread of its own, in pieces of `piece` bytes, and then shuts the writing half down.
pub(crate) fn write_all(stream: &impl Stream, data: Vec<u8>, piece: usize) -> thread::JoinHandle<()> {
    let mut stream = stream.another();
    thread::spawn(move || {
        for piece in data.chunks(piece) {
            stream.write_all(piece).expect("the node reads");
        }
        stream.end_writing();
    })
}

/// Sends everything while reading everything, half-closes, and wants all of it back and then the end.
#[track_caller]
pub(crate) fn echo_all(mut stream: impl Stream, data: &[u8], piece: usize) {
    let writer = write_all(&stream, data.to_vec(), piece);
    let got = read_to_eof(&mut stream);
    writer.join().unwrap();
    assert_same(&got, data);
}

/// Sends a little and wants it back; the stream stays open.
#[track_caller]
pub(crate) fn echo_once(stream: &mut (impl Read + Write), text: &[u8]) {
    stream.write_all(text).expect("the node reads");
    assert_same(&read_exactly(stream, text.len()), text);
}

/// Writes until the other end is gone, on a thread of its own; says how much was written.
pub(crate) fn write_forever(stream: &TcpStream, data: Vec<u8>) -> thread::JoinHandle<usize> {
    let mut stream = stream.another();
    thread::spawn(move || {
        let mut written = 0;
        while let Ok(n @ 1..) = stream.write(&data[written % data.len()..]) {
            written += n;
        }
        written
    })
}

/// How much the kernel has for whom the client is connected to, on this machine, by IPv4, and who does not read it.
pub(crate) fn unread_by_the_peer_of(client: &TcpStream) -> usize {
    let port = |address: std::io::Result<SocketAddr>| format!(":{:04X}", address.unwrap().port());
    let (ours, theirs) = (port(client.local_addr()), port(client.peer_addr()));
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let unread = sockets.lines().find_map(|line| {
        let [_, local, remote, _, queues, ..] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return None;
        };
        let is_it = local.ends_with(&theirs) && remote.ends_with(&ours);
        is_it.then(|| usize::from_str_radix(queues.split_once(':')?.1, 16).ok())?
    });
    unread.expect("the connection is there")
}
