//! A comparison as a table for a document: ratios alone, so that it says nothing of the machine it was measured on.

use std::fmt::Write as _;

use super::statistics::Verdict;
use super::{Cell, Comparison, Measure, name};

/// A row for each load and measure, a column for each contender of any load but the baseline; what is a difference is
/// bold.
pub(crate) fn markdown(comparison: &Comparison) -> String {
    let mut contenders: Vec<&str> = Vec::new();
    for row in comparison.cells.iter().flat_map(|cell| cell.rows.iter().skip(2)) {
        if !contenders.contains(&row.name.as_str()) {
            contenders.push(&row.name);
        }
    }
    let mut text = format!("| load | ratio of | {} | noise floor |\n", contenders.join(" | "));
    text += &format!("|---|---|{}\n", "---|".repeat(contenders.len() + 1));
    for cell in &comparison.cells {
        let mut load = format!("`{}`", cell.run);
        for measure in Measure::ALL.into_iter().filter(|measure| is_told(cell, *measure)) {
            write!(text, "| {} | {} ", std::mem::take(&mut load), name(measure)).expect("a string takes all");
            for contender in &contenders {
                write!(text, "| {} ", ratio(cell, contender, measure)).expect("a string takes all");
            }
            let floor = cell.noise_floor.get(&measure).copied().unwrap_or_default();
            writeln!(text, "| {:.0} % |", floor * 100.0).expect("a string takes all");
        }
    }
    text
}

/// Where both ends are the contender's own, their cost is told together.
fn is_told(cell: &Cell, measure: Measure) -> bool {
    let is_pair = cell.run.starts_with("msg");
    let other = if is_pair { Measure::ServerCpuNsPerOp } else { Measure::TotalCpuNsPerOp };
    measure != other && cell.noise_floor.contains_key(&measure)
}

fn ratio(cell: &Cell, contender: &str, measure: Measure) -> String {
    let row = cell.rows.iter().skip(2).find(|row| row.name == contender);
    let Some(compared) = row.and_then(|row| row.measures.get(&measure)) else { return "–".into() };
    let Some(ratio) = compared.ratio else { return "–".into() };
    match compared.verdict {
        Verdict::Higher | Verdict::Lower => format!("**{:.2}**", ratio.median),
        Verdict::NoDifference => format!("{:.2}", ratio.median),
        Verdict::Unknown => format!("{:.2}?", ratio.median),
    }
}
