use proptest::prelude::*;
use serde_json::{Value, json};

use super::apply;

fn applied(kind: &str, mut object: Value) -> Value {
    apply(kind, &mut object);
    object
}

#[test]
fn a_plain_pod_looks_as_kubernetes_shows_it() {
    let pod = applied(
        "Pod",
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default", "creationTimestamp": null},
            "spec": {"containers": [{"name": "c", "image": "busybox"}]}, "status": {}}),
    );
    let volume = pod["spec"]["volumes"][0]["name"].as_str().unwrap().to_owned();
    assert!(
        volume.starts_with("kube-api-access-") && volume.len() == "kube-api-access-".len() + 5,
        "{volume}"
    );
    let want = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
        "spec": {
            "containers": [{
                "name": "c", "image": "busybox", "imagePullPolicy": "Always", "resources": {},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "volumeMounts": [{"mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "name": volume, "readOnly": true}],
            }],
            "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority",
            "priority": 0, "restartPolicy": "Always", "schedulerName": "default-scheduler", "securityContext": {},
            "serviceAccount": "default", "serviceAccountName": "default", "terminationGracePeriodSeconds": 30,
            "tolerations": [
                {"effect": "NoExecute", "key": "node.kubernetes.io/not-ready", "operator": "Exists"},
                {"effect": "NoExecute", "key": "node.kubernetes.io/unreachable", "operator": "Exists"},
            ],
            "volumes": [{"name": volume, "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"items": [{"key": "ca.crt", "path": "ca.crt"}], "name": "kube-root-ca.crt"}},
                {"downwardAPI": {"items": [{"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}, "path": "namespace"}]}},
            ]}}],
        },
        "status": {"phase": "Pending", "qosClass": "BestEffort"},
    });
    assert_eq!(pod, want);
}

#[test]
fn what_the_user_says_stays() {
    let spec = json!({
        "containers": [{
            "name": "c", "image": "b:latest", "imagePullPolicy": "Never", "terminationMessagePath": "/x",
            "terminationMessagePolicy": "FallbackToLogsOnError", "resources": {},
            "ports": [{"containerPort": 53, "protocol": "UDP"}],
        }],
        "restartPolicy": "Never", "dnsPolicy": "Default", "schedulerName": "own", "terminationGracePeriodSeconds": 0,
        "enableServiceLinks": false, "securityContext": {"runAsUser": 1}, "priority": 7, "preemptionPolicy": "Never",
        "serviceAccountName": "robot", "serviceAccount": "robot", "automountServiceAccountToken": false,
        "tolerations": [{"operator": "Exists"}],
    });
    let pod = applied("Pod", json!({"metadata": {"name": "p"}, "spec": spec}));
    assert_eq!(pod["spec"], spec);
}

#[test]
fn details_of_a_pod() {
    let pod = applied(
        "Pod",
        json!({"metadata": {"name": "p"}, "spec": {
            "hostNetwork": true, "serviceAccount": "old",
            "initContainers": [{"name": "i", "image": "b:1"}],
            "containers": [{
                "name": "c", "image": "b:1", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": 1, "memory": "1Gi"}, "requests": {"cpu": 0.5}},
                "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 3, "timeoutSeconds": 0},
                "lifecycle": {"preStop": {"httpGet": {"port": 80}}},
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                        {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
            }],
            "volumes": [{"name": "e"}, {"name": "s", "secret": {"secretName": "x"}}, {"name": "h", "hostPath": {"path": "/"}},
                        {"name": "m", "configMap": {"name": "x", "defaultMode": 256}}],
        }}),
    );
    let spec = &pod["spec"];
    let container = &spec["containers"][0];
    for (what, got, want) in [
        ("pull policy by tag", &container["imagePullPolicy"], json!("IfNotPresent")),
        ("port", &container["ports"], json!([{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}])),
        (
            "requests from limits, numbers as text",
            &container["resources"],
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "0.5", "memory": "1Gi"}}),
        ),
        (
            "probe",
            &container["livenessProbe"],
            json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "periodSeconds": 3, "timeoutSeconds": 1,
                "successThreshold": 1, "failureThreshold": 3}),
        ),
        (
            "hook",
            &container["lifecycle"]["preStop"]["httpGet"],
            json!({"port": 80, "path": "/", "scheme": "HTTP"}),
        ),
        ("field", &container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], json!("v1")),
        ("resource", &container["env"][1]["valueFrom"]["resourceFieldRef"]["divisor"], json!("0")),
        ("account", &spec["serviceAccountName"], json!("old")),
        ("empty volume", &spec["volumes"][0], json!({"name": "e", "emptyDir": {}})),
        ("secret", &spec["volumes"][1]["secret"]["defaultMode"], json!(420)),
        ("host path", &spec["volumes"][2]["hostPath"]["type"], json!("")),
        ("own mode", &spec["volumes"][3]["configMap"]["defaultMode"], json!(256)),
        (
            "init containers get the token",
            &spec["initContainers"][0]["volumeMounts"][0]["readOnly"],
            json!(true),
        ),
        ("class", &pod["status"]["qosClass"], json!("Burstable")),
    ] {
        assert_eq!(*got, want, "{what}");
    }
    assert_eq!(spec["volumes"].as_array().unwrap().len(), 5, "one token volume");
}

