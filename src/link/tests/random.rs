//! The fuzzers' entry points, with a few thousand inputs that are the same each time.

use super::super::fuzz::{fuzz_header, fuzz_hello, fuzz_link, play};
use super::*;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let len = self.below(most + 1);
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// Changes, adds, drops or doubles a few bytes.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.below(4) {
            if bytes.is_empty() {
                return;
            }
            let at = self.below(bytes.len());
            match self.below(4) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF][self.below(5)],
                2 => bytes.truncate(at),
                _ => bytes.extend_from_within(at..),
            }
        }
    }

    /// A valid frame of any kind.
    fn frame(&mut self) -> Vec<u8> {
        match self.below(8) {
            0..=2 => data(false, &self.bytes(2048)),
            3 => data(true, &self.bytes(2000)),
            4 => control(Kind::Ping, &self.next().to_le_bytes()),
            5 => control(Kind::Pong, &u128::from(self.next()).to_le_bytes()),
            6 => control(Kind::Ignorable(128 | self.next() as u8), &self.bytes(500)),
            _ if self.below(8) == 0 => control(Kind::GoAway, &[&[8; 6][..], &self.bytes(128)].concat()),
            _ => hello(),
        }
    }
}

#[test]
fn headers() {
    let mut random = Random(1);
    for _ in 0..5000 {
        fuzz_header(&random.bytes(9));
        let kind = Kind::Ignorable(128 | random.next() as u8);
        let mut bytes = header(kind, random.below(2) == 0, random.below(1 << 24) as u32).to_vec();
        fuzz_header(&bytes);
        random.mutate(&mut bytes);
        fuzz_header(&bytes);
    }
}

#[test]
fn hellos() {
    let mut random = Random(2);
    for _ in 0..5000 {
        fuzz_hello(&random.bytes(1024));
        let mut hello = hello()[8..].to_vec();
        hello.extend(random.bytes(20));
        random.mutate(&mut hello);
        fuzz_hello(&hello);
    }
}

#[test]
fn links() {
    let mut random = Random(3);
    let mut reached = [0; 6];
    for round in 0..4000 {
        let mut script = if round % 4 == 0 { random.bytes(4000) } else { vec![1] };
        for _ in 0..random.below(12) {
            // As `fuzz_link` reads it: an op, a count, the bytes.
            let mut frames = (0..=random.below(3)).flat_map(|_| random.frame()).collect::<Vec<_>>();
            if random.below(4) == 0 {
                random.mutate(&mut frames);
            }
            let pieces = 1 + random.below(3);
            for piece in frames.chunks(frames.len().div_ceil(pieces).max(1)) {
                script.push(random.below(4) as u8);
                script.extend((piece.len() as u16).to_le_bytes());
                script.extend(piece);
            }
            script.extend([4 + random.below(4) as u8].repeat(random.below(2)));
        }
        fuzz_link(&script);
        let t = play(&script);
        let counts = [t.messages, t.assembled, t.gone_away, t.outputs, t.errors, t.clean_ends];
        reached.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    // Scripts that reach nothing would prove nothing.
    assert!(reached.iter().all(|sum| *sum >= 100), "{reached:?}");
}
