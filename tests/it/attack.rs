//! Storms: power cuts in the middle of everything, then peace, then nothing may be wrong.

use std::collections::BTreeMap;

use super::harness::cluster::Kubectl;
use super::harness::process::PATIENCE;
use super::harness::process::until;
use super::main_job::{World, sleeper};

/// Name and uid of every pod.
fn pods(kubectl: &Kubectl) -> BTreeMap<String, String> {
    let list = kubectl.json(&["get", "pods"]);
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let items = list["items"].as_array().unwrap().iter();
    items.map(|pod| (text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"]))).collect()
}

#[test]
fn power_cuts_in_the_middle_of_work_lose_and_double_nothing() {
    let mut world = World::start();
    let kubectl = world.kubectl();
    let mut acknowledged = BTreeMap::new();
    for round in 0..12_u32 {
        // Work that is under way when the power goes.
        let name = format!("storm-{round}");
        kubectl.apply(&sleeper(&name, ""));
        acknowledged.insert(name.clone(), pods(&kubectl)[&name].clone());
        if round >= 3 {
            let gone = format!("storm-{}", round - 3);
            if round % 2 == 0 {
                kubectl.run(&["delete", "pod", &gone, "--wait=false"]);
                acknowledged.remove(&gone);
            }
        }
        if round % 3 != 1 {
            world.edge.process.kill9();
        }
        if round % 3 != 0 {
            world.cloud.process.kill9();
            world.cloud.restart(&[]);
        }
        if round % 3 != 1 {
            world.edge.restart(&[]);
        }
    }
    kubectl.wait_node("edge-1", "True");
    for name in acknowledged.keys() {
        kubectl.wait_running(name);
    }
    until("what was deleted is gone", PATIENCE, || {
        let left = pods(&kubectl);
        if left == acknowledged { Ok(()) } else { Err(format!("{left:?} instead of {acknowledged:?}")) }
    });
    for round in 0..12 {
        let name = format!("storm-{round}");
        let want = usize::from(acknowledged.contains_key(&name));
        until(&format!("{name} runs {want} times"), PATIENCE, || {
            let count = world.runtime.running_containers(&name);
            if count == want { Ok(()) } else { Err(format!("{count} times")) }
        });
    }
}

#[test]
fn a_runtime_that_dies_and_forgets_is_filled_again() {
    let mut world = World::start();
    let kubectl = world.kubectl();
    for name in ["one", "two"] {
        kubectl.apply(&sleeper(name, ""));
        kubectl.wait_running(name);
    }
    kubectl.apply(&sleeper("leaving", ""));
    kubectl.run(&["delete", "pod", "leaving", "--wait=false"]);
    world.runtime.remove_all_pods();
    world.runtime.stop();
    kubectl.run(&["delete", "pod", "one", "--wait=false"]);
    world.runtime.start_again();
    for gone in ["pod/leaving", "pod/one"] {
        kubectl.wait_gone(gone);
    }
    until("the other runs again", PATIENCE, || {
        let count = world.runtime.running_containers("two");
        if count == 1 { Ok(()) } else { Err(format!("{count} times")) }
    });
    assert_eq!(world.runtime.running_containers("one"), 0);
    kubectl.run(&["delete", "pod", "two"]);
}
