//! Messages one way, as many as the far end takes. It verifies each, and is asked for its counts at the edges of the
//! window and of its intervals; the figures are made of its answers and its clock, not of what was sent.
//!
//! Here the sender is a ringlink node in message mode, whose callbacks send; one that is fed by another thread is in
//! `from_thread.rs`, and those of other backends are in `contender/`.

mod from_thread;

use std::mem;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ringlink::service::{Answer, Pattern, Word, ask};
use ringlink::{
    Address, Builder, ChannelId, ChannelInfo, CloseReport, Context, DriverKind, Handler, Mode, Node, TimerId,
};

use super::{GATE_TICK, Lengths, News, Sample, Tally, Times};
use crate::clock;
use crate::contender;
use crate::engine::Wiring;
use crate::flags::{Backend, MsgFlags, SendFrom};
use crate::histogram::Histogram;
use crate::pacing::{Random, Sizes};
use crate::report::{Report, Workload};
use crate::run::{Job, Share};

/// Runs messages as the flags say.
pub(crate) fn run(flags: &MsgFlags) -> anyhow::Result<Report> {
    let from = if flags.from == SendFrom::Thread { ", from another thread" } else { "" };
    let job = Job {
        common: &flags.common,
        connections: flags.connections,
        with: flags.with,
        serve: vec!["msg".into(), format!("--connections={}", flags.connections + 16)],
        concurrency: None,
        are_links: false,
        ends_by_count: false,
        workload: Workload {
            kind: "msg".into(),
            size: flags.size.to_string(),
            engine: format!("{}{from}", flags.with),
            ..Workload::default()
        },
    };
    let (lengths, seed) = (job.lengths(), flags.common.seed);
    job.run(|share, wiring| {
        let plan = Plan { sizes: flags.size.clone(), lengths, seed, share };
        match flags.with {
            Backend::Ringlink | Backend::RinglinkTokioUring => {
                let driver = flags.with.driver().unwrap_or_default();
                match flags.from {
                    SendFrom::Handler => Box::new(move || Sender::run(plan, &wiring, driver)),
                    SendFrom::Thread => Box::new(move || from_thread::run(plan, &wiring, driver)),
                }
            }
            Backend::Tokio => Box::new(move || contender::tokio::send(&plan, &wiring)),
            Backend::Threads => Box::new(move || contender::threads::send(&plan, &wiring)),
            Backend::TokioUring => Box::new(|| anyhow::bail!("messages are not carried by tokio-uring")),
        }
    })
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) sizes: Sizes,
    pub(crate) lengths: Lengths,
    pub(crate) seed: u64,
    pub(crate) share: Share,
}

/// The messages of one connection.
#[derive(Debug)]
pub(crate) struct Source {
    lane: u32,
    seed: u64,
    pattern: Pattern,
    sizes: Sizes,
    random: Random,
    pub(crate) sent: Sent,
}

/// What was sent on a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl Source {
    pub(crate) fn new(plan: &Plan, lane: u32) -> Self {
        let (seed, sizes) = (plan.seed, plan.sizes.clone());
        let random = Random::new(seed ^ u64::from(lane) << 32);
        Self { lane, seed, pattern: Pattern::new(seed), sizes, random, sent: Sent::default() }
    }

    pub(crate) fn next_size(&mut self) -> usize {
        self.sizes.draw(&mut self.random)
    }

    fn word(&self) -> Word {
        Word::data(self.lane, self.sent.messages)
    }

    /// Adds the next message, which is the next until it is counted.
    #[inline]
    pub(crate) fn write(&self, size: usize, out: &mut Vec<u8>) {
        self.pattern.write(self.word(), size, out);
    }

    /// The next message in two parts; for one that is not large.
    #[inline]
    pub(crate) fn parts(&self, size: usize) -> ([u8; Word::LEN], &[u8]) {
        self.pattern.parts(self.word(), size)
    }

    /// The next message was sent.
    #[inline]
    pub(crate) fn count(&mut self, size: usize) {
        self.sent.messages += 1;
        self.sent.bytes += size as u64;
    }

    pub(crate) fn ask(&self) -> [u8; 16] {
        ask(self.lane, self.seed)
    }
}

