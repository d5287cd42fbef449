//! Other threads: their commands reach every loop, in order, and wake it when it sleeps.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use bytes::Bytes;
use ringlink::{ChannelId, CommandError, Handle, SendError};

use crate::backpressure::Gate;
use crate::support::foreign::{self, assert_prefix, random};
use crate::support::{Bed, Call, Event, Plan, Setup, eventually, node_test};

/// Sends, waiting for room as long as it takes.
fn send(handle: &Handle, channel: ChannelId, data: &[u8]) {
    let refused = |result| match result {
        Ok(()) => false,
        Err(SendError::WouldBlock { .. }) => true,
        Err(error) => panic!("{error}"),
    };
    eventually("room in the outbox", || !refused(handle.send(channel, data)));
}

node_test!(a_send_reaches_the_channels_of_every_loop, |setup| {
    let bed = Bed::start(setup, setup.listener(), Plan::listen());
    let mut clients = bed.clients_on_every_loop();
    for (client, id) in &mut clients {
        bed.handle.send(*id, id.to_string().as_bytes()).unwrap();
        bed.handle.send_bytes(*id, Bytes::from_static(b"!")).unwrap();
        let expected = format!("{id}!");
        assert_eq!(foreign::read_exactly(client, expected.len()), expected.as_bytes());
    }
});

node_test!(a_callback_sends_to_a_channel_of_another_loop, |setup| {
    // `SLOT.GENERATION` is forwarded to that channel.
    let plan = Plan::listen().script(|cx, call, journal| {
        if let Call::Data(_, text) = *call {
            let to: ChannelId = std::str::from_utf8(text).unwrap().parse().unwrap();
            let (front, back) = text.split_at(1);
            let sent = cx.send_parts(to, &[front, back]);
            if let Err(error) = sent.and_then(|()| cx.send_bytes(to, Bytes::from_static(b"!"))) {
                journal.fault(format!("to {to}: {error}"));
            }
        }
    });
    let bed = Bed::start(setup, setup.listener(), plan);
    let mut clients = bed.clients_on_every_loop();
    for from in 0..clients.len() {
        for to in 0..clients.len() {
            let text = clients[to].1.to_string();
            clients[from].0.write_all(text.as_bytes()).unwrap();
            let expected = format!("{text}!");
            assert_eq!(foreign::read_exactly(&mut clients[to].0, expected.len()), expected.as_bytes());
        }
    }
});

node_test!(eight_threads_send_and_each_keeps_its_order, |setup| {
    const EACH: u32 = 2_000;
    let bed = Bed::start(setup, setup.listener(), Plan::listen());
    let mut client = foreign::connect(bed.address());
    let (id, _) = bed.opened();
    let senders: Vec<_> = (0..8u32)
        .map(|thread| {
            let handle = bed.handle.clone();
            thread::spawn(move || {
                for i in 0..EACH {
                    let mut record = thread.to_le_bytes().to_vec();
                    record.extend_from_slice(&i.to_le_bytes());
                    send(&handle, id, &record);
                }
            })
        })
        .collect();
    let mut next = [0; 8];
    for _ in 0..8 * EACH {
        let record = foreign::read_exactly(&mut client, 8);
        let thread = u32::from_le_bytes(record[..4].try_into().unwrap()) as usize;
        let i = u32::from_le_bytes(record[4..].try_into().unwrap());
        assert_eq!(i, next[thread], "of thread {thread}");
        next[thread] += 1;
    }
    senders.into_iter().for_each(|sender| sender.join().unwrap());
});

node_test!(a_sleeping_loop_is_woken_every_time, |setup| {
    // Each round begins when the last has come back, so nothing else wakes the loop: one lost wake-up ends it.
    let bed = Bed::start(setup, setup.listener(), Plan::listen());
    let clients: Vec<(TcpStream, ChannelId)> = (0..4)
        .map(|_| {
            let client = foreign::connect(bed.address());
            let id = bed.opened_by(client.local_addr().unwrap());
            (client, id)
        })
        .collect();
    thread::scope(|scope| {
        for (mut client, id) in clients {
            let handle = &bed.handle;
            scope.spawn(move || {
                for round in 0..2_000u32 {
                    send(handle, id, &round.to_le_bytes());
                    assert_eq!(foreign::read_exactly(&mut client, 4), round.to_le_bytes());
                }
            });
        }
    });
});

