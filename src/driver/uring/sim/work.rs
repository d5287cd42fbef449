//! What a simulated kernel does with an operation: begin it, go on with it when something can be done, end it when it
//! is cancelled. Where Linux has a choice, so has this, by the seed.

use socket2::SockAddr;

use super::choices::Fault;
use super::network::{Network, Readable};
use super::ring::{Kind, Op, Ring, gather};
use super::{ENTER_TIME, State};
use crate::driver::uring::kernel::{Cqe, EnterWait, Fd, Sqe};
use crate::driver::uring::token::Token;

/// Completions of one receive in one go, as Linux has had it since 6.8.
const MOST_IN_A_ROW: usize = 32;

impl State {
    /// `io_uring_enter`: submits, works, and notes what the caller waits for.
    pub(super) fn enter(&mut self, wait: EnterWait) {
        self.parked = None;
        let network = self.network.clone();
        let mut network = network.borrow_mut();
        let now = network.now + ENTER_TIME;
        network.advance(now);
        if !self.dead && network.fires(Fault::EnterEarly) {
            return;
        }
        self.ring.flush_overflow();
        let works_first = network.choices.below(2) == 1;
        if works_first {
            self.work(&mut network);
        }
        let all_submitted = self.submit(&mut network);
        self.work(&mut network);
        if self.alone || self.dead {
            self.wait_alone(&mut network, wait);
        }
        self.overflows += u64::from(self.ring.overflows());
        if all_submitted && !self.ring.has_completions() {
            (self.parked, self.parked_at) = (Some(wait), network.now);
        }
    }

    fn submit(&mut self, network: &mut Network) -> bool {
        let queued = self.ring.submitted.len();
        let part = queued > 1 && !self.dead && network.fires(Fault::SubmitPart);
        let count = if part { 1 + network.choices.below(queued - 1) } else { queued };
        for (user_data, sqe) in self.ring.submitted.drain(..count).collect::<Vec<_>>() {
            self.begin(network, user_data, sqe);
        }
        !part
    }

    fn wait_alone(&mut self, network: &mut Network, wait: EnterWait) {
        let until = match wait {
            EnterWait::Not => return,
            EnterWait::AtMost(time) => Some(network.now + time),
            EnterWait::Forever => None,
        };
        while !self.ring.has_completions() {
            let soon = self.has_work(network).then(|| network.now + ENTER_TIME);
            let next = network.next_event().into_iter().chain(until).chain(soon).min();
            let Some(next) = next else { return };
            network.advance(next);
            self.work(network);
            if until.is_some_and(|until| network.now >= until) {
                return;
            }
        }
    }

    fn complete(&mut self, network: &mut Network, cqe: Cqe) {
        if !self.ring.has_room() {
            network.faults.note(Fault::QueueFull);
        }
        let host = self.ring.host;
        let numbers =
            [host.0 as u64, cqe.user_data, cqe.result as u64, u64::from(cqe.more), network.now.as_nanos()];
        let at = network.now.as_nanos();
        network.trace.add(&numbers, || {
            let Cqe { user_data, result, more, buffer } = cqe;
            let (goes_on, buffer) =
                (if more { " more" } else { "" }, buffer.map(|buffer| format!(" buffer {buffer}")));
            format!(
                "{at} n{}: {} = {result}{goes_on}{}",
                host.0,
                name_of(user_data),
                buffer.unwrap_or_default()
            )
        });
        self.ring.complete(cqe);
    }

    /// The one completion of an operation, or its last.
    fn end(&mut self, network: &mut Network, user_data: u64, result: i32) {
        self.ring.ops.remove(&user_data);
        self.complete(network, Cqe { user_data, result, more: false, buffer: None });
    }

    pub(super) fn close(&mut self, fd: Fd) {
        let network = self.network.clone();
        let mut network = network.borrow_mut();
        self.close_on(&mut network, fd);
    }

    fn close_on(&mut self, network: &mut Network, fd: Fd) {
        let host = self.ring.host;
        if self.dead {
            return; // the kernel has done it
        }
        if self.ring.is_used(fd) {
            network.violated(|| format!("{host:?}: {fd:?} is closed with an operation on it"));
        }
        network.close(host, fd);
    }

