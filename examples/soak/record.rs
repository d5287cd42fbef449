//! The time series, kept as CSV, and the verdict over it.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use super::hub::Look;

/// The columns, beside time, verified bytes and verified lines.
const COLUMNS: [&str; 13] = [
    "channels",
    "accepted",
    "closed",
    "bytes_in",
    "bytes_out",
    "bytes_queued",
    "bytes_held",
    "operations_in_flight",
    "buffers_free",
    "buffers_lent",
    "starved",
    "descriptors",
    "rss",
];
/// What a node without channels holds as it did at the start.
const SAME: [&str; 3] = ["operations_in_flight", "buffers_free", "descriptors"];
/// What it holds none of.
const NONE: [&str; 7] = [
    "channels",
    "bytes_queued",
    "bytes_held",
    "bytes_assembling",
    "buffers_lent",
    "starved",
    "stale_completions",
];
/// By how much memory may differ between two thirds of the time, in KiB.
const SLACK: u64 = 4096;

pub(crate) struct Record {
    csv: File,
    start: Look,
    /// Memory in KiB and open descriptors at each look.
    series: Vec<(u64, u64)>,
    panics: u64,
}

impl Record {
    pub(crate) fn new(csv: &str, start: Look) -> Self {
        let mut csv = File::create(csv).unwrap();
        writeln!(csv, "seconds,verified_bytes,verified_messages,{}", COLUMNS.join(",")).unwrap();
        Self { csv, start, series: Vec::new(), panics: 0 }
    }

    pub(crate) fn add(&mut self, at: Duration, look: &Look, bytes: u64, lines: u64) {
        let columns: Vec<String> = COLUMNS.iter().map(|name| look[*name].to_string()).collect();
        writeln!(self.csv, "{:.1},{bytes},{lines},{}", at.as_secs_f64(), columns.join(",")).unwrap();
        self.series.push((look["rss"], look["descriptors"]));
        self.panics = look["handler_panics"];
    }

    /// What is held that was not held at the start, when nobody is there any more: its name, and how much.
    pub(crate) fn leftovers(&self, look: &Look) -> Vec<(&'static str, u64)> {
        let before = |name: &str| if SAME.contains(&name) { self.start[name] } else { 0 };
        let names = SAME.into_iter().chain(NONE);
        names.filter(|name| look[*name] != before(name)).map(|name| (name, look[name])).collect()
    }

    /// Memory and descriptors did not grow after the first third.
    pub(crate) fn judge(&self) {
        let third = self.series.len() / 3;
        let most = |part: &[(u64, u64)]| {
            (part.iter().map(|(rss, _)| *rss).max().unwrap(), part.iter().map(|(_, fds)| *fds).max().unwrap())
        };
        assert!(third > 0, "too short to tell");
        let (before, after) =
            (most(&self.series[third..2 * third]), most(&self.series[self.series.len() - third..]));
        println!(
            "soak: memory {} KiB at the start, at most {} in the second and {} in the last third; descriptors {}, {}, {}",
            self.start["rss"], before.0, after.0, self.start["descriptors"], before.1, after.1,
        );
        assert!(after.0 <= before.0 + before.0 / 10 + SLACK, "memory grows");
        assert!(after.1 <= 2 * before.1, "descriptors grow");
        assert_eq!(self.panics, 0, "handlers panicked");
    }
}
