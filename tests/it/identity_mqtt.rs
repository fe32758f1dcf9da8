//! The broker's TLS door by the node's identity: Mosquitto's clients and OpenSSL on the other side.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use kubeedge::identity::{KeyPair, NodeCredentials, SpiffeId, WorkloadIssuer};
use kubeedge::model::NodeName;

use super::harness::cluster::{Cloud, Edge};
use super::harness::mosquitto::Mqtt;
use super::harness::process::{PATIENCE, Process, eventually, until};

const HOUR: Duration = Duration::from_secs(3_600);
const LAMP: &str = "spiffe://kubeedge.local/device/default/lamp-1";
const WEB: &str = "spiffe://kubeedge.local/ns/shop/sa/web";

/// A node with its TLS door open; no container runtime.
struct Node {
    edge: Edge,
    name: String,
    tls: Mqtt,
    dir: PathBuf,
}

/// What a workload holds: files.
struct Svid {
    cert: String,
    key: String,
    roots: String,
}

impl Node {
    /// The listener takes a port that is free when it binds, and tells which.
    fn start(cloud: &Cloud, dir: &Path, name: &str) -> Self {
        let set = "modules.eventBus.internal.tlsAddress=127.0.0.1:0";
        let edge = Edge::start(cloud, dir, name, &dir.join("none.sock"), &cloud.token(), &[set]);
        let port = until("the door is open", PATIENCE, || {
            let log = edge.process.log();
            let line = log.lines().find(|line| line.contains("MQTT clients are served over=\"tls\""));
            let port =
                line.and_then(|line| line.rsplit_once(':')).and_then(|(_, port)| port.trim().parse().ok());
            port.ok_or(log)
        });
        let node = Self { edge, name: name.to_owned(), tls: Mqtt(port), dir: dir.to_owned() };
        until("the node has joined and its door shows a certificate", PATIENCE, || {
            if node.dir.join("certs/node-ca.crt").exists() {
                node.shown_serial()
            } else {
                Err("not yet".into())
            }
        });
        node
    }

    fn credentials(&self) -> NodeCredentials {
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).unwrap();
        let pair = |name: &str| KeyPair {
            cert_pem: read(&format!("certs/{name}.crt")),
            key_pem: read(&format!("certs/{name}.key")),
        };
        NodeCredentials {
            node: NodeName::parse(&self.name).unwrap(),
            trust_domain: "kubeedge.local".into(),
            svid: pair("server"),
            node_ca: Some(pair("node-ca")),
            jwt_key_pem: Some(read("certs/jwt.key")),
            roots_pem: read("ca/rootCA.crt"),
        }
    }

    /// As the node's Workload API would issue it.
    fn svid(&self, id: &str, ttl: Duration) -> Svid {
        let issuer = WorkloadIssuer::new(&self.credentials()).unwrap();
        let id = SpiffeId::parse(id).unwrap();
        let svid = issuer.x509(&id, &[], ttl, SystemTime::now()).unwrap();
        let file = |end: &str, label: &str, ders: &[Vec<u8>]| {
            let path = self.dir.join(format!("{}.{end}", uuid::Uuid::new_v4()));
            let pem: String = ders.iter().map(|der| pem(label, der)).collect();
            fs::write(&path, pem).unwrap();
            path.display().to_string()
        };
        Svid {
            cert: file("crt", "CERTIFICATE", &svid.chain),
            key: file("key", "PRIVATE KEY", &[svid.key_pkcs8]),
            roots: self.dir.join("ca/rootCA.crt").display().to_string(),
        }
    }

    /// Publishes with QoS 1; is it allowed? (`mosquitto_pub` ends well when it is not, and says so.)
    fn publish(&self, svid: &Svid, topic: &str) -> Result<bool, String> {
        let common = ["-V", "mqttv5", "-q", "1", "-m", "{}", "-t", topic];
        let out = self.tls.try_publish(&[&common[..], &svid.args()].concat());
        let said = String::from_utf8_lossy(&out.stderr).to_lowercase();
        if !out.status.success() {
            return Err(said);
        }
        Ok(!said.contains("not auth"))
    }

    fn subscribe(&self, svid: &Svid, name: &str, topics: &[&str]) -> Process {
        let topics = topics.iter().flat_map(|topic| ["-t", topic]);
        let common = ["-V", "mqttv5", "-q", "1", "-v", "-i", name].into_iter().chain(topics);
        self.tls.run_sub(&self.dir, name, &[common.collect::<Vec<_>>(), svid.args()].concat())
    }

    fn openssl(&self, svid: &Svid, host: &str) -> Output {
        Command::new("openssl")
            .args(["s_client", "-connect", &format!("127.0.0.1:{}", self.tls.0), "-servername", host])
            .args(["-verify_hostname", host, "-verify_return_error", "-purpose", "sslserver"])
            .args(["-CAfile", &svid.roots, "-cert", &svid.cert, "-cert_chain", &svid.cert, "-key", &svid.key])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Serial number of the broker's certificate.
    fn shown_serial(&self) -> Result<String, String> {
        let script = format!(
            "openssl s_client -connect 127.0.0.1:{} </dev/null 2>/dev/null | openssl x509 -noout -serial",
            self.tls.0
        );
        let out = Command::new("bash").args(["-c", &script]).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        if text.is_empty() { Err("no certificate is shown".into()) } else { Ok(text) }
    }
}

