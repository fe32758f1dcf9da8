//! DeviceController's metrics.

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

/// What DeviceController does.
#[derive(Clone)]
pub struct DeviceControllerMetrics {
    /// Devices whose node and model are known.
    pub placed: Gauge,
    /// Devices that wait for their node or their model.
    pub waiting: Gauge,
    /// Changes told to nodes, connected or not.
    pub downstream: Counter,
    /// Reports of nodes, by result: understood, and on their way into the API.
    pub taken: Counter,
    /// The reporting node is not the device's.
    pub forbidden: Counter,
    /// No such device.
    pub unknown: Counter,
    /// The content makes no sense.
    pub bad: Counter,
    /// Before the devices are listed: the edge sends it again.
    pub early: Counter,
    /// The API will never take it.
    pub refused: Counter,
    /// Reported properties that the device does not have.
    pub foreign_properties: Counter,
    /// First report to the API having it, seconds.
    pub patch_seconds: Histogram,
    /// Calls about DeviceStatuses that failed; each is followed by another try.
    pub call_errors: Counter,
    /// Failures of the watches; each is followed by another try.
    pub watch_errors: Counter,
}

impl DeviceControllerMetrics {
    #[must_use]
    pub fn new() -> Self {
        const DEVICES: &str = "kubeedge_devicecontroller_devices";
        const REPORTS: &str = "kubeedge_devicecontroller_reports_total";
        describe_gauge!(DEVICES, "Devices by state: placed on a node, or waiting for node or model");
        describe_counter!(
            "kubeedge_devicecontroller_downstream_messages_total",
            "Changes of devices and models told to nodes, connected or not"
        );
        describe_counter!(REPORTS, "Twin and state reports of nodes, by result");
        describe_counter!(
            "kubeedge_devicecontroller_foreign_properties_total",
            "Reported properties that the Device does not have; they are left out"
        );
        describe_histogram!(
            "kubeedge_devicecontroller_patch_seconds",
            Unit::Seconds,
            "From a report's arrival until the API has it in the DeviceStatus"
        );
        describe_counter!(
            "kubeedge_devicecontroller_call_errors_total",
            "Failed calls about DeviceStatuses; each is followed by another try"
        );
        describe_counter!(
            "kubeedge_devicecontroller_watch_errors_total",
            "Failures of the watches of the Kubernetes API; each is followed by another try"
        );
        Self {
            placed: gauge!(DEVICES, "state" => "placed"),
            waiting: gauge!(DEVICES, "state" => "waiting"),
            downstream: counter!("kubeedge_devicecontroller_downstream_messages_total"),
            taken: counter!(REPORTS, "result" => "taken"),
            forbidden: counter!(REPORTS, "result" => "forbidden"),
            unknown: counter!(REPORTS, "result" => "unknown"),
            bad: counter!(REPORTS, "result" => "bad"),
            early: counter!(REPORTS, "result" => "early"),
            refused: counter!(REPORTS, "result" => "refused"),
            foreign_properties: counter!("kubeedge_devicecontroller_foreign_properties_total"),
            patch_seconds: histogram!("kubeedge_devicecontroller_patch_seconds"),
            call_errors: counter!("kubeedge_devicecontroller_call_errors_total"),
            watch_errors: counter!("kubeedge_devicecontroller_watch_errors_total"),
        }
    }
}

impl Default for DeviceControllerMetrics {
    fn default() -> Self {
        Self::new()
    }
}
