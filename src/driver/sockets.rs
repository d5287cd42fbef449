//! How both drivers make and set up sockets, by `socket2`; and the clock both read.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use crate::addr::Endpoint;
use crate::clock::Mono;
use crate::config::SocketOptions;

/// The system's monotonic clock, so for all loops of the process alike.
pub(crate) fn now() -> Mono {
    let now = clock_gettime(ClockId::Monotonic);
    Mono::default() + Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// A socket that listens, where it does, and the path it has there.
pub(crate) struct Listening {
    pub(crate) socket: Socket,
    pub(crate) local: Endpoint,
    pub(crate) path: Option<BoundPath>,
}

/// A path and what was bound to it.
#[derive(Debug)]
pub(crate) struct BoundPath {
    path: Arc<Path>,
    device: u64,
    inode: u64,
}

impl BoundPath {
    fn of(path: &Arc<Path>) -> io::Result<Self> {
        let at = std::fs::symlink_metadata(path)?;
        Ok(Self { path: Arc::clone(path), device: at.dev(), inode: at.ino() })
    }

    /// Removes the path, unless another socket has it by now. The own one is still open, or the inode's number could be
    /// that of another.
    pub(crate) fn remove(&self) {
        let path = self.path.display();
        let removed = match Self::of(&self.path) {
            Ok(now) if (now.device, now.inode) == (self.device, self.inode) => {
                std::fs::remove_file(&self.path)
            }
            Ok(_) => return tracing::warn!(%path, "the socket's path has become another's; it stays"),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!(%path, %error, "cannot remove the socket's path");
        }
    }
}

/// A socket that listens at `at`.
pub(crate) fn listener(at: &Endpoint, shared: bool, options: &SocketOptions) -> io::Result<Listening> {
    let (socket, address) = new(at, Type::STREAM)?;
    let lock = match at {
        Endpoint::Tcp(ip) => {
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(shared)?;
            if ip.is_ipv6() {
                // [::] is every address, of IPv4 too, whatever net.ipv6.bindv6only says.
                socket.set_only_v6(false)?;
            }
            set_tcp_options(&socket, options)?;
            None
        }
        Endpoint::Unix(path) => {
            let lock = lock_folder(path)?;
            remove_dead_socket(path, &address)?;
            lock
        }
    };
    set_buffer_sizes(&socket, options)?;
    socket.bind(&address)?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    let local = endpoint(&socket.local_addr()?)?;
    let path = match &local {
        Endpoint::Unix(path) => Some(BoundPath::of(path)?),
        Endpoint::Tcp(_) => None,
    };
    drop(lock);
    Ok(Listening { socket, local, path })
}

/// A socket to connect to `to`, non-blocking, and the address to connect it with.
pub(crate) fn dialer(to: &Endpoint, options: &SocketOptions) -> io::Result<(Socket, SockAddr)> {
    let (socket, address) = new(to, Type::STREAM.nonblocking())?;
    if let Endpoint::Tcp(_) = to {
        set_tcp_options(&socket, options)?;
    }
    set_buffer_sizes(&socket, options)?;
    Ok((socket, address))
}

/// Stands for the address of a connection that is gone again already.
pub(crate) fn no_endpoint() -> Endpoint {
    Endpoint::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))
}

/// The same for the far end of one that was dialed.
pub(crate) fn dialed_endpoint(address: &SockAddr) -> Endpoint {
    endpoint(address).unwrap_or_else(|_| no_endpoint())
}

fn new(endpoint: &Endpoint, kind: Type) -> io::Result<(Socket, SockAddr)> {
    let (domain, protocol, address) = match endpoint {
        Endpoint::Tcp(ip) => (Domain::for_address(*ip), Some(Protocol::TCP), SockAddr::from(*ip)),
        Endpoint::Unix(path) => (Domain::UNIX, None, unix_address(path)?),
    };
    Ok((Socket::new(domain, kind, protocol)?, address))
}

/// The one path that cannot be an address is one that is too long; that has an errno, as what the kernel refuses.
fn unix_address(path: &Path) -> io::Result<SockAddr> {
    SockAddr::unix(path).map_err(|_| io::Error::from_raw_os_error(libc::ENAMETOOLONG))
}

fn set_tcp_options(socket: &Socket, options: &SocketOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(options.nodelay)?;
    if let Some(idle) = options.keepalive {
        let interval = (idle / 4).max(Duration::from_secs(1));
        socket.set_tcp_keepalive(
            &TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(4),
        )?;
    }
    socket.set_tcp_user_timeout(options.user_timeout)?;
    if let Some(congestion) = &options.congestion {
        socket.set_tcp_congestion(congestion.as_bytes())?;
    }
    Ok(())
}

fn set_buffer_sizes(socket: &Socket, options: &SocketOptions) -> io::Result<()> {
    if let Some(bytes) = options.send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    Ok(())
}

/// Held from the look at a path until somebody listens there. Of nodes that start at once and find the same dead socket
/// each would remove what another has just bound, and one that is bound and does not listen yet looks dead. The kernel
/// lets it go with the process, and nothing is left behind.
fn lock_folder(path: &Path) -> io::Result<Option<File>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(folder);
    let locked = opened.and_then(|folder| {
        flock(&folder, FlockOperation::NonBlockingLockExclusive)?;
        Ok(folder)
    });
    match locked {
        // For a moment: an address in use is tried again.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another process holds a lock on its folder"))
        }
        // In a folder that cannot be read, or without locks, nodes should not start at once.
        locked => Ok(locked.ok()),
    }
}

