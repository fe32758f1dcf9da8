//! From a sensor to kubectl and back: real cloudcore, edgecore, mappers, kubectl and MQTT clients.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::harness::cluster::{Edge, Kubectl};
use super::harness::hostile::figure;
use super::harness::modbus::{ModbusServer, SLAVE};
use super::harness::mosquitto::{Mosquitto, Mqtt};
use super::harness::process::{PATIENCE, Process, alone, eventually, free_port, http, until};
use super::harness::samples::power;
use super::main_job::{World, sleeper};
use super::neighbours::Ends;

/// Reported and desired value of a property in a DeviceStatus.
fn twin(status: &Value, property: &str) -> Option<(String, String)> {
    let twins = status["status"]["twins"].as_array()?;
    let twin = twins.iter().find(|twin| twin["propertyName"] == property)?;
    let text = |part: &str| twin[part]["value"].as_str().unwrap_or_default().to_owned();
    Some((text("reported"), text("observedDesired")))
}

/// Waits until a DeviceStatus shows what `want` accepts of a property.
fn wait_twin(kubectl: &Kubectl, device: &str, property: &str, want: impl Fn(&str, &str) -> bool) {
    until(&format!("{device} {property}"), PATIENCE, || {
        let status = kubectl.try_run(&["get", "devicestatus", device, "-o", "json"])?;
        let status: Value = serde_json::from_str(&status).map_err(|e| e.to_string())?;
        match twin(&status, property) {
            Some((reported, observed)) if want(&reported, &observed) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

pub fn reported(kubectl: &Kubectl, device: &str, property: &str, value: &str) {
    wait_twin(kubectl, device, property, |reported, _| reported == value);
}

pub fn apply_example(kubectl: &Kubectl, name: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples").join(name);
    kubectl.run(&["apply", "-f", file.to_str().unwrap()]);
}

/// Sets `spec.properties[index].desired.value`.
fn desire(kubectl: &Kubectl, device: &str, index: usize, value: &str) {
    let path = format!("/spec/properties/{index}/desired/value");
    let patch = json!([{"op": "replace", "path": path, "value": value}]).to_string();
    kubectl.run(&["patch", "device", device, "--type", "json", "-p", &patch]);
}

pub fn topic(device: &str, rest: &str) -> String {
    format!("$hw/events/device/default/{device}/{rest}")
}

/// Waits until the edge knows the device: an update is answered without an error.
pub fn wait_member(broker: Mqtt, dir: &Path, device: &str) {
    let listener = broker.subscribe(dir, &[&topic(device, "twin/get/result")]);
    until(&format!("{device} is a member"), PATIENCE, || {
        broker.publish(&topic(device, "twin/get"), r#"{"event_id":"member","timestamp":0}"#);
        let answers = listener.messages();
        match answers.iter().find(|(_, payload)| payload.contains("\"twin\"")) {
            Some(_) => Ok(()),
            None => Err(format!("{answers:?}")),
        }
    });
}

pub fn start_mapper(edge: &Edge, name: &str, binary: &str) -> Process {
    let mut command = Command::new(binary);
    command.arg("--dmi-socket").arg(&edge.dmi_socket).arg("--socket-dir").arg(edge.dir.join("mappers"));
    std::fs::create_dir_all(edge.dir.join("mappers")).unwrap();
    Process::start(name, &edge.dir, &mut command)
}

#[test]
fn plain_mqtt_clients_reach_kubectl_and_back() {
    let world = World::start();
    let (kubectl, broker) = (world.kubectl(), world.edge.broker);
    apply_example(&kubectl, "lamp.yaml");
    wait_member(broker, world.dir.path(), "lamp-1");
    let listener = broker.subscribe(world.dir.path(), &["$hw/events/device/default/lamp-1/#"]);

    broker.publish(&topic("lamp-1", "twin/update"), &power("off"));
    listener.wait_for("twin/update/result", &["\"power\"", "\"off\""]);
    listener.wait_for("twin/update/document", &["\"current\"", "\"off\""]);
    listener.wait_for("twin/update/delta", &["\"delta\":{\"power\":\"on\"}"]);
    wait_twin(&kubectl, "lamp-1", "power", |reported, observed| (reported, observed) == ("off", "on"));

    broker.publish(&topic("lamp-1", "state/update"), r#"{"event_id":"s","timestamp":0,"state":"online"}"#);
    listener.wait_for("state/update/result", &["\"online\"", "lastOnlineTime"]);
    kubectl.wait_for("devicestatus/lamp-1", "{.status.state}", "online", PATIENCE);
    let table = kubectl.run(&["get", "devicestatus", "lamp-1"]);
    assert!(table.contains("online"), "{table}");

    // Desired from the cloud, then from an application at the edge, then from the cloud again.
    desire(&kubectl, "lamp-1", 0, "dim");
    listener.wait_for("twin/update/delta", &["\"power\":\"dim\""]);
    let local = r#"{"event_id":"l","timestamp":0,"twin":{"power":{"expected":{"value":"night"}}}}"#;
    broker.publish(&topic("lamp-1", "twin/update"), local);
    listener.wait_for("twin/update/delta", &["\"power\":\"night\""]);
    wait_twin(&kubectl, "lamp-1", "power", |_, observed| observed == "night");
    desire(&kubectl, "lamp-1", 0, "bright");
    wait_twin(&kubectl, "lamp-1", "power", |_, observed| observed == "bright");

    kubectl.run(&["delete", "device", "lamp-1"]);
    kubectl.wait_gone("devicestatus/lamp-1");
    until("the edge forgets the device", PATIENCE, || {
        broker.publish(&topic("lamp-1", "twin/update"), &power("late"));
        let refused =
            |(topic, payload): &(String, String)| topic.ends_with("result") && payload.contains("404");
        if listener.messages().iter().any(refused) { Ok(()) } else { Err("it still answers".into()) }
    });
}

#[test]
fn the_simulated_mapper_reports_and_obeys() {
    let world = World::start();
    let kubectl = world.kubectl();
    let mut mapper = start_mapper(&world.edge, "mapper-sim", env!("CARGO_BIN_EXE_mapper-sim"));
    apply_example(&kubectl, "thermometer.yaml");
    wait_twin(&kubectl, "thermometer-1", "temperature", |reported, _| {
        reported.parse::<f64>().is_ok_and(|t| (-40.0..=85.0).contains(&t))
    });
    wait_twin(&kubectl, "thermometer-1", "setpoint", |reported, _| reported.parse() == Ok(21.0));
    kubectl.wait_for("devicestatus/thermometer-1", "{.status.state}", "online", PATIENCE);

    desire(&kubectl, "thermometer-1", 1, "23");
    wait_twin(&kubectl, "thermometer-1", "setpoint", |reported, observed| {
        reported.parse() == Ok(23.0) && observed.parse() == Ok(23.0)
    });

    // A mapper that dies and returns gets its devices again; so does one whose edgecore restarts.
    mapper.kill9();
    desire(&kubectl, "thermometer-1", 1, "24");
    let mut mapper = start_mapper(&world.edge, "mapper-sim", env!("CARGO_BIN_EXE_mapper-sim"));
    wait_twin(&kubectl, "thermometer-1", "setpoint", |reported, _| reported.parse() == Ok(24.0));
    let mut world = world;
    world.edge.process.kill9();
    world.edge.restart(&[]);
    desire(&kubectl, "thermometer-1", 1, "25");
    wait_twin(&kubectl, "thermometer-1", "setpoint", |reported, _| reported.parse() == Ok(25.0));
    assert!(mapper.is_running(), "{}", mapper.tail());
}

/// Has the first place of a table this value?
fn holds(plc: &mut ModbusServer, table: &str, want: u16) -> Result<(), String> {
    let is = plc.get(table, 0, 1);
    if is == json!([want]) { Ok(()) } else { Err(is.to_string()) }
}

#[test]
fn the_modbus_mapper_moves_real_registers() {
    let world = World::start();
    let kubectl = world.kubectl();
    let mut plc = ModbusServer::start("0");
    let _mapper = start_mapper(&world.edge, "mapper-modbus", env!("CARGO_BIN_EXE_mapper-modbus"));
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/plc.yaml");
    let yaml = std::fs::read_to_string(example).unwrap();
    assert!(yaml.contains("port: 1502"), "the example's port");
    let here = yaml.replace("port: 1502", &format!("port: {}", plc.port));
    kubectl.apply(&here.replace("slaveID: 1", &format!("slaveID: {SLAVE}")));

    plc.set("input", 0, &[215]);
    wait_twin(&kubectl, "plc-1", "temperature", |reported, _| reported.parse() == Ok(21.5));
    plc.set("input", 0, &[333]);
    wait_twin(&kubectl, "plc-1", "temperature", |reported, _| reported.parse() == Ok(33.3));

    // The Device's own desired value was written, a new one is.
    until("the pump's speed was set", PATIENCE, || holds(&mut plc, "holding", 1200));
    desire(&kubectl, "plc-1", 1, "1500");
    until("the pump's speed is changed", PATIENCE, || holds(&mut plc, "holding", 1500));
    wait_twin(&kubectl, "plc-1", "speed", |reported, observed| (reported, observed) == ("1500", "1500"));
    desire(&kubectl, "plc-1", 2, "true");
    until("the pump is switched on", PATIENCE, || holds(&mut plc, "coil", 1));
    // Outside the model's range: never written.
    desire(&kubectl, "plc-1", 1, "9000");
    desire(&kubectl, "plc-1", 2, "false");
    until("the pump is switched off", PATIENCE, || holds(&mut plc, "coil", 0));
    assert_eq!(plc.get("holding", 0, 1), json!([1500]));
}

#[test]
fn a_cloud_that_was_away_ends_with_the_last_value_of_each_property() {
    let mut world = World::start();
    let (kubectl, broker) = (world.kubectl(), world.edge.broker);
    apply_example(&kubectl, "lamp.yaml");
    wait_member(broker, world.dir.path(), "lamp-1");
    world.cloud.process.kill9();

    let lines: Vec<String> = (1..=10_000).map(power).collect();
    broker.publish_lines(&topic("lamp-1", "twin/update"), &lines);
    broker.publish(&topic("lamp-1", "state/update"), r#"{"event_id":"s","timestamp":0,"state":"online"}"#);
    // What is acknowledged survives the edge's own death as well.
    world.edge.process.kill9();
    world.edge.restart(&[]);
    world.edge.wait_ready();
    world.cloud.restart(&[]);
    reported(&kubectl, "lamp-1", "power", "10000");
    kubectl.wait_for("devicestatus/lamp-1", "{.status.state}", "online", PATIENCE);
    until("nothing waits for the cloud", PATIENCE, || {
        let (_, metrics) = http("GET", &world.edge.monitor, "/metrics", &[])?;
        let waiting = metrics.lines().find(|line| line.starts_with("kubeedge_devicetwin_unconfirmed"));
        match waiting.and_then(|line| line.rsplit(' ').next()) {
            Some("0") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn acknowledged_updates_survive_kill_9_at_any_moment() {
    let mut world = World::start();
    let (kubectl, broker) = (world.kubectl(), world.edge.broker);
    apply_example(&kubectl, "lamp.yaml");
    wait_member(broker, world.dir.path(), "lamp-1");
    let mut acknowledged = 0;
    for round in 0..8_u64 {
        let edge = &mut world.edge;
        let taken = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let taken = &taken;
            let publisher = scope.spawn(move || {
                let mut last = 0;
                for n in (round * 1000 + 1)..(round + 1) * 1000 {
                    let payload = power(n);
                    let out = broker.try_publish(&[
                        "-q",
                        "1",
                        "-t",
                        &topic("lamp-1", "twin/update"),
                        "-m",
                        &payload,
                    ]);
                    if !out.status.success() {
                        return last;
                    }
                    last = n;
                    taken.store(n % 1000, Ordering::Relaxed);
                }
                last
            });
            // The next one is on its way then, each time at another step.
            let enough = 5 + 7 * round;
            eventually("some are acknowledged", || taken.load(Ordering::Relaxed) >= enough);
            edge.process.kill9();
            acknowledged = publisher.join().unwrap().max(acknowledged);
        });
        world.edge.restart(&[]);
        world.edge.wait_ready();
        let listener = broker.subscribe(world.dir.path(), &[&topic("lamp-1", "twin/get/result")]);
        broker.publish(&topic("lamp-1", "twin/get"), r#"{"event_id":"g","timestamp":0}"#);
        let answer = listener.wait_for("twin/get/result", &["\"twin\""]);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let held = answer["twin"]["power"]["actual"]["value"].as_str().unwrap_or("0").parse::<u64>().unwrap();
        assert!(held >= acknowledged, "round {round}: acknowledged {acknowledged}, the store has {held}");
    }
    assert!(acknowledged > 0, "nothing was ever acknowledged");
    wait_twin(&kubectl, "lamp-1", "power", |reported, _| {
        reported.parse::<u64>().is_ok_and(|reported| reported >= acknowledged)
    });
}

#[test]
fn an_external_mosquitto_serves_the_same_topics_and_may_go_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut mosquitto = Mosquitto::start(&dir.path().join("mosquitto"), free_port());
    let server = format!("modules.eventBus.mqttServerExternal=tcp://127.0.0.1:{}", mosquitto.broker.0);
    let world = World::with(&[], &["modules.eventBus.mqttMode=2", &server]);
    let (kubectl, broker) = (world.kubectl(), mosquitto.broker);
    apply_example(&kubectl, "lamp.yaml");
    wait_member(broker, dir.path(), "lamp-1");
    let listener = broker.subscribe(dir.path(), &["$hw/events/device/#"]);
    broker.publish(&topic("lamp-1", "twin/update"), &power("off"));
    listener.wait_for("twin/update/result", &["\"off\""]);
    reported(&kubectl, "lamp-1", "power", "off");

    mosquitto.process.terminate(PATIENCE);
    let _mosquitto = Mosquitto::start(&dir.path().join("mosquitto"), broker.0);
    wait_member(broker, dir.path(), "lamp-1");
    broker.publish(&topic("lamp-1", "twin/update"), &power("back"));
    reported(&kubectl, "lamp-1", "power", "back");
}

#[test]
fn a_device_flood_delays_no_pod() {
    /// Messages of one publisher; the next one follows.
    const BATCH: u64 = 5_000;
    /// So many are no flood.
    const FEW: f64 = 100.0;
    let _alone = alone();
    let world = World::start();
    let (kubectl, broker) = (world.kubectl(), world.edge.broker);
    apply_example(&kubectl, "lamp.yaml");
    wait_member(broker, world.dir.path(), "lamp-1");
    let start = |pods: &[&str]| {
        let begun = Instant::now();
        for pod in pods {
            kubectl.apply(&sleeper(pod, ""));
            kubectl.wait_running(pod);
        }
        begun.elapsed()
    };
    start(&["warm"]);
    let calm = start(&["calm-1", "calm-2", "calm-3"]);
    kubectl.run(&["delete", "pod", "calm-1", "calm-2", "calm-3"]);
    let heard =
        || figure(&world.edge.monitor, "kubeedge_eventbus_messages_total{direction=\"in\",qos=\"1\"}");
    let goes_on = |what: &str, from: f64| {
        until(what, PATIENCE, || match heard() {
            now if now > from + FEW => Ok(now),
            now => Err(format!("{from} messages then, {now} now")),
        })
    };
    let before = heard();
    let stop = AtomicBool::new(false);
    let (flooded, last) = std::thread::scope(|scope| {
        let ends = Ends(&stop);
        let flood = scope.spawn(|| {
            let mut last = 0;
            while !stop.load(Ordering::Relaxed) {
                let lines: Vec<String> = (last + 1..=last + BATCH).map(power).collect();
                broker.publish_lines(&topic("lamp-1", "twin/update"), &lines);
                last += BATCH;
            }
            last
        });
        let from = goes_on("the flood begins", before);
        let flooded = start(&["one", "two", "three"]);
        let by_then = heard();
        assert!(by_then > from + FEW, "that was no flood: {} messages", by_then - from);
        goes_on("the flood goes on", by_then);
        drop(ends);
        (flooded, flood.join().unwrap())
    });
    println!("three pods: {flooded:.1?} beside a flood of {last} messages, {calm:.1?} before");
    let most = calm * 3 + Duration::from_secs(5);
    assert!(flooded <= most, "three pods took {flooded:.1?} beside a flood, {calm:.1?} before");
    reported(&kubectl, "lamp-1", "power", &last.to_string());
}

#[test]
fn devices_of_unknown_nodes_wait_and_say_so_and_move() {
    let world = World::start();
    let (kubectl, broker) = (world.kubectl(), world.edge.broker);
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/lamp.yaml");
    let yaml = std::fs::read_to_string(example).unwrap();
    kubectl.apply(&yaml.replace("nodeName: edge-1", "nodeName: nowhere"));
    until("an event says that the node is unknown", PATIENCE, || {
        let events = kubectl.run(&["get", "events", "-o", "wide"]);
        if events.contains("lamp-1") && events.contains("nowhere") { Ok(()) } else { Err(events) }
    });
    apply_example(&kubectl, "lamp.yaml");
    wait_member(broker, world.dir.path(), "lamp-1");
    broker.publish(&topic("lamp-1", "twin/update"), &power("first"));
    reported(&kubectl, "lamp-1", "power", "first");
}

#[test]
fn an_edge_whose_store_was_wiped_gets_its_devices_again() {
    let mut world = World::start();
    let (kubectl, broker) = (world.kubectl(), world.edge.broker);
    apply_example(&kubectl, "lamp.yaml");
    wait_member(broker, world.dir.path(), "lamp-1");
    world.edge.process.kill9();
    std::fs::remove_dir_all(world.edge.dir.join("edge/store")).unwrap();
    world.edge.restart(&[]);
    world.edge.wait_ready();
    wait_member(broker, world.dir.path(), "lamp-1");
    broker.publish(&topic("lamp-1", "twin/update"), &power("after"));
    reported(&kubectl, "lamp-1", "power", "after");
}
