//! The faults that users of MQTT and devices meet, against the real edgecore. It has no cloud: what needs
//! one stands in `devices.rs`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::harness::mqtt::{Broker, messages, python};
use super::harness::process::{PATIENCE, Process, eventually, until};

fn text(text: &[u8]) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap();
    [&length.to_be_bytes()[..], text].concat()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut rest = body.len();
    loop {
        let low = u8::try_from(rest & 0x7F).unwrap();
        rest >>= 7;
        out.push(if rest > 0 { low | 0x80 } else { low });
        if rest == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

/// CONNECT of 3.1.1, clean.
fn connect(name: &str) -> Vec<u8> {
    packet(0x10, &[&text(b"MQTT")[..], &[4, 2, 0, 0], &text(name.as_bytes())].concat())
}

fn publish(topic: &[u8], payload: &[u8]) -> Vec<u8> {
    packet(0x32, &[&text(topic)[..], &[0, 1], payload].concat())
}

fn open(broker: &Broker) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", broker.port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A connected client of raw bytes.
fn client(broker: &Broker, name: &str) -> TcpStream {
    let mut socket = open(broker);
    socket.write_all(&connect(name)).unwrap();
    let mut connack = [0; 4];
    socket.read_exact(&mut connack).unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0], "{name}");
    socket
}

/// Reads until the broker closes.
fn is_closed(socket: &mut TcpStream) {
    let mut rest = Vec::new();
    match socket.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(err) => assert_eq!(err.kind(), std::io::ErrorKind::ConnectionReset, "{err}"),
    }
}

/// Two thousand sockets are more than many systems begin with.
fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(8_192)), hard).unwrap();
}

fn files(broker: &Broker) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", broker.process.pid())).unwrap().count()
}

fn wait_for(process: &Process, topic: &str, parts: &[&str]) {
    until(&format!("{topic} {parts:?}"), PATIENCE, || {
        let got = messages(process);
        let fits = |line: &&String| {
            line.strip_prefix(topic).is_some_and(|rest| parts.iter().all(|part| rest.contains(part)))
        };
        if got.iter().any(|line| fits(&line)) { Ok(()) } else { Err(format!("{got:?}")) }
    });
}

