//! `make bench-devices`: what devices cost and how fast their values travel, as a Markdown table.
//! Real programs, a private containerd; needs root. BENCHMARKS.md says how to read it.

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

#[path = "devices/app.rs"]
mod app;
#[path = "world/connection.rs"]
mod connection;
#[path = "../tests/it/harness/mod.rs"]
mod harness;
#[path = "world/machine.rs"]
mod machine;
#[path = "devices/objects.rs"]
mod objects;
#[path = "world/packet.rs"]
mod packet;
#[path = "world/pods.rs"]
mod pods;
#[path = "world/report.rs"]
mod report;
#[path = "world/kubernetes.rs"]
mod world;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use app::App;
use harness::cluster::{Cloud, Edge};
use harness::containerd::Containerd;
use harness::process::{PATIENCE, free_port};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::{Client, ResourceExt};
use machine::{Cost, costs, quantile};
use report::{memory, milliseconds, row, seconds};
use world::Watch;

const NODE: &str = "edge-1";
/// Reports one by one, in turns with bare writes of about the size of one.
const REPORTS: usize = 200;
const TURN: usize = 20;
const WRITE_BYTES: usize = 256;
const FLOOD: usize = 3_000;
const ROUNDS: usize = 3;
/// Reports seen in the API.
const SEEN: usize = 50;
const SEEN_AFTER_FLOOD: usize = 5;
const FLOOD_BEFORE: usize = 1_000;
/// Beside a pod's start.
const PODS: usize = 3;
const FLOOD_BESIDE: usize = 1_500;
/// Many devices, one report a second each.
const MANY: usize = 1_000;
const MANY_SECS: usize = 60;
const IDLE: Duration = Duration::from_secs(15);

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}

/// What is measured.
struct World {
    cloud: Cloud,
    edge: Edge,
    client: Client,
    app: App,
}

async fn run() {
    let dir = tempfile::tempdir().unwrap();
    let containerd = Containerd::start();
    let cloud = Cloud::start(&dir.path().join("c"), &[]);
    let client = world::client(&cloud).await;
    objects::create_model(&client).await;
    let mqtt = format!("127.0.0.1:{}", free_port());
    let server = format!("modules.eventBus.mqttServerInternal=tcp://{mqtt}");
    let settings = [world::EDGE_SETTINGS, &["modules.eventBus.mqttMode=0", &server]].concat();
    let place = dir.path().join("e");
    let (edge, _) = world::first_join(&cloud, &client, &place, NODE, containerd.socket(), &settings).await;
    let app = App::open(&mqtt, NODE).await;
    let mut world = World { cloud, edge, client, app };

    println!("| what | here | Go KubeEdge 1.23 (measured elsewhere on a like machine) |");
    println!("|---|---|---|");
    let devices: Vec<String> = (0..10).map(|n| format!("sensor-{n}")).collect();
    objects::create_devices(&world.client, NODE, &devices).await;
    world.app.wait_devices(devices.len()).await;
    let floor = one_by_one(&mut world.app, &devices[0], dir.path()).await;
    floods(&mut world.app, &devices, floor).await;
    seen_in_the_api(&mut world, &devices[0]).await;
    beside_pods(&mut world, &devices).await;
    many(&mut world, devices.len()).await;
}

/// Reports and bare synced writes on the same disk in turns. The median of the latter.
async fn one_by_one(app: &mut App, device: &str, dir: &Path) -> f64 {
    let mut file = File::create(dir.join("floor")).unwrap();
    let mut write = || {
        let begun = Instant::now();
        file.write_all(&[b'w'; WRITE_BYTES]).unwrap();
        file.sync_data().unwrap();
        begun.elapsed().as_secs_f64()
    };
    // The first of each pays for what only the first pays for.
    write();
    app.round_trip(device).await;
    let (mut floor, mut times) = (Vec::new(), Vec::new());
    while times.len() < REPORTS {
        for _ in 0..TURN {
            floor.push(write());
        }
        for _ in 0..TURN {
            times.push(app.round_trip(device).await);
        }
    }
    row(
        "twin/update to twin/update/result over MQTT, on disk",
        &milliseconds(&times),
        "p50 16-19 ms, p90 32-36, p99 42-50, n 2x100",
    );
    row(&format!("bare write of {WRITE_BYTES} bytes and fdatasync"), &milliseconds(&floor), "-");
    let ratio = |q| quantile(&times, q) / quantile(&floor, q);
    row("ratio to the bare write", &format!("{:.2}, p99 {:.2}", ratio(0.5), ratio(0.99)), "-");
    quantile(&floor, 0.5)
}

