//! What a callback may ask: the commands of a [`Handle`], for the loop's own channels without any lock, and timers.

use std::time::Duration;

use bytes::Bytes;

use crate::addr::Address;
use crate::channel::Channel;
use crate::clock::Mono;
use crate::error::{DialError, SendError};
use crate::id::ChannelId;
use crate::node::command::Command;
use crate::node::core::{Core, TimerKey};
use crate::node::handle::Handle;
use crate::node::info::ChannelInfo;
use crate::node::timers::TimerId;
use crate::stats::Stats;

/// The loop, as a callback sees it.
///
/// Commands name channels of any loop: those of another loop travel through that loop's mailbox, like a [`Handle`]'s,
/// and what is said of a channel that is gone does nothing.
#[derive(Debug)]
pub struct Context<'a> {
    core: &'a mut Core,
}

impl<'a> Context<'a> {
    pub(crate) fn new(core: &'a mut Core) -> Self {
        Self { core }
    }

    /// For the loop: see [`Channel::next_message`].
    #[inline]
    pub(crate) fn next_message<'b>(&mut self, channel: ChannelId, input: &mut &'b [u8]) -> Option<&'b [u8]> {
        let now = self.core.now;
        self.core.channels.get_mut(channel)?.next_message(input, now)
    }

    /// For the loop: see [`Channel::next_data`].
    #[inline]
    pub(crate) fn next_data<'b>(&mut self, channel: ChannelId, input: &mut &'b [u8]) -> Option<&'b [u8]> {
        let now = self.core.now;
        self.core.channels.get_mut(channel)?.next_data(input, now)
    }

    /// The time at which this turn of the loop began to call back.
    #[inline]
    pub fn now(&self) -> Mono {
        self.core.now
    }

    /// The loop's number, from 0.
    pub fn loop_index(&self) -> usize {
        self.core.index
    }

    /// A handle, to be cloned for other threads.
    pub fn handle(&self) -> &Handle {
        &self.core.handle
    }

    /// Dials; the channel is one of this loop. See [`Handle::dial`].
    ///
    /// # Errors
    ///
    /// [`DialError::TableFull`], when all channels of this loop are in use, and [`DialError::Stopped`].
    pub fn dial(&mut self, to: impl Into<Address>) -> Result<ChannelId, DialError> {
        self.core.dial(to.into())
    }

    /// Sends bytes, in message mode one message, after everything sent before. They are copied.
    ///
    /// # Errors
    ///
    /// Nothing of it was kept: see [`SendError`].
    #[inline]
    pub fn send(&mut self, channel: ChannelId, bytes: &[u8]) -> Result<(), SendError> {
        match self.core.touch(channel) {
            Some((found, pool)) => found.send(bytes, pool),
            None => self.core.handle.send(channel, bytes),
        }
    }

    /// As [`Context::send`], for bytes that do not lie in one piece, such as a head and a body: in message mode the
    /// parts are one message.
    ///
    /// # Errors
    ///
    /// Nothing of it was kept: see [`SendError`].
    #[inline]
    pub fn send_parts(&mut self, channel: ChannelId, parts: &[&[u8]]) -> Result<(), SendError> {
        match self.core.touch(channel) {
            Some((found, pool)) => found.send_parts(parts, pool),
            None => self.core.handle.send_parts(channel, parts),
        }
    }

    /// As [`Context::send`]; from 4 KiB on the bytes are not copied.
    ///
    /// # Errors
    ///
    /// Nothing of it was kept: see [`SendError`].
    #[inline]
    pub fn send_bytes(&mut self, channel: ChannelId, bytes: Bytes) -> Result<(), SendError> {
        match self.core.touch(channel) {
            Some((found, pool)) => found.send_bytes(bytes, pool),
            None => self.core.handle.send_bytes(channel, bytes),
        }
    }

    /// Sends the same to every open channel of this loop, and says how many took it. Those whose outbox is full, or whose
    /// peer takes no message as long, do not; `broadcasts_refused` counts them. For the channels of all loops:
    /// [`Handle::broadcast`].
    pub fn broadcast(&mut self, bytes: &Bytes) -> usize {
        self.core.broadcast(bytes)
    }

    /// Closes: sends what is queued first, for at most `close_timeout`. Nothing more is received.
    ///
    /// What other threads have sent by a [`Handle`] and the loop has not taken yet comes too late; to close behind it,
    /// they close by that handle.
    pub fn close(&mut self, channel: ChannelId) {
        self.command(channel, Channel::close, Command::Close);
    }

    /// Closes at once, by RST; what is queued is dropped.
    pub fn abort(&mut self, channel: ChannelId) {
        self.command(channel, Channel::abort, Command::Abort);
    }

    /// Sends FIN after everything queued: nothing more will be sent, as after [`Context::close`]. Receiving goes on.
    pub fn shutdown_write(&mut self, channel: ChannelId) {
        self.command(channel, Channel::shutdown_write, Command::ShutdownWrite);
    }

    /// Stops reading. When this returns nothing is given to `on_data` or `on_message` any more; what the kernel had
    /// already received is kept, in order, for [`Context::resume`]. A connection that fails meanwhile ends the pause,
    /// and so does a link that gives way to another to the same node: what was kept is given to the handler, and then its
    /// `on_close`.
    pub fn pause(&mut self, channel: ChannelId) {
        self.command(channel, Channel::pause, Command::Pause);
    }

    /// Goes on reading.
    pub fn resume(&mut self, channel: ChannelId) {
        self.command(channel, Channel::resume, Command::Resume);
    }

    /// Never lost, as no answer would say so: to another loop it goes past the bounds of its mailbox, and to a channel whose
    /// dial is in this loop's mail behind that.
    fn command(
        &mut self,
        channel: ChannelId,
        here: impl FnOnce(&mut Channel),
        there: impl FnOnce(ChannelId) -> Command,
    ) {
        match self.core.touch(channel) {
            Some((found, _)) => here(found),
            None => self.core.handle.insist(channel, there(channel)),
        }
    }

    /// Bytes that wait to be sent on the channel; see [`Handle::queued`] for one of another loop.
    #[inline]
    pub fn queued(&self, channel: ChannelId) -> usize {
        match self.core.channels.get(channel) {
            Some(found) => found.queued(),
            None => self.core.handle.queued(channel),
        }
    }

    /// True when `outbox_high` bytes or more wait: whoever feeds this channel from another should pause that one.
    #[inline]
    pub fn is_backed_up(&self, channel: ChannelId) -> bool {
        self.queued(channel) >= self.core.settings.limits.outbox_high
    }

    /// What there is to know of a channel of this loop.
    pub fn channel(&self, channel: ChannelId) -> Option<ChannelInfo> {
        self.core.channels.get(channel).map(|found| ChannelInfo::of(found, self.core.now))
    }

    /// All channels of this loop.
    pub fn channels(&self) -> Vec<ChannelInfo> {
        self.core.list()
    }

    /// Calls `on_timer` with the token when the time after [`Context::now`] is over, which for zero is the next turn.
    /// Timers live until they are due, cancelled, or the loop ends.
    pub fn set_timer(&mut self, after: Duration, token: u64) -> TimerId {
        self.core.timers.insert(self.core.now + after, TimerKey::User(token))
    }

    /// False when the timer was due or cancelled already.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.core.timers.cancel(timer).is_some()
    }

    /// The counters of this loop.
    pub fn stats(&self) -> Stats {
        self.core.settings.counters.snapshot()
    }

    /// Ends the whole node: see [`Handle::shutdown`].
    pub fn shutdown(&mut self, grace: Duration) {
        self.core.handle.shutdown(grace);
    }
}
