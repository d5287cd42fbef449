//! Bytes both ways: opening, reading and its pauses, sending and its limits.

use super::*;

#[test]
fn reading_begins_after_the_program_heard_of_the_channel() {
    let mut rig = Rig::accepted();
    assert_eq!(rig.send(b"x"), Err(SendError::NotOpen));
    while let Some(submission) = rig.channel.next_submission(&mut rig.pool, rig.now) {
        rig.submit(submission);
    }
    rig.asked(&["adopt"]);
    rig.turn().asked(&["resume"]).saw(&["opened"]);
    rig.receive(b"abc").saw(&["data abc"]);
    assert_eq!((rig.channel.bytes_in(), rig.settings.counters.bytes_in.get()), (3, 3));
}

#[test]
fn a_program_that_pauses_in_on_open_reads_nothing() {
    let mut rig = Rig::accepted();
    rig.react = |event, channel, _| {
        if event == "opened" {
            channel.pause();
        }
    };
    rig.turn().asked(&["adopt"]).saw(&["opened"]);
    rig.channel.resume();
    rig.turn().asked(&["resume"]);
}

#[test]
fn what_arrives_while_paused_is_held_and_comes_first() {
    let mut rig = Rig::open();
    rig.channel.pause();
    rig.turn().asked(&["pause"]);
    rig.receive(b"one ").receive(b"two").asked(&[]).saw(&[]);
    assert_eq!((rig.channel.held().len(), rig.settings.counters.bytes_held.get()), (7, 7));
    rig.channel.resume();
    assert!(rig.channel.has_deliverable());
    assert!(rig.channel.next_submission(&mut rig.pool, rig.now).is_none(), "not before it is delivered");
    // The driver is told to read only after what is held was delivered: `Rig::submit` sees to it.
    rig.turn().asked(&["resume"]).saw(&["data one two"]);
    assert_eq!((rig.channel.bytes_in(), rig.settings.counters.bytes_held.get()), (7, 0));
}

#[test]
fn pausing_and_resuming_in_one_turn_asks_nothing() {
    let mut rig = Rig::open();
    for _ in 0..3 {
        rig.channel.pause();
        rig.channel.resume();
    }
    rig.turn().asked(&[]);
    assert!(!rig.channel.is_paused());
}

#[test]
fn eof_waits_for_the_end_of_the_pause_and_for_what_is_held() {
    let mut rig = Rig::open();
    rig.channel.pause();
    rig.receive(b"last").eof().saw(&[]);
    assert!(rig.channel.is_at_eof());
    rig.channel.resume();
    rig.turn().saw(&["data last", "eof"]).asked(&["pause"]);
    rig.send(b"still possible").unwrap();
    rig.turn().asked(&["send"]);
}

#[test]
fn a_reset_lifts_the_pause() {
    let mut rig = Rig::open();
    rig.channel.pause();
    rig.receive(b"last").receive_failed(libc::ECONNRESET).saw(&["data last"]);
    rig.closed().saw(&["closed reset Peer"]);
    assert_eq!(rig.report().errno, Some(Errno(libc::ECONNRESET)));
    assert_eq!(rig.report().bytes_in, 4);
}

#[test]
fn a_close_drops_what_is_held() {
    let mut rig = Rig::open();
    rig.channel.pause();
    rig.turn();
    rig.receive(b"last");
    rig.channel.close();
    rig.channel.check();
    assert_eq!((rig.channel.held().len(), rig.settings.counters.bytes_held.get()), (0, 0));
    rig.receive_failed(libc::ECONNRESET).closed().saw(&["closed normal Us"]);
    assert_eq!(rig.report().bytes_in, 4);
}

