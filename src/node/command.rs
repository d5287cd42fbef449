//! What other threads ask of a loop. Commands travel in a [`Mailbox`](super::mailbox::Mailbox), and a loop carries them
//! out in the order in which they were posted.

use std::sync::mpsc::SyncSender;
use std::time::Duration;

use bytes::Bytes;

use crate::addr::{Address, Endpoint};
use crate::id::ChannelId;
use crate::node::dialing::Note;
use crate::node::info::ChannelInfo;
use crate::node::peers::Action;

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
    /// Small sends. Their lengths and bytes lie in the [`Mail`](super::mailbox::Mail), after those of earlier ones.
    Sends {
        channel: ChannelId,
        count: usize,
    },
    /// A large send, by reference.
    SendBytes {
        channel: ChannelId,
        bytes: Bytes,
    },
    /// A send to every open channel of the loop.
    Broadcast(Bytes),
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
            | Self::Close(_)
            | Self::Abort(_)
            | Self::ShutdownWrite(_)
            | Self::Pause(_)
            | Self::Resume(_)
            | Self::Act { .. }
            | Self::Note(_)
            | Self::List(_)
            | Self::Shutdown { .. } => 0,
        }
    }
}
