//! What the echo servers have in common: `NAME [ADDR] [--supervised]`, the socket that listens, and `READY ADDR PID`.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::{env, process, thread};

use socket2::{Domain, Protocol, Socket, Type};

/// What a connection reads at once.
pub const BUFFER: usize = 16 << 10;
/// That of a ringlink node.
const BACKLOG: i32 = 4096;

/// Listens where the command line says, by default at a free port. Accepted sockets inherit that there is no delay.
pub fn listen() -> io::Result<TcpListener> {
    let (mut address, mut supervised) = (SocketAddr::from(([127, 0, 0, 1], 0)), false);
    for word in env::args().skip(1) {
        match word.parse() {
            Ok(parsed) => address = parsed,
            Err(_) if word == "--supervised" => supervised = true,
            Err(_) => return Err(io::Error::other(format!("no address, nor --supervised: {word}"))),
        }
    }
    if supervised {
        thread::spawn(|| {
            _ = io::copy(&mut io::stdin(), &mut io::sink());
            process::exit(0)
        });
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Tells whoever waits that the server listens.
pub fn ready(address: SocketAddr) -> io::Result<()> {
    writeln!(io::stdout(), "READY {address} {}", process::id())
}
