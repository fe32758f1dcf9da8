//! The Dmi actor alone, with what it would hear from MetaManager and what it tells DeviceTwin.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, Addr};
use kubeedge::actors::edge::dmi::{Dmi, DmiLinks, DmiSettings};
use kubeedge::bus::Link;
use kubeedge::bus::device_twin::{
    DeviceObjects, ListDesired, ListDevices, MapperReport, ReportRejected, ReportState, ReportTwins,
};
use kubeedge::bus::meta::ReportEvent;
use kubeedge::model::NodeName;
use kubeedge::store::{Committer, CommitterGuard, CommitterSettings, MemoryStore, Store};
use kubeedge::telemetry::dmi::DmiMetrics;
use parking_lot::Mutex;
use serde_json::Value;

use super::process::PATIENCE;

type Values = Arc<Mutex<Vec<(String, String, MapperReport)>>>;

/// What mappers reported, in order.
#[derive(Default, Clone)]
pub struct Reports {
    /// Device, property, report.
    pub values: Values,
    /// Device and state.
    pub states: Arc<Mutex<Vec<(String, String)>>>,
}

pub struct DmiAlone {
    pub folder: tempfile::TempDir,
    pub socket: PathBuf,
    pub reports: Reports,
    pub dmi: Addr<Dmi>,
    _guard: CommitterGuard,
}

/// Device named `ghost` is unknown to DeviceTwin.
pub fn start(models: Vec<Value>, devices: Vec<Value>) -> DmiAlone {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("dmi.sock");
    let reports = Reports::default();
    let (values, states) = (Arc::clone(&reports.values), Arc::clone(&reports.states));
    let shared = |objects: Vec<Value>| objects.into_iter().map(Arc::new).collect::<Vec<_>>();
    let objects = DeviceObjects { models: shared(models), devices: shared(devices) };
    let links = DmiLinks {
        list_devices: Link::from_fn(move |_: ListDevices| Ok(objects.clone())),
        list_desired: Link::from_fn(|_: ListDesired| Ok(Vec::new())),
        report_twins: Link::from_fn(move |report: ReportTwins| {
            if report.device.name == "ghost" {
                return Err(ReportRejected::UnknownDevice(report.device));
            }
            let device = report.device.to_string();
            let rows = report.twins.into_iter().map(|(property, value)| (device.clone(), property, value));
            values.lock().extend(rows);
            Ok(())
        }),
        report_state: Link::from_fn(move |report: ReportState| {
            states.lock().push((report.device.to_string(), report.state));
            Ok(())
        }),
        report_event: Link::from_fn(|_: ReportEvent| Ok(())),
    };
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let (committer, guard) = Committer::start(Arc::clone(&store), CommitterSettings::default()).unwrap();
    let settings = DmiSettings {
        node: NodeName::parse("edge-1").unwrap(),
        socket: socket.clone(),
        allowed_uids: Vec::new(),
    };
    let dmi = Dmi::new(settings, store, committer, links, DmiMetrics::new()).start();
    DmiAlone { folder, socket, reports, dmi, _guard: guard }
}

impl DmiAlone {
    pub async fn until(&self, what: &str, holds: impl Fn(&Reports) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(&self.reports) {
            assert!(
                Instant::now() < deadline,
                "{what}: {:?} {:?}",
                self.reports.values.lock(),
                self.reports.states.lock()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Reports {
    /// The last value and observed desired value of a property.
    pub fn last(&self, device: &str, property: &str) -> Option<(String, String)> {
        let values = self.values.lock();
        let found = values.iter().rev().find(|(of, name, _)| of == device && name == property);
        found.map(|(_, _, report)| {
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            (text(&report.reported), text(&report.observed_desired))
        })
    }

    pub fn last_state(&self, device: &str) -> Option<String> {
        self.states.lock().iter().rev().find(|(of, _)| of == device).map(|(_, state)| state.clone())
    }
}
