//! How this node gets, keeps and renews what it holds: files on disk, and requests to the join server
//! (protocol 5.3, 5.4; `POST /identity/node` is ours).

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::attest_worker::Means;
use super::certificate::Standing;
use super::clock::{CloudClock, shown};
use super::credential_files::{self as files, Identity, Places};
use super::https_worker::{Answer, Call, send};
use super::join_error::JoinError;
use crate::bus::Link;
use crate::bus::identity::{AuditAction, AuditFact};
use crate::config::{EdgeHubConfig, EdgeIdentityConfig};
use crate::identity::{
    IdentityError, NodeCredentials, NodeKeys, NodeRequest, TrustBundle, cert_ders_from_pem, client_tls,
    verify_x509_svid,
};
use crate::model::NodeName;
use crate::model::identity::{BundleDocument, RenewalReply, RenewalRequest};
use crate::telemetry::edge_hub::show_clock;
use crate::telemetry::identity::IdentityMetrics;

/// Gets, keeps and publishes the credentials of one node. Clones share everything.
#[derive(Clone)]
pub struct Joiner(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) node: NodeName,
    pub(super) config: EdgeHubConfig,
    pub(super) identity: EdgeIdentityConfig,
    pub(super) places: Places,
    published: watch::Sender<Option<Arc<NodeCredentials>>>,
    clock: Mutex<CloudClock>,
    /// Held while files are read, judged and replaced.
    files: tokio::sync::Mutex<()>,
    /// Held while the join server is asked for credentials: two at once would waste a token.
    joining: tokio::sync::Mutex<()>,
    audit: Link<AuditFact>,
    /// The last refusal that was audited: one record, not one for each attempt.
    refused: Mutex<String>,
}

impl Joiner {
    #[must_use]
    pub fn new(
        node: NodeName,
        config: EdgeHubConfig,
        identity: EdgeIdentityConfig,
        published: watch::Sender<Option<Arc<NodeCredentials>>>,
        audit: Link<AuditFact>,
    ) -> Self {
        let places = Places::new(&config);
        Self(Arc::new(Shared {
            node,
            config,
            identity,
            places,
            published,
            clock: Mutex::default(),
            files: tokio::sync::Mutex::default(),
            joining: tokio::sync::Mutex::default(),
            audit,
            refused: Mutex::default(),
        }))
    }

    /// The identity on disk, or, when there is none or its time is over, a new one.
    ///
    /// # Errors
    /// [`JoinError`] says what the operator has to do, if it is up to the operator.
    pub async fn ensure(&self) -> Result<Identity, JoinError> {
        let outcome = self.find().await;
        if let Err(err) = &outcome {
            self.audit_refusal(AuditAction::Join, err);
        }
        outcome
    }

    async fn find(&self) -> Result<Identity, JoinError> {
        if let Some(stored) = self.load().await?
            && stored.certificate.standing(&self.0.node, self.cloud_now()) == Standing::Usable
        {
            return Ok(stored);
        }
        let _held = self.0.joining.lock().await;
        let Some(stored) = self.load().await? else {
            return self.join(None, "there is no certificate yet").await;
        };
        match stored.certificate.standing(&self.0.node, self.cloud_now()) {
            Standing::Usable => Ok(stored),
            Standing::OtherNode => Err(JoinError::OtherNode {
                file: self.0.places.svid.clone(),
                found: stored.certificate.common_name,
                node: self.0.node.clone(),
            }),
            Standing::Expired => {
                // By this machine's clock, which may be wrong. The cloud knows better.
                self.ask_the_time(&stored).await;
                if stored.certificate.standing(&self.0.node, self.cloud_now()) == Standing::Usable {
                    return Ok(stored);
                }
                self.join(Some(&stored), "the certificate expired while this node was offline").await
            }
        }
    }

    /// At the start of the program: removes what a killed one left, then as [`Joiner::load`].
    ///
    /// # Errors
    /// As [`Joiner::load`].
    pub async fn start(&self) -> Result<Option<Identity>, JoinError> {
        let places = self.0.places.clone();
        blocking(move || {
            files::sweep(&places, SystemTime::now());
            Ok(())
        })
        .await?;
        self.load().await
    }

    /// The set on disk, published even when its time is over: the node CA in it may live longer, and
    /// workloads get their identities without the cloud.
    ///
    /// # Errors
    /// [`JoinError::Identity`] naming the file that cannot be used.
    pub async fn load(&self) -> Result<Option<Identity>, JoinError> {
        let _held = self.0.files.lock().await;
        let (places, node) = (self.0.places.clone(), self.0.node.clone());
        let found = blocking(move || Ok(files::load(&places, &node)?)).await?;
        if let Some(identity) = &found
            && identity.certificate.node.as_ref() == Some(&self.0.node)
        {
            self.publish(identity);
        }
        Ok(found)
    }

