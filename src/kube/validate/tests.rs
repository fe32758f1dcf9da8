mod change_tests;

use serde_json::json;

use super::*;

/// `field: message` of every error.
fn texts(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(|error| format!("{}: {}", error.field, error.message)).collect()
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "p", "namespace": "default"}, "spec": spec})
}

/// A pod of one good container and these fields more.
fn with_container(extra: Value) -> Value {
    let mut container = json!({"name": "c", "image": "b"});
    container.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    pod(json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]}))
}

fn with_spec(extra: Value) -> Value {
    let mut spec = json!({"containers": [{"name": "c", "image": "b"}]});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    pod(spec)
}

fn assert_errors(kind: &str, object: &Value, want: &[&str]) {
    let got = texts(&create(kind, object));
    let matches = got.len() == want.len() && got.iter().zip(want).all(|(got, want)| got.starts_with(want));
    assert!(matches, "{object}\n got {got:#?}\nwant {want:#?}");
}

#[test]
fn of_many_errors_the_first_are_told() {
    let many: Vec<Value> = (0..300).map(|_| json!({"image": "b"})).collect();
    let errors = create("Pod", &pod(json!({"containers": many})));
    assert_eq!((errors.len(), errors[0].field.as_str()), (MAX_ERRORS, "spec.containers[0].name"));
}

#[test]
fn good_objects_have_no_errors() {
    let full = json!({
        "containers": [{
            "name": "c", "image": "b:1", "imagePullPolicy": "Always",
            "ports": [{"containerPort": 80, "name": "http", "hostPort": 8080, "protocol": "TCP"}],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}}],
            "envFrom": [{"configMapRef": {"name": "x"}}],
            "volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/b", "subPath": "x/y"}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": 0.5, "memory": "1Gi"}},
            "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "successThreshold": 1},
            "lifecycle": {"preStop": {"exec": {"command": ["x"]}}},
        }],
        "initContainers": [{"name": "i", "image": "b"}],
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "t", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "c", "items": [{"key": "a", "path": "b"}]}},
            {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}],
        "tolerations": [{"operator": "Exists"}, {"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 3}],
        "nodeSelector": {"kubernetes.io/hostname": "edge-1"}, "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
    });
    for (kind, object) in [
        ("Pod", pod(full)),
        ("Namespace", json!({"metadata": {"name": "n"}})),
        ("ConfigMap", json!({"metadata": {"name": "a.b", "namespace": "n"}, "data": {"x.y_z": "1"}})),
        (
            "Node",
            json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": "a/b", "effect": "NoSchedule"}]}}),
        ),
        (
            "Odd",
            json!({"metadata": {"name": "n", "annotations": {"A/b": "c"}, "finalizers": ["a.b/c", "kubernetes"]}}),
        ),
    ] {
        assert_errors(kind, &object, &[]);
        assert_eq!(update(kind, &object, &object), [], "{kind}");
    }
}

