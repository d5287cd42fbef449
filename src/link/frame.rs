//! The 8 bytes before every payload: one little-endian word, its layout, and the tests it must pass before anything
//! in it is believed. What becomes of the payloads is in `assembly.rs`.
//!
//! Bits 0-23 payload length, 24-31 kind, 32-39 flags, 40-55 zero, 56-63 check: the top byte of the low 56 bits times
//! [`CHECK_FACTOR`].

use std::ops::Range;

use bytes::Bytes;

use crate::error::CloseReason;

use super::LinkError;

/// Bytes of a header.
pub(super) const HEADER_LEN: usize = 8;
/// Bytes of the longest frame of the heartbeat.
const SHORT: usize = HEADER_LEN + 16;
/// The longest payload 24 bits can tell.
pub(super) const MAX_PAYLOAD: u32 = (1 << 24) - 1;

/// Odd, so that every bit below reaches the check byte; and without eight equal bits in a row, so that any single
/// flipped bit changes it (a carry cannot undo the difference).
const CHECK_FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
const LOW: u64 = (1 << 56) - 1;
const MORE: u8 = 1;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Ping,
    Pong,
    Hello,
    GoAway,
    /// A kind from 128 on that this version does not know: skipped.
    Ignorable(u8),
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Ping => 1,
            Self::Pong => 2,
            Self::Hello => 3,
            Self::GoAway => 4,
            Self::Ignorable(code) => code,
        }
    }

    /// 5 (ACK) is reserved and as unknown as the rest below 128.
    const fn of_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Data),
            1 => Some(Self::Ping),
            2 => Some(Self::Pong),
            3 => Some(Self::Hello),
            4 => Some(Self::GoAway),
            5..=127 => None,
            128..=255 => Some(Self::Ignorable(code)),
        }
    }
}

/// A header that passed every test but those of its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// The message goes on in the next DATA frame.
    pub(super) more: bool,
    /// Bytes of payload.
    pub(super) len: u32,
}

/// The word with its check byte set.
const fn with_check(low: u64) -> u64 {
    (low.wrapping_mul(CHECK_FACTOR) & !LOW) | low
}

impl Header {
    pub(super) const fn encode(self) -> [u8; HEADER_LEN] {
        debug_assert!(self.len <= MAX_PAYLOAD);
        let flags = if self.more { MORE } else { 0 };
        let low = self.len as u64 | (self.kind.code() as u64) << 24 | (flags as u64) << 32;
        with_check(low).to_le_bytes()
    }

    /// Tests check byte, reserved bits, flags and kind, in this order.
    pub(super) fn decode(bytes: [u8; HEADER_LEN]) -> Result<Self, LinkError> {
        let word = u64::from_le_bytes(bytes);
        if with_check(word & LOW) != word {
            return Err(LinkError::of(CloseReason::Checksum));
        }
        let [l0, l1, l2, kind, flags, reserved @ .., _check] = bytes;
        if reserved != [0; 2] {
            return Err(LinkError::new(CloseReason::Protocol, "reserved bits of a frame header are set"));
        }
        if flags & !MORE != 0 {
            return Err(LinkError::new(CloseReason::Protocol, format!("unknown frame flags {flags:#04x}")));
        }
        let Some(kind) = Kind::of_code(kind) else {
            return Err(LinkError::new(CloseReason::Protocol, format!("unknown frame kind {kind}")));
        };
        Ok(Self { kind, more: flags & MORE != 0, len: u32::from_le_bytes([l0, l1, l2, 0]) })
    }
}

/// Takes a message out of `input`, if one frame of it is all of the message and all there.
///
/// The hot path: kind, flags and reserved bits of such a frame are zero, so its low bits *are* the length, and one
/// comparison tests them all.
#[inline]
pub(super) fn take_message<'b>(input: &mut &'b [u8], max_frame: u32) -> Option<&'b [u8]> {
    let (header, rest) = input.split_first_chunk::<HEADER_LEN>()?;
    let word = u64::from_le_bytes(*header);
    let low = word & LOW;
    if low > u64::from(max_frame) || with_check(low) != word {
        return None;
    }
    let (message, rest) = rest.split_at_checked(low as usize)?;
    *input = rest;
    Some(message)
}

/// A whole control frame, header and payload. Those of the heartbeat are short, and allocate nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ControlFrame {
    Short { bytes: [u8; SHORT], len: usize },
    Long(Vec<u8>),
}

impl std::ops::Deref for ControlFrame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Short { bytes, len } => &bytes[..*len],
            Self::Long(bytes) => bytes,
        }
    }
}

