//! What must hold for a result to mean what it says. Bounds are fixed here, before anything is measured.

use crate::histogram::Histogram;
use crate::report::{Check, Report, text};

/// The delayed acknowledgement of Linux, met by Nagle's algorithm.
const NAGLE: std::ops::Range<u64> = 38_000_000..44_000_000;

/// When Linux sends a SYN again.
const SYN_AGAIN: [std::ops::Range<u64>; 2] = [1_000_000_000..1_200_000_000, 3_000_000_000..3_300_000_000];

pub(super) fn checks(report: &Report, concurrency: Option<usize>, service: &Histogram) -> Vec<Check> {
    let mut checks = vec![conservation(report)];
    checks.extend(links(report));
    if let Some(concurrency) = concurrency {
        checks.push(littles_law(report, concurrency, service));
    }
    if let Some(achieved) = report.rate.achieved_ratio {
        let told = format!("{:.2} % of the offered rate was answered", achieved * 100.0);
        checks.push(Check::new("rate", achieved >= 0.99, told));
    }
    checks.extend(send_lag(report));
    if report.rate.window_ns > 0 {
        checks.push(headroom(report));
        checks.extend(neighbours(report));
    }
    if service.count() > 0 {
        let (window, max) = (report.rate.window_ns, service.max());
        let told = format!("the longest of {} in {}", text::time(max as f64), text::time(window as f64));
        checks.push(Check::new("window", window >= max.saturating_mul(5), told));
        let stuck = service.count_between(NAGLE);
        let told = format!("{stuck} answers took 38 to 44 ms: Nagle meets delayed acknowledgements");
        checks.push(Check::new("nagle", stuck * 100 < service.count(), told));
        if report.workload.kind == "connect" {
            let again: u64 = SYN_AGAIN.into_iter().map(|range| service.count_between(range)).sum();
            let told = format!("{again} connections took a second or three: a SYN was lost, and sent again");
            checks.push(Check::new("syn", again == 0, told));
        }
    }
    checks
}

fn conservation(report: &Report) -> Check {
    let t = &report.totals;
    let told = format!("{} sent, {} verified, {} lost", t.sent, t.verified, t.lost);
    Check::new("conservation", t.sent == t.verified + t.lost, told)
}

/// What was given up here may have been opened there. Of several loops one may have to tell another to open a link, which
/// may have ended by then.
fn links(report: &Report) -> Option<Check> {
    let opened = *report.figures.get(super::LINKS_AT_FAR_END)?;
    let t = &report.totals;
    let share = if report.workload.loops > 1 { 0.99 } else { 1.0 };
    let told = format!("the far end opened {opened}, of {} dialed and {} verified here", t.sent, t.verified);
    Some(Check::new("links", (t.verified as f64 * share..=t.sent as f64).contains(&opened), told))
}

/// N = X R: what is under way is rate times time, or time was lost where nobody looked.
fn littles_law(report: &Report, concurrency: usize, service: &Histogram) -> Check {
    let product = report.rate.ops_per_s * service.mean() / 1e9;
    let off = product / concurrency as f64;
    Check::new("little", (off - 1.0).abs() <= 0.03, format!("rate times time is {off:.3} of the concurrency"))
}

fn send_lag(report: &Report) -> Option<Check> {
    let (lag, response) =
        (report.latency_ns.send_lag.as_ref()?.at(99.0)?, report.latency_ns.response.as_ref()?);
    let response = response.at(99.0)?;
    let told = format!(
        "the generator sent late by {} (p99), of response times of {}",
        text::time(lag as f64),
        text::time(response as f64)
    );
    Some(Check::new("send lag", lag * 10 <= response, told))
}

fn headroom(report: &Report) -> Check {
    let available = report.rate.window_ns as f64 * report.workload.threads.max(1) as f64;
    let used = report.cost.client.cpu_ns as f64 / available;
    let told = format!("generator-bound: it used {:.0} % of its processors", used * 100.0);
    Check::new("generator", used < 0.95, told)
}

fn neighbours(report: &Report) -> [Check; 2] {
    let window = report.rate.window_ns as f64;
    let processors = report.environment.processors.max(1) as f64;
    let stolen = report.cost.system.steal_ns as f64 / window / processors;
    let told = format!("the hypervisor took {:.1} % of the machine", stolen * 100.0);
    let steal = Check::new("steal", stolen <= 0.02, told);
    let others = report.cost.system.unattributed_ns as f64 / window;
    let told = format!("others used {:.0} % of a processor", others * 100.0);
    // Without the server's process its work is among the others'.
    [steal, Check::new("neighbours", report.cost.server.is_none() || others <= 0.10, told)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_far_end_has_the_links_that_were_verified() {
        let mut report = Report::failed("connect", None, String::new());
        assert!(links(&report).is_none());
        (report.totals.sent, report.totals.verified) = (1000, 900);
        for (opened, loops, ok) in [
            (899.0, 1, false),
            (900.0, 1, true),
            (1000.0, 1, true),
            (1001.0, 1, false),
            (891.0, 2, true),
            (890.0, 2, false),
        ] {
            report.workload.loops = loops;
            report.figures.insert(super::super::LINKS_AT_FAR_END.into(), opened);
            assert_eq!(links(&report).unwrap().ok, ok, "{opened} of {loops} loops");
        }
    }
}
