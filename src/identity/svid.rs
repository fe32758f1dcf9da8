//! X.509-SVIDs: what makes a certificate one, who signed it, and what that signer may say
//! (protocol section 18).
//!
//! webpki builds the path and checks signatures, lives, lengths and DNS constraints; the rules that
//! SPIFFE adds, and ours about who signs which paths, are checked here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, VerifiedPath};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};

use super::issuing::NODE_CA_ORGANIZATION;
use super::key::hex;
use super::peer::{PeerIdentity, common_name, parse, validity};
use super::{SpiffeId, TrustBundle};
use crate::model::NodeName;

/// Longest chain looked at: leaf, node CA, issuing CA, cross certificate, and one to spare.
const MAX_CHAIN: usize = 5;
/// Largest certificate looked at, in bytes. Ours have under one thousand.
const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;

/// A certificate chain that proves an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedSvid {
    pub id: SpiffeId,
    pub issuer: SvidIssuer,
    /// Of the leaf, lower-case hex.
    pub serial_hex: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// The leaf's subject.
    pub peer: PeerIdentity,
}

/// Who signed a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SvidIssuer {
    /// cloudcore: a root or an issuing CA.
    Cloud,
    /// The intermediate CA of this node.
    Node(NodeName),
}

/// Why a chain proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    #[error("the chain has {0} certificates, want 1 to {MAX_CHAIN}")]
    Depth(usize),
    #[error("certificate: {0}")]
    Malformed(String),
    #[error("the leaf is no X.509-SVID: {0}")]
    NotSvid(String),
    #[error("the identity is of trust domain {found:?}, not {want:?}")]
    TrustDomain { want: String, found: String },
    #[error("a certificate of the chain expired")]
    Expired,
    #[error("a certificate of the chain is not valid yet")]
    NotYetValid,
    #[error("no trusted root leads to the leaf: {0}")]
    Untrusted(String),
    #[error("a certificate between leaf and root is no authority of this trust domain: {0}")]
    Authority(String),
    #[error("{id} cannot be signed by the CA of node {node}")]
    Path { id: String, node: NodeName },
}

impl SvidError {
    /// A word for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Depth(_) => "depth",
            Self::Malformed(_) => "malformed",
            Self::NotSvid(_) => "not_svid",
            Self::TrustDomain { .. } => "trust_domain",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Untrusted(_) => "untrusted",
            Self::Authority(_) => "authority",
            Self::Path { .. } => "path",
        }
    }
}

/// Verifies a chain, leaf first, without the root, against the bundle of this trust domain.
///
/// # Errors
/// [`SvidError`]: the first rule that is broken.
pub fn verify_x509_svid(
    chain: &[Vec<u8>],
    bundle: &TrustBundle,
    now: SystemTime,
) -> Result<VerifiedSvid, SvidError> {
    if chain.is_empty() || chain.len() > MAX_CHAIN {
        return Err(SvidError::Depth(chain.len()));
    }
    if chain.iter().any(|der| der.len() > MAX_CERTIFICATE_BYTES) {
        return Err(SvidError::Malformed("it is larger than 16 KiB".into()));
    }
    let Some((leaf, intermediates)) = chain.split_first() else { return Err(SvidError::Depth(0)) };
    let parsed = parse(leaf).map_err(|err| SvidError::Malformed(err.to_string()))?;
    let id = svid_of(&parsed)?;
    if id.trust_domain() != bundle.trust_domain {
        return Err(SvidError::TrustDomain {
            want: bundle.trust_domain.clone(),
            found: id.trust_domain().to_owned(),
        });
    }
    let peer = PeerIdentity::from_der(leaf).map_err(|err| SvidError::NotSvid(err.to_string()))?;
    let valid = validity(leaf).map_err(|err| SvidError::Malformed(err.to_string()))?;

    let leaf = CertificateDer::from(leaf.as_slice());
    let end_entity = EndEntityCert::try_from(&leaf).map_err(|err| SvidError::Malformed(err.to_string()))?;
    let roots: Vec<_> = bundle.roots.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let anchors: Vec<TrustAnchor<'_>> =
        roots.iter().filter_map(|der| webpki::anchor_from_trusted_cert(der).ok()).collect();
    let intermediates: Vec<_> =
        intermediates.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let path = end_entity
        .verify_for_usage(
            &[webpki::ring::ECDSA_P256_SHA256],
            &anchors,
            &intermediates,
            UnixTime::since_unix_epoch(since_epoch),
            AnyUsage,
            None,
            None,
        )
        .map_err(|err| match err {
            webpki::Error::CertExpired { .. } => SvidError::Expired,
            webpki::Error::CertNotValidYet { .. } => SvidError::NotYetValid,
            other => SvidError::Untrusted(other.to_string()),
        })?;
    let issuer = issuer_of(&path, &bundle.trust_domain)?;
    if let SvidIssuer::Node(node) = &issuer {
        require_workload(&id, node)?;
    }
    Ok(VerifiedSvid {
        id,
        issuer,
        serial_hex: hex(parsed.raw_serial()),
        not_before: valid.not_before,
        not_after: valid.not_after,
        peer,
    })
}

