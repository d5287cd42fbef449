//! ringlink's protocol without ringlink: the 8 bytes before each message, for contenders that carry the same, and the
//! hello and pong of a peer that is one only by what it says. The head is one word: the length in the low 24 bits, a
//! kind above it, a check byte at the top.

use std::ops::{Range, RangeInclusive};

use ringlink::Mono;
use ringlink::service::{Answer, Count};
use sha2::{Digest as _, Sha256};

use crate::clock;

pub(crate) const HEADER: usize = 8;
/// What the contenders read and write at once.
pub(crate) const BLOCK: usize = 256 << 10;
const LOW: u64 = (1 << 56) - 1;
const LENGTH: u64 = (1 << 24) - 1;
/// Bytes of a hello: without TLVs, and with as many as there may be.
const HELLO: RangeInclusive<usize> = 104..=1024;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Ping,
    Pong,
    Hello,
    GoAway,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Data, Self::Ping, Self::Pong, Self::Hello, Self::GoAway];
}

fn head(kind: Kind, len: usize) -> [u8; HEADER] {
    let low = len as u64 | (kind as u64) << 24;
    (low | (low.wrapping_mul(0x9E37_79B9_7F4A_7C15) & !LOW)).to_le_bytes()
}

/// The header of a message.
#[inline]
pub(crate) fn header(len: usize) -> [u8; HEADER] {
    head(Kind::Data, len)
}

/// Adds a whole frame.
pub(crate) fn write(kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&head(kind, payload.len()));
    out.extend_from_slice(payload);
}

/// A frame's kind, its payload, and how many bytes it has in all.
pub(crate) type Frame<'d> = (Kind, &'d [u8], usize);

/// The first frame in `data`; none until all of it is there.
#[inline]
pub(crate) fn first(data: &[u8]) -> Result<Option<Frame<'_>>, &'static str> {
    let Some((read, rest)) = data.split_first_chunk::<HEADER>() else { return Ok(None) };
    let low = u64::from_le_bytes(*read) & LOW;
    let len = usize::try_from(low & LENGTH).unwrap_or(usize::MAX);
    let kind = usize::try_from(low >> 24).ok().and_then(|code| Kind::ALL.get(code));
    match kind {
        Some(kind) if *read == head(*kind, len) => {
            Ok(rest.get(..len).map(|payload| (*kind, payload, HEADER + len)))
        }
        Some(_) | None => Err("the header of a frame is wrong"),
    }
}

/// Moves the answers out of `data`; what is no answer is passed over, and missed by whoever counts them.
pub(crate) fn take_answers(data: &mut Vec<u8>, answers: &mut Vec<Answer>) {
    while let Ok(Some((_, message, len))) = first(data) {
        answers.extend(Answer::decode(message));
        data.drain(..len);
    }
}

/// The payload of a hello of the node with this number, another at any other time: what `link/hello.rs` of the library
/// reads.
pub(crate) fn hello(number: u32) -> Vec<u8> {
    let network = Sha256::new().chain_update(b"ringlink network\0").finalize();
    let (mut node, mut instance) = ([0; 32], [0; 16]);
    let place = (clock::unix() << 22 | u64::from(number)).to_le_bytes();
    node[..8].copy_from_slice(&place);
    instance[..8].copy_from_slice(&place);
    [
        &b"\x89RING\r\n\x1a"[..],
        &1_u16.to_le_bytes(), // lowest version
        &1_u16.to_le_bytes(), // highest
        &[0; 16],             // features
        &network[..16],
        &node,
        &instance,
        &(1_u32 << 20).to_le_bytes(),  // max_frame
        &(16_u32 << 20).to_le_bytes(), // max_message
        &5000_u32.to_le_bytes(),       // heartbeat, ms
    ]
    .concat()
}

/// Whether `data` begins with the hello of a node with which the one that said `ours` can be linked; false while more of
/// it has to come.
pub(crate) fn is_hello(data: &[u8], ours: &[u8]) -> Result<bool, &'static str> {
    match first(data)? {
        Some((Kind::Hello, theirs, len)) => {
            check_hello(theirs, ours)?;
            match first(&data[len..])? {
                Some((Kind::GoAway, ..)) => Err("go away was said after hello"),
                Some(_) | None => Ok(true),
            }
        }
        Some(_) => Err("the first frame is no hello"),
        None if data.len() > HEADER + HELLO.end() => Err("the first frame is too long for a hello"),
        None => Ok(false),
    }
}

