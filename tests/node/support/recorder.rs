//! The handler of every case: it keeps a journal that finds callbacks out of order, forwards what happens as events,
//! echoes if the plan says so, and then lets the case's script do as it likes.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use ringlink::{
    ChannelId, ChannelInfo, CloseReason, CloseReport, Context, Errno, Handler, SendError, Stats, TimerId,
};

/// A callback, as scripts get it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call<'a> {
    Start,
    Open(ChannelId, &'a ChannelInfo),
    Data(ChannelId, &'a [u8]),
    Eof(ChannelId),
    Drained(ChannelId),
    Close(ChannelId, &'a CloseReport),
    Timer(TimerId, u64),
    Notify(u64),
    AcceptPaused,
    AcceptResumed,
    Stop,
}

/// A callback, as the test's own thread gets it.
#[derive(Debug)]
pub(crate) enum Event {
    Started,
    Opened { channel: ChannelId, info: Box<ChannelInfo>, loop_index: usize },
    Data { channel: ChannelId, bytes: Vec<u8> },
    Eof { channel: ChannelId },
    Drained { channel: ChannelId },
    Closed { channel: ChannelId, report: CloseReport },
    Timer { token: u64 },
    Notified { token: u64, loop_index: usize },
    AcceptPaused { listener: usize, errno: Option<Errno> },
    AcceptResumed { listener: usize },
    Stopped,
}

type Script = Arc<dyn Fn(&mut Context<'_>, &Call<'_>, &Journal) + Send + Sync>;

/// What the recorder does beside recording.
#[derive(Clone)]
pub(crate) struct Plan {
    echoes: bool,
    reports_data: bool,
    closes_at_eof: bool,
    script: Script,
}

impl Plan {
    /// Nothing, but to close at the peer's end of file.
    pub(crate) fn listen() -> Self {
        Self { echoes: false, reports_data: true, closes_at_eof: true, script: Arc::new(|_, _, _| {}) }
    }

    /// Everything goes back; reading pauses while the outbox is above its high watermark.
    pub(crate) fn echo() -> Self {
        Self { echoes: true, reports_data: false, ..Self::listen() }
    }

    pub(crate) fn stays_at_eof(mut self) -> Self {
        self.closes_at_eof = false;
        self
    }

    pub(crate) fn without_data_events(mut self) -> Self {
        self.reports_data = false;
        self
    }

    /// Run last in every callback.
    pub(crate) fn script(
        mut self,
        script: impl Fn(&mut Context<'_>, &Call<'_>, &Journal) + Send + Sync + 'static,
    ) -> Self {
        self.script = Arc::new(script);
        self
    }
}

/// What is known of one channel.
#[derive(Debug, Default)]
struct Entry {
    opened: bool,
    eof: bool,
    closed: bool,
    /// Paused from a callback: no data may come.
    paused: bool,
    /// Data came all the same, as it may when the connection failed.
    while_paused: bool,
    /// Closed or aborted from a callback: only `on_close` may come.
    silent: bool,
    received: u64,
    accepted: u64,
    thread: Option<ThreadId>,
}

/// What happened on all channels of a node, and what of it was against the rules.
#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    entries: HashMap<ChannelId, Entry>,
    opened: u64,
    closed: u64,
    started: usize,
    stopped: HashSet<ThreadId>,
    in_callback: HashSet<ThreadId>,
    faults: Vec<String>,
}

impl Journal {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A channel id was given out: one `on_close` must come.
    pub(crate) fn owe(&self, channel: ChannelId) {
        self.pages().entries.entry(channel).or_default();
    }

    /// The case, in a callback, paused or resumed the channel.
    pub(crate) fn paused(&self, channel: ChannelId, paused: bool) {
        self.pages().entries.entry(channel).or_default().paused = paused;
    }

    /// The case, in a callback, closed or aborted the channel.
    pub(crate) fn silence(&self, channel: ChannelId) {
        if let Some(entry) = self.pages().entries.get_mut(&channel) {
            entry.silent = true;
        }
    }

    /// The case, in a callback, sent this much on the channel, and it was accepted.
    pub(crate) fn accepted(&self, channel: ChannelId, bytes: usize) {
        self.pages().entries.entry(channel).or_default().accepted += bytes as u64;
    }

    /// Bytes accepted for sending on the channel so far, by the echo and by the script.
    pub(crate) fn accepted_on(&self, channel: ChannelId) -> u64 {
        self.pages().entries.get(&channel).map_or(0, |entry| entry.accepted)
    }

    pub(crate) fn fault(&self, fault: String) {
        let faults = &mut self.pages().faults;
        if faults.len() < 20 {
            faults.push(fault);
        }
    }

    pub(crate) fn has_stopped(&self) -> bool {
        !self.pages().stopped.is_empty()
    }

    /// All that was wrong, once the node has ended.
    pub(crate) fn faults(&self, loops: usize, stats: &Stats) -> Vec<String> {
        let mut pages = self.pages();
        let mut faults = std::mem::take(&mut pages.faults);
        for (channel, entry) in &pages.entries {
            if !entry.closed {
                faults.push(format!("{channel} had no on_close: {entry:?}"));
            }
        }
        let counted = [
            ("loops started", loops as u64, pages.started as u64),
            ("loops stopped", loops as u64, pages.stopped.len() as u64),
            ("opened", stats.opened, pages.opened),
            ("closed", stats.closed, pages.closed),
        ];
        for (what, claimed, counted) in counted {
            if claimed != counted {
                faults.push(format!("{what}: {claimed}, but there were {counted} callbacks"));
            }
        }
        faults
    }
}

impl Pages {
    fn begin(&mut self, call: &Call<'_>) {
        let thread = thread::current().id();
        if !self.in_callback.insert(thread) {
            self.faults.push(format!("{call:?} inside another callback"));
        }
        if self.stopped.contains(&thread) {
            self.faults.push(format!("{call:?} after on_stop"));
        }
        let fault = match *call {
            Call::Start => {
                self.started += 1;
                None
            }
            Call::Stop => {
                self.stopped.insert(thread);
                None
            }
            Call::Open(channel, _)
            | Call::Data(channel, _)
            | Call::Eof(channel)
            | Call::Drained(channel)
            | Call::Close(channel, _) => {
                match call {
                    Call::Open(..) => self.opened += 1,
                    Call::Close(..) => self.closed += 1,
                    _ => {}
                }
                let entry = self.entries.entry(channel).or_default();
                entry.note(call).or_else(|| entry.note_thread(thread))
            }
            Call::Timer(..) | Call::Notify(_) | Call::AcceptPaused | Call::AcceptResumed => None,
        };
        if let Some(fault) = fault
            && self.faults.len() < 20
        {
            self.faults.push(format!("{fault}: {}", brief(call)));
        }
    }
}

impl Entry {
    fn note(&mut self, call: &Call<'_>) -> Option<&'static str> {
        if self.closed {
            return Some("after on_close");
        }
        match call {
            Call::Open(..) => {
                let again = std::mem::replace(&mut self.opened, true);
                again.then_some("opened twice")
            }
            Call::Close(_, report) => {
                self.closed = true;
                let failed = matches!(report.reason, CloseReason::Reset | CloseReason::Network);
                if self.while_paused && !failed {
                    Some("data while paused, on a connection that did not fail")
                } else if report.opened != self.opened {
                    Some("the report is wrong about on_open")
                } else if report.bytes_in < self.received {
                    Some("the report has received too little")
                } else {
                    None
                }
            }
            _ if !self.opened => Some("before on_open"),
            _ if self.silent => Some("after close or abort"),
            Call::Data(_, data) => {
                self.received += data.len() as u64;
                match () {
                    () if data.is_empty() => Some("empty"),
                    () if self.eof => Some("after on_eof"),
                    () => {
                        self.while_paused |= self.paused;
                        None
                    }
                }
            }
            Call::Eof(_) => {
                let again = std::mem::replace(&mut self.eof, true);
                again.then_some("a second on_eof")
            }
            _ => None,
        }
    }

    fn note_thread(&mut self, thread: ThreadId) -> Option<&'static str> {
        (*self.thread.get_or_insert(thread) != thread).then_some("on another thread than before")
    }
}

fn brief(call: &Call<'_>) -> String {
    match call {
        Call::Data(channel, data) => format!("on_data of {channel}, {} bytes", data.len()),
        other => format!("{other:?}"),
    }
}

/// The handler.
pub(crate) struct Recorder {
    plan: Plan,
    journal: Arc<Journal>,
    events: Sender<Event>,
}

/// Leaves the callback, also when the script panics.
struct InCallback<'a>(&'a Journal);