node_test!(a_broadcast_from_another_thread_reaches_every_loop, |setup| {
    let bed = Bed::start(setup, setup.listener(), Plan::listen());
    let mut clients = bed.clients_on_every_loop();
    for round in 0..50u8 {
        bed.handle.broadcast(&Bytes::copy_from_slice(&[round; 20])).unwrap();
    }
    for (client, _) in &mut clients {
        for round in 0..50u8 {
            assert_eq!(foreign::read_exactly(client, 20), [round; 20]);
        }
    }
});

node_test!(eight_threads_dial_at_once, |setup| {
    let (listener, address) = foreign::listen();
    let bed = Bed::start(setup, setup.dialer(), Plan::echo());
    let ids: Vec<ChannelId> = thread::scope(|scope| {
        let dialers: Vec<_> = (0..8)
            .map(|_| {
                let bed_handle = &bed.handle;
                scope.spawn(move || (0..10).map(|_| bed_handle.dial(address).unwrap()).collect::<Vec<_>>())
            })
            .collect();
        dialers.into_iter().flat_map(|dialer| dialer.join().unwrap()).collect()
    });
    for &id in &ids {
        bed.journal.owe(id);
    }
    let mut distinct = ids.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 80);
    for _ in 0..80 {
        foreign::echo_all(foreign::accept(&listener), b"hello", 2);
    }
    for id in ids {
        assert!(bed.closed(id).opened);
    }
});

node_test!(eight_threads_close_and_abort_while_data_flows, |setup| {
    const CHANNELS: usize = 24;
    // Others pause and resume too, so the journal's own rule about pauses does not hold.
    let plan = Plan::listen().without_data_events().script(|cx, call, _| {
        if let Call::Data(channel, data) = *call {
            let _full = cx.send(channel, data);
        }
    });
    let bed = Bed::start(setup, setup.listener(), plan);
    let data = random(100_000, 1);
    let clients: Vec<_> = (0..CHANNELS)
        .map(|_| {
            let mut client = foreign::connect(bed.address());
            let id = bed.opened_by(client.local_addr().unwrap());
            let writer = foreign::write_forever(&client, data.clone());
            let reader = thread::spawn(move || {
                foreign::read_to_end(&mut client);
                drop(client.shutdown(std::net::Shutdown::Both));
            });
            (id, writer, reader)
        })
        .collect();
    eventually("the load", || bed.handle.stats().bytes_in > 100_000);
    let ids: Vec<ChannelId> = clients.iter().map(|client| client.0).collect();
    thread::scope(|scope| {
        for thread in 0..8 {
            let (handle, ids) = (&bed.handle, &ids);
            scope.spawn(move || meddle(handle, ids, thread));
        }
    });
    for (id, writer, reader) in clients {
        bed.closed(id);
        writer.join().unwrap();
        reader.join().unwrap();
    }
});

/// Does everything to everybody, in an order of its own, and in the end closes or aborts them all.
fn meddle(handle: &Handle, ids: &[ChannelId], thread: usize) {
    for (i, choice) in random(300, thread as u64).into_iter().enumerate() {
        let id = ids[(i * 7 + thread) % ids.len()];
        // What has closed meanwhile is refused; which, nobody knows.
        let _maybe = match choice % 6 {
            0 => handle.pause(id),
            1 | 2 => handle.resume(id),
            3 => handle.broadcast(&Bytes::from_static(b"noise")),
            4 if choice > 240 => handle.shutdown_write(id),
            _ => {
                let _maybe = handle.send(id, b"noise");
                Ok(())
            }
        };
    }
    for (i, &id) in ids.iter().enumerate() {
        let _maybe = if (i + thread).is_multiple_of(2) { handle.close(id) } else { handle.abort(id) };
    }
}

