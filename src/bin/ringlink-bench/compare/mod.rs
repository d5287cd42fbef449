//! Several contenders under the same load: each is checked first, then they take turns in shuffled blocks, and every run
//! is held against the baseline's of its block. The baseline runs twice in each: how it differs from itself is the noise
//! floor, below which nothing is said to differ.

mod markdown;
pub(crate) mod statistics;
pub(crate) mod suite;
mod table;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::contender::{iperf3, pair};
use crate::environment::{self, Environment};
use crate::flags::{CompareFlags, Pin};
use crate::pacing::Random;
use crate::report::{Report, Tool, json};
use crate::{run, signals};
pub(crate) use markdown::markdown;
use statistics::{Estimate, Verdict, median_of};
pub(crate) use suite::BuiltIn;
use suite::{Contender, How, Suite};
pub(crate) use table::{floor, in_words, name, notes, table};

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
    pub(crate) processors: String,
    /// Contenders that were not measured, and why.
    pub(crate) left_out: Vec<String>,
    pub(crate) cells: Vec<Cell>,
}

impl Comparison {
    /// Every contender was measured, and every run of it is valid.
    pub(crate) fn is_whole(&self) -> bool {
        let mut rows = self.cells.iter().flat_map(|cell| &cell.rows);
        self.left_out.is_empty() && rows.all(|row| row.valid == row.runs)
    }
}

/// One load. The first row is the baseline, the second the baseline again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) run: String,
    pub(crate) blocks: usize,
    /// Contenders this load is not for.
    pub(crate) without: Vec<String>,
    /// By measure: how far the baseline's interval against itself goes from 1.
    pub(crate) noise_floor: BTreeMap<Measure, f64>,
    pub(crate) rows: Vec<Row>,
}

/// What is compared of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    OpsPerS,
    ServerCpuNsPerOp,
    /// Of both ends.
    TotalCpuNsPerOp,
    P50Ns,
    P99Ns,
}

impl Measure {
    pub(crate) const ALL: [Self; 5] =
        [Self::OpsPerS, Self::ServerCpuNsPerOp, Self::TotalCpuNsPerOp, Self::P50Ns, Self::P99Ns];

    fn of(self, figures: &Figures) -> Option<f64> {
        match self {
            Self::OpsPerS => Some(figures.rate),
            Self::ServerCpuNsPerOp => Some(figures.server_cpu),
            Self::TotalCpuNsPerOp => Some(figures.total_cpu),
            Self::P50Ns => figures.p50,
            Self::P99Ns => figures.p99,
        }
    }
}

/// One contender under one load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) runs: usize,
    pub(crate) valid: usize,
    /// In how many valid runs the generator was the limit.
    pub(crate) generator_bound: usize,
    /// In how many valid runs neighbours or the hypervisor took part.
    pub(crate) disturbed: usize,
    /// Why the first of the runs that are not valid is not.
    pub(crate) failure: Option<String>,
    pub(crate) measures: BTreeMap<Measure, Compared>,
}

/// The median of a contender's runs, and of their ratios to the baseline's of the same block.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Compared {
    pub(crate) median: f64,
    /// None of the baseline itself.
    pub(crate) ratio: Option<Estimate>,
    pub(crate) verdict: Verdict,
}

/// The figures of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) rate: f64,
    pub(crate) server_cpu: f64,
    pub(crate) total_cpu: f64,
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) generator_bound: bool,
    pub(crate) disturbed: bool,
}

impl Figures {
    /// Of a contender that is both ends, and tells no latency.
    pub(crate) fn of_pair(rate: f64, client_cpu: f64, server_cpu: f64) -> Self {
        Self {
            rate,
            server_cpu,
            total_cpu: client_cpu + server_cpu,
            p50: None,
            p99: None,
            generator_bound: false,
            disturbed: false,
        }
    }
}

/// How each run of a comparison is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    /// Where the ends are to run; the load itself knows best when nothing was said.
    given: Pin,
    pub(crate) duration: Duration,
    pub(crate) warmup: Duration,
    seed: u64,
    quiet: bool,
}

impl Block {
    /// For ends of at most so many threads.
    pub(crate) fn pin(&self, threads: u16) -> Pin {
        run::processors(self.given, true, threads)
    }
}

