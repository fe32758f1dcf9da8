//! Storms: everything is killed, cut and held back at moments that follow from a seed, while people work. Then peace,
//! and nothing may be lost, doubled, stale or made again. See docs/STORM.md.

mod lanes;
mod ledger;
mod plan;
mod run;
mod sensors;
mod site;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::harness::process::alone;

/// What `make test` plays: those that once found a bug.
const FIXED: [u64; 2] = [2, 3];

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|err| panic!("{name}={text}: {err}")))
}

/// `KUBEEDGE_STORM_SEED=n` plays one; `KUBEEDGE_STORM_SEEDS=n` the first n.
fn seeds() -> Vec<u64> {
    match (number("KUBEEDGE_STORM_SEED"), number("KUBEEDGE_STORM_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, Some(count)) => (1..=count).collect(),
        (None, None) => FIXED.to_vec(),
    }
}

fn kept(seed: u64) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("storm").join(format!("seed-{seed}"))
}

/// Plays one storm and says what it came to; what it panicked with if it failed.
fn play(seed: u64) -> std::thread::Result<()> {
    let keep = kept(seed);
    catch_unwind(AssertUnwindSafe(|| run::storm(seed, &keep)))
        .map(|outcome| println!("storm seed {seed}: {outcome}"))
        .inspect_err(|_| {
            println!(
                "storm seed {seed} FAILED; logs are in {}\nto repeat it: KUBEEDGE_STORM_SEED={seed} make storm",
                keep.display()
            );
        })
}

/// `KUBEEDGE_STORM_AT_ONCE=n` plays n at a time. After the first failure no other storm begins.
#[test]
fn storms_lose_and_double_nothing() {
    let _alone = alone();
    let seeds = seeds();
    let left = Mutex::new(seeds.iter());
    let failure = Mutex::new(None);
    let player = || {
        while failure.lock().is_none() {
            let Some(seed) = left.lock().next() else { return };
            if let Err(cause) = play(*seed) {
                failure.lock().get_or_insert(cause);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..number("KUBEEDGE_STORM_AT_ONCE").unwrap_or(1).max(1) {
            scope.spawn(player);
        }
    });
    if let Some(cause) = failure.into_inner() {
        resume_unwind(cause);
    }
    println!("{} storms, nothing lost and nothing doubled", seeds.len());
}
