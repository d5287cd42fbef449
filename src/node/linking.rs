//! A loop's part in what concerns links as such: who may come, who is linked already, which addresses are dialed
//! again, and what is told of links that came and went. The rules are in `admission`, `peers` and `dialing`; here they
//! are carried out on this loop's channels, and what concerns others goes there by mail.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::addr::Endpoint;
use crate::channel::{self, Channel};
use crate::config::Mode;
use crate::error::{CloseReason, CloseReport, ClosedBy};
use crate::id::ChannelId;
use crate::link::NodeId;
use crate::node::command::Command;
use crate::node::core::{Core, TimerKey};
use crate::node::dialing::Note;
use crate::node::history::ClosedChannel;
use crate::node::info::{ChannelInfo, Direction};
use crate::node::peers::{self, Action, Peers};

/// The loop that dials the persistent peers.
pub(crate) const DIALING_LOOP: usize = 0;

/// What is shared by the loops is changed by whole calls that do not panic half-way.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For the log: once is what everybody takes for granted.
fn several(times: u64) -> Option<u64> {
    (times > 1).then_some(times)
}

fn node_of(channel: &Channel) -> Option<NodeId> {
    channel.link().peer().map(|peer| peer.node_id)
}

impl Core {
    // Strangers.

    /// False when the far end has as many channels as an address may have.
    pub(crate) fn admits(&mut self, peer: &Endpoint) -> bool {
        let Mode::Message = self.settings.mode else { return true };
        let max = self.settings.limits.channels_per_ip;
        if lock(&self.handle.shared().per_ip).admit(peer, max) {
            return true;
        }
        self.settings.counters.per_ip_refused.add(1);
        if let Some(times) = self.log_limits.per_ip.happened(self.now) {
            tracing::warn!(%peer, times, max, "refused: too many channels from one address (channels_per_ip)");
        }
        false
    }

    /// A channel was accepted; whoever has waited longest for its peer's hello may have to go for it.
    pub(crate) fn expect_hello(&mut self, channel: ChannelId) {
        let Mode::Message = self.settings.mode else { return };
        let Some(evicted) = self.strangers.insert(channel) else { return };
        self.on_channel(evicted, |channel| channel.cut(CloseReason::Limit));
        self.settings.counters.handshakes_evicted.add(1);
        if let Some(times) = self.log_limits.evicted.happened(self.now) {
            tracing::warn!(times, "closed the oldest connection without a hello (pending_handshakes)");
        }
    }

    /// An admitted channel from this end is gone.
    pub(crate) fn release(&mut self, peer: &Endpoint) {
        if self.settings.mode == Mode::Message {
            lock(&self.handle.shared().per_ip).release(peer);
        }
    }

    // Links come.

    /// Both hellos are said: whether the program hears of the channel is for `peers` to say.
    pub(crate) fn established(&mut self, id: ChannelId) {
        self.strangers.remove(id);
        let Some(channel) = self.channels.get(id) else { return };
        let Some(peer) = channel.link().peer() else { return };
        let dialed = matches!(channel.direction(), channel::Direction::Dialed);
        let (instance, now) = ((peer.node_id, peer.instance_id), self.now);
        if self.tell_peers(|peers| peers.handle_established(id, instance, dialed, now)) == Some(true) {
            self.timers.insert(now + peers::PATIENCE, TimerKey::Duplicates);
        }
    }

    pub(crate) fn confirmed(&mut self, id: ChannelId) {
        self.tell_peers(|peers| peers.handle_confirmed(id));
    }

