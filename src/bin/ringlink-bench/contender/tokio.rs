//! tokio, on one thread: a task for each connection.

use std::sync::Arc;

use anyhow::Context as _;
use ringlink::service::Pattern;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::blocks::{Blocks, LaneEnd};
use super::frames::{self, Inbox, Kind};
use super::{ECHO_BUFFER, GATE, SINK_BUFFER};
use crate::engine::Wiring;
use crate::flags::{ServeFlags, Service, Verify};
use crate::serve::{Arrivals, PIECE, TICK};
use crate::workload::News;
use crate::workload::msg::{Plan, Source};
use crate::{clock, environment, serve};

pub(crate) fn serve(flags: &ServeFlags) -> anyhow::Result<()> {
    let pattern = Arc::new(Pattern::new(flags.seed));
    match flags.service {
        Service::Echo => serve_each(flags, echo),
        Service::Msg => serve_each(flags, receive),
        Service::Sink => {
            let pattern = Some(pattern).filter(|_| flags.verify == Verify::Full);
            serve_each(flags, move |stream| sink(stream, pattern.clone()))
        }
        Service::Source => serve_each(flags, move |stream| source(stream, Arc::clone(&pattern))),
    }
}

/// Listens, and gives each connection a task.
fn serve_each<F>(flags: &ServeFlags, each: impl Fn(TcpStream) -> F + Send + 'static) -> anyhow::Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = super::listen(flags)?;
    listener.set_nonblocking(true)?;
    super::supervise(flags, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener)?;
            serve::ready(listener.local_addr()?)?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(each(stream))),
                    Err(_) => tokio::task::yield_now().await, // out of descriptors: others are closed meanwhile
                }
            }
        })
    })
}

async fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; ECHO_BUFFER];
    while let Ok(len @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}

/// The far end of messages.
async fn receive(mut stream: TcpStream) {
    let (mut inbox, mut answers) = (Inbox::new(), Vec::new());
    while let Ok(len @ 1..) = stream.read(inbox.room()).await {
        if inbox.take(len, &mut answers).is_err() || stream.write_all(&answers).await.is_err() {
            return;
        }
        answers.clear();
    }
}

async fn sink(mut stream: TcpStream, pattern: Option<Arc<Pattern>>) {
    let (mut arrivals, mut buffer) = (Arrivals::default(), vec![0; SINK_BUFFER]);
    let mut tell_at = clock::now() + clock::span(TICK);
    loop {
        match tokio::time::timeout(TICK, stream.read(&mut buffer)).await {
            Ok(Ok(len @ 1..)) => arrivals.take(&buffer[..len], pattern.as_deref()),
            Ok(Ok(_) | Err(_)) => return,
            Err(_) => {} // nothing came meanwhile
        }
        if clock::now() >= tell_at {
            tell_at = clock::now() + clock::span(TICK);
            let Some(news) = arrivals.news() else { continue };
            if stream.write_all(&news).await.is_err() {
                return;
            }
        }
    }
}

async fn source(mut stream: TcpStream, pattern: Arc<Pattern>) {
    let mut sent = 0;
    while let Ok(len) = stream.write(pattern.stream(sent, PIECE)).await {
        sent += len as u64;
    }
}

/// Sends messages: a task for each connection.
pub(crate) fn send(plan: &Plan, wiring: &Wiring) -> anyhow::Result<u64> {
    if let Some(processor) = wiring.processor {
        environment::pin_this_thread(processor)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = tokio::task::LocalSet::new();
    let ends = tasks.block_on(&runtime, async {
        let lane =
            |lane| tokio::task::spawn_local(send_lane(plan.clone(), wiring.clone(), plan.share.first + lane));
        let lanes: Vec<_> = (0..u32::try_from(wiring.lanes)?).map(lane).collect();
        let mut ends = Vec::new();
        for lane in lanes {
            ends.push(lane.await.context("a sender panicked")??);
        }
        anyhow::Ok(ends)
    })?;
    let calls = ends.iter().map(|end| end.calls).sum();
    LaneEnd::conclude(&ends, plan);
    Ok(calls)
}

async fn send_lane(plan: Plan, wiring: Wiring, lane: u32) -> anyhow::Result<LaneEnd<TcpStream>> {
    let told = |error: std::io::Error| {
        drop(plan.share.news.send(News::NoConnection(error.to_string())));
        error
    };
    let mut stream = TcpStream::connect(wiring.target).await.map_err(told)?;
    stream.set_nodelay(wiring.nodelay)?;
    let (mut source, mut block) = (Source::new(&plan, lane), Vec::with_capacity(2 * frames::BLOCK));
    frames::write(Kind::Data, &source.ask(), &mut block);
    stream.write_all(&block).await?;
    plan.share.gate.one_opened();
    let start = loop {
        match plan.share.gate.start() {
            Some(start) if start <= clock::now() => break start,
            _ if plan.share.gate.is_stopped() => break clock::now(), // there is nothing but the end
            _ => tokio::time::sleep(GATE).await,
        }
    };
    let mut blocks = Blocks::new(&plan, start);
    let mut calls = 1;
    while blocks.next(&mut source, &mut block, &plan) {
        if stream.write_all(&block).await.is_err() {
            break; // the far end is gone: what it does not answer is lost
        }
        calls += 1;
    }
    let (mut answers, mut data, mut buffer) = (Vec::new(), Vec::new(), [0; 4096]);
    while answers.len() < blocks.answers() {
        let read = tokio::time::timeout(plan.lengths.patience.max(GATE), stream.read(&mut buffer));
        let Ok(Ok(len @ 1..)) = read.await else { break };
        data.extend_from_slice(&buffer[..len]);
        frames::take_answers(&mut data, &mut answers);
    }
    Ok(LaneEnd {
        _connection: stream,
        sent: source.sent,
        answers,
        times: blocks.times,
        expected: blocks.answers(),
        calls,
    })
}
