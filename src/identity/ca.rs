//! The authorities of cloudcore: the root that nodes know, the issuing CA that works.
//!
//! The root's key is needed only when an issuing CA is made; it may be taken off the machine.
//! Everything signed here comes as a chain, leaf first, without the root.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};
use ring::signature::EcdsaKeyPair;

use super::authorities::{State, build, is_due};
use super::ca_files::Places;
use super::key::{EcKey, chain_pem};
use super::peer::{NODE_GROUP, NODE_PREFIX, Validity};
use super::signer::{KeyStore, key_store};
use super::{IdentityError, KeyPair, TrustBundle, cert_pem_from_der, csr, issuing, seal, sha256_hex};
use crate::config::{CloudCoreConfig, KeysConfig};
use crate::model::NodeName;

/// Life of the certificate that seals. Only the time of sealing must be in it.
const SEALER_TTL: Duration = Duration::from_secs(86_400);

/// Where the authorities are and how they work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaSettings {
    /// The root's certificate, PEM. Files about its rotation stand beside it.
    pub ca_file: PathBuf,
    /// The root's key; may be absent. The issuing CA's files stand beside it.
    pub ca_key_file: PathBuf,
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// Life of the issuing CA.
    pub issuing_ttl: Duration,
    pub keys: KeysConfig,
    /// Make a root when there is none. Never where nodes are enrolled: they know the old one.
    pub may_create: bool,
}

impl CaSettings {
    /// Of a new cloud, with everything else as `identity` defaults to.
    #[must_use]
    pub fn new(ca_file: &Path, ca_key_file: &Path) -> Self {
        let defaults = crate::config::CloudIdentityConfig::default();
        Self {
            ca_file: ca_file.into(),
            ca_key_file: ca_key_file.into(),
            trust_domain: defaults.trust_domain,
            issuing_ttl: Duration::from_secs(defaults.issuing_ca_ttl_secs),
            keys: defaults.keys,
            may_create: true,
        }
    }
}

impl From<&CloudCoreConfig> for CaSettings {
    /// As cloudcore.yaml says. Creating is off.
    fn from(config: &CloudCoreConfig) -> Self {
        let hub = &config.modules.cloud_hub;
        Self {
            ca_file: hub.tls_ca_file.clone(),
            ca_key_file: hub.tls_ca_key_file.clone(),
            trust_domain: config.identity.trust_domain.clone(),
            issuing_ttl: Duration::from_secs(config.identity.issuing_ca_ttl_secs),
            keys: config.identity.keys.clone(),
            may_create: false,
        }
    }
}

/// What [`Ca::reload`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CaChanged {
    /// The roots to be trusted.
    pub bundle: bool,
    /// What signs from now on, or the chain to it: certificates should be renewed.
    pub issuing: bool,
}

/// The authorities of cloudcore, ECDSA P-256 (protocol section 5.1). Shared by threads; what it
/// signs with changes only in [`Ca::reload`].
pub struct Ca {
    settings: CaSettings,
    places: Places,
    keys: Arc<dyn KeyStore>,
    state: RwLock<Arc<State>>,
    generation: AtomicU64,
    /// What seals; made when first needed.
    sealer: Mutex<Option<Arc<Sealer>>>,
}

impl Ca {
    /// Loads the authorities. Makes a root if there is none and `may_create`, and an issuing CA
    /// when one is due and the root's key is there. Blocks.
    ///
    /// # Errors
    /// [`IdentityError::File`] naming the file that is missing, unreadable or wrong. A root is never
    /// replaced silently: half of one is an error.
    pub fn open(settings: CaSettings, now: SystemTime) -> Result<Self, IdentityError> {
        issuing::domain_id(&settings.trust_domain)?;
        let places = Places::new(&settings.ca_file, &settings.ca_key_file);
        let keys = key_store(&settings.keys)?;
        let state = build(&settings, &places, &*keys, settings.may_create, now)?;
        Ok(Self {
            settings,
            places,
            keys,
            state: RwLock::new(Arc::new(state)),
            generation: AtomicU64::new(0),
            sealer: Mutex::new(None),
        })
    }