impl Drop for InCallback<'_> {
    fn drop(&mut self) {
        self.0.pages().in_callback.remove(&thread::current().id());
    }
}

impl Recorder {
    pub(crate) fn new(plan: Plan, journal: Arc<Journal>, events: Sender<Event>) -> Self {
        Self { plan, journal, events }
    }

    fn record(&mut self, cx: &mut Context<'_>, call: &Call<'_>, event: Option<Event>) {
        self.journal.pages().begin(call);
        let _in_callback = InCallback(&self.journal);
        if let Some(event) = event {
            // The test may be over.
            drop(self.events.send(event));
        }
        if self.plan.echoes {
            echo(cx, call, &self.journal);
        }
        (self.plan.script)(cx, call, &self.journal);
        if let Call::Eof(channel) = *call
            && self.plan.closes_at_eof
        {
            // An echo has no deadline for a slow reader: it ends when all is sent.
            if self.plan.echoes {
                cx.shutdown_write(channel);
            } else {
                cx.close(channel);
                self.journal.silence(channel);
            }
        }
    }
}

fn echo(cx: &mut Context<'_>, call: &Call<'_>, journal: &Journal) {
    match *call {
        Call::Data(channel, data) => {
            match cx.send(channel, data) {
                Ok(()) => journal.accepted(channel, data.len()),
                // The case shut the sending half down.
                Err(SendError::Closed) => {}
                Err(error) => journal.fault(format!("echo on {channel}: {error}")),
            }
            if cx.is_backed_up(channel) {
                cx.pause(channel);
                journal.paused(channel, true);
            }
        }
        Call::Drained(channel) => {
            journal.paused(channel, false);
            cx.resume(channel);
        }
        _ => {}
    }
}

