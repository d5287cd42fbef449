//! The report for people: the first line says what was run, the second how it ended, warnings come before figures.

use std::fmt::Write as _;

use crate::cost::End;
use crate::histogram::Latency;
use crate::tcp_info::TcpInfo;

use super::{Report, Status};

/// Three significant digits and a unit.
pub(crate) fn time(nanos: f64) -> String {
    let (value, unit) = match nanos {
        n if n < 1e3 => (n, "ns"),
        n if n < 1e6 => (n / 1e3, "us"),
        n if n < 1e9 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    format!("{} {unit}", three(value))
}

fn three(value: f64) -> String {
    match value.abs() {
        v if v < 10.0 => format!("{value:.2}"),
        v if v < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A whole number with its thousands set apart.
pub(crate) fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// Bits or bytes each second, in powers of ten.
pub(crate) fn speed(value: f64, unit: &str) -> String {
    let (value, prefix) = match value {
        v if v < 1e3 => (v, ""),
        v if v < 1e6 => (v / 1e3, "k"),
        v if v < 1e9 => (v / 1e6, "M"),
        v => (v / 1e9, "G"),
    };
    format!("{} {prefix}{unit}/s", three(value))
}

/// Memory, in powers of two.
pub(crate) fn memory(bytes: f64) -> String {
    match bytes {
        b if b < 1024.0 => format!("{b:.0} B"),
        b if b < 1_048_576.0 => format!("{} KiB", three(b / 1024.0)),
        b if b < 1_073_741_824.0 => format!("{} MiB", three(b / 1_048_576.0)),
        b => format!("{} GiB", three(b / 1_073_741_824.0)),
    }
}

/// Lines of a report; writing to a string cannot fail.
struct Lines(String);

impl Lines {
    fn line(&mut self, head: &str, text: &str) {
        writeln!(self.0, "{head:<9}{text}").expect("a string takes all");
    }
}

pub(crate) fn text(report: &Report) -> String {
    let mut lines = Lines(String::new());
    writeln!(lines.0, "{}", headline(report)).expect("a string takes all");
    lines.line(outcome(report.status), &ending(report));
    if let Some(error) = &report.error {
        lines.line("", error);
    }
    for check in report.failed_checks() {
        lines.line("WARNING", &format!("{}: {}", check.name, check.detail));
    }
    latency(report, &mut lines);
    for (name, value) in &report.figures {
        lines.line("", &figure(name, *value));
    }
    cost(report, &mut lines);
    tcp(report, &mut lines);
    intervals(report, &mut lines);
    for threshold in &report.thresholds {
        let verdict = if threshold.ok { "holds" } else { "FAILS" };
        lines.line("test", &format!("{} {verdict}: {}", threshold.name, threshold.detail));
    }
    let passed: Vec<&str> = report.checks.iter().filter(|c| c.ok).map(|c| c.name.as_str()).collect();
    lines.line("checks", &format!("{} hold: {}", passed.len(), passed.join(", ")));
    let env = &report.environment;
    let cpus = format!("{}x {}", env.processors, env.cpu);
    lines.line("env", &format!("{cpus}, Linux {}, nofile {}, load {}", env.kernel, env.nofile, env.loadavg));
    lines.0
}

fn outcome(status: Status) -> &'static str {
    match status {
        Status::Ok => "OK",
        Status::Partial => "PARTIAL",
        Status::Invalid => "INVALID",
        Status::Error => "ERROR",
    }
}

pub(crate) fn headline(report: &Report) -> String {
    let w = &report.workload;
    let mut line = format!("{} {}", w.kind, w.pace);
    write!(line, "{}{}", if w.pace.is_empty() { "" } else { "-loop " }, w.target)
        .expect("a string takes all");
    if w.own_far_end {
        write!(line, " (own far end, {})", w.with).expect("a string takes all");
    }
    let mut part = |text: String| line += &format!(", {text}");
    if !w.size.is_empty() {
        part(format!("{} B", w.size));
    }
    part(format!("{} conns", w.connections));
    if w.pipeline > 0 {
        part(format!("depth {}", w.pipeline));
    }
    if let (Some(rate), Some(arrival)) = (w.rate_per_s, &w.arrival) {
        part(format!("{}/s {arrival}", count(rate)));
    }
    part(format!("{} (+{})", time(w.duration_ns as f64), time(w.warmup_ns as f64)));
    part(format!("seed {}, {}, {}", w.seed, w.engine, w.congestion));
    if w.loops > 1 {
        part(format!("{} loops", w.loops));
    }
    if w.busy_poll_ns > 0 {
        part(format!("busy poll {}", time(w.busy_poll_ns as f64)));
    }
    part(w.processors.clone());
    line
}

fn ending(report: &Report) -> String {
    let (totals, rate) = (&report.totals, &report.rate);
    let mut line = format!("{}/s", count(rate.ops_per_s));
    if rate.goodput_bits_per_s > 0.0 {
        write!(line, ", {}", speed(rate.goodput_bits_per_s, "bit")).expect("a string takes all");
    }
    if let Some(achieved) = rate.achieved_ratio {
        write!(line, ", {:.1} % of the offered", achieved * 100.0).expect("a string takes all");
    }
    let (sent, verified) = (count(totals.sent as f64), count(totals.verified as f64));
    write!(line, "; {sent} sent, {verified} verified").expect("a string takes all");
    let errors: Vec<_> =
        totals.errors.iter().filter(|(_, n)| *n > 0).map(|(k, n)| format!("{n} {k}")).collect();
    if errors.is_empty() {
        line += ", 0 errors";
    } else {
        write!(line, ", ERRORS: {}", errors.join(", ")).expect("a string takes all");
    }
    if totals.late_dropped > 0 {
        write!(line, ", {} late and dropped", totals.late_dropped).expect("a string takes all");
    }
    line
}

fn latency(report: &Report, lines: &mut Lines) {
    let all = &report.latency_ns;
    if let Some(response) = &all.response {
        lines.line("response", &format!("{}   from the intended send time", percentiles(response)));
    }
    if let Some(service) = &all.service {
        let note = match report.workload.pace.as_str() {
            "closed" => "   service time, not response time: a slow server slows the load",
            "open" => "   from the actual send",
            _ => "",
        };
        lines.line("service", &format!("{}{note}", percentiles(service)));
    }
    if let Some(lag) = &all.send_lag {
        lines.line("send lag", &percentiles(lag));
    }
}

fn percentiles(latency: &Latency) -> String {
    let mut line = format!("min {}", time(latency.min as f64));
    for percentile in [50.0, 90.0, 99.0, 99.9, 99.99] {
        if let Some(nanos) = latency.at(percentile) {
            write!(line, "  p{percentile} {}", time(nanos as f64)).expect("a string takes all");
        }
    }
    let (max, samples) = (time(latency.max as f64), count(latency.count as f64));
    write!(line, "  max {max}  of {samples}").expect("a string takes all");
    line
}

/// A figure by its name, whose end is the unit.
pub(crate) fn figure(name: &str, value: f64) -> String {
    let (what, told) = if let Some(what) = name.strip_suffix("_ns") {
        (what, time(value))
    } else if let Some(what) = name.strip_suffix("_bytes") {
        (what, memory(value))
    } else if let Some(what) = name.strip_suffix("_bits_per_s") {
        (what, speed(value, "bit"))
    } else if let Some(what) = name.strip_suffix("_per_s") {
        (what, format!("{}/s", count(value)))
    } else if let Some(what) = name.strip_suffix("_ratio") {
        (what, format!("{value:.3}"))
    } else {
        (name, count(value))
    };
    format!("{}: {told}", what.replace('_', " "))
}

fn cost(report: &Report, lines: &mut Lines) {
    if report.rate.window_ns == 0 {
        return; // nothing was measured
    }
    let end = |name: &str, end: &End| {
        let mut text = format!("{name} {}/op", time(end.cpu_ns_per_op));
        // Of small messages it would say nothing.
        if end.cpu_s_per_gb > 0.0 && end.cpu_s_per_gb < 20.0 {
            write!(text, " {:.2} s/GB", end.cpu_s_per_gb).expect("a string takes all");
        }
        text
    };
    let (cost, window) = (&report.cost, report.rate.window_ns as f64);
    let mut line = cost.server.as_ref().map_or_else(String::new, |server| end("server", server) + "   ");
    line += &end("client", &cost.client);
    let share = |nanos: u64| nanos as f64 / window * 100.0;
    write!(line, "   system {}/op", time(cost.system.cpu_ns_per_op)).expect("a string takes all");
    let processors = report.environment.processors.max(1) as f64;
    write!(line, "   steal {:.1} %", share(cost.system.steal_ns) / processors).expect("a string takes all");
    write!(line, "   others {:.0} % of a cpu", share(cost.system.unattributed_ns))
        .expect("a string takes all");
    lines.line("CPU", &line);
    let ops = report.rate.ops.max(1) as f64;
    let switches = |name: &str, end: &End| {
        let enters = end.enters_per_op.map_or_else(String::new, |n| format!(" {n:.3} enters/op,"));
        let all = (end.voluntary_switches + end.involuntary_switches) as f64;
        format!("{name}{enters} {:.3} switches/op, RSS {}", all / ops, memory(end.rss_bytes as f64))
    };
    let server = cost.server.as_ref().map_or_else(String::new, |end| switches("server", end) + "   ");
    lines.line("I/O", &format!("{server}{}", switches("client", &cost.client)));
    let busy = |name: &str, end: &End| format!("{name} {:.0} % of a cpu", share(end.cpu_ns));
    let server = cost.server.as_ref().map_or_else(String::new, |end| busy("server", end) + "   ");
    let threads = report.workload.threads.max(1) as f64;
    let headroom = threads * window / (cost.client.cpu_ns.max(1) as f64);
    let mut text = format!("{server}{}   generator headroom {headroom:.1}x", busy("client", &cost.client));
    for (name, value) in &report.netstat_delta {
        write!(text, "   {name} +{value}").expect("a string takes all");
    }
    lines.line("busy", &text);
}

fn tcp(report: &Report, lines: &mut Lines) {
    let side = |name: &str, info: &TcpInfo| {
        let share = |part: u64| part as f64 / info.busy_ns.max(1) as f64 * 100.0;
        format!(
            "{name} {} of {} conns: rtt {} (max {}), {} retransmitted of {}, rwnd-limited {:.0} %, sndbuf-limited {:.0} %",
            info.congestion,
            count(info.connections as f64),
            time(info.rtt_mean_ns),
            time(info.rtt_max_ns as f64),
            count(info.retransmitted_segments as f64),
            count(info.segments_out as f64),
            share(info.rwnd_limited_ns),
            share(info.sndbuf_limited_ns),
        )
    };
    let both = &report.tcp_info;
    let sides = [("server", &both.server), ("client", &both.client)];
    for (n, (name, info)) in
        sides.into_iter().filter_map(|(name, info)| Some((name, info.as_ref()?))).enumerate()
    {
        lines.line(if n == 0 { "TCP" } else { "" }, &side(name, info));
    }
}

fn intervals(report: &Report, lines: &mut Lines) {
    let told = report.intervals.iter().take(10).map(|interval| {
        let at = (interval.t_ns as f64 / 1e7).round() / 100.0; // seconds, as short as they can be said
        let p99 = if interval.p99_ns > 0 {
            format!(" p99 {}", time(interval.p99_ns as f64))
        } else {
            String::new()
        };
        format!("{at}s {}{p99}", count(interval.ops as f64))
    });
    let told: Vec<_> = told.collect();
    let more = report.intervals.len().saturating_sub(10);
    let rest = if more > 0 { format!("  and {more} more") } else { String::new() };
    if !told.is_empty() {
        lines.line("timeline", &format!("{}{rest}", told.join(" | ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_with_three_digits_and_a_unit() {
        for (nanos, text) in [(0.0, "0.00 ns"), (999.0, "999 ns"), (38_200.0, "38.2 us"), (2.31e6, "2.31 ms")]
        {
            assert_eq!(time(nanos), text);
        }
        assert_eq!(count(1_234_567.0), "1 234 567");
        assert_eq!(count(123.0), "123");
        assert_eq!(speed(9.5e9, "bit"), "9.50 Gbit/s");
        assert_eq!(memory(2048.0), "2.00 KiB");
        assert_eq!(figure("connect_time_ns", 1500.0), "connect time: 1.50 us");
    }
}
