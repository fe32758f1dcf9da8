//! Pods, and how long they take as a user sees it.

use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;

use super::world::Watch;

pub const IMAGE: &str = "registry.local/hello:1";

/// A pod without volumes whose container ends as soon as it is told to.
pub fn sleeper(name: &str) -> Pod {
    let script = "trap 'exit 0' TERM; while true; do sleep 3600 & wait $!; done";
    let pod = json!({
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/sh", "-c", script],
            }],
        },
    });
    serde_json::from_value(pod).unwrap()
}

pub fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// Posts a pod: seconds from the answer to Running in the watch.
pub async fn create(pods: &Api<Pod>, name: &str) -> f64 {
    let mut watch = Watch::open(pods).await;
    pods.create(&PostParams::default(), &sleeper(name)).await.unwrap();
    let begun = Instant::now();
    watch.until(|pod, _| pod.name_any() == name && is_running(pod)).await;
    begun.elapsed().as_secs_f64()
}

/// Deletes a pod: seconds from the request until it is gone.
pub async fn delete(pods: &Api<Pod>, name: &str) -> f64 {
    let mut watch = Watch::open(pods).await;
    let begun = Instant::now();
    pods.delete(name, &DeleteParams::default()).await.unwrap();
    watch.until(|pod, deleted| pod.name_any() == name && deleted).await;
    begun.elapsed().as_secs_f64()
}
