//! Directed scenes: what an edge finds that was away while its pods, their configuration and its own
//! Node changed, that lost its store, or whose certificate ran out meanwhile.

use std::fs;

use super::devices::{apply_example, reported, topic, wait_member};
use super::harness::cluster::{Edge, Kubectl};
use super::harness::containerd::Containerd;
use super::harness::process::{PATIENCE, until};
use super::harness::samples::power;
use super::identity_edges::{metric, wait_connected, wait_expired};
use super::main_job::{World, sleeper};
use super::network::behind_a_proxy;

pub const MOUNTS: &str = "    env: [{ name: WORD, value: first }]
    volumeMounts: [{ name: app, mountPath: /app }, { name: keys, mountPath: /keys }]
  volumes: [{ name: app, configMap: { name: app } }, { name: keys, secret: { secretName: keys } }]
";

/// A pod bound by hand: it needs no scheduler.
pub fn bound(name: &str, extra: &str) -> String {
    sleeper(name, extra).replace("spec:\n", "spec:\n  nodeName: edge-1\n")
}

pub fn make_config(kubectl: &Kubectl, text: &str, password: &str) {
    kubectl.run(&["create", "configmap", "app", &format!("--from-literal=text={text}")]);
    kubectl.run(&["create", "secret", "generic", "keys", &format!("--from-literal=password={password}")]);
}

pub fn edit_config(kubectl: &Kubectl, text: &str, password: &str) {
    kubectl.run(&["patch", "configmap", "app", "-p", &format!("{{\"data\":{{\"text\":\"{text}\"}}}}")]);
    let patch = format!("{{\"stringData\":{{\"password\":\"{password}\"}}}}");
    kubectl.run(&["patch", "secret", "keys", "-p", &patch]);
}

/// Uid, container id and restart count of a pod as the API has them.
pub fn identity(kubectl: &Kubectl, pod: &str) -> String {
    let status = ".status.containerStatuses[0]";
    let path = format!("jsonpath={{.metadata.uid}} {{{status}.containerID}} {{{status}.restartCount}}");
    kubectl.run(&["get", "pod", pod, "-o", &path])
}

/// Waits until the files in a pod are these.
pub fn wait_files(runtime: &Containerd, pod: &str, want: &str) {
    until(&format!("the files of {pod} are {want}"), PATIENCE, || {
        if runtime.running_containers(pod) != 1 {
            return Err(format!("{} containers run", runtime.running_containers(pod)));
        }
        let command = ["/bin/sh", "-c", "echo $(cat /app/text) $(cat /keys/password)"];
        let is = runtime.try_exec(pod, "main", &command)?;
        if is.trim() == want { Ok(()) } else { Err(is) }
    });
}

/// Waits until API and runtime have the same pods, each running once with the container the API names.
pub fn wait_agreement(world: &World) {
    let kubectl = world.kubectl();
    until("the API and the runtime agree", PATIENCE, || {
        let list = kubectl.json(&["get", "pods"]);
        let mut wanted = Vec::new();
        for pod in list["items"].as_array().ok_or("no items")? {
            let text = |pointer: &str| pod.pointer(pointer).and_then(|v| v.as_str()).unwrap_or_default();
            let name = text("/metadata/name").to_owned();
            let running = world.runtime.running(&name, None);
            let shown = text("/status/containerStatuses/0/containerID").trim_start_matches("containerd://");
            if running != [shown] || text("/status/phase") != "Running" {
                return Err(format!(
                    "{name}: the API shows {shown} {}, there run {running:?}",
                    text("/status/phase")
                ));
            }
            wanted.push((name, text("/metadata/uid").to_owned()));
        }
        wanted.sort();
        let pods = world.runtime.pods();
        if pods == wanted { Ok(()) } else { Err(format!("{pods:?} instead of {wanted:?}")) }
    });
}

fn recreate(kubectl: &Kubectl, name: &str, word: &str) {
    kubectl.run(&["delete", "pod", name, "--force", "--grace-period=0"]);
    kubectl.wait_gone(&format!("pod/{name}"));
    kubectl.apply(&bound(name, MOUNTS).replace("value: first", &format!("value: {word}")));
}

fn word(runtime: &Containerd, pod: &str) -> String {
    runtime.exec(pod, "main", &["/bin/sh", "-c", "echo $WORD"]).trim().to_owned()
}

