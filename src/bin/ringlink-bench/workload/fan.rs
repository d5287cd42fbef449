//! One hub and many peers. Each peer is a connection that says hello as a node of its own, and speaks the protocol by the
//! few lines of `contender/frames.rs`, not by the library's: the hub is ringlink (`serve msg`, or `ringlink run --service
//! bench`), the peers are a witness.
//!
//! In: all peers send, and the hub says what arrived (`fan/inward.rs`). Out and broadcast: a message of the first peer is
//! passed on to all, and is complete when the last has it (`fan/outward.rs`).

mod inward;
mod outward;

use std::sync::Arc;
use std::sync::mpsc::Sender;

use ringlink::service::Relay;

use super::msg::Plan;
use super::{GATE_TICK, Gate, News, Tally};
use crate::clock;
use crate::contender::frames::{self, Kind};
use crate::engine::{Close, Ended, Io, Lane, Load};
use crate::flags::{FanFlags, FanMode};
use crate::report::{Report, Workload};
use crate::run::Job;

/// Dials under way at once: more would fall out of the hub's backlog, and come back a second later.
const DIALS: usize = 256;

/// Runs a hub and its peers as the flags say.
pub(crate) fn run(flags: &FanFlags) -> anyhow::Result<Report> {
    let mode = match flags.mode {
        FanMode::In => "in",
        FanMode::Out => "out",
        FanMode::Broadcast => "broadcast",
    };
    let job = Job {
        common: &flags.common,
        connections: flags.connections,
        with: flags.ends.with,
        serve: vec!["msg".into(), format!("--connections={}", flags.connections + 16)],
        concurrency: None,
        are_links: false,
        ends_by_count: false,
        workload: Workload {
            kind: "fan".into(),
            engine: format!("{mode}, {}", flags.ends.engine),
            pipeline: if flags.mode == FanMode::In { 0 } else { flags.window() },
            size: flags.size.to_string(),
            ..Workload::default()
        },
    };
    let (lengths, seed, slow) = (job.lengths(), flags.common.seed, flags.slow);
    let mut report = job.run(|share, wiring| {
        let (engine, lanes) = (flags.ends.engine, share.lanes);
        let (gate, news) = (Arc::clone(&share.gate), share.news.clone());
        let plan = Plan { sizes: flags.size.clone(), lengths, seed, share };
        let outward = |relay| outward::Outward::new(&plan, relay, lanes, slow, flags.window());
        match flags.mode {
            FanMode::In => {
                let load = Fan::new(inward::Inward::new(plan, lanes), lanes, gate, news);
                Box::new(move || engine.run(load, &wiring))
            }
            FanMode::Out | FanMode::Broadcast => {
                let by_broadcast = flags.mode == FanMode::Broadcast;
                let relay = if by_broadcast { Relay::Broadcast } else { Relay::SendToEach };
                let load = Fan::new(outward(relay), lanes, gate, news);
                Box::new(move || engine.run(load, &wiring))
            }
        }
    })?;
    if flags.mode != FanMode::In {
        let peers = (flags.connections - flags.slow) as f64;
        report.figures.insert("messages_to_all_per_s".into(), report.rate.ops_per_s / peers);
    }
    if flags.slow > 0 {
        report.figures.insert("slow_peers".into(), flags.slow as f64);
    }
    Ok(report)
}

/// What the peers do once all have said hello.
trait Pattern: Send + 'static {
    /// The run starts at this time.
    fn begin(&mut self, io: &mut dyn Io, start: u64);
    /// All hellos are said on this one.
    fn opened(&mut self, io: &mut dyn Io, lane: Lane);
    fn message(&mut self, io: &mut dyn Io, lane: Lane, message: &[u8]) -> Result<(), String>;
    fn drained(&mut self, io: &mut dyn Io, lane: Lane);
    /// True when the end of this connection is no failure.
    fn may_end(&self, lane: Lane) -> bool;
    /// What is to be done at this moment; the tally once the run is over.
    fn proceed(&mut self, io: &mut dyn Io, now: u64, is_stopped: bool) -> Option<Tally>;
    /// The run is over for this reason.
    fn fail(&mut self, why: String) -> Tally;
}

#[derive(Debug, Default)]
struct Peer {
    open: bool,
    /// A frame that is not complete.
    partial: Vec<u8>,
}

struct Fan<P> {
    pattern: P,
    peers: Vec<Peer>,
    dialed: usize,
    gate: Arc<Gate>,
    news: Sender<News>,
    has_begun: bool,
    is_done: bool,
    scratch: Vec<u8>,
}

