//! Bytes: all of them, in order, both ways, over every kind of socket.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use ringlink::{Address, ChannelState, Direction, Endpoint, SendError};

use crate::support::foreign::{self, assert_same, random};
use crate::support::{Bed, Call, Plan, Setup, any_port, eventually, node_test};

const MIB: usize = 1 << 20;

node_test!(random_bytes_come_back_exactly_and_half_close_gets_the_rest, |setup| {
    let bed = Bed::echo(setup);
    foreign::echo_all(foreign::connect(bed.address()), &random(setup.bulk(64 * MIB), 1), 64 << 10);
});

node_test!(one_byte_writes_come_back_exactly, |setup| {
    let bed = Bed::echo(setup);
    foreign::echo_all(foreign::connect(bed.address()), &random(setup.bulk(64 << 10), 2), 1);
});

node_test!(the_least_kernel_buffers_on_both_sides_lose_nothing, |setup| {
    let builder = setup.listener().socket(|s| {
        s.send_buffer = Some(1);
        s.receive_buffer = Some(1);
    });
    // A batch through the least of buffers may well take a minute on a busy machine.
    let builder = builder.limits(|l| l.write_timeout = Duration::ZERO);
    let bed = Bed::start(setup, builder, Plan::echo());
    // Not more: with windows this small the kernel now and then waits for its timers.
    foreign::echo_all(foreign::connect_with_buffers(bed.address(), 1), &random(32 << 10, 3), 32 << 10);
});

node_test!(a_unix_socket_carries_the_same_bytes, |setup| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node");
    let bed = Bed::start(setup, setup.dialer().listen(Address::from(path.as_path())), Plan::echo());
    assert_eq!(bed.addresses, [Endpoint::Unix(path.as_path().into())]);
    for seed in 0..3 {
        foreign::echo_all(foreign::connect_unix(&path), &random(setup.bulk(8 * MIB), seed), 32 << 10);
    }
});

node_test!(a_unix_socket_is_dialed, |setup| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("foreign");
    let listener = UnixListener::bind(&path).unwrap();
    let bed = Bed::start(setup, setup.dialer(), Plan::echo());
    bed.dial(path.as_path());
    let (_, info) = bed.opened();
    assert_eq!(info.peer_addr, Some(Endpoint::Unix(path.as_path().into())));
    foreign::echo_all(foreign::accept_unix(listener), &random(setup.bulk(MIB), 4), 10_000);
});

node_test!(ipv6_carries_the_same_bytes, |setup| {
    if !foreign::has_ipv6() {
        return;
    }
    let builder = setup.dialer().listen_on("[::1]:0").unwrap();
    let bed = Bed::start(setup, builder, Plan::echo());
    assert!(bed.address().is_ipv6(), "{}", bed.address());
    foreign::echo_all(foreign::connect(bed.address()), &random(setup.bulk(8 * MIB), 5), 32 << 10);
});

node_test!(every_channel_gets_its_own_bytes_back, |setup| {
    const CHANNELS: u64 = 32;
    let bed = Bed::echo(setup);
    let size = setup.bulk(2 * MIB);
    thread::scope(|scope| {
        for seed in 0..CHANNELS {
            let client = foreign::connect(bed.address());
            scope.spawn(move || foreign::echo_all(client, &random(size, 100 + seed), 7_001));
        }
    });
    for _ in 0..CHANNELS {
        bed.opened();
    }
});

node_test!(the_node_may_speak_first, |setup| {
    let plan = Plan::listen().script(|cx, call, _| {
        if let Call::Open(channel, _) = *call {
            cx.send(channel, b"hello").unwrap();
        }
    });
    let bed = Bed::start(setup, setup.listener(), plan);
    let mut client = foreign::connect(bed.address());
    assert_eq!(foreign::read_exactly(&mut client, 5), b"hello");
});

node_test!(copied_and_referenced_bytes_keep_their_order, |setup| {
    // Small ones are copied together, large ones ride along; here they alternate in one callback.
    let (_, _, max) = setup.outbox();
    let data = random(max, 6);
    let sent = data.clone();
    let plan = Plan::listen().script(move |cx, call, _| {
        if let Call::Open(channel, _) = *call {
            let mut rest = &sent[..];
            for turn in 0.. {
                let length = if turn % 2 == 0 { 13 } else { sent.len() / 7 };
                let (piece, left) = rest.split_at(length.min(rest.len()));
                match turn % 2 {
                    0 => cx.send(channel, piece).unwrap(),
                    _ => cx.send_bytes(channel, Bytes::copy_from_slice(piece)).unwrap(),
                }
                rest = left;
                if rest.is_empty() {
                    break;
                }
            }
            cx.close(channel);
        }
    });
    let bed = Bed::start(setup, setup.listener(), plan);
    assert_same(&foreign::read_to_eof(&mut foreign::connect(bed.address())), &data);
});

