//! The load tester as its users meet it: exit codes, and its JSON held against the schema that is shipped with it.
#![expect(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use serde_json::Value;

fn bench(line: &str) -> Output {
    let words = line.split_whitespace();
    Command::new(env!("CARGO_BIN_EXE_ringlink-bench")).args(words).output().expect("it can be started")
}

#[track_caller]
fn json(line: &str, code: i32) -> Value {
    let output = bench(line);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line}: {said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{line}: {error}: {said}"))
}

fn schema() -> Value {
    serde_json::from_str(include_str!("../benches/ringlink-bench.schema.json")).unwrap()
}

/// Holds a value against a schema, as far as ours goes: an unknown keyword is a fault of the schema.
fn validate(value: &Value, schema: &Value, root: &Value, place: &str, wrong: &mut Vec<String>) {
    for (keyword, rule) in schema.as_object().expect("a schema is an object") {
        let holds = match keyword.as_str() {
            "$schema" | "title" | "description" | "$defs" | "properties" | "prefixItems" => true,
            "$ref" => {
                let name = rule.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                validate(value, &root["$defs"][name], root, place, wrong);
                true
            }
            "const" => value == rule,
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => !value.is_number() || value.as_f64() >= rule.as_f64(),
            "minItems" => value.as_array().is_some_and(|items| items.len() as u64 >= rule.as_u64().unwrap()),
            "maxItems" => value.as_array().is_some_and(|items| items.len() as u64 <= rule.as_u64().unwrap()),
            "type" => match rule.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "null" => value.is_null(),
                "number" => value.is_number(),
                "integer" => value.is_u64() || value.is_i64(),
                other => panic!("type {other}"),
            },
            "anyOf" => rule.as_array().unwrap().iter().any(|one| {
                let mut found = Vec::new();
                validate(value, one, root, place, &mut found);
                found.is_empty()
            }),
            "required" => {
                rule.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some())
            }
            "additionalProperties" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    match (schema["properties"].get(name), rule) {
                        (Some(known), _) => validate(value, known, root, &format!("{place}.{name}"), wrong),
                        (None, Value::Bool(false)) => wrong.push(format!("{place}.{name} is unknown")),
                        (None, rule) => validate(value, rule, root, &format!("{place}.{name}"), wrong),
                    }
                }
                true
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    validate(item, rule, root, &format!("{place}[]"), wrong);
                }
                true
            }
            other => panic!("{place}: this test does not know {other}"),
        };
        if !holds {
            wrong.push(format!("{place}: {keyword} {rule} does not hold for {value}"));
        }
    }
}

#[track_caller]
fn is_valid(result: &Value) {
    holds(result, "");
}

