//! Peers that fall silent, and peers that go and come back.

use std::net::{Shutdown, TcpListener};
use std::time::Duration;

use ringlink::{Address, CloseReason, Limits};

use super::foreign::{DATA, Foreign, Hello, PING, frame};
use super::support::{Bed, Event, eventually};

const DEAD_AFTER: Duration = Duration::from_secs(2);

fn impatient(limits: &mut Limits) {
    limits.heartbeat = Duration::from_millis(200);
    limits.dead_after = DEAD_AFTER;
}

#[test]
fn a_silent_peer_is_asked_and_then_dead() {
    let bed = Bed::with_limits(impatient);
    let mut silent = Foreign::link(bed.address(), 7, 1);
    bed.opened();
    assert_eq!(silent.read_frame().expect("a question").0, PING);
    let (_, report) = bed.closed();
    assert_eq!(report.reason, CloseReason::PeerDead);
    assert!(report.age >= DEAD_AFTER, "{report:?}");
}

#[test]
fn a_busy_link_is_not_taken_for_dead_though_no_ping_is_answered() {
    let bed = Bed::with_limits(impatient);
    let mut busy = Foreign::link(bed.address(), 7, 1);
    bed.opened();
    // A question of the node sets the pace: each is heard, and none answered as a question.
    while bed.handle.channels().unwrap()[0].age < 2 * DEAD_AFTER {
        assert_eq!(busy.read_frame().expect("a question").0, PING);
        busy.write(&frame(DATA, 0, b"x"));
        match bed.next("a message") {
            Event::Message(..) => {}
            other @ (Event::Opened(..) | Event::Closed(..) | Event::Drained) => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_peer_that_comes_back_is_linked_again_without_a_hand() {
    let folder = tempfile::tempdir().unwrap();
    let id_file = folder.path().join("id");
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dialer = Bed::start(|builder| builder.loops(2).peer(Address::from(address)));
    let mut known = None;
    for _ in 0..3 {
        let peer = Bed::start_at(&address.to_string(), |builder| builder.id_file(&id_file));
        let node = loop {
            match dialer.next("the link") {
                Event::Opened(_, info) => break info.peer.unwrap(),
                Event::Closed(_, report) => assert!(!report.opened || known.is_some(), "{report}"),
                other @ (Event::Message(..) | Event::Drained) => panic!("{other:?}"),
            }
        };
        assert_eq!(*known.get_or_insert(node.node_id), node.node_id);
        peer.opened();
        drop(peer);
    }
    let closed = dialer.handle.closed_channels();
    assert!(closed.iter().any(|link| link.peer_id == known && link.report.opened));
}

#[test]
fn a_peer_that_linked_by_itself_to_another_loop_is_missed_when_it_goes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::from(listener.local_addr().unwrap());
    let bed = Bed::start(|builder| builder.loops(2).peer(address));
    let accepted_elsewhere = || bed.handle.loop_stats()[1].accepted;
    let (link, linked) = loop {
        let before = accepted_elsewhere();
        let link = Foreign::link(bed.address(), 7, 1);
        let (linked, _) = bed.opened();
        if accepted_elsewhere() > before {
            break (link, linked);
        }
        link.stream.shutdown(Shutdown::Both).unwrap();
        bed.closed();
    };
    // Where it is dialed it says who it is, and goes: it is linked all the same.
    let dialed = Foreign::answer(&listener, 7, 1);
    dialed.stream.shutdown(Shutdown::Write).unwrap();
    assert_ne!(bed.closed().0, linked);
    link.stream.shutdown(Shutdown::Both).unwrap();
    assert_eq!(bed.closed().0, linked);
    listener.set_nonblocking(true).unwrap();
    eventually("the next dial", || listener.accept().is_ok());
}

#[test]
fn the_loop_that_dials_hears_nothing_of_strangers() {
    let peer = Bed::start(|builder| builder);
    let address = Address::from(peer.address());
    let bed = Bed::start(|builder| builder.loops(2).peer(address));
    bed.opened();
    let commands = || {
        // Mail is obeyed in its order: what was posted before this is counted.
        bed.handle.channels().unwrap();
        bed.handle.loop_stats()[0].commands
    };
    let before = commands();
    for stranger in 10..50 {
        let link = Foreign::link(bed.address(), stranger, 1);
        bed.opened();
        link.stream.shutdown(Shutdown::Both).unwrap();
        bed.closed();
    }
    assert_eq!(commands(), before + 1);
}

#[test]
fn nodes_that_keep_up_a_link_to_each_other_have_one() {
    let addresses = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let start = |me: usize| {
        let other = Address::from(addresses[1 - me]);
        Bed::start_at(&addresses[me].to_string(), |builder| builder.peer(other))
    };
    let beds = [start(0), start(1)];
    let settled = || {
        beds.iter().all(|bed| {
            let channels = bed.handle.channels().unwrap();
            channels.len() == 1 && channels[0].peer.is_some()
        })
    };
    eventually("one link", settled);
    // Whoever still dials the other is told that there is a link; then nobody does any more.
    let dialed = || beds.iter().map(|bed| bed.handle.stats().dialed).sum::<u64>();
    eventually("an end of dialing", || {
        let before = dialed();
        super::support::pass(Duration::from_millis(300));
        settled() && dialed() == before
    });
}

#[test]
fn a_stream_peer_is_dialed_again_when_it_has_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::from(listener.local_addr().unwrap());
    let _bed = Bed::start(|builder| builder.mode(ringlink::Mode::Stream).peer(address));
    for _ in 0..3 {
        drop(listener.accept().unwrap());
    }
}

#[test]
fn a_link_that_ends_at_once_is_heard_of_whichever_loop_has_it() {
    const EACH: u16 = 100;
    let bed = Bed::start(|builder| builder.loops(4));
    let address = bed.address();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            scope.spawn(move || {
                for number in 0..EACH {
                    let mut brief = Foreign::connect(address);
                    let mut hello = Hello::in_answer_to(&brief.hello, thread, 1);
                    hello.node[..2].copy_from_slice(&number.to_le_bytes());
                    brief.write(&hello.encode());
                    brief.stream.shutdown(Shutdown::Write).unwrap();
                    while brief.read_frame().is_some() {}
                }
            });
        }
        let mut left = 4 * EACH;
        while left > 0 {
            if let Event::Closed(channel, report) = bed.next("the end of a link") {
                assert!(report.opened, "{channel}: {report}");
                left -= 1;
            }
        }
    });
}
