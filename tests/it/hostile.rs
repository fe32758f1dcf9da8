//! Programs that give up, disks that fill up, stores that rot: what is said, what is lost, what
//! comes back.

use std::time::Instant;

use super::harness::cluster::{Cloud, Edge};
use super::harness::disk::Disk;
use super::harness::process::{PATIENCE, Process, http, until};
use super::main_job::{World, sleeper};

fn config_map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: {name} }}\ndata: {{ k: {value} }}\n")
}

/// Makes one actor panic until its program gives up; the exit code.
fn exhaust(process: &mut Process, monitor: &str, actor: &str) -> Option<i32> {
    let path = format!("/actors/{actor}/panic");
    let begun = Instant::now();
    while process.is_running() && begun.elapsed() < PATIENCE {
        // Between the last panic and the end nobody answers.
        drop(http("POST", monitor, &path, &[]));
    }
    process.wait(PATIENCE).code()
}

/// The engine's threads must have ended before the process does: no signal, no lost write.
#[test]
fn giving_up_and_signals_end_in_order_while_writes_are_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let settings = ["commonConfig.maxRestarts=1"];
    let mut cloud = Cloud::start(&dir.path().join("c"), &settings);
    let kubectl = cloud.kubectl();
    let mut made: Vec<String> = Vec::new();
    for round in 0..6 {
        let writer = cloud.kubectl();
        let writing = std::thread::spawn(move || {
            let mut made = Vec::new();
            for number in 0.. {
                let name = format!("map-{round}-{number}");
                match writer.try_apply(&config_map(&name, "v")) {
                    Ok(_) => made.push(name),
                    Err(_) => break,
                }
            }
            made
        });
        until("something was written", PATIENCE, || {
            kubectl.try_run(&["get", "configmap", &format!("map-{round}-0")])
        });
        let code = match round % 3 {
            0 => exhaust(&mut cloud.process, &cloud.monitor, "ApiServer"),
            1 => exhaust(&mut cloud.process, &cloud.monitor, "CloudHub"),
            _ => cloud.process.terminate(PATIENCE).code(),
        };
        assert_eq!(code, Some(i32::from(round % 3 != 2)), "{}", cloud.process.tail());
        made.extend(writing.join().unwrap());
        cloud.restart(&settings);
        let list = kubectl.run(&["get", "configmaps", "-o", "name"]);
        for name in &made {
            assert!(list.lines().any(|line| line.ends_with(&format!("/{name}"))), "{name} was lost");
        }
    }
    assert!(cloud.process.log().contains("its service manager should start it again"));
    let mut edge = Edge::start(
        &cloud,
        &dir.path().join("e"),
        "edge-1",
        &dir.path().join("no-runtime.sock"),
        &cloud.token(),
        &settings,
    );
    edge.wait_ready();
    assert_eq!(exhaust(&mut edge.process, &edge.monitor, "EdgeHub"), Some(1), "{}", edge.process.tail());
}

pub fn store_check(monitor: &str) -> (u16, bool) {
    let (status, body) = http("GET", monitor, "/readyz", &[]).unwrap();
    (status, body.contains(r#"{"name":"store","ok":true}"#))
}

#[test]
fn a_full_disk_is_told_refuses_writes_and_is_forgiven() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("c");
    let disk = Disk::new(&root.join("cloud"), 48);
    let mut cloud = Cloud::start(&root, &[]);
    let kubectl = cloud.kubectl();
    assert_eq!(store_check(&cloud.monitor), (200, true));
    disk.fill();
    let mut made = Vec::new();
    let mut number = 0;
    let complaint = until("a write is refused", PATIENCE, || {
        number += 1;
        let name = format!("map-{number}");
        match kubectl.try_apply(&config_map(&name, &"x".repeat(200_000))) {
            Ok(_) => {
                made.push(name);
                Err("it was taken".to_owned())
            }
            Err(why) => Ok(why),
        }
    });
    assert!(complaint.contains("No space left on device"), "{complaint}");
    assert_eq!(store_check(&cloud.monitor), (503, false), "readyz tells");
    let health = kubectl.try_run(&["get", "--raw", "/readyz"]);
    assert!(health.is_err(), "{health:?}");
    kubectl.run(&["get", "--raw", "/livez"]);
    kubectl.run(&["get", "configmaps"]);
    disk.make_room();
    until("the store is well without anybody's help", PATIENCE, || match store_check(&cloud.monitor) {
        (200, true) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    kubectl.apply(&config_map("after", "v"));
    made.push("after".to_owned());
    cloud.process.kill9();
    cloud.restart(&[]);
    let list = kubectl.run(&["get", "configmaps", "-o", "name"]);
    for name in &made {
        assert!(list.lines().any(|line| line.ends_with(&format!("/{name}"))), "{name} was lost");
    }
}

#[test]
fn an_edge_with_a_full_disk_acknowledges_nothing_it_cannot_keep() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("d");
    let disk = Disk::new(&root, 24);
    let data = format!("dataDir={}/edge", root.display());
    let mut world = World::with(&[], &[&data]);
    let kubectl = world.kubectl();
    kubectl.apply(&sleeper("before", ""));
    kubectl.wait_running("before");
    assert_eq!(store_check(&world.edge.monitor), (200, true));
    disk.fill();
    let mut volumes = String::from("    volumeMounts:\n");
    for number in 0..6 {
        kubectl.apply(&config_map(&format!("big-{number}"), &"x".repeat(700_000)));
        volumes.push_str(&format!("    - {{ name: v{number}, mountPath: /v{number} }}\n"));
    }
    volumes.push_str("  volumes:\n");
    for number in 0..6 {
        volumes.push_str(&format!("  - {{ name: v{number}, configMap: {{ name: big-{number} }} }}\n"));
    }
    kubectl.apply(&sleeper("late", &volumes));
    until("readyz tells", PATIENCE, || match store_check(&world.edge.monitor) {
        (503, false) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(kubectl.run(&["get", "pod", "before", "-o", "jsonpath={.status.phase}"]), "Running");
    assert_eq!(world.runtime.running_containers("late"), 0, "it started what it could not remember");
    disk.make_room();
    kubectl.wait_running("late");
    until("the store is well again", PATIENCE, || match store_check(&world.edge.monitor) {
        (200, true) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // What was acknowledged is there without the cloud.
    world.cloud.process.kill9();
    world.edge.process.kill9();
    world.runtime.remove_all_pods();
    world.edge.restart(&[&data]);
    for pod in ["before", "late"] {
        until(&format!("{pod} runs again"), PATIENCE, || match world.runtime.running_containers(pod) {
            1 => Ok(()),
            count => Err(format!("{count} times")),
        });
    }
}
