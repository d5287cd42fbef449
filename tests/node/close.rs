//! Every channel ends once, with one typed reason, whoever ends it and in whatever order.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use ringlink::{ChannelId, CloseReason, CloseReport, ClosedBy, CommandError, Errno, SendError};

use crate::backpressure::Gate;
use crate::support::foreign::{self, assert_prefix, assert_same, random};
use crate::support::{Bed, Call, Event, PLANNED, Plan, Setup, eventually, node_test};

/// Closed on the peer's wish or on ours after it: both are true of a channel whose peer ended first.
#[track_caller]
fn assert_orderly(report: &CloseReport) {
    assert!(matches!(report.reason, CloseReason::Normal | CloseReason::PeerClosed), "{report:?}");
    assert_eq!((report.errno, report.bytes_unsent), (None, 0), "{report:?}");
}

node_test!(a_reset_by_the_peer_is_one_close_and_touches_nobody_else, |setup| {
    let bed = Bed::echo(setup);
    let mut bystander = foreign::connect(bed.address());
    bed.opened();
    let mut client = foreign::connect(bed.address());
    let (id, _) = bed.opened();
    foreign::echo_once(&mut client, b"hello");
    foreign::reset(client);
    let report = bed.closed(id);
    assert_eq!((report.reason, report.by), (CloseReason::Reset, ClosedBy::Peer), "{report:?}");
    assert_eq!(report.errno, Some(Errno(libc::ECONNRESET)));
    assert_eq!((report.bytes_out, report.bytes_in, report.opened), (5, 5, true), "{report:?}");
    foreign::echo_once(&mut bystander, b"still here");
});

node_test!(a_reset_while_bytes_wait_says_how_many, |setup| {
    let plan = Plan::listen().script(|cx, call, journal| {
        let (Call::Open(channel, _) | Call::Drained(channel)) = *call else { return };
        while cx.send(channel, &[7; 500]).is_ok() {
            journal.accepted(channel, 500);
        }
    });
    let bed = Bed::start(setup, setup.listener().socket(|s| s.send_buffer = Some(16 << 10)), plan);
    let client = foreign::connect_with_buffers(bed.address(), 4 << 10);
    let (id, _) = bed.opened();
    bed.settle();
    assert!(bed.info(id).unwrap().bytes_queued > 0);
    foreign::reset(client);
    let report = bed.closed(id);
    assert_eq!(report.reason, CloseReason::Reset, "{report:?}");
    assert!(report.bytes_unsent > 0, "{report:?}");
    assert_eq!(report.bytes_out + report.bytes_unsent, bed.journal.accepted_on(id), "{report:?}");
});

node_test!(a_reset_before_the_accept_leaves_nothing, |setup| {
    let (gate, plan) = Gate::held_by_word(Plan::echo());
    let bed = Bed::start(setup, setup.listener(), plan);
    let mut client = foreign::connect(bed.address());
    client.write_all(b"hold").unwrap();
    eventually("the loop to be held", || gate.waiting.load(SeqCst));
    for _ in 0..50 {
        foreign::reset(foreign::connect(bed.address()));
    }
    gate.open();
    assert_eq!(foreign::read_exactly(&mut client, 4), b"hold");
    foreign::echo_all(foreign::connect(bed.address()), b"and goes on", 3);
});

node_test!(an_end_of_file_in_the_middle_is_told_after_the_data, |setup| {
    let bed = Bed::start(setup, setup.listener(), Plan::listen());
    let mut client = foreign::connect(bed.address());
    let (id, _) = bed.opened();
    client.write_all(b"half a sen").unwrap();
    drop(client);
    assert_eq!(bed.received(id, 10), b"half a sen");
    bed.eof(id);
    let report = bed.closed(id);
    assert_orderly(&report);
    assert_eq!(report.bytes_in, 10);
});

