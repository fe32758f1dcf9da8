//! The gate: nothing starts on this node that is not verified.
//!
//! A pod must be what the cloud sealed for this node ([`seals`]); its images must be what every
//! policy of its namespace allows ([`images`], with signatures verified by [`cosign`]); pods from
//! files must be listed ([`files`]). Asked when a pod arrives or is loaded, and again before each
//! start of a container. What runs already is never ended by the gate.

pub mod cosign;
pub mod files;
pub mod images;
pub mod seals;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::stream::{self, Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::names::PodRef;
use cosign::CosignKey;
use images::{Facts, Finding};
use seals::{Basis, Claim, Verdict};

use crate::bus::Link;
use crate::bus::identity::{AuditAction, AuditFact, Credentials, Policies};
use crate::config::PodSeals;
use crate::cri::runtime::{ImageEvidence, Runtime};
use crate::identity::NodeCredentials;
use crate::model::NodeName;
use crate::model::identity::EdgeIdentitySpec;
use crate::telemetry::edged::EdgedMetrics;
use crate::telemetry::identity::{IdentityCounters, Refused};

/// Reason of containers and events whose image no policy allows.
pub const IMAGE_DENIED: &str = "ImagePolicyDenied";
/// Event of an image that a policy in mode warn would refuse.
pub const IMAGE_WARNING: &str = "ImagePolicyWarning";
/// Decisions about images that are remembered, so that each is recorded once. The node's pods are
/// far fewer; beyond this all are forgotten and may be recorded again.
const REMEMBERED: usize = 4096;

/// Where a node's trust comes from, and where decisions are written down.
#[derive(Clone)]
pub struct Trust {
    pub credentials: Credentials,
    pub policies: Policies,
    pub audit: Link<AuditFact>,
}

/// One for the node, shared by all its pods.
pub struct Gate {
    node: NodeName,
    mode: PodSeals,
    trust: Trust,
    metrics: EdgedMetrics,
    counters: IdentityCounters,
    basis: Mutex<Option<(Roots, Arc<Basis>)>>,
    /// What was decided last, by pod uid and container.
    decided: Mutex<BTreeMap<(String, String), String>>,
}

/// What of the credentials a verdict depends on; `None` before the node joined.
type Roots = Option<(String, String, bool)>;

/// A container's image may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Create the container by this: exactly what was checked runs.
    pub image_ref: String,
    /// Texts of warnings not said before.
    pub warnings: Vec<String>,
}

/// A container may not start now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    pub reason: &'static str,
    pub message: String,
}

impl Gate {
    #[must_use]
    pub fn new(node: NodeName, mode: PodSeals, trust: Trust, metrics: EdgedMetrics) -> Self {
        let counters = IdentityCounters::new();
        Self { node, mode, trust, metrics, counters, basis: Mutex::default(), decided: Mutex::default() }
    }

    /// May anything of this pod start? The answer is remembered until the node's roots change.
    #[must_use]
    pub fn judge(&self, pod: &Pod, claim: &Claim) -> Verdict {
        let credentials = self.trust.credentials.borrow().clone();
        let basis = self.basis(credentials.as_deref());
        let (verdict, new) = claim.judge(&basis);
        if let Verdict::Refused(why) = &verdict
            && new
        {
            let PodRef { namespace, name, uid } = PodRef::of(pod);
            tracing::warn!(pod = %name, namespace = %namespace, uid = %uid, error = why, "pod is refused");
            self.counters.refused(Refused::Seal);
            let fact = AuditFact::new(AuditAction::Policy, format!("pod {namespace}/{name}"), false, why);
            self.record(fact.with("uid", uid).with("reason", seals::SEAL_INVALID));
        }
        // A cloud that sends seals sends policies too; without them an image might run that they deny.
        let ours = credentials.is_some_and(|credentials| credentials.node_ca.is_some());
        let blind = ours && self.mode != PodSeals::Off && self.trust.policies.borrow().is_none();
        match verdict {
            Verdict::Fine if blind => Verdict::Wait("the policies of this node have not arrived yet"),
            verdict => verdict,
        }
    }

    fn basis(&self, credentials: Option<&NodeCredentials>) -> Arc<Basis> {
        let roots = credentials.map(|c| (c.trust_domain.clone(), c.roots_pem.clone(), c.node_ca.is_some()));
        let mut basis = self.basis.lock();
        if let Some((of, basis)) = &*basis
            && *of == roots
        {
            return Arc::clone(basis);
        }
        let new = Arc::new(Basis::new(self.node.clone(), self.mode, credentials));
        *basis = Some((roots, Arc::clone(&new)));
        new
    }

