//! The trust bundle: the roots and JWT keys of a trust domain, in the forms others read.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::key::{cert_ders_from_pem, chain_pem};
use super::peer::parse;
use super::{IdentityError, SpiffeId};
use crate::model::identity::BundleDocument;

/// Roots or keys in a bundle: more is no bundle of ours.
const MAX_ENTRIES: usize = 4_096;

/// Whom a trust domain's members believe.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustBundle {
    pub trust_domain: String,
    /// Root certificates, DER, the one in use first.
    pub roots: Vec<Vec<u8>>,
    /// Public keys (JWK with `kid`) that sign JWT-SVIDs.
    pub jwt_keys: Vec<Value>,
}

impl TrustBundle {
    /// # Errors
    /// [`IdentityError::Certificate`] naming the entry that is no root.
    pub fn from_document(document: &BundleDocument) -> Result<Self, IdentityError> {
        if document.roots.len() > MAX_ENTRIES || document.jwt_keys.len() > MAX_ENTRIES {
            return Err(fail("more than 4096 entries".into()));
        }
        let mut roots = Vec::with_capacity(document.roots.len());
        for (i, text) in document.roots.iter().enumerate() {
            roots.push(STANDARD.decode(text).map_err(|_| fail(format!("roots[{i}] is not base64")))?);
        }
        Self { trust_domain: document.trust_domain.clone(), roots, jwt_keys: document.jwt_keys.clone() }
            .checked()
    }

    #[must_use]
    pub fn to_document(&self) -> BundleDocument {
        BundleDocument {
            trust_domain: self.trust_domain.clone(),
            roots: self.roots.iter().map(|der| STANDARD.encode(der)).collect(),
            jwt_keys: self.jwt_keys.clone(),
        }
    }

    /// # Errors
    /// [`IdentityError::Certificate`] when there is no certificate in it, or one that is no CA's.
    pub fn from_pem(trust_domain: &str, pem: &str) -> Result<Self, IdentityError> {
        let roots = cert_ders_from_pem(pem);
        Self { trust_domain: trust_domain.to_owned(), roots, jwt_keys: Vec::new() }.checked()
    }

    fn checked(self) -> Result<Self, IdentityError> {
        match SpiffeId::parse(&format!("spiffe://{}", self.trust_domain)) {
            Ok(id) if id.path().is_empty() => {}
            _ => return Err(fail(format!("trust domain {:?}", self.trust_domain))),
        }
        if self.roots.is_empty() {
            return Err(fail("it has no root".into()));
        }
        for (i, der) in self.roots.iter().enumerate() {
            let is_ca = parse(der).map_err(|err| fail(format!("roots[{i}]: {err}")))?.is_ca();
            if !is_ca {
                return Err(fail(format!("roots[{i}] is not the certificate of a CA")));
            }
        }
        Ok(self)
    }

    /// The roots, PEM.
    #[must_use]
    pub fn roots_pem(&self) -> String {
        chain_pem(&self.roots)
    }

    /// The keys of JWT-SVIDs as a JWK set.
    #[must_use]
    pub fn jwk_set(&self) -> Value {
        json!({"keys": self.jwt_keys})
    }

    /// As a SPIFFE bundle (SPIFFE Trust Domain and Bundle, section 4): a JWK set whose keys say what
    /// they are for.
    #[must_use]
    pub fn spiffe_bundle(&self) -> Value {
        let roots = self.roots.iter().filter_map(|der| root_jwk(der));
        let keys = self.jwt_keys.iter().cloned().map(|mut key| {
            if let Some(key) = key.as_object_mut() {
                key.insert("use".into(), "jwt-svid".into());
            }
            key
        });
        json!({"keys": roots.chain(keys).collect::<Vec<_>>()})
    }
}

fn root_jwk(der: &[u8]) -> Option<Value> {
    let cert = parse(der).ok()?;
    let (tag, point) = cert.public_key().subject_public_key.data.split_first()?;
    let (x, y) = point.split_at_checked(32)?;
    if *tag != 4 || y.len() != 32 {
        return None;
    }
    Some(json!({
        "use": "x509-svid", "kty": "EC", "crv": "P-256",
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        "x5c": [STANDARD.encode(der)],
    }))
}

fn fail(why: String) -> IdentityError {
    IdentityError::Certificate(format!("trust bundle: {why}"))
}