#[test]
fn one_send_is_out_and_the_rest_collects() {
    let mut rig = Rig::open();
    rig.send(b"a").unwrap();
    rig.turn().asked(&["send"]);
    rig.send(b"b").unwrap();
    rig.channel.send_bytes(Bytes::from(vec![b'c'; 5000]), &mut rig.pool).unwrap();
    rig.send(b"d").unwrap();
    rig.turn().asked(&[]);
    rig.sent().asked(&["send"]);
    rig.sent().asked(&[]);
    let mut expected = b"ab".to_vec();
    expected.extend([b'c'; 5000]);
    expected.push(b'd');
    assert!(rig.kernel.sent == expected);
    let stats = rig.settings.counters.snapshot();
    assert_eq!((stats.bytes_out, stats.bytes_queued, stats.messages_out), (5003, 0, 0));
}

#[test]
fn the_limit_holds_exactly_and_keeps_nothing_of_what_it_refuses() {
    let mut rig = Rig::open_with(|limits| {
        (limits.outbox_low, limits.outbox_high, limits.outbox_max) = (10, 50, 100);
    });
    let too_big = SendError::TooBig { size: 101, max: 100 };
    assert_eq!(rig.send(&[0; 101]), Err(too_big), "a stream can be sent in parts");
    rig.send(&[0; 49]).unwrap();
    rig.send(&[0; 51]).unwrap();
    rig.turn();
    let full = SendError::WouldBlock { queued: 100, size: 1, max: 100 };
    assert_eq!(rig.send(&[0]), Err(full), "what is in flight counts");
    assert_eq!((rig.channel.queued(), rig.settings.counters.sends_refused.get()), (100, 1));
    rig.channel.send_bytes_posted(Bytes::from_static(&[0; 7]), &mut rig.pool).unwrap();
    rig.sent().saw(&["drained"]);
    rig.sent().saw(&[]);
    assert_eq!(rig.kernel.sent.len(), 107);
}

#[test]
fn drained_comes_on_the_edge_only() {
    let mut rig = Rig::open_with(|limits| limits.outbox_low = 10);
    for (waiting, drained) in [(10, false), (11, true), (3, false), (12, true)] {
        rig.send(&vec![0; waiting]).unwrap();
        rig.turn().sent();
        assert_eq!(!rig.events.is_empty(), drained, "{waiting}");
        rig.events.clear();
    }
    // Above low before and after: no edge. At low: the edge.
    for (left, events) in [(11, &[][..]), (10, &["drained"])] {
        rig.send(&[0; 20]).unwrap();
        rig.turn();
        rig.send(&vec![0; left]).unwrap();
        rig.sent().saw(events);
        rig.sent();
        rig.events.clear();
    }
}

#[test]
fn who_was_refused_below_low_is_called_back_too() {
    let mut rig = Rig::open_with(|limits| {
        (limits.outbox_low, limits.outbox_high, limits.outbox_max) = (50, 50, 100);
    });
    rig.send(&[0; 40]).unwrap();
    assert!(rig.send(&[0; 70]).is_err());
    rig.turn().sent().saw(&["drained"]);
    rig.send(&[0; 40]).unwrap();
    rig.turn().sent().saw(&[]);
}

#[test]
fn another_thread_that_was_refused_is_called_back_once_the_outbox_is_empty() {
    let mut rig = Rig::open_with(|limits| limits.outbox_low = 50);
    rig.channel.note_refused();
    rig.turn().saw(&["drained"]);
    rig.send(&[0; 40]).unwrap();
    rig.channel.note_refused();
    rig.turn().saw(&[]);
    rig.sent().saw(&["drained"]);
    rig.turn().saw(&[]);
}

#[test]
fn the_program_may_send_from_every_event() {
    let mut rig = Rig::accepted();
    rig.react = |event, channel, pool| {
        let outcome = channel.send(event.as_bytes(), pool);
        assert_eq!(outcome.is_ok(), !event.starts_with("closed"));
    };
    rig.turn().receive(b"x");
    rig.sent().eof();
    while rig.kernel.out.is_some() {
        rig.sent();
    }
    assert_eq!(rig.kernel.sent, b"openeddata xeof");
    rig.channel.abort();
    rig.turn().closed();
}
