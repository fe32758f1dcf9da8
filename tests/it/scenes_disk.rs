//! Disks that fill up or fail below programs at work: what was acknowledged is kept, what was refused stays refused, and
//! nobody has to start anything again.

use super::devices::{apply_example, reported, topic, wait_member};
use super::harness::cluster::Cloud;
use super::harness::disk::{Disk, FailingDisk};
use super::harness::process::{PATIENCE, http, until};
use super::harness::samples::power;
use super::hostile::store_check;
use super::identity_edges::metric;
use super::main_job::World;
use super::scenes::{bound, identity};

fn wait_well(monitor: &str) {
    until("the store is well without anybody's help", PATIENCE, || match store_check(monitor) {
        (200, true) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// AT12: devices report all the time while the syncs of the edge's store fail.
#[test]
fn an_edge_whose_syncs_fail_confirms_nothing_it_does_not_keep() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FailingDisk::new(&dir.path().join("disk"), &dir.path().join("below"), 24);
    let data = format!("dataDir={}/disk/edge", dir.path().display());
    let mut world = World::with(&[], &[&data]);
    let (kubectl, broker) = (world.kubectl(), world.edge.broker);
    apply_example(&kubectl, "lamp.yaml");
    kubectl.apply(&bound("steady", ""));
    kubectl.wait_running("steady");
    wait_member(broker, world.dir.path(), "lamp-1");
    let steady = identity(&kubectl, "steady");
    let publish = |value: u64| {
        let payload = power(value);
        let topic = topic("lamp-1", "twin/update");
        // Gives up when nothing is acknowledged.
        let out = std::process::Command::new("timeout")
            .args(["5", "mosquitto_pub", "-h", "127.0.0.1", "-p", &broker.0.to_string()])
            .args(["-q", "1", "-t", &topic, "-m", &payload])
            .output()
            .unwrap();
        out.status.success()
    };
    assert!(publish(1));
    disk.fail();
    let mut value = 1;
    let mut confirmed = 1;
    until("readyz tells", PATIENCE, || {
        value += 1;
        confirmed = if publish(value) { value } else { confirmed };
        match store_check(&world.edge.monitor) {
            (503, false) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let errors = metric(&world.edge.monitor, "kubeedge_store_errors_total");
    assert!(errors > 0.0, "{errors}");
    assert_eq!(world.runtime.running_containers("steady"), 1);
    // The disk is well again, and so is the program, which nobody starts anew.
    disk.mend();
    wait_well(&world.edge.monitor);
    // What was confirmed is kept; what was not may be.
    until("what was confirmed is reported", PATIENCE, || {
        let status = kubectl.json(&["get", "devicestatus", "lamp-1"]);
        let shown = &status["status"]["twins"][0]["reported"]["value"];
        let shown = shown.as_str().and_then(|it| it.parse::<u64>().ok());
        match shown {
            Some(shown) if (confirmed..=value).contains(&shown) => Ok(()),
            _ => Err(format!("{confirmed} to {value}: {status}")),
        }
    });
    until("reports are confirmed again", PATIENCE, || {
        value += 1;
        if publish(value) { Ok(()) } else { Err(world.edge.process.tail()) }
    });
    reported(&kubectl, "lamp-1", "power", &value.to_string());
    kubectl.wait_node("edge-1", "True");
    assert!(world.edge.process.is_running(), "{}", world.edge.process.tail());
    assert_eq!(store_check(&world.edge.monitor), (200, true));

    // What it confirms now is kept on its disk, and nowhere else: the cloud is away.
    world.cloud.process.kill9();
    until("a report is confirmed without the cloud", PATIENCE, || {
        value += 1;
        if publish(value) { Ok(()) } else { Err(world.edge.process.tail()) }
    });
    world.edge.process.kill9();
    world.edge.restart(&[&data]);
    world.edge.wait_ready();
    world.cloud.restart(&[]);
    reported(&kubectl, "lamp-1", "power", &value.to_string());
    kubectl.wait_node("edge-1", "True");
    assert_eq!(identity(&kubectl, "steady"), steady);
    assert!(!world.edge.process.log().contains("panicked"), "{}", world.edge.process.tail());
    // Before its disk goes.
    world.edge.process.terminate(PATIENCE);
}

/// The cloud's store: a write that was refused because its sync failed is not there after a restart either.
#[test]
fn a_cloud_whose_syncs_fail_keeps_what_it_confirmed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("c");
    let disk = FailingDisk::new(&root.join("cloud"), &dir.path().join("below"), 24);
    let mut cloud = Cloud::start(&root, &[]);
    let kubectl = cloud.kubectl();
    kubectl.run(&["create", "configmap", "deleted", "--from-literal=k=v"]);
    disk.fail();
    let (mut made, mut refused) = (Vec::new(), Vec::new());
    until("a write is refused", PATIENCE, || {
        let name = format!("map-{}", made.len());
        match kubectl.try_run(&[
            "create",
            "configmap",
            &name,
            &format!("--from-literal=k={}", "x".repeat(2_000)),
        ]) {
            Ok(_) => made.push(name),
            Err(_) => refused.push(name),
        }
        if refused.is_empty() { Err("it was taken".to_owned()) } else { Ok(()) }
    });
    let deleted = kubectl.try_run(&["delete", "configmap", "deleted"]);
    assert!(deleted.is_err(), "{deleted:?}");
    assert_eq!(store_check(&cloud.monitor), (503, false));
    disk.mend();
    wait_well(&cloud.monitor);
    kubectl.run(&["create", "configmap", "after"]);
    made.extend(["after".to_owned(), "deleted".to_owned()]);
    let names = || {
        let list = kubectl.run(&["get", "configmaps", "-o", "name"]);
        list.lines().filter_map(|line| line.strip_prefix("configmap/")).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = names();
    for name in &made {
        assert!(before.contains(name), "{name} was lost");
    }
    for name in &refused {
        assert!(!before.contains(name), "{name} was refused");
    }
    cloud.process.kill9();
    cloud.restart(&[]);
    assert_eq!(names(), before, "what the API showed is what it has");
    let (status, _) = http("GET", &cloud.monitor, "/readyz", &[]).unwrap();
    assert_eq!(status, 200);
    cloud.process.terminate(PATIENCE);
}

/// A program that cannot start on a full disk could make no room there either.
#[test]
fn a_full_disk_keeps_no_program_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("c");
    let disk = Disk::new(&root.join("cloud"), 48);
    let mut cloud = Cloud::start(&root, &[]);
    let kubectl = cloud.kubectl();
    for number in 0..4 {
        let text = format!("--from-literal=k={}", "x".repeat(100_000));
        kubectl.run(&["create", "configmap", &format!("map-{number}"), &text]);
    }
    let names = || kubectl.try_run(&["get", "configmaps", "-o", "name"]);
    let before = names().unwrap();
    for round in 0..3 {
        disk.fill();
        cloud.process.kill9();
        cloud.respawn(&[]);
        until(&format!("it serves from a full disk, {round}"), PATIENCE, || {
            assert!(cloud.process.is_running(), "{}", cloud.process.tail());
            names()
        });
        assert_eq!(names().unwrap(), before);
    }
    disk.make_room();
    wait_well(&cloud.monitor);
    kubectl.run(&["delete", "configmap", "map-0"]);
    cloud.process.terminate(PATIENCE);
}
