//! What forbids io_uring here, and how to allow it: from the error number to words, for both drivers and the doctor.

use std::io;

use crate::error::DriverError;

/// Why io_uring cannot be had, and how to get it.
pub(crate) fn unavailable(error: io::Error) -> DriverError {
    let (cause, remedy) = match error.raw_os_error() {
        Some(libc::ENOSYS) => (
            "this kernel has no io_uring, or a sandbox hides it",
            "Linux 5.11 or later is needed, 6.1 or later recommended; in a container (Podman hides it so) allow it \
             with --security-opt seccomp=ci/seccomp-io_uring.json",
        ),
        Some(libc::EPERM) => (
            "io_uring is forbidden",
            "set the sysctl kernel.io_uring_disabled=0, or in a container, where Docker's default seccomp profile \
             forbids it, run with --security-opt seccomp=ci/seccomp-io_uring.json",
        ),
        Some(libc::EACCES) => {
            ("a security module refuses io_uring", "allow io_uring in the policy of SELinux or AppArmor")
        }
        Some(libc::ENOMEM) => (
            "there is not enough locked memory for the ring",
            "raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=, docker run --ulimit memlock=-1), or ask for smaller rings",
        ),
        Some(libc::EMFILE | libc::ENFILE) => {
            ("there are no descriptors left", "raise RLIMIT_NOFILE (ulimit -n)")
        }
        Some(libc::EINVAL) => (
            "this kernel's io_uring is too old",
            "Linux 6.0 or later is needed, 5.11 or later for the driver tokio-uring",
        ),
        None if error.kind() == io::ErrorKind::OutOfMemory => (
            "there is not enough memory for receive buffers",
            "ask for fewer or smaller ones, or for fewer loops",
        ),
        Some(_) | None => ("the ring could not be set up", "see the error"),
    };
    DriverError::Unavailable { cause, remedy, error }
}
