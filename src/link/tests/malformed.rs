//! What no peer may send (`reliability.md` 27-31 and 36, `p2p.md` T10-T12): each case ends the link for its reason,
//! tells the peer the code, and gives the handler nothing.

use CloseReason::{
    Checksum, Flood, FrameTooBig, HandshakeTimeout, MessageTooBig, Protocol, VersionMismatch, WrongNetwork,
};

use super::*;

/// Node 1's hello with other bytes at `offset` of its payload, and all of it up to `len` if given.
fn hello_with(offset: usize, bytes: &[u8], len: Option<usize>) -> Vec<u8> {
    let mut payload = hello()[8..].to_vec();
    payload[offset..offset + bytes.len()].copy_from_slice(bytes);
    payload.resize(len.unwrap_or(payload.len()), 0);
    control(Kind::Hello, &payload)
}

fn raw(low: u64) -> Vec<u8> {
    // The layout once more, independent of `Header`.
    (low | low.wrapping_mul(0x9E37_79B9_7F4A_7C15) & 0xFF << 56).to_le_bytes().to_vec()
}

/// `bytes` end the link for `reason`, in one piece and byte by byte.
#[track_caller]
fn refused(make: fn() -> Link, bytes: &[u8], reason: CloseReason) {
    for chunk in [bytes.len(), 1] {
        let mut link = make();
        let known = link.is_established();
        let mut outcome = Ok(());
        for part in bytes.chunks(chunk) {
            let (got, result) = receive(&mut link, part, START);
            assert_eq!(got, [], "nothing is delivered");
            outcome = outcome.and(result);
        }
        let error = outcome.expect_err("it is refused");
        assert_eq!(error.reason, reason, "{error}");
        // It stays so, whatever happens.
        assert_eq!(link.next_event(&mut &hello()[..], START), Err(error.clone()));
        assert_eq!(link.handle_timeout(START + Duration::from_secs(99)), Err(error.clone()));
        assert_eq!(link.handle_eof(START), Err(error));
        assert_eq!(link.deadline(), None);
        // The peer learns the code, and a stranger not more.
        let said = farewells(&mut link);
        assert_eq!(said.iter().map(|(code, _)| *code).collect::<Vec<_>>(), [reason.code()]);
        assert!(known || said[0].1.is_empty());
        let Link::Message(link) = link else { panic!() };
        assert!(link.memory() <= 8192, "{}", link.memory());
    }
}

#[test]
fn before_hello_nothing_else_is_accepted() {
    refused(fresh, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Checksum);
    refused(fresh, &[0xFF; 64], Checksum);
    refused(fresh, &[0; 64], Protocol);
    refused(fresh, &data(false, b"hi"), Protocol);
    refused(fresh, &header(Kind::Data, false, 1 << 23), Protocol);
    refused(fresh, &control(Kind::Ping, &[0; 8]), Protocol);
    refused(fresh, &control(Kind::Pong, &[0; 16]), Protocol);
    refused(fresh, &control(Kind::Ignorable(200), b""), Protocol);
}

#[test]
fn who_dials_another_program_is_told_what_it_may_be() {
    let error = receive(&mut fresh(), b"HTTP/1.0 400 Bad\r\n", START).1.unwrap_err();
    assert_eq!(error.to_string(), "checksum: not a hello; is the peer a ringlink node in message mode?");
}

#[test]
fn a_wrong_hello_is_refused_at_each_field() {
    refused(fresh, &hello_with(0, b"\x89PNG", None), Protocol);
    refused(fresh, &hello_with(8, &[2, 0, 3, 0], None), VersionMismatch);
    refused(fresh, &hello_with(8, &[1, 0, 0, 0], None), Protocol);
    refused(fresh, &hello_with(12, &[1], None), VersionMismatch);
    refused(fresh, &hello_with(28, &[0; 16], None), WrongNetwork);
    refused(fresh, &hello_with(92, &[0; 4], None), Protocol);
    refused(fresh, &hello_with(92, &[0xFF; 4], None), Protocol);
    refused(fresh, &hello_with(96, &[0; 4], None), Protocol);
    // TLV 0 is even and unknown.
    refused(fresh, &hello_with(0, b"\x89", Some(1024)), Protocol);
    refused(fresh, &header(Kind::Hello, false, 1025), Protocol);
    refused(fresh, &header(Kind::Hello, false, 103), Protocol);
    refused(fresh, &header(Kind::Hello, true, 200), Protocol);
    refused(fresh, &header(Kind::Hello, false, 0xFF_FFFF), FrameTooBig);
}

#[test]
fn hello_comes_once() {
    refused(established, &hello(), Protocol);
}

#[test]
fn the_versions_of_both_are_told() {
    let mut link = fresh();
    let error = receive(&mut link, &hello_with(8, &[2, 0, 3, 0], None), START).1.unwrap_err();
    assert_eq!(error.to_string(), "version-mismatch: versions 1 to 1 here, 2 to 3 there");
}

