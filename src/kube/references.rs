//! What a pod needs beside itself. Everything found here follows the pod to its node.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::kube::names::dns_subdomain;

/// Kinds a pod can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RefKind {
    ConfigMap,
    Secret,
    ServiceAccount,
    PersistentVolumeClaim,
}

/// One named object in the pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    pub kind: RefKind,
    pub namespace: String,
    pub name: String,
}

impl Reference {
    #[must_use]
    pub fn new(kind: RefKind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// Everything `pod` names: volumes (projected sources too), the environment of all three kinds of
/// containers, image pull secrets, its service account. Malformed parts name nothing, nor does text that can be
/// no object's name: it would become part of a path.
#[must_use]
pub fn of_pod(pod: &Value) -> BTreeSet<Reference> {
    let mut found = Collector {
        namespace: pod.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default(),
        refs: BTreeSet::new(),
    };
    let Some(spec) = pod.get("spec") else { return found.refs };
    for volume in items(spec, "volumes") {
        found.volume(volume);
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items(spec, list) {
            found.environment(container);
        }
    }
    for secret in items(spec, "imagePullSecrets") {
        found.add(RefKind::Secret, secret.get("name"));
    }
    let account = spec.get("serviceAccountName").or_else(|| spec.get("serviceAccount"));
    match account.and_then(Value::as_str) {
        Some(name) if !name.is_empty() => found.add(RefKind::ServiceAccount, account),
        _ => found.add(RefKind::ServiceAccount, Some(&Value::from("default"))),
    }
    found.refs
}

/// The pull secrets that pods of this service account use.
#[must_use]
pub fn of_service_account(account: &Value) -> BTreeSet<Reference> {
    let namespace = account.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
    let mut found = Collector { namespace, refs: BTreeSet::new() };
    for secret in items(account, "imagePullSecrets") {
        found.add(RefKind::Secret, secret.get("name"));
    }
    found.refs
}

struct Collector<'a> {
    namespace: &'a str,
    refs: BTreeSet<Reference>,
}

impl Collector<'_> {
    fn add(&mut self, kind: RefKind, name: Option<&Value>) {
        if let Some(name) = name.and_then(Value::as_str)
            && dns_subdomain(name).is_empty()
        {
            self.refs.insert(Reference::new(kind, self.namespace, name));
        }
    }

    fn volume(&mut self, volume: &Value) {
        self.add(RefKind::ConfigMap, volume.pointer("/configMap/name"));
        self.add(RefKind::Secret, volume.pointer("/secret/secretName"));
        self.add(RefKind::Secret, volume.pointer("/csi/nodePublishSecretRef/name"));
        self.add(RefKind::Secret, volume.pointer("/azureFile/secretName"));
        for driver in ["cephfs", "rbd", "iscsi", "flexVolume", "scaleIO", "storageos"] {
            self.add(RefKind::Secret, volume.get(driver).and_then(|it| it.pointer("/secretRef/name")));
        }
        self.add(RefKind::PersistentVolumeClaim, volume.pointer("/persistentVolumeClaim/claimName"));
        if let Some(projected) = volume.get("projected") {
            for source in items(projected, "sources") {
                self.add(RefKind::ConfigMap, source.pointer("/configMap/name"));
                self.add(RefKind::Secret, source.pointer("/secret/name"));
            }
        }
    }

    fn environment(&mut self, container: &Value) {
        for variable in items(container, "env") {
            self.add(RefKind::ConfigMap, variable.pointer("/valueFrom/configMapKeyRef/name"));
            self.add(RefKind::Secret, variable.pointer("/valueFrom/secretKeyRef/name"));
        }
        for source in items(container, "envFrom") {
            self.add(RefKind::ConfigMap, source.pointer("/configMapRef/name"));
            self.add(RefKind::Secret, source.pointer("/secretRef/name"));
        }
    }
}

fn items<'a>(object: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    object.get(list).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names(spec: Value) -> Vec<String> {
        let pod = json!({"metadata": {"namespace": "ns"}, "spec": spec});
        of_pod(&pod).iter().map(|it| format!("{:?} {}", it.kind, it.name)).collect()
    }

    #[test]
    fn every_place_a_pod_can_name_something() {
        let default = "ServiceAccount default";
        for (case, spec, want) in [
            ("nothing", json!({}), vec![default]),
            ("account", json!({"serviceAccountName": "sa"}), vec!["ServiceAccount sa"]),
            ("volume", json!({"volumes": [{"configMap": {"name": "c"}}]}), vec!["ConfigMap c", default]),
            ("secret", json!({"volumes": [{"secret": {"secretName": "s"}}]}), vec!["Secret s", default]),
            (
                "projected",
                json!({"volumes": [{"projected": {"sources": [
                    {"configMap": {"name": "c"}}, {"secret": {"name": "s"}}, {"serviceAccountToken": {"path": "t"}}]}}]}),
                vec!["ConfigMap c", "Secret s", default],
            ),
            (
                "init container environment",
                json!({"initContainers": [{"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}]}),
                vec!["Secret s", default],
            ),
            (
                "ephemeral container",
                json!({"ephemeralContainers": [{"envFrom": [{"configMapRef": {"name": "c"}}]}]}),
                vec!["ConfigMap c", default],
            ),
            ("pull secret", json!({"imagePullSecrets": [{"name": "p"}]}), vec!["Secret p", default]),
            (
                "claim",
                json!({"volumes": [{"persistentVolumeClaim": {"claimName": "d"}}]}),
                vec![default, "PersistentVolumeClaim d"],
            ),
            (
                "no names",
                json!({"volumes": [{"secret": {"secretName": "../x"}}, {"configMap": {"name": ".."}}]}),
                vec![default],
            ),
            ("malformed", json!({"volumes": {"configMap": 1}, "containers": [7, null]}), vec![default]),
        ] {
            assert_eq!(names(spec), want, "{case}");
        }
        assert!(of_pod(&json!(null)).is_empty());
    }
}