impl Handler for Recorder {
    fn on_start(&mut self, cx: &mut Context<'_>) {
        self.record(cx, &Call::Start, Some(Event::Started));
    }

    fn on_open(&mut self, cx: &mut Context<'_>, channel: ChannelId, info: &ChannelInfo) {
        let event = Event::Opened { channel, info: Box::new(info.clone()), loop_index: cx.loop_index() };
        self.record(cx, &Call::Open(channel, info), Some(event));
    }

    fn on_data(&mut self, cx: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        let event = self.plan.reports_data.then(|| Event::Data { channel, bytes: data.to_vec() });
        self.record(cx, &Call::Data(channel, data), event);
    }

    fn on_message(&mut self, _: &mut Context<'_>, channel: ChannelId, _: &[u8]) {
        self.journal.fault(format!("on_message of {channel} in stream mode"));
    }

    fn on_eof(&mut self, cx: &mut Context<'_>, channel: ChannelId) {
        self.record(cx, &Call::Eof(channel), Some(Event::Eof { channel }));
    }

    fn on_drained(&mut self, cx: &mut Context<'_>, channel: ChannelId) {
        let event = (!self.plan.echoes).then_some(Event::Drained { channel });
        self.record(cx, &Call::Drained(channel), event);
    }

    fn on_close(&mut self, cx: &mut Context<'_>, channel: ChannelId, report: &CloseReport) {
        self.record(
            cx,
            &Call::Close(channel, report),
            Some(Event::Closed { channel, report: report.clone() }),
        );
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, timer: TimerId, token: u64) {
        self.record(cx, &Call::Timer(timer, token), Some(Event::Timer { token }));
    }

    fn on_notify(&mut self, cx: &mut Context<'_>, token: u64) {
        let loop_index = cx.loop_index();
        self.record(cx, &Call::Notify(token), Some(Event::Notified { token, loop_index }));
    }

    fn on_accept_paused(&mut self, cx: &mut Context<'_>, listener: usize, errno: Option<Errno>) {
        self.record(cx, &Call::AcceptPaused, Some(Event::AcceptPaused { listener, errno }));
    }

    fn on_accept_resumed(&mut self, cx: &mut Context<'_>, listener: usize) {
        self.record(cx, &Call::AcceptResumed, Some(Event::AcceptResumed { listener }));
    }

    fn on_stop(&mut self, cx: &mut Context<'_>) {
        self.record(cx, &Call::Stop, Some(Event::Stopped));
    }
}