#[test]
fn metadata_rules() {
    for (kind, metadata, want) in [
        ("Pod", json!({"namespace": "n"}), "metadata.name: Required value: name or generateName is required"),
        (
            "Pod",
            json!({"name": "A", "namespace": "n"}),
            "metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain",
        ),
        (
            "Namespace",
            json!({"name": "a.b"}),
            "metadata.name: Invalid value: \"a.b\": a lowercase RFC 1123 label",
        ),
        ("Pod", json!({"name": "a"}), "metadata.namespace: Required value"),
        (
            "Node",
            json!({"name": "a", "namespace": "n"}),
            "metadata.namespace: Forbidden: not allowed on this type",
        ),
        (
            "Odd",
            json!({"name": "a", "labels": {"-": "x"}}),
            "metadata.labels: Invalid value: \"-\": name part must consist",
        ),
        (
            "Odd",
            json!({"name": "a", "labels": {"a": "b c"}}),
            "metadata.labels: Invalid value: \"b c\": a valid label must be",
        ),
        (
            "Odd",
            json!({"name": "a", "annotations": {"a b": "c"}}),
            "metadata.annotations: Invalid value: \"a b\"",
        ),
        (
            "Odd",
            json!({"name": "a", "annotations": {"a": "x".repeat(262_144)}}),
            "metadata.annotations: Too long: may not be more than 262144 bytes",
        ),
        (
            "Odd",
            json!({"name": "a", "finalizers": ["mine"]}),
            "metadata.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name",
        ),
        (
            "Odd",
            json!({"name": "a", "ownerReferences": [{"kind": "K", "name": "n", "apiVersion": "v1"}]}),
            "metadata.ownerReferences[0].uid: Required value",
        ),
    ] {
        let mut object = with_spec(json!({}));
        object["metadata"] = metadata;
        assert_errors(kind, &object, &[want]);
    }
    assert_eq!(name("Namespace", "ok"), None);
    assert!(name("Pod", "Not").is_some_and(|text| text.contains("RFC 1123")));
}

#[test]
fn pod_rules() {
    for (spec, want) in [
        (json!({}), vec!["spec.containers: Required value"]),
        (
            json!({"containers": [{}]}),
            vec!["spec.containers[0].name: Required value", "spec.containers[0].image: Required value"],
        ),
        (
            json!({"containers": [{"name": "a", "image": " b"}, {"name": "a", "image": "b"}], "initContainers": [{"name": "A", "image": "b"}]}),
            vec![
                "spec.containers[0].image: Invalid value: \" b\": must not have leading or trailing whitespace",
                "spec.containers[1].name: Duplicate value: \"a\"",
                "spec.initContainers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label",
            ],
        ),
        (
            json!({"hostNetwork": true, "containers": [
                {"name": "a", "image": "b", "ports": [{"containerPort": 80, "hostPort": 81, "protocol": "TCP"}]},
                {"name": "b", "image": "b", "ports": [{"containerPort": 81, "hostPort": 81, "protocol": "TCP"}]}]}),
            vec![
                "spec.containers[0].ports[0].containerPort: Invalid value: 80: must match `hostPort` when `hostNetwork` is true",
                "spec.containers[1].ports[0].hostPort: Duplicate value: \"TCP//81\"",
            ],
        ),
    ] {
        assert_errors("Pod", &pod(spec), &want);
    }
    for (spec, want) in [
        (
            json!({"restartPolicy": "Sometimes"}),
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (json!({"dnsPolicy": "None"}), "spec.dnsConfig: Required value: must provide `dnsConfig`"),
        (
            json!({"terminationGracePeriodSeconds": -1}),
            "spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            json!({"activeDeadlineSeconds": 0}),
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
        ),
        (json!({"nodeSelector": {"a": "b c"}}), "spec.nodeSelector: Invalid value: \"b c\""),
        (json!({"nodeName": "A"}), "spec.nodeName: Invalid value: \"A\""),
        (
            json!({"tolerations": [{"value": "x"}]}),
            "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty",
        ),
        (
            json!({"tolerations": [{"key": "x", "operator": "Is"}]}),
            "spec.tolerations[0].operator: Unsupported value: \"Is\": supported values: \"Equal\", \"Exists\"",
        ),
        (
            json!({"tolerations": [{"key": "x", "tolerationSeconds": 3}]}),
            "spec.tolerations[0].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set",
        ),
        (
            json!({"tolerations": [{"key": "x", "operator": "Exists", "value": "y"}]}),
            "spec.tolerations[0].operator: Invalid value: \"y\": value must be empty",
        ),
        (json!({"volumes": [{"emptyDir": {}}]}), "spec.volumes[0].name: Required value"),
        (json!({"volumes": [{"name": "v"}]}), "spec.volumes[0]: Required value: must specify a volume type"),
        (
            json!({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]}),
            "spec.volumes[1].name: Duplicate value: \"v\"",
        ),
        (
            json!({"volumes": [{"name": "v", "emptyDir": {}, "secret": {"secretName": "s"}}]}),
            "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
        ),
        (
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/a/../b"}}]}),
            "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
        ),
        (
            json!({"volumes": [{"name": "v", "secret": {}}]}),
            "spec.volumes[0].secret.secretName: Required value",
        ),
        (
            json!({"volumes": [{"name": "v", "configMap": {"name": "c", "items": [{"key": "k", "path": "/p"}]}}]}),
            "spec.volumes[0].configMap.items[0].path: Invalid value: \"/p\": must be a relative path",
        ),
        (
            json!({"volumes": [{"name": "v", "configMap": {"name": "c", "defaultMode": 512}}]}),
            "spec.volumes[0].configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777",
        ),
        (json!({"imagePullSecrets": [{}]}), "spec.imagePullSecrets[0].name: Required value"),
        (
            json!({"hostAliases": [{"ip": "x"}]}),
            "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address",
        ),
        (
            json!({"hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a b\nc"]}]}),
            "spec.hostAliases[0].hostnames[0]: Invalid value: \"a b\\nc\": a lowercase RFC 1123 subdomain",
        ),
        (
            json!({"dnsConfig": {"nameservers": ["x\nnameserver 1.1.1.1"]}}),
            "spec.dnsConfig.nameservers[0]: Invalid value: \"x\\nnameserver 1.1.1.1\": must be a valid IP address",
        ),
        (
            json!({"dnsConfig": {"searches": ["a\tb"]}}),
            "spec.dnsConfig.searches[0]: Invalid value: \"a\\tb\"",
        ),
        (
            json!({"dnsConfig": {"options": [{"value": "1"}]}}),
            "spec.dnsConfig.options[0].name: Invalid value: \"\"",
        ),
        (
            json!({"securityContext": {"fsGroup": -1}}),
            "spec.securityContext.fsGroup: Invalid value: -1: must be between",
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "../x", "value": "1"}]}}),
            "spec.securityContext.sysctls[0].name: Invalid value: \"../x\": must have at most 253 characters",
        ),
        (
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]}}}}),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
        ),
    ] {
        assert_errors("Pod", &with_spec(spec), &[want]);
    }
}

