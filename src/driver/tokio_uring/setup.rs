//! Making tokio-uring's runtime, and a test that its ring does what it is for: a sandbox may allow the first of io_uring's
//! system calls alone, and tokio-uring does not tell that the others fail.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use tokio_uring::Runtime;
use tokio_uring::net::UnixStream;

use crate::config::RingOptions;
use crate::driver::refusal;
use crate::error::DriverError;

/// An operation that takes longer than this will never end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether this driver works here, with a ring of the size asked for; it is gone when this returns.
pub(crate) fn try_out(options: &RingOptions) -> Result<(), DriverError> {
    runtime(options).map(drop)
}

#[expect(clippy::mem_forget, reason = "dropping the runtime would wait for an operation that never ends")]
pub(super) fn runtime(options: &RingOptions) -> Result<Runtime, DriverError> {
    let mut ring = tokio_uring::uring_builder();
    ring.dontfork().setup_clamp().setup_cqsize(options.completion_entries);
    let mut builder = tokio_uring::builder();
    builder.entries(options.submission_entries).uring_builder(&ring);
    let runtime = Runtime::new(&builder).map_err(refusal::unavailable)?;
    if let Err(error) = runtime.block_on(exchange()) {
        std::mem::forget(runtime);
        return Err(DriverError::Unavailable {
            cause: "io_uring can be set up here, and does not work",
            remedy: "in a container, allow io_uring_enter, too, in its seccomp profile",
            error,
        });
    }
    Ok(runtime)
}

/// Sends a few bytes through a socket pair.
async fn exchange() -> io::Result<()> {
    const BYTES: &[u8] = b"ringlink";
    let (ours, theirs) = StdUnixStream::pair()?;
    let (ours, theirs) = (UnixStream::from_std(ours), UnixStream::from_std(theirs));
    let there = async {
        theirs.write(BYTES).submit().await.0?;
        let (result, read) = ours.read(Vec::with_capacity(BYTES.len())).await;
        result.map(|_| read)
    };
    let read = tokio::time::timeout(PATIENCE, there).await??;
    if read == BYTES { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EIO)) }
}
