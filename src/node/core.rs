//! A loop without its driver and its handler: its channels, timers and mail, and what is to be asked of the kernel.
//! Callbacks work on it through [`Context`](crate::Context); [`event_loop`](super::event_loop) turns it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::addr::{Address, Endpoint, Endpoints};
use crate::channel::{Channel, ChannelTable, ChunkPool, Common, Settings};
use crate::clock::Mono;
use crate::driver::{Accepted, Batch, ListenerId, Submission};
use crate::error::{CloseReason, ClosedBy, DialError, Errno, SendError};
use crate::id::ChannelId;
use crate::link::Link;
use crate::node::admission::{LogLimits, Strangers};
use crate::node::command::Command;
use crate::node::dialing::Dialing;
use crate::node::handle::Handle;
use crate::node::info::ChannelInfo;
use crate::node::mailbox::Mail;
use crate::node::shared::Port;
use crate::node::timers::{TimerId, Timers};

/// Accepted connections that may wait for a channel: those the kernel had accepted before it was told to pause.
const MAX_WAITING: usize = 64;

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimerKey {
    /// The channel's deadline.
    Channel(ChannelId),
    /// The program's.
    User(u64),
    /// A look at links that are too many.
    Duplicates,
    /// The next dial of a persistent peer.
    Dial,
    /// The end of the shutdown's grace.
    Stop,
}

/// A connection that was accepted when all channels were in use.
#[derive(Debug)]
pub(crate) struct Waiting {
    listener: ListenerId,
    socket: Accepted,
    endpoints: Box<Endpoints>,
}

/// What accepting is about to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcceptChange {
    Paused,
    Resumed,
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) index: usize,
    pub(crate) now: Mono,
    pub(crate) channels: ChannelTable,
    pub(crate) pool: ChunkPool,
    pub(crate) timers: Timers<TimerKey>,
    /// By slot of this loop, as far as slots were used: the timer that stands for the channel's deadline.
    armed: Vec<Option<TimerId>>,
    pub(crate) handle: Handle,
    pub(crate) settings: Rc<Settings>,
    /// For the driver, beside what the channels themselves want.
    pub(crate) submissions: VecDeque<Submission>,
    /// Those that have not failed.
    pub(crate) listeners: Vec<ListenerId>,
    waiting: VecDeque<Waiting>,
    /// False while all channels are in use.
    accepting: bool,
    /// True when a channel came or went since [`Core::accept_change`] looked.
    slots_changed: bool,
    /// When the shutdown's grace is over, once there is one.
    pub(crate) stop_at: Option<Mono>,
    pub(super) mail: Mail,
    /// For the handler, from other threads.
    pub(crate) notified: VecDeque<u64>,
    /// Accepted, and without a hello.
    pub(crate) strangers: Strangers,
    pub(crate) log_limits: LogLimits,
    /// Channels that the program is to hear of now, before the one in whose place they come is gone.
    pub(crate) admitted: Vec<ChannelId>,
    /// Of the one loop that dials the persistent peers.
    pub(crate) dialing: Option<Dialing>,
    pub(crate) dial_timer: Option<TimerId>,
}

impl Core {
    pub(crate) fn new(index: usize, handle: Handle, settings: Settings, now: Mono) -> Self {
        let slots = &handle.shared().ports[index].slots;
        let pending = settings.limits.pending_handshakes;
        Self {
            strangers: Strangers::new(pending, handle.shared().ports.len(), slots.count()),
            log_limits: LogLimits::default(),
            notified: VecDeque::new(),
            admitted: Vec::new(),
            dialing: None,
            dial_timer: None,
            index,
            now,
            channels: ChannelTable::new(slots.first(), slots.count()),
            pool: ChunkPool::new(),
            timers: Timers::default(),
            armed: Vec::new(),
            settings: Rc::new(settings),
            submissions: VecDeque::new(),
            listeners: Vec::new(),
            waiting: VecDeque::new(),
            accepting: true,
            slots_changed: false,
            stop_at: None,
            mail: Mail::default(),
            handle,
        }
    }

    pub(crate) fn port(&self) -> &Port {
        &self.handle.shared().ports[self.index]
    }

    /// The channel, about to be changed, and the pool its sends take memory from.
    #[inline]
    pub(crate) fn touch(&mut self, id: ChannelId) -> Option<(&mut Channel, &mut ChunkPool)> {
        self.channels.touch(id).map(|channel| (channel, &mut self.pool))
    }

    pub(crate) fn list(&self) -> Vec<ChannelInfo> {
        self.channels.iter().map(|channel| ChannelInfo::of(channel, self.now)).collect()
    }

