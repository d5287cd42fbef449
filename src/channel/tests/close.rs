//! Ends: who decides, what is still sent and delivered, and what each wait is bounded by.

use super::*;

const CLOSE: Duration = Duration::from_secs(5);
const LINGER: Duration = Duration::from_secs(1);

#[test]
fn a_close_sends_what_is_queued_then_fin_then_waits_for_the_peer() {
    let mut rig = Rig::open();
    rig.send(b"bye").unwrap();
    rig.channel.close();
    rig.channel.close();
    assert_eq!(rig.send(b"x"), Err(SendError::Closed));
    rig.turn().asked(&["send"]);
    rig.receive(b"discarded");
    rig.sent().asked(&["fin"]);
    rig.receive(b"discarded").eof().asked(&["close"]).closed().saw(&["closed normal Us"]);
    let report = rig.report();
    assert_eq!((report.bytes_out, report.bytes_unsent, report.bytes_in), (3, 0, 18));
    assert!(report.opened && rig.channel.is_finished());
}

#[test]
fn a_peer_that_never_closes_is_waited_for_one_linger() {
    let mut rig = Rig::open();
    rig.channel.close();
    rig.turn().asked(&["fin"]).time_out(LINGER).asked(&["close"]).closed().saw(&["closed normal Us"]);
}

#[test]
fn a_peer_that_closed_before_is_not_waited_for() {
    let mut rig = Rig::open();
    rig.eof().saw(&["eof"]).asked(&[]);
    rig.send(b"answer").unwrap();
    rig.channel.close();
    rig.turn().asked(&["send"]).sent().asked(&["close"]).closed().saw(&["closed normal Us"]);
    assert_eq!(rig.kernel.sent, b"answer");
}

#[test]
fn what_cannot_be_flushed_in_time_is_reported() {
    let mut rig = Rig::open();
    rig.send(b"bye").unwrap();
    rig.channel.close();
    rig.turn().time_out(CLOSE).asked(&["send", "reset"]).closed().saw(&["closed close-timeout Us"]);
    assert_eq!((rig.report().bytes_out, rig.report().bytes_unsent), (0, 3));
    assert_eq!(rig.settings.counters.bytes_queued.get(), 0);
}

#[test]
fn a_late_flush_shortens_the_linger() {
    let mut rig = Rig::open();
    rig.send(b"bye").unwrap();
    rig.channel.close();
    rig.turn();
    rig.now = rig.now + (CLOSE - LINGER / 2);
    rig.sent().asked(&["send", "fin"]).time_out(LINGER / 2).asked(&["close"]).closed();
}

#[test]
fn an_abort_drops_everything_and_says_how_much() {
    let mut rig = Rig::open();
    rig.send(b"one").unwrap();
    rig.turn();
    rig.send(b"two").unwrap();
    rig.channel.abort();
    rig.channel.abort();
    rig.turn().asked(&["send", "reset"]).saw(&[]);
    rig.closed().saw(&["closed aborted Us"]);
    assert_eq!((rig.report().bytes_unsent, rig.settings.counters.bytes_queued.get()), (6, 0));
}

#[test]
fn an_abort_hurries_a_close_and_owns_it_when_something_is_unsent() {
    let mut rig = Rig::open();
    rig.channel.close();
    rig.turn();
    rig.channel.abort();
    rig.turn().asked(&["fin", "reset"]).closed().saw(&["closed normal Us"]);

    let mut rig = Rig::open();
    rig.send(b"bye").unwrap();
    rig.channel.close();
    rig.turn();
    rig.channel.abort();
    rig.turn().closed().saw(&["closed aborted Us"]);
}

#[test]
fn a_channel_closed_before_the_program_heard_of_it_is_never_opened() {
    for abort in [false, true] {
        let mut rig = Rig::accepted();
        if abort {
            rig.channel.abort();
        } else {
            rig.channel.close();
        }
        rig.turn();
        if !abort {
            rig.asked(&["adopt", "resume", "fin"]).eof();
        }
        rig.closed();
        assert_eq!((rig.events.len(), rig.report().opened), (1, false));
    }
}

#[test]
fn after_a_failed_send_what_came_before_is_still_delivered() {
    let mut rig = Rig::open();
    rig.channel.pause();
    rig.send(b"abcdef").unwrap();
    rig.turn();
    rig.send(b"more").unwrap();
    rig.sent_part(2, Some(libc::EPIPE));
    assert_eq!(rig.send(b"x"), Err(SendError::Closed));
    rig.asked(&["pause", "send", "resume"]);
    rig.receive(b"last words").saw(&["data last words"]);
    rig.eof().saw(&["eof"]).asked(&["reset"]).closed().saw(&["closed reset Peer"]);
    let report = rig.report();
    assert_eq!((report.errno, report.bytes_out, report.bytes_unsent), (Some(Errno(libc::EPIPE)), 2, 8));
}

#[test]
fn a_reset_that_a_send_was_told_of_is_no_end_of_file() {
    for errno in [libc::ECONNRESET, libc::ETIMEDOUT] {
        let mut rig = Rig::open();
        rig.send(b"a").unwrap();
        rig.turn().sent_part(0, Some(errno));
        rig.receive(b"last words").eof().saw(&["data last words"]).asked(&["send", "reset"]).closed();
        assert_eq!(rig.report().errno, Some(Errno(errno)));
    }
}

#[test]
fn after_a_failed_send_the_wait_is_bounded_and_close_ends_it() {
    let mut rig = Rig::open();
    rig.send(b"a").unwrap();
    rig.turn().sent_part(0, Some(libc::EPIPE)).asked(&["send"]);
    rig.time_out(LINGER).asked(&["reset"]).closed().saw(&["closed reset Peer"]);

    let mut rig = Rig::open();
    rig.send(b"a").unwrap();
    rig.turn().sent_part(0, Some(libc::EPIPE));
    rig.channel.close();
    rig.turn().asked(&["send", "reset"]).closed().saw(&["closed reset Peer"]);
}

