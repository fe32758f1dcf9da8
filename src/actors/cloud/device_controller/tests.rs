//! DeviceController on the embedded Kubernetes API.

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::apiserver::{ApiCore, ApiSettings};
use crate::bus::Turn;
use crate::bus::cloud_hub::EndReason;
use crate::identity::ServiceAccountKeys;
use crate::model::device::EXPORT_ANNOTATION;
use crate::model::{Body, Envelope};
use crate::store::MemoryStore;
use crate::supervise::{MAIN_THREAD, Policy, Running, Tree, TreeHandle, TreeSettings};
use crate::wire::frame;

struct World {
    api: ::kube::Client,
    down: mpsc::Receiver<(NodeName, Envelope)>,
    closed: mpsc::Receiver<CloseNode>,
    twin: Link<FromTwin>,
    desired: Link<ListDesired>,
    differences: Link<SendDifferences>,
    tree: TreeHandle,
    _running: Running,
    _folder: tempfile::TempDir,
}

const ASK: Duration = Duration::from_secs(10);
const GROUP: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/default";

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn device(node: &str) -> Value {
    json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": "sensor-1", "labels": {"description": "hall"}},
        "spec": {"nodeName": node, "deviceModelRef": {"name": "sensor-model"},
            "protocol": {"protocolName": "fake", "configData": {"port": "1"}},
            "properties": [{"name": "temperature", "desired": {"value": "20"},
                "visitors": {"protocolName": "fake", "configData": {"reg": "1"}}}]}})
}

