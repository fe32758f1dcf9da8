//! Who may come in at a TLS door of an edge, by certificate.
//!
//! * An SVID of the node's trust domain: only through this node's own CA (its workloads and devices),
//!   or the node's own. One that another node's CA signed is refused, whatever it says: a node speaks
//!   for its own workloads only.
//! * A certificate of a CA that the configuration names, if it names one: any but one that claims an
//!   ID of the node's trust domain, or that came through some node's CA.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName, OtherError, ServerConfig};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::peer::parse;
use super::svid::node_of;
use super::tls::{certificates, fail, provider, roots, server_with, verify_signatures};
use super::{
    ClientAuth, IdentityError, KeyPair, PeerIdentity, SpiffeId, SvidIssuer, TrustBundle, validity,
    verify_x509_svid,
};
use crate::model::NodeName;

/// The rule of one door. Replaced as a whole when certificates or roots change.
pub struct EdgeDoor {
    node: NodeName,
    /// The node's trust domain, and its roots as far as this door trusts them.
    bundle: Option<TrustBundle>,
    /// Certificates of a CA that the configuration names.
    named: Option<Arc<dyn ClientCertVerifier>>,
    auth: ClientAuth,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Whose certificate was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Empty for an SVID: its ID is its name.
    pub common_name: String,
    pub spiffe_id: Option<String>,
    /// When the certificate runs out.
    pub not_after: SystemTime,
}

/// Why a certificate is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

impl Refused {
    #[must_use]
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }

    /// The reason inside an error of a TLS handshake; `None` when it failed for something else than the
    /// client's certificate.
    #[must_use]
    pub fn of(err: &rustls::Error) -> Option<Self> {
        match err {
            rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
                Some(Self(other.0.to_string()))
            }
            rustls::Error::InvalidCertificate(other) => Some(Self(other.to_string())),
            _ => None,
        }
    }
}

impl fmt::Debug for EdgeDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeDoor").field("node", &self.node).field("auth", &self.auth).finish_non_exhaustive()
    }
}

impl EdgeDoor {
    /// Lets in by `bundle`: SVIDs of this node.
    #[must_use]
    pub fn new(node: NodeName, bundle: Option<TrustBundle>, auth: ClientAuth) -> Self {
        let algorithms = provider().signature_verification_algorithms;
        Self { node, bundle, named: None, auth, algorithms }
    }

    /// Lets in certificates of these roots too. SVIDs then need a root that is among them.
    ///
    /// # Errors
    /// [`IdentityError::Tls`] when there is no certificate in it.
    pub fn with_named(mut self, ca_pem: &str) -> Result<Self, IdentityError> {
        let named = WebPkiClientVerifier::builder_with_provider(roots(ca_pem)?, provider())
            .build()
            .map_err(|err| fail(format!("client verification: {err}")))?;
        self.named = Some(named);
        if let Some(bundle) = &mut self.bundle {
            let ders = certificates(ca_pem)?;
            bundle.roots.retain(|root| ders.iter().any(|der| der.as_ref() == root.as_slice()));
        }
        Ok(self)
    }

    /// Judges a chain, leaf first.
    ///
    /// # Errors
    /// [`Refused`] says why.
    pub fn admit(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Admitted, Refused> {
        let [leaf, intermediates @ ..] = chain else {
            return Err(Refused("there is no certificate".to_owned()));
        };
        let peer = PeerIdentity::from_der(leaf).map_err(|err| Refused(err.to_string()))?;
        match &self.named {
            Some(named) if !self.is_of_domain(&peer) => {
                self.admit_named(&**named, leaf, intermediates, peer, now)
            }
            _ => self.admit_svid(chain, now),
        }
    }

    fn is_of_domain(&self, peer: &PeerIdentity) -> bool {
        let id = peer.spiffe_id.as_deref().and_then(|id| SpiffeId::parse(id).ok());
        let bundle = self.bundle.as_ref();
        id.zip(bundle).is_some_and(|(id, bundle)| id.trust_domain() == bundle.trust_domain)
    }

    fn admit_svid(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Admitted, Refused> {
        let Some(bundle) = &self.bundle else {
            return Err(Refused("this node has no trust bundle".to_owned()));
        };
        let chain: Vec<Vec<u8>> = chain.iter().map(|der| der.to_vec()).collect();
        let svid = verify_x509_svid(&chain, bundle, now).map_err(|err| Refused(err.to_string()))?;
        let id = svid.id.as_str().to_owned();
        match &svid.issuer {
            SvidIssuer::Node(node) if *node == self.node => {}
            SvidIssuer::Node(node) => {
                return Err(Refused(format!("{id} was issued by node {node}, not by this one")));
            }
            SvidIssuer::Cloud if svid.id.path() == format!("/node/{}", self.node) => {}
            SvidIssuer::Cloud => return Err(Refused(format!("{id} is not of this node"))),
        }
        Ok(Admitted { common_name: String::new(), spiffe_id: Some(id), not_after: svid.not_after })
    }

    fn admit_named(
        &self,
        named: &dyn ClientCertVerifier,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        peer: PeerIdentity,
        now: SystemTime,
    ) -> Result<Admitted, Refused> {
        // The CA named may be the trust domain's root, under which every node's CA is.
        if intermediates.iter().any(|der| is_node_ca(der)) {
            return Err(Refused("a node's CA issues nothing but SVIDs".to_owned()));
        }
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        named
            .verify_client_cert(leaf, intermediates, UnixTime::since_unix_epoch(since))
            .map_err(|err| Refused(err.to_string()))?;
        let not_after = validity(leaf).map_err(|err| Refused(err.to_string()))?.not_after;
        Ok(Admitted { common_name: peer.common_name, spiffe_id: peer.spiffe_id, not_after })
    }

    /// A rustls server configuration with this door's rule, showing `pair`. Nothing is resumed: a
    /// certificate is judged at every handshake.
    ///
    /// # Errors
    /// [`IdentityError::Tls`] when the pair is none.
    pub fn tls(self: &Arc<Self>, pair: &KeyPair) -> Result<Arc<ServerConfig>, IdentityError> {
        server_with(Arc::clone(self) as Arc<dyn ClientCertVerifier>, pair)
    }
}

fn is_node_ca(der: &CertificateDer<'_>) -> bool {
    // What cannot be read is no link of a chain either.
    parse(der).is_ok_and(|cert| !matches!(node_of(&cert), Ok(None)))
}

impl ClientCertVerifier for EdgeDoor {
    fn client_auth_mandatory(&self) -> bool {
        self.auth == ClientAuth::Required
    }

    /// None: a client with one certificate shows it, and ours differ in intermediates only.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf)
            .chain(intermediates)
            .map(|der| CertificateDer::from(der.as_ref()))
            .collect();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        match self.admit(&chain, now) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(why) => Err(CertificateError::Other(OtherError(Arc::new(why))).into()),
        }
    }

    verify_signatures!();
}

#[cfg(test)]
mod tests;
