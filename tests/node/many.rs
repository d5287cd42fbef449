//! Connections that come and go. Nine thousand at once are in `tests/many.rs`.

use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::thread;

use crate::support::foreign;
use crate::support::{Bed, Call, Plan, Setup, descriptors, eventually, node_test};

const CONNECTIONS: usize = 3_000;
const THREADS: usize = 4;

/// One short life, of the kind `n` says.
fn live(address: SocketAddr, n: usize) {
    let mut client = foreign::connect(address);
    match n % 6 {
        0 => foreign::echo_all(client, b"hello", 2),
        1 => foreign::reset(client),
        2 => drop(client),
        3 => {
            foreign::echo_once(&mut client, b"hello");
            foreign::reset(client);
        }
        4 => {
            client.write_all(b"close").unwrap();
            assert_eq!(foreign::read_to_eof(&mut client), b"close");
        }
        _ => {
            client.write_all(b"abort").unwrap();
            let (_, fin) = foreign::read_to_end(&mut client);
            assert!(!fin);
        }
    }
}

node_test!(thousands_of_short_connections_leave_nothing, |setup| {
    setup.in_own_process(|| {
        let plan = Plan::echo().script(|cx, call, journal| match *call {
            Call::Data(channel, b"close") => {
                journal.silence(channel);
                cx.close(channel);
            }
            Call::Data(channel, b"abort") => {
                journal.silence(channel);
                cx.abort(channel);
            }
            _ => {}
        });
        let bed = Bed::start(setup, setup.listener(), plan);
        let before = descriptors();
        let address = bed.address();
        let clients: Vec<_> = (0..THREADS)
            .map(|thread| {
                thread::spawn(move || {
                    for n in 0..CONNECTIONS / THREADS {
                        live(address, n + thread);
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        // One that was reset before it was accepted may never have been a channel.
        foreign::echo_all(foreign::connect(address), b"the last", 8);
        eventually("all to close", || bed.handle.stats().channels == 0);
        let stats = bed.settle();
        assert!(stats.closed as usize > CONNECTIONS / 2, "{stats:?}");
        assert_eq!(bed.handle.closed_channels().len(), 1000, "the last thousand are kept");
        assert_eq!(bed.handle.close_counts().iter().map(|(_, count)| count).sum::<u64>(), stats.closed);
        assert_eq!(descriptors(), before);
    });
});

node_test!(hundreds_of_short_dials_leave_nothing, |setup| {
    setup.in_own_process(|| {
        let (listener, address) = foreign::listen();
        let bed = Bed::start(setup, setup.dialer(), Plan::echo());
        let before = descriptors();
        let peer = thread::spawn(move || {
            for n in 0..400 {
                let mut peer = foreign::accept(&listener);
                match n % 3 {
                    0 => foreign::reset(peer),
                    1 => drop(peer),
                    _ => {
                        foreign::echo_once(&mut peer, b"hello");
                        peer.shutdown(Shutdown::Both).unwrap();
                    }
                }
            }
            listener
        });
        let nobody = foreign::nobody();
        for _ in 0..100 {
            let ids: Vec<_> = (0..4).map(|_| bed.dial(address)).collect();
            let refused = bed.dial(nobody);
            for id in ids {
                bed.closed(id);
            }
            assert!(!bed.closed(refused).opened);
        }
        let _listener = peer.join().unwrap();
        eventually("all to close", || bed.handle.stats().channels == 0);
        assert_eq!(descriptors(), before);
    });
});