fn model() -> Value {
    json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": {"name": "sensor-model"},
        "spec": {"protocol": "fake", "properties":
            [{"name": "temperature", "type": "INT", "accessMode": "ReadWrite"}]}})
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let core = ApiCore::start(ApiSettings {
            store: Arc::new(MemoryStore::new()),
            keys: Arc::new(ServiceAccountKeys::load_or_create(&folder.path().join("sa.key")).unwrap()),
            ca_pem: "CA".to_owned(),
            clock: Arc::new(jiff::Timestamp::now),
        })
        .unwrap();
        let (send, down) = mpsc::channel(10_000);
        let (close, closed) = mpsc::channel(100);
        let parts = DeviceControllerParts {
            client: core.client(),
            send_down: Link::from_fn(move |batch: SendDown| {
                for (node, message) in batch.messages {
                    send.try_send((node, message.envelope())).unwrap();
                }
            }),
            close_node: Link::from_fn(move |message| close.try_send(message).unwrap()),
        };
        let mut tree = Tree::new("test", TreeSettings::default());
        let slot = tree.slot::<DeviceController>(NAME, 1_000);
        let (twin, desired, differences) = (slot.link(), slot.link(), slot.link());
        let quick = Policy { backoff_base: Duration::from_millis(1), ..Policy::default() };
        tree.add(slot, MAIN_THREAD, quick, move || DeviceController::new(parts));
        let (handle, running) = (tree.handle(), tree.start().unwrap());
        let (api, tree) = (core.client(), handle);
        let world =
            Self { api, down, closed, twin, desired, differences, tree, _running: running, _folder: folder };
        world.listed().await;
        world
    }

    /// Waits for the first complete list.
    async fn listed(&self) {
        let ready = async {
            while !matches!(self.desired.ask(ListDesired { node: node("edge-1") }, ASK).await, Ok(Ok(_))) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(ASK, ready).await.unwrap();
    }

    async fn try_call(&self, method: &str, path: &str, body: Value) -> Result<Value, ::kube::Error> {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{GROUP}/{path}"))
            .header("Content-Type", kind);
        self.api.request(request.body(body.to_string().into_bytes()).unwrap()).await
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> Value {
        self.try_call(method, path, body).await.unwrap()
    }

    /// The DeviceStatus, when it satisfies.
    async fn status(&self, is_right: impl Fn(&Value) -> bool) -> Value {
        let wait = async {
            loop {
                match self.try_call("GET", "devicestatuses/sensor-1", json!({})).await {
                    Ok(status) if is_right(&status) => return status,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(ASK, wait).await.unwrap()
    }

    async fn next(&mut self) -> (String, Envelope) {
        let (node, envelope) = tokio::time::timeout(ASK, self.down.recv()).await.unwrap().unwrap();
        let route = &envelope.route;
        assert_eq!(route.source, "devicecontroller");
        (format!("{} {} {} to {node}", route.group, route.operation, route.resource), envelope)
    }

    async fn expect(&mut self, want: &[&str]) -> Vec<Envelope> {
        let mut all = Vec::new();
        for want in want {
            let (what, envelope) = self.next().await;
            assert_eq!(what, *want);
            all.push(envelope);
        }
        all
    }

    async fn place(&mut self) {
        self.call("POST", "devicemodels", model()).await;
        self.call("POST", "devices", device("edge-1")).await;
        self.expect(&[
            "twin update membership to edge-1",
            "resource insert default/devicemodel/sensor-model to edge-1",
            "resource insert default/device/sensor-1 to edge-1",
        ])
        .await;
    }

    /// Sends a recorded frame as `name`; its id.
    async fn say(&self, name: &str, frame: &str) -> String {
        let envelope = frame::decode(frame.as_bytes(), frame::MAX_FRAME_BYTES).unwrap();
        let id = envelope.header.msg_id.clone();
        self.twin.ask(FromTwin { node: node(name), envelope, turn: Turn::default() }, ASK).await.unwrap();
        id
    }

    /// The reply to `id`.
    async fn reply(&mut self, id: &str) -> Envelope {
        loop {
            let (_, envelope) = self.next().await;
            if envelope.header.parent_msg_id.as_deref() == Some(id) {
                return envelope;
            }
        }
    }
}

/// As a Go edge sends it, with this value and time.
fn report(id: &str, device: &str, value: &str, at_ms: i64) -> String {
    format!(
        r#"{{"header":{{"msg_id":"{id}","timestamp":1795376632294}},"route":{{"source":"twin","group":"resource","operation":"update","resource":"device/default/{device}/twin/edge_updated"}},"content":{{"event_id":"2d7c","timestamp":1795376632294,"twin":{{"temperature":{{"actual":{{"value":"{value}","metadata":{{"timestamp":{at_ms}}}}},"optional":true,"metadata":{{"type":"string"}},"actual_version":{{"cloud":0,"edge":1}}}},"nosuch":{{"actual":{{"value":"1"}}}}}}}}}}"#
    )
}

#[actix::test]
async fn a_device_goes_to_its_node_in_kubeedges_order() {
    let mut world = World::start().await;
    world.call("POST", "devicemodels", model()).await;
    world.call("POST", "devices", device("edge-1")).await;
    let told = world
        .expect(&[
            "twin update membership to edge-1",
            "resource insert default/devicemodel/sensor-model to edge-1",
            "resource insert default/device/sensor-1 to edge-1",
        ])
        .await;
    let Body::Object(membership) = &told[0].body else { panic!("{told:?}") };
    assert_eq!(
        membership["added_devices"],
        json!([{"id": "default/sensor-1", "name": "sensor-1", "description": "hall", "twin": {}}]),
        "a Go edge that has the device takes a missing twin for a bad update"
    );
    assert_eq!(membership["removed_devices"], Value::Null);
    assert!(membership["event_id"].is_string() && membership["timestamp"].is_i64());
    for envelope in &told[1..] {
        let version = envelope.body.meta("resourceVersion");
        assert_eq!((version.is_some(), version), (true, envelope.header.resource_version.as_deref()));
        let Body::Object(object) = &envelope.body else { panic!("{envelope:?}") };
        assert_eq!(object["apiVersion"], "devices.kubeedge.io/v1beta1");
    }

    // What edges do not need to know is not told; what they do need is.
    world.call("PATCH", "devices/sensor-1", json!({"metadata": {"annotations": {"a": "b"}}})).await;
    let spec = json!({"spec": {"properties": [{"name": "temperature", "desired": {"value": "25"}}]}});
    world.call("PATCH", "devices/sensor-1", spec).await;
    let told = world
        .expect(&[
            "resource update default/devicemodel/sensor-model to edge-1",
            "resource update default/device/sensor-1 to edge-1",
        ])
        .await;
    let Body::Object(object) = &told[1].body else { panic!("{told:?}") };
    assert_eq!(object["spec"]["properties"][0]["desired"]["value"], "25");
    let exports = json!({"metadata": {"annotations": {EXPORT_ANNOTATION: "temperature"}}});
    world.call("PATCH", "devices/sensor-1", exports).await;
    world
        .expect(&[
            "resource update default/devicemodel/sensor-model to edge-1",
            "resource update default/device/sensor-1 to edge-1",
        ])
        .await;

    world.call("PATCH", "devices/sensor-1", json!({"spec": {"nodeName": "edge-2"}})).await;
    world
        .expect(&[
            "twin update membership to edge-1",
            "resource delete default/device/sensor-1 to edge-1",
            "resource delete default/devicemodel/sensor-model to edge-1",
            "twin update membership to edge-2",
            "resource insert default/devicemodel/sensor-model to edge-2",
            "resource insert default/device/sensor-1 to edge-2",
        ])
        .await;
}

#[actix::test]
async fn reports_end_in_the_device_status() {
    let mut world = World::start().await;
    world.place().await;
    let made = world.status(|_| true).await;
    let owner = &made["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["name"]), (&json!("Device"), &json!("sensor-1")));

    let id = world.say("edge-1", &report("r1", "sensor-1", "21", 1_795_376_632_281)).await;
    let answer = world.reply(&id).await;
    assert_eq!((answer.route.group.as_str(), answer.route.operation.as_str()), ("twin", "response"));
    assert_eq!((answer.route.resource, answer.body), (Resource::Twin, Body::Text("OK".into())));
    let status = world.call("GET", "devicestatuses/sensor-1", json!({})).await;
    let want = json!([{"propertyName": "temperature", "observedDesired": {"value": ""}, "reported":
        {"value": "21", "metadata": {"timestamp": "1795376632281", "type": "string"}}}]);
    assert_eq!(status["status"]["twins"], want, "the first value is not lost, others are left out");

    let id = world.say("edge-1", &report("r2", "sensor-1", "19", 1_795_376_632_280)).await;
    world.reply(&id).await;
    let after = world.call("GET", "devicestatuses/sensor-1", json!({})).await;
    assert_eq!(
        after["metadata"]["resourceVersion"], status["metadata"]["resourceVersion"],
        "older: no write"
    );

    let state = r#"{"header":{"msg_id":"s1","timestamp":1795376608806},"route":{"source":"twin","group":"resource","operation":"update","resource":"device/default/sensor-1/state/update"},"content":"{\"event_id\":\"82761bdd\",\"timestamp\":1795376608806,\"device\":{\"name\":\"sensor-1\",\"state\":\"online\",\"lastOnlineTime\":\"2026-11-22T19:43:28Z\"}}"}"#;
    let id = world.say("edge-1", state).await;
    world.reply(&id).await;
    let status = world.call("GET", "devicestatuses/sensor-1", json!({})).await;
    assert_eq!(status["status"]["state"], "online");
    assert_eq!(status["status"]["lastOnlineTime"], "2026-11-22T19:43:28Z");
    assert_eq!(status["status"]["twins"], want);
}

#[actix::test]
async fn who_may_report_what() {
    let mut world = World::start().await;
    world.place().await;
    world.status(|_| true).await;
    world.say("edge-2", &report("forged", "sensor-1", "99", 5)).await;
    let id = world.say("edge-2", &report("gone", "sensor-9", "99", 5)).await;
    let answer = world.reply(&id).await;
    assert_eq!(answer.body, Body::Text("OK".into()), "unknown: the edge stops");
    let bad = report("bad", "sensor-1", "1", 5).replace("\"value\":\"1\"", "\"value\":1");
    let id = world.say("edge-1", &bad).await;
    let answer = world.reply(&id).await;
    assert_eq!(answer.route.operation, "error");
    assert!(matches!(&answer.body, Body::Text(why) if why.contains("invalid type")), "{answer:?}");
    let detail = r#"{"header":{"msg_id":"q1","timestamp":1},"route":{"source":"twin","group":"resource","operation":"get","resource":"membership/detail"},"content":"{\"event_type\":\"group_membership_event\"}"}"#;
    let id = world.say("edge-1", detail).await;
    assert_eq!(world.reply(&id).await.body, Body::Text("OK".into()));
    let (what, answer) = world.next().await;
    assert_eq!(
        (what.as_str(), answer.header.parent_msg_id),
        ("twin update membership/detail to edge-1", None)
    );
    let Body::Object(content) = &answer.body else { panic!() };
    assert_eq!(content["devices"][0]["id"], "default/sensor-1");
    let status = world.call("GET", "devicestatuses/sensor-1", json!({})).await;
    assert_eq!(status["status"].get("twins"), None, "nothing of this was taken: {status}");
}

#[actix::test]
async fn a_status_lives_and_dies_with_its_device() {
    let mut world = World::start().await;
    world.place().await;
    let first = world.status(|_| true).await;
    world.call("DELETE", "devices/sensor-1", json!({})).await;
    let second = world.call("POST", "devices", device("edge-1")).await;
    let uid = second["metadata"]["uid"].clone();
    let again = world.status(|it| it["metadata"]["ownerReferences"][0]["uid"] == uid).await;
    assert_ne!(again["metadata"]["uid"], first["metadata"]["uid"], "made anew");
    world.call("DELETE", "devices/sensor-1", json!({})).await;
    let gone = async {
        while world.try_call("GET", "devicestatuses/sensor-1", json!({})).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(ASK, gone).await.unwrap();
}

#[actix::test]
async fn a_comparison_brings_devices_back() {
    let mut world = World::start().await;
    world.place().await;
    let wanted = world.desired.ask(ListDesired { node: node("edge-1") }, ASK).await.unwrap().unwrap();
    let names: Vec<String> = wanted.iter().map(|it| it.resource.to_string()).collect();
    assert_eq!(names, ["default/devicemodel/sensor-model", "default/device/sensor-1"]);
    let old = ObjectVersion {
        resource: Resource::parse("default/device/old"),
        uid: "u".to_owned(),
        resource_version: "1".to_owned(),
    };
    let asked = SendDifferences {
        node: node("edge-1"),
        missing: wanted.iter().map(|it| it.resource.clone()).collect(),
        changed: Vec::new(),
        surplus: vec![old, wanted[1].clone()],
        answer: None,
    };
    world.differences.ask(asked, ASK).await.unwrap().unwrap();
    let told = world
        .expect(&[
            "twin update membership to edge-1",
            "twin update membership to edge-1",
            "resource delete default/device/old to edge-1",
            "resource insert default/devicemodel/sensor-model to edge-1",
            "resource insert default/device/sensor-1 to edge-1",
        ])
        .await;
    let Body::Object(removed) = &told[0].body else { panic!() };
    assert_eq!(removed["removed_devices"][0]["id"], "default/old");
    let Body::Object(added) = &told[1].body else { panic!() };
    assert_eq!(added["added_devices"][0]["id"], "default/sensor-1");
}

#[actix::test]
async fn a_device_that_waits_has_an_event() {
    let world = World::start().await;
    world.call("POST", "devices", device("nowhere")).await;
    let events = async {
        loop {
            let request = http::Request::get("/api/v1/namespaces/default/events").body(Vec::new()).unwrap();
            let list: Value = world.api.request(request).await.unwrap();
            if let Some(event) = list["items"].as_array().and_then(|items| items.first()) {
                return event.clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let event = tokio::time::timeout(Duration::from_secs(30), events).await.unwrap();
    assert_eq!((&event["reason"], &event["type"]), (&json!("NodeNotFound"), &json!("Warning")));
    assert_eq!(event["involvedObject"]["name"], "sensor-1");
}

#[actix::test]
async fn after_a_panic_sessions_compare_again_and_reports_are_taken() {
    let mut world = World::start().await;
    world.place().await;
    world.status(|_| true).await;
    world.tree.inject_panic(NAME).unwrap();
    let closed = tokio::time::timeout(ASK, world.closed.recv()).await.unwrap().unwrap();
    assert_eq!((closed.node, closed.reason), (None, EndReason::Restarted));
    world.listed().await;
    for n in 0.. {
        // Until the statuses are listed too, nothing is answered and the edge sends again.
        let id = world.say("edge-1", &report(&format!("r{n}"), "sensor-1", "22", 9)).await;
        let answer = tokio::time::timeout(Duration::from_millis(200), world.reply(&id)).await;
        if answer.is_ok() {
            break;
        }
        assert!(n < 50);
    }
    world.status(|it| it["status"]["twins"][0]["reported"]["value"] == "22").await;
}
