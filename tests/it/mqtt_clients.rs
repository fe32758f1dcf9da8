//! The broker inside with clients that are not ours: Mosquitto's and Eclipse Paho.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use super::harness::mqtt::{Broker, messages, python};
use super::harness::process::{PATIENCE, eventually, until};

fn wait_for(what: &str, process: &super::harness::process::Process, want: &[&str]) {
    until(what, PATIENCE, || {
        let got = messages(process);
        if got == want { Ok(()) } else { Err(format!("{got:?}")) }
    });
}

#[test]
fn mosquittos_clients_of_every_version_and_qos() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    for version in ["mqttv311", "mqttv5"] {
        for qos in ["0", "1", "2"] {
            let topic = format!("{version}/{qos}");
            let filter = format!("{version}/{qos}/#");
            let sub = broker.subscribe(&topic.replace('/', "-"), &["-V", version, "-q", qos, "-t", &filter]);
            for text in ["one", "two"] {
                let out =
                    broker.publish(&["-V", version, "-q", qos, "-t", &format!("{topic}/a"), "-m", text]);
                assert!(out.status.success(), "{out:?}");
            }
            wait_for(&topic, &sub, &[&format!("{topic}/a one"), &format!("{topic}/a two")]);
        }
    }
    // Retained, in both directions of version; then removed.
    assert!(broker.publish(&["-r", "-q", "1", "-t", "kept", "-m", "v"]).status.success());
    let sub = broker.subscribe("kept", &["-V", "mqttv5", "-t", "kept"]);
    wait_for("retained", &sub, &["kept v"]);
    assert!(broker.publish(&["-r", "-q", "1", "-t", "kept", "-n"]).status.success());
    // A will.
    let watcher = broker.subscribe("watcher", &["-t", "gone"]);
    let mut dying = broker.subscribe("dying", &["-t", "x", "--will-topic", "gone", "--will-payload", "bye"]);
    dying.kill9();
    wait_for("the will", &watcher, &["gone bye"]);
    // What the broker tells about itself.
    let system =
        broker.subscribe("system", &["-t", "$SYS/broker/version", "-t", "$SYS/broker/clients/connected"]);
    eventually("$SYS", || {
        messages(&system).iter().any(|line| line.starts_with("$SYS/broker/version kubeedge-rs "))
    });
    // A topic that is none.
    assert!(!broker.publish(&["-t", "a/#", "-m", "x"]).status.success());
    eventually("metrics", || broker.metric("kubeedge_eventbus_clients") >= 3.0);
}

#[test]
fn sessions_outlive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(dir.path(), "");
    let session = ["-c", "-i", "keeps", "-q", "1", "-t", "s/#"];
    let mut sub = broker.subscribe("before", &session);
    sub.kill9();
    for n in 0..20 {
        let out = broker.publish(&["-q", "1", "-t", "s/a", "-m", &n.to_string()]);
        assert!(out.status.success(), "{out:?}");
    }
    assert!(broker.publish(&["-r", "-q", "1", "-t", "r/a", "-m", "kept"]).status.success());
    broker.process.kill9();
    broker.restart();
    let sub = broker.subscribe("after", &session);
    let want: Vec<String> = (0..20).map(|n| format!("s/a {n}")).collect();
    wait_for("what was acknowledged", &sub, &want.iter().map(String::as_str).collect::<Vec<_>>());
    let kept = broker.subscribe("kept", &["-t", "r/#"]);
    wait_for("retained", &kept, &["r/a kept"]);
}

const MIXED: &str = r#"
import sys, threading, paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
port, transport, protocol, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), 900
got, done, ready = [], threading.Event(), threading.Event()
def on_message(client, userdata, message):
    got.append(int(message.payload))
    if len(got) >= count: done.set()
def make(name):
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol, transport=transport)
    client.max_inflight_messages_set(50)
    client.connect("127.0.0.1", port)
    client.loop_start()
    return client
sub = make("sub")
sub.on_message = on_message
sub.on_subscribe = lambda *a: ready.set()
sub.subscribe("mixed/#", qos=2)
assert ready.wait(20), "not subscribed"
pub = make("pub")
last = [pub.publish("mixed/t", str(n), qos=1 + n % 2) for n in range(count)][-1]
last.wait_for_publish(60)
assert done.wait(60), f"{len(got)} of {count}"
assert sorted(got) == list(range(count)), "lost or doubled"
ones = [n for n in got if n % 2 == 0]
twos = [n for n in got if n % 2 == 1]
assert ones == sorted(ones) and twos == sorted(twos), "out of order"
print("ok")
"#;

#[test]
fn paho_mixes_qos_over_tcp_and_websocket() {
    let dir = tempfile::tempdir().unwrap();
    let port = super::harness::process::free_port();
    let section = format!("    internal: {{ websocketAddress: '127.0.0.1:{port}' }}");
    let broker = Broker::start(dir.path(), &section);
    for (transport, port) in [("tcp", broker.port), ("websockets", port)] {
        for protocol in ["4", "5"] {
            let out = python(dir.path(), MIXED, &[&port.to_string(), transport, protocol]);
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{transport} {protocol}: {said}");
        }
    }
}

