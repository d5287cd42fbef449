//! Crowds of connections that say nothing: honest peers link all the same.

use std::net::TcpStream;

use ringlink::CloseReason;

use super::descriptors::raise_descriptor_limit;
use super::skipped::skipped;
use super::support::{Bed, PATIENCE, eventually};

const CROWD: usize = 2000;

#[test]
fn an_honest_peer_links_among_two_thousand_strangers_that_stay() {
    if let Some(hard) = raise_descriptor_limit().filter(|hard| *hard < 3 * CROWD as u64) {
        return skipped(&format!("the hard limit of descriptors is {hard}"));
    }
    // They do not go for want of a hello while anybody waits.
    let bed = Bed::with_limits(|limits| limits.handshake_timeout = 2 * PATIENCE);
    let crowd: Vec<_> = (0..CROWD).map(|_| TcpStream::connect(bed.address()).unwrap()).collect();
    eventually("the crowd to be accepted", || bed.handle.stats().accepted == CROWD as u64);
    let honest = Bed::start(|builder| builder);
    honest.dial(bed.address());
    honest.opened();
    assert!(bed.handle.stats().handshakes_evicted >= (CROWD - 1024) as u64);
    eventually("the evicted to leave", || bed.handle.stats().channels <= 1025);
    // The rest stays until it goes by itself; the link stays after that.
    drop(crowd);
    eventually("the strangers to be gone", || bed.handle.stats().channels == 1);
    let counts = bed.handle.close_counts();
    let of = |reason| counts.iter().find(|(r, _)| *r == reason).unwrap().1;
    assert_eq!(of(CloseReason::HandshakeTimeout), 0);
    assert_eq!(of(CloseReason::Limit), bed.handle.stats().handshakes_evicted);
}

#[test]
fn strangers_leave_a_quarter_of_the_channels_to_others() {
    let bed = Bed::start(|builder| builder.channels(0, 8));
    let crowd: Vec<_> = (0..20).map(|_| TcpStream::connect(bed.address()).unwrap()).collect();
    let honest = [0, 1].map(|_| {
        let honest = Bed::start(|builder| builder);
        honest.dial(bed.address());
        honest.opened();
        honest
    });
    assert!(bed.handle.stats().handshakes_evicted >= 14);
    drop((crowd, honest));
}