/// AT07 and more: everything of an edge changes while it is cut off, then while it is down.
#[test]
fn an_edge_that_was_away_finds_what_became_of_everything() {
    let (mut world, proxy) = behind_a_proxy();
    let kubectl = world.kubectl();
    make_config(&kubectl, "one", "a");
    for pod in ["steady", "again", "leaving", "gone"] {
        kubectl.apply(&bound(pod, MOUNTS));
    }
    for pod in ["steady", "again", "leaving", "gone"] {
        kubectl.wait_running(pod);
    }
    let steady = identity(&kubectl, "steady");

    proxy.cut(super::harness::proxy::Cut::Both);
    recreate(&kubectl, "again", "second");
    kubectl.run(&["delete", "pod", "gone", "--force", "--grace-period=0"]);
    kubectl.run(&["delete", "pod", "leaving", "--wait=false"]);
    kubectl.apply(&bound("newcomer", MOUNTS));
    kubectl.run(&["delete", "configmap/app", "secret/keys"]);
    make_config(&kubectl, "two", "b");
    edit_config(&kubectl, "three", "c");
    kubectl.run(&["label", "node", "edge-1", "site=roof"]);
    kubectl.run(&["cordon", "edge-1"]);
    proxy.restore();
    for pod in ["steady", "again", "newcomer"] {
        wait_files(&world.runtime, pod, "three c");
    }
    kubectl.wait_gone("pod/leaving");
    wait_agreement(&world);
    assert_eq!(identity(&kubectl, "steady"), steady, "it was left alone");
    assert_eq!(word(&world.runtime, "again"), "second");
    kubectl.wait_node("edge-1", "True");
    let node = "jsonpath={.metadata.labels.site} {.spec.unschedulable}";
    assert_eq!(kubectl.run(&["get", "node", "edge-1", "-o", node]), "roof true");

    // The same while it is down; its Node is deleted too, and a pod is made, changed and made again.
    world.edge.process.kill9();
    recreate(&kubectl, "again", "third");
    recreate(&kubectl, "again", "fourth");
    kubectl.run(&["delete", "pod", "newcomer", "--force", "--grace-period=0"]);
    kubectl.run(&["delete", "configmap/app"]);
    kubectl.run(&["create", "configmap", "app", "--from-literal=text=four"]);
    edit_config(&kubectl, "five", "d");
    kubectl.run(&["delete", "node", "edge-1"]);
    let settings = ["modules.edgeHub.websocket.server=127.0.0.1:", &proxy.port.to_string()].concat();
    world.edge.restart(&[&settings, "modules.edgeHub.websocket.readDeadline=6"]);
    kubectl.wait_node("edge-1", "True");
    for pod in ["steady", "again"] {
        wait_files(&world.runtime, pod, "five d");
    }
    wait_agreement(&world);
    assert_eq!(identity(&kubectl, "steady"), steady, "it was left alone again");
    assert_eq!(word(&world.runtime, "again"), "fourth");

    // Its Node is deleted once more, while it is cut off and runs on.
    let uid = || kubectl.run(&["get", "node", "edge-1", "-o", "jsonpath={.metadata.uid}"]);
    let before = uid();
    proxy.cut(super::harness::proxy::Cut::Both);
    until("the edge knows that it is cut off", PATIENCE, || {
        match metric(&world.edge.monitor, "kubeedge_edgehub_connected") {
            0.0 => Ok(()),
            other => Err(format!("connected: {other}")),
        }
    });
    kubectl.run(&["delete", "node", "edge-1"]);
    proxy.restore();
    kubectl.wait_node("edge-1", "True");
    assert_ne!(uid(), before, "it has registered again");
    wait_agreement(&world);
    assert_eq!(identity(&kubectl, "steady"), steady, "it was left alone once more");
}

/// A store that is gone, and the Node with it: without the cloud nothing that runs is touched, with it everything is
/// adopted, what was deleted meanwhile ends, and devices that nobody changed are there again.
#[test]
fn an_edge_whose_store_was_wiped_adopts_what_runs() {
    let mut world = World::start();
    let kubectl = world.kubectl();
    make_config(&kubectl, "one", "a");
    apply_example(&kubectl, "lamp.yaml");
    for pod in ["steady", "gone", "leaving"] {
        kubectl.apply(&bound(pod, MOUNTS));
        kubectl.wait_running(pod);
    }
    wait_member(world.edge.broker, world.dir.path(), "lamp-1");
    let (steady, gone) = (identity(&kubectl, "steady"), world.runtime.running("gone", None));
    world.edge.process.kill9();
    kubectl.run(&["delete", "pod", "gone", "--force", "--grace-period=0"]);
    kubectl.wait_gone("pod/gone");
    kubectl.run(&["delete", "pod", "leaving", "--wait=false"]);
    kubectl.run(&["delete", "node", "edge-1"]);
    edit_config(&kubectl, "two", "b");
    world.cloud.process.kill9();
    fs::remove_dir_all(world.edge.dir.join("edge/store")).unwrap();
    world.edge.restart(&[]);
    world.edge.wait_ready();
    assert_eq!(world.runtime.running_containers("steady"), 1);
    assert_eq!(world.runtime.running("gone", None), gone, "nobody said yet that it was deleted");

    world.cloud.restart(&[]);
    wait_connected(&mut world.edge);
    kubectl.wait_node("edge-1", "True");
    wait_files(&world.runtime, "steady", "two b");
    kubectl.wait_gone("pod/leaving");
    kubectl.apply(&bound("after", MOUNTS));
    kubectl.wait_running("after");
    wait_agreement(&world);
    assert_eq!(identity(&kubectl, "steady"), steady, "adopted, not made again");
    wait_member(world.edge.broker, world.dir.path(), "lamp-1");
    world.edge.broker.publish(&topic("lamp-1", "twin/update"), &power("after"));
    reported(&kubectl, "lamp-1", "power", "after");
}

