use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::catalog::{Catalog, Touched};
use super::lane::{Key, Want};
use crate::model::DeviceId;

fn id(name: &str) -> DeviceId {
    DeviceId::new("default", name)
}

fn device(name: &str, protocol: &str) -> Arc<Value> {
    Arc::new(json!({"metadata": {"namespace": "default", "name": name}, "spec": {
        "deviceModelRef": {"name": "m"}, "protocol": {"protocolName": protocol},
        "properties": [{"name": "power", "desired": {"value": "1"}}]}}))
}

fn model(unit: &str) -> Arc<Value> {
    Arc::new(json!({"metadata": {"namespace": "default", "name": "m"}, "spec": {
        "properties": [{"name": "power", "type": "INT", "unit": unit}],
        "protocolConfigData": {"unit": unit}}}))
}

fn touched(keys: impl IntoIterator<Item = Touched>) -> Vec<String> {
    keys.into_iter()
        .map(|Touched { protocol, key }| format!("{protocol} {key:?}").replace("DeviceId ", ""))
        .collect()
}

fn desired(catalog: &Catalog, protocol: &str, name: &str) -> String {
    match catalog.want(protocol, &Key::Device(id(name))) {
        Want::Device(device, _) => {
            device.spec.as_ref().unwrap().properties[0].desired.as_ref().unwrap().value.clone()
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn a_device_waits_for_its_model_and_follows_it() {
    let mut catalog = Catalog::default();
    catalog.put_device(id("a"), device("a", "modbus"));
    assert_eq!(catalog.want("modbus", &Key::Device(id("a"))), Want::Unsure);
    let why: Vec<_> = catalog.undeliverable().map(|(_, why)| why.to_owned()).collect();
    assert_eq!(why, ["spec.deviceModelRef.name: device model default/m is unknown here"]);
    assert!(catalog.listing("modbus").devices.is_empty());

    let news = catalog.put_model(id("m"), model("W"));
    assert_eq!(news.len(), 2, "{:?}", touched(news));
    let Want::Device(_, before) = catalog.want("modbus", &Key::Device(id("a"))) else {
        panic!("deliverable")
    };
    assert!(matches!(catalog.want("modbus", &Key::Model(id("m"))), Want::Model(..)));
    assert_eq!(catalog.want("ble", &Key::Model(id("m"))), Want::Nothing, "nobody of that protocol uses it");

    catalog.put_model(id("m"), model("kW"));
    let Want::Device(_, after) = catalog.want("modbus", &Key::Device(id("a"))) else { panic!("deliverable") };
    assert_ne!(before, after, "the merged device changed with its model");
    catalog.remove_model(&id("m"));
    assert_eq!(catalog.want("modbus", &Key::Device(id("a"))), Want::Unsure, "what the mapper has stays");
    catalog.remove_device(&id("a"));
    assert_eq!(catalog.want("modbus", &Key::Device(id("a"))), Want::Nothing);
    assert_eq!(catalog.want("modbus", &Key::Model(id("m"))), Want::Nothing);
}

#[test]
fn a_device_that_changes_protocol_leaves_one_mapper_and_comes_to_the_other() {
    let mut catalog = Catalog::default();
    catalog.put_model(id("m"), model("W"));
    catalog.put_device(id("a"), device("a", "modbus"));
    let news = touched(catalog.put_device(id("a"), device("a", "ble")));
    assert_eq!(news.len(), 4, "{news:?}");
    assert_eq!(catalog.want("modbus", &Key::Device(id("a"))), Want::Nothing);
    assert_eq!(catalog.want("modbus", &Key::Model(id("m"))), Want::Nothing);
    assert!(matches!(catalog.want("ble", &Key::Device(id("a"))), Want::Device(..)));
}

#[test]
fn values_in_force_win_whenever_they_come_and_go_with_the_device() {
    let mut catalog = Catalog::default();
    let in_force = |value: &str| BTreeMap::from([("power".to_owned(), value.to_owned())]);
    assert!(catalog.put_desired(id("a"), in_force("7")).is_empty(), "the device is not known yet");
    catalog.put_model(id("m"), model("W"));
    catalog.put_device(id("a"), device("a", "modbus"));
    assert_eq!(desired(&catalog, "modbus", "a"), "7");
    assert_eq!(catalog.put_desired(id("a"), in_force("8")).len(), 2);
    assert!(catalog.put_desired(id("a"), in_force("8")).is_empty(), "the same again is no news");
    assert_eq!(desired(&catalog, "modbus", "a"), "8");
    catalog.clear();
    catalog.put_model(id("m"), model("W"));
    catalog.put_device(id("a"), device("a", "modbus"));
    assert_eq!(desired(&catalog, "modbus", "a"), "8", "told values survive a restart");
    catalog.remove_device(&id("a"));
    catalog.put_device(id("a"), device("a", "modbus"));
    assert_eq!(desired(&catalog, "modbus", "a"), "1", "a new device of that name starts afresh");
}

#[test]
fn a_listing_has_each_model_once() {
    let mut catalog = Catalog::default();
    catalog.put_model(id("m"), model("W"));
    for name in ["a", "b", "c"] {
        catalog.put_device(id(name), device(name, "modbus"));
    }
    catalog.put_device(id("d"), device("d", "ble"));
    let listing = catalog.listing("modbus");
    assert_eq!((listing.models.len(), listing.devices.len(), listing.told.len()), (1, 3, 4));
    assert_eq!(catalog.keys("none").len(), 0);
}

#[test]
fn a_device_that_says_how_it_is_reached_needs_a_mapper() {
    let mut catalog = Catalog::default();
    let bare = |name: &str, more: Value| {
        let mut object = (*device(name, "mqtt")).clone();
        object["spec"]["properties"][0]["visitors"] = more;
        Arc::new(object)
    };
    let no_defaults = json!({"metadata": {"namespace": "default", "name": "m"}, "spec": {"properties": [
        {"name": "power", "type": "INT"}]}});
    catalog.put_model(id("m"), Arc::new(no_defaults));
    catalog.put_device(id("lamp"), bare("lamp", Value::Null));
    catalog.put_device(id("meter"), bare("meter", json!({"configData": {"offset": 1}})));
    let names: Vec<&str> = catalog.in_need().map(|(id, ..)| id.name.as_str()).collect();
    assert_eq!(names, ["meter"], "a lamp on MQTT speaks for itself");
    catalog.put_model(id("m"), model("W"));
    assert_eq!(catalog.in_need().count(), 2, "its model says how");
}
