//! Entry points for fuzzers, each of any bytes; the tests run them too (`tests/random.rs`). A failure is a panic.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Mono;
use crate::config::Limits;
use crate::error::CloseReason;

use super::frame::{Header, Kind};
use super::identity::{LocalNode, NodeId};
use super::{Link, LinkEvent, hello};

/// A node with limits that are quickly reached.
pub(super) fn node(n: u8) -> LocalNode {
    let mut limits = Limits::default();
    (limits.max_frame, limits.max_message) = (2048, 16 << 10);
    LocalNode {
        node_id: NodeId::from_bytes([n; 32]),
        instance_id: [n ^ 0x55; 16],
        network: LocalNode::network_of("fuzz"),
        agent: format!("fuzz/{n}"),
        listen: vec!["127.0.0.1:10000".to_owned(), "unix:/run/x".to_owned()],
        limits,
    }
}

/// Any eight bytes: as a slow and obvious reading says, and encoded again the same.
///
/// # Panics
///
/// When something is wrong with ringlink.
pub fn fuzz_header(data: &[u8]) {
    let Some(bytes) = data.first_chunk::<8>() else { return };
    // The check byte by long multiplication, byte by byte.
    let mut product = [0_u32; 15];
    for (i, byte) in bytes[..7].iter().enumerate() {
        for (j, factor) in 0x9E37_79B9_7F4A_7C15_u64.to_le_bytes().iter().enumerate() {
            product[i + j] += u32::from(*byte) * u32::from(*factor);
        }
    }
    for i in 0..14 {
        product[i + 1] += product[i] >> 8;
    }
    let expected = if product[7] as u8 != bytes[7] {
        Err(CloseReason::Checksum)
    } else if bytes[5] != 0 || bytes[6] != 0 || bytes[4] > 1 || (5..128).contains(&bytes[3]) {
        Err(CloseReason::Protocol)
    } else {
        let kind = match bytes[3] {
            0 => Kind::Data,
            1 => Kind::Ping,
            2 => Kind::Pong,
            3 => Kind::Hello,
            4 => Kind::GoAway,
            other => Kind::Ignorable(other),
        };
        let len = u32::from(bytes[0]) | u32::from(bytes[1]) << 8 | u32::from(bytes[2]) << 16;
        Ok(Header { kind, more: bytes[4] == 1, len })
    };
    let decoded = Header::decode(*bytes);
    assert_eq!(decoded.as_ref().map_err(|e| e.reason), expected.as_ref().map_err(|e| *e));
    if let Ok(header) = decoded {
        assert_eq!(header.encode(), *bytes);
    }
}

/// Any payload of a hello: refused for a reason that travels, or clean and within its limits.
///
/// # Panics
///
/// When something is wrong with ringlink.
pub fn fuzz_hello(data: &[u8]) {
    match hello::accept(data, &node(1)) {
        Ok(peer) => {
            assert!(peer.agent.len() <= 64 && peer.addresses.len() <= 8);
            for text in peer.addresses.iter().chain([&peer.agent]) {
                assert!(text.len() <= 128 && !text.chars().any(char::is_control));
            }
            assert!((1024..1 << 24).contains(&peer.max_frame) && peer.max_message >= peer.max_frame as usize);
        }
        Err(error) => assert!(error.reason.code() < 100),
    }
}

/// Two links: the second gets the first's hello if the first byte is odd, then what the rest says: received bytes
/// (a count in two bytes before them), time, outputs, pauses; and an end.
///
/// # Panics
///
/// When something is wrong with ringlink.
pub fn fuzz_link(data: &[u8]) {
    play(data);
}

/// What a script has reached.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) messages: usize,
    pub(super) assembled: usize,
    pub(super) gone_away: usize,
    pub(super) outputs: usize,
    pub(super) errors: usize,
    pub(super) clean_ends: usize,
}

pub(super) fn play(data: &[u8]) -> Tally {
    let mut tally = Tally::default();
    let Some((first, mut script)) = data.split_first() else { return tally };
    let mut now = Mono::from_nanos(u64::from(*first));
    let mut link = Link::message(Arc::new(node(2)), Arc::default(), now);
    if first & 1 == 1 {
        let hello =
            Link::message(Arc::new(node(1)), Arc::default(), now).next_output(now).expect("the hello");
        assert_eq!(link.next_event(&mut &hello[..], now), Ok(Some(LinkEvent::Established)));
    }
    while let Some((op, rest)) = script.split_first() {
        script = rest;
        match op % 8 {
            0..=3 => {
                let (count, rest) = script.split_at(script.len().min(2));
                script = rest;
                let count = count.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                let (bytes, rest) = script.split_at(count.min(script.len()));
                script = rest;
                receive(&mut link, bytes, now, &mut tally);
            }
            4 => now = now + Duration::from_millis(20) * u32::from(*op),
            5 => drop(link.handle_timeout(now)),
            6 => tally.outputs += std::iter::from_fn(|| link.next_output(now)).count(),
            _ => link.set_reading(op & 8 == 0, now),
        }
        check(&mut link, now);
    }
    let ended = link.handle_eof(now);
    tally.clean_ends = usize::from(ended.is_ok());
    assert_eq!(link.next_event(&mut &[][..], now), ended.map(|()| None));
    tally
}

fn receive(link: &mut Link, bytes: &[u8], now: Mono, tally: &mut Tally) {
    let mut input = bytes;
    let mut previous = input.len() + 1;
    loop {
        let was_established = link.is_established();
        match link.next_event(&mut input, now) {
            Ok(Some(event)) => {
                // The first event of a call may have been held since the last; after it each takes bytes.
                assert!(input.len() < previous, "an event takes bytes");
                previous = input.len();
                assert_eq!(
                    matches!(event, LinkEvent::Established),
                    !was_established && link.is_established()
                );
                match event {
                    LinkEvent::Established => {}
                    LinkEvent::Data(_) => panic!("data of a stream"),
                    LinkEvent::Message(message) => {
                        assert!(was_established && message.len() <= 2048);
                        tally.messages += 1;
                    }
                    LinkEvent::Assembled(message) => {
                        assert!(was_established && message.len() <= 16 << 10);
                        tally.assembled += 1;
                        link.give_back(message);
                    }
                    LinkEvent::GoneAway { text, .. } => {
                        assert!(text.len() <= 128);
                        tally.gone_away += 1;
                    }
                }
            }
            Ok(None) => return assert!(input.is_empty(), "all is taken"),
            Err(error) => {
                tally.errors += 1;
                let left = input;
                assert_eq!(link.next_event(&mut input, now), Err(error), "the first error stays");
                return assert_eq!(input, left);
            }
        }
    }
}

fn check(link: &mut Link, now: Mono) {
    let Link::Message(message_link) = &*link else { panic!("a stream") };
    assert!(message_link.memory() <= (16 << 10) + 2048 + 1024, "memory is bounded");
    if let Ok(()) = link.handle_timeout(now) {
        assert!(link.deadline().is_none_or(|deadline| deadline > now), "a timer that was served is later");
    }
}
