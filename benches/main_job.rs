//! `make bench`: what the main job costs, as a Markdown table. Real programs, a private containerd;
//! needs root. Nothing is written but the table. BENCHMARKS.md says how to read it.

// What surrounds a measurement may fail it.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    // Tests use the rest of the harness.
    dead_code
)]

#[path = "main_job/bare.rs"]
mod bare;
#[path = "../tests/it/harness/mod.rs"]
mod harness;
#[path = "world/machine.rs"]
mod machine;
#[path = "world/pods.rs"]
mod pods;
#[path = "world/report.rs"]
mod report;
#[path = "world/kubernetes.rs"]
mod world;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use harness::cluster::{Cloud, Edge};
use harness::containerd::Containerd;
use harness::process::{PATIENCE, program};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, ResourceExt};
use machine::{costs, megabytes, quantile};
use pods::{create, delete, is_running, sleeper};
use report::{memory, row, seconds};
use serde_json::json;
use world::{EDGE_SETTINGS, Watch};

const NODE: &str = "edge-1";
/// Pods one by one, pods at once, starts of each program.
const PODS: usize = 20;
const BURST: usize = 10;
const STARTS: usize = 5;
/// Time for what a start leaves behind to settle, and the window of an idle figure.
const SETTLE: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_secs(30);
const OUTAGE: Duration = Duration::from_secs(20);

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    println!("| what | here | Go KubeEdge 1.23 (measured elsewhere on a like machine) |");
    println!("|---|---|---|");
    row(
        "binary edgecore",
        &format!("{:.1} MB", megabytes(&program(env!("CARGO_BIN_EXE_edgecore")))),
        "~100 MB",
    );
    row(
        "binary cloudcore",
        &format!("{:.1} MB", megabytes(&program(env!("CARGO_BIN_EXE_cloudcore")))),
        "71.0 MB",
    );
    row("binary keadm", &format!("{:.1} MB", megabytes(&program(env!("CARGO_BIN_EXE_keadm")))), "-");

    let dir = tempfile::tempdir().unwrap();
    let containerd = Containerd::start();
    let mut cloud = Cloud::start(&dir.path().join("c"), &[]);
    cloud_starts(&mut cloud);
    let client = world::client(&cloud).await;
    let mut edge = edge_starts(&cloud, &client, dir.path(), &containerd).await;

    idle(
        &cloud,
        &edge,
        "0 pods",
        "661 MiB RSS: cloudcore 83, API 361, etcd 93, kcm 125",
        "114.8 / 113.5 / - / 19.8 MiB",
        "2.06 %",
    );
    one_by_one(&client, &containerd).await;
    burst(&client).await;
    idle(&cloud, &edge, "10 pods", "-", "123.1 / 121.7 / - / 28.1 MiB (11 pods)", "1.55 %");
    offline(&mut cloud, &client, &mut edge).await;
}

fn cloud_starts(cloud: &mut Cloud) {
    let (listening, ready): (Vec<f64>, Vec<f64>) = (0..STARTS).map(|_| world::restart_cloud(cloud)).unzip();
    row("cloudcore start to listening", &seconds(&listening), "5.4 s (4.8-7.0), n 4");
    row("cloudcore start to ready, API included", &seconds(&ready), "-");
}

async fn edge_starts(cloud: &Cloud, client: &Client, dir: &Path, containerd: &Containerd) -> Edge {
    let mut joins = Vec::new();
    let nodes = Api::<Node>::all(client.clone());
    for n in 0..STARTS {
        let name = format!("join-{n}");
        let (edge, took) =
            world::first_join(cloud, client, &dir.join(&name), &name, containerd.socket(), EDGE_SETTINGS)
                .await;
        joins.push(took);
        drop(edge);
        nodes.delete(&name, &DeleteParams::default()).await.unwrap();
    }
    row("edgecore start to node Ready, first join", &seconds(&joins), "1.9 s, n 1");
    let (mut edge, _) =
        world::first_join(cloud, client, &dir.join("e"), NODE, containerd.socket(), EDGE_SETTINGS).await;
    let mut restarts = Vec::new();
    for _ in 0..STARTS {
        restarts.push(world::warm_restart(client, &mut edge, NODE).await);
    }
    row("edgecore start to heartbeat, warm restart", &seconds(&restarts), "1.03 s, n 4");
    edge
}

fn idle(cloud: &Cloud, edge: &Edge, pods: &str, cloud_peer: &str, edge_peer: &str, edge_cpu: &str) {
    std::thread::sleep(SETTLE);
    let [edge, cloud] = costs(&[edge.process.pid(), cloud.process.pid()], WINDOW).try_into().ok().unwrap();
    let what = "RSS / PSS / private / anonymous";
    row(&format!("edgecore idle, {pods}: {what}"), &memory(&edge), edge_peer);
    row(&format!("cloudcore with its API idle, 1 node, {pods}: {what}"), &memory(&cloud), cloud_peer);
    row(&format!("edgecore idle CPU, {pods}"), &format!("{:.2} % of a core", edge.cpu), edge_cpu);
    row(&format!("cloudcore idle CPU, {pods}"), &format!("{:.2} % of a core", cloud.cpu), "-");
}