    /// Reads the files again, takes over what `keadm ca` did, renews the issuing CA at half of its
    /// life. Cheap when nothing changed. Blocks.
    ///
    /// # Errors
    /// As [`Ca::open`]; what was in use stays in use.
    pub fn reload(&self, now: SystemTime) -> Result<CaChanged, IdentityError> {
        let before = self.state();
        if self.places.read()? == before.contents && !is_due(&before, now) {
            return Ok(CaChanged::default());
        }
        let after = build(&self.settings, &self.places, &*self.keys, false, now)?;
        let changed = CaChanged {
            bundle: after.roots() != before.roots(),
            issuing: after.chain() != before.chain() || after.former != before.former,
        };
        *self.state.write() = Arc::new(after);
        if changed != CaChanged::default() {
            self.generation.fetch_add(1, Ordering::Release);
        }
        Ok(changed)
    }

    /// Grows with each change that [`Ca::reload`] found.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read())
    }

    /// The root in use, DER: what `GET /ca.crt` answers.
    #[must_use]
    pub fn cert_der(&self) -> Vec<u8> {
        self.state().root_der.clone()
    }

    /// The root in use, PEM.
    #[must_use]
    pub fn cert_pem(&self) -> String {
        cert_pem_from_der(&self.state().root_der)
    }

    /// Lower-case hex sha256 of the root's DER: the first part of a join token.
    #[must_use]
    pub fn hash_hex(&self) -> String {
        sha256_hex(&self.state().root_der)
    }

    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.settings.trust_domain
    }

    /// The roots to be trusted: in use, next, old. Without keys for JWT-SVIDs, which are not ours.
    #[must_use]
    pub fn bundle(&self) -> TrustBundle {
        TrustBundle {
            trust_domain: self.settings.trust_domain.clone(),
            roots: self.state().roots(),
            jwt_keys: Vec::new(),
        }
    }

    /// What client certificates are verified with: the roots, and the issuing CAs, because a Go
    /// edge presents nothing but its leaf. PEM.
    #[must_use]
    pub fn client_anchors_pem(&self) -> String {
        let state = self.state();
        let mut anchors = state.roots();
        anchors.push(state.issuing.der.clone());
        anchors.extend(state.former.iter().cloned());
        chain_pem(&anchors)
    }

    /// How long the issuing CA is good.
    #[must_use]
    pub fn issuing_validity(&self) -> Validity {
        self.state().issuing.valid
    }

    /// Is the root's key on this machine? Without it no issuing CA is made.
    #[must_use]
    pub fn has_root_key(&self) -> bool {
        self.state().root.is_some()
    }

    /// Signs a node's CSR (DER). The CSR must ask for exactly `CN=system:node:{node}`,
    /// `O=system:nodes`; the certificate also carries `spiffe://{trust_domain}/node/{node}`.
    /// Nothing but the public key is taken from the request. Valid from a minute ago, but not before
    /// `not_before_min`.
    ///
    /// # Errors
    /// [`IdentityError::Csr`] naming the field that is refused.
    pub fn sign_node_csr(
        &self,
        csr_der: &[u8],
        node: &NodeName,
        ttl: Duration,
        not_before_min: Option<SystemTime>,
        now: SystemTime,
    ) -> Result<Vec<Vec<u8>>, IdentityError> {
        let state = self.state();
        let id = issuing::id_in(&self.settings.trust_domain, &format!("/node/{node}"))?;
        let key = public_key(&csr::check_node_csr(csr_der, node, &id)?)?;
        let window = state.issuing.window(ttl, not_before_min, now)?;
        let mut params = issuing::base(&format!("{NODE_PREFIX}{node}"), &[NODE_GROUP], window)?;
        params.subject_alt_names = vec![issuing::uri_san(&id)?];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        Ok(state.chain_of(state.issuing.sign(&params, &key)?))
    }

    /// Makes a node's key an intermediate CA for its workloads. Nothing but the public key is taken
    /// from the request, and nothing else may be asked for.
    ///
    /// # Errors
    /// [`IdentityError::Csr`] naming the field that is refused.
    pub fn sign_node_ca_csr(
        &self,
        csr_der: &[u8],
        node: &NodeName,
        ttl: Duration,
        not_before_min: Option<SystemTime>,
        now: SystemTime,
    ) -> Result<Vec<Vec<u8>>, IdentityError> {
        let state = self.state();
        let key = public_key(&csr::check_node_ca_csr(csr_der, node)?)?;
        let window = state.issuing.window(ttl, not_before_min, now)?;
        let params = issuing::node_ca(node, &self.settings.trust_domain, window)?;
        Ok(state.chain_of(state.issuing.sign(&params, &key)?))
    }

    /// A server certificate for these IP addresses and DNS names, O `KubeEdge`, with its chain. A
    /// name that begins with `spiffe://` becomes the URI SAN; empty names are skipped.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] naming the name that is none.
    pub fn issue_server(&self, cn: &str, names: &[String], ttl: Duration) -> Result<KeyPair, IdentityError> {
        let state = self.state();
        let mut params =
            issuing::base(cn, &["KubeEdge"], state.issuing.window(ttl, None, SystemTime::now())?)?;
        params.subject_alt_names = names
            .iter()
            .filter(|name| !name.is_empty())
            .map(|name| issuing::san(name))
            .collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if names.iter().any(|name| name.starts_with("spiffe://")) {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        issue(&state, &params)
    }

    /// A client certificate (admin: CN `kubernetes-admin`, O `system:masters`), with its chain.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`].
    pub fn issue_client(&self, cn: &str, orgs: &[&str], ttl: Duration) -> Result<KeyPair, IdentityError> {
        let state = self.state();
        let mut params = issuing::base(cn, orgs, state.issuing.window(ttl, None, SystemTime::now())?)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        issue(&state, &params)
    }
}

