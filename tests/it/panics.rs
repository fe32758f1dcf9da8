//! Every actor of both trees panics once in a running program; the main job goes on.

use std::collections::BTreeSet;

use serde_json::Value;

use super::harness::cluster::actors;
use super::harness::process::{PATIENCE, http, until};
use super::main_job::{World, sleeper};

/// (name, restarts) of every actor in the tree, workers left out.
fn restarts(monitor: &str) -> Vec<(String, u64)> {
    let tree = actors(monitor);
    let rows = tree["actors"].as_array().unwrap_or_else(|| panic!("no actors in {tree}"));
    rows.iter()
        .map(|row: &Value| (row["name"].as_str().unwrap().to_owned(), row["restarts"].as_u64().unwrap()))
        .collect()
}

fn panic_and_recover(monitor: &str, name: &str) {
    let count = |monitor: &str| restarts(monitor).into_iter().find(|(n, _)| n == name).unwrap().1;
    let before = count(monitor);
    let (status, body) = http("POST", monitor, &format!("/actors/{name}/panic"), &[]).unwrap();
    assert!(status < 300, "{name}: {status} {body}");
    until(&format!("{name} was restarted"), PATIENCE, || {
        let now = match http("GET", monitor, "/actors", &[]) {
            Ok((200, _)) => count(monitor),
            other => return Err(format!("{other:?}")),
        };
        if now > before { Ok(()) } else { Err(format!("{now} restarts")) }
    });
}

#[test]
fn the_main_job_outlives_a_panic_of_every_actor() {
    let mut world = World::start();
    let kubectl = world.kubectl();
    let mut seen = BTreeSet::new();
    for (side, monitor) in [("cloud", world.cloud.monitor.clone()), ("edge", world.edge.monitor.clone())] {
        for (name, _) in restarts(&monitor) {
            panic_and_recover(&monitor, &name);
            let pod = format!("after-{}-{side}", name.to_ascii_lowercase());
            until("the API answers", PATIENCE, || kubectl.try_run(&["get", "nodes"]));
            kubectl.apply(&sleeper(&pod, ""));
            kubectl.wait_running(&pod);
            kubectl.run(&["delete", "pod", &pod]);
            seen.insert(name);
        }
    }
    for expected in
        ["ApiServer", "CloudHub", "EdgeController", "SyncController", "EdgeHub", "MetaManager", "Edged"]
    {
        assert!(seen.contains(expected), "{expected} is in no tree: {seen:?}");
    }
    assert!(world.cloud.process.is_running() && world.edge.process.is_running());
}

#[test]
fn fault_injection_is_off_by_default() {
    let world = World::with(
        &["commonConfig.monitorServer.enableFaultInjection=false"],
        &["commonConfig.monitorServer.enableFaultInjection=false"],
    );
    for monitor in [&world.cloud.monitor, &world.edge.monitor] {
        for (name, _) in restarts(monitor) {
            let (status, _) = http("POST", monitor, &format!("/actors/{name}/panic"), &[]).unwrap();
            assert!(status == 403 || status == 404, "{name}: {status}");
        }
    }
}
