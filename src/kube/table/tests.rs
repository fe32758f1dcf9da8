use serde_json::json;

use super::*;

const NOW: &str = "2026-11-22T20:00:00Z";

fn row(kind: &str, object: Value) -> Vec<String> {
    let cells = cells(kind, &object, NOW.parse().unwrap());
    assert_eq!(cells.len(), columns(kind).len(), "{kind}");
    cells.iter().map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned)).collect()
}

fn pod(status: Value) -> Value {
    json!({
        "metadata": {"name": "p", "creationTimestamp": "2026-11-22T19:55:00Z"},
        "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]},
        "status": status,
    })
}

#[test]
fn pod_status_words() {
    let running = json!({"ready": true, "restartCount": 0, "state": {"running": {}}});
    let waiting =
        |reason: &str| json!({"ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason}}});
    let ended =
        |terminated: Value| json!({"ready": false, "restartCount": 0, "state": {"terminated": terminated}});
    let init_done = json!({"name": "i", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
    for (case, status, want) in [
        ("new", json!({"phase": "Pending"}), ["0/3", "Pending", "0"]),
        ("evicted", json!({"phase": "Failed", "reason": "Evicted"}), ["0/3", "Evicted", "0"]),
        (
            "gated",
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}),
            ["0/3", "SchedulingGated", "0"],
        ),
        (
            "creating",
            json!({"phase": "Pending", "containerStatuses": [waiting("ContainerCreating")]}),
            ["0/3", "ContainerCreating", "0"],
        ),
        (
            "running",
            json!({"phase": "Running", "containerStatuses": [running, running]}),
            ["2/3", "Running", "0"],
        ),
        (
            "crash loop",
            json!({"phase": "Running", "containerStatuses": [
                {"ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                 "lastState": {"terminated": {"finishedAt": "2026-11-22T19:59:55Z"}}}, running]}),
            ["1/3", "CrashLoopBackOff", "3 (5s ago)"],
        ),
        (
            "error",
            json!({"phase": "Failed", "containerStatuses": [ended(json!({"exitCode": 1, "reason": "Error"}))]}),
            ["0/3", "Error", "0"],
        ),
        (
            "exit code",
            json!({"phase": "Failed", "containerStatuses": [ended(json!({"exitCode": 2}))]}),
            ["0/3", "ExitCode:2", "0"],
        ),
        (
            "signal",
            json!({"phase": "Failed", "containerStatuses": [ended(json!({"exitCode": 137, "signal": 9}))]}),
            ["0/3", "Signal:9", "0"],
        ),
        (
            "completed",
            json!({"phase": "Succeeded", "containerStatuses": [ended(json!({"exitCode": 0, "reason": "Completed"}))]}),
            ["0/3", "Completed", "0"],
        ),
        (
            "one completed, one runs",
            json!({"phase": "Running", "containerStatuses": [ended(json!({"exitCode": 0, "reason": "Completed"})), running]}),
            ["1/3", "NotReady", "0"],
        ),
        (
            "one completed, one runs, ready",
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [ended(json!({"exitCode": 0, "reason": "Completed"})), running]}),
            ["1/3", "Running", "0"],
        ),
        (
            "init runs",
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 1, "state": {"running": {}}}],
                "containerStatuses": [waiting("PodInitializing")]}),
            ["0/3", "Init:0/2", "1"],
        ),
        (
            "sidecar starts",
            json!({"phase": "Pending", "initContainerStatuses": [init_done, {"name": "s", "state": {"waiting": {"reason": "PodInitializing"}}}]}),
            ["0/3", "Init:1/2", "0"],
        ),
        (
            "init failed",
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
            ["0/3", "Init:Error", "0"],
        ),
        (
            "init crash loop",
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            ["0/3", "Init:CrashLoopBackOff", "0"],
        ),
        (
            "init done",
            json!({"phase": "Running", "initContainerStatuses": [init_done, {"name": "s", "started": true, "ready": true, "restartCount": 2}],
                "containerStatuses": [running, running]}),
            ["3/3", "Running", "2"],
        ),
    ] {
        assert_eq!(row("Pod", pod(status))[1..4], want, "{case}");
    }
}

#[test]
fn pods_that_are_being_deleted() {
    for (status, want) in [
        (json!({"phase": "Running"}), "Terminating"),
        (json!({"phase": "Running", "reason": "NodeLost"}), "Unknown"),
        (json!({"phase": "Succeeded"}), "Succeeded"),
    ] {
        let mut pod = pod(status);
        pod["metadata"]["deletionTimestamp"] = NOW.into();
        assert_eq!(row("Pod", pod)[2], want);
    }
}

#[test]
fn wide_columns_of_a_pod() {
    let mut pod = pod(
        json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.2"}], "conditions": [{"type": "x", "status": "True"}]}),
    );
    assert_eq!(row("Pod", pod.clone())[4..], ["5m", "10.0.0.2", "<none>", "<none>", "<none>"]);
    pod["spec"]["nodeName"] = "edge-1".into();
    pod["spec"]["readinessGates"] = json!([{"conditionType": "x"}, {"conditionType": "y"}]);
    assert_eq!(row("Pod", pod)[5..], ["10.0.0.2", "edge-1", "<none>", "1/2"]);
}

