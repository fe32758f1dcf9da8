//! `make soak`: an hour of churn, and what the memory of both programs does meanwhile. Real programs, a private
//! containerd; needs root. BENCHMARKS.md says how to read it.
//!
//! `KUBEEDGE_BIN_DIR` names a folder with programs to take instead of those that were built.

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

#[path = "soak/churn.rs"]
mod churn;
#[path = "world/connection.rs"]
mod connection;
#[path = "../tests/it/harness/mod.rs"]
mod harness;
#[path = "world/machine.rs"]
mod machine;
#[path = "soak/mqtt.rs"]
mod mqtt;
#[path = "soak/outside.rs"]
mod outside;
#[path = "world/packet.rs"]
mod packet;
#[path = "soak/picture.rs"]
mod picture;
#[path = "world/pods.rs"]
mod pods;
#[path = "soak/samples.rs"]
mod samples;
#[path = "soak/slope.rs"]
mod slope;
#[path = "soak/summary.rs"]
mod summary;
#[path = "soak/tally.rs"]
mod tally;
#[path = "world/kubernetes.rs"]
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use churn::{Churn, SLOTS};
use harness::cluster::{Cloud, Edge};
use harness::containerd::Containerd;
use harness::process::{Process, program};
use harness::proxy::Proxy;
use harness::samples::thermometers;
use outside::{Until, console_token};
use samples::{Sample, Subject};
use summary::{Aims, Report};
use tally::Tally;

const NODE: &str = "edge-1";
const NAMES: [&str; 2] = ["edgecore", "cloudcore"];
const THERMOMETERS: usize = 6;
/// Certificates of a minute, renewed at half of it.
const CLOUD_SETTINGS: &[&str] = &["identity.nodeSvidTtlSecs=60", "identity.nodeCaTtlSecs=120"];
const REPORTERS: usize = 2;

struct Args {
    minutes: u64,
    out: PathBuf,
    picture: Option<PathBuf>,
    /// Samples of a run that is over.
    again: Option<PathBuf>,
}

fn args() -> Result<Args, String> {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../soak");
    let mut args = Args { minutes: 90, out, picture: None, again: None };
    // Cargo adds --bench.
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} wants a value"))?;
        match word.as_str() {
            "--minutes" => {
                args.minutes = value.parse().map_err(|_| format!("--minutes {value}: a number"))?
            }
            "--out" => args.out = value.into(),
            "--picture" => args.picture = Some(value.into()),
            "--again" => args.again = Some(value.into()),
            _ => {
                return Err(format!(
                    "{word}: it is --minutes N, --out DIR, --picture FILE, --again SAMPLES.CSV"
                ));
            }
        }
    }
    Ok(args)
}

