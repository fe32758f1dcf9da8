//! cloudcore and an edgecore of KubeEdge 1.23, which is played by hand: the edge's half of the recorded
//! traffic, and what the recording lacks.

use std::collections::{BTreeMap, BTreeSet};

use kubeedge::identity::{cert_ders_from_pem, validity};
use kubeedge::model::{Body, Envelope, Reason, Status};
use serde_json::{Value, json};

use super::harness::cluster::{Cloud, Kubectl, PATIENT};
use super::harness::go_edge::{GoEdge, message};
use super::harness::process::{PATIENCE, now_ms};
use super::harness::recording::{
    Listed, Recorded, Verdict, applied, differences, frame_of, listed, recording, what,
};

/// Lines of cloudcore's log of level WARN that belong to what a test does.
const LISTED: [&str; 0] = [];

/// Frames of the recorded cloud that ours does not send, and why.
const NOT_SENT: [(u32, &str); 5] = [
    (14, "only the status of the Node changed; the answer to the patch carries it"),
    (27, "only the status of the Pod changed, and its managedFields"),
    (61, "the embedded API has this ConfigMap since the namespace is there: it came with the pod"),
    (63, "nobody makes this ConfigMap here, and no pod names it"),
    (116, "only the status of the Pod changed, and its managedFields"),
];

/// Where our frames differ from the recorded ones, and why no Go edge minds.
const DIFFERENCES: [Listed; 20] = [
    listed(
        "*",
        "/content/Object/apiVersion: new",
        "Go's typed clients leave it out, and its edge fills it in",
    ),
    listed("*", "/content/Object/kind: new", "the same"),
    listed("*", "/content/Object/metadata/annotations/cloudcore", "another address"),
    listed("update null/node/edge-1", "/content/metadata/annotations/cloudcore", "another address"),
    Listed { by_chance: true, ..listed("response null/node/edge-1", "/content/Object/spec/taints", TAINTS) },
    Listed { by_chance: true, ..listed("update null/node/edge-1", "/content/spec/taints", TAINTS) },
    Listed {
        by_chance: true,
        ..listed("response null/nodepatch/edge-1", "/content/Object/spec/taints", TAINTS)
    },
    listed(
        "*",
        "/content/Err/ErrStatus/details/kind",
        "the API's word, not a lister's; edges look at the reason",
    ),
    listed("*", "/content/ErrStatus/details/kind", "the same"),
    listed("*", "/content/metadata/annotations/identity.kubeedge.io/seal: new", "ours; Go keeps annotations"),
    listed("*", "/content/Object/metadata/annotations/identity.kubeedge.io/seal: new", "the same"),
    listed("*", "/content/spec/volumes/2/projected/sources: 4", "the recorded API had OpenShift's CA too"),
    listed("*", "/content/Object/spec/volumes/2/projected/sources: 4", "the same"),
    listed(PATCHED, "/content/Object/status/conditions/", "lastProbeTime: null is not written"),
    listed(TOKEN, "/content/metadata/creationTimestamp: missing", "no edge reads it"),
    listed(TOKEN, "/content/metadata/uid: missing", "no edge reads it"),
    listed("response default/configmap/kube-root-ca.crt", "/", "it is there: the embedded API makes it"),
    listed("update membership", "/content/added_devices/0/twin: new", "for edges that have the device"),
    listed("insert default/device/sensor-1", "/content/status: missing", "a Device has no status any more"),
    listed("update default/device/sensor-1", "/content/status: missing", "the same"),
];
const TAINTS: &str = "NodeMonitor taints a new node a moment later, and says since when";
const PATCHED: &str = "response default/podpatch/web-1";
const TOKEN: &str = "response default/serviceaccounttoken/default";

struct Replay<'a> {
    all: &'a [Recorded],
    kubectl: Kubectl,
    edge: GoEdge,
    /// Recorded uids and versions, and ours.
    ids: BTreeMap<String, String>,
    verdict: Verdict,
}

