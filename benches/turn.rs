//! What a loop costs without a kernel: `cargo bench --bench turn --features internals`.
//!
//! With `--names` it prints what is measured; with a name and a number of rounds it only makes these, for
//! `ci/instructions.sh` to count what they take, and prints how many elements a round has.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use ringlink::bench_support::{Answer, BusyLoop, Linked, Pair, Sends, Table};

/// One thing that is measured: how many of what a round is, and what makes a round.
struct Subject {
    name: &'static str,
    elements: u64,
    round: Box<dyn FnMut()>,
}

/// Messages of 64 bytes, with their headers, in a receive buffer and somewhat more: some lie across two.
const MESSAGES: usize = 1000;

fn subject(name: &'static str, elements: usize, round: impl FnMut() + 'static) -> Subject {
    Subject { name, elements: elements as u64, round: Box::new(round) }
}

/// Links are made, pools filled.
fn warm(mut busy: BusyLoop) -> BusyLoop {
    for _ in 0..8 {
        busy.turn();
    }
    busy
}

fn turn(name: &'static str, busy: BusyLoop, elements: usize) -> Subject {
    let mut busy = warm(busy);
    let (bytes, _) = busy.turn();
    assert!(bytes > 0, "{name}: nothing is received");
    subject(name, elements, move || {
        black_box(busy.turn());
    })
}

/// What a send from another thread costs both sides, but for the cache misses between two processors.
fn posted(busy: BusyLoop, message: [u8; 64]) -> Subject {
    let mut busy = warm(busy);
    subject("posted", MESSAGES, move || {
        busy.post(black_box(&message), MESSAGES);
        black_box(busy.turn());
    })
}

fn subjects() -> Vec<Subject> {
    let (mut sends, message) = (Sends::default(), [0x5A; 64]);
    let (mut table, mut linked) = (Table::new(9000), Linked::new(9000));
    let (mut pair, mut wire) = (Pair::new(), Vec::new());
    pair.encode(&message, MESSAGES, &mut wire);
    let links = |answer| BusyLoop::messages(64, MESSAGES, answer);
    vec![
        subject("decode", MESSAGES, move || {
            black_box(pair.decode(black_box(&wire), 64 << 10));
        }),
        subject("outbox", MESSAGES, move || {
            black_box(sends.round([0; 8], black_box(&message), MESSAGES));
        }),
        subject("table", 9000, move || {
            black_box(table.round());
        }),
        subject("link", 100, move || linked.round(100)),
        posted(BusyLoop::messages(64, 1, Answer::Nothing), message),
        turn("turn-receive", links(Answer::Nothing), MESSAGES * 65_536 / 72_000),
        turn("turn-echo-messages", links(Answer::Echo), MESSAGES * 65_536 / 72_000),
        turn("turn-echo-200", BusyLoop::stream(200, 64, Answer::Echo), 200),
    ]
}

#[expect(clippy::print_stdout, reason = "for ci/instructions.sh to read")]
fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words == ["--names"] {
        return subjects().iter().for_each(|subject| println!("{}", subject.name));
    }
    if let [name, rounds] = &words[..]
        && let Ok(rounds) = rounds.parse::<u64>()
    {
        let mut subject = subjects().into_iter().find(|subject| subject.name == name).expect("its name");
        println!("{}", subject.elements);
        return (0..rounds).for_each(|_| (subject.round)());
    }
    let mut criterion = Criterion::default().configure_from_args();
    for mut subject in subjects() {
        let mut group = criterion.benchmark_group("loop");
        group.throughput(Throughput::Elements(subject.elements));
        group.bench_function(subject.name, |bencher| bencher.iter(&mut subject.round));
    }
    criterion.final_summary();
}