node_test!(shutting_down_a_half_from_another_thread_keeps_what_is_queued, |setup| {
    let bed = Bed::start(setup, setup.listener(), Plan::listen());
    let mut client = foreign::connect(bed.address());
    let (id, _) = bed.opened();
    let data = random(setup.outbox().2, 2);
    bed.handle.send(id, &data).unwrap();
    bed.handle.shutdown_write(id).unwrap();
    foreign::assert_same(&foreign::read_to_eof(&mut client), &data);
    client.write_all(b"still open").unwrap();
    assert_eq!(bed.received(id, 10), b"still open");
});

node_test!(every_loop_is_notified_in_order_and_after_what_was_asked_before, |setup| {
    let plan = Plan::listen().script(|cx, call, journal| {
        if let Call::Notify(round) = *call
            && cx.channels().len() as u64 <= round
            && cx.loop_index() == 0
        {
            journal.fault(format!("round {round} came before its dial"));
        }
    });
    let (listener, address) = foreign::listen();
    let bed = Bed::start(setup, setup.dialer(), plan);
    let mut next = vec![0; setup.loops];
    for round in 0..20 {
        // One for each loop, in turn.
        for _ in 0..setup.loops {
            bed.dial(address);
        }
        bed.handle.notify(round).unwrap();
        for _ in 0..setup.loops {
            let (token, loop_index) = bed.wait("on_notify", |e| match e {
                Event::Notified { token, loop_index } => Some((*token, *loop_index)),
                _ => None,
            });
            assert_eq!((token, next[loop_index]), (round, round));
            next[loop_index] += 1;
        }
    }
    drop(listener);
    bed.shut_down();
    assert_eq!(bed.handle.notify(0), Err(CommandError::Stopped));
});

node_test!(nobody_sends_after_shutting_down_a_half, |setup| {
    let bed = Bed::start(setup, setup.listener(), Plan::listen());
    let client = foreign::connect(bed.address());
    let (id, _) = bed.opened();
    bed.handle.shutdown_write(id).unwrap();
    eventually("sends to be refused", || bed.handle.send(id, b"late") == Err(SendError::Closed));
    drop(client);
});

node_test!(a_thread_that_waits_for_on_drained_after_each_refusal_gets_everything_sent, |setup| {
    let bed = Bed::start(setup, setup.listener(), Plan::listen());
    let mut client = foreign::connect(bed.address());
    let (id, _) = bed.opened();
    // As long as an outbox: each needs an empty one.
    let piece = random(setup.outbox().2, 5);
    let too_big = SendError::TooBig { size: piece.len() + 1, max: piece.len() };
    assert_eq!(bed.handle.send(id, &[&piece[..], b"x"].concat()), Err(too_big));
    let (rounds, expected) = (20, piece.clone());
    let reader = thread::spawn(move || {
        for _ in 0..rounds {
            foreign::assert_same(&foreign::read_exactly(&mut client, expected.len()), &expected);
        }
    });
    let mut refused = 0;
    for _ in 0..rounds {
        while let Err(error) = bed.handle.send(id, &piece) {
            match error {
                SendError::WouldBlock { .. } => {
                    refused += 1;
                    bed.drained(id);
                }
                SendError::Busy => thread::yield_now(),
                other => panic!("{other}"),
            }
        }
    }
    reader.join().unwrap();
    eventually("nothing to be queued", || bed.handle.queued(id) == 0);
    let stats = bed.handle.stats();
    assert_eq!((stats.posts_refused, stats.sends_refused), (refused, 0));
});

