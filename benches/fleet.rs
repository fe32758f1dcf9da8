//! `make bench-fleet`: what a cloudcore with its embedded API costs per node, with a thousand simulated
//! edges that speak the real wire, and how all of them come back. Real programs; no containers, no root.
//! BENCHMARKS.md says how to read it. `ARGS='--nodes 200'` for less.

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
#[path = "world/report.rs"]
mod report;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::cluster::Cloud;
use harness::exposition::scrape;
use harness::process::Process;
use machine::{Cost, costs, cpu_seconds, memory};
use report::row;
use serde_json::Value;

const NODES: usize = 1_000;
/// The window of a figure, and what a change leaves behind has so long to settle.
const WINDOW: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(20);
/// So long a thousand edges may take for anything.
const LONG: Duration = Duration::from_secs(600);
/// Settings of cloudcore for so many nodes.
const LIMIT: &str = "modules.cloudHub.nodeLimit=20000";

fn main() {
    let nodes = std::env::args().skip_while(|arg| arg != "--nodes").nth(1);
    let nodes: usize = nodes.map_or(NODES, |nodes| nodes.parse().expect("--nodes takes a number"));
    let dir = tempfile::tempdir().unwrap();
    let root = prepare(dir.path());
    let factory = format!("identity.factoryCaFile={root}");
    let settings = [factory.as_str(), LIMIT];
    let mut cloud = Cloud::start(dir.path(), &settings);
    println!("| what, {nodes} nodes | here | Go KubeEdge 1.23 (measured elsewhere on a like machine) |");
    println!("|---|---|---|");
    std::thread::sleep(SETTLE);
    let [idle] = costs(&[cloud.process.pid()], WINDOW / 2).try_into().ok().unwrap();
    row("cloudcore with its API, no node", &shown(&idle), "83.4 MiB RSS, 31.2 anonymous, without the API");

    let begun = Instant::now();
    let mut fleet = start(&cloud, nodes, &[]);
    let said = wait(&fleet, |said| said["registered"] == nodes);
    row("all joined and registered, from nothing", &format!("{:.1} s", begun.elapsed().as_secs_f64()), "-");
    timed(&said, "join", "a join, 20 a second from one address", "-");
    timed(&said, "registered", "session open to status in the API", "-");
    std::thread::sleep(SETTLE);
    let [edges, with] = both(&fleet, &cloud, WINDOW);
    row(
        "cloudcore with all of them: keep-alive, leases each 10 s",
        &shown(&with),
        "287.3 MiB RSS, 233.9 anonymous",
    );
    let each = |of: fn(&Cost) -> f64| (of(&with) - of(&idle)) / nodes as f64;
    let (rss, anonymous) = (each(|it| it.rss), each(|it| it.anonymous));
    row(
        "memory per node: RSS / anonymous",
        &format!("{rss:.4} / {anonymous:.4} MiB, {:.2} times less RSS", 0.204 / rss),
        "0.204 / 0.203 MiB",
    );
    row("cloudcore CPU", &format!("{:.2} % of a core", with.cpu), "8.2 %, keep-alive only");
    row("edge-fleet itself", &shown(&edges), "-");
    let said = wait(&fleet, |_| true);
    timed(&said, "lease", "a lease renewal and its answer", "-");

    let pods = pods(&cloud, nodes, &mut fleet);
    row("a pod on every node at once, all Running in the API's answer", &pods, "-");

    back(&mut cloud, &mut fleet, nodes, &settings);

    assert!(fleet.terminate(Duration::from_secs(30)).success());
    std::thread::sleep(SETTLE);
    let [gone] = costs(&[cloud.process.pid()], WINDOW / 2).try_into().ok().unwrap();
    row("cloudcore after they left", &shown(&gone), "does not shrink");
}

