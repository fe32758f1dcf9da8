//! From a connected process to a workload: kernel, container runtime, MetaManager.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::peer_worker::{Binary, Hashes, Peer, Place, Unproven};
use super::refusal::Refusal;
use super::workload::{Wanted, Workload, digests};
use crate::bus::Link;
use crate::bus::identity::Credentials;
use crate::bus::meta::GetObject;
use crate::cri::runtime::{CriErrorKind, Runtime};
use crate::identity::{TrustBundle, seal};
use crate::model::identity::{Registration, SEAL_ANNOTATION};
use crate::model::{NodeName, ObjectKey};

/// The kubelet's labels on containers; edged sets them too.
const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD_UID: &str = "io.kubernetes.pod.uid";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// What pods get that name no account.
const DEFAULT_ACCOUNT: &str = "default";
/// Containers that are remembered: what the runtime says of one never changes.
const MAX_CONTAINERS: usize = 1_024;
/// What the cloud seals pods as.
const SEALED_KIND: &str = "pod";
const META_DEADLINE: Duration = Duration::from_secs(5);

/// Finds out who a caller is. Asked for every call, and again before each update of a stream.
pub trait Attestor: Send + Sync + 'static {
    /// The workload of a connected process; of what registrations ask for only what those of its
    /// namespace do.
    fn attest<'a>(
        &'a self,
        peer: &'a Arc<Peer>,
        registrations: &'a [Registration],
    ) -> BoxFuture<'a, Result<Workload, Refusal>>;
}

/// Attests processes of this node's pods.
pub struct NodeAttestor {
    runtime: Arc<dyn Runtime>,
    get_object: Link<GetObject>,
    seals: Option<Seals>,
    containers: Mutex<HashMap<String, Arc<ContainerFacts>>>,
    hashes: Arc<Hashes>,
}

/// Believes what a pod says of itself only under the cloud's seal.
pub struct Seals {
    pub node: NodeName,
    pub credentials: Credentials,
}

impl Seals {
    /// Blocking for a millisecond: signatures.
    fn check(&self, pod: &Value) -> Result<(), Refusal> {
        let credentials = self.credentials.borrow().clone();
        let credentials =
            credentials.ok_or_else(|| Refusal::Unavailable("this node has not joined yet".to_owned()))?;
        let roots = TrustBundle::from_pem(&credentials.trust_domain, &credentials.roots_pem)
            .map_err(|err| Refusal::Unavailable(err.to_string()))?;
        let annotations = pod.pointer("/metadata/annotations");
        let seal = annotations.and_then(|all| all.get(SEAL_ANNOTATION)).and_then(Value::as_str);
        let unsealed = || Refusal::Unknown("the caller's pod has no seal of the cloud".to_owned());
        seal::verify(seal.ok_or_else(unsealed)?, SEALED_KIND, &self.node, &seal::pod_payload(pod), &roots)
            .map(drop)
            .map_err(|err| Refusal::Unknown(format!("the caller's pod: {err}")))
    }
}

/// What the runtime says of a container.
struct ContainerFacts {
    namespace: String,
    pod: String,
    pod_uid: String,
    name: String,
    image: String,
    digests: BTreeSet<String>,
    /// All digests of its image, once somebody asked.
    images: OnceCell<BTreeSet<String>>,
}

impl NodeAttestor {
    /// Without `seals` what MetaManager has of a pod is believed as it is.
    #[must_use]
    pub fn new(runtime: Arc<dyn Runtime>, get_object: Link<GetObject>, seals: Option<Seals>) -> Self {
        Self { runtime, get_object, seals, containers: Mutex::default(), hashes: Arc::default() }
    }

    async fn workload(&self, peer: &Arc<Peer>, registrations: &[Registration]) -> Result<Workload, Refusal> {
        let asked = Arc::clone(peer);
        let place = blocking(move || asked.place()).await?;
        let container = self.container(&place).await?;
        let (service_account, labels) = self.pod(&container).await?;
        let wanted = Wanted::by(&container.namespace, registrations);
        let images = if wanted.images { self.images(&container).await? } else { BTreeSet::new() };
        let binary = self.binary(peer, &place, wanted).await?;
        Ok(Workload {
            namespace: container.namespace.clone(),
            pod: container.pod.clone(),
            pod_uid: container.pod_uid.clone(),
            service_account,
            labels,
            container: container.name.clone(),
            container_id: place.container.container_id,
            images,
            uid: place.uid,
            path: binary.path,
            sha256: binary.sha256,
        })
    }

    /// The last word: what was found out is about a process that is still there and still the same.
    async fn binary(&self, peer: &Arc<Peer>, place: &Place, wanted: Wanted) -> Result<Binary, Refusal> {
        let (peer, place, hashes) = (Arc::clone(peer), place.clone(), Arc::clone(&self.hashes));
        blocking(move || {
            let binary = match wanted {
                Wanted { path: false, sha256: false, .. } => Binary::default(),
                Wanted { sha256, .. } => peer.binary(sha256, &hashes)?,
            };
            peer.confirm(&place)?;
            Ok(binary)
        })
        .await
    }

