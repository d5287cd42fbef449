//! The result for machines: one JSON document, lines of JSON while it runs, CSV of the intervals.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use super::{Interval, Report, files};

pub(crate) fn write(result: &impl Serialize, path: &Path) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(result).context("a result is JSON")?;
    files::write(path, &(text + "\n"))
}

pub(crate) fn read(path: &Path) -> anyhow::Result<Report> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is no result", path.display()))
}

pub(crate) fn parse(text: &str) -> anyhow::Result<Report> {
    let report: Report = serde_json::from_str(text)?;
    anyhow::ensure!(report.schema == super::SCHEMA, "its schema is {}", report.schema);
    Ok(report)
}

/// One event of a stream.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event<'a> {
    Start { workload: &'a super::Workload },
    Interval { interval: &'a Interval },
    End { report: &'a Report },
}

pub(crate) fn stream(event: &Event<'_>) -> anyhow::Result<()> {
    line(&serde_json::to_string(event).context("an event is JSON")?)
}

/// A line on standard output.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).context("cannot write to standard output")
}

pub(crate) fn csv(report: &Report) -> String {
    let mut text = String::from("t_ns,ops,bytes,p50_ns,p99_ns,max_ns,server_cpu_ns,steal_ns\n");
    for i in &report.intervals {
        let row = [i.t_ns, i.ops, i.bytes, i.p50_ns, i.p99_ns, i.max_ns, i.server_cpu_ns, i.steal_ns];
        text += &(row.map(|value| value.to_string()).join(",") + "\n");
    }
    text
}