/// Makes a control frame.
pub(super) fn control(kind: Kind, payload: &[u8]) -> ControlFrame {
    let len = u32::try_from(payload.len()).expect("control frames are short");
    let header = Header { kind, more: false, len }.encode();
    let len = HEADER_LEN + payload.len();
    if len > SHORT {
        return ControlFrame::Long([&header, payload].concat());
    }
    let mut bytes = [0; SHORT];
    bytes[..HEADER_LEN].copy_from_slice(&header);
    bytes[HEADER_LEN..len].copy_from_slice(payload);
    ControlFrame::Short { bytes, len }
}

const fn whole_header(len: u32) -> [u8; HEADER_LEN] {
    Header { kind: Kind::Data, more: false, len }.encode()
}

/// A message as one frame, the same for every peer that takes frames of its length; `None` when no frame is as long.
pub(crate) fn whole_frame(message: &[u8]) -> Option<Bytes> {
    let len = u32::try_from(message.len()).ok().filter(|len| *len <= MAX_PAYLOAD)?;
    Some([&whole_header(len), message].concat().into())
}

/// How what is sent to a peer is framed: by the longest frame the peer takes, or, as a stream, not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Framing {
    /// Zero for a stream.
    max_frame: u32,
}

impl Framing {
    pub(crate) const STREAM: Self = Self { max_frame: 0 };

    pub(super) fn by_frames_of(max_frame: u32) -> Self {
        debug_assert!((1..=MAX_PAYLOAD).contains(&max_frame));
        Self { max_frame }
    }

    pub(crate) fn from_bits(bits: u32) -> Self {
        Self { max_frame: bits }
    }

    pub(crate) fn to_bits(self) -> u32 {
        self.max_frame
    }

    /// The header of a message of `len` bytes that goes in one frame, as most do. A stream has none.
    #[inline]
    pub(crate) fn whole_header(self, len: usize) -> Option<[u8; HEADER_LEN]> {
        let fits = self != Self::STREAM && len <= self.max_frame as usize;
        fits.then(|| whole_header(len as u32))
    }

    /// The bytes of a message of `len` bytes, with all its headers.
    #[inline]
    pub(crate) fn framed_len(self, len: usize) -> usize {
        let max_frame = self.max_frame as usize;
        match max_frame {
            0 => len,
            _ if len <= max_frame => HEADER_LEN + len,
            _ => len + len.div_ceil(max_frame) * HEADER_LEN,
        }
    }

    /// The frames in which a message of `len` bytes is sent; at least one. Not of a stream.
    #[inline]
    pub(crate) fn frames(self, len: usize) -> Frames {
        assert!(self != Self::STREAM, "a stream has no frames");
        Frames { left: Some(0..len), max_frame: self.max_frame }
    }

    /// Appends a message that lies in parts, of `len` bytes together, with all its headers.
    #[inline(always)]
    pub(crate) fn write(self, parts: &[&[u8]], len: usize, to: &mut Vec<u8>) {
        if let Some(header) = self.whole_header(len) {
            to.extend_from_slice(&header);
        } else if self != Self::STREAM {
            return self.write_frames(&parts.concat(), to);
        }
        parts.iter().for_each(|part| to.extend_from_slice(part));
    }

    #[cold]
    fn write_frames(self, message: &[u8], to: &mut Vec<u8>) {
        for (header, range) in self.frames(message.len()) {
            to.extend_from_slice(&header);
            to.extend_from_slice(&message[range]);
        }
    }
}

/// The frames a message is sent in: for each a header, and the part of the message that follows it.
#[derive(Clone, Debug)]
pub(crate) struct Frames {
    /// What is left of the message; `None` once the last frame was given out.
    left: Option<Range<usize>>,
    max_frame: u32,
}

