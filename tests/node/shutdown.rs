//! The end of a node: asked for from outside, from a callback, by drop, in peace and under load.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{self, Sender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use ringlink::{CloseReason, ClosedBy, CommandError, DialError, NodeError, StartError};

use crate::support::foreign::{self, Blackhole, assert_same, random};
use crate::support::{Bed, Call, Event, PATIENCE, PLANNED, Plan, Setup, eventually, node_test, pass, within};

node_test!(an_idle_node_ends, |setup| {
    let bed = Bed::echo(setup);
    bed.shut_down();
    assert!(TcpStream::connect(bed.address()).is_err(), "somebody still listens");
    let stats = bed.handle.stats();
    assert_eq!((stats.operations_in_flight, stats.buffers_free), (0, 0), "{stats:?}");
});

node_test!(shutdown_under_load_sends_everything_that_was_accepted, |setup| {
    const CHANNELS: usize = 16;
    let bed = Bed::echo(setup);
    let data = random(1 << 20, 1);
    let clients: Vec<_> = (0..CHANNELS)
        .map(|_| {
            let client = foreign::connect(bed.address());
            let id = bed.opened_by(client.local_addr().unwrap());
            let writer = foreign::write_forever(&client, data.clone());
            let mut reader = client.try_clone().unwrap();
            let reader = thread::spawn(move || {
                let got = foreign::read_to_eof(&mut reader);
                // Both halves: this ends the writer too.
                drop(reader.shutdown(Shutdown::Both));
                got
            });
            (id, writer, reader)
        })
        .collect();
    eventually("the load", || bed.handle.stats().bytes_out > (2 << 20) / if setup.is_tiny { 16 } else { 1 });
    bed.handle.shutdown(PATIENCE);
    for (id, writer, reader) in clients {
        let got = reader.join().unwrap();
        writer.join().unwrap();
        let expected: Vec<u8> = data.iter().copied().cycle().take(got.len()).collect();
        assert_same(&got, &expected);
        let report = bed.closed(id);
        assert_eq!(
            (report.reason, report.by, report.bytes_unsent),
            (CloseReason::Shutdown, ClosedBy::Us, 0),
            "{report:?}"
        );
        assert_eq!(got.len() as u64, bed.journal.accepted_on(id), "{report:?}");
    }
    bed.join().unwrap();
});

node_test!(shutdown_without_grace_does_not_wait_for_a_peer, |setup| {
    let plan = Plan::listen().script(|cx, call, journal| {
        let (Call::Open(channel, _) | Call::Drained(channel)) = *call else { return };
        while cx.send(channel, &[1; 500]).is_ok() {
            journal.accepted(channel, 500);
        }
    });
    let bed = Bed::start(setup, setup.listener().socket(|s| s.send_buffer = Some(16 << 10)), plan);
    let lazy: Vec<TcpStream> =
        (0..8).map(|_| foreign::connect_with_buffers(bed.address(), 4 << 10)).collect();
    let ids: Vec<_> = lazy.iter().map(|_| bed.opened().0).collect();
    bed.settle();
    bed.handle.shutdown(Duration::ZERO);
    bed.join().unwrap();
    for id in ids {
        let report = bed.closed(id);
        assert_eq!((report.reason, report.by), (CloseReason::Shutdown, ClosedBy::Us), "{report:?}");
        assert_eq!(report.bytes_out + report.bytes_unsent, bed.journal.accepted_on(id), "{report:?}");
    }
});

node_test!(a_grace_that_runs_out_ends_the_node_all_the_same, |setup| {
    let plan = Plan::listen().script(|cx, call, _| {
        let (Call::Open(channel, _) | Call::Drained(channel)) = *call else { return };
        while cx.send(channel, &[1; 500]).is_ok() {}
    });
    let bed = Bed::start(setup, setup.listener(), plan);
    let lazy = foreign::connect_with_buffers(bed.address(), 4 << 10);
    bed.opened();
    bed.settle();
    bed.handle.shutdown(Duration::from_millis(200));
    bed.join().unwrap();
    drop(lazy);
});

node_test!(what_is_queued_has_the_grace_however_short_a_close_may_take, |setup| {
    let bed = Bed::start(
        setup,
        setup
            .listener()
            .socket(|s| s.send_buffer = Some(16 << 10))
            .limits(|l| l.close_timeout = Duration::from_millis(1)),
        Plan::listen(),
    );
    let mut slow = foreign::connect_with_buffers(bed.address(), 4 << 10);
    let (id, _) = bed.opened();
    let data = random(setup.outbox().2, 7);
    bed.handle.send(id, &data).unwrap();
    bed.handle.shutdown(PATIENCE);
    pass(Duration::from_millis(50));
    assert_same(&foreign::read_to_eof(&mut slow), &data);
    drop(slow);
    bed.join().unwrap();
});

