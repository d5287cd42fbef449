//! `ringlink doctor`: what this machine allows a node, row by row, and what it comes to. The rings are tried by the
//! library; here are `/proc`, `/sys` and the limits of the process.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use ringlink::DriverKind;
use ringlink::doctor::{Ability, Need, Report, examine};
use rustix::process::{Resource, Rlimit, getrlimit};

use crate::flags::DoctorFlags;

/// Descriptors a node needs beside its channels: rings, wakers, listeners, files.
const OTHER_DESCRIPTORS: u64 = 64;
/// What the defaults of a node ask for.
const CHANNELS: u64 = 16_384;
const BACKLOG: u64 = 4096;
/// What rings and receive buffers of a loop take of the memory that may be locked, where they are charged to it.
const MEMLOCK: u64 = 1 << 20;

/// What a row comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Good,
    /// A node runs with less.
    Less,
    /// A node cannot run.
    Stops,
}

impl Verdict {
    fn label(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Less => "less",
            Self::Stops => "STOPS",
        }
    }
}

struct Row {
    name: &'static str,
    found: String,
    wanted: String,
    meaning: &'static str,
    remedy: String,
    verdict: Verdict,
}

/// Prints what it found, and returns the worst of it.
pub(crate) fn doctor(flags: &DoctorFlags, limits_at_start: &Rlimit) -> anyhow::Result<Verdict> {
    let report = examine();
    let mut rows = vec![kernel_row()];
    rows.extend(report.abilities.iter().map(ability_row));
    rows.extend(refusal_rows(&report));
    rows.extend(limit_rows(limits_at_start));
    rows.extend(network_rows());
    rows.push(clock_row());
    let driver = report.driver();
    let descriptors = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let channels = if driver.is_some() { descriptors.saturating_sub(OTHER_DESCRIPTORS) } else { 0 };
    let verdict = match driver {
        None => Verdict::Stops,
        // The other driver does not stop for what the native one lacks.
        Some(_) => rows.iter().map(|row| row.verdict).max().unwrap_or(Verdict::Good).min(Verdict::Less),
    };
    let text =
        if flags.json { json(&rows, &report, channels, verdict) } else { table(&rows, &report, channels) };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(verdict)
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Of `/proc/self/status`.
fn field<'s>(status: &'s str, name: &str) -> Option<&'s str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn kernel_row() -> Row {
    Row {
        name: "kernel",
        found: read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into()),
        wanted: "6.1".into(),
        meaning: "for information: what it can do is tried below",
        remedy: String::new(),
        verdict: Verdict::Good,
    }
}

fn ability_row(ability: &Ability) -> Row {
    let verdict = match (ability.refused, ability.need) {
        (None, _) | (Some(_), Need::Unused) => Verdict::Good,
        (Some(_), Need::Any) => Verdict::Stops,
        (Some(_), _) => Verdict::Less,
    };
    let wanted = match ability.need {
        Need::Any => "needed",
        Need::Native => "for the driver uring",
        Need::Better => "faster with it",
        Need::Unused | _ => "-",
    };
    Row {
        name: ability.name,
        found: ability.refused.map_or("works".into(), |errno| errno.to_string()),
        wanted: wanted.into(),
        meaning: ability.meaning,
        remedy: format!("Linux {} or later", ability.since),
        verdict,
    }
}

/// What may forbid io_uring: only of account where it is refused.
fn refusal_rows(report: &Report) -> [Row; 2] {
    let is_refused = report.driver().is_none();
    let judge = |may_forbid| match (may_forbid, is_refused) {
        (true, true) => Verdict::Stops,
        (true, false) | (false, _) => Verdict::Good,
    };
    let disabled = read("/proc/sys/kernel/io_uring_disabled");
    let status = read("/proc/self/status").unwrap_or_default();
    let seccomp = field(&status, "Seccomp:").unwrap_or("0");
    [
        Row {
            name: "io_uring_disabled",
            verdict: judge(disabled.as_deref().is_some_and(|value| value != "0")),
            found: disabled.unwrap_or_else(|| "no such sysctl".into()),
            wanted: "0".into(),
            meaning: "1: only for the privileged and kernel.io_uring_group; 2: for nobody",
            remedy: "sysctl -w kernel.io_uring_disabled=0".into(),
        },
        Row {
            name: "seccomp",
            verdict: judge(seccomp != "0"),
            found: if seccomp == "0" { "none".into() } else { "a filter".into() },
            wanted: "io_uring allowed".into(),
            meaning: "a container's filter may refuse io_uring",
            remedy: "docker run --security-opt seccomp=ci/seccomp-io_uring.json".into(),
        },
    ]
}

