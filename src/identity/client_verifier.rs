//! Which client certificates a TLS server accepts.
//!
//! The CA of a node is below the same root as everything else, so a chain to the root alone says
//! little: a node could sign a leaf that names another node, or an administrator. A leaf below the CA
//! of a node is therefore refused here, whatever it says; the doors of that node, which serve its
//! workloads, have a verifier of their own ([`super::EdgeDoor`]).

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName, OtherError, RootCertStore};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::peer::parse;
use super::slow_clock::once_begun;
use super::svid::{claims_spiffe, node_of, svid_of};
use super::tls::verify_signatures;
use super::{ClientAuth, SvidError};

/// A verifier whose anchors can be replaced: handshakes that begin afterwards use the new ones.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    anchors: RwLock<Arc<RootCertStore>>,
    mandatory: bool,
    offered: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    pub fn new(anchors: Arc<RootCertStore>, auth: ClientAuth, provider: &CryptoProvider) -> Self {
        Self {
            anchors: RwLock::new(anchors),
            mandatory: auth == ClientAuth::Required,
            offered: auth != ClientAuth::None,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    pub fn replace_anchors(&self, anchors: Arc<RootCertStore>) {
        *self.anchors.write() = anchors;
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn offer_client_auth(&self) -> bool {
        self.offered
    }

    /// None: a Go client presents nothing unless one of the names signed its leaf itself, and
    /// issuing CAs come and go.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let anchors = Arc::clone(&self.anchors.read());
        let cert = EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let check = |path: &VerifiedPath<'_>| {
            check_path(path, end_entity).map_err(|err| {
                tracing::info!(%err, "client certificate refused");
                webpki::Error::UnknownIssuer
            })
        };
        cert.verify_for_usage(
            self.algorithms.all,
            &anchors.roots,
            intermediates,
            once_begun(now, end_entity),
            KeyUsage::client_auth(),
            None,
            Some(&check),
        )
        .map_err(refusal)?;
        Ok(ClientCertVerified::assertion())
    }

    verify_signatures!();
}

fn check_path(path: &VerifiedPath<'_>, leaf: &CertificateDer<'_>) -> Result<(), SvidError> {
    let malformed = |err: super::IdentityError| SvidError::Malformed(err.to_string());
    for authority in path.intermediate_certificates() {
        let der = authority.der();
        if let Some(node) = node_of(&parse(&der).map_err(malformed)?)? {
            return Err(SvidError::Authority(format!("the CA of node {node} is not believed here")));
        }
    }
    let leaf = parse(leaf).map_err(malformed)?;
    if claims_spiffe(&leaf) { svid_of(&leaf).map(drop) } else { Ok(()) }
}

fn refusal(err: webpki::Error) -> rustls::Error {
    let why = match err {
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    rustls::Error::InvalidCertificate(why)
}
