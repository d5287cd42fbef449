//! The operations, each a task that ends in one [`End`], and the queue their ends wait in.
//!
//! What tokio-uring cannot do is done by tokio, on whose runtime it runs: to dial, since tokio-uring's connect takes no
//! prepared socket and cannot be ended, and to accept on a Unix socket, for which it takes no prepared listener. Its own
//! `bind`, which forces SO_REUSEPORT, is never called, and no future of its is ever dropped unfinished, which would
//! leak what it accepts.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::Shutdown;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;

use socket2::{SockAddr, Socket};
use socket2_of_tokio_uring::SockRef;
use tokio::net::{TcpSocket, UnixListener};
use tokio::sync::Notify;
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::{TcpListener, TcpStream};

use crate::addr::{Endpoint, Endpoints};
use crate::driver::batch::Segment;
use crate::driver::sockets::{self, BoundPath, Listening};
use crate::driver::{Batch, ListenerId};
use crate::id::ChannelId;
use crate::stats::Counters;

use super::nudge::Nudge;

/// How an operation ended.
pub(super) enum End {
    Accept { listener: ListenerId, result: io::Result<Joined> },
    Dial { channel: ChannelId, result: io::Result<Joined> },
    Receive { channel: ChannelId, result: io::Result<usize>, buffer: Vec<u8> },
    Send { channel: ChannelId, result: io::Result<()>, batch: Box<Batch> },
    Woken,
}

/// A connection, whoever began it.
pub(super) struct Joined {
    /// Also of a Unix socket: tokio-uring's types are but names for a descriptor.
    pub(super) stream: TcpStream,
    pub(super) endpoints: Box<Endpoints>,
}

/// What has ended and was not looked at yet.
#[derive(Default)]
pub(super) struct Ends {
    queue: RefCell<VecDeque<End>>,
    turn: Cell<Option<task::Waker>>,
}

impl std::fmt::Debug for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ends").field("len", &self.queue.borrow().len()).finish_non_exhaustive()
    }
}

impl Ends {
    /// Starts an operation; only within `Runtime::block_on`.
    pub(super) fn start(self: &Rc<Self>, operation: impl Future<Output = End> + 'static) {
        let ends = Rc::clone(self);
        drop(tokio_uring::spawn(async move {
            let end = operation.await;
            ends.push(end);
        }));
    }

    fn push(&self, end: End) {
        self.queue.borrow_mut().push_back(end);
        if let Some(turn) = self.turn.take() {
            turn.wake();
        }
    }

    pub(super) fn pop(&self) -> Option<End> {
        self.queue.borrow_mut().pop_front()
    }

    fn is_empty(&self) -> bool {
        self.queue.borrow().is_empty()
    }