/// Whether rings are charged to the memory that may be locked: of all but the kernels 5.12 to 6.13, and not of a process
/// that may lock what it likes.
fn charges_rings(kernel: &str, status: &str) -> bool {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let effective = field(status, "CapEff:").and_then(|bits| u64::from_str_radix(bits, 16).ok()).unwrap_or(0);
    !((5, 12)..=(6, 13)).contains(&version) && effective & CAP_IPC_LOCK == 0
}

fn limit_rows(at_start: &Rlimit) -> [Row; 3] {
    let text = |limit: Option<u64>| limit.map_or("unlimited".into(), |limit| limit.to_string());
    let at_least = |limit: Option<u64>, least| {
        if limit.is_none_or(|limit| limit >= least) { Verdict::Good } else { Verdict::Less }
    };
    let memlock = getrlimit(Resource::Memlock).current;
    let kernel = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let is_charged = charges_rings(&kernel, &read("/proc/self/status").unwrap_or_default());
    [
        Row {
            name: "memlock",
            found: text(memlock),
            wanted: MEMLOCK.to_string(),
            meaning: "bytes for each loop's ring, from Linux 6.14 on; a smaller ring is slower",
            remedy: "ulimit -l, LimitMEMLOCK=, docker run --ulimit memlock=-1".into(),
            verdict: if is_charged { at_least(memlock, MEMLOCK) } else { Verdict::Good },
        },
        Row {
            name: "nofile soft",
            found: text(at_start.current),
            wanted: "any".into(),
            meaning: "a node raises it to the hard limit when it starts",
            remedy: String::new(),
            verdict: Verdict::Good,
        },
        Row {
            name: "nofile hard",
            found: text(at_start.maximum),
            wanted: (CHANNELS + OTHER_DESCRIPTORS).to_string(),
            meaning: "a channel takes a descriptor",
            remedy: "limits.conf, LimitNOFILE=, docker run --ulimit nofile=…".into(),
            verdict: at_least(at_start.maximum, CHANNELS + OTHER_DESCRIPTORS),
        },
    ]
}

fn network_rows() -> [Row; 3] {
    let somaxconn = read("/proc/sys/net/core/somaxconn");
    let backlog: u64 = somaxconn.as_deref().and_then(|n| n.parse().ok()).unwrap_or(0);
    let range = read("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = range.split_whitespace().filter_map(|n| n.parse::<u64>().ok());
    let ports = ends.next().zip(ends.next()).map_or(0, |(first, last)| (last + 1).saturating_sub(first));
    let less_unless = |enough| if enough { Verdict::Good } else { Verdict::Less };
    [
        Row {
            name: "somaxconn",
            found: somaxconn.unwrap_or_else(|| "unknown".into()),
            wanted: BACKLOG.to_string(),
            meaning: "connections that may wait to be accepted",
            remedy: format!("sysctl -w net.core.somaxconn={BACKLOG}"),
            verdict: less_unless(backlog >= BACKLOG),
        },
        Row {
            name: "ephemeral ports",
            found: format!("{ports} ({})", range.split_whitespace().collect::<Vec<_>>().join("-")),
            wanted: CHANNELS.to_string(),
            meaning: "the most dials to one address",
            remedy: "sysctl -w net.ipv4.ip_local_port_range='1024 65535'".into(),
            verdict: less_unless(ports >= CHANNELS),
        },
        Row {
            name: "congestion control",
            found: read("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_else(|| "unknown".into()),
            wanted: "any".into(),
            meaning: "for information; see --congestion",
            remedy: String::new(),
            verdict: Verdict::Good,
        },
    ]
}

fn clock_row() -> Row {
    let found = read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    // These are read by a system call, or from a slow device.
    let slow = matches!(found.as_deref(), Some("hpet" | "acpi_pm" | "jiffies" | "xen"));
    Row {
        name: "clock source",
        found: found.unwrap_or_else(|| "unknown".into()),
        wanted: "tsc, kvm-clock or arch_sys_counter".into(),
        meaning: "the clock is read after each callback",
        remedy: "boot with clocksource=tsc, if the processor's is stable".into(),
        verdict: if slow { Verdict::Less } else { Verdict::Good },
    }
}

fn driver_name(driver: DriverKind) -> &'static str {
    match driver {
        DriverKind::Uring => "uring",
        DriverKind::TokioUring => "tokio-uring",
        DriverKind::Auto | _ => "auto",
    }
}

fn table(rows: &[Row], report: &Report, channels: u64) -> String {
    let width = |field: fn(&Row) -> &str, head: &str| {
        rows.iter().map(|row| field(row).chars().count()).max().unwrap_or(0).max(head.len())
    };
    let name = width(|row| row.name, "what");
    let found = width(|row| &row.found, "found");
    let wanted = width(|row| &row.wanted, "wanted");
    let mut text =
        format!("{:name$}  {:found$}  {:wanted$}  {:5}  what it means\n", "what", "found", "wanted", "");
    for row in rows {
        let label = row.verdict.label();
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "{:name$}  {:found$}  {:wanted$}  {label:5}  {}",
            row.name, row.found, row.wanted, row.meaning
        );
        if row.verdict != Verdict::Good && !row.remedy.is_empty() {
            let _ = write!(text, "; to mend it: {}", row.remedy);
        }
        text.push('\n');
    }
    text.push('\n');
    for error in refusals(report) {
        let _ = writeln!(text, "{error}");
    }
    match report.driver() {
        Some(driver) => {
            let _ = writeln!(text, "driver {}; descriptors for {channels} channels", driver_name(driver));
        }
        None => text.push_str("no driver works: a node cannot run here\n"),
    }
    text
}