/// What became of a contender's runs, by block.
type Runs = Vec<anyhow::Result<Figures>>;

pub(crate) fn compare(flags: &CompareFlags) -> anyhow::Result<Comparison> {
    let suites = Suite::all(flags)?;
    signals::on_signal(|| {});
    environment::raise_nofile(0)?; // commands inherit it
    let (duration, warmup) = (flags.duration, flags.warmup);
    let block = Block { given: flags.pin, duration, warmup, seed: flags.seed, quiet: flags.quiet };
    let (mut random, mut cells, mut left_out) = (Random::new(flags.seed), Vec::new(), Vec::new());
    for suite in &suites {
        let mut contenders = Vec::new();
        for contender in &suite.contenders {
            match check(contender, &block) {
                Ok(()) => contenders.push(contender.clone()),
                Err(error) => left_out.push(format!("{}: {error:#}", contender.name)),
            }
        }
        if contenders.first().map(|first| &first.name) != Some(&suite.contenders[0].name) {
            bail!("the baseline cannot be measured: {}", left_out.join("; "));
        }
        for run in &suite.runs {
            cells.extend(cell(run, &contenders, &block, suite.blocks, &mut random)?);
        }
    }
    left_out.sort();
    left_out.dedup();
    Ok(Comparison {
        schema: SCHEMA.into(),
        tool: Tool::this(),
        environment: Environment::capture(),
        processors: run::told(block.pin(1))
            + if flags.pin.is_auto { ", where each end has one thread" } else { "" },
        left_out,
        cells,
    })
}

/// Odd lengths, verified: a contender that loses or adds a byte is not measured.
fn check(contender: &Contender, block: &Block) -> anyhow::Result<()> {
    contender.exists()?;
    match &contender.how {
        How::BuiltIn(BuiltIn::Iperf3) => return iperf3::check(),
        How::Pair(command) => return pair::check(command, block),
        How::BuiltIn(BuiltIn::With(_)) | How::Command { .. } => {}
    }
    let words: Vec<String> =
        format!("echo -c 1 -n 100 -s {CHECK}").split_whitespace().map(str::to_owned).collect();
    measure(words, contender, block).map(drop)
}

/// The blocks of one load; none when it was interrupted before each contender had run once.
fn cell(
    run: &str,
    contenders: &[Contender],
    block: &Block,
    blocks: usize,
    random: &mut Random,
) -> anyhow::Result<Option<Cell>> {
    let (mut entries, without): (Vec<Contender>, Vec<Contender>) =
        contenders.iter().cloned().partition(|contender| contender.can(run));
    let mut again = entries.first().context("no contender can do this")?.clone();
    again.name = format!("{} {AGAIN}", again.name);
    entries.insert(1, again);
    let mut runs: Vec<Runs> = entries.iter().map(|_| Runs::new()).collect();
    'blocks: for number in 1..=blocks {
        let mut order: Vec<usize> = (0..entries.len()).collect();
        random.shuffle(&mut order);
        for entry in order {
            if signals::interrupted() {
                break 'blocks;
            }
            let contender = &entries[entry];
            let mut words = contender.words(run);
            words.push(format!("--duration={}", block.duration.as_secs_f64()));
            words.push(format!("--warmup={}", block.warmup.as_secs_f64()));
            let measured = measure(words, contender, block);
            if signals::interrupted() {
                break 'blocks; // what was measured is told; this one was cut short
            }
            if !block.quiet {
                let told = match &measured {
                    Ok(figures) => format!("{:.0}/s", figures.rate),
                    Err(error) => format!("{error:#}"),
                };
                tracing::info!("{run}: block {number} of {blocks}: {}: {told}", contender.name);
            }
            runs[entry].push(measured);
        }
    }
    let without = without.into_iter().map(|contender| contender.name).collect();
    let has_any = runs.iter().all(|runs| !runs.is_empty());
    Ok(has_any.then(|| evaluate(run, without, &entries, &runs)))
}

