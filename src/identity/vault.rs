//! Secrets at rest: AES-256-GCM with a versioned head.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

/// Begins everything encrypted here; no JSON and no text begins with it.
const HEAD: &[u8; 5] = b"\xffKEV\x01";
/// Bytes of a key.
pub const VAULT_KEY_BYTES: usize = 32;

/// Why something could not be encrypted or decrypted. Never says what was in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    #[error("it was not encrypted here")]
    NotEncrypted,
    #[error("it was encrypted with another key or for another place, or was changed")]
    Unreadable,
    #[error("the system gave no random bytes")]
    NoRandomness,
}

/// Encrypts and decrypts with one key. Nonces are random: one key is good for some 2^32 values,
/// which is more than an edge writes in its life.
pub struct Vault {
    key: LessSafeKey,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(..)")
    }
}

impl Vault {
    #[must_use]
    pub fn open(key: [u8; VAULT_KEY_BYTES]) -> Option<Self> {
        // Fails only for a key of another length.
        UnboundKey::new(&AES_256_GCM, &key).ok().map(|key| Self { key: LessSafeKey::new(key) })
    }

    /// A fresh random key.
    ///
    /// # Errors
    /// [`VaultError::NoRandomness`].
    pub fn new_key() -> Result<[u8; VAULT_KEY_BYTES], VaultError> {
        let mut key = [0; VAULT_KEY_BYTES];
        SystemRandom::new().fill(&mut key).map_err(|_| VaultError::NoRandomness)?;
        Ok(key)
    }

    /// Was this made by [`Vault::encrypt`], with whatever key?
    #[must_use]
    pub fn is_encrypted(bytes: &[u8]) -> bool {
        bytes.starts_with(HEAD)
    }

    /// `place` is bound to the result and must be given again: a value moved elsewhere does not
    /// decrypt.
    ///
    /// # Errors
    /// [`VaultError::NoRandomness`].
    pub fn encrypt(&self, plain: &[u8], place: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| VaultError::NoRandomness)?;
        let mut sealed = plain.to_vec();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut sealed)
            .map_err(|_| VaultError::Unreadable)?;
        Ok([HEAD.as_slice(), nonce.as_slice(), sealed.as_slice()].concat())
    }

    /// # Errors
    /// [`VaultError::NotEncrypted`] for what has not the head, [`VaultError::Unreadable`] for the rest.
    pub fn decrypt(&self, bytes: &[u8], place: &[u8]) -> Result<Vec<u8>, VaultError> {
        let rest = bytes.strip_prefix(HEAD.as_slice()).ok_or(VaultError::NotEncrypted)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(VaultError::Unreadable)?;
        let mut sealed = sealed.to_vec();
        let plain = self
            .key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(place), &mut sealed)
            .map_err(|_| VaultError::Unreadable)?;
        Ok(plain.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vault(byte: u8) -> Vault {
        Vault::open([byte; VAULT_KEY_BYTES]).expect("vault")
    }

    #[test]
    fn refusals() {
        let sealed = vault(1).encrypt(b"password", b"secret/a").expect("encrypt");
        let mut changed = sealed.clone();
        *changed.last_mut().expect("bytes") ^= 1;
        let mut other_version = sealed.clone();
        other_version[4] = 2;
        for (case, vault, bytes, place, want) in [
            ("another key", vault(2), sealed.clone(), b"secret/a", VaultError::Unreadable),
            ("moved", vault(1), sealed.clone(), b"secret/b", VaultError::Unreadable),
            ("changed", vault(1), changed, b"secret/a", VaultError::Unreadable),
            ("cut", vault(1), sealed[..10].to_vec(), b"secret/a", VaultError::Unreadable),
            ("another version", vault(1), other_version, b"secret/a", VaultError::NotEncrypted),
            ("plain", vault(1), b"{}".to_vec(), b"secret/a", VaultError::NotEncrypted),
            ("empty", vault(1), Vec::new(), b"secret/a", VaultError::NotEncrypted),
        ] {
            assert_eq!(vault.decrypt(&bytes, place), Err(want), "{case}");
        }
    }

    proptest! {
        #[test]
        fn round_trip_and_nothing_shows(plain in proptest::collection::vec(any::<u8>(), 8..200)) {
            let sealed = vault(7).encrypt(&plain, b"here").expect("encrypt");
            prop_assert!(Vault::is_encrypted(&sealed));
            prop_assert!(!sealed.windows(plain.len()).any(|part| part == plain));
            prop_assert_ne!(&sealed, &vault(7).encrypt(&plain, b"here").expect("encrypt"));
            prop_assert_eq!(vault(7).decrypt(&sealed, b"here"), Ok(plain));
        }

        #[test]
        fn any_bytes_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..64), head: bool) {
            let bytes = if head { [HEAD.as_slice(), &tail].concat() } else { tail };
            prop_assert!(vault(7).decrypt(&bytes, b"here").is_err());
        }
    }
}
