//! Devices as the API has them (protocol section 7.1).

use futures_util::StreamExt;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, PostParams};
use serde_json::{Value, json};

use super::app::PROPERTY;

const MODEL: &str = "bench-sensor";
/// Objects posted at the same time.
const AT_ONCE: usize = 8;

fn api(client: &Client, kind: &str, plural: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("devices.kubeedge.io", "v1beta1", kind);
    let resource = ApiResource::from_gvk_with_plural(&kind, plural);
    Api::namespaced_with(client.clone(), "default", &resource)
}

pub fn statuses(client: &Client) -> Api<DynamicObject> {
    api(client, "DeviceStatus", "devicestatuses")
}

fn object(kind: &str, name: &str, spec: Value) -> DynamicObject {
    let object = json!({
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

/// The model all devices have. Also finds out whether this build knows devices.
pub async fn create_model(client: &Client) {
    let spec = json!({
        "protocol": "bench",
        "properties": [{"name": PROPERTY, "type": "INT", "accessMode": "ReadWrite"}],
    });
    let models = api(client, "DeviceModel", "devicemodels");
    let made = models.create(&PostParams::default(), &object("DeviceModel", MODEL, spec)).await;
    made.unwrap_or_else(|err| panic!("the API takes no DeviceModel of devices.kubeedge.io/v1beta1: {err}"));
}

/// Devices on a node.
pub async fn create_devices(client: &Client, node: &str, names: &[String]) {
    let devices = api(client, "Device", "devices");
    let create = |name: &String| {
        let spec = json!({
            "deviceModelRef": {"name": MODEL},
            "nodeName": node,
            "protocol": {"protocolName": "bench"},
            "properties": [{"name": PROPERTY, "reportToCloud": true}],
        });
        let (devices, device) = (devices.clone(), object("Device", name, spec));
        async move {
            devices.create(&PostParams::default(), &device).await.expect("the API takes a Device");
        }
    };
    futures_util::stream::iter(names.iter().map(create)).buffer_unordered(AT_ONCE).collect::<()>().await;
}

/// The value a DeviceStatus says was reported.
pub fn reported(status: &DynamicObject) -> Option<&str> {
    let twins = status.data.get("status")?.get("twins")?.as_array()?;
    let twin = twins.iter().find(|twin| twin["propertyName"] == PROPERTY)?;
    twin["reported"]["value"].as_str()
}
