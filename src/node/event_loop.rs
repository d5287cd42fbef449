//! A loop. Read [`EventLoop::turn`] first: it is the whole program, the rest of the crate is how.

use std::any::Any;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::channel::{self, Event};
use crate::clock::Mono;
use crate::config::Mode;
use crate::driver::{Completion, Driver, ListenerId, Wait};
use crate::error::{CloseReason, CloseReport, ClosedBy, DriverError, Errno, NodeError};
use crate::id::ChannelId;
use crate::node::context::Context;
use crate::node::core::{AcceptChange, Core, TimerKey};
use crate::node::handler::Handler;
use crate::node::info::ChannelInfo;
use crate::node::spin::Spin;

/// How long the handler may be busy with one part of a turn before the next has its own: a loop whose handler is slow must
/// still show its peers that it lives.
const PART_TIME: Duration = Duration::from_millis(10);

/// How long the kernel may take to end what was cut when the shutdown's grace was over.
const CUT_GRACE: Duration = Duration::from_secs(2);

/// The clock does not come so far.
const NEVER: Mono = Mono::from_nanos(u64::MAX);

/// How one loop works, beside what its channels have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Most completions of one turn.
    pub(crate) completion_budget: u32,
    /// How long the loop looks again and again, without sleeping, after something came: see [`Spin`].
    pub(crate) busy_poll: Duration,
}

#[derive(Debug)]
pub(crate) struct EventLoop<D, H> {
    driver: D,
    handler: H,
    core: Core,
    pace: Pace,
    /// True when the last reaping used up its budget.
    reap_again: bool,
    spin: Spin,
}

impl<D: Driver, H: Handler> EventLoop<D, H> {
    pub(crate) fn new(driver: D, handler: H, core: Core, pace: Pace) -> Self {
        let spin = Spin::new(pace.busy_poll, core.now);
        Self { driver, handler, core, pace, reap_again: false, spin }
    }

