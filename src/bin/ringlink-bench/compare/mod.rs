//! Several contenders under the same load: each is checked first, then they take turns in shuffled blocks, and every run
//! is held against the baseline's of its block. The baseline runs twice in each: how it differs from itself is the noise
//! floor, below which nothing is said to differ.

pub(crate) mod statistics;
pub(crate) mod suite;
mod table;

use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::environment::Environment;
use crate::far_end::FarEnd;
use crate::flags::CompareFlags;
use crate::pacing::Random;
use crate::report::{Report, Tool, json};
use crate::{run, signals};
use statistics::{Estimate, Verdict, median_of};
use suite::{Contender, How, Suite};
pub(crate) use table::{cpu_verdict, table, verdict};

pub(crate) const SCHEMA: &str = "ringlink-bench-compare/1";
/// Messages of these lengths must come back before a contender is measured at all.
const CHECK: &str = "mix:1=1,63=1,64=1,65=1,4095=1,16385=1,1M=1";
/// The baseline's second name.
const AGAIN: &str = "again";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Comparison {
    pub(crate) schema: String,
    pub(crate) tool: Tool,
    pub(crate) environment: Environment,
    pub(crate) blocks: usize,
    pub(crate) baseline: String,
    /// Contenders that were not measured, and why.
    pub(crate) left_out: Vec<String>,
    pub(crate) cells: Vec<Cell>,
}

/// One load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) run: String,
    /// Of rate, cost and p99: how far the baseline's interval against itself goes from 1.
    pub(crate) noise_floor: Floor,
    pub(crate) rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Floor {
    pub(crate) rate: f64,
    pub(crate) cpu: f64,
    pub(crate) p99: f64,
}

/// One contender under one load. Ratios are to the baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) runs: usize,
    pub(crate) valid: usize,
    pub(crate) ops_per_s: Option<f64>,
    /// Of the server; of both ends where both are the contender's.
    pub(crate) cpu_ns_per_op: Option<f64>,
    pub(crate) p99_ns: Option<f64>,
    pub(crate) rate: Option<Estimate>,
    pub(crate) cpu: Option<Estimate>,
    pub(crate) p99: Option<Estimate>,
    pub(crate) verdict: Verdict,
    pub(crate) cpu_verdict: Verdict,
    /// In how many runs the generator was the limit.
    pub(crate) generator_bound: usize,
}

/// What is compared of a run.
#[derive(Clone, Copy, Debug)]
struct Figures {
    rate: f64,
    cpu: f64,
    p99: Option<f64>,
    generator_bound: bool,
}

/// The figures of a contender, by block; none where a run failed.
type Runs = Vec<Option<Figures>>;

pub(crate) fn compare(flags: &CompareFlags) -> anyhow::Result<Comparison> {
    let suite = Suite::of(flags)?;
    signals::on_signal(|| {});
    let (mut contenders, mut left_out) = (Vec::new(), Vec::new());
    for contender in &suite.contenders {
        match check(contender, flags) {
            Ok(()) => contenders.push(contender.clone()),
            Err(error) => left_out.push(format!("{}: {error:#}", contender.name)),
        }
    }
    let Some(baseline) = contenders.first().filter(|first| first.name == suite.contenders[0].name) else {
        bail!("the baseline cannot be measured: {}", left_out.join("; "));
    };
    let baseline = baseline.name.clone();
    let mut random = Random::new(flags.seed);
    let mut cells = Vec::new();
    for run in &suite.runs {
        cells.push(cell(run, &contenders, flags, suite.blocks, &mut random)?);
    }
    Ok(Comparison {
        schema: SCHEMA.into(),
        tool: Tool::this(),
        environment: Environment::capture(),
        blocks: suite.blocks,
        baseline,
        left_out,
        cells,
    })
}

/// Odd lengths, verified: a contender that loses or adds a byte is not measured.
fn check(contender: &Contender, flags: &CompareFlags) -> anyhow::Result<()> {
    measure(&format!("echo -c 1 -n 100 -s {CHECK}"), contender, flags).map(drop)
}

fn cell(
    run: &str,
    contenders: &[Contender],
    flags: &CompareFlags,
    blocks: usize,
    random: &mut Random,
) -> anyhow::Result<Cell> {
    let mut entries: Vec<Contender> = contenders.iter().filter(|c| c.can(run)).cloned().collect();
    let mut again = entries.first().context("no contender can do this")?.clone();
    again.name = format!("{} {AGAIN}", again.name);
    entries.insert(1, again);
    let mut runs: Vec<Runs> = vec![Runs::new(); entries.len()];
    for block in 0..blocks {
        let mut order: Vec<usize> = (0..entries.len()).collect();
        random.shuffle(&mut order);
        for entry in order {
            if signals::interrupted() {
                bail!("interrupted");
            }
            let line = format!("{run} -d {} -w {}", flags.duration.as_secs_f64(), flags.warmup.as_secs_f64());
            let measured = measure(&line, &entries[entry], flags);
            if !flags.quiet {
                let told = match &measured {
                    Ok(figures) => format!("{:.0}/s", figures.rate),
                    Err(error) => format!("{error:#}"),
                };
                let name = &entries[entry].name;
                tracing::info!("{run}: block {} of {blocks}: {name}: {told}", block + 1);
            }
            runs[entry].push(measured.ok());
        }
    }
    Ok(evaluate(run, &entries, &runs))
}

