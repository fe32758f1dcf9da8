//! A cloud whose data is yesterday's: what it holds is what counts, and everybody finds that out by themselves.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::devices::{apply_example, reported, topic, wait_member};
use super::harness::process::{PATIENCE, until};
use super::harness::samples::power;
use super::identity_edges::wait_connected;
use super::main_job::World;
use super::scenes::{MOUNTS, bound, edit_config, identity, make_config, wait_agreement, wait_files};

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_cloud_restored_from_yesterday_and_its_edge_agree_again() {
    let mut world = World::start();
    let kubectl = world.kubectl();
    let broker = world.edge.broker;
    make_config(&kubectl, "one", "a");
    for pod in ["steady", "deleted", "again"] {
        kubectl.apply(&bound(pod, MOUNTS));
    }
    for pod in ["steady", "deleted", "again"] {
        kubectl.wait_running(pod);
    }
    apply_example(&kubectl, "lamp.yaml");
    wait_member(broker, world.dir.path(), "lamp-1");
    broker.publish(&topic("lamp-1", "twin/update"), &power("off"));
    reported(&kubectl, "lamp-1", "power", "off");
    let (steady, again) = (identity(&kubectl, "steady"), identity(&kubectl, "again"));
    let uid = |identity: &str| identity.split(' ').next().unwrap().to_owned();

    let (data, yesterday) = (world.cloud.dir.join("cloud"), world.cloud.dir.join("yesterday"));
    world.cloud.process.terminate(PATIENCE);
    copy(&data, &yesterday);
    world.cloud.restart(&[]);
    wait_connected(&mut world.edge);

    // A day's work.
    edit_config(&kubectl, "two", "b");
    kubectl.run(&["delete", "pod", "deleted"]);
    kubectl.run(&["delete", "pod", "again"]);
    kubectl.apply(&bound("again", MOUNTS));
    kubectl.apply(&bound("newer", MOUNTS));
    for pod in ["again", "newer"] {
        kubectl.wait_running(pod);
    }
    wait_files(&world.runtime, "steady", "two b");
    broker.publish(&topic("lamp-1", "twin/update"), &power("dim"));
    reported(&kubectl, "lamp-1", "power", "dim");

    world.cloud.process.terminate(PATIENCE);
    fs::remove_dir_all(&data).unwrap();
    copy(&yesterday, &data);
    world.cloud.restart(&[]);
    wait_connected(&mut world.edge);
    kubectl.wait_node("edge-1", "True");

    // What the API lost is gone here too, what it has again runs, and what is in both was left alone.
    assert!(kubectl.try_run(&["get", "pod", "newer"]).is_err());
    for pod in ["steady", "deleted", "again"] {
        wait_files(&world.runtime, pod, "one a");
    }
    wait_agreement(&world);
    assert_eq!(identity(&kubectl, "steady"), steady);
    assert_eq!(uid(&identity(&kubectl, "again")), uid(&again));
    // The API hears anew what it forgot.
    reported(&kubectl, "lamp-1", "power", "dim");

    // And life goes on.
    edit_config(&kubectl, "three", "c");
    wait_files(&world.runtime, "steady", "three c");
    kubectl.apply(&bound("newer", MOUNTS));
    kubectl.wait_running("newer");
    kubectl.run(&["delete", "pod", "deleted"]);
    wait_agreement(&world);
    until("a watch that began before is told to list again", PATIENCE, || {
        let path = "/api/v1/pods?watch=true&timeoutSeconds=1&resourceVersion=5";
        let answer = kubectl.try_run(&["get", "--raw", path]);
        let text = format!("{answer:?}");
        if text.contains("too old") || text.contains("410") || text.contains("Expired") {
            Ok(())
        } else {
            Err(text)
        }
    });
}
