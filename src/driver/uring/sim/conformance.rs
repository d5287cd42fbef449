//! What the simulated kernel owes to the real one: small scripts that run on both and must see the same completions.
//! Both ends of each connection are on the one kernel under test. Where this machine's Linux and the simulation part,
//! the simulation is wrong, or Linux has changed.

use std::net::Shutdown;
use std::time::Duration;

use super::choices::{Choices, Faults};
use super::network::Network;
use super::*;
use crate::driver::uring::recv_buffers::RecvBuffers;
use crate::driver::uring::setup;

/// How long a completion may take that must come, and how long none is waited for that must not.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(30);

/// One script, held against both kernels.
macro_rules! script {
    ($name:ident, |$rig:ident| $body:block) => {
        mod $name {
            use super::*;

            fn script<K: Kernel>($rig: &mut Rig<K>) $body

            #[test]
            fn simulated() {
                script(&mut simulated_rig());
            }

            #[test]
            fn host() {
                script(&mut host_rig());
            }
        }
    };
}

const OPTIONS: RingOptions = RingOptions {
    submission_entries: 16,
    completion_entries: 32,
    receive_buffers: 4,
    receive_buffer_size: 64,
    completion_budget: 1,
    send_size: 1,
};

fn host_rig() -> Rig<super::super::HostKernel> {
    Rig::new(setup::host_kernel(&OPTIONS).unwrap())
}

fn simulated_rig() -> Rig<SimKernel> {
    let network = Network::new(Choices::new(0, 0, Vec::new()), Faults::none(), 64 << 10);
    let network = Rc::new(RefCell::new(network));
    let host = network.borrow_mut().add_host();
    let (kernel, outside) = SimKernel::new(&network, host, &OPTIONS);
    outside.run_alone();
    Rig::new(kernel)
}

/// A kernel, and who waits for it. Operations are named by small numbers.
struct Rig<K: Kernel> {
    kernel: K,
    buffers: RecvBuffers,
    addresses: Vec<Rc<SockAddr>>,
    /// Received bytes, whichever operation they came by.
    received: Vec<u8>,
}

impl<K: Kernel> Rig<K> {
    fn new(mut kernel: K) -> Self {
        let buffers =
            RecvBuffers::register(&mut kernel, OPTIONS.receive_buffers, OPTIONS.receive_buffer_size).unwrap();
        Self { kernel, buffers, addresses: Vec::new(), received: Vec::new() }
    }

    fn push(&mut self, name: u64, sqe: Sqe) {
        // SAFETY: scripts keep what they send until the end; addresses are in the rig.
        unsafe { self.kernel.push(name, sqe) };
    }

    /// The next completions, so many, each as words: name, result, what goes on, what it took. Buffers go back at once
    /// when `give_back` says so.
    fn take(&mut self, count: usize, give_back: bool) -> Vec<String> {
        let deadline = self.kernel.now() + LONG;
        let mut log = Vec::new();
        while log.len() < count {
            if let Some(cqe) = self.kernel.next_cqe() {
                log.push(self.tell(cqe, give_back));
                continue;
            }
            let now = self.kernel.now();
            assert!(now < deadline, "{count} completions were to come: {log:?}");
            self.kernel.enter(EnterWait::AtMost(deadline - now)).unwrap();
        }
        log
    }

    fn tell(&mut self, cqe: Cqe, give_back: bool) -> String {
        if let Some(buffer) = cqe.buffer {
            self.buffers.take(buffer);
            let len = usize::try_from(cqe.result).unwrap_or(0);
            self.received.extend_from_slice(self.buffers.bytes(buffer, len));
            if give_back {
                self.buffers.give_back(&mut self.kernel, buffer);
            }
        }
        let goes_on = if cqe.more { " more" } else { "" };
        format!("{} {}{goes_on}", cqe.user_data, cqe.result)
    }

    /// These completions come next, in any order, and no other.
    #[track_caller]
    fn expect(&mut self, expected: &[&str]) {
        let mut log = self.take(expected.len(), true);
        log.sort();
        assert_eq!(log, expected);
        self.expect_nothing();
    }