    async fn container(&self, place: &Place) -> Result<Arc<ContainerFacts>, Refusal> {
        let id = &place.container.container_id;
        let known = self.containers.lock().get(id).cloned();
        let facts = match known {
            Some(facts) => facts,
            None => self.ask_runtime(id).await?,
        };
        if facts.pod_uid != place.container.pod_uid {
            let why = format!("container {id} is of pod {} and not of the cgroup's", facts.pod_uid);
            return Err(Refusal::Unknown(why));
        }
        Ok(facts)
    }

    async fn ask_runtime(&self, id: &str) -> Result<Arc<ContainerFacts>, Refusal> {
        let status = match self.runtime.container_status(id.to_owned()).await {
            Ok(status) if status.id == id => status,
            Ok(_) => return Err(Refusal::Unknown(format!("the runtime knows no container {id}"))),
            Err(err) if err.kind == CriErrorKind::NotFound => {
                return Err(Refusal::Unknown(format!("the runtime knows no container {id}")));
            }
            Err(err) => return Err(Refusal::Unavailable(format!("the container runtime: {err}"))),
        };
        let label = |name: &str| {
            let why = || Refusal::Unknown(format!("container {id} has no label {name}"));
            status.labels.get(name).filter(|value| !value.is_empty()).cloned().ok_or_else(why)
        };
        let image = status.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
        let facts = Arc::new(ContainerFacts {
            namespace: label(POD_NAMESPACE)?,
            pod: label(POD_NAME)?,
            pod_uid: label(POD_UID)?,
            name: label(CONTAINER_NAME)?,
            digests: digests([image.as_str(), &status.image_ref, &status.image_id]),
            image: if status.image_ref.is_empty() { image } else { status.image_ref.clone() },
            images: OnceCell::new(),
        });
        let mut known = self.containers.lock();
        if known.len() >= MAX_CONTAINERS {
            known.clear();
        }
        known.insert(id.to_owned(), Arc::clone(&facts));
        Ok(facts)
    }

    /// Service account and labels of the pod, from what the cloud sent.
    async fn pod(&self, container: &ContainerFacts) -> Result<(String, BTreeMap<String, String>), Refusal> {
        let key = ObjectKey::namespaced(&container.namespace, "pod", &container.pod);
        let pod = match self.get_object.ask(GetObject(key), META_DEADLINE).await {
            Ok(Ok(pod)) => pod,
            Ok(Err(err)) => return Err(Refusal::Unavailable(format!("MetaManager: {err}"))),
            Err(err) => return Err(Refusal::Unavailable(err.to_string())),
        };
        let text =
            |pod: &Value, at: &str| pod.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let Some(pod) = pod.filter(|pod| text(pod, "/metadata/uid") == container.pod_uid) else {
            let (namespace, name) = (&container.namespace, &container.pod);
            return Err(Refusal::Unknown(format!(
                "pod {namespace}/{name} of the container is none of this node's"
            )));
        };
        if let Some(seals) = &self.seals {
            seals.check(&pod)?;
        }
        let account = Some(text(&pod, "/spec/serviceAccountName")).filter(|name| !name.is_empty());
        let labels = pod.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
        let labels = labels.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
        Ok((account.unwrap_or_else(|| DEFAULT_ACCOUNT.to_owned()), labels.collect()))
    }

    /// Every digest of the container's image: its configuration's and its manifests'.
    async fn images(&self, container: &ContainerFacts) -> Result<BTreeSet<String>, Refusal> {
        let ask = || async {
            let mut found = container.digests.clone();
            match self.runtime.image_status(container.image.clone()).await {
                Ok(Some(image)) => {
                    let names = image.repo_digests.iter().chain([&image.id]).map(String::as_str);
                    found.extend(digests(names));
                }
                Ok(None) => {}
                Err(err) => return Err(Refusal::Unavailable(format!("the container runtime: {err}"))),
            }
            Ok(found)
        };
        Ok(container.images.get_or_try_init(ask).await?.clone())
    }
}

impl Attestor for NodeAttestor {
    fn attest<'a>(
        &'a self,
        peer: &'a Arc<Peer>,
        registrations: &'a [Registration],
    ) -> BoxFuture<'a, Result<Workload, Refusal>> {
        Box::pin(self.workload(peer, registrations))
    }
}

/// `/proc` is asked where it may block.
async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, Unproven> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(ask).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(err)) => Err(Refusal::Unknown(err.to_string())),
        Err(err) => Err(Refusal::Unavailable(format!("the caller could not be looked at: {err}"))),
    }
}

#[cfg(test)]
#[path = "attest_worker_tests.rs"]
mod tests;