    /// The program is about to hear of the channel.
    pub(crate) fn opened(&mut self, id: ChannelId, info: &ChannelInfo) {
        let Some(channel) = self.channels.get(id) else { return };
        let (node, is_admitted) = (node_of(channel), channel.is_admitted());
        let direction = info.direction;
        let peer = info.peer_addr.as_ref().map(tracing::field::display);
        // This node sets the pace of its own dials; of links that come, others do.
        let times = match direction {
            Direction::Dialed => Some(1),
            Direction::Accepted => self.log_limits.linked.happened(self.now),
        };
        match (&info.peer, times) {
            (Some(node), Some(times)) => {
                let lost_at = lock(&self.handle.shared().history).lost_at(node.node_id);
                let gap = lost_at.map(|at| format!("{:.1?}", self.now - at));
                let (agent, node, times) = (&node.agent, node.node_id.short(), several(times));
                tracing::info!(channel = %id, node, ?direction, peer, agent, gap, times, "linked");
            }
            (node, _) => {
                let node = node.as_ref().map(|node| node.node_id.short());
                tracing::debug!(channel = %id, node, ?direction, peer, "opened");
            }
        }
        if self.concerns_dialing(direction, node) {
            self.tell_dialing(direction, Note::Opened { channel: id, node });
        }
        if !is_admitted {
            self.tell_peers(|peers| peers.handle_opened(id));
        }
    }

    // Links go.

    /// A link whose end has begun takes no messages any more: the next one takes its place now, not at its `on_close`.
    pub(crate) fn leave(&mut self, id: ChannelId) {
        if self.channels.get_mut(id).is_some_and(Channel::has_just_ended) {
            self.tell_peers(|peers| peers.handle_ended(id));
        }
    }

    /// The channel is closed: into the log, the counters and the history.
    pub(crate) fn record(&mut self, id: ChannelId, report: &CloseReport) {
        self.strangers.remove(id);
        let Some(channel) = self.channels.get(id) else { return };
        let info = ChannelInfo::of(channel, self.now);
        let node = node_of(channel);
        self.settings.counters.close_reasons.count(report.reason);
        let CloseReport { reason, bytes_in, bytes_out, bytes_unsent, messages_in, messages_out, .. } = report;
        let (direction, peer) = (info.direction, info.peer_addr.as_ref().map(tracing::field::display));
        let times = match direction {
            _ if !report.opened || self.settings.mode == Mode::Stream => None,
            Direction::Dialed => Some(1),
            Direction::Accepted => self.log_limits.closed.happened(self.now),
        };
        let name = node.map(|node| node.short());
        if let Some(times) = times {
            let times = several(times);
            tracing::info!(channel = %id, node = name, ?direction, peer, %reason, bytes_in, bytes_out, bytes_unsent,
                messages_in, messages_out, times, "closed: {report}");
        } else {
            tracing::debug!(channel = %id, node = name, ?direction, peer, %reason, bytes_in, bytes_out,
                "closed: {report}");
        }
        if let (Direction::Accepted, Some(peer)) = (direction, &info.peer_addr) {
            self.release(peer);
        }
        #[expect(clippy::disallowed_methods, reason = "for people to read; nothing is decided by it")]
        let closed_at = SystemTime::now();
        lock(&self.handle.shared().history).push(ClosedChannel {
            id,
            direction,
            peer_addr: info.peer_addr,
            peer_id: node,
            report: report.clone(),
            closed_at,
            closed_mono: self.now,
        });
        if self.concerns_dialing(direction, node) {
            self.tell_dialing(
                direction,
                Note::Closed { channel: id, node, report: Box::new(report.clone()) },
            );
        }
    }

    // What is to be done with links to one node.

    pub(crate) fn settle_duplicates(&mut self) {
        let now = self.now;
        self.tell_peers(|peers| peers.handle_timeout(now));
    }

    /// Says what happened to a link, and does what follows from it. None in stream mode, where nobody asks.
    ///
    /// Under one lock: what follows for this loop's channel is never left to another loop, whose mail might come when the
    /// channel has ended, and what follows for a channel of another is posted in the order in which it was decided.
    fn tell_peers<T>(&mut self, happened: impl FnOnce(&mut Peers) -> T) -> Option<T> {
        let handle = self.handle.clone();
        let mut peers = lock(handle.shared().peers.as_ref()?);
        let outcome = happened(&mut peers);
        let mut ours = Vec::new();
        while let Some((channel, action)) = peers.next_action() {
            if handle.shared().loop_of(channel) == Some(self.index) {
                ours.push((channel, action));
            } else if let Some(port) = handle.shared().port_of(channel).filter(|_| !planted!(LostAct)) {
                // A loop that has ended has no channels.
                let _ = port.mailbox.post_always(Command::Act { channel, action });
            }
        }
        drop(peers);
        for (channel, action) in ours {
            self.act_on(channel, action);
        }
        Some(outcome)
    }

