//! Messages that a thread beside the loop sends through a handle, as most programs would: the node's own callbacks only
//! hear the answers, and wake the thread when there is room again.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ringlink::service::Answer;
use ringlink::{
    Address, ChannelId, ChannelInfo, CloseReport, Context, DriverKind, Handle, Handler, SendError, TimerId,
};

use super::{IN_PLACE_MIN, Marks, Plan, Sent, Source, conclude, node, run_node, tell_intervals};
use crate::engine::Wiring;
use crate::workload::{GATE_TICK, News, Tally, Times};
use crate::{clock, environment};

/// Messages between two looks at the clock.
const BURST: usize = 64;
const TICK: Duration = Duration::from_nanos(GATE_TICK);

pub(super) fn run(plan: Plan, wiring: &Wiring, driver: DriverKind) -> anyhow::Result<u64> {
    let listener = Listener {
        target: Address::from(wiring.target),
        processor: wiring.processor,
        channel: None,
        feeder: None,
        fed: Arc::default(),
        answers: vec![Vec::new()],
        told: 0,
        give_up_at: None,
        is_done: false,
        failure: None,
        plan,
    };
    run_node(node(&listener.plan, wiring, driver), listener)
}

/// What the thread did, once it is through.
#[derive(Clone, Copy, Debug)]
struct Fed {
    sent: Sent,
    times: Times,
    expected: usize,
}

/// The handler of the node. The flags were checked: a node has one link, so there is one connection.
struct Listener {
    plan: Plan,
    target: Address,
    processor: Option<usize>,
    channel: Option<ChannelId>,
    feeder: Option<JoinHandle<()>>,
    fed: Arc<Mutex<Option<Fed>>>,
    /// Of the one connection.
    answers: Vec<Vec<Answer>>,
    told: usize,
    give_up_at: Option<u64>,
    is_done: bool,
    failure: Option<String>,
}

impl Listener {
    fn fed(&self) -> Option<Fed> {
        *self.fed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the run when all answers have come, or will not come any more.
    fn proceed(&mut self, cx: &mut Context<'_>) {
        let Some(fed) = self.fed() else { return };
        let now = clock::now();
        let give_up_at = *self.give_up_at.get_or_insert(now.saturating_add(fed.times.patience));
        if self.answers[0].len() >= fed.expected || now >= give_up_at {
            self.finish(cx, Some(fed));
        }
    }

    fn finish(&mut self, cx: &mut Context<'_>, fed: Option<Fed>) {
        if std::mem::replace(&mut self.is_done, true) {
            return;
        }
        let answers = std::mem::take(&mut self.answers[0]);
        let mut tally = match fed {
            Some(Fed { sent, times, expected }) => conclude(&[(sent, answers)], times, expected),
            None => Tally::new(), // it ends before it began
        };
        tally.failure = self.failure.take().or(tally.failure);
        self.plan.share.gate.done(&self.plan.share.news, tally);
        cx.shutdown(Duration::ZERO);
    }
}

impl Handler for Listener {
    fn on_start(&mut self, cx: &mut Context<'_>) {
        match cx.dial(self.target.clone()) {
            Ok(channel) => self.channel = Some(channel),
            Err(error) => drop(self.plan.share.news.send(News::NoConnection(error.to_string()))),
        }
        cx.set_timer(TICK, 0);
    }

    fn on_open(&mut self, cx: &mut Context<'_>, channel: ChannelId, _: &ChannelInfo) {
        let feeder = Feeder {
            source: Source::new(&self.plan, self.plan.share.first),
            plan: self.plan.clone(),
            handle: cx.handle().clone(),
            channel,
        };
        let (fed, processor) = (Arc::clone(&self.fed), self.processor);
        let feed = move || {
            // Where the generator runs, it runs: not on the far end's processor.
            if let Some(Err(error)) = processor.map(environment::pin_this_thread) {
                tracing::warn!(%error, "the sending thread is not pinned");
            }
            let end = feeder.feed();
            *fed.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        };
        match thread::Builder::new().name("feeder".into()).spawn(feed) {
            Ok(thread) => self.feeder = Some(thread),
            Err(error) => drop(self.plan.share.news.send(News::NoConnection(error.to_string()))),
        }
    }

    fn on_message(&mut self, cx: &mut Context<'_>, _: ChannelId, message: &[u8]) {
        let Some(answer) = Answer::decode(message) else {
            self.failure.get_or_insert_with(|| "the far end said what is no answer".into());
            return;
        };
        self.answers[0].push(answer);
        tell_intervals(&self.answers, &mut self.told, &self.plan.share);
        self.proceed(cx);
    }

    fn on_drained(&mut self, _: &mut Context<'_>, _: ChannelId) {
        if let Some(feeder) = &self.feeder {
            feeder.thread().unpark();
        }
    }

    fn on_close(&mut self, cx: &mut Context<'_>, _: ChannelId, report: &CloseReport) {
        if self.feeder.is_none() {
            drop(self.plan.share.news.send(News::NoConnection(report.to_string())));
        } else if !self.is_done {
            self.failure.get_or_insert_with(|| format!("closed: {report}"));
            // Its sends are refused from now on.
            if let Some(feeder) = self.feeder.take() {
                drop(feeder.join());
            }
            let fed = self.fed();
            self.finish(cx, fed);
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, _: TimerId, _: u64) {
        if self.is_done {
            return;
        }
        self.proceed(cx);
        let is_waiting = self.feeder.is_none();
        if is_waiting && self.plan.share.gate.is_stopped() {
            return self.finish(cx, None);
        }
        cx.set_timer(TICK, 0);
    }
}

/// What the thread has.
struct Feeder {
    plan: Plan,
    handle: Handle,
    channel: ChannelId,
    source: Source,
}

impl Feeder {
    fn feed(mut self) -> Fed {
        let gate = Arc::clone(&self.plan.share.gate);
        let mut is_open = self.send(&[&self.source.ask()]);
        gate.one_opened();
        let start = loop {
            match gate.start() {
                Some(start) if start <= clock::now() => break start,
                _ if gate.is_stopped() => break clock::now(),
                _ => thread::park_timeout(TICK),
            }
        };
        let times = self.plan.lengths.times(start);
        let (mut marks, mut message) = (Marks::new(times), Vec::new());
        while is_open {
            let is_stopped = gate.is_stopped();
            if marks.pass(clock::now(), is_stopped) {
                is_open = self.send(&[&self.source.ask()]);
                if is_stopped || marks.next().is_none() {
                    break;
                }
            }
            for _ in 0..BURST {
                let size = self.source.next_size();
                is_open = if size < IN_PLACE_MIN {
                    let (head, body) = self.source.parts(size);
                    self.send(&[&head, body])
                } else {
                    message.clear();
                    self.source.write(size, &mut message);
                    self.send(&[&message])
                };
                if !is_open {
                    break;
                }
                self.source.count(size);
            }
        }
        Fed { sent: self.source.sent, times, expected: marks.answers() }
    }

    /// Sends as soon as there is room; false when the channel is closed.
    fn send(&self, message: &[&[u8]]) -> bool {
        loop {
            match self.handle.send_parts(self.channel, message) {
                Ok(()) => return true,
                // `on_drained` ends it; the time is for a drain between the refusal and this.
                Err(SendError::WouldBlock { .. }) => thread::park_timeout(TICK),
                Err(SendError::Busy) => thread::yield_now(),
                Err(_) => return false,
            }
        }
    }
}
