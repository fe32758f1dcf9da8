//! edgecore and a cloudcore of KubeEdge 1.23, which is played by hand: the cloud's half of the recorded
//! traffic, and what the recording lacks.

use kubeedge::model::{Body, Envelope};
use serde_json::{Value, json};

use super::harness::cluster::Edge;
use super::harness::containerd::Containerd;
use super::harness::go_cloud::{GoCloud, message};
use super::harness::process::{PATIENCE, until};
use super::harness::recording::{Listed, Recorded, Verdict, differences, frame_of, listed, recording, what};

/// Lines of edgecore's log of level WARN that belong to what the test does.
const LISTED: [&str; 3] = [
    // A cloud of KubeEdge's gives no CA for workloads, and who needs one should know.
    "the cloud gave this node no CA",
    // As in the recording, the CA of the cluster comes after the pod.
    "configmap \"kube-root-ca.crt\" not found",
    // The test breaks it twice.
    "cloud link is down",
];

/// Where our frames differ from the recorded ones of a Go edge, and why no Go cloud minds.
const DIFFERENCES: [Listed; 15] = [
    listed("*", "/content/apiVersion: new", "Go's structs leave it out"),
    listed("*", "/content/kind: new", "the same"),
    listed("*", "/content/metadata/creationTimestamp: missing", "Go writes null"),
    listed(NODE, "/content/status/addresses/0/address", MACHINE),
    listed(NODE, "/content/status/capacity/hugepages", "none are offered"),
    listed(NODE, "/content/status/allocatable/hugepages", "the same"),
    Listed { by_chance: true, ..listed(NODE, "/content/status/capacity/", MACHINE) },
    Listed { by_chance: true, ..listed(NODE, "/content/status/allocatable/", MACHINE) },
    listed(NODE, "/content/status/nodeInfo/", "another machine, another version"),
    Listed { by_chance: true, ..listed(NODE, "/content/status/conditions/", "how this machine does") },
    Listed { by_chance: true, ..listed(NODE, "/content/status/images: new", "this runtime has some") },
    listed(TOKEN, "/content/metadata/name: new", "the account's, as in the resource"),
    listed(TOKEN, "/content/metadata/namespace: new", "the same"),
    listed(TOKEN, "/content/spec/audiences: null became []", "none either way"),
    listed(TOKEN, "/content/status: missing", "Go writes an empty one"),
];
const NODE: &str = "insert null/node/edge-1";
const MACHINE: &str = "another machine";
const TOKEN: &str = "query default/serviceaccounttoken/default";

struct World {
    all: Vec<Recorded>,
    cloud: GoCloud,
    edge: Edge,
    runtime: Containerd,
    verdict: Verdict,
    dir: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Containerd::start();
        runtime.ctr(&["images", "tag", "registry.local/hello:1", "peer.local/busybox:1"]);
        let cloud = GoCloud::start("edge-1").await;
        let ports = (cloud.hub_port, cloud.join_port);
        let at = dir.path().join("e");
        let edge = Edge::start_at(ports, &at, "edge-1", runtime.socket(), &cloud.pki.token(), &[]);
        Self { all: recording(), cloud, edge, runtime, verdict: Verdict::default(), dir }
    }

    /// Content of a recorded frame.
    fn content(&self, number: u32) -> Value {
        frame_of(&self.all, number).value["content"].clone()
    }

    /// The edge's message against the recorded one.
    fn compare(&mut self, number: u32, ours: &Envelope) {
        let theirs = frame_of(&self.all, number);
        assert_eq!(theirs.what(), what(ours));
        let frame = kubeedge::wire::frame::encode(ours).unwrap();
        let mut pair = [theirs.value.clone(), serde_json::from_slice(&frame).unwrap()];
        // Texts with JSON in them are compared as JSON.
        for value in &mut pair {
            let inner = value["content"].as_str().and_then(|text| serde_json::from_str(text).ok());
            if let Some(inner) = inner {
                value["content"] = inner;
            }
        }
        let about = theirs.what();
        self.verdict.judge(number, &about, differences(&pair[0], &pair[1]), &DIFFERENCES);
    }

    /// Sends a recorded push of an object that is stored with a version of its own.
    async fn push(&mut self, number: u32, object: Value) {
        let route = frame_of(&self.all, number).message.route.clone();
        let resource = route.resource.to_string();
        self.cloud.api.store(&resource, object);
        let push = self.cloud.api.push_of(&route.source, &route.operation, &resource);
        self.cloud.push(push).await;
    }

    /// What the edge said, but for the first `from`.
    fn said(&self, from: usize) -> Vec<String> {
        self.cloud.said.iter().skip(from).map(what).collect()
    }

    /// Each of these came before the next one, in the recording and here.
    fn in_recorded_order(&self, order: &[&str]) {
        let recorded: Vec<String> = self.all.iter().filter(|one| one.up).map(Recorded::what).collect();
        in_order(&recorded, order);
        in_order(&self.said(0), order);
    }

    async fn pod_reports(&mut self, why: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.cloud
            .wait(&format!("the pod reports {why}"), |cloud| {
                let status = cloud.api.object("default/pod/web-1")["status"].clone();
                fits(&status).then_some(status)
            })
            .await
    }

    fn in_container(&self, path: &str) -> Result<String, String> {
        self.runtime.try_exec("web-1", "c", &["/bin/sh", "-c", &format!("cat {path}")])
    }
}