/// Holds a value against the part of the schema at this place.
#[track_caller]
fn holds(value: &Value, place: &str) {
    let (schema, mut wrong) = (schema(), Vec::new());
    validate(value, schema.pointer(place).unwrap(), &schema, "result", &mut wrong);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const SHORT: &str = "-d 300ms -w 0 -i 100ms --json - --quiet --pin none";

#[test]
fn results_are_as_the_schema_says() {
    for line in [
        "echo -c 4",
        "echo -c 4 -R 1000 --arrival poisson --engine epoll",
        "echo -c 4 --with tokio-uring",
        "echo -c 4 --loops 2 --busy-poll 20us",
        "msg -c 2 --threads 2 -s 64",
        "msg --from thread -s 64",
        "msg --with tokio",
        "msg --with threads -c 2",
        "bulk -c 2",
        "bulk --dir down --with tokio --engine epoll",
        "bulk --dir up --with threads --verify off",
        "bulk --dir up --with tokio-uring",
        "bulk --dir down --with tokio-uring",
        "bulk --dir both --with threads",
        "connect --with-rtt --close rst",
        "connect --hello",
        "connect --hello --with ringlink-tokio-uring --engine epoll",
        "idle -c 50 --active 5",
        "fan -c 5",
        "fan -c 5 --mode out --engine epoll",
        "fan -c 5 --mode in --with ringlink-tokio-uring",
        "fan -c 5 --slow 2",
        "fan -c 64 --slow 1",
    ] {
        let result = json(&format!("{line} {SHORT}"), 0);
        is_valid(&result);
        assert!(result["totals"]["verified"].as_u64() > Some(10), "{line}: {result}");
        assert_eq!(result["totals"]["sent"], result["totals"]["verified"], "{line}");
        assert_eq!(result["status"], "ok");
        assert!(result["intervals"].as_array().is_some_and(|rows| rows.len() >= 2), "{line}");
    }
}

#[test]
fn the_schema_bites() {
    let schema = schema();
    let mut result = json(&format!("echo -c 1 {SHORT}"), 0);
    result["surprise"] = 1.into();
    result["rate"].as_object_mut().unwrap().remove("ops");
    result["totals"]["sent"] = "many".into();
    let mut wrong = Vec::new();
    validate(&result, &schema, &schema, "result", &mut wrong);
    assert_eq!(wrong.len(), 3, "{wrong:?}");
}

#[test]
fn a_count_is_exact() {
    let result = json("echo -c 3 -n 1000 --json - --quiet --pin none", 0);
    assert_eq!(result["totals"]["verified"], 1000);
}

#[test]
fn exit_codes_say_what_went_wrong() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = bench(&format!("echo {nobody} -d 1s"));
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));
    let refused = json(&format!("echo {nobody} -d 1s --json -"), 1);
    is_valid(&refused);
    assert_eq!(refused["status"], "error");
    assert!(refused["error"].as_str().is_some_and(|error| error.contains("Refused")), "{refused}");
    assert_eq!(bench("echo --no-such-flag").status.code(), Some(2));
    let missed = json(&format!("echo -c 1 --threshold p50<1ns {SHORT}"), 99);
    assert_eq!(missed["thresholds"][0]["ok"], false);
    let strict = json(&format!("echo -c 1 -R 100M --on-late drop --strict {SHORT}"), 4);
    assert_eq!(strict["status"], "invalid");
    is_valid(&strict);
}

/// A server of ours, and where it listens.
fn serve(words: &[&str]) -> (Child, String) {
    let mut server = Command::new(env!("CARGO_BIN_EXE_ringlink-bench"))
        .arg("serve")
        .args(words)
        .arg("--supervised")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
    let address = ready.split_whitespace().nth(1).unwrap().to_owned();
    (server, address)
}

#[test]
fn a_faulty_server_is_found_out() {
    let (mut server, address) = serve(&["echo", "--faulty", "corrupt"]);
    let result = json(&format!("echo {address} -c 2 {SHORT}"), 3);
    drop(server.stdin.take());
    server.wait().unwrap();
    is_valid(&result);
    assert_eq!(result["status"], "error");
    assert!(result["totals"]["errors"]["corrupt"].as_u64() >= Some(1), "{result}");
    assert!(result["error"].as_str().is_some_and(|error| error.contains("is wrong")), "{result}");
}

#[test]
fn a_handshake_is_counted_at_both_ends() {
    let result = json(&format!("connect -c 4 --hello {SHORT}"), 0);
    assert_eq!(result["figures"]["links_opened_at_far_end"].as_f64(), result["totals"]["verified"].as_f64());
    assert_eq!(result["workload"]["engine"], "hello, uring");
    let checks = result["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["name"] == "links" && check["ok"] == true), "{result}");
}

#[test]
fn what_says_no_hello_is_found_out() {
    let (mut echo, address) = serve(&["echo"]);
    let web = plain(|mut stream| drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")));
    let mute = plain(|mut stream| drop(stream.read_to_end(&mut Vec::new())));
    for (target, error, why) in [
        (address, "corrupt", "our own hello came back"),
        (web.to_string(), "corrupt", "the header of a frame is wrong"),
        (mute.to_string(), "timeout", "did not answer in time"),
    ] {
        let result = json(&format!("connect {target} -c 1 --hello {SHORT} --timeout 100ms"), 3);
        is_valid(&result);
        assert!(result["totals"]["errors"][error].as_u64() >= Some(1), "{result}");
        assert!(result["error"].as_str().is_some_and(|told| told.contains(why)), "{result}");
    }
    drop(echo.stdin.take());
    echo.wait().unwrap();
}

/// A server of plain sockets, which does this with each connection.
fn plain(each: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let each = each.clone();
            thread::spawn(move || each(stream));
        }
    });
    address
}