#[test]
fn a_wrong_header_is_refused() {
    for bit in 0..64 {
        let flipped = u64::from_le_bytes(header(Kind::Data, false, 5)) ^ 1 << bit;
        refused(established, &flipped.to_le_bytes(), Checksum);
    }
    refused(established, &raw(1 << 40), Protocol);
    refused(established, &raw(1 << 55), Protocol);
    refused(established, &raw(2 << 32), Protocol);
    refused(established, &raw(0xFF << 32), Protocol);
    refused(established, &raw(5 << 24), Protocol);
    refused(established, &raw(127 << 24), Protocol);
    // Of several faults, the first in the order of tests.
    refused(established, &raw(1 << 40 | 5 << 24 | 0xFF_FFFF), Protocol);
    refused(established, &raw(6 << 24 | 0xFF_FFFF), Protocol);
}

#[test]
fn a_length_past_its_limit_is_refused_before_anything_is_allocated() {
    refused(established, &header(Kind::Data, false, 2049), FrameTooBig);
    refused(established, &header(Kind::Data, true, 0xFF_FFFF), FrameTooBig);
    refused(established, &header(Kind::Ignorable(128), false, 2049), FrameTooBig);
    for (kind, lens) in [(Kind::Ping, [0, 7, 9]), (Kind::Pong, [0, 8, 17]), (Kind::GoAway, [0, 5, 135])] {
        for len in lens {
            refused(established, &header(kind, false, len), Protocol);
        }
        refused(established, &header(kind, true, 8), Protocol);
    }
    let mut link = established();
    receive(&mut link, &header(Kind::Data, true, 2048), START).1.unwrap();
    let Link::Message(link) = link else { panic!() };
    assert_eq!(link.memory(), 0);
}

#[test]
fn a_message_past_its_limit_is_refused_at_the_header_that_passes_it() {
    let mut link = established();
    let frame = data(true, &[1; 2048]);
    receive(&mut link, &frame.repeat(8), START).1.unwrap();
    let (got, result) = receive(&mut link, &header(Kind::Data, false, 1), START);
    assert_eq!((got, result.unwrap_err().reason), (vec![], MessageTooBig));
    assert_eq!(farewells(&mut link)[0].0, MessageTooBig.code());
}

#[test]
fn fragments_without_end_are_refused() {
    refused(established, &header(Kind::Data, true, 0), Protocol);
    let mut node = node(2);
    node.limits.max_message = 1 << 20;
    let mut link = Link::message(Arc::new(node), Arc::default(), START);
    receive(&mut link, &hello(), START).1.unwrap();
    receive(&mut link, &data(true, b"x").repeat(65_536), START).1.unwrap();
    let (got, result) = receive(&mut link, &data(false, b"x"), START);
    assert_eq!((got, result.unwrap_err().reason), (vec![], MessageTooBig));
}

#[test]
fn a_flood_of_any_control_frame_is_refused_within_a_second() {
    let frames =
        [control(Kind::Ping, &[0; 8]), control(Kind::Pong, &[0; 16]), control(Kind::Ignorable(255), b"")];
    for frame in frames {
        let mut link = established();
        let (got, result) = receive(&mut link, &frame.repeat(101), START);
        assert_eq!((got, result.unwrap_err().reason), (vec![], Flood));
        // No amplification: far fewer answers than questions.
        assert!(std::iter::from_fn(|| link.next_output(START)).count() <= 1);
        // At the allowed rate it goes on, and the memory is bounded even when no answer is ever fetched.
        let mut link = established();
        for i in 1..2000 {
            receive(&mut link, &frame, START + Duration::from_millis(10) * i).1.unwrap();
        }
        let Link::Message(link) = link else { panic!() };
        assert!(link.memory() <= 1024);
    }
}

#[test]
fn a_second_go_away_and_a_hello_after_it_are_refused() {
    let goaway = control(Kind::GoAway, &[0; 6]);
    for (mut link, next) in [(established(), &goaway), (fresh(), &hello()), (fresh(), &goaway)] {
        receive(&mut link, &goaway, START).1.unwrap();
        let (got, result) = receive(&mut link, next, START);
        assert_eq!((got, result.unwrap_err().reason), (vec![], Protocol));
    }
}

#[test]
fn a_hello_that_drips_does_not_move_the_deadline() {
    let mut link = fresh();
    let deadline = START + Duration::from_secs(5);
    for (i, byte) in hello().iter().take(49).enumerate() {
        let now = START + Duration::from_millis(100) * i as u32;
        receive(&mut link, &[*byte], now).1.unwrap();
        link.set_reading(i % 2 == 0, now);
        link.handle_timeout(now).unwrap();
        assert_eq!(link.deadline(), Some(deadline));
    }
    assert_eq!(link.handle_timeout(deadline).unwrap_err().reason, HandshakeTimeout);
    assert_eq!(farewells(&mut link), [(HandshakeTimeout.code(), String::new())]);
}

#[test]
fn a_dribbled_body_costs_what_was_received() {
    let mut link = established();
    receive(&mut link, &header(Kind::Data, false, 2048), START).1.unwrap();
    for i in 0..2047 {
        let (got, result) = receive(&mut link, &[i as u8], START + Duration::from_secs(1) * i);
        assert_eq!((got, result), (vec![], Ok(())));
        let Link::Message(link) = &link else { panic!() };
        assert!(link.memory() <= 4096);
    }
    assert_eq!(link.handle_eof(START).unwrap_err().reason, CloseReason::Truncated);
}
