//! L2: who is who. CA, certificates, join tokens, service-account tokens, TLS configurations.
//!
//! Keys are ECDSA P-256 throughout (protocol section 5.1), written as SEC1 `EC PRIVATE KEY` because
//! Go KubeEdge reads nothing else. Every parser here takes bytes from outside: all are total.

pub mod audit;
mod authorities;
mod bundle;
mod ca;
mod ca_files;
mod client_verifier;
pub(crate) mod csr;
mod door;
mod factory;
mod files;
mod issuer;
mod issuing;
mod join_token;
#[cfg(test)]
pub mod joined;
pub(crate) mod jwk;
pub(crate) mod jwt;
mod jwt_svid;
pub(crate) mod key;
mod node;
mod node_peer;
mod node_request;
mod peer;
mod proof;
mod rotation;
pub mod seal;
pub(crate) mod service_account;
mod serving;
mod signer;
mod slow_clock;
mod spiffe;
mod svid;
#[cfg(test)]
pub(crate) mod test_authority;
#[cfg(test)]
mod test_chain;
#[cfg(test)]
mod test_handshake;
mod tls;
pub(crate) mod token_keys;
mod vault;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use bundle::TrustBundle;
pub use ca::{Ca, CaChanged, CaSettings};
pub use ca_files::authority_files;
pub use csr::new_node_csr;
pub use door::{Admitted, EdgeDoor, Refused};
pub use factory::FactoryRoots;
pub use files::{KEY_MODE, PUBLIC_MODE, write_atomic};
pub use issuer::{WorkloadIssuer, WorkloadSvid};
pub use join_token::{JoinClaims, JoinTokens, MintOptions, split_join_token};
pub use jwk::check_jwt_key;
pub use jwt_svid::{JwtSvid, verify_jwt_svid};
pub use key::{
    cert_der_from_pem, cert_ders_from_pem, cert_pem_from_der, chain_pem, key_pem_from_pkcs8, sha256_hex,
};
pub use node::NodeCredentials;
pub use node_peer::{CertFacts, NodePeer, cert_facts};
pub use node_request::{JWT_KEY_LIFE, NodeKeys, NodeRequest};
pub use peer::{PeerIdentity, Validity, split_certificates, validity};
pub use proof::{REENTRY_CONTEXT, X509POP_CONTEXT, prove, proven, verify_proof};
pub use rotation::{AuthorityStatus, Rotation, RotationError, RotationStatus, Step};
pub use seal::{SealError, SealInfo};
pub use service_account::{ServiceAccountClaims, ServiceAccountKeys};
pub use serving::CloudServerTls;
pub use signer::Signer;
pub use spiffe::SpiffeId;
pub use svid::{SvidError, SvidIssuer, VerifiedSvid, verify_x509_svid};
pub use tls::{ClientAuth, ReloadableServerTls, client_tls, client_tls_unverified, server_tls};
pub use vault::{VAULT_KEY_BYTES, Vault, VaultError};

use crate::model::unix_secs;

/// What went wrong, naming the file or field; never contains key material.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot {op} {}: {why}", path.display())]
    File { op: &'static str, path: PathBuf, why: String },
    #[error("certificate: {0}")]
    Certificate(String),
    #[error("certificate request: {0}")]
    Csr(String),
    #[error("tls: {0}")]
    Tls(String),
}

/// Why a token was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    #[error("the token's signature does not verify")]
    Forged,
    #[error("the token expired")]
    Expired,
    #[error("the token is bound to another CA")]
    OtherCa,
    #[error("the token is bound to another node")]
    OtherNode,
    #[error("the token is of another trust domain")]
    OtherTrustDomain,
    #[error("the token is for another audience")]
    OtherAudience,
    #[error("the token was signed with a key that is not published")]
    UnknownKey,
}

/// A certificate and its key, PEM (`EC PRIVATE KEY`, SEC1). `Debug` hides the key.
#[derive(Clone)]
pub struct KeyPair {
    pub cert_pem: String,
    pub key_pem: String,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// Tokens and certificates live days to years: more than this is a mistake, and keeps date
/// arithmetic far from its limits.
const MAX_TTL: Duration = Duration::from_secs(100 * 366 * 86_400);
