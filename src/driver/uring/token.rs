//! What travels through the kernel with each operation and comes back with its completion: `user_data`.

use crate::id::ChannelId;

/// The kind of an operation. At most one of each kind is in flight for a slot, so a token names one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum OpKind {
    Accept = 1,
    CancelAccept,
    Connect,
    CancelConnect,
    Receive,
    CancelReceive,
    Send,
    CancelSend,
    Close,
    Wake,
    CancelWake,
}

impl OpKind {
    const ALL: [Self; 11] = [
        Self::Accept,
        Self::CancelAccept,
        Self::Connect,
        Self::CancelConnect,
        Self::Receive,
        Self::CancelReceive,
        Self::Send,
        Self::CancelSend,
        Self::Close,
        Self::Wake,
        Self::CancelWake,
    ];
}

/// Kind (8 bits), generation (24), slot (32). Listeners and the waker have a number for a slot and no generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: OpKind,
    pub(crate) generation: u32,
    pub(crate) slot: u32,
}

const _: () = assert!(ChannelId::MAX_GENERATION < 1 << 24, "a generation fits its 24 bits");

impl Token {
    pub(crate) fn of_channel(kind: OpKind, channel: ChannelId) -> Self {
        Self { kind, generation: channel.generation(), slot: channel.slot() }
    }

    pub(crate) fn of_listener(kind: OpKind, slot: u32) -> Self {
        Self { kind, generation: 0, slot }
    }

    pub(crate) const fn user_data(self) -> u64 {
        (self.kind as u64) << 56 | (self.generation as u64) << 32 | self.slot as u64
    }

    /// `None` for a number no token has.
    pub(crate) fn from_user_data(user_data: u64) -> Option<Self> {
        let kind = usize::try_from(user_data >> 56).ok()?.checked_sub(1)?;
        Some(Self {
            kind: *OpKind::ALL.get(kind)?,
            generation: (user_data >> 32) as u32 & ChannelId::MAX_GENERATION,
            slot: user_data as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_back_as_it_went() {
        for kind in OpKind::ALL {
            for (slot, generation) in [(0, 1), (u32::MAX, ChannelId::MAX_GENERATION), (10_017, 3)] {
                let token = Token::of_channel(kind, ChannelId::new(slot, generation));
                assert_eq!(Token::from_user_data(token.user_data()), Some(token));
            }
        }
        assert_eq!(Token::from_user_data(0), None);
        assert_eq!(Token::from_user_data(u64::MAX), None);
    }
}
