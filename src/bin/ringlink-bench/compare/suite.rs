//! What is compared: of the command line, or of TOML files that name loads and contenders.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context as _, ensure};
use clap::ValueEnum as _;
use serde::Deserialize;

use crate::contender::iperf3;
use crate::far_end::FarEnd;
use crate::flags::{Backend, CompareFlags};

const BLOCKS: usize = 9;

#[derive(Clone, Debug)]
pub(crate) struct Suite {
    /// The loads, as one would write them after `ringlink-bench`.
    pub(super) runs: Vec<String>,
    pub(super) blocks: usize,
    /// The first is the baseline.
    pub(super) contenders: Vec<Contender>,
}

#[derive(Clone, Debug)]
pub(super) struct Contender {
    pub(super) name: String,
    pub(super) how: How,
    /// Added to the load, for this contender alone.
    flags: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) enum How {
    BuiltIn(BuiltIn),
    /// An echo server of any make. `{port}` stands for the port it is to listen on; without one it says `READY ADDRESS`.
    Command {
        command: String,
        port: Option<u16>,
    },
}

/// What needs no command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BuiltIn {
    /// `--with`
    With(Backend),
    /// Both ends of a bulk, where it is installed.
    Iperf3,
}

impl FromStr for BuiltIn {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let backends = || Backend::value_variants().iter();
        match backends().find(|backend| backend.to_string() == name) {
            Some(backend) => Ok(Self::With(*backend)),
            None if name == "iperf3" => Ok(Self::Iperf3),
            None => {
                let known: Vec<_> = backends().map(ToString::to_string).collect();
                Err(format!("there are {} and iperf3 built in, and no '{name}'", known.join(", ")))
            }
        }
    }
}

impl Contender {
    fn built_in(built_in: BuiltIn) -> Self {
        let name = match built_in {
            BuiltIn::With(backend) => backend.to_string(),
            BuiltIn::Iperf3 => "iperf3".into(),
        };
        Self { name, how: How::BuiltIn(built_in), flags: Vec::new() }
    }

    /// The load with the words of this contender.
    pub(super) fn words(&self, run: &str) -> Vec<String> {
        run.split_whitespace().map(str::to_owned).chain(self.flags.iter().cloned()).collect()
    }

    /// Whether it can carry this load.
    pub(super) fn can(&self, run: &str) -> bool {
        let words = self.words(run);
        let kind = words.first().map_or("", String::as_str);
        let is_echo = matches!(kind, "echo" | "connect" | "idle")
            || (kind == "bulk" && iperf3::direction(&words) == Some("both"));
        let says_hello = words.iter().any(|word| word == "--hello");
        match &self.how {
            How::Command { .. } => is_echo && !says_hello,
            How::BuiltIn(BuiltIn::Iperf3) => kind == "bulk",
            How::BuiltIn(BuiltIn::With(backend)) if says_hello => backend.driver().is_some(),
            How::BuiltIn(BuiltIn::With(backend)) => !matches!(
                (kind, backend),
                ("msg", Backend::TokioUring)
                    | ("fan", Backend::Tokio | Backend::TokioUring | Backend::Threads)
            ),
        }
    }

    /// Whether it serves echoes, by which it can be checked.
    pub(super) fn echoes(&self) -> bool {
        !matches!(self.how, How::BuiltIn(BuiltIn::Iperf3))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    run: Vec<String>,
    blocks: Option<usize>,
    #[serde(default)]
    contender: Vec<Entry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    with: Option<String>,
    command: Option<String>,
    port: Option<u16>,
    #[serde(default)]
    flags: String,
}

impl Entry {
    fn contender(self) -> anyhow::Result<Contender> {
        let name = self.name;
        let how = match (self.with, self.command) {
            (Some(with), None) if self.port.is_none() => {
                How::BuiltIn(with.parse().map_err(|why| anyhow::anyhow!("{name}: {why}"))?)
            }
            (None, Some(command)) => How::Command { command, port: self.port },
            _ => anyhow::bail!("{name}: a contender has either 'with', or 'command' and perhaps 'port'"),
        };
        Ok(Contender { name, how, flags: self.flags.split_whitespace().map(str::to_owned).collect() })
    }
}

impl Suite {
    /// That of the command line, and those of the files.
    pub(super) fn all(flags: &CompareFlags) -> anyhow::Result<Vec<Self>> {
        let mut suites = Vec::new();
        if !flags.run.is_empty() || flags.suites.is_empty() {
            let default = flags.run.is_empty().then(|| "echo".to_owned());
            suites.push(Self {
                runs: flags.run.iter().cloned().chain(default).collect(),
                blocks: flags.blocks.unwrap_or(BLOCKS),
                contenders: flags.against.iter().copied().map(Contender::built_in).collect(),
            });
        }
        for path in &flags.suites {
            suites.push(Self::read(path, flags).with_context(|| format!("{} is no suite", path.display()))?);
        }
        for suite in &suites {
            suite.check()?;
        }
        Ok(suites)
    }