node_test!(close_sends_what_is_queued_first, |setup| {
    let data = random(setup.outbox().2, 1);
    let sent = data.clone();
    let plan = Plan::listen().script(move |cx, call, journal| {
        if let Call::Open(channel, _) = *call {
            cx.send(channel, &sent).unwrap();
            cx.close(channel);
            journal.silence(channel);
        }
    });
    let bed = Bed::start(setup, setup.listener(), plan);
    let mut client = foreign::connect(bed.address());
    let (id, _) = bed.opened();
    assert_same(&foreign::read_to_eof(&mut client), &data);
    drop(client);
    let report = bed.closed(id);
    assert_eq!((report.reason, report.by), (CloseReason::Normal, ClosedBy::Us), "{report:?}");
    assert_eq!((report.bytes_out, report.bytes_unsent), (data.len() as u64, 0), "{report:?}");
});

node_test!(close_loses_nothing_while_the_peer_still_sends, |setup| {
    // Closing a socket with unread bytes resets the connection, and the peer loses what it has not read.
    let data = random(setup.outbox().2, 2);
    let sent = data.clone();
    let plan = Plan::listen().without_data_events().script(move |cx, call, journal| {
        if let Call::Data(channel, _) = *call {
            cx.send(channel, &sent).unwrap();
            cx.close(channel);
            journal.silence(channel);
        }
    });
    let bed = Bed::start(setup, setup.listener(), plan);
    for seed in 0..5 {
        let mut client = foreign::connect(bed.address());
        let writer = foreign::write_forever(&client, random(100_000, seed));
        assert_same(&foreign::read_to_eof(&mut client), &data);
        client.shutdown(std::net::Shutdown::Both).unwrap();
        writer.join().unwrap();
    }
});

node_test!(close_gives_up_after_close_timeout, |setup| {
    let builder = setup.listener().socket(|s| s.send_buffer = Some(4 << 10)).limits(|l| {
        l.close_timeout = Duration::from_millis(200);
        l.outbox_max = 1 << 20;
    });
    let plan = Plan::listen().script(|cx, call, journal| {
        if let Call::Open(channel, _) = *call {
            cx.send(channel, &[1; 1 << 20]).unwrap();
            cx.close(channel);
            journal.silence(channel);
        }
    });
    let bed = Bed::start(setup, builder, plan);
    let lazy = foreign::connect_with_buffers(bed.address(), 4 << 10);
    let (id, _) = bed.opened();
    let report = bed.closed(id);
    assert_eq!((report.reason, report.by), (CloseReason::CloseTimeout, ClosedBy::Us), "{report:?}");
    assert!(report.bytes_unsent > 0, "{report:?}");
    assert_eq!(report.bytes_out + report.bytes_unsent, 1 << 20, "{report:?}");
    drop(lazy);
});

node_test!(a_peer_that_never_closes_is_not_waited_for_longer_than_linger_timeout, |setup| {
    let builder = setup.listener().limits(|l| l.linger_timeout = Duration::from_millis(100));
    let bed = Bed::start(setup, builder, Plan::listen());
    let mut client = foreign::connect(bed.address());
    let (id, _) = bed.opened();
    bed.handle.close(id).unwrap();
    assert_eq!(bed.closed(id).reason, CloseReason::Normal);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
});

node_test!(abort_resets_and_drops_what_is_queued, |setup| {
    let plan = Plan::listen().script(|cx, call, journal| {
        if let Call::Data(channel, _) = *call {
            cx.send(channel, b"never sent").unwrap();
            cx.abort(channel);
            journal.silence(channel);
        }
    });
    let bed = Bed::start(setup, setup.listener(), plan);
    let mut client = foreign::connect(bed.address());
    let (id, _) = bed.opened();
    client.write_all(b"go").unwrap();
    assert_eq!(foreign::read_to_end(&mut client), (Vec::new(), false));
    let report = bed.closed(id);
    assert_eq!((report.reason, report.by), (CloseReason::Aborted, ClosedBy::Us), "{report:?}");
    assert_eq!((report.bytes_out, report.bytes_unsent), (0, 10), "{report:?}");
});

