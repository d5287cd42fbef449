//! The tokio-uring crate as it comes: a task for each connection, one operation at a time, buffers that are handed over.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use ringlink::service::Pattern;
use tokio_uring::buf::BoundedBuf as _;
use tokio_uring::net::{TcpListener, TcpStream};

use super::{ECHO_BUFFER, SINK_BUFFER};
use crate::flags::{ServeFlags, Service, Verify};
use crate::serve;
use crate::serve::{Arrivals, PIECE, TICK};

pub(crate) fn serve(flags: &ServeFlags) -> anyhow::Result<()> {
    let (service, verify, seed) = (flags.service, flags.verify == Verify::Full, flags.seed);
    let listener = super::listen(flags)?;
    super::supervise(flags, move || {
        let pattern = Rc::new(Pattern::new(seed));
        let mut twice = Vec::new();
        pattern.write_stream(0, 2 * Pattern::PERIOD, &mut twice);
        let twice = Bytes::from(twice);
        tokio_uring::start(async move {
            serve::ready(listener.local_addr()?)?;
            let listener = TcpListener::from_std(listener);
            loop {
                let Ok((socket, _)) = listener.accept().await else {
                    continue; // out of descriptors: others are closed meanwhile
                };
                match service {
                    Service::Echo => drop(tokio_uring::spawn(echo(socket))),
                    Service::Sink => {
                        drop(tokio_uring::spawn(sink(socket, verify.then(|| Rc::clone(&pattern)))));
                    }
                    Service::Source => drop(tokio_uring::spawn(source(socket, twice.clone()))),
                    Service::Msg => anyhow::bail!("messages are not carried by tokio-uring"),
                }
            }
        })
    })
}

async fn echo(stream: TcpStream) {
    let mut buffer = vec![0; ECHO_BUFFER];
    loop {
        let (read, filled) = stream.read(buffer).await;
        let Ok(len @ 1..) = read else { return };
        let (written, rest) = stream.write_all(filled.slice(..len)).await;
        if written.is_err() {
            return;
        }
        buffer = rest.into_inner();
    }
}

async fn sink(stream: TcpStream, pattern: Option<Rc<Pattern>>) {
    let (stream, arrivals) = (Rc::new(stream), Rc::new(RefCell::new(Arrivals::default())));
    // A read that was begun cannot be left, so another task speaks meanwhile.
    let tell = tokio_uring::spawn({
        let (stream, arrivals) = (Rc::clone(&stream), Rc::clone(&arrivals));
        async move {
            let mut ticks = tokio::time::interval(TICK);
            loop {
                ticks.tick().await;
                let news = arrivals.borrow_mut().news();
                let Some(news) = news else { continue };
                if stream.write_all(news.to_vec()).await.0.is_err() {
                    return;
                }
            }
        }
    });
    let mut buffer = vec![0; SINK_BUFFER];
    loop {
        let (read, filled) = stream.read(buffer).await;
        let Ok(len @ 1..) = read else { break };
        arrivals.borrow_mut().take(&filled[..len], pattern.as_deref());
        buffer = filled;
    }
    tell.abort();
}

async fn source(stream: TcpStream, pattern: Bytes) {
    let mut sent = 0;
    loop {
        let from = sent % Pattern::PERIOD;
        let piece = Bytes::slice(&pattern, from..pattern.len().min(from + PIECE));
        let Ok(len) = stream.write(piece).submit().await.0 else { return };
        sent += len;
    }
}
