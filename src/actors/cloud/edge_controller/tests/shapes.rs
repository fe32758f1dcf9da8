//! Every message of protocol section 6.4 as a node sends it, and the answer as it stands on the
//! wire.

use super::*;
use crate::wire::frame;

/// What the content of an answer must be.
enum Content {
    /// `{"Object": <named so>, "Err": null}`.
    Made(&'static str),
    /// `{"Object": null, "Err": {"ErrStatus": <reason and code>}}`.
    NotMade(&'static str, u64),
    /// The object itself, of this kind.
    Object(&'static str),
    /// `{"ErrStatus": <reason and code>}`.
    Failure(&'static str, u64),
    Text(&'static str),
}

use Content::{Failure, Made, NotMade, Object, Text};

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().map(|fields| fields.keys().map(String::as_str).collect()).unwrap_or_default()
}

fn is_failure(error: &Value, reason: &str, code: u64) -> bool {
    let status = &error["ErrStatus"];
    let said = (status["reason"].as_str(), status["code"].as_u64(), status["status"].as_str());
    keys(error) == ["ErrStatus"]
        && said == (Some(reason), Some(code), Some("Failure"))
        && status["message"].as_str().is_some_and(|text| !text.is_empty())
        && status["metadata"] == json!({})
}

impl Content {
    fn fits(&self, content: &Value) -> bool {
        let both = keys(content) == ["Err", "Object"];
        match self {
            Made(name) => both && content["Err"].is_null() && content["Object"]["metadata"]["name"] == *name,
            NotMade(reason, code) => {
                both && content["Object"].is_null() && is_failure(&content["Err"], reason, *code)
            }
            Object(kind) => content["kind"] == *kind && content["metadata"].is_object(),
            Failure(reason, code) => is_failure(content, reason, *code),
            Text(text) => content == text,
        }
    }
}

impl World {
    /// Sends a frame as edge-1, gives its id.
    async fn say(&mut self, op: &str, resource: &str, content: &Value) -> String {
        let blank = Envelope::new("edged", "meta", op, Resource::parse(resource), Body::Null, 1);
        let mut said: Value = serde_json::from_slice(&frame::encode(&blank).unwrap()).unwrap();
        said["content"] = content.clone();
        let text = said.to_string();
        let envelope = frame::decode(text.as_bytes(), frame::MAX_FRAME_BYTES).unwrap();
        let upstream = Upstream { node: node("edge-1"), session: 1, envelope, turn: Turn::default() };
        self.upstream.ask(upstream, ASK).await.unwrap();
        blank.header.msg_id
    }

    /// The next frame for edge-1 that is chosen.
    async fn heard(&mut self, chosen: impl Fn(&Value) -> bool) -> Value {
        loop {
            let (_, envelope) = self.next().await;
            let heard: Value = serde_json::from_slice(&frame::encode(&envelope).unwrap()).unwrap();
            if chosen(&heard) {
                return heard;
            }
        }
    }

    /// Sends a message and checks its answer in every field; returns the content.
    async fn expect(
        &mut self,
        (op, resource): (&str, &str),
        content: Value,
        want: Content,
        versioned: bool,
    ) -> Value {
        let id = self.say(op, resource, &content).await;
        let answer = self.heard(|heard| heard["header"]["parent_msg_id"] == *id).await;
        // The answer to a node's status is about the node (section 6.4).
        let about = resource.replace("/nodestatus/", "/node/");
        let route = json!({"source": "edgecontroller", "group": "resource", "operation": "response",
            "resource": about});
        assert_eq!(answer["route"], route, "{op} {resource}");
        assert_eq!(keys(&answer), ["content", "header", "route"], "{op} {resource}");
        let version = answer["header"].get("resourceversion").and_then(Value::as_str);
        assert_eq!(version.is_some(), versioned, "{op} {resource}: resourceversion {version:?}");
        assert!(version.is_none_or(|text| text.parse::<u64>().is_ok()), "{op} {resource}: {version:?}");
        assert!(want.fits(&answer["content"]), "{op} {resource}: {}", answer["content"]);
        answer["content"].clone()
    }

    /// Waits for the deletion of a pod that the node reported and that is not there.
    async fn deletion(&mut self, name: &str, uid: &str) {
        let resource = format!("default/pod/{name}");
        let heard = self
            .heard(|heard| heard["route"]["operation"] == "delete" && heard["route"]["resource"] == *resource)
            .await;
        let skeleton = json!({"metadata": {"namespace": "default", "name": name, "uid": uid}});
        assert_eq!(heard["content"], skeleton);
        assert_eq!(heard["header"].get("parent_msg_id"), None);
    }
}

/// A world with a configmap, a secret and a pod on edge-1 that names them and two things that are
/// not there. Returns the pod's uid.
async fn furnished() -> (World, String) {
    let mut world = World::start().await;
    world.call("POST", CONFIGS, json!({"metadata": {"name": "settings"}})).await;
    let secrets = CONFIGS.replace("configmaps", "secrets");
    world.call("POST", &secrets, json!({"metadata": {"name": "keys"}})).await;
    let mut web = pod("web", "edge-1");
    web["spec"]["volumes"] = json!([
        {"name": "k", "secret": {"secretName": "keys"}},
        {"name": "l", "configMap": {"name": "later", "optional": true}},
        {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
    ]);
    let made = world.call("POST", PODS, web).await;
    while world.next().await.0 != "insert default/pod/web to edge-1" {}
    let uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
    (world, uid)
}

#[actix::test]
async fn about_the_node() {
    let mut world = World::start().await;
    let node =
        || json!({"metadata": {"name": "edge-1", "creationTimestamp": null}, "spec": {}, "status": {}});
    let own = "null/node/edge-1";
    world.expect(("query", own), Value::Null, Failure("NotFound", 404), false).await;
    world.expect(("insert", own), node(), Made("edge-1"), false).await;
    world.expect(("insert", own), node(), NotMade("AlreadyExists", 409), false).await;
    world.expect(("query", own), Value::Null, Object("Node"), false).await;
    let labelled = json!({"metadata": {"name": "edge-1", "labels": {"site": "a"}}});
    world.expect(("update", own), labelled, Text("OK"), true).await;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}).to_string();
    world.expect(("patch", "null/nodepatch/edge-1"), ready.into(), Made("edge-1"), true).await;
    let other = json!({"status": {}}).to_string();
    world.expect(("patch", "null/nodepatch/edge-2"), other.into(), NotMade("Forbidden", 403), false).await;

    let legacy = "default/nodestatus/edge-1";
    world.expect(("insert", legacy), node(), Text("nodes \"edge-1\" already exists"), false).await;
    let status = json!({"UID": "", "Status": {"phase": "Running"}, "ExtendResources": {}});
    world.expect(("update", legacy), status, Text("OK"), false).await;

    let lease = "kube-node-lease/lease/edge-1";
    let body = json!({"metadata": {"name": "edge-1", "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": "edge-1", "leaseDurationSeconds": 40}});
    world.expect(("query", lease), Value::Null, NotMade("NotFound", 404), false).await;
    let made = world.expect(("insert", lease), body.clone(), Made("edge-1"), false).await;
    world.expect(("insert", lease), body, NotMade("AlreadyExists", 409), false).await;
    let mut renewed = made["Object"].clone();
    renewed["spec"]["leaseDurationSeconds"] = 41.into();
    world.expect(("update", lease), renewed.clone(), Made("edge-1"), false).await;
    world.expect(("update", lease), renewed, NotMade("Conflict", 409), false).await;
    world.expect(("query", lease), Value::Null, Made("edge-1"), false).await;

    // The embedded API signs no such requests: the answers keep their shapes.
    let csr = "default/certificatesigningrequest/csr-1";
    let body = json!({"metadata": {"name": "csr-1"}, "spec": {"request": "", "signerName": "s/n"}});
    world.expect(("insert", csr), body, NotMade("NotFound", 404), false).await;
    world.expect(("query", csr), Value::Null, Failure("NotFound", 404), false).await;
}

#[actix::test]
async fn about_its_pods() {
    let (mut world, uid) = furnished().await;
    let patch = |uid: &str| json!({"metadata": {"uid": uid}, "status": {"phase": "Running"}}).to_string();
    world.expect(("patch", "default/podpatch/web"), patch(&uid).into(), Made("web"), true).await;
    let stale = patch("another").into();
    world.expect(("patch", "default/podpatch/web"), stale, NotMade("Conflict", 409), false).await;
    let gone = patch("g").into();
    world.expect(("patch", "default/podpatch/gone"), gone, NotMade("NotFound", 404), false).await;

    let status = |name: &str, uid: &str| json!({"UID": uid, "Name": name, "Status": {"phase": "Running"}});
    let of = |name: &str| format!("default/podstatus/{name}");
    world.expect(("update", &of("web")), status("web", &uid), Text("OK"), false).await;
    world.expect(("update", &of("gone")), status("gone", "g"), Text("OK"), false).await;
    world.deletion("gone", "g").await;
    world.expect(("update", &of("web")), status("web", "older"), Text("OK"), false).await;
    world.deletion("web", "older").await;
    let list = json!([status("web", &uid), status("lost", "l")]);
    let id = world.say("update", "default/podstatus", &list).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let is_one = |heard: &Value| {
            heard["header"]["parent_msg_id"] == *id || heard["route"]["resource"] == "default/pod/lost"
        };
        let heard = world.heard(is_one).await;
        let text = |field: &str| heard["route"][field].as_str().unwrap_or_default().to_owned();
        seen.push(format!("{} {}", text("operation"), text("resource")));
    }
    seen.sort();
    assert_eq!(
        seen,
        ["delete default/pod/lost", "response default/podstatus/lost", "response default/podstatus/web"]
    );

    let mut mirror = json!({"metadata": {"name": "static", "namespace": "default",
        "annotations": {"kubernetes.io/config.mirror": "x"}},
        "spec": {"nodeName": "edge-1", "containers": [{"name": "c", "image": "i"}]}});
    let own = "default/pod/static";
    let made = world.expect(("insert", own), mirror.clone(), Made("static"), true).await;
    world.expect(("insert", own), mirror.clone(), NotMade("AlreadyExists", 409), false).await;
    let options = |uid: &Value| json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
    let made_uid = &made["Object"]["metadata"]["uid"];
    world.expect(("delete", own), options(&json!("another")), Text("OK"), false).await;
    assert_eq!(&world.call("GET", &format!("{PODS}/static"), json!({})).await["metadata"]["uid"], made_uid);
    world.expect(("delete", own), options(made_uid), Text("OK"), false).await;
    world.expect(("delete", own), options(made_uid), Text("OK"), false).await;
    mirror["metadata"]["name"] = "theirs".into();
    mirror["spec"]["nodeName"] = "edge-2".into();
    world.call("POST", PODS, mirror).await;
    let theirs = ("delete", "default/pod/theirs");
    world.expect(theirs, options(&Value::Null), Failure("Forbidden", 403), false).await;
    // Edges of old send the uid alone.
    world.expect(("delete", "default/pod/web"), uid.into(), Text("OK"), false).await;
}

#[actix::test]
async fn queries() {
    let (mut world, uid) = furnished().await;
    for (resource, want, versioned) in [
        ("default/configmap/settings", Object("ConfigMap"), true),
        ("default/configmap/later", Failure("NotFound", 404), false),
        ("default/configmap/unheard", Failure("Forbidden", 403), false),
        ("default/secret/keys", Object("Secret"), true),
        ("default/secret/unheard", Failure("Forbidden", 403), false),
        ("default/persistentvolumeclaim/claim", Failure("NotFound", 404), false),
        ("null/persistentvolume/volume", Failure("NotFound", 404), false),
        ("default/volumeattachment/volume", Failure("Forbidden", 403), false),
    ] {
        world.expect(("query", resource), Value::Null, want, versioned).await;
    }
    let account = ("query", "default/serviceaccounttoken/default");
    let request = |uid: &str| {
        json!({"metadata": {"creationTimestamp": null}, "spec": {"audiences": ["api"], "expirationSeconds": 3600,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": uid}}})
    };
    let token = world.expect(account, request(&uid), Object("TokenRequest"), false).await;
    assert!(token["status"]["token"].is_string() && token["status"]["expirationTimestamp"].is_string());
    world.expect(account, request("another"), Failure("Forbidden", 403), false).await;
}

#[actix::test]
async fn events_are_not_answered() {
    let (mut world, _) = furnished().await;
    let event = json!({"metadata": {"name": "web.1", "namespace": "default"}, "reason": "Started", "count": 1,
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web"}, "source": {"host": "edge-1"}});
    let mut again = event.clone();
    again["count"] = 2.into();
    let patch = json!({"event": event, "patchData": "{\"count\":3}"});
    for (op, content) in [("insert", event), ("update", again), ("patch", patch)] {
        world.say(op, "default/event/web.1", &content).await;
    }
    let events = PODS.replace("pods", "events");
    let stored = async {
        while world.call("GET", &events, json!({})).await["items"][0]["count"] != 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(ASK, stored).await.unwrap();
    // An answer to one of them would be heard before this one.
    let id = world.say("query", "default/configmap/settings", &Value::Null).await;
    let answer = world.heard(|heard| heard["header"].get("parent_msg_id").is_some()).await;
    assert_eq!(answer["header"]["parent_msg_id"], *id);
}
