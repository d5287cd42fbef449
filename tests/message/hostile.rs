//! Strangers that break the protocol, and what they are told; the program never hears of them.

use ringlink::{CloseReason, Limits};

use super::foreign::{DATA, Foreign, GOAWAY, HELLO, Hello, MORE, PING, frame, header};
use super::support::{Bed, Event, eventually};

/// Says this instead of a hello.
#[track_caller]
fn told_before_hello(bed: &Bed, name: &str, bytes: &[u8], reason: CloseReason) {
    let mut peer = Foreign::connect(bed.address());
    peer.write(bytes);
    told(bed, name, &mut peer, reason, false);
}

#[track_caller]
fn told(bed: &Bed, name: &str, peer: &mut Foreign, reason: CloseReason, opened: bool) {
    let goodbye = peer.goodbye();
    assert_eq!(CloseReason::from_code(goodbye.code), Some(reason), "{name}: {goodbye:?}");
    assert!(opened || goodbye.text.is_empty(), "{name}: a stranger is told no more than the code");
    loop {
        match bed.next(name) {
            Event::Opened(..) if opened => {}
            Event::Closed(_, report) => {
                assert_eq!((report.reason, report.opened), (reason, opened), "{name}");
                assert_eq!(report.messages_in, 0, "{name}");
                return;
            }
            other @ (Event::Opened(..) | Event::Message(..) | Event::Drained) => {
                panic!("{name}: {other:?}")
            }
        }
    }
}

fn hello(change: impl FnOnce(&mut Hello)) -> impl FnOnce(&[u8]) -> Vec<u8> {
    |theirs| {
        let mut hello = Hello::in_answer_to(theirs, 7, 7);
        change(&mut hello);
        hello.encode()
    }
}

#[test]
fn what_is_no_frame_and_what_comes_before_hello_is_refused_by_its_code() {
    let bed = Bed::start(|builder| builder);
    let mut checksum = frame(HELLO, 0, &[0; 104]);
    checksum[7] ^= 1;
    for (name, bytes, reason) in [
        ("another protocol", b"GET / HTTP/1.1\r\n\r\n".to_vec(), CloseReason::Checksum),
        ("ones", vec![0xFF; 64], CloseReason::Checksum),
        ("a wrong check byte", checksum, CloseReason::Checksum),
        ("reserved bits", header(0, HELLO, 0, 1).to_vec(), CloseReason::Protocol),
        ("an unknown flag", header(0, DATA, 2, 0).to_vec(), CloseReason::Protocol),
        ("an unknown kind", header(0, 77, 0, 0).to_vec(), CloseReason::Protocol),
        ("a reserved kind", header(0, 5, 0, 0).to_vec(), CloseReason::Protocol),
        ("a message before hello", frame(DATA, 0, b"x"), CloseReason::Protocol),
        ("a ping before hello", frame(PING, 0, &[0; 8]), CloseReason::Protocol),
        ("an ignorable frame before hello", frame(200, 0, b""), CloseReason::Protocol),
        ("an empty hello", frame(HELLO, 0, b""), CloseReason::Protocol),
        ("a hello of zeros", frame(HELLO, 0, &[0; 104]), CloseReason::Protocol),
    ] {
        told_before_hello(&bed, name, &bytes, reason);
    }
    let counts = bed.handle.close_counts();
    assert!(counts.contains(&(CloseReason::Checksum, 3)) && counts.contains(&(CloseReason::Protocol, 9)));
    assert_eq!((bed.handle.stats().opened, bed.handle.closed_channels().len()), (0, 12));
}

#[test]
fn a_hello_that_is_not_fit_is_refused_by_its_code() {
    type Change = fn(&mut Hello);
    let bed = Bed::start(|builder| builder);
    let cases: [(&str, Change, CloseReason); 8] = [
        ("magic", |h| h.magic[0] = 0, CloseReason::Protocol),
        ("later versions", |h| h.versions = (2, 9), CloseReason::VersionMismatch),
        ("a required feature", |h| h.required = 1 << 40, CloseReason::VersionMismatch),
        ("another network", |h| h.network[0] ^= 1, CloseReason::WrongNetwork),
        ("a tiny max_frame", |h| h.max_frame = 1023, CloseReason::Protocol),
        ("an unknown even TLV", |h| h.tlvs = vec![200, 0, 0], CloseReason::Protocol),
        ("a TLV past the end", |h| h.tlvs = vec![1, 255, 255, 0], CloseReason::Protocol),
        ("half a TLV", |h| h.tlvs = vec![1], CloseReason::Protocol),
    ];
    for (name, change, reason) in cases {
        let mut peer = Foreign::connect(bed.address());
        let bytes = hello(change)(&peer.hello);
        peer.write(&bytes);
        told(&bed, name, &mut peer, reason, false);
    }
}

