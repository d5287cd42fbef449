//! In steady state a loop allocates nothing: not for a message, not for a turn. Counted on the loop's own thread.
#![expect(unsafe_code, reason = "a counting allocator has to be one")]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};
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
/// The chunks that hold all messages of a volley, twice: on their way, and waiting behind them.
const MOST_GROWTH: u64 = 2 * 3;

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

/// Where a callback stands still, so that what it is to find next is there before it goes on. When the other ends are
/// gone nothing holds it any more.
struct Gate {
    entered: Sender<()>,
    open: Receiver<()>,
}

struct Echo {
    meter: Meter,
    gate: Gate,
}

impl Handler for Echo {
    fn on_data(&mut self, cx: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        if self.gate.entered.send(()).is_ok() {
            let _opened = self.gate.open.recv();
        }
        cx.send(channel, data).unwrap();
        self.meter.count();
    }
}

/// Has the loop find an answer that is sent and the next request of every client in one turn: as much at once as there
/// will ever be, so that every pool and queue becomes as large as it will ever be.
fn fill_everything(clients: &mut [TcpStream], entered: Receiver<()>, open: Sender<()>) {
    let request = |clients: &mut [TcpStream]| {
        clients.iter_mut().for_each(|client| client.write_all(&[0; 64]).unwrap());
    };
    request(&mut clients[..1]);
    entered.recv().unwrap();
    request(clients);
    open.send(()).unwrap();
    entered.recv().unwrap();
    request(clients);
    drop((entered, open));
    clients[0].read_exact(&mut [0; 64]).unwrap();
    clients.iter_mut().for_each(|client| client.read_exact(&mut [0; 128]).unwrap());
}

#[test]
fn an_echo_of_a_stream_allocates_nothing() {
    let (result, allocations) = mpsc::channel();
    let node = Node::builder().mode(Mode::Stream).listen_on("127.0.0.1:0").unwrap();
    let ((entered, entries), (open, opened)) = (mpsc::channel(), mpsc::channel());
    let gate = Mutex::new(Some(Gate { entered, open: opened }));
    let node = node
        .start(move |_| Echo {
            meter: Meter::new(result.clone()),
            gate: gate.lock().unwrap().take().unwrap(),
        })
        .unwrap();
    let address = node.local_addrs()[0].socket_addr().unwrap();
    let mut clients: Vec<_> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
    fill_everything(&mut clients, entries, open);
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
        // How many chunks a node needs depends on where the messages under way pile up, so the last of its growth may come
        // late. What is allocated for each message, turn or heartbeat would be many more.
        let count = allocations.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(count <= MOST_GROWTH, "{count} allocations");
    }
}
