//! A mapper as edgecore and a device see it: a driver made of a table, an edgecore that notes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::{Request, Status};

use super::device::{DeviceInfo, PropertyInfo};
use super::driver::{Connection, Driver, DriverError};
use super::value::Value;
use super::{MapperSettings, run};
use crate::wire::dmi::{
    self, DeviceManager, ManagerServer, MapperClient, MapperRegisterRequest, MapperRegisterResponse,
    ObjectName, ReportDeviceStatesRequest, ReportDeviceStatusRequest, SOCKET_MODE,
};
use crate::wire::socket::GrpcSocket;

/// A device's registers, how often it was opened, and what it does wrong.
#[derive(Default)]
struct Bench {
    values: Mutex<BTreeMap<String, Value>>,
    opened: Mutex<u32>,
    writes: Mutex<Vec<String>>,
    is_dead: Mutex<bool>,
    panics: Mutex<bool>,
}

#[derive(Clone)]
struct Table(Arc<Bench>);

impl Driver for Table {
    type Connection = Table;

    async fn connect(&self, _: &DeviceInfo) -> Result<Table, DriverError> {
        if *self.0.is_dead.lock() {
            return Err(DriverError::Lost("no route to the bench".to_owned()));
        }
        *self.0.opened.lock() += 1;
        Ok(self.clone())
    }
}

impl Connection for Table {
    async fn read(&mut self, property: &PropertyInfo) -> Result<Value, DriverError> {
        assert!(!std::mem::take(&mut *self.0.panics.lock()), "a bug of the driver");
        if *self.0.is_dead.lock() {
            return Err(DriverError::Lost("unplugged".to_owned()));
        }
        let value = self.0.values.lock().get(&property.name).cloned();
        value.ok_or_else(|| DriverError::Refused("no such register".to_owned()))
    }

    async fn write(&mut self, property: &PropertyInfo, value: &Value) -> Result<(), DriverError> {
        self.0.writes.lock().push(format!("{}={value}", property.name));
        self.0.values.lock().insert(property.name.clone(), value.clone());
        Ok(())
    }
}

/// An edgecore that answers registrations with `listing` and notes every report.
#[derive(Default)]
struct Notebook {
    listing: Mutex<MapperRegisterResponse>,
    addresses: Mutex<Vec<PathBuf>>,
    /// Last reported and observed value by property.
    values: Mutex<BTreeMap<String, (String, String)>>,
    reports: Mutex<u32>,
    states: Mutex<Vec<String>>,
}

impl DeviceManager for Notebook {
    async fn register(
        &self,
        request: Request<MapperRegisterRequest>,
    ) -> Result<MapperRegisterResponse, Status> {
        let mapper = request.into_inner().mapper.unwrap();
        assert_eq!((mapper.protocol.as_str(), mapper.api_version.as_str()), ("table", "v1beta1"));
        self.addresses.lock().push(PathBuf::from(String::from_utf8(mapper.address).unwrap()));
        Ok(self.listing.lock().clone())
    }

    async fn report_status(&self, request: Request<ReportDeviceStatusRequest>) -> Result<(), Status> {
        *self.reports.lock() += 1;
        for twin in request.into_inner().reported_device.unwrap().twins {
            let reported = twin.reported.unwrap();
            assert!(reported.metadata["timestamp"].parse::<u64>().unwrap() > 1_700_000_000_000);
            self.values
                .lock()
                .insert(twin.property_name, (reported.value, twin.observed_desired.unwrap().value));
        }
        Ok(())
    }

    async fn report_states(&self, request: Request<ReportDeviceStatesRequest>) -> Result<(), Status> {
        self.states.lock().push(request.into_inner().state);
        Ok(())
    }
}

struct World {
    folder: tempfile::TempDir,
    bench: Arc<Bench>,
    edge: Arc<Notebook>,
    edge_task: Option<JoinHandle<()>>,
    _end: oneshot::Sender<()>,
}

fn device(properties: &Json, config: &Json) -> dmi::Device {
    let device = json!({"metadata": {"namespace": "default", "name": "d"}, "spec": {
        "deviceModelRef": {"name": "m"}, "protocol": {"protocolName": "table", "configData": config},
        "properties": properties}});
    dmi::device(&device, &model(), &BTreeMap::new()).unwrap()
}