    fn read(path: &Path, flags: &CompareFlags) -> anyhow::Result<Self> {
        let file: File = toml::from_str(&fs::read_to_string(path)?)?;
        let contenders = if file.contender.is_empty() {
            flags.against.iter().copied().map(Contender::built_in).collect()
        } else {
            file.contender.into_iter().map(Entry::contender).collect::<anyhow::Result<_>>()?
        };
        Ok(Self { runs: file.run, blocks: flags.blocks.or(file.blocks).unwrap_or(BLOCKS), contenders })
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.blocks >= 1, "there must be at least one block");
        let baseline = self.contenders.first().context("there is nobody to compare")?;
        for run in &self.runs {
            let kind = run.split_whitespace().next().unwrap_or_default();
            let known = ["echo", "msg", "bulk", "connect", "idle", "fan"];
            ensure!(known.contains(&kind), "'{run}': there are {}", known.join(", "));
            ensure!(baseline.can(run), "'{run}' cannot be carried by {}, the baseline", baseline.name);
        }
        Ok(())
    }
}

/// Starts a contender's command.
pub(super) fn start(command: &str, port: Option<u16>, processor: Option<usize>) -> anyhow::Result<FarEnd> {
    let command = command.replace("{port}", &port.map_or_else(String::new, |port| port.to_string()));
    let mut words = command.split_whitespace();
    let mut program = Command::new(words.next().context("the command is empty")?);
    program.args(words);
    FarEnd::start(program, processor, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suites_of_the_tree_are_suites() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/suites");
        let mut seen = 0;
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let file: File = toml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            let contenders: Vec<_> = file.contender.into_iter().map(|e| e.contender().unwrap()).collect();
            let baseline = contenders.first().cloned();
            let baseline = baseline.unwrap_or(Contender::built_in(BuiltIn::With(Backend::Ringlink)));
            assert!(
                !file.run.is_empty() && file.run.iter().all(|run| baseline.can(run)),
                "{}",
                path.display()
            );
            seen += 1;
        }
        assert!(seen >= 8);
    }

    #[test]
    fn a_contender_is_either_built_in_or_a_command() {
        let entry = |with: Option<&str>, command: Option<&str>| {
            let (with, command) = (with.map(str::to_owned), command.map(str::to_owned));
            Entry { name: "x".into(), with, command, ..Entry::default() }.contender()
        };
        assert!(entry(Some("tokio"), None).is_ok());
        assert!(entry(Some("libevent"), None).unwrap_err().to_string().contains("tokio-uring"));
        assert!(entry(None, None).is_err());
        assert!(entry(Some("tokio"), Some("x")).is_err());
    }

    #[test]
    fn contenders_carry_what_they_can() {
        let built_in = |name: &str| Contender::built_in(name.parse().unwrap());
        let command = Entry { name: "x".into(), command: Some("x".into()), ..Entry::default() };
        let command = command.contender().unwrap();
        for (contender, run, can) in [
            (built_in("tokio"), "bulk", true),
            (built_in("tokio-uring"), "echo -c 1", true),
            (built_in("tokio-uring"), "msg", false),
            (built_in("tokio"), "fan", false),
            (built_in("iperf3"), "bulk --dir down", true),
            (built_in("iperf3"), "echo", false),
            (command.clone(), "connect --with-rtt", true),
            (command.clone(), "connect --hello", false),
            (built_in("tokio"), "connect --hello", false),
            (built_in("ringlink-tokio-uring"), "connect --hello", true),
            (command.clone(), "bulk --dir both", true),
            (command, "bulk --dir=up", false),
        ] {
            assert_eq!(contender.can(run), can, "{} {run}", contender.name);
        }
    }
}
