//! Where the private keys of authorities are, and signing with them.
//!
//! A key is always reached through a small file beside its certificate. With keys in files it holds
//! the key itself; with a token it holds the key's name there. So creating, moving and removing
//! authorities is the same for both.

use std::fmt;
use std::sync::Arc;

use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};

use super::IdentityError;
use super::key::{EcKey, spki_of};
use super::token_keys::KeysInToken;
use crate::config::KeysConfig;

/// Signs with one ECDSA P-256 key, wherever that is.
pub trait Signer: Send + Sync {
    /// The public key as an uncompressed point: 0x04, x, y.
    fn public_point(&self) -> [u8; 65];

    /// ECDSA with SHA-256 over `message`, ASN.1.
    ///
    /// # Errors
    /// A clause that says what failed; never key material.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String>;
}

/// Makes keys and finds them again.
pub(super) trait KeyStore: Send + Sync {
    /// A fresh key, and what the file that leads to it holds.
    fn create(&self) -> Result<(AuthorityKey, Vec<u8>), String>;

    /// The key that such a file leads to.
    fn find(&self, content: &[u8]) -> Result<AuthorityKey, String>;

    /// Forgets the key behind a file that is about to go.
    fn discard(&self, content: &[u8]) -> Result<(), String>;
}

/// The store that `identity.keys` asks for.
pub(super) fn key_store(config: &KeysConfig) -> Result<Arc<dyn KeyStore>, IdentityError> {
    if config.pkcs11_module.as_os_str().is_empty() {
        return Ok(Arc::new(KeysInFiles));
    }
    Ok(Arc::new(KeysInToken::open(config)?))
}

/// A key that signs certificates.
#[derive(Clone)]
pub(super) struct AuthorityKey {
    point: [u8; 65],
    signer: Arc<dyn Signer>,
}

impl AuthorityKey {
    pub fn new(signer: Arc<dyn Signer>) -> Self {
        Self { point: signer.public_point(), signer }
    }

    /// `SubjectPublicKeyInfo`, DER.
    pub fn spki(&self) -> Vec<u8> {
        spki_of(&self.point)
    }
}

impl fmt::Debug for AuthorityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthorityKey(..)")
    }
}

impl PublicKeyData for AuthorityKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for AuthorityKey {
    fn sign(&self, msg: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signer.sign(msg).map_err(|why| {
            tracing::error!(why, "an authority's key does not sign");
            rcgen::Error::RemoteKeyError
        })
    }
}

/// Keys in files of their own, 0600, SEC1 PEM.
pub(super) struct KeysInFiles;

impl KeyStore for KeysInFiles {
    fn create(&self) -> Result<(AuthorityKey, Vec<u8>), String> {
        let key = EcKey::generate()?;
        let content = key.to_pem().into_bytes();
        Ok((AuthorityKey::new(Arc::new(SoftKey::new(&key)?)), content))
    }

    fn find(&self, content: &[u8]) -> Result<AuthorityKey, String> {
        if content.starts_with(b"pkcs11:") {
            return Err("the key is in a PKCS#11 token: set identity.keys".to_owned());
        }
        Ok(AuthorityKey::new(Arc::new(SoftKey::new(&EcKey::from_pem(content)?)?)))
    }

    fn discard(&self, _content: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// A key in memory.
pub struct SoftKey {
    point: [u8; 65],
    pair: rcgen::KeyPair,
}

impl SoftKey {
    pub(super) fn new(key: &EcKey) -> Result<Self, String> {
        Ok(Self { point: *key.public_point(), pair: key.for_rcgen()? })
    }
}

impl Signer for SoftKey {
    fn public_point(&self) -> [u8; 65] {
        self.point
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        rcgen::SigningKey::sign(&self.pair, message).map_err(|_| "the key could not sign".to_owned())
    }
}