node_test!(half_closing_leaves_the_other_direction_open, |setup| {
    let plan = Plan::listen().script(|cx, call, journal| {
        if let Call::Open(channel, _) = *call {
            cx.send(channel, b"the last word").unwrap();
            cx.shutdown_write(channel);
            cx.shutdown_write(channel);
            if cx.send(channel, b"no more") != Err(SendError::Closed) {
                journal.fault("sent after shutdown_write".into());
            }
        }
    });
    let bed = Bed::start(setup, setup.listener(), plan);
    let mut client = foreign::connect(bed.address());
    let (channel, _) = bed.opened();
    assert_eq!(foreign::read_to_eof(&mut client), b"the last word");
    let data = random(300_000, 7);
    let writer = foreign::write_all(&client, data.clone(), 10_000);
    assert_same(&bed.received(channel, data.len()), &data);
    writer.join().unwrap();
    bed.eof(channel);
    let report = bed.closed(channel);
    assert_eq!((report.bytes_out, report.bytes_unsent, report.bytes_in), (13, 0, 300_000), "{report:?}");
});

node_test!(after_the_peers_end_of_file_sending_goes_on, |setup| {
    let data = random(setup.outbox().2, 8);
    let sent = data.clone();
    let plan = Plan::listen().stays_at_eof().script(move |cx, call, _| {
        if let Call::Eof(channel) = *call {
            cx.send(channel, &sent).unwrap();
            cx.close(channel);
        }
    });
    let bed = Bed::start(setup, setup.listener(), plan);
    let mut client = foreign::connect(bed.address());
    client.write_all(b"request").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_same(&foreign::read_to_eof(&mut client), &data);
});

node_test!(a_dialed_channel_carries_bytes_both_ways, |setup| {
    let (listener, address) = foreign::listen();
    let bed = Bed::start(setup, setup.dialer(), Plan::echo());
    let dialed = bed.dial(address);
    let peer = foreign::accept(&listener);
    let (channel, info) = bed.opened();
    assert_eq!(channel, dialed);
    assert_eq!((info.id, info.direction, info.listener), (channel, Direction::Dialed, None));
    assert_eq!(info.state, ChannelState::Open);
    assert_eq!(info.peer_addr, Some(Endpoint::Tcp(address)));
    assert_eq!(info.local_addr, Some(Endpoint::Tcp(peer.peer_addr().unwrap())));
    foreign::echo_all(peer, &random(setup.bulk(8 * MIB), 9), 30_000);
    assert!(bed.closed(channel).opened);
});

node_test!(a_name_is_dialed, |setup| {
    // On machines where `localhost` is ::1 first, this needs the second address too.
    let (listener, address) = foreign::listen();
    let bed = Bed::start(setup, setup.dialer(), Plan::echo());
    let name: Address = format!("localhost:{}", address.port()).parse().unwrap();
    let channel = bed.dial(name);
    foreign::echo_all(foreign::accept(&listener), b"by name", 7);
    assert!(bed.closed(channel).opened);
});

node_test!(a_callback_dials, |setup| {
    let (listener, address) = foreign::listen();
    let plan = Plan::echo().script(move |cx, call, journal| {
        if let (Call::Start, 0) = (call, cx.loop_index()) {
            journal.owe(cx.dial(address).unwrap());
        }
    });
    let bed = Bed::start(setup, setup.dialer(), plan);
    foreign::echo_all(foreign::accept(&listener), b"from on_start", 5);
    bed.opened();
});

node_test!(a_node_dials_its_own_listener, |setup| {
    // The dialing end speaks, the accepting end echoes.
    let plan = Plan::listen().script(|cx, call, _| match *call {
        Call::Open(channel, info) if info.direction == Direction::Dialed => {
            cx.send(channel, b"myself").unwrap();
        }
        Call::Data(channel, data) => {
            let info = cx.channel(channel).expect("it lives");
            match info.direction {
                Direction::Accepted => cx.send(channel, data).unwrap(),
                _ if info.bytes_in == 6 => cx.close(channel),
                _ => {}
            }
        }
        _ => {}
    });
    let bed = Bed::start(setup, setup.listener(), plan);
    let dialed = bed.dial(bed.address());
    let report = bed.closed(dialed);
    assert_eq!((report.bytes_out, report.bytes_in, report.opened), (6, 6, true), "{report:?}");
    let accepted = bed.wait("the other end", |e| match e {
        crate::support::Event::Closed { channel, report } if *channel != dialed => Some(report.clone()),
        _ => None,
    });
    assert_eq!((accepted.bytes_out, accepted.bytes_in), (6, 6), "{accepted:?}");
});

node_test!(two_nodes_talk, |setup| {
    let far = Bed::echo(setup);
    let data = random(setup.outbox().2 / 2, 10);
    let sent = data.clone();
    let plan = Plan::listen().script(move |cx, call, _| {
        if let Call::Open(channel, _) = *call {
            cx.send(channel, &sent).unwrap();
            cx.shutdown_write(channel);
        }
    });
    let near = Bed::start(setup, setup.dialer(), plan);
    let channel = near.dial(far.address());
    assert_same(&near.received(channel, data.len()), &data);
    near.eof(channel);
    near.closed(channel);
});

