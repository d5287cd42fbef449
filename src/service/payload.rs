//! What a load test sends: bytes that both ends know, so that each can verify every one of them.
//!
//! A message is a [`Word`] that names it, and bytes of the [`Pattern`] from a place that follows from seed and word. So
//! a message that was cut, doubled, swapped or filled with another's bytes is seen for what it is.

const PERIOD: usize = Pattern::PERIOD;
/// The bytes are there twice, so that those of most messages lie in one piece.
const COPIES: usize = 2;

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To be verified and counted.
    Data,
    /// Asks the far end to say what it has counted.
    Ask,
    /// The answer.
    Answer,
    /// To be passed on to all channels: see [`Relay`](super::Relay).
    Relay,
}

/// The first 8 bytes of a message, little-endian: its number among those of its connection (40 bits), the connection
/// (22 bits) and its kind (2 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// What it is for.
    pub kind: Kind,
    /// The connection, as the sender numbers it.
    pub lane: u32,
    /// The message's number on the connection, from 0.
    pub sequence: u64,
}

impl Word {
    /// Bytes of a word.
    pub const LEN: usize = 8;
    /// Connections that can be told apart.
    pub const LANES: u32 = 1 << 22;
    const SEQUENCES: u64 = 1 << 40;

    /// The word of a message to be verified.
    pub fn data(lane: u32, sequence: u64) -> Self {
        Self { kind: Kind::Data, lane, sequence }
    }

    /// The word as it travels.
    pub fn encode(self) -> u64 {
        debug_assert!(self.lane < Self::LANES);
        let kind = match self.kind {
            Kind::Data => 0,
            Kind::Ask => 1,
            Kind::Answer => 2,
            Kind::Relay => 3,
        };
        (self.sequence % Self::SEQUENCES) | u64::from(self.lane) << 40 | kind << 62
    }

    /// The word in these bytes.
    pub fn decode(word: u64) -> Self {
        let kind = match word >> 62 {
            0 => Kind::Data,
            1 => Kind::Ask,
            2 => Kind::Answer,
            _ => Kind::Relay,
        };
        let lane = (word >> 40) as u32 % Self::LANES; // 24 bits are left
        Self { kind, lane, sequence: word % Self::SEQUENCES }
    }

    /// The word a message begins with, if it is long enough for one.
    pub fn of(message: &[u8]) -> Option<Self> {
        message.first_chunk().map(|word| Self::decode(u64::from_le_bytes(*word)))
    }
}

/// Pseudo-random bytes of a seed, without end: they repeat after a prime number of bytes.
#[derive(Clone, Debug)]
pub struct Pattern {
    seed: u64,
    bytes: Box<[u8]>,
}

impl Pattern {
    /// Bytes after which it repeats. A prime: no lost, doubled or swapped buffer of a usual size leaves a stream in step
    /// with the pattern.
    pub const PERIOD: usize = 65_521;

    /// The pattern of a seed.
    pub fn new(seed: u64) -> Self {
        let period: Vec<u8> =
            (0..).flat_map(|n| mix(seed.wrapping_add(n)).to_le_bytes()).take(PERIOD).collect();
        Self { seed, bytes: period.repeat(COPIES).into() }
    }

    /// Adds a message of `len` bytes. One that is shorter than a word has only so much of it.
    #[inline]
    pub fn write(&self, word: Word, len: usize, out: &mut Vec<u8>) {
        let head = word.encode();
        match len.checked_sub(Word::LEN) {
            Some(body) => {
                out.extend_from_slice(&head.to_le_bytes());
                self.write_stream(self.place(head), body, out);
            }
            None => out.extend_from_slice(&head.to_le_bytes()[..len]),
        }
    }

    /// The message of `len` bytes in two parts. It has at least a word, and at most a period behind that.
    #[inline]
    pub fn parts(&self, word: Word, len: usize) -> ([u8; Word::LEN], &[u8]) {
        let (head, body) = (word.encode(), len - Word::LEN);
        debug_assert!(body <= PERIOD, "it does not lie in one piece");
        (head.to_le_bytes(), self.stream(self.place(head), body))
    }

