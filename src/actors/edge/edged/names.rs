//! Names, labels, annotations and paths that tie pods to what the runtime and the disk hold.
//! Keys and layouts are the kubelet's, so its tools (crictl, log shippers) work here too.

use std::collections::HashMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::host::HostContext;

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Marks sandboxes and containers as made by an edgecore; the value is its node name.
pub const NODE: &str = "io.kubeedge.node";

pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
pub const TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";

/// Where the kubelet looks for a container's last words when the pod does not say.
pub const DEFAULT_TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";

/// Which pod a sandbox or container belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// A name from an object that must not become part of a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?} cannot be part of a path")]
pub struct UnsafeName {
    pub field: &'static str,
    pub value: String,
}

impl PodRef {
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        }
    }

    /// `None` for what no kubelet or edgecore labelled.
    #[must_use]
    pub fn from_labels(labels: &HashMap<String, String>) -> Option<Self> {
        Some(Self {
            namespace: labels.get(POD_NAMESPACE)?.clone(),
            name: labels.get(POD_NAME)?.clone(),
            uid: labels.get(POD_UID)?.clone(),
        })
    }

    /// Must be called once before any path below is used: uid, namespace and name come from outside.
    ///
    /// # Errors
    /// [`UnsafeName`] for empty names and those with `/`, NUL, or made of dots only.
    pub fn check(&self) -> Result<(), UnsafeName> {
        path_part("metadata.uid", &self.uid)?;
        path_part("metadata.namespace", &self.namespace)?;
        path_part("metadata.name", &self.name)?;
        Ok(())
    }

    /// `{root}/pods/{uid}`.
    #[must_use]
    pub fn dir(&self, host: &HostContext) -> PathBuf {
        host.root_dir.join("pods").join(&self.uid)
    }

    /// `{root}/pods/{uid}/volumes/{kubernetes.io~plugin}/{volume}`.
    #[must_use]
    pub fn volume_dir(&self, host: &HostContext, plugin: &str, volume: &str) -> PathBuf {
        self.dir(host).join("volumes").join(plugin).join(volume)
    }

    /// `/var/log/pods/{namespace}_{name}_{uid}`.
    #[must_use]
    pub fn log_dir(&self, host: &HostContext) -> PathBuf {
        host.pod_logs_dir.join(format!("{}_{}_{}", self.namespace, self.name, self.uid))
    }

    /// Absolute path of the log of one run of a container.
    #[must_use]
    pub fn log_file(&self, host: &HostContext, container: &str, restart_count: u32) -> PathBuf {
        self.log_dir(host).join(log_path(container, restart_count))
    }
}

/// A container's log path under the sandbox's log directory: `{container}/{restart}.log`.
#[must_use]
pub fn log_path(container: &str, restart_count: u32) -> String {
    format!("{container}/{restart_count}.log")
}

/// # Errors
/// [`UnsafeName`] when `value` could leave the folder it is joined to.
pub fn path_part<'a>(field: &'static str, value: &'a str) -> Result<&'a str, UnsafeName> {
    let dots = value.bytes().all(|byte| byte == b'.');
    if dots || value.len() > 255 || value.contains(['/', '\0']) {
        let value = value.chars().take(256).collect();
        return Err(UnsafeName { field, value });
    }
    Ok(value)
}

/// The pod's own labels plus the kubelet's and ours, which win.
#[must_use]
pub fn sandbox_labels(pod: &Pod, host: &HostContext) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> =
        pod.metadata.labels.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    labels.extend(pod_labels(pod, host));
    labels
}

/// The pod's own annotations plus where the pod came from.
#[must_use]
pub fn sandbox_annotations(pod: &Pod) -> HashMap<String, String> {
    let own = pod.metadata.annotations.iter().flatten();
    let mut annotations: HashMap<String, String> =
        own.map(|(key, value)| (key.clone(), value.clone())).collect();
    annotations.insert(CONFIG_SOURCE.to_owned(), "api".to_owned());
    annotations
}

#[must_use]
pub fn container_labels(pod: &Pod, container: &Container, host: &HostContext) -> HashMap<String, String> {
    let mut labels = pod_labels(pod, host);
    labels.insert(CONTAINER_NAME.to_owned(), container.name.clone());
    labels
}

#[must_use]
pub fn container_annotations(
    pod: &Pod,
    container: &Container,
    restart_count: u32,
) -> HashMap<String, String> {
    let path = container.termination_message_path.as_deref().unwrap_or(DEFAULT_TERMINATION_MESSAGE_PATH);
    let policy = container.termination_message_policy.as_deref().unwrap_or("File");
    let mut annotations = HashMap::from([
        (CONTAINER_HASH.to_owned(), container_hash(container)),
        (RESTART_COUNT.to_owned(), restart_count.to_string()),
        (TERMINATION_MESSAGE_PATH.to_owned(), path.to_owned()),
        (TERMINATION_MESSAGE_POLICY.to_owned(), policy.to_owned()),
    ]);
    let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    if let Some(grace) = grace {
        annotations.insert(TERMINATION_GRACE.to_owned(), grace.to_string());
    }
    annotations
}

