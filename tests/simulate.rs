//! The simulator in the test run: what once failed, a few seeds with all assertions on, and that a fault is found and
//! told in a line that repeats it. Many seeds are run by `ci/sim.sh`.

use std::fs;
use std::path::Path;

use ringlink::simulation::{Case, Planted, plant, run, shrink};

#[track_caller]
fn passes(case: &Case) {
    let outcome = run(case);
    assert_eq!(outcome.failure, None, "{case}");
}

/// Each line is a case that failed once; what follows a `#` says why.
#[test]
fn what_failed_once_does_not_fail_again() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/seeds");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in text.lines().map(|line| line.split('#').next().unwrap().trim()) {
            if !line.is_empty() {
                passes(&line.parse().unwrap());
                count += 1;
            }
        }
    }
    assert!(count > 0, "there are saved cases");
}

#[test]
fn seeds_pass_with_all_assertions_on() {
    for seed in 0..30 {
        passes(&Case::of_seed(seed));
    }
}

#[test]
fn the_same_case_is_the_same_world() {
    for seed in 100..110 {
        let (first, again) = (run(&Case::of_seed(seed)), run(&Case::of_seed(seed)));
        assert_eq!((first.trace, first.turns), (again.trace, again.turns), "seed {seed}");
    }
}

#[test]
fn a_fault_is_found_shrunk_and_repeated_from_its_line() {
    plant(Some(Planted::NoRearm));
    let found = (0..200).map(Case::of_seed).find(|case| run(case).failure.is_some());
    let found = found.expect("a planted fault is found");
    let small = shrink(&found, 40);
    let again: Case = small.to_string().parse().unwrap();
    assert_eq!(again, small);
    assert!(run(&again).failure.is_some(), "{again}");
    plant(None);
    passes(&again);
}

#[test]
fn a_case_is_read_as_it_is_written() {
    for text in ["seed=7", "seed=18446744073709551615 faults=0x1f end=420 calm=10..20,30..31"] {
        assert_eq!(text.parse::<Case>().unwrap().to_string(), text);
    }
    for text in ["", "faults=0x1", "seed=x", "seed=1 faults=3", "seed=1 calm=3", "seed=1 more=2", "seed"] {
        assert!(text.parse::<Case>().is_err(), "{text}");
    }
}