    /// Renews over HTTPS: there is no session, or the cloud's sessions know no renewal.
    ///
    /// # Errors
    /// [`JoinError`]; the stored set stays as it is then.
    pub async fn renew(&self) -> Result<Identity, JoinError> {
        let _held = self.0.joining.lock().await;
        let Some(stored) = self.load().await? else {
            return self.join(None, "there is no certificate yet").await;
        };
        let renewed = self.join_by(&Means::Old(&stored)).await?;
        self.tell(AuditFact::new(AuditAction::Renew, self.0.node.to_string(), true, "over https"), &renewed);
        Ok(renewed)
    }

    /// The cloud refuses a certificate that looks good here. Either it ran out by the cloud's clock
    /// (this machine's is behind), or the node was revoked and the operator left a new token.
    ///
    /// # Errors
    /// [`JoinError`] when the node is not taken back; `Ok(None)` when there is nothing to try.
    pub async fn rejoin(&self) -> Result<Option<Identity>, JoinError> {
        let _held = self.0.joining.lock().await;
        if let Some(stored) = self.load().await? {
            self.ask_the_time(&stored).await;
            if stored.certificate.standing(&self.0.node, self.cloud_now()) == Standing::Expired {
                let why = "the certificate expired by the cloud's clock";
                return self.join(Some(&stored), why).await.map(Some);
            }
        }
        let file = self.0.config.bootstrap_file.clone();
        let text = blocking(move || Ok(files::read(&file)?)).await?.unwrap_or_default();
        let token = text.trim().to_owned();
        if token.is_empty() {
            return Ok(None);
        }
        let outcome = self.join_by(&Means::Token(token)).await;
        match &outcome {
            Ok(identity) => self.joined(identity, "join token, after a refusal"),
            Err(err) => self.audit_refusal(AuditAction::Join, err),
        }
        outcome.map(Some)
    }

    /// Checks that the reply fits the keys it answers, saves and publishes the set.
    ///
    /// # Errors
    /// [`JoinError::Identity`] naming what does not fit, or the file that was not written; the old set
    /// stays then.
    pub async fn install(&self, keys: NodeKeys, reply: RenewalReply) -> Result<Identity, JoinError> {
        let node = self.0.node.clone();
        let credentials = blocking(move || Ok(keys.credentials(&node, &reply)?)).await?;
        self.keep(credentials).await
    }

    pub(super) async fn keep(&self, credentials: NodeCredentials) -> Result<Identity, JoinError> {
        let _held = self.0.files.lock().await;
        let places = self.0.places.clone();
        let identity = blocking(move || {
            let identity = Identity::new(credentials)?;
            files::save(&places, &identity.credentials)?;
            Ok(identity)
        })
        .await?;
        self.publish(&identity);
        Ok(identity)
    }

    /// The roots of a verified document replace those on disk.
    ///
    /// # Errors
    /// [`JoinError::Identity`] when there are none, or none that vouches for the present certificate.
    pub async fn replace_roots(&self, document: BundleDocument) -> Result<(), JoinError> {
        let _held = self.0.files.lock().await;
        let (places, node, now) = (self.0.places.clone(), self.0.node.clone(), self.cloud_now());
        let kept = blocking(move || {
            let Some(stored) = files::load(&places, &node)? else { return Ok(None) };
            let bundle = TrustBundle::from_document(&document)?;
            let roots_pem = checked_roots(&stored, &bundle, now)?;
            if roots_pem == stored.credentials.roots_pem {
                return Ok(None);
            }
            let identity = Identity::new(NodeCredentials { roots_pem, ..stored.credentials })?;
            files::save(&places, &identity.credentials)?;
            Ok(Some(identity))
        })
        .await?;
        if let Some(identity) = kept {
            tracing::info!(file = %self.0.places.roots.display(), "the cloud's roots changed");
            self.publish(&identity);
        }
        Ok(())
    }

    pub(super) async fn send(&self, call: Call<'_>) -> Result<Answer, JoinError> {
        let deadline = Duration::from_secs(self.0.config.websocket.handshake_timeout.max(1));
        send(&self.0.config.http_server, deadline, call).await
    }