/// The SPIFFE ID of a leaf that keeps all rules of X.509-SVIDs; its signer is another question.
pub(super) fn svid_of(cert: &X509Certificate<'_>) -> Result<SpiffeId, SvidError> {
    let wrong = |why: &str| SvidError::NotSvid(why.to_owned());
    let uris = uri_names(cert)?;
    let [uri] = uris.as_slice() else {
        return Err(SvidError::NotSvid(format!("it has {} URI names, want one", uris.len())));
    };
    let id = SpiffeId::parse(uri).map_err(wrong)?;
    if id.path().is_empty() {
        return Err(wrong("its SPIFFE ID has no path"));
    }
    let constraints = cert.basic_constraints().map_err(|_| wrong("its basic constraints do not parse"))?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(wrong("it is a CA's"));
    }
    let usage = cert.key_usage().map_err(|_| wrong("its key usage does not parse"))?;
    let usage = usage.ok_or_else(|| wrong("it has no key usage"))?.value;
    if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
        return Err(wrong("its key usage is not digitalSignature without keyCertSign and cRLSign"));
    }
    let purposes = cert.extended_key_usage().map_err(|_| wrong("its extended key usage does not parse"))?;
    if purposes.is_some_and(|purposes| !purposes.value.server_auth || !purposes.value.client_auth) {
        return Err(wrong("its extended key usage lacks serverAuth or clientAuth"));
    }
    let key = cert.public_key();
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(OID_EC_P256) {
        return Err(wrong("its key is not ECDSA P-256"));
    }
    Ok(id)
}

fn uri_names<'a>(cert: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, SvidError> {
    let names = cert
        .subject_alternative_name()
        .map_err(|_| SvidError::NotSvid("its subjectAltName does not parse".into()))?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    Ok(names
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect())
}

/// Does a leaf claim a SPIFFE ID, well or badly?
pub(super) fn claims_spiffe(cert: &X509Certificate<'_>) -> bool {
    // Names that do not parse claim everything.
    uri_names(cert).map_or(true, |uris| uris.iter().any(|uri| uri.starts_with("spiffe:")))
}

/// Who signed the leaf of a verified path. Every authority on the way must be one of ours.
fn issuer_of(path: &VerifiedPath<'_>, trust_domain: &str) -> Result<SvidIssuer, SvidError> {
    let mut issuer = SvidIssuer::Cloud;
    for (i, authority) in path.intermediate_certificates().enumerate() {
        let der = authority.der();
        let cert = parse(&der).map_err(|err| SvidError::Malformed(err.to_string()))?;
        match (node_of(&cert)?, i) {
            (Some(node), 0) => issuer = SvidIssuer::Node(node),
            (Some(node), _) => {
                return Err(SvidError::Authority(format!("the CA of node {node} signed another CA")));
            }
            (None, _) => {}
        }
        require_authority(&cert, trust_domain)?;
    }
    Ok(issuer)
}

/// The node, when this is the CA of one.
pub(super) fn node_of(cert: &X509Certificate<'_>) -> Result<Option<NodeName>, SvidError> {
    let wrong = |why: &str| SvidError::Authority(why.to_owned());
    // One that is no text is not ours: users bring CAs of their own.
    let organizations: Vec<_> =
        cert.subject().iter_organization().filter_map(|organization| organization.as_str().ok()).collect();
    if !organizations.contains(&NODE_CA_ORGANIZATION) {
        return Ok(None);
    }
    let name = common_name(cert.subject()).map_err(wrong)?;
    match NodeName::parse(&name) {
        Ok(node) if organizations.len() == 1 => Ok(Some(node)),
        _ => Err(wrong("the CA of a node has another subject")),
    }
}

/// `CA:TRUE`, keyCertSign, and the ID of the trust domain; a cross certificate has no ID.
fn require_authority(cert: &X509Certificate<'_>, trust_domain: &str) -> Result<(), SvidError> {
    let wrong = |why: &str| SvidError::Authority(why.to_owned());
    let usage = cert.key_usage().ok().flatten();
    if !cert.is_ca() || !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
        return Err(wrong("it may not sign certificates"));
    }
    match uri_names(cert)?.as_slice() {
        [] => Ok(()),
        [uri] if uri.strip_prefix("spiffe://") == Some(trust_domain) => Ok(()),
        _ => Err(wrong("its URI name is not the ID of the trust domain")),
    }
}

/// A node signs for its workloads and devices, never for itself, others or the cloud.
fn require_workload(id: &SpiffeId, node: &NodeName) -> Result<(), SvidError> {
    let path = id.path();
    if path.starts_with("/ns/") || path.starts_with("/device/") {
        return Ok(());
    }
    Err(SvidError::Path { id: id.to_string(), node: node.clone() })
}

/// Extended key usages were checked before, on the leaf; authorities have none.
struct AnyUsage;

impl ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
