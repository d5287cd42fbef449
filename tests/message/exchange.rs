//! Messages of every length, both ways at once: exact, and in their order.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ringlink::{ChannelId, SendError};

use super::support::{Bed, Event, PATIENCE, Random};

const LENGTHS: [usize; 10] = [0, 1, 63, 64, 65, 4095, 65_535, 65_536, 1 << 20, 16 << 20];

/// The lengths so many times, in an order of their own for each seed.
fn messages(lengths: &[usize], times: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut random = Random(seed);
    let mut lengths = lengths.repeat(times);
    for place in (1..lengths.len()).rev() {
        lengths.swap(place, (random.next() % (place as u64 + 1)) as usize);
    }
    lengths.into_iter().map(|len| random.bytes(len)).collect()
}

/// Sends all on a thread of its own, and receives all.
fn exchange(bed: &Bed, channel: ChannelId, mine: Vec<Vec<u8>>, theirs: &[Vec<u8>]) {
    let (drained, room) = mpsc::channel();
    let handle = bed.handle.clone();
    let sender = thread::spawn(move || {
        for (number, message) in mine.into_iter().enumerate() {
            loop {
                // Each by a way of its own: shared, copied, in parts.
                let sent = match number % 3 {
                    0 => handle.send_bytes(channel, message.clone().into()),
                    1 => handle.send(channel, &message),
                    _ => handle
                        .send_parts(channel, &[&message[..message.len() / 3], &message[message.len() / 3..]]),
                };
                match sent {
                    Ok(()) => break,
                    Err(SendError::WouldBlock { .. }) => room.recv_timeout(PATIENCE).expect("on_drained"),
                    Err(SendError::Busy) => thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    });
    for (number, expected) in theirs.iter().enumerate() {
        let got = loop {
            match bed.next("a message") {
                Event::Message(from, message) if from == channel => break message,
                Event::Drained => drop(drained.send(())),
                other @ (Event::Message(..) | Event::Opened(..) | Event::Closed(..)) => panic!("{other:?}"),
            }
        };
        let same = got == *expected;
        assert!(same, "message {number}: {} bytes, not the {} sent", got.len(), expected.len());
    }
    // Everything has come, and the sender may still wait for room.
    while !sender.is_finished() {
        if let Ok(Event::Drained) = bed.events.recv_timeout(Duration::from_millis(2)) {
            let _over = drained.send(());
        }
    }
    sender.join().unwrap();
}

fn both_ways(beds: [(Bed, ChannelId); 2], lengths: &[usize], times: usize) {
    let sent = [messages(lengths, times, 11), messages(lengths, times, 22)];
    let [(first, there), (second, here)] = beds;
    let (to_first, to_second) = (sent[1].clone(), sent[0].clone());
    let [from_first, from_second] = sent;
    let side = thread::spawn(move || {
        exchange(&first, there, from_first, &to_first);
        first // lives until the other side has everything
    });
    exchange(&second, here, from_second, &to_second);
    drop(side.join().expect("the other side is content, too"));
}

#[test]
fn messages_of_every_length_arrive_exactly_and_in_order_both_ways_at_once() {
    for loops in [1, 2] {
        let start = || Bed::start(|builder| builder.loops(loops));
        both_ways(Bed::pair(start(), start()), &LENGTHS, 2);
    }
}

#[test]
fn small_messages_in_thousands_arrive_in_order() {
    both_ways(Bed::pair(Bed::start(|b| b), Bed::start(|b| b)), &LENGTHS[..5], 1000);
}

#[test]
fn messages_arrive_though_every_byte_comes_alone() {
    let first = Bed::start(|builder| builder);
    let second = Bed::start(|builder| builder);
    second.dial(byte_by_byte(first.address()));
    let (there, here) = (first.opened().0, second.opened().0);
    both_ways([(first, there), (second, here)], &LENGTHS[..6], 3);
}

#[test]
fn a_message_longer_than_the_peer_allows_is_refused_to_its_sender() {
    let small = Bed::with_limits(|limits| (limits.max_frame, limits.max_message) = (1024, 2000));
    let [(_small, _), (large, channel)] = Bed::pair(small, Bed::start(|builder| builder));
    let too_big = Err(SendError::TooBig { size: 2001, max: 2000 });
    assert_eq!(large.handle.send(channel, &[0; 2001]), too_big);
    assert_eq!(large.handle.send(channel, &[0; 2000]), Ok(()));
}

/// A way to the address on which every byte travels alone.
fn byte_by_byte(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let near = listener.accept().unwrap().0;
        let far = TcpStream::connect(to).unwrap();
        for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
            to.set_nodelay(true).unwrap();
            thread::spawn(move || {
                let mut byte = [0];
                while from.read(&mut byte).is_ok_and(|n| n == 1) && to.write_all(&byte).is_ok() {}
            });
        }
    });
    address
}
