//! Metrics of Dmi: mappers and the calls between them and edgecore.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

/// Every call of both services that edgecore takes or makes.
const CALLS: &[&str] = &[
    "MapperRegister",
    "ReportDeviceStatus",
    "ReportDeviceStates",
    "RegisterDevice",
    "UpdateDevice",
    "RemoveDevice",
    "CreateDeviceModel",
    "UpdateDeviceModel",
    "RemoveDeviceModel",
];

/// Handles of one process. Cheap to clone.
#[derive(Clone)]
pub struct DmiMetrics {
    /// Mappers with an open connection.
    pub mappers: Gauge,
    /// Devices whose protocol no mapper has registered.
    pub unserved: Gauge,
    /// Devices that cannot be told to a mapper as they are.
    pub undeliverable: Gauge,
    /// Calls refused because of who called.
    pub refused: Counter,
    calls: Arc<BTreeMap<&'static str, Call>>,
}

struct Call {
    seconds: Histogram,
    ok: Counter,
    failed: Counter,
}

impl DmiMetrics {
    /// Registers and describes the handles.
    #[must_use]
    pub fn new() -> Self {
        describe_gauge!("kubeedge_dmi_mappers_connected", "Mappers with an open connection");
        describe_gauge!("kubeedge_dmi_unserved_devices", "Devices whose protocol no mapper has registered");
        describe_gauge!("kubeedge_dmi_undeliverable_devices", "Devices no mapper can be told of as they are");
        describe_counter!("kubeedge_dmi_refused_peers_total", "Calls refused because of the caller's user");
        describe_counter!(
            "kubeedge_dmi_calls_total",
            "Calls between edgecore and mappers, by call and result"
        );
        describe_histogram!(
            "kubeedge_dmi_call_seconds",
            Unit::Seconds,
            "Duration of calls between edgecore and mappers, by call"
        );
        let handles = |call: &'static str| Call {
            seconds: histogram!("kubeedge_dmi_call_seconds", "call" => call),
            ok: counter!("kubeedge_dmi_calls_total", "call" => call, "result" => "ok"),
            failed: counter!("kubeedge_dmi_calls_total", "call" => call, "result" => "error"),
        };
        Self {
            mappers: gauge!("kubeedge_dmi_mappers_connected"),
            unserved: gauge!("kubeedge_dmi_unserved_devices"),
            undeliverable: gauge!("kubeedge_dmi_undeliverable_devices"),
            refused: counter!("kubeedge_dmi_refused_peers_total"),
            calls: Arc::new(CALLS.iter().map(|call| (*call, handles(call))).collect()),
        }
    }

    /// One call ended.
    pub fn record(&self, call: &str, took: Duration, is_ok: bool) {
        if let Some(handles) = self.calls.get(call) {
            handles.seconds.record(took.as_secs_f64());
            if is_ok { handles.ok.increment(1) } else { handles.failed.increment(1) }
        }
    }
}

impl Default for DmiMetrics {
    fn default() -> Self {
        Self::new()
    }
}
