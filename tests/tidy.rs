//! Keeps what no compiler keeps: who may import whom, the home of `unsafe`, the words, and that nothing of the machine
//! it was written on is left in the tree. Each rule takes text and says what is wrong; the rules have tests of their own.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const BASE: &[&str] = &["addr", "clock", "config", "error", "id", "stats"];
const LAYERS: &[&str] = &["driver", "link", "channel", "node", "service", "simulation"];
const MAX_LINES: usize = 550;
const MAX_SCRIPT_LINES: usize = 40;

/// The code of a source without its comments and docs. Knows strings well enough for this tree.
fn code(source: &str) -> String {
    let cut = |line: &str| {
        let comment =
            line.match_indices("//").find(|(at, _)| line[..*at].matches('"').count().is_multiple_of(2));
        comment.map_or(line, |(at, _)| &line[..at]).to_owned() + "\n"
    };
    source.lines().map(cut).collect()
}

/// The code without what is in quotes, line by line.
fn unquoted(code: &str) -> String {
    code.lines().flat_map(|line| line.split('"').step_by(2).chain(["\n"])).collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// True when `word` stands in `text` with no letter before it, and none after it if it ends in one.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let free = |c: Option<char>| c.is_none_or(|c| !is_word(c));
        free(text[..at].chars().next_back())
            && (!word.ends_with(is_word) || free(text[at + word.len()..].chars().next()))
    })
}

/// Every path that starts with `crate::`, with the braces of `use` multiplied out: `["driver", "Batch"]`.
fn crate_paths(code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for (at, start) in code.match_indices("crate::") {
        if !code[..at].ends_with(is_word) {
            expand(&mut code[at + start.len()..].chars().filter(|c| *c != '\n').peekable(), &[], &mut paths);
        }
    }
    paths
}

fn expand(
    rest: &mut std::iter::Peekable<impl Iterator<Item = char>>,
    prefix: &[String],
    paths: &mut Vec<Vec<String>>,
) {
    let mut path = prefix.to_vec();
    loop {
        while rest.next_if_eq(&' ').is_some() {}
        if rest.next_if_eq(&'{').is_some() {
            while rest.peek().is_some_and(|c| *c != '}') {
                expand(rest, &path, paths);
                while rest.next_if(|c| *c != ',' && *c != '}').is_some() {} // `as name`, blanks
                rest.next_if_eq(&',');
                while rest.next_if_eq(&' ').is_some() {}
            }
            rest.next();
            return;
        }
        let mut name = String::new();
        while let Some(c) = rest.next_if(|c| is_word(*c) || *c == '*') {
            name.push(c);
        }
        path.push(name);
        if rest.next_if_eq(&':').is_none() || rest.next_if_eq(&':').is_none() {
            paths.push(path);
            return;
        }
    }
}

/// The layers `file` may import from, beside the base; `None`: whatever it likes.
fn may_import(file: &str) -> Option<&'static [&'static str]> {
    let path = file.strip_prefix("src/")?;
    match path.split_once('/').map_or(path, |(folder, _)| folder) {
        "lib.rs" | "bin" => None, // a binary is a crate of its own
        "link" => Some(&["link"]),
        "driver" => Some(&["driver"]),
        "channel" => Some(&["link", "driver", "channel"]),
        "node" => Some(&["driver", "link", "channel", "node"]),
        "service" => Some(&["service"]),
        "simulation" => Some(&["driver", "link", "channel", "node", "simulation"]),
        _ => Some(&[]),
    }
}

