//! Views against objects as Kubernetes has them, and against what nobody should send.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn shown(view: impl serde::Serialize) -> Value {
    serde_json::to_value(view).unwrap()
}

#[test]
fn a_pod_has_kubectls_status_and_says_why() {
    let pod = |status: Value, deleting: bool| {
        let mut object = json!({
            "metadata": {"namespace": "default", "name": "web", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "edge-1", "initContainers": [{"name": "first", "image": "i"}],
                "containers": [{"name": "main", "image": "m"}]},
            "status": status});
        if deleting {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
        }
        super::pod(&object)
    };
    let done = json!([{"name": "first", "restartCount": 0, "ready": true,
        "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]);
    let main = |state: Value, ready: bool| {
        json!({"phase": "Running", "initContainerStatuses": done, "podIPs": [{"ip": "10.0.0.9"}],
            "containerStatuses": [{"name": "main", "restartCount": 3, "ready": ready, "state": state,
                "lastState": {"terminated": {"exitCode": 7, "reason": "Error"}}}]})
    };
    let running = || main(json!({"running": {"startedAt": "2026-01-01T00:00:01Z"}}), true);
    let crashing = main(json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}), false);
    let init = |state: Value| json!({"phase": "Pending", "initContainerStatuses": [{"name": "first", "state": state}]});
    for (case, view, status, message, ready) in [
        ("running", pod(running(), false), "Running", "", 1),
        ("ending", pod(running(), true), "Terminating", "", 1),
        ("crashing", pod(crashing, false), "CrashLoopBackOff", "CrashLoopBackOff: back-off 10s", 0),
        ("init", pod(init(json!({"running": {}})), false), "Init:0/1", "", 0),
        ("init fails", pod(init(json!({"terminated": {"exitCode": 2}})), false), "Init:ExitCode:2", "", 0),
        (
            "unschedulable",
            pod(
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
                    "reason": "Unschedulable", "message": "no node fits"}]}),
                false,
            ),
            "Pending",
            "Unschedulable: no node fits",
            0,
        ),
        ("evicted", pod(json!({"phase": "Failed", "reason": "Evicted"}), true), "Evicted", "Evicted", 0),
        ("new", pod(Value::Null, false), "", "", 0),
    ] {
        let want = (status, message, ready, 1);
        assert_eq!((view.status.as_str(), view.message.as_str(), view.ready, view.total), want, "{case}");
    }
    let view = shown(pod(running(), false));
    assert_eq!(
        (&view["key"], &view["ip"], &view["restarts"]),
        (&json!("default/web"), &json!("10.0.0.9"), &json!(3))
    );
    assert_eq!(
        view["containers"],
        json!([
            {"name": "first", "image": "i", "state": "terminated", "why": "Completed", "ready": true, "restarts": 0,
                "startedMs": 0, "lastEnd": ""},
            {"name": "main", "image": "m", "state": "running", "why": "", "ready": true, "restarts": 3,
                "startedMs": 1_767_225_601_000_u64, "lastEnd": "Error, exit code 7"},
        ])
    );
}