/// Changes exactly when the container must be made anew: with its name or image. Everything else
/// in a container is immutable in a live pod, and defaults that a newer server adds must not
/// restart it (kubelet since 1.31 hashes the same two fields).
#[must_use]
pub fn container_hash(container: &Container) -> String {
    // FNV-1a, 32 bit, over both fields with a separator neither can contain.
    let image = container.image.as_deref().unwrap_or_default();
    let bytes = container.name.bytes().chain([0]).chain(image.bytes());
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{hash:x}")
}

/// The restart count a container was made with; 0 when it does not say.
#[must_use]
pub fn restart_count(annotations: &HashMap<String, String>) -> u32 {
    annotations.get(RESTART_COUNT).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Made by the edgecore of this node?
#[must_use]
pub fn is_ours(labels: &HashMap<String, String>, host: &HostContext) -> bool {
    labels.get(NODE).is_some_and(|node| *node == host.node_name)
}

fn pod_labels(pod: &Pod, host: &HostContext) -> HashMap<String, String> {
    let PodRef { namespace, name, uid } = PodRef::of(pod);
    HashMap::from([
        (POD_NAME.to_owned(), name),
        (POD_NAMESPACE.to_owned(), namespace),
        (POD_UID.to_owned(), uid),
        (NODE.to_owned(), host.node_name.clone()),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{host, pod};
    use super::*;

    #[test]
    fn labels_win_over_the_pods_own_and_read_back() {
        let pod = pod(serde_json::json!({
            "metadata": {"labels": {"app": "web", POD_UID: "forged", NODE: "other"}},
            "spec": {"containers": [{"name": "c", "image": "a"}]},
        }));
        let labels = sandbox_labels(&pod, &host());
        assert_eq!(labels.get("app").map(String::as_str), Some("web"));
        assert_eq!(PodRef::from_labels(&labels), Some(PodRef::of(&pod)));
        assert_eq!(PodRef::of(&pod).uid, "u-1");
        assert!(is_ours(&labels, &host()));
        assert_eq!(PodRef::from_labels(&HashMap::new()), None);
        assert!(!is_ours(&HashMap::new(), &host()));
    }

    #[test]
    fn restart_counts_survive_in_annotations() {
        let pod = pod(
            serde_json::json!({"spec": {"terminationGracePeriodSeconds": 5, "containers": [{"name": "c"}]}}),
        );
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let annotations = container_annotations(&pod, container, 7);
        assert_eq!(restart_count(&annotations), 7);
        assert_eq!(annotations[TERMINATION_MESSAGE_PATH], "/dev/termination-log");
        assert_eq!(annotations[TERMINATION_GRACE], "5");
        assert_eq!(restart_count(&HashMap::from([(RESTART_COUNT.to_owned(), "x".to_owned())])), 0);
    }

    #[test]
    fn hash_follows_name_and_image_only() {
        let container = |json| serde_json::from_value::<Container>(json).unwrap();
        let base = container_hash(&container(serde_json::json!({"name": "c", "image": "a:1"})));
        let same = serde_json::json!({"name": "c", "image": "a:1", "imagePullPolicy": "Always", "env": [{"name": "A"}]});
        assert_eq!(container_hash(&container(same)), base);
        for other in [
            serde_json::json!({"name": "c", "image": "a:2"}),
            serde_json::json!({"name": "d", "image": "a:1"}),
            serde_json::json!({"name": "ca", "image": ":1"}),
        ] {
            assert_ne!(container_hash(&container(other)), base);
        }
    }

    #[test]
    fn paths_and_names_that_would_leave_them() {
        let at = PodRef { namespace: "default".into(), name: "web".into(), uid: "u-1".into() };
        assert_eq!(at.check(), Ok(()));
        let log = at.log_file(&host(), "c", 2);
        assert_eq!(log.to_str(), Some("/var/log/pods/default_web_u-1/c/2.log"));
        let volume = at.volume_dir(&host(), "kubernetes.io~secret", "s");
        assert_eq!(volume.to_str(), Some("/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~secret/s"));
        for bad in ["", ".", "..", "../x", "/etc", "a/b", "a\0", &"x".repeat(256)] {
            assert!(PodRef { uid: bad.to_owned(), ..at.clone() }.check().is_err(), "{bad:?}");
            assert!(path_part("spec.volumes.name", bad).is_err(), "{bad:?}");
        }
    }
}