node_test!(a_second_shutdown_may_only_be_sooner, |setup| {
    let plan = Plan::listen().script(|cx, call, _| {
        let (Call::Open(channel, _) | Call::Drained(channel)) = *call else { return };
        while cx.send(channel, &[1; 500]).is_ok() {}
    });
    let bed = Bed::start(setup, setup.listener(), plan);
    let lazy = foreign::connect_with_buffers(bed.address(), 4 << 10);
    bed.opened();
    bed.handle.shutdown(Duration::from_secs(3600));
    bed.handle.shutdown(Duration::ZERO);
    bed.handle.shutdown(Duration::from_secs(3600));
    bed.join().unwrap();
    drop(lazy);
});

node_test!(shutdown_from_any_callback_ends_the_node, |setup| {
    for place in 0..6 {
        let plan = Plan::echo().script(move |cx, call, _| {
            let here = match call {
                Call::Start => {
                    cx.set_timer(Duration::from_millis(1), 0);
                    0
                }
                Call::Open(..) => 1,
                Call::Data(..) => 2,
                Call::Eof(_) => 3,
                Call::Close(..) => 4,
                Call::Timer(..) => 5,
                _ => return,
            };
            if here == place {
                cx.shutdown(PATIENCE);
                cx.shutdown(PATIENCE);
            }
        });
        let bed = Bed::start(setup, setup.listener(), plan);
        // Once the node is going it may refuse, reset or serve this one.
        if let Ok(mut client) = TcpStream::connect(bed.address()) {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            let _gone = client.write_all(b"data");
            let _gone = client.shutdown(Shutdown::Write);
            foreign::read_to_end(&mut client);
        }
        bed.join().unwrap();
    }
});

node_test!(commands_while_shutting_down_are_harmless, |setup| {
    let (_listener, address) = foreign::listen();
    let plan = Plan::echo().script(move |cx, call, journal| {
        if let Call::Close(channel, _) | Call::Eof(channel) = *call {
            let _refused = cx.send(channel, b"too late");
            cx.close(channel);
            cx.abort(channel);
            cx.broadcast(&Bytes::from_static(b"bye"));
            cx.set_timer(Duration::ZERO, 1);
            match cx.dial(address) {
                Ok(channel) => journal.owe(channel),
                Err(DialError::Stopped) => {}
                Err(error) => journal.fault(error.to_string()),
            }
        } else if let Call::Stop = call {
            cx.set_timer(Duration::ZERO, 1);
            cx.shutdown(PATIENCE);
            if let Ok(channel) = cx.dial(address) {
                journal.fault(format!("{channel} was dialed in on_stop"));
            }
        }
    });
    let bed = Bed::start(setup, setup.listener(), plan);
    let clients: Vec<TcpStream> = (0..8).map(|_| foreign::connect(bed.address())).collect();
    for _ in &clients {
        bed.opened();
    }
    bed.handle.shutdown(PATIENCE);
    drop(clients);
    bed.join().unwrap();
});

node_test!(dials_end_with_the_node, |setup| {
    let blackhole = Blackhole::new();
    let bed = Bed::start(setup, setup.dialer(), Plan::listen());
    let dials: Vec<_> = (0..6).map(|_| bed.dial(blackhole.address)).collect();
    bed.settle();
    bed.handle.shutdown(Duration::from_millis(100));
    for id in dials {
        let report = bed.closed(id);
        assert_eq!((report.reason, report.opened), (CloseReason::Shutdown, false), "{report:?}");
    }
    bed.join().unwrap();
});

node_test!(dropping_the_node_ends_it, |setup| {
    let bed = Bed::echo(setup);
    let mut client = foreign::connect(bed.address());
    foreign::echo_once(&mut client, b"hello");
    let (id, _) = bed.opened();
    bed.drop_node();
    assert_eq!(bed.closed(id).reason, CloseReason::Shutdown);
    foreign::read_to_end(&mut client);
    for _ in 0..setup.loops {
        bed.wait("on_stop", |e| matches!(e, Event::Stopped).then_some(()));
    }
    assert!(TcpStream::connect(bed.address()).is_err(), "somebody still listens");
});

