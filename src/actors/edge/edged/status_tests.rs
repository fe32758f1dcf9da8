//! Pod status in one table: what is observed and remembered on the left, what kubectl shows on the right.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Value, json};

use super::fixtures::pod;
use super::observed::{Container, Life, Observed, Sandbox};
use super::state::{PodState, Terminal};
use super::status::{Surroundings, status};

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("time")
}

fn container(name: &str, life: Life, exit_code: i32) -> Container {
    Container {
        id: format!("id-{name}"),
        sandbox_id: "s".to_owned(),
        name: name.to_owned(),
        restarts: 0,
        hash: String::new(),
        life,
        created_ns: 1,
        started_ns: 1_800_000_000_000_000_000,
        finished_ns: 1_800_000_001_000_000_000,
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: "i".to_owned(),
        image_id: "sha256:i".to_owned(),
    }
}

fn state(policy: &str, containers: &[Container]) -> PodState {
    let spec = json!({
        "restartPolicy": policy,
        "initContainers": [{"name": "init", "image": "i"}],
        "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}],
    });
    let pod = Arc::new(pod(json!({"spec": spec})));
    let sandbox =
        Sandbox { id: "s".into(), attempt: 0, ready: true, created_ns: 1, ips: vec!["10.0.0.9".into()] };
    let observed = Observed { sandboxes: vec![sandbox], containers: containers.to_vec() };
    PodState::new(pod, BTreeMap::new(), observed, 0.0, now())
}

fn shown(state: &PodState) -> Value {
    let around = Surroundings { host_ips: vec!["192.0.2.10".into()], qos_class: "BestEffort".into() };
    serde_json::to_value(status(state, &around, now())).expect("json")
}

fn condition<'a>(status: &'a Value, kind: &str) -> (&'a str, &'a str, &'a str) {
    let list = status["conditions"].as_array().expect("conditions");
    let found = list.iter().find(|c| c["type"] == kind).expect("condition");
    let text = |field: &str| found[field].as_str().unwrap_or_default();
    (text("status"), text("reason"), text("message"))
}

#[test]
fn phases() {
    use Life::{Exited, Running};
    let init = container("init", Exited, 0);
    let ab = |a: (Life, i32), b: (Life, i32)| {
        vec![init.clone(), container("a", a.0, a.1), container("b", b.0, b.1)]
    };
    for (case, policy, containers, over, phase) in [
        ("nothing yet", "Always", vec![], false, "Pending"),
        ("init runs", "Always", vec![container("init", Running, 0)], false, "Pending"),
        ("init failed, restarts", "Always", vec![container("init", Exited, 1)], false, "Pending"),
        ("init failed for good", "Never", vec![container("init", Exited, 1)], true, "Failed"),
        ("one of two runs", "Always", vec![init.clone(), container("a", Running, 0)], false, "Pending"),
        ("both run", "Always", ab((Running, 0), (Running, 0)), false, "Running"),
        ("one crashed", "Always", ab((Running, 0), (Exited, 1)), false, "Running"),
        ("both crashed", "Always", ab((Exited, 1), (Exited, 1)), false, "Running"),
        ("one done", "Never", ab((Running, 0), (Exited, 0)), false, "Running"),
        ("all done", "Never", ab((Exited, 0), (Exited, 0)), true, "Succeeded"),
        ("one failed", "Never", ab((Exited, 0), (Exited, 2)), true, "Failed"),
        ("failed, restarts", "OnFailure", ab((Exited, 0), (Exited, 2)), false, "Running"),
    ] {
        let mut state = state(policy, &containers);
        state.memory.terminal = over.then(Terminal::default);
        assert_eq!(shown(&state)["phase"], phase, "{case}");
    }
}

#[test]
fn a_running_pod_in_full() {
    let containers = [
        container("init", Life::Exited, 0),
        container("a", Life::Running, 0),
        container("b", Life::Exited, 137),
    ];
    let status = shown(&state("Never", &containers));
    assert_eq!(status["podIP"], "10.0.0.9");
    assert_eq!(status["hostIPs"], json!([{"ip": "192.0.2.10"}]));
    assert_eq!(status["startTime"], "2027-01-15T08:00:00Z");
    let a = &status["containerStatuses"][0];
    assert_eq!(a["state"], json!({"running": {"startedAt": "2027-01-15T08:00:00Z"}}));
    assert_eq!(
        (&a["ready"], &a["started"], &a["containerID"]),
        (&json!(true), &json!(true), &json!("containerd://id-a"))
    );
    let b = &status["containerStatuses"][1]["state"]["terminated"];
    assert_eq!(
        (&b["exitCode"], &b["reason"], &b["finishedAt"]),
        (&json!(137), &json!("Error"), &json!("2027-01-15T08:00:01Z"))
    );
    assert_eq!(status["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    assert_eq!(condition(&status, "Initialized"), ("True", "", ""));
    let unready = ("False", "ContainersNotReady", "containers with unready status: [b]");
    assert_eq!(condition(&status, "Ready"), unready);
    assert_eq!(condition(&status, "ContainersReady"), unready);
    assert_eq!(condition(&status, "PodReadyToStartContainers").0, "True");
    assert_eq!(condition(&status, "PodScheduled").0, "True");
}

#[test]
fn waiting_reasons() {
    let fresh = state("Always", &[]);
    let status = shown(&fresh);
    assert_eq!(status["initContainerStatuses"][0]["state"]["waiting"]["reason"], "ContainerCreating");
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    let incomplete = ("False", "ContainersNotInitialized", "containers with incomplete status: [init]");
    assert_eq!(condition(&status, "Initialized"), incomplete);
    let mut broken = state("Always", &[container("init", Life::Exited, 0)]);
    broken.container("a").error =
        Some(("CreateContainerConfigError".into(), "configmap \"x\" not found".into()));
    let waiting = &shown(&broken)["containerStatuses"][0]["state"]["waiting"];
    assert_eq!(
        *waiting,
        json!({"reason": "CreateContainerConfigError", "message": "configmap \"x\" not found"})
    );
}

#[test]
fn transition_times_and_stored_ends_stay() {
    let containers = [
        container("init", Life::Exited, 0),
        container("a", Life::Running, 0),
        container("b", Life::Running, 0),
    ];
    let mut state = state("Always", &containers);
    let first = status(&state, &Surroundings::default(), now());
    state.memory.status = first.clone();
    let later = super::backoff::after(now(), std::time::Duration::from_secs(60));
    assert_eq!(status(&state, &Surroundings::default(), later), first, "nothing changed, nothing moves");
    state.observed = Observed::default();
    state.memory.terminal = Some(Terminal { failed: None, stored: true });
    let stored = PodStatus { phase: Some("Failed".into()), reason: Some("Evicted".into()), ..first };
    state.memory.status = stored.clone();
    assert_eq!(
        status(&state, &Surroundings::default(), later),
        stored,
        "what the store says of an ended pod stands"
    );
}

#[test]
fn a_deadline_fails_the_pod_at_once() {
    let containers = [container("init", Life::Exited, 0), container("a", Life::Running, 0)];
    let mut state = state("Always", &containers);
    let mut pod = k8s_openapi::api::core::v1::Pod::clone(&state.pod);
    pod.spec.as_mut().expect("spec").active_deadline_seconds = Some(30);
    state.pod = Arc::new(pod);
    let at = |secs| super::backoff::after(now(), std::time::Duration::from_secs(secs));
    state.settle(at(29));
    assert_eq!(state.memory.terminal, None);
    state.settle(at(30));
    let status = shown(&state);
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("DeadlineExceeded")));
}
