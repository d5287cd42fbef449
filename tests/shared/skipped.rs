//! What was not tested, told where it is seen: of several test binaries, by `#[path]`.

use std::io::{self, Write};

/// Not by a macro, whose output is captured where a test passes.
pub(crate) fn skipped(why: &str) {
    io::stderr().write_all(format!("\n!!! SKIPPED: {why} !!!\n\n").as_bytes()).unwrap();
}
