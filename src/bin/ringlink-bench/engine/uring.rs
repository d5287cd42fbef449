//! The engine that is ringlink: a node of one loop, whose channels are the load's lanes.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Context as _;
use ringlink::{
    Address, ChannelId, ChannelInfo, CloseReason, CloseReport, Context, DriverKind, Handler, Mode, Node,
    TimerId,
};

use super::{Close, Ended, Io, LOW, Lane, Load, Wiring};
use crate::clock;
use crate::pacing::MAX_SIZE;

pub(crate) fn run(load: impl Load, wiring: &Wiring) -> anyhow::Result<u64> {
    // A lane is dialed again while the channel of its last connection is still on its way out.
    let size = u32::try_from(2 * wiring.lanes.max(1)).context("too many connections")?;
    let node = Node::builder()
        .mode(Mode::Stream)
        .driver(DriverKind::Uring)
        .channels(0, size)
        .pin(wiring.processor.into_iter().collect())
        .busy_poll(wiring.busy_poll)
        .limits(|limits| {
            limits.dials_in_flight = wiring.lanes.max(1);
            limits.outbox_low = LOW;
            limits.outbox_max = MAX_SIZE;
            limits.idle_timeout = Some(Duration::ZERO);
            limits.write_timeout = Duration::ZERO;
        })
        .socket(|socket| {
            socket.nodelay = wiring.nodelay;
            socket.congestion.clone_from(&wiring.congestion);
        });
    let lanes = Lanes {
        target: Address::from(wiring.target),
        channels: vec![None; wiring.lanes],
        by_slot: vec![0; size as usize],
        eof: vec![false; wiring.lanes],
        failed: Vec::new(),
        timer: None,
        stopped: false,
    };
    let once = Mutex::new(Some((load, lanes)));
    let node = node.start(move |_| {
        let taken = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (load, lanes) = taken.expect("there is one loop, and it makes one handler");
        Adapter { load, lanes }
    })?;
    let handle = node.handle();
    node.join()?;
    Ok(handle.stats().enters)
}

struct Adapter<L> {
    load: L,
    lanes: Lanes,
}

struct Lanes {
    target: Address,
    channels: Vec<Option<ChannelId>>,
    by_slot: Vec<Lane>,
    /// Lanes whose peer has ended.
    eof: Vec<bool>,
    /// Dials that could not begin; told after the callback that asked for them.
    failed: Vec<(Lane, String)>,
    timer: Option<TimerId>,
    stopped: bool,
}

impl Lanes {
    fn lane(&self, channel: ChannelId) -> Lane {
        self.by_slot[channel.slot() as usize]
    }
}

struct Words<'w, 'c> {
    lanes: &'w mut Lanes,
    cx: &'w mut Context<'c>,
}

impl Io for Words<'_, '_> {
    fn dial(&mut self, lane: Lane) {
        match self.cx.dial(self.lanes.target.clone()) {
            Ok(channel) => {
                self.lanes.channels[lane] = Some(channel);
                self.lanes.by_slot[channel.slot() as usize] = lane;
                self.lanes.eof[lane] = false;
            }
            Err(error) => self.lanes.failed.push((lane, error.to_string())),
        }
    }

    fn send(&mut self, lane: Lane, bytes: &[u8]) -> bool {
        self.lanes.channels[lane].is_some_and(|channel| self.cx.send(channel, bytes).is_ok())
    }

    fn close(&mut self, lane: Lane, how: Close) {
        if let Some(channel) = self.lanes.channels[lane] {
            match how {
                Close::Fin => self.cx.close(channel),
                Close::Reset => self.cx.abort(channel),
            }
        }
    }

    fn pause(&mut self, lane: Lane) {
        if let Some(channel) = self.lanes.channels[lane] {
            self.cx.pause(channel);
        }
    }

    fn wake_at(&mut self, time: u64) {
        if let Some(timer) = self.lanes.timer.take() {
            self.cx.cancel_timer(timer);
        }
        let after = Duration::from_nanos(time.saturating_sub(clock::now()));
        self.lanes.timer = Some(self.cx.set_timer(after, 0));
    }

    fn stop(&mut self) {
        self.lanes.stopped = true;
        self.cx.shutdown(Duration::ZERO);
    }
}

impl<L: Load> Adapter<L> {
    fn call(&mut self, cx: &mut Context<'_>, callback: impl FnOnce(&mut L, &mut dyn Io)) {
        if self.lanes.stopped {
            return;
        }
        callback(&mut self.load, &mut Words { lanes: &mut self.lanes, cx });
        while let Some((lane, error)) = self.lanes.failed.pop() {
            self.load.closed(&mut Words { lanes: &mut self.lanes, cx }, lane, Ended::Other(error));
        }
    }
}

impl<L: Load> Handler for Adapter<L> {
    fn on_start(&mut self, cx: &mut Context<'_>) {
        self.call(cx, L::start);
    }

    fn on_open(&mut self, cx: &mut Context<'_>, channel: ChannelId, _: &ChannelInfo) {
        let lane = self.lanes.lane(channel);
        self.call(cx, |load, io| load.opened(io, lane));
    }

    fn on_data(&mut self, cx: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        let lane = self.lanes.lane(channel);
        self.call(cx, |load, io| load.received(io, lane, data));
    }

    fn on_eof(&mut self, cx: &mut Context<'_>, channel: ChannelId) {
        let lane = self.lanes.lane(channel);
        self.lanes.eof[lane] = true;
        cx.close(channel);
    }

    fn on_drained(&mut self, cx: &mut Context<'_>, channel: ChannelId) {
        let lane = self.lanes.lane(channel);
        self.call(cx, |load, io| load.drained(io, lane));
    }

    fn on_close(&mut self, cx: &mut Context<'_>, channel: ChannelId, report: &CloseReport) {
        let lane = self.lanes.lane(channel);
        self.lanes.channels[lane] = None;
        let why = if self.lanes.eof[lane] { Ended::Eof } else { ended(report) };
        self.call(cx, |load, io| load.closed(io, lane, why));
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, _: TimerId, _: u64) {
        self.lanes.timer = None;
        self.call(cx, L::woken);
    }
}

fn ended(report: &CloseReport) -> Ended {
    const KNOWN: [(CloseReason, Ended); 7] = [
        (CloseReason::Normal, Ended::Ours),
        (CloseReason::Aborted, Ended::Ours),
        (CloseReason::Shutdown, Ended::Ours),
        (CloseReason::PeerClosed, Ended::Eof),
        (CloseReason::Reset, Ended::Reset),
        (CloseReason::DialRefused, Ended::Refused),
        (CloseReason::DialTimeout, Ended::Timeout),
    ];
    let known = KNOWN.into_iter().find(|(reason, _)| *reason == report.reason);
    known.map_or_else(|| Ended::Other(report.to_string()), |(_, ended)| ended)
}
