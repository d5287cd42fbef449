//! A result: all a run says, in the shape of its JSON (`ringlink-bench.schema.json`), from which every other form is made.
//! Names have their unit at the end; within schema 1 names are added, never changed.

pub(crate) mod diff;
pub(crate) mod files;
pub(crate) mod html;
pub(crate) mod json;
mod svg;
pub(crate) mod text;
pub(crate) mod threshold;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::cost::{End, System};
use crate::environment::Environment;
use crate::histogram::Latency;
use crate::tcp_info;
use crate::workload::Errors;

pub(crate) const SCHEMA: &str = "ringlink-bench/1";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Ok,
    /// Interrupted.
    Partial,
    /// A check failed: the figures do not mean what they should.
    Invalid,
    /// Something that was sent did not come back as it was sent, or nothing could be sent.
    Error,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) schema: String,
    pub(crate) status: Status,
    pub(crate) error: Option<String>,
    pub(crate) started_unix_ns: u64,
    pub(crate) tool: Tool,
    pub(crate) workload: Workload,
    pub(crate) environment: Environment,
    pub(crate) totals: Totals,
    pub(crate) rate: Rate,
    pub(crate) latency_ns: Latencies,
    /// What only this workload tells; each name ends in its unit.
    pub(crate) figures: BTreeMap<String, f64>,
    pub(crate) intervals: Vec<Interval>,
    pub(crate) cost: Cost,
    /// Of the connections that were open at the window's end.
    pub(crate) tcp_info: tcp_info::Both,
    pub(crate) netstat_delta: BTreeMap<String, u64>,
    pub(crate) checks: Vec<Check>,
    pub(crate) thresholds: Vec<Check>,
    /// The histogram for `--hgrm`, which is a file of its own.
    #[serde(skip)]
    pub(crate) hgrm: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) command: Vec<String>,
}

impl Tool {
    pub(crate) fn this() -> Self {
        Self {
            name: "ringlink-bench".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            command: std::env::args().skip(1).collect(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Workload {
    pub(crate) kind: String,
    /// `closed`, `open`, or empty where the word means nothing.
    #[serde(rename = "loop")]
    pub(crate) pace: String,
    pub(crate) target: String,
    /// True when the far end was started for this run.
    pub(crate) own_far_end: bool,
    /// What the far end is made of, where it is ours, and its loops.
    pub(crate) with: String,
    pub(crate) loops: usize,
    pub(crate) busy_poll_ns: u64,
    pub(crate) engine: String,
    pub(crate) connections: usize,
    pub(crate) threads: usize,
    pub(crate) pipeline: usize,
    pub(crate) size: String,
    pub(crate) rate_per_s: Option<f64>,
    pub(crate) arrival: Option<String>,
    pub(crate) duration_ns: u64,
    pub(crate) warmup_ns: u64,
    pub(crate) seed: u64,
    pub(crate) nodelay: bool,
    pub(crate) congestion: String,
    pub(crate) processors: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub(crate) sent: u64,
    pub(crate) verified: u64,
    pub(crate) lost: u64,
    pub(crate) late_dropped: u64,
    pub(crate) bytes_tx: u64,
    pub(crate) bytes_rx: u64,
    pub(crate) errors: Errors,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rate {
    pub(crate) window_ns: u64,
    pub(crate) ops: u64,
    pub(crate) ops_per_s: f64,
    /// Payload that arrived and was right, in one direction.
    pub(crate) goodput_bits_per_s: f64,
    pub(crate) offered_ops_per_s: Option<f64>,
    pub(crate) achieved_ratio: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latencies {
    /// From the intended send time.
    pub(crate) response: Option<Latency>,
    /// From the actual one.
    pub(crate) service: Option<Latency>,
    pub(crate) send_lag: Option<Latency>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Interval {
    /// From the window's start to the interval's end.
    pub(crate) t_ns: u64,
    pub(crate) ops: u64,
    pub(crate) bytes: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) max_ns: u64,
    pub(crate) server_cpu_ns: u64,
    pub(crate) steal_ns: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) server: Option<End>,
    pub(crate) client: End,
    pub(crate) system: System,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) ok: bool,
    pub(crate) detail: String,
}

impl Check {
    pub(crate) fn new(name: &str, ok: bool, detail: impl Into<String>) -> Self {
        Self { name: name.into(), ok, detail: detail.into() }
    }
}

impl Report {
    /// Of a run that could not be made.
    pub(crate) fn failed(kind: &str, target: Option<&str>, error: String) -> Self {
        let target = target.unwrap_or_default().to_owned();
        Self {
            schema: SCHEMA.into(),
            status: Status::Error,
            error: Some(error),
            started_unix_ns: clock::unix(),
            tool: Tool::this(),
            workload: Workload { kind: kind.into(), target, ..Workload::default() },
            environment: Environment::capture(),
            totals: Totals::default(),
            rate: Rate::default(),
            latency_ns: Latencies::default(),
            figures: BTreeMap::new(),
            intervals: Vec::new(),
            cost: Cost::default(),
            tcp_info: tcp_info::Both::default(),
            netstat_delta: BTreeMap::new(),
            checks: Vec::new(),
            thresholds: Vec::new(),
            hgrm: String::new(),
        }
    }

    /// True when what was sent did not all come back as it was sent.
    pub(crate) fn is_unsound(&self) -> bool {
        self.totals.errors.sum() > 0
    }

    /// True when its figures mean something.
    pub(crate) fn has_result(&self) -> bool {
        self.status != Status::Error
    }

    pub(crate) fn failed_checks(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| !check.ok)
    }

    /// The exit code: the gravest of what went wrong.
    pub(crate) fn exit_code(&self, strict: bool) -> u8 {
        let errors = &self.totals.errors;
        if errors.sum() > 0 && errors.sum() == errors.connect {
            1
        } else if self.is_unsound() {
            3
        } else if self.status == Status::Partial {
            130
        } else if strict && self.failed_checks().next().is_some() {
            4
        } else if self.thresholds.iter().any(|threshold| !threshold.ok) {
            99
        } else {
            0
        }
    }
}
