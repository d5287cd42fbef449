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
        // Only what was measured.
        let measures: Vec<Measure> =
            Measure::ALL.into_iter().filter(|m| cell.noise_floor.contains_key(m)).collect();
        let mut head = format!("  {:<22} {:>5}", "contender", "valid");
        let mut floors = format!("  {:<22} {:>5}", "noise floor", "");
        for measure in &measures {
            write!(head, "  {:<40}", name(*measure)).expect("a string takes all");
            write!(floors, "  {:<40}", floor(cell, *measure)).expect("a string takes all");
        }
        line(&head);
        line(&floors);
        for row in &cell.rows {
            line(&row_text(row, &measures));
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

fn row_text(row: &Row, measures: &[Measure]) -> String {
    let mut text = format!("  {:<22} {:>2}/{:<2}", row.name, row.valid, row.runs);
    for measure in measures {
        let told =
            row.measures.get(measure).map_or_else(|| "-".into(), |compared| in_words(*measure, compared));
        write!(text, "  {told:<40}").expect("a string takes all");
    }
    text + &notes(row)
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
    if notes.is_empty() { String::new() } else { format!("  {}", notes.join(", ")) }
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

/// The median, its ratio to the baseline's with the interval, and what that comes to.
pub(crate) fn in_words(measure: Measure, compared: &Compared) -> String {
    let (value, [higher, lower]) = match measure {
        Measure::OpsPerS => (count(compared.median) + "/s", ["faster", "slower"]),
        Measure::ServerCpuNsPerOp | Measure::TotalCpuNsPerOp => {
            (time(compared.median), ["dearer", "cheaper"])
        }
        Measure::P50Ns | Measure::P99Ns => (time(compared.median), ["later", "sooner"]),
    };
    let Some(e) = compared.ratio else { return value };
    let verdict = match compared.verdict {
        Verdict::Higher => higher,
        Verdict::Lower => lower,
        Verdict::NoDifference => "no difference",
        Verdict::Unknown => "too few",
    };
    format!("{value} {:.2} [{:.2}..{:.2}] {verdict}", e.median, e.low, e.high)
}
