//! `modules.deviceTwin` of `edgecore.yaml`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::invalid::{Check, at_least_one, enabled, folder, require};

/// Devices at the edge. The file is `config/edgecore.yaml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct DeviceTwinConfig {
    /// Cannot be turned off.
    pub enable: bool,
    /// Folder of the socket `dmi.sock` that mappers register at; a path that ends in `.sock` stands
    /// for its folder (protocol section 8).
    pub dmi_sock_path: PathBuf,
    /// User ids whose programs may register as mappers and report; empty stands for root and
    /// edgecore's own. The socket's mode keeps out who is not of its group besides.
    pub dmi_allowed_uids: Vec<u32>,
    /// Largest payload on a topic of devices, bytes.
    pub max_payload_bytes: u32,
    /// Reports to the cloud that may wait for their confirmation at once.
    pub max_reports_in_flight: u32,
    /// Answers kept while EventBus takes none; the oldest go first when full.
    pub max_queued_publications: u32,
    /// Series of device values that edgecore makes in its life.
    pub max_exported_values: u32,
}

impl Default for DeviceTwinConfig {
    fn default() -> Self {
        Self {
            enable: true,
            dmi_sock_path: "/etc/kubeedge/".into(),
            dmi_allowed_uids: Vec::new(),
            max_payload_bytes: 1 << 20,
            max_reports_in_flight: 256,
            max_queued_publications: 10_000,
            max_exported_values: 500,
        }
    }
}

impl DeviceTwinConfig {
    pub(super) fn validate(&self) -> Check {
        let key = |name: &str| format!("modules.deviceTwin.{name}");
        enabled("modules.deviceTwin", self.enable)?;
        folder(&key("dmiSockPath"), &self.dmi_sock_path)?;
        at_least_one(&key("maxPayloadBytes"), self.max_payload_bytes.into())?;
        let most = 8 << 20;
        let why =
            format!("{} is more than {most}, what one message to the cloud can hold", self.max_payload_bytes);
        require(self.max_payload_bytes <= most, &key("maxPayloadBytes"), why)?;
        at_least_one(&key("maxReportsInFlight"), self.max_reports_in_flight.into())?;
        let most = 1024;
        let why = format!("{} is more than {most}", self.max_reports_in_flight);
        require(self.max_reports_in_flight <= most, &key("maxReportsInFlight"), why)?;
        at_least_one(&key("maxQueuedPublications"), self.max_queued_publications.into())
    }
}
