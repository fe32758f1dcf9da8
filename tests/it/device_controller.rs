//! DeviceController of the real cloudcore, with kubectl on one side and on the other edges that are
//! played by hand: one of KubeEdge, which acknowledges and lists nothing, and one of ours.

use std::time::{Duration, SystemTime};

use futures_util::{SinkExt, StreamExt};
use kubeedge::identity::{Ca, CaSettings, KeyPair, chain_pem, client_tls, new_node_csr};
use kubeedge::model::{Body, Envelope, NodeName, Resource};
use kubeedge::wire::frame;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::harness::cluster::{Cloud, PATIENT};
use super::harness::process::{PATIENCE, until};

/// A device of `edge-1` with one property.
pub(super) const DEVICE: &str = "apiVersion: devices.kubeedge.io/v1beta1
kind: DeviceModel
metadata: { name: sensor-model, namespace: default }
spec:
  protocol: fake
  properties:
  - { name: temperature, type: INT, accessMode: ReadWrite }
---
apiVersion: devices.kubeedge.io/v1beta1
kind: Device
metadata: { name: sensor-1, namespace: default }
spec:
  nodeName: edge-1
  deviceModelRef: { name: sensor-model }
  protocol: { protocolName: fake, configData: { port: '1' } }
  properties:
  - name: temperature
    desired: { value: '20' }
    visitors: { protocolName: fake, configData: { reg: '1' } }
";

/// An edge, played by hand.
pub(super) struct Edge {
    socket: WebSocketStream<TlsStream<TcpStream>>,
}

impl Edge {
    /// Connects with a certificate of the cloud's CA. `extensions` as a Go edge has them: none.
    pub(super) async fn connect(cloud: &Cloud, name: &str, extensions: &str) -> Self {
        let at = |file: &str| cloud.dir.join("ca").join(file);
        let ca = Ca::open(CaSettings::new(&at("rootCA.crt"), &at("rootCA.key")), SystemTime::now()).unwrap();
        let node = NodeName::parse(name).unwrap();
        let (csr, key_pem) = new_node_csr(&node).unwrap();
        let day = Duration::from_secs(86_400);
        let chain = ca.sign_node_csr(&csr, &node, day, None, SystemTime::now()).unwrap();
        let cert_pem = chain_pem(&chain);
        let tls = client_tls(&ca.cert_pem(), Some(&KeyPair { cert_pem, key_pem })).unwrap();
        let address = format!("wss://127.0.0.1:{}/p/{name}/events", cloud.hub_port);
        let mut request = address.into_client_request().unwrap();
        for (header, value) in [
            ("node_id", name),
            ("project_id", "p"),
            ("ConnectionUse", "msg"),
            ("Kubeedge-Extensions", extensions),
        ] {
            request.headers_mut().insert(header, value.parse().unwrap());
        }
        let socket = TcpStream::connect(("127.0.0.1", cloud.hub_port)).await.unwrap();
        let server = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        let socket = tokio_rustls::TlsConnector::from(tls).connect(server, socket).await.unwrap();
        let (socket, _) = client_async(request, socket).await.unwrap();
        Self { socket }
    }

