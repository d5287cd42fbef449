//! Bytes that anybody who knows the key can make again from any position on: nothing has to be kept to verify them.

/// A place in an endless sequence of pseudo-random bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sequence {
    key: u64,
    at: u64,
}

impl Sequence {
    /// The beginning of the sequence of this key.
    pub(super) fn new(key: u64) -> Self {
        Self { key: mix(key), at: 0 }
    }

    /// The position: bytes before this place.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Any number, the same for the same key and `number`.
    pub(super) fn choose(&self, number: u64) -> u64 {
        mix(self.key ^ mix(number))
    }

    /// Writes the next bytes.
    pub(super) fn fill(&mut self, out: &mut [u8]) {
        // Whole words but at the ends: a received chunk may begin and end anywhere.
        let head = ((8 - self.at % 8) % 8).min(out.len() as u64) as usize;
        let (head, out) = out.split_at_mut(head);
        self.fill_part(head);
        let mut words = out.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.word());
            self.at += 8;
        }
        self.fill_part(words.into_remainder());
    }

    /// Holds the next bytes against what they should be; the position of the first that is wrong.
    pub(super) fn verify(&mut self, data: &[u8]) -> Option<u64> {
        let mut expected = [0; 4096];
        let mut wrong_at = None;
        for part in data.chunks(expected.len()) {
            let start = self.at;
            let expected = &mut expected[..part.len()];
            self.fill(expected);
            if wrong_at.is_none() && part != expected {
                let right = part.iter().zip(&*expected).take_while(|(is, should)| is == should).count();
                wrong_at = Some(start + right as u64);
            }
        }
        wrong_at
    }

    /// Bytes that lie within one word.
    fn fill_part(&mut self, part: &mut [u8]) {
        let from = (self.at % 8) as usize;
        part.copy_from_slice(&self.word()[from..from + part.len()]);
        self.at += part.len() as u64;
    }

    fn word(&self) -> [u8; 8] {
        mix(self.key.wrapping_add((self.at / 8).wrapping_mul(0x9E37_79B9_7F4A_7C15))).to_le_bytes()
    }
}

/// The finalizer of `SplitMix64`.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(key: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        Sequence::new(key).fill(&mut bytes);
        bytes
    }

    #[test]
    fn the_bytes_do_not_depend_on_how_they_are_cut() {
        let whole = bytes(1, 20_000);
        for step in [1, 2, 3, 7, 8, 9, 15, 4095, 4096, 4097] {
            let (mut sequence, mut cut) = (Sequence::new(1), vec![0; whole.len()]);
            cut.chunks_mut(step).for_each(|part| sequence.fill(part));
            assert_eq!(cut, whole, "in steps of {step}");
            let mut sequence = Sequence::new(1);
            assert!(whole.chunks(step).all(|part| sequence.verify(part).is_none()), "in steps of {step}");
            assert_eq!(sequence.at(), 20_000);
        }
    }

    #[test]
    fn a_wrong_a_missing_and_a_doubled_byte_are_found_where_they_are() {
        let whole = bytes(1, 10_000);
        for at in [0, 1, 4095, 4096, 9999] {
            let mut wrong = whole.clone();
            wrong[at] ^= 1;
            assert_eq!(Sequence::new(1).verify(&wrong), Some(at as u64));
        }
        let mut missing = whole.clone();
        missing.remove(5000);
        assert!(Sequence::new(1).verify(&missing).is_some_and(|at| (5000..5010).contains(&at)));
        let mut doubled = whole;
        doubled.insert(5000, doubled[5000]);
        assert!(Sequence::new(1).verify(&doubled).is_some_and(|at| (5000..5010).contains(&at)));
    }

    #[test]
    fn keys_give_different_bytes() {
        assert_ne!(bytes(0, 64), bytes(1, 64));
    }
}