fn model() -> Json {
    json!({"metadata": {"namespace": "default", "name": "m"}, "spec": {"properties": [
        {"name": "t", "type": "INT", "accessMode": "ReadOnly", "minimum": "0", "maximum": "50"},
        {"name": "lamp", "type": "BOOLEAN", "accessMode": "ReadWrite"},
    ]}})
}

fn both(desired: &str) -> Json {
    json!([
        {"name": "t", "collectCycle": 20, "reportCycle": 20, "reportToCloud": true},
        {"name": "lamp", "desired": {"value": desired}, "collectCycle": 20, "reportCycle": 20, "reportToCloud": true},
    ])
}

async fn serve_edge(edge: Arc<Notebook>, path: &Path) -> JoinHandle<()> {
    let socket = GrpcSocket::bind(path, SOCKET_MODE, 8).await.unwrap();
    tokio::spawn(async move {
        let incoming = Box::pin(socket.connections());
        let server = ManagerServer::new(edge);
        drop(Server::builder().serve_with_incoming_shutdown(server, incoming, std::future::pending()).await);
    })
}

async fn start(properties: &Json) -> World {
    let folder = tempfile::tempdir().unwrap();
    let (bench, edge) = (Arc::new(Bench::default()), Arc::new(Notebook::default()));
    bench.values.lock().extend([("t".to_owned(), Value::Float(21.4)), ("lamp".to_owned(), Value::Int(0))]);
    *edge.listing.lock() = MapperRegisterResponse {
        model_list: vec![dmi::model(&model()).unwrap()],
        device_list: vec![device(properties, &json!({"port": 1}))],
    };
    let dmi_socket = folder.path().join("dmi.sock");
    let edge_task = Some(serve_edge(Arc::clone(&edge), &dmi_socket).await);
    let settings = MapperSettings {
        name: "table-mapper".to_owned(),
        version: "v1".to_owned(),
        protocol: "table".to_owned(),
        dmi_socket,
        socket_dir: folder.path().to_owned(),
    };
    let (end, ended) = oneshot::channel();
    let driver = Table(Arc::clone(&bench));
    drop(tokio::spawn(async move { run(settings, driver, async move { drop(ended.await) }).await.unwrap() }));
    World { folder, bench, edge, edge_task, _end: end }
}

impl World {
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..3000 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!(
            "{what}: values {:?}, states {:?}, writes {:?}, opened {}",
            self.edge.values.lock(),
            self.edge.states.lock(),
            self.bench.writes.lock(),
            self.bench.opened.lock()
        );
    }

    fn value(&self, name: &str) -> Option<(String, String)> {
        self.edge.values.lock().get(name).cloned()
    }

    fn has(&self, name: &str, reported: &str, observed: &str) -> bool {
        self.value(name) == Some((reported.to_owned(), observed.to_owned()))
    }

    async fn client(&self) -> MapperClient {
        self.until("registered", |world| !world.edge.addresses.lock().is_empty()).await;
        let path = self.edge.addresses.lock().last().unwrap().clone();
        let dialled = dmi::dial(&path, Duration::from_secs(5)).await.unwrap();
        MapperClient::new(dialled.channel, Duration::from_secs(5))
    }
}

#[tokio::test]
async fn values_go_up_desired_values_come_down() {
    let world = start(&both("on")).await;
    world
        .until("the first values", |world| world.has("t", "21", "") && world.has("lamp", "true", "on"))
        .await;
    assert_eq!(*world.bench.writes.lock(), ["lamp=true"], "written once");
    assert_eq!(*world.edge.states.lock(), ["online"]);
    world.bench.values.lock().insert("t".to_owned(), Value::Int(30));
    world.until("a change", |world| world.has("t", "30", "")).await;

    // Another desired value; the device is not opened again for it.
    let client = world.client().await;
    client.update_device(device(&both("off"), &json!({"port": 1}))).await.unwrap();
    world.until("the lamp is off", |world| world.has("lamp", "false", "off")).await;
    assert_eq!(*world.bench.writes.lock(), ["lamp=true", "lamp=false"]);
    assert_eq!(*world.bench.opened.lock(), 1);
    // The same again changes nothing; another way to reach it opens it again.
    client.update_device(device(&both("off"), &json!({"port": 1}))).await.unwrap();
    client.update_device(device(&both("off"), &json!({"port": 2}))).await.unwrap();
    world.until("opened again", |world| *world.bench.opened.lock() == 2).await;
    assert_eq!(world.bench.writes.lock().len(), 2, "not written again");
}