#[test]
fn container_rules() {
    for (container, want) in [
        (
            json!({"imagePullPolicy": "Maybe"}),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (json!({"ports": [{}]}), "spec.containers[0].ports[0].containerPort: Required value"),
        (
            json!({"ports": [{"containerPort": 70000}]}),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"ports": [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]}),
            "spec.containers[0].ports[1].name: Duplicate value: \"a\"",
        ),
        (
            json!({"ports": [{"containerPort": 1, "protocol": "IP"}]}),
            "spec.containers[0].ports[0].protocol: Unsupported value: \"IP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (json!({"env": [{"name": ""}]}), "spec.containers[0].env[0].name: Required value"),
        (json!({"env": [{"name": "a=b"}]}), "spec.containers[0].env[0].name: Invalid value: \"a=b\""),
        (
            json!({"env": [{"name": "A", "valueFrom": {}}]}),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of",
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}}]}),
            "spec.containers[0].env[0].valueFrom.secretKeyRef.key: Required value",
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]}),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x\": error converting fieldPath",
        ),
        (json!({"envFrom": [{}]}), "spec.containers[0].envFrom[0]: Invalid value: \"\": must specify one of"),
        (
            json!({"volumeMounts": [{"name": "w", "mountPath": "/a"}]}),
            "spec.containers[0].volumeMounts[0].name: Not found: \"w\"",
        ),
        (
            json!({"volumeMounts": [{"name": "v"}]}),
            "spec.containers[0].volumeMounts[0].mountPath: Required value",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}]}),
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/a:b"}]}),
            "spec.containers[0].volumeMounts[0].mountPath: Invalid value: \"/a:b\": must not contain ':'",
        ),
        (
            json!({"securityContext": {"runAsUser": 9_223_372_036_854_775_807_i64}}),
            "spec.containers[0].securityContext.runAsUser: Invalid value: 9223372036854775807: must be between 0 and",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/a", "subPath": "../x"}]}),
            "spec.containers[0].volumeMounts[0].subPath: Invalid value: \"../x\": must not contain '..'",
        ),
        (
            json!({"resources": {"limits": {"cpu": "1x"}}}),
            "spec.containers[0].resources.limits[cpu]: Invalid value: \"1x\": unable to parse quantity's suffix",
        ),
        (
            json!({"resources": {"limits": {"cpu": "-1"}}}),
            "spec.containers[0].resources.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (
            json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            json!({"livenessProbe": {}}),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            json!({"livenessProbe": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}}),
            "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
        ),
        (
            json!({"livenessProbe": {"exec": {"command": ["a"]}, "successThreshold": 2}}),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            json!({"readinessProbe": {"exec": {}}}),
            "spec.containers[0].readinessProbe.exec.command: Required value",
        ),
        (
            json!({"startupProbe": {"tcpSocket": {"port": 0}}}),
            "spec.containers[0].startupProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"lifecycle": {"preStop": {}}}),
            "spec.containers[0].lifecycle.preStop: Required value: must specify a handler type",
        ),
    ] {
        assert_errors("Pod", &with_container(container), &[want]);
    }
}