    /// May this container of the pod run the image that `image_ref` means now? `image` is the name
    /// in the pod's spec.
    ///
    /// # Errors
    /// [`Denial`]: a policy denies it, or what must be known of it is not.
    pub async fn admit_image(
        &self,
        runtime: &dyn Runtime,
        pod: &Pod,
        container: &str,
        image: &str,
        image_ref: &str,
    ) -> Result<Admitted, Denial> {
        let policies = self.trust.policies.borrow().clone();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let none =
            |policies: &EdgeIdentitySpec| images::of(&policies.image_policies, namespace).next().is_none();
        let Some(policies) = policies.filter(|policies| !none(policies)) else {
            return Ok(Admitted { image_ref: image_ref.to_owned(), warnings: Vec::new() });
        };
        let keys = images::keys(&policies.image_policies, namespace);
        let repository = images::repository(image);
        let signed_as = repository.clone().filter(|_| !keys.is_empty());
        let evidence = match runtime.image_evidence(image_ref.to_owned(), signed_as).await {
            Ok(Some(evidence)) => evidence,
            Ok(None) => return Err(unclear(format!("image {image_ref} is gone"))),
            Err(err) => return Err(unclear(format!("image {image} cannot be checked: {err}"))),
        };
        let id = evidence.id.clone();
        if id.is_empty() {
            return Err(unclear(format!("image {image} cannot be checked: the runtime gives it no id")));
        }
        let facts = facts(evidence, repository, keys).await;
        let decision = images::decide(&policies.image_policies, namespace, &facts);
        let texts: Vec<String> =
            decision.warned.iter().map(|found| text(image, "would be refused", found)).collect();
        let denied = decision.denied.as_ref().map(|found| text(image, "is refused", found));
        let said = denied.iter().chain(&texts).cloned().collect::<Vec<_>>().join("\n");
        let new = self.is_new(pod, container, format!("{id}\n{said}"));
        if new {
            let allowed = denied.is_none();
            let finding = decision.denied.as_ref().or(decision.warned.first());
            self.record_image(pod, container, image, &id, allowed, finding);
            self.metrics.warned_image.increment(u64::try_from(texts.len()).unwrap_or_default());
        }
        match denied {
            Some(message) => {
                self.counters.refused(Refused::ImagePolicy);
                Err(Denial { reason: IMAGE_DENIED, message })
            }
            None => Ok(Admitted { image_ref: id, warnings: if new { texts } else { Vec::new() } }),
        }
    }

    /// Was this not the last decision about the container?
    fn is_new(&self, pod: &Pod, container: &str, decision: String) -> bool {
        let mut decided = self.decided.lock();
        if decided.len() >= REMEMBERED {
            decided.clear();
        }
        let key = (PodRef::of(pod).uid, container.to_owned());
        decided.insert(key, decision.clone()) != Some(decision)
    }

    /// The pod is gone: so is what was decided about it.
    pub fn forget(&self, uid: &str) {
        self.decided.lock().retain(|(of, _), _| of != uid);
    }

    fn record_image(
        &self,
        pod: &Pod,
        container: &str,
        image: &str,
        id: &str,
        allowed: bool,
        finding: Option<&Finding>,
    ) {
        let PodRef { namespace, name, uid } = PodRef::of(pod);
        let why = finding.map(|found| found.why.as_str()).unwrap_or_default();
        let fact = AuditFact::new(AuditAction::Policy, format!("pod {namespace}/{name}"), allowed, why)
            .with("uid", uid)
            .with("container", container)
            .with("image", image)
            .with("imageId", id);
        self.record(match finding {
            Some(found) => fact.with("policy", &found.policy),
            None => fact,
        });
    }

    /// A file that would be a pod was refused.
    pub fn refuse_file(&self, file: &str, subject: &str, why: &str) {
        tracing::warn!(file, pod = subject, error = why, "static pod is refused");
        self.counters.refused(Refused::StaticPod);
        let fact = AuditFact::new(AuditAction::Policy, format!("static pod {subject}"), false, why);
        self.record(fact.with("file", file));
    }

    fn record(&self, fact: AuditFact) {
        if let Err(err) = self.trust.audit.tell(fact) {
            tracing::warn!(error = %err, "a decision was not recorded in the audit log");
        }
    }

    /// Says when credentials or policies change; never ends.
    pub fn changes(&self) -> impl Stream<Item = TrustChanged> + 'static {
        let credentials = changes(self.trust.credentials.clone());
        stream::select(credentials, changes(self.trust.policies.clone())).chain(stream::pending())
    }
}

/// Credentials or policies changed.
#[derive(Debug, Clone, Copy)]
pub struct TrustChanged;

fn changes<T: 'static>(receiver: watch::Receiver<T>) -> impl Stream<Item = TrustChanged> + 'static {
    stream::unfold(receiver, |mut receiver| async move {
        // A writer that is gone says nothing any more.
        receiver.changed().await.ok().map(|()| (TrustChanged, receiver))
    })
}

/// What could not be found out is tried again like any failed creation.
fn unclear(message: String) -> Denial {
    Denial { reason: "CreateContainerConfigError", message }
}

fn text(image: &str, how: &str, found: &Finding) -> String {
    format!("image {image} {how} by ImagePolicy {}: {}", found.policy, found.why)
}

/// Verifies the signatures, off the arbiter: there may be many.
async fn facts(evidence: ImageEvidence, repository: Option<String>, keys: BTreeSet<String>) -> Facts {
    let ImageEvidence { id: _, names, digests, signatures } = evidence;
    let repositories = names.iter().filter_map(|name| images::repository(name)).collect();
    let signed_by = match signatures.is_empty() || keys.is_empty() {
        true => BTreeSet::new(),
        false => {
            let over = digests.clone();
            let verifying = tokio::task::spawn_blocking(move || {
                let verifies = |pem: &String| match CosignKey::from_pem(pem) {
                    Ok(key) => signatures.iter().any(|signature| match key.verify(signature, &over) {
                        Ok(()) => true,
                        Err(err) => {
                            tracing::debug!(error = %err, "a signature does not count");
                            false
                        }
                    }),
                    Err(err) => {
                        tracing::warn!(error = %err, "a policy's cosign key is of no use");
                        false
                    }
                };
                keys.into_iter().filter(verifies).collect()
            });
            verifying.await.unwrap_or_else(|err| {
                tracing::warn!(error = %err, "signatures were not verified");
                BTreeSet::new()
            })
        }
    };
    Facts { repository, repositories, digests, signed_by }
}