    /// One turn of the runtime: waits for an end, a wake, or `limit`. It always parks once, if only for a moment, since
    /// tokio-uring submits nothing before.
    pub(super) async fn turn(&self, wake: &Notify, nudge: &mut Nudge, limit: Duration) {
        let mut woken = pin!(wake.notified());
        let mut over = pin!(tokio::time::sleep(limit));
        let (mut is_woken, mut has_parked) = (false, false);
        poll_fn(|cx| {
            if !is_woken && woken.as_mut().poll(cx).is_ready() {
                is_woken = true;
                self.push(End::Woken);
                // Operations that ended before it are heard of before it: they are dispatched after this poll.
                has_parked = false;
            }
            let is_due = !self.is_empty() || limit.is_zero() || over.as_mut().poll(cx).is_ready();
            if is_due && has_parked {
                return Poll::Ready(());
            }
            if is_due {
                nudge.arm(cx);
            }
            has_parked = true;
            self.turn.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// A listening socket.
pub(super) enum Listener {
    Tcp(TcpListener),
    /// With what ends its accept: after a `shutdown(2)` tokio would try again without end.
    Unix(UnixListener, BoundPath, Notify),
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener")
    }
}

impl Listener {
    /// Only within `Runtime::block_on`.
    pub(super) fn new(Listening { socket, path, .. }: Listening) -> io::Result<Self> {
        Ok(match path {
            None => Self::Tcp(TcpListener::from_std(socket.into())),
            Some(path) => {
                socket.set_nonblocking(true)?;
                Self::Unix(UnixListener::from_std(socket.into())?, path, Notify::new())
            }
        })
    }

    /// To be called before it is closed.
    pub(super) fn remove_path(&self) {
        match self {
            Self::Tcp(_) => {}
            Self::Unix(_, path, _) => path.remove(),
        }
    }

    /// Ends an accept that waits. On TCP with EINVAL, for the socket listens no more.
    pub(super) fn shut_down(&self) {
        match self {
            // It fails only when the socket does not listen any more.
            Self::Tcp(listener) => drop(SockRef::from(listener).shutdown(Shutdown::Both)),
            Self::Unix(_, _, stop) => stop.notify_one(),
        }
    }
}

/// Only for operations whose drop is their end: those of tokio.
async fn unless<T>(stop: &Notify, operation: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let (mut stopped, mut operation) = (pin!(stop.notified()), pin!(operation));
    poll_fn(|cx| match stopped.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(Err(io::Error::from_raw_os_error(libc::ECANCELED))),
        Poll::Pending => operation.as_mut().poll(cx),
    })
    .await
}

pub(super) async fn accept(listener: Rc<Listener>, listening: Endpoint) -> io::Result<Joined> {
    match &*listener {
        Listener::Tcp(listener) => {
            let (stream, peer) = listener.accept().await?;
            // A listener on every address has to ask which one was dialed.
            let local = match listening.ip() {
                Some(ip) if ip.is_unspecified() => {
                    let address = SockRef::from(&stream).local_addr()?;
                    address.as_socket().map_or(listening, sockets::tcp_endpoint)
                }
                Some(_) | None => listening,
            };
            let peer = sockets::tcp_endpoint(peer);
            Ok(Joined { stream, endpoints: Box::new(Endpoints { local, peer }) })
        }
        Listener::Unix(listener, _, stop) => {
            let (stream, peer) = unless(stop, listener.accept()).await?;
            let stream = blocking(stream.into_std()?.into())?;
            let peer = Endpoint::Unix(Arc::from(peer.as_pathname().unwrap_or(Path::new(""))));
            Ok(Joined { stream, endpoints: Box::new(Endpoints { local: listening, peer }) })
        }
    }
}

/// On a non-blocking socket tokio-uring's operations would end with EAGAIN instead of waiting.
fn blocking(socket: Socket) -> io::Result<TcpStream> {
    socket.set_nonblocking(false)?;
    Ok(TcpStream::from_std(socket.into()))
}

pub(super) async fn dial(socket: Socket, address: SockAddr, cancel: Rc<Notify>) -> io::Result<Joined> {
    let dialed = address.clone();
    let socket = unless(&cancel, connect(socket, address)).await?;
    // A peer that is gone again already has no address any more; the receive will tell of it.
    let endpoint = |address: io::Result<SockAddr>| sockets::endpoint(&address?);
    let endpoints = Endpoints {
        local: endpoint(socket.local_addr()).unwrap_or_else(|_| sockets::no_endpoint()),
        peer: endpoint(socket.peer_addr()).unwrap_or_else(|_| sockets::dialed_endpoint(&dialed)),
    };
    Ok(Joined { stream: blocking(socket)?, endpoints: Box::new(endpoints) })
}

async fn connect(socket: Socket, address: SockAddr) -> io::Result<Socket> {
    match address.as_socket() {
        Some(address) => {
            Ok(TcpSocket::from_std_stream(socket.into()).connect(address).await?.into_std()?.into())
        }
        // On a Unix socket nothing has to be waited for; with a full backlog it fails with EAGAIN.
        None => socket.connect(&address).map(|()| socket),
    }
}

pub(super) async fn receive(stream: Rc<TcpStream>, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
    stream.read(buffer).await
}

/// Writes all of the batch, segment by segment: tokio-uring gathers only segments of one type.
pub(super) async fn send(
    stream: Rc<TcpStream>,
    mut batch: Box<Batch>,
    counters: Arc<Counters>,
) -> (io::Result<()>, Box<Batch>) {
    while let Some((place, from, segment)) = batch.take_unsent() {
        let asked = segment.as_slice().len() - from;
        let (result, segment) = match segment {
            Segment::Chunk(chunk) => {
                let (result, rest) = stream.write(chunk.slice(from..)).submit().await;
                (result, Segment::Chunk(rest.into_inner()))
            }
            Segment::Shared(bytes) => {
                let (result, rest) = stream.write(BoundedBuf::slice(bytes, from..)).submit().await;
                (result, Segment::Shared(rest.into_inner()))
            }
        };
        batch.put_back(place, segment);
        match result.map_err(|error| (error.raw_os_error(), error)) {
            // The kernel takes something of what is not empty, or says why not.
            Ok(0) => return (Err(io::Error::from_raw_os_error(libc::EPIPE)), batch),
            Ok(taken) => {
                counters.short_sends.add(u64::from(taken < asked));
                batch.advance(taken);
            }
            Err((Some(libc::EAGAIN | libc::EINTR), _)) => {}
            Err((_, error)) => return (Err(error), batch),
        }
    }
    (Ok(()), batch)
}

/// Ends the connection by RST and with it what runs on it; what the kernel had queued is dropped.
pub(super) fn reset(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    // Disconnecting wants AsFd, which a second descriptor has for as long as it takes.
    let second = socket.try_clone().map(std::net::TcpStream::from);
    if second.and_then(|second| Ok(rustix::net::connect_unspec(&second)?)).is_err() {
        // A Unix socket, which knows no RST; or there is no descriptor left, and the peer sees a FIN before the RST.
        drop(socket.set_linger(Some(Duration::ZERO)));
        drop(stream.shutdown(Shutdown::Both));
    }
}
