//! AT02: a link that carries far less than there is to say.

use super::harness::cluster::{Cloud, Edge};
use super::harness::containerd::Containerd;
use super::harness::link::{Link, Weather};
use super::harness::process::{PATIENCE, until};
use super::identity_edges::{metric, wait_connected};
use super::main_job::World;
use super::scenes::{bound, identity, wait_agreement};

/// 200 kbit/s.
const SQUEEZED: u64 = 25_000;

#[test]
fn a_squeezed_link_makes_no_node_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Containerd::start();
    let cloud = Cloud::start(&dir.path().join("c"), &[]);
    let link = Link::to(cloud.hub_port);
    let server = format!("modules.edgeHub.websocket.server=127.0.0.1:{}", link.port);
    let edge = Edge::join(&cloud, &dir.path().join("e"), "edge-1", runtime.socket(), &[&server]);
    let mut world = World { edge, cloud, runtime, dir };
    wait_connected(&mut world.edge);
    let kubectl = world.kubectl();
    kubectl.apply(&bound("steady", ""));
    kubectl.wait_running("steady");
    let steady = identity(&kubectl, "steady");
    link.set(Weather { bytes_per_sec: SQUEEZED, ..Weather::default() });

    // A megabyte of configuration (kubectl keeps a copy of what it applied) is on its way for forty seconds.
    let mut volumes = String::from("    volumeMounts:\n");
    let mut sources = String::from("  volumes:\n");
    for number in 0..4 {
        let text = "x".repeat(130_000);
        kubectl.apply(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: big-{number} }}\ndata: {{ k: {text} }}\n"
        ));
        volumes.push_str(&format!("    - {{ name: v{number}, mountPath: /v{number} }}\n"));
        sources.push_str(&format!("  - {{ name: v{number}, configMap: {{ name: big-{number} }} }}\n"));
    }
    kubectl.apply(&bound("late", &(volumes + &sources)));
    let ready = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    until("the pod runs", PATIENCE * 2, || {
        assert_eq!(kubectl.run(&["get", "node", "edge-1", "-o", ready]), "True");
        let phase = kubectl.run(&["get", "pod", "late", "-o", "jsonpath={.status.phase}"]);
        if phase == "Running" { Ok(()) } else { Err(phase) }
    });
    let reconnects = metric(&world.edge.monitor, "kubeedge_edgehub_reconnects_total");
    assert!(reconnects < 0.5, "{reconnects} reconnects");
    link.mend();
    wait_agreement(&world);
    assert_eq!(identity(&kubectl, "steady"), steady);
}
