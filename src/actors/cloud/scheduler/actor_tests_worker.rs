//! The actor against a fake API: from the lists to the writes.

use actix::Actor;
use serde_json::json;

use super::Scheduler;
use crate::actors::cloud::fake_api_worker::FakeApi;
use crate::telemetry::scheduler::SchedulerMetrics;

#[actix::test]
async fn a_pod_is_bound_and_another_told_why_not() {
    let pod = |name: &str, cpu: &str| {
        json!({"metadata": {"name": name, "namespace": "default", "uid": format!("u-{name}")},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    };
    let node = json!({"metadata": {"name": "n1"}, "status": {
        "allocatable": {"cpu": "1", "pods": "110"}, "conditions": [{"type": "Ready", "status": "True"}]}});
    let (client, mut api) = FakeApi::start(&[
        ("/api/v1/pods", json!([pod("fits", "1"), pod("large", "2")])),
        ("/api/v1/nodes", json!([node])),
    ]);
    let _scheduler = Scheduler::new(client, SchedulerMetrics::new()).start();

    let mut bound = None;
    let mut told = None;
    while bound.is_none() || told.is_none() {
        let (_, path, body) = api.write("").await;
        match path.as_str() {
            "/api/v1/namespaces/default/pods/fits/binding" => bound = Some(body),
            "/api/v1/namespaces/default/pods/large/status" => told = Some(body),
            "/api/v1/namespaces/default/events" => {}
            other => panic!("unexpected write to {other}"),
        }
    }
    let bound = bound.unwrap();
    assert_eq!(bound["target"]["name"], "n1");
    assert_eq!(bound["metadata"]["uid"], "u-fits");
    let condition = &told.unwrap()["status"]["conditions"][0];
    assert_eq!(condition["message"], "0/1 nodes are available: 1 Insufficient cpu.");
    assert_eq!((&condition["type"], &condition["status"]), (&json!("PodScheduled"), &json!("False")));
}
