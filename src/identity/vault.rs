//! Secrets at rest: AES-256-GCM with a versioned head.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use super::{IdentityError, KEY_MODE, files};

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
    /// # Errors
    /// [`VaultError::Unreadable`], never in practice: only a key of another length is none.
    pub fn open(key: [u8; VAULT_KEY_BYTES]) -> Result<Self, VaultError> {
        let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| VaultError::Unreadable)?;
        Ok(Self { key: LessSafeKey::new(key) })
    }

    /// The key in a file of 32 random bytes, which is created 0600 when it is missing and closed to
    /// others when it is open to them.
    ///
    /// # Errors
    /// [`IdentityError::File`] naming the file.
    pub fn key_file(path: &Path) -> Result<[u8; VAULT_KEY_BYTES], IdentityError> {
        let fail = |op, why: String| IdentityError::File { op, path: path.into(), why };
        let Some(bytes) = files::read_small(path)? else {
            let key = Self::new_key().map_err(|err| fail("create", err.to_string()))?;
            files::write_atomic(path, &key, KEY_MODE)?;
            tracing::info!(path = %path.display(), "created a new key for secrets at rest");
            return Ok(key);
        };
        let key = bytes.as_slice().try_into().map_err(|_| {
            let why = "a key for secrets at rest has 32 bytes; move it away to start with a new one (the \
                       secrets stored here are then fetched from the cloud again)";
            fail("use", why.into())
        })?;
        let mode = std::fs::metadata(path).map_err(|err| fail("read", err.to_string()))?.permissions().mode();
        if mode & 0o077 != 0 {
            let closed = std::fs::Permissions::from_mode(KEY_MODE);
            std::fs::set_permissions(path, closed).map_err(|err| fail("close", err.to_string()))?;
            tracing::warn!(path = %path.display(), mode = format!("{:o}", mode & 0o777), "a key was open to others");
        }
        Ok(key)
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

    #[test]
    fn a_key_file_is_made_once_and_closed_to_others() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("store.key");
        let mode = || std::fs::metadata(&path).expect("file").permissions().mode() & 0o777;
        let key = Vault::key_file(&path).expect("created");
        assert_eq!((mode(), std::fs::read(&path).expect("read").as_slice()), (0o600, key.as_slice()));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("open up");
        assert_eq!(Vault::key_file(&path).expect("read"), key);
        assert_eq!(mode(), 0o600);
        std::fs::write(&path, "short").expect("write");
        let err = Vault::key_file(&path).expect_err("refused").to_string();
        assert!(err.contains("store.key: a key for secrets at rest has 32 bytes"), "{err}");
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