    pub(crate) fn new_link(&self) -> Link {
        match &self.handle.shared().local_node {
            None => Link::stream(),
            Some(local) => Link::message(Arc::clone(local), Arc::clone(&self.settings.counters), self.now),
        }
    }

    // Channels come.

    pub(crate) fn dial(&mut self, address: Address) -> Result<ChannelId, DialError> {
        if self.handle.shared().is_stopping() {
            return Err(DialError::Stopped);
        }
        let slots = &self.port().slots;
        let id = slots.allocate().ok_or(DialError::TableFull { size: slots.count() })?;
        self.begin_dial(id, address);
        Ok(id)
    }

    pub(super) fn begin_dial(&mut self, id: ChannelId, address: Address) {
        let channel = Channel::dialing(id, address, Rc::clone(&self.settings), self.now);
        let name = channel.name().cloned();
        self.settings.counters.dialed.add(1);
        self.insert(channel);
        if let Some(at) = self.stop_at {
            self.on_channel(id, |channel| channel.stop(at));
        } else if let Some(Address::Host(host, port)) = name {
            self.look_up(id, host, port);
        }
    }

    fn look_up(&mut self, channel: ChannelId, host: String, port: u16) {
        let (handle, index, name) = (self.handle.clone(), self.index, host.clone());
        let reply = move |found: std::io::Result<Vec<SocketAddr>>| {
            let endpoints = match found {
                Ok(found) => Ok(found.into_iter().map(Endpoint::Tcp).collect()),
                Err(error) => Err(format!("{name}: {error}")),
            };
            // A loop that has ended needs no answer.
            let _ =
                handle.shared().ports[index].mailbox.post_always(Command::Resolved { channel, endpoints });
        };
        if let Err(busy) = self.handle.shared().names.lookup(host, port, reply) {
            let why = Some(busy.to_string().into());
            self.on_channel(channel, |channel| channel.fail(CloseReason::Limit, ClosedBy::Us, why));
        }
    }

    /// A connection was accepted. Returns the id of its channel when there is one for it now.
    pub(crate) fn accept(
        &mut self,
        listener: ListenerId,
        socket: Accepted,
        endpoints: Box<Endpoints>,
    ) -> Option<ChannelId> {
        if self.stop_at.is_some() || !self.admits(&endpoints.peer) {
            self.submissions.push_back(Submission::Refuse { socket });
            return None;
        }
        self.take(listener, socket, endpoints)
    }

    fn take(
        &mut self,
        listener: ListenerId,
        socket: Accepted,
        endpoints: Box<Endpoints>,
    ) -> Option<ChannelId> {
        self.slots_changed = true;
        let Some(id) = self.port().slots.allocate() else {
            if self.waiting.len() < MAX_WAITING {
                self.waiting.push_back(Waiting { listener, socket, endpoints });
            } else {
                self.refuse(socket, &endpoints.peer);
            }
            return None;
        };
        self.settings.counters.accepted.add(1);
        let (link, settings) = (self.new_link(), Rc::clone(&self.settings));
        self.insert(Channel::accepted(id, listener, socket, *endpoints, link, settings, self.now));
        self.expect_hello(id);
        Some(id)
    }

    /// Closes a connection that was admitted and gets no channel.
    fn refuse(&mut self, socket: Accepted, peer: &Endpoint) {
        self.release(peer);
        self.submissions.push_back(Submission::Refuse { socket });
    }

    /// One that waited for a channel, when one is free.
    pub(crate) fn accept_waiting(&mut self) -> Option<ChannelId> {
        if self.waiting.is_empty() || self.port().slots.is_full() {
            return None;
        }
        let Waiting { listener, socket, endpoints } = self.waiting.pop_front()?;
        self.take(listener, socket, endpoints)
    }

    #[cfg(test)]
    pub(crate) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    fn insert(&mut self, channel: Channel) {
        self.channels.insert(channel);
        self.settings.counters.channels.set(self.channels.len() as u64);
    }

    /// Whether accepting is to be paused, for want of channels, or to go on.
    pub(crate) fn accept_change(&mut self) -> Option<AcceptChange> {
        if !std::mem::take(&mut self.slots_changed) || self.stop_at.is_some() {
            return None;
        }
        let has_room = !self.port().slots.is_full();
        if has_room == self.accepting {
            return None;
        }
        self.accepting = has_room;
        if has_room {
            self.submissions.push_back(Submission::ResumeAccepting);
            Some(AcceptChange::Resumed)
        } else {
            self.settings.counters.accepts_paused.add(1);
            self.submissions.push_back(Submission::PauseAccepting);
            Some(AcceptChange::Paused)
        }
    }

    // Channels go.

