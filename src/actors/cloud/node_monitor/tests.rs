use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::core::Core;
use super::judge::{Change, Node, judge, pod_patch};

const GRACE: SignedDuration = SignedDuration::from_secs(40);

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + secs).unwrap()
}

fn node(ready: &str, taints: Value) -> Node {
    let conditions = match ready {
        "" => json!([]),
        ready => json!([
            {"type": "Ready", "status": ready, "lastHeartbeatTime": "t0"},
            {"type": "MemoryPressure", "status": if ready == "Unknown" { "Unknown" } else { "False" }},
        ]),
    };
    let object = json!({"metadata": {"name": "n1", "uid": "u"}, "spec": {"taints": taints}, "status": {"conditions": conditions}});
    Node::read(&object)
}

fn taint(key: &str) -> Value {
    json!({"key": format!("node.kubernetes.io/{key}"), "effect": "NoSchedule"})
}

/// The names of what changes, with the keys of the taints left.
fn words(changes: &[Change]) -> Vec<String> {
    let word = |change: &Change| match change {
        Change::PodsUnknown => "pods unknown".to_owned(),
        Change::PodsKnown => "pods known".to_owned(),
        Change::Conditions(_) => "conditions".to_owned(),
        Change::Taints(taints) => {
            let keys: Vec<&str> = taints.iter().filter_map(|taint| taint["key"].as_str()).collect();
            format!("taints {}", keys.join(" ").replace("node.kubernetes.io/", ""))
        }
    };
    changes.iter().map(word).collect()
}

#[test]
fn nodes_are_judged() {
    let own = json!({"key": "own", "effect": "NoExecute"});
    let (none, unreachable, not_ready) =
        (json!([]), json!([taint("unreachable")]), json!([taint("not-ready")]));
    let silence = ["pods unknown", "conditions", "taints unreachable"];
    for (case, node, heard, now, want) in [
        ("fine", node("True", none.clone()), Some(0), 40, vec![]),
        ("silent", node("True", none.clone()), Some(0), 41, silence.to_vec()),
        ("silent and known to be", node("Unknown", unreachable.clone()), Some(0), 99, vec![]),
        ("silent, taint missing", node("Unknown", none.clone()), Some(0), 99, vec!["taints unreachable"]),
        ("silent after not ready", node("False", not_ready.clone()), Some(0), 99, silence.to_vec()),
        ("never heard of, just started", node("True", none.clone()), None, 40, vec![]),
        ("never heard of", node("True", none.clone()), None, 41, silence.to_vec()),
        ("heard before this process started", node("True", none.clone()), Some(-500), 40, vec![]),
        ("not ready", node("False", none.clone()), Some(0), 1, vec!["taints not-ready"]),
        ("new", node("", none.clone()), Some(0), 1, vec!["taints not-ready"]),
        ("ready at last", node("True", not_ready), Some(0), 1, vec!["taints "]),
        ("back", node("True", unreachable.clone()), Some(0), 1, vec!["pods known", "taints "]),
        (
            "back, but not ready",
            node("False", unreachable.clone()),
            Some(0),
            1,
            vec!["pods known", "taints not-ready"],
        ),
        ("lease renewed, status not yet posted", node("Unknown", unreachable), Some(0), 1, vec![]),
        ("other taints stay", node("False", json!([own])), Some(0), 1, vec!["taints own not-ready"]),
    ] {
        let changes = judge(&node, heard.map(at), at(now), at(0), GRACE, at(now));
        assert_eq!(words(&changes), want, "{case}");
    }
}

#[test]
fn a_silent_node_is_described_as_kubernetes_does() {
    let changes = judge(&node("True", json!([])), None, at(41), at(0), GRACE, at(41));
    let Some(Change::Conditions(patch)) = changes.get(1) else { panic!("{changes:?}") };
    let conditions = patch["status"]["conditions"].as_array().unwrap();
    let want = json!({"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
        "message": "Kubelet stopped posting node status.", "lastTransitionTime": "2027-01-15T08:00:41Z"});
    assert_eq!(conditions[0], want);
    assert_eq!(conditions.len(), 4);
    assert_eq!(conditions[2]["reason"], "NodeStatusNeverUpdated");
    let Some(Change::Taints(taints)) = changes.get(2) else { panic!("{changes:?}") };
    assert_eq!(taints[0]["effect"], "NoSchedule", "nothing is evicted");
}

