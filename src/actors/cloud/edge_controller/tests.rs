//! EdgeController on the embedded Kubernetes API.

mod shapes;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::apiserver::{ApiCore, ApiSettings};
use crate::bus::Turn;
use crate::bus::cloud_hub::EndReason;
use crate::identity::{CaSettings, Rotation, ServiceAccountKeys, seal};
use crate::model::identity::SEAL_ANNOTATION;
use crate::model::{Body, ErrStatus, ObjectResp};
use crate::store::MemoryStore;
use crate::supervise::{MAIN_THREAD, Policy, Running, Tree, TreeHandle, TreeSettings};

struct World {
    api: ::kube::Client,
    down: mpsc::Receiver<(NodeName, Envelope)>,
    closed: mpsc::Receiver<CloseNode>,
    upstream: Link<Upstream>,
    desired: Link<ListDesired>,
    differences: Link<SendDifferences>,
    reseal: Link<Reseal>,
    ca: Arc<Ca>,
    federation: Federation,
    settings: CaSettings,
    tree: TreeHandle,
    _running: Running,
    _folder: tempfile::TempDir,
}

const ASK: Duration = Duration::from_secs(10);

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
        let settings = CaSettings::new(&folder.path().join("ca.crt"), &folder.path().join("ca.key"));
        let ca = Arc::new(Ca::open(settings.clone(), SystemTime::now()).unwrap());
        let (send, down) = mpsc::channel(10_000);
        let (close, closed) = mpsc::channel(100);
        let federation = Federation::new(100);
        let parts = EdgeControllerParts {
            client: core.client(),
            send_down: Link::from_fn(move |batch: SendDown| {
                for (node, message) in batch.messages {
                    send.try_send((node, message.envelope())).unwrap();
                }
            }),
            close_node: Link::from_fn(move |message| close.try_send(message).unwrap()),
            cloudcore: "10.0.0.1".to_owned(),
            ca: Arc::clone(&ca),
            federation: federation.clone(),
        };
        let mut tree = Tree::new("test", TreeSettings::default());
        let slot = tree.slot::<EdgeController>("EdgeController", 1_000);
        let (upstream, desired, differences) = (slot.link(), slot.link(), slot.link());
        let reseal = slot.link();
        let quick = Policy { backoff_base: Duration::from_millis(1), ..Policy::default() };
        tree.add(slot, MAIN_THREAD, quick, move || EdgeController::new(parts));
        let (handle, running) = (tree.handle(), tree.start().unwrap());
        let api = core.client();
        let world = Self {
            api,
            down,
            closed,
            upstream,
            desired,
            differences,
            reseal,
            ca,
            federation,
            settings,
            tree: handle,
            _running: running,
            _folder: folder,
        };
        world.listed().await;
        world
    }

    /// Waits for the first complete list.
    async fn listed(&self) {
        let ready = async {
            while !matches!(self.desired("edge-1").await, Ok(Ok(_))) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(ASK, ready).await.unwrap();
    }

    async fn desired(
        &self,
        name: &str,
    ) -> Result<Result<Vec<ObjectVersion>, NotReady>, crate::bus::LinkError> {
        self.desired.ask(ListDesired { node: node(name) }, ASK).await
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> Value {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = http::Request::builder().method(method).uri(path).header("Content-Type", kind);
        self.api.request(request.body(body.to_string().into_bytes()).unwrap()).await.unwrap()
    }

    async fn next(&mut self) -> (String, Envelope) {
        let (node, envelope) = tokio::time::timeout(ASK, self.down.recv()).await.unwrap().unwrap();
        let route = &envelope.route;
        (format!("{} {} to {node}", route.operation, route.resource), envelope)
    }

    async fn ask(&mut self, name: &str, op: &str, resource: &str, body: Body) -> Envelope {
        let envelope = Envelope::new("edged", "meta", op, Resource::parse(resource), body, 1);
        let id = envelope.header.msg_id.clone();
        let upstream = Upstream { node: node(name), session: 1, envelope, turn: Turn::default() };
        self.upstream.ask(upstream, ASK).await.unwrap();
        loop {
            let (_, answer) = self.next().await;
            if answer.header.parent_msg_id.as_ref() == Some(&id) {
                assert_eq!(answer.route.operation, "response");
                return answer;
            }
        }
    }
}

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn pod(name: &str, node: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [
        {"name": "c", "image": "i", "envFrom": [{"configMapRef": {"name": "settings"}}]}]}})
}