    /// The channel's `on_close` was called: its slot is free for the next.
    pub(crate) fn remove(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.remove(id) else { return };
        debug_assert!(channel.is_finished());
        if let Some(timer) = self.disarm(id) {
            self.timers.cancel(timer);
        }
        self.port().slots.free(id);
        self.slots_changed = true;
        self.settings.counters.channels.set(self.channels.len() as u64);
    }

    /// Begins the shutdown, or brings its end nearer.
    pub(crate) fn stop(&mut self, at: Mono) {
        let first = self.stop_at.is_none();
        let at = self.stop_at.map_or(at, |earlier| earlier.min(at));
        self.stop_at = Some(at);
        self.timers.insert(at, TimerKey::Stop);
        if first {
            self.close_door();
            for id in self.channels.ids() {
                self.on_channel(id, |channel| channel.stop(at));
            }
        }
    }

    /// Nothing is accepted any more, nor dialed by itself; who waits for a channel gets none.
    pub(crate) fn close_door(&mut self) {
        self.submissions.push_back(Submission::StopListening);
        self.dialing = None;
        while let Some(Waiting { socket, endpoints, .. }) = self.waiting.pop_front() {
            self.refuse(socket, &endpoints.peer);
        }
    }

    /// The grace is over: what is not closed yet is cut.
    pub(crate) fn abort_all(&mut self) {
        for id in self.channels.ids() {
            self.on_channel(id, Channel::abort);
        }
    }

    pub(crate) fn on_channel(&mut self, id: ChannelId, command: impl FnOnce(&mut Channel)) {
        if let Some((channel, _)) = self.touch(id) {
            command(channel);
        }
    }

    pub(crate) fn broadcast(&mut self, bytes: &Bytes) -> usize {
        let (mut taken, common) = (0, Common::new(bytes, self.settings.mode));
        let (pool, refused) = (&mut self.pool, &self.settings.counters.broadcasts_refused);
        self.channels.touch_each(|channel| {
            let sent = channel.send_common(&common, pool);
            match sent {
                Ok(()) => taken += 1,
                Err(SendError::WouldBlock { .. } | SendError::TooBig { .. }) => refused.add(1),
                Err(SendError::Busy | SendError::NotOpen | SendError::Closed) => {}
            }
            sent.is_ok()
        });
        taken
    }

    /// A batch has come back. Most of the time nothing follows from it; true when the handler is to be told something.
    pub(crate) fn take_back(&mut self, id: ChannelId, batch: Box<Batch>, error: Option<Errno>) -> bool {
        let Some(channel) = self.channels.get_mut(id) else {
            debug_assert!(false, "{id}: a batch of a channel that is gone");
            return false;
        };
        channel.handle_sent(batch, error, &mut self.pool, self.now);
        if channel.is_at_rest() {
            return false;
        }
        let tells = channel.has_deliverable();
        self.channels.mark_dirty(id);
        tells
    }

    // What is left of a channel's turn.

    /// The channel's turn is over: when it is due next, and what other threads may know of it.
    pub(crate) fn note_rest(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get(id) else { return };
        let (is_over, deadline) = (channel.is_sending_over(), channel.deadline());
        if is_over {
            self.port().slots.shut(id);
        } else if self.publish_queued(id) && !planted!(ForgetRefused) {
            self.on_channel(id, Channel::note_refused);
        }
        self.arm_timer(id, deadline);
    }

    /// Tells other threads how full the outbox is, if any of them sends on it. True, once, when one of them was refused.
    pub(crate) fn publish_queued(&self, id: ChannelId) -> bool {
        let channel = self.channels.get(id).filter(|channel| channel.is_posted_to());
        channel.is_some_and(|channel| self.port().slots.publish_queued(id, channel.queued()))
    }

    /// The channel's deadline has a timer no later than it; one that moved away is noticed when the timer is due.
    fn arm_timer(&mut self, id: ChannelId, deadline: Option<Mono>) {
        match (deadline, self.armed.get(self.slot_index(id)).copied().flatten()) {
            (Some(deadline), Some(timer)) if timer.deadline() <= deadline => return,
            (None, None) => return,
            (_, Some(timer)) => {
                self.timers.cancel(timer);
            }
            (Some(_), None) => {}
        }
        let index = self.slot_index(id);
        if index >= self.armed.len() {
            self.armed.resize(index + 1, None);
        }
        self.armed[index] = deadline.map(|at| self.timers.insert(at, TimerKey::Channel(id)));
    }

    /// The channel's timer, which is due or of no use any more.
    pub(crate) fn disarm(&mut self, id: ChannelId) -> Option<TimerId> {
        let index = self.slot_index(id);
        self.armed.get_mut(index)?.take()
    }

    fn slot_index(&self, id: ChannelId) -> usize {
        (id.slot() - self.channels.start()) as usize
    }
}