    fn begin(&mut self, network: &mut Network, user_data: u64, sqe: Sqe) {
        let (host, at) = (self.ring.host, network.now.as_nanos());
        network
            .trace
            .add(&[host.0 as u64, user_data], || format!("{at} n{}: {} {sqe:?}", host.0, name_of(user_data)));
        match sqe {
            Sqe::Close { fd } => {
                self.close_on(network, fd);
                return self.end(network, user_data, 0);
            }
            Sqe::Cancel { target } => return self.cancel(network, user_data, target),
            Sqe::Accept { .. }
            | Sqe::Connect { .. }
            | Sqe::Receive { .. }
            | Sqe::Send { .. }
            | Sqe::SendGather { .. }
            | Sqe::Wake => {}
        }
        if self.dead {
            return self.end(network, user_data, -libc::ECANCELED);
        }
        // SAFETY: the pusher's promise; the operation is taken by this `enter`.
        let kind = unsafe { Ring::kind_of(network, host, sqe) };
        let Some(kind) = kind else {
            network.violated(|| format!("{host:?}: {sqe:?} on what is not open"));
            return self.end(network, user_data, -libc::EBADF);
        };
        if let (Sqe::Connect { address, .. }, Kind::Connect { socket }) = (sqe, &kind) {
            // SAFETY: the address stays until `enter` has taken the operation.
            let address: &SockAddr = unsafe { &*address };
            network.connect(*socket, address.as_socket().expect("only IP addresses are simulated"));
            network.deliver();
        }
        if self.ring.ops.insert(user_data, Op { kind, fd: fd_of(sqe), dying: false }).is_some() {
            network.violated(|| format!("{host:?}: two operations {user_data:#x} at once"));
        }
        // Both are refused at once, before there is a connection or a byte.
        let op = &self.ring.ops[&user_data];
        let refused = match op.kind {
            Kind::Receive { .. } if !self.ring.has_buffer() => Some(Fault::NoBuffer),
            Kind::Accept { .. } if network.lacks_descriptors(host) => Some(Fault::NoDescriptors),
            Kind::Accept { .. }
            | Kind::Connect { .. }
            | Kind::Receive { .. }
            | Kind::Send { .. }
            | Kind::Wake => None,
        };
        if refused.is_some() {
            self.go_on(network, user_data);
        }
    }

    // Cancelling.

    fn cancel(&mut self, network: &mut Network, user_data: u64, target: u64) {
        let Some(op) = self.ring.ops.get_mut(&target) else {
            return self.end(network, user_data, -libc::ENOENT);
        };
        if !self.dead && network.fires(Fault::CancelLate) {
            op.dying = true;
            return self.end(network, user_data, -libc::EALREADY);
        }
        if network.fires(Fault::CancelFirst) {
            self.end(network, user_data, 0);
            self.end_cancelled(network, target);
        } else {
            self.end_cancelled(network, target);
            self.end(network, user_data, 0);
        }
    }

    fn end_cancelled(&mut self, network: &mut Network, target: u64) {
        let result = match self.ring.ops[&target].kind {
            Kind::Send { done, .. } if done > 0 => done as i32,
            Kind::Accept { .. }
            | Kind::Connect { .. }
            | Kind::Receive { .. }
            | Kind::Send { .. }
            | Kind::Wake => -libc::ECANCELED,
        };
        self.end(network, target, result);
    }

    // Going on.

    /// True when some operation can go on now.
    pub(super) fn has_work(&self, network: &Network) -> bool {
        self.ring.ops.values().any(|op| self.can_go_on(network, op))
    }

    fn can_go_on(&self, network: &Network, op: &Op) -> bool {
        self.dead
            || op.dying
            || match op.kind {
                Kind::Accept { at } => network.has_backlog(at),
                Kind::Connect { socket } => network.connected(socket).is_some(),
                Kind::Receive { socket } => network.readable(socket) != Readable::Nothing,
                Kind::Send { socket, .. } => network.writable(socket) != Ok(0),
                Kind::Wake => self.wakes_seen != self.wakes.0.load(std::sync::atomic::Ordering::SeqCst),
            }
    }

