//! From bytes in any pieces to whole messages and control frames, and the budgets that keep a peer from making it
//! costly: memory grows only with bytes received, all links of a loop share what there is, and control frames have a rate.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Mono;
use crate::config::Limits;
use crate::error::CloseReason;
use crate::stats::Counters;

use super::frame::{HEADER_LEN, Header, Kind};
use super::share::{self, Share};
use super::{LinkError, goaway, heartbeat, hello};

/// Most frames of one message; `Limits::validate` sees to it that honest ones need fewer.
pub(super) const MAX_FRAMES: u32 = 65_536;
/// What the first piece of a message allocates at least, in bytes.
const FIRST: usize = 4 << 10;

/// What was found in the input.
#[derive(Debug)]
pub(super) enum Piece<'b> {
    /// A frame begins: [`Assembly::begin`] it, or stop.
    Header(Header),
    /// A message that lay whole in the input.
    Message(&'b [u8]),
    /// A message that did not.
    Assembled(Vec<u8>),
    /// A whole control frame.
    Control(Kind, Cow<'b, [u8]>),
    /// A frame is over, and there is nothing to tell.
    Nothing,
}

/// The frame whose payload is being received.
#[derive(Clone, Copy, Debug)]
struct Current {
    kind: Kind,
    more: bool,
    /// Bytes of payload still to come.
    left: usize,
}

/// What was received of the frame and message that are not complete yet.
///
/// Invariant: `message` has bytes only while a message is begun, and then at most `max_message`; `frame_count` is the
/// number of its frames.
#[derive(Debug)]
pub(super) struct Assembly {
    max_frame: u32,
    max_message: usize,
    held: [u8; HEADER_LEN],
    /// Bytes of `held` in use: a header that is split between two inputs.
    held_len: usize,
    current: Option<Current>,
    control: Vec<u8>,
    message: Vec<u8>,
    /// Of the memory of `message`, also while that is on its way to be given back.
    share: Share,
    frame_count: u32,
    /// A message was assembled since the last [`Assembly::trim`].
    in_use: bool,
}

impl Assembly {
    pub(super) fn new(limits: &Limits, counters: Arc<Counters>) -> Self {
        Self {
            max_frame: limits.max_frame,
            max_message: limits.max_message,
            held: [0; HEADER_LEN],
            held_len: 0,
            current: None,
            control: Vec::new(),
            message: Vec::new(),
            share: Share::new(limits, counters),
            frame_count: 0,
            in_use: false,
        }
    }

    /// True when the next byte begins a frame that begins a message.
    pub(super) fn is_at_boundary(&self) -> bool {
        self.held_len == 0 && self.current.is_none() && self.frame_count == 0
    }

    /// Bytes received of a message that is not complete.
    #[inline]
    pub(super) fn begun(&self) -> usize {
        self.message.len()
    }

    /// Bytes allocated.
    #[cfg(any(test, fuzzing))]
    pub(super) fn memory(&self) -> usize {
        self.control.capacity() + self.message.capacity()
    }

    pub(super) fn check(&self) {
        debug_assert!(self.held_len < HEADER_LEN);
        debug_assert!(self.held_len == 0 || self.current.is_none());
        debug_assert!(self.message.is_empty() || self.frame_count > 0);
        debug_assert!(self.message.len() <= self.max_message && self.control.len() <= hello::MAX_LEN);
        debug_assert!(self.frame_count <= MAX_FRAMES);
    }

    /// The next piece of `input`; `None`: all of it is taken.
    pub(super) fn next_piece<'b>(&mut self, input: &mut &'b [u8]) -> Result<Option<Piece<'b>>, LinkError> {
        self.check();
        let Some(current) = self.current else {
            return Ok(self.next_header(input).map(Header::decode).transpose()?.map(Piece::Header));
        };
        Ok(match current.kind {
            Kind::Data => self.next_data(current, input)?,
            Kind::Ping | Kind::Pong | Kind::Hello | Kind::GoAway => self.next_control(current, input),
            Kind::Ignorable(_) => {
                let left = current.left - take(input, current.left).len();
                self.set_left(current, left);
                (left == 0).then_some(Piece::Nothing)
            }
        })
    }

    fn next_header(&mut self, input: &mut &[u8]) -> Option<[u8; HEADER_LEN]> {
        if self.held_len == 0
            && let Some((header, rest)) = input.split_first_chunk()
        {
            *input = rest;
            return Some(*header);
        }
        let part = take(input, HEADER_LEN - self.held_len);
        self.held[self.held_len..][..part.len()].copy_from_slice(part);
        self.held_len += part.len();
        if self.held_len < HEADER_LEN {
            return None;
        }
        self.held_len = 0;
        Some(self.held)
    }

    /// Accepts the frame of a [`Piece::Header`], if its length is within the limits. Nothing is allocated.
    pub(super) fn begin(&mut self, header: Header) -> Result<(), LinkError> {
        assert!(self.current.is_none(), "a frame begins after the one before");
        let len = header.len as usize;
        if header.len > self.max_frame {
            let detail = format!("a frame of {len} bytes; max_frame is {}", self.max_frame);
            return Err(LinkError::new(CloseReason::FrameTooBig, detail));
        }
        let lens = match header.kind {
            Kind::Data => return self.begin_data(header),
            Kind::Ping => heartbeat::PING_LEN..=heartbeat::PING_LEN,
            Kind::Pong => heartbeat::PONG_LEN..=heartbeat::PONG_LEN,
            Kind::Hello => hello::MIN_LEN..=hello::MAX_LEN,
            Kind::GoAway => goaway::MIN_LEN..=goaway::MAX_LEN,
            Kind::Ignorable(_) => 0..=self.max_frame as usize,
        };
        if !lens.contains(&len) {
            let detail = format!("a {:?} frame of {len} bytes", header.kind);
            return Err(LinkError::new(CloseReason::Protocol, detail));
        }
        if header.more && !matches!(header.kind, Kind::Ignorable(_)) {
            return Err(LinkError::new(
                CloseReason::Protocol,
                format!("a {:?} frame with MORE", header.kind),
            ));
        }
        self.current = Some(Current { kind: header.kind, more: false, left: len });
        Ok(())
    }

    fn begin_data(&mut self, header: Header) -> Result<(), LinkError> {
        let left = header.len as usize;
        if header.more && left == 0 {
            return Err(LinkError::new(CloseReason::Protocol, "an empty frame with MORE"));
        }
        let total = self.message.len().saturating_add(left);
        if total > self.max_message {
            let detail = format!("a message of {total} bytes or more; max_message is {}", self.max_message);
            return Err(LinkError::new(CloseReason::MessageTooBig, detail));
        }
        if self.frame_count == MAX_FRAMES {
            let detail = format!("a message of more than {MAX_FRAMES} frames");
            return Err(LinkError::new(CloseReason::MessageTooBig, detail));
        }
        self.frame_count += 1;
        self.current = Some(Current { kind: Kind::Data, more: header.more, left });
        Ok(())
    }

    fn set_left(&mut self, current: Current, left: usize) {
        self.current = (left > 0).then_some(Current { left, ..current });
    }

    fn next_data<'b>(
        &mut self,
        current: Current,
        input: &mut &'b [u8],
    ) -> Result<Option<Piece<'b>>, LinkError> {
        if !current.more
            && self.message.is_empty()
            && let Some((message, rest)) = input.split_at_checked(current.left)
        {
            *input = rest;
            self.current = None;
            self.frame_count = 0;
            return Ok(Some(Piece::Message(message)));
        }
        let part = take(input, current.left);
        self.append(part)?;
        let left = current.left - part.len();
        self.set_left(current, left);
        Ok(if left > 0 {
            None
        } else if current.more {
            Some(Piece::Nothing)
        } else {
            self.frame_count = 0;
            self.in_use = true;
            Some(Piece::Assembled(std::mem::take(&mut self.message)))
        })
    }

    /// Grows by doubling, never past `max_message`: what is allocated is at most twice what was received.
    fn append(&mut self, part: &[u8]) -> Result<(), LinkError> {
        let needed = self.message.len() + part.len();
        if needed > self.message.capacity() {
            let target =
                needed.max(self.message.capacity().saturating_mul(2)).max(FIRST).min(self.max_message);
            self.share.grow(target)?;
            self.message.reserve_exact(target - self.message.len());
        }
        self.message.extend_from_slice(part);
        Ok(())
    }

    fn next_control<'b>(&mut self, current: Current, input: &mut &'b [u8]) -> Option<Piece<'b>> {
        let part = take(input, current.left);
        let left = current.left - part.len();
        self.set_left(current, left);
        if left == 0 && self.control.is_empty() {
            return Some(Piece::Control(current.kind, Cow::Borrowed(part)));
        }
        self.control.extend_from_slice(part);
        (left == 0).then(|| Piece::Control(current.kind, Cow::Owned(std::mem::take(&mut self.control))))
    }

    /// Takes the memory of an assembled message for the next one.
    pub(super) fn give_back(&mut self, mut message: Vec<u8>) {
        // One at most: so a link never has more than the one partial message it may have anyway.
        let capacity = message.capacity();
        if self.message.capacity() == 0 && capacity <= self.max_message && self.share.may_keep(capacity) {
            message.clear();
            self.message = message;
        }
        self.share.set(self.message.capacity());
    }

    /// Frees the memory for messages, and what was begun with it.
    pub(super) fn free(&mut self) {
        self.message = Vec::new();
        self.share.set(0);
    }

    /// Called now and then: frees the memory of large messages when none came since the last time.
    pub(super) fn trim(&mut self) {
        if !self.in_use && self.message.is_empty() && self.message.capacity() > share::FREE {
            self.free();
        }
        self.in_use = false;
    }
}