fn main() -> ExitCode {
    let args = match args() {
        Ok(args) => args,
        Err(why) => {
            eprintln!("soak: {why}");
            return ExitCode::FAILURE;
        }
    };
    fs::create_dir_all(&args.out).unwrap();
    if let Some(file) = &args.again {
        return report(&args, &samples::read(file, &NAMES), &Tally::new());
    }
    let dir = tempfile::tempdir().unwrap();
    let containerd = Containerd::start();
    let mut cloud = Cloud::start(&dir.path().join("c"), CLOUD_SETTINGS);
    let (near, far) = (Proxy::to(cloud.hub_port), Proxy::to(cloud.hub_port));
    let by = |proxy: &Proxy| format!("modules.edgeHub.websocket.server=127.0.0.1:{}", proxy.port);
    let mut edge = Edge::join(&cloud, &dir.path().join("e"), NODE, containerd.socket(), &[&by(&near)]);
    let second = by(&far);
    let nothing = dir.path().join("none.sock");
    let mut other =
        Edge::start(&cloud, &dir.path().join("o"), "edge-2", &nothing, &cloud.token(), &[&second]);
    cloud.kubectl().apply(&thermometers(THERMOMETERS));
    let mut sim = Command::new(program(env!("CARGO_BIN_EXE_mapper-sim")));
    sim.arg("--dmi-socket").arg(&edge.dmi_socket);
    let _sim = Process::start("mapper-sim", dir.path(), &mut sim);
    println!(
        "soak: {} minutes, edgecore {}, cloudcore {}, samples in {}",
        args.minutes,
        edge.process.pid(),
        cloud.process.pid(),
        args.out.display()
    );

    let tally = Arc::new(Tally::new());
    let subjects = [
        Subject {
            name: NAMES[0],
            pid: edge.process.pid(),
            monitor: edge.monitor.clone(),
            store: edge.dir.join("edge"),
        },
        Subject {
            name: NAMES[1],
            pid: cloud.process.pid(),
            monitor: cloud.monitor.clone(),
            store: cloud.dir.join("cloud"),
        },
    ];
    let over = AtomicBool::new(false);
    let length = Duration::from_secs(args.minutes * 60);
    let rows = std::thread::scope(|scope| {
        let until = || Until { over: &over, tally: Arc::clone(&tally) };
        let (cloud, edge) = (&cloud, &edge);
        let (near, far, second, other) = (&near, &far, second.as_str(), &mut other);
        let pages = [
            (cloud.monitor.clone(), "/metrics"),
            (cloud.monitor.clone(), "/federate/edges"),
            (edge.monitor.clone(), "/metrics"),
        ];
        scope.spawn(move || until_scraped(until(), &pages));
        let one = until();
        scope.spawn(move || one.consoles(&cloud.console, || console_token(cloud)));
        let one = until();
        let file = edge.dir.join("edge/console.token");
        scope.spawn(move || {
            one.consoles(&edge.console, || fs::read_to_string(&file).unwrap_or_default().trim().to_owned())
        });
        let one = until();
        scope.spawn(move || one.commands(&cloud.kubectl()));
        let one = until();
        scope.spawn(move || one.guests(cloud));
        let one = until();
        scope.spawn(move || one.cut(near));
        let one = until();
        scope.spawn(move || one.cut(far));
        let one = until();
        scope.spawn(move || one.kill_the_other(other, &[second]));
        let (one, over) = (Arc::clone(&tally), &over);
        scope.spawn(move || by_api(cloud, edge, &one, over));
        let rows = samples::watch(&subjects, length, &args.out.join("samples.csv"), |rows| {
            write_report(&args, &Report::new(&NAMES, rows, args.minutes as f64), &tally);
        });
        over.store(true, Ordering::Relaxed);
        rows
    });
    // Whatever was cut is whole again; both must be well.
    near.restore();
    cloud.wait_ready();
    edge.wait_ready();
    cloud.kubectl().wait_node(NODE, "True");
    report(&args, &rows, &tally)
}

fn until_scraped(until: Until<'_>, pages: &[(String, &'static str)]) {
    until.scrape(pages);
}

/// All churn that goes through asynchronous clients, on this thread.
fn by_api(cloud: &Cloud, edge: &Edge, tally: &Arc<Tally>, over: &AtomicBool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let client = world::client(cloud).await;
        let churn = Rc::new(Churn { client, tally: Arc::clone(tally), node: NODE });
        churn.prepare().await;
        for slot in 0..SLOTS {
            tokio::task::spawn_local(Rc::clone(&churn).pods(slot));
        }
        tokio::task::spawn_local(Rc::clone(&churn).configs());
        tokio::task::spawn_local(Rc::clone(&churn).device_objects());
        let kubeconfig = kube::config::Kubeconfig::read_from(cloud.dir.join("admin.conf")).unwrap();
        tokio::task::spawn_local(Rc::clone(&churn).api_clients(kubeconfig));
        let broker = format!("127.0.0.1:{}", edge.broker.0);
        for number in 0..REPORTERS {
            tokio::task::spawn_local(mqtt::reporters(broker.clone(), number, Arc::clone(tally)));
        }
        tokio::task::spawn_local(mqtt::visitors(broker, Arc::clone(tally)));
        while !over.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
}

/// Table and picture into the folder; the table.
fn write_report(args: &Args, report: &Report<'_>, tally: &Tally) -> String {
    let text = format!("{}\n{}", report.table(), summary::churn(&tally.rows()));
    fs::write(args.out.join("soak.md"), &text).unwrap();
    fs::write(args.out.join("soak.svg"), report.picture()).unwrap();
    text
}

fn report(args: &Args, rows: &[Vec<Sample>], tally: &Tally) -> ExitCode {
    let report = Report::new(&NAMES, rows, args.minutes as f64);
    println!("\n{}", write_report(args, &report, tally));
    if let Some(file) = &args.picture {
        fs::write(file, report.picture()).unwrap_or_else(|err| panic!("{}: {err}", file.display()));
    }
    match report.beyond(&Aims::default()) {
        None => ExitCode::SUCCESS,
        Some(why) => {
            eprintln!("soak: {why}");
            ExitCode::FAILURE
        }
    }
}