#[test]
fn a_node_says_how_it_is() {
    let object = json!({
        "metadata": {"name": "edge-1", "labels": {"node-role.kubernetes.io/edge": "", "node-role.kubernetes.io/agent": ""}},
        "spec": {"unschedulable": true},
        "status": {
            "addresses": [{"type": "Hostname", "address": "edge-1"}, {"type": "InternalIP", "address": "10.0.0.1"}],
            "capacity": {"cpu": "2", "memory": "16Gi", "pods": "110"},
            "nodeInfo": {"kubeletVersion": "v1.35.0", "architecture": "amd64"},
            "conditions": [
                {"type": "DiskPressure", "status": "True", "message": "full"},
                {"type": "MemoryPressure", "status": "False"},
                {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "no lease",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let view = node(&object);
    assert_eq!((view.key.as_str(), view.ready.as_str(), view.unschedulable), ("edge-1", "Unknown", true));
    assert_eq!((view.why.as_str(), view.since_ms), ("NodeStatusUnknown: no lease", 1_767_225_600_000));
    assert_eq!((view.address.as_str(), view.pressures), ("10.0.0.1", vec!["DiskPressure: full".to_owned()]));
    assert_eq!(view.roles, ["agent", "edge"]);
    assert_eq!(node(&json!({"metadata": {"name": "x"}})).ready, "Unknown");
}

#[test]
fn events_of_both_apis_are_read() {
    let object = json!({"metadata": {"namespace": "a", "name": "e"}, "type": "Warning", "reason": "BackOff",
        "message": "m", "count": 4, "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:09Z",
        "source": {"component": "kubelet", "host": "edge-1"},
        "involvedObject": {"kind": "Pod", "namespace": "a", "name": "web"}});
    let view = event(&object);
    assert_eq!(
        (view.count, view.last_ms - view.first_ms, view.source.as_str()),
        (4, 9000, "kubelet, edge-1")
    );
    let object = json!({"metadata": {"namespace": "a", "name": "e"}, "eventTime": "2026-01-01T00:00:00.5Z",
        "reportingComponent": "c", "series": {"count": 7, "lastObservedTime": "2026-01-01T00:00:01.25Z"}});
    let view = event(&object);
    assert_eq!((view.count, view.last_ms - view.first_ms, view.source.as_str()), (7, 750, "c"));
}

#[test]
fn a_device_is_three_objects() {
    let object = json!({"metadata": {"namespace": "a", "name": "d"}, "spec": {"nodeName": "n",
        "deviceModelRef": {"name": "m"}, "protocol": {"protocolName": "modbus"},
        "properties": [{"name": "z", "desired": {"value": "1"}}, {"name": "a"}]}});
    let part = device_part(&object);
    assert_eq!(part.model_key(), "a/m");
    let bare = device(&part, None, None);
    let names: Vec<&str> = bare.twins.iter().map(|twin| twin.property.as_str()).collect();
    assert_eq!((names, bare.state.as_str()), (vec!["z", "a"], ""));
    let model = model_part(&json!({"spec": {"properties": [
        {"name": "z", "type": "INT", "unit": "°C", "accessMode": "ReadWrite"}]}}));
    let status = status_part(
        &json!({"status": {"state": "online", "lastOnlineTime": "2026-01-01T00:00:00Z", "twins": [
        {"propertyName": "z", "reported": {"value": "2", "metadata": {"timestamp": "5"}}, "observedDesired": {"value": "1"}},
        {"propertyName": "free", "reported": {"value": "3", "metadata": {"timestamp": 6}}}]}}),
    );
    let view = shown(device(&part, Some(&model), Some(&status)));
    assert_eq!(
        view["twins"][0],
        json!({"property": "z", "desired": "1", "reported": "2", "observedDesired": "1", "atMs": 5, "dataType": "int",
            "unit": "°C", "writable": true})
    );
    assert_eq!((&view["twins"][2]["property"], &view["twins"][2]["atMs"]), (&json!("free"), &json!(6)));
    assert_eq!((&view["state"], &view["lastOnlineMs"]), (&json!("online"), &json!(1_767_225_600_000_u64)));
}

#[test]
fn long_texts_are_cut_at_a_character() {
    let long = "ü".repeat(MAX_TEXT);
    let view = event(&json!({"message": long}));
    assert!(view.message.len() <= MAX_TEXT + '…'.len_utf8() && view.message.ends_with("ü…"));
    assert_eq!(clip("abc", 3), "abc");
    assert_eq!(clip("ü", 1), "…");
}

/// Any JSON.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        "2026-0[0-9]-01T00:00:00Z".prop_map(Value::from),
    ];
    let names = prop::sample::select(vec![
        "metadata",
        "name",
        "namespace",
        "spec",
        "status",
        "conditions",
        "type",
        "containers",
        "containerStatuses",
        "state",
        "waiting",
        "terminated",
        "reason",
        "twins",
        "properties",
        "reported",
        "value",
        "labels",
        "addresses",
        "initContainers",
        "initContainerStatuses",
        "exitCode",
        "metadata",
        "timestamp",
        "count",
        "deletionTimestamp",
    ]);
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(names.clone(), inner, 0..6)
                .prop_map(|map| map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    /// No object, however odd, keeps a view from being made.
    #[test]
    fn views_are_total(object in anything()) {
        let part = device_part(&object);
        let device = device(&part, Some(&model_part(&object)), Some(&status_part(&object)));
        for view in [shown(pod(&object)), shown(node(&object)), shown(event(&object)), shown(device)] {
            prop_assert!(view["key"].is_string());
        }
    }
}