node_test!(closing_again_and_sending_after_do_nothing, |setup| {
    let plan = Plan::listen().script(|cx, call, journal| {
        let Call::Data(channel, command) = *call else { return };
        match command {
            b"close" => cx.close(channel),
            _ => cx.abort(channel),
        }
        journal.silence(channel);
        for _ in 0..2 {
            if cx.send(channel, b"x") != Err(SendError::Closed) {
                journal.fault("sent after close".into());
            }
            cx.pause(channel);
            cx.resume(channel);
            cx.shutdown_write(channel);
            cx.close(channel);
        }
    });
    let bed = Bed::start(setup, setup.listener(), plan);
    for command in ["close", "abort"] {
        let mut client = foreign::connect(bed.address());
        let (id, _) = bed.opened();
        client.write_all(command.as_bytes()).unwrap();
        let (got, fin) = foreign::read_to_end(&mut client);
        assert_eq!((got, fin), (Vec::new(), command == "close"));
        drop(client);
        let reason = bed.closed(id).reason;
        assert_eq!(reason, if command == "close" { CloseReason::Normal } else { CloseReason::Aborted });
    }
});

node_test!(abort_overtakes_a_close_that_hangs, |setup| {
    let builder =
        setup.listener().socket(|s| s.send_buffer = Some(4 << 10)).limits(|l| l.outbox_max = 1 << 20);
    let bed = Bed::start(setup, builder, Plan::listen());
    let lazy = foreign::connect_with_buffers(bed.address(), 4 << 10);
    let (id, _) = bed.opened();
    bed.handle.send(id, &[1; 1 << 20]).unwrap();
    bed.handle.close(id).unwrap();
    eventually("it to be closing", || {
        bed.info(id).is_some_and(|info| info.state == ringlink::ChannelState::Closing)
    });
    bed.handle.abort(id).unwrap();
    assert!(bed.closed(id).bytes_unsent > 0);
    drop(lazy);
});

node_test!(a_stale_id_reaches_nobody_though_its_slot_is_in_use_again, |setup| {
    let plan = Plan::echo().script(|cx, call, journal| {
        // The same from a callback: `stale SLOT.GENERATION` names the id to try.
        let Call::Data(_, text) = *call else { return };
        let Some(stale) = text.strip_prefix(b"stale ") else { return };
        let stale: ChannelId = std::str::from_utf8(stale).unwrap().parse().unwrap();
        if cx.send(stale, b"for nobody") != Err(SendError::Closed) {
            journal.fault("sent to a stale id".into());
        }
        cx.pause(stale);
        cx.shutdown_write(stale);
        cx.close(stale);
        cx.abort(stale);
        if cx.channel(stale).is_some() || cx.queued(stale) != 0 || cx.is_backed_up(stale) {
            journal.fault("a stale id is known".into());
        }
    });
    let loops = setup.loops as u32;
    let bed = Bed::start(setup, setup.listener().channels(70_000, loops), plan);
    let first = foreign::connect(bed.address());
    let (stale, _) = bed.opened();
    drop(first);
    bed.closed(stale);
    // With several loops the kernel chooses one; the others' slots are tried until it is the same.
    let (mut client, id) = loop {
        let client = foreign::connect(bed.address());
        let (id, _) = bed.opened();
        if id.slot() == stale.slot() {
            break (client, id);
        }
        drop(client);
        bed.closed(id);
    };
    assert_ne!(id, stale);
    assert!((70_000..70_000 + loops).contains(&id.slot()), "{id}");

    // A handle cannot always know; nobody may notice.
    let sent = bed.handle.send(stale, b"for nobody");
    assert!(matches!(sent, Ok(()) | Err(SendError::Closed)), "{sent:?}");
    for command in [
        bed.handle.pause(stale),
        bed.handle.shutdown_write(stale),
        bed.handle.close(stale),
        bed.handle.abort(stale),
    ] {
        assert!(matches!(command, Ok(()) | Err(CommandError::Closed)), "{command:?}");
    }
    foreign::echo_once(&mut client, b"alive");
    foreign::echo_once(&mut client, format!("stale {stale}").as_bytes());
    foreign::echo_once(&mut client, b"and well");
    assert!(!bed.info(id).unwrap().paused);
});

