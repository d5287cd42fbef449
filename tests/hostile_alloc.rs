//! Memory of a loop grows with what was received, never with what a peer claims. Counted on the loop's own thread.
#![expect(unsafe_code, reason = "a counting allocator has to be one")]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use ringlink::{ChannelId, ChannelInfo, CloseReport, Context, Handler, Node};

thread_local! {
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.set(BYTES.get() + layout.size());
        // SAFETY: the caller's promise is the one asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        BYTES.set(BYTES.get() + size);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const PATIENCE: Duration = Duration::from_secs(60);
const BOUND: usize = 64 << 10;

enum Event {
    Opened,
    Closed { allocated: usize, report: CloseReport },
}

struct Meter {
    before: usize,
    events: Sender<Event>,
}

impl Handler for Meter {
    fn on_open(&mut self, _: &mut Context<'_>, _: ChannelId, _: &ChannelInfo) {
        self.events.send(Event::Opened).unwrap();
        self.before = BYTES.get();
    }

    fn on_close(&mut self, _: &mut Context<'_>, _: ChannelId, report: &CloseReport) {
        let allocated = BYTES.get() - self.before;
        self.events.send(Event::Closed { allocated, report: report.clone() }).unwrap();
    }
}

const DATA: u64 = 0;
const HELLO: u64 = 3;
const MORE: u64 = 1;

fn header(len: usize, kind: u64, flags: u64) -> [u8; 8] {
    let low = len as u64 | kind << 24 | flags << 32;
    let check = low.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56;
    (low | check << 56).to_le_bytes()
}

/// A peer by std alone, shaken hands with.
fn link(node: &Node, id: u8) -> TcpStream {
    let mut stream = TcpStream::connect(node.local_addrs()[0].socket_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = [0; 8];
    stream.read_exact(&mut head).unwrap();
    let mut hello = vec![0; u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize];
    stream.read_exact(&mut hello).unwrap();
    // The node's own hello, in another name: node and instance id. What it says of itself after the fixed part is left.
    hello.truncate(104);
    hello[44..92].fill(id);
    stream.write_all(&[&header(hello.len(), HELLO, 0)[..], &hello].concat()).unwrap();
    stream
}

#[test]
fn a_length_that_is_only_claimed_costs_nothing() {
    let (sender, events) = mpsc::channel();
    for (id, max_frame) in (1..).zip([1_usize << 20, (1 << 24) - 1]) {
        let node = Node::builder().listen_on("127.0.0.1:0").unwrap().limits(|limits| {
            (limits.max_frame, limits.max_message) = (max_frame as u32, 64 << 20);
        });
        let sender = sender.clone();
        let node = node.start(move |_| Meter { before: 0, events: sender.clone() }).unwrap();
        for (flags, parts) in [(0, 0), (MORE, 0), (MORE, 10), (0, 10)] {
            let mut peer = link(&node, id);
            assert!(matches!(events.recv_timeout(PATIENCE), Ok(Event::Opened)));
            let mut bytes = [&header(100, DATA, MORE)[..], &[7; 100]].concat().repeat(parts);
            bytes.extend(header(max_frame, DATA, flags));
            bytes.extend([7; 10]);
            peer.write_all(&bytes).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            let Ok(Event::Closed { allocated, report }) = events.recv_timeout(PATIENCE) else {
                panic!("it closes")
            };
            assert!(report.bytes_in >= bytes.len() as u64 && report.messages_in == 0, "{report:?}");
            assert!(allocated < BOUND, "{allocated} bytes for {}; {report:?}", bytes.len());
            eprintln!(
                "frame of {max_frame}, flags {flags}, {parts} parts before: {allocated} bytes allocated"
            );
        }
    }
}