    /// Turns until the node is shut down, or the kernel fails.
    pub(crate) fn run(mut self) -> Result<(), NodeError> {
        self.begin();
        let outcome = loop {
            match self.turn() {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.end(outcome)
    }

    pub(crate) fn begin(&mut self) {
        self.handler.on_start(&mut Context::new(&mut self.core));
        self.core.dial_peers();
    }

    /// One turn: what happened, what others ask, what is due, what to send; then one system call.
    pub(crate) fn turn(&mut self) -> Result<ControlFlow<()>, DriverError> {
        self.core.port().mailbox.awake();
        self.core.now = self.driver.now();
        self.reap();
        self.run_commands();
        self.expire();
        self.flush(self.core.now + 4 * PART_TIME);
        if self.is_over() {
            return Ok(ControlFlow::Break(()));
        }
        let wait = self.wait();
        self.driver.turn(wait)?;
        Ok(ControlFlow::Continue(()))
    }

    /// Completions to channels, and what they mean to the handler.
    fn reap(&mut self) {
        self.reap_again = true;
        for _ in 0..self.pace.completion_budget {
            let Some(completion) = self.driver.next_completion() else {
                self.reap_again = false;
                return;
            };
            if completion.is_from_outside() {
                self.spin.something_came(self.core.now);
            }
            let mut callbacks = Callbacks::new(&mut self.core, &mut self.handler);
            callbacks.complete(completion);
            if callbacks.called && self.driver.now() - self.core.now > PART_TIME {
                return;
            }
        }
    }

    /// The commands of other threads. They have as long as completions.
    fn run_commands(&mut self) {
        let (driver, late) = (&self.driver, self.core.now + 2 * PART_TIME);
        // No more is taken while there is what the handler was too slow for, or that would grow without bound.
        if self.core.notified.is_empty() && self.core.run_commands(|| driver.now() > late) {
            self.spin.something_came(self.core.now);
        }
        while let Some(token) = self.core.notified.pop_front() {
            self.call(|handler, cx| handler.on_notify(cx, token));
            if self.driver.now() > late {
                break;
            }
        }
    }

    /// Timers up to now. Those they set are for the next turn.
    fn expire(&mut self) {
        let (mark, late) = (self.core.timers.mark(), self.core.now + 3 * PART_TIME);
        while let Some((timer, key)) = self.core.timers.pop_due(self.core.now, mark) {
            match key {
                TimerKey::Channel(id) => {
                    let now = self.core.now;
                    self.core.disarm(id);
                    self.core.on_channel(id, |channel| channel.handle_timeout(now));
                }
                TimerKey::User(token) => {
                    self.call(|handler, cx| handler.on_timer(cx, timer, token));
                    if self.driver.now() > late {
                        break;
                    }
                }
                TimerKey::Duplicates => self.core.settle_duplicates(),
                TimerKey::Dial => {
                    self.core.dial_timer = None;
                    self.core.dial_peers();
                }
                TimerKey::Stop => self.core.abort_all(),
            }
        }
    }

    /// Channels that were touched: what they have to tell, what they ask of the kernel, when they are due next.
    ///
    /// What callbacks touch meanwhile is for the next turn, unless it is still to come in this one, so a turn ends; and so is
    /// what is left when it is late.
    fn flush(&mut self, late: Mono) {
        let dirty = self.core.channels.take_dirty();
        let mut left = dirty.len();
        for &id in &dirty {
            left -= 1;
            if self.settle(id) && self.driver.now() > late {
                break;
            }
        }
        self.core.channels.give_back_dirty(dirty, left);
        self.settle_accepting();
        while let Some(submission) = self.core.submissions.pop_front() {
            self.driver.submit(submission);
        }
    }

    /// True when the handler was called, which may have taken long.
    fn settle(&mut self, id: ChannelId) -> bool {
        let Some(channel) = self.core.channels.clean(id) else { return false };
        let delivers = channel.has_deliverable();
        let mut callbacks = Callbacks::new(&mut self.core, &mut self.handler);
        if delivers {
            callbacks.deliver_held(id);
        }
        let now = callbacks.core.now;
        let Some(channel) = callbacks.core.channels.get_mut(id) else { return callbacks.called };
        while let Some(submission) = channel.next_submission(&mut callbacks.core.pool, now) {
            self.driver.submit(submission);
        }
        if channel.is_ending() {
            // Its last submission may have been its end.
            callbacks.deliver_held(id);
            callbacks.core.leave(id);
        }
        callbacks.open_admitted();
        callbacks.core.note_rest(id);
        callbacks.called
    }

    fn settle_accepting(&mut self) {
        while let Some(id) = self.core.accept_waiting() {
            self.callbacks().deliver(id, &[]);
        }
        match self.core.accept_change() {
            Some(AcceptChange::Paused) => {
                tracing::warn!("all channels are in use; accepting pauses until one closes (channels)");
                self.for_each_listener(|handler, cx, listener| handler.on_accept_paused(cx, listener, None));
            }
            Some(AcceptChange::Resumed) => {
                self.for_each_listener(|handler, cx, listener| handler.on_accept_resumed(cx, listener));
            }
            None => {}
        }
    }

    fn for_each_listener(&mut self, callback: impl Fn(&mut H, &mut Context<'_>, usize)) {
        for place in 0..self.core.listeners.len() {
            let ListenerId(listener) = self.core.listeners[place];
            self.call(|handler, cx| callback(handler, cx, listener as usize));
        }
    }

    fn call(&mut self, callback: impl FnOnce(&mut H, &mut Context<'_>)) {
        // What there is to do about a panic that is no channel's is done: it is logged and counted.
        drop(self.callbacks().call(callback));
    }

    fn callbacks(&mut self) -> Callbacks<'_, H> {
        Callbacks::new(&mut self.core, &mut self.handler)
    }

    /// How long the driver may wait. After an announced sleep the mailbox wakes it.
    fn wait(&mut self) -> Wait {
        if self.reap_again
            || self.core.has_mail()
            || self.core.channels.has_dirty()
            || self.spin.goes_on(self.core.now)
            || !self.core.port().mailbox.prepare_to_sleep()
        {
            return Wait::Not;
        }
        let deadlines = [self.core.timers.next_deadline(), self.given_up_at()];
        deadlines.into_iter().flatten().min().map_or(Wait::Forever, Wait::Until)
    }

    /// When the shutdown has taken too long.
    fn given_up_at(&self) -> Option<Mono> {
        self.core.stop_at.map(|at| at + CUT_GRACE)
    }

    /// True when the shutdown is through, or has taken too long.
    fn is_over(&self) -> bool {
        self.given_up_at().is_some_and(|at| self.core.channels.is_empty() || self.core.now >= at)
    }

    #[cfg(feature = "sim")]
    pub(crate) fn driver(&self) -> &D {
        &self.driver
    }

    /// No channel is left without its `on_close`, and no command without an answer.
    pub(crate) fn end(mut self, outcome: Result<(), DriverError>) -> Result<(), NodeError> {
        self.core.stop_at.get_or_insert(self.core.now);
        // Where the kernel failed nobody has asked for the end, and callbacks would still dial.
        self.core.handle.shared().set_stopping();
        self.core.close_mailbox();
        while let Some(token) = self.core.notified.pop_front() {
            self.call(|handler, cx| handler.on_notify(cx, token));
        }
        self.core.close_door();
        // What is accepted must be the driver's again, or nobody closes it.
        self.flush(NEVER);
        for id in self.core.channels.ids() {
            let now = self.core.now;
            let mut callbacks = self.callbacks();
            // One that never began is through by itself.
            callbacks.deliver(id, &[]);
            let Some((channel, _)) = callbacks.core.touch(id) else { continue };
            let report = channel.give_up(CloseReason::Internal, now);
            callbacks.closed(id, &report);
        }
        debug_assert!(self.core.channels.is_empty(), "nothing comes once the door is closed");
        self.handler.on_stop(&mut Context::new(&mut self.core));
        let loop_index = self.core.index;
        let operations = {
            let deadline = self.driver.now() + CUT_GRACE;
            self.driver.finish(deadline)
        };
        outcome.map_err(|error| NodeError::Driver { loop_index, error })?;
        if operations > 0 { Err(NodeError::Leaked { loop_index, operations }) } else { Ok(()) }
    }
}

/// The loop without its driver, which has lent the bytes of a completion.
struct Callbacks<'a, H> {
    core: &'a mut Core,
    handler: &'a mut H,
    /// The handler was called, which may have taken long.
    called: bool,
}

impl<'a, H: Handler> Callbacks<'a, H> {
    fn new(core: &'a mut Core, handler: &'a mut H) -> Self {
        Self { core, handler, called: false }
    }

    fn complete(&mut self, completion: Completion<'_>) {
        let now = self.core.now;
        match completion {
            Completion::Received { channel, bytes } => self.deliver(channel, bytes),
            Completion::Sent { channel, batch, error } => {
                if self.core.take_back(channel, batch, error) {
                    self.deliver(channel, &[]);
                }
            }
            Completion::PeerEof { channel } => self.advance(channel, |channel| channel.handle_eof(now)),
            Completion::ReceiveFailed { channel, errno } => {
                self.advance(channel, |channel| channel.handle_receive_failed(errno, now));
            }
            Completion::Dialed { channel, endpoints } => {
                let link = self.core.new_link();
                self.advance(channel, |channel| channel.handle_dialed(*endpoints, link, now));
            }
            Completion::DialFailed { channel, errno } => {
                self.advance(channel, |channel| channel.handle_dial_failed(errno, now));
            }
            Completion::Closed { channel } => self.advance(channel, |channel| channel.handle_closed(now)),
            Completion::Accepted { listener, socket, endpoints } => {
                if let Some(id) = self.core.accept(listener, socket, endpoints) {
                    self.deliver(id, &[]);
                }
            }
            Completion::AcceptPaused { listener, errno } => self.accept_paused(listener, errno),
            Completion::AcceptResumed { listener } => {
                tracing::info!(listener = listener.0, "accepting goes on");
                drop(self.call(|handler, cx| handler.on_accept_resumed(cx, listener.0 as usize)));
            }
            Completion::ListenFailed { listener, errno } => {
                tracing::error!(listener = listener.0, %errno, "a listener failed and is closed");
                self.core.listeners.retain(|other| *other != listener);
                drop(self.call(|handler, cx| handler.on_listener_failed(cx, listener.0 as usize, errno)));
            }
            Completion::Woken => {}
        }
    }

    fn accept_paused(&mut self, listener: ListenerId, errno: Errno) {
        tracing::warn!(listener = listener.0, %errno, "accepting pauses; it goes on when there is room again");
        drop(self.call(|handler, cx| handler.on_accept_paused(cx, listener.0 as usize, Some(errno))));
    }

    /// Tells the channel what happened, and the handler what that means.
    fn advance(&mut self, id: ChannelId, happened: impl FnOnce(&mut channel::Channel)) {
        let Some((channel, _)) = self.core.touch(id) else {
            debug_assert!(false, "{id}: a completion for a channel that is gone");
            return;
        };
        happened(channel);
        if channel.has_deliverable() {
            self.deliver(id, &[]);
        }
    }

    /// Gives the bytes to the channel, and what they mean to the handler. What a pause keeps from it is held.
    fn deliver(&mut self, id: ChannelId, bytes: &[u8]) {
        let rest = self.pass_on(id, bytes);
        if !rest.is_empty()
            && let Some(channel) = self.core.channels.get_mut(id)
        {
            channel.hold(rest);
        }
    }

    /// [`Callbacks::deliver`] without holding: returns what a pause keeps from the handler.
    fn pass_on<'b>(&mut self, id: ChannelId, mut bytes: &'b [u8]) -> &'b [u8] {
        let now = self.core.now;
        self.core.channels.mark_dirty(id);
        loop {
            self.deliver_flowing(id, &mut bytes);
            let Some(channel) = self.core.channels.get_mut(id) else { return &[] };
            let Some(event) = channel.next_event(&mut bytes, now) else { return bytes };
            self.tell(id, event);
        }
    }

