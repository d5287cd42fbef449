//! Persistent peers: addresses that are dialed again for as long as the node lives. Sans-IO; loop 0 has the one there
//! is, and hears from the others what becomes of links.
//!
//! Delays have full jitter: after an outage, peers that lost the same node must not come back all at once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::addr::Address;
use crate::clock::Mono;
use crate::error::{CloseReason, CloseReport, DialError};
use crate::id::ChannelId;
use crate::link::NodeId;
use crate::node::linking::lock;
use crate::node::sought::Sought;

/// The first retry comes within this time,
const FIRST: Duration = Duration::from_millis(100);
/// a later one within this time doubled as often as there were retries before,
const BASE: Duration = Duration::from_millis(250);
/// and within this at most.
const CAP: Duration = Duration::from_secs(30);
/// `BASE` doubled so often is above `CAP`.
const MAX_DOUBLINGS: u32 = 7;
/// A link that lasted for so long was a good one: the next failure is a first one.
const STABLE: Duration = Duration::from_secs(30);
/// Dials of a node are so far apart at least: a hundred a second.
const SPACING: Duration = Duration::from_millis(10);
/// A peer may ask for this much at most, or a hostile one would be rid of us for weeks.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// What loops tell of links.
#[derive(Debug)]
pub(crate) enum Note {
    Opened { channel: ChannelId, node: Option<NodeId> },
    Closed { channel: ChannelId, node: Option<NodeId>, report: Box<CloseReport> },
}

impl Note {
    /// Whom the link leads to, where that is known.
    pub(crate) fn node(&self) -> Option<NodeId> {
        match self {
            Self::Opened { node, .. } | Self::Closed { node, .. } => *node,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Until it is time.
    Waiting(Mono),
    /// `None` between [`Dialing::next_dial`] and [`Dialing::handle_dial`].
    Dialing(Option<ChannelId>),
    Linked(ChannelId, Mono),
    /// There is a link to the node at the address that did not come from this dial.
    Satisfied,
}

#[derive(Debug)]
struct Entry {
    address: Address,
    /// Who was found there last.
    node: Option<NodeId>,
    state: State,
    /// Retries since the last good link.
    retries: u32,
    /// Dials that failed, one after the other.
    failures: u64,
    lost_at: Option<Mono>,
}

#[derive(Debug)]
pub(crate) struct Dialing {
    entries: Vec<Entry>,
    max_in_flight: usize,
    /// The nodes of `entries`.
    sought: Arc<Mutex<Sought>>,
    /// No dial before this.
    not_before: Mono,
    random: u64,
}

impl Dialing {
    pub(crate) fn new(
        addresses: Vec<Address>,
        max_in_flight: usize,
        sought: Arc<Mutex<Sought>>,
        seed: u64,
        now: Mono,
    ) -> Self {
        let entry = |address| Entry {
            address,
            node: None,
            state: State::Waiting(now),
            retries: 0,
            failures: 0,
            lost_at: None,
        };
        let entries = addresses.into_iter().map(entry).collect();
        Self { entries, max_in_flight, sought, not_before: now, random: seed }
    }

    /// When [`Dialing::next_dial`] will have something.
    pub(crate) fn deadline(&self) -> Option<Mono> {
        let waiting = self.entries.iter().filter_map(Entry::due_at);
        waiting.min().filter(|_| self.in_flight() < self.max_in_flight).map(|at| at.max(self.not_before))
    }

    /// The next address to dial; its place goes to [`Dialing::handle_dial`].
    pub(crate) fn next_dial(&mut self, now: Mono) -> Option<(usize, Address)> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return None;
        }
        let waiting = self.entries.iter().enumerate().filter_map(|(place, e)| Some((e.due_at()?, place)));
        let (_, place) = waiting.min()?;
        self.not_before = now + SPACING;
        self.entries[place].state = State::Dialing(None);
        Some((place, self.entries[place].address.clone()))
    }

    /// The dial has begun, or could not.
    pub(crate) fn handle_dial(&mut self, place: usize, outcome: Result<ChannelId, DialError>, now: Mono) {
        match outcome {
            Ok(channel) => self.entries[place].state = State::Dialing(Some(channel)),
            Err(error) => self.wait(place, &error.to_string(), Delay::Backoff, now),
        }
    }

    /// `is_linked` says whether there is a link to a node now.
    pub(crate) fn handle_note(&mut self, note: Note, is_linked: impl Fn(NodeId) -> bool, now: Mono) {
        match note {
            Note::Opened { channel, node } => {
                self.learn(channel, node);
                self.handle_opened(channel, node, now);
            }
            Note::Closed { channel, node, report } => {
                // Before it is asked: a loop that does not tell of a link, since its node is not sought yet, has let
                // everybody know before that whether it is linked.
                self.learn(channel, node);
                self.handle_closed(channel, node, &report, is_linked, now);
            }
        }
    }

