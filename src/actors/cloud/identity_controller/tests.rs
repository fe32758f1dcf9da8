//! IdentityController on the embedded Kubernetes API.

use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::apiserver::{ApiCore, ApiSettings};
use crate::bus::cloud_hub::EndReason;
use crate::identity::{CaSettings, ClientAuth, NodeRequest, Rotation, ServiceAccountKeys, seal};
use crate::model::{Body, Envelope, Resource, unix_secs};
use crate::store::MemoryStore;
use crate::supervise::{MAIN_THREAD, Policy, Running, Tree, TreeHandle, TreeSettings};

const ASK: Duration = Duration::from_secs(20);
const KINDS_AT: &str = "/apis/identity.kubeedge.io/v1alpha1/namespaces/default";
const MAPS: &str = "/api/v1/namespaces/kubeedge/configmaps";

/// The API and the authorities: what outlives a cloudcore.
struct Ground {
    core: Arc<ApiCore>,
    ca: Arc<Ca>,
    settings: CaSettings,
    _folder: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = ServiceAccountKeys::load_or_create(&folder.path().join("sa.key")).unwrap();
        let core = ApiCore::start(ApiSettings {
            store: Arc::new(MemoryStore::new()),
            keys: Arc::new(keys),
            ca_pem: "CA".to_owned(),
            clock: Arc::new(jiff::Timestamp::now),
        })
        .unwrap();
        let settings = CaSettings::new(&folder.path().join("ca.crt"), &folder.path().join("ca.key"));
        let ca = Arc::new(Ca::open(settings.clone(), SystemTime::now()).unwrap());
        Self { core, ca, settings, _folder: folder }
    }

    async fn try_call(&self, method: &str, path: &str, body: Value) -> Result<Value, ::kube::Error> {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = http::Request::builder().method(method).uri(path).header("Content-Type", kind);
        self.core.client().request(request.body(body.to_string().into_bytes()).unwrap()).await
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> Value {
        self.try_call(method, path, body).await.unwrap()
    }

    /// The ConfigMap, when it satisfies.
    async fn map(&self, name: &str, is_right: impl Fn(&Value) -> bool) -> Value {
        let wait = async {
            loop {
                match self.try_call("GET", &format!("{MAPS}/{name}"), json!({})).await {
                    Ok(map) if is_right(&map) => return map,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(ASK, wait).await.expect(name)
    }

    /// The first event with this reason.
    async fn event(&self, reason: &str) -> Value {
        let wait = async {
            loop {
                let events = self.call("GET", "/api/v1/events", json!({})).await;
                let mut all = events["items"].as_array().into_iter().flatten();
                if let Some(event) = all.find(|event| event["reason"] == reason) {
                    return event.clone();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(ASK, wait).await.expect(reason)
    }

    async fn register(&self, name: &str, path: &str) {
        let spec = json!({"path": path, "selectors": {"serviceAccount": "robot"}});
        let object = json!({"apiVersion": "identity.kubeedge.io/v1alpha1", "kind": "WorkloadIdentity",
            "metadata": {"name": name}, "spec": spec});
        self.call("POST", &format!("{KINDS_AT}/workloadidentities"), object).await;
    }
}

/// One life of the actor.
struct World {
    down: mpsc::Receiver<(NodeName, Envelope)>,
    closed: mpsc::Receiver<CloseNode>,
    facts: mpsc::Receiver<AuditFact>,
    reseals: mpsc::Receiver<Reseal>,
    connected: Arc<Mutex<Vec<NodeName>>>,
    keys: Link<NodeKeyChanged>,
    clones: Link<NodeCloned>,
    desired: Link<ListDesired>,
    differences: Link<SendDifferences>,
    outlets: Outlets,
    readiness: Readiness,
    tree: TreeHandle,
    running: Running,
}

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

impl World {
    async fn start(ground: &Ground) -> Self {
        Self::start_with(ground, ClonedNodes::Revoke, vec![]).await
    }

    async fn start_with(
        ground: &Ground,
        cloned_nodes: ClonedNodes,
        served: Vec<Arc<CloudServerTls>>,
    ) -> Self {
        let world = Self::begin(ground, cloned_nodes, served);
        world.version().await;
        world
    }

    fn begin(ground: &Ground, cloned_nodes: ClonedNodes, served: Vec<Arc<CloudServerTls>>) -> Self {
        let (send, down) = mpsc::channel(10_000);
        let (close, closed) = mpsc::channel(100);
        let (fact, facts) = mpsc::channel(100);
        let (seal_again, reseals) = mpsc::channel(100);
        let connected = Arc::new(Mutex::new(vec![node("edge-1")]));
        let known = Arc::clone(&connected);
        let (outlets, readiness) = (Outlets::new(&ground.ca), Readiness::default());
        let parts = IdentityControllerParts {
            client: ground.core.client(),
            sole: false,
            readiness: readiness.clone(),
            ca: Arc::clone(&ground.ca),
            cloned_nodes,
            served,
            look_every: Duration::from_millis(20),
            published: outlets.clone(),
            send_down: Link::from_fn(move |batch: SendDown| {
                for (node, message) in batch.messages {
                    send.try_send((node, message.envelope())).unwrap();
                }
            }),
            close_node: Link::from_fn(move |message| close.try_send(message).unwrap()),
            identity_nodes: Link::from_fn(move |_: IdentityNodes| known.lock().unwrap().clone()),
            reseal: Link::from_fn(move |message| seal_again.try_send(message).unwrap()),
            audit: Link::from_fn(move |message| fact.try_send(message).unwrap()),
        };
        let mut tree = Tree::new("test", TreeSettings::default());
        let slot = tree.slot::<IdentityController>(NAME, 1_000);
        let (keys, clones, desired, differences) = (slot.link(), slot.link(), slot.link(), slot.link());
        let quick = Policy { backoff_base: Duration::from_millis(1), ..Policy::default() };
        tree.add(slot, MAIN_THREAD, quick, move || IdentityController::new(parts));
        let (handle, running) = (tree.handle(), tree.start().unwrap());
        Self {
            down,
            closed,
            facts,
            reseals,
            connected,
            keys,
            clones,
            desired,
            differences,
            outlets,
            readiness,
            tree: handle,
            running,
        }
    }

    /// Who is revoked, once that was told.
    fn revoked(&self) -> Arc<BTreeMap<NodeName, Revocation>> {
        self.outlets.revocations().borrow().clone().expect("told")
    }

    /// The version that edge-1 should have, once there is one.
    async fn version(&self) -> u64 {
        let ready = async {
            loop {
                match self.desired.ask(ListDesired { node: node("edge-1") }, ASK).await {
                    Ok(Ok(list)) => return list,
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        let list = tokio::time::timeout(ASK, ready).await.unwrap();
        assert_eq!(list.len(), 1);
        assert_eq!(list[0].resource, Resource::parse("kubeedge/edgeidentity/edge-1"));
        list[0].resource_version.parse().unwrap()
    }

    /// The next document for edge-1 that satisfies, checked as the node checks it.
    async fn told(&mut self, ground: &Ground, is_right: impl Fn(&Value) -> bool) -> Value {
        loop {
            let (to, envelope) = tokio::time::timeout(ASK, self.down.recv()).await.unwrap().unwrap();
            assert_eq!(
                (to.as_str(), envelope.route.resource.to_string().as_str()),
                ("edge-1", "kubeedge/edgeidentity/edge-1")
            );
            assert_eq!(envelope.header.resource_version.as_deref(), envelope.body.meta("resourceVersion"));
            let Body::Object(object) = envelope.body else { panic!("{:?}", envelope.body) };
            let (text, payload) = (object["seal"].as_str().unwrap(), seal::canonical(&object["spec"]));
            seal::verify(text, "edgeidentity", &to, &payload, &ground.ca.bundle()).expect("the seal holds");
            if is_right(&object["spec"]) {
                return object;
            }
        }
    }

    async fn fact(&mut self, is_right: impl Fn(&AuditFact) -> bool) -> AuditFact {
        loop {
            let fact = tokio::time::timeout(ASK, self.facts.recv()).await.unwrap().unwrap();
            if is_right(&fact) {
                return fact;
            }
        }
    }

    async fn closed(&mut self) -> (String, EndReason) {
        let closed = tokio::time::timeout(ASK, self.closed.recv()).await.unwrap().unwrap();
        (closed.node.unwrap().to_string(), closed.reason)
    }
}

fn key_of(name: &str) -> (NodeKeyChanged, Value) {
    let key = NodeRequest::new(&node(name)).unwrap().0.jwt_key;
    let end = unix_secs(SystemTime::now()) + 3_600;
    let told = NodeKeyChanged {
        node: node(name),
        jwt_key: key.clone(),
        expires_at: end,
        svid_serial: "0b".into(),
        svid_expires_at: end,
        node_ca_expires_at: end,
    };
    (told, key)
}

#[actix::test]
async fn what_is_applied_reaches_the_nodes_sealed() {
    let ground = Ground::new();
    let mut world = World::start(&ground).await;
    let before = world.version().await;
    ground.register("press", "/ns/default/press").await;
    let policy =
        json!({"kind": "ImagePolicy", "metadata": {"name": "p"}, "spec": {"allow": [{"registry": "r"}]}});
    ground.call("POST", &format!("{KINDS_AT}/imagepolicies"), policy).await;
    let told = world.told(&ground, |spec| spec["imagePolicies"][0]["allow"][0]["registry"] == "r").await;
    let spec = &told["spec"];
    assert_eq!(spec["registrations"][0]["path"], "/ns/default/press");
    assert_eq!(spec["registrations"][0]["selectors"]["serviceAccount"], "robot");
    assert_eq!(spec["imagePolicies"][0]["mode"], "enforce");
    assert_eq!(spec["bundle"]["trustDomain"], "kubeedge.local");
    let version: u64 = told["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(version > before);
    assert_eq!(world.version().await, version, "a comparison says the same");

    ground.call("DELETE", &format!("{KINDS_AT}/workloadidentities/press"), json!({})).await;
    let told = world.told(&ground, |spec| spec["registrations"] == json!([])).await;
    let after: u64 = told["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(after > version, "a delete raises it too");

    let bundle = ground.map("trust-bundle", |_| true).await;
    let document: Value = serde_json::from_str(bundle["data"]["bundle.json"].as_str().unwrap()).unwrap();
    assert_eq!(document["roots"], told["spec"]["bundle"]["roots"]);
    assert_eq!(bundle["data"]["roots.pem"], ground.ca.cert_pem());
    assert!(bundle["data"]["spiffe-bundle.json"].as_str().unwrap().contains("x509-svid"));
}

/// KubeEdge's edges do not know the kind: only who has the extension is told.
#[actix::test]
async fn only_nodes_with_the_extension_are_told() {
    let ground = Ground::new();
    let mut world = World::start(&ground).await;
    *world.connected.lock().unwrap() = vec![];
    ground.register("press", "/ns/default/press").await;
    let written =
        |map: &Value| map["data"]["spec"].as_str().is_some_and(|spec| spec.contains("/ns/default/press"));
    ground.map("edge-identity", written).await;
    *world.connected.lock().unwrap() = vec![node("edge-1")];
    ground.register("arm", "/ns/default/arm").await;
    let told = world.told(&ground, |spec| spec["registrations"].as_array().unwrap().len() == 2).await;
    assert_eq!(told["spec"]["registrations"][0]["name"], "arm");
}

/// Everything is in the API: a new cloudcore says the same in the same version, and what changed while
/// there was none raises it.
#[actix::test]
async fn a_restart_changes_nothing_that_did_not_change() {
    let ground = Ground::new();
    let mut first = World::start(&ground).await;
    ground.register("press", "/ns/default/press").await;
    ground.register("arm", "/ns/default/arm").await;
    let (told, key) = key_of("edge-1");
    first.keys.ask(told, ASK).await.unwrap();
    first
        .told(&ground, |spec| {
            spec["registrations"].as_array().unwrap().len() == 2 && spec["bundle"]["jwtKeys"] == json!([key])
        })
        .await;
    let version = first.version().await;
    drop(first);

    let second = World::start(&ground).await;
    assert_eq!(second.version().await, version);
    let bundle = second.outlets.bundle().borrow().clone();
    assert_eq!(bundle.jwt_keys, [key], "keys outlive it too");
    drop(second);

    // The newest object goes while nobody looks: the newest version left in the lists is older.
    ground.call("DELETE", &format!("{KINDS_AT}/workloadidentities/arm"), json!({})).await;
    let mut third = World::start(&ground).await;
    let told = third.told(&ground, |spec| spec["registrations"].as_array().unwrap().len() == 1).await;
    let after: u64 = told["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(after > version, "{after} {version}");
}

#[actix::test]
async fn after_a_panic_nodes_are_told_again() {
    let ground = Ground::new();
    let mut world = World::start(&ground).await;
    ground.register("press", "/ns/default/press").await;
    world.told(&ground, |spec| spec["registrations"][0]["name"] == "press").await;
    world.tree.inject_panic(NAME).unwrap();
    world.told(&ground, |spec| spec["registrations"][0]["name"] == "press").await;
}

/// Nobody but cloudcore decides what nodes are told.
#[actix::test]
async fn a_changed_config_map_is_put_right() {
    let ground = Ground::new();
    let mut world = World::start(&ground).await;
    ground.register("press", "/ns/default/press").await;
    world.told(&ground, |spec| spec["registrations"][0]["name"] == "press").await;
    let honest = ground.map("edge-identity", |_| true).await["data"].clone();
    let forged = json!({"data": {"spec": "{\"registrations\":[]}"}});
    ground.call("PATCH", &format!("{MAPS}/edge-identity"), forged).await;
    ground.map("edge-identity", |map| map["data"] == honest).await;
    let roots = ground.map("trust-bundle", |_| true).await["data"].clone();
    ground.call("PATCH", &format!("{MAPS}/trust-bundle"), json!({"data": {"roots.pem": "forged"}})).await;
    ground.map("trust-bundle", |map| map["data"] == roots).await;
    ground.call("DELETE", &format!("{MAPS}/edge-identity"), json!({})).await;
    ground.map("edge-identity", |map| map["data"] == honest).await;
    ground.register("arm", "/ns/default/arm").await;
    let told = world.told(&ground, |spec| spec["registrations"] != json!([])).await;
    assert_eq!(told["spec"]["registrations"].as_array().unwrap().len(), 2, "the forged one went nowhere");
}

#[actix::test]
async fn a_comparison_brings_what_is_missing() {
    let ground = Ground::new();
    let mut world = World::start(&ground).await;
    world.told(&ground, |_| true).await;
    let own = Resource::parse("kubeedge/edgeidentity/edge-1");
    let old = crate::bus::edge_controller::ObjectVersion {
        resource: Resource::parse("kubeedge/edgeidentity/edge-9"),
        uid: "u-9".into(),
        resource_version: "1".into(),
    };
    let asked = SendDifferences {
        node: node("edge-1"),
        missing: vec![own, Resource::parse("kubeedge/edgeidentity/edge-9")],
        changed: vec![],
        surplus: vec![old],
        answer: None,
    };
    world.differences.ask(asked, ASK).await.unwrap().unwrap();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let (_, envelope) = tokio::time::timeout(ASK, world.down.recv()).await.unwrap().unwrap();
        seen.push(format!("{} {}", envelope.route.operation, envelope.route.resource));
    }
    assert_eq!(seen, ["delete kubeedge/edgeidentity/edge-9", "insert kubeedge/edgeidentity/edge-1"]);
}

#[actix::test]
async fn a_renewal_is_remembered_and_its_key_published() {
    let ground = Ground::new();
    let mut world = World::start(&ground).await;
    let (told, key) = key_of("edge-7");
    world.keys.ask(told.clone(), ASK).await.unwrap();
    let document = world.told(&ground, |spec| spec["bundle"]["jwtKeys"] == json!([key])).await;
    assert_eq!(world.outlets.bundle().borrow().jwt_keys, [key]);
    assert!(document["spec"]["bundle"]["jwtKeys"][0].get("d").is_none());
    let known = ground.map("node-identities", |map| map["data"]["edge-7"].is_string()).await;
    let known: Value = serde_json::from_str(known["data"]["edge-7"].as_str().unwrap()).unwrap();
    assert_eq!((&known["serial"], &known["svidExpiresAt"]), (&"0b".into(), &told.svid_expires_at.into()));
}

/// As `keadm node revoke` does it.
#[actix::test]
async fn a_revoked_node_is_cut_off_at_once() {
    let ground = Ground::new();
    let mut world = World::start(&ground).await;
    let (told, key) = key_of("edge-7");
    world.keys.ask(told, ASK).await.unwrap();
    world.told(&ground, |spec| spec["bundle"]["jwtKeys"] == json!([key])).await;
    let entry = json!({"at": 5, "reason": "stolen"}).to_string();
    let map = json!({"metadata": {"name": "node-revocations"}, "data": {"edge-7": entry}});
    ground.call("POST", MAPS, map).await;
    assert_eq!(world.closed().await, ("edge-7".to_owned(), EndReason::Revoked));
    let revoked = world.revoked();
    assert_eq!(revoked[&node("edge-7")].reason, "stolen");
    let fact = world.fact(|fact| fact.action == AuditAction::Revoke).await;
    assert_eq!((&*fact.subject, fact.allowed, &*fact.reason), ("edge-7", false, "stolen"));
    assert_eq!(fact.details["seen"], "now");
    world.told(&ground, |spec| spec["bundle"]["jwtKeys"] == json!([])).await;
    ground.map("jwt-keys", |map| map["data"]["edge-7"].is_null()).await;
    drop(world);

    let mut next = World::start(&ground).await;
    assert_eq!(next.closed().await.0, "edge-7", "remembered");
    assert!(next.revoked().contains_key(&node("edge-7")));
    assert_eq!(next.fact(|fact| fact.action == AuditAction::Revoke).await.details["seen"], "at start");
    let again = json!({"data": {"edge-7": json!({"at": 5, "reason": "stolen", "allowedAt": 9}).to_string()}});
    ground.call("PATCH", &format!("{MAPS}/node-revocations"), again).await;
    assert!(next.fact(|fact| fact.action == AuditAction::Revoke).await.allowed);
    assert_eq!(next.revoked()[&node("edge-7")].allowed_at, Some(9));
}

#[actix::test]
async fn a_clone_is_cut_off_by_rule() {
    let ground = Ground::new();
    let mut world = World::start(&ground).await;
    let cloned =
        NodeCloned { node: node("edge-1"), addresses: ["10.0.0.1:5".to_owned(), "10.0.0.2:6".to_owned()] };
    world.clones.ask(cloned.clone(), ASK).await.unwrap();
    assert_eq!(world.closed().await, ("edge-1".to_owned(), EndReason::Revoked));
    let revoked = world.revoked()[&node("edge-1")].clone();
    for word in ["10.0.0.1:5", "10.0.0.2:6", "two machines"] {
        assert!(revoked.reason.contains(word), "{}", revoked.reason);
    }
    let event = ground.event("NodeCloned").await;
    assert_eq!(event["involvedObject"]["name"], "edge-1");
    let fact = world.fact(|fact| fact.details.contains_key("rule")).await;
    assert_eq!((fact.allowed, &*fact.details["rule"]), (false, "revoke"));
}

#[actix::test]
async fn a_clone_is_only_told_where_the_rule_is_to_warn() {
    let ground = Ground::new();
    let mut world = World::start_with(&ground, ClonedNodes::Warn, vec![]).await;
    let addresses = ["10.0.0.1:5".to_owned(), "10.0.0.2:6".to_owned()];
    world.clones.ask(NodeCloned { node: node("edge-1"), addresses }, ASK).await.unwrap();
    ground.event("NodeCloned").await;
    let fact = world.fact(|fact| fact.details.contains_key("rule")).await;
    assert_eq!((fact.allowed, &*fact.details["rule"]), (true, "warn"));
    assert!(world.revoked().is_empty() && world.closed.try_recv().is_err());
}

/// Too much is not sent, and the user learns of it; what is less then is sent again.
#[actix::test]
async fn a_document_beyond_its_bound_changes_nothing() {
    let ground = Ground::new();
    let mut world = World::start(&ground).await;
    ground.register("small", "/ns/default/small").await;
    world.told(&ground, |spec| spec["registrations"][0]["name"] == "small").await;
    let dns: Vec<String> =
        (0..16).map(|n| format!("{}.{n}", ["a".repeat(60).as_str(); 4].join("."))).collect();
    for n in 0..260 {
        let object = json!({"kind": "WorkloadIdentity", "metadata": {"name": format!("big-{n}")}, "spec": {
            "path": format!("/ns/default/big-{n}"), "selectors": {"uid": n}, "dnsNames": dns}});
        ground.call("POST", &format!("{KINDS_AT}/workloadidentities"), object).await;
    }
    let event = ground.event("TooLong").await;
    assert!(event["message"].as_str().unwrap().contains("nodes keep the last that fitted"), "{event}");
    let kept = ground.map("edge-identity", |_| true).await;
    let bytes = kept["data"]["spec"].as_str().unwrap().len();
    assert!(bytes <= document::MAX_SPEC, "{bytes}");
    ground.call("DELETE", &format!("{KINDS_AT}/workloadidentities"), json!({})).await;
    world.told(&ground, |spec| spec["registrations"] == json!([])).await;
}

/// `keadm ca prepare` and `activate` on the files: nodes trust both, listeners show certificates of
/// the new one, what was sealed is sealed again.
#[actix::test]
async fn a_new_root_is_published_served_and_sealed_with() {
    let ground = Ground::new();
    let (names, day) = (["localhost".to_owned()], Duration::from_secs(86_400));
    let listener =
        CloudServerTls::issued(Arc::clone(&ground.ca), "KubeEdge", &names, day, ClientAuth::Optional);
    let listener = Arc::new(listener.unwrap());
    let mut world = World::start_with(&ground, ClonedNodes::Revoke, vec![Arc::clone(&listener)]).await;
    let told = world.told(&ground, |_| true).await;
    let old = told["spec"]["bundle"]["roots"][0].clone();
    let before = listener.generation();
    Rotation::new(&ground.settings).unwrap().prepare(SystemTime::now()).unwrap();
    let told = world.told(&ground, |spec| spec["bundle"]["roots"].as_array().unwrap().len() == 2).await;
    assert_eq!(told["spec"]["bundle"]["roots"][0], old, "trusted, not used yet");
    assert!(world.reseals.try_recv().is_err());
    Rotation::new(&ground.settings).unwrap().activate(SystemTime::now()).unwrap();
    world.told(&ground, |spec| spec["bundle"]["roots"][1] == old).await;
    tokio::time::timeout(ASK, world.reseals.recv()).await.unwrap().unwrap();
    let served = async {
        while listener.generation() <= before || listener.generation() < ground.ca.generation() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(ASK, served).await.expect("the listener follows");
    let pem = ground.map("trust-bundle", |map| {
        map["data"]["roots.pem"].as_str().is_some_and(|pem| pem.starts_with(&ground.ca.cert_pem()))
    });
    assert_eq!(pem.await["data"]["roots.pem"].as_str().unwrap().matches("BEGIN").count(), 2);
    let fact = world.fact(|fact| fact.subject == "trust bundle").await;
    assert_eq!(fact.action, AuditAction::Authority);
}

#[actix::test]
async fn a_cloudcore_with_another_root_says_so_and_replaces_nothing() {
    let (ground, mut stranger) = (Ground::new(), Ground::new());
    stranger.core = Arc::clone(&ground.core);
    let first = World::start(&ground).await;
    let bundle = ground.map("trust-bundle", |_| true).await;
    let document = ground.map("edge-identity", |_| true).await;

    let second = World::begin(&stranger, ClonedNodes::Revoke, vec![]);
    let not_ready = async {
        while second.readiness.report().ready {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(ASK, not_ready).await.expect("it says that it is not ready");
    assert!(ground.event("OtherRoots").await["message"].as_str().unwrap().contains("delete the ConfigMap"));
    let asked = second.desired.ask(ListDesired { node: node("edge-1") }, ASK).await.unwrap();
    assert!(asked.is_err(), "it tells nodes nothing: {asked:?}");
    ground.register("press", "/ns/default/press").await;
    ground.map("edge-identity", |map| map["data"]["spec"].as_str().unwrap().contains("press")).await;
    assert_eq!(ground.map("trust-bundle", |_| true).await["metadata"], bundle["metadata"], "written once");
    assert!(first.readiness.report().ready);
    assert!(document["data"]["spec"].as_str().unwrap().contains(&ground.ca.bundle().to_document().roots[0]));

    // The first one is given up: the operator says so.
    first.tree.shut_down();
    first.running.wait_for_end().await;
    ground.call("DELETE", &format!("{MAPS}/trust-bundle"), json!({})).await;
    ground.map("trust-bundle", |map| map["data"]["roots.pem"] == stranger.ca.cert_pem()).await;
    second.version().await;
    assert!(second.readiness.report().ready);
}
