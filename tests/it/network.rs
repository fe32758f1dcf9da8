//! Links that go bad and come back: half-open in each direction, cut for long, edited meanwhile.

use std::time::{Duration, Instant};

use super::harness::cluster::{Cloud, Edge};
use super::harness::containerd::Containerd;
use super::harness::machine::keadm;
use super::harness::process::PATIENCE;
use super::harness::process::{http, until};
use super::harness::proxy::{Cut, Proxy};
use super::main_job::{World, sleeper};

/// What users are promised after the link is back, and what the names of tests say.
const PROMISE: Duration = Duration::from_secs(10);
/// Where these tests fail: two processors play everything in debug builds beside other tests. They print what they
/// measured, and whether it was over the promise.
const PROMISE_HERE: Duration = Duration::from_secs(25);

/// A world whose node reaches its cloud through a proxy, with fast judgement of silent nodes.
pub fn behind_a_proxy() -> (World, Proxy) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Containerd::start();
    let cloud = Cloud::start(&dir.path().join("c"), &["modules.nodeMonitor.gracePeriodSecs=12"]);
    let proxy = Proxy::to(cloud.hub_port);
    let server = format!("modules.edgeHub.websocket.server=127.0.0.1:{}", proxy.port);
    let settings = [server.as_str(), "modules.edgeHub.websocket.readDeadline=6"];
    let edge = Edge::join(&cloud, &dir.path().join("e"), "edge-1", runtime.socket(), &settings);
    (World { edge, cloud, runtime, dir }, proxy)
}

/// Ready within [`PROMISE_HERE`]; how long it took.
fn ready_again(world: &World, what: &str, since: Instant) -> Duration {
    world.kubectl().wait_node("edge-1", "True");
    let took = since.elapsed();
    let within = if took <= PROMISE { "" } else { " (over 10 s)" };
    println!("{what}: Ready {took:?} after the link was back{within}");
    assert!(
        took <= PROMISE_HERE,
        "{what}: Ready {took:?} after the link was back\n{}",
        world.edge.process.tail()
    );
    took
}

/// Promised are ten seconds; this fails at [`PROMISE_HERE`].
#[test]
fn a_node_is_ready_ten_seconds_after_a_half_open_link_is_back() {
    let (mut world, proxy) = behind_a_proxy();
    let kubectl = world.kubectl();
    let mut worst = Duration::ZERO;
    for cut in [Cut::Up, Cut::Down] {
        proxy.cut(cut);
        kubectl.wait_node("edge-1", "Unknown");
        until("the edge knows that the link is dead", PATIENCE, || {
            let (_, text) = http("GET", &world.edge.monitor, "/metrics", &[])?;
            if text.contains("kubeedge_edgehub_connected 0") { Ok(()) } else { Err("connected".into()) }
        });
        let back = Instant::now();
        proxy.restore();
        worst = worst.max(ready_again(&world, &format!("{cut:?}"), back));
    }
    println!("the worst: {worst:?}, of {PROMISE:?} promised");
    assert!(world.edge.process.is_running() && world.cloud.process.is_running());
}

/// AT05 and AT07: the pods of a node that was away are left alone, and what changed meanwhile arrives.
#[test]
fn a_long_cut_restarts_nothing_and_loses_nothing() {
    let (world, proxy) = behind_a_proxy();
    let kubectl = world.kubectl();
    kubectl.run(&["create", "configmap", "app", "--from-literal=key=one"]);
    let mounts = "    volumeMounts: [{ name: app, mountPath: /app }]
  volumes: [{ name: app, configMap: { name: app } }]
";
    kubectl.apply(&sleeper("steady", mounts));
    for pod in ["doomed", "forced"] {
        kubectl.apply(&sleeper(pod, ""));
    }
    for pod in ["steady", "doomed", "forced"] {
        kubectl.wait_running(pod);
    }
    let identity = || {
        let path = "jsonpath={.metadata.uid} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";
        kubectl.run(&["get", "pod", "steady", "-o", path])
    };
    let before = identity();

    proxy.cut(Cut::Both);
    kubectl.wait_node("edge-1", "Unknown");
    kubectl.run(&["delete", "pod", "doomed", "--wait=false"]);
    kubectl.run(&["delete", "pod", "forced", "--force", "--grace-period=0"]);
    kubectl.wait_gone("pod/forced");
    kubectl.run(&["delete", "configmap", "app"]);
    kubectl.run(&["create", "configmap", "app", "--from-literal=key=two"]);
    kubectl.run(&["patch", "configmap", "app", "-p", "{\"data\":{\"key\":\"three\"}}"]);
    for pod in ["steady", "doomed", "forced"] {
        assert_eq!(world.runtime.running_containers(pod), 1, "{pod} runs on while offline");
    }

    let back = Instant::now();
    proxy.restore();
    ready_again(&world, "both ways", back);
    until("the edit arrives", PATIENCE, || {
        let is = world.runtime.try_exec("steady", "main", &["cat", "/app/key"])?;
        if is == "three" { Ok(()) } else { Err(is) }
    });
    kubectl.wait_gone("pod/doomed");
    for pod in ["doomed", "forced"] {
        until(&format!("{pod} is gone from the runtime"), PATIENCE, || {
            let running = world.runtime.running_containers(pod);
            if running == 0 { Ok(()) } else { Err(format!("{running} run")) }
        });
    }
    kubectl.wait_running("steady");
    assert_eq!(identity(), before, "same pod, same container, no restart");
    assert!(before.ends_with(" 0"), "{before}");
    kubectl.run(&["delete", "pod", "steady"]);
}

