//! An Identity actor with an authority of its own, callers by decree, and a log of what it tells.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Value, json};
use spiffe::WorkloadApiClient;
use tokio::sync::watch;

use crate::actors::edge::identity::{
    Attestor, Identity, IdentityLinks, IdentitySettings, Peer, Refusal, Workload,
};
use crate::bus::Link;
use crate::bus::identity::{AuditFact, EdgeIdentityChanged, RootsChanged};
use crate::bus::meta::GetObject;
use crate::identity::test_authority::{Authority, TRUST_DOMAIN};
use crate::identity::{NodeCredentials, seal};
use crate::model::NodeName;
use crate::model::identity::{BundleDocument, EDGE_IDENTITY_KIND, EdgeIdentitySpec, Registration, Selectors};
use crate::telemetry::workload::WorkloadMetrics;

pub const NODE: &str = "edge-1";
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Every caller is who the test says.
pub struct Stage(Mutex<Result<Workload, Refusal>>);

impl Attestor for Stage {
    fn attest<'a>(
        &'a self,
        _: &'a Arc<Peer>,
        _: &'a [Registration],
    ) -> BoxFuture<'a, Result<Workload, Refusal>> {
        let now = self.0.lock().clone();
        Box::pin(async { now })
    }
}

pub struct World {
    pub authority: Authority,
    pub bundle: BundleDocument,
    pub credentials: watch::Sender<Option<Arc<NodeCredentials>>>,
    pub policies: watch::Receiver<Option<Arc<EdgeIdentitySpec>>>,
    pub facts: Arc<Mutex<Vec<AuditFact>>>,
    pub roots: Arc<Mutex<Vec<BundleDocument>>>,
    pub socket: PathBuf,
    pub actor: Addr<Identity>,
    stage: Arc<Stage>,
    _dir: tempfile::TempDir,
}

pub fn caller() -> Workload {
    Workload {
        namespace: "shop".into(),
        pod: "till-1".into(),
        pod_uid: "u-1".into(),
        service_account: "till".into(),
        container: "main".into(),
        ..Workload::default()
    }
}

pub fn registration(path: &str) -> Registration {
    Registration {
        namespace: "shop".into(),
        name: "r".into(),
        path: path.into(),
        selectors: Selectors { container: Some("main".into()), ..Selectors::default() },
        ..Registration::default()
    }
}

impl World {
    /// Serves on a node that has joined. `x509_ttl` is the life of certificates.
    pub async fn start(x509_ttl: Duration) -> Self {
        Self::start_with(x509_ttl, None, true).await
    }

    pub async fn start_with(x509_ttl: Duration, stored: Option<Value>, joined: bool) -> Self {
        let authority = Authority::new();
        let (credentials, bundle) = authority.credentials(NODE);
        let credentials = watch::Sender::new(joined.then(|| Arc::new(credentials)));
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("run/spiffe.sock");
        let stage = Arc::new(Stage(Mutex::new(Ok(caller()))));
        let (facts, roots) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let (told, heard) = (Arc::clone(&facts), Arc::clone(&roots));
        let stored = stored.map(Arc::new);
        let links = IdentityLinks {
            get_object: Link::from_fn(move |GetObject(key)| {
                assert_eq!(key.to_string(), "kubeedge/edgeidentity/edge-1");
                Ok(stored.clone())
            }),
            roots_changed: Link::from_fn(move |RootsChanged(bundle)| heard.lock().push(bundle)),
            audit: Link::from_fn(move |fact| told.lock().push(fact)),
        };
        let settings = IdentitySettings {
            node: NodeName::parse(NODE).unwrap(),
            socket: Some(socket.clone()),
            x509_ttl,
            jwt_ttl: Duration::from_secs(300),
            newest_file: None,
        };
        let publish = watch::Sender::new(None);
        let policies = publish.subscribe();
        let attestor = Arc::clone(&stage) as Arc<dyn Attestor>;
        let identity = Identity::new(
            settings,
            links,
            credentials.subscribe(),
            publish,
            attestor,
            WorkloadMetrics::new(),
        );
        let actor = identity.start();
        let world =
            Self { authority, bundle, credentials, policies, facts, roots, socket, actor, stage, _dir: dir };
        world.eventually("the socket is there", || world.socket.exists()).await;
        world
    }

    pub fn endpoint(&self) -> String {
        format!("unix:{}", self.socket.display())
    }

    pub async fn client(&self) -> WorkloadApiClient {
        WorkloadApiClient::connect_to(self.endpoint()).await.unwrap()
    }

    /// From now on callers are this.
    pub fn callers_are(&self, who: Result<Workload, Refusal>) {
        *self.stage.0.lock() = who;
    }

    /// The document as cloudcore seals it.
    pub fn document(&self, spec: &EdgeIdentitySpec, version: &str) -> Value {
        let (chain, key) = self.authority.cloudcore();
        let spec = serde_json::to_value(spec).unwrap();
        let node = NodeName::parse(NODE).unwrap();
        let signer = key.signer().unwrap();
        let now = self.authority.now + Duration::from_secs(version.parse().unwrap());
        let seal =
            seal::sign(&signer, &chain, EDGE_IDENTITY_KIND, &node, &seal::canonical(&spec), now).unwrap();
        json!({
            "apiVersion": "identity.kubeedge.io/v1alpha1",
            "kind": "EdgeIdentity",
            "metadata": {"namespace": "kubeedge", "name": NODE, "uid": "i", "resourceVersion": version},
            "spec": spec,
            "seal": seal,
        })
    }

    pub fn spec(&self, registrations: &[Registration]) -> EdgeIdentitySpec {
        EdgeIdentitySpec {
            bundle: self.bundle.clone(),
            registrations: registrations.to_vec(),
            ..EdgeIdentitySpec::default()
        }
    }

    pub async fn tell(&self, document: Value) {
        self.actor.send(EdgeIdentityChanged(Some(Arc::new(document)))).await.unwrap();
    }

    /// Puts registrations in force.
    pub async fn register(&self, registrations: &[Registration], version: &str) {
        self.tell(self.document(&self.spec(registrations), version)).await;
        let count = registrations.len();
        let in_force =
            || self.policies.borrow().as_ref().is_some_and(|spec| spec.registrations.len() == count);
        self.eventually("registrations are in force", in_force).await;
    }

    pub async fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        eventually(what, holds).await;
    }

    pub fn facts(&self, subject: &str) -> usize {
        self.facts.lock().iter().filter(|fact| fact.subject.contains(subject)).count()
    }
}

pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}: it never came");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// `work`, or a failed test when it hangs.
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: it never came"),
    }
}

pub fn spiffe_id(path: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}{path}")
}

pub fn base64(der: &[u8]) -> String {
    STANDARD.encode(der)
}
