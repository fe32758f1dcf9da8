//! The actor against a fake API: from a silent node to the writes.

use actix::Actor;
use serde_json::json;

use super::NodeMonitor;
use crate::actors::cloud::fake_api_worker::FakeApi;
use crate::config::NodeMonitorConfig;
use crate::telemetry::node_monitor::NodeMonitorMetrics;

#[actix::test]
async fn a_silent_node_becomes_unknown_and_tainted() {
    let node = json!({"metadata": {"name": "n1", "uid": "u", "resourceVersion": "7"}, "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let pod = json!({"metadata": {"name": "p", "namespace": "default"}, "spec": {"nodeName": "n1"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let (client, mut api) =
        FakeApi::start(&[("/api/v1/nodes", json!([node])), ("/api/v1/pods", json!([pod]))]);
    let config = NodeMonitorConfig { grace_period_secs: 1, ..NodeMonitorConfig::default() };
    let _monitor = NodeMonitor::new(client, &config, NodeMonitorMetrics::new()).start();

    let (_, path, body) = api.write("/status").await;
    assert_eq!(path, "/api/v1/namespaces/default/pods/p/status", "pods first");
    assert_eq!(body["status"]["conditions"][0]["status"], "False");
    let (_, path, body) = api.write("/status").await;
    assert_eq!(path, "/api/v1/nodes/n1/status");
    assert_eq!(body["status"]["conditions"][0]["message"], "Kubelet stopped posting node status.");
    let (_, _, body) = api.write("/api/v1/nodes/n1").await;
    assert_eq!(body["spec"]["taints"][0]["key"], "node.kubernetes.io/unreachable");
    assert_eq!(body["metadata"]["resourceVersion"], "7");
}