const PODS: &str = "/api/v1/namespaces/default/pods";
const CONFIGS: &str = "/api/v1/namespaces/default/configmaps";

#[actix::test]
async fn a_pod_and_its_config_go_to_their_node() {
    let mut world = World::start().await;
    world.call("POST", CONFIGS, json!({"metadata": {"name": "settings"}, "data": {"k": "1"}})).await;
    world.call("POST", PODS, pod("web", "edge-1")).await;
    let mut seen = Vec::new();
    while !seen.iter().any(|it| it == "insert default/pod/web to edge-1") {
        let (what, envelope) = world.next().await;
        let Body::Object(object) = &envelope.body else { panic!("{envelope:?}") };
        assert_eq!(object["apiVersion"], "v1");
        assert_eq!(
            object["metadata"]["resourceVersion"].as_str(),
            envelope.header.resource_version.as_deref()
        );
        seen.push(what);
    }
    assert!(seen.iter().any(|it| it == "insert default/configmap/settings to edge-1"), "{seen:?}");

    world.call("PATCH", &format!("{CONFIGS}/settings"), json!({"data": {"k": "2"}})).await;
    let (what, envelope) = world.next().await;
    assert_eq!(what, "update default/configmap/settings to edge-1");
    assert!(matches!(&envelope.body, Body::Object(it) if it["data"]["k"] == "2"));

    let held = world.desired("edge-1").await.unwrap().unwrap();
    let pod = held.iter().find(|it| it.resource.to_string() == "default/pod/web").unwrap().clone();
    let patch = json!({"metadata": {"uid": pod.uid}, "status": {"phase": "Running"}}).to_string();
    let answer = world.ask("edge-1", "patch", "default/podpatch/web", Body::Text(patch)).await;
    let Body::ObjectResp(both) = &answer.body else { panic!("{answer:?}") };
    assert_eq!(both.object.as_ref().unwrap()["status"]["phase"], "Running");
    assert!(answer.header.resource_version.is_some());

    // Graceful end: the edge confirms, the object goes, everything leaves the node.
    world.call("DELETE", &format!("{PODS}/web"), json!({})).await;
    let (what, envelope) = world.next().await;
    assert_eq!(what, "update default/pod/web to edge-1", "the status was not sent back");
    assert!(matches!(&envelope.body, Body::Object(it) if it["metadata"]["deletionTimestamp"].is_string()));
    let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": pod.uid}});
    let answer = world.ask("edge-1", "delete", "default/pod/web", Body::Object(options)).await;
    assert_eq!(answer.body, Body::Text("OK".into()));
}