#[test]
fn every_load_finds_wrong_bytes() {
    let liar = plain(|mut stream| {
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            buffer[len - 1] ^= 1;
            if stream.write_all(&buffer[..len]).is_err() {
                return;
            }
        }
    });
    for load in ["echo -c 1", "bulk --dir both", "connect -c 1 --with-rtt", "idle -c 2 --active 1"] {
        let (kind, rest) = load.split_once(' ').unwrap();
        let result = json(&format!("{kind} {liar} {rest} {SHORT} --timeout 100ms"), 3);
        is_valid(&result);
        assert!(result["totals"]["errors"]["corrupt"].as_u64() >= Some(1), "{load}: {result}");
    }
    // What is no ringlink node says no hello.
    for load in ["msg", "fan -c 2"] {
        let (kind, rest) = load.split_once(' ').unwrap_or((load, ""));
        let output = bench(&format!("{kind} {liar} {rest} {SHORT}"));
        assert!(matches!(output.status.code(), Some(1 | 3)), "{load}: {output:?}");
    }
}

#[test]
fn an_interrupted_run_tells_what_it_has() {
    for load in [
        "echo -c 2",
        "msg",
        "msg --from thread",
        "msg --with tokio",
        "bulk",
        "connect",
        "fan -c 3",
        "fan -c 3 --mode in",
    ] {
        let mut run = Command::new(env!("CARGO_BIN_EXE_ringlink-bench"))
            .args(load.split_whitespace())
            .args("-d 1h -w 0 -i 50ms --json-stream --quiet --pin none".split_whitespace())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(run.stdout.take().unwrap()).lines();
        let mut next =
            || -> Option<Value> { lines.next().map(|line| serde_json::from_str(&line.unwrap()).unwrap()) };
        let start = next().unwrap();
        assert_eq!(start["event"], "start", "{load}");
        holds(&start["workload"], "/properties/workload");
        if !load.contains("tokio") {
            let interval = next().unwrap(); // others tell theirs at the end
            assert_eq!(interval["event"], "interval", "{load}");
            holds(&interval["interval"], "/properties/intervals/items");
        }
        // To all of the group, as a terminal does.
        let group = rustix::process::Pid::from_child(&run);
        rustix::process::kill_process_group(group, rustix::process::Signal::INT).unwrap();
        let last = std::iter::from_fn(next).last().unwrap();
        assert_eq!(last["event"], "end", "{load}");
        assert_eq!(last["report"]["status"], "partial", "{load}: {last}");
        is_valid(&last["report"]);
        assert_eq!(run.wait().unwrap().code(), Some(130), "{load}");
    }
}