node_test!(an_id_that_never_was_reaches_nobody, |setup| {
    let bed = Bed::start(setup, setup.listener().channels(10, 8), Plan::echo());
    for never in ["9.1", "10.1", "17.5", "18.1", "4294967295.16777215"] {
        let never: ChannelId = never.parse().unwrap();
        assert!(matches!(bed.handle.send(never, b"x"), Ok(()) | Err(SendError::Closed)));
        for result in [bed.handle.close(never), bed.handle.abort(never), bed.handle.resume(never)] {
            assert!(matches!(result, Ok(()) | Err(CommandError::Closed)), "{result:?}");
        }
    }
    // A later channel may well be 10.1.
    bed.settle();
    foreign::echo_all(foreign::connect(bed.address()), b"alive", 5);
});

/// Where [`closing_from_any_callback_ends_the_channel_once`] closes, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Open,
    Data,
    Eof,
    Drained,
    Close,
}

impl Place {
    const ALL: [Self; 5] = [Self::Open, Self::Data, Self::Eof, Self::Drained, Self::Close];

    fn of(call: &Call<'_>) -> Option<(Self, ChannelId)> {
        match *call {
            Call::Open(channel, _) => Some((Self::Open, channel)),
            Call::Data(channel, _) => Some((Self::Data, channel)),
            Call::Eof(channel) => Some((Self::Eof, channel)),
            Call::Drained(channel) => Some((Self::Drained, channel)),
            Call::Close(channel, _) => Some((Self::Close, channel)),
            _ => None,
        }
    }

    /// Makes every callback of a channel happen: bytes to it and from it, more than the low mark, and both ends.
    fn provoke(bed: &Bed) {
        let mut client = foreign::connect(bed.address());
        let _gone = client.write_all(b"some data");
        let _gone = client.shutdown(std::net::Shutdown::Write);
        foreign::read_to_end(&mut client);
    }
}