#[actix::test]
async fn registration_and_lease() {
    let mut world = World::start().await;
    let body = || {
        Body::Object(json!({"metadata": {"name": "edge-1", "labels": {
        "node-role.kubernetes.io/edge": "", "kubernetes.io/os": "linux"}}, "spec": {}, "status": {}}))
    };
    let first = world.ask("edge-1", "insert", "null/node/edge-1", body()).await;
    let Body::ObjectResp(both) = &first.body else { panic!("{first:?}") };
    let made = both.object.as_ref().unwrap();
    assert_eq!(made["metadata"]["annotations"]["cloudcore"], "10.0.0.1");
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/os"], "linux");
    let seen = async {
        while world.federation.nodes() != [(NodeName::parse("edge-1").unwrap(), false, None)] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(ASK, seen).await.expect("Federation hears of it");
    let again = world.ask("edge-1", "insert", "null/node/edge-1", body()).await;
    assert!(matches!(&again.body, Body::ObjectResp(it) if reason(it) == "AlreadyExists"), "{again:?}");

    let path = "kube-node-lease/lease/edge-1";
    let missing = world.ask("edge-1", "query", path, Body::Null).await;
    assert!(matches!(&missing.body, Body::ObjectResp(it) if reason(it) == "NotFound"), "{missing:?}");
    let lease = json!({"metadata": {"name": "edge-1", "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": "edge-1", "leaseDurationSeconds": 40, "renewTime": "2026-08-06T00:00:01.000000Z"}});
    let made = world.ask("edge-1", "insert", path, Body::Object(lease)).await;
    let Body::ObjectResp(both) = &made.body else { panic!("{made:?}") };
    let mut renewed = both.object.clone().unwrap();
    renewed["spec"]["renewTime"] = "2026-08-06T00:00:11.000000Z".into();
    let updated = world.ask("edge-1", "update", path, Body::Object(renewed.clone())).await;
    assert!(matches!(&updated.body, Body::ObjectResp(it) if it.err.is_none()), "{updated:?}");
    let stale = world.ask("edge-1", "update", path, Body::Object(renewed)).await;
    assert!(matches!(&stale.body, Body::ObjectResp(it) if reason(it) == "Conflict"), "{stale:?}");

    let forged = world.ask("edge-2", "query", path, Body::Null).await;
    assert!(matches!(&forged.body, Body::ObjectResp(it) if reason(it) == "Forbidden"), "{forged:?}");
}

fn reason(answer: &ObjectResp) -> String {
    answer.err.as_ref().map(|err| err.status.inner.reason.clone()).unwrap_or_default()
}

#[actix::test]
async fn queries_and_tokens_of_a_nodes_pods_only() {
    let mut world = World::start().await;
    world.call("POST", CONFIGS, json!({"metadata": {"name": "settings"}})).await;
    let made = world.call("POST", PODS, pod("web", "edge-1")).await;
    while world.next().await.0 != "insert default/pod/web to edge-1" {}
    let found = world.ask("edge-1", "query", "default/configmap/settings", Body::Null).await;
    assert!(matches!(&found.body, Body::Object(it) if it["kind"] == "ConfigMap"), "{found:?}");
    assert!(found.header.resource_version.is_some());
    let unheard = world.ask("edge-1", "query", "default/unicorn/u", Body::Null).await;
    let Body::Error(err) = &unheard.body else { panic!("{unheard:?}") };
    assert_eq!((err.status.inner.reason.as_str(), err.status.inner.code), ("MethodNotAllowed", 405));
    assert_eq!((unheard.route.source.as_str(), unheard.route.group.as_str()), ("edgecontroller", "resource"));
    let refused = world.ask("edge-2", "query", "default/configmap/settings", Body::Null).await;
    let Body::Error(err) = &refused.body else { panic!("{refused:?}") };
    assert_eq!((err.status.inner.reason.as_str(), err.status.inner.code), ("Forbidden", 403));
    let ErrStatus { .. } = err.as_ref();

    let request = json!({"spec": {"audiences": ["api"], "expirationSeconds": 3600, "boundObjectRef":
        {"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": made["metadata"]["uid"]}}});
    let token =
        world.ask("edge-1", "query", "default/serviceaccounttoken/default", Body::Object(request)).await;
    assert!(matches!(&token.body, Body::Object(it) if it["status"]["token"].is_string()), "{token:?}");
}

#[actix::test]
async fn differences_are_checked_against_what_is_desired_now() {
    let mut world = World::start().await;
    world.call("POST", PODS, pod("web", "edge-1")).await;
    while world.next().await.0 != "insert default/pod/web to edge-1" {}
    let key = |text: &str| Resource::parse(text);
    let old = |name: &str, uid: &str| ObjectVersion {
        resource: key(name),
        uid: uid.to_owned(),
        resource_version: "1".to_owned(),
    };
    let current = world.desired("edge-1").await.unwrap().unwrap();
    let uid = &current.iter().find(|it| it.resource == key("default/pod/web")).unwrap().uid;
    let asked = SendDifferences {
        node: node("edge-1"),
        missing: vec![key("default/pod/web"), key("default/pod/not-there")],
        changed: vec![key("default/pod/web")],
        surplus: vec![
            old("default/pod/web", uid),
            old("default/pod/web", "older"),
            old("default/pod/gone", "g"),
        ],
        answer: Some(Envelope::new("edgecontroller", "resource", "response", key("null"), Body::Null, 1)),
    };
    world.differences.ask(asked, ASK).await.unwrap().unwrap();
    for want in [
        "delete default/pod/web to edge-1",
        "delete default/pod/gone to edge-1",
        "insert default/pod/web to edge-1",
        "update default/pod/web to edge-1",
        "response null to edge-1",
    ] {
        let (what, envelope) = world.next().await;
        assert_eq!(what, want);
        if want == "delete default/pod/web to edge-1" {
            assert_eq!(envelope.body.meta("uid"), Some("older"));
        }
    }
}

#[actix::test]
async fn after_a_panic_sessions_compare_again() {
    let mut world = World::start().await;
    world.tree.inject_panic("EdgeController").unwrap();
    let closed = tokio::time::timeout(ASK, world.closed.recv()).await.unwrap().unwrap();
    assert_eq!((closed.node, closed.reason), (None, EndReason::Restarted));
    world.listed().await;
    world.call("POST", PODS, pod("web", "edge-1")).await;
    while world.next().await.0 != "insert default/pod/web to edge-1" {}
}

/// Checks the seal as the node does.
fn holds(world: &World, name: &str, pod: &Value) {
    let seal = pod["metadata"]["annotations"][SEAL_ANNOTATION].as_str().expect("a seal");
    seal::verify(seal, "pod", &node(name), &seal::pod_payload(pod), &world.ca.bundle()).unwrap();
}

/// Whatever way a pod takes to its node: told, compared, answered, told once more.
#[actix::test]
async fn every_pod_that_goes_down_is_sealed() {
    let mut world = World::start().await;
    let mut sent = pod("web", "edge-1");
    sent["metadata"]["annotations"] = json!({SEAL_ANNOTATION: "a user's", "note": "kept"});
    let made = world.call("POST", PODS, sent).await;
    let inserted = loop {
        let (what, envelope) = world.next().await;
        if what == "insert default/pod/web to edge-1" {
            break envelope;
        }
    };
    let Body::Object(told) = &inserted.body else { panic!("{inserted:?}") };
    holds(&world, "edge-1", told);
    assert_eq!(told["metadata"]["annotations"]["note"], "kept");
    assert_eq!((&told["spec"], &told["metadata"]["uid"]), (&made["spec"], &made["metadata"]["uid"]));
    let kept = world.call("GET", &format!("{PODS}/web"), json!({})).await;
    assert_eq!(kept["metadata"]["annotations"][SEAL_ANNOTATION], "a user's", "the API knows nothing of it");

    let uid = made["metadata"]["uid"].as_str().unwrap();
    let patch = json!({"metadata": {"uid": uid}, "status": {"phase": "Running"}}).to_string();
    let answer = world.ask("edge-1", "patch", "default/podpatch/web", Body::Text(patch)).await;
    let Body::ObjectResp(both) = &answer.body else { panic!("{answer:?}") };
    holds(&world, "edge-1", both.object.as_ref().unwrap());

    let asked = SendDifferences {
        node: node("edge-1"),
        missing: vec![Resource::parse("default/pod/web")],
        changed: vec![],
        surplus: vec![],
        answer: None,
    };
    world.differences.ask(asked, ASK).await.unwrap().unwrap();
    world.reseal.ask(Reseal, ASK).await.unwrap();
    for want in ["insert default/pod/web to edge-1", "update default/pod/web to edge-1"] {
        let (what, envelope) = world.next().await;
        assert_eq!(what, want);
        let Body::Object(told) = &envelope.body else { panic!("{envelope:?}") };
        holds(&world, "edge-1", told);
    }
}

/// While the root is replaced every comparison brings the node's pods once more, under the new one.
#[actix::test]
async fn pods_are_sealed_again_while_the_root_is_replaced() {
    let mut world = World::start().await;
    world.call("POST", PODS, pod("web", "edge-1")).await;
    world.call("POST", PODS, pod("other", "edge-2")).await;
    while world.next().await.0 != "insert default/pod/other to edge-2" {}
    let compared = || SendDifferences {
        node: node("edge-1"),
        missing: vec![],
        changed: vec![],
        surplus: vec![],
        answer: Some(Envelope::new("e", "resource", "response", Resource::parse("null"), Body::Null, 1)),
    };
    world.differences.ask(compared(), ASK).await.unwrap().unwrap();
    assert_eq!(world.next().await.0, "response null to edge-1", "nothing differs");
    let now = SystemTime::now();
    Rotation::new(&world.settings).unwrap().prepare(now).unwrap();
    Rotation::new(&world.settings).unwrap().activate(now).unwrap();
    world.ca.reload(now).unwrap();
    world.differences.ask(compared(), ASK).await.unwrap().unwrap();
    let (what, envelope) = world.next().await;
    assert_eq!(what, "update default/pod/web to edge-1");
    let Body::Object(told) = &envelope.body else { panic!("{envelope:?}") };
    let mut new_root_only = world.ca.bundle();
    new_root_only.roots.truncate(1);
    let seal = told["metadata"]["annotations"][SEAL_ANNOTATION].as_str().unwrap();
    seal::verify(seal, "pod", &node("edge-1"), &seal::pod_payload(told), &new_root_only).unwrap();
    assert_eq!(world.next().await.0, "response null to edge-1");
}