/// When the far end is asked, after the first time: at the window's start, at each interval's end, at its end.
#[derive(Debug)]
pub(crate) struct Marks {
    times: Times,
    asked: u64,
}

impl Marks {
    pub(crate) fn new(times: Times) -> Self {
        Self { times, asked: 0 }
    }

    /// When it is asked next; none after the window's end.
    pub(crate) fn next(&self) -> Option<u64> {
        let Times { from, until, interval, .. } = self.times;
        match self.asked {
            0 => Some(from),
            n if from + (n - 1) * interval < until => Some(until.min(from + n * interval)),
            _ => None,
        }
    }

    /// True once for each mark that has come, and at the end of a run that is stopped: the far end is to be asked.
    pub(crate) fn pass(&mut self, now: u64, is_stopped: bool) -> bool {
        let is_due = is_stopped || self.next().is_some_and(|mark| now >= mark);
        self.asked += u64::from(is_due);
        is_due
    }

    pub(crate) fn times(&self) -> Times {
        self.times
    }

    /// Answers a connection gets, the first included, once all marks have passed.
    pub(crate) fn answers(&self) -> usize {
        usize::try_from(self.asked).unwrap_or(usize::MAX) + 1
    }
}

/// Tells the intervals that all connections have answered for, from the one numbered `told` on.
pub(crate) fn tell_intervals(answers: &[Vec<Answer>], told: &mut usize, share: &Share) {
    // Answers are: first, window's start, then one for each interval.
    while answers.iter().all(|lane| lane.len() > *told + 2) {
        let grown = |field: fn(&Answer) -> u64| -> u64 {
            answers.iter().map(|lane| field(&lane[*told + 2]).saturating_sub(field(&lane[*told + 1]))).sum()
        };
        let (ops, bytes) = (grown(|a| a.messages), grown(|a| a.bytes));
        let sample = Sample { index: *told, ops, bytes, latency: Histogram::coarse() };
        // Nobody listens any more after an error; the run is over then.
        drop(share.news.send(News::Sample(sample)));
        *told += 1;
    }
}

/// What the answers come to.
pub(crate) fn conclude(lanes: &[(Sent, Vec<Answer>)], times: Times, expected: usize) -> Tally {
    let (mut tally, mut ops_per_ns) = (Tally::new(), 0.0);
    for (sent, answers) in lanes {
        let last = answers.last().copied().unwrap_or_default();
        tally.sent += sent.messages;
        tally.bytes_tx += sent.bytes;
        tally.verified += last.messages;
        tally.bytes_rx += last.bytes;
        tally.lost += sent.messages.saturating_sub(last.messages);
        tally.errors.corrupt += last.failures;
        if answers.len() < expected {
            tally.errors.timeout += 1;
            let told = format!("{} of {expected} answers of the far end came", answers.len());
            tally.failure.get_or_insert(told);
        } else if let Some(first) = answers.get(1) {
            let ops = last.messages - first.messages;
            tally.measured_ops += ops;
            tally.measured_bytes += last.bytes - first.bytes;
            ops_per_ns += ops as f64 / (last.at.as_nanos() - first.at.as_nanos()).max(1) as f64;
        }
    }
    if tally.errors.corrupt > 0 {
        tally.failure.get_or_insert(format!("{} messages were wrong", tally.errors.corrupt));
    }
    // By the far end's clock: each connection's window is where its answers lie.
    let window = if ops_per_ns > 0.0 { tally.measured_ops as f64 / ops_per_ns } else { 0.0 };
    tally.ended_at = times.from + window as u64;
    tally
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Sending,
    Draining,
    Done,
}

/// A node that sends on the connections of a thread.
fn node(plan: &Plan, wiring: &Wiring, driver: DriverKind) -> Builder {
    let longest = plan.sizes.most();
    Node::builder()
        .mode(Mode::Message)
        .driver(driver)
        .channels(0, u32::try_from(wiring.lanes).unwrap_or(u32::MAX))
        .pin(wiring.processor.into_iter().collect())
        .busy_poll(wiring.busy_poll)
        .limits(|limits| {
            limits.dials_in_flight = wiring.lanes;
            // Behind the longest there is still room for a question.
            limits.outbox_max = limits.outbox_max.max(limits.outbox_high + 2 * longest);
        })
        .socket(|socket| {
            socket.nodelay = wiring.nodelay;
            socket.congestion.clone_from(&wiring.congestion);
        })
}

