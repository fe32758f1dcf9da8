//! AT02: a link that carries far less than there is to say.

use std::time::Instant;

use super::harness::cluster::{Cloud, Edge};
use super::harness::containerd::Containerd;
use super::harness::link::{Link, Weather};
use super::harness::process::PATIENCE;
use super::identity_edges::{metric, wait_connected};
use super::main_job::World;
use super::scenes::{bound, identity, wait_agreement};
use super::scenes_clock::ReadyWatch;

/// 200 kbit/s.
const SQUEEZED: u64 = 25_000;
/// As many ConfigMaps, of 130 kB each: a megabyte, on its way for forty seconds.
const MAPS: u64 = 8;
const MAP_BYTES: u64 = 130_000;
/// Seconds of silence until a node is Unknown here. Two renewals of the lease fit in when each waits ten seconds in
/// vain for its answer; leases that starved for the whole transfer would not pass.
const GRACE: u64 = 25;
const LEASE: &str = "modules.edged.tailoredKubeletConfig.nodeLeaseDurationSeconds=8";

#[test]
fn a_squeezed_link_makes_no_node_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Containerd::start();
    let grace = format!("modules.nodeMonitor.gracePeriodSecs={GRACE}");
    let cloud = Cloud::start(&dir.path().join("c"), &[&grace]);
    let link = Link::to(cloud.hub_port);
    let server = format!("modules.edgeHub.websocket.server=127.0.0.1:{}", link.port);
    let edge = Edge::join(&cloud, &dir.path().join("e"), "edge-1", runtime.socket(), &[&server, LEASE]);
    let mut world = World { edge, cloud, runtime, dir };
    wait_connected(&mut world.edge);
    let kubectl = world.kubectl();
    kubectl.apply(&bound("steady", ""));
    kubectl.wait_running("steady");
    let steady = identity(&kubectl, "steady");
    kubectl.wait_node("edge-1", "True");
    let mut watch = ReadyWatch::start(&kubectl, "ready");
    link.set(Weather { bytes_per_sec: SQUEEZED, ..Weather::default() });

    let mut volumes = String::from("    volumeMounts:\n");
    let mut sources = String::from("  volumes:\n");
    for number in 0..MAPS {
        let text = "x".repeat(MAP_BYTES as usize);
        kubectl.apply(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: big-{number} }}\ndata: {{ k: {text} }}\n"
        ));
        volumes.push_str(&format!("    - {{ name: v{number}, mountPath: /v{number} }}\n"));
        sources.push_str(&format!("  - {{ name: v{number}, configMap: {{ name: big-{number} }} }}\n"));
    }
    let begun = Instant::now();
    kubectl.apply(&bound("late", &(volumes + &sources)));
    kubectl.wait_for("pod/late", "{.status.phase}", "Running", PATIENCE * 2);
    let took = begun.elapsed();
    println!("the pod runs after {took:?}");
    // Well over the grace.
    assert!(took.as_secs() >= MAPS * MAP_BYTES / SQUEEZED, "the link was not squeezed: {took:?}");
    watch.was_ready(&kubectl, "squeezed");
    let reconnects = metric(&world.edge.monitor, "kubeedge_edgehub_reconnects_total");
    assert!(reconnects < 0.5, "{reconnects} reconnects");
    link.mend();
    wait_agreement(&world);
    assert_eq!(identity(&kubectl, "steady"), steady);
}