/// The factory's root that cloudcore must trust.
fn prepare(dir: &Path) -> String {
    let made = Command::new(env!("CARGO_BIN_EXE_edge-fleet"))
        .arg("--prepare")
        .arg("--certs")
        .arg(dir.join("fleet"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

fn start(cloud: &Cloud, nodes: usize, more: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge-fleet"));
    command
        .args(["--nodes", &nodes.to_string(), "--json", "--rate", "100"])
        .args(["--cloud", &format!("https://127.0.0.1:{}", cloud.join_port)])
        .args(["--hub", &format!("127.0.0.1:{}", cloud.hub_port)])
        .arg("--certs")
        .arg(cloud.dir.join("fleet"))
        .arg("--ca")
        .arg(cloud.dir.join("ca/rootCA.crt"))
        .args(more);
    Process::start("edge-fleet", &cloud.dir, &mut command)
}

/// What it says, once `holds`.
fn wait(fleet: &Process, holds: impl Fn(&Value) -> bool) -> Value {
    harness::process::until("the fleet", LONG, || {
        let log = fleet.log();
        // The last line may not be whole yet.
        let line = log.rsplit('\n').skip(1).find(|line| line.starts_with('{')).ok_or("nothing said")?;
        let said: Value = serde_json::from_str(line).map_err(|err| err.to_string())?;
        if holds(&said) { Ok(said) } else { Err(said.to_string()) }
    })
}

fn both(fleet: &Process, cloud: &Cloud, window: Duration) -> [Cost; 2] {
    costs(&[fleet.pid(), cloud.process.pid()], window).try_into().ok().unwrap()
}

fn shown(cost: &Cost) -> String {
    let Cost { rss, pss, anonymous, threads, .. } = cost;
    format!("{rss:.1} MiB RSS, {pss:.1} PSS, {anonymous:.1} anonymous, {threads} threads")
}

fn timed(said: &Value, kind: &str, what: &str, peer: &str) {
    let of = |field: &str| said["seconds"][kind][field].as_f64().unwrap_or_default();
    let text = format!(
        "p50 {:.1} ms, p99 {:.1}, max {:.0}, n {}",
        of("p50") * 1e3,
        of("p99") * 1e3,
        of("max") * 1e3,
        of("count")
    );
    row(what, &text, peer);
}

/// Starts the fleet anew, with pods.
fn pods(cloud: &Cloud, nodes: usize, fleet: &mut Process) -> String {
    assert!(fleet.terminate(Duration::from_secs(30)).success());
    let kubeconfig = cloud.dir.join("admin.conf");
    *fleet = start(cloud, nodes, &["--pods", "1", "--kubeconfig", kubeconfig.to_str().unwrap()]);
    wait(fleet, |said| said["registered"] == nodes);
    let begun = Instant::now();
    let said = wait(fleet, |said| said["counts"]["podsRunning"].as_u64() >= Some(nodes as u64));
    let took = begun.elapsed().as_secs_f64();
    let p99 = said["seconds"]["delivered"]["p99"].as_f64().unwrap_or_default();
    format!(
        "{took:.1} s ({:.0} a second), cloud to acknowledged p99 {:.0} ms",
        nodes as f64 / took,
        p99 * 1e3
    )
}

/// The cloud is killed and comes back.
fn back(cloud: &mut Cloud, fleet: &mut Process, nodes: usize, settings: &[&str]) {
    cloud.process.kill9();
    std::thread::sleep(Duration::from_secs(20));
    let begun = Instant::now();
    cloud.restart(settings);
    let listening = begun.elapsed().as_secs_f64();
    let monitor = cloud.monitor.clone();
    let sessions = harness::process::until("sessions", LONG, || {
        let scraped = scrape(&monitor);
        let is = scraped.series.iter().find(|((name, _), _)| name == "kubeedge_cloudhub_connected_nodes");
        match is {
            Some((_, is)) if *is >= nodes as f64 => Ok(begun.elapsed().as_secs_f64()),
            is => Err(format!("{is:?}")),
        }
    });
    wait(fleet, |said| said["registered"] == nodes);
    let registered = begun.elapsed().as_secs_f64();
    row(
        "cloudcore killed, away 20 s: its start to all sessions / all registered",
        &format!("{sessions:.1} / {registered:.1} s (ready after {listening:.1} s)"),
        "6-23 s for one edge",
    );
    let used = cpu_seconds(cloud.process.pid());
    let [rss, ..] = memory(cloud.process.pid());
    row("the same: CPU and RSS of cloudcore then", &format!("{used:.1} s, {rss:.1} MiB"), "-");
}
