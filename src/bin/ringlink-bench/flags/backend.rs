//! What a far end is made of.

use std::fmt;

use clap::ValueEnum;
use ringlink::DriverKind;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// ringlink, on its own driver.
    Ringlink,
    /// ringlink, on its driver that is tokio-uring's.
    RinglinkTokioUring,
    /// tokio, on one thread.
    Tokio,
    /// The tokio-uring crate itself; it carries no messages.
    TokioUring,
    /// A blocking thread for each connection.
    Threads,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ringlink => "ringlink",
            Self::RinglinkTokioUring => "ringlink-tokio-uring",
            Self::Tokio => "tokio",
            Self::TokioUring => "tokio-uring",
            Self::Threads => "threads",
        })
    }
}

impl Backend {
    /// The driver of a node; none for what is no node.
    pub(crate) fn driver(self) -> Option<DriverKind> {
        match self {
            Self::Ringlink => Some(DriverKind::Uring),
            Self::RinglinkTokioUring => Some(DriverKind::TokioUring),
            Self::Tokio | Self::TokioUring | Self::Threads => None,
        }
    }
}