fn refusals(report: &Report) -> impl Iterator<Item = String> {
    let native = report.uring.as_ref().err().map(|error| format!("driver uring: {error}"));
    let other = report.tokio_uring.as_ref().and_then(|tried| tried.as_ref().err());
    native.into_iter().chain(other.map(|error| format!("driver tokio-uring: {error}")))
}

fn json(rows: &[Row], report: &Report, channels: u64, verdict: Verdict) -> String {
    let rows = rows.iter().map(|row| {
        let fields = [
            ("name", row.name),
            ("found", &row.found),
            ("wanted", &row.wanted),
            ("means", row.meaning),
            ("mend", &row.remedy),
            ("verdict", row.verdict.label()),
        ];
        let fields: Vec<_> =
            fields.iter().map(|(key, value)| format!("\"{key}\":{}", quoted(value))).collect();
        format!("{{{}}}", fields.join(","))
    });
    let errors: Vec<_> = refusals(report).map(|error| quoted(&error)).collect();
    let driver = report.driver().map_or("null".to_owned(), |driver| quoted(driver_name(driver)));
    format!(
        "{{\"verdict\":{},\"driver\":{driver},\"channels\":{channels},\"errors\":[{}],\"rows\":[\n{}\n]}}\n",
        quoted(verdict.label()),
        errors.join(","),
        rows.collect::<Vec<_>>().join(",\n")
    )
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_strings_are_escaped() {
        assert_eq!(quoted("a\"b\\c\n"), r#""a\"b\\c\u000a""#);
    }

    #[test]
    fn rings_are_charged_where_the_kernel_does_and_to_whom_it_does() {
        let (root, user) = ("Name:\tx\nCapEff:\t000001ffffffffff", "CapEff:\t0000000000000000");
        for (kernel, charges) in
            [("5.11.0", true), ("5.12.1", false), ("6.13.9-arch", false), ("6.18.44", true)]
        {
            assert_eq!(
                (charges_rings(kernel, user), charges_rings(kernel, root)),
                (charges, false),
                "{kernel}"
            );
        }
    }

    #[test]
    fn what_nobody_uses_is_never_missed() {
        assert!(Verdict::Good < Verdict::Less && Verdict::Less < Verdict::Stops);
        for ability in examine().abilities {
            let row = ability_row(&ability);
            let is_missed = ability.refused.is_some() && ability.need != Need::Unused;
            assert_eq!(row.verdict != Verdict::Good, is_missed, "{ability:?}");
        }
    }
}
