//! Devices: what the Device, its DeviceModel and its DeviceStatus say together. Each object is cut down
//! to a part first, so that who keeps many keeps little.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{clip, items, key, rfc3339_ms, short, text, time};
use crate::console::protocol::{DeviceView, TwinView};

/// Properties of a device that are shown.
const MAX_TWINS: usize = 500;
/// Longest value, bytes.
const MAX_VALUE: usize = 512;

/// What matters of a Device.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DevicePart {
    /// `namespace/name`.
    pub key: String,
    namespace: String,
    name: String,
    node: String,
    /// Name of the DeviceModel, in the same namespace.
    model: String,
    protocol: String,
    /// Property and desired value, in the Device's order.
    properties: Vec<(String, String)>,
}

impl DevicePart {
    /// A device whose object is not known.
    #[must_use]
    pub fn unknown(namespace: &str, name: &str, node: &str) -> Self {
        Self {
            key: format!("{namespace}/{name}"),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            node: node.to_owned(),
            ..Self::default()
        }
    }

    /// `namespace/name` of its DeviceModel.
    #[must_use]
    pub fn model_key(&self) -> String {
        format!("{}/{}", self.namespace, self.model)
    }
}

/// What matters of a DeviceModel: data type, unit, may it be written?
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModelPart {
    properties: BTreeMap<String, (String, String, bool)>,
}

/// What matters of a DeviceStatus, or of what an edge knows of its device.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StatusPart {
    pub state: String,
    pub last_online_ms: u64,
    /// By property.
    pub twins: BTreeMap<String, TwinPart>,
}

/// One property's values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TwinPart {
    pub reported: String,
    pub observed_desired: String,
    pub at_ms: u64,
}

/// Reads a Device of `devices.kubeedge.io/v1beta1`.
#[must_use]
pub fn device_part(object: &Value) -> DevicePart {
    let properties = items(object, "/spec/properties").iter().take(MAX_TWINS);
    DevicePart {
        key: key(object),
        namespace: short(object, "/metadata/namespace"),
        name: short(object, "/metadata/name"),
        node: short(object, "/spec/nodeName"),
        model: short(object, "/spec/deviceModelRef/name"),
        protocol: short(object, "/spec/protocol/protocolName"),
        properties: properties
            .map(|property| (short(property, "/name"), clip(text(property, "/desired/value"), MAX_VALUE)))
            .filter(|(name, _)| !name.is_empty())
            .collect(),
    }
}

/// Reads a DeviceModel.
#[must_use]
pub fn model_part(object: &Value) -> ModelPart {
    let properties = items(object, "/spec/properties").iter().take(MAX_TWINS).map(|property| {
        let writable = text(property, "/accessMode") == "ReadWrite";
        let kind = clip(&text(property, "/type").to_ascii_lowercase(), 32);
        (short(property, "/name"), (kind, clip(text(property, "/unit"), 64), writable))
    });
    ModelPart { properties: properties.collect() }
}

/// Reads a DeviceStatus.
#[must_use]
pub fn status_part(object: &Value) -> StatusPart {
    let twins = items(object, "/status/twins").iter().take(MAX_TWINS).map(|twin| {
        let part = TwinPart {
            reported: clip(text(twin, "/reported/value"), MAX_VALUE),
            observed_desired: clip(text(twin, "/observedDesired/value"), MAX_VALUE),
            at_ms: taken(twin),
        };
        (short(twin, "/propertyName"), part)
    });
    StatusPart {
        state: clip(text(object, "/status/state"), 64),
        last_online_ms: time(object, "/status/lastOnlineTime"),
        twins: twins.collect(),
    }
}

/// KubeEdge writes the time of a value as text or number, in milliseconds.
fn taken(twin: &Value) -> u64 {
    let at = twin.pointer("/reported/metadata/timestamp");
    at.and_then(Value::as_u64).or_else(|| at?.as_str()?.parse().ok()).unwrap_or_default()
}

/// The device as the page shows it.
#[must_use]
pub fn device(part: &DevicePart, model: Option<&ModelPart>, status: Option<&StatusPart>) -> DeviceView {
    let twin = |name: &str, desired: &str| {
        let told = status.and_then(|status| status.twins.get(name));
        let (data_type, unit, writable) =
            model.and_then(|model| model.properties.get(name)).cloned().unwrap_or_default();
        TwinView {
            property: name.to_owned(),
            desired: desired.to_owned(),
            reported: told.map(|told| clip(&told.reported, MAX_VALUE)).unwrap_or_default(),
            observed_desired: told.map(|told| clip(&told.observed_desired, MAX_VALUE)).unwrap_or_default(),
            at_ms: told.map(|told| told.at_ms).unwrap_or_default(),
            data_type,
            unit,
            writable,
        }
    };
    let mut twins: Vec<TwinView> =
        part.properties.iter().map(|(name, desired)| twin(name, desired)).collect();
    // What local applications report besides the properties of the Device.
    let known = |name: &str| part.properties.iter().any(|(own, _)| own == name);
    let others = status.into_iter().flat_map(|status| status.twins.keys()).filter(|name| !known(name));
    twins.extend(others.take(MAX_TWINS.saturating_sub(part.properties.len())).map(|name| twin(name, "")));
    DeviceView {
        key: part.key.clone(),
        namespace: part.namespace.clone(),
        name: part.name.clone(),
        node: part.node.clone(),
        model: part.model.clone(),
        protocol: part.protocol.clone(),
        state: status.map(|status| status.state.clone()).unwrap_or_default(),
        last_online_ms: status.map(|status| status.last_online_ms).unwrap_or_default(),
        twins,
    }
}

impl StatusPart {
    /// From what an edge remembers itself.
    #[must_use]
    pub fn of_edge(state: &str, last_online: &str, twins: BTreeMap<String, TwinPart>) -> Self {
        Self { state: clip(state, 64), last_online_ms: rfc3339_ms(last_online), twins }
    }
}
