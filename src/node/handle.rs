//! A node from the outside: commands and questions, from any thread.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;

use crate::addr::Address;
use crate::error::{CloseReason, CommandError, DialError, SendError};
use crate::id::ChannelId;
use crate::link::NodeId;
use crate::node::command::Command;
use crate::node::history::ClosedChannel;
use crate::node::info::ChannelInfo;
use crate::node::linking::lock;
use crate::node::mailbox::PostError;
use crate::node::shared::{Port, Shared};
use crate::stats::Stats;

/// Commands a node from any thread. Cheap to clone; it does not keep the node alive.
///
/// Commands are put in the mailbox of the channel's loop, which carries them out in their order. That a command was
/// taken does not mean that it came in time: the channel may have closed meanwhile, which its `on_close` tells.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Dials an address; the channel exists at once. It opens (`on_open`) or not (`on_close`), never from within this
    /// call. Names are looked up on a helper thread, and all their addresses tried in turn, each for `dial_timeout`.
    /// With several loops each gets a dial in turn, as long as it has a channel left.
    ///
    /// In message mode there is one link for each node: where there is one already, this or that one closes by
    /// [`CloseReason::Duplicate`]. See [`Builder::peer`](crate::Builder::peer) for a link that is kept up.
    ///
    /// # Errors
    ///
    /// See [`DialError`].
    pub fn dial(&self, to: impl Into<Address>) -> Result<ChannelId, DialError> {
        let (address, loops, first) = (to.into(), self.shared.ports.len(), self.shared.next_dial());
        let mut channels = 0;
        for index in (first..first + loops).map(|index| index % loops) {
            match self.dial_on(index, address.clone()) {
                Err(DialError::TableFull { size }) => channels += size,
                outcome => return outcome,
            }
        }
        Err(DialError::TableFull { size: channels })
    }

    pub(crate) fn dial_on(&self, loop_index: usize, address: Address) -> Result<ChannelId, DialError> {
        if self.shared.is_stopping() {
            return Err(DialError::Stopped);
        }
        let port = &self.shared.ports[loop_index];
        // A slot that was taken and given back would leave the loop with the thought that all are in use.
        port.mailbox.post_made(0, || {
            let channel = port.slots.allocate().ok_or(DialError::TableFull { size: port.slots.count() })?;
            Ok((Command::Dial { channel, address }, channel))
        })
    }

    /// Sends bytes, in message mode one message, after everything sent before through this handle. They are copied.
    ///
    /// # Errors
    ///
    /// Nothing of it was kept: see [`SendError`].
    pub fn send(&self, channel: ChannelId, bytes: &[u8]) -> Result<(), SendError> {
        self.post_parts(channel, &[bytes])
    }

    /// As [`Handle::send`], for bytes that do not lie in one piece, such as a head and a body: in message mode the
    /// parts are one message.
    ///
    /// # Errors
    ///
    /// Nothing of it was kept: see [`SendError`].
    pub fn send_parts(&self, channel: ChannelId, parts: &[&[u8]]) -> Result<(), SendError> {
        self.post_parts(channel, parts)
    }

    // One function with what it calls, for one part and for several (benches/instructions.txt).
    #[inline(always)]
    fn post_parts(&self, channel: ChannelId, parts: &[&[u8]]) -> Result<(), SendError> {
        let port = self.shared.port_of(channel).ok_or(SendError::Closed)?;
        let posted = port.mailbox.post_send(
            channel,
            parts,
            #[inline(always)]
            |len| port.slots.charge(channel, len),
        );
        posted.inspect_err(|error| port.count_refusal(error))
    }

    /// As [`Handle::send`]; from 4 KiB on the bytes are not copied.
    ///
    /// # Errors
    ///
    /// Nothing of it was kept: see [`SendError`].
    pub fn send_bytes(&self, channel: ChannelId, bytes: Bytes) -> Result<(), SendError> {
        let port = self.shared.port_of(channel).ok_or(SendError::Closed)?;
        let posted = port.mailbox.post_made(bytes.len(), || {
            let framing = port.slots.charge(channel, bytes.len())?;
            let size = framing.framed_len(bytes.len());
            Ok((Command::SendBytes { channel, bytes, size }, ()))
        });
        posted.inspect_err(|error| port.count_refusal(error))
    }

    /// Bytes that wait to be sent on the channel, those on their way to its loop included, as its loop has last told.
    ///
    /// A loop tells it, in each turn, of channels on which other threads or other loops have sent; of others it is 0, and so
    /// it is from `close` or `shutdown_write` on, while the rest is still being sent. What is exact is in
    /// [`ChannelInfo::bytes_queued`].
    pub fn queued(&self, channel: ChannelId) -> usize {
        self.shared.port_of(channel).map_or(0, |port| port.slots.queued(channel))
    }

    /// Sends the same to every open channel of the node. Channels whose outbox is full, or whose peer takes no message as
    /// long, do not get it; `broadcasts_refused` counts them.
    ///
    /// # Errors
    ///
    /// [`CommandError::Busy`]: some loops have not taken it, and others may have; sent again, it comes twice to the
    /// channels of those. [`CommandError::Stopped`].
    pub fn broadcast(&self, bytes: &Bytes) -> Result<(), CommandError> {
        self.to_all(|| Command::Broadcast(bytes.clone()))
    }

    /// Calls [`Handler::on_notify`](crate::Handler::on_notify) with the token, on every loop: a way to tell the handler that
    /// there is something for it to do.
    ///
    /// # Errors
    ///
    /// [`CommandError::Busy`]: some loops have not taken it. [`CommandError::Stopped`].
    pub fn notify(&self, token: u64) -> Result<(), CommandError> {
        self.to_all(|| Command::Notify(token))
    }

    /// Closes: sends what is queued first, for at most `close_timeout`. Nothing more is received.
    ///
    /// # Errors
    ///
    /// See [`CommandError`].
    pub fn close(&self, channel: ChannelId) -> Result<(), CommandError> {
        self.to_channel(channel, Command::Close(channel))
    }

    /// Closes at once, by RST; what is queued is dropped.
    ///
    /// # Errors
    ///
    /// See [`CommandError`].
    pub fn abort(&self, channel: ChannelId) -> Result<(), CommandError> {
        self.to_channel(channel, Command::Abort(channel))
    }

    /// Sends FIN after everything queued: nothing more will be sent. Receiving goes on.
    ///
    /// # Errors
    ///
    /// See [`CommandError`].
    pub fn shutdown_write(&self, channel: ChannelId) -> Result<(), CommandError> {
        self.to_channel(channel, Command::ShutdownWrite(channel))
    }

    /// Stops reading; what has arrived by then is kept for [`Handle::resume`].
    ///
    /// # Errors
    ///
    /// See [`CommandError`].
    pub fn pause(&self, channel: ChannelId) -> Result<(), CommandError> {
        self.to_channel(channel, Command::Pause(channel))
    }

    /// Goes on reading.
    ///
    /// # Errors
    ///
    /// See [`CommandError`].
    pub fn resume(&self, channel: ChannelId) -> Result<(), CommandError> {
        self.to_channel(channel, Command::Resume(channel))
    }

    /// Who this node is to its peers; nobody in stream mode.
    pub fn node_id(&self) -> Option<NodeId> {
        self.shared.local_node.as_ref().map(|local| local.node_id)
    }

    /// All channels of the node. Asks each loop and waits for the answers: microseconds, unless a callback takes long.
    ///
    /// # Errors
    ///
    /// [`CommandError::OnLoopThread`] in a callback, where [`Context::channels`](crate::Context::channels) is to be
    /// used; [`CommandError::Busy`] and [`CommandError::Stopped`].
    pub fn channels(&self) -> Result<Vec<ChannelInfo>, CommandError> {
        let this = std::thread::current().id();
        if self.shared.ports.iter().any(|port| port.thread == this) {
            return Err(CommandError::OnLoopThread);
        }
        let (reply, answers) = mpsc::sync_channel(self.shared.ports.len());
        self.to_all(|| Command::List(reply.clone()))?;
        drop(reply);
        let lists: Vec<_> = answers.iter().collect();
        // A loop that ended meanwhile has dropped its end without an answer.
        if lists.len() < self.shared.ports.len() {
            return Err(CommandError::Stopped);
        }
        Ok(lists.into_iter().flatten().collect())
    }

    /// The counters of the node, all loops together. Never waits.
    pub fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for stats in self.loop_stats() {
            sum.merge(&stats);
        }
        sum
    }

    /// The counters of each loop. Never waits.
    pub fn loop_stats(&self) -> Vec<Stats> {
        self.shared.ports.iter().map(|port| port.counters.snapshot()).collect()
    }

    /// The last 1,000 channels that closed, the oldest first: who it was, why, and what it had carried. Never waits long.
    pub fn closed_channels(&self) -> Vec<ClosedChannel> {
        lock(&self.shared.history).to_vec()
    }

    /// How many channels closed for each reason, in the order of [`CloseReason::ALL`]. Never waits.
    pub fn close_counts(&self) -> Vec<(CloseReason, u64)> {
        let count =
            |reason| self.shared.ports.iter().map(|port| port.counters.close_reasons.get(reason)).sum();
        CloseReason::ALL.iter().map(|&reason| (reason, count(reason))).collect()
    }

    /// Ends the node: nothing more is accepted or dialed, what is queued on each channel is sent, for at most `grace`,
    /// then all are closed and the loops end. Zero: at once. Called again, the earlier deadline holds.
    pub fn shutdown(&self, grace: Duration) {
        self.shared.set_stopping();
        for port in &self.shared.ports {
            // One that is closed has ended already.
            let _ = port.mailbox.post_always(Command::Shutdown { grace });
        }
    }

    /// For commands that may not get lost.
    pub(crate) fn insist(&self, channel: ChannelId, command: Command) {
        if let Some(port) = self.live_port(channel) {
            // A loop that has ended has closed it.
            let _ = port.mailbox.post_always(command);
        }
    }

    fn to_channel(&self, channel: ChannelId, command: Command) -> Result<(), CommandError> {
        let port = self.live_port(channel).ok_or(CommandError::Closed)?;
        port.mailbox.post(command).map_err(CommandError::from)
    }

    fn live_port(&self, channel: ChannelId) -> Option<&Port> {
        self.shared.port_of(channel).filter(|port| port.slots.is_live(channel))
    }

    fn to_all(&self, command: impl Fn() -> Command) -> Result<(), CommandError> {
        let mut result = Ok(());
        for port in &self.shared.ports {
            result = result.and(port.mailbox.post(command()).map_err(CommandError::from));
        }
        result
    }
}

impl From<PostError> for SendError {
    fn from(error: PostError) -> Self {
        match error {
            PostError::Full => Self::Busy,
            PostError::Closed => Self::Closed,
        }
    }
}

impl From<PostError> for DialError {
    fn from(error: PostError) -> Self {
        match error {
            PostError::Full => Self::Busy,
            PostError::Closed => Self::Stopped,
        }
    }
}

impl From<PostError> for CommandError {
    fn from(error: PostError) -> Self {
        match error {
            PostError::Full => Self::Busy,
            PostError::Closed => Self::Stopped,
        }
    }
}
