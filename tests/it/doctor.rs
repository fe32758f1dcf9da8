//! keadm doctor on a real join: one thing after another is broken, and exactly that is said. And what
//! keadm collects there for others holds no secret.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use kubeedge::identity::{Ca, CaSettings};
use serde_json::Value;

use super::harness::cluster::{Cloud, Edge};
use super::harness::containerd::Containerd;
use super::harness::process::{PATIENCE, until};

/// What depends on this machine and not on the join.
const MACHINE: [&str; 5] = ["overlayfs", "veth", "bridge netfilter", "cgroup controllers", "iptables"];

fn keadm(args: &[&str]) -> (bool, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_keadm")).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.success(), text(&out.stdout), text(&out.stderr))
}

struct Doctor {
    side: &'static str,
    config: PathBuf,
}

impl Doctor {
    fn lines(&self) -> Vec<String> {
        let config = self.config.to_str().unwrap();
        let (well, out, complaint) = keadm(&["doctor", self.side, "--config", config]);
        let lines: Vec<String> = out.lines().map(str::to_owned).collect();
        assert!(!lines.is_empty(), "{complaint}");
        let failed = lines.iter().filter(|line| line.starts_with("FAIL")).count();
        assert_eq!(well, failed == 0, "{lines:#?} {complaint}");
        assert!(
            well || complaint.contains(&format!("{failed} of {} checks failed", lines.len())),
            "{complaint}"
        );
        lines
    }

    /// The failures that are not this machine's.
    fn failures(&self) -> Vec<String> {
        let failed =
            self.lines().into_iter().filter_map(|line| line.strip_prefix("FAIL  ").map(str::to_owned));
        failed.filter(|line| !MACHINE.iter().any(|check| line.starts_with(check))).collect()
    }

    /// Waits until exactly these fail, in this order; each has a fix.
    fn says(&self, want: &[&str]) {
        until(&format!("{} doctor says {want:?}", self.side), PATIENCE, || {
            let failures = self.failures();
            let same = failures.len() == want.len()
                && failures
                    .iter()
                    .zip(want)
                    .all(|(line, want)| line.contains(want) && line.contains("; fix: "));
            if same { Ok(()) } else { Err(format!("{failures:#?}")) }
        });
    }
}

/// Changes a file for as long as a look takes.
fn with(path: &Path, content: &str, look: impl FnOnce()) {
    let before = fs::read(path).unwrap();
    let mode = fs::metadata(path).unwrap().permissions();
    fs::write(path, content).unwrap();
    look();
    fs::write(path, before).unwrap();
    fs::set_permissions(path, mode).unwrap();
}

