//! One page of results and comparisons, all in one file, without a script: it can be mailed, kept, and read in ten years.

use std::path::Path;

use anyhow::Context as _;

use super::svg::{Axis, COLOURS, Chart, escape};
use super::text::{count, figure, headline, speed, time};
use super::{Report, SCHEMA, Tool};
use crate::compare::{self, Cell, Comparison, Measure, Row};
use crate::environment::Environment;
use crate::histogram::Latency;

const STYLE: &str = include_str!("page.css");

/// What a page is made of.
#[derive(Debug, Default)]
pub(crate) struct Page {
    reports: Vec<Report>,
    comparisons: Vec<Comparison>,
}

impl Page {
    /// Adds a file that --json wrote.
    pub(crate) fn add(&mut self, path: &Path) -> anyhow::Result<()> {
        let told = || format!("cannot use {}", path.display());
        let text = std::fs::read_to_string(path).with_context(told)?;
        let value: serde_json::Value = serde_json::from_str(&text).with_context(told)?;
        match value["schema"].as_str() {
            Some(SCHEMA) => self.reports.push(serde_json::from_value(value).with_context(told)?),
            Some(compare::SCHEMA) => self.comparisons.push(serde_json::from_value(value).with_context(told)?),
            Some(_) | None => anyhow::bail!("{} is neither a result nor a comparison", path.display()),
        }
        Ok(())
    }

    pub(crate) fn html(&self) -> String {
        let mut body = String::from("<h1>ringlink-bench</h1>\n");
        for comparison in &self.comparisons {
            body += &comparison_section(comparison);
        }
        if !self.reports.is_empty() {
            body += &self.results();
        }
        let environments = self.reports.iter().map(|report| (&report.environment, &report.tool));
        let more = self.comparisons.iter().map(|comparison| (&comparison.environment, &comparison.tool));
        let all: Vec<_> = more.chain(environments).collect();
        if let Some((environment, _)) = all.first() {
            body += &environment_table(environment);
        }
        body += "<h2>To repeat it</h2>\n<pre>";
        for (_, tool) in &all {
            body += &(escape(&command(tool)) + "\n");
        }
        body += "</pre>\n";
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>ringlink-bench</title>\n\
             <style>\n{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
        )
    }

    fn results(&self) -> String {
        let mut body = String::from("<h2>Results</h2>\n<ol class=\"legend\">\n");
        for (n, report) in self.reports.iter().enumerate() {
            let rate = format!(
                "{}/s, {}",
                count(report.rate.ops_per_s),
                speed(report.rate.goodput_bits_per_s, "bit")
            );
            let warnings: Vec<String> =
                report.failed_checks().map(|check| format!("{}: {}", check.name, check.detail)).collect();
            let figures: Vec<String> =
                report.figures.iter().map(|(name, value)| figure(name, *value)).collect();
            let (series, head) = (n % COLOURS, escape(&headline(report)));
            body += &format!("<li><span class=\"key s{series}\"></span><b>{rate}</b> {head}");
            for (class, notes) in [("note", figures), ("warning", warnings)] {
                if !notes.is_empty() {
                    body += &format!("<br><span class=\"{class}\">{}</span>", escape(&notes.join("; ")));
                }
            }
            body += "</li>\n";
        }
        body += "</ol>\n";
        body += &self.percentiles();
        body += &self.over_time();
        body += &self.hockey_stick();
        body += &self.costs();
        body
    }

    /// The latencies that are told: from the intended send time where there is one.
    fn latencies(&self) -> impl Iterator<Item = (usize, &Report, &Latency)> {
        self.reports.iter().enumerate().filter_map(|(n, report)| {
            let latency = report.latency_ns.response.as_ref().or(report.latency_ns.service.as_ref())?;
            Some((n, report, latency))
        })
    }

    fn percentiles(&self) -> String {
        if self.latencies().next().is_none() {
            return String::new();
        }
        // At p the axis says how many requests there are to one that is slower: 1/(1-p).
        let tick = |p: f64, told: &str| (1.0 / (1.0 - p / 100.0), told.to_owned());
        let ticks =
            [(0.0, "0"), (50.0, "p50"), (90.0, "p90"), (99.0, "p99"), (99.9, "p99.9"), (99.99, "p99.99")];
        let ticks =
            ticks.into_iter().chain([(99.999, "p99.999")]).map(|(p, told)| tick(p, told)).collect::<Vec<_>>();
        let last = self
            .latencies()
            .filter_map(|(_, _, l)| l.percentiles.last())
            .map(|(p, _)| 1.0 / (1.0 - p / 100.0));
        let last = last.fold(100.0, f64::max);
        let ticks = Vec::into_iter(ticks).filter(|(at, _)| *at <= last * 1.001).collect();
        let x = Axis::with_ticks(1.0, last, true, ticks);
        let values =
            self.latencies().flat_map(|(_, _, l)| l.percentiles.iter().map(|(_, nanos)| *nanos as f64));
        let y = Axis::log(values, time);
        let mut chart = Chart::new(340.0, x, y, "percentile", "latency");
        for (n, _, latency) in self.latencies() {
            let points: Vec<_> = latency
                .percentiles
                .iter()
                .map(|(p, nanos)| (1.0 / (1.0 - p / 100.0), *nanos as f64))
                .collect();
            chart.line(n, &(n + 1).to_string(), &points);
        }
        section("Latency by percentile", &chart.finish("latency by percentile"))
    }

