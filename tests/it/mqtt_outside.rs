//! A real Mosquitto outside, stopped and started; the edge is its client.

use std::collections::BTreeMap;
use std::process::Command;

use kubeedge::store::{RocksStore, Table, Tuning, scan_all};
use serde_json::Value;

use super::harness::mosquitto::{Mosquitto, Mqtt};
use super::harness::mqtt::Broker;
use super::harness::process::{PATIENCE, eventually, free_port, until};
use super::mqtt_clients::certificates;

/// Payloads that wait for the cloud, by topic, on the disk of an edge that does not run.
fn stored(broker: &Broker) -> BTreeMap<String, Vec<String>> {
    let store = RocksStore::open(&broker.dir.join("edge/store"), Tuning::edge()).unwrap();
    let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
    scan_all(&store, Table::Outbox, "upload/", |rows| {
        for (_, row) in rows {
            let row: Value = serde_json::from_slice(&row).unwrap();
            let text = |field: &str| row[field].as_str().unwrap().to_owned();
            held.entry(text("topic")).or_default().push(text("payload"));
        }
    })
    .unwrap();
    held
}

#[test]
fn mosquitto_is_stopped_and_started_and_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut mosquitto = Mosquitto::start(dir.path(), port);
    let section = format!("    mqttMode: 2\n    mqttServerExternal: tcp://127.0.0.1:{port}");
    let mut broker = Broker::start(&dir.path().join("edge"), &section);
    let is_connected = |broker: &Broker| broker.metric("kubeedge_eventbus_external_connected") == 1.0;
    eventually("connected", || is_connected(&broker));
    // The cloud is away: what goes to it waits on disk, and is counted.
    let upload = |n: u32| {
        let (topic, payload) = (format!("x/user/{n}"), format!("v{n}"));
        let out = Mqtt(port).try_publish(&["-q", "1", "-t", &topic, "-m", &payload]);
        assert!(out.status.success(), "{out:?}");
    };
    // Its SUBSCRIBE may still be on its way.
    until("subscribed", PATIENCE, || {
        upload(0);
        if broker.metric("kubeedge_eventbus_upload_messages") > 0.0 {
            Ok(())
        } else {
            Err("nothing yet".into())
        }
    });
    // So many at least: some may have come twice. Which ones came is looked up in the end.
    let waiting = |broker: &Broker| broker.metric("kubeedge_eventbus_upload_messages");
    let before = waiting(&broker);
    (1..=10).for_each(upload);
    eventually("ten more wait", || waiting(&broker) >= before + 10.0);

    // The edge is away: Mosquitto keeps its session.
    broker.process.kill9();
    let kept = before + 10.0;
    (11..=20).for_each(upload);
    broker.restart();
    eventually("ten more again", || waiting(&broker) >= kept + 10.0);

    // Mosquitto is away: the edge comes back to it.
    assert!(mosquitto.process.terminate(PATIENCE).success());
    eventually("noticed", || !is_connected(&broker));
    mosquitto = Mosquitto::start(dir.path(), port);
    eventually("connected again", || is_connected(&broker));
    let now = waiting(&broker);
    (21..=25).for_each(upload);
    eventually("and five more", || waiting(&broker) >= now + 5.0);

    // Each that was acknowledged is on the disk; what an edge that was killed had not taken comes again.
    until("each of them waits for the cloud", PATIENCE, || {
        eventually("connected", || is_connected(&broker));
        broker.process.kill9();
        let held = stored(&broker);
        broker.restart();
        let missing: Vec<u32> = (1..=25).filter(|n| !held.contains_key(&format!("x/user/{n}"))).collect();
        for (topic, payloads) in &held {
            let own = topic.replace("x/user/", "v");
            assert!(payloads.iter().all(|payload| *payload == own), "{topic}: {payloads:?}");
        }
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} are missing: {held:?}")) }
    });
    assert!(mosquitto.process.is_running());
}

#[test]
fn mosquitto_asks_for_a_certificate_and_a_password() {
    let dir = tempfile::tempdir().unwrap();
    let (path, d, port) = (dir.path(), dir.path().display(), free_port());
    certificates(path);
    let mut passwd = Command::new("mosquitto_passwd");
    assert!(
        passwd.args(["-c", "-b"]).arg(path.join("pw")).args(["alice", "wonder"]).status().unwrap().success()
    );
    let doors = format!(
        "allow_anonymous false\npassword_file {d}/pw\ncafile {d}/ca.crt\ncertfile {d}/server.crt\n\
         keyfile {d}/server.key\nrequire_certificate true"
    );
    let _mosquitto = Mosquitto::with(&path.join("m"), port, &doors);
    let edge = |name: &str, password: &str, certificate: &str| {
        let section = format!(
            "    mqttMode: 2
    mqttServerExternal: ssl://localhost:{port}
    mqttUsername: alice
    mqttPassword: {password}
    eventBusTLS:
      enable: true
      tlsMqttCAFile: {d}/ca.crt
      tlsMqttCertFile: {d}/{certificate}.crt
      tlsMqttPrivateKeyFile: {d}/{certificate}.key"
        );
        Broker::start(&path.join(name), &section)
    };
    let connected = |broker: &Broker| broker.metric("kubeedge_eventbus_external_connected") == 1.0;
    let good = edge("good", "wonder", "device");
    eventually("connected", || connected(&good));
    drop(good);
    for (name, password, certificate) in [("password", "wrong", "device"), ("stranger", "wonder", "stranger")]
    {
        let bad = edge(name, password, certificate);
        eventually("the refusal is logged", || bad.process.log().contains("broker outside"));
        assert!(!connected(&bad), "{name}");
    }
}
