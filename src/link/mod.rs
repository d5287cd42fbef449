//! The wire protocol, sans-IO: received bytes and the time go in, events and bytes to be sent come out.
//!
//! [`Link`] is the face, one for each channel. In message mode [`message`] is its state machine; it reads frames
//! (`frame.rs`) through `assembly.rs`, and knows HELLO (`hello.rs`), PING and PONG (`heartbeat.rs`) and GOAWAY
//! (`goaway.rs`). What two nodes think of their several links is decided in `node/`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Mono;
use crate::error::CloseReason;
use crate::stats::Counters;

mod assembly;
#[cfg(feature = "internals")]
pub(crate) mod bench_support;
mod frame;
#[cfg(any(test, fuzzing))]
#[cfg_attr(test, expect(unreachable_pub, reason = "public for the fuzz targets alone"))]
pub mod fuzz;
mod goaway;
mod heartbeat;
mod hello;
mod identity;
mod message;
mod secure;
mod share;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use frame::{ControlFrame, Framing, whole_frame};
pub use heartbeat::Rtt;
pub(crate) use identity::LocalNode;
pub use identity::{NodeId, ParseNodeIdError, PeerInfo};
use message::MessageLink;

/// The protocol state of a channel.
#[derive(Debug)]
pub(crate) enum Link {
    /// Bytes as they come; nothing to know.
    Stream,
    Message(Box<MessageLink>),
}

/// What was received.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LinkEvent<'b> {
    /// Both hellos are said: messages may come and go. Once, before any message; never in stream mode.
    Established,
    /// Bytes of a stream.
    Data(&'b [u8]),
    /// A message that lay whole in the input.
    Message(&'b [u8]),
    /// A message that was put together; [`Link::give_back`] takes the memory again.
    Assembled(Vec<u8>),
    /// The peer ends the link, once it has sent what it has to.
    GoneAway {
        /// `None` for a code this version does not know.
        reason: Option<CloseReason>,
        code: u16,
        /// When the peer may be dialed again, from now.
        retry_after: Duration,
        /// The peer's words, cleaned; often empty.
        text: String,
    },
}

/// Why a link cannot go on. The first one stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkError {
    pub(crate) reason: CloseReason,
    pub(crate) detail: Option<Box<str>>,
}

impl LinkError {
    fn of(reason: CloseReason) -> Self {
        Self { reason, detail: None }
    }

    #[cold]
    fn new(reason: CloseReason, detail: impl Into<Box<str>>) -> Self {
        Self { reason, detail: Some(detail.into()) }
    }
}

impl fmt::Display for LinkError {
    /// As in `flood: more than max_control_frames, 100 a second`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail.as_deref().unwrap_or(self.reason.text()))
    }
}

impl Link {
    pub(crate) fn stream() -> Self {
        Self::Stream
    }

    /// Begins to shake hands: [`Link::next_output`] has our hello. The counters are those of the link's loop, whose links
    /// share the memory for messages.
    pub(crate) fn message(local: Arc<LocalNode>, counters: Arc<Counters>, now: Mono) -> Self {
        Self::Message(Box::new(MessageLink::new(local, counters, now)))
    }

