//! In steady state a loop allocates nothing: not for a message, not for a turn. Counted on the loop's own thread.
#![expect(unsafe_code, reason = "a counting allocator has to be one")]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use ringlink::{ChannelId, ChannelInfo, Context, Direction, Handler, Mode, Node};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is the one asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The first of them warm up pools and queues; over the rest nothing may be allocated.
const WARM_UP: u64 = 20_000;
const COUNTED: u64 = 100_000;

/// Counts what its thread allocates between the end of the warm-up and the end.
struct Meter {
    seen: u64,
    before: u64,
    result: Sender<u64>,
}

impl Meter {
    fn new(result: Sender<u64>) -> Self {
        Self { seen: 0, before: 0, result }
    }

    /// One more message. True while there is more to come.
    fn count(&mut self) -> bool {
        self.seen += 1;
        if self.seen == WARM_UP {
            self.before = ALLOCATIONS.get();
        } else if self.seen == WARM_UP + COUNTED {
            self.result.send(ALLOCATIONS.get() - self.before).unwrap();
        }
        // A little longer than counted: the other end is behind by what is under way.
        self.seen < WARM_UP + 2 * COUNTED
    }
}

struct Echo(Meter);

impl Handler for Echo {
    fn on_data(&mut self, cx: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        cx.send(channel, data).unwrap();
        self.0.count();
    }
}

#[test]
fn an_echo_of_a_stream_allocates_nothing() {
    let (result, allocations) = mpsc::channel();
    let node = Node::builder().mode(Mode::Stream).listen_on("127.0.0.1:0").unwrap();
    let node = node.start(move |_| Echo(Meter::new(result.clone()))).unwrap();
    let address = node.local_addrs()[0].socket_addr().unwrap();
    let mut clients: Vec<_> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut answer = [0; 64];
    for round in 0..(WARM_UP + COUNTED) / 8 + 1 {
        for client in &mut clients {
            client.write_all(&[round as u8; 64]).unwrap();
        }
        for client in &mut clients {
            client.read_exact(&mut answer).unwrap();
        }
    }
    assert_eq!(allocations.recv_timeout(Duration::from_secs(60)).unwrap(), 0);
}

/// The dialing end keeps a number of messages under way, the other sends each back.
struct Volley(Meter);

impl Handler for Volley {
    fn on_open(&mut self, cx: &mut Context<'_>, channel: ChannelId, info: &ChannelInfo) {
        if info.direction == Direction::Dialed {
            for size in 0..500 {
                cx.send(channel, &vec![7; size]).unwrap();
            }
        }
    }

    fn on_message(&mut self, cx: &mut Context<'_>, channel: ChannelId, message: &[u8]) {
        if self.0.count() {
            cx.send(channel, message).unwrap();
        }
    }
}

#[test]
fn messages_to_and_fro_allocate_nothing() {
    let (result, allocations) = mpsc::channel();
    let nodes: Vec<_> = (0..2)
        .map(|_| {
            let result = result.clone();
            let node = Node::builder().listen_on("127.0.0.1:0").unwrap();
            node.start(move |_| Volley(Meter::new(result.clone()))).unwrap()
        })
        .collect();
    nodes[0].handle().dial(nodes[1].local_addrs()[0].clone()).unwrap();
    for _ in &nodes {
        // A message that lies across two receive buffers is put together in memory of the link, which is kept: the few
        // that grow it are not among the counted.
        let count = allocations.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(count <= 2, "{count} allocations");
    }
}