impl Iterator for Frames {
    type Item = ([u8; HEADER_LEN], Range<usize>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let Range { start, end } = self.left.take()?;
        let more = end - start > self.max_frame as usize;
        let stop = if more { start + self.max_frame as usize } else { end };
        if more {
            self.left = Some(stop..end);
        }
        let header = Header { kind: Kind::Data, more, len: (stop - start) as u32 };
        Some((header.encode(), start..stop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_documented_one() {
        let header = Header { kind: Kind::Ignorable(200), more: true, len: 0x0A0B0C };
        let word = u64::from_le_bytes(header.encode());
        assert_eq!(word & LOW, 0x0001_C80A_0B0C);
        assert_eq!(word >> 56, (0x0001_C80A_0B0C_u64.wrapping_mul(CHECK_FACTOR)) >> 56);
        assert_eq!(Header::decode(word.to_le_bytes()), Ok(header));
    }

    #[test]
    fn any_single_flipped_bit_is_caught() {
        for seed in 0..2000_u64 {
            let low = seed.wrapping_mul(0xD129_0B26_C3A1_5F35) & LOW;
            let word = with_check(low);
            for bit in 0..64 {
                let flipped = word ^ 1 << bit;
                assert_ne!(with_check(flipped & LOW), flipped, "bit {bit} of {word:#x}");
            }
        }
    }

    #[test]
    fn each_fault_of_a_header_has_its_reason() {
        let reason = |low: u64| Header::decode(with_check(low).to_le_bytes()).map_err(|e| e.reason);
        assert_eq!(Header::decode([1, 0, 0, 0, 0, 0, 0, 0]).unwrap_err().reason, CloseReason::Checksum);
        assert_eq!(Header::decode([0xFF; 8]).unwrap_err().reason, CloseReason::Checksum);
        assert_eq!(reason(1 << 40), Err(CloseReason::Protocol));
        assert_eq!(reason(1 << 55), Err(CloseReason::Protocol));
        assert_eq!(reason(2 << 32), Err(CloseReason::Protocol));
        for kind in 5..128 {
            assert_eq!(reason(kind << 24), Err(CloseReason::Protocol), "kind {kind}");
        }
        for kind in (0..5).chain(128..256) {
            assert!(reason(kind << 24).is_ok(), "kind {kind}");
        }
    }

    #[test]
    fn the_hot_path_takes_whole_messages_and_nothing_else() {
        let data = |more, len| Header { kind: Kind::Data, more, len }.encode();
        let taken = |frame: &[u8]| {
            let mut input = frame;
            take_message(&mut input, 100).map(|m| (m.len(), input.len()))
        };
        let mut whole = [&data(false, 3)[..], b"abcd"].concat();
        assert_eq!(taken(&whole), Some((3, 1)));
        assert_eq!(taken(&whole[..10]), None);
        whole[7] ^= 1;
        assert_eq!(taken(&whole), None);
        assert_eq!(taken(&[&data(true, 3)[..], b"abc"].concat()), None);
        assert_eq!(taken(&[&data(false, 101)[..], &[0; 101]].concat()), None);
        assert_eq!(taken(&data(false, 0)), Some((0, 0)));
        assert_eq!(taken(&control(Kind::Ping, b"abcdefgh")), None);
    }

    #[test]
    fn frames_cover_the_message_and_all_but_the_last_say_more() {
        for (len, lens) in [(0, vec![0]), (1, vec![1]), (10, vec![10]), (11, vec![10, 1]), (20, vec![10, 10])]
        {
            let framing = Framing::by_frames_of(10);
            let frames: Vec<_> = framing.frames(len).collect();
            assert_eq!(framing.framed_len(len), len + frames.len() * HEADER_LEN);
            assert_eq!(framing.whole_header(len), (lens.len() == 1).then_some(frames[0].0));
            assert_eq!(frames.iter().map(|(_, r)| r.len()).collect::<Vec<_>>(), lens);
            for (i, (header, range)) in frames.iter().enumerate() {
                let header = Header::decode(*header).unwrap();
                assert_eq!(header.len as usize, range.len());
                assert_eq!(header.more, i + 1 < frames.len());
            }
        }
    }

    #[test]
    fn what_is_written_in_parts_is_the_frames_of_the_whole() {
        let written = |framing: Framing, parts: &[&[u8]]| {
            let mut bytes = b"before".to_vec();
            framing.write(parts, parts.concat().len(), &mut bytes);
            bytes.split_off(b"before".len())
        };
        let messages: [&[&[u8]]; 4] =
            [&[], &[b"whole"], &[b"in ", b"", b"parts!!"], &[b"more than ", b"one"]];
        for parts in messages {
            let (whole, framing) = (parts.concat(), Framing::by_frames_of(10));
            let frames = framing.frames(whole.len()).map(|(header, part)| [&header, &whole[part]].concat());
            assert_eq!(written(framing, parts), frames.collect::<Vec<_>>().concat());
            assert_eq!(
                written(Framing::from_bits(framing.to_bits()), parts).len(),
                framing.framed_len(whole.len())
            );
            assert_eq!(written(Framing::STREAM, parts), whole);
            assert_eq!(
                (Framing::STREAM.framed_len(whole.len()), Framing::STREAM.whole_header(0)),
                (whole.len(), None)
            );
        }
    }
}
