//! From flags to echoes: plain ones, and those of few among many idle connections.

use crate::flags::{EchoFlags, IdleFlags, OnLate};
use crate::pacing::{Arrival, Schedule};
use crate::report::{Report, Workload};
use crate::run::Job;

use super::{Echo, Plan};

/// Runs an echo as the flags say.
pub(crate) fn run(flags: &EchoFlags) -> anyhow::Result<Report> {
    let (connections, pipeline) = (flags.connections, usize::from(flags.pipeline));
    let common = &flags.common;
    let job = Job {
        common,
        connections,
        with: flags.ends.with,
        serve: vec!["echo".into(), format!("--connections={}", connections + 16)],
        concurrency: (flags.rate.is_none() && flags.count.is_none()).then_some(connections * pipeline),
        are_links: false,
        ends_by_count: flags.count.is_some(),
        workload: Workload {
            kind: "echo".into(),
            engine: flags.ends.engine.to_string(),
            pace: if flags.rate.is_some() { "open" } else { "closed" }.into(),
            pipeline,
            size: flags.size.to_string(),
            rate_per_s: flags.rate,
            arrival: flags.rate.map(|_| flags.arrival.to_string()),
            ..Workload::default()
        },
    };
    let lengths = job.lengths();
    job.run(|share, wiring| {
        let schedule = |rate| Schedule::new(rate, flags.arrival, share.thread, share.threads, common.seed);
        let quota = |count: u64| {
            count / share.threads as u64 + u64::from((share.thread as u64) < count % share.threads as u64)
        };
        let plan = Plan {
            lanes: share.lanes,
            first: share.first,
            active: share.lanes,
            pipeline,
            sizes: flags.size.clone(),
            schedule: flags.rate.map(schedule),
            drop_late: flags.on_late == OnLate::Drop,
            quota: flags.count.map(quota),
            lengths,
            seed: common.seed,
        };
        let (load, engine) = (Echo::new(plan, share.gate, share.news), flags.ends.engine);
        Box::new(move || engine.run(load, &wiring))
    })
}

/// Runs many connections of which few send, as the flags say.
pub(crate) fn run_idle(flags: &IdleFlags) -> anyhow::Result<Report> {
    let (common, connections) = (&flags.common, flags.connections);
    let job = Job {
        common,
        connections,
        with: flags.ends.with,
        serve: vec!["echo".into(), format!("--connections={}", connections + 16)],
        concurrency: None,
        are_links: false,
        ends_by_count: false,
        workload: Workload {
            kind: "idle".into(),
            engine: flags.ends.engine.to_string(),
            pace: "open".into(),
            pipeline: 1,
            size: flags.size.to_string(),
            rate_per_s: Some(flags.rate),
            arrival: Some(Arrival::Uniform.to_string()),
            ..Workload::default()
        },
    };
    let lengths = job.lengths();
    let mut report = job.run(|share, wiring| {
        let plan = Plan {
            lanes: share.lanes,
            first: share.first,
            active: flags.active,
            pipeline: 1,
            sizes: flags.size.clone(),
            schedule: Some(Schedule::new(flags.rate, Arrival::Uniform, 0, 1, common.seed)),
            drop_late: false,
            quota: None,
            lengths,
            seed: common.seed,
        };
        let (load, engine) = (Echo::new(plan, share.gate, share.news), flags.ends.engine);
        Box::new(move || engine.run(load, &wiring))
    })?;
    report.figures.insert("active_connections".into(), flags.active as f64);
    Ok(report)
}
