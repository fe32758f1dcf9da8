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
    for expected in [
        "ApiServer",
        "CloudHub",
        "EdgeController",
        "SyncController",
        "IdentityController",
        "EdgeHub",
        "MetaManager",
        "Edged",
        "Identity",
        "Audit",
    ] {
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

/// Names of the workers below an actor.
fn workers(monitor: &str, actor: &str) -> Vec<String> {
    let tree = actors(monitor);
    let rows = tree["actors"].as_array().unwrap().iter();
    let row = rows.clone().find(|row| row["name"] == actor).unwrap_or_else(|| panic!("no {actor} in {tree}"));
    let children = row["children"].as_array().unwrap().iter();
    children.map(|child| child["name"].as_str().unwrap().to_owned()).collect()
}

/// A worker's panic costs nothing but its own restart; and with JSON logs every line stays JSON.
#[test]
fn the_main_job_outlives_a_panic_of_every_worker() {
    let json = ["commonConfig.logging.format=json"];
    let world = World::with(&json, &json);
    let kubectl = world.kubectl();
    kubectl.apply(&sleeper("steady", ""));
    kubectl.wait_running("steady");
    let path =
        "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";
    let before = kubectl.run(&["get", "pod", "steady", "-o", path]);
    for (side, monitor, actor) in
        [("cloud", &world.cloud.monitor, "CloudHub"), ("edge", &world.edge.monitor, "Edged")]
    {
        let mut names = workers(monitor, actor);
        // Pods of this loop that are just being deleted take their workers with them.
        names.retain(|name| !name.contains("after-"));
        assert!(!names.is_empty(), "{actor} has no workers");
        for (number, name) in names.into_iter().enumerate() {
            let (status, body) =
                http("POST", monitor, &format!("/actors/{}/panic", name.replace(' ', "%20")), &[]).unwrap();
            assert!(status < 300, "{name}: {status} {body}");
            let process = if side == "cloud" { &world.cloud.process } else { &world.edge.process };
            until(&format!("the panic of {name} is logged"), PATIENCE, || {
                let log = process.log();
                let seen = log.lines().any(|line| line.contains("panicked") && line.contains(&name));
                if seen { Ok(()) } else { Err(process.tail()) }
            });
            let pod = format!("after-{side}-{number}");
            kubectl.apply(&sleeper(&pod, ""));
            kubectl.wait_running(&pod);
            kubectl.run(&["delete", "pod", &pod]);
        }
    }
    kubectl.wait_running("steady");
    assert_eq!(kubectl.run(&["get", "pod", "steady", "-o", path]), before);
    kubectl.wait_node("edge-1", "True");
    for process in [&world.cloud.process, &world.edge.process] {
        for line in process.log().lines() {
            let event: Value = serde_json::from_str(line).unwrap_or_else(|err| panic!("{err}: {line}"));
            assert!(event["timestamp"].is_string() && event["level"].is_string(), "{line}");
        }
    }
    let page = http("GET", &world.edge.monitor, "/actors", &[("Accept", "text/html")]).unwrap().1;
    assert!(page.contains("<html") && page.contains("steady") && page.contains("MetaManager"), "{page}");
    kubectl.run(&["delete", "pod", "steady"]);
}