/// As many as go, until all have their results.
async fn floods(app: &mut App, devices: &[String], floor: f64) {
    for (count, peer) in [(1, "66 (47-80)"), (devices.len(), "-")] {
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            app.flood(&devices[..count], FLOOD).await;
            app.settle().await;
            rates.push(FLOOD as f64 / begun.elapsed().as_secs_f64());
        }
        let rate = quantile(&rates, 0.5);
        let ours = format!(
            "{rate:.0} ({:.0}-{:.0}), n {ROUNDS}; {:.1} for each bare write in that time",
            quantile(&rates, 0.0),
            quantile(&rates, 1.0),
            rate * floor
        );
        row(&format!("twin updates a second, {FLOOD} over {count} device(s), all results"), &ours, peer);
    }
}

/// A report: seconds until a watch of the API shows its value. What else MQTT brings is read meanwhile.
async fn report_to_api(app: &mut App, client: &Client, device: &str) -> f64 {
    let mut watch = Watch::open(&objects::statuses(client)).await;
    let begun = Instant::now();
    let value = app.report(device).to_string();
    tokio::select! {
        () = watch.until(|status, _| {
            status.name_any() == device && objects::reported(status) == Some(&value)
        }) => {}
        _ = app.drain() => {}
    }
    begun.elapsed().as_secs_f64()
}

async fn seen_in_the_api(world: &mut World, device: &str) {
    let World { app, client, .. } = world;
    let what = "MQTT update to DeviceStatus in an API watch";
    let mut times = Vec::new();
    for _ in 0..SEEN {
        times.push(report_to_api(app, client, device).await);
        app.settle().await;
    }
    row(&format!("{what}, one by one"), &milliseconds(&times), "p50 26-29 ms, p90 32-48, p99 34-61, n 2x20");
    times.clear();
    for _ in 0..SEEN_AFTER_FLOOD {
        app.flood(std::slice::from_ref(&device.to_owned()), FLOOD_BEFORE).await;
        times.push(report_to_api(app, client, device).await);
        app.settle().await;
    }
    row(&format!("{what}, right behind {FLOOD_BEFORE} others"), &milliseconds(&times), "8.7-14.5 s, n 5");
}

/// Pods that start while reports are worked off, beside pods that start in peace; in turns.
async fn beside_pods(world: &mut World, devices: &[String]) {
    let World { app, client, .. } = world;
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    pods::create(&pods, "warm").await;
    pods::delete(&pods, "warm").await;
    let (mut quiet, mut drained, mut endless) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..PODS {
        quiet.push(pods::create(&pods, &format!("quiet-{n}")).await);
        let name = format!("drained-{n}");
        let (took, ()) = tokio::join!(pods::create(&pods, &name), async {
            app.flood(devices, FLOOD_BESIDE).await;
            app.settle().await;
        });
        drained.push(took);
        let name = format!("endless-{n}");
        let flood = async {
            loop {
                app.flood(devices, FLOOD_BESIDE).await;
            }
        };
        tokio::select! {
            took = pods::create(&pods, &name) => endless.push(took),
            () = flood => {}
        }
        app.settle().await;
        for kind in ["quiet", "drained", "endless"] {
            pods::delete(&pods, &format!("{kind}-{n}")).await;
        }
    }
    let what = "pod create to Running";
    row(&format!("{what}, nothing beside"), &seconds(&quiet), "0.98 s");
    let peer = "15.6, 29.7, 1.4 s, n 3";
    row(&format!("{what}, while {FLOOD_BESIDE} reports are worked off"), &seconds(&drained), peer);
    row(&format!("{what}, reports without end beside it"), &seconds(&endless), "-");
}