#[test]
fn results_are_written_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (csv, hgrm, result, page) = (path("i.csv"), path("p.hgrm"), path("r.json"), path("page.html"));
    let line = format!("echo -c 2 -d 300ms -w 0 -i 100ms -q --csv {csv} --hgrm {hgrm} --json {result}");
    let output = bench(&line);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("echo closed-loop 127.0.0.1:") && text.contains("\nOK "), "{text}");
    assert!(std::fs::read_to_string(&csv).unwrap().lines().count() >= 3);
    assert!(std::fs::read_to_string(&hgrm).unwrap().contains("#[Mean"));
    let comparison = path("c.json");
    let suite = path("s.toml");
    std::fs::write(
        &suite,
        "run = [\"echo -c 2\", \"msg\"]\nblocks = 1\n\
         [[contender]]\nname = \"a\"\nwith = \"ringlink\"\n\
         [[contender]]\nname = \"b\"\nwith = \"tokio-uring\"\n\
         [[contender]]\nname = \"c\"\ncommand = \"/there/is/no/such/server\"\n",
    )
    .unwrap();
    let table = path("t.md");
    let output = bench(&format!(
        "compare {suite} -d 100ms -w 0 -q --strict --pin none --json {comparison} --markdown {table}"
    ));
    assert_eq!(output.status.code(), Some(4), "one was left out: {output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("not measured: c: cannot start") && text.contains("not for this load: b"),
        "{text}"
    );
    let told: Value = serde_json::from_str(&std::fs::read_to_string(&comparison).unwrap()).unwrap();
    let rows: Vec<_> = told["cells"][0]["rows"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert_eq!(rows, ["a", "a again", "b"]);
    assert!(told["cells"][0]["rows"][2]["measures"]["server_cpu_ns_per_op"]["ratio"]["median"].is_number());
    let table = std::fs::read_to_string(&table).unwrap();
    assert!(
        table
            .starts_with("| load | ratio of | b | noise floor |\n|---|---|---|---|\n| `echo -c 2` | rate | "),
        "{table}"
    );
    assert!(bench(&format!("report {result} {comparison} --html {page}")).status.success());
    let page = std::fs::read_to_string(&page).unwrap();
    assert!(
        page.matches("<svg").count() >= 6 && !page.contains("<script"),
        "{}",
        page.matches("<svg").count()
    );
    assert!(page.contains("ringlink-bench compare") && page.contains("--hgrm"));
    assert_eq!(bench(&format!("diff {result} {result} --fail ops_per_s<-5%")).status.code(), Some(0));
    assert_eq!(bench(&format!("diff {result} {result} --fail ops_per_s>-5%")).status.code(), Some(99));
}

#[test]
fn a_generator_of_two_threads_loads_a_command_too() {
    let folder = tempfile::tempdir().unwrap();
    let suite = folder.path().join("s.toml").display().to_string();
    let command = format!("{} serve echo --supervised", env!("CARGO_BIN_EXE_ringlink-bench"));
    std::fs::write(
        &suite,
        format!(
            "run = [\"connect -c 2 -t 2\"]\nblocks = 1\n\
             [[contender]]\nname = \"a\"\nwith = \"ringlink\"\n\
             [[contender]]\nname = \"b\"\ncommand = \"{command}\"\n"
        ),
    )
    .unwrap();
    let output = bench(&format!("compare {suite} -d 100ms -w 0 -q --json -"));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["cells"][0]["rows"][2]["valid"], 1, "{told}");
}

#[test]
fn a_file_that_cannot_be_written_is_named_before_the_run_and_a_full_one_loses_no_result() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("no/such/folder").display().to_string();
    // A run of an hour would not end in the test's time.
    for line in [
        "echo -d 1h --json",
        "echo -d 1h --csv",
        "echo -d 1h --hgrm",
        "compare -d 1h --json",
        "compare -d 1h --markdown",
    ] {
        let output = bench(&format!("{line} {nowhere}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        assert!(said.contains(&format!("cannot write {nowhere}: No such file")), "{line}: {said}");
    }
    let output = bench("echo -c 1 -d 100ms -w 0 -q --pin none --csv /dev/full");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("\nOK "), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("cannot write /dev/full: No space"),
        "{output:?}"
    );
}

