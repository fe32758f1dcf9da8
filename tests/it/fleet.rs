//! edge-fleet beside a real cloudcore: what the load tool says is what the API shows.

use std::process::Command;

use serde_json::Value;

use super::harness::cluster::{Cloud, Kubectl};
use super::harness::process::{PATIENCE, Process, alone, eventually, until};

const NODES: usize = 50;

/// The program on its own folder, saying a line of JSON a second.
fn fleet(cloud: &Cloud, nodes: usize, more: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge-fleet"));
    command
        .args(["--nodes", &nodes.to_string(), "--json", "--lease", "2", "--rate", "100"])
        .args(["--cloud", &format!("https://127.0.0.1:{}", cloud.join_port)])
        .args(["--hub", &format!("127.0.0.1:{}", cloud.hub_port)])
        .arg("--certs")
        .arg(cloud.dir.join("fleet"))
        .arg("--ca")
        .arg(cloud.dir.join("ca/rootCA.crt"))
        .args(more);
    Process::start("edge-fleet", &cloud.dir, &mut command)
}

/// A cloud that trusts the fleet's factory.
fn cloud_of_a_factory(dir: &std::path::Path) -> Cloud {
    let root = dir.join("fleet");
    let made = Command::new(env!("CARGO_BIN_EXE_edge-fleet"))
        .arg("--prepare")
        .arg("--certs")
        .arg(&root)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let file = String::from_utf8(made.stdout).unwrap();
    Cloud::start(dir, &[&format!("identity.factoryCaFile={}", file.trim())])
}

/// What it said last.
fn last(fleet: &Process) -> Result<Value, String> {
    let log = fleet.log();
    let line = log.lines().rfind(|line| line.starts_with('{')).ok_or("it said nothing")?;
    serde_json::from_str(line).map_err(|err| err.to_string())
}

fn wait(fleet: &Process, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    until(what, PATIENCE, || match last(fleet)? {
        said if holds(&said) => Ok(said),
        said => Err(said.to_string()),
    })
}

fn ready(kubectl: &Kubectl) -> usize {
    let path = "jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}{end}";
    let list = kubectl.try_run(&["get", "nodes", "-o", path]).unwrap_or_default();
    list.lines().filter(|line| *line == "True").count()
}

fn wait_ready(kubectl: &Kubectl, want: usize) {
    until(&format!("{want} nodes are Ready"), PATIENCE, || match ready(kubectl) {
        is if is == want => Ok(()),
        is => Err(format!("{is} are")),
    });
}

fn count(said: &Value, what: &str) -> u64 {
    said["counts"][what].as_u64().unwrap_or_default()
}

#[test]
fn a_fleet_joins_runs_pods_outlives_the_cloud_and_leaves() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let mut cloud = cloud_of_a_factory(dir.path());
    let kubectl = cloud.kubectl();
    let kubeconfig = cloud.dir.join("admin.conf");
    eventually("the kubeconfig is written", || kubeconfig.exists());
    let more = ["--pods", "1", "--reports", "2", "--kubeconfig", kubeconfig.to_str().unwrap()];
    let mut fleet = fleet(&cloud, NODES, &more);
    let registered = |said: &Value| said["registered"] == NODES;
    wait(&fleet, "all are registered", registered);
    wait_ready(&kubectl, NODES);
    let said = wait(&fleet, "pods run", |said| count(said, "podsRunning") >= NODES as u64);
    assert!(count(&said, "reports") > 0 && count(&said, "acked") >= 2 * NODES as u64, "{said}");
    let phases = kubectl.run(&["get", "pods", "-o", "jsonpath={.items[*].status.phase}"]);
    assert_eq!(phases.split_whitespace().filter(|phase| *phase == "Running").count(), NODES);

    let before = fleet_pods(&kubectl);
    cloud.process.kill9();
    wait(&fleet, "all notice", |said| said["connected"] == 0);
    cloud.restart(&[&format!("identity.factoryCaFile={}/fleet/factory-ca.crt", dir.path().display())]);
    wait(&fleet, "all are back", registered);
    wait_ready(&kubectl, NODES);
    assert_eq!(fleet_pods(&kubectl), before, "pods outlive the cloud");

    kubectl.run(&["delete", "pod", "hollow-7-pod-0", "--wait=false"]);
    kubectl.wait_gone("pod/hollow-7-pod-0");

    assert!(fleet.terminate(PATIENCE).success(), "{}", fleet.tail());
    let said = last(&fleet).unwrap();
    assert_eq!((&said["end"], &said["connected"]), (&Value::Bool(true), &Value::from(0)), "{said}");
    assert_eq!(count(&said, "badFrame"), 0, "{said}");
    // One that was not answered in time is asked again.
    assert!(count(&said, "joinFailed") <= NODES as u64 / 10, "{said}");
    assert!(cloud.process.is_running());
}

/// Names and uids of its pods.
fn fleet_pods(kubectl: &Kubectl) -> String {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.metadata.uid}{\"\\n\"}{end}";
    kubectl.run(&["get", "pods", "-l", "edge-fleet", "-o", path])
}
