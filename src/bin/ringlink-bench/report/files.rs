//! The files that results go to; `-` is standard output.

use std::fs::{self, OpenOptions};
use std::path::Path;

use anyhow::Context as _;

use super::json;

pub(crate) fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Whether the file could be written: said before a run, which would else be for nothing. It is there afterwards.
pub(crate) fn try_out(path: &Path) -> anyhow::Result<()> {
    if is_stdout(path) {
        return Ok(());
    }
    // Whoever reads a pipe would take the end of this for the end of the result.
    if fs::metadata(path).is_ok_and(|at| !at.is_file() && !at.is_dir()) {
        return Ok(());
    }
    OpenOptions::new().create(true).append(true).open(path).map(drop).with_context(|| cannot_write(path))
}

pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if is_stdout(path) {
        return json::line(text.trim_end());
    }
    fs::write(path, text).with_context(|| cannot_write(path))
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}