node_test!(every_listener_accepts_and_tells_where_it_is, |setup| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node");
    let builder = setup
        .listener()
        .listen(Address::from(path.as_path()))
        .listen_on(if foreign::has_ipv6() { "[::1]:0" } else { "127.0.0.1:0" })
        .unwrap()
        .listen(any_port());
    let bed = Bed::start(setup, builder, Plan::echo());
    assert_eq!(bed.addresses.len(), 4);
    for (index, address) in bed.addresses.iter().enumerate() {
        let info = match address {
            Endpoint::Unix(path) => {
                let mut client = foreign::connect_unix(path);
                foreign::echo_once(&mut client, b"unix");
                bed.opened().1
            }
            tcp => {
                let mut client = foreign::connect(tcp.socket_addr().unwrap());
                foreign::echo_once(&mut client, b"tcp");
                let (_, info) = bed.opened();
                assert_eq!(info.peer_addr, Some(Endpoint::Tcp(client.local_addr().unwrap())));
                info
            }
        };
        assert_eq!((info.listener, info.direction), (Some(index), Direction::Accepted));
        assert_eq!(info.local_addr.as_ref(), Some(address));
    }
});

node_test!(channels_tells_all_about_a_channel, |setup| {
    let bed = Bed::echo(setup);
    assert!(bed.handle.channels().unwrap().is_empty());
    let mut clients: Vec<TcpStream> = (0..5).map(|_| foreign::connect(bed.address())).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        foreign::echo_once(client, &random(100 + i, 11));
    }
    let all = bed.handle.channels().unwrap();
    assert_eq!(all.len(), 5);
    for (i, client) in clients.iter().enumerate() {
        let info =
            all.iter().find(|c| c.peer_addr == Some(Endpoint::Tcp(client.local_addr().unwrap()))).unwrap();
        assert_eq!(info.local_addr, Some(Endpoint::Tcp(bed.address())));
        assert_eq!((info.direction, info.listener), (Direction::Accepted, Some(0)));
        assert_eq!((info.state, info.paused), (ChannelState::Open, false));
        let bytes = 100 + i as u64;
        assert_eq!((info.bytes_in, info.bytes_out, info.bytes_queued), (bytes, bytes, 0), "{info:?}");
        assert!(info.idle <= info.age, "{info:?}");
        assert_eq!(bed.opened_by(client.local_addr().unwrap()), info.id);
    }
});

node_test!(stats_count_what_happened, |setup| {
    let (listener, address) = foreign::listen();
    let bed = Bed::echo(setup);
    foreign::echo_all(foreign::connect(bed.address()), &random(1000, 12), 1000);
    bed.dial(address);
    foreign::echo_all(foreign::accept(&listener), &random(500, 13), 500);
    eventually("both channels to close", || bed.handle.stats().closed == 2);
    let stats = bed.settle();
    assert_eq!((stats.accepted, stats.dialed, stats.opened, stats.closed), (1, 1, 2, 2));
    assert_eq!((stats.bytes_in, stats.bytes_out), (1500, 1500));
    assert_eq!((stats.messages_in, stats.messages_out, stats.handler_panics), (0, 0, 0));
    assert!(stats.turns > 0 && stats.submissions > 0 && stats.completions > 0, "{stats:?}");
    let of_loops = bed.handle.loop_stats();
    assert_eq!(of_loops.len(), setup.loops);
    assert_eq!(of_loops.iter().map(|s| s.bytes_in).sum::<u64>(), 1500);
});

// An operation that the kernel cannot do at once and cannot poll for goes to worker threads, which cost more than
// all the rest. None of ours may.
node_test!(no_operation_needs_a_kernel_worker_thread, |setup| {
    setup.in_own_process(|| {
        let (listener, address) = foreign::listen();
        let bed = Bed::echo(setup);
        for seed in 0..8 {
            foreign::echo_all(foreign::connect(bed.address()), &random(200_000, seed), 10_000);
            bed.dial(address);
            foreign::echo_all(foreign::accept(&listener), &random(1000, seed), 100);
            foreign::reset(foreign::connect(bed.address()));
        }
        let workers: Vec<String> = std::fs::read_dir("/proc/self/task")
            .unwrap()
            .map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default())
            .filter(|name| name.starts_with("iou-wrk"))
            .collect();
        // The kernel polls for room 128 times in one send, and then has a thread try: with the least send buffers that
        // happens now and then.
        assert!(workers.is_empty() || setup.is_tiny, "{workers:?}");
    });
});

// `Handler`'s own bodies, without the recorder: what `on_eof` does when nobody says otherwise.
node_test!(a_handler_that_only_reads_closes_at_the_end_of_file, |setup| {
    struct Sink;
    impl ringlink::Handler for Sink {}
    let node = setup.listener().start(|_| Sink).unwrap();
    let mut client = foreign::connect(node.local_addrs()[0].socket_addr().unwrap());
    client.write_all(b"into the void").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    drop(client);
    eventually("the channel to close", || node.handle().stats().closed == 1);
    node.shutdown(crate::support::PATIENCE);
    crate::support::within("join", move || node.join()).unwrap();
});
