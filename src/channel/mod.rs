//! One channel, complete, without kernel or user code: link, outbox and life cycle joined. What happened goes in by
//! `handle_*` ([`inputs`]), what the program is told comes out of `next_event` ([`reading`]), what the kernel is asked
//! comes out of `next_submission` ([`outputs`]), and what the program asks is in [`commands`].
//!
//! After every input, command and event the loop calls `next_event` until `None`; before the end of the turn, for each
//! channel that was touched, `next_submission` until `None`, and looks at `deadline`.

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;

use crate::addr::{Address, Endpoint, Endpoints};
use crate::clock::Mono;
use crate::config::{Limits, Mode};
use crate::driver::{Accepted, ListenerId};
use crate::error::{CloseReason, CloseReport, ClosedBy};
use crate::id::ChannelId;
use crate::link::{Framing, Link};
use crate::stats::Counters;

#[cfg(feature = "internals")]
pub(crate) mod bench_support;
pub(crate) mod chunks;
mod commands;
mod dial;
mod inputs;
pub(crate) mod lifecycle;
pub(crate) mod outbox;
mod outputs;
mod reading;
pub(crate) mod slots;
pub(crate) mod table;
#[cfg(test)]
mod tests;

pub(crate) use chunks::ChunkPool;
pub(crate) use commands::Common;
pub(crate) use lifecycle::Phase;
pub(crate) use outbox::Room;
pub(crate) use slots::Slots;
pub(crate) use table::ChannelTable;

use dial::Dial;
use lifecycle::{Ending, PauseReasons};
use outbox::Outbox;

/// What the channels of a loop have in common.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    pub(crate) counters: Arc<Counters>,
    /// Most bytes of one send operation.
    pub(crate) send_size: usize,
    /// Most bytes of a stream given to the program at once, though more may be held: it may pause after each.
    pub(crate) piece: usize,
    pub(crate) mode: Mode,
}

impl Settings {
    #[inline]
    fn room(&self) -> Room {
        Room::new(self.mode, &self.limits)
    }
}

/// Who began the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Accepted(ListenerId),
    Dialed,
}

/// What the program is told; each leads to one callback.
#[derive(Debug)]
pub(crate) enum Event<'b> {
    /// Message mode: both hellos are said. Not for the program: the node looks whether there is another link to the
    /// same peer, and calls [`Channel::admit`] when the program is to hear of this one.
    Established,
    Opened,
    /// Stream mode: bytes as they came.
    Data(&'b [u8]),
    Message(&'b [u8]),
    /// A message that came in pieces; goes back by [`Channel::give_back`] when the callback is done.
    Assembled(Vec<u8>),
    /// The peer will send no more.
    Eof,
    /// The outbox fell to `outbox_low`.
    Drained,
    /// Not for the program: the answer to [`Channel::watch`].
    Confirmed,
    /// The last event.
    Closed(Box<CloseReport>),
}

/// How far the receiving half has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inbound {
    Flowing,
    /// The peer's FIN has come, and the program may still have to be told.
    Eof,
    /// The same, and everything about it is done.
    EofDone,
    Failed,
}

/// Flags that each state a fact.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts; every combination of most can be")]
struct Facts {
    /// True exactly when the driver was told to read, and not to pause since.
    reading: bool,
    /// True exactly when `ShutdownWrite` was submitted.
    fin_submitted: bool,
    /// True when the program wants the sending half shut down.
    fin_wanted: bool,
    /// True exactly when `Close` was submitted.
    close_submitted: bool,
    /// Close by RST.
    reset: bool,
    /// What is received is nobody's any more.
    discarding: bool,
    /// `Established` was given; in stream mode nobody asks.
    announced: bool,
    /// The program may hear of the channel once it is established.
    admitted: bool,
    /// True from `Established` until [`Channel::has_just_ended`] said so.
    is_peer: bool,
    /// `Confirmed` is wanted.
    watched: bool,
    opened: bool,
    /// The link was given bytes and has not said since that it made all it can of them.
    fed: bool,
    /// `Drained` is due.
    drained: bool,
    /// A send was refused and the program not called back since.
    refused: bool,
    /// Another thread has sent, or tried to: from then on all are told how much is queued.
    posted_to: bool,
    /// The send that is out, or was last, has control frames and nothing else.
    only_control: bool,
    /// The `Closed` event was given.
    reported: bool,
}

/// Byte and message counts.
#[derive(Debug, Default)]
struct Totals {
    received: u64,
    /// Accepted for sending, and of these, taken by the kernel.
    accepted: u64,
    written: u64,
    messages_in: u64,
    messages_out: u64,
}