    fn over_time(&self) -> String {
        let rows = || self.reports.iter().flat_map(|report| &report.intervals);
        if rows().count() < 2 {
            return String::new();
        }
        let x = || Axis::linear(rows().map(|row| row.t_ns as f64 / 1e9), |s| format!("{s:.1} s"));
        let all = self.reports.iter().flat_map(|report| rates(report).map(|(_, rate)| rate));
        let mut chart = Chart::new(240.0, x(), Axis::fitting(all, count), "time", "each second");
        for (n, report) in self.reports.iter().enumerate() {
            chart.line(n, &(n + 1).to_string(), &rates(report).collect::<Vec<_>>());
        }
        let mut body = section("Rate over time", &chart.finish("rate over time"));
        if rows().any(|row| row.p99_ns > 0) {
            let y = Axis::log(rows().map(|row| row.p99_ns as f64), time);
            let mut chart = Chart::new(240.0, x(), y, "time", "p99");
            for (n, report) in self.reports.iter().enumerate() {
                let told = report.intervals.iter().filter(|row| row.p99_ns > 0);
                let points: Vec<_> = told.map(|row| (row.t_ns as f64 / 1e9, row.p99_ns as f64)).collect();
                chart.line(n, &(n + 1).to_string(), &points);
            }
            body += &section("p99 over time", &chart.finish("p99 over time"));
        }
        body
    }

    /// Latency against rate, where there is more than one rate.
    fn hockey_stick(&self) -> String {
        let mut points: Vec<(f64, f64, f64)> = self
            .latencies()
            .filter(|(_, report, _)| report.workload.pace == "open")
            .filter_map(|(_, report, l)| {
                Some((report.workload.rate_per_s?, l.at(50.0)? as f64, l.at(99.0)? as f64))
            })
            .collect();
        points.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        if points.len() < 2 {
            return String::new();
        }
        let x = Axis::linear(points.iter().map(|point| point.0), count);
        let y = Axis::log(points.iter().flat_map(|point| [point.1, point.2]), time);
        let mut chart = Chart::new(280.0, x, y, "offered each second", "response time");
        chart.line(0, "p50", &points.iter().map(|point| (point.0, point.1)).collect::<Vec<_>>());
        chart.line(1, "p99", &points.iter().map(|point| (point.0, point.2)).collect::<Vec<_>>());
        section("Latency against rate", &chart.finish("latency against rate"))
    }

    fn costs(&self) -> String {
        let bars: Vec<(usize, String, f64)> = (self.reports.iter().enumerate())
            .flat_map(|(n, report)| {
                let server =
                    report.cost.server.map(|end| (n, format!("{} server", n + 1), end.cpu_ns_per_op));
                server.into_iter().chain([(n, format!("{} client", n + 1), report.cost.client.cpu_ns_per_op)])
            })
            .collect();
        section("Processor time for each operation", &bar_chart(&bars, "processor time"))
    }
}

/// When each interval ended, in seconds, and how many operations a second it had; the last may be shorter.
fn rates(report: &Report) -> impl Iterator<Item = (f64, f64)> + Clone {
    let mut before = 0;
    report.intervals.iter().map(move |interval| {
        let nanos = interval.t_ns.saturating_sub(std::mem::replace(&mut before, interval.t_ns));
        (interval.t_ns as f64 / 1e9, interval.ops as f64 * 1e9 / nanos.max(1) as f64)
    })
}

fn bar_chart(bars: &[(usize, String, f64)], title: &str) -> String {
    let rows = bars.len() as f64;
    let ticks = bars.iter().enumerate().map(|(n, (_, name, _))| (rows - n as f64, name.clone())).collect();
    let x = Axis::linear(bars.iter().map(|(_, _, value)| *value), time);
    let y = Axis::with_ticks(0.0, rows + 1.0, false, ticks);
    let mut chart = Chart::new(52.0 + 26.0 * (rows + 1.0), x, y, "for each operation", "");
    for (n, (series, _, value)) in bars.iter().enumerate() {
        chart.bar(*series, rows - n as f64, *value, &time(*value));
    }
    chart.finish(title)
}

fn section(title: &str, chart: &str) -> String {
    format!("<h3>{}</h3>\n<div class=\"chart\">{chart}</div>\n", escape(title))
}

