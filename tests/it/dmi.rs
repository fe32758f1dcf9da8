//! DMI against a mapper that shares no code with ours: grpcio and descriptors of its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use kubeedge::bus::device_twin::{DesiredChanged, DeviceChanged, DeviceRemoved};
use kubeedge::model::DeviceId;
use serde_json::{Value, json};

use crate::harness::dmi as alone;
use crate::harness::peer::Peer;

/// User `nobody` of Debian.
const NOBODY: &str = "65534";

fn model() -> Value {
    json!({"metadata": {"namespace": "default", "name": "m"}, "spec": {
        "protocol": "peer",
        "protocolConfigData": {"port": 1502},
        "properties": [{"name": "temperature", "description": "air", "type": "INT", "accessMode": "ReadWrite",
            "minimum": "0", "maximum": "100", "unit": "C",
            "visitors": {"protocolName": "peer", "configData": {"register": "1"}}}]}})
}

fn device(name: &str, desired: &str) -> Value {
    json!({"metadata": {"namespace": "default", "name": name}, "spec": {
        "deviceModelRef": {"name": "m"},
        "protocol": {"protocolName": "peer", "configData": {"ip": "10.0.0.9", "ratio": 0.1, "tls": true, "big": 16_777_217}},
        "stateReport": {"reportToCloud": true, "reportCycle": 5000},
        "methods": [{"name": "set", "description": "d", "propertyNames": ["temperature"]}],
        "properties": [{"name": "temperature", "desired": {"value": desired, "metadata": {"k": "v"}},
            "collectCycle": 500, "reportCycle": 1000, "reportToCloud": true,
            "pushMethod": {
                "mqtt": {"address": "tcp://127.0.0.1:1883", "topic": "t", "qos": 1, "retained": true},
                "http": {"hostName": "h", "port": 80, "requestPath": "/p", "timeout": 9},
                "otel": {"endpointURL": "http://otel"},
                "dbMethod": {"influxdb2": {"influxdb2ClientConfig": {"url": "u", "org": "o", "bucket": "b"},
                    "influxdb2DataConfig": {"measurement": "m", "tag": {"a": "b"}, "fieldKey": "f"}}},
                "anomalyDetection": {"window": 5}}}]}})
}

fn wrapped(kind: &str, value: Value) -> Value {
    json!({"@type": format!("type.googleapis.com/google.protobuf.{kind}"), "value": value})
}

/// The device as grpcio reads it.
fn expected(name: &str, desired: &str) -> Value {
    json!({"name": name, "namespace": "default",
        "status": {"reportToCloud": true, "reportCycle": "5000"},
        "spec": {"deviceModelReference": "m",
            "protocol": {"protocolName": "peer", "configData": {"data": {
                "ip": wrapped("StringValue", json!("10.0.0.9")),
                "port": wrapped("FloatValue", json!(1502.0)),
                "ratio": wrapped("FloatValue", json!(0.1)),
                "tls": wrapped("BoolValue", json!(true)),
                "big": wrapped("Int64Value", json!("16777217"))}}},
            "methods": [{"name": "set", "description": "d", "propertyNames": ["temperature"]}],
            "properties": [{"name": "temperature",
                "desired": {"value": desired, "metadata": {"k": "v"}},
                "visitors": {"protocolName": "peer", "configData": {"data": {
                    "register": wrapped("StringValue", json!("1"))}}},
                "reportCycle": "1000", "collectCycle": "500", "reportToCloud": true,
                "pushMethod": {
                    "http": {"hostname": "h", "port": "80", "requestpath": "/p", "timeout": "9"},
                    "mqtt": {"address": "tcp://127.0.0.1:1883", "topic": "t", "qos": 1, "retained": true},
                    "otel": {"endpointURL": "http://otel"},
                    "dbMethod": {"influxdb2": {"influxdb2ClientConfig": {"url": "u", "org": "o", "bucket": "b"},
                        "influxdb2DataConfig": {"measurement": "m", "tag": {"a": "b"}, "fieldKey": "f"}}},
                    "anomalyDetection": {"data": {"window": wrapped("FloatValue", json!(5.0))}}}}]}})
}