#[test]
fn pods_of_a_silent_node_are_not_ready_until_it_is_back() {
    let pod = |ready: &str, reason: &str, containers: &str| {
        json!({"status": {"conditions": [
            {"type": "Ready", "status": ready, "reason": reason}, {"type": "ContainersReady", "status": containers}]}})
    };
    for (case, pod, known, want) in [
        ("ready", pod("True", "", "True"), false, Some("False")),
        ("not ready anyway", pod("False", "ContainersNotReady", "False"), false, None),
        ("no conditions", json!({}), false, None),
        ("taken back", pod("False", "NodeNotReady", "True"), true, Some("True")),
        ("its containers are not ready", pod("False", "NodeNotReady", "False"), true, None),
        ("not our doing", pod("False", "ReadinessGatesNotReady", "True"), true, None),
        ("ready already", pod("True", "", "True"), true, None),
    ] {
        let patch = pod_patch(&pod, known, at(0));
        let status = patch.as_ref().and_then(|patch| patch["status"]["conditions"][0]["status"].as_str());
        assert_eq!(status, want, "{case}");
    }
}

#[test]
fn leases_and_reports_are_signs_of_life() {
    let mut core = Core::new(at(0), GRACE);
    core.list_begins();
    core.listed(node("True", json!([])));
    core.list_ends(at(0));
    core.lease_seen("n1", "a", at(30));
    assert_eq!(core.next(at(41), at(41)).len(), 1, "an old lease seen for the first time is no sign of life");
    core.done("n1", true, at(41), 0.0);
    core.lease_seen("n1", "b", at(42));
    assert_eq!(core.next(at(82), at(82)).len(), 0);
    core.lease_seen("n1", "b", at(82));
    assert_eq!(core.next(at(83), at(83)).len(), 1, "the same lease again is none either");
    core.done("n1", true, at(83), 0.0);
    let mut reported = node("True", json!([]));
    reported.heartbeat = "t1".to_owned();
    core.node_seen(reported.clone(), at(90));
    assert_eq!(core.next(at(130), at(130)).len(), 0);
    core.node_seen(reported, at(130));
    assert_eq!(core.next(at(131), at(131)).len(), 1);
    assert_eq!(core.counts(), (1, 0, 0));
}

#[test]
fn our_own_change_is_no_sign_of_life() {
    let mut core = Core::new(at(0), GRACE);
    core.node_seen(node("True", json!([])), at(0));
    assert_eq!(core.next(at(41), at(41)).len(), 1);
    core.node_seen(node("Unknown", json!([taint("unreachable")])), at(42));
    core.done("n1", true, at(42), 0.0);
    assert_eq!(core.next(at(50), at(50)).len(), 0, "silent, known and tainted");
    core.node_seen(node("True", json!([taint("unreachable")])), at(51));
    let due = core.next(at(51), at(51));
    assert_eq!(words(&due[0].1), ["pods known", "taints "]);
}

#[test]
fn failures_pause_and_work_is_done_once() {
    let mut core = Core::new(at(0), GRACE);
    core.node_seen(node("True", json!([])), at(0));
    assert_eq!(core.next(at(50), at(50)).len(), 1);
    assert_eq!(core.next(at(51), at(51)).len(), 0, "under way");
    core.done("n1", false, at(51), 1.0);
    assert_eq!(core.next(at(53), at(53)).len(), 0, "two seconds and the jitter");
    assert_eq!(core.next(at(54), at(54)).len(), 1);
    core.node_deleted("n1");
    core.done("n1", true, at(55), 0.0);
    assert_eq!((core.next(at(99), at(99)).len(), core.counts()), (0, (0, 0, 0)));
}
