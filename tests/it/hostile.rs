//! Programs that give up: what they return, what is lost, what comes back.

use std::time::{Duration, Instant};

use super::harness::cluster::{Cloud, Edge};
use super::harness::process::{PATIENCE, Process, http, until};

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
    process.wait(Duration::from_secs(30)).code()
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
            _ => cloud.process.terminate(Duration::from_secs(30)).code(),
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
