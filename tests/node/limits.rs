//! Limits: what is full is refused with a name, and goes on when there is room again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use ringlink::{
    Builder, CloseReason, CommandError, DialError, Direction, Endpoint, Errno, SendError, StartError,
};

use crate::backpressure::Gate;
use crate::support::foreign::{self, random};
use crate::support::{
    Bed, Call, Event, OtherProcess, Plan, Setup, answer_lines, eventually, node_test, pass, say,
};

/// Sends a little and wants it back; false when the connection ends instead.
fn try_echo(client: &mut TcpStream) -> bool {
    let mut got = [0; 4];
    if client.write_all(b"ping").is_err() {
        return false;
    }
    match client.read(&mut got) {
        Ok(0) => false,
        Ok(4) => got == *b"ping",
        Ok(n) => panic!("{n} bytes"),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
        Err(error) => panic!("neither served nor refused: {error}"),
    }
}

fn paused(event: &Event) -> bool {
    matches!(event, Event::AcceptPaused { listener: 0, errno: None })
}

fn resumed(event: &Event) -> bool {
    matches!(event, Event::AcceptResumed { listener: 0 })
}

node_test!(a_full_table_pauses_accepting_until_a_channel_leaves, |setup| {
    let size = 2 * setup.loops;
    let bed = Bed::start(setup, setup.listener().channels(0, size as u32), Plan::echo());
    let mut clients = Vec::new();
    while bed.count(paused) == 0 {
        assert!(clients.len() <= size, "{} channels were not too many", clients.len());
        clients.push(foreign::connect(bed.address()));
        eventually("the client to get in, or a full table", || {
            bed.count(|e| matches!(e, Event::Opened { .. })) == clients.len() || bed.count(paused) > 0
        });
    }
    bed.settle();
    clients.extend((0..6).map(|_| foreign::connect(bed.address())));
    let stats = bed.settle();
    assert!(stats.channels as usize <= size && stats.accepts_paused > 0, "{stats:?}");

    // Each that was served leaves, and makes room for one that waits.
    let served: Vec<_> =
        clients.into_iter().map(|mut client| thread::spawn(move || try_echo(&mut client))).collect();
    let refused = served.into_iter().map(|client| client.join().unwrap()).filter(|served| !served).count();
    eventually("accepting to go on", || bed.count(paused) == bed.count(resumed));
    assert_eq!(bed.handle.stats().accepts_refused, refused as u64);
    // One may have been accepted before the table was seen to be full. With two loops it happens to the second one
    // while many knock.
    assert!(setup.loops > 1 || refused <= 1, "{refused} were refused");
    foreign::echo_all(foreign::connect(bed.address()), b"room again", 4);
});

node_test!(a_dial_from_a_callback_is_refused_when_the_table_is_full, |setup| {
    const EACH: u32 = 4;
    let (listener, address) = foreign::listen();
    let plan = Plan::listen().script(move |cx, call, journal| {
        let Call::Open(_, info) = call else { return };
        if info.direction != Direction::Accepted {
            return;
        }
        let mut channels = cx.channels().len();
        let refused = loop {
            match cx.dial(address) {
                Ok(channel) => journal.owe(channel),
                Err(error) => break error,
            }
            channels += 1;
        };
        if (refused, channels) != (DialError::TableFull { size: EACH }, EACH as usize) {
            journal.fault(format!("{refused:?} with {channels} channels"));
        }
    });
    let bed = Bed::start(setup, setup.listener().channels(500, EACH * setup.loops as u32), plan);
    let client = foreign::connect(bed.address());
    for _ in 0..EACH {
        let (id, _) = bed.opened();
        assert!((500..500 + EACH * setup.loops as u32).contains(&id.slot()), "{id}");
    }
    // From another thread: refused at once, or in the one on_close.
    let full = (0..100).find_map(|_| match bed.handle.dial(address) {
        Ok(id) => {
            bed.journal.owe(id);
            let ended = bed.wait("the dial to succeed or fail", |e| match e {
                Event::Opened { channel, .. } if *channel == id => Some(None),
                Event::Closed { channel, report } if *channel == id => Some(Some(report.clone())),
                _ => None,
            });
            ended.map(|report| {
                assert_eq!((report.reason, report.opened), (CloseReason::Limit, false), "{report:?}");
            })
        }
        Err(error) => {
            assert!(matches!(error, DialError::TableFull { .. }), "{error:?}");
            Some(())
        }
    });
    assert!(full.is_some(), "a hundred dials in a table of {}", EACH as usize * setup.loops);
    drop((listener, client));
});