    /// The many messages a buffer may have, in one go, or the bytes of a stream. Whatever is not as simple is left to
    /// [`channel::Channel::next_event`].
    fn deliver_flowing(&mut self, id: ChannelId, bytes: &mut &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mode = self.core.settings.mode;
        let told = self.call(|handler, cx| match mode {
            Mode::Stream => {
                while let Some(data) = cx.next_data(id, bytes) {
                    handler.on_data(cx, id, data);
                }
            }
            Mode::Message => {
                while let Some(message) = cx.next_message(id, bytes) {
                    handler.on_message(cx, id, message);
                }
            }
        });
        self.fail_after_panic(id, told);
    }

    /// What was held for a paused channel, once it goes on, and whatever else is due without new bytes.
    fn deliver_held(&mut self, id: ChannelId) {
        while let Some(channel) = self.core.channels.get_mut(id)
            && channel.has_deliverable()
        {
            let held = channel.take_held();
            let rest = self.pass_on(id, held.as_deref().map_or(&[], |held| held)).len();
            if let (Some(held), Some(channel)) = (held, self.core.channels.get_mut(id)) {
                channel.hold_again(held, rest);
            }
        }
    }

    fn tell(&mut self, id: ChannelId, event: Event<'_>) {
        let told = match event {
            Event::Data(data) => self.call(|handler, cx| handler.on_data(cx, id, data)),
            Event::Message(message) => self.call(|handler, cx| handler.on_message(cx, id, message)),
            Event::Assembled(message) => {
                let told = self.call(|handler, cx| handler.on_message(cx, id, &message));
                if let Some(channel) = self.core.channels.get_mut(id) {
                    channel.give_back(message);
                }
                told
            }
            Event::Established => return self.core.established(id),
            Event::Confirmed => return self.core.confirmed(id),
            Event::Opened => self.opened(id),
            Event::Eof => self.call(|handler, cx| handler.on_eof(cx, id)),
            Event::Drained => {
                // Before it is told: a thread that this sets going must not be refused by an older word.
                self.core.publish_queued(id);
                self.call(|handler, cx| handler.on_drained(cx, id))
            }
            Event::Closed(report) => return self.closed(id, &report),
        };
        self.fail_after_panic(id, told);
    }