#[test]
fn the_other_kinds() {
    for (kind, object, want) in [
        (
            "Namespace",
            json!({"metadata": {"name": "n", "creationTimestamp": null}}),
            json!({"metadata": {"name": "n", "labels": {"kubernetes.io/metadata.name": "n"}},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
        ),
        (
            "Namespace",
            json!({"metadata": {"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            json!({"metadata": {"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z", "labels": {"kubernetes.io/metadata.name": "n"}},
                "spec": {}, "status": {"phase": "Terminating"}}),
        ),
        (
            "Secret",
            json!({"data": {"a": "eA=="}, "stringData": {"a": "hello", "b": ""}}),
            json!({"type": "Opaque", "data": {"a": "aGVsbG8=", "b": ""}}),
        ),
        (
            "Node",
            json!({"status": {"capacity": {"cpu": 2}}}),
            json!({"spec": {}, "status": {"capacity": {"cpu": "2"}, "allocatable": {"cpu": "2"}}}),
        ),
        (
            "Event",
            json!({"message": "m", "eventTime": null}),
            json!({"message": "m", "metadata": {}, "involvedObject": {}, "source": {}, "reportingComponent": "", "reportingInstance": ""}),
        ),
        ("Lease", json!({}), json!({"spec": {}})),
        ("TokenRequest", json!({}), json!({"spec": {"expirationSeconds": 3600}})),
        ("ConfigMap", json!({"data": null}), json!({})),
        ("Odd", json!({"a": null}), json!({"a": null})),
    ] {
        assert_eq!(applied(kind, object), want, "{kind}");
    }
}

/// Objects with some of the fields defaults look at, often of the wrong type.
fn any_object() -> impl Strategy<Value = Value> {
    let name = "metadata|spec|status|name|containers|initContainers|volumes|image|resources|limits|requests|cpu|ports|containerPort|hostNetwork|env|valueFrom|fieldRef|livenessProbe|httpGet|secret|projected|sources|serviceAccountToken|tolerations|volumeMounts|serviceAccount|stringData|data|labels|key|effect";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..3).prop_map(Value::from),
        "[a-b]?|NoExecute".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            3 => prop::collection::btree_map(name, inner, 0..6).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn twice_is_once(object in any_object(), spec in any_object()) {
        for kind in ["Pod", "Namespace", "Node", "Secret", "Event", "Lease", "ConfigMap", "ServiceAccount", "TokenRequest"] {
            for object in [object.clone(), json!({"spec": spec, "metadata": {"name": "x"}})] {
                let once = applied(kind, object);
                prop_assert_eq!(applied(kind, once.clone()), once, "{}", kind);
            }
        }
    }

    #[test]
    fn pods_twice_are_once(containers in prop::collection::vec(any_object(), 0..3), volumes in prop::collection::vec(any_object(), 0..3)) {
        let once = applied("Pod", json!({"metadata": {"name": "p"}, "spec": {"containers": containers, "volumes": volumes}}));
        prop_assert_eq!(applied("Pod", once.clone()), once);
    }
}