node_test!(a_dial_takes_the_last_channel_whichever_loop_has_it, |setup| {
    let (listener, address) = foreign::listen();
    let bed = Bed::start(setup, setup.dialer().channels(0, 2 * setup.loops as u32), Plan::listen());
    let dial = || {
        let id = bed.dial(address);
        assert_eq!(bed.opened().0, id);
        id
    };
    let ids: Vec<_> = (0..2 * setup.loops).map(|_| dial()).collect();
    for id in ids {
        bed.handle.abort(id).unwrap();
        bed.closed(id);
        eventually("its slot to be free", || bed.handle.stats().channels < 2 * setup.loops as u64);
        assert_eq!(dial().slot(), id.slot());
    }
    let full = DialError::TableFull { size: 2 * setup.loops as u32 };
    assert_eq!(bed.handle.dial(address), Err(full));
    drop(listener);
});

node_test!(channel_ids_are_of_the_range_that_was_asked_for, |setup| {
    let size = 8;
    let bed = Bed::start(setup, setup.listener().channels(10_000, size), Plan::echo());
    for _ in 0..50 {
        let mut client = foreign::connect(bed.address());
        foreign::echo_once(&mut client, b"x");
        let (id, _) = bed.opened();
        assert!((10_000..10_000 + size).contains(&id.slot()), "{id}");
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    eventually("all to close", || bed.handle.stats().closed == 50);
});

node_test!(a_setting_that_cannot_be_is_refused_by_name, |setup| {
    type Change = fn(Builder) -> Builder;
    let wrong: [(&str, Change); 9] = [
        ("loops", |b| b.loops(0)),
        ("channels", |b| b.channels(0, 0)),
        ("channels", |b| b.channels(u32::MAX, 2)),
        ("pin", |b| b.pin(vec![0; 7])),
        ("outbox_low", |b| b.limits(|l| l.outbox_low = l.outbox_high + 1)),
        ("outbox_high", |b| b.limits(|l| l.outbox_high = l.outbox_max + 1)),
        ("dial_timeout", |b| b.limits(|l| l.dial_timeout = Duration::ZERO)),
        ("receive_buffers", |b| b.ring(|r| r.receive_buffers = 3)),
        ("send_size", |b| b.ring(|r| r.send_size = 0)),
    ];
    for (setting, change) in wrong {
        match Bed::try_start(setup, change(setup.listener()), Plan::listen()).err() {
            Some(StartError::Config(error)) => assert_eq!(error.setting, setting, "{error}"),
            other => panic!("{setting}: {other:?}"),
        }
    }
});

/// A node with one client on a loop that stands still while the test fills its mailbox.
fn held(setup: &Setup, change: impl FnOnce(Builder) -> Builder) -> (Bed, Arc<Gate>, TcpStream) {
    let (gate, plan) = Gate::held_by_word(Plan::listen());
    let bed = Bed::start(setup, change(setup.listener()), plan);
    let mut client = foreign::connect(bed.address());
    client.write_all(b"hold").unwrap();
    eventually("the loop to be held", || gate.waiting.load(SeqCst));
    (bed, gate, client)
}

node_test!(a_full_mailbox_says_so_and_loses_no_command_it_took, |setup| {
    const COMMANDS: usize = 16;
    let (bed, gate, mut client) = held(setup, |b| b.limits(|l| l.mailbox_commands = COMMANDS));
    let (id, _) = bed.opened();
    let taken = (0u8..).take_while(|i| bed.handle.send(id, &[*i]).is_ok()).count();
    assert!((1..=COMMANDS).contains(&taken), "{taken} commands");
    assert_eq!(bed.handle.send(id, b"x"), Err(SendError::Busy));
    assert_eq!(bed.handle.pause(id), Err(CommandError::Busy));
    assert_eq!(bed.handle.close(id), Err(CommandError::Busy));
    let before = bed.handle.stats();
    assert!(before.commands_refused >= 3, "{before:?}");
    gate.open();
    let expected: Vec<u8> = (0..taken as u8).collect();
    assert_eq!(foreign::read_exactly(&mut client, taken), expected);
    bed.handle.send(id, b"room").unwrap();
    assert_eq!(foreign::read_exactly(&mut client, 4), b"room");
});

node_test!(a_mailbox_takes_no_more_than_mailbox_bytes, |setup| {
    const BYTES: usize = 5_000;
    let (bed, gate, mut client) = held(setup, |b| b.limits(|l| l.mailbox_bytes = BYTES));
    let (id, _) = bed.opened();
    let data = random(1_000, 1);
    let taken = (0..100).take_while(|_| bed.handle.send(id, &data).is_ok()).count();
    assert!((1..=BYTES / data.len()).contains(&taken), "{taken} sends");
    gate.open();
    assert_eq!(foreign::read_exactly(&mut client, taken * data.len()), data.repeat(taken));
    bed.handle.close(id).unwrap();
    assert_eq!(foreign::read_to_eof(&mut client), b"");
});

/// Descriptors of the node's process, and clients who want one each.
const DESCRIPTORS: u32 = 64;
const CLIENTS: usize = 200;

node_test!(with_too_few_descriptors_clients_wait_and_the_node_does_not_spin, |setup| {
    setup.in_two_processes(DESCRIPTORS, || node_short_of_descriptors(setup), knock);
});

fn node_short_of_descriptors(setup: &Setup) {
    let bed = Bed::echo(setup);
    say(&bed.address().to_string());
    let out = |e: &Event| matches!(e, Event::AcceptPaused { errno: Some(Errno(libc::EMFILE)), .. });
    let other = |e: &Event| matches!(e, Event::AcceptPaused { .. });
    answer_lines(|_| {
        let stats = bed.handle.stats();
        // More may come between two looks, so what must not be more is looked at first.
        let resumed = bed.count(resumed);
        let all = bed.count(other);
        let out = bed.count(out);
        assert!(out >= all, "paused for another reason than descriptors");
        format!("{} {} {out} {resumed}", stats.channels, stats.turns)
    });
}

/// Channels, turns, on_accept_paused and on_accept_resumed of the node in the other process.
fn look(node: &mut OtherProcess) -> [u64; 4] {
    let answer = node.ask("stats");
    let numbers: Vec<u64> = answer.split(' ').map(|n| n.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

fn knock(node: &mut OtherProcess) {
    let address: SocketAddr = node.hear().parse().unwrap();
    let mut inside: Vec<TcpStream> = (0..10).map(|_| foreign::connect(address)).collect();
    for client in &mut inside {
        foreign::echo_once(client, b"inside");
    }
    let waiting: Vec<TcpStream> = (0..CLIENTS - inside.len()).map(|_| foreign::connect(address)).collect();
    eventually("the node to run out of descriptors", || look(node)[2] > 0);

    // Stuck for a second: those inside are served, and otherwise the node sleeps.
    let [channels, before, ..] = look(node);
    assert!((10..u64::from(DESCRIPTORS)).contains(&channels), "{channels} channels");
    pass(Duration::from_secs(1));
    let [_, after, paused, resumed] = look(node);
    assert!(after - before < 400, "{} turns in a second", after - before);
    // Of two loops the first out of descriptors need not be the only one.
    assert!(paused - resumed <= 2, "paused {paused} times, resumed {resumed} times");
    for client in &mut inside {
        foreign::echo_once(client, b"still served");
    }

    // As others leave, all get in.
    drop(inside);
    let served: Vec<_> = waiting
        .into_iter()
        .map(|mut client| thread::spawn(move || foreign::echo_once(&mut client, b"at last")))
        .collect();
    for client in served {
        client.join().unwrap();
    }
    eventually("all to leave, and accepting to go on", || {
        let [channels, _, paused, resumed] = look(node);
        channels == 0 && paused == resumed
    });
    foreign::echo_all(foreign::connect(address), b"room again", 4);
}

node_test!(options_of_sockets_reach_listeners_and_dials, |setup| {
    // What can be seen from outside: the node's options with a wrong congestion control fail by name.
    let (listener, address) = foreign::listen();
    let builder = setup.listener().socket(|s| {
        s.nodelay = false;
        s.keepalive = Some(Duration::from_secs(5));
        s.user_timeout = None;
        s.backlog = 16;
        s.congestion = Some("reno".into());
    });
    let bed = Bed::start(setup, builder, Plan::echo());
    bed.dial(address);
    foreign::echo_all(foreign::accept(&listener), &random(100_000, 2), 1000);
    foreign::echo_all(foreign::connect(bed.address()), &random(100_000, 3), 1000);
    let builder = setup.listener().socket(|s| s.congestion = Some("no-such-control".into()));
    let Err(StartError::Config(error)) = Bed::try_start(setup, builder, Plan::echo()) else { panic!() };
    assert_eq!(error.setting, "congestion");
});

node_test!(a_node_that_polls_busily_and_is_pinned_works_the_same, not tiny, |setup| {
    let builder = setup.listener().busy_poll(Duration::from_micros(50)).pin(vec![0; setup.loops]);
    let bed = Bed::start(setup, builder, Plan::echo());
    foreign::echo_all(foreign::connect(bed.address()), &random(1 << 20, 4), 10_000);
    assert!(matches!(bed.addresses[0], Endpoint::Tcp(_)));
});
