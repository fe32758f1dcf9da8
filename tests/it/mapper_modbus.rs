//! The Modbus mapper against pymodbus.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use kubeedge::bus::device_twin::DeviceChanged;
use kubeedge::mapper::modbus::Modbus;
use kubeedge::mapper::value::Value as Reading;
use kubeedge::mapper::{Connection, DeviceInfo, Driver, DriverError};
use kubeedge::wire::dmi;
use serde_json::{Value, json};

use crate::harness::dmi as alone;
use crate::harness::peer::Peer;
use crate::harness::process::Process;

const SLAVE: u8 = 7;

struct Server {
    peer: Peer,
    port: String,
}

impl Server {
    fn start(port: &str) -> Self {
        let peer = Peer::start("modbus_server.py", &[port]);
        let port = peer.line();
        Self { peer, port }
    }

    fn set(&mut self, table: &str, offset: u16, values: &[u16]) {
        let values: Vec<String> = values.iter().map(u16::to_string).collect();
        assert_eq!(self.peer.ask(&format!("set {table} {offset} {}", values.join(" "))), "\"ok\"");
    }

    fn get(&mut self, table: &str, offset: u16, count: usize) -> Value {
        serde_json::from_str(&self.peer.ask(&format!("get {table} {offset} {count}"))).unwrap()
    }
}

