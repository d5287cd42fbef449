//! `ringlink demo`: two nodes in one process, each listening, one dials the other. Both send for a while, half-close,
//! and verify what they receive: each byte, and in message mode the length of each message, so that none is missing,
//! doubled or out of order. What they send is in `demo/sequence.rs`, what is printed in `demo/table.rs`.

mod sequence;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use anyhow::Context as _;
use ringlink::{
    Address, ChannelId, ChannelInfo, CloseReport, Context, Endpoint, Handler, Mode, Mono, Node, SendError,
    TimerId,
};

use crate::flags::{DemoFlags, LogFormat};
use crate::{catch_signals, on_signals, start_logs};
use sequence::Sequence;

const NAMES: [&str; 2] = ["a", "b"];
/// In stream mode sends are of this length, in message mode of these, at random.
const CHUNK: usize = 32 << 10;
const LENGTHS: [usize; 16] = {
    let (small, kib, large) = (64, 1 << 10, 64 << 10);
    [0, 0, small, small, small, small, small, kib, kib, kib, kib, kib, large, large, large, 1 << 20]
};
/// How often a node looks whether it has sent for long enough.
const TICK: Duration = Duration::from_millis(20);
/// What the drain may take after the last byte was sent; more than this is a hang.
const PATIENCE: Duration = Duration::from_secs(15);
const GRACE: Duration = Duration::from_secs(5);

/// Runs the demo; true when every byte arrived as it was sent.
pub(crate) fn demo(flags: &DemoFlags) -> anyhow::Result<bool> {
    start_logs(LogFormat::Text, "warn");
    let signals = catch_signals()?;
    let (report, reports) = mpsc::channel();
    let enough = Arc::new(AtomicBool::new(false));
    let start = |side| start_node(side, flags, &enough, &report);
    let nodes = [start(0)?, start(1)?];
    let (enough, handles) = (Arc::clone(&enough), nodes.each_ref().map(Node::handle));
    on_signals(signals, move |first| {
        // The first ends the sending alone, so that the counts can still be held against each other.
        enough.store(true, Relaxed);
        if !first {
            handles.iter().for_each(|handle| handle.shutdown(Duration::ZERO));
        }
    })?;
    let listens = nodes.each_ref().map(|node| node.local_addrs().first().cloned());
    let address = listens[1].clone().context("node b listens nowhere")?;
    nodes[0].handle().dial(Address::from(address)).context("node a cannot dial node b")?;
    let sides = collect(&reports, flags.seconds + PATIENCE);
    let stats = nodes.each_ref().map(|node| node.handle().stats());
    for node in nodes {
        node.shutdown(GRACE);
        node.join()?;
    }
    Ok(table::print(flags.mode(), &sides, &listens, &stats))
}

fn start_node(
    side: usize,
    flags: &DemoFlags,
    enough: &Arc<AtomicBool>,
    report: &Sender<(usize, Side)>,
) -> anyhow::Result<Node> {
    let (enough, report) = (Arc::clone(enough), report.clone());
    let (seconds, mode) = (flags.seconds, flags.mode());
    let builder = Node::builder().mode(mode).driver(flags.driver()).listen_on("127.0.0.1:0")?;
    let node = builder.start(move |_| Talker {
        side,
        seconds,
        mode,
        enough: Arc::clone(&enough),
        report: report.clone(),
        chunk: Vec::new(),
        talk: None,
    })?;
    Ok(node)
}

/// Waits for what both sides have to report, as long as it may take.
fn collect(reports: &Receiver<(usize, Side)>, patience: Duration) -> [Option<Side>; 2] {
    let mut sides = [None, None];
    while sides.iter().any(Option::is_none) {
        match reports.recv_timeout(patience) {
            Ok((side, report)) => sides[side] = Some(report),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                tracing::error!("a node did not finish");
                break;
            }
        }
        // A dial that failed is reported by one node only.
        if sides.iter().flatten().any(|side| side.link.is_none()) {
            break;
        }
    }
    sides
}

/// What one node has to say in the end.
#[derive(Debug)]
struct Side {
    sent: u64,
    sent_chunks: u64,
    received: u64,
    chunks: u64,
    /// The position of the first byte that was not what had been sent.
    wrong_at: Option<u64>,
    /// From the channel's opening to the last byte received.
    receiving: Duration,
    /// The channel and its two addresses; none when it never opened.
    link: Option<Link>,
    close: CloseReport,
}

#[derive(Debug)]
struct Link {
    channel: ChannelId,
    local: Option<Endpoint>,
    peer: Option<Endpoint>,
}

/// One node's handler: talks on its first channel.
struct Talker {
    side: usize,
    seconds: Duration,
    mode: Mode,
    enough: Arc<AtomicBool>,
    report: Sender<(usize, Side)>,
    chunk: Vec<u8>,
    talk: Option<Talk>,
}

/// The state of the one channel.
struct Talk {
    link: Link,
    outgoing: Sequence,
    incoming: Sequence,
    sent_chunks: u64,
    chunks: u64,
    wrong_at: Option<u64>,
    opened_at: Mono,
    received_at: Mono,
    send_ended: bool,
    peer_ended: bool,
}