impl Svid {
    /// The broker's name is in no hosts file here: its chain is checked, not its name.
    fn args(&self) -> Vec<&str> {
        vec!["--cafile", &self.roots, "--cert", &self.cert, "--key", &self.key, "--insecure"]
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        (0..text.len().div_ceil(64)).map(|i| &text[i * 64..text.len().min(i * 64 + 64)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn got(process: &Process, message: &str) -> bool {
    process.log().lines().any(|line| line == message)
}

#[test]
fn svids_of_this_node_come_in_and_get_their_devices_topics() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(&dir.path().join("c"), &[]);
    let node = Node::start(&cloud, &dir.path().join("e1"), "edge-1");
    let other = Node::start(&cloud, &dir.path().join("e2"), "edge-2");
    let (lamp, web) = (node.svid(LAMP, HOUR), node.svid(WEB, HOUR));

    // The broker is who it should be, to somebody who checks its name.
    let checked = node.openssl(&lamp, "edge-1.nodes.kubeedge.local");
    assert!(checked.status.success(), "{checked:?}");
    assert!(!node.openssl(&lamp, "edge-2.nodes.kubeedge.local").status.success(), "another name");

    let (own, others) = ("$hw/events/device/default/lamp-1/hello", "$hw/events/device/default/lamp-2/hello");
    // The cloud has no such device: it is no member, so its SVID gives nothing yet.
    eventually("a device that is no member may use nothing", || node.publish(&lamp, own) == Ok(false));
    let kubectl = cloud.kubectl();
    kubectl.wait_node("edge-1", "False");
    let lamp_yaml = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/lamp.yaml");
    kubectl.run(&["apply", "-f", lamp_yaml.to_str().unwrap()]);
    eventually("a member may use its own topics", || node.publish(&lamp, own) == Ok(true));
    assert_eq!(node.publish(&lamp, others), Ok(false));
    assert_eq!(node.publish(&web, own), Ok(false), "a workload without a policy");
    assert_eq!(node.publish(&web, "anything"), Ok(false));

    // The same device's name from another node's CA, and the node itself.
    let foreign = other.svid(LAMP, HOUR);
    assert!(node.publish(&foreign, own).is_err(), "signed by another node");
    assert_eq!(other.publish(&foreign, own), Ok(false), "it is a member elsewhere");
    let files = |name: &str| dir.path().join("e1/certs").join(name).display().to_string();
    let itself = Svid { cert: files("server.crt"), key: files("server.key"), roots: lamp.roots.clone() };
    assert_eq!(node.publish(&itself, "anything"), Ok(false), "the node's own SVID may use nothing");
    let other_files = |name: &str| dir.path().join("e2/certs").join(name).display().to_string();
    let stranger =
        Svid { cert: other_files("server.crt"), key: other_files("server.key"), roots: lamp.roots.clone() };
    assert!(node.publish(&stranger, "anything").is_err(), "another node");

    // A device that is deleted loses its topics while it is connected.
    let listener = node.subscribe(&lamp, "lamp", &[&own.replace("hello", "#")]);
    eventually("the lamp hears", || {
        node.publish(&lamp, own) == Ok(true) && got(&listener, &format!("{own} {{}}"))
    });
    kubectl.run(&["delete", "device", "lamp-1"]);
    eventually("the lamp is mute", || node.publish(&lamp, own) == Ok(false));
}

#[test]
fn a_connection_does_not_outlive_its_clients_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(&dir.path().join("c"), &[]);
    let node = Node::start(&cloud, &dir.path().join("e1"), "edge-1");
    let lamp_yaml = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/lamp.yaml");
    cloud.kubectl().run(&["apply", "-f", lamp_yaml.to_str().unwrap()]);
    let (own, long) = ("$hw/events/device/default/lamp-1/hello", node.svid(LAMP, HOUR));
    eventually("it is a member", || node.publish(&long, own) == Ok(true));
    let short = node.svid(LAMP, Duration::from_secs(25));
    let listener = node.subscribe(&short, "short", &[own]);
    until("the broker says not authorized", PATIENCE, || {
        let log = listener.log();
        // 0x87
        if log.to_lowercase().contains("received disconnect (135)") { Ok(()) } else { Err(log) }
    });
    assert!(node.publish(&short, own).is_err(), "expired");
    assert_eq!(node.publish(&long, own), Ok(true), "others stay");
}

#[test]
fn rotation_of_the_node_changes_what_is_shown_and_drops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(&dir.path().join("c"), &["identity.nodeSvidTtlSecs=20"]);
    let node = Node::start(&cloud, &dir.path().join("e1"), "edge-1");
    let lamp_yaml = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/lamp.yaml");
    cloud.kubectl().run(&["apply", "-f", lamp_yaml.to_str().unwrap()]);
    let lamp = node.svid(LAMP, HOUR);
    let topic = "$hw/events/device/default/lamp-1/hello";
    eventually("it is a member", || node.publish(&lamp, topic) == Ok(true));
    let listener = node.subscribe(&lamp, "lamp", &["$hw/events/device/default/lamp-1/#"]);
    let mut shown = node.shown_serial().unwrap();
    for round in 0..3 {
        until("another certificate is shown", PATIENCE, || {
            let now = node.shown_serial()?;
            if now == shown {
                return Err(now);
            }
            shown = now;
            Ok(())
        });
        let heard = |listener: &Process| {
            listener.log().lines().filter(|line| *line == format!("{topic} {{}}")).count()
        };
        let before = heard(&listener);
        assert_eq!(node.publish(&lamp, topic), Ok(true), "round {round}");
        eventually("what was said is heard", || heard(&listener) > before);
    }
    let log = listener.log();
    assert!(!log.contains("DISCONNECT") && log.matches("sending CONNECT").count() == 1, "{log}");
}

fn policy(publish: &str, subscribe: &str) -> String {
    format!(
        "apiVersion: identity.kubeedge.io/v1alpha1
kind: TopicPolicy
metadata: {{ name: web, namespace: shop }}
spec:
  subjects: ['{WEB}']
  publish: [{publish}]
  subscribe: [{subscribe}]
"
    )
}

#[test]
fn a_topic_policy_changes_the_rights_of_connected_clients() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(&dir.path().join("c"), &[]);
    let node = Node::start(&cloud, &dir.path().join("e1"), "edge-1");
    let kubectl = cloud.kubectl();
    kubectl.run(&["create", "namespace", "shop"]);
    let (web, other) = (node.svid(WEB, HOUR), node.svid("spiffe://kubeedge.local/ns/shop/sa/other", HOUR));
    assert_eq!(node.publish(&web, "orders/1"), Ok(false));
    kubectl.apply(&policy("orders/#", "orders/#, prices/#"));
    eventually("the policy is in force", || node.publish(&web, "orders/1") == Ok(true));
    assert_eq!(node.publish(&web, "prices/1"), Ok(false), "what it does not name");
    assert_eq!(node.publish(&other, "orders/1"), Ok(false), "whom it does not name");

    let listener = node.subscribe(&web, "web", &["orders/#", "prices/#"]);
    node.edge.broker.publish("orders/2", "first");
    eventually("it hears", || got(&listener, "orders/2 first"));
    kubectl.apply(&policy("orders/#", "prices/#"));
    // It stays connected and subscribed, and hears no more of it: what comes after is there, and what
    // came before is not.
    let mut said = 0;
    until("the subscription delivers nothing any more", PATIENCE, || {
        said += 1;
        node.edge.broker.publish("orders/2", &format!("again-{said}"));
        node.edge.broker.publish("prices/2", &format!("mark-{said}"));
        eventually("the mark is heard", || got(&listener, &format!("prices/2 mark-{said}")));
        if got(&listener, &format!("orders/2 again-{said}")) { Err("it still hears".into()) } else { Ok(()) }
    });
    assert!(!listener.log().contains("DISCONNECT"), "{}", listener.log());
    kubectl.run(&["delete", "topicpolicy", "web", "-n", "shop"]);
    eventually("without the policy it may use nothing", || node.publish(&web, "orders/1") == Ok(false));
}
