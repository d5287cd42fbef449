//! Counts what comes in and drops it.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::{ChannelId, ChannelInfo, CloseReport, Context, Handler, Mono, TimerId};

const TICK: Duration = Duration::from_secs(1);

/// What the sinks of all loops of a node have counted. Loops add to it once a second and when they stop.
#[derive(Debug, Default)]
pub struct Tally {
    bytes: AtomicU64,
    messages: AtomicU64,
    opened: AtomicU64,
    closed: AtomicU64,
}

impl Tally {
    /// Bytes received; of messages their payload alone.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Messages received; 0 in stream mode.
    pub fn messages(&self) -> u64 {
        self.messages.load(Relaxed)
    }

    /// Channels that were opened.
    pub fn channels(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    fn channels_open(&self) -> u64 {
        // Two counters, each only growing: a loop that has not yet added its closes cannot make this negative.
        self.opened.load(Relaxed).saturating_sub(self.closed.load(Relaxed))
    }
}

/// What one loop has counted since it last added to the tally: no shared cache line is touched for each message.
#[derive(Debug, Default)]
struct Fresh {
    bytes: u64,
    messages: u64,
    opened: u64,
    closed: u64,
}

/// What the last printed line said.
#[derive(Debug, Default)]
struct Printed {
    at: Mono,
    bytes: u64,
    messages: u64,
    channels: u64,
}

/// A handler that counts bytes, messages and channels.
#[derive(Debug)]
pub struct Sink {
    tally: Arc<Tally>,
    fresh: Fresh,
    /// Some in the one loop that prints rates.
    printed: Option<Printed>,
}

impl Sink {
    /// One loop's sink; those of a node share the tally. With `print` it writes the rates of all of them to standard
    /// error, once a second while something moves: wanted of one loop only.
    pub fn new(tally: Arc<Tally>, print: bool) -> Self {
        Self { tally, fresh: Fresh::default(), printed: print.then(Printed::default) }
    }

    fn publish(&mut self) {
        let fresh = std::mem::take(&mut self.fresh);
        self.tally.bytes.fetch_add(fresh.bytes, Relaxed);
        self.tally.messages.fetch_add(fresh.messages, Relaxed);
        self.tally.opened.fetch_add(fresh.opened, Relaxed);
        self.tally.closed.fetch_add(fresh.closed, Relaxed);
    }
}

impl Handler for Sink {
    fn on_start(&mut self, cx: &mut Context<'_>) {
        if let Some(printed) = &mut self.printed {
            printed.at = cx.now();
        }
        cx.set_timer(TICK, 0);
    }

    fn on_open(&mut self, _: &mut Context<'_>, _: ChannelId, _: &ChannelInfo) {
        self.fresh.opened += 1;
    }

    fn on_data(&mut self, _: &mut Context<'_>, _: ChannelId, data: &[u8]) {
        self.fresh.bytes += data.len() as u64;
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: ChannelId, message: &[u8]) {
        self.fresh.bytes += message.len() as u64;
        self.fresh.messages += 1;
    }

    fn on_close(&mut self, _: &mut Context<'_>, _: ChannelId, report: &CloseReport) {
        self.fresh.closed += u64::from(report.opened);
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, _: TimerId, _: u64) {
        self.publish();
        if let Some(printed) = &mut self.printed {
            printed.print(&self.tally, cx.now());
        }
        cx.set_timer(TICK, 0);
    }

    fn on_stop(&mut self, _: &mut Context<'_>) {
        self.publish();
    }
}

impl Printed {
    fn print(&mut self, tally: &Tally, now: Mono) {
        let next = Self {
            at: now,
            bytes: tally.bytes(),
            messages: tally.messages(),
            channels: tally.channels_open(),
        };
        let seconds = now.since(self.at).as_secs_f64().max(1e-9);
        let (bytes, messages) = (next.bytes - self.bytes, next.messages - self.messages);
        if bytes > 0 || messages > 0 || next.channels != self.channels {
            // A rate nobody can read is no reason to stop.
            drop(writeln!(
                io::stderr(),
                "{:>6} channels {:>12.1} MB/s {:>12.0} messages/s {:>12.1} MB in all",
                next.channels,
                bytes as f64 / seconds / 1e6,
                messages as f64 / seconds,
                next.bytes as f64 / 1e6,
            ));
        }
        *self = next;
    }
}
