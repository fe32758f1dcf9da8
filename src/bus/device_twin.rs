//! DeviceTwin: what this node's devices report and what is desired of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::Message;
use bytes::Bytes;
use serde_json::Value;

use crate::model::{DeviceId, Envelope};
use crate::store::Batch;

/// A message of group `twin` from the cloud: membership, `twin/cloud_updated`, or the confirmation
/// of an earlier report (then it has a parent).
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FromCloud(pub Envelope);

/// A stored Device of `devices.kubeedge.io/v1beta1` is new or changed. MetaManager tells it once it
/// is durable, and tells all of them again after a restart of either side.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct DeviceChanged(pub Arc<Value>);

/// A stored Device is gone.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct DeviceRemoved(pub DeviceId);

/// A stored DeviceModel is new or changed.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct ModelChanged(pub Arc<Value>);

/// A stored DeviceModel is gone.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct ModelRemoved {
    pub namespace: String,
    pub name: String,
}

/// Asks MetaManager for every stored DeviceModel and Device, models first. DeviceTwin and Dmi ask
/// at start, before any cloud is needed.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<DeviceObjects, super::meta::MetaError>")]
pub struct ListDevices;

/// Answer to [`ListDevices`].
#[derive(Debug, Clone, Default)]
pub struct DeviceObjects {
    pub models: Vec<Arc<Value>>,
    pub devices: Vec<Arc<Value>>,
}

/// An MQTT message on a topic of devices (`$hw/events/device/..`, `$hw/events/node/..`). `Ok` means
/// that what it changed is durable, together with `receipt`: EventBus may acknowledge. A bad
/// payload is answered on its result topic and is `Ok`.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), NotTaken>")]
pub struct DeviceMessage {
    pub topic: String,
    pub payload: Bytes,
    /// EventBus's own writes that must become durable with the change: the message leaves its queue
    /// exactly when it took effect. Empty when there is none.
    pub receipt: Batch,
}

/// The store refused or DeviceTwin restarted: send it again.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the update was not stored: {0}")]
pub struct NotTaken(pub String);

/// Values a mapper reports through DMI; same rules and answers as `twin/update`.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), ReportRejected>")]
pub struct ReportTwins {
    pub device: DeviceId,
    pub twins: BTreeMap<String, MapperReport>,
}

/// What a mapper says of one property.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MapperReport {
    pub reported: Option<String>,
    /// The desired value the mapper has acted on. Information for the cloud, never a new desired
    /// value.
    pub observed_desired: Option<String>,
}

/// State a mapper reports through DMI; same rules as `state/update`.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), ReportRejected>")]
pub struct ReportState {
    pub device: DeviceId,
    pub state: String,
}

/// Why a report of a mapper was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportRejected {
    #[error("device {0} is not a member of this node")]
    UnknownDevice(DeviceId),
    #[error("{0}")]
    Invalid(String),
    #[error("the report was not stored: {0}")]
    NotStored(String),
}

/// Told to Dmi: every desired value in force for a device (the Device's own, and what local
/// applications set since), by property. Latest wins.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct DesiredChanged {
    pub device: DeviceId,
    pub desired: BTreeMap<String, String>,
}

/// The cloud lost what it was told (it was restored from older data): every value and state is
/// reported once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct ReportAnew;

/// Asks DeviceTwin for the desired values in force of every device. Dmi asks when it starts.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<DesiredChanged>, NotTaken>")]
pub struct ListDesired;

/// Told to EventBus: the devices of this node, for access rules per device. Complete each time.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct MembersChanged(pub Vec<DeviceId>);

/// Asks DeviceTwin for the values of every device: for the console. At most
/// [`MAX_LISTED_VALUES`] values are answered.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<DeviceValues>, NotTaken>")]
pub struct ListValues;

/// Bounds the answer to [`ListValues`].
pub const MAX_LISTED_VALUES: usize = 20_000;

/// What is known of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceValues {
    pub device: DeviceId,
    /// Empty: never told.
    pub state: String,
    /// RFC 3339; empty: never.
    pub last_online: String,
    pub values: Vec<PropertyValues>,
}

/// What is known of a property; empty texts: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PropertyValues {
    pub property: String,
    pub reported: String,
    /// When it was reported, Unix milliseconds.
    pub reported_ms: i64,
    /// The desired value in force here.
    pub desired: String,
}