    pub(super) async fn say(&mut self, envelope: &Envelope) {
        let text = String::from_utf8(frame::encode(envelope).unwrap()).unwrap();
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// Acknowledges everything until a message is `what` (`operation resource`); gives it.
    pub(super) async fn hear(&mut self, what: &str) -> Envelope {
        let mut heard = Vec::new();
        let search = async {
            loop {
                let envelope = self.next().await?;
                let said = format!("{} {}", envelope.route.operation, envelope.route.resource);
                if said == what {
                    return Some(envelope);
                }
                heard.push(said);
            }
        };
        let found = tokio::time::timeout(PATIENCE, search).await.ok().flatten();
        found.unwrap_or_else(|| panic!("no {what}, but {heard:?}"))
    }

    /// The next message, acknowledged; none when the session has ended.
    pub(super) async fn next(&mut self) -> Option<Envelope> {
        loop {
            let Message::Text(text) = self.socket.next().await?.ok()? else { continue };
            let envelope = frame::decode(text.as_bytes(), frame::MAX_FRAME_BYTES).unwrap();
            if envelope.route.group == "resource" && envelope.header.parent_msg_id.is_none() {
                self.say(&envelope.ack(1)).await;
            }
            return Some(envelope);
        }
    }

    /// A report in the form of a Go edge.
    pub(super) async fn report(&mut self, value: &str, at_ms: i64) {
        let content = json!({"event_id": "e", "timestamp": at_ms, "twin": {"temperature": {
            "actual": {"value": value, "metadata": {"timestamp": at_ms}}, "optional": true,
            "metadata": {"type": "int"}, "actual_version": {"cloud": 0, "edge": 1}}}});
        let resource = Resource::parse("device/default/sensor-1/twin/edge_updated");
        let report = Envelope::new("twin", "resource", "update", resource, Body::Object(content), at_ms);
        self.say(&report).await;
        let answer = self.hear("response twin").await;
        assert_eq!(answer.header.parent_msg_id, Some(report.header.msg_id));
        assert_eq!((answer.route.group.as_str(), answer.body), ("twin", Body::Text("OK".into())));
    }
}

fn object(envelope: &Envelope) -> &Value {
    match &envelope.body {
        Body::Object(object) => object,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_device_from_its_yaml_to_its_status_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut cloud = Cloud::start(dir.path(), &[PATIENT]);
    let kubectl = cloud.kubectl();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    kubectl.apply(DEVICE);
    until("there is no such node yet, and an event says so", PATIENCE, || {
        let events = kubectl.run(&["get", "events", "-o", "jsonpath={.items[*].reason}"]);
        if events.contains("NodeNotFound") { Ok(()) } else { Err(events) }
    });

    // An edge of KubeEdge gets everything as updates, and reports.
    let value = |index: &str| format!("{{.status.twins[0].reported.{index}}}");
    let mut edge = runtime.block_on(async {
        let mut edge = Edge::connect(&cloud, "edge-1", "").await;
        let membership = edge.hear("update membership").await;
        assert_eq!(object(&membership)["added_devices"][0]["id"], "default/sensor-1");
        edge.hear("update default/devicemodel/sensor-model").await;
        edge.hear("update default/device/sensor-1").await;
        edge.report("21", 1_795_376_632_281).await;
        edge
    });
    kubectl.wait_for("devicestatus/sensor-1", &value("value"), "21", PATIENCE);
    kubectl.wait_for("devicestatus/sensor-1", &value("metadata.type"), "int", PATIENCE);

    // A desired value goes down inside the Device.
    let patch = r#"[{"op":"replace","path":"/spec/properties/0/desired/value","value":"25"}]"#;
    kubectl.run(&["patch", "device", "sensor-1", "--type=json", "-p", patch]);
    runtime.block_on(async {
        let update = edge.hear("update default/device/sensor-1").await;
        assert_eq!(object(&update)["spec"]["properties"][0]["desired"]["value"], "25");
    });

    // The cloud restarts, the node comes back with an empty store: nobody touches the Device.
    cloud.process.kill9();
    cloud.restart(&[PATIENT]);
    runtime.block_on(async {
        edge = Edge::connect(&cloud, "edge-1", "ack-window,resync").await;
        let content = Body::Object(json!({"objects": [], "part": 0, "last": true}));
        let listing = Envelope::new("metamanager", "meta", "resync", Resource::parse("null"), content, 1);
        edge.say(&listing).await;
        edge.hear("update membership").await;
        edge.hear("insert default/devicemodel/sensor-model").await;
        edge.hear("insert default/device/sensor-1").await;
        edge.report("22", 1_795_376_632_290).await;
        edge.report("20", 1_795_376_632_280).await;
    });
    let now =
        kubectl.run(&["get", "devicestatus", "sensor-1", "-o", &format!("jsonpath={}", value("value"))]);
    assert_eq!(now.trim(), "22", "an older report changes nothing");

    kubectl.run(&["delete", "device", "sensor-1"]);
    runtime.block_on(async {
        edge.hear("delete default/device/sensor-1").await;
        edge.hear("delete default/devicemodel/sensor-model").await;
        // It is not known any more: confirmed all the same, or the edge would never stop.
        edge.report("23", 1_795_376_632_300).await;
    });
    kubectl.wait_gone("devicestatus/sensor-1");
}
