//! The far ends of bulk: a sink that verifies the stream and says how far it is, a source that sends it. Here those of
//! ringlink, and what those of others share with them.

use std::collections::HashMap;
use std::time::Duration;

use ringlink::service::Pattern;
use ringlink::{ChannelId, ChannelInfo, CloseReport, Context, Handler, TimerId};

/// How often the sink speaks: what its sender measures is off by no more than this.
pub(crate) const TICK: Duration = Duration::from_millis(5);
/// Sent by the source at once.
pub(crate) const PIECE: usize = 64 << 10;

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

/// What a sink got on a connection, and what it last said of it.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    progress: Progress,
    said: Progress,
}

impl Arrivals {
    /// Takes what came, and looks at it where there is a pattern.
    pub(crate) fn take(&mut self, data: &[u8], pattern: Option<&Pattern>) {
        let differs = |pattern: &Pattern| pattern.stream_differs(self.progress.bytes, data).is_some();
        self.progress.is_wrong |= pattern.is_some_and(differs);
        self.progress.bytes += data.len() as u64;
    }

    /// What there is to say, once.
    pub(crate) fn news(&mut self) -> Option<[u8; 9]> {
        let is_new = self.progress != self.said;
        self.said = self.progress;
        is_new.then(|| self.progress.encode())
    }
}

#[derive(Debug)]
pub(crate) struct Sink {
    pattern: Option<Pattern>,
    channels: HashMap<ChannelId, Arrivals>,
}

impl Sink {
    pub(crate) fn new(seed: u64, verify: bool) -> Self {
        Self { pattern: verify.then(|| Pattern::new(seed)), channels: HashMap::new() }
    }
}

impl Handler for Sink {
    fn on_start(&mut self, cx: &mut Context<'_>) {
        cx.set_timer(TICK, 0);
    }

    fn on_data(&mut self, _: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        self.channels.entry(channel).or_default().take(data, self.pattern.as_ref());
    }

    fn on_close(&mut self, _: &mut Context<'_>, channel: ChannelId, _: &CloseReport) {
        self.channels.remove(&channel);
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, _: TimerId, _: u64) {
        for (channel, arrivals) in &mut self.channels {
            if let Some(news) = arrivals.news()
                && cx.send(*channel, &news).is_err()
            {
                cx.abort(*channel); // it sends, and never reads
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
    fn arrivals_are_told_once_and_a_wrong_byte_for_good() {
        let (pattern, mut arrivals) = (Pattern::new(1), Arrivals::default());
        let mut stream = pattern.stream(0, 100).to_vec();
        assert_eq!(arrivals.news(), None);
        arrivals.take(&stream[..40], Some(&pattern));
        let told = arrivals.news().map(Progress::decode);
        assert_eq!(told, Some(Progress { bytes: 40, is_wrong: false }));
        assert_eq!(arrivals.news(), None);
        stream[50] ^= 1;
        arrivals.take(&stream[40..60], Some(&pattern));
        arrivals.take(&stream[60..], Some(&pattern));
        let told = arrivals.news().map(Progress::decode);
        assert_eq!(told, Some(Progress { bytes: 100, is_wrong: true }));
    }

    #[test]
    fn progress_is_read_as_it_was_said() {
        let progress = Progress { bytes: 1 << 40, is_wrong: true };
        assert_eq!(Progress::decode(progress.encode()), progress);
    }
}
