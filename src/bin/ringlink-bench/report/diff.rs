//! What changed from one result to another, and tests of it that decide the exit code.

use std::fmt::Write as _;
use std::str::FromStr;

use super::Report;
use super::text::{count, time};

/// A figure's name, where it stands, and how it is written.
type Figure = (&'static str, fn(&Report) -> Option<f64>, fn(f64) -> String);

/// What is held against each other.
const FIGURES: [Figure; 7] = [
    ("ops_per_s", |r| Some(r.rate.ops_per_s), count),
    ("cpu_ns_per_op", |r| r.cost.server.map(|server| server.cpu_ns_per_op), time),
    ("client_cpu_ns_per_op", |r| Some(r.cost.client.cpu_ns_per_op), time),
    ("system_cpu_ns_per_op", |r| Some(r.cost.system.cpu_ns_per_op), time),
    ("p50_ns", |r| latency(r, 50.0), time),
    ("p99_ns", |r| latency(r, 99.0), time),
    ("p99.9_ns", |r| latency(r, 99.9), time),
];

fn latency(report: &Report, percentile: f64) -> Option<f64> {
    let latency = report.latency_ns.response.as_ref().or(report.latency_ns.service.as_ref());
    latency?.at(percentile).map(|nanos| nanos as f64)
}

/// `cpu_ns_per_op>+5%`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    name: String,
    is_growth: bool,
    /// As a part of the old figure.
    share: f64,
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = text.find(['<', '>']).ok_or("it is written as in cpu_ns_per_op>+5%")?;
        let (name, share) = (text[..place].trim(), text[place + 1..].trim());
        if !FIGURES.iter().any(|(known, ..)| *known == name) {
            let known: Vec<_> = FIGURES.iter().map(|(name, ..)| *name).collect();
            return Err(format!("there is no '{name}'; there are {}", known.join(", ")));
        }
        let share = share.strip_suffix('%').and_then(|share| share.parse::<f64>().ok());
        let share = share.filter(|share| share.is_finite()).ok_or("a change is in percent, as in +5%")?;
        Ok(Self { name: name.into(), is_growth: text[place..].starts_with('>'), share: share / 100.0 })
    }
}

/// The table, and whether a test failed. One result of each is little: noise is not told from change here, see compare.
pub(crate) fn diff(old: &Report, new: &Report, tests: &[Change]) -> (String, bool) {
    let (mut text, mut failed) = (String::new(), false);
    let mut line = |line: String| writeln!(text, "{line}").expect("a string takes all");
    let [before, after] = [old, new].map(|r| (&r.workload.kind, &r.workload.engine, &r.workload.size));
    if before != after {
        line("WARNING: these are results of different loads".into());
    }
    for (name, of, how) in FIGURES {
        let mut tests = tests.iter().filter(|test| test.name == name).peekable();
        let (before, after) = (of(old).filter(|_| old.has_result()), of(new).filter(|_| new.has_result()));
        let (Some(before), Some(after)) = (before, after) else {
            // What cannot be told has not held.
            if tests.peek().is_some() {
                failed = true;
                line(format!("{name:<22} is not in both results  FAILS"));
            }
            continue;
        };
        let change = after / before - 1.0;
        let is_over = |test: &Change| {
            !change.is_finite() || if test.is_growth { change > test.share } else { change < test.share }
        };
        let verdict = if tests.any(is_over) { "  FAILS" } else { "" };
        failed |= !verdict.is_empty();
        line(format!(
            "{name:<22} {:>12} -> {:>12}  {:+6.1} %{verdict}",
            how(before),
            how(after),
            change * 100.0
        ));
    }
    line("one run each: what is noise and what is change, `compare` tells".into());
    (text, failed)
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn changes_are_understood_or_refused() {
        let change: Change = "cpu_ns_per_op>+5%".parse().unwrap();
        assert_eq!((change.is_growth, change.share), (true, 0.05));
        assert_eq!("ops_per_s<-10%".parse::<Change>().unwrap().share, -0.1);
        for text in ["", "x>5%", "p99_ns>5", "p99_ns"] {
            assert!(text.parse::<Change>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_test_of_what_was_not_measured_fails() {
        let failed_run = Report::failed("echo", None, String::new());
        let mut run = failed_run.clone();
        (run.status, run.rate.ops_per_s) = (Status::Ok, 5e6);
        let test = |text: &str| [text.parse::<Change>().unwrap()];
        assert!(!diff(&run, &run, &test("ops_per_s<-10%")).1);
        assert!(diff(&run, &run, &test("p99_ns>+10%")).1);
        assert!(diff(&run, &failed_run, &test("ops_per_s>+10%")).1);
        assert!(!diff(&run, &failed_run, &[]).1);
    }
}
