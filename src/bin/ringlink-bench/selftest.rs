//! `ringlink-bench selftest`: what this program says is checked against what is known. Stalls and delays of a known length
//! are found again, faulty servers are found out, counts add up at both ends, and equal contenders do not differ.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::compare::report_of;
use crate::compare::statistics::{Estimate, Verdict, verdict};
use crate::engine::Engine;
use crate::far_end::FarEnd;
use crate::histogram::{Histogram, PERCENTILES};
use crate::pacing::Random;
use crate::report::{Report, json};
use crate::serve::Fault;
use crate::{clock, environment};

const ENGINES: [Engine; 2] = [Engine::Uring, Engine::Epoll];

type Test = (&'static str, fn() -> anyhow::Result<String>);

const TESTS: [Test; 7] = [
    ("histogram", histogram),
    ("statistics", statistics),
    ("conservation", conservation),
    ("little's law", littles_law),
    ("delay", delay),
    ("stall", stall),
    ("faulty servers", faulty_servers),
];

/// True when all hold.
pub(crate) fn selftest() -> anyhow::Result<bool> {
    let start = clock::now();
    let mut failed = 0;
    for (name, test) in TESTS {
        match test() {
            Ok(told) => json::line(&format!("ok      {name}: {told}"))?,
            Err(error) => {
                failed += 1;
                json::line(&format!("FAILED  {name}: {error:#}"))?;
            }
        }
    }
    let seconds = (clock::now() - start) / 1_000_000_000;
    json::line(&format!("{} hold, {failed} failed, in {seconds} s", TESTS.len() - failed))?;
    Ok(failed == 0)
}

/// A run against a server of ours; with a fault its far end has it.
fn echo(line: &str, engine: Engine, fault: Option<Fault>) -> anyhow::Result<(Report, FarEnd)> {
    let apart = environment::processors() >= 2;
    let mut serve = vec!["echo".to_owned()];
    serve.extend(fault.map(|fault| format!("--faulty={fault}")));
    let far = FarEnd::serve(&serve, apart.then_some(0))?;
    let mut words: Vec<String> = format!("echo {} {line} --engine {engine} --json - --quiet", far.address)
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    words.extend(apart.then(|| "--pin=cli=1".to_owned()));
    Ok((report_of(&words)?, far))
}

fn histogram() -> anyhow::Result<String> {
    let (mut random, mut histogram, mut samples) = (Random::new(5), Histogram::new(), Vec::new());
    for _ in 0..500_000 {
        let nanos = (1000.0 * 10_f64.powf(7.0 * random.fraction().powi(3))) as u64;
        samples.push(nanos);
        histogram.record(nanos);
    }
    samples.sort_unstable();
    let mut worst = 0.0_f64;
    for percentile in PERCENTILES {
        let rank = (percentile / 100.0 * samples.len() as f64).ceil() as usize;
        let exact = samples[rank.max(1) - 1] as f64;
        worst = worst.max((histogram.at(percentile) as f64 / exact - 1.0).abs());
    }
    ensure!(worst <= 0.001, "a percentile is off by {:.3} %", worst * 100.0);
    Ok(format!("off the exact sort of 500 000 samples by {:.3} % at most", worst * 100.0))
}

/// Equal contenders, with the noise of a shared machine.
fn statistics() -> anyhow::Result<String> {
    const SEEDS: u64 = 1000;
    let same = |seed: &u64| {
        let mut random = Random::new(*seed);
        let mut ratios = || -> Vec<f64> {
            (0..9).map(|_| (1.0 + 0.2 * random.fraction()) / (1.0 + 0.2 * random.fraction())).collect()
        };
        let (a, b) = (Estimate::of(&ratios()), Estimate::of(&ratios()));
        a.zip(b).is_some_and(|(a, b)| verdict(&a, b.spread()) == Verdict::NoDifference)
    };
    let equal = (0..SEEDS).filter(same).count();
    ensure!(equal * 100 >= 95 * 1000, "only {equal} of {SEEDS} comparisons of equals found no difference");
    Ok(format!("{equal} of {SEEDS} comparisons of equals found no difference"))
}

fn conservation() -> anyhow::Result<String> {
    let mut told = Vec::new();
    for engine in ENGINES {
        let (report, mut far) = echo("-c 16 -P 4 -s 1..3000 -d 1s -w 0", engine, None)?;
        let totals = &report.totals;
        ensure!(
            totals.sent == totals.verified,
            "{engine}: {} sent, {} verified",
            totals.sent,
            totals.verified
        );
        let (got, gave) = (far.counter("bytes_in"), far.counter("bytes_out"));
        ensure!(got == Some(totals.bytes_tx), "{engine}: {} sent, the server got {got:?}", totals.bytes_tx);
        ensure!(
            gave == Some(totals.bytes_rx),
            "{engine}: {} came, the server sent {gave:?}",
            totals.bytes_rx
        );
        told.push(format!("{engine} {} bytes", totals.bytes_tx));
    }
    Ok(format!("both ends counted the same: {}", told.join(", ")))
}

fn littles_law() -> anyhow::Result<String> {
    let mut told = Vec::new();
    for engine in ENGINES {
        let (report, _far) = echo("-c 16 -P 4 -d 2s -w 500ms", engine, None)?;
        let check =
            report.checks.iter().find(|check| check.name == "little").context("it was not checked")?;
        ensure!(check.ok, "{engine}: {}", check.detail);
        told.push(format!("{engine}: {}", check.detail));
    }
    Ok(told.join("; "))
}

fn delay() -> anyhow::Result<String> {
    const DELAY: u64 = 50_000_000;
    let mut told = Vec::new();
    for engine in ENGINES {
        let fault = Fault::Delay(Duration::from_nanos(DELAY));
        let (report, _far) = echo("-c 16 -d 2s -w 200ms", engine, Some(fault))?;
        let min = report.latency_ns.service.context("nothing was measured")?.min;
        let off = min as f64 / DELAY as f64 - 1.0;
        // The fastest answer, since others wait for processors too. HDR keeps three digits.
        ensure!((-0.001..=0.01).contains(&off), "{engine}: 50 ms were measured as {min} ns");
        told.push(format!("{engine} {:+.2} %", off * 100.0));
    }
    Ok(format!("50 ms were found again: {}", told.join(", ")))
}

/// A server stands still for S of D: the share q of requests waited for no longer than S - (1 - q) D. On a busy machine it
/// stands still for longer than it was told, as the longest wait says, and never for less.
fn stall() -> anyhow::Result<String> {
    const STALL: f64 = 1.0;
    const DURATION: f64 = 6.0;
    let mut told = Vec::new();
    for engine in ENGINES {
        let fault = Fault::Stall(Duration::from_secs(1));
        let (report, _far) = echo("-c 8 -R 500 -d 6s -w 0", engine, Some(fault))?;
        let response = report.latency_ns.response.context("nothing was measured")?;
        let service = report.latency_ns.service.context("nothing was measured")?;
        let stalled = response.max as f64 / 1e9;
        ensure!(stalled > STALL - 0.01, "{engine}: a stall of {STALL} s was seen as one of {stalled:.3} s");
        for percentile in [90.0, 95.0, 99.0] {
            let expected = stalled - (1.0 - percentile / 100.0) * DURATION;
            let read = response.at(percentile).context("too few samples")? as f64 / 1e9;
            ensure!(
                (read - expected).abs() < 0.08,
                "{engine}: p{percentile} is {read:.3} s, not {expected:.3} s"
            );
            told.push(format!("p{percentile} {read:.2}/{expected:.2} s"));
        }
        // From the actual send only one request of each connection waited.
        let uncorrected = service.at(99.0).context("too few samples")? as f64 / 1e9;
        ensure!(uncorrected < 0.2, "{engine}: the service time's p99 is {uncorrected:.3} s");
        let lag = report.latency_ns.send_lag.context("nothing was due")?;
        let lag = lag.at(99.0).context("too few samples")? as f64 / 1e9;
        ensure!(lag < 0.1, "{engine}: the generator is said to be {lag:.3} s late, which the server was");
    }
    Ok(format!("read/expected: {}", told.join(", ")))
}

fn faulty_servers() -> anyhow::Result<String> {
    const FAULTS: [Fault; 7] =
        [Fault::Pad, Fault::Corrupt, Fault::Dup, Fault::Short, Fault::Reorder, Fault::Close, Fault::Mute];
    for engine in ENGINES {
        for fault in FAULTS {
            let ended = echo("-c 4 -P 4 -d 600ms -w 0 --timeout 400ms", engine, Some(fault));
            let told = ended.map(|(report, _)| report.totals).err().map(|error| error.to_string());
            let told = told.with_context(|| format!("{engine}: {fault} was not found out"))?;
            ensure!(told.contains("exit status: 3"), "{engine}: {fault}: {told}");
        }
    }
    Ok(format!("all {} found out by both engines, with exit code 3", FAULTS.len()))
}
