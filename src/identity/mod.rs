//! L2: who is who. CA, certificates, join tokens, service-account tokens, TLS configurations.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::model::NodeName;

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
}

/// A certificate and its key, PEM (`EC PRIVATE KEY`, SEC1).
#[derive(Clone)]
pub struct KeyPair {
    pub cert_pem: String,
    pub key_pem: String,
}

/// The certificate authority of cloudcore: ECDSA P-256 (protocol section 5.1).
pub struct Ca {
    cert_der: Vec<u8>,
}

impl Ca {
    /// Loads both files; creates both if neither exists. One of the two missing is an error that
    /// names it: a CA is never replaced silently.
    pub fn load_or_create(cert_file: &Path, key_file: &Path) -> Result<Self, IdentityError> {
        let _ = key_file;
        Err(IdentityError::File { op: "read", path: cert_file.into(), why: "not built yet".into() })
    }

    #[must_use]
    pub fn cert_der(&self) -> &[u8] {
        &self.cert_der
    }

    #[must_use]
    pub fn cert_pem(&self) -> String {
        String::new()
    }

    /// Lower-case hex sha256 of the CA certificate's DER: the first part of a join token.
    #[must_use]
    pub fn hash_hex(&self) -> String {
        String::new()
    }

    /// Signs a node's CSR (DER). The CSR must ask for exactly `CN=system:node:{node}`,
    /// `O=system:nodes`; the certificate also carries `spiffe://{trust_domain}/node/{node}`.
    /// Returns DER.
    pub fn sign_node_csr(
        &self,
        csr_der: &[u8],
        node: &NodeName,
        trust_domain: &str,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Vec<u8>, IdentityError> {
        let _ = (csr_der, node, trust_domain, ttl, now);
        Err(IdentityError::Csr("not built yet".into()))
    }

    /// A server certificate for these IP addresses and DNS names.
    pub fn issue_server(&self, cn: &str, names: &[String], ttl: Duration) -> Result<KeyPair, IdentityError> {
        let _ = (cn, names, ttl);
        Err(IdentityError::Certificate("not built yet".into()))
    }

    /// A client certificate (admin: CN `kubernetes-admin`, O `system:masters`).
    pub fn issue_client(&self, cn: &str, orgs: &[&str], ttl: Duration) -> Result<KeyPair, IdentityError> {
        let _ = (cn, orgs, ttl);
        Err(IdentityError::Certificate("not built yet".into()))
    }
}

/// Who a verified certificate says its bearer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    pub common_name: String,
    pub organizations: Vec<String>,
    /// The URI SAN, if it is a SPIFFE ID.
    pub spiffe_id: Option<String>,
}

impl PeerIdentity {
    /// Reads the leaf of an already verified chain.
    pub fn from_der(cert_der: &[u8]) -> Result<Self, IdentityError> {
        let _ = cert_der;
        Err(IdentityError::Certificate("not built yet".into()))
    }

    /// The node this is, if it is one: CN `system:node:{name}`, O `system:nodes`, and, when there
    /// is a SPIFFE ID, the same name in it.
    #[must_use]
    pub fn node(&self) -> Option<NodeName> {
        None
    }
}

/// A fresh P-256 key and a CSR for `node` with the subject of protocol section 5.4.
/// Returns (CSR DER, key PEM).
pub fn new_node_csr(node: &NodeName) -> Result<(Vec<u8>, String), IdentityError> {
    let _ = node;
    Err(IdentityError::Csr("not built yet".into()))
}

/// Join tokens: `{ca hash}.{JWT HS256}` (protocol section 5.2) with `exp` and `jti`.
pub struct JoinTokens {
    key: Vec<u8>,
}

/// A join token that verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinClaims {
    /// Names the token in lists and revocations.
    pub id: String,
    /// Unix seconds.
    pub expires_at: u64,
}

impl JoinTokens {
    /// The HMAC key lives in its own 0600 file, 32 random bytes, created if missing.
    pub fn load_or_create(key_file: &Path) -> Result<Self, IdentityError> {
        Err(IdentityError::File { op: "read", path: key_file.into(), why: "not built yet".into() })
    }

    /// The whole token, four dot-separated parts.
    #[must_use]
    pub fn mint(&self, ca_hash_hex: &str, ttl: Duration, now: SystemTime) -> (String, JoinClaims) {
        let _ = (&self.key, ca_hash_hex, ttl, now);
        (String::new(), JoinClaims { id: String::new(), expires_at: 0 })
    }

    /// Verifies the JWT part (parts 2 to 4), as the edge sends it after `Bearer `.
    pub fn verify(&self, jwt: &str, now: SystemTime) -> Result<JoinClaims, TokenError> {
        let _ = (jwt, now);
        Err(TokenError::Forged)
    }
}

/// Splits a join token into the CA hash and the JWT.
pub fn split_join_token(token: &str) -> Result<(String, String), TokenError> {
    let _ = token;
    Err(TokenError::Malformed("not built yet"))
}

/// Signs and verifies service-account tokens (ES256 JWT, claims as Kubernetes writes them).
pub struct ServiceAccountKeys {
    _private: (),
}

/// What a service-account token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccountClaims {
    pub namespace: String,
    pub service_account: String,
    pub service_account_uid: String,
    /// Pod name and uid when the token is bound to one.
    pub pod: Option<(String, String)>,
    pub audiences: Vec<String>,
    /// Unix seconds.
    pub issued_at: u64,
    pub expires_at: u64,
}

impl ServiceAccountKeys {
    pub fn load_or_create(key_file: &Path) -> Result<Self, IdentityError> {
        Err(IdentityError::File { op: "read", path: key_file.into(), why: "not built yet".into() })
    }

    /// The compact JWT.
    pub fn sign(&self, claims: &ServiceAccountClaims) -> Result<String, IdentityError> {
        let _ = claims;
        Err(IdentityError::Certificate("not built yet".into()))
    }

    pub fn verify(&self, jwt: &str, now: SystemTime) -> Result<ServiceAccountClaims, TokenError> {
        let _ = (jwt, now);
        Err(TokenError::Forged)
    }
}

/// Whether a TLS server wants client certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// Refuse the handshake without a certificate of this CA.
    Required,
    /// Verify one if it comes.
    Optional,
}

/// A rustls server configuration, TLS 1.2 and 1.3, ring.
pub fn server_tls(
    pair: &KeyPair,
    client_ca_pem: &str,
    auth: ClientAuth,
) -> Result<Arc<rustls::ServerConfig>, IdentityError> {
    let _ = (pair, client_ca_pem, auth);
    Err(IdentityError::Tls("not built yet".into()))
}

/// A rustls client configuration that trusts only `ca_pem`, presenting `pair` if given.
pub fn client_tls(ca_pem: &str, pair: Option<&KeyPair>) -> Result<Arc<rustls::ClientConfig>, IdentityError> {
    let _ = (ca_pem, pair);
    Err(IdentityError::Tls("not built yet".into()))
}

/// Writes a file so that a crash leaves the old or the new one, with these permissions
/// (0o600 for keys), creating its folder.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<(), IdentityError> {
    let _ = (content, mode);
    Err(IdentityError::File { op: "write", path: path.into(), why: "not built yet".into() })
}