/// Runs it to its end; says how many system calls it made.
fn run_node<H: Handler + Send + 'static>(node: Builder, handler: H) -> anyhow::Result<u64> {
    let once = Mutex::new(Some(handler));
    let node = node.start(move |_| {
        let taken = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.expect("there is one loop, and it makes one handler")
    })?;
    let handle = node.handle();
    node.join()?;
    Ok(handle.stats().enters)
}

/// From this length on a message is made in memory of its own: a copy costs more than that.
const IN_PLACE_MIN: usize = 16 << 10;

/// The sender that is a node.
struct Sender {
    plan: Plan,
    target: Address,
    sources: Vec<Source>,
    channels: Vec<ChannelId>,
    answers: Vec<Vec<Answer>>,
    told: usize,
    marks: Option<Marks>,
    phase: Phase,
    failure: Option<String>,
}

impl Sender {
    fn run(plan: Plan, wiring: &Wiring, driver: DriverKind) -> anyhow::Result<u64> {
        let lanes = u32::try_from(wiring.lanes)?;
        let sender = Self {
            target: Address::from(wiring.target),
            sources: (0..lanes).map(|lane| Source::new(&plan, plan.share.first + lane)).collect(),
            channels: Vec::new(),
            answers: vec![Vec::new(); wiring.lanes],
            told: 0,
            marks: None,
            phase: Phase::Opening,
            failure: None,
            plan,
        };
        run_node(node(&sender.plan, wiring, driver), sender)
    }

    fn lane(&self, channel: ChannelId) -> Option<usize> {
        // Slots are given out anew only after a close, which ends the run.
        self.channels.iter().position(|known| *known == channel)
    }

    /// Sends until enough waits.
    fn fill(&mut self, cx: &mut Context<'_>, lane: usize) {
        let (channel, source) = (self.channels[lane], &mut self.sources[lane]);
        while self.phase == Phase::Sending && !cx.is_backed_up(channel) {
            let size = source.next_size();
            let sent = if size < IN_PLACE_MIN {
                let (head, body) = source.parts(size);
                cx.send_parts(channel, &[&head, body])
            } else {
                let mut message = Vec::with_capacity(size);
                source.write(size, &mut message);
                cx.send_bytes(channel, message.into())
            };
            if let Err(error) = sent {
                self.failure.get_or_insert_with(|| format!("connection {lane}: {error}"));
                return;
            }
            source.count(size);
        }
    }

    fn ask_all(&mut self, cx: &mut Context<'_>) {
        for (channel, source) in self.channels.iter().zip(&self.sources) {
            if let Err(error) = cx.send(*channel, &source.ask()) {
                self.failure.get_or_insert_with(|| error.to_string());
            }
        }
    }

    fn proceed(&mut self, cx: &mut Context<'_>) {
        let now = clock::now();
        let gate = &self.plan.share.gate;
        let (start, is_stopped) = (gate.start(), gate.is_stopped());
        if self.phase == Phase::Opening
            && let Some(start) = start.filter(|start| *start <= now)
        {
            self.marks = Some(Marks::new(self.plan.lengths.times(start)));
            self.phase = Phase::Sending;
            (0..self.channels.len()).for_each(|lane| self.fill(cx, lane));
        }
        let Some(marks) = &mut self.marks else {
            if is_stopped {
                return self.finish(cx);
            }
            cx.set_timer(Duration::from_nanos(GATE_TICK), 0);
            return;
        };
        let patience = marks.times.until.saturating_add(marks.times.patience);
        if self.phase == Phase::Sending {
            let passed = marks.pass(now, is_stopped);
            if marks.next().is_none() || is_stopped {
                self.phase = Phase::Draining;
            }
            if passed {
                self.ask_all(cx);
            }
        } else if self.phase == Phase::Draining && now > patience {
            return self.finish(cx);
        }
        cx.set_timer(Duration::from_nanos(GATE_TICK), 0);
    }