#[test]
fn bad_device_messages_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let answers = broker.subscribe("answers", &["-t", "$hw/events/device/#", "-q", "1"]);
    let update = "$hw/events/device/default/ghost/twin/update";
    let say = |topic: &str, payload: &str| {
        let out = broker.publish(&["-q", "1", "-t", topic, "-m", payload]);
        assert!(out.status.success(), "{topic}: {out:?}");
    };
    for payload in ["{", "7", r#"{"twin":7}"#, r#"{"twin":{"t":{"actual":{"value":25}}}}"#] {
        say(update, payload);
    }
    wait_for(&answers, "$hw/events/device//twin/update/result ", &["400"]);
    say(update, r#"{"event_id":"no twin"}"#);
    wait_for(&answers, &format!("{update}/result "), &["no twin", "400"]);
    say(update, r#"{"event_id":"who","twin":{"t":{"actual":{"value":"1"}}}}"#);
    wait_for(&answers, &format!("{update}/result "), &["who", "404"]);
    // 1 MB and more, by standard input.
    let large = dir.path().join("large");
    std::fs::write(&large, format!(r#"{{"event_id":"{}"}}"#, "x".repeat(1 << 20))).unwrap();
    let file = large.display().to_string();
    assert!(broker.publish(&["-q", "1", "-t", update, "-f", &file]).status.success());
    wait_for(&answers, &format!("{update}/result "), &["larger than the limit"]);
    // Levels too few, too many, empty; what the broker itself says: acknowledged, and nothing more.
    for topic in [
        "$hw/events/device/ghost/twin/update",
        "$hw/events/device/a/b/c/twin/update",
        "$hw/events/device///twin/update",
        "$hw/events/device/default/ghost/twin/update/result",
        "$hw/events/node//membership/get",
        "$hw/events/device/default/\u{fffd}\u{1f600}/twin/update",
    ] {
        say(topic, "{}");
    }
    say("$hw/events/device/default/ghost/state/update", r#"{"event_id":"s","state":"online"}"#);
    wait_for(&answers, "$hw/events/device/default/ghost/state/update/result ", &["404"]);
    assert_eq!(broker.metric(r#"kubeedge_actor_panics_total{actor="DeviceTwin"}"#), 0.0);
}

#[test]
fn bytes_that_are_no_mqtt_end_their_own_connection_only() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let watcher = broker.subscribe("watcher", &["-t", "fine"]);
    let too_large = [&[0x32][..], &[0xFF, 0xFF, 0xFF, 0x7F], &[0; 64]].concat();
    let bad: [(&str, Vec<u8>); 9] = [
        ("+ in a topic", publish(b"a/+", b"x")),
        ("# in a topic", publish(b"#", b"x")),
        ("NUL in a topic", publish(b"a\0b", b"x")),
        ("an empty topic", publish(b"", b"x")),
        ("a topic that is no UTF-8", publish(b"\xff\xfe", b"x")),
        ("a topic longer than its packet", packet(0x30, &[0xFF, 0xFF, b'a'])),
        ("five bytes of length", vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]),
        ("256 MB announced", too_large),
        ("a second CONNECT", connect("again")),
    ];
    for (what, bytes) in bad {
        let mut socket = client(&broker, "bad");
        socket.write_all(&bytes).unwrap_or_else(|err| panic!("{what}: {err}"));
        is_closed(&mut socket);
    }
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 2, 0], &packet(0x10, &[0; 300])] {
        let mut socket = open(&broker);
        socket.write_all(bytes).unwrap();
        is_closed(&mut socket);
    }
    // The longest topic there is.
    let mut socket = client(&broker, "long");
    socket.write_all(&publish(&vec![b'x'; 65_535], b"x")).unwrap();
    let mut puback = [0; 4];
    socket.read_exact(&mut puback).unwrap();
    assert_eq!(puback, [0x40, 2, 0, 1]);
    assert!(broker.publish(&["-t", "fine", "-m", "still"]).status.success());
    wait_for(&watcher, "fine ", &["still"]);
    assert_eq!(broker.metric(r#"kubeedge_actor_panics_total{actor="EventBus"}"#), 0.0);
}

#[test]
fn silent_connections_keep_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let elsewhere = tempfile::tempdir().unwrap();
    let idle = Broker::start(elsewhere.path(), "");
    raise_open_files();
    let silent: Vec<TcpStream> = (0..1_200).map(|_| open(&broker)).collect();
    let took = |broker: &Broker| {
        let begun = Instant::now();
        drop(client(broker, "earnest"));
        begun.elapsed()
    };
    // Not after the deadline of the silent ones (10 s): at once, as far as this machine does anything at once.
    let (took, beside_nobody) = std::thread::scope(|scope| {
        let idle = scope.spawn(|| took(&idle));
        (took(&broker), idle.join().unwrap())
    });
    assert!(took < Duration::from_secs(8) + beside_nobody, "{took:?}, {beside_nobody:?} beside nobody");
    drop(silent);
}

#[test]
fn two_thousand_clients_come_and_vanish() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    raise_open_files();
    let before = files(&broker);
    let clients: Vec<TcpStream> = (0..2_000).map(|n| client(&broker, &format!("c{n}"))).collect();
    eventually("all are here", || broker.metric("kubeedge_eventbus_clients") >= 2_000.0);
    drop(clients);
    eventually("all are gone", || broker.metric("kubeedge_eventbus_sessions") == 0.0);
    eventually("their files too", || files(&broker) <= before + 8);
}

#[test]
fn packets_that_never_end_are_bounded_together() {
    let dir = tempfile::tempdir().unwrap();
    let section =
        "    internal: { maxPacketBytes: 2097152, maxClientBytes: 4194304, maxMemoryBytes: 16777216 }";
    let broker = Broker::start(dir.path(), section);
    let mut clients: Vec<TcpStream> = (0..12).map(|n| client(&broker, &format!("c{n}"))).collect();
    // A MiB of two each; 4 MiB fit.
    for socket in &mut clients {
        let bytes = [&[0x32, 0x80, 0x80, 0x7F][..], &vec![0; 1 << 20]].concat();
        socket.write_all(&bytes).ok();
    }
    eventually("those beyond it are ended", || {
        broker.metric(r#"kubeedge_eventbus_refused_total{reason="malformed"}"#) >= 8.0
    });
    let watcher = broker.subscribe("watcher", &["-t", "fine"]);
    assert!(broker.publish(&["-t", "fine", "-m", "small"]).status.success());
    wait_for(&watcher, "fine ", &["small"]);
}

/// Users of `mosquitto_passwd`, all with the password `pw`.
fn passwords(file: &Path, users: &[&str]) {
    for (n, user) in users.iter().enumerate() {
        let mut command = Command::new("mosquitto_passwd");
        command.args(if n == 0 { &["-c", "-b"][..] } else { &["-b"] }).arg(file).args([user, "pw"]);
        let out = command.output().unwrap_or_else(|e| panic!("mosquitto_passwd: {e}"));
        assert!(out.status.success(), "{out:?}");
    }
}

#[test]
fn a_device_reaches_nothing_of_another() {
    let dir = tempfile::tempdir().unwrap();
    passwords(&dir.path().join("pw"), &["device/default/s1", "device/default/s1/more", "admin"]);
    let section =
        format!("    internal: {{ passwordFile: {}/pw, anonymousOnLoopback: false }}", dir.path().display());
    let broker = Broker::start(dir.path(), &section);
    let as_user = |user: &'static str| ["-u", user, "-P", "pw", "-V", "mqttv5", "-q", "1"];
    let admin = as_user("admin");
    eventually("passwords are read", || {
        broker.publish(&[&admin[..], &["-t", "x", "-m", "x"]].concat()).status.success()
    });
    let watcher =
        broker.subscribe("watcher", &[&admin[..], &["-t", "$hw/events/device/#", "-t", "#"]].concat());
    let (own, other) = ("$hw/events/device/default/s1", "$hw/events/device/default/s2");
    // This node has no devices: known soon after the start.
    let early = format!("{own}/early");
    let args = [&as_user("device/default/s1")[..], &["-t", &early, "-m", "early"]].concat();
    eventually("nobody's word is taken for a device", || {
        String::from_utf8_lossy(&broker.publish(&args).stderr).contains("uthori")
    });
    for user in ["device/default/s1", "device/default/s1/more"] {
        for topic in [format!("{own}/x"), format!("{other}/twin/update"), "a".to_owned(), "$SYS/a".to_owned()]
        {
            let out = broker.publish(&[&as_user(user)[..], &["-t", &topic, "-m", "evil"]].concat());
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(said.contains("uthori") || !out.status.success(), "{user} {topic}: {out:?}");
        }
        let will = ["-t", "a", "-m", "x", "--will-topic", other, "--will-payload", "evil"];
        assert!(!broker.publish(&[&as_user(user)[..], &will].concat()).status.success(), "{user}: a will");
        let filters = [
            "#",
            "$hw/#",
            "$hw/events/device/+/+/twin/+",
            "$share/g/#",
            "$SYS/#",
            "$hw/events/device/default/s2/#",
        ];
        for filter in filters {
            let mut command = Command::new("mosquitto_sub");
            command.args(["-p", &broker.port.to_string()]).args(as_user(user)).args(["-t", filter, "-E"]);
            let out = command.output().unwrap();
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(said.contains("denied") || !out.status.success(), "{user} {filter}: {out:?}");
        }
    }
    // Nor its session: the watcher's, by its client identifier.
    let keeper = broker.subscribe("keeper", &[&admin[..], &["-i", "keeper", "-c", "-t", "kept"]].concat());
    let thief = broker
        .publish(&[&as_user("device/default/s1")[..], &["-i", "keeper", "-t", "a", "-m", "x"]].concat());
    assert!(!thief.status.success(), "{thief:?}");
    assert!(broker.publish(&[&admin[..], &["-t", "kept", "-m", "mine"]].concat()).status.success());
    wait_for(&keeper, "kept ", &["mine"]);
    assert!(broker.publish(&[&admin[..], &["-t", "end", "-m", "end"]].concat()).status.success());
    wait_for(&watcher, "end ", &["end"]);
    assert!(!messages(&watcher).iter().any(|line| line.contains("evil")), "{:?}", messages(&watcher));
}

#[test]
fn kill_9_loses_nothing_acknowledged_and_doubles_no_qos_2() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(dir.path(), "    mqttSessionQueueSize: 60000");
    let (port, stop) = (broker.port.to_string(), dir.path().join("stop"));
    let (path, stop_file) = (dir.path(), stop.display().to_string());
    std::thread::scope(|scope| {
        let clients =
            scope.spawn(|| python(path, include_str!("harness/mqtt_kill.py"), &[&port, &stop_file]));
        for round in 1..=6_u32 {
            // A different moment each time, by what has gone through.
            let enough = f64::from(round * 97);
            until("traffic", PATIENCE, || {
                assert!(!clients.is_finished(), "the clients ended early");
                let got = broker.metric(r#"kubeedge_eventbus_messages_total{direction="out",qos="2"}"#);
                if got >= enough { Ok(()) } else { Err(format!("{got} of {enough}")) }
            });
            broker.process.kill9();
            broker.restart();
        }
        std::fs::write(&stop, "").unwrap();
        let out = clients.join().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    });
}
