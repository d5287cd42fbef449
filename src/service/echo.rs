//! Sends back what comes in, no faster than the peer takes it.

use crate::{ChannelId, Context, Handler, SendError};

/// A handler that sends everything back to where it came from.
///
/// A peer that does not read is not read from either: from the high watermark of a channel's outbox on, reading pauses
/// until the outbox has drained. A peer that half-closes still gets all of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Echo {
    fn send_back(cx: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        let sent = cx.send(channel, data);
        if sent == Err(SendError::Closed) {
            // It came on a link whose end has begun, a second one to the same node.
            tracing::debug!(%channel, bytes = data.len(), "echo came too late");
        } else if let Err(error) = sent {
            // Reading pauses far below outbox_max, so only a limit set too low leads here. A gap would be worse.
            tracing::error!(%channel, %error, "echo cannot keep what it received; aborting the channel");
            cx.abort(channel);
        } else if cx.is_backed_up(channel) {
            cx.pause(channel);
        }
    }
}

impl Handler for Echo {
    fn on_data(&mut self, cx: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        Self::send_back(cx, channel, data);
    }

    fn on_message(&mut self, cx: &mut Context<'_>, channel: ChannelId, message: &[u8]) {
        Self::send_back(cx, channel, message);
    }

    fn on_drained(&mut self, cx: &mut Context<'_>, channel: ChannelId) {
        cx.resume(channel);
    }
}
