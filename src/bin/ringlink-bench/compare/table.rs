//! A comparison for people: for each load one row for each contender.

use std::fmt::Write as _;

use crate::report::text::{count, time};

use super::statistics::{Estimate, Verdict};
use super::{Comparison, Row};

pub(crate) fn table(comparison: &Comparison) -> String {
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("a string takes all");
    for cell in &comparison.cells {
        let (floor, cpu_floor) = (cell.noise_floor.rate * 100.0, cell.noise_floor.cpu * 100.0);
        let blocks = comparison.blocks;
        line(format!(
            "{}   ({blocks} blocks; noise floor: rate {floor:.0} %, cpu {cpu_floor:.0} %; ratios are to {})",
            cell.run, comparison.baseline
        ));
        line(format!(
            "  {:<20} {:>12} {:>9} {:>9} {:>7}   {:<44} {:<20} rate",
            "contender", "ops/s", "cpu/op", "p99", "valid", "cpu", "p99 ratio"
        ));
        for row in &cell.rows {
            line(row_text(row, floor, cpu_floor));
        }
    }
    for left_out in &comparison.left_out {
        line(format!("not measured: {left_out}"));
    }
    let env = &comparison.environment;
    line(format!("on {}x {}, Linux {}, both ends on this machine", env.processors, env.cpu, env.kernel));
    text
}

fn row_text(row: &Row, floor: f64, cpu_floor: f64) -> String {
    let told = |value: Option<f64>, how: fn(f64) -> String| value.map_or_else(|| "-".into(), how);
    let ratio = |estimate: Option<Estimate>| {
        estimate.map_or_else(|| "-".into(), |e| format!("{:.2} [{:.2}..{:.2}]", e.median, e.low, e.high))
    };
    let bound = if row.generator_bound * 2 > row.valid { ", generator-bound" } else { "" };
    format!(
        "  {:<20} {:>12} {:>9} {:>9} {:>3}/{:<3}   {:<44} {:<20} {}{bound}",
        row.name,
        told(row.ops_per_s, count),
        told(row.cpu_ns_per_op, time),
        told(row.p99_ns, time),
        row.valid,
        row.runs,
        cpu_verdict(row, cpu_floor),
        ratio(row.p99),
        verdict(row, floor)
    )
}

/// What its rate comes to, in words.
pub(crate) fn verdict(row: &Row, floor: f64) -> String {
    in_words(row.rate.as_ref(), row.verdict, ["faster", "slower"], floor)
}

/// What an operation costs it, in words.
pub(crate) fn cpu_verdict(row: &Row, floor: f64) -> String {
    in_words(row.cpu.as_ref(), row.cpu_verdict, ["dearer", "cheaper"], floor)
}

fn in_words(estimate: Option<&Estimate>, verdict: Verdict, [higher, lower]: [&str; 2], floor: f64) -> String {
    let Some(e) = estimate else { return "baseline".into() };
    let ratio = format!("{:.2}x [{:.2}..{:.2}]", e.median, e.low, e.high);
    match verdict {
        Verdict::Higher => format!("{higher} {ratio}"),
        Verdict::Lower => format!("{lower} {ratio}"),
        Verdict::NoDifference => format!("no difference {ratio} (floor {floor:.0} %)"),
        Verdict::Unknown => format!("too few blocks {ratio}"),
    }
}
