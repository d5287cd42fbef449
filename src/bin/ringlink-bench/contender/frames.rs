//! ringlink's frames without ringlink: the 8 bytes before each message, for contenders that carry the same. One word: the
//! length in the low 24 bits, a check byte at the top.

use ringlink::Mono;
use ringlink::service::{Answer, Count};

use crate::clock;

pub(crate) const HEADER: usize = 8;
/// What the contenders read and write at once.
pub(crate) const BLOCK: usize = 256 << 10;
const LOW: u64 = (1 << 56) - 1;
const LONGEST: u64 = (1 << 24) - 1;

pub(crate) fn header(len: usize) -> [u8; HEADER] {
    let low = len as u64;
    (low | (low.wrapping_mul(0x9E37_79B9_7F4A_7C15) & !LOW)).to_le_bytes()
}

/// Adds a whole frame.
pub(crate) fn write(message: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&header(message.len()));
    out.extend_from_slice(message);
}

/// The first message in `data`, and how many bytes its frame has; none until all of it is there.
pub(crate) fn first(data: &[u8]) -> Result<Option<(&[u8], usize)>, &'static str> {
    let Some((head, rest)) = data.split_first_chunk::<HEADER>() else { return Ok(None) };
    let low = u64::from_le_bytes(*head) & LOW;
    let len = usize::try_from(low).unwrap_or(usize::MAX);
    if low > LONGEST || *head != header(len) {
        return Err("the header of a frame is wrong");
    }
    Ok(rest.get(..len).map(|message| (message, HEADER + len)))
}

/// Moves the answers out of `data`; what is no answer is passed over, and missed by whoever counts them.
pub(crate) fn take_answers(data: &mut Vec<u8>, answers: &mut Vec<Answer>) {
    while let Ok(Some((message, len))) = first(data) {
        answers.extend(Answer::decode(message));
        data.drain(..len);
    }
}

/// The receiving end of a connection: a buffer that is read into, and what is counted of it.
#[derive(Debug)]
pub(crate) struct Inbox {
    buffer: Vec<u8>,
    filled: usize,
    count: Count,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; BLOCK], filled: 0, count: Count::default() }
    }

    /// Where to read to.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.filled == self.buffer.len() {
            self.buffer.resize(2 * self.buffer.len(), 0); // a frame longer than a block
        }
        &mut self.buffer[self.filled..]
    }

    /// Takes what was read, and adds the frames that answer it.
    pub(crate) fn take(&mut self, len: usize, answers: &mut Vec<u8>) -> Result<(), &'static str> {
        self.filled += len;
        let (mut at, now) = (0, Mono::from_nanos(clock::now()));
        while let Some((message, len)) = first(&self.buffer[at..self.filled])? {
            if let Some(answer) = self.count.take(message, now) {
                write(&answer, answers);
            }
            at += len;
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringlink::service::{Pattern, Word, ask};

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        let (pattern, mut stream) = (Pattern::new(7), Vec::new());
        write(&ask(0, 7), &mut stream);
        for (n, size) in [8, 64, 1000, 300_000].into_iter().enumerate() {
            let mut message = Vec::new();
            pattern.write(Word::data(0, n as u64), size, &mut message);
            write(&message, &mut stream);
        }
        write(&ask(0, 7), &mut stream);
        for piece in [1, 7, 4096, BLOCK] {
            let (mut inbox, mut answers) = (Inbox::new(), Vec::new());
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let room = inbox.room();
                let (part, after) = rest.split_at(piece.min(rest.len()).min(room.len()));
                room[..part.len()].copy_from_slice(part);
                inbox.take(part.len(), &mut answers).unwrap();
                rest = after;
            }
            let (_, len) = first(&answers).unwrap().unwrap();
            let (last, _) = first(&answers[len..]).unwrap().unwrap();
            let answer = Answer::decode(last).unwrap();
            assert_eq!((answer.messages, answer.bytes, answer.failures), (4, 301_072, 0), "{piece}");
        }
    }

    #[test]
    fn a_wrong_header_is_seen() {
        let mut frame = Vec::new();
        write(b"12345678", &mut frame);
        frame[0] ^= 1;
        assert!(first(&frame).is_err());
    }
}
