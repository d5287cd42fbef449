//! GOAWAY: why a node ends the link, when it may be dialed again, and a word to people.

use std::time::Duration;

use crate::error::CloseReason;

use super::text;

/// Code and retry-after.
pub(super) const MIN_LEN: usize = 6;
pub(super) const MAX_LEN: usize = MIN_LEN + MAX_TEXT;
const MAX_TEXT: usize = 128;

/// From this code on reasons are of one node alone and never travel.
const LOCAL: u16 = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GoAway {
    pub(super) code: u16,
    pub(super) retry_after: Duration,
    pub(super) text: String,
}

impl GoAway {
    /// `None` for a reason that does not travel.
    pub(super) fn new(reason: CloseReason, retry_after: Duration, text: &str) -> Option<Self> {
        let code = reason.code();
        (code < LOCAL).then(|| Self { code, retry_after, text: text::clean(text.as_bytes(), MAX_TEXT) })
    }

    /// The reason, if this version knows it.
    pub(super) fn reason(&self) -> Option<CloseReason> {
        if self.code < LOCAL { CloseReason::from_code(self.code) } else { None }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let retry_after_ms = u32::try_from(self.retry_after.as_millis()).unwrap_or(u32::MAX);
        [&self.code.to_le_bytes()[..], &retry_after_ms.to_le_bytes(), self.text.as_bytes()].concat()
    }

    /// `None` when the payload is too short, which its header has ruled out.
    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let (code, rest) = payload.split_first_chunk()?;
        let (retry_after_ms, text) = rest.split_first_chunk()?;
        Some(Self {
            code: u16::from_le_bytes(*code),
            retry_after: Duration::from_millis(u32::from_le_bytes(*retry_after_ms).into()),
            text: text::clean(text, MAX_TEXT),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_arrives() {
        let sent = GoAway::new(CloseReason::Limit, Duration::from_millis(1500), "too many").unwrap();
        assert_eq!(GoAway::decode(&sent.encode()), Some(sent.clone()));
        assert_eq!(sent.reason(), Some(CloseReason::Limit));
        assert_eq!(GoAway::decode(b"12345"), None);
    }

    #[test]
    fn reasons_of_one_node_alone_do_not_travel() {
        assert_eq!(GoAway::new(CloseReason::Reset, Duration::ZERO, ""), None);
        for code in [CloseReason::Reset.code(), 55, u16::MAX] {
            assert_eq!(GoAway { code, retry_after: Duration::ZERO, text: String::new() }.reason(), None);
        }
    }

    #[test]
    fn a_long_text_is_cut_and_a_long_wait_is_the_longest() {
        let sent = GoAway::new(CloseReason::Normal, Duration::MAX, &"é".repeat(100)).unwrap();
        assert!(sent.encode().len() <= MAX_LEN);
        assert_eq!(
            GoAway::decode(&sent.encode()).unwrap().retry_after,
            Duration::from_millis(u32::MAX.into())
        );
    }
}