impl Ca {
    /// Seals `payload` for `node` with a certificate of `spiffe://{trust domain}/cloudcore`. The
    /// key is in memory only: seals are verified as of the time they were made, so they outlive it.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] when the issuing CA expired.
    pub fn seal(
        &self,
        kind: &str,
        node: &NodeName,
        payload: &[u8],
        now: SystemTime,
    ) -> Result<String, IdentityError> {
        // A seal is judged by its own time. This clock may have been set to before the CA began, which is noticed
        // only some seconds later.
        let now = now.max(self.state().issuing.valid.not_before);
        let sealer = self.sealer(now)?;
        seal::sign(&sealer.key, &sealer.chain, kind, node, payload, now)
    }

    fn sealer(&self, now: SystemTime) -> Result<Arc<Sealer>, IdentityError> {
        let state = self.state();
        let mut present = self.sealer.lock();
        if let Some(sealer) = &*present
            && sealer.is_good(&state, now)
        {
            return Ok(Arc::clone(sealer));
        }
        let fresh = Arc::new(Sealer::new(&state, &self.settings.trust_domain, now)?);
        *present = Some(Arc::clone(&fresh));
        Ok(fresh)
    }
}

/// The signing certificate of cloudcore and its key.
struct Sealer {
    key: EcdsaKeyPair,
    /// Leaf first.
    chain: Vec<Vec<u8>>,
    valid: Validity,
}

impl Sealer {
    fn new(state: &State, trust_domain: &str, now: SystemTime) -> Result<Self, IdentityError> {
        let key = EcKey::generate().map_err(IdentityError::Certificate)?;
        let public = key.for_rcgen().map_err(IdentityError::Certificate)?;
        let valid = state.issuing.window(SEALER_TTL, None, now)?;
        let mut params = issuing::base("cloudcore", &["KubeEdge"], valid)?;
        params.subject_alt_names = vec![issuing::uri_san(&issuing::id_in(trust_domain, "/cloudcore")?)?];
        let chain = state.chain_of(state.issuing.sign(&params, &public)?);
        Ok(Self { key: key.signer().map_err(IdentityError::Certificate)?, chain, valid })
    }

    /// In the first half of its life, and of the authorities that are at work.
    fn is_good(&self, state: &State, now: SystemTime) -> bool {
        let life = self.valid.not_after.duration_since(self.valid.not_before).unwrap_or_default();
        self.valid.not_before <= now
            && now < self.valid.not_before + life / 2
            && self.chain.get(1..) == Some(state.chain().as_slice())
    }
}

fn issue(state: &State, params: &CertificateParams) -> Result<KeyPair, IdentityError> {
    let key = EcKey::generate().map_err(IdentityError::Certificate)?;
    let public = key.for_rcgen().map_err(IdentityError::Certificate)?;
    let chain = state.chain_of(state.issuing.sign(params, &public)?);
    Ok(KeyPair { cert_pem: chain_pem(&chain), key_pem: key.to_pem() })
}

fn public_key(spki: &[u8]) -> Result<rcgen::SubjectPublicKeyInfo, IdentityError> {
    rcgen::SubjectPublicKeyInfo::from_der(spki)
        .map_err(|_| IdentityError::Csr("public key: it does not parse".into()))
}

#[cfg(test)]
mod tests;