    /// Who is at the address that led to the channel.
    fn learn(&mut self, channel: ChannelId, node: Option<NodeId>) {
        let mut is_news = false;
        for entry in self.entries.iter_mut().filter(|entry| entry.led_to(channel)) {
            is_news |= node.is_some() && entry.node != node;
            entry.node = node.or(entry.node);
        }
        if is_news {
            lock(&self.sought).set(self.entries.iter().filter_map(|entry| entry.node));
        }
    }

    fn handle_opened(&mut self, channel: ChannelId, node: Option<NodeId>, now: Mono) {
        for entry in &mut self.entries {
            if entry.state == State::Dialing(Some(channel)) {
                entry.found(State::Linked(channel, now), now);
            } else if node.is_some() && entry.node == node && matches!(entry.state, State::Waiting(_)) {
                entry.found(State::Satisfied, now);
            }
        }
    }

    fn handle_closed(
        &mut self,
        channel: ChannelId,
        node: Option<NodeId>,
        report: &CloseReport,
        is_linked: impl Fn(NodeId) -> bool,
        now: Mono,
    ) {
        for place in 0..self.entries.len() {
            let entry = &mut self.entries[place];
            // A dial that led to nobody may have been in vain because the node has come by itself meanwhile.
            let is_linked = node.or(entry.node).is_some_and(&is_linked);
            match entry.state {
                State::Dialing(Some(dialed)) if dialed == channel => {}
                State::Linked(linked, since) if linked == channel => entry.lost(since, now),
                State::Satisfied if node.is_some() && entry.node == node => {
                    if is_linked {
                        continue;
                    }
                    entry.lost_at = Some(now);
                }
                State::Waiting(_) | State::Dialing(_) | State::Linked(..) | State::Satisfied => continue,
            }
            if is_linked {
                entry.found(State::Satisfied, now);
            } else {
                self.wait(place, &report.to_string(), Delay::after(report), now);
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry.state, State::Dialing(_))).count()
    }

    fn wait(&mut self, place: usize, why: &str, delay: Delay, now: Mono) {
        let entry = &self.entries[place];
        let delay = match delay {
            Delay::AtLeast(time) => time.min(MAX_RETRY_AFTER) + self.below(FIRST),
            Delay::Longest => CAP / 2 + self.below(CAP / 2),
            Delay::Backoff if entry.retries == 0 => self.below(FIRST),
            Delay::Backoff => {
                let window = BASE * 2_u32.pow(entry.retries.min(MAX_DOUBLINGS));
                self.below(window.min(CAP))
            }
        };
        let entry = &mut self.entries[place];
        let was_found = entry.lost_at == Some(now);
        entry.state = State::Waiting(now + delay);
        entry.retries = entry.retries.saturating_add(1);
        let (address, again) = (&entry.address, format!("{delay:.1?}"));
        if was_found {
            tracing::info!(%address, again, "the link is lost: {why}");
        } else {
            entry.failures += 1;
            // The first, and then ever more seldom.
            if entry.failures.is_power_of_two() {
                tracing::warn!(%address, failures = entry.failures, again, "cannot link: {why}");
            }
        }
    }

    /// Evenly distributed from zero to the time.
    fn below(&mut self, time: Duration) -> Duration {
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        time.mul_f64((z >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

impl Entry {
    /// When it is to be dialed.
    fn due_at(&self) -> Option<Mono> {
        match self.state {
            State::Waiting(until) => Some(until),
            State::Dialing(_) | State::Linked(..) | State::Satisfied => None,
        }
    }

    fn led_to(&self, channel: ChannelId) -> bool {
        match self.state {
            State::Dialing(dialed) => dialed == Some(channel),
            State::Linked(linked, _) => linked == channel,
            State::Waiting(_) | State::Satisfied => false,
        }
    }

    fn found(&mut self, state: State, now: Mono) {
        self.state = state;
        self.failures = 0;
        if let Some(lost_at) = self.lost_at.take() {
            tracing::info!(address = %self.address, "linked again after {:.1?}", now - lost_at);
        }
    }

    fn lost(&mut self, since: Mono, now: Mono) {
        self.lost_at = Some(now);
        if now - since >= STABLE {
            self.retries = 0;
        }
    }
}

/// How long to wait before the next dial.
#[derive(Clone, Copy, Debug)]
enum Delay {
    Backoff,
    /// The peer asked for it.
    AtLeast(Duration),
    /// It would fail again, until somebody changes a setting.
    Longest,
}

impl Delay {
    fn after(report: &CloseReport) -> Self {
        match (report.retry_after, report.reason) {
            (Some(time), _) => Self::AtLeast(time),
            (None, CloseReason::WrongNetwork | CloseReason::VersionMismatch | CloseReason::SelfDial) => {
                Self::Longest
            }
            (None, _) => Self::Backoff,
        }
    }
}

#[cfg(test)]
mod tests;
