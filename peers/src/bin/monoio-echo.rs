//! An echo server on monoio, as its own example has it: one thread, a task for each connection.

use std::io;

use monoio::io::{AsyncReadRent as _, AsyncWriteRentExt as _};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};
use ringlink_peers::BUFFER;

fn main() -> io::Result<()> {
    let listener = ringlink_peers::listen()?;
    RuntimeBuilder::<IoUringDriver>::new().build()?.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        ringlink_peers::ready(listener.local_addr()?)?;
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue; // out of descriptors: others are closed meanwhile
            };
            monoio::spawn(echo(stream));
        }
    })
}

async fn echo(mut stream: TcpStream) {
    let mut buffer = Vec::with_capacity(BUFFER);
    let (mut read, mut written);
    loop {
        (read, buffer) = stream.read(buffer).await;
        let Ok(1..) = read else { return };
        (written, buffer) = stream.write_all(buffer).await;
        if written.is_err() {
            return;
        }
        buffer.clear();
    }
}
