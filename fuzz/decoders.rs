//! All targets of `kubeedge::fuzz` in one program: linking it once takes a minute. Which one runs is the value of
//! `KUBEEDGE_FUZZ`; `KUBEEDGE_FUZZ=list` prints the names.

#![no_main]

use std::env;
use std::process::exit;
use std::sync::OnceLock;

use kubeedge::fuzz::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

/// Reads the environment. Without a known target there is nothing to do.
fn choose() {
    let name = env::var("KUBEEDGE_FUZZ").unwrap_or_default();
    if name == "list" {
        for target in TARGETS {
            println!("{}", target.name);
        }
        exit(0);
    }
    match TARGETS.iter().find(|target| target.name == name) {
        Some(target) => drop(CHOSEN.set(target)),
        None => {
            eprintln!("KUBEEDGE_FUZZ={name:?} names no target; KUBEEDGE_FUZZ=list shows them");
            exit(2);
        }
    }
}

fuzz_target!(
    init: choose(),
    |data: &[u8]| {
        if let Some(target) = CHOSEN.get() {
            (target.run)(data);
        }
    }
);