/// AT03: killed again and again, then the cloud, then both.
#[test]
fn twenty_kills_of_edgecore_change_nothing() {
    let mut world = World::start();
    let kubectl = world.kubectl();
    kubectl.apply(&sleeper("steady", ""));
    kubectl.wait_running("steady");
    let path =
        "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";
    let before = kubectl.run(&["get", "pod", "steady", "-o", path]);
    for round in 0..20 {
        world.edge.process.kill9();
        world.edge.restart(&[]);
        if round % 2 == 0 {
            // Every other time it dies before it has started.
            world.edge.wait_ready();
        }
    }
    world.cloud.process.kill9();
    world.cloud.restart(&[]);
    world.cloud.process.kill9();
    world.edge.process.kill9();
    world.edge.restart(&[]);
    world.cloud.restart(&[]);
    kubectl.apply(&sleeper("after", ""));
    kubectl.wait_running("after");
    kubectl.wait_running("steady");
    assert_eq!(kubectl.run(&["get", "pod", "steady", "-o", path]), before);
    for process in [&world.edge.process, &world.cloud.process] {
        assert!(!process.log().contains("panicked"), "{}", process.tail());
    }
    kubectl.run(&["delete", "pod", "steady", "after"]);
}

/// Starts edgecore with what a thief copied from the edge's disk, without a container runtime.
fn thief(world: &World) -> Edge {
    let stolen = world.dir.path().join("stolen");
    std::fs::create_dir(&stolen).unwrap();
    // Only what it uses: in the rest of a living edge's folder files vanish while they are copied.
    let parts = ["ca", "certs"].map(|part| world.edge.dir.join(part));
    let copy = std::process::Command::new("cp").arg("-a").args(parts).arg(&stolen).status().unwrap();
    assert!(copy.success());
    let no_runtime = stolen.join("no-runtime.sock");
    let settings = [
        format!("dataDir={}/thief", stolen.display()),
        format!("modules.edgeHub.tlsCaFile={}/ca/rootCA.crt", stolen.display()),
        format!("modules.edgeHub.tlsCertFile={}/certs/server.crt", stolen.display()),
        format!("modules.edgeHub.tlsPrivateKeyFile={}/certs/server.key", stolen.display()),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    Edge::start(&world.cloud, &stolen, "edge-1", &no_runtime, "", &settings)
}

fn wait_shared(world: &World) {
    until("the cloud says that two machines share a certificate", PATIENCE, || {
        let log = world.cloud.process.log();
        if log.contains("two machines share this node's certificate and end each other's sessions") {
            Ok(())
        } else {
            Err(world.cloud.process.tail())
        }
    });
}

#[test]
fn a_copied_disk_cuts_off_both_machines_until_the_node_is_allowed_again() {
    let mut world = World::start();
    let thief = thief(&world);
    wait_shared(&world);
    let listed = until("the node is revoked", PATIENCE, || {
        let list = keadm(&world.cloud, &["node", "list"])?;
        let line = list.lines().find(|line| line.starts_with("edge-1 ") && line.contains("revoked at"));
        line.map(str::to_owned).ok_or(list)
    });
    assert_eq!(listed.matches("127.0.0.1:").count(), 2, "it names both: {listed}");
    until("nobody is connected", PATIENCE, || {
        let (_, text) = http("GET", &world.cloud.monitor, "/metrics", &[])?;
        if text.contains("kubeedge_cloudhub_connected_nodes 0") { Ok(()) } else { Err("connected".into()) }
    });
    for edge in [&world.edge, &thief] {
        until("the machine reads why", PATIENCE, || {
            if edge.process.log().contains("was revoked") { Ok(()) } else { Err(edge.process.tail()) }
        });
    }
    let audit = std::fs::read_to_string(world.cloud.dir.join("cloud/audit.log")).unwrap();
    assert!(audit.contains("two machines hold its certificate"), "{audit}");
    drop(thief);

    // The operator looks into it, and lets one of them back with a new token.
    keadm(&world.cloud, &["node", "allow", "edge-1"]).unwrap();
    let token = keadm(&world.cloud, &["gettoken", "--node", "edge-1"]).unwrap();
    world.edge.process.kill9();
    std::fs::remove_dir_all(world.edge.dir.join("certs")).unwrap();
    std::fs::write(world.edge.dir.join("bootstrap-edgecore.conf"), token).unwrap();
    world.edge.restart(&[]);
    until("it is connected again", PATIENCE, || {
        let (_, text) = http("GET", &world.cloud.monitor, "/metrics", &[])?;
        if text.contains("kubeedge_cloudhub_connected_nodes 1") {
            Ok(())
        } else {
            Err(world.edge.process.tail())
        }
    });
    world.kubectl().wait_node("edge-1", "True");
}

#[test]
fn where_clones_are_only_warned_about_the_newer_connection_wins() {
    let mut world = World::with(&["identity.clonedNodes=warn"], &[]);
    let mut thief = thief(&world);
    wait_shared(&world);
    thief.process.kill9();
    world.kubectl().wait_node("edge-1", "True");
    assert!(world.edge.process.is_running());
    let list = keadm(&world.cloud, &["node", "list"]).unwrap();
    assert!(!list.contains("revoked"), "{list}");
}