#[test]
fn nodes() {
    let node = |ready: Value, unschedulable: bool| {
        json!({
            "metadata": {"name": "edge-1", "creationTimestamp": "2026-11-20T20:00:00Z",
                "labels": {"node-role.kubernetes.io/edge": "", "node-role.kubernetes.io/agent": "", "kubernetes.io/role": "agent"}},
            "spec": {"unschedulable": unschedulable},
            "status": {"conditions": ready, "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "nodeInfo": {"kubeletVersion": "v1.32.0", "osImage": "Debian", "kernelVersion": "6.1"}},
        })
    };
    let wide = ["agent,edge", "2d", "v1.32.0", "10.0.0.1", "<none>", "Debian", "6.1", "<unknown>"];
    for (ready, unschedulable, status) in [
        (json!([]), false, "Unknown"),
        (json!([{"type": "Ready", "status": "True"}]), false, "Ready"),
        (json!([{"type": "Ready", "status": "Unknown"}]), false, "NotReady"),
        (json!([{"type": "Ready", "status": "True"}]), true, "Ready,SchedulingDisabled"),
    ] {
        let row = row("Node", node(ready, unschedulable));
        assert_eq!(row[..2], ["edge-1", status]);
        assert_eq!(row[2..], wide);
    }
    assert_eq!(row("Node", json!({"metadata": {"name": "n"}}))[2..4], ["<none>", "<unknown>"]);
}

#[test]
fn the_other_kinds() {
    let meta = json!({"name": "x", "creationTimestamp": "2026-11-22T19:00:00Z"});
    for (kind, object, want) in [
        ("Namespace", json!({"metadata": meta, "status": {"phase": "Active"}}), vec!["x", "Active", "60m"]),
        (
            "ConfigMap",
            json!({"metadata": meta, "data": {"a": "b"}, "binaryData": {"c": ""}}),
            vec!["x", "2", "60m"],
        ),
        (
            "Secret",
            json!({"metadata": meta, "type": "Opaque", "data": {"a": ""}}),
            vec!["x", "Opaque", "1", "60m"],
        ),
        ("ServiceAccount", json!({"metadata": meta}), vec!["x", "0", "60m"]),
        ("Lease", json!({"metadata": meta, "spec": {"holderIdentity": "h"}}), vec!["x", "h", "60m"]),
        ("Device", json!({"metadata": meta}), vec!["x", "60m"]),
        (
            "Event",
            json!({"metadata": meta, "type": "Warning", "reason": "Failed", "message": " no image\n", "count": 4,
                "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{a}"},
                "source": {"component": "kubelet", "host": "edge-1"},
                "firstTimestamp": "2026-11-22T19:59:00Z", "lastTimestamp": "2026-11-22T19:59:50Z"}),
            vec![
                "10s",
                "Warning",
                "Failed",
                "pod/p",
                "spec.containers{a}",
                "kubelet, edge-1",
                "no image",
                "60s",
                "4",
                "x",
            ],
        ),
        (
            "Event",
            json!({"metadata": meta, "eventTime": "2026-11-22T19:59:00.000001Z", "reportingComponent": "c",
                "involvedObject": {"kind": "Node"}, "firstTimestamp": null,
                "series": {"count": 7, "lastObservedTime": "2026-11-22T19:59:59.000000Z"}}),
            vec!["1s", "", "", "node", "", "c", "", "59s", "7", "x"],
        ),
    ] {
        assert_eq!(row(kind, object), want, "{kind}");
    }
}

#[test]
fn empty_objects_and_wrong_types_still_make_rows() {
    for kind in ["Pod", "Node", "Namespace", "ConfigMap", "Secret", "ServiceAccount", "Lease", "Event", "Odd"]
    {
        for object in [json!({}), json!(null), json!({"metadata": 1, "spec": [], "status": "x", "data": 1})] {
            row(kind, object);
        }
        assert_eq!(columns(kind).iter().filter(|column| column.format == "name").count(), 1, "{kind}");
    }
}

#[test]
fn roles_and_bindings() {
    let meta = json!({"name": "x", "creationTimestamp": "2026-11-22T19:55:00Z"});
    assert_eq!(row("Role", json!({"metadata": meta})), ["x", "2026-11-22T19:55:00Z"]);
    let binding = json!({
        "metadata": meta, "roleRef": {"kind": "ClusterRole", "name": "view"},
        "subjects": [
            {"kind": "User", "name": "ann"}, {"kind": "User", "name": "bob"}, {"kind": "Group", "name": "ops"},
            {"kind": "ServiceAccount", "namespace": "team", "name": "bot"},
        ],
    });
    assert_eq!(row("RoleBinding", binding), ["x", "ClusterRole/view", "5m", "ann, bob", "ops", "team/bot"]);
}
