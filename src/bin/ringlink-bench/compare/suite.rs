//! What is compared: of the command line, or of TOML files that name loads and contenders.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, ensure};
use clap::ValueEnum as _;
use serde::Deserialize;

use crate::contender::{self, iperf3, pair};
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
    /// What makes its command, if that is not there.
    built_by: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) enum How {
    BuiltIn(BuiltIn),
    /// An echo server of any make. `{port}` stands for the port it is to listen on; without one it says `READY ADDRESS`.
    Command {
        command: String,
        port: Option<u16>,
    },
    /// Both ends of messages, of any make: see `contender/pair.rs`.
    Pair(String),
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
        Self { name, how: How::BuiltIn(built_in), flags: Vec::new(), built_by: None }
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
            How::Pair(_) => pair::carries(&words),
            How::BuiltIn(BuiltIn::Iperf3) => kind == "bulk",
            How::BuiltIn(BuiltIn::With(backend)) if says_hello => backend.driver().is_some(),
            How::BuiltIn(BuiltIn::With(backend)) => !matches!(
                (kind, backend),
                ("msg", Backend::TokioUring)
                    | ("fan", Backend::Tokio | Backend::TokioUring | Backend::Threads)
            ),
        }
    }

    /// That its command is there, where the suite says how to get it.
    pub(super) fn exists(&self) -> anyhow::Result<()> {
        let (How::Command { command, .. } | How::Pair(command), Some(built_by)) = (&self.how, &self.built_by)
        else {
            return Ok(());
        };
        let command = contender::program(command)?;
        let program = Path::new(command.get_program());
        ensure!(program.exists(), "there is no {} in this folder; {built_by} builds it", program.display());
        Ok(())
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    with: Option<String>,
    command: Option<String>,
    port: Option<u16>,
    pair: Option<String>,
    built_by: Option<String>,
    #[serde(default)]
    flags: String,
}

impl Entry {
    fn contender(self) -> anyhow::Result<Contender> {
        let name = self.name;
        let how = match (self.with, self.command, self.pair) {
            (Some(with), None, None) if self.port.is_none() => {
                How::BuiltIn(with.parse().map_err(|why| anyhow::anyhow!("{name}: {why}"))?)
            }
            (None, Some(command), None) => How::Command { command, port: self.port },
            (None, None, Some(pair)) if self.port.is_none() => How::Pair(pair),
            _ => anyhow::bail!(
                "{name}: a contender has one of 'with', 'pair', and 'command', the last perhaps with 'port'"
            ),
        };
        let flags = self.flags.split_whitespace().map(str::to_owned).collect();
        Ok(Contender { name, how, flags, built_by: self.built_by })
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
    FarEnd::start(contender::program(&command)?, processor, port)
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

    fn entry(text: &str) -> anyhow::Result<Contender> {
        toml::from_str::<Entry>(&format!("name = 'x'\n{text}")).unwrap().contender()
    }

    #[test]
    fn a_contender_is_built_in_or_a_command_or_a_pair() {
        assert!(entry("with = 'tokio'").is_ok());
        assert!(entry("with = 'libevent'").unwrap_err().to_string().contains("tokio-uring"));
        assert!(entry("command = 'x'\nport = 1").is_ok());
        assert!(entry("pair = 'x'").is_ok());
        for wrong in
            ["", "with = 'tokio'\ncommand = 'x'", "command = 'x'\npair = 'x'", "pair = 'x'\nport = 1"]
        {
            assert!(entry(wrong).unwrap_err().to_string().contains("has one of"), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_built_says_what_builds_it() {
        for how in ["command", "pair"] {
            let missing =
                entry(&format!("{how} = 'no/such-peer --fast'\nbuilt_by = 'peers/build.sh'")).unwrap();
            let told = missing.exists().unwrap_err().to_string();
            assert_eq!(told, "there is no no/such-peer in this folder; peers/build.sh builds it");
        }
        assert!(entry("command = 'no/such-peer'").unwrap().exists().is_ok(), "starting it will tell");
    }

    #[test]
    fn contenders_carry_what_they_can() {
        let built_in = |name: &str| Contender::built_in(name.parse().unwrap());
        let command = entry("command = 'x'").unwrap();
        let pair = entry("pair = 'x'").unwrap();
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
            (command.clone(), "bulk --dir=up", false),
            (command, "msg -s 64", false),
            (pair.clone(), "msg -s 64", true),
            (pair, "echo -s 64", false),
        ] {
            assert_eq!(contender.can(run), can, "{} {run}", contender.name);
        }
    }
}
