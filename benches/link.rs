//! What the protocol costs without kernel and sockets: `cargo bench --bench link --features internals`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use ringlink::bench_support::Pair;

/// As large as a receive buffer may well be.
const BUFFER: usize = 64 << 10;
/// Bytes of messages in one round: a few buffers full, so that messages lie across their ends, too.
const ROUND: usize = 4 * BUFFER;
const MESSAGES: [(&str, usize); 3] = [("64 B", 64), ("1 KiB", 1 << 10), ("64 KiB", 64 << 10)];

fn encode(criterion: &mut Criterion) {
    let (pair, mut wire) = (Pair::new(), Vec::with_capacity(2 * ROUND));
    let mut group = criterion.benchmark_group("encode");
    for (name, len) in MESSAGES {
        let (message, count) = (vec![0x5A; len], ROUND / len);
        group.throughput(Throughput::ElementsAndBytes { elements: count as u64, bytes: ROUND as u64 });
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| {
                wire.clear();
                pair.encode(black_box(&message), count, &mut wire);
                wire.len()
            });
        });
    }
}

fn decode(criterion: &mut Criterion) {
    let mut pair = Pair::new();
    let mut group = criterion.benchmark_group("decode");
    for (name, len) in MESSAGES {
        let (mut wire, count) = (Vec::new(), ROUND / len);
        pair.encode(&vec![0x5A; len], count, &mut wire);
        assert_eq!(pair.decode(&wire, BUFFER), (count, ROUND));
        group.throughput(Throughput::ElementsAndBytes { elements: count as u64, bytes: ROUND as u64 });
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| pair.decode(black_box(&wire), BUFFER));
        });
    }
}

/// Both sides of a handshake.
fn hello(criterion: &mut Criterion) {
    let pair = Pair::new();
    assert!(pair.hello());
    criterion.bench_function("hello", |bencher| bencher.iter(|| pair.hello()));
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    encode(&mut criterion);
    decode(&mut criterion);
    hello(&mut criterion);
    criterion.final_summary();
}