    fn work(&mut self, network: &mut Network) {
        let mut due: Vec<u64> = self
            .ring
            .ops
            .iter()
            .filter(|(_, op)| self.can_go_on(network, op))
            .map(|(&name, _)| name)
            .collect();
        while !due.is_empty() {
            let name = due.swap_remove(network.choices.below(due.len()));
            if !self.dead && network.fires(Fault::WorkLeft) {
                continue;
            }
            // What was done before may have changed it.
            if self.ring.ops.get(&name).is_some_and(|op| self.can_go_on(network, op)) {
                self.go_on(network, name);
            }
        }
        if network.fires(Fault::WakeForNothing) {
            self.wakes.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }

    fn go_on(&mut self, network: &mut Network, name: u64) {
        let op = &mut self.ring.ops.get_mut(&name).expect("it is in flight");
        if self.dead || op.dying && network.choices.below(4) != 3 {
            return self.end_cancelled(network, name);
        }
        match op.kind {
            Kind::Accept { at } => self.accept(network, name, at),
            Kind::Connect { socket } => {
                let result = network.connected(socket);
                // One whose cancel came too late may still be on its way.
                self.end(network, name, result.unwrap_or(-libc::ECANCELED));
            }
            Kind::Receive { socket } => self.receive(network, name, socket),
            Kind::Send { .. } => self.send(network, name),
            Kind::Wake => {
                self.wakes_seen = self.wakes.0.load(std::sync::atomic::Ordering::SeqCst);
                let more = !network.fires(Fault::WakeEnds) && self.ring.has_room();
                self.tell(network, Cqe { user_data: name, result: 1, more, buffer: None });
            }
        }
    }

    /// A completion of a multishot; the last one ends it.
    fn tell(&mut self, network: &mut Network, cqe: Cqe) {
        if !cqe.more {
            self.ring.ops.remove(&cqe.user_data);
        }
        self.complete(network, cqe);
    }

    fn accept(&mut self, network: &mut Network, name: u64, at: std::net::SocketAddr) {
        let host = self.ring.host;
        loop {
            if network.lacks_descriptors(host) {
                self.lacks += 1;
                network.faults.note(Fault::NoDescriptors);
                let errno =
                    [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS][network.choices.below(4)];
                return self.end(network, name, -errno);
            }
            if !network.has_backlog(at) {
                return;
            }
            if network.fires(Fault::AcceptFails) {
                network.drop_first(at);
                let errno =
                    [libc::ECONNABORTED, libc::EPROTO, libc::ENETDOWN, libc::EINTR][network.choices.below(4)];
                return self.end(network, name, -errno);
            }
            let more = !network.fires(Fault::AcceptEnds) && self.ring.has_room();
            let socket = network.accept(at).expect("the backlog was not empty");
            let fd = network.open(host, super::network::File::Socket(socket));
            self.tell(network, Cqe { user_data: name, result: fd.0, more, buffer: None });
            if !more {
                return;
            }
        }
    }

    fn receive(&mut self, network: &mut Network, name: u64, socket: super::network::SocketId) {
        if network.fires(Fault::ReceiveLetGo) {
            let errno = [libc::ECANCELED, libc::EAGAIN, libc::EINTR][network.choices.below(3)];
            return self.end(network, name, -errno);
        }
        for received in 0..MOST_IN_A_ROW {
            let readable = network.readable(socket);
            if received > 0 && readable == Readable::Nothing {
                return;
            }
            // The buffer comes first, even when there is nothing to put into it.
            if !self.ring.has_buffer() {
                network.faults.note(Fault::NoBuffer);
                return self.end(network, name, -libc::ENOBUFS);
            }
            let len = match readable {
                Readable::Nothing => return,
                Readable::Data(len) => len,
                Readable::Eof => return self.end_receive(network, name, 0),
                Readable::Error(errno) => {
                    network.take_error(socket);
                    return self.end_receive(network, name, -errno);
                }
            };
            let mut len = len.min(self.ring.buffer_size());
            if len > 1 && network.fires(Fault::ShortReceive) {
                len = 1 + network.choices.below(len - 1);
            }
            let buffer = self.take_buffer(network).expect("there is one");
            self.ring.receive(buffer, len, network, socket);
            let more = !network.fires(Fault::ReceiveEnds) && self.ring.has_room();
            self.tell(network, Cqe { user_data: name, result: len as i32, more, buffer: Some(buffer) });
            if !more {
                return;
            }
        }
    }

    fn end_receive(&mut self, network: &mut Network, name: u64, result: i32) {
        let takes = network.fires(Fault::BufferForNothing);
        let buffer = if takes { self.take_buffer(network) } else { None };
        self.tell(network, Cqe { user_data: name, result, more: false, buffer });
    }

    fn take_buffer(&mut self, network: &mut Network) -> Option<u16> {
        let host = self.ring.host;
        let (buffer, untouched) = self.ring.take_buffer()?;
        if !untouched {
            network
                .violated(|| format!("{host:?}: buffer {buffer} was written to while it was the kernel's"));
        }
        Some(buffer)
    }

    fn send(&mut self, network: &mut Network, name: u64) {
        let host = self.ring.host;
        let Some(Op { kind: Kind::Send { socket, data, len, done }, .. }) = self.ring.ops.get_mut(&name)
        else {
            unreachable!("asked for a send alone")
        };
        let (socket, len) = (*socket, *len);
        let again = network.fires(Fault::SendAgain);
        let taken = match network.writable(socket) {
            // Progress first; the error is for the next one.
            _ if *done > 0 && again => *done as i32,
            _ if again => -[libc::EAGAIN, libc::ECANCELED, libc::EINTR][network.choices.below(3)],
            Err(_) if *done > 0 => *done as i32,
            Err(errno) => {
                network.take_error(socket);
                -errno
            }
            Ok(room) => {
                let mut count = room.min(len - *done);
                let short = count > 1 && network.fires(Fault::ShortSend);
                if short {
                    count = 1 + network.choices.below(count - 1);
                }
                let (bytes, unchanged) = gather(data, *done, count);
                if !unchanged {
                    network
                        .violated(|| format!("{host:?}: the bytes of a send changed while it was in flight"));
                }
                network.write(socket, &bytes);
                *done += count;
                if !short && *done < len {
                    return;
                }
                *done as i32
            }
        };
        self.end(network, name, taken);
    }
}

/// An operation's name for people to read.
fn name_of(user_data: u64) -> String {
    Token::from_user_data(user_data).map_or_else(
        || format!("{user_data:#x}"),
        |Token { kind, generation, slot }| format!("{kind:?} {slot}.{generation}"),
    )
}

fn fd_of(sqe: Sqe) -> Option<Fd> {
    match sqe {
        Sqe::Accept { fd }
        | Sqe::Connect { fd, .. }
        | Sqe::Receive { fd }
        | Sqe::Send { fd, .. }
        | Sqe::SendGather { fd, .. }
        | Sqe::Close { fd } => Some(fd),
        Sqe::Cancel { .. } | Sqe::Wake => None,
    }
}
