//! iperf3 at both ends of a bulk, where it is installed: as many streams, the same direction, its own block of 128 KiB. It
//! looks at nothing of what it receives, so `bulk --verify off` is what it is to be held against.

use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::pair::{flag, number, threads, told};
use crate::compare::{Block, Figures};
use crate::far_end::FarEnd;

/// Where a bulk goes.
pub(crate) fn direction(words: &[String]) -> Option<&str> {
    flag(words, ["--dir", "--dir"])
}

/// That it is there at all.
pub(crate) fn check() -> anyhow::Result<()> {
    Command::new("iperf3").arg("--version").output().map(drop).context("not installed")
}

/// Measures a bulk, written as for `ringlink-bench`.
pub(crate) fn measure(words: &[String], block: &Block) -> anyhow::Result<Figures> {
    let (port, pin) = (free_port()?, block.pin(threads(words)));
    let mut server = Command::new("iperf3");
    server.args(["-s", "-1", "-p", &port.to_string(), "--forceflush"]);
    // It serves one test and says when it can; a probe of its port would be that test.
    let far = FarEnd::start_saying(server, pin.server, "Server listening")?;
    let (seconds, omit) = (block.duration.as_secs_f64().ceil(), block.warmup.as_secs_f64().ceil());
    let mut client = Command::new("iperf3");
    client.args(["-c", "127.0.0.1", "-J", "-l", "128K", "-p", &port.to_string()]);
    client.args(["-t", &seconds.to_string(), "-O", &omit.to_string()]);
    client.args(["-P", flag(words, ["-c", "--connections"]).unwrap_or("1")]);
    if let Some(name) = flag(words, ["-C", "--congestion"]) {
        client.args(["-C", name]);
    }
    match direction(words) {
        Some("down") => drop(client.arg("-R")),
        Some("both") => drop(client.arg("--bidir")),
        _ => {}
    }
    let report = told(&mut client, pin.client)?;
    drop(far);
    let size = flag(words, ["-s", "--size"]).map_or(Ok(32 << 10), ringlink::units::parse_size);
    figures(&report, size.map_err(anyhow::Error::msg)?, seconds)
}

/// The kernel gives one that is free now.
fn free_port() -> anyhow::Result<u16> {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").context("there is no free port")?;
    Ok(probe.local_addr()?.port())
}

fn figures(report: &Value, size: usize, seconds: f64) -> anyhow::Result<Figures> {
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let end = &report["end"];
    let bytes_per_s = number(&end["sum_received"]["bits_per_second"], "rate")? / 8.0;
    let cpu = &end["cpu_utilization_percent"];
    let [client, server] =
        [&cpu["host_total"], &cpu["remote_total"]].map(|share| number(share, "processor time"));
    let ops = bytes_per_s * seconds / size as f64;
    let for_each = |percent: f64| percent / 100.0 * seconds * 1e9 / ops.max(1.0);
    let (client, server) = (for_each(client?), for_each(server?));
    Ok(Figures::of_pair(bytes_per_s / size as f64, client, server))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_bulk_goes_where_its_flag_says() {
        assert_eq!(direction(&words("bulk --dir down -c 4")), Some("down"));
        assert_eq!(direction(&words("bulk -c 4 --dir=both")), Some("both"));
        assert_eq!(direction(&words("bulk")), None);
    }

    #[test]
    fn what_iperf3_says_is_taken_for_each_operation() {
        let report: Value = serde_json::from_str(
            r#"{"end": {"sum_received": {"bits_per_second": 8e9},
                "cpu_utilization_percent": {"host_total": 50.0, "remote_total": 100.0}}}"#,
        )
        .unwrap();
        let figures = figures(&report, 100_000, 4.0).unwrap();
        assert_eq!((figures.rate, figures.server_cpu), (10_000.0, 100_000.0));
        assert_eq!(figures.total_cpu, 150_000.0);
        let failed = serde_json::json!({"error": "unable to connect"});
        assert!(super::figures(&failed, 1, 1.0).unwrap_err().to_string().contains("unable"));
    }
}
