//! What is compared: of the command line, or of a TOML file that names loads and contenders.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, ensure};
use clap::ValueEnum as _;
use serde::Deserialize;

use crate::far_end::FarEnd;
use crate::flags::{Backend, CompareFlags};

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
}

#[derive(Clone, Debug)]
pub(super) enum How {
    /// Built in: `serve --with`.
    With(Backend),
    /// A server of any make. `{port}` stands for the port it is to listen on; without one it says `READY ADDRESS`.
    Command { command: String, port: Option<u16> },
}

impl Contender {
    fn built_in(backend: Backend) -> Self {
        Self { name: backend.to_string(), how: How::With(backend) }
    }

    /// A server of any make echoes; messages are of our own make at both ends.
    pub(super) fn can(&self, run: &str) -> bool {
        match self.how {
            How::With(_) => true,
            How::Command { .. } => run.starts_with("echo"),
        }
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
}

impl Entry {
    fn contender(self) -> anyhow::Result<Contender> {
        let name = self.name;
        let how = match (self.with, self.command) {
            (Some(with), None) => {
                let backend = Backend::from_str(&with, false);
                How::With(backend.map_err(|_| anyhow::anyhow!("{name}: there is no '{with}' built in"))?)
            }
            (None, Some(command)) => How::Command { command, port: self.port },
            _ => anyhow::bail!("{name}: a contender has either 'with' or 'command'"),
        };
        Ok(Contender { name, how })
    }
}

impl Suite {
    pub(super) fn of(flags: &CompareFlags) -> anyhow::Result<Self> {
        let built_in = flags.against.iter().copied().map(Contender::built_in).collect();
        let mut suite =
            Self { runs: flags.run.clone(), blocks: flags.blocks.unwrap_or(9), contenders: built_in };
        if let Some(path) = &flags.suite {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let file: File =
                toml::from_str(&text).with_context(|| format!("{} is no suite", path.display()))?;
            suite.runs.extend(file.run);
            suite.blocks = flags.blocks.or(file.blocks).unwrap_or(9);
            if !file.contender.is_empty() {
                suite.contenders =
                    file.contender.into_iter().map(Entry::contender).collect::<anyhow::Result<_>>()?;
            }
        }
        if suite.runs.is_empty() {
            suite.runs.push("echo".into());
        }
        for run in &suite.runs {
            ensure!(
                run.starts_with("echo") || run.starts_with("msg"),
                "'{run}': echo and msg can be compared"
            );
        }
        ensure!(suite.blocks >= 1, "there must be at least one block");
        ensure!(!suite.contenders.is_empty(), "there is nobody to compare");
        Ok(suite)
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
            assert!(!file.run.is_empty(), "{}", path.display());
            file.contender.into_iter().for_each(|entry| drop(entry.contender().unwrap()));
            seen += 1;
        }
        assert!(seen >= 2);
    }

    #[test]
    fn a_contender_is_either_built_in_or_a_command() {
        let entry = |with: Option<&str>, command: Option<&str>| Entry {
            name: "x".into(),
            with: with.map(str::to_owned),
            command: command.map(str::to_owned),
            port: None,
        };
        assert!(entry(Some("tokio"), None).contender().is_ok());
        assert!(entry(Some("libevent"), None).contender().is_err());
        assert!(entry(None, None).contender().is_err());
        assert!(entry(Some("tokio"), Some("x")).contender().is_err());
    }
}
