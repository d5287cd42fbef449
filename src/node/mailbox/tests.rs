//! What one thread sees of a mailbox, and many threads against one loop. The orders of the race are `model.rs`'s.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::error::SendError;

#[derive(Clone, Debug)]
struct TestWaker(SyncSender<()>);

impl Waker for TestWaker {
    fn wake(&self) {
        let _full_is_woken_already = self.0.try_send(());
    }
}

fn mailbox(commands: usize, bytes: usize) -> (Mailbox<TestWaker>, Receiver<()>) {
    let (sender, wakes) = sync_channel(8);
    let limits = Limits { mailbox_commands: commands, mailbox_bytes: bytes, ..Limits::default() };
    (Mailbox::new(TestWaker(sender), &limits, Arc::default()), wakes)
}

fn channel(slot: u32) -> ChannelId {
    ChannelId::new(slot, 1)
}

fn send(mailbox: &Mailbox<TestWaker>, channel: ChannelId, parts: &[&[u8]]) -> Result<(), PostError> {
    mailbox.post_send(channel, parts, |_| Ok(Framing::STREAM))
}

#[test]
fn commands_keep_their_order_and_sends_their_bytes() {
    let (mailbox, _wakes) = mailbox(10, 100);
    send(&mailbox, channel(1), &[b"one"]).unwrap();
    send(&mailbox, channel(1), &[b""]).unwrap();
    mailbox.post(Command::Close(channel(2))).unwrap();
    send(&mailbox, channel(3), &[b"th", b"", b"ree"]).unwrap();
    let mut mail = Mail::default();
    assert!(mailbox.take(&mut mail));
    let mut seen = Vec::new();
    while let Some((command, bytes)) = mail.next() {
        seen.push((format!("{command:?}"), bytes.to_vec()));
    }
    let sends = |slot, count, bytes: &[u8]| {
        let size = bytes.len();
        (format!("Sends {{ channel: {slot}.1, count: {count}, size: {size} }}"), bytes.to_vec())
    };
    assert_eq!(seen, [sends(1, 2, b"one"), ("Close(2.1)".into(), vec![]), sends(3, 1, b"three")]);
    assert!(mail.is_done());
    mail.clear();
    assert!(!mailbox.take(&mut mail));
}

#[test]
fn the_bounds_hold_for_commands_and_for_bytes_of_both_kinds() {
    let (mailbox, _wakes) = mailbox(3, 10);
    send(&mailbox, channel(1), &[b"1234"]).unwrap();
    mailbox.post(Command::Broadcast(Bytes::from_static(b"5678"))).unwrap();
    assert_eq!(send(&mailbox, channel(1), &[b"9ab"]), Err(PostError::Full));
    assert_eq!(mailbox.post(Command::Broadcast(Bytes::from_static(b"9ab"))), Err(PostError::Full));
    send(&mailbox, channel(1), &[b"9a"]).unwrap();
    assert_eq!(mailbox.post(Command::Close(channel(1))), Err(PostError::Full));
    assert_eq!(mailbox.counters.snapshot().commands_refused, 3);
    mailbox.post_always(Command::Shutdown { grace: Duration::ZERO }).unwrap();

    let mut mail = Mail::default();
    assert!(mailbox.take(&mut mail));
    assert_eq!((mail.count, mail.bytes.as_slice()), (4, b"12349a".as_slice()));
    mail.clear();
    send(&mailbox, channel(1), &[&[0; 10]]).unwrap(); // all of the room is back
    assert_eq!(send(&mailbox, channel(1), &[&[0; 11]]), Err(PostError::Full));
}

#[test]
fn a_mailbox_without_bytes_takes_one_send_of_any_size() {
    let (mailbox, _wakes) = mailbox(10, 4);
    let mut mail = Mail::default();
    mailbox.post(Command::Close(channel(1))).unwrap();
    send(&mailbox, channel(1), &[b"12345"]).unwrap();
    assert_eq!(send(&mailbox, channel(1), &[b"6"]), Err(PostError::Full));
    assert!(mailbox.take(&mut mail));
    mailbox.post(Command::Broadcast(Bytes::from_static(b"12345"))).unwrap();
    assert_eq!(send(&mailbox, channel(1), &[b"6"]), Err(PostError::Full));
    send(&mailbox, channel(1), &[b""]).unwrap();
}

#[test]
fn what_is_not_charged_is_not_posted() {
    let (mailbox, _wakes) = mailbox(10, 10);
    let refuse = |len: usize| Err::<Framing, _>(SendError::TooBig { size: len, max: 1 });
    let refused = mailbox.post_send(channel(1), &[b"x", b"y"], refuse);
    assert_eq!(refused, Err(SendError::TooBig { size: 2, max: 1 }));
    let refused = mailbox.post_made(2, || Err::<(Command, ()), _>(SendError::Closed));
    assert_eq!(refused, Err(SendError::Closed));
    assert!(mailbox.close().is_empty());
}