fn evaluate(run: &str, entries: &[Contender], runs: &[Runs]) -> Cell {
    let ratios = |entry: usize, of: fn(&Figures) -> Option<f64>| {
        let pairs = runs[entry].iter().zip(&runs[0]);
        let ratio = |(a, b): (&Option<Figures>, &Option<Figures>)| {
            Some(of(a.as_ref()?)? / of(b.as_ref()?).filter(|b| *b > 0.0)?)
        };
        Estimate::of(&pairs.filter_map(ratio).collect::<Vec<_>>())
    };
    let spread = |of| ratios(1, of).map_or(f64::INFINITY, |estimate| estimate.spread());
    let noise_floor =
        Floor { rate: spread(|f| Some(f.rate)), cpu: spread(|f| Some(f.cpu)), p99: spread(|f| f.p99) };
    let noise_floor =
        Floor { p99: if noise_floor.p99.is_finite() { noise_floor.p99 } else { 0.0 }, ..noise_floor };
    let row = |(entry, contender): (usize, &Contender)| {
        let valid: Vec<Figures> = runs[entry].iter().flatten().copied().collect();
        let median =
            |of: fn(&Figures) -> Option<f64>| median_of(&valid.iter().filter_map(of).collect::<Vec<_>>());
        let rate = ratios(entry, |f| Some(f.rate)).filter(|_| entry > 0);
        let cpu = ratios(entry, |f| Some(f.cpu)).filter(|_| entry > 0);
        Row {
            name: contender.name.clone(),
            runs: runs[entry].len(),
            valid: valid.len(),
            ops_per_s: median(|f| Some(f.rate)),
            cpu_ns_per_op: median(|f| Some(f.cpu)),
            p99_ns: median(|f| f.p99),
            rate,
            cpu,
            p99: ratios(entry, |f| f.p99).filter(|_| entry > 0),
            verdict: judge(entry, rate, noise_floor.rate),
            cpu_verdict: judge(entry, cpu, noise_floor.cpu),
            generator_bound: valid.iter().filter(|f| f.generator_bound).count(),
        }
    };
    Cell { run: run.into(), noise_floor, rows: entries.iter().enumerate().map(row).collect() }
}

fn judge(entry: usize, estimate: Option<Estimate>, floor: f64) -> Verdict {
    match entry {
        1 => Verdict::NoDifference, // it is what the floor is made of
        _ => estimate.map_or(Verdict::Unknown, |estimate| statistics::verdict(&estimate, floor)),
    }
}

/// One run, by a process of its own: no contender meets what another left behind.
fn measure(line: &str, contender: &Contender, flags: &CompareFlags) -> anyhow::Result<Figures> {
    let pin = run::processors(flags.pin, true, 1);
    let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let is_pair = words.first().is_some_and(|kind| kind == "msg");
    let far = match &contender.how {
        How::With(backend) if is_pair => {
            words.push(format!("--with={backend}"));
            None
        }
        How::With(backend) => {
            let serve = ["echo".to_owned(), format!("--with={backend}")];
            Some(FarEnd::serve(&serve, pin.server)?)
        }
        How::Command { command, port } => Some(suite::start(command, *port, pin.server)?),
    };
    if let Some(far) = &far {
        words.push(far.address.to_string());
        words.push(format!("--target-pid={}", far.pid()));
    }
    if let Some(client) = pin.client {
        let server = pin.server.filter(|_| is_pair).map_or_else(String::new, |cpu| format!(",srv={cpu}"));
        words.push(format!("--pin=cli={client}{server}"));
    }
    words.extend(["--json=-".into(), "--quiet".into(), format!("--seed={}", flags.seed)]);
    let report = report_of(&words)?;
    let server = report.cost.server.context("the far end's cost is not known")?.cpu_ns_per_op;
    let client = if is_pair { report.cost.client.cpu_ns_per_op } else { 0.0 };
    let latency = report.latency_ns.response.as_ref().or(report.latency_ns.service.as_ref());
    Ok(Figures {
        rate: report.rate.ops_per_s,
        cpu: server + client,
        p99: latency.and_then(|latency| latency.at(99.0)).map(|nanos| nanos as f64),
        generator_bound: report.failed_checks().any(|check| check.name == "generator"),
    })
}

/// What this program reports when it is called so.
pub(crate) fn report_of(words: &[String]) -> anyhow::Result<Report> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().context("cannot run")?;
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    json::parse(&String::from_utf8_lossy(&output.stdout))
}