fn evaluate(run: &str, without: Vec<String>, entries: &[Contender], runs: &[Runs]) -> Cell {
    let ratios = |entry: usize, measure: Measure| {
        let pairs = runs[entry].iter().zip(&runs[0]);
        let both = pairs.filter_map(|(a, b)| a.as_ref().ok().zip(b.as_ref().ok()));
        let ratio = |(a, b)| Some(measure.of(a)? / measure.of(b).filter(|b| *b > 0.0)?);
        Estimate::of(&both.filter_map(ratio).collect::<Vec<_>>())
    };
    let floor = |measure| Some((measure, ratios(1, measure)?.spread()));
    let noise_floor: BTreeMap<Measure, f64> = Measure::ALL.into_iter().filter_map(floor).collect();
    let row = |(entry, contender): (usize, &Contender)| {
        let valid: Vec<Figures> = runs[entry].iter().flatten().copied().collect();
        let compared = |measure: Measure| {
            let all: Vec<f64> = valid.iter().filter_map(|figures| measure.of(figures)).collect();
            let ratio = ratios(entry, measure).filter(|_| entry > 0);
            let verdict = judge(entry, ratio, noise_floor.get(&measure).copied());
            Some((measure, Compared { median: median_of(&all)?, ratio, verdict }))
        };
        Row {
            name: contender.name.clone(),
            runs: runs[entry].len(),
            valid: valid.len(),
            generator_bound: valid.iter().filter(|figures| figures.generator_bound).count(),
            disturbed: valid.iter().filter(|figures| figures.disturbed).count(),
            failure: runs[entry].iter().find_map(|run| run.as_ref().err().map(|error| format!("{error:#}"))),
            measures: Measure::ALL.into_iter().filter_map(compared).collect(),
        }
    };
    let rows = entries.iter().enumerate().map(row).collect();
    Cell { run: run.into(), blocks: runs[0].len(), without, noise_floor, rows }
}

fn judge(entry: usize, ratio: Option<Estimate>, floor: Option<f64>) -> Verdict {
    match (entry, ratio, floor) {
        (1, ..) => Verdict::NoDifference, // it is what the floor is made of
        (_, Some(ratio), Some(floor)) => statistics::verdict(&ratio, floor),
        _ => Verdict::Unknown,
    }
}

/// One run, by processes of its own: no contender meets what another left behind.
fn measure(mut words: Vec<String>, contender: &Contender, block: &Block) -> anyhow::Result<Figures> {
    let Pin { client, server, .. } = block.pin(pair::threads(&words));
    let pin = |end: &str, processor: Option<usize>| processor.map(|processor| format!("{end}={processor}"));
    let mut pins: Vec<String> = pin("cli", client).into_iter().collect();
    // It lives as long as the run.
    let far = match &contender.how {
        How::BuiltIn(BuiltIn::Iperf3) => return iperf3::measure(&words, block),
        How::BuiltIn(BuiltIn::With(backend)) => {
            words.push(format!("--with={backend}"));
            pins.extend(pin("srv", server));
            None
        }
        How::Pair(command) => return pair::measure(command, &words, block),
        How::Command { command, port } => Some(suite::start(command, *port, server)?),
    };
    if let Some(far) = &far {
        words.push(far.address.to_string());
        words.push(format!("--target-pid={}", far.pid()));
    }
    // Both ends of its own making it pins by itself, unless one has more threads than one.
    let pins = if far.is_none() && block.given.is_auto { "auto".into() } else { pins.join(",") };
    words.push(format!("--pin={}", if pins.is_empty() { "none" } else { &pins }));
    words.extend(["--json=-".into(), "--quiet".into(), format!("--seed={}", block.seed)]);
    let report = report_of(&words)?;
    let server = report.cost.server.context("the far end's cost is not known")?.cpu_ns_per_op;
    let latency = report.latency_ns.response.as_ref().or(report.latency_ns.service.as_ref());
    let at = |percentile| latency.and_then(|latency| latency.at(percentile)).map(|nanos| nanos as f64);
    let failed = |names: &[&str]| report.failed_checks().any(|check| names.contains(&check.name.as_str()));
    Ok(Figures {
        rate: report.rate.ops_per_s,
        server_cpu: server,
        total_cpu: server + report.cost.client.cpu_ns_per_op,
        p50: at(50.0),
        p99: at(99.0),
        generator_bound: failed(&["generator"]),
        disturbed: failed(&["steal", "neighbours"]),
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