#[test]
fn a_linked_peer_that_breaks_the_protocol_is_told_how() {
    let bed = Bed::with_limits(|limits| (limits.max_frame, limits.max_message) = (64 << 10, 128 << 10));
    let again = |frame: Vec<u8>, times| frame.repeat(times);
    for (node, (name, bytes, reason)) in (1..).zip([
        ("a second hello", frame(HELLO, 0, &[0; 104]), CloseReason::Protocol),
        (
            "a frame too long, never sent",
            header((1 << 24) - 1, DATA, 0, 0).to_vec(),
            CloseReason::FrameTooBig,
        ),
        ("a message too long", again(frame(DATA, MORE, &[0; 64 << 10]), 3), CloseReason::MessageTooBig),
        ("an empty part", frame(DATA, MORE, b""), CloseReason::Protocol),
        ("a short ping", frame(PING, 0, &[0; 7]), CloseReason::Protocol),
        ("a short goodbye", frame(GOAWAY, 0, &[0; 5]), CloseReason::Protocol),
        ("a flood of pings", again(frame(PING, 0, &[0; 8]), 1000), CloseReason::Flood),
        ("a flood of nothing", again(frame(200, 0, b""), 1000), CloseReason::Flood),
        ("noise", vec![0xAA; 100], CloseReason::Checksum),
    ]) {
        let mut peer = Foreign::link(bed.address(), node, 1);
        peer.write(&bytes);
        told(&bed, name, &mut peer, reason, true);
    }
}

#[test]
fn messages_that_are_never_completed_hold_no_more_than_assembly_bytes() {
    let bed = Bed::with_limits(|limits| {
        (limits.max_frame, limits.max_message, limits.assembly_bytes) = (64 << 10, 256 << 10, 512 << 10);
    });
    // Of each message 64 KiB do not count.
    let held = |messages: u64| {
        let stats = || bed.handle.stats();
        eventually("the messages to be held", || stats().bytes_assembling.div_ceil(192 << 10) == messages);
    };
    let mut begun = frame(DATA, MORE, &[7; 64 << 10]).repeat(4);
    let rest = begun.split_off(255 << 10);
    let mut peers: Vec<_> = (1..=3).map(|node| Foreign::link(bed.address(), node, 1)).collect();
    for (place, peer) in peers.iter_mut().enumerate() {
        bed.opened();
        peer.write(&begun);
        held(2.min(place as u64 + 1));
    }
    let goodbye = peers[2].goodbye();
    assert_eq!(CloseReason::from_code(goodbye.code), Some(CloseReason::Limit));
    assert_eq!(goodbye.text, "no memory for a message; assembly_bytes is 524288");
    assert_eq!((bed.closed().1.reason, bed.handle.stats().assemblies_refused), (CloseReason::Limit, 1));
    // The others go on, and what a message held is another's.
    peers[0].write(&[rest, frame(DATA, 0, b"")].concat());
    assert!(matches!(bed.next("the message"), Event::Message(_, message) if message.len() == 256 << 10));
    drop(peers);
    held(0);
}

#[test]
fn who_says_nothing_or_too_slowly_is_gone_at_the_deadline() {
    let limits = |limits: &mut Limits| limits.handshake_timeout = std::time::Duration::from_millis(300);
    let bed = Bed::with_limits(limits);
    let mut silent = Foreign::connect(bed.address());
    told(&bed, "silence", &mut silent, CloseReason::HandshakeTimeout, false);
    let mut slow = Foreign::connect(bed.address());
    let hello = Hello::in_answer_to(&slow.hello, 7, 7).encode();
    let mut writer = slow.stream.try_clone().unwrap();
    // Each byte in time, all of them too late.
    let drip = std::thread::spawn(move || {
        for byte in hello {
            super::support::pass(std::time::Duration::from_millis(20));
            if std::io::Write::write_all(&mut writer, &[byte]).is_err() {
                return;
            }
        }
    });
    told(&bed, "dripping", &mut slow, CloseReason::HandshakeTimeout, false);
    drop(slow);
    drip.join().unwrap();
}