    fn finish(&mut self, cx: &mut Context<'_>) {
        if mem::replace(&mut self.phase, Phase::Done) == Phase::Done {
            return;
        }
        let answers = mem::take(&mut self.answers);
        let lanes: Vec<_> = self.sources.iter().map(|source| source.sent).zip(answers).collect();
        let mut tally = match &self.marks {
            Some(marks) => conclude(&lanes, marks.times, marks.answers()),
            None => Tally::new(), // it ends before it began
        };
        tally.failure = self.failure.take().or(tally.failure);
        self.plan.share.gate.done(&self.plan.share.news, tally);
        cx.shutdown(Duration::ZERO);
    }
}

impl Handler for Sender {
    fn on_start(&mut self, cx: &mut Context<'_>) {
        for _ in 0..self.sources.len() {
            match cx.dial(self.target.clone()) {
                Ok(channel) => self.channels.push(channel),
                Err(error) => drop(self.plan.share.news.send(News::NoConnection(error.to_string()))),
            }
        }
        self.proceed(cx);
    }

    fn on_open(&mut self, cx: &mut Context<'_>, channel: ChannelId, _: &ChannelInfo) {
        if let Some(lane) = self.lane(channel)
            && cx.send(channel, &self.sources[lane].ask()).is_ok()
        {
            self.plan.share.gate.one_opened();
        }
    }

    fn on_message(&mut self, cx: &mut Context<'_>, channel: ChannelId, message: &[u8]) {
        let (Some(lane), Some(answer)) = (self.lane(channel), Answer::decode(message)) else {
            self.failure.get_or_insert_with(|| "the far end said what is no answer".into());
            return;
        };
        self.answers[lane].push(answer);
        tell_intervals(&self.answers, &mut self.told, &self.plan.share);
        let expected = self.marks.as_ref().map_or(1, Marks::answers);
        if self.phase == Phase::Draining && self.answers.iter().all(|lane| lane.len() == expected) {
            self.finish(cx);
        }
    }

    fn on_drained(&mut self, cx: &mut Context<'_>, channel: ChannelId) {
        if let Some(lane) = self.lane(channel) {
            self.fill(cx, lane);
        }
    }

    fn on_close(&mut self, cx: &mut Context<'_>, _: ChannelId, report: &CloseReport) {
        match self.phase {
            Phase::Opening => drop(self.plan.share.news.send(News::NoConnection(report.to_string()))),
            Phase::Sending | Phase::Draining => {
                self.failure.get_or_insert_with(|| format!("closed: {report}"));
                self.finish(cx);
            }
            Phase::Done => {}
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, _: TimerId, _: u64) {
        if self.phase != Phase::Done {
            self.proceed(cx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringlink::Mono;

    #[test]
    fn the_far_end_is_asked_at_every_edge_and_then_no_more() {
        let times = Times { start: 0, from: 100, until: 125, interval: 10, patience: 0 };
        let mut marks = Marks::new(times);
        let mut asked = Vec::new();
        while let Some(mark) = marks.next() {
            assert!(!marks.pass(mark - 1, false));
            assert!(marks.pass(mark, false));
            asked.push(mark);
        }
        assert_eq!((asked, marks.answers()), (vec![100, 110, 120, 125], 5));
    }

    #[test]
    fn rates_are_those_of_the_far_end() {
        let answer =
            |messages, at| Answer { messages, bytes: messages * 10, failures: 0, at: Mono::from_nanos(at) };
        let times = Times { start: 0, from: 1000, until: 2000, interval: 1000, patience: 0 };
        let sent = Sent { messages: 70, bytes: 700 };
        let answers = vec![answer(0, 5), answer(20, 5000), answer(70, 5500)];
        let tally = conclude(&[(sent, answers.clone()), (sent, answers)], times, 3);
        assert_eq!((tally.measured_ops, tally.ended_at - times.from), (100, 500));
        assert_eq!((tally.verified, tally.lost, tally.errors.sum()), (140, 0, 0));
        let tally = conclude(&[(sent, vec![answer(0, 5)])], times, 3);
        assert_eq!((tally.lost, tally.errors.timeout), (70, 1));
    }
}
