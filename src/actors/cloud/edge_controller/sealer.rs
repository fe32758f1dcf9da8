//! Cloudcore's seal on every pod that goes to its node (design D8). No I/O.
//!
//! A seal is made when a message is: a pod has one node, so nothing would be shared by keeping it, and
//! signing costs some 50 microseconds.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value};

use crate::identity::{Ca, IdentityError, seal};
use crate::model::NodeName;
use crate::model::identity::SEAL_ANNOTATION;

/// A node made this pod from a file of its own and only shows it to the API. Sealing it would let a
/// node choose what it is told to run.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Kind in the seal.
const KIND: &str = "pod";

/// Puts seals on pods.
#[derive(Clone)]
pub struct Sealer(Arc<Ca>);

impl Sealer {
    #[must_use]
    pub fn new(ca: Arc<Ca>) -> Self {
        Self(ca)
    }

    /// The pod with a seal for `node` in the place of whatever stood there. Mirror pods get none.
    ///
    /// # Errors
    /// [`IdentityError`] when nothing can be signed; the pod then has no seal at all.
    pub fn seal(&self, node: &NodeName, pod: &mut Value, now: SystemTime) -> Result<(), IdentityError> {
        if let Some(annotations) = annotations(pod) {
            annotations.remove(SEAL_ANNOTATION);
            if annotations.contains_key(MIRROR) {
                return Ok(());
            }
        }
        let seal = self.0.seal(KIND, node, &seal::pod_payload(pod), now)?;
        if let Some(meta) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
            let entry = meta.entry("annotations").or_insert(Value::Null);
            if !entry.is_object() {
                *entry = Value::Object(Map::new());
            }
            if let Some(annotations) = entry.as_object_mut() {
                annotations.insert(SEAL_ANNOTATION.to_owned(), Value::from(seal));
            }
        }
        Ok(())
    }
}

fn annotations(pod: &mut Value) -> Option<&mut Map<String, Value>> {
    pod.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()
}

/// Is it a pod, as the API answers?
#[must_use]
pub fn is_pod(object: &Value) -> bool {
    object.get("kind").and_then(Value::as_str) == Some("Pod")
        && object.get("apiVersion").and_then(Value::as_str) == Some("v1")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::identity::CaSettings;

    fn pod() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "namespace": "default", "uid": "u-1", "resourceVersion": "7",
                "labels": {"app": "web"}},
            "spec": {"nodeName": "edge-1", "containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Pending"}})
    }

    fn world() -> (tempfile::TempDir, Arc<Ca>, NodeName) {
        let folder = tempfile::tempdir().unwrap();
        let settings = CaSettings::new(&folder.path().join("ca.crt"), &folder.path().join("ca.key"));
        let ca = Ca::open(settings, SystemTime::now()).unwrap();
        (folder, Arc::new(ca), NodeName::parse("edge-1").unwrap())
    }

    #[test]
    fn a_pod_is_sealed_for_its_node_and_otherwise_unchanged() {
        let (_folder, ca, node) = world();
        let sealer = Sealer::new(Arc::clone(&ca));
        let forged = json!({SEAL_ANNOTATION: "forged", "other": "kept"});
        for annotations in [None, Some(json!({})), Some(Value::Null), Some(forged)] {
            let mut sent = pod();
            if let Some(annotations) = &annotations {
                sent["metadata"]["annotations"] = annotations.clone();
            }
            let before = sent.clone();
            sealer.seal(&node, &mut sent, SystemTime::now()).unwrap();
            let text = sent["metadata"]["annotations"][SEAL_ANNOTATION].as_str().unwrap().to_owned();
            let payload = seal::pod_payload(&sent);
            seal::verify(&text, "pod", &node, &payload, &ca.bundle()).expect("it holds");
            let other = NodeName::parse("edge-2").unwrap();
            assert!(seal::verify(&text, "pod", &other, &payload, &ca.bundle()).is_err());

            let mut changed = sent.clone();
            changed["status"]["phase"] = "Running".into();
            changed["metadata"]["resourceVersion"] = "8".into();
            seal::verify(&text, "pod", &node, &seal::pod_payload(&changed), &ca.bundle())
                .expect("status is free");
            changed["spec"]["containers"][0]["image"] = "evil".into();
            let tampered = seal::pod_payload(&changed);
            assert!(seal::verify(&text, "pod", &node, &tampered, &ca.bundle()).is_err());

            let rest = sent["metadata"]["annotations"].as_object_mut().unwrap();
            rest.remove(SEAL_ANNOTATION);
            let kept = annotations.as_ref().and_then(|all| all.get("other")).cloned();
            assert_eq!(rest.get("other").cloned(), kept);
            for part in ["/spec", "/status", "/metadata/labels", "/metadata/uid", "/metadata/resourceVersion"]
            {
                assert_eq!(sent.pointer(part), before.pointer(part), "{part}");
            }
        }
    }

    #[test]
    fn what_a_node_made_itself_is_not_sealed() {
        let (_folder, ca, node) = world();
        let mut mirror = pod();
        mirror["metadata"]["annotations"] = json!({MIRROR: "x", SEAL_ANNOTATION: "forged"});
        Sealer::new(ca).seal(&node, &mut mirror, SystemTime::now()).unwrap();
        assert_eq!(mirror["metadata"]["annotations"], json!({MIRROR: "x"}));
    }

    #[test]
    fn pods_are_known_by_kind() {
        assert!(is_pod(&pod()));
        assert!(!is_pod(&json!({"kind": "Pod"})) && !is_pod(&json!({"apiVersion": "v1", "kind": "Node"})));
    }
}