    /// Asks a server that our roots vouch for what time it is. Failing is no matter: whoever cannot
    /// ask cannot join either, and that says why.
    async fn ask_the_time(&self, stored: &Identity) {
        let Ok(tls) = client_tls(&stored.credentials.roots_pem, None) else { return };
        match self.send(Call::get(tls, "/ca.crt")).await {
            Ok(answer) => self.learn_time(&answer),
            Err(err) => tracing::debug!(error = %err, "the cloud did not say what time it is"),
        }
    }

    pub(super) fn learn_time(&self, answer: &Answer) {
        if let Some(date) = answer.date {
            self.learn(date);
        }
    }

    /// The cloud said that it is `date`.
    pub fn learn(&self, date: SystemTime) {
        let now = SystemTime::now();
        show_clock(date, now);
        if let Some(line) = self.0.clock.lock().learn(date, now, Instant::now()) {
            tracing::warn!("{line}");
        }
    }

    /// What time it is for the cloud, as far as is known.
    #[must_use]
    pub fn cloud_now(&self) -> SystemTime {
        self.0.clock.lock().now(SystemTime::now(), Instant::now())
    }

    fn publish(&self, identity: &Identity) {
        let now = self.cloud_now();
        let metrics = IdentityMetrics::node();
        metrics.set_validity(identity.certificate.not_before, identity.certificate.not_after);
        if let Some(node_ca) = &identity.node_ca {
            IdentityMetrics::node_ca().set_validity(node_ca.not_before, node_ca.not_after);
        }
        let new = &identity.credentials;
        let is_new = self.0.published.send_if_modified(|held| {
            let same = held.as_ref().is_some_and(|held| {
                let ca = |credentials: &NodeCredentials| {
                    credentials.node_ca.as_ref().map(|pair| pair.cert_pem.clone())
                };
                held.svid.cert_pem == new.svid.cert_pem
                    && held.roots_pem == new.roots_pem
                    && ca(held) == ca(new)
            });
            if !same {
                *held = Some(Arc::new(new.clone()));
            }
            !same
        });
        if let Some(odd) = identity.certificate.untimely(now).filter(|_| is_new) {
            tracing::warn!("{odd}");
        }
    }

    pub(super) fn joined(&self, identity: &Identity, by: &str) {
        self.0.refused.lock().clear();
        tracing::info!(node = %self.0.node, server = %self.0.config.http_server, by, "joined");
        self.tell(AuditFact::new(AuditAction::Join, self.0.node.to_string(), true, by), identity);
    }

    /// Asks anew for what is held.
    pub(super) fn request(&self) -> Result<(RenewalRequest, NodeKeys), IdentityError> {
        let held = self.0.published.borrow().clone();
        let jwt_key = held.as_ref().and_then(|held| held.jwt_key_pem.as_deref());
        NodeRequest::renewing(&self.0.node, jwt_key, self.cloud_now())
    }

    /// A record about new credentials.
    pub fn tell(&self, fact: AuditFact, identity: &Identity) {
        let end = shown(identity.certificate.not_after);
        self.send_fact(fact.with("until", end));
    }

    /// A record of what did not work, once for each reason.
    pub fn audit_refusal(&self, action: AuditAction, err: &JoinError) {
        if !err.is_refusal() && !matches!(err, JoinError::NeedsToken { .. } | JoinError::WrongCa { .. }) {
            return;
        }
        self.audit_refused(action, err.to_string());
    }

    /// The same, in words.
    pub fn audit_refused(&self, action: AuditAction, why: String) {
        let mut refused = self.0.refused.lock();
        if *refused != why {
            refused.clone_from(&why);
            self.send_fact(AuditFact::new(action, self.0.node.to_string(), false, why));
        }
    }

    fn send_fact(&self, fact: AuditFact) {
        if let Err(err) = self.0.audit.tell(fact) {
            tracing::warn!(error = %err, "a record for the audit log was dropped");
        }
    }
}

/// The roots of `bundle` (never none), if they vouch for what this node holds.
fn checked_roots(stored: &Identity, bundle: &TrustBundle, now: SystemTime) -> Result<String, IdentityError> {
    let wrong = |why: String| IdentityError::Certificate(format!("the cloud's new roots: {why}"));
    let chain = cert_ders_from_pem(&stored.credentials.svid.cert_pem);
    verify_x509_svid(&chain, bundle, stored.certificate.within(now))
        .map_err(|err| wrong(format!("none of them vouches for this node's certificate: {err}")))?;
    Ok(bundle.roots_pem())
}

/// Runs file work, syncs included, off the arbiter.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JoinError> + Send + 'static,
) -> Result<T, JoinError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(err) => Err(IdentityError::Certificate(format!("reading its files failed: {err}")).into()),
    }
}

#[cfg(test)]
mod tests;
