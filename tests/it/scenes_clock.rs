//! Clocks that are set while everything runs, and programs that stand still for a while.

use super::devices::{apply_example, reported, topic, wait_member};
use super::harness::clock::FakedClock;
use super::harness::cluster::Kubectl;
use super::harness::process::{PATIENCE, until};
use super::identity_edges::{metric, wait_connected};
use super::main_job::World;
use super::scenes::{bound, identity, wait_agreement};

const HOUR: i64 = 3600;

/// Waits until the node is Ready, and stays so for as many looks as a judgement takes.
fn stays_ready(kubectl: &Kubectl) {
    kubectl.wait_node("edge-1", "True");
    for _ in 0..3 {
        renewed(kubectl);
    }
    is_ready(kubectl).unwrap();
}

fn renewed(kubectl: &Kubectl) {
    let before = time_of_lease(kubectl);
    until("the lease is renewed", PATIENCE, || {
        if time_of_lease(kubectl) == before { Err(before.to_string()) } else { Ok(()) }
    });
}

fn is_ready(kubectl: &Kubectl) -> Result<(), String> {
    let ready = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}{.spec.taints}";
    let is = kubectl.run(&["get", "node", "edge-1", "-o", ready]);
    if is.trim_end_matches("[]") == "True" { Ok(()) } else { Err(is) }
}

fn ms_of(time: &str) -> i64 {
    time.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

fn time_of_lease(kubectl: &Kubectl) -> i64 {
    let renewed = ["get", "lease", "edge-1", "-n", "kube-node-lease", "-o", "jsonpath={.spec.renewTime}"];
    ms_of(&kubectl.run(&renewed))
}

/// Is this time so far beside the true one, give or take two minutes?
fn near(is_ms: i64, beside_secs: i64) -> Result<(), String> {
    let off = is_ms - jiff::Timestamp::now().as_millisecond() - beside_secs * 1000;
    if off.abs() < 120_000 { Ok(()) } else { Err(format!("is {off} ms off")) }
}

fn reported_ms(kubectl: &Kubectl) -> i64 {
    let status = kubectl.json(&["get", "devicestatus", "lamp-1"]);
    let at = &status["status"]["twins"][0]["reported"]["metadata"]["timestamp"];
    at.as_str().and_then(|at| at.parse().ok()).unwrap_or_else(|| panic!("{status}"))
}

/// Forward and back by an hour, at the edge and in the cloud, while they are connected.
#[test]
fn clocks_that_are_set_make_nobody_silent() {
    let lease = "modules.edged.tailoredKubeletConfig.nodeLeaseDurationSeconds=8";
    let silent = "modules.nodeMonitor.gracePeriodSecs=12";
    let mut world = World::with(&[silent], &[lease]);
    let kubectl = world.kubectl();
    let (edge_clock, cloud_clock) = (FakedClock::new(&world.edge.dir), FakedClock::new(&world.cloud.dir));
    world.cloud.process.kill9();
    world.cloud.restart_with(&[silent], &cloud_clock.env());
    world.edge.process.kill9();
    world.edge.restart_with(&[lease], &edge_clock.env());
    wait_connected(&mut world.edge);
    kubectl.apply(&bound("steady", ""));
    kubectl.wait_running("steady");
    apply_example(&kubectl, "lamp.yaml");
    let broker = world.edge.broker;
    wait_member(broker, world.dir.path(), "lamp-1");
    let steady = identity(&kubectl, "steady");

    let mut value = 0;
    let mut check = |world: &mut World, what: &str| {
        stays_ready(&kubectl);
        value += 1;
        let payload = format!(
            "{{\"twin\":{{\"power\":{{\"actual\":{{\"value\":\"{value}\"}},\"metadata\":{{\"type\":\"string\"}}}}}}}}"
        );
        broker.publish(&topic("lamp-1", "twin/update"), &payload);
        reported(&kubectl, "lamp-1", "power", &value.to_string());
        // New work arrives, starts and ends.
        let pod = format!("pod-{value}");
        kubectl.apply(&bound(&pod, ""));
        kubectl.wait_running(&pod);
        kubectl.run(&["delete", "pod", &pod]);
        wait_agreement(world);
        assert_eq!(identity(&kubectl, "steady"), steady, "{what}");
        assert!(world.edge.process.is_running() && world.cloud.process.is_running(), "{what}");
        reported_ms(&kubectl)
    };
    // Times of devices are the cloud's to judge: none of the future stands in the way of a later one.
    for (beside, what) in
        [(0, "right"), (HOUR, "the edge's forward"), (-HOUR, "the edge's back"), (0, "right again")]
    {
        edge_clock.set(beside);
        until("the edge goes by that clock", PATIENCE, || near(time_of_lease(&kubectl), beside));
        let at = check(&mut world, what);
        near(at, 0).unwrap_or_else(|why| panic!("{what}: a value {why}"));
    }
    let reconnects = metric(&world.edge.monitor, "kubeedge_edgehub_reconnects_total");
    assert!(reconnects < 0.5, "{reconnects} reconnects");
    // A machine without a battery, switched on again.
    edge_clock.set(-HOUR);
    world.edge.process.kill9();
    world.edge.restart_with(&[lease], &edge_clock.env());
    wait_connected(&mut world.edge);
    check(&mut world, "a new session while the edge's is behind");
    edge_clock.set(0);

    for (beside, what) in [(HOUR, "the cloud's forward"), (-HOUR, "the cloud's back")] {
        cloud_clock.set(beside);
        until("the cloud goes by that clock", PATIENCE, || {
            kubectl.run(&["delete", "configmap", "now", "--ignore-not-found"]);
            kubectl.run(&["create", "configmap", "now"]);
            let made =
                kubectl.run(&["get", "configmap", "now", "-o", "jsonpath={.metadata.creationTimestamp}"]);
            near(ms_of(&made), beside)
        });
        check(&mut world, what);
    }
    // What was signed a minute ago begins in an hour, as this clock goes. A new session opens all the same.
    world.edge.process.kill9();
    world.edge.restart_with(&[lease], &edge_clock.env());
    wait_connected(&mut world.edge);
    check(&mut world, "a new session while the cloud's is behind");
    cloud_clock.set(0);
    check(&mut world, "the cloud's right again");
    for process in [&world.edge.process, &world.cloud.process] {
        assert!(!process.log().contains("panicked"), "{}", process.tail());
    }
}

/// A cloud that stood still (a suspended machine) takes its nodes for dead, and back as soon as they say a word.
#[test]
fn a_cloud_that_stood_still_finds_its_nodes_ready() {
    let lease = "modules.edged.tailoredKubeletConfig.nodeLeaseDurationSeconds=8";
    let world = World::with(
        &["modules.nodeMonitor.gracePeriodSecs=3"],
        &[lease, "modules.edgeHub.websocket.readDeadline=60"],
    );
    let kubectl = world.kubectl();
    kubectl.apply(&bound("steady", ""));
    kubectl.wait_running("steady");
    let steady = identity(&kubectl, "steady");
    for _ in 0..2 {
        world.cloud.process.signal(nix::sys::signal::Signal::SIGSTOP);
        std::thread::sleep(std::time::Duration::from_secs(5));
        world.cloud.process.signal(nix::sys::signal::Signal::SIGCONT);
        for _ in 0..3 {
            renewed(&kubectl);
        }
        until("Ready is back, and no taint is left", PATIENCE, || is_ready(&kubectl));
    }
    kubectl.wait_running("steady");
    assert_eq!(identity(&kubectl, "steady"), steady);
}