impl Replay<'_> {
    /// The frame as this edge would send it now.
    fn own(&self, frame: &Recorded) -> Envelope {
        let mut text = frame.value.to_string();
        for (theirs, ours) in &self.ids {
            text = text.replace(theirs, ours);
        }
        let time = regex_lite::Regex::new(r"2026-11-22T19:4\d:\d\d(\.\d{6})?Z").unwrap();
        let now = jiff::Timestamp::now();
        let text = time.replace_all(&text, |found: &regex_lite::Captures<'_>| {
            let digits = if found.get(1).is_some() { "%.6f" } else { "" };
            jiff::fmt::strtime::format(format!("%Y-%m-%dT%H:%M:%S{digits}Z"), now).unwrap()
        });
        let mut message =
            kubeedge::wire::frame::decode(text.as_bytes(), kubeedge::wire::frame::MAX_FRAME_BYTES).unwrap();
        message.header.msg_id = uuid::Uuid::new_v4().to_string();
        message.header.timestamp_ms = now_ms();
        message
    }

    /// Compares, and learns which uid of ours stands for which recorded one.
    fn compare(&mut self, theirs: &Recorded, ours: &Envelope) {
        let frame = kubeedge::wire::frame::encode(ours).unwrap();
        let ours: Value = serde_json::from_slice(&frame).unwrap();
        self.learn(&theirs.value, &ours);
        let about = theirs.what();
        self.verdict.judge(theirs.number, &about, differences(&theirs.value, &ours), &DIFFERENCES);
    }

    fn learn(&mut self, theirs: &Value, ours: &Value) {
        let pair = |field: &str| Some((theirs.get(field)?.as_str()?, ours.get(field)?.as_str()?));
        if let Some((theirs, ours)) = pair("uid") {
            self.ids.insert(theirs.to_owned(), ours.to_owned());
        }
        if let Some((theirs, ours)) = pair("resourceVersion") {
            let field = |version: &str| format!("\"resourceVersion\":\"{version}\"");
            self.ids.insert(field(theirs), field(ours));
        }
        if let (Some(theirs), Some(ours)) = (theirs.as_object(), ours.as_object()) {
            for (field, theirs) in theirs {
                if let Some(ours) = ours.get(field) {
                    self.learn(theirs, ours);
                }
            }
        }
    }

    async fn play(&mut self, frame: &Recorded) {
        let (route, has_parent) = (&frame.message.route, frame.message.header.parent_msg_id.is_some());
        match (frame.up, route.source.as_str(), route.operation.as_str()) {
            (true, _, "response") => {} // the edge acknowledges by itself
            (true, _, "keepalive") => self.edge.keepalive().await,
            (true, "twin", operation) => {
                let own = self.own(frame);
                self.edge.tell_twin(operation, &route.resource.to_string(), own.body).await;
            }
            (true, ..) => {
                let answer = self.edge.call(self.own(frame)).await;
                let parent = Some(frame.message.header.msg_id.as_str());
                let theirs = self.all.iter().find(|it| it.message.header.parent_msg_id.as_deref() == parent);
                let theirs = theirs.unwrap_or_else(|| panic!("frame {} has no answer", frame.number)).clone();
                self.compare(&theirs, &answer);
            }
            (false, ..) if has_parent => {} // compared as an answer, or a confirmation
            (false, ..) if NOT_SENT.iter().any(|(number, _)| *number == frame.number) => {}
            (false, ..) => {
                self.cause(frame);
                let push = self.edge.hear(&frame.what()).await;
                self.compare(frame, &push);
            }
        }
    }

    /// Does in our API what made KubeEdge send this frame.
    fn cause(&self, frame: &Recorded) {
        let apply = |number: u32| {
            let object = applied(&frame_of(self.all, number).value["content"]);
            self.kubectl.apply(&object.to_string());
        };
        let patch = |object: &str, change: Value| {
            let change = change.to_string();
            self.kubectl.run(&["patch", object, "--type=merge", "-p", &change]);
        };
        match frame.what().as_str() {
            "update null/node/edge-1" => {}
            "insert default/pod/web-1" => [40, 33, 24].into_iter().for_each(apply),
            "update membership" => [53, 55].into_iter().for_each(apply),
            "insert default/devicemodel/sensor-model" | "insert default/device/sensor-1" => {}
            "update default/configmap/cm1" => {
                patch("configmap/cm1", json!({"data": frame.value["content"]["data"]}));
            }
            "update default/device/sensor-1" => {
                let properties = &frame.value["content"]["spec"]["properties"];
                patch("device/sensor-1", json!({"spec": {"properties": properties}}));
            }
            other => panic!("frame {}: nothing is known to cause {other}", frame.number),
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn the_edges_half_of_the_recording() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(dir.path(), &[PATIENT]);
    let all = recording();
    let edge = runtime_of(|| GoEdge::join(&cloud, "edge-1"));
    let (runtime, edge) = edge;
    let mut replay = Replay {
        all: &all,
        kubectl: cloud.kubectl(),
        edge,
        ids: BTreeMap::new(),
        verdict: Verdict::default(),
    };
    // The first keepalive was said with the join.
    runtime.block_on(async {
        for frame in all.iter().skip(1) {
            replay.play(frame).await;
        }
    });
    replay.verdict.assert_clean(&DIFFERENCES);
    let edge = &replay.edge;
    assert_eq!(edge.errors, [""; 0], "a Go edge would log this");

    // The hand-played edge acknowledges under the routes of the real one.
    let ack = |it: &Envelope| (what(it), it.route.source.clone(), it.route.group.clone());
    let mut theirs: BTreeSet<_> =
        all.iter().filter(|it| it.up && it.message.is("response")).map(|it| ack(&it.message)).collect();
    // KubeEdge's queue drops a model that the edge has; ours says it again with each change of its device.
    theirs.insert((
        "response default/devicemodel/sensor-model".to_owned(),
        "devicecontroller".to_owned(),
        "resource".to_owned(),
    ));
    let about: BTreeSet<String> = theirs.iter().map(|it| it.0.clone()).collect();
    let ours: Vec<_> = edge.acks.iter().map(ack).filter(|it| about.contains(&it.0)).collect();
    assert!(ours.len() > 30, "{ours:?}");
    for it in ours {
        assert!(theirs.contains(&it), "{it:?} is not how KubeEdge acknowledges: {theirs:?}");
    }

    // What the recorded edge said is in the API.
    let kubectl = &replay.kubectl;
    kubectl.wait_node("edge-1", "True");
    kubectl.wait_for("pod/web-1", "{.status.phase} {.status.podIP}", "Running 10.98.0.11", PATIENCE);
    let lease = kubectl.json(&["get", "lease", "edge-1", "-n", "kube-node-lease"]);
    assert_eq!(lease["spec"]["holderIdentity"], "edge-1");
    kubectl.wait_for("devicestatus/sensor-1", "{.status.state}", "online", PATIENCE);
    let status = kubectl.json(&["get", "devicestatus", "sensor-1"]);
    let temperature = &status["status"]["twins"][0];
    assert_eq!(
        (&temperature["propertyName"], &temperature["reported"]["value"]),
        (&json!("temperature"), &json!("21"))
    );
    assert!(!status.to_string().contains("nosuch"), "a property the device does not have: {status}");
    assert_eq!(cloud.process.complaints(&LISTED), [""; 0]);
}

/// A runtime and what is made in it.
fn runtime_of<'a, T, F: Future<Output = T> + 'a>(make: impl FnOnce() -> F) -> (tokio::runtime::Runtime, T) {
    let runtime = runtime();
    let made = runtime.block_on(make());
    (runtime, made)
}

/// A Node as a kubelet registers it.
fn registration(all: &[Recorded]) -> Body {
    frame_of(all, 8).message.body.clone()
}

fn text(value: &Value) -> Body {
    Body::Text(value.to_string())
}

fn error_of(answer: &Envelope) -> Option<Status> {
    match &answer.body {
        Body::ObjectResp(resp) => resp.err.as_ref().map(|err| err.status.inner.clone()),
        Body::Error(err) => Some(err.status.inner.clone()),
        _ => None,
    }
}

const POD: &str = "apiVersion: v1
kind: ConfigMap
metadata: { name: conf }
data: { text: one }
---
apiVersion: v1
kind: Secret
metadata: { name: keys }
stringData: { password: s3cret }
---
apiVersion: v1
kind: Pod
metadata: { name: app }
spec:
  nodeName: go-1
  terminationGracePeriodSeconds: 1
  tolerations: [{ operator: Exists }]
  containers:
  - name: main
    image: registry.local/hello:1
    envFrom:
    - configMapRef: { name: conf }
    - configMapRef: { name: nowhere, optional: true }
    - secretRef: { name: keys }
";

const DEVICES: &str = "apiVersion: devices.kubeedge.io/v1beta1
kind: DeviceModel
metadata: { name: model }
spec:
  protocol: fake
  properties: [{ name: temperature, type: INT, accessMode: ReadWrite }]
---
apiVersion: devices.kubeedge.io/v1beta1
kind: Device
metadata: { name: stays }
spec:
  nodeName: go-1
  deviceModelRef: { name: model }
  protocol: { protocolName: fake, configData: { port: '1' } }
  properties:
  - { name: temperature, desired: { value: '20' }, visitors: { protocolName: fake, configData: { reg: '1' } } }
---
apiVersion: devices.kubeedge.io/v1beta1
kind: Device
metadata: { name: goes }
spec:
  nodeName: go-1
  deviceModelRef: { name: model }
  protocol: { protocolName: fake, configData: { port: '2' } }
";

#[test]
fn a_go_edge_from_its_join_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(dir.path(), &[PATIENT]);
    let (all, kubectl) = (recording(), cloud.kubectl());
    let (runtime, mut edge) = runtime_of(|| GoEdge::join(&cloud, "go-1"));
    let days = |pem: &str| {
        let valid = validity(&cert_ders_from_pem(pem)[0]).unwrap();
        valid.not_after.duration_since(std::time::SystemTime::now()).unwrap().as_secs() / 86_400
    };
    assert!(days(edge.certificate()) >= 14, "a Go edge has no way back once its certificate ended");
    runtime.block_on(async {
        // The node, with the name of this edge.
        let Body::Object(mut node) = registration(&all) else { panic!("no object") };
        node["metadata"]["name"] = json!("go-1");
        let answer = edge.ask("insert", "null/node/go-1", Body::Object(node.clone())).await;
        assert_eq!(error_of(&answer), None);
        edge.hear("update null/node/go-1").await;
        let again = edge.ask("insert", "null/node/go-1", Body::Object(node.clone())).await;
        assert!(error_of(&again).unwrap().is(Reason::AlreadyExists), "{again:?}");

        // A pod with its ConfigMap and Secret, which travel before it.
        kubectl.apply(POD);
        let pod = edge.hear("insert default/pod/app").await;
        for needed in ["default/configmap/conf", "default/secret/keys"] {
            assert!(edge.meta.contains_key(needed), "{needed} is not here: {:?}", edge.history());
        }
        let uid = pod.body.meta("uid").unwrap().to_owned();
        let request = json!({"metadata": {"creationTimestamp": null}, "spec": {"audiences": null,
            "expirationSeconds": 3607, "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "app", "uid": uid}},
            "status": {"token": "", "expirationTimestamp": null}});
        let token = edge.ask("query", "default/serviceaccounttoken/default", Body::Object(request)).await;
        let Body::Object(token) = &token.body else { panic!("{token:?}") };
        assert!(token["spec"]["expirationSeconds"].is_i64(), "requiresRefresh logs an error without it: {token}");
        assert!(token["status"]["token"].as_str().is_some_and(|token| token.split('.').count() == 3), "{token}");
        let status = json!({"metadata": {"uid": uid}, "status": {"phase": "Running", "podIP": "10.98.0.7",
            "podIPs": [{"ip": "10.98.0.7"}], "conditions": [{"type": "Ready", "status": "True",
            "lastProbeTime": null, "lastTransitionTime": "2026-11-22T19:43:11Z"}]}});
        let answer = edge.ask("patch", "default/podpatch/app", text(&status)).await;
        assert_eq!(error_of(&answer), None);
        assert_eq!(edge.meta["default/pod/app"]["status"]["phase"], "Running", "the whole pod comes back");
        let missing = edge.ask("query", "default/configmap/nowhere", Body::Null).await;
        assert!(error_of(&missing).is_some(), "{missing:?}");
        let event = json!({"metadata": {"name": "app.1", "namespace": "default", "creationTimestamp": null},
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "app", "uid": uid, "apiVersion": "v1"},
            "reason": "Started", "message": "Started container main", "source": {"component": "edged", "host": "go-1"},
            "firstTimestamp": "2026-11-22T19:43:11Z", "lastTimestamp": "2026-11-22T19:43:11Z", "count": 1,
            "type": "Normal", "eventTime": null, "reportingComponent": "edged", "reportingInstance": "go-1"});
        edge.say(&message("edged", "meta", "insert", "default/event/app.1", Body::Object(event))).await;

        // What no module here serves is refused at once.
        let app = json!({"ID": "ab", "Key": "/core/v1/pods/default/null", "Verb": "list", "Nodename": "go-1",
            "Option": "e30=", "ReqBody": null, "Subresource": "", "RespBody": null, "Status": "InApplying",
            "Reason": "", "Error": {"ErrStatus": {"metadata": {}}}, "Timestamp": "0001-01-01T00:00:00Z"});
        let asked = message("metaserver", "dynamiccontroller", "null", "null", Body::Object(app));
        let answer = edge.call(asked).await;
        assert_eq!(what(&answer), "applicationResponse ignore/Application/ignore");
        assert!(matches!(&answer.body, Body::Object(app) if app["Status"] == "Rejected"), "{answer:?}");

        // Devices, and the question that follows each connect.
        kubectl.apply(DEVICES);
        edge.hear("update membership").await;
        edge.hear("insert default/devicemodel/model").await;
        edge.hear("insert default/device/stays").await;
        edge.tell_twin("get", "membership/detail", Body::Text("{\"event_type\":\"group_membership_event\",\"event_id\":\"e\",\"group_id\":\"go-1\",\"operation\":\"detail\",\"timestamp\":1}".to_owned())).await;
        edge.hear("update membership/detail").await;

        // Away for a while.
        edge.rotate(&cloud);
        kubectl.run(&["patch", "configmap", "conf", "--type=merge", "-p", r#"{"data":{"text":"two"}}"#]);
        edge.hear("update default/configmap/conf").await;
    });
    assert!(days(edge.certificate()) >= 14, "the rotated one too");
    assert_eq!(edge.errors, [""; 0], "a Go edge would log this");
    kubectl.wait_for("pod/app", "{.status.phase}", "Running", PATIENCE);
    until_event(&kubectl);

    runtime.block_on(async {
        edge.hang_up().await;
        kubectl.run(&["patch", "configmap", "conf", "--type=merge", "-p", r#"{"data":{"text":"three"}}"#]);
        kubectl.run(&["delete", "device", "goes"]);
        edge.reconnect(&cloud).await;
        let changed = edge.hear("update default/configmap/conf").await;
        assert!(matches!(&changed.body, Body::Object(map) if map["data"]["text"] == "three"), "{changed:?}");
        edge.wait("the deleted device is gone", |edge| {
            (!edge.meta.contains_key("default/device/goes") && !edge.devices.contains("default/goes"))
                .then_some(())
        })
        .await;
        assert!(edge.devices.contains("default/stays"));

        // A deleted pod: told, stopped, confirmed, gone.
        kubectl.run(&["delete", "pod", "app", "--wait=false"]);
        let going = edge.hear("update default/pod/app").await;
        assert!(going.body.meta("deletionTimestamp").is_some(), "{going:?}");
        let uid = going.body.meta("uid").unwrap().to_owned();
        let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
        let answer = edge.ask("delete", "default/pod/app", Body::Object(options)).await;
        assert_eq!(answer.body, Body::Text("OK".to_owned()));
        edge.wait("the pod is gone", |edge| (!edge.meta.contains_key("default/pod/app")).then_some(())).await;
        edge.hear("delete default/pod/app").await;
        let late = json!({"metadata": {"uid": uid}, "status": {"phase": "Failed"}});
        let answer = edge.ask("patch", "default/podpatch/app", text(&late)).await;
        assert!(error_of(&answer).is_some(), "the pod is gone: {answer:?}");

        // A deleted node: its session ends; it comes back and registers anew.
        kubectl.run(&["delete", "node", "go-1"]);
        edge.is_cut_off().await;
        edge.reconnect(&cloud).await;
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let answer = edge.ask("patch", "null/nodepatch/go-1", text(&patch)).await;
        assert!(error_of(&answer).unwrap().is(Reason::NotFound), "{answer:?}");
        let Body::Object(mut node) = registration(&all) else { panic!("no object") };
        node["metadata"]["name"] = json!("go-1");
        let answer = edge.ask("insert", "null/node/go-1", Body::Object(node)).await;
        assert_eq!(error_of(&answer), None);
        edge.hear("update null/node/go-1").await;
    });
    assert_eq!(edge.errors, [""; 0], "a Go edge would log this");
    assert_eq!(cloud.process.complaints(&LISTED), [""; 0]);
}

fn until_event(kubectl: &Kubectl) {
    super::harness::process::until("the edge's event is in the API", PATIENCE, || {
        let reasons = kubectl.run(&["get", "events", "-o", "jsonpath={.items[*].reason}"]);
        if reasons.contains("Started") { Ok(()) } else { Err(reasons) }
    });
}