/// Removes the path of a Unix socket nobody listens on any more, as a killed node leaves it.
fn remove_dead_socket(path: &Path, address: &SockAddr) -> io::Result<()> {
    // Connecting to a file that is no socket is refused as well, and such a file is somebody's.
    if !std::fs::symlink_metadata(path).is_ok_and(|at| at.file_type().is_socket()) {
        return Ok(());
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A listener that accepts nothing would have us wait.
    probe.set_nonblocking(true)?;
    match probe.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(crate) fn endpoint(address: &SockAddr) -> io::Result<Endpoint> {
    if address.is_unix() {
        return Ok(Endpoint::Unix(Arc::from(address.as_pathname().unwrap_or(Path::new("")))));
    }
    let ip = address.as_socket().ok_or_else(|| io::Error::other("neither TCP nor a Unix socket"))?;
    Ok(tcp_endpoint(ip))
}

/// A peer of IPv4 on a listener of both is that, not the IPv6 address that stands for it.
pub(crate) fn tcp_endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::Tcp(match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address, // with its scope
    })
}

/// Whether there is a congestion control of this name that this process may use.
pub(crate) fn try_congestion(name: &str) -> io::Result<()> {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?.set_tcp_congestion(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::Barrier;
    use std::thread;

    fn listen_at(path: &Path) -> io::Result<Listening> {
        listener(&Endpoint::Unix(Arc::from(path)), false, &SocketOptions::default())
    }

    #[test]
    fn an_endpoint_is_what_can_be_dialed() {
        for (address, endpoint) in [
            ("[::ffff:192.0.2.1]:7", "192.0.2.1:7"),
            ("[fe80::1%3]:7", "[fe80::1%3]:7"),
            ("[::1]:7", "[::1]:7"),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(super::endpoint(&address.into()).unwrap().to_string(), endpoint);
        }
    }

    #[test]
    fn options_are_those_of_listeners_of_what_they_accept_and_of_dials() {
        let seconds = |n| Some(Duration::from_secs(n));
        for (nodelay, keepalive, user_timeout) in [(true, seconds(9), seconds(7)), (false, None, None)] {
            let (send_buffer, receive_buffer) = (Some(32 << 10), Some(64 << 10));
            let options = SocketOptions {
                nodelay,
                keepalive,
                user_timeout,
                send_buffer,
                receive_buffer,
                ..SocketOptions::default()
            };
            let at = Endpoint::Tcp(([127, 0, 0, 1], 0).into());
            let listening = listener(&at, false, &options).unwrap();
            let (dialed, address) = dialer(&listening.local, &options).unwrap();
            let _client = std::net::TcpStream::connect(address.as_socket().unwrap()).unwrap();
            let (accepted, _) = listening.socket.accept().unwrap();
            for socket in [&listening.socket, &accepted, &dialed] {
                assert_eq!(socket.tcp_nodelay().unwrap(), nodelay);
                assert_eq!(socket.keepalive().unwrap(), keepalive.is_some());
                assert_eq!(socket.tcp_user_timeout().unwrap(), user_timeout);
                // Linux doubles them, for its own use.
                assert_eq!(socket.send_buffer_size().unwrap(), 64 << 10);
                assert_eq!(socket.recv_buffer_size().unwrap(), 128 << 10);
                if let Some(idle) = keepalive {
                    assert_eq!(socket.tcp_keepalive_time().unwrap(), idle);
                }
            }
            assert!(dialed.nonblocking().unwrap());
        }
    }

    #[test]
    fn a_dead_socket_gives_way_to_a_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let _listener = listen_at(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn of_many_that_find_a_dead_socket_at_once_one_listens() {
        for _ in 0..50 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("socket");
            drop(UnixListener::bind(&path).unwrap());
            let (all, start) = ([(); 4], Barrier::new(4));
            let listeners = thread::scope(|scope| {
                let start_one = |()| {
                    scope.spawn(|| {
                        start.wait();
                        listen_at(&path)
                    })
                };
                all.map(start_one).map(|one| one.join().unwrap())
            });
            let (listening, refused): (Vec<_>, Vec<_>) = listeners.into_iter().partition(Result::is_ok);
            assert_eq!(listening.len(), 1);
            let in_use = |refused: &io::Result<_>| {
                refused.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
            };
            assert!(refused.iter().all(in_use));
            UnixStream::connect(&path).unwrap();
        }
    }

    #[test]
    fn a_path_in_a_locked_folder_waits_and_one_that_cannot_be_locked_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let lock = lock_folder(&path).unwrap();
        assert_eq!(listen_at(&path).err().unwrap().kind(), io::ErrorKind::AddrInUse);
        drop(lock);
        let _listening = listen_at(&path).unwrap();
        assert!(lock_folder(&path.join("x")).unwrap().is_none(), "it is no folder");
        assert!(lock_folder(Path::new("x")).unwrap().is_some(), "it is in the working directory");
    }

    #[test]
    fn a_path_is_removed_only_if_it_is_still_the_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let old = listen_at(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        old.path.as_ref().unwrap().remove();
        let new = listen_at(&path).unwrap();
        old.path.unwrap().remove();
        UnixStream::connect(&path).unwrap();
        new.path.unwrap().remove();
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_dead_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link, live] = ["file", "link", "live"].map(|name| folder.path().join(name));
        std::fs::write(&file, "precious").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let _live = UnixListener::bind(&live).unwrap();
        for path in [&file, &link, &live, &folder.path().to_owned()] {
            assert_eq!(listen_at(path).err().unwrap().kind(), io::ErrorKind::AddrInUse, "{}", path.display());
        }
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");
        UnixStream::connect(&live).unwrap();
    }
}
