//! An echo server on compio: one thread, a task for each connection.

use std::io;

use compio::BufResult;
use compio::io::{AsyncRead as _, AsyncWriteExt as _};
use compio::net::{TcpListener, TcpStream};
use compio::runtime::{self, Runtime};
use ringlink_peers::BUFFER;

fn main() -> io::Result<()> {
    let listener = ringlink_peers::listen()?;
    Runtime::new()?.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        ringlink_peers::ready(listener.local_addr()?)?;
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue; // out of descriptors: others are closed meanwhile
            };
            runtime::spawn(echo(stream)).detach();
        }
    })
}

async fn echo(mut stream: TcpStream) {
    let mut buffer = Vec::with_capacity(BUFFER);
    let (mut read, mut written);
    loop {
        BufResult(read, buffer) = stream.read(buffer).await;
        let Ok(1..) = read else { return };
        BufResult(written, buffer) = stream.write_all(buffer).await;
        if written.is_err() {
            return;
        }
        buffer.clear();
    }
}
