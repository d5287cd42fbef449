//! What the network and its peers do at the worst moment: resets, floods, readers that stall.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use ringlink::{CloseReason, ClosedBy};
use socket2::{Domain, Socket, Type};

use crate::backpressure::Gate;
use crate::support::foreign::{self, assert_prefix, assert_same, random};
use crate::support::{Bed, Event, Plan, Setup, eventually, node_test};

/// A connection of `ring` that never stops echoing while others misbehave; says how often it did.
fn bystander(to: SocketAddr) -> (Arc<AtomicBool>, thread::JoinHandle<u32>) {
    let done = Arc::new(AtomicBool::new(false));
    let (stop, mut client) = (Arc::clone(&done), foreign::connect(to));
    let echoes = thread::spawn(move || {
        let mut times = 0;
        while !stop.load(SeqCst) {
            foreign::echo_once(&mut client, b"not concerned");
            times += 1;
        }
        times
    });
    (done, echoes)
}

// Not tiny: there a send is so small that the kernel takes all of it or nothing. It takes a part where it has to wait for
// room over a hundred times in one send, and so where the peer takes little at once.
node_test!(what_the_kernel_takes_only_a_part_of_is_sent_on_in_order, not tiny, |setup| {
    let bed = Bed::start(setup, setup.listener().socket(|s| s.send_buffer = Some(4 << 10)), Plan::echo());
    let mut client = foreign::connect_with_buffers(bed.address(), 1 << 10);
    let data = random(setup.bulk(2 << 20), 1);
    let writer = foreign::write_all(&client, data.clone(), 64 << 10);
    // Nothing is read before the node has got stuck.
    let (id, _) = bed.opened();
    eventually("reading to pause", || bed.info(id).is_some_and(|info| info.paused));
    assert_same(&foreign::read_to_eof(&mut client), &data);
    writer.join().unwrap();
    let stats = bed.handle.stats();
    assert!(stats.short_sends > 0, "the case is not what it claims to be: {stats:?}");
});

node_test!(a_reset_at_any_moment_is_one_close_and_leaves_nothing, |setup| {
    let bed = Bed::echo(setup);
    let (done, echoes) = bystander(bed.address());
    let data = random(200_000, 2);
    for (round, choice) in random(150, 3).into_iter().enumerate() {
        let mut client = foreign::connect(bed.address());
        let length = data.len() >> (choice % 18);
        let (mut from, sent) = (client.try_clone().unwrap(), data[..length].to_vec());
        // More than it reads: the reset hits what is being sent, both ways.
        let writer = thread::spawn(move || drop(from.write_all(&sent)));
        let wanted = length * (round % 4) / 4;
        assert_prefix(&foreign::read_exactly(&mut client, wanted), &data);
        if round % 5 == 0 {
            drop(client.shutdown(Shutdown::Write));
        }
        Socket::from(client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(writer.join());
    }
    done.store(true, SeqCst);
    assert!(echoes.join().unwrap() > 0);
    eventually("all to close", || bed.handle.stats().channels == 0);
    bed.count(|event| {
        let Event::Closed { report, .. } = event else { return false };
        let by_peer = matches!(report.reason, CloseReason::Reset | CloseReason::PeerClosed);
        assert!(by_peer && report.by == ClosedBy::Peer, "{report:?}");
        true
    });
});

node_test!(a_flood_from_many_addresses_leaves_those_inside_alone, |setup| {
    const CROWD: u32 = 240;
    let bed = Bed::start(setup, setup.listener().channels(0, 32), Plan::echo());
    let (done, echoes) = bystander(bed.address());
    bed.opened();
    let floods: Vec<_> = (2..8u8)
        .map(|host| {
            let to = bed.address();
            thread::spawn(move || (0..CROWD / 6).map(|_| connect_from(host, to)).collect::<Vec<TcpStream>>())
        })
        .collect();
    let crowd: Vec<_> = floods.into_iter().flat_map(|flood| flood.join().unwrap()).collect();
    eventually("a full table", || bed.handle.stats().accepts_paused > 0);
    // Half of them go without a word, the others by a reset, those in the backlog too.
    for (n, client) in crowd.into_iter().enumerate() {
        if n % 2 == 0 { drop(client) } else { foreign::reset(client) }
    }
    // Until then the table may be full once more for a moment, and who comes then is refused.
    eventually("the crowd to be gone", || {
        let goes_on = |e: &Event| matches!(e, Event::AcceptResumed { .. });
        let paused = |e: &Event| matches!(e, Event::AcceptPaused { .. });
        bed.handle.stats().channels == 1 && bed.count(paused) == bed.count(goes_on)
    });
    foreign::echo_all(foreign::connect(bed.address()), b"room again", 4);
    done.store(true, SeqCst);
    assert!(echoes.join().unwrap() > 0);
});

/// From 127.0.0.`host`.
fn connect_from(host: u8, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, host], 0)).into()).unwrap();
    socket.connect(&to.into()).expect("the node listens");
    socket.into()
}

node_test!(a_handler_that_stands_still_loses_nothing_and_holds_up_no_other_loop, |setup| {
    let (gate, plan) = Gate::held_by_word(Plan::echo());
    let bed = Bed::start(setup, setup.listener(), plan);
    let mut clients = bed.clients_on_every_loop();
    // The last one is the first of its loop.
    let (mut slow, _) = clients.pop().unwrap();
    slow.write_all(b"hold").unwrap();
    eventually("the loop to be held", || gate.waiting.load(SeqCst));
    // More than the kernel's buffers take: it waits for the handler, and TCP makes the writer wait.
    let data = random(setup.bulk(8 << 20), 4);
    let writer = foreign::write_all(&slow, data.clone(), 64 << 10);
    for (client, _) in &mut clients {
        foreign::echo_once(client, b"on another loop");
    }
    gate.open();
    assert_eq!(foreign::read_exactly(&mut slow, 4), b"hold");
    assert_same(&foreign::read_to_eof(&mut slow), &data);
    writer.join().unwrap();
});