    /// Takes the next event out of `input`, which shrinks by what was consumed. `None`: all of it is.
    ///
    /// To be called until `None` with all that was received, and only then: the call is taken for a sign of life.
    ///
    /// # Errors
    ///
    /// When the peer broke the protocol. Every later call returns the same error, and consumes nothing.
    #[inline]
    pub(crate) fn next_event<'b>(
        &mut self,
        input: &mut &'b [u8],
        now: Mono,
    ) -> Result<Option<LinkEvent<'b>>, LinkError> {
        match self {
            Self::Message(link) => link.next_event(input, now),
            Self::Stream => {
                let data = std::mem::take(input);
                Ok((!data.is_empty()).then_some(LinkEvent::Data(data)))
            }
        }
    }

    /// Takes a message that lies whole in `input`, and begins where it begins: the hot path of [`Link::next_event`], which
    /// is to be called when this gives none, also when nothing is left of the input.
    #[inline]
    pub(crate) fn next_message<'b>(&mut self, input: &mut &'b [u8]) -> Option<&'b [u8]> {
        match self {
            Self::Message(link) => link.next_message(input),
            Self::Stream => None,
        }
    }

    /// Bytes received of a message that is not complete.
    #[inline]
    pub(crate) fn begun(&self) -> usize {
        match self {
            Self::Message(link) => link.begun(),
            Self::Stream => 0,
        }
    }

    /// Returns the memory of an assembled message.
    pub(crate) fn give_back(&mut self, message: Vec<u8>) {
        match self {
            Self::Message(link) => link.give_back(message),
            Self::Stream => {}
        }
    }

    /// What is received is nobody's from here on: gives up the memory for it. [`Link::next_event`] is not to be called again.
    pub(crate) fn discard(&mut self) {
        match self {
            Self::Message(link) => link.discard(),
            Self::Stream => {}
        }
    }

    /// The peer sends nothing more, and all it sent went through [`Link::next_event`]. It may still listen, and is shown
    /// that we live.
    ///
    /// # Errors
    ///
    /// When that is in the middle of something, or the link failed before.
    pub(crate) fn handle_eof(&mut self, now: Mono) -> Result<(), LinkError> {
        match self {
            Self::Message(link) => link.handle_eof(now),
            Self::Stream => Ok(()),
        }
    }

    /// False when [`Link::next_output`] has nothing.
    #[inline]
    pub(crate) fn has_output(&self) -> bool {
        match self {
            Self::Message(link) => link.has_output(),
            Self::Stream => false,
        }
    }

    /// The next control frame, to be sent now; until `None`.
    pub(crate) fn next_output(&mut self, now: Mono) -> Option<ControlFrame> {
        match self {
            Self::Message(link) => link.next_output(now),
            Self::Stream => None,
        }
    }

    /// When [`Link::handle_timeout`] will have something to do; received bytes may move it.
    pub(crate) fn deadline(&self) -> Option<Mono> {
        match self {
            Self::Message(link) => link.deadline(),
            Self::Stream => None,
        }
    }

    /// Does what is due; harmless when nothing is.
    ///
    /// # Errors
    ///
    /// When the peer took too long to say hello or shows no life, or the link failed before.
    pub(crate) fn handle_timeout(&mut self, now: Mono) -> Result<(), LinkError> {
        match self {
            Self::Message(link) => link.handle_timeout(now),
            Self::Stream => Ok(()),
        }
    }

    /// Something is being sent: a sign of life to the peer.
    #[inline]
    pub(crate) fn handle_sent(&mut self, now: Mono) {
        match self {
            Self::Message(link) => link.handle_sent(now),
            Self::Stream => {}
        }
    }

    /// Tells whether what the peer sends is read at present. While it is not, the peer is not taken for dead.
    pub(crate) fn set_reading(&mut self, reading: bool, now: Mono) {
        match self {
            Self::Message(link) => link.set_reading(reading, now),
            Self::Stream => {}
        }
    }

    /// True when messages may be sent.
    pub(crate) fn is_established(&self) -> bool {
        match self {
            Self::Message(link) => link.peer().is_some(),
            Self::Stream => true,
        }
    }

    /// The peer, once established.
    pub(crate) fn peer(&self) -> Option<&PeerInfo> {
        match self {
            Self::Message(link) => link.peer(),
            Self::Stream => None,
        }
    }

    /// The round trip, once measured.
    pub(crate) fn rtt(&self) -> Option<Rtt> {
        match self {
            Self::Message(link) => link.rtt(),
            Self::Stream => None,
        }
    }

    /// Tells the peer why we end the link. Once: later calls do nothing, as do reasons that do not travel. Before the
    /// link is established the text stays here.
    pub(crate) fn go_away(&mut self, reason: CloseReason, retry_after: Duration, text: &str) {
        match self {
            Self::Message(link) => link.go_away(reason, retry_after, text),
            Self::Stream => {}
        }
    }

    /// Sends a PING at once.
    pub(crate) fn ask(&mut self) {
        match self {
            Self::Message(link) => link.ask(),
            Self::Stream => {}
        }
    }

    /// True when a frame other than a message proved that the peer has established the link, too, and keeps it.
    pub(crate) fn is_confirmed(&self) -> bool {
        match self {
            Self::Message(link) => link.is_confirmed(),
            Self::Stream => true,
        }
    }

    /// The longest message that may be sent, in bytes.
    #[inline]
    pub(crate) fn max_message(&self) -> usize {
        match self {
            Self::Message(link) => link.max_message(),
            Self::Stream => usize::MAX,
        }
    }

    /// How messages to the peer are framed, once established.
    #[inline]
    pub(crate) fn framing(&self) -> Framing {
        match self {
            Self::Message(link) => link.framing(),
            Self::Stream => Framing::STREAM,
        }
    }
}
