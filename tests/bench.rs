//! The load tester as its users meet it: exit codes, and its JSON held against the schema that is shipped with it.
#![expect(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

use std::net::TcpListener;
use std::process::{Command, Output};

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
    let (schema, mut wrong) = (schema(), Vec::new());
    validate(result, &schema, &schema, "result", &mut wrong);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const SHORT: &str = "-d 300ms -w 0 -i 100ms --json - --quiet --pin none";

#[test]
fn results_are_as_the_schema_says() {
    for line in [
        "echo -c 4",
        "echo -c 4 -R 1000 --arrival poisson --engine epoll",
        "msg -c 2 --threads 2 -s 64",
        "msg --with tokio",
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
    assert_eq!(bench("echo --no-such-flag").status.code(), Some(2));
    let missed = json(&format!("echo -c 1 --threshold p50<1ns {SHORT}"), 99);
    assert_eq!(missed["thresholds"][0]["ok"], false);
    let strict = json(&format!("echo -c 1 -R 100M --on-late drop --strict {SHORT}"), 4);
    assert_eq!(strict["status"], "invalid");
    is_valid(&strict);
}

#[test]
fn a_faulty_server_is_found_out() {
    use std::io::{BufRead as _, BufReader};
    use std::process::Stdio;
    let mut server = Command::new(env!("CARGO_BIN_EXE_ringlink-bench"))
        .args(["serve", "echo", "--faulty", "corrupt", "--supervised"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
    let address = ready.split_whitespace().nth(1).unwrap().to_owned();
    let result = json(&format!("echo {address} -c 2 {SHORT}"), 3);
    drop(server.stdin.take());
    server.wait().unwrap();
    is_valid(&result);
    assert_eq!(result["status"], "error");
    assert!(result["totals"]["errors"]["corrupt"].as_u64() >= Some(1), "{result}");
    assert!(result["error"].as_str().is_some_and(|error| error.contains("is wrong")), "{result}");
}