/// What keeps the node that says `theirs` from a link with the one that says `ours`.
pub(crate) fn check_hello(theirs: &[u8], ours: &[u8]) -> Result<(), &'static str> {
    if !HELLO.contains(&theirs.len()) {
        return Err("a hello has 104 to 1024 bytes");
    }
    let is_ours = |part: Range<usize>| theirs[part.clone()] == ours[part];
    let wrong = match () {
        () if !is_ours(0..8) => "its hello is of another protocol",
        () if !is_ours(8..28) => "its hello is of another version",
        () if !is_ours(28..44) => "it is a node of another network",
        () if is_ours(44..76) => "our own hello came back: is it an echo, and no node in message mode?",
        () => return check_tlvs(&theirs[*HELLO.start()..]),
    };
    Err(wrong)
}

fn check_tlvs(mut tlvs: &[u8]) -> Result<(), &'static str> {
    while let [_, low, high, rest @ ..] = tlvs {
        let len = usize::from(u16::from_le_bytes([*low, *high]));
        tlvs = rest.get(len..).ok_or("its hello is cut off")?;
    }
    if tlvs.is_empty() { Ok(()) } else { Err("its hello is cut off") }
}

/// The payload that answers a ping at once.
pub(crate) fn pong(ping: &[u8]) -> Vec<u8> {
    [ping, &[0; 8]].concat()
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
        while let Some((kind, message, len)) = first(&self.buffer[at..self.filled])? {
            if kind != Kind::Data {
                return Err("only messages are carried here");
            }
            if let Some(answer) = self.count.take(message, now) {
                write(Kind::Data, &answer, answers);
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
        write(Kind::Data, &ask(0, 7), &mut stream);
        for (n, size) in [8, 64, 1000, 300_000].into_iter().enumerate() {
            let mut message = Vec::new();
            pattern.write(Word::data(0, n as u64), size, &mut message);
            write(Kind::Data, &message, &mut stream);
        }
        write(Kind::Data, &ask(0, 7), &mut stream);
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
            let (_, _, len) = first(&answers).unwrap().unwrap();
            let (_, last, _) = first(&answers[len..]).unwrap().unwrap();
            let answer = Answer::decode(last).unwrap();
            assert_eq!((answer.messages, answer.bytes, answer.failures), (4, 301_072, 0), "{piece}");
        }
    }

    fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        write(kind, payload, &mut frame);
        frame
    }

    #[test]
    fn a_hello_is_taken_once_it_is_whole() {
        let ours = hello(1);
        let theirs = [&hello(2)[..], &[1, 2, 0, b'h', b'i']].concat();
        let whole = frame(Kind::Hello, &theirs);
        for len in 0..whole.len() {
            assert_eq!(is_hello(&whole[..len], &ours), Ok(false), "{len}");
        }
        assert_eq!(is_hello(&whole, &ours), Ok(true));
        let refused = [&whole[..], &frame(Kind::GoAway, &[0; 6])].concat();
        assert!(is_hello(&refused, &ours).unwrap_err().contains("go away"));
    }

    #[test]
    fn what_is_no_hello_is_called_so() {
        let (ours, theirs) = (hello(1), hello(2));
        let wrong = |kind, payload: &[u8]| is_hello(&frame(kind, payload), &ours).unwrap_err();
        assert!(wrong(Kind::Hello, &ours).contains("our own hello"));
        assert!(wrong(Kind::Data, &theirs).contains("no hello"));
        assert!(wrong(Kind::Hello, &theirs[..103]).contains("104"));
        assert!(wrong(Kind::Hello, &[&theirs[..], &[1, 9, 0, 0]].concat()).contains("cut off"));
        assert!(wrong(Kind::Hello, &[&theirs[..], &[1]].concat()).contains("cut off"));
        for (place, why) in [(0, "protocol"), (10, "version"), (20, "version"), (43, "network")] {
            let mut theirs = theirs.clone();
            theirs[place] ^= 2;
            assert!(wrong(Kind::Hello, &theirs).contains(why), "{place}");
        }
        assert!(is_hello(&frame(Kind::Hello, &[0; 2000])[..1500], &ours).is_err());
        assert!(is_hello(b"HTTP/1.1 400 Bad Request", &ours).is_err());
    }

    #[test]
    fn a_wrong_header_is_seen() {
        let mut frame = Vec::new();
        write(Kind::Data, b"12345678", &mut frame);
        assert!(first(&frame).is_ok());
        for byte in 0..HEADER {
            frame[byte] ^= 1;
            assert!(first(&frame).is_err(), "{byte}");
            frame[byte] ^= 1;
        }
    }
}
