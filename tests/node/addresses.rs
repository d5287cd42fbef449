//! Dials that come to nothing and listeners that cannot be: each one typed outcome, and one `on_close`.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use ringlink::{Address, ChannelId, CloseReason, CloseReport, ClosedBy, Errno, SendError, StartError};

use crate::support::foreign::{self, Blackhole};
use crate::support::{Bed, Plan, Setup, node_test};

#[track_caller]
fn assert_never_opened(report: &CloseReport, reason: CloseReason) {
    assert_eq!((report.reason, report.opened), (reason, false), "{report:?}");
    assert_eq!((report.bytes_out, report.bytes_in), (0, 0), "{report:?}");
}

node_test!(a_refused_dial_is_one_close, |setup| {
    let bed = Bed::start(setup, setup.dialer(), Plan::listen());
    let id = bed.dial(foreign::nobody());
    let report = bed.closed(id);
    assert_never_opened(&report, CloseReason::DialRefused);
    assert_eq!(report.errno, Some(Errno(libc::ECONNREFUSED)));
    let folder = tempfile::tempdir().unwrap();
    let id = bed.dial(folder.path().join("nobody").as_path());
    assert_never_opened(&bed.closed(id), CloseReason::DialRefused);
});

node_test!(a_path_too_long_for_a_socket_is_one_close_and_no_listener, |setup| {
    let bed = Bed::start(setup, setup.dialer(), Plan::listen());
    let long = "x".repeat(108);
    let report = bed.closed(bed.dial(Path::new(&long)));
    assert_never_opened(&report, CloseReason::DialFailed);
    assert_eq!(report.errno, Some(Errno(libc::ENAMETOOLONG)));
    let builder = setup.dialer().listen(Path::new(&long));
    match Bed::try_start(setup, builder, Plan::listen()).err() {
        Some(StartError::Listen { error, .. }) => {
            assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG), "{error}");
        }
        other => panic!("{other:?}"),
    }
});

node_test!(a_peer_of_ipv4_is_that_on_a_listener_of_both, |setup| {
    let bed = Bed::start(setup, setup.dialer().listen(":0".parse::<Address>().unwrap()), Plan::echo());
    let client = foreign::connect(SocketAddr::from(([127, 0, 0, 1], bed.address().port())));
    let (_, info) = bed.opened();
    let ends = [info.peer_addr, info.local_addr].map(|end| end.unwrap().socket_addr().unwrap());
    assert_eq!(ends, [client.local_addr().unwrap(), client.peer_addr().unwrap()]);
});

node_test!(a_dial_into_a_blackhole_times_out, |setup| {
    let blackhole = Blackhole::new();
    let builder = setup.listener().limits(|l| l.dial_timeout = Duration::from_millis(200));
    let bed = Bed::start(setup, builder, Plan::echo());
    let ids: Vec<ChannelId> = (0..8).map(|_| bed.dial(blackhole.address)).collect();
    foreign::echo_all(foreign::connect(bed.address()), b"meanwhile", 4);
    for id in ids {
        assert_never_opened(&bed.closed(id), CloseReason::DialTimeout);
    }
});

node_test!(a_name_that_does_not_exist_is_one_close_and_is_named, |setup| {
    let bed = Bed::start(setup, setup.dialer(), Plan::listen());
    let id = bed.dial("nobody.invalid:7".parse::<Address>().unwrap());
    let report = bed.closed(id);
    assert_never_opened(&report, CloseReason::NameNotFound);
    assert!(report.to_string().contains("nobody.invalid"), "{report}");
});

node_test!(a_dial_is_called_off, |setup| {
    let blackhole = Blackhole::new();
    let bed = Bed::start(setup, setup.dialer(), Plan::listen());
    let close = bed.dial(blackhole.address);
    let abort = bed.dial(blackhole.address);
    let at_once = bed.dial(blackhole.address);
    bed.handle.abort(at_once).unwrap();
    bed.settle();
    assert_eq!(bed.handle.send(close, b"too early"), Err(SendError::NotOpen));
    bed.handle.close(close).unwrap();
    bed.handle.abort(abort).unwrap();
    for id in [close, abort, at_once] {
        let report = bed.closed(id);
        assert_eq!((report.opened, report.by), (false, ClosedBy::Us), "{report:?}");
    }
});

node_test!(a_dial_that_is_open_before_it_is_closed_still_ends_once, |setup| {
    let (listener, address) = foreign::listen();
    // Nobody accepts, so nobody closes the other end.
    let builder = setup.dialer().limits(|l| l.linger_timeout = Duration::from_millis(1));
    let bed = Bed::start(setup, builder, Plan::listen());
    for _ in 0..100 {
        let id = bed.dial(address);
        bed.handle.close(id).unwrap();
        bed.closed(id);
    }
    drop(listener);
});

node_test!(listening_on_a_taken_port_fails_and_names_it, |setup| {
    let (_listener, taken) = foreign::listen();
    let refused = |address: Address| {
        let builder = setup.dialer().listen(address.clone());
        match Bed::try_start(setup, builder, Plan::listen()).err() {
            Some(StartError::Listen { address: named, error }) => {
                assert_eq!(named, address);
                assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE), "{error}");
            }
            other => panic!("{address}: {other:?}"),
        }
    };
    refused(taken.into());
    // Of another node, which shares the port between its own loops, and of nobody else.
    let bed = Bed::echo(setup);
    refused(bed.address().into());
    foreign::echo_all(foreign::connect(bed.address()), b"unharmed", 3);
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("no/such/folder");
    let builder = setup.dialer().listen(Address::from(nowhere.as_path()));
    let error = Bed::try_start(setup, builder, Plan::listen()).err().unwrap();
    assert!(error.to_string().contains("no/such/folder"), "{error}");
});

node_test!(a_path_that_is_another_node_s_by_now_stays, |setup| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let start = || Bed::start(setup, setup.dialer().listen(path.as_path()), Plan::echo());
    let old = start();
    std::fs::remove_file(&path).unwrap();
    let new = start();
    old.shut_down();
    foreign::echo_all(UnixStream::connect(&path).unwrap(), b"still there", 4);
    new.shut_down();
    assert!(!path.exists());
});

node_test!(a_port_is_free_again_after_the_node, |setup| {
    let bed = Bed::echo(setup);
    let address = bed.address();
    foreign::echo_all(foreign::connect(address), b"first", 5);
    bed.shut_down();
    let bed = Bed::start(setup, setup.dialer().listen(Address::from(address)), Plan::echo());
    foreign::echo_all(foreign::connect(address), b"second", 6);
    assert_eq!(bed.address(), address);
});
