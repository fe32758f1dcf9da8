//! What the actors of an edge answer, as items of the page. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Event, Node};
use serde_json::{Value, json};

use crate::bus::device_twin::{DeviceObjects, DeviceValues};
use crate::bus::edged::RunningPod;
use crate::console::protocol::Item;
use crate::console::view::{self, DevicePart, ModelPart, StatusPart, TwinPart};

/// The node itself.
pub fn node(node: &Node) -> Option<Item> {
    let object = serde_json::to_value(node).ok()?;
    Some(Item::Node(view::node(&object)))
}

/// A pod with the status it has now.
pub fn pod(running: &RunningPod) -> Option<Item> {
    let mut object = serde_json::to_value(&*running.pod).ok()?;
    if let Some(status) = &running.status {
        let status = serde_json::to_value(&**status).ok()?;
        object.as_object_mut()?.insert("status".to_owned(), status);
    }
    if running.removed {
        // The object is gone; its containers are ending.
        let metadata = object.get_mut("metadata").and_then(Value::as_object_mut)?;
        metadata.entry("deletionTimestamp").or_insert_with(|| json!("1970-01-01T00:00:00Z"));
    }
    Some(Item::Pod(view::pod(&object)))
}

pub fn event(event: &Event) -> Option<Item> {
    let object = serde_json::to_value(event).ok()?;
    Some(Item::Event(view::event(&object)))
}

/// Device and DeviceModel objects, cut down.
#[derive(Debug, Default)]
pub struct Objects {
    devices: BTreeMap<String, DevicePart>,
    models: BTreeMap<String, ModelPart>,
}

impl Objects {
    #[must_use]
    pub fn of(stored: &DeviceObjects) -> Self {
        let devices = stored.devices.iter().map(|object| view::device_part(object));
        let models = stored.models.iter().map(|object| (view::key(object), view::model_part(object)));
        Self { devices: devices.map(|part| (part.key.clone(), part)).collect(), models: models.collect() }
    }

    /// Devices with their values; those a message of the cloud named may have no object.
    #[must_use]
    pub fn items(&self, node: &str, values: &[DeviceValues]) -> Vec<Item> {
        let mut told: BTreeMap<String, &DeviceValues> =
            values.iter().map(|values| (values.device.to_string(), values)).collect();
        let known: Vec<Item> =
            self.devices.iter().map(|(key, part)| self.item(part, told.remove(key))).collect();
        let strangers = told.into_values().map(|values| {
            let part = DevicePart::unknown(&values.device.namespace, &values.device.name, node);
            self.item(&part, Some(values))
        });
        known.into_iter().chain(strangers).collect()
    }

    fn item(&self, part: &DevicePart, values: Option<&DeviceValues>) -> Item {
        let status = values.map(status);
        Item::Device(view::device(part, self.models.get(&part.model_key()), status.as_ref()))
    }
}

fn status(told: &DeviceValues) -> StatusPart {
    let twins = told.values.iter().map(|value| {
        let part = TwinPart {
            reported: value.reported.clone(),
            observed_desired: value.desired.clone(),
            at_ms: u64::try_from(value.reported_ms).unwrap_or_default(),
        };
        (value.property.clone(), part)
    });
    StatusPart::of_edge(&told.state, &told.last_online, twins.collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::bus::device_twin::PropertyValues;
    use crate::model::DeviceId;

    #[test]
    fn live_values_stand_beside_what_the_objects_say() {
        let object = json!({"metadata": {"namespace": "default", "name": "lamp"}, "spec": {
            "nodeName": "edge-1", "deviceModelRef": {"name": "m"}, "protocol": {"protocolName": "modbus"},
            "properties": [{"name": "power", "desired": {"value": "on"}}]}});
        let model = json!({"metadata": {"namespace": "default", "name": "m"}, "spec": {
            "properties": [{"name": "power", "type": "STRING", "accessMode": "ReadWrite", "unit": "W"}]}});
        let stored = DeviceObjects { models: vec![Arc::new(model)], devices: vec![Arc::new(object)] };
        let values = |name: &str| DeviceValues {
            device: DeviceId::new("default", name),
            state: "online".to_owned(),
            last_online: "2026-01-01T00:00:00Z".to_owned(),
            values: vec![PropertyValues {
                property: "power".to_owned(),
                reported: "off".to_owned(),
                reported_ms: 5,
                desired: "dim".to_owned(),
            }],
        };
        let items = Objects::of(&stored).items("edge-1", &[values("stranger"), values("lamp")]);
        let shown = serde_json::to_value(&items).unwrap();
        let lamp = &shown[0];
        assert_eq!((&lamp["key"], &lamp["state"]), (&json!("default/lamp"), &json!("online")));
        assert_eq!(lamp["lastOnlineMs"], 1_767_225_600_000_u64);
        assert_eq!(
            lamp["twins"],
            json!([{"property": "power", "desired": "on", "reported": "off", "observedDesired": "dim", "atMs": 5,
                "dataType": "string", "unit": "W", "writable": true}])
        );
        let stranger = &shown[1];
        assert_eq!((&stranger["key"], &stranger["node"]), (&json!("default/stranger"), &json!("edge-1")));
    }

    #[test]
    fn a_pod_is_shown_as_it_is_now() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "a", "name": "b"},
            "spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Pending"}}))
        .unwrap();
        let status = serde_json::from_value(
            json!({"phase": "Running", "containerStatuses": [{"name": "c", "ready": true,
            "restartCount": 2, "image": "i", "imageID": "", "state": {"running": {}}}]}),
        )
        .unwrap();
        let mut running = RunningPod { pod: Arc::new(pod), status: Some(Arc::new(status)), removed: false };
        let shown = |running: &RunningPod| serde_json::to_value(super::pod(running).unwrap()).unwrap();
        assert_eq!(
            (&shown(&running)["status"], &shown(&running)["restarts"]),
            (&json!("Running"), &json!(2))
        );
        running.removed = true;
        assert_eq!(shown(&running)["status"], "Terminating");
        running.status = None;
        running.removed = false;
        assert_eq!(shown(&running)["status"], "Pending");
    }
}