fn imports(file: &str, source: &str) -> Vec<String> {
    let (code, mut wrong) = (code(source), Vec::new());
    for path in may_import(file).into_iter().flat_map(|_| crate_paths(&code)) {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let allowed = match path[..] {
            ["driver", "Driver", ..] => !file.starts_with("src/channel/"),
            ["driver", "tokio_uring", ..] => !file.starts_with("src/driver/uring/"),
            ["driver", "uring", ..] => !file.starts_with("src/driver/tokio_uring/"),
            _ => true,
        } && match path[0] {
            layer if LAYERS.contains(&layer) => may_import(file).is_some_and(|may| may.contains(&layer)),
            base if BASE.contains(&base) => !file.starts_with("src/service/") || base == "addr",
            _ => true, // a macro or a re-export of the crate's root
        };
        if !allowed {
            wrong.push(format!("{file}: may not import crate::{}", path.join("::")));
        }
    }
    for module in BASE.iter().chain(LAYERS) {
        if code.contains(&format!("super::{module}::")) && file.starts_with("src/") {
            wrong.push(format!("{file}: super::{module} should be crate::…::{module}"));
        }
    }
    for (name, home) in [("io_uring::", "src/driver/uring/"), ("tokio_uring::", "src/driver/tokio_uring/")] {
        let outer = |at: usize| !code[..at].ends_with(|c| is_word(c) || c == ':');
        let is_measured = file.starts_with("src/bin/ringlink-bench/contender/"); // the crates as they come
        if !file.starts_with(home) && !is_measured && code.match_indices(name).any(|(at, _)| outer(at)) {
            wrong.push(format!("{file}: {name} is for {home} alone"));
        }
    }
    wrong
}

fn source_rules(file: &str, source: &str) -> Vec<String> {
    let (code, mut wrong) = (code(source), Vec::new());
    let mut rule = |broken: bool, what: &str| wrong.extend(broken.then(|| format!("{file}: {what}")));
    let in_src = file.starts_with("src/");
    rule(!source.starts_with("//!"), "has no head (//!) that says what is in it");
    rule(source.lines().count() > MAX_LINES, "is longer than 550 lines");
    for word in ["todo!", "unimplemented!", "dbg!"] {
        rule(has_word(&code, word), word);
    }
    for word in ["FIXME", "XXX", "TODO"] {
        rule(has_word(source, word), word);
    }
    rule(in_src && code.contains("thread::sleep"), "sleeps; wait on an event");
    let unsafe_home = !in_src || file.starts_with("src/driver/uring/");
    rule(!unsafe_home && has_word(&unquoted(&code), "unsafe"), "unsafe outside src/driver/uring/");
    wrong.extend(type_names(&code).filter_map(|name| {
        let banned = ["Connection", "Session", "Manager", "Helper", "Util"];
        banned.iter().any(|word| name.contains(word)).then(|| format!("{file}: a type named {name}"))
    }));
    let stem = Path::new(file).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if ["utils", "util", "common", "helpers", "manager", "types"].contains(&stem) {
        wrong.push(format!("{file}: a file's name says what is in it"));
    }
    wrong
}

fn type_names(code: &str) -> impl Iterator<Item = &str> {
    let words = code.split(|c| !is_word(c)).filter(|word| !word.is_empty());
    words.clone().zip(words.skip(1)).filter_map(|(keyword, name)| {
        let names_a_type = ["struct", "enum", "trait", "union"].contains(&keyword);
        (names_a_type && name.starts_with(char::is_uppercase)).then_some(name)
    })
}

/// Rules for every text in the tree.
fn text_rules(file: &str, text: &str) -> Vec<String> {
    // In pieces, or this file would break its own rules.
    let banned = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("index", ".crates.io"),
        concat!("static", ".crates.io"),
        concat!("sparse", "+http"),
        concat!("replace", "-with"),
        concat!("[regis", "tries"),
    ];
    let stands = |word: &str| {
        let path = word.starts_with('/');
        text.match_indices(word)
            .any(|(at, _)| !path || !text[..at].ends_with(|c| is_word(c) || "./-}".contains(c)))
    };
    let mut wrong: Vec<_> =
        banned.iter().filter(|word| stands(word)).map(|word| format!("{file}: names {word}")).collect();
    let crates_io = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    if file.ends_with("Cargo.lock") {
        let elsewhere = text.lines().filter(|line| line.starts_with("source = ") && *line != crates_io);
        wrong.extend(elsewhere.map(|line| format!("{file}: not from crates.io: {line}")));
    }
    wrong
}

fn script_rules(file: &str, text: &str, mode: u32) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut rule = |holds: bool, what: &str| wrong.extend((!holds).then(|| format!("{file}: {what}")));
    rule(mode & 0o111 == 0o111, "is not executable");
    rule(text.starts_with("#!/usr/bin/env bash\n# "), "does not start with #! and what it is for");
    rule(text.lines().any(|line| line == "set -euo pipefail"), "does not stop at errors");
    rule(text.lines().count() <= MAX_SCRIPT_LINES, "is longer than 40 lines");
    wrong
}