async fn one_by_one(client: &Client, containerd: &Containerd) {
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    let bare = bare::Bare::new(containerd).await;
    // The first of each pays for what only the first pays for.
    bare.pod("bare-warm").await;
    create(&pods, "warm").await;
    delete(&pods, "warm").await;
    let (mut floor, mut floor_end, mut starts, mut ends) = (vec![], vec![], vec![], vec![]);
    for n in 0..PODS {
        let (start, end) = bare.pod(&format!("bare-{n}")).await;
        floor.push(start);
        floor_end.push(end);
        let name = format!("one-{n}");
        starts.push(create(&pods, &name).await);
        ends.push(delete(&pods, &name).await);
    }
    let ratio = |ours: &[f64], floor: &[f64]| {
        format!("{:.2}, p90 {:.2}", quantile(ours, 0.5) / quantile(floor, 0.5), {
            quantile(ours, 0.9) / quantile(floor, 0.9)
        })
    };
    row(
        "pod create to Running in a watch, one by one",
        &seconds(&starts),
        "0.981 s, p90 1.092, p99 1.269, n 20",
    );
    row("bare CRI calls for the same pod", &seconds(&floor), "-");
    row("ratio to the bare calls", &ratio(&starts, &floor), "-");
    row("pod delete to gone", &seconds(&ends), "1.008 s, p90 1.019, p99 1.027, n 20");
    row("bare CRI calls that end the same pod", &seconds(&floor_end), "-");
    row("ratio to the bare calls", &ratio(&ends, &floor_end), "-");
}

/// Leaves its pods running.
async fn burst(client: &Client) {
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    let mut watch = Watch::open(&pods).await;
    let begun = Instant::now();
    for n in 0..BURST {
        pods.create(&PostParams::default(), &sleeper(&format!("burst-{n}"))).await.unwrap();
    }
    let mut running = std::collections::BTreeMap::new();
    watch
        .until(|pod, _| {
            if is_running(pod) {
                running.entry(pod.name_any()).or_insert_with(|| begun.elapsed().as_secs_f64());
            }
            running.len() == BURST
        })
        .await;
    let times: Vec<f64> = running.into_values().collect();
    let ours = format!("p50 {:.2} s, all {:.2} s", quantile(&times, 0.5), quantile(&times, 1.0));
    row("10 pods at once, all Running", &ours, "p50 4.49 s, all 5.2 s");
}

fn settings(value: &str) -> ConfigMap {
    let map = json!({"metadata": {"name": "settings"}, "data": {"value": value}});
    serde_json::from_value(map).unwrap()
}

/// The cloud goes away for a while, and a configmap of a running pod changes before the edge is back.
async fn offline(cloud: &mut Cloud, client: &Client, edge: &mut Edge) {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "default");
    maps.create(&PostParams::default(), &settings("before")).await.unwrap();
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    let mut pod = sleeper("reader");
    let volume = json!([{"name": "settings", "configMap": {"name": "settings"}}]);
    let mount = json!([{"name": "settings", "mountPath": "/settings"}]);
    let spec = pod.spec.as_mut().unwrap();
    spec.volumes = serde_json::from_value(volume).unwrap();
    spec.containers[0].volume_mounts = serde_json::from_value(mount).unwrap();
    let mut watch = Watch::open(&pods).await;
    let uid = pods.create(&PostParams::default(), &pod).await.unwrap().uid().unwrap();
    watch.until(|pod, _| pod.name_any() == "reader" && is_running(pod)).await;
    let volume = format!("kubelet/pods/{uid}/volumes/kubernetes.io~configmap/settings/value");
    let file: PathBuf = edge.dir.join(volume);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "before");

    cloud.process.kill9();
    std::thread::sleep(OUTAGE);
    // A cloud that the edge cannot find takes the change.
    let elsewhere = format!("modules.cloudHub.websocket.port={}", harness::process::free_port());
    cloud.restart(&[&elsewhere]);
    maps.replace("settings", &PostParams::default(), &settings("after")).await.unwrap();
    cloud.process.kill9();

    let (begun, since) = (Instant::now(), jiff::Timestamp::now());
    let seen = world::watch_start(begun, cloud.hub_port, &cloud.monitor);
    let changed = std::thread::spawn(move || {
        while std::fs::read_to_string(&file).unwrap_or_default() != "after" {
            assert!(begun.elapsed() < PATIENCE, "the change reached the edge");
            std::thread::sleep(Duration::from_millis(2));
        }
        begun.elapsed().as_secs_f64()
    });
    cloud.restart(&[]);
    world::heartbeat_after(client, NODE, since).await;
    let heartbeat = begun.elapsed().as_secs_f64();
    let (listening, _) = seen.join().unwrap();
    let changed = changed.join().unwrap();
    row("cloud back after an outage: listening to node heartbeat", &after(listening, heartbeat), "16.2 s");
    row(
        "listening to a configmap changed meanwhile, in the pod",
        &after(listening, changed),
        "5.4 s (edge DB)",
    );
}

fn after(from: f64, to: f64) -> String {
    format!("{:.2} s", to - from)
}
