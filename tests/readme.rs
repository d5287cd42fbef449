//! README.md does what it says: its commands are executed as written, its example is the one in the tree, and every limit
//! is named. (Its Rust code is also compiled, as doctests.)
//!
//! A `sh background` block is one command that goes on in another shell: it is started, awaited until it listens, and
//! stopped by SIGTERM when the next such block or heading begins. A `sh` block is run to its end; an `output` block after it
//! is exactly what it prints. Ports 70xx are replaced by free ones.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

#[path = "shared/skipped.rs"]
mod skipped;

use skipped::skipped;

const README: &str = include_str!("../README.md");
const PATIENCE: Duration = Duration::from_secs(120);

/// A fenced block, or a heading between two.
#[derive(Debug, PartialEq)]
enum Part {
    Heading,
    Block { kind: String, text: String },
}

fn parts(document: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        if let Some(kind) = line.strip_prefix("```") {
            let text = lines.by_ref().take_while(|line| *line != "```");
            let text = text.map(|line| format!("{line}\n")).collect();
            parts.push(Part::Block { kind: kind.to_owned(), text });
        } else if line.starts_with('#') {
            parts.push(Part::Heading);
        }
    }
    parts
}

/// The text with each port 70xx replaced by one that is free, the same for the same.
fn with_free_ports(document: &str) -> String {
    let mut held = BTreeMap::new();
    for (at, _) in document.match_indices("70") {
        let number: String = document[at..].chars().take_while(char::is_ascii_digit).collect();
        if number.len() == 4 && !document[..at].ends_with(|c: char| c.is_ascii_digit()) {
            held.entry(number).or_insert_with(|| TcpListener::bind("127.0.0.1:0").unwrap());
        }
    }
    assert!(!held.is_empty());
    held.iter().fold(document.to_owned(), |document, (number, listener)| {
        document.replace(number.as_str(), &listener.local_addr().unwrap().port().to_string())
    })
}

/// A shell in a folder of its own, where `ringlink` is the one under test, and so is what `cargo run` would build.
fn shell(script: &str, folder: &Path) -> Command {
    let binary = Path::new(env!("CARGO_BIN_EXE_ringlink"));
    let cargo = folder.join("cargo");
    if !cargo.exists() {
        let text = format!(
            "#!/bin/sh\n\
             case \"$1 $2\" in\n\
             'run --release') shift 3; exec ringlink \"$@\" ;;\n\
             'run --example') exec '{}' run --locked --manifest-path '{}/Cargo.toml' --example \"$3\" ;;\n\
             'test ') ;; # that is us\n\
             *) echo \"tests/readme.rs does not know: cargo $*\" >&2; exit 1 ;;\n\
             esac\n",
            env!("CARGO"),
            env!("CARGO_MANIFEST_DIR"),
        );
        fs::write(&cargo, text).unwrap();
        fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{}:{path}", folder.display(), binary.parent().unwrap().display());
    let mut command = Command::new("sh");
    command.args(["-ec", script]).current_dir(folder).env("PATH", path).env_remove("RUST_LOG");
    command.stdout(Stdio::piped()).stderr(Stdio::inherit()).stdin(Stdio::null());
    command
}

#[track_caller]
fn within<T: Send + 'static>(what: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || drop(sender.send(f())));
    receiver.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{error}, waiting for: {what}"))
}

/// A command that goes on in another shell, with all it started.
struct Background {
    child: Child,
    output: Option<BufReader<ChildStdout>>,
    script: String,
}

impl Background {
    fn start(script: &str, folder: &Path) -> Self {
        let mut child = shell(script, folder).process_group(0).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut background = Self { child, output: None, script: script.to_owned() };
        let (first, output) = within(script, move || {
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            (line, output)
        });
        background.output = Some(output);
        assert!(first.starts_with("listening "), "{script}: {first}");
        background
    }

    fn signal(&self, name: &str) {
        let group = format!("-{}", self.child.id());
        let mut kill = Command::new("sh");
        kill.args(["-c", "kill -s \"$0\" -- \"$1\"", name, &group]).stderr(Stdio::null());
        drop(kill.status());
    }

    fn stop(mut self) {
        self.signal("TERM");
        let mut output = self.output.take().unwrap();
        within(&self.script, move || output.read_to_end(&mut Vec::new()).unwrap());
        let status = self.child.wait().unwrap();
        // A pipeline's shell is hit by the signal, too; a node by itself ends well.
        assert!(status.success() || self.script.contains('|'), "{}: {status}", self.script);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.signal("KILL");
        drop(self.child.wait());
    }
}

fn stop(background: &mut Option<Background>) {
    if let Some(background) = background.take() {
        background.stop();
    }
}

fn run(script: &str, folder: &Path) -> String {
    let mut command = shell(script, folder);
    let output = within(script, move || command.output().unwrap());
    assert!(output.status.success(), "{script}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap();
    path.split(':').any(|folder| Path::new(folder).join(program).exists())
}

#[test]
fn its_commands_do_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let (mut background, mut printed, mut ran) = (None, None, 0);
    for part in parts(&with_free_ports(README)) {
        let Part::Block { kind, text } = part else {
            stop(&mut background);
            continue;
        };
        match kind.as_str() {
            "sh background" => {
                stop(&mut background);
                let script = if text.contains('|') { text } else { format!("exec {text}") };
                background = Some(Background::start(&script, folder.path()));
                ran += 1;
            }
            "sh" if text.contains("| nc ") && !is_installed("nc") => {
                skipped(&format!("for want of nc (ci/install.sh installs it): {text}"));
                printed = None;
            }
            "sh" => {
                printed = Some(run(&text, folder.path()));
                ran += 1;
            }
            "output" => assert!(printed.take().is_none_or(|printed| printed == text), "it prints {text:?}"),
            "text" | "rust,no_run" => {}
            other => panic!("a block of an unknown kind, {other:?}"),
        }
    }
    stop(&mut background);
    assert!(ran >= 6, "only {ran} blocks were run");
}

#[test]
fn its_example_is_the_one_in_the_tree() {
    let example = include_str!("../examples/echo.rs");
    assert!(example.lines().count() <= 30);
    let shown = Part::Block { kind: "rust,no_run".into(), text: example.into() };
    assert!(parts(README).contains(&shown), "README.md does not show examples/echo.rs as it is");
}

#[test]
fn it_names_every_limit() {
    let source = include_str!("../src/config.rs");
    let (_, limits) = source.split_once("pub struct Limits {").unwrap();
    let (limits, _) = limits.split_once("\n}").unwrap();
    let names = limits.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split(':').next());
    let missing: Vec<_> = names.filter(|name| !README.contains(&format!("| `{name}` |"))).collect();
    assert!(limits.len() > 500 && missing.is_empty(), "{missing:?}");
}