/// Its certificate ran out while it was away, and its pods ran on all the time.
#[test]
fn a_certificate_that_ran_out_costs_no_pod_anything() {
    let settings = ["identity.nodeSvidTtlSecs=10", "identity.reentryGraceSecs=3600"];
    let mut world = World::with(&settings, &[]);
    let kubectl = world.kubectl();
    make_config(&kubectl, "one", "a");
    for pod in ["steady", "again"] {
        kubectl.apply(&bound(pod, MOUNTS));
        kubectl.wait_running(pod);
    }
    let steady = identity(&kubectl, "steady");
    world.edge.process.kill9();
    wait_expired(&world.edge.dir.join("certs/server.crt"));
    recreate(&kubectl, "again", "second");
    edit_config(&kubectl, "two", "b");
    assert_eq!(world.runtime.running_containers("steady"), 1);
    world.edge.restart(&[]);
    wait_connected(&mut world.edge);
    kubectl.wait_node("edge-1", "True");
    for pod in ["steady", "again"] {
        wait_files(&world.runtime, pod, "two b");
    }
    wait_agreement(&world);
    assert_eq!(identity(&kubectl, "steady"), steady);
    assert_eq!(word(&world.runtime, "again"), "second");
}

/// AT22: a node that is cut off is not a node that crashed. Its only copy of a pod stays where it is.
/// And two machines with one name: nothing is doubled or made again and again by it.
#[test]
fn a_singleton_stays_one_whoever_claims_its_node() {
    let (world, proxy) = behind_a_proxy();
    let kubectl = world.kubectl();
    let other_runtime = Containerd::start();
    let other_dir = world.dir.path().join("other");
    let other = Edge::join(&world.cloud, &other_dir, "edge-2", other_runtime.socket(), &[]);
    kubectl.apply(&bound("single", ""));
    kubectl.wait_running("single");
    let single = identity(&kubectl, "single");
    proxy.cut(super::harness::proxy::Cut::Both);
    kubectl.wait_node("edge-1", "Unknown");
    kubectl.wait_for("pod/single", "{.status.conditions[?(@.type==\"Ready\")].status}", "False", PATIENCE);
    assert_eq!(kubectl.run(&["get", "pod", "single", "-o", "jsonpath={.spec.nodeName}"]), "edge-1");
    proxy.restore();
    kubectl.wait_node("edge-1", "True");
    kubectl.wait_running("single");
    assert_eq!(identity(&kubectl, "single"), single);
    assert_eq!(other_runtime.pods(), []);

    // The second machine comes under the first one's name, with a token of its own.
    drop(other);
    let claims = world.dir.path().join("claims");
    let token = world.cloud.token();
    let mut claimant = Edge::start(&world.cloud, &claims, "edge-1", other_runtime.socket(), &token, &[]);
    until("it reads why it is not let in", PATIENCE, || {
        let log = claimant.process.log();
        let told = log.contains("answered 409") && log.contains("is connected as node edge-1 now");
        if told { Ok(()) } else { Err(claimant.process.tail()) }
    });
    assert!(claimant.process.is_running());
    assert_eq!(other_runtime.pods(), []);
    wait_agreement(&world);
    assert_eq!(identity(&kubectl, "single"), single);

    // The first machine is gone: the second takes its place, with the token it could not use before.
    let mut world = world;
    world.edge.process.kill9();
    wait_connected(&mut claimant);
    kubectl.wait_node("edge-1", "True");
    until("the pod runs there", PATIENCE, || match other_runtime.running_containers("single") {
        1 => Ok(()),
        count => Err(format!("{count} run")),
    });
}
