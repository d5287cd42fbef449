//! Contenders that are both ends of a load, by a command of their own: what running such a one takes, and those of a
//! suite's `pair`, which carry messages over one connection, verify them, and tell what they measured as JSON.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use crate::compare::{Block, Figures};
use crate::environment;

/// Messages of these lengths must arrive before a pair is measured at all, for so long.
const CHECK: ([usize; 6], Duration) = ([8, 63, 65, 4095, 16_385, 1 << 20], Duration::from_millis(20));

/// A flag's name, and the value that is joined to it, as in `--name=value`, `-nvalue` or `-n=value`.
fn split(word: &str) -> (&str, Option<&str>) {
    let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
    match word.split_at_checked(2) {
        Some((short, joined)) if short.starts_with('-') && short != "--" && name.len() > 2 => {
            (short, Some(joined))
        }
        _ => (name, value),
    }
}

/// Of `--name value`, `-n value`, or with the value joined to the name.
pub(super) fn flag<'w>(words: &'w [String], names: [&str; 2]) -> Option<&'w str> {
    words.iter().enumerate().find_map(|(n, word)| {
        let (name, value) = split(word);
        names.contains(&name).then(|| value.or(words.get(n + 1).map(String::as_str))).flatten()
    })
}

/// The JSON that a command says, run on a processor.
pub(super) fn told(command: &mut Command, processor: Option<usize>) -> anyhow::Result<Value> {
    let name = command.get_program().display().to_string();
    command.stdin(Stdio::null());
    let output = environment::on_processor(processor, || {
        command.output().with_context(|| format!("cannot start {name}"))
    })?;
    serde_json::from_slice(&output.stdout).with_context(|| {
        format!("{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())
    })
}

pub(super) fn number(value: &Value, name: &str) -> anyhow::Result<f64> {
    value.as_f64().with_context(|| format!("it does not tell its {name}"))
}

/// The threads of a load's generator.
pub(crate) fn threads(words: &[String]) -> u16 {
    flag(words, ["-t", "--threads"]).and_then(|threads| threads.parse().ok()).unwrap_or(1)
}

/// The one length of the messages of a load.
fn size(words: &[String]) -> Option<usize> {
    ringlink::units::parse_size(flag(words, ["-s", "--size"])?).ok()
}

/// Whether a load is what a pair's command can be told: messages of one length over one connection.
pub(crate) fn carries(words: &[String]) -> bool {
    let names = words.iter().filter(|word| word.starts_with('-')).map(|word| split(word).0);
    words.first().is_some_and(|kind| kind == "msg")
        && size(words).is_some()
        && flag(words, ["-c", "--connections"]).is_none_or(|connections| connections == "1")
        && { names }.all(|name| ["-s", "--size", "-c", "--connections"].contains(&name))
}

/// That it can do what it is to be measured at.
pub(crate) fn check(command: &str, block: &Block) -> anyhow::Result<()> {
    let (sizes, mut block) = (CHECK.0, *block);
    (block.duration, block.warmup) = (CHECK.1, Duration::ZERO);
    sizes.iter().try_for_each(|size| run(command, *size, &block).map(drop))
}

/// Measures messages, written as for `ringlink-bench`.
pub(crate) fn measure(command: &str, words: &[String], block: &Block) -> anyhow::Result<Figures> {
    run(command, size(words).context("a message has one length here")?, block)
}

fn run(command: &str, size: usize, block: &Block) -> anyhow::Result<Figures> {
    let mut command = super::program(command)?;
    command.arg(format!("--size={size}"));
    command.arg(format!("--warmup={}", block.warmup.as_secs_f64()));
    command.arg(format!("--duration={}", block.duration.as_secs_f64()));
    let pin = block.pin(1);
    for (end, processor) in [("client", pin.client), ("server", pin.server)] {
        command.args(processor.map(|processor| format!("--{end}-cpu={processor}")));
    }
    figures(&told(&mut command, None)?)
}

fn figures(report: &Value) -> anyhow::Result<Figures> {
    let of = |name: &str| number(&report[name], name);
    let [client, server] = [of("client_cpu_ns_per_message")?, of("server_cpu_ns_per_message")?];
    Ok(Figures::of_pair(of("messages_per_s")?, client, server))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn flags_are_found_however_they_are_written() {
        assert_eq!(flag(&words("bulk -c 4"), ["-c", "--connections"]), Some("4"));
        assert_eq!(flag(&words("bulk --connections=4"), ["-c", "--connections"]), Some("4"));
        for joined in ["bulk -c4", "bulk -c=4"] {
            assert_eq!(flag(&words(joined), ["-c", "--connections"]), Some("4"));
        }
        assert_eq!(flag(&words("bulk"), ["-c", "--connections"]), None);
    }

    #[test]
    fn a_pair_carries_messages_of_one_length_over_one_connection() {
        for (line, can) in [
            ("msg -s 64", true),
            ("msg --connections 1 --size=64k", true),
            ("msg -s64 -c1", true),
            ("msg -s64 -c2", false),
            ("msg", false),
            ("msg -s 64..4096", false),
            ("msg -s mix:64=90,64k=10", false),
            ("msg -s 64 -c 2", false),
            ("msg -s 64 --from thread", false),
            ("echo -s 64", false),
        ] {
            assert_eq!(carries(&words(line)), can, "{line}");
        }
        assert_eq!(size(&words("msg -s 1k --duration=1")), Some(1024));
    }

    #[test]
    fn what_a_pair_says_is_taken_as_it_is() {
        let mut report = serde_json::json!({
            "messages_per_s": 5e6, "client_cpu_ns_per_message": 90.0, "server_cpu_ns_per_message": 110.0
        });
        let got = figures(&report).unwrap();
        assert_eq!((got.rate, got.server_cpu, got.total_cpu), (5e6, 110.0, 200.0));
        report["messages_per_s"] = Value::Null;
        assert_eq!(figures(&report).unwrap_err().to_string(), "it does not tell its messages_per_s");
    }

    #[test]
    fn what_a_command_complains_of_is_told() {
        let error = told(Command::new("sh").args(["-c", "echo no such cpu >&2; exit 3"]), None).unwrap_err();
        assert_eq!(error.to_string(), "sh: exit status: 3: no such cpu");
    }
}
