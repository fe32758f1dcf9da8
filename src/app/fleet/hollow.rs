//! The pod of a simulated edge: running as soon as it is asked for. Pure.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::actors::edge::meta_manager::objects::text;
use crate::actors::edge::meta_manager::reports::PodId;

/// Who a pod is.
#[must_use]
pub fn id_of(pod: &Value) -> PodId {
    let part = |pointer| text(pod, pointer).to_owned();
    PodId { namespace: part("/metadata/namespace"), name: part("/metadata/name"), uid: part("/metadata/uid") }
}

/// Somebody wants it gone.
#[must_use]
pub fn is_ending(pod: &Value) -> bool {
    !text(pod, "/metadata/deletionTimestamp").is_empty()
}

/// The status of a pod all of whose containers run and are ready.
#[must_use]
pub fn running(pod: &Value, address: &str, now: Timestamp) -> Value {
    let since = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let container = |spec: &Value| {
        let name = text(spec, "/name");
        json!({
            "name": name, "image": text(spec, "/image"), "imageID": "", "ready": true, "started": true,
            "restartCount": 0, "containerID": format!("hollow://{}-{name}", text(pod, "/metadata/uid")),
            "state": {"running": {"startedAt": since}},
        })
    };
    let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": since});
    json!({
        "phase": "Running",
        "conditions": conditions.map(condition),
        "containerStatuses": containers.into_iter().flatten().map(container).collect::<Vec<_>>(),
        "hostIP": address, "hostIPs": [{"ip": address}], "podIP": address, "podIPs": [{"ip": address}],
        "startTime": since, "qosClass": "BestEffort",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_at_once_with_all_its_containers() {
        let mut pod = json!({"metadata": {"namespace": "default", "name": "a", "uid": "u"},
            "spec": {"containers": [{"name": "x", "image": "i"}, {"name": "y", "image": "j"}]}});
        assert_eq!(id_of(&pod).uid, "u");
        assert!(!is_ending(&pod));
        let status = running(&pod, "127.0.0.1", Timestamp::from_second(1_800_000_000).unwrap());
        assert_eq!(status["containerStatuses"][1]["name"], "y");
        assert_eq!(status["containerStatuses"][0]["state"]["running"]["startedAt"], "2027-01-15T08:00:00Z");
        assert!(serde_json::from_value::<k8s_openapi::api::core::v1::PodStatus>(status).is_ok());
        pod["metadata"]["deletionTimestamp"] = json!("2027-01-15T08:05:00Z");
        assert!(is_ending(&pod));
    }
}
