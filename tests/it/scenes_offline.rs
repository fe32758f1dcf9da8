//! An edge that starts with no cloud, after `kill -9` and on a machine whose containers are all gone: everything is back,
//! and what happened meanwhile reaches the cloud.

use base64::Engine;
use serde_json::{Value, json};

use super::devices::{apply_example, reported, topic, wait_member};
use super::harness::process::{PATIENCE, until};
use super::harness::samples::power;
use super::main_job::{World, container_pid};
use super::scenes::{MOUNTS, bound, make_config, wait_agreement, wait_files};

const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

fn claims(token: &str) -> Value {
    let claims = token.split('.').nth(1).unwrap_or_else(|| panic!("no token: {token:?}"));
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap();
    serde_json::from_slice(&json).unwrap()
}

/// Restart count of a pod's container as the API has it.
fn restarts(world: &World, pod: &str) -> String {
    world.kubectl().run(&["get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].restartCount}"])
}

fn wait_runs(world: &World, pod: &str) -> String {
    until(&format!("{pod} runs without a cloud"), PATIENCE, || {
        let mut running = world.runtime.running(pod, None);
        if running.len() == 1 { Ok(running.remove(0)) } else { Err(format!("{running:?}")) }
    })
}

/// AT04.
#[test]
fn a_machine_that_forgot_its_containers_starts_them_with_no_cloud() {
    let mut world = World::start();
    let kubectl = world.kubectl();
    let broker = world.edge.broker;
    make_config(&kubectl, "one", "a");
    for pod in ["first", "second"] {
        kubectl.apply(&bound(pod, MOUNTS));
    }
    apply_example(&kubectl, "lamp.yaml");
    for pod in ["first", "second"] {
        kubectl.wait_running(pod);
    }
    wait_member(broker, world.dir.path(), "lamp-1");
    let uid = kubectl.run(&["get", "pod", "first", "-o", "jsonpath={.metadata.uid}"]);

    world.cloud.process.kill9();
    world.edge.process.kill9();
    world.runtime.forget_everything();
    world.edge.restart(&[]);
    for pod in ["first", "second"] {
        wait_runs(&world, pod);
        wait_files(&world.runtime, pod, "one a");
    }
    let token = world.runtime.exec("first", "main", &["/bin/cat", TOKEN]);
    let claims = claims(&token);
    assert_eq!(claims["kubernetes.io"]["pod"], json!({"name": "first", "uid": uid}));
    let now = jiff::Timestamp::now().as_second();
    assert!(claims["exp"].as_i64().is_some_and(|end| end > now), "{claims}");

    // What happens without the cloud: devices report, a container dies, the program is killed again.
    broker.publish(&topic("lamp-1", "twin/update"), &power("off"));
    let first = wait_runs(&world, "first");
    let pid = container_pid(&world.runtime, &first);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    until("another container runs", PATIENCE, || match world.runtime.running("first", None).as_slice() {
        [id] if *id != first => Ok(()),
        other => Err(format!("{other:?}")),
    });
    world.edge.process.kill9();
    world.edge.restart(&[]);
    world.edge.wait_ready();
    broker.publish(&topic("lamp-1", "twin/update"), &power("dim"));
    let runs = [wait_runs(&world, "first"), wait_runs(&world, "second")];

    world.cloud.restart(&[]);
    kubectl.wait_node("edge-1", "True");
    wait_agreement(&world);
    let still = ["first", "second"].map(|pod| wait_runs(&world, pod));
    assert_eq!(still, runs, "the cloud's return makes nothing new");
    until("restarts are counted", PATIENCE, || {
        let counts = (restarts(&world, "first"), restarts(&world, "second"));
        if counts == ("2".to_owned(), "1".to_owned()) { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    reported(&kubectl, "lamp-1", "power", "dim");
    until("what happened is told", PATIENCE, || {
        let events = kubectl.json(&["get", "events", "--field-selector", "involvedObject.name=first"]);
        let started = |event: &&Value| event["reason"] == "Started";
        let count = |event: &Value| event["count"].as_u64().unwrap_or(1);
        let items = events["items"].as_array().ok_or("no items")?;
        let times: u64 = items.iter().filter(started).map(count).sum();
        // Before the machine forgot, and after. The third was perhaps being told when the program was killed.
        if times >= 2 { Ok(()) } else { Err(format!("started {times} times: {events}")) }
    });
    // The token is good where it counts.
    let review = kubectl.file(
        "review.yaml",
        &format!(
            "apiVersion: authentication.k8s.io/v1\nkind: TokenReview\nmetadata: {{ name: t }}\nspec: {{ token: '{}' }}\n",
            world.runtime.exec("first", "main", &["/bin/cat", TOKEN])
        ),
    );
    let answer = kubectl.json(&["create", "-f", &review]);
    assert_eq!(answer["status"]["authenticated"], true, "{answer}");
}
