//! The real domain, the coordinator's driver and the agent's logic in a simulated world, many thousand times over, each
//! run as its seed has it. `docs/decisions/0014-simulation.md` says what is real here and what is not.
//!
//! - `KEYTURN_SIMULATION_SEEDS=N` plays N seeds instead of as many as fit into some minutes.
//! - `KEYTURN_SIMULATION_SEED=S cargo test -p simulation one_seed -- --nocapture` plays one and prints what happens.
#![expect(clippy::print_stdout, reason = "whoever plays a seed again wants to read what happens")]

mod cluster;
mod disk;
mod faults;
mod instance;
mod invariants;
mod machine;
mod network;
mod node;
mod operator;
mod rates;
mod run;
mod world;

use std::collections::BTreeMap;
use std::env;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use world::lock;

const SEED: &str = "KEYTURN_SIMULATION_SEED";
const SEEDS: &str = "KEYTURN_SIMULATION_SEEDS";
/// Set for the runs of [`every_seed_holds`]: nothing is printed but how it ended.
const QUIET: &str = "KEYTURN_SIMULATION_QUIET";

/// How long seeds are played when nobody says how many.
const TIME_MAX: Duration = Duration::from_secs(200);
/// Runs at once, each a process of one thread.
const WORKERS: usize = 2;
/// Failing seeds that are named before it ends.
const FAILURES_MAX: usize = 5;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, which is no number")))
}

/// Plays the seed of the environment, and prints what happens.
#[test]
fn one_seed() {
    let seed = number(SEED).unwrap_or(1);
    let is_printed = number(QUIET).is_none();
    // A thread of its own: whatever the test's thread has asked the machine for is not part of the run.
    let outcome = std::thread::spawn(move || run::play(seed, is_printed)).join().expect("the run did not panic");
    let run::Outcome { ending, violation, trace, events, lasted } = outcome;
    let ending = ending.map_or("nowhere".to_owned(), |ending| format!("{ending:?}"));
    println!("seed {seed} ended {ending} after {} s and {events} events, trace {trace}", lasted.as_secs());
    if let Some(violation) = violation {
        panic!("seed {seed} violates: {violation}");
    }
}

/// Plays a seed in a process of its own, in which everything is as it was for the same seed before.
fn play_apart(seed: u64) -> Output {
    Command::new(env::current_exe().expect("a test knows its file"))
        .args(["--exact", "one_seed", "--nocapture", "--test-threads=1"])
        .env(SEED, seed.to_string())
        .env(QUIET, "1")
        .output()
        .expect("a process can be started")
}

fn last_word(output: &Output) -> Option<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter(|line| line.contains(" ended ")).find_map(|line| Some(line[line.rfind("seed ")?..].to_owned()))
}

/// Every seed ends as it must, and nothing that must always hold is violated on the way.
#[test]
fn every_seed_holds() {
    let seeds = number(SEEDS);
    let began = Instant::now();
    let next = AtomicU64::new(1);
    let failures = Mutex::new(Vec::new());
    let endings: Mutex<BTreeMap<String, u64>> = Mutex::default();
    let work = || {
        loop {
            let is_over = seeds.is_none() && began.elapsed() >= TIME_MAX;
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if is_over || seeds.is_some_and(|seeds| seed > seeds) || lock(&failures).len() >= FAILURES_MAX {
                return;
            }
            let output = play_apart(seed);
            let word = last_word(&output);
            let ending = word.as_deref().and_then(|word| word.split(' ').nth(3)).unwrap_or("by a crash");
            *lock(&endings).entry(ending.to_owned()).or_default() += 1;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                let why =
                    said.lines().find(|line| line.contains("violates") || line.contains("panicked")).unwrap_or("");
                let why = said.lines().find(|line| line.contains("violates: ")).unwrap_or(why).to_owned();
                println!(
                    "seed {seed} fails. Replay: {SEED}={seed} cargo test -p simulation one_seed -- --nocapture\n  {why}"
                );
                lock(&failures).push(seed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(work);
        }
    });
    let endings = lock(&endings).clone();
    let played: u64 = endings.values().sum();
    println!("{played} seeds in {} s: {endings:?}", began.elapsed().as_secs());
    let failures = lock(&failures).clone();
    assert!(
        failures.is_empty(),
        "seeds {failures:?} fail; replay: {SEED}=S cargo test -p simulation one_seed -- --nocapture"
    );
}

/// A seed is a run: played again, the same happens at the same times.
#[test]
fn a_seed_runs_the_same_again() {
    for seed in [2, 3, 5, 8, 13, 21, 34, 55] {
        let [first, again] = [play_apart(seed), play_apart(seed)].map(|output| last_word(&output));
        assert!(first.is_some(), "seed {seed} ended without a word");
        assert_eq!(first, again);
    }
}
