//! Making a ring: the best flags this kernel takes, smaller queues when memory is short, and a test that what the
//! driver relies on really works. Errors say what forbids io_uring here and how to allow it.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use io_uring::{Builder, IoUring};

use super::UringDriver;
use super::host::HostKernel;
use super::kernel::{Cqe, EnterWait, Fd, Kernel, Sqe};
use crate::config::RingOptions;
use crate::driver::refusal;
use crate::error::DriverError;

/// The queues are not made smaller than this.
const LEAST_ENTRIES: u32 = 64;

/// A ring flag set, by what it leaves out.
#[derive(Clone, Copy, Debug)]
enum Flags {
    /// Since Linux 6.6.
    All,
    /// Since Linux 6.1.
    WithSqArray,
    /// Since Linux 6.0.
    Cooperative,
}

fn builder(flags: Flags, options: &RingOptions, shrink: u32) -> Builder {
    let mut builder = IoUring::builder();
    builder
        .dontfork()
        .setup_clamp()
        .setup_submit_all()
        .setup_coop_taskrun()
        .setup_cqsize((options.completion_entries >> shrink).max(2));
    match flags {
        Flags::All => builder.setup_single_issuer().setup_defer_taskrun().setup_no_sqarray(),
        Flags::WithSqArray => builder.setup_single_issuer().setup_defer_taskrun(),
        Flags::Cooperative => builder.setup_taskrun_flag(),
    };
    builder
}

/// A kernel for the calling thread, which is the only one that may use it.
pub(crate) fn host_kernel(options: &RingOptions) -> Result<HostKernel, DriverError> {
    let ring = build_ring(options).map_err(refusal::unavailable)?;
    HostKernel::new(ring).map_err(|error| DriverError::Kernel { doing: "making an eventfd", error })
}

fn build_ring(options: &RingOptions) -> io::Result<IoUring> {
    let mut result = Err(io::Error::from_raw_os_error(libc::EINVAL));
    for flags in [Flags::All, Flags::WithSqArray, Flags::Cooperative] {
        result = build_with(flags, options);
        // EINVAL: a flag this kernel does not know. Anything else is not the flags' fault.
        match &result {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                tracing::debug!(?flags, "ring refused");
            }
            Ok(_) | Err(_) => break,
        }
    }
    result
}

/// Halves the queues as long as the locked memory does not suffice.
fn build_with(flags: Flags, options: &RingOptions) -> io::Result<IoUring> {
    let mut shrink = 0;
    loop {
        let entries = (options.submission_entries >> shrink).max(1);
        match builder(flags, options, shrink).build(entries) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && entries / 2 >= LEAST_ENTRIES => {
                shrink += 1;
            }
            built => {
                if built.is_ok() && shrink > 0 {
                    tracing::warn!(
                        entries,
                        "little locked memory (RLIMIT_MEMLOCK): a smaller ring than asked for"
                    );
                }
                return built;
            }
        }
    }
}

/// How often the self-test waits [`EACH_TRY`] for a completion.
const TRIES: u32 = 100;
const EACH_TRY: Duration = Duration::from_millis(100);

impl UringDriver<HostKernel> {
    /// Arms a multishot receive on a socket pair and writes to it: the completion must name a buffer, and the receive
    /// must go on until the peer closes. It is in flight like any other: one that does not end keeps its memory.
    pub(super) fn self_test(&mut self) -> Result<(), DriverError> {
        let room = self.kernel.room();
        let outcome = self.receive_once(TRIES);
        if self.kernel.room() < room {
            // The kernel did not even take it.
            self.in_flight -= 1;
        }
        outcome.map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS | libc::ENOMEM) => refusal::unavailable(error),
            Some(_) | None => DriverError::Unavailable {
                cause: "this kernel's io_uring lacks multishot receive into provided buffers",
                remedy: "Linux 6.0 or later is needed, 6.1 or later recommended; or the driver tokio-uring",
                error,
            },
        })
    }

    fn receive_once(&mut self, tries: u32) -> io::Result<()> {
        const BYTES: &[u8] = b"ringlink";
        // Not a name that a token has.
        const NAME: u64 = 0;
        let (ours, mut theirs) = UnixStream::pair()?;
        theirs.write_all(BYTES)?;
        self.push(NAME, Sqe::Receive { fd: Fd(ours.as_raw_fd()) });
        let data = self.await_receive(tries)?;
        drop(theirs);
        let mut last = data;
        while last.more {
            last = self.await_receive(tries)?;
        }
        let works = data.more && data.buffer.is_some() && usize::try_from(data.result) == Ok(BYTES.len());
        let errno = if data.result < 0 { -data.result } else { libc::EOPNOTSUPP };
        if works { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
    }

    fn await_receive(&mut self, tries: u32) -> io::Result<Cqe> {
        for _ in 0..tries {
            if let Some(cqe) = self.kernel.next_cqe() {
                self.counters.completions.add(1);
                self.in_flight -= usize::from(!cqe.more);
                if let Some(buffer) = cqe.buffer {
                    self.buffers.take(buffer);
                    self.give_back(buffer);
                }
                return Ok(cqe);
            }
            self.kernel.enter(EnterWait::AtMost(EACH_TRY))?;
        }
        Err(io::Error::from_raw_os_error(libc::ETIMEDOUT))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::SocketOptions;
    use crate::driver::{Driver, Settings};

    #[test]
    fn a_self_test_that_does_not_end_is_waited_for() {
        let settings =
            Settings { first_slot: 0, ring: RingOptions::default(), socket: SocketOptions::default() };
        let mut driver =
            UringDriver::on(host_kernel(&settings.ring).unwrap(), settings, Arc::default()).unwrap();
        let error = driver.receive_once(1).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
        assert_eq!(driver.in_flight, 1, "its buffer is the kernel's");
        let deadline = driver.now() + Duration::from_secs(30);
        assert_eq!(driver.finish(deadline), 0);
    }
}
