//! The far end of a message load test: verifies every message, counts what reached `on_message`, and says so when asked;
//! and passes on to all channels what is to be passed on.

use std::sync::Arc;

use bytes::Bytes;

use super::payload::{Kind, Pattern, Word};
use crate::{ChannelId, ChannelInfo, CloseReport, Context, Handler, Mono};

/// How a message of [`Kind::Relay`] is passed on; the lane of its word says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relay {
    /// By one [`Context::broadcast`].
    Broadcast,
    /// By a [`Context::send`] to each channel.
    SendToEach,
}

impl Relay {
    /// The word of a message to be passed on.
    pub fn word(self, sequence: u64) -> Word {
        let lane = match self {
            Self::Broadcast => 0,
            Self::SendToEach => 1,
        };
        Word { kind: Kind::Relay, lane, sequence }
    }

    fn of(message: &[u8]) -> Option<Self> {
        let word = Word::of(message).filter(|word| word.kind == Kind::Relay)?;
        Some(if word.lane == 0 { Self::Broadcast } else { Self::SendToEach })
    }
}

/// What the far end had counted on a connection when it was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Messages, every one of them right and in its turn.
    pub messages: u64,
    /// Bytes of these messages.
    pub bytes: u64,
    /// Messages that were wrong, or out of their turn.
    pub failures: u64,
    /// When, on the far end's clock.
    pub at: Mono,
}

impl Answer {
    /// The answer as a message.
    pub fn encode(&self, lane: u32) -> [u8; 40] {
        let word = Word { kind: Kind::Answer, lane, sequence: 0 }.encode();
        let mut message = [0; 40];
        let fields = [word, self.messages, self.bytes, self.failures, self.at.as_nanos()];
        for (place, field) in message.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        message
    }

    /// The answer in a message; `None` if it is something else.
    pub fn decode(message: &[u8]) -> Option<Self> {
        Word::of(message).filter(|word| word.kind == Kind::Answer && message.len() == 40)?;
        let field = |n: usize| message[n * 8..].first_chunk().map_or(0, |field| u64::from_le_bytes(*field));
        Some(Self { messages: field(1), bytes: field(2), failures: field(3), at: Mono::from_nanos(field(4)) })
    }
}

/// The question, as a message. The first on a connection says by which seed its messages are made.
pub fn ask(lane: u32, seed: u64) -> [u8; 16] {
    let mut message = [0; 16];
    message[..8].copy_from_slice(&Word { kind: Kind::Ask, lane, sequence: 0 }.encode().to_le_bytes());
    message[8..].copy_from_slice(&seed.to_le_bytes());
    message
}

/// One connection's messages, as they should come and as they came.
#[derive(Clone, Debug, Default)]
pub struct Count {
    pattern: Option<Arc<Pattern>>,
    lane: u32,
    answer: Answer,
}

impl Count {
    /// Takes a message. A question comes back as its answer.
    #[inline]
    pub fn take(&mut self, message: &[u8], now: Mono) -> Option<[u8; 40]> {
        match Word::of(message).map(|word| word.kind) {
            Some(Kind::Ask) => Some(self.asked(message, now)),
            Some(Kind::Data) | None => {
                let expected = Word::data(self.lane, self.answer.messages);
                let right = |pattern: &Arc<Pattern>| pattern.differs(expected, 0, message).is_none();
                if self.pattern.as_ref().is_some_and(right) {
                    self.answer.messages += 1;
                    self.answer.bytes += message.len() as u64;
                } else {
                    self.answer.failures += 1;
                }
                None
            }
            Some(Kind::Answer | Kind::Relay) => {
                self.answer.failures += 1;
                None
            }
        }
    }

    fn asked(&mut self, message: &[u8], now: Mono) -> [u8; 40] {
        if let (None, Some(word), Some(seed)) =
            (&self.pattern, Word::of(message), message.get(8..).and_then(|rest| rest.first_chunk()))
        {
            self.lane = word.lane;
            self.pattern = Some(Arc::new(Pattern::new(u64::from_le_bytes(*seed))));
        }
        self.answer.at = now;
        self.answer.encode(self.lane)
    }
}

