//! Bytes on their way between two sockets: what can be read and written, FIN, and what a reset costs.

use std::net::Shutdown;
use std::time::Duration;

use super::{Network, Readable, Segment, SocketId, Stage, errno};
use crate::driver::uring::sim::choices::Fault;

impl Network {
    pub(in crate::driver::uring::sim) fn readable(&self, id: SocketId) -> Readable {
        let socket = &self.sockets[&id];
        match socket.error {
            _ if !socket.data.is_empty() => Readable::Data(socket.data.len()),
            _ if socket.fin => Readable::Eof,
            Some(errno) => Readable::Error(errno),
            None if socket.shut_read || socket.stage == Stage::Dead => Readable::Eof,
            None => Readable::Nothing,
        }
    }

    pub(in crate::driver::uring::sim) fn read(&mut self, id: SocketId, into: &mut [u8]) {
        let socket = self.sockets.get_mut(&id).expect("it is open");
        let len = into.len();
        for (byte, read) in into.iter_mut().zip(socket.data.drain(..len)) {
            *byte = read;
        }
    }

    pub(in crate::driver::uring::sim) fn take_error(&mut self, id: SocketId) -> Option<i32> {
        self.sockets.get_mut(&id).expect("it is open").error.take()
    }

    /// Bytes that a send could take now; the error when it can take none ever.
    pub(in crate::driver::uring::sim) fn writable(&self, id: SocketId) -> Result<usize, i32> {
        let socket = &self.sockets[&id];
        match (socket.error, socket.stage) {
            (Some(errno), _) => Err(errno),
            (None, Stage::Connected) if !socket.shut_write => {
                let other = socket.other.and_then(|other| self.sockets.get(&other));
                let ahead = other.map_or(0, |other| other.wire_bytes + other.data.len());
                Ok(socket.room.saturating_sub(ahead))
            }
            _ => Err(libc::EPIPE),
        }
    }

    pub(in crate::driver::uring::sim) fn write(&mut self, id: SocketId, bytes: &[u8]) {
        self.transmit(id, Segment::Data(bytes.to_vec()));
    }

    pub(in crate::driver::uring::sim) fn shutdown(
        &mut self,
        id: SocketId,
        how: Shutdown,
    ) -> std::io::Result<()> {
        let socket = self.sockets.get_mut(&id).expect("it is open");
        if socket.stage != Stage::Connected {
            return Err(errno(libc::ENOTCONN));
        }
        socket.shut_read |= how != Shutdown::Write;
        if how != Shutdown::Read && !std::mem::replace(&mut socket.shut_write, true) {
            self.transmit(id, Segment::Fin);
        }
        Ok(())
    }

    pub(in crate::driver::uring::sim) fn reset_on_close(&mut self, id: SocketId) {
        self.sockets.get_mut(&id).expect("it is open").reset_on_close = true;
    }

    pub(super) fn latency(&mut self) -> Duration {
        if self.fires(Fault::Late) {
            Duration::from_micros(1 << self.choices.below(18))
        } else {
            Duration::ZERO
        }
    }

    pub(super) fn transmit(&mut self, from: SocketId, segment: Segment) {
        let at = self.now + self.latency();
        let Some(other) = self.sockets[&from].other else { return };
        let Some(other) = self.sockets.get_mut(&other) else { return };
        let at = other.wire.back().map_or(at, |&(last, _)| at.max(last));
        if let Segment::Data(bytes) = &segment {
            other.wire_bytes += bytes.len();
        }
        other.wire.push_back((at, segment));
        self.deliver();
    }

    /// A reset, and with it some of what is still on the way is lost.
    pub(super) fn send_reset(&mut self, from: SocketId) {
        let Some(other) = self.sockets[&from].other else { return };
        let Some(waiting) = self.sockets.get(&other).map(|other| other.wire.len()) else { return };
        let kept = self.choices.below(waiting + 1);
        let other = self.sockets.get_mut(&other).expect("found above");
        other.wire.truncate(kept);
        other.wire_bytes = other.wire.iter().map(|(_, segment)| segment.len()).sum();
        self.transmit(from, Segment::Reset);
    }

    /// The network, or the peer's kernel, ends the connection.
    pub(super) fn break_off(&mut self, id: SocketId, errno: i32) {
        let socket = self.sockets.get_mut(&id).expect("it exists");
        if socket.stage == Stage::Connected {
            socket.stage = Stage::Dead;
            // A reset after FIN is a broken pipe to who sends, and nothing to who receives.
            socket.error = Some(if socket.fin { libc::EPIPE } else { errno });
            socket.wire.clear();
            socket.wire_bytes = 0;
        }
    }

    /// Ends a connection at both ends, as a fault of the network.
    pub(crate) fn break_one(&mut self, errno: i32) -> bool {
        let live: Vec<_> = self
            .sockets
            .iter()
            .filter(|(_, s)| s.stage == Stage::Connected && !s.closed)
            .map(|(&id, _)| id)
            .collect();
        if live.is_empty() {
            return false;
        }
        let chosen = live[self.choices.below(live.len())];
        let other = self.sockets[&chosen].other;
        for id in other.into_iter().chain([chosen]) {
            if self.sockets.contains_key(&id) {
                self.break_off(id, errno);
            }
        }
        true
    }
}
