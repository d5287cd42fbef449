//! Dials: names, addresses in turn, timeouts, and closes that cross them.

use super::*;

const TEN_SECONDS: Duration = Duration::from_secs(10);

#[test]
fn a_dial_opens() {
    let mut rig = Rig::dialing("127.0.0.1:2");
    rig.turn().asked(&["dial"]).saw(&[]);
    assert_eq!(rig.channel.peer(), Some(&tcp(2)));
    assert_eq!(rig.send(b"x"), Err(SendError::NotOpen));
    rig.dialed().asked(&["resume"]).saw(&["opened"]);
    assert_eq!((rig.channel.local(), rig.channel.direction()), (Some(&tcp(1)), Direction::Dialed));
}

#[test]
fn a_name_s_addresses_are_tried_in_turn_and_the_last_error_wins() {
    let mut rig = Rig::dialing("some.name:2");
    rig.turn().asked(&[]);
    assert_eq!(rig.channel.name().unwrap().to_string(), "some.name:2");
    rig.channel.resolved(Ok(vec![tcp(2), tcp(3), tcp(4)]));
    rig.turn().asked(&["dial"]);
    rig.dial_failed(libc::EHOSTUNREACH).asked(&["dial"]);
    assert_eq!(rig.channel.peer(), Some(&tcp(3)));
    rig.time_out(TEN_SECONDS).asked(&["cancel"]).dial_failed(libc::ECANCELED).asked(&["dial"]).saw(&[]);
    rig.dial_failed(libc::ECONNREFUSED).asked(&[]).saw(&["closed dial-refused Network"]);
    let report = rig.report();
    assert_eq!(report.errno, Some(Errno(libc::ECONNREFUSED)));
    assert_eq!((report.detail.as_deref(), report.opened), (Some("127.0.0.1:4"), false));
}

#[test]
fn a_name_that_is_not_found_is_reported_once() {
    let mut rig = Rig::dialing("some.name:2");
    rig.channel.resolved(Err("no such host".to_owned()));
    rig.turn().asked(&[]).saw(&["closed name-not-found Network"]);
    assert_eq!(rig.report().detail.as_deref(), Some("no such host"));
    rig.channel.resolved(Ok(vec![tcp(2)]));
    rig.turn().asked(&[]).saw(&[]);
}

#[test]
fn the_last_address_that_times_out_is_a_timeout() {
    let mut rig = Rig::dialing("127.0.0.1:2");
    rig.turn().time_out(TEN_SECONDS).asked(&["dial", "cancel"]);
    assert_eq!(rig.channel.deadline(), None);
    rig.dial_failed(libc::ECANCELED).saw(&["closed dial-timeout Network"]);
    assert_eq!(rig.report().errno, None);
}

#[test]
fn a_dial_that_succeeds_though_it_was_cancelled_for_time_is_a_success() {
    let mut rig = Rig::dialing("127.0.0.1:2");
    rig.turn().time_out(TEN_SECONDS).dialed().saw(&["opened"]);
}

#[test]
fn a_close_while_the_name_is_looked_up_ends_at_once() {
    let mut rig = Rig::dialing("some.name:2");
    rig.turn();
    rig.channel.close();
    rig.turn().asked(&[]).saw(&["closed normal Us"]);
    rig.channel.resolved(Ok(vec![tcp(2)]));
    rig.turn().asked(&[]).saw(&[]);
}

#[test]
fn a_close_before_the_dial_is_submitted_asks_nothing() {
    let mut rig = Rig::dialing("127.0.0.1:2");
    rig.channel.close();
    rig.turn().asked(&[]).saw(&["closed normal Us"]);
}

#[test]
fn a_close_cancels_the_dial_and_tries_no_other_address() {
    let mut rig = Rig::dialing("some.name:2");
    rig.channel.resolved(Ok(vec![tcp(2), tcp(3)]));
    rig.turn();
    rig.channel.close();
    rig.channel.abort();
    assert_eq!(rig.send(b"x"), Err(SendError::Closed));
    rig.turn().asked(&["dial", "cancel"]).saw(&[]);
    rig.dial_failed(libc::ECANCELED).asked(&[]).saw(&["closed normal Us"]);
}

#[test]
fn a_dial_that_succeeds_though_closed_is_closed_and_never_opened() {
    let mut rig = Rig::dialing("127.0.0.1:2");
    rig.turn();
    rig.channel.close();
    rig.turn().dialed().asked(&["dial", "cancel", "reset"]).saw(&[]);
    rig.closed().saw(&["closed normal Us"]);
    assert!(!rig.report().opened);
}

#[test]
fn a_socket_connected_to_itself_is_not_a_peer() {
    let mut rig = Rig::dialing("127.0.0.1:2");
    rig.turn();
    (rig.kernel.dialing, rig.kernel.exists) = (false, true);
    rig.channel.handle_dialed(endpoints(2, 2), Link::stream(), rig.now);
    rig.turn().asked(&["dial", "reset"]).closed().saw(&["closed self-dial Us"]);
}