/// One connection, from its dial or accept to the end.
#[derive(Debug)]
pub(crate) struct Channel {
    id: ChannelId,
    settings: Rc<Settings>,
    direction: Direction,
    /// None while dialing.
    endpoints: Option<Endpoints>,
    link: Link,
    outbox: Outbox,
    phase: Phase,
    inbound: Inbound,
    pauses: PauseReasons,
    facts: Facts,
    totals: Totals,
    /// Bytes of control frames queued since a send was last submitted.
    control: u32,
    /// A message that came before the channel was admitted; it goes before what is held.
    #[expect(clippy::box_collection, reason = "rare, and every channel has the place for it")]
    early: Option<Box<Vec<u8>>>,
    /// Received and not delivered, because reading was paused; not empty.
    held: Option<Box<BytesMut>>,
    /// The accepted socket, until it is adopted.
    socket: Option<Accepted>,
    /// Only while `Resolving` and `Dialing`.
    dial: Option<Box<Dial>>,
    /// The first reason to end.
    ending: Option<Box<Ending>>,
    began_at: Mono,
    /// When a message, or a part of one, was last sent or received; in stream mode a byte.
    moved_at: Mono,
    /// When the send that is out was submitted.
    sent_at: Mono,
    /// When the phase is over at the latest; counted from the submissions that follow its beginning.
    until: Option<Mono>,
    /// When an ending channel is closed at the latest.
    close_until: Option<Mono>,
}

impl Channel {
    /// For a connection just accepted.
    pub(crate) fn accepted(
        id: ChannelId,
        listener: ListenerId,
        socket: Accepted,
        endpoints: Endpoints,
        link: Link,
        settings: Rc<Settings>,
        now: Mono,
    ) -> Self {
        let direction = Direction::Accepted(listener);
        let channel = Self::new(id, direction, Phase::Opening, link, settings, now);
        Self { socket: Some(socket), endpoints: Some(endpoints), ..channel }
    }

    /// For a new connection to `address`. When that has a name, [`Channel::name`] says so and [`Channel::resolved`] is
    /// awaited. Its link comes by [`Channel::handle_dialed`].
    pub(crate) fn dialing(id: ChannelId, address: Address, settings: Rc<Settings>, now: Mono) -> Self {
        let dial = Box::new(Dial::new(address));
        let phase = if dial.is_resolved() { Phase::Dialing } else { Phase::Resolving };
        let channel = Self::new(id, Direction::Dialed, phase, Link::stream(), settings, now);
        Self { dial: Some(dial), ..channel }
    }

    fn new(
        id: ChannelId,
        direction: Direction,
        phase: Phase,
        link: Link,
        settings: Rc<Settings>,
        now: Mono,
    ) -> Self {
        let (mut pauses, mut facts) = (PauseReasons::default(), Facts::default());
        if settings.mode == Mode::Stream {
            pauses.insert(PauseReasons::UNOPENED);
            (facts.announced, facts.admitted) = (true, true);
        }
        Self {
            id,
            settings,
            direction,
            endpoints: None,
            link,
            outbox: Outbox::default(),
            phase,
            inbound: Inbound::Flowing,
            pauses,
            facts,
            totals: Totals::default(),
            control: 0,
            early: None,
            held: None,
            socket: None,
            dial: None,
            ending: None,
            began_at: now,
            moved_at: now,
            sent_at: now,
            until: None,
            close_until: None,
        }
    }

    pub(crate) fn id(&self) -> ChannelId {
        self.id
    }

    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// True when the last event was given: the channel can be removed and its slot freed.
    pub(crate) fn is_finished(&self) -> bool {
        self.facts.reported
    }

    /// The far end; while dialing, the endpoint that is tried.
    pub(crate) fn peer(&self) -> Option<&Endpoint> {
        match &self.endpoints {
            Some(endpoints) => Some(&endpoints.peer),
            None => self.dial.as_ref()?.endpoint(),
        }
    }

    /// This end, once there is a connection.
    pub(crate) fn local(&self) -> Option<&Endpoint> {
        self.endpoints.as_ref().map(|endpoints| &endpoints.local)
    }

    /// The address whose name is to be looked up.
    pub(crate) fn name(&self) -> Option<&Address> {
        self.dial.as_ref().filter(|_| self.phase == Phase::Resolving).map(|dial| &dial.address)
    }

    pub(crate) fn began_at(&self) -> Mono {
        self.began_at
    }

    /// When a message, or a part of one, was last sent or received; in stream mode a byte.
    pub(crate) fn moved_at(&self) -> Mono {
        self.moved_at
    }

    pub(crate) fn bytes_in(&self) -> u64 {
        self.totals.received
    }