    fn fail_after_panic(&mut self, id: ChannelId, told: Result<(), Box<str>>) {
        if let Err(message) = told {
            self.core.on_channel(id, |channel| {
                channel.fail(CloseReason::Internal, ClosedBy::Us, Some(message));
            });
        }
    }

    fn opened(&mut self, id: ChannelId) -> Result<(), Box<str>> {
        let Some(channel) = self.core.channels.get(id) else { return Ok(()) };
        let info = ChannelInfo::of(channel, self.core.now);
        self.core.port().slots.open(id, channel.max_message(), channel.framing());
        self.core.opened(id, &info);
        self.call(|handler, cx| handler.on_open(cx, id, &info))
    }

    /// Tells of a link that has taken another's place before that one's `on_close`.
    fn open_admitted(&mut self) {
        while let Some(id) = self.core.admitted.pop() {
            self.deliver(id, &[]);
        }
    }

    fn closed(&mut self, id: ChannelId, report: &CloseReport) {
        self.core.port().slots.shut(id);
        self.core.leave(id);
        self.open_admitted();
        self.core.record(id, report);
        drop(self.call(|handler, cx| handler.on_close(cx, id, report)));
        self.core.remove(id);
    }

    /// Calls the handler. A panic ends here: it is logged and counted, and its message returned.
    fn call(&mut self, callback: impl FnOnce(&mut H, &mut Context<'_>)) -> Result<(), Box<str>> {
        let Self { core, handler, called } = self;
        *called = true;
        // Nothing is seen half-changed after a panic: the handler is its owner's affair, and the core changes by whole
        // calls of its own methods, none of which runs the handler's code.
        let outcome = catch_unwind(AssertUnwindSafe(|| callback(handler, &mut Context::new(core))));
        outcome.map_err(|payload| {
            let message = panic_message(&*payload);
            self.core.settings.counters.handler_panics.add(1);
            tracing::error!(message, "a handler panicked");
            message.into()
        })
    }
}

pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests;
