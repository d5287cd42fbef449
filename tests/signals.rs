//! Signals that interrupt a node's loops without end: every wait of theirs fails with EINTR, and nobody notices.
#![expect(unsafe_code, reason = "signal handlers have no safe interface")]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use ringlink::service::Echo;
use ringlink::{DriverKind, Mode, Node};

/// Interrupts that hit a loop.
static HITS: AtomicU64 = AtomicU64::new(0);
const ENOUGH: u64 = 2000;

extern "C" fn count(_: libc::c_int) {
    HITS.fetch_add(1, Relaxed);
}

/// Without SA_RESTART: what is interrupted fails.
fn install() {
    // SAFETY: all-zero is a valid sigaction: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = count as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the action is valid, and its handler only counts.
    assert_eq!(unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) }, 0);
}

/// The ids of this process's loops, which are named `ringlink-N`.
fn loops() -> Vec<i32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let is_loop = |task: &std::path::PathBuf| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("ringlink-"))
    };
    tasks.filter(is_loop).map(|task| task.file_name().unwrap().to_str().unwrap().parse().unwrap()).collect()
}

/// Interrupts every loop again and again, until told to stop.
fn storm(stop: &AtomicBool) {
    // Those of a node that has just ended may be listed for a moment more.
    let loops = loop {
        match loops() {
            loops if loops.len() == 2 => break loops,
            _ => thread::yield_now(),
        }
    };
    while !stop.load(Relaxed) {
        for id in &loops {
            // SAFETY: a plain system call on a thread of this process.
            let sent = unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), *id, libc::SIGALRM) };
            assert_eq!(sent, 0);
        }
        thread::yield_now();
    }
}

fn echo(driver: DriverKind) {
    let node = Node::builder().mode(Mode::Stream).driver(driver).loops(2).listen_on("127.0.0.1:0").unwrap();
    let node = node.start(|_| Echo).unwrap();
    let address = node.local_addrs()[0].socket_addr().unwrap();
    let stop = AtomicBool::new(false);
    let before = HITS.load(Relaxed);
    let data: Vec<u8> = (0..1_000_003_u32).map(|n| (n.wrapping_mul(0x9E37_79B9) >> 24) as u8).collect();
    thread::scope(|scope| {
        scope.spawn(|| storm(&stop));
        while HITS.load(Relaxed) - before < ENOUGH {
            let mut client = TcpStream::connect(address).unwrap();
            let (mut writer, sent) = (client.try_clone().unwrap(), &data);
            scope.spawn(move || {
                writer.write_all(sent).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut got = Vec::new();
            client.read_to_end(&mut got).unwrap();
            assert!(got == data, "{} bytes", got.len());
        }
        stop.store(true, Relaxed);
    });
    node.handle().shutdown(Duration::from_secs(60));
    node.join().unwrap();
}

#[test]
fn a_storm_of_signals_is_not_noticed() {
    install();
    for driver in [DriverKind::Uring, DriverKind::TokioUring] {
        echo(driver);
    }
}