    #[track_caller]
    fn expect_nothing(&mut self) {
        self.kernel.enter(EnterWait::AtMost(SHORT)).unwrap();
        assert_eq!(self.kernel.next_cqe(), None);
    }

    fn listen(&mut self) -> (Fd, Endpoint) {
        let at = Endpoint::Tcp(([127, 0, 0, 1], 0).into());
        self.kernel.open_listener(&at, false, &SocketOptions::default()).unwrap()
    }

    fn dial(&mut self, name: u64, to: &Endpoint) -> Fd {
        let options = SocketOptions {
            send_buffer: Some(8 << 10),
            receive_buffer: Some(8 << 10),
            ..SocketOptions::default()
        };
        let (fd, address) = self.kernel.open_socket(to, &options).unwrap();
        let address = Rc::new(address);
        self.addresses.push(Rc::clone(&address));
        let address = Rc::as_ptr(&address);
        self.push(name, Sqe::Connect { fd, address });
        fd
    }

    /// Two ends of a connection, the one that dialed first. The names up to 19 are free.
    fn pair(&mut self) -> (Fd, Fd) {
        let (listener, at) = self.listen();
        self.push(90, Sqe::Accept { fd: listener });
        let dialed = self.dial(91, &at);
        let log = self.take(2, true);
        let accepted = log.iter().find_map(|line| line.strip_prefix("90 ")?.strip_suffix(" more")).unwrap();
        let accepted = Fd(accepted.parse().unwrap());
        self.push(92, Sqe::Cancel { target: 90 });
        let mut log = self.take(2, true);
        log.sort();
        assert_eq!(log, ["90 -125", "92 0"]);
        self.kernel.close(listener, None);
        (dialed, accepted)
    }

    fn send(&mut self, name: u64, fd: Fd, bytes: &'static [u8]) {
        self.push(name, Sqe::Send { fd, data: bytes.as_ptr(), len: bytes.len() });
    }

    fn receive(&mut self, name: u64, fd: Fd) {
        self.push(name, Sqe::Receive { fd });
    }
}

static MUCH: [u8; 8 << 20] = [7; 8 << 20];

script!(a_connect_and_an_accept_that_goes_on, |rig| {
    let (listener, at) = rig.listen();
    rig.push(1, Sqe::Accept { fd: listener });
    rig.dial(2, &at);
    rig.dial(3, &at);
    let mut log = rig.take(4, true);
    log.sort();
    assert!(log[0].starts_with("1 ") && log[0].ends_with(" more"), "{log:?}");
    assert!(log[1].starts_with("1 ") && log[1].ends_with(" more"), "{log:?}");
    assert_eq!(log[2..], ["2 0", "3 0"]);
    rig.expect_nothing();
});

script!(who_knocked_before_the_accept_is_accepted, |rig| {
    let (listener, at) = rig.listen();
    rig.dial(2, &at);
    rig.expect(&["2 0"]);
    rig.push(1, Sqe::Accept { fd: listener });
    let log = rig.take(1, true);
    assert!(log[0].ends_with(" more"), "{log:?}");
});

script!(a_connect_to_nobody_is_refused, |rig| {
    let (listener, at) = rig.listen();
    rig.kernel.close(listener, None);
    rig.dial(1, &at);
    rig.expect(&["1 -111"]);
});