#[tokio::test]
async fn what_is_out_of_range_is_not_reported_but_told() {
    let world = start(&both("dim")).await;
    world.until("the first value", |world| world.has("t", "21", "")).await;
    assert!(world.bench.writes.lock().is_empty(), "a desired value of the wrong type is not written");
    world.bench.values.lock().insert("t".to_owned(), Value::Int(51));
    world
        .until("unhealthy", |world| world.edge.states.lock().last().is_some_and(|state| state == "unhealthy"))
        .await;
    assert!(world.has("t", "21", ""), "51 is above the maximum");
    world.bench.values.lock().insert("t".to_owned(), Value::Int(50));
    world
        .until("well again", |world| world.edge.states.lock().last().is_some_and(|state| state == "online"))
        .await;
    world.until("the value", |world| world.has("t", "50", "")).await;
    assert_eq!(*world.edge.states.lock(), ["online", "unhealthy", "online"]);
}

#[tokio::test]
async fn a_device_that_is_lost_is_offline_and_opened_again() {
    let world = start(&both("on")).await;
    world.until("online", |world| world.has("t", "21", "")).await;
    *world.bench.is_dead.lock() = true;
    world
        .until("offline", |world| world.edge.states.lock().last().is_some_and(|state| state == "offline"))
        .await;
    *world.bench.is_dead.lock() = false;
    world.bench.values.lock().insert("t".to_owned(), Value::Int(5));
    world.until("back", |world| world.has("t", "5", "")).await;
    assert_eq!(*world.edge.states.lock(), ["online", "offline", "online"]);
    *world.bench.panics.lock() = true;
    world.bench.values.lock().insert("t".to_owned(), Value::Int(6));
    world.until("after a panic", |world| world.has("t", "6", "")).await;
}

#[tokio::test]
async fn edgecore_that_comes_back_gets_the_newest_values() {
    let mut world = start(&both("on")).await;
    world.until("online", |world| world.has("t", "21", "")).await;
    let edge = world.edge_task.take().unwrap();
    edge.abort();
    drop(edge.await);
    // Meanwhile the device goes on.
    world.bench.values.lock().insert("t".to_owned(), Value::Int(44));
    let read = world.bench.values.lock().len();
    assert_eq!(read, 2);
    world.edge.values.lock().clear();
    world.edge.states.lock().clear();
    let again = serve_edge(Arc::clone(&world.edge), &world.folder.path().join("dmi.sock")).await;
    world.edge_task = Some(again);
    world
        .until("everything again", |world| world.has("t", "44", "") && world.has("lamp", "true", "on"))
        .await;
    world.until("the state too", |world| *world.edge.states.lock() == ["online"]).await;
    assert_eq!(*world.bench.opened.lock(), 1, "the device was never closed");
    assert_eq!(world.edge.addresses.lock().iter().collect::<BTreeSet<_>>().len(), 1);
}

#[tokio::test]
async fn devices_come_and_go_by_edgecores_word() {
    let world = start(&both("on")).await;
    world.until("online", |world| world.has("t", "21", "")).await;
    let client = world.client().await;
    let named = || ObjectName { name: "d".to_owned(), namespace: "default".to_owned() };
    assert_eq!(client.get_device(named()).await.unwrap().unwrap().name, "d");
    client.remove_device(named()).await.unwrap();
    assert_eq!(client.get_device(named()).await.unwrap_err().code(), tonic::Code::NotFound);
    let unknown = client.update_device(device(&both("on"), &json!({}))).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
    let reports = *world.edge.reports.lock();
    client.register_device(device(&both("on"), &json!({}))).await.unwrap();
    world.until("reports again", |world| *world.edge.reports.lock() > reports).await;
    client.remove_model(ObjectName { name: "m".to_owned(), namespace: "default".to_owned() }).await.unwrap();
    let mut other = device(&both("on"), &json!({}));
    other.name = "e".to_owned();
    let status = client.register_device(other).await.unwrap_err();
    assert!(status.message().contains("model default/m was not created here"), "{status:?}");
}