    /// Where the message differs from `data`, which is what came of it from its byte `at` on.
    #[inline]
    pub fn differs(&self, word: Word, at: usize, data: &[u8]) -> Option<usize> {
        let head = word.encode();
        let (in_head, body) = data.split_at(data.len().min(Word::LEN.saturating_sub(at)));
        let expected = &head.to_le_bytes()[at.min(Word::LEN)..][..in_head.len()];
        if in_head != expected {
            return first_difference(in_head, expected).map(|i| at + i);
        }
        let from = (at + in_head.len()).max(Word::LEN);
        self.stream_differs(self.place(head) + (from - Word::LEN) as u64, body).map(|i| from + i)
    }

    /// Adds `len` bytes of the pattern, from its byte `from` on.
    #[inline]
    pub fn write_stream(&self, mut from: u64, mut len: usize, out: &mut Vec<u8>) {
        while len > 0 {
            let piece = self.stream(from, len);
            out.extend_from_slice(piece);
            (from, len) = (from + piece.len() as u64, len - piece.len());
        }
    }

    /// Where the pattern from its byte `from` on differs from `data`.
    #[inline]
    pub fn stream_differs(&self, from: u64, data: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < data.len() {
            let expected = self.stream(from + at as u64, data.len() - at);
            let got = &data[at..at + expected.len()];
            if got != expected {
                return first_difference(got, expected).map(|i| at + i);
            }
            at += expected.len();
        }
        None
    }

    /// The next bytes of the pattern from its byte `from` on: at most `len`, those that lie in one piece.
    #[inline]
    pub fn stream(&self, from: u64, len: usize) -> &[u8] {
        // That of a message begins in the first period; a division costs as much as a small message's copy.
        let from = if from < PERIOD as u64 { from } else { from % PERIOD as u64 };
        let rest = &self.bytes[from as usize..];
        &rest[..len.min(rest.len())]
    }

    fn place(&self, head: u64) -> u64 {
        ((u128::from(mix(self.seed ^ head)) * PERIOD as u128) >> 64) as u64
    }
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    a.iter().zip(b).position(|(a, b)| a != b)
}

/// The finisher of splitmix64: every bit of the input changes half of the output's.
pub(super) fn mix(input: u64) -> u64 {
    let mut z = input.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_read_as_it_was_written() {
        for kind in [Kind::Data, Kind::Ask, Kind::Answer, Kind::Relay] {
            let word = Word { kind, lane: Word::LANES - 1, sequence: (1 << 40) - 1 };
            assert_eq!(Word::decode(word.encode()), word);
        }
    }

    #[test]
    fn a_message_is_verified_in_any_pieces() {
        let (pattern, word) = (Pattern::new(7), Word::data(3, 9));
        for len in [0, 1, 7, 8, 9, 63, 4096, 65_520, 65_521, 65_537, 200_000] {
            let mut message = Vec::new();
            pattern.write(word, len, &mut message);
            assert_eq!(message.len(), len);
            for cut in [0, 1, 5, 8, 11, len / 2, len].map(|cut| cut.min(len)) {
                assert_eq!(pattern.differs(word, 0, &message[..cut]), None, "{len} {cut}");
                assert_eq!(pattern.differs(word, cut, &message[cut..]), None, "{len} {cut}");
            }
        }
    }

    #[test]
    fn every_changed_byte_is_found() {
        let (pattern, word) = (Pattern::new(1), Word::data(0, 0));
        let mut message = Vec::new();
        pattern.write(word, 300, &mut message);
        for at in 0..message.len() {
            message[at] ^= 0x10;
            assert_eq!(pattern.differs(word, 0, &message), Some(at));
            assert_eq!(pattern.differs(word, at, &message[at..]), Some(at));
            message[at] ^= 0x10;
        }
    }

    #[test]
    fn messages_and_seeds_differ_and_a_shifted_stream_is_seen() {
        let written = |seed, word| {
            let mut out = Vec::new();
            Pattern::new(seed).write(word, 64, &mut out);
            out
        };
        assert_ne!(written(1, Word::data(0, 0))[8..], written(1, Word::data(0, 1))[8..]);
        assert_ne!(written(1, Word::data(0, 0))[8..], written(2, Word::data(0, 0))[8..]);
        let (pattern, mut stream) = (Pattern::new(5), Vec::new());
        pattern.write_stream(0, 1 << 20, &mut stream);
        assert_eq!(pattern.stream_differs(0, &stream), None);
        for lost in [1, 4096, 16_384, 65_536, 262_144] {
            assert!(pattern.stream_differs(0, &stream[lost..]).is_some(), "{lost}");
        }
    }
}
