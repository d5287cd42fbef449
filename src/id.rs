//! The identity of a channel. How it travels through the kernel is `driver/uring/token.rs`'s affair.

use std::fmt;
use std::str::FromStr;

/// Names one channel of one node, for as long as the node lives.
///
/// A slot is used again by later channels, the generation tells them apart: an id kept after its channel closed
/// reaches nobody. (A slot's generations repeat after 16,777,215 channels.)
///
/// Written `SLOT.GENERATION`, as in `10017.3`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId {
    slot: u32,
    generation: u32,
}

impl ChannelId {
    /// The greatest generation; after it a slot starts again at 1.
    pub(crate) const MAX_GENERATION: u32 = (1 << 24) - 1;

    pub(crate) fn new(slot: u32, generation: u32) -> Self {
        debug_assert!((1..=Self::MAX_GENERATION).contains(&generation));
        Self { slot, generation }
    }

    /// The channel's place in the node's range of channels.
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// How often the slot had been given out when this channel got it, from 1.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

impl fmt::Debug for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a channel id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a channel id; one looks like 10017.3, a slot and a generation from 1")]
pub struct ParseChannelIdError(String);

impl FromStr for ChannelId {
    type Err = ParseChannelIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (slot, generation) = text.split_once('.')?;
            let generation = generation.parse().ok().filter(|g| (1..=Self::MAX_GENERATION).contains(g))?;
            Some(Self { slot: slot.parse().ok()?, generation })
        };
        parse().ok_or_else(|| ParseChannelIdError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_read_back() {
        let id = ChannelId::new(10_017, 3);
        assert_eq!(id.to_string(), "10017.3");
        assert_eq!("10017.3".parse(), Ok(id));
    }

    #[test]
    fn other_texts_are_refused_and_named() {
        for text in ["", ".", "1", "1.", ".1", "1.0", "1.16777216", "-1.2", "1.2.3", "4294967296.1"] {
            let error = text.parse::<ChannelId>().unwrap_err();
            assert!(error.to_string().contains(&format!("'{text}'")), "{error}");
        }
    }
}