/// Panics unless each of these is there and comes for the first time before the next one does.
fn in_order(said: &[String], order: &[&str]) {
    let places: Vec<Option<usize>> = order.iter().map(|one| said.iter().position(|is| is == one)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "not {order:?}: {said:?}");
}

#[test]
fn the_clouds_half_of_the_recording() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut world = World::start().await;
        world.join().await;
        world.pod().await;
        world.devices().await;
        world.back_again().await;
        world.end().await;
    });
}

impl World {
    /// Frames 3 to 23.
    async fn join(&mut self) {
        let lease = "kube-node-lease/lease/edge-1";
        let query = self.cloud.hear(&format!("query {lease}"), 0).await;
        self.compare(5, &query);
        let insert = self.cloud.hear("insert null/node/edge-1", 0).await;
        self.compare(8, &insert);
        let insert = self.cloud.hear(&format!("insert {lease}"), 0).await;
        self.compare(20, &insert);
        self.cloud.hear("patch null/nodepatch/edge-1", 0).await;
        self.cloud.settle().await;
        assert!(self.cloud.acked.contains(&"update null/node/edge-1".to_owned()), "{:?}", self.cloud.acked);
        self.cloud
            .wait("the node is Ready", |cloud| {
                let node = cloud.api.object("null/node/edge-1");
                let conditions = node["status"]["conditions"].as_array()?;
                conditions.iter().any(|it| it["type"] == "Ready" && it["status"] == "True").then_some(())
            })
            .await;
        let update = self.cloud.hear(&format!("update {lease}"), 0).await;
        self.compare(45, &update);
        // A cloud refuses the status and the lease of a node it does not know, and a lease is asked for first.
        self.in_recorded_order(&[NODE, "patch null/nodepatch/edge-1"]);
        let (asked, made, renewed) =
            (format!("query {lease}"), format!("insert {lease}"), format!("update {lease}"));
        self.in_recorded_order(&[&asked, &made, &renewed]);
        self.in_recorded_order(&[NODE, &made]);
        assert!(self.cloud.keepalives > 0, "the session lives by keepalives alone");
    }

