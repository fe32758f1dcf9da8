//! Metrics of DeviceTwin.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

use super::total::Total;
use crate::model::DeviceId;

/// States of devices that have a series of their own; the empty one is shown as `none`.
const STATES: [&str; 6] = ["online", "offline", "ok", "unknown", "unhealthy", ""];

/// What DeviceTwin counts.
#[derive(Clone)]
pub struct DeviceTwinMetrics {
    devices: [Gauge; 6],
    from_edge: Counter,
    from_cloud: Counter,
    rejected: [Counter; 4],
    given_up: Counter,
    sync_seconds: Histogram,
    unconfirmed: Gauge,
    publications_dropped: Total,
    exports_refused: Total,
    /// Groups of writes the store refused.
    pub store_errors: Counter,
}

/// What happened since the last look.
#[derive(Debug, Default)]
pub struct Counts {
    pub from_edge: u64,
    pub from_cloud: u64,
    /// Malformed, too large, unknown device, not allowed.
    pub rejected: [u64; 4],
    pub given_up: u64,
    pub synced: Vec<Duration>,
}

impl DeviceTwinMetrics {
    /// Registers and describes the handles.
    #[must_use]
    pub fn new() -> Self {
        describe_gauge!("kubeedge_devicetwin_devices", "Devices of this node, by reported state");
        describe_counter!(
            "kubeedge_devicetwin_updates_total",
            "Twin and state updates taken, by who made them"
        );
        describe_counter!("kubeedge_devicetwin_rejected_total", "Requests refused, by reason");
        describe_counter!(
            "kubeedge_devicetwin_reports_given_up_total",
            "Reports the cloud refused for good or that cannot be sent"
        );
        describe_histogram!(
            "kubeedge_devicetwin_sync_seconds",
            Unit::Seconds,
            "Time from a change until the cloud confirmed it"
        );
        describe_gauge!("kubeedge_devicetwin_unconfirmed", "Reports the cloud has not confirmed");
        describe_counter!(
            "kubeedge_devicetwin_publications_dropped_total",
            "Oldest answers dropped while EventBus took none"
        );
        describe_counter!(
            "kubeedge_devicetwin_exports_refused_total",
            "Values without a series because modules.deviceTwin.maxExportedValues is reached"
        );
        describe_counter!("kubeedge_devicetwin_store_errors_total", "Groups of writes the store refused");
        describe_gauge!(
            "kubeedge_device_value",
            "Reported values of Devices annotated with devices.kubeedge.io/export-metrics; NaN: gone"
        );
        let name = |state: &'static str| if state.is_empty() { "none" } else { state };
        let reasons = ["malformed", "too_large", "unknown_device", "not_allowed"];
        Self {
            devices: STATES.map(|state| gauge!("kubeedge_devicetwin_devices", "state" => name(state))),
            from_edge: counter!("kubeedge_devicetwin_updates_total", "side" => "edge"),
            from_cloud: counter!("kubeedge_devicetwin_updates_total", "side" => "cloud"),
            rejected: reasons
                .map(|reason| counter!("kubeedge_devicetwin_rejected_total", "reason" => reason)),
            given_up: counter!("kubeedge_devicetwin_reports_given_up_total"),
            sync_seconds: histogram!("kubeedge_devicetwin_sync_seconds"),
            unconfirmed: gauge!("kubeedge_devicetwin_unconfirmed"),
            publications_dropped: Total::new(counter!("kubeedge_devicetwin_publications_dropped_total")),
            exports_refused: Total::new(counter!("kubeedge_devicetwin_exports_refused_total")),
            store_errors: counter!("kubeedge_devicetwin_store_errors_total"),
        }
    }

    /// Adds what happened.
    pub fn count(&self, counts: &Counts) {
        self.from_edge.increment(counts.from_edge);
        self.from_cloud.increment(counts.from_cloud);
        for (counter, n) in self.rejected.iter().zip(counts.rejected) {
            counter.increment(n);
        }
        self.given_up.increment(counts.given_up);
        for took in &counts.synced {
            self.sync_seconds.record(took.as_secs_f64());
        }
    }

    /// Shows how things stand. The last two are totals.
    pub fn show(&self, states: &BTreeMap<&str, u32>, unconfirmed: usize, exports_refused: u64, dropped: u64) {
        for (gauge, state) in self.devices.iter().zip(STATES) {
            gauge.set(f64::from(states.get(state).copied().unwrap_or_default()));
        }
        self.unconfirmed.set(f64::from(u32::try_from(unconfirmed).unwrap_or(u32::MAX)));
        self.exports_refused.follow(exports_refused);
        self.publications_dropped.follow(dropped);
    }

    /// Sets the series of one device value. The caller bounds how many there are.
    pub fn export(&self, device: &DeviceId, property: &str, value: f64) {
        let labels = [
            ("namespace", device.namespace.clone()),
            ("device", device.name.clone()),
            ("property", property.to_owned()),
        ];
        gauge!("kubeedge_device_value", &labels).set(value);
    }
}

impl Default for DeviceTwinMetrics {
    fn default() -> Self {
        Self::new()
    }
}
