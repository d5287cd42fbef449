//! The far ends of bulk: a sink that verifies the stream and says how far it is, a source that sends it.

use std::collections::HashMap;
use std::time::Duration;

use ringlink::service::Pattern;
use ringlink::{ChannelId, ChannelInfo, CloseReport, Context, Handler, TimerId};

/// How often the sink speaks: what its sender measures is off by no more than this.
const TICK: Duration = Duration::from_millis(5);
/// Sent by the source at once.
const PIECE: usize = 64 << 10;

/// What the sink says: 9 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// So much came, in all.
    pub(crate) bytes: u64,
    /// Not all of it was right.
    pub(crate) is_wrong: bool,
}

impl Progress {
    fn encode(self) -> [u8; 9] {
        let [a, b, c, d, e, f, g, h] = self.bytes.to_le_bytes();
        [a, b, c, d, e, f, g, h, u8::from(self.is_wrong)]
    }

    pub(crate) fn decode([bytes @ .., is_wrong]: [u8; 9]) -> Self {
        Self { bytes: u64::from_le_bytes(bytes), is_wrong: is_wrong != 0 }
    }
}

#[derive(Debug)]
pub(crate) struct VerifyingSink {
    pattern: Pattern,
    /// What came, and what was last said of it.
    channels: HashMap<ChannelId, (Progress, Progress)>,
}

impl VerifyingSink {
    pub(crate) fn new(seed: u64) -> Self {
        Self { pattern: Pattern::new(seed), channels: HashMap::new() }
    }
}

impl Handler for VerifyingSink {
    fn on_start(&mut self, cx: &mut Context<'_>) {
        cx.set_timer(TICK, 0);
    }

    fn on_data(&mut self, _: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        let (progress, _) = self.channels.entry(channel).or_default();
        progress.is_wrong |= self.pattern.stream_differs(progress.bytes, data).is_some();
        progress.bytes += data.len() as u64;
    }

    fn on_close(&mut self, _: &mut Context<'_>, channel: ChannelId, _: &CloseReport) {
        self.channels.remove(&channel);
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, _: TimerId, _: u64) {
        for (channel, (progress, said)) in &mut self.channels {
            if progress != said && cx.send(*channel, &progress.encode()).is_ok() {
                *said = *progress;
            }
        }
        cx.set_timer(TICK, 0);
    }
}

#[derive(Debug)]
pub(crate) struct Source {
    pattern: Pattern,
    sent: HashMap<ChannelId, u64>,
}

impl Source {
    pub(crate) fn new(seed: u64) -> Self {
        Self { pattern: Pattern::new(seed), sent: HashMap::new() }
    }

    fn fill(&mut self, cx: &mut Context<'_>, channel: ChannelId) {
        let Some(sent) = self.sent.get_mut(&channel) else { return };
        while !cx.is_backed_up(channel) {
            let piece = self.pattern.stream(*sent, PIECE);
            if cx.send(channel, piece).is_err() {
                return;
            }
            *sent += piece.len() as u64;
        }
    }
}

impl Handler for Source {
    fn on_open(&mut self, cx: &mut Context<'_>, channel: ChannelId, _: &ChannelInfo) {
        self.sent.insert(channel, 0);
        self.fill(cx, channel);
    }

    fn on_drained(&mut self, cx: &mut Context<'_>, channel: ChannelId) {
        self.fill(cx, channel);
    }

    fn on_close(&mut self, _: &mut Context<'_>, channel: ChannelId, _: &CloseReport) {
        self.sent.remove(&channel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_as_it_was_said() {
        let progress = Progress { bytes: 1 << 40, is_wrong: true };
        assert_eq!(Progress::decode(progress.encode()), progress);
    }
}