node_test!(a_handle_outlives_its_node, |setup| {
    let bed = Bed::echo(setup);
    let mut client = foreign::connect(bed.address());
    foreign::echo_once(&mut client, b"hello");
    let (id, _) = bed.opened();
    let handle = bed.handle.clone();
    bed.handle.shutdown(Duration::ZERO);
    bed.join().unwrap();
    assert!(handle.send(id, b"x").is_err());
    assert!(handle.send_bytes(id, Bytes::from_static(b"x")).is_err());
    assert_eq!(handle.dial(bed.address()), Err(DialError::Stopped));
    assert_eq!(handle.channels().unwrap_err(), CommandError::Stopped);
    for result in [
        handle.close(id),
        handle.abort(id),
        handle.pause(id),
        handle.resume(id),
        handle.shutdown_write(id),
        handle.broadcast(&Bytes::from_static(b"x")),
    ] {
        assert!(matches!(result, Err(CommandError::Stopped | CommandError::Closed)), "{result:?}");
    }
    handle.shutdown(PATIENCE);
    assert_eq!((handle.stats().closed, handle.loop_stats().len()), (1, setup.loops));
});

node_test!(a_node_leaves_no_descriptor_and_no_thread, |setup| {
    setup.in_own_process(|| {
        let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
        // The first one may open what the process keeps.
        for round in 0..5 {
            let before = (crate::support::descriptors(), threads());
            let bed = Bed::echo(setup);
            let mut clients: Vec<TcpStream> = (0..20).map(|_| foreign::connect(bed.address())).collect();
            foreign::echo_once(&mut clients[0], b"hello");
            match round % 2 {
                0 => bed.shut_down(),
                _ => bed.drop_node(),
            }
            drop(clients);
            drop(bed);
            if round > 0 {
                // A thread that was joined may be listed for a moment more.
                eventually("the threads to go", || threads() <= before.1);
                assert_eq!(crate::support::descriptors(), before.0, "round {round}");
            }
        }
    });
});

node_test!(a_panic_in_on_stop_is_what_join_tells, |setup| {
    let plan = Plan::echo().script(|cx, call, _| {
        if let (Call::Stop, 0) = (call, cx.loop_index()) {
            panic!("{PLANNED}on_stop");
        }
    });
    let bed = Bed::start(setup, setup.listener(), plan);
    bed.handle.shutdown(PATIENCE);
    match bed.join() {
        Err(NodeError::Panicked { loop_index: 0, message }) => {
            assert!(message.contains("on_stop"), "{message}");
        }
        other => panic!("{other:?}"),
    }
});

node_test!(a_handler_that_cannot_be_made_is_a_start_error, |setup| {
    /// Asks all loops again and again, on a thread of its own.
    struct Curious(Sender<JoinHandle<()>>);
    impl ringlink::Handler for Curious {
        fn on_start(&mut self, cx: &mut ringlink::Context<'_>) {
            let handle = cx.handle().clone();
            let asking = thread::spawn(move || while handle.channels() != Err(CommandError::Stopped) {});
            self.0.send(asking).unwrap();
        }
    }
    let last = setup.loops - 1;
    crate::support::hide_planned_panics();
    let (to_us, asking) = mpsc::channel();
    let error = setup
        .listener()
        .start(move |index| {
            assert!(index != last, "{PLANNED}no handler for loop {index}");
            Curious(to_us.clone())
        })
        .err();
    assert!(matches!(error, Some(StartError::Handler(index)) if index == last), "{error:?}");
    // Every loop has ended, and nobody waits for the one that was none.
    asking.try_iter().for_each(|asking| within("an answer", move || asking.join()).unwrap());
    assert!(matches!(asking.try_recv(), Err(TryRecvError::Disconnected)), "a loop's thread lives on");
});

node_test!(a_loop_that_panics_ends_the_node_and_nobody_waits_for_it, |setup| {
    struct Bad;
    impl ringlink::Handler for Bad {
        fn on_start(&mut self, cx: &mut ringlink::Context<'_>) {
            assert!(cx.loop_index() != 0, "{PLANNED}on_start");
        }
    }
    crate::support::hide_planned_panics();
    let node = setup.listener().start(|_| Bad).unwrap();
    let handle = node.handle();
    match node.join() {
        Err(NodeError::Panicked { loop_index: 0, message }) => {
            assert!(message.contains("on_start"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(handle.channels(), Err(CommandError::Stopped));
    assert_eq!(handle.dial(foreign::nobody()), Err(DialError::Stopped));
});
