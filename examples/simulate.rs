//! The simulator by hand. Seeds for a while, with what happened in them:
//!
//!     cargo run --release --example simulate -- --minutes 10        (or --seconds N, or --seeds N; --base N)
//!
//! One case, with its last events; a case that fails is shrunk, and the line that tells it goes to tests/seeds/:
//!
//!     cargo run --release --example simulate -- --seed 7            (or --case 'seed=7 faults=0x1f end=420')
//!
//! And whether it finds the faults that can be planted in ringlink, each within 2,000 seeds: `--planted`.

#![expect(clippy::disallowed_methods, reason = "a tool that is run for a time")]
#![expect(clippy::print_stdout, reason = "it tells people")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringlink::simulation::{Case, Outcome, Planted, plant, run, run_in_words, shrink, silence_panics};

/// One seed in so many is run twice: the same must happen.
const TWICE: u64 = 100;
/// A long run in which a kind of fault happened less often than this does not show what it claims.
const LEAST_FIRED: u64 = 50;
const LONG_RUN: u64 = 1000;
/// Runs spent on making a case that fails simpler.
const SHRINK_RUNS: usize = 400;
/// A planted fault is found within so many seeds.
const PLANTED_SEEDS: u64 = 2000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    silence_panics();
    match parse(&arguments) {
        Ok((base, Task::Seeds(until))) => seeds(base, &until),
        Ok((_, Task::Case(case))) => one(&case),
        Ok((base, Task::Planted)) => planted(base),
        Err(why) => {
            eprintln!("{why}; see the head of examples/simulate.rs");
            ExitCode::from(2)
        }
    }
}

enum Until {
    Seeds(u64),
    Time(Duration),
}

enum Task {
    Seeds(Until),
    Case(Case),
    Planted,
}

/// The first seed, and what is to be done.
fn parse(arguments: &[String]) -> Result<(u64, Task), String> {
    let (mut base, mut task) = (0, None);
    let mut arguments = arguments.iter();
    while let Some(name) = arguments.next() {
        if name == "--planted" {
            task = Some(Task::Planted);
            continue;
        }
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        let number = value.parse::<u64>().map_err(|_| format!("{name} {value}: not a number"));
        match name.as_str() {
            "--base" => base = number?,
            "--seed" => task = Some(Task::Case(Case::of_seed(number?))),
            "--case" => task = Some(Task::Case(value.parse()?)),
            "--seeds" => task = Some(Task::Seeds(Until::Seeds(number?))),
            "--seconds" => task = Some(Task::Seeds(Until::Time(Duration::from_secs(number?)))),
            "--minutes" => task = Some(Task::Seeds(Until::Time(Duration::from_secs(60 * number?)))),
            _ => return Err(format!("there is no {name}")),
        }
    }
    task.map(|task| (base, task)).ok_or_else(|| "nothing to do".to_owned())
}

/// What all threads have found so far.
#[derive(Default)]
struct Sum {
    seeds: u64,
    turns: u64,
    events: u64,
    seconds: f64,
    faults: BTreeMap<&'static str, u64>,
    failed: Vec<(u64, String)>,
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.turns += outcome.turns;
        self.events += outcome.events;
        self.seconds += outcome.seconds;
        for (name, count) in outcome.faults {
            *self.faults.entry(name).or_default() += count;
        }
        self.failed.extend(outcome.failure.map(|failure| (seed, failure)));
    }
}

fn on_all_processors(work: impl Fn() + Sync) {
    let count = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(&work);
        }
    });
}

fn seeds(base: u64, until: &Until) -> ExitCode {
    let (start, next, failed) = (Instant::now(), AtomicU64::new(0), AtomicBool::new(false));
    let sum = Mutex::new(Sum::default());
    on_all_processors(|| {
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let over = match until {
                Until::Seeds(count) => place >= *count,
                Until::Time(time) => start.elapsed() >= *time,
            };
            if over || failed.load(Ordering::Relaxed) {
                return;
            }
            let seed = base.wrapping_add(place);
            let mut outcome = run(&Case::of_seed(seed));
            if place % TWICE == 0
                && outcome.failure.is_none()
                && run(&Case::of_seed(seed)).trace != outcome.trace
            {
                outcome.failure = Some("it is not the same when it is run again".to_owned());
            }
            failed.fetch_or(outcome.failure.is_some(), Ordering::Relaxed);
            sum.lock().expect("no thread panics").add(seed, outcome);
        }
    });
    report(&sum.into_inner().expect("no thread panics"), start.elapsed())
}

fn report(sum: &Sum, time: Duration) -> ExitCode {
    for (name, count) in &sum.faults {
        println!("{count:>10} {name}");
    }
    let (seeds, rate) = (sum.seeds, sum.seeds as f64 / time.as_secs_f64());
    println!(
        "{seeds} seeds, {rate:.0} a second; {} turns, {} events, {:.0} simulated hours",
        sum.turns,
        sum.events,
        sum.seconds / 3600.0
    );
    for (seed, failure) in &sum.failed {
        println!("seed {seed} failed: {failure}");
    }
    if let Some((seed, _)) = sum.failed.first() {
        return one(&Case::of_seed(*seed));
    }
    let seldom: Vec<_> = sum.faults.iter().filter(|(_, count)| **count < LEAST_FIRED).collect();
    if seeds >= LONG_RUN && !seldom.is_empty() {
        println!("too seldom to show anything: {seldom:?}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn one(case: &Case) -> ExitCode {
    let outcome = run(case);
    let Some(failure) = outcome.failure else {
        println!(
            "{case}: ok; {} turns, {:.3} simulated s, trace {:016x}",
            outcome.turns, outcome.seconds, outcome.trace
        );
        return ExitCode::SUCCESS;
    };
    let small = shrink(case, SHRINK_RUNS);
    println!("{}", run_in_words(&small).last_events);
    println!("{case} fails: {failure}");
    println!("shrunk: {small}\nagain:  cargo run --release --example simulate -- --case '{small}'");
    println!("keep:   the line '{small}' in a file in tests/seeds/");
    ExitCode::FAILURE
}

fn planted(base: u64) -> ExitCode {
    let (next, missed) = (AtomicU64::new(0), AtomicBool::new(false));
    on_all_processors(|| {
        while let Some(&fault) = Planted::ALL.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            plant(Some(fault));
            let found = (0..PLANTED_SEEDS).find_map(|place| {
                let failure = run(&Case::of_seed(base.wrapping_add(place))).failure?;
                Some((place + 1, failure))
            });
            plant(None);
            match found {
                Some((count, failure)) => {
                    let failure: String = failure.chars().take(90).collect();
                    println!("{:<20} found in seed {count:>4}: {failure}", fault.label());
                }
                None => {
                    println!("{:<20} NOT FOUND in {PLANTED_SEEDS} seeds: {}", fault.label(), fault.text());
                    missed.store(true, Ordering::Relaxed);
                }
            }
        }
    });
    println!("{} faults were planted", Planted::ALL.len());
    if missed.into_inner() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
