//! The place for encryption: between the socket's bytes and the plain bytes of frames. There is none yet.
//!
//! TLS becomes a variant here, and three things change with it: `open` decrypts in place and hands out the plain part,
//! [`Link::is_established`](super::Link::is_established) also waits for its handshake, and the channel passes what it
//! is about to flush, messages and control frames alike, through a `seal`, in records of what one send gathers.

/// How a link's bytes are protected.
#[derive(Clone, Copy, Debug)]
pub(super) enum Secure {
    /// Not at all: the wire has the plain bytes.
    Off,
}

impl Secure {
    /// The plain bytes of what was received.
    #[inline]
    pub(super) fn open<'a, 'b>(self, received: &'a mut &'b [u8]) -> &'a mut &'b [u8] {
        match self {
            Self::Off => received,
        }
    }
}
