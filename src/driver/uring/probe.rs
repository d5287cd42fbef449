//! What this kernel's io_uring can do, found by trying and not by its version. Everything made for it is gone again
//! when [`abilities`] returns.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::{Builder, IoUring, Parameters, Probe, opcode};

use super::host::HostKernel;
use super::kernel::{EnterWait, Fd, Kernel, Sqe};
use super::recv_buffers::RecvBuffers;
use super::setup;
use crate::config::RingOptions;
use crate::driver::examine::{Ability, Need};
use crate::error::{DriverError, Errno};

const ENTRIES: u32 = 8;

/// Each ability, in the order of the kernels that brought it; only the first when there is no ring at all.
pub(crate) fn abilities() -> Vec<Ability> {
    let mut found = Vec::new();
    let mut add = |name, since, need, meaning, result: io::Result<()>| {
        let refused = result.err().map(|error| Errno::from(&error));
        found.push(Ability { name, since, need, meaning, refused });
    };
    let plain = IoUring::builder().build(ENTRIES);
    let parameters = plain.as_ref().ok().map(|ring| ring.params().clone());
    let opcodes = plain.as_ref().map_err(copy).and_then(opcodes);
    add("io_uring", "5.11", Need::Any, "nothing works without it", plain.map(drop));
    let Some(parameters) = parameters else { return found };
    let feature = |has: fn(&Parameters) -> bool| supported(has(&parameters));
    let flags = |set: fn(&mut Builder) -> &mut Builder| set(&mut IoUring::builder()).build(ENTRIES).map(drop);
    add(
        "no lost completions",
        "5.5",
        Need::Any,
        "a full queue drops nothing",
        feature(Parameters::is_feature_nodrop),
    );
    add(
        "timeout in enter",
        "5.11",
        Need::Native,
        "one system call waits for both",
        feature(Parameters::is_feature_ext_arg),
    );
    add(
        "submit-all",
        "5.18",
        Need::Native,
        "one bad entry stops no others",
        flags(Builder::setup_submit_all),
    );
    add("coop-taskrun", "5.19", Need::Native, "no interrupts", flags(Builder::setup_coop_taskrun));
    add("buffer ring", "5.19", Need::Native, "channels share receive buffers", buffer_ring());
    add("multishot accept", "5.19", Need::Native, "one operation for all accepts", multishot_accept());
    add("multishot receive", "6.0", Need::Native, "one operation for all receives", multishot_receive());
    add("single-issuer", "6.0", Need::Better, "fewer locks", flags(Builder::setup_single_issuer));
    add(
        "zero-copy send",
        "6.0",
        Need::Unused,
        "not used yet",
        opcodes.and_then(|known| supported(known.is_supported(opcode::SendZc::CODE))),
    );
    add(
        "defer-taskrun",
        "6.1",
        Need::Better,
        "completions come in batches",
        flags(|b| b.setup_single_issuer().setup_defer_taskrun()),
    );
    add("no-sqarray", "6.6", Need::Better, "one indirection less", flags(Builder::setup_no_sqarray));
    add("min-wait", "6.12", Need::Unused, "not used yet", feature(Parameters::is_feature_min_timeout));
    found
}

/// An error twice.
fn copy(error: &io::Error) -> io::Error {
    io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

fn supported(is: bool) -> io::Result<()> {
    if is { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)) }
}

fn opcodes(ring: &IoUring) -> io::Result<Probe> {
    let mut known = Probe::new();
    ring.submitter().register_probe(&mut known)?;
    Ok(known)
}

/// A small ring with few buffers.
fn options() -> RingOptions {
    RingOptions {
        submission_entries: ENTRIES,
        completion_entries: 2 * ENTRIES,
        receive_buffers: 2,
        receive_buffer_size: 4096,
        ..RingOptions::default()
    }
}

fn kernel() -> io::Result<(HostKernel, RecvBuffers)> {
    let options = options();
    let mut kernel = setup::host_kernel(&options).map_err(cause)?;
    let buffers = RecvBuffers::register(&mut kernel, options.receive_buffers, options.receive_buffer_size)?;
    Ok((kernel, buffers))
}

fn cause(error: DriverError) -> io::Error {
    match error {
        DriverError::Unavailable { error, .. } | DriverError::Kernel { error, .. } => error,
    }
}

fn buffer_ring() -> io::Result<()> {
    let (kernel, buffers) = kernel()?;
    // The ring first: while it exists the kernel knows the buffers.
    drop(kernel);
    drop(buffers);
    Ok(())
}

fn multishot_receive() -> io::Result<()> {
    super::try_out(&options()).map_err(cause)
}

fn multishot_accept() -> io::Result<()> {
    let (mut kernel, buffers) = kernel()?;
    let result = accept_with_more(&mut kernel);
    drop(kernel);
    drop(buffers);
    result
}

fn accept_with_more(kernel: &mut HostKernel) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let knocking = TcpStream::connect(listener.local_addr()?)?;
    // SAFETY: an accept points to no memory of ours.
    unsafe { kernel.push(0, Sqe::Accept { fd: Fd(listener.as_raw_fd()) }) };
    kernel.enter(EnterWait::AtMost(Duration::from_secs(1)))?;
    let cqe = kernel.next_cqe().ok_or(io::ErrorKind::TimedOut)?;
    drop(knocking);
    if cqe.result < 0 {
        return Err(io::Error::from_raw_os_error(-cqe.result));
    }
    kernel.close(Fd(cqe.result), None);
    supported(cqe.more)
}
