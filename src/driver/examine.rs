//! What the drivers find on this machine, for `ringlink doctor`: each ability of the kernel, and whether each driver
//! works, all by trying.

use crate::config::{DriverKind, RingOptions};
use crate::driver::uring::{probe, try_out};
use crate::error::{DriverError, Errno};

/// Who misses an ability of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Need {
    /// Both drivers need it.
    Any,
    /// The native driver needs it.
    Native,
    /// The native driver is faster with it.
    Better,
    /// Nobody uses it yet.
    Unused,
}

/// Something a kernel's io_uring can do, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ability {
    /// Its name.
    pub name: &'static str,
    /// The first Linux that has it.
    pub since: &'static str,
    /// Who needs it.
    pub need: Need,
    /// What it is good for.
    pub meaning: &'static str,
    /// What the kernel said when it was tried; `None`: it works.
    pub refused: Option<Errno>,
}

/// What [`examine`] found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report {
    /// Abilities of the kernel; where there is no ring at all, only that.
    pub abilities: Vec<Ability>,
    /// Whether the native driver works.
    pub uring: Result<(), DriverError>,
    /// Whether the driver on tokio-uring works; `None` when this build has none.
    pub tokio_uring: Option<Result<(), DriverError>>,
}

impl Report {
    /// The driver that [`DriverKind::Auto`] stands for here; `None` when a node cannot run.
    pub fn driver(&self) -> Option<DriverKind> {
        match (&self.uring, &self.tokio_uring) {
            (Ok(()), _) => Some(DriverKind::Uring),
            (Err(_), Some(Ok(()))) => Some(DriverKind::TokioUring),
            (Err(_), Some(Err(_)) | None) => None,
        }
    }
}

/// Tries what the drivers use, on the calling thread, with the sizes a loop has by default.
pub fn examine() -> Report {
    Report {
        abilities: probe::abilities(),
        uring: try_out(&RingOptions::default()),
        tokio_uring: try_tokio_uring(),
    }
}

#[cfg(feature = "tokio-uring")]
fn try_tokio_uring() -> Option<Result<(), DriverError>> {
    Some(crate::driver::tokio_uring::try_out(&RingOptions::default()))
}

#[cfg(not(feature = "tokio-uring"))]
fn try_tokio_uring() -> Option<Result<(), DriverError>> {
    None
}