/// Name, model type, visitor.
const PROPERTIES: &[(&str, &str, &str)] = &[
    ("plain", "INT", r#"{"register": "HoldingRegister", "offset": 0, "limit": 1}"#),
    ("signed", "INT", r#"{"register": "HoldingRegister", "offset": 0, "dataType": "int16"}"#),
    ("scaled", "FLOAT", r#"{"register": "InputRegister", "offset": 4, "limit": 1, "scale": 0.1}"#),
    ("float", "FLOAT", r#"{"register": "HoldingRegister", "offset": 10, "limit": 2}"#),
    (
        "swapped",
        "FLOAT",
        r#"{"register": "HoldingRegister", "offset": 12, "limit": 2, "isRegisterSwap": true}"#,
    ),
    ("bytes", "FLOAT", r#"{"register": "HoldingRegister", "offset": 14, "limit": 2, "isSwap": true}"#),
    (
        "both",
        "FLOAT",
        r#"{"register": "HoldingRegister", "offset": 16, "limit": 2, "isSwap": true, "isRegisterSwap": true}"#,
    ),
    ("double", "DOUBLE", r#"{"register": "HoldingRegister", "offset": 20}"#),
    ("wide", "INT", r#"{"register": "HoldingRegister", "offset": 24, "dataType": "int32"}"#),
    ("name", "STRING", r#"{"register": "HoldingRegister", "offset": 30, "limit": 4}"#),
    ("coil", "BOOLEAN", r#"{"register": "CoilRegister", "offset": 3, "limit": 1}"#),
    ("contact", "BOOLEAN", r#"{"register": "DiscreteInputRegister", "offset": 5, "limit": 1}"#),
    ("beyond", "INT", r#"{"register": "HoldingRegister", "offset": 60000, "limit": 1}"#),
    ("broken", "INT", r#"{"register": "HoldingRegister", "offset": 0, "limit": 3}"#),
];

fn model() -> Value {
    let property =
        |(name, kind, _): &(&str, &str, &str)| json!({"name": name, "type": kind, "accessMode": "ReadWrite"});
    json!({"metadata": {"namespace": "default", "name": "meter"},
        "spec": {"properties": PROPERTIES.iter().map(property).collect::<Vec<_>>()}})
}

fn device(port: &str, names: &[&str], desired: &[(&str, &str)]) -> Value {
    let wanted: BTreeMap<&str, &str> = desired.iter().copied().collect();
    let properties: Vec<Value> = PROPERTIES
        .iter()
        .filter(|(name, ..)| names.contains(name))
        .map(|(name, _, visitor)| {
            let visitor: Value = serde_json::from_str(visitor).unwrap();
            let mut property = json!({"name": name, "visitors": {"protocolName": "modbus", "configData": visitor},
                "collectCycle": 50, "reportCycle": 50, "reportToCloud": true});
            if let Some(value) = wanted.get(name) {
                property["desired"] = json!({"value": value});
            }
            property
        })
        .collect();
    json!({"metadata": {"namespace": "default", "name": "meter-1"}, "spec": {
        "deviceModelRef": {"name": "meter"},
        "protocol": {"protocolName": "modbus", "configData": {"communicateMode": "TCP", "ip": "127.0.0.1",
            "port": port, "slaveID": SLAVE, "timeout": 2000}},
        "properties": properties}})
}

fn info(port: &str) -> DeviceInfo {
    let names: Vec<&str> = PROPERTIES.iter().map(|(name, ..)| *name).collect();
    let message = dmi::device(&device(port, &names, &[]), &model(), &BTreeMap::new()).unwrap();
    let (info, problems) = DeviceInfo::read(&message, &dmi::model(&model()).unwrap());
    assert!(problems.is_empty(), "{problems:?}");
    info
}

#[tokio::test]
async fn the_driver_reads_and_writes_what_pymodbus_holds() {
    let mut server = Server::start("0");
    // 12.5 is 0x41480000 as 32 bits, 0x4029000000000000 as 64.
    server.set("holding", 0, &[65_526]);
    server.set("input", 4, &[215]);
    server.set("holding", 10, &[0x4148, 0, 0, 0x4148, 0x4841, 0, 0, 0x4841]);
    server.set("holding", 20, &[0x4029, 0, 0, 0, 0xffff, 0xfff6]);
    server.set("holding", 30, &[0x6d65, 0x7465, 0x7200, 0]);
    server.set("coil", 3, &[1]);
    server.set("discrete", 5, &[1]);
    let info = info(&server.port);
    let mut open = Modbus.connect(&info).await.unwrap();
    let expected: BTreeMap<&str, &str> = BTreeMap::from([
        ("plain", "65526"),
        ("signed", "-10"),
        ("scaled", "21.5"),
        ("float", "12.5"),
        ("swapped", "12.5"),
        ("bytes", "12.5"),
        ("both", "12.5"),
        ("double", "12.5"),
        ("wide", "-10"),
        ("name", "meter"),
        ("coil", "true"),
        ("contact", "true"),
    ]);
    for property in &info.properties {
        let read =
            open.read(property).await.and_then(|value| property.accept(value).map_err(DriverError::Refused));
        match expected.get(property.name.as_str()) {
            Some(want) => {
                assert_eq!(read.map(|value| value.to_string()), Ok((*want).to_owned()), "{}", property.name)
            }
            None => assert!(matches!(read, Err(DriverError::Refused(_))), "{}: {read:?}", property.name),
        }
    }
    let named = |name: &str| info.properties.iter().find(|property| property.name == name).unwrap();
    for (name, value, table, offset, registers) in [
        ("plain", Reading::Int(7), "holding", 0, json!([7])),
        ("signed", Reading::Int(-2), "holding", 0, json!([65_534])),
        ("float", Reading::Float(-1.5), "holding", 10, json!([0xbfc0, 0])),
        ("both", Reading::Float(-1.5), "holding", 16, json!([0, 0xc0bf])),
        ("double", Reading::Float(-1.5), "holding", 20, json!([0xbff8, 0, 0, 0])),
        ("wide", Reading::Int(70_000), "holding", 24, json!([1, 4464])),
        ("name", Reading::Text("a".to_owned()), "holding", 30, json!([0x6100, 0, 0, 0])),
        ("coil", Reading::Bool(false), "coil", 3, json!([0])),
    ] {
        open.write(named(name), &value).await.unwrap();
        let count = registers.as_array().unwrap().len();
        assert_eq!(server.get(table, offset, count), registers, "{name}");
    }
    for (name, value) in
        [("contact", Reading::Bool(true)), ("scaled", Reading::Float(1.0)), ("plain", Reading::Int(-1))]
    {
        let refused = open.write(named(name), &value).await;
        assert!(matches!(refused, Err(DriverError::Refused(_))), "{name}: {refused:?}");
    }
    drop(server);
    let lost = open.read(named("plain")).await;
    assert!(matches!(lost, Err(DriverError::Lost(_))), "{lost:?}");
    let gone = Modbus.connect(&info).await.err();
    assert!(matches!(gone, Some(DriverError::Lost(_))), "{gone:?}");
}

/// The program itself, an edgecore's Dmi before it and a Modbus device behind it.
#[actix::test]
async fn the_program_serves_a_device_until_and_after_it_is_unplugged() {
    let mut server = Server::start("0");
    server.set("holding", 0, &[20]);
    server.set("coil", 3, &[0]);
    let port = server.port.clone();
    let names = ["plain", "coil", "beyond"];
    let healthy = &names[..2];
    let world = alone::start(vec![model()], vec![device(&port, healthy, &[("coil", "true")])]);
    let _mapper = Process::start(
        "mapper-modbus",
        world.folder.path(),
        Command::new(env!("CARGO_BIN_EXE_mapper-modbus"))
            .arg("--dmi-socket")
            .arg(&world.socket)
            .arg("--socket-dir")
            .arg(world.folder.path().join("mappers"))
            .args(["--log", "debug"]),
    );
    let id = "default/meter-1";
    let shows = |name: &'static str, reported: &'static str, observed: &'static str| {
        move |reports: &alone::Reports| {
            reports.last(id, name) == Some((reported.to_owned(), observed.to_owned()))
        }
    };
    let is = |state: &'static str| {
        move |reports: &alone::Reports| reports.last_state(id).as_deref() == Some(state)
    };
    world.until("the first values", shows("plain", "20", "")).await;
    world.until("the coil follows", shows("coil", "true", "true")).await;
    assert_eq!(server.get("coil", 3, 1), json!([1]));
    world.until("online", is("online")).await;

    server.set("holding", 0, &[21]);
    world.until("a change of the sensor", shows("plain", "21", "")).await;
    let changed = DeviceChanged(Arc::new(device(&port, &names, &[("coil", "false")])));
    world.dmi.send(changed).await.unwrap();
    world.until("the coil follows again", shows("coil", "false", "false")).await;
    assert_eq!(server.get("coil", 3, 1), json!([0]));
    world.until("a register that is not there", is("unhealthy")).await;

    drop(server);
    world.until("unplugged", is("offline")).await;
    let mut server = Server::start(&port);
    server.set("holding", 0, &[22]);
    world.until("plugged in again", shows("plain", "22", "")).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.get("coil", 3, 1), json!([0]), "a desired value is written once for each change");
}
