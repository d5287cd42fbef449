//! One blocking thread for each connection: `std::net` alone.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use anyhow::{Context as _, bail};
use ringlink::service::Answer;

use super::GATE;
use super::blocks::{Blocks, LaneEnd};
use super::frames::{self, Inbox};
use crate::engine::Wiring;
use crate::flags::ServeFlags;
use crate::workload::News;
use crate::workload::msg::{Plan, Source};
use crate::{clock, environment, serve};

const ECHO_BUFFER: usize = 16 << 10;
/// Enough for an echo's few frames, so that thousands of threads fit.
const STACK: usize = 128 << 10;

pub(crate) fn echo(flags: &ServeFlags) -> anyhow::Result<()> {
    serve_each(flags, |mut stream| {
        let mut buffer = vec![0; ECHO_BUFFER];
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..len]).is_err() {
                return;
            }
        }
    })
}

/// Listens, and gives each connection to a thread of its own.
fn serve_each(flags: &ServeFlags, each: impl Fn(TcpStream) + Clone + Send + 'static) -> anyhow::Result<()> {
    let listener =
        TcpListener::bind(flags.listen).with_context(|| format!("cannot listen on {}", flags.listen))?;
    serve::ready(listener.local_addr()?)?;
    let accept = move || {
        for stream in listener.incoming().flatten() {
            let each = each.clone();
            let start = move || {
                drop(stream.set_nodelay(true));
                each(stream);
            };
            if let Err(error) = thread::Builder::new().stack_size(STACK).spawn(start) {
                tracing::error!(%error, "cannot start a thread");
            }
        }
    };
    let accepting = thread::Builder::new().spawn(accept).context("cannot start a thread")?;
    if flags.supervised {
        serve::answer(|_| None)
    } else {
        drop(accepting.join());
        Ok(())
    }
}

/// The far end of messages: blocks are read, verified, and nothing else.
pub(crate) fn receive(flags: &ServeFlags) -> anyhow::Result<()> {
    serve_each(flags, |mut stream| {
        let (mut inbox, mut answers) = (Inbox::new(), Vec::new());
        while let Ok(len @ 1..) = stream.read(inbox.room()) {
            if inbox.take(len, &mut answers).is_err() || stream.write_all(&answers).is_err() {
                return;
            }
            answers.clear();
        }
    })
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
    let ends = ends.into_iter().collect::<anyhow::Result<Vec<LaneEnd>>>()?;
    let calls = ends.iter().map(|end| end.calls).sum();
    LaneEnd::conclude(ends, plan);
    Ok(calls)
}

fn send_lane(plan: &Plan, wiring: &Wiring, lane: u32) -> anyhow::Result<LaneEnd> {
    let told = |error: std::io::Error| {
        drop(plan.share.news.send(News::NoConnection(error.to_string())));
        error
    };
    let mut stream = TcpStream::connect(wiring.target).map_err(told)?;
    stream.set_nodelay(wiring.nodelay)?;
    let (mut source, mut block) = (Source::new(plan, lane), Vec::with_capacity(2 * frames::BLOCK));
    frames::write(&source.ask(), &mut block);
    stream.write_all(&block)?;
    plan.share.gate.one_opened();
    let start = loop {
        match plan.share.gate.start() {
            Some(start) if start <= clock::now() => break start,
            _ if plan.share.gate.is_stopped() => bail!("stopped before the start"),
            _ => thread::park_timeout(GATE),
        }
    };
    let mut blocks = Blocks::new(plan, start);
    let mut calls = 1;
    while blocks.next(&mut source, &mut block, plan) {
        stream.write_all(&block)?;
        calls += 1;
    }
    stream.set_read_timeout(Some(plan.lengths.patience.max(GATE)))?;
    let answers = read_answers(&mut stream, blocks.answers());
    Ok(LaneEnd { sent: source.sent, answers, times: blocks.times, expected: blocks.answers(), calls })
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
