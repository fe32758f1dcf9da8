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

use crate::harness::process::alone;

/// What `make test` plays: those that once found a bug.
const FIXED: [u64; 2] = [2, 3];

/// `KUBEEDGE_STORM_SEED=n` plays one; `KUBEEDGE_STORM_SEEDS=n` the first n.
fn seeds() -> Vec<u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|err| panic!("{name}={text}: {err}")))
    };
    match (number("KUBEEDGE_STORM_SEED"), number("KUBEEDGE_STORM_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, Some(count)) => (1..=count).collect(),
        (None, None) => FIXED.to_vec(),
    }
}

fn kept(seed: u64) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("storm").join(format!("seed-{seed}"))
}

#[test]
fn storms_lose_and_double_nothing() {
    let _alone = alone();
    let seeds = seeds();
    for seed in &seeds {
        let keep = kept(*seed);
        match catch_unwind(AssertUnwindSafe(|| run::storm(*seed, &keep))) {
            Ok(outcome) => println!("storm seed {seed}: {outcome}"),
            Err(cause) => {
                println!(
                    "storm seed {seed} FAILED; logs are in {}\nto repeat it: KUBEEDGE_STORM_SEED={seed} make storm",
                    keep.display()
                );
                resume_unwind(cause);
            }
        }
    }
    println!("{} storms, nothing lost and nothing doubled", seeds.len());
}
