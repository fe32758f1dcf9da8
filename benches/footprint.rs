//! `make bench-footprint`: what both programs take when nothing happens, and of what it consists. Real programs, a
//! private containerd; needs root. BENCHMARKS.md says how to read it. `KUBEEDGE_BIN_DIR` names a folder with programs to
//! take instead of those that were built.

// What surrounds a measurement may fail it.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    // Other benchmarks and tests use the rest of the shared parts.
    dead_code
)]

#[path = "../tests/it/harness/mod.rs"]
mod harness;
#[path = "world/machine.rs"]
mod machine;
#[path = "world/mappings.rs"]
mod mappings;
#[path = "world/report.rs"]
mod report;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use harness::cluster::{Cloud, Edge};
use harness::containerd::Containerd;
use harness::process::{PATIENCE, Process, program};
use harness::samples::thermometers;
use machine::costs;
use report::{memory, row};

const NODE: &str = "edge-1";
/// A user's heartbeat where the tests have a shorter one.
const EDGE_SETTINGS: &[&str] = &["modules.edgeHub.heartbeat=15"];
const DEVICES: usize = 12;
const SETTLE: Duration = Duration::from_secs(15);
const WINDOW: Duration = Duration::from_secs(60);

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let containerd = Containerd::start();
    let cloud = Cloud::start(&dir.path().join("c"), &[]);
    let mut edge = Edge::join(&cloud, &dir.path().join("e"), NODE, containerd.socket(), EDGE_SETTINGS);
    edge.wait_ready();
    let pids = [edge.process.pid(), cloud.process.pid()];

    println!("| what | edgecore | cloudcore with its API |");
    println!("|---|---|---|");
    let size = |built: &str| {
        let bytes = fs::metadata(program(built)).unwrap().len();
        format!("{:.1} MB", bytes as f64 / 1e6)
    };
    row("executable", &size(env!("CARGO_BIN_EXE_edgecore")), &size(env!("CARGO_BIN_EXE_cloudcore")));
    idle("one node, no pods", &pids);
    parts(&pids);

    let kubectl = cloud.kubectl();
    kubectl.apply(&thermometers(DEVICES));
    let mut sim = Command::new(program(env!("CARGO_BIN_EXE_mapper-sim")));
    sim.arg("--dmi-socket").arg(&edge.dmi_socket);
    let _sim = Process::start("mapper-sim", dir.path(), &mut sim);
    kubectl.wait_for(&format!("devicestatus/thermometer-{DEVICES}"), "{.status.state}", "online", PATIENCE);
    idle(&format!("{DEVICES} devices that report each second"), &pids);
}

fn idle(what: &str, pids: &[u32]) {
    std::thread::sleep(SETTLE);
    let costs = costs(pids, WINDOW);
    row(&format!("{what}: RSS / PSS / private / anonymous"), &memory(&costs[0]), &memory(&costs[1]));
    let cpu = |at: usize| format!("{:.2} % of a core", costs[at].cpu);
    row(&format!("{what}: CPU"), &cpu(0), &cpu(1));
}

fn parts(pids: &[u32]) {
    let parts: Vec<_> = pids.iter().map(|pid| mappings::resident(*pid)).collect();
    let kinds: BTreeSet<&str> = parts.iter().flat_map(|parts| parts.keys().copied()).collect();
    for kind in kinds {
        let one = |at: usize| format!("{:.1} MiB", parts[at].get(kind).copied().unwrap_or_default());
        row(&format!("of RSS: {kind}"), &one(0), &one(1));
    }
}