script!(an_address_is_taken_once, |rig| {
    let (_listener, at) = rig.listen();
    let again = rig.kernel.open_listener(&at, false, &SocketOptions::default());
    assert_eq!(again.unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
});

script!(both_ends_know_each_other, |rig| {
    let (a, b) = rig.pair();
    assert_eq!(rig.kernel.local_endpoint(a).unwrap(), rig.kernel.peer_endpoint(b).unwrap());
    assert_eq!(rig.kernel.local_endpoint(b).unwrap(), rig.kernel.peer_endpoint(a).unwrap());
});

script!(an_accept_that_is_cancelled, |rig| {
    let (listener, _) = rig.listen();
    rig.push(1, Sqe::Accept { fd: listener });
    rig.expect_nothing();
    rig.push(2, Sqe::Cancel { target: 1 });
    rig.expect(&["1 -125", "2 0"]);
});

script!(a_receive_goes_on_after_data, |rig| {
    let (a, b) = rig.pair();
    rig.receive(1, b);
    rig.send(2, a, b"hello");
    rig.expect(&["1 5 more", "2 5"]);
    rig.send(2, a, b" again");
    rig.expect(&["1 6 more", "2 6"]);
    assert_eq!(rig.received, b"hello again");
});

script!(more_than_a_buffer_comes_in_several, |rig| {
    let (a, b) = rig.pair();
    rig.send(2, a, &MUCH[..150]);
    rig.expect(&["2 150"]);
    rig.receive(1, b);
    rig.expect(&["1 22 more", "1 64 more", "1 64 more"]);
});

script!(an_end_of_file_ends_a_receive, |rig| {
    let (a, b) = rig.pair();
    rig.receive(1, b);
    rig.push(3, Sqe::Close { fd: a });
    rig.expect(&["1 0", "3 0"]);
});

script!(data_comes_before_the_end_of_file, |rig| {
    let (a, b) = rig.pair();
    rig.send(2, a, b"last");
    rig.expect(&["2 4"]);
    rig.kernel.shutdown(a, Shutdown::Write).unwrap();
    rig.receive(1, b);
    rig.expect(&["1 0", "1 4 more"]);
});

script!(without_a_buffer_an_idle_receive_fails_at_once, |rig| {
    let (a, b) = rig.pair();
    rig.receive(1, b);
    rig.send(2, a, &MUCH[..256]);
    rig.take(5, false);
    rig.receive(3, a);
    rig.expect(&["3 -105"]);
    rig.send(2, a, b"x");
    rig.expect(&["1 -105", "2 1"]);
});

script!(a_buffer_that_comes_back_arms_nothing, |rig| {
    let (a, b) = rig.pair();
    rig.receive(1, b);
    rig.send(2, a, &MUCH[..300]);
    let mut log = rig.take(6, false);
    log.sort();
    assert_eq!(log, ["1 -105", "1 64 more", "1 64 more", "1 64 more", "1 64 more", "2 300"]);
    for buffer in 0..4 {
        rig.buffers.give_back(&mut rig.kernel, buffer);
    }
    rig.expect_nothing();
    rig.receive(1, b);
    rig.expect(&["1 44 more"]);
});

script!(an_end_of_file_needs_a_buffer_too, |rig| {
    let (a, b) = rig.pair();
    rig.receive(1, b);
    rig.send(2, a, &MUCH[..256]);
    rig.take(5, false);
    rig.kernel.shutdown(a, Shutdown::Write).unwrap();
    rig.expect(&["1 -105"]);
    rig.buffers.give_back(&mut rig.kernel, 0);
    rig.receive(1, b);
    rig.expect(&["1 0"]);
});

script!(after_a_reset_data_then_the_error_then_end_of_file, |rig| {
    let (a, b) = rig.pair();
    rig.send(2, a, b"data");
    rig.expect(&["2 4"]);
    rig.kernel.reset_on_close(a).unwrap();
    rig.push(3, Sqe::Close { fd: a });
    rig.expect(&["3 0"]);
    rig.receive(1, b);
    rig.expect(&["1 -104", "1 4 more"]);
    rig.receive(1, b);
    rig.expect(&["1 0"]);
    rig.send(2, b, b"x");
    rig.expect(&["2 -32"]);
});

script!(a_reset_is_told_once_to_a_send_if_it_asks_first, |rig| {
    let (a, b) = rig.pair();
    rig.kernel.reset_on_close(a).unwrap();
    rig.push(3, Sqe::Close { fd: a });
    rig.expect(&["3 0"]);
    rig.send(2, b, b"x");
    rig.expect(&["2 -104"]);
    rig.send(2, b, b"x");
    rig.expect(&["2 -32"]);
    rig.receive(1, b);
    rig.expect(&["1 0"]);
});

script!(a_reset_connection_has_no_peer, |rig| {
    let (a, b) = rig.pair();
    rig.kernel.reset_on_close(a).unwrap();
    rig.push(3, Sqe::Close { fd: a });
    rig.expect(&["3 0"]);
    assert_eq!(rig.kernel.peer_endpoint(b).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    assert_eq!(rig.kernel.shutdown(b, Shutdown::Both).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
});

script!(one_that_reset_in_the_backlog_is_accepted_all_the_same, |rig| {
    let (listener, at) = rig.listen();
    let fd = rig.dial(2, &at);
    rig.expect(&["2 0"]);
    rig.kernel.reset_on_close(fd).unwrap();
    rig.kernel.close(fd, None);
    rig.push(1, Sqe::Accept { fd: listener });
    let log = rig.take(1, true);
    let accepted = Fd(log[0].strip_prefix("1 ").unwrap().strip_suffix(" more").unwrap().parse().unwrap());
    assert_eq!(rig.kernel.peer_endpoint(accepted).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
});

script!(unread_data_makes_a_close_a_reset, |rig| {
    let (a, b) = rig.pair();
    rig.send(2, a, b"never read");
    rig.expect(&["2 10"]);
    rig.receive(1, a);
    rig.push(3, Sqe::Close { fd: b });
    rig.expect(&["1 -104", "3 0"]);
});

script!(bytes_for_who_is_gone_bring_a_broken_pipe, |rig| {
    let (a, b) = rig.pair();
    rig.push(3, Sqe::Close { fd: b });
    rig.expect(&["3 0"]);
    rig.send(2, a, b"x");
    rig.expect(&["2 1"]);
    rig.send(2, a, b"x");
    rig.expect(&["2 -32"]);
    rig.receive(1, a);
    rig.expect(&["1 0"]);
});

script!(a_gathered_send_is_one_completion, |rig| {
    let (a, b) = rig.pair();
    let slice = |bytes: &'static [u8]| libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut slices = [slice(b"one "), slice(b"two "), slice(b"three")];
    // SAFETY: all-zero is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (slices.as_mut_ptr(), slices.len());
    rig.push(2, Sqe::SendGather { fd: a, header: &raw const header });
    rig.expect(&["2 13"]);
    rig.receive(1, b);
    rig.expect(&["1 13 more"]);
    assert_eq!(rig.received, b"one two three");
});

script!(a_send_waits_until_all_is_taken, |rig| {
    let (a, b) = rig.pair();
    rig.send(2, a, &MUCH[..1 << 20]);
    rig.expect_nothing();
    rig.receive(1, b);
    let mut sent = None;
    while sent.is_none() || rig.received.len() < 1 << 20 {
        let log = rig.take(1, true).remove(0);
        match log.split_once(' ').unwrap() {
            ("1", result) if !result.ends_with(" more") => rig.receive(1, b),
            ("2", result) => sent = Some(result.to_owned()),
            _ => {}
        }
    }
    assert_eq!(sent.as_deref(), Some("1048576"));
});

script!(a_cancelled_send_tells_what_went_out, |rig| {
    let (a, _b) = rig.pair();
    rig.send(2, a, &MUCH);
    rig.expect_nothing();
    rig.push(3, Sqe::Cancel { target: 2 });
    let mut log = rig.take(2, true);
    log.sort();
    let sent: i32 = log[0].strip_prefix("2 ").unwrap().parse().unwrap();
    assert!(sent > 0 && (sent as usize) < MUCH.len(), "{log:?}");
    assert_eq!(log[1], "3 0");
});

script!(a_send_that_is_shut_down_tells_what_went_out, |rig| {
    let (a, _b) = rig.pair();
    rig.send(2, a, &MUCH);
    rig.expect_nothing();
    rig.kernel.shutdown(a, Shutdown::Both).unwrap();
    let log = rig.take(1, true);
    let sent: i32 = log[0].strip_prefix("2 ").unwrap().parse().unwrap();
    assert!(sent > 0 && (sent as usize) < MUCH.len(), "{log:?}");
});

script!(a_cancelled_receive_and_a_cancel_too_late, |rig| {
    let (a, _b) = rig.pair();
    rig.receive(1, a);
    rig.expect_nothing();
    rig.push(2, Sqe::Cancel { target: 1 });
    rig.expect(&["1 -125", "2 0"]);
    rig.push(2, Sqe::Cancel { target: 1 });
    rig.expect(&["2 -2"]);
});

script!(a_cancelled_receive_lost_nothing, |rig| {
    let (a, b) = rig.pair();
    rig.receive(1, b);
    rig.expect_nothing();
    rig.push(2, Sqe::Cancel { target: 1 });
    rig.expect(&["1 -125", "2 0"]);
    rig.send(3, a, b"kept");
    rig.expect(&["3 4"]);
    rig.receive(1, b);
    rig.expect(&["1 4 more"]);
});

script!(a_shutdown_of_both_halves_ends_the_receive, |rig| {
    let (a, b) = rig.pair();
    rig.receive(1, a);
    rig.receive(2, b);
    rig.expect_nothing();
    rig.kernel.shutdown(a, Shutdown::Both).unwrap();
    rig.expect(&["1 0", "2 0"]);
});

script!(a_shutdown_of_the_sending_half_leaves_the_other, |rig| {
    let (a, b) = rig.pair();
    rig.receive(1, a);
    rig.receive(2, b);
    rig.kernel.shutdown(a, Shutdown::Write).unwrap();
    rig.expect(&["2 0"]);
    rig.send(3, b, b"still");
    rig.expect(&["1 5 more", "3 5"]);
    rig.send(3, a, b"x");
    rig.expect(&["3 -32"]);
});

script!(a_listener_that_closes_resets_who_waits, |rig| {
    let (listener, at) = rig.listen();
    let fd = rig.dial(2, &at);
    rig.expect(&["2 0"]);
    rig.receive(1, fd);
    rig.expect_nothing();
    rig.kernel.close(listener, None);
    rig.expect(&["1 -104"]);
});

script!(each_wake_is_a_completion, |rig| {
    rig.push(1, Sqe::Wake);
    rig.expect_nothing();
    for _ in 0..3 {
        rig.kernel.waker().wake();
        rig.expect(&["1 1 more"]);
    }
    rig.push(2, Sqe::Cancel { target: 1 });
    rig.expect(&["1 -125", "2 0"]);
});

script!(a_wake_before_the_poll_is_told, |rig| {
    rig.kernel.waker().wake();
    rig.kernel.waker().wake();
    rig.push(1, Sqe::Wake);
    rig.expect(&["1 1 more"]);
});

script!(a_full_queue_ends_a_receive_with_its_data_and_loses_nothing, |rig| {
    // 32 entries, and 40 connections with two bytes each; the buffers come back at once.
    let pairs: Vec<_> = (0..40).map(|_| rig.pair()).collect();
    let mut ended = 0;
    for (name, &(_, b)) in (100..).zip(&pairs) {
        if rig.kernel.room() == 0 {
            rig.kernel.enter(EnterWait::Not).unwrap();
        }
        rig.receive(name, b);
    }
    rig.expect_nothing();
    for (name, &(a, _)) in (1000..).zip(&pairs) {
        if rig.kernel.room() == 0 {
            rig.kernel.enter(EnterWait::Not).unwrap();
        }
        rig.send(name, a, b"ab");
    }
    while rig.received.len() < 80 {
        let line = rig.take(1, true).remove(0);
        let (name, result) = line.split_once(' ').unwrap();
        let name: usize = name.parse().unwrap();
        if name < 1000 && !result.ends_with(" more") {
            ended += 1;
            let fd = pairs[name - 100].1;
            if rig.kernel.room() == 0 {
                rig.kernel.enter(EnterWait::Not).unwrap();
            }
            rig.receive(name as u64, fd);
        }
    }
    assert!(ended > 0, "four buffers for forty");
    assert!(rig.kernel.overflows() > 0, "more than 32 completions before any was taken");
});