    pub(crate) fn act_on(&mut self, id: ChannelId, action: Action) {
        let Some(channel) = self.channels.touch(id) else { return };
        let counters = &self.settings.counters;
        match action {
            Action::Open => {
                channel.admit();
                self.admitted.push(id);
            }
            Action::Watch => channel.watch(),
            Action::Retire => channel.retire(CloseReason::Duplicate),
            Action::RefuseSelf => channel.fail(CloseReason::SelfDial, ClosedBy::Us, None),
            Action::Replace => {
                counters.takeovers.add(1);
                if let Some(times) = self.log_limits.replaced.happened(self.now) {
                    let node = node_of(channel).map(|node| node.short());
                    tracing::warn!(channel = %id, node, times,
                        "another instance of the node has linked: it was restarted");
                }
                channel.fail(CloseReason::Replaced, ClosedBy::Us, None);
            }
            Action::RefuseTakeover(wait) => {
                counters.takeovers_refused.add(1);
                if let Some(times) = self.log_limits.refused_takeover.happened(self.now) {
                    let node = node_of(channel).map(|node| node.short());
                    tracing::warn!(channel = %id, node, times,
                        "two instances of one node: does another have its id file?");
                }
                let why = "another instance of this node has linked just now";
                channel.refuse(CloseReason::Limit, wait, Some(why.into()));
            }
        }
    }

    // Persistent peers.

    /// Whether the loop that dials is to hear of a channel. Not of strangers: they come and go as fast as they like.
    fn concerns_dialing(&self, direction: Direction, node: Option<NodeId>) -> bool {
        let Some(sought) = &self.handle.shared().sought else { return false };
        direction == Direction::Dialed || node.is_some_and(|node| lock(sought).contains(node))
    }

    fn tell_dialing(&mut self, direction: Direction, note: Note) {
        if self.index == DIALING_LOOP {
            return self.note(note);
        }
        let shared = self.handle.shared();
        let command = match direction {
            // There are no more of these than this node dials.
            Direction::Dialed => Some(Command::Note(note)),
            // Of these there may be any number, if somebody has the id of a node that is sought.
            Direction::Accepted => {
                let is_first = shared
                    .sought
                    .as_ref()
                    .zip(note.node())
                    .is_some_and(|(sought, node)| lock(sought).tell(node, note));
                is_first.then_some(Command::News)
            }
        };
        if let Some(command) = command {
            // A loop that has ended dials nobody.
            let _ = shared.ports[DIALING_LOOP].mailbox.post_always(command);
        }
    }

    /// News of the nodes that are sought.
    pub(crate) fn hear_news(&mut self) {
        let sought = self.handle.shared().sought.as_ref();
        let news = sought.map(|sought| lock(sought).take_news()).unwrap_or_default();
        news.into_iter().for_each(|note| self.note(note));
    }

    pub(crate) fn note(&mut self, note: Note) {
        let Some(dialing) = &mut self.dialing else { return };
        let peers = self.handle.shared().peers.as_ref();
        let is_linked = |node| peers.is_some_and(|peers| lock(peers).is_linked(node));
        dialing.handle_note(note, is_linked, self.now);
        self.dial_peers();
    }

    /// Dials whoever is due, and comes back when the next one is.
    pub(crate) fn dial_peers(&mut self) {
        while let Some((place, address)) = self.dialing.as_mut().and_then(|d| d.next_dial(self.now)) {
            let outcome = self.handle.dial(address);
            if let Some(dialing) = &mut self.dialing {
                dialing.handle_dial(place, outcome, self.now);
            }
        }
        if let Some(timer) = self.dial_timer.take() {
            self.timers.cancel(timer);
        }
        let deadline = self.dialing.as_ref().and_then(|dialing| dialing.deadline());
        self.dial_timer = deadline.map(|at| self.timers.insert(at, TimerKey::Dial));
    }
}
