//! Tests of whole links, by memory and virtual time.

use std::sync::Arc;
use std::time::Duration;

use super::frame::{self, Header, Kind};
use super::*;

mod malformed;
mod pair;
mod properties;
mod random;

pub(super) use super::fuzz::node;

const START: Mono = Mono::from_nanos(1_000_000_000);

/// An event that borrows nothing; how a message came is no difference.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    Established,
    Message(Vec<u8>),
    GoneAway(Option<CloseReason>, u16, String),
}

/// A link of node 2 that was just made, its hello sent.
fn fresh() -> Link {
    let mut link = Link::message(Arc::new(node(2)), Arc::default(), START);
    assert!(link.next_output(START).is_some_and(|hello| hello[3] == 3));
    link
}

/// What node 1 sends first.
fn hello() -> Vec<u8> {
    Link::message(Arc::new(node(1)), Arc::default(), START).next_output(START).unwrap().to_vec()
}

fn control(kind: Kind, payload: &[u8]) -> Vec<u8> {
    frame::control(kind, payload).to_vec()
}

/// A link of node 2 that has node 1's hello.
fn established() -> Link {
    let mut link = fresh();
    assert_eq!(receive(&mut link, &hello(), START), (vec![Got::Established], Ok(())));
    link
}

fn header(kind: Kind, more: bool, len: u32) -> [u8; 8] {
    Header { kind, more, len }.encode()
}

fn data(more: bool, payload: &[u8]) -> Vec<u8> {
    [&header(Kind::Data, more, payload.len() as u32)[..], payload].concat()
}

/// All events of `bytes`, and how it ended.
fn receive(link: &mut Link, mut bytes: &[u8], now: Mono) -> (Vec<Got>, Result<(), LinkError>) {
    let mut all = Vec::new();
    loop {
        all.push(match link.next_event(&mut bytes, now) {
            Ok(Some(LinkEvent::Established)) => Got::Established,
            Ok(Some(LinkEvent::Message(message))) => Got::Message(message.to_vec()),
            Ok(Some(LinkEvent::Assembled(message))) => {
                let copy = message.clone();
                link.give_back(message);
                Got::Message(copy)
            }
            Ok(Some(LinkEvent::GoneAway { reason, code, text, .. })) => Got::GoneAway(reason, code, text),
            Ok(Some(LinkEvent::Data(_))) => panic!("data of a stream"),
            Ok(None) => {
                assert!(bytes.is_empty());
                return (all, Ok(()));
            }
            Err(error) => return (all, Err(error)),
        });
    }
}

/// The codes and texts of the GOAWAYs among a link's outputs.
fn farewells(link: &mut Link) -> Vec<(u16, String)> {
    let outputs: Vec<_> = std::iter::from_fn(|| link.next_output(START)).collect();
    let farewells = outputs.iter().filter(|frame| frame[3] == 4);
    let read = |frame: &ControlFrame| {
        (u16::from_le_bytes([frame[8], frame[9]]), String::from_utf8(frame[14..].to_vec()).unwrap())
    };
    farewells.map(read).collect()
}

#[test]
fn a_stream_passes_everything_on_and_has_no_protocol() {
    let mut link = Link::stream();
    let mut input = &b"abc"[..];
    assert_eq!(link.next_event(&mut input, START), Ok(Some(LinkEvent::Data(b"abc"))));
    assert_eq!(link.next_event(&mut input, START), Ok(None));
    assert!(link.is_established() && link.peer().is_none() && link.rtt().is_none());
    assert_eq!((link.deadline(), link.next_output(START)), (None, None));
    link.go_away(CloseReason::Shutdown, Duration::ZERO, "");
    assert_eq!((link.next_output(START), link.max_message()), (None, usize::MAX));
    assert_eq!((link.handle_eof(START), link.handle_timeout(START)), (Ok(()), Ok(())));
}

#[test]
fn a_whole_message_is_lent_and_a_split_one_assembled() {
    let mut link = established();
    let frame = data(false, b"message");
    let mut input = &frame[..];
    assert_eq!(link.next_event(&mut input, START), Ok(Some(LinkEvent::Message(b"message"))));
    // With only its header split off, there is still nothing to copy.
    let (mut head, mut rest) = frame.split_at(8);
    assert_eq!(link.next_event(&mut head, START), Ok(None));
    assert_eq!(link.next_event(&mut rest, START), Ok(Some(LinkEvent::Message(b"message"))));
    let (mut head, mut rest) = frame.split_at(9);
    assert_eq!(link.next_event(&mut head, START), Ok(None));
    assert_eq!(link.next_event(&mut rest, START), Ok(Some(LinkEvent::Assembled(b"message".to_vec()))));
}