    /// Frames 24 to 44 and 126: a pod that asks for what it needs.
    async fn pod(&mut self) {
        for (resource, number) in [("default/configmap/cm1", 40), ("default/secret/sec1", 33)] {
            let object = self.content(number);
            self.cloud.api.store(resource, object);
        }
        let mut pod = self.content(24);
        // What this runtime's image can do.
        let script = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";
        pod["spec"]["containers"][0]["command"] = json!(["/bin/sh", "-c", script]);
        self.push(24, pod).await;
        // The CAs of the cluster come late, and the pod waits for them.
        for (query, push, resource) in [
            (37, 61, "default/configmap/kube-root-ca.crt"),
            (42, 63, "default/configmap/openshift-service-ca.crt"),
        ] {
            let asked = self.cloud.hear(&format!("query {resource}"), 0).await;
            self.compare(query, &asked);
            let object = self.content(push);
            self.push(push, object).await;
        }
        let status = self.pod_reports("that it runs", |it| it["phase"] == "Running").await;
        assert!(
            status["podIP"].is_string() && status["containerStatuses"][0]["state"]["running"].is_object()
        );
        for (number, asked) in [(31, "default/secret/sec1"), (32, "default/configmap/cm1")] {
            let query = self.cloud.hear(&format!("query {asked}"), 0).await;
            self.compare(number, &query);
        }
        let query = self.cloud.hear("query default/serviceaccounttoken/default", 0).await;
        self.compare(30, &query);
        // The node is registered and tells how it is before its pods ask, and a pod runs when it has what it asked for.
        let queries = [
            "query default/serviceaccounttoken/default",
            "query default/secret/sec1",
            "query default/configmap/cm1",
            "query default/configmap/kube-root-ca.crt",
            "query default/configmap/openshift-service-ca.crt",
        ];
        let runs = |said: &Envelope| {
            let Body::Text(text) = &said.body else { return false };
            let patch: Value = serde_json::from_str(text).unwrap_or_default();
            what(said) == "patch default/podpatch/web-1" && patch["status"]["phase"] == "Running"
        };
        let said = self.said(0);
        let runs = self.cloud.said.iter().position(runs);
        for query in queries {
            self.in_recorded_order(&[NODE, "patch null/nodepatch/edge-1", query]);
            let asked = said.iter().position(|is| is == query);
            assert!(asked < runs, "{query} after the pod ran: {said:?}");
        }
        self.cloud.settle().await;
        for tracked in ["response default/secret/sec1", "response default/configmap/cm1"] {
            assert!(self.cloud.acked.contains(&tracked.to_owned()), "{tracked}: {:?}", self.cloud.acked);
        }
        assert_eq!(self.in_container("/cm/greeting").unwrap().trim_end(), "hello");
        assert_eq!(self.in_container("/sec/password").unwrap().trim_end(), "s3cret");
        let token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
        assert_eq!(self.in_container(token).unwrap().trim_end(), "head.claims.signature");

        let changed = self.content(126);
        let want = changed["data"]["greeting"].as_str().unwrap().to_owned();
        self.push(126, changed).await;
        self.cloud.settle().await;
        until("the changed ConfigMap is in its volume", PATIENCE, || {
            let is = self.in_container("/cm/greeting")?;
            if is.trim_end() == want { Ok(()) } else { Err(is) }
        });
    }

