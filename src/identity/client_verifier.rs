//! Which client certificates a TLS server accepts.
//!
//! The CA of a node is below the same root as everything else, so a chain to the root alone says
//! little: a node could sign a leaf that names another node, or an administrator. A server
//! therefore accepts a leaf below the CA of a node only where it serves that node's workloads, and
//! then only as an SVID of one.

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::peer::parse;
use super::svid::{claims_spiffe, node_of, require_workload, svid_of};
use super::{ClientAuth, SvidError};
use crate::model::NodeName;

/// What is believed now; replaced as a whole.
#[derive(Debug)]
struct Rules {
    anchors: Arc<RootCertStore>,
    node: Option<NodeName>,
}

/// A verifier whose anchors can be replaced: handshakes that begin afterwards use the new ones.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    rules: RwLock<Arc<Rules>>,
    mandatory: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    pub fn new(anchors: Arc<RootCertStore>, auth: ClientAuth, provider: &CryptoProvider) -> Self {
        Self {
            rules: RwLock::new(Arc::new(Rules { anchors, node: None })),
            mandatory: auth == ClientAuth::Required,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    pub fn replace_anchors(&self, anchors: Arc<RootCertStore>) {
        let mut rules = self.rules.write();
        *rules = Arc::new(Rules { anchors, node: rules.node.clone() });
    }

    pub fn accept_workloads_of(&self, node: Option<NodeName>) {
        let mut rules = self.rules.write();
        *rules = Arc::new(Rules { anchors: Arc::clone(&rules.anchors), node });
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
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
        let rules = Arc::clone(&self.rules.read());
        let cert = EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let check = |path: &VerifiedPath<'_>| {
            check_path(path, end_entity, rules.node.as_ref()).map_err(|err| {
                tracing::info!(%err, "client certificate refused");
                webpki::Error::UnknownIssuer
            })
        };
        cert.verify_for_usage(
            self.algorithms.all,
            &rules.anchors.roots,
            intermediates,
            now,
            KeyUsage::client_auth(),
            None,
            Some(&check),
        )
        .map_err(refusal)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn check_path(
    path: &VerifiedPath<'_>,
    leaf: &CertificateDer<'_>,
    served: Option<&NodeName>,
) -> Result<(), SvidError> {
    let malformed = |err: super::IdentityError| SvidError::Malformed(err.to_string());
    let leaf = parse(leaf).map_err(malformed)?;
    let mut signer = None;
    for authority in path.intermediate_certificates() {
        let der = authority.der();
        if let Some(node) = node_of(&parse(&der).map_err(malformed)?)? {
            signer = Some(node);
        }
    }
    match signer {
        Some(node) if Some(&node) == served => require_workload(&svid_of(&leaf)?, &node),
        Some(node) => Err(SvidError::Authority(format!("the CA of node {node} is not believed here"))),
        None if claims_spiffe(&leaf) => svid_of(&leaf).map(drop),
        None => Ok(()),
    }
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