#[test]
fn both_failures_are_one_end() {
    let mut rig = Rig::open();
    rig.send(b"a").unwrap();
    rig.turn().receive_failed(libc::ETIMEDOUT).asked(&["send", "reset"]);
    rig.sent_part(0, Some(libc::ECONNRESET)).saw(&[]);
    rig.closed().saw(&["closed peer-dead Network"]);
}

#[test]
fn a_close_that_cannot_keep_its_promise_says_why() {
    let mut rig = Rig::open();
    rig.send(b"bye").unwrap();
    rig.channel.close();
    rig.turn().sent_part(1, Some(libc::EPIPE)).closed().saw(&["closed reset Peer"]);
    assert_eq!(rig.report().bytes_unsent, 2);

    let mut rig = Rig::open();
    rig.send(b"bye").unwrap();
    rig.channel.close();
    rig.turn().receive_failed(libc::ECONNRESET).closed().saw(&["closed reset Peer"]);
}

#[test]
fn a_peer_that_takes_nothing_is_slow() {
    let mut rig = Rig::open();
    rig.send(b"a").unwrap();
    rig.turn().time_out(Duration::from_secs(60)).asked(&["send", "reset"]);
    rig.closed().saw(&["closed slow-peer Us"]);
    assert_eq!(rig.report().bytes_unsent, 1);
}

#[test]
fn idle_is_counted_from_the_last_byte_either_way() {
    let hour = Duration::from_secs(3600);
    let mut rig = Rig::open();
    rig.now = rig.now + hour / 2;
    rig.receive(b"x");
    assert_eq!(rig.channel.deadline(), Some(rig.now + hour));
    rig.time_out(hour).asked(&["fin"]).eof().closed().saw(&["data x", "closed idle-timeout Us"]);
    let rig = Rig::open_with(|limits| limits.idle_timeout = Some(Duration::ZERO));
    assert_eq!(rig.channel.deadline(), None);
}

#[test]
fn when_both_sent_fin_the_channel_closes_by_itself() {
    let mut rig = Rig::open();
    rig.send(b"bye").unwrap();
    rig.channel.shutdown_write();
    rig.channel.shutdown_write();
    assert_eq!(rig.send(b"x"), Err(SendError::Closed));
    rig.turn().asked(&["send"]).sent().asked(&["fin"]);
    rig.receive(b"go on").saw(&["data go on"]);
    rig.eof().saw(&["eof"]).asked(&["close"]).closed().saw(&["closed peer-closed Peer"]);

    let mut rig = Rig::open();
    rig.eof();
    rig.channel.shutdown_write();
    rig.turn().asked(&["fin", "close"]).closed().saw(&["eof", "closed peer-closed Peer"]);
}

#[test]
fn both_fins_wait_for_a_paused_program() {
    let mut rig = Rig::open();
    rig.channel.pause();
    rig.channel.shutdown_write();
    rig.turn().receive(b"tail").eof().asked(&["pause", "fin"]).saw(&[]);
    rig.channel.resume();
    rig.turn().saw(&["data tail", "eof"]).asked(&["close"]).closed();
}

#[test]
fn a_close_after_shutdown_write_sends_no_second_fin() {
    let mut rig = Rig::open();
    rig.channel.shutdown_write();
    rig.turn();
    rig.channel.close();
    rig.turn().asked(&["fin"]).eof().asked(&["close"]).closed().saw(&["closed normal Us"]);
}

#[test]
fn a_failure_of_the_node_is_the_reason() {
    let mut rig = Rig::open();
    rig.channel.fail(CloseReason::Internal, ClosedBy::Us, Some("the handler panicked".into()));
    rig.channel.fail(CloseReason::Limit, ClosedBy::Us, None);
    rig.turn().eof().closed().saw(&["closed internal Us"]);
    assert_eq!(rig.report().to_string(), "internal by us: the handler panicked");
}

#[test]
fn a_program_that_closes_in_a_callback_hears_no_more_data() {
    let mut rig = Rig::open();
    rig.channel.pause();
    rig.receive(b"one").receive(b"two");
    rig.react = |event, channel, _| {
        if event.starts_with("data") {
            channel.close();
        }
    };
    rig.channel.resume();
    rig.turn().receive(b"three").eof().closed().saw(&["data onetwo", "closed normal Us"]);
}

#[test]
fn only_a_promise_is_overruled() {
    let mut rig = Rig::open();
    rig.send(b"bye").unwrap();
    rig.channel.fail(CloseReason::Internal, ClosedBy::Us, None);
    rig.turn().time_out(CLOSE).asked(&["send", "reset"]).closed().saw(&["closed internal Us"]);
}

#[test]
fn a_failed_send_after_eof_ends_at_once() {
    let mut rig = Rig::open();
    rig.send(b"a").unwrap();
    rig.turn().eof().sent_part(0, Some(libc::EPIPE)).asked(&["send", "reset"]);
    rig.closed().saw(&["eof", "closed reset Peer"]);
}

#[test]
fn what_is_held_at_a_reset_is_dropped_when_the_program_ends_the_channel_itself() {
    for end in [Channel::abort, Channel::close] {
        let mut rig = Rig::open();
        rig.channel.pause();
        rig.receive(b"held");
        rig.kernel.inbound_over = true;
        rig.channel.handle_receive_failed(Errno(libc::ECONNRESET), rig.now);
        end(&mut rig.channel);
        rig.turn().closed().saw(&["closed reset Peer"]);
        assert_eq!(rig.report().bytes_in, 4);
    }
}