#[test]
fn one_thing_after_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut runtime = Containerd::start();
    let mut cloud = Cloud::start(&dir.path().join("cloud"), &[]);
    let at = dir.path().join("edge");
    let mut edge = Edge::join(&cloud, &at, "edge-1", runtime.socket(), &[]);
    let doctor = Doctor { side: "edge", config: at.join("edgecore.yaml") };
    let cloud_doctor = Doctor { side: "cloud", config: cloud.dir.join("cloudcore.yaml") };
    doctor.says(&[]);
    cloud_doctor.says(&[]);
    let lines = doctor.lines();
    for check in [
        "config",
        "data folder",
        "disk",
        "modes of key files",
        "certificate",
        "join server",
        "clock",
        "node",
        "CloudHub",
        "container runtime",
        "CNI",
        "service",
        "session",
    ] {
        assert!(
            lines.iter().any(|line| line.starts_with(&format!("ok    {check}: "))),
            "{check} in {lines:#?}"
        );
    }
    let json = keadm(&["doctor", "edge", "-o", "json", "--config", doctor.config.to_str().unwrap()]).1;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json.as_array().unwrap().len(), lines.len());
    assert_eq!(json[0]["check"], "config");

    // Files.
    let config = fs::read_to_string(&doctor.config).unwrap();
    with(&doctor.config, &config.replace("heartbeat:", "hartbeat:"), || {
        doctor.says(&["hartbeat: unknown key, did you mean heartbeat?"]);
    });
    with(&doctor.config, &config.replace("/edge\nidentity", "/edgecore.yaml\nidentity"), || {
        doctor.says(&["data folder: "]);
    });
    let (key, root) = (at.join("certs/server.key"), at.join("ca/rootCA.crt"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    doctor.says(&["server.key is 0644; fix: chmod 600 "]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let other = fs::read_to_string(at.join("certs/node-ca.key")).unwrap();
    with(&key, &other, || doctor.says(&["certificate: "]));
    let elsewhere = dir.path().join("elsewhere");
    let settings = CaSettings::new(&elsewhere.join("ca.crt"), &elsewhere.join("ca.key"));
    let stranger = Ca::open(settings, SystemTime::now()).unwrap().cert_pem();
    with(&root, &stranger, || doctor.says(&["join server: https://127.0.0.1:"]));
    doctor.says(&[]);

    // The runtime.
    let cni = runtime.hide_cni();
    doctor.says(&["CNI: "]);
    runtime.show_cni(cni);
    doctor.says(&[]);
    let socket = runtime.socket().display().to_string();
    with(&doctor.config, &config.replace(&socket, "/nowhere/c.sock"), || {
        doctor.says(&["container runtime: unix:///nowhere/c.sock does not answer: "]);
    });

    // The cloud.
    assert!(cloud.process.terminate(PATIENCE).success());
    doctor.says(&["join server: 127.0.0.1:", "session: the last session with the cloud ended "]);
    cloud_doctor.says(&["service: cloudcore does not run"]);
    let root_key = cloud.dir.join("ca/rootCA.crt");
    with(&root_key, "nonsense", || {
        cloud_doctor.says(&["root CA: ", "service: "]);
    });
    cloud.restart(&[]);
    doctor.says(&[]);
    let admin = cloud.dir.join("admin.conf");
    fs::set_permissions(&admin, fs::Permissions::from_mode(0o640)).unwrap();
    cloud_doctor.says(&["admin.conf is 0640"]);
    fs::set_permissions(&admin, fs::Permissions::from_mode(0o600)).unwrap();

    // The node.
    let cloud_config = cloud_doctor.config.to_str().unwrap().to_owned();
    let (well, _, why) = keadm(&["node", "revoke", "edge-1", "--reason", "lost", "--config", &cloud_config]);
    assert!(well, "{why}");
    doctor.says(&["CloudHub: 127.0.0.1:", "session: "]);
    assert!(doctor.failures()[0].contains("revoked"), "{:?}", doctor.failures());

    // The program, and what another one took from it.
    assert!(edge.process.terminate(PATIENCE).success(), "{}", edge.process.tail());
    doctor.says(&["CloudHub: ", "service: edgecore does not run"]);
    let port = edge.broker.0;
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let said = format!("port: 127.0.0.1:{port} (modules.eventBus.mqttServerInternal) is held by ");
    doctor.says(&["CloudHub: ", &said, "service: "]);
    drop(taken);
}

const POD: &str = "
apiVersion: v1
kind: Secret
metadata: {name: planted}
stringData: {password: PLANTED-in-a-secret}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: plain}
data: {a: PLANTED-in-a-configmap}
";

#[test]
fn what_is_collected_for_others_holds_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Containerd::start();
    let cloud = Cloud::start(&dir.path().join("cloud"), &[]);
    cloud.kubectl().apply(POD);
    let at = dir.path().join("edge");
    let edge = Edge::join(&cloud, &at, "edge-1", runtime.socket(), &[]);
    let mut secrets: Vec<String> = vec!["PLANTED".into()];
    // Every line of every private key, and every token, of both.
    for file in [
        at.join("certs/server.key"),
        at.join("certs/node-ca.key"),
        cloud.dir.join("ca/rootCA.key"),
        cloud.dir.join("ca/issuing.key"),
    ] {
        let text = fs::read_to_string(&file).unwrap_or_else(|err| panic!("{}: {err}", file.display()));
        secrets.extend(
            text.lines().filter(|line| !line.starts_with("--") && line.len() > 20).map(str::to_owned),
        );
    }
    let token = cloud.token();
    secrets.push(token.clone());
    let log = dir.path().join("spoilt.log");
    let key = fs::read_to_string(at.join("certs/server.key")).unwrap();
    fs::write(&log, format!("{key}\njoined with {token}\npassword: PLANTED\n{}", edge.process.log()))
        .unwrap();
    let log = log.to_str().unwrap();
    for (side, config) in [("edge", at.join("edgecore.yaml")), ("cloud", cloud.dir.join("cloudcore.yaml"))] {
        let file = dir.path().join(format!("{side}.tar.gz"));
        let (file, config) = (file.to_str().unwrap(), config.to_str().unwrap());
        let (well, said, why) =
            keadm(&["support-bundle", side, "--config", config, "-o", file, "--log", log]);
        assert!(well, "{why}");
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        let open = dir.path().join(format!("open-{side}"));
        fs::create_dir(&open).unwrap();
        assert!(Command::new("tar").args(["xzf", file, "-C"]).arg(&open).status().unwrap().success());
        for want in [
            "monitor/actors.json",
            "monitor/metrics.txt",
            "monitor/readyz.json",
            "doctor.txt",
            "machine.txt",
            "store.txt",
            "audit.txt",
            "logs/1-spoilt.log",
            "manifest.json",
        ] {
            let text =
                fs::read_to_string(open.join(want)).unwrap_or_else(|err| panic!("{want}: {err}\n{said}"));
            assert!(!text.is_empty(), "{want} is empty");
        }
        for secret in &secrets {
            let found = Command::new("grep").args(["-rlF", "--", secret]).arg(&open).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&found.stdout), "", "{secret} is in these");
        }
        let actors = fs::read_to_string(open.join("monitor/actors.json")).unwrap();
        assert!(serde_json::from_str::<Value>(&actors).is_ok(), "still JSON: {actors}");
        let audit = fs::read_to_string(open.join("audit.txt")).unwrap();
        assert!(audit.contains(": OK"), "{audit}");
    }
}
