//! A comparison for people: for each load one row for each contender.

use std::fmt::Write as _;

use crate::report::text::{count, time};

use super::statistics::Verdict;
use super::{Cell, Compared, Comparison, Measure, Row};

pub(crate) fn table(comparison: &Comparison) -> String {
    let mut text = String::new();
    let mut line = |line: &str| writeln!(text, "{}", line.trim_end()).expect("a string takes all");
    for cell in &comparison.cells {
        let baseline = cell.rows.first().map_or("nobody", |row| &row.name);
        line(&format!("{}   ({} blocks; ratios are to {baseline} in the same block)", cell.run, cell.blocks));
        for row in aligned(&rows_of(cell)) {
            line(&row);
        }
        if !cell.without.is_empty() {
            line(&format!("  not for this load: {}", cell.without.join(", ")));
        }
        line("");
    }
    for left_out in &comparison.left_out {
        line(&format!("not measured: {left_out}"));
    }
    let env = &comparison.environment;
    line(&format!(
        "{}; {}x {}, Linux {}, {}; both ends share this machine",
        comparison.processors, env.processors, env.cpu, env.kernel, env.congestion_control
    ));
    text
}

/// What stands in each row and column: only what was measured.
fn rows_of(cell: &Cell) -> Vec<Vec<String>> {
    let measures: Vec<Measure> =
        Measure::ALL.into_iter().filter(|measure| cell.noise_floor.contains_key(measure)).collect();
    let line = |head: &str, valid: String, each: &dyn Fn(Measure) -> String, notes: String| {
        let cells = measures.iter().map(|measure| each(*measure));
        [head.to_owned(), valid].into_iter().chain(cells).chain([notes]).collect()
    };
    let mut rows = vec![
        line("contender", "valid".into(), &|measure| name(measure).into(), String::new()),
        line("noise floor", String::new(), &|measure| floor(cell, measure), String::new()),
    ];
    for row in &cell.rows {
        let told = |measure| match row.measures.get(&measure).map(|compared| in_words(measure, compared)) {
            Some((value, ratio)) if ratio.is_empty() => value,
            Some((value, ratio)) => format!("{value}  {ratio}"),
            None => "-".into(),
        };
        rows.push(line(&row.name, format!("{}/{}", row.valid, row.runs), &told, notes(row)));
    }
    rows
}

/// Each column as wide as what is widest in it.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |n: usize| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let told = |row: &Vec<String>| {
        row.iter().zip(&widths).map(|(text, width)| format!("  {text:<width$}")).collect::<String>()
    };
    rows.iter().map(told).collect()
}

/// What is to be known of a row's runs.
pub(crate) fn notes(row: &Row) -> String {
    let mut notes = Vec::new();
    if row.generator_bound * 2 > row.valid {
        notes.push("generator-bound".to_owned());
    }
    if row.disturbed > 0 {
        notes.push(format!("disturbed {}/{}", row.disturbed, row.valid));
    }
    notes.extend(row.failure.as_ref().map(|failure| format!("{} failed: {failure}", row.runs - row.valid)));
    notes.join(", ")
}

pub(crate) fn name(measure: Measure) -> &'static str {
    match measure {
        Measure::OpsPerS => "rate",
        Measure::ServerCpuNsPerOp => "server cpu/op",
        Measure::TotalCpuNsPerOp => "both ends' cpu/op",
        Measure::P50Ns => "p50",
        Measure::P99Ns => "p99",
    }
}

/// How far the baseline differs from itself.
pub(crate) fn floor(cell: &Cell, measure: Measure) -> String {
    cell.noise_floor.get(&measure).map_or_else(String::new, |floor| format!("{:.0} %", floor * 100.0))
}

/// The median; and its ratio to the baseline's with the interval, and what that comes to, which is empty for the
/// baseline.
pub(crate) fn in_words(measure: Measure, compared: &Compared) -> (String, String) {
    let (value, [higher, lower]) = match measure {
        Measure::OpsPerS => (count(compared.median) + "/s", ["faster", "slower"]),
        Measure::ServerCpuNsPerOp | Measure::TotalCpuNsPerOp => {
            (time(compared.median), ["dearer", "cheaper"])
        }
        Measure::P50Ns | Measure::P99Ns => (time(compared.median), ["later", "sooner"]),
    };
    let Some(e) = compared.ratio else { return (value, String::new()) };
    let verdict = match compared.verdict {
        Verdict::Higher => higher,
        Verdict::Lower => lower,
        Verdict::NoDifference => "no difference",
        Verdict::Unknown => "too few",
    };
    (value, format!("{:.2} [{:.2}..{:.2}] {verdict}", e.median, e.low, e.high))
}