node_test!(closing_from_any_callback_ends_the_channel_once, |setup| {
    type How = fn(&mut ringlink::Context<'_>, ChannelId);
    const WAYS: [How; 3] = [
        |cx, channel| cx.close(channel),
        |cx, channel| cx.abort(channel),
        |cx, channel| {
            cx.shutdown_write(channel);
            cx.close(channel);
            cx.abort(channel);
            cx.close(channel);
        },
    ];
    for place in Place::ALL {
        for way in WAYS {
            let low = setup.outbox().0;
            let plan = Plan::listen().stays_at_eof().script(move |cx, call, journal| {
                let Some((here, channel)) = Place::of(call) else { return };
                if here == Place::Open {
                    cx.send(channel, &vec![1; 2 * low]).unwrap();
                }
                if here == place {
                    way(cx, channel);
                    journal.silence(channel);
                } else if here == Place::Eof && place != Place::Drained {
                    cx.close(channel);
                    journal.silence(channel);
                }
            });
            let bed = Bed::start(setup, setup.listener(), plan);
            let mut bystander = (place != Place::Open && place != Place::Drained).then(|| {
                let client = foreign::connect(bed.address());
                bed.opened();
                client
            });
            Place::provoke(&bed);
            let (id, _) = bed.opened();
            assert!(bed.closed(id).opened);
            if let Some(bystander) = &mut bystander {
                assert_eq!(foreign::read_exactly(bystander, 2 * low), vec![1; 2 * low]);
            }
        }
    }
});

node_test!(a_callback_closes_another_channel, |setup| {
    // Whoever speaks closes everybody else of the loop.
    let plan = Plan::echo().script(|cx, call, journal| {
        if let Call::Data(speaker, _) = *call {
            for info in cx.channels() {
                if info.id != speaker {
                    cx.abort(info.id);
                    journal.silence(info.id);
                }
            }
        }
    });
    let bed = Bed::start(setup, setup.listener(), plan);
    let mut clients: Vec<TcpStream> = (0..20).map(|_| foreign::connect(bed.address())).collect();
    for _ in 0..20 {
        bed.opened();
    }
    // All at once, so that they also kill those whose data has already arrived.
    for client in &mut clients {
        let _gone = client.write_all(b"me");
    }
    // In each loop one is left.
    eventually("the others to close", || bed.handle.stats().channels <= setup.loops as u64);
});

node_test!(a_panic_in_a_callback_closes_that_channel_and_no_other, |setup| {
    for place in Place::ALL {
        let low = setup.outbox().0;
        let armed = Arc::new(AtomicBool::new(false));
        let arm = Arc::clone(&armed);
        let plan = Plan::listen().script(move |cx, call, journal| {
            let Some((here, channel)) = Place::of(call) else { return };
            if here == Place::Open {
                cx.send(channel, &vec![1; 2 * low]).unwrap();
            }
            if here == place && arm.load(SeqCst) {
                journal.silence(channel);
                panic!("{PLANNED}{place:?}");
            }
        });
        let bed = Bed::start(setup, setup.listener(), plan);
        let mut bystander = foreign::connect(bed.address());
        let (other, _) = bed.opened();
        assert_eq!(foreign::read_exactly(&mut bystander, 2 * low), vec![1; 2 * low]);
        bed.drained(other);
        // The event comes out of the callback; this is when it has returned.
        bed.settle();
        armed.store(true, SeqCst);
        Place::provoke(&bed);
        let (id, _) = bed.opened();
        let report = bed.closed(id);
        match place {
            Place::Close => assert_orderly(&report),
            // What was to be drained may have been so only after the end of file's close.
            Place::Drained if report.reason == CloseReason::Normal => {}
            _ => assert_eq!((report.reason, report.by), (CloseReason::Internal, ClosedBy::Us), "{place:?}"),
        }
        if report.reason == CloseReason::Internal || place == Place::Close {
            eventually("the panic to be counted", || bed.handle.stats().handler_panics == 1);
        }
        armed.store(false, SeqCst);
        bystander.write_all(b"still here").unwrap();
        assert_eq!(bed.received(other, 10), b"still here");
        foreign::connect(bed.address());
        bed.opened();
    }
});

node_test!(a_silent_channel_is_closed_after_idle_timeout, |setup| {
    let builder = setup.listener().limits(|l| l.idle_timeout = Some(Duration::from_millis(150)));
    let bed = Bed::start(setup, builder, Plan::echo());
    let mut client = foreign::connect(bed.address());
    let (id, _) = bed.opened();
    assert_eq!(foreign::read_to_eof(&mut client), b"");
    drop(client);
    let report = bed.closed(id);
    assert_eq!((report.reason, report.by), (CloseReason::IdleTimeout, ClosedBy::Us), "{report:?}");
});

node_test!(a_client_that_leaves_in_the_middle_of_an_echo_leaves_nothing, |setup| {
    let bed = Bed::echo(setup);
    let data = random(setup.bulk(4 << 20), 3);
    for round in 0..20 {
        let mut client = foreign::connect(bed.address());
        let writer = foreign::write_forever(&client, data.clone());
        let got = foreign::read_exactly(&mut client, 1 + round * 997);
        assert_prefix(&got, &data);
        if round % 2 == 0 {
            client.shutdown(std::net::Shutdown::Both).unwrap();
        } else {
            // The writer's clone would keep the connection open.
            foreign::reset(client.try_clone().unwrap());
            client.shutdown(std::net::Shutdown::Both).unwrap();
        }
        drop(client);
        writer.join().unwrap();
    }
    eventually("all to close", || bed.count(|e| matches!(e, Event::Closed { .. })) == 20);
});
