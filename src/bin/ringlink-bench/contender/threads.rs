//! One blocking thread for each connection: `std::net` alone.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;

use anyhow::bail;
use ringlink::service::{Answer, Pattern};

use super::blocks::{Blocks, LaneEnd};
use super::frames::{self, Inbox, Kind};
use super::{ECHO_BUFFER, GATE, SINK_BUFFER};
use crate::engine::Wiring;
use crate::flags::{ServeFlags, Service, Verify};
use crate::serve::{Arrivals, PIECE, TICK};
use crate::workload::News;
use crate::workload::msg::{Plan, Source};
use crate::{clock, environment, serve};

/// Enough for an echo's few frames, so that thousands of threads fit.
const STACK: usize = 128 << 10;

pub(crate) fn serve(flags: &ServeFlags) -> anyhow::Result<()> {
    let pattern = Arc::new(Pattern::new(flags.seed));
    match flags.service {
        Service::Echo => serve_each(flags, echo),
        Service::Msg => serve_each(flags, receive),
        Service::Sink => {
            let pattern = Some(pattern).filter(|_| flags.verify == Verify::Full);
            serve_each(flags, move |stream| sink(stream, pattern.as_deref()))
        }
        Service::Source => serve_each(flags, move |stream| source(stream, &pattern)),
    }
}

/// Listens, and gives each connection to a thread of its own.
fn serve_each(flags: &ServeFlags, each: impl Fn(TcpStream) + Clone + Send + 'static) -> anyhow::Result<()> {
    let listener = super::listen(flags)?;
    serve::ready(listener.local_addr()?)?;
    super::supervise(flags, move || {
        for stream in listener.incoming().flatten() {
            let each = each.clone();
            if let Err(error) = thread::Builder::new().stack_size(STACK).spawn(move || each(stream)) {
                tracing::error!(%error, "cannot start a thread");
            }
        }
        Ok(())
    })
}

fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; ECHO_BUFFER];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}

/// The far end of messages: blocks are read, verified, and nothing else.
fn receive(mut stream: TcpStream) {
    let (mut inbox, mut answers) = (Inbox::new(), Vec::new());
    while let Ok(len @ 1..) = stream.read(inbox.room()) {
        if inbox.take(len, &mut answers).is_err() || stream.write_all(&answers).is_err() {
            return;
        }
        answers.clear();
    }
}

fn sink(mut stream: TcpStream, pattern: Option<&Pattern>) {
    let (mut arrivals, mut buffer) = (Arrivals::default(), vec![0; SINK_BUFFER]);
    let mut tell_at = clock::now() + clock::span(TICK);
    if stream.set_read_timeout(Some(TICK)).is_err() {
        return;
    }
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => arrivals.take(&buffer[..len], pattern),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
        if clock::now() >= tell_at {
            tell_at = clock::now() + clock::span(TICK);
            if arrivals.news().is_some_and(|news| stream.write_all(&news).is_err()) {
                return;
            }
        }
    }
}

fn source(mut stream: TcpStream, pattern: &Pattern) {
    let mut sent = 0;
    while let Ok(len) = stream.write(pattern.stream(sent, PIECE)) {
        sent += len as u64;
    }
}

/// Sends messages, each connection from a thread of its own: no loop, so no less work could be done for them. This is
/// what the machine can carry.
pub(crate) fn send(plan: &Plan, wiring: &Wiring) -> anyhow::Result<u64> {
    if let Some(processor) = wiring.processor {
        environment::pin_this_thread(processor)?; // and the threads it starts
    }
    let ends: Vec<_> = thread::scope(|scope| {
        let lanes = 0..u32::try_from(wiring.lanes).unwrap_or(u32::MAX);
        let start = |lane| scope.spawn(move || send_lane(plan, wiring, plan.share.first + lane));
        let threads: Vec<_> = lanes.map(start).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a sender panicked")))
            .collect()
    });
    let ends = ends.into_iter().collect::<anyhow::Result<Vec<LaneEnd<TcpStream>>>>()?;
    let calls = ends.iter().map(|end| end.calls).sum();
    LaneEnd::conclude(&ends, plan);
    Ok(calls)
}

fn send_lane(plan: &Plan, wiring: &Wiring, lane: u32) -> anyhow::Result<LaneEnd<TcpStream>> {
    let told = |error: std::io::Error| {
        drop(plan.share.news.send(News::NoConnection(error.to_string())));
        error
    };
    let mut stream = TcpStream::connect(wiring.target).map_err(told)?;
    stream.set_nodelay(wiring.nodelay)?;
    let (mut source, mut block) = (Source::new(plan, lane), Vec::with_capacity(2 * frames::BLOCK));
    frames::write(Kind::Data, &source.ask(), &mut block);
    stream.write_all(&block)?;
    plan.share.gate.one_opened();
    let start = loop {
        match plan.share.gate.start() {
            Some(start) if start <= clock::now() => break start,
            _ if plan.share.gate.is_stopped() => break clock::now(), // there is nothing but the end
            _ => thread::park_timeout(GATE),
        }
    };
    let mut blocks = Blocks::new(plan, start);
    let mut calls = 1;
    while blocks.next(&mut source, &mut block, plan) {
        if stream.write_all(&block).is_err() {
            break; // the far end is gone: what it does not answer is lost
        }
        calls += 1;
    }
    stream.set_read_timeout(Some(plan.lengths.patience.max(GATE)))?;
    let answers = read_answers(&mut stream, blocks.answers());
    Ok(LaneEnd {
        _connection: stream,
        sent: source.sent,
        answers,
        times: blocks.times,
        expected: blocks.answers(),
        calls,
    })
}

/// As many answers as come in time.
fn read_answers(stream: &mut TcpStream, expected: usize) -> Vec<Answer> {
    let (mut answers, mut data, mut buffer) = (Vec::new(), Vec::new(), [0; 4096]);
    while answers.len() < expected {
        let Ok(len @ 1..) = stream.read(&mut buffer) else { return answers };
        data.extend_from_slice(&buffer[..len]);
        frames::take_answers(&mut data, &mut answers);
    }
    answers
}