fn comparison_section(comparison: &Comparison) -> String {
    let mut body = String::from(
        "<h2>Comparison</h2>\n<p>Medians of each contender's runs, and of the ratios to the \
         baseline's run in the same block, with an interval of at least 95 % confidence where there are enough blocks. \
         The grey band is the noise floor: how far the baseline, run twice in each block, differs from itself. What \
         lies within it is no difference.</p>\n",
    );
    for cell in &comparison.cells {
        let baseline = cell.rows.first().map_or("nobody", |row| &row.name);
        body += &format!("<h3><code>{}</code></h3>\n", escape(&cell.run));
        body +=
            &format!("<p class=\"note\">{} blocks; the baseline is {}</p>\n", cell.blocks, escape(baseline));
        let measures = || Measure::ALL.into_iter().filter(|measure| cell.noise_floor.contains_key(measure));
        body += "<div class=\"pair\">\n";
        measures()
            .filter(|measure| *measure != Measure::P50Ns)
            .for_each(|measure| body += &dots(cell, measure));
        body += "</div>\n<table><tr><th>contender";
        measures().for_each(|measure| body += &format!("<th>{}", compare::name(measure)));
        body += "<th>valid runs</tr>\n";
        for row in &cell.rows {
            body += &format!("<tr><td>{}", escape(&row.name));
            for measure in measures() {
                let told = row.measures.get(&measure);
                let (value, ratio) =
                    told.map_or(("–".into(), String::new()), |it| compare::in_words(measure, it));
                body += &format!("<td>{}<br><span class=\"note\">{}</span>", escape(&value), escape(&ratio));
            }
            body += &format!("<td>{}/{} {}</tr>\n", row.valid, row.runs, escape(&compare::notes(row)));
        }
        body += "<tr class=\"note\"><td>noise floor";
        measures().for_each(|measure| body += &format!("<td>{}", compare::floor(cell, measure)));
        body += "<td></tr>\n</table>\n";
        if !cell.without.is_empty() {
            body +=
                &format!("<p class=\"note\">Not for this load: {}.</p>\n", escape(&cell.without.join(", ")));
        }
    }
    for left_out in &comparison.left_out {
        body += &format!("<p class=\"warning\">not measured: {}</p>\n", escape(left_out));
    }
    body
}

/// The ratios of a measure, with their intervals.
fn dots(cell: &Cell, measure: Measure) -> String {
    let ratio = |row: &Row| row.measures.get(&measure).and_then(|compared| compared.ratio);
    let rows: Vec<_> = cell.rows.iter().filter_map(|row| Some((&row.name, ratio(row)?))).collect();
    let floor = cell.noise_floor.get(&measure).copied().unwrap_or(0.0);
    let count = rows.len() as f64;
    let highest = rows.iter().map(|(_, e)| e.high).chain([1.0 + floor, 1.2]);
    let x = Axis::linear(highest, |ratio| format!("{ratio:.2}"));
    let ticks = rows.iter().enumerate().map(|(n, (name, _))| (count - n as f64, (*name).clone())).collect();
    let y = Axis::with_ticks(0.0, count + 1.0, false, ticks);
    let label = format!("{}, as a ratio to the baseline", compare::name(measure));
    let mut chart = Chart::new(52.0 + 28.0 * (count + 1.0), x, y, &label, "");
    chart.band((1.0 - floor).max(0.0), 1.0 + floor);
    chart.rule(1.0);
    for (n, (_, e)) in rows.iter().enumerate() {
        chart.interval(n, count - n as f64, [e.low, e.median, e.high]);
    }
    chart.finish(&label)
}

fn environment_table(environment: &Environment) -> String {
    let e = environment;
    let virt = if e.is_virtual { "virtual" } else { "not virtual" };
    let mut rows = vec![
        ("processors".to_owned(), format!("{}x {} ({virt})", e.processors, e.cpu)),
        ("kernel".into(), e.kernel.clone()),
        ("congestion control".into(), e.congestion_control.clone()),
        ("clock".into(), format!("{}, {} to read", e.clocksource, time(e.clock_cost_ns as f64))),
        ("loopback mtu".into(), e.loopback_mtu.clone()),
        ("descriptors".into(), count(e.nofile as f64)),
        ("load".into(), e.loadavg.clone()),
    ];
    rows.extend(e.sysctls.iter().map(|(name, value)| (name.clone(), value.clone())));
    let rows =
        rows.iter().map(|(name, value)| format!("<tr><th>{}<td>{}</tr>\n", escape(name), escape(value)));
    format!("<h2>Machine</h2>\n<table>\n{}</table>\n", rows.collect::<String>())
}

/// As it would be typed.
fn command(tool: &Tool) -> String {
    let quoted = |word: &String| {
        let is_plain = word.chars().all(|c| c.is_alphanumeric() || "-_=.,:/+%".contains(c));
        if is_plain && !word.is_empty() { word.clone() } else { format!("'{}'", word.replace('\'', "'\\''")) }
    };
    let words: Vec<_> = tool.command.iter().map(quoted).collect();
    format!("{} {}", tool.name, words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_typed_again() {
        let words = ["compare", "--run", "echo -c 64"].map(str::to_owned).to_vec();
        let tool = Tool { name: "ringlink-bench".into(), version: String::new(), command: words };
        assert_eq!(command(&tool), "ringlink-bench compare --run 'echo -c 64'");
    }

    #[test]
    fn an_empty_page_is_a_page() {
        assert!(Page::default().html().ends_with("</html>\n"));
    }
}