async fn many(world: &mut World, before: usize) {
    let devices: Vec<String> = (0..MANY).map(|n| format!("many-{n}")).collect();
    let begun = Instant::now();
    objects::create_devices(&world.client, NODE, &devices).await;
    let created = begun.elapsed().as_secs_f64();
    world.app.wait_devices(before + MANY).await;
    let known = begun.elapsed().as_secs_f64();
    row(
        &format!("{MANY} devices: all created; all known at the edge"),
        &format!("{created:.2} s; {known:.2} s"),
        "-",
    );
    let pids = [world.edge.process.pid(), world.cloud.process.pid()];
    let idle = tokio::task::spawn_blocking(move || costs(&pids, IDLE));
    let idle = drained(&mut world.app, idle).await;
    cost_rows(&format!("{MANY} devices that report nothing"), &idle);

    let window = Duration::from_secs(MANY_SECS as u64);
    let measured = tokio::task::spawn_blocking(move || costs(&pids, window));
    let (last, late) = report_each_second(&mut world.app, &devices).await;
    let ended = Instant::now();
    world.app.settle().await;
    let answered = ended.elapsed().as_secs_f64();
    let missing = wait_last_values(world, &last).await;
    let shown = ended.elapsed().as_secs_f64();
    let busy = drained(&mut world.app, measured).await;
    let what = format!("{MANY} devices, a report a second each for {MANY_SECS} s");
    cost_rows(&what, &busy);
    let lag = format!("{answered:.3} s; {shown:.3} s; at most {late:.3} s late in between");
    row("after the last report: all results; all last values in the API", &lag, "-");
    row("last values that never came", &format!("{missing} of {MANY}"), "-");
}

fn cost_rows(what: &str, costs: &[Cost]) {
    for (program, cost) in ["edgecore", "cloudcore with its API"].iter().zip(costs) {
        let what = format!("{program}, {what}: RSS / PSS / private / anonymous");
        row(&what, &memory(cost), "-");
        row(&format!("{program}, CPU"), &format!("{:.1} % of a core", cost.cpu), "-");
    }
}

/// The result of a measurement beside; MQTT is read meanwhile.
async fn drained(app: &mut App, measured: tokio::task::JoinHandle<Vec<Cost>>) -> Vec<Cost> {
    tokio::select! {
        costs = measured => costs.unwrap(),
        _ = app.drain() => Vec::new(),
    }
}

/// One report of each device every second, spread evenly. The last value of each, and how many
/// seconds the latest report was sent after its time.
async fn report_each_second(app: &mut App, devices: &[String]) -> (BTreeMap<String, String>, f64) {
    let gap = Duration::from_secs(1) / devices.len() as u32;
    let begun = Instant::now();
    let (mut last, mut late) = (BTreeMap::new(), 0.0f64);
    for n in 0..devices.len() * MANY_SECS {
        let due = begun + gap * n as u32;
        while Instant::now() < due || !app.has_room() {
            tokio::select! {
                // First, or what was just put in line would not be sent.
                biased;
                () = app.pump() => {}
                () = tokio::time::sleep_until(due.into()), if app.has_room() => {}
            }
        }
        late = late.max(due.elapsed().as_secs_f64());
        let device = &devices[n % devices.len()];
        let value = app.report(device);
        last.insert(device.clone(), value.to_string());
    }
    (last, late)
}

/// Looks until every DeviceStatus shows the last value; how many do not when patience ends.
async fn wait_last_values(world: &World, last: &BTreeMap<String, String>) -> usize {
    let statuses = objects::statuses(&world.client);
    let begun = Instant::now();
    loop {
        let shown: BTreeMap<String, String> = statuses
            .list(&Default::default())
            .await
            .unwrap()
            .iter()
            .filter_map(|status| Some((status.name_any(), objects::reported(status)?.to_owned())))
            .collect();
        let missing = last.iter().filter(|(device, value)| shown.get(*device) != Some(value)).count();
        if missing == 0 || begun.elapsed() > PATIENCE {
            return missing;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
