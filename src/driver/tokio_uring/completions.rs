//! The way up: ends of tasks to what they mean for a channel.

use std::io;

use super::tasks::{End, Joined};
use super::{Outcome, TokioUringDriver};
use crate::driver::acceptor::AcceptEnd;
use crate::driver::{Accepted, Completion, Driver, ListenerId};
use crate::error::Errno;
use crate::id::ChannelId;

impl TokioUringDriver {
    pub(super) fn next_outcome(&mut self) -> Option<Outcome> {
        loop {
            if let Some(completion) = self.ready.pop_front() {
                return Some(Outcome::Other(completion));
            }
            let Some(end) = self.ends.pop() else {
                self.note_recovered_acceptors();
                return self.ready.pop_front().map(Outcome::Other);
            };
            self.counters.completions.add(1);
            let outcome = match end {
                End::Woken => Some(Outcome::Other(Completion::Woken)),
                End::Accept { listener, result } => {
                    self.in_flight -= 1;
                    self.handle_accept(listener, result).map(Outcome::Other)
                }
                End::Dial { channel, result } => {
                    self.in_flight -= 1;
                    Some(Outcome::Other(self.handle_dial(channel, result)))
                }
                End::Receive { channel, result, buffer } => {
                    self.in_flight -= 1;
                    self.receiving -= 1;
                    self.handle_receive(channel, &result, buffer)
                }
                End::Send { channel, result, batch } => {
                    self.in_flight -= 1;
                    self.sockets.change(channel).handle_send_end();
                    let error = result.as_ref().err().map(Errno::from);
                    Some(Outcome::Other(Completion::Sent { channel, batch, error }))
                }
            };
            if outcome.is_some() {
                return outcome;
            }
        }
    }

    fn handle_accept(
        &mut self,
        listener: ListenerId,
        result: io::Result<Joined>,
    ) -> Option<Completion<'static>> {
        let now = self.now();
        let acceptor = self.acceptors.get_mut(listener).expect("its accept was in flight");
        let end = acceptor.handle_accept(result.map_err(|error| Errno::from(&error)), false, now);
        self.close_listener_if_done(listener);
        match end {
            AcceptEnd::Accepted(Joined { stream, endpoints }) => {
                let socket = Accepted(self.accepted.insert(stream) as u64);
                Some(Completion::Accepted { listener, socket, endpoints })
            }
            AcceptEnd::Paused(errno) => {
                self.counters.accepts_paused.add(1);
                Some(Completion::AcceptPaused { listener, errno })
            }
            AcceptEnd::Failed(errno) => Some(Completion::ListenFailed { listener, errno }),
            AcceptEnd::Nothing => None,
        }
    }

    fn handle_dial(&mut self, channel: ChannelId, result: io::Result<Joined>) -> Completion<'static> {
        match result {
            Ok(Joined { stream, endpoints }) => {
                self.sockets.change(channel).handle_dialed(stream);
                Completion::Dialed { channel, endpoints }
            }
            Err(error) => {
                self.sockets.remove(channel.slot());
                self.acceptors.descriptor_freed();
                Completion::DialFailed { channel, errno: Errno::from(&error) }
            }
        }
    }

    fn handle_receive(
        &mut self,
        channel: ChannelId,
        result: &io::Result<usize>,
        buffer: Vec<u8>,
    ) -> Option<Outcome> {
        let socket = self.sockets.change(channel);
        let errno = result.as_ref().err().map(Errno::from);
        let goes_on = match errno {
            Some(errno) => matches!(errno.0, libc::ECANCELED | libc::EAGAIN | libc::EINTR),
            None => !buffer.is_empty(),
        };
        socket.handle_receive_end(!goes_on);
        if socket.is_closing() || (errno.is_some() && goes_on) {
            self.spare(buffer);
            return None;
        }
        if goes_on {
            return Some(Outcome::Received { channel, buffer });
        }
        self.spare(buffer);
        Some(Outcome::Other(match errno {
            Some(errno) => Completion::ReceiveFailed { channel, errno },
            None => Completion::PeerEof { channel },
        }))
    }

    fn note_recovered_acceptors(&mut self) {
        if self.accepts_are_fresh {
            return;
        }
        while let Some(listener) = self.acceptors.next_recovered() {
            self.ready.push_back(Completion::AcceptResumed { listener });
        }
    }
}
