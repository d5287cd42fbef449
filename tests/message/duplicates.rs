//! Two links between the same nodes, links to oneself, and peers that are not who they were.

use std::collections::BTreeSet;

use ringlink::{ChannelInfo, ChannelState, CloseReason};

use super::foreign::Foreign;
use super::support::{Bed, Event, Random, eventually, pass};

fn links(bed: &Bed) -> Vec<ChannelInfo> {
    bed.handle.channels().unwrap()
}

/// Both nodes dial each other at random times, and come to keep the same one link.
fn races(loops: usize, rounds: usize) {
    let beds = [0, 1].map(|_| Bed::start(|builder| builder.loops(loops)));
    let mut random = Random(0x1234_5678_9ABC);
    for round in 0..rounds {
        for (side, bed) in beds.iter().enumerate() {
            bed.dial(beds[1 - side].address());
            if random.next().is_multiple_of(2) {
                pass(std::time::Duration::from_micros(random.next() % 2000));
            }
        }
        let mut channel = None;
        eventually("the same one link on both sides", || {
            let all = beds.each_ref().map(links);
            let ([a], [b]) = (&all[0][..], &all[1][..]) else { return false };
            let is_same = (&a.local_addr, &a.peer_addr) == (&b.peer_addr, &b.local_addr);
            channel = Some(a.id);
            is_same && [a, b].iter().all(|end| end.state == ChannelState::Open)
        });
        for bed in &beds {
            let mut live = BTreeSet::new();
            while let Ok(event) = bed.events.try_recv() {
                match event {
                    Event::Opened(channel, _) => drop(live.insert(channel)),
                    Event::Closed(channel, report) => {
                        if live.remove(&channel) || report.opened {
                            assert_eq!(report.reason, CloseReason::Duplicate, "round {round}");
                        }
                        // Other loops tell of their links when they get to it.
                        let is_linked = !live.is_empty() || !report.opened || loops > 1;
                        assert!(is_linked, "round {round}: for a moment there was no link");
                    }
                    Event::Message(..) | Event::Drained => {}
                }
            }
        }
        beds[0].handle.abort(channel.unwrap()).unwrap();
        eventually("the end of the round", || beds.iter().all(|bed| links(bed).is_empty()));
        for bed in &beds {
            while bed.events.try_recv().is_ok() {}
        }
    }
}

#[test]
fn nodes_that_dial_each_other_at_once_keep_one_link_and_are_never_without() {
    races(1, 1000);
}

#[test]
fn nodes_of_two_loops_that_dial_each_other_at_once_keep_one_link() {
    races(2, 500);
}

#[test]
fn a_node_does_not_link_with_itself() {
    let bed = Bed::start(|builder| builder);
    bed.dial(bed.address());
    for _ in 0..2 {
        let (_, report) = bed.closed();
        assert_eq!((report.reason, report.opened), (CloseReason::SelfDial, false));
    }
}

#[test]
fn nodes_of_different_networks_refuse_each_other() {
    let [a, b] = ["blue", "red"].map(|name| Bed::start(|builder| builder.network(name)));
    a.dial(b.address());
    for bed in [&a, &b] {
        let (_, report) = bed.closed();
        assert_eq!((report.reason, report.opened), (CloseReason::WrongNetwork, false));
    }
}

#[test]
fn a_restarted_peer_takes_the_place_of_its_ghost_but_not_again_and_again() {
    let bed = Bed::start(|builder| builder);
    let mut ghost = Foreign::link(bed.address(), 7, 1);
    let (first, _) = bed.opened();
    let mut restarted = Foreign::link(bed.address(), 7, 2);
    let (second, info) = bed.opened();
    assert_eq!(info.peer.unwrap().instance_id, [2; 16]);
    assert_eq!(ghost.goodbye().code, CloseReason::Replaced.code());
    drop(ghost);
    let (closed, report) = bed.closed();
    assert_eq!((closed, report.reason), (first, CloseReason::Replaced));
    let mut clone = Foreign::link(bed.address(), 7, 1);
    let goodbye = clone.goodbye();
    assert_eq!(goodbye.code, CloseReason::Limit.code());
    assert!((1..=10_000).contains(&goodbye.retry_after_ms), "{goodbye:?}");
    drop(clone);
    let (_, report) = bed.closed();
    assert_eq!((report.reason, report.opened), (CloseReason::Limit, false));
    assert_eq!(links(&bed).iter().map(|info| info.id).collect::<Vec<_>>(), [second]);
    assert_eq!((bed.handle.stats().takeovers, bed.handle.stats().takeovers_refused), (1, 1));
    restarted.write(b"");
}
