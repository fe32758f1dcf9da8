//! Clocks that are set while everything runs, and programs that stand still for a while.

use std::time::{Duration, Instant};

use super::devices::{apply_example, reported, topic, wait_member};
use super::harness::clock::FakedClock;
use super::harness::cluster::Kubectl;
use super::harness::process::{PATIENCE, Process, until};
use super::identity_edges::{metric, wait_connected};
use super::main_job::World;
use super::scenes::{bound, identity, wait_agreement};

const HOUR: i64 = 3600;

/// Seconds of silence until a node is Unknown here: many renewals of its lease, and far less than a clock is set by.
const GRACE: u64 = 16;
/// Who is taken for silent because a clock was set is so by then.
const JUDGED: Duration = Duration::from_secs(GRACE + 6);

/// Reads along what Ready of edge-1 is, from now on.
pub struct ReadyWatch(Process);

impl ReadyWatch {
    /// `name` is that of its log. The node must be Ready.
    pub fn start(kubectl: &Kubectl, name: &str) -> Self {
        let columns =
            "custom-columns=M:.metadata.labels.mark,R:.status.conditions[?(@.type==\"Ready\")].status";
        let watch = kubectl.spawn(&["get", "node", "edge-1", "-w", "--no-headers", "-o", columns], name);
        until("the watch has begun", PATIENCE, || {
            if watch.log().contains('\n') { Ok(()) } else { Err(watch.log()) }
        });
        Self(watch)
    }

    /// Panics unless it was True all the time. A mark on the Node, another one each time, shows that everything up to
    /// now was read.
    pub fn was_ready(&mut self, kubectl: &Kubectl, mark: &str) {
        kubectl.run(&["label", "node", "edge-1", "--overwrite", &format!("mark={mark}")]);
        let watch = &mut self.0;
        let log = until("the watch reads along", PATIENCE, || {
            assert!(watch.is_running(), "the watch ended\n{}", watch.tail());
            let log = watch.log();
            let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole).to_owned();
            let is_there = whole.lines().any(|line| line.split_whitespace().next() == Some(mark));
            if is_there { Ok(whole) } else { Err(log) }
        });
        let other = log.lines().find(|line| line.split_whitespace().nth(1) != Some("True"));
        assert_eq!(other, None, "{mark}: the node was not Ready all the time\n{log}");
    }
}

/// How often the edge connected anew, and how many sessions have ended for the cloud.
fn sessions(world: &World) -> String {
    let reconnects = metric(&world.edge.monitor, "kubeedge_edgehub_reconnects_total");
    let ended = metric(&world.cloud.monitor, "kubeedge_cloudhub_sessions_total");
    format!("{reconnects} reconnects, {ended} ended")
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
    let silent = format!("modules.nodeMonitor.gracePeriodSecs={GRACE}");
    let silent = silent.as_str();
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
        let begun = Instant::now();
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
        while begun.elapsed() < JUDGED {
            renewed(&kubectl);
        }
        is_ready(&kubectl).unwrap_or_else(|is| panic!("{what}: {is}"));
        assert!(world.edge.process.is_running() && world.cloud.process.is_running(), "{what}");
        reported_ms(&kubectl)
    };
    let ready_again = || until("Ready, and no taint is left", PATIENCE, || is_ready(&kubectl));
    ready_again();
    let mut watch = ReadyWatch::start(&kubectl, "ready-edge");
    let before = sessions(&world);
    // Times of devices are the cloud's to judge: none of the future stands in the way of a later one.
    for (beside, what) in
        [(0, "right"), (HOUR, "the edge's forward"), (-HOUR, "the edge's back"), (0, "right again")]
    {
        edge_clock.set(beside);
        until("the edge goes by that clock", PATIENCE, || near(time_of_lease(&kubectl), beside));
        let at = check(&mut world, what);
        near(at, 0).unwrap_or_else(|why| panic!("{what}: a value {why}"));
    }
    watch.was_ready(&kubectl, "edge-set");
    assert_eq!(sessions(&world), before, "the edge's clock was set");
    // A machine without a battery, switched on again.
    edge_clock.set(-HOUR);
    world.edge.process.kill9();
    world.edge.restart_with(&[lease], &edge_clock.env());
    wait_connected(&mut world.edge);
    ready_again();
    check(&mut world, "a new session while the edge's is behind");

    let mut watch = ReadyWatch::start(&kubectl, "ready-cloud");
    let before = sessions(&world);
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
    watch.was_ready(&kubectl, "cloud-set");
    assert_eq!(sessions(&world), before, "the cloud's clock was set");
    // What was signed a minute ago begins in an hour, as this clock goes. A new session opens all the same.
    world.edge.process.kill9();
    world.edge.restart_with(&[lease], &edge_clock.env());
    wait_connected(&mut world.edge);
    ready_again();
    check(&mut world, "a new session while the cloud's is behind");
    let mut watch = ReadyWatch::start(&kubectl, "ready-right");
    let before = sessions(&world);
    cloud_clock.set(0);
    check(&mut world, "the cloud's right again");
    watch.was_ready(&kubectl, "right-again");
    assert_eq!(sessions(&world), before, "the cloud's clock was set right");
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