/// Takes `len` bytes, or as many as there are.
fn take<'b>(input: &mut &'b [u8], len: usize) -> &'b [u8] {
    let (part, rest) = input.split_at(len.min(input.len()));
    *input = rest;
    part
}

/// What a peer may have saved at most. What it sent during a pause, an outage or a halt of ours comes all at once.
const MOST_SAVED: Duration = Duration::from_secs(3600);

/// A rate of control frames, on the average: those of a second at first, and then what was not used before.
#[derive(Debug)]
pub(super) struct Budget {
    interval: Duration,
    /// The time not yet spent; each frame takes `interval` of it.
    saved: Duration,
    /// When that was counted.
    at: Mono,
}

impl Budget {
    pub(super) fn new(per_second: u32, now: Mono) -> Self {
        let second = Duration::from_secs(1);
        Self { interval: second / per_second.max(1), saved: second, at: now }
    }

    pub(super) fn spend(&mut self, now: Mono) -> Result<(), LinkError> {
        let saved = (self.saved + (now - self.at)).min(MOST_SAVED);
        let Some(rest) = saved.checked_sub(self.interval) else {
            let per_second = Duration::from_secs(1).as_nanos() / self.interval.as_nanos().max(1);
            let detail = format!("more than max_control_frames, {per_second} a second");
            return Err(LinkError::new(CloseReason::Flood, detail));
        };
        (self.saved, self.at) = (rest, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_allows_a_seconds_worth_at_once_and_then_its_rate() {
        let start = Mono::from_nanos(7);
        let mut budget = Budget::new(10, start);
        assert_eq!(at_once(&mut budget, start), 10);
        assert_eq!(budget.spend(start).unwrap_err().reason, CloseReason::Flood);
        for i in 1..1000 {
            assert_eq!(at_once(&mut budget, start + Duration::from_millis(100) * i), 1);
        }
    }

    #[test]
    fn what_was_not_used_is_saved_for_an_hour() {
        let (mut now, minute, hour) =
            (Mono::from_nanos(7), Duration::from_secs(60), Duration::from_secs(3600));
        let mut budget = Budget::new(10, now);
        for (waited, saved) in [(Duration::ZERO, 10), (minute, 600), (hour * 5, 36_000), (minute, 600)] {
            now = now + waited;
            assert_eq!(at_once(&mut budget, now), saved, "after {waited:?}");
        }
    }

    /// How many frames may come at this moment.
    fn at_once(budget: &mut Budget, now: Mono) -> usize {
        std::iter::from_fn(|| budget.spend(now).ok()).count()
    }

    #[test]
    fn memory_follows_the_bytes_received_not_those_announced() {
        let mut assembly = Assembly::new(&Limits::default(), Arc::default());
        assembly.begin(Header { kind: Kind::Data, more: true, len: 1 << 20 }).unwrap();
        assert_eq!(assembly.memory(), 0);
        let mut received = 0;
        for _ in 0..500 {
            assert!(assembly.next_piece(&mut &[7; 100][..]).unwrap().is_none());
            received += 100;
            assert!(assembly.memory() <= (2 * received).max(FIRST), "{} for {received}", assembly.memory());
        }
    }

    /// A loop whose links have room for four messages of almost 1 MiB, and so many links.
    fn loop_of(links: usize) -> (Arc<Counters>, Vec<Assembly>) {
        let limits = Limits {
            max_frame: 128 << 10,
            max_message: 1 << 20,
            assembly_bytes: 4 << 20,
            ..Limits::default()
        };
        let counters = Arc::<Counters>::default();
        let links = (0..links).map(|_| Assembly::new(&limits, Arc::clone(&counters))).collect();
        (counters, links)
    }

    /// Begins a message of almost 1 MiB. As the link does, it gives all up where that fails.
    fn begin(link: &mut Assembly) -> Result<(), LinkError> {
        for _ in 0..7 {
            link.begin(Header { kind: Kind::Data, more: true, len: 128 << 10 })?;
            link.next_piece(&mut &[7; 128 << 10][..]).inspect_err(|_| link.free())?;
        }
        Ok(())
    }

    #[test]
    fn the_links_of_a_loop_share_what_may_be_held_of_begun_messages() {
        let (counters, mut links) = loop_of(13);
        let held = || counters.bytes_assembling.get() as usize;
        let refused: Vec<_> = links[..10].iter_mut().filter_map(|link| begin(link).err()).collect();
        let each = (1 << 20) - share::FREE;
        assert_eq!((refused.len(), counters.assemblies_refused.get(), held()), (6, 6, 4 * each));
        assert_eq!(refused[0].to_string(), "limit: no memory for a message; assembly_bytes is 4194304");
        // A short message has its place all the same.
        links[12].begin(Header { kind: Kind::Data, more: false, len: 60_000 }).unwrap();
        assert!(links[12].next_piece(&mut &[7; 59_999][..]).unwrap().is_none());
        begin(&mut links[11]).unwrap_err();
        links.remove(0);
        assert_eq!(held(), 3 * each);
        begin(&mut links[9]).unwrap();
        links.clear();
        assert_eq!(held(), 0);
    }

    #[test]
    fn what_is_kept_for_messages_to_come_leaves_half_to_those_begun() {
        let (counters, mut links) = loop_of(10);
        for link in &mut links {
            begin(link).unwrap();
            link.begin(Header { kind: Kind::Data, more: false, len: 1 }).unwrap();
            let Ok(Some(Piece::Assembled(message))) = link.next_piece(&mut &b"x"[..]) else { panic!() };
            link.give_back(message);
        }
        assert_eq!(links.iter().filter(|link| link.memory() > 0).count(), 2);
        for _ in 0..2 {
            links.iter_mut().for_each(Assembly::trim);
        }
        assert_eq!(counters.bytes_assembling.get(), 0);
    }

    #[test]
    fn memory_given_back_is_used_again_and_freed_when_it_is_not() {
        let mut assembly = Assembly::new(&Limits::default(), Arc::default());
        let memory = Vec::with_capacity(1 << 20);
        let at = memory.as_ptr();
        assembly.give_back(memory);
        assembly.give_back(Vec::with_capacity(1 << 20));
        assembly.begin(Header { kind: Kind::Data, more: false, len: 2 }).unwrap();
        assert!(assembly.next_piece(&mut &b"a"[..]).unwrap().is_none());
        let Some(Piece::Assembled(message)) = assembly.next_piece(&mut &b"b"[..]).unwrap() else { panic!() };
        assert_eq!((message.as_slice(), message.as_ptr()), (&b"ab"[..], at));
        assembly.give_back(message);
        assembly.trim();
        assert_eq!(assembly.memory(), 1 << 20);
        assembly.trim();
        assert_eq!(assembly.memory(), 0);
    }
}