#[test]
fn rules_of_the_other_kinds() {
    let meta = json!({"name": "x", "namespace": "n"});
    let big = "x".repeat((1 << 20) + 1);
    for (kind, object, want) in [
        (
            "ConfigMap",
            json!({"metadata": meta, "data": {"a/b": ""}}),
            "data[a/b]: Invalid value: \"a/b\": a valid config key",
        ),
        (
            "ConfigMap",
            json!({"metadata": meta, "data": {"a": big}}),
            "data: Too long: may not be more than 1048576 bytes",
        ),
        (
            "ConfigMap",
            json!({"metadata": meta, "data": {"a": ""}, "binaryData": {"a": ""}}),
            "binaryData[a]: Invalid value: \"a\": duplicate of key present in data",
        ),
        (
            "Secret",
            json!({"metadata": meta, "data": {"..": ""}}),
            "data[..]: Invalid value: \"..\": must not be '..'",
        ),
        (
            "Secret",
            json!({"metadata": meta, "data": {"a": "A".repeat(((1 << 20) / 3 + 1) * 4)}}),
            "data: Too long",
        ),
        (
            "Secret",
            json!({"metadata": meta, "type": "kubernetes.io/ssh-auth"}),
            "data[ssh-privatekey]: Required value",
        ),
        (
            "Secret",
            json!({"metadata": meta, "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "eA=="}}),
            "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\"",
        ),
        (
            "Secret",
            json!({"metadata": meta, "type": "kubernetes.io/service-account-token"}),
            "metadata.annotations[kubernetes.io/service-account.name]: Required value",
        ),
        (
            "Node",
            json!({"metadata": {"name": "x"}, "spec": {"taints": [{"key": "a"}]}}),
            "spec.taints[0].effect: Required value",
        ),
        (
            "Node",
            json!({"metadata": {"name": "x"}, "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}]}}),
            "spec.taints[1]: Duplicate value",
        ),
        (
            "Lease",
            json!({"metadata": meta, "spec": {"leaseDurationSeconds": 0}}),
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
        ),
        (
            "Event",
            json!({"metadata": meta, "involvedObject": {"namespace": "m"}}),
            "involvedObject.namespace: Invalid value: \"m\": does not match event.namespace",
        ),
        (
            "Event",
            json!({"metadata": meta, "involvedObject": {"kind": "Node"}}),
            "involvedObject.namespace: Invalid value: \"\": does not match event.namespace",
        ),
    ] {
        assert_errors(kind, &object, &[want]);
    }
}
