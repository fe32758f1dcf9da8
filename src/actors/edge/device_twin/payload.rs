//! The payloads on the topics of devices (protocol section 7.6), read leniently and written as
//! KubeEdge writes them: same names, same order.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::device::Device;
use crate::model::DeviceId;
use crate::model::device::{DeviceState, MsgTwin, Twin};

/// Of `twin/update` and `twin/cloud_updated`. The time in it is not believed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct UpdateIn {
    pub event_id: Option<String>,
    pub twin: Option<Twin>,
}

/// Of `twin/get` and `membership/get`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct AskIn {
    pub event_id: Option<String>,
}

/// Of `state/update`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct StateIn {
    pub event_id: Option<String>,
    pub state: Option<String>,
}

/// A refused request.
#[derive(Debug, Serialize)]
pub struct Refusal<'a> {
    pub event_id: &'a str,
    pub timestamp: i64,
    pub code: u16,
    pub reason: &'a str,
}

/// Answer to `twin/update` and `twin/get`.
#[derive(Debug, Serialize)]
pub struct TwinAnswer<'a> {
    pub event_id: &'a str,
    pub timestamp: i64,
    pub twin: &'a Twin,
}

/// `twin/update/document`.
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    pub event_id: &'a str,
    pub timestamp: i64,
    pub twin: BTreeMap<&'a str, BeforeAfter<'a>>,
}

#[derive(Debug, Serialize)]
pub struct BeforeAfter<'a> {
    pub last: Option<&'a MsgTwin>,
    pub current: Option<&'a MsgTwin>,
}

/// `twin/update/delta`.
#[derive(Debug, Serialize)]
pub struct Delta<'a> {
    pub event_id: &'a str,
    pub timestamp: i64,
    pub twin: &'a Twin,
    pub delta: &'a BTreeMap<String, String>,
}

/// `state/update/result`, and the report of a state to the cloud.
#[derive(Debug, Serialize)]
pub struct StateAnswer<'a> {
    pub event_id: &'a str,
    pub timestamp: i64,
    pub device: DeviceState,
}

impl<'a> StateAnswer<'a> {
    #[must_use]
    pub fn new(event_id: &'a str, timestamp: i64, id: &DeviceId, device: &Device) -> Self {
        let device = DeviceState {
            name: id.name.clone(),
            state: device.state.clone(),
            last_online_time: device.last_online.clone(),
        };
        Self { event_id, timestamp, device }
    }
}

/// A device in lists of members. Here the time is called `last_online`.
#[derive(Debug, Serialize)]
pub struct MemberOut<'a> {
    pub id: String,
    pub name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub description: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub state: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub last_online: &'a str,
}

impl<'a> MemberOut<'a> {
    #[must_use]
    pub fn new(id: &'a DeviceId, device: &'a Device) -> Self {
        Self {
            id: id.to_string(),
            name: &id.name,
            description: &device.description,
            state: &device.state,
            last_online: &device.last_online,
        }
    }
}

/// `membership/get/result`.
#[derive(Debug, Serialize)]
pub struct MembersAnswer<'a> {
    pub event_id: &'a str,
    pub timestamp: i64,
    pub devices: Vec<MemberOut<'a>>,
}

/// `membership/updated`.
#[derive(Debug, Serialize)]
pub struct MembersUpdated<'a> {
    pub event_id: &'a str,
    pub timestamp: i64,
    pub added_devices: Option<Vec<MemberOut<'a>>>,
    pub removed_devices: Option<Vec<MemberOut<'a>>>,
}

/// The request for the whole membership (protocol section 7.3).
#[derive(Debug, Serialize)]
pub struct MembersRequest<'a> {
    pub event_type: &'a str,
    pub event_id: &'a str,
    pub group_id: &'a str,
    pub operation: &'a str,
    pub timestamp: i64,
}

/// JSON of what always can be written: maps with text keys, numbers and text.
#[must_use]
pub fn json(content: &impl Serialize) -> String {
    serde_json::to_string(content).unwrap_or_default()
}

#[must_use]
pub fn bytes(content: &impl Serialize) -> Bytes {
    Bytes::from(json(content))
}