/// The files that `file` declares by `mod name;`, in both places where each may be.
fn modules(file: &str, code: &str) -> Vec<String> {
    let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
    let folder = match name {
        "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
        _ => format!("{folder}/{}", name.trim_end_matches(".rs")),
    };
    let statements = code.split_inclusive([';', '{', '}']).filter_map(|text| text.strip_suffix(';'));
    let names =
        statements.filter_map(|text| text.rsplit_once("mod ").filter(|(_, n)| n.chars().all(is_word)));
    names.flat_map(|(_, name)| [format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs")]).collect()
}

fn unreachable(sources: &[(String, String)]) -> Vec<String> {
    let is_root =
        |file: &str| file == "src/lib.rs" || (file.starts_with("src/bin/") && file.ends_with("/main.rs"));
    let mut reached = BTreeSet::new();
    let mut open: Vec<String> =
        sources.iter().map(|(file, _)| file.clone()).filter(|file| is_root(file)).collect();
    while let Some(file) = open.pop() {
        let found = sources.iter().find(|(name, _)| *name == file);
        if let Some((file, source)) = found.filter(|(file, _)| reached.insert(file)) {
            open.extend(modules(file, &code(source)));
        }
    }
    let lost = sources.iter().filter(|(file, _)| file.starts_with("src/") && !reached.contains(file));
    lost.map(|(file, _)| format!("{file}: no mod line leads to it")).collect()
}

/// File names in a document that no file of the tree ends in.
fn dead_names(file: &str, text: &str, files: &[String]) -> Vec<String> {
    let names =
        text.split(|c: char| !(is_word(c) || "./-".contains(c))).map(|name| name.trim_end_matches('.'));
    let named = names.filter(|n| [".rs", ".sh", ".toml", ".md"].iter().any(|end| n.ends_with(end)));
    let lost = named.filter(|name| !name.starts_with('.')).filter(|name| {
        !files
            .iter()
            .any(|file| file == name || file.strip_suffix(name).is_some_and(|head| head.ends_with('/')))
    });
    lost.map(|name| format!("{file}: there is no {name}")).collect()
}

/// Every file below `folder`, as paths from the tree's top, without what is built and what git keeps.
fn walk(top: &Path, folder: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("the tree can be read") {
        let path: PathBuf = entry.expect("the tree can be read").path();
        let name = path.file_name().expect("an entry has a name").to_string_lossy();
        if path.is_dir() && name != "target" && name != ".git" {
            walk(top, &path, files);
        } else if path.is_file() && name != ".git" {
            files.push(path.strip_prefix(top).expect("it is below").to_string_lossy().into_owned());
        }
    }
}

#[test]
fn the_tree_is_tidy() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut sources, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    walk(top, top, &mut files);
    files.sort();
    for file in &files {
        let Ok(text) = fs::read_to_string(top.join(file)) else { continue }; // not text
        wrong.extend(text_rules(file, &text));
        if file == ".ci/run" || file.ends_with(".sh") {
            let mode = fs::metadata(top.join(file)).unwrap().permissions().mode();
            wrong.extend(script_rules(file, &text, mode));
        }
        if ["ARCHITECTURE.md", "README.md", "SECURITY.md"].contains(&file.as_str()) {
            wrong.extend(dead_names(file, &text, &files));
        }
        if file.ends_with(".rs") && file != "tests/tidy.rs" {
            wrong.extend(imports(file, &text));
            wrong.extend(source_rules(file, &text));
            sources.push((file.clone(), text));
        }
    }
    assert!(sources.len() > 10, "the walk lost its way: {files:?}");
    wrong.extend(unreachable(&sources));
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn paths_are_found_and_braces_multiplied_out() {
    let code =
        "use crate::driver::{Batch, uring::{self, A as B},\n Wait};\nlet x = crate::id::new(); mycrate::x";
    let paths: Vec<_> = crate_paths(code).iter().map(|path| path.join("::")).collect();
    assert_eq!(
        paths,
        ["driver::Batch", "driver::uring::self", "driver::uring::A", "driver::Wait", "id::new"]
    );
}

#[test]
fn the_import_matrix_bites() {
    for (file, line, allowed) in [
        ("src/id.rs", "use crate::error::Errno;", true),
        ("src/id.rs", "use crate::{error::Errno, node::Node};", false),
        ("src/id.rs", "/// [`Node`](crate::node::Node)", true),
        ("src/link/mod.rs", "use crate::driver::Batch;", false),
        ("src/driver/mod.rs", "use crate::node::Node;", false),
        ("src/driver/uring/mod.rs", "use crate::driver::{Driver, tokio_uring::X};", false),
        ("src/channel/mod.rs", "use crate::driver::{Submission, Completion};", true),
        ("src/channel/mod.rs", "use crate::driver::{Submission, Driver};", false),
        ("src/channel/mod.rs", "use super::node::Node;", false),
        ("src/node/mod.rs", "use crate::driver::Driver;", true),
        ("src/node/mod.rs", "use io_uring::IoUring;", false),
        ("src/node/mod.rs", "use crate::driver::tokio_uring::X;", true),
        ("src/service/echo.rs", "use crate::{Handler, node::Node};", false),
        ("src/service/echo.rs", "use crate::{Handler, Node, service::Sink};", true),
        ("src/driver/uring/host.rs", "use io_uring::IoUring;", true),
    ] {
        assert_eq!(imports(file, line).is_empty(), allowed, "{file}: {line}");
    }
}

#[test]
fn the_rules_for_sources_bite() {
    let head = "//! Head.\n";
    let wrong = |file: &str, line: &str| source_rules(file, &format!("{head}{line}\n")).len();
    assert_eq!(source_rules("src/a.rs", "fn a() {}").len(), 1);
    for line in
        ["unsafe { x() }", "dbg!(x)", "std::thread::sleep(x);", "// FIXME later", "struct TcpConnection;"]
    {
        assert_eq!(wrong("src/a.rs", line), 1, "{line}");
    }
    for line in
        ["#[forbid(unsafe_code)]", "// unsafe is elsewhere", "let s = \"http://a\"; // dbg!", "fn helper()"]
    {
        assert_eq!(wrong("src/a.rs", line), 0, "{line}");
    }
    assert_eq!(wrong("src/driver/uring/a.rs", "unsafe { x() }"), 0);
    assert_eq!(wrong("src/utils.rs", ""), 1);
    assert_eq!(wrong("src/a.rs", &"\n".repeat(MAX_LINES)), 1);
}

#[test]
fn the_rules_for_texts_scripts_and_documents_bite() {
    assert_eq!(text_rules("a", concat!("cd /wo", "rk/x")).len(), 1);
    assert_eq!(text_rules("a", concat!("net/wo", "rk/x")).len(), 0);
    assert_eq!(text_rules("Cargo.lock", "source = \"git+https://example.org/x\"").len(), 1);
    let script = "#!/usr/bin/env bash\n# Why.\nset -euo pipefail\n";
    assert_eq!(script_rules("ci/a.sh", script, 0o755), Vec::<String>::new());
    assert_eq!(script_rules("ci/a.sh", "#!/bin/sh\n", 0o644).len(), 3);
    let files = ["src/node/mod.rs".to_owned(), "ci/test.sh".to_owned()];
    assert_eq!(
        dead_names("A", "`node/mod.rs`, ci/test.sh. And ode/mod.rs", &files),
        ["A: there is no ode/mod.rs"]
    );
}

#[test]
fn a_file_without_a_mod_line_is_found() {
    let source = |file: &str, text: &str| (file.to_owned(), text.to_owned());
    let mut sources = vec![
        source("src/lib.rs", "#[forbid(unsafe_code)]\nmod a;\n// mod b;\nmod inline { mod x { fn f() {} } }"),
        source("src/a.rs", "pub(crate) mod c;"),
        source("src/a/c.rs", ""),
        source("src/bin/tool/main.rs", ""),
    ];
    assert_eq!(unreachable(&sources), Vec::<String>::new());
    sources.push(source("src/b.rs", ""));
    assert_eq!(unreachable(&sources), ["src/b.rs: no mod line leads to it"]);
}