node_test!(a_command_to_a_channel_of_another_loop_is_never_lost, |setup| {
    const COMMANDS: usize = 8;
    const EACH: u32 = 500;
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    // `hold` holds a loop; `SLOT.GENERATION` asks more of that channel than a mailbox takes.
    let plan = Plan::listen().script(move |cx, call, _| match *call {
        Call::Data(_, b"hold") => held.pass(),
        Call::Data(_, text) => {
            if let Ok(other) = std::str::from_utf8(text).unwrap().parse() {
                (0..COMMANDS).for_each(|_| cx.pause(other));
                cx.resume(other);
            }
        }
        _ => {}
    });
    let builder = setup.listener().channels(0, EACH * setup.loops as u32);
    let bed = Bed::start(setup, builder.limits(|l| l.mailbox_commands = COMMANDS), plan);
    let mut clients = bed.clients_on_every_loop();
    if setup.loops == 1 {
        return;
    }
    let loop_of = |id: ChannelId| id.slot() / EACH;
    let at = clients.iter().position(|(_, id)| loop_of(*id) != loop_of(clients[0].1)).unwrap();
    let (mut other, id) = clients.swap_remove(at);
    other.write_all(b"hold").unwrap();
    eventually("the loop to be held", || gate.waiting.load(SeqCst));
    clients[0].0.write_all(id.to_string().as_bytes()).unwrap();
    bed.received(clients[0].1, id.to_string().len());
    gate.open();
    bed.received(id, 4);
    other.write_all(b"it reads on").unwrap();
    assert_eq!(bed.received(id, 11), b"it reads on");
});

node_test!(asking_a_loop_from_its_own_thread_is_refused_and_not_a_deadlock, |setup| {
    static ASKED: AtomicBool = AtomicBool::new(false);
    let plan = Plan::echo().script(|cx, call, journal| {
        if let Call::Data(channel, _) = *call {
            let answer = cx.handle().channels().err();
            if answer != Some(CommandError::OnLoopThread) {
                journal.fault(format!("{answer:?}"));
            }
            // The others work, as from any thread.
            let handle = cx.handle().clone();
            handle.send(channel, b" and by handle").unwrap();
            if handle.stats().channels == 0 || cx.stats().channels == 0 {
                journal.fault("there is this channel at least".into());
            }
            ASKED.store(true, SeqCst);
        }
    });
    let bed = Bed::start(setup, setup.listener(), plan);
    let mut client = foreign::connect(bed.address());
    client.write_all(b"echo").unwrap();
    assert_eq!(foreign::read_exactly(&mut client, 18), b"echo and by handle");
    assert!(ASKED.load(SeqCst));
});

node_test!(everybody_asks_for_everything_while_data_flows, |setup| {
    let bed = Bed::echo(setup);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    let channels = bed.handle.channels().unwrap();
                    assert!(channels.len() <= 4, "{channels:?}");
                    assert_eq!(bed.handle.loop_stats().len(), setup.loops);
                }
            });
        }
        let clients: Vec<_> = (0..4)
            .map(|seed| {
                let client = foreign::connect(bed.address());
                let data = random(setup.bulk(2 << 20), seed);
                scope.spawn(move || foreign::echo_all(client, &data, 10_000))
            })
            .collect();
        let results: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        done.store(true, SeqCst);
        results.into_iter().for_each(|result| result.unwrap());
    });
});

node_test!(closing_from_another_thread_in_the_middle_of_an_echo_cuts_no_byte_out, |setup| {
    let bed = Bed::echo(setup);
    let data = random(1 << 20, 3);
    for round in 0..10 {
        let mut client = foreign::connect(bed.address());
        let id = bed.opened_by(client.local_addr().unwrap());
        let writer = foreign::write_forever(&client, data.clone());
        let mut got = foreign::read_exactly(&mut client, 1 + round * 3_001);
        bed.handle.close(id).unwrap();
        got.extend(foreign::read_to_eof(&mut client));
        drop(client.shutdown(std::net::Shutdown::Both));
        writer.join().unwrap();
        let expected: Vec<u8> = data.iter().copied().cycle().take(got.len()).collect();
        assert_prefix(&got, &expected);
        let report = bed.closed(id);
        assert_eq!((report.bytes_out, report.bytes_unsent), (got.len() as u64, 0), "{report:?}");
    }
});
