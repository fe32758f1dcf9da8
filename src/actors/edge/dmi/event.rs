//! The event a user sees in `kubectl describe device`. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::Value;

use crate::model::device::API_VERSION;

const COMPONENT: &str = "edgecore-dmi";

/// Nobody serves the device's protocol on this node.
pub fn no_mapper(device: &Value, protocol: &str, node: &str, now: Timestamp) -> Event {
    let text = |path: &str| device.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let name = text("/metadata/name").unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: text("/metadata/namespace"),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(API_VERSION.to_owned()),
            kind: Some("Device".to_owned()),
            namespace: text("/metadata/namespace"),
            uid: text("/metadata/uid"),
            resource_version: text("/metadata/resourceVersion"),
            name: Some(name),
            ..ObjectReference::default()
        },
        reason: Some("NoMapper".to_owned()),
        message: Some(format!(
            "no mapper registered for protocol {protocol:?} on node {node}: start one, it registers by itself"
        )),
        type_: Some("Warning".to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: Some(node.to_owned()) }),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_event_names_the_device_the_protocol_and_the_remedy() {
        let device = json!({"metadata": {"name": "lamp", "namespace": "shop", "uid": "u1"}});
        let event = no_mapper(&device, "modbus", "edge-1", Timestamp::from_second(1).unwrap());
        assert_eq!(event.metadata.namespace.as_deref(), Some("shop"));
        assert_eq!(event.metadata.name.as_deref(), Some("lamp.3b9aca00"));
        assert_eq!(event.involved_object.uid.as_deref(), Some("u1"));
        let message = event.message.unwrap();
        assert!(message.contains("\"modbus\"") && message.contains("edge-1"), "{message}");
    }
}