/// A CA, a server and a client certificate, by openssl.
pub fn certificates(dir: &Path) {
    let run = |args: &[&str]| {
        let out = Command::new("openssl").current_dir(dir).args(args).output().unwrap();
        assert!(out.status.success(), "{out:?}");
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    for ca in ["ca", "other"] {
        let (crt, pem) = (format!("{ca}.crt"), format!("{ca}.key"));
        let subject = format!("/CN={ca}");
        let base = ["req", "-x509", "-days", "1", "-subj", &subject, "-keyout", &pem, "-out", &crt];
        run(&[&base[..], &key].concat());
    }
    for (name, ca, subject, extension) in [
        ("server", "ca", "/CN=edge", "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n"),
        ("device", "ca", "/CN=device:default:s1", "extendedKeyUsage=clientAuth\n"),
        ("stranger", "other", "/CN=device:default:s1", "extendedKeyUsage=clientAuth\n"),
    ] {
        let (csr, crt, pem, ext) =
            (format!("{name}.csr"), format!("{name}.crt"), format!("{name}.key"), format!("{name}.ext"));
        fs::write(dir.join(&ext), extension).unwrap();
        run(&[&["req", "-subj", subject, "-keyout", &pem, "-out", &csr][..], &key].concat());
        let (ca_crt, ca_key) = (format!("{ca}.crt"), format!("{ca}.key"));
        run(&[
            "x509",
            "-req",
            "-days",
            "1",
            "-in",
            &csr,
            "-CA",
            &ca_crt,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-out",
            &crt,
            "-extfile",
            &ext,
        ]);
    }
}

#[test]
fn tls_passwords_and_rights_with_mosquittos_clients() {
    let dir = tempfile::tempdir().unwrap();
    let (d, path) = (dir.path().display(), dir.path());
    certificates(path);
    let passwords = path.join("passwords");
    for (user, create) in [("alice", "-c"), ("bob", "-b")] {
        let mut command = Command::new("mosquitto_passwd");
        command.args(if create == "-c" { &["-c", "-b"][..] } else { &["-b"] });
        assert!(command.arg(&passwords).args([user, "wonder"]).status().unwrap().success());
    }
    let port = super::harness::process::free_port();
    let section = format!(
        "    internal:
      tlsAddress: 127.0.0.1:{port}
      tlsCaFile: {d}/ca.crt
      tlsCertFile: {d}/server.crt
      tlsPrivateKeyFile: {d}/server.key
      passwordFile: {d}/passwords
      anonymousOnLoopback: false
      accessRules:
        - {{ user: bob, publish: ['home/%u'], subscribe: ['home/#'] }}"
    );
    let broker = Broker::start(path, &section);
    let port = port.to_string();
    let file = |name: &str| path.join(name).display().to_string();
    let tls = |name: &str, topic: &str| {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", "localhost", "-p", &port, "-V", "mqttv5", "-q", "1", "-m", "x", "-t", topic]);
        command.args(["--cafile", &file("ca.crt")]);
        if !name.is_empty() {
            command.args(["--cert", &file(&format!("{name}.crt")), "--key", &file(&format!("{name}.key"))]);
        }
        command.output().unwrap()
    };
    // The certificate is read soon after the start.
    eventually("TLS is served", || tls("device", "$hw/events/device/default/s1/x").status.success());
    for (name, why) in [("", "no certificate"), ("stranger", "another CA's certificate")] {
        assert!(!tls(name, "$hw/events/device/default/s1/x").status.success(), "{why}");
    }
    let other = tls("device", "$hw/events/device/default/s2/x");
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(said.contains("authori") || !other.status.success(), "{other:?}");

    let login = |user: &str, password: &str, topic: &str| {
        broker.publish(&["-V", "mqttv5", "-q", "1", "-u", user, "-P", password, "-t", topic, "-m", "x"])
    };
    eventually("passwords are read", || login("alice", "wonder", "any").status.success());
    assert!(!login("alice", "wrong", "any").status.success());
    assert!(!broker.publish(&["-t", "any", "-m", "x"]).status.success(), "without a name");
    let watcher = broker.subscribe("watcher", &["-u", "alice", "-P", "wonder", "-t", "home/#", "-q", "1"]);
    login("bob", "wonder", "home/alice");
    assert!(login("bob", "wonder", "home/bob").status.success());
    wait_for("only what bob may say", &watcher, &["home/bob x"]);
    assert_eq!(other.status.signal(), None);
}

/// A client that asks for a flood and never reads; others do not notice, and it is not kept for ever.
#[test]
fn a_panic_of_the_broker_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    assert!(broker.publish(&["-r", "-q", "1", "-t", "kept", "-m", "v"]).status.success());
    let (status, _) =
        super::harness::process::http("POST", &broker.monitor, "/actors/EventBus/panic", &[]).unwrap();
    assert!(status < 300, "{status}");
    let sub = broker.subscribe("after", &["-t", "kept"]);
    wait_for("what was retained", &sub, &["kept v"]);
}
