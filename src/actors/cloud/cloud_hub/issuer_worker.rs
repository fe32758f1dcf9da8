//! What sessions and the join server share: revocations, bundle, signer, and whom they tell.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::attest::Wanted;
use super::issue::{Issued, Signer, Svid};
use super::join::{Denied, RateLimit};
use super::revoked::{self, Revoked};
use crate::bus::Link;
use crate::bus::identity::{AuditAction, AuditFact, NodeKeyChanged, PublishedBundle, Revocations, audit};
use crate::identity::{FactoryRoots, NodePeer};
use crate::model::NodeName;
use crate::model::identity::BundleDocument;
use crate::telemetry::identity::{self, IdentityCounters, Refused};

/// How nodes are let in, and whom CloudHub tells.
#[derive(Clone)]
pub struct NodeIdentities {
    /// Roots of `identity.factoryCaFile`.
    pub factory: Option<Arc<FactoryRoots>>,
    /// `identity.reentryGraceSecs`.
    pub reentry_grace: Duration,
    /// `identity.reusableTokens`.
    pub reusable_tokens: bool,
    /// Lives of what is signed.
    pub svid_ttl: Duration,
    /// Of an edge of KubeEdge's.
    pub go_ttl: Duration,
    pub node_ca_ttl: Duration,
    pub revocations: Revocations,
    pub bundle: PublishedBundle,
    pub key_changed: Link<NodeKeyChanged>,
    pub audit: Link<AuditFact>,
}

/// Signs for nodes and keeps the record of it.
pub struct Issuer {
    pub signer: Signer,
    pub with: NodeIdentities,
    counters: IdentityCounters,
    limit: Mutex<RateLimit<NodeName>>,
}

/// Certificates of one node at once, and a second in the long run: each is a record of the audit log
/// and a new key in every node's bundle, so a node that asks without end would push out the others'.
const BURST: u32 = 20;
const PER_SEC: u32 = 1;
/// Nodes remembered: those that asked within the last seconds.
const MAX_NODES: usize = 65_536;
/// So long a caller waits for the first list of revocations after a start.
const FIRST_LIST: Duration = Duration::from_secs(5);

impl Issuer {
    #[must_use]
    pub fn new(signer: Signer, with: NodeIdentities) -> Self {
        let limit = Mutex::new(RateLimit::new(BURST, PER_SEC, MAX_NODES));
        Self { signer, with, counters: IdentityCounters::new(), limit }
    }

    /// The revocations as of now. After a start it waits for the first list: who was revoked finds no
    /// door open meanwhile.
    ///
    /// # Errors
    /// [`Denied`] with 503 when the API does not tell in time.
    pub async fn revoked(&self) -> Result<Arc<Revoked>, Denied> {
        let mut told = self.with.revocations.clone();
        // Whatever came of it, what is known then decides.
        tokio::time::timeout(FIRST_LIST, told.wait_for(Option::is_some)).await.ok();
        self.known_revoked()
    }

    fn known_revoked(&self) -> Result<Arc<Revoked>, Denied> {
        self.with.revocations.borrow().clone().ok_or_else(|| {
            let why = "the Kubernetes API has not told yet which nodes are revoked, try again later";
            Denied::new(503, Refused::Unavailable, why)
        })
    }

    /// The published bundle as of now, with the keys of JWT-SVIDs.
    #[must_use]
    pub fn bundle(&self) -> Arc<BundleDocument> {
        Arc::clone(&self.with.bundle.borrow())
    }

    /// May this node have a session with this certificate, now?
    ///
    /// # Errors
    /// [`Denied`] with 403, and 503 before it is known who is revoked.
    pub fn admit(&self, node: &NodeName, peer: &NodePeer) -> Result<(), Denied> {
        super::join::certified(peer, node, SystemTime::now())?;
        revoked::check(&*self.known_revoked()?, node, Some(peer.valid.not_before)).map(drop)
    }

    /// Signs SVID and intermediate CA on a thread that may block: keys may lie in a token.
    ///
    /// # Errors
    /// [`Denied`] when it is not signed.
    pub async fn node(
        self: &Arc<Self>,
        node: &NodeName,
        wanted: Wanted,
        not_before_min: Option<SystemTime>,
    ) -> Result<Issued, Denied> {
        self.check_limit(node)?;
        let (issuer, node) = (Arc::clone(self), node.clone());
        blocking(move || issuer.signer.node(&node, &wanted, not_before_min, SystemTime::now())).await
    }

    /// The same for the certificate of an edge of KubeEdge's.
    ///
    /// # Errors
    /// [`Denied`] when it is not signed.
    pub async fn go_certificate(
        self: &Arc<Self>,
        node: &NodeName,
        csr: Vec<u8>,
        not_before_min: Option<SystemTime>,
    ) -> Result<Svid, Denied> {
        self.check_limit(node)?;
        let (issuer, node) = (Arc::clone(self), node.clone());
        blocking(move || issuer.signer.go_certificate(&node, &csr, not_before_min, SystemTime::now())).await
    }

    fn check_limit(&self, node: &NodeName) -> Result<(), Denied> {
        if self.limit.lock().admit(node.clone(), Instant::now()) {
            return Ok(());
        }
        let why = format!("node {node} asks for certificates too often, try again later");
        Err(Denied::new(429, Refused::Limit, why))
    }

    /// Counts, tells IdentityController and writes the record of what a node got.
    pub fn issued(&self, fact: AuditFact, changed: NodeKeyChanged, what: identity::Issued) {
        self.counters.issued(what);
        if changed.node_ca_expires_at > 0 {
            self.counters.issued(identity::Issued::NodeCa);
        }
        let fact = fact.with("serial", changed.svid_serial.as_str());
        let node = changed.node.clone();
        if let Err(err) = self.with.key_changed.tell(changed) {
            tracing::warn!(%node, error = %err, "the node's JWT key is published at its next renewal");
        }
        self.record(fact);
    }

    /// Counts and writes the record of a refusal. Who asks too often is only counted: the limit
    /// is there for the audit log too.
    pub fn refused(&self, subject: &str, denied: &Denied, address: Option<SocketAddr>) {
        self.counters.refused(denied.reason);
        if denied.code == 429 {
            return;
        }
        let address = address.map(|it| it.ip().to_string()).unwrap_or_default();
        let subject = if subject.is_empty() { &address } else { subject };
        let fact = AuditFact::new(AuditAction::Refuse, subject, false, denied.why.as_str());
        self.record(fact.with("cause", denied.reason.label()).with("address", address.as_str()));
    }

    fn record(&self, fact: AuditFact) {
        audit(&self.with.audit, fact);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Denied> + Send + 'static,
) -> Result<T, Denied> {
    let lost = |_| Denied::new(503, identity::Refused::Unavailable, "the cloud could not sign now");
    tokio::task::spawn_blocking(work).await.map_err(lost)?
}