    pub(crate) fn bytes_out(&self) -> u64 {
        self.totals.written
    }

    #[cfg(test)]
    pub(crate) fn messages_in(&self) -> u64 {
        self.totals.messages_in
    }

    #[cfg(test)]
    pub(crate) fn messages_out(&self) -> u64 {
        self.totals.messages_out
    }

    /// Bytes accepted and not yet taken by the kernel.
    #[inline]
    pub(crate) fn queued(&self) -> usize {
        self.outbox.queued()
    }

    /// True when other threads are to be told how much is queued.
    pub(crate) fn is_posted_to(&self) -> bool {
        self.facts.posted_to
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> &[u8] {
        self.held.as_deref().map_or(&[], |held| held)
    }

    /// True when the program paused reading.
    pub(crate) fn is_paused(&self) -> bool {
        self.pauses.contains(PauseReasons::USER)
    }

    /// True when the peer's FIN has come, whether or not the program was told.
    pub(crate) fn is_at_eof(&self) -> bool {
        matches!(self.inbound, Inbound::Eof | Inbound::EofDone)
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// True when sends are refused as closed.
    #[inline]
    pub(crate) fn is_sending_over(&self) -> bool {
        self.ending.is_some() || self.facts.fin_wanted
    }

    /// True once, when the end of a channel that was established has begun.
    pub(crate) fn has_just_ended(&mut self) -> bool {
        self.ending.is_some() && std::mem::take(&mut self.facts.is_peer)
    }

    /// The reason latched so far.
    pub(crate) fn reason(&self) -> Option<(CloseReason, ClosedBy)> {
        self.ending.as_ref().map(|ending| (ending.reason, ending.by))
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// The longest message that can be sent.
    pub(crate) fn max_message(&self) -> usize {
        self.link.max_message()
    }

    /// How messages are framed.
    pub(crate) fn framing(&self) -> Framing {
        self.link.framing()
    }

    /// Holds the parts of the state against each other.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        self.outbox.check();
        let dialing = matches!(self.phase, Phase::Resolving | Phase::Dialing);
        assert!(self.dial.is_some() || !dialing, "a dial has addresses");
        let ending = !matches!(self.phase, Phase::Resolving | Phase::Dialing | Phase::Opening | Phase::Open);
        assert!(self.ending.is_some() || !ending, "{:?} without a reason", self.phase);
        assert!(self.ending.is_none() || ending || dialing, "{:?} with a reason", self.phase);
        assert!(self.facts.opened || self.phase != Phase::Open);
        assert!(!self.facts.close_submitted || self.phase >= Phase::Closing);
        assert!(
            self.phase != Phase::Closed || !self.outbox.is_sending(),
            "a send is out of a closed channel"
        );
        let nothing_kept = self.held.is_none() && self.early.is_none();
        assert!(!self.facts.discarding || nothing_kept, "what is held is to be delivered");
        assert!(self.early.is_none() || self.facts.opened, "a message opens its channel");
        assert!(self.held.as_ref().is_none_or(|held| !held.is_empty()));
        assert!(!self.facts.reported || self.phase == Phase::Closed && self.held.is_none());
        assert!(self.totals.written <= self.totals.accepted);
    }

    /// The first reason stands; later ones are its consequences.
    fn latch(&mut self, ending: Ending) {
        if self.ending.is_none() {
            self.ending = Some(Box::new(ending));
        }
    }

    /// A close that promised to send everything could not.
    fn overrule(&mut self, ending: Ending) {
        if self.ending.as_ref().is_none_or(|first| first.is_promise()) {
            self.ending = Some(Box::new(ending));
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase.step(phase);
        self.until = None;
    }

    /// The connection is over as far as this side goes: `Close` is next.
    fn enter_closing(&mut self, reset: bool) {
        debug_assert!(self.ending.is_some());
        if self.phase < Phase::Closing {
            self.facts.reset = reset;
            self.facts.drained = false;
            self.enter(Phase::Closing);
        }
    }

    /// Goes over to sending what is queued and nothing else; the program hears no more but `Closed`.
    fn enter_flushing(&mut self) {
        self.discard_received();
        self.facts.drained = false;
        self.enter(Phase::Flushing);
    }

    /// From here on what is received is nobody's.
    fn discard_received(&mut self) {
        self.facts.discarding = true;
        self.early = None;
        self.link.discard();
        if let Some(held) = self.held.take() {
            self.settings.counters.bytes_held.sub(held.len() as u64);
            self.count_received(held.len());
        }
    }

    #[inline]
    fn count_received(&mut self, bytes: usize) {
        self.totals.received += bytes as u64;
        self.settings.counters.bytes_in.add(bytes as u64);
    }
}