fn read(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|err| panic!("{line}: {err}"))
}

/// The peer's lines are read on another thread, so that the actor's thread stays free.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn next(peer: Peer) -> (Peer, Value) {
    blocking(move || {
        let line = peer.line();
        (peer, read(&line))
    })
    .await
}

fn start_peer(edgecore: &Path, own: &Path, more: &'static [&'static str]) -> Peer {
    let args = [&[edgecore.to_str().unwrap(), own.to_str().unwrap()], more].concat();
    Peer::start("dmi_peer.py", &args)
}

#[actix::test]
async fn a_foreign_mapper_registers_reports_and_is_told() {
    let world = alone::start(vec![model()], vec![device("a", "20")]);
    let (edgecore, own) = (world.socket.clone(), world.folder.path().join("peer.sock"));
    let (peer, answer) = next(start_peer(&edgecore, &own, &[])).await;
    let model = json!({"name": "m", "namespace": "default", "spec": {"properties": [{"name": "temperature",
        "description": "air", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "100", "unit": "C"}]}});
    assert_eq!(answer, json!({"ok": {"modelList": [model], "deviceList": [expected("a", "20")]}}));

    world.dmi.send(DeviceChanged(Arc::new(device("b", "1")))).await.unwrap();
    let id = || DeviceId::new("default", "b");
    let (peer, call) = next(peer).await;
    assert_eq!(call, json!({"call": "RegisterDevice", "request": {"device": expected("b", "1")}}));
    let desired = [("temperature".to_owned(), "30".to_owned())].into();
    world.dmi.send(DesiredChanged { device: id(), desired }).await.unwrap();
    let (peer, call) = next(peer).await;
    assert_eq!(call, json!({"call": "UpdateDevice", "request": {"device": expected("b", "30")}}));
    world.dmi.send(DeviceRemoved(id())).await.unwrap();
    let (mut peer, call) = next(peer).await;
    let named = json!({"deviceName": "b", "deviceNamespace": "default"});
    assert_eq!(call, json!({"call": "RemoveDevice", "request": named}));

    let answers = blocking(move || {
        let lines = ["value a temperature 21", "state a online", "value ghost temperature 1", "flood a 300"];
        lines.map(|line| read(&peer.ask(line)))
    })
    .await;
    assert_eq!(answers[0], json!({"ok": {}}));
    assert_eq!(answers[1], json!({"ok": {}}));
    assert_eq!(answers[2]["code"], "NOT_FOUND");
    assert_eq!(answers[3], json!(300), "no report is turned away");
    assert_eq!(world.reports.last_state("default/a").as_deref(), Some("online"));
    let values = world.reports.values.lock();
    assert_eq!(values.len(), 301);
    assert_eq!(values[0].2.reported.as_deref(), Some("21"));
    assert_eq!(values[0].2.observed_desired.as_deref(), Some("21"));
}

/// The file's mode keeps strangers out; who gets past it is refused by name.
#[actix::test]
async fn another_user_is_refused() {
    assert!(nix::unistd::geteuid().is_root(), "this test becomes another user and must run as root");
    let world = alone::start(vec![], vec![]);
    fs::set_permissions(world.folder.path(), Permissions::from_mode(0o755)).unwrap();
    let (edgecore, own) = (world.socket.clone(), world.folder.path().join("peer.sock"));
    world.until("the socket is there", |_| edgecore.exists()).await;
    let opened = edgecore.clone();
    fs::set_permissions(&opened, Permissions::from_mode(0o666)).unwrap();
    let answer = blocking(move || read(&start_peer(&edgecore, &own, &["--uid", NOBODY]).line())).await;
    assert_eq!(answer["code"], "PERMISSION_DENIED", "{answer}");
    assert!(answer["details"].as_str().unwrap().contains("user id 65534"), "{answer}");
}
