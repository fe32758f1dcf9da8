//! Pods and a host for unit tests of this folder.

use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

use super::host::{HostContext, Resolver};

/// Node `edge-1` with 2 CPUs and 4 GiB.
pub fn host() -> HostContext {
    HostContext {
        node_name: "edge-1".into(),
        host_ips: vec!["192.0.2.10".into()],
        root_dir: "/var/lib/kubelet".into(),
        pod_logs_dir: "/var/log/pods".into(),
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".into(),
        resolver: Resolver {
            servers: vec!["10.0.0.2".into()],
            searches: vec!["lan".into()],
            options: vec![],
        },
        systemd_cgroups: false,
        cpu_milli: 2000,
        memory_bytes: 4 << 30,
        kubernetes_service: None,
        workload_api: Some("/run/kubeedge/spiffe.sock".into()),
    }
}

/// Pod `default/web` with uid `u-1`, merged with what the test says.
pub fn pod(with: Value) -> Pod {
    let mut base = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "u-1"},
        "spec": {"nodeName": "edge-1", "containers": []},
    });
    json_patch::merge(&mut base, &with);
    serde_json::from_value(base).expect("a pod")
}

/// The first container of a pod.
pub fn first(pod: &Pod) -> &Container {
    pod.spec.as_ref().and_then(|spec| spec.containers.first()).expect("a container")
}