#[test]
fn what_cannot_be_measured_is_said_by_its_cause() {
    let folder = tempfile::tempdir().unwrap();
    let suite = folder.path().join("s.toml").display().to_string();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let entry = format!("[[contender]]\nname = \"a\"\ncommand = \"sleep 60\"\nport = {port}\n");
    std::fs::write(&suite, format!("run = [\"echo\"]\n{entry}")).unwrap();
    for (line, why) in [
        ("echo -d 1h --pin cli=1023".to_owned(), "pin: processor 1023 cannot be used".to_owned()),
        (
            format!("echo 127.0.0.1:{port} --target-pid 4194305"),
            "--target-pid: the processor time".to_owned(),
        ),
        (format!("compare {suite} -d 1h"), format!("port {port} is in use")),
    ] {
        let output = bench(&line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        assert!(said.contains(&why), "{line}: {said}");
    }
}

#[test]
fn a_connection_that_goes_with_nothing_under_way_is_an_error() {
    // As soon as one has echoed something, the others are closed.
    let (served, quiet) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let impatient = plain(move |mut stream| {
        let mut buffer = [0; 4096];
        quiet.lock().unwrap().push(stream.try_clone().unwrap());
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            if !served.swap(true, SeqCst) {
                while quiet.lock().unwrap().len() < 3 {
                    thread::yield_now();
                }
                let me = stream.peer_addr().unwrap();
                for other in quiet.lock().unwrap().iter().filter(|other| other.peer_addr().unwrap() != me) {
                    other.shutdown(Shutdown::Both).unwrap();
                }
            }
            if stream.write_all(&buffer[..len]).is_err() {
                return;
            }
        }
    });
    let result = json(&format!("idle {impatient} -c 3 --active 1 -R 1k {SHORT}"), 3);
    assert_eq!(result["totals"]["errors"]["eof"], 2, "{result}");
}

#[test]
fn a_result_is_written_although_nobody_reads_the_text() {
    let folder = tempfile::tempdir().unwrap();
    for told in ["", " --json-stream"] {
        let path = folder.path().join("r.json");
        let line = format!("echo -c 1 -d 250ms -i 100ms -w 0 -q --pin none{told} --json");
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut run = Command::new(env!("CARGO_BIN_EXE_ringlink-bench"));
        let output = run.args(line.split(' ')).arg(&path).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let result: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(result["status"], "ok", "{result}");
        // The last interval is a part of one.
        let ends: Vec<_> = result["intervals"].as_array().unwrap().iter().map(|row| &row["t_ns"]).collect();
        assert_eq!(ends, [100_000_000, 200_000_000, 250_000_000]);
    }
}

#[test]
fn connections_of_one_side_are_looked_at_while_they_are_open() {
    let result = json(&format!("echo -c 7 {SHORT}"), 0);
    for side in ["client", "server"] {
        let info = &result["tcp_info"][side];
        assert_eq!(info["connections"], 7, "{side}: {info}");
        assert!(
            info["bytes_acked"].as_u64() > Some(100) && info["congestion"].as_str() != Some(""),
            "{info}"
        );
    }
}

#[test]
fn churn_comes_from_as_many_addresses_as_it_is_told() {
    let (peer, peers) = mpsc::channel();
    let address = plain(move |stream| peer.send(stream.peer_addr().unwrap().ip().to_string()).unwrap());
    let result = json(&format!("connect {address} -c 3 --sources 3 --engine epoll {SHORT}"), 0);
    assert!(result["totals"]["verified"].as_u64() > Some(3), "{result}");
    let seen: BTreeSet<String> = peers.try_iter().collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
}

#[test]
fn a_slow_peer_is_told_apart() {
    let result = json("fan -c 4 --slow 1 -d 600ms -w 0 --json - --quiet --pin none", 0);
    let figures = &result["figures"];
    for name in ["isolation_ratio", "delivered_while_all_read_per_s", "delivered_beside_slow_peers_per_s"] {
        assert!(figures[name].as_f64() > Some(0.0), "{name}: {figures}");
    }
    assert_eq!(result["totals"]["lost"], 0);
}
