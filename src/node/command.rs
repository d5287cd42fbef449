//! What other threads ask of a loop. Commands travel in a [`Mailbox`](super::mailbox::Mailbox), and the loop carries them
//! out in the order in which they were posted.

use std::sync::mpsc::SyncSender;
use std::time::Duration;

use bytes::Bytes;

use crate::addr::{Address, Endpoint};
use crate::channel::{Channel, ChunkPool};
use crate::error::SendError;
use crate::id::ChannelId;
use crate::node::core::Core;
use crate::node::dialing::Note;
use crate::node::info::ChannelInfo;
use crate::node::mailbox::Mail;
use crate::node::peers::Action;

/// Commands between two looks at the clock; a broadcast is followed by one, too.
pub(crate) const UNTIMED: usize = 64;

/// One request. Those that name a channel which is gone by then do nothing.
#[derive(Debug)]
pub(crate) enum Command {
    Dial {
        channel: ChannelId,
        address: Address,
    },
    /// The answer to a look-up: the endpoints of a dial, or why there are none.
    Resolved {
        channel: ChannelId,
        endpoints: Result<Vec<Endpoint>, String>,
    },
    /// Small sends, framed. Their bytes lie in the [`Mail`], after those of earlier ones.
    Sends {
        channel: ChannelId,
        count: usize,
        size: usize,
    },
    /// A large send, by reference. `size` is with what its frames take.
    SendBytes {
        channel: ChannelId,
        bytes: Bytes,
        size: usize,
    },
    /// A send to every open channel of the loop.
    Broadcast(Bytes),
    /// To the handler.
    Notify(u64),
    Close(ChannelId),
    Abort(ChannelId),
    ShutdownWrite(ChannelId),
    Pause(ChannelId),
    Resume(ChannelId),
    /// What `peers` decided of a channel of this loop.
    Act {
        channel: ChannelId,
        action: Action,
    },
    /// To the loop that dials the persistent peers.
    Note(Note),
    /// To the same: see [`Sought`](crate::node::sought::Sought).
    News,
    List(SyncSender<Vec<ChannelInfo>>),
    Shutdown {
        grace: Duration,
    },
}

impl Command {
    /// The bytes the command keeps alive outside the mail: they count against `mailbox_bytes` too.
    pub(crate) fn shared_bytes(&self) -> usize {
        match self {
            Self::SendBytes { bytes, .. } | Self::Broadcast(bytes) => bytes.len(),
            Self::Dial { .. }
            | Self::Resolved { .. }
            | Self::Sends { .. }
            | Self::Notify(_)
            | Self::Close(_)
            | Self::Abort(_)
            | Self::ShutdownWrite(_)
            | Self::Pause(_)
            | Self::Resume(_)
            | Self::Act { .. }
            | Self::Note(_)
            | Self::News
            | Self::List(_)
            | Self::Shutdown { .. } => 0,
        }
    }
}

impl Core {
    /// Carries out what was posted, until it is late; the rest is for the next turn. True when there was anything.
    pub(crate) fn run_commands(&mut self, is_late: impl Fn() -> bool) -> bool {
        let mut mail = std::mem::take(&mut self.mail);
        let any = !mail.is_done() || self.take_mail(&mut mail);
        self.run_mail(&mut mail, is_late);
        self.mail = mail;
        any
    }

    /// True when the loop did not come to the end of what was posted.
    pub(crate) fn has_mail(&self) -> bool {
        !self.mail.is_done() || !self.notified.is_empty()
    }

    /// No more mail is taken; what was posted before that is still carried out.
    pub(crate) fn close_mailbox(&mut self) {
        self.run_commands(|| false);
        let mut mail = self.port().mailbox.close();
        self.settings.counters.commands.add(mail.count as u64);
        self.run_mail(&mut mail, || false);
    }

    fn take_mail(&mut self, mail: &mut Mail) -> bool {
        mail.clear();
        let any = self.port().mailbox.take(mail);
        self.settings.counters.commands.add(mail.count as u64);
        any
    }

    fn run_mail(&mut self, mail: &mut Mail, is_late: impl Fn() -> bool) {
        let mut untimed = 0;
        while let Some((command, framed)) = mail.next() {
            untimed = if matches!(command, Command::Broadcast(_)) { UNTIMED } else { untimed + 1 };
            self.run_command(command, framed);
            if untimed >= UNTIMED {
                if is_late() {
                    return;
                }
                untimed = 0;
            }
        }
    }

    fn run_command(&mut self, command: Command, framed: &[u8]) {
        match command {
            Command::Dial { channel, address } => self.begin_dial(channel, address),
            Command::Resolved { channel, endpoints } => self.on_channel(channel, |c| c.resolved(endpoints)),
            Command::Sends { channel, count, size } => {
                self.send_posted(channel, size, |channel, pool| channel.send_posted(framed, count, pool));
            }
            Command::SendBytes { channel, bytes, size } => {
                self.send_posted(channel, size, |channel, pool| channel.send_bytes_posted(bytes, pool));
            }
            Command::Broadcast(bytes) => {
                self.broadcast(&bytes);
            }
            Command::Notify(token) => self.notified.push_back(token),
            Command::Close(channel) => self.on_channel(channel, Channel::close),
            Command::Abort(channel) => self.on_channel(channel, Channel::abort),
            Command::ShutdownWrite(channel) => self.on_channel(channel, Channel::shutdown_write),
            Command::Pause(channel) => self.on_channel(channel, Channel::pause),
            Command::Resume(channel) => self.on_channel(channel, Channel::resume),
            Command::Act { channel, action } => self.act_on(channel, action),
            Command::Note(note) => self.note(note),
            Command::News => self.hear_news(),
            Command::List(reply) => {
                // Whoever asked may have given up.
                drop(reply.send(self.list()));
            }
            Command::Shutdown { grace } => self.stop(self.now + grace),
        }
    }

    /// For sends of `size` bytes in all, which were held against the outbox when they were posted.
    fn send_posted(
        &mut self,
        id: ChannelId,
        size: usize,
        send: impl FnOnce(&mut Channel, &mut ChunkPool) -> Result<(), SendError>,
    ) {
        let queued = self.touch(id).map(|(channel, pool)| {
            channel.note_posted();
            if let Err(error) = send(channel, pool) {
                // It closed after the bytes were posted; its report has them as unsent.
                tracing::debug!(channel = %id, %error, "a posted send came too late");
                channel.count_too_late(size);
            }
            channel.queued()
        });
        self.port().slots.discharge(id, size, queued);
        // Who sends to the next channel of the slot may have been refused for these bytes' sake.
        if queued.is_none()
            && let Some(next) = self.channels.touch_slot(id)
        {
            next.note_posted();
        }
    }
}
