//! The limit of descriptors, which the cases of a test binary share: of several of these, by `#[path]`.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Cases that run at once may need more than the 1024 of the usual soft limit. Returns the hard one, if there is any.
pub(crate) fn raise_descriptor_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    limit.maximum
}
