//! Nobody writes to memory that was given back: not the kernel either, after a thousand rings. The allocator of this test
//! frees no receive buffers; it paints them, and in the end the paint must be as it was.
#![expect(unsafe_code, reason = "an allocator has to be")]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use ringlink::service::Echo;
use ringlink::{DriverKind, Mode, Node};

const BUFFERS: u16 = 4;
const BUFFER: u32 = 4 << 10;
/// What the native driver allocates for them, one page more; whatever else has this size is kept too.
const REGION: usize = BUFFERS as usize * BUFFER as usize + 4096;
const PAINT: u8 = 0xA5;
/// Of two loops, so a thousand rings.
const NODES: usize = 500;

/// Start and length of each region that was given back.
static PAINTED: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

struct Keeping;

// SAFETY: every call goes to the system's allocator as it came, but for what is never freed.
unsafe impl GlobalAlloc for Keeping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the one asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if layout.size() != REGION {
            // SAFETY: as above.
            return unsafe { System.dealloc(memory, layout) };
        }
        // SAFETY: the caller gives the memory back, and nobody else gets it.
        unsafe { memory.write_bytes(PAINT, layout.size()) };
        PAINTED.lock().unwrap().push((memory as usize, layout.size()));
    }
}

#[global_allocator]
static KEEPING: Keeping = Keeping;

/// Sends without end, and reads what comes back.
fn client(mut stream: TcpStream) -> impl FnOnce() {
    let mut reader = stream.try_clone().unwrap();
    move || {
        let writer = thread::spawn(move || while stream.write_all(&[1; 10_000]).is_ok() {});
        let mut buffer = [0; 10_000];
        while reader.read(&mut buffer).is_ok_and(|n| n > 0) {}
        drop(reader.shutdown(std::net::Shutdown::Both));
        writer.join().unwrap();
    }
}

#[test]
fn a_thousand_rings_that_end_at_full_load_are_written_to_no_more() {
    for round in 0..NODES {
        let node =
            Node::builder().mode(Mode::Stream).driver(DriverKind::Uring).listen_on("127.0.0.1:0").unwrap();
        let node = node.loops(2).ring(|ring| {
            (ring.receive_buffers, ring.receive_buffer_size) = (BUFFERS, BUFFER);
            (ring.submission_entries, ring.completion_entries) = (64, 128);
        });
        let node = node.start(|_| Echo).unwrap();
        let address = node.local_addrs()[0].socket_addr().unwrap();
        let clients = [0; 3].map(|_| thread::spawn(client(TcpStream::connect(address).unwrap())));
        // The moment is another one each time, in bytes.
        while node.handle().stats().bytes_in < (round as u64 % 50) << (round % 12) {
            thread::yield_now();
        }
        node.handle().shutdown(Duration::ZERO);
        node.join().unwrap();
        for client in clients {
            client.join().unwrap();
        }
    }
    let painted = PAINTED.lock().unwrap();
    assert!(painted.len() >= 2 * NODES, "only {} regions were given back", painted.len());
    for &(start, length) in painted.iter() {
        // SAFETY: it was never freed, and nobody else has it.
        let region = unsafe { std::slice::from_raw_parts(start as *const u8, length) };
        let late = region.iter().position(|byte| *byte != PAINT);
        assert_eq!(late, None, "somebody wrote to memory that had been given back");
    }
}