#[test]
fn a_full_mailbox_charges_nobody() {
    let (mailbox, _wakes) = mailbox(1, 10);
    send(&mailbox, channel(1), &[b"x"]).unwrap();
    let charge = |_| -> Result<Framing, PostError> { panic!("there is no room") };
    assert_eq!(mailbox.post_send(channel(1), &[b"y"], charge), Err(PostError::Full));
}

#[test]
fn a_closed_mailbox_hands_over_what_was_left_and_takes_nothing() {
    let (mailbox, wakes) = mailbox(10, 10);
    send(&mailbox, channel(1), &[b"left"]).unwrap();
    assert_eq!(mailbox.close().bytes, b"left");
    assert!(mailbox.close().is_empty());
    assert_eq!(send(&mailbox, channel(1), &[b"late"]), Err(PostError::Closed));
    assert_eq!(mailbox.post(Command::Close(channel(1))), Err(PostError::Closed));
    assert_eq!(mailbox.post_always(Command::Shutdown { grace: Duration::ZERO }), Err(PostError::Closed));
    assert!(mailbox.prepare_to_sleep());
    assert!(wakes.try_recv().is_err());
    assert_eq!(mailbox.counters.snapshot().commands_refused, 0);
}

#[test]
fn a_sleeping_loop_is_woken_once_and_a_running_one_never() {
    let (mailbox, wakes) = mailbox(10, 10);
    let close = || mailbox.post(Command::Close(channel(1))).unwrap();
    close();
    assert!(wakes.try_recv().is_err());
    assert!(!mailbox.prepare_to_sleep(), "there is mail");
    let mut mail = Mail::default();
    assert!(mailbox.take(&mut mail));
    assert!(mailbox.prepare_to_sleep());
    close();
    close();
    assert_eq!((wakes.try_recv().is_ok(), wakes.try_recv().is_ok()), (true, false));
    mailbox.awake();
    close();
    assert!(wakes.try_recv().is_err());
    assert_eq!(mailbox.counters.snapshot().wakes, 1);
}

#[test]
fn memory_stays_under_a_steady_load_and_goes_some_time_after_a_burst() {
    let (mailbox, _wakes) = mailbox(1 << 20, 64 << 20);
    let mut mail = Mail::default();
    let mut round = |sends: usize| {
        for number in 0..sends {
            // To two channels in turn, so that each send is a command.
            send(&mailbox, channel(1 + number as u32 % 2), &[&[7; 64]]).unwrap();
        }
        assert!(mailbox.take(&mut mail));
        let capacities = [mail.commands.capacity(), mail.bytes.capacity()];
        let place = mail.bytes.as_ptr();
        mail.clear();
        (place, capacities)
    };
    let steady: Vec<_> = (0..6).map(|_| round(20_000)).collect();
    assert_eq!(steady[2..4], steady[4..6], "the two mails take turns");
    for _ in 0..PATIENCE + 2 {
        assert_eq!([round(20_000), round(1)], steady[4..6], "every other one is full");
    }
    for _ in 0..PATIENCE {
        let (_, capacities) = round(1);
        assert!(capacities[1] > KEPT_BYTES, "not at once");
    }
    for _ in 0..3 {
        round(1);
    }
    for _ in 0..2 {
        assert_eq!(round(1).1, [kept::<Command>(), KEPT_BYTES]);
    }
}

#[test]
fn all_that_many_threads_post_arrives_in_each_thread_s_order() {
    const POSTERS: u32 = 4;
    const EACH: u32 = 20_000;
    let (mailbox, wakes) = mailbox(64, 4096);
    let mut next = [0; POSTERS as usize];
    thread::scope(|scope| {
        for poster in 0..POSTERS {
            let mailbox = &mailbox;
            scope.spawn(move || {
                for number in 0..EACH {
                    while send(mailbox, channel(poster), &[&number.to_le_bytes()]).is_err() {
                        thread::yield_now();
                    }
                }
            });
        }
        let mut mail = Mail::default();
        while next.iter().any(|&count| count < EACH) {
            if mailbox.take(&mut mail) {
                while let Some((command, bytes)) = mail.next() {
                    let Command::Sends { channel, .. } = command else { panic!("{command:?}") };
                    for number in bytes.as_chunks().0 {
                        let number = u32::from_le_bytes(*number);
                        assert_eq!(number, next[channel.slot() as usize]);
                        next[channel.slot() as usize] += 1;
                    }
                }
                mail.clear();
            } else if mailbox.prepare_to_sleep() {
                wakes.recv_timeout(Duration::from_secs(20)).expect("a wake-up was lost");
                mailbox.awake();
            }
        }
    });
    assert_eq!(next, [EACH; POSTERS as usize]);
}
