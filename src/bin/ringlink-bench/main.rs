//! `ringlink-bench`: load tests for TCP servers and peers, this library's and others'. Here: the exit codes.
//!
//! `flags.rs` reads the command line. A workload (`workload/`) says what is sent and verifies what comes; an engine
//! (`engine/`) moves its bytes; `run.rs` starts both and the far end, and makes the `report/`.
#![forbid(unsafe_code)]

mod clock;
mod compare;
mod contender;
mod cost;
mod engine;
mod environment;
mod far_end;
mod flags;
mod histogram;
mod pacing;
mod report;
mod run;
mod selftest;
mod serve;
mod signals;
mod tcp_info;
mod workload;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use crate::flags::{Command, CommonFlags, CompareFlags, DiffFlags, Flags};
use crate::report::html::Page;
use crate::report::{Report, files, json, text};

const FAILED: u8 = 1;

fn main() -> ExitCode {
    // What is said while blocks run is of our own; the library has only warnings to tell.
    let filter = tracing_subscriber::EnvFilter::new("warn,ringlink_bench=info");
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_env_filter(filter)
        .without_time()
        .with_ansi(io::stderr().is_terminal())
        .init();
    match execute(Flags::of_process().command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Nobody may be reading: an error that cannot be told still has its exit code.
            drop(writeln!(io::stderr(), "ringlink-bench: {error:#}"));
            ExitCode::from(if signals::interrupted() { 130 } else { FAILED })
        }
    }
}

fn execute(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Echo(flags) => show("echo", &flags.common, || workload::echo::run(&flags)),
        Command::Msg(flags) => show("msg", &flags.common, || workload::msg::run(&flags)),
        Command::Bulk(flags) => show("bulk", &flags.common, || workload::bulk::run(&flags)),
        Command::Connect(flags) => show("connect", &flags.common, || workload::connect::run(&flags)),
        Command::Idle(flags) => show("idle", &flags.common, || workload::echo::run_idle(&flags)),
        Command::Fan(flags) => show("fan", &flags.common, || workload::fan::run(&flags)),
        Command::Compare(flags) => compare_all(&flags),
        Command::Diff(flags) => diff(&flags),
        Command::Report(flags) => {
            let mut page = Page::default();
            flags.files.iter().try_for_each(|path| page.add(path))?;
            files::write(&flags.html, &page.html()).map(|()| 0)
        }
        Command::Serve(flags) => serve::serve(&flags).map(|()| 0),
        Command::Selftest => selftest::selftest().map(|all_hold| u8::from(!all_hold)),
        Command::Env => {
            let environment = serde_json::to_string_pretty(&environment::Environment::capture())?;
            json::line(&environment).map(|()| 0)
        }
    }
}

fn compare_all(flags: &CompareFlags) -> anyhow::Result<u8> {
    flags.files().try_for_each(files::try_out)?;
    let comparison = compare::compare(flags)?;
    // Each in its own right: the one that fails takes none of the others with it.
    let json = flags.json.as_ref().map_or(Ok(()), |path| json::write(&comparison, path));
    let markdown = flags.markdown.as_ref();
    let markdown = markdown.map_or(Ok(()), |path| files::write(path, &compare::markdown(&comparison)));
    let is_told = flags.files().any(files::is_stdout);
    let told = if is_told { Ok(()) } else { json::line(compare::table(&comparison).trim_end()) };
    json.and(markdown).and(told)?;
    Ok(match () {
        () if signals::interrupted() => 130,
        () if flags.strict && !comparison.is_whole() => 4,
        () => 0,
    })
}

fn diff(flags: &DiffFlags) -> anyhow::Result<u8> {
    let (text, failed) = report::diff::diff(&json::read(&flags.old)?, &json::read(&flags.new)?, &flags.fail);
    json::line(text.trim_end())?;
    Ok(if failed { 99 } else { 0 })
}

/// Gives a result out in every form that was asked for; to machines also what became of a run that could not be made.
fn show(
    kind: &str,
    common: &CommonFlags,
    run: impl FnOnce() -> anyhow::Result<Report>,
) -> anyhow::Result<u8> {
    let output = &common.output;
    output.files().try_for_each(files::try_out)?;
    let report = &match run() {
        Ok(report) => report,
        Err(error) => {
            let report = Report::failed(kind, common.target.as_deref(), format!("{error:#}"));
            if let Some(path) = &output.json {
                json::write(&report, path)?;
            }
            if output.json_stream {
                json::stream(&json::Event::End { report: &report })?;
            }
            return Err(error);
        }
    };
    // Each in its own right: the one that fails takes none of the others with it.
    let json = output.json.as_ref().map_or(Ok(()), |path| json::write(report, path));
    let csv = output.csv.as_ref().map_or(Ok(()), |path| files::write(path, &json::csv(report)));
    let hgrm = output.hgrm.as_ref().map_or(Ok(()), |path| files::write(path, &report.hgrm));
    let told = match () {
        () if output.json_stream => json::stream(&json::Event::End { report }),
        () if output.is_text_shown() => json::line(text::text(report).trim_end()),
        () => Ok(()),
    };
    json.and(csv).and(hgrm).and(told)?;
    Ok(report.exit_code(common.strict))
}