#[test]
fn control_frames_may_come_between_the_frames_of_a_message() {
    let mut link = established();
    let ping = control(Kind::Ping, &7_u64.to_le_bytes());
    let ignorable = control(Kind::Ignorable(222), &[9; 300]);
    let bytes = [data(true, b"ab"), ping, data(true, b"c"), ignorable, data(false, b"")].concat();
    assert_eq!(receive(&mut link, &bytes, START), (vec![Got::Message(b"abc".to_vec())], Ok(())));
    let pong = link.next_output(START).unwrap();
    assert_eq!((pong[3], &pong[8..16]), (2, &7_u64.to_le_bytes()[..]));
    assert_eq!(link.next_output(START), None);
}

#[test]
fn what_was_sent_during_a_halt_or_an_outage_is_no_flood() {
    let mut link = established();
    let questions = control(Kind::Ping, &[7; 8]).repeat(100 * 60);
    assert_eq!(receive(&mut link, &questions, START + Duration::from_secs(60)), (vec![], Ok(())));
    assert_eq!(std::iter::from_fn(|| link.next_output(START)).count(), 1);
}

#[test]
fn of_several_questions_the_last_is_answered() {
    let mut link = established();
    let questions = [1, 2, 3].map(|token| control(Kind::Ping, &[token; 8])).concat();
    receive(&mut link, &questions, START).1.unwrap();
    assert_eq!(link.next_output(START).unwrap()[8..16], [3; 8]);
    assert_eq!(link.next_output(START), None);
}

#[test]
fn an_answer_tells_for_how_long_the_question_was_held() {
    let mut link = established();
    receive(&mut link, &control(Kind::Ping, &[1; 8]), START).1.unwrap();
    let answer = link.next_output(START + Duration::from_nanos(0x0102_0304)).unwrap();
    assert_eq!(answer[16..], 0x0102_0304_u64.to_le_bytes());
}

#[test]
fn a_question_out_of_turn_is_measured_from_when_it_is_sent() {
    let mut link = established();
    let (asked, answered) = (START + Duration::from_millis(900), START + Duration::from_millis(907));
    link.ask();
    let ping = link.next_output(asked).unwrap();
    let pong = [&ping[8..], &[0; 8]].concat();
    receive(&mut link, &control(Kind::Pong, &pong), answered).1.unwrap();
    assert_eq!(link.rtt().unwrap().min, Duration::from_millis(7));
}

#[test]
fn go_away_is_said_once_and_says_nothing_to_strangers() {
    let mut link = established();
    link.go_away(CloseReason::Aborted, Duration::ZERO, "stays here");
    assert_eq!(farewells(&mut link), []);
    link.go_away(CloseReason::Shutdown, Duration::from_secs(1), "see\nyou");
    link.go_away(CloseReason::Limit, Duration::ZERO, "");
    assert_eq!(farewells(&mut link), [(1, "see?you".to_owned())]);
    link.go_away(CloseReason::Limit, Duration::ZERO, "");
    assert_eq!(farewells(&mut link), []);

    let mut link = fresh();
    link.go_away(CloseReason::Limit, Duration::ZERO, "secret");
    assert_eq!(farewells(&mut link), [(16, String::new())]);
}

#[test]
fn a_peer_may_go_away_before_its_hello_and_for_unknown_reasons() {
    let mut link = fresh();
    let goaway = control(Kind::GoAway, b"\x99\x00\x05\0\0\0so\x1b long");
    let got = Got::GoneAway(None, 0x99, "so? long".to_owned());
    assert_eq!(receive(&mut link, &goaway, START), (vec![got], Ok(())));
    assert_eq!(link.handle_eof(START), Ok(()));
}

#[test]
fn an_end_in_the_middle_is_truncation() {
    let whole = data(true, b"abc");
    for cut in 1..=whole.len() {
        let mut link = established();
        receive(&mut link, &whole[..cut], START).1.unwrap();
        assert_eq!(link.handle_eof(START).unwrap_err().reason, CloseReason::Truncated, "after {cut} bytes");
    }
    assert_eq!(fresh().handle_eof(START).unwrap_err().reason, CloseReason::Truncated);
    assert_eq!(established().handle_eof(START), Ok(()));
}
