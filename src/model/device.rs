//! Devices and their twins as they stand on the wire (protocol sections 7.2 to 7.6).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Group and version of Device, DeviceModel and DeviceStatus (protocol section 7.1).
pub const API_VERSION: &str = "devices.kubeedge.io/v1beta1";

/// Annotation of a Device: names the properties whose values become metrics at the edge,
/// `temperature,humidity`, or `*` for all. Ours; KubeEdge has none.
pub const EXPORT_ANNOTATION: &str = "devices.kubeedge.io/export-metrics";

/// Longest namespace or name, as in Kubernetes.
const MAX_NAME_BYTES: usize = 253;

/// A device: its namespace and name. On the wire `{namespace}/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId {
    pub namespace: String,
    pub name: String,
}

impl DeviceId {
    #[must_use]
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Reads `{namespace}/{name}`; both must be there and [plain](Self::plain).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        Self::plain(namespace, name)
    }

    /// `None` for what cannot be a level of a topic and a part of a key: names of Kubernetes always
    /// can.
    #[must_use]
    pub fn plain(namespace: &str, name: &str) -> Option<Self> {
        let fine = |text: &str| {
            let bad = |c: char| matches!(c, '/' | '+' | '#') || c.is_control();
            !text.is_empty() && text.len() <= MAX_NAME_BYTES && !text.contains(bad)
        };
        (fine(namespace) && fine(name)).then(|| Self::new(namespace, name))
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One property of a twin (protocol section 7.4). Everything is optional: an update carries only
/// what changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MsgTwin {
    /// The desired value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<TwinValue>,
    /// The reported value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual: Option<TwinValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TypeMetadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_version: Option<TwinVersion>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_version: Option<TwinVersion>,
}

/// A value. Values are always text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TwinValue {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<ValueMetadata>,
}

/// When a value was set, Unix milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ValueMetadata {
    pub timestamp: i64,
}

/// The type of a property: `string`, `int`, `float`, `boolean`, `deleted`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TypeMetadata {
    #[serde(rename = "type")]
    pub kind: String,
}

/// How often each side changed a value. Both only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TwinVersion {
    pub cloud: i64,
    pub edge: i64,
}

/// Properties by name; `None` (JSON `null`) means deleted.
pub type Twin = BTreeMap<String, Option<MsgTwin>>;

/// Content of `device/{ns}/{name}/twin/edge_updated` and of the topics `twin/update` and
/// `twin/cloud_updated`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TwinUpdate {
    pub event_id: String,
    /// Unix milliseconds.
    pub timestamp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub twin: Option<Twin>,
}

/// Content of `device/{ns}/{name}/state/update` (as a string of JSON) and of `state/update/result`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StateUpdate {
    pub event_id: String,
    pub timestamp: i64,
    #[serde(alias = "Device")]
    pub device: DeviceState,
}

/// A device's state as reported.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceState {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// RFC 3339 UTC; only for `online` and `ok`.
    #[serde(rename = "lastOnlineTime", skip_serializing_if = "String::is_empty")]
    pub last_online_time: String,
}

/// Content of the downstream message `membership`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Membership {
    pub event_id: String,
    pub timestamp: i64,
    pub added_devices: Option<Vec<Member>>,
    pub removed_devices: Option<Vec<Member>>,
}

/// A device in a membership message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    /// `{namespace}/{name}`.
    pub id: String,
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Always written, and always empty: an edge of KubeEdge's that has the device already takes a
    /// missing twin for a bad update, logs an error and publishes a 400 (KubeEdge 1.23, `addDevice` in
    /// `edge/pkg/devicetwin/dtmanager/membership.go`). Empty, it changes nothing.
    #[serde(skip_deserializing)]
    pub twin: NoTwins,
}

/// `{}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NoTwins {}