/// A handler that counts the messages of each channel, answers questions, and passes on what is to be passed on.
///
/// Whoever loads it decides what it is sent; so it is for tests, and runs only where it was asked for.
#[derive(Debug, Default)]
pub struct Bench {
    /// By the channel's slot less `first`: looked up for every message.
    counts: Vec<Count>,
    /// The lowest slot that was open.
    first: u32,
    open: Vec<ChannelId>,
}

impl Bench {
    /// Makes a place for the channel in this slot. Slots begin where the node's range does, and not at 0.
    fn make_place(&mut self, slot: u32) {
        if self.counts.is_empty() {
            self.first = slot;
        }
        let below = self.first.saturating_sub(slot);
        self.first -= below;
        self.counts.splice(..0, vec![Count::default(); below as usize]);
        let len = self.place(slot) + 1;
        if len > self.counts.len() {
            self.counts.resize(len, Count::default());
        }
    }

    fn place(&self, slot: u32) -> usize {
        (slot - self.first) as usize
    }

    /// A channel whose outbox is full does not get it, which the counters of the node tell.
    fn relay(&self, cx: &mut Context<'_>, how: Relay, message: &[u8]) {
        match how {
            Relay::Broadcast => {
                cx.broadcast(&Bytes::copy_from_slice(message));
            }
            Relay::SendToEach => {
                for channel in &self.open {
                    _ = cx.send(*channel, message);
                }
            }
        }
    }
}

impl Handler for Bench {
    fn on_open(&mut self, _: &mut Context<'_>, channel: ChannelId, _: &ChannelInfo) {
        self.open.push(channel);
        self.make_place(channel.slot());
    }

    fn on_message(&mut self, cx: &mut Context<'_>, channel: ChannelId, message: &[u8]) {
        if let Some(how) = Relay::of(message) {
            return self.relay(cx, how, message);
        }
        let place = self.place(channel.slot());
        if let Some(answer) = self.counts[place].take(message, cx.now())
            && cx.send(channel, &answer).is_err()
        {
            cx.abort(channel); // it asks, and never reads
        }
    }

    fn on_close(&mut self, _: &mut Context<'_>, channel: ChannelId, report: &CloseReport) {
        self.open.retain(|open| *open != channel);
        if report.opened {
            let place = self.place(channel.slot());
            self.counts[place] = Count::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(seed: u64, count: u64) -> Vec<Vec<u8>> {
        let pattern = Pattern::new(seed);
        let message = |n| {
            let mut out = Vec::new();
            pattern.write(Word::data(3, n), 64, &mut out);
            out
        };
        (0..count).map(message).collect()
    }

    fn count(messages: &[Vec<u8>]) -> Answer {
        let (mut count, now) = (Count::default(), Mono::from_nanos(5));
        count.take(&ask(3, 7), now);
        messages.iter().for_each(|message| assert_eq!(count.take(message, now), None));
        Answer::decode(&count.take(&ask(3, 7), now).unwrap()).unwrap()
    }

    #[test]
    fn the_counts_take_as_many_places_as_slots_were_in_use() {
        let mut bench = Bench::default();
        for slot in [4_000_000_003, 4_000_000_001, 4_000_000_002, 4_000_000_004] {
            bench.make_place(slot);
            let place = bench.place(slot);
            bench.counts[place].lane = slot;
        }
        let lanes: Vec<u32> = bench.counts.iter().map(|count| count.lane).collect();
        assert_eq!(lanes, [4_000_000_001, 4_000_000_002, 4_000_000_003, 4_000_000_004]);
    }

    #[test]
    fn right_messages_are_counted() {
        let expected = Answer { messages: 10, bytes: 640, failures: 0, at: Mono::from_nanos(5) };
        assert_eq!(count(&messages(7, 10)), expected);
    }

    #[test]
    fn wrong_messages_are_failures() {
        let good = messages(7, 10);
        let mut corrupt = good.clone();
        corrupt[4][20] ^= 1;
        assert_eq!((count(&corrupt).messages, count(&corrupt).failures), (4, 6));
        let lost = [&good[..3], &good[4..]].concat();
        assert_eq!((count(&lost).messages, count(&lost).failures), (3, 6));
        let doubled = [&good[..4], &good[3..]].concat();
        assert_eq!((count(&doubled).messages, count(&doubled).failures), (10, 1));
        assert_eq!(count(&messages(8, 10)).messages, 0);
    }
}