/// How long the next send of a sequence is: both sides know it.
fn length(sequence: &Sequence, number: u64, mode: Mode) -> usize {
    if mode == Mode::Message {
        LENGTHS[(sequence.choose(number) % LENGTHS.len() as u64) as usize]
    } else {
        CHUNK
    }
}

impl Talker {
    fn talk_on(&mut self, channel: ChannelId) -> Option<&mut Talk> {
        self.talk.as_mut().filter(|talk| talk.link.channel == channel)
    }

    /// Sends until the outbox is full enough; `on_drained` goes on.
    fn send(&mut self, cx: &mut Context<'_>) {
        let Some(talk) = self.talk.as_mut().filter(|talk| !talk.send_ended) else { return };
        let channel = talk.link.channel;
        while !cx.is_backed_up(channel) {
            let before = talk.outgoing;
            self.chunk.resize(length(&before, talk.sent_chunks, self.mode), 0);
            talk.outgoing.fill(&mut self.chunk);
            if let Err(error) = cx.send(channel, &self.chunk) {
                talk.outgoing = before;
                // Closed is a shutdown: on_close follows and tells.
                if error != SendError::Closed {
                    tracing::error!(%channel, %error, "cannot send");
                    cx.abort(channel);
                }
                return;
            }
            talk.sent_chunks += 1;
        }
    }

    fn receive(&mut self, now: Mono, channel: ChannelId, data: &[u8]) {
        let mode = self.mode;
        let Some(talk) = self.talk_on(channel) else { return };
        let is_cut_right = mode != Mode::Message || data.len() == length(&talk.incoming, talk.chunks, mode);
        let starts_at = talk.incoming.at();
        talk.chunks += 1;
        talk.received_at = now;
        let wrong_at = talk.incoming.verify(data).or((!is_cut_right).then_some(starts_at));
        talk.wrong_at = talk.wrong_at.or(wrong_at);
    }

    fn close_when_both_ended(&mut self, cx: &mut Context<'_>) {
        if let Some(talk) = self.talk.as_ref().filter(|talk| talk.send_ended && talk.peer_ended) {
            cx.close(talk.link.channel);
        }
    }
}

impl Handler for Talker {
    fn on_open(&mut self, cx: &mut Context<'_>, channel: ChannelId, info: &ChannelInfo) {
        if self.talk.is_some() {
            // Somebody else found the port.
            cx.abort(channel);
            return;
        }
        let now = cx.now();
        self.talk = Some(Talk {
            link: Link { channel, local: info.local_addr.clone(), peer: info.peer_addr.clone() },
            outgoing: Sequence::new(self.side as u64),
            incoming: Sequence::new(1 - self.side as u64),
            sent_chunks: 0,
            chunks: 0,
            wrong_at: None,
            opened_at: now,
            received_at: now,
            send_ended: false,
            peer_ended: false,
        });
        cx.set_timer(TICK, 0);
        self.send(cx);
    }

    fn on_data(&mut self, cx: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        self.receive(cx.now(), channel, data);
    }

    fn on_message(&mut self, cx: &mut Context<'_>, channel: ChannelId, message: &[u8]) {
        self.receive(cx.now(), channel, message);
    }

    fn on_drained(&mut self, cx: &mut Context<'_>, _: ChannelId) {
        self.send(cx);
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, _: TimerId, _: u64) {
        let now = cx.now();
        let is_over = |talk: &Talk| now.since(talk.opened_at) >= self.seconds || self.enough.load(Relaxed);
        match &mut self.talk {
            Some(talk) if is_over(talk) => {
                talk.send_ended = true;
                cx.shutdown_write(talk.link.channel);
                self.close_when_both_ended(cx);
            }
            _ => drop(cx.set_timer(TICK, 0)),
        }
    }

    fn on_eof(&mut self, cx: &mut Context<'_>, channel: ChannelId) {
        if let Some(talk) = self.talk_on(channel) {
            talk.peer_ended = true;
        }
        self.close_when_both_ended(cx);
    }

    fn on_close(&mut self, _: &mut Context<'_>, channel: ChannelId, close: &CloseReport) {
        let close = close.clone();
        let report = match self.talk.take_if(|talk| talk.link.channel == channel) {
            Some(talk) => Side {
                sent: talk.outgoing.at(),
                sent_chunks: talk.sent_chunks,
                received: talk.incoming.at(),
                chunks: talk.chunks,
                wrong_at: talk.wrong_at,
                receiving: talk.received_at.since(talk.opened_at),
                link: Some(talk.link),
                close,
            },
            // The one dial failed, or a stranger left.
            None if !close.opened => Side {
                sent: 0,
                sent_chunks: 0,
                received: 0,
                chunks: 0,
                wrong_at: None,
                receiving: Duration::ZERO,
                link: None,
                close,
            },
            None => return,
        };
        // Nobody listens once the demo is over.
        drop(self.report.send((self.side, report)));
    }
}