    /// Frames 52 to 56 and 128 to 148.
    async fn devices(&mut self) {
        let membership = self.content(52);
        let told = message("devicecontroller", "twin", "update", "membership", Body::Object(membership));
        self.cloud.tell(&told).await;
        for number in [53, 55] {
            let object = self.content(number);
            self.push(number, object).await;
        }
        self.cloud.settle().await;
        let from = self.cloud.said.len();
        let topic = "$hw/events/device/default/sensor-1";
        self.edge
            .broker
            .publish(&format!("{topic}/state/update"), r#"{"event_id":"","timestamp":0,"state":"online"}"#);
        let state = self.cloud.hear("update device/default/sensor-1/state/update", from).await;
        self.compare(130, &state);
        let update = r#"{"event_id":"","timestamp":0,"twin":{"temperature":{"actual":{"value":"21"},"metadata":{"type":"string"}}}}"#;
        self.edge.broker.publish(&format!("{topic}/twin/update"), update);
        self.cloud
            .wait("the twin reports 21", |cloud| {
                let said = |content: &Value| content["twin"]["temperature"]["actual"]["value"] == "21";
                cloud.api.reports.iter().any(|(_, content)| said(content)).then_some(())
            })
            .await;
        // A wish travels inside the Device, and what is in force comes back.
        let changed = self.content(147);
        self.push(147, changed).await;
        self.cloud
            .wait("the wish is confirmed", |cloud| {
                let said = |content: &Value| content["twin"]["temperature"]["expected"]["value"] == "26";
                cloud.api.reports.iter().any(|(_, content)| said(content)).then_some(())
            })
            .await;
        self.cloud.settle().await;
    }

    /// The link breaks; what changed meanwhile comes as updates of EdgeController, whatever it is about
    /// (`cloud/pkg/synccontroller`), and deletes are skeletons.
    async fn back_again(&mut self) {
        self.cloud.hang_up();
        let id = self.runtime.running("web-1", Some("c"));
        let mut config = self.cloud.api.object("default/configmap/cm1").clone();
        config["data"]["greeting"] = json!("back");
        self.cloud.api.store("default/configmap/cm1", config);
        let mut device = self.cloud.api.object("default/device/sensor-1").clone();
        device["spec"]["properties"][1]["desired"]["value"] = json!("44");
        self.cloud.api.store("default/device/sensor-1", device);
        let before = self.cloud.keepalives;
        self.cloud.wait("a new session", |cloud| (cloud.keepalives > before).then_some(())).await;
        for resource in ["default/configmap/cm1", "default/device/sensor-1"] {
            let push = self.cloud.api.push_of("edgecontroller", "update", resource);
            self.cloud.push(push).await;
        }
        self.cloud
            .wait("the wish that was made meanwhile is confirmed", |cloud| {
                let said = |content: &Value| content["twin"]["humidity"]["expected"]["value"] == "44";
                cloud.api.reports.iter().any(|(_, content)| said(content)).then_some(())
            })
            .await;
        self.cloud.settle().await;
        until("the ConfigMap is up to date", PATIENCE, || {
            let is = self.in_container("/cm/greeting")?;
            if is.trim_end() == "back" { Ok(()) } else { Err(is) }
        });
        assert_eq!(self.runtime.running("web-1", Some("c")), id, "a reconnect starts nothing anew");
        let gone = json!({"metadata": {"namespace": "default", "name": "sensor-1",
            "uid": self.cloud.api.object("default/device/sensor-1")["metadata"]["uid"]}});
        let delete =
            message("edgecontroller", "resource", "delete", "default/device/sensor-1", Body::Object(gone));
        self.cloud.push(delete).await;
        self.cloud.settle().await;
    }

    /// The pod is deleted, then the Node; the edge registers anew.
    async fn end(&mut self) {
        let mut pod = self.cloud.api.object("default/pod/web-1").clone();
        pod["metadata"]["deletionTimestamp"] = json!("2026-11-22T19:45:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(1);
        self.push(27, pod).await;
        self.cloud.hear("delete default/pod/web-1", 0).await;
        self.cloud
            .wait("the pod is gone", |cloud| {
                cloud.acked.contains(&"delete default/pod/web-1".to_owned()).then_some(())
            })
            .await;
        assert_eq!(self.runtime.running_containers("web-1"), 0);

        // An edge whose store was wiped: the Node is there already, and no push brings it.
        self.edge.process.kill9();
        std::fs::remove_dir_all(self.edge.dir.join("edge")).unwrap();
        // Nothing that the old one said is read any more.
        self.cloud.hang_up();
        let from = self.cloud.said.len();
        self.edge.restart(&[]);
        self.cloud.hear("insert null/node/edge-1", from).await;
        self.cloud.hear("query null/node/edge-1", from).await;
        self.cloud.hear("patch null/nodepatch/edge-1", from).await;
        self.cloud.hear("update kube-node-lease/lease/edge-1", from).await;
        let said = self.said(from);
        in_order(&said, &[NODE, "query null/node/edge-1", "patch null/nodepatch/edge-1"]);
        in_order(&said, &[NODE, "update kube-node-lease/lease/edge-1"]);

        let from = self.cloud.said.len();
        self.cloud.api.objects.remove("null/node/edge-1");
        self.cloud.api.objects.remove("kube-node-lease/lease/edge-1");
        self.cloud.hang_up();
        self.cloud.hear("insert null/node/edge-1", from).await;
        self.cloud.hear("insert kube-node-lease/lease/edge-1", from).await;
        in_order(&self.said(from), &[NODE, "insert kube-node-lease/lease/edge-1"]);
        self.cloud.settle().await;

        self.verdict.assert_clean(&DIFFERENCES);
        assert_eq!(self.cloud.errors, [""; 0], "a Go cloud would log this");
        assert_eq!(self.edge.process.complaints(&LISTED), [""; 0]);
        assert!(self.dir.path().exists());
    }
}
