//! `make bench-watched`: what it costs to be watched, by Prometheus and by people with the console open,
//! beside nobody watching; and how soon the console has something to show. Real programs, a private
//! containerd; needs root. BENCHMARKS.md says how to read it.

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

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use harness::cluster::{Cloud, Edge};
use harness::containerd::Containerd;
use harness::process::{PATIENCE, Process, http, until};
use harness::samples::thermometers;
use machine::{Cost, costs};
use report::{memory, milliseconds, row};

const NODE: &str = "edge-1";
const DEVICES: usize = 12;
const WINDOW: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(15);
const SCRAPE: Duration = Duration::from_secs(5);
const CONSOLES: usize = 3;
const LOADS: usize = 20;

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let containerd = Containerd::start();
    let cloud = Cloud::start(&dir.path().join("c"), &[]);
    let console = cloud.console.as_str();
    let mut edge = Edge::join(&cloud, &dir.path().join("e"), NODE, containerd.socket(), &[]);
    edge.wait_ready();
    let kubectl = cloud.kubectl();
    kubectl.wait_node(NODE, "True");
    let thermometers = thermometers(DEVICES);
    kubectl.apply(&thermometers);
    let mut sim = Command::new(env!("CARGO_BIN_EXE_mapper-sim"));
    sim.arg("--dmi-socket").arg(&edge.dmi_socket);
    let _sim = Process::start("mapper-sim", dir.path(), &mut sim);
    let last = format!("devicestatus/thermometer-{DEVICES}");
    kubectl.wait_for(&last, "{.status.state}", "online", PATIENCE);
    let token = token(&cloud);

    println!("| what | edgecore | cloudcore with its API |");
    println!("|---|---|---|");
    let pids = [edge.process.pid(), cloud.process.pid()];
    std::thread::sleep(SETTLE);
    let alone = costs(&pids, WINDOW);
    show(&format!("nobody watches, {DEVICES} devices, one node"), &alone);

    let stop = Arc::new(AtomicBool::new(false));
    let monitors = [
        (cloud.monitor.clone(), "/metrics"),
        (cloud.monitor.clone(), "/federate/edges"),
        (edge.monitor.clone(), "/metrics"),
    ];
    let scraped = Arc::new(AtomicU64::new(0));
    let scraper = scrape(monitors.to_vec(), &scraped, &stop);
    std::thread::sleep(SETTLE);
    let with_prometheus = costs(&pids, WINDOW);
    show("scraped every 5 s: both /metrics and /federate/edges", &with_prometheus);

    let events = Arc::new(AtomicU64::new(0));
    let consoles: Vec<_> = (0..CONSOLES).map(|_| open(console, &token, &events, &stop)).collect();
    std::thread::sleep(SETTLE);
    let watched = costs(&pids, WINDOW);
    show(&format!("and {CONSOLES} consoles open"), &watched);
    let more = |at: usize| {
        let (before, now) = (&alone[at], &watched[at]);
        format!(
            "{:+.2} % of a core, {:+.1} MiB RSS, {:+.1} MiB anonymous",
            now.cpu - before.cpu,
            now.rss - before.rss,
            now.anonymous - before.anonymous
        )
    };
    row("being watched costs", &more(0), &more(1));
    stop.store(true, Ordering::Relaxed);
    scraper.join().unwrap();
    for console in consoles {
        console.join().unwrap();
    }
    assert!(scraped.load(Ordering::Relaxed) > 0 && events.load(Ordering::Relaxed) > 0, "nobody watched");
    row(
        "bytes of the scrapes, each",
        &size(&edge.monitor, "/metrics"),
        &format!(
            "{}, {} of /federate/edges",
            size(&cloud.monitor, "/metrics"),
            size(&cloud.monitor, "/federate/edges")
        ),
    );

    println!("\n| the console's first load | here |");
    println!("|---|---|");
    let loads: Vec<(usize, f64)> = (0..LOADS).map(|_| first_load(console, &token)).collect();
    println!("| bytes of page, scripts and styles over the wire | {} |", loads[0].0);
    let times: Vec<f64> = loads.iter().map(|(_, secs)| *secs).collect();
    println!(
        "| page and everything in it fetched, until the first object is there | {} |",
        milliseconds(&times)
    );
}

fn show(what: &str, costs: &[Cost]) {
    let one = |cost: &Cost| format!("{:.2} % of a core, {}", cost.cpu, memory(cost));
    row(what, &one(&costs[0]), &one(&costs[1]));
}

/// As `keadm console` gives one.
fn token(cloud: &Cloud) -> String {
    let mut keadm = Command::new(env!("CARGO_BIN_EXE_keadm"));
    keadm.args(["console", "--quiet", "--config"]).arg(cloud.dir.join("cloudcore.yaml"));
    let out = keadm.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

fn size(address: &str, path: &str) -> String {
    let (code, text) = http("GET", address, path, &[]).unwrap();
    assert_eq!(code, 200, "{address}{path}");
    format!("{:.1} kB", text.len() as f64 / 1e3)
}

fn scrape(
    pages: Vec<(String, &'static str)>,
    count: &Arc<AtomicU64>,
    stop: &Arc<AtomicBool>,
) -> JoinHandle<()> {
    let (count, stop) = (Arc::clone(count), Arc::clone(stop));
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            for (address, path) in &pages {
                assert_eq!(http("GET", address, path, &[]).unwrap().0, 200, "{address}{path}");
                count.fetch_add(1, Ordering::Relaxed);
            }
            while begun.elapsed() < SCRAPE && !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    })
}

/// One request on a connection of its own, as a browser that may unpack gzip; what follows the head.
fn get(console: &str, path: &str, token: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(console).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {console}\r\nAccept-Encoding: gzip\r\nCookie: kubeedge-console={token}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = BufReader::new(stream);
    let mut line = String::new();
    answer.read_line(&mut line).unwrap();
    assert!(line.contains(" 200 "), "{path}: {line}");
    while line != "\r\n" {
        line.clear();
        answer.read_line(&mut line).unwrap();
    }
    answer
}

/// A console that reads until it is told to stop; the stream pings every few seconds.
fn open(console: &str, token: &str, events: &Arc<AtomicU64>, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let (console, token) = (console.to_owned(), token.to_owned());
    let (events, stop) = (Arc::clone(events), Arc::clone(stop));
    std::thread::spawn(move || {
        let mut stream = get(&console, "/console/stream", &token);
        let mut line = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            line.clear();
            assert!(stream.read_until(b'\n', &mut line).unwrap() > 0, "the stream ended");
            events.fetch_add(u64::from(line.starts_with(b"data:")), Ordering::Relaxed);
        }
    })
}

/// Everything a browser fetches, then the stream until an object is there: bytes and seconds.
fn first_load(console: &str, token: &str) -> (usize, f64) {
    let begun = Instant::now();
    let mut bytes = 0;
    for file in assets() {
        let mut body = Vec::new();
        get(console, &file, token).read_to_end(&mut body).unwrap();
        bytes += body.len();
    }
    let mut stream = get(console, "/console/stream", token);
    let mut line = String::new();
    until("an object on the stream", PATIENCE, || {
        line.clear();
        stream.read_line(&mut line).unwrap();
        if line.contains("\"type\":\"put\"") { Ok(()) } else { Err(line.clone()) }
    });
    (bytes, begun.elapsed().as_secs_f64())
}

/// The page and every file beside it.
fn assets() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/console/assets");
    let names =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .map(|name| if name == "index.html" { "/console/".to_owned() } else { format!("/console/{name}") })
        .collect()
}
