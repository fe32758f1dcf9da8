//! A real Mosquitto outside, stopped and started; the edge is its client.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::harness::edge_broker::{Broker, mosquitto_pub};
use super::harness::process::{PATIENCE, Process, eventually, free_port, until};

struct Mosquitto {
    process: Process,
}

impl Mosquitto {
    fn start(dir: &Path, port: u16) -> Self {
        let d = dir.display();
        let user = if nix::unistd::Uid::effective().is_root() { "user root\n" } else { "" };
        let config = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {d}/\n\
             autosave_interval 1\n{user}"
        );
        fs::write(dir.join("mosquitto.conf"), config).unwrap();
        // Debian keeps it where only root's PATH looks.
        let binary =
            ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"].into_iter().find(|b| Path::new(b).exists());
        let mut command = Command::new(binary.unwrap_or("mosquitto"));
        let process = Process::start("mosquitto", dir, command.arg("-c").arg(dir.join("mosquitto.conf")));
        until("mosquitto listens", PATIENCE, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).map(|_| ()).map_err(|err| err.to_string())
        });
        Self { process }
    }
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
        let out = mosquitto_pub(port, &["-q", "1", "-t", &format!("x/user/{n}"), "-m", "v"]);
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
    assert!(mosquitto.process.is_running());
}
