//! Persistent dialing in virtual time.

use super::*;
use crate::error::ClosedBy;

const NODE: NodeId = NodeId::from_bytes([7; 32]);
const S: Duration = Duration::from_secs(1);

fn dialing(addresses: usize) -> Dialing {
    let address = |port| Address::Host("h".into(), port);
    of((0..addresses as u16).map(address).collect(), 1)
}

fn of(addresses: Vec<Address>, seed: u64) -> Dialing {
    Dialing::new(addresses, 64, Arc::default(), seed, Mono::default())
}

fn channel(slot: u32) -> ChannelId {
    ChannelId::new(slot, 1)
}

fn closed(reason: CloseReason) -> Box<CloseReport> {
    Box::new(CloseReport {
        reason,
        by: ClosedBy::Peer,
        errno: None,
        detail: None,
        retry_after: None,
        bytes_in: 0,
        bytes_out: 0,
        bytes_unsent: 0,
        messages_in: 0,
        messages_out: 0,
        age: S,
        opened: false,
    })
}

/// Dials what is due next, as channel 0; says when.
fn dial(dialing: &mut Dialing) -> Mono {
    let now = dialing.deadline().expect("something is to be dialed");
    let (place, _) = dialing.next_dial(now).expect("it is due");
    dialing.handle_dial(place, Ok(channel(0)), now);
    now
}

/// The dial that is under way, or the link, ends; says after how long it is dialed again.
fn fails(dialing: &mut Dialing, report: Box<CloseReport>, now: Mono) -> Duration {
    let node = None;
    dialing.handle_note(Note::Closed { channel: channel(0), node, report }, |_| false, now);
    dial(dialing) - now
}

#[test]
fn delays_grow_to_the_cap_with_full_jitter() {
    let mut longest = [Duration::ZERO; 12];
    let mut shortest = [CAP; 12];
    for seed in 0..200 {
        let mut dialing = of(vec![Address::Host("h".into(), 1)], seed);
        let mut now = dial(&mut dialing);
        for retry in 0..12 {
            let delay = fails(&mut dialing, closed(CloseReason::DialRefused), now);
            longest[retry] = longest[retry].max(delay);
            shortest[retry] = shortest[retry].min(delay);
            now = now + delay;
        }
    }
    for retry in 0..12 {
        let window = match retry {
            0 => FIRST,
            n => (BASE * 2_u32.pow(n as u32)).min(CAP),
        };
        let (longest, shortest) = (longest[retry], shortest[retry]);
        assert!(longest <= window.max(SPACING) && longest > window / 10 * 9, "{retry}: {longest:?}");
        assert!(shortest < (window / 10).max(2 * SPACING), "{retry}: {shortest:?}");
    }
}

#[test]
fn only_a_link_that_lasted_forgets_earlier_failures() {
    for (lasted, fast) in [(S * 29, false), (S * 30, true)] {
        let mut slowest = Duration::ZERO;
        for seed in 0..50 {
            let mut dialing = of(vec![Address::Host("h".into(), 1)], seed);
            let mut now = dial(&mut dialing);
            for _ in 0..8 {
                now = now + fails(&mut dialing, closed(CloseReason::DialRefused), now);
            }
            dialing.handle_note(Note::Opened { channel: channel(0), node: None }, |_| false, now);
            assert_eq!(dialing.deadline(), None);
            slowest = slowest.max(fails(&mut dialing, closed(CloseReason::Reset), now + lasted));
        }
        assert_eq!(slowest <= FIRST, fast, "{slowest:?}");
    }
}

#[test]
fn what_cannot_be_mended_by_trying_waits_long_and_a_wish_is_granted() {
    for reason in [CloseReason::WrongNetwork, CloseReason::VersionMismatch, CloseReason::SelfDial] {
        let mut dialing = dialing(1);
        let now = dial(&mut dialing);
        assert!(fails(&mut dialing, closed(reason), now) >= CAP / 2);
    }
    for (wish, granted) in [(S * 60, S * 60), (S * 1_000_000, MAX_RETRY_AFTER)] {
        let mut dialing = dialing(1);
        let now = dial(&mut dialing);
        let report = Box::new(CloseReport { retry_after: Some(wish), ..*closed(CloseReason::Shutdown) });
        let delay = fails(&mut dialing, report, now);
        assert!(delay >= granted && delay <= granted + FIRST, "{delay:?}");
    }
}

#[test]
fn dials_are_spaced_and_few_are_in_flight() {
    let mut dialing = of(vec![Address::Host("h".into(), 1); 200], 1);
    let mut now = Mono::default();
    let mut begun = 0;
    while let Some(deadline) = dialing.deadline() {
        now = now.max(deadline);
        let (place, _) = dialing.next_dial(now).unwrap();
        assert_eq!(dialing.next_dial(now), None, "a hundred a second");
        dialing.handle_dial(place, Ok(channel(begun)), now);
        begun += 1;
    }
    assert_eq!((begun, now - Mono::default()), (64, SPACING * 63));
    dialing.handle_note(Note::Opened { channel: channel(5), node: None }, |_| false, now);
    assert!(dialing.deadline().is_some());
}

#[test]
fn a_link_from_the_other_side_is_as_good() {
    let mut dialing = dialing(1);
    let now = dial(&mut dialing);
    let note = |report| Note::Closed { channel: channel(0), node: Some(NODE), report };
    dialing.handle_note(note(closed(CloseReason::Duplicate)), |node| node == NODE, now);
    assert_eq!(dialing.deadline(), None);
    let other =
        |channel_slot, report| Note::Closed { channel: channel(channel_slot), node: Some(NODE), report };
    dialing.handle_note(other(7, closed(CloseReason::Duplicate)), |_| true, now);
    assert_eq!(dialing.deadline(), None, "one of two is left");
    dialing.handle_note(other(8, closed(CloseReason::Reset)), |_| false, now);
    assert!(dialing.deadline().is_some());
    dialing.handle_note(Note::Opened { channel: channel(9), node: Some(NODE) }, |_| true, now);
    assert_eq!(dialing.deadline(), None, "it came back by itself");
}

#[test]
fn a_dial_in_vain_to_a_node_that_has_come_by_itself_is_the_last() {
    let mut dialing = dialing(1);
    let now = dial(&mut dialing);
    dialing.handle_note(Note::Opened { channel: channel(0), node: Some(NODE) }, |_| true, now);
    let lost = Note::Closed { channel: channel(0), node: Some(NODE), report: closed(CloseReason::Reset) };
    dialing.handle_note(lost, |_| false, now);
    let now = dial(&mut dialing);
    dialing.handle_note(Note::Opened { channel: channel(3), node: Some(NODE) }, |_| true, now);
    let refused = Note::Closed { channel: channel(0), node: None, report: closed(CloseReason::DialRefused) };
    dialing.handle_note(refused, |node| node == NODE, now);
    assert_eq!(dialing.deadline(), None);
}

#[test]
fn a_dial_that_cannot_begin_is_tried_again() {
    let mut dialing = dialing(1);
    let (place, _) = dialing.next_dial(Mono::default()).unwrap();
    dialing.handle_dial(place, Err(DialError::TableFull { size: 1 }), Mono::default());
    assert!(dialing.deadline().is_some());
}