impl<P: Pattern> Fan<P> {
    fn new(pattern: P, lanes: usize, gate: Arc<Gate>, news: Sender<News>) -> Self {
        let peers = (0..lanes).map(|_| Peer::default()).collect();
        let scratch = Vec::new();
        Self { pattern, peers, dialed: 0, gate, news, has_begun: false, is_done: false, scratch }
    }

    fn dial_next(&mut self, io: &mut dyn Io) {
        if self.dialed < self.peers.len() {
            self.dialed += 1;
            io.dial(self.dialed - 1);
        }
    }

    fn say(&mut self, io: &mut dyn Io, lane: Lane, kind: Kind, payload: &[u8]) {
        self.scratch.clear();
        frames::write(kind, payload, &mut self.scratch);
        io.send(lane, &self.scratch);
    }

    /// Takes whole frames; says how many bytes they were.
    fn take(&mut self, io: &mut dyn Io, lane: Lane, data: &[u8]) -> Result<usize, String> {
        let mut at = 0;
        while let Some((kind, payload, len)) = frames::first(&data[at..])? {
            at += len;
            match kind {
                Kind::Data if self.peers[lane].open => self.pattern.message(io, lane, payload)?,
                Kind::Ping => self.say(io, lane, Kind::Pong, &frames::pong(payload)),
                Kind::Hello if !self.peers[lane].open => {
                    frames::check_hello(payload, &hello(lane))?;
                    self.peers[lane].open = true;
                    self.pattern.opened(io, lane);
                    self.gate.one_opened();
                    self.dial_next(io);
                }
                Kind::Pong => {}
                Kind::GoAway => return Err("the hub says go away".into()),
                Kind::Data | Kind::Hello => {
                    return Err("the hub's first frame must be a hello, and one".into());
                }
            }
        }
        Ok(at)
    }

    fn finish(&mut self, io: &mut dyn Io, tally: Tally) {
        if !std::mem::replace(&mut self.is_done, true) {
            self.gate.done(&self.news, tally);
            io.stop();
        }
    }

    fn proceed(&mut self, io: &mut dyn Io) {
        let now = clock::now();
        let is_stopped = self.gate.is_stopped();
        if !self.has_begun {
            match self.gate.start() {
                Some(start) if start <= now => {
                    self.has_begun = true;
                    self.pattern.begin(io, start);
                }
                _ if is_stopped => return self.finish(io, Tally::new()),
                Some(_) | None => {}
            }
        }
        let end = if self.has_begun { self.pattern.proceed(io, now, is_stopped) } else { None };
        match end {
            Some(tally) => self.finish(io, tally),
            None => io.wake_at(now + GATE_TICK),
        }
    }
}

fn hello(lane: Lane) -> Vec<u8> {
    frames::hello(u32::try_from(lane).expect("a thread has fewer lanes than a word can tell apart"))
}

impl<P: Pattern> Load for Fan<P> {
    fn start(&mut self, io: &mut dyn Io) {
        (0..DIALS).for_each(|_| self.dial_next(io));
        io.wake_at(clock::now() + GATE_TICK);
    }

    fn opened(&mut self, io: &mut dyn Io, lane: Lane) {
        self.say(io, lane, Kind::Hello, &hello(lane));
    }

    fn received(&mut self, io: &mut dyn Io, lane: Lane, data: &[u8]) {
        if self.is_done {
            return;
        }
        let mut partial = std::mem::take(&mut self.peers[lane].partial);
        let taken = if partial.is_empty() {
            self.take(io, lane, data).map(|len| partial.extend_from_slice(&data[len..]))
        } else {
            partial.extend_from_slice(data);
            self.take(io, lane, &partial).map(|len| drop(partial.drain(..len)))
        };
        self.peers[lane].partial = partial;
        if let Err(why) = taken {
            io.close(lane, Close::Reset);
            let tally = self.pattern.fail(format!("peer {lane}: {why}"));
            self.finish(io, tally);
        }
    }

    fn drained(&mut self, io: &mut dyn Io, lane: Lane) {
        if self.has_begun {
            self.pattern.drained(io, lane);
        }
    }

    fn closed(&mut self, io: &mut dyn Io, lane: Lane, why: Ended) {
        if !self.peers[lane].open {
            drop(self.news.send(News::NoConnection(format!("{why:?}"))));
        } else if !self.pattern.may_end(lane) {
            let tally = self.pattern.fail(format!("peer {lane} closed: {why:?}"));
            self.finish(io, tally);
        }
    }

    fn woken(&mut self, io: &mut dyn Io) {
        if !self.is_done {
            self.proceed(io);
        }
    }
}
